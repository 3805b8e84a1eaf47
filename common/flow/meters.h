/*
 * meters: the flow's metrics, one table (names and label values: CONTRACT in the docs).
 */
#ifndef FLOW_METERS_H
#define FLOW_METERS_H

#include "base/metrics.h"
#include "flow/copy.h"
#include "wire/topic.h"

enum meter_outcome {
    METER_OK,
    METER_DUPLICATE,
    METER_RETRY,
    METER_REJECT,
    METER_INVALID,
    METER_PASSED,
    METER_OUTCOMES
};

struct meters {
    struct metric *events[TOPIC_COUNT][METER_OUTCOMES]; /* NULL for topics that are not read */
    struct metric *handle_seconds;
    struct metric *duplicates;
    struct metric *retry;
    struct metric *dead[FAILURE_CLASSES];
    struct metric *waited, *dropped;
    struct metric *outbox_rows, *outbox_oldest_seconds, *outbox_refused;
    struct metric *instances, *parts_owned;
    struct metric *waiting_keys, *waiting_records, *waiting_oldest_seconds;
    struct metric *paused_outage, *paused_flood, *paused_backlog, *paused_operator;
    struct metric *oldest_unhandled_seconds;
    struct metric *batch_items; /* histogram */
};
extern const struct metric_family flow_metrics[]; /* ended by .name == NULL */
void meters_open(struct meters *meters, struct metrics *metrics, const bool reads[TOPIC_COUNT]);

#endif
