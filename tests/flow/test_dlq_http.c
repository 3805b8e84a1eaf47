/* dlq_http over the mock cluster: pages, causes, jobs, and an end that waits for nobody. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/json.h"
#include "service/dlq_http.h"
#include "support/broker.h"

#include "kafka/producer.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PARTITIONS = 2, WAIT_S = 60, WAIT_MS = WAIT_S * 1000, ANSWER_BYTES_MAX = 1 << 20, CLOSE_MS = 5000 };

static const char *const topics[] = {"dlq.order", "retry.order.2s", "audit", NULL};

struct world {
    struct broker *broker;
    struct metrics *metrics;
    struct server *server;
    struct dlq_http *dlq;
};

static void on_request(void *owner, struct exchange *exchange, const struct request *request)
{
    struct world *world = owner;
    assert_true(dlq_http_answers(world->dlq, exchange, request));
}

static int world_up(void **state)
{
    struct world *world = calloc(1, sizeof(*world));
    struct error error;
    assert_non_null(world);
    world->broker = broker_start(1, topics, PARTITIONS);
    world->metrics = metrics_new();
    const struct server_settings http = {
        .listen = "127.0.0.1:0", .metrics = world->metrics, .owner = world, .request = on_request};
    if (http_open(&http, &world->server, &error) != OK)
        fail_msg("%s", error.text);
    const struct dlq_http_settings settings = {
        .service = "order",
        .client = {.bootstrap_servers = broker_bootstrap(world->broker), .client_id = "test"},
        .first_delay_ms = 2000,
        .token = bearer_token_of("s3cret"),
    };
    assert_int_equal(dlq_http_open(&settings, world->server, &world->dlq, &error), OK);
    assert_int_equal(http_start(world->server, &error), OK);
    *state = world;
    return 0;
}

static int world_down(void **state)
{
    struct world *world = *state;
    dlq_http_close(world->dlq, CLOSE_MS);
    http_close(world->server);
    dlq_http_free(world->dlq);
    metrics_destroy(world->metrics);
    broker_stop(world->broker);
    free(world);
    return 0;
}

/* ---- letters and questions */

static void on_report(void *owner, uint64_t tag, enum outcome outcome, int32_t partition, int64_t offset,
                      const char *reason)
{
    (void)owner, (void)tag, (void)partition, (void)offset, (void)reason;
    assert_int_equal(outcome, OK);
}

static void bury(struct world *world, int count)
{
    struct error error;
    struct producer *producer;
    const struct producer_settings settings = {
        .client = {.bootstrap_servers = broker_bootstrap(world->broker), .client_id = "test"}};
    assert_int_equal(producer_open(&settings, on_report, NULL, &producer, &error), OK);
    for (int i = 0; i < count; i++) {
        char id[16];
        snprintf(id, sizeof(id), "e-%d", i);
        const struct header headers[] = {
            {TEXT("ce_id"), text_of(id)},
            {TEXT("__dlq.errors.topic"), TEXT("orders")},
            {TEXT("__dlq.errors.delivery.count"), TEXT("4")},
            {TEXT("weir_error_class"), TEXT("RETRY")},
            {TEXT("weir_error_fingerprint"), TEXT("aa")},
        };
        const struct producer_record record = {.topic = TEXT("dlq.order"),
                                               .partition = i % PARTITIONS,
                                               .key = TEXT("k"),
                                               .value = text_of(id),
                                               .headers = headers,
                                               .header_count = sizeof(headers) / sizeof(headers[0])};
        assert_int_equal(producer_send(producer, &record, 0, &error), OK);
    }
    assert_true(producer_flush(producer, WAIT_MS));
    producer_close(producer, WAIT_MS);
}

/* A connection on which the question has been sent. */
static int ask_begin(struct world *world, const char *token, const char *line, const char *json)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)http_port(world->server)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char request[2048];
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct timeval patience = {.tv_sec = WAIT_S};
    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    int length = snprintf(request, sizeof(request),
                          "%s HTTP/1.1\r\nHost: weir\r\nConnection: close\r\nAuthorization: Bearer %s\r\n"
                          "Content-Length: %zu\r\n\r\n%s",
                          line, token, strlen(json), json);
    assert_int_equal(send(fd, request, (size_t)length, MSG_NOSIGNAL), length);
    return fd;
}

static char body[ANSWER_BYTES_MAX];

