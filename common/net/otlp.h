/*
 * otlp: spans to a collector, as OTLP over HTTP, by the environment variables that OpenTelemetry gives every
 * program. Off without an endpoint: then there are no spans, no thread and no connection.
 *
 * A thread of its own takes what is in the ring (base/span.h) every OTEL_BSP_SCHEDULE_DELAY, or sooner when
 * there is a batch, and sends it, one request at a time. What the collector does not take now (429, 5xx, no
 * connection) is sent again with a growing delay, OTLP_ATTEMPTS_MAX times in all; meanwhile the ring fills,
 * and what finds no room is dropped and counted. Nothing here ever waits on a thread of anybody else.
 */
#ifndef NET_OTLP_H
#define NET_OTLP_H

#include "base/config.h"
#include "base/metrics.h"
#include "base/span.h"

enum {
    OTLP_ATTEMPTS_MAX = 5, /* of one batch                           */
    OTLP_BACKOFF_MS_MIN = 1000,
    OTLP_BACKOFF_MS_MAX = 30000,
    OTLP_QUEUE_MAX = 1 << 16, /* OTEL_BSP_MAX_QUEUE_SIZE */
};

extern const struct setting otlp_settings[];
extern const struct metric_family otlp_metrics[]; /* ended by .name == NULL */

struct otlp;
struct otlp_use {
    const struct config *config; /* lent until otlp_close() */
    const char *service_name;    /* where OTEL_SERVICE_NAME is not set */
    const char *version;
    struct metrics *metrics; /* lent */
    void *owner;
    /* What people should know: a setting that is passed over (on the caller's thread), the collector gone and
     * back (on otlp's), once each time. */
    void (*say)(void *owner, bool bad, const char *text);
};
/* *ret is NULL where traces are off. FATAL: no memory, no thread. */
MUST_CHECK enum outcome otlp_open(const struct otlp_use *use, struct otlp **ret, struct error *error);
struct spans *otlp_spans(struct otlp *otlp); /* NULL for NULL */
/* Sends what is left, for at most timeout_ms; nobody may give spans any more. Accepts NULL. */
void otlp_close(struct otlp *otlp, int timeout_ms);

#endif
