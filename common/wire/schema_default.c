#include "wire/schema_tree.h"

#include "base/json.h"
#include "wire/codec_bytes.h"

#define UNFIT(error, what) error_reject((error), "schema-invalid", "must be %s", (what))

/* JSON of bytes and fixed in a schema: each code point is a byte. */
static bool add_code_points(struct buffer *into, struct text text, size_t *ret_count)
{
    size_t count = 0;
    for (size_t i = 0; i < text.length; i++, count++) {
        unsigned char c = (unsigned char)text.at[i];
        if (c >= 0x80) {
            if (c > 0xc3 || ++i == text.length)
                return false;
            c = (unsigned char)((c & 3) << 6 | ((unsigned char)text.at[i] & 0x3f));
        }
        buffer_add_char(into, (char)c);
    }
    *ret_count = count;
    return true;
}

static enum outcome encode_bytes(const struct schema *schema, const json_t *json, struct buffer *into,
                                 struct error *error)
{
    struct buffer bytes = buffer_of(into->bytes_max);
    size_t count = 0;
    struct text text = {json_string_value(json), json_string_length(json)};
    enum outcome outcome = OK;
    if (!json_is_string(json) || !add_code_points(&bytes, text, &count))
        outcome = UNFIT(error, "a string of code points up to 255");
    else if (schema->kind == SCHEMA_FIXED && count != schema->fixed_bytes)
        outcome = error_reject(error, "schema-invalid", "must be %zu bytes", schema->fixed_bytes);
    if (outcome == OK) {
        if (schema->kind == SCHEMA_BYTES)
            codec_add_long(into, (int64_t)count);
        buffer_add_text(into, buffer_text(&bytes));
        into->failed |= bytes.failed;
    }
    buffer_free(&bytes);
    return outcome;
}

static enum outcome encode_number(const struct schema *schema, const json_t *json, struct buffer *into,
                                  struct error *error)
{
    bool whole = schema->kind == SCHEMA_INT || schema->kind == SCHEMA_LONG;
    if (whole ? !json_is_integer(json) : !json_is_number(json))
        return UNFIT(error, whole ? "an integer" : "a number");
    int64_t value = json_integer_value(json);
    if (schema->kind == SCHEMA_INT && (value < INT32_MIN || value > INT32_MAX))
        return UNFIT(error, "an integer of 32 bits");
    if (whole) {
        codec_add_long(into, value);
    } else if (schema->kind == SCHEMA_FLOAT) {
        float narrow = (float)json_number_value(json);
        buffer_add(into, &narrow, sizeof(narrow));
    } else {
        double wide = json_number_value(json);
        buffer_add(into, &wide, sizeof(wide));
    }
    return OK;
}

static enum outcome encode_record(const struct schema *schema, const json_t *json, struct buffer *into,
                                  struct error *error)
{
    if (!json_is_object(json))
        return UNFIT(error, "an object");
    for (size_t i = 0; i < schema->count; i++) {
        const struct schema_field *field = &schema->fields[i];
        const json_t *value = json_object_get(json, field->name.at);
        enum outcome outcome = OK;
        if (value)
            outcome = schema_default_encode(field->schema, value, into, error);
        else if (field->has_default)
            buffer_add_text(into, field->default_bytes);
        else
            outcome = error_reject(error, "schema-invalid", "is missing");
        if (outcome != OK) {
            error_prefix(error, "%s", field->name.at);
            return outcome;
        }
    }
    return OK;
}

static enum outcome encode_enum(const struct schema *schema, const json_t *json, struct buffer *into,
                                struct error *error)
{
    for (size_t i = 0; json_is_string(json) && i < schema->count; i++) {
        if (text_is(schema->symbols[i], json_string_value(json))) {
            codec_add_long(into, (int64_t)i);
            return OK;
        }
    }
    return UNFIT(error, "one of the symbols");
}

static enum outcome encode_array(const struct schema *schema, const json_t *json, struct buffer *into,
                                 struct error *error)
{
    if (!json_is_array(json))
        return UNFIT(error, "an array");
    if (json_array_size(json))
        codec_add_long(into, (int64_t)json_array_size(json));
    for (size_t i = 0; i < json_array_size(json); i++) {
        enum outcome outcome = schema_default_encode(schema->items, json_array_get(json, i), into, error);
        if (outcome != OK)
            return outcome;
    }
    codec_add_long(into, 0);
    return OK;
}

static enum outcome encode_map(const struct schema *schema, const json_t *json, struct buffer *into,
                               struct error *error)
{
    if (!json_is_object(json))
        return UNFIT(error, "an object");
    if (json_object_size(json))
        codec_add_long(into, (int64_t)json_object_size(json));
    /* jansson's iterator takes what it does not change as not const. */
    for (void *at = json_object_iter((json_t *)(uintptr_t)json); at;
         at = json_object_iter_next((json_t *)(uintptr_t)json, at)) {
        struct text key = text_of(json_object_iter_key(at));
        codec_add_long(into, (int64_t)key.length);
        buffer_add_text(into, key);
        enum outcome outcome = schema_default_encode(schema->items, json_object_iter_value(at), into, error);
        if (outcome != OK)
            return outcome;
    }
    codec_add_long(into, 0);
    return OK;
}

enum outcome schema_default_encode(const struct schema *schema, const struct json_t *json,
                                   struct buffer *into, struct error *error)
{
    switch (schema->kind) {
    case SCHEMA_NULL:
        return json_is_null(json) ? OK : UNFIT(error, "null");
    case SCHEMA_BOOLEAN:
        if (!json_is_boolean(json))
            return UNFIT(error, "true or false");
        buffer_add_char(into, json_is_true(json) ? 1 : 0);
        return OK;
    case SCHEMA_INT:
    case SCHEMA_LONG:
    case SCHEMA_FLOAT:
    case SCHEMA_DOUBLE:
        return encode_number(schema, json, into, error);
    case SCHEMA_BYTES:
    case SCHEMA_FIXED:
        return encode_bytes(schema, json, into, error);
    case SCHEMA_STRING:
        if (!json_is_string(json))
            return UNFIT(error, "a string");
        codec_add_long(into, (int64_t)json_string_length(json));
        buffer_add(into, json_string_value(json), json_string_length(json));
        return OK;
    case SCHEMA_RECORD:
        return encode_record(schema, json, into, error);
    case SCHEMA_ENUM:
        return encode_enum(schema, json, into, error);
    case SCHEMA_ARRAY:
        return encode_array(schema, json, into, error);
    case SCHEMA_MAP:
        return encode_map(schema, json, into, error);
    case SCHEMA_UNION:
        /* Avro 1.11: a default is of the first branch. */
        codec_add_long(into, 0);
        return schema_default_encode(schema->branches[0], json, into, error);
    case SCHEMA_KIND_COUNT:
        break;
    }
    return UNFIT(error, "of a known type");
}
