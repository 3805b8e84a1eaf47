/* payment_saga: what is learnt about an order and its money, and what follows from it. */
#include "payment/payment.h"

struct text payment_clip(struct text text)
{
    return text_cut(text, PAYMENT_REASON_BYTES_MAX);
}

void payment_want(struct work *work, struct text order_id, struct text payment_id)
{
    rows_want(work, &payments_table, &(struct payment){.order_id = order_id});
    if (payment_id.length)
        rows_want(work, &refunds_table, &(struct refund){.payment_id = payment_id, .order_id = order_id});
}

struct payment *payment_row(struct work *work, struct text order_id)
{
    const struct payment key = {.order_id = order_id};
    struct payment *payment = rows_get(work, &payments_table, &key);
    return payment ? payment : rows_add(work, &payments_table, &key);
}

/* Asks for the money back, once for each payment. */
static void refund(struct work *work, struct text order_id, struct text payment_id, int64_t amount_minor,
                   struct text currency)
{
    const struct refund row = {
        .payment_id = payment_id,
        .order_id = order_id,
        .amount_minor = amount_minor,
        .currency = currency,
        .state = PAYMENT_REFUNDING,
        .captured = 1,
        .updated_at = work_now_us(work),
    };
    if (rows_get(work, &refunds_table, &row))
        return;
    const struct refund *added = rows_add(work, &refunds_table, &row);
    if (added)
        gateway_refund(work, added);
}

static void say_captured(struct work *work, const struct payment *payment, const struct capture *capture)
{
    const struct payment_captured event = {
        .payment_id = capture->payment_id,
        .order_id = payment->order_id,
        .amount_minor = capture->amount_minor,
        .currency = capture->currency,
        .provider = capture->provider,
        .captured_at = capture->captured_at,
    };
    work_emit(work, &event);
}

static void say_refunded(struct work *work, const struct payment *payment, struct refund *refund)
{
    const struct payment_refunded event = {
        .payment_id = refund->payment_id,
        .order_id = payment->order_id,
        .amount_minor = refund->amount_minor,
        .currency = refund->currency,
        .refunded_at = work_now_us(work),
    };
    refund->told = 1;
    work_emit(work, &event);
}

/* The payment that was given back is the order's: nothing is asked for, or this is what came of it. While the
 * gateway is still asked it may be another's. */
static void take_given_back(struct work *work, struct payment *payment, const struct capture *capture)
{
    bool own = payment->state == PAYMENT_CHARGING && payment->charge == CHARGE_ANSWERED;
    if (payment->state != PAYMENT_PENDING && !own)
        return;
    payment->state = PAYMENT_REFUNDED;
    payment->payment_id = capture->payment_id;
    payment->provider = capture->provider;
    payment->captured_at = capture->captured_at;
    payment->updated_at = work_now_us(work);
}

/*
 * Captured only now, as far as is known here, and given back before. PaymentRefunded has to stand on
 * `payments` behind its PaymentCaptured, or else the order would be taken for paid.
 */
static void take_late_capture(struct work *work, struct payment *payment, const struct capture *capture,
                              struct refund *refund, bool say)
{
    refund->captured = 1;
    take_given_back(work, payment, capture);
    if (say)
        say_captured(work, payment, capture);
    if (say || !refund->told)
        say_refunded(work, payment, refund);
}

void payment_captured(struct work *work, struct payment *payment, const struct capture *capture, bool say)
{
    if (payment->payment_id.length && text_equal(payment->payment_id, capture->payment_id))
        return;
    bool second = payment->payment_id.length && payment->state != PAYMENT_FAILED;
    const struct refund key = {.payment_id = capture->payment_id, .order_id = payment->order_id};
    struct refund *known = second || payment->early ? rows_get(work, &refunds_table, &key) : NULL;
    if (known && known->captured) { /* told again */
        take_given_back(work, payment, capture);
        return;
    }
    if (known) {
        take_late_capture(work, payment, capture, known, say);
        return;
    }
    if (say)
        say_captured(work, payment, capture);
    if (second) {
        refund(work, payment->order_id, capture->payment_id, capture->amount_minor, capture->currency);
        return;
    }
    payment->state = PAYMENT_CAPTURED;
    payment->payment_id = capture->payment_id;
    payment->amount_minor = capture->amount_minor;
    payment->currency = capture->currency;
    payment->provider = capture->provider;
    payment->captured_at = capture->captured_at;
    payment->reason = TEXT("");
    payment_step(work, payment);
}

void payment_failed(struct work *work, struct payment *payment, struct text payment_id, struct text reason,
                    bool say)
{
    /* What was captured is not undone by word of another attempt's failure. */
    if (payment->state != PAYMENT_PENDING && payment->state != PAYMENT_CHARGING)
        return;
    payment->state = PAYMENT_FAILED;
    payment->reason = payment_clip(reason);
    payment->updated_at = work_now_us(work);
    if (say) {
        const struct payment_failed event = {
            .payment_id = payment_id,
            .order_id = payment->order_id,
            .reason = payment->reason,
            .failed_at = work_now_us(work),
        };
        work_emit(work, &event);
    }
}

