/*
 * settings: the tables of settings that a service reads: what all have in common, with this service's own
 * defaults, then its own, Kafka's, the registry's, the flow's, and those for traces.
 */
#ifndef SERVICE_SETTINGS_H
#define SERVICE_SETTINGS_H

#include "base/config.h"
#include "service/http.h"
#include "service/service.h"

enum { SETTINGS_COMMON_MAX = 20, SETTINGS_KAFKA_MAX = 32, SETTINGS_TABLES = 6 };

struct settings {
    struct setting common[SETTINGS_COMMON_MAX];
    struct setting kafka[SETTINGS_KAFKA_MAX];
    char listen[32];
    char group[64];
    char database_url[64];
    const struct setting *tables[SETTINGS_TABLES];
    size_t table_count;
};
/* Fills *settings, which the config made of it then points into. */
void settings_of(const struct service *service, struct settings *settings);

/* KAFKA_GROUP_ID, or weir-<service>. */
const char *settings_group_id(const struct config *config, const struct service *service, char *into,
                              size_t into_bytes);
/* HTTP_TRUSTED_PROXIES. FATAL with EXIT_CONFIG, naming what is neither address nor network. */
MUST_CHECK enum outcome settings_proxies(const struct config *config, struct client_networks *ret,
                                         struct error *error);
enum http_log settings_http_log(const struct config *config); /* HTTP_LOG */
/* <SERVICE>_BACKLOG_MAX, where the service has such a setting: the bound of its routes with .backlog; else no
 * bound. */
int64_t settings_backlog_max(const struct config *config, const struct service *service);

#endif
