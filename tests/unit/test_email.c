/* email: the letters, and which mail goes when, in any order of arrival. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/metrics.h"
#include "email/email.h"
#include "items.h"
#include "support/handlers.h"

#include <stdio.h>
#include <stdlib.h>

extern const struct service email_service;

static const struct rows_table *tables[] = {&contacts_table, &mails_table, &calls_table, NULL};
static struct service service;
static struct email_state email = {
    .smtp_url = "smtp://127.0.0.1:1",
    .from = "shop@example.org",
    .domain = TEXT_INIT("example.org"),
    .resend = true,
    .wait_us = 7 * INT64_C(86400) * 1000000,
    .prune = {.age_us = 90 * INT64_C(86400) * 1000000},
};
static struct handlers *handlers;
static struct metrics *metrics;
static struct order_item items[] = {
    {.sku = TEXT_INIT("<b>&\"'"), .quantity = 2, .unit_price_minor = 450},
    {.sku = TEXT_INIT("tea"), .quantity = 1, .unit_price_minor = 99},
};
static char order_id[ID_TEXT_BYTES + 1];

/* ---- letters */

static void money_is_written_by_its_currency(void **state)
{
    (void)state;
    static const struct {
        int64_t minor;
        const char *currency, *written;
    } rows[] = {
        {1234, "EUR", "12.34 EUR"},
        {5, "USD", "0.05 USD"},
        {0, "EUR", "0.00 EUR"},
        {500, "JPY", "500 JPY"},
        {1234, "KWD", "1.234 KWD"},
        {12345, "CLF", "1.2345 CLF"},
        {12, "UYI", "12 UYI"},
        {-1, "EUR", "-0.01 EUR"},
        {INT64_MIN, "JPY", "-9223372036854775808 JPY"},
        {INT64_MAX, "EUR", "92233720368547758.07 EUR"},
    };
    struct arena *arena = arena_new(1 << 16);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct text written = letter_money(arena, rows[i].minor, text_of(rows[i].currency));
        if (!text_is(written, rows[i].written))
            fail_msg("%s is written %.*s", rows[i].written, TEXT_ARG(written));
    }
    arena_destroy(arena);
}

static void every_letter_in_both_languages_is_whole(void **state)
{
    (void)state;
    struct arena *arena = arena_new(4 << 20);
    struct error error;
    struct text subjects[2][EMAIL_TEMPLATES];
    static const char *const locales[] = {"en-GB", "de-AT"};
    for (size_t locale = 0; locale < 2; locale++)
        for (int template = 0; template <EMAIL_TEMPLATES; template ++) {
            const struct letter letter = {
                .template = (enum email_template) template,
                .order_id = TEXT("11111111-2222-7333-8444-555555555555"),
                .locale = text_of(locales[locale]),
                .currency = TEXT("EUR"),
                .items = items_pack(arena, items, 2),
                .detail = TEXT("<script>alert('x')</script>"),
                .amount_currency = TEXT("<i>"),
                .total_minor = 999,
                .amount_minor = 999,
            };
            struct text text, html;
            assert_int_equal(letter_write(&letter, arena, &subjects[locale][template], &text, &html, &error),
                             OK);
            const char *plain = text_copy(arena, text).at;
            const char *markup = text_copy(arena, html).at;
            assert_true(subjects[locale][template].length > 5);
            assert_non_null(
                memmem(subjects[locale][template].at, subjects[locale][template].length, "11111111", 8));
            assert_null(strstr(plain, "{{"));
            assert_null(strstr(markup, "{{"));
            assert_null(strstr(plain, "Subject:"));
            assert_non_null(strstr(plain, "11111111-2222"));
            assert_non_null(strstr(markup, "11111111-2222"));
            assert_null(strstr(markup, "<script>"));
            assert_null(strstr(markup, "<b>&\""));
            assert_null(strstr(markup, "<i>"));
            assert_true(text_is_utf8(text) && text_is_utf8(html));
        }
    for (int template = 0; template <EMAIL_TEMPLATES; template ++)
        assert_false(text_equal(subjects[0][template], subjects[1][template]));
    arena_destroy(arena);
}

