#include "weir/listener.h"

#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_BYTES = 64 << 10, LISTEN_QUEUE = 1024, ADDRESS_BYTES_MAX = 300, RETURN_US = 100000 };

struct seat {
    struct visitor visitor; /* first */
    int fd;
    int64_t heard_us;
    bool ended; /* the other side sends nothing more */
};

struct listener {
    struct listener_settings settings;
    int fd, wake_fd; /* fd -1: away */
    int64_t begun_us;
    int port;
    char address[ADDRESS_BYTES_MAX];
    struct seat **seats;
    int seat_count;
    struct pollfd *polls; /* stop, wake, listen, then the seats */
};

enum { POLL_STOP, POLL_WAKE, POLL_LISTEN, POLL_SEATS };

static bool split(const char *listen, char *host, size_t host_bytes, char *service, size_t service_bytes)
{
    const char *colon = strrchr(listen, ':');
    if (!colon)
        return false;
    size_t length = (size_t)(colon - listen);
    if (length >= 2 && listen[0] == '[' && listen[length - 1] == ']') {
        listen++;
        length -= 2;
    }
    return (size_t)snprintf(host, host_bytes, "%.*s", (int)length, listen) < host_bytes &&
           (size_t)snprintf(service, service_bytes, "%s", colon + 1) < service_bytes;
}

static enum outcome bind_to(struct listener *listener, struct error *error)
{
    char host[256], service[16];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
    const char *listen_on =
        listener->port ? listener->address : listener->settings.listen; /* again: as it was */
    if (!split(listen_on, host, sizeof(host), service, sizeof(service)) ||
        getaddrinfo(*host ? host : NULL, service, &hints, &found) != 0)
        return error_outage(error, "listen", "%s is not an address of this machine", listen_on);
    int on = 1;
    listener->fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener->fd < 0 || setsockopt(listener->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) ||
        bind(listener->fd, found->ai_addr, found->ai_addrlen) || listen(listener->fd, LISTEN_QUEUE)) {
        int failed = errno;
        freeaddrinfo(found);
        if (listener->fd >= 0)
            close(listener->fd);
        listener->fd = -1;
        return error_outage(error, "listen", "cannot listen on %s: %s%s", listen_on, strerror(failed),
                            failed == EADDRINUSE ? "; give another port, or 0 to have one picked" : "");
    }
    freeaddrinfo(found);
    if (listener->port)
        return OK; /* back where it was: others read the address */
    struct sockaddr_storage bound;
    socklen_t length = sizeof(bound);
    getsockname(listener->fd, (struct sockaddr *)&bound, &length);
    listener->port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                                       : ((struct sockaddr_in *)&bound)->sin_port);
    snprintf(listener->address, sizeof(listener->address), strchr(host, ':') ? "[%s]:%d" : "%s:%d", host,
             listener->port);
    return OK;
}

enum outcome listener_open(const struct listener_settings *settings, struct listener **ret,
                           struct error *error)
{
    struct listener *listener = calloc(1, sizeof(*listener));
    if (!listener)
        return error_retry(error, "memory", "out of memory");
    listener->settings = *settings;
    listener->fd = -1;
    listener->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    listener->seats = calloc((size_t)settings->connections_max, sizeof(struct seat *));
    listener->polls = calloc((size_t)settings->connections_max + POLL_SEATS, sizeof(struct pollfd));
    enum outcome outcome = OK;
    if (!listener->seats || !listener->polls || listener->wake_fd < 0)
        outcome = error_retry(error, "memory", "out of memory or descriptors");
    if (outcome == OK)
        outcome = bind_to(listener, error);
    if (outcome == OK)
        *ret = listener;
    else
        listener_close(listener);
    return outcome;
}

const char *listener_address(const struct listener *listener)
{
    return listener->address;
}

