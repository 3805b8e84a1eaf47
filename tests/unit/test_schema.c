#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "wire/event.h"
#include "wire/schema_tree.h"

#include <stdio.h>

enum { BYTES_MAX = 32 << 20 };

static struct arena *arena;

static int set_up(void **state)
{
    (void)state;
    arena = arena_new(BYTES_MAX);
    return arena ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    arena_destroy(arena);
    return 0;
}

static const struct schema *parsed(const char *json)
{
    const struct schema *schema = NULL;
    struct error error = {.text = ""};
    if (schema_parse(text_of(json), arena, &schema, &error) != OK)
        fail_msg("%s: %s", json, error.text);
    return schema;
}

static void refused(const char *json, const char *why)
{
    const struct schema *schema = NULL;
    struct error error = {.text = ""};
    if (schema_parse(text_of(json), arena, &schema, &error) != REJECT)
        fail_msg("%s is accepted", json);
    assert_string_equal(error.cause, "schema-invalid");
    if (!strstr(error.text, why))
        fail_msg("%s: '%s' does not say '%s'", json, error.text, why);
}

#define RECORD(fields) "{\"type\":\"record\",\"name\":\"R\",\"fields\":[" fields "]}"

static void golden_fingerprints(void **state)
{
    (void)state;
    /* Avro's share/test/data/schema-tests.txt */
    assert_true(schema_fingerprint(parsed("\"null\"")) == 0x63dd24e7cc258f8a);
    assert_true(schema_fingerprint(parsed("{\"type\":\"null\"}")) == 0x63dd24e7cc258f8a);
    assert_true(schema_fingerprint(parsed("\"int\"")) == 0x7275d51a3f395c8f);
    assert_true(schema_fingerprint(parsed("\"string\"")) == 0x8f014872634503c7);
}

static void canonical_form_keeps_what_the_bytes_depend_on(void **state)
{
    (void)state;
    struct buffer form = buffer_of(BYTES_MAX);
    schema_canonical(
        parsed("{ \"namespace\": \"x.y\", \"doc\": \"d\", \"type\": \"record\", \"aliases\": [\"old\"], "
               "\"fields\": ["
               "{\"default\": 1, \"type\": {\"type\": \"long\", \"logicalType\": \"timestamp-micros\"}, "
               "\"name\": \"a\"},"
               "{\"name\": \"e\", \"type\": {\"name\": \"E\", \"symbols\": [\"A\"], \"type\": \"enum\"}},"
               "{\"name\": \"f\", \"type\": [\"null\", {\"type\": \"fixed\", \"name\": \"z.F\", \"size\": "
               "5}, \"E\"]},"
               "{\"name\": \"m\", \"type\": {\"type\": \"map\", \"values\": {\"type\": \"array\", \"items\": "
               "\"z.F\"}}}"
               "], \"name\": \"R\"}"),
        &form);
    assert_true(text_is(
        buffer_text(&form),
        "{\"name\":\"x.y.R\",\"type\":\"record\",\"fields\":[{\"name\":\"a\",\"type\":\"long\"},"
        "{\"name\":\"e\",\"type\":{\"name\":\"x.y.E\",\"type\":\"enum\",\"symbols\":[\"A\"]}},"
        "{\"name\":\"f\",\"type\":[\"null\",{\"name\":\"z.F\",\"type\":\"fixed\",\"size\":5},\"x.y.E\"]},"
        "{\"name\":\"m\",\"type\":{\"type\":\"map\",\"values\":{\"type\":\"array\",\"items\":\"z.F\"}}}]}"));
    buffer_free(&form);
}

static void text_is_kept_as_it_was_given(void **state)
{
    (void)state;
    const char *json = "{ \"type\" : \"record\", \"name\":\"R\",\"fields\":[] }";
    const struct schema *schema = parsed(json);
    assert_true(text_is(schema_text(schema), json));
    assert_true(text_is(schema_full_name(schema), "R"));
}

static void names_take_the_namespace_around_them(void **state)
{
    (void)state;
    const struct schema *schema =
        parsed("{\"type\":\"record\",\"name\":\"a.b.R\",\"aliases\":[\"Old\",\"c.Older\"],\"namespace\":"
               "\"ignored\",\"fields\":["
               "{\"name\":\"x\",\"type\":{\"type\":\"fixed\",\"name\":\"F\",\"size\":1}},"
               "{\"name\":\"y\",\"type\":{\"type\":\"fixed\",\"name\":\"F\",\"namespace\":\"\",\"size\":1}},"
               "{\"name\":\"z\",\"type\":\"F\"}]}");
    assert_true(text_is(schema->name, "a.b.R"));
    assert_true(text_is(schema->aliases[0], "a.b.Old"));
    assert_true(text_is(schema->aliases[1], "c.Older"));
    assert_true(text_is(schema->fields[0].schema->name, "a.b.F"));
    assert_true(text_is(schema->fields[1].schema->name, "F"));
    assert_ptr_equal(schema->fields[2].schema, schema->fields[0].schema);
    assert_true(text_is(schema_short_name(schema->name), "R"));
}

