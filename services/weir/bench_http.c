/*
 * Orders by POST /v1/orders. One thread and epoll; connections are kept, a request on each at a time, the one
 * last used first. An order stays on its connection and is sent again, the same, with its key, until it has
 * an answer: a service that dies in the middle costs none and doubles none.
 */
#include "answer.h"
#include "bench.h"
#include "bench_load.h"

#include "base/clock.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    ANSWER_BYTES_MAX = 4096,
    HOST_AND_PORT_BYTES_MAX = 300,
    EVENTS_MAX = 256,
    ADDRESSES_MAX = 16,
    REACH_S = 5,       /* at the start the service must answer a connection within */
    AGAIN_US = 250000, /* between two tries of one order */
    ANSWER_US_MAX = 15000000,
    TIMES_US = 100000,     /* between two looks for what has waited too long … */
    TIMES_AGAIN_US = 5000, /* … and while some are to be sent again */
};

enum connection_state { FREE, AGAIN, CONNECTING, SENDING, READING };

struct connection {
    enum connection_state state;
    int fd;           /* -1: none */
    bool waits_write; /* epoll tells when it can be written to as well */
    int64_t since_us; /* of the state */
    size_t index;     /* of the order on it */
    bool resent;
    char request[BENCH_REQUEST_BYTES_MAX];
    size_t request_length, sent, answer_length;
    char answer[ANSWER_BYTES_MAX + 1];
};

struct bench_http {
    char host_and_port[HOST_AND_PORT_BYTES_MAX];
    const char *token; /* lent; NULL: none */
    struct address {
        struct sockaddr_storage at;
        socklen_t length;
    } addresses[ADDRESSES_MAX]; /* of one family; connections take them in turn */
    size_t address_count;
    int epoll;
    struct bench_load *load;
    int64_t free_us; /* since when one has been free */
    size_t count, free_count, again_count;
    struct connection **free; /* a stack */
    struct connection connections[];
};

/* ---- a connection */

static void enter(struct bench_http *http, struct connection *connection, enum connection_state state,
                  int64_t now_us)
{
    http->again_count += state == AGAIN;
    http->again_count -= connection->state == AGAIN;
    connection->state = state;
    connection->since_us = now_us;
}

static void disconnect(struct connection *connection)
{
    if (connection->fd >= 0)
        close(connection->fd); /* which takes it out of the epoll set */
    connection->fd = -1;
    connection->waits_write = false;
}

/* The order stays on it and is sent again: soon at first, for a kept connection may be closed just as it is
 * used. */
static void lose(struct bench_http *http, struct connection *connection, int64_t now_us)
{
    disconnect(connection);
    enter(http, connection, AGAIN, connection->resent ? now_us : now_us - AGAIN_US);
}

static void release(struct bench_http *http, struct connection *connection, int64_t now_us)
{
    enter(http, connection, FREE, now_us);
    if (http->free_count == 0)
        http->free_us = now_us;
    http->free[http->free_count++] = connection;
}

static void watch_writing(struct bench_http *http, struct connection *connection, bool on)
{
    struct epoll_event event = {.events = EPOLLIN | (on ? EPOLLOUT : 0U), .data.ptr = connection};
    if (connection->waits_write != on)
        epoll_ctl(http->epoll, EPOLL_CTL_MOD, connection->fd, &event);
    connection->waits_write = on;
}

static void send_more(struct bench_http *http, struct connection *connection, int64_t now_us)
{
    ssize_t count = send(connection->fd, connection->request + connection->sent,
                         connection->request_length - connection->sent, MSG_NOSIGNAL);
    if (count < 0 && errno != EAGAIN && errno != EINTR) {
        lose(http, connection, now_us);
        return;
    }
    connection->sent += count > 0 ? (size_t)count : 0;
    bool whole = connection->sent == connection->request_length;
    watch_writing(http, connection, !whole);
    if (whole)
        enter(http, connection, READING, now_us);
}

static void begin_sending(struct bench_http *http, struct connection *connection, int64_t now_us)
{
    connection->sent = connection->answer_length = 0;
    enter(http, connection, SENDING, now_us);
    send_more(http, connection, now_us);
}

