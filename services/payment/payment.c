/* payment: takes the money for orders whose stock is reserved, and gives it back where an order is not to be.
 */
#include "payment/payment.h"

#define COLUMN(member, type) ROWS_COLUMN(payment, member, type)
static const struct rows_column payment_columns[] = {
    COLUMN(order_id, ROWS_TEXT),    COLUMN(state, ROWS_INT),          COLUMN(placed, ROWS_INT),
    COLUMN(stock, ROWS_INT),        COLUMN(reserved_until, ROWS_INT), COLUMN(decision, ROWS_INT),
    COLUMN(charge, ROWS_INT),       COLUMN(doubt, ROWS_INT),          COLUMN(early, ROWS_INT),
    COLUMN(amount_minor, ROWS_INT), COLUMN(currency, ROWS_TEXT),      COLUMN(customer_id, ROWS_TEXT),
    COLUMN(payment_id, ROWS_TEXT),  COLUMN(provider, ROWS_TEXT),      COLUMN(reason, ROWS_TEXT),
    COLUMN(captured_at, ROWS_INT),  COLUMN(updated_at, ROWS_INT),
};
#undef COLUMN
const struct rows_table payments_table = {
    .name = "payments",
    .columns = payment_columns,
    .column_count = sizeof(payment_columns) / sizeof(payment_columns[0]),
    .key_count = 1,
    .row_bytes = sizeof(struct payment),
};

#define COLUMN(member, type) ROWS_COLUMN(refund, member, type)
static const struct rows_column refund_columns[] = {
    COLUMN(payment_id, ROWS_TEXT), COLUMN(order_id, ROWS_TEXT), COLUMN(amount_minor, ROWS_INT),
    COLUMN(currency, ROWS_TEXT),   COLUMN(state, ROWS_INT),     COLUMN(captured, ROWS_INT),
    COLUMN(told, ROWS_INT),        COLUMN(reason, ROWS_TEXT),   COLUMN(updated_at, ROWS_INT),
};
#undef COLUMN
const struct rows_table refunds_table = {
    .name = "refunds",
    .columns = refund_columns,
    .column_count = sizeof(refund_columns) / sizeof(refund_columns[0]),
    .key_count = 2,
    .row_bytes = sizeof(struct refund),
};
static const struct rows_table *const payment_tables[] = {&payments_table, &refunds_table, NULL};
static const struct lane *const payment_lanes[] = {&gateway_lane, NULL};

const char *payment_state_name(int64_t state)
{
    static const char *const names[] = {
        [PAYMENT_PENDING] = "pending",
        [PAYMENT_CHARGING] = "charging",
        [PAYMENT_CAPTURED] = "captured",
        [PAYMENT_FAILED] = "failed",
        [PAYMENT_REFUNDING] = "refunding",
        [PAYMENT_REFUNDED] = "refunded",
        [PAYMENT_REFUND_FAILED] = "refund_failed",
    };
    return state >= 0 && state < (int64_t)(sizeof(names) / sizeof(names[0])) ? names[state] : "unknown";
}

static const struct setting payment_settings[] = {
    {"PAYMENT_GATEWAY_URL", SETTING_URL, NULL, 0, 0, "http|https",
     "The payment gateway, http(s)://host:port[/path]."},
    {"GATEWAY_CONCURRENCY", SETTING_INT, "32", 1, 512, NULL, "Calls to the gateway at once."},
    {"GATEWAY_TIMEOUT", SETTING_DURATION, "10s", 100, 300 * 1000, NULL, "One call to the gateway."},
    {"WEBHOOK_SECRET", SETTING_SECRET, NULL, 0, 0, NULL,
     "What the gateway signs its webhooks with (Weir-Signature); without it they are refused."},
    SETTINGS_END,
};

static enum outcome gateway_url(const struct config *config, const char **ret, struct error *error)
{
    const char *url = config_text(config, "PAYMENT_GATEWAY_URL");
    if (!url || strlen(url) >= sizeof(((struct payment_service_state *)NULL)->gateway_url)) {
        error_set(error, FATAL, "setting",
                  "PAYMENT_GATEWAY_URL is %s; weir gateway is a stand-in to try with",
                  url ? "too long" : "not set");
        error->exit_code = EXIT_CONFIG;
        return FATAL;
    }
    *ret = url;
    return OK;
}

static enum outcome payment_start(void *state, const struct service_start *start, struct error *error)
{
    struct payment_service_state *payment = state;
    const char *url;
    if (gateway_url(start->config, &url, error) != OK)
        return FATAL;
    size_t length = strlen(url);
    while (length && url[length - 1] == '/')
        length--;
    memcpy(payment->gateway_url, url, length);
    payment->gateway_url[length] = '\0';
    payment->webhook_secret = config_text(start->config, "WEBHOOK_SECRET");
    payment->prune_payments.age_us = config_ms(start->config, "FINISHED_AGE") * 1000;
    payment->prune_refunds.age_us = payment->prune_payments.age_us;
    start->limits[0].concurrency = (int)config_int(start->config, "GATEWAY_CONCURRENCY");
    start->limits[0].timeout_ms = (int)config_ms(start->config, "GATEWAY_TIMEOUT");
    start->limits[0].rate_per_hour = 0;
    return OK;
}

static enum outcome payment_check(const struct config *config,
                                  void (*say)(const char *part, enum outcome outcome, const char *text),
                                  struct error *error)
{
    enum { PATIENCE_MS = 5000 };
    (void)error;
    const char *url;
    struct error why;
    enum outcome outcome = gateway_url(config, &url, &why);
    if (outcome == OK)
        outcome = net_reach(url, PATIENCE_MS, &why);
    say("gateway", outcome, outcome == OK ? "answers" : why.text);
    return OK;
}

static const enum topic_id payment_writes[] = {TOPIC_PAYMENTS, TOPIC_COUNT};

extern const char payment_openapi[];

const struct service payment_service = {
    .name = "payment",
    .about =
        "takes the money for orders whose stock is reserved, and gives it back where an order is not to be",
    .http_port = 8083,
    .settings = payment_settings,
    .subscriptions = payment_subscriptions,
    .routes = payment_routes,
    .ticks = payment_ticks,
    .lanes = payment_lanes,
    .tables = payment_tables,
    .writes = payment_writes,
    .state_bytes = sizeof(struct payment_service_state),
    .start = payment_start,
    .check = payment_check,
    .openapi = payment_openapi,
};
