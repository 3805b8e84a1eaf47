/*
 * A request's way: on_target (its line is there) → exchange_begin (its headers are whole) → exchange_body … →
 * exchange_whole (all of it is there: a page is answered, a route's request is handed over and its connection
 * suspended) → http_answer (any thread; wakes the connection) → exchange_send → on_completed.
 *
 * Whatever refuses a request before that is kept as its answer until the body has been read and thrown away:
 * an answer in the middle of a body would end in a reset. Only what is too large is refused at once
 * (http_guard.h).
 */
#include "service/http.h"

#include "base/clock.h"
#include "base/log.h"
#include "service/client_rate.h"
#include "service/http_guard.h"
#include "service/http_route.h"
#include "service/http_stream.h"

#include <assert.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
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
    HEADERS_MAX = 100, /* of a request */
    TARGET_BYTES_MAX = 8 << 10,
    REQUEST_ID_BYTES_MAX = 128,
    SEND_MS = 30000, /* an answer that a client does not take */
    CLOSE_MS = 1000, /* for the last answers to go out */
    STREAM_PATHS_MAX = 4,
    ENDPOINTS_MAX = HTTP_ROUTES_MAX + 2,
    BODIES_BYTES_MAX = 64 << 20, /* of all requests being read or handled */
    ROUTE_LABEL_BYTES_MAX = 160,
    METHOD_BYTES_MAX = 16,    /* as much of it as the log shows */
    LOG_PATH_BYTES_MAX = 512, /* likewise */
};

static const char draining_detail[] = "this instance is shutting down; try again";

enum status_class { STATUS_2XX, STATUS_3XX, STATUS_4XX, STATUS_5XX, STATUS_CLASSES };

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

/* What stands behind a path. */
struct endpoint {
    const struct route *route; /* else a page */
    const void *state;
    void (*fill)(void *owner, const struct request *request, struct answer *answer, struct buffer *body);
    void *owner;
    struct stream *stream; /* else neither */
    bool wants_token, unlimited;
    struct metric *requests[STATUS_CLASSES];
    struct metric *seconds;
};

struct server {
    struct server_settings settings;
    int listen_fd; /* -1: not ours any more */
    int port;
    int connections_max;
    struct MHD_Daemon *daemon;
    struct guard *guard;
    struct path_entry paths[ENDPOINTS_MAX];
    struct endpoint endpoints[ENDPOINTS_MAX];
    size_t path_count;
    struct endpoint other; /* for the metrics of what has no path here */
    struct stream *streams[STREAM_PATHS_MAX];
    size_t stream_count;
    atomic_int listener_count;
    struct metric *connections, *limited;
    struct client_rate *client_rate; /* NULL: no limit */
    _Atomic size_t bodies_bytes;

    pthread_mutex_t lock;
    pthread_cond_t quiet;    /* active fell to 0 */
    bool draining;           /* no more is handed over */
    size_t active;           /* whole, and their answers not out */
    struct exchange *handed; /* to settings.request, not answered */
};

struct connection {
    struct guarded guarded;
    struct server *server;
    struct client_address peer;
    struct exchange *exchange;
};

enum exchange_state {
    EXCHANGE_LINE,     /* the request's line is there   */
    EXCHANGE_BODY,     /* headers are                   */
    EXCHANGE_HANDED,   /* all is; suspended             */
    EXCHANGE_ANSWERED, /* .response goes out            */
};

struct exchange {
    struct server *server;
    struct connection *connection;
    struct MHD_Connection *mhd;
    enum exchange_state state;
    struct endpoint *endpoint;
    struct request request;
    struct buffer body;
    size_t body_counted; /* in server->bodies_bytes */
    char *room;          /* decoded text, the headers' names */
    struct header *headers;
    struct text request_id; /* of X-Request-ID, to be echoed */
    char method[METHOD_BYTES_MAX];
    struct client_address client;
    char traceparent[HEADER_TRACEPARENT_BYTES + 1];
    struct text traceparent_back; /* as it came, else as it was made: in the answer */
    struct span_context span, span_parent;
    bool spanned, span_has_parent;
    struct MHD_Response *response; /* EXCHANGE_BODY: what refuses it */
    int status;
    int64_t begun_us;
    bool active;
    struct exchange *previous, *next; /* handed */
    struct text target;
    char target_bytes[];
};

