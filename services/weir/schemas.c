/*
 * schemas: the event schemas, those that were built in or those of a folder: list them, check that every
 * version can read the others, register them.
 *
 * Without a schema registry their ids are Weir's own; with one (SCHEMA_REGISTRY_URL) list and check look at
 * what it has as well, and register posts every version in its order, so that a new registry counts as the
 * files do.
 */
#include "cli.h"

#include "wire/codec_type.h"
#include "wire/schema.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    VERSIONS_MAX = 200, /* of one schema */
    SCHEMAS_MAX = 512,  /* of one folder */
    ARENA_BYTES = 64 << 20,
    PATH_BYTES = 4096,
};

static const struct setting schemas_settings[] = {
    {"JSON", SETTING_BOOL, "false", 0, 0, NULL, "list: one JSON object a line."},
    {"COMPATIBILITY", SETTING_CHOICE, "full", 0, 0, "full|backward|forward",
     "check: backward, the newest reads what every earlier version wrote; forward, every earlier one reads "
     "what the newest writes; full, both: producers and consumers may be upgraded in any order."},
    {"SET_COMPATIBILITY", SETTING_BOOL, "false", 0, 0, NULL,
     "register: set BACKWARD_TRANSITIVE for each subject before."},
    SETTINGS_END,
};

/* One schema with its history. Texts are in the arena or built in. */
struct versions {
    const char *name;              /* "OrderPlaced" */
    const struct event_type *type; /* NULL: it is no event of ours */
    struct text texts[VERSIONS_MAX];
    int count;
};

struct schemas {
    const struct verb *verb;
    struct arena *arena;
    struct registry *registry; /* NULL: none is set */
    bool backward, forward;
    bool good;
};

/* ---- where they come from */

static void built_in(const struct event_type *type, struct versions *ret)
{
    *ret = (struct versions){.name = type->name, .type = type, .count = type->version};
    for (int i = 0; i < type->version; i++)
        ret->texts[i] = text_of(type->schemas[i]);
}

/* False where the file is not there; REJECT and exit 66 otherwise. */
static enum outcome file_text(struct schemas *schemas, const char *path, bool *ret_there, struct text *ret,
                              struct error *error)
{
    FILE *file = fopen(path, "re");
    *ret_there = file != NULL;
    if (!file && errno == ENOENT)
        return OK;
    struct buffer content = buffer_of(SCHEMA_TEXT_BYTES_MAX);
    char block[16 << 10];
    size_t got;
    while (file && (got = fread(block, 1, sizeof(block), file)) > 0)
        buffer_add(&content, block, got);
    enum outcome outcome = OK;
    if (!file || ferror(file) || content.failed) {
        outcome = error_reject(error, "read", "%s: %s", path,
                               content.failed ? "longer than a schema may be" : strerror(errno));
        error->exit_code = EXIT_NO_INPUT;
    }
    *ret = text_copy(schemas->arena, buffer_text(&content));
    if (file)
        fclose(file);
    buffer_free(&content);
    return outcome;
}

/* <folder>/<name>.avsc and <folder>/history/<name>.<n>.avsc. */
static enum outcome from_folder(struct schemas *schemas, const char *folder, const char *name,
                                struct versions *ret, struct error *error)
{
    char path[PATH_BYTES];
    bool there = true;
    *ret = (struct versions){.name = name};
    while (there) {
        if (ret->count == VERSIONS_MAX - 1)
            return error_reject(error, "many", "%s: more than %d versions", name, VERSIONS_MAX - 1);
        snprintf(path, sizeof(path), "%s/history/%s.%d.avsc", folder, name, ret->count + 1);
        enum outcome outcome = file_text(schemas, path, &there, &ret->texts[ret->count], error);
        if (outcome != OK)
            return outcome;
        ret->count += there;
    }
    snprintf(path, sizeof(path), "%s/%s.avsc", folder, name);
    return file_text(schemas, path, &there, &ret->texts[ret->count++], error);
}

/* ---- list */

static void print_line(bool json, struct buffer *line, int id, const char *subject, int version,
                       const char *file)
{
    char number[16], edition[16];
    if (!json) {
        snprintf(number, sizeof(number), "%d", id);
        snprintf(edition, sizeof(edition), "v%d", version);
        printf("%8s  %-36s %-5s %s\n", id >= 0 ? number : "-", subject, version > 0 ? edition : "-",
               file ? file : "(not in this build)");
        return;
    }
    struct json_writer writer = json_writer(line);
    buffer_clear(line);
    json_object_begin(&writer);
    json_key(&writer, "id");
    if (id >= 0)
        json_put_int(&writer, id);
    else
        json_put_null(&writer);
    json_member_string(&writer, "subject", subject);
    json_key(&writer, "version");
    if (version > 0)
        json_put_int(&writer, version);
    else
        json_put_null(&writer);
    json_key(&writer, "file");
    if (file)
        json_put_text(&writer, text_of(file));
    else
        json_put_null(&writer);
    json_object_end(&writer);
    printf("%.*s\n", TEXT_ARG(buffer_text(line)));
}

