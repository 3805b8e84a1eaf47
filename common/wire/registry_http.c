#include "wire/registry_http.h"

#include "base/digest.h"
#include "base/metrics.h"
#include "net/net.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    CONNECTIONS_MAX = 4,
    CREDENTIALS_BYTES_MAX = 4096,
    CODE_MISSING_MIN = 40400,
    CODE_MISSING_MAX = 40499
};

#define MEDIA_TYPE "application/vnd.schemaregistry.v1+json"

struct place {
    char *base;          /* without credentials and without a slash at its end */
    char *authorization; /* the header's line, or NULL */
};

struct registry_http {
    struct net *net;
    struct place places[REGISTRY_URLS_MAX];
    int count;
    const char *ca_file;
    atomic_int preferred; /* the place that answered last */
    pthread_mutex_t gate; /* nothing is sent once closing is set */
    bool closing;
    struct metric *ok, *retry, *failed, *outage;

    /* the net's thread */
    bool away;
    void (*say)(void *owner, bool away, const char *text);
    void *owner;
};

static const struct metric_family call_seconds = {"weir_call_seconds", METRIC_HISTOGRAM, "peer,result",
                                                  "One attempt of a call to the outside.",
                                                  metric_seconds_bounds};

/* A question on its way from place to place. */
struct errand {
    struct registry_http *http;
    registry_answered_fn *answered;
    void *owner;
    char *method, *path;
    const char *member;
    struct buffer body;
    int at, tried;
};

static void errand_free(struct errand *errand)
{
    if (!errand)
        return;
    free(errand->method);
    free(errand->path);
    buffer_free(&errand->body);
    free(errand);
}

/* ---- the URLs */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void add_decoded(struct buffer *into, struct text text)
{
    for (size_t i = 0; i < text.length; i++) {
        int high, low;
        if (text.at[i] == '%' && i + 2 < text.length && (high = hex_digit(text.at[i + 1])) >= 0 &&
            (low = hex_digit(text.at[i + 2])) >= 0) {
            buffer_add_char(into, (char)(high << 4 | low));
            i += 2;
        } else {
            buffer_add_char(into, text.at[i]);
        }
    }
}

/* "Authorization: Basic …" of "user:password"; NULL when out of memory. */
static char *authorization_of(struct text credentials)
{
    struct buffer line = buffer_of(CREDENTIALS_BYTES_MAX);
    buffer_add_string(&line, "Authorization: Basic ");
    digest_to_base64(&line, credentials.at, credentials.length);
    char *copy = line.failed ? NULL : strndup(line.at, line.length);
    if (line.at)
        explicit_bzero(line.at, line.length);
    buffer_free(&line);
    return copy;
}

static bool starts_with(struct text text, const char *start)
{
    size_t length = strlen(start);
    return text.length > length && memcmp(text.at, start, length) == 0;
}

/* One of the list. False: it is no URL of HTTP. */
static bool place_parse(struct text url, struct text settings_credentials, struct place *place)
{
    struct buffer credentials = buffer_of(CREDENTIALS_BYTES_MAX);
    size_t scheme = starts_with(url, "http://") ? 7 : starts_with(url, "https://") ? 8 : 0;
    if (!scheme)
        return false;
    struct text rest = {url.at + scheme, url.length - scheme};
    const char *at = rest.length ? memrchr(rest.at, '@', rest.length) : NULL;
    if (at) {
        add_decoded(&credentials, (struct text){rest.at, (size_t)(at - rest.at)});
        rest = (struct text){at + 1, rest.length - (size_t)(at + 1 - rest.at)};
    } else {
        buffer_add_text(&credentials, settings_credentials);
    }
    while (rest.length && rest.at[rest.length - 1] == '/')
        rest.length--;
    if (!rest.length || rest.at[0] == '/' || rest.at[0] == ':' || memchr(rest.at, '?', rest.length) ||
        memchr(rest.at, '#', rest.length)) {
        buffer_free(&credentials);
        return false;
    }
    bool made = asprintf(&place->base, "%.*s%.*s", (int)scheme, url.at, TEXT_ARG(rest)) >= 0;
    if (made && credentials.length) {
        place->authorization = authorization_of(buffer_text(&credentials));
        made = place->authorization != NULL;
        if (!made)
            free(place->base);
    }
    if (credentials.at)
        explicit_bzero(credentials.at, credentials.length);
    buffer_free(&credentials);
    return made;
}

