/* producer.h's promises, on the mock cluster. */
#include "base/clock.h"
#include "kafka/handle.h"
#include "kafka/producer.h"
#include "support/broker.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { REPORTS_MAX = 20000, WAIT_MS = 30000 };

struct reports {
    atomic_int count, ok, reject, fatal;
    atomic_uchar seen[REPORTS_MAX]; /* reports by tag */
};

static void on_report(void *owner, uint64_t tag, enum outcome outcome, int32_t partition, int64_t offset,
                      const char *reason)
{
    (void)partition, (void)offset, (void)reason;
    struct reports *reports = owner;
    if (tag < REPORTS_MAX)
        atomic_fetch_add(&reports->seen[tag], 1);
    if (outcome == OK)
        atomic_fetch_add(&reports->ok, 1);
    else if (outcome == REJECT)
        atomic_fetch_add(&reports->reject, 1);
    else
        atomic_fetch_add(&reports->fatal, 1);
    atomic_fetch_add(&reports->count, 1);
}

static const char *const topics[] = {"orders", NULL};

struct fixture {
    bool gather, whole, alone;
    atomic_int said; /* lines of the log about a topic that is not there */
    struct broker *broker;
    struct producer *producer;
    struct reports reports;
};

static void on_log(void *owner, int level, const char *facility, const char *text)
{
    struct fixture *fixture = owner;
    if (level <= 4 && strcmp(facility, "TOPIC") == 0 && strstr(text, "topic orders: "))
        atomic_fetch_add(&fixture->said, 1);
}

static void open_producer(struct fixture *fixture, int queue_records_max)
{
    struct error error;
    struct producer_settings settings = {
        .client = {.bootstrap_servers = broker_bootstrap(fixture->broker),
                   .log = on_log,
                   .log_owner = fixture},
        .queue_records_max = queue_records_max,
        .topics = topics,
        .gather = fixture->gather,
        .whole = fixture->whole,
        .alone = fixture->alone,
    };
    if (producer_open(&settings, on_report, &fixture->reports, &fixture->producer, &error) != OK)
        fail_msg("%s", error.text);
}

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    fixture->broker = broker_start(1, topics, 4);
    *state = fixture;
    return 0;
}

static int set_up_gathering(void **state)
{
    set_up(state);
    ((struct fixture *)*state)->gather = true;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    broker_delay(fixture->broker, 0);
    producer_close(fixture->producer, 1000);
    broker_stop(fixture->broker);
    free(fixture);
    return 0;
}

static enum outcome send_number(struct fixture *fixture, int32_t partition, int number, struct error *error)
{
    char text[16];
    size_t length = (size_t)snprintf(text, sizeof(text), "%d", number);
    struct header headers[] = {{TEXT("ce_id"), {text, length}}, {TEXT("empty"), {NULL, 0}}};
    struct producer_record record = {.topic = TEXT("orders"),
                                     .partition = partition,
                                     .key = {text, length},
                                     .value = {text, length},
                                     .headers = headers,
                                     .header_count = 2};
    enum outcome outcome = producer_send(fixture->producer, &record, (uint64_t)number, error);
    if (!fixture->gather || number % 3 == 0)
        producer_go(fixture->producer);
    return outcome;
}

static void send_waiting(struct fixture *fixture, int32_t partition, int number)
{
    struct error error;
    enum outcome outcome;
    int64_t until_us = clock_monotonic_us() + WAIT_MS * 1000;
    while ((outcome = send_number(fixture, partition, number, &error)) == RETRY &&
           clock_monotonic_us() < until_us)
        usleep(1000);
    if (outcome != OK)
        fail_msg("%d: %s", number, error.text);
}

struct reading {
    int next, step, wrong;
};

static void expect_next(void *owner, const void *key, size_t key_bytes, const void *value, size_t value_bytes)
{
    (void)key, (void)key_bytes;
    struct reading *reading = owner;
    char text[16] = "";
    snprintf(text, sizeof(text), "%.*s", (int)value_bytes, (const char *)value);
    reading->wrong += atoi(text) != reading->next;
    reading->next = atoi(text) + reading->step;
}

