#include "wire/codec.h"

#include "wire/codec_type.h"

enum { STEPS_MAX = 100000 }; /* of one plan, tried branches of unions included */

/*
 * What to do with one value: where the writer put what, and where the reader wants it. Steps are made
 * once a pair of schemas; decoding walks them along the bytes.
 */
enum step_kind {
    STEP_VALUE,      /* of the same type or a promotion of it: see the two kinds */
    STEP_ENUM,       /* indices[writer's symbol] is the reader's, -1: none       */
    STEP_RECORD,     /* parts in the writer's order, then what it did not write  */
    STEP_LIST,       /* array or map                                             */
    STEP_FROM_UNION, /* branches[writer's branch], NULL: none                    */
    STEP_INTO_UNION, /* the reader's branch, then next                           */
};

struct step {
    enum step_kind kind;
    const struct schema *writer;
    const struct schema *reader;
    const struct step *next; /* items of a list, the value of the reader's branch */
    int32_t branch;
    const int32_t *indices;
    const struct step *const *branches;
    const struct step_part *parts;
    const struct step_default *defaults;
    size_t default_count;
};

struct step_part {
    struct text name;
    const struct schema *writer;
    const struct step *step; /* NULL: the reader has no such field, skip it */
    size_t offset;
};

struct step_default {
    size_t offset;
    size_t size;
    const void *value; /* decoded once, shared by all that is read */
};

struct codec_plan {
    const struct codec_type *type;
    const struct step *root;
    bool straight; /* the writer's schema is the reader's: generated code reads it */
};

/* ---- decoding */

struct decoder {
    const unsigned char *begin;
    const unsigned char *at;
    const unsigned char *end;
    struct arena *arena;
    struct error *error;
};

static enum outcome decode(struct decoder *decoder, const struct step *step, void *to);
static enum outcome skip(struct decoder *decoder, const struct schema *schema);

static size_t bytes_left(const struct decoder *decoder)
{
    return (size_t)(decoder->end - decoder->at);
}

/* At a number that codec_get_long() refused: cut short, or no number? */
static bool is_cut(const struct decoder *decoder)
{
    for (const unsigned char *at = decoder->at; at < decoder->end; at++)
        if (*at < 0x80 || at - decoder->at == CODEC_LONG_BYTES_MAX - 1)
            return false;
    return true;
}

static enum outcome refuse(struct decoder *decoder, const struct schema *schema)
{
    bool cut = bytes_left(decoder) < schema->bytes_min || is_cut(decoder);
    return error_reject(decoder->error, cut ? "avro-truncated" : "avro-invalid", "%s %s at byte %td of %td",
                        cut ? "cut short in" : "not a", schema_kind_name(schema->kind),
                        decoder->at - decoder->begin, decoder->end - decoder->begin);
}

static enum outcome no_memory(struct decoder *decoder)
{
    return error_retry(decoder->error, "memory", "out of memory after byte %td of %td",
                       decoder->at - decoder->begin, decoder->end - decoder->begin);
}

/* bytes, string and fixed; the reader says whether they must be UTF-8. */
static enum outcome decode_text(struct decoder *decoder, const struct schema *writer, bool utf8,
                                struct text *ret)
{
    const unsigned char *at = decoder->at;
    if (writer->kind == SCHEMA_FIXED) {
        at = codec_get_fixed(at, decoder->end, writer->fixed_bytes, ret);
        if (!at)
            return refuse(decoder, writer);
    } else {
        int64_t length;
        at = codec_get_long(at, decoder->end, &length);
        if (!at)
            return refuse(decoder, writer);
        if (length < 0 || length > decoder->end - at)
            return error_reject(decoder->error, length < 0 ? "avro-invalid" : "avro-truncated",
                                "%s of %lld bytes where %td are left", schema_kind_name(writer->kind),
                                (long long)length, decoder->end - at);
        *ret = (struct text){(const char *)at, (size_t)length};
        at += length;
    }
    if (utf8 && !codec_is_utf8(*ret))
        return error_reject(decoder->error, "avro-utf8", "string at byte %td is not UTF-8",
                            decoder->at - decoder->begin);
    decoder->at = at;
    return OK;
}

