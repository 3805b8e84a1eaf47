/*
 * handle: what the files of this folder share about librdkafka handles. Nobody else includes it: this header
 * and rdkafka.h stay in kafka/.
 */
#ifndef KAFKA_HANDLE_H
#define KAFKA_HANDLE_H

#include "kafka/client.h"

#include <librdkafka/rdkafka.h>
#include <pthread.h>

/* Everything is a consumer or a producer to librdkafka; an admin is a producer that sends nothing. */
enum handle_kind { HANDLE_PRODUCER, HANDLE_CONSUMER, HANDLE_READER, HANDLE_ADMIN };
enum {
    HANDLE_SESSION_MS = 45000, /* what librdkafka assumes where session.timeout.ms cannot be asked for */
    HANDLE_CREDENTIAL_BYTES_MAX = 1024, /* a longer name or password: fetchers are not woken */
};

/* Opaque of every handle, first member of its owner's struct. The lock makes it safe to take the log away
 * while librdkafka's threads still run (a handle whose destruction does not end). */
struct handle {
    rd_kafka_t *rk;
    pthread_mutex_t log_lock;
    client_log_fn *log;
    void *log_owner;
    bool secured;        /* TLS or a login: there is somebody whom ACLs may be about */
    bool oauthbearer;    /* tokens are asked for on librdkafka's own thread */
    bool fetchers_sleep; /* a full queue makes them sleep for a second, unless they are woken */
    char trouble[256];   /* why the last connection failed, under log_lock; empty: nothing known */
};

void handle_init(struct handle *handle, const struct client_settings *settings);
void handle_log(struct handle *handle, int level, const char *facility, const char *format, ...)
    PRINTF_LIKE(4, 5);

/*
 * more: name, value, …, NULL: what the caller adds (group id, linger), before the user's own properties,
 * which come last. REJECT (exit 78) where a property is unknown, has a bad value, or would break what Weir
 * promises.
 */
MUST_CHECK enum outcome handle_conf(struct handle *handle, const struct client_settings *settings,
                                    enum handle_kind kind, const char *const *more, rd_kafka_conf_t **ret,
                                    struct error *error);
/* Takes conf. */
MUST_CHECK enum outcome handle_open(struct handle *handle, enum handle_kind kind, rd_kafka_conf_t *conf,
                                    struct error *error);
/*
 * Destroys the handle on a thread of its own and waits at most timeout_ms for it: rd_kafka_destroy() joins
 * threads that may sit in a socket. After it nothing more is logged. release(owner) is called when the handle
 * is gone, on whichever thread; where that is after the time-out, owner lives until then (or to the end of
 * the process).
 */
void handle_destroy(struct handle *handle, int timeout_ms, void (*release)(void *owner), void *owner);

/* They look again whether their queue has room. A consumer whose fetchers_sleep, after it took from its
 * queue; one thread a handle. Does not wait. */
void handle_wake_fetchers(struct handle *handle);

/* The one place where librdkafka's and the broker's codes become outcomes. */
enum outcome handle_outcome(rd_kafka_resp_err_t err);
/* Sets *error by the code: "prefix: broker's text (NAME)". Returns the outcome, OK for no error. */
enum outcome handle_error(struct error *error, rd_kafka_resp_err_t err, const char *prefix,
                          const char *reason);
/* Why no broker can be talked to, as the last failed connection had it ("ssl://host:port: SSL handshake
 * failed: …"); false where nothing is known. Any thread. */
bool handle_trouble(struct handle *handle, char *into, size_t into_bytes);
void handle_trouble_over(struct handle *handle);
/* Is it the broker that says that this principal may not? */
bool handle_denied(rd_kafka_resp_err_t err);
/* What the principal lacks: "not allowed: it needs the ACL Read on topic orders
 * (TOPIC_AUTHORIZATION_FAILED)". */
void handle_denial(rd_kafka_resp_err_t err, const char *operation, const char *resource, const char *name,
                   char *into, size_t into_bytes);
/* What the cluster knows of these topics, asked for by name (names is NULL ended): of a list of all topics
 * those that a principal may not see are left out, here they come with the broker's error. Without TLS or a
 * login it is the list of all: a question by name makes the topic where the mock cluster is asked. */
rd_kafka_resp_err_t handle_metadata(struct handle *handle, const char *const *names, int timeout_ms,
                                    const struct rd_kafka_metadata **ret);
/* Is a connection to any broker up, in librdkafka's statistics? */
bool handle_statistics_up(const char *json, size_t bytes);

#endif