static char *file_of(const struct event_type *type, int version, char into[128])
{
    if (version == type->version)
        snprintf(into, 128, "schemas/%s.avsc", type->name);
    else
        snprintf(into, 128, "schemas/history/%s.%d.avsc", type->name, version);
    return into;
}

/* ---- what a registry has of a subject */

static enum outcome remote_numbers(struct schemas *schemas, const struct event_type *type, json_t **ret,
                                   struct error *error)
{
    char subject[REGISTRY_SUBJECT_BYTES_MAX], path[REGISTRY_SUBJECT_BYTES_MAX + 64];
    int code = 0;
    snprintf(path, sizeof(path), "/subjects/%s/versions", registry_subject(type, subject));
    enum outcome outcome = registry_call(schemas->registry, "GET", path, TEXT(""), ret, &code, error);
    if (outcome != REJECT || code != 40401)
        return outcome;
    *ret = NULL; /* no such subject: an array of nothing */
    return OK;
}

static enum outcome remote_version(struct schemas *schemas, const struct event_type *type, int version,
                                   json_t **ret, struct error *error)
{
    char subject[REGISTRY_SUBJECT_BYTES_MAX], path[REGISTRY_SUBJECT_BYTES_MAX + 64];
    snprintf(path, sizeof(path), "/subjects/%s/versions/%d", registry_subject(type, subject), version);
    return registry_call(schemas->registry, "GET", path, TEXT(""), ret, NULL, error);
}

/* The version of our files that has the same canonical form; 0: none. */
static int version_of(struct schemas *schemas, const struct event_type *type, struct text text)
{
    const struct schema *theirs, *ours;
    struct error ignored;
    arena_reset(schemas->arena);
    if (schema_parse(text, schemas->arena, &theirs, &ignored) != OK)
        return 0;
    for (int version = type->version; version > 0; version--)
        if (schema_parse(text_of(type->schemas[version - 1]), schemas->arena, &ours, &ignored) == OK &&
            schema_same(theirs, ours))
            return version;
    return 0;
}

static enum outcome list_remote(struct schemas *schemas, const struct event_type *type, bool json,
                                struct buffer *line, struct error *error)
{
    char subject[REGISTRY_SUBJECT_BYTES_MAX], file[128];
    json_t *numbers = NULL;
    bool seen[VERSIONS_MAX + 1] = {false};
    registry_subject(type, subject);
    enum outcome outcome = remote_numbers(schemas, type, &numbers, error);
    for (size_t i = 0; outcome == OK && i < json_array_size(numbers); i++) {
        int number = (int)json_integer_value(json_array_get(numbers, i));
        json_t *answer = NULL;
        outcome = remote_version(schemas, type, number, &answer, error);
        if (outcome == OK) {
            int ours = version_of(schemas, type, json_text(answer, "schema"));
            seen[ours] = true;
            print_line(json, line, (int)json_integer_value(json_object_get(answer, "id")), subject, number,
                       ours ? file_of(type, ours, file) : NULL);
        }
        json_decref(answer);
    }
    for (int version = 1; outcome == OK && version <= type->version; version++)
        if (!seen[version])
            print_line(json, line, -1, subject, 0, file_of(type, version, file));
    json_decref(numbers);
    return outcome;
}

static enum outcome list(struct schemas *schemas, bool json, struct error *error)
{
    struct buffer line = buffer_of(1 << 20);
    enum outcome outcome = OK;
    for (const struct event_type *const *type = event_types; outcome == OK && *type; type++) {
        if (schemas->registry) {
            outcome = list_remote(schemas, *type, json, &line, error);
            continue;
        }
        for (int version = 1; version <= (*type)->version; version++) {
            char subject[REGISTRY_SUBJECT_BYTES_MAX], file[128];
            print_line(json, &line, (*type)->number * 100 + version, registry_subject(*type, subject),
                       version, file_of(*type, version, file));
        }
    }
    buffer_free(&line);
    return outcome;
}

/* ---- check */

PRINTF_LIKE(3, 4)
static void bad(struct schemas *schemas, const char *name, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("%s: ", name);
    vprintf(format, arguments);
    putchar('\n');
    va_end(arguments);
    schemas->good = false;
}

