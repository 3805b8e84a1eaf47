/* redrive over the mock cluster: what is sent, in which order, what is known of it afterwards. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "flow/letter_json.h"
#include "kafka/reader.h"
#include "support/broker.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PARTITIONS = 3, WAIT_MS = 30000, COPIES_MAX = 4096, KEYS = 7 };

static const char *const topics[] = {"dlq.order",      "dlq.email",   "retry.order.2s",
                                     "retry.email.2s", "audit",       "orders",
                                     "clicks",         "connect-dlq", NULL};

struct world {
    struct broker *broker;
    struct producer *producer;
    struct client_settings client;
    struct letter_filter filter;
    struct redrive_settings settings;
    int sent;
    int questions, questions_max; /* of stopped(); 0: never */
};

/* One record of a topic as it was read back. */
struct copy {
    char key[32], value[32], redrives[8], drop[32], attempt[8], deliveries[8];
    int32_t partition;
    int64_t offset;
};
struct copies {
    struct copy list[COPIES_MAX];
    size_t count;
};

static void on_report(void *owner, uint64_t tag, enum outcome outcome, int32_t partition, int64_t offset,
                      const char *reason)
{
    (void)owner, (void)tag, (void)partition, (void)offset, (void)reason;
    assert_int_equal(outcome, OK);
}

static bool stopped(void *owner)
{
    struct world *world = owner;
    return world->questions_max && ++world->questions > world->questions_max;
}

static int world_up(void **state)
{
    struct world *world = calloc(1, sizeof(*world));
    struct error error;
    assert_non_null(world);
    world->broker = broker_start(1, topics, PARTITIONS);
    world->client =
        (struct client_settings){.bootstrap_servers = broker_bootstrap(world->broker), .client_id = "test"};
    const struct producer_settings producer = {.client = world->client};
    assert_int_equal(producer_open(&producer, on_report, world, &world->producer, &error), OK);
    world->settings = (struct redrive_settings){
        .letters = {.client = world->client, .filter = &world->filter, .stopped = stopped, .owner = world},
        .by = "ann@desk",
        .first_delay_ms = 2000,
    };
    *state = world;
    return 0;
}

static int world_down(void **state)
{
    struct world *world = *state;
    producer_close(world->producer, WAIT_MS);
    broker_stop(world->broker);
    free(world);
    return 0;
}

/* ---- dead letters in, copies out */

static void bury_with(struct world *world, const char *topic, const char *key, const struct header *headers,
                      size_t count)
{
    char value[32];
    struct error error;
    snprintf(value, sizeof(value), "%d", world->sent++);
    const struct producer_record record = {.topic = text_of(topic),
                                           .partition = -1,
                                           .key = text_of(key),
                                           .value = text_of(value),
                                           .headers = headers,
                                           .header_count = count};
    assert_int_equal(producer_send(world->producer, &record, 0, &error), OK);
}

/* A letter as the service writes it: its value is its number, its event id likewise. */
static void bury(struct world *world, const char *topic, const char *key, int id, const char *fingerprint)
{
    char ce_id[16];
    snprintf(ce_id, sizeof(ce_id), "e-%d", id);
    const struct header headers[] = {
        {TEXT("ce_id"), text_of(ce_id)},
        {TEXT("ce_type"), TEXT("weir.OrderPlaced")},
        {TEXT("__dlq.errors.topic"), TEXT("orders")},
        {TEXT("__dlq.errors.partition"), TEXT("0")},
        {TEXT("__dlq.errors.offset"), TEXT("1")},
        {TEXT("__dlq.errors.delivery.count"), TEXT("4")},
        {TEXT("weir_error_class"), TEXT("RETRY")},
        {TEXT("weir_error_fingerprint"), text_of(fingerprint)},
        {TEXT("weir_attempt"), TEXT("4")},
    };
    bury_with(world, topic, key, headers, sizeof(headers) / sizeof(headers[0]));
}

static void bury_many(struct world *world, const char *topic, int count)
{
    for (int i = 0; i < count; i++) {
        char key[16];
        snprintf(key, sizeof(key), "k-%d", i % KEYS);
        bury(world, topic, key, i, "aa");
    }
    assert_true(producer_flush(world->producer, WAIT_MS));
}

static void put(char *into, size_t bytes, const struct header *headers, size_t count, const char *name)
{
    const struct header *header = header_find(headers, count, name);
    snprintf(into, bytes, "%.*s", TEXT_ARG(header ? header->value : TEXT("")));
}

