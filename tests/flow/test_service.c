#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/log_few.h"
#include "service/service.h"
#include "support/broker.h"
#include "support/peer.h"
#include "support/process.h"
#include "support/scratch.h"

#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { DEADLINE_S = 60 };

/* ---- a service that counts things: this program itself, when it is called with --as-service */

struct thing {
    struct text id;
    int64_t count;
};
static const struct rows_column thing_columns[] = {ROWS_COLUMN(thing, id, ROWS_TEXT),
                                                   ROWS_COLUMN(thing, count, ROWS_INT)};
static const struct rows_table thing_table = {.name = "thing",
                                              .columns = thing_columns,
                                              .column_count = 2,
                                              .key_count = 1,
                                              .row_bytes = sizeof(struct thing)};
static const struct rows_table *const tables[] = {&thing_table, NULL};

static enum outcome count_up(struct work *work, struct text id, struct answer *answer, int status, bool add)
{
    struct thing *thing = rows_get(work, &thing_table, &(struct thing){.id = id});
    if (!thing && add)
        thing = rows_add(work, &thing_table, &(struct thing){.id = id});
    if (!thing) {
        answer_problem(work, answer, 404, "no such thing");
        return OK;
    }
    thing->count += add;
    struct buffer body = buffer_of(ANSWER_BODY_BYTES_MAX);
    struct json_writer writer = json_writer(&body);
    json_object(&writer);
    json_member_int(&writer, "count", thing->count);
    json_object_end(&writer);
    answer_json(work, answer, status, &body);
    return OK;
}

static enum outcome on_post(struct work *work, const struct request *request, struct answer *answer,
                            struct error *error)
{
    (void)error;
    return count_up(work, json_text(request->json, "id"), answer, 202, true);
}

static enum outcome on_get(struct work *work, const struct request *request, struct answer *answer,
                           struct error *error)
{
    (void)error;
    return count_up(work, request->parameters[0], answer, 200, false);
}

static enum outcome on_order(struct work *work, const struct event *event, struct error *error)
{
    (void)work, (void)event, (void)error;
    return OK;
}

static const struct route routes[] = {
    {.method = "POST", .path = "/v1/things", .kind = ROUTE_WRITE, .json = true, .handle = on_post},
    {.method = "GET", .path = "/v1/things/{id}", .kind = ROUTE_READ, .handle = on_get},
    {0},
};
static const struct subscription subscriptions[] = {
    {.type = &order_placed_type, .handle = on_order, .ordering = ORDERED},
    {0},
};
static const struct setting settings[] = {
    {"FAKE_WORD", SETTING_TEXT, "hello", 0, 0, NULL, "A word."},
    {"FAKE_SECRET", SETTING_SECRET, NULL, 0, 0, NULL, "Not to be seen."},
    SETTINGS_END,
};

static const struct service fake = {
    .name = "fake",
    .about = "counts things",
    .http_port = 8089,
    .settings = settings,
    .subscriptions = subscriptions,
    .routes = routes,
    .tables = tables,
    .openapi = "{\"openapi\":\"3.1.0\"}",
};

/* ---- running it */

enum { ARGUMENTS_MAX = 24 };
static struct scratch scratch;
static struct broker *broker;
static const char *const topics[] = {"orders", "payments", "inventory", "emails", "stock", "dlq.fake", NULL};

static struct process *run(const char *const *arguments, const char *const *environment)
{
    const char *argv[ARGUMENTS_MAX] = {"/proc/self/exe", "--as-service"};
    char path[512];
    ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
    assert_true(length > 0);
    path[length] = '\0';
    argv[0] = path;
    for (size_t i = 0; arguments && arguments[i]; i++) {
        assert_in_range(i + 3, 0, ARGUMENTS_MAX - 1);
        argv[i + 2] = arguments[i];
    }
    return process_start(argv, environment);
}

#define RUN(...) run((const char *const[]){__VA_ARGS__, NULL}, NULL)
#define SETTINGS(bootstrap)                                                                                  \
    "--log-format", "json", "--http-listen", "127.0.0.1:0", "--database-url", scratch.url,                   \
        "--kafka-bootstrap-servers", (bootstrap), "--drain-timeout", "4s"

