/*
 * The relay against random histories of three processes on one PostgreSQL: real stores, real relays, Kafka in
 * memory.
 *
 * A unit of work raises the counters of some keys and puts each new number into the outbox, under the key's
 * row lock, as a service does. Between its reading and its commit others work, on other keys; beats,
 * rebalances, releases that do not wait, full queues, fatal producers, crashes with records under way that
 * arrive later, burials of the living. At the end of a history, for each key: all that was committed is on
 * the topic, and in order where it stands first.
 *
 * test_relay_model SEED is one history again; RELAY_HISTORIES says how many.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "flow/relay.h"
#include "store/rows.h"
#include "support/cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    HISTORIES = 16,
    STEPS = 120,
    PROCESSES = 3,
    PARTS = 4,
    KEYS = 8,
    KEYS_IN_A_WORK = 3,
    UNDER_WAY_MAX = 4096,
    SETTLE_ROUNDS = 200,
};

/* ---- a table under whose row lock is written */

struct counter {
    struct text name;
    int64_t number;
};
static const struct rows_column COLUMNS[] = {
    ROWS_COLUMN(counter, name, ROWS_TEXT),
    ROWS_COLUMN(counter, number, ROWS_INT),
};
static const struct rows_table COUNTERS = {.name = "counters",
                                           .columns = COLUMNS,
                                           .column_count = 2,
                                           .key_count = 1,
                                           .row_bytes = sizeof(struct counter)};
static const struct rows_table *const TABLES[] = {&COUNTERS};

static uint64_t random_state;

static unsigned one_of(unsigned count)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)(random_state >> 33) % count;
}

/* ---- Kafka */

static uint64_t seed;
static int64_t last_of[KEYS]; /* on the topic: the highest, which came in order */
static struct cluster cluster;
static char url[CLUSTER_URL_BYTES];
static struct error error;

static int key_of(struct text key)
{
    return key.at[1] - '0';
}

static void arrive(int key, int64_t number)
{
    if (number <= last_of[key])
        return; /* again */
    if (number != last_of[key] + 1)
        fail_msg("seed %llu: key %d: %lld came after %lld", (unsigned long long)seed, key, (long long)number,
                 (long long)last_of[key]);
    last_of[key] = number;
}

struct producer {
    producer_report_fn *report;
    void *owner;
    bool fatal;
    size_t first, arrived, count; /* reported up to first, on the topic up to arrived */
    struct under_way {
        uint64_t tag;
        int key;
        int64_t number;
    } records[UNDER_WAY_MAX];
};

static struct producer
    *ghosts[PROCESSES * 4]; /* of processes that are dead: what is under way may still arrive */
static size_t ghost_count;
static struct producer *open_producers[PROCESSES];
static size_t open_count;
static bool queues_full;

static void arrive_some(struct producer *producer, size_t count)
{
    for (; count && producer->arrived < producer->count; count--, producer->arrived++)
        arrive(producer->records[producer->arrived].key, producer->records[producer->arrived].number);
}

static void report_some(struct producer *producer, size_t count)
{
    for (; count && producer->first < producer->arrived; count--)
        producer->report(producer->owner, producer->records[producer->first++].tag, OK, 0, 0, NULL);
}

enum outcome producer_open(const struct producer_settings *settings, producer_report_fn *report, void *owner,
                           struct producer **ret, struct error *why)
{
    (void)settings;
    (void)why;
    *ret = calloc(1, sizeof(**ret));
    assert_non_null(*ret);
    (*ret)->report = report;
    (*ret)->owner = owner;
    assert_true(open_count < PROCESSES);
    open_producers[open_count++] = *ret;
    return OK;
}

enum outcome producer_send(struct producer *producer, const struct producer_record *record, uint64_t tag,
                           struct error *why)
{
    if (producer->count == UNDER_WAY_MAX || (queues_full && one_of(4) == 0))
        return error_retry(why, "queue-full", "full");
    producer->records[producer->count++] =
        (struct under_way){tag, key_of(record->key), strtoll(record->value.at, NULL, 10)};
    return OK;
}

