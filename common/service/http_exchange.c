/*
 * A request's way: exchange_on_target (its line is there) → exchange_begin (its headers are whole) →
 * exchange_body … → exchange_whole (all of it is there: a page is answered, a route's request is handed over
 * and its connection suspended) → http_answer (any thread; wakes the connection) → exchange_send →
 * exchange_on_completed.
 *
 * Whatever refuses a request before that is kept as its answer until the body has been read and thrown away:
 * an answer in the middle of a body would end in a reset. Only what is too large is refused at once
 * (http_guard.h).
 */
#include "service/http_exchange.h"

#include "base/clock.h"
#include "base/log.h"
#include "service/client_rate.h"
#include "service/http_stream.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    HEADERS_MAX = 100, /* of a request */
    TARGET_BYTES_MAX = 8 << 10,
    REQUEST_ID_BYTES_MAX = 128,
    BODIES_BYTES_MAX = 64 << 20, /* of all requests being read or handled */
    METHOD_BYTES_MAX = 16,       /* as much of it as the log shows */
    LOG_PATH_BYTES_MAX = 512,    /* likewise */
};

static const char draining_detail[] = "this instance is shutting down; try again";

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
void *exchange_on_target(void *owner, const char *target, struct MHD_Connection *mhd)
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

void exchange_on_completed(void *owner, struct MHD_Connection *mhd, void **context,
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

/* Of what has no end the library would send the end, as a body that HEAD must not have: it would be taken for
 * the beginning of the next answer. */
static bool listen_head(struct exchange *exchange)
{
    if (strcmp(exchange->method, "HEAD") != 0)
        return false;
    exchange->status = 200;
    exchange->response = response_new(exchange, &(struct answer){.status = 200});
    return true;
}

static void listen_to(struct exchange *exchange)
{
    struct server *server = exchange->server;
    if (is_draining(server)) {
        exchange_refuse(exchange, 503, draining_detail, 1);
        return;
    }
    if (!listen_head(exchange)) {
        if (atomic_fetch_add(&server->listener_count, 1) >= HTTP_STREAMS_MAX) {
            atomic_fetch_sub(&server->listener_count, 1);
            exchange_refuse(exchange, 503, "too many listen already", 10);
            return;
        }
        exchange->status = 200;
        exchange->response = stream_listen(exchange->endpoint->stream, exchange->mhd, listener_gone, server);
        if (!exchange->response)
            atomic_fetch_sub(&server->listener_count, 1);
    }
    if (!exchange->response)
        return;
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

enum MHD_Result exchange_on_request(void *owner, struct MHD_Connection *mhd, const char *url,
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

void exchange_on_connection(void *owner, struct MHD_Connection *mhd, void **context,
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