/* ---- answers */

static void header_add(struct MHD_Response *response, const char *name, struct text value)
{
    char text[TARGET_BYTES_MAX];
    if (value.length == 0 || value.length >= sizeof(text))
        return;
    memcpy(text, value.at, value.length);
    text[value.length] = '\0';
    /* The library refuses line ends: such a header is left out. */
    (void)MHD_add_response_header(response, name, text);
}

/* NULL when out of memory: the connection is then closed. */
static struct MHD_Response *response_new(const struct exchange *exchange, const struct answer *answer)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(
        answer->body.length, (void *)(uintptr_t)answer->body.at, MHD_RESPMEM_MUST_COPY);
    if (!response)
        return NULL;
    const char *type = answer->content_type    ? answer->content_type
                       : answer->status >= 400 ? "application/problem+json"
                                               : "application/json";
    if (answer->body.length)
        header_add(response, "Content-Type", text_of(type));
    header_add(response, "Location", answer->location);
    header_add(response, "X-Request-ID", exchange->request_id);
    header_add(response, "traceparent", exchange->traceparent_back);
    if (answer->retry_after_s) {
        char seconds[16];
        snprintf(seconds, sizeof(seconds), "%d", answer->retry_after_s);
        header_add(response, "Retry-After", text_of(seconds));
    }
    return response;
}

static struct MHD_Response *problem_new(const struct exchange *exchange, int status, const char *detail,
                                        int retry_after_s)
{
    struct buffer body = buffer_of(4096);
    struct json_writer writer = json_writer(&body);
    json_object_begin(&writer);
    json_member_string(&writer, "type", "about:blank");
    json_member_string(&writer, "title", MHD_get_reason_phrase_for((unsigned)status));
    json_member_int(&writer, "status", status);
    if (detail)
        json_member_string(&writer, "detail", detail);
    json_object_end(&writer);
    const struct answer answer = {
        .status = status, .body = buffer_text(&body), .retry_after_s = retry_after_s};
    struct MHD_Response *response = body.failed ? NULL : response_new(exchange, &answer);
    buffer_free(&body);
    return response;
}

/* ---- the log and traces */

static struct text path_of(const struct exchange *exchange)
{
    size_t length = 0;
    while (length < exchange->target.length && exchange->target.at[length] != '?')
        length++;
    return (struct text){exchange->target.at, length};
}

/* A query is left out: people put there what nobody else should read. */
static void exchange_log(const struct exchange *exchange, int status)
{
    enum { TRACE_ID_AT = 3, TRACE_ID_BYTES = 32 };
    enum http_log log = exchange->server->settings.log;
    if (log == HTTP_LOG_OFF || (log == HTTP_LOG_ERRORS && status < 400))
        return;
    char client[CLIENT_TEXT_BYTES_MAX];
    struct text path = path_of(exchange), trace = exchange->traceparent_back;
    if (path.length > LOG_PATH_BYTES_MAX)
        path.length = LOG_PATH_BYTES_MAX;
    trace = trace.length == HEADER_TRACEPARENT_BYTES ? (struct text){trace.at + TRACE_ID_AT, TRACE_ID_BYTES}
                                                     : TEXT("");
    const struct log_field fields[] = {
        LOG_STRING("method", exchange->method),
        LOG_TEXT("path", path),
        LOG_INT("status", status),
        LOG_INT("duration_us", clock_monotonic_us() - exchange->begun_us),
        LOG_STRING("client", client_address_print(&exchange->client, client)),
        LOG_TEXT("trace_id", trace),
    };
    log_write(status >= 500 ? LOG_WARN : LOG_INFO, "request", "answered", fields,
              sizeof(fields) / sizeof(fields[0]));
}

