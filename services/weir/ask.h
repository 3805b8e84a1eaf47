/* ask: one HTTP request at a time, waited for: readiness, metrics, stock. One thread an ask. */
#ifndef WEIR_ASK_H
#define WEIR_ASK_H

#include "base/text.h"

struct ask;
MUST_CHECK enum outcome ask_open(struct ask **ret, struct error *error);
void ask_close(struct ask *ask); /* accepts NULL */

/* From now on what is no GET bears this token; NULL: none. Lent. */
void ask_authorize(struct ask *ask, const char *token);
/* json: empty for none. OK for any answer, whatever its status; its body is in *ret_body until the next call. */
MUST_CHECK enum outcome ask_http(struct ask *ask, const char *method, const char *url, struct text json, int timeout_ms,
                                 int *ret_status, struct text *ret_body, struct error *error);
/* With a header line of the caller's, "Authorization: Bearer …"; NULL: none. */
MUST_CHECK enum outcome ask_http_as(struct ask *ask, const char *method, const char *url, const char *header, struct text json,
                                    int timeout_ms, int *ret_status, struct text *ret_body, struct error *error);

#endif
