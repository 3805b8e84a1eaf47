#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "sim/order_line.h"

#include "base/clock.h"
#include "base/metrics.h"

void order_line_make(struct order_line *line, struct cluster *cluster, char **arguments)
{
    static const char *const topics[] = {"orders", "dlq.order", "retry.order.2s", NULL};
    const struct setting *const settings_tables[] = {kafka_settings, flow_settings};
    int argument_count = 0;
    while (arguments[argument_count])
        argument_count++;
    cluster_make(cluster, line->url);
    clock_hold(INT64_C(1800000000000000));
    assert_int_equal(config_read(settings_tables, 2, argument_count, arguments, &line->config, &line->error),
                     OK);
    assert_int_equal(registry_open(NULL, &line->registry, &line->error), OK);
    sim_open(&line->sim, 1, topics);
    line->metrics = metrics_new();
    assert_int_equal(store_open(line->url, "order", &line->store, &line->error), OK);
    size_t count = 0;
    for (const struct rows_table *const *table = flow_tables; *table; table++)
        count++;
    assert_int_equal(store_migrate(line->store, flow_tables, count, NULL, 0, &line->error), OK);
}

static void no_answer(void *exchange, const struct answer *answer)
{
    (void)exchange;
    (void)answer;
}

void order_line_open(struct order_line *line, const struct subscription *subscriptions)
{
    static const int64_t delays_ms[] = {2000};
    const struct dispatch_settings settings = {
        .service = "order",
        .subscriptions = subscriptions,
        .store = line->store,
        .registry = line->registry,
        .metrics = line->metrics,
        .client = {.bootstrap_servers = "nowhere:1", .client_id = "line", .config = line->config},
        .group_id = "weir-order",
        .retry_delays_ms = delays_ms,
        .retry_delay_count = 1,
        .config = line->config,
        .backlog_max = 1000,
        .answer = no_answer,
    };
    assert_int_equal(dispatch_open(&settings, &line->dispatch, &line->error), OK);
}

void order_line_end(struct order_line *line)
{
    metrics_destroy(line->metrics);
    store_close(line->store);
    registry_close(line->registry);
    config_destroy(line->config);
    sim_close(&line->sim);
    clock_release();
}