static struct process *serve(const char *bootstrap, int *ret_port)
{
    struct process *process = RUN("serve", SETTINGS(bootstrap));
    *ret_port = process_expect_number(process, "\"port\":");
    return process;
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static char reply[256 << 10];

/* The status; the whole reply is left in reply. 0: no connection. */
static int ask(int port, const char *method, const char *path, const char *body)
{
    char request[1024];
    size_t length = 0;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    reply[0] = '\0';
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0) {
        int bytes =
            snprintf(request, sizeof(request),
                     "%s %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
                     method, path, strlen(body), body);
        (void)send(fd, request, (size_t)bytes, MSG_NOSIGNAL);
        for (;;) {
            struct pollfd wait = {.fd = fd, .events = POLLIN};
            assert_int_equal(poll(&wait, 1, DEADLINE_S * 1000), 1);
            ssize_t got = recv(fd, reply + length, sizeof(reply) - 1 - length, 0);
            if (got <= 0)
                break;
            length += (size_t)got;
        }
        reply[length] = '\0';
    }
    close(fd);
    return length > 9 ? atoi(reply + 9) : 0;
}

static void assert_says(const char *text)
{
    if (!strstr(reply, text))
        fail_msg("no %s in: %s", text, reply);
}

static void wait_for_reply(int port, const char *path, const char *text)
{
    int64_t until = now_ms() + DEADLINE_S * 1000;
    while ((void)ask(port, "GET", path, ""), !strstr(reply, text)) {
        if (now_ms() > until)
            fail_msg("no %s in: %s", text, reply);
        poll(NULL, 0, 20);
    }
}

static int stop(struct process *process)
{
    process_signal(process, SIGTERM);
    int exit_code = process_wait(process);
    process_end(process);
    return exit_code;
}

static int setup(void **state)
{
    (void)state;
    scratch_make(&scratch);
    broker = broker_start(1, topics, 2);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    broker_stop(broker);
    scratch_remove(&scratch);
    return 0;
}

static void expect_exit(struct process *process, int exit_code, const char *text)
{
    int got = process_wait(process);
    if (got != exit_code || !strstr(process_output(process), text))
        fail_msg("exit %d, not %d with \"%s\": %s", got, exit_code, text, process_output(process));
    process_end(process);
}

/* ---- tests */

static void words_on_the_command_line_are_known_or_refused(void **state)
{
    (void)state;
    expect_exit(RUN("--version"), 0, "weir-fake " WEIR_VERSION "\n");
    expect_exit(RUN("--help"), 0, "counts things");
    expect_exit(RUN("--help"), 0, "--fake-word");
    expect_exit(RUN("serve", "--help"), 0, "--http-listen");
    expect_exit(RUN("serve", "--log-level", "debug", "--help"), 0, "--http-listen");
    expect_exit(RUN("--log-level", "debug", "--version"), 0, "weir-fake " WEIR_VERSION "\n");
    expect_exit(RUN("config"), 0, "HTTP_LISTEN=127.0.0.1:8089");
    expect_exit(RUN("config"), 0, "DATABASE_URL=sqlite:weir-fake.db");
    expect_exit(RUN("config", "--fake-word", "other"), 0, "FAKE_WORD=other");
    expect_exit(RUN("chekc"), 64, "did you mean \"check\"");
    expect_exit(RUN("sevre"), 64, "did you mean \"serve\"");
    expect_exit(RUN("--fake-wrod", "x"), 64, "--fake-word");
    expect_exit(RUN("serve", "now"), 64, "now");
    expect_exit(RUN("--drain-timeout", "soon"), 78, "DRAIN_TIMEOUT");
    expect_exit(RUN("--http-listen", "8080"), 78, "HTTP_LISTEN");
    expect_exit(run(NULL, (const char *const[]){"WEIR_FOO=1", NULL}), 78, "WEIR_FOO");
    expect_exit(run(NULL, (const char *const[]){"LOG_LEVEL=loud", NULL}), 78, "LOG_LEVEL");
}

static void secrets_are_not_shown(void **state)
{
    (void)state;
    struct process *process =
        run((const char *const[]){"config", NULL}, (const char *const[]){"FAKE_SECRET=hunter2", NULL});
    assert_int_equal(process_wait(process), 0);
    assert_null(strstr(process_output(process), "hunter2"));
    assert_non_null(strstr(process_output(process), "FAKE_SECRET="));
    process_end(process);
}

