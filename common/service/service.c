/*
 * A service's life. serve() is the list of its duties in order; what is begun in it is ended in it, in the
 * opposite order:
 *
 *   start   settings · log · signals (before any thread) · traces · port · registry · database · the
 * service's own · net · the loop's parts (the consumer begins to fetch) · pages and routes · HTTP · keeper
 *
 *   run     the loop, on the main thread
 *
 *   drain   keeper: readiness has fallen with the signal, nothing but pages is answered any more, the loop is
 * told; loop: consumer stops, work in hand is finished, outbox relayed; then the last answers go out and the
 * port closes · net · offsets committed, group left · the service's own · database
 *
 * Threads: main (loop), keeper (waits for the stop, watches readiness), HTTP's, the consumer's, the
 * producer's, net's, the two of otlp.h where there are traces, and the one of stop.h, which holds
 * DRAIN_TIMEOUT whatever the others do. Nothing here waits for a broker: with Kafka away a service starts,
 * serves, and says at /readyz why it is not ready.
 */
#include "service/service.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/stop.h"
#include "flow/dispatch.h"
#include "flow/retry.h"
#include "net/otlp.h"
#include "service/check.h"
#include "service/dlq_http.h"
#include "service/flow_http.h"
#include "service/health.h"
#include "service/http.h"
#include "service/own_topics.h"
#include "service/settings.h"
#include "store/store.h"
#include "wire/event.h"

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    KEEPER_STACK_BYTES = 256 << 10,
    WATCH_MS = 100,        /* readiness is looked at, while it is not there */
    WATCH_READY_MS = 1000, /* and while it is                               */
    MALLOC_ARENAS = 2,     /* one would be a lock for all, one a thread costs megabytes */
    LANE_CONCURRENCY = 8,
    LANE_TIMEOUT_MS = 30000,
    KAFKA_SAID_MAX = 16,
    KAFKA_SAID_S = 300,
    CLOSE_MS_MIN = 100,
    TRACES_CLOSE_MS_MAX = 2000,
    DLQ_CLOSE_MS_MAX = 3000,
    CLOSE_MS_MAX =
        4000, /* work in hand is finished by then: this is for the last commit, and for Kafka to hear of it */
};

/* ---- what librdkafka says: again and again while a broker is away; here once an outage, or in a while */

static struct {
    pthread_mutex_t lock;
    struct {
        char facility[16];
        int64_t at_us;
    } said[KAFKA_SAID_MAX];
    size_t count;
} kafka_said = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool is_news(const char *facility)
{
    int64_t now_us = clock_monotonic_us();
    bool news = true;
    size_t i = 0;
    pthread_mutex_lock(&kafka_said.lock);
    while (i < kafka_said.count && strcmp(kafka_said.said[i].facility, facility) != 0)
        i++;
    if (i < kafka_said.count) {
        news = now_us - kafka_said.said[i].at_us > KAFKA_SAID_S * INT64_C(1000000);
    } else if (kafka_said.count < KAFKA_SAID_MAX) {
        snprintf(kafka_said.said[i].facility, sizeof(kafka_said.said[i].facility), "%s", facility);
        kafka_said.count++;
    }
    if (news && i < kafka_said.count)
        kafka_said.said[i].at_us = now_us;
    pthread_mutex_unlock(&kafka_said.lock);
    return news;
}

static void kafka_said_forget(void)
{
    pthread_mutex_lock(&kafka_said.lock);
    kafka_said.count = 0;
    pthread_mutex_unlock(&kafka_said.lock);
}

static void on_kafka_log(void *owner, int level, const char *facility, const char *text)
{
    enum { ERROR_LEVEL = 3, WARN_LEVEL = 4 };
    (void)owner;
    if (level > WARN_LEVEL || !is_news(facility))
        log_debug("kafka", text, LOG_STRING("facility", facility));
    else if (level < ERROR_LEVEL)
        log_error("kafka", text, LOG_STRING("facility", facility));
    else
        log_warn("kafka", text, LOG_STRING("facility", facility));
}

