/* analytics: the same figures, in whatever order the topics are read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "analytics/analytics.h"
#include "support/handlers.h"
#include "support/samples.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

extern const struct service analytics_service;

enum { ORDERS = 90, SHUFFLES = 12, BATCH_MAX = 60, EVENTS_MAX = ORDERS * 16, CUSTOMERS = 25 };

static const struct text currencies[] = {TEXT_INIT("EUR"), TEXT_INIT("JPY"), TEXT_INIT("USD")};
static const struct text skus[] = {TEXT_INIT("cup"), TEXT_INIT("kettle"), TEXT_INIT("pot"), TEXT_INIT("tea")};

struct item {
    const struct event_type *type;
    const void *data;
    enum topic_id topic;
    uint32_t order;
};

/* What happened, in an order that keeps each topic's. */
struct history {
    struct arena *arena;
    struct samples samples;
    struct item items[EVENTS_MAX];
    size_t count;
    int64_t captured[3], refunded[3]; /* the sums, worked out here as well */
    int64_t placed, confirmed;
};

static void add(struct history *history, const struct event_type *type, const void *data, size_t bytes,
                uint32_t order)
{
    assert_true(history->count < EVENTS_MAX);
    history->items[history->count++] =
        (struct item){type, arena_copy(history->arena, data, bytes), type->topic, order};
}
#define ADD(history, order, ...)                                                                             \
    add((history), EVENT_TYPE_OF(&(__VA_ARGS__)), &(__VA_ARGS__), sizeof(__VA_ARGS__), (order))

static struct text name_of(struct history *history, const char *what, size_t number)
{
    return text_of(arena_print(history->arena, what, (unsigned)number));
}

static void add_payment(struct history *history, uint32_t n, struct text id, size_t currency, int64_t amount,
                        int64_t at)
{
    struct text payment_id = name_of(history, "pay-%u", n);
    const struct payment_captured captured = {.payment_id = payment_id,
                                              .order_id = id,
                                              .amount_minor = amount,
                                              .currency = currencies[currency],
                                              .provider = TEXT("t"),
                                              .captured_at = at};
    ADD(history, n, captured);
    history->captured[currency] += amount;
    if (n % 5 == 0) /* told twice, under another id */
        ADD(history, n, captured);
    if (n % 7 == 0) { /* a second payment, given back */
        struct payment_captured second = captured;
        second.payment_id = name_of(history, "second-%u", n);
        const struct payment_refunded refunded = {.payment_id = second.payment_id,
                                                  .order_id = id,
                                                  .amount_minor = amount,
                                                  .currency = currencies[currency],
                                                  .refunded_at = at + DAY_US};
        ADD(history, n, second);
        ADD(history, n, refunded);
        ADD(history, n, refunded);
        history->captured[currency] += amount;
        history->refunded[currency] += amount;
    }
}

