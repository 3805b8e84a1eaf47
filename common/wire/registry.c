#include "wire/event.h"

#include "wire/codec_type.h"

#include <stdlib.h>

/*
 * Where ids and writers' schemas come from: a table of two functions, so that asking a registry over HTTP
 * is one more source and what was learnt from it is kept in the same slots.
 */
enum { BYTES_MAX = 16 << 20 };

struct known {
    int32_t schema_id;
    const struct event_type *type;
    const struct codec_plan *plan;
};

struct registry {
    const struct source *source;
    struct arena *arena; /* schemas and plans, as long as the registry */
    struct known *known;
    size_t known_count;
};

struct source {
    enum outcome (*id)(struct registry *registry, const struct event_type *type, int32_t *ret_id,
                       struct error *error);
    enum outcome (*learn)(struct registry *registry, int32_t schema_id, const struct known **ret,
                          struct error *error);
};

/* ---- the files, embedded by eventgen */

static int32_t file_id(const struct event_type *type, int version)
{
    return type->number * 100 + version;
}

static enum outcome files_id(struct registry *registry, const struct event_type *type, int32_t *ret_id,
                             struct error *error)
{
    (void)registry, (void)error;
    *ret_id = file_id(type, type->version);
    return OK;
}

/* All is known from the start. */
static enum outcome files_learn(struct registry *registry, int32_t schema_id, const struct known **ret,
                                struct error *error)
{
    (void)registry, (void)ret;
    return error_reject(error, "schema-unknown", "schema id %d is not in schemas/", schema_id);
}

static const struct source files = {files_id, files_learn};

static enum outcome files_load(struct registry *registry, struct error *error)
{
    size_t count = 0;
    for (const struct event_type *const *type = event_types; *type; type++)
        count += (size_t)(*type)->version;
    registry->known = arena_take_zeroed(registry->arena, count * sizeof(*registry->known));
    if (!registry->known)
        return error_fatal(error, "memory", "out of memory for the schemas");
    for (const struct event_type *const *type = event_types; *type; type++) {
        for (int version = 1; version <= (*type)->version; version++) {
            struct known *known = &registry->known[registry->known_count++];
            const struct schema *writer;
            known->schema_id = file_id(*type, version);
            known->type = *type;
            enum outcome outcome =
                schema_parse(text_of((*type)->schemas[version - 1]), registry->arena, &writer, error);
            if (outcome == OK)
                outcome = codec_plan_new(writer, (*type)->codec, registry->arena, &known->plan, error);
            if (outcome != OK) {
                error_prefix(error, "schema %s, version %d", (*type)->name, version);
                return outcome;
            }
        }
    }
    return OK;
}

/* ---- */

enum outcome registry_open(const char *url, struct registry **ret, struct error *error)
{
    if (url && *url) {
        enum outcome outcome = error_fatal(error, "registry",
                                           "SCHEMA_REGISTRY_URL: not supported by this version; "
                                           "without it the files in schemas/ are used");
        if (error)
            error->exit_code = EXIT_CONFIG;
        return outcome;
    }
    enum outcome outcome;
    struct registry *registry = calloc(1, sizeof(*registry));
    if (!registry)
        return error_fatal(error, "memory", "out of memory for the schemas");
    registry->source = &files;
    registry->arena = arena_new(BYTES_MAX);
    if (registry->arena)
        outcome = files_load(registry, error);
    else
        outcome = error_fatal(error, "memory", "out of memory for the schemas");
    if (outcome != OK) {
        registry_close(registry);
        return outcome;
    }
    *ret = registry;
    return OK;
}

void registry_close(struct registry *registry)
{
    if (!registry)
        return;
    arena_destroy(registry->arena);
    free(registry);
}

enum outcome registry_id(struct registry *registry, const struct event_type *type, int32_t *ret_id,
                         struct error *error)
{
    return registry->source->id(registry, type, ret_id, error);
}

enum outcome registry_plan(struct registry *registry, int32_t schema_id, const struct event_type **ret_type,
                           const struct codec_plan **ret_plan, struct error *error)
{
    const struct known *known = NULL;
    for (size_t i = 0; i < registry->known_count && !known; i++)
        if (registry->known[i].schema_id == schema_id)
            known = &registry->known[i];
    if (!known) {
        enum outcome outcome = registry->source->learn(registry, schema_id, &known, error);
        if (outcome != OK)
            return outcome;
    }
    *ret_type = known->type;
    *ret_plan = known->plan;
    return OK;
}