static void service_serves_drains_and_goes_on_where_it_was(void **state)
{
    (void)state;
    int port;
    struct process *process = serve(broker_bootstrap(broker), &port);
    assert_int_equal(ask(port, "GET", "/livez", ""), 200);
    assert_int_equal(ask(port, "POST", "/v1/things", "{\"id\":\"a\"}"), 202);
    wait_for_reply(port, "/readyz", "HTTP/1.1 200");
    process_expect(process, "\"message\":\"ready\"");
    assert_int_equal(ask(port, "GET", "/readyz?verbose", ""), 200);
    assert_says("\"kafka\":\"ok\"");
    assert_int_equal(ask(port, "GET", "/version", ""), 200);
    assert_says("\"version\":\"" WEIR_VERSION "\"");
    assert_int_equal(ask(port, "GET", "/openapi.json", ""), 200);
    assert_says("{\"openapi\":\"3.1.0\"}");
    assert_int_equal(stop(process), 0);

    process = serve(broker_bootstrap(broker), &port);
    assert_int_equal(ask(port, "GET", "/v1/things/a", ""), 200);
    assert_says("{\"count\":1}");
    assert_int_equal(stop(process), 0);
}

static void junk_goes_to_the_dead_letters_and_lag_falls_to_nothing(void **state)
{
    (void)state;
    int port;
    struct process *process = serve(broker_bootstrap(broker), &port);
    broker_write(broker, "orders", 0, 1, 5);
    wait_for_reply(port, "/metrics", "weir_dlq_total{class=\"reject\"} 5\n");
    wait_for_reply(
        port, "/metrics",
        "kafka_consumergroup_lag{consumergroup=\"weir-fake\",topic=\"orders\",partition=\"0\"} 0\n");
    wait_for_reply(
        port, "/metrics",
        "kafka_consumergroup_lag_seconds{consumergroup=\"weir-fake\",topic=\"orders\",partition=\"0\"} 0\n");
    wait_for_reply(port, "/metrics",
                   "kafka_consumergroup_current_offset{consumergroup=\"weir-fake\",topic=\"orders\"");
    wait_for_reply(port, "/metrics", "weir_outbox_rows 0\n");
    assert_says("weir_build_info{service=\"fake\",version=\"" WEIR_VERSION "\"");
    assert_says("weir_ready 1\n");
    assert_says("weir_http_requests_total{route=\"POST /v1/things\",status=\"2xx\"} 0\n");
    assert_int_equal(stop(process), 0);
    assert_int_equal(
        broker_read(broker, "dlq.fake", 0, NULL, NULL) + broker_read(broker, "dlq.fake", 1, NULL, NULL), 5);
    assert_int_equal(broker_committed(broker, "weir-fake", "orders", 0), 5);
}

static size_t times(const char *text, const char *what)
{
    size_t count = 0;
    while ((text = strstr(text, what)))
        count++, text += strlen(what);
    return count;
}

static void dead_letters_of_one_cause_are_a_few_lines_and_a_number(void **state)
{
    (void)state;
    int port;
    struct process *process = serve(broker_bootstrap(broker), &port);
    broker_write(broker, "orders", 0, 1, 40);
    wait_for_reply(port, "/metrics", "weir_dlq_total{class=\"reject\"} 40\n");
    process_signal(process, SIGTERM);
    assert_int_equal(process_wait(process), 0);
    const char *said = process_output(process);
    assert_int_equal(times(said, "\"message\":\"a record is now a dead letter\""), LOG_FEW_LINES_MAX);
    assert_int_equal(times(said, "\"message\":\"more records of one cause are now dead letters\""), 1);
    assert_non_null(strstr(said, "\"left_out\":35"));
    process_end(process);
}

static void port_in_use_ends_the_start(void **state)
{
    (void)state;
    int port;
    char listen_at[32];
    struct process *first = serve(broker_bootstrap(broker), &port);
    snprintf(listen_at, sizeof(listen_at), "127.0.0.1:%d", port);
    expect_exit(RUN("--http-listen", listen_at, "--database-url", "sqlite::memory:"), 69, "HTTP_LISTEN");
    assert_int_equal(stop(first), 0);
}

static void database_in_use_ends_the_start(void **state)
{
    (void)state;
    int port;
    struct process *first = serve(broker_bootstrap(broker), &port);
    expect_exit(RUN(SETTINGS(broker_bootstrap(broker))), 75, "in use by process");
    assert_int_equal(ask(port, "GET", "/livez", ""), 200);
    assert_int_equal(stop(first), 0);
}

