/*
 * admin: what topics there are, and making those that are missing. For tools and starts; each call is bounded
 * by its timeout_ms. Thread: any, one at a time.
 */
#ifndef KAFKA_ADMIN_H
#define KAFKA_ADMIN_H

#include "kafka/client.h"
#include "base/text.h"

struct admin;
MUST_CHECK enum outcome admin_open(const struct client_settings *client, struct admin **ret,
                                   struct error *error);
void admin_close(struct admin *admin);
/* Would producer, consumer and admin be made of these settings? REJECT (exit 78) as theirs. Talks to nobody.
 */
MUST_CHECK enum outcome admin_check_settings(const struct client_settings *client, struct error *error);

struct admin_topic {
    char name[256];
    int partitions; /* 0: does not exist */
    int replication;
    bool denied; /* the principal may not even see it; by admin_topics_named() only */
};
/* Every topic of the cluster, in a malloc()ed array. OUTAGE when no broker answers. */
MUST_CHECK enum outcome admin_topics(struct admin *admin, int timeout_ms, struct admin_topic **ret,
                                     size_t *ret_count, struct error *error);

/* The same of these topics only (NULL ended), in their order; also those that this principal may not see,
 * which are left out above. */
MUST_CHECK enum outcome admin_topics_named(struct admin *admin, const char *const *names, int timeout_ms,
                                           struct admin_topic **ret, size_t *ret_count, struct error *error);

/* Brokers that are in service now. OUTAGE when none answers. */
MUST_CHECK enum outcome admin_brokers(struct admin *admin, int timeout_ms, int *ret_count,
                                      struct error *error);

struct admin_new_topic {
    const char *name;
    int partitions;
    int replication;           /* -1: the broker's default */
    const char *const *config; /* name, value, name, value, NULL */
};
/* "Exists already" is OK. REJECT with the broker's reason. */
MUST_CHECK enum outcome admin_create(struct admin *admin, const struct admin_new_topic *topics, size_t count,
                                     int timeout_ms, struct error *error);
/* Some settings of a topic as the broker has them. */
struct admin_topic_settings {
    bool known;  /* false: the topic is not there, or this principal may not ask */
    bool denied; /* the latter: it lacks DescribeConfigs on the topic */
    char cleanup_policy[32];
    int64_t retention_ms; /* -1: for ever */
    int64_t message_bytes_max;
    int min_insync;
};
/* Of all these topics in one request, into ret, in their order. REJECT where the brokers do not know the
 * question. */
MUST_CHECK enum outcome admin_topics_settings(struct admin *admin, const char *const *names, size_t count,
                                              int timeout_ms, struct admin_topic_settings *ret,
                                              struct error *error);
/* Committed offset and high watermark of a group's partition, for lag from the outside. -1 where none. */
MUST_CHECK enum outcome admin_group_offset(struct admin *admin, const char *group, const char *topic,
                                           int32_t partition, int timeout_ms, int64_t *ret_committed,
                                           int64_t *ret_high, struct error *error);

#endif
