/* inventory: keeps stock, and sets it aside for orders until they are decided. */
#include "inventory/inventory.h"

#include "base/metrics.h"

#include <stdlib.h>

static const struct rows_table *const inventory_tables[] = {&stock_table, &reservations_table, NULL};

static const struct tick inventory_ticks[] = {
    {"expiry", 500, reservation_on_expiry},
    {"level", 250, stock_on_level},
    {"prune", PRUNE_STEP_MS, reservation_on_prune},
    {0},
};

static const struct migration inventory_migrations[] = {
    {1, "ALTER TABLE reservations ADD COLUMN heard_at INTEGER NOT NULL DEFAULT 0",
     "ALTER TABLE reservations ADD COLUMN heard_at BIGINT NOT NULL DEFAULT 0"},
    /* Indexes that hold only what the clock is asked about take their place. */
    {2, "DROP INDEX IF EXISTS stock_due_at; DROP INDEX IF EXISTS reservations_expires_at",
     "DROP INDEX IF EXISTS stock_due_at; DROP INDEX IF EXISTS reservations_expires_at; "
     "ALTER TABLE stock SET (fillfactor = 50)"},
    {0},
};

static const struct setting inventory_settings[] = {
    {"RESERVATION_TTL", SETTING_DURATION, "15min", 1000, INT64_C(30) * 24 * 3600 * 1000, NULL,
     "How long stock is set aside for an order that is not paid."},
    SETTINGS_END,
};

static const struct metric_family inventory_metrics[] = {
    {"weir_stock_short_total", METRIC_COUNTER, "",
     "Orders confirmed after their stock was given back and sold.", NULL},
    {0},
};

static enum outcome inventory_start(void *state, const struct service_start *start, struct error *error)
{
    struct inventory_state *inventory = state;
    inventory->reservation_ttl_us = config_ms(start->config, "RESERVATION_TTL") * 1000;
    int64_t finished_ms = config_ms(start->config, "FINISHED_AGE"),
            inbox_ms = config_ms(start->config, "INBOX_AGE");
    /* A reservation is what tells that its events were handled (ONCE_BY_EFFECT). */
    inventory->prune.age_us = (finished_ms && finished_ms < inbox_ms ? inbox_ms : finished_ms) * 1000;
    inventory->hints = calloc(RESERVED_HINTS, sizeof(*inventory->hints));
    inventory->short_total = metrics_get(start->metrics, &inventory_metrics[0], NULL);
    if (!inventory->short_total || !inventory->hints)
        return error_fatal(error, "memory", "out of memory");
    return OK;
}

static const enum topic_id inventory_writes[] = {TOPIC_INVENTORY, TOPIC_STOCK, TOPIC_COUNT};

static void inventory_stop(void *state)
{
    free(((struct inventory_state *)state)->hints);
}

extern const char inventory_openapi[];

const struct service inventory_service = {
    .name = "inventory",
    .about = "keeps stock, and sets it aside for orders until they are decided",
    .http_port = 8082,
    .settings = inventory_settings,
    .subscriptions = inventory_subscriptions,
    .routes = inventory_routes,
    .ticks = inventory_ticks,
    .tables = inventory_tables,
    .migrations = inventory_migrations,
    .writes = inventory_writes,
    .metrics = inventory_metrics,
    .state_bytes = sizeof(struct inventory_state),
    .start = inventory_start,
    .stop = inventory_stop,
    .openapi = inventory_openapi,
};
