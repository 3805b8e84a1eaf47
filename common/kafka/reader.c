#include "kafka/reader.h"
#include "base/clock.h"
#include "kafka/handle.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    READER_CLOSE_MS = 2000,
    READER_TOPICS_MAX = 256,
    READER_AGAIN_MS = 100, /* between two tries to open, while brokers start or elect */
};

struct reader_partition {
    int topic_index;
    int32_t number;
    int64_t end; /* where to stop */
    bool ended;
};

struct reader {
    struct handle handle; /* librdkafka's opaque: first */
    bool until_ends;
    char *topics[READER_TOPICS_MAX];
    int topic_count;
    struct reader_partition *partitions;
    size_t partition_count, open_count;
};

static void reader_free(void *owner)
{
    struct reader *reader = owner;
    for (int i = 0; i < reader->topic_count; i++)
        free(reader->topics[i]);
    free(reader->partitions);
    free(reader);
}

/* Only a person can help. */
static enum outcome denied(struct error *error, const char *text)
{
    error_set(error, FATAL, "denied", "%s", text);
    if (error)
        error->exit_code = EXIT_CONFIG;
    return FATAL;
}

/* The partitions of the topics that exist, into list. */
static enum outcome find_partitions(struct reader *reader, int timeout_ms, size_t *ret_missing,
                                    rd_kafka_topic_partition_list_t *list, struct error *error)
{
    const struct rd_kafka_metadata *metadata;
    const char *names[READER_TOPICS_MAX + 1] = {NULL};
    memcpy(names, reader->topics, (size_t)reader->topic_count * sizeof(names[0]));
    rd_kafka_resp_err_t err = handle_metadata(&reader->handle, names, timeout_ms, &metadata);
    char text[ERROR_TEXT_BYTES_MAX];
    if (err && handle_outcome(err) == OUTAGE && handle_trouble(&reader->handle, text, sizeof(text)))
        return error_outage(error, "kafka", "topics: %s", text);
    if (err)
        return handle_error(error, err, "topics", NULL);
    size_t missing = 0;
    for (int i = 0; i < reader->topic_count; i++) {
        int partitions = 0;
        for (int j = 0; j < metadata->topic_cnt; j++)
            if (strcmp(metadata->topics[j].topic, reader->topics[i]) == 0) {
                partitions = metadata->topics[j].partition_cnt;
                if (partitions == 0) /* it may be there: this broker cannot say yet */
                    err = metadata->topics[j].err;
            }
        missing += partitions == 0;
        for (int32_t number = 0; number < partitions; number++)
            rd_kafka_topic_partition_list_add(list, reader->topics[i], number);
    }
    for (int j = 0; j < metadata->topic_cnt; j++)
        if (handle_denied(metadata->topics[j].err)) {
            handle_denial(metadata->topics[j].err, "Read", "topic", metadata->topics[j].topic, text,
                          sizeof(text));
            rd_kafka_metadata_destroy(metadata);
            return denied(error, text);
        }
    rd_kafka_metadata_destroy(metadata);
    if (err && err != RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
        return handle_error(error, err, "topics", NULL);
    if (ret_missing)
        *ret_missing = missing;
    return OK;
}

/* Asks for all at once, and within the time-out: rd_kafka_query_watermark_offsets() ignores its own on 2.0.2.
 * at: a time in ms, or RD_KAFKA_OFFSET_BEGINNING or _END, which the protocol takes in a time's place. */
static enum outcome find_offsets(struct reader *reader, rd_kafka_topic_partition_list_t *list, int64_t at,
                                 int timeout_ms, struct error *error)
{
    for (int i = 0; i < list->cnt; i++) {
        list->elems[i].offset = at;
        list->elems[i].err = RD_KAFKA_RESP_ERR_NO_ERROR;
    }
    rd_kafka_resp_err_t err =
        list->cnt ? rd_kafka_offsets_for_times(reader->handle.rk, list, timeout_ms > 1 ? timeout_ms : 1) : 0;
    for (int i = 0; i < list->cnt && !err; i++)
        err = list->elems[i].err;
    return handle_error(error, err, "offsets", NULL);
}

/* Where to begin and where to stop, once. */
static enum outcome find_once(struct reader *reader, enum reader_from from, int64_t from_ms, int64_t until_us,
                              size_t *ret_missing, rd_kafka_topic_partition_list_t **ret_starts,
                              rd_kafka_topic_partition_list_t **ret_ends, struct error *error)
{
#define LEFT_MS (int)((until_us - clock_monotonic_us()) / 1000)
    rd_kafka_topic_partition_list_t *starts = rd_kafka_topic_partition_list_new(16), *ends = NULL;
    enum outcome outcome = find_partitions(reader, LEFT_MS, ret_missing, starts, error);
    if (outcome == OK) {
        ends = rd_kafka_topic_partition_list_copy(starts);
        outcome = find_offsets(reader, ends, RD_KAFKA_OFFSET_END, LEFT_MS, error);
    }
    if (outcome == OK && from != READER_END)
        outcome = find_offsets(reader, starts, from == READER_TIME ? from_ms : RD_KAFKA_OFFSET_BEGINNING,
                               LEFT_MS, error);
#undef LEFT_MS
    if (outcome == OK) {
        *ret_starts = starts;
        *ret_ends = ends;
        return OK;
    }
    rd_kafka_topic_partition_list_destroy(starts);
    if (ends)
        rd_kafka_topic_partition_list_destroy(ends);
    return outcome;
}

/* A broker that has just started answers, and does not lead yet what it is asked for. */
static enum outcome find(struct reader *reader, enum reader_from from, int64_t from_ms, int64_t until_us,
                         size_t *ret_missing, rd_kafka_topic_partition_list_t **ret_starts,
                         rd_kafka_topic_partition_list_t **ret_ends, struct error *error)
{
    for (;;) {
        enum outcome outcome =
            find_once(reader, from, from_ms, until_us, ret_missing, ret_starts, ret_ends, error);
        if (outcome != OUTAGE || clock_monotonic_us() + READER_AGAIN_MS * 1000 >= until_us)
            return outcome;
        poll(NULL, 0, READER_AGAIN_MS);
    }
}

static int topic_index_of(const struct reader *reader, const char *name)
{
    int i = 0;
    while (i < reader->topic_count && strcmp(reader->topics[i], name) != 0)
        i++;
    return i;
}

enum outcome reader_open(const struct client_settings *client, const char *const *topics,
                         enum reader_from from, int64_t from_ms, bool until_ends, int timeout_ms,
                         size_t *ret_missing, struct reader **ret, struct error *error)
{
    int64_t until_us = clock_monotonic_us() + (int64_t)timeout_ms * 1000;
    rd_kafka_topic_partition_list_t *starts = NULL, *ends = NULL;
    struct reader *reader = calloc(1, sizeof(*reader));
    if (!reader)
        return error_fatal(error, "memory", "reader: out of memory");
    handle_init(&reader->handle, client);
    reader->until_ends = until_ends;
    enum outcome outcome = OK;
    for (; *topics; topics++) {
        if (reader->topic_count == READER_TOPICS_MAX) {
            outcome = error_reject(error, "topics", "more than %d topics", READER_TOPICS_MAX);
            goto out;
        }
        if (!(reader->topics[reader->topic_count] = strdup(*topics))) {
            outcome = error_fatal(error, "memory", "reader: out of memory");
            goto out;
        }
        reader->topic_count++;
    }
    /* librdkafka wants a group's name also where partitions are taken by hand; nothing is joined and nothing
     * committed. */
    const char *more[] = {"group.id", "weir-reader", "enable.partition.eof", "true", NULL};
    rd_kafka_conf_t *conf;
    if ((outcome = handle_conf(&reader->handle, client, HANDLE_READER, more, &conf, error)) != OK)
        goto out;
    if ((outcome = handle_open(&reader->handle, HANDLE_READER, conf, error)) != OK)
        goto out;
    rd_kafka_poll_set_consumer(reader->handle.rk);
    if ((outcome = find(reader, from, from_ms, until_us, ret_missing, &starts, &ends, error)) != OK)
        goto out;
    reader->partitions = calloc(ends->cnt ? (size_t)ends->cnt : 1, sizeof(*reader->partitions));
    if (!reader->partitions) {
        outcome = error_fatal(error, "memory", "reader: out of memory");
        goto out;
    }
    for (int i = 0; i < ends->cnt; i++) {
        rd_kafka_topic_partition_t *start = &starts->elems[i];
        int64_t end = ends->elems[i].offset;
        if (from == READER_END || start->offset < 0 || start->offset > end)
            start->offset = end; /* nothing is as late as that time */
        bool ended = start->offset >= end;
        reader->partitions[reader->partition_count++] =
            (struct reader_partition){topic_index_of(reader, start->topic), start->partition, end, ended};
        reader->open_count += !ended;
    }
    outcome = handle_error(error, rd_kafka_assign(reader->handle.rk, starts), "assign", NULL);
out:
    if (starts)
        rd_kafka_topic_partition_list_destroy(starts);
    if (ends)
        rd_kafka_topic_partition_list_destroy(ends);
    if (outcome == OK)
        *ret = reader;
    else if (reader->handle.rk)
        handle_destroy(&reader->handle, READER_CLOSE_MS, reader_free, reader);
    else
        reader_free(reader);
    return outcome;
}

/* The partition has been read up to before offset. */
static void passed(struct reader *reader, const struct reader_partition *at, int64_t offset)
{
    struct reader_partition *partition = &reader->partitions[at - reader->partitions];
    if (!partition->ended && offset >= partition->end) {
        partition->ended = true;
        reader->open_count--;
    }
}

static const struct reader_partition *partition_of(const struct reader *reader,
                                                   const rd_kafka_message_t *message)
{
    const char *name = rd_kafka_topic_name(message->rkt);
    for (size_t i = 0; i < reader->partition_count; i++)
        if (reader->partitions[i].number == message->partition &&
            strcmp(reader->topics[reader->partitions[i].topic_index], name) == 0)
            return &reader->partitions[i];
    return NULL;
}

enum outcome reader_read(struct reader *reader, int timeout_ms, struct record *ret, bool *ret_record,
                         bool *ret_end, struct error *error)
{
    int64_t until_us = clock_monotonic_us() + (int64_t)timeout_ms * 1000;
    *ret_record = false;
    *ret_end = false;
    for (;;) {
        if (reader->until_ends && reader->open_count == 0) {
            *ret_end = true;
            return OK;
        }
        int64_t left_ms = (until_us - clock_monotonic_us()) / 1000;
        rd_kafka_message_t *message =
            rd_kafka_consumer_poll(reader->handle.rk, left_ms > 0 ? (int)left_ms : 0);
        if (!message && left_ms <= 0)
            return OK;
        if (!message)
            continue;
        const struct reader_partition *partition = message->rkt ? partition_of(reader, message) : NULL;
        if (message->err) {
            rd_kafka_resp_err_t err = message->err;
            enum outcome outcome = OK;
            if (err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
                if (partition)
                    passed(reader, partition,
                           message->offset); /* what is left may be markers without records */
            } else if (err == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED) {
                /* librdkafka looks for the coordinator of a group that is not used here: no ACL is owed for
                 * it. */
                handle_log(&reader->handle, 7, "GROUP", "reader: %s", rd_kafka_message_errstr(message));
            } else if ((outcome = handle_outcome(err)) == OUTAGE) {
                outcome = OK; /* librdkafka tries again; who reads sees that nothing comes */
                handle_log(&reader->handle, 4, "ERROR", "reader: %s", rd_kafka_message_errstr(message));
            } else if (handle_denied(err) && message->rkt) {
                char text[ERROR_TEXT_BYTES_MAX];
                handle_denial(err, "Read", "topic", rd_kafka_topic_name(message->rkt), text, sizeof(text));
                outcome = denied(error, text);
            } else {
                (void)handle_error(error, err, "read", rd_kafka_message_errstr(message));
            }
            rd_kafka_message_destroy(message);
            if (outcome != OK)
                return outcome;
            continue;
        }
        if (!partition || (reader->until_ends && message->offset >= partition->end)) {
            if (partition)
                passed(reader, partition, message->offset);
            rd_kafka_message_destroy(message); /* came after the start: the end that was has been passed */
            continue;
        }
        passed(reader, partition, message->offset + 1);
        int64_t timestamp_ms = rd_kafka_message_timestamp(message, NULL); /* the writer's word */
        if (timestamp_ms > RECORD_TIMESTAMP_MS_MAX)
            timestamp_ms = RECORD_TIMESTAMP_MS_MAX;
        *ret = (struct record){
            .topic = text_of(reader->topics[partition->topic_index]),
            .topic_index = partition->topic_index,
            .partition = message->partition,
            .offset = message->offset,
            .timestamp_ms = timestamp_ms > 0 ? timestamp_ms : 0,
            .key = {message->key, message->key_len},
            .value = {message->payload, message->len},
            .key_null = !message->key,
            .value_null = !message->payload,
            .message = message,
        };
        *ret_record = true;
        return OK;
    }
}

void reader_release(struct record *record)
{
    rd_kafka_message_destroy(record->message);
    record->message = NULL;
}

void reader_close(struct reader *reader)
{
    if (!reader)
        return;
    handle_destroy(&reader->handle, READER_CLOSE_MS, reader_free, reader);
}
