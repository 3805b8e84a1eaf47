/* The server: opened, given its routes, drained, closed. What becomes of a request: http_exchange.c. */
#include "service/http_exchange.h"

#include "base/log.h"
#include "service/client_rate.h"
#include "service/http_stream.h"

#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    THREADS = 2,
    STACK_BYTES = 512 << 10,
    CONNECTION_BYTES = 2 * HTTP_HEADER_BYTES_MAX +
                       (16 << 10), /* the library's, for headers both ways and a piece of the body; so
                                    * much that headers far too large are still read, and refused here */
    FILES_KEPT = 256,              /* descriptors for all that is no connection */
    CONNECTIONS_MIN = 64,
    SEND_MS = 30000, /* an answer that a client does not take */
    CLOSE_MS = 1000, /* for the last answers to go out */
    ROUTE_LABEL_BYTES_MAX = 160,
};

const struct metric_family http_metrics[] = {
    {"weir_http_requests_total", METRIC_COUNTER, "route,status",
     "Requests answered, by route and class of status.", NULL},
    {"weir_http_seconds", METRIC_HISTOGRAM, "route", "From a request's headers to its answer.",
     metric_seconds_bounds},
    {"weir_http_connections", METRIC_GAUGE, "", "Connections that are open.", NULL},
    {"weir_http_limited_total", METRIC_COUNTER, "", "Requests refused because their client sent too many.",
     NULL},
    {0},
};
enum { METRIC_REQUESTS, METRIC_SECONDS, METRIC_CONNECTIONS, METRIC_LIMITED };

/* ---- listening */

static void split_listen(const char *listen_at, char *host, size_t host_bytes, char *port, size_t port_bytes)
{
    const char *colon = strrchr(listen_at, ':');
    size_t length = colon ? (size_t)(colon - listen_at) : strlen(listen_at);
    bool bracketed = length >= 2 && listen_at[0] == '[' && listen_at[length - 1] == ']';
    snprintf(host, host_bytes, "%.*s", (int)(bracketed ? length - 2 : length), listen_at + bracketed);
    snprintf(port, port_bytes, "%s", colon ? colon + 1 : "");
}

static enum outcome listen_failed(const char *listen_at, int why, struct error *error)
{
    if (why == EADDRINUSE) {
        (void)error_outage(error, "port-in-use",
                           "HTTP_LISTEN: %s is in use; stop what listens there, or give HTTP_LISTEN another "
                           "port (0 picks one)",
                           listen_at);
        error->exit_code = EXIT_UNREACHABLE;
        return OUTAGE;
    }
    (void)error_fatal(error, "listen", "HTTP_LISTEN: cannot listen on %s: %s", listen_at, strerror(why));
    error->exit_code = EXIT_CONFIG;
    return FATAL;
}

static enum outcome listen_open(const char *listen_at, int *ret_fd, int *ret_port, struct error *error)
{
    char host[256], port[16];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *found = NULL;
    split_listen(listen_at, host, sizeof(host), port, sizeof(port));
    int failed = getaddrinfo(host[0] ? host : NULL, port, &hints, &found);
    if (failed) {
        (void)error_fatal(error, "listen", "HTTP_LISTEN: %s: %s", listen_at, gai_strerror(failed));
        error->exit_code = EXIT_CONFIG;
        return FATAL;
    }
    int fd = -1, why = EADDRNOTAVAIL, on = 1;
    for (const struct addrinfo *at = found; at && fd < 0; at = at->ai_next) {
        fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd >= 0) {
            setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
            if (bind(fd, at->ai_addr, at->ai_addrlen) == 0 && listen(fd, HTTP_CONNECTIONS_MAX) == 0)
                break;
            why = errno;
            close(fd);
            fd = -1;
        } else {
            why = errno;
        }
    }
    freeaddrinfo(found);
    if (fd < 0)
        return listen_failed(listen_at, why, error);
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);
    char used[16] = "0";
    if (getsockname(fd, (struct sockaddr *)&address, &length) == 0)
        (void)getnameinfo((struct sockaddr *)&address, length, NULL, 0, used, sizeof(used), NI_NUMERICSERV);
    int64_t number = 0;
    (void)text_to_int64(text_of(used), &number);
    *ret_port = (int)number;
    *ret_fd = fd;
    return OK;
}

