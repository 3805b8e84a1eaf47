#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "service/http.h"

#include "base/clock.h"
#include "base/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { DEADLINE_S = 30, ANSWER_BYTES_MAX = 64 << 10, HANDED_MAX = 4096 };

/* ---- a server whose requests are answered by another thread, many at once, as the loop does it */

static struct fixture {
    struct server *server;
    struct metrics *metrics;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct {
        struct exchange *exchange;
        const struct request *request;
    } handed[HANDED_MAX];
    size_t handed_count;
    bool held; /* nothing is answered for now */
    bool ended;
    atomic_int frames;
} fixture;

static void take(void *owner, struct exchange *exchange, const struct request *request)
{
    (void)owner;
    pthread_mutex_lock(&fixture.lock);
    assert_in_range(fixture.handed_count, 0, HANDED_MAX - 1);
    fixture.handed[fixture.handed_count].exchange = exchange;
    fixture.handed[fixture.handed_count++].request = request;
    pthread_cond_broadcast(&fixture.changed);
    pthread_mutex_unlock(&fixture.lock);
}

/* What a handler would have seen, as JSON. */
static void echo(struct exchange *exchange, const struct request *request)
{
    char id[ID_TEXT_BYTES];
    struct buffer body = buffer_of(4 << 20);
    struct json_writer writer = json_writer(&body);
    json_object(&writer);
    json_member_string(&writer, "path", request->route->path);
    json_member_text(&writer, "parameter", request->parameters[0]);
    json_member_text(&writer, "limit", request_query(request, "limit"));
    json_member_text(&writer, "key", request->idempotency_key);
    json_member_text(&writer, "id", id_to_text(request->id, id));
    json_member_text(&writer, "type", request->content_type);
    json_member_int(&writer, "bytes", (int64_t)request->body.length);
    json_member_text(&writer, "name", request->json ? json_text(request->json, "name") : TEXT(""));
    json_object_end(&writer);
    const struct answer answer = {.status = 200, .body = buffer_text(&body)};
    http_answer(exchange, &answer);
    buffer_free(&body);
}

static void *answer_run(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&fixture.lock);
    for (;;) {
        while (!fixture.ended && (fixture.held || fixture.handed_count == 0))
            pthread_cond_wait(&fixture.changed, &fixture.lock);
        if (fixture.ended)
            break;
        while (fixture.handed_count) {
            struct exchange *exchange = fixture.handed[--fixture.handed_count].exchange;
            const struct request *request = fixture.handed[fixture.handed_count].request;
            pthread_mutex_unlock(&fixture.lock);
            echo(exchange, request);
            pthread_mutex_lock(&fixture.lock);
        }
    }
    pthread_mutex_unlock(&fixture.lock);
    return NULL;
}

static int refuse(const void *state, const struct request *request, const char **ret_detail)
{
    assert_string_equal(state, "state");
    if (request_header(request, "x-secret").length)
        return 0;
    *ret_detail = "no secret";
    return 401;
}

static const struct route routes[] = {
    {.method = "POST", .path = "/v1/things", .kind = ROUTE_WRITE, .json = true},
    {.method = "POST", .path = "/v1/raw", .kind = ROUTE_WRITE},
    {.method = "GET", .path = "/v1/things/{id}", .kind = ROUTE_READ},
    {.method = "POST", .path = "/v1/secret", .kind = ROUTE_WRITE, .admit = refuse},
    {.method = "POST", .path = "/v1/signed", .kind = ROUTE_WRITE, .admit = refuse, .admits_alone = true},
    {.method = "POST", .path = "/v1/sealed", .kind = ROUTE_WRITE, .json = true, .admit = refuse},
    {.method = "PUT", .path = "/v1/things/{id}", .kind = ROUTE_WRITE, .json = true},
    {.method = "DELETE", .path = "/v1/raw", .kind = ROUTE_WRITE},
    {0},
};

static void hello(void *owner, const struct request *request, struct answer *answer, struct buffer *body)
{
    (void)request;
    answer->content_type = "text/plain";
    buffer_add_string(body, owner);
}

static void frame(void *owner, struct buffer *into)
{
    (void)owner;
    buffer_print(into, "data: %d\n\n", atomic_fetch_add(&fixture.frames, 1));
}

static void open_server_as(struct server_settings settings)
{
    fixture.handed_count = 0;
    fixture.held = fixture.ended = false;
    fixture.metrics = metrics_new();
    settings.listen = "127.0.0.1:0";
    settings.metrics = fixture.metrics;
    settings.request = take;
    struct error error;
    assert_int_equal(http_open(&settings, &fixture.server, &error), OK);
    http_add_routes(fixture.server, routes, "state");
    http_add_page(fixture.server, "/hello", hello, "hello");
    http_add_page(fixture.server, "/livez", hello, "alive");
    http_add_stream(fixture.server, "/live", 20, frame, NULL);
}