/* ---- handlers */

static void new_order(void)
{
    char id[ID_TEXT_BYTES];
    struct text text = id_to_text(id_new(), id);
    memcpy(order_id, text.at, text.length);
}

static void placed(bool valid)
{
    const struct order_placed order = {
        .order_id = text_of(order_id),
        .customer_id = TEXT("c-1"),
        .email = TEXT("ada@example.org"),
        .locale = TEXT("en"),
        .currency = TEXT("EUR"),
        .total_minor = valid ? 999 : 1,
        .items = items,
        .items_count = 2,
        .placed_at = handlers_now_us(),
    };
    assert_int_equal(handlers_give(handlers, &order), OK);
}

static void captured(void)
{
    const struct payment_captured event = {.payment_id = TEXT("p"),
                                           .order_id = text_of(order_id),
                                           .amount_minor = 999,
                                           .currency = TEXT("EUR"),
                                           .provider = TEXT("x"),
                                           .captured_at = 1};
    assert_int_equal(handlers_give(handlers, &event), OK);
}

static void confirmed(void)
{
    const struct order_confirmed event = {
        .order_id = text_of(order_id), .payment_id = TEXT("p"), .confirmed_at = 1};
    assert_int_equal(handlers_give(handlers, &event), OK);
}

static void rejected(struct text reason)
{
    const struct order_rejected event = {.order_id = text_of(order_id), .reason = reason, .rejected_at = 1};
    assert_int_equal(handlers_give(handlers, &event), OK);
}

/* Puts every call that waits to a mail server that answers so. Returns how many there were. */
static size_t answer_calls(struct net_result result, bool last, enum outcome expected)
{
    void **rows;
    size_t count = handlers_calls(handlers, &smtp_lane, &rows);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(handlers_answer(handlers, &smtp_lane, rows[i], &result, last), expected);
    handlers_commit(handlers);
    return count;
}

static const struct net_result ok = {.outcome = OK, .status = 250, .text = "250 ok"};

static int64_t state_of(enum email_template template)
{
    handlers_begin(handlers);
    handlers_read(handlers);
    const struct mail *mail = rows_get(handlers->work, &mails_table,
                                       &(struct mail){.order_id = text_of(order_id), .template = template});
    int64_t state = mail ? mail->state : -1;
    handlers_commit(handlers);
    return state;
}

static void each_event_is_one_mail_once(void **state)
{
    (void)state;
    new_order();
    size_t mark = handlers->said_count;
    placed(true);
    placed(true);
    captured();
    captured();
    confirmed();
    assert_int_equal(answer_calls(ok, false, OK), 3);
    confirmed();
    placed(true);
    assert_int_equal(answer_calls(ok, false, OK), 0);
    assert_int_equal(handlers->said_count - mark, 3);
    for (size_t i = mark; i < handlers->said_count; i++)
        assert_ptr_equal(handlers->said[i].type, &email_sent_type);
    assert_int_equal(state_of(EMAIL_ORDER_CONFIRMED), MAIL_SENT);
}

static void mail_waits_for_the_address(void **state)
{
    (void)state;
    new_order();
    captured();
    confirmed();
    assert_int_equal(answer_calls(ok, false, OK), 0);
    assert_int_equal(state_of(EMAIL_PAYMENT_RECEIPT), MAIL_WAITING);
    placed(true);
    assert_int_equal(answer_calls(ok, false, OK), 3);
}

static void invalid_order_gets_no_mail_whatever_comes_when(void **state)
{
    (void)state;
    new_order();
    captured();
    placed(false);
    rejected(TEXT("invalid: total_minor"));
    assert_int_equal(answer_calls(ok, false, OK), 0);
    assert_int_equal(state_of(EMAIL_PAYMENT_RECEIPT), -1);
    assert_int_equal(state_of(EMAIL_ORDER_REJECTED), -1);
}

static void only_the_first_decision_is_told(void **state)
{
    (void)state;
    new_order();
    placed(true);
    rejected(TEXT("out of stock: tea"));
    confirmed();
    assert_int_equal(answer_calls(ok, false, OK), 2);
    assert_int_equal(state_of(EMAIL_ORDER_CONFIRMED), -1);
}

