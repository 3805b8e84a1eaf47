/*
 * Retry topics, the waiting room, dead letters that come back, and the guards, over the mock cluster and a
 * real SQLite file: support/world.h.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "flow/flood.h"
#include "store/outbox.h"
#include "store/waiting.h"
#include "support/scratch.h"
#include "support/world.h"
#include "wire/events.h"
#include "wire/origin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KEY   TEXT("0190b6a0-0000-7000-8000-000000000001")
#define OTHER TEXT("0190b6a0-0000-7000-8000-000000000002")

static void place(struct world *world, const char *id, struct text key, const char *customer,
                  const char *mark)
{
    world_place_on(world, TEXT("orders"), id, key, customer, mark, NULL, 0);
}

static int64_t status(struct world *world, const char *name)
{
    char pattern[64];
    struct buffer text = buffer_of(4096);
    dispatch_status(world->dispatch, &text);
    buffer_add_char(&text, '\0');
    snprintf(pattern, sizeof(pattern), "\"%s\":", name);
    const char *at = strstr(text.at, pattern);
    long long number = at ? atoll(at + strlen(pattern)) : -1;
    buffer_free(&text);
    return number;
}

static void wait_for_status(struct world *world, const char *name, int64_t number)
{
    int64_t until_us = clock_monotonic_us() + WAIT_MS_MAX * 1000;
    while (status(world, name) != number && clock_monotonic_us() < until_us)
        usleep(10000);
    assert_int_equal(status(world, name), number);
}

/* A dead letter as people send it back: what the service wrote, with the headers of a redrive or a drop. */
static void send_back(struct world *world, const char *id, struct text key, const char *customer,
                      const char *mark, const char *deliveries, const char *drop)
{
    const struct header headers[] = {
        {TEXT(HEADER_ERRORS_TOPIC), TEXT("orders")},
        {TEXT(HEADER_ERRORS_PARTITION), TEXT("0")},
        {TEXT(HEADER_ERRORS_OFFSET), TEXT("0")},
        {TEXT(HEADER_ERRORS_DELIVERY_COUNT), text_of(deliveries)},
        {TEXT(HEADER_ATTEMPT), TEXT("0")},
        {TEXT(HEADER_FIRST_FAILED_AT), TEXT("2026-01-02T03:04:05Z")},
        {TEXT(HEADER_REDRIVES), TEXT("1")},
        {drop ? TEXT(HEADER_DROP) : TEXT(HEADER_REDRIVEN_BY), drop ? text_of(drop) : TEXT("me")},
    };
    world_place_on(world, TEXT(WORLD_RETRY_1), id, key, customer, mark, headers,
                   sizeof(headers) / sizeof(headers[0]));
}

static void a_record_that_fails_goes_up_the_retry_topics_and_order_of_its_key_is_kept(void **state)
{
    struct world *world = *state;
    atomic_store(&world->state.fail_times, 2);
    place(world, "e1", KEY, "shaky", "a");
    place(world, "e2", KEY, "shaky", "b");
    place(world, "e3", KEY, "shaky", "c");
    world_wait_for_orders(world, "shaky", 3);
    assert_string_equal(world_look(world, "shaky").seen, "abc");
    wait_for_status(world, "held_keys", 0);
    wait_for_status(world, "waiting", 0);

    struct found first = world_read(world, WORLD_RETRY_1, 1), second = world_read(world, WORLD_RETRY_2, 1);
    assert_string_equal(found_header(&first, "weir_attempt"), "1");
    assert_string_equal(found_header(&second, "weir_attempt"), "2");
    assert_string_equal(found_header(&second, "__dlq.errors.delivery.count"), "2");
    assert_string_equal(found_header(&second, "__dlq.errors.topic"), "orders");
    assert_string_equal(found_header(&second, "__dlq.errors.offset"), "0");
    assert_string_equal(found_header(&second, "__dlq.errors.message"), "not yet");
    assert_string_equal(found_header(&second, "weir_error_class"), "RETRY");
    assert_string_equal(found_header(&second, "mine"), "\1\2");
    assert_string_equal(found_header(&first, "weir_first_failed_at"),
                        found_header(&second, "weir_first_failed_at"));
    int64_t failed_us = 0, due_us = 0;
    assert_true(clock_from_rfc3339(text_of(found_header(&first, "weir_first_failed_at")), &failed_us));
    assert_true(clock_from_rfc3339(text_of(found_header(&first, "weir_due_at")), &due_us));
    assert_int_equal(due_us - failed_us, WORLD_DELAY_1_MS * 1000);
}