/* The answer's status; its body in body. */
static int ask_end(int fd)
{
    static char answer[ANSWER_BYTES_MAX];
    int status = 0;
    size_t count = 0;
    for (ssize_t got; (got = recv(fd, answer + count, sizeof(answer) - count - 1, 0)) > 0;)
        count += (size_t)got;
    close(fd);
    answer[count] = '\0';
    const char *end = strstr(answer, "\r\n\r\n");
    assert_int_equal(sscanf(answer, "HTTP/1.1 %d", &status), 1);
    snprintf(body, sizeof(body), "%s", end ? end + 4 : "");
    return status;
}

static int ask(struct world *world, const char *line, const char *json)
{
    return ask_end(ask_begin(world, "s3cret", line, json));
}

static json_t *answer_of(struct world *world, const char *line, const char *json, int status)
{
    json_t *answer;
    struct error error;
    int got = ask(world, line, json);
    if (got != status)
        fail_msg("%s: %d, not %d: %s", line, got, status, body);
    assert_int_equal(json_read(text_of(body), &answer, &error), OK);
    return answer;
}

static int64_t number_of(struct world *world, const char *line, const char *member)
{
    json_t *answer = answer_of(world, line, "", 200);
    int64_t number = json_integer_value(json_object_get(answer, member));
    json_decref(answer);
    return number;
}

/* Begins a job and gives "GET /v1/dlq/jobs/<id>". */
static void begin(struct world *world, const char *order, char line[128])
{
    json_t *answer = answer_of(world, "POST /v1/dlq/redrive", order, 202);
    snprintf(line, 128, "GET /v1/dlq/jobs/%s", json_string_value(json_object_get(answer, "job_id")));
    json_decref(answer);
}

/* Until the job's member is this. Each answer is a question of its own: nothing sleeps. */
static void wait_for(struct world *world, const char *line, const char *member, const char *text,
                     int64_t number)
{
    struct timespec now, until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    for (;;) {
        json_t *answer = answer_of(world, line, "", 200);
        const json_t *value = json_object_get(answer, member);
        bool is = text ? json_is_string(value) && strcmp(json_string_value(value), text) == 0
                       : json_integer_value(value) == number;
        json_decref(answer);
        if (is)
            return;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec > until.tv_sec + WAIT_S)
            fail_msg("%s: %s", line, body);
    }
}

/* ---- tests */

static void only_the_token_opens_and_what_is_wrong_is_named(void **state)
{
    struct world *world = *state;
    static const struct {
        const char *line, *json;
        int status;
    } cases[] = {
        {"GET /v1/dlq?limit=0", "", 422},
        {"GET /v1/dlq?colour=red", "", 422},
        {"GET /v1/dlq/a/1", "", 404},
        {"GET /v1/dlq/0/77", "", 404},
        {"GET /v1/dlq/jobs/none", "", 404},
        {"POST /v1/dlq/jobs/none/stop", "", 404},
        {"POST /v1/dlq/redrive", "not json", 400},
        {"POST /v1/dlq/redrive", "{\"typo\":1}", 422},
        {"POST /v1/dlq/drop", "{}", 422},
        {"GET /v1/dlq", "", 200},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int status = ask(world, cases[i].line, cases[i].json);
        if (status != cases[i].status)
            fail_msg("%s: %d %s", cases[i].line, status, body);
        if (status != 400)
            assert_int_equal(ask_end(ask_begin(world, "guess", cases[i].line, cases[i].json)), 401);
    }
}

