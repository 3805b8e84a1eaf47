/*
 * Random schemas and values, the same on every run: what our codec writes avro-c reads as the same value and
 * writes as the same bytes, and the other way round. Also through JSON and through a copy.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/avro_value.h"
#include "support/samples.h"

#include <stdio.h>

enum { SCHEMAS = 3000, VALUES = 4, BYTES_MAX = 8 << 20 };

struct oracle {
    avro_schema_t schema;
    avro_value_iface_t *iface;
    avro_value_t value;
};

static void oracle_open(struct oracle *oracle, struct text text)
{
    assert_int_equal(avro_schema_from_json_length(text.at, text.length, &oracle->schema), 0);
    oracle->iface = avro_generic_class_from_schema(oracle->schema);
    assert_non_null(oracle->iface);
    assert_int_equal(avro_generic_value_new(oracle->iface, &oracle->value), 0);
}

static void oracle_close(struct oracle *oracle)
{
    avro_value_decref(&oracle->value);
    avro_value_iface_decref(oracle->iface);
    avro_schema_decref(oracle->schema);
}

/* One value there and back. */
static void check_value(const struct codec_type *type, const struct codec_plan *plan, struct oracle *oracle,
                        const void *value, struct arena *arena)
{
    const struct schema *schema = type->schema;
    struct buffer bytes = buffer_of(BYTES_MAX);
    struct error error;
    assert_int_equal(codec_encode(type, value, &bytes, &error), OK);

    avro_reader_t reader = avro_reader_memory(bytes.length ? bytes.at : "", (int64_t)bytes.length);
    avro_value_reset(&oracle->value);
    assert_int_equal(avro_value_read(reader, &oracle->value), 0);
    assert_true(avro_value_same(schema, value, &oracle->value));
    avro_reader_free(reader);

    char theirs[1 << 16];
    avro_value_reset(&oracle->value);
    avro_value_from(schema, value, &oracle->value);
    avro_writer_t writer = avro_writer_memory(theirs, sizeof(theirs));
    assert_int_equal(avro_value_write(writer, &oracle->value), 0);
    struct text written = {theirs, (size_t)avro_writer_tell(writer)};
    avro_writer_free(writer);
    assert_true(text_equal(written, buffer_text(&bytes)));

    const void *decoded = NULL;
    if (codec_decode(plan, written, arena, &decoded, &error) != OK)
        fail_msg("%s", error.text);
    assert_true(samples_same(schema, value, decoded));
    void *copy = codec_copy(type, decoded, arena);
    assert_non_null(copy);
    assert_true(samples_same(schema, value, copy));
    buffer_free(&bytes);
}

static void check_json(const struct codec_type *type, const void *value, struct arena *arena)
{
    struct buffer text = buffer_of(BYTES_MAX);
    struct json_writer writer = json_writer(&text);
    struct error error;
    json_t *json = NULL;
    void *back = NULL;
    codec_to_json(type, value, &writer);
    assert_false(text.failed);
    if (json_read(buffer_text(&text), &json, &error) != OK ||
        codec_from_json(type, json, arena, &back, NULL, &error) != OK)
        fail_msg("%s of %.*s", error.text, TEXT_ARG(buffer_text(&text)));
    json_decref(json);
    if (!samples_same(type->schema, value, back))
        fail_msg("%.*s reads back as another value", TEXT_ARG(buffer_text(&text)));
    buffer_free(&text);
}

static void random_values_go_through_both_codecs_and_json(void **state)
{
    (void)state;
    size_t refused = 0, clear = 0;
    struct arena *arena = arena_new(BYTES_MAX);
    for (uint64_t seed = 0; seed < SCHEMAS; seed++) {
        struct samples samples = samples_of(seed);
        struct buffer text = buffer_of(SCHEMA_TEXT_BYTES_MAX);
        const struct schema *schema = NULL;
        const struct codec_plan *plan = NULL;
        struct error error;
        samples_schema(&samples, 4, &text);
        arena_reset(arena);
        if (schema_parse(buffer_text(&text), arena, &schema, &error) != OK) {
            if (!strstr(error.text, "take no bytes"))
                fail_msg("%s in %.*s", error.text, TEXT_ARG(buffer_text(&text)));
            refused++;
            buffer_free(&text);
            continue;
        }
        const struct codec_type *type = codec_type_new(schema, arena);
        assert_int_equal(codec_plan_new(schema, type, arena, &plan, &error), OK);
        struct oracle oracle;
        oracle_open(&oracle, buffer_text(&text));
        bool json = samples_json_is_clear(schema);
        clear += json;
        for (int i = 0; i < VALUES; i++) {
            const void *value = samples_value(&samples, schema, arena);
            check_value(type, plan, &oracle, value, arena);
            if (json)
                check_json(type, value, arena);
        }
        oracle_close(&oracle);
        buffer_free(&text);
    }
    arena_destroy(arena);
    print_message("%d schemas, %zu refused, %zu clear in JSON\n", SCHEMAS, refused, clear);
    assert_true(refused < SCHEMAS / 10);
    assert_true(clear > SCHEMAS / 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_values_go_through_both_codecs_and_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