static void other_keys_flow_while_one_waits(void **state)
{
    struct world *world = *state;
    atomic_store(&world->state.fail_times, 1000);
    place(world, "e1", KEY, "shaky", "a");
    place(world, "e2", KEY, "anna", "b"); /* would succeed, but is behind */
    place(world, "e3", OTHER, "berta", "c");
    world_wait_for_orders(world, "berta", 1);
    wait_for_status(world, "waiting", 1);
    assert_int_equal(world_look(world, "anna").orders, 0);
    world_read(world, "dlq.order", 1); /* the head has used up its attempts: its key goes on waiting */
    assert_int_equal(status(world, "held_keys"), 1);
    assert_int_equal(world_look(world, "anna").orders, 0);
}

static void a_dead_head_that_is_redriven_lets_its_key_go(void **state)
{
    struct world *world = *state;
    atomic_store(&world->state.fail_times, 3);
    place(world, "e1", KEY, "shaky", "a");
    place(world, "e2", KEY, "shaky", "b");
    struct found dead = world_read(world, "dlq.order", 1);
    assert_string_equal(found_header(&dead, "weir_error_class"), "RETRY");
    assert_string_equal(found_header(&dead, "weir_attempt"), "3");
    assert_string_equal(found_header(&dead, "weir_due_at"), "(absent)");
    wait_for_status(world, "waiting", 1);
    send_back(world, "e1", KEY, "shaky", "a", "3", NULL);
    send_back(world, "e1", KEY, "shaky", "a", "3", NULL); /* twice is once */
    world_wait_for_orders(world, "shaky", 2);
    wait_for_status(world, "held_keys", 0);
    assert_string_equal(world_look(world, "shaky").seen, "ab");
}

static void a_dead_head_that_is_dropped_lets_its_key_go_without_it(void **state)
{
    struct world *world = *state;
    atomic_store(&world->state.fail_times, 3);
    place(world, "e1", KEY, "shaky", "a");
    place(world, "e2", KEY, "shaky", "b");
    world_read(world, "dlq.order", 1);
    wait_for_status(world, "waiting", 1);
    send_back(world, "e1", KEY, "shaky", "a", "3", "it was a test");
    world_wait_for_orders(world, "shaky", 1);
    wait_for_status(world, "held_keys", 0);
    assert_string_equal(world_look(world, "shaky").seen, "b");
    send_back(world, "e1", KEY, "shaky", "a", "3", NULL); /* given up is given up */
    place(world, "e3", KEY, "shaky", "c");
    world_wait_for_orders(world, "shaky", 2);
    assert_string_equal(world_look(world, "shaky").seen, "bc");
}

static void a_redriven_record_that_fails_again_says_how_often(void **state)
{
    struct world *world = *state;
    place(world, "e1", KEY, "bad", "a");
    world_read(world, "dlq.order", 1);
    send_back(world, "e1", KEY, "bad", "a", "1", NULL);
    struct found dead = world_read(world, "dlq.order", 2);
    assert_string_equal(found_header(&dead, "__dlq.errors.delivery.count"), "2");
    assert_string_equal(found_header(&dead, "weir_redrives"), "1");
    assert_string_equal(found_header(&dead, "weir_first_failed_at"), "2026-01-02T03:04:05.000000Z");
    atomic_store(&world->state.mended, true);
    send_back(world, "e1", KEY, "bad", "a", "2", NULL);
    world_wait_for_orders(world, "bad", 1);
}

