/* order: every interleaving of what can be heard about one order, against the promises that are made of it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "order/order.h"
#include "support/handlers.h"

#include <stdio.h>
#include <stdlib.h>

extern const struct service order_service;

static const int64_t ttl_us = 900 * INT64_C(1000000);

static struct order_item one_item[] = {{.sku = TEXT_INIT("tea"), .quantity = 2, .unit_price_minor = 450}};

static struct order_placed order_of(const char *order_id)
{
    return (struct order_placed){
        .order_id = text_of(order_id),
        .customer_id = TEXT("c-1"),
        .email = TEXT("ada@example.org"),
        .locale = TEXT("en"),
        .currency = TEXT("EUR"),
        .total_minor = 900,
        .items = one_item,
        .items_count = 1,
        .placed_at = handlers_now_us(),
    };
}

static struct order_row *row_of(struct handlers *handlers, const char *order_id)
{
    return rows_get(handlers->work, &orders_table, &(struct order_row){.order_id = text_of(order_id)});
}

/* ---- all interleavings */

enum step {
    PLACED,
    UPSTREAM_CANCELLED,
    RESERVED,
    STOCK_REJECTED,
    EXPIRED_RELEASE,
    CAPTURED,
    FAILED,
    REFUNDED,
    HTTP_CANCEL,
    CLOCK,
    OWN_DECISION,
    STEP_NONE,
};

enum { STREAMS_MAX = 6, STREAM_STEPS_MAX = 3, STEPS_MAX = 16, SEQUENCES_MAX = 200000 };

/* What is in order among itself; between streams there is no order. */
struct scenario {
    enum step streams[STREAMS_MAX][STREAM_STEPS_MAX];
};

struct run {
    struct handlers *handlers;
    char order_id[ID_TEXT_BYTES + 1];
    struct order_placed order;
    int64_t base_us;
    /* the model */
    bool placed, reserved, stock_fault, captured, pay_fault, cancelled_202, expired, own_returned;
    bool stock_first, pay_first; /* the first answer of each has come */
    int64_t first_final;
};

static void take(struct run *run, const struct event_type *type, const void *data)
{
    assert_int_equal(handlers_take(run->handlers, type, data), OK);
}
#define TAKE(run, data) take((run), EVENT_TYPE_OF(data), (data))

static void log_final(struct run *run, int64_t final)
{
    if (!run->first_final)
        run->first_final = final;
}

static void take_own(struct run *run)
{
    int64_t decided = row_of(run->handlers, run->order_id)->decided;
    run->own_returned = true;
    log_final(run, decided);
    if (decided == ORDER_CONFIRMED)
        TAKE(run, (&(struct order_confirmed){.order_id = run->order.order_id, .payment_id = TEXT("p-1")}));
    else if (decided == ORDER_REJECTED)
        TAKE(run, (&(struct order_rejected){.order_id = run->order.order_id, .reason = TEXT("own")}));
    else
        TAKE(run, (&(struct order_cancelled){.order_id = run->order.order_id}));
}

static void take_step(struct run *run, enum step step)
{
    struct text id = run->order.order_id;
    run->handlers->context.now_us = run->base_us + (run->expired ? ttl_us + 1 : 0);
    switch (step) {
    case PLACED:
        run->placed = true;
        TAKE(run, &run->order);
        break;
    case UPSTREAM_CANCELLED:
        log_final(run, ORDER_CANCELLED);
        TAKE(run, (&(struct order_cancelled){.order_id = id, .reason = TEXT("upstream")}));
        break;
    case RESERVED:
        run->reserved = !run->stock_first;
        run->stock_first = true;
        TAKE(run, (&(struct stock_reserved){
                      .order_id = id, .reserved_until = run->base_us + ttl_us, .reserved_at = run->base_us}));
        break;
    case STOCK_REJECTED:
        run->stock_fault = true;
        TAKE(run,
             (&(struct stock_rejected){.order_id = id, .sku = TEXT("tea"), .wanted = 2, .available = 1}));
        break;
    case EXPIRED_RELEASE:
        run->stock_fault = true;
        TAKE(run, (&(struct stock_released){.order_id = id, .reason = TEXT("expired")}));
        break;
    case CAPTURED:
        run->captured = !run->pay_first;
        run->pay_first = true;
        TAKE(run, (&(struct payment_captured){.order_id = id,
                                              .payment_id = TEXT("p-1"),
                                              .amount_minor = 900,
                                              .currency = TEXT("EUR"),
                                              .provider = TEXT("test")}));
        break;
    case FAILED:
        run->pay_fault = !run->captured;
        run->pay_first = true;
        TAKE(run, (&(struct payment_failed){.order_id = id, .reason = TEXT("declined")}));
        break;
    case REFUNDED:
        run->pay_fault = true;
        TAKE(run,
             (&(struct payment_refunded){
                 .order_id = id, .payment_id = TEXT("p-1"), .amount_minor = 900, .currency = TEXT("EUR")}));
        break;
    case HTTP_CANCEL: {
        int status =
            handlers_request(run->handlers, "POST", "/v1/orders/{id}/cancel", run->order_id, NULL, NULL);
        if (status == 202)
            run->cancelled_202 = true;
        else
            assert_true(status == 404 ? !run->placed : status == 409);
        break;
    }
    case CLOCK: { /* what the tick does with this row; rows of a batch that is not committed are not found by
                     it */
        run->expired = true;
        run->handlers->context.now_us = run->base_us + ttl_us + 1;
        struct order_row *row = row_of(run->handlers, run->order_id);
        if (row && row->expires_at > 0)
            order_step(run->handlers->work, row);
        break;
    }
    case OWN_DECISION:
        take_own(run);
        break;
    case STEP_NONE:
        fail();
    }
}

