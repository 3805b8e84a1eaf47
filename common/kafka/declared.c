#include "kafka/declared.h"

#include <stdio.h>
#include <string.h>

enum {
    DAY_MS = 24 * 3600 * 1000,
    REPLICAS = 3, /* one may be lost while another is being repaired */
    IN_SYNC = 2,
    TEXT_BYTES = 256,
};

static struct declared declare(const char *name, bool compacted, int days, int64_t message_bytes_max,
                               int partitions)
{
    struct declared declared = {
        .compacted = compacted,
        .retention_ms = (int64_t)days * DAY_MS,
        .message_bytes_max = message_bytes_max,
        .partitions = partitions,
    };
    snprintf(declared.name, sizeof(declared.name), "%s", name);
    return declared;
}

struct declared declared_event(enum topic_id id, int partitions)
{
    const struct topic *topic = topic_get(id);
    return declare(topic->name, topic->compacted, topic->retention_days, 0, partitions);
}

struct declared declared_retry(const char *service, int64_t delay_ms, int partitions)
{
    char name[TOPIC_NAME_BYTES_MAX];
    /* What is deleted before it is due is lost, and the key that waits for it waits for ever. */
    int64_t days = (2 * delay_ms + DAY_MS - 1) / DAY_MS;
    return declare(topic_retry(service, delay_ms, name), false,
                   days > TOPIC_RETRY_DAYS ? (int)days : TOPIC_RETRY_DAYS, TOPIC_COPY_BYTES_MAX, partitions);
}

struct declared declared_dlq(const char *service, int partitions)
{
    char name[TOPIC_NAME_BYTES_MAX];
    return declare(topic_dlq(service, name), false, TOPIC_DLQ_DAYS, TOPIC_COPY_BYTES_MAX, partitions);
}

struct declared declared_audit(int partitions)
{
    return declare(TOPIC_AUDIT, false, TOPIC_AUDIT_DAYS, TOPIC_COPY_BYTES_MAX, partitions);
}

enum outcome declared_make(struct admin *admin, const struct declared *declared, int replication,
                           int timeout_ms, struct error *error)
{
    char retention[32], bytes[32];
    const char *config[8] = {"cleanup.policy", declared->compacted ? "compact" : "delete"};
    size_t count = 2;
    if (!declared->compacted) {
        snprintf(retention, sizeof(retention), "%lld", (long long)declared->retention_ms);
        config[count++] = "retention.ms";
        config[count++] = retention;
    }
    if (declared->message_bytes_max) {
        snprintf(bytes, sizeof(bytes), "%lld", (long long)declared->message_bytes_max);
        config[count++] = "max.message.bytes";
        config[count++] = bytes;
    }
    const struct admin_new_topic topic = {
        .name = declared->name,
        .partitions = declared->partitions,
        .replication = replication,
        .config = config,
    };
    return admin_create(admin, &topic, 1, timeout_ms, error);
}

/* ---- what is different */

struct comparison {
    const struct declared *declared;
    const struct admin_topic *actual;
    const struct admin_topic_settings *settings;
    int brokers;
    int64_t keeps_ms;
    declared_say_fn *say;
    void *owner;
};

static void say(const struct comparison *that, const char *finding, const char *advice)
{
    that->say(that->owner, that->declared->name, finding, advice);
}

/* "… with: kafka-configs --alter --topic NAME --add-config KEY=VALUE" */
static void say_config(const struct comparison *that, const char *finding, const char *name,
                       const char *value)
{
    char advice[TEXT_BYTES];
    snprintf(advice, sizeof(advice),
             "kafka-configs --alter --entity-type topics --entity-name %s --add-config %s=%s",
             that->declared->name, name, value);
    say(that, finding, advice);
}

