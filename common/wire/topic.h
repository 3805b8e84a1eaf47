/*
 * topic: look-up over topics.def. Pure, any thread.
 */
#ifndef WIRE_TOPIC_H
#define WIRE_TOPIC_H

#include "base/text.h"

enum topic_id {
#define TOPIC(id, name, key, partitions, days, compacted) TOPIC_##id,
#include "wire/topics.def"
#undef TOPIC
    TOPIC_COUNT
};

enum {
    TOPIC_NAME_BYTES_MAX = 64,
    TOPIC_DLQ_DAYS = 30,
    TOPIC_RETRY_DAYS = 7, /* or twice the delay, where that is longer */
    TOPIC_AUDIT_DAYS = 90,
    TOPIC_PARTITIONS = 6,
    /* A copy carries more headers than what it is a copy of, so it must be allowed to be larger. */
    TOPIC_COPY_BYTES_MAX = 2 << 20
};

#define TOPIC_RETRY_DELAY_MS_MAX (INT64_C(366) * 86400 * 1000) /* of RETRY_DELAYS */

/* What people did with dead letters, one JSON object a record (flow/audit.h); key: the dead letter's. */
#define TOPIC_AUDIT "audit"

struct topic {
    const char *name;
    const char *key_field;
    int partitions;
    int retention_days;
    bool compacted;
};

const struct topic *topic_get(enum topic_id id);
/* An event topic by name; NULL for retry, dead letter and foreign topics. ret_id may be NULL. */
const struct topic *topic_find(struct text name, enum topic_id *ret_id);

/* The partition where murmur2_random (librdkafka) and Java's default partitioner put this key. */
int32_t topic_partition(struct text key, int32_t partition_count);

/* "dlq.order" */
char *topic_dlq(const char *service, char into[TOPIC_NAME_BYTES_MAX]);
/* "retry.order.2s": the delay as in RETRY_DELAYS, shortest exact form (2s, 90s, 1500ms, 5min). */
char *topic_retry(const char *service, int64_t delay_ms, char into[TOPIC_NAME_BYTES_MAX]);
/* The delay that topic_retry() made this name of; false: it is none of this service's retry topics. */
bool topic_retry_delay(struct text name, const char *service, int64_t *ret_ms);

/* Every service's name, NULL at the end. */
extern const char *const topic_services[];

#endif