static void open_server(int request_ms, int connections_max)
{
    open_server_as((struct server_settings){.request_ms = request_ms, .connections_max = connections_max});
}

static void start_server(void)
{
    struct error error;
    assert_int_equal(http_start(fixture.server, &error), OK);
    assert_int_equal(pthread_create(&fixture.thread, NULL, answer_run, NULL), 0);
}

static void hold_answers(bool held)
{
    pthread_mutex_lock(&fixture.lock);
    fixture.held = held;
    pthread_cond_broadcast(&fixture.changed);
    pthread_mutex_unlock(&fixture.lock);
}

static void wait_for_handed(size_t count)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += DEADLINE_S;
    pthread_mutex_lock(&fixture.lock);
    while (fixture.handed_count < count)
        assert_int_equal(pthread_cond_timedwait(&fixture.changed, &fixture.lock, &until), 0);
    pthread_mutex_unlock(&fixture.lock);
}

static int setup(void **state)
{
    (void)state;
    open_server(0, 0);
    start_server();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    pthread_mutex_lock(&fixture.lock);
    fixture.ended = true;
    pthread_cond_broadcast(&fixture.changed);
    pthread_mutex_unlock(&fixture.lock);
    pthread_join(fixture.thread, NULL);
    http_close(fixture.server);
    metrics_destroy(fixture.metrics);
    return 0;
}

/* ---- a client */

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int client_try(int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0) {
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        return fd;
    }
    close(fd);
    return -1;
}

static int client_open(void)
{
    int fd = client_try(http_port(fixture.server));
    assert_true(fd >= 0);
    return fd;
}

/* False: the server has closed. */
static bool client_send(int fd, const void *bytes, size_t count)
{
    for (size_t at = 0; at < count;) {
        ssize_t sent = send(fd, (const char *)bytes + at, count - at, MSG_NOSIGNAL);
        if (sent <= 0)
            return false;
        at += (size_t)sent;
    }
    return true;
}

static void client_say(int fd, const char *text)
{
    assert_true(client_send(fd, text, strlen(text)));
}

struct reply {
    char bytes[ANSWER_BYTES_MAX + 1];
    size_t length;
    const char *body;
    int status; /* 0: closed without an answer */
};

/* One answer, with nothing of the next; head: without its body. */
static void client_read(int fd, struct reply *reply, bool head)
{
    int64_t until = now_ms() + DEADLINE_S * 1000;
    size_t whole = 0;
    *reply = (struct reply){.bytes = ""};
    while (whole == 0 || reply->length < whole) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        assert_true(now_ms() < until);
        if (poll(&wait, 1, 1000) <= 0)
            continue;
        assert_true(reply->length < ANSWER_BYTES_MAX);
        size_t room = whole ? whole - reply->length : 1; /* byte by byte until the headers are there */
        ssize_t got = recv(fd, reply->bytes + reply->length, room, 0);
        if (got <= 0)
            return;
        reply->length += (size_t)got;
        reply->bytes[reply->length] = '\0';
        if (whole == 0 && reply->length >= 4 && strcmp(reply->bytes + reply->length - 4, "\r\n\r\n") == 0) {
            const char *length = strcasestr(reply->bytes, "\r\nContent-Length:");
            whole = reply->length + (length && !head ? (size_t)atoi(length + 17) : 0);
            reply->body = reply->bytes + reply->length;
            reply->status = atoi(reply->bytes + 9);
        }
    }
}

static struct reply reply;

static int ask(const char *request)
{
    int fd = client_open();
    client_say(fd, request);
    client_read(fd, &reply, false);
    close(fd);
    return reply.status;
}

#define THING      "{\"name\":\"N\"}"
#define POST_THING "POST /v1/things HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\n"

static void assert_has(const char *text)
{
    if (!strstr(reply.bytes, text))
        fail_msg("no \"%s\" in: %s", text, reply.bytes);
}

/* ---- tests */

static void request_is_answered_by_another_thread(void **state)
{
    (void)state;
    assert_int_equal(
        ask(POST_THING "Content-Type: Application/JSON; charset=utf-8\r\nX-Request-ID: r-1\r\n"
                       "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n" THING),
        200);
    assert_has("\"name\":\"N\"");
    assert_has("\"type\":\"application/json\"");
    assert_has("X-Request-ID: r-1\r\n");
    assert_has("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n");
    assert_has("Content-Type: application/json\r\n");
    assert_int_equal(ask("GET /v1/things/a%2Fb?limit=5 HTTP/1.1\r\nHost: h\r\n\r\n"), 200);
    assert_has("\"parameter\":\"a/b\"");
    assert_has("\"limit\":\"5\"");
    assert_has("traceparent: 00-");
}