/* ---- serve */

struct running {
    const struct service *service;
    const struct config *config;
    struct client_settings client;
    char group_id[256];
    struct metrics *metrics;
    struct otlp *otlp;              /* NULL: no traces */
    struct client_networks proxies; /* trusted */
    struct server *http;
    struct registry *registry;
    struct store *store;
    void *state;
    bool started; /* service->start() was OK */
    struct lane_limits limits[LANES_MAX];
    struct net *net;
    int64_t delays_ms[RETRY_DELAYS_MAX];
    size_t delay_count;
    char crash_note[4096]; /* path; empty: none */
    struct dispatch *dispatch;
    struct flow_http flow_http;
    struct dlq_http *dlq_http;
    struct health health;
    struct own_topics own_topics;
    pthread_t keeper;
    bool kept;
};

/* On an HTTP thread. */
static void on_request(void *owner, struct exchange *exchange, const struct request *request)
{
    struct running *running = owner;
    if (flow_http_answers(&running->flow_http, exchange, request) ||
        dlq_http_answers(running->dlq_http, exchange, request))
        return;
    if (!dispatch_request(running->dispatch, exchange, request))
        http_answer(exchange, &(struct answer){.status = 503, .retry_after_s = 1});
}

/* On the loop's thread. */
static void on_answer(void *exchange, const struct answer *answer)
{
    http_answer(exchange, answer);
}

/* A loop that turns is what the watchdog is for: a process that only lives is of no use to anybody. */
static void tell_watchdog(struct running *running, int64_t every_ms, int64_t *due_us)
{
    int64_t now_us = clock_monotonic_us();
    if (every_ms == 0 || now_us < *due_us || now_us - dispatch_turned_us(running->dispatch) > every_ms * 1000)
        return;
    notify_tell("WATCHDOG=1");
    *due_us = now_us + every_ms * 1000;
}

static void *keeper_run(void *owner)
{
    int64_t watchdog_ms = notify_watchdog_ms(), watchdog_due_us = 0;
    struct running *running = owner;
    struct pollfd stop = {.fd = stop_fd(), .events = POLLIN};
    bool ready = false;
    while (poll(&stop, 1, ready ? WATCH_READY_MS : WATCH_MS) <= 0) {
        bool was = ready;
        ready = health_watch(&running->health);
        if (ready && !was)
            kafka_said_forget();
        tell_watchdog(running, watchdog_ms, &watchdog_due_us);
    }
    notify_tell("STOPPING=1\nSTATUS=draining");
    log_info("drain", "asked to stop: no more requests are taken", LOG_INT("left_ms", stop_drain_left_ms()));
    http_drain(running->http);
    dlq_http_stop(running->dlq_http);
    dispatch_stop(running->dispatch);
    return NULL;
}

static enum outcome keeper_open(struct running *running, struct error *error)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, KEEPER_STACK_BYTES);
    int failed = pthread_create(&running->keeper, &attributes, keeper_run, running);
    pthread_attr_destroy(&attributes);
    if (failed)
        return error_fatal(error, "thread", "cannot start a thread: %s", strerror(failed));
    running->kept = true;
    return OK;
}

/* On the caller's thread and on otlp's. */
static void on_traces_said(void *owner, bool bad, const char *text)
{
    const struct running *running = owner;
    if (bad)
        log_warn("traces", text, LOG_STRING("service", running->service->name));
    else
        log_info("traces", text, LOG_STRING("service", running->service->name));
}

static enum outcome traces_prepare(struct running *running, struct error *error)
{
    const struct otlp_use use = {
        .config = running->config,
        .service_name = running->client.client_id, /* weir-<service> */
        .version = WEIR_VERSION,
        .metrics = running->metrics,
        .owner = running,
        .say = on_traces_said,
    };
    return otlp_open(&use, &running->otlp, error);
}

