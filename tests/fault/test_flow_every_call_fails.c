/*
 * The loop while one thing fails: one scenario with a retry, records that wait, a dead letter that is
 * redriven and one that is dropped, run again and again; the n-th call of SQLite's files fails, then the n-th
 * allocation of SQLite and of the program, for every n. Kafka is in memory (sim/sim.h), and the process is
 * started again where it ended.
 *
 * At the end: each record took effect once, in the order of its key; what was dropped did not; nothing is
 * held, waits or is left in the outbox.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "flow/dispatch.h"
#include "sim/sim.h"
#include "support/placed.h"
#include "support/disk.h"
#include "support/scratch.h"
#include "wire/origin.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    TURNS_MAX = 3000,
    IDLE_TURNS = 40,
    LIVES_MAX = 20,
    BATCH = 4,
    DRAIN_STEP_US = 50000,
    ALLOCATIONS = 1000
};

#define WALL_US     INT64_C(1800000000000000)
#define FIRST_DELAY "retry.order.2s"

/* What is injected, in this order. The customer says what its handler does. */
static const struct scripted {
    const char *id, *key, *customer;
} script[] = {
    {"e0", "00000000-0000-7000-8000-000000000001", "shaky"}, /* fails once */
    {"e1", "00000000-0000-7000-8000-000000000001", "good"},  /* behind it */
    {"e2", "00000000-0000-7000-8000-000000000002", "bad"},   /* rejected until it is redriven */
    {"e3", "00000000-0000-7000-8000-000000000003", "never"}, /* uses up its attempts, and is dropped */
    {"e4", "00000000-0000-7000-8000-000000000003", "good"},  /* behind it */
    {"e5", "00000000-0000-7000-8000-000000000001", "good"},
};
enum { SCRIPTED = sizeof(script) / sizeof(script[0]) };
static const struct {
    const char *key, *seen;
} expected[] = {
    {"00000000-0000-7000-8000-000000000001", "e0e1e5"},
    {"00000000-0000-7000-8000-000000000002", "e2"},
    {"00000000-0000-7000-8000-000000000003", "e4"},
};

static struct line {
    struct sim sim;
    struct scratch scratch;
    struct config *config;
    struct registry *registry;
    struct metrics *metrics;
    struct store *store;
    struct dispatch *dispatch;
    struct error error;
    bool redriven[SCRIPTED], settled[SCRIPTED]; /* is on its way back; people have done their part */
    uint64_t progress;
    size_t turns, idle;
    bool ended;
    int64_t drain_left_ms;
    const char *what; /* fails */
    uint64_t at;
} line;

