#include "kafka/consumer.h"
#include "base/clock.h"
#include "base/fault.h"
#include "kafka/handle.h"
#include "kafka/offsets.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum {
    CONSUMER_QUEUE_RECORDS_MAX = 20000,
    CONSUMER_QUEUE_BYTES_MAX = 32 << 20,
    CONSUMER_QUEUE_FIRST = 256,
    CONSUMER_RECORD_BYTES = 128, /* what a record costs beside its key and value */
    CONSUMER_COMMIT_INTERVAL_MS = 200,
    CONSUMER_REVOKE_WAIT_MS = 5000,
    CONSUMER_TOPICS_MAX = 64,
    CONSUMER_PULL_MAX = 256,  /* records under one lock */
    CONSUMER_WAKE_SHARE = 4,  /* fetchers are woken once that part of the bound of their queue was taken */
    CONSUMER_EVENTS_MAX = 64, /* events of the group before records get their turn */
    CONSUMER_SEEK_MS = 1000,
    CONSUMER_SEEK_AGAIN_MS = 100,
    CONSUMER_CLOSE_MIN_MS = 200,
    COMMIT_ANSWER_MS = 10000,  /* unanswered for so long: another may be sent */
    COMMIT_OPEN_MAX = 4,       /* sent and unanswered: librdkafka keeps them for minutes where brokers hang */
    COMMIT_AGAIN_MS = 1000,    /* after one that failed */
    FIRST_ASK_MS = 500,        /* for the partitions of the first topic */
    FIRST_ASK_AGAIN_MS = 2000, /* … where nobody answered */
    OFFSETS_ASK_AGAIN_MS = 2000, /* for offsets that the coordinator did not tell */
    COMMIT_LAST_MS = 2000,       /* for the one of a revoke or a close */
    MARKS_MAX = 32,
    MARK_APART_MS = 1000,
};

enum partition_state { PARTITION_AWAY, PARTITION_OURS, PARTITION_REVOKING };

/*
 * Lives until the consumer is closed, once it was seen. A generation begins with an assignment and with each
 * rewind: a record of an earlier one is stale, and whatever is said of it is ignored.
 */
struct partition {
    int topic_index;
    int32_t number;
    enum partition_state state;
    uint32_t generation;
    struct offsets *offsets;
    size_t in_hand;   /* taken in this generation, and not given back */
    int64_t position; /* the next offset that may be queued; -1 before the first */
#ifdef WEIR_MUTANT_OFFSETS_EARLY
    int64_t taken;
#endif
    int64_t first;     /* of this assignment, -1 */
    int64_t committed; /* as the broker has it, -1 none */
    bool committed_known;
    bool held, paused; /* paused: at librdkafka; held without it: about to be */
    int64_t hold_offset, hold_until_us;
    /* Timestamps of some of the records that are queued or in hand, about a second apart: the age of the
     * oldest. */
    struct mark {
        int64_t offset, timestamp_ms;
    } marks[MARKS_MAX];
    size_t mark_first, mark_count;
};

struct subscribed_topic {
    char *name;
    struct text text;
    struct partition **partitions;
    int32_t partition_count;
};

struct consumer {
    struct handle handle; /* librdkafka's opaque: first */
    struct consumer_settings settings;
    char *group_id;
    struct subscribed_topic topics[CONSUMER_TOPICS_MAX]; /* lock: more are added, none goes */
    int topic_count, topic_last;
    int64_t session_ms;

    pthread_t thread;
    int kick_fd; /* eventfd: something to do for the poll thread; librdkafka writes to it as well */
    rd_kafka_queue_t *group_queue;   /* rebalances and errors: served all the time */
    rd_kafka_queue_t *record_queue;  /* records: served while there is room */
    rd_kafka_queue_t *control_queue; /* answers to commits */

    atomic_uint pauses;
    atomic_bool ready, fatal, stopping, closing;
    atomic_uint rebalances;
    _Atomic int32_t first_count;     /* partitions of the first topic, 0: not known */
    _Atomic int64_t brokers_gone_us; /* since when no connection is up; 0 where one is */
    atomic_bool denied;              /* fatal because the principal may not */
    char fatal_text[256];            /* written once, before fatal is set */

    pthread_mutex_t lock;    /* all below, and the partitions */
    pthread_cond_t returned; /* a record came back while a revoke waits */
    uint32_t generation;
    struct record *ring;
    size_t ring_capacity, ring_first, ring_count, ring_bytes;
    bool full, starved; /* starved: the loop found nothing */
    int revoking;       /* partitions that a revoke waits for */
    int held_count;

    /* The poll thread's own. */
    size_t wake_records, wake_bytes;     /* bounds of librdkafka's queue where fetchers_sleep, else 0 */
    size_t pulled_records, pulled_bytes; /* since they were woken */
    int commits_open;
    int64_t commit_sent_us, commit_next_us;
    int64_t first_ask_us;   /* when to ask for the partitions of the first topic; 0: not now */
    int64_t offsets_ask_us; /* when to look whether some are unknown; 0: all are known */
    int64_t close_until_us;
};

static struct partition *partition_of(const struct consumer *consumer, int topic_index, int32_t number)
{
    const struct subscribed_topic *topic = &consumer->topics[topic_index];
    return number < topic->partition_count ? topic->partitions[number] : NULL;
}

static int topic_index_of(struct consumer *consumer, const char *name)
{
    if (strcmp(consumer->topics[consumer->topic_last].name, name) == 0)
        return consumer->topic_last;
    for (int i = 0; i < consumer->topic_count; i++)
        if (strcmp(consumer->topics[i].name, name) == 0)
            return consumer->topic_last = i;
    return -1;
}

/* For who does not hold the lock: these stay, whatever is added. */
static int topic_count_of(struct consumer *consumer)
{
    pthread_mutex_lock(&consumer->lock);
    int count = consumer->topic_count;
    pthread_mutex_unlock(&consumer->lock);
    return count;
}

/* Finds or makes; NULL when out of memory. Lock held. */
static struct partition *partition_get(struct consumer *consumer, const char *name, int32_t number)
{
    int index = topic_index_of(consumer, name);
    if (index < 0 || number < 0)
        return NULL;
    struct subscribed_topic *topic = &consumer->topics[index];
    if (number >= topic->partition_count) {
        struct partition **grown = realloc(topic->partitions, ((size_t)number + 1) * sizeof(*grown));
        if (!grown)
            return NULL;
        memset(grown + topic->partition_count, 0,
               (size_t)(number + 1 - topic->partition_count) * sizeof(*grown));
        topic->partitions = grown;
        topic->partition_count = number + 1;
    }
    if (!topic->partitions[number]) {
        struct partition *partition = calloc(1, sizeof(*partition));
        if (!partition)
            return NULL;
        partition->topic_index = index;
        partition->number = number;
        topic->partitions[number] = partition;
    }
    return topic->partitions[number];
}

static void kick(struct consumer *consumer)
{
    uint64_t one = 1;
    ssize_t written = write(consumer->kick_fd, &one, sizeof(one)); /* full means that it is kicked already */
    (void)written;
}

static void wake(struct consumer *consumer)
{
    if (consumer->settings.wake)
        consumer->settings.wake(consumer->settings.wake_owner);
}

static void become_fatal(struct consumer *consumer, const char *text)
{
    if (atomic_load(&consumer->fatal)) /* the poll thread's alone */
        return;
    snprintf(consumer->fatal_text, sizeof(consumer->fatal_text), "%s", text);
    atomic_store_explicit(&consumer->fatal, true, memory_order_release);
    handle_log(&consumer->handle, 2, "FATAL", "consumer: %s", text);
    wake(consumer);
}

