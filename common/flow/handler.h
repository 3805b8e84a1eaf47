/*
 * handler: what a service is made of. A service is constant tables of these, and handlers that free nothing,
 * log nothing, commit nothing and wait for nobody. Every handler runs on the loop's thread inside a unit of
 * work (store/rows.h): it reads and changes rows, emits events, asks for calls, and returns its outcome,
 * which is its routing:
 *
 *   OK      its rows, events and calls stand
 *   RETRY   the record may succeed later: nothing of the item stands
 *   OUTAGE  a dependency is down: nothing of the item stands, and nothing is counted against the record
 *   REJECT  the record can never succeed: nothing of the item stands; the record goes to dlq.<service>
 *   FATAL   the process drains and exits
 */
#ifndef FLOW_HANDLER_H
#define FLOW_HANDLER_H

#include "base/log.h"
#include "base/metrics.h"
#include "store/rows.h"
#include "wire/event.h"
#include "wire/events.h"

/* ---- what a handler can do, beside rows_*() */

/* The service's own state (struct service .state_bytes). */
void *work_state(struct work *work);
/* Wall time, the same for the whole batch. */
int64_t work_now_us(const struct work *work);
/* For handlers that are given a framed datum by other ways than a record. */
struct registry *work_registry(const struct work *work);

/* Beside other instances on the database (store/instances.h): which one this is (zeros: always alone), and
 * whether another one lives. One that does not commits nothing any more. */
struct id work_instance(const struct work *work);
bool work_instance_lives(struct work *work, struct id instance);

/*
 * Puts an event into the outbox: work_emit(work, &order_confirmed), a pointer to a generated struct. Its id
 * is derived from what is being handled (record, request, answer) and the place in it, so that doing it again
 * gives the same id; key, headers and trace follow. A struct that cannot be encoded, or a full arena, makes
 * the work fail.
 */
#define work_emit(work, data) work_emit_type((work), EVENT_TYPE_OF(data), (data), NULL)
/* With an id and source of the caller's choice, for events handed in by upstream systems. */
struct emit_as {
    struct text id; /* any text: becomes ce_id as it is     */
    struct text source;
    int64_t time_us;         /* 0: now                               */
    struct text traceparent; /* empty: the current one's next span   */
    /* The rows of this unit of work bear its effect on this service: it need not be handled when this service
     * reads it from the topic (flow/own.h). */
    bool effected;
};
void work_emit_type(struct work *work, const struct event_type *type, const void *data,
                    const struct emit_as *as);

/* What is handled had taken effect before: it counts as a duplicate. For ONCE_BY_EFFECT. */
void work_repeated(struct work *work);

/* Adds to a counter once what is handled is committed: a batch that is run again counts once. */
void work_count(struct work *work, struct metric *metric, int64_t by);
/*
 * A line in the log, of the service's own station, once what is handled is committed: for what a person must
 * look at. As log_warn(): work_note(work, LOG_WARN, "a refund was refused", LOG_TEXT("order_id", id)).
 * message, and the text of fields, live as long as the work's arena.
 */
#define work_note(work, level, message, ...)                                                                 \
    work_note_fields((work), (level), (message), (const struct log_field[]){__VA_ARGS__},                    \
                     sizeof((const struct log_field[]){__VA_ARGS__}) / sizeof(struct log_field))
void work_note_fields(struct work *work, enum log_level level, const char *message,
                      const struct log_field *fields, size_t field_count);

/* ---- door 1: records */

enum ordering {
    ORDERED,   /* a record that is retried holds back the later ones of its key */
    UNORDERED, /* it does not                                                    */
};

/* Who knows that an event was handled before. */
enum once {
    ONCE_BY_INBOX, /* a row for its id: it is not handled again */
    /* The rows that handling it writes: it is handled again, finds them, changes nothing and says
     * work_repeated(). Saves the row where the database is PostgreSQL. Only where those rows are kept longer
     * than an event may come again. */
    ONCE_BY_EFFECT,
};

struct subscription {
    const struct event_type *type; /* &order_placed_type; topic is the type's */
    enum outcome (*handle)(struct work *work, const struct event *event, struct error *error);
    /* Names the rows that handle() will need (rows_want); optional. */
    void (*keys)(struct work *work, const struct event *event);
    enum ordering ordering;
    enum once once;
};
/* The struct that the event carries: const struct order_placed *order = event->data; */

/* ---- door 2: requests */

enum {
    REQUEST_PARAMETERS_MAX = 4,
    REQUEST_BODY_BYTES_MAX = 1 << 20,
    ANSWER_BODY_BYTES_MAX = 4 << 20,
    REQUEST_QUERY_MAX = 8
};

enum route_kind {
    ROUTE_READ,  /* changes nothing                                                              */
    ROUTE_WRITE, /* Idempotency-Key is honoured; refused with 503 past the backlog where said so */
};

struct request {
    const struct route *route;
    struct text parameters[REQUEST_PARAMETERS_MAX]; /* the {…} of the path, percent-decoded, in order */
    struct header query[REQUEST_QUERY_MAX];         /* decoded */
    size_t query_count;
    const struct header *headers; /* names in lower case */
    size_t header_count;
    struct text body;
    struct text content_type;    /* lower case, without parameters */
    struct text idempotency_key; /* unquoted; empty without        */
    struct text traceparent;     /* valid, else empty              */
    struct id id;                /* of this request: parent of the ids of what it causes */
    json_t *json;                /* body of a route with .json, parsed before it is queued; an object */
    void *plain; /* the same as route->read() gave it; json is then NULL. Text in it lies in body */
};
struct text request_query(const struct request *request, const char *name); /* empty when absent */
struct text request_header(const struct request *request, const char *name_lower_case);

