/*
 * flow_http: the routes by which people look at a service's flow, pause it and let it go on: GET /v1/flow,
 * POST /v1/flow/pause, POST /v1/flow/resume (with ADMIN_TOKEN, service/admin.h). Answered on the HTTP thread
 * at once, so that they work while the loop waits for its database.
 */
#ifndef SERVICE_FLOW_HTTP_H
#define SERVICE_FLOW_HTTP_H

#include "flow/dispatch.h"
#include "service/admin.h"
#include "service/http.h"

struct flow_http {
    struct bearer_token token;
    struct dispatch *dispatch; /* lent */
};

/* After dispatch_open(), before http_start(). */
void flow_http_open(struct flow_http *flow, struct server *server, struct dispatch *dispatch,
                    struct bearer_token token);
/* In server_settings.request: true where the request was one of these, and is answered. */
bool flow_http_answers(struct flow_http *flow, struct exchange *exchange, const struct request *request);

#endif
