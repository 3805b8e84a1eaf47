/*
 * cluster: a PostgreSQL of the test's own (tests/support/postgres), on a unix socket in a folder of its own.
 * Where there is none to be had, cluster_start() ends the program with 77: skipped. All else aborts on
 * failure.
 */
#ifndef SUPPORT_CLUSTER_H
#define SUPPORT_CLUSTER_H

#include <stddef.h>
#include <stdint.h>

enum { CLUSTER_URL_BYTES = 256 };

struct cluster {
    char folder[128];
    const char *settings[4]; /* of postgresql.conf, "name=value", NULL ended; set before cluster_start() */
};

void cluster_start(struct cluster *cluster);
void cluster_remove(struct cluster *cluster);
void cluster_stop(struct cluster *cluster); /* as an operator does */
void cluster_kill(struct cluster *cluster); /* as the power does */
void cluster_go_on(struct cluster *cluster);
/* A new, empty database. */
void cluster_make(struct cluster *cluster, char url[CLUSTER_URL_BYTES]);
/* The same database by pgbouncer in transaction mode; ends the program with 77 where there is none. */
void cluster_pooler(struct cluster *cluster, const char *url, char pooled[CLUSTER_URL_BYTES]);
/* Statements, and the first column of the last one's first row as a number (0: none). */
int64_t cluster_do(const char *url, const char *sql);
/* All rows of the first column, a line each, cut at the size. */
void cluster_ask(const char *url, const char *sql, char *into, size_t size);

#endif
