/*
 * The waiting room against random histories: the real loop on a real SQLite file, Kafka in memory
 * (sim/sim.h).
 *
 * A history is a key: a few records that fail a few times, use up their attempts, are rejected, break a
 * constraint, find a dependency away, come twice; while the process crashes anywhere, the disk fails,
 * partitions come and go, and people redrive and drop what is dead, also twice, also what is dead no longer.
 * A few hundred keys share a world. At the end of each world:
 *
 *   every record took effect exactly once, or is dropped, or could never
 *
 *   the effects of a key stand in the order of arrival; only what was let go without may come later
 *
 *   nothing is held or waits but behind dead heads, and nothing at all once these are settled
 *
 *   the dead letters are those that were injected, each once a death, byte for byte
 *
 *   what a record said with its effect is on its topic, and nothing without
 *
 * test_waiting_room_model SEED is one world again; WAITING_ROOM_HISTORIES says how many keys in all.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "flow/dispatch.h"
#include "flow/letter.h"
#include "flow/retry.h"
#include "support/disk.h"
#include "support/scratch.h"
#include "sim/sim.h"
#include "support/placed.h"
#include "wire/origin.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    HISTORIES = 20000,
    KEYS = 250,
    RECORDS_MAX = 8, /* of a key */
    DEATHS_MAX = 2,
    LETTERS_MAX = 4000,
    DELIVERIES_MAX = 64,
    IDLE_TURNS = 80,
    TURNS_MAX = 400000,
    DRAIN_MS = 1000,
    DRAIN_STEP_US = 50000,
};

#define WALL_US INT64_C(1800000000000000)

/* What ends a life of a record; people give it the next one. */
enum fate { USED_UP, REJECTED, BREAKS };
enum hold { HOLD_USED_UP, HOLD_ALL, HOLD_NONE };

struct thing { /* a record as it was injected */
    size_t number, key, place;
    bool junk; /* cannot be decoded */
    bool doubled;
    bool emits;
    int deaths;
    enum fate fates[DEATHS_MAX];
    int fails; /* in its last life */
    int64_t away_until_us;
    struct text value;
    /* what was delivered last, by the number of the delivery */
    int deliveries, attempt, redrives;
    /* what was seen */
    uint64_t letters; /* a bit for each delivery that became one */
    int last_letter;
    bool free;                  /* its key went on without it */
    uint64_t redriven, dropped; /* asked for, by the delivery of the letter */
    int effects, confirmed;
};

struct model {
    uint64_t seed;
    struct sim sim;
    struct scratch scratch;
    struct config *config;
    struct registry *registry;
    struct metrics *metrics;
    struct store *store;
    struct dispatch *dispatch;
    struct error error;

    enum hold hold;
    int64_t delays_ms[3];
    size_t delay_count;
    bool flood, bad_store;

    struct thing things[KEYS * RECORDS_MAX];
    size_t count;
    size_t first_of[KEYS + 1]; /* things of a key stand together */
    size_t arrived_of[KEYS];
    size_t arrived;
    const struct sim_record *letters[LETTERS_MAX];
    size_t letter_count;

    enum { ARRIVING, SETTLING, PEOPLE, ENDED } phase;
    size_t turns, idle;
    uint64_t progress;
    bool stop; /* the loop was asked to */
    int64_t drain_left_ms;
};

static struct model *model; /* for the handler; one at a time */

