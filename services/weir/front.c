/* front: one address for services of which there may be several. It takes connections and hands each on to one of the instances
 * that the name stands for at that moment; who cannot be reached is passed over. Bytes, not HTTP: nothing is read or changed. */
#include "cli.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    FRONT_PLACES_MAX = 16,
    FRONT_CONNECTIONS_MAX = 1024, /* more wait in the listen queue */
    FRONT_QUEUE = 128,
    FRONT_CONNECT_MS = 2000, /* to one instance */
    FRONT_IDLE_MS = 10 * 60 * 1000,
    FRONT_STEP_MS = 200,
    FRONT_DRAIN_MS = 5000,
    FRONT_BYTES = 32 << 10,
    FRONT_STACK_BYTES = 256 << 10, /* the buffer, and what a name's lookup takes */
};

static const struct setting front_settings[] = {
    {"FRONT_LISTEN", SETTING_TEXT, "127.0.0.1", 0, 0, NULL, "Address to take connections at."},
    {"CHECK", SETTING_BOOL, "false", 0, 0, NULL, "Only ask whether connections are taken at all ports: a health check."},
    SETTINGS_END,
};

struct place {
    char port[16], host[256], host_port[16];
    int listen_fd;
};

static struct {
    struct place places[FRONT_PLACES_MAX];
    size_t place_count;
    atomic_int connections;
    _Atomic unsigned turn; /* whose turn it is among several */
} front;

struct relayed {
    const struct place *place;
    int client_fd;
};

/* PORT=HOST:PORT */
static enum outcome read_place(const char *word, struct error *error)
{
    struct place *place = &front.places[front.place_count];
    if (front.place_count < FRONT_PLACES_MAX &&
        sscanf(word, "%15[0-9]=%255[^:=]:%15[0-9]", place->port, place->host, place->host_port) == 3) {
        place->listen_fd = -1;
        front.place_count++;
        return OK;
    }
    error_set(error, REJECT, "usage", "%s is not PORT=HOST:PORT, or the %d-th of them", word, FRONT_PLACES_MAX + 1);
    error->exit_code = EXIT_USAGE;
    return REJECT;
}

static int connect_in_time(const struct addrinfo *to)
{
    int failure = 0;
    socklen_t size = sizeof(failure);
    int fd = socket(to->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    struct pollfd waited = {.fd = fd, .events = POLLOUT};
    if ((connect(fd, to->ai_addr, to->ai_addrlen) != 0 && errno != EINPROGRESS) || poll(&waited, 1, FRONT_CONNECT_MS) <= 0 ||
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &size) != 0 || failure) {
        close(fd);
        return -1;
    }
    return fd;
}

/* To one of those that the name stands for now, each in its turn; -1: to none. */
static int connect_somewhere(const struct place *place)
{
    const struct addrinfo wanted = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    unsigned count = 0, first;
    int fd = -1;
    if (getaddrinfo(place->host, place->host_port, &wanted, &found) != 0)
        return -1;
    for (const struct addrinfo *at = found; at; at = at->ai_next)
        count++;
    first = atomic_fetch_add(&front.turn, 1) % (count ? count : 1);
    for (unsigned tried = 0; tried < count && fd < 0; tried++) {
        const struct addrinfo *at = found;
        for (unsigned skip = (first + tried) % count; skip; skip--)
            at = at->ai_next;
        fd = connect_in_time(at);
    }
    freeaddrinfo(found);
    return fd;
}

static bool send_whole(int fd, const char *at, size_t length)
{
    struct pollfd writable = {.fd = fd, .events = POLLOUT};
    while (length) {
        ssize_t sent = send(fd, at, length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN && poll(&writable, 1, FRONT_IDLE_MS) > 0)
            continue;
        if (sent < 0 && errno != EINTR)
            return false;
        at += sent > 0 ? sent : 0;
        length -= sent > 0 ? (size_t)sent : 0;
    }
    return true;
}

/* What is there, from one to the other. False: both are to be closed. */
static bool pass(struct pollfd *from, int to)
{
    char bytes[FRONT_BYTES];
    ssize_t got = recv(from->fd, bytes, sizeof(bytes), 0);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR;
    if (got == 0) {
        from->fd = -1; /* has said all; the other may go on */
        return shutdown(to, SHUT_WR) == 0;
    }
    return send_whole(to, bytes, (size_t)got);
}

/* In HTTP the client speaks first; one that has nothing to say is somebody's health check. */
static bool speaks(int fd)
{
    char byte;
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    return poll(&readable, 1, FRONT_IDLE_MS) > 0 && recv(fd, &byte, 1, MSG_PEEK) == 1;
}

