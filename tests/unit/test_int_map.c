/* Values by a number, against an array. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/int_map.h"

struct value {
    uint64_t number, twice;
};

static void put(struct int_map *map, int64_t key, uint64_t number)
{
    assert_true(int_map_reserve(map, sizeof(struct value), 1));
    *(struct value *)int_map_put(map, key) = (struct value){number, number * 2};
}

static void one_that_is_empty_has_nothing(void **state)
{
    (void)state;
    struct int_map map = {0};
    size_t at = 0;
    int64_t key;
    void *value;
    assert_null(int_map_find(&map, 1));
    assert_false(int_map_next(&map, &at, &key, &value));
    int_map_remove(&map, 1);
    int_map_clear(&map);
    int_map_free(&map);
}

static void what_is_removed_hides_nothing_behind_it(void **state)
{
    (void)state;
    enum { KEYS = 3000, STEPS = 200000 };
    static uint64_t there[KEYS + 1]; /* 0: not there */
    struct int_map map = {0};
    uint64_t chance = 1;
    size_t count = 0;
    for (uint64_t step = 1; step <= STEPS; step++) {
        chance = chance * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        int64_t key = 1 + (int64_t)((chance >> 33) % KEYS);
        bool add = chance >> 63;
        count += (size_t)(add && !there[key]) - (size_t)(!add && there[key]);
        there[key] = add ? step : 0;
        if (add)
            put(&map, key, step);
        else
            int_map_remove(&map, key);
        assert_int_equal(map.count, count);
        if (step % 5000)
            continue;
        for (int64_t each = 1; each <= KEYS; each++) {
            const struct value *value = int_map_find(&map, each);
            assert_int_equal(value ? value->number : 0, there[each]);
            assert_int_equal(value ? value->twice : 0, there[each] * 2);
        }
    }
    int_map_free(&map);
}

static void each_is_told_once(void **state)
{
    (void)state;
    enum { KEYS = 1000 };
    bool told[KEYS + 1] = {false};
    struct int_map map = {0};
    size_t at = 0, count = 0;
    int64_t key;
    void *value;
    for (int64_t each = 1; each <= KEYS; each++)
        put(&map, each << 16, (uint64_t)each); /* as the numbers of packs lie */
    for (int64_t each = 1; each <= KEYS; each += 2)
        int_map_remove(&map, each << 16);
    while (int_map_next(&map, &at, &key, &value)) {
        assert_int_equal(((struct value *)value)->number, key >> 16);
        assert_int_equal((key >> 16) % 2, 0);
        assert_false(told[key >> 16]);
        told[key >> 16] = true;
        count++;
    }
    assert_int_equal(count, KEYS / 2);
    int_map_free(&map);
}

/* Room for some is asked for once: putting them moves nothing. */
static void what_has_room_stays_where_it_is(void **state)
{
    (void)state;
    enum { KEYS = 1000 };
    struct int_map map = {0};
    put(&map, INT64_MAX, 7);
    assert_true(int_map_reserve(&map, sizeof(struct value), KEYS));
    const struct value *first = int_map_find(&map, INT64_MAX);
    for (int64_t key = 1; key <= KEYS; key++)
        (void)int_map_put(&map, key);
    assert_ptr_equal(int_map_find(&map, INT64_MAX), first);
    assert_int_equal(first->number, 7);
    int_map_free(&map);
}

static void a_new_one_is_all_zero_where_another_was(void **state)
{
    (void)state;
    struct int_map map = {0};
    put(&map, 5, 9);
    const struct value *old = int_map_find(&map, 5);
    int_map_remove(&map, 5);
    const struct value *value = int_map_put(&map, 5);
    assert_ptr_equal(value, old);
    assert_int_equal(value->number, 0);
    assert_int_equal(value->twice, 0);
    int_map_clear(&map);
    assert_int_equal(map.count, 0);
    assert_null(int_map_find(&map, 5));
    value = int_map_put(&map, 5);
    assert_int_equal(value->number, 0);
    int_map_free(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_that_is_empty_has_nothing),
        cmocka_unit_test(what_is_removed_hides_nothing_behind_it),
        cmocka_unit_test(each_is_told_once),
        cmocka_unit_test(what_has_room_stays_where_it_is),
        cmocka_unit_test(a_new_one_is_all_zero_where_another_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
