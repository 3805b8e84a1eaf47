#include "wire/codec.h"

#include "wire/codec_type.h"

const struct codec_type *codec_type_new(const struct schema *schema, struct arena *arena)
{
    struct codec_type *type = arena_take_zeroed(arena, sizeof(*type));
    if (type)
        type->schema = schema;
    return type;
}

/* ---- encode: by table, for types without straight-line code and for what that code refused */

static enum outcome encode(const struct schema *schema, const void *data, struct buffer *into,
                           struct error *error);

static enum outcome encode_text(const struct schema *schema, struct text text, struct buffer *into,
                                struct error *error)
{
    if (schema->kind == SCHEMA_FIXED && text.length != schema->fixed_bytes)
        return error_reject(error, "avro-value", "%zu bytes, not %zu", text.length, schema->fixed_bytes);
    if (schema->kind == SCHEMA_STRING && !codec_is_utf8(text))
        return error_reject(error, "avro-value", "text that is not UTF-8");
    if (schema->kind != SCHEMA_FIXED)
        codec_add_long(into, (int64_t)text.length);
    buffer_add_text(into, text);
    return OK;
}

static enum outcome encode_index(const struct schema *schema, int32_t index, struct buffer *into,
                                 struct error *error)
{
    if (index < 0 || (size_t)index >= schema->count)
        return error_reject(error, "avro-value", "%s %d of %zu",
                            schema->kind == SCHEMA_ENUM ? "symbol" : "branch", index, schema->count);
    codec_add_long(into, index);
    return OK;
}

static enum outcome encode_list(const struct schema *schema, const struct schema_list *list,
                                struct buffer *into, struct error *error)
{
    if (list->count)
        codec_add_long(into, (int64_t)list->count);
    for (size_t i = 0; i < list->count && !into->failed; i++) {
        const char *entry = (const char *)list->at + i * schema->entry_size;
        enum outcome outcome = OK;
        if (schema->kind == SCHEMA_MAP) {
            const struct text *key = (const void *)entry;
            if (!codec_is_utf8(*key))
                outcome = error_reject(error, "avro-value", "a key that is not UTF-8");
            codec_add_long(into, (int64_t)key->length);
            buffer_add_text(into, *key);
            entry += schema->value_offset;
        }
        if (outcome == OK)
            outcome = encode(schema->items, entry, into, error);
        if (outcome != OK) {
            error_prefix(error, "[%zu]", i);
            return outcome;
        }
    }
    codec_add_long(into, 0);
    return OK;
}

static enum outcome encode_record(const struct schema *schema, const char *data, struct buffer *into,
                                  struct error *error)
{
    for (size_t i = 0; i < schema->count; i++) {
        const struct schema_field *field = &schema->fields[i];
        enum outcome outcome = encode(field->schema, data + field->offset, into, error);
        if (outcome != OK) {
            error_prefix(error, "%.*s", TEXT_ARG(field->name));
            return outcome;
        }
    }
    return OK;
}

static enum outcome encode(const struct schema *schema, const void *data, struct buffer *into,
                           struct error *error)
{
    switch (schema->kind) {
    case SCHEMA_NULL:
    case SCHEMA_KIND_COUNT:
        return OK;
    case SCHEMA_BOOLEAN:
        buffer_add_char(into, *(const bool *)data ? 1 : 0);
        return OK;
    case SCHEMA_INT:
        codec_add_long(into, *(const int32_t *)data);
        return OK;
    case SCHEMA_LONG:
        codec_add_long(into, *(const int64_t *)data);
        return OK;
    case SCHEMA_FLOAT:
        buffer_add(into, data, sizeof(float));
        return OK;
    case SCHEMA_DOUBLE:
        buffer_add(into, data, sizeof(double));
        return OK;
    case SCHEMA_BYTES:
    case SCHEMA_STRING:
    case SCHEMA_FIXED:
        return encode_text(schema, *(const struct text *)data, into, error);
    case SCHEMA_ENUM:
        return encode_index(schema, *(const int32_t *)data, into, error);
    case SCHEMA_RECORD:
        return encode_record(schema, data, into, error);
    case SCHEMA_ARRAY:
    case SCHEMA_MAP:
        return encode_list(schema, data, into, error);
    case SCHEMA_UNION: {
        int32_t branch = schema_union_branch(schema, data);
        enum outcome outcome = encode_index(schema, branch, into, error);
        if (outcome != OK)
            return outcome;
        return encode(schema->branches[branch], (const char *)data + schema->value_offset, into, error);
    }
    }
    return OK;
}

