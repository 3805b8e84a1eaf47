#include "base/clock.h"
#include "wire/codec_type.h"
#include "wire/event.h"
#include "wire/registry_http.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    SLOTS = REGISTRY_IDS_MAX * 2, /* a power of two */
    ID_NONE = -1,                 /* no id on the wire is negative */
    UNKNOWN_PACE = 10,            /* the allowance for unknown ids grows back at a tenth of time's pace */
    UNKNOWN_ASK_MS_MAX = 1000,    /* between two questions for an id that is not there */
};
_Static_assert((SLOTS & (SLOTS - 1)) == 0, "slots are found by a mask");

const struct setting registry_settings[] = {
    {"SCHEMA_REGISTRY_URL", SETTING_URL, NULL, 0, 0, "http|https",
     "A Confluent-compatible schema registry, http(s)://[user:password@]host[:port][/path], or several with "
     "commas between: the next is asked where one does not answer. Without it the schema files that were "
     "built in are used."},
    {"SCHEMA_REGISTRY_USER", SETTING_TEXT, NULL, 0, 0, NULL,
     "For HTTP basic authentication at URLs without a user of their own."},
    {"SCHEMA_REGISTRY_PASSWORD", SETTING_SECRET, NULL, 0, 0, NULL, "The password of SCHEMA_REGISTRY_USER."},
    {"SCHEMA_REGISTRY_CA_LOCATION", SETTING_TEXT, NULL, 0, 0, NULL,
     "PEM file of the authorities that may have signed the registry's certificate; where not set, the "
     "system's."},
    {"SCHEMA_REGISTRY_REGISTER", SETTING_BOOL, "false", 0, 0, NULL,
     "Register the schemas of what is written at start; otherwise they are only looked up, and `weir schemas "
     "register` does it."},
    {"SCHEMA_REGISTRY_UNKNOWN_WAIT", SETTING_DURATION, "10s", 0, 10 * 60 * 1000, NULL,
     "How long records wait for a schema id that the registry does not have; then they are dead letters."},
    SETTINGS_END,
};

/* An id that can be read. */
struct known {
    int32_t schema_id;
    const struct event_type *type;
    const struct codec_plan *plan; /* NULL: a free slot */
};

/* An id that cannot. */
struct refused {
    int32_t schema_id;
    const char *cause;
    int64_t until_us;              /* 0: for ever, what an id means does not change */
    const struct event_type *type; /* where it could be told, else NULL             */
    char text[ERROR_TEXT_BYTES_MAX - 64];
};

/* The id under which a type is written. */
struct writer {
    struct registry *registry;
    const struct event_type *type;
    atomic_int id;
    /* under the lock */
    bool needed; /* before this process is ready */
    bool asking;
    bool waited; /* somebody has waited for this question's answer: nobody does again */
    enum registry_answer_kind last;
    int64_t due_us, backoff_ms;
    char text[REGISTRY_TEXT_BYTES_MAX];
};

/* An id that was met and is being fetched. */
struct fetch {
    struct registry *registry;
    /* under the lock */
    bool used, asking, answered, waited;
    int32_t schema_id;
    int turn;
    struct registry_answer answer;
    /* the caller's */
    int64_t due_us, backoff_ms, met_us, missing_us;
    char why[ERROR_TEXT_BYTES_MAX - 32]; /* it is asked for again; empty: never yet */
};

struct registry {
    const struct source *source;
    const struct event_type *const *types;
    struct arena *arena; /* schemas and plans, as long as the registry */
    size_t known_count;
    struct known known[SLOTS];

    /* a remote one's, and the caller's thread's */
    struct registry_http *http;
    bool tool, registers;
    int64_t unknown_ms;
    int64_t patience_us, patience_at_us; /* what is left of unknown_ms, and when that was so */
    struct refused refused[REGISTRY_REFUSED_MAX];
    size_t refused_count, refused_next;

    /* shared */
    pthread_mutex_t lock;
    pthread_cond_t answered;
    bool closing;
    bool slow; /* somebody has waited in vain, and nothing was answered since */
    struct writer writers[REGISTRY_TYPES_MAX];
    size_t writer_count;
    atomic_size_t unknown_writers; /* needed and not known yet: 0 is ready */
    struct fetch fetches[REGISTRY_FETCHES_MAX];
};

