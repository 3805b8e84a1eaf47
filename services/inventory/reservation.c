/* reservation: what is set aside for an order, from OrderPlaced to the decision about it. */
#include "inventory/inventory.h"

#include "base/metrics.h"
#include "items.h"

#include <stdlib.h>
#include <string.h>

#define COLUMN(member, type) ROWS_COLUMN(reservation_row, member, type)
static const struct rows_column reservation_columns[] = {
    COLUMN(order_id, ROWS_TEXT),  COLUMN(state, ROWS_INT),    COLUMN(final, ROWS_INT),
    COLUMN(paid, ROWS_INT),       COLUMN(items, ROWS_BYTES),  COLUMN(reserved_until, ROWS_INT),
    COLUMN(expires_at, ROWS_INT), COLUMN(heard_at, ROWS_INT),
};
#undef COLUMN

const struct rows_table reservations_table = {
    .name = "reservations",
    .columns = reservation_columns,
    .column_count = sizeof(reservation_columns) / sizeof(reservation_columns[0]),
    .key_count = 1,
    .row_bytes = sizeof(struct reservation_row),
    .indexes = {"expires_at WHERE expires_at > 0"},
};

static struct reservation_row *reservation_row(struct work *work, struct text order_id)
{
    const struct reservation_row key = {.order_id = order_id, .heard_at = work_now_us(work)};
    struct reservation_row *row = rows_get(work, &reservations_table, &key);
    return row ? row : rows_add(work, &reservations_table, &key);
}

static void reservation_keys(struct work *work, const struct event *event)
{
    rows_want(work, &reservations_table, &(struct reservation_row){.order_id = event->key});
}

static struct reserved_hint *hint_of(const struct inventory_state *state, uint64_t hash)
{
    return state->hints ? &state->hints[hash % RESERVED_HINTS] : NULL;
}

static void hint_keep(const struct inventory_state *state, const struct reservation_row *row)
{
    uint64_t hash = text_hash(row->order_id);
    struct reserved_hint *hint = hint_of(state, hash);
    if (!hint || row->items.length > sizeof(hint->items))
        return;
    hint->hash = hash;
    hint->length = (uint8_t)row->items.length;
    memcpy(hint->items, row->items.at, row->items.length);
}

/* Of a decision, which does not say what was ordered. */
static void decision_keys(struct work *work, const struct event *event)
{
    uint64_t hash = text_hash(event->key);
    const struct reserved_hint *hint = hint_of(work_state(work), hash);
    struct order_item *items;
    size_t count;
    reservation_keys(work, event);
    if (!hint || hint->hash != hash ||
        !items_unpack(work_arena(work), (struct text){hint->items, hint->length}, &items, &count))
        return;
    for (size_t i = 0; i < count; i++) /* a copy: the hint may be another's by then */
        stock_want(work, text_copy(work_arena(work), items[i].sku));
}

/* An item and its stock. stock is NULL only for a SKU that was never heard of. */
struct line {
    struct stock_row *stock;
    const struct order_item *item;
};

static struct line *lines_find(struct work *work, const struct order_item *items, size_t count,
                               struct error *error)
{
    struct line *lines = arena_take(work_arena(work), count * sizeof(*lines));
    if (!lines)
        error_set(error, RETRY, "memory", "reservation: no room for its items in this batch");
    for (size_t i = 0; lines && i < count; i++)
        lines[i] = (struct line){stock_find(work, items[i].sku), &items[i]};
    return lines;
}

static enum outcome lines_of(struct work *work, const struct reservation_row *row, struct line **ret,
                             size_t *ret_count, struct error *error)
{
    struct order_item *items;
    if (!items_unpack(work_arena(work), row->items, &items, ret_count))
        return error_retry(error, "items", "items of order %.*s cannot be read", TEXT_ARG(row->order_id));
    *ret = lines_find(work, items, *ret_count, error);
    return *ret ? OK : RETRY;
}

/* The first item that is short, or NULL. */
static const struct line *lines_short(const struct line *lines, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!lines[i].stock || lines[i].stock->available < lines[i].item->quantity)
            return &lines[i];
    return NULL;
}

/* Units out of `available`, into `reserved`; signs as they are. Rows that were there stay there: none is
 * deleted. */
static void lines_move(struct work *work, const struct line *lines, size_t count, int available, int reserved)
{
    for (size_t i = 0; i < count; i++) {
        struct stock_row *stock = lines[i].stock;
        if (!stock) /* the work has failed: nothing of it will stand */
            return;
        stock->available += available * (int64_t)lines[i].item->quantity;
        stock->reserved += reserved * (int64_t)lines[i].item->quantity;
        stock_changed(work, stock);
    }
}

/* ---- OrderPlaced */