static void add_order(struct history *history, uint32_t n)
{
    struct text id = name_of(history, "0193aaaa-0000-7000-8000-0000%08x", n);
    int64_t at = ((int64_t)HANDLERS_START_S - 86400 * 40) * 1000000 +
                 (int64_t)samples_below(&history->samples, (size_t)(40 * DAY_US));
    size_t currency = samples_below(&history->samples, 3);
    struct order_item *items = arena_take(history->arena, 2 * sizeof(*items));
    size_t sku = samples_below(&history->samples, 4);
    for (size_t i = 0; i < 2; i++)
        items[i] = (struct order_item){.sku = skus[(sku + i) % 4],
                                       .quantity = 1 + (int32_t)samples_below(&history->samples, 5),
                                       .unit_price_minor = 125};
    struct order_placed placed = {
        .order_id = id,
        .customer_id = name_of(history, "customer-%u", samples_below(&history->samples, CUSTOMERS)),
        .email = TEXT("ada@example.org"),
        .locale = TEXT("en"),
        .currency = currencies[currency],
        .total_minor = 125 * (items[0].quantity + items[1].quantity),
        .items = items,
        .items_count = 2,
        .placed_at = at,
    };
    if (n % 11 == 0)
        placed.total_minor++; /* not valid: counted as placed, and rejected by order */
    ADD(history, n, placed);
    history->placed++;
    if (n % 6 == 0) { /* again under another id, and changed: the first counts */
        placed.customer_id = TEXT("nobody");
        ADD(history, n, placed);
    }
    const struct order_confirmed confirmed = {
        .order_id = id, .payment_id = TEXT("p"), .confirmed_at = at + 4000000 + n};
    const struct order_rejected rejected = {.order_id = id, .reason = TEXT("x"), .rejected_at = at + 3000000};
    const struct order_cancelled cancelled = {.order_id = id, .cancelled_at = at + DAY_US};
    if (n % 11 == 0) {
        ADD(history, n, rejected);
        return;
    }
    const struct stock_reserved reserved = {
        .order_id = id, .reserved_until = at + 900000000, .reserved_at = at + 1000000 + n * 10};
    ADD(history, n, reserved);
    if (n % 9 == 0) {
        ADD(history, n, cancelled);
        ADD(history, n, confirmed); /* later in the log: passed */
        return;
    }
    add_payment(history, n, id, currency, placed.total_minor, at + 2000000 + n * 100);
    ADD(history, n, confirmed);
    history->confirmed++;
    if (n % 13 == 0)
        ADD(history, n, cancelled);
    const struct email_sent sent = {.order_id = id,
                                    .template = TEXT("order_confirmed"),
                                    .message_id = TEXT("<m>"),
                                    .sent_at = at + 5000000};
    const struct email_failed failed = {.order_id = id,
                                        .template = TEXT("order_confirmed"),
                                        .reason = TEXT("550"),
                                        .failed_at = at + 5000000};
    if (n % 8)
        ADD(history, n, sent);
    else
        ADD(history, n, failed);
}

static struct history *history_new(void)
{
    struct history *history = calloc(1, sizeof(*history));
    assert_non_null(history);
    history->arena = arena_new(16 << 20);
    history->samples = samples_of(7);
    for (uint32_t n = 1; n <= ORDERS; n++)
        add_order(history, n);
    return history;
}

static void history_destroy(struct history *history)
{
    arena_destroy(history->arena);
    free(history);
}

/* Any order that keeps what one topic says about one order in its order. */
static void shuffle(const struct history *history, struct samples *samples, const struct item **into)
{
    static bool taken[EVENTS_MAX];
    memset(taken, 0, sizeof(taken));
    for (size_t done = 0; done < history->count; done++) {
        size_t at = samples_below(samples, history->count);
        while (taken[at])
            at = (at + 1) % history->count;
        for (size_t before = 0; before < at; before++) /* the first of its stream that is left goes instead */
            if (!taken[before] && history->items[before].topic == history->items[at].topic &&
                history->items[before].order == history->items[at].order) {
                at = before;
                break;
            }
        taken[at] = true;
        into[done] = &history->items[at];
    }
}

static void add_report(struct store_reader *reader, enum period_kind kind, struct buffer *into)
{
    struct report_range range = {.kind = kind};
    struct codec_faults faults = {0};
    struct error error;
    struct buffer json = buffer_of(REPORT_BYTES_MAX), csv = buffer_of(REPORT_BYTES_MAX),
                  *both[REPORT_FORMATS] = {&json, &csv};
    assert_true(report_range_read(TEXT("2025-10-08"), TEXT("2025-11-25"), REPORT_ROWS_MAX, &range, &faults));
    assert_int_equal(report_write(reader, &range, both, NULL, NULL, &error), OK);
    buffer_add_text(into, buffer_text(&json));
    buffer_add_text(into, buffer_text(&csv));
    buffer_free(&json);
    buffer_free(&csv);
}

