#include "flow/meters.h"

enum {
    EVENTS,
    HANDLE_SECONDS,
    DUPLICATES,
    RETRIES,
    DEAD,
    DROPPED,
    WAITED,
    OUTBOX_ROWS,
    OUTBOX_OLDEST,
    OUTBOX_REFUSED,
    INSTANCES,
    PARTS_OWNED,
    WAITING_KEYS,
    WAITING_RECORDS,
    WAITING_OLDEST,
    PAUSED,
    OLDEST,
    BATCH
};

static const double batch_bounds[] = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 0};

const struct metric_family flow_metrics[] = {
    [EVENTS] = {"weir_events_total", METRIC_COUNTER, "topic,outcome",
                "Records taken from a topic, by what became of them.", NULL},
    [HANDLE_SECONDS] = {"weir_handle_seconds", METRIC_HISTOGRAM, "",
                        "From taking a record to its effect being durable.", metric_seconds_bounds},
    [DUPLICATES] = {"weir_duplicates_total", METRIC_COUNTER, "",
                    "Events that were delivered again and left without effect.", NULL},
    [RETRIES] = {"weir_retry_total", METRIC_COUNTER, "", "Records whose handling is to be tried again.",
                 NULL},
    [DEAD] = {"weir_dlq_total", METRIC_COUNTER, "class", "Records moved to the dead letter topic.", NULL},
    [DROPPED] = {"weir_dlq_dropped_total", METRIC_COUNTER, "", "Dead letters that people gave up for good.",
                 NULL},
    [WAITED] = {"weir_waited_total", METRIC_COUNTER, "",
                "Records put aside because an earlier one of their key has failed.", NULL},
    [OUTBOX_ROWS] = {"weir_outbox_rows", METRIC_GAUGE, "",
                     "Records committed and not yet acknowledged by Kafka, of this process's parts.", NULL},
    [OUTBOX_OLDEST] = {"weir_outbox_oldest_seconds", METRIC_GAUGE, "", "Age of the oldest of them.", NULL},
    [OUTBOX_REFUSED] = {"weir_outbox_refused_total", METRIC_COUNTER, "",
                        "Records that Kafka will never take; kept in the outbox.", NULL},
    [INSTANCES] = {"weir_instances", METRIC_GAUGE, "",
                   "Processes that work on this service's database, as this one sees them.", NULL},
    [PARTS_OWNED] = {"weir_parts_owned", METRIC_GAUGE, "",
                     "Parts of the keys whose outbox rows and calls are this process's; over all processes the "
                     "partitions of the service's first topic.",
                     NULL},
    [WAITING_KEYS] = {"weir_waiting_keys", METRIC_GAUGE, "",
                      "Keys whose records wait behind one that failed.", NULL},
    [WAITING_RECORDS] = {"weir_waiting_records", METRIC_GAUGE, "", "Records that wait behind those.", NULL},
    [WAITING_OLDEST] = {"weir_waiting_oldest_seconds", METRIC_GAUGE, "",
                        "Since when the key that waits longest is held.", NULL},
    [PAUSED] = {"weir_flow_paused", METRIC_GAUGE, "reason", "1 while no records are taken for this reason.",
                NULL},
    [OLDEST] = {"weir_oldest_unhandled_seconds", METRIC_GAUGE, "",
                "Age of the oldest record fetched and not yet handled.", NULL},
    [BATCH] = {"weir_batch_items", METRIC_HISTOGRAM, "", "Items in a batch.", batch_bounds},
    {0},
};

static const char *const outcome_names[METER_OUTCOMES] = {"ok",     "duplicate", "retry",
                                                          "reject", "invalid",   "passed"};

void meters_open(struct meters *meters, struct metrics *metrics, const bool reads[TOPIC_COUNT])
{
    for (int topic = 0; topic < TOPIC_COUNT; topic++)
        for (int outcome = 0; reads[topic] && outcome < METER_OUTCOMES; outcome++)
            meters->events[topic][outcome] =
                metrics_get(metrics, &flow_metrics[EVENTS], topic_get((enum topic_id)topic)->name,
                            outcome_names[outcome], NULL);
    meters->handle_seconds = metrics_get(metrics, &flow_metrics[HANDLE_SECONDS], NULL);
    meters->duplicates = metrics_get(metrics, &flow_metrics[DUPLICATES], NULL);
    meters->retry = metrics_get(metrics, &flow_metrics[RETRIES], NULL);
    meters->dead[FAILED_RETRY] = metrics_get(metrics, &flow_metrics[DEAD], "retry", NULL);
    meters->dead[FAILED_REJECT] = metrics_get(metrics, &flow_metrics[DEAD], "reject", NULL);
    meters->dead[FAILED_CRASH] = metrics_get(metrics, &flow_metrics[DEAD], "crash", NULL);
    meters->dropped = metrics_get(metrics, &flow_metrics[DROPPED], NULL);
    meters->waited = metrics_get(metrics, &flow_metrics[WAITED], NULL);
    meters->outbox_rows = metrics_get(metrics, &flow_metrics[OUTBOX_ROWS], NULL);
    meters->outbox_oldest_seconds = metrics_get(metrics, &flow_metrics[OUTBOX_OLDEST], NULL);
    meters->outbox_refused = metrics_get(metrics, &flow_metrics[OUTBOX_REFUSED], NULL);
    meters->instances = metrics_get(metrics, &flow_metrics[INSTANCES], NULL);
    meters->parts_owned = metrics_get(metrics, &flow_metrics[PARTS_OWNED], NULL);
    meters->waiting_keys = metrics_get(metrics, &flow_metrics[WAITING_KEYS], NULL);
    meters->waiting_records = metrics_get(metrics, &flow_metrics[WAITING_RECORDS], NULL);
    meters->waiting_oldest_seconds = metrics_get(metrics, &flow_metrics[WAITING_OLDEST], NULL);
    meters->paused_outage = metrics_get(metrics, &flow_metrics[PAUSED], "outage", NULL);
    meters->paused_flood = metrics_get(metrics, &flow_metrics[PAUSED], "flood", NULL);
    meters->paused_backlog = metrics_get(metrics, &flow_metrics[PAUSED], "backlog", NULL);
    meters->paused_operator = metrics_get(metrics, &flow_metrics[PAUSED], "operator", NULL);
    meters->oldest_unhandled_seconds = metrics_get(metrics, &flow_metrics[OLDEST], NULL);
    meters->batch_items = metrics_get(metrics, &flow_metrics[BATCH], NULL);
}
