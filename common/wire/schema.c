#include "wire/schema.h"

#include "base/json.h"
#include "wire/schema_tree.h"

#include <assert.h>
#include <avro.h>
#include <pthread.h>
#include <stdlib.h>

enum {
    NAME_BYTES_MAX = 1024,
    NODES_MAX = 16384, /* with every named type counted where it is used */
    FIXED_BYTES_MAX = 1 << 20,
    NAMED_MAX = SCHEMA_FIELDS_MAX,
    TEXT_SIZE = sizeof(struct text),
    LIST_SIZE = sizeof(struct schema_list),
};

static const struct {
    const char *name;
    size_t size, align, bytes_min;
} kinds[SCHEMA_KIND_COUNT] = {
    [SCHEMA_NULL] = {"null", 0, 1, 0},
    [SCHEMA_BOOLEAN] = {"boolean", sizeof(bool), _Alignof(bool), 1},
    [SCHEMA_INT] = {"int", sizeof(int32_t), _Alignof(int32_t), 1},
    [SCHEMA_LONG] = {"long", sizeof(int64_t), _Alignof(int64_t), 1},
    [SCHEMA_FLOAT] = {"float", sizeof(float), _Alignof(float), 4},
    [SCHEMA_DOUBLE] = {"double", sizeof(double), _Alignof(double), 8},
    [SCHEMA_BYTES] = {"bytes", TEXT_SIZE, _Alignof(struct text), 1},
    [SCHEMA_STRING] = {"string", TEXT_SIZE, _Alignof(struct text), 1},
    [SCHEMA_RECORD] = {"record", 0, 1, 0},
    [SCHEMA_ENUM] = {"enum", sizeof(int32_t), _Alignof(int32_t), 1},
    [SCHEMA_FIXED] = {"fixed", TEXT_SIZE, _Alignof(struct text), 0},
    [SCHEMA_ARRAY] = {"array", LIST_SIZE, _Alignof(struct schema_list), 1},
    [SCHEMA_MAP] = {"map", LIST_SIZE, _Alignof(struct schema_list), 1},
    [SCHEMA_UNION] = {"union", 0, 1, 1},
};

const char *schema_kind_name(enum schema_kind kind)
{
    return kinds[kind].name;
}

bool schema_is_named(const struct schema *schema)
{
    return schema->kind == SCHEMA_RECORD || schema->kind == SCHEMA_ENUM || schema->kind == SCHEMA_FIXED;
}

struct text schema_short_name(struct text full_name)
{
    const char *dot = full_name.length ? memrchr(full_name.at, '.', full_name.length) : NULL;
    if (!dot)
        return full_name;
    size_t before = (size_t)(dot + 1 - full_name.at);
    return (struct text){dot + 1, full_name.length - before};
}

/* ---- the parser */

struct parser {
    struct arena *arena;
    struct error *error;
    /* Named types so far; schema is NULL while one is still being read, which is how recursion shows. */
    struct {
        struct text name;
        const struct schema *schema;
    } named[NAMED_MAX];
    size_t named_count;
    size_t field_count;
    int depth;
};

#define INVALID(parser, ...) error_reject((parser)->error, "schema-invalid", __VA_ARGS__)
#define NO_MEMORY(parser)    error_retry((parser)->error, "memory", "out of memory for a schema")

static enum outcome parse(struct parser *parser, const json_t *json, struct text space,
                          const struct schema **ret);

static bool name_part_valid(struct text name)
{
    for (size_t i = 0; i < name.length; i++) {
        char c = name.at[i];
        bool letter = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
        if (!letter && !(i && c >= '0' && c <= '9'))
            return false;
    }
    return name.length > 0 && name.length <= NAME_BYTES_MAX;
}

/* Parts joined by dots. */
static bool name_valid(struct text name)
{
    for (;;) {
        const char *dot = name.length ? memchr(name.at, '.', name.length) : NULL;
        size_t length = dot ? (size_t)(dot - name.at) : name.length;
        if (name.length > NAME_BYTES_MAX || !name_part_valid((struct text){name.at, length}))
            return false;
        if (!dot)
            return true;
        name = (struct text){dot + 1, name.length - length - 1};
    }
}

