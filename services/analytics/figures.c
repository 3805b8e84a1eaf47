/* figures: all sums on one page, once and as a stream. */
#include "analytics/analytics.h"

enum { WATCHED_US = 5000000 }; /* after the last look of a stream the figures are worked out so long */

static const struct day_row *totals(struct work *work)
{
    static const struct day_row none;
    const struct store_value all[] = {STORE_INT(DAY_ALL)};
    const void *const *rows;
    return rows_look(work, &days_table, "day = $1", all, 1, 1, &rows) ? rows[0] : &none;
}

static void put_revenue(struct work *work, struct json_writer *writer)
{
    const struct store_value all[] = {STORE_INT(DAY_ALL)};
    const void *const *rows;
    size_t count = rows_look(work, &money_table, "day = $1 ORDER BY currency", all, 1, CURRENCIES_MAX, &rows);
    json_key(writer, "revenue");
    json_array_begin(writer);
    for (size_t i = 0; i < count; i++) {
        const struct money_row *row = rows[i];
        json_object_begin(writer);
        json_member_text(writer, "currency", row->currency);
        json_member_int(writer, "captured_minor", row->captured_minor);
        json_member_int(writer, "refunded_minor", row->refunded_minor);
        json_object_end(writer);
    }
    json_array_end(writer);
}

static void put_best_sellers(struct work *work, struct json_writer *writer)
{
    const struct store_value all[] = {STORE_INT(DAY_ALL)};
    const void *const *rows;
    size_t count = rows_look(work, &sales_table, "day = $1 ORDER BY units DESC, sku, currency", all, 1,
                             BEST_SELLERS_MAX, &rows);
    json_key(writer, "best_sellers");
    json_array_begin(writer);
    for (size_t i = 0; i < count; i++) {
        const struct sale_row *row = rows[i];
        json_object_begin(writer);
        json_member_text(writer, "sku", row->sku);
        json_member_text(writer, "currency", row->currency);
        json_member_int(writer, "units", row->units);
        json_member_int(writer, "revenue_minor", row->revenue_minor);
        json_object_end(writer);
    }
    json_array_end(writer);
}

/* ---- the funnel */

/* The buckets of one step, in order, within all of them. */
struct spread {
    const void *const *rows;
    size_t count;
    int64_t total;
};

static struct spread spread_of(const void *const *rows, size_t count, enum step step)
{
    struct spread spread = {.rows = rows};
    for (size_t i = 0; i < count; i++) {
        const struct duration_row *row = rows[i];
        if (row->step != (int64_t)step)
            continue;
        if (!spread.count)
            spread.rows = &rows[i];
        spread.count++;
        spread.total += row->count;
    }
    return spread;
}

static double spread_ms(const struct spread *spread, int percent)
{
    int64_t rank = (spread->total * percent + 99) / 100, passed = 0;
    for (size_t i = 0; i < spread->count; i++) {
        const struct duration_row *row = spread->rows[i];
        passed += row->count;
        if (passed >= rank)
            return (double)duration_bucket_middle_us(row->bucket) / 1000;
    }
    return 0;
}

static void put_spread(struct json_writer *writer, const char *name, const struct spread *spread)
{
    json_key(writer, name);
    if (!spread->total) {
        json_put_null(writer);
        return;
    }
    json_object_begin(writer);
    json_key(writer, "p50_ms");
    json_put_double(writer, spread_ms(spread, 50));
    json_key(writer, "p95_ms");
    json_put_double(writer, spread_ms(spread, 95));
    json_object_end(writer);
}

static void put_funnel(struct work *work, struct json_writer *writer, const struct day_row *sums)
{
    const struct store_value first[] = {STORE_INT(0)};
    const void *const *rows;
    size_t count = rows_look(work, &durations_table, "step >= $1 ORDER BY step, bucket", first, 1,
                             (size_t)STEP_COUNT * DURATION_BUCKETS_MAX, &rows);
    const struct {
        const char *name;
        int64_t orders;
        int step; /* from the one before; -1: the first */
    } steps[] = {
        {"placed", sums->placed, -1},
        {"reserved", sums->reserved, STEP_RESERVED},
        {"captured", sums->captured, STEP_CAPTURED},
        {"confirmed", sums->confirmed, STEP_CONFIRMED},
    };
    json_key(writer, "funnel");
    json_array_begin(writer);
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        json_object_begin(writer);
        json_member_string(writer, "step", steps[i].name);
        json_member_int(writer, "orders", steps[i].orders);
        if (steps[i].step >= 0) {
            struct spread spread = spread_of(rows, count, (enum step)steps[i].step);
            put_spread(writer, "since_previous", &spread);
        }
        if (steps[i].step == STEP_CONFIRMED) {
            struct spread spread = spread_of(rows, count, STEP_WHOLE);
            put_spread(writer, "since_placed", &spread);
        }
        json_object_end(writer);
    }
    json_array_end(writer);
}

void figures_write(struct work *work, struct buffer *into)
{
    const struct day_row *sums = totals(work);
    struct json_writer writer = json_writer(into);
    json_object_begin(&writer);
    json_key(&writer, "orders");
    json_object_begin(&writer);
    json_member_int(&writer, "placed", sums->placed);
    json_member_int(&writer, "confirmed", sums->confirmed);
    json_member_int(&writer, "rejected", sums->rejected);
    json_member_int(&writer, "cancelled", sums->cancelled);
    json_object_end(&writer);
    put_revenue(work, &writer);
    json_member_int(&writer, "customers", sums->customers);
    json_key(&writer, "emails");
    json_object_begin(&writer);
    json_member_int(&writer, "sent", sums->emails_sent);
    json_member_int(&writer, "failed", sums->emails_failed);
    json_object_end(&writer);
    put_funnel(work, &writer, sums);
    put_best_sellers(work, &writer);
    json_member_time(&writer, "as_of", work_now_us(work));
    json_object_end(&writer);
}

enum outcome figures_show(struct work *work, const struct request *request, struct answer *answer,
                          struct error *error)
{
    (void)request;
    (void)error;
    struct buffer body = buffer_of(ANSWER_BODY_BYTES_MAX);
    figures_write(work, &body);
    answer_json(work, answer, 200, &body);
    return OK;
}

/* ---- the stream: the loop works the figures out once, however many watch, and not at all where nobody does
 */

enum outcome figures_on_live(struct work *work, bool *ret_again, struct error *error)
{
    (void)error;
    struct analytics_state *state = work_state(work);
    struct live *live = &state->live;
    *ret_again = false;
    int64_t watched_us = atomic_load(&live->watched_us);
    if (!watched_us || clock_monotonic_us() - watched_us > WATCHED_US)
        return OK;
    struct buffer json = buffer_of(ANSWER_BODY_BYTES_MAX);
    figures_write(work, &json);
    pthread_mutex_lock(&live->lock);
    struct buffer before = live->json;
    live->json = json;
    pthread_mutex_unlock(&live->lock);
    buffer_free(&before);
    return OK;
}

void live_next(void *owner, struct buffer *into)
{
    struct live *live = owner;
    atomic_store(&live->watched_us, clock_monotonic_us());
    pthread_mutex_lock(&live->lock);
    if (live->json.length && !live->json.failed) {
        buffer_add_string(into, "data: ");
        buffer_add_text(into, buffer_text(&live->json));
        buffer_add_string(into, "\n\n");
    } else {
        buffer_add_string(into, ": the first figures are on their way\n\n");
    }
    pthread_mutex_unlock(&live->lock);
}