/* An order's first event, and on_order_placed() makes a reservation of it in any case. */
static void placed_keys(struct work *work, const struct event *event)
{
    const struct order_placed *order = event->data;
    rows_want_new(work, &reservations_table, &(struct reservation_row){.order_id = event->key});
    for (size_t i = 0; i < order->items_count && i < ITEMS_COUNT_MAX; i++)
        stock_want(work, order->items[i].sku);
}

static void reject(struct work *work, struct reservation_row *row, const struct line *missing)
{
    int64_t available = missing->stock ? missing->stock->available : 0;
    const struct stock_rejected event = {
        .order_id = row->order_id,
        .sku = missing->item->sku,
        .wanted = missing->item->quantity,
        .available = available > INT32_MAX ? INT32_MAX : (int32_t)available,
        .rejected_at = work_now_us(work),
    };
    row->state = RESERVATION_REJECTED;
    work_emit(work, &event);
}

static void hold(struct work *work, struct reservation_row *row, const struct line *lines, size_t count)
{
    const struct inventory_state *state = work_state(work);
    int64_t now_us = work_now_us(work);
    lines_move(work, lines, count, -1, 1);
    row->state = RESERVATION_HELD;
    hint_keep(state, row);
    row->reserved_until = now_us + state->reservation_ttl_us;
    row->expires_at = row->paid ? 0 : row->reserved_until + RESERVATION_GRACE_US;
    const struct stock_reserved event = {
        .order_id = row->order_id, .reserved_until = row->reserved_until, .reserved_at = now_us};
    work_emit(work, &event);
}

static enum outcome on_order_placed(struct work *work, const struct event *event, struct error *error)
{
    const struct order_placed *order = event->data;
    struct codec_faults faults; /* large, and nearly always empty: not cleared */
    faults.count = 0;
    if (!order_placed_valid(order, &faults)) /* order answers it */
        return OK;
    struct reservation_row *row = reservation_row(work, order->order_id);
    if (row->state != RESERVATION_NONE) {
        work_repeated(work);
        return OK;
    }
    if (row->final != FINAL_NONE) /* decided before it came */
        return OK;
    struct line *lines = lines_find(work, order->items, order->items_count, error);
    row->items = items_pack(work_arena(work), order->items, order->items_count);
    if (!lines || !row->items.at)
        return error_retry(error, "memory", "reservation: no room for its items in this batch");
    const struct line *missing = lines_short(lines, order->items_count);
    if (missing)
        reject(work, row, missing);
    else
        hold(work, row, lines, order->items_count);
    return OK;
}

/* ---- the decision */

static void release(struct work *work, struct reservation_row *row, const struct line *lines, size_t count,
                    struct text reason)
{
    lines_move(work, lines, count, 1, -1);
    row->state = RESERVATION_RELEASED;
    row->expires_at = 0;
    const struct stock_released event = {
        .order_id = row->order_id, .reason = reason, .released_at = work_now_us(work)};
    work_emit(work, &event);
}

/* *ret_row is NULL where an earlier decision counts. */
static struct reservation_row *take_final(struct work *work, struct text order_id,
                                          enum reservation_final final)
{
    struct reservation_row *row = reservation_row(work, order_id);
    if (row->final == final)
        work_repeated(work);
    if (row->final != FINAL_NONE)
        return NULL;
    row->final = final;
    row->expires_at = 0;
    return row;
}

/*
 * The units leave. Where they are not set aside any more (the decision was made in time and came late), they
 * are taken again if they are there; if not, the order is sold short: stock does not go below zero, somebody
 * has to look at it.
 */
static enum outcome on_order_confirmed(struct work *work, const struct event *event, struct error *error)
{
    const struct order_confirmed *order = event->data;
    const struct inventory_state *state = work_state(work);
    struct reservation_row *row = take_final(work, order->order_id, FINAL_CONFIRMED);
    if (!row || row->state == RESERVATION_NONE)
        return OK;
    struct line *lines;
    size_t count;
    enum outcome outcome = lines_of(work, row, &lines, &count, error);
    if (outcome != OK)
        return outcome;
    if (row->state == RESERVATION_HELD) {
        lines_move(work, lines, count, 0, -1);
    } else if (!lines_short(lines, count)) {
        lines_move(work, lines, count, -1, 0);
    } else {
        work_count(work, state->short_total, 1);
        work_note(work, LOG_WARN, "an order is confirmed whose stock was given back and sold",
                  LOG_TEXT("order_id", row->order_id));
        return OK;
    }
    row->state = RESERVATION_TAKEN;
    row->items = (struct text){NULL, 0};
    return OK;
}

