/* placed: the bytes of an OrderPlaced as producers write them, for tests that need some order. */
#ifndef SUPPORT_PLACED_H
#define SUPPORT_PLACED_H

#include "base/text.h"

/* One item, 5 cents. mark is the order's locale, by which a test may tell it. To be freed by buffer_free();
 * aborts on failure. */
struct buffer placed_value(struct text order_id, struct text customer, struct text mark);

#endif