static struct copies *copies_of(struct world *world, const char *topic)
{
    const char *const names[] = {topic, NULL};
    struct copies *copies = calloc(1, sizeof(*copies));
    struct reader *reader;
    struct error error;
    struct arena *arena = arena_new(1 << 20);
    bool end = false;
    assert_non_null(copies);
    assert_int_equal(
        reader_open(&world->client, names, READER_BEGINNING, 0, true, WAIT_MS, NULL, &reader, &error), OK);
    while (!end) {
        struct record record;
        const struct header *headers;
        size_t count;
        bool got;
        assert_int_equal(reader_read(reader, WAIT_MS, &record, &got, &end, &error), OK);
        if (!got)
            continue;
        assert_true(copies->count < COPIES_MAX);
        struct copy *copy = &copies->list[copies->count++];
        arena_reset(arena);
        assert_int_equal(record_headers(&record, arena, &headers, &count, &error), OK);
        snprintf(copy->key, sizeof(copy->key), "%.*s", TEXT_ARG(record.key));
        snprintf(copy->value, sizeof(copy->value), "%.*s", TEXT_ARG(record.value));
        put(copy->redrives, sizeof(copy->redrives), headers, count, "weir_redrives");
        put(copy->drop, sizeof(copy->drop), headers, count, "weir_drop");
        put(copy->attempt, sizeof(copy->attempt), headers, count, "weir_attempt");
        put(copy->deliveries, sizeof(copy->deliveries), headers, count, "__dlq.errors.delivery.count");
        copy->partition = record.partition;
        copy->offset = record.offset;
        reader_release(&record);
    }
    reader_close(reader);
    arena_destroy(arena);
    return copies;
}

static size_t count_of(struct world *world, const char *topic)
{
    struct copies *copies = copies_of(world, topic);
    size_t count = copies->count;
    free(copies);
    return count;
}

static struct redrive_done run(struct world *world)
{
    struct redrive_done done;
    struct error error;
    world->questions = 0;
    enum outcome outcome = redrive_run(&world->settings, &done, &error);
    if (outcome != OK)
        fail_msg("%s", error.text);
    return done;
}

static struct redrive_forecast foresee(struct world *world)
{
    struct redrive_forecast forecast;
    struct error error;
    world->questions = 0;
    assert_int_equal(redrive_foresee(&world->settings, &forecast, &error), OK);
    return forecast;
}

/* Every number once, and those of a key in the order in which they were buried. */
static void assert_all_once_in_order(const struct copies *copies, size_t count)
{
    int last[KEYS];
    for (int i = 0; i < KEYS; i++)
        last[i] = -1;
    assert_int_equal(copies->count, count);
    for (size_t i = 0; i < copies->count; i++) {
        int key = atoi(copies->list[i].key + 2), value = atoi(copies->list[i].value);
        assert_in_range(key, 0, KEYS - 1);
        assert_int_equal(value % KEYS, key);
        assert_true(value > last[key]);
        last[key] = value;
    }
}

/* ---- tests */

static void every_open_letter_is_sent_once_in_the_order_of_its_key(void **state)
{
    struct world *world = *state;
    enum { LETTERS = 1500 };
    bury_many(world, "dlq.order", LETTERS);
    world->filter.service = "order";
    const struct redrive_done done = run(world);
    assert_int_equal(done.sent, LETTERS);
    assert_false(done.stopped);

    struct copies *copies = copies_of(world, "retry.order.2s");
    assert_all_once_in_order(copies, LETTERS);
    for (size_t i = 0; i < copies->count; i++) {
        assert_string_equal(copies->list[i].redrives, "1");
        assert_string_equal(copies->list[i].attempt, "0");
        assert_string_equal(copies->list[i].deliveries, "4");
        assert_string_equal(copies->list[i].drop, "");
    }
    free(copies);
    assert_int_equal(count_of(world, "audit"), LETTERS);

    /* Again: nothing is open any more. */
    const struct redrive_done none = run(world);
    assert_int_equal(none.sent, 0);
    assert_int_equal(none.passed, LETTERS);
    assert_int_equal(count_of(world, "retry.order.2s"), LETTERS);
}