static void compare_replicas(const struct comparison *that)
{
    char finding[TEXT_BYTES];
    int replication = that->actual->replication;
    int wanted = that->brokers < REPLICAS ? that->brokers : REPLICAS;
    if (replication < wanted) {
        snprintf(finding, sizeof(finding),
                 "%d of %d brokers %s it: what is lost with a disk is lost for good", replication,
                 that->brokers, replication == 1 ? "keeps" : "keep");
        say(that, finding, "kafka-reassign-partitions, to a replica on each of three brokers");
    }
    if (!that->settings->known)
        return;
    int in_sync = that->settings->min_insync;
    if (in_sync > replication) {
        snprintf(finding, sizeof(finding),
                 "min.insync.replicas is %d, and it has %d: nothing can be written to it", in_sync,
                 replication);
        say_config(that, finding, "min.insync.replicas", replication > IN_SYNC ? "2" : "1");
    } else if (replication >= REPLICAS && in_sync < IN_SYNC) {
        snprintf(finding, sizeof(finding),
                 "min.insync.replicas is %d: a record counts as written that a single broker has", in_sync);
        say_config(that, finding, "min.insync.replicas", "2");
    } else if (replication > 1 && in_sync == replication) {
        snprintf(
            finding, sizeof(finding),
            "min.insync.replicas is %d of %d replicas: nothing can be written while any one broker is away",
            in_sync, replication);
        say_config(that, finding, "min.insync.replicas", replication > IN_SYNC ? "2" : "1");
    }
}

static void compare_cleanup(const struct comparison *that)
{
    const char *policy = that->settings->cleanup_policy;
    char finding[TEXT_BYTES];
    bool compacts = strstr(policy, "compact") != NULL;
    if (compacts && !that->declared->compacted) {
        snprintf(finding, sizeof(finding),
                 "cleanup.policy is %s: of the events of a key only the last is kept", policy);
        say_config(that, finding, "cleanup.policy", "delete");
    } else if (!compacts && that->declared->compacted) {
        snprintf(finding, sizeof(finding), "cleanup.policy is %s: what has not changed for long is forgotten",
                 policy);
        say_config(that, finding, "cleanup.policy", "compact");
    }
}

static void compare_retention(const struct comparison *that)
{
    char finding[TEXT_BYTES], value[32];
    const int64_t kept_ms = that->settings->retention_ms, wanted_ms = that->declared->retention_ms;
    if (that->declared->compacted || strstr(that->settings->cleanup_policy, "delete") == NULL)
        return;
    if (kept_ms >= 0 && kept_ms < wanted_ms) {
        snprintf(
            finding, sizeof(finding),
            "retention.ms is %lld (%.3g days), %lld days are declared: who is away for longer loses records",
            (long long)kept_ms, (double)kept_ms / DAY_MS, (long long)(wanted_ms / DAY_MS));
        snprintf(value, sizeof(value), "%lld", (long long)wanted_ms);
        say_config(that, finding, "retention.ms", value);
    }
    if (that->keeps_ms > 0 && (kept_ms < 0 || kept_ms > that->keeps_ms)) {
        snprintf(finding, sizeof(finding),
                 "retention.ms is %lld, and event ids are known for %.3g days: read again from the "
                 "beginning, older "
                 "events take effect twice",
                 (long long)kept_ms, (double)that->keeps_ms / DAY_MS);
        say(that, finding, "raise INBOX_AGE above it, or lower retention.ms");
    }
}

void declared_compare(const struct declared *declared, const struct admin_topic *actual,
                      const struct admin_topic_settings *settings, int brokers, int64_t keeps_ms,
                      declared_say_fn *tell, void *owner)
{
    const struct comparison that = {declared, actual, settings, brokers, keeps_ms, tell, owner};
    char finding[TEXT_BYTES], advice[TEXT_BYTES], bytes[32];
    if (actual->partitions < declared->partitions) {
        snprintf(finding, sizeof(finding),
                 "%d of %d declared partitions: no more instances share its work than there are partitions",
                 actual->partitions, declared->partitions);
        snprintf(advice, sizeof(advice),
                 "kafka-topics --alter --topic %s --partitions %d, while nothing is on its way: keys move",
                 declared->name, declared->partitions);
        say(&that, finding, advice);
    }
    compare_replicas(&that);
    if (!settings->known)
        return;
    compare_cleanup(&that);
    compare_retention(&that);
    if (declared->message_bytes_max && settings->message_bytes_max < declared->message_bytes_max) {
        snprintf(finding, sizeof(finding), "max.message.bytes is %lld: the copy of a large record is refused",
                 (long long)settings->message_bytes_max);
        snprintf(bytes, sizeof(bytes), "%lld", (long long)declared->message_bytes_max);
        say_config(&that, finding, "max.message.bytes", bytes);
    }
}
