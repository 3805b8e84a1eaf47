#include "net/call.h"

#include "base/clock.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

/* The part of a net that other threads touch. */
struct net_shared {
    struct net net; /* first: a struct net * is a struct net_shared * */
    pthread_t thread;
    pthread_mutex_t lock;
    struct net_call *submitted, **submitted_end;
    bool closing;
    atomic_size_t calls;
};

static struct net_shared *shared_of(const struct net *net)
{
    return (struct net_shared *)(uintptr_t)net;
}

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;
static CURLcode curl_ready;

static void curl_begin(void)
{
    curl_ready = curl_global_init(CURL_GLOBAL_DEFAULT);
}

void net_result_say(struct net_result *result, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(result->text, sizeof(result->text), format, arguments);
    va_end(arguments);
    bool utf8 = text_is_utf8(text_of(result->text));
    for (unsigned char *at = (unsigned char *)result->text; *at; at++)
        if (*at < 0x20 || *at == 0x7f || (*at >= 0x80 && !utf8))
            *at = '?';
}

void net_call_destroy(struct net_call *call)
{
    if (!call)
        return;
    if (call->easy)
        curl_easy_cleanup(call->easy);
    curl_slist_free_all(call->headers);
    buffer_free(&call->body);
    buffer_free(&call->answer);
    free(call->url);
    free(call->method);
    free(call->ca_file);
    free(call->from);
    free(call->to);
    free(call);
}

void net_finish(struct net_call *call, struct net_result *result)
{
    result->duration_us = clock_monotonic_us() - call->begun_us;
    call->done(call->owner, result);
    atomic_fetch_sub(&shared_of(call->net)->calls, 1);
    net_call_destroy(call);
}

CURL *net_easy_new(struct net *net, struct transfer *transfer, const char *url, int timeout_ms,
                   char *error_text)
{
    CURL *easy = curl_easy_init();
    if (!easy)
        return NULL;
    curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, error_text);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)(timeout_ms / 3 + 1));
    curl_easy_setopt(easy, CURLOPT_NOPROXY, net->no_proxy);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    if (net->ca_file)
        curl_easy_setopt(easy, CURLOPT_CAINFO, net->ca_file);
    if (curl_easy_setopt(easy, CURLOPT_URL, url) != CURLE_OK) {
        curl_easy_cleanup(easy);
        return NULL;
    }
    return easy;
}

enum outcome net_submit(struct net *net, struct net_call *call, struct error *error)
{
    struct net_shared *shared = shared_of(net);
    call->net = net;
    call->begun_us = clock_monotonic_us();
    call->deadline_us = call->begun_us + call->timeout_ms * INT64_C(1000);
    if (atomic_fetch_add(&shared->calls, 1) >= NET_CALLS_MAX) {
        atomic_fetch_sub(&shared->calls, 1);
        return error_retry(error, "net-full", "%d calls are under way already", NET_CALLS_MAX);
    }
    pthread_mutex_lock(&shared->lock);
    assert(!shared->closing);
    *shared->submitted_end = call;
    shared->submitted_end = &call->next;
    pthread_mutex_unlock(&shared->lock);
    curl_multi_wakeup(net->multi);
    return OK;
}

static struct net_call *take_submitted(struct net_shared *shared, bool *ret_closing)
{
    pthread_mutex_lock(&shared->lock);
    struct net_call *calls = shared->submitted;
    shared->submitted = NULL;
    shared->submitted_end = &shared->submitted;
    *ret_closing = shared->closing;
    pthread_mutex_unlock(&shared->lock);
    return calls;
}

static void tell_finished(struct net *net)
{
    CURLMsg *message;
    int left;
    while ((message = curl_multi_info_read(net->multi, &left))) {
        if (message->msg != CURLMSG_DONE)
            continue;
        CURLcode code = message->data.result;
        struct transfer *transfer = NULL;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
        transfer->finished(transfer, code);
    }
}

