/*
 * http: the HTTP server: routes, limits, and one answer a request.
 *
 * Poll with a pool of threads, never MHD_USE_EPOLL (0.9.75 hangs when a wait returns 128 events). Limits:
 * HTTP_CONNECTIONS_MAX connections, more wait in the listen queue; body at most REQUEST_BODY_BYTES_MAX (413);
 * a request that is not whole after HTTP_REQUEST_MS is 408 and closed, however slowly its bytes come; headers
 * at most HTTP_HEADER_BYTES_MAX (431).
 *
 * Errors are application/problem+json, but for what the library refuses before it lets anybody see the
 * request, in HTML of its own: a request line or header that is no HTTP, no Host (400), headers above twice
 * the bound (431). It has no way to change that.
 */
#ifndef SERVICE_HTTP_H
#define SERVICE_HTTP_H

#include "base/metrics.h"
#include "base/span.h"
#include "flow/handler.h"
#include "service/bearer.h"
#include "service/client.h"

enum {
    HTTP_CONNECTIONS_MAX = 4096,
    HTTP_REQUEST_MS = 10000,
    HTTP_IDLE_MS = 30000,
    HTTP_HEADER_BYTES_MAX = 32 << 10,
    HTTP_ROUTES_MAX = 64,
    HTTP_STREAMS_MAX = 64, /* server-sent events at once; more: 503 */
};

struct server;
struct exchange; /* one request being answered; suspended until http_answer() */

extern const struct metric_family http_metrics[]; /* ended by .name == NULL */

/* Which requests are a line in the log, of the station "request". What the library refuses, or was cut off
 * before it was whole (408), is none of them. */
enum http_log { HTTP_LOG_OFF, HTTP_LOG_ERRORS /* answered 400 and above */, HTTP_LOG_ALL };

struct server_settings {
    const char *listen;      /* host:port; port 0 picks one */
    int thread_count;        /* default 2 */
    int request_ms;          /* default HTTP_REQUEST_MS; tests take less      */
    int connections_max;     /* default HTTP_CONNECTIONS_MAX; tests take less */
    struct metrics *metrics; /* http_metrics[] are kept in it; lent, may be NULL */
    struct spans *spans;     /* requests of the flow's routes are spans; lent, may be NULL */
    /* Where given: wanted for every route that is no GET and does not admit alone; else 401. */
    struct bearer_token api_token;
    enum http_log log;
    /* Requests a second of one client, and at once; 0: no limit. Past it 429. */
    int64_t client_rate, client_burst;
    const char *const *unlimited_paths; /* pages that this does not count; ended by NULL, may be NULL */
    const struct client_networks
        *proxies; /* whose X-Forwarded-For is believed; lent, may be NULL: nobody's */
    void *owner;
    /*
     * On an HTTP thread: a whole, well-formed request of a route of the flow. Must lead to exactly one
     * http_answer(), from any thread, before http_close(). request lives until then. Its traceparent is never
     * empty: where none came, one is made from its id. Where there are spans it is that of the request's own.
     */
    void (*request)(void *owner, struct exchange *exchange, const struct request *request);
};
/* Binds and listens, so that clients wait in the queue until http_start(). Port in use: OUTAGE,
 * EXIT_UNREACHABLE, and what to do; an address that is not ours: FATAL, EXIT_CONFIG. */
MUST_CHECK enum outcome http_open(const struct server_settings *settings, struct server **ret,
                                  struct error *error);
int http_port(const struct server *server); /* the one in use */
/* Routes that go to settings.request; before http_start(). state is handed to route->admit(). */
void http_add_routes(struct server *server, const struct route *routes, const void *state);
/* A page answered on the HTTP thread at once: health, metrics, static text. fill sets *answer; text it makes
 * goes into body (freed by the server). */
void http_add_page(struct server *server, const char *path,
                   void (*fill)(void *owner, const struct request *request, struct answer *answer,
                                struct buffer *body),
                   void *owner);
/* A stream of server-sent events: next() is called about every interval_ms on a thread of its own and appends
 * "data: …\n\n". */
void http_add_stream(struct server *server, const char *path, int interval_ms,
                     void (*next)(void *owner, struct buffer *into), void *owner);
MUST_CHECK enum outcome http_start(struct server *server, struct error *error);
void http_answer(struct exchange *exchange, const struct answer *answer); /* copies; any thread */
/* Requests in hand go on; streams end. The port stays open until http_close(), so that whoever asks hears why
 * nothing is taken: pages are answered, all else is 503 with Retry-After, each connection closed after it. */
void http_drain(struct server *server);
/* The port closes. What was not answered by then is answered 503. Waits up to a second for answers to go out.
 * Collects no metrics from then on: close it before the metrics' last page is asked for. Accepts NULL. */
void http_close(struct server *server);

#endif
