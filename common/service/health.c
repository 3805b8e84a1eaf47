#include "service/health.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/stop.h"

#include <stdio.h>

enum { REASON_BYTES = 320 };

const struct metric_family health_metrics[] = {
    {"weir_build_info", METRIC_GAUGE, "service,version,librdkafka", "1; what this process was built of.",
     NULL},
    {"weir_ready", METRIC_GAUGE, "", "1 while /readyz says so.", NULL},
    {"kafka_consumergroup_lag", METRIC_GAUGE, "consumergroup,topic,partition",
     "Records of the partitions assigned to this member that are not yet committed.", NULL},
    {"kafka_consumergroup_lag_seconds", METRIC_GAUGE, "consumergroup,topic,partition",
     "Age of the oldest record of them; where none is fetched, for how long there has been any.", NULL},
    {"kafka_consumergroup_current_offset", METRIC_GAUGE, "consumergroup,topic,partition",
     "Committed offset of the partitions assigned to this member.", NULL},
    {"weir_partitions_assigned", METRIC_GAUGE, "",
     "Partitions assigned to this member; the lag of one is not exported until it is known.", NULL},
    {0},
};
enum { METRIC_BUILD_INFO, METRIC_READY, METRIC_LAG, METRIC_LAG_SECONDS, METRIC_OFFSET, METRIC_ASSIGNED };

static void library_version(char *into, size_t into_bytes)
{
    int version = client_library_version();
    snprintf(into, into_bytes, "%d.%d.%d", version >> 24 & 0xff, version >> 16 & 0xff, version >> 8 & 0xff);
}

static bool is_ready(const struct health *health, char reason[REASON_BYTES])
{
    if (stop_asked()) {
        snprintf(reason, REASON_BYTES, "draining: asked to stop");
        return false;
    }
    return registry_ready(health->registry, reason, REASON_BYTES) &&
           dispatch_ready(health->dispatch, reason, REASON_BYTES);
}

static void page_live(void *owner, const struct request *request, struct answer *answer, struct buffer *body)
{
    (void)owner, (void)request, (void)answer;
    buffer_add_string(body, "{\"status\":\"ok\"}\n");
}

static bool is_asked(const struct request *request, const char *name)
{
    for (size_t i = 0; i < request->query_count; i++)
        if (text_is(request->query[i].name, name))
            return true;
    return false;
}

static void page_ready(void *owner, const struct request *request, struct answer *answer, struct buffer *body)
{
    const struct health *health = owner;
    char reason[REASON_BYTES];
    bool ready = is_ready(health, reason);
    struct json_writer writer = json_writer(body);
    json_object(&writer);
    json_member_string(&writer, "status", ready ? "ready" : stop_asked() ? "draining" : "not ready");
    if (!ready)
        json_member_string(&writer, "reason", reason);
    if (is_asked(request, "verbose")) {
        struct consumer *consumer = dispatch_consumer(health->dispatch);
        const char *fatal = consumer_fatal(consumer);
        json_member_string(&writer, "service", health->service->name);
        json_key(&writer, "checks");
        json_object(&writer);
        json_member_string(&writer, "drain", stop_asked() ? "draining" : "ok");
        json_member_string(&writer, "kafka",
                           fatal                      ? fatal
                           : consumer_ready(consumer) ? "ok"
                                                      : "no partitions given yet");
        json_member_string(&writer, "flow", ready ? "ok" : reason);
        json_object_end(&writer);
        json_member_int(&writer, "queued", (int64_t)consumer_queued(consumer));
    }
    json_object_end(&writer);
    buffer_add_char(body, '\n');
    answer->content_type = "application/json";
    answer->status = ready ? 200 : 503;
    answer->retry_after_s = ready ? 0 : 1;
}

static void page_metrics(void *owner, const struct request *request, struct answer *answer,
                         struct buffer *body)
{
    const struct health *health = owner;
    (void)request;
    answer->content_type = "text/plain; version=0.0.4; charset=utf-8";
    metrics_write(health->metrics, body);
}

static void page_version(void *owner, const struct request *request, struct answer *answer,
                         struct buffer *body)
{
    const struct health *health = owner;
    char library[16];
    (void)request, (void)answer;
    library_version(library, sizeof(library));
    struct json_writer writer = json_writer(body);
    json_object(&writer);
    json_member_string(&writer, "service", health->service->name);
    json_member_string(&writer, "version", WEIR_VERSION);
    json_member_string(&writer, "librdkafka", library);
    json_object_end(&writer);
    buffer_add_char(body, '\n');
}

static void page_openapi(void *owner, const struct request *request, struct answer *answer,
                         struct buffer *body)
{
    const struct health *health = owner;
    (void)request, (void)answer;
    buffer_add_string(body, health->service->openapi);
}

