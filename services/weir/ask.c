#include "ask.h"

#include "net/net.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { ASK_CONNECTIONS_MAX = 2, ASK_HEADER_BYTES_MAX = 1024 };

struct ask {
    struct net *net;
    const char *token; /* lent; NULL: none */
    struct buffer body;
    pthread_mutex_t lock;
    pthread_cond_t answered;
    bool done;
    int status;
    char text[ERROR_TEXT_BYTES_MAX];
};

enum outcome ask_open(struct ask **ret, struct error *error)
{
    struct ask *ask = calloc(1, sizeof(*ask));
    if (!ask)
        return error_fatal(error, "memory", "out of memory");
    pthread_mutex_init(&ask->lock, NULL);
    pthread_cond_init(&ask->answered, NULL);
    ask->body = buffer_of(NET_ANSWER_BYTES_MAX);
    enum outcome outcome = net_open(ASK_CONNECTIONS_MAX, &ask->net, error);
    if (outcome != OK) {
        ask_close(ask);
        return outcome;
    }
    *ret = ask;
    return OK;
}

void ask_close(struct ask *ask)
{
    if (!ask)
        return;
    net_close(ask->net);
    buffer_free(&ask->body);
    pthread_cond_destroy(&ask->answered);
    pthread_mutex_destroy(&ask->lock);
    free(ask);
}

static void on_done(void *owner, const struct net_result *result)
{
    struct ask *ask = owner;
    pthread_mutex_lock(&ask->lock);
    ask->status = result->status;
    buffer_add_text(&ask->body, result->body);
    memcpy(ask->text, result->text, sizeof(ask->text));
    ask->done = true;
    pthread_cond_signal(&ask->answered);
    pthread_mutex_unlock(&ask->lock);
}

void ask_authorize(struct ask *ask, const char *token)
{
    ask->token = token;
}

enum outcome ask_http(struct ask *ask, const char *method, const char *url, struct text json, int timeout_ms, int *ret_status,
                      struct text *ret_body, struct error *error)
{
    char header[ASK_HEADER_BYTES_MAX];
    bool bears = ask->token && strcmp(method, "GET") != 0;
    if (bears)
        snprintf(header, sizeof(header), "Authorization: Bearer %s", ask->token);
    return ask_http_as(ask, method, url, bears ? header : NULL, json, timeout_ms, ret_status, ret_body, error);
}

enum outcome ask_http_as(struct ask *ask, const char *method, const char *url, const char *header, struct text json,
                         int timeout_ms, int *ret_status, struct text *ret_body, struct error *error)
{
    const char *type = json.length ? "Content-Type: application/json" : NULL;
    const struct net_http http = {
        .method = method,
        .url = url,
        .headers = {header ? header : type, header ? type : NULL},
        .body = json,
        .timeout_ms = timeout_ms,
    };
    buffer_clear(&ask->body);
    ask->done = false;
    enum outcome outcome = net_http(ask->net, &http, on_done, ask, error);
    if (outcome != OK)
        return outcome;
    pthread_mutex_lock(&ask->lock);
    while (!ask->done) /* at most timeout_ms: the net sees to it */
        pthread_cond_wait(&ask->answered, &ask->lock);
    pthread_mutex_unlock(&ask->lock);
    if (ask->status == 0)
        return error_outage(error, "http", "%s: %s", url, ask->text);
    *ret_status = ask->status;
    *ret_body = buffer_text(&ask->body);
    return OK;
}
