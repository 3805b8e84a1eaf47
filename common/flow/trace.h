/*
 * trace: the flow's spans (base/span.h), by OpenTelemetry's conventions for messaging and HTTP. Where traces
 * are off, context.spans is NULL, and none of this is called.
 *
 *   create <topic>    PRODUCER  an event that a handler emitted, once its transaction is committed. Its id
 *                               is the one in the event's traceparent, its parent what was being handled
 *   send <topic>      CLIENT    from the producer's hands to Kafka's acknowledgement; child of the create.
 *                               Copies for retry topics and dead letters too: they keep the traceparent
 *   process <topic>   CONSUMER  a record, from its handler's beginning to the commit; child of the create.
 *                               One without a traceparent begins a trace, the same one in every service
 *   POST, smtp send   CLIENT    one attempt of a call to the outside; child of what asked for it
 *
 * The spans of HTTP's requests (SERVER) are service/http.c's. A batch that is rolled back leaves no spans.
 */
#ifndef FLOW_TRACE_H
#define FLOW_TRACE_H

#include "base/span.h"
#include "flow/handler.h"
#include "store/outbox.h"

enum { TRACE_SENDS_MAX = 4096, TRACE_TEXT_BYTES_MAX = 192 };

struct context;
struct dispatch;
struct item;

/* ---- records: on the loop's thread */

struct trace_item {
    struct span_context context, parent;
    bool has_parent;
    int64_t start_us; /* wall; 0: not begun */
};
/* Before its handler: context_enter() for a record, in a span of its own where there are traces. */
void trace_enter(struct dispatch *dispatch, struct item *item);
/* After the commit. since_us: its batch began (wall). */
void trace_let_go(struct dispatch *dispatch, struct item *item, int64_t since_us);
/* Lines of the log carry the item's ids from now on: of its own span, else of what it came with. */
void trace_tell(const struct item *item);

/* The traceparent of an event that is emitted now, with id; a trace that begins here is decided about. */
struct text trace_next(struct context *context, struct id id, char into[HEADER_TRACEPARENT_BYTES + 1]);
/* An event was put into the outbox with the traceparent of trace_next(). Where the arena is full there is no
 * span. */
void trace_created(struct work *work, const struct outbox_row *row, const struct event_type *type,
                   struct text id, struct text traceparent);

/* ---- calls */

struct trace_call {
    struct span_context context, parent;
    bool on;
    bool is_mail;
    int64_t start_us;
    char url[TRACE_TEXT_BYTES_MAX];
};
/* Before the attempt's request is made: call->traceparent becomes the attempt's own, in the arena. */
void trace_call_begin(struct trace_call *trace, struct call *call, struct arena *arena);
void trace_call_sent(struct trace_call *trace, bool is_mail, const char *url);
/* Any thread. */
void trace_call_done(struct spans *spans, const struct trace_call *trace, const struct call *call,
                     const struct net_result *result);

/* ---- sends: what is under way to Kafka, by the row's number; where too many are, the oldest have no span */

struct trace_sends;
/* NULL for NULL, or when out of memory: then there are no such spans. */
struct trace_sends *trace_sends_new(struct spans *spans);
void trace_sends_destroy(struct trace_sends *sends); /* accepts NULL, as the next two */
void trace_send(struct trace_sends *sends, const struct outbox_row *row);
/* Any thread. why: of what was not acknowledged. */
void trace_sent(struct trace_sends *sends, int64_t seq, enum outcome outcome, int32_t partition,
                int64_t offset, const char *why);

#endif