static enum outcome decode_long(struct decoder *decoder, const struct schema *writer, int64_t *ret)
{
    const unsigned char *at = codec_get_long(decoder->at, decoder->end, ret);
    if (!at || (writer->kind == SCHEMA_INT && (*ret < INT32_MIN || *ret > INT32_MAX)))
        return refuse(decoder, writer);
    decoder->at = at;
    return OK;
}

static enum outcome decode_index(struct decoder *decoder, const struct schema *writer, int32_t *ret)
{
    const unsigned char *at = codec_get_index(decoder->at, decoder->end, (int32_t)writer->count, ret);
    if (!at)
        return refuse(decoder, writer);
    decoder->at = at;
    return OK;
}

static void store_number(const struct schema *reader, int64_t value, void *to)
{
    if (reader->kind == SCHEMA_INT)
        *(int32_t *)to = (int32_t)value;
    else if (reader->kind == SCHEMA_LONG)
        *(int64_t *)to = value;
    else if (reader->kind == SCHEMA_FLOAT)
        *(float *)to = (float)value;
    else
        *(double *)to = (double)value;
}

static enum outcome decode_value(struct decoder *decoder, const struct step *step, void *to)
{
    const struct schema *writer = step->writer;
    const unsigned char *at = decoder->at;
    int64_t number = 0;
    float narrow;
    enum outcome outcome;
    switch (writer->kind) {
    case SCHEMA_BOOLEAN:
        at = codec_get_boolean(at, decoder->end, to);
        break;
    case SCHEMA_INT:
    case SCHEMA_LONG:
        outcome = decode_long(decoder, writer, &number);
        if (outcome == OK)
            store_number(step->reader, number, to);
        return outcome;
    case SCHEMA_FLOAT:
        at = codec_get_float(at, decoder->end, &narrow);
        if (at && step->reader->kind == SCHEMA_DOUBLE)
            *(double *)to = (double)narrow;
        else if (at)
            *(float *)to = narrow;
        break;
    case SCHEMA_DOUBLE:
        at = codec_get_double(at, decoder->end, to);
        break;
    case SCHEMA_BYTES:
    case SCHEMA_STRING:
    case SCHEMA_FIXED:
        return decode_text(decoder, writer, step->reader->kind == SCHEMA_STRING, to);
    case SCHEMA_NULL:
    case SCHEMA_RECORD:
    case SCHEMA_ENUM:
    case SCHEMA_ARRAY:
    case SCHEMA_MAP:
    case SCHEMA_UNION:
    case SCHEMA_KIND_COUNT:
        break;
    }
    if (!at)
        return refuse(decoder, writer);
    decoder->at = at;
    return OK;
}

static enum outcome decode_enum(struct decoder *decoder, const struct step *step, int32_t *to)
{
    int32_t index;
    enum outcome outcome = decode_index(decoder, step->writer, &index);
    if (outcome != OK)
        return outcome;
    *to = step->indices[index];
    if (*to < 0)
        return error_reject(decoder->error, "avro-symbol", "symbol '%.*s' is not known",
                            TEXT_ARG(step->writer->symbols[index]));
    return OK;
}

static enum outcome decode_record(struct decoder *decoder, const struct step *step, char *to)
{
    for (size_t i = 0; i < step->writer->count; i++) {
        const struct step_part *part = &step->parts[i];
        enum outcome outcome =
            part->step ? decode(decoder, part->step, to + part->offset) : skip(decoder, part->writer);
        if (outcome != OK) {
            error_prefix(decoder->error, "%.*s", TEXT_ARG(part->name));
            return outcome;
        }
    }
    for (size_t i = 0; i < step->default_count; i++)
        memcpy(to + step->defaults[i].offset, step->defaults[i].value, step->defaults[i].size);
    return OK;
}

static size_t item_bytes_min(const struct schema *list)
{
    return list->kind == SCHEMA_MAP ? list->items->bytes_min + 1 : list->items->bytes_min;
}