/* Figures and reports of a count from nothing. */
static void count_all(const struct item **items, size_t count, struct samples *samples, struct buffer *into)
{
    struct analytics_state *state = calloc(1, sizeof(*state));
    struct handlers *handlers = handlers_open(&analytics_service, state);
    struct error error;
    for (size_t i = 0; i < count;) {
        size_t batch = 1 + samples_below(samples, BATCH_MAX);
        if (batch > count - i)
            batch = count - i;
        handlers_begin(handlers);
        for (size_t k = i; k < i + batch; k++)
            handlers_want(handlers, items[k]->type, items[k]->data);
        handlers_read(handlers);
        for (size_t k = i; k < i + batch; k++)
            assert_int_equal(handlers_take(handlers, items[k]->type, items[k]->data), OK);
        handlers_commit(handlers);
        i += batch;
    }
    struct text figures;
    assert_int_equal(handlers_request(handlers, "GET", "/v1/figures", NULL, NULL, &figures), 200);
    buffer_add_text(into, figures);
    struct store_reader *reader;
    assert_int_equal(store_reader_open(handlers->url, "analytics", &reader, &error), OK);
    for (int kind = 0; kind < PERIOD_KINDS; kind++)
        add_report(reader, (enum period_kind)kind, into);
    store_reader_close(reader);
    buffer_add_char(into, '\0');
    assert_false(into->failed);
    handlers_close(handlers);
    free(state);
}

static void figures_do_not_depend_on_the_order_of_arrival(void **nothing)
{
    (void)nothing;
    struct history *history = history_new();
    static const struct item *items[EVENTS_MAX];
    struct samples samples = samples_of(99);
    struct buffer first = buffer_of(8 << 20);
    for (size_t i = 0; i < history->count; i++)
        items[i] = &history->items[i];
    count_all(items, history->count, &samples, &first);
    for (int i = 0; i < SHUFFLES; i++) {
        struct buffer again = buffer_of(8 << 20);
        shuffle(history, &samples, items);
        count_all(items, history->count, &samples, &again);
        assert_string_equal(again.at, first.at);
        buffer_free(&again);
    }
    buffer_free(&first);
    history_destroy(history);
}

static void figures_survive_the_facts_they_were_made_of(void **nothing)
{
    (void)nothing;
    struct history *history = history_new();
    struct analytics_state *state = calloc(1, sizeof(*state));
    struct handlers *handlers = handlers_open(&analytics_service, state);
    struct text before, after;
    state->prune_facts.age_us = state->prune_payments.age_us = 90 * DAY_US;
    for (size_t i = 0; i < history->count; i++)
        assert_int_equal(handlers_event(handlers, history->items[i].type, history->items[i].data), OK);
    handlers_advance(handlers, 91 * DAY_US);
    assert_int_equal(handlers_request(handlers, "GET", "/v1/figures", NULL, NULL, &before), 200);
    handlers_begin(handlers);
    int64_t facts = rows_count(handlers->work, &facts_table, NULL, NULL, 0);
    handlers_commit(handlers);
    assert_true(facts > 0);
    for (int64_t step = 0; step <= facts / PRUNE_ROWS_MAX; step++)
        handlers_tick(handlers, "prune");
    handlers_begin(handlers);
    assert_int_equal(rows_count(handlers->work, &payments_table, NULL, NULL, 0), 0);
    assert_true(rows_count(handlers->work, &facts_table, NULL, NULL, 0) < facts);
    handlers_commit(handlers);
    assert_int_equal(handlers_request(handlers, "GET", "/v1/figures", NULL, NULL, &after), 200);
    assert_true(text_equal(before, after));
    handlers_close(handlers);
    free(state);
    history_destroy(history);
}

