#include "wire/schema_tree.h"

#include <stdlib.h>

bool schema_same(const struct schema *a, const struct schema *b)
{
    if (a == b)
        return true;
    if (a->kind != b->kind || a->count != b->count || a->fixed_bytes != b->fixed_bytes ||
        !text_equal(a->name, b->name))
        return false;
    if (a->items && !schema_same(a->items, b->items))
        return false;
    for (size_t i = 0; i < a->count; i++) {
        if (a->symbols && !text_equal(a->symbols[i], b->symbols[i]))
            return false;
        if (a->branches && !schema_same(a->branches[i], b->branches[i]))
            return false;
        if (a->fields && (!text_equal(a->fields[i].name, b->fields[i].name) ||
                          !schema_same(a->fields[i].schema, b->fields[i].schema)))
            return false;
    }
    return true;
}

/* Named types that were written out already; from then on they stand as their names. */
struct written {
    const struct schema *schema[SCHEMA_FIELDS_MAX];
    size_t count;
};

static void add_quoted(struct buffer *into, struct text text)
{
    buffer_add_char(into, '"');
    buffer_add_text(into, text);
    buffer_add_char(into, '"');
}

static void canonical(const struct schema *schema, struct written *written, struct buffer *into);

static void canonical_record(const struct schema *schema, struct written *written, struct buffer *into)
{
    buffer_add_string(into, ",\"fields\":[");
    for (size_t i = 0; i < schema->count; i++) {
        buffer_add_string(into, i ? ",{\"name\":" : "{\"name\":");
        add_quoted(into, schema->fields[i].name);
        buffer_add_string(into, ",\"type\":");
        canonical(schema->fields[i].schema, written, into);
        buffer_add_char(into, '}');
    }
    buffer_add_string(into, "]}");
}

static void canonical_named(const struct schema *schema, struct written *written, struct buffer *into)
{
    for (size_t i = 0; i < written->count; i++) {
        if (text_equal(written->schema[i]->name, schema->name)) {
            add_quoted(into, schema->name);
            return;
        }
    }
    if (written->count < SCHEMA_FIELDS_MAX)
        written->schema[written->count++] = schema;
    buffer_add_string(into, "{\"name\":");
    add_quoted(into, schema->name);
    buffer_add_string(into, ",\"type\":\"");
    buffer_add_string(into, schema_kind_name(schema->kind));
    buffer_add_char(into, '"');
    if (schema->kind == SCHEMA_RECORD) {
        canonical_record(schema, written, into);
    } else if (schema->kind == SCHEMA_ENUM) {
        buffer_add_string(into, ",\"symbols\":[");
        for (size_t i = 0; i < schema->count; i++) {
            if (i)
                buffer_add_char(into, ',');
            add_quoted(into, schema->symbols[i]);
        }
        buffer_add_string(into, "]}");
    } else {
        buffer_print(into, ",\"size\":%zu}", schema->fixed_bytes);
    }
}

static void canonical(const struct schema *schema, struct written *written, struct buffer *into)
{
    if (schema_is_named(schema)) {
        canonical_named(schema, written, into);
    } else if (schema->kind == SCHEMA_ARRAY || schema->kind == SCHEMA_MAP) {
        buffer_add_string(into, schema->kind == SCHEMA_ARRAY ? "{\"type\":\"array\",\"items\":"
                                                             : "{\"type\":\"map\",\"values\":");
        canonical(schema->items, written, into);
        buffer_add_char(into, '}');
    } else if (schema->kind == SCHEMA_UNION) {
        for (size_t i = 0; i < schema->count; i++) {
            buffer_add_char(into, i ? ',' : '[');
            canonical(schema->branches[i], written, into);
        }
        buffer_add_char(into, ']');
    } else {
        add_quoted(into, schema->name);
    }
}

void schema_canonical(const struct schema *schema, struct buffer *into)
{
    struct written *written = calloc(1, sizeof(*written));
    if (!written) {
        into->failed = true;
        return;
    }
    canonical(schema, written, into);
    free(written);
}

uint64_t schema_fingerprint(const struct schema *schema)
{
    static const uint64_t empty = 0xc15d213aa4d7a795u;
    struct buffer form = buffer_of(SCHEMA_TEXT_BYTES_MAX);
    schema_canonical(schema, &form);
    uint64_t fingerprint = empty;
    for (size_t i = 0; i < form.length; i++) {
        uint64_t row = (fingerprint ^ (unsigned char)form.at[i]) & 0xff;
        for (int bit = 0; bit < 8; bit++)
            row = (row >> 1) ^ (empty & (0 - (row & 1)));
        fingerprint = (fingerprint >> 8) ^ row;
    }
    buffer_free(&form);
    return fingerprint;
}