static int primitive_find(struct text name)
{
    for (int kind = SCHEMA_NULL; kind <= SCHEMA_STRING; kind++)
        if (text_is(name, kinds[kind].name))
            return kind;
    return -1;
}

static bool has_dot(struct text name)
{
    return name.length && memchr(name.at, '.', name.length);
}

/* {NULL, 0} when out of memory; short names take the enclosing namespace. */
static struct text full_name(struct parser *parser, struct text name, struct text space)
{
    if (has_dot(name) || space.length == 0)
        return text_copy(parser->arena, name);
    char *at = arena_print(parser->arena, "%.*s.%.*s", TEXT_ARG(space), TEXT_ARG(name));
    return at ? text_of(at) : (struct text){NULL, 0};
}

static struct text name_space(struct text full_name)
{
    struct text name = schema_short_name(full_name);
    return (struct text){full_name.at,
                         name.length == full_name.length ? 0 : full_name.length - name.length - 1};
}

static size_t align_up(size_t size, size_t align)
{
    return (size + align - 1) & ~(align - 1);
}

/* Takes a part into the depth and the count of what contains it. */
static enum outcome contain(struct parser *parser, struct schema *schema, const struct schema *part)
{
    if (part->depth + 1 > schema->depth)
        schema->depth = part->depth + 1;
    schema->node_count += part->node_count;
    if (schema->depth > SCHEMA_DEPTH_MAX)
        return INVALID(parser, "nested deeper than %d", SCHEMA_DEPTH_MAX);
    if (schema->node_count > NODES_MAX)
        return INVALID(parser, "more than %d nodes", NODES_MAX);
    return OK;
}

static struct schema *node_new(struct parser *parser, enum schema_kind kind)
{
    struct schema *schema = arena_take_zeroed(parser->arena, sizeof(*schema));
    if (!schema)
        return NULL;
    schema->kind = kind;
    schema->name = text_of(kinds[kind].name);
    schema->size = kinds[kind].size;
    schema->align = kinds[kind].align;
    schema->bytes_min = kinds[kind].bytes_min;
    schema->symbol_default = -1;
    schema->depth = schema->node_count = 1;
    return schema;
}

static enum outcome parse_primitive(struct parser *parser, int kind, const json_t *object,
                                    const struct schema **ret)
{
    struct schema *schema = node_new(parser, (enum schema_kind)kind);
    if (!schema)
        return NO_MEMORY(parser);
    struct text logical = object ? json_text(object, "logicalType") : (struct text){NULL, 0};
    bool on_long = logical.length > 10 && (memmem(logical.at, logical.length, "timestamp-", 10) != NULL);
    /* One that does not fit its type is ignored, as Avro says. */
    if (logical.length && (!on_long || kind == SCHEMA_LONG)) {
        schema->logical = text_copy(parser->arena, logical);
        if (!schema->logical.at)
            return NO_MEMORY(parser);
    }
    *ret = schema;
    return OK;
}

static enum outcome parse_reference(struct parser *parser, struct text name, struct text space,
                                    const struct schema **ret)
{
    int kind = primitive_find(name);
    if (kind >= 0)
        return parse_primitive(parser, kind, NULL, ret);
    if (!name_valid(name))
        return INVALID(parser, "'%.*s' is not a name", (int)(name.length < 64 ? name.length : 64),
                       name.length ? name.at : "");
    struct text full = full_name(parser, name, space);
    if (!full.at)
        return NO_MEMORY(parser);
    for (size_t i = 0; i < parser->named_count; i++) {
        if (!text_equal(parser->named[i].name, full))
            continue;
        if (!parser->named[i].schema)
            return INVALID(parser, "'%.*s' contains itself: recursive schemas are refused", TEXT_ARG(full));
        *ret = parser->named[i].schema;
        return OK;
    }
    return INVALID(parser, "'%.*s' is not defined before it is used", TEXT_ARG(full));
}

