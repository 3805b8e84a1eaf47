/* The net's calls against servers that misbehave in every way that has an outcome of its own. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "net/net.h"
#include "support/peer.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- waiting for answers */

enum { ANSWERS_MAX = 64, PATIENT_MS = 30000, SHORT_MS = 300 };

struct answers {
    pthread_mutex_t lock;
    pthread_cond_t came;
    int count;
    struct net_result result[ANSWERS_MAX];
    char body[ANSWERS_MAX][256];
};
static struct answers answers = {.lock = PTHREAD_MUTEX_INITIALIZER, .came = PTHREAD_COND_INITIALIZER};

static void on_done(void *owner, const struct net_result *result)
{
    (void)owner;
    pthread_mutex_lock(&answers.lock);
    assert_true(answers.count < ANSWERS_MAX);
    answers.result[answers.count] = *result;
    snprintf(answers.body[answers.count], sizeof(answers.body[0]), "%.*s", TEXT_ARG(result->body));
    answers.count++;
    pthread_cond_broadcast(&answers.came);
    pthread_mutex_unlock(&answers.lock);
}

static const struct net_result *wait_for(int count)
{
    pthread_mutex_lock(&answers.lock);
    while (answers.count < count)
        pthread_cond_wait(&answers.came, &answers.lock);
    pthread_mutex_unlock(&answers.lock);
    return &answers.result[count - 1];
}

static struct net *open_net(int connections_max)
{
    answers.count = 0;
    struct net *net;
    struct error error;
    assert_int_equal(net_open(connections_max, &net, &error), OK);
    return net;
}

static void post(struct net *net, int port, const char *path, int timeout_ms)
{
    char url[128];
    snprintf(url, sizeof(url), "http://127.0.0.1:%d%s", port, path);
    const struct net_http http = {
        .method = "POST",
        .url = url,
        .headers = {"Content-Type: application/json", "Idempotency-Key: k1"},
        .body = TEXT("{\"a\":1}"),
        .timeout_ms = timeout_ms,
    };
    struct error error;
    assert_int_equal(net_http(net, &http, on_done, NULL, &error), OK);
}

static enum outcome mail_to(struct net *net, int port, const char *to, const char *message, int timeout_ms)
{
    char url[128];
    snprintf(url, sizeof(url), "smtp://127.0.0.1:%d", port);
    const struct net_mail mail = {
        .url = url,
        .from = TEXT("shop@example.org"),
        .to = text_of(to),
        .message = text_of(message),
        .timeout_ms = timeout_ms,
    };
    struct error error;
    return net_mail(net, &mail, on_done, NULL, &error);
}

static void mail(struct net *net, int port, int timeout_ms)
{
    assert_int_equal(mail_to(net, port, "anna@example.com", "Subject: x\r\n\r\nhello\r\n", timeout_ms), OK);
}

/* ---- HTTP */

static bool hear_request(int fd, char *into, size_t size)
{
    return peer_hear(fd, "{\"a\":1}", into, size) > 0;
}

/* owner: what is said to each request. */
static void say_to_requests(void *owner, int fd, int number)
{
    (void)number;
    char request[2048];
    while (hear_request(fd, request, sizeof(request)) && peer_say(fd, owner))
        ;
}

static void http_gives(const char *answer, enum outcome outcome, int status)
{
    struct peer *peer = peer_open(say_to_requests, (void *)(uintptr_t)answer);
    struct net *net = open_net(2);
    post(net, peer_port(peer), "/v1/charges", PATIENT_MS);
    const struct net_result *result = wait_for(1);
    assert_int_equal(result->outcome, outcome);
    assert_int_equal(result->status, status);
    assert_false(result->ambiguous);
    net_close(net);
    peer_close(peer);
}