static enum outcome decode_block(struct decoder *decoder, const struct schema *list, size_t *ret_count,
                                 const unsigned char **ret_end)
{
    const unsigned char *at =
        codec_get_block(decoder->at, decoder->end, item_bytes_min(list), ret_count, ret_end);
    if (!at)
        return error_reject(decoder->error, is_cut(decoder) ? "avro-truncated" : "avro-invalid",
                            "a block of items that %td bytes cannot hold, at byte %td",
                            decoder->end - decoder->at, decoder->at - decoder->begin);
    decoder->at = at;
    return OK;
}

static enum outcome decode_item(struct decoder *decoder, const struct step *step, char *to)
{
    if (step->reader->kind == SCHEMA_MAP) {
        enum outcome outcome = decode_text(decoder, step->writer, true, (struct text *)(void *)to);
        if (outcome != OK)
            return outcome;
        to += step->reader->value_offset;
    }
    return decode(decoder, step->next, to);
}

static enum outcome decode_list(struct decoder *decoder, const struct step *step, struct schema_list *to)
{
    size_t entry_size = step->reader->entry_size, capacity = 0;
    *to = (struct schema_list){NULL, 0};
    for (;;) {
        size_t more;
        const unsigned char *block_end;
        enum outcome outcome = decode_block(decoder, step->writer, &more, &block_end);
        if (outcome != OK || more == 0)
            return outcome;
        if (!codec_list_grow(decoder->arena, &to->at, to->count, &capacity, more, entry_size))
            return no_memory(decoder);
        for (; more > 0; more--, to->count++) {
            outcome = decode_item(decoder, step, (char *)to->at + to->count * entry_size);
            if (outcome != OK) {
                error_prefix(decoder->error, "[%zu]", to->count);
                return outcome;
            }
        }
        if (block_end && decoder->at != block_end)
            return error_reject(decoder->error, "avro-invalid",
                                "a block is not as long as it says, at byte %td",
                                decoder->at - decoder->begin);
    }
}

static enum outcome decode(struct decoder *decoder, const struct step *step, void *to)
{
    int32_t branch;
    enum outcome outcome;
    switch (step->kind) {
    case STEP_VALUE:
        return decode_value(decoder, step, to);
    case STEP_ENUM:
        return decode_enum(decoder, step, to);
    case STEP_RECORD:
        return decode_record(decoder, step, to);
    case STEP_LIST:
        return decode_list(decoder, step, to);
    case STEP_INTO_UNION:
        schema_union_set_branch(step->reader, to, step->branch);
        return decode(decoder, step->next, (char *)to + step->reader->value_offset);
    case STEP_FROM_UNION:
        outcome = decode_index(decoder, step->writer, &branch);
        if (outcome != OK)
            return outcome;
        if (!step->branches[branch])
            return error_reject(decoder->error, "avro-branch", "a %.*s, which the reader has no place for",
                                TEXT_ARG(step->writer->branches[branch]->name));
        return decode(decoder, step->branches[branch], to);
    }
    return OK;
}

/* ---- skipping what the reader has no field for */

static enum outcome skip_list(struct decoder *decoder, const struct schema *schema)
{
    for (;;) {
        size_t more;
        const unsigned char *block_end;
        enum outcome outcome = decode_block(decoder, schema, &more, &block_end);
        if (outcome != OK || more == 0)
            return outcome;
        if (block_end) {
            decoder->at = block_end;
            continue;
        }
        for (; more > 0; more--) {
            struct text key;
            if (schema->kind == SCHEMA_MAP)
                outcome = decode_text(decoder, schema, true, &key);
            if (outcome == OK)
                outcome = skip(decoder, schema->items);
            if (outcome != OK)
                return outcome;
        }
    }
}