struct source {
    enum outcome (*id)(struct registry *registry, const struct event_type *type, int32_t *ret_id,
                       struct error *error);
    /* As registry_plan(): *ret_type also on some REJECTs. */
    enum outcome (*learn)(struct registry *registry, int32_t schema_id, const struct known **ret,
                          const struct event_type **ret_type, struct error *error);
};

/* ---- what is known */

/* Its slot, or the free one where it belongs. */
static struct known *known_find(struct registry *registry, int32_t schema_id)
{
    size_t slot = ((uint32_t)schema_id * 2654435769u) & (SLOTS - 1);
    while (registry->known[slot].plan && registry->known[slot].schema_id != schema_id)
        slot = (slot + 1) & (SLOTS - 1);
    return &registry->known[slot];
}

/* The writer's schema, resolved to the type's. What the arena gave is taken back where it cannot be. */
static enum outcome known_add(struct registry *registry, int32_t schema_id, const struct event_type *type,
                              const struct schema *writer, const struct known **ret, struct error *error)
{
    const struct codec_plan *plan;
    if (registry->known_count == REGISTRY_IDS_MAX)
        return error_fatal(error, "schemas", "more than %d schema ids since the start", REGISTRY_IDS_MAX);
    enum outcome outcome = codec_plan_new(writer, type->codec, registry->arena, &plan, error);
    if (outcome != OK) {
        error_prefix(error, "%s", type->name);
        return outcome;
    }
    struct known *known = known_find(registry, schema_id);
    *known = (struct known){.schema_id = schema_id, .type = type, .plan = plan};
    registry->known_count++;
    *ret = known;
    return OK;
}

static enum outcome known_add_text(struct registry *registry, int32_t schema_id,
                                   const struct event_type *type, struct text text, const struct known **ret,
                                   struct error *error)
{
    const struct schema *writer;
    enum outcome outcome = schema_parse(text, registry->arena, &writer, error);
    return outcome == OK ? known_add(registry, schema_id, type, writer, ret, error) : outcome;
}

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
                                const struct event_type **ret_type, struct error *error)
{
    (void)registry, (void)ret, (void)ret_type;
    return error_reject(error, "schema-unknown", "schema id %d is not in schemas/", schema_id);
}

static const struct source files = {files_id, files_learn};

static enum outcome files_load(struct registry *registry, struct error *error)
{
    const struct known *known;
    for (const struct event_type *const *type = registry->types; *type; type++) {
        for (int version = 1; version <= (*type)->version; version++) {
            enum outcome outcome = known_add_text(registry, file_id(*type, version), *type,
                                                  text_of((*type)->schemas[version - 1]), &known, error);
            if (outcome != OK) {
                error_prefix(error, "schema %s, version %d", (*type)->name, version);
                return outcome;
            }
        }
    }
    return OK;
}

/* ---- a registry: waiting and backing off */

static const char *own_schema(const struct event_type *type)
{
    return type->schemas[type->version - 1];
}

static int64_t back_off(int64_t *backoff_ms, int64_t max_ms)
{
    *backoff_ms = *backoff_ms ? *backoff_ms * 2 : REGISTRY_BACKOFF_MS_MIN;
    if (*backoff_ms > max_ms)
        *backoff_ms = max_ms;
    return clock_monotonic_us() + *backoff_ms * 1000;
}

/* Until *asking is over; a tool for as long as it takes, which the net bounds. Once a wait was in vain there
 * is no other before something has been answered. With the lock. */
static void wait_for(struct registry *registry, const bool *asking)
{
    if (registry->slow)
        return;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += REGISTRY_WAIT_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    while (*asking) {
        if (registry->tool)
            pthread_cond_wait(&registry->answered, &registry->lock);
        else if (pthread_cond_timedwait(&registry->answered, &registry->lock, &until)) {
            registry->slow = *asking;
            return;
        }
    }
}

/* ---- a registry: the ids that are written */