#define CHECK(what_, ...)                                                                                    \
    do {                                                                                                     \
        if (!(what_)) {                                                                                      \
            disk_whole();                                                                                    \
            memory_fail(0);                                                                                  \
            print_error("%s %llu fails: ", line.what, (unsigned long long)line.at);                          \
            print_error(__VA_ARGS__);                                                                        \
            print_error("\n");                                                                               \
            fail_msg("%s", #what_);                                                                          \
        }                                                                                                    \
    } while (0)

/* ---- the service */

struct effect_row {
    struct text order_id;
    struct text seen;
};
static const struct rows_column effect_columns[] = {
    ROWS_COLUMN(effect_row, order_id, ROWS_TEXT),
    ROWS_COLUMN(effect_row, seen, ROWS_TEXT),
};
static const struct rows_table effects_table = {
    .name = "effects",
    .columns = effect_columns,
    .column_count = 2,
    .key_count = 1,
    .row_bytes = sizeof(struct effect_row),
};

static bool shaken; /* "shaky" has failed, and not in a batch that was undone: told by its retry topic */

static enum outcome on_order_placed(struct work *work, const struct event *event, struct error *error)
{
    const struct order_placed *order = event->data;
    struct effect_row *row =
        rows_get(work, &effects_table, &(struct effect_row){.order_id = order->order_id});
    if (!row)
        row = rows_add(work, &effects_table, &(struct effect_row){.order_id = order->order_id});
    if (row) {
        /* locale says which one it is */
        row->seen =
            text_of(arena_print(work_arena(work), "%.*s%.*s", TEXT_ARG(row->seen), TEXT_ARG(order->locale)));
    }
    if (text_is(order->customer_id, "shaky") && !shaken)
        return error_retry(error, "shaky", "not yet");
    if (text_is(order->customer_id, "never"))
        return error_retry(error, "never", "whatever is done");
    if (text_is(order->customer_id, "bad") && !line.redriven[2])
        return error_reject(error, "bad", "not so");
    return OK;
}

static const struct subscription subscriptions[] = {
    {.type = &order_placed_type, .handle = on_order_placed, .ordering = ORDERED},
    {0},
};

static void no_answer(void *exchange, const struct answer *answer)
{
    (void)exchange;
    (void)answer;
}

/* ---- Kafka, and people */

static void inject(void)
{
    for (size_t i = 0; i < SCRIPTED; i++) {
        struct buffer value =
            placed_value(text_of(script[i].key), text_of(script[i].customer), text_of(script[i].id));
        const struct header headers[] = {{TEXT(HEADER_ID), text_of(script[i].id)},
                                         {TEXT(HEADER_TYPE), TEXT("weir.OrderPlaced")}};
        sim_append(&line.sim, TEXT("orders"), text_of(script[i].key), buffer_text(&value), headers, 2);
        buffer_free(&value);
    }
}

static size_t number_of(const struct sim_record *record)
{
    const struct header *id = header_find(record->headers, record->header_count, HEADER_ID);
    CHECK(id && id->value.length == 2, "a record of nobody on %.*s", TEXT_ARG(record->topic));
    return (size_t)(id->value.at[1] - '0');
}

/* A dead letter: e2 is sent back, e3 is dropped. */
static void settle(const struct sim_record *letter)
{
    size_t number = number_of(letter), count = 0;
    struct header headers[32];
    CHECK(number == 2 || number == 3, "e%zu is a dead letter", number);
    CHECK(text_is(header_find(letter->headers, letter->header_count, HEADER_CLASS)->value,
                  number == 2 ? "REJECT" : "RETRY"),
          "the class of e%zu", number);
    if (line.settled[number])
        return;
    for (size_t i = 0; i < letter->header_count; i++)
        if (!text_is(letter->headers[i].name, HEADER_ATTEMPT))
            headers[count++] = letter->headers[i];
    headers[count++] = (struct header){TEXT(HEADER_ATTEMPT), TEXT("0")};
    headers[count++] = (struct header){TEXT(HEADER_REDRIVES), TEXT("1")};
    if (number == 3)
        headers[count++] = (struct header){TEXT(HEADER_DROP), TEXT("a test")};
    line.settled[number] = line.redriven[number] = true;
    sim_append(&line.sim, TEXT(FIRST_DELAY), letter->key, letter->value, headers, count);
}

static struct sim_topic *topic_of(const char *name)
{
    for (size_t i = 0; i < line.sim.topic_count; i++)
        if (strcmp(line.sim.topics[i].name, name) == 0)
            return &line.sim.topics[i];
    return NULL;
}

static void look_at_letters(void)
{
    struct sim_topic *dead = topic_of("dlq.order");
    for (size_t i = 0; i < SIM_PARTITIONS; i++)
        for (size_t j = 0; j < dead->partitions[i].count; j++)
            settle(dead->partitions[i].records[j]);
}

static void on_appended(void *owner, const struct sim_record *record)
{
    (void)owner;
    shaken = shaken || (text_is(record->topic, FIRST_DELAY) && number_of(record) == 0);
}

static void on_turn(void *owner)
{
    (void)owner;
    CHECK(++line.turns < TURNS_MAX, "it does not come to rest");
    if (line.ended)
        return;
    clock_advance(200000);
    sim_settle(&line.sim, true);
    line.idle = line.sim.progress == line.progress ? line.idle + 1 : 0;
    line.progress = line.sim.progress;
    if (line.idle == IDLE_TURNS / 2)
        look_at_letters();
    if (line.idle > IDLE_TURNS) {
        line.ended = true;
        dispatch_stop(line.dispatch);
    }
}

static int64_t drain_left(void)
{
    clock_advance(DRAIN_STEP_US);
    return line.drain_left_ms -= DRAIN_STEP_US / 1000;
}

/* ---- lives of the process */

static enum outcome store_make(void)
{
    const struct rows_table *all[ROWS_TABLES_MAX] = {&effects_table};
    size_t count = 1;
    for (const struct rows_table *const *table = flow_tables; *table; table++)
        all[count++] = *table;
    enum outcome outcome = store_open(line.scratch.url, "order", &line.store, &line.error);
    if (outcome == OK)
        outcome = store_migrate(line.store, all, count, NULL, 0, &line.error);
    return outcome;
}

/* False: it ended before its time, and says why: it is started again. */
static bool life(void)
{
    static const int64_t delays_ms[] = {2000, 4000};
    line.store = NULL;
    line.dispatch = NULL;
    line.metrics = metrics_new();
    enum outcome outcome = OK;
    if (!line.metrics)
        outcome = error_retry(&line.error, "memory", "no metrics");
    if (outcome == OK)
        outcome = store_make();
    const struct dispatch_settings settings = {
        .service = "order",
        .subscriptions = subscriptions,
        .store = line.store,
        .registry = line.registry,
        .metrics = line.metrics,
        .client = {.bootstrap_servers = "nowhere:1", .client_id = "line", .config = line.config},
        .group_id = "weir-order",
        .retry_delays_ms = delays_ms,
        .retry_delay_count = 2,
        .config = line.config,
        .backlog_max = 1000,
        .answer = no_answer,
    };
    line.drain_left_ms = 1000;
    if (outcome == OK)
        outcome = dispatch_open(&settings, &line.dispatch, &line.error);
    if (outcome == OK) {
        outcome = dispatch_run(line.dispatch, drain_left, &line.error);
        dispatch_close(line.dispatch, 1000);
    }
    CHECK(outcome == OK || line.error.text[0], "it does not say why it ended");
    metrics_destroy(line.metrics);
    store_close(line.store);
    return outcome == OK;
}

static bool take_row(void *owner, const struct store_row *row)
{
    size_t *matched = owner;
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++)
        if (text_is(store_row_text(row, 0), expected[i].key)) {
            CHECK(text_is(store_row_text(row, 1), expected[i].seen), "%s: %.*s, not %s", expected[i].key,
                  TEXT_ARG(store_row_text(row, 1)), expected[i].seen);
            ++*matched;
        }
    return true;
}