void payment_refunded(struct work *work, struct payment *payment, struct text payment_id,
                      int64_t amount_minor, struct text currency, bool say)
{
    int64_t now_us = work_now_us(work);
    struct refund *row = rows_get(work, &refunds_table,
                                  &(struct refund){.payment_id = payment_id, .order_id = payment->order_id});
    if (row && row->state == PAYMENT_REFUNDED)
        return;
    bool ours = text_equal(payment->payment_id, payment_id) && payment->state != PAYMENT_FAILED;
    if (!row)
        row = rows_add(work, &refunds_table,
                       &(struct refund){.payment_id = payment_id,
                                        .order_id = payment->order_id,
                                        .amount_minor = amount_minor,
                                        .currency = currency,
                                        .captured = ours});
    row->state = PAYMENT_REFUNDED;
    row->updated_at = now_us;
    if (ours) {
        payment->state = PAYMENT_REFUNDED;
        payment->reason = TEXT("");
        payment->updated_at = now_us;
    }
    if (!say)
        row->told = 1;
    else if (row->captured)
        say_refunded(work, payment, row);
    if (!row->captured)
        payment->early = 1;
}

void payment_step(struct work *work, struct payment *payment)
{
    int64_t now_us = work_now_us(work);
    payment->updated_at = now_us;
    /* What is reserved no longer is not charged for: order rejects it at the same moment. */
    bool wanted = payment->placed && payment->stock == STOCK_RESERVED && now_us < payment->reserved_until &&
                  payment->decision == ORDER_OPEN;
    if (payment->state == PAYMENT_PENDING && payment->charge == CHARGE_NONE && wanted) {
        payment->state = PAYMENT_CHARGING;
        payment->charge = CHARGE_ASKED;
        gateway_charge(work, payment);
    } else if (payment->state == PAYMENT_CAPTURED && payment->decision == ORDER_ENDED) {
        payment->state = PAYMENT_REFUNDING;
        refund(work, payment->order_id, payment->payment_id, payment->amount_minor, payment->currency);
    }
}

/* ---- what is heard */

static void order_keys(struct work *work, const struct event *event)
{
    payment_want(work, event->key, TEXT(""));
}

static enum outcome on_order_placed(struct work *work, const struct event *event, struct error *error)
{
    const struct order_placed *order = event->data;
    struct codec_faults faults; /* not cleared whole: it is large */
    faults.count = 0;
    (void)error;
    if (!order_placed_valid(order, &faults))
        return OK; /* the order service answers it */
    struct payment *payment = payment_row(work, order->order_id);
    if (!payment || payment->placed)
        return OK;
    payment->placed = 1;
    payment->customer_id = order->customer_id;
    if (!payment->payment_id.length) {
        payment->amount_minor = order->total_minor;
        payment->currency = order->currency;
    }
    payment_step(work, payment);
    return OK;
}

static enum outcome on_stock_reserved(struct work *work, const struct event *event, struct error *error)
{
    const struct stock_reserved *stock = event->data;
    struct payment *payment = payment_row(work, event->key);
    (void)error;
    if (payment && payment->stock == STOCK_UNKNOWN) {
        payment->stock = STOCK_RESERVED;
        payment->reserved_until = stock->reserved_until;
        payment_step(work, payment);
    }
    return OK;
}

static enum outcome on_stock_released(struct work *work, const struct event *event, struct error *error)
{
    struct payment *payment = payment_row(work, event->key);
    (void)error;
    if (payment)
        payment->stock = STOCK_GONE;
    return OK;
}

static enum outcome order_decided(struct work *work, const struct event *event, enum payment_order decision)
{
    struct payment *payment = payment_row(work, event->key);
    if (payment && payment->decision == ORDER_OPEN) {
        payment->decision = decision;
        payment_step(work, payment);
    }
    return OK;
}

static enum outcome on_order_confirmed(struct work *work, const struct event *event, struct error *error)
{
    (void)error;
    return order_decided(work, event, ORDER_KEPT);
}

static enum outcome on_order_ended(struct work *work, const struct event *event, struct error *error)
{
    (void)error;
    return order_decided(work, event, ORDER_ENDED);
}

/* `payments` is read for what upstream payment systems say; what this service has said itself comes back and
 * finds its row so. */
/* They go into a header and into requests of bounded size, so their form is not taken on trust. */
static enum outcome check_form(struct text payment_id, struct text currency, struct error *error)
{
    if (!text_is_printable(payment_id, PAYMENT_ID_BYTES_MAX))
        return error_reject(error, "payment-id", "payment_id must be 1 to 64 printable ASCII characters");
    if (!text_is_printable(currency, 3) || currency.length != 3)
        return error_reject(error, "currency", "currency must be three letters (ISO 4217)");
    return OK;
}

