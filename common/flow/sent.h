/*
 * sent: the rows of the outbox that were sent and are not deleted yet, with their parts. Reading the table
 * again then skips them, wherever it begins. The loop's own.
 */
#ifndef FLOW_SENT_H
#define FLOW_SENT_H

#include "base/int_map.h"

/* All zero: empty. */
struct sent {
    struct int_map parts; /* int32_t, by the row's number, which is at least 1 */
};

enum { SENT_ROWS_MAX = 2 << 20 }; /* under way at Kafka, or acknowledged and not deleted */

void sent_free(struct sent *sent);
/* One that is there already gets the part anew. False: full, or out of memory. */
bool sent_add(struct sent *sent, int64_t seq, int32_t part);
bool sent_has(const struct sent *sent, int64_t seq);
void sent_remove(struct sent *sent, int64_t seq);
void sent_clear(struct sent *sent);
size_t sent_count(const struct sent *sent);
/* Sets true for each part below count that has a row. */
void sent_parts(const struct sent *sent, bool *parts, int32_t count);

#endif