static enum outcome http_prepare(struct running *running, struct error *error)
{
    /* Probes and the scraper share an address with what they look after. */
    static const char *const unlimited_paths[] = {"/livez", "/readyz", "/metrics", NULL};
    enum outcome outcome = settings_proxies(running->config, &running->proxies, error);
    if (outcome != OK)
        return outcome;
    const struct server_settings settings = {
        .listen = config_text(running->config, "HTTP_LISTEN"),
        .metrics = running->metrics,
        .spans = otlp_spans(running->otlp),
        .api_token = bearer_token_of(config_text(running->config, "API_TOKEN")),
        .log = settings_http_log(running->config),
        .client_rate = config_int(running->config, "HTTP_CLIENT_RATE"),
        .client_burst = config_int(running->config, "HTTP_CLIENT_BURST"),
        .unlimited_paths = unlimited_paths,
        .proxies = &running->proxies,
        .owner = running,
        .request = on_request,
    };
    return http_open(&settings, &running->http, error);
}

/* On a thread of the registry's: once when it goes away, once when it is back. */
static void on_registry_said(void *owner, bool away, const char *text)
{
    (void)owner;
    if (away)
        log_error("registry", "the schema registry is away: what needs it waits; nothing is lost",
                  LOG_STRING("error", text));
    else
        log_info("registry", "the schema registry answers again", LOG_STRING("answer", text));
}

static enum outcome registry_prepare(struct running *running, struct error *error)
{
    const struct registry_use use = {
        .config = running->config,
        .writes = running->service->writes,
        .metrics = running->metrics,
        .say = on_registry_said,
    };
    return registry_open(&use, &running->registry, error);
}

/* The service's tables and the flow's. */
static enum outcome store_prepare(struct running *running, struct error *error)
{
    const struct service *service = running->service;
    const struct rows_table *tables[ROWS_TABLES_MAX];
    size_t table_count = 0, migration_count = 0;
    const struct rows_table *const *sources[] = {service->tables, flow_tables};
    for (size_t i = 0; i < 2; i++)
        for (const struct rows_table *const *table = sources[i]; table && *table; table++) {
            if (table_count == ROWS_TABLES_MAX)
                return error_fatal(error, "tables", "more than %d tables", ROWS_TABLES_MAX);
            tables[table_count++] = *table;
        }
    while (service->migrations && service->migrations[migration_count].number)
        migration_count++;
    enum outcome outcome =
        store_open(config_text(running->config, "DATABASE_URL"), service->name, &running->store, error);
    if (outcome != OK)
        return outcome;
    return store_migrate(running->store, tables, table_count, service->migrations, migration_count, error);
}

static enum outcome service_prepare(struct running *running, struct error *error)
{
    const struct service *service = running->service;
    running->delay_count =
        config_durations_ms(running->config, "RETRY_DELAYS", running->delays_ms, RETRY_DELAYS_MAX);
    for (size_t i = 0; i < LANES_MAX; i++) {
        running->limits[i] = (struct lane_limits){.concurrency = LANE_CONCURRENCY,
                                                  .timeout_ms = LANE_TIMEOUT_MS,
                                                  .delay_count = running->delay_count};
        memcpy(running->limits[i].delays_ms, running->delays_ms,
               running->delay_count * sizeof(running->delays_ms[0]));
    }
    running->state = calloc(1, service->state_bytes ? service->state_bytes : 1);
    if (!running->state)
        return error_fatal(error, "memory", "out of memory");
    const struct service_start start = {
        .config = running->config,
        .metrics = running->metrics,
        .limits = running->limits,
        .database_url = config_text(running->config, "DATABASE_URL"),
        .http = running->http,
    };
    enum outcome outcome = service->start ? service->start(running->state, &start, error) : OK;
    running->started = outcome == OK;
    return outcome;
}

static enum outcome net_prepare(struct running *running, struct error *error)
{
    const struct lane *const *lanes = running->service->lanes;
    int connections = 0;
    for (size_t i = 0; lanes && lanes[i]; i++)
        connections += running->limits[i].concurrency;
    return connections ? net_open(connections, &running->net, error) : OK;
}

