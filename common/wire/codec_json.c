#include "wire/codec.h"

#include "base/clock.h"
#include "base/digest.h"
#include "wire/codec_type.h"

#include <stdarg.h>
#include <stdio.h>

/* What vsnprintf() has cut must not end within a character. Returns the length that is left. */
static size_t cut(char *text, size_t length)
{
    while (length && ((unsigned char)text[length - 1] & 0xc0) == 0x80)
        length--;
    if (length && (unsigned char)text[length - 1] >= 0xc0)
        length--;
    text[length] = '\0';
    return length;
}

void codec_fault_add(struct codec_faults *faults, const char *reason, const char *path_format, ...)
{
    if (!faults || faults->count == CODEC_FAULTS_MAX)
        return;
    struct codec_fault *fault = &faults->fault[faults->count++];
    va_list arguments;
    va_start(arguments, path_format);
    int length = vsnprintf(fault->path, sizeof(fault->path), path_format, arguments);
    va_end(arguments);
    if (length >= (int)sizeof(fault->path))
        cut(fault->path, sizeof(fault->path) - 1);
    snprintf(fault->reason, sizeof(fault->reason), "%s", reason);
}

/* ---- reading */

struct reader {
    struct arena *arena;
    struct codec_faults *faults; /* NULL while a branch of a union is only tried */
    bool faulty;
    bool no_memory;
    char path[CODEC_FAULT_PATH_BYTES_MAX];
    size_t path_length;
};

static void read_value(struct reader *reader, const struct schema *schema, const json_t *json, void *to);

static void fault(struct reader *reader, const char *reason)
{
    reader->faulty = true;
    codec_fault_add(reader->faults, reason, "%s", reader->path);
}

/* Adds to the path; returns the length to go back to. What does not fit is cut. */
static size_t path_push(struct reader *reader, const char *format, ...) PRINTF_LIKE(2, 3);
static size_t path_push(struct reader *reader, const char *format, ...)
{
    size_t before = reader->path_length, room = sizeof(reader->path) - before;
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(reader->path + before, room, format, arguments);
    va_end(arguments);
    if (length > 0 && (size_t)length < room)
        reader->path_length += (size_t)length;
    else if (length > 0)
        reader->path_length = cut(reader->path, sizeof(reader->path) - 1);
    return before;
}

static size_t path_push_member(struct reader *reader, const char *name)
{
    return path_push(reader, "%s%s", reader->path_length ? "." : "", name);
}

static void path_pop(struct reader *reader, size_t before)
{
    reader->path_length = before;
    reader->path[before] = '\0';
}

static void *take(struct reader *reader, size_t bytes)
{
    void *at = arena_take_zeroed(reader->arena, bytes);
    reader->no_memory |= !at;
    return at;
}

static void read_number(struct reader *reader, const struct schema *schema, const json_t *json, void *to)
{
    if (schema_is_timestamp_micros(schema) && json_is_string(json)) {
        struct text text = {json_string_value(json), json_string_length(json)};
        if (!clock_from_rfc3339(text, to))
            fault(reader, "must be a time as in RFC 3339, or microseconds since 1970");
        return;
    }
    bool whole = schema->kind == SCHEMA_INT || schema->kind == SCHEMA_LONG;
    if (whole ? !json_is_integer(json) : !json_is_number(json)) {
        fault(reader, whole ? "must be an integer" : "must be a number");
        return;
    }
    int64_t value = json_integer_value(json);
    if (schema->kind == SCHEMA_INT && (value < INT32_MIN || value > INT32_MAX))
        fault(reader, "must be an integer of 32 bits");
    else if (schema->kind == SCHEMA_INT)
        *(int32_t *)to = (int32_t)value;
    else if (schema->kind == SCHEMA_LONG)
        *(int64_t *)to = value;
    else if (schema->kind == SCHEMA_FLOAT)
        *(float *)to = (float)json_number_value(json);
    else
        *(double *)to = json_number_value(json);
}

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* RFC 4648, padded. ret has room for 3 bytes a group of 4. */
static bool base64_decode(struct text text, char *ret, size_t *ret_length)
{
    size_t length = 0, digits = text.length;
    if (text.length % 4)
        return false;
    while (digits && text.length - digits < 2 && text.at[digits - 1] == '=')
        digits--;
    uint32_t word = 0;
    for (size_t i = 0; i < digits; i++) {
        int digit = base64_digit(text.at[i]);
        if (digit < 0)
            return false;
        word = word << 6 | (uint32_t)digit;
        if (i % 4 != 0)
            ret[length++] = (char)(word >> (6 - 2 * (i % 4)));
    }
    /* Bits that no byte has must be 0, so that a value has one form. */
    if ((digits % 4 == 2 && (word & 0xf)) || (digits % 4 == 3 && (word & 3)))
        return false;
    *ret_length = length;
    return true;
}