/* ---- the queue; lock held */

static struct record *ring_at(const struct consumer *consumer, size_t index)
{
    return &consumer->ring[(consumer->ring_first + index) & (consumer->ring_capacity - 1)];
}

static size_t record_bytes(const struct record *record)
{
    return record->key.length + record->value.length + CONSUMER_RECORD_BYTES;
}

static bool ring_add(struct consumer *consumer, const struct record *record)
{
    if (consumer->ring_count == consumer->ring_capacity) {
        size_t capacity = consumer->ring_capacity ? consumer->ring_capacity * 2 : CONSUMER_QUEUE_FIRST;
        struct record *ring = malloc(capacity * sizeof(*ring));
        if (!ring)
            return false;
        for (size_t i = 0; i < consumer->ring_count; i++)
            ring[i] = *ring_at(consumer, i);
        free(consumer->ring);
        consumer->ring = ring;
        consumer->ring_capacity = capacity;
        consumer->ring_first = 0;
    }
    consumer->ring_count++;
    consumer->ring_bytes += record_bytes(record);
    *ring_at(consumer, consumer->ring_count - 1) = *record;
    return true;
}

/* Takes out what is of the partition (NULL: all). */
static void ring_purge(struct consumer *consumer, const struct partition *partition)
{
    size_t kept = 0;
    for (size_t i = 0; i < consumer->ring_count; i++) {
        struct record *record = ring_at(consumer, i);
        if (partition &&
            (record->topic_index != partition->topic_index || record->partition != partition->number)) {
            *ring_at(consumer, kept++) = *record;
            continue;
        }
        consumer->ring_bytes -= record_bytes(record);
        rd_kafka_message_destroy(record->message);
    }
    consumer->ring_count = kept;
    consumer->full = consumer->full && kept > 0;
}

static void generation_begin(struct consumer *consumer, struct partition *partition)
{
    partition->generation = ++consumer->generation;
    partition->in_hand = 0;
    partition->mark_count = 0;
}

static void mark(struct partition *partition, int64_t offset, int64_t timestamp_ms)
{
    if (partition->mark_count == MARKS_MAX)
        return; /* an older one stands for it */
    if (partition->mark_count) {
        const struct mark *last =
            &partition->marks[(partition->mark_first + partition->mark_count - 1) % MARKS_MAX];
        if (timestamp_ms < last->timestamp_ms + MARK_APART_MS)
            return;
    }
    partition->marks[(partition->mark_first + partition->mark_count++) % MARKS_MAX] =
        (struct mark){offset, timestamp_ms};
}

static int64_t oldest_ms(struct partition *partition)
{
    int64_t watermark = offsets_watermark(partition->offsets);
    if (partition->position < 0 || watermark >= partition->position) {
        partition->mark_count = 0;
        return 0;
    }
    while (partition->mark_count > 1 &&
           partition->marks[(partition->mark_first + 1) % MARKS_MAX].offset <= watermark) {
        partition->mark_first = (partition->mark_first + 1) % MARKS_MAX;
        partition->mark_count--;
    }
    return partition->mark_count ? partition->marks[partition->mark_first].timestamp_ms : 0;
}

/* The log's beginning has passed what the group had committed: what was between is gone, and somebody must
 * know. */
static void check_start(struct consumer *consumer, struct partition *partition)
{
    if (partition->first < 0 || !partition->committed_known || partition->committed < 0 ||
        partition->first <= partition->committed)
        return;
    int64_t low = -1, high = -1;
    const char *name = consumer->topics[partition->topic_index].name;
    if (rd_kafka_get_watermark_offsets(consumer->handle.rk, name, partition->number, &low, &high) == 0 &&
        low > partition->committed)
        handle_log(&consumer->handle, 3, "RESET",
                   "%s [%d]: offsets %lld to %lld were deleted by the broker before this group had read them",
                   name, (int)partition->number, (long long)partition->committed, (long long)low - 1);
}

/* ---- the poll thread: records */

static bool record_of(struct consumer *consumer, rd_kafka_message_t *message, struct record *ret)
{
    int index = topic_index_of(consumer, rd_kafka_topic_name(message->rkt));
    struct partition *partition = index < 0 ? NULL : partition_of(consumer, index, message->partition);
    if (!partition || partition->state != PARTITION_OURS || partition->held)
        return false;
    if (message->offset < partition->position) {
        /* The log was cut off behind us (an unclean election) and reading began again lower down. What is
         * there is new: it must not be passed over, and the commit has to go back with it. */
        handle_log(&consumer->handle, 3, "RESET", "%s [%d]: went back from offset %lld to %lld",
                   consumer->topics[index].name, (int)message->partition, (long long)partition->position,
                   (long long)message->offset);
        struct offsets *offsets = offsets_new();
        if (!offsets)
            return false;
        offsets_destroy(partition->offsets);
        partition->offsets = offsets;
        ring_purge(consumer, partition);
        generation_begin(consumer, partition);
        partition->committed = -1;
    }
    int64_t timestamp_ms = rd_kafka_message_timestamp(message, NULL);
    *ret = (struct record){
        .topic = consumer->topics[index].text,
        .topic_index = index,
        .partition = message->partition,
        .offset = message->offset,
        .timestamp_ms = timestamp_ms < 0                         ? 0
                        : timestamp_ms < RECORD_TIMESTAMP_MS_MAX ? timestamp_ms
                                                                 : RECORD_TIMESTAMP_MS_MAX,
        .key = {message->key, message->key_len},
        .value = {message->payload, message->len},
        .key_null = !message->key,
        .value_null = !message->payload,
        .generation = partition->generation,
        .message = message,
    };
    partition->position = message->offset + 1;
    mark(partition, message->offset, ret->timestamp_ms);
    if (partition->first < 0) {
        partition->first = message->offset;
        check_start(consumer, partition);
    }
    return true;
}

/* Queues what is still wanted, destroys the rest. */
static void enqueue(struct consumer *consumer, rd_kafka_message_t **messages, size_t count)
{
    size_t refused = 0;
    bool wanted = false;
    pthread_mutex_lock(&consumer->lock);
    for (size_t i = 0; i < count; i++) {
        struct record record;
        if (!atomic_load_explicit(&consumer->stopping, memory_order_relaxed) &&
            record_of(consumer, messages[i], &record)) {
            if (ring_add(consumer, &record))
                continue;
            /* Out of memory: read it again a little later, rather than leave a hole. */
            struct partition *partition = partition_of(consumer, record.topic_index, record.partition);
            partition->position = record.offset;
            if (!partition->held)
                consumer->held_count++;
            partition->held = true;
            partition->hold_offset = record.offset;
            partition->hold_until_us = clock_monotonic_us() + CONSUMER_SEEK_AGAIN_MS * 1000;
        }
        messages[refused++] = messages[i];
    }
    if (consumer->ring_count >= (size_t)consumer->settings.queue_records_max ||
        consumer->ring_bytes >= consumer->settings.queue_bytes_max)
        consumer->full = true;
    if (consumer->starved && consumer->ring_count) {
        consumer->starved = false;
        wanted = true;
    }
    pthread_mutex_unlock(&consumer->lock);
    if (wanted)
        wake(consumer);
    for (size_t i = 0; i < refused; i++)
        rd_kafka_message_destroy(messages[i]);
}