static void on_writer_answered(void *owner, struct registry_answer *answer)
{
    struct writer *writer = owner;
    struct registry *registry = writer->registry;
    const json_t *id = answer->kind == REGISTRY_ANSWERED ? json_object_get(answer->json, "id") : NULL;
    json_int_t number = json_is_integer(id) ? json_integer_value(id) : ID_NONE;
    if (answer->kind == REGISTRY_ANSWERED && (number < 0 || number > INT32_MAX)) {
        answer->kind = REGISTRY_AWAY;
        snprintf(answer->text, sizeof(answer->text), "an answer without an id");
    }
    json_decref(answer->json);
    pthread_mutex_lock(&registry->lock);
    writer->asking = false;
    registry->slow = false;
    writer->last = answer->kind;
    memcpy(writer->text, answer->text, sizeof(writer->text));
    if (answer->kind == REGISTRY_ANSWERED) {
        atomic_store(&writer->id, (int)number);
        if (writer->needed)
            atomic_fetch_sub(&registry->unknown_writers, 1);
    } else {
        writer->due_us = back_off(&writer->backoff_ms, REGISTRY_BACKOFF_MS_MAX);
    }
    pthread_cond_broadcast(&registry->answered);
    pthread_mutex_unlock(&registry->lock);
}

/* Without the lock: the answer may come at once. */
static void writer_ask(struct writer *writer)
{
    struct registry *registry = writer->registry;
    char subject[REGISTRY_SUBJECT_BYTES_MAX], path[REGISTRY_SUBJECT_BYTES_MAX + 32];
    struct buffer body = buffer_of(SCHEMA_TEXT_BYTES_MAX * 2);
    struct json_writer json = json_writer(&body);
    json_object_begin(&json);
    json_member_string(&json, "schema", own_schema(writer->type));
    json_object_end(&json);
    snprintf(path, sizeof(path), "/subjects/%s%s", registry_subject(writer->type, subject),
             registry->registers ? "/versions" : "");
    const struct registry_question question = {
        .method = "POST", .path = path, .body = buffer_text(&body), .member = "id"};
    registry_http_ask(registry->http, &question, on_writer_answered, writer);
    buffer_free(&body);
}

/* Asks for what is not known, and due. Any thread. */
static void writers_pump(struct registry *registry)
{
    struct writer *due[REGISTRY_TYPES_MAX];
    size_t count = 0;
    int64_t now_us = clock_monotonic_us();
    pthread_mutex_lock(&registry->lock);
    for (size_t i = 0; i < registry->writer_count && !registry->closing; i++) {
        struct writer *writer = &registry->writers[i];
        /* What others write is theirs to register. */
        bool wanted = writer->needed || !registry->registers;
        if (!wanted || writer->asking || atomic_load(&writer->id) != ID_NONE || now_us < writer->due_us)
            continue;
        writer->asking = true;
        writer->waited = false;
        due[count++] = writer;
    }
    pthread_mutex_unlock(&registry->lock);
    for (size_t i = 0; i < count; i++)
        writer_ask(due[i]);
}

/* Why it cannot be written yet. With the lock. */
static void writer_tell(const struct writer *writer, char *into, size_t bytes)
{
    char subject[REGISTRY_SUBJECT_BYTES_MAX];
    registry_subject(writer->type, subject);
    if (!writer->backoff_ms)
        snprintf(into, bytes, "the schema registry has not answered yet");
    else if (writer->last == REGISTRY_MISSING)
        snprintf(into, bytes,
                 "the schema registry does not have our schema of %s: `weir schemas register`, or "
                 "SCHEMA_REGISTRY_REGISTER=true",
                 subject);
    else if (writer->last == REGISTRY_REFUSED)
        snprintf(into, bytes, "the schema registry does not take our schema of %s: %.150s", subject,
                 writer->text);
    else
        snprintf(into, bytes, "the schema registry is away: %.180s", writer->text);
}

static void writer_need(struct writer *writer)
{
    if (!writer->needed && atomic_load(&writer->id) == ID_NONE)
        atomic_fetch_add(&writer->registry->unknown_writers, 1);
    writer->needed = true;
}

static enum outcome remote_id(struct registry *registry, const struct event_type *type, int32_t *ret_id,
                              struct error *error)
{
    struct writer *writer = registry->writers;
    while (writer < registry->writers + registry->writer_count && writer->type != type)
        writer++;
    assert(writer < registry->writers + registry->writer_count);
    int id = atomic_load(&writer->id);
    if (id == ID_NONE) {
        pthread_mutex_lock(&registry->lock);
        writer_need(writer);
        pthread_mutex_unlock(&registry->lock);
        writers_pump(registry);
        pthread_mutex_lock(&registry->lock);
        if (writer->asking && !writer->waited)
            wait_for(registry, &writer->asking);
        writer->waited = writer->asking && !registry->tool;
        id = atomic_load(&writer->id);
        char why[ERROR_TEXT_BYTES_MAX] = "";
        bool configured = writer->last == REGISTRY_MISSING || writer->last == REGISTRY_REFUSED;
        if (id == ID_NONE)
            writer_tell(writer, why, sizeof(why));
        pthread_mutex_unlock(&registry->lock);
        if (id == ID_NONE) {
            enum outcome outcome = error_outage(error, "registry", "%s", why);
            if (error && configured)
                error->exit_code = EXIT_CONFIG;
            return outcome;
        }
    }
    *ret_id = id;
    return OK;
}