/* What is asked of the flow is a span; health, metrics and pages are not. Its context is what the flow goes
 * on from. */
static void exchange_trace(struct exchange *exchange)
{
    struct spans *spans = exchange->server->settings.spans;
    struct request *request = &exchange->request;
    bool came = exchange->traceparent_back.at != exchange->traceparent;
    if (!span_context_of(exchange->traceparent_back, &exchange->span))
        return;
    exchange->span_parent = exchange->span;
    exchange->span_has_parent = came;
    exchange->spanned = true;
    spans_decide(spans, came ? &exchange->span_parent : NULL, &exchange->span);
    span_id_new(exchange->span.id);
    request->traceparent = span_context_print(&exchange->span, exchange->traceparent);
    if (!came)
        exchange->traceparent_back = request->traceparent;
}

static void exchange_traced(struct exchange *exchange, int status)
{
    struct spans *spans = exchange->server->settings.spans;
    if (!exchange->spanned)
        return;
    exchange->spanned = false;
    struct span *span = spans_take(spans, SPAN_SERVER, &exchange->span,
                                   exchange->span_has_parent ? &exchange->span_parent : NULL);
    if (!span)
        return;
    const struct route *route = exchange->request.route;
    span->parent_remote = exchange->span_has_parent;
    span->end_us = clock_wall_us();
    span->start_us = span->end_us - (clock_monotonic_us() - exchange->begun_us);
    span_name(span, route->method, text_of(route->path));
    span_text(span, "http.request.method", text_of(route->method));
    span_text(span, "http.route", text_of(route->path));
    span_text(span, "url.scheme", TEXT("http"));
    span_text(span, "url.path", path_of(exchange));
    span_int(span, "server.port", exchange->server->port);
    span_int(span, "http.response.status_code", status);
    span_int(span, "http.request.body.size", (int64_t)exchange->body_counted);
    if (status >= 500) { /* 4xx is the client's failure, not this server's */
        char code[16];
        snprintf(code, sizeof(code), "%d", status);
        span_text(span, "error.type", text_of(code));
        span_fail(span, TEXT(""));
    }
    spans_give(spans, span);
}

/* From now on this is its answer; what still comes of it is thrown away. */
static void exchange_refuse(struct exchange *exchange, int status, const char *detail, int retry_after_s)
{
    exchange->status = status;
    exchange->response = problem_new(exchange, status, detail, retry_after_s);
}

/* At once, and the connection goes: returned to the library. */
static enum MHD_Result exchange_cut(struct exchange *exchange, int status, const char *detail,
                                    int retry_after_s)
{
    struct endpoint *endpoint = exchange->endpoint ? exchange->endpoint : &exchange->server->other;
    metric_add(endpoint->requests[status >= 500 ? STATUS_5XX : STATUS_4XX], 1);
    exchange_traced(exchange, status);
    exchange_log(exchange, status);
    guard_refuse(exchange->server->guard, &exchange->connection->guarded, status,
                 MHD_get_reason_phrase_for((unsigned)status), detail, retry_after_s);
    return MHD_NO;
}

static bool is_draining(struct server *server)
{
    pthread_mutex_lock(&server->lock);
    bool draining = server->draining;
    pthread_mutex_unlock(&server->lock);
    return draining;
}

static enum MHD_Result exchange_send(struct exchange *exchange)
{
    struct server *server = exchange->server;
    if (!exchange->response)
        return MHD_NO;
    bool stream = exchange->endpoint && exchange->endpoint->stream && exchange->status == 200;
    if (!guard_enter(server->guard, &exchange->connection->guarded, stream ? GUARD_STREAM : GUARD_SENDING))
        return MHD_NO;
    struct endpoint *endpoint = exchange->endpoint ? exchange->endpoint : &server->other;
    int class = exchange->status / 100;
    metric_add(endpoint->requests[class < 2 || class > 5 ? STATUS_5XX : class - 2], 1);
    metric_observe(endpoint->seconds, (double)(clock_monotonic_us() - exchange->begun_us) / 1e6);
    exchange_traced(exchange, exchange->status);
    exchange_log(exchange, exchange->status);
    if (is_draining(server))
        (void)MHD_add_response_header(exchange->response, "Connection", "close");
    exchange->state = EXCHANGE_ANSWERED;
    enum MHD_Result queued =
        MHD_queue_response(exchange->mhd, (unsigned)exchange->status, exchange->response);
    MHD_destroy_response(exchange->response);
    exchange->response = NULL;
    return queued;
}