static void leave(struct listener *listener, int index)
{
    struct seat *seat = listener->seats[index];
    if (listener->settings.closed)
        listener->settings.closed(listener->settings.owner, &seat->visitor);
    close(seat->fd);
    buffer_free(&seat->visitor.in);
    buffer_free(&seat->visitor.out);
    free(seat->visitor.state);
    free(seat);
    listener->seats[index] = listener->seats[--listener->seat_count];
}

void listener_close(struct listener *listener)
{
    if (!listener)
        return;
    while (listener->seat_count)
        leave(listener, listener->seat_count - 1);
    if (listener->fd >= 0)
        close(listener->fd);
    if (listener->wake_fd >= 0)
        close(listener->wake_fd);
    free(listener->seats);
    free(listener->polls);
    free(listener);
}

void listener_stop(struct listener *listener)
{
    uint64_t one = 1;
    ssize_t written = write(listener->wake_fd, &one, sizeof(one));
    (void)written; /* fails only where it is readable already */
}

void listener_take(struct visitor *visitor, size_t bytes)
{
    assert(bytes <= visitor->in.length);
    visitor->in.length -= bytes;
    if (visitor->in.length)
        memmove(visitor->in.at, visitor->in.at + bytes, visitor->in.length);
}

static void welcome(struct listener *listener, int64_t now_us)
{
    while (listener->seat_count < listener->settings.connections_max) {
        int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
            return;
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        struct seat *seat = calloc(1, sizeof(*seat));
        void *state = calloc(1, listener->settings.state_bytes + 1);
        if (!seat || !state) {
            free(seat);
            free(state);
            close(fd);
            return;
        }
        seat->fd = fd;
        seat->heard_us = now_us;
        seat->visitor.in = buffer_of(listener->settings.in_bytes_max);
        seat->visitor.out = buffer_of(LISTENER_OUT_BYTES_MAX);
        seat->visitor.state = state;
        listener->seats[listener->seat_count++] = seat;
        if (listener->settings.opened)
            listener->settings.opened(listener->settings.owner, &seat->visitor);
    }
}

/* Reads once; poll says so when there is more. */
static void hear(struct listener *listener, struct seat *seat, int64_t now_us)
{
    struct visitor *visitor = &seat->visitor;
    size_t room = visitor->in.bytes_max - visitor->in.length;
    char *at = buffer_room(&visitor->in, room < READ_BYTES ? room : READ_BYTES);
    if (!at || room == 0) {
        visitor->cut = true;
        return;
    }
    ssize_t got = recv(seat->fd, at, room < READ_BYTES ? room : READ_BYTES, 0);
    if (got < 0) {
        visitor->cut = errno != EAGAIN && errno != EINTR;
        return;
    }
    if (got == 0) {
        seat->ended = true;
        visitor->close = true;
        return;
    }
    visitor->in.length += (size_t)got;
    seat->heard_us = now_us;
    if (!visitor->busy)
        listener->settings.data(listener->settings.owner, visitor);
}

static void ring(struct listener *listener, struct seat *seat)
{
    struct visitor *visitor = &seat->visitor;
    visitor->due_us = 0;
    visitor->busy = false;
    if (listener->settings.due)
        listener->settings.due(listener->settings.owner, visitor);
    if (!visitor->busy && visitor->in.length)
        listener->settings.data(listener->settings.owner, visitor);
}

static void speak(struct seat *seat)
{
    struct visitor *visitor = &seat->visitor;
    while (visitor->out.length && !visitor->cut) {
        ssize_t sent = send(seat->fd, visitor->out.at, visitor->out.length, MSG_NOSIGNAL);
        if (sent < 0) {
            visitor->cut = errno != EAGAIN && errno != EINTR;
            return;
        }
        visitor->out.length -= (size_t)sent;
        memmove(visitor->out.at, visitor->out.at + sent, visitor->out.length);
    }
}

