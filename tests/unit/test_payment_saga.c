/* payment: random interleavings of what is heard about one order, with a gateway that loses answers, against
 * what is promised of money. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/metrics.h"
#include "payment/payment.h"
#include "support/handlers.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

extern const struct service payment_service;

enum { RUNS = 3000, STEPS_MAX = 16, STREAMS = 4, CHARGES_MAX = 4, REFUNDS_MAX = 8 };

static const struct rows_table *tables[] = {&payments_table, &refunds_table, &calls_table, NULL};
static struct service service;
static struct payment_service_state state_of_service = {.gateway_url = "http://127.0.0.1:1",
                                                        .webhook_secret = "secret"};
static struct handlers *handlers;
static struct metrics *metrics;
static struct order_item one_item[] = {{.sku = TEXT_INIT("tea"), .quantity = 2, .unit_price_minor = 450}};
static char order_id[ID_TEXT_BYTES + 1];
static uint64_t seed = 88172645463325252u;

static unsigned int draw(unsigned int below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned int)(seed % below);
}

/* ---- a gateway with a ledger by key */

struct gateway_book {
    bool declines, loses; /* answers are lost at random */
    int charges, refunds; /* money moved */
    char refunded[REFUNDS_MAX][80];
    bool charge_verdict;
};
static struct gateway_book book;

static struct net_result gateway_answer(const struct net_http *http)
{
    static char body[256];
    struct net_result result = {.outcome = OK, .status = 200};
    const char *key = http->headers[1];
    assert_int_equal(strncmp(key, "Idempotency-Key: ", 17), 0);
    key += 17;
    if (strncmp(key, "charge-", 7) == 0) {
        assert_string_equal(key + 7, order_id);
        assert_non_null(strstr(http->url, "/v1/charges"));
        if (book.declines) {
            result = (struct net_result){.outcome = REJECT, .status = 402};
            snprintf(body, sizeof(body),
                     "{\"payment_id\":\"pay-own\",\"status\":\"declined\",\"reason\":\"no funds\"}");
        } else {
            book.charges = 1;
            snprintf(body, sizeof(body), "{\"payment_id\":\"pay-own\",\"status\":\"captured\"}");
        }
    } else {
        bool known = false;
        for (int i = 0; i < book.refunds; i++)
            known = known || strcmp(book.refunded[i], key) == 0;
        if (!known)
            snprintf(book.refunded[book.refunds++], sizeof(book.refunded[0]), "%s", key);
        snprintf(body, sizeof(body), "{\"payment_id\":\"%s\",\"status\":\"refunded\"}", key + 7);
    }
    result.body = text_of(body);
    if (book.loses && draw(2))
        return (struct net_result){.outcome = RETRY, .ambiguous = true};
    if (book.loses && draw(4) == 0)
        return (struct net_result){.outcome = OUTAGE};
    return result;
}

/* Puts one call that waits to the gateway, as the lanes do. False when none waits. */
static bool answer_one_call(void)
{
    void **rows;
    size_t count = handlers_calls(handlers, &gateway_lane, &rows);
    if (count) {
        struct call *call = rows[0];
        struct net_http http = {0};
        struct net_mail mail = {0};
        bool is_mail = true;
        struct error error;
        assert_int_equal(gateway_lane.request(&state_of_service, work_arena(handlers->work), call, &http,
                                              &mail, &is_mail, &error),
                         OK);
        assert_false(is_mail);
        struct net_result result = gateway_answer(&http);
        enum outcome outcome = handlers_answer(handlers, &gateway_lane, call, &result, true);
        assert_int_not_equal(outcome, REJECT);
        assert_int_not_equal(outcome, FATAL);
    }
    handlers_commit(handlers);
    return count > 0;
}

/* ---- what is heard */

