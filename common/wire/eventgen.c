/*
 * eventgen: the C of every event, from its schema. Runs in the build.
 *
 *     eventgen STEM SCHEMAS OUT
 *
 * Reads SCHEMAS/<Event>.avsc and SCHEMAS/history/<Event>.<n>.avsc for every EVENT of the table and writes
 * OUT/<STEM>s.h (structs, types, EVENT_TYPE_OF) and OUT/<STEM>s.c (schemas as tables, straight-line decode
 * and encode, the schemas' text). Tests build it again with a table of their own.
 *
 * A program of the build: memory is the process's, and every fault ends it with one line.
 */
#include "wire/schema_tree.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#ifndef EVENTGEN_TABLE
#define EVENTGEN_TABLE "wire/topics.def"
#endif

enum { VERSIONS_MAX = 99, STRUCTS_MAX = 256, NAME_MAX_BYTES = 256 };

static const struct event {
    int number;
    const char *name;
    const char *prefix;
    const char *topic;
} events[] = {
#define EVENT(number, name, prefix, topic) {number, #name, #prefix, #topic},
#include EVENTGEN_TABLE
#undef EVENT
};
enum { EVENT_COUNT = sizeof(events) / sizeof(events[0]) };

static const char *const key_fields[][2] = {
#define TOPIC(id, name, key, partitions, days, compacted) {#id, key},
#include EVENTGEN_TABLE
#undef TOPIC
};

struct version {
    struct text text;
    const struct schema *schema;
};
static struct version versions[EVENT_COUNT][VERSIONS_MAX];
static int version_counts[EVENT_COUNT];

static struct arena *arena;
static FILE *out;

static _Noreturn void die(const char *format, ...) PRINTF_LIKE(1, 2);
static void say(const char *format, ...) PRINTF_LIKE(1, 2);

static _Noreturn void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("eventgen: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(EXIT_BAD_DATA);
}

static void say(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(out, format, arguments);
    va_end(arguments);
}