static void captured_keys(struct work *work, const struct event *event)
{
    payment_want(work, event->key, ((const struct payment_captured *)event->data)->payment_id);
}

static enum outcome on_payment_captured(struct work *work, const struct event *event, struct error *error)
{
    const struct payment_captured *captured = event->data;
    enum outcome outcome = check_form(captured->payment_id, captured->currency, error);
    if (outcome != OK)
        return outcome;
    struct payment *payment = payment_row(work, captured->order_id);
    const struct capture capture = {
        .payment_id = captured->payment_id,
        .currency = captured->currency,
        .provider = payment_clip(captured->provider),
        .amount_minor = captured->amount_minor,
        .captured_at = captured->captured_at,
    };
    if (payment)
        payment_captured(work, payment, &capture, false);
    return OK;
}

static enum outcome on_payment_failed(struct work *work, const struct event *event, struct error *error)
{
    const struct payment_failed *failed = event->data;
    struct payment *payment = payment_row(work, failed->order_id);
    (void)error;
    /* While the gateway is asked its answer counts, not word of another's attempt. */
    if (payment && payment->state == PAYMENT_PENDING)
        payment_failed(work, payment, failed->payment_id, failed->reason, false);
    return OK;
}

static void refunded_keys(struct work *work, const struct event *event)
{
    payment_want(work, event->key, ((const struct payment_refunded *)event->data)->payment_id);
}

static enum outcome on_payment_refunded(struct work *work, const struct event *event, struct error *error)
{
    const struct payment_refunded *refunded = event->data;
    enum outcome outcome = check_form(refunded->payment_id, refunded->currency, error);
    if (outcome != OK)
        return outcome;
    struct payment *payment = payment_row(work, refunded->order_id);
    if (payment)
        payment_refunded(work, payment, refunded->payment_id, refunded->amount_minor, refunded->currency,
                         false);
    return OK;
}

const struct subscription payment_subscriptions[] = {
    {.type = &order_placed_type, .keys = order_keys, .handle = on_order_placed, .ordering = ORDERED},
    {.type = &order_confirmed_type, .keys = order_keys, .handle = on_order_confirmed, .ordering = ORDERED},
    {.type = &order_rejected_type, .keys = order_keys, .handle = on_order_ended, .ordering = ORDERED},
    {.type = &order_cancelled_type, .keys = order_keys, .handle = on_order_ended, .ordering = ORDERED},
    {.type = &stock_reserved_type, .keys = order_keys, .handle = on_stock_reserved, .ordering = ORDERED},
    {.type = &stock_released_type, .keys = order_keys, .handle = on_stock_released, .ordering = ORDERED},
    {.type = &payment_captured_type,
     .keys = captured_keys,
     .handle = on_payment_captured,
     .ordering = ORDERED},
    {.type = &payment_failed_type, .keys = order_keys, .handle = on_payment_failed, .ordering = ORDERED},
    {.type = &payment_refunded_type,
     .keys = refunded_keys,
     .handle = on_payment_refunded,
     .ordering = ORDERED},
    {0},
};

/* ---- the clock */

/* Nothing is asked for and nothing is owed. What the gateway would not give back is left for a person. */
static bool payment_over(struct work *work, void *found, int64_t before_us)
{
    struct payment *payment = found;
    if (!payment->updated_at) /* it was only told that the stock is gone */
        payment->updated_at = work_now_us(work);
    if (payment->updated_at >= before_us)
        return false;
    switch ((enum payment_state)payment->state) {
    case PAYMENT_PENDING:
        return !payment->placed || payment->decision != ORDER_OPEN;
    case PAYMENT_CAPTURED:
        return payment->decision == ORDER_KEPT;
    case PAYMENT_FAILED:
    case PAYMENT_REFUNDED:
        return true;
    case PAYMENT_CHARGING:
    case PAYMENT_REFUNDING:
    case PAYMENT_REFUND_FAILED:
        return false;
    }
    return false;
}

static bool refund_over(struct work *work, void *found, int64_t before_us)
{
    const struct refund *refund = found;
    (void)work;
    return refund->updated_at < before_us && refund->state == PAYMENT_REFUNDED;
}

static enum outcome on_prune(struct work *work, bool *ret_again, struct error *error)
{
    static const struct prune_table payments = {
        .table = &payments_table, .next = "order_id > $1 ORDER BY order_id", .over = payment_over};
    static const struct prune_table refunds = {
        .table = &refunds_table,
        .next = "(payment_id, order_id) > ($1, $2) ORDER BY payment_id, order_id",
        .over = refund_over};
    struct payment_service_state *state = work_state(work);
    (void)error;
    *ret_again = false;
    (void)prune_step(work, &state->prune_payments, &payments);
    (void)prune_step(work, &state->prune_refunds, &refunds);
    return OK;
}

const struct tick payment_ticks[] = {
    {"prune", PRUNE_STEP_MS, on_prune},
    {0},
};
