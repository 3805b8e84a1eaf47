/*
 * idempotency: what makes a POST safe to repeat: the first answer to its Idempotency-Key, kept for
 * IDEMPOTENCY_KEPT_S in the table `idempotency`, written with what the request changed. Routes of other
 * methods, and requests without a key, pass through. Inside a unit of work, on the loop's thread.
 */
#ifndef FLOW_IDEMPOTENCY_H
#define FLOW_IDEMPOTENCY_H

#include "flow/handler.h"

enum { IDEMPOTENCY_KEPT_S = 24 * 3600, IDEMPOTENCY_PRUNE_MAX = 500 };

extern const struct rows_table idempotency_table;

/* Names the row that the calls below need. */
void idempotency_keys(struct work *work, const struct request *request);
/*
 * True: *answer is set (the first answer again, 409 while the first still runs, that is: is in this same
 * batch, or 422 for another payload); the handler must not run.
 */
bool idempotency_answered(struct work *work, const struct request *request, struct answer *answer);
/* After the handler: keeps the answer, but for 400, 422 and 5xx. */
void idempotency_keep(struct work *work, const struct request *request, const struct answer *answer);
/* Deletes answers that have outlived their time, at most IDEMPOTENCY_PRUNE_MAX; how many. */
size_t idempotency_prune(struct work *work, int64_t now_us);

#endif
