/* stock: units by SKU, and the telling of their level. */
#include "inventory/inventory.h"

#define COLUMN(member, type) ROWS_COLUMN(stock_row, member, type)
static const struct rows_column stock_columns[] = {
    COLUMN(sku, ROWS_TEXT),   COLUMN(available, ROWS_INT),  COLUMN(reserved, ROWS_INT),
    COLUMN(put_in, ROWS_INT), COLUMN(changed_at, ROWS_INT), COLUMN(told_at, ROWS_INT),
    COLUMN(due_at, ROWS_INT),
};
#undef COLUMN

const struct rows_table stock_table = {
    .name = "stock",
    .columns = stock_columns,
    .column_count = sizeof(stock_columns) / sizeof(stock_columns[0]),
    .key_count = 1,
    .row_bytes = sizeof(struct stock_row),
    .indexes = {"due_at WHERE due_at > 0"},
    .check = "available >= 0 AND reserved >= 0",
    .busy = true,
};

void stock_want(struct work *work, struct text sku)
{
    rows_want(work, &stock_table, &(struct stock_row){.sku = sku});
}

struct stock_row *stock_find(struct work *work, struct text sku)
{
    return rows_get(work, &stock_table, &(struct stock_row){.sku = sku});
}

static void tell(struct work *work, struct stock_row *stock)
{
    const struct stock_level event = {.sku = stock->sku,
                                      .available = stock->available,
                                      .reserved = stock->reserved,
                                      .changed_at = stock->changed_at};
    work_emit(work, &event);
    stock->told_at = work_now_us(work);
    stock->due_at = 0;
}

void stock_changed(struct work *work, struct stock_row *stock)
{
    int64_t now_us = work_now_us(work);
    stock->changed_at = now_us;
    if (stock->due_at) {
        /* Whenever a tick looks another instance has the row in hand: then it is told by who has it. */
        if (now_us - stock->due_at > STOCK_LEVEL_OVERDUE_US)
            tell(work, stock);
        return;
    }
    stock->due_at = stock->told_at + STOCK_LEVEL_INTERVAL_US;
    if (stock->due_at < now_us)
        stock->due_at = now_us;
}

enum outcome stock_on_level(struct work *work, bool *ret_again, struct error *error)
{
    (void)error;
    int64_t now_us = work_now_us(work);
    const struct store_value now[] = {STORE_INT(now_us)};
    void **rows;
    size_t count = rows_find_free(work, &stock_table, "due_at > 0 AND due_at <= $1 ORDER BY due_at", now, 1,
                                  STOCK_LEVEL_BATCH_MAX, &rows);
    for (size_t i = 0; i < count; i++)
        tell(work, rows[i]);
    *ret_again = count == STOCK_LEVEL_BATCH_MAX;
    return OK;
}
