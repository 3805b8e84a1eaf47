/* weir gateway: the stand-in for a payment gateway, alone. */
#include "base/log.h"
#include "base/stop.h"
#include "net/net.h"
#include "weir/cli.h"
#include "weir/gateway_sim.h"

#include <stdio.h>

enum { DRAIN_MS = 2000, CHECK_MS = 3000 };

static const struct setting gateway_settings_table[] = {
    {"GATEWAY_LISTEN", SETTING_LISTEN, "127.0.0.1:8090", 0, 0, NULL,
     "Where charges are taken; port 0 picks one."},
    {"GATEWAY_DIR", SETTING_TEXT, "gateway", 0, 0, NULL, "Folder of ledger.ndjson."},
    {"GATEWAY_DECLINE_PERCENT", SETTING_INT, "0", 0, 100, NULL,
     "Charges declined; those of customers \"declined-…\" always are."},
    {"GATEWAY_TIMEOUT_PERCENT", SETTING_INT, "0", 0, 100, NULL,
     "Requests that do nothing and are never answered."},
    {"GATEWAY_LOST_PERCENT", SETTING_INT, "0", 0, 100, NULL,
     "Requests that are done, but whose answer is lost."},
    {"GATEWAY_ERROR_PERCENT", SETTING_INT, "0", 0, 100, NULL, "Requests answered with 503."},
    {"GATEWAY_CHAOS", SETTING_TEXT, NULL, 0, 0, NULL,
     "More of these, and outages: 5xx=0.5%, timeout=0.1%, lost=0.1%, outage=8s/45s (connections refused for "
     "the "
     "last 8 s of every 45)."},
    {"GATEWAY_LATENCY_MIN", SETTING_DURATION, "0s", 0, 600000, NULL, "Shortest time to an answer."},
    {"GATEWAY_LATENCY_MAX", SETTING_DURATION, "0s", 0, 600000, NULL, "Longest time to an answer."},
    {"CHECK", SETTING_BOOL, "false", 0, 0, NULL,
     "Only ask whether a gateway answers at GATEWAY_LISTEN: a health check."},
    SETTINGS_END,
};

static uint32_t percent(const struct config *config, const char *name)
{
    return (uint32_t)config_int(config, name) * FAILURES_PPM_PER_PERCENT;
}

/* Every address is also the loopback's. */
static enum outcome check(const char *listen, struct error *error)
{
    char url[320];
    bool every = strncmp(listen, "0.0.0.0:", 8) == 0 || strncmp(listen, "[::]:", 5) == 0;
    snprintf(url, sizeof(url), "http://%s%s", every ? "127.0.0.1" : "", every ? strrchr(listen, ':') : listen);
    return net_reach(url, CHECK_MS, error);
}

int gateway_main(int argc, char **argv)
{
    const struct verb *verb = cli_verb("gateway");
    struct config *config;
    int exit_code = 0;
    if (!cli_read(verb, gateway_settings_table, argc, argv, 0, &config, &exit_code))
        return exit_code;
    struct gateway_settings settings = {
        .listen = config_text(config, "GATEWAY_LISTEN"),
        .directory = config_text(config, "GATEWAY_DIR"),
        .decline_percent = (int)config_int(config, "GATEWAY_DECLINE_PERCENT"),
        .latency_min_ms = config_ms(config, "GATEWAY_LATENCY_MIN"),
        .latency_max_ms = config_ms(config, "GATEWAY_LATENCY_MAX"),
    };
    struct gateway *gateway = NULL;
    struct error error;
    if (config_bool(config, "CHECK")) {
        enum outcome answers = check(settings.listen, &error);
        config_destroy(config);
        return answers == OK ? 0 : cli_fail(verb, &error);
    }
    struct failures *failures = &settings.failures;
    enum outcome outcome = failures_parse("GATEWAY_CHAOS", config_text(config, "GATEWAY_CHAOS"),
                                          FAILURES_GATEWAY, failures, &error);
    if (outcome == OK) {
        failures->refuse_ppm += percent(config, "GATEWAY_ERROR_PERCENT");
        failures->timeout_ppm += percent(config, "GATEWAY_TIMEOUT_PERCENT");
        failures->lost_ppm += percent(config, "GATEWAY_LOST_PERCENT");
        outcome = stop_open(DRAIN_MS, &error);
    }
    if (outcome == OK)
        outcome = gateway_open(&settings, &gateway, &error);
    if (outcome == OK) {
        printf("http://%s\n", gateway_address(gateway));
        fflush(stdout);
        outcome = gateway_run(gateway, stop_fd(), &error);
        struct gateway_counts counts = gateway_counts(gateway);
        log_info("gateway", "closed", LOG_INT("charges", counts.charges),
                 LOG_INT("declines", counts.declines), LOG_INT("refunds", counts.refunds),
                 LOG_INT("repeats", counts.repeats), LOG_INT("timeouts", counts.timeouts),
                 LOG_INT("lost", counts.lost));
    }
    gateway_close(gateway);
    config_destroy(config);
    return outcome == OK ? 0 : cli_fail(verb, &error);
}