static enum outcome places_open(struct registry_http *http, const struct config *config, struct error *error)
{
    struct text list = text_of(config_text(config, "SCHEMA_REGISTRY_URL"));
    const char *user = config_text(config, "SCHEMA_REGISTRY_USER"),
               *password = config_text(config, "SCHEMA_REGISTRY_PASSWORD");
    struct buffer credentials = buffer_of(CREDENTIALS_BYTES_MAX);
    if (user && *user)
        buffer_print(&credentials, "%s:%s", user, password ? password : "");
    bool good = true;
    while (list.length && good) {
        const char *comma = memchr(list.at, ',', list.length);
        struct text one = {list.at, comma ? (size_t)(comma - list.at) : list.length};
        list = comma ? (struct text){comma + 1, list.length - one.length - 1} : TEXT("");
        good = http->count < REGISTRY_URLS_MAX &&
               place_parse(one, buffer_text(&credentials), &http->places[http->count]);
        if (good)
            http->count++;
    }
    if (credentials.at)
        explicit_bzero(credentials.at, credentials.length);
    buffer_free(&credentials);
    if (good && http->count)
        return OK;
    enum outcome outcome =
        error_fatal(error, "setting",
                    "SCHEMA_REGISTRY_URL: number %d is no http(s)://[user:password@]host[:port][/path]; 1 to "
                    "%d of them are allowed, with commas between",
                    http->count + 1, REGISTRY_URLS_MAX);
    if (error)
        error->exit_code = EXIT_CONFIG;
    return outcome;
}

/* ---- answers */

static void note(struct registry_http *http, bool away, const char *text)
{
    if (http->away == away)
        return;
    http->away = away;
    if (http->say)
        http->say(http->owner, away, text);
}

static void finish(struct errand *errand, struct registry_answer *answer)
{
    errand->answered(errand->owner, answer);
    errand_free(errand);
}

/* What a registry means by this. AWAY: it is none, or none that can answer now. */
static void answer_of(const struct place *place, const char *member, const struct net_result *result,
                      struct registry_answer *ret)
{
    struct error error;
    json_t *json = NULL;
    *ret = (struct registry_answer){.kind = REGISTRY_AWAY, .code = result->status};
    snprintf(ret->text, sizeof(ret->text), "%.100s: %.140s", place->base, result->text);
    if (result->too_long) { /* of a gateway's page of an error nothing is said about what was asked for */
        ret->kind = result->status / 100 == 2 ? REGISTRY_REFUSED : REGISTRY_AWAY;
        return;
    }
    if (result->status && json_read(result->body, &json, &error) == OK && result->outcome == OK && member &&
        !json_object_get(json, member)) {
        json_decref(json);
        json = NULL;
    }
    if (!json) {
        if (result->outcome == OK || result->status == 404)
            snprintf(ret->text, sizeof(ret->text), "%.100s: HTTP %d and no schema registry's answer",
                     place->base, result->status);
        return;
    }
    if (result->outcome == OK) {
        ret->kind = REGISTRY_ANSWERED;
        ret->json = json;
        return;
    }
    const json_t *code = json_object_get(json, "error_code");
    struct text message = json_text(json, "message");
    if (json_is_integer(code)) {
        json_int_t number = json_integer_value(code);
        ret->code = number > 0 && number < INT32_MAX ? (int)number : result->status;
        if (ret->code >= CODE_MISSING_MIN && ret->code <= CODE_MISSING_MAX)
            ret->kind = REGISTRY_MISSING;
        else if (result->status == 409 || result->status == 422 || result->status == 400)
            ret->kind = REGISTRY_REFUSED;
    }
    if (message.length && text_is_utf8(message)) {
        int length = message.length < 160 ? (int)message.length : 160;
        snprintf(ret->text, sizeof(ret->text), "%.80s: %.*s", place->base, length, message.at);
        for (char *at = ret->text; *at; at++)
            if ((unsigned char)*at < 0x20 || *at == 0x7f)
                *at = ' ';
    }
    json_decref(json);
}

static void on_done(void *owner, const struct net_result *result);

/* To the place where the errand is. False: it could not be sent at all, and *ret says so. */
static bool send(struct errand *errand, struct registry_answer *ret)
{
    struct registry_http *http = errand->http;
    const struct place *place = &http->places[errand->at];
    struct error error;
    char *url = NULL;
    enum outcome outcome = OK;
    if (asprintf(&url, "%s%s", place->base, errand->path) < 0) {
        url = NULL;
        outcome = error_retry(&error, "memory", "out of memory");
    }
    pthread_mutex_lock(&http->gate);
    if (http->closing)
        outcome = error_outage(&error, "closing", "closing");
    if (outcome == OK) {
        const struct net_http call = {
            .method = errand->method,
            .url = url,
            .headers = {"Accept: " MEDIA_TYPE ", application/json", "Content-Type: " MEDIA_TYPE,
                        place->authorization},
            .body = buffer_text(&errand->body),
            .timeout_ms = REGISTRY_CALL_MS,
            .ca_file = http->ca_file,
        };
        outcome = net_http(http->net, &call, on_done, errand, &error);
    }
    pthread_mutex_unlock(&http->gate);
    free(url);
    if (outcome == OK)
        return true;
    *ret = (struct registry_answer){.kind = REGISTRY_AWAY};
    snprintf(ret->text, sizeof(ret->text), "%.200s", error.text);
    return false;
}