/* ---- a registry: the ids that are read */

static const struct refused *refused_find(struct registry *registry, int32_t schema_id)
{
    int64_t now_us = clock_monotonic_us();
    for (size_t i = 0; i < registry->refused_count; i++)
        if (registry->refused[i].schema_id == schema_id &&
            (!registry->refused[i].until_us || now_us < registry->refused[i].until_us))
            return &registry->refused[i];
    return NULL;
}

static enum outcome refused_tell(const struct refused *refused, const struct event_type **ret_type,
                                 struct error *error)
{
    *ret_type = refused->type;
    return error_reject(error, refused->cause, "schema id %d: %s", refused->schema_id, refused->text);
}

/* Remembers why. Returns the REJECT. */
static enum outcome refuse(struct registry *registry, int32_t schema_id, bool for_ever,
                           const struct event_type *type, const struct error *why,
                           const struct event_type **ret_type, struct error *error)
{
    struct refused *refused = NULL;
    for (size_t i = 0; i < registry->refused_count && !refused; i++)
        if (registry->refused[i].schema_id == schema_id)
            refused = &registry->refused[i];
    if (!refused) {
        refused = &registry->refused[registry->refused_next];
        registry->refused_next = (registry->refused_next + 1) % REGISTRY_REFUSED_MAX;
        if (registry->refused_count < REGISTRY_REFUSED_MAX)
            registry->refused_count++;
    }
    *refused = (struct refused){
        .schema_id = schema_id,
        .cause = why->cause,
        .type = type,
        .until_us = for_ever ? 0 : clock_monotonic_us() + REGISTRY_REFUSED_MS * INT64_C(1000),
    };
    snprintf(refused->text, sizeof(refused->text), "%.*s", (int)sizeof(refused->text) - 1, why->text);
    return refused_tell(refused, ret_type, error);
}

/* By its full name, or an alias of ours. NULL: no event of this version. */
static const struct event_type *type_of(const struct registry *registry, const struct schema *writer)
{
    for (const struct event_type *const *type = registry->types; *type; type++)
        if (text_is(writer->name, (*type)->full_name) || text_is(writer->name, (*type)->name))
            return *type;
    for (const struct event_type *const *type = registry->types; *type; type++) {
        const struct schema *own = (*type)->codec->schema;
        for (size_t i = 0; i < own->alias_count; i++)
            if (text_equal(own->aliases[i], writer->name))
                return *type;
    }
    return NULL;
}

/* What the registry has under this id becomes a plan. */
static enum outcome learn_json(struct registry *registry, int32_t schema_id, const json_t *json,
                               const struct known **ret, const struct event_type **ret_type,
                               struct error *error)
{
    struct arena_mark mark = arena_mark(registry->arena);
    struct text language = json_text(json, "schemaType");
    const json_t *references = json_object_get(json, "references");
    const struct schema *writer = NULL;
    const struct event_type *type = NULL;
    struct error why;
    enum outcome outcome;
    if (language.length && !text_is(language, "AVRO"))
        outcome = error_reject(&why, "schema-language", "it is %.*s and not Avro",
                               language.length < 32 ? (int)language.length : 32, language.at);
    else if (json_is_array(references) && json_array_size(references))
        outcome = error_reject(&why, "schema-references",
                               "it refers to other subjects' schemas, which is "
                               "not supported");
    else
        outcome = schema_parse(json_text(json, "schema"), registry->arena, &writer, &why);
    if (outcome == OK) {
        type = type_of(registry, writer);
        if (type)
            outcome = known_add(registry, schema_id, type, writer, ret, &why);
        else
            outcome =
                error_reject(&why, "schema-foreign", "%.*s is no event of this version",
                             writer->name.length < 100 ? (int)writer->name.length : 100, writer->name.at);
    }
    if (outcome == OK)
        return OK;
    arena_rewind(registry->arena, mark);
    if (outcome == REJECT)
        return refuse(registry, schema_id, true, type, &why, ret_type, error);
    return error_fatal(error, "schemas", "schema id %d: %s; %zu are known", schema_id, why.text,
                       registry->known_count);
}