static void read_text(struct reader *reader, const struct schema *schema, const json_t *json, struct text *to)
{
    struct text text = {json_string_value(json), json_string_length(json)};
    if (!json_is_string(json)) {
        fault(reader, schema->kind == SCHEMA_STRING ? "must be a string" : "must be a string in base64");
        return;
    }
    if (schema->kind == SCHEMA_STRING) {
        *to = text_copy(reader->arena, text);
        reader->no_memory |= !to->at;
        return;
    }
    char *at = take(reader, text.length);
    if (!at)
        return;
    if (!base64_decode(text, at, &to->length))
        fault(reader, "must be a string in base64");
    else if (schema->kind == SCHEMA_FIXED && to->length != schema->fixed_bytes)
        fault(reader, "is not as long as its type");
    else
        to->at = at;
}

static void read_enum(struct reader *reader, const struct schema *schema, const json_t *json, int32_t *to)
{
    for (size_t i = 0; json_is_string(json) && i < schema->count; i++) {
        if (text_is(schema->symbols[i], json_string_value(json))) {
            *to = (int32_t)i;
            return;
        }
    }
    fault(reader, "must be one of the enum's symbols");
}

/* A default is decoded by the very schema that it was encoded by; it cannot fail but for memory. */
static void read_default(struct reader *reader, const struct schema_field *field, void *to)
{
    const struct codec_type type = {.schema = field->schema};
    const struct codec_plan *plan;
    const void *data;
    if (codec_plan_new(field->schema, &type, reader->arena, &plan, NULL) == OK &&
        codec_decode(plan, field->default_bytes, reader->arena, &data, NULL) == OK)
        memcpy(to, data, field->schema->size);
    else
        reader->no_memory = true;
}

static void read_record(struct reader *reader, const struct schema *schema, const json_t *json, char *to)
{
    if (!json_is_object(json)) {
        fault(reader, "must be an object");
        return;
    }
    size_t found = 0;
    for (size_t i = 0; i < schema->count && !reader->no_memory; i++) {
        const struct schema_field *field = &schema->fields[i];
        const json_t *value = json_object_getn(json, field->name.at, field->name.length);
        size_t before = path_push_member(reader, field->name.at);
        if (value) {
            found++;
            read_value(reader, field->schema, value, to + field->offset);
        } else if (field->has_default) {
            read_default(reader, field, to + field->offset);
        } else {
            fault(reader, "is missing");
        }
        path_pop(reader, before);
    }
    if (found == json_object_size(json))
        return;
    /* jansson's iterator takes what it does not change as not const. */
    json_t *object = (json_t *)(uintptr_t)json;
    for (void *at = json_object_iter(object); at; at = json_object_iter_next(object, at)) {
        struct text name = text_of(json_object_iter_key(at));
        bool known = false;
        for (size_t i = 0; i < schema->count && !known; i++)
            known = text_equal(schema->fields[i].name, name);
        if (known)
            continue;
        size_t before = path_push_member(reader, name.at);
        fault(reader, "is not a known field");
        path_pop(reader, before);
    }
}