static enum outcome skip(struct decoder *decoder, const struct schema *schema)
{
    int64_t number;
    int32_t index;
    struct text text;
    enum outcome outcome = OK;
    switch (schema->kind) {
    case SCHEMA_NULL:
    case SCHEMA_KIND_COUNT:
        return OK;
    case SCHEMA_BOOLEAN:
        if (!bytes_left(decoder) || *decoder->at > 1)
            return refuse(decoder, schema);
        decoder->at++;
        return OK;
    case SCHEMA_INT:
    case SCHEMA_LONG:
        return decode_long(decoder, schema, &number);
    case SCHEMA_FLOAT:
    case SCHEMA_DOUBLE:
        if (bytes_left(decoder) < schema->bytes_min)
            return refuse(decoder, schema);
        decoder->at += schema->bytes_min;
        return OK;
    case SCHEMA_BYTES:
    case SCHEMA_STRING:
    case SCHEMA_FIXED:
        return decode_text(decoder, schema, schema->kind == SCHEMA_STRING, &text);
    case SCHEMA_ENUM:
        return decode_index(decoder, schema, &index);
    case SCHEMA_RECORD:
        for (size_t i = 0; i < schema->count && outcome == OK; i++)
            outcome = skip(decoder, schema->fields[i].schema);
        return outcome;
    case SCHEMA_ARRAY:
    case SCHEMA_MAP:
        return skip_list(decoder, schema);
    case SCHEMA_UNION:
        outcome = decode_index(decoder, schema, &index);
        return outcome == OK ? skip(decoder, schema->branches[index]) : outcome;
    }
    return OK;
}

enum outcome codec_decode(const struct codec_plan *plan, struct text bytes, struct arena *arena,
                          const void **ret_data, struct error *error)
{
    static const unsigned char nothing[1];
    const struct schema *reader = plan->type->schema;
    const unsigned char *begin = bytes.length ? (const unsigned char *)bytes.at : nothing;
    const unsigned char *end = begin + bytes.length;
    if (bytes.length > CODEC_ENCODED_BYTES_MAX)
        return error_reject(error, "avro-too-long", "%zu bytes of %.*s, more than %d", bytes.length,
                            TEXT_ARG(reader->name), CODEC_ENCODED_BYTES_MAX);
    struct arena_mark mark = arena_mark(arena);
    void *data = arena_take(arena, reader->size);
    if (data && plan->straight && plan->type->decode(begin, end, arena, data) == end) {
        *ret_data = data;
        return OK;
    }
    arena_rewind(arena, mark);
    data = arena_take_zeroed(arena, reader->size);
    struct decoder decoder = {.begin = begin, .at = begin, .end = end, .arena = arena, .error = error};
    enum outcome outcome = data ? decode(&decoder, plan->root, data) : no_memory(&decoder);
    if (outcome == OK && decoder.at != end)
        outcome = error_reject(error, "avro-trailing", "%td bytes after the end", end - decoder.at);
    if (outcome != OK) {
        error_prefix(error, "%.*s", TEXT_ARG(reader->name));
        arena_rewind(arena, mark);
        return outcome;
    }
    *ret_data = data;
    return OK;
}

/* ---- making a plan: Avro 1.11, "Schema Resolution" */

struct resolver {
    struct arena *arena;
    bool strict; /* all that the writer can write must be readable, not just this or that value */
    size_t step_count;
};

#define MISMATCH(error, ...) error_reject((error), "schema-incompatible", __VA_ARGS__)
#define NO_MEMORY(error)     error_retry((error), "memory", "out of memory for a plan")

static enum outcome resolve(struct resolver *resolver, const struct schema *writer,
                            const struct schema *reader, const struct step **ret, struct error *error);

static struct step *step_new(struct resolver *resolver, enum step_kind kind, const struct schema *writer,
                             const struct schema *reader)
{
    struct step *step = arena_take_zeroed(resolver->arena, sizeof(*step));
    if (!step)
        return NULL;
    step->kind = kind;
    step->writer = writer;
    step->reader = reader;
    return step;
}

static bool names_match(const struct schema *writer, const struct schema *reader)
{
    if (text_equal(schema_short_name(writer->name), schema_short_name(reader->name)))
        return true;
    for (size_t i = 0; i < reader->alias_count; i++)
        if (text_equal(reader->aliases[i], writer->name))
            return true;
    return false;
}