static void check_step(const struct run *run, int64_t decided_before)
{
    const struct order_row *row = row_of(run->handlers, run->order_id);
    if (!row)
        return;
    if (decided_before)
        assert_int_equal(row->decided, decided_before);
    else if (row->decided == ORDER_CONFIRMED)
        assert_true(run->placed && run->reserved && run->captured && !run->stock_fault && !run->pay_fault &&
                    !run->cancelled_202 && !run->expired && !run->first_final);
    assert_int_equal(row->final, run->first_final);
    if (run->cancelled_202)
        assert_true(row->decided != ORDER_CONFIRMED);
    if (run->first_final && run->placed)
        assert_int_equal(row->status, run->first_final);
}

static void check_end(const struct run *run)
{
    const struct order_row *row = row_of(run->handlers, run->order_id);
    assert_non_null(row);
    bool due = run->stock_fault || run->pay_fault || (run->reserved && (run->captured || run->expired));
    if (due)
        assert_true(row->decided || row->final);
    else
        assert_true(row->decided == ORDER_UNKNOWN || row->decided == ORDER_CANCELLED);
    assert_true((row->expires_at > 0) == (row->status == ORDER_RESERVED));
}

/* One sequence. choices: which of the streams that can go on goes on, step by step; widths: how many could.
 */
static size_t run_sequence(struct run *run, const struct scenario *scenario, const int *choices, int *widths)
{
    size_t at[STREAMS_MAX] = {0}, steps = 0;
    for (;; steps++) {
        size_t open[STREAMS_MAX + 1];
        int width = 0;
        for (size_t s = 0; s < STREAMS_MAX; s++)
            if (at[s] < STREAM_STEPS_MAX && scenario->streams[s][at[s]] != STEP_NONE)
                open[width++] = s;
        const struct order_row *row = row_of(run->handlers, run->order_id);
        int64_t decided = row ? row->decided : 0;
        if (decided && !run->own_returned)
            open[width++] = STREAMS_MAX;
        if (!width)
            return steps;
        assert_true(steps < STEPS_MAX);
        widths[steps] = width;
        size_t stream = open[choices[steps]];
        take_step(run, stream == STREAMS_MAX ? OWN_DECISION : scenario->streams[stream][at[stream]++]);
        check_step(run, decided);
    }
}

static uint32_t order_number(struct text order_id)
{
    char digits[9] = {0};
    memcpy(digits, order_id.at + ID_TEXT_BYTES - 8, 8);
    return (uint32_t)strtoul(digits, NULL, 16);
}

