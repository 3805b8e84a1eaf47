/*
 * sent: the rows of the outbox that were sent and are not deleted yet, with their parts. Reading the table again then
 * skips them, wherever it begins. The loop's own.
 */
#ifndef FLOW_SENT_H
#define FLOW_SENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sent_row {
    int64_t seq; /* 0: an empty place; a row's is at least 1 */
    int32_t part;
};

/* All zero: empty. */
struct sent {
    struct sent_row *rows;
    size_t count, mask; /* mask + 1 places; 0: none yet */
};

enum { SENT_ROWS_MAX = 2 << 20 }; /* under way at Kafka, or acknowledged and not deleted */

void sent_free(struct sent *sent);
/* False: full, or out of memory. */
bool sent_add(struct sent *sent, int64_t seq, int32_t part);
bool sent_has(const struct sent *sent, int64_t seq);
void sent_remove(struct sent *sent, int64_t seq);
void sent_clear(struct sent *sent);
/* Sets true for each part below count that has a row. */
void sent_parts(const struct sent *sent, bool *parts, int32_t count);

#endif