/* earlier: what the earlier version is called, "version 1". */
static void check_pair(struct schemas *schemas, const char *name, const struct schema *newest,
                       const char *newest_name, const struct schema *earlier, const char *earlier_name)
{
    struct error error;
    if (schemas->backward && schema_can_read(newest, earlier, &error) != OK)
        bad(schemas, name, "%s cannot read what %s wrote: %s", newest_name, earlier_name, error.text);
    if (schemas->forward && schema_can_read(earlier, newest, &error) != OK)
        bad(schemas, name, "%s cannot read what %s writes: %s", earlier_name, newest_name, error.text);
}

static void check_versions(struct schemas *schemas, const struct versions *versions)
{
    const struct schema *newest = NULL, *earlier;
    struct error error;
    char newest_name[32], earlier_name[32];
    bool before = schemas->good;
    schemas->good = true;
    snprintf(newest_name, sizeof(newest_name), "version %d", versions->count);
    if (schema_parse(versions->texts[versions->count - 1], schemas->arena, &newest, &error) != OK)
        bad(schemas, versions->name, "%s is no schema: %s", newest_name, error.text);
    for (int i = 0; newest && i < versions->count - 1; i++) {
        snprintf(earlier_name, sizeof(earlier_name), "version %d", i + 1);
        if (schema_parse(versions->texts[i], schemas->arena, &earlier, &error) != OK)
            bad(schemas, versions->name, "%s is no schema: %s", earlier_name, error.text);
        else
            check_pair(schemas, versions->name, newest, newest_name, earlier, earlier_name);
    }
    if (schemas->good)
        printf("%s: %s ok\n", versions->name, newest_name);
    schemas->good &= before;
}