static void a_restart_while_a_key_waits_loses_nothing(void **state)
{
    struct world *world = *state;
    atomic_store(&world->state.fail_times, 2);
    place(world, "e1", KEY, "shaky", "a");
    place(world, "e2", KEY, "shaky", "b");
    place(world, "e3", KEY, "shaky", "c");
    wait_for_status(world, "held_keys", 1);
    world_stop(world);
    world_start(world);
    world_wait_for_orders(world, "shaky", 3);
    assert_string_equal(world_look(world, "shaky").seen, "abc");
    wait_for_status(world, "held_keys", 0);
}

/* What waits may be of another time: the schema is gone from the registry, the type is nobody's business any
 * more. */
static void what_waits_and_cannot_be_read_any_more_lets_the_others_go_on(void **state)
{
    struct world *world = *state;
    struct waiting_record **rows;
    struct work *work;
    struct buffer other = buffer_of(64);
    int32_t schema_id;
    atomic_store(&world->state.fail_times, 3);
    place(world, "e1", KEY, "shaky", "a");
    place(world, "e2", KEY, "anna", "b");
    place(world, "e3", KEY, "anna", "c");
    place(world, "e4", KEY, "anna", "d");
    world_read(world, "dlq.order", 1);
    wait_for_status(world, "waiting", 3);
    world_stop(world);
    assert_int_equal(registry_id(world->registry, &email_sent_type, &schema_id, &world->error), OK);
    frame_write(&other, schema_id);
    assert_int_equal(store_open(world->url, "test", &world->store, &world->error), OK);
    assert_int_equal(work_new(world->store, 1 << 20, &work, &world->error), OK);
    assert_int_equal(work_begin(work, &world->error), OK);
    assert_int_equal(work_read(work, &world->error), OK);
    assert_int_equal(waiting_next(work, TEXT("orders"), KEY, 3, &rows), 3);
    rows[0]->value = TEXT("junk");
    rows[1]->value = buffer_text(&other);
    assert_int_equal(work_commit(work, &world->error), OK);
    work_destroy(work);
    store_close(world->store);
    buffer_free(&other);
    world_start(world);
    send_back(world, "e1", KEY, "shaky", "a", "3", NULL);
    world_wait_for_orders(world, "anna", 1);
    assert_string_equal(world_look(world, "anna").seen, "d");
    wait_for_status(world, "held_keys", 0);
    wait_for_status(world, "waiting", 0);
    struct found dead = world_read(world, "dlq.order", 2);
    assert_string_equal(found_header(&dead, "__dlq.errors.topic"), "orders");
    assert_string_equal(found_header(&dead, "weir_error_class"), "REJECT");
}

static void a_head_that_cannot_be_read_any_more_can_be_dropped(void **state)
{
    struct world *world = *state;
    const struct header drop[] = {{TEXT("ce_id"), TEXT("e1")},
                                  {TEXT(HEADER_ERRORS_TOPIC), TEXT("orders")},
                                  {TEXT(HEADER_ERRORS_PARTITION), TEXT("0")},
                                  {TEXT(HEADER_ERRORS_OFFSET), TEXT("0")},
                                  {TEXT(HEADER_ERRORS_DELIVERY_COUNT), TEXT("3")},
                                  {TEXT(HEADER_DROP), TEXT("gone")}};
    atomic_store(&world->state.fail_times, 3);
    place(world, "e1", KEY, "shaky", "a");
    place(world, "e2", KEY, "anna", "b");
    world_read(world, "dlq.order", 1);
    wait_for_status(world, "waiting", 1);
    world_produce(world, TEXT(WORLD_RETRY_1), 0, KEY, TEXT("junk"), drop, sizeof(drop) / sizeof(drop[0]));
    world_wait_for_orders(world, "anna", 1);
    wait_for_status(world, "held_keys", 0);
}