static void figures_are_what_happened(void **nothing)
{
    (void)nothing;
    struct history *history = history_new();
    static const struct item *items[EVENTS_MAX];
    struct samples samples = samples_of(3);
    struct buffer text = buffer_of(8 << 20);
    struct error error;
    for (size_t i = 0; i < history->count; i++)
        items[i] = &history->items[i];
    count_all(items, history->count, &samples, &text);
    json_t *figures = NULL;
    const char *end = strstr(text.at, "{\"kind\"");
    assert_non_null(end);
    assert_int_equal(json_read((struct text){text.at, (size_t)(end - text.at)}, &figures, &error), OK);
    const json_t *orders = json_object_get(figures, "orders"), *revenue = json_object_get(figures, "revenue");
    assert_int_equal(json_integer_value(json_object_get(orders, "placed")), history->placed);
    assert_int_equal(json_integer_value(json_object_get(orders, "confirmed")), history->confirmed);
    assert_int_equal(json_array_size(revenue), 3);
    for (size_t c = 0; c < 3; c++) {
        const json_t *row = json_array_get(revenue, c);
        assert_true(text_equal(json_text(row, "currency"), currencies[c]));
        assert_int_equal(json_integer_value(json_object_get(row, "captured_minor")), history->captured[c]);
        assert_int_equal(json_integer_value(json_object_get(row, "refunded_minor")), history->refunded[c]);
    }
    json_decref(figures);
    buffer_free(&text);
    history_destroy(history);
}

static bool csv_for(const char *accept)
{
    const struct header header = {TEXT("accept"), text_of(accept)};
    return accepts_csv(&(struct request){.headers = &header, .header_count = 1});
}