/* On the net's thread. */
static void on_done(void *owner, const struct net_result *result)
{
    struct errand *errand = owner;
    struct registry_http *http = errand->http;
    struct registry_answer answer;
    answer_of(&http->places[errand->at], errand->member, result, &answer);
    struct metric *metric = answer.kind == REGISTRY_ANSWERED || answer.kind == REGISTRY_MISSING ? http->ok
                            : answer.kind == REGISTRY_REFUSED                                   ? http->failed
                            : result->outcome == RETRY                                          ? http->retry
                                                       : http->outage;
    metric_observe(metric, (double)result->duration_us / 1e6);
    if (answer.kind != REGISTRY_AWAY) {
        atomic_store(&http->preferred, errand->at);
        note(http, false, answer.text);
        finish(errand, &answer);
        return;
    }
    errand->at = (errand->at + 1) % http->count;
    errand->tried++;
    if (errand->tried < http->count && send(errand, &answer))
        return;
    pthread_mutex_lock(&http->gate);
    bool closing = http->closing;
    pthread_mutex_unlock(&http->gate);
    if (!closing)
        note(http, true, answer.text);
    finish(errand, &answer);
}

void registry_http_ask(struct registry_http *http, const struct registry_question *question,
                       registry_answered_fn *answered, void *owner)
{
    struct registry_answer answer = {.kind = REGISTRY_AWAY, .text = "out of memory"};
    struct errand *errand = calloc(1, sizeof(*errand));
    bool ready =
        errand && (errand->method = strdup(question->method)) && (errand->path = strdup(question->path));
    if (ready) {
        errand->http = http;
        errand->answered = answered;
        errand->owner = owner;
        errand->member = question->member;
        errand->at = (atomic_load(&http->preferred) + question->turn) % http->count;
        errand->body = buffer_of(question->body.length);
        buffer_add_text(&errand->body, question->body);
        ready = !errand->body.failed;
    }
    if (ready && send(errand, &answer))
        return;
    errand_free(errand);
    answered(owner, &answer);
}

/* ---- open and close */

enum outcome registry_http_open(const struct registry_use *use, struct registry_http **ret,
                                struct error *error)
{
    struct registry_http *http = calloc(1, sizeof(*http));
    if (!http)
        return error_fatal(error, "memory", "out of memory for the schema registry");
    pthread_mutex_init(&http->gate, NULL);
    http->say = use->say;
    http->owner = use->owner;
    const char *ca_file = config_text(use->config, "SCHEMA_REGISTRY_CA_LOCATION");
    http->ca_file = ca_file && *ca_file ? ca_file : NULL;
    if (use->metrics) {
        http->ok = metrics_get(use->metrics, &call_seconds, "registry", "ok", NULL);
        http->retry = metrics_get(use->metrics, &call_seconds, "registry", "retry", NULL);
        http->failed = metrics_get(use->metrics, &call_seconds, "registry", "failed", NULL);
        http->outage = metrics_get(use->metrics, &call_seconds, "registry", "outage", NULL);
    }
    enum outcome outcome = places_open(http, use->config, error);
    if (outcome == OK)
        outcome = net_open(CONNECTIONS_MAX, &http->net, error);
    if (outcome != OK) {
        registry_http_close(http);
        if (outcome != FATAL)
            outcome = error_fatal(error, "memory", "out of memory or threads for the schema registry");
        return outcome;
    }
    *ret = http;
    return OK;
}

void registry_http_close(struct registry_http *http)
{
    if (!http)
        return;
    pthread_mutex_lock(&http->gate);
    http->closing = true;
    pthread_mutex_unlock(&http->gate);
    net_close(http->net);
    for (int i = 0; i < http->count; i++) {
        free(http->places[i].base);
        if (http->places[i].authorization)
            explicit_bzero(http->places[i].authorization, strlen(http->places[i].authorization));
        free(http->places[i].authorization);
    }
    pthread_mutex_destroy(&http->gate);
    free(http);
}
