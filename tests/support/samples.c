#include "support/samples.h"

#include <assert.h>

enum { FIELDS_MAX = 6, ITEMS_MAX = 5, TEXT_MAX = 24 };

uint64_t samples_next(struct samples *samples)
{
    /* splitmix64 */
    uint64_t value = samples->state += 0x9e3779b97f4a7c15u;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

size_t samples_below(struct samples *samples, size_t count)
{
    return (size_t)(samples_next(samples) % count);
}

/* ---- schemas */

static void add_schema(struct samples *samples, int depth, unsigned used, struct buffer *into);

static void add_record(struct samples *samples, int depth, struct buffer *into)
{
    size_t count = samples_below(samples, FIELDS_MAX) + (depth > 2);
    buffer_print(into, "{\"type\":\"record\",\"name\":\"Record%d\",\"fields\":[", samples->names++);
    for (size_t i = 0; i < count; i++) {
        buffer_print(into, "%s{\"name\":\"field%zu\",\"type\":", i ? "," : "", i);
        add_schema(samples, depth - 1, 0, into);
        buffer_add_char(into, '}');
    }
    buffer_add_string(into, "]}");
}

static void add_enum(struct samples *samples, struct buffer *into)
{
    size_t count = samples_below(samples, 6) + 1;
    buffer_print(into, "{\"type\":\"enum\",\"name\":\"Enum%d\",\"symbols\":[", samples->names++);
    for (size_t i = 0; i < count; i++)
        buffer_print(into, "%s\"SYMBOL%zu\"", i ? "," : "", i);
    buffer_add_string(into, "]}");
}

static void add_union(struct samples *samples, int depth, struct buffer *into)
{
    size_t count = samples_below(samples, 4) + 1;
    unsigned used = 1u << SCHEMA_UNION;
    buffer_add_char(into, '[');
    for (size_t i = 0; i < count; i++) {
        if (i)
            buffer_add_char(into, ',');
        struct buffer branch = buffer_of(into->bytes_max);
        enum schema_kind kind;
        do
            kind = (enum schema_kind)samples_below(samples, SCHEMA_KIND_COUNT);
        while (used & (1u << kind));
        /* Named types may be there more than once: their names differ. */
        if (kind != SCHEMA_RECORD && kind != SCHEMA_ENUM && kind != SCHEMA_FIXED)
            used |= 1u << kind;
        add_schema(samples, depth - 1, ~(1u << kind), &branch);
        buffer_add_text(into, buffer_text(&branch));
        buffer_free(&branch);
    }
    buffer_add_char(into, ']');
}

/* unwanted: kinds that may not be taken, by bit. */
static void add_schema(struct samples *samples, int depth, unsigned unwanted, struct buffer *into)
{
    enum schema_kind kind;
    do
        kind = (enum schema_kind)samples_below(samples, SCHEMA_KIND_COUNT);
    while (unwanted & (1u << kind));
    if (kind >= SCHEMA_RECORD && depth <= 0 && !unwanted)
        kind = SCHEMA_LONG;
    switch (kind) {
    case SCHEMA_RECORD:
        add_record(samples, depth, into);
        return;
    case SCHEMA_ENUM:
        add_enum(samples, into);
        return;
    case SCHEMA_FIXED:
        buffer_print(into, "{\"type\":\"fixed\",\"name\":\"Fixed%d\",\"size\":%zu}", samples->names++,
                     samples_below(samples, 9) + 1);
        return;
    case SCHEMA_ARRAY:
        buffer_add_string(into, "{\"type\":\"array\",\"items\":");
        add_schema(samples, depth - 1, 1u << SCHEMA_NULL, into);
        buffer_add_char(into, '}');
        return;
    case SCHEMA_MAP:
        buffer_add_string(into, "{\"type\":\"map\",\"values\":");
        add_schema(samples, depth - 1, 0, into);
        buffer_add_char(into, '}');
        return;
    case SCHEMA_UNION:
        add_union(samples, depth, into);
        return;
    case SCHEMA_LONG:
        buffer_add_string(into, samples_below(samples, 3)
                                    ? "\"long\""
                                    : "{\"type\":\"long\",\"logicalType\":\"timestamp-micros\"}");
        return;
    case SCHEMA_NULL:
    case SCHEMA_BOOLEAN:
    case SCHEMA_INT:
    case SCHEMA_FLOAT:
    case SCHEMA_DOUBLE:
    case SCHEMA_BYTES:
    case SCHEMA_STRING:
    case SCHEMA_KIND_COUNT:
        buffer_print(into, "\"%s\"", schema_kind_name(kind));
        return;
    }
}

void samples_schema(struct samples *samples, int depth, struct buffer *into)
{
    add_record(samples, depth, into);
}

/* ---- values */

static int64_t random_long(struct samples *samples)
{
    switch (samples_below(samples, 6)) {
    case 0:
        return INT64_MIN;
    case 1:
        return INT64_MAX;
    case 2:
        return (int64_t)samples_below(samples, 3) - 1;
    default:
        /* any width is as likely as any other */
        return (int64_t)samples_next(samples) >> samples_below(samples, 64);
    }
}

static struct text random_text(struct samples *samples, size_t length, bool utf8, struct arena *arena)
{
    static const char *const pieces[] = {"a",  "Z",    "0", " ", "\"", "\\",
                                         "\n", "\x7f", "ß", "€", "𝄞",  "\xef\xbf\xbf"};
    char *at = arena_take(arena, length + 4);
    assert(at);
    size_t i = 0;
    while (i < length) {
        if (!utf8) {
            at[i++] = (char)samples_next(samples);
            continue;
        }
        const char *piece = pieces[samples_below(samples, sizeof(pieces) / sizeof(pieces[0]))];
        if (samples_below(samples, 16) == 0) {
            at[i++] = '\0';
        } else if (i + strlen(piece) <= length) {
            memcpy(at + i, piece, strlen(piece));
            i += strlen(piece);
        } else {
            at[i++] = 'x';
        }
    }
    return (struct text){at, length};
}

static void random_into(struct samples *samples, const struct schema *schema, void *to, struct arena *arena);

static void random_list(struct samples *samples, const struct schema *schema, struct schema_list *to,
                        struct arena *arena)
{
    size_t count = samples_below(samples, ITEMS_MAX);
    char *entry = arena_take_zeroed(arena, count * schema->entry_size);
    assert(entry);
    *to = (struct schema_list){entry, count};
    for (size_t i = 0; i < count; i++, entry += schema->entry_size) {
        if (schema->kind == SCHEMA_MAP)
            *(struct text *)(void *)entry =
                text_of(arena_print(arena, "key%zu-%zu", i, samples_below(samples, 9)));
        random_into(samples, schema->items, entry + schema->value_offset, arena);
    }
}

static void random_into(struct samples *samples, const struct schema *schema, void *to, struct arena *arena)
{
    int32_t branch;
    switch (schema->kind) {
    case SCHEMA_NULL:
    case SCHEMA_KIND_COUNT:
        return;
    case SCHEMA_BOOLEAN:
        *(bool *)to = samples_below(samples, 2);
        return;
    case SCHEMA_INT:
        *(int32_t *)to = (int32_t)(uint32_t)random_long(samples);
        return;
    case SCHEMA_LONG:
        *(int64_t *)to = random_long(samples);
        return;
    case SCHEMA_FLOAT:
        *(float *)to = (float)random_long(samples) / 7;
        return;
    case SCHEMA_DOUBLE:
        *(double *)to = (double)random_long(samples) / 7 * (samples_below(samples, 2) ? 1e280 : 1e-290);
        return;
    case SCHEMA_BYTES:
    case SCHEMA_STRING:
        *(struct text *)to =
            random_text(samples, samples_below(samples, TEXT_MAX), schema->kind == SCHEMA_STRING, arena);
        return;
    case SCHEMA_FIXED:
        *(struct text *)to = random_text(samples, schema->fixed_bytes, false, arena);
        return;
    case SCHEMA_RECORD:
        for (size_t i = 0; i < schema->count; i++)
            random_into(samples, schema->fields[i].schema, (char *)to + schema->fields[i].offset, arena);
        return;
    case SCHEMA_ENUM:
        *(int32_t *)to = (int32_t)samples_below(samples, schema->count);
        return;
    case SCHEMA_ARRAY:
    case SCHEMA_MAP:
        random_list(samples, schema, to, arena);
        return;
    case SCHEMA_UNION:
        branch = (int32_t)samples_below(samples, schema->count);
        schema_union_set_branch(schema, to, branch);
        random_into(samples, schema->branches[branch], (char *)to + schema->value_offset, arena);
        return;
    }
}

void *samples_value(struct samples *samples, const struct schema *schema, struct arena *arena)
{
    void *value = arena_take_zeroed(arena, schema->size);
    assert(value);
    random_into(samples, schema, value, arena);
    return value;
}

/* ---- comparing */

static bool lists_same(const struct schema *schema, const struct schema_list *a, const struct schema_list *b)
{
    if (a->count != b->count)
        return false;
    const char *left = a->at, *right = b->at;
    for (size_t i = 0; i < a->count; i++, left += schema->entry_size, right += schema->entry_size) {
        if (schema->kind == SCHEMA_MAP &&
            !text_equal(*(const struct text *)(const void *)left, *(const struct text *)(const void *)right))
            return false;
        if (!samples_same(schema->items, left + schema->value_offset, right + schema->value_offset))
            return false;
    }
    return true;
}

bool samples_same(const struct schema *schema, const void *a, const void *b)
{
    switch (schema->kind) {
    case SCHEMA_NULL:
    case SCHEMA_KIND_COUNT:
        return true;
    case SCHEMA_BOOLEAN:
    case SCHEMA_INT:
    case SCHEMA_LONG:
    case SCHEMA_FLOAT:
    case SCHEMA_DOUBLE:
    case SCHEMA_ENUM:
        return memcmp(a, b, schema->size) == 0;
    case SCHEMA_BYTES:
    case SCHEMA_STRING:
    case SCHEMA_FIXED:
        return text_equal(*(const struct text *)a, *(const struct text *)b);
    case SCHEMA_RECORD:
        for (size_t i = 0; i < schema->count; i++)
            if (!samples_same(schema->fields[i].schema, (const char *)a + schema->fields[i].offset,
                              (const char *)b + schema->fields[i].offset))
                return false;
        return true;
    case SCHEMA_ARRAY:
    case SCHEMA_MAP:
        return lists_same(schema, a, b);
    case SCHEMA_UNION: {
        int32_t branch = schema_union_branch(schema, a);
        return branch == schema_union_branch(schema, b) &&
               samples_same(schema->branches[branch], (const char *)a + schema->value_offset,
                            (const char *)b + schema->value_offset);
    }
    }
    return false;
}

/* What a value of this type is in JSON; a time may be a number as well as a string. */
static unsigned json_shapes(const struct schema *schema)
{
    enum { NOTHING = 1, BOOLEAN = 2, NUMBER = 4, STRING = 8, ARRAY = 16, OBJECT = 32 };
    static const unsigned shapes[SCHEMA_KIND_COUNT] = {
        [SCHEMA_NULL] = NOTHING, [SCHEMA_BOOLEAN] = BOOLEAN, [SCHEMA_INT] = NUMBER,
        [SCHEMA_LONG] = NUMBER,  [SCHEMA_FLOAT] = NUMBER,    [SCHEMA_DOUBLE] = NUMBER,
        [SCHEMA_BYTES] = STRING, [SCHEMA_STRING] = STRING,   [SCHEMA_RECORD] = OBJECT,
        [SCHEMA_ENUM] = STRING,  [SCHEMA_FIXED] = STRING,    [SCHEMA_ARRAY] = ARRAY,
        [SCHEMA_MAP] = OBJECT,
    };
    return schema_is_timestamp_micros(schema) ? NUMBER | STRING : shapes[schema->kind];
}

bool samples_json_is_clear(const struct schema *schema)
{
    unsigned seen = 0;
    if (schema->items && !samples_json_is_clear(schema->items))
        return false;
    for (size_t i = 0; i < schema->count && schema->kind != SCHEMA_ENUM; i++) {
        const struct schema *part = schema->fields ? schema->fields[i].schema : schema->branches[i];
        if (!samples_json_is_clear(part))
            return false;
        if (schema->branches && (seen & json_shapes(part)))
            return false;
        seen |= json_shapes(part);
    }
    return true;
}