static void on_fetched(void *owner, struct registry_answer *answer)
{
    struct fetch *fetch = owner;
    struct registry *registry = fetch->registry;
    pthread_mutex_lock(&registry->lock);
    fetch->asking = false;
    fetch->answered = true;
    fetch->answer = *answer;
    registry->slow = false;
    pthread_cond_broadcast(&registry->answered);
    pthread_mutex_unlock(&registry->lock);
}

/* The fetch of this id, new where there was none. NULL: all are under way. The lock is not needed: only the
 * caller's thread takes and gives them. */
static struct fetch *fetch_of(struct registry *registry, int32_t schema_id)
{
    struct fetch *room = NULL;
    for (size_t i = 0; i < REGISTRY_FETCHES_MAX; i++) {
        struct fetch *fetch = &registry->fetches[i];
        if (fetch->used && fetch->schema_id == schema_id)
            return fetch;
        /* A free one, else the one that nobody has asked about for longest: its record went elsewhere. */
        pthread_mutex_lock(&registry->lock);
        bool asking = fetch->asking;
        pthread_mutex_unlock(&registry->lock);
        if (!asking && (!room || (room->used && (!fetch->used || fetch->met_us < room->met_us))))
            room = fetch;
    }
    if (!room)
        return NULL;
    if (room->used && room->answered)
        json_decref(room->answer.json);
    *room = (struct fetch){.registry = registry, .used = true, .schema_id = schema_id};
    return room;
}

static void fetch_ask(struct fetch *fetch)
{
    struct registry *registry = fetch->registry;
    char path[64];
    snprintf(path, sizeof(path), "/schemas/ids/%d", (int)fetch->schema_id);
    const struct registry_question question = {
        .method = "GET", .path = path, .turn = fetch->turn, .member = "schema"};
    pthread_mutex_lock(&registry->lock);
    fetch->asking = true;
    fetch->waited = false;
    pthread_mutex_unlock(&registry->lock);
    registry_http_ask(registry->http, &question, on_fetched, fetch);
}

/* How much longer an id that is not there may hold its record up. */
static int64_t patience_us(struct registry *registry, int64_t now_us)
{
    int64_t left_us = registry->patience_us + (now_us - registry->patience_at_us) / UNKNOWN_PACE;
    int64_t all_us = registry->unknown_ms * 1000;
    return left_us < all_us ? left_us : all_us;
}

static enum outcome fetch_missing(struct registry *registry, struct fetch *fetch,
                                  const struct event_type **ret_type, struct error *error)
{
    int64_t now_us = clock_monotonic_us();
    if (!fetch->missing_us)
        fetch->missing_us = now_us;
    int64_t waited_us = now_us - fetch->missing_us;
    int64_t left_us = patience_us(registry, now_us);
    if (waited_us >= left_us) {
        struct error why;
        registry->patience_us = left_us > waited_us ? left_us - waited_us : 0;
        registry->patience_at_us = now_us;
        fetch->used = false;
        error_set(&why, REJECT, "schema-unknown", "the schema registry does not have it");
        return refuse(registry, fetch->schema_id, false, NULL, &why, ret_type, error);
    }
    fetch->turn++;
    fetch->due_us = back_off(&fetch->backoff_ms, UNKNOWN_ASK_MS_MAX);
    if (fetch->due_us > fetch->missing_us + left_us)
        fetch->due_us = fetch->missing_us + left_us;
    snprintf(fetch->why, sizeof(fetch->why), "the schema registry does not have it; asked again for %lld s",
             (long long)((left_us - waited_us) / 1000000 + 1));
    return error_outage(error, "registry", "schema id %d: %s", fetch->schema_id, fetch->why);
}