static void bad_database_is_a_bad_setting(void **state)
{
    (void)state;
    expect_exit(RUN("--http-listen", "127.0.0.1:0", "--database-url", "sqlite:/no/such/folder/x.db"), 78,
                "/no/such/folder");
}

static void without_a_broker_it_serves_and_is_not_ready(void **state)
{
    (void)state;
    int port;
    char nobody[32];
    snprintf(nobody, sizeof(nobody), "127.0.0.1:%d", peer_refusing_port());
    struct process *process = serve(nobody, &port);
    process_expect(process, "not ready");
    assert_int_equal(ask(port, "GET", "/livez", ""), 200);
    assert_int_equal(ask(port, "GET", "/readyz", ""), 503);
    assert_says("\"reason\":");
    assert_int_equal(ask(port, "POST", "/v1/things", "{\"id\":\"a\"}"), 202);
    assert_int_equal(stop(process), 0);
}

static void broker_that_hangs_does_not_hold_up_the_drain(void **state)
{
    (void)state;
    int port;
    struct process *process = serve(broker_bootstrap(broker), &port);
    wait_for_reply(port, "/readyz", "HTTP/1.1 200");
    broker_delay(broker, 3600000);
    assert_int_equal(stop(process),
                     0); /* a commit that waits for an answer would take longer than the test has */
    broker_delay(broker, 0);
}

static void broker_that_is_gone_does_not_hold_up_the_drain(void **state)
{
    (void)state;
    int port;
    struct process *process = serve(broker_bootstrap(broker), &port);
    wait_for_reply(port, "/readyz", "HTTP/1.1 200");
    broker_down(broker);
    assert_int_equal(stop(process), 0);
    broker_up(broker);
}

static void check_tells_part_by_part(void **state)
{
    (void)state;
    char nobody[32];
    snprintf(nobody, sizeof(nobody), "127.0.0.1:%d", peer_refusing_port());
    expect_exit(RUN("check", SETTINGS(broker_bootstrap(broker))), 0, "orders (2)");
    expect_exit(RUN("check", SETTINGS(broker_bootstrap(broker))), 0, "ok   database");
    expect_exit(RUN("check", SETTINGS(broker_bootstrap(broker))), 0, "not there yet");
    assert_int_equal(scratch_files(&scratch), 0); /* it looks, and leaves nothing */
    expect_exit(RUN("check", SETTINGS(nobody)), 69, "FAIL kafka");
    int port;
    struct process *process = serve(broker_bootstrap(broker), &port);
    expect_exit(RUN("check", SETTINGS(broker_bootstrap(broker))), 75, "FAIL database");
    assert_int_equal(stop(process), 0);
    expect_exit(RUN("check", SETTINGS(broker_bootstrap(broker))), 0, "ok   database");
}

/* A health check for a container without a shell. */
static void check_ready_asks_the_one_that_serves(void **state)
{
    (void)state;
    char nobody[32], listen[32], other[600];
    snprintf(other, sizeof(other), "%s.other", scratch.url);
    snprintf(nobody, sizeof(nobody), "127.0.0.1:%d", peer_refusing_port());
    expect_exit(RUN("check", "ready", "--http-listen", nobody), 69, "FAIL ready");
    int port;
    struct process *process = serve(broker_bootstrap(broker), &port);
    wait_for_reply(port, "/readyz", "HTTP/1.1 200");
    snprintf(listen, sizeof(listen), "0.0.0.0:%d", port);
    expect_exit(RUN("check", "ready", "--http-listen", listen), 0, "ok   ready");
    expect_exit(RUN("check", "reddy", "--http-listen", listen), 64, "reddy");
    snprintf(listen, sizeof(listen), "127.0.0.1:%d", port);
    expect_exit(RUN("check", "--kafka-bootstrap-servers", broker_bootstrap(broker), "--database-url", other,
                    "--http-listen", listen),
                0, "weir-fake serves at");
    assert_int_equal(stop(process), 0);
    process = serve(nobody, &port);
    process_expect(process, "not ready");
    snprintf(listen, sizeof(listen), "127.0.0.1:%d", port);
    expect_exit(RUN("check", "ready", "--http-listen", listen), 69, "partitions");
    assert_int_equal(stop(process), 0);
}

