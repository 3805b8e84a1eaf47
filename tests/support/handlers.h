/*
 * handlers: a service's handlers over a real store (support/scratch.h says which), without Kafka and without
 * HTTP: the test is the loop.
 *
 * Failures of the machinery (a store that does not open, a work that fails) end the test by assert; what
 * handlers say and answer is given back. Time stands still but for handlers_advance(). One at a time in a
 * process.
 */
#ifndef SUPPORT_HANDLERS_H
#define SUPPORT_HANDLERS_H

#include "flow/context.h"
#include "service/service.h"
#include "store/outbox.h"
#include "support/scratch.h"

struct said {
    const struct event_type *type;
    const void *data; /* decoded, until handlers_close() */
    struct text id, source;
};

struct handlers {
    const struct service *service;
    struct store *store;
    struct work *work;
    struct context context;
    struct arena *arena; /* for what is kept until the end */
    struct scratch scratch;
    const char *url;   /* of the database, for readers */
    bool in_work;      /* between begin and commit */
    uint64_t items;    /* begun so far: makes the ids of what is handled */
    struct said *said; /* all that was committed, in order */
    size_t said_count, said_capacity;
};

enum { HANDLERS_START_S = 1763726400 }; /* 2025-11-21 12:00 UTC */

/* state: the service's, filled by the test as start() would. */
struct handlers *handlers_open(const struct service *service, void *state);
/* One more instance, of this process or a child's, on another one's database (.url). Its time is that one's.
 */
struct handlers *handlers_join(const struct service *service, void *state, const char *url);
void handlers_close(
    struct handlers *handlers); /* accepts NULL; removes the database, but not another one's */
void handlers_advance(struct handlers *handlers, int64_t by_us);
int64_t handlers_now_us(void);

/* A unit of work of the test's own size. */
void handlers_begin(struct handlers *handlers);
/* keys hooks of these, then work_read(): optional, between begin and the first take. */
void handlers_want(struct handlers *handlers, const struct event_type *type, const void *data);
void handlers_read(struct handlers *handlers);
/* One item. A type that the service does not read is passed: OK. Anything but OK is undone. */
enum outcome handlers_take(struct handlers *handlers, const struct event_type *type, const void *data);
void handlers_commit(struct handlers *handlers);

/* begin, want, read, take, commit. */
enum outcome handlers_event(struct handlers *handlers, const struct event_type *type, const void *data);
#define handlers_give(handlers, data) handlers_event((handlers), EVENT_TYPE_OF(data), (data))
/* Beside other instances, and as the loop does: what another one was in the way of is done again as a whole.
 * What is said is not kept. */
void handlers_batch(struct handlers *handlers, const struct event_type *const *types, const void *const *data,
                    size_t count);
void handlers_tick_beside(struct handlers *handlers,
                          const char *name); /* until there is nothing more for it */
/* So many processes, each with an instance of its own on this one's database; until all have ended well. */
void handlers_in_processes(struct handlers *handlers, int count,
                           void (*run)(struct handlers *handlers, int instance));
/* Ticks of that name until there is nothing more. */
void handlers_tick(struct handlers *handlers, const char *name);

/* The calls that wait in that lane, oldest first, in a work that it begins and leaves open. */
size_t handlers_calls(struct handlers *handlers, const struct lane *lane, void ***ret_calls);
/* What the lane makes of the result of one of them, as one more item of that work. OK: the call is gone. */
enum outcome handlers_answer(struct handlers *handlers, const struct lane *lane, struct call *call,
                             const struct net_result *result, bool last);

/*
 * A request to the route with this method and path pattern; parameter fills its first {…}. body: NULL for
 * none. Within an open work it is one more item of it, else a work of its own. Returns the status; *ret_body
 * (may be NULL) lives until handlers_close().
 */
int handlers_request(struct handlers *handlers, const char *method, const char *path, const char *parameter,
                     const char *body, struct text *ret_body);
/* The same with headers and a content type. */
int handlers_post(struct handlers *handlers, const char *path, const char *content_type,
                  const struct header *headers, size_t header_count, struct text body, struct text *ret_body);

#endif
