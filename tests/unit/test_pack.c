/* What is packed comes back, whatever it is; and what is not a pack is said to be damaged. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/header_blob.h"
#include "store/pack.h"

#include <stdlib.h>

static struct arena *arena;

static int setup(void **state)
{
    (void)state;
    arena = arena_new(4 << 20);
    return arena ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    arena_destroy(arena);
    return 0;
}

static const struct header HEADERS[] = {{TEXT_INIT("ce_id"), TEXT_INIT("1")}, {TEXT_INIT("null"), {NULL, 0}}};

static const struct outbox_row ROWS[] = {
    {.topic = TEXT_INIT("orders"),
     .partition = -1,
     .key = TEXT_INIT("k"),
     .value = {"\0\x01", 2},
     .created_us = 77},
    {.topic = TEXT_INIT("orders"),
     .partition = 0,
     .key = TEXT_INIT(""),
     .value_null = true,
     .headers = HEADERS,
     .header_count = 2,
     .created_us = 77},
    {.topic = TEXT_INIT("dlq.email"),
     .partition = INT32_MAX,
     .key_null = true,
     .value = TEXT_INIT(""),
     .created_us = 5},
    {.topic = TEXT_INIT(""),
     .partition = INT32_MIN,
     .key_null = true,
     .value_null = true,
     .created_us = INT64_MAX},
    {.topic = TEXT_INIT(""), .partition = -2, .created_us = INT64_MIN},
};
enum { ROW_COUNT = sizeof(ROWS) / sizeof(*ROWS) };

static struct text packed(const struct outbox_row *rows, size_t count)
{
    struct text headers[PACK_EVENTS_MAX], body;
    for (size_t i = 0; i < count; i++)
        assert_true(header_blob_encode(arena, rows[i].headers, rows[i].header_count, &headers[i]));
    assert_true(pack_encode(arena, rows, headers, count, &body));
    return body;
}

static bool same(const struct outbox_row *got, const struct outbox_row *row)
{
    bool same = text_equal(got->topic, row->topic) && got->partition == row->partition &&
                text_equal(got->key, row->key) && text_equal(got->value, row->value) &&
                got->key_null == row->key_null && got->value_null == row->value_null &&
                got->created_us == row->created_us && got->header_count == row->header_count;
    for (size_t i = 0; same && i < row->header_count; i++)
        same = text_equal(got->headers[i].name, row->headers[i].name) &&
               text_equal(got->headers[i].value, row->headers[i].value) &&
               !got->headers[i].value.at == !row->headers[i].value.at;
    return same;
}

static void all_of_an_event_comes_back(void **state)
{
    (void)state;
    struct outbox_row *got;
    bool damaged;
    for (size_t count = 1; count <= ROW_COUNT; count++) {
        assert_true(pack_decode(arena, packed(ROWS, count), count, &got, &damaged));
        for (size_t i = 0; i < count; i++)
            assert_true(same(&got[i], &ROWS[i]));
    }
}

static void what_was_cut_or_is_too_long_is_damaged(void **state)
{
    (void)state;
    struct outbox_row *got;
    struct text body = packed(ROWS, ROW_COUNT);
    bool damaged;
    for (size_t length = 0; length < body.length; length++) {
        char *cut = malloc(length + !length); /* so that a sanitizer sees a read past its end */
        memcpy(cut, body.at, length);
        assert_false(pack_decode(arena, (struct text){cut, length}, ROW_COUNT, &got, &damaged));
        assert_true(damaged);
        free(cut);
    }
    assert_false(pack_decode(arena, body, ROW_COUNT - 1, &got, &damaged));
    assert_true(damaged);
    assert_false(pack_decode(arena, body, ROW_COUNT + 1, &got, &damaged));
    assert_true(damaged);
    assert_false(pack_decode(arena, body, 0, &got, &damaged));
    assert_true(damaged);
}

