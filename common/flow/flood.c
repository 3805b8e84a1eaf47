#include "flow/flood.h"

#include <assert.h>

static int64_t slot_of(const struct flood *flood, int64_t now_us)
{
    return now_us / (flood->limits.window_ms * 1000 / FLOOD_BUCKETS);
}

static void empty(struct flood *flood)
{
    for (int i = 0; i < FLOOD_BUCKETS; i++)
        flood->buckets[i] = (struct flood_bucket){.slot = -1};
}

void flood_init(struct flood *flood, const struct flood_limits *limits)
{
    assert(limits->window_ms >= FLOOD_BUCKETS && limits->share_percent >= 0 && limits->share_percent <= 100);
    *flood = (struct flood){.limits = *limits, .probe_ms = FLOOD_PROBE_MS_MIN};
    empty(flood);
}

void flood_window(const struct flood *flood, int64_t now_us, int64_t *ret_handled, int64_t *ret_rejected)
{
    int64_t oldest = slot_of(flood, now_us) - FLOOD_BUCKETS + 1, handled = 0, rejected = 0;
    for (int i = 0; i < FLOOD_BUCKETS; i++) {
        const struct flood_bucket *bucket = &flood->buckets[i];
        if (bucket->slot < 0 || bucket->slot < oldest)
            continue;
        handled += bucket->handled;
        rejected += bucket->rejected;
    }
    *ret_handled = handled;
    *ret_rejected = rejected;
}

bool flood_allows(const struct flood *flood, size_t handled, size_t rejected, int64_t now_us)
{
    const struct flood_limits *limits = &flood->limits;
    int64_t all, bad;
    switch (flood->state) {
    case FLOOD_OPEN:
        return false;
    case FLOOD_HALF_OPEN:
        return flood->probe_rejected + (int64_t)rejected < FLOOD_PROBE_REJECTS_MAX;
    case FLOOD_CLOSED:
        break;
    }
    flood_window(flood, now_us, &all, &bad);
    bad += (int64_t)rejected + 1; /* this one counts: a limit is what may be there */
    all += (int64_t)handled + bad;
    if (limits->count_max && bad > limits->count_max)
        return false;
    return !limits->share_percent || bad < limits->count_min || bad * 100 <= all * limits->share_percent;
}

void flood_count(struct flood *flood, size_t handled, size_t rejected, int64_t now_us)
{
    int64_t slot = slot_of(flood, now_us);
    struct flood_bucket *bucket = &flood->buckets[slot % FLOOD_BUCKETS];
    if (bucket->slot != slot)
        *bucket = (struct flood_bucket){.slot = slot};
    bucket->handled += (int64_t)handled;
    bucket->rejected += (int64_t)rejected;

    if (flood->state != FLOOD_HALF_OPEN)
        return;
    flood->probe_ok += (int64_t)handled;
    flood->probe_rejected += (int64_t)rejected;
    if (flood->probe_rejected <= FLOOD_PROBE_REJECTS_MAX && flood->probe_ok >= FLOOD_PROBE_OK_COUNT)
        flood_resume(flood);
}

void flood_trip(struct flood *flood, int64_t now_us)
{
    switch (flood->state) {
    case FLOOD_OPEN: /* the rest of a batch may say so as well */
        return;
    case FLOOD_CLOSED:
        flood->probe_ms = FLOOD_PROBE_MS_MIN;
        break;
    case FLOOD_HALF_OPEN:
        flood->probe_ms *= 2;
        if (flood->probe_ms > FLOOD_PROBE_MS_MAX)
            flood->probe_ms = FLOOD_PROBE_MS_MAX;
        break;
    }
    flood->state = FLOOD_OPEN;
    flood->probe_at_us = now_us + flood->probe_ms * 1000;
}

bool flood_probe(struct flood *flood, int64_t now_us)
{
    if (flood->state != FLOOD_OPEN || now_us < flood->probe_at_us)
        return false;
    flood->state = FLOOD_HALF_OPEN;
    flood->probe_ok = 0;
    flood->probe_rejected = 0;
    return true;
}

void flood_resume(struct flood *flood)
{
    flood->state = FLOOD_CLOSED;
    empty(flood);
}
