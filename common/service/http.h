/*
 * http: the HTTP server (the only file that includes microhttpd.h): routes, limits, and one answer a request.
 *
 * Poll with a pool of threads, never MHD_USE_EPOLL (0.9.75 hangs when a wait returns 128 events). Limits: HTTP_CONNECTIONS_MAX
 * connections, more wait in the listen queue; body at most REQUEST_BODY_BYTES_MAX (413); a request that is not whole after
 * HTTP_REQUEST_MS is 408 and closed, however slowly its bytes come; headers at most HTTP_HEADER_BYTES_MAX (431).
 */
#ifndef SERVICE_HTTP_H
#define SERVICE_HTTP_H

#include "flow/handler.h"

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

struct server_settings {
    const char *listen; /* host:port; port 0 picks one */
    int thread_count;   /* default 2 */
    void *owner;
    /*
     * On an HTTP thread: a whole, well-formed request of a route of the flow. Must lead to exactly one http_answer(), from any thread.
     * request lives until then.
     */
    void (*request)(void *owner, struct exchange *exchange, const struct request *request);
};
MUST_CHECK enum outcome http_open(const struct server_settings *settings, struct server **ret, struct error *error); /* port in use: OUTAGE, EXIT_UNREACHABLE, says what to do */
int http_port(const struct server *server); /* the one in use */
/* Routes that go to settings.request; before http_start(). state is handed to route->admit(). */
void http_add_routes(struct server *server, const struct route *routes, const void *state);
/* A page answered on the HTTP thread at once: health, metrics, static text. fill sets *answer; text it makes goes into body (freed by the server). */
void http_add_page(struct server *server, const char *path, void (*fill)(void *owner, const struct request *request, struct answer *answer, struct buffer *body), void *owner);
/* A stream of server-sent events: next() is called about every interval_ms on a thread of its own and appends "data: …\n\n". */
void http_add_stream(struct server *server, const char *path, int interval_ms, void (*next)(void *owner, struct buffer *into), void *owner);
MUST_CHECK enum outcome http_start(struct server *server, struct error *error);
void http_answer(struct exchange *exchange, const struct answer *answer); /* copies; any thread */
void http_stop_accepting(struct server *server); /* the listen socket closes; requests in hand go on, new ones on kept connections: 503 */
void http_close(struct server *server); /* accepts NULL */

#endif
