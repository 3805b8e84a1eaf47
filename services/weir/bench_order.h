/*
 * bench_order: what the orders of a benchmark hold. The same seed gives the same orders, but for their ids
 * and times.
 *
 * An order's id is a UUIDv7 of its intended start that also says which order of which run it is, so that
 * whoever reads it back needs no table of ids: 48 bits of milliseconds, 42 bits of the run, 32 bits of the
 * order's number.
 */
#ifndef WEIR_BENCH_ORDER_H
#define WEIR_BENCH_ORDER_H

#include "base/ids.h"
#include "bench_schedule.h"
#include "wire/events.h"

enum {
    BENCH_ITEMS_MAX = 3,
    BENCH_CUSTOMERS = 20000,
    BENCH_REQUEST_BYTES_MAX = 2048,
    BENCH_WORD_BYTES_MAX = 48
};

uint64_t bench_run_new(void); /* which run: 42 random bits */
struct id bench_order_id(uint64_t run, uint32_t number, int64_t wall_us);
/* False: it is no order of this run. */
bool bench_order_number(uint64_t run, struct text id, uint32_t *ret_number);

struct bench_cart {
    struct bench_random random;
    uint64_t run;
    const struct text *goods; /* SKUs; the caller's */
    size_t goods_count;       /* at least BENCH_ITEMS_MAX */
};

/* One order. Everything in it points into it, or to goods: it must not be copied. */
struct bench_draft {
    struct order_placed placed;
    struct order_item items[BENCH_ITEMS_MAX];
    char id[ID_TEXT_BYTES], customer[BENCH_WORD_BYTES_MAX], email[BENCH_WORD_BYTES_MAX];
};
void bench_order_draw(struct bench_cart *cart, uint32_t number, int64_t wall_us, struct bench_draft *ret);
/* The whole request of POST /v1/orders, with a token as shop_token() gives it (NULL: none). Returns its
 * length. */
size_t bench_order_request(const struct bench_draft *draft, const char *host_and_port, const char *token,
                           char into[BENCH_REQUEST_BYTES_MAX]);

#endif