enum step {
    NOTHING,
    PLACED,
    PLACED_INVALID,
    CONFIRMED,
    REJECTED,
    CANCELLED,
    RESERVED,
    RELEASED,
    CAPTURED,
    CAPTURED_AGAIN,
    FAILED,
    REFUNDED,
    CALL,
};

static void hear(enum step step)
{
    const struct text id = text_of(order_id);
    const int64_t now = handlers_now_us();
    struct order_placed placed = {.order_id = id,
                                  .customer_id = TEXT("c-1"),
                                  .email = TEXT("ada@example.org"),
                                  .locale = TEXT("en"),
                                  .currency = TEXT("EUR"),
                                  .total_minor = step == PLACED_INVALID ? 1 : 900,
                                  .items = one_item,
                                  .items_count = 1,
                                  .placed_at = now};
    const struct order_confirmed confirmed = {
        .order_id = id, .payment_id = TEXT("pay-up"), .confirmed_at = now};
    const struct order_rejected rejected = {.order_id = id, .reason = TEXT("x"), .rejected_at = now};
    const struct order_cancelled cancelled = {.order_id = id, .reason = TEXT("x"), .cancelled_at = now};
    const struct stock_reserved reserved = {
        .order_id = id, .reserved_at = now, .reserved_until = now + 900 * INT64_C(1000000)};
    const struct stock_released released = {.order_id = id, .reason = TEXT("expired"), .released_at = now};
    const struct payment_captured captured = {.payment_id =
                                                  step == CAPTURED ? TEXT("pay-up") : TEXT("pay-up-2"),
                                              .order_id = id,
                                              .amount_minor = 900,
                                              .currency = TEXT("EUR"),
                                              .provider = TEXT("bank"),
                                              .captured_at = now};
    const struct payment_failed failed = {.order_id = id, .reason = TEXT("no"), .failed_at = now};
    const struct payment_refunded refunded = {.payment_id = TEXT("pay-up"),
                                              .order_id = id,
                                              .amount_minor = 900,
                                              .currency = TEXT("EUR"),
                                              .refunded_at = now};
    enum outcome outcome = OK;
    switch (step) {
    case PLACED:
    case PLACED_INVALID:
        outcome = handlers_give(handlers, &placed);
        break;
    case CONFIRMED:
        outcome = handlers_give(handlers, &confirmed);
        break;
    case REJECTED:
        outcome = handlers_give(handlers, &rejected);
        break;
    case CANCELLED:
        outcome = handlers_give(handlers, &cancelled);
        break;
    case RESERVED:
        outcome = handlers_give(handlers, &reserved);
        break;
    case RELEASED:
        outcome = handlers_give(handlers, &released);
        break;
    case CAPTURED:
    case CAPTURED_AGAIN:
        outcome = handlers_give(handlers, &captured);
        break;
    case FAILED:
        outcome = handlers_give(handlers, &failed);
        break;
    case REFUNDED:
        outcome = handlers_give(handlers, &refunded);
        break;
    case CALL:
        answer_one_call();
        break;
    case NOTHING:
        break;
    }
    assert_int_equal(outcome, OK);
}

static void new_order(void)
{
    char id[ID_TEXT_BYTES];
    struct text text = id_to_text(id_new(), id);
    memcpy(order_id, text.at, text.length);
    memset(&book, 0, sizeof(book));
}

/* What the service said since the mark. */
static int said_count(size_t mark, const struct event_type *type)
{
    int count = 0;
    for (size_t i = mark; i < handlers->said_count; i++)
        count += handlers->said[i].type == type;
    return count;
}

static const struct payment *row_now(void)
{
    handlers_begin(handlers);
    handlers_read(handlers);
    const struct payment *row =
        rows_get(handlers->work, &payments_table, &(struct payment){.order_id = text_of(order_id)});
    static struct payment copy;
    if (row)
        copy = *row;
    /* its text lives until the next begin */
    return row ? &copy : NULL;
}

static void settle_all(void)
{
    int left = 1000;
    while (answer_one_call())
        assert_true(--left > 0);
}

