/* weir bench's sender over HTTP, against a server that is slow, stops for a while, or closes. What is told of
 * the orders is kept by the test itself. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "weir/bench_load.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define SECOND INT64_C(1000000)

enum { CLIENTS_MAX = 32, REQUEST_BYTES_MAX = 4096, WAIT_US = 120000000 };

/* ---- the track, for one order after the other */

struct bench_track {
    struct bench_order *orders;
    int64_t begun_us;
    int64_t sent, accepted, refused, dropped;
};

static uint32_t since_due(const struct bench_track *track, size_t index, int64_t now_us)
{
    int64_t us = now_us - track->begun_us - track->orders[index].due_us;
    return us < 0 ? 1 : (uint32_t)us + 1;
}

void bench_track_sent(struct bench_track *track, size_t index, int64_t now_us)
{
    track->orders[index].sent_us = since_due(track, index, now_us);
    track->sent++;
}

void bench_track_accepted(struct bench_track *track, size_t index, int64_t now_us)
{
    assert_int_equal(track->orders[index].accepted_us, 0); /* once */
    track->orders[index].accepted_us = since_due(track, index, now_us);
    track->accepted++;
}

void bench_track_refused(struct bench_track *track, size_t index)
{
    (void)index;
    track->refused++;
}

void bench_track_dropped(struct bench_track *track, size_t index)
{
    (void)index;
    track->dropped++;
}

int64_t bench_track_outstanding(struct bench_track *track)
{
    return track->sent - track->accepted - track->refused;
}

/* ---- a server: one thread, requests in turn */

struct server {
    pthread_t thread;
    int listening, port;
    atomic_bool stopping;
    int64_t stall_at, stall_us; /* after so many requests it does nothing for so long */
    int64_t close_every;        /* every so many requests it closes instead of answering; 0: never */
    const char *answer;
    int64_t requests, answered;
    int clients[CLIENTS_MAX];
    size_t received[CLIENTS_MAX];
    char bytes[CLIENTS_MAX][REQUEST_BYTES_MAX];
};

static void hang_up(struct server *server, size_t at)
{
    close(server->clients[at]);
    server->clients[at] = -1;
    server->received[at] = 0;
}

static void answer(struct server *server, size_t at)
{
    if (++server->requests == server->stall_at)
        poll(NULL, 0, (int)(server->stall_us / 1000));
    server->received[at] = 0;
    if (server->close_every && server->requests % server->close_every == 0) {
        hang_up(server, at);
        return;
    }
    server->answered++;
    if (send(server->clients[at], server->answer, strlen(server->answer), MSG_NOSIGNAL) < 0)
        hang_up(server, at);
}

static void receive(struct server *server, size_t at)
{
    char *bytes = server->bytes[at];
    ssize_t count = recv(server->clients[at], bytes + server->received[at],
                         REQUEST_BYTES_MAX - 1 - server->received[at], 0);
    if (count <= 0) {
        hang_up(server, at);
        return;
    }
    server->received[at] += (size_t)count;
    bytes[server->received[at]] = '\0';
    const char *end = strstr(bytes, "\r\n\r\n"), *length = strstr(bytes, "Content-Length: ");
    if (end && length && strlen(end + 4) >= strtoul(length + 16, NULL, 10))
        answer(server, at);
}

static void *serve(void *owner)
{
    struct server *server = owner;
    while (!atomic_load(&server->stopping)) {
        struct pollfd fds[CLIENTS_MAX + 1] = {{.fd = server->listening, .events = POLLIN}};
        for (size_t i = 0; i < CLIENTS_MAX; i++)
            fds[i + 1] = (struct pollfd){.fd = server->clients[i], .events = POLLIN};
        poll(fds, CLIENTS_MAX + 1, 20);
        for (size_t i = 0; i < CLIENTS_MAX; i++)
            if (server->clients[i] >= 0 && fds[i + 1].revents)
                receive(server, i);
        for (size_t i = 0; fds[0].revents && i < CLIENTS_MAX; i++)
            if (server->clients[i] < 0) {
                server->clients[i] = accept(server->listening, NULL, NULL);
                break;
            }
    }
    return NULL;
}

static void server_start(struct server *server)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    for (size_t i = 0; i < CLIENTS_MAX; i++)
        server->clients[i] = -1;
    server->listening = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(server->listening, (const void *)&address, sizeof(address)), 0);
    assert_int_equal(listen(server->listening, CLIENTS_MAX), 0);
    assert_int_equal(getsockname(server->listening, (void *)&address, &size), 0);
    server->port = ntohs(address.sin_port);
    assert_int_equal(pthread_create(&server->thread, NULL, serve, server), 0);
}

static void server_stop(struct server *server)
{
    atomic_store(&server->stopping, true);
    pthread_join(server->thread, NULL);
    for (size_t i = 0; i < CLIENTS_MAX; i++)
        if (server->clients[i] >= 0)
            close(server->clients[i]);
    close(server->listening);
}

