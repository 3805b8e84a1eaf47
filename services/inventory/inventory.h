/*
 * inventory: units of stock by SKU, and what is set aside for orders.
 *
 * available: free to sell. Reserving moves units from `available` to `reserved`, confirming takes them out of
 * `reserved`, releasing moves them back. Neither is ever below zero, and no unit is made or lost on the way:
 * what was put in by hand is available + reserved + confirmed, at any moment.
 *
 * The first of OrderConfirmed, OrderRejected, OrderCancelled in the log of `orders` counts. Topics have no
 * order between them, so that a decision or a payment may be seen before OrderPlaced: it is kept in the
 * reservation's row.
 */
#ifndef INVENTORY_INVENTORY_H
#define INVENTORY_INVENTORY_H

#include "service/service.h"

struct stock_row {
    struct text sku;
    int64_t available;
    int64_t reserved;
    int64_t put_in; /* by hand, ever: available + reserved + what was shipped */
    int64_t changed_at;
    int64_t told_at; /* when StockLevel last went out */
    int64_t due_at;  /* when the next one goes out; 0: nothing has changed */
};
extern const struct rows_table stock_table;

/* Kept in the database: numbers never change meaning. */
enum reservation_state {
    RESERVATION_NONE,     /* OrderPlaced was not seen yet */
    RESERVATION_HELD,     /* units are in `reserved` */
    RESERVATION_TAKEN,    /* confirmed, the units are gone */
    RESERVATION_RELEASED, /* the units were given back */
    RESERVATION_REJECTED, /* some item was short, nothing was set aside */
};
enum reservation_final { FINAL_NONE, FINAL_CONFIRMED, FINAL_REJECTED, FINAL_CANCELLED };

struct reservation_row {
    struct text order_id;
    int64_t state;
    int64_t final;          /* the first decision in the log */
    int64_t paid;           /* 1: captured, so that it does not run out here: order decides */
    struct text items;      /* items.h; emptied once the units are gone */
    int64_t reserved_until; /* as said in StockReserved */
    int64_t expires_at;     /* when it is let go here; 0: never */
    int64_t heard_at;       /* first, of the order */
};
extern const struct rows_table reservations_table;

enum {
    STOCK_LEVEL_INTERVAL_US = 1000000, /* between two StockLevel of one SKU, at least */
    STOCK_LEVEL_OVERDUE_US = 3000000, /* after it was due: not by a tick any more, but with the next change */
    STOCK_LEVEL_BATCH_MAX = 500,
    RESERVATION_EXPIRED_BATCH_MAX = 200,
    /* After reserved_until order has its say first; inventory lets go by itself where that never came. */
    RESERVATION_GRACE_US = 1000000,
    STOCK_LIST_DEFAULT = 100,
    STOCK_LIST_MAX = 1000,
};
#define STOCK_AVAILABLE_MAX INT64_C(1000000000000)

/*
 * The items of an order that was reserved not long ago, packed, so that its decision can name the stock that
 * it will need before it is handled: a batch then reads once. Only a hint: what is missing here is read when
 * it is asked for, and what is wrong here is read in vain.
 */
struct reserved_hint {
    uint64_t hash; /* of the order id */
    uint8_t length;
    char items[55];
};
enum { RESERVED_HINTS = 1 << 15 }; /* 2 MiB; a power of 2 */

struct inventory_state {
    struct reserved_hint *hints; /* NULL: none are kept */
    int64_t reservation_ttl_us;
    struct prune prune;
    struct metric *short_total; /* weir_stock_short_total */
};

/* ---- stock.c */
struct stock_row *stock_find(struct work *work,
                             struct text sku); /* NULL: never heard of, nothing is available */
/* After a change: StockLevel is due, at once or when the last one is old enough. */
void stock_changed(struct work *work, struct stock_row *stock);
void stock_want(struct work *work, struct text sku);
enum outcome stock_on_level(struct work *work, bool *ret_again, struct error *error); /* tick */

/* ---- reservation.c */
extern const struct subscription inventory_subscriptions[];
enum outcome reservation_on_expiry(struct work *work, bool *ret_again, struct error *error); /* tick */
enum outcome reservation_on_prune(struct work *work, bool *ret_again, struct error *error);  /* tick */

/* ---- stock_http.c */
extern const struct route inventory_routes[];

#endif
