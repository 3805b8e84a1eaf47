/*
 * health: the pages that every service has: /livez, /readyz, /metrics, /version, /openapi.json; and one log
 * line when readiness changes.
 *
 * Liveness asks for nothing: a service whose Kafka or database is away is alive, and starting it again would
 * help nobody. Readiness is the schema registry's, until the ids of
 * what is written are known, then the flow's, and falls as soon as a drain is asked for.
 */
#ifndef SERVICE_HEALTH_H
#define SERVICE_HEALTH_H

#include "base/metrics.h"
#include "flow/dispatch.h"
#include "service/http.h"
#include "service/service.h"

enum { HEALTH_PARTITIONS_MAX = 512 /* whose lag is shown */ };

extern const struct metric_family health_metrics[]; /* ended by .name == NULL */

struct health {
    const struct service *service;
    const char *group_id;
    struct metrics *metrics;
    struct dispatch *dispatch;
    struct registry *registry;
    bool was_ready, said; /* by health_watch() */
    char told[256];       /* to systemd, by health_watch() */
    struct lag {
        char topic[64];
        int32_t partition;
        struct metric *records, *seconds, *committed; /* NULL while they are not known */
        int64_t even_us; /* when the lag was last 0, or this member's first look at it (monotonic) */
        bool seen;
    } lags[HEALTH_PARTITIONS_MAX]; /* while a page of metrics is written */
    size_t lag_count;
};

/* Fills *health, adds its pages and metrics. Its pointers are lent until the server is closed. */
void health_open(struct health *health, const struct service *service, const char *group_id,
                 struct metrics *metrics, struct dispatch *dispatch, struct registry *registry,
                 struct server *http);
/* One thread, now and then: logs when the service has become ready, or is not any more and why; what
 * systemctl status shows follows it. True when it is ready. */
bool health_watch(struct health *health);

#endif
