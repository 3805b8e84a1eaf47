/*
 * dlq_page: one page of dead letters in the order of partition and offset, out of a stream in which the
 * partitions come mixed. Bounded whatever the number of letters: limit of them, and DLQ_PAGE_BYTES_MAX of
 * JSON (a page has one letter at least). Pure.
 */
#ifndef SERVICE_DLQ_PAGE_H
#define SERVICE_DLQ_PAGE_H

#include "base/json.h"

enum { DLQ_PAGE_BYTES_MAX = 3 << 20 };

struct dlq_page {
    struct dlq_page_item {
        int32_t partition;
        int64_t offset;
        char *json;
        size_t bytes;
    } * items;
    size_t count, limit, bytes;
    int32_t after_partition; /* only what comes behind this place; -1: all */
    int64_t after_offset;
    bool more; /* what is left out: from this place on */
    int32_t bound_partition;
    int64_t bound_offset;
    bool failed; /* out of memory */
};
MUST_CHECK enum outcome dlq_page_new(struct dlq_page *page, size_t limit, int32_t after_partition,
                                     int64_t after_offset, struct error *error);
void dlq_page_free(struct dlq_page *page);
/* Would it be on the page, by what is known so far? Asked before its JSON is made. */
bool dlq_page_wants(const struct dlq_page *page, int32_t partition, int64_t offset);
void dlq_page_add(struct dlq_page *page, int32_t partition, int64_t offset, struct text json); /* copied */
/* {"items": […], "next": "3:17" or null} */
void dlq_page_to_json(const struct dlq_page *page, struct buffer *into);

#endif
