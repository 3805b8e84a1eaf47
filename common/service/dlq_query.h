/*
 * dlq_query: what a request to /v1/dlq asks for, out of its query or its body. Pure.
 */
#ifndef SERVICE_DLQ_QUERY_H
#define SERVICE_DLQ_QUERY_H

#include "flow/handler.h"
#include "flow/redrive.h"

enum {
    DLQ_LIMIT_DEFAULT = 100,
    DLQ_LIMIT_MAX = 1000,
    DLQ_RATE_DEFAULT = 100, /* a second */
    DLQ_TEXT_BYTES_MAX = 1024,
};

struct dlq_query {
    struct letter_filter filter; /* points into texts; .service is the caller's to set */
    struct {
        char type[DLQ_TEXT_BYTES_MAX + 1], class[DLQ_TEXT_BYTES_MAX + 1], fingerprint[DLQ_TEXT_BYTES_MAX + 1],
            id[DLQ_TEXT_BYTES_MAX + 1], key[DLQ_TEXT_BYTES_MAX + 1];
    } texts;
    /* Of a list. */
    bool all_states, by_cause;
    enum letter_state state;
    int64_t limit;
    int32_t after_partition; /* -1: from the beginning */
    int64_t after_offset;
    /* Of a redrive or a drop. */
    int64_t rate_per_hour, letters_max;
    bool dry_run, again;
    char reason[LETTER_REASON_BYTES_MAX + 1], by[REDRIVE_BY_BYTES_MAX];
};
/*
 * GET /v1/dlq?class=&fingerprint=&type=&key=&id=&since=&until=&state=&limit=&after=&by=. What is wrong is
 * added to faults, names that are not known too: a misspelt filter would show too much.
 */
void dlq_query_of_list(const struct request *request, struct dlq_query *ret, struct codec_faults *faults);
/* The body of POST /v1/dlq/redrive and /drop: the same filter, and rate (letters a second as a number, or
 * "100/min"), limit, again, dry_run, by; reason, which a drop must have. */
void dlq_query_of_order(const json_t *body, bool drop, struct dlq_query *ret, struct codec_faults *faults);
/* A query points into itself: only this makes another one of it. */
void dlq_query_copy(const struct dlq_query *query, struct dlq_query *ret);
/* "3" and "17". */
bool dlq_place(struct text partition, struct text offset, int32_t *ret_partition, int64_t *ret_offset);

#endif