static enum outcome parse_aliases(struct parser *parser, const json_t *object, bool full, struct text space,
                                  const struct text **ret, size_t *ret_count)
{
    const json_t *list = json_object_get(object, "aliases");
    if (!list)
        return OK;
    if (!json_is_array(list) || json_array_size(list) > SCHEMA_FIELDS_MAX)
        return INVALID(parser, "aliases must be an array of names");
    size_t count = json_array_size(list);
    struct text *aliases = arena_take(parser->arena, count * sizeof(*aliases));
    if (!aliases)
        return NO_MEMORY(parser);
    for (size_t i = 0; i < count; i++) {
        const json_t *alias = json_array_get(list, i);
        struct text text = {json_string_value(alias), json_string_length(alias)};
        if (!json_is_string(alias) || !(full ? name_valid(text) : name_part_valid(text)))
            return INVALID(parser, "alias %zu is not a name", i);
        aliases[i] = full ? full_name(parser, text, space) : text_copy(parser->arena, text);
        if (!aliases[i].at)
            return NO_MEMORY(parser);
    }
    *ret = aliases;
    *ret_count = count;
    return OK;
}

/* The name, namespace and aliases of a record, enum or fixed; from here on the name is taken. */
static enum outcome parse_naming(struct parser *parser, const json_t *object, struct text space,
                                 struct schema *schema, size_t *ret_slot)
{
    struct text name = json_text(object, "name");
    if (!name_valid(name))
        return INVALID(parser, "a %s needs a name of letters, digits and _", kinds[schema->kind].name);
    const json_t *space_json = json_object_get(object, "namespace");
    if (space_json && !json_is_null(space_json)) {
        space = json_text(object, "namespace");
        if (!json_is_string(space_json) || (space.length && !name_valid(space)))
            return INVALID(parser, "the namespace of '%.*s' is not a name", TEXT_ARG(name));
    }
    if (primitive_find(schema_short_name(name)) >= 0 && !has_dot(name) && space.length == 0)
        return INVALID(parser, "'%.*s' is the name of a primitive type", TEXT_ARG(name));
    schema->name = full_name(parser, name, space);
    if (!schema->name.at)
        return NO_MEMORY(parser);
    for (size_t i = 0; i < parser->named_count; i++)
        if (text_equal(parser->named[i].name, schema->name))
            return INVALID(parser, "'%.*s' is defined twice", TEXT_ARG(schema->name));
    if (parser->named_count == NAMED_MAX)
        return INVALID(parser, "more than %d named types", NAMED_MAX);
    *ret_slot = parser->named_count;
    parser->named[parser->named_count].name = schema->name;
    parser->named[parser->named_count++].schema = NULL;
    return parse_aliases(parser, object, true, name_space(schema->name), &schema->aliases,
                         &schema->alias_count);
}

static enum outcome parse_default(struct parser *parser, const json_t *json, struct schema_field *field)
{
    struct buffer bytes = buffer_of(SCHEMA_TEXT_BYTES_MAX);
    enum outcome outcome = schema_default_encode(field->schema, json, &bytes, parser->error);
    if (outcome == OK && bytes.failed)
        outcome = NO_MEMORY(parser);
    if (outcome == OK) {
        field->has_default = true;
        field->default_bytes = text_copy(parser->arena, buffer_text(&bytes));
        if (!field->default_bytes.at)
            outcome = NO_MEMORY(parser);
    } else {
        error_prefix(parser->error, "default");
    }
    buffer_free(&bytes);
    return outcome;
}

static enum outcome parse_field(struct parser *parser, const json_t *json, struct text space,
                                struct schema_field *field)
{
    struct text name = json_text(json, "name");
    if (!name_part_valid(name))
        return INVALID(parser, "a field needs a name of letters, digits and _");
    field->name = text_copy(parser->arena, name);
    if (!field->name.at)
        return NO_MEMORY(parser);
    const json_t *type = json_object_get(json, "type");
    if (!type)
        return INVALID(parser, "has no type");
    const json_t *order = json_object_get(json, "order");
    struct text word = json_text(json, "order");
    if (order && !text_is(word, "ascending") && !text_is(word, "descending") && !text_is(word, "ignore"))
        return INVALID(parser, "order must be ascending, descending or ignore");
    enum outcome outcome = parse(parser, type, space, &field->schema);
    if (outcome == OK)
        outcome = parse_aliases(parser, json, false, space, &field->aliases, &field->alias_count);
    const json_t *value = json_object_get(json, "default");
    if (outcome == OK && value)
        outcome = parse_default(parser, value, field);
    return outcome;
}