static void run_that_was_stopped_is_resumed_where_it_stopped(void **state)
{
    struct world *world = *state;
    enum { LETTERS = 400, ROUNDS_MAX = 100 };
    size_t sent = 0, rounds = 0;
    bool stopped_once = false, end = false;
    bury_many(world, "dlq.order", LETTERS);
    while (!end) {
        /* Each time a little later than it takes to read the audit, which is asked about as well. */
        world->questions_max = 150 + (int)sent * 2;
        const struct redrive_done done = run(world);
        sent += done.sent;
        stopped_once = stopped_once || (done.stopped && done.sent > 0);
        end = !done.stopped;
        assert_true(++rounds < ROUNDS_MAX);
    }
    assert_true(stopped_once);
    assert_int_equal(sent, LETTERS);
    struct copies *copies = copies_of(world, "retry.order.2s");
    assert_all_once_in_order(copies, LETTERS);
    free(copies);
}

static void what_was_settled_before_is_sent_only_when_asked_for(void **state)
{
    struct world *world = *state;
    bury_many(world, "dlq.order", 10);
    assert_int_equal(run(world).sent, 10);
    bury(world, "dlq.order", "k-3", 100, "aa");
    assert_true(producer_flush(world->producer, WAIT_MS));

    struct redrive_forecast forecast = foresee(world);
    assert_int_equal(forecast.matching, 11);
    assert_int_equal(forecast.open, 1);
    assert_int_equal(forecast.redriven, 10);
    assert_int_equal(forecast.sent, 1);
    assert_int_equal(forecast.duplicates, 0);
    redrive_forecast_free(&forecast);

    world->settings.again = true;
    forecast = foresee(world);
    assert_int_equal(forecast.sent, 11);
    assert_int_equal(forecast.duplicates, 10);
    redrive_forecast_free(&forecast);
    assert_int_equal(run(world).sent, 11);
    assert_int_equal(count_of(world, "retry.order.2s"), 21);
}

static void forecast_finds_what_lies_there_twice(void **state)
{
    struct world *world = *state;
    bury(world, "dlq.order", "k-1", 1, "aa");
    bury(world, "dlq.order", "k-1", 1, "aa"); /* the same delivery of the same event */
    bury(world, "dlq.order", "k-1", 2, "bb");
    bury(world, "dlq.email", "k-1", 1, "aa"); /* another service's affair */
    bury_with(world, "dlq.order", "k-2", NULL, 0);
    assert_true(producer_flush(world->producer, WAIT_MS));
    world->settings.rate_per_hour = 3600;

    struct redrive_forecast forecast = foresee(world);
    assert_int_equal(forecast.matching, 5);
    assert_int_equal(forecast.sent, 4);
    assert_int_equal(forecast.duplicates, 1);
    assert_int_equal(forecast.unreadable, 1);
    assert_non_null(strstr(forecast.unreadable_first, "dlq.order["));
    assert_int_equal(forecast.seconds, 4);
    assert_int_equal(forecast.causes.count, 4);
    assert_int_equal(forecast.causes.list[0].count, 2);
    assert_string_equal(forecast.causes.list[0].fingerprint, "aa");
    redrive_forecast_free(&forecast);
    /* And a forecast sends nothing. */
    assert_int_equal(count_of(world, "retry.order.2s") + count_of(world, "audit"), 0);
}

static void unreadable_letters_stay_and_the_rest_goes(void **state)
{
    struct world *world = *state;
    bury_with(world, "dlq.order", "k-1", NULL, 0);
    bury(world, "dlq.order", "k-1", 1, "aa");
    assert_true(producer_flush(world->producer, WAIT_MS));
    const struct redrive_done done = run(world);
    assert_int_equal(done.sent, 1);
    assert_int_equal(done.unreadable, 1);
    assert_non_null(strstr(done.refused_first, "dlq.order["));
    assert_int_equal(run(world).unreadable, 1);
}

/* Its key stands twice in an audit record: as the record's key, and in what it says. */
static void letter_with_a_key_as_large_as_a_record_holds_up_nobody(void **state)
{
    struct world *world = *state;
    enum { KEY_BYTES = 1200000 };
    char *key = malloc(KEY_BYTES + 1);
    assert_non_null(key);
    memset(key, 'k', KEY_BYTES);
    key[KEY_BYTES] = '\0';
    bury(world, "dlq.order", "k-1", 1, "aa");
    bury(world, "dlq.order", key, 2, "aa");
    bury(world, "dlq.order", "k-2", 3, "aa");
    assert_true(producer_flush(world->producer, WAIT_MS));
    assert_int_equal(run(world).sent, 3);
    const struct redrive_done none = run(world);
    assert_int_equal(none.sent, 0);
    assert_int_equal(none.passed, 3);
    assert_int_equal(count_of(world, "retry.order.2s"), 3);
    free(key);
}