static void all_is_delivered_once_and_in_the_order_of_sending(void **state)
{
    struct fixture *fixture = *state;
    open_producer(fixture, 0);
    enum { COUNT = 10000 };
    for (int i = 0; i < COUNT; i++)
        send_waiting(fixture, i % 4, i);
    assert_true(producer_flush(fixture->producer, WAIT_MS));
    assert_int_equal(producer_in_flight(fixture->producer), 0);
    assert_int_equal(fixture->reports.ok, COUNT);
    assert_int_equal(fixture->reports.count, COUNT);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(fixture->reports.seen[i], 1);
    for (int partition = 0; partition < 4; partition++) {
        struct reading reading = {.next = partition, .step = 4};
        assert_int_equal(broker_read(fixture->broker, "orders", partition, expect_next, &reading), COUNT / 4);
        assert_int_equal(reading.wrong, 0);
    }
}

static void a_key_goes_where_java_puts_it(void **state)
{
    struct fixture *fixture = *state;
    open_producer(fixture, 0);
    broker_add_topic(fixture->broker, "six", 6);
    struct error error;
    struct producer_record record = {
        .topic = TEXT("six"), .partition = -1, .key = TEXT("k1"), .value = TEXT("v")};
    enum outcome outcome;
    int64_t until_us = clock_monotonic_us() + WAIT_MS * 1000;
    while ((outcome = producer_send(fixture->producer, &record, 0, &error)) == RETRY &&
           clock_monotonic_us() < until_us)
        usleep(1000);
    assert_int_equal(outcome, OK);
    assert_true(producer_flush(fixture->producer, WAIT_MS));
    assert_int_equal(broker_read(fixture->broker, "six", 5, NULL, NULL),
                     1); /* kafka-clients' murmur2 of k1, 6 partitions */
}

static void a_full_queue_is_said_and_nothing_is_lost_while_brokers_are_down(void **state)
{
    struct fixture *fixture = *state;
    open_producer(fixture, 50);
    send_waiting(fixture, 0, 0);
    assert_true(producer_flush(fixture->producer, WAIT_MS));
    broker_down(fixture->broker);
    struct error error;
    int sent = 1;
    enum outcome outcome;
    while ((outcome = send_number(fixture, 0, sent, &error)) == OK)
        sent++;
    assert_int_equal(outcome, RETRY);
    assert_string_equal(error.cause, "queue-full");
    assert_true(sent <= 51);
    assert_int_equal(fixture->reports.count, 1);
    assert_false(producer_flush(fixture->producer, 100));
    broker_up(fixture->broker);
    for (; sent < 1000; sent++)
        send_waiting(fixture, 0, sent);
    assert_true(producer_flush(fixture->producer, WAIT_MS));
    assert_int_equal(fixture->reports.ok, 1000);
    struct reading reading = {.step = 1};
    assert_int_equal(broker_read(fixture->broker, "orders", 0, expect_next, &reading), 1000);
    assert_int_equal(reading.wrong, 0);
}

static void errors_that_pass_are_survived_without_a_report(void **state)
{
    struct fixture *fixture = *state;
    open_producer(fixture, 0);
    const int errors[] = {RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
                          RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
                          RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS};
    int sent = 0;
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]) - 1; i++) {
        broker_fail(fixture->broker, BROKER_PRODUCE, errors[i], 2);
        for (int j = 0; j < 20; j++)
            send_waiting(fixture, 0, sent++);
        assert_true(producer_flush(fixture->producer, WAIT_MS));
    }
    broker_fail(fixture->broker, BROKER_METADATA, RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE, 1);
    send_waiting(fixture, 0, sent++);
    assert_true(producer_flush(fixture->producer, WAIT_MS));
    assert_int_equal(fixture->reports.ok, sent);
    assert_false(producer_is_fatal(fixture->producer));
}

static void a_record_the_broker_refuses_is_a_reject(void **state)
{
    struct fixture *fixture = *state;
    open_producer(fixture, 0);
    broker_fail(fixture->broker, BROKER_PRODUCE, RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, 1);
    send_waiting(fixture, 0, 0);
    assert_true(producer_flush(fixture->producer, WAIT_MS));
    assert_int_equal(fixture->reports.reject, 1);
    assert_false(producer_is_fatal(fixture->producer));
    send_waiting(fixture, 0, 1);
    assert_true(producer_flush(fixture->producer, WAIT_MS));
    assert_int_equal(fixture->reports.ok, 1);
}