static void read_array(struct reader *reader, const struct schema *schema, const json_t *json,
                       struct schema_list *to)
{
    if (!json_is_array(json)) {
        fault(reader, "must be an array");
        return;
    }
    size_t count = json_array_size(json);
    char *entry = take(reader, count * schema->entry_size);
    *to = (struct schema_list){entry, count};
    for (size_t i = 0; i < count && !reader->no_memory; i++, entry += schema->entry_size) {
        size_t before = path_push(reader, "[%zu]", i);
        read_value(reader, schema->items, json_array_get(json, i), entry);
        path_pop(reader, before);
    }
}

static void read_map(struct reader *reader, const struct schema *schema, const json_t *json,
                     struct schema_list *to)
{
    if (!json_is_object(json)) {
        fault(reader, "must be an object");
        return;
    }
    json_t *object = (json_t *)(uintptr_t)json;
    size_t count = json_object_size(json);
    char *entry = take(reader, count * schema->entry_size);
    *to = (struct schema_list){entry, count};
    for (void *at = json_object_iter(object); at && !reader->no_memory;
         at = json_object_iter_next(object, at), entry += schema->entry_size) {
        struct text *key = (void *)entry;
        *key = text_copy(reader->arena, text_of(json_object_iter_key(at)));
        reader->no_memory |= !key->at;
        size_t before = path_push_member(reader, json_object_iter_key(at));
        read_value(reader, schema->items, json_object_iter_value(at), entry + schema->value_offset);
        path_pop(reader, before);
    }
}

static void read_union(struct reader *reader, const struct schema *schema, const json_t *json, char *to)
{
    struct codec_faults *faults = reader->faults;
    bool faulty = reader->faulty;
    for (size_t i = 0; i < schema->count; i++) {
        const struct schema *branch = schema->branches[i];
        if ((branch->kind == SCHEMA_NULL) != json_is_null(json))
            continue;
        schema_union_set_branch(schema, to, (int32_t)i);
        /* With one choice its faults are worth telling. */
        if (schema->optional || schema->count == 1) {
            read_value(reader, branch, json, to + schema->value_offset);
            return;
        }
        struct arena_mark mark = arena_mark(reader->arena);
        reader->faults = NULL;
        reader->faulty = false;
        read_value(reader, branch, json, to + schema->value_offset);
        bool fits = !reader->faulty;
        reader->faults = faults;
        reader->faulty = faulty;
        if (fits || reader->no_memory)
            return;
        arena_rewind(reader->arena, mark);
    }
    fault(reader, schema->optional ? "must not be null" : "fits no branch of its union");
}

static void read_value(struct reader *reader, const struct schema *schema, const json_t *json, void *to)
{
    switch (schema->kind) {
    case SCHEMA_NULL:
        if (!json_is_null(json))
            fault(reader, "must be null");
        return;
    case SCHEMA_BOOLEAN:
        if (json_is_boolean(json))
            *(bool *)to = json_is_true(json);
        else
            fault(reader, "must be true or false");
        return;
    case SCHEMA_INT:
    case SCHEMA_LONG:
    case SCHEMA_FLOAT:
    case SCHEMA_DOUBLE:
        read_number(reader, schema, json, to);
        return;
    case SCHEMA_BYTES:
    case SCHEMA_STRING:
    case SCHEMA_FIXED:
        read_text(reader, schema, json, to);
        return;
    case SCHEMA_RECORD:
        read_record(reader, schema, json, to);
        return;
    case SCHEMA_ENUM:
        read_enum(reader, schema, json, to);
        return;
    case SCHEMA_ARRAY:
        read_array(reader, schema, json, to);
        return;
    case SCHEMA_MAP:
        read_map(reader, schema, json, to);
        return;
    case SCHEMA_UNION:
        read_union(reader, schema, json, to);
        return;
    case SCHEMA_KIND_COUNT:
        return;
    }
}

enum outcome codec_from_json(const struct codec_type *type, const json_t *json, struct arena *arena,
                             void **ret_data, struct codec_faults *faults, struct error *error)
{
    struct codec_faults own; /* large: not cleared */
    own.count = 0;
    struct reader reader = {.arena = arena, .faults = faults ? faults : &own};
    size_t before = reader.faults->count;
    void *data = take(&reader, type->schema->size);
    if (data)
        read_value(&reader, type->schema, json, data);
    if (reader.no_memory)
        return error_retry(error, "memory", "out of memory for JSON");
    if (reader.faulty) {
        const struct codec_fault *first =
            before < reader.faults->count ? &reader.faults->fault[before] : NULL;
        return error_reject(error, "json-invalid", "%s%s%s", first ? first->path : "",
                            first && first->path[0] ? " " : "", first ? first->reason : "is not valid");
    }
    *ret_data = data;
    return OK;
}