static void page_is_answered_and_head_has_no_body(void **state)
{
    (void)state;
    int fd = client_open();
    client_say(fd, "HEAD /hello HTTP/1.1\r\nHost: h\r\n\r\n");
    client_read(fd, &reply, true);
    assert_int_equal(reply.status, 200);
    assert_has("Content-Length: 5\r\n");
    client_say(fd, "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n");
    client_read(fd, &reply, false);
    assert_int_equal(reply.status, 200);
    assert_string_equal(reply.body, "hello");
    client_say(fd, "HEAD /v1/things/7 HTTP/1.1\r\nHost: h\r\n\r\n");
    client_read(fd, &reply, true);
    assert_int_equal(reply.status, 200);
    close(fd);
}

static void one_connection_takes_many_requests(void **state)
{
    (void)state;
    int fd = client_open();
    for (int i = 0; i < 50; i++) {
        client_say(fd, POST_THING "\r\n" THING);
        client_read(fd, &reply, false);
        assert_int_equal(reply.status, 200);
    }
    /* all at once */
    for (int i = 0; i < 10; i++)
        client_say(fd, POST_THING "\r\n" THING "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n");
    for (int i = 0; i < 10; i++) {
        client_read(fd, &reply, false);
        assert_has("\"name\":\"N\"");
        client_read(fd, &reply, false);
        assert_string_equal(reply.body, "hello");
    }
    close(fd);
}