/* Takes it off the list of those that are being handled; false when that was done already. */
static bool unhand(struct exchange *exchange)
{
    struct server *server = exchange->server;
    pthread_mutex_lock(&server->lock);
    bool was = exchange->previous || exchange->next || server->handed == exchange;
    if (was) {
        if (exchange->previous)
            exchange->previous->next = exchange->next;
        else
            server->handed = exchange->next;
        if (exchange->next)
            exchange->next->previous = exchange->previous;
        exchange->previous = exchange->next = NULL;
    }
    pthread_mutex_unlock(&server->lock);
    return was;
}

void http_answer(struct exchange *exchange, const struct answer *answer)
{
    bool was = unhand(exchange);
    assert(was && answer->status >= 200 && answer->status < 600);
    (void)was;
    exchange->status = answer->status;
    if (answer->status >= 400 && answer->body.length == 0)
        exchange->response = problem_new(exchange, answer->status, NULL, answer->retry_after_s);
    else
        exchange->response = response_new(exchange, answer);
    MHD_resume_connection(exchange->mhd);
}

/* ---- requests */

static void exchange_free(struct exchange *exchange)
{
    struct server *server = exchange->server;
    if (exchange->response)
        MHD_destroy_response(exchange->response);
    atomic_fetch_sub(&server->bodies_bytes, exchange->body_counted);
    json_decref(exchange->request.json);
    free(exchange->request.plain);
    buffer_free(&exchange->body);
    free(exchange->headers);
    free(exchange->room);
    exchange->connection->exchange = NULL;
    if (exchange->active) {
        pthread_mutex_lock(&server->lock);
        if (--server->active == 0)
            pthread_cond_broadcast(&server->quiet);
        pthread_mutex_unlock(&server->lock);
    }
    free(exchange);
}

/* The library calls this with the request's line, before it has decoded anything of it. */
static void *on_target(void *owner, const char *target, struct MHD_Connection *mhd)
{
    struct server *server = owner;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct connection *connection = info ? info->socket_context : NULL;
    if (!connection)
        return NULL;
    if (connection->exchange) /* its end was not told */
        exchange_free(connection->exchange);
    size_t length = strnlen(target, TARGET_BYTES_MAX + 1);
    struct exchange *exchange = calloc(1, sizeof(*exchange) + length);
    if (!exchange)
        return NULL;
    exchange->server = server;
    exchange->connection = connection;
    exchange->mhd = mhd;
    exchange->client = connection->peer;
    exchange->begun_us = clock_monotonic_us();
    exchange->body = buffer_of(REQUEST_BODY_BYTES_MAX);
    memcpy(exchange->target_bytes, target, length);
    exchange->target = (struct text){exchange->target_bytes, length};
    connection->exchange = exchange;
    if (!guard_enter(server->guard, &connection->guarded, GUARD_READING))
        exchange->status = 408; /* exchange_begin() will see that it is over */
    return exchange;
}

static void on_completed(void *owner, struct MHD_Connection *mhd, void **context,
                         enum MHD_RequestTerminationCode how)
{
    struct exchange *exchange = *context;
    (void)owner, (void)mhd, (void)how;
    *context = NULL;
    if (!exchange)
        return;
    bool open = guard_enter(exchange->server->guard, &exchange->connection->guarded, GUARD_IDLE);
    (void)open; /* where not, the library will see that */
    exchange_free(exchange);
}