/* Goes away and comes back when it is time to; returns when to look again. */
static int64_t be_there_or_not(struct listener *listener, int64_t now_us)
{
    const struct listener_settings *settings = &listener->settings;
    if (!settings->every_us)
        return INT64_MAX;
    int64_t at_us = (now_us - listener->begun_us) % settings->every_us;
    int64_t leaves_us = settings->every_us - settings->away_us;
    struct error ignored;
    if (at_us < leaves_us) {
        if (listener->fd < 0 && bind_to(listener, &ignored) != OK)
            return now_us + RETURN_US; /* somebody has taken the port */
        return now_us - at_us + leaves_us;
    }
    if (listener->fd >= 0) {
        close(listener->fd);
        listener->fd = -1;
        while (listener->seat_count)
            leave(listener, listener->seat_count - 1);
    }
    return now_us - at_us + settings->every_us;
}

/* Fills polls; returns how long to wait. */
static int prepare(struct listener *listener, int stop_fd, int64_t now_us)
{
    int64_t until_us = now_us + INT64_C(1000) * 1000, look_us = be_there_or_not(listener, now_us);
    if (look_us < until_us)
        until_us = look_us;
    bool room = listener->seat_count < listener->settings.connections_max;
    listener->polls[POLL_STOP] = (struct pollfd){.fd = stop_fd, .events = POLLIN};
    listener->polls[POLL_WAKE] = (struct pollfd){.fd = listener->wake_fd, .events = POLLIN};
    listener->polls[POLL_LISTEN] = (struct pollfd){.fd = room ? listener->fd : -1, .events = POLLIN};
    for (int i = 0; i < listener->seat_count; i++) {
        const struct seat *seat = listener->seats[i];
        bool full = seat->visitor.in.length == seat->visitor.in.bytes_max;
        short events = (short)((seat->ended || (seat->visitor.busy && full) ? 0 : POLLIN) |
                               (seat->visitor.out.length ? POLLOUT : 0));
        listener->polls[POLL_SEATS + i] = (struct pollfd){.fd = seat->fd, .events = events};
        if (seat->visitor.due_us && seat->visitor.due_us < until_us)
            until_us = seat->visitor.due_us;
    }
    return until_us <= now_us ? 0 : (int)((until_us - now_us + 999) / 1000);
}

enum outcome listener_run(struct listener *listener, int stop_fd, struct error *error)
{
    listener->begun_us = clock_monotonic_us();
    for (;;) {
        int wait_ms = prepare(listener, stop_fd, clock_monotonic_us());
        int known = listener->seat_count;
        if (poll(listener->polls, (nfds_t)(POLL_SEATS + known), wait_ms) < 0 && errno != EINTR)
            return error_fatal(error, "poll", "poll: %s", strerror(errno));
        if (listener->polls[POLL_STOP].revents || listener->polls[POLL_WAKE].revents)
            return OK;
        int64_t now_us = clock_monotonic_us();
        for (int i = 0; i < known; i++) {
            struct seat *seat = listener->seats[i];
            short happened = listener->polls[POLL_SEATS + i].revents;
            if (happened & POLLIN)
                hear(listener, seat, now_us);
            else if (happened & (POLLERR | POLLHUP | POLLNVAL))
                seat->visitor.cut = true;
            if (seat->visitor.due_us && now_us >= seat->visitor.due_us)
                ring(listener, seat);
            if (now_us - seat->heard_us > LISTENER_IDLE_MS * INT64_C(1000))
                seat->visitor.cut = true;
        }
        if (listener->polls[POLL_LISTEN].revents)
            welcome(listener, now_us);
        if (listener->settings.round) {
            enum outcome outcome = listener->settings.round(listener->settings.owner, error);
            if (outcome != OK)
                return outcome;
        }
        for (int i = listener->seat_count - 1; i >= 0; i--) {
            struct visitor *visitor = &listener->seats[i]->visitor;
            speak(listener->seats[i]);
            if (visitor->cut || visitor->out.failed ||
                (visitor->close && !visitor->out.length && !visitor->due_us))
                leave(listener, i);
        }
    }
}
