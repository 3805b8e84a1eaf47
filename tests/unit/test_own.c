/* What a process wrote itself is known again by its bytes, and forgotten rather than taken for something
 * else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "flow/own.h"

#include <stdio.h>

static const struct id one = {{1}}, two = {{2}};

static void assert_known(const struct own *own, struct text value, struct id id)
{
    struct id found;
    assert_true(own_find(own, value, &found));
    assert_true(id_equal(found, id));
}

static void assert_unknown(const struct own *own, struct text value)
{
    struct id found;
    assert_false(own_find(own, value, &found));
}

static void nothing_is_known_before_anything_was_added(void **state)
{
    (void)state;
    struct own own = {0};
    assert_unknown(&own, TEXT("an event"));
    own_free(&own);
}

static void what_was_added_is_known_with_its_id_and_its_like_is_not(void **state)
{
    (void)state;
    struct own own = {0};
    own_add(&own, own_hash(TEXT("an event")), one);
    own_add(&own, own_hash(TEXT("another")), two);
    assert_known(&own, TEXT("an event"), one);
    assert_known(&own, TEXT("another"), two);
    assert_unknown(&own, TEXT("an Event"));
    assert_unknown(&own, TEXT("an event "));
    assert_unknown(&own, TEXT(""));
    assert_unknown(&own, (struct text){NULL, 0});
    own_free(&own);
    assert_unknown(&own, TEXT("an event"));
}

static void one_that_takes_anothers_place_ends_it(void **state)
{
    (void)state;
    struct own own = {0};
    const struct text first = TEXT("the first");
    char other[32];
    int number = 0;
    own_add(&own, own_hash(first), one);
    do
        snprintf(other, sizeof(other), "number %d", number++);
    while (own_hash(text_of(other)) % OWN_PLACES != own_hash(first) % OWN_PLACES);
    assert_unknown(&own, text_of(other));
    own_add(&own, own_hash(text_of(other)), two);
    assert_known(&own, text_of(other), two);
    assert_unknown(&own, first);
    own_free(&own);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_known_before_anything_was_added),
        cmocka_unit_test(what_was_added_is_known_with_its_id_and_its_like_is_not),
        cmocka_unit_test(one_that_takes_anothers_place_ends_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
