#include "service/settings.h"

#include "flow/dispatch.h"
#include "kafka/client.h"
#include "net/otlp.h"
#include "service/client_rate.h"
#include "wire/registry.h"

#include <assert.h>
#include <stdio.h>
#include <strings.h>

static const struct setting common[] = {
    {"HTTP_LISTEN", SETTING_LISTEN, NULL, 0, 0, NULL,
     "Where HTTP is served, host:port; port 0 picks one and logs it."},
    {"DATABASE_URL", SETTING_URL, NULL, 0, 0, NULL,
     "This service's own database: sqlite:PATH (relative to the working directory) or postgresql://…."},
    {"RETRY_DELAYS", SETTING_DURATIONS, "2s,4s,8s", 0, TOPIC_RETRY_DELAY_MS_MAX, NULL,
     "The delays before the second, third, … attempt; after the last one the record goes to the dead "
     "letters."},
    {"TOPICS_CREATE", SETTING_BOOL, "true", 0, 0, NULL,
     "Make this service's own retry and dead letter topics where they are missing."},
    {"CRASH_NOTE", SETTING_TEXT, NULL, 0, 0, NULL,
     "File in which the record in hand is noted, to find the one that kills the process; by default beside "
     "the SQLite database (its name and .inhand), none with PostgreSQL. It must outlive the process."},
    {"DRAIN_TIMEOUT", SETTING_DURATION, "10s", 100, INT64_C(10) * 60 * 1000, NULL,
     "How long work in hand may take to finish after SIGTERM; what is not finished then is delivered again."},
    {"ADMIN_TOKEN", SETTING_SECRET, NULL, 0, 0, NULL,
     "What the routes for dead letters and for pausing want as Authorization: Bearer; without it they answer "
     "403."},
    {"API_TOKEN", SETTING_SECRET, NULL, 0, 0, NULL,
     "What routes that change something (no GET) want as Authorization: Bearer; where not set, nothing. Not "
     "those "
     "with ADMIN_TOKEN, nor the gateway's signed webhook."},
    {"HTTP_CLIENT_RATE", SETTING_INT, "0", 0, CLIENT_RATE_MAX, NULL,
     "Requests a second of one client address (IPv6: of one /64); past it 429. /livez, /readyz and /metrics "
     "do "
     "not count. 0: no limit."},
    {"HTTP_CLIENT_BURST", SETTING_INT, "0", 0, CLIENT_RATE_MAX, NULL,
     "How many requests one client may send at once; 0: as many as HTTP_CLIENT_RATE."},
    {"HTTP_TRUSTED_PROXIES", SETTING_TEXT, NULL, 0, 0, NULL,
     "Addresses and networks (10.0.0.0/8), comma-separated, whose X-Forwarded-For says who the client is: "
     "the "
     "last address in it that is none of these."},
    {"HTTP_LOG", SETTING_CHOICE, "off", 0, 0, "off|errors|all",
     "Which requests are a line in the log: those answered 400 and above, or all; at most 100 lines a "
     "second."},
    {"FINISHED_AGE", SETTING_DURATION, "90d", INT64_C(30) * 86400 * 1000, INT64_C(3650) * 86400 * 1000, "0",
     "Rows of orders that have come to their end are deleted after so long; an event that comes again after "
     "that takes effect again. 0: kept for ever."},
    {"LOG_LEVEL", SETTING_CHOICE, "info", 0, 0, "debug|info|warn|error", "Least level that is logged."},
    {"LOG_FORMAT", SETTING_CHOICE, NULL, 0, 0, "json|text",
     "Form of log lines; where not set, text on a terminal and JSON elsewhere."},
};
_Static_assert(sizeof(common) / sizeof(common[0]) < SETTINGS_COMMON_MAX, "room for SETTINGS_END");

void settings_of(const struct service *service, struct settings *settings)
{
    *settings = (struct settings){.table_count = 0};
    memcpy(settings->common, common, sizeof(common));
    snprintf(settings->listen, sizeof(settings->listen), "127.0.0.1:%d", service->http_port);
    snprintf(settings->database_url, sizeof(settings->database_url), "sqlite:weir-%s.db", service->name);
    snprintf(settings->group, sizeof(settings->group), "weir-%s", service->name);
    size_t kafka_count = 0;
    do {
        assert(kafka_count < SETTINGS_KAFKA_MAX);
        settings->kafka[kafka_count] = kafka_settings[kafka_count];
        if (kafka_settings[kafka_count].name &&
            strcmp(kafka_settings[kafka_count].name, "KAFKA_GROUP_ID") == 0)
            settings->kafka[kafka_count].fallback = settings->group;
    } while (kafka_settings[kafka_count++].name);
    settings->common[0].fallback = settings->listen;
    settings->common[1].fallback = settings->database_url;
    settings->tables[settings->table_count++] = settings->common;
    if (service->settings)
        settings->tables[settings->table_count++] = service->settings;
    settings->tables[settings->table_count++] = settings->kafka;
    settings->tables[settings->table_count++] = registry_settings;
    settings->tables[settings->table_count++] = flow_settings;
    settings->tables[settings->table_count++] = otlp_settings;
    assert(settings->table_count <= sizeof(settings->tables) / sizeof(settings->tables[0]));
}

const char *settings_group_id(const struct config *config, const struct service *service, char *into,
                              size_t into_bytes)
{
    const char *given = config_text(config, "KAFKA_GROUP_ID");
    snprintf(into, into_bytes, "%s%s", given ? "" : "weir-", given ? given : service->name);
    return into;
}

enum outcome settings_proxies(const struct config *config, struct client_networks *ret, struct error *error)
{
    struct text bad;
    if (client_networks_parse(config_text(config, "HTTP_TRUSTED_PROXIES"), ret, &bad))
        return OK;
    (void)error_fatal(
        error, "setting",
        "HTTP_TRUSTED_PROXIES: \"%.*s\" is no address and no network like 10.0.0.0/8 or fd00::/8, or "
        "is one more than %d",
        TEXT_ARG(bad), CLIENT_NETWORKS_MAX);
    error->exit_code = EXIT_CONFIG;
    return FATAL;
}

enum http_log settings_http_log(const struct config *config)
{
    const char *which = config_text(config, "HTTP_LOG");
    return strcmp(which, "all") == 0      ? HTTP_LOG_ALL
           : strcmp(which, "errors") == 0 ? HTTP_LOG_ERRORS
                                          : HTTP_LOG_OFF;
}

int64_t settings_backlog_max(const struct config *config, const struct service *service)
{
    char name[64];
    snprintf(name, sizeof(name), "%s_BACKLOG_MAX", service->name);
    for (const struct setting *setting = service->settings; setting && setting->name; setting++)
        if (strcasecmp(setting->name, name) == 0)
            return config_int(config, setting->name);
    return INT64_MAX;
}
