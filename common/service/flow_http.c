#include "service/flow_http.h"

static const struct route routes[] = {
    {.method = "GET", .path = "/v1/flow", .kind = ROUTE_READ},
    {.method = "POST",
     .path = "/v1/flow/pause",
     .kind = ROUTE_READ,
     .admit = admin_admit,
     .admits_alone = true},
    {.method = "POST",
     .path = "/v1/flow/resume",
     .kind = ROUTE_READ,
     .admit = admin_admit,
     .admits_alone = true},
    {0},
};
enum { ROUTE_SHOW, ROUTE_PAUSE, ROUTE_RESUME, STATUS_BYTES_MAX = 4096 };

void flow_http_open(struct flow_http *flow, struct server *server, struct dispatch *dispatch,
                    struct bearer_token token)
{
    *flow = (struct flow_http){.token = token, .dispatch = dispatch};
    http_add_routes(server, routes, &flow->token);
}

bool flow_http_answers(struct flow_http *flow, struct exchange *exchange, const struct request *request)
{
    if (request->route < routes || request->route > &routes[ROUTE_RESUME])
        return false;
    if (request->route == &routes[ROUTE_PAUSE])
        dispatch_pause(flow->dispatch);
    if (request->route == &routes[ROUTE_RESUME])
        dispatch_resume(flow->dispatch);
    struct buffer body = buffer_of(STATUS_BYTES_MAX);
    dispatch_status(flow->dispatch, &body);
    buffer_add_char(&body, '\n');
    http_answer(exchange, &(struct answer){.status = 200, .body = buffer_text(&body)});
    buffer_free(&body);
    return true;
}