/* Beside the SQLite file, which outlives the process as it must. */
static void crash_note_path(struct running *running)
{
    const char *given = config_text(running->config, "CRASH_NOTE");
    const char *url = config_text(running->config, "DATABASE_URL");
    if (given)
        snprintf(running->crash_note, sizeof(running->crash_note), "%s", given);
    else if (strncmp(url, "sqlite:", 7) == 0)
        snprintf(running->crash_note, sizeof(running->crash_note), "%s.inhand", url + 7);
}

static enum outcome dispatch_prepare(struct running *running, struct error *error)
{
    const struct service *service = running->service;
    crash_note_path(running);
    const struct dispatch_settings settings = {
        .service = service->name,
        .subscriptions = service->subscriptions,
        .ticks = service->ticks,
        .lanes = service->lanes,
        .limits = running->limits,
        .state = running->state,
        .store = running->store,
        .registry = running->registry,
        .net = running->net,
        .metrics = running->metrics,
        .client = running->client,
        .group_id = running->group_id,
        .retry_delays_ms = running->delays_ms,
        .retry_delay_count = running->delay_count,
        .crash_note = running->crash_note[0] ? running->crash_note : NULL,
        .config = running->config,
        .spans = otlp_spans(running->otlp),
        .backlog_max = settings_backlog_max(running->config, service),
        .answer = on_answer,
    };
    return dispatch_open(&settings, &running->dispatch, error);
}

static enum outcome http_serve(struct running *running, struct error *error)
{
    health_open(&running->health, running->service, running->group_id, running->metrics, running->dispatch,
                running->registry, running->http);
    http_add_routes(running->http, running->service->routes, running->state);
    const struct bearer_token token = bearer_token_of(config_text(running->config, "ADMIN_TOKEN"));
    flow_http_open(&running->flow_http, running->http, running->dispatch, token);
    const struct dlq_http_settings dlq = {
        .service = running->service->name,
        .client = running->client,
        .first_delay_ms = running->delay_count ? running->delays_ms[0] : -1,
        .token = token,
    };
    enum outcome outcome = dlq_http_open(&dlq, running->http, &running->dlq_http, error);
    return outcome == OK ? http_start(running->http, error) : outcome;
}

static enum outcome topics_prepare(struct running *running, struct error *error)
{
    running->own_topics = (struct own_topics){
        .client = &running->client,
        .dispatch = running->dispatch,
        .service = running->service,
        .delays_ms = running->delays_ms,
        .delay_count = running->delay_count,
        .keeps_ms = config_ms(running->config, "INBOX_AGE"),
        .makes = config_bool(running->config, "TOPICS_CREATE"),
    };
    return own_topics_open(&running->own_topics, error);
}

static enum outcome start(struct running *running, struct error *error)
{
    const struct config *config = running->config;
    enum outcome outcome;
    running->metrics = metrics_new();
    if (!running->metrics)
        return error_fatal(error, "memory", "out of memory");
    if ((outcome = stop_open(config_ms(config, "DRAIN_TIMEOUT"), error)) != OK ||
        (outcome = traces_prepare(running, error)) != OK || (outcome = http_prepare(running, error)) != OK ||
        (outcome = registry_prepare(running, error)) != OK ||
        (outcome = store_prepare(running, error)) != OK ||
        (outcome = service_prepare(running, error)) != OK || (outcome = net_prepare(running, error)) != OK ||
        (outcome = dispatch_prepare(running, error)) != OK || (outcome = http_serve(running, error)) != OK ||
        (outcome = topics_prepare(running, error)) != OK || (outcome = keeper_open(running, error)) != OK)
        return outcome;
    log_info("service", "serving", LOG_STRING("service", running->service->name),
             LOG_STRING("version", WEIR_VERSION), LOG_STRING("http", config_text(config, "HTTP_LISTEN")),
             LOG_INT("port", http_port(running->http)),
             LOG_STRING("kafka", running->client.bootstrap_servers), LOG_STRING("group", running->group_id));
    /* Not only when it is ready: with Kafka away it serves, and says so. */
    notify_tell("READY=1");
    return OK;
}

