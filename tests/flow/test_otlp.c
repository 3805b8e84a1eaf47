/* Spans to a collector that takes them, refuses them, comes late, or is not there. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "net/otlp.h"
#include "support/peer.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/* ---- a collector */

static struct collector {
    _Atomic(const char *) answers[4]; /* in turn, then ok; NULL: none at all */
    atomic_int asked;
    pthread_mutex_t lock;
    char head[4096]; /* of the last request */
} collector = {.lock = PTHREAD_MUTEX_INITIALIZER};

static size_t length_of(const char *head)
{
    const char *at = strcasestr(head, "\r\ncontent-length:");
    return at ? strtoul(at + strlen("\r\ncontent-length:"), NULL, 10) : 0;
}

static void collect(void *owner, int fd, int number)
{
    char head[4096], bytes[4096];
    (void)owner, (void)number;
    while (peer_hear(fd, "\r\n\r\n", head, sizeof(head))) {
        for (size_t left = length_of(head); left > 0;) {
            ssize_t got = read(fd, bytes, left < sizeof(bytes) ? left : sizeof(bytes));
            if (got <= 0)
                return;
            left -= (size_t)got;
        }
        pthread_mutex_lock(&collector.lock);
        memcpy(collector.head, head, sizeof(head));
        pthread_mutex_unlock(&collector.lock);
        int turn = atomic_fetch_add(&collector.asked, 1);
        const char *answer = turn < 4 ? atomic_load(&collector.answers[turn]) : ok;
        if (!answer) {
            peer_hang(fd);
            return;
        }
        if (!peer_say(fd, answer))
            return;
    }
}

static struct peer *collector_open(const char *first, const char *second)
{
    atomic_store(&collector.asked, 0);
    atomic_store(&collector.answers[0], first);
    atomic_store(&collector.answers[1], second);
    atomic_store(&collector.answers[2], ok);
    atomic_store(&collector.answers[3], ok);
    return peer_open(collect, NULL);
}

/* ---- an exporter */

static struct {
    pthread_mutex_t lock;
    int bad, good;
    char text[512];
} said = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void on_said(void *owner, bool bad, const char *text)
{
    (void)owner;
    pthread_mutex_lock(&said.lock);
    if (bad)
        said.bad++;
    else
        said.good++;
    snprintf(said.text, sizeof(said.text), "%s", text);
    pthread_mutex_unlock(&said.lock);
}

static int bad_said(void)
{
    pthread_mutex_lock(&said.lock);
    int bad = said.bad;
    pthread_mutex_unlock(&said.lock);
    return bad;
}

static int good_said(void)
{
    pthread_mutex_lock(&said.lock);
    int good = said.good;
    pthread_mutex_unlock(&said.lock);
    return good;
}

static struct metrics *metrics;
static struct config *config;

static struct otlp *exporter_open(const char *const *arguments, size_t count)
{
    static const struct setting *const tables[] = {otlp_settings};
    char *words[16];
    struct otlp *otlp;
    struct error error;
    for (size_t i = 0; i < count; i++)
        words[i] = (char *)(uintptr_t)arguments[i];
    if (config_read(tables, 1, (int)count, words, &config, &error) != OK)
        fail_msg("%s", error.text);
    metrics = metrics_new();
    said.bad = said.good = 0;
    const struct otlp_use use = {
        .config = config, .service_name = "weir-test", .version = "1", .metrics = metrics, .say = on_said};
    if (otlp_open(&use, &otlp, &error) != OK)
        fail_msg("%s", error.text);
    return otlp;
}

static void exporter_end(struct otlp *otlp)
{
    otlp_close(otlp, 10000);
    metrics_destroy(metrics);
    config_destroy(config);
}

static struct otlp *exporter_to(int port, const char *more)
{
    char endpoint[128];
    snprintf(endpoint, sizeof(endpoint), "--otel-exporter-otlp-endpoint=http://127.0.0.1:%d", port);
    const char *arguments[] = {endpoint, "--otel-bsp-schedule-delay=20", more};
    return exporter_open(arguments, more ? 3 : 2);
}

static int64_t counted(size_t index)
{
    return (int64_t)metric_value(metrics_get(metrics, &otlp_metrics[index], NULL));
}
enum { DROPPED, EXPORTED };

