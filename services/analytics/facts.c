/* facts: from events to sums. */
#include "analytics/analytics.h"

#include "items.h"

/* ---- windows */

/* From 1970 to 9999, so that a senseless time makes no senseless window; never 0, which is "not known". */
static int64_t sane_time(int64_t us)
{
    const int64_t last_us = INT64_C(253402300799999999);
    return us < 1 ? 1 : us > last_us ? last_us : us;
}

/* Sums only ever get what is not negative, so that stopping at the top gives the same in any order. */
static void add_up(int64_t *sum, int64_t by)
{
    if (__builtin_add_overflow(*sum, by, sum))
        *sum = INT64_MAX;
}

static void *row_of(struct work *work, const struct rows_table *table, const void *key)
{
    void *row = rows_get(work, table, key);
    return row ? row : rows_add(work, table, key);
}

static struct fact_row *fact_of(struct work *work, struct text order_id)
{
    return row_of(work, &facts_table,
                  &(struct fact_row){.order_id = order_id, .heard_at = work_now_us(work)});
}

/* Everything is counted in the window of its day, and in the one of all. */
enum { WINDOWS = 2 };

static int64_t window_day(int window, int64_t at)
{
    return window == 0 ? DAY_ALL : at / DAY_US;
}

static void count(struct work *work, int64_t at, size_t member)
{
    for (int window = 0; window < WINDOWS; window++) {
        char *row = row_of(work, &days_table, &(struct day_row){.day = window_day(window, at)});
        add_up((int64_t *)(void *)(row + member), 1);
    }
}
#define COUNT(work, at, member) count((work), (at), offsetof(struct day_row, member))

static void count_money(struct work *work, int64_t at, struct text currency, int64_t captured,
                        int64_t refunded)
{
    if (!event_currency_valid(currency) || captured < 0 || refunded < 0) /* no money, whatever it was */
        return;
    for (int window = 0; window < WINDOWS; window++) {
        const struct money_row key = {.day = window_day(window, at), .currency = currency};
        struct money_row *row = row_of(work, &money_table, &key);
        add_up(&row->captured_minor, captured);
        add_up(&row->refunded_minor, refunded);
    }
}

static void count_customer(struct work *work, int64_t at, struct text customer_id)
{
    for (int window = 0; window < WINDOWS; window++) {
        const struct customer_row key = {.day = window_day(window, at), .customer_id = customer_id};
        struct customer_row *row = row_of(work, &customers_table, &key);
        if (row->orders++ == 0) {
            struct day_row *sums = row_of(work, &days_table, &(struct day_row){.day = key.day});
            sums->customers++;
        }
    }
}

/* ---- times between steps */

enum { BUCKETS_A_DOUBLING = 8 };

int64_t duration_bucket(int64_t us)
{
    if (us < BUCKETS_A_DOUBLING)
        return us < 0 ? 0 : us;
    int doubling = 63 - __builtin_clzll((unsigned long long)us); /* from 3 on */
    return (doubling - 2) * BUCKETS_A_DOUBLING + ((us >> (doubling - 3)) & (BUCKETS_A_DOUBLING - 1));
}

int64_t duration_bucket_middle_us(int64_t bucket)
{
    if (bucket < BUCKETS_A_DOUBLING)
        return bucket;
    int64_t doubling = bucket / BUCKETS_A_DOUBLING + 2, width = INT64_C(1) << (doubling - 3);
    return (BUCKETS_A_DOUBLING + bucket % BUCKETS_A_DOUBLING) * width + width / 2;
}

static void count_duration(struct work *work, enum step step, int64_t from, int64_t to)
{
    if (!from || !to)
        return;
    int64_t us = to > from ? to - from : 0; /* clocks of two machines */
    const struct duration_row key = {.step = step, .bucket = duration_bucket(us)};
    struct duration_row *row = row_of(work, &durations_table, &key);
    row->count++;
    add_up(&row->total_us, us);
}

/* A step of the order is known now, by the member that was set: whatever it is an end of is counted. */
static void count_step(struct work *work, const struct fact_row *fact, const int64_t *set)
{
    if (set == &fact->placed_at || set == &fact->reserved_at)
        count_duration(work, STEP_RESERVED, fact->placed_at, fact->reserved_at);
    if (set == &fact->reserved_at || set == &fact->captured_at)
        count_duration(work, STEP_CAPTURED, fact->reserved_at, fact->captured_at);
    if (set == &fact->captured_at || set == &fact->confirmed_at)
        count_duration(work, STEP_CONFIRMED, fact->captured_at, fact->confirmed_at);
    if (set == &fact->placed_at || set == &fact->confirmed_at)
        count_duration(work, STEP_WHOLE, fact->placed_at, fact->confirmed_at);
}

