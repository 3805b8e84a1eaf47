/* What a process wrote itself is known again by its key and value, and forgotten rather than taken for
 * something else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "flow/own.h"

#include <stdio.h>

#define KEY TEXT("8ad2c4f0-31c5-4f0e-9d8e-3f8f4c1f7a10")

static const struct id one = {{1}}, two = {{2}};

static void add(struct own *own, struct text value, struct id id)
{
    struct own_mark mark = own_mark_of(KEY, value);
    own_add(own, &mark, id);
}

static size_t place_of(struct text value)
{
    return own_mark_of(KEY, value).hash % OWN_PLACES;
}

static void assert_known(const struct own *own, struct text value, struct id id)
{
    struct id found;
    assert_true(own_find(own, KEY, value, &found));
    assert_true(id_equal(found, id));
}

static void assert_unknown(const struct own *own, struct text value)
{
    struct id found;
    assert_false(own_find(own, KEY, value, &found));
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
    add(&own, TEXT("an event"), one);
    add(&own, TEXT("another"), two);
    assert_known(&own, TEXT("an event"), one);
    assert_known(&own, TEXT("another"), two);
    assert_unknown(&own, TEXT("an Event"));
    assert_unknown(&own, TEXT("an event "));
    assert_unknown(&own, TEXT(""));
    assert_unknown(&own, (struct text){NULL, 0});
    own_free(&own);
    assert_unknown(&own, TEXT("an event"));
}

static void the_same_value_of_another_key_is_not_known(void **state)
{
    (void)state;
    struct own own = {0};
    struct id found;
    add(&own, TEXT("an event"), one);
    assert_false(own_find(&own, TEXT("8ad2c4f0-31c5-4f0e-9d8e-3f8f4c1f7a11"), TEXT("an event"), &found));
    assert_false(own_find(&own, TEXT(""), TEXT("an event"), &found));
    assert_false(own_find(&own, (struct text){NULL, 0}, TEXT("an event"), &found));
    assert_known(&own, TEXT("an event"), one);
    own_free(&own);
}

static void one_that_takes_anothers_place_ends_it(void **state)
{
    (void)state;
    struct own own = {0};
    const struct text first = TEXT("the first");
    char other[32];
    int number = 0;
    add(&own, first, one);
    do
        snprintf(other, sizeof(other), "number %d", number++);
    while (place_of(text_of(other)) != place_of(first));
    assert_unknown(&own, text_of(other));
    add(&own, text_of(other), two);
    assert_known(&own, text_of(other), two);
    assert_unknown(&own, first);
    own_free(&own);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_known_before_anything_was_added),
        cmocka_unit_test(what_was_added_is_known_with_its_id_and_its_like_is_not),
        cmocka_unit_test(the_same_value_of_another_key_is_not_known),
        cmocka_unit_test(one_that_takes_anothers_place_ends_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