static bool take_count(void *owner, const struct store_row *row)
{
    *(int64_t *)owner = store_row_int(row, 0);
    return true;
}

static int64_t rows_left(void)
{
    struct store_reader *reader;
    int64_t left = -1;
    assert_int_equal(store_reader_open(line.scratch.url, "order", &reader, &line.error), OK);
    assert_int_equal(
        store_read(reader,
                   "SELECT (SELECT count(*) FROM held) + (SELECT count(*) FROM waiting) + (SELECT "
                   "count(*) FROM outbox_pack)",
                   NULL, 0, take_count, &left, &line.error),
        OK);
    store_reader_close(reader);
    return left;
}

static void verify(void)
{
    struct store_reader *reader;
    size_t matched = 0;
    assert_int_equal(store_reader_open(line.scratch.url, "order", &reader, &line.error), OK);
    assert_int_equal(
        store_read(reader, "SELECT order_id, seen FROM effects", NULL, 0, take_row, &matched, &line.error),
        OK);
    store_reader_close(reader);
    CHECK(matched == 3, "%zu of the keys took effect", matched);
    CHECK(rows_left() == 0, "%lld rows are held, wait or were not sent", (long long)rows_left());
    CHECK(line.settled[2] && line.settled[3], "a dead letter is missing");
    CHECK(sim_left(&line.sim) == 0, "%zu records were not let go", sim_left(&line.sim));
}

