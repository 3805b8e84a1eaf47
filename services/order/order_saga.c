/* order_saga: what the service hears about an order, and what it decides. */
#include "order/order.h"

#include "items.h"

static struct text reason_print(struct work *work, const char *what, struct text why)
{
    why = text_cut(why, ORDER_REASON_BYTES_MAX);
    return text_of(arena_print(work_arena(work), "%s: %.*s", what, TEXT_ARG(why)));
}

void order_want(struct work *work, struct text order_id)
{
    rows_want(work, &orders_table, &(struct order_row){.order_id = order_id});
}

static struct order_row *order_row(struct work *work, struct text order_id)
{
    const struct order_row key = {.order_id = order_id};
    struct order_row *row = rows_get(work, &orders_table, &key);
    return row ? row : rows_add(work, &orders_table, &key);
}

enum order_status order_decide(const struct order_row *row, int64_t now_us, struct text *ret_reason)
{
    *ret_reason = (struct text){NULL, 0};
    if (!row->placed || row->decided || row->final)
        return ORDER_UNKNOWN;
    if (row->fault.length) {
        *ret_reason = row->fault;
        return ORDER_REJECTED;
    }
    if (row->stock != ORDER_STOCK_RESERVED)
        return ORDER_UNKNOWN;
    if (now_us >= row->reserved_until) {
        *ret_reason = TEXT("reservation expired");
        return ORDER_REJECTED;
    }
    return row->payment == ORDER_PAYMENT_CAPTURED ? ORDER_CONFIRMED : ORDER_UNKNOWN;
}

/* The log over what was said here, what was said here over what was heard. */
static enum order_status order_status_of(const struct order_row *row)
{
    if (!row->placed)
        return ORDER_UNKNOWN;
    if (row->final)
        return (enum order_status)row->final;
    if (row->decided)
        return (enum order_status)row->decided;
    return row->stock == ORDER_STOCK_RESERVED ? ORDER_RESERVED : ORDER_ACCEPTED;
}

void order_step(struct work *work, struct order_row *row)
{
    int64_t now_us = work_now_us(work);
    struct text reason;
    enum order_status decision = order_decide(row, now_us, &reason);
    if (decision == ORDER_CONFIRMED) {
        const struct order_confirmed event = {
            .order_id = row->order_id, .payment_id = row->payment_id, .confirmed_at = now_us};
        work_emit(work, &event);
    } else if (decision == ORDER_REJECTED) {
        const struct order_rejected event = {
            .order_id = row->order_id, .reason = reason, .rejected_at = now_us};
        work_emit(work, &event);
    }
    if (decision != ORDER_UNKNOWN) {
        row->decided = decision;
        row->reason = reason;
        row->ended_at = now_us;
    }
    row->status = order_status_of(row);
    row->expires_at = 0;
    if (row->status == ORDER_RESERVED)
        row->expires_at = row->reserved_until > 0 ? row->reserved_until : 1;
    row->updated_at = now_us;
}

enum outcome order_fill(struct work *work, struct order_row *row, const struct order_placed *order,
                        struct error *error)
{
    row->items = items_pack(work_arena(work), order->items, order->items_count);
    if (!row->items.at)
        return error_retry(error, "memory", "order: no room for its items in this batch");
    row->placed = 1;
    row->placed_at = order->placed_at;
    row->customer_id = order->customer_id;
    row->email = order->email;
    row->locale = order->locale;
    row->currency = order->currency;
    row->total_minor = order->total_minor;
    return OK;
}

/* ---- from `orders` */

static enum outcome on_order_placed(struct work *work, const struct event *event, struct error *error)
{
    const struct order_placed *order = event->data;
    struct order_row *row = order_row(work, order->order_id);
    if (row->placed) /* made here, or sent again */
        return OK;
    struct codec_faults faults; /* large, and nearly always empty: not cleared */
    faults.count = 0;
    if (order_placed_valid(order, &faults)) {
        enum outcome outcome = order_fill(work, row, order, error);
        if (outcome != OK)
            return outcome;
    } else { /* nothing of it is kept: its texts have no bound */
        row->placed = 1;
        row->placed_at = order->placed_at;
        row->fault = reason_print(work, "invalid", text_of(faults.fault[0].path));
    }
    order_step(work, row);
    return OK;
}