static bool promotes(enum schema_kind from, enum schema_kind to)
{
    switch (from) {
    case SCHEMA_INT:
        return to == SCHEMA_LONG || to == SCHEMA_FLOAT || to == SCHEMA_DOUBLE;
    case SCHEMA_LONG:
        return to == SCHEMA_FLOAT || to == SCHEMA_DOUBLE;
    case SCHEMA_FLOAT:
        return to == SCHEMA_DOUBLE;
    case SCHEMA_STRING:
        return to == SCHEMA_BYTES;
    case SCHEMA_BYTES:
        return to == SCHEMA_STRING;
    case SCHEMA_NULL:
    case SCHEMA_BOOLEAN:
    case SCHEMA_DOUBLE:
    case SCHEMA_RECORD:
    case SCHEMA_ENUM:
    case SCHEMA_FIXED:
    case SCHEMA_ARRAY:
    case SCHEMA_MAP:
    case SCHEMA_UNION:
    case SCHEMA_KIND_COUNT:
        return false;
    }
    return false;
}

static enum outcome resolve_from_union(struct resolver *resolver, const struct schema *writer,
                                       const struct schema *reader, const struct step **ret,
                                       struct error *error)
{
    struct step *step = step_new(resolver, STEP_FROM_UNION, writer, reader);
    const struct step **branches =
        arena_take_zeroed(resolver->arena, writer->count * sizeof(const struct step *));
    if (!step || !branches)
        return NO_MEMORY(error);
    bool any = false;
    for (size_t i = 0; i < writer->count; i++) {
        enum outcome outcome = resolve(resolver, writer->branches[i], reader, &branches[i], error);
        if (outcome != OK && (outcome != REJECT || resolver->strict)) {
            error_prefix(error, "branch %.*s", TEXT_ARG(writer->branches[i]->name));
            return outcome;
        }
        any |= outcome == OK;
    }
    if (!any)
        return MISMATCH(error, "no branch of the writer's union fits %.*s", TEXT_ARG(reader->name));
    step->branches = branches;
    *ret = step;
    return OK;
}

/* The branch of the same type and name, else the first that can read it. */
static enum outcome resolve_into_union(struct resolver *resolver, const struct schema *writer,
                                       const struct schema *reader, const struct step **ret,
                                       struct error *error)
{
    struct step *step = step_new(resolver, STEP_INTO_UNION, writer, reader);
    if (!step)
        return NO_MEMORY(error);
    for (int exact = 1; exact >= 0; exact--) {
        for (size_t i = 0; i < reader->count; i++) {
            const struct schema *branch = reader->branches[i];
            if (exact && (branch->kind != writer->kind || !text_equal(branch->name, writer->name)))
                continue;
            enum outcome outcome = resolve(resolver, writer, branch, &step->next, error);
            if (outcome == OK) {
                step->branch = (int32_t)i;
                *ret = step;
                return OK;
            }
            if (outcome != REJECT)
                return outcome;
        }
    }
    return MISMATCH(error, "no branch of the reader's union can read %.*s", TEXT_ARG(writer->name));
}

static enum outcome resolve_enum(struct resolver *resolver, const struct schema *writer,
                                 const struct schema *reader, const struct step **ret, struct error *error)
{
    struct step *step = step_new(resolver, STEP_ENUM, writer, reader);
    int32_t *indices = arena_take(resolver->arena, writer->count * sizeof(*indices));
    if (!step || !indices)
        return NO_MEMORY(error);
    for (size_t i = 0; i < writer->count; i++) {
        indices[i] = reader->symbol_default;
        for (size_t k = 0; k < reader->count; k++)
            if (text_equal(writer->symbols[i], reader->symbols[k]))
                indices[i] = (int32_t)k;
        if (indices[i] < 0 && resolver->strict)
            return MISMATCH(error, "the reader knows no symbol '%.*s'", TEXT_ARG(writer->symbols[i]));
    }
    step->indices = indices;
    *ret = step;
    return OK;
}