static struct metric *lag_metric(struct health *health, const struct lag *lag, int metric)
{
    char number[16];
    snprintf(number, sizeof(number), "%d", (int)lag->partition);
    return metrics_get(health->metrics, &health_metrics[metric], health->group_id, lag->topic, number, NULL);
}

static double lag_seconds(struct lag *lag, const struct consumer_partition *partition)
{
    int64_t now_us = clock_monotonic_us(), age_us = now_us - lag->even_us;
    if (partition->lag == 0) {
        lag->even_us = now_us;
        return 0;
    }
    if (partition->oldest_ms)
        age_us = clock_wall_us() - partition->oldest_ms * 1000;
    return age_us > 0 ? (double)age_us / 1e6 : 0;
}

static void lag_of(void *owner, const struct consumer_partition *partition)
{
    struct health *health = owner;
    struct lag *lag = NULL;
    for (size_t i = 0; i < health->lag_count && !lag; i++)
        if (health->lags[i].partition == partition->partition &&
            strcmp(health->lags[i].topic, partition->topic) == 0)
            lag = &health->lags[i];
    if (!lag && health->lag_count < HEALTH_PARTITIONS_MAX) {
        lag = &health->lags[health->lag_count++];
        *lag = (struct lag){.partition = partition->partition, .even_us = clock_monotonic_us()};
        snprintf(lag->topic, sizeof(lag->topic), "%s", partition->topic);
    }
    if (!lag)
        return;
    lag->seen = true;
    if (partition->committed >= 0) {
        if (!lag->committed)
            lag->committed = lag_metric(health, lag, METRIC_OFFSET);
        metric_set(lag->committed, (double)partition->committed);
    }
    if (partition->lag < 0)
        return; /* not known yet */
    if (!lag->records) {
        lag->records = lag_metric(health, lag, METRIC_LAG);
        lag->seconds = lag_metric(health, lag, METRIC_LAG_SECONDS);
    }
    metric_set(lag->records, (double)partition->lag);
    metric_set(lag->seconds, lag_seconds(lag, partition));
}

/* One page at a time: metrics_write() sees to it. */
static void collect(void *owner)
{
    struct health *health = owner;
    char reason[REASON_BYTES];
    metric_set(metrics_get(health->metrics, &health_metrics[METRIC_READY], NULL), is_ready(health, reason));
    for (size_t i = 0; i < health->lag_count; i++)
        health->lags[i].seen = false;
    consumer_each(dispatch_consumer(health->dispatch), lag_of, health);
    size_t assigned = 0;
    for (size_t i = 0; i < health->lag_count;) {
        struct lag *lag = &health->lags[i];
        if (lag->seen) {
            assigned++;
            i++;
            continue;
        }
        metrics_drop(health->metrics, lag->records);
        metrics_drop(health->metrics, lag->seconds);
        metrics_drop(health->metrics, lag->committed);
        *lag = health->lags[--health->lag_count];
    }
    metric_set(metrics_get(health->metrics, &health_metrics[METRIC_ASSIGNED], NULL), (double)assigned);
}

void health_open(struct health *health, const struct service *service, const char *group_id,
                 struct metrics *metrics, struct dispatch *dispatch, struct registry *registry,
                 struct server *http)
{
    char library[16];
    *health = (struct health){.service = service,
                              .group_id = group_id,
                              .metrics = metrics,
                              .dispatch = dispatch,
                              .registry = registry};
    library_version(library, sizeof(library));
    metric_set(
        metrics_get(metrics, &health_metrics[METRIC_BUILD_INFO], service->name, WEIR_VERSION, library, NULL),
        1);
    metrics_on_collect(metrics, collect, health);
    http_add_page(http, "/livez", page_live, health);
    http_add_page(http, "/readyz", page_ready, health);
    http_add_page(http, "/metrics", page_metrics, health);
    http_add_page(http, "/version", page_version, health);
    if (service->openapi)
        http_add_page(http, "/openapi.json", page_openapi, health);
}

/* The reason may become another one while it is not ready, and is then told anew. */
static void tell_status(struct health *health, bool ready, const char *reason)
{
    char status[sizeof(health->told)];
    snprintf(status, sizeof(status), "%s%s", ready ? "ready" : "not ready: ", ready ? "" : reason);
    if (strcmp(status, health->told) == 0)
        return;
    memcpy(health->told, status, sizeof(status));
    notify_status(status);
}

bool health_watch(struct health *health)
{
    char reason[REASON_BYTES];
    bool ready = is_ready(health, reason);
    if (ready && !health->was_ready)
        log_info("health", "ready", LOG_STRING("service", health->service->name));
    else if (!ready && (health->was_ready || !health->said))
        log_warn("health", "not ready", LOG_STRING("reason", reason));
    health->was_ready = ready;
    health->said = true;
    tell_status(health, ready, reason);
    return ready;
}
