/* traffic: orders over HTTP, steadily, to services that run somewhere else; stock for them first. */
#include "ask.h"
#include "cli.h"
#include "load.h"

#include "base/clock.h"
#include "base/log.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    TRAFFIC_GOODS = 40,
    TRAFFIC_STOCK = 100000000, /* of each: nobody wants to see "sold out" here */
    TRAFFIC_ASK_MS = 5000,
    TRAFFIC_STEP_MS = 100,
    TRAFFIC_SAY_MS = 10000,
    TRAFFIC_STOP_MS = 5000,
    TRAFFIC_HOST_BYTES_MAX = 256,
    TRAFFIC_URL_BYTES_MAX = 512,
};

static const struct setting traffic_settings[] = {
    {"ORDER_URL", SETTING_URL, "http://127.0.0.1:8080", 0, 0, "http", "Where weir-order is, http://host:port."},
    {"INVENTORY_URL", SETTING_URL, "http://127.0.0.1:8082", 0, 0, "http", "Where weir-inventory is."},
    {"RATE", SETTING_INT, "50", 1, LOAD_RATE_MAX, NULL, "Orders a second."},
    {"ORDERS", SETTING_INT, "0", 0, 1000000000, NULL, "End after so many orders; 0: at SIGTERM."},
    SETTINGS_END,
};

/* http://host:port, a slash at its end or none. */
static enum outcome read_address(const char *url, char host[TRAFFIC_HOST_BYTES_MAX], int *ret_port, struct error *error)
{
    enum { HTTP_PORT = 80, PORT_MAX = 65535 };
    const char *at = strstr(url, "://") + 3;
    size_t length = strcspn(at, ":/");
    char *end = NULL;
    long port = at[length] == ':' ? strtol(at + length + 1, &end, 10) : HTTP_PORT;
    const char *rest = end ? end : at + length;
    if (length == 0 || length >= TRAFFIC_HOST_BYTES_MAX || port < 1 || port > PORT_MAX || (rest[0] && strcmp(rest, "/") != 0)) {
        error_set(error, REJECT, "setting", "ORDER_URL: %s is not http://host:port", url);
        error->exit_code = EXIT_CONFIG;
        return REJECT;
    }
    memcpy(host, at, length);
    host[length] = '\0';
    *ret_port = (int)port;
    return OK;
}

/* Only what was never set: it goes on from what is there. */
static enum outcome set_stock(struct ask *ask, const char *inventory_url, struct text sku, struct error *error)
{
    char url[TRAFFIC_URL_BYTES_MAX], body[64];
    int status;
    struct text answer;
    size_t length = strlen(inventory_url);
    snprintf(url, sizeof(url), "%s%sv1/stock/%.*s", inventory_url, inventory_url[length - 1] == '/' ? "" : "/", TEXT_ARG(sku));
    enum outcome outcome = ask_http(ask, "GET", url, TEXT(""), TRAFFIC_ASK_MS, &status, &answer, error);
    if (outcome == OK && status == 404) {
        int bytes = snprintf(body, sizeof(body), "{\"available\":%d}", TRAFFIC_STOCK);
        outcome = ask_http(ask, "PUT", url, (struct text){body, (size_t)bytes}, TRAFFIC_ASK_MS, &status, &answer, error);
    }
    if (outcome == OK && status != 200)
        outcome = error_outage(error, "stock", "inventory answered %d to %s: %.*s", status, url, TEXT_ARG(answer));
    return outcome;
}

static void say(struct load *load)
{
    struct load_counts counts = load_counts(load);
    log_info("traffic", "orders", LOG_INT("accepted", counts.accepted), LOG_INT("refused", counts.refused),
             LOG_INT("unanswered", counts.waiting));
}

static void watch(struct load *load)
{
    int64_t said_us = clock_monotonic_us();
    while (!cli_interrupted() && !load_done(load)) {
        poll(NULL, 0, TRAFFIC_STEP_MS); /* a signal ends it early */
        if (clock_monotonic_us() - said_us < TRAFFIC_SAY_MS * INT64_C(1000))
            continue;
        said_us = clock_monotonic_us();
        say(load);
    }
}

int traffic_main(int argc, char **argv)
{
    const struct verb *verb = cli_verb("traffic");
    struct config *config;
    struct ask *ask = NULL;
    struct load *load = NULL;
    struct error error;
    char names[TRAFFIC_GOODS][16], host[TRAFFIC_HOST_BYTES_MAX];
    struct text goods[TRAFFIC_GOODS];
    int exit_code = 0, port = 0;
    if (!cli_read(verb, traffic_settings, argc, argv, 0, &config, &exit_code))
        return exit_code;
    cli_signals();
    enum outcome outcome = read_address(config_text(config, "ORDER_URL"), host, &port, &error);
    if (outcome == OK)
        outcome = ask_open(&ask, &error);
    for (int i = 0; i < TRAFFIC_GOODS && outcome == OK; i++) {
        snprintf(names[i], sizeof(names[i]), "TRAFFIC-%03d", i + 1);
        goods[i] = text_of(names[i]);
        outcome = set_stock(ask, config_text(config, "INVENTORY_URL"), goods[i], &error);
    }
    const struct load_settings settings = {
        .host = host,
        .port = port,
        .rate = config_int(config, "RATE"),
        .count_max = config_int(config, "ORDERS"),
        .goods = goods,
        .goods_count = TRAFFIC_GOODS,
    };
    if (outcome == OK)
        outcome = load_start(&settings, &load, &error);
    if (outcome == OK) {
        watch(load);
        load_stop(load, TRAFFIC_STOP_MS);
        say(load);
    }
    load_free(load);
    ask_close(ask);
    config_destroy(config);
    return outcome == OK ? 0 : cli_fail(verb, &error);
}
