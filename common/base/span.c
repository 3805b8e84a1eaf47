/*
 * A ring of places, each with a turn (Vyukov's bounded queue): a place is free for the n-th span when its
 * turn is n, and to be read when it is n + 1. Who gives pays one compare-and-swap; nobody holds a lock.
 */
#include "base/span.h"

#include "base/digest.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/random.h>

enum { CACHE_LINE_BYTES = 64, AT_TRACE = 3, AT_ID = 36, AT_FLAGS = 53 };

struct place {
    _Atomic size_t turn;
    struct span span;
};

struct spans {
    size_t mask;
    size_t batch_count;
    struct span_sampler sampler;
    uint64_t threshold; /* of SAMPLE_RATIO: what is below it is in */
    bool all;
    struct metric *dropped;
    void (*wake)(void *owner);
    void *owner;
    _Alignas(CACHE_LINE_BYTES) _Atomic size_t taken;
    _Alignas(CACHE_LINE_BYTES) size_t read; /* the reader's */
    struct place places[];
};

/* ---- contexts */

bool span_context_of(struct text traceparent, struct span_context *ret)
{
    const char *at = traceparent.at;
    return traceparent.length >= SPAN_TRACEPARENT_BYTES &&
           digest_from_hex((struct text){at + AT_TRACE, sizeof(ret->trace) * 2}, ret->trace,
                           sizeof(ret->trace)) &&
           digest_from_hex((struct text){at + AT_ID, sizeof(ret->id) * 2}, ret->id, sizeof(ret->id)) &&
           digest_from_hex((struct text){at + AT_FLAGS, sizeof(ret->flags) * 2}, &ret->flags,
                           sizeof(ret->flags));
}

struct text span_context_print(const struct span_context *context, char into[SPAN_TRACEPARENT_BYTES + 1])
{
    memcpy(into, "00-", AT_TRACE);
    digest_to_hex(context->trace, sizeof(context->trace), into + AT_TRACE);
    into[AT_ID - 1] = '-';
    digest_to_hex(context->id, sizeof(context->id), into + AT_ID);
    into[AT_FLAGS - 1] = '-';
    digest_to_hex(&context->flags, 1, into + AT_FLAGS);
    into[SPAN_TRACEPARENT_BYTES] = '\0';
    return (struct text){into, SPAN_TRACEPARENT_BYTES};
}

/* splitmix64 */
static uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* Not secret, only different from all others: the kernel is asked once a thread. */
void span_id_new(uint8_t id[SPAN_ID_BYTES])
{
    static _Thread_local uint64_t state;
    static _Thread_local bool seeded;
    if (!seeded) {
        ssize_t got = getrandom(&state, sizeof(state), 0);
        assert(got == (ssize_t)sizeof(state));
        (void)got;
        seeded = true;
    }
    uint64_t value;
    do
        value = mix(state++);
    while (value == 0);
    memcpy(id, &value, sizeof(value));
}

/* ---- a span */

/* Room in .bytes, less than was asked for when it is used up; never through a character of UTF-8. */
static uint16_t keep(struct span *span, struct text value, uint16_t *ret_at)
{
    size_t room = SPAN_TEXT_BYTES_MAX - span->text_length;
    size_t length = text_cut(value, room).length;
    *ret_at = span->text_length;
    if (length)
        memcpy(span->bytes + span->text_length, value.at, length);
    span->text_length = (uint16_t)(span->text_length + length);
    return (uint16_t)length;
}

static void name_add(struct span *span, struct text text)
{
    size_t room = SPAN_NAME_BYTES_MAX - span->name_length;
    size_t length = text.length < room ? text.length : room;
    if (length)
        memcpy(span->name + span->name_length, text.at, length);
    span->name_length = (uint16_t)(span->name_length + length);
}

void span_name(struct span *span, const char *first, struct text second)
{
    span->name_length = 0;
    name_add(span, text_of(first));
    if (!second.length)
        return;
    name_add(span, TEXT(" "));
    name_add(span, second);
}

void span_text(struct span *span, const char *name, struct text value)
{
    if (value.length == 0 || span->attribute_count == SPAN_ATTRIBUTES_MAX)
        return;
    struct span_attribute *attribute = &span->attributes[span->attribute_count++];
    *attribute = (struct span_attribute){.name = name, .is_text = true};
    attribute->length = keep(span, value, &attribute->at);
}

void span_int(struct span *span, const char *name, int64_t value)
{
    if (span->attribute_count < SPAN_ATTRIBUTES_MAX)
        span->attributes[span->attribute_count++] = (struct span_attribute){.name = name, .number = value};
}

void span_fail(struct span *span, struct text why)
{
    span->failed = true;
    span->status_length = keep(span, why, &span->status_at);
}

struct text span_status(const struct span *span)
{
    return (struct text){span->bytes + span->status_at, span->status_length};
}

