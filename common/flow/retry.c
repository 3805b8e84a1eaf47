#include "flow/retry.h"

#include <assert.h>
#include <stdio.h>

void retry_init(struct retry *retry, const char *service, const int64_t *delays_ms, size_t count)
{
    *retry = (struct retry){.count = count < RETRY_DELAYS_MAX ? count : RETRY_DELAYS_MAX};
    for (size_t i = 0; i < retry->count; i++) {
        retry->delays_ms[i] = delays_ms[i];
        topic_retry(service, delays_ms[i], retry->topics[i]);
    }
}

bool retry_next(const struct retry *retry, int attempt, size_t *ret_step)
{
    assert(attempt > 0);
    if ((size_t)attempt > retry->count)
        return false;
    *ret_step = (size_t)attempt - 1;
    return true;
}

bool retry_find(const struct retry *retry, struct text topic, size_t *ret_step)
{
    size_t count = retry->count + atomic_load_explicit(&retry->old_count, memory_order_acquire);
    for (size_t i = 0; i < count; i++)
        if (text_is(topic, retry->topics[i])) {
            *ret_step = i;
            return true;
        }
    return false;
}

bool retry_add_old(struct retry *retry, const char *topic, int64_t delay_ms)
{
    size_t step, old_count = atomic_load(&retry->old_count), at = retry->count + old_count;
    if (retry_find(retry, text_of(topic), &step))
        return true;
    if (old_count == RETRY_OLD_MAX)
        return false;
    retry->delays_ms[at] = delay_ms;
    snprintf(retry->topics[at], sizeof(retry->topics[at]), "%s", topic);
    atomic_store_explicit(&retry->old_count, old_count + 1, memory_order_release);
    return true;
}

int64_t retry_due_us(const struct retry *retry, size_t step, const struct origin *origin,
                     int64_t timestamp_ms)
{
    if (timestamp_ms > RECORD_TIMESTAMP_MS_MAX)
        timestamp_ms = RECORD_TIMESTAMP_MS_MAX;
    if (timestamp_ms < 0)
        timestamp_ms = 0;
    int64_t latest_us = (timestamp_ms + retry->delays_ms[step]) * 1000;
    return origin->due_us && origin->due_us < latest_us ? origin->due_us : latest_us;
}

bool retry_believes(const struct retry *retry, size_t step, int64_t due_us, int64_t now_us)
{
    return due_us <= now_us + (2 * retry->delays_ms[step] + RETRY_SKEW_MS) * 1000;
}
