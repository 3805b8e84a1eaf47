#include "support/world.h"

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
#include "support/cluster.h"
#include "support/placed.h"
#include "support/scratch.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

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

static bool starts_with(struct text text, const char *with)
{
    return text.length >= strlen(with) && memcmp(text.at, with, strlen(with)) == 0;
}

static enum outcome on_order_placed(struct work *work, const struct event *event, struct error *error)
{
    const struct order_placed *order = event->data;
    struct state *state = work_state(work);
    atomic_fetch_add(&state->handled, 1);
    if (starts_with(order->customer_id, "slow"))
        usleep((unsigned)atomic_load(&state->slow_ms) * 1000);
    bool stuck = starts_with(order->customer_id, "stuck");
    for (int ms = 0; stuck && atomic_load(&state->stuck) && ms < WAIT_MS_MAX; ms++)
        usleep(1000);
    count_order(work, order->customer_id, order->locale, 1);
    if (starts_with(order->customer_id, "shaky") && atomic_fetch_sub(&state->fail_times, 1) > 0)
        return error_retry(error, "shaky", "not yet");
    if (starts_with(order->customer_id, "bad") && !atomic_load(&state->mended))
        return error_reject(error, "bad", "never");
    if (starts_with(order->customer_id, "away") && atomic_load(&state->away))
        return error_outage(error, "away", "a dependency is away");
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
    bool own = starts_with(request->parameters[0], "own");
    if (own || starts_with(request->parameters[0], "told")) {
        const struct order_placed order = {.order_id = TEXT("0190b6a0-0000-7000-8000-00000000000f"),
                                           .customer_id = request->parameters[0],
                                           .locale = TEXT("t")};
        work_emit_type(work, &order_placed_type, &order, &(struct emit_as){.effected = own});
    }
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

void world_start(struct world *world)
{
    static const int64_t delays_ms[] = {WORLD_DELAY_1_MS, WORLD_DELAY_2_MS};
    const struct rows_table *all[ROWS_TABLES_MAX] = {&count_table};
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
        .retry_delays_ms = delays_ms,
        .retry_delay_count = 2,
        .config = world->config,
        .backlog_max = 1000,
        .answer = on_answer,
    };
    assert_int_equal(dispatch_open(&settings, &world->dispatch, &world->error), OK);
    pthread_create(&world->thread, NULL, run, world);
}

void world_stop(struct world *world)
{
    dispatch_stop(world->dispatch);
    pthread_join(world->thread, NULL);
    assert_int_equal(world->outcome, OK);
    dispatch_close(world->dispatch, 5000);
    metrics_destroy(world->metrics);
    store_close(world->store);
    world->dispatch = NULL;
}