static int open_service(void **state)
{
    (void)state;
    service = payment_service;
    service.tables = tables;
    handlers = handlers_open(&service, &state_of_service);
    static const struct lane *const lanes[] = {&gateway_lane, NULL};
    static const struct lane_limits limits = {.concurrency = 1};
    struct error error;
    metrics = metrics_new();
    return lanes_new(lanes, &limits, &state_of_service, NULL, metrics, NULL, NULL, &handlers->context.lanes,
                     &error) == OK
               ? 0
               : -1;
}

static int close_service(void **state)
{
    (void)state;
    lanes_destroy(handlers->context.lanes);
    handlers_close(handlers);
    metrics_destroy(metrics);
    return 0;
}

/* ---- tests */

static void order_is_charged_once_and_says_so(void **state)
{
    (void)state;
    new_order();
    size_t mark = handlers->said_count;
    hear(PLACED);
    hear(RESERVED);
    hear(PLACED);
    hear(RESERVED);
    settle_all();
    assert_int_equal(book.charges, 1);
    assert_int_equal(said_count(mark, &payment_captured_type), 1);
    assert_int_equal(row_now()->state, PAYMENT_CAPTURED);
    const struct payment_captured *said = handlers->said[mark].data;
    assert_true(text_is(said->provider, "gateway") && text_is(said->payment_id, "pay-own") &&
                said->amount_minor == 900);
    handlers_commit(handlers);
    hear(CONFIRMED);
    settle_all();
    assert_int_equal(book.refunds, 0);
}

static void declined_card_is_a_failed_payment(void **state)
{
    (void)state;
    new_order();
    size_t mark = handlers->said_count;
    book.declines = true;
    hear(RESERVED);
    hear(PLACED);
    settle_all();
    assert_int_equal(said_count(mark, &payment_failed_type), 1);
    const struct payment_failed *said = handlers->said[mark].data;
    assert_true(text_is(said->reason, "no funds") && text_is(said->payment_id, "pay-own"));
    assert_int_equal(said_count(mark, &payment_captured_type), 0);
}

static void invalid_order_is_never_charged(void **state)
{
    (void)state;
    new_order();
    hear(PLACED_INVALID);
    hear(RESERVED);
    assert_false(answer_one_call());
}

static void reservation_that_has_run_out_is_not_charged_for(void **state)
{
    (void)state;
    new_order();
    hear(RESERVED);
    handlers_advance(handlers, 900 * INT64_C(1000000));
    hear(PLACED);
    assert_false(answer_one_call());
}

static void upstream_payment_means_no_charge(void **state)
{
    (void)state;
    static const enum step steps[] = {CAPTURED, FAILED};
    for (size_t i = 0; i < 2; i++) {
        new_order();
        hear(PLACED);
        hear(steps[i]);
        hear(RESERVED);
        assert_false(answer_one_call());
    }
}

static void second_capture_goes_back(void **state)
{
    (void)state;
    new_order();
    hear(PLACED);
    hear(CAPTURED);
    hear(CAPTURED_AGAIN);
    hear(CAPTURED_AGAIN);
    settle_all();
    assert_int_equal(book.refunds, 1);
    assert_string_equal(book.refunded[0], "refund-pay-up-2");
    assert_int_equal(row_now()->state, PAYMENT_CAPTURED);
    handlers_commit(handlers);
}

static enum outcome answer_with(struct net_result result)
{
    void **rows;
    assert_int_equal(handlers_calls(handlers, &gateway_lane, &rows), 1);
    enum outcome outcome = handlers_answer(handlers, &gateway_lane, rows[0], &result, true);
    handlers_commit(handlers);
    return outcome;
}