/* The topic that a refusal is about, where librdkafka says it in the text only. */
static const char *topic_in(struct consumer *consumer, const char *reason)
{
    char quoted[300];
    int count = topic_count_of(consumer);
    for (int i = 0; i < count; i++) {
        snprintf(quoted, sizeof(quoted), ": %s: ", consumer->topics[i].name);
        if (strstr(reason, quoted))
            return consumer->topics[i].name;
    }
    return "(unknown)";
}

static void denial_of(struct consumer *consumer, rd_kafka_resp_err_t err, const char *reason,
                      const char *topic, char *into, size_t into_bytes)
{
    char denial[200];
    if (err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED) {
        topic = topic ? topic : topic_in(consumer, reason);
        handle_denial(err, "Read", "topic", topic, denial, sizeof(denial));
        snprintf(into, into_bytes, "topic %s: %s", topic, denial);
    } else {
        handle_denial(err, "Read", "group", consumer->group_id, denial, sizeof(denial));
        snprintf(into, into_bytes, "group %s: %s", consumer->group_id, denial);
    }
}

/* topic: NULL where it is not known. */
static void on_failure(struct consumer *consumer, rd_kafka_resp_err_t err, const char *reason,
                       const char *topic)
{
    char text[256];
    if (err == RD_KAFKA_RESP_ERR__FATAL) {
        rd_kafka_resp_err_t cause = rd_kafka_fatal_error(consumer->handle.rk, text, sizeof(text));
        become_fatal(consumer, cause ? text : reason);
        return;
    }
    bool login =
        err == RD_KAFKA_RESP_ERR__AUTHENTICATION || err == RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED;
    if (handle_denied(err)) {
        denial_of(consumer, err, reason, topic, text, sizeof(text));
        atomic_store(&consumer->denied, true);
    } else {
        snprintf(text, sizeof(text), "%s (%s)", reason, rd_kafka_err2name(err));
    }
    /* librdkafka says it once that a topic or the group is forbidden, and is silent from then on. A refused
     * login it tries again for ever, and an operator may mend it. */
    if (handle_outcome(err) == FATAL && !login)
        become_fatal(consumer, text);
    else
        handle_log(&consumer->handle, login ? 3 : 4, "ERROR", "consumer: %s", text);
}

static void on_failed_message(struct consumer *consumer, rd_kafka_message_t *message)
{
    char text[256];
    snprintf(text, sizeof(text), "%s%s%s", message->rkt ? rd_kafka_topic_name(message->rkt) : "",
             message->rkt ? ": " : "", rd_kafka_message_errstr(message));
    on_failure(consumer, message->err, text, message->rkt ? rd_kafka_topic_name(message->rkt) : NULL);
    rd_kafka_message_destroy(message);
}

/* Well before what is left in librdkafka's queue is used up. */
static void wake_fetchers(struct consumer *consumer)
{
    if (consumer->pulled_records < consumer->wake_records / CONSUMER_WAKE_SHARE + 1 &&
        consumer->pulled_bytes < consumer->wake_bytes / CONSUMER_WAKE_SHARE)
        return;
    consumer->pulled_records = consumer->pulled_bytes = 0;
    handle_wake_fetchers(&consumer->handle);
}

/*
 * Moves records over while there is room. librdkafka's own queue is the reservoir: not serving it makes its
 * fetchers stop by themselves. rd_kafka_pause_partitions() in its place would throw away what they had
 * fetched, each time. One at a time: the batch call skips and repeats around seeks on 2.0.x. True: there may
 * be more.
 */
static bool pull(struct consumer *consumer)
{
    if (atomic_load(&consumer->pauses) || atomic_load(&consumer->stopping))
        return false;
    pthread_mutex_lock(&consumer->lock);
    size_t room = consumer->full ? 0 : (size_t)consumer->settings.queue_records_max - consumer->ring_count;
    pthread_mutex_unlock(&consumer->lock);
    if (room == 0)
        return false;
    if (room > CONSUMER_PULL_MAX)
        room = CONSUMER_PULL_MAX;

    rd_kafka_message_t *messages[CONSUMER_PULL_MAX];
    size_t count = 0, asked = 0;
    for (; asked < room; asked++) {
        rd_kafka_message_t *message = rd_kafka_consume_queue(consumer->record_queue, 0);
        if (!message)
            break;
        if (message->err) {
            on_failed_message(consumer, message);
            continue;
        }
        consumer->pulled_bytes += message->key_len + message->len;
        messages[count++] = message;
    }
    consumer->pulled_records += count;
    if (count)
        enqueue(consumer, messages, count);
    if (consumer->handle.fetchers_sleep)
        wake_fetchers(consumer);
    return asked == room;
}

/* Records of the partition go to record_queue. librdkafka's own choice, the group's queue, could not be left
 * unserved without leaving rebalances unserved too. */
static void forward_partition(struct consumer *consumer, const char *topic, int32_t number)
{
    rd_kafka_queue_t *queue = rd_kafka_queue_get_partition(consumer->handle.rk, topic, number);
    if (!queue)
        return;
    rd_kafka_queue_forward(queue, consumer->record_queue);
    rd_kafka_queue_destroy(queue);
}

/* ---- the poll thread: commits */

static int64_t now_us(void)
{
    return clock_monotonic_us();
}

static int64_t offset_to_commit(const struct partition *partition)
{
#ifdef WEIR_MUTANT_OFFSETS_EARLY
    return partition->taken; /* and not what is done: a test of the promise must notice */
#else
    return offsets_watermark(partition->offsets);
#endif
}

/* Sends the watermarks that the broker does not have yet. False when there was nothing to send. */
static bool commit_send(struct consumer *consumer)
{
    rd_kafka_topic_partition_list_t *list = NULL;
    pthread_mutex_lock(&consumer->lock);
    for (int i = 0; i < consumer->topic_count; i++) {
        const struct subscribed_topic *topic = &consumer->topics[i];
        for (int32_t number = 0; number < topic->partition_count; number++) {
            const struct partition *partition = topic->partitions[number];
            if (!partition || partition->state == PARTITION_AWAY)
                continue;
            int64_t watermark = offset_to_commit(partition);
            if (watermark < 0 || watermark == partition->committed)
                continue;
            if (!list)
                list = rd_kafka_topic_partition_list_new(8);
            rd_kafka_topic_partition_list_add(list, topic->name, number)->offset = watermark;
        }
    }
    pthread_mutex_unlock(&consumer->lock);
    if (!list)
        return false;
    FAULT(consumer_before_commit);
    /* Never the synchronous form: it does not come back for minutes where brokers hang. */
    rd_kafka_resp_err_t err =
        rd_kafka_commit_queue(consumer->handle.rk, list, consumer->control_queue, NULL, NULL);
    rd_kafka_topic_partition_list_destroy(list);
    consumer->commit_sent_us = now_us();
    if (err) {
        consumer->commit_next_us = consumer->commit_sent_us + COMMIT_AGAIN_MS * 1000;
        return false;
    }
    consumer->commits_open++;
    FAULT(consumer_after_commit);
    return true;
}

static void on_committed(struct consumer *consumer, rd_kafka_resp_err_t err,
                         const rd_kafka_topic_partition_list_t *list)
{
    consumer->commits_open--;
    pthread_mutex_lock(&consumer->lock);
    for (int i = 0; list && i < list->cnt; i++) {
        const rd_kafka_topic_partition_t *element = &list->elems[i];
        if (element->err && !err)
            err = element->err;
        struct partition *partition = partition_get(consumer, element->topic, element->partition);
        if (element->err || err || !partition || partition->state == PARTITION_AWAY)
            continue;
        /* One of an earlier assignment may be answered now: it says nothing about this one. */
        if (element->offset <= offset_to_commit(partition)) {
            partition->committed = element->offset;
            partition->committed_known = true;
        }
    }
    pthread_mutex_unlock(&consumer->lock);
    if (!err || err == RD_KAFKA_RESP_ERR__NO_OFFSET)
        return;
    /* The watermark is still ahead of what is committed, so that the next turn sends it again: in the new
     * generation after a rebalance, if the partition is still ours. */
    consumer->commit_next_us = now_us() + COMMIT_AGAIN_MS * 1000;
    if (handle_outcome(err) == FATAL)
        on_failure(consumer, err, "offset commit", NULL);
    else if (err != RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS && err != RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION &&
             err != RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID)
        handle_log(&consumer->handle, 5, "COMMIT", "offset commit failed, to be sent again: %s",
                   rd_kafka_err2str(err));
}