/* The answer that came. */
static enum outcome fetch_take(struct registry *registry, struct fetch *fetch, const struct known **ret,
                               const struct event_type **ret_type, struct error *error)
{
    struct registry_answer *answer = &fetch->answer;
    enum outcome outcome = OUTAGE;
    fetch->answered = false;
    switch (answer->kind) {
    case REGISTRY_ANSWERED:
        outcome = learn_json(registry, fetch->schema_id, answer->json, ret, ret_type, error);
        json_decref(answer->json);
        answer->json = NULL;
        fetch->used = false;
        break;
    case REGISTRY_MISSING:
        outcome = fetch_missing(registry, fetch, ret_type, error);
        break;
    case REGISTRY_REFUSED: {
        struct error why;
        fetch->used = false;
        error_set(&why, REJECT, "schema-unknown", "%.180s", answer->text);
        outcome = refuse(registry, fetch->schema_id, false, NULL, &why, ret_type, error);
        break;
    }
    case REGISTRY_AWAY:
        fetch->missing_us = 0; /* what is waited for now is another thing */
        fetch->turn = 0;
        fetch->due_us = back_off(&fetch->backoff_ms, REGISTRY_BACKOFF_MS_MAX);
        snprintf(fetch->why, sizeof(fetch->why), "the schema registry is away: %.180s", answer->text);
        error_set(error, OUTAGE, "registry", "schema id %d: %s", fetch->schema_id, fetch->why);
        break;
    }
    return outcome;
}

static enum outcome remote_learn(struct registry *registry, int32_t schema_id, const struct known **ret,
                                 const struct event_type **ret_type, struct error *error)
{
    /* What we write ourselves is known without asking. */
    for (size_t i = 0; i < registry->writer_count; i++)
        if (atomic_load(&registry->writers[i].id) == schema_id)
            return known_add_text(registry, schema_id, registry->writers[i].type,
                                  text_of(own_schema(registry->writers[i].type)), ret, error);
    const struct refused *refused = refused_find(registry, schema_id);
    if (refused)
        return refused_tell(refused, ret_type, error);
    struct fetch *fetch = fetch_of(registry, schema_id);
    if (!fetch)
        return error_outage(error, "registry", "%d schema ids are being fetched already",
                            REGISTRY_FETCHES_MAX);
    fetch->met_us = clock_monotonic_us();
    pthread_mutex_lock(&registry->lock);
    bool idle = !fetch->asking && !fetch->answered;
    pthread_mutex_unlock(&registry->lock);
    if (idle && fetch->met_us >= fetch->due_us)
        fetch_ask(fetch);
    pthread_mutex_lock(&registry->lock);
    if (fetch->asking && !fetch->waited)
        wait_for(registry, &fetch->asking);
    fetch->waited = fetch->asking;
    bool answered = fetch->answered;
    pthread_mutex_unlock(&registry->lock);
    if (answered)
        return fetch_take(registry, fetch, ret, ret_type, error);
    return error_outage(error, "registry", "schema id %d: %s", schema_id,
                        *fetch->why ? fetch->why : "it is being fetched from the schema registry");
}

static const struct source remote = {remote_id, remote_learn};

static bool is_written(const enum topic_id *writes, enum topic_id topic)
{
    for (size_t i = 0; writes && writes[i] != TOPIC_COUNT; i++)
        if (writes[i] == topic)
            return true;
    return false;
}

static enum outcome remote_open(struct registry *registry, const struct registry_use *use,
                                struct error *error)
{
    registry->source = &remote;
    registry->tool = use->tool;
    registry->registers = config_bool(use->config, "SCHEMA_REGISTRY_REGISTER");
    registry->unknown_ms = use->tool ? 0 : config_ms(use->config, "SCHEMA_REGISTRY_UNKNOWN_WAIT");
    registry->patience_us = registry->unknown_ms * 1000;
    registry->patience_at_us = clock_monotonic_us();
    for (const struct event_type *const *type = registry->types; *type; type++) {
        assert(registry->writer_count < REGISTRY_TYPES_MAX);
        struct writer *writer = &registry->writers[registry->writer_count++];
        writer->registry = registry;
        writer->type = *type;
        atomic_init(&writer->id, ID_NONE);
        if (is_written(use->writes, (*type)->topic))
            writer_need(writer);
    }
    enum outcome outcome = registry_http_open(use, &registry->http, error);
    if (outcome == OK && !registry->tool)
        writers_pump(registry);
    return outcome;
}

/* ---- */