int world_setup(void **state)
{
    static const char *const topics[] = {"orders",    "payments",    "inventory",   "emails", "stock",
                                         "dlq.order", WORLD_RETRY_1, WORLD_RETRY_2, NULL};
    static char *arguments[] = {"-X",
                                "session.timeout.ms=6000",
                                "--waiting-max",
                                "5",
                                "--flood-count-min",
                                "50",
                                "--dead-letter-hold",
                                "used-up",
                                "--waiting-keys-max",
                                "3",
                                NULL};
    struct world *world = calloc(1, sizeof(*world));
    const struct setting *const tables[] = {kafka_settings, flow_settings};
    assert_int_equal(config_read(tables, 2, 10, arguments, &world->config, &world->error), OK);
    world->broker = broker_start(1, topics, PARTITIONS);
    snprintf(world->folder, sizeof(world->folder), "%s/weir-XXXXXX",
             getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    assert_non_null(mkdtemp(world->folder));
    snprintf(world->url, sizeof(world->url), "sqlite:%s/test.db", world->folder);
    if (scratch_cluster())
        cluster_make(scratch_cluster(), world->url);
    assert_int_equal(registry_open(NULL, &world->registry, &world->error), OK);
    const struct producer_settings producer = {
        .client = client(world), .linger_ms = 1, .queue_records_max = 10000, .queue_kbytes_max = 10000};
    assert_int_equal(producer_open(&producer, on_report, world, &world->producer, &world->error), OK);
    world_start(world);
    *state = world;
    return 0;
}

int world_teardown(void **state)
{
    struct world *world = *state;
    char command[128];
    if (world->dispatch)
        world_stop(world);
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

void world_produce(struct world *world, struct text topic, int32_t partition, struct text key,
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

void world_place(struct world *world, const char *event_id, const char *customer, const char *mark)
{
    char order_id[ID_TEXT_BYTES];
    world_place_on(world, TEXT("orders"), event_id, id_to_text(id_from_text(text_of(event_id)), order_id),
                   customer, mark, NULL, 0);
}

void world_place_on(struct world *world, struct text topic, const char *event_id, struct text order_id,
                    const char *customer, const char *mark, const struct header *more, size_t more_count)
{
    struct buffer value = placed_value(order_id, text_of(customer), text_of(mark));
    enum { OWN = 3 };
    struct header headers[WORLD_HEADERS_MAX] = {{TEXT("ce_id"), text_of(event_id)},
                                                {TEXT("ce_type"), TEXT("weir.OrderPlaced")},
                                                {TEXT("mine"), TEXT("\1\2")}};
    assert_true(more_count <= WORLD_HEADERS_MAX - OWN);
    for (size_t i = 0; i < more_count; i++)
        headers[OWN + i] = more[i];
    world_produce(world, topic, 0, order_id, buffer_text(&value), headers, OWN + more_count);
    buffer_free(&value);
}

static bool take_row(void *owner, const struct store_row *row)
{
    struct seen *seen = owner;
    seen->orders = store_row_int(row, 0);
    snprintf(seen->seen, sizeof(seen->seen), "%.*s", TEXT_ARG(store_row_text(row, 1)));
    return true;
}

struct seen world_look(struct world *world, const char *customer)
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

void world_wait_for_orders(struct world *world, const char *customer, int64_t orders)
{
    int64_t until_us = clock_monotonic_us() + WAIT_MS_MAX * 1000;
    while (world_look(world, customer).orders < orders && clock_monotonic_us() < until_us)
        usleep(20000);
    assert_int_equal(world_look(world, customer).orders, orders);
}

struct found world_read(struct world *world, const char *topic, size_t count)
{
    return world_read_of(world, topic, NULL, count);
}

struct found world_read_of(struct world *world, const char *topic, const char *type, size_t count)
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
        enum outcome outcome = record_headers(&record, arena, &headers, &found.header_count, &world->error);
        assert_true(outcome == OK || (outcome == REJECT && found.header_count)); /* too many: all are given */
        assert_true(found.header_count <= WORLD_HEADERS_MAX);
        for (size_t i = 0; i < found.header_count; i++) {
            snprintf(found.headers[i].name, sizeof(found.headers[i].name), "%.*s", TEXT_ARG(headers[i].name));
            snprintf(found.headers[i].value, sizeof(found.headers[i].value), "%.*s",
                     TEXT_ARG(headers[i].value));
        }
        if (type && strcmp(found_header(&found, "ce_type"), type) != 0) {
            reader_release(&record);
            continue;
        }
        found.count++;
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

const char *found_header(const struct found *found, const char *name)
{
    for (size_t i = 0; i < found->header_count; i++)
        if (strcmp(found->headers[i].name, name) == 0)
            return found->headers[i].value;
    return "(absent)";
}

void world_ask(struct world *world, struct asked *asked, const char *customer, const char *key)
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

int asked_wait(struct asked *asked)
{
    int64_t until_us = clock_monotonic_us() + WAIT_MS_MAX * 1000;
    while (!atomic_load(&asked->status) && clock_monotonic_us() < until_us)
        usleep(1000);
    return atomic_load(&asked->status);
}