static const char *print(const char *format, ...) PRINTF_LIKE(1, 2);
static const char *print(const char *format, ...)
{
    char at[NAME_MAX_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(at, sizeof(at), format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof(at))
        die("a name is longer than %d", NAME_MAX_BYTES);
    const char *copy = arena_copy(arena, at, (size_t)length + 1);
    if (!copy)
        die("out of memory");
    return copy;
}

/* ---- reading */

static bool file_read(const char *path, struct text *ret)
{
    FILE *file = fopen(path, "rb");
    if (!file && errno == ENOENT)
        return false;
    if (!file)
        die("%s: %s", path, strerror(errno));
    char *at = arena_take(arena, SCHEMA_TEXT_BYTES_MAX + 1);
    if (!at)
        die("out of memory");
    size_t length = fread(at, 1, SCHEMA_TEXT_BYTES_MAX + 1, file);
    if (ferror(file) || length > SCHEMA_TEXT_BYTES_MAX)
        die("%s: cannot be read, or longer than %d bytes", path, SCHEMA_TEXT_BYTES_MAX);
    fclose(file);
    *ret = (struct text){at, length};
    return true;
}

static void version_read(int event, const char *path, struct text text)
{
    struct version *version = &versions[event][version_counts[event]++];
    struct error error;
    version->text = text;
    if (schema_parse(text, arena, &version->schema, &error) != OK)
        die("%s: %s", path, error.text);
    if (version->schema->kind != SCHEMA_RECORD)
        die("%s: not a record", path);
    if (!text_is(schema_short_name(version->schema->name), events[event].name))
        die("%s: its name is not %s", path, events[event].name);
}

static void event_read(int event, const char *folder)
{
    const char *name = events[event].name;
    struct text text;
    const char *path;
    for (int n = 1; n < VERSIONS_MAX; n++) {
        path = print("%s/history/%s.%d.avsc", folder, name, n);
        if (!file_read(path, &text))
            break;
        version_read(event, path, text);
    }
    path = print("%s/%s.avsc", folder, name);
    if (!file_read(path, &text))
        die("%s is missing", path);
    version_read(event, path, text);
    const struct schema *latest = versions[event][version_counts[event] - 1].schema;
    for (int n = 0; n < version_counts[event]; n++) {
        struct error error;
        if (schema_can_read(latest, versions[event][n].schema, &error) != OK)
            die("%s cannot read its version %d: %s", path, n + 1, error.text);
    }
}

/* ---- names */

static const char *snake(struct text name)
{
    char at[NAME_MAX_BYTES];
    size_t length = 0;
    for (size_t i = 0; i < name.length && length < sizeof(at) - 3; i++) {
        bool upper = isupper((unsigned char)name.at[i]);
        if (upper && i && !isupper((unsigned char)name.at[i - 1]) && name.at[i - 1] != '_')
            at[length++] = '_';
        at[length++] = (char)tolower((unsigned char)name.at[i]);
    }
    at[length] = '\0';
    return print("%s", at);
}

static const char *member(struct text name)
{
    static const char *const words[] = {
        "auto",     "bool",   "break",  "case",   "char",     "const",  "continue", "default",
        "do",       "double", "else",   "enum",   "extern",   "float",  "for",      "goto",
        "if",       "inline", "int",    "long",   "register", "return", "short",    "signed",
        "sizeof",   "static", "struct", "switch", "typedef",  "union",  "unsigned", "void",
        "volatile", "while",  "asm",    "typeof", "restrict", "unix",   "linux",
    };
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (text_is(name, words[i]))
            return print("%s_", words[i]);
    return print("%.*s", TEXT_ARG(name));
}

/* ---- structs */

/* What was written so far: the C name, and the node that it is of. */
static struct written {
    const struct schema *schema;
    const char *name;
} structs[STRUCTS_MAX], tables[STRUCTS_MAX * 16];
static size_t struct_count, table_count;

static const char *struct_name(const struct schema *schema)
{
    for (size_t i = 0; i < struct_count; i++)
        if (structs[i].schema == schema)
            return structs[i].name;
    die("no struct for a %s", schema_kind_name(schema->kind));
}

/* True where a struct of this name is there already and is the same. */
static bool struct_taken(const struct schema *schema, const char *name)
{
    if (struct_count == STRUCTS_MAX)
        die("more than %d structs", STRUCTS_MAX);
    bool taken = false;
    for (size_t i = 0; i < struct_count; i++) {
        if (strcmp(structs[i].name, name) != 0)
            continue;
        if (!text_equal(structs[i].schema->name, schema->name) || !schema_same(structs[i].schema, schema))
            die("struct %s would be two different ones", name);
        taken = true;
    }
    structs[struct_count++] = (struct written){schema, name};
    return taken;
}

static const char *type_name(const struct schema *schema)
{
    switch (schema->kind) {
    case SCHEMA_BOOLEAN:
        return "bool";
    case SCHEMA_INT:
    case SCHEMA_ENUM:
        return "int32_t";
    case SCHEMA_LONG:
        return "int64_t";
    case SCHEMA_FLOAT:
        return "float";
    case SCHEMA_DOUBLE:
        return "double";
    case SCHEMA_BYTES:
    case SCHEMA_STRING:
    case SCHEMA_FIXED:
        return "struct text";
    case SCHEMA_RECORD:
    case SCHEMA_ARRAY:
    case SCHEMA_MAP:
    case SCHEMA_UNION:
        return print("struct %s", struct_name(schema));
    case SCHEMA_NULL:
    case SCHEMA_KIND_COUNT:
        break;
    }
    die("no C type for %s", schema_kind_name(schema->kind));
}

static void write_struct(const struct schema *schema, const char *name);

static const char *entry_name(const struct schema *map)
{
    return print("%s_entry", struct_name(map));
}

/* "OrderItem" is struct order_item wherever it is; what has no name of its own is called after its place. */
static void write_parts(const struct schema *part, const char *place)
{
    if (part->kind == SCHEMA_RECORD)
        write_struct(part, snake(schema_short_name(part->name)));
    else if (part->kind == SCHEMA_ARRAY || part->kind == SCHEMA_MAP || part->kind == SCHEMA_UNION)
        write_struct(part, place);
    else if (part->kind == SCHEMA_ENUM) {
        const char *name = snake(schema_short_name(part->name));
        if (struct_taken(part, name))
            return;
        say("/* %.*s */\nenum %s {\n", TEXT_ARG(part->name), name);
        for (size_t i = 0; i < part->count; i++) {
            char upper[NAME_MAX_BYTES];
            snprintf(upper, sizeof(upper), "%s_%.*s", name, TEXT_ARG(part->symbols[i]));
            for (char *c = upper; *c; c++)
                *c = (char)toupper((unsigned char)*c);
            say("    %s = %zu,\n", upper, i);
        }
        say("};\n\n");
    }
}

static const char *branch_member(const struct schema *branch)
{
    struct text name = schema_short_name(branch->name);
    return schema_is_named(branch) ? snake(name) : print("%.*s_value", TEXT_ARG(name));
}

static void write_list_struct(const struct schema *schema, const char *name)
{
    write_parts(schema->items, print("%s_%s", name, schema->kind == SCHEMA_MAP ? "value" : "item"));
    if (struct_taken(schema, name))
        return;
    if (schema->kind == SCHEMA_ARRAY) {
        say("struct %s {\n    %s *at;\n    size_t count;\n};\n\n", name, type_name(schema->items));
        return;
    }
    say("struct %s_entry {\n    struct text key;\n", name);
    if (schema->items->size)
        say("    %s value;\n", type_name(schema->items));
    say("};\nstruct %s {\n    struct %s_entry *at;\n    size_t count;\n};\n\n", name, name);
}

static void write_union_struct(const struct schema *schema, const char *name)
{
    for (size_t i = 0; i < schema->count; i++)
        write_parts(schema->branches[i], print("%s_%s", name, branch_member(schema->branches[i])));
    if (struct_taken(schema, name))
        return;
    if (schema->optional) {
        const struct schema *value = schema->branches[schema->branches[0]->kind == SCHEMA_NULL];
        say("struct %s {\n    bool set; /* else null */\n    %s value;\n};\n\n", name, type_name(value));
        return;
    }
    say("struct %s {\n    int32_t branch;\n    union {\n", name);
    for (size_t i = 0; i < schema->count; i++) {
        const struct schema *branch = schema->branches[i];
        if (branch->size)
            say("        %s %s; /* %zu */\n", type_name(branch), branch_member(branch), i);
        else
            say("        /* %zu: null */\n", i);
    }
    say("    } as;\n};\n\n");
}

static bool is_list(const struct schema *schema)
{
    return schema->kind == SCHEMA_ARRAY || schema->kind == SCHEMA_MAP;
}

static void write_record_struct(const struct schema *schema, const char *name)
{
    for (size_t i = 0; i < schema->count; i++) {
        const struct schema *part = schema->fields[i].schema;
        const char *place = print("%s_%.*s", name, TEXT_ARG(schema->fields[i].name));
        /* An array that is a field becomes two members; only its items may need a struct. */
        if (part->kind == SCHEMA_ARRAY)
            write_parts(part->items, print("%s_item", place));
        else
            write_parts(part, place);
    }
    if (struct_taken(schema, name))
        return;
    say("/* %.*s */\nstruct %s {\n", TEXT_ARG(schema->name), name);
    bool any = false;
    for (size_t i = 0; i < schema->count; i++) {
        const struct schema *part = schema->fields[i].schema;
        const char *called = member(schema->fields[i].name);
        if (part->size == 0)
            continue;
        any = true;
        if (part->kind == SCHEMA_ARRAY)
            say("    %s *%s;\n    size_t %s_count;\n", type_name(part->items), called, called);
        else
            say("    %s %s;%s\n", type_name(part), called,
                schema_is_timestamp_micros(part) ? " /* microseconds since 1970, UTC */"
                : part->kind == SCHEMA_ENUM ? print(" /* enum %s */", snake(schema_short_name(part->name)))
                                            : "");
    }
    say("%s};\n\n", any ? "" : "    char nothing;\n");
}

static void write_struct(const struct schema *schema, const char *name)
{
    if (is_list(schema))
        write_list_struct(schema, name);
    else if (schema->kind == SCHEMA_UNION)
        write_union_struct(schema, name);
    else
        write_record_struct(schema, name);
}

/* ---- schemas as tables */

static void say_text(struct text text)
{
    if (text.length)
        say("TEXT_INIT(\"%.*s\")", TEXT_ARG(text));
    else
        say("{NULL, 0}");
}

static void say_octets(struct text bytes)
{
    say("{\"");
    for (size_t i = 0; i < bytes.length; i++)
        say("\\%03o", (unsigned char)bytes.at[i]);
    say("\", %zu}", bytes.length);
}

static void say_names(const char *name, const char *what, const struct text *names, size_t count)
{
    if (!count)
        return;
    say("static const struct text %s_%s[] = {", name, what);
    for (size_t i = 0; i < count; i++) {
        say_text(names[i]);
        say(", ");
    }
    say("};\n");
}

/* Writes the node's table after those of its parts; returns its C name. */
static const char *write_table(const struct schema *schema)
{
    for (size_t i = 0; i < table_count; i++)
        if (tables[i].schema == schema)
            return tables[i].name;
    if (table_count == sizeof(tables) / sizeof(tables[0]))
        die("too many schema nodes");
    const char *parts[SCHEMA_FIELDS_MAX];
    const char *items = schema->items ? write_table(schema->items) : NULL;
    for (size_t i = 0; i < schema->count && schema->kind != SCHEMA_ENUM; i++)
        parts[i] = write_table(schema->fields ? schema->fields[i].schema : schema->branches[i]);

    const char *name = print("schema_%zu", table_count);
    tables[table_count++] = (struct written){schema, name};
    say_names(name, "aliases", schema->aliases, schema->alias_count);
    if (schema->symbols)
        say_names(name, "symbols", schema->symbols, schema->count);
    if (schema->branches) {
        say("static const struct schema *const %s_branches[] = {", name);
        for (size_t i = 0; i < schema->count; i++)
            say("&%s, ", parts[i]);
        say("};\n");
    }
    for (size_t i = 0; schema->fields && i < schema->count; i++)
        say_names(print("%s_%zu", name, i), "aliases", schema->fields[i].aliases,
                  schema->fields[i].alias_count);
    if (schema->fields && schema->count) {
        say("static const struct schema_field %s_fields[] = {\n", name);
        for (size_t i = 0; i < schema->count; i++) {
            const struct schema_field *field = &schema->fields[i];
            say("    {.name = TEXT_INIT(\"%.*s\"), .schema = &%s, .offset = %zu", TEXT_ARG(field->name),
                parts[i], field->offset);
            if (field->has_default) {
                say(", .has_default = true, .default_bytes = ");
                say_octets(field->default_bytes);
            }
            if (field->alias_count)
                say(", .aliases = %s_%zu_aliases, .alias_count = %zu", name, i, field->alias_count);
            say("},\n");
        }
        say("};\n");
    }
    say("static const struct schema %s = {\n    .kind = %d, /* %s */\n    .name = ", name, (int)schema->kind,
        schema_kind_name(schema->kind));
    say_text(schema->name);
    say(",\n    .logical = ");
    say_text(schema->logical);
    say(",\n");
    if (schema->alias_count)
        say("    .aliases = %s_aliases, .alias_count = %zu,\n", name, schema->alias_count);
    if (schema->count)
        say("    .count = %zu, .%s = %s_%s,\n", schema->count,
            schema->fields    ? "fields"
            : schema->symbols ? "symbols"
                              : "branches",
            name,
            schema->fields    ? "fields"
            : schema->symbols ? "symbols"
                              : "branches");
    if (items)
        say("    .items = &%s,\n", items);
    say("    .symbol_default = %d, .fixed_bytes = %zu, .size = %zu, .align = %zu,\n"
        "    .value_offset = %zu, .entry_size = %zu, .optional = %d, .bytes_min = %zu, .depth = %zu,\n"
        "    .node_count = %zu,\n};\n",
        schema->symbol_default, schema->fixed_bytes, schema->size, schema->align, schema->value_offset,
        schema->entry_size, schema->optional, schema->bytes_min, schema->depth, schema->node_count);
    return name;
}

/* The compiler lays out the struct as schema.c has computed. */
static void write_layout_checks(const struct schema *schema, const char *name)
{
    const char *c = print("struct %s", name);
    say("_Static_assert(sizeof(%s) == %zu && _Alignof(%s) == %zu, \"layout\");\n", c, schema->size, c,
        schema->align);
    if (schema->kind == SCHEMA_MAP)
        say("_Static_assert(sizeof(struct %s_entry) == %zu, \"layout\");\n", name, schema->entry_size);
    if (schema->kind == SCHEMA_UNION)
        say("_Static_assert(offsetof(%s, %s) == %zu, \"layout\");\n", c, schema->optional ? "value" : "as",
            schema->value_offset);
    for (size_t i = 0; schema->fields && i < schema->count; i++)
        if (schema->fields[i].schema->size)
            say("_Static_assert(offsetof(%s, %s) == %zu, \"layout\");\n", c, member(schema->fields[i].name),
                schema->fields[i].offset);
}

/* ---- straight-line code */

static void write_get(const struct schema *schema, const char *to, int depth);
static void write_put(const struct schema *schema, const char *from, int depth);
static void write_bound(const struct schema *schema, const char *from, int depth);

static void say_at(int depth, const char *format, ...) PRINTF_LIKE(2, 3);
static void say_at(int depth, const char *format, ...)
{
    fprintf(out, "%*s", depth * 4, "");
    va_list arguments;
    va_start(arguments, format);
    vfprintf(out, format, arguments);
    va_end(arguments);
}

static void write_get_call(int depth, const char *call)
{
    say_at(depth, "at = %s;\n", call);
    say_at(depth, "if (!at)\n");
    say_at(depth + 1, "return NULL;\n");
}

/* at_name and count_name: the list's two members. Lists nest, so each depth has names of its own. */
static void write_get_list(const struct schema *schema, const char *at_name, const char *count_name,
                           int depth)
{
    const struct schema *items = schema->items;
    bool map = schema->kind == SCHEMA_MAP;
    size_t bytes_min = map ? items->bytes_min + 1 : items->bytes_min;
    const char *type = map ? print("struct %s", entry_name(schema)) : type_name(items);
    int d = depth;
    say_at(d, "{\n");
    say_at(d + 1, "size_t count%d = 0, capacity%d = 0, more%d;\n", d, d, d);
    say_at(d + 1, "const unsigned char *block%d;\n", d);
    say_at(d + 1, "void *list%d = NULL;\n", d);
    say_at(d + 1, "for (;;) {\n");
    write_get_call(d + 2, print("codec_get_block(at, end, %zu, &more%d, &block%d)", bytes_min, d, d));
    say_at(d + 2, "if (more%d == 0)\n", d);
    say_at(d + 3, "break;\n");
    say_at(d + 2, "if (!codec_list_grow(arena, &list%d, count%d, &capacity%d, more%d, %zu))\n", d, d, d, d,
           schema->entry_size);
    say_at(d + 3, "return NULL;\n");
    say_at(d + 2, "%s *item%d = (%s *)list%d + count%d;\n", type, d, type, d, d);
    say_at(d + 2, "count%d += more%d;\n", d, d);
    say_at(d + 2, "for (; more%d > 0; more%d--, item%d++) {\n", d, d, d);
    if (map)
        write_get_call(d + 3, print("codec_get_string(at, end, &item%d->key)", d));
    write_get(items, map ? print("item%d->value", d) : print("(*item%d)", d), d + 3);
    say_at(d + 2, "}\n");
    say_at(d + 2, "if (block%d && at != block%d)\n", d, d);
    say_at(d + 3, "return NULL;\n");
    say_at(d + 1, "}\n");
    say_at(d + 1, "%s = list%d;\n", at_name, d);
    say_at(d + 1, "%s = count%d;\n", count_name, d);
    say_at(d, "}\n");
}

static void write_get_union(const struct schema *schema, const char *to, int depth)
{
    const char *branch = print("branch%d", depth);
    say_at(depth, "{\n");
    say_at(depth + 1, "int32_t %s;\n", branch);
    write_get_call(depth + 1, print("codec_get_index(at, end, %zu, &%s)", schema->count, branch));
    if (schema->optional)
        say_at(depth + 1, "%s.set = %s == %d;\n", to, branch, schema->branches[0]->kind == SCHEMA_NULL);
    else
        say_at(depth + 1, "%s.branch = %s;\n", to, branch);
    say_at(depth + 1, "switch (%s) {\n", branch);
    for (size_t i = 0; i < schema->count; i++) {
        const struct schema *part = schema->branches[i];
        say_at(depth + 1, "case %zu:\n", i);
        if (part->kind != SCHEMA_NULL)
            write_get(part,
                      schema->optional ? print("%s.value", to) : print("%s.as.%s", to, branch_member(part)),
                      depth + 2);
        say_at(depth + 2, "break;\n");
    }
    say_at(depth + 1, "}\n");
    say_at(depth, "}\n");
}

static void write_get(const struct schema *schema, const char *to, int depth)
{
    switch (schema->kind) {
    case SCHEMA_NULL:
    case SCHEMA_KIND_COUNT:
        return;
    case SCHEMA_BOOLEAN:
    case SCHEMA_INT:
    case SCHEMA_LONG:
    case SCHEMA_FLOAT:
    case SCHEMA_DOUBLE:
    case SCHEMA_BYTES:
    case SCHEMA_STRING:
        write_get_call(depth, print("codec_get_%s(at, end, &%s)", schema_kind_name(schema->kind), to));
        return;
    case SCHEMA_ENUM:
        write_get_call(depth, print("codec_get_index(at, end, %zu, &%s)", schema->count, to));
        return;
    case SCHEMA_FIXED:
        write_get_call(depth, print("codec_get_fixed(at, end, %zu, &%s)", schema->fixed_bytes, to));
        return;
    case SCHEMA_RECORD:
        write_get_call(depth, print("%s_decode(at, end, arena, &%s)", struct_name(schema), to));
        return;
    case SCHEMA_ARRAY:
    case SCHEMA_MAP:
        write_get_list(schema, print("%s.at", to), print("%s.count", to), depth);
        return;
    case SCHEMA_UNION:
        write_get_union(schema, to, depth);
        return;
    }
}

static void write_put_call(int depth, const char *call, bool may_fail)
{
    say_at(depth, "at = %s;\n", call);
    if (!may_fail)
        return;
    say_at(depth, "if (!at)\n");
    say_at(depth + 1, "return NULL;\n");
}

static void write_list_loop(const struct schema *schema, const char *at_name, const char *count_name,
                            int depth, void (*each)(const struct schema *, const char *, int))
{
    const char *index = print("i%d", depth);
    const char *item = print("%s[%s]", at_name, index);
    say_at(depth, "for (size_t %s = 0; %s < %s; %s++) {\n", index, index, count_name, index);
    if (schema->kind == SCHEMA_MAP) {
        say_at(depth + 1,
               each == write_put ? "at = codec_put_string(at, %s.key);\n" : "bytes += 10 + %s.key.length;\n",
               item);
        if (each == write_put) {
            say_at(depth + 1, "if (!at)\n");
            say_at(depth + 2, "return NULL;\n");
        }
        item = print("%s.value", item);
    }
    each(schema->items, item, depth + 1);
    say_at(depth, "}\n");
}

static void write_put_list(const struct schema *schema, const char *at_name, const char *count_name,
                           int depth)
{
    say_at(depth, "if (%s) {\n", count_name);
    write_put_call(depth + 1, print("codec_put_long(at, (int64_t)%s)", count_name), false);
    write_list_loop(schema, at_name, count_name, depth + 1, write_put);
    say_at(depth, "}\n");
    write_put_call(depth, "codec_put_long(at, 0)", false);
}

static void write_union_switch(const struct schema *schema, const char *from, int depth,
                               void (*each)(const struct schema *, const char *, int))
{
    if (schema->optional)
        say_at(depth, "switch (%s.set ? %d : %d) {\n", from, schema->branches[0]->kind == SCHEMA_NULL,
               schema->branches[0]->kind != SCHEMA_NULL);
    else
        say_at(depth, "switch (%s.branch) {\n", from);
    for (size_t i = 0; i < schema->count; i++) {
        const struct schema *part = schema->branches[i];
        say_at(depth, "case %zu:\n", i);
        if (each == write_put)
            write_put_call(depth + 1, print("codec_put_long(at, %zu)", i), false);
        if (part->kind != SCHEMA_NULL)
            each(part,
                 schema->optional ? print("%s.value", from) : print("%s.as.%s", from, branch_member(part)),
                 depth + 1);
        say_at(depth + 1, "break;\n");
    }
    if (!schema->optional) {
        say_at(depth, "default:\n");
        say_at(depth + 1, each == write_put ? "return NULL;\n" : "break;\n");
    }
    say_at(depth, "}\n");
}

static void write_put(const struct schema *schema, const char *from, int depth)
{
    switch (schema->kind) {
    case SCHEMA_NULL:
    case SCHEMA_KIND_COUNT:
        return;
    case SCHEMA_INT:
    case SCHEMA_LONG:
        write_put_call(depth, print("codec_put_long(at, %s)", from), false);
        return;
    case SCHEMA_BOOLEAN:
    case SCHEMA_FLOAT:
    case SCHEMA_DOUBLE:
    case SCHEMA_BYTES:
        write_put_call(depth, print("codec_put_%s(at, %s)", schema_kind_name(schema->kind), from), false);
        return;
    case SCHEMA_STRING:
        write_put_call(depth, print("codec_put_string(at, %s)", from), true);
        return;
    case SCHEMA_ENUM:
        write_put_call(depth, print("codec_put_index(at, %zu, %s)", schema->count, from), true);
        return;
    case SCHEMA_FIXED:
        write_put_call(depth, print("codec_put_fixed(at, %zu, %s)", schema->fixed_bytes, from), true);
        return;
    case SCHEMA_RECORD:
        write_put_call(depth, print("%s_encode(at, &%s)", struct_name(schema), from), true);
        return;
    case SCHEMA_ARRAY:
    case SCHEMA_MAP:
        write_put_list(schema, print("%s.at", from), print("%s.count", from), depth);
        return;
    case SCHEMA_UNION:
        write_union_switch(schema, from, depth, write_put);
        return;
    }
}

/* What a value takes at most whatever it holds; its text, items and branches come on top. */
static size_t bound_of(const struct schema *schema)
{
    static const size_t bounds[SCHEMA_KIND_COUNT] = {
        [SCHEMA_BOOLEAN] = 1, [SCHEMA_INT] = 5,    [SCHEMA_LONG] = 10,   [SCHEMA_FLOAT] = 4,
        [SCHEMA_DOUBLE] = 8,  [SCHEMA_BYTES] = 10, [SCHEMA_STRING] = 10, [SCHEMA_ENUM] = 5,
        [SCHEMA_ARRAY] = 11,  [SCHEMA_MAP] = 11,   [SCHEMA_UNION] = 5,
    };
    if (schema->kind == SCHEMA_FIXED)
        return schema->fixed_bytes;
    return bounds[schema->kind];
}

/* Adds up what is not in bound_of(); within a list or a branch, that as well. */
static void write_bound(const struct schema *schema, const char *from, int depth)
{
    if (bound_of(schema)) {
        say_at(depth, "bytes += %zu;\n", bound_of(schema));
    }
    switch (schema->kind) {
    case SCHEMA_BYTES:
    case SCHEMA_STRING:
        say_at(depth, "bytes += %s.length;\n", from);
        return;
    case SCHEMA_RECORD:
        say_at(depth, "bytes += %s_bound(&%s);\n", struct_name(schema), from);
        return;
    case SCHEMA_ARRAY:
    case SCHEMA_MAP:
        write_list_loop(schema, print("%s.at", from), print("%s.count", from), depth, write_bound);
        return;
    case SCHEMA_UNION:
        write_union_switch(schema, from, depth, write_bound);
        return;
    case SCHEMA_NULL:
    case SCHEMA_BOOLEAN:
    case SCHEMA_INT:
    case SCHEMA_LONG:
    case SCHEMA_FLOAT:
    case SCHEMA_DOUBLE:
    case SCHEMA_ENUM:
    case SCHEMA_FIXED:
    case SCHEMA_KIND_COUNT:
        return;
    }
}

static void write_record_code(const struct schema *schema, const char *name)
{
    say("\nstatic inline const unsigned char *%s_decode(const unsigned char *at, const unsigned char *end,\n"
        "    struct arena *arena, struct %s *to)\n{\n    (void)end, (void)arena, (void)to;\n",
        name, name);
    for (size_t i = 0; i < schema->count; i++) {
        const char *called = member(schema->fields[i].name);
        const struct schema *part = schema->fields[i].schema;
        if (part->kind == SCHEMA_ARRAY)
            write_get_list(part, print("to->%s", called), print("to->%s_count", called), 1);
        else
            write_get(part, print("to->%s", called), 1);
    }
    if (schema->count == 0)
        say("    to->nothing = 0;\n");
    say("    return at;\n}\n\nstatic inline size_t %s_bound(const struct %s *from)\n{\n"
        "    size_t bytes = 0;\n    (void)from;\n",
        name, name);
    for (size_t i = 0; i < schema->count; i++) {
        const char *called = member(schema->fields[i].name);
        const struct schema *part = schema->fields[i].schema;
        if (part->kind == SCHEMA_ARRAY) {
            say("    bytes += %zu;\n", bound_of(part));
            write_list_loop(part, print("from->%s", called), print("from->%s_count", called), 1, write_bound);
        } else {
            write_bound(part, print("from->%s", called), 1);
        }
    }
    say("    return bytes;\n}\n\nstatic inline unsigned char *%s_encode(unsigned char *at, const struct %s "
        "*from)\n"
        "{\n    (void)from;\n",
        name, name);
    for (size_t i = 0; i < schema->count; i++) {
        const char *called = member(schema->fields[i].name);
        const struct schema *part = schema->fields[i].schema;
        if (part->kind == SCHEMA_ARRAY)
            write_put_list(part, print("from->%s", called), print("from->%s_count", called), 1);
        else
            write_put(part, print("from->%s", called), 1);
    }
    say("    return at;\n}\n");
}

/* Structs are listed parts first, and one that two events share is listed twice. */
static void write_code(void)
{
    for (size_t i = 0; i < struct_count; i++) {
        bool before = false;
        for (size_t k = 0; k < i; k++)
            before |= strcmp(structs[k].name, structs[i].name) == 0;
        if (before || structs[i].schema->kind == SCHEMA_ENUM)
            continue;
        write_layout_checks(structs[i].schema, structs[i].name);
        if (structs[i].schema->kind == SCHEMA_RECORD)
            write_record_code(structs[i].schema, structs[i].name);
    }
}

/* ---- files */

static const struct schema *latest(int event)
{
    return versions[event][version_counts[event] - 1].schema;
}

static void open_out(const char *folder, const char *file)
{
    const char *path = print("%s/%s", folder, file);
    out = fopen(path, "w");
    if (!out)
        die("%s: %s", path, strerror(errno));
    say("/* Made by eventgen from the schemas; do not edit. */\n");
}

static void close_out(void)
{
    if (ferror(out) | fclose(out))
        die("cannot write");
}

static void write_header(const char *stem, const char *STEM)
{
    say("#ifndef WIRE_%sS_H\n#define WIRE_%sS_H\n\n#include \"wire/event.h\"\n\n", STEM, STEM);
    for (int i = 0; i < EVENT_COUNT; i++)
        write_struct(latest(i), events[i].prefix);
    for (int i = 0; i < EVENT_COUNT; i++)
        say("extern const struct event_type %s_type;\n", events[i].prefix);
    say("/* In the order of their numbers, NULL at the end. */\nextern const struct event_type *const "
        "%s_types[];\n",
        stem);
    say("\n/* The %s_type of a pointer to one of the structs above. */\n#define %s_TYPE_OF(pointer) \\\n"
        "    _Generic((pointer), \\\n",
        stem, STEM);
    for (int i = 0; i < EVENT_COUNT; i++)
        say("        struct %s *: &%s_type, const struct %s *: &%s_type%s\n", events[i].prefix,
            events[i].prefix, events[i].prefix, events[i].prefix, i + 1 < EVENT_COUNT ? ", \\" : ")");
    say("\n#endif\n");
}

/* String literals may not be longer than what C11 promises, so the text is written as bytes. */
static void write_schema_text(const char *prefix, int n, struct text text)
{
    say("static const char %s_schema_%d[] = {", prefix, n + 1);
    for (size_t i = 0; i < text.length; i++)
        say("%s%d,", i % 24 ? "" : "\n    ", (signed char)text.at[i]);
    say("0};\n");
}

static size_t key_offset(int event)
{
    const struct schema *schema = latest(event);
    for (size_t t = 0; t < sizeof(key_fields) / sizeof(key_fields[0]); t++) {
        if (strcmp(key_fields[t][0], events[event].topic) != 0)
            continue;
        for (size_t i = 0; i < schema->count; i++)
            if (text_is(schema->fields[i].name, key_fields[t][1]) &&
                schema->fields[i].schema->kind == SCHEMA_STRING)
                return schema->fields[i].offset;
        die("%s has no string '%s', which is its topic's key", events[event].name, key_fields[t][1]);
    }
    die("%s: no topic %s", events[event].name, events[event].topic);
}

static void write_source(const char *stem)
{
    say("#include \"wire/%ss.h\"\n\n#include \"wire/codec_type.h\"\n\n", stem);
    write_code();
    for (int i = 0; i < EVENT_COUNT; i++) {
        const char *prefix = events[i].prefix;
        const char *table = write_table(latest(i));
        say("\nstatic const unsigned char *%s_decode_any(const unsigned char *at, const unsigned char *end,\n"
            "    struct arena *arena, void *to)\n{\n    return %s_decode(at, end, arena, to);\n}\n"
            "static size_t %s_bound_any(const void *from)\n{\n    return %s_bound(from);\n}\n"
            "static unsigned char *%s_encode_any(unsigned char *at, const void *from)\n"
            "{\n    return %s_encode(at, from);\n}\n",
            prefix, prefix, prefix, prefix, prefix, prefix);
        say("static const struct codec_type %s_codec = {\n    .schema = &%s,\n    .decode = %s_decode_any,\n"
            "    .bound = %s_bound_any,\n    .encode = %s_encode_any,\n};\n",
            prefix, table, prefix, prefix, prefix);
        for (int n = 0; n < version_counts[i]; n++)
            write_schema_text(prefix, n, versions[i][n].text);
        say("static const char *const %s_schemas[] = {", prefix);
        for (int n = 0; n < version_counts[i]; n++)
            say("%s_schema_%d, ", prefix, n + 1);
        say("};\nconst struct event_type %s_type = {\n    .number = %d,\n    .name = \"%s\",\n"
            "    .full_name = \"%.*s\",\n    .topic = TOPIC_%s,\n    .codec = &%s_codec,\n    .key_offset = "
            "%zu,\n"
            "    .version = %d,\n    .schemas = %s_schemas,\n};\n",
            prefix, events[i].number, events[i].name, TEXT_ARG(latest(i)->name), events[i].topic, prefix,
            key_offset(i), version_counts[i], prefix);
    }
    say("\nconst struct event_type *const %s_types[] = {\n", stem);
    for (int i = 0; i < EVENT_COUNT; i++)
        say("    &%s_type,\n", events[i].prefix);
    say("    NULL,\n};\n");
}

int main(int argc, char **argv)
{
    if (argc != 4)
        die("usage: eventgen STEM SCHEMAS OUT");
    arena = arena_new(SIZE_MAX / 2);
    if (!arena)
        die("out of memory");
    for (int i = 0; i < EVENT_COUNT; i++)
        event_read(i, argv[2]);

    char upper[NAME_MAX_BYTES];
    snprintf(upper, sizeof(upper), "%s", argv[1]);
    for (char *c = upper; *c; c++)
        *c = (char)toupper((unsigned char)*c);
    open_out(argv[3], print("%ss.h", argv[1]));
    write_header(argv[1], upper);
    close_out();
    open_out(argv[3], print("%ss.c", argv[1]));
    write_source(argv[1]);
    close_out();
    arena_destroy(arena);
    return 0;
}