/* ---- a load against it */

struct run {
    struct bench_track track;
    struct bench_load load;
    int64_t *due_us;
};

static const char accepted[] = "HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}";
static const char full[] =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

static void run_load(struct run *run, struct server *server, int connections, double rate, int64_t length_us)
{
    static const struct text goods[] = {TEXT_INIT("A"), TEXT_INIT("B"), TEXT_INIT("C")};
    struct error error;
    struct bench_http *http;
    size_t count;
    server_start(server);
    assert_int_equal(bench_schedule_draw(BENCH_CONSTANT, rate, length_us, 1, &run->due_us, &count, &error),
                     OK);
    run->track.orders = calloc(count, sizeof(*run->track.orders));
    for (size_t i = 0; i < count; i++)
        run->track.orders[i].due_us = run->due_us[i];
    run->load.track = &run->track;
    run->load.orders = run->track.orders;
    run->load.count = count;
    if (!run->load.outstanding_max)
        run->load.outstanding_max = 1 << 20;
    run->load.behind.own = hdr_new();
    run->load.cart = (struct bench_cart){bench_random_of(1, 1), 1, goods, 3};
    assert_int_equal(bench_http_open("127.0.0.1", server->port, NULL, connections, &http, &error), OK);
    run->load.begun_us = run->track.begun_us = clock_monotonic_us();
    run->load.give_up_us = run->load.begun_us + WAIT_US;
    bench_http_run(http, &run->load);
    bench_http_close(http);
    server_stop(server);
}

static void run_free(struct run *run)
{
    free(run->load.behind.own);
    free(run->track.orders);
    free(run->due_us);
}

static int64_t later_than(const struct run *run, int64_t us)
{
    int64_t count = 0;
    for (size_t i = 0; i < run->load.count; i++)
        count += run->track.orders[i].accepted_us > us;
    return count;
}

static void every_order_is_sent_once_and_accepted_once(void **state)
{
    (void)state;
    struct server server = {.answer = accepted};
    struct run run = {0};
    run_load(&run, &server, 4, 500, SECOND);
    assert_int_equal(run.load.count, 500);
    assert_int_equal(run.track.sent, 500);
    assert_int_equal(run.track.accepted, 500);
    assert_int_equal(run.load.behind.sent, 500);
    assert_int_equal(server.requests, 500 + (int64_t)run.load.resent);
    run_free(&run);
}

/* Against coordinated omission: with two connections a generator that waits for answers would have two slow
 * orders. */
static void a_stall_shows_in_all_orders_that_were_due_meanwhile(void **state)
{
    (void)state;
    struct server server = {.answer = accepted, .stall_at = 100, .stall_us = SECOND};
    struct run run = {0};
    run_load(&run, &server, 2, 200, 2 * SECOND);
    assert_int_equal(run.track.accepted, 400);
    /* Those due in the first half of the stall waited for at least the other half: 100, but for the one that
     * began it and the few that came before their time as the load caught up. */
    assert_true(later_than(&run, SECOND / 2) >= 90);
    assert_true(run.load.behind.waited >= 90); /* and it was not the generator's fault */
    run_free(&run);
}

static void an_order_whose_connection_is_closed_is_sent_again(void **state)
{
    (void)state;
    struct server server = {.answer = accepted, .close_every = 7};
    struct run run = {0};
    run_load(&run, &server, 4, 300, SECOND);
    assert_int_equal(run.track.accepted, 300);
    assert_int_equal(run.track.sent, 300);
    assert_true(run.load.resent >= 300 / 7);
    assert_int_equal(server.answered, 300);
    run_free(&run);
}

static void a_refusal_is_counted_and_not_sent_again(void **state)
{
    (void)state;
    struct server server = {.answer = full};
    struct run run = {0};
    run_load(&run, &server, 4, 200, SECOND / 2);
    assert_int_equal(run.track.refused, 100);
    assert_int_equal(run.track.accepted, 0);
    assert_int_equal(server.answered, 100);
    run_free(&run);
}

static void past_the_bound_on_outstanding_ones_none_is_sent(void **state)
{
    (void)state;
    struct server server = {.answer = accepted, .stall_at = 20, .stall_us = SECOND};
    struct run run = {.load = {.outstanding_max = 5}};
    run_load(&run, &server, 16, 200, SECOND);
    assert_true(run.track.dropped > 0);
    assert_int_equal(run.track.sent + run.track.dropped, 200);
    assert_int_equal(run.track.accepted, run.track.sent);
    run_free(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_order_is_sent_once_and_accepted_once),
        cmocka_unit_test(a_stall_shows_in_all_orders_that_were_due_meanwhile),
        cmocka_unit_test(an_order_whose_connection_is_closed_is_sent_again),
        cmocka_unit_test(a_refusal_is_counted_and_not_sent_again),
        cmocka_unit_test(past_the_bound_on_outstanding_ones_none_is_sent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
