#include "flow/trace.h"

#include "base/clock.h"
#include "flow/loop.h"
#include "net/net.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static const struct text kafka = TEXT_INIT("kafka");

static void operation(struct span *span, const char *name, struct text topic)
{
    span_name(span, name, topic);
    span_text(span, "messaging.system", kafka);
    span_text(span, "messaging.operation.name", text_of(name));
    span_text(span, "messaging.operation.type", text_of(name));
    span_text(span, "messaging.destination.name", topic);
}

static void place(struct span *span, int32_t partition, int64_t offset)
{
    char digits[16];
    int length = snprintf(digits, sizeof(digits), "%d", partition);
    span_text(span, "messaging.destination.partition.id", (struct text){digits, (size_t)length});
    span_int(span, "messaging.kafka.offset", offset);
}

/* ---- records */

/* Also where it could not be decoded; empty without. */
static struct text came_with(const struct item *item)
{
    if (item->decoded.event.traceparent.length)
        return item->decoded.event.traceparent;
    const struct header *header = header_find(item->headers, item->header_count, HEADER_TRACEPARENT);
    return header && traceparent_valid(header->value) ? header->value : TEXT("");
}

static void begin(struct dispatch *dispatch, struct item *item)
{
    struct trace_item *trace = &item->trace;
    char root[HEADER_TRACEPARENT_BYTES + 1];
    trace->has_parent = span_context_of(came_with(item), &trace->parent);
    trace->context = trace->parent;
    if (!trace->has_parent) /* named by the event, so that all who handle it are in one trace */
        span_context_of(traceparent_next(TEXT(""), item->note->id, root), &trace->context);
    spans_decide(dispatch->context.spans, trace->has_parent ? &trace->parent : NULL, &trace->context);
    span_id_new(trace->context.id);
    trace->start_us = clock_wall_us();
}

void trace_enter(struct dispatch *dispatch, struct item *item)
{
    struct context *context = &dispatch->context;
    const struct event *event = &item->decoded.event;
    if (!context->spans) {
        context_enter(context, event->id, event->traceparent);
        return;
    }
    begin(dispatch, item);
    context_enter(context, event->id, span_context_print(&item->trace.context, context->trace_bytes));
}

void trace_tell(const struct item *item)
{
    char own[SPAN_TRACEPARENT_BYTES + 1];
    log_trace(item->trace.start_us ? span_context_print(&item->trace.context, own) : came_with(item));
}

static const char *how_it_went(const struct item *item)
{
    switch (item->state) {
    case ITEM_RETRIED:
        return "retry";
    case ITEM_WAITS:
        return "waits";
    case ITEM_REJECTED:
        return item->class == FAILED_CRASH ? "crash" : item->class == FAILED_RETRY ? "used_up" : "reject";
    case ITEM_DROPPED:
        return "dropped";
    case ITEM_OPEN:
    case ITEM_DONE:
    case ITEM_HELD:
    case ITEM_STALE:
        break;
    }
    return item->meter == METER_DUPLICATE ? "duplicate" : "ok";
}

void trace_let_go(struct dispatch *dispatch, struct item *item, int64_t since_us)
{
    const struct record *record = item->door == DOOR_WAITING ? item->home : &item->record;
    bool settled = item->state == ITEM_DONE || item->state == ITEM_RETRIED || item->state == ITEM_WAITS ||
                   item->state == ITEM_REJECTED || item->state == ITEM_DROPPED;
    if (!settled || !item->note)
        return; /* it comes again, or was nothing of ours */
    struct trace_item *trace = &item->trace;
    if (!trace->start_us) { /* it never came to a handler */
        begin(dispatch, item);
        trace->start_us = since_us;
    }
    struct span *span = spans_take(dispatch->context.spans, SPAN_CONSUMER, &trace->context,
                                   trace->has_parent ? &trace->parent : NULL);
    if (!span)
        return;
    span->parent_remote = trace->has_parent;
    span->start_us = trace->start_us;
    span->end_us = clock_wall_us();
    operation(span, "process", record->topic);
    place(span, record->partition, record->offset);
    span_text(span, "messaging.consumer.group.name", text_of(dispatch->settings.group_id));
    span_text(span, "messaging.kafka.message.key", record->key);
    char id[ID_TEXT_BYTES];
    const struct header *ce_id = header_find(item->headers, item->header_count, HEADER_ID);
    span_text(span, "messaging.message.id", ce_id ? ce_id->value : id_to_text(item->note->id, id));
    span_int(span, "messaging.message.body.size", (int64_t)record->value.length);
    if (item->decoded.subscription)
        span_text(span, "cloudevents.event_type", text_of(item->decoded.subscription->type->full_name));
    span_text(span, "weir.outcome", text_of(how_it_went(item)));
    span_int(span, "weir.attempt", item->note->attempt);
    if (item->state == ITEM_RETRIED || item->state == ITEM_REJECTED) {
        span_text(span, "error.type",
                  text_of(item->error.cause ? item->error.cause : failure_class_names[item->class]));
        span_fail(span, text_of(item->error.text));
    }
    spans_give(dispatch->context.spans, span);
}

