#include "net/call.h"

#include <assert.h>
#include <stdlib.h>

static struct net_call *call_of(struct transfer *transfer)
{
    return (struct net_call *)(void *)((char *)transfer - offsetof(struct net_call, transfer));
}

static size_t on_body(char *bytes, size_t one, size_t count, void *owner)
{
    (void)one;
    struct net_call *call = owner;
    buffer_add(&call->answer, bytes, count);
    call->answer_too_long = call->answer.failed;
    return call->answer_too_long ? CURL_WRITEFUNC_ERROR : count;
}

static size_t on_header(char *bytes, size_t one, size_t count, void *owner)
{
    (void)bytes, (void)one;
    struct net_call *call = owner;
    call->header_bytes += count;
    call->answer_too_long = call->header_bytes > NET_HEADER_BYTES_MAX;
    return call->answer_too_long ? CURL_WRITEFUNC_ERROR : count;
}

/* Where the call stands when no whole answer has come. */
struct progress {
    bool connected; /* TLS included                                       */
    bool all_sent;  /* the peer may have acted on it                      */
};

static struct progress progress_of(struct net_call *call)
{
    curl_off_t pretransfer_us = 0, body_bytes = 0;
    long request_bytes = 0;
    curl_easy_getinfo(call->easy, CURLINFO_PRETRANSFER_TIME_T, &pretransfer_us);
    curl_easy_getinfo(call->easy, CURLINFO_SIZE_UPLOAD_T, &body_bytes);
    curl_easy_getinfo(call->easy, CURLINFO_REQUEST_SIZE, &request_bytes);
    return (struct progress){
        .connected = pretransfer_us > 0 || request_bytes > 0,
        .all_sent = request_bytes > 0 && body_bytes >= (curl_off_t)call->body.length,
    };
}

static void class_by_status(struct net_call *call, struct net_result *result)
{
    long status = result->status;
    result->body = buffer_text(&call->answer);
    if (status >= 200 && status < 300)
        result->outcome = OK;
    else if (status >= 400 && status < 500 && status != 408 && status != 425 && status != 429)
        result->outcome = REJECT;
    else
        result->outcome =
            RETRY; /* 3xx as well: nothing is followed, and where it points says nothing of the record */
    curl_off_t retry_after_s = 0;
    if ((status == 429 || status == 503) &&
        curl_easy_getinfo(call->easy, CURLINFO_RETRY_AFTER, &retry_after_s) == CURLE_OK && retry_after_s > 0)
        result->retry_after_ms =
            retry_after_s < NET_RETRY_AFTER_MS_MAX / 1000 ? retry_after_s * 1000 : NET_RETRY_AFTER_MS_MAX;
    net_result_say(result, "HTTP %ld", status);
}

static void class_by_failure(struct net_call *call, CURLcode code, struct net_result *result)
{
    const char *why = call->error_text[0] ? call->error_text : curl_easy_strerror(code);
    struct progress progress = progress_of(call);
    if (code == CURLE_URL_MALFORMAT || code == CURLE_UNSUPPORTED_PROTOCOL) {
        /* The latter is also how libcurl calls an answer that is not HTTP. */
        result->outcome = progress.connected ? RETRY : REJECT;
    } else {
        result->outcome = progress.connected ? RETRY : OUTAGE;
    }
    result->ambiguous = progress.all_sent;
    result->too_long = call->answer_too_long;
    if (call->answer_too_long)
        net_result_say(result, "the answer is longer than %d bytes", NET_ANSWER_BYTES_MAX);
    else
        net_result_say(result, "%s", why);
}

static void unlink_flying(struct net *net, struct net_call *call)
{
    if (call->previous_flying)
        call->previous_flying->next_flying = call->next_flying;
    else
        net->flying = call->next_flying;
    if (call->next_flying)
        call->next_flying->previous_flying = call->previous_flying;
}