static void wrong_requests_are_told_what_is_wrong(void **state)
{
    (void)state;
    static const struct {
        int status;
        const char *request;
        const char *has;
    } cases[] = {
        {404, "GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n", "application/problem+json"},
        {404, "POST /nothing HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}", "\"status\":404"},
        {405, "DELETE /v1/things/7 HTTP/1.1\r\nHost: h\r\nX-Request-ID: r-2\r\n\r\n",
         "Allow: GET, HEAD, PUT\r\n"},
        {405, "DELETE /v1/things/7 HTTP/1.1\r\nHost: h\r\nX-Request-ID: r-2\r\n\r\n",
         "X-Request-ID: r-2\r\n"},
        {405, "GET /v1/things HTTP/1.1\r\nHost: h\r\n\r\n", "Allow: POST\r\n"},
        {400, "GET /v1/things/%zz HTTP/1.1\r\nHost: h\r\n\r\n", "malformed"},
        {400, "POST /v1/things HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n{\"a", "\"status\":400"},
        {400, "POST /v1/things HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n[]", "not a JSON object"},
        {400, "POST /v1/things HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", "\"status\":400"},
        {422, "POST /v1/things HTTP/1.1\r\nHost: h\r\nContent-Length: 13\r\n\r\n{\"a\":1,\"a\":2}",
         "duplicate"},
        {422, "POST /v1/things HTTP/1.1\r\nHost: h\r\nContent-Length: 14\r\n\r\n{\"a\":\"\\ud800\"}",
         "Unicode"},
        {401, "POST /v1/sealed HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n{\"a", "no secret"},
        {400, "POST /v1/sealed HTTP/1.1\r\nHost: h\r\nX-Secret: s\r\nContent-Length: 3\r\n\r\n{\"a",
         "\"status\":400"},
        {400, POST_THING "Idempotency-Key: \"a\r\n\r\n" THING, "Idempotency-Key"},
        {400, POST_THING "Idempotency-Key: a\r\nIdempotency-Key: b\r\n\r\n" THING, "Idempotency-Key"},
        {415, POST_THING "Origin: http://elsewhere.example\r\nContent-Type: text/plain\r\n\r\n" THING,
         "application/json"},
        {401, "POST /v1/secret HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", "no secret"},
        {200, "POST /v1/secret HTTP/1.1\r\nHost: h\r\nX-Secret: s\r\nContent-Length: 0\r\n\r\n",
         "/v1/secret"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(ask(cases[i].request), cases[i].status);
        assert_has(cases[i].has);
    }
}

/* A key that was forgotten may name another request: were its events' ids the same, whoever reads them would
 * pass them as duplicates of the first one's. */
static void each_request_has_an_id_of_its_own_whatever_its_idempotency_key(void **state)
{
    (void)state;
    char first[ID_TEXT_BYTES];
    assert_int_equal(ask(POST_THING "Idempotency-Key: \"k-1\"\r\n\r\n" THING), 200);
    assert_has("\"key\":\"k-1\"");
    memcpy(first, strstr(reply.bytes, "\"id\":\"") + 6, ID_TEXT_BYTES);
    assert_int_equal(ask(POST_THING "Idempotency-Key: k-1\r\n\r\n" THING), 200);
    assert_has("\"key\":\"k-1\"");
    assert_memory_not_equal(first, strstr(reply.bytes, "\"id\":\"") + 6, ID_TEXT_BYTES);
}

static int post_bytes(size_t count, bool chunked)
{
    char head[256];
    static char block[8192];
    memset(block, 'x', sizeof(block));
    int fd = client_open();
    if (chunked)
        snprintf(head, sizeof(head),
                 "POST /v1/raw HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    else
        snprintf(head, sizeof(head), "POST /v1/raw HTTP/1.1\r\nHost: h\r\nContent-Length: %zu\r\n\r\n",
                 count);
    bool open = client_send(fd, head, strlen(head));
    for (size_t left = count; open && left;) {
        size_t bytes = left < sizeof(block) ? left : sizeof(block);
        int length = snprintf(head, sizeof(head), "%zx\r\n", bytes);
        open = (!chunked || client_send(fd, head, (size_t)length)) && client_send(fd, block, bytes) &&
               (!chunked || client_send(fd, "\r\n", 2));
        left -= bytes;
    }
    if (open && chunked)
        (void)client_send(fd, "0\r\n\r\n", 5);
    client_read(fd, &reply, false);
    close(fd);
    return reply.status;
}

static void body_is_bounded(void **state)
{
    (void)state;
    for (int chunked = 0; chunked < 2; chunked++) {
        assert_int_equal(post_bytes(REQUEST_BODY_BYTES_MAX, chunked), 200);
        assert_has("\"bytes\":1048576");
        for (int i = 0; i < 5; i++) { /* never a reset instead of the answer */
            assert_int_equal(post_bytes(REQUEST_BODY_BYTES_MAX + 1, chunked), 413);
            assert_has("application/problem+json");
            assert_int_equal(post_bytes(3 * REQUEST_BODY_BYTES_MAX, chunked), 413);
        }
    }
    /* told before the body is sent */
    assert_int_equal(ask("POST /v1/raw HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999\r\n\r\n"), 413);
    assert_int_equal(
        ask("POST /v1/raw HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nab"), 400);
    assert_int_equal(ask("POST /v1/raw HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n"
                         "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
                     400);
}

static void headers_are_bounded(void **state)
{
    (void)state;
    static char head[128 << 10];
    static const size_t sizes[] = {HTTP_HEADER_BYTES_MAX + 100, 40 << 10, 60 << 10, 100 << 10};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        int length = snprintf(head, sizeof(head), "GET /hello HTTP/1.1\r\nHost: h\r\nX-Long: ");
        memset(head + length, 'x', sizes[i]);
        int fd = client_open();
        (void)client_send(fd, head, (size_t)length + sizes[i]);
        (void)client_send(fd, "\r\n\r\n", 4);
        client_read(fd, &reply, false);
        assert_int_equal(reply.status, 431);
        if (sizes[i] < 2 * HTTP_HEADER_BYTES_MAX)
            assert_has("application/problem+json");
        close(fd);
    }
    int length = snprintf(head, sizeof(head), "GET /hello HTTP/1.1\r\nHost: h\r\n");
    for (int i = 0; i < 200; i++)
        length += snprintf(head + length, sizeof(head) - (size_t)length, "X-%d: y\r\n", i);
    snprintf(head + length, sizeof(head) - (size_t)length, "\r\n");
    assert_int_equal(ask(head), 431);
    assert_int_equal(ask("GET /hello HTTP/1.1\r\nHost: h\r\n\r\n"), 200);
}

/* Many connections, each with a request in its socket buffer before the server looks, then again and again in
 * step. */
static void in_step(int count)
{
    static int fds[1000];
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    open_server(0, 0);
    for (int i = 0; i < count; i++) {
        fds[i] = client_open();
        client_say(fds[i], POST_THING "\r\n" THING);
    }
    start_server();
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < count; i++) {
            client_read(fds[i], &reply, false);
            assert_int_equal(reply.status, 200);
        }
        /* all of them are waiting to be answered at the same time */
        hold_answers(true);
        for (int i = 0; i < count; i++)
            client_say(fds[i],
                       round % 2 ? "GET /v1/things/7 HTTP/1.1\r\nHost: h\r\n\r\n" : POST_THING "\r\n" THING);
        wait_for_handed((size_t)count);
        hold_answers(false);
    }
    for (int i = 0; i < count; i++) {
        client_read(fds[i], &reply, false);
        assert_int_equal(reply.status, 200);
        close(fds[i]);
    }
    teardown(NULL);
}

static void connections_in_step_are_all_answered(void **state)
{
    (void)state;
    static const int counts[] = {127, 128, 129, 256, 1000};
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
        in_step(counts[i]);
}

