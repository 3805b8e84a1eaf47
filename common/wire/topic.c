#include "wire/topic.h"

#include <stdio.h>

static const struct topic topics[TOPIC_COUNT] = {
#define TOPIC(id, name, key, partitions, days, compacted)                                                    \
    [TOPIC_##id] = {name, key, partitions, days, compacted},
#include "wire/topics.def"
#undef TOPIC
};

const char *const topic_services[] = {
#define SERVICE(name) #name,
#include "wire/topics.def"
#undef SERVICE
    NULL,
};

const struct topic *topic_get(enum topic_id id)
{
    return &topics[id];
}

const struct topic *topic_find(struct text name, enum topic_id *ret_id)
{
    for (size_t id = 0; id < TOPIC_COUNT; id++) {
        if (!text_is(name, topics[id].name))
            continue;
        if (ret_id)
            *ret_id = (enum topic_id)id;
        return &topics[id];
    }
    return NULL;
}

/* Kafka's murmur2 (org.apache.kafka.common.utils.Utils), which is Austin Appleby's with this seed. */
static uint32_t murmur2(struct text key)
{
    const uint32_t seed = 0x9747b28c, multiplier = 0x5bd1e995;
    const unsigned char *at = (const unsigned char *)key.at;
    size_t left = key.length;
    uint32_t hash = seed ^ (uint32_t)key.length;
    for (; left >= 4; at += 4, left -= 4) {
        uint32_t word =
            (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
        word *= multiplier;
        word ^= word >> 24;
        hash = (hash * multiplier) ^ (word * multiplier);
    }
    if (left) {
        for (size_t i = 0; i < left; i++)
            hash ^= (uint32_t)at[i] << (8 * i);
        hash *= multiplier;
    }
    hash ^= hash >> 13;
    hash *= multiplier;
    return hash ^ (hash >> 15);
}

int32_t topic_partition(struct text key, int32_t partition_count)
{
    return (int32_t)((murmur2(key) & 0x7fffffff) % (uint32_t)partition_count);
}

char *topic_dlq(const char *service, char into[TOPIC_NAME_BYTES_MAX])
{
    snprintf(into, TOPIC_NAME_BYTES_MAX, "dlq.%s", service);
    return into;
}

static const struct {
    const char *name;
    int64_t ms;
} units[] = {{"d", 86400000}, {"h", 3600000}, {"min", 60000}, {"s", 1000}, {"ms", 1}};

char *topic_retry(const char *service, int64_t delay_ms, char into[TOPIC_NAME_BYTES_MAX])
{
    size_t unit = 0; /* the longest that divides it, but 90s and not 1.5min */
    while (delay_ms % units[unit].ms)
        unit++;
    if (delay_ms == 0)
        unit = 3;
    snprintf(into, TOPIC_NAME_BYTES_MAX, "retry.%s.%lld%s", service, (long long)(delay_ms / units[unit].ms),
             units[unit].name);
    return into;
}

bool topic_retry_delay(struct text name, const char *service, int64_t *ret_ms)
{
    char again[TOPIC_NAME_BYTES_MAX];
    size_t at = name.length;
    while (at > 0 && name.at[at - 1] != '.')
        at--;
    int64_t number = 0;
    while (at < name.length && name.at[at] >= '0' && name.at[at] <= '9' && number <= TOPIC_RETRY_DELAY_MS_MAX)
        number = number * 10 + (name.at[at++] - '0');
    const struct text unit = {name.at + at, name.length - at};
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        if (text_is(unit, units[i].name) && number <= TOPIC_RETRY_DELAY_MS_MAX / units[i].ms) {
            *ret_ms = number * units[i].ms;
            return text_is(name, topic_retry(service, *ret_ms, again));
        }
    return false;
}
