/* The rows of the outbox that are under way, against an array. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "flow/sent.h"

static void one_that_is_empty_has_nothing(void **state)
{
    (void)state;
    struct sent sent = {0};
    bool parts[2] = {false, false};
    assert_false(sent_has(&sent, 1));
    sent_remove(&sent, 1);
    sent_clear(&sent);
    sent_parts(&sent, parts, 2);
    assert_false(parts[0] || parts[1]);
    sent_free(&sent);
}

static void what_is_removed_hides_nothing_behind_it(void **state)
{
    (void)state;
    enum { SEQS = 5000, STEPS = 200000 };
    static bool there[SEQS];
    struct sent sent = {0};
    uint64_t chance = 1;
    size_t count = 0;
    for (int i = 0; i < STEPS; i++) {
        chance = chance * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        int64_t seq = 1 + (int64_t)((chance >> 33) % (SEQS - 1));
        bool add = (chance >> 60) & 1;
        if (add)
            assert_true(sent_add(&sent, seq, (int32_t)(seq % 7)));
        else
            sent_remove(&sent, seq);
        count += (size_t)(add && !there[seq]) - (size_t)(!add && there[seq]);
        there[seq] = add;
        assert_int_equal(sent_count(&sent), count);
        if (i % 5000)
            continue;
        for (int64_t each = 1; each < SEQS; each++)
            assert_int_equal(sent_has(&sent, each), there[each]);
    }
    sent_clear(&sent);
    assert_int_equal(sent_count(&sent), 0);
    assert_false(sent_has(&sent, 1));
    sent_free(&sent);
}

static void parts_of_what_is_there_are_told(void **state)
{
    (void)state;
    struct sent sent = {0};
    bool parts[4] = {false};
    assert_true(sent_add(&sent, 10, 1));
    assert_true(sent_add(&sent, 11, 3));
    assert_true(sent_add(&sent, 12, 9)); /* of a topic that had more */
    sent_remove(&sent, 11);
    sent_parts(&sent, parts, 4);
    assert_true(parts[1]);
    assert_false(parts[0] || parts[2] || parts[3]);
    sent_free(&sent);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_that_is_empty_has_nothing),
        cmocka_unit_test(what_is_removed_hides_nothing_behind_it),
        cmocka_unit_test(parts_of_what_is_there_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
