/*
 * registry: schema ids to event types and plans, and back.
 *
 * Without SCHEMA_REGISTRY_URL an id is 100 × number + version, known from the files that were built in. With
 * it ids are those of a Confluent-compatible registry over HTTP, subjects named <topic>-<record full name>:
 *
 *   - What is written has the id under which the registry knows our schema: looked up when the registry is
 *     opened (or registered, SCHEMA_REGISTRY_REGISTER), again and again until it is there.
 *   - An id on a record is fetched once, and kept as long as the process lives. One fetch in flight an id.
 *   - The registry being away is OUTAGE and never a record's fault, whatever it answers: no connection, a
 *     time-out, 5xx, 401, a page that is no registry's, JSON without a schema. All URLs are tried before.
 *   - An id that the registry says it does not have (40401, 40402, 40403) is asked for again until
 *     SCHEMA_REGISTRY_UNKNOWN_WAIT is over, and is REJECT then. That time is one allowance for all ids, which
 *     grows back at a tenth of the pace of time: a stream of wrong ids cannot hold the line up for ever.
 *
 * Nothing here waits for the network longer than REGISTRY_WAIT_MS, and not again before something was
 * answered (tools: until the answer). Threads: registry_id(), registry_plan() and registry_call() are for one
 * thread, the loop's or a tool's; registry_ready() for any.
 */
#ifndef WIRE_REGISTRY_H
#define WIRE_REGISTRY_H

#include "base/config.h"
#include "base/json.h"
#include "wire/topic.h"

enum {
    REGISTRY_URLS_MAX = 8,
    REGISTRY_IDS_MAX = 1024,       /* schemas known; a process that meets more must begin anew (FATAL) */
    REGISTRY_BYTES_MAX = 64 << 20, /* of all of them                                                   */
    REGISTRY_REFUSED_MAX = 256,    /* ids that cannot be read, remembered; then the oldest is forgotten */
    REGISTRY_REFUSED_MS = 60000,   /* an id that was not there is asked for again after this           */
    REGISTRY_FETCHES_MAX = 32,     /* ids asked for at once                                            */
    REGISTRY_TYPES_MAX = 64,
    REGISTRY_CALL_MS = 5000,       /* one call to one URL                                              */
    REGISTRY_WAIT_MS = 250,        /* the loop waits so long for the first answer about an id          */
    REGISTRY_BACKOFF_MS_MIN = 200, /* before all URLs are tried again                                  */
    REGISTRY_BACKOFF_MS_MAX = 5000,
    REGISTRY_TEXT_BYTES_MAX = 256,
};

struct codec_plan;
struct event_type;
struct metrics;
struct registry;

extern const struct setting registry_settings[]; /* SCHEMA_REGISTRY_URL, … */

struct registry_use {
    const struct config *config; /* made with registry_settings among its tables; NULL: the files */
    bool tool;                   /* may wait for answers; an id that is not there is REJECT at once */
    const struct event_type *const *types; /* NULL ended; NULL: event_types */
    /* Topics, ended by TOPIC_COUNT, whose events this process must be able to write before it is ready. NULL:
     * none. The ids of others are looked up as well, and needed when one is written. */
    const enum topic_id *writes;
    struct metrics *metrics; /* weir_call_seconds{peer="registry"}; may be NULL */
    /* On a thread of the registry's: it went away (and why), it is back. May be NULL. */
    void (*say)(void *owner, bool away, const char *text);
    void *owner;
};

/* NULL, or no SCHEMA_REGISTRY_URL: the files. Does not wait for the registry. FATAL with EXIT_CONFIG where
 * the URLs are none. */
MUST_CHECK enum outcome registry_open(const struct registry_use *use, struct registry **ret,
                                      struct error *error);
void registry_close(struct registry *registry); /* accepts NULL */
bool registry_is_remote(const struct registry *registry);

/* The id under which events of this type are written. OUTAGE while it is not known. */
MUST_CHECK enum outcome registry_id(struct registry *registry, const struct event_type *type, int32_t *ret_id,
                                    struct error *error);
/*
 * How to read datums with this id: the event's type and the plan. OUTAGE while the registry cannot be asked
 * or has not answered. REJECT: "schema-unknown" for an id that nobody knows, "schema-foreign" for a schema
 * that is no event of this version, "schema-incompatible" for one that does not resolve to ours (then
 * *ret_type is set all the same), and others for what is no Avro schema that we read. FATAL past
 * REGISTRY_IDS_MAX.
 */
MUST_CHECK enum outcome registry_plan(struct registry *registry, int32_t schema_id,
                                      const struct event_type **ret_type, const struct codec_plan **ret_plan,
                                      struct error *error);
/* True once all that `writes` names can be written; else why not. Any thread. */
bool registry_ready(struct registry *registry, char *reason, size_t reason_bytes);

/* "orders-weir.OrderPlaced" */
enum { REGISTRY_SUBJECT_BYTES_MAX = 256 };
char *registry_subject(const struct event_type *type, char into[REGISTRY_SUBJECT_BYTES_MAX]);

/*
 * One call, for tools; waits for the answer. body: JSON, or empty. OK: *ret_json is the answer
 * (json_decref()), of a status 2xx. REJECT: the registry says no; *ret_code (may be NULL) is its code (40401,
 * 409, …). OUTAGE: no URL answers as a registry does.
 */
MUST_CHECK enum outcome registry_call(struct registry *registry, const char *method, const char *path,
                                      struct text body, json_t **ret_json, int *ret_code,
                                      struct error *error);

#endif