/* All sequences of a scenario, each with an order of its own, in one unit of work. */
static void run_scenario(const struct scenario *scenario)
{
    struct order_state state = {0};
    struct handlers *handlers = handlers_open(&order_service, &state);
    static int8_t decided[SEQUENCES_MAX];
    int choices[STEPS_MAX] = {0}, widths[STEPS_MAX];
    uint32_t number = 0;
    handlers_begin(handlers);
    handlers_read(handlers);
    for (bool more = true; more; number++) {
        struct run run = {.handlers = handlers, .base_us = handlers_now_us()};
        assert_true(number < SEQUENCES_MAX);
        snprintf(run.order_id, sizeof(run.order_id), "0193aaaa-0000-7000-8000-0000%08x", number);
        struct text id = text_copy(handlers->arena, text_of(run.order_id));
        run.order = order_of(id.at);
        size_t steps = run_sequence(&run, scenario, choices, widths);
        check_end(&run);
        decided[number] = (int8_t)row_of(handlers, run.order_id)->decided;
        more = false;
        while (steps-- > 0 && !more) { /* the next sequence: the last choice that can go on does */
            if (choices[steps] + 1 < widths[steps]) {
                choices[steps]++;
                more = true;
            } else {
                choices[steps] = 0;
            }
        }
    }
    handlers_commit(handlers);
    /* What went into the outbox is what the rows say: one decision at most, and that one. */
    static int8_t said[SEQUENCES_MAX];
    memset(said, 0, sizeof(said));
    for (size_t i = 0; i < handlers->said_count; i++) {
        const struct event_type *type = handlers->said[i].type;
        int8_t what = type == &order_confirmed_type  ? ORDER_CONFIRMED
                      : type == &order_rejected_type ? ORDER_REJECTED
                                                     : ORDER_CANCELLED;
        uint32_t order = order_number(*(const struct text *)handlers->said[i].data);
        assert_int_equal(said[order], 0);
        said[order] = what;
    }
    for (uint32_t i = 0; i < number; i++)
        assert_int_equal(said[i], decided[i]);
    handlers_close(handlers);
}

static void an_order_is_decided_once_and_confirmed_only_when_reserved_and_captured(void **nothing)
{
    static const enum step stock[][STREAM_STEPS_MAX] = {{STEP_NONE},
                                                        {RESERVED, STEP_NONE},
                                                        {STOCK_REJECTED, STEP_NONE},
                                                        {RESERVED, EXPIRED_RELEASE, STEP_NONE}};
    static const enum step money[][STREAM_STEPS_MAX] = {
        {STEP_NONE}, {CAPTURED, STEP_NONE}, {FAILED, STEP_NONE}, {CAPTURED, REFUNDED, STEP_NONE}};
    enum { NO_CANCEL, UPSTREAM, HTTP, CANCELS };
    (void)nothing;
    for (size_t s = 0; s < 4; s++)
        for (size_t m = 0; m < 4; m++)
            for (int cancel = NO_CANCEL; cancel < CANCELS; cancel++)
                for (int clock = 0; clock < 2; clock++) {
                    struct scenario scenario = {{
                        {PLACED, cancel == UPSTREAM ? UPSTREAM_CANCELLED : STEP_NONE, STEP_NONE},
                        {stock[s][0], stock[s][1], STEP_NONE},
                        {money[m][0], money[m][1], STEP_NONE},
                        {cancel == HTTP ? HTTP_CANCEL : STEP_NONE, STEP_NONE},
                        {clock ? CLOCK : STEP_NONE, STEP_NONE},
                        {STEP_NONE},
                    }};
                    run_scenario(&scenario);
                }
}

/* ---- the clock */

static void a_reservation_that_ran_out_rejects_the_order(void **nothing)
{
    (void)nothing;
    struct order_state state = {0};
    struct handlers *handlers = handlers_open(&order_service, &state);
    struct order_placed order = order_of("0193aaaa-0000-7000-8000-000000000001");
    const struct stock_reserved reserved = {.order_id = order.order_id,
                                            .reserved_until = handlers_now_us() + ttl_us,
                                            .reserved_at = handlers_now_us()};
    const struct payment_captured captured = {.order_id = order.order_id,
                                              .payment_id = TEXT("p"),
                                              .amount_minor = 900,
                                              .currency = TEXT("EUR"),
                                              .provider = TEXT("t")};
    assert_int_equal(handlers_give(handlers, &reserved), OK); /* its topic is ahead of the other */
    assert_int_equal(handlers_give(handlers, &order), OK);
    handlers_tick(handlers, "expiry");
    assert_int_equal(handlers->said_count, 0);
    handlers_advance(handlers, ttl_us);
    handlers_tick(handlers, "expiry");
    assert_int_equal(handlers->said_count, 1);
    assert_ptr_equal(handlers->said[0].type, &order_rejected_type);
    assert_true(
        text_is(((const struct order_rejected *)handlers->said[0].data)->reason, "reservation expired"));
    assert_int_equal(handlers_give(handlers, &captured), OK);
    handlers_tick(handlers, "expiry");
    assert_int_equal(handlers->said_count, 1);
    handlers_close(handlers);
}