struct text span_attribute_text(const struct span *span, const struct span_attribute *attribute)
{
    return (struct text){span->bytes + attribute->at, attribute->length};
}

/* ---- the ring */

enum outcome spans_new(size_t count_max, size_t batch_count, const struct span_sampler *sampler,
                       struct metric *dropped, void (*wake)(void *owner), void *owner, struct spans **ret,
                       struct error *error)
{
    assert(count_max && (count_max & (count_max - 1)) == 0 && batch_count && batch_count <= count_max);
    size_t bytes = sizeof(struct spans) + count_max * sizeof(struct place);
    bytes = (bytes + CACHE_LINE_BYTES - 1) / CACHE_LINE_BYTES * CACHE_LINE_BYTES;
    struct spans *spans = aligned_alloc(CACHE_LINE_BYTES, bytes);
    if (!spans)
        return error_fatal(error, "memory", "out of memory for %zu spans", count_max);
    memset(spans, 0, sizeof(*spans));
    spans->mask = count_max - 1;
    spans->batch_count = batch_count;
    spans->sampler = *sampler;
    spans->all = sampler->ratio >= 1;
    spans->threshold = spans->all || sampler->ratio <= 0 ? 0 : (uint64_t)(sampler->ratio * 0x1p64);
    spans->dropped = dropped;
    spans->wake = wake;
    spans->owner = owner;
    for (size_t i = 0; i < count_max; i++)
        atomic_init(&spans->places[i].turn, i);
    *ret = spans;
    return OK;
}

void spans_destroy(struct spans *spans)
{
    free(spans);
}

static bool root_sampled(const struct spans *spans, const struct span_context *context)
{
    uint64_t low;
    switch (spans->sampler.root) {
    case SAMPLE_ALWAYS:
        return true;
    case SAMPLE_NEVER:
        return false;
    case SAMPLE_RATIO:
        /* Mixed: of a time-ordered id the bytes of one millisecond are near each other. */
        memcpy(&low, context->trace + SPAN_TRACE_BYTES - sizeof(low), sizeof(low));
        return spans->all || mix(low) < spans->threshold;
    }
    return false;
}

void spans_decide(const struct spans *spans, const struct span_context *parent, struct span_context *context)
{
    bool in = parent && spans->sampler.parent_based ? span_sampled(parent) : root_sampled(spans, context);
    context->flags = (uint8_t)((context->flags & ~SPAN_SAMPLED) | (in ? SPAN_SAMPLED : 0));
}

struct span *spans_take(struct spans *spans, enum span_kind kind, const struct span_context *context,
                        const struct span_context *parent)
{
    if (!span_sampled(context))
        return NULL;
    size_t turn = atomic_load_explicit(&spans->taken, memory_order_relaxed);
    struct place *place;
    for (;;) {
        place = &spans->places[turn & spans->mask];
        size_t at = atomic_load_explicit(&place->turn, memory_order_acquire);
        if (at == turn) {
            if (atomic_compare_exchange_weak_explicit(&spans->taken, &turn, turn + 1, memory_order_relaxed,
                                                      memory_order_relaxed))
                break;
        } else if ((ptrdiff_t)(at - turn) < 0) {
            metric_add(spans->dropped, 1);
            return NULL;
        } else {
            turn = atomic_load_explicit(&spans->taken, memory_order_relaxed);
        }
    }
    struct span *span = &place->span;
    span->context = *context;
    if (parent)
        memcpy(span->parent, parent->id, sizeof(span->parent));
    else
        memset(span->parent, 0, sizeof(span->parent));
    span->parent_remote = false;
    span->kind = kind;
    span->failed = false;
    span->start_us = span->end_us = 0;
    span->name_length = span->text_length = span->status_at = span->status_length = 0;
    span->attribute_count = 0;
    return span;
}

void spans_give(struct spans *spans, struct span *span)
{
    struct place *place = (struct place *)(void *)((char *)span - offsetof(struct place, span));
    size_t turn = atomic_load_explicit(&place->turn, memory_order_relaxed) + 1;
    atomic_store_explicit(&place->turn, turn, memory_order_release);
    if (turn % spans->batch_count == 0)
        spans->wake(spans->owner);
}

const struct span *spans_first(const struct spans *spans)
{
    const struct place *place = &spans->places[spans->read & spans->mask];
    return atomic_load_explicit(&place->turn, memory_order_acquire) == spans->read + 1 ? &place->span : NULL;
}

void spans_done(struct spans *spans)
{
    struct place *place = &spans->places[spans->read & spans->mask];
    atomic_store_explicit(&place->turn, spans->read + spans->mask + 1, memory_order_release);
    spans->read++;
}

void spans_dropped(struct spans *spans, size_t count)
{
    metric_add(spans->dropped, (int64_t)count);
}
