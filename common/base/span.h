/*
 * span: what happened, for traces: a bounded ring between those who did it and the thread that exports it.
 *
 * Whoever has done something that a trace is to show takes a place, fills it and gives it. Nobody waits and
 * nothing is allocated: where the ring is full the span is dropped and counted. Where traces are off there is
 * no struct spans at all, and all that is paid for them is a look at a NULL.
 *
 * Names and attributes are OpenTelemetry's; ids, flags and the text form W3C Trace Context's. Taking, giving
 * and deciding: any thread. Reading: one.
 */
#ifndef BASE_SPAN_H
#define BASE_SPAN_H

#include "base/metrics.h"
#include "base/text.h"

enum {
    SPAN_TRACE_BYTES = 16,
    SPAN_ID_BYTES = 8,
    SPAN_ATTRIBUTES_MAX = 16, /* more are left out                                        */
    SPAN_NAME_BYTES_MAX = 96, /* longer ones are cut, as is text that finds no room in .bytes */
    SPAN_TEXT_BYTES_MAX = 512,
    SPAN_SAMPLED = 1, /* the flag of a traceparent */
};

/* OTLP's numbers. */
enum span_kind { SPAN_INTERNAL = 1, SPAN_SERVER, SPAN_CLIENT, SPAN_PRODUCER, SPAN_CONSUMER };

/* A place in a trace: what a traceparent says. */
struct span_context {
    uint8_t trace[SPAN_TRACE_BYTES];
    uint8_t id[SPAN_ID_BYTES];
    uint8_t flags;
};
/* Of a valid traceparent (wire/event.h); false where it is empty. */
bool span_context_of(struct text traceparent, struct span_context *ret);
enum { SPAN_TRACEPARENT_BYTES = 55 };
struct text span_context_print(const struct span_context *context, char into[SPAN_TRACEPARENT_BYTES + 1]);
static inline bool span_sampled(const struct span_context *context)
{
    return context->flags & SPAN_SAMPLED;
}

struct span_attribute {
    const char *name; /* a literal */
    bool is_text;
    uint16_t at, length; /* in .bytes */
    int64_t number;
};
struct span {
    struct span_context context;
    uint8_t parent[SPAN_ID_BYTES]; /* zeros: none */
    bool parent_remote;            /* it came from another process */
    enum span_kind kind;
    bool failed;
    int64_t start_us, end_us; /* wall time */
    uint16_t name_length, text_length, status_at, status_length;
    uint16_t attribute_count;
    struct span_attribute attributes[SPAN_ATTRIBUTES_MAX];
    char name[SPAN_NAME_BYTES_MAX];
    char bytes[SPAN_TEXT_BYTES_MAX];
};
/* first and second with a blank between them, if there is a second. */
void span_name(struct span *span, const char *first, struct text second);
/* Empty text is left out. name is kept. */
void span_text(struct span *span, const char *name, struct text value);
void span_int(struct span *span, const char *name, int64_t value);
/* It failed; a line for people, copied. */
void span_fail(struct span *span, struct text why);
struct text span_status(const struct span *span);
struct text span_attribute_text(const struct span *span, const struct span_attribute *attribute);
/* Random, never zeros. */
void span_id_new(uint8_t id[SPAN_ID_BYTES]);

enum span_sampling {
    SAMPLE_ALWAYS,
    SAMPLE_NEVER,
    SAMPLE_RATIO, /* of all traces, by their id: the same trace is always in or always out */
};
struct span_sampler {
    enum span_sampling root; /* what decides about a trace that begins here */
    bool parent_based;       /* of one that came from elsewhere its own flag decides */
    double ratio;            /* 0 to 1 */
};

struct spans;
/* count_max: a power of two. wake() is called, on the thread that gives, after each batch_count given.
 * dropped may be NULL. */
MUST_CHECK enum outcome spans_new(size_t count_max, size_t batch_count, const struct span_sampler *sampler,
                                  struct metric *dropped, void (*wake)(void *owner), void *owner,
                                  struct spans **ret, struct error *error);
void spans_destroy(struct spans *spans); /* accepts NULL */

/* Sets the flag of a context that is about to be recorded in: parent's where there is one (NULL: none). */
void spans_decide(const struct spans *spans, const struct span_context *parent, struct span_context *context);
/* A place with kind, context and parent set and all else empty. NULL: the ring is full, or the context is not
 * sampled. What is taken is given, soon. */
struct span *spans_take(struct spans *spans, enum span_kind kind, const struct span_context *context,
                        const struct span_context *parent);
void spans_give(struct spans *spans, struct span *span);

/* The reader's: the oldest, NULL when there is none; then it is done with it. */
const struct span *spans_first(const struct spans *spans);
void spans_done(struct spans *spans);
/* That many spans came to nothing. */
void spans_dropped(struct spans *spans, size_t count);

#endif