void producer_go(struct producer *producer);
void producer_go(struct producer *producer)
{
    (void)producer;
}

bool producer_is_fatal(const struct producer *producer)
{
    return producer->fatal;
}

bool producer_refused(const struct producer *producer);
bool producer_refused(const struct producer *producer)
{
    (void)producer;
    return false;
}

const char *producer_denied(const struct producer *producer);
const char *producer_denied(const struct producer *producer)
{
    (void)producer;
    return NULL;
}

bool producer_connected(const struct producer *producer)
{
    return !producer->fatal;
}

/* What is under way may arrive, now or later, or not. */
void producer_close(struct producer *producer, int timeout_ms)
{
    (void)timeout_ms;
    for (size_t i = 0; i < open_count; i++)
        if (open_producers[i] == producer)
            open_producers[i] = open_producers[--open_count];
    arrive_some(producer, one_of(4));
    if (ghost_count < sizeof(ghosts) / sizeof(*ghosts))
        ghosts[ghost_count++] = producer;
    else
        free(producer);
}

static void ghosts_go(void)
{
    for (size_t i = 0; i < ghost_count; i++)
        if (one_of(3) == 0)
            arrive_some(ghosts[i], one_of(4));
}

/* ---- processes */

struct process {
    bool up;
    struct store *store;
    struct work *work, *spare; /* as in the loop: what one has committed is sent while the other waits */
    struct instances instances;
    struct relay *relay;
    bool in_work;
};
static struct process processes[PROCESSES];
static int assigned[PARTS]; /* by Kafka; -1: nobody, between two */

static void wake(void *owner)
{
    (void)owner;
}

static void send_meanwhile(void *owner)
{
    relay_send(owner);
}

static void start(struct process *process)
{
    const struct producer_settings settings = {.queue_records_max = UNDER_WAY_MAX};
    process->up = true;
    memset(&process->instances, 0, sizeof(process->instances));
    if (!process->store) { /* a connection is dear: the next life of the process has it too */
        assert_int_equal(store_open(url, "test", &process->store, &error), OK);
        assert_int_equal(store_migrate(process->store, TABLES, 1, NULL, 0, &error), OK);
        assert_int_equal(work_new(process->store, 8 << 20, &process->work, &error), OK);
        assert_int_equal(work_new(process->store, 8 << 20, &process->spare, &error), OK);
    }
    assert_int_equal(relay_open(&settings, wake, NULL, &process->relay, &error), OK);
    relay_share(process->relay, &process->instances);
    /* Without it all is sent at the latest moment. */
    store_meanwhile(process->store, one_of(2) ? send_meanwhile : NULL, process->relay);
}

/* Nothing of it is heard any more, but for what is under way. */
static void crash(struct process *process)
{
    store_meanwhile(process->store, NULL, NULL);
    relay_close(process->relay, 0);
    process->up = false;
}

static void leave(struct process *process)
{
    store_meanwhile(process->store, NULL, NULL);
    relay_close(process->relay, 0);
    instances_leave(process->store, &process->instances);
    process->up = false;
}

static void age(const struct process *process)
{
    char sql[200], id[ID_TEXT_BYTES];
    snprintf(sql, sizeof(sql),
             "UPDATE weir_test.instance SET beat_us = beat_us - 60000000 WHERE id = '%.*s'; SELECT 1",
             TEXT_ARG(id_to_text(process->instances.self, id)));
    cluster_do(url, sql);
}