static void what_nobody_knows_is_asked_again(void **state)
{
    (void)state;
    new_order();
    size_t mark = handlers->said_count;
    hear(PLACED);
    hear(RESERVED);
    assert_int_equal(answer_with((struct net_result){.outcome = OUTAGE}), OUTAGE);
    assert_int_equal(answer_with((struct net_result){.outcome = REJECT, .status = 0}), OUTAGE);
    assert_int_equal(answer_with((struct net_result){.outcome = RETRY, .status = 503}), RETRY);
    assert_int_equal(answer_with((struct net_result){.outcome = RETRY, .ambiguous = true}), RETRY);
    assert_int_equal(answer_with((struct net_result){.outcome = REJECT, .status = 409}), RETRY);
    assert_int_equal(answer_with((struct net_result){.outcome = OK, .status = 200, .body = TEXT("garbage")}),
                     RETRY);
    assert_int_equal(answer_with((struct net_result){
                         .outcome = OK, .status = 200, .body = TEXT("{\"status\":\"captured\"}")}),
                     RETRY);
    /* It may have charged: who asks is no verdict about that. */
    assert_int_equal(answer_with((struct net_result){.outcome = REJECT, .status = 401}), RETRY);
    assert_int_equal(answer_with((struct net_result){.outcome = REJECT, .status = 404}), RETRY);
    assert_int_equal(handlers->said_count, mark);
    settle_all();
    assert_int_equal(said_count(mark, &payment_captured_type), 1);
    assert_int_equal(book.charges, 1);
}

static void other_refusals_are_final_while_nothing_was_lost(void **state)
{
    (void)state;
    new_order();
    size_t mark = handlers->said_count;
    hear(PLACED);
    hear(RESERVED);
    assert_int_equal(answer_with((struct net_result){.outcome = REJECT, .status = 404, .text = "HTTP 404"}),
                     OK);
    assert_int_equal(said_count(mark, &payment_failed_type), 1);
    const struct payment_failed *said = handlers->said[mark].data;
    assert_true(text_is(said->reason, "the gateway refused it (404)") && said->payment_id.length == 0);
}

static void refund_that_is_refused_is_left_for_a_person(void **state)
{
    (void)state;
    new_order();
    hear(PLACED);
    hear(CAPTURED);
    hear(REJECTED);
    /* One line tells a person. */
    char said[4096] = "";
    fflush(stderr);
    int true_stderr = dup(STDERR_FILENO), caught = memfd_create("log", MFD_CLOEXEC);
    dup2(caught, STDERR_FILENO);
    enum outcome outcome =
        answer_with((struct net_result){.outcome = REJECT, .status = 404, .text = "HTTP 404"});
    dup2(true_stderr, STDERR_FILENO);
    assert_true(pread(caught, said, sizeof(said) - 1, 0) > 0);
    close(true_stderr);
    close(caught);
    assert_int_equal(outcome, OK);
    assert_non_null(strstr(said, order_id));
    assert_non_null(strstr(said, "\"level\":\"error\""));
    assert_non_null(strstr(said, "\"station\":\"payment\""));
    assert_ptr_equal(strchr(said, '\n'), said + strlen(said) - 1);
    assert_int_equal(row_now()->state, PAYMENT_REFUND_FAILED);
    handlers_commit(handlers);
    assert_false(answer_one_call());
}

static int webhook_body(const char *body, struct text *ret_body)
{
    char signed_bytes[600], hex[65] = {0}, signature[128];
    uint8_t mac[DIGEST_BYTES];
    long long now_s = (long long)(handlers_now_us() / 1000000);
    snprintf(signed_bytes, sizeof(signed_bytes), "%lld.%s", now_s, body);
    digest_hmac_sha256(TEXT("secret"), text_of(signed_bytes), mac);
    digest_to_hex(mac, sizeof(mac), hex);
    snprintf(signature, sizeof(signature), "t=%lld,v1=%s", now_s, hex);
    const struct header header = {TEXT("weir-signature"), text_of(signature)};
    return handlers_post(handlers, "/v1/webhooks/payment", "application/json", &header, 1, text_of(body),
                         ret_body);
}