static void *relay_run(void *owner)
{
    const int on = 1;
    struct relayed relayed = *(struct relayed *)owner;
    free(owner);
    bool asked = speaks(relayed.client_fd);
    int server_fd = asked ? connect_somewhere(relayed.place) : -1;
    struct pollfd sides[2] = {{.fd = relayed.client_fd, .events = POLLIN}, {.fd = server_fd, .events = POLLIN}};
    if (asked && server_fd < 0)
        log_warn("front", "nobody answers", LOG_STRING("host", relayed.place->host));
    else if (asked)
        setsockopt(server_fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    bool going = server_fd >= 0;
    while (going && (sides[0].fd >= 0 || sides[1].fd >= 0) && poll(sides, 2, FRONT_IDLE_MS) > 0)
        for (int i = 0; i < 2 && going; i++)
            if (sides[i].fd >= 0 && sides[i].revents)
                going = pass(&sides[i], i ? relayed.client_fd : server_fd);
    if (server_fd >= 0)
        close(server_fd);
    close(relayed.client_fd);
    atomic_fetch_sub(&front.connections, 1);
    return NULL;
}

static void take(const struct place *place)
{
    const int on = 1;
    pthread_attr_t attributes;
    pthread_t thread;
    int fd = accept4(place->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    struct relayed *relayed = malloc(sizeof(*relayed));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, FRONT_STACK_BYTES);
    atomic_fetch_add(&front.connections, 1);
    if (relayed)
        *relayed = (struct relayed){.place = place, .client_fd = fd};
    if (!relayed || pthread_create(&thread, &attributes, relay_run, relayed) != 0) {
        atomic_fetch_sub(&front.connections, 1);
        close(fd);
        free(relayed);
    }
    pthread_attr_destroy(&attributes);
}

static enum outcome listen_at(struct place *place, const char *address, struct error *error)
{
    const int on = 1;
    const struct addrinfo wanted = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    int failed = getaddrinfo(address, place->port, &wanted, &found);
    if (failed)
        return error_outage(error, "listen", "%s: %s", address, gai_strerror(failed));
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    bool listens = fd >= 0 && bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, FRONT_QUEUE) == 0;
    int why = errno;
    freeaddrinfo(found);
    place->listen_fd = fd;
    return listens ? OK : error_outage(error, "listen", "cannot listen on %s:%s: %s", address, place->port, strerror(why));
}

static enum outcome check(const char *address, struct error *error)
{
    const struct addrinfo wanted = {.ai_socktype = SOCK_STREAM};
    const char *to = strcmp(address, "0.0.0.0") == 0 ? "127.0.0.1" : strcmp(address, "::") == 0 ? "::1" : address;
    for (size_t i = 0; i < front.place_count; i++) {
        struct addrinfo *found = NULL;
        int fd = getaddrinfo(to, front.places[i].port, &wanted, &found) == 0 ? connect_in_time(found) : -1;
        if (found)
            freeaddrinfo(found);
        if (fd < 0)
            return error_outage(error, "check", "nobody takes connections at %s:%s", to, front.places[i].port);
        close(fd);
    }
    return OK;
}

static void run(void)
{
    struct pollfd places[FRONT_PLACES_MAX];
    while (!cli_interrupted()) {
        for (size_t i = 0; i < front.place_count; i++)
            places[i] = (struct pollfd){.fd = front.places[i].listen_fd, .events = POLLIN};
        bool full = atomic_load(&front.connections) >= FRONT_CONNECTIONS_MAX;
        if (poll(places, full ? 0 : front.place_count, FRONT_STEP_MS) <= 0)
            continue;
        for (size_t i = 0; i < front.place_count; i++)
            if (places[i].revents & POLLIN)
                take(&front.places[i]);
    }
    for (size_t i = 0; i < front.place_count; i++)
        close(front.places[i].listen_fd);
    int64_t until_us = clock_monotonic_us() + FRONT_DRAIN_MS * INT64_C(1000);
    while (atomic_load(&front.connections) && clock_monotonic_us() < until_us)
        poll(NULL, 0, FRONT_STEP_MS);
    log_info("front", "closed", LOG_INT("connections_cut", atomic_load(&front.connections)));
}

int front_main(int argc, char **argv)
{
    const struct verb *verb = cli_verb("front");
    struct config *config;
    struct error error;
    int exit_code = 0;
    if (!cli_read(verb, front_settings, argc, argv, FRONT_PLACES_MAX, &config, &exit_code))
        return exit_code;
    const char *address = config_text(config, "FRONT_LISTEN");
    enum outcome outcome = OK;
    for (size_t i = 0; i < config_positional_count(config) && outcome == OK; i++)
        outcome = read_place(config_positional(config, i), &error);
    if (outcome == OK && front.place_count == 0) {
        error_set(&error, REJECT, "usage", "which ports? PORT=HOST:PORT, one word for each");
        error.exit_code = EXIT_USAGE;
        outcome = REJECT;
    }
    bool asks = outcome == OK && config_bool(config, "CHECK");
    if (asks)
        outcome = check(address, &error);
    for (size_t i = 0; i < front.place_count && outcome == OK && !asks; i++)
        outcome = listen_at(&front.places[i], address, &error);
    if (outcome == OK && !asks) {
        cli_signals();
        log_info("front", "takes connections", LOG_STRING("address", address), LOG_INT("ports", (int64_t)front.place_count));
        run();
    }
    config_destroy(config);
    return outcome == OK ? 0 : cli_fail(verb, &error);
}