static void past_the_rooms_bound_the_partition_waits_and_nothing_is_lost(void **state)
{
    struct world *world = *state; /* five may wait */
    atomic_store(&world->state.fail_times, 3);
    place(world, "e0", KEY, "shaky", "a");
    for (int i = 1; i < 12; i++) {
        char id[8], mark[2] = {(char)('a' + i), 0};
        snprintf(id, sizeof(id), "e%d", i);
        place(world, id, KEY, "shaky", mark);
    }
    world_read(world, "dlq.order", 1);
    wait_for_status(world, "waiting", 5);
    send_back(world, "e0", KEY, "shaky", "a", "3", NULL);
    world_wait_for_orders(world, "shaky", 12);
    assert_string_equal(world_look(world, "shaky").seen, "abcdefghijkl");
    wait_for_status(world, "waiting", 0);
}

static bool paused_for_backlog(struct world *world)
{
    struct buffer text = buffer_of(4096);
    dispatch_status(world->dispatch, &text);
    buffer_add_char(&text, '\0');
    bool found = strstr(text.at, "\"backlog\"");
    buffer_free(&text);
    return found;
}

/* Three keys may be held. The fourth that fails waits on its topic, spends no attempt, and is said; then it
 * flows. */
static void past_the_bound_of_held_keys_a_record_that_fails_waits_where_it_is(void **state)
{
    struct world *world = *state;
    const struct text keys[] = {KEY, OTHER, TEXT("0190b6a0-0000-7000-8000-000000000003"),
                                TEXT("0190b6a0-0000-7000-8000-000000000004")};
    static const char *const ids[] = {"e1", "e2", "e3", "e4"};
    atomic_store(&world->state.fail_times, 100000);
    for (int i = 0; i < 3; i++)
        place(world, ids[i], keys[i], "shaky", "a");
    world_read(world, "dlq.order", 3);
    assert_int_equal(status(world, "held_keys"), 3);
    place(world, ids[3], keys[3], "shaky", "b");
    place(world, "e5", TEXT("0190b6a0-0000-7000-8000-000000000005"), "anna", "c");
    int64_t until_us = clock_monotonic_us() + WAIT_MS_MAX * 1000;
    while (!paused_for_backlog(world) && clock_monotonic_us() < until_us)
        usleep(10000);
    assert_true(paused_for_backlog(world));
    assert_int_equal(status(world, "held_keys"), 3);
    assert_int_equal(world_look(world, "anna").orders, 0);
    send_back(world, ids[0], keys[0], "shaky", "a", "3", "a test"); /* dropped: there is room for one */
    world_wait_for_orders(world, "anna", 1);
    world_read(world, "dlq.order", 4); /* its attempts are the same as ever */
    atomic_store(&world->state.fail_times, 0);
    for (int i = 1; i < 4; i++)
        send_back(world, ids[i], keys[i], "shaky", "d", "3", NULL);
    world_wait_for_orders(world, "shaky", 3);
    wait_for_status(world, "held_keys", 0);
    while (paused_for_backlog(world) && clock_monotonic_us() < until_us)
        usleep(10000);
    assert_false(paused_for_backlog(world));
}

static int64_t duplicates(struct world *world)
{
    static const char name[] = "\nweir_duplicates_total ";
    struct buffer text = buffer_of(1 << 20);
    metrics_write(world->metrics, &text);
    buffer_add_char(&text, '\0');
    const char *at = strstr(text.at, name);
    assert_non_null(at);
    int64_t number = atoll(at + strlen(name));
    buffer_free(&text);
    return number;
}