static void connections_past_the_limit_wait_for_their_turn(void **state)
{
    (void)state;
    enum { CLIENTS = 60, LIMIT = 20 };
    int fds[CLIENTS];
    open_server(0, LIMIT);
    start_server();
    for (int i = 0; i < CLIENTS; i++) {
        fds[i] = client_open();
        client_say(fds[i], "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    for (int i = 0; i < CLIENTS; i++) {
        client_read(fds[i], &reply, false);
        assert_int_equal(reply.status, 200);
        close(fds[i]); /* makes room for one that waits */
    }
    teardown(NULL);
}

/* Sends a byte of each every few milliseconds until all are answered. */
static void slow_clients_are_cut_off_and_others_served(void **state)
{
    (void)state;
    enum { SLOW = 40 };
    static const char slow_line[] = "GET /hello-and-so-on-and-so-on-and-so-on-and-so-on";
    static const char slow_header[] = "GET /hello HTTP/1.1\r\nHost: h\r\nX: ";
    static const char slow_body[] = "POST /v1/raw HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n";
    int fds[SLOW], statuses[SLOW];
    open_server(700, 0);
    start_server();
    for (int i = 0; i < SLOW; i++) {
        fds[i] = client_open();
        statuses[i] = -1;
        if (i % 4 == 1)
            client_say(fds[i], slow_header);
        if (i % 4 == 2)
            client_say(fds[i], slow_body);
        if (i % 4 == 3) { /* slow on its second request */
            client_say(fds[i], "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n");
            client_read(fds[i], &reply, false);
            assert_int_equal(reply.status, 200);
        }
    }
    int64_t until = now_ms() + DEADLINE_S * 1000;
    size_t left = SLOW, at = 0;
    for (; left; at++) {
        assert_true(now_ms() < until);
        assert_int_equal(ask(POST_THING "\r\n" THING), 200); /* others are served meanwhile */
        for (int i = 0; i < SLOW; i++) {
            if (statuses[i] >= 0)
                continue;
            struct pollfd wait = {.fd = fds[i], .events = POLLIN};
            if (poll(&wait, 1, 0) > 0) {
                client_read(fds[i], &reply, false);
                statuses[i] = reply.status;
                close(fds[i]);
                left--;
            } else {
                (void)client_send(fds[i], at < sizeof(slow_line) - 1 ? &slow_line[at] : "x", 1);
            }
        }
        poll(NULL, 0, 20); /* the clients' slowness */
    }
    for (int i = 0; i < SLOW; i++)
        assert_int_equal(statuses[i], 408);
    teardown(NULL);
}

static void request_that_never_ends_is_told_so_though_nothing_comes(void **state)
{
    (void)state;
    open_server(300, 0);
    start_server();
    assert_int_equal(ask("POST /v1/raw HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc"), 408);
    assert_int_equal(ask("GET /he"), 408);
    teardown(NULL);
}

static void draining_answers_what_is_in_hand_and_takes_no_more(void **state)
{
    (void)state;
    int in_hand = client_open(), kept = client_open();
    client_say(kept, "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n");
    client_read(kept, &reply, false);
    hold_answers(true);
    client_say(in_hand, POST_THING "\r\n" THING);
    wait_for_handed(1);
    http_drain(fixture.server);
    /* Whoever comes now hears it, and pages say how things are, until the end. */
    assert_int_equal(ask("GET /hello HTTP/1.1\r\nHost: h\r\n\r\n"), 200);
    assert_has("Connection: close\r\n");
    assert_int_equal(ask(POST_THING "\r\n" THING), 503);
    assert_has("Retry-After: 1\r\n");
    assert_int_equal(ask("GET /live HTTP/1.1\r\nHost: h\r\n\r\n"), 503);
    client_say(kept, POST_THING "\r\n" THING);
    client_read(kept, &reply, false);
    assert_int_equal(reply.status, 503);
    assert_has("Retry-After: 1\r\n");
    assert_has("Connection: close\r\n");
    hold_answers(false);
    client_read(in_hand, &reply, false);
    assert_int_equal(reply.status, 200);
    assert_has("Connection: close\r\n");
    close(kept);
    close(in_hand);
}

static void closing_answers_what_nobody_answered(void **state)
{
    (void)state;
    open_server(0, 0);
    start_server();
    hold_answers(true);
    int fd = client_open();
    client_say(fd, POST_THING "\r\n" THING);
    wait_for_handed(1);
    int port = http_port(fixture.server);
    teardown(NULL);
    client_read(fd, &reply, false);
    assert_int_equal(reply.status, 503);
    close(fd);
    assert_int_equal(client_try(port), -1);
}

static void read_until(int fd, const char *what)
{
    reply.length = 0;
    reply.bytes[0] = '\0';
    int64_t until = now_ms() + DEADLINE_S * 1000;
    while (!strstr(reply.bytes, what)) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        assert_true(now_ms() < until && reply.length < ANSWER_BYTES_MAX);
        if (poll(&wait, 1, 1000) <= 0)
            continue;
        ssize_t got = recv(fd, reply.bytes + reply.length, ANSWER_BYTES_MAX - reply.length, 0);
        assert_true(got > 0);
        reply.length += (size_t)got;
        reply.bytes[reply.length] = '\0';
    }
}

static void stream_sends_frames_to_all_and_ends(void **state)
{
    (void)state;
    int first = client_open(), second = client_open();
    client_say(first, "GET /live HTTP/1.1\r\nHost: h\r\n\r\n");
    read_until(first, "data: ");
    assert_has("Content-Type: text/event-stream\r\n");
    read_until(first, "data: ");
    client_say(second, "GET /live HTTP/1.1\r\nHost: h\r\n\r\n");
    read_until(second, "data: ");
    close(second); /* one who goes away disturbs nobody */
    for (int i = 0; i < 5; i++)
        read_until(first, "data: ");
    http_drain(fixture.server);
    read_until(first, "0\r\n\r\n");
    close(first);
}