static enum outcome resolve_list(struct resolver *resolver, const struct schema *writer,
                                 const struct schema *reader, const struct step **ret, struct error *error)
{
    struct step *step = step_new(resolver, STEP_LIST, writer, reader);
    if (!step)
        return NO_MEMORY(error);
    enum outcome outcome = resolve(resolver, writer->items, reader->items, &step->next, error);
    if (outcome != OK) {
        error_prefix(error, "%s", reader->kind == SCHEMA_MAP ? "values" : "items");
        return outcome;
    }
    *ret = step;
    return OK;
}

/* By name, else by an alias of the reader's; a name goes before another field's alias. */
static const struct schema_field *field_find(const struct schema *reader, const struct schema *writer,
                                             struct text name)
{
    for (size_t i = 0; i < reader->count; i++)
        if (text_equal(reader->fields[i].name, name))
            return &reader->fields[i];
    for (size_t i = 0; i < reader->count; i++) {
        const struct schema_field *field = &reader->fields[i];
        for (size_t a = 0; a < field->alias_count; a++) {
            if (!text_equal(field->aliases[a], name))
                continue;
            bool by_name = false;
            for (size_t w = 0; w < writer->count; w++)
                by_name |= text_equal(writer->fields[w].name, field->name);
            if (!by_name)
                return field;
        }
    }
    return NULL;
}

/* Decodes the default once, by its own schema. */
static enum outcome resolve_default(struct resolver *resolver, const struct schema_field *field,
                                    struct step_default *ret, struct error *error)
{
    if (!field->has_default)
        return MISMATCH(error, "the writer does not write it and it has no default");
    const struct step *step;
    enum outcome outcome = resolve(resolver, field->schema, field->schema, &step, error);
    if (outcome != OK)
        return outcome;
    void *value = arena_take_zeroed(resolver->arena, field->schema->size);
    if (!value)
        return NO_MEMORY(error);
    const unsigned char *bytes = (const unsigned char *)field->default_bytes.at;
    struct decoder decoder = {
        .begin = bytes,
        .at = bytes,
        .end = bytes + field->default_bytes.length,
        .arena = resolver->arena,
        .error = error,
    };
    *ret = (struct step_default){.offset = field->offset, .size = field->schema->size, .value = value};
    return decode(&decoder, step, value);
}

static enum outcome resolve_record(struct resolver *resolver, const struct schema *writer,
                                   const struct schema *reader, const struct step **ret, struct error *error)
{
    struct step *step = step_new(resolver, STEP_RECORD, writer, reader);
    struct step_part *parts = arena_take_zeroed(resolver->arena, writer->count * sizeof(*parts));
    struct step_default *defaults = arena_take(resolver->arena, reader->count * sizeof(*defaults));
    bool *written = arena_take_zeroed(resolver->arena, reader->count);
    if (!step || !parts || !defaults || !written)
        return NO_MEMORY(error);
    step->parts = parts;
    step->defaults = defaults;
    for (size_t i = 0; i < writer->count; i++) {
        const struct schema_field *from = &writer->fields[i];
        const struct schema_field *to = field_find(reader, writer, from->name);
        parts[i] = (struct step_part){.name = from->name, .writer = from->schema};
        if (!to || written[to - reader->fields])
            continue;
        enum outcome outcome = resolve(resolver, from->schema, to->schema, &parts[i].step, error);
        if (outcome != OK) {
            error_prefix(error, "%.*s", TEXT_ARG(to->name));
            return outcome;
        }
        parts[i].offset = to->offset;
        written[to - reader->fields] = true;
    }
    for (size_t i = 0; i < reader->count; i++) {
        if (written[i])
            continue;
        enum outcome outcome =
            resolve_default(resolver, &reader->fields[i], &defaults[step->default_count++], error);
        if (outcome != OK) {
            error_prefix(error, "%.*s", TEXT_ARG(reader->fields[i].name));
            return outcome;
        }
    }
    *ret = step;
    return OK;
}

