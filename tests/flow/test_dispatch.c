/*
 * The loop over the mock cluster and a real SQLite file: a small service that counts orders by customer, with
 * every outcome at its command (the customer's id says which).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "flow/dispatch.h"
#include "kafka/producer.h"
#include "kafka/reader.h"
#include "store/outbox.h"
#include "support/broker.h"
#include "support/scratch.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "kafka/handle.h"
#include "support/world.h"

/* ---- tests */

static bool take_count(void *owner, const struct store_row *row)
{
    *(int64_t *)owner = store_row_int(row, 0);
    return true;
}

static int64_t count_of(struct world *world, const char *query)
{
    int64_t count = -1;
    struct store_reader *reader;
    assert_int_equal(store_reader_open(world->url, "test", &reader, &world->error), OK);
    assert_int_equal(store_read(reader, query, NULL, 0, take_count, &count, &world->error), OK);
    store_reader_close(reader);
    return count;
}

static void an_event_takes_effect_once_however_often_it_is_delivered(void **state)
{
    struct world *world = *state;
    world_place(world, "e1", "anna", "a");
    world_place(world, "e1", "anna", "b");
    world_place(world, "e2", "anna", "c");
    world_place(world, "e1", "anna", "d");
    world_place(world, "e3", "berta", "e");
    world_wait_for_orders(world, "berta", 1);
    assert_string_equal(world_look(world, "anna").seen, "ac");
}

static void what_a_handler_emits_goes_to_its_topic_with_key_and_derived_id(void **state)
{
    struct world *world = *state;
    char id[ID_TEXT_BYTES + 1] = {0};
    world_place(world, "e1", "anna", "a");
    struct found found = world_read(world, "orders", 2); /* the order itself, and its confirmation */
    assert_string_equal(found_header(&found, "ce_type"), "weir.OrderConfirmed");
    assert_string_equal(found_header(&found, "ce_source"), "/weir/order");
    assert_string_equal(found_header(&found, "ce_specversion"), "1.0");
    assert_string_equal(found_header(&found, "content-type"), "application/avro");
    assert_string_equal(found.key, found_header(&found, "ce_subject"));
    id_to_text(id_derive(id_from_text(TEXT("e1")), TEXT("order/OrderConfirmed/0")), id);
    assert_string_equal(found_header(&found, "ce_id"), id);
    assert_true(traceparent_valid(text_of(found_header(&found, "traceparent"))));
}

static void a_rejected_record_is_a_dead_letter_byte_for_byte_with_its_reason(void **state)
{
    struct world *world = *state;
    world_place(world, "e1", "bad", "a");
    world_place(world, "e2", "anna", "b");
    world_wait_for_orders(world, "anna", 1);
    struct found found = world_read(world, "dlq.order", 1);
    assert_string_equal(found_header(&found, "__dlq.errors.topic"), "orders");
    assert_string_equal(found_header(&found, "__dlq.errors.partition"), "0");
    assert_string_equal(found_header(&found, "__dlq.errors.offset"), "0");
    assert_string_equal(found_header(&found, "__dlq.errors.group"), "weir-test");
    assert_string_equal(found_header(&found, "__dlq.errors.message"), "never");
    assert_string_equal(found_header(&found, "weir_error_class"), "REJECT");
    assert_string_equal(found_header(&found, "ce_id"), "e1");
    assert_string_equal(found_header(&found, "mine"), "\1\2");
    assert_int_equal(world_look(world, "bad").orders, 0);
}

static void a_record_that_cannot_be_told_is_a_dead_letter_and_the_rest_flows(void **state)
{
    struct world *world = *state;
    world_produce(world, TEXT("orders"), 0, TEXT("k"), TEXT("junk"), NULL, 0);
    world_place(world, "e2", "anna", "b");
    world_wait_for_orders(world, "anna", 1);
    struct found found = world_read(world, "dlq.order", 1);
    assert_int_equal(found.value_bytes, 4);
    assert_memory_equal(found.value, "junk", 4);
    assert_string_equal(found.key, "k");
}