static void refusals_go_their_ways(void **state)
{
    (void)state;
    const struct net_result later = {.outcome = RETRY, .status = 451, .text = "451 later"};
    const struct net_result never = {.outcome = REJECT, .status = 550, .text = "550 no such mailbox"};
    const struct net_result away = {.outcome = OUTAGE, .text = "refused"};
    new_order();
    size_t mark = handlers->said_count;
    placed(true);
    assert_int_equal(answer_calls(away, true, OUTAGE), 1);
    assert_int_equal(answer_calls(later, false, RETRY), 1);
    assert_int_equal(handlers->said_count, mark);
    assert_int_equal(state_of(EMAIL_ORDER_RECEIVED), MAIL_RETRYING);
    assert_int_equal(answer_calls(later, true, OK), 1);
    assert_int_equal(handlers->said_count, mark + 1);
    assert_ptr_equal(handlers->said[mark].type, &email_failed_type);
    assert_true(text_is(((const struct email_failed *)handlers->said[mark].data)->reason, "451 later"));
    confirmed();
    assert_int_equal(answer_calls(never, false, OK), 1);
    assert_int_equal(state_of(EMAIL_ORDER_CONFIRMED), MAIL_FAILED);
}

static void ambiguous_mail_is_sent_again_or_left_as_asked_for(void **state)
{
    (void)state;
    const struct net_result unknown = {.outcome = RETRY, .ambiguous = true, .text = "lost"};
    new_order();
    size_t mark = handlers->said_count;
    placed(true);
    assert_int_equal(answer_calls(unknown, false, RETRY), 1);
    email.resend = false;
    assert_int_equal(answer_calls(unknown, false, OK), 1);
    email.resend = true;
    assert_true(text_is(((const struct email_failed *)handlers->said[mark].data)->reason, "ambiguous: lost"));
    struct text body;
    assert_int_equal(handlers_request(handlers, "GET", "/v1/emails/{order_id}", order_id, NULL, &body), 200);
    assert_non_null(memmem(body.at, body.length, "\"ambiguous\":2", 13));
    assert_non_null(memmem(body.at, body.length, "\"state\":\"failed\"", 16));
}

static void mail_on_the_wire_has_the_same_id_each_time(void **state)
{
    (void)state;
    new_order();
    placed(true);
    char first[256] = "";
    for (int i = 0; i < 2; i++) {
        void **rows;
        assert_int_equal(handlers_calls(handlers, &smtp_lane, &rows), 1);
        struct net_http http = {0};
        struct net_mail mail = {0};
        bool is_mail = false;
        struct error error;
        assert_int_equal(
            smtp_lane.request(&email, work_arena(handlers->work), rows[0], &http, &mail, &is_mail, &error),
            OK);
        assert_true(is_mail && text_is(mail.to, "ada@example.org") && text_is(mail.from, "shop@example.org"));
        const char *id = memmem(mail.message.at, mail.message.length, "Message-ID: <", 13);
        assert_non_null(id);
        char line[256];
        snprintf(line, sizeof(line), "%.*s", (int)strcspn(id, "\r"), id);
        if (i == 0)
            memcpy(first, line, sizeof(first));
        assert_string_equal(first, line);
        assert_non_null(strstr(line, "@example.org>"));
        handlers_commit(handlers);
        handlers_advance(handlers, 1000000);
    }
    answer_calls(ok, false, OK);
}

static void text_of_any_length_from_upstream_does_no_harm(void **state)
{
    (void)state;
    static char reason[300000];
    memset(reason, '\r', sizeof(reason));
    new_order();
    placed(true);
    rejected((struct text){reason, sizeof(reason)});
    assert_int_equal(answer_calls(ok, false, OK), 2);
    assert_int_equal(handlers_request(handlers, "GET", "/v1/emails/{order_id}", "none", NULL, NULL), 404);
}

#define DAY_US (INT64_C(86400) * 1000000)

