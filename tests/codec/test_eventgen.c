#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/samples.h"
#include "wire/kinds.h"

enum { BYTES_MAX = 8 << 20, VALUES = 2000 };

struct fixture {
    struct arena *arena;
    const struct schema *schema;    /* the same at run time */
    const struct codec_type *table; /* without straight-line code */
    const struct codec_plan *straight_plan;
    const struct codec_plan *table_plan;
};

static int set_up(void **state)
{
    static struct fixture fixture;
    struct error error;
    fixture.arena = arena_new(BYTES_MAX);
    struct text text = text_of(everything_type.schemas[everything_type.version - 1]);
    assert_int_equal(schema_parse(text, fixture.arena, &fixture.schema, &error), OK);
    fixture.table = codec_type_new(fixture.schema, fixture.arena);
    assert_int_equal(
        codec_plan_new(fixture.schema, fixture.table, fixture.arena, &fixture.table_plan, &error), OK);
    assert_int_equal(
        codec_plan_new(fixture.schema, everything_type.codec, fixture.arena, &fixture.straight_plan, &error),
        OK);
    *state = &fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    arena_destroy(fixture->arena);
    return 0;
}

static void table_is_what_the_schema_says(void **state)
{
    struct fixture *fixture = *state;
    const struct schema *made = everything_type.codec->schema;
    assert_true(schema_same(made, fixture->schema));
    assert_int_equal(made->size, sizeof(struct everything));
    assert_int_equal(made->bytes_min, fixture->schema->bytes_min);
    for (size_t i = 0; i < made->count; i++) {
        assert_int_equal(made->fields[i].offset, fixture->schema->fields[i].offset);
        assert_int_equal(made->fields[i].alias_count, fixture->schema->fields[i].alias_count);
        assert_int_equal(made->fields[i].has_default, fixture->schema->fields[i].has_default);
        assert_true(text_equal(made->fields[i].default_bytes, fixture->schema->fields[i].default_bytes));
    }
    assert_int_equal(everything_type.key_offset, offsetof(struct everything, id));
    assert_int_equal(everything_type.version, 2);
    assert_ptr_equal(kind_types[1], &plain_type);
    assert_null(kind_types[2]);
    assert_ptr_equal(KIND_TYPE_OF((const struct plain *)NULL), &plain_type);
}

static void straight_code_writes_and_reads_as_the_table_does(void **state)
{
    struct fixture *fixture = *state;
    struct samples samples = samples_of(1);
    struct buffer straight = buffer_of(BYTES_MAX), table = buffer_of(BYTES_MAX);
    struct error error;
    for (int i = 0; i < VALUES; i++) {
        struct arena_mark mark = arena_mark(fixture->arena);
        const void *value = samples_value(&samples, fixture->schema, fixture->arena), *one, *other;
        buffer_clear(&straight);
        buffer_clear(&table);
        assert_int_equal(codec_encode(everything_type.codec, value, &straight, &error), OK);
        assert_int_equal(codec_encode(fixture->table, value, &table, &error), OK);
        assert_true(text_equal(buffer_text(&straight), buffer_text(&table)));
        assert_true(everything_type.codec->bound(value) >= straight.length);

        const unsigned char *begin = (const unsigned char *)straight.at, *end = begin + straight.length;
        struct everything direct;
        assert_ptr_equal(everything_type.codec->decode(begin, end, fixture->arena, &direct), end);
        assert_true(samples_same(fixture->schema, value, &direct));
        assert_int_equal(
            codec_decode(fixture->straight_plan, buffer_text(&table), fixture->arena, &one, &error), OK);
        assert_int_equal(
            codec_decode(fixture->table_plan, buffer_text(&table), fixture->arena, &other, &error), OK);
        assert_true(samples_same(fixture->schema, value, one));
        assert_true(samples_same(fixture->schema, value, other));
        arena_rewind(fixture->arena, mark);
    }
    buffer_free(&straight);
    buffer_free(&table);
}

/* Straight-line code must not accept what the table refuses, nor the other way round. */
static void straight_code_refuses_what_the_table_refuses(void **state)
{
    struct fixture *fixture = *state;
    struct samples samples = samples_of(2);
    struct buffer bytes = buffer_of(BYTES_MAX);
    struct error error;
    size_t refused = 0, taken = 0;
    for (int i = 0; i < VALUES; i++) {
        struct arena_mark mark = arena_mark(fixture->arena);
        const void *value = samples_value(&samples, fixture->schema, fixture->arena), *by_table;
        buffer_clear(&bytes);
        assert_int_equal(codec_encode(fixture->table, value, &bytes, &error), OK);
        for (int change = 0; change < 8; change++) {
            size_t length = bytes.length;
            size_t place = samples_below(&samples, length);
            char before = bytes.at[place];
            if (samples_below(&samples, 4) == 0)
                length = place;
            else
                bytes.at[place] = (char)samples_next(&samples);
            /* of its very size, so that a sanitizer sees the byte after it */
            unsigned char *exact = malloc(length ? length : 1);
            memcpy(exact, bytes.at, length);
            struct everything direct;
            bool straight = everything_type.codec->decode(exact, exact + length, fixture->arena, &direct) ==
                            exact + length;
            struct text text = {(const char *)exact, length};
            enum outcome outcome = codec_decode(fixture->table_plan, text, fixture->arena, &by_table, &error);
            assert_int_equal(straight, outcome == OK);
            if (straight)
                assert_true(samples_same(fixture->schema, &direct, by_table));
            taken += straight;
            refused += !straight;
            free(exact);
            bytes.at[place] = before;
        }
        arena_rewind(fixture->arena, mark);
    }
    assert_true(taken > VALUES / 10);
    assert_true(refused > VALUES / 10);
    buffer_free(&bytes);
}

