#include "net/otlp.h"

#include "base/clock.h"
#include "base/ids.h"
#include "net/net.h"
#include "net/otlp_request.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { URL_BYTES_MAX = 2048, HEADERS_MAX = NET_HEADERS_MAX - 3, WORDS_BYTES_MAX = 16 << 10 };

const struct setting otlp_settings[] = {
    {"OTEL_SDK_DISABLED", SETTING_BOOL, "false", 0, 0, NULL, "No traces, whatever else is set."},
    {"OTEL_TRACES_EXPORTER", SETTING_TEXT, "otlp", 0, 0, NULL,
     "`none`: no traces, though an endpoint is set."},
    {"OTEL_EXPORTER_OTLP_ENDPOINT", SETTING_URL, NULL, 0, 0, "http|https",
     "Base URL of an OpenTelemetry collector; traces go to /v1/traces below it. Without it there are none."},
    {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", SETTING_URL, NULL, 0, 0, "http|https",
     "The whole URL that traces go to, in place of OTEL_EXPORTER_OTLP_ENDPOINT."},
    {"OTEL_EXPORTER_OTLP_HEADERS", SETTING_SECRET, NULL, 0, 0, NULL,
     "Headers of each request to the collector: name=value,name=value, values percent-encoded."},
    {"OTEL_EXPORTER_OTLP_TRACES_HEADERS", SETTING_SECRET, NULL, 0, 0, NULL,
     "The same for traces, in place of OTEL_EXPORTER_OTLP_HEADERS."},
    {"OTEL_EXPORTER_OTLP_PROTOCOL", SETTING_TEXT, "http/protobuf", 0, 0, NULL,
     "http/protobuf or http/json; grpc is not spoken."},
    {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", SETTING_TEXT, NULL, 0, 0, NULL,
     "The same for traces, in place of OTEL_EXPORTER_OTLP_PROTOCOL."},
    {"OTEL_EXPORTER_OTLP_TIMEOUT", SETTING_INT, "10000", 1, 300000, NULL,
     "Milliseconds that the collector has for each request."},
    {"OTEL_EXPORTER_OTLP_CERTIFICATE", SETTING_TEXT, NULL, 0, 0, NULL,
     "PEM file of the authorities that may have signed the collector's certificate; where not set, the "
     "system's."},
    {"OTEL_SERVICE_NAME", SETTING_TEXT, NULL, 0, 0, NULL,
     "The name in traces; where not set, service.name of OTEL_RESOURCE_ATTRIBUTES, else weir-<service>."},
    {"OTEL_RESOURCE_ATTRIBUTES", SETTING_TEXT, NULL, 0, 0, NULL,
     "What else traces say of this process: name=value,name=value, values percent-encoded."},
    {"OTEL_TRACES_SAMPLER", SETTING_TEXT, "parentbased_always_on", 0, 0, NULL,
     "Which traces are recorded: always_on, always_off, traceidratio, or parentbased_ before one of them: a "
     "trace that came from elsewhere then goes on as it began."},
    {"OTEL_TRACES_SAMPLER_ARG", SETTING_TEXT, NULL, 0, 0, NULL,
     "The share of traces for traceidratio, 0 to 1; where not set, 1."},
    {"OTEL_BSP_SCHEDULE_DELAY", SETTING_INT, "5000", 1, 600000, NULL,
     "Milliseconds after which spans are sent though there is no whole batch of them."},
    {"OTEL_BSP_MAX_QUEUE_SIZE", SETTING_INT, "8192", 16, OTLP_QUEUE_MAX, NULL,
     "Spans in memory that are not sent yet, rounded up to a power of two, about 1 KiB each; more are "
     "dropped "
     "and counted."},
    {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE", SETTING_INT, "512", 1, 8192, NULL, "Spans in one request."},
    SETTINGS_END,
};

enum { METRIC_DROPPED, METRIC_EXPORTED };
const struct metric_family otlp_metrics[] = {
    [METRIC_DROPPED] =
        {"weir_spans_dropped_total", METRIC_COUNTER, "",
         "Spans that did not get to the collector: the queue was full, or it did not take them.", NULL},
    [METRIC_EXPORTED] = {"weir_spans_exported_total", METRIC_COUNTER, "", "Spans that the collector took.",
                         NULL},
    {0},
};

struct otlp {
    struct otlp_use use;
    struct spans *spans;
    struct net *net;
    struct metric *exported;
    char url[URL_BYTES_MAX];
    const char *headers[NET_HEADERS_MAX];
    char *header_words, *resource_words; /* where headers and resource point into */
    char instance[ID_TEXT_BYTES + 1], host[256], pid[16], user_agent[96];
    struct otlp_resource resource;
    struct otlp_request request;
    size_t batch_max;
    int delay_ms, timeout_ms;

    pthread_t thread;
    sem_t woken;
    sem_t finished;

    pthread_mutex_t lock;
    bool closing; /* send what is there, once */
    bool cut;     /* send nothing any more     */
    int64_t close_by_us;
    bool answered;
    enum outcome answer;
    int64_t retry_after_ms;
    char answer_text[256];

    /* the thread's */
    bool away; /* said */
    int64_t backoff_ms;
};

/* ---- settings */

static size_t power_of_two(size_t count)
{
    size_t power = 16;
    while (power < count)
        power *= 2;
    return power;
}

static const char *first_of(const struct config *config, const char *specific, const char *general)
{
    return config_is_set(config, specific) ? config_text(config, specific) : config_text(config, general);
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* %41 is A; in place. */
static struct text decoded(char *at, size_t length)
{
    size_t to = 0;
    for (size_t i = 0; i < length; i++) {
        int high = i + 2 < length && at[i] == '%' ? hex_digit(at[i + 1]) : -1;
        int low = high >= 0 ? hex_digit(at[i + 2]) : -1;
        if (low >= 0) {
            at[to++] = (char)(high << 4 | low);
            i += 2;
        } else {
            at[to++] = at[i];
        }
    }
    return (struct text){at, to};
}

/* The next name=value of the list at *at; false at its end. Pairs that are none are passed over. */
static bool next_pair(char **at, struct text *name, struct text *value)
{
    while (**at) {
        char *pair = *at;
        size_t length = strcspn(pair, ",");
        *at = pair + length + (pair[length] == ',');
        char *equals = memchr(pair, '=', length);
        if (!equals)
            continue;
        *name = text_trim((struct text){pair, (size_t)(equals - pair)});
        *value = text_trim((struct text){equals + 1, (size_t)(pair + length - equals - 1)});
        *value = decoded((char *)(uintptr_t)value->at, value->length);
        if (name->length)
            return true;
    }
    return false;
}

static void warn(const struct otlp *otlp, const char *format, ...) PRINTF_LIKE(2, 3);
static void warn(const struct otlp *otlp, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    otlp->use.say(otlp->use.owner, true, text);
}

static bool header_valid(struct text name, struct text value)
{
    for (size_t i = 0; i < name.length; i++)
        if (name.at[i] <= ' ' || name.at[i] >= 0x7f || name.at[i] == ':')
            return false;
    return text_is_printable(value, WORDS_BYTES_MAX);
}

static bool headers_read(struct otlp *otlp)
{
    const char *given =
        first_of(otlp->use.config, "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS");
    size_t count = 0, length = given ? strlen(given) : 0;
    char *list = strdup(given ? given : ""), *at = list;
    size_t room = length + NET_HEADERS_MAX * 4; /* ": " for "=", and the end, of each */
    char *into = otlp->header_words = malloc(room);
    if (!list || !into) {
        free(list);
        return false;
    }
    snprintf(otlp->user_agent, sizeof(otlp->user_agent), "User-Agent: weir/%s", otlp->use.version);
    otlp->headers[count++] =
        otlp->request.as_json ? "Content-Type: application/json" : "Content-Type: application/x-protobuf";
    otlp->headers[count++] = otlp->user_agent;
    struct text name, value;
    while (next_pair(&at, &name, &value)) {
        if (count == HEADERS_MAX + 2 || !header_valid(name, value)) {
            warn(otlp, "OTEL_EXPORTER_OTLP_HEADERS: %.*s is passed over: it is no header, or one too many",
                 TEXT_ARG(name));
            continue;
        }
        otlp->headers[count++] = into;
        size_t bytes = (size_t)snprintf(into, room, "%.*s: %.*s", TEXT_ARG(name), TEXT_ARG(value)) + 1;
        into += bytes;
        room -= bytes;
    }
    free(list);
    return true;
}

static void resource_add(struct otlp_resource *resource, const char *name, struct text value)
{
    for (size_t i = 0; i < resource->count; i++)
        if (text_is(resource->attributes[i].name, name))
            return; /* what people say wins */
    if (value.length == 0 || resource->count == OTLP_RESOURCE_MAX)
        return;
    resource->attributes[resource->count].name = text_of(name);
    resource->attributes[resource->count++].value = value;
}

static bool resource_read(struct otlp *otlp)
{
    struct otlp_resource *resource = &otlp->resource;
    const char *given = config_text(otlp->use.config, "OTEL_RESOURCE_ATTRIBUTES");
    const char *service = config_text(otlp->use.config, "OTEL_SERVICE_NAME");
    char *at = otlp->resource_words = strdup(given ? given : "");
    if (!at)
        return false;
    if (service)
        resource_add(resource, "service.name", text_of(service));
    struct text name, value;
    enum { OWN = 8 };
    while (resource->count < OTLP_RESOURCE_MAX - OWN && next_pair(&at, &name, &value)) {
        if (text_is(name, "service.name") && service)
            continue;
        resource->attributes[resource->count].name = name;
        resource->attributes[resource->count++].value = value;
    }
    id_to_text(id_new(), otlp->instance);
    snprintf(otlp->pid, sizeof(otlp->pid), "%ld", (long)getpid());
    if (gethostname(otlp->host, sizeof(otlp->host) - 1) < 0)
        otlp->host[0] = '\0';
    resource->version = text_of(otlp->use.version);
    resource_add(resource, "service.name", text_of(otlp->use.service_name));
    resource_add(resource, "service.namespace", TEXT("weir"));
    resource_add(resource, "service.version", resource->version);
    resource_add(resource, "service.instance.id", (struct text){otlp->instance, ID_TEXT_BYTES});
    resource_add(resource, "host.name", text_of(otlp->host));
    resource_add(resource, "telemetry.sdk.name", TEXT("weir"));
    resource_add(resource, "telemetry.sdk.language", TEXT("c"));
    resource_add(resource, "telemetry.sdk.version", resource->version);
    return true;
}

/* As OpenTelemetry says: what is not understood is said and passed over. These variables are set for whole
 * clusters, and a trace is no reason not to start. */
static struct span_sampler sampler_read(const struct otlp *otlp)
{
    const char *name = config_text(otlp->use.config, "OTEL_TRACES_SAMPLER"),
               *argument = config_text(otlp->use.config, "OTEL_TRACES_SAMPLER_ARG");
    static const char parent[] = "parentbased_";
    struct span_sampler sampler = {.parent_based = strncmp(name, parent, sizeof(parent) - 1) == 0,
                                   .ratio = 1};
    const char *root = sampler.parent_based ? name + sizeof(parent) - 1 : name;
    if (strcmp(root, "always_on") == 0) {
        sampler.root = SAMPLE_ALWAYS;
    } else if (strcmp(root, "always_off") == 0) {
        sampler.root = SAMPLE_NEVER;
    } else if (strcmp(root, "traceidratio") == 0) {
        sampler.root = SAMPLE_RATIO;
        char *end = NULL;
        double ratio = argument ? strtod(argument, &end) : 1;
        if (argument && (end == argument || *end || !(ratio >= 0 && ratio <= 1)))
            warn(otlp, "OTEL_TRACES_SAMPLER_ARG: \"%.64s\" is no number from 0 to 1; it is 1", argument);
        else
            sampler.ratio = ratio;
    } else {
        warn(otlp, "OTEL_TRACES_SAMPLER: \"%.64s\" is not known here; it is parentbased_always_on", name);
        sampler = (struct span_sampler){.root = SAMPLE_ALWAYS, .parent_based = true};
    }
    return sampler;
}

static bool url_read(struct otlp *otlp)
{
    const struct config *config = otlp->use.config;
    const char *whole = config_text(config, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
               *base = config_text(config, "OTEL_EXPORTER_OTLP_ENDPOINT");
    const char *url = whole ? whole : base;
    if (!url || config_bool(config, "OTEL_SDK_DISABLED") ||
        strcmp(config_text(config, "OTEL_TRACES_EXPORTER"), "none") == 0)
        return false;
    size_t length = strlen(url);
    while (!whole && length && url[length - 1] == '/')
        length--;
    int printed =
        snprintf(otlp->url, sizeof(otlp->url), "%.*s%s", (int)length, url, whole ? "" : "/v1/traces");
    if (printed < (int)sizeof(otlp->url))
        return true;
    warn(otlp, "OTEL_EXPORTER_OTLP_ENDPOINT is too long: no traces are sent");
    return false;
}

static void protocol_read(struct otlp *otlp)
{
    const char *protocol =
        first_of(otlp->use.config, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL");
    otlp->request.as_json = strcmp(protocol, "http/json") == 0;
    if (!otlp->request.as_json && strcmp(protocol, "http/protobuf") != 0)
        warn(otlp,
             "OTEL_EXPORTER_OTLP_PROTOCOL: \"%.64s\" is not spoken here; traces are sent as http/protobuf",
             protocol);
    const char *exporter = config_text(otlp->use.config, "OTEL_TRACES_EXPORTER");
    if (strcmp(exporter, "otlp") != 0)
        warn(otlp, "OTEL_TRACES_EXPORTER: \"%.64s\" is not known here; it is otlp", exporter);
}

/* ---- the thread */

static void wait_until(sem_t *semaphore, int64_t monotonic_us)
{
    const struct timespec until = {.tv_sec = monotonic_us / 1000000,
                                   .tv_nsec = monotonic_us % 1000000 * 1000};
    while (sem_clockwait(semaphore, CLOCK_MONOTONIC, &until) < 0 && errno == EINTR)
        ;
}

static bool is_closing(struct otlp *otlp)
{
    pthread_mutex_lock(&otlp->lock);
    bool closing = otlp->closing;
    pthread_mutex_unlock(&otlp->lock);
    return closing;
}

static void on_done(void *owner, const struct net_result *result)
{
    struct otlp *otlp = owner;
    pthread_mutex_lock(&otlp->lock);
    otlp->answered = true;
    otlp->answer = result->outcome;
    otlp->retry_after_ms = result->retry_after_ms;
    snprintf(otlp->answer_text, sizeof(otlp->answer_text), "%s", result->text);
    /* Of the 5xx only these are said to be passing (OTLP, "Retryable Response Codes"). */
    if (result->outcome == RETRY && result->status && result->status != 429 && result->status != 502 &&
        result->status != 503 && result->status != 504)
        otlp->answer = REJECT;
    pthread_mutex_unlock(&otlp->lock);
    sem_post(&otlp->woken);
}

/* One request, to its answer. */
static enum outcome post(struct otlp *otlp)
{
    struct net_http http = {
        .method = "POST",
        .url = otlp->url,
        .body = buffer_text(&otlp->request.into),
        .timeout_ms = otlp->timeout_ms,
        .ca_file = config_text(otlp->use.config, "OTEL_EXPORTER_OTLP_CERTIFICATE"),
    };
    memcpy(http.headers, otlp->headers, sizeof(http.headers));
    struct error error = {0};
    pthread_mutex_lock(&otlp->lock);
    otlp->answered = false;
    otlp->retry_after_ms = 0;
    enum outcome outcome = otlp->cut ? OUTAGE : net_http(otlp->net, &http, on_done, otlp, &error);
    if (outcome != OK)
        snprintf(otlp->answer_text, sizeof(otlp->answer_text), "%s", error.text);
    while (outcome == OK && !otlp->answered) {
        pthread_mutex_unlock(&otlp->lock);
        wait_until(&otlp->woken, clock_monotonic_us() + 1000000);
        pthread_mutex_lock(&otlp->lock);
    }
    if (outcome == OK)
        outcome = otlp->answer;
    pthread_mutex_unlock(&otlp->lock);
    return outcome;
}

static void tell(struct otlp *otlp, enum outcome outcome)
{
    if (outcome == OK) {
        if (otlp->away)
            otlp->use.say(otlp->use.owner, false, "the collector takes traces again");
        otlp->away = false;
        otlp->backoff_ms = 0;
    } else if (!otlp->away) {
        otlp->away = true;
        warn(otlp, "the collector does not take traces (they are dropped when the queue is full): %s",
             otlp->answer_text[0] ? otlp->answer_text : "no connection");
    }
}

/* What is in the ring, up to a batch or a request's bytes, into the request. *ret_full: there is more for
 * another one. */
static size_t take_batch(struct otlp *otlp, bool *ret_full)
{
    const struct span *span = spans_first(otlp->spans);
    *ret_full = false;
    if (!span)
        return 0;
    otlp_request_begin(&otlp->request, &otlp->resource);
    while (span && !*ret_full) {
        otlp_request_add(&otlp->request, span);
        spans_done(otlp->spans);
        span = spans_first(otlp->spans);
        *ret_full = otlp->request.count == otlp->batch_max ||
                    otlp->request.into.length > OTLP_REQUEST_BYTES_MAX - OTLP_SPAN_BYTES_MAX;
    }
    otlp_request_end(&otlp->request);
    return otlp->request.count;
}

static void back_off(struct otlp *otlp)
{
    otlp->backoff_ms = otlp->backoff_ms ? otlp->backoff_ms * 2 : OTLP_BACKOFF_MS_MIN;
    if (otlp->backoff_ms > OTLP_BACKOFF_MS_MAX)
        otlp->backoff_ms = OTLP_BACKOFF_MS_MAX;
    uint8_t chance[SPAN_ID_BYTES];
    span_id_new(chance);
    int64_t wait_ms = otlp->backoff_ms + otlp->backoff_ms * chance[0] / 1024;
    if (wait_ms < otlp->retry_after_ms)
        wait_ms = otlp->retry_after_ms < OTLP_BACKOFF_MS_MAX ? otlp->retry_after_ms : OTLP_BACKOFF_MS_MAX;
    int64_t until_us = clock_monotonic_us() + wait_ms * 1000;
    /* Those who fill the ring wake it as well: they are not what is waited for. */
    while (!is_closing(otlp) && clock_monotonic_us() < until_us)
        wait_until(&otlp->woken, until_us);
}

static void send_batch(struct otlp *otlp, size_t count)
{
    enum outcome outcome = REJECT;
    if (!otlp->request.into.failed)
        outcome = post(otlp);
    tell(otlp, outcome);
    for (int attempt = 1; outcome != OK && outcome != REJECT && attempt < OTLP_ATTEMPTS_MAX; attempt++) {
        back_off(otlp);
        if (is_closing(otlp) && clock_monotonic_us() >= otlp->close_by_us)
            break;
        outcome = post(otlp);
        tell(otlp, outcome);
        if (is_closing(otlp))
            break;
    }
    if (outcome == OK)
        metric_add(otlp->exported, (int64_t)count);
    else
        spans_dropped(otlp->spans, count);
}

static void *run(void *owner)
{
    struct otlp *otlp = owner;
    for (;;) {
        bool closing = is_closing(otlp);
        size_t count = 0;
        bool full = true;
        while (full && (count = take_batch(otlp, &full)) > 0)
            send_batch(otlp, count);
        if (closing)
            break;
        wait_until(&otlp->woken, clock_monotonic_us() + otlp->delay_ms * INT64_C(1000));
    }
    sem_post(&otlp->finished);
    return NULL;
}

/* ---- open and close */

static void wake(void *owner)
{
    struct otlp *otlp = owner;
    sem_post(&otlp->woken);
}

static void otlp_free(struct otlp *otlp)
{
    net_close(otlp->net);
    spans_destroy(otlp->spans);
    buffer_free(&otlp->request.into);
    free(otlp->header_words);
    free(otlp->resource_words);
    sem_destroy(&otlp->woken);
    sem_destroy(&otlp->finished);
    pthread_mutex_destroy(&otlp->lock);
    free(otlp);
}

static enum outcome thread_start(struct otlp *otlp, struct error *error)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&otlp->thread, NULL, run, otlp);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed ? error_fatal(error, "thread", "no thread for traces: %s", strerror(failed)) : OK;
}

enum outcome otlp_open(const struct otlp_use *use, struct otlp **ret, struct error *error)
{
    struct metric *dropped = metrics_get(use->metrics, &otlp_metrics[METRIC_DROPPED], NULL),
                  *exported = metrics_get(use->metrics, &otlp_metrics[METRIC_EXPORTED], NULL);
    *ret = NULL;
    struct otlp *otlp = calloc(1, sizeof(*otlp));
    if (!otlp)
        return error_fatal(error, "memory", "out of memory");
    otlp->use = *use;
    otlp->exported = exported;
    otlp->request.into = buffer_of(OTLP_REQUEST_BYTES_MAX);
    pthread_mutex_init(&otlp->lock, NULL);
    sem_init(&otlp->woken, 0, 0);
    sem_init(&otlp->finished, 0, 0);
    if (!url_read(otlp)) {
        otlp_free(otlp);
        return OK;
    }
    protocol_read(otlp);
    const struct span_sampler sampler = sampler_read(otlp);
    size_t queue = power_of_two((size_t)config_int(use->config, "OTEL_BSP_MAX_QUEUE_SIZE"));
    otlp->batch_max = (size_t)config_int(use->config, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE");
    if (otlp->batch_max > queue)
        otlp->batch_max = queue;
    otlp->delay_ms = (int)config_int(use->config, "OTEL_BSP_SCHEDULE_DELAY");
    otlp->timeout_ms = (int)config_int(use->config, "OTEL_EXPORTER_OTLP_TIMEOUT");
    enum outcome outcome =
        headers_read(otlp) && resource_read(otlp) ? OK : error_fatal(error, "memory", "out of memory");
    if (outcome == OK)
        outcome = spans_new(queue, otlp->batch_max, &sampler, dropped, wake, otlp, &otlp->spans, error);
    if (outcome == OK)
        outcome = net_open(1, &otlp->net, error);
    if (outcome == OK)
        outcome = thread_start(otlp, error);
    if (outcome != OK) {
        otlp_free(otlp);
        return outcome;
    }
    *ret = otlp;
    return OK;
}

struct spans *otlp_spans(struct otlp *otlp)
{
    return otlp ? otlp->spans : NULL;
}

void otlp_close(struct otlp *otlp, int timeout_ms)
{
    if (!otlp)
        return;
    int64_t close_by_us = clock_monotonic_us() + timeout_ms * INT64_C(1000);
    pthread_mutex_lock(&otlp->lock);
    otlp->closing = true;
    otlp->close_by_us = close_by_us;
    pthread_mutex_unlock(&otlp->lock);
    sem_post(&otlp->woken);
    wait_until(&otlp->finished, close_by_us);
    pthread_mutex_lock(&otlp->lock);
    otlp->cut = true;
    pthread_mutex_unlock(&otlp->lock);
    net_close(otlp->net); /* ends what is under way */
    otlp->net = NULL;
    pthread_join(otlp->thread, NULL);
    otlp_free(otlp);
}