/* False where it did not even begin. */
static bool begin_connecting(struct bench_http *http, struct connection *connection)
{
    const int on = 1;
    const struct address *to =
        &http->addresses[(size_t)(connection - http->connections) % http->address_count];
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = connection};
    connection->fd = socket(to->at.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->fd < 0)
        return false;
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if ((connect(connection->fd, (const void *)&to->at, to->length) != 0 && errno != EINPROGRESS) ||
        epoll_ctl(http->epoll, EPOLL_CTL_ADD, connection->fd, &event) != 0) {
        disconnect(connection);
        return false;
    }
    connection->waits_write = true;
    return true;
}

static void send_order(struct bench_http *http, struct connection *connection, int64_t now_us)
{
    if (connection->fd >= 0)
        begin_sending(http, connection, now_us);
    else if (begin_connecting(http, connection))
        enter(http, connection, CONNECTING, now_us);
    else
        lose(http, connection, now_us);
}

/* A request that may not have been handled yet, or is being handled now. */
static bool wants_again(const struct connection *connection, int status)
{
    return status < 0 || status == 408 || (status == 409 && connection->resent);
}

static void take_answer(struct bench_http *http, struct connection *connection, int status, bool closing,
                        int64_t now_us)
{
    if (wants_again(connection, status)) {
        if (status < 0 || closing)
            disconnect(connection);
        enter(http, connection, AGAIN, now_us);
        return;
    }
    if (status == 202)
        bench_track_accepted(http->load->track, connection->index, now_us);
    else
        bench_track_refused(http->load->track, connection->index);
    if (closing)
        disconnect(connection);
    release(http, connection, now_us);
}

static void read_more(struct bench_http *http, struct connection *connection, int64_t now_us)
{
    bool closing = false;
    ssize_t count = recv(connection->fd, connection->answer + connection->answer_length,
                         ANSWER_BYTES_MAX - connection->answer_length, 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count <= 0) {
        lose(http, connection, now_us);
        return;
    }
    connection->answer_length += (size_t)count;
    int status = answer_status(connection->answer, connection->answer_length, ANSWER_BYTES_MAX, &closing);
    if (status != 0)
        take_answer(http, connection, status, closing, now_us);
}

static void on_event(struct bench_http *http, struct connection *connection, uint32_t events, int64_t now_us)
{
    int failure = 0;
    socklen_t size = sizeof(failure);
    if (connection->fd < 0)
        return; /* lost since this event */
    switch (connection->state) {
    case FREE:
        disconnect(connection);
        break; /* nothing was asked: it is being closed */
    case CONNECTING:
        if (getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &failure, &size) != 0 || failure)
            lose(http, connection, now_us);
        else if (events & EPOLLOUT)
            begin_sending(http, connection, now_us);
        break;
    case SENDING:
    case READING:
        if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            read_more(http, connection, now_us);
        else
            send_more(http, connection, now_us);
        break;
    case AGAIN:
        disconnect(connection);
        break;
    default:
        break;
    }
}

/* What has waited long enough is sent again. */
static void look_at_times(struct bench_http *http, int64_t now_us)
{
    for (size_t i = 0; i < http->count; i++) {
        struct connection *connection = &http->connections[i];
        if (connection->state != FREE && connection->state != AGAIN &&
            now_us - connection->since_us > ANSWER_US_MAX)
            lose(http, connection, now_us);
        if (connection->state != AGAIN || now_us - connection->since_us < AGAIN_US)
            continue;
        connection->resent = true;
        http->load->resent++;
        send_order(http, connection, now_us);
    }
}

/* ---- a step */

static void send_due(struct bench_http *http, int64_t now_us)
{
    struct bench_draft draft;
    while (http->free_count && bench_load_due(http->load, now_us)) {
        struct connection *connection = http->free[--http->free_count];
        connection->index = bench_load_take(http->load, http->free_us, now_us, &draft);
        connection->request_length =
            bench_order_request(&draft, http->host_and_port, http->token, connection->request);
        connection->resent = false;
        send_order(http, connection, now_us);
        now_us = clock_monotonic_us();
    }
}

static void wait_and_step(struct bench_http *http)
{
    struct epoll_event events[EVENTS_MAX];
    int64_t now_us = clock_monotonic_us(),
            wait_us = http->free_count ? bench_load_wait_us(http->load, now_us) : BENCH_POLL_US;
    wait_us = wait_us < 0 || wait_us > BENCH_POLL_US ? BENCH_POLL_US
              : wait_us < BENCH_TICK_US              ? BENCH_TICK_US
                                                     : wait_us;
    const struct timespec wait = {.tv_nsec = wait_us * 1000};
    int count = epoll_pwait2(http->epoll, events, EVENTS_MAX, &wait, NULL);
    if (count < 0 && errno == ENOSYS) /* before Linux 5.11: a millisecond, which is counted as being behind */
        count = epoll_wait(http->epoll, events, EVENTS_MAX, (int)((wait_us + 999) / 1000));
    for (int i = 0; i < count; i++)
        on_event(http, events[i].data.ptr, events[i].events, clock_monotonic_us());
}