/* Committed offsets as the group had them before this assignment: for lag, and to see whether the log has
 * passed them. */
static void on_group_offsets(struct consumer *consumer, rd_kafka_event_t *event)
{
    const rd_kafka_ListConsumerGroupOffsets_result_t *result =
        rd_kafka_event_ListConsumerGroupOffsets_result(event);
    size_t count = 0;
    const rd_kafka_group_result_t **groups =
        result ? rd_kafka_ListConsumerGroupOffsets_result_groups(result, &count) : NULL;
    const rd_kafka_topic_partition_list_t *list = count == 1 && !rd_kafka_group_result_error(groups[0])
                                                      ? rd_kafka_group_result_partitions(groups[0])
                                                      : NULL;
    pthread_mutex_lock(&consumer->lock);
    for (int i = 0; list && i < list->cnt; i++) {
        const rd_kafka_topic_partition_t *element = &list->elems[i];
        struct partition *partition = partition_get(consumer, element->topic, element->partition);
        if (!partition || partition->state == PARTITION_AWAY || element->err || partition->committed_known)
            continue;
        partition->committed = element->offset >= 0 ? element->offset : -1;
        partition->committed_known = true;
        check_start(consumer, partition);
    }
    pthread_mutex_unlock(&consumer->lock);
}

static void ask_group_offsets(struct consumer *consumer, const rd_kafka_topic_partition_list_t *list)
{
    if (list->cnt == 0)
        return;
    rd_kafka_ListConsumerGroupOffsets_t *ask =
        rd_kafka_ListConsumerGroupOffsets_new(consumer->group_id, list);
    rd_kafka_ListConsumerGroupOffsets(consumer->handle.rk, &ask, 1, NULL, consumer->control_queue);
    rd_kafka_ListConsumerGroupOffsets_destroy(ask);
    consumer->offsets_ask_us = now_us() + OFFSETS_ASK_AGAIN_MS * INT64_C(1000);
}

/* A coordinator that is starting does not know them yet. */
static void ask_group_offsets_again(struct consumer *consumer)
{
    if (!consumer->offsets_ask_us || now_us() < consumer->offsets_ask_us)
        return;
    consumer->offsets_ask_us = 0;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(0);
    pthread_mutex_lock(&consumer->lock);
    for (int i = 0; i < consumer->topic_count; i++)
        for (int32_t number = 0; number < consumer->topics[i].partition_count; number++) {
            const struct partition *partition = consumer->topics[i].partitions[number];
            if (partition && partition->state == PARTITION_OURS && !partition->committed_known)
                rd_kafka_topic_partition_list_add(list, consumer->topics[i].name, number);
        }
    pthread_mutex_unlock(&consumer->lock);
    ask_group_offsets(consumer, list);
    rd_kafka_topic_partition_list_destroy(list);
}

static void serve_control(struct consumer *consumer, int timeout_ms)
{
    rd_kafka_event_t *event;
    while ((event = rd_kafka_queue_poll(consumer->control_queue, timeout_ms))) {
        rd_kafka_event_type_t type = rd_kafka_event_type(event);
        if (type == RD_KAFKA_EVENT_OFFSET_COMMIT)
            on_committed(consumer, rd_kafka_event_error(event), rd_kafka_event_topic_partition_list(event));
        else if (type == RD_KAFKA_EVENT_LISTCONSUMERGROUPOFFSETS_RESULT)
            on_group_offsets(consumer, event);
        rd_kafka_event_destroy(event);
        timeout_ms = 0;
    }
}

static void serve_commits(struct consumer *consumer)
{
    serve_control(consumer, 0);
    int64_t now = now_us();
    bool may = consumer->commits_open == 0 || (consumer->commits_open < COMMIT_OPEN_MAX &&
                                               now - consumer->commit_sent_us > COMMIT_ANSWER_MS * 1000);
    if (!may || now < consumer->commit_next_us)
        return;
    consumer->commit_next_us = now + (int64_t)consumer->settings.commit_interval_ms * 1000;
    (void)commit_send(consumer);
}

/* The last commit of an assignment: sent now, and its answer waited for, within a bound. */
static void commit_last(struct consumer *consumer, int64_t until_us)
{
    if (consumer->commits_open >= COMMIT_OPEN_MAX || !commit_send(consumer))
        return;
    while (consumer->commits_open > 0) {
        int64_t left_ms = (until_us - now_us()) / 1000;
        if (left_ms <= 0)
            return;
        serve_control(consumer, (int)left_ms);
    }
}

/* ---- the poll thread: rebalances */

static bool cooperative(struct consumer *consumer)
{
    const char *protocol = rd_kafka_rebalance_protocol(consumer->handle.rk);
    return protocol && strcmp(protocol, "COOPERATIVE") == 0;
}

static void on_assign(struct consumer *consumer, rd_kafka_topic_partition_list_t *list)
{
    pthread_mutex_lock(&consumer->lock);
    for (int i = 0; i < list->cnt; i++) {
        struct partition *partition = partition_get(consumer, list->elems[i].topic, list->elems[i].partition);
        struct offsets *offsets = partition ? offsets_new() : NULL;
        if (!offsets) {
            pthread_mutex_unlock(&consumer->lock);
            become_fatal(consumer, "out of memory for an assignment");
            rd_kafka_assign(consumer->handle.rk, NULL);
            return;
        }
        offsets_destroy(partition->offsets);
        partition->offsets = offsets;
        partition->state = PARTITION_OURS;
#ifdef WEIR_MUTANT_OFFSETS_EARLY
        partition->taken = -1;
#endif
        partition->position = partition->first = partition->committed = -1;
        partition->committed_known = false;
        generation_begin(consumer, partition);
    }
    pthread_mutex_unlock(&consumer->lock);

    /* An application's pause survives a rebalance in librdkafka, and there is no call to ask for it. Ours are
     * taken back on revoke; here nothing is paused, and a resume of what runs would rewind it on 2.0.2. */
    for (int i = 0; i < list->cnt; i++)
        forward_partition(consumer, list->elems[i].topic, list->elems[i].partition);
    if (cooperative(consumer)) {
        rd_kafka_error_t *failed = rd_kafka_incremental_assign(consumer->handle.rk, list);
        if (failed) {
            handle_log(&consumer->handle, 3, "ASSIGN", "%s", rd_kafka_error_string(failed));
            rd_kafka_error_destroy(failed);
        }
    } else {
        rd_kafka_assign(consumer->handle.rk, list);
    }
    /* The end of an earlier assignment of the same partition may have undone the forwarding just now. */
    for (int i = 0; i < list->cnt; i++)
        forward_partition(consumer, list->elems[i].topic, list->elems[i].partition);
    ask_group_offsets(consumer, list);
    consumer->first_ask_us = now_us();
    atomic_fetch_add(&consumer->rebalances, 1);
    atomic_store(&consumer->ready, true);
}