static void csv_is_for_who_wants_it_more_than_json(void **nothing)
{
    static const char *const csv[] = {"text/csv",
                                      "Text/CSV; charset=utf-8",
                                      "text/csv, */*",
                                      "text/csv, application/json",
                                      "application/json;q=0.5, text/csv;q=0.9",
                                      "text/*",
                                      "application/json;q=0, */*"};
    static const char *const json[] = {"",
                                       "*/*",
                                       "application/json, text/csv",
                                       "text/csv;q=0",
                                       "text/csv;q=0.000, */*;q=0.1",
                                       "text/csv;q=0.5, application/json",
                                       "text/csv-schema",
                                       "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                                       ",;,;q=1"};
    (void)nothing;
    for (size_t i = 0; i < sizeof(csv) / sizeof(csv[0]); i++)
        if (!csv_for(csv[i]))
            fail_msg("no CSV for %s", csv[i]);
    for (size_t i = 0; i < sizeof(json) / sizeof(json[0]); i++)
        if (csv_for(json[i]))
            fail_msg("CSV for %s", json[i]);
    assert_false(accepts_csv(&(struct request){.header_count = 0}));
}

static void give_capture(struct handlers *handlers, int number)
{
    char currency[4] = {(char)('A' + number / 26 / 26), (char)('A' + number / 26 % 26),
                        (char)('A' + number % 26)};
    const struct payment_captured captured = {.payment_id = text_of(currency),
                                              .order_id = TEXT("0193aaaa-0000-7000-8000-000000000001"),
                                              .amount_minor = 1,
                                              .currency = text_of(currency),
                                              .provider = TEXT("t"),
                                              .captured_at = handlers_now_us()};
    assert_int_equal(handlers_take(handlers, &payment_captured_type, &captured), OK);
}

static void a_report_has_the_money_of_every_currency_or_is_refused(void **nothing)
{
    (void)nothing;
    struct analytics_state *state = calloc(1, sizeof(*state));
    struct handlers *handlers = handlers_open(&analytics_service, state);
    struct report_range range = {.kind = PERIOD_DAILY};
    struct codec_faults faults = {0};
    struct store_reader *reader;
    struct error error;
    struct buffer json = buffer_of(REPORT_BYTES_MAX), *into[REPORT_FORMATS] = {&json, NULL};
    assert_true(report_range_read(TEXT("2025-11-21"), TEXT("2025-11-21"), REPORT_ROWS_MAX, &range, &faults));
    assert_int_equal(store_reader_open(handlers->url, "analytics", &reader, &error), OK);
    handlers_begin(handlers);
    for (int i = 0; i < REPORT_CURRENCIES_MAX; i++)
        give_capture(handlers, i);
    handlers_commit(handlers);
    assert_int_equal(report_write(reader, &range, into, NULL, NULL, &error), OK);
    size_t count = 0;
    buffer_add_char(&json, '\0');
    for (const char *at = json.at; (at = strstr(at, "\"captured_minor\":1,")); at++)
        count++;
    assert_int_equal(count, REPORT_CURRENCIES_MAX);
    handlers_begin(handlers);
    give_capture(handlers, REPORT_CURRENCIES_MAX);
    handlers_commit(handlers);
    buffer_clear(&json);
    assert_int_equal(report_write(reader, &range, into, NULL, NULL, &error), REJECT);
    buffer_free(&json);
    store_reader_close(reader);
    handlers_close(handlers);
    free(state);
}

/* ---- periods */

static void weeks_are_named_by_their_thursday(void **nothing)
{
    static const struct {
        const char *day, *name;
    } weeks[] = {{"2021-01-03", "2020-W53"}, {"2021-01-04", "2021-W01"}, {"2024-12-30", "2025-W01"},
                 {"2026-11-21", "2026-W47"}, {"2027-01-01", "2026-W53"}, {"1970-01-01", "1970-W01"}};
    (void)nothing;
    for (size_t i = 0; i < sizeof(weeks) / sizeof(weeks[0]); i++) {
        int64_t day;
        assert_true(day_parse(text_of(weeks[i].day), &day));
        assert_string_equal(period_at(PERIOD_WEEKLY, day, INT32_MAX).name, weeks[i].name);
    }
}

static void periods_cover_a_range_without_a_gap(void **nothing)
{
    (void)nothing;
    int64_t from, to;
    assert_true(day_parse(TEXT("2023-12-13"), &from) && day_parse(TEXT("2024-03-02"), &to));
    static const int64_t counts[PERIOD_KINDS] = {81, 12, 4};
    for (int kind = 0; kind < PERIOD_KINDS; kind++) {
        int64_t day = from, count = 0;
        for (; day <= to; count++) {
            struct period period = period_at((enum period_kind)kind, day, to);
            assert_true(period.from == day && period.to >= day && period.to <= to);
            day = period.to + 1;
        }
        assert_int_equal(count, counts[kind]);
        assert_int_equal(period_count((enum period_kind)kind, from, to), counts[kind]);
    }
    char date[DAY_BYTES];
    assert_true(day_parse(TEXT("2024-02-10"), &from));
    assert_string_equal(day_print(period_at(PERIOD_MONTHLY, from, INT32_MAX).to, date), "2024-02-29");
}

static void a_range_that_is_none_is_named(void **nothing)
{
    static const struct {
        const char *from, *to, *path;
    } wrong[] = {{"", "2026-01-01", "from"},
                 {"2026-01-01", "2026-02-30", "to"},
                 {"2026-01-02", "2026-01-01", "to"},
                 {"2025-01-01", "2026-02-05", "to"},
                 {"1969-12-31", "1970-01-01", "from"}};
    (void)nothing;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct report_range range = {.kind = PERIOD_DAILY};
        struct codec_faults faults = {0};
        assert_false(report_range_read(text_of(wrong[i].from), text_of(wrong[i].to), REPORT_ROWS_MAX, &range,
                                       &faults));
        assert_int_equal(faults.count, 1);
        assert_string_equal(faults.fault[0].path, wrong[i].path);
    }
    struct report_range range = {.kind = PERIOD_DAILY};
    struct codec_faults faults = {0};
    assert_true(report_range_read(TEXT("2025-01-01"), TEXT("2026-02-04"), REPORT_ROWS_MAX, &range,
                                  &faults)); /* 400 days */
}

/* ---- durations */

static void a_bucket_is_near_what_is_in_it(void **nothing)
{
    (void)nothing;
    int64_t before = -1;
    for (int64_t us = 0; us < INT64_MAX / 16; us = us * 9 / 8 + 1) {
        int64_t bucket = duration_bucket(us), middle = duration_bucket_middle_us(bucket);
        assert_true(bucket >= before && bucket < DURATION_BUCKETS_MAX);
        assert_true(llabs(middle - us) <= us / 14 + 1);
        before = bucket;
    }
}

/* ---- jobs */