/* What is sent back. Text lives in the work's arena or is static. */
struct answer {
    int status;               /* 0 is a programmer error */
    const char *content_type; /* NULL: application/json (application/problem+json from 400 on) */
    struct text body;
    struct text location; /* header, empty without */
    int retry_after_s;    /* header, 0 without     */
};
/* {"type":"about:blank","title",…,"status","detail"?,"errors"?}, for who answers without a unit of work.
 * faults may be NULL. At most PROBLEM_BYTES_MAX. */
enum { PROBLEM_BYTES_MAX = 64 << 10 };
void problem_write(struct buffer *into, int status, const char *detail, const struct codec_faults *faults);
/* The same as the answer; detail by printf. */
void answer_problem(struct work *work, struct answer *answer, int status, const char *format, ...)
    PRINTF_LIKE(4, 5);
/* 422 with "errors": {path: reason}. */
void answer_faults(struct work *work, struct answer *answer, const struct codec_faults *faults);
/* A JSON body: writer into *buffer (in the handler, bytes_max ANSWER_BODY_BYTES_MAX), then this; the buffer
 * is freed. */
void answer_json(struct work *work, struct answer *answer, int status, struct buffer *buffer);

struct route {
    const char *method; /* "POST" */
    const char *path;   /* "/v1/orders/{id}/cancel" */
    enum route_kind kind;
    bool json; /* the body must be a JSON object: 400 otherwise, before the loop sees it */
    /* On the HTTP thread, for a route with .json: a body that is so plainly JSON, and one of this route, that
     * it need not be parsed as a tree of values. Memory of malloc(), which whoever made the request frees;
     * NULL: it is to be parsed. Optional. */
    void *(*read)(struct text body);
    bool backlog; /* 503 with Retry-After past the backlog bound */
    /* Before the request is queued, on the HTTP thread, with only config and request: signatures. Returns 0
     * or an HTTP status that refuses it (401, 403). Optional. */
    int (*admit)(const void *state, const struct request *request, const char **ret_detail);
    bool admits_alone; /* admit has a proof of its own: API_TOKEN is not wanted as well */
    void (*keys)(struct work *work, const struct request *request);
    /* OK with answer->status set. RETRY and OUTAGE: 503 with Retry-After. REJECT: 422 with the error's text.
     */
    enum outcome (*handle)(struct work *work, const struct request *request, struct answer *answer,
                           struct error *error);
};

/* ---- door 3: answers from outside, by lanes (lanes.h) */

struct net_http;
struct net_mail;
struct net_result;

/* A call as it is kept in the table `calls`, from the transaction that asks for it to the one that settles
 * it. */
struct call {
    struct id id;        /* given by work_call; also a good idempotency key */
    struct text lane;    /* lane->name */
    struct text key;     /* calls of one key go one after another */
    struct text payload; /* the service's own bytes */
    int64_t attempts;    /* begun and counted, this one included */
    int64_t due_us;      /* not before */
    int64_t state;       /* enum call_state */
    struct text traceparent;
    int64_t created_us;
    int64_t part;      /* of its key: whose owner begins it (store/instances.h) */
    struct id holder;  /* the instance that has it active; none: zeros */
    int64_t elsewhere; /* 1: written by an instance that is not its part's owner, which has not seen it yet */
};
enum call_state { CALL_WAITING, CALL_ACTIVE, CALL_PARKED };

struct lane {
    const char *name; /* "smtp", "gateway": the peer of metrics */
    /* Before each attempt, on the loop's thread: fills one of the two from the payload, in the arena. REJECT:
     * it cannot be made. */
    enum outcome (*request)(void *state, struct arena *arena, const struct call *call,
                            struct net_http *ret_http, struct net_mail *ret_mail, bool *ret_is_mail,
                            struct error *error);
    void (*keys)(struct work *work, const struct call *call);
    /*
     * What came back, inside a unit of work. Returns OK: settled, the call is gone. RETRY: again after the
     * next of the lane's delays; last says that there is none left: settle it then, or RETRY goes on at the
     * last delay. OUTAGE: again with backoff, nothing counted, and the whole lane lets one probe at a time
     * through. What it changed stands in all three. REJECT: nothing of it stands, and the call is given up. A
     * call that was active when the process died comes here with result->outcome RETRY and result->ambiguous
     * set.
     */
    enum outcome (*answer)(struct work *work, const struct call *call, const struct net_result *result,
                           bool last, struct error *error);
};
/* Asks for a call when the item's transaction is committed. name makes the id (with what is being handled):
 * the same name in the same handling is the same call. Gives the id, by which it is found in calls_table
 * while it is not settled. */
struct id work_call(struct work *work, const struct lane *lane, struct text key, struct text payload,
                    const char *name);

/* ---- door 4: ticks */

struct tick {
    const char *name;
    int64_t interval_ms;
    /* In a unit of work of its own. *ret_again: there is more, come back at once (after other doors had their
     * turn). */
    enum outcome (*handle)(struct work *work, bool *ret_again, struct error *error);
};

#endif