/* ---- orders */

/* What was ordered is sold once it is confirmed; after a decision the items are not needed any more. */
static enum outcome settle_items(struct work *work, struct fact_row *fact, struct error *error)
{
    if (fact->final == FINAL_NONE || !fact->items.length)
        return OK;
    struct order_item *items;
    size_t item_count;
    if (!items_unpack(work_arena(work), fact->items, &items, &item_count))
        return error_retry(error, "items", "items of order %.*s cannot be read", TEXT_ARG(fact->order_id));
    fact->items = (struct text){NULL, 0};
    if (fact->final != FINAL_CONFIRMED)
        return OK;
    for (int window = 0; window < WINDOWS; window++)
        for (size_t i = 0; i < item_count; i++) {
            const struct sale_row key = {.day = window_day(window, fact->confirmed_at),
                                         .sku = items[i].sku,
                                         .currency = fact->currency};
            struct sale_row *row = row_of(work, &sales_table, &key);
            add_up(&row->units, items[i].quantity);
            add_up(&row->revenue_minor, items[i].quantity * items[i].unit_price_minor);
        }
    return OK;
}

static enum outcome on_order_placed(struct work *work, const struct event *event, struct error *error)
{
    const struct order_placed *order = event->data;
    struct fact_row *fact = fact_of(work, order->order_id);
    if (fact->placed_at)
        return OK;
    fact->placed_at = sane_time(order->placed_at);
    COUNT(work, fact->placed_at, placed);
    count_step(work, fact, &fact->placed_at);
    struct codec_faults faults; /* large, and nearly always empty: not cleared */
    faults.count = 0;
    if (!order_placed_valid(order, &faults)) /* counted; its rejection comes from order */
        return OK;
    count_customer(work, fact->placed_at, order->customer_id);
    fact->currency = order->currency;
    fact->items = items_pack(work_arena(work), order->items, order->items_count);
    if (!fact->items.at)
        return error_retry(error, "memory", "no room for the items of an order in this batch");
    return settle_items(work, fact, error);
}

/* NULL where an earlier decision counts. */
static struct fact_row *take_final(struct work *work, struct text order_id, enum final final)
{
    struct fact_row *fact = fact_of(work, order_id);
    if (fact->final != FINAL_NONE)
        return NULL;
    fact->final = final;
    return fact;
}

static enum outcome on_order_confirmed(struct work *work, const struct event *event, struct error *error)
{
    const struct order_confirmed *order = event->data;
    struct fact_row *fact = take_final(work, order->order_id, FINAL_CONFIRMED);
    if (!fact)
        return OK;
    fact->confirmed_at = sane_time(order->confirmed_at);
    COUNT(work, fact->confirmed_at, confirmed);
    count_step(work, fact, &fact->confirmed_at);
    return settle_items(work, fact, error);
}

static enum outcome on_order_rejected(struct work *work, const struct event *event, struct error *error)
{
    const struct order_rejected *order = event->data;
    struct fact_row *fact = take_final(work, order->order_id, FINAL_REJECTED);
    if (!fact)
        return OK;
    COUNT(work, sane_time(order->rejected_at), rejected);
    return settle_items(work, fact, error);
}

static enum outcome on_order_cancelled(struct work *work, const struct event *event, struct error *error)
{
    const struct order_cancelled *order = event->data;
    struct fact_row *fact = take_final(work, order->order_id, FINAL_CANCELLED);
    if (!fact)
        return OK;
    COUNT(work, sane_time(order->cancelled_at), cancelled);
    return settle_items(work, fact, error);
}

/* ---- inventory, payments, emails */

static enum outcome on_stock_reserved(struct work *work, const struct event *event, struct error *error)
{
    (void)error;
    const struct stock_reserved *stock = event->data;
    struct fact_row *fact = fact_of(work, stock->order_id);
    if (fact->reserved_at)
        return OK;
    fact->reserved_at = sane_time(stock->reserved_at);
    COUNT(work, fact->reserved_at, reserved);
    count_step(work, fact, &fact->reserved_at);
    return OK;
}

static struct payment_row *payment_of(struct work *work, struct text order_id, struct text payment_id)
{
    return row_of(
        work, &payments_table,
        &(struct payment_row){.order_id = order_id, .payment_id = payment_id, .heard_at = work_now_us(work)});
}

static enum outcome on_payment_captured(struct work *work, const struct event *event, struct error *error)
{
    (void)error;
    const struct payment_captured *data = event->data;
    int64_t at = sane_time(data->captured_at);
    struct payment_row *payment = payment_of(work, data->order_id, data->payment_id);
    if (payment->captured)
        return OK;
    payment->captured = 1;
    count_money(work, at, data->currency, data->amount_minor, 0);
    struct fact_row *fact = fact_of(work, data->order_id);
    if (fact->captured_at)
        return OK;
    fact->captured_at = at;
    COUNT(work, at, captured);
    count_step(work, fact, &fact->captured_at);
    return OK;
}