/* Descriptors for as many connections as we want to take; where there are not so many, fewer connections. */
static int connections_allowed(void)
{
    const rlim_t wanted = HTTP_CONNECTIONS_MAX + FILES_KEPT;
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return CONNECTIONS_MIN;
    if (limit.rlim_cur < wanted) {
        limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
            return CONNECTIONS_MIN;
    }
    if (limit.rlim_cur >= wanted)
        return HTTP_CONNECTIONS_MAX;
    int connections =
        limit.rlim_cur > FILES_KEPT + CONNECTIONS_MIN ? (int)limit.rlim_cur - FILES_KEPT : CONNECTIONS_MIN;
    log_warn("http", "the limit of open files (ulimit -Hn) allows fewer connections at once; more will wait",
             LOG_INT("files", (int64_t)limit.rlim_cur), LOG_INT("connections", connections),
             LOG_INT("files_wanted", (int64_t)wanted));
    return connections;
}

static void meter(struct server *server, struct endpoint *endpoint, const char *method, const char *path)
{
    static const char *const classes[STATUS_CLASSES] = {"2xx", "3xx", "4xx", "5xx"};
    char label[ROUTE_LABEL_BYTES_MAX];
    if (!server->settings.metrics)
        return;
    snprintf(label, sizeof(label), "%s%s%s", method, method[0] ? " " : "", path);
    for (int class = 0; class < STATUS_CLASSES; class ++)
        endpoint->requests[class] = metrics_get(server->settings.metrics, &http_metrics[METRIC_REQUESTS],
                                                label, classes[class], NULL);
    endpoint->seconds = metrics_get(server->settings.metrics, &http_metrics[METRIC_SECONDS], label, NULL);
}

static void collect(void *owner)
{
    struct server *server = owner;
    metric_set(server->connections, (double)guard_count(server->guard));
}

/* ---- open and close */

enum outcome http_open(const struct server_settings *settings, struct server **ret, struct error *error)
{
    struct server *server = calloc(1, sizeof(*server));
    if (!server)
        return error_fatal(error, "memory", "http: out of memory");
    server->settings = *settings;
    server->listen_fd = -1;
    pthread_mutex_init(&server->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&server->quiet, &monotonic);
    pthread_condattr_destroy(&monotonic);

    server->connections_max = connections_allowed();
    if (settings->connections_max && settings->connections_max < server->connections_max)
        server->connections_max = settings->connections_max;
    meter(server, &server->other, "", "other");
    const struct guard_settings guard = {
        .idle_ms = HTTP_IDLE_MS,
        .request_ms = settings->request_ms ? settings->request_ms : HTTP_REQUEST_MS,
        .send_ms = SEND_MS,
        .timed_out = server->other.requests[STATUS_4XX],
    };
    enum outcome outcome = listen_open(settings->listen, &server->listen_fd, &server->port, error);
    if (outcome == OK && settings->client_rate)
        outcome = client_rate_open(settings->client_rate,
                                   settings->client_burst ? settings->client_burst : settings->client_rate,
                                   CLIENT_RATE_CLIENTS_MAX, &server->client_rate, error);
    if (outcome == OK)
        outcome = guard_open(&guard, &server->guard, error);
    if (outcome != OK) {
        http_close(server);
        return outcome;
    }
    if (settings->metrics) {
        server->connections = metrics_get(settings->metrics, &http_metrics[METRIC_CONNECTIONS], NULL);
        server->limited = metrics_get(settings->metrics, &http_metrics[METRIC_LIMITED], NULL);
        metrics_on_collect(settings->metrics, collect, server);
    }
    *ret = server;
    return OK;
}

int http_port(const struct server *server)
{
    return server->port;
}

static struct endpoint *endpoint_add(struct server *server, const char *method, const char *path)
{
    assert(!server->daemon && server->path_count < SERVER_ENDPOINTS_MAX);
    struct endpoint *endpoint = &server->endpoints[server->path_count];
    server->paths[server->path_count++] = (struct path_entry){.method = method, .path = path};
    for (const char *const *unlimited = server->settings.unlimited_paths; unlimited && *unlimited;
         unlimited++)
        endpoint->unlimited |= strcmp(path, *unlimited) == 0;
    meter(server, endpoint, method, path);
    return endpoint;
}

void http_add_routes(struct server *server, const struct route *routes, const void *state)
{
    for (const struct route *route = routes; route && route->path; route++) {
        struct endpoint *endpoint = endpoint_add(server, route->method, route->path);
        assert(route->admit || !route->admits_alone);
        endpoint->route = route;
        endpoint->state = state;
        endpoint->wants_token =
            server->settings.api_token.given && strcmp(route->method, "GET") != 0 && !route->admits_alone;
    }
}

