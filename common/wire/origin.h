/*
 * origin: what the headers of a copy on a retry or dead letter topic say: where the record first was, how
 * often it was tried, and why it failed. Read from Weir's own headers, KIP-1191's, Spring Kafka's and Kafka
 * Connect's. Pure; slices point into the headers.
 *
 * A record's life in numbers: deliveries goes up with every attempt and never falls; it tells two deliveries
 * of one event apart (store/inbox.h). attempt begins again at 0 with each redrive; it says which retry topic
 * is next. redrives says how often people sent it back.
 */
#ifndef WIRE_ORIGIN_H
#define WIRE_ORIGIN_H

#include "wire/event.h"

#define HEADER_ERRORS_TOPIC          "__dlq.errors.topic"
#define HEADER_ERRORS_PARTITION      "__dlq.errors.partition"
#define HEADER_ERRORS_OFFSET         "__dlq.errors.offset"
#define HEADER_ERRORS_GROUP          "__dlq.errors.group"
#define HEADER_ERRORS_DELIVERY_COUNT "__dlq.errors.delivery.count"
#define HEADER_ERRORS_MESSAGE        "__dlq.errors.message"
#define HEADER_CLASS                 "weir_error_class"
#define HEADER_FINGERPRINT           "weir_error_fingerprint"
#define HEADER_ATTEMPT               "weir_attempt"
#define HEADER_FIRST_FAILED_AT       "weir_first_failed_at"
#define HEADER_DUE_AT                "weir_due_at" /* RFC 3339, on retry topics only */
/* On what people sent back (retry.<service>.<first delay>). */
#define HEADER_REDRIVES    "weir_redrives"    /* how often, this one included */
#define HEADER_REDRIVEN_AT "weir_redriven_at" /* RFC 3339 */
#define HEADER_REDRIVEN_BY "weir_redriven_by"
/* On a retry topic: not to be handled; its effect is given up for good and its key let go. The reason. */
#define HEADER_DROP       "weir_drop"
#define HEADER_DROPPED_AT "weir_dropped_at"
#define HEADER_DROPPED_BY "weir_dropped_by"

enum origin_kind {
    ORIGIN_NONE,   /* no such headers: junk on a retry topic, or a record that is no copy */
    ORIGIN_WEIR,   /* with KIP-1191's names, by us or by another                          */
    ORIGIN_SPRING, /* kafka_dlt-original-*, kafka_original-*: big-endian numbers          */
    ORIGIN_CONNECT /* __connect.errors.*, text                                            */
};

enum {
    ORIGIN_COUNT_MAX = 1000000, /* of deliveries, attempts, redrives; more counts as not said */
    /* What a copy may carry of ours, beside what its record had (HEADERS_COUNT_MAX, HEADERS_BYTES_MAX). */
    ORIGIN_HEADERS_MAX = 32,
    ORIGIN_HEADERS_BYTES_MAX = 8 << 10,
};

struct origin {
    enum origin_kind kind;
    struct text topic; /* where it first was; a retry topic only for junk that was put there by others */
    int32_t partition; /* -1: not said */
    int64_t offset;    /* -1: not said */
    struct text group; /* that failed on it (Connect: the connector); empty: not said */
    int deliveries;    /* attempts in all, 0 where it is not said */
    int attempt;       /* attempts since it was first delivered or last redriven */
    int redrives;
    int64_t first_failed_us;                 /* 0: not said */
    int64_t due_us;                          /* 0: not said */
    struct text class, fingerprint, message; /* as long as they came */
    struct text drop;                        /* the reason; empty: it is not dropped */
};

/* What is malformed counts as not said; without a topic's name that Kafka would take there is no origin. Of
 * several kinds the first in the order of enum origin_kind counts. Beyond topic to message only Weir's own
 * headers say anything. */
void origin_read(const struct header *headers, size_t count, struct origin *ret);
/* Is it one of the names above, or another "__dlq.errors." or "weir_": replaced in each new copy? */
bool origin_is_ours(struct text name);
/* Would these headers be taken, were those of ours not counted among the record's own? */
bool origin_headers_fit(const struct header *headers, size_t count);
/* Is it one of Spring's or Connect's error headers, taken away when a record is sent home? */
bool origin_is_foreign(struct text name);

#endif
