/* traffic: orders over HTTP, steadily, to services that run somewhere else; stock for them first. */
#include "ask.h"
#include "cli.h"
#include "load.h"
#include "shop.h"

#include "base/clock.h"
#include "base/log.h"

#include <poll.h>
#include <stdio.h>

enum {
    TRAFFIC_GOODS = 40,
    TRAFFIC_STEP_MS = 100,
    TRAFFIC_SAY_MS = 10000,
    TRAFFIC_STOP_MS = 5000,
};

static const struct setting traffic_settings[] = {
    {"ORDER_URL", SETTING_URL, "http://127.0.0.1:8080", 0, 0, "http",
     "Where weir-order is, http://host:port."},
    {"INVENTORY_URL", SETTING_URL, "http://127.0.0.1:8082", 0, 0, "http", "Where weir-inventory is."},
    {"API_TOKEN", SETTING_SECRET, NULL, 0, 0, NULL,
     "The services' API_TOKEN, for placing orders and setting stock."},
    {"RATE", SETTING_INT, "50", 1, LOAD_RATE_MAX, NULL, "Orders a second."},
    {"ORDERS", SETTING_INT, "0", 0, 1000000000, NULL, "End after so many orders; 0: at SIGTERM."},
    SETTINGS_END,
};

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
    const char *token = NULL;
    char names[TRAFFIC_GOODS][16], host[SHOP_HOST_BYTES_MAX];
    struct text goods[TRAFFIC_GOODS];
    int exit_code = 0, port = 0;
    if (!cli_read(verb, traffic_settings, argc, argv, 0, &config, &exit_code))
        return exit_code;
    cli_signals();
    enum outcome outcome = shop_address("ORDER_URL", config_text(config, "ORDER_URL"), host, &port, &error);
    if (outcome == OK)
        outcome = shop_token(config, &token, &error);
    if (outcome == OK)
        outcome = ask_open(&ask, &error);
    if (outcome == OK)
        ask_authorize(ask, token);
    for (int i = 0; i < TRAFFIC_GOODS && outcome == OK; i++) {
        snprintf(names[i], sizeof(names[i]), "TRAFFIC-%03d", i + 1);
        goods[i] = text_of(names[i]);
        outcome = shop_stock(ask, config_text(config, "INVENTORY_URL"), goods[i], &error);
    }
    const struct load_settings settings = {
        .host = host,
        .port = port,
        .token = token,
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
