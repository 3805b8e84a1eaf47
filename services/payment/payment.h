/*
 * payment: one payment an order, whoever takes it.
 *
 * It charges when an order is placed and its stock is reserved, and neither an upstream payment system nor a
 * decision about the order came before. Money that was taken for an order that is not to be is given back.
 * What is unknown (no answer, 5xx, a time-out) is asked again with the same idempotency key for as long as it
 * takes: PaymentFailed is said only when it is certain that nothing was taken.
 *
 * Topics have no order between them: every handler notes what it has learnt in the order's one row, and
 * payment_step() decides from the row.
 */
#ifndef PAYMENT_PAYMENT_H
#define PAYMENT_PAYMENT_H

#include "service/service.h"

/* Kept in the database: numbers never change meaning. */
enum payment_state {
    PAYMENT_PENDING,  /* nothing was taken, nothing is asked for        */
    PAYMENT_CHARGING, /* the gateway is asked, or will be               */
    PAYMENT_CAPTURED,
    PAYMENT_FAILED, /* certain: nothing was taken                     */
    PAYMENT_REFUNDING,
    PAYMENT_REFUNDED,
    PAYMENT_REFUND_FAILED, /* the gateway will not give it back: for a person */
};
const char *payment_state_name(int64_t state);

enum payment_order { ORDER_OPEN, ORDER_KEPT, ORDER_ENDED }; /* confirmed; rejected or cancelled */
enum payment_stock { STOCK_UNKNOWN, STOCK_RESERVED, STOCK_GONE };
enum payment_charge { CHARGE_NONE, CHARGE_ASKED, CHARGE_ANSWERED };

struct payment {
    struct text order_id;
    int64_t state;
    int64_t placed; /* 1: a valid OrderPlaced was seen */
    int64_t stock;  /* enum payment_stock              */
    int64_t reserved_until;
    int64_t decision; /* the first decision in the log of `orders` */
    int64_t charge;   /* our own, enum payment_charge: at most one is ever asked for */
    int64_t doubt;    /* 1: an answer to it was lost, the money may have been taken */
    int64_t early;    /* 1: a refund was heard of before its capture, see struct refund */
    int64_t amount_minor;
    struct text currency;
    struct text customer_id;
    struct text payment_id; /* of the capture that counts; empty before */
    struct text provider;
    struct text reason;
    int64_t captured_at;
    int64_t updated_at;
};
extern const struct rows_table payments_table;

/* Money on its way back, by payment: the one that counts, or a second capture of the order. */
struct refund {
    struct text payment_id;
    struct text order_id;
    int64_t amount_minor;
    struct text currency;
    int64_t state;    /* PAYMENT_REFUNDING, PAYMENT_REFUNDED, PAYMENT_REFUND_FAILED */
    int64_t captured; /* 0: only the refund has been heard of, not what was captured */
    int64_t told;     /* 1: PaymentRefunded is on `payments` */
    struct text reason;
    int64_t updated_at;
};
extern const struct rows_table refunds_table;

enum { PAYMENT_REASON_BYTES_MAX = 200, PAYMENT_ID_BYTES_MAX = 64, PAYMENT_URL_BYTES_MAX = 1024 };

struct payment_service_state {
    char gateway_url[PAYMENT_URL_BYTES_MAX]; /* without a slash at its end */
    const char *webhook_secret;              /* NULL: the webhook answers 403 */
    struct prune prune_payments, prune_refunds;
};

/* ---- payment_saga.c */

/* What came of a charge, whoever tells it. */
struct capture {
    struct text payment_id, currency, provider;
    int64_t amount_minor, captured_at;
};
struct payment *
payment_row(struct work *work,
            struct text order_id); /* made when there is none; NULL when the work has failed */
/* A capture is known. say: emit PaymentCaptured (it is not on the topic yet). A second one of the order is
 * refunded. */
void payment_captured(struct work *work, struct payment *payment, const struct capture *capture, bool say);
void payment_failed(struct work *work, struct payment *payment, struct text payment_id, struct text reason,
                    bool say);
void payment_refunded(struct work *work, struct payment *payment, struct text payment_id,
                      int64_t amount_minor, struct text currency, bool say);
/* After anything was learnt: charges, or gives back, if it is time to. */
void payment_step(struct work *work, struct payment *payment);
/* At most PAYMENT_REASON_BYTES_MAX, never half a character. */
struct text payment_clip(struct text reason);
void payment_want(struct work *work, struct text order_id, struct text payment_id);
extern const struct subscription payment_subscriptions[];
extern const struct tick payment_ticks[];

/* ---- payment_gateway.c */
void gateway_charge(struct work *work, const struct payment *payment);
void gateway_refund(struct work *work, const struct refund *refund);
extern const struct lane gateway_lane;

/* ---- payment_http.c */
extern const struct route payment_routes[];

#endif