static void money_that_went_back_before_it_came_confirms_nothing(void **nothing)
{
    (void)nothing;
    struct order_state state = {0};
    struct handlers *handlers = handlers_open(&order_service, &state);
    static const char *const ids[] = {"0193aaaa-0000-7000-8000-000000000001",
                                      "0193aaaa-0000-7000-8000-000000000002",
                                      "0193aaaa-0000-7000-8000-000000000003"};
    enum { SAME, ANOTHER, NONE };
    for (int captured = SAME; captured <= NONE; captured++) {
        const struct order_placed order = order_of(ids[captured]);
        const struct stock_reserved reserved = {.order_id = order.order_id,
                                                .reserved_until = handlers_now_us() + ttl_us,
                                                .reserved_at = handlers_now_us()};
        const struct payment_refunded refunded = {.order_id = order.order_id,
                                                  .payment_id = TEXT("p-1"),
                                                  .amount_minor = 900,
                                                  .currency = TEXT("EUR")};
        const struct payment_captured capture = {.order_id = order.order_id,
                                                 .payment_id = captured == SAME ? TEXT("p-1") : TEXT("p-2"),
                                                 .amount_minor = 900,
                                                 .currency = TEXT("EUR"),
                                                 .provider = TEXT("t")};
        const struct payment_failed failed = {.order_id = order.order_id, .reason = TEXT("declined")};
        size_t mark = handlers->said_count;
        assert_int_equal(handlers_give(handlers, &refunded), OK);
        assert_int_equal(handlers_give(handlers, &order), OK);
        assert_int_equal(handlers_give(handlers, &reserved), OK);
        assert_int_equal(handlers->said_count, mark);
        if (captured == NONE)
            assert_int_equal(handlers_give(handlers, &failed), OK);
        else
            assert_int_equal(handlers_give(handlers, &capture), OK);
        assert_int_equal(handlers->said_count, mark + 1);
        assert_ptr_equal(handlers->said[mark].type,
                         captured == ANOTHER ? &order_confirmed_type : &order_rejected_type);
        if (captured == ANOTHER)
            assert_true(
                text_is(((const struct order_confirmed *)handlers->said[mark].data)->payment_id, "p-2"));
    }
    handlers_close(handlers);
}

static void an_upstream_order_that_is_not_valid_is_rejected_with_the_field(void **nothing)
{
    (void)nothing;
    struct order_state state = {0};
    struct handlers *handlers = handlers_open(&order_service, &state);
    struct order_item items[] = {{.sku = TEXT_INIT("tea"), .quantity = 0, .unit_price_minor = 450}};
    struct order_placed order = order_of("0193aaaa-0000-7000-8000-000000000002");
    order.items = items;
    order.total_minor = 0;
    assert_int_equal(handlers_give(handlers, &order), OK);
    assert_int_equal(handlers->said_count, 1);
    assert_true(text_is(((const struct order_rejected *)handlers->said[0].data)->reason,
                        "invalid: items[0].quantity"));
    struct text body;
    assert_int_equal(handlers_request(handlers, "GET", "/v1/orders/{id}", order.order_id.at, NULL, &body),
                     200);
    assert_non_null(strstr(body.at, "\"status\":\"rejected\""));
    handlers_close(handlers);
}

/* ---- HTTP */

#define ORDER_BODY "\"customer_id\":\"c-1\",\"email\":\"ada@example.org\",\"currency\":\"EUR\","
#define ITEMS_BODY "\"items\":[{\"sku\":\"tea\",\"quantity\":2,\"unit_price_minor\":450}]"

static void an_order_by_http_is_placed_once_and_told(void **nothing)
{
    (void)nothing;
    struct order_state state = {0};
    struct handlers *handlers = handlers_open(&order_service, &state);
    struct text body;
    assert_int_equal(
        handlers_request(handlers, "POST", "/v1/orders", NULL, "{" ORDER_BODY ITEMS_BODY "}", &body), 202);
    assert_int_equal(handlers->said_count, 1);
    const struct order_placed *said = handlers->said[0].data;
    assert_int_equal(said->total_minor, 900);
    assert_true(text_is(said->locale, "en"));
    assert_int_equal(said->order_id.at[14], '7'); /* version 7 */
    assert_int_equal(handlers_request(handlers, "POST", "/v1/orders", NULL,
                                      "{" ORDER_BODY ITEMS_BODY ",\"locale\":\"d\\u0065\"}", NULL),
                     202); /* not plainly written, and read by way of a tree of values */
    said = handlers->said[1].data;
    assert_int_equal(said->total_minor, 900);
    assert_true(text_is(said->locale, "de"));
    assert_int_equal(said->order_id.at[14], '7');

    const char *with_id = "{\"order_id\":\"0193aaaa-0000-7000-8000-000000000003\"," ORDER_BODY ITEMS_BODY "}";
    assert_int_equal(handlers_request(handlers, "POST", "/v1/orders", NULL, with_id, NULL), 202);
    assert_int_equal(handlers_request(handlers, "POST", "/v1/orders", NULL, with_id, NULL), 409);
    assert_int_equal(handlers->said_count, 3);
    assert_int_equal(handlers_give(handlers, (const struct order_placed *)handlers->said[2].data),
                     OK); /* it comes back */
    assert_int_equal(handlers->said_count, 3);
    assert_int_equal(handlers_request(handlers, "GET", "/v1/orders/{id}",
                                      "0193aaaa-0000-7000-8000-000000000003", NULL, &body),
                     200);
    assert_non_null(strstr(body.at, "\"status\":\"accepted\""));
    assert_non_null(strstr(body.at, "\"quantity\":2"));
    assert_int_equal(handlers_request(handlers, "GET", "/v1/orders/{id}",
                                      "0193aaaa-0000-7000-8000-00000000ffff", NULL, NULL),
                     404);
    handlers_close(handlers);
}