static void pages_are_read_one_after_another(void **state)
{
    struct world *world = *state;
    enum { LETTERS = 25, PAGE = 10 };
    char line[128] = "GET /v1/dlq?limit=10", next[64];
    size_t seen = 0;
    bury(world, LETTERS);
    for (bool more = true; more;) {
        json_t *page = answer_of(world, line, "", 200);
        const json_t *items = json_object_get(page, "items"), *after = json_object_get(page, "next");
        for (size_t i = 0; i < json_array_size(items); i++, seen++) {
            const json_t *item = json_array_get(items, i);
            /* Thirteen lie in the first partition, twelve in the second. */
            assert_int_equal(json_integer_value(json_object_get(item, "partition")), seen / 13);
            assert_int_equal(json_integer_value(json_object_get(item, "offset")), seen % 13);
            assert_string_equal(json_string_value(json_object_get(item, "state")), "open");
            assert_string_equal(json_string_value(json_object_get(item, "weir_error_class")), "RETRY");
        }
        more = json_is_string(after);
        if (more) {
            snprintf(next, sizeof(next), "%s", json_string_value(after));
            snprintf(line, sizeof(line), "GET /v1/dlq?limit=10&after=%s", next);
            assert_int_equal(json_array_size(items), PAGE);
        }
        json_decref(page);
    }
    assert_int_equal(seen, LETTERS);

    json_t *causes = answer_of(world, "GET /v1/dlq?by=fingerprint&state=all", "", 200);
    assert_int_equal(json_array_size(json_object_get(causes, "groups")), 1);
    json_decref(causes);
    assert_int_equal(number_of(world, "GET /v1/dlq/1/3", "offset"), 3);
    json_t *forecast = answer_of(world, "POST /v1/dlq/redrive", "{\"dry_run\":true,\"rate\":5}", 200);
    assert_int_equal(json_integer_value(json_object_get(forecast, "would_send")), LETTERS);
    assert_int_equal(json_integer_value(json_object_get(forecast, "seconds")), 5);
    json_decref(forecast);
}

static void one_job_at_a_time_is_done_stopped_and_gone_on_with(void **state)
{
    struct world *world = *state;
    char first[128], second[128], stop[160];
    bury(world, 20);
    begin(world, "{\"rate\":\"1/h\"}", first);
    assert_int_equal(ask(world, "POST /v1/dlq/redrive", "{}"), 409);
    assert_int_equal(ask(world, "POST /v1/dlq/drop", "{\"reason\":\"x\"}"), 409);
    wait_for(world, first, "sent", NULL, 1);
    assert_int_equal(number_of(world, first, "total"), 20);
    /* Others are answered meanwhile. */
    assert_int_equal(ask(world, "GET /v1/dlq", ""), 200);
    snprintf(stop, sizeof(stop), "POST %s/stop", first + strlen("GET "));
    assert_int_equal(ask(world, stop, ""), 202);
    wait_for(world, first, "state", "stopped", 0);

    begin(world, "{\"rate\":0}", second);
    wait_for(world, second, "state", "completed", 0);
    assert_int_equal(number_of(world, second, "sent"), 19);
    assert_int_equal(number_of(world, second, "passed"), 1);
    assert_int_equal(number_of(world, second, "progress"), 100);
    assert_int_equal(number_of(world, first, "sent"), 1); /* still known */
    json_t *left = answer_of(world, "GET /v1/dlq", "", 200);
    assert_int_equal(json_array_size(json_object_get(left, "items")), 0);
    json_decref(left);
}

static void close_ends_a_job_in_the_middle(void **state)
{
    struct world *world = *state;
    char line[128];
    bury(world, 20);
    begin(world, "{\"rate\":\"1/h\"}", line);
    wait_for(world, line, "sent", NULL, 1);
    /* world_down() closes it: it would take twenty hours. */
}

/* The last one: the thread that waits for Kafka is left to the end of the process. */
static void close_without_kafka_leaves_nobody_without_an_answer(void **state)
{
    enum { CLIENTS = DLQ_READS_MAX + 1 };
    struct world *world = *state;
    struct pollfd clients[CLIENTS];
    broker_down(world->broker);
    for (size_t i = 0; i < CLIENTS; i++)
        clients[i] = (struct pollfd){.fd = ask_begin(world, "s3cret", "GET /v1/dlq", ""), .events = POLLIN};
    /* Only so many may wait: when one is refused, all others are in hand. */
    assert_int_equal(poll(clients, CLIENTS, WAIT_MS), 1);
    dlq_http_close(world->dlq, 100);
    http_close(world->server);
    dlq_http_free(world->dlq);
    for (size_t i = 0; i < CLIENTS; i++)
        assert_int_equal(ask_end(clients[i].fd), 503);
    metrics_destroy(world->metrics);
    broker_stop(world->broker);
    free(world);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, world_up, world_down)
    const struct CMUnitTest tests[] = {
        TEST(only_the_token_opens_and_what_is_wrong_is_named),
        TEST(pages_are_read_one_after_another),
        TEST(one_job_at_a_time_is_done_stopped_and_gone_on_with),
        TEST(close_ends_a_job_in_the_middle),
        cmocka_unit_test_setup(close_without_kafka_leaves_nobody_without_an_answer, world_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