struct gathered {
    struct exchange *exchange;
    size_t count, bytes, name_bytes;
    char *names; /* NULL: only count */
};

static enum MHD_Result gather(void *owner, enum MHD_ValueKind kind, const char *name, const char *value)
{
    struct gathered *gathered = owner;
    struct text name_text = text_of(name), value_text = text_of(value ? value : "");
    (void)kind;
    if (gathered->names && gathered->count < HEADERS_MAX) {
        for (size_t i = 0; i < name_text.length; i++)
            gathered->names[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] + 32 : name[i]);
        gathered->exchange->headers[gathered->count] =
            (struct header){{gathered->names, name_text.length}, value_text};
        gathered->names += name_text.length;
    }
    gathered->count++;
    gathered->name_bytes += name_text.length;
    gathered->bytes += name_text.length + value_text.length + 4;
    return MHD_YES;
}

/* Headers into exchange->request; room for all that is decoded. False when refused. */
static bool exchange_headers(struct exchange *exchange)
{
    struct gathered gathered = {.exchange = exchange};
    (void)MHD_get_connection_values(exchange->mhd, MHD_HEADER_KIND, gather, &gathered);
    if (gathered.count > HEADERS_MAX || gathered.bytes > HTTP_HEADER_BYTES_MAX) {
        exchange_refuse(exchange, 431, "the headers are too many or too large", 0);
        return false;
    }
    exchange->headers = calloc(gathered.count + 1, sizeof(*exchange->headers));
    exchange->room = malloc(exchange->target.length + gathered.name_bytes + gathered.bytes + 1);
    if (!exchange->headers || !exchange->room) {
        exchange_refuse(exchange, 503, "out of memory", 1);
        return false;
    }
    gathered = (struct gathered){.exchange = exchange, .names = exchange->room + exchange->target.length};
    (void)MHD_get_connection_values(exchange->mhd, MHD_HEADER_KIND, gather, &gathered);
    exchange->request.headers = exchange->headers;
    exchange->request.header_count = gathered.count;
    return true;
}

/* The header, or empty; *ret_many when it is there more than once. */
static struct text header_once(const struct exchange *exchange, const char *name, bool *ret_many)
{
    struct text found = {NULL, 0};
    *ret_many = false;
    for (size_t i = 0; i < exchange->request.header_count; i++)
        if (text_is(exchange->headers[i].name, name)) {
            *ret_many = found.at != NULL;
            found = exchange->headers[i].value;
        }
    return found;
}

/* False when its client has sent too many. */
static bool exchange_limit(struct exchange *exchange)
{
    struct server *server = exchange->server;
    if (!server->client_rate || (exchange->endpoint && exchange->endpoint->unlimited))
        return true;
    int wait_s = client_rate_take(server->client_rate, &exchange->client, clock_monotonic_us());
    if (wait_s == 0)
        return true;
    metric_add(server->limited, 1);
    exchange_refuse(exchange, 429, "too many requests from this address", wait_s);
    return false;
}

/* Before its body is looked at, so that nobody without the token hears what is wrong with it. */
static bool exchange_authorize(struct exchange *exchange)
{
    if (!exchange->endpoint->wants_token)
        return true;
    switch (bearer_look(&exchange->server->settings.api_token, &exchange->request)) {
    case BEARER_RIGHT:
        return true;
    case BEARER_MISSING:
        exchange_refuse(exchange, 401, "Authorization: Bearer and the API_TOKEN are wanted", 0);
        break;
    case BEARER_WRONG:
        exchange_refuse(exchange, 401, "not the API_TOKEN", 0);
        break;
    }
    if (exchange->response)
        header_add(exchange->response, "WWW-Authenticate", TEXT("Bearer"));
    return false;
}

