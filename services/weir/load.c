#include "load.h"
#include "answer.h"

#include "base/clock.h"
#include "base/ids.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    REQUEST_BYTES_MAX = 4096,
    ANSWER_BYTES_MAX = 4096,
    ITEMS_MAX = 4,
    CUSTOMERS = 5000,
    DECLINED_EVERY = 100, /* one customer in so many has no money: gateway.c declines declined-… */
    AGAIN_MS = 250,       /* between two tries to connect or after a 503 */
    POLL_MS_MAX = 20,
    ANSWER_MS_MAX = 15000,
};

enum connection_state { CONNECTION_FREE, CONNECTION_WAITING, CONNECTION_CONNECTING, CONNECTION_SENDING, CONNECTION_READING };

/* One connection, and the order that is on it. */
struct connection {
    enum connection_state state;
    int fd; /* -1: none */
    int64_t since_us; /* of the state; WAITING ends AGAIN_MS later */
    char request[REQUEST_BYTES_MAX];
    size_t request_length, sent;
    char answer[ANSWER_BYTES_MAX + 1];
    size_t answer_length;
};

struct load {
    struct load_settings settings;
    pthread_t thread;
    atomic_bool stopping;
    _Atomic int64_t accepted, refused, waiting, stop_at_us;
    int64_t begun_us, taken; /* taken: orders handed to a connection */
    uint64_t random;
    struct connection connections[LOAD_CONNECTIONS_MAX];
};

/* xorshift64*: orders need variety, no more. */
static uint32_t random_below(struct load *load, uint32_t bound)
{
    load->random ^= load->random >> 12;
    load->random ^= load->random << 25;
    load->random ^= load->random >> 27;
    return (uint32_t)((load->random * UINT64_C(2685821657736338717)) >> 32) % bound;
}

/* ---- an order */

/* The same SKU costs the same in every order. */
static int price_of(struct text sku)
{
    return 199 + (int)(text_hash(sku) % 200) * 50;
}

static void put_items(struct load *load, struct buffer *into)
{
    size_t chosen[ITEMS_MAX], count = 1 + random_below(load, ITEMS_MAX);
    if (count > load->settings.goods_count)
        count = load->settings.goods_count;
    for (size_t i = 0; i < count; i++) {
        bool again;
        do { /* SKUs of an order are distinct */
            chosen[i] = random_below(load, (uint32_t)load->settings.goods_count);
            again = false;
            for (size_t j = 0; j < i; j++)
                again |= chosen[j] == chosen[i];
        } while (again);
        struct text sku = load->settings.goods[chosen[i]];
        buffer_print(into, "%s{\"sku\":\"%.*s\",\"quantity\":%u,\"unit_price_minor\":%d}", i ? "," : "", TEXT_ARG(sku),
                     1 + random_below(load, 3), price_of(sku));
    }
}

static void write_request(struct load *load, struct connection *connection)
{
    static const char *const currencies[] = {"EUR", "EUR", "EUR", "EUR", "USD", "GBP", "SEK"};
    static const char *const locales[] = {"en", "en-GB", "de", "de-AT", "en-US"};
    char id_bytes[ID_TEXT_BYTES];
    struct text id = id_to_text(id_new(), id_bytes);
    uint32_t customer = random_below(load, CUSTOMERS);
    const char *token = load->settings.token;
    bool declined = random_below(load, DECLINED_EVERY) == 0;
    struct buffer body = buffer_of(REQUEST_BYTES_MAX), request = buffer_of(REQUEST_BYTES_MAX);
    buffer_print(&body, "{\"order_id\":\"%.*s\",\"customer_id\":\"%s%05u\",\"email\":\"customer%05u@shop.example\",\"locale\":\"%s\","
                        "\"currency\":\"%s\",\"items\":[", TEXT_ARG(id), declined ? "declined-" : "c-", customer, customer,
                 locales[random_below(load, 5)], currencies[random_below(load, 7)]);
    put_items(load, &body);
    buffer_add_string(&body, "]}");
    buffer_print(&request, "POST /v1/orders HTTP/1.1\r\nHost: %s:%d\r\nContent-Type: application/json\r\n"
                           "Idempotency-Key: %.*s\r\nContent-Length: %zu\r\n%s%s%s\r\n",
                 load->settings.host ? load->settings.host : "127.0.0.1", load->settings.port, TEXT_ARG(id), body.length,
                 token ? "Authorization: Bearer " : "", token ? token : "", token ? "\r\n" : "");
    buffer_add_text(&request, buffer_text(&body));
    if (!request.failed && !body.failed) {
        memcpy(connection->request, request.at, request.length);
        connection->request_length = request.length;
    }
    buffer_free(&body);
    buffer_free(&request);
}