static enum outcome give_back(struct work *work, struct text order_id, enum reservation_final final,
                              struct text reason, struct error *error)
{
    struct reservation_row *row = take_final(work, order_id, final);
    if (!row || row->state != RESERVATION_HELD)
        return OK;
    struct line *lines;
    size_t count;
    enum outcome outcome = lines_of(work, row, &lines, &count, error);
    if (outcome == OK)
        release(work, row, lines, count, reason);
    return outcome;
}

static enum outcome on_order_rejected(struct work *work, const struct event *event, struct error *error)
{
    const struct order_rejected *order = event->data;
    return give_back(work, order->order_id, FINAL_REJECTED, TEXT("rejected"), error);
}

static enum outcome on_order_cancelled(struct work *work, const struct event *event, struct error *error)
{
    const struct order_cancelled *order = event->data;
    return give_back(work, order->order_id, FINAL_CANCELLED, TEXT("cancelled"), error);
}

static enum outcome on_payment_captured(struct work *work, const struct event *event, struct error *error)
{
    (void)error;
    const struct payment_captured *payment = event->data;
    struct reservation_row *row = reservation_row(work, payment->order_id);
    if (row->paid)
        work_repeated(work);
    row->paid = 1;
    row->expires_at = 0;
    return OK;
}

/* Each leaves in the reservation that it was there. */
const struct subscription inventory_subscriptions[] = {
    {&order_placed_type, on_order_placed, placed_keys, ORDERED, ONCE_BY_EFFECT},
    {&order_confirmed_type, on_order_confirmed, decision_keys, ORDERED, ONCE_BY_EFFECT},
    {&order_rejected_type, on_order_rejected, decision_keys, ORDERED, ONCE_BY_EFFECT},
    {&order_cancelled_type, on_order_cancelled, decision_keys, ORDERED, ONCE_BY_EFFECT},
    {&payment_captured_type, on_payment_captured, reservation_keys, ORDERED, ONCE_BY_EFFECT},
    {0},
};

/* ---- the clock */

static int sku_compare(const void *a, const void *b)
{
    const struct text *x = a, *y = b;
    int sign = memcmp(x->at, y->at, x->length < y->length ? x->length : y->length);
    return sign ? sign : (x->length > y->length) - (x->length < y->length);
}

/* The stock of all of them, in the order of keys in which every batch takes it: another instance is at work
 * on the same stock. */
static enum outcome stock_take(struct work *work, void *const *rows, size_t count, struct error *error)
{
    struct text *skus = arena_take(work_arena(work), count * ITEMS_COUNT_MAX * sizeof(*skus));
    size_t sku_count = 0;
    if (!skus)
        return error_retry(error, "memory", "no room for the items of what ran out");
    for (size_t i = 0; i < count; i++) {
        const struct reservation_row *row = rows[i];
        struct order_item *items;
        size_t item_count;
        if (items_unpack(work_arena(work), row->items, &items, &item_count))
            for (size_t item = 0; item < item_count && item < ITEMS_COUNT_MAX; item++)
                skus[sku_count++] = items[item].sku;
    }
    qsort(skus, sku_count, sizeof(*skus), sku_compare);
    for (size_t i = 0; i < sku_count; i++)
        (void)stock_find(work, skus[i]);
    return work_failed(work, error);
}

enum outcome reservation_on_expiry(struct work *work, bool *ret_again, struct error *error)
{
    const struct store_value now[] = {STORE_INT(work_now_us(work))};
    void **rows;
    size_t count =
        rows_find_free(work, &reservations_table, "expires_at > 0 AND expires_at <= $1 ORDER BY expires_at",
                       now, 1, RESERVATION_EXPIRED_BATCH_MAX, &rows);
    if (count && stock_take(work, rows, count, error) != OK)
        return error->outcome;
    for (size_t i = 0; i < count; i++) {
        struct reservation_row *row = rows[i];
        struct line *lines;
        size_t line_count;
        enum outcome outcome = lines_of(work, row, &lines, &line_count, error);
        if (outcome != OK)
            return outcome;
        release(work, row, lines, line_count, TEXT("expired"));
    }
    *ret_again = count == RESERVATION_EXPIRED_BATCH_MAX;
    return OK;
}

/* Nothing is set aside any more, or nothing ever was. */
static bool reservation_over(struct work *work, void *found, int64_t before_us)
{
    struct reservation_row *row = found;
    if (!row->heard_at) /* of a database from before it was noted */
        row->heard_at = work_now_us(work);
    return row->heard_at < before_us && row->state != RESERVATION_HELD;
}

enum outcome reservation_on_prune(struct work *work, bool *ret_again, struct error *error)
{
    static const struct prune_table reservations = {
        .table = &reservations_table, .next = "order_id > $1 ORDER BY order_id", .over = reservation_over};
    struct inventory_state *state = work_state(work);
    (void)error;
    *ret_again = false;
    (void)prune_step(work, &state->prune, &reservations);
    return OK;
}