static void give(struct otlp *otlp, int count)
{
    struct span_context context;
    assert_true(span_context_of(TEXT("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), &context));
    for (int i = 0; i < count; i++) {
        struct span *span = spans_take(otlp_spans(otlp), SPAN_INTERNAL, &context, NULL);
        if (!span)
            continue;
        span_name(span, "test", TEXT(""));
        spans_give(otlp_spans(otlp), span);
    }
}

/* Within a minute, or the test says what was wanted. */
#define WAIT_FOR(condition)                                                                                  \
    do {                                                                                                     \
        for (int waited = 0; !(condition); waited++) {                                                       \
            if (waited > 6000)                                                                               \
                fail_msg("never: " #condition);                                                              \
            usleep(10000);                                                                                   \
        }                                                                                                    \
    } while (0)

static void without_an_endpoint_there_is_nothing(void **state)
{
    (void)state;
    struct otlp *otlp = exporter_open(NULL, 0);
    assert_null(otlp);
    assert_null(otlp_spans(otlp));
    struct buffer page = buffer_of(1 << 16);
    metrics_write(metrics, &page); /* at 0 from the start all the same */
    assert_non_null(memmem(page.at, page.length, "weir_spans_dropped_total 0\n", 27));
    buffer_free(&page);
    exporter_end(otlp);
    const char *const off[][2] = {
        {"--otel-exporter-otlp-endpoint=http://127.0.0.1:1", "--otel-sdk-disabled=true"},
        {"--otel-exporter-otlp-traces-endpoint=http://127.0.0.1:1", "--otel-traces-exporter=none"},
    };
    for (size_t i = 0; i < 2; i++) {
        otlp = exporter_open(off[i], 2);
        assert_null(otlp);
        exporter_end(otlp);
    }
}

static void what_is_given_arrives(void **state)
{
    (void)state;
    struct peer *peer = collector_open(ok, ok);
    struct otlp *otlp =
        exporter_to(peer_port(peer), "--otel-exporter-otlp-headers=Authorization=Bearer%20x, x-a = b");
    give(otlp, 5);
    WAIT_FOR(counted(EXPORTED) == 5);
    pthread_mutex_lock(&collector.lock);
    assert_non_null(strstr(collector.head, "POST /v1/traces HTTP/1.1\r\n"));
    assert_non_null(strstr(collector.head, "\r\nContent-Type: application/x-protobuf\r\n"));
    assert_non_null(strstr(collector.head, "\r\nAuthorization: Bearer x\r\n"));
    assert_non_null(strstr(collector.head, "\r\nx-a: b\r\n"));
    pthread_mutex_unlock(&collector.lock);
    assert_int_equal(bad_said(), 0);
    exporter_end(otlp);
    peer_close(peer);
}

/* As large as spans can be, and as many as a batch may have: more bytes than a request. */
static void batch_of_large_spans_goes_in_several_requests(void **state)
{
    (void)state;
    enum { COUNT = 8192 };
    static char text[SPAN_TEXT_BYTES_MAX];
    char endpoint[128];
    struct span_context context;
    struct peer *peer = collector_open(ok, ok);
    snprintf(endpoint, sizeof(endpoint), "--otel-exporter-otlp-endpoint=http://127.0.0.1:%d",
             peer_port(peer));
    const char *const arguments[] = {
        endpoint, "--otel-bsp-schedule-delay=600000", "--otel-bsp-max-queue-size=8192",
        "--otel-bsp-max-export-batch-size=8192", "--otel-exporter-otlp-protocol=http/json"};
    struct otlp *otlp = exporter_open(arguments, sizeof(arguments) / sizeof(arguments[0]));
    assert_true(span_context_of(TEXT("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), &context));
    memset(text, '\1', sizeof(text)); /* six bytes each, in JSON */
    for (int i = 0; i < COUNT; i++) {
        struct span *span = spans_take(otlp_spans(otlp), SPAN_INTERNAL, &context, NULL);
        assert_non_null(span);
        span_text(span, "text", (struct text){text, sizeof(text)});
        spans_give(otlp_spans(otlp), span);
    }
    WAIT_FOR(counted(EXPORTED) + counted(DROPPED) == COUNT);
    assert_int_equal(counted(DROPPED), 0);
    assert_in_range(atomic_load(&collector.asked), 2, 8);
    assert_int_equal(bad_said(), 0);
    exporter_end(otlp);
    peer_close(peer);
}

static void what_is_left_goes_at_the_end(void **state)
{
    (void)state;
    struct peer *peer = collector_open(ok, ok);
    struct otlp *otlp = exporter_to(peer_port(peer), "--otel-bsp-schedule-delay=600000");
    give(otlp, 3);
    otlp_close(otlp, 30000);
    assert_int_equal(counted(EXPORTED), 3);
    metrics_destroy(metrics);
    config_destroy(config);
    peer_close(peer);
}

static void refusal_for_now_is_tried_again(void **state)
{
    (void)state;
    struct peer *peer = collector_open("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", ok);
    struct otlp *otlp = exporter_to(peer_port(peer), NULL);
    give(otlp, 2);
    WAIT_FOR(counted(EXPORTED) == 2);
    assert_int_equal(counted(DROPPED), 0);
    assert_int_equal(atomic_load(&collector.asked), 2);
    assert_int_equal(bad_said(), 1);
    WAIT_FOR(good_said() == 1); /* after it is counted */
    exporter_end(otlp);
    peer_close(peer);
}

static void refusal_for_good_is_not(void **state)
{
    (void)state;
    struct peer *peer = collector_open("HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n", ok);
    struct otlp *otlp = exporter_to(peer_port(peer), NULL);
    give(otlp, 2);
    WAIT_FOR(counted(DROPPED) == 2);
    assert_int_equal(atomic_load(&collector.asked), 1);
    give(otlp, 1);
    WAIT_FOR(counted(EXPORTED) == 1);
    exporter_end(otlp);
    peer_close(peer);
}

/* The queue fills and no more; one line is said, however much is given. */
static void without_a_collector_the_queue_is_bounded_and_the_log_quiet(void **state)
{
    (void)state;
    struct otlp *otlp = exporter_to(peer_refusing_port(), "--otel-bsp-max-queue-size=16");
    give(otlp, 1);
    WAIT_FOR(bad_said() == 1);
    give(otlp, 1000);
    assert_true(counted(DROPPED) >= 1000 - 16 - 16);
    assert_int_equal(bad_said(), 1);
    otlp_close(otlp, 1000);
    assert_int_equal(counted(EXPORTED), 0);
    assert_int_equal(counted(DROPPED), 1001);
    metrics_destroy(metrics);
    config_destroy(config);
}

/* The peer would never answer: closing does not wait for it longer than it was told to. */
static void collector_that_hangs_does_not_hold_up_the_end(void **state)
{
    (void)state;
    struct peer *peer = collector_open(NULL, NULL);
    struct otlp *otlp = exporter_to(peer_port(peer), "--otel-exporter-otlp-timeout=300000");
    give(otlp, 1);
    WAIT_FOR(atomic_load(&collector.asked) == 1);
    otlp_close(otlp, 100);
    assert_int_equal(counted(DROPPED), 1);
    metrics_destroy(metrics);
    config_destroy(config);
    peer_close(peer);
}

static void what_is_not_understood_is_said_and_passed_over(void **state)
{
    const char *const odd[] = {"--otel-traces-sampler=jaeger_remote", "--otel-exporter-otlp-protocol=grpc",
                               "--otel-traces-sampler-arg=many", "--otel-exporter-otlp-headers=b ad=x"};
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct peer *peer = collector_open(ok, ok);
        struct otlp *otlp = exporter_to(peer_port(peer), odd[i]);
        /* The argument alone is of no meaning to this sampler. */
        assert_int_equal(bad_said(), strstr(odd[i], "-arg") ? 0 : 1);
        give(otlp, 1);
        WAIT_FOR(counted(EXPORTED) == 1);
        exporter_end(otlp);
        peer_close(peer);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_an_endpoint_there_is_nothing),
        cmocka_unit_test(what_is_given_arrives),
        cmocka_unit_test(batch_of_large_spans_goes_in_several_requests),
        cmocka_unit_test(what_is_left_goes_at_the_end),
        cmocka_unit_test(refusal_for_now_is_tried_again),
        cmocka_unit_test(refusal_for_good_is_not),
        cmocka_unit_test(without_a_collector_the_queue_is_bounded_and_the_log_quiet),
        cmocka_unit_test(collector_that_hangs_does_not_hold_up_the_end),
        cmocka_unit_test(what_is_not_understood_is_said_and_passed_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
