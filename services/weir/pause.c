/* pause, resume: a service takes no records for a while, or again, by its HTTP. Of several services each is asked, also where
 * one of them does not answer. */
#include "ask.h"
#include "cli.h"

#include "base/json.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

enum { FLOW_ASK_MS = 5000, FLOW_URL_BYTES_MAX = 512, FLOW_TOKEN_BYTES_MAX = 1024 };

static const struct setting flow_words[] = {
    {"URL", SETTING_URL, NULL, 0, 0, "http|https", "Of one service, http://host:port, instead of this machine's ports."},
    SETTINGS_END,
};
static const struct setting flow_table[] = {
    {"URL", SETTING_URL, NULL, 0, 0, "http|https", "Of one service, http://host:port, instead of this machine's ports."},
    {"PORT_BASE", SETTING_INT, "0", 0, 65500, NULL,
     "As of weir up: order +0, inventory +2, payment +3, email +4, analytics +5. 0: 8080 to 8085."},
    {"ADMIN_TOKEN", SETTING_SECRET, NULL, 0, 0, NULL,
     "The services' ADMIN_TOKEN; where not set, the one that weir up keeps in its state folder (admin-token)."},
    SETTINGS_END,
};

static const struct {
    const char *service;
    int offset; /* from PORT_BASE, else from 8080 */
} places[] = {{"order", 0}, {"inventory", 2}, {"payment", 3}, {"email", 4}, {"analytics", 5}};
enum { PLACES = sizeof(places) / sizeof(places[0]), PORT_FIRST = 8080 };

/* The one that weir up made on this machine, where none is given. */
static void find_token(const struct config *config, char into[FLOW_TOKEN_BYTES_MAX])
{
    char path[PATH_MAX];
    const char *given = config_text(config, "ADMIN_TOKEN"), *states = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    snprintf(into, FLOW_TOKEN_BYTES_MAX, "%s", given ? given : "");
    if (given)
        return;
    if (states && *states)
        snprintf(path, sizeof(path), "%s/weir/admin-token", states);
    else
        snprintf(path, sizeof(path), "%s/.local/state/weir/admin-token", home ? home : ".");
    FILE *file = fopen(path, "re");
    if (file && fgets(into, FLOW_TOKEN_BYTES_MAX, file))
        into[strcspn(into, "\r\n")] = '\0';
    if (file)
        fclose(file);
}

static void say_status(const char *name, struct text body)
{
    json_t *json = NULL;
    struct error ignored;
    size_t index;
    json_t *reason;
    if (json_read(body, &json, &ignored) != OK || !json_is_object(json)) {
        printf("%-10s answered: %.*s\n", name, TEXT_ARG(body));
        json_decref(json);
        return;
    }
    const json_t *paused = json_object_get(json, "paused");
    printf("%-10s %s", name, json_array_size(paused) ? "paused: " : "takes records");
    json_array_foreach(paused, index, reason) printf("%s%s", index ? ", " : "", json_string_value(reason));
    long long held = json_integer_value(json_object_get(json, "held_keys"));
    long long waiting = json_integer_value(json_object_get(json, "waiting"));
    if (held)
        printf("; %lld keys are held, %lld records wait behind them", held, waiting);
    struct text flood = json_text(json, "flood");
    if (flood.length)
        printf("; flood: %.*s", TEXT_ARG(flood));
    printf("\n");
    json_decref(json);
}

/* What the answer means to somebody who wants it done. */
static enum outcome refused(int status, struct text body, struct error *error)
{
    switch (status) {
    case 401:
        error_set(error, REJECT, "token", "the token is not this service's; --admin-token-file FILE, or ADMIN_TOKEN");
        error->exit_code = EXIT_CONFIG;
        return REJECT;
    case 403:
        error_set(error, REJECT, "token", "the service runs without ADMIN_TOKEN, so nobody may pause it");
        error->exit_code = EXIT_CONFIG;
        return REJECT;
    case 404:
    case 405:
        return error_outage(error, "route", "what answers there is no service of Weir that can be paused");
    default:
        return error_retry(error, "http", "it answered %d: %.*s", status, TEXT_ARG(body));
    }
}

static enum outcome ask_one(struct ask *ask, const char *name, const char *base, const char *verb, const char *token,
                            struct error *error)
{
    char url[FLOW_URL_BYTES_MAX + 32], header[FLOW_TOKEN_BYTES_MAX + 32];
    int status;
    struct text body;
    snprintf(url, sizeof(url), "%.*s/v1/flow/%s", FLOW_URL_BYTES_MAX, base, verb);
    snprintf(header, sizeof(header), "Authorization: Bearer %s", token);
    enum outcome outcome = ask_http_as(ask, "POST", url, *token ? header : NULL, TEXT(""), FLOW_ASK_MS, &status, &body, error);
    if (outcome == OK && status != 200)
        outcome = refused(status, body, error);
    if (outcome == OK)
        say_status(name, body);
    return outcome;
}

static int offset_of(const char *service)
{
    for (size_t i = 0; i < PLACES; i++)
        if (strcmp(places[i].service, service) == 0)
            return places[i].offset;
    return -1;
}

int pause_main(int argc, char **argv)
{
    const struct verb *verb = cli_verb(argv[0]);
    struct config *config = NULL;
    struct ask *ask = NULL;
    struct error error;
    const char *names[PLACES];
    char base[FLOW_URL_BYTES_MAX], token[FLOW_TOKEN_BYTES_MAX];
    int exit_code;
    cli_forget_environment(flow_words);
    if (!cli_read(verb, flow_table, argc, argv, PLACES, &config, &exit_code))
        return exit_code;
    exit_code = 0;
    size_t count = config_positional_count(config);
    const char *url = config_text(config, "URL");
    int first = (int)config_int(config, "PORT_BASE");
    for (size_t i = 0; i < count; i++) {
        names[i] = config_positional(config, i);
        if (offset_of(names[i]) < 0) {
            fprintf(stderr, "weir %s: there is no service %s: order, inventory, payment, email, analytics\n", verb->name, names[i]);
            exit_code = EXIT_USAGE;
        }
    }
    if (url && count > 1) {
        fprintf(stderr, "weir %s: --url is of one service, %zu are named\n", verb->name, count);
        exit_code = EXIT_USAGE;
    }
    if (exit_code)
        goto out;
    if (url && count == 0)
        names[count++] = url;
    if (count == 0)
        for (; count < PLACES; count++)
            names[count] = places[count].service;
    find_token(config, token);
    if (ask_open(&ask, &error) != OK) {
        exit_code = cli_fail(verb, &error);
        goto out;
    }
    for (size_t i = 0; i < count; i++) {
        if (url)
            snprintf(base, sizeof(base), "%.*s", (int)(strlen(url) - (url[strlen(url) - 1] == '/')), url);
        else
            snprintf(base, sizeof(base), "http://127.0.0.1:%d", (first ? first : PORT_FIRST) + offset_of(names[i]));
        if (ask_one(ask, names[i], base, verb->name, token, &error) == OK)
            continue;
        error_prefix(&error, "%s", names[i]);
        int code = cli_fail(verb, &error);
        exit_code = code > exit_code ? code : exit_code;
    }
out:
    ask_close(ask);
    config_destroy(config);
    return exit_code;
}