/* The opposite order of start(). Everything may be missing. */
static void finish(struct running *running)
{
    own_topics_close(&running->own_topics);
    int64_t dlq_ms = stop_drain_left_ms() / 2;
    dlq_http_close(running->dlq_http, dlq_ms < DLQ_CLOSE_MS_MAX ? (int)dlq_ms : DLQ_CLOSE_MS_MAX);
    http_close(running->http);
    dlq_http_free(running->dlq_http);
    net_close(running->net);
    int64_t left_ms = stop_drain_left_ms() * 3 / 4; /* the rest is the database's */
    int close_ms = left_ms < CLOSE_MS_MIN   ? CLOSE_MS_MIN
                   : left_ms > CLOSE_MS_MAX ? CLOSE_MS_MAX
                                            : (int)left_ms;
    if (running->dispatch)
        dispatch_close(running->dispatch, close_ms);
    if (running->started && running->service->stop)
        running->service->stop(running->state);
    store_close(running->store);
    int64_t traces_ms = stop_drain_left_ms() / 2; /* nobody gives spans any more */
    otlp_close(running->otlp,
               traces_ms < TRACES_CLOSE_MS_MAX ? (int)(traces_ms > 0 ? traces_ms : 0) : TRACES_CLOSE_MS_MAX);
    if (running->registry)
        registry_close(running->registry);
    metrics_destroy(running->metrics);
    free(running->state);
}

static int serve(const struct service *service, const struct config *config,
                 const struct client_settings *client)
{
    struct running running = {.service = service, .config = config, .client = *client};
    struct error error;
    (void)settings_group_id(config, service, running.group_id, sizeof(running.group_id));
    mallopt(M_ARENA_MAX, MALLOC_ARENAS);

    int exit_code = 0;
    enum outcome outcome = start(&running, &error);
    if (outcome == OK) {
        outcome = dispatch_run(running.dispatch, stop_drain_left_ms, &error);
        if (outcome != OK)
            stop_fail(error_exit_code(&error));
        else
            stop_ask();
        exit_code = stop_exit_code();
    } else {
        exit_code = error_exit_code(&error);
    }
    if (outcome != OK)
        log_error(running.kept ? "service" : "start", error.text, LOG_STRING("cause", error.cause),
                  LOG_INT("exit_code", exit_code));
    if (running.kept)
        pthread_join(running.keeper, NULL);
    finish(&running);
    if (running.kept)
        log_info("service", "stopped", LOG_INT("exit_code", exit_code),
                 LOG_INT("left_ms", stop_drain_left_ms()));
    return exit_code;
}

/* ---- the command line */

enum verb { VERB_SERVE, VERB_CONFIG, VERB_CHECK, VERB_HELP, VERB_VERSION, VERB_COUNT };
static const char *const verb_names[VERB_COUNT] = {"serve", "config", "check", "help", "version"};

/* The verb, which is taken off the arguments; VERB_COUNT where it is not known. */
static enum verb verb_of(int *argc, char ***argv)
{
    if (*argc == 0)
        return VERB_SERVE;
    const char *word = (*argv)[0];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
        return VERB_HELP;
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0)
        return VERB_VERSION;
    if (word[0] == '-')
        return VERB_SERVE;
    (*argc)--;
    (*argv)++;
    for (int verb = 0; verb < VERB_COUNT; verb++)
        if (strcmp(word, verb_names[verb]) == 0) {
            bool help = *argc > 0 && (strcmp((*argv)[0], "--help") == 0 || strcmp((*argv)[0], "-h") == 0);
            return help ? VERB_HELP : (enum verb)verb;
        }
    return VERB_COUNT;
}