/* For as many as these it is a dead letter, and people want to see them. */
static void letter_with_too_many_headers_is_shown_with_all_of_them(void **state)
{
    struct world *world = *state;
    enum { COUNT = HEADERS_COUNT_MAX + 6 };
    static const char *const names[] = {"dlq.order", NULL};
    struct header headers[COUNT];
    char name[COUNT][32];
    struct reader *reader;
    struct error error;
    struct record record;
    bool got = false, end = false;
    for (size_t i = 0; i < COUNT; i++) {
        snprintf(name[i], sizeof(name[i]), "own-%zu", i);
        headers[i] = (struct header){text_of(name[i]), TEXT("x")};
    }
    bury_with(world, "dlq.order", "k-1", headers, COUNT);
    assert_true(producer_flush(world->producer, WAIT_MS));
    assert_int_equal(
        reader_open(&world->client, names, READER_BEGINNING, 0, true, WAIT_MS, NULL, &reader, &error), OK);
    while (!got && !end)
        assert_int_equal(reader_read(reader, WAIT_MS, &record, &got, &end, &error), OK);
    assert_true(got);
    struct arena *arena = arena_new(1 << 20);
    struct buffer json = buffer_of(1 << 20);
    record_to_json(NULL, &record, arena, &json, NULL, NULL);
    buffer_add_char(&json, '\0');
    assert_non_null(strstr(json.at, "[\"own-0\",\"x\"]"));
    assert_non_null(strstr(json.at, "[\"own-69\",\"x\"]"));
    buffer_free(&json);
    arena_destroy(arena);
    reader_release(&record);
    reader_close(reader);
}

/* A timestamp is the writer's word. */
static void letter_of_a_time_that_no_clock_says_is_counted_with_the_others(void **state)
{
    struct world *world = *state;
    struct error error;
    const struct header headers[] = {{TEXT("__dlq.errors.topic"), TEXT("orders")}};
    const struct producer_record record = {.topic = TEXT("dlq.order"),
                                           .partition = -1,
                                           .key = TEXT("k-1"),
                                           .value = TEXT("1"),
                                           .headers = headers,
                                           .header_count = 1,
                                           .timestamp_ms = INT64_MAX};
    assert_int_equal(producer_send(world->producer, &record, 0, &error), OK);
    assert_true(producer_flush(world->producer, WAIT_MS));
    struct redrive_forecast forecast = foresee(world);
    assert_int_equal(forecast.matching, 1);
    assert_true(forecast.causes.list[0].last_us == RECORD_TIMESTAMP_MS_MAX * 1000);
    redrive_forecast_free(&forecast);
}

static void topic_that_is_not_there_holds_up_nobody(void **state)
{
    struct world *world = *state;
    bury(world, "dlq.order", "k-1", 1, "aa");
    assert_true(producer_flush(world->producer, WAIT_MS));
    world->settings.first_delay_ms = 7000;
    const struct redrive_done done = run(world);
    assert_int_equal(done.sent, 0);
    assert_int_equal(done.unreadable, 1);
    assert_non_null(strstr(done.refused_first, "retry.order.7s"));
}

static void filter_decides_what_is_sent(void **state)
{
    struct world *world = *state;
    for (int i = 0; i < 20; i++)
        bury(world, i % 2 ? "dlq.order" : "dlq.email", "k-1", i, i % 4 < 2 ? "aa" : "bb");
    assert_true(producer_flush(world->producer, WAIT_MS));
    world->filter = (struct letter_filter){.service = "email", .fingerprint = "bb"};
    assert_int_equal(run(world).sent, 5);
    assert_int_equal(count_of(world, "retry.order.2s"), 0);
    assert_int_equal(count_of(world, "retry.email.2s"), 5);
    world->filter = (struct letter_filter){.id = "e-3"};
    assert_int_equal(run(world).sent, 1);
    assert_int_equal(count_of(world, "retry.order.2s"), 1);
}

static void limit_is_kept_and_the_next_run_goes_on_behind_it(void **state)
{
    struct world *world = *state;
    bury_many(world, "dlq.order", 30);
    world->settings.limit = 12;
    assert_int_equal(run(world).sent, 12);
    assert_int_equal(run(world).sent, 12);
    assert_int_equal(run(world).sent, 6);
    struct copies *copies = copies_of(world, "retry.order.2s");
    assert_all_once_in_order(copies, 30);
    free(copies);
}

