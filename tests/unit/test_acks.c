/* What is acknowledged of packs, against an array. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/acks.h"
#include "store/pack.h"

#include <string.h>

enum { PACKS = 3000 };

static void packs_come_and_go_and_their_events_are_known(void **state)
{
    (void)state;
    static bool there[PACKS + 1][PACK_EVENTS_MAX];
    static bool known[PACKS + 1];
    struct acks acks = {0};
    uint64_t random = 1;
    size_t count = 0;
    assert_false(acks_has(&acks, pack_event_seq(1, 1, 0)));
    for (int step = 0; step < 40000; step++) {
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407U;
        int64_t pack = (int64_t)(random >> 33) % PACKS + 1;
        size_t index = (size_t)(random >> 20) % PACK_EVENTS_MAX;
        if (step % 3) {
            uint64_t bits[4] = {0};
            bits[index / 64] = UINT64_C(1) << index % 64;
            assert_true(acks_reserve(&acks, 1));
            acks_note(&acks, pack, bits);
            count += !known[pack];
            known[pack] = there[pack][index] = true;
        } else {
            acks_remove(&acks, pack);
            count -= known[pack];
            known[pack] = false;
            memset(there[pack], 0, sizeof(there[pack]));
        }
        assert_int_equal(acks.packs.count, count);
    }
    for (int64_t pack = 1; pack <= PACKS; pack++) {
        assert_int_equal(acks_find(&acks, pack) != NULL, known[pack]);
        for (size_t index = 0; index < PACK_EVENTS_MAX; index++)
            assert_int_equal(acks_has(&acks, pack_event_seq(pack, PACK_EVENTS_MAX, index)),
                             there[pack][index]);
    }
    acks_free(&acks);
}

static void past_the_bound_the_oldest_is_forgotten(void **state)
{
    (void)state;
    struct acks acks = {0};
    assert_true(acks_reserve(&acks, ACKS_PACKS_MAX + 1));
    for (int64_t pack = 1; pack <= ACKS_PACKS_MAX + 1; pack++)
        acks_note(&acks, pack, (uint64_t[4]){1, 0, 0, 0});
    assert_int_equal(acks.packs.count, ACKS_PACKS_MAX);
    assert_null(acks_find(&acks, 1));
    assert_non_null(acks_find(&acks, 2));
    assert_non_null(acks_find(&acks, ACKS_PACKS_MAX + 1));
    acks_free(&acks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packs_come_and_go_and_their_events_are_known),
        cmocka_unit_test(past_the_bound_the_oldest_is_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
