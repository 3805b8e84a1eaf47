#include "sim/sim.h"

#include "base/clock.h"
#include "wire/topic.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

struct consumer {
    struct sim *sim;
    unsigned paused;
    bool stopped;
    void (*wake)(void *owner);
    void *wake_owner;
};

struct producer {
    struct sim *sim;
    producer_report_fn *report;
    void *owner;
    bool fatal;
};

static struct sim *now; /* what consumer_open() and producer_open() find */

/* ---- chance: splitmix64 */

uint64_t sim_random(struct sim *sim)
{
    uint64_t z = (sim->random += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

size_t sim_below(struct sim *sim, size_t bound)
{
    return (size_t)(sim_random(sim) % bound);
}

bool sim_one_in(struct sim *sim, unsigned n)
{
    return n && sim_below(sim, n) == 0;
}

/* ---- topics */

static struct sim_topic *topic_of(struct sim *sim, struct text name)
{
    for (size_t i = 0; i < sim->topic_count; i++)
        if (text_is(name, sim->topics[i].name))
            return &sim->topics[i];
    fprintf(stderr, "sim: no topic %.*s\n", TEXT_ARG(name));
    abort();
}

void sim_open(struct sim *sim, uint64_t seed, const char *const *topics)
{
    *sim = (struct sim){.random = seed, .arena = arena_new(SIZE_MAX / 4)};
    assert(sim->arena && !now);
    for (; *topics; topics++) {
        assert(sim->topic_count < SIM_TOPICS_MAX);
        snprintf(sim->topics[sim->topic_count++].name, sizeof(sim->topics[0].name), "%s", *topics);
    }
    now = sim;
}

void sim_close(struct sim *sim)
{
    for (size_t i = 0; i < sim->topic_count; i++)
        for (size_t j = 0; j < SIM_PARTITIONS; j++)
            free(sim->topics[i].partitions[j].records);
    free(sim->sent);
    arena_destroy(sim->arena);
    now = NULL;
}

/* The world does not end with the program's memory: where an allocation was made to fail, the next is not. */
static void *take(struct sim *sim, size_t bytes)
{
    void *taken = arena_take_zeroed(sim->arena, bytes);
    return taken ? taken : arena_take_zeroed(sim->arena, bytes);
}

static void *grow(void *list, size_t bytes)
{
    void *grown = realloc(list, bytes);
    return grown ? grown : realloc(list, bytes);
}

static struct text keep(struct sim *sim, struct text text)
{
    struct text kept = text_copy(sim->arena, text);
    return kept.at || !text.at ? kept : text_copy(sim->arena, text);
}

static struct sim_record *record_new(struct sim *sim, struct text topic, int32_t partition, struct text key,
                                     struct text value, const struct header *headers, size_t header_count)
{
    struct sim_record *record = take(sim, sizeof(*record));
    struct header *copies = take(sim, (header_count + 1) * sizeof(*copies));
    assert(record && copies);
    for (size_t i = 0; i < header_count; i++)
        copies[i] = (struct header){keep(sim, headers[i].name), keep(sim, headers[i].value)};
    *record = (struct sim_record){
        .topic = text_of(topic_of(sim, topic)->name),
        .partition = partition >= 0 ? partition : topic_partition(key, SIM_PARTITIONS),
        .key = keep(sim, key),
        .value = keep(sim, value),
        .headers = copies,
        .header_count = header_count,
    };
    return record;
}

static void write_record(struct sim *sim, struct sim_record *record)
{
    struct sim_partition *partition = &topic_of(sim, record->topic)->partitions[record->partition];
    if (partition->count == partition->capacity) {
        partition->capacity = partition->capacity ? partition->capacity * 2 : 64;
        partition->records = grow(partition->records, partition->capacity * sizeof(struct sim_record *));
        assert(partition->records);
    }
    record->offset = (int64_t)partition->count;
    record->timestamp_ms = clock_wall_us() / 1000;
    partition->records[partition->count++] = record;
    sim->progress++;
    if (sim->appended)
        sim->appended(sim->owner, record);
}

void sim_append(struct sim *sim, struct text topic, struct text key, struct text value,
                const struct header *headers, size_t header_count)
{
    write_record(sim, record_new(sim, topic, -1, key, value, headers, header_count));
}

size_t sim_left(const struct sim *sim)
{
    size_t left = sim->sent_count;
    for (size_t i = 0; i < sim->read_count; i++)
        for (size_t j = 0; j < SIM_PARTITIONS; j++)
            left += sim->read[i]->partitions[j].count - sim->read[i]->partitions[j].committed;
    return left;
}

/* ---- what goes wrong */

void sim_wake(struct sim *sim)
{
    if (sim->consumer)
        sim->consumer->wake(sim->consumer->wake_owner);
}

void sim_crash(struct sim *sim)
{
    if (sim->crashed)
        return;
    sim->crashed = true;
    sim->crash(sim->owner);
}

static void generation_begin(struct sim_partition *partition, size_t position)
{
    for (size_t i = partition->committed; i < partition->count; i++) {
        partition->records[i]->in_hand = false;
        if (i >= position)
            partition->records[i]->done = false;
    }
    partition->position = position;
    partition->generation++;
}

/* Of what is on its way, the broker has written so much. */
static void lose(struct sim *sim, size_t written)
{
    for (size_t i = 0; i < written && i < sim->sent_count; i++)
        write_record(sim, sim->sent[i].record);
    sim->sent_count = 0;
}

void sim_restart(struct sim *sim)
{
    lose(sim, sim_below(sim, sim->sent_count + 1));
    for (size_t i = 0; i < sim->topic_count; i++)
        for (size_t j = 0; j < SIM_PARTITIONS; j++) {
            struct sim_partition *partition = &sim->topics[i].partitions[j];
            generation_begin(partition, partition->committed);
            partition->away = false;
            partition->held_until_us = 0;
        }
    sim->crashed = false;
}

void sim_rebalance(struct sim *sim, struct sim_partition *partition)
{
    (void)sim;
    partition->away = !partition->away;
    partition->held_until_us = 0;
    generation_begin(partition, partition->committed);
}

static void turn(struct sim *sim)
{
    if (!sim->crashed)
        sim->turn(sim->owner);
    sim_wake(sim);
}

/* ---- kafka/consumer.h */

enum outcome consumer_open(const struct consumer_settings *settings, struct consumer **ret,
                           struct error *error)
{
    struct consumer *consumer = calloc(1, sizeof(*consumer));
    if (!consumer)
        return error_fatal(error, "memory", "consumer: out of memory");
    *consumer = (struct consumer){.sim = now, .wake = settings->wake, .wake_owner = settings->wake_owner};
    now->consumer = *ret = consumer;
    now->read_count = 0;
    for (const char *const *topic = settings->topics; *topic; topic++)
        now->read[now->read_count++] = topic_of(now, text_of(*topic));
    return OK;
}

/* A few of one partition at a time, so that those of different ones are mixed. */
static size_t take_some(struct sim *sim, struct record *records, size_t count_max)
{
    size_t topic_index = sim_below(sim, sim->read_count), count = 0;
    int32_t number = (int32_t)sim_below(sim, SIM_PARTITIONS);
    struct sim_partition *partition = &sim->read[topic_index]->partitions[number];
    size_t wanted = 1 + sim_below(sim, 8);
    if (partition->away || partition->held_until_us > clock_monotonic_us())
        return 0;
    for (; count < count_max && count < wanted && partition->position < partition->count; count++) {
        struct sim_record *record = partition->records[partition->position++];
        record->in_hand = true;
        records[count] = (struct record){
            .topic = record->topic,
            .topic_index = (int)topic_index,
            .partition = number,
            .offset = record->offset,
            .timestamp_ms = record->timestamp_ms,
            .key = record->key,
            .value = record->value,
            .key_null = record->key_null,
            .value_null = record->value_null,
            .generation = partition->generation,
            .message = record,
        };
        if (sim->taken)
            sim->taken(sim->owner, record);
    }
    return count;
}

size_t consumer_take(struct consumer *consumer, struct record *ret_records, size_t count_max,
                     size_t bytes_max)
{
    struct sim *sim = consumer->sim;
    size_t count = 0;
    (void)bytes_max;
    turn(sim);
    if (consumer->stopped || sim->crashed || (consumer->paused && !sim_one_in(sim, 4)))
        return 0;
    size_t wanted = 1 + sim_below(sim, count_max);
    for (size_t tries = 0; tries < 24 && count < wanted; tries++)
        count += take_some(sim, ret_records + count, wanted - count);
    return count;
}

enum outcome record_headers(const struct record *record, struct arena *arena,
                            const struct header **ret_headers, size_t *ret_count, struct error *error)
{
    const struct sim_record *from = record->message;
    struct header *headers = arena_copy(arena, from->headers, (from->header_count + 1) * sizeof(*headers));
    if (!headers)
        return error_retry(error, "memory", "no memory for headers");
    *ret_headers = headers;
    *ret_count = from->header_count;
    return OK;
}

static struct sim_partition *owned(const struct consumer *consumer, const struct record *record)
{
    struct sim_partition *partition =
        &consumer->sim->read[record->topic_index]->partitions[record->partition];
    return partition->generation == record->generation && !partition->away ? partition : NULL;
}

bool consumer_owns(struct consumer *consumer, const struct record *record)
{
    struct sim *sim = consumer->sim;
    struct sim_partition *partition = owned(consumer, record);
    if (partition && sim_one_in(sim, sim->rebalance_one_in)) {
        sim_rebalance(sim, partition); /* the poll thread does not wait for a handler */
        return false;
    }
    return partition;
}

void consumer_done(struct consumer *consumer, struct record *records, size_t count)
{
    struct sim *sim = consumer->sim;
    if (!sim->crashed && sim_one_in(sim, sim->crash_one_in))
        sim_crash(sim);
    for (size_t i = 0; i < count && !sim->crashed; i++) {
        struct sim_partition *partition = owned(consumer, &records[i]);
        if (!partition)
            continue;
        struct sim_record *record = records[i].message;
        assert(record->in_hand);
        record->in_hand = false;
        record->done = true;
        sim->progress++;
        while (partition->committed < partition->position && partition->records[partition->committed]->done)
            partition->committed++;
    }
}

/* As the real one: from the lowest that is still in hand. */
static void rewind_to(struct sim_partition *partition, const struct record *record, int64_t delay_ms)
{
    size_t position = (size_t)record->offset;
    for (size_t i = partition->committed; i < position; i++)
        if (partition->records[i]->in_hand)
            position = i;
    generation_begin(partition, position);
    partition->held_until_us = clock_monotonic_us() + delay_ms * 1000;
}

void consumer_drop(struct consumer *consumer, struct record *records, size_t count)
{
    for (size_t i = 0; i < count; i++)
        consumer_hold(consumer, &records[i], 0);
}

void consumer_hold(struct consumer *consumer, struct record *record, int64_t delay_ms)
{
    struct sim_partition *partition = owned(consumer, record);
    if (partition) /* also after a crash was drawn: what the process itself knows holds until it ends */
        rewind_to(partition, record, delay_ms);
}

void consumer_pause(struct consumer *consumer, enum consumer_pause reason)
{
    consumer->paused |= reason;
}

void consumer_resume(struct consumer *consumer, enum consumer_pause reason)
{
    consumer->paused &= ~(unsigned)reason;
}

unsigned consumer_paused(const struct consumer *consumer)
{
    return consumer->paused;
}

bool consumer_denied(const struct consumer *consumer)
{
    (void)consumer;
    return false;
}

bool consumer_trouble(struct consumer *consumer, char *into, size_t into_bytes)
{
    (void)consumer;
    (void)into;
    (void)into_bytes;
    return false;
}

unsigned consumer_rebalances(const struct consumer *consumer)
{
    (void)consumer;
    return 0;
}

int32_t consumer_first(struct consumer *consumer, bool *ret_owned, int32_t count_max)
{
    (void)consumer;
    for (int32_t number = 0; number < count_max; number++)
        ret_owned[number] = number < SIM_PARTITIONS;
    return SIM_PARTITIONS;
}

bool consumer_ready(const struct consumer *consumer)
{
    (void)consumer;
    return true;
}

/* The loop asks each time that it has nothing to do. */
const char *consumer_fatal(const struct consumer *consumer)
{
    turn(consumer->sim);
    return NULL;
}

size_t consumer_queued(const struct consumer *consumer)
{
    (void)consumer;
    return 0;
}

void consumer_each(struct consumer *consumer,
                   void (*each)(void *owner, const struct consumer_partition *partition), void *owner)
{
    (void)consumer;
    (void)each;
    (void)owner;
}

bool consumer_add_topic(struct consumer *consumer, const char *topic)
{
    (void)consumer;
    (void)topic;
    return false;
}

void consumer_stop(struct consumer *consumer)
{
    consumer->stopped = true;
}

void consumer_close(struct consumer *consumer, int timeout_ms)
{
    (void)timeout_ms;
    consumer->sim->consumer = NULL;
    free(consumer);
}

/* ---- kafka/producer.h */

enum outcome producer_open(const struct producer_settings *settings, producer_report_fn *report, void *owner,
                           struct producer **ret, struct error *error)
{
    (void)settings;
    struct producer *producer = calloc(1, sizeof(*producer));
    if (!producer)
        return error_fatal(error, "memory", "producer: out of memory");
    *producer = (struct producer){.sim = now, .report = report, .owner = owner};
    now->producer = *ret = producer;
    return OK;
}

enum outcome producer_send(struct producer *producer, const struct producer_record *record, uint64_t tag,
                           struct error *error)
{
    struct sim *sim = producer->sim;
    if (!sim->crashed && sim_one_in(sim, sim->crash_one_in))
        sim_crash(sim);
    if (sim_one_in(sim, sim->queue_full_one_in))
        return error_retry(error, "queue-full", "the queue is full");
    producer->fatal = producer->fatal || sim_one_in(sim, sim->fatal_one_in);
    if (producer->fatal)
        return error_fatal(error, "fenced", "the producer is done for");
    if (sim->crashed)
        return OK;
    if (sim->sent_count == sim->sent_capacity) {
        sim->sent_capacity = sim->sent_capacity ? sim->sent_capacity * 2 : 256;
        sim->sent = grow(sim->sent, sim->sent_capacity * sizeof(*sim->sent));
        assert(sim->sent);
    }
    sim->sent[sim->sent_count++] = (struct sim_sent){
        record_new(sim, record->topic, record->partition, record->key, record->value, record->headers,
                   record->header_count),
        tag,
    };
    return OK;
}

void producer_go(struct producer *producer); /* a test decides what goes when */
void producer_go(struct producer *producer)
{
    (void)producer;
}

void sim_settle(struct sim *sim, bool all)
{
    size_t count = all ? sim->sent_count : sim_below(sim, sim->sent_count + 1);
    if (!count || !sim->producer || sim->producer->fatal || sim->crashed)
        return;
    for (size_t i = 0; i < count; i++) {
        write_record(sim, sim->sent[i].record);
        sim->producer->report(sim->producer->owner, sim->sent[i].tag, OK, 0, 0, NULL);
    }
    sim->sent_count -= count;
    memmove(sim->sent, sim->sent + count, sim->sent_count * sizeof(*sim->sent));
}

size_t producer_in_flight(const struct producer *producer)
{
    return producer->sim->sent_count;
}

bool producer_is_fatal(const struct producer *producer)
{
    return producer->fatal;
}

bool producer_refused(const struct producer *producer)
{
    (void)producer;
    return false;
}

/* Asked while the loop drains: time goes on, and what is in flight is written. */
const char *producer_denied(const struct producer *producer)
{
    (void)producer;
    return NULL;
}

bool producer_connected(const struct producer *producer)
{
    sim_settle(producer->sim, true);
    return true;
}

bool producer_flush(struct producer *producer, int timeout_ms)
{
    (void)timeout_ms;
    sim_settle(producer->sim, true);
    return true;
}

void producer_close(struct producer *producer, int timeout_ms)
{
    struct sim *sim = producer->sim;
    (void)timeout_ms;
    if (producer->fatal && !sim->crashed)
        lose(sim, sim_below(sim, sim->sent_count + 1));
    sim->producer = NULL;
    free(producer);
}