static void take_final(struct work *work, struct text order_id, enum order_status final, struct text reason,
                       int64_t at)
{
    struct order_row *row = order_row(work, order_id);
    if (row->final)
        return;
    row->final = final;
    row->reason = text_cut(reason, ORDER_REASON_BYTES_MAX);
    row->ended_at = at;
    order_step(work, row);
}

static enum outcome on_order_confirmed(struct work *work, const struct event *event, struct error *error)
{
    (void)error;
    const struct order_confirmed *order = event->data;
    struct order_row *row = order_row(work, order->order_id);
    if (!row->final && !row->payment_id.length)
        row->payment_id = order->payment_id;
    take_final(work, order->order_id, ORDER_CONFIRMED, (struct text){NULL, 0}, order->confirmed_at);
    return OK;
}

static enum outcome on_order_rejected(struct work *work, const struct event *event, struct error *error)
{
    (void)error;
    const struct order_rejected *order = event->data;
    take_final(work, order->order_id, ORDER_REJECTED, order->reason, order->rejected_at);
    return OK;
}

static enum outcome on_order_cancelled(struct work *work, const struct event *event, struct error *error)
{
    (void)error;
    const struct order_cancelled *order = event->data;
    take_final(work, order->order_id, ORDER_CANCELLED, order->reason, order->cancelled_at);
    return OK;
}

/* ---- from `inventory` */

static enum outcome on_stock_reserved(struct work *work, const struct event *event, struct error *error)
{
    (void)error;
    const struct stock_reserved *stock = event->data;
    struct order_row *row = order_row(work, stock->order_id);
    if (row->stock != ORDER_STOCK_NONE)
        return OK;
    row->stock = ORDER_STOCK_RESERVED;
    row->reserved_at = stock->reserved_at;
    row->reserved_until = stock->reserved_until;
    order_step(work, row);
    return OK;
}

static void set_fault(struct order_row *row, struct text fault)
{
    if (!row->fault.length)
        row->fault = fault;
}

static enum outcome on_stock_rejected(struct work *work, const struct event *event, struct error *error)
{
    (void)error;
    const struct stock_rejected *stock = event->data;
    struct order_row *row = order_row(work, stock->order_id);
    if (row->stock != ORDER_STOCK_NONE)
        return OK;
    row->stock = ORDER_STOCK_REJECTED;
    set_fault(row, reason_print(work, "out of stock", stock->sku));
    order_step(work, row);
    return OK;
}

/*
 * Inventory gives stock back for a decision that it has read in `orders` ("rejected", "cancelled"), which is
 * then on its way to here as well; anything else ends an order that is still open.
 */
static enum outcome on_stock_released(struct work *work, const struct event *event, struct error *error)
{
    (void)error;
    const struct stock_released *stock = event->data;
    struct order_row *row = order_row(work, stock->order_id);
    if (row->stock == ORDER_STOCK_RELEASED)
        return OK;
    bool decided = text_is(stock->reason, "rejected") || text_is(stock->reason, "cancelled");
    if (!decided) {
        row->stock = ORDER_STOCK_RELEASED;
        set_fault(row, text_is(stock->reason, "expired")
                           ? TEXT("reservation expired")
                           : reason_print(work, "stock released", stock->reason));
    }
    order_step(work, row);
    return OK;
}

/* ---- from `payments` */

static bool payment_open(const struct order_row *row)
{
    return row->payment == ORDER_PAYMENT_NONE || row->payment == ORDER_PAYMENT_REFUNDED_EARLY;
}

static void payment_went_back(struct work *work, struct order_row *row)
{
    row->payment = ORDER_PAYMENT_REFUNDED;
    set_fault(row, TEXT("payment failed: refunded"));
    order_step(work, row);
}

static enum outcome on_payment_captured(struct work *work, const struct event *event, struct error *error)
{
    (void)error;
    const struct payment_captured *payment = event->data;
    struct order_row *row = order_row(work, payment->order_id);
    if (!payment_open(row))
        return OK;
    if (row->payment == ORDER_PAYMENT_REFUNDED_EARLY && text_equal(row->payment_id, payment->payment_id)) {
        payment_went_back(work, row);
        return OK;
    }
    row->payment = ORDER_PAYMENT_CAPTURED;
    row->payment_id = payment->payment_id;
    order_step(work, row);
    return OK;
}