static enum outcome on_payment_refunded(struct work *work, const struct event *event, struct error *error)
{
    (void)error;
    const struct payment_refunded *data = event->data;
    struct payment_row *payment = payment_of(work, data->order_id, data->payment_id);
    if (payment->refunded)
        return OK;
    payment->refunded = 1;
    count_money(work, sane_time(data->refunded_at), data->currency, 0, data->amount_minor);
    return OK;
}

static enum outcome on_email_sent(struct work *work, const struct event *event, struct error *error)
{
    (void)error;
    COUNT(work, sane_time(((const struct email_sent *)event->data)->sent_at), emails_sent);
    return OK;
}

static enum outcome on_email_failed(struct work *work, const struct event *event, struct error *error)
{
    (void)error;
    COUNT(work, sane_time(((const struct email_failed *)event->data)->failed_at), emails_failed);
    return OK;
}

/* ---- keys: rows that are one for each order; windows are few, and in hand after their first use in a batch
 */

static void fact_keys(struct work *work, const struct event *event)
{
    rows_want(work, &facts_table, &(struct fact_row){.order_id = event->key});
}

static void placed_keys(struct work *work, const struct event *event)
{
    const struct order_placed *order = event->data;
    fact_keys(work, event);
    for (int window = 0; window < WINDOWS; window++) {
        const struct customer_row key = {.day = window_day(window, sane_time(order->placed_at)),
                                         .customer_id = order->customer_id};
        rows_want(work, &customers_table, &key);
    }
}

static void captured_keys(struct work *work, const struct event *event)
{
    const struct payment_captured *data = event->data;
    fact_keys(work, event);
    rows_want(work, &payments_table,
              &(struct payment_row){.order_id = data->order_id, .payment_id = data->payment_id});
}

static void refunded_keys(struct work *work, const struct event *event)
{
    const struct payment_refunded *data = event->data;
    rows_want(work, &payments_table,
              &(struct payment_row){.order_id = data->order_id, .payment_id = data->payment_id});
}

const struct subscription analytics_subscriptions[] = {
    {&order_placed_type, on_order_placed, placed_keys, UNORDERED, ONCE_BY_INBOX},
    {&order_confirmed_type, on_order_confirmed, fact_keys, UNORDERED, ONCE_BY_INBOX},
    {&order_rejected_type, on_order_rejected, fact_keys, UNORDERED, ONCE_BY_INBOX},
    {&order_cancelled_type, on_order_cancelled, fact_keys, UNORDERED, ONCE_BY_INBOX},
    {&stock_reserved_type, on_stock_reserved, fact_keys, UNORDERED, ONCE_BY_INBOX},
    {&payment_captured_type, on_payment_captured, captured_keys, UNORDERED, ONCE_BY_INBOX},
    {&payment_refunded_type, on_payment_refunded, refunded_keys, UNORDERED, ONCE_BY_INBOX},
    {&email_sent_type, on_email_sent, NULL, UNORDERED, ONCE_BY_INBOX},
    {&email_failed_type, on_email_failed, NULL, UNORDERED, ONCE_BY_INBOX},
    {0},
};

/* ---- the clock */

static bool heard_before(struct work *work, int64_t *heard_at, int64_t before_us)
{
    if (!*heard_at) /* of a database from before it was noted */
        *heard_at = work_now_us(work);
    return *heard_at < before_us;
}

/* One that was placed and is not decided still has its items to be sold. */
static bool fact_over(struct work *work, void *found, int64_t before_us)
{
    struct fact_row *fact = found;
    return heard_before(work, &fact->heard_at, before_us) && (fact->final != FINAL_NONE || !fact->placed_at);
}

static bool payment_over(struct work *work, void *found, int64_t before_us)
{
    struct payment_row *payment = found;
    return heard_before(work, &payment->heard_at, before_us);
}

enum outcome facts_on_prune(struct work *work, bool *ret_again, struct error *error)
{
    static const struct prune_table facts = {
        .table = &facts_table, .next = "order_id > $1 ORDER BY order_id", .over = fact_over};
    static const struct prune_table payments = {
        .table = &payments_table,
        .next = "(order_id, payment_id) > ($1, $2) ORDER BY order_id, payment_id",
        .over = payment_over};
    struct analytics_state *state = work_state(work);
    (void)error;
    *ret_again = false;
    (void)prune_step(work, &state->prune_facts, &facts);
    (void)prune_step(work, &state->prune_payments, &payments);
    return OK;
}