/* `check` before `serve` in a unit file would otherwise say "try again" where nothing ever will help. */
static void check_and_serve_end_with_one_code(void **state)
{
    (void)state;
    static const struct {
        const char *flag, *value, *text;
    } cases[] = {
        {"-X", "no.such.property=1", "no.such.property"},
        {"-X", "acks=banana", "acks"},
        {"-X", "enable.auto.commit=true", "enable.auto.commit"},
        {"--database-url", "sqlite:/no/such/folder/x.db", "/no/such/folder"},
        {"--database-url", "mysql://x", "DATABASE_URL"},
        {"--database-url", "", "DATABASE_URL"},
        {"--kafka-bootstrap-servers", "", "host:port"},
        {"--http-listen", "192.0.2.1:0", "HTTP_LISTEN"},
        {"--http-trusted-proxies", "10.0.0.0/8,proxy.example", "proxy.example"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        expect_exit(RUN("serve", SETTINGS(broker_bootstrap(broker)), cases[i].flag, cases[i].value), 78,
                    cases[i].text);
        expect_exit(RUN("check", SETTINGS(broker_bootstrap(broker)), cases[i].flag, cases[i].value), 78,
                    cases[i].text);
    }
}

static void http_is_as_the_settings_say(void **state)
{
    (void)state;
    char file[600], secret[700];
    snprintf(file, sizeof(file), "%s.token", scratch.url + strlen("sqlite:"));
    FILE *token = fopen(file, "we");
    assert_non_null(token);
    assert_true(fputs("s3cret\n", token) >= 0 && fclose(token) == 0);
    snprintf(secret, sizeof(secret), "API_TOKEN_FILE=%s", file);
    struct process *process =
        run((const char *const[]){"serve", SETTINGS(broker_bootstrap(broker)), "--http-log", "errors", NULL},
            (const char *const[]){secret, NULL});
    int port = process_expect_number(process, "\"port\":");
    assert_int_equal(ask(port, "POST", "/v1/things", "{\"id\":\"a\"}"), 401);
    assert_says("WWW-Authenticate: Bearer");
    process_expect(process, "\"status\":401");
    assert_int_equal(ask(port, "GET", "/v1/things/a", ""), 404);
    assert_int_equal(
        ask(port, "POST", "/v1/things HTTP/1.1\r\nAuthorization: Bearer s3cret\r\nX:", "{\"id\":\"a\"}"),
        202);
    assert_int_equal(ask(port, "POST", "/v1/flow/pause", ""), 403); /* another token's */
    assert_says("ADMIN_TOKEN");
    assert_int_equal(stop(process), 0);
    assert_int_equal(unlink(file), 0);

    process = RUN("serve", SETTINGS(broker_bootstrap(broker)), "--http-client-rate", "1");
    port = process_expect_number(process, "\"port\":");
    int64_t until = now_ms() + DEADLINE_S * 1000;
    while (ask(port, "GET", "/version", "") != 429) /* two within a second */
        assert_true(now_ms() < until);
    for (int i = 0; i < 10; i++)
        assert_int_equal(ask(port, "GET", "/livez", ""), 200);
    assert_int_equal(ask(port, "GET", "/metrics", ""), 200);
    assert_null(strstr(reply, "weir_http_limited_total 0"));
    assert_int_equal(stop(process), 0);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--as-service") == 0) {
        argv[1] = argv[0];
        return service_main(&fake, argc - 1, argv + 1);
    }
    signal(SIGPIPE, SIG_IGN);
#define WITH_BROKER(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_on_the_command_line_are_known_or_refused),
        cmocka_unit_test(secrets_are_not_shown),
        WITH_BROKER(service_serves_drains_and_goes_on_where_it_was),
        WITH_BROKER(junk_goes_to_the_dead_letters_and_lag_falls_to_nothing),
        WITH_BROKER(dead_letters_of_one_cause_are_a_few_lines_and_a_number),
        WITH_BROKER(port_in_use_ends_the_start),
        WITH_BROKER(database_in_use_ends_the_start),
        WITH_BROKER(bad_database_is_a_bad_setting),
        WITH_BROKER(without_a_broker_it_serves_and_is_not_ready),
        WITH_BROKER(broker_that_hangs_does_not_hold_up_the_drain),
        WITH_BROKER(broker_that_is_gone_does_not_hold_up_the_drain),
        WITH_BROKER(check_tells_part_by_part),
        WITH_BROKER(check_ready_asks_the_one_that_serves),
        WITH_BROKER(check_and_serve_end_with_one_code),
        WITH_BROKER(http_is_as_the_settings_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