static enum outcome on_payment_failed(struct work *work, const struct event *event, struct error *error)
{
    (void)error;
    const struct payment_failed *payment = event->data;
    struct order_row *row = order_row(work, payment->order_id);
    if (!payment_open(row))
        return OK;
    row->payment = ORDER_PAYMENT_FAILED;
    row->payment_id = TEXT("");
    set_fault(row, reason_print(work, "payment failed", payment->reason));
    order_step(work, row);
    return OK;
}

/* The money that was to cover the order has gone back; the refund of a second payment does not matter here.
 * An upstream system may have told of the capture by another way, which is not through yet. */
static enum outcome on_payment_refunded(struct work *work, const struct event *event, struct error *error)
{
    (void)error;
    const struct payment_refunded *payment = event->data;
    struct order_row *row = order_row(work, payment->order_id);
    if (row->payment == ORDER_PAYMENT_NONE) {
        row->payment = ORDER_PAYMENT_REFUNDED_EARLY;
        row->payment_id = payment->payment_id;
        order_step(work, row);
    } else if (row->payment == ORDER_PAYMENT_CAPTURED && text_equal(row->payment_id, payment->payment_id)) {
        payment_went_back(work, row);
    }
    return OK;
}

static void event_keys(struct work *work, const struct event *event)
{
    order_want(work, event->key);
}

const struct subscription order_subscriptions[] = {
    {&order_placed_type, on_order_placed, event_keys, ORDERED, ONCE_BY_INBOX},
    {&order_confirmed_type, on_order_confirmed, event_keys, ORDERED, ONCE_BY_INBOX},
    {&order_rejected_type, on_order_rejected, event_keys, ORDERED, ONCE_BY_INBOX},
    {&order_cancelled_type, on_order_cancelled, event_keys, ORDERED, ONCE_BY_INBOX},
    {&stock_reserved_type, on_stock_reserved, event_keys, ORDERED, ONCE_BY_INBOX},
    {&stock_rejected_type, on_stock_rejected, event_keys, ORDERED, ONCE_BY_INBOX},
    {&stock_released_type, on_stock_released, event_keys, ORDERED, ONCE_BY_INBOX},
    {&payment_captured_type, on_payment_captured, event_keys, ORDERED, ONCE_BY_INBOX},
    {&payment_failed_type, on_payment_failed, event_keys, ORDERED, ONCE_BY_INBOX},
    {&payment_refunded_type, on_payment_refunded, event_keys, ORDERED, ONCE_BY_INBOX},
    {0},
};

/* ---- the clock */

/* Order ends what was not paid in time; inventory lets go by itself only a while later, if this never came.
 */
static enum outcome on_expiry(struct work *work, bool *ret_again, struct error *error)
{
    (void)error;
    const struct store_value now[] = {STORE_INT(work_now_us(work))};
    void **rows;
    size_t count =
        rows_find_free(work, &orders_table, "expires_at > 0 AND expires_at <= $1 ORDER BY expires_at", now, 1,
                       ORDER_EXPIRED_BATCH_MAX, &rows);
    for (size_t i = 0; i < count; i++)
        order_step(work, rows[i]);
    *ret_again = count == ORDER_EXPIRED_BATCH_MAX;
    return OK;
}

/* Decided, and the decision has been read in the log; or heard of and never placed. */
static bool order_over(struct work *work, void *found, int64_t before_us)
{
    const struct order_row *row = found;
    (void)work;
    return row->updated_at < before_us && (row->final || !row->placed);
}

static enum outcome on_prune(struct work *work, bool *ret_again, struct error *error)
{
    static const struct prune_table orders = {
        .table = &orders_table, .next = "order_id > $1 ORDER BY order_id", .over = order_over};
    struct order_state *state = work_state(work);
    (void)error;
    *ret_again = false;
    (void)prune_step(work, &state->prune, &orders);
    return OK;
}

const struct tick order_ticks[] = {
    {"expiry", 500, on_expiry},
    {"prune", PRUNE_STEP_MS, on_prune},
    {0},
};