static void head_of_a_stream_is_followed_by_the_next_answer(void **state)
{
    (void)state;
    int fd = client_open();
    client_say(fd, "HEAD /live HTTP/1.1\r\nHost: h\r\n\r\n");
    client_read(fd, &reply, true);
    assert_int_equal(reply.status, 200);
    assert_has("Content-Type: text/event-stream\r\n");
    client_say(fd, "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n");
    client_read(fd, &reply, false);
    assert_int_equal(reply.status, 200);
    assert_string_equal(reply.body, "hello");
    close(fd);
}

static void listeners_are_bounded(void **state)
{
    (void)state;
    int fds[HTTP_STREAMS_MAX];
    for (int i = 0; i < HTTP_STREAMS_MAX; i++) {
        fds[i] = client_open();
        client_say(fds[i], "GET /live HTTP/1.1\r\nHost: h\r\n\r\n");
        read_until(fds[i], "data: ");
    }
    assert_int_equal(ask("GET /live HTTP/1.1\r\nHost: h\r\n\r\n"), 503);
    for (int i = 0; i < HTTP_STREAMS_MAX; i++)
        close(fds[i]);
}

static void garbage_breaks_nothing(void **state)
{
    (void)state;
    unsigned seed = 7;
    for (int i = 0; i < 300; i++) {
        char bytes[600];
        size_t length = (size_t)rand_r(&seed) % sizeof(bytes);
        for (size_t at = 0; at < length; at++)
            bytes[at] = (char)rand_r(&seed);
        if (i % 2) /* begins well */
            memcpy(bytes, "POST /v1/things HTTP/1.1\r\nContent-Length: 7\r\n", length < 45 ? length : 45);
        int fd = client_open();
        (void)client_send(fd, bytes, length);
        close(fd);
    }
    assert_int_equal(ask(POST_THING "\r\n" THING), 200);
}

static void port_in_use_names_the_setting(void **state)
{
    (void)state;
    char listen_at[32];
    struct server *second = NULL;
    struct error error;
    snprintf(listen_at, sizeof(listen_at), "127.0.0.1:%d", http_port(fixture.server));
    assert_int_equal(http_open(&(struct server_settings){.listen = listen_at}, &second, &error), OUTAGE);
    assert_int_equal(error_exit_code(&error), EXIT_UNREACHABLE);
    assert_non_null(strstr(error.text, "HTTP_LISTEN"));
    assert_non_null(strstr(error.text, "in use"));
    assert_int_equal(http_open(&(struct server_settings){.listen = "192.0.2.1:0"}, &second, &error), FATAL);
    assert_int_equal(error_exit_code(&error), EXIT_CONFIG);
}

static void requests_are_counted(void **state)
{
    (void)state;
    struct buffer page = buffer_of(1 << 20);
    metrics_write(fixture.metrics, &page);
    buffer_add_char(&page, '\0');
    assert_non_null(
        strstr(page.at, "weir_http_requests_total{route=\"POST /v1/things\",status=\"2xx\"} 0\n"));
    assert_int_equal(ask(POST_THING "\r\n" THING), 200);
    assert_int_equal(ask("GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n"), 404);
    buffer_clear(&page);
    metrics_write(fixture.metrics, &page);
    buffer_add_char(&page, '\0');
    assert_non_null(
        strstr(page.at, "weir_http_requests_total{route=\"POST /v1/things\",status=\"2xx\"} 1\n"));
    assert_non_null(strstr(page.at, "weir_http_requests_total{route=\"other\",status=\"4xx\"} 1\n"));
    buffer_free(&page);
}

/* ---- who may write, and how much of it */

#define TOKEN "Authorization: Bearer s3cret\r\n"