/* What is known from the headers alone. The room behind the names is for the values of two headers. */
static bool exchange_describe(struct exchange *exchange)
{
    struct request *request = &exchange->request;
    char *room = exchange->room + exchange->target.length;
    for (size_t i = 0; i < request->header_count; i++)
        room += exchange->headers[i].name.length;
    bool many;

    struct text id = header_once(exchange, "x-request-id", &many);
    if (text_is_printable(id, REQUEST_ID_BYTES_MAX))
        exchange->request_id = id;
    struct text type = header_once(exchange, "content-type", &many);
    request->content_type = media_type(type, room);
    room += type.length;

    struct text key = header_once(exchange, "idempotency-key", &many);
    bool has_key = key.at && exchange->endpoint && exchange->endpoint->route &&
                   exchange->endpoint->route->kind == ROUTE_WRITE;
    bool key_valid = !has_key || (!many && idempotency_key_parse(key, room, &request->idempotency_key));
    /* Not made of the key: that is forgotten after a day, and may then name another request, while the ids of
     * the events that were made of the first one are known for INBOX_AGE. */
    request->id = id_new();

    struct text traceparent = header_once(exchange, "traceparent", &many);
    request->traceparent = !many && traceparent_valid(traceparent)
                               ? traceparent
                               : traceparent_next(TEXT(""), request->id, exchange->traceparent);
    exchange->traceparent_back = request->traceparent;
    if (exchange->server->settings.spans && exchange->endpoint && request->route)
        exchange_trace(exchange);
    if (!exchange_limit(exchange))
        return false;
    if (!key_valid) {
        exchange_refuse(exchange, 400,
                        "Idempotency-Key: one key of 1 to 255 printable ASCII characters, in quotes or bare",
                        0);
        return false;
    }
    return true;
}

static bool exchange_find(struct exchange *exchange, const char *method)
{
    struct server *server = exchange->server;
    struct path_found found;
    enum path_match match =
        exchange->target.length > TARGET_BYTES_MAX
            ? PATH_MALFORMED
            : path_find(server->paths, server->path_count, method, exchange->target, exchange->room, &found);
    struct request *request = &exchange->request;
    if (match == PATH_FOUND) {
        exchange->endpoint = &server->endpoints[found.entry - server->paths];
        request->route = exchange->endpoint->route;
        memcpy(request->parameters, found.parameters, sizeof(request->parameters));
        memcpy(request->query, found.query, sizeof(request->query));
        request->query_count = found.query_count;
    }
    /* Before anything is refused: every answer bears the ids that came. */
    if (!exchange_describe(exchange))
        return false;
    switch (match) {
    case PATH_FOUND:
        return exchange_authorize(exchange);
    case PATH_UNKNOWN:
        exchange_refuse(exchange, 404, "there is nothing at this path", 0);
        return false;
    case PATH_METHOD:
        exchange_refuse(exchange, 405, "this path does not take this method", 0);
        if (exchange->response)
            header_add(exchange->response, "Allow", text_of(found.allow));
        return false;
    case PATH_MALFORMED:
        exchange_refuse(exchange, 400, "the path or its query is malformed", 0);
        return false;
    }
    return false;
}

static enum MHD_Result exchange_begin(struct exchange *exchange, const char *method)
{
    if (exchange->status)
        return MHD_NO;
    exchange->state = EXCHANGE_BODY;
    snprintf(exchange->method, sizeof(exchange->method), "%s", method);
    if (exchange_headers(exchange)) {
        if (exchange->server->settings.proxies)
            exchange->client = client_behind(exchange->server->settings.proxies, exchange->client,
                                             exchange->headers, exchange->request.header_count);
        (void)exchange_find(exchange, method);
    }
    bool lengths, codings;
    struct text length = header_once(exchange, "content-length", &lengths);
    struct text coding = header_once(exchange, "transfer-encoding", &codings);
    int64_t bytes = 0;
    /* Two readings of where the body ends let a request hide in another (RFC 9112, 6.3). */
    if (lengths || (length.at && (coding.at || codings)))
        return exchange_cut(exchange, 400, "the length of the body is said twice", 0);
    if (length.at && (!text_to_int64(length, &bytes) || bytes > REQUEST_BODY_BYTES_MAX))
        return exchange_cut(exchange, 413, "the body is larger than 1 MiB", 0);
    return MHD_YES;
}