static int webhook_in(const char *type, const char *payment_id, const char *currency)
{
    char body[512];
    snprintf(body, sizeof(body),
             "{\"type\":\"payment.%s\",\"payment_id\":\"%s\",\"order_id\":\"%s\",\"amount_minor\":900,"
             "\"currency\":\"%s\"}",
             type, payment_id, order_id, currency);
    return webhook_body(body, NULL);
}

static int webhook(const char *type, const char *payment_id)
{
    return webhook_in(type, payment_id, "EUR");
}

static void webhook_is_closed_without_secret_or_signature(void **state)
{
    (void)state;
    assert_int_equal(handlers_request(handlers, "POST", "/v1/webhooks/payment", NULL, "{}", NULL), 401);
    state_of_service.webhook_secret = NULL;
    assert_int_equal(webhook("captured", "pay-hook"), 403);
    state_of_service.webhook_secret = "secret";
}

static void webhook_says_each_thing_once(void **state)
{
    (void)state;
    new_order();
    assert_int_equal(webhook("captured", "pay-hook"), 404);
    hear(PLACED);
    size_t mark = handlers->said_count;
    assert_int_equal(webhook("captured", "pay-hook"), 202);
    assert_int_equal(webhook("captured", "pay-hook"), 202);
    assert_int_equal(webhook("failed", "pay-hook"), 202);
    assert_int_equal(handlers->said_count - mark, 1);
    assert_int_equal(webhook("captured", "pay-hook-2"), 202);
    assert_int_equal(webhook("captured", "pay-hook-2"), 202);
    assert_int_equal(said_count(mark, &payment_captured_type), 2);
    settle_all();
    assert_int_equal(book.refunds, 1);
    assert_string_equal(book.refunded[0], "refund-pay-hook-2");
    assert_int_equal(said_count(mark, &payment_refunded_type), 1);
    assert_int_equal(webhook("refunded", "pay-hook-2"), 202);
    assert_int_equal(said_count(mark, &payment_refunded_type), 1);
    assert_int_equal(webhook("nonsense", "pay-hook"), 422);
}

static void refund_told_before_its_capture_comes_behind_it(void **state)
{
    (void)state;
    new_order();
    hear(PLACED);
    size_t mark = handlers->said_count;
    assert_int_equal(webhook("refunded", "pay-hook"), 202);
    assert_int_equal(handlers->said_count, mark);
    assert_int_equal(webhook("captured", "pay-hook"), 202);
    assert_int_equal(handlers->said_count, mark + 2);
    assert_ptr_equal(handlers->said[mark].type, &payment_captured_type);
    assert_ptr_equal(handlers->said[mark + 1].type, &payment_refunded_type);
    hear(RESERVED);
    assert_false(answer_one_call());
}

/* The webhook is faster than the answer that it is about; that it was captured may be told by either, first.
 */
static void refund_told_while_the_gateway_is_asked_ends_the_payment(void **state)
{
    (void)state;
    for (int told = 0; told < 2; told++) {
        new_order();
        size_t mark = handlers->said_count;
        hear(PLACED);
        hear(RESERVED);
        assert_int_equal(webhook("refunded", "pay-own"), 202);
        if (told)
            assert_int_equal(webhook("captured", "pay-own"), 202);
        settle_all();
        const struct payment row = *row_now();
        assert_int_equal(row.state, PAYMENT_REFUNDED);
        assert_true(text_is(row.payment_id, "pay-own"));
        handlers_commit(handlers);
        assert_int_equal(handlers->said_count, mark + 2);
        assert_ptr_equal(handlers->said[mark].type, &payment_captured_type);
        assert_ptr_equal(handlers->said[mark + 1].type, &payment_refunded_type);
        assert_int_equal(book.refunds, 0);
    }
    /* Another's payment that came and went is not what the gateway is asked about. */
    new_order();
    hear(PLACED);
    hear(RESERVED);
    assert_int_equal(webhook("refunded", "pay-other"), 202);
    assert_int_equal(webhook("captured", "pay-other"), 202);
    settle_all();
    assert_int_equal(row_now()->state, PAYMENT_CAPTURED);
    handlers_commit(handlers);
}

