/*
 * service: what every service wears. A service is one constant struct; main.c is service_main(&WEIR_SERVICE,
 * argc, argv).
 *
 * Verbs: serve (default), config, check, --help, --version. service_main() makes settings, log, signals,
 * store, Kafka, loop, HTTP, health and metrics, drains on SIGTERM, and returns the exit code. What is common
 * to all (settings.h, health.h, check.h) comes by itself.
 *
 * A setting <SERVICE>_BACKLOG_MAX in its own table (ORDER_BACKLOG_MAX) bounds the outbox for its routes with
 * .backlog.
 */
#ifndef SERVICE_SERVICE_H
#define SERVICE_SERVICE_H

#include "base/clock.h"
#include "base/config.h"
#include "base/digest.h"
#include "flow/handler.h"
#include "flow/lanes.h"
#include "flow/prune.h"
#include "net/net.h"

struct service_start;

struct service {
    const char *name;                         /* "order" */
    const char *about;                        /* one line for --help */
    int http_port;                            /* default of HTTP_LISTEN */
    const struct setting *settings;           /* its own, SETTINGS_END; may be NULL */
    const struct subscription *subscriptions; /* ended by .type == NULL */
    const struct route *routes;               /* ended by .path == NULL */
    const struct tick *ticks;                 /* ended by .name == NULL; may be NULL */
    const struct lane *const *lanes;          /* NULL ended; may be NULL */
    const struct rows_table *const *tables;   /* NULL ended */
    const enum topic_id *writes;              /* topics of what it emits, ended by TOPIC_COUNT; NULL: none */
    const struct migration *migrations;       /* ended by .number == 0; may be NULL */
    const struct metric_family *metrics;      /* its own, for docs; ended by .name == NULL; may be NULL */
    size_t state_bytes;                       /* zeroed, owned by service_main() */
    /* After settings are read and the store is open, before anything is handled. limits: one for each lane,
     * with defaults in. */
    enum outcome (*start)(void *state, const struct service_start *start, struct error *error);
    void (*stop)(void *state); /* after the drain */
    /* For `check`: can I reach what only I need, and would start() take the settings? One line a part through
     * say(): OUTAGE where it cannot be reached, FATAL where a setting is wrong. Optional. */
    enum outcome (*check)(const struct config *config,
                          void (*say)(const char *part, enum outcome outcome, const char *text),
                          struct error *error);
    const char *openapi; /* the text of GET /openapi.json (generated from the file in the tree), or NULL */
};

struct metrics;
struct server;
struct service_start {
    const struct config *config;
    struct metrics *metrics;
    struct lane_limits *limits; /* in the order of service->lanes */
    const char *database_url;   /* for store_reader_open() by threads of its own */
    struct server *http;        /* for routes that are not requests: pages, event streams (service/http.h) */
};

int service_main(const struct service *service, int argc, char **argv);

#endif