/* As flow/sharing.c does it. */
static void beat(struct process *process, bool patient)
{
    struct instances *instances = &process->instances;
    bool busy[INSTANCE_PARTS_MAX] = {false};
    int32_t others = instances->others;
    instances->beat_us = 0;
    instances->part_count = PARTS;
    relay_send(process->relay);
    relay_parts(process->relay, busy);
    for (int part = 0; part < PARTS && instances->joined; part++) {
        bool wanted = others == 0 || assigned[part] == process - processes;
        if (wanted && !instances->wanted[part] && instances->owned[part])
            relay_look_again(process->relay);
        instances->wanted[part] = wanted;
        instances->busy[part] = patient && busy[part] && instances->owned[part] && !wanted;
    }
    enum outcome outcome = instances_beat(process->store, instances, &error);
    if (outcome == FATAL) { /* buried */
        assert_int_equal(error_exit_code(&error), EXIT_TRY_AGAIN);
        crash(process);
        return;
    }
    assert_int_equal(outcome, OK);
    if (instances->gained_count || (others && !instances->others))
        relay_look_again(process->relay);
}

static void step(unsigned busy_keys, bool nested);

/* A unit of work on keys that nobody has in hand; without any it serves the relay alone. */
static void turn(struct process *process, unsigned busy_keys, bool empty)
{
    unsigned keys = 0;
    enum outcome outcome = work_begin(process->work, &error);
    assert_int_equal(outcome, OK);
    process->in_work = true;
    relay_turn(process->relay, process->work);
    for (int i = 0; i < KEYS_IN_A_WORK && !empty; i++)
        keys |= 1U << one_of(KEYS);
    keys &= ~busy_keys;
    static const char *const names[KEYS] = {"k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7"};
    for (int key = 0; key < KEYS; key++)
        if (keys & 1U << key)
            rows_want(process->work, &COUNTERS, &(struct counter){.name = text_of(names[key])});
    outcome = work_read(process->work, &error);
    assert_int_equal(outcome, OK);
    while (!empty && one_of(3) == 0)
        step(busy_keys | keys, true);
    for (int key = 0; key < KEYS; key++) {
        if (!(keys & 1U << key))
            continue;
        struct counter *counter =
            rows_get(process->work, &COUNTERS, &(struct counter){.name = text_of(names[key])});
        assert_non_null(counter);
        char number[24];
        snprintf(number, sizeof(number), "%lld", (long long)++counter->number);
        outbox_add(process->work,
                   &(struct outbox_row){.topic = TEXT("t"),
                                        .partition = -1,
                                        .key = text_of(names[key]),
                                        .value = text_copy(work_arena(process->work),
                                                           (struct text){number, strlen(number) + 1})});
    }
    outcome = work_commit(process->work, &error);
    process->in_work = false;
    if (outcome == OK) {
        relay_committed(process->relay, process->work);
        struct work *work = process->work;
        process->work = process->spare;
        process->spare = work;
        if (one_of(3) == 0) /* the loop goes to sleep */
            relay_send(process->relay);
        return;
    }
    relay_rolled_back(process->relay);
    assert_int_equal(outcome, FATAL); /* buried meanwhile */
    assert_int_equal(error_exit_code(&error), EXIT_TRY_AGAIN);
    crash(process);
}

static struct producer *producer_of(struct process *process);

static void rebalance(void)
{
    for (int part = 0; part < PARTS; part++)
        if (one_of(2))
            assigned[part] = (int)one_of(PROCESSES + 1) - 1;
}

static void step(unsigned busy_keys, bool nested)
{
    struct process *process = &processes[one_of(PROCESSES)];
    unsigned what = one_of(40);
    clock_advance(one_of(100) * INT64_C(1000));
    ghosts_go();
    if (process->in_work) /* its loop is in a unit of work; only Kafka goes on */
        what = 30;
    if (!process->up) {
        if (!nested && one_of(2))
            start(process);
        return;
    }
    if (!process->instances.joined || what < 8)
        beat(process, what != 0);
    else if (what < 18)
        turn(process, busy_keys, false);
    else if (what < 24)
        turn(process, busy_keys, true);
    else if (what < 33) {
        struct producer *producer = producer_of(process);
        if (producer) {
            arrive_some(producer, one_of(6));
            report_some(producer, one_of(6));
        }
    } else if (what < 36)
        rebalance();
    else if (what == 36) {
        crash(process);
        age(process);
    } else if (what == 37)
        leave(process);
    else if (what == 38)
        age(process); /* stopped for a while; or somebody else has it under a lock, and nothing happens */
    else if (producer_of(process))
        producer_of(process)->fatal = one_of(2);
}