static void writing_routes_want_the_token_where_one_is_set(void **state)
{
    (void)state;
    static const struct {
        int status;
        const char *request;
        const char *has;
    } cases[] = {
        {401, POST_THING "\r\n" THING, "WWW-Authenticate: Bearer\r\n"},
        {401, POST_THING "\r\n" THING, "Content-Type: application/problem+json\r\n"},
        {401, POST_THING "\r\n" THING, "\"status\":401"},
        {401, POST_THING "Authorization: Bearer s3cre\r\n\r\n" THING, "WWW-Authenticate: Bearer\r\n"},
        {401, POST_THING "Authorization: Basic s3cret\r\n\r\n" THING, "WWW-Authenticate: Bearer\r\n"},
        {401, POST_THING "\r\nno JSON at a", "API_TOKEN"}, /* before what is wrong with the body */
        {200, POST_THING TOKEN "\r\n" THING, "\"name\":\"N\""},
        {200, POST_THING "authorization: bearer s3cret\r\n\r\n" THING, "\"name\":\"N\""},
        {400, POST_THING TOKEN "\r\nno JSON at a", "JSON"},
        {401, "PUT /v1/things/7 HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}", "\"status\":401"},
        {200, "PUT /v1/things/7 HTTP/1.1\r\nHost: h\r\n" TOKEN "Content-Length: 2\r\n\r\n{}", "\"7\""},
        {401, "DELETE /v1/raw HTTP/1.1\r\nHost: h\r\n\r\n", "\"status\":401"},
        {200, "DELETE /v1/raw HTTP/1.1\r\nHost: h\r\n" TOKEN "\r\n", ""},
        /* the token and what the route itself wants */
        {401, "POST /v1/secret HTTP/1.1\r\nHost: h\r\nX-Secret: y\r\nContent-Length: 0\r\n\r\n", "API_TOKEN"},
        {401, "POST /v1/secret HTTP/1.1\r\nHost: h\r\n" TOKEN "Content-Length: 0\r\n\r\n", "no secret"},
        {200, "POST /v1/secret HTTP/1.1\r\nHost: h\r\nX-Secret: y\r\n" TOKEN "Content-Length: 0\r\n\r\n", ""},
        /* a proof of its own */
        {200, "POST /v1/signed HTTP/1.1\r\nHost: h\r\nX-Secret: y\r\nContent-Length: 0\r\n\r\n", ""},
        {401, "POST /v1/signed HTTP/1.1\r\nHost: h\r\n" TOKEN "Content-Length: 0\r\n\r\n", "no secret"},
        /* reading is free */
        {200, "GET /v1/things/7 HTTP/1.1\r\nHost: h\r\n\r\n", "\"7\""},
        {200, "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n", "hello"},
        {404, "POST /nothing HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", "\"status\":404"},
    };
    open_server_as((struct server_settings){.api_token = bearer_token_of("s3cret")});
    start_server();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (ask(cases[i].request) != cases[i].status)
            fail_msg("case %zu: %s", i, reply.bytes);
        assert_has(cases[i].has);
    }
    teardown(NULL);
}

#define FROM(address) "GET /hello HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: " address "\r\n\r\n"

static const char *const unlimited[] = {"/livez", NULL};

static void who_sends_too_much_is_told_to_wait(void **state)
{
    (void)state;
    enum { BURST = 5 };
    clock_hold(INT64_C(1763754000000000)); /* no time passes for the buckets */
    open_server_as(
        (struct server_settings){.client_rate = 1, .client_burst = BURST, .unlimited_paths = unlimited});
    start_server();
    /* Whatever is asked for counts, known or not, and nobody may name another address. */
    assert_int_equal(ask(POST_THING "\r\n" THING), 200);
    assert_int_equal(ask("GET /v1/things/7 HTTP/1.1\r\nHost: h\r\n\r\n"), 200);
    assert_int_equal(ask("GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n"), 404);
    assert_int_equal(ask(FROM("192.0.2.1")), 200);
    assert_int_equal(ask(FROM("192.0.2.2")), 200);
    assert_int_equal(ask(FROM("192.0.2.3")), 429);
    assert_has("Retry-After: 1\r\n");
    assert_has("Content-Type: application/problem+json\r\n");
    assert_has("\"status\":429");
    assert_int_equal(ask(POST_THING "X-Request-ID: r-9\r\n\r\n" THING), 429);
    assert_has("X-Request-ID: r-9\r\n");
    assert_int_equal(ask("GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n"), 429);
    for (int i = 0; i < 3 * BURST; i++)
        assert_int_equal(ask("GET /livez HTTP/1.1\r\nHost: h\r\n\r\n"), 200);
    clock_advance(1000000);
    assert_int_equal(ask(FROM("192.0.2.3")), 200);
    assert_int_equal(ask(FROM("192.0.2.3")), 429);

    struct buffer page = buffer_of(1 << 20);
    metrics_write(fixture.metrics, &page);
    buffer_add_char(&page, '\0');
    assert_non_null(strstr(page.at, "\nweir_http_limited_total 4\n"));
    buffer_free(&page);
    clock_release();
    teardown(NULL);
}

static void behind_a_trusted_proxy_each_client_has_its_own_limit(void **state)
{
    (void)state;
    struct client_networks proxies;
    struct text bad;
    assert_true(client_networks_parse("127.0.0.0/8", &proxies, &bad));
    clock_hold(INT64_C(1763754000000000));
    open_server_as((struct server_settings){.client_rate = 1, .client_burst = 1, .proxies = &proxies});
    start_server();
    assert_int_equal(ask(FROM("192.0.2.1")), 200);
    assert_int_equal(ask(FROM("192.0.2.1")), 429);
    assert_int_equal(ask(FROM("192.0.2.2")), 200);
    assert_int_equal(ask(FROM("192.0.2.9, 192.0.2.2")), 429); /* the first one is the client's own word */
    assert_int_equal(ask(FROM("192.0.2.9, 192.0.2.1, 127.0.0.7")), 429);
    assert_int_equal(ask(FROM("192.0.2.9\r\nX-Forwarded-For: 192.0.2.1")), 429);
    assert_int_equal(ask(FROM("unknown")), 200); /* the proxy itself */
    assert_int_equal(ask("GET /hello HTTP/1.1\r\nHost: h\r\n\r\n"), 429);
    clock_release();
    teardown(NULL);
}

