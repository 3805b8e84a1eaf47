/* analytics: counts what passes, and tells it: figures, reports, a live page. */
#include "analytics/analytics.h"

#include "service/http.h"

static const struct rows_table *const analytics_tables[] = {
    &facts_table, &payments_table,  &days_table, &money_table,     &customers_table,
    &sales_table, &durations_table, &jobs_table, &job_parts_table, NULL,
};

static const struct tick analytics_ticks[] = {
    {"live", LIVE_INTERVAL_MS, figures_on_live},
    {"jobs", 200, jobs_on_tick},
    {"prune", PRUNE_STEP_MS, facts_on_prune},
    {0},
};

static const struct migration analytics_migrations[] = {
    {1,
     "ALTER TABLE facts ADD COLUMN heard_at INTEGER NOT NULL DEFAULT 0;"
     "ALTER TABLE payments ADD COLUMN heard_at INTEGER NOT NULL DEFAULT 0",
     "ALTER TABLE facts ADD COLUMN heard_at BIGINT NOT NULL DEFAULT 0;"
     "ALTER TABLE payments ADD COLUMN heard_at BIGINT NOT NULL DEFAULT 0"},
    {0},
};

static const struct route analytics_routes[] = {
    {.method = "GET", .path = "/v1/figures", .kind = ROUTE_READ, .handle = figures_show},
    {.method = "POST", .path = "/v1/reports", .kind = ROUTE_WRITE, .json = true, .handle = jobs_add},
    {.method = "GET", .path = "/v1/jobs/{id}", .kind = ROUTE_READ, .keys = jobs_keys, .handle = jobs_show},
    {.method = "GET",
     .path = "/v1/jobs/{id}/result",
     .kind = ROUTE_READ,
     .keys = jobs_keys,
     .handle = jobs_result},
    {0},
};

static const struct setting analytics_settings[] = {
    /* Figures may be a moment old, and a batch of a hundred records costs little more than one of ten. */
    {"KAFKA_FETCH_WAIT", SETTING_DURATION, "100ms", 0, 500, NULL,
     "How long the broker may gather records before it answers a fetch: latency for less work. 0: not at "
     "all."},
    SETTINGS_END,
};

extern const char analytics_page[]; /* live.html */
extern const char analytics_openapi[];

static void page_fill(void *owner, const struct request *request, struct answer *answer, struct buffer *body)
{
    (void)owner;
    (void)request;
    (void)body;
    answer->status = 200;
    answer->content_type = "text/html; charset=utf-8";
    answer->body = text_of(analytics_page);
}

/* Streams and pages have ended before: nobody uses the readers any more. */
static void analytics_stop(void *owner)
{
    struct analytics_state *state = owner;
    jobs_stop(&state->worker);
    store_reader_close(state->desk.reader);
    buffer_free(&state->live.json);
}

static enum outcome analytics_start(void *owner, const struct service_start *start, struct error *error)
{
    static const char *const report_paths[PERIOD_KINDS] = {"/v1/reports/daily", "/v1/reports/weekly",
                                                           "/v1/reports/monthly"};
    struct analytics_state *state = owner;
    pthread_mutex_init(&state->live.lock, NULL);
    pthread_mutex_init(&state->desk.lock, NULL);
    state->prune_facts.age_us = config_ms(start->config, "FINISHED_AGE") * 1000;
    state->prune_payments.age_us = state->prune_facts.age_us;
    enum outcome outcome = store_reader_open(start->database_url, "analytics", &state->desk.reader, error);
    if (outcome == OK)
        outcome = jobs_start(&state->worker, start->database_url, error);
    if (outcome != OK) {
        analytics_stop(state);
        return outcome;
    }
    http_add_page(start->http, "/", page_fill, NULL);
    http_add_stream(start->http, "/v1/live", LIVE_INTERVAL_MS, live_next, &state->live);
    for (int kind = 0; kind < PERIOD_KINDS; kind++) {
        state->pages[kind] = (struct report_page){&state->desk, (enum period_kind)kind};
        http_add_page(start->http, report_paths[kind], report_page_fill, &state->pages[kind]);
    }
    return OK;
}

const struct service analytics_service = {
    .name = "analytics",
    .about = "counts what passes, and tells it: figures, reports, a live page",
    .http_port = 8085,
    .settings = analytics_settings,
    .subscriptions = analytics_subscriptions,
    .routes = analytics_routes,
    .ticks = analytics_ticks,
    .tables = analytics_tables,
    .migrations = analytics_migrations,
    .state_bytes = sizeof(struct analytics_state),
    .start = analytics_start,
    .stop = analytics_stop,
    .openapi = analytics_openapi,
};