static void webhook_names_each_member_that_is_wrong_once(void **state)
{
    (void)state;
    struct text body;
    struct error error;
    json_t *problem = NULL;
    assert_int_equal(webhook_body("{}", &body), 422);
    assert_int_equal(json_read(body, &problem, &error), OK); /* which takes no name twice */
    assert_int_equal(json_object_size(json_object_get(problem, "errors")), 5);
    json_decref(problem);
}

static void webhook_takes_three_letters_for_a_currency(void **state)
{
    (void)state;
    static const char *const wrong[] = {"", "EURO", "E1R", "12!", "\xc3\xa9x", "A\\u0000B"};
    new_order();
    hear(PLACED);
    size_t mark = handlers->said_count;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_equal(webhook_in("captured", "pay-hook", wrong[i]), 422);
    assert_int_equal(webhook_in("captured", "pay-hook", "eur"), 202);
    assert_int_equal(handlers->said_count, mark + 1);
    assert_true(text_is(((const struct payment_captured *)handlers->said[mark].data)->currency, "EUR"));
}

/* Streams are in order among themselves, as partitions are; between them there is none. */
static int64_t rows_left(const struct rows_table *table)
{
    handlers_begin(handlers);
    int64_t count = rows_count(handlers->work, table, NULL, NULL, 0);
    handlers_commit(handlers);
    return count;
}

/* Those that the gateway would not give back. */
static int64_t refunds_that_stay(void)
{
    void **rows;
    handlers_begin(handlers);
    handlers_read(handlers);
    size_t count = rows_find(handlers->work, &refunds_table, "payment_id > $1 ORDER BY payment_id",
                             &STORE_TEXT(TEXT("")), 1, 1000, &rows),
           stay = 0;
    for (size_t i = 0; i < count; i++)
        stay += ((const struct refund *)rows[i])->state != PAYMENT_REFUNDED;
    handlers_commit(handlers);
    return (int64_t)stay;
}

static void finished_payments_are_forgotten_after_their_age_and_others_stay(void **state)
{
    (void)state;
    const int64_t day_us = INT64_C(86400) * 1000000;
    int64_t payments = rows_left(&payments_table);
    state_of_service.prune_payments.age_us = state_of_service.prune_refunds.age_us = 90 * day_us;
    new_order(); /* captured and kept */
    hear(PLACED);
    hear(RESERVED);
    settle_all();
    hear(CONFIRMED);
    new_order(); /* captured twice: one goes back */
    hear(PLACED);
    hear(CAPTURED);
    assert_int_equal(webhook("captured", "pay-again"), 202);
    settle_all();
    hear(CONFIRMED);
    new_order(); /* captured, and nobody has decided */
    hear(PLACED);
    hear(RESERVED);
    settle_all();
    new_order(); /* the gateway is still asked */
    hear(PLACED);
    hear(RESERVED);
    assert_int_equal(rows_left(&payments_table), payments + 4);
    handlers_advance(handlers, 89 * day_us);
    handlers_tick(handlers, "prune");
    assert_int_equal(rows_left(&payments_table), payments + 4);
    handlers_advance(handlers, 2 * day_us);
    handlers_tick(handlers, "prune");
    assert_int_equal(row_now()->state, PAYMENT_CHARGING);
    handlers_commit(handlers);
    assert_true(rows_left(&payments_table) >= 2 && rows_left(&payments_table) <= payments + 2);
    assert_int_equal(rows_left(&refunds_table), refunds_that_stay());
    settle_all();
}