static void what_the_database_refuses_costs_only_itself(void **state)
{
    struct world *world = *state;
    for (int i = 0; i < 20; i++) {
        char id[8];
        snprintf(id, sizeof(id), "e%d", i);
        world_place(world, id, i == 7 ? "breaks" : "anna", "x");
    }
    world_wait_for_orders(world, "anna", 19);
    struct found found = world_read(world, "dlq.order", 1);
    assert_string_equal(found_header(&found, "ce_id"), "e7");
    assert_int_equal(world_look(world, "breaks").orders, 0);
}

static void a_restart_goes_on_where_it_was(void **state)
{
    struct world *world = *state;
    world_place(world, "e1", "anna", "a");
    world_wait_for_orders(world, "anna", 1);
    world_stop(world);
    world_place(world, "e1", "anna", "again");
    world_place(world, "e2", "anna", "b");
    world_start(world);
    world_wait_for_orders(world, "anna", 2);
    assert_string_equal(world_look(world, "anna").seen, "ab");
}

static void a_key_gives_the_first_answer_again_and_the_effect_once(void **state)
{
    struct world *world = *state;
    struct asked first, again, other, unkeyed;
    world_ask(world, &first, "http", "key-1");
    assert_int_equal(asked_wait(&first), 202);
    world_ask(world, &again, "http", "key-1");
    assert_int_equal(asked_wait(&again), 202);
    assert_string_equal(again.body, first.body);
    world_ask(world, &other, "somebody-else", "key-1");
    assert_int_equal(asked_wait(&other), 422);
    assert_int_equal(world_look(world, "http").orders, 1);
    world_ask(world, &unkeyed, "http", "");
    assert_int_equal(asked_wait(&unkeyed), 202);
    assert_int_equal(world_look(world, "http").orders, 2);
}

/* Both events have one key, so that the first is read when the second was. */
static void what_a_request_says_and_has_done_is_not_handled_when_it_comes_back(void **state)
{
    struct world *world = *state;
    struct asked own, told;
    world_ask(world, &own, "own", "");
    assert_int_equal(asked_wait(&own), 202);
    world_ask(world, &told, "told", "");
    assert_int_equal(asked_wait(&told), 202);
    world_wait_for_orders(world, "told", 2);
    assert_string_equal(world_look(world, "told").seen, "ht");
    assert_int_equal(atomic_load(&world->state.handled), 1);
    assert_string_equal(world_look(world, "own").seen, "h");
    assert_int_equal(count_of(world, "SELECT count(*) FROM inbox"), 2); /* that it came back is noted */
    world_place(world, "e1", "own", "x");                               /* of somebody else */
    world_wait_for_orders(world, "own", 2);
    assert_string_equal(world_look(world, "own").seen, "hx");
}

static void the_same_key_twice_at_once_is_a_conflict(void **state)
{
    struct world *world = *state;
    struct asked asked[64];
    int accepted = 0, conflicts = 0;
    for (size_t i = 0; i < 64; i++)
        world_ask(world, &asked[i], "http", "key-2");
    for (size_t i = 0; i < 64; i++) {
        int status = asked_wait(&asked[i]);
        assert_true(status == 202 || status == 409);
        accepted += status == 202;
        conflicts += status == 409;
    }
    assert_int_equal(accepted + conflicts, 64);
    assert_int_equal(world_look(world, "http").orders, 1);
}

static void kafka_away_changes_nothing_for_who_asks_and_all_is_sent_later(void **state)
{
    struct world *world = *state;
    struct asked asked;
    world_place(world, "e1", "anna", "a");
    world_wait_for_orders(world, "anna", 1);
    world_read(world, "orders", 2);
    broker_down(world->broker);
    world_ask(world, &asked, "http", "");
    assert_int_equal(asked_wait(&asked), 202);
    broker_up(world->broker);
    world_place(world, "e2", "anna", "b");
    world_read(world, "orders", 4);
}