static void wait_for_job(struct handlers *handlers, const char *id, const char *state)
{
    struct text body;
    do { /* ends by the test's time-out */
        sched_yield();
        handlers_tick(handlers, "jobs");
        assert_int_equal(handlers_request(handlers, "GET", "/v1/jobs/{id}", id, NULL, &body), 200);
    } while (!strstr(body.at, state));
}

static void a_report_job_ends_with_its_result_and_survives_a_restart(void **nothing)
{
    (void)nothing;
    struct analytics_state *state = calloc(1, sizeof(*state));
    struct handlers *handlers = handlers_open(&analytics_service, state);
    struct error error;
    struct text body;
    const struct order_confirmed confirmed = {.order_id = TEXT("0193aaaa-0000-7000-8000-000000000001"),
                                              .payment_id = TEXT("p"),
                                              .confirmed_at = handlers_now_us()};
    assert_int_equal(handlers_give(handlers, &confirmed), OK);
    assert_int_equal(handlers_request(handlers, "POST", "/v1/reports", NULL,
                                      "{\"kind\":\"hourly\",\"from\":\"x\",\"to\":\"2025-01-01\"}", &body),
                     422);
    assert_non_null(strstr(body.at, "\"kind\""));
    assert_non_null(strstr(body.at, "\"from\""));
    assert_int_equal(handlers_request(handlers, "POST", "/v1/reports", NULL,
                                      "{\"kind\":\"daily\",\"from\":\"2020-01-01\",\"to\":\"2025-12-31\"}",
                                      &body),
                     202);
    char id[ID_TEXT_BYTES + 1] = {0};
    memcpy(id, strstr(body.at, ":\"") + 2, ID_TEXT_BYTES);

    handlers_tick(handlers, "jobs"); /* active, and nobody works: as if the process had ended there */
    assert_int_equal(handlers_request(handlers, "GET", "/v1/jobs/{id}", id, NULL, &body), 200);
    assert_non_null(strstr(body.at, "\"state\":\"active\""));
    assert_int_equal(handlers_request(handlers, "GET", "/v1/jobs/{id}/result", id, NULL, NULL), 409);
    memset(state, 0, sizeof(*state));
    assert_int_equal(jobs_start(&state->worker, handlers->url, &error), OK);
    wait_for_job(handlers, id, "\"state\":\"completed\"");
    assert_int_equal(handlers_request(handlers, "GET", "/v1/jobs/{id}", id, NULL, &body), 200);
    assert_non_null(strstr(body.at, "\"progress\":100,\"attempts\":2"));
    assert_int_equal(handlers_request(handlers, "GET", "/v1/jobs/{id}/result", id, NULL, &body), 200);
    assert_non_null(strstr(body.at, "{\"period\":\"2025-11-21\",\"from\":\"2025-11-21\",\"to\":\"2025-11-"
                                    "21\",\"orders\":{\"placed\":0,\"confirmed\":1,"));
    json_t *report = NULL;
    assert_int_equal(json_read(body, &report, &error), OK);
    assert_int_equal(json_array_size(json_object_get(report, "rows")), 2192);
    json_decref(report);
    assert_int_equal(handlers_request(handlers, "GET", "/v1/jobs/{id}/result",
                                      "0193aaaa-0000-7000-8000-000000000009", NULL, NULL),
                     404);
    jobs_stop(&state->worker);
    handlers_close(handlers);
    free(state);
}

int main(int argc, char **argv)
{
    scratch_choose(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(figures_do_not_depend_on_the_order_of_arrival),
        cmocka_unit_test(figures_survive_the_facts_they_were_made_of),
        cmocka_unit_test(figures_are_what_happened),
        cmocka_unit_test(csv_is_for_who_wants_it_more_than_json),
        cmocka_unit_test(a_report_has_the_money_of_every_currency_or_is_refused),
        cmocka_unit_test(weeks_are_named_by_their_thursday),
        cmocka_unit_test(periods_cover_a_range_without_a_gap),
        cmocka_unit_test(a_range_that_is_none_is_named),
        cmocka_unit_test(a_bucket_is_near_what_is_in_it),
        cmocka_unit_test(a_report_job_ends_with_its_result_and_survives_a_restart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