#define CHECK(what, ...)                                                                                     \
    do {                                                                                                     \
        if (!(what)) {                                                                                       \
            print_error("seed %llu: ", (unsigned long long)model->seed);                                     \
            print_error(__VA_ARGS__);                                                                        \
            print_error("\n");                                                                               \
            fail_msg("%s", #what);                                                                           \
        }                                                                                                    \
    } while (0)

static size_t below(size_t bound)
{
    return sim_below(&model->sim, bound);
}

static bool per_cent(size_t chance)
{
    return below(100) < chance;
}

/* ---- the service */

struct effect_row {
    struct text order_id;
    int64_t count;
    struct text seen; /* places in the order of their effect, one letter each */
};
static const struct rows_column effect_columns[] = {
    ROWS_COLUMN(effect_row, order_id, ROWS_TEXT),
    ROWS_COLUMN(effect_row, count, ROWS_INT),
    ROWS_COLUMN(effect_row, seen, ROWS_TEXT),
};
static const struct rows_table effects_table = {
    .name = "effects",
    .columns = effect_columns,
    .column_count = 3,
    .key_count = 1,
    .row_bytes = sizeof(struct effect_row),
    .check = "count < 1000",
};

static void on_order_keys(struct work *work, const struct event *event)
{
    rows_want(work, &effects_table, &(struct effect_row){.order_id = event->key});
}

static enum outcome on_order_placed(struct work *work, const struct event *event, struct error *error)
{
    const struct order_placed *order = event->data;
    size_t number = strtoul(text_copy(work_arena(work), order->customer_id).at + 1, NULL, 10);
    struct thing *thing = &model->things[number];
    bool lives = thing->redrives >= thing->deaths;

    if (sim_one_in(&model->sim, model->sim.crash_one_in)) {
        sim_crash(&model->sim);
        return error_fatal(error, "crash", "the process dies");
    }
    if (clock_wall_us() < thing->away_until_us)
        return error_outage(error, "away", "a dependency is away");

    struct effect_row *row =
        rows_get(work, &effects_table, &(struct effect_row){.order_id = order->order_id});
    if (!row)
        row = rows_add(work, &effects_table, &(struct effect_row){.order_id = order->order_id});
    if (!row)
        return OK;
    row->count++;
    row->seen =
        text_of(arena_print(work_arena(work), "%.*s%c", TEXT_ARG(row->seen), (char)('a' + thing->place)));
    if (!lives) {
        switch (thing->fates[thing->redrives]) {
        case USED_UP:
            return error_retry(error, "never", "it fails whatever is done");
        case REJECTED:
            return error_reject(error, "bad", "it can never succeed");
        case BREAKS:
            row->count += 5000;
            return OK;
        }
    }
    if (thing->attempt < thing->fails)
        return error_retry(error, "shaky", "not yet");
    if (thing->emits) {
        char said[32];
        snprintf(said, sizeof(said), "said%zu.", number);
        const struct order_confirmed confirmed = {
            .order_id = order->order_id, .payment_id = text_of(said), .confirmed_at = 1};
        work_emit(work, &confirmed);
    }
    return OK;
}

static const struct subscription subscriptions[] = {
    {.type = &order_placed_type, .handle = on_order_placed, .keys = on_order_keys, .ordering = ORDERED},
    {0},
};

static void no_answer(void *exchange, const struct answer *answer)
{
    (void)exchange;
    (void)answer;
}

/* ---- what is seen on the topics */

static struct text header_of(const struct sim_record *record, const char *name)
{
    const struct header *header = header_find(record->headers, record->header_count, name);
    return header ? header->value : TEXT("");
}

static int number_of(const struct sim_record *record, const char *name)
{
    int64_t number = 0;
    return text_to_int64(header_of(record, name), &number) ? (int)number : 0;
}

/* NULL: something that the service said. */
static struct thing *thing_of(const struct sim_record *record)
{
    struct text id = header_of(record, HEADER_ID);
    int64_t number;
    if (id.length < 2 || id.at[0] != 'e' || !text_to_int64((struct text){id.at + 1, id.length - 1}, &number))
        return NULL;
    CHECK((size_t)number < model->count, "a record that nobody injected: %.*s", TEXT_ARG(id));
    return &model->things[number];
}

static void key_text(size_t key, char into[40])
{
    snprintf(into, 40, "%08x-0000-7000-8000-%012x", (unsigned)(key * 2654435761u), (unsigned)key);
}

static void see_copy(struct thing *thing, const struct sim_record *record)
{
    char key[40];
    key_text(thing->key, key);
    CHECK(text_equal(record->value, thing->value) && text_is(record->key, key), "%zu: a copy differs",
          thing->number);
    CHECK(text_is(header_of(record, "mine"), "\1\2"), "%zu: a header is lost", thing->number);
    CHECK(text_is(header_of(record, HEADER_ERRORS_TOPIC), "orders"), "%zu: origin is lost", thing->number);
}

static void see_letter(struct thing *thing, const struct sim_record *record)
{
    int deliveries = number_of(record, HEADER_ERRORS_DELIVERY_COUNT);
    int life = number_of(record, HEADER_REDRIVES);
    see_copy(thing, record);
    CHECK(deliveries > 0 && deliveries < DELIVERIES_MAX, "%zu: %d deliveries", thing->number, deliveries);
    CHECK(thing->junk || life < thing->deaths, "%zu: dead in life %d", thing->number, life);
    bool used_up = !thing->junk && thing->fates[life] == USED_UP;
    CHECK(text_is(header_of(record, HEADER_CLASS), used_up ? "RETRY" : "REJECT"), "%zu: class %.*s",
          thing->number, TEXT_ARG(header_of(record, HEADER_CLASS)));
    if (used_up)
        CHECK((size_t)number_of(record, HEADER_ATTEMPT) == model->delay_count + 1, "%zu: dead after %d",
              thing->number, number_of(record, HEADER_ATTEMPT));
    if (!(thing->letters >> deliveries & 1)) {
        thing->letters |= UINT64_C(1) << deliveries;
        CHECK(thing->junk || __builtin_popcountll(thing->letters) == life + 1,
              "%zu: a dead letter that was not injected", thing->number);
    }
    if (deliveries > thing->last_letter)
        thing->last_letter = deliveries;
    thing->free |= thing->junk || model->hold == HOLD_NONE || (model->hold == HOLD_USED_UP && !used_up);
    if (model->letter_count < LETTERS_MAX)
        model->letters[model->letter_count++] = record;
}

static void on_appended(void *owner, const struct sim_record *record)
{
    struct thing *thing = thing_of(record);
    (void)owner;
    if (!thing) {
        const char *said = memmem(record->value.at, record->value.length, "said", 4);
        CHECK(said, "a record that nobody knows on %.*s", TEXT_ARG(record->topic));
        size_t number = strtoul(said + 4, NULL, 10);
        CHECK(number < model->count, "said by nobody");
        model->things[number].confirmed++;
    } else if (text_is(record->topic, "dlq.order")) {
        see_letter(thing, record);
    } else if (!text_is(record->topic, "orders")) {
        see_copy(thing, record);
    }
}

/* The handler is told no attempt: the last delivery that is in hand is the one that it sees. */
static void on_taken(void *owner, const struct sim_record *record)
{
    struct thing *thing = thing_of(record);
    (void)owner;
    if (!thing || text_is(record->topic, "orders") || header_of(record, HEADER_DROP).length)
        return;
    int deliveries = number_of(record, HEADER_ERRORS_DELIVERY_COUNT);
    if (deliveries <= thing->deliveries)
        return;
    thing->deliveries = deliveries;
    thing->attempt = number_of(record, HEADER_ATTEMPT);
    thing->redrives = number_of(record, HEADER_REDRIVES);
}

/* ---- what happens to the database */

/* Some calls from one of the next on, or SQLite's own memory. */
static void store_fails(void)
{
    if (per_cent(50))
        disk_fail(1 + below(40), 1 + below(6), per_cent(50));
    else
        memory_fail(1 + below(300));
}

static void store_mended(void)
{
    disk_whole();
    memory_fail(0);
}

/* ---- what people do */

static void settle_letter(const struct sim_record *from, bool drop)
{
    struct thing *thing = thing_of(from);
    struct arena *arena = arena_new(1 << 20);
    const struct record record = {
        .topic = from->topic,
        .partition = from->partition,
        .offset = from->offset,
        .timestamp_ms = from->timestamp_ms,
        .key = from->key,
        .value = from->value,
    };
    struct letter letter;
    struct producer_record copy;
    const struct letter_order order = {
        .drop = drop,
        .reason = "it was a test",
        .by = "me@here",
        .first_delay_ms = model->delays_ms[0],
        .now_us = clock_wall_us(),
    };
    bool send;
    letter_read(&record, from->headers, from->header_count, model->registry, arena, &letter);
    enum outcome outcome = letter_copy(&letter, &order, arena, &copy, &send, &model->error);
    CHECK(outcome == OK && send, "a letter cannot be sent back: %s", model->error.text);
    sim_append(&model->sim, copy.topic, copy.key, copy.value, copy.headers, copy.header_count);
    *(drop ? &thing->dropped : &thing->redriven) |= UINT64_C(1)
                                                    << number_of(from, HEADER_ERRORS_DELIVERY_COUNT);
    arena_destroy(arena);
}

static bool any_letter_wants_dropping(const struct thing *thing)
{
    return thing->junk || per_cent(10);
}

static void people(void)
{
    if (!model->letter_count)
        return;
    const struct sim_record *letter = model->letters[below(model->letter_count)];
    bool drop = per_cent(10);
    settle_letter(letter, drop);
    if (per_cent(20)) /* twice, or both */
        settle_letter(letter, per_cent(80) ? drop : !drop);
}

/* Whatever is dead is given its next life, or dropped. False: nothing was to be done. */
static bool people_settle_all(void)
{
    bool any = false;
    size_t count = model->letter_count;
    CHECK(count < LETTERS_MAX, "more letters than the model can hold");
    for (size_t i = 0; i < count; i++) {
        const struct sim_record *letter = model->letters[i];
        struct thing *thing = thing_of(letter);
        int deliveries = number_of(letter, HEADER_ERRORS_DELIVERY_COUNT);
        if (deliveries != thing->last_letter || (thing->dropped | thing->redriven) >> deliveries & 1)
            continue;
        settle_letter(letter, any_letter_wants_dropping(thing));
        any = true;
    }
    return any;
}

/* ---- what comes in */

static void encode(struct thing *thing)
{
    char key[40], customer[24];
    key_text(thing->key, key);
    snprintf(customer, sizeof(customer), "r%zu", thing->number);
    struct buffer value = placed_value(text_of(key), text_of(customer), TEXT("en"));
    struct text text = buffer_text(&value);
    if (thing->junk)
        text.length -= 2;
    thing->value = text_copy(model->sim.arena, text);
    buffer_free(&value);
}

static void invent(void)
{
    model->count = 0;
    for (size_t key = 0; key < KEYS; key++) {
        size_t records = 1 + below(per_cent(30) ? RECORDS_MAX : 3);
        model->first_of[key] = model->count;
        for (size_t place = 0; place < records; place++) {
            struct thing *thing = &model->things[model->count];
            *thing = (struct thing){.number = model->count++, .key = key, .place = place};
            thing->junk = per_cent(2);
            thing->emits = per_cent(25);
            thing->doubled = !thing->junk && per_cent(5);
            if (per_cent(20))
                thing->fails = 1 + (int)below(model->delay_count);
            if (per_cent(10))
                thing->deaths = 1 + (int)below(DEATHS_MAX);
            for (int i = 0; i < DEATHS_MAX; i++)
                thing->fates[i] = per_cent(60) ? USED_UP : per_cent(70) ? REJECTED : BREAKS;
            if (per_cent(1))
                thing->away_until_us = WALL_US + (int64_t)below(20000000);
            encode(thing);
        }
    }
    model->first_of[KEYS] = model->count;
}

static void arrive(const struct thing *thing)
{
    char id[24], key[40];
    snprintf(id, sizeof(id), "e%zu", thing->number);
    key_text(thing->key, key);
    const struct header headers[] = {{TEXT(HEADER_ID), text_of(id)},
                                     {TEXT(HEADER_TYPE), TEXT("weir.OrderPlaced")},
                                     {TEXT("mine"), TEXT("\1\2")}};
    sim_append(&model->sim, TEXT("orders"), text_of(key), thing->value, headers, 3);
}

static void arrivals(void)
{
    for (size_t some = below(6); some > 0; some--) {
        size_t key = below(KEYS);
        for (size_t tries = 0;
             tries < KEYS && model->first_of[key] + model->arrived_of[key] == model->first_of[key + 1];
             tries++)
            key = (key + 1) % KEYS;
        size_t number = model->first_of[key] + model->arrived_of[key];
        if (number == model->first_of[key + 1])
            return;
        arrive(&model->things[number]);
        model->arrived_of[key]++;
        model->arrived++;
        struct thing *again = &model->things[model->first_of[key] + below(model->arrived_of[key])];
        if (again->doubled && per_cent(50))
            arrive(again);
    }
}

/* ---- the world */

/* Time goes on while it drains. */
static int64_t drain_left(void)
{
    if (model->sim.crashed)
        return 0;
    clock_advance(DRAIN_STEP_US);
    model->drain_left_ms -= DRAIN_STEP_US / 1000;
    return model->drain_left_ms;
}

static void on_crash(void *owner)
{
    (void)owner;
    dispatch_stop(model->dispatch);
}

static bool take_count(void *owner, const struct store_row *row)
{
    *(int64_t *)owner = store_row_int(row, 0);
    return true;
}

static int64_t ask(const char *sql)
{
    struct store_reader *reader;
    int64_t number = -1;
    assert_int_equal(store_reader_open(model->scratch.url, "order", &reader, &model->error), OK);
    assert_int_equal(store_read(reader, sql, NULL, 0, take_count, &number, &model->error), OK);
    store_reader_close(reader);
    return number;
}

/* Nothing has moved for longer than any delay: only dead heads may hold a key. */
static void check_rest(bool all_settled)
{
    int64_t held = ask("SELECT count(*) FROM held"), waiting = ask("SELECT count(*) FROM waiting");
    int64_t not_dead = ask("SELECT count(*) FROM held WHERE state <> 2");
    CHECK(not_dead == 0, "%lld keys are held by what is not dead", (long long)not_dead);
    CHECK(ask("SELECT COALESCE(sum(waiting), 0) FROM held") == waiting, "%lld wait behind nobody",
          (long long)waiting);
    CHECK(ask("SELECT count(*) FROM outbox_pack") == 0, "rows are left in the outbox");
    if (all_settled)
        CHECK(held == 0 && waiting == 0, "%lld held, %lld waiting", (long long)held, (long long)waiting);
    if (all_settled)
        CHECK(sim_left(&model->sim) == 0, "%zu records were not let go", sim_left(&model->sim));
}

static void next_phase(void)
{
    switch (model->phase) {
    case ARRIVING:
        model->phase = SETTLING;
        store_mended();
        for (size_t i = 0; i < model->sim.topic_count; i++)
            for (size_t j = 0; j < SIM_PARTITIONS; j++)
                if (model->sim.topics[i].partitions[j].away)
                    sim_rebalance(&model->sim, &model->sim.topics[i].partitions[j]);
        model->sim.rebalance_one_in = SIM_NEVER;
        break;
    case SETTLING:
        if (!model->flood)
            check_rest(false);
        model->phase = PEOPLE;
        break;
    case PEOPLE:
        if (people_settle_all())
            break;
        check_rest(true);
        model->phase = ENDED;
        model->stop = true;
        dispatch_stop(model->dispatch);
        break;
    case ENDED:
        break;
    }
    model->idle = 0;
}

static void on_turn(void *owner)
{
    struct sim *sim = &model->sim;
    (void)owner;
    CHECK(++model->turns < TURNS_MAX, "it does not come to rest");
    if (model->stop)
        return;
    clock_advance(per_cent(90) ? (int64_t)below(20000) : (int64_t)below(1000000));
    if (per_cent(60))
        sim_settle(sim, per_cent(30));
    if (model->phase == ARRIVING) {
        arrivals();
        if (per_cent(3))
            people();
        if (model->bad_store && per_cent(5))
            store_fails();
        if (per_cent(1))
            sim_rebalance(sim, &sim->read[below(sim->read_count)]->partitions[below(SIM_PARTITIONS)]);
        if (sim_one_in(sim, 2000)) { /* SIGTERM */
            model->stop = true;
            dispatch_stop(model->dispatch);
        }
        if (model->arrived == model->count)
            next_phase();
        return;
    }
    for (size_t i = 0; i < sim->read_count; i++)
        for (size_t j = 0; j < SIM_PARTITIONS; j++)
            if (sim->read[i]->partitions[j].away)
                sim_rebalance(sim, &sim->read[i]->partitions[j]);
    model->idle = sim->progress == model->progress ? model->idle + 1 : 0;
    model->progress = sim->progress;
    if (model->idle)
        sim_settle(sim, true);
    if (model->idle > 10)
        clock_advance(1000000);
    if (model->idle > IDLE_TURNS) {
        if (model->flood && model->phase != SETTLING)
            dispatch_resume(model->dispatch);
        next_phase();
    }
    if (model->flood && per_cent(1))
        dispatch_resume(model->dispatch);
}

static void world_open(void)
{
    static const char *const holds[] = {"used-up", "all", "none"};
    static const char *const rooms[] = {"3", "30", "100000"};
    static const char *const keys[] = {"1", "4", "100000"};
    static const char *const batches[] = {"2", "20", "200"};
    static const int64_t ladders[][3] = {{2000, 4000, 8000}, {1, 1, 5}, {1000, 1000, 1000}, {1, 3000, 1}};
    char topics_text[3][TOPIC_NAME_BYTES_MAX];
    const char *topics[SIM_TOPICS_MAX] = {"orders", "dlq.order"};
    size_t ladder = (size_t)(model->seed / 7 % 4), topic_count = 2;
    sim_open(&model->sim, model->seed, topics); /* for its chance; again below */
    sim_close(&model->sim);

    memcpy(model->delays_ms, ladders[ladder], sizeof(model->delays_ms));
    model->delay_count = 1 + (size_t)(model->seed / 3 % 3);
    for (size_t i = 0; i < model->delay_count; i++) {
        bool there = false;
        topic_retry("order", model->delays_ms[i], topics_text[i]);
        for (size_t j = 0; j < i; j++)
            there = there || strcmp(topics_text[i], topics_text[j]) == 0;
        if (!there)
            topics[topic_count++] = topics_text[i];
    }
    sim_open(&model->sim, model->seed, topics);
    model->hold = (enum hold)below(3);
    model->flood = per_cent(20);
    model->bad_store = per_cent(30);
    const char *arguments[] = {
        "--dead-letter-hold",
        holds[model->hold],
        "--waiting-max",
        rooms[below(3)],
        "--waiting-keys-max",
        keys[below(3)],
        "--batch-count-max",
        batches[below(3)],
        "--flood-share",
        model->flood ? "20" : "0",
        "--flood-count-min",
        model->flood ? "5" : "100000",
        "--flood-count",
        "0",
        NULL,
    };
    const struct setting *const tables[] = {kafka_settings, flow_settings};
    assert_int_equal(config_read(tables, 2, 14, (char **)(uintptr_t)arguments, &model->config, &model->error),
                     OK);
    scratch_make(&model->scratch);
    assert_int_equal(registry_open(NULL, &model->registry, &model->error), OK);

    static const unsigned crashes[] = {SIM_NEVER, 4000, 1000}, rebalances[] = {SIM_NEVER, 3000, 300};
    model->sim.turn = on_turn;
    model->sim.appended = on_appended;
    model->sim.taken = on_taken;
    model->sim.crash = on_crash;
    model->sim.crash_one_in = crashes[below(3)];
    model->sim.rebalance_one_in = rebalances[below(3)];
    model->sim.queue_full_one_in = per_cent(30) ? 50 : SIM_NEVER;
    model->sim.fatal_one_in = per_cent(20) ? 1000 : SIM_NEVER;
    model->phase = ARRIVING;
    model->arrived = model->letter_count = model->turns = model->idle = 0;
    memset(model->arrived_of, 0, sizeof(model->arrived_of));
    invent();
}

static void open_store(void)
{
    const struct rows_table *all[ROWS_TABLES_MAX] = {&effects_table};
    size_t count = 1;
    for (const struct rows_table *const *table = flow_tables; *table; table++)
        all[count++] = *table;
    assert_int_equal(store_open(model->scratch.url, "order", &model->store, &model->error), OK);
    assert_int_equal(store_migrate(model->store, all, count, NULL, 0, &model->error), OK);
}

/* One life of the process. */
static void life(void)
{
    const struct dispatch_settings settings = {
        .service = "order",
        .subscriptions = subscriptions,
        .store = model->store,
        .registry = model->registry,
        .metrics = model->metrics = metrics_new(),
        .client = {.bootstrap_servers = "nowhere:1", .client_id = "model", .config = model->config},
        .group_id = "weir-order",
        .retry_delays_ms = model->delays_ms,
        .retry_delay_count = model->delay_count,
        .config = model->config,
        .backlog_max = 1000,
        .answer = no_answer,
    };
    model->stop = false;
    model->drain_left_ms = DRAIN_MS;
    enum outcome outcome = dispatch_open(&settings, &model->dispatch, &model->error);
    CHECK(outcome == OK, "dispatch_open: %s", model->error.text);
    outcome = dispatch_run(model->dispatch, drain_left, &model->error);
    store_mended();
    CHECK(outcome == OK || model->sim.crashed, "it ended by itself: %s", model->error.text);
    dispatch_close(model->dispatch, 1000);
    metrics_destroy(model->metrics);
}

static bool take_effects(void *owner, const struct store_row *row)
{
    struct text order_id = store_row_text(row, 0), seen = store_row_text(row, 1);
    char number[13];
    (void)owner;
    snprintf(number, sizeof(number), "%.*s", 12, order_id.at + 24);
    size_t key = strtoul(number, NULL, 16);
    size_t last = 0;
    bool any = false;
    for (size_t i = 0; i < seen.length; i++) {
        struct thing *thing = &model->things[model->first_of[key] + (size_t)(seen.at[i] - 'a')];
        thing->effects++;
        if (thing->free)
            continue;
        CHECK(!any || thing->place > last, "key %zu: out of order: %.*s", key, TEXT_ARG(seen));
        last = thing->place;
        any = true;
    }
    return true;
}

static void verify(void)
{
    struct store_reader *reader;
    assert_int_equal(store_reader_open(model->scratch.url, "order", &reader, &model->error), OK);
    assert_int_equal(
        store_read(reader, "SELECT order_id, seen FROM effects", NULL, 0, take_effects, NULL, &model->error),
        OK);
    store_reader_close(reader);
    for (size_t i = 0; i < model->count; i++) {
        const struct thing *thing = &model->things[i];
        int letters = __builtin_popcountll(thing->letters);
        CHECK(thing->effects <= 1, "%zu: took effect %d times", i, thing->effects);
        CHECK(thing->effects || (thing->dropped >> thing->last_letter & 1),
              "%zu is lost: key %zu, place %zu, letters %llx, dropped %llx, redriven %llx", i, thing->key,
              thing->place, (unsigned long long)thing->letters, (unsigned long long)thing->dropped,
              (unsigned long long)thing->redriven);
        CHECK(!thing->effects || !thing->junk, "%zu: junk took effect", i);
        CHECK(!thing->effects || letters == thing->deaths, "%zu: %d letters of %d", i, letters,
              thing->deaths);
        CHECK(thing->effects || letters > 0, "%zu: dropped, and was no letter", i);
        CHECK(!!thing->confirmed == (thing->effects && thing->emits), "%zu: said %d times", i,
              thing->confirmed);
    }
}

/* The seed says all. */
static void world_of(uint64_t seed)
{
    model->seed = seed;
    clock_hold(WALL_US);
    world_open();
    open_store();
    while (model->phase != ENDED) {
        life();
        if (model->sim.crashed || per_cent(50)) {
            store_close(model->store);
            open_store();
        }
        sim_restart(&model->sim);
    }
    store_close(model->store);
    verify();
    registry_close(model->registry);
    config_destroy(model->config);
    scratch_remove(&model->scratch);
    sim_close(&model->sim);
    clock_release();
}

static uint64_t only_seed;

static void order_per_key_is_kept_and_nothing_is_lost_whatever_happens(void **state)
{
    const char *asked = getenv("WAITING_ROOM_HISTORIES");
    size_t histories = asked ? strtoul(asked, NULL, 10) : HISTORIES;
    (void)state;
    model = calloc(1, sizeof(*model));
    assert_non_null(model);
    if (only_seed)
        world_of(only_seed);
    for (uint64_t seed = 1; !only_seed && seed <= (histories + KEYS - 1) / KEYS; seed++)
        world_of(seed);
    free(model);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_per_key_is_kept_and_nothing_is_lost_whatever_happens),
    };
    log_open("model", argc > 2 ? LOG_INFO : (enum log_level)(LOG_ERROR + 1), "text");
    disk_install();
    if (argc > 1)
        only_seed = strtoull(argv[1], NULL, 10);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