/* An assignment may mean that the topic has grown. The brokers have just been talked to: the answer is near.
 */
static void ask_first(struct consumer *consumer)
{
    if (!consumer->first_ask_us || now_us() < consumer->first_ask_us || topic_count_of(consumer) == 0)
        return;
    consumer->first_ask_us = now_us() + FIRST_ASK_AGAIN_MS * INT64_C(1000);
    rd_kafka_topic_t *topic = rd_kafka_topic_new(consumer->handle.rk, consumer->topics[0].name, NULL);
    const struct rd_kafka_metadata *metadata = NULL;
    if (topic && rd_kafka_metadata(consumer->handle.rk, 0, topic, &metadata, FIRST_ASK_MS) ==
                     RD_KAFKA_RESP_ERR_NO_ERROR) {
        int32_t count =
            metadata->topic_cnt == 1 && !metadata->topics[0].err ? metadata->topics[0].partition_cnt : 0;
        if (count > 0) {
            consumer->first_ask_us = 0;
            atomic_store(&consumer->first_count, count);
            atomic_fetch_add(&consumer->rebalances, 1);
        }
        rd_kafka_metadata_destroy(metadata);
        wake(consumer);
    }
    if (topic)
        rd_kafka_topic_destroy(topic);
}

static size_t in_hand_of(struct consumer *consumer, const rd_kafka_topic_partition_list_t *list)
{
    size_t count = 0;
    for (int i = 0; i < list->cnt; i++) {
        const struct partition *partition =
            partition_get(consumer, list->elems[i].topic, list->elems[i].partition);
        count += partition && partition->state == PARTITION_REVOKING ? partition->in_hand : 0;
    }
    return count;
}

static struct timespec to_timespec(int64_t us)
{
    struct timespec from;
    clock_gettime(CLOCK_MONOTONIC, &from);
    int64_t ns = from.tv_nsec + (us % 1000000) * 1000;
    return (struct timespec){.tv_sec = from.tv_sec + us / 1000000 + ns / 1000000000,
                             .tv_nsec = ns % 1000000000};
}

static void on_revoke(struct consumer *consumer, rd_kafka_topic_partition_list_t *list, bool lost)
{
    pthread_mutex_lock(&consumer->lock);
    for (int i = 0; i < list->cnt; i++) {
        struct partition *partition = partition_get(consumer, list->elems[i].topic, list->elems[i].partition);
        if (!partition || partition->state == PARTITION_AWAY)
            continue;
        partition->state = lost ? PARTITION_AWAY : PARTITION_REVOKING;
        ring_purge(consumer, partition);
    }
    pthread_mutex_unlock(&consumer->lock);
    atomic_fetch_add(&consumer->rebalances, 1);
    wake(consumer);

    /* Lost means that somebody else may have them already: no commit, and nothing to wait for. */
    if (!lost) {
        int64_t wait_ms = atomic_load(&consumer->closing) ? 0 : consumer->settings.revoke_wait_ms;
        struct timespec until = to_timespec(wait_ms * 1000);
        pthread_mutex_lock(&consumer->lock);
        consumer->revoking++;
        while (wait_ms && in_hand_of(consumer, list) > 0 && !atomic_load(&consumer->closing))
            if (pthread_cond_timedwait(&consumer->returned, &consumer->lock, &until) == ETIMEDOUT)
                break;
        consumer->revoking--;
        pthread_mutex_unlock(&consumer->lock);
        int64_t commit_until_us = now_us() + COMMIT_LAST_MS * 1000;
        if (atomic_load(&consumer->closing) && consumer->close_until_us &&
            consumer->close_until_us < commit_until_us)
            commit_until_us = consumer->close_until_us;
        commit_last(consumer, commit_until_us);
    }

    rd_kafka_topic_partition_list_t *paused = rd_kafka_topic_partition_list_new(list->cnt);
    pthread_mutex_lock(&consumer->lock);
    for (int i = 0; i < list->cnt; i++) {
        struct partition *partition = partition_get(consumer, list->elems[i].topic, list->elems[i].partition);
        if (!partition)
            continue;
        partition->state = PARTITION_AWAY;
        generation_begin(consumer, partition);
        if (partition->paused)
            rd_kafka_topic_partition_list_add(paused, list->elems[i].topic, list->elems[i].partition);
        if (partition->held)
            consumer->held_count--;
        partition->held = partition->paused = false;
    }
    pthread_mutex_unlock(&consumer->lock);
    if (paused->cnt)
        rd_kafka_resume_partitions(consumer->handle.rk, paused);
    rd_kafka_topic_partition_list_destroy(paused);

    if (cooperative(consumer)) {
        rd_kafka_error_t *failed = rd_kafka_incremental_unassign(consumer->handle.rk, list);
        if (failed) {
            handle_log(&consumer->handle, 3, "ASSIGN", "%s", rd_kafka_error_string(failed));
            rd_kafka_error_destroy(failed);
        }
    } else {
        rd_kafka_assign(consumer->handle.rk, NULL);
    }
    if (lost)
        atomic_store(&consumer->ready, false);
    wake(consumer);
}

static void on_rebalance(rd_kafka_t *rk, rd_kafka_resp_err_t err, rd_kafka_topic_partition_list_t *list,
                         void *opaque)
{
    struct consumer *consumer = opaque;
    if (err == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
        on_assign(consumer, list);
        wake(consumer);
    } else if (err == RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS) {
        on_revoke(consumer, list, rd_kafka_assignment_lost(rk));
    } else {
        handle_log(&consumer->handle, 3, "ASSIGN", "rebalance failed: %s", rd_kafka_err2str(err));
        rd_kafka_assign(rk, NULL); /* the callback must always change the assignment */
    }
}

static void on_error(rd_kafka_t *rk, int err, const char *reason, void *opaque)
{
    (void)rk;
    struct consumer *consumer = opaque;
    if (err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN && !atomic_load(&consumer->brokers_gone_us))
        atomic_store(&consumer->brokers_gone_us, now_us());
    on_failure(consumer, (rd_kafka_resp_err_t)err, reason, NULL);
}

static int on_statistics(rd_kafka_t *rk, char *json, size_t bytes, void *opaque)
{
    (void)rk;
    struct consumer *consumer = opaque;
    if (handle_statistics_up(json, bytes)) {
        atomic_store(&consumer->brokers_gone_us, 0);
        handle_trouble_over(&consumer->handle);
    } else if (!atomic_load(&consumer->brokers_gone_us))
        atomic_store(&consumer->brokers_gone_us, now_us());
    return 0;
}

/* ---- the poll thread: holds */

/* A hold is pause, wait, resume, seek. The seek comes last: resume rewinds to the last record that was handed
 * out, and it is the seek that makes all that was fetched before it stale inside librdkafka. Returns when the
 * next is due. */