static enum outcome parse_record(struct parser *parser, const json_t *object, struct text space,
                                 struct schema *schema)
{
    const json_t *list = json_object_get(object, "fields");
    if (!json_is_array(list))
        return INVALID(parser, "has no array of fields");
    size_t count = json_array_size(list);
    parser->field_count += count;
    if (count > SCHEMA_FIELDS_MAX || parser->field_count > SCHEMA_FIELDS_MAX)
        return INVALID(parser, "more than %d fields", SCHEMA_FIELDS_MAX);
    struct schema_field *fields = arena_take_zeroed(parser->arena, count * sizeof(*fields));
    if (!fields)
        return NO_MEMORY(parser);
    schema->fields = fields;
    schema->count = count;
    for (size_t i = 0; i < count; i++) {
        enum outcome outcome = parse_field(parser, json_array_get(list, i), space, &fields[i]);
        if (outcome == OK)
            outcome = contain(parser, schema, fields[i].schema);
        if (outcome != OK) {
            error_prefix(parser->error, "field '%.*s'", TEXT_ARG(fields[i].name));
            return outcome;
        }
        for (size_t k = 0; k < i; k++)
            if (text_equal(fields[k].name, fields[i].name))
                return INVALID(parser, "field '%.*s' is there twice", TEXT_ARG(fields[i].name));
        const struct schema *part = fields[i].schema;
        fields[i].offset = align_up(schema->size, part->align);
        schema->size = fields[i].offset + part->size;
        if (part->align > schema->align)
            schema->align = part->align;
        schema->bytes_min += part->bytes_min;
    }
    schema->size = align_up(schema->size ? schema->size : 1, schema->align);
    return OK;
}

static enum outcome parse_enum(struct parser *parser, const json_t *object, struct schema *schema)
{
    const json_t *list = json_object_get(object, "symbols");
    size_t count = json_array_size(list);
    if (!json_is_array(list) || count == 0 || count > SCHEMA_FIELDS_MAX)
        return INVALID(parser, "needs an array of 1 to %d symbols", SCHEMA_FIELDS_MAX);
    struct text *symbols = arena_take(parser->arena, count * sizeof(*symbols));
    if (!symbols)
        return NO_MEMORY(parser);
    for (size_t i = 0; i < count; i++) {
        const json_t *symbol = json_array_get(list, i);
        struct text text = {json_string_value(symbol), json_string_length(symbol)};
        if (!json_is_string(symbol) || !name_part_valid(text))
            return INVALID(parser, "symbol %zu is not a name", i);
        symbols[i] = text_copy(parser->arena, text);
        if (!symbols[i].at)
            return NO_MEMORY(parser);
        for (size_t k = 0; k < i; k++)
            if (text_equal(symbols[k], symbols[i]))
                return INVALID(parser, "symbol '%.*s' is there twice", TEXT_ARG(symbols[i]));
    }
    schema->symbols = symbols;
    schema->count = count;
    if (!json_object_get(object, "default"))
        return OK;
    struct text word = json_text(object, "default");
    for (size_t i = 0; i < count; i++)
        if (text_equal(symbols[i], word))
            schema->symbol_default = (int32_t)i;
    if (schema->symbol_default < 0)
        return INVALID(parser, "the default is not one of the symbols");
    return OK;
}

static enum outcome parse_fixed(struct parser *parser, const json_t *object, struct schema *schema)
{
    const json_t *size = json_object_get(object, "size");
    if (!json_is_integer(size) || json_integer_value(size) < 0 || json_integer_value(size) > FIXED_BYTES_MAX)
        return INVALID(parser, "size must be 0 to %d", FIXED_BYTES_MAX);
    schema->fixed_bytes = (size_t)json_integer_value(size);
    schema->bytes_min = schema->fixed_bytes;
    return OK;
}