static void any_interleaving_keeps_the_books_right(void **state)
{
    (void)state;
    static const enum step decisions[] = {NOTHING, CONFIRMED, REJECTED, CANCELLED};
    static const enum step payments[][3] = {
        {NOTHING}, {NOTHING},         {CAPTURED}, {CAPTURED, CAPTURED_AGAIN}, {CAPTURED, REFUNDED},
        {FAILED},  {FAILED, CAPTURED}};
    for (int run = 0; run < RUNS; run++) {
        new_order();
        size_t mark = handlers->said_count;
        book.declines = draw(4) == 0;
        book.loses = draw(2) == 0;
        enum step streams[STREAMS][4] = {
            {PLACED, decisions[draw(4)], decisions[draw(4)], NOTHING},
            {RESERVED, draw(3) ? NOTHING : RELEASED, NOTHING, NOTHING},
            {NOTHING, NOTHING, NOTHING, NOTHING},
            {CALL, CALL, CALL, CALL},
        };
        memcpy(streams[2], payments[draw(7)], sizeof(payments[0]));
        int at[STREAMS] = {0};
        for (int left = STREAMS * 4; left > 0;) {
            unsigned int stream = draw(STREAMS);
            if (at[stream] == 4)
                continue;
            hear(streams[stream][at[stream]++]);
            left--;
        }
        settle_all();

        bool undone = false, confirmed = false;
        for (int i = 1; i < 3 && !undone && !confirmed; i++) {
            undone = streams[0][i] == REJECTED || streams[0][i] == CANCELLED;
            confirmed = streams[0][i] == CONFIRMED;
        }
        int upstream = 0, upstream_refunds = 0;
        for (int i = 0; i < 3; i++) {
            upstream += streams[2][i] == CAPTURED || streams[2][i] == CAPTURED_AGAIN;
            upstream_refunds += streams[2][i] == REFUNDED;
        }
        const struct payment row = *row_now();
        handlers_commit(handlers);
        int captured = book.charges + upstream;
        int returned = book.refunds + upstream_refunds;
        assert_true(book.charges <= 1);
        assert_int_equal(said_count(mark, &payment_captured_type), book.charges);
        assert_true(said_count(mark, &payment_failed_type) <= 1);
        assert_true(said_count(mark, &payment_refunded_type) <= book.refunds);
        assert_true(row.state != PAYMENT_CHARGING && row.state != PAYMENT_REFUNDING);
        /* Upstream's own refund and ours of the same payment may cross: then more is asked back than was
         * taken, by key only once. */
        if (undone)
            assert_true(captured - returned <= 0);
        else
            assert_true(captured - returned <= 1);
        assert_true(returned - captured <= upstream_refunds);
    }
}

int main(int argc, char **argv)
{
    scratch_choose(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_is_charged_once_and_says_so),
        cmocka_unit_test(declined_card_is_a_failed_payment),
        cmocka_unit_test(invalid_order_is_never_charged),
        cmocka_unit_test(reservation_that_has_run_out_is_not_charged_for),
        cmocka_unit_test(upstream_payment_means_no_charge),
        cmocka_unit_test(second_capture_goes_back),
        cmocka_unit_test(what_nobody_knows_is_asked_again),
        cmocka_unit_test(other_refusals_are_final_while_nothing_was_lost),
        cmocka_unit_test(refund_that_is_refused_is_left_for_a_person),
        cmocka_unit_test(webhook_is_closed_without_secret_or_signature),
        cmocka_unit_test(webhook_says_each_thing_once),
        cmocka_unit_test(refund_told_before_its_capture_comes_behind_it),
        cmocka_unit_test(refund_told_while_the_gateway_is_asked_ends_the_payment),
        cmocka_unit_test(webhook_names_each_member_that_is_wrong_once),
        cmocka_unit_test(webhook_takes_three_letters_for_a_currency),
        cmocka_unit_test(finished_payments_are_forgotten_after_their_age_and_others_stay),
        cmocka_unit_test(any_interleaving_keeps_the_books_right),
    };
    return cmocka_run_group_tests(tests, open_service, close_service);
}
