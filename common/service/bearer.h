/*
 * bearer: a token that a request shows as "Authorization: Bearer …": ADMIN_TOKEN and API_TOKEN. Any thread.
 */
#ifndef SERVICE_BEARER_H
#define SERVICE_BEARER_H

#include "base/digest.h"
#include "flow/handler.h"

/* What is asked for. Only the token's digest is kept. */
struct bearer_token {
    bool given;
    uint8_t digest[DIGEST_BYTES];
};
/* text: the setting, NULL where there is none. */
struct bearer_token bearer_token_of(const char *text);

enum bearer_shown { BEARER_RIGHT, BEARER_MISSING, BEARER_WRONG };
/* Of a token that is given. The comparison takes as long whatever is wrong. */
enum bearer_shown bearer_look(const struct bearer_token *token, const struct request *request);

#endif