static int unknown_verb(const struct service *service, const char *word)
{
    int nearest = 0;
    for (int verb = 1; verb < VERB_COUNT; verb++)
        if (text_distance(text_of(word), text_of(verb_names[verb])) <
            text_distance(text_of(word), text_of(verb_names[nearest])))
            nearest = verb;
    fprintf(
        stderr,
        "weir-%s: unknown command \"%s\"; did you mean \"%s\"? (serve, config, check; --help tells more)\n",
        service->name, word, verb_names[nearest]);
    return EXIT_USAGE;
}

static void help(const struct service *service, const struct settings *settings)
{
    struct buffer text = buffer_of(1 << 20);
    buffer_print(
        &text,
        "weir-%s: %s\n\n"
        "Usage:\n"
        "  weir-%s [serve] [settings]   runs the service until SIGTERM\n"
        "  weir-%s config [settings]    shows the settings in effect and where each comes from\n"
        "  weir-%s check [settings]     tries to reach all that it needs, one line a part\n"
        "  weir-%s check ready          asks the one that serves here whether it is ready: a health check\n"
        "  weir-%s --help | --version\n\n"
        "Settings: --name value, environment NAME, or a line \"name = value\" in --config FILE; in "
        "this order.\n\n",
        service->name, service->about, service->name, service->name, service->name, service->name,
        service->name);
    config_help(settings->tables, settings->table_count, &text);
    fwrite(text.at, 1, text.length, stdout);
    buffer_free(&text);
}

static void version(const struct service *service)
{
    printf("weir-%s %s\n", service->name, WEIR_VERSION);
}

static void show(const struct config *config)
{
    struct buffer text = buffer_of(1 << 20);
    config_show(config, &text);
    fwrite(text.at, 1, text.length, stdout);
    buffer_free(&text);
}

static void log_prepare(const struct service *service, const struct config *config, char name[64])
{
    enum log_level level = LOG_INFO;
    (void)log_level_parse(text_of(config_text(config, "LOG_LEVEL")), &level);
    snprintf(name, 64, "weir-%s", service->name);
    log_open(name, level, config_text(config, "LOG_FORMAT"));
}

int service_main(const struct service *service, int argc, char **argv)
{
    static char name[64]; /* the log keeps it */
    struct settings settings;
    struct config *config = NULL;
    struct error error;
    settings_of(service, &settings);
    argc--;
    argv++;
    const char *word = argc > 0 ? argv[0] : "";
    enum verb verb = verb_of(&argc, &argv);
    if (verb == VERB_COUNT)
        return unknown_verb(service, word);
    if (verb == VERB_HELP) {
        help(service, &settings);
        return 0;
    }
    if (verb == VERB_VERSION) {
        version(service);
        return 0;
    }
    if (config_read(settings.tables, settings.table_count, argc, argv, &config, &error) != OK) {
        fprintf(stderr, "weir-%s: %s\n", service->name, error.text);
        return error_exit_code(&error);
    }
    if (config_asked_help(config) || config_asked_version(config)) { /* behind other words */
        if (config_asked_help(config))
            help(service, &settings);
        else
            version(service);
        config_destroy(config);
        return 0;
    }
    int exit_code = 0;
    bool asks_ready = verb == VERB_CHECK && config_positional_count(config) == 1 &&
                      strcmp(config_positional(config, 0), "ready") == 0;
    if (asks_ready) {
        exit_code = check_ready(service, config);
    } else if (config_positional_count(config)) {
        fprintf(stderr, "weir-%s: unexpected argument \"%s\" (--help tells more)\n", service->name,
                config_positional(config, 0));
        exit_code = EXIT_USAGE;
    } else if (verb == VERB_CONFIG) {
        show(config);
    } else {
        log_prepare(service, config, name);
        const struct client_settings client = {
            .bootstrap_servers = config_text(config, "KAFKA_BOOTSTRAP_SERVERS"),
            .client_id = name,
            .config = config,
            .log = on_kafka_log,
        };
        exit_code =
            verb == VERB_CHECK ? check_run(service, config, &client) : serve(service, config, &client);
    }
    config_destroy(config);
    return exit_code;
}
