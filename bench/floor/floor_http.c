/*
 * What the HTTP library does with no work behind it: reads each request whole and answers 202 with as many
 * bytes as weir-order's answer has. The daemon is set as common/service/http.c sets it: one thread of its
 * own, poll.
 *
 * floor_http prints the port that it listens on, and ends when its standard input does.
 */
#include <arpa/inet.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 1024, IDLE_SECONDS = 60, MEMORY_BYTES = 32768 };
static char ANSWER[] =
    "{\"order_id\":\"01937a5e-5c1e-7b60-a1d4-7a0c5b6e9f11\",\"state\":\"placed\",\"currency\":\"EUR\","
    "\"total_minor\":4711,\"placed_at\":\"2026-11-21T12:00:00.000000Z\"}";

static enum MHD_Result on_request(void *owner, struct MHD_Connection *connection, const char *target,
                                  const char *method, const char *version, const char *body, size_t *count,
                                  void **context)
{
    (void)owner, (void)target, (void)method, (void)version, (void)body;
    static char seen;
    if (!*context) {
        *context = &seen;
        return MHD_YES;
    }
    if (*count) {
        *count = 0;
        return MHD_YES;
    }
    struct MHD_Response *response =
        MHD_create_response_from_buffer(sizeof(ANSWER) - 1, ANSWER, MHD_RESPMEM_PERSISTENT);
    if (!response)
        return MHD_NO;
    (void)MHD_add_response_header(response, "Content-Type", "application/json");
    enum MHD_Result queued = MHD_queue_response(connection, MHD_HTTP_ACCEPTED, response);
    MHD_destroy_response(response);
    return queued;
}

int main(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct MHD_Daemon *daemon = MHD_start_daemon(
        MHD_USE_POLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC, 0, NULL, NULL, on_request,
        NULL, MHD_OPTION_SOCK_ADDR, (struct sockaddr *)&address, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_SECONDS,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)MEMORY_BYTES, MHD_OPTION_STRICT_FOR_CLIENT, 1,
        MHD_OPTION_END);
    socklen_t length = sizeof(address);
    const union MHD_DaemonInfo *info = daemon ? MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_LISTEN_FD) : NULL;
    if (!info || getsockname(info->listen_fd, (struct sockaddr *)&address, &length)) {
        fputs("floor_http: it does not start\n", stderr);
        return 70;
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
    MHD_stop_daemon(daemon);
    return 0;
}