static enum outcome parse_named(struct parser *parser, enum schema_kind kind, const json_t *object,
                                struct text space, const struct schema **ret)
{
    struct schema *schema = node_new(parser, kind);
    if (!schema)
        return NO_MEMORY(parser);
    size_t slot = 0;
    enum outcome outcome = parse_naming(parser, object, space, schema, &slot);
    if (outcome != OK)
        return outcome;
    if (kind == SCHEMA_RECORD)
        outcome = parse_record(parser, object, name_space(schema->name), schema);
    else if (kind == SCHEMA_ENUM)
        outcome = parse_enum(parser, object, schema);
    else
        outcome = parse_fixed(parser, object, schema);
    if (outcome != OK) {
        error_prefix(parser->error, "%s", schema->name.at);
        return outcome;
    }
    parser->named[slot].schema = schema;
    *ret = schema;
    return OK;
}

static enum outcome parse_list(struct parser *parser, enum schema_kind kind, const json_t *object,
                               struct text space, const struct schema **ret)
{
    struct schema *schema = node_new(parser, kind);
    if (!schema)
        return NO_MEMORY(parser);
    const char *member = kind == SCHEMA_ARRAY ? "items" : "values";
    const json_t *items = json_object_get(object, member);
    if (!items)
        return INVALID(parser, "%s has no %s", kinds[kind].name, member);
    enum outcome outcome = parse(parser, items, space, &schema->items);
    if (outcome == OK)
        outcome = contain(parser, schema, schema->items);
    if (outcome != OK)
        return outcome;
    size_t size = schema->items->size, align = schema->items->align;
    if (kind == SCHEMA_ARRAY) {
        /* A handful of bytes could ask for items without end. */
        if (schema->items->bytes_min == 0)
            return INVALID(parser, "array of items that take no bytes");
        schema->entry_size = size;
    } else {
        if (align < _Alignof(struct text))
            align = _Alignof(struct text);
        schema->value_offset = align_up(TEXT_SIZE, schema->items->align);
        schema->entry_size = align_up(schema->value_offset + size, align);
    }
    *ret = schema;
    return OK;
}

/* Two branches that a reader could not tell apart. */
static bool branches_alike(const struct schema *a, const struct schema *b)
{
    return a->kind == b->kind && (!schema_is_named(a) || text_equal(a->name, b->name));
}

static enum outcome parse_union(struct parser *parser, const json_t *list, struct text space,
                                const struct schema **ret)
{
    struct schema *schema = node_new(parser, SCHEMA_UNION);
    size_t count = json_array_size(list);
    if (count == 0 || count > SCHEMA_FIELDS_MAX)
        return INVALID(parser, "a union needs 1 to %d branches", SCHEMA_FIELDS_MAX);
    const struct schema **branches = arena_take(parser->arena, count * sizeof(const struct schema *));
    if (!schema || !branches)
        return NO_MEMORY(parser);
    size_t size = 0, align = 1, bytes_min = SIZE_MAX;
    bool has_null = false;
    for (size_t i = 0; i < count; i++) {
        enum outcome outcome = parse(parser, json_array_get(list, i), space, &branches[i]);
        if (outcome == OK)
            outcome = contain(parser, schema, branches[i]);
        if (outcome != OK)
            return outcome;
        if (branches[i]->kind == SCHEMA_UNION)
            return INVALID(parser, "a union directly inside a union");
        for (size_t k = 0; k < i; k++)
            if (branches_alike(branches[i], branches[k]))
                return INVALID(parser, "a union with %s twice", branches[i]->name.at);
        has_null |= branches[i]->kind == SCHEMA_NULL;
        size = branches[i]->size > size ? branches[i]->size : size;
        align = branches[i]->align > align ? branches[i]->align : align;
        bytes_min = branches[i]->bytes_min < bytes_min ? branches[i]->bytes_min : bytes_min;
    }
    schema->branches = branches;
    schema->count = count;
    schema->bytes_min = 1 + bytes_min;
    schema->optional = has_null && count == 2;
    size_t tag = schema->optional ? sizeof(bool) : sizeof(int32_t);
    size_t tag_align = schema->optional ? _Alignof(bool) : _Alignof(int32_t);
    schema->value_offset = align_up(tag, align);
    schema->align = align > tag_align ? align : tag_align;
    schema->size = align_up(schema->value_offset + size, schema->align);
    *ret = schema;
    return OK;
}