/* Nothing is said to be refused that may only have been beside what was. */
static void a_refused_batch_ends_a_producer_of_whole_batches_and_alone_it_is_one_record(void **state)
{
    struct fixture *fixture = *state;
    fixture->whole = true;
    open_producer(fixture, 0);
    send_waiting(fixture, 0, 0);
    assert_true(producer_flush(fixture->producer, WAIT_MS));
    broker_fail(fixture->broker, BROKER_PRODUCE, RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, 1);
    struct error error;
    int sent = 1;
    for (; sent < 500 && send_number(fixture, 0, sent, &error) == OK; sent++)
        continue;
    assert_true(producer_flush(fixture->producer, WAIT_MS));
    assert_true(producer_is_fatal(fixture->producer));
    assert_true(producer_refused(fixture->producer));
    assert_int_equal(fixture->reports.count, sent);
    assert_int_equal(fixture->reports.reject, 0);
    assert_int_equal(fixture->reports.ok + fixture->reports.fatal, sent);
    producer_close(fixture->producer, 1000);

    fixture->alone = true;
    open_producer(fixture, 0);
    int ok = fixture->reports.ok;
    broker_fail(fixture->broker, BROKER_PRODUCE, RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, 1);
    for (int i = 0; i < 100; i++)
        send_waiting(fixture, 0, 1000 + i);
    assert_true(producer_flush(fixture->producer, WAIT_MS));
    assert_int_equal(fixture->reports.reject, 1);
    assert_int_equal(fixture->reports.seen[1000], 1);
    assert_int_equal(fixture->reports.ok, ok + 99);
    assert_false(producer_is_fatal(fixture->producer));
}

static void a_record_past_the_bound_is_refused_at_once(void **state)
{
    struct fixture *fixture = *state;
    open_producer(fixture, 0);
    struct error error;
    size_t bytes = (2 << 20) + 1;
    char *large = calloc(1, bytes);
    struct producer_record record = {
        .topic = TEXT("orders"), .partition = 0, .value = {large, bytes}, .key_null = true};
    assert_int_equal(producer_send(fixture->producer, &record, 0, &error), REJECT);
    assert_string_equal(error.cause, "record-too-large");
    free(large);
    assert_int_equal(producer_in_flight(fixture->producer), 0);
}

static void a_fatal_error_ends_the_producer_with_a_report_for_each_record(void **state)
{
    struct fixture *fixture = *state;
    open_producer(fixture, 0);
    send_waiting(fixture, 0, 0);
    assert_true(producer_flush(fixture->producer, WAIT_MS));
    broker_down(fixture->broker);
    for (int i = 1; i <= 20; i++)
        send_waiting(fixture, 0, i);
    const struct handle *handle = (const void *)fixture->producer; /* first in struct producer */
    rd_kafka_test_fatal_error(handle->rk, RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, "a test");
    assert_true(producer_flush(fixture->producer, WAIT_MS));
    assert_int_equal(fixture->reports.count, 21);
    assert_int_equal(fixture->reports.fatal, 20);
    assert_true(producer_is_fatal(fixture->producer));
    struct error error;
    assert_int_equal(send_number(fixture, 0, 21, &error), FATAL);
}

static void close_ends_in_its_bound_where_brokers_hang(void **state)
{
    struct fixture *fixture = *state;
    open_producer(fixture, 0);
    send_waiting(fixture, 0, 0);
    assert_true(producer_flush(fixture->producer, WAIT_MS));
    assert_true(producer_connected(fixture->producer));
    broker_delay(fixture->broker, 3600000);
    for (int i = 1; i < 50; i++)
        send_waiting(fixture, i % 4, i);
    int64_t start_us = clock_monotonic_us();
    producer_close(fixture->producer, 500);
    fixture->producer = NULL;
    assert_true(clock_monotonic_us() - start_us < 10000000); /* minutes without a bound */
}

