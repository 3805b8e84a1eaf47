/*
 * Orders by HTTP, each another one with a key of its own, over connections that are kept: what a shop's front
 * would send, from one thread and with little CPU, because it shares the machine with what it measures.
 *
 * http_load PORT CONNECTIONS SECONDS RATE
 *
 * RATE 0: each connection asks again as soon as it is answered, which tells how many can be answered at all.
 * Else so many a second are due at equal distances, whatever the answers do, and the time of each counts from
 * when it was due. Prints {"sent", "accepted", "other", "seconds", "cpu_us", "buckets": [[us, how many],
 * …]}.
 */
#include "base/ids.h"
#include "floor/hdr_json.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    CONNECTIONS_MAX = 4096,
    REQUEST_BYTES_MAX = 2048,
    ANSWER_BYTES_MAX = 16384,
    EVENTS_MAX = 256,
    GRACE_SECONDS = 30
};

struct connection {
    int fd;
    bool busy;
    int64_t due_us;
    size_t length, sent, got;
    char request[REQUEST_BYTES_MAX], answer[ANSWER_BYTES_MAX + 1];
};

static struct connection connections[CONNECTIONS_MAX];
static size_t idle[CONNECTIONS_MAX], idle_count;
static struct hdr *latency;
static uint64_t sent, accepted, other;
static int port, epoll;

static void give_up(const char *what)
{
    fprintf(stderr, "http_load: %s: %s\n", what, strerror(errno));
    exit(70);
}

static int64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void connection_open(struct connection *connection)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection->fd < 0 || connect(connection->fd, (struct sockaddr *)&address, sizeof(address)) ||
        setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)))
        give_up("connect");
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, connection->fd, &event))
        give_up("epoll");
}

static void request_write(struct connection *connection)
{
    while (connection->sent < connection->length) {
        ssize_t count = send(connection->fd, connection->request + connection->sent,
                             connection->length - connection->sent, MSG_NOSIGNAL);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0) {
            /* It was closed while idle, before the request came: once more, the key makes that safe. */
            close(connection->fd);
            connection_open(connection);
            connection->sent = 0;
            continue;
        }
        connection->sent += (size_t)count;
    }
}

static void request_begin(struct connection *connection, int64_t due_us)
{
    char id[ID_TEXT_BYTES], body[1024];
    struct text order = id_to_text(id_new(), id);
    int length = snprintf(
        body, sizeof(body),
        "{\"order_id\":\"%.*s\",\"customer_id\":\"c-%u\",\"email\":\"customer%u@shop.example\",\"locale\":"
        "\"en\","
        "\"currency\":\"EUR\",\"items\":[{\"sku\":\"SKU-%03u\",\"quantity\":1,\"unit_price_minor\":%u}]}",
        (int)order.length, order.at, (unsigned)(sent % 20000), (unsigned)(sent % 20000),
        (unsigned)(sent % 200), (unsigned)(100 + sent % 4900));
    int whole =
        snprintf(connection->request, sizeof(connection->request),
                 "POST /v1/orders HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                 "Idempotency-Key: %.*s\r\nContent-Length: %d\r\n\r\n%s",
                 port, (int)order.length, order.at, length, body);
    if (length < 0 || whole < 0 || (size_t)length >= sizeof(body) ||
        (size_t)whole >= sizeof(connection->request))
        give_up("a request is too long");
    connection->length = (size_t)whole;
    connection->sent = connection->got = 0;
    connection->due_us = due_us;
    connection->busy = true;
    sent++;
    request_write(connection);
}

/* Has an answer come whole? */
static bool answer_take(struct connection *connection)
{
    ssize_t count =
        recv(connection->fd, connection->answer + connection->got, ANSWER_BYTES_MAX - connection->got, 0);
    if (count < 0 && (errno == EINTR || errno == EAGAIN))
        return false;
    if (count <= 0) {
        close(connection->fd);
        connection_open(connection);
        if (!connection->busy)
            return false;
        connection->sent = connection->got = 0;
        request_write(connection);
        return false;
    }
    connection->got += (size_t)count;
    connection->answer[connection->got] = '\0';
    const char *end = strstr(connection->answer, "\r\n\r\n"),
               *length = strcasestr(connection->answer, "\r\ncontent-length:");
    if (!end || !length || length > end) {
        if (connection->got == ANSWER_BYTES_MAX || end)
            give_up("an answer that it cannot read");
        return false;
    }
    return connection->got >= (size_t)(end + 4 - connection->answer) + strtoul(length + 17, NULL, 10);
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fputs("usage: http_load PORT CONNECTIONS SECONDS RATE\n", stderr);
        return 64;
    }
    port = (int)strtol(argv[1], NULL, 10);
    size_t count = strtoul(argv[2], NULL, 10);
    double seconds = strtod(argv[3], NULL), rate = strtod(argv[4], NULL);
    if (count == 0 || count > CONNECTIONS_MAX || seconds <= 0 || rate < 0)
        give_up("CONNECTIONS, SECONDS or RATE is out of bounds");
    epoll = epoll_create1(EPOLL_CLOEXEC);
    latency = hdr_new();
    if (epoll < 0 || !latency)
        give_up("memory");
    for (size_t i = 0; i < count; i++) {
        connection_open(&connections[i]);
        idle[idle_count++] = i;
    }
    int64_t begun_us = now_us(), end_us = begun_us + (int64_t)(seconds * 1e6), last_us = begun_us;
    for (;;) {
        int64_t at_us = now_us();
        int wait_ms = 100;
        while (idle_count) {
            int64_t due_us = rate > 0 ? begun_us + (int64_t)((double)sent * 1e6 / rate) : at_us;
            if (due_us >= end_us)
                break;
            if (due_us > at_us) {
                wait_ms = (int)((due_us - at_us) / 1000);
                break;
            }
            request_begin(&connections[idle[--idle_count]], due_us);
        }
        if (accepted + other == sent && at_us >= end_us)
            break;
        if (at_us > end_us + (int64_t)GRACE_SECONDS * 1000000)
            give_up("not all were answered in time");
        struct epoll_event events[EVENTS_MAX];
        int ready = epoll_wait(epoll, events, EVENTS_MAX, wait_ms);
        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;
            if (!answer_take(connection) || !connection->busy)
                continue;
            last_us = now_us();
            if (strncmp(connection->answer, "HTTP/1.1 202", 12) == 0) {
                accepted++;
                hdr_add(latency, last_us - connection->due_us);
            } else if (other++ == 0)
                fprintf(stderr, "http_load: %.400s\n", connection->answer);
            connection->busy = false;
            idle[idle_count++] = (size_t)(connection - connections);
        }
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"sent\":%" PRIu64 ",\"accepted\":%" PRIu64 ",\"other\":%" PRIu64
           ",\"seconds\":%.6f,\"cpu_us\":%ld,\"buckets\":",
           sent, accepted, other, (double)(last_us - begun_us) / 1e6,
           (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 + usage.ru_utime.tv_usec +
               usage.ru_stime.tv_usec);
    hdr_print_json(latency, stdout);
    puts("}");
    return 0;
}