static int64_t serve_holds(struct consumer *consumer)
{
    int64_t next_us = INT64_MAX;
    rd_kafka_topic_partition_list_t *pause = NULL, *seek = NULL;
    pthread_mutex_lock(&consumer->lock);
    if (consumer->held_count == 0) {
        pthread_mutex_unlock(&consumer->lock);
        return next_us;
    }
    int64_t now = now_us();
    for (int i = 0; i < consumer->topic_count; i++) {
        const struct subscribed_topic *topic = &consumer->topics[i];
        for (int32_t number = 0; number < topic->partition_count; number++) {
            struct partition *partition = topic->partitions[number];
            if (!partition || !partition->held || partition->state != PARTITION_OURS)
                continue;
            if (partition->hold_until_us <= now) {
                if (!seek)
                    seek = rd_kafka_topic_partition_list_new(8);
                rd_kafka_topic_partition_list_add(seek, topic->name, number)->offset = partition->hold_offset;
                continue;
            }
            if (!partition->paused) {
                partition->paused = true;
                if (!pause)
                    pause = rd_kafka_topic_partition_list_new(8);
                rd_kafka_topic_partition_list_add(pause, topic->name, number);
            }
            if (partition->hold_until_us < next_us)
                next_us = partition->hold_until_us;
        }
    }
    pthread_mutex_unlock(&consumer->lock);

    if (pause) {
        rd_kafka_pause_partitions(consumer->handle.rk, pause);
        rd_kafka_topic_partition_list_destroy(pause);
    }
    if (!seek)
        return next_us;
    rd_kafka_topic_partition_list_t *resume = rd_kafka_topic_partition_list_new(seek->cnt);
    pthread_mutex_lock(&consumer->lock);
    for (int i = 0; i < seek->cnt; i++) {
        struct partition *partition = partition_get(consumer, seek->elems[i].topic, seek->elems[i].partition);
        if (partition->paused)
            rd_kafka_topic_partition_list_add(resume, seek->elems[i].topic, seek->elems[i].partition);
        partition->paused = false;
    }
    pthread_mutex_unlock(&consumer->lock);
    if (resume->cnt)
        rd_kafka_resume_partitions(consumer->handle.rk, resume);
    rd_kafka_topic_partition_list_destroy(resume);
    rd_kafka_error_t *failed = rd_kafka_seek_partitions(consumer->handle.rk, seek, CONSUMER_SEEK_MS);

    pthread_mutex_lock(&consumer->lock);
    for (int i = 0; i < seek->cnt; i++) {
        struct partition *partition = partition_get(consumer, seek->elems[i].topic, seek->elems[i].partition);
        if (failed || seek->elems[i].err) {
            /* Records of it are thrown away as long as it is held, so trying again loses nothing. */
            partition->hold_until_us = now_us() + CONSUMER_SEEK_AGAIN_MS * 1000;
            next_us = partition->hold_until_us;
            continue;
        }
        partition->held = false;
        consumer->held_count--;
    }
    pthread_mutex_unlock(&consumer->lock);
    if (failed)
        rd_kafka_error_destroy(failed);
    rd_kafka_topic_partition_list_destroy(seek);
    return next_us;
}

/* ---- the poll thread */

static void serve_group(struct consumer *consumer)
{
    for (int i = 0; i < CONSUMER_EVENTS_MAX; i++) {
        rd_kafka_message_t *message = rd_kafka_consumer_poll(consumer->handle.rk, 0);
        if (!message)
            return;
        if (message->err) {
            on_failed_message(consumer, message);
            continue;
        }
        /* Fetched before the forwarding took hold: as good as any, even past the bound. */
        forward_partition(consumer, rd_kafka_topic_name(message->rkt), message->partition);
        enqueue(consumer, &message, 1);
    }
}

static void consumer_leave(struct consumer *consumer)
{
    rd_kafka_error_t *failed = rd_kafka_consumer_close_queue(consumer->handle.rk, consumer->control_queue);
    if (failed) {
        rd_kafka_error_destroy(failed);
        return;
    }
    while (!rd_kafka_consumer_closed(consumer->handle.rk)) {
        int64_t left_ms = (consumer->close_until_us - now_us()) / 1000;
        if (left_ms <= 0)
            return;
        rd_kafka_queue_poll_callback(consumer->control_queue, left_ms < 50 ? (int)left_ms : 50);
    }
}

static void *consumer_run(void *argument)
{
    struct consumer *consumer = argument;
    while (!atomic_load(&consumer->closing)) {
        serve_group(consumer);
        int64_t next_us = serve_holds(consumer);
        serve_commits(consumer);
        ask_group_offsets_again(consumer);
        ask_first(consumer);
        if (pull(consumer))
            continue;
        int64_t wait_ms = consumer->settings.commit_interval_ms;
        if (next_us != INT64_MAX) {
            int64_t left_ms = (next_us - now_us()) / 1000 + 1;
            wait_ms = left_ms < 0 ? 0 : left_ms < wait_ms ? left_ms : wait_ms;
        }
        struct pollfd waiting = {.fd = consumer->kick_fd, .events = POLLIN};
        if (poll(&waiting, 1, (int)wait_ms) > 0) {
            uint64_t kicks;
            ssize_t got = read(consumer->kick_fd, &kicks, sizeof(kicks));
            (void)got;
        }
    }
    /* The group's queue is about to be forwarded to another: its events would not reach the descriptor any
     * more. */
    commit_last(consumer, consumer->close_until_us - (consumer->close_until_us - now_us()) / 2);
    consumer_leave(consumer);
    return NULL;
}

/* ---- opening and closing */

static void consumer_release(void *owner)
{
    struct consumer *consumer = owner;
    for (int i = 0; i < consumer->topic_count; i++) {
        struct subscribed_topic *topic = &consumer->topics[i];
        for (int32_t number = 0; number < topic->partition_count; number++) {
            if (topic->partitions[number])
                offsets_destroy(topic->partitions[number]->offsets);
            free(topic->partitions[number]);
        }
        free(topic->partitions);
        free(topic->name);
    }
    free(consumer->ring);
    free(consumer->group_id);
    if (consumer->kick_fd >= 0)
        close(consumer->kick_fd);
    pthread_mutex_destroy(&consumer->lock);
    pthread_cond_destroy(&consumer->returned);
    free(consumer);
}

static enum outcome subscribe(struct consumer *consumer, struct error *error)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(CONSUMER_TOPICS_MAX);
    pthread_mutex_lock(&consumer->lock);
    for (int i = 0; i < consumer->topic_count; i++)
        rd_kafka_topic_partition_list_add(list, consumer->topics[i].name, RD_KAFKA_PARTITION_UA);
    pthread_mutex_unlock(&consumer->lock);
    rd_kafka_resp_err_t err = rd_kafka_subscribe(consumer->handle.rk, list);
    rd_kafka_topic_partition_list_destroy(list);
    return handle_error(error, err, "subscribe", NULL);
}

bool consumer_add_topic(struct consumer *consumer, const char *topic)
{
    struct error error;
    char *name = strdup(topic);
    pthread_mutex_lock(&consumer->lock);
    bool room = name && consumer->topic_count < CONSUMER_TOPICS_MAX;
    if (room)
        consumer->topics[consumer->topic_count++] =
            (struct subscribed_topic){.name = name, .text = text_of(name)};
    pthread_mutex_unlock(&consumer->lock);
    if (!room)
        free(name);
    return room && subscribe(consumer, &error) == OK;
}

static void queues_close(struct consumer *consumer)
{
    rd_kafka_queue_t *queues[] = {consumer->group_queue, consumer->record_queue, consumer->control_queue};
    for (size_t i = 0; i < 3; i++) {
        if (!queues[i])
            continue;
        rd_kafka_queue_io_event_enable(queues[i], -1, NULL, 0);
        rd_kafka_queue_destroy(queues[i]);
    }
}

/* A property as it is now; otherwise where it has no number above 0. */
static int64_t conf_number(const rd_kafka_conf_t *conf, const char *name, int64_t otherwise)
{
    char text[24];
    size_t bytes = sizeof(text);
    int64_t number;
    bool known = rd_kafka_conf_get(conf, name, text, &bytes) == RD_KAFKA_CONF_OK && bytes <= sizeof(text) &&
                 text_to_int64(text_of(text), &number) && number > 0;
    return known ? number : otherwise;
}