static enum MHD_Result exchange_body(struct exchange *exchange, const char *bytes, size_t count)
{
    struct server *server = exchange->server;
    if (exchange->body_counted + count > REQUEST_BODY_BYTES_MAX)
        return exchange_cut(exchange, 413, "the body is larger than 1 MiB", 0);
    exchange->body_counted += count;
    if (atomic_fetch_add(&server->bodies_bytes, count) + count > BODIES_BYTES_MAX)
        return exchange_cut(exchange, 503, "too many large requests at once", 1);
    if (exchange->response)
        return MHD_YES; /* refused: only counted */
    buffer_add(&exchange->body, bytes, count);
    if (exchange->body.failed)
        return exchange_cut(exchange, 503, "out of memory", 1);
    return MHD_YES;
}

/* The body as a JSON object, where the route wants one. False when refused. */
static bool exchange_json(struct exchange *exchange)
{
    struct request *request = &exchange->request;
    struct error error;
    if (!request->route->json)
        return true;
    if (request->route->read)
        request->plain = request->route->read(request->body);
    if (!request->plain && json_read_request(request->body, &request->json, &error) != OK) {
        exchange_refuse(exchange, json_is_ambiguous(&error) ? 422 : 400, error.text, 0);
        return false;
    }
    if (!request->plain && !json_is_object(request->json)) {
        exchange_refuse(exchange, 400, "the body is not a JSON object", 0);
        return false;
    }
    bool from_page = request_header(request, "origin").length > 0;
    if (from_page && request->content_type.length && !media_type_is_json(request->content_type)) {
        /* JSON under another name: a browser would send that across sites without asking. From all others
         * (curl -d) it is welcome. */
        exchange_refuse(exchange, 415, "Content-Type: application/json is wanted", 0);
        return false;
    }
    return true;
}

static bool exchange_admit(struct exchange *exchange)
{
    const struct route *route = exchange->request.route;
    const char *detail = NULL;
    int status = route->admit ? route->admit(exchange->endpoint->state, &exchange->request, &detail) : 0;
    if (status)
        exchange_refuse(exchange, status, detail, 0);
    return status == 0;
}

static enum MHD_Result exchange_hand(struct exchange *exchange)
{
    struct server *server = exchange->server;
    pthread_mutex_lock(&server->lock);
    bool draining = server->draining;
    if (!draining) {
        exchange->state = EXCHANGE_HANDED;
        exchange->next = server->handed;
        if (server->handed)
            server->handed->previous = exchange;
        server->handed = exchange;
        MHD_suspend_connection(exchange->mhd);
    }
    pthread_mutex_unlock(&server->lock);
    if (draining) {
        exchange_refuse(exchange, 503, draining_detail, 1);
        return exchange_send(exchange);
    }
    server->settings.request(server->settings.owner, exchange, &exchange->request);
    return MHD_YES;
}

static void page(struct exchange *exchange)
{
    struct buffer body = buffer_of(ANSWER_BODY_BYTES_MAX);
    struct answer answer = {.status = 200};
    exchange->endpoint->fill(exchange->endpoint->owner, &exchange->request, &answer, &body);
    if (body.failed) {
        exchange_refuse(exchange, 500, "the page is too large", 0);
    } else {
        if (body.length)
            answer.body = buffer_text(&body);
        exchange->status = answer.status;
        exchange->response = response_new(exchange, &answer);
    }
    buffer_free(&body);
}

static void listener_gone(void *owner)
{
    struct server *server = owner;
    atomic_fetch_sub(&server->listener_count, 1);
}

