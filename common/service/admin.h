/*
 * admin: who may use the routes that move records and pause services: whoever shows ADMIN_TOKEN.
 */
#ifndef SERVICE_ADMIN_H
#define SERVICE_ADMIN_H

#include "base/digest.h"
#include "flow/handler.h"

/* The state of such routes: http_add_routes(server, routes, &token). Only the token's digest is kept. */
struct admin_token {
    bool given;
    uint8_t digest[DIGEST_BYTES];
};
/* text: the setting ADMIN_TOKEN, NULL where there is none. */
struct admin_token admin_token_of(const char *text);

/* A struct route's admit, state a struct admin_token: 0; 401 without "Authorization: Bearer" and the right
 * token behind it; 403 for all where no token is set. The comparison takes as long whatever is wrong. */
int admin_admit(const void *state, const struct request *request, const char **ret_detail);

#endif