static void what_avro_refuses_is_refused(void **state)
{
    (void)state;
    refused("", "not JSON");
    refused("{", "not JSON");
    refused("7", "a schema is");
    refused("\"nothing\"", "not defined");
    refused("{\"type\":\"record\",\"fields\":[]}", "needs a name");
    refused("{\"type\":\"record\",\"name\":\"1R\",\"fields\":[]}", "needs a name");
    refused("{\"type\":\"record\",\"name\":\"int\",\"fields\":[]}", "primitive");
    refused("{\"type\":\"record\",\"name\":\"R\"}", "array of fields");
    refused("{\"type\":\"record\",\"name\":\"R\",\"namespace\":\"a..b\",\"fields\":[]}", "namespace");
    refused("{\"type\":\"record\",\"name\":\"R\",\"aliases\":[\"-\"],\"fields\":[]}", "alias 0");
    refused("{\"type\":{\"type\":\"int\"}}", "as a string");
    refused(RECORD("{\"name\":\"a\"}"), "has no type");
    refused(RECORD("{\"type\":\"int\"}"), "needs a name");
    refused(RECORD("{\"name\":\"a\",\"type\":\"int\"},{\"name\":\"a\",\"type\":\"int\"}"), "there twice");
    refused(RECORD("{\"name\":\"a\",\"type\":\"int\",\"order\":\"up\"}"), "order");
    refused("{\"type\":\"array\"}", "no items");
    refused("{\"type\":\"map\"}", "no values");
    refused("{\"type\":\"enum\",\"name\":\"E\",\"symbols\":[]}", "symbols");
    refused("{\"type\":\"enum\",\"name\":\"E\",\"symbols\":[\"A\",\"A\"]}", "there twice");
    refused("{\"type\":\"enum\",\"name\":\"E\",\"symbols\":[\"A-B\"]}", "symbol 0");
    refused("{\"type\":\"enum\",\"name\":\"E\",\"symbols\":[\"A\"],\"default\":\"B\"}", "default");
    refused("{\"type\":\"fixed\",\"name\":\"F\",\"size\":-1}", "size");
    refused("{\"type\":\"fixed\",\"name\":\"F\",\"size\":1.5}", "size");
    refused("[]", "branches");
    refused("[\"int\",\"int\"]", "twice");
    refused("[\"int\",[\"null\"]]", "union");
    refused("[{\"type\":\"map\",\"values\":\"int\"},{\"type\":\"map\",\"values\":\"long\"}]", "twice");
    refused(RECORD("{\"name\":\"a\",\"type\":{\"type\":\"fixed\",\"name\":\"F\",\"size\":1}},"
                   "{\"name\":\"b\",\"type\":{\"type\":\"fixed\",\"name\":\"F\",\"size\":1}}"),
            "defined twice");
}

static void default_must_fit_its_field(void **state)
{
    (void)state;
    refused(RECORD("{\"name\":\"a\",\"type\":\"int\",\"default\":2147483648}"),
            "R: field 'a': default: must be an integer of 32 bits");
    refused(RECORD("{\"name\":\"a\",\"type\":\"int\",\"default\":1.5}"), "integer");
    refused(RECORD("{\"name\":\"a\",\"type\":\"string\",\"default\":null}"), "string");
    refused(RECORD("{\"name\":\"a\",\"type\":\"boolean\",\"default\":0}"), "true or false");
    refused(RECORD("{\"name\":\"a\",\"type\":[\"null\",\"int\"],\"default\":1}"), "null");
    refused(RECORD("{\"name\":\"a\",\"type\":\"bytes\",\"default\":\"\\u0100\"}"), "255");
    refused(
        RECORD("{\"name\":\"a\",\"type\":{\"type\":\"fixed\",\"name\":\"F\",\"size\":2},\"default\":\"a\"}"),
        "2 bytes");
    refused(RECORD("{\"name\":\"a\",\"type\":{\"type\":\"enum\",\"name\":\"E\",\"symbols\":[\"A\"]},"
                   "\"default\":\"B\"}"),
            "symbols");
    refused(RECORD("{\"name\":\"a\",\"type\":{\"type\":\"array\",\"items\":\"int\"},\"default\":[1,\"2\"]}"),
            "integer");
    refused(RECORD("{\"name\":\"a\",\"type\":{\"type\":\"record\",\"name\":\"Q\",\"fields\":[{\"name\":\"b\","
                   "\"type\":\"int\"}]},\"default\":{}}"),
            "b: is missing");
    const struct schema *schema =
        parsed(RECORD("{\"name\":\"a\",\"type\":\"bytes\",\"default\":\"\\u00ff\\u0000A\"}"));
    assert_true(text_equal(schema->fields[0].default_bytes, TEXT("\6\xff\0A")));
}

