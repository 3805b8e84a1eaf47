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
#include "support/broker.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { WAIT_MS_MAX = 60000, PARTITIONS = 3 };

/* ---- the service: counts orders, and fails as it is told */

struct count_row {
    struct text customer;
    int64_t orders;
    struct text seen; /* order ids in the order of their handling, one letter each */
};
static const struct rows_column count_columns[] = {
    ROWS_COLUMN(count_row, customer, ROWS_TEXT),
    ROWS_COLUMN(count_row, orders, ROWS_INT),
    ROWS_COLUMN(count_row, seen, ROWS_TEXT),
};
static const struct rows_table count_table = {
    .name = "counts",
    .columns = count_columns,
    .column_count = 3,
    .key_count = 1,
    .row_bytes = sizeof(struct count_row),
    .check = "orders < 100",
};

struct state {
    atomic_int fail_times; /* "shaky" customers fail so often */
    atomic_int handled;
};

static enum outcome count_order(struct work *work, struct text customer, struct text mark, int64_t by)
{
    struct count_row *row = rows_get(work, &count_table, &(struct count_row){.customer = customer});
    if (!row)
        row = rows_add(work, &count_table, &(struct count_row){.customer = customer});
    if (row) {
        row->orders += by;
        row->seen = text_of(arena_print(work_arena(work), "%.*s%.*s", TEXT_ARG(row->seen), TEXT_ARG(mark)));
    }
    return OK;
}

static enum outcome on_order_placed(struct work *work, const struct event *event, struct error *error)
{
    const struct order_placed *order = event->data;
    struct state *state = work_state(work);
    atomic_fetch_add(&state->handled, 1);
    count_order(work, order->customer_id, order->locale, 1);
    if (text_is(order->customer_id, "shaky") && atomic_fetch_sub(&state->fail_times, 1) > 0)
        return error_retry(error, "shaky", "not yet");
    if (text_is(order->customer_id, "bad"))
        return error_reject(error, "bad", "never");
    if (text_is(order->customer_id, "breaks"))
        count_order(work, order->customer_id, TEXT(""), 1000);
    const struct order_confirmed confirmed = {
        .order_id = order->order_id, .payment_id = TEXT("p"), .confirmed_at = 1};
    work_emit(work, &confirmed);
    return OK;
}

static enum outcome post_count(struct work *work, const struct request *request, struct answer *answer,
                               struct error *error)
{
    (void)error;
    count_order(work, request->parameters[0], TEXT("h"), 1);
    *answer = (struct answer){.status = 202, .body = TEXT("{\"first\":true}")};
    return OK;
}

static const struct subscription subscriptions[] = {
    {.type = &order_placed_type, .handle = on_order_placed, .ordering = ORDERED},
    {0},
};
static const struct route count_route = {
    .method = "POST", .path = "/v1/counts/{customer}", .kind = ROUTE_WRITE, .handle = post_count};

/* ---- the world around it */

struct world {
    struct broker *broker;
    char folder[64];
    char url[128];
    struct state state;
    struct config *config;
    struct metrics *metrics;
    struct registry *registry;
    struct store *store;
    struct dispatch *dispatch;
    pthread_t thread;
    struct error error;
    enum outcome outcome;
    struct producer *producer;
    atomic_int acked;
    int sent;
};

struct asked {
    struct request request;
    atomic_int status;
    char body[512];
};

static void on_answer(void *exchange, const struct answer *answer)
{
    struct asked *asked = exchange;
    snprintf(asked->body, sizeof(asked->body), "%.*s", TEXT_ARG(answer->body));
    atomic_store(&asked->status, answer->status);
}

static void on_report(void *owner, uint64_t tag, enum outcome outcome, int32_t partition, int64_t offset,
                      const char *reason)
{
    struct world *world = owner;
    (void)tag;
    (void)partition;
    (void)offset;
    (void)reason;
    assert_int_equal(outcome, OK);
    atomic_fetch_add(&world->acked, 1);
}

static int64_t drain_left(void)
{
    return 10000;
}

