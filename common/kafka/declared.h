/*
 * declared: what a topic of the line should be (wire/topics.def, and the retry and dead letter topics of a
 * service), making it, and what is different about the one that is there. Services at their start and `weir
 * topics` share it.
 */
#ifndef KAFKA_DECLARED_H
#define KAFKA_DECLARED_H

#include "kafka/admin.h"
#include "wire/topic.h"

struct declared {
    char name[TOPIC_NAME_BYTES_MAX];
    bool compacted;
    int64_t retention_ms;      /* where it is not compacted */
    int64_t message_bytes_max; /* 0: the broker's default */
    int partitions;
};

struct declared declared_event(enum topic_id id, int partitions);
struct declared declared_retry(const char *service, int64_t delay_ms, int partitions);
struct declared declared_dlq(const char *service, int partitions);
struct declared declared_audit(int partitions);

/* replication -1: the broker's default. "Exists already" is OK. */
MUST_CHECK enum outcome declared_make(struct admin *admin, const struct declared *declared, int replication,
                                      int timeout_ms, struct error *error);

/* What may cost records or order about a topic that is there, and what to do about it, one call a finding. */
typedef void declared_say_fn(void *owner, const char *topic, const char *finding, const char *advice);
/* brokers: in service now. keeps_ms: how long event ids are known (INBOX_AGE); 0: not to be looked at. */
void declared_compare(const struct declared *declared, const struct admin_topic *actual,
                      const struct admin_topic_settings *settings, int brokers, int64_t keeps_ms,
                      declared_say_fn *say, void *owner);

#endif