#define CAPITALS "0193AAAA-0000-7000-8000-00000000000C"

static void an_order_id_in_capitals_is_the_same_order(void **nothing)
{
    (void)nothing;
    struct order_state state = {0};
    struct handlers *handlers = handlers_open(&order_service, &state);
    struct text body;
    assert_int_equal(handlers_request(handlers, "POST", "/v1/orders", NULL,
                                      "{\"order_id\":\"" CAPITALS "\"," ORDER_BODY ITEMS_BODY "}", &body),
                     202);
    assert_non_null(strstr(body.at, "0193aaaa-0000-7000-8000-00000000000c"));
    const struct order_placed *said = handlers->said[0].data;
    assert_true(text_is(said->order_id, "0193aaaa-0000-7000-8000-00000000000c"));
    assert_int_equal(handlers_request(handlers, "POST", "/v1/orders", NULL,
                                      "{\"order_id\":\"" CAPITALS "\"," ORDER_BODY ITEMS_BODY "}", NULL),
                     409);
    const struct text event =
        TEXT("{\"specversion\":\"1.0\",\"id\":\"e-1\",\"source\":\"/shop\",\"type\":\"weir.OrderCancelled\","
             "\"data\":{\"order_id\":\"" CAPITALS "\",\"reason\":\"r\",\"cancelled_at\":1}}");
    assert_int_equal(
        handlers_post(handlers, "/v1/events", "application/cloudevents+json", NULL, 0, event, NULL), 202);
    const struct order_cancelled *cancelled = handlers->said[1].data;
    assert_true(text_is(cancelled->order_id, "0193aaaa-0000-7000-8000-00000000000c"));
    handlers_close(handlers);
}

static void what_is_wrong_with_an_order_is_named_by_its_path(void **nothing)
{
    static const struct {
        const char *body, *path;
    } wrong[] = {
        {"{" ITEMS_BODY "}", "\"customer_id\""},
        {"{" ORDER_BODY "\"items\":[]}", "\"items\""},
        {"{" ORDER_BODY "\"items\":[{\"sku\":\"tea\",\"quantity\":0,\"unit_price_minor\":450}]}",
         "\"items[0].quantity\""},
        {"{" ORDER_BODY "\"items\":[{\"sku\":\"tea\",\"quantity\":\"2\",\"unit_price_minor\":1}]}",
         "\"items[0].quantity\""},
        {"{\"order_id\":\"7\"," ORDER_BODY ITEMS_BODY "}", "\"order_id\""},
        {"{\"total_minor\":900," ORDER_BODY ITEMS_BODY "}", "\"total_minor\""},
        {"{\"gift\":true," ORDER_BODY ITEMS_BODY "}", "\"gift\""},
    };
    (void)nothing;
    struct order_state state = {0};
    struct handlers *handlers = handlers_open(&order_service, &state);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct text body;
        assert_int_equal(handlers_request(handlers, "POST", "/v1/orders", NULL, wrong[i].body, &body), 422);
        assert_non_null(strstr(body.at, wrong[i].path));
    }
    assert_int_equal(handlers->said_count, 0);
    handlers_close(handlers);
}