enum outcome codec_encode(const struct codec_type *type, const void *data, struct buffer *into,
                          struct error *error)
{
    size_t before = into->length;
    if (type->encode) {
        size_t bound = type->bound(data);
        size_t left = into->bytes_max > before ? into->bytes_max - before : 0;
        unsigned char *at = bound <= left && bound <= CODEC_ENCODED_BYTES_MAX
                                ? (unsigned char *)buffer_room(into, bound)
                                : NULL;
        unsigned char *end = at ? type->encode(at, data) : NULL;
        if (end) {
            into->length += (size_t)(end - at);
            return OK;
        }
    }
    enum outcome outcome = encode(type->schema, data, into, error);
    size_t bytes = into->length - before;
    if (outcome == OK && !into->failed && bytes <= CODEC_ENCODED_BYTES_MAX)
        return OK;
    into->length = before;
    if (outcome == OK)
        outcome = error_reject(error, "avro-too-long", "%.*s is longer than its buffer or %d bytes",
                               TEXT_ARG(type->schema->name), CODEC_ENCODED_BYTES_MAX);
    else
        error_prefix(error, "%.*s", TEXT_ARG(type->schema->name));
    return outcome;
}

/* ---- copy */

static bool copy_parts(const struct schema *schema, void *data, struct arena *arena);

static bool copy_list(const struct schema *schema, struct schema_list *list, struct arena *arena)
{
    if (!list->count) {
        list->at = NULL;
        return true;
    }
    list->at = arena_copy(arena, list->at, list->count * schema->entry_size);
    if (!list->at)
        return false;
    for (size_t i = 0; i < list->count; i++) {
        char *entry = (char *)list->at + i * schema->entry_size;
        if (schema->kind == SCHEMA_MAP) {
            struct text *key = (void *)entry;
            *key = text_copy(arena, *key);
            if (!key->at)
                return false;
            entry += schema->value_offset;
        }
        if (!copy_parts(schema->items, entry, arena))
            return false;
    }
    return true;
}

/* data is a copy whose pointers still are the original's. */
static bool copy_parts(const struct schema *schema, void *data, struct arena *arena)
{
    switch (schema->kind) {
    case SCHEMA_BYTES:
    case SCHEMA_STRING:
    case SCHEMA_FIXED: {
        struct text *text = data;
        *text = text_copy(arena, *text);
        return text->at != NULL;
    }
    case SCHEMA_RECORD:
        for (size_t i = 0; i < schema->count; i++)
            if (!copy_parts(schema->fields[i].schema, (char *)data + schema->fields[i].offset, arena))
                return false;
        return true;
    case SCHEMA_ARRAY:
    case SCHEMA_MAP:
        return copy_list(schema, data, arena);
    case SCHEMA_UNION:
        return copy_parts(schema->branches[schema_union_branch(schema, data)],
                          (char *)data + schema->value_offset, arena);
    case SCHEMA_NULL:
    case SCHEMA_BOOLEAN:
    case SCHEMA_INT:
    case SCHEMA_LONG:
    case SCHEMA_FLOAT:
    case SCHEMA_DOUBLE:
    case SCHEMA_ENUM:
    case SCHEMA_KIND_COUNT:
        return true;
    }
    return true;
}

void *codec_copy(const struct codec_type *type, const void *data, struct arena *arena)
{
    void *copy = arena_copy(arena, data, type->schema->size);
    return copy && copy_parts(type->schema, copy, arena) ? copy : NULL;
}
