/*
 * http_exchange: requests on their way through the server, from their first line to their answer, as what
 * libmicrohttpd calls. The struct server that they go through is http.c's, which opens and closes it. For
 * these two files only. Thread: one of the server's, but for http_answer() (http.h).
 */
#ifndef SERVICE_HTTP_EXCHANGE_H
#define SERVICE_HTTP_EXCHANGE_H

#include "service/http.h"
#include "service/http_guard.h"
#include "service/http_route.h"

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

struct client_rate;
struct stream;

enum { SERVER_STREAM_PATHS_MAX = 4, SERVER_ENDPOINTS_MAX = HTTP_ROUTES_MAX + 2 };

enum status_class { STATUS_2XX, STATUS_3XX, STATUS_4XX, STATUS_5XX, STATUS_CLASSES };

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
    struct path_entry paths[SERVER_ENDPOINTS_MAX];
    struct endpoint endpoints[SERVER_ENDPOINTS_MAX];
    size_t path_count;
    struct endpoint other; /* for the metrics of what has no path here */
    struct stream *streams[SERVER_STREAM_PATHS_MAX];
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

/* MHD_OPTION_URI_LOG_CALLBACK: the request's line, before the library has decoded anything of it. */
void *exchange_on_target(void *owner, const char *target, struct MHD_Connection *mhd);
/* The library's handler of requests: called again and again until there is an answer. */
enum MHD_Result exchange_on_request(void *owner, struct MHD_Connection *mhd, const char *url,
                                    const char *method, const char *version, const char *bytes, size_t *count,
                                    void **context);
/* MHD_OPTION_NOTIFY_COMPLETED */
void exchange_on_completed(void *owner, struct MHD_Connection *mhd, void **context,
                           enum MHD_RequestTerminationCode how);
/* MHD_OPTION_NOTIFY_CONNECTION: a connection begins, or is gone with what it had in hand. */
void exchange_on_connection(void *owner, struct MHD_Connection *mhd, void **context,
                            enum MHD_ConnectionNotificationCode what);

#endif