/* In one batch: what is done before a record that waits on its topic does not come again with it. */
static void what_is_done_before_a_record_that_waits_on_its_topic_is_done(void **state)
{
    enum { HELD = 3, BEFORE = 3, TIMES = 3 };
    static const char *const customers[] = {"shaky", "shaky", "shaky", "stuck",
                                            "anna",  "anna",  "anna",  "shaky"};
    struct world *world = *state;
    char key[64], id[16];
    atomic_store(&world->state.fail_times, 100000);
    for (int i = 0; i < (int)(sizeof(customers) / sizeof(*customers)); i++) {
        int handled = atomic_load(&world->state.handled);
        snprintf(key, sizeof(key), "0190b6a0-0000-7000-8000-00000000000%d", i);
        snprintf(id, sizeof(id), "e%d", i);
        if (i == HELD) { /* no key more may be held; the loop is kept until all the others are there */
            world_read(world, "dlq.order", HELD);
            handled = atomic_load(&world->state.handled);
            atomic_store(&world->state.stuck, true);
        }
        place(world, id, text_of(key), customers[i], "a");
        for (int ms = 0; i == HELD && atomic_load(&world->state.handled) == handled && ms < WAIT_MS_MAX; ms++)
            usleep(1000);
    }
    for (int ms = 0; consumer_queued(dispatch_consumer(world->dispatch)) < BEFORE + 1 && ms < WAIT_MS_MAX;
         ms++)
        usleep(1000);
    int handled = atomic_load(&world->state.handled);
    atomic_store(&world->state.stuck, false);
    for (int ms = 0; atomic_load(&world->state.handled) < handled + BEFORE + TIMES && ms < WAIT_MS_MAX; ms++)
        usleep(1000);
    assert_true(atomic_load(&world->state.handled) >= handled + BEFORE + TIMES);
    assert_int_equal(world_look(world, "anna").orders, BEFORE);
    assert_int_equal(duplicates(world), 0);
}

/* What lay on the topics of delays that RETRY_DELAYS named before is not forgotten. */
static void topics_of_earlier_delays_are_read_and_nothing_goes_there_any_more(void **state)
{
    struct world *world = *state;
    static const char *const others[] = {
        "retry.payment.70ms", "retry.order.70", "retry.order.070ms", "orders", "payments", WORLD_RETRY_1};
    broker_add_topic(world->broker, "retry.order.70ms", PARTITIONS);
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        assert_true(dispatch_read_old(world->dispatch, others[i]));
    place(world, "e1", KEY, "anna", "a");
    world_wait_for_orders(world, "anna", 1); /* it is a member, and becomes one again with one topic more */
    assert_true(dispatch_read_old(world->dispatch, "retry.order.70ms"));
    assert_true(dispatch_read_old(world->dispatch, "retry.order.70ms"));
    atomic_store(&world->state.fail_times, 1);
    const struct header headers[] = {
        {TEXT(HEADER_ERRORS_TOPIC), TEXT("orders")}, {TEXT(HEADER_ERRORS_PARTITION), TEXT("0")},
        {TEXT(HEADER_ERRORS_OFFSET), TEXT("0")},     {TEXT(HEADER_ERRORS_DELIVERY_COUNT), TEXT("1")},
        {TEXT(HEADER_ATTEMPT), TEXT("1")},
    };
    world_place_on(world, TEXT("retry.order.70ms"), "e2", OTHER, "shaky", "b", headers, 5);
    world_wait_for_orders(world, "shaky", 1);
    struct found next = world_read(world, WORLD_RETRY_2, 1); /* on up the ladder as it is now */
    assert_string_equal(found_header(&next, "weir_attempt"), "2");
    world_stop(world);
    world_start(world);
    place(world, "e3", KEY, "anna", "c"); /* without them again */
    world_wait_for_orders(world, "anna", 2);
}