static void *run(void *owner)
{
    struct world *world = owner;
    world->outcome = dispatch_run(world->dispatch, drain_left, &world->error);
    return NULL;
}

static struct client_settings client(const struct world *world)
{
    return (struct client_settings){
        .bootstrap_servers = broker_bootstrap(world->broker),
        .client_id = "test",
        .config = world->config,
    };
}

static void service_start(struct world *world)
{
    const struct rows_table *all[8] = {&count_table};
    size_t count = 1;
    for (const struct rows_table *const *table = flow_tables; *table; table++)
        all[count++] = *table;
    assert_int_equal(store_open(world->url, "test", &world->store, &world->error), OK);
    assert_int_equal(store_migrate(world->store, all, count, NULL, 0, &world->error), OK);
    world->metrics = metrics_new();
    const struct dispatch_settings settings = {
        .service = "order",
        .subscriptions = subscriptions,
        .state = &world->state,
        .store = world->store,
        .registry = world->registry,
        .metrics = world->metrics,
        .client = client(world),
        .group_id = "weir-test",
        .config = world->config,
        .backlog_max = 1000,
        .answer = on_answer,
    };
    assert_int_equal(dispatch_open(&settings, &world->dispatch, &world->error), OK);
    pthread_create(&world->thread, NULL, run, world);
}

static void service_stop(struct world *world)
{
    dispatch_stop(world->dispatch);
    pthread_join(world->thread, NULL);
    assert_int_equal(world->outcome, OK);
    dispatch_close(world->dispatch, 5000);
    metrics_destroy(world->metrics);
    store_close(world->store);
    world->dispatch = NULL;
}

