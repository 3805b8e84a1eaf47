/*
 * dlq_http: this service's dead letters over HTTP, for a console (with ADMIN_TOKEN, service/admin.h):
 *
 *   GET  /v1/dlq?class=&fingerprint=&type=&key=&id=&since=&until=&state=&limit=&after=   a page of them
 *   GET  /v1/dlq?by=fingerprint                                                          by cause
 *   GET  /v1/dlq/{partition}/{offset}                                                    one
 *   POST /v1/dlq/redrive, /v1/dlq/drop                        202 and a job; 200 and the forecast for dry_run
 *   GET  /v1/dlq/jobs/{id}, POST /v1/dlq/jobs/{id}/stop       how far it is; stop it
 *
 * Neither the loop nor an HTTP thread ever waits for it: one thread reads (at most DLQ_READS_MAX requests
 * wait for it, more are 503), another does the one job there may be (a second one is 409). Jobs are known as
 * long as the process lives, the last DLQ_JOBS_KEPT of them; what they did is in the audit for good, under
 * the job's id.
 */
#ifndef SERVICE_DLQ_HTTP_H
#define SERVICE_DLQ_HTTP_H

#include "service/admin.h"
#include "service/http.h"

#include "kafka/client.h"

enum { DLQ_READS_MAX = 8, DLQ_JOBS_KEPT = 16 };

struct dlq_http;
struct dlq_http_settings {
    const char *service;           /* lent, as all text here */
    struct client_settings client; /* its config names the schema registry as well */
    int64_t first_delay_ms;        /* of RETRY_DELAYS; -1: there is none, and nothing can be sent back */
    struct bearer_token token;
};
/* Adds the routes; before http_start(). Starts its threads. */
MUST_CHECK enum outcome dlq_http_open(const struct dlq_http_settings *settings, struct server *server,
                                      struct dlq_http **ret, struct error *error);
/* In server_settings.request: true where the request was one of these; it is answered now or later. */
bool dlq_http_answers(struct dlq_http *dlq, struct exchange *exchange, const struct request *request);
/* A drain begins: the job ends after what is in flight. Any thread. */
void dlq_http_stop(struct dlq_http *dlq);
/* Before http_close(). Ends within about timeout_ms, whatever Kafka does: what is not answered by then is
 * http_close()'s, and a thread that still waits for Kafka is left to the end of the process, with all that it
 * uses. From then on all is answered 503. Accepts NULL. */
void dlq_http_close(struct dlq_http *dlq, int timeout_ms);
/* After http_close(): no request comes any more. Accepts NULL. */
void dlq_http_free(struct dlq_http *dlq);

#endif