static void status_decides_the_outcome(void **state)
{
    (void)state;
    static const struct {
        int status;
        enum outcome outcome;
    } rows[] = {
        {200, OK},     {201, OK},     {202, OK},    {204, OK},     {301, RETRY},  {400, REJECT},
        {402, REJECT}, {404, REJECT}, {408, RETRY}, {409, REJECT}, {422, REJECT}, {425, RETRY},
        {429, RETRY},  {500, RETRY},  {502, RETRY}, {503, RETRY},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char answer[128];
        snprintf(answer, sizeof(answer), "HTTP/1.1 %d X\r\n%s\r\n", rows[i].status,
                 rows[i].status == 204 ? "" : "Content-Length: 0\r\n");
        http_gives(answer, rows[i].outcome, rows[i].status);
    }
}

static void answer_carries_body_and_connection_is_used_again(void **state)
{
    (void)state;
    struct peer *peer =
        peer_open(say_to_requests, (void *)(uintptr_t) "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    struct net *net = open_net(2);
    for (int i = 1; i <= 10; i++) {
        post(net, peer_port(peer), "/v1/charges", PATIENT_MS);
        assert_int_equal(wait_for(i)->outcome, OK);
        assert_string_equal(answers.body[i - 1], "hello");
    }
    assert_int_equal(peer_connections(peer), 1);
    net_close(net);
    peer_close(peer);
}

static void retry_after_is_read_and_bounded(void **state)
{
    (void)state;
    http_gives("HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", RETRY, 429);
    assert_int_equal(answers.result[0].retry_after_ms, 7000);
    http_gives("HTTP/1.1 503 No\r\nRetry-After: 99999999\r\nContent-Length: 0\r\n\r\n", RETRY, 503);
    assert_int_equal(answers.result[0].retry_after_ms, 3600000);
    http_gives("HTTP/1.1 200 OK\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", OK, 200);
    assert_int_equal(answers.result[0].retry_after_ms, 0);
}

static void http_fails(void (*serve)(void *, int, int), int timeout_ms, enum outcome outcome, bool ambiguous)
{
    struct peer *peer = peer_open(serve, NULL);
    struct net *net = open_net(2);
    post(net, peer_port(peer), "/v1/charges", timeout_ms);
    const struct net_result *result = wait_for(1);
    assert_int_equal(result->outcome, outcome);
    assert_int_equal(result->ambiguous, ambiguous);
    assert_true(strlen(result->text) > 0);
    net_close(net);
    peer_close(peer);
}

static void refused_connection_is_an_outage(void **state)
{
    (void)state;
    struct net *net = open_net(2);
    post(net, peer_refusing_port(), "/v1/charges", PATIENT_MS);
    const struct net_result *result = wait_for(1);
    assert_int_equal(result->outcome, OUTAGE);
    assert_false(result->ambiguous);
    net_close(net);
}

static void unknown_host_is_an_outage(void **state)
{
    (void)state;
    struct net *net = open_net(2);
    const struct net_http http = {
        .method = "GET", .url = "http://no-such-host.invalid/", .timeout_ms = PATIENT_MS};
    struct error error;
    assert_int_equal(net_http(net, &http, on_done, NULL, &error), OK);
    assert_int_equal(wait_for(1)->outcome, OUTAGE);
    net_close(net);
}

static void url_that_is_none_is_rejected(void **state)
{
    (void)state;
    static const char *const urls[] = {
        "", "http://", "ftp://127.0.0.1/", "file:///etc/passwd", "http://a b/", "http://127.0.0.1/\r\nX: y"};
    for (size_t i = 0; i < sizeof(urls) / sizeof(urls[0]); i++) {
        struct net *net = open_net(2);
        const struct net_http http = {.method = "GET", .url = urls[i], .timeout_ms = PATIENT_MS};
        struct error error;
        assert_int_equal(net_http(net, &http, on_done, NULL, &error), OK);
        assert_int_equal(wait_for(1)->outcome, REJECT);
        net_close(net);
    }
}

static void close_after_request(void *owner, int fd, int number)
{
    (void)owner, (void)number;
    char request[2048];
    hear_request(fd, request, sizeof(request));
}

static void lost_answer_is_ambiguous(void **state)
{
    (void)state;
    http_fails(close_after_request, PATIENT_MS, RETRY, true);
}

static void hang_after_request(void *owner, int fd, int number)
{
    (void)owner, (void)number;
    peer_hang(fd);
}

static void answer_that_does_not_come_in_time_is_ambiguous(void **state)
{
    (void)state;
    http_fails(hang_after_request, SHORT_MS, RETRY, true);
}

static void half_an_answer(void *owner, int fd, int number)
{
    (void)owner, (void)number;
    char request[2048];
    if (hear_request(fd, request, sizeof(request)))
        peer_say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nonly this");
}

static void answer_cut_in_the_middle_is_ambiguous(void **state)
{
    (void)state;
    http_fails(half_an_answer, PATIENT_MS, RETRY, true);
}

static void talk_garbage(void *owner, int fd, int number)
{
    (void)owner, (void)number;
    char request[2048];
    if (hear_request(fd, request, sizeof(request)))
        peer_say(fd, "\x01\x02\xff not http at all\n\n\n");
}

static void garbage_is_tried_again(void **state)
{
    (void)state;
    http_fails(talk_garbage, PATIENT_MS, RETRY, true);
}

static void talk_for_ever(void *owner, int fd, int number)
{
    (void)owner, (void)number;
    char request[2048];
    if (!hear_request(fd, request, sizeof(request)))
        return;
    peer_say(fd, "HTTP/1.1 200 OK\r\n\r\n");
    while (
        peer_say(fd, "more and more and more and more and more and more and more and more and more and more"))
        ;
}

static void answer_without_end_is_cut_off(void **state)
{
    (void)state;
    http_fails(talk_for_ever, PATIENT_MS, RETRY, true);
}

static void send_headers_for_ever(void *owner, int fd, int number)
{
    (void)owner, (void)number;
    char request[2048];
    if (!hear_request(fd, request, sizeof(request)))
        return;
    peer_say(fd, "HTTP/1.1 200 OK\r\n");
    while (peer_say(
        fd, "X-More: and more and more and more and more and more and more and more and more and more\r\n"))
        ;
}

static void headers_without_end_are_cut_off(void **state)
{
    (void)state;
    http_fails(send_headers_for_ever, PATIENT_MS, RETRY, true);
}

static void closing_ends_calls_as_outage(void **state)
{
    (void)state;
    struct peer *peer = peer_open(hang_after_request, NULL);
    struct net *net = open_net(1);
    for (int i = 0; i < 5; i++) {
        post(net, peer_port(peer), "/v1/charges", PATIENT_MS);
        mail(net, peer_port(peer), PATIENT_MS);
    }
    net_close(net);
    assert_int_equal(answers.count, 10);
    for (int i = 0; i < 10; i++)
        assert_int_equal(answers.result[i].outcome, OUTAGE);
    peer_close(peer);
}

static void count_only(void *owner, const struct net_result *result)
{
    (void)result;
    ++*(int *)owner;
}

static void calls_past_the_bound_are_not_taken(void **state)
{
    (void)state;
    struct peer *peer = peer_open(hang_after_request, NULL);
    struct net *net = open_net(1);
    struct error error;
    char url[64];
    snprintf(url, sizeof(url), "http://127.0.0.1:%d/", peer_port(peer));
    const struct net_http http = {.method = "GET", .url = url, .timeout_ms = PATIENT_MS};
    int counted = 0;
    for (int i = 0; i < NET_CALLS_MAX; i++)
        assert_int_equal(net_http(net, &http, count_only, &counted, &error), OK);
    assert_int_equal(net_calls(net), NET_CALLS_MAX);
    assert_int_equal(net_http(net, &http, count_only, &counted, &error), RETRY);
    assert_string_equal(error.cause, "net-full");
    net_close(net);
    assert_int_equal(counted, NET_CALLS_MAX);
    peer_close(peer);
}

/* ---- SMTP: a server from a table of what it says */

struct smtp {
    const char *greeting, *from, *to, *data, *dot; /* NULL: closes the connection; "": says nothing */
    int mails_before_close;                        /* the connection is closed after so many, 0: never */
    int mails_before_421;                          /* likewise, but it says so to the next one */
    int mails;                                     /* accepted */
    char last[4096];                               /* what came after DATA */
};

static pthread_mutex_t smtp_lock = PTHREAD_MUTEX_INITIALIZER; /* mails and last */

static bool reply(int fd, const char *text)
{
    if (text && !*text)
        peer_hang(fd);
    return text && *text && peer_say(fd, text);
}

static void serve_smtp(void *owner, int fd, int number)
{
    (void)number;
    struct smtp *smtp = owner;
    char line[1024];
    int mails = 0;
    if (!reply(fd, smtp->greeting))
        return;
    while (peer_hear(fd, "\r\n", line, sizeof(line))) {
        bool goes_on = true;
        if (strncmp(line, "EHLO", 4) == 0)
            goes_on = reply(fd, "250-test\r\n250 8BITMIME\r\n");
        else if (strncmp(line, "MAIL", 4) == 0 && smtp->mails_before_421 && mails == smtp->mails_before_421) {
            peer_say(fd, "421 4.7.0 enough on this connection\r\n");
            return;
        } else if (strncmp(line, "MAIL", 4) == 0)
            goes_on = reply(fd, smtp->from);
        else if (strncmp(line, "RCPT", 4) == 0)
            goes_on = reply(fd, smtp->to);
        else if (strncmp(line, "DATA", 4) == 0) {
            goes_on = reply(fd, smtp->data);
            if (goes_on && smtp->data[0] == '3') {
                char message[4096];
                if (!peer_hear(fd, "\r\n.\r\n", message, sizeof(message)))
                    return;
                pthread_mutex_lock(&smtp_lock);
                memcpy(smtp->last, message, sizeof(message));
                smtp->mails += smtp->dot && smtp->dot[0] == '2';
                pthread_mutex_unlock(&smtp_lock);
                goes_on = reply(fd, smtp->dot);
                if (++mails == smtp->mails_before_close)
                    return;
            }
        } else if (strncmp(line, "QUIT", 4) == 0) {
            peer_say(fd, "221 bye\r\n");
            return;
        } else {
            goes_on = reply(fd, "250 ok\r\n");
        }
        if (!goes_on)
            return;
    }
}

static struct smtp good_smtp(void)
{
    return (struct smtp){
        "220 test\r\n", "250 ok\r\n", "250 ok\r\n", "354 go on\r\n", "250 2.0.0 queued\r\n", 0, 0, 0, ""};
}

static void mail_gives(struct smtp smtp, int timeout_ms, enum outcome outcome, int status, bool ambiguous)
{
    struct peer *peer = peer_open(serve_smtp, &smtp);
    struct net *net = open_net(2);
    mail(net, peer_port(peer), timeout_ms);
    const struct net_result *result = wait_for(1);
    assert_int_equal(result->outcome, outcome);
    assert_int_equal(result->status, status);
    assert_int_equal(result->ambiguous, ambiguous);
    assert_true(strlen(result->text) > 0);
    net_close(net);
    peer_close(peer);
}

static void accepted_mail_is_ok(void **state)
{
    (void)state;
    mail_gives(good_smtp(), PATIENT_MS, OK, 250, false);
    assert_string_equal(answers.result[0].text, "250 2.0.0 queued");
}

static void refusals_are_classed_by_their_code_at_each_step(void **state)
{
    (void)state;
    static const struct {
        const char *said;
        int status;
        enum outcome outcome;
    } rows[] = {
        {"451 later\r\n", 451, RETRY},          {"452-full\r\n452 later\r\n", 452, RETRY},
        {"550 5.1.1 unknown\r\n", 550, REJECT}, {"554 no\r\n", 554, REJECT},
        {"421 closing\r\n", 421, OUTAGE},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (int step = 0; step < 4; step++) {
            struct smtp smtp = good_smtp();
            *(step == 0   ? &smtp.from
              : step == 1 ? &smtp.to
              : step == 2 ? &smtp.data
                          : &smtp.dot) = rows[i].said;
            mail_gives(smtp, PATIENT_MS, rows[i].outcome, rows[i].status, false);
        }
    }
}

static void no_greeting_is_an_outage(void **state)
{
    (void)state;
    struct smtp smtp = good_smtp();
    smtp.greeting = NULL;
    mail_gives(smtp, PATIENT_MS, OUTAGE, 0, false);
    smtp.greeting = "";
    mail_gives(smtp, SHORT_MS, OUTAGE, 0, false);
    smtp.greeting = "421 not now\r\n";
    mail_gives(smtp, PATIENT_MS, OUTAGE, 421, false);
    smtp.greeting = "554 go away\r\n";
    mail_gives(smtp, PATIENT_MS, OUTAGE, 554, false);
    struct net *net = open_net(2);
    mail(net, peer_refusing_port(), PATIENT_MS);
    assert_int_equal(wait_for(1)->outcome, OUTAGE);
    net_close(net);
}

static void connection_lost_before_the_dot_is_as_421(void **state)
{
    (void)state;
    for (int step = 0; step < 3; step++) {
        struct smtp smtp = good_smtp();
        const char **said = step == 0 ? &smtp.from : step == 1 ? &smtp.to : &smtp.data;
        *said = NULL;
        mail_gives(smtp, PATIENT_MS, OUTAGE, 0, false);
        *said = "";
        mail_gives(smtp, SHORT_MS, OUTAGE, 0, false);
        *said = "hello?\r\n";
        mail_gives(smtp, PATIENT_MS, OUTAGE, 0, false);
    }
}

static void connection_lost_after_the_dot_is_ambiguous(void **state)
{
    (void)state;
    struct smtp smtp = good_smtp();
    smtp.dot = NULL;
    mail_gives(smtp, PATIENT_MS, RETRY, 0, true);
    smtp.dot = "";
    mail_gives(smtp, SHORT_MS, RETRY, 0, true);
    smtp.dot = "what?\r\n";
    mail_gives(smtp, PATIENT_MS, RETRY, 0, true);
}

static void say_without_end(void *owner, int fd, int number)
{
    (void)owner, (void)number;
    char line[1024];
    if (!peer_say(fd, "220 test\r\n") || !peer_hear(fd, "\r\n", line, sizeof(line)) ||
        !peer_say(fd, "250 ok\r\n") || !peer_hear(fd, "\r\n", line, sizeof(line)))
        return;
    while (peer_say(fd, number % 2 ? "250-and so on\r\n" : "250 and so on "))
        ;
}

static void smtp_answer_without_end_is_cut_off(void **state)
{
    (void)state;
    struct peer *peer = peer_open(say_without_end, NULL);
    struct net *net = open_net(1);
    for (int i = 1; i <= 2; i++) {
        mail(net, peer_port(peer), PATIENT_MS);
        assert_int_equal(wait_for(i)->outcome, OUTAGE);
    }
    net_close(net);
    peer_close(peer);
}

static void mail_connection_is_used_again_also_after_a_refusal(void **state)
{
    (void)state;
    struct smtp smtp = good_smtp();
    struct peer *peer = peer_open(serve_smtp, &smtp);
    struct net *net = open_net(1); /* with more, one mail may begin elsewhere before the reset is answered */
    for (int i = 1; i <= 20; i++) {
        bool refused = i % 3 == 1; /* the first as well */
        smtp.to = refused ? "550 unknown\r\n" : "250 ok\r\n";
        mail(net, peer_port(peer), PATIENT_MS);
        assert_int_equal(wait_for(i)->outcome, refused ? REJECT : OK);
    }
    assert_int_equal(peer_connections(peer), 1);
    net_close(net);
    peer_close(peer);
}

static void kept_connection_that_was_closed_costs_nothing(void **state)
{
    (void)state;
    struct smtp smtp = good_smtp();
    smtp.mails_before_close = 1;
    struct peer *peer = peer_open(serve_smtp, &smtp);
    struct net *net = open_net(4);
    for (int i = 1; i <= 20; i++) {
        mail(net, peer_port(peer), PATIENT_MS);
        assert_int_equal(wait_for(i)->outcome, OK);
    }
    assert_int_equal(smtp.mails, 20);
    net_close(net);
    peer_close(peer);
}

static void server_that_takes_so_many_on_a_connection_costs_nothing(void **state)
{
    (void)state;
    struct smtp smtp = good_smtp();
    smtp.mails_before_421 = 3;
    struct peer *peer = peer_open(serve_smtp, &smtp);
    struct net *net = open_net(1);
    for (int i = 1; i <= 10; i++) {
        mail(net, peer_port(peer), PATIENT_MS);
        assert_int_equal(wait_for(i)->outcome, OK);
    }
    assert_int_equal(smtp.mails, 10);
    assert_int_equal(peer_connections(peer), 4);
    net_close(net);
    peer_close(peer);
}

/* A server that hears the beginning of a message, says that it is too large and closes, with the rest on its
 * way; and a net whose thread sees none of it before all has happened. */
struct middle {
    atomic_bool heard, busy, closed;
};

static void until(atomic_bool *done)
{
    while (!atomic_load(done))
        usleep(1000);
}

static void refuse_in_the_middle(void *owner, int fd, int number)
{
    struct middle *middle = owner;
    (void)number;
    char line[1024];
    if (!peer_say(fd, "220 test\r\n"))
        return;
    while (peer_hear(fd, "\r\n", line, sizeof(line))) {
        bool data = strncmp(line, "DATA", 4) == 0;
        if (!peer_say(fd, data ? "354 go on\r\n" : "250 ok\r\n"))
            return;
        if (!data)
            continue;
        (void)peer_hear(fd, "\r\n", line, sizeof(line));
        atomic_store(&middle->heard, true);
        until(&middle->busy);
        (void)peer_say(fd, "552 5.3.4 too large\r\n");
        int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
        assert_true(nothing >= 0 && dup2(nothing, fd) == fd);
        close(nothing);
        atomic_store(&middle->closed, true);
        return;
    }
}

static void be_busy(void *owner, const struct net_result *result)
{
    struct middle *middle = owner;
    (void)result;
    atomic_store(&middle->busy, true);
    until(&middle->closed);
}

static void refusal_in_the_middle_of_a_message_is_heard_also_when_the_connection_is_closed(void **state)
{
    (void)state;
    enum { MESSAGE_BYTES = 9 << 20, LINE_BYTES = 64 };
    struct middle middle = {0};
    struct error error;
    char url[64], *message = malloc(MESSAGE_BYTES + 1);
    assert_non_null(message);
    memset(message, 'x', MESSAGE_BYTES);
    for (size_t i = LINE_BYTES; i <= MESSAGE_BYTES; i += LINE_BYTES)
        memcpy(message + i - 2, "\r\n", 2);
    message[MESSAGE_BYTES] = '\0';
    struct peer *peer = peer_open(refuse_in_the_middle, &middle);
    struct net *net = open_net(1);
    assert_int_equal(mail_to(net, peer_port(peer), "anna@example.com", message, PATIENT_MS), OK);
    until(&middle.heard);
    snprintf(url, sizeof(url), "http://127.0.0.1:%d/", peer_refusing_port());
    const struct net_http http = {.method = "GET", .url = url, .timeout_ms = PATIENT_MS};
    assert_int_equal(net_http(net, &http, be_busy, &middle, &error), OK);
    const struct net_result *result = wait_for(1);
    assert_int_equal(result->outcome, REJECT);
    assert_int_equal(result->status, 552);
    net_close(net);
    peer_close(peer);
    free(message);
}

static void mails_share_the_connections_that_there_are(void **state)
{
    (void)state;
    struct smtp smtp = good_smtp();
    struct peer *peer = peer_open(serve_smtp, &smtp);
    struct net *net = open_net(3);
    for (int i = 0; i < ANSWERS_MAX; i++)
        mail(net, peer_port(peer), PATIENT_MS);
    wait_for(ANSWERS_MAX);
    for (int i = 0; i < ANSWERS_MAX; i++)
        assert_int_equal(answers.result[i].outcome, OK);
    assert_in_range(peer_connections(peer), 1, 3);
    net_close(net);
    peer_close(peer);
}

static void dots_arrive_as_they_were(void **state)
{
    (void)state;
    struct smtp smtp = good_smtp();
    struct peer *peer = peer_open(serve_smtp, &smtp);
    struct net *net = open_net(1);
    assert_int_equal(mail_to(net, peer_port(peer), "anna@example.com", ".a\r\n..\r\n.\r\nb.\r\n", PATIENT_MS),
                     OK);
    assert_int_equal(wait_for(1)->outcome, OK);
    assert_string_equal(smtp.last, "..a\r\n...\r\n..\r\nb.\r\n.\r\n");
    net_close(net);
    peer_close(peer);
}

static void nothing_that_could_smuggle_is_taken(void **state)
{
    (void)state;
    struct net *net = open_net(1);
    static const char *const addresses[] = {"", "anna", "anna@example.com\r\nDATA",
                                            "anna@example.com>\r\nRCPT TO:<eve@example.com", "a\n@b"};
    for (size_t i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++)
        assert_int_equal(mail_to(net, 9, addresses[i], "a\r\n", PATIENT_MS), REJECT);
    static const char *const messages[] = {"",        "a",       "a\n",          "a\r",     "a\n\r\n",
                                           "\na\r\n", "a\r\r\n", "a\r\n.\n\r\n", "a\r.\r\n"};
    for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++)
        assert_int_equal(mail_to(net, 9, "anna@example.com", messages[i], PATIENT_MS), REJECT);
    assert_int_equal(net_calls(net), 0);
    net_close(net);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status_decides_the_outcome),
        cmocka_unit_test(answer_carries_body_and_connection_is_used_again),
        cmocka_unit_test(retry_after_is_read_and_bounded),
        cmocka_unit_test(refused_connection_is_an_outage),
        cmocka_unit_test(unknown_host_is_an_outage),
        cmocka_unit_test(url_that_is_none_is_rejected),
        cmocka_unit_test(lost_answer_is_ambiguous),
        cmocka_unit_test(answer_that_does_not_come_in_time_is_ambiguous),
        cmocka_unit_test(answer_cut_in_the_middle_is_ambiguous),
        cmocka_unit_test(garbage_is_tried_again),
        cmocka_unit_test(answer_without_end_is_cut_off),
        cmocka_unit_test(headers_without_end_are_cut_off),
        cmocka_unit_test(closing_ends_calls_as_outage),
        cmocka_unit_test(calls_past_the_bound_are_not_taken),
        cmocka_unit_test(accepted_mail_is_ok),
        cmocka_unit_test(refusals_are_classed_by_their_code_at_each_step),
        cmocka_unit_test(no_greeting_is_an_outage),
        cmocka_unit_test(connection_lost_before_the_dot_is_as_421),
        cmocka_unit_test(connection_lost_after_the_dot_is_ambiguous),
        cmocka_unit_test(smtp_answer_without_end_is_cut_off),
        cmocka_unit_test(mail_connection_is_used_again_also_after_a_refusal),
        cmocka_unit_test(kept_connection_that_was_closed_costs_nothing),
        cmocka_unit_test(server_that_takes_so_many_on_a_connection_costs_nothing),
        cmocka_unit_test(refusal_in_the_middle_of_a_message_is_heard_also_when_the_connection_is_closed),
        cmocka_unit_test(mails_share_the_connections_that_there_are),
        cmocka_unit_test(dots_arrive_as_they_were),
        cmocka_unit_test(nothing_that_could_smuggle_is_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