static void what_records_could_be_made_hostile_with_is_refused(void **state)
{
    (void)state;
    refused("{\"type\":\"array\",\"items\":\"null\"}", "take no bytes");
    refused("{\"type\":\"array\",\"items\":" RECORD("{\"name\":\"n\",\"type\":\"null\"}") "}",
            "take no bytes");
    refused("{\"type\":\"array\",\"items\":{\"type\":\"fixed\",\"name\":\"F\",\"size\":0}}", "take no bytes");
    parsed("{\"type\":\"array\",\"items\":[\"null\"]}");
    refused(RECORD("{\"name\":\"next\",\"type\":[\"null\",\"R\"]}"), "recursive");
    refused("{\"type\":\"fixed\",\"name\":\"F\",\"size\":1048577}", "size");
}

static void depth_and_size_are_bounded(void **state)
{
    (void)state;
    struct buffer deep = buffer_of(BYTES_MAX), deeper = buffer_of(BYTES_MAX);
    for (int i = 0; i < SCHEMA_DEPTH_MAX - 1; i++)
        buffer_add_string(&deep, "{\"type\":\"map\",\"values\":");
    buffer_add_string(&deep, "\"int\"");
    for (int i = 0; i < SCHEMA_DEPTH_MAX - 1; i++)
        buffer_add_char(&deep, '}');
    buffer_add_char(&deep, '\0');
    assert_int_equal(parsed(deep.at)->depth, SCHEMA_DEPTH_MAX);
    buffer_print(&deeper, "{\"type\":\"map\",\"values\":%s}", deep.at);
    buffer_add_char(&deeper, '\0');
    refused(deeper.at, "deeper than");
    buffer_free(&deep);
    buffer_free(&deeper);

    /* Each record has the one before twice: 2^15 leaves in a page of text. */
    struct buffer doubling = buffer_of(BYTES_MAX);
    buffer_add_string(&doubling, "[{\"type\":\"record\",\"name\":\"R0\",\"fields\":[]}");
    for (int i = 1; i < 16; i++)
        buffer_print(&doubling,
                     ",{\"type\":\"record\",\"name\":\"R%d\",\"fields\":[{\"name\":\"a\",\"type\":\"R%d\"},"
                     "{\"name\":\"b\",\"type\":\"R%d\"}]}",
                     i, i - 1, i - 1);
    buffer_add(&doubling, "]", 2);
    refused(doubling.at, "nodes");
    buffer_free(&doubling);

    struct buffer wide = buffer_of(BYTES_MAX);
    buffer_add_string(&wide, "{\"type\":\"record\",\"name\":\"R\",\"fields\":[");
    for (int i = 0; i <= SCHEMA_FIELDS_MAX; i++)
        buffer_print(&wide, "%s{\"name\":\"f%d\",\"type\":\"int\"}", i ? "," : "", i);
    buffer_add(&wide, "]}", 3);
    refused(wide.at, "more than");
    buffer_free(&wide);

    struct text large = {arena_take_zeroed(arena, SCHEMA_TEXT_BYTES_MAX + 1), SCHEMA_TEXT_BYTES_MAX + 1};
    const struct schema *schema;
    struct error error;
    assert_int_equal(schema_parse(large, arena, &schema, &error), REJECT);
}

static void out_of_memory_is_told_apart(void **state)
{
    (void)state;
    struct text text = text_of(event_types[0]->schemas[0]);
    /* Every size up to what it needs, so that each allocation fails once. */
    for (size_t bytes = 0;; bytes += 16) {
        const struct schema *schema;
        struct error error;
        struct arena *small = arena_new(bytes);
        enum outcome outcome = schema_parse(text, small, &schema, &error);
        arena_destroy(small);
        if (outcome == OK)
            break;
        assert_int_equal(outcome, RETRY);
        assert_string_equal(error.cause, "memory");
        assert_true(bytes < 1 << 20);
    }
}

static void reader(const char *json, const char *writer, const char *why)
{
    struct error error = {.text = ""};
    enum outcome outcome = schema_can_read(parsed(json), parsed(writer), &error);
    if (outcome != (why ? REJECT : OK))
        fail_msg("%s reading %s: %s", json, writer, error.text);
    if (why && !strstr(error.text, why))
        fail_msg("'%s' does not say '%s'", error.text, why);
}