/* Else what can never be sent, and lies in front, would use up the limit of each run. */
static void limit_is_of_what_is_sent(void **state)
{
    struct world *world = *state;
    bury_with(world, "dlq.order", "k-1", NULL, 0);
    bury_with(world, "dlq.order", "k-1", NULL, 0);
    bury(world, "dlq.order", "k-1", 1, "aa");
    bury(world, "dlq.order", "k-1", 2, "aa");
    assert_true(producer_flush(world->producer, WAIT_MS));
    world->settings.limit = 1;
    struct redrive_forecast forecast = foresee(world);
    assert_int_equal(forecast.sent, 1);
    redrive_forecast_free(&forecast);
    assert_int_equal(run(world).sent, 1);
    assert_int_equal(run(world).sent, 1);
    assert_int_equal(run(world).sent, 0);
    assert_int_equal(count_of(world, "retry.order.2s"), 2);
}

static void topic_of_letters_that_is_not_there_is_said(void **state)
{
    struct world *world = *state;
    struct redrive_forecast forecast;
    struct redrive_done done;
    struct error error;
    world->settings.letters.topic = "conect-dlq";
    assert_int_equal(redrive_foresee(&world->settings, &forecast, &error), REJECT);
    assert_non_null(strstr(error.text, "conect-dlq"));
    assert_int_equal(error_exit_code(&error), EXIT_NO_INPUT);
    assert_int_equal(redrive_run(&world->settings, &done, &error), REJECT);
}

static void rate_holds_back_all_but_the_first(void **state)
{
    struct world *world = *state;
    bury_many(world, "dlq.order", 30);
    world->settings.rate_per_hour = 1;
    world->questions_max = 60; /* the second would be due in an hour */
    const struct redrive_done done = run(world);
    assert_true(done.stopped);
    assert_int_equal(done.sent, 1);
    assert_int_equal(count_of(world, "retry.order.2s"), 1);
}

static void dropped_letter_says_why_and_is_not_redriven_later(void **state)
{
    struct world *world = *state;
    bury_many(world, "dlq.order", 5);
    world->settings.drop = true;
    world->settings.reason = "test orders";
    assert_int_equal(run(world).sent, 5);
    struct copies *copies = copies_of(world, "retry.order.2s");
    assert_int_equal(copies->count, 5);
    for (size_t i = 0; i < copies->count; i++) {
        assert_string_equal(copies->list[i].drop, "test orders");
        assert_string_equal(copies->list[i].redrives, "");
    }
    free(copies);
    world->settings.drop = false;
    assert_int_equal(run(world).sent, 0);
    struct redrive_forecast forecast = foresee(world);
    assert_int_equal(forecast.dropped, 5);
    redrive_forecast_free(&forecast);
}

static void letters_of_others_go_home_without_their_error_headers(void **state)
{
    struct world *world = *state;
    const struct header connect[] = {
        {TEXT("__connect.errors.topic"), TEXT("clicks")},
        {TEXT("__connect.errors.connector.name"), TEXT("sink")},
        {TEXT("weir_attempt"), TEXT("9")},
    };
    const struct header spring[] = {
        {TEXT("kafka_dlt-original-topic"), TEXT("orders")},
        {TEXT("kafka_dlt-original-consumer-group"), TEXT("weir-order")},
    };
    bury_with(world, "connect-dlq", "k-1", connect, 3);
    bury_with(world, "connect-dlq", "k-2", spring, 2);
    assert_true(producer_flush(world->producer, WAIT_MS));
    world->settings.letters.topic = "connect-dlq";
    struct redrive_forecast forecast = foresee(world);
    assert_int_equal(forecast.sent, 2);
    assert_int_equal(forecast.home, 1);
    redrive_forecast_free(&forecast);
    assert_int_equal(run(world).sent, 2);

    struct copies *home = copies_of(world, "clicks"), *retried = copies_of(world, "retry.order.2s");
    assert_int_equal(home->count, 1);
    assert_string_equal(home->list[0].key, "k-1");
    assert_string_equal(home->list[0].attempt, "");
    assert_int_equal(retried->count, 1);
    assert_string_equal(retried->list[0].deliveries, "1");
    assert_string_equal(retried->list[0].attempt, "0");
    free(home);
    free(retried);
    assert_int_equal(run(world).sent, 0); /* both are in the audit */
}