void bench_http_run(struct bench_http *http, struct bench_load *load)
{
    int64_t looked_us = 0;
    http->load = load;
    for (;;) {
        int64_t now_us = clock_monotonic_us();
        send_due(http, now_us);
        bool all_free = http->free_count == http->count;
        if ((all_free && bench_load_over(load, now_us)) || now_us > atomic_load(&load->give_up_us))
            break;
        if (now_us - looked_us > (http->again_count ? TIMES_AGAIN_US : TIMES_US)) {
            look_at_times(http, now_us);
            looked_us = now_us;
        }
        wait_and_step(http);
    }
    /* What was given up is answered to nobody. */
    for (size_t i = 0; i < http->count; i++)
        if (http->connections[i].state != FREE) {
            disconnect(&http->connections[i]);
            release(http, &http->connections[i], clock_monotonic_us());
        }
}

/* ---- opening and closing */

/* Those of IPv4 where there are any: services listen there by default. */
static enum outcome find_addresses(struct bench_http *http, const char *host, int port, struct error *error)
{
    const struct addrinfo wanted = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    char port_text[8];
    snprintf(port_text, sizeof(port_text), "%d", port);
    int failure = getaddrinfo(host, port_text, &wanted, &found);
    if (failure)
        return error_outage(error, "http", "%s: %s", host, gai_strerror(failure));
    int family = found->ai_family;
    for (const struct addrinfo *at = found; at; at = at->ai_next)
        family = at->ai_family == AF_INET ? AF_INET : family;
    for (const struct addrinfo *at = found; at && http->address_count < ADDRESSES_MAX; at = at->ai_next) {
        struct address *address = &http->addresses[http->address_count];
        if (at->ai_family != family)
            continue;
        memcpy(&address->at, at->ai_addr, at->ai_addrlen);
        address->length = at->ai_addrlen;
        http->address_count++;
    }
    freeaddrinfo(found);
    return OK;
}

/* Is anybody there? Else all orders of a step would wait for one that does not come. */
static enum outcome reach(const struct bench_http *http, struct error *error)
{
    const struct timeval wait = {.tv_sec = REACH_S};
    enum outcome outcome = OK;
    for (size_t i = 0; outcome == OK && i < http->address_count; i++) {
        const struct address *to = &http->addresses[i];
        int fd = socket(to->at.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            return error_fatal(error, "http", "no socket: %s", strerror(errno));
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
        if (connect(fd, (const void *)&to->at, to->length) != 0)
            outcome =
                error_outage(error, "http", "nobody answers at %s: %s", http->host_and_port, strerror(errno));
        close(fd);
    }
    return outcome;
}

enum outcome bench_http_open(const char *host, int port, const char *token, int connections,
                             struct bench_http **ret, struct error *error)
{
    size_t count = (size_t)connections;
    struct bench_http *http = calloc(1, sizeof(*http) + count * sizeof(http->connections[0]));
    if (!http)
        return error_fatal(error, "memory", "out of memory");
    http->epoll = epoll_create1(EPOLL_CLOEXEC);
    http->free = calloc(count, sizeof(struct connection *));
    http->count = count;
    http->token = token;
    snprintf(http->host_and_port, sizeof(http->host_and_port), "%s:%d", host, port);
    for (size_t i = 0; i < count; i++)
        http->connections[i].fd = -1;
    enum outcome outcome = OK;
    if (!http->free || http->epoll < 0)
        outcome = error_fatal(error, "memory", "out of memory, or of descriptors");
    if (outcome == OK)
        outcome = find_addresses(http, host, port, error);
    if (outcome == OK)
        outcome = reach(http, error);
    for (size_t i = 0; outcome == OK && i < count; i++)
        release(http, &http->connections[i], clock_monotonic_us());
    if (outcome == OK)
        *ret = http;
    else
        bench_http_close(http);
    return outcome;
}

void bench_http_close(struct bench_http *http)
{
    if (!http)
        return;
    for (size_t i = 0; i < http->count; i++)
        disconnect(&http->connections[i]);
    if (http->epoll >= 0)
        close(http->epoll);
    free(http->free);
    free(http);
}
