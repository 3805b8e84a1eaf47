/*
 * schema_tree: the inside of a schema, for the codec and eventgen. Everybody else uses wire/schema.h.
 *
 * A schema is a tree of nodes; a named type that is used twice is one node with two parents. Each node
 * also says how its value lies in memory. schema.c lays values out as the C compiler lays out the
 * structs that eventgen writes (eventgen has the compiler assert it), so one walk serves generated
 * structs and those of schemas made at run time:
 *
 *     null                     nothing
 *     boolean                  bool
 *     int, long                int32_t, int64_t
 *     float, double            float, double
 *     bytes, string, fixed     struct text
 *     enum                     int32_t, index of the symbol
 *     record                   its members in order; one char where that would be nothing
 *     array                    struct { item *at; size_t count; }
 *     map                      the same, of struct { struct text key; value }
 *     union of null and one T  struct { bool set; T value; }
 *     any other union          struct { int32_t branch; union { … } as; }
 */
#ifndef WIRE_SCHEMA_TREE_H
#define WIRE_SCHEMA_TREE_H

#include "wire/schema.h"

enum schema_kind {
    SCHEMA_NULL,
    SCHEMA_BOOLEAN,
    SCHEMA_INT,
    SCHEMA_LONG,
    SCHEMA_FLOAT,
    SCHEMA_DOUBLE,
    SCHEMA_BYTES,
    SCHEMA_STRING,
    SCHEMA_RECORD,
    SCHEMA_ENUM,
    SCHEMA_FIXED,
    SCHEMA_ARRAY,
    SCHEMA_MAP,
    SCHEMA_UNION,
    SCHEMA_KIND_COUNT,
};

struct schema_field {
    struct text name;
    const struct schema *schema;
    size_t offset; /* in the record's struct */
    bool has_default;
    struct text default_bytes; /* the default as Avro binary of schema */
    const struct text *aliases;
    size_t alias_count;
};

struct schema {
    enum schema_kind kind;
    struct text name;           /* full name of a record, enum or fixed; else the type's word */
    struct text logical;        /* logicalType where it fits the type, else empty */
    const struct text *aliases; /* full names */
    size_t alias_count;
    size_t count; /* of fields, symbols or branches */
    const struct schema_field *fields;
    const struct text *symbols;
    int32_t symbol_default; /* -1: none */
    const struct schema *const *branches;
    const struct schema *items; /* of an array, or the values of a map */
    size_t fixed_bytes;

    /* in memory */
    size_t size;
    size_t align;
    size_t value_offset; /* of the value in a union, or in a map's entry */
    size_t entry_size;   /* of a map's entry or an array's item          */
    bool optional;       /* a union of null and one other branch         */

    /* in bytes */
    size_t bytes_min; /* the fewest that a value takes */
    size_t depth;
    size_t node_count; /* with every named type counted where it is used */

    struct text text; /* of the whole; empty within */
};

/* What every array and map is in memory. */
struct schema_list {
    void *at;
    size_t count;
};

const char *schema_kind_name(enum schema_kind kind);
bool schema_is_named(const struct schema *schema);
/* "OrderItem" of "weir.OrderItem" */
struct text schema_short_name(struct text full_name);
static inline bool schema_is_timestamp_micros(const struct schema *schema)
{
    return schema->kind == SCHEMA_LONG && text_is(schema->logical, "timestamp-micros");
}
/* The same canonical form: the same bytes mean the same value. In schema_canonical.c. */
bool schema_same(const struct schema *a, const struct schema *b);

/* The branch that is set in a union's value. */
static inline int32_t schema_union_branch(const struct schema *schema, const void *data)
{
    if (!schema->optional)
        return *(const int32_t *)data;
    bool second = *(const bool *)data;
    bool null_first = schema->branches[0]->kind == SCHEMA_NULL;
    return second == null_first;
}
static inline void schema_union_set_branch(const struct schema *schema, void *data, int32_t branch)
{
    if (schema->optional)
        *(bool *)data = schema->branches[branch]->kind != SCHEMA_NULL;
    else
        *(int32_t *)data = branch;
}

/* Avro binary of a field's default as it stands in the schema's JSON. REJECT ("schema-invalid") where it
 * does not fit. In schema_default.c. */
struct json_t;
MUST_CHECK enum outcome schema_default_encode(const struct schema *schema, const struct json_t *json,
                                              struct buffer *into, struct error *error);

#endif