/* ---- what is emitted */

struct text trace_next(struct context *context, struct id id, char into[HEADER_TRACEPARENT_BYTES + 1])
{
    struct text next = traceparent_next(context->traceparent, id, into);
    struct span_context began;
    if (!context->spans || context->traceparent.length || !span_context_of(next, &began))
        return next;
    spans_decide(context->spans, NULL, &began);
    return span_context_print(&began, into);
}

struct created {
    struct spans *spans;
    struct span_context context, parent;
    bool has_parent;
    int64_t start_us;
    struct text topic, key, id;
    const char *type;
    size_t bytes;
};

static void created(void *what)
{
    const struct created *created = what;
    struct span *span = spans_take(created->spans, SPAN_PRODUCER, &created->context,
                                   created->has_parent ? &created->parent : NULL);
    if (!span)
        return;
    span->start_us = created->start_us;
    span->end_us = clock_wall_us();
    operation(span, "create", created->topic);
    span_text(span, "messaging.message.id", created->id);
    span_text(span, "messaging.kafka.message.key", created->key);
    span_int(span, "messaging.message.body.size", (int64_t)created->bytes);
    span_text(span, "cloudevents.event_type", text_of(created->type));
    spans_give(created->spans, span);
}

void trace_created(struct work *work, const struct outbox_row *row, const struct event_type *type,
                   struct text id, struct text traceparent)
{
    const struct context *context = work_owner(work);
    struct span_context of;
    if (!span_context_of(traceparent, &of) || !span_sampled(&of))
        return;
    struct created *what = arena_take(work_arena(work), sizeof(*what));
    if (!what)
        return;
    *what = (struct created){
        .spans = context->spans,
        .context = of,
        .start_us = clock_wall_us(),
        .topic = row->topic,
        .key = row->key,
        .id = id,
        .type = type->full_name,
        .bytes = row->value.length,
    };
    what->has_parent = span_context_of(context->traceparent, &what->parent);
    work_after_commit(work, created, what);
}

/* ---- calls */

void trace_call_begin(struct trace_call *trace, struct call *call, struct arena *arena)
{
    char text[SPAN_TRACEPARENT_BYTES + 1];
    trace->on = span_context_of(call->traceparent, &trace->parent) && span_sampled(&trace->parent);
    if (!trace->on)
        return;
    trace->context = trace->parent;
    span_id_new(trace->context.id);
    struct text own = text_copy(arena, span_context_print(&trace->context, text));
    trace->on = own.length > 0;
    if (trace->on)
        call->traceparent = own;
}

void trace_call_sent(struct trace_call *trace, bool is_mail, const char *url)
{
    if (!trace->on)
        return;
    trace->is_mail = is_mail;
    trace->start_us = clock_wall_us();
    /* Never with the user and the password that may stand in it. */
    const char *authority = strstr(url, "://");
    authority = authority ? authority + 3 : url;
    const char *at = memchr(authority, '@', strcspn(authority, "/?#"));
    snprintf(trace->url, sizeof(trace->url), "%.*s%s", (int)(authority - url), url, at ? at + 1 : authority);
}

/* server.address and server.port. */
static void server(struct span *span, const char *url)
{
    const char *host = strstr(url, "://");
    host = host ? host + 3 : url;
    size_t length = strcspn(host, "/?#"), host_length = length;
    if (*host == '[')
        host_length = strcspn(host, "]") + 1;
    else
        host_length = strcspn(host, ":/?#");
    if (host_length > length)
        host_length = length;
    span_text(span, "server.address", (struct text){host, host_length});
    int64_t port;
    if (host_length + 1 < length &&
        text_to_int64((struct text){host + host_length + 1, length - host_length - 1}, &port))
        span_int(span, "server.port", port);
}