static void listen_to(struct exchange *exchange)
{
    struct server *server = exchange->server;
    if (is_draining(server)) {
        exchange_refuse(exchange, 503, draining_detail, 1);
        return;
    }
    if (atomic_fetch_add(&server->listener_count, 1) >= HTTP_STREAMS_MAX) {
        atomic_fetch_sub(&server->listener_count, 1);
        exchange_refuse(exchange, 503, "too many listen already", 10);
        return;
    }
    exchange->status = 200;
    exchange->response = stream_listen(exchange->endpoint->stream, exchange->mhd, listener_gone, server);
    if (!exchange->response) {
        atomic_fetch_sub(&server->listener_count, 1);
        return;
    }
    header_add(exchange->response, "Content-Type", TEXT("text/event-stream"));
    header_add(exchange->response, "Cache-Control", TEXT("no-cache"));
}

static enum MHD_Result exchange_whole(struct exchange *exchange)
{
    struct server *server = exchange->server;
    if (!guard_enter(server->guard, &exchange->connection->guarded, GUARD_HANDLING))
        return MHD_NO;
    if (!exchange->endpoint || !exchange->endpoint->stream) {
        exchange->active = true;
        pthread_mutex_lock(&server->lock);
        server->active++;
        pthread_mutex_unlock(&server->lock);
    }
    exchange->request.body = buffer_text(&exchange->body);
    if (!exchange->response && exchange->endpoint->route) {
        if (exchange_admit(exchange) && exchange_json(exchange))
            return exchange_hand(exchange);
    } else if (!exchange->response && exchange->endpoint->stream) {
        listen_to(exchange);
    } else if (!exchange->response) {
        page(exchange);
    }
    return exchange_send(exchange);
}

static enum MHD_Result on_request(void *owner, struct MHD_Connection *mhd, const char *url,
                                  const char *method, const char *version, const char *bytes, size_t *count,
                                  void **context)
{
    struct exchange *exchange = *context;
    (void)owner, (void)mhd, (void)url, (void)version;
    if (!exchange)
        return MHD_NO; /* there was no memory for it */
    switch (exchange->state) {
    case EXCHANGE_LINE:
        return exchange_begin(exchange, method);
    case EXCHANGE_BODY:
        if (*count == 0)
            return exchange_whole(exchange);
        if (exchange_body(exchange, bytes, *count) == MHD_NO)
            return MHD_NO;
        *count = 0;
        return MHD_YES;
    case EXCHANGE_HANDED:
        return exchange_send(exchange);
    case EXCHANGE_ANSWERED:
        break;
    }
    return MHD_NO;
}

static void on_connection(void *owner, struct MHD_Connection *mhd, void **context,
                          enum MHD_ConnectionNotificationCode what)
{
    struct server *server = owner;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        /* From 1.0 on the second answer is written where the first one was. */
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
        int fd = info ? info->connect_fd : -1;
        struct connection *connection = info ? calloc(1, sizeof(*connection)) : NULL;
        if (connection) {
            info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
            connection->server = server;
            connection->peer = client_address_of(info ? info->client_addr : NULL);
            guard_add(server->guard, &connection->guarded, fd);
        }
        *context = connection;
        return;
    }
    struct connection *connection = *context;
    *context = NULL;
    if (!connection)
        return;
    if (connection->exchange) /* its end was not told, as when its line was all that came */
        exchange_free(connection->exchange);
    guard_remove(server->guard, &connection->guarded);
    free(connection);
}

/* ---- open and close */

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
    assert(!server->daemon && server->path_count < ENDPOINTS_MAX);
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
    assert(server->stream_count < STREAM_PATHS_MAX);
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
        MHD_USE_POLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC, 0, NULL, NULL, on_request,
        server, MHD_OPTION_LISTEN_SOCKET, server->listen_fd, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)server->connections_max, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)(HTTP_IDLE_MS / 1000),
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES, MHD_OPTION_THREAD_STACK_SIZE,
        (size_t)STACK_BYTES, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_URI_LOG_CALLBACK, on_target, server,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, server, MHD_OPTION_NOTIFY_CONNECTION, on_connection,
        server, MHD_OPTION_ARRAY, pool, MHD_OPTION_END);
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