/* ---- a connection */

static void enter(struct connection *connection, enum connection_state state)
{
    connection->state = state;
    connection->since_us = clock_monotonic_us();
}

/* The order stays on it and is sent again. */
static void lose(struct connection *connection)
{
    if (connection->fd >= 0)
        close(connection->fd);
    connection->fd = -1;
    enter(connection, CONNECTION_WAITING);
}

static void begin_sending(struct connection *connection)
{
    connection->sent = 0;
    connection->answer_length = 0;
    enter(connection, CONNECTION_SENDING);
}

/* False where the name is not known: somebody who is being started. */
static bool find_address(struct load *load, struct sockaddr_in *ret)
{
    const struct addrinfo wanted = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    size_t count = 0;
    *ret = (struct sockaddr_in){
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)load->settings.port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    if (!load->settings.host)
        return true;
    if (getaddrinfo(load->settings.host, NULL, &wanted, &found) != 0)
        return false;
    for (const struct addrinfo *at = found; at; at = at->ai_next)
        if (random_below(load, (uint32_t)++count) == 0) /* each with the same chance */
            ret->sin_addr = ((const struct sockaddr_in *)(const void *)at->ai_addr)->sin_addr;
    freeaddrinfo(found);
    return true;
}

static void connect_again(struct load *load, struct connection *connection)
{
    const int on = 1;
    struct sockaddr_in to;
    if (connection->fd >= 0) {
        begin_sending(connection);
        return;
    }
    if (!find_address(load, &to)) {
        lose(connection);
        return;
    }
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->fd < 0 || (connect(connection->fd, (const void *)&to, sizeof(to)) != 0 && errno != EINPROGRESS)) {
        lose(connection);
        return;
    }
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    enter(connection, CONNECTION_CONNECTING);
}

static void send_more(struct connection *connection)
{
    ssize_t count = send(connection->fd, connection->request + connection->sent, connection->request_length - connection->sent,
                         MSG_NOSIGNAL);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count < 0) {
        lose(connection);
        return;
    }
    connection->sent += (size_t)count;
    if (connection->sent == connection->request_length)
        enter(connection, CONNECTION_READING);
}

static void read_more(struct load *load, struct connection *connection)
{
    bool closing = false;
    ssize_t count = recv(connection->fd, connection->answer + connection->answer_length,
                         ANSWER_BYTES_MAX - connection->answer_length, 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count <= 0) {
        lose(connection);
        return;
    }
    connection->answer_length += (size_t)count;
    int status = answer_status(connection->answer, connection->answer_length, ANSWER_BYTES_MAX, &closing);
    if (status == 0)
        return;
    if (status < 0 || status == 408 || status == 409 || status == 429 || status >= 500) {
        if (status < 0 || closing)
            lose(connection);
        else
            enter(connection, CONNECTION_WAITING); /* "later": 503 past the backlog, 409 while the first still runs */
        return;
    }
    atomic_fetch_add(status == 202 ? &load->accepted : &load->refused, 1);
    atomic_fetch_sub(&load->waiting, 1);
    if (closing)
        lose(connection);
    enter(connection, CONNECTION_FREE);
}

static void step(struct load *load, struct connection *connection, short events)
{
    int failure = 0;
    socklen_t size = sizeof(failure);
    int64_t now_us = clock_monotonic_us();
    if (connection->state == CONNECTION_WAITING && now_us - connection->since_us >= AGAIN_MS * 1000)
        connect_again(load, connection);
    else if (connection->state == CONNECTION_READING && now_us - connection->since_us > ANSWER_MS_MAX * INT64_C(1000))
        lose(connection);
    if (!events)
        return;
    if (connection->state == CONNECTION_CONNECTING) {
        if (getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &failure, &size) != 0 || failure)
            lose(connection);
        else
            begin_sending(connection);
    }
    if (connection->state == CONNECTION_SENDING)
        send_more(connection);
    if (connection->state == CONNECTION_READING)
        read_more(load, connection);
}

