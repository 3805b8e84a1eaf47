/*
 * kafka_node: a single real Kafka node (KRaft, broker and controller in one process) on loopback, from Kafka's own jars. All it keeps
 * is in one folder; another start goes on from what is there, also on other ports.
 *
 * KAFKA_HEAP_OPTS and KAFKA_OPTS go to java, as with Kafka's own scripts.
 */
#ifndef WEIR_KAFKA_NODE_H
#define WEIR_KAFKA_NODE_H

#include "child.h"

enum { KAFKA_NODE_FORMAT_MS_MAX = 60000, KAFKA_NODE_START_MS_MAX = 150000 };

struct kafka_node {
    const char *home;   /* Kafka's jars in home/libs; NULL: where compose/kafka/fetch puts them */
    const char *folder; /* absolute; data, configuration and its own log */
    int port, controller_port;
};

/*
 * Writes its configuration, formats its storage on first use, and puts its command line into child. OUTAGE with what to do where
 * java or the jars are missing or the storage cannot be formatted.
 */
MUST_CHECK enum outcome kafka_node_prepare(const struct kafka_node *node, struct child *child, struct error *error);

#endif