/* As fields by the names of our own: who filters with jq need not know how Spring writes a number. */
static void letter_of_others_says_in_json_what_a_filter_takes(void **state)
{
    struct world *world = *state;
    const struct header spring[] = {
        {TEXT("kafka_dlt-original-topic"), TEXT("clicks")},
        {TEXT("kafka_dlt-original-partition"), {"\0\0\0\2", 4}},
        {TEXT("kafka_dlt-original-offset"), {"\0\0\0\0\0\0\0\7", 8}},
        {TEXT("kafka_dlt-original-consumer-group"), TEXT("shop")},
        {TEXT("kafka_dlt-exception-fqcn"), TEXT("java.lang.Boom")},
    };
    static const char *const wanted[] = {
        "\"__dlq.errors.topic\":\"clicks\"",
        "\"__dlq.errors.partition\":\"2\"",
        "\"__dlq.errors.offset\":\"7\"",
        "\"__dlq.errors.group\":\"shop\"",
        "\"weir_error_class\":\"java.lang.Boom\"",
        "\"weir_error_fingerprint\":\"",
        "\"letter_id\":\"clicks/2/7\"",
    };
    struct buffer json = buffer_of(1 << 20);
    struct letters *letters;
    struct error error;
    const struct letter *letter = NULL;
    bool end = false;
    bury_with(world, "connect-dlq", "k-1", spring, sizeof(spring) / sizeof(spring[0]));
    assert_true(producer_flush(world->producer, WAIT_MS));
    world->settings.letters.topic = "connect-dlq";
    world->filter.id = "clicks/2/7";
    assert_int_equal(letters_open(&world->settings.letters, &letters, &error), OK);
    assert_int_equal(letters_rewind(letters, NULL, &error), OK);
    while (!letter && !end)
        assert_int_equal(letters_next(letters, &letter, &end, &error), OK);
    assert_non_null(letter);
    letter_to_json(letter, NULL, letters_arena(letters), &json);
    buffer_add_char(&json, '\0');
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
        if (!strstr(json.at, wanted[i]))
            fail_msg("no %s in %s", wanted[i], json.at);
    buffer_free(&json);
    letters_close(letters);
}

static void broker_that_stumbles_costs_nothing(void **state)
{
    enum { NOT_ENOUGH_REPLICAS = 19, DISCONNECT = -195 };
    struct world *world = *state;
    bury_many(world, "dlq.order", 500);
    broker_fail(world->broker, BROKER_PRODUCE, NOT_ENOUGH_REPLICAS, 3);
    broker_fail(world->broker, BROKER_FETCH, DISCONNECT, 2);
    assert_int_equal(run(world).sent, 500);
    struct copies *copies = copies_of(world, "retry.order.2s");
    assert_all_once_in_order(copies, 500);
    free(copies);
}

static void without_the_audit_topic_nothing_is_begun(void **state)
{
    static const char *const without[] = {"dlq.order", "retry.order.2s", NULL};
    struct world *world = *state;
    struct broker *bare = broker_start(1, without, 1);
    struct redrive_done done;
    struct error error;
    world->settings.letters.client.bootstrap_servers = broker_bootstrap(bare);
    world->settings.letters.client.client_id = "bare";
    assert_int_equal(redrive_run(&world->settings, &done, &error), FATAL);
    assert_string_equal(error.cause, "topic");
    assert_int_equal(error_exit_code(&error), EXIT_CONFIG);
    broker_stop(bare);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, world_up, world_down)
    const struct CMUnitTest tests[] = {
        TEST(every_open_letter_is_sent_once_in_the_order_of_its_key),
        TEST(run_that_was_stopped_is_resumed_where_it_stopped),
        TEST(what_was_settled_before_is_sent_only_when_asked_for),
        TEST(forecast_finds_what_lies_there_twice),
        TEST(unreadable_letters_stay_and_the_rest_goes),
        TEST(letter_with_a_key_as_large_as_a_record_holds_up_nobody),
        TEST(letter_with_too_many_headers_is_shown_with_all_of_them),
        TEST(letter_of_a_time_that_no_clock_says_is_counted_with_the_others),
        TEST(topic_that_is_not_there_holds_up_nobody),
        TEST(filter_decides_what_is_sent),
        TEST(limit_is_kept_and_the_next_run_goes_on_behind_it),
        TEST(limit_is_of_what_is_sent),
        TEST(topic_of_letters_that_is_not_there_is_said),
        TEST(rate_holds_back_all_but_the_first),
        TEST(dropped_letter_says_why_and_is_not_redriven_later),
        TEST(letters_of_others_go_home_without_their_error_headers),
        TEST(letter_of_others_says_in_json_what_a_filter_takes),
        TEST(broker_that_stumbles_costs_nothing),
        TEST(without_the_audit_topic_nothing_is_begun),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