enum outcome registry_open(const struct registry_use *use, struct registry **ret, struct error *error)
{
    const char *url = use && use->config ? config_text(use->config, "SCHEMA_REGISTRY_URL") : NULL;
    enum outcome outcome;
    struct registry *registry = calloc(1, sizeof(*registry));
    if (!registry)
        return error_fatal(error, "memory", "out of memory for the schemas");
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&registry->answered, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&registry->lock, NULL);
    registry->source = &files;
    registry->types = use && use->types ? use->types : event_types;
    registry->arena = arena_new(REGISTRY_BYTES_MAX);
    if (!registry->arena)
        outcome = error_fatal(error, "memory", "out of memory for the schemas");
    else if (url && *url)
        outcome = remote_open(registry, use, error);
    else
        outcome = files_load(registry, error);
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
    pthread_mutex_lock(&registry->lock);
    registry->closing = true;
    pthread_mutex_unlock(&registry->lock);
    registry_http_close(registry->http);
    for (size_t i = 0; i < REGISTRY_FETCHES_MAX; i++)
        if (registry->fetches[i].used && registry->fetches[i].answered)
            json_decref(registry->fetches[i].answer.json);
    pthread_cond_destroy(&registry->answered);
    pthread_mutex_destroy(&registry->lock);
    arena_destroy(registry->arena);
    free(registry);
}

bool registry_is_remote(const struct registry *registry)
{
    return registry->http != NULL;
}

char *registry_subject(const struct event_type *type, char into[REGISTRY_SUBJECT_BYTES_MAX])
{
    snprintf(into, REGISTRY_SUBJECT_BYTES_MAX, "%s-%s", topic_get(type->topic)->name, type->full_name);
    return into;
}

enum outcome registry_id(struct registry *registry, const struct event_type *type, int32_t *ret_id,
                         struct error *error)
{
    return registry->source->id(registry, type, ret_id, error);
}

enum outcome registry_plan(struct registry *registry, int32_t schema_id, const struct event_type **ret_type,
                           const struct codec_plan **ret_plan, struct error *error)
{
    const struct known *known = known_find(registry, schema_id);
    if (!known->plan) {
        enum outcome outcome = registry->source->learn(registry, schema_id, &known, ret_type, error);
        if (outcome != OK)
            return outcome;
    }
    *ret_type = known->type;
    *ret_plan = known->plan;
    return OK;
}

bool registry_ready(struct registry *registry, char *reason, size_t reason_bytes)
{
    if (!registry->http)
        return true;
    writers_pump(registry);
    if (atomic_load(&registry->unknown_writers) == 0)
        return true;
    pthread_mutex_lock(&registry->lock);
    for (size_t i = 0; i < registry->writer_count; i++) {
        const struct writer *writer = &registry->writers[i];
        if (!writer->needed || atomic_load(&writer->id) != ID_NONE)
            continue;
        writer_tell(writer, reason, reason_bytes);
        break;
    }
    pthread_mutex_unlock(&registry->lock);
    return false;
}

/* ---- tools */

struct call {
    struct registry *registry;
    bool asking;
    struct registry_answer answer;
};

static void on_call_answered(void *owner, struct registry_answer *answer)
{
    struct call *call = owner;
    pthread_mutex_lock(&call->registry->lock);
    call->answer = *answer;
    call->asking = false;
    pthread_cond_broadcast(&call->registry->answered);
    pthread_mutex_unlock(&call->registry->lock);
}

enum outcome registry_call(struct registry *registry, const char *method, const char *path, struct text body,
                           json_t **ret_json, int *ret_code, struct error *error)
{
    struct call call = {.registry = registry, .asking = true};
    const struct registry_question question = {.method = method, .path = path, .body = body};
    assert(registry->http);
    registry_http_ask(registry->http, &question, on_call_answered, &call);
    pthread_mutex_lock(&registry->lock);
    while (call.asking) /* the net bounds it: REGISTRY_CALL_MS a URL */
        pthread_cond_wait(&registry->answered, &registry->lock);
    pthread_mutex_unlock(&registry->lock);
    if (ret_code)
        *ret_code = call.answer.code;
    switch (call.answer.kind) {
    case REGISTRY_ANSWERED:
        *ret_json = call.answer.json;
        return OK;
    case REGISTRY_MISSING:
    case REGISTRY_REFUSED:
        return error_reject(error, "registry", "%s", call.answer.text);
    case REGISTRY_AWAY:
        break;
    }
    return error_outage(error, "registry", "the schema registry is away: %s", call.answer.text);
}
