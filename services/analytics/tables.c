/* tables: what is kept. The fields are told in analytics.h. */
#include "analytics/analytics.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static const struct rows_column fact_columns[] = {
    ROWS_COLUMN(fact_row, order_id, ROWS_TEXT),    ROWS_COLUMN(fact_row, placed_at, ROWS_INT),
    ROWS_COLUMN(fact_row, reserved_at, ROWS_INT),  ROWS_COLUMN(fact_row, captured_at, ROWS_INT),
    ROWS_COLUMN(fact_row, confirmed_at, ROWS_INT), ROWS_COLUMN(fact_row, final, ROWS_INT),
    ROWS_COLUMN(fact_row, currency, ROWS_TEXT),    ROWS_COLUMN(fact_row, items, ROWS_BYTES),
    ROWS_COLUMN(fact_row, heard_at, ROWS_INT),
};
const struct rows_table facts_table = {
    .name = "facts",
    .columns = fact_columns,
    .column_count = COUNT_OF(fact_columns),
    .key_count = 1,
    .row_bytes = sizeof(struct fact_row),
};

static const struct rows_column payment_columns[] = {
    ROWS_COLUMN(payment_row, order_id, ROWS_TEXT), ROWS_COLUMN(payment_row, payment_id, ROWS_TEXT),
    ROWS_COLUMN(payment_row, captured, ROWS_INT),  ROWS_COLUMN(payment_row, refunded, ROWS_INT),
    ROWS_COLUMN(payment_row, heard_at, ROWS_INT),
};
const struct rows_table payments_table = {
    .name = "payments",
    .columns = payment_columns,
    .column_count = COUNT_OF(payment_columns),
    .key_count = 2,
    .row_bytes = sizeof(struct payment_row),
};

static const struct rows_column day_columns[] = {
    ROWS_COLUMN(day_row, day, ROWS_INT),         ROWS_COLUMN(day_row, placed, ROWS_INT),
    ROWS_COLUMN(day_row, reserved, ROWS_INT),    ROWS_COLUMN(day_row, captured, ROWS_INT),
    ROWS_COLUMN(day_row, confirmed, ROWS_INT),   ROWS_COLUMN(day_row, rejected, ROWS_INT),
    ROWS_COLUMN(day_row, cancelled, ROWS_INT),   ROWS_COLUMN(day_row, customers, ROWS_INT),
    ROWS_COLUMN(day_row, emails_sent, ROWS_INT), ROWS_COLUMN(day_row, emails_failed, ROWS_INT),
};
const struct rows_table days_table = {
    .name = "days",
    .columns = day_columns,
    .column_count = COUNT_OF(day_columns),
    .key_count = 1,
    .row_bytes = sizeof(struct day_row),
};

static const struct rows_column money_columns[] = {
    ROWS_COLUMN(money_row, day, ROWS_INT),
    ROWS_COLUMN(money_row, currency, ROWS_TEXT),
    ROWS_COLUMN(money_row, captured_minor, ROWS_INT),
    ROWS_COLUMN(money_row, refunded_minor, ROWS_INT),
};
const struct rows_table money_table = {
    .name = "money",
    .columns = money_columns,
    .column_count = COUNT_OF(money_columns),
    .key_count = 2,
    .row_bytes = sizeof(struct money_row),
};

static const struct rows_column customer_columns[] = {
    ROWS_COLUMN(customer_row, day, ROWS_INT),
    ROWS_COLUMN(customer_row, customer_id, ROWS_TEXT),
    ROWS_COLUMN(customer_row, orders, ROWS_INT),
};
const struct rows_table customers_table = {
    .name = "customers",
    .columns = customer_columns,
    .column_count = COUNT_OF(customer_columns),
    .key_count = 2,
    .row_bytes = sizeof(struct customer_row),
};

static const struct rows_column sale_columns[] = {
    ROWS_COLUMN(sale_row, day, ROWS_INT),           ROWS_COLUMN(sale_row, sku, ROWS_TEXT),
    ROWS_COLUMN(sale_row, currency, ROWS_TEXT),     ROWS_COLUMN(sale_row, units, ROWS_INT),
    ROWS_COLUMN(sale_row, revenue_minor, ROWS_INT),
};
const struct rows_table sales_table = {
    .name = "sales",
    .columns = sale_columns,
    .column_count = COUNT_OF(sale_columns),
    .key_count = 3,
    .row_bytes = sizeof(struct sale_row),
    .indexes = {"day, units"},
};

static const struct rows_column duration_columns[] = {
    ROWS_COLUMN(duration_row, step, ROWS_INT),
    ROWS_COLUMN(duration_row, bucket, ROWS_INT),
    ROWS_COLUMN(duration_row, count, ROWS_INT),
    ROWS_COLUMN(duration_row, total_us, ROWS_INT),
};
const struct rows_table durations_table = {
    .name = "durations",
    .columns = duration_columns,
    .column_count = COUNT_OF(duration_columns),
    .key_count = 2,
    .row_bytes = sizeof(struct duration_row),
};

static const struct rows_column job_columns[] = {
    ROWS_COLUMN(job_row, job_id, ROWS_TEXT),    ROWS_COLUMN(job_row, state, ROWS_INT),
    ROWS_COLUMN(job_row, created_at, ROWS_INT), ROWS_COLUMN(job_row, kind, ROWS_TEXT),
    ROWS_COLUMN(job_row, from_day, ROWS_INT),   ROWS_COLUMN(job_row, to_day, ROWS_INT),
    ROWS_COLUMN(job_row, progress, ROWS_INT),   ROWS_COLUMN(job_row, attempts, ROWS_INT),
    ROWS_COLUMN(job_row, reason, ROWS_TEXT),    ROWS_COLUMN(job_row, holder, ROWS_ID),
};
const struct rows_table jobs_table = {
    .name = "jobs",
    .columns = job_columns,
    .column_count = COUNT_OF(job_columns),
    .key_count = 1,
    .row_bytes = sizeof(struct job_row),
    .indexes = {"state, created_at"},
};

static const struct rows_column part_columns[] = {
    ROWS_COLUMN(job_part_row, job_id, ROWS_TEXT),
    ROWS_COLUMN(job_part_row, format, ROWS_INT),
    ROWS_COLUMN(job_part_row, part, ROWS_INT),
    ROWS_COLUMN(job_part_row, bytes, ROWS_BYTES),
};
const struct rows_table job_parts_table = {
    .name = "job_parts",
    .columns = part_columns,
    .column_count = COUNT_OF(part_columns),
    .key_count = 3,
    .row_bytes = sizeof(struct job_part_row),
};
