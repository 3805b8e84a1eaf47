/*
 * producer: idempotent, acks=all, murmur2_random, no time-out of its own (message.timeout.ms=0): a
 * record that was taken is reported durable or the producer is fatal. Order per partition is the
 * order of producer_send().
 */
#ifndef KAFKA_PRODUCER_H
#define KAFKA_PRODUCER_H

#include "base/text.h"
#include "kafka/client.h"
#include "wire/event.h"

struct producer;

struct producer_settings {
    struct client_settings client;
    int linger_ms;         /* default 0 (5 on throughput) */
    int queue_records_max; /* taken and not yet reported  */
    int queue_kbytes_max;
    bool gather; /* producer_send() only takes; see producer_go() */
    /* A broker refuses a request's batch as a whole, for one record of it. Neither: all of them are reported
     * REJECT. whole: none is; the producer is done for before anything behind them is in the log
     * (producer_refused()), and its owner, who keeps the records, sends them again by a producer that is
     * alone: each record is a batch of its own there, so that what is refused is it and no other. Slow. */
    bool whole, alone;
    const char *const
        *topics; /* metadata fetched at start (the first send to a topic is slow on 2.0.2); NULL ended */
};

struct producer_record {
    struct text topic;
    int32_t partition; /* -1: by key */
    struct text key, value;
    bool key_null, value_null;
    const struct header *headers;
    size_t header_count;
    int64_t timestamp_ms; /* 0: now */
};

/* On the producer's thread, once for each record taken. OK: durable on all in-sync replicas. REJECT: the
 * broker will never take it. FATAL: unknown; the producer is done for, open a new one and send again. offset
 * -1 where unknown. */
typedef void producer_report_fn(void *owner, uint64_t tag, enum outcome outcome, int32_t partition,
                                int64_t offset, const char *reason);

/* Does not wait for a broker. */
MUST_CHECK enum outcome producer_open(const struct producer_settings *settings, producer_report_fn *report,
                                      void *owner, struct producer **ret, struct error *error);
/* One thread. Copies all. OK: a report will come. RETRY ("queue-full"): not taken. REJECT: can never be
 * sent (too large). FATAL: the producer is done for. Never blocks. */
MUST_CHECK enum outcome producer_send(struct producer *producer, const struct producer_record *record,
                                      uint64_t tag, struct error *error);
/*
 * Of a producer that gathers: what was taken goes now if nothing is in flight (or much was taken, or 50 ms
 * ago), and otherwise together, as soon as all that is in flight is reported. So a lone record does not wait,
 * and under load a request carries what came during a round trip: fewer requests for the broker, and
 * librdkafka, which polls without a pause while a partition has more than five records in flight and others
 * queued, is not brought there. The sender's thread. Others: nothing.
 */
void producer_go(struct producer *producer);
size_t producer_in_flight(const struct producer *producer); /* any thread */
bool producer_is_fatal(const struct producer *producer);    /* any thread */
/* Of a fatal one with .whole: because the broker refused a batch. Any thread. */
bool producer_refused(const struct producer *producer);
/* Why it is fatal, where it is because the principal lacks an ACL ("not allowed: it needs the ACL Write on
 * topic …"), else NULL. Any thread. */
const char *producer_denied(const struct producer *producer);
/* Any broker connection up? For /readyz and the backlog's reason. Any thread. */
bool producer_connected(const struct producer *producer);
/* Waits until all is reported, at most timeout_ms; false when not. */
bool producer_flush(struct producer *producer, int timeout_ms);
/* Ends within about timeout_ms whatever the brokers do; what was not reported by then is not reported. */
void producer_close(struct producer *producer, int timeout_ms);

#endif