static void cancelling_says_so_once_and_stands(void **nothing)
{
    (void)nothing;
    struct order_state state = {0};
    struct handlers *handlers = handlers_open(&order_service, &state);
    const char *id = "0193aaaa-0000-7000-8000-000000000004";
    struct order_placed order = order_of(id);
    assert_int_equal(handlers_request(handlers, "POST", "/v1/orders/{id}/cancel", id, NULL, NULL), 404);
    assert_int_equal(handlers_give(handlers, &order), OK);
    assert_int_equal(handlers_request(handlers, "POST", "/v1/orders/{id}/cancel", id, "{\"why\":1}", NULL),
                     422);
    assert_int_equal(handlers_request(handlers, "POST", "/v1/orders/{id}/cancel", id, "[", NULL), 400);
    assert_int_equal(handlers_request(handlers, "POST", "/v1/orders/{id}/cancel", id,
                                      "{\"reason\":\"changed my mind\"}", NULL),
                     202);
    assert_int_equal(handlers_request(handlers, "POST", "/v1/orders/{id}/cancel", id, "", NULL), 202);
    assert_int_equal(handlers->said_count, 1);
    assert_true(text_is(((const struct order_cancelled *)handlers->said[0].data)->reason, "changed my mind"));

    const char *other = "0193aaaa-0000-7000-8000-000000000005";
    order = order_of(other);
    const struct order_confirmed confirmed = {.order_id = order.order_id, .payment_id = TEXT("p")};
    assert_int_equal(handlers_give(handlers, &order), OK);
    assert_int_equal(handlers_give(handlers, &confirmed), OK);
    assert_int_equal(handlers_request(handlers, "POST", "/v1/orders/{id}/cancel", other, NULL, NULL), 409);
    handlers_close(handlers);
}

static void a_history_tells_steps_that_were_and_in_their_order(void **nothing)
{
    (void)nothing;
    struct order_state state = {0};
    struct handlers *handlers = handlers_open(&order_service, &state);
    struct text body;
    for (int late = 0; late < 2; late++) {
        const char *id =
            late ? "0193aaaa-0000-7000-8000-000000000007" : "0193aaaa-0000-7000-8000-000000000008";
        const struct order_placed order = order_of(id);
        assert_int_equal(handlers_give(handlers, &order), OK);
        for (int step = 0; step < 2; step++) {
            handlers_advance(handlers, 1000000);
            const struct stock_reserved reserved = {.order_id = order.order_id,
                                                    .reserved_until = handlers_now_us() + ttl_us,
                                                    .reserved_at = handlers_now_us()};
            if (step == late)
                assert_int_equal(handlers_give(handlers, &reserved), OK);
            else
                assert_int_equal(handlers_request(handlers, "POST", "/v1/orders/{id}/cancel", id, NULL, NULL),
                                 202);
        }
        assert_int_equal(handlers_request(handlers, "GET", "/v1/orders/{id}", id, NULL, &body), 200);
        assert_non_null(strstr(body.at, "{\"status\":\"cancelled\",\"at\""));
        assert_int_equal(strstr(body.at, "{\"status\":\"reserved\",\"at\"") == NULL, late);
    }
    handlers_close(handlers);
}

static void a_reason_is_counted_in_characters(void **nothing)
{
    (void)nothing;
    struct order_state state = {0};
    struct handlers *handlers = handlers_open(&order_service, &state);
    const char *id = "0193aaaa-0000-7000-8000-000000000009";
    const struct order_placed order = order_of(id);
    char body[1024];
    assert_int_equal(handlers_give(handlers, &order), OK);
    for (int count = ORDER_REASON_CHARACTERS_MAX + 1; count >= ORDER_REASON_CHARACTERS_MAX; count--) {
        int length = snprintf(body, sizeof(body), "{\"reason\":\"");
        for (int i = 0; i < count; i++)
            length += snprintf(body + length, sizeof(body) - (size_t)length, "\xf0\x9f\x90\x9f");
        snprintf(body + length, sizeof(body) - (size_t)length, "\"}");
        assert_int_equal(handlers_request(handlers, "POST", "/v1/orders/{id}/cancel", id, body, NULL),
                         count > ORDER_REASON_CHARACTERS_MAX ? 422 : 202);
    }
    assert_int_equal(handlers->said_count, 1);
    const struct order_cancelled *said = handlers->said[0].data;
    assert_int_equal(said->reason.length, ORDER_REASON_BYTES_MAX);
    struct text shown;
    assert_int_equal(handlers_give(handlers, said), OK); /* it comes back */
    assert_int_equal(handlers_request(handlers, "GET", "/v1/orders/{id}", id, NULL, &shown), 200);
    assert_non_null(memmem(shown.at, shown.length, said->reason.at, said->reason.length));
    handlers_close(handlers);
}

/* ---- the end of rows */

#define DAY_US (INT64_C(86400) * 1000000)

static int64_t orders_left(struct handlers *handlers)
{
    handlers_begin(handlers);
    int64_t count = rows_count(handlers->work, &orders_table, NULL, NULL, 0);
    handlers_commit(handlers);
    return count;
}

