/* order: takes orders, and decides each of them once its stock is reserved and its money captured. */
#include "order/order.h"

#define COLUMN(member, type) ROWS_COLUMN(order_row, member, type)
static const struct rows_column order_columns[] = {
    COLUMN(order_id, ROWS_TEXT),   COLUMN(status, ROWS_INT),      COLUMN(placed, ROWS_INT),
    COLUMN(decided, ROWS_INT),     COLUMN(final, ROWS_INT),       COLUMN(stock, ROWS_INT),
    COLUMN(payment, ROWS_INT),     COLUMN(reserved_at, ROWS_INT), COLUMN(reserved_until, ROWS_INT),
    COLUMN(expires_at, ROWS_INT),  COLUMN(fault, ROWS_TEXT),      COLUMN(customer_id, ROWS_TEXT),
    COLUMN(email, ROWS_TEXT),      COLUMN(locale, ROWS_TEXT),     COLUMN(currency, ROWS_TEXT),
    COLUMN(total_minor, ROWS_INT), COLUMN(items, ROWS_BYTES),     COLUMN(payment_id, ROWS_TEXT),
    COLUMN(reason, ROWS_TEXT),     COLUMN(placed_at, ROWS_INT),   COLUMN(ended_at, ROWS_INT),
    COLUMN(updated_at, ROWS_INT),
};
#undef COLUMN

const struct rows_table orders_table = {
    .name = "orders",
    .columns = order_columns,
    .column_count = sizeof(order_columns) / sizeof(order_columns[0]),
    .key_count = 1,
    .row_bytes = sizeof(struct order_row),
    .indexes = {"expires_at"},
};
static const struct rows_table *const order_tables[] = {&orders_table, NULL};

const char *order_status_name(int64_t status)
{
    static const char *const names[] = {
        [ORDER_UNKNOWN] = "unknown",     [ORDER_ACCEPTED] = "accepted", [ORDER_RESERVED] = "reserved",
        [ORDER_CONFIRMED] = "confirmed", [ORDER_REJECTED] = "rejected", [ORDER_CANCELLED] = "cancelled",
    };
    return status >= 0 && status < (int64_t)(sizeof(names) / sizeof(names[0])) ? names[status] : "unknown";
}

static const struct setting order_settings[] = {
    {"ORDER_BACKLOG_MAX", SETTING_INT, "100000", 1, 10000000, NULL,
     "Orders accepted and not yet relayed to Kafka; past it new ones are refused with 503."},
    {"EVENTS_SECRET", SETTING_SECRET, NULL, 0, 0, NULL,
     "Events posted to /v1/events must be signed with it (Weir-Signature); without it the route is open."},
    SETTINGS_END,
};

static const struct route order_routes[] = {
    {.method = "POST",
     .path = "/v1/orders",
     .kind = ROUTE_WRITE,
     .json = true,
     .read = order_plain_read,
     .backlog = true,
     .keys = order_http_place_keys,
     .handle = order_http_place},
    {.method = "GET",
     .path = "/v1/orders/{id}",
     .kind = ROUTE_READ,
     .keys = order_http_keys,
     .handle = order_http_show},
    {.method = "POST",
     .path = "/v1/orders/{id}/cancel",
     .kind = ROUTE_WRITE,
     .keys = order_http_keys,
     .handle = order_http_cancel},
    {.method = "POST",
     .path = "/v1/events",
     .kind = ROUTE_WRITE,
     .backlog = true,
     .admit = order_events_admit,
     .handle = order_events_take},
    {0},
};

static enum outcome order_start(void *state, const struct service_start *start, struct error *error)
{
    (void)error;
    struct order_state *order = state;
    order->events_secret = config_text(start->config, "EVENTS_SECRET");
    order->prune.age_us = config_ms(start->config, "FINISHED_AGE") * 1000;
    return OK;
}

static const enum topic_id order_writes[] = {TOPIC_ORDERS, TOPIC_COUNT};

extern const char order_openapi[];

const struct service order_service = {
    .name = "order",
    .about = "takes orders, and decides each of them once its stock is reserved and its money captured",
    .http_port = 8080,
    .settings = order_settings,
    .subscriptions = order_subscriptions,
    .routes = order_routes,
    .ticks = order_ticks,
    .tables = order_tables,
    .writes = order_writes,
    .state_bytes = sizeof(struct order_state),
    .start = order_start,
    .openapi = order_openapi,
};