void http_add_page(struct server *server, const char *path,
                   void (*fill)(void *owner, const struct request *request, struct answer *answer,
                                struct buffer *body),
                   void *owner)
{
    struct endpoint *endpoint = endpoint_add(server, "GET", path);
    endpoint->fill = fill;
    endpoint->owner = owner;
}

void http_add_stream(struct server *server, const char *path, int interval_ms,
                     void (*next)(void *owner, struct buffer *into), void *owner)
{
    assert(server->stream_count < SERVER_STREAM_PATHS_MAX);
    struct stream *stream = stream_new(path, interval_ms, next, owner);
    assert(stream); /* at start only */
    endpoint_add(server, "GET", path)->stream = stream;
    server->streams[server->stream_count++] = stream;
}

enum outcome http_start(struct server *server, struct error *error)
{
    unsigned threads = server->settings.thread_count > 0 ? (unsigned)server->settings.thread_count : THREADS;
    const struct MHD_OptionItem pool[] = {
        {threads > 1 ? MHD_OPTION_THREAD_POOL_SIZE : MHD_OPTION_END, (intptr_t)threads, NULL},
        {MHD_OPTION_END, 0, NULL},
    };
    for (size_t i = 0; i < server->stream_count; i++) {
        enum outcome outcome = stream_start(server->streams[i], error);
        if (outcome != OK)
            return outcome;
    }
    server->daemon = MHD_start_daemon(
        MHD_USE_POLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC, 0, NULL, NULL,
        exchange_on_request, server, MHD_OPTION_LISTEN_SOCKET, server->listen_fd, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)server->connections_max, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)(HTTP_IDLE_MS / 1000),
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES, MHD_OPTION_THREAD_STACK_SIZE,
        (size_t)STACK_BYTES, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_URI_LOG_CALLBACK, exchange_on_target,
        server, MHD_OPTION_NOTIFY_COMPLETED, exchange_on_completed, server, MHD_OPTION_NOTIFY_CONNECTION,
        exchange_on_connection, server, MHD_OPTION_ARRAY, pool, MHD_OPTION_END);
    if (!server->daemon)
        return error_fatal(error, "http", "cannot start the HTTP server: %s", strerror(errno));
    return OK;
}

void http_drain(struct server *server)
{
    pthread_mutex_lock(&server->lock);
    bool was = server->draining;
    server->draining = true;
    pthread_mutex_unlock(&server->lock);
    for (size_t i = 0; i < server->stream_count && !was; i++)
        stream_end(server->streams[i]);
}

static void listen_close(struct server *server)
{
    if (server->listen_fd < 0)
        return;
    if (server->daemon)
        (void)MHD_quiesce_daemon(server->daemon);
    /* A thread that is in poll() on it keeps it open behind a close: only this makes it refuse at once. */
    shutdown(server->listen_fd, SHUT_RDWR);
    close(server->listen_fd);
    server->listen_fd = -1;
}

/* Waits until all answers are out, at most wait_ms. */
static void wait_until_quiet(struct server *server, int wait_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += wait_ms % 1000 * 1000000L;
    until.tv_sec += wait_ms / 1000 + until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&server->lock);
    while (server->active && pthread_cond_timedwait(&server->quiet, &server->lock, &until) == 0)
        ;
    pthread_mutex_unlock(&server->lock);
}

/* Nobody will answer these any more. The library must not be stopped while a connection is suspended. */
static void answer_the_rest(struct server *server)
{
    for (;;) {
        pthread_mutex_lock(&server->lock);
        struct exchange *exchange = server->handed;
        pthread_mutex_unlock(&server->lock);
        if (!exchange)
            return;
        http_answer(exchange, &(struct answer){.status = 503, .retry_after_s = 1});
    }
}

void http_close(struct server *server)
{
    if (!server)
        return;
    http_drain(server);
    listen_close(server);
    if (server->daemon) {
        answer_the_rest(server);
        wait_until_quiet(server, CLOSE_MS);
        /* First: 0.9.75 falls over a malformed request that it reads while it stops. */
        guard_shut(server->guard, CLOSE_MS);
        MHD_stop_daemon(server->daemon);
    }
    for (size_t i = 0; i < server->stream_count; i++)
        stream_destroy(server->streams[i]);
    guard_close(server->guard);
    client_rate_close(server->client_rate);
    pthread_cond_destroy(&server->quiet);
    pthread_mutex_destroy(&server->lock);
    free(server);
}
