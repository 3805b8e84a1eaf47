/*
 * admin: who may use the routes that move records and pause services: whoever shows ADMIN_TOKEN.
 */
#ifndef SERVICE_ADMIN_H
#define SERVICE_ADMIN_H

#include "service/bearer.h"

/*
 * A struct route's admit, state a struct bearer_token (http_add_routes(server, routes, &token)): 0; 401
 * without "Authorization: Bearer" and the right token behind it; 403 for all where no token is set. Such a
 * route has .admits_alone: API_TOKEN opens nothing here.
 */
int admin_admit(const void *state, const struct request *request, const char **ret_detail);

#endif