static void an_outage_spends_no_attempt_and_makes_no_dead_letter(void **state)
{
    struct world *world = *state;
    char reason[256];
    atomic_store(&world->state.away, true);
    place(world, "e1", KEY, "away", "a");
    place(world, "e2", OTHER, "anna", "b");
    int64_t until_us = clock_monotonic_us() + WAIT_MS_MAX * 1000;
    while (atomic_load(&world->state.handled) < 5 && clock_monotonic_us() < until_us)
        usleep(10000);
    assert_false(dispatch_ready(world->dispatch, reason, sizeof(reason)));
    assert_non_null(strstr(reason, "a dependency is away"));
    atomic_store(&world->state.away, false);
    world_wait_for_orders(world, "away", 1);
    world_wait_for_orders(world, "anna", 1);
    place(world, "e3", OTHER, "bad", "c");
    world_read(world, "dlq.order", 1); /* the only one */
    assert_int_equal(status(world, "held_keys"), 0);
}

static void junk_on_a_retry_topic_is_a_dead_letter_that_names_it(void **state)
{
    struct world *world = *state;
    world_produce(world, TEXT(WORLD_RETRY_1), 0, TEXT("k"), TEXT("junk"), NULL, 0);
    struct found dead = world_read(world, "dlq.order", 1);
    assert_string_equal(found_header(&dead, "__dlq.errors.topic"), WORLD_RETRY_1);
    assert_string_equal(found_header(&dead, "weir_error_class"), "REJECT");
}

static void our_names_on_a_main_topic_are_not_believed(void **state)
{
    struct world *world = *state;
    const struct header headers[] = {{TEXT(HEADER_ERRORS_TOPIC), TEXT("elsewhere")},
                                     {TEXT(HEADER_ERRORS_DELIVERY_COUNT), TEXT("77")},
                                     {TEXT(HEADER_DROP), TEXT("x")}};
    world_place_on(world, TEXT("orders"), "e1", KEY, "bad", "a", headers, 3);
    struct found dead = world_read(world, "dlq.order", 1);
    assert_string_equal(found_header(&dead, "__dlq.errors.topic"), "orders");
    assert_string_equal(found_header(&dead, "__dlq.errors.delivery.count"), "1");
    assert_string_equal(found_header(&dead, "weir_drop"), "(absent)");
}

/* count headers of a record's own behind those that it has anyway. */
static void place_with(struct world *world, const char *topic, const char *id, const char *customer,
                       const char *mark, size_t count, const struct header *more, size_t more_count)
{
    enum { HAS = 3 };
    static char names[WORLD_HEADERS_MAX][32];
    struct header headers[WORLD_HEADERS_MAX];
    size_t total = 0;
    while (HAS + total < count) {
        snprintf(names[total], sizeof(names[total]), "own-%zu", total);
        headers[total] = (struct header){text_of(names[total]), TEXT("x")};
        total++;
    }
    for (size_t i = 0; i < more_count; i++)
        headers[total++] = more[i];
    world_place_on(world, text_of(topic), id, KEY, customer, mark, headers, total);
}

/* The copy on the retry topic has more, for it says where it was and why it failed. */
static void a_record_with_as_many_headers_as_may_be_is_retried(void **state)
{
    struct world *world = *state;
    atomic_store(&world->state.fail_times, 2);
    place_with(world, "orders", "e1", "shaky", "a", HEADERS_COUNT_MAX, NULL, 0);
    place(world, "e2", KEY, "shaky", "b");
    world_wait_for_orders(world, "shaky", 2);
    assert_string_equal(world_look(world, "shaky").seen, "ab");
    wait_for_status(world, "held_keys", 0);
    struct found second = world_read(world, WORLD_RETRY_2, 1);
    assert_true(second.header_count > HEADERS_COUNT_MAX);
    assert_string_equal(found_header(&second, "own-60"), "x");
}