/* ---- writing */

/* What RFC 3339 can say: the years 0001 to 9999. */
static const int64_t time_us_min = -62135596800000000, time_us_max = 253402300799999999;

static void write_value(const struct schema *schema, const void *data, struct json_writer *writer);

static void write_long(const struct schema *schema, int64_t value, struct json_writer *writer)
{
    char into[CLOCK_RFC3339_BYTES_MAX];
    if (schema_is_timestamp_micros(schema) && value >= time_us_min && value <= time_us_max)
        json_put_text(writer, text_of(clock_to_rfc3339(value, into)));
    else
        json_put_int(writer, value);
}

static void write_base64(struct text bytes, struct json_writer *writer)
{
    struct buffer text = buffer_of(2 * bytes.length + 8);
    digest_to_base64(&text, bytes.length ? bytes.at : "", bytes.length);
    json_put_text(writer, buffer_text(&text));
    writer->into->failed |= text.failed;
    buffer_free(&text);
}

static void write_list(const struct schema *schema, const struct schema_list *list,
                       struct json_writer *writer)
{
    bool map = schema->kind == SCHEMA_MAP;
    if (map)
        json_object_begin(writer);
    else
        json_array_begin(writer);
    for (size_t i = 0; i < list->count; i++) {
        const char *entry = (const char *)list->at + i * schema->entry_size;
        if (map)
            json_key_text(writer, *(const struct text *)(const void *)entry);
        write_value(schema->items, entry + schema->value_offset, writer);
    }
    if (map)
        json_object_end(writer);
    else
        json_array_end(writer);
}

static void write_value(const struct schema *schema, const void *data, struct json_writer *writer)
{
    int32_t index;
    switch (schema->kind) {
    case SCHEMA_NULL:
    case SCHEMA_KIND_COUNT:
        json_put_null(writer);
        return;
    case SCHEMA_BOOLEAN:
        json_put_bool(writer, *(const bool *)data);
        return;
    case SCHEMA_INT:
        json_put_int(writer, *(const int32_t *)data);
        return;
    case SCHEMA_LONG:
        write_long(schema, *(const int64_t *)data, writer);
        return;
    case SCHEMA_FLOAT:
        json_put_double(writer, (double)*(const float *)data);
        return;
    case SCHEMA_DOUBLE:
        json_put_double(writer, *(const double *)data);
        return;
    case SCHEMA_STRING:
        json_put_text(writer, *(const struct text *)data);
        return;
    case SCHEMA_BYTES:
    case SCHEMA_FIXED:
        write_base64(*(const struct text *)data, writer);
        return;
    case SCHEMA_ENUM:
        index = *(const int32_t *)data;
        if (index >= 0 && (size_t)index < schema->count)
            json_put_text(writer, schema->symbols[index]);
        else
            json_put_null(writer);
        return;
    case SCHEMA_RECORD:
        json_object_begin(writer);
        for (size_t i = 0; i < schema->count; i++) {
            json_key_text(writer, schema->fields[i].name);
            write_value(schema->fields[i].schema, (const char *)data + schema->fields[i].offset, writer);
        }
        json_object_end(writer);
        return;
    case SCHEMA_ARRAY:
    case SCHEMA_MAP:
        write_list(schema, data, writer);
        return;
    case SCHEMA_UNION:
        index = schema_union_branch(schema, data);
        if (index >= 0 && (size_t)index < schema->count)
            write_value(schema->branches[index], (const char *)data + schema->value_offset, writer);
        else
            json_put_null(writer);
        return;
    }
}

void codec_to_json(const struct codec_type *type, const void *data, struct json_writer *writer)
{
    write_value(type->schema, data, writer);
}
