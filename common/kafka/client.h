/*
 * client: how every librdkafka handle is made, and how its errors become outcomes. Settings that have
 * traps behind them are set here and nowhere else (DESIGN §5 in the code map).
 */
#ifndef KAFKA_CLIENT_H
#define KAFKA_CLIENT_H

#include "base/config.h"
#include "base/error.h"

/* librdkafka's own log lines and what this folder has to say: any thread, must not call back. level as
 * syslog. */
typedef void client_log_fn(void *owner, int level, const char *facility, const char *text);

struct client_settings {
    const char *bootstrap_servers;
    const char *client_id;
    const struct config *config;   /* made with kafka_settings among its tables; may be NULL */
    const char *const *properties; /* name, value, …, NULL: as -X, and before those; may be NULL */
    client_log_fn *log;
    void *log_owner;
};
extern const struct setting kafka_settings[]; /* KAFKA_BOOTSTRAP_SERVERS, … */

/* 0x020002ff: the version at run time. */
int client_library_version(void);

#endif