static void a_record_with_too_many_headers_is_a_dead_letter_that_can_be_sent_back_and_dropped(void **state)
{
    struct world *world = *state;
    struct header back[] = {
        {TEXT(HEADER_ERRORS_TOPIC), TEXT("orders")},     {TEXT(HEADER_ERRORS_PARTITION), TEXT("0")},
        {TEXT(HEADER_ERRORS_OFFSET), TEXT("0")},         {TEXT(HEADER_ATTEMPT), TEXT("0")},
        {TEXT(HEADER_ERRORS_DELIVERY_COUNT), TEXT("1")}, {TEXT(HEADER_DROP), TEXT("nobody wants it")}};
    enum { DELIVERIES = 4, REDRIVEN = 5, DROPPED = 6 };
    place_with(world, "orders", "e1", "anna", "a", HEADERS_COUNT_MAX + 1, NULL, 0);
    struct found dead = world_read(world, "dlq.order", 1);
    assert_string_equal(found_header(&dead, "__dlq.errors.topic"), "orders");
    /* It is no better than it was, and it is still the same record. */
    place_with(world, WORLD_RETRY_1, "e1", "anna", "a", HEADERS_COUNT_MAX + 1, back, REDRIVEN);
    dead = world_read(world, "dlq.order", 2);
    assert_string_equal(found_header(&dead, "__dlq.errors.topic"), "orders");
    assert_string_equal(found_header(&dead, "__dlq.errors.delivery.count"), "2");
    assert_string_equal(found_header(&dead, "weir_error_class"), "REJECT");
    /* Dropped it makes no dead letter; what lies behind it does. */
    back[DELIVERIES].value = TEXT("2");
    place_with(world, WORLD_RETRY_1, "e1", "anna", "a", HEADERS_COUNT_MAX + 1, back, DROPPED);
    world_produce(world, TEXT(WORLD_RETRY_1), 0, KEY, TEXT("junk"), NULL, 0);
    dead = world_read(world, "dlq.order", 3);
    assert_string_equal(found_header(&dead, "__dlq.errors.topic"), WORLD_RETRY_1);
    assert_int_equal(world_look(world, "anna").orders, 0);
}

static void a_flood_of_rejects_stops_the_service_until_somebody_says_go_on(void **state)
{
    struct world *world = *state; /* past 50 rejects the share counts */
    char reason[256];
    for (int i = 0; i < 120; i++) {
        char id[8];
        snprintf(id, sizeof(id), "b%d", i);
        world_place(world, id, "bad", "x");
    }
    place(world, "e1", KEY, "anna", "a");
    int64_t until_us = clock_monotonic_us() + WAIT_MS_MAX * 1000;
    while (clock_monotonic_us() < until_us) {
        if (!dispatch_ready(world->dispatch, reason, sizeof(reason)) && strstr(reason, "flood"))
            break;
        usleep(10000);
    }
    assert_non_null(strstr(reason, "flood"));
    world_read(world, "dlq.order", 50); /* that is where the share counts */
    assert_int_equal(world_look(world, "anna").orders, 0);
    atomic_store(&world->state.mended, true);
    dispatch_resume(world->dispatch);
    world_wait_for_orders(world, "anna", 1);
    int64_t bad = world_look(world, "bad").orders;
    assert_in_range(bad, 60, 70);
    assert_true(dispatch_ready(world->dispatch, reason, sizeof(reason)));
}

/* As many rejects as may be, and then one more, while both clocks stand still at this time. Behind it lies a
 * record that is fine. */
static void flood_at(struct world *world, int64_t wall_us)
{
    enum { MAY_BE = 49 };
    char reason[256] = "", id[8];
    for (int i = 0; i < MAY_BE; i++) {
        snprintf(id, sizeof(id), "b%d", i);
        world_place(world, id, "bad", "x");
    }
    world_read(world, "dlq.order", MAY_BE);
    while (outbox_rows(world->store))
        usleep(10000);
    clock_hold(wall_us);
    world_place(world, "b", "bad", "x");
    place(world, "e1", KEY, "anna", "a");
    while (dispatch_ready(world->dispatch, reason, sizeof(reason)) || !strstr(reason, "flood"))
        usleep(10000);
    atomic_store(&world->state.mended, true);
}