/* The relay does not show its producer: it is the one whose reports it owns. */
static struct producer *producer_of(struct process *process)
{
    for (size_t i = 0; i < open_count; i++)
        if (open_producers[i]->owner == process->relay)
            return open_producers[i];
    return NULL;
}

static void settle(void)
{
    queues_full = false;
    for (int part = 0; part < PARTS; part++)
        assigned[part] = part % PROCESSES;
    for (int round = 0; round < SETTLE_ROUNDS; round++) {
        clock_advance(INT64_C(1000000));
        ghosts_go();
        for (int i = 0; i < PROCESSES; i++) {
            struct process *process = &processes[i];
            if (!process->up) {
                start(process);
                beat(process, true);
            }
            beat(process, true);
            if (process->up)
                turn(process, ~0U, true);
            struct producer *producer = process->up ? producer_of(process) : NULL;
            if (producer && !producer->fatal) {
                arrive_some(producer, UNDER_WAY_MAX);
                report_some(producer, UNDER_WAY_MAX);
            }
        }
        if (round > 18 && round % 4 == 0 &&
            cluster_do(url, "SELECT coalesce(sum(events), 0)::bigint FROM weir_test.outbox_pack") == 0)
            return;
    }
    fail_msg(
        "seed %llu: %lld rows stay in the outbox", (unsigned long long)seed,
        (long long)cluster_do(url, "SELECT coalesce(sum(events), 0)::bigint FROM weir_test.outbox_pack"));
}

static void history(void)
{
    random_state = seed * UINT64_C(0x9e3779b97f4a7c15);
    memset(last_of, 0, sizeof(last_of));
    cluster_do(url, "TRUNCATE weir_test.outbox_pack, weir_test.instance, weir_test.part; "
                    "UPDATE weir_test.counters SET number = 0; SELECT 1");
    for (int part = 0; part < PARTS; part++)
        assigned[part] = -1;
    queues_full = one_of(2);
    for (int i = 0; i < STEPS; i++)
        step(0, false);
    settle();
    for (int key = 0; key < KEYS; key++) {
        char sql[100];
        snprintf(sql, sizeof(sql), "SELECT number FROM weir_test.counters WHERE name = 'k%d'", key);
        int64_t number = cluster_do(url, sql);
        if (last_of[key] != number)
            fail_msg("seed %llu: key %d: %lld on the topic of %lld", (unsigned long long)seed, key,
                     (long long)last_of[key], (long long)number);
    }
    for (int i = 0; i < PROCESSES; i++)
        if (processes[i].up)
            leave(&processes[i]);
    for (size_t i = 0; i < ghost_count; i++)
        free(ghosts[i]);
    ghost_count = 0;
}

static uint64_t only_seed;

static void whatever_happens_each_key_is_sent_whole_and_in_order(void **state)
{
    (void)state;
    const char *said = getenv("RELAY_HISTORIES");
    uint64_t count = said ? strtoull(said, NULL, 10) : HISTORIES;
    clock_hold(INT64_C(1800000000000000));
    cluster_make(&cluster, url);
    start(&processes[0]);
    cluster_do(
        url, "INSERT INTO weir_test.counters (name, number) SELECT 'k' || i, 0 FROM generate_series(0, 7) i; "
             "SELECT 1");
    leave(&processes[0]);
    for (seed = only_seed ? only_seed : 1; seed <= (only_seed ? only_seed : count); seed++)
        history();
    for (int i = 0; i < PROCESSES; i++) {
        work_destroy(processes[i].work);
        work_destroy(processes[i].spare);
        store_close(processes[i].store);
    }
    clock_release();
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_happens_each_key_is_sent_whole_and_in_order),
    };
    only_seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
    cluster_start(&cluster);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    cluster_remove(&cluster);
    return failed;
}