static enum outcome parse_object(struct parser *parser, const json_t *object, struct text space,
                                 const struct schema **ret)
{
    struct text type = json_text(object, "type");
    int primitive = primitive_find(type);
    if (primitive >= 0)
        return parse_primitive(parser, primitive, object, ret);
    if (text_is(type, "record"))
        return parse_named(parser, SCHEMA_RECORD, object, space, ret);
    if (text_is(type, "enum"))
        return parse_named(parser, SCHEMA_ENUM, object, space, ret);
    if (text_is(type, "fixed"))
        return parse_named(parser, SCHEMA_FIXED, object, space, ret);
    if (text_is(type, "array"))
        return parse_list(parser, SCHEMA_ARRAY, object, space, ret);
    if (text_is(type, "map"))
        return parse_list(parser, SCHEMA_MAP, object, space, ret);
    if (!json_is_string(json_object_get(object, "type")))
        return INVALID(parser, "a type must be given as a string");
    return parse_reference(parser, type, space, ret);
}

/* The depth of JSON is bounded by json_read(), so this recursion is. */
static enum outcome parse(struct parser *parser, const json_t *json, struct text space,
                          const struct schema **ret)
{
    if (json_is_string(json))
        return parse_reference(parser, (struct text){json_string_value(json), json_string_length(json)},
                               space, ret);
    if (json_is_array(json))
        return parse_union(parser, json, space, ret);
    if (json_is_object(json))
        return parse_object(parser, json, space, ret);
    return INVALID(parser, "a schema is a string, an array or an object");
}

/* A second opinion. Debian's avro-c is built without threads: one at a time. */
static bool avro_accepts(struct text text)
{
    static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
    avro_schema_t schema = NULL;
    pthread_mutex_lock(&one_at_a_time);
    bool accepted = avro_schema_from_json_length(text.at, text.length, &schema) == 0;
    if (accepted)
        avro_schema_decref(schema);
    pthread_mutex_unlock(&one_at_a_time);
    return accepted;
}

enum outcome schema_parse(struct text text, struct arena *arena, const struct schema **ret,
                          struct error *error)
{
    if (text.length > SCHEMA_TEXT_BYTES_MAX)
        return error_reject(error, "schema-invalid", "schema of %zu bytes, more than %d", text.length,
                            SCHEMA_TEXT_BYTES_MAX);
    json_t *json = NULL;
    struct parser *parser = NULL;
    const struct schema *parsed = NULL;
    enum outcome outcome = json_read(text, &json, error);
    if (outcome == REJECT && error)
        error->cause = "schema-invalid";
    if (outcome != OK)
        goto out;
    parser = calloc(1, sizeof(*parser));
    if (!parser) {
        outcome = error_retry(error, "memory", "out of memory for a schema");
        goto out;
    }
    parser->arena = arena;
    parser->error = error;
    outcome = parse(parser, json, (struct text){NULL, 0}, &parsed);
    if (outcome != OK)
        goto out;
    /* avro-c cannot be asked about a word alone, nor about a NUL in a default: its JSON has neither. */
    bool askable = !json_is_string(json) && !memmem(text.at, text.length, "\\u0000", 6);
    if (askable && !avro_accepts(text)) {
        outcome = INVALID(parser, "avro-c does not accept it");
        goto out;
    }
    struct schema *top = arena_copy(arena, parsed, sizeof(*parsed));
    if (top)
        top->text = text_copy(arena, text);
    if (!top || !top->text.at) {
        outcome = NO_MEMORY(parser);
        goto out;
    }
    *ret = top;
out:
    free(parser);
    json_decref(json);
    return outcome;
}

struct text schema_text(const struct schema *schema)
{
    return schema->text;
}

struct text schema_full_name(const struct schema *schema)
{
    return schema->name;
}