/* Avro resolves longs whatever they count; milliseconds read as microseconds would be silently wrong. */
static bool times_differ(const struct schema *writer, const struct schema *reader)
{
    return writer->logical.length && reader->logical.length && !text_equal(writer->logical, reader->logical);
}

static enum outcome resolve_value(struct resolver *resolver, const struct schema *writer,
                                  const struct schema *reader, const struct step **ret, struct error *error)
{
    if (writer->kind == SCHEMA_LONG && reader->kind == SCHEMA_LONG && times_differ(writer, reader))
        return MISMATCH(error, "the writer's %.*s is not the reader's %.*s", TEXT_ARG(writer->logical),
                        TEXT_ARG(reader->logical));
    if (writer->kind == SCHEMA_FIXED && writer->fixed_bytes != reader->fixed_bytes)
        return MISMATCH(error, "the writer's %zu bytes are not the reader's %zu", writer->fixed_bytes,
                        reader->fixed_bytes);
    *ret = step_new(resolver, STEP_VALUE, writer, reader);
    return *ret ? OK : NO_MEMORY(error);
}

static enum outcome resolve(struct resolver *resolver, const struct schema *writer,
                            const struct schema *reader, const struct step **ret, struct error *error)
{
    if (++resolver->step_count > STEPS_MAX)
        return MISMATCH(error, "the two schemas need more than %d steps", STEPS_MAX);
    if (writer->kind == SCHEMA_UNION)
        return resolve_from_union(resolver, writer, reader, ret, error);
    if (reader->kind == SCHEMA_UNION)
        return resolve_into_union(resolver, writer, reader, ret, error);
    if (writer->kind != reader->kind && !promotes(writer->kind, reader->kind))
        return MISMATCH(error, "the writer's %s cannot be read as %s", schema_kind_name(writer->kind),
                        schema_kind_name(reader->kind));
    if (schema_is_named(writer) && !names_match(writer, reader))
        return MISMATCH(error, "the writer's %.*s is not the reader's %.*s", TEXT_ARG(writer->name),
                        TEXT_ARG(reader->name));
    if (writer->kind == SCHEMA_RECORD)
        return resolve_record(resolver, writer, reader, ret, error);
    if (writer->kind == SCHEMA_ENUM)
        return resolve_enum(resolver, writer, reader, ret, error);
    if (writer->kind == SCHEMA_ARRAY || writer->kind == SCHEMA_MAP)
        return resolve_list(resolver, writer, reader, ret, error);
    return resolve_value(resolver, writer, reader, ret, error);
}

/* Told apart from the mismatch that unions make of it on the way up. */
static enum outcome resolve_all(struct resolver *resolver, const struct schema *writer,
                                const struct schema *reader, const struct step **ret, struct error *error)
{
    enum outcome outcome = resolve(resolver, writer, reader, ret, error);
    if (outcome == REJECT && resolver->step_count > STEPS_MAX)
        return MISMATCH(error, "the two schemas need more than %d steps", STEPS_MAX);
    return outcome;
}

enum outcome codec_plan_new(const struct schema *writer, const struct codec_type *reader, struct arena *arena,
                            const struct codec_plan **ret, struct error *error)
{
    struct resolver resolver = {.arena = arena};
    struct codec_plan *plan = arena_take_zeroed(arena, sizeof(*plan));
    if (!plan)
        return NO_MEMORY(error);
    plan->type = reader;
    plan->straight = reader->decode && schema_same(writer, reader->schema);
    enum outcome outcome = resolve_all(&resolver, writer, reader->schema, &plan->root, error);
    if (outcome == OK)
        *ret = plan;
    return outcome;
}

enum outcome schema_can_read(const struct schema *reader, const struct schema *writer, struct error *error)
{
    enum { BYTES_MAX = 64 << 20 };
    struct arena *arena = arena_new(BYTES_MAX);
    if (!arena)
        return NO_MEMORY(error);
    struct resolver resolver = {.arena = arena, .strict = true};
    const struct step *step;
    enum outcome outcome = resolve_all(&resolver, writer, reader, &step, error);
    arena_destroy(arena);
    return outcome;
}
