/*
 * order: the orders themselves, and who decides about them.
 *
 * The log of `orders` is the judge: the first of OrderConfirmed, OrderRejected, OrderCancelled in it counts,
 * whoever wrote it. This service emits at most one of the three for an order (`decided`), and takes over what
 * it reads there first
 * (`final`), its own included when it comes back.
 *
 * Topics have no order between them: what is told of an order before OrderPlaced was seen is kept in its row,
 * which is then known to no caller until it is placed.
 */
#ifndef ORDER_ORDER_H
#define ORDER_ORDER_H

#include "service/service.h"

/* Kept in the database: numbers never change meaning. */
enum order_status {
    ORDER_UNKNOWN, /* not placed yet; as a decision: none */
    ORDER_ACCEPTED,
    ORDER_RESERVED,
    ORDER_CONFIRMED,
    ORDER_REJECTED,
    ORDER_CANCELLED,
};
const char *order_status_name(int64_t status);

enum order_stock { ORDER_STOCK_NONE, ORDER_STOCK_RESERVED, ORDER_STOCK_REJECTED, ORDER_STOCK_RELEASED };
enum order_payment {
    ORDER_PAYMENT_NONE,
    ORDER_PAYMENT_CAPTURED,
    ORDER_PAYMENT_FAILED,
    ORDER_PAYMENT_REFUNDED,
    ORDER_PAYMENT_REFUNDED_EARLY /* its capture has not come yet: nothing is answered by it */
};

struct order_row {
    struct text order_id;
    int64_t status;  /* what callers see */
    int64_t placed;  /* 1: OrderPlaced was made or seen here */
    int64_t decided; /* what this service has emitted, an order_status from ORDER_CONFIRMED on; else 0 */
    int64_t final;   /* the first decision in the log, likewise */
    int64_t stock;   /* the first answer of the stock, or its release */
    int64_t payment; /* the first answer about the money, or its refund */
    int64_t reserved_at;
    int64_t reserved_until;
    int64_t expires_at; /* reserved_until while the order waits for its money, else 0 */
    struct text fault;  /* why it cannot be confirmed; empty while it can */
    struct text customer_id;
    struct text email;
    struct text locale;
    struct text currency;
    int64_t total_minor;
    struct text items; /* items.h; empty for an order that is not valid */
    struct text payment_id;
    struct text reason; /* of a rejection or cancellation */
    int64_t placed_at;
    int64_t ended_at;
    int64_t updated_at;
};
extern const struct rows_table orders_table;

enum {
    ORDER_REASON_CHARACTERS_MAX = 200,
    ORDER_REASON_BYTES_MAX = 4 * ORDER_REASON_CHARACTERS_MAX,
    ORDER_EXPIRED_BATCH_MAX = 500
};

struct order_state {
    const char *events_secret; /* NULL: /v1/events is open */
    struct prune prune;
};

/* ---- order_saga.c */

/* What this service has to say about the order now: ORDER_CONFIRMED, ORDER_REJECTED, or ORDER_UNKNOWN for
 * nothing. Pure. */
enum order_status order_decide(const struct order_row *row, int64_t now_us, struct text *ret_reason);
/* After any change of the row: decides, emits, and brings status and expires_at up to date. */
void order_step(struct work *work, struct order_row *row);
/* Fills a row, new or known by hearsay, with a valid order; its texts are taken by reference. */
enum outcome order_fill(struct work *work, struct order_row *row, const struct order_placed *order,
                        struct error *error);
void order_want(struct work *work, struct text order_id);
extern const struct subscription order_subscriptions[];
extern const struct tick order_ticks[];

/* ---- order_plain.c */
/* The body of POST /v1/orders, by malloc; items lie behind it, text in body. total_minor and placed_at are
 * still to be set, order_id is empty where none was given, and whether it is valid is not looked at. NULL: to
 * be read as JSON. Pure, any thread. */
void *order_plain_read(struct text body);
/* With all that it points to in the arena; NULL past its bound. */
struct order_placed *order_plain_copy(struct arena *arena, const struct order_placed *plain,
                                      struct text body);

/* ---- order_http.c */
enum outcome order_http_place(struct work *work, const struct request *request, struct answer *answer,
                              struct error *error);
void order_http_place_keys(struct work *work, const struct request *request);
enum outcome order_http_show(struct work *work, const struct request *request, struct answer *answer,
                             struct error *error);
enum outcome order_http_cancel(struct work *work, const struct request *request, struct answer *answer,
                               struct error *error);
void order_http_keys(struct work *work, const struct request *request);

/* ---- order_events.c */
int order_events_admit(const void *state, const struct request *request, const char **ret_detail);
enum outcome order_events_take(struct work *work, const struct request *request, struct answer *answer,
                               struct error *error);

#endif
