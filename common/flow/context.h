/*
 * context: what stands behind a unit of work while a handler runs: whose it is, what is being handled, and
 * how often it has spoken. Inside flow/ only; handlers reach it through work_emit(), work_call(),
 * work_state(), work_now_us().
 */
#ifndef FLOW_CONTEXT_H
#define FLOW_CONTEXT_H

#include "flow/handler.h"
#include "base/span.h"
#include "flow/lanes.h"
#include "flow/own.h"

enum { EMIT_NAMES = 16 };

/* What the n-th event of a type made of one thing is called, so far as its id goes. */
struct emit_name {
    const struct event_type *type; /* NULL: none yet */
    int number;
    struct id_name name;
};

struct context {
    const char *service;
    void *state;
    struct registry *registry;
    struct lanes *lanes;
    const struct instances *instances;  /* store/instances.h: whose is what follows from a commit */
    struct buffer scratch;              /* for encoding; its bytes are copied into the arena */
    int64_t now_us;                     /* the batch's */
    struct spans *spans;                /* NULL: no traces */
    struct own *own;                    /* NULL: whatever it reads is handled */
    char source[64];                    /* of events; empty before the first */
    struct emit_name names[EMIT_NAMES]; /* of those that were needed last */

    /* the item in hand */
    struct id id;            /* of what is being handled: parent of every id made */
    struct text traceparent; /* of what is being handled: where there are traces, its own span's */
    char trace_bytes[SPAN_TRACEPARENT_BYTES + 1];
    int emitted;
    bool repeated; /* it said so: work_repeated() */
};

/* Before each item; traceparent is kept. Lines of the log carry its ids from now on (log_trace). */
void context_enter(struct context *context, struct id id, struct text traceparent);

#endif