/* ---- the thread */

/* Orders that are due by now and were not taken. */
static int64_t due(const struct load *load)
{
    double elapsed_s = (double)(clock_monotonic_us() - load->begun_us) / 1e6;
    int64_t by_now = (int64_t)(elapsed_s * (double)load->settings.rate) + 1;
    if (load->settings.count_max && by_now > load->settings.count_max)
        by_now = load->settings.count_max;
    return by_now - load->taken;
}

static void take_due(struct load *load)
{
    int64_t left = due(load);
    for (size_t i = 0; i < LOAD_CONNECTIONS_MAX && left > 0; i++) {
        struct connection *connection = &load->connections[i];
        if (connection->state != CONNECTION_FREE)
            continue;
        write_request(load, connection);
        load->taken++;
        left--;
        atomic_fetch_add(&load->waiting, 1);
        connect_again(load, connection);
        if (connection->state == CONNECTION_SENDING)
            send_more(connection);
    }
}

static void wait_and_step(struct load *load)
{
    struct pollfd fds[LOAD_CONNECTIONS_MAX];
    size_t at[LOAD_CONNECTIONS_MAX];
    nfds_t count = 0;
    for (size_t i = 0; i < LOAD_CONNECTIONS_MAX; i++) {
        const struct connection *connection = &load->connections[i];
        if (connection->state < CONNECTION_CONNECTING) {
            if (connection->state == CONNECTION_WAITING)
                step(load, &load->connections[i], 0);
            continue;
        }
        at[count] = i;
        fds[count++] = (struct pollfd){
            .fd = connection->fd,
            .events = connection->state == CONNECTION_READING ? POLLIN : POLLOUT,
        };
    }
    int64_t gap_ms = 1000 / (load->settings.rate ? load->settings.rate : 1);
    poll(fds, count, gap_ms < 1 ? 1 : gap_ms > POLL_MS_MAX ? POLL_MS_MAX : (int)gap_ms);
    for (nfds_t i = 0; i < count; i++)
        step(load, &load->connections[at[i]], fds[i].revents);
}

static void *run(void *owner)
{
    struct load *load = owner;
    load->begun_us = clock_monotonic_us();
    for (;;) {
        bool stopping = atomic_load(&load->stopping);
        if (stopping && (atomic_load(&load->waiting) == 0 || clock_monotonic_us() > atomic_load(&load->stop_at_us)))
            break;
        if (!stopping)
            take_due(load);
        wait_and_step(load);
    }
    for (size_t i = 0; i < LOAD_CONNECTIONS_MAX; i++)
        if (load->connections[i].fd >= 0)
            close(load->connections[i].fd);
    return NULL;
}

enum outcome load_start(const struct load_settings *settings, struct load **ret, struct error *error)
{
    sigset_t all, before;
    struct load *load = calloc(1, sizeof(*load));
    if (!load)
        return error_fatal(error, "memory", "out of memory");
    load->settings = *settings;
    load->random = (uint64_t)clock_wall_us() | 1;
    for (size_t i = 0; i < LOAD_CONNECTIONS_MAX; i++)
        load->connections[i].fd = -1;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failure = pthread_create(&load->thread, NULL, run, load);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failure) {
        free(load);
        return error_fatal(error, "thread", "a thread cannot be started: %s", strerror(failure));
    }
    *ret = load;
    return OK;
}

struct load_counts load_counts(struct load *load)
{
    return (struct load_counts){
        .accepted = atomic_load(&load->accepted),
        .refused = atomic_load(&load->refused),
        .waiting = atomic_load(&load->waiting),
    };
}

bool load_done(struct load *load)
{
    return load->settings.count_max && atomic_load(&load->accepted) + atomic_load(&load->refused) >= load->settings.count_max;
}

void load_stop(struct load *load, int wait_ms)
{
    atomic_store(&load->stop_at_us, clock_monotonic_us() + wait_ms * INT64_C(1000));
    if (!atomic_exchange(&load->stopping, true))
        pthread_join(load->thread, NULL);
}

void load_free(struct load *load)
{
    free(load);
}