static int64_t contacts_left(void)
{
    handlers_begin(handlers);
    int64_t count = rows_count(handlers->work, &contacts_table, NULL, NULL, 0) +
                    rows_count(handlers->work, &mails_table, NULL, NULL, 0);
    handlers_commit(handlers);
    return count;
}

/* A cancellation of what never was placed. */
static void mail_for_an_order_that_never_comes_fails_after_a_while(void **state)
{
    (void)state;
    struct text body;
    new_order();
    const struct order_cancelled cancelled = {.order_id = text_of(order_id), .reason = TEXT("r")};
    assert_int_equal(handlers_give(handlers, &cancelled), OK);
    size_t mark = handlers->said_count;
    handlers_advance(handlers, 6 * DAY_US);
    handlers_tick(handlers, "prune");
    assert_int_equal(handlers->said_count, mark);
    handlers_advance(handlers, 2 * DAY_US);
    handlers_tick(handlers, "prune");
    assert_int_equal(handlers->said_count, mark + 1);
    assert_ptr_equal(handlers->said[mark].type, &email_failed_type);
    const struct email_failed *failed = handlers->said[mark].data;
    assert_true(text_is(failed->template, "order_cancelled"));
    assert_non_null(memmem(failed->reason.at, failed->reason.length, "never placed", 12));
    assert_int_equal(handlers_request(handlers, "GET", "/v1/emails/{order_id}", order_id, NULL, &body), 200);
    assert_non_null(strstr(body.at, "\"state\":\"failed\""));
    handlers_advance(handlers, DAY_US);
    handlers_tick(handlers, "prune");
    assert_int_equal(handlers->said_count, mark + 1); /* once */
    placed(true);                                     /* after all: what is not given up yet is sent */
    assert_int_equal(answer_calls(ok, false, OK), 1);
}

static void what_was_sent_is_forgotten_after_its_age_and_what_was_not_stays(void **state)
{
    (void)state;
    new_order();
    placed(true);
    rejected(TEXT("r"));
    assert_int_equal(answer_calls(ok, false, OK), 2);
    handlers_advance(handlers, 91 * DAY_US);
    handlers_tick(handlers, "prune");
    assert_int_equal(contacts_left(), 0);
    new_order();
    placed(true); /* its mail waits for the lane */
    handlers_advance(handlers, 91 * DAY_US);
    handlers_tick(handlers, "prune");
    assert_int_equal(contacts_left(), 2);
    assert_int_equal(answer_calls(ok, false, OK), 1);
    handlers_advance(handlers, DAY_US);
    handlers_tick(handlers, "prune");
    assert_int_equal(contacts_left(), 0);
}

static int open_service(void **state)
{
    (void)state;
    static const struct lane *const lanes[] = {&smtp_lane, NULL};
    static const struct lane_limits limits = {.concurrency = 1};
    struct error error;
    service = email_service;
    service.tables = tables;
    metrics = metrics_new();
    handlers = handlers_open(&service, &email);
    return lanes_new(lanes, &limits, &email, NULL, metrics, NULL, NULL, &handlers->context.lanes, &error) ==
                   OK
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

int main(int argc, char **argv)
{
    scratch_choose(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(money_is_written_by_its_currency),
        cmocka_unit_test(every_letter_in_both_languages_is_whole),
        cmocka_unit_test(each_event_is_one_mail_once),
        cmocka_unit_test(mail_waits_for_the_address),
        cmocka_unit_test(invalid_order_gets_no_mail_whatever_comes_when),
        cmocka_unit_test(only_the_first_decision_is_told),
        cmocka_unit_test(refusals_go_their_ways),
        cmocka_unit_test(ambiguous_mail_is_sent_again_or_left_as_asked_for),
        cmocka_unit_test(mail_on_the_wire_has_the_same_id_each_time),
        cmocka_unit_test(text_of_any_length_from_upstream_does_no_harm),
        cmocka_unit_test(mail_for_an_order_that_never_comes_fails_after_a_while),
        cmocka_unit_test(what_was_sent_is_forgotten_after_its_age_and_what_was_not_stays),
    };
    return cmocka_run_group_tests(tests, open_service, close_service);
}