static void what_is_decided_is_forgotten_after_its_age_and_what_is_not_stays(void **nothing)
{
    enum { ORDERS = PRUNE_ROWS_MAX + 20 }; /* more than one step */
    (void)nothing;
    struct order_state state = {.prune = {.age_us = 90 * DAY_US}};
    struct handlers *handlers = handlers_open(&order_service, &state);
    handlers_begin(handlers);
    handlers_read(handlers);
    for (int i = 0; i < ORDERS; i++) {
        char order_id[ID_TEXT_BYTES + 1];
        snprintf(order_id, sizeof(order_id), "0193aaaa-0000-7000-8000-%012d", i);
        const struct order_placed order = order_of(order_id);
        assert_int_equal(handlers_take(handlers, &order_placed_type, &order), OK);
        const struct order_rejected rejected = {.order_id = order.order_id, .reason = TEXT("r")};
        if (i != 7) /* waits for its decision */
            assert_int_equal(handlers_take(handlers, &order_rejected_type, &rejected), OK);
    }
    handlers_commit(handlers);
    const struct order_cancelled never = {.order_id = TEXT("0193aaaa-0000-7000-8000-ffffffffffff")};
    assert_int_equal(handlers_give(handlers, &never), OK);

    handlers_advance(handlers, 89 * DAY_US);
    for (int i = 0; i < 3; i++)
        handlers_tick(handlers, "prune");
    assert_int_equal(orders_left(handlers), ORDERS + 1);
    handlers_advance(handlers, 2 * DAY_US);
    handlers_tick(handlers, "prune");
    assert_true(orders_left(handlers) > 1); /* so much a step, not more */
    handlers_tick(handlers, "prune");
    assert_int_equal(orders_left(handlers), 1);
    assert_int_equal(handlers_request(handlers, "GET", "/v1/orders/{id}",
                                      "0193aaaa-0000-7000-8000-000000000007", NULL, NULL),
                     200);
    state.prune = (struct prune){.age_us = 0};
    handlers_advance(handlers, 4000 * DAY_US);
    handlers_tick(handlers, "prune");
    assert_int_equal(orders_left(handlers), 1);
    handlers_close(handlers);
}

/* ---- POST /v1/events */

#define CAPTURED_DATA                                                                                        \
    "{\"payment_id\":\"p-1\",\"order_id\":\"0193aaaa-0000-7000-8000-000000000006\",\"amount_minor\":900,"    \
    "\"currency\":\"EUR\","                                                                                  \
    "\"provider\":\"upstream\",\"captured_at\":\"2025-11-21T12:00:00Z\"}"
#define STRUCTURED(type, data)                                                                               \
    "{\"specversion\":\"1.0\",\"id\":\"e-1\",\"source\":\"/shop\",\"type\":\"" type "\",\"data\":" data "}"

static int post_event(struct handlers *handlers, const char *content_type, const struct header *headers,
                      size_t count, struct text body)
{
    return handlers_post(handlers, "/v1/events", content_type, headers, count, body, NULL);
}

static void an_event_keeps_its_id_and_source_in_every_mode(void **nothing)
{
    static const struct header headers[] = {
        {TEXT_INIT("ce-specversion"), TEXT_INIT("1.0")},
        {TEXT_INIT("ce-id"), TEXT_INIT("e-1")},
        {TEXT_INIT("ce-source"), TEXT_INIT("/sh%6Fp")}, /* percent-encoded */
        {TEXT_INIT("ce-type"), TEXT_INIT("weir.PaymentCaptured")},
    };
    (void)nothing;
    struct order_state state = {0};
    struct handlers *handlers = handlers_open(&order_service, &state);
    assert_int_equal(post_event(handlers, "application/cloudevents+json", NULL, 0,
                                TEXT(STRUCTURED("weir.PaymentCaptured", CAPTURED_DATA))),
                     202);
    assert_int_equal(post_event(handlers, "application/json", headers, 4, TEXT(CAPTURED_DATA)), 202);
    struct buffer avro = buffer_of(1000);
    struct error error;
    frame_write(&avro, 901);
    assert_int_equal(codec_encode(payment_captured_type.codec, handlers->said[0].data, &avro, &error), OK);
    assert_int_equal(post_event(handlers, "application/avro", headers, 4, buffer_text(&avro)), 202);
    buffer_free(&avro);
    assert_int_equal(handlers->said_count, 3);
    for (size_t i = 0; i < 3; i++) {
        const struct payment_captured *data = handlers->said[i].data;
        assert_ptr_equal(handlers->said[i].type, &payment_captured_type);
        assert_int_equal(data->amount_minor, 900);
        assert_true(text_is(handlers->said[i].id, "e-1"));
        assert_true(text_is(handlers->said[i].source, "/shop"));
    }
    handlers_close(handlers);
}