enum outcome consumer_open(const struct consumer_settings *settings, struct consumer **ret,
                           struct error *error)
{
    struct consumer *consumer = calloc(1, sizeof(*consumer));
    if (!consumer)
        return error_fatal(error, "memory", "consumer: out of memory");
    consumer->settings = *settings;
    struct consumer_settings *own = &consumer->settings;
    own->queue_records_max = own->queue_records_max ? own->queue_records_max : CONSUMER_QUEUE_RECORDS_MAX;
    own->queue_bytes_max = own->queue_bytes_max ? own->queue_bytes_max : CONSUMER_QUEUE_BYTES_MAX;
    own->commit_interval_ms = own->commit_interval_ms ? own->commit_interval_ms : CONSUMER_COMMIT_INTERVAL_MS;
    own->revoke_wait_ms = own->revoke_wait_ms ? own->revoke_wait_ms : CONSUMER_REVOKE_WAIT_MS;
    handle_init(&consumer->handle, &settings->client);
    pthread_mutex_init(&consumer->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&consumer->returned, &attributes);
    pthread_condattr_destroy(&attributes);
    consumer->starved = true;

    enum outcome outcome = OK;
    consumer->kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (consumer->kick_fd < 0) {
        outcome = error_fatal(error, "descriptors", "consumer: eventfd: %s", strerror(errno));
        goto out;
    }
    if (!(consumer->group_id = strdup(settings->group_id))) {
        outcome = error_fatal(error, "memory", "consumer: out of memory");
        goto out;
    }
    for (const char *const *topic = settings->topics; *topic; topic++) {
        assert(consumer->topic_count < CONSUMER_TOPICS_MAX);
        struct subscribed_topic *into = &consumer->topics[consumer->topic_count++];
        into->name = strdup(*topic);
        if (!into->name) {
            outcome = error_fatal(error, "memory", "consumer: out of memory");
            goto out;
        }
        into->text = text_of(into->name);
    }

    rd_kafka_conf_t *conf;
    const char *more[] = {"group.id", settings->group_id, NULL};
    if ((outcome = handle_conf(&consumer->handle, &settings->client, HANDLE_CONSUMER, more, &conf, error)) !=
        OK)
        goto out;
    consumer->session_ms = conf_number(conf, "session.timeout.ms", HANDLE_SESSION_MS);
    if (consumer->handle.fetchers_sleep) {
        consumer->wake_records = (size_t)conf_number(conf, "queued.min.messages", 1);
        consumer->wake_bytes = (size_t)conf_number(conf, "queued.max.messages.kbytes", 1) << 10;
    }
    rd_kafka_conf_set_rebalance_cb(conf, on_rebalance);
    rd_kafka_conf_set_error_cb(conf, on_error);
    rd_kafka_conf_set_stats_cb(conf, on_statistics);
    if ((outcome = handle_open(&consumer->handle, HANDLE_CONSUMER, conf, error)) != OK)
        goto out;

    rd_kafka_t *rk = consumer->handle.rk;
    rd_kafka_poll_set_consumer(rk);
    consumer->group_queue = rd_kafka_queue_get_consumer(rk);
    consumer->record_queue = rd_kafka_queue_new(rk);
    consumer->control_queue = rd_kafka_queue_new(rk);
    static const uint64_t one = 1;
    rd_kafka_queue_io_event_enable(consumer->group_queue, consumer->kick_fd, &one, sizeof(one));
    rd_kafka_queue_io_event_enable(consumer->record_queue, consumer->kick_fd, &one, sizeof(one));
    rd_kafka_queue_io_event_enable(consumer->control_queue, consumer->kick_fd, &one, sizeof(one));
    if ((outcome = subscribe(consumer, error)) != OK)
        goto out;
    if (pthread_create(&consumer->thread, NULL, consumer_run, consumer) != 0) {
        outcome = error_fatal(error, "memory", "consumer: no thread");
        goto out;
    }
    *ret = consumer;
    return OK;
out:
    if (consumer->handle.rk) {
        queues_close(consumer);
        handle_destroy(&consumer->handle, CONSUMER_CLOSE_MIN_MS, consumer_release, consumer);
    } else {
        pthread_mutex_destroy(&consumer->handle.log_lock);
        consumer_release(consumer);
    }
    return outcome;
}

void consumer_stop(struct consumer *consumer)
{
    pthread_mutex_lock(&consumer->lock);
    atomic_store(&consumer->stopping, true);
    ring_purge(consumer, NULL);
    pthread_mutex_unlock(&consumer->lock);
}

void consumer_close(struct consumer *consumer, int timeout_ms)
{
    if (!consumer)
        return;
    int64_t until_us = now_us() + (int64_t)timeout_ms * 1000;
    consumer_stop(consumer);
    pthread_mutex_lock(&consumer->lock);
    /* A quarter is kept for the end of the handle. */
    consumer->close_until_us = until_us - (int64_t)timeout_ms * 250;
    atomic_store(&consumer->closing, true);
    pthread_cond_broadcast(&consumer->returned);
    pthread_mutex_unlock(&consumer->lock);
    kick(consumer);
    pthread_join(consumer->thread, NULL);
    queues_close(consumer);
    consumer->group_queue = consumer->record_queue = consumer->control_queue = NULL;
    int64_t left_ms = (until_us - now_us()) / 1000;
    handle_destroy(&consumer->handle, left_ms > CONSUMER_CLOSE_MIN_MS ? (int)left_ms : CONSUMER_CLOSE_MIN_MS,
                   consumer_release, consumer);
}

/* ---- the loop's thread */

size_t consumer_take(struct consumer *consumer, struct record *ret_records, size_t count_max,
                     size_t bytes_max)
{
    size_t count = 0, bytes = 0;
    bool room = false;
    pthread_mutex_lock(&consumer->lock);
    while (count < count_max && consumer->ring_count && (count == 0 || bytes < bytes_max)) {
        struct record *record = ring_at(consumer, 0);
        struct partition *partition = partition_of(consumer, record->topic_index, record->partition);
        if (!offsets_take(partition->offsets, record->offset))
            break; /* too many in hand: some must be done first */
#ifdef WEIR_MUTANT_OFFSETS_EARLY
        partition->taken = record->offset + 1;
#endif
        partition->in_hand++;
        ret_records[count++] = *record;
        bytes += record_bytes(record);
        consumer->ring_bytes -= record_bytes(record);
        consumer->ring_first = (consumer->ring_first + 1) & (consumer->ring_capacity - 1);
        consumer->ring_count--;
    }
    if (consumer->ring_count == 0)
        consumer->starved = true;
    if (consumer->full && consumer->ring_count <= (size_t)consumer->settings.queue_records_max / 2 &&
        consumer->ring_bytes <= consumer->settings.queue_bytes_max / 2) {
        consumer->full = false;
        room = true;
    }
    pthread_mutex_unlock(&consumer->lock);
    if (room)
        kick(consumer);
    return count;
}

