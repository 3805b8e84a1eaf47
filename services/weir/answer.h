/* answer: is an HTTP/1.1 answer whole, and what does it say? For clients that look at no more than its
 * status. */
#ifndef WEIR_ANSWER_H
#define WEIR_ANSWER_H

#include <stdbool.h>
#include <stddef.h>

/* bytes[length] is set to 0. The status of a whole answer; 0 while it is not whole; -1 for what is none, or
 * longer than bytes_max. */
int answer_status(char *bytes, size_t length, size_t bytes_max, bool *ret_close);

#endif