static void over_after(struct world *world, int64_t ms)
{
    enum { STEP_MS = 20 };
    clock_advance(ms * 1000);
    for (int left_ms = WAIT_MS_MAX; left_ms > 0 && world_look(world, "anna").orders == 0; left_ms -= STEP_MS)
        usleep(STEP_MS * 1000);
    clock_release();
    assert_int_equal(world_look(world, "anna").orders, 1);
}

static void a_tick_behind_a_flood_is_no_reject(void **state)
{
    struct world *world = *state;
    flood_at(world, clock_wall_us());
    over_after(world, FLOOD_PROBE_MS_MIN); /* the probe's time, and a tick's */
}

static void a_flood_is_probed_in_its_time_also_where_the_clock_is_put_back(void **state)
{
    struct world *world = *state;
    const int64_t true_us = clock_wall_us();
    flood_at(world, true_us + INT64_C(3600) * 1000000);
    clock_hold(true_us);
    over_after(world, FLOOD_PROBE_MS_MIN);
}

static void a_pause_by_an_operator_stops_records_and_resuming_takes_them(void **state)
{
    struct world *world = *state;
    place(world, "e1", KEY, "anna", "a");
    world_wait_for_orders(world, "anna", 1);
    dispatch_pause(world->dispatch);
    place(world, "e2", KEY, "anna", "b");
    struct asked asked;
    world_ask(world, &asked, "http", ""); /* requests go on */
    assert_int_equal(asked_wait(&asked), 202);
    assert_int_equal(world_look(world, "anna").orders, 1);
    dispatch_resume(world->dispatch);
    world_wait_for_orders(world, "anna", 2);
}

#define IN_A_WORLD(test) cmocka_unit_test_setup_teardown(test, world_setup, world_teardown)

int main(int argc, char **argv)
{
    scratch_choose(argc, argv);
    const struct CMUnitTest tests[] = {
        IN_A_WORLD(a_record_that_fails_goes_up_the_retry_topics_and_order_of_its_key_is_kept),
        IN_A_WORLD(other_keys_flow_while_one_waits),
        IN_A_WORLD(a_dead_head_that_is_redriven_lets_its_key_go),
        IN_A_WORLD(a_dead_head_that_is_dropped_lets_its_key_go_without_it),
        IN_A_WORLD(a_redriven_record_that_fails_again_says_how_often),
        IN_A_WORLD(a_restart_while_a_key_waits_loses_nothing),
        IN_A_WORLD(what_waits_and_cannot_be_read_any_more_lets_the_others_go_on),
        IN_A_WORLD(a_head_that_cannot_be_read_any_more_can_be_dropped),
        IN_A_WORLD(past_the_rooms_bound_the_partition_waits_and_nothing_is_lost),
        IN_A_WORLD(past_the_bound_of_held_keys_a_record_that_fails_waits_where_it_is),
        IN_A_WORLD(what_is_done_before_a_record_that_waits_on_its_topic_is_done),
        IN_A_WORLD(topics_of_earlier_delays_are_read_and_nothing_goes_there_any_more),
        IN_A_WORLD(an_outage_spends_no_attempt_and_makes_no_dead_letter),
        IN_A_WORLD(junk_on_a_retry_topic_is_a_dead_letter_that_names_it),
        IN_A_WORLD(our_names_on_a_main_topic_are_not_believed),
        IN_A_WORLD(a_record_with_as_many_headers_as_may_be_is_retried),
        IN_A_WORLD(a_record_with_too_many_headers_is_a_dead_letter_that_can_be_sent_back_and_dropped),
        IN_A_WORLD(a_flood_of_rejects_stops_the_service_until_somebody_says_go_on),
        IN_A_WORLD(a_tick_behind_a_flood_is_no_reject),
        IN_A_WORLD(a_flood_is_probed_in_its_time_also_where_the_clock_is_put_back),
        IN_A_WORLD(a_pause_by_an_operator_stops_records_and_resuming_takes_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