/* break_it: sets up what fails once. Returns how many calls of each kind there were. */
static void scenario(const char *what, uint64_t at, void (*break_it)(uint64_t at), uint64_t *ret_disk,
                     uint64_t *ret_memory)
{
    static const char *const topics[] = {"orders", "dlq.order", FIRST_DELAY, "retry.order.4s", NULL};
    static char *arguments[] = {"--flood-share", "0", "--flood-count", "0", "--batch-count-max", "4", NULL};
    const struct setting *const tables[] = {kafka_settings, flow_settings};
    memset(&line, 0, sizeof(line));
    line.what = what;
    line.at = at;
    shaken = false;
    clock_hold(WALL_US);
    assert_int_equal(config_read(tables, 2, 6, arguments, &line.config, &line.error), OK);
    scratch_make(&line.scratch);
    assert_int_equal(registry_open(NULL, &line.registry, &line.error), OK);
    sim_open(&line.sim, 1, topics);
    line.sim.turn = on_turn;
    line.sim.appended = on_appended;
    inject();

    disk_whole();
    memory_fail(0);
    if (break_it)
        break_it(at);
    size_t lives = 0;
    for (bool again = false;;) {
        if (life() && line.ended) {
            if (!again) {
                *ret_disk = disk_calls();
                *ret_memory = memory_calls();
            }
            disk_whole();
            memory_fail(0);
            /* An acknowledgement for which there was no memory is asked for again at the next start. */
            if (again || rows_left() == 0)
                break;
            again = true;
        }
        CHECK(++lives < LIVES_MAX, "it ends again and again: %s", line.error.text);
        sim_restart(&line.sim);
        line.ended = false;
        line.idle = 0;
    }
    verify();
    registry_close(line.registry);
    config_destroy(line.config);
    scratch_remove(&line.scratch);
    sim_close(&line.sim);
    clock_release();
}

static void disk_fails(uint64_t at)
{
    disk_fail(at, 1, false);
}

static void disk_fills(uint64_t at)
{
    disk_fail(at, 3, true);
}

static void memory_fails(uint64_t at)
{
    memory_fail(at);
}

static void nothing_fails_and_the_scenario_is_what_it_says(void **state)
{
    uint64_t disk, memory;
    (void)state;
    scenario("nothing", 0, NULL, &disk, &memory);
    assert_true(disk > 100);
}

static void the_nth_call_of_the_disk_fails_for_every_n(void **state)
{
    uint64_t disk, memory, calls;
    (void)state;
    scenario("nothing", 0, NULL, &calls, &memory);
    for (uint64_t n = 1; n <= calls; n++) {
        scenario("disk call", n, disk_fails, &disk, &memory);
        scenario("disk, full from call", n, disk_fills, &disk, &memory);
    }
}

static void the_nth_allocation_fails_for_every_n(void **state)
{
    uint64_t disk, memory, calls;
    (void)state;
    scenario("nothing", 0, memory_fails, &disk, &calls);
    assert_true(calls > 100);
    /* All of them take minutes, most in making the same tables; by default one in a few, others each time the
     * scenario changes. */
    uint64_t step = getenv("EVERY_ALLOCATION") ? 1 : 1 + calls / ALLOCATIONS;
    print_message("%llu allocations, one in %llu fails\n", (unsigned long long)calls,
                  (unsigned long long)step);
    for (uint64_t n = 1; n <= calls; n += step)
        scenario("allocation", n, memory_fails, &disk, &memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_fails_and_the_scenario_is_what_it_says),
        cmocka_unit_test(the_nth_call_of_the_disk_fails_for_every_n),
        cmocka_unit_test(the_nth_allocation_fails_for_every_n),
    };
    log_open("line", (enum log_level)(LOG_ERROR + 1), "text");
    disk_install();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