/* What the server writes to the log while some requests are made; the caller frees it. */
static char *log_of_requests(enum http_log log)
{
    char path[] = "/tmp/weir-http-log-XXXXXX";
    int file = mkstemp(path), kept = dup(STDERR_FILENO);
    assert_true(file >= 0 && kept >= 0 && unlink(path) == 0);
    fflush(stderr);
    assert_true(dup2(file, STDERR_FILENO) >= 0);
    log_open("weir-test", LOG_INFO, "json");
    open_server_as((struct server_settings){.log = log});
    start_server();
    int ok = ask("GET /v1/things/7?limit=hidden HTTP/1.1\r\nHost: h\r\n"
                 "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n");
    int unknown = ask("GET /not\"hing HTTP/1.1\r\nHost: h\r\n\r\n");
    int large = ask("POST /v1/raw HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999\r\n\r\n");
    teardown(NULL);
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
    assert_int_equal(ok, 200);
    assert_int_equal(unknown, 404);
    assert_int_equal(large, 413);
    off_t length = lseek(file, 0, SEEK_END);
    char *said = calloc(1, (size_t)length + 1);
    assert_non_null(said);
    assert_int_equal(pread(file, said, (size_t)length, 0), length);
    close(file);
    return said;
}

static void requests_are_logged_as_far_as_wanted(void **state)
{
    (void)state;
    static const struct {
        enum http_log log;
        bool ok, failed;
    } cases[] = {{HTTP_LOG_OFF, false, false}, {HTTP_LOG_ERRORS, false, true}, {HTTP_LOG_ALL, true, true}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *said = log_of_requests(cases[i].log);
        const char *ok = strstr(said, "\"path\":\"/v1/things/7\"");
        if ((ok != NULL) != cases[i].ok || (strstr(said, "\"status\":404") != NULL) != cases[i].failed ||
            (strstr(said, "\"status\":413") != NULL) != cases[i].failed)
            fail_msg("case %zu: %s", i, said);
        if (ok) {
            static const char *const has[] = {"\"method\":\"GET\"", "\"status\":200",
                                              "\"duration_us\":", "\"client\":\"127.0.0.1\"",
                                              "\"trace_id\":\"0af7651916cd43dd8448eb211c80319c\""};
            for (size_t j = 0; j < sizeof(has) / sizeof(has[0]); j++)
                if (!strstr(said, has[j]))
                    fail_msg("no %s in %s", has[j], said);
        }
        if (cases[i].failed)
            assert_non_null(strstr(said, "\"path\":\"/not\\\"hing\""));
        assert_null(strstr(said, "hidden")); /* a query is nobody's business */
        free(said);
    }
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    pthread_mutex_init(&fixture.lock, NULL);
    pthread_cond_init(&fixture.changed, NULL);
#define WITH_SERVER(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        WITH_SERVER(request_is_answered_by_another_thread),
        WITH_SERVER(page_is_answered_and_head_has_no_body),
        WITH_SERVER(one_connection_takes_many_requests),
        WITH_SERVER(wrong_requests_are_told_what_is_wrong),
        WITH_SERVER(each_request_has_an_id_of_its_own_whatever_its_idempotency_key),
        WITH_SERVER(body_is_bounded),
        WITH_SERVER(headers_are_bounded),
        cmocka_unit_test(connections_in_step_are_all_answered),
        cmocka_unit_test(connections_past_the_limit_wait_for_their_turn),
        cmocka_unit_test(slow_clients_are_cut_off_and_others_served),
        cmocka_unit_test(request_that_never_ends_is_told_so_though_nothing_comes),
        WITH_SERVER(draining_answers_what_is_in_hand_and_takes_no_more),
        cmocka_unit_test(closing_answers_what_nobody_answered),
        WITH_SERVER(stream_sends_frames_to_all_and_ends),
        WITH_SERVER(head_of_a_stream_is_followed_by_the_next_answer),
        WITH_SERVER(listeners_are_bounded),
        WITH_SERVER(garbage_breaks_nothing),
        WITH_SERVER(port_in_use_names_the_setting),
        WITH_SERVER(requests_are_counted),
        cmocka_unit_test(writing_routes_want_the_token_where_one_is_set),
        cmocka_unit_test(who_sends_too_much_is_told_to_wait),
        cmocka_unit_test(behind_a_trusted_proxy_each_client_has_its_own_limit),
        cmocka_unit_test(requests_are_logged_as_far_as_wanted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