static int setup(void **state)
{
    static const char *const topics[] = {"orders", "payments",  "inventory", "emails",
                                         "stock",  "dlq.order", NULL};
    static char *arguments[] = {"-X", "session.timeout.ms=6000", NULL};
    struct world *world = calloc(1, sizeof(*world));
    const struct setting *const tables[] = {kafka_settings, flow_settings};
    assert_int_equal(config_read(tables, 2, 2, arguments, &world->config, &world->error), OK);
    world->broker = broker_start(1, topics, PARTITIONS);
    snprintf(world->folder, sizeof(world->folder), "%s/weir-XXXXXX",
             getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    assert_non_null(mkdtemp(world->folder));
    snprintf(world->url, sizeof(world->url), "sqlite:%s/test.db", world->folder);
    assert_int_equal(registry_open(NULL, &world->registry, &world->error), OK);
    const struct producer_settings producer = {
        .client = client(world), .linger_ms = 1, .queue_records_max = 10000, .queue_kbytes_max = 10000};
    assert_int_equal(producer_open(&producer, on_report, world, &world->producer, &world->error), OK);
    service_start(world);
    *state = world;
    return 0;
}

static int teardown(void **state)
{
    struct world *world = *state;
    char command[128];
    if (world->dispatch)
        service_stop(world);
    producer_close(world->producer, 2000);
    registry_close(world->registry);
    broker_stop(world->broker);
    config_destroy(world->config);
    snprintf(command, sizeof(command), "rm -rf '%s'", world->folder);
    assert_int_equal(system(command), 0);
    free(world);
    return 0;
}

/* ---- what tests do and see */

static void produce(struct world *world, struct text topic, int32_t partition, struct text key,
                    struct text value, const struct header *headers, size_t header_count)
{
    const struct producer_record record = {.topic = topic,
                                           .partition = partition,
                                           .key = key,
                                           .value = value,
                                           .headers = headers,
                                           .header_count = header_count};
    assert_int_equal(producer_send(world->producer, &record, 1, &world->error), OK);
    world->sent++;
}

/* An OrderPlaced of customer; mark tells it apart in the row's seen. All in partition 0, so that order is
 * told by it. */
static void place(struct world *world, const char *event_id, const char *customer, const char *mark)
{
    char order_id[ID_TEXT_BYTES];
    struct order_item item = {.sku = TEXT("sku"), .quantity = 1, .unit_price_minor = 5};
    const struct order_placed order = {
        .order_id = id_to_text(id_from_text(text_of(event_id)), order_id),
        .customer_id = text_of(customer),
        .email = TEXT("a@b.example"),
        .locale = text_of(mark),
        .currency = TEXT("EUR"),
        .total_minor = 5,
        .items = &item,
        .items_count = 1,
        .placed_at = 1,
    };
    struct buffer value = buffer_of(10000);
    frame_write(&value, 101);
    assert_int_equal(codec_encode(order_placed_type.codec, &order, &value, &world->error), OK);
    const struct header headers[] = {{TEXT("ce_id"), text_of(event_id)},
                                     {TEXT("ce_type"), TEXT("weir.OrderPlaced")},
                                     {TEXT("mine"), TEXT("\1\2")}};
    produce(world, TEXT("orders"), 0, order.order_id, buffer_text(&value), headers, 3);
    buffer_free(&value);
}

struct seen {
    int64_t orders;
    char seen[256];
};

static bool take_row(void *owner, const struct store_row *row)
{
    struct seen *seen = owner;
    seen->orders = store_row_int(row, 0);
    snprintf(seen->seen, sizeof(seen->seen), "%.*s", TEXT_ARG(store_row_text(row, 1)));
    return true;
}

static struct seen look(struct world *world, const char *customer)
{
    struct seen seen = {0};
    struct store_reader *reader;
    const struct store_value parameter = STORE_TEXT(text_of(customer));
    assert_int_equal(store_reader_open(world->url, "test", &reader, &world->error), OK);
    assert_int_equal(store_read(reader, "SELECT orders, seen FROM counts WHERE customer = $1", &parameter, 1,
                                take_row, &seen, &world->error),
                     OK);
    store_reader_close(reader);
    return seen;
}

static void wait_for_orders(struct world *world, const char *customer, int64_t orders)
{
    int64_t until_us = clock_monotonic_us() + WAIT_MS_MAX * 1000;
    while (look(world, customer).orders < orders && clock_monotonic_us() < until_us)
        usleep(20000);
    assert_int_equal(look(world, customer).orders, orders);
}

/* Reads topic from its beginning until count records are there; tells the last one. */
struct found {
    size_t count;
    struct {
        char name[64], value[256];
    } headers[32];
    size_t header_count;
    char key[128];
    char value[256];
    size_t value_bytes;
};

static struct found read_topic(struct world *world, const char *topic, size_t count)
{
    struct found found = {0};
    const char *const topics[] = {topic, NULL};
    struct client_settings settings = client(world);
    struct reader *reader;
    struct arena *arena = arena_new(1 << 20);
    int64_t until_us = clock_monotonic_us() + WAIT_MS_MAX * 1000;
    assert_int_equal(
        reader_open(&settings, topics, READER_BEGINNING, 0, false, 15000, NULL, &reader, &world->error), OK);
    while (found.count < count && clock_monotonic_us() < until_us) {
        struct record record;
        const struct header *headers;
        bool got, end;
        assert_int_equal(reader_read(reader, 100, &record, &got, &end, &world->error), OK);
        if (!got)
            continue;
        found.count++;
        assert_int_equal(record_headers(&record, arena, &headers, &found.header_count, &world->error), OK);
        for (size_t i = 0; i < found.header_count; i++) {
            snprintf(found.headers[i].name, sizeof(found.headers[i].name), "%.*s", TEXT_ARG(headers[i].name));
            snprintf(found.headers[i].value, sizeof(found.headers[i].value), "%.*s",
                     TEXT_ARG(headers[i].value));
        }
        snprintf(found.key, sizeof(found.key), "%.*s", TEXT_ARG(record.key));
        found.value_bytes = record.value.length;
        memcpy(found.value, record.value.at, record.value.length < 256 ? record.value.length : 256);
        reader_release(&record);
    }
    reader_close(reader);
    arena_destroy(arena);
    assert_int_equal(found.count, count);
    return found;
}

static const char *header(const struct found *found, const char *name)
{
    for (size_t i = 0; i < found->header_count; i++)
        if (strcmp(found->headers[i].name, name) == 0)
            return found->headers[i].value;
    return "(absent)";
}

static void ask(struct world *world, struct asked *asked, const char *customer, const char *key)
{
    asked->request = (struct request){
        .route = &count_route,
        .parameters = {text_of(customer)},
        .idempotency_key = text_of(key),
        .id = id_new(),
    };
    atomic_store(&asked->status, 0);
    assert_true(dispatch_request(world->dispatch, asked, &asked->request));
}

static int wait_for_answer(struct asked *asked)
{
    int64_t until_us = clock_monotonic_us() + WAIT_MS_MAX * 1000;
    while (!atomic_load(&asked->status) && clock_monotonic_us() < until_us)
        usleep(1000);
    return atomic_load(&asked->status);
}

/* ---- tests */

static void an_event_takes_effect_once_however_often_it_is_delivered(void **state)
{
    struct world *world = *state;
    place(world, "e1", "anna", "a");
    place(world, "e1", "anna", "b");
    place(world, "e2", "anna", "c");
    place(world, "e1", "anna", "d");
    place(world, "e3", "berta", "e");
    wait_for_orders(world, "berta", 1);
    assert_string_equal(look(world, "anna").seen, "ac");
}

static void what_a_handler_emits_goes_to_its_topic_with_key_and_derived_id(void **state)
{
    struct world *world = *state;
    char id[ID_TEXT_BYTES + 1] = {0};
    place(world, "e1", "anna", "a");
    struct found found = read_topic(world, "orders", 2); /* the order itself, and its confirmation */
    assert_string_equal(header(&found, "ce_type"), "weir.OrderConfirmed");
    assert_string_equal(header(&found, "ce_source"), "/weir/order");
    assert_string_equal(header(&found, "ce_specversion"), "1.0");
    assert_string_equal(header(&found, "content-type"), "application/avro");
    assert_string_equal(found.key, header(&found, "ce_subject"));
    id_to_text(id_derive(id_from_text(TEXT("e1")), TEXT("order/OrderConfirmed/0")), id);
    assert_string_equal(header(&found, "ce_id"), id);
    assert_true(traceparent_valid(text_of(header(&found, "traceparent"))));
}

static void a_rejected_record_is_a_dead_letter_byte_for_byte_with_its_reason(void **state)
{
    struct world *world = *state;
    place(world, "e1", "bad", "a");
    place(world, "e2", "anna", "b");
    wait_for_orders(world, "anna", 1);
    struct found found = read_topic(world, "dlq.order", 1);
    assert_string_equal(header(&found, "__dlq.errors.topic"), "orders");
    assert_string_equal(header(&found, "__dlq.errors.partition"), "0");
    assert_string_equal(header(&found, "__dlq.errors.offset"), "0");
    assert_string_equal(header(&found, "__dlq.errors.group"), "weir-test");
    assert_string_equal(header(&found, "__dlq.errors.message"), "never");
    assert_string_equal(header(&found, "weir_error_class"), "REJECT");
    assert_string_equal(header(&found, "ce_id"), "e1");
    assert_string_equal(header(&found, "mine"), "\1\2");
    assert_int_equal(look(world, "bad").orders, 0);
}

static void a_record_that_cannot_be_told_is_a_dead_letter_and_the_rest_flows(void **state)
{
    struct world *world = *state;
    produce(world, TEXT("orders"), 0, TEXT("k"), TEXT("junk"), NULL, 0);
    place(world, "e2", "anna", "b");
    wait_for_orders(world, "anna", 1);
    struct found found = read_topic(world, "dlq.order", 1);
    assert_int_equal(found.value_bytes, 4);
    assert_memory_equal(found.value, "junk", 4);
    assert_string_equal(found.key, "k");
}

static void a_failing_record_is_tried_again_and_order_is_kept(void **state)
{
    struct world *world = *state;
    atomic_store(&world->state.fail_times, 3);
    place(world, "e1", "shaky", "a");
    place(world, "e2", "shaky", "b");
    place(world, "e3", "shaky", "c");
    wait_for_orders(world, "shaky", 3);
    assert_string_equal(look(world, "shaky").seen, "abc");
}

static void what_the_database_refuses_costs_only_itself(void **state)
{
    struct world *world = *state;
    for (int i = 0; i < 20; i++) {
        char id[8];
        snprintf(id, sizeof(id), "e%d", i);
        place(world, id, i == 7 ? "breaks" : "anna", "x");
    }
    wait_for_orders(world, "anna", 19);
    struct found found = read_topic(world, "dlq.order", 1);
    assert_string_equal(header(&found, "ce_id"), "e7");
    assert_int_equal(look(world, "breaks").orders, 0);
}

static void a_restart_goes_on_where_it_was(void **state)
{
    struct world *world = *state;
    place(world, "e1", "anna", "a");
    wait_for_orders(world, "anna", 1);
    service_stop(world);
    place(world, "e1", "anna", "again");
    place(world, "e2", "anna", "b");
    service_start(world);
    wait_for_orders(world, "anna", 2);
    assert_string_equal(look(world, "anna").seen, "ab");
}

static void a_key_gives_the_first_answer_again_and_the_effect_once(void **state)
{
    struct world *world = *state;
    struct asked first, again, other, unkeyed;
    ask(world, &first, "http", "key-1");
    assert_int_equal(wait_for_answer(&first), 202);
    ask(world, &again, "http", "key-1");
    assert_int_equal(wait_for_answer(&again), 202);
    assert_string_equal(again.body, first.body);
    ask(world, &other, "somebody-else", "key-1");
    assert_int_equal(wait_for_answer(&other), 422);
    assert_int_equal(look(world, "http").orders, 1);
    ask(world, &unkeyed, "http", "");
    assert_int_equal(wait_for_answer(&unkeyed), 202);
    assert_int_equal(look(world, "http").orders, 2);
}

static void the_same_key_twice_at_once_is_a_conflict(void **state)
{
    struct world *world = *state;
    struct asked asked[64];
    int accepted = 0, conflicts = 0;
    for (size_t i = 0; i < 64; i++)
        ask(world, &asked[i], "http", "key-2");
    for (size_t i = 0; i < 64; i++) {
        int status = wait_for_answer(&asked[i]);
        assert_true(status == 202 || status == 409);
        accepted += status == 202;
        conflicts += status == 409;
    }
    assert_int_equal(accepted + conflicts, 64);
    assert_int_equal(look(world, "http").orders, 1);
}

static void kafka_away_changes_nothing_for_who_asks_and_all_is_sent_later(void **state)
{
    struct world *world = *state;
    struct asked asked;
    place(world, "e1", "anna", "a");
    wait_for_orders(world, "anna", 1);
    read_topic(world, "orders", 2);
    broker_down(world->broker);
    ask(world, &asked, "http", "");
    assert_int_equal(wait_for_answer(&asked), 202);
    broker_up(world->broker);
    place(world, "e2", "anna", "b");
    read_topic(world, "orders", 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_event_takes_effect_once_however_often_it_is_delivered, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_a_handler_emits_goes_to_its_topic_with_key_and_derived_id, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_rejected_record_is_a_dead_letter_byte_for_byte_with_its_reason,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_record_that_cannot_be_told_is_a_dead_letter_and_the_rest_flows,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_failing_record_is_tried_again_and_order_is_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(what_the_database_refuses_costs_only_itself, setup, teardown),
        cmocka_unit_test_setup_teardown(a_restart_goes_on_where_it_was, setup, teardown),
        cmocka_unit_test_setup_teardown(a_key_gives_the_first_answer_again_and_the_effect_once, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(the_same_key_twice_at_once_is_a_conflict, setup, teardown),
        cmocka_unit_test_setup_teardown(kafka_away_changes_nothing_for_who_asks_and_all_is_sent_later, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