enum outcome record_headers(const struct record *record, struct arena *arena,
                            const struct header **ret_headers, size_t *ret_count, struct error *error)
{
    rd_kafka_headers_t *headers;
    *ret_headers = NULL;
    *ret_count = 0;
    rd_kafka_resp_err_t err = rd_kafka_message_headers(record->message, &headers);
    if (err == RD_KAFKA_RESP_ERR__NOENT)
        return OK;
    if (err)
        return error_reject(error, "headers", "headers cannot be read: %s", rd_kafka_err2str(err));
    size_t count = rd_kafka_header_cnt(headers), bytes = 0;
    struct header *into = arena_take(arena, count * sizeof(*into));
    if (!into)
        return error_retry(error, "memory", "no memory for %zu headers", count);
    for (size_t i = 0; i < count; i++) {
        const char *name;
        const void *value;
        size_t value_bytes;
        if (rd_kafka_header_get_all(headers, i, &name, &value, &value_bytes) != RD_KAFKA_RESP_ERR_NO_ERROR)
            return error_reject(error, "headers", "header %zu cannot be read", i);
        into[i] = (struct header){text_of(name), {value, value ? value_bytes : 0}};
        bytes += into[i].name.length + into[i].value.length;
    }
    /* Given in any case: the dead letter of a record that has too many of them has them all. */
    *ret_headers = into;
    *ret_count = count;
    if (count > HEADERS_COUNT_MAX)
        return error_reject(error, "headers", "%zu headers, at most %d are taken", count, HEADERS_COUNT_MAX);
    if (bytes > HEADERS_BYTES_MAX)
        return error_reject(error, "headers", "%zu bytes of headers, at most %d are taken", bytes,
                            HEADERS_BYTES_MAX);
    return OK;
}

static struct partition *owned(struct consumer *consumer, const struct record *record)
{
    struct partition *partition = partition_of(consumer, record->topic_index, record->partition);
    return partition && partition->generation == record->generation && partition->state != PARTITION_AWAY
               ? partition
               : NULL;
}

bool consumer_owns(struct consumer *consumer, const struct record *record)
{
    pthread_mutex_lock(&consumer->lock);
    bool result = owned(consumer, record) != NULL;
    pthread_mutex_unlock(&consumer->lock);
    return result;
}

static void release(struct consumer *consumer, struct record *records, size_t count)
{
    (void)consumer;
    for (size_t i = 0; i < count; i++) {
        rd_kafka_message_destroy(records[i].message);
        records[i].message = NULL;
    }
}

void consumer_done(struct consumer *consumer, struct record *records, size_t count)
{
    pthread_mutex_lock(&consumer->lock);
    for (size_t i = 0; i < count; i++) {
        struct partition *partition = owned(consumer, &records[i]);
        if (!partition)
            continue;
        offsets_done(partition->offsets, records[i].offset);
        partition->in_hand--;
    }
    if (consumer->revoking)
        pthread_cond_broadcast(&consumer->returned);
    pthread_mutex_unlock(&consumer->lock);
    release(consumer, records, count);
}

/* Lock held. The rewind begins at the lowest that is in hand: those below the record are stale from now on,
 * so that nobody could say any more that they are done. */
static void rewind_partition(struct consumer *consumer, struct partition *partition, int64_t offset,
                             int64_t delay_ms)
{
    int64_t lowest = offsets_lowest(partition->offsets);
    if (lowest >= 0 && lowest < offset)
        offset = lowest;
    offsets_forget_from(partition->offsets, offset);
    ring_purge(consumer, partition);
    generation_begin(consumer, partition);
    partition->position = offset;
    partition->held = true;
    partition->hold_offset = offset;
    partition->hold_until_us = now_us() + delay_ms * 1000;
    consumer->held_count++;
}

static void give_back(struct consumer *consumer, struct record *records, size_t count, int64_t delay_ms)
{
    bool rewound = false;
    pthread_mutex_lock(&consumer->lock);
    for (size_t i = 0; i < count; i++) {
        struct partition *partition = owned(consumer, &records[i]);
        if (!partition)
            continue;
        partition->in_hand--;
        if (partition->state == PARTITION_OURS && !partition->held && !atomic_load(&consumer->stopping)) {
            rewind_partition(consumer, partition, records[i].offset, delay_ms);
            rewound = true;
        }
    }
    if (consumer->revoking)
        pthread_cond_broadcast(&consumer->returned);
    pthread_mutex_unlock(&consumer->lock);
    release(consumer, records, count);
    if (rewound)
        kick(consumer);
}

void consumer_drop(struct consumer *consumer, struct record *records, size_t count)
{
    give_back(consumer, records, count, 0);
}

void consumer_hold(struct consumer *consumer, struct record *record, int64_t delay_ms)
{
    give_back(consumer, record, 1, delay_ms);
}

/* ---- any thread */

void consumer_pause(struct consumer *consumer, enum consumer_pause reason)
{
    atomic_fetch_or(&consumer->pauses, (unsigned)reason);
}

void consumer_resume(struct consumer *consumer, enum consumer_pause reason)
{
    unsigned before = atomic_fetch_and(&consumer->pauses, ~(unsigned)reason);
    if (before && !(before & ~(unsigned)reason))
        kick(consumer);
}

unsigned consumer_paused(const struct consumer *consumer)
{
    return atomic_load(&consumer->pauses);
}

unsigned consumer_rebalances(const struct consumer *consumer)
{
    return atomic_load(&consumer->rebalances);
}

int32_t consumer_first(struct consumer *consumer, bool *ret_owned, int32_t count_max)
{
    int32_t count = atomic_load(&consumer->first_count);
    pthread_mutex_lock(&consumer->lock);
    for (int32_t number = 0; number < count_max; number++) {
        const struct partition *partition = consumer->topic_count ? partition_of(consumer, 0, number) : NULL;
        ret_owned[number] = partition && partition->state == PARTITION_OURS;
    }
    pthread_mutex_unlock(&consumer->lock);
    return count < count_max ? count : count_max;
}

bool consumer_ready(const struct consumer *consumer)
{
    int64_t gone_us = atomic_load(&consumer->brokers_gone_us);
    return atomic_load(&consumer->ready) && (!gone_us || now_us() - gone_us <= consumer->session_ms * 1000);
}

bool consumer_trouble(struct consumer *consumer, char *into, size_t into_bytes)
{
    return handle_trouble(&consumer->handle, into, into_bytes);
}

bool consumer_denied(const struct consumer *consumer)
{
    return atomic_load(&consumer->denied);
}

const char *consumer_fatal(const struct consumer *consumer)
{
    return atomic_load_explicit(&consumer->fatal, memory_order_acquire) ? consumer->fatal_text : NULL;
}

size_t consumer_queued(const struct consumer *consumer)
{
    struct consumer *locked = (struct consumer *)(uintptr_t)consumer;
    pthread_mutex_lock(&locked->lock);
    size_t count = consumer->ring_count;
    pthread_mutex_unlock(&locked->lock);
    return count;
}

void consumer_each(struct consumer *consumer,
                   void (*each)(void *owner, const struct consumer_partition *partition), void *owner)
{
    pthread_mutex_lock(&consumer->lock);
    for (int i = 0; i < consumer->topic_count; i++) {
        const struct subscribed_topic *topic = &consumer->topics[i];
        for (int32_t number = 0; number < topic->partition_count; number++) {
            struct partition *partition = topic->partitions[number];
            if (!partition || partition->state == PARTITION_AWAY)
                continue;
            int64_t low = -1, high = -1, lag = -1;
            /* What the last fetch said: no request. */
            if (rd_kafka_get_watermark_offsets(consumer->handle.rk, topic->name, number, &low, &high) != 0 ||
                high < 0)
                low = high = -1;
            int64_t read = partition->committed >= 0 ? partition->committed : low;
            if (partition->committed_known && high >= 0 && read >= 0)
                lag = high > read ? high - read : 0;
            each(owner, &(struct consumer_partition){.topic = topic->name,
                                                     .partition = number,
                                                     .committed = partition->committed,
                                                     .high = high,
                                                     .lag = lag,
                                                     .oldest_ms = oldest_ms(partition)});
        }
    }
    pthread_mutex_unlock(&consumer->lock);
}