static void what_the_promises_rest_on_cannot_be_passed_through(void **state)
{
    struct fixture *fixture = *state;
    struct error error;
    const struct {
        const char *name, *value;
        int exit_code;
    } cases[] = {{"enable.idempotence", "false", EXIT_CONFIG},
                 {"acks", "1", EXIT_CONFIG},
                 {"message.timeout.ms", "1000", EXIT_CONFIG},
                 {"no.such.property", "1", EXIT_CONFIG},
                 {"socket.timeout.ms", "minus one", EXIT_CONFIG}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *properties[] = {cases[i].name, cases[i].value, NULL};
        struct producer_settings settings = {
            .client = {.bootstrap_servers = broker_bootstrap(fixture->broker), .properties = properties}};
        assert_int_equal(producer_open(&settings, on_report, &fixture->reports, &fixture->producer, &error),
                         REJECT);
        assert_int_equal(error_exit_code(&error), cases[i].exit_code);
        assert_non_null(strstr(error.text, cases[i].name));
    }
}

static void what_is_gathered_is_taken_and_goes_with_a_flush(void **state)
{
    struct fixture *fixture = *state;
    struct error error;
    open_producer(fixture, 3);
    for (int i = 1; i <= 2; i++) /* no third: nobody says go */
        assert_int_equal(send_number(fixture, 0, i, &error), OK);
    assert_int_equal(producer_in_flight(fixture->producer), 2);
    assert_int_equal(fixture->reports.count, 0);
    assert_int_equal(send_number(fixture, 0, 4, &error), OK);
    assert_int_equal(send_number(fixture, 0, 5, &error), RETRY); /* the bound counts them too */
    assert_true(producer_flush(fixture->producer, WAIT_MS));
    assert_int_equal(fixture->reports.ok, 3);
    assert_int_equal(send_number(fixture, 0, 7, &error), OK); /* left to close() */
}

static void what_waits_for_a_place_that_is_not_there_is_said_once_in_a_while(void **state)
{
    enum { PARTITION = 99, ATTEMPTS = 50 };
    struct fixture *fixture = *state;
    struct error error;
    open_producer(fixture, 0);
    assert_int_equal(send_number(fixture, 0, 3, &error), OK);
    assert_true(producer_flush(fixture->producer, WAIT_MS)); /* the topic is known from here on */
    assert_int_equal(send_number(fixture, PARTITION, 6, &error), OK);
    int64_t until_us = clock_monotonic_us() + WAIT_MS * 1000;
    while (atomic_load(&fixture->said) == 0 && clock_monotonic_us() < until_us) {
        producer_go(fixture->producer);
        usleep(1000);
    }
    for (int i = 0; i < ATTEMPTS; i++)
        producer_go(fixture->producer); /* nothing is in flight: each tries */
    assert_int_equal(atomic_load(&fixture->said), 1);
    assert_int_equal(atomic_load(&fixture->reports.count), 1);
    assert_int_equal(producer_in_flight(fixture->producer), 1);
}

int main(void)
{
#define GATHERING(name)                                                                                      \
    {                                                                                                        \
#name ", gathering", name, set_up_gathering, tear_down, NULL                                         \
    }
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(all_is_delivered_once_and_in_the_order_of_sending),
        CASE(a_key_goes_where_java_puts_it),
        CASE(a_full_queue_is_said_and_nothing_is_lost_while_brokers_are_down),
        CASE(errors_that_pass_are_survived_without_a_report),
        CASE(a_record_the_broker_refuses_is_a_reject),
        CASE(a_refused_batch_ends_a_producer_of_whole_batches_and_alone_it_is_one_record),
        GATHERING(a_refused_batch_ends_a_producer_of_whole_batches_and_alone_it_is_one_record),
        CASE(a_record_past_the_bound_is_refused_at_once),
        CASE(a_fatal_error_ends_the_producer_with_a_report_for_each_record),
        CASE(close_ends_in_its_bound_where_brokers_hang),
        CASE(what_the_promises_rest_on_cannot_be_passed_through),
        GATHERING(what_waits_for_a_place_that_is_not_there_is_said_once_in_a_while),
        GATHERING(all_is_delivered_once_and_in_the_order_of_sending),
        GATHERING(a_full_queue_is_said_and_nothing_is_lost_while_brokers_are_down),
        GATHERING(errors_that_pass_are_survived_without_a_report),
        GATHERING(a_record_the_broker_refuses_is_a_reject),
        GATHERING(a_fatal_error_ends_the_producer_with_a_report_for_each_record),
        GATHERING(close_ends_in_its_bound_where_brokers_hang),
        GATHERING(what_is_gathered_is_taken_and_goes_with_a_flush),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
