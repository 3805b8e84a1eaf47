#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/arena.h"

#include <string.h>

static void what_is_taken_is_aligned_and_its_own(void **state)
{
    (void)state;
    struct arena *arena = arena_new(1 << 20);
    unsigned char *taken[200];
    for (size_t i = 0; i < 200; i++) {
        taken[i] = arena_take(arena, i * 17);
        assert_non_null(taken[i]);
        assert_int_equal((uintptr_t)taken[i] % 16, 0);
        memset(taken[i], (int)i, i * 17);
    }
    for (size_t i = 0; i < 200; i++)
        for (size_t j = 0; j < i * 17; j++)
            assert_int_equal(taken[i][j], i);
    arena_destroy(arena);
}

static void bound_holds_until_the_reset(void **state)
{
    (void)state;
    struct arena *arena = arena_new(1000);
    assert_null(arena_take(arena, 1001));
    assert_null(arena_take(arena, SIZE_MAX));
    assert_non_null(arena_take(arena, 600));
    assert_null(arena_take(arena, 600));
    assert_true(arena_used_bytes(arena) >= 600);
    arena_reset(arena);
    assert_int_equal(arena_used_bytes(arena), 0);
    assert_non_null(arena_take(arena, 1000));
    arena_destroy(arena);
}

static void steady_load_takes_the_same_memory_again(void **state)
{
    (void)state;
    struct arena *arena = arena_new(1 << 20);
    void *first = arena_take(arena, 100), *large = arena_take(arena, 3 * ARENA_CHUNK_BYTES);
    for (int i = 0; i < 3; i++) {
        arena_reset(arena);
        assert_ptr_equal(arena_take(arena, 100), first);
        assert_ptr_equal(arena_take(arena, 3 * ARENA_CHUNK_BYTES), large);
    }
    arena_destroy(arena);
}

static void rewind_gives_back_what_came_after_the_mark(void **state)
{
    (void)state;
    struct arena *arena = arena_new(1 << 20);
    struct arena_mark empty = arena_mark(arena);
    char *kept = arena_copy(arena, "kept", 5);
    size_t used = arena_used_bytes(arena);
    struct arena_mark mark = arena_mark(arena);
    void *after = arena_take(arena, 64);
    assert_non_null(arena_take(arena, 2 * ARENA_CHUNK_BYTES));
    arena_rewind(arena, mark);
    assert_int_equal(arena_used_bytes(arena), used);
    assert_string_equal(kept, "kept");
    assert_ptr_equal(arena_take(arena, 64), after);
    arena_rewind(arena, empty);
    assert_int_equal(arena_used_bytes(arena), 0);
    assert_ptr_equal(arena_take(arena, 5), kept);
    arena_destroy(arena);
}

static void copies_and_prints_are_whole(void **state)
{
    (void)state;
    struct arena *arena = arena_new(1 << 20);
    assert_string_equal(arena_print(arena, "%s-%d", "a", 7), "a-7");
    assert_non_null(arena_copy(arena, NULL, 0));
    unsigned char *zeroed = arena_take_zeroed(arena, 100);
    for (int i = 0; i < 100; i++)
        assert_int_equal(zeroed[i], 0);
    memset(zeroed, 1, 100);
    arena_reset(arena);
    zeroed = arena_take_zeroed(arena, 100);
    for (int i = 0; i < 100; i++)
        assert_int_equal(zeroed[i], 0);
    arena_destroy(arena);
    arena_destroy(NULL);
    struct arena *small = arena_new(8);
    assert_null(arena_print(small, "%s", "more than eight bytes"));
    arena_destroy(small);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_taken_is_aligned_and_its_own),
        cmocka_unit_test(bound_holds_until_the_reset),
        cmocka_unit_test(steady_load_takes_the_same_memory_again),
        cmocka_unit_test(rewind_gives_back_what_came_after_the_mark),
        cmocka_unit_test(copies_and_prints_are_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