static void compatibility_looks_at_all_that_may_be_written(void **state)
{
    (void)state;
    reader("\"long\"", "\"int\"", NULL);
    reader("\"int\"", "\"long\"", "cannot be read as int");
    reader("[\"null\",\"int\"]", "\"int\"", NULL);
    reader("\"int\"", "[\"null\",\"int\"]", "branch null");
    reader("{\"type\":\"enum\",\"name\":\"E\",\"symbols\":[\"A\"]}",
           "{\"type\":\"enum\",\"name\":\"E\",\"symbols\":[\"A\",\"B\"]}", "symbol 'B'");
    reader("{\"type\":\"enum\",\"name\":\"E\",\"symbols\":[\"A\"],\"default\":\"A\"}",
           "{\"type\":\"enum\",\"name\":\"E\",\"symbols\":[\"A\",\"B\"]}", NULL);
    reader(RECORD("{\"name\":\"a\",\"type\":\"int\",\"default\":1}"), RECORD(""), NULL);
    reader(RECORD("{\"name\":\"a\",\"type\":\"int\"}"), RECORD(""), "a: the writer does not write it");
    reader(RECORD(""), RECORD("{\"name\":\"a\",\"type\":\"int\"}"), NULL);
    reader(RECORD("{\"name\":\"a\",\"type\":{\"type\":\"array\",\"items\":\"int\"}}"),
           RECORD("{\"name\":\"a\",\"type\":{\"type\":\"array\",\"items\":\"string\"}}"),
           "a: items: the writer's string");
}

static void nested_unions_do_not_make_resolution_explode(void **state)
{
    (void)state;
    /* Three tries a level, and the fault only at the bottom: without a bound 3^12 of them. */
    struct buffer writer = buffer_of(BYTES_MAX), other = buffer_of(BYTES_MAX);
    enum { LEVELS = 12 };
    for (int i = 0; i < LEVELS; i++) {
        buffer_print(&writer,
                     "{\"type\":\"record\",\"name\":\"n1.R%d\",\"fields\":[{\"name\":\"f\",\"type\":", i);
        buffer_print(&other,
                     "[{\"type\":\"record\",\"name\":\"n1.R%d\",\"fields\":[{\"name\":\"f\",\"type\":", i);
    }
    buffer_add_string(&writer, "\"int\"");
    buffer_add_string(&other, "\"string\"");
    for (int i = LEVELS - 1; i >= 0; i--) {
        buffer_add_string(&writer, "}]}");
        buffer_print(&other,
                     "}]},{\"type\":\"record\",\"name\":\"n2.R%d\",\"fields\":[{\"name\":\"f\",\"type\":", i);
        if (i == LEVELS - 1)
            buffer_add_string(&other, "\"string\"}]}]");
        else
            buffer_print(&other, "[\"n1.R%d\",\"n2.R%d\"]}]}]", i + 1, i + 1);
    }
    buffer_add_char(&writer, '\0');
    buffer_add_char(&other, '\0');
    reader(other.at, writer.at, "more than 100000 steps");
    buffer_free(&writer);
    buffer_free(&other);
}

static void embedded_schemas_are_what_the_types_say(void **state)
{
    (void)state;
    for (int i = 0; event_types[i]; i++) {
        const struct schema *schema = parsed(event_types[i]->schemas[event_types[i]->version - 1]);
        assert_true(text_is(schema_full_name(schema), event_types[i]->full_name));
        for (int version = 0; version < event_types[i]->version; version++)
            reader(event_types[i]->schemas[event_types[i]->version - 1], event_types[i]->schemas[version],
                   NULL);
        for (size_t f = 0; f < schema->count; f++) {
            struct text name = schema->fields[f].name;
            bool at = name.length > 3 && memcmp(name.at + name.length - 3, "_at", 3) == 0;
            if (at && !schema_is_timestamp_micros(schema->fields[f].schema))
                fail_msg("%s.%s is no timestamp-micros", event_types[i]->name, name.at);
        }
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(golden_fingerprints),
        TEST(canonical_form_keeps_what_the_bytes_depend_on),
        TEST(text_is_kept_as_it_was_given),
        TEST(names_take_the_namespace_around_them),
        TEST(what_avro_refuses_is_refused),
        TEST(default_must_fit_its_field),
        TEST(what_records_could_be_made_hostile_with_is_refused),
        TEST(depth_and_size_are_bounded),
        TEST(out_of_memory_is_told_apart),
        TEST(compatibility_looks_at_all_that_may_be_written),
        TEST(nested_unions_do_not_make_resolution_explode),
        TEST(embedded_schemas_are_what_the_types_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