static void no_byte_that_was_changed_is_read_past_the_end(void **state)
{
    (void)state;
    struct text body = packed(ROWS, ROW_COUNT);
    char *copy = malloc(body.length);
    size_t refused = 0;
    for (size_t at = 0; at < body.length; at++)
        for (unsigned byte = 0; byte < 256; byte += 5) {
            struct outbox_row *got;
            bool damaged;
            struct arena_mark mark = arena_mark(arena);
            memcpy(copy, body.at, body.length);
            copy[at] = (char)byte;
            refused += !pack_decode(arena, (struct text){copy, body.length}, ROW_COUNT, &got, &damaged);
            arena_rewind(arena, mark);
        }
    free(copy);
    assert_true(refused > 0);
}

static void versions_and_flags_that_are_unknown_are_damaged(void **state)
{
    (void)state;
    struct outbox_row *got;
    bool damaged;
    /* version, flags (by key, no time, no key, no value), topic, headers */
    assert_true(pack_decode(arena, (struct text){"\x01\x1e\x01t\x00", 5}, 1, &got, &damaged));
    static const char *const bad[] = {"\x02\x1e\x01t\x00", "\x01\x3e\x01t\x00", "\x01\x9e\x01t\x00",
                                      "\x01\x1f\x01t\x00" /* as the one before, which is not there */,
                                      "\x01\x1e\x01t\x09"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert_false(pack_decode(arena, (struct text){bad[i], 5}, 1, &got, &damaged));
        assert_true(damaged);
    }
    /* A length that no number of 64 bits is. */
    assert_false(
        pack_decode(arena, (struct text){"\x01\x1e\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01t\x00", 16},
                    1, &got, &damaged));
    assert_true(damaged);
}

static void a_full_arena_is_not_damage(void **state)
{
    (void)state;
    struct text body = packed(ROWS, ROW_COUNT);
    struct outbox_row *got;
    bool damaged = true;
    struct arena *full = arena_new(64);
    assert_false(pack_decode(full, body, ROW_COUNT, &got, &damaged));
    assert_false(damaged);
    arena_destroy(full);
}

static void a_pack_ends_with_its_part_its_bytes_and_its_number_of_events(void **state)
{
    (void)state;
    static struct outbox_row rows[600];
    static struct text headers[600];
    char value[1000] = "";
    for (size_t i = 0; i < 600; i++)
        rows[i] = (struct outbox_row){.topic = TEXT("t"), .partition = -1, .part = i >= 300};
    assert_int_equal(pack_count(rows, headers, 600, 1 << 20), PACK_EVENTS_MAX);
    assert_int_equal(pack_count(&rows[256], headers, 344, 1 << 20), 300 - 256);
    assert_int_equal(pack_count(&rows[599], headers, 1, 1 << 20), 1);
    for (size_t i = 0; i < 20; i++)
        rows[i].value = (struct text){value, sizeof(value)};
    size_t count = pack_count(rows, headers, 600, 7900);
    assert_int_equal(count, 7);
    assert_true(packed(rows, count).length <= 7900);
    assert_int_equal(pack_count(rows, headers, 600, 100), 1); /* a larger one goes alone */
}

static void numbers_go_up_within_packs_and_over_them(void **state)
{
    (void)state;
    int64_t last = 0;
    for (int64_t pack = 1; pack < 5; pack++)
        for (size_t events = (size_t)(pack % 2 ? PACK_EVENTS_MAX : pack), i = 0; i < events; i++) {
            int64_t seq = pack_event_seq(pack, events, i);
            assert_true(seq > last);
            assert_int_equal(pack_seq_of(seq), pack);
            assert_int_equal(pack_events_of(seq), events);
            assert_int_equal(pack_index_of(seq), i);
            last = seq;
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(all_of_an_event_comes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_cut_or_is_too_long_is_damaged, setup, teardown),
        cmocka_unit_test_setup_teardown(no_byte_that_was_changed_is_read_past_the_end, setup, teardown),
        cmocka_unit_test_setup_teardown(versions_and_flags_that_are_unknown_are_damaged, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_arena_is_not_damage, setup, teardown),
        cmocka_unit_test_setup_teardown(a_pack_ends_with_its_part_its_bytes_and_its_number_of_events, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(numbers_go_up_within_packs_and_over_them, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