#define MONEY_DATA(amount, currency)                                                                         \
    "{\"payment_id\":\"p-1\",\"order_id\":\"0193aaaa-0000-7000-8000-000000000006\",\"amount_minor\":" amount \
    ",\"currency\":\"" currency "\","

static void money_that_is_none_is_refused_at_the_door(void **nothing)
{
    static const struct {
        const char *body;
        int status;
        const char *path;
    } cases[] = {
        {STRUCTURED("weir.PaymentCaptured", MONEY_DATA("0", "EUR") "\"provider\":\"t\",\"captured_at\":1}"),
         202, "accepted"},
        {STRUCTURED("weir.PaymentCaptured", MONEY_DATA("-1", "EUR") "\"provider\":\"t\",\"captured_at\":1}"),
         422, "\"errors\":{\"amount_minor\":"},
        {STRUCTURED("weir.PaymentCaptured", MONEY_DATA("1", "EURO") "\"provider\":\"t\",\"captured_at\":1}"),
         422, "\"errors\":{\"currency\":"},
        {STRUCTURED("weir.PaymentRefunded", MONEY_DATA("1", "EUR") "\"refunded_at\":1}"), 202, "accepted"},
        {STRUCTURED("weir.PaymentRefunded", MONEY_DATA("-1", "eur") "\"refunded_at\":1}"), 422,
         "\"amount_minor\":\"must not be negative\",\"currency\":"},
    };
    (void)nothing;
    struct order_state state = {0};
    struct handlers *handlers = handlers_open(&order_service, &state);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct text body;
        assert_int_equal(handlers_post(handlers, "/v1/events", "application/cloudevents+json", NULL, 0,
                                       text_of(cases[i].body), &body),
                         cases[i].status);
        assert_non_null(strstr(body.at, cases[i].path));
    }
    assert_int_equal(handlers->said_count, 2);
    handlers_close(handlers);
}

static void an_event_that_is_none_is_refused(void **nothing)
{
    static const struct {
        const char *type, *body;
        int status;
    } wrong[] = {
        {"application/cloudevents+json", STRUCTURED("weir.Nothing", CAPTURED_DATA), 422},
        {"application/cloudevents+json", STRUCTURED("weir.PaymentCaptured", "{}"), 422},
        {"application/cloudevents+json", STRUCTURED("weir.OrderPlaced", "[]"), 422},
        {"application/cloudevents+json", "{\"specversion\":\"1.0\"}", 422},
        {"application/cloudevents+json", "{", 400},
        {"application/cloudevents+json", "[]", 400},
        {"application/json", CAPTURED_DATA, 422}, /* no ce- headers */
        {"application/avro", "nothing framed", 422},
        {"text/plain", CAPTURED_DATA, 422},
    };
    (void)nothing;
    struct order_state state = {0};
    struct handlers *handlers = handlers_open(&order_service, &state);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_equal(post_event(handlers, wrong[i].type, NULL, 0, text_of(wrong[i].body)),
                         wrong[i].status);
    state.events_secret = "secret";
    assert_int_equal(post_event(handlers, "application/cloudevents+json", NULL, 0,
                                TEXT(STRUCTURED("weir.PaymentCaptured", CAPTURED_DATA))),
                     401);
    assert_int_equal(handlers->said_count, 0);
    handlers_close(handlers);
}

int main(int argc, char **argv)
{
    scratch_choose(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_order_is_decided_once_and_confirmed_only_when_reserved_and_captured),
        cmocka_unit_test(a_reservation_that_ran_out_rejects_the_order),
        cmocka_unit_test(money_that_went_back_before_it_came_confirms_nothing),
        cmocka_unit_test(an_upstream_order_that_is_not_valid_is_rejected_with_the_field),
        cmocka_unit_test(an_order_by_http_is_placed_once_and_told),
        cmocka_unit_test(an_order_id_in_capitals_is_the_same_order),
        cmocka_unit_test(what_is_wrong_with_an_order_is_named_by_its_path),
        cmocka_unit_test(cancelling_says_so_once_and_stands),
        cmocka_unit_test(a_history_tells_steps_that_were_and_in_their_order),
        cmocka_unit_test(a_reason_is_counted_in_characters),
        cmocka_unit_test(what_is_decided_is_forgotten_after_its_age_and_what_is_not_stays),
        cmocka_unit_test(an_event_keeps_its_id_and_source_in_every_mode),
        cmocka_unit_test(money_that_is_none_is_refused_at_the_door),
        cmocka_unit_test(an_event_that_is_none_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