static void *run(void *argument)
{
    struct net_shared *shared = argument;
    struct net *net = &shared->net;
    for (;;) {
        bool closing;
        struct net_call *call = take_submitted(shared, &closing);
        while (call) {
            struct net_call *next = call->next;
            call->next = NULL;
            if (call->is_mail)
                mail_call_start(net, call);
            else
                http_call_start(net, call);
            call = next;
        }
        if (closing)
            break;
        int running;
        curl_multi_perform(net->multi, &running);
        tell_finished(net);
        unsigned int count = 0;
        int wait_ms = mail_calls_pump(net, &count);
        curl_multi_poll(net->multi, net->wait, count, wait_ms, NULL);
    }
    http_calls_close(net);
    mail_calls_close(net);
    return NULL;
}

static void net_free(struct net_shared *shared)
{
    if (shared->net.multi)
        curl_multi_cleanup(shared->net.multi);
    pthread_mutex_destroy(&shared->lock);
    free(shared->net.no_proxy);
    free(shared->net.wait);
    free(shared);
}

/* A proxy of the environment is used as every program does, but never for this machine itself. */
static char *no_proxy_new(void)
{
    const char *given = getenv("no_proxy") ? getenv("no_proxy") : getenv("NO_PROXY");
    char *text;
    if (given && strcmp(given, "*") == 0)
        return strdup("*");
    return asprintf(&text, "localhost,127.0.0.1,::1%s%s", given && *given ? "," : "", given ? given : "") < 0
               ? NULL
               : text;
}

enum outcome net_open(int connections_max, struct net **ret, struct error *error)
{
    assert(connections_max > 0);
    pthread_once(&curl_once, curl_begin);
    if (curl_ready != CURLE_OK)
        return error_fatal(error, "curl", "libcurl does not start: %s", curl_easy_strerror(curl_ready));
    struct net_shared *shared = calloc(1, sizeof(*shared));
    if (!shared)
        return error_retry(error, "memory", "out of memory");
    shared->submitted_end = &shared->submitted;
    pthread_mutex_init(&shared->lock, NULL);
    struct net *net = &shared->net;
    net->connections_max = connections_max;
    net->ca_file = getenv("SSL_CERT_FILE");
    net->no_proxy = no_proxy_new();
    net->multi = curl_multi_init();
    if (!net->multi || !net->no_proxy) {
        net_free(shared);
        return error_retry(error, "memory", "out of memory");
    }
    curl_multi_setopt(net->multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long)connections_max);
    /* Kept connections are bounded by those to a host; libcurl must not choose one of them to close. */
    curl_multi_setopt(net->multi, CURLMOPT_MAXCONNECTS, (long)NET_CALLS_MAX);

    /* Signals are the business of other threads (base/stop.h); SIGPIPE is nobody's. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&shared->thread, NULL, run, shared);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        net_free(shared);
        return error_outage(error, "thread", "no thread for the net: %s", strerror(failed));
    }
    *ret = net;
    return OK;
}

void net_close(struct net *net)
{
    if (!net)
        return;
    struct net_shared *shared = shared_of(net);
    pthread_mutex_lock(&shared->lock);
    shared->closing = true;
    pthread_mutex_unlock(&shared->lock);
    curl_multi_wakeup(net->multi);
    pthread_join(shared->thread, NULL);
    net_free(shared);
}

size_t net_calls(const struct net *net)
{
    return atomic_load(&shared_of(net)->calls);
}

enum outcome net_reach(const char *url, int timeout_ms, struct error *error)
{
    pthread_once(&curl_once, curl_begin);
    char why[CURL_ERROR_SIZE] = "";
    struct net net = {.ca_file = getenv("SSL_CERT_FILE"), .no_proxy = no_proxy_new()};
    CURL *easy = net.no_proxy ? net_easy_new(&net, NULL, url, timeout_ms, why) : NULL;
    if (!easy) {
        free(net.no_proxy);
        return error_retry(error, "memory", "out of memory");
    }
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https,smtp,smtps");
    curl_easy_setopt(easy, CURLOPT_USE_SSL, (long)CURLUSESSL_TRY);
    curl_easy_setopt(easy, CURLOPT_CONNECT_ONLY, 1L);
    CURLcode code = curl_easy_perform(easy);
    enum outcome outcome = OK;
    if (code != CURLE_OK)
        outcome = error_outage(error, "unreachable", "%s", *why ? why : curl_easy_strerror(code));
    curl_easy_cleanup(easy);
    free(net.no_proxy);
    return outcome;
}