/* The loop is in a handler meanwhile, and takes nothing. */
static void requests_past_the_bound_are_not_taken_and_all_before_it_are_answered(void **state)
{
    enum { CUSTOMERS = 64 };
    struct world *world = *state;
    struct asked *asked = calloc(DISPATCH_REQUESTS_MAX, sizeof(*asked)), more = {0};
    char customers[CUSTOMERS][8];
    assert_non_null(asked);
    atomic_store(&world->state.stuck, true);
    world_place(world, "e1", "stuck", "a");
    int64_t until_us = clock_monotonic_us() + WAIT_MS_MAX * 1000;
    while (atomic_load(&world->state.handled) < 1 && clock_monotonic_us() < until_us)
        usleep(1000);
    assert_int_equal(atomic_load(&world->state.handled), 1);
    for (int i = 0; i < CUSTOMERS; i++)
        snprintf(customers[i], sizeof(customers[i]), "c%d", i);
    for (int i = 0; i < DISPATCH_REQUESTS_MAX; i++)
        world_ask(world, &asked[i], customers[i % CUSTOMERS], "");
    assert_false(dispatch_request(world->dispatch, &more, &asked[0].request));
    atomic_store(&world->state.stuck, false);
    for (int i = 0; i < DISPATCH_REQUESTS_MAX; i++)
        assert_int_equal(asked_wait(&asked[i]), 202);
    assert_int_equal(atomic_load(&more.status), 0);
    for (int i = 0; i < CUSTOMERS; i++)
        assert_int_equal(world_look(world, customers[i]).orders, DISPATCH_REQUESTS_MAX / CUSTOMERS);
    world_ask(world, &more, customers[0], ""); /* there is room again */
    assert_int_equal(asked_wait(&more), 202);
    free(asked);
}

/* Rows for a topic that Kafka does not take at the time. While the service is stopped. */
static void fill_outbox(struct world *world, struct text topic, int count)
{
    enum { AT_ONCE = 1000 };
    struct store *store;
    struct work *work;
    assert_int_equal(store_open(world->url, "test", &store, &world->error), OK);
    assert_int_equal(store_migrate(store, NULL, 0, NULL, 0, &world->error), OK);
    assert_int_equal(work_new(store, 16 << 20, &work, &world->error), OK);
    for (int first = 0; first < count; first += AT_ONCE) {
        assert_int_equal(work_begin(work, &world->error), OK);
        assert_int_equal(work_read(work, &world->error), OK);
        work_item_begin(work);
        for (int i = first; i < count && i < first + AT_ONCE; i++)
            outbox_add(work, &(struct outbox_row){
                                 .topic = topic, .partition = -1, .key = TEXT("k"), .value_null = true});
        assert_int_equal(work_commit(work, &world->error), OK);
    }
    assert_int_equal(outbox_rows(store), count);
    work_destroy(work);
    store_close(store);
}

static bool paused_for_backlog(struct world *world)
{
    return consumer_paused(dispatch_consumer(world->dispatch)) & PAUSE_BACKLOG;
}

static void past_the_bound_of_the_outbox_no_record_is_taken_and_requests_go_on(void **state)
{
    enum { MANY = 10000 }; /* more than are tried until they heal */
    struct world *world = *state;
    struct asked asked;
    world_stop(world);
    world_place(world, "e1", "anna", "a");
    assert_true(producer_flush(world->producer, WAIT_MS_MAX));
    broker_fail(world->broker, BROKER_PRODUCE, RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, MANY);
    fill_outbox(world, TEXT("stock"), DISPATCH_OUTBOX_ROWS_MAX);
    world_start(world);
    int64_t until_us = clock_monotonic_us() + WAIT_MS_MAX * 1000;
    while (!(paused_for_backlog(world) && consumer_ready(dispatch_consumer(world->dispatch))) &&
           clock_monotonic_us() < until_us)
        usleep(10000);
    assert_true(paused_for_backlog(world));
    assert_true(consumer_ready(dispatch_consumer(world->dispatch)));
    for (int i = 1; i <= 10; i++) { /* ten turns of the loop, each past the bound */
        world_ask(world, &asked, "http", "");
        assert_int_equal(asked_wait(&asked), 202);
        assert_int_equal(world_look(world, "http").orders, i);
    }
    assert_true(paused_for_backlog(world));
    assert_int_equal(atomic_load(&world->state.handled), 0);
    broker_heal(world->broker, BROKER_PRODUCE);
    until_us = clock_monotonic_us() + WAIT_MS_MAX * 1000;
    world_wait_for_orders(world, "anna", 1);
    while (paused_for_backlog(world) && clock_monotonic_us() < until_us) /* its answer is one more row */
        usleep(10000);
    assert_false(paused_for_backlog(world));
}