/* Our newest against all that the registry has of its subject. */
static enum outcome check_remote(struct schemas *schemas, const struct event_type *type, struct error *error)
{
    json_t *numbers = NULL;
    enum outcome outcome = remote_numbers(schemas, type, &numbers, error);
    for (size_t i = 0; outcome == OK && i < json_array_size(numbers); i++) {
        int number = (int)json_integer_value(json_array_get(numbers, i));
        const struct schema *ours, *theirs;
        struct error why;
        char name[64];
        json_t *answer = NULL;
        outcome = remote_version(schemas, type, number, &answer, error);
        arena_reset(schemas->arena);
        snprintf(name, sizeof(name), "the registry's version %d", number);
        if (outcome == OK &&
            schema_parse(text_of(type->schemas[type->version - 1]), schemas->arena, &ours, &why) == OK) {
            if (schema_parse(json_text(answer, "schema"), schemas->arena, &theirs, &why) != OK)
                bad(schemas, type->name, "%s is no schema that we read: %s", name, why.text);
            else
                check_pair(schemas, type->name, ours, "ours", theirs, name);
        }
        json_decref(answer);
    }
    json_decref(numbers);
    return outcome;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static enum outcome check_folder(struct schemas *schemas, const char *folder, struct error *error)
{
    char *names[SCHEMAS_MAX];
    size_t count = 0;
    enum outcome outcome = OK;
    DIR *directory = opendir(folder);
    for (struct dirent *entry; directory && (entry = readdir(directory)) != NULL && count < SCHEMAS_MAX;) {
        size_t length = strlen(entry->d_name);
        if (length <= 5 || strcmp(entry->d_name + length - 5, ".avsc") != 0)
            continue;
        names[count] = strndup(entry->d_name, length - 5);
        count += names[count] != NULL;
    }
    if (directory)
        closedir(directory);
    if (!count) {
        outcome =
            error_reject(error, "read", "%s: %s", folder, directory ? "no .avsc in it" : strerror(errno));
        error->exit_code = EXIT_NO_INPUT;
    }
    qsort(names, count, sizeof(names[0]), by_name);
    for (size_t i = 0; i < count; i++) {
        struct versions versions;
        arena_reset(schemas->arena);
        if (outcome == OK)
            outcome = from_folder(schemas, folder, names[i], &versions, error);
        if (outcome == OK)
            check_versions(schemas, &versions);
        free(names[i]);
    }
    return outcome;
}

static enum outcome check(struct schemas *schemas, const char *folder, struct error *error)
{
    enum outcome outcome = OK;
    if (folder)
        return check_folder(schemas, folder, error);
    for (const struct event_type *const *type = event_types; outcome == OK && *type; type++) {
        struct versions versions;
        arena_reset(schemas->arena);
        built_in(*type, &versions);
        check_versions(schemas, &versions);
        if (schemas->registry)
            outcome = check_remote(schemas, *type, error);
    }
    return outcome;
}

/* ---- register */

static enum outcome set_compatibility(struct schemas *schemas, const char *subject, struct error *error)
{
    char path[REGISTRY_SUBJECT_BYTES_MAX + 16];
    json_t *answer = NULL;
    snprintf(path, sizeof(path), "/config/%s", subject);
    enum outcome outcome =
        registry_call(schemas->registry, "PUT", path, TEXT("{\"compatibility\":\"BACKWARD_TRANSITIVE\"}"),
                      &answer, NULL, error);
    json_decref(answer);
    return outcome;
}

static enum outcome register_version(struct schemas *schemas, const struct event_type *type, int version,
                                     const char *subject, struct error *error)
{
    char path[REGISTRY_SUBJECT_BYTES_MAX + 32], file[128];
    struct buffer body = buffer_of(SCHEMA_TEXT_BYTES_MAX * 2);
    struct json_writer writer = json_writer(&body);
    json_t *answer = NULL;
    snprintf(path, sizeof(path), "/subjects/%s/versions", subject);
    json_object_begin(&writer);
    json_member_string(&writer, "schema", type->schemas[version - 1]);
    json_object_end(&writer);
    enum outcome outcome =
        registry_call(schemas->registry, "POST", path, buffer_text(&body), &answer, NULL, error);
    if (outcome == OK)
        printf("%8lld  %-36s %s\n", (long long)json_integer_value(json_object_get(answer, "id")), subject,
               file_of(type, version, file));
    json_decref(answer);
    buffer_free(&body);
    return outcome;
}

static enum outcome register_all(struct schemas *schemas, bool set, struct error *error)
{
    for (const struct event_type *const *type = event_types; *type; type++) {
        char subject[REGISTRY_SUBJECT_BYTES_MAX];
        registry_subject(*type, subject);
        /* Whatever the registry is told to allow: what could not be read would be dead letters. */
        bool before = schemas->good;
        schemas->good = true;
        enum outcome outcome = check_remote(schemas, *type, error);
        bool compatible = schemas->good;
        schemas->good &= before;
        if (outcome == OK && !compatible)
            continue;
        if (outcome == OK && set)
            outcome = set_compatibility(schemas, subject, error);
        for (int version = 1; outcome == OK && version <= (*type)->version; version++)
            outcome = register_version(schemas, *type, version, subject, error);
        if (outcome == REJECT) {
            bad(schemas, (*type)->name, "the registry refuses it: %s", error->text);
            outcome = OK;
        }
        if (outcome != OK)
            return outcome;
    }
    return OK;
}

/* ---- */

static enum outcome run(struct schemas *schemas, const struct config *config, const char *word,
                        struct error *error)
{
    const char *compatibility = config_text(config, "COMPATIBILITY");
    const char *folder = config_positional_count(config) > 1 ? config_positional(config, 1) : NULL;
    schemas->backward = strcmp(compatibility, "forward") != 0;
    schemas->forward = strcmp(compatibility, "backward") != 0;
    if (strcmp(word, "list") == 0)
        return list(schemas, config_bool(config, "JSON"), error);
    if (strcmp(word, "check") == 0)
        return check(schemas, folder, error);
    if (!schemas->registry) {
        error_set(error, FATAL, "setting",
                  "SCHEMA_REGISTRY_URL is not set; without a registry the schemas are built in");
        error->exit_code = EXIT_CONFIG;
        return FATAL;
    }
    schemas->backward = true;
    schemas->forward = false;
    return register_all(schemas, config_bool(config, "SET_COMPATIBILITY"), error);
}

int schemas_main(int argc, char **argv)
{
    struct schemas schemas = {.verb = cli_verb("schemas"), .good = true};
    struct config *config = NULL;
    struct error error;
    int exit_code;
    cli_forget_environment(schemas_settings);
    if (!cli_read(schemas.verb, schemas_settings, argc, argv, 2, &config, &exit_code))
        return exit_code;
    size_t words = config_positional_count(config);
    const char *word = words ? config_positional(config, 0) : "list";
    bool is_check = strcmp(word, "check") == 0;
    if (!is_check && strcmp(word, "list") != 0 && strcmp(word, "register") != 0) {
        fprintf(stderr, "weir schemas: there is no %s; list, check, register\n", word);
        exit_code = EXIT_USAGE;
    } else if (words > 1 && !is_check) {
        fprintf(stderr, "weir schemas %s: one word too many: %s\n", word, config_positional(config, 1));
        exit_code = EXIT_USAGE;
    } else {
        error_set(&error, FATAL, "memory", "out of memory");
        enum outcome outcome = FATAL;
        schemas.arena = arena_new(ARENA_BYTES);
        if (schemas.arena)
            outcome = cli_registry(config, &schemas.registry, &error);
        struct registry *registry = schemas.registry;
        if (outcome == OK) {
            if (!registry_is_remote(registry))
                schemas.registry = NULL;
            outcome = run(&schemas, config, word, &error);
        }
        exit_code = outcome != OK ? cli_fail(schemas.verb, &error) : schemas.good ? 0 : EXIT_BAD_DATA;
        registry_close(registry);
        arena_destroy(schemas.arena);
    }
    config_destroy(config);
    return exit_code;
}