static void earlier_version_is_read_with_all_defaults(void **state)
{
    struct fixture *fixture = *state;
    const struct schema *writer;
    const struct codec_plan *plan;
    const void *data;
    struct error error;
    struct text text = text_of(everything_type.schemas[0]);
    assert_int_equal(schema_parse(text, fixture->arena, &writer, &error), OK);
    assert_int_equal(codec_plan_new(writer, everything_type.codec, fixture->arena, &plan, &error), OK);
    /* identity "ab", small -1, gone [null, "x"] skipped, colour PUCE, which is not known any more */
    struct text bytes = TEXT("\4ab\1\4\0\2\2x\0\2");
    assert_int_equal(codec_decode(plan, bytes, fixture->arena, &data, &error), OK);
    const struct everything *everything = data;
    assert_true(text_is(everything->id, "ab"));
    assert_int_equal(everything->small, -1);
    assert_int_equal(everything->colour, COLOUR_GREEN);
    assert_true(everything->yes);
    assert_true(everything->large == INT64_MIN);
    assert_true(everything->single == 0.5f);
    assert_true(everything->twice == -2.5e300);
    assert_true(text_is(everything->octets, "\xff\x01"));
    assert_true(everything->at == 1);
    assert_true(text_is(everything->mark, "abc"));
    assert_int_equal(everything->default_, 3);
    assert_int_equal(everything->pair.left, 1);
    assert_true(text_is(everything->pair.right, "r"));
    assert_int_equal(everything->pairs_count, 1);
    assert_int_equal(everything->pairs[0].left, 5);
    assert_true(text_is(everything->pairs[0].right, "r"));
    assert_int_equal(everything->words_count, 0);
    assert_int_equal(everything->matrix_count, 2);
    assert_int_equal(everything->matrix[0].count, 2);
    assert_true(everything->matrix[0].at[1] == 2);
    assert_int_equal(everything->by_name.count, 0);
    assert_int_equal(everything->deep.count, 1);
    assert_true(text_is(everything->deep.at[0].value.at[0].at[0].key, "b"));
    assert_false(everything->note.set);
    assert_true(everything->turned.set);
    assert_true(everything->turned.value == 7);
    assert_false(everything->maybe.set);
    assert_int_equal(everything->choice.branch, 0);
    assert_true(text_is(everything->choice.as.string_value, "c"));
    assert_int_equal(everything->choices_count, 0);
}

static void value_that_cannot_be_written_is_named(void **state)
{
    struct fixture *fixture = *state;
    struct samples samples = samples_of(3);
    struct buffer into = buffer_of(BYTES_MAX);
    struct error error;
    struct everything *value = samples_value(&samples, fixture->schema, fixture->arena);
    buffer_add_string(&into, "before");

    value->colour = 2;
    assert_int_equal(codec_encode(everything_type.codec, value, &into, &error), REJECT);
    assert_string_equal(error.text, "kinds.Everything: colour: symbol 2 of 2");
    value->colour = COLOUR_RED;
    value->choice.branch = -1;
    assert_int_equal(codec_encode(everything_type.codec, value, &into, &error), REJECT);
    assert_string_equal(error.text, "kinds.Everything: choice: branch -1 of 9");
    value->choice.branch = 1;
    value->mark.length = 2;
    assert_int_equal(codec_encode(everything_type.codec, value, &into, &error), REJECT);
    assert_string_equal(error.text, "kinds.Everything: mark: 2 bytes, not 3");
    value->mark = TEXT("abc");
    struct text words[] = {TEXT("good"), TEXT("\xc3(")};
    value->words = words;
    value->words_count = 2;
    assert_int_equal(codec_encode(everything_type.codec, value, &into, &error), REJECT);
    assert_string_equal(error.text, "kinds.Everything: words: [1]: text that is not UTF-8");
    assert_string_equal(error.cause, "avro-value");
    assert_true(text_is(buffer_text(&into), "before"));
    value->words_count = 1;
    assert_int_equal(codec_encode(everything_type.codec, value, &into, &error), OK);
    buffer_free(&into);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(table_is_what_the_schema_says, set_up, tear_down),
        cmocka_unit_test_setup_teardown(straight_code_writes_and_reads_as_the_table_does, set_up, tear_down),
        cmocka_unit_test_setup_teardown(straight_code_refuses_what_the_table_refuses, set_up, tear_down),
        cmocka_unit_test_setup_teardown(earlier_version_is_read_with_all_defaults, set_up, tear_down),
        cmocka_unit_test_setup_teardown(value_that_cannot_be_written_is_named, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