/* So that what is handed over together goes in one batch, however busy the machine is. */
static int setup_lingering(void **state)
{
    setenv("KAFKA_LINGER", "500ms", 1);
    int failed = world_setup(state);
    unsetenv("KAFKA_LINGER");
    return failed;
}

/* Five confirmations of one key, sent together: the broker refuses the batch, and then the first of them
 * alone. */
static void of_a_batch_that_kafka_refuses_only_what_it_refuses_alone_is_set_aside(void **state)
{
    struct world *world = *state;
    static const char *const ids[] = {"e1", "e2", "e3", "e4", "e5"};
    const struct text key = TEXT("0190b6a0-0000-7000-8000-000000000001");
    enum { COUNT = sizeof(ids) / sizeof(ids[0]) };
    world_place(world, "e0", "anna", "a");
    world_wait_for_orders(world, "anna", 1);
    world_read(world, "orders", 2);
    dispatch_pause(world->dispatch);
    for (int i = 0; i < COUNT; i++)
        world_place_on(world, TEXT("orders"), ids[i], key, "anna", "b", NULL, 0);
    assert_true(producer_flush(world->producer, WAIT_MS_MAX));
    broker_fail(world->broker, BROKER_PRODUCE, RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, 2);
    dispatch_resume(world->dispatch);
    world_wait_for_orders(world, "anna", 1 + COUNT);
    for (size_t i = 1; i < COUNT; i++) {
        char id[ID_TEXT_BYTES + 1] = {0};
        id_to_text(id_derive(id_from_text(text_of(ids[i])), TEXT("order/OrderConfirmed/0")), id);
        struct found found = world_read_of(world, "orders", "weir.OrderConfirmed", 1 + i);
        assert_string_equal(found_header(&found, "ce_id"), id);
    }
    int64_t until_us = clock_monotonic_us() + WAIT_MS_MAX * 1000;
    while (count_of(world, "SELECT count(*) FROM outbox_refused") < 1 && clock_monotonic_us() < until_us)
        usleep(10000);
    assert_int_equal(count_of(world, "SELECT count(*) FROM outbox_refused"), 1);
}

int main(int argc, char **argv)
{
    scratch_choose(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_event_takes_effect_once_however_often_it_is_delivered, world_setup,
                                        world_teardown),
        cmocka_unit_test_setup_teardown(what_a_handler_emits_goes_to_its_topic_with_key_and_derived_id,
                                        world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(a_rejected_record_is_a_dead_letter_byte_for_byte_with_its_reason,
                                        world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(a_record_that_cannot_be_told_is_a_dead_letter_and_the_rest_flows,
                                        world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(what_the_database_refuses_costs_only_itself, world_setup,
                                        world_teardown),
        cmocka_unit_test_setup_teardown(a_restart_goes_on_where_it_was, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(a_key_gives_the_first_answer_again_and_the_effect_once, world_setup,
                                        world_teardown),
        cmocka_unit_test_setup_teardown(what_a_request_says_and_has_done_is_not_handled_when_it_comes_back,
                                        world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(the_same_key_twice_at_once_is_a_conflict, world_setup,
                                        world_teardown),
        cmocka_unit_test_setup_teardown(requests_past_the_bound_are_not_taken_and_all_before_it_are_answered,
                                        world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(past_the_bound_of_the_outbox_no_record_is_taken_and_requests_go_on,
                                        world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(of_a_batch_that_kafka_refuses_only_what_it_refuses_alone_is_set_aside,
                                        setup_lingering, world_teardown),
        cmocka_unit_test_setup_teardown(kafka_away_changes_nothing_for_who_asks_and_all_is_sent_later,
                                        world_setup, world_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