static void on_finished(struct transfer *transfer, CURLcode code)
{
    struct net_call *call = call_of(transfer);
    struct net_result result = {.outcome = RETRY};
    long status = 0;
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    result.status = (int)status;
    if (code == CURLE_OK && status)
        class_by_status(call, &result);
    else
        class_by_failure(call, code, &result);
    curl_multi_remove_handle(call->net->multi, call->easy);
    unlink_flying(call->net, call);
    net_finish(call, &result);
}

void http_call_start(struct net *net, struct net_call *call)
{
    call->transfer.finished = on_finished;
    CURL *easy = call->easy =
        net_easy_new(net, &call->transfer, call->url, call->timeout_ms, call->error_text);
    bool ready = easy != NULL;
    if (ready) {
        curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
        curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
        curl_easy_setopt(easy, CURLOPT_USERAGENT, "weir/" WEIR_VERSION);
        if (call->ca_file)
            curl_easy_setopt(easy, CURLOPT_CAINFO, call->ca_file);
        curl_easy_setopt(easy, CURLOPT_HTTPHEADER, call->headers);
        curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
        curl_easy_setopt(easy, CURLOPT_WRITEDATA, call);
        curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
        curl_easy_setopt(easy, CURLOPT_HEADERDATA, call);
        if (call->body.length || strcmp(call->method, "POST") == 0) {
            curl_easy_setopt(easy, CURLOPT_POSTFIELDS, call->body.length ? call->body.at : "");
            curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->body.length);
        }
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, call->method);
        ready = curl_multi_add_handle(net->multi, easy) == CURLM_OK;
    }
    if (!ready) {
        struct net_result result = {.outcome = RETRY, .text = "out of memory"};
        net_finish(call, &result);
        return;
    }
    call->next_flying = net->flying;
    if (net->flying)
        net->flying->previous_flying = call;
    net->flying = call;
}

void http_calls_close(struct net *net)
{
    while (net->flying) {
        struct net_call *call = net->flying;
        struct net_result result = {
            .outcome = OUTAGE, .text = "closing", .ambiguous = progress_of(call).all_sent};
        unlink_flying(net, call);
        /* Not to wait for a name server that does not answer. */
        curl_easy_setopt(call->easy, CURLOPT_QUICK_EXIT, 1L);
        curl_multi_remove_handle(net->multi, call->easy);
        net_finish(call, &result);
    }
}

static bool one_line(const char *text)
{
    return strpbrk(text, "\r\n") == NULL;
}

enum outcome net_http(struct net *net, const struct net_http *http, net_done_fn *done, void *owner,
                      struct error *error)
{
    assert(http->method && http->url && done);
    struct net_call *call = calloc(1, sizeof(*call));
    bool copied = call && (call->url = strdup(http->url)) && (call->method = strdup(http->method)) &&
                  (!http->ca_file || (call->ca_file = strdup(http->ca_file)));
    /* libcurl would wait a second for "100 Continue" before a larger body. */
    copied = copied && (call->headers = curl_slist_append(NULL, "Expect:"));
    for (size_t i = 0; copied && i < NET_HEADERS_MAX && http->headers[i]; i++) {
        assert(one_line(http->headers[i]));
        struct curl_slist *longer = curl_slist_append(call->headers, http->headers[i]);
        copied = longer != NULL;
        if (longer)
            call->headers = longer;
    }
    if (copied) {
        call->done = done;
        call->owner = owner;
        call->timeout_ms = http->timeout_ms > 0 ? http->timeout_ms : 1;
        call->answer = buffer_of(NET_ANSWER_BYTES_MAX);
        call->body = buffer_of(http->body.length);
        buffer_add_text(&call->body, http->body);
        copied = !call->body.failed;
    }
    if (!copied) {
        net_call_destroy(call);
        return error_retry(error, "memory", "out of memory");
    }
    enum outcome outcome = net_submit(net, call, error);
    if (outcome != OK)
        net_call_destroy(call);
    return outcome;
}