void trace_call_done(struct spans *spans, const struct trace_call *trace, const struct call *call,
                     const struct net_result *result)
{
    if (!trace->on || !trace->start_us)
        return;
    struct span *span = spans_take(spans, SPAN_CLIENT, &trace->context, &trace->parent);
    if (!span)
        return;
    span->start_us = trace->start_us;
    span->end_us = trace->start_us + result->duration_us;
    span_text(span, "peer.service", call->lane);
    server(span, trace->url);
    if (trace->is_mail) {
        span_name(span, "smtp send", TEXT(""));
        span_text(span, "network.protocol.name", TEXT("smtp"));
        if (result->status)
            span_int(span, "smtp.reply_code", result->status);
    } else {
        span_name(span, "POST", TEXT(""));
        span_text(span, "http.request.method", TEXT("POST"));
        span_text(span, "url.full", text_of(trace->url));
        if (call->attempts > 1)
            span_int(span, "http.request.resend_count", call->attempts - 1);
        if (result->status)
            span_int(span, "http.response.status_code", result->status);
    }
    span_int(span, "weir.attempt", call->attempts);
    if (result->ambiguous)
        span_text(span, "weir.ambiguous", TEXT("true"));
    if (result->outcome != OK) {
        char code[16];
        snprintf(code, sizeof(code), "%d", result->status);
        span_text(span, "error.type",
                  result->status ? text_of(code) : text_of(outcome_name(result->outcome)));
        span_fail(span, text_of(result->text));
    }
    spans_give(spans, span);
}

/* ---- sends */

struct trace_sends {
    struct spans *spans;
    pthread_mutex_t lock;
    struct sending {
        int64_t seq; /* 0: free */
        int64_t start_us;
        struct span_context parent;
        uint8_t topic_length, key_length;
        char topic[96], key[64];
    } sending[TRACE_SENDS_MAX];
};

struct trace_sends *trace_sends_new(struct spans *spans)
{
    struct trace_sends *sends = spans ? calloc(1, sizeof(*sends)) : NULL;
    if (!sends)
        return NULL;
    sends->spans = spans;
    pthread_mutex_init(&sends->lock, NULL);
    return sends;
}

void trace_sends_destroy(struct trace_sends *sends)
{
    if (!sends)
        return;
    pthread_mutex_destroy(&sends->lock);
    free(sends);
}

/* Numbers have gaps, and those of packs of one are far apart: all of their bits count. */
static struct sending *place_of(struct trace_sends *sends, int64_t seq)
{
    return &sends->sending[((uint64_t)seq * UINT64_C(0x9e3779b97f4a7c15) >> 40) % TRACE_SENDS_MAX];
}

static uint8_t kept(char *into, size_t room, struct text text)
{
    size_t length = text.length < room ? text.length : room;
    if (length)
        memcpy(into, text.at, length);
    return (uint8_t)length;
}

void trace_send(struct trace_sends *sends, const struct outbox_row *row)
{
    struct span_context parent;
    if (!sends)
        return;
    const struct header *header = header_find(row->headers, row->header_count, HEADER_TRACEPARENT);
    if (!header || !traceparent_valid(header->value) || !span_context_of(header->value, &parent) ||
        !span_sampled(&parent))
        return;
    pthread_mutex_lock(&sends->lock);
    struct sending *sending = place_of(sends, row->seq);
    bool lost = sending->seq != 0 && sending->seq != row->seq;
    sending->seq = row->seq;
    sending->start_us = clock_wall_us();
    sending->parent = parent;
    sending->topic_length = kept(sending->topic, sizeof(sending->topic), row->topic);
    sending->key_length = kept(sending->key, sizeof(sending->key), row->key);
    pthread_mutex_unlock(&sends->lock);
    if (lost)
        spans_dropped(sends->spans, 1);
}

void trace_sent(struct trace_sends *sends, int64_t seq, enum outcome outcome, int32_t partition,
                int64_t offset, const char *why)
{
    if (!sends)
        return;
    pthread_mutex_lock(&sends->lock);
    struct sending *found = place_of(sends, seq);
    struct sending sending = *found;
    if (sending.seq == seq)
        found->seq = 0;
    pthread_mutex_unlock(&sends->lock);
    if (sending.seq != seq || seq == 0)
        return;
    struct span_context context = sending.parent;
    span_id_new(context.id);
    struct span *span = spans_take(sends->spans, SPAN_CLIENT, &context, &sending.parent);
    if (!span)
        return;
    span->start_us = sending.start_us;
    span->end_us = clock_wall_us();
    operation(span, "send", (struct text){sending.topic, sending.topic_length});
    span_text(span, "messaging.kafka.message.key", (struct text){sending.key, sending.key_length});
    if (outcome == OK) {
        place(span, partition, offset);
    } else {
        span_text(span, "error.type", text_of(outcome_name(outcome)));
        span_fail(span, text_of(why ? why : ""));
    }
    spans_give(sends->spans, span);
}
