/* The stand-ins, asked by the net as the services ask them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/json.h"
#include "net/message.h"
#include "net/net.h"
#include "weir/gateway_sim.h"
#include "weir/mail_sink.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { PATIENT_MS = 30000, SHORT_MS = 300 };

/* ---- a call and its answer */

struct answer {
    pthread_mutex_t lock;
    pthread_cond_t came;
    bool is_here;
    struct net_result result;
    char body[8192];
};

static void on_done(void *owner, const struct net_result *result)
{
    struct answer *answer = owner;
    pthread_mutex_lock(&answer->lock);
    answer->result = *result;
    snprintf(answer->body, sizeof(answer->body), "%.*s", TEXT_ARG(result->body));
    answer->is_here = true;
    pthread_cond_signal(&answer->came);
    pthread_mutex_unlock(&answer->lock);
}

static struct answer answer_new(void)
{
    return (struct answer){.lock = PTHREAD_MUTEX_INITIALIZER, .came = PTHREAD_COND_INITIALIZER};
}

static void wait_for(struct answer *answer)
{
    pthread_mutex_lock(&answer->lock);
    while (!answer->is_here)
        pthread_cond_wait(&answer->came, &answer->lock);
    pthread_mutex_unlock(&answer->lock);
}

static struct net *net;

static int open_net(void **state)
{
    (void)state;
    struct error error;
    return net_open(8, &net, &error) == OK ? 0 : -1;
}

static int close_net(void **state)
{
    (void)state;
    net_close(net);
    return 0;
}

static char *folder_new(char into[64])
{
    snprintf(into, 64, "/tmp/weir-standins-XXXXXX");
    assert_non_null(mkdtemp(into));
    return into;
}

static void folder_remove(const char *folder)
{
    DIR *directory = opendir(folder);
    struct dirent *entry;
    while ((entry = readdir(directory)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            assert_int_equal(unlinkat(dirfd(directory), entry->d_name, 0), 0);
    closedir(directory);
    assert_int_equal(rmdir(folder), 0);
}

static char *file_read(const char *folder, const char *name, char *into, size_t size)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    into[fread(into, 1, size - 1, file)] = '\0';
    fclose(file);
    return into;
}

/* ---- gateway */

struct till {
    struct gateway *gateway;
    pthread_t thread;
};

static void *run_gateway(void *argument)
{
    struct error error;
    assert_int_equal(gateway_run(argument, -1, &error), OK);
    return NULL;
}

static struct till till_open(struct gateway_settings settings)
{
    struct till till;
    struct error error;
    settings.listen = "127.0.0.1:0";
    assert_int_equal(gateway_open(&settings, &till.gateway, &error), OK);
    pthread_create(&till.thread, NULL, run_gateway, till.gateway);
    return till;
}

static void till_close(struct till *till)
{
    gateway_stop(till->gateway);
    pthread_join(till->thread, NULL);
    gateway_close(till->gateway);
}

static struct answer ask(struct till *till, const char *method, const char *path, const char *key,
                         const char *body, int timeout_ms)
{
    struct answer answer = answer_new();
    char url[128], header[128];
    snprintf(url, sizeof(url), "http://%s%s", gateway_address(till->gateway), path);
    snprintf(header, sizeof(header), "Idempotency-Key: %s", key ? key : "");
    const struct net_http http = {.method = method,
                                  .url = url,
                                  .headers = {key ? header : NULL},
                                  .body = text_of(body),
                                  .timeout_ms = timeout_ms};
    struct error error;
    assert_int_equal(net_http(net, &http, on_done, &answer, &error), OK);
    wait_for(&answer);
    return answer;
}

#define CHARGE "{\"order_id\":\"o1\",\"customer_id\":\"c1\",\"amount_minor\":1200,\"currency\":\"EUR\"}"
#define OTHER  "{\"order_id\":\"o1\",\"customer_id\":\"c1\",\"amount_minor\":1201,\"currency\":\"EUR\"}"
#define DECLINED                                                                                             \
    "{\"order_id\":\"o2\",\"customer_id\":\"declined-c\",\"amount_minor\":5,\"currency\":\"EUR\"}"

static struct answer charge(struct till *till, const char *key, const char *body)
{
    return ask(till, "POST", "/v1/charges", key, body, PATIENT_MS);
}

static void payment_id_of(const struct answer *answer, char into[65])
{
    json_t *json;
    assert_int_equal(json_read(text_of(answer->body), &json, NULL), OK);
    snprintf(into, 65, "%.*s", TEXT_ARG(json_text(json, "payment_id")));
    json_decref(json);
}

static void one_key_is_one_charge_also_over_a_restart(void **state)
{
    (void)state;
    char folder[64], first[8192];
    const struct gateway_settings settings = {.directory = folder_new(folder)};
    struct till till = till_open(settings);
    struct answer answer = charge(&till, "k1", CHARGE);
    assert_int_equal(answer.result.status, 200);
    snprintf(first, sizeof(first), "%s", answer.body);
    answer = charge(&till, "\"k1\"", CHARGE);
    assert_string_equal(answer.body, first);
    till_close(&till);

    till = till_open(settings);
    answer = charge(&till, "k1", CHARGE);
    assert_int_equal(answer.result.status, 200);
    assert_string_equal(answer.body, first);
    assert_int_equal(charge(&till, "k1", OTHER).result.status, 422);
    assert_int_equal(gateway_counts(till.gateway).charges, 1);
    assert_int_equal(charge(&till, "k2", OTHER).result.status, 200);
    assert_int_equal(gateway_counts(till.gateway).charges, 2);
    till_close(&till);
    folder_remove(folder);
}

static void half_a_line_of_a_crash_is_taken_away(void **state)
{
    (void)state;
    char folder[64], path[128];
    const struct gateway_settings settings = {.directory = folder_new(folder)};
    struct till till = till_open(settings);
    charge(&till, "k1", CHARGE);
    till_close(&till);
    snprintf(path, sizeof(path), "%s/ledger.ndjson", folder);
    FILE *file = fopen(path, "a");
    fputs("{\"n\":2,\"kind\":\"cha", file);
    fclose(file);

    till = till_open(settings);
    assert_int_equal(gateway_counts(till.gateway).charges, 1);
    assert_int_equal(charge(&till, "k2", CHARGE).result.status, 200);
    till_close(&till);
    till = till_open(settings);
    assert_int_equal(gateway_counts(till.gateway).charges, 2);
    till_close(&till);
    folder_remove(folder);
}

static void declined_customers_are_declined(void **state)
{
    (void)state;
    struct till till = till_open((struct gateway_settings){0});
    struct answer answer = charge(&till, "k1", DECLINED);
    assert_int_equal(answer.result.status, 402);
    assert_int_equal(answer.result.outcome, REJECT);
    assert_non_null(strstr(answer.body, "\"status\":\"declined\""));
    assert_int_equal(charge(&till, "k1", DECLINED).result.status, 402);
    assert_int_equal(gateway_counts(till.gateway).declines, 1);
    till_close(&till);
}

static void refunds_are_bounded_by_what_was_captured(void **state)
{
    (void)state;
    struct till till = till_open((struct gateway_settings){0});
    struct answer answer = charge(&till, "k1", CHARGE);
    char payment_id[65], body[256];
    payment_id_of(&answer, payment_id);
    snprintf(body, sizeof(body), "{\"payment_id\":\"%s\",\"amount_minor\":1200,\"currency\":\"EUR\"}",
             payment_id);
    assert_int_equal(ask(&till, "POST", "/v1/refunds", "r1", body, PATIENT_MS).result.status, 200);
    assert_int_equal(ask(&till, "POST", "/v1/refunds", "r1", body, PATIENT_MS).result.status, 200);
    assert_int_equal(ask(&till, "POST", "/v1/refunds", "r2", body, PATIENT_MS).result.status, 422);
    assert_int_equal(ask(&till, "POST", "/v1/refunds", "r3",
                         "{\"payment_id\":\"pay_x\",\"amount_minor\":1,\"currency\":\"EUR\"}", PATIENT_MS)
                         .result.status,
                     404);
    answer = ask(&till, "GET", "/v1/ledger", NULL, "", PATIENT_MS);
    assert_int_equal(answer.result.status, 200);
    assert_non_null(strstr(answer.body, "\"captured_minor\":1200,\"refunds\":1,\"refunded_minor\":1200"));
    till_close(&till);
}

static void lost_answer_has_charged_once(void **state)
{
    (void)state;
    char folder[64];
    struct gateway_settings settings = {.directory = folder_new(folder), .failures.lost_ppm = FAILURES_PPM};
    struct till till = till_open(settings);
    struct answer answer = charge(&till, "k1", CHARGE);
    assert_int_equal(answer.result.outcome, RETRY);
    assert_true(answer.result.ambiguous);
    till_close(&till);
    settings.failures.lost_ppm = 0;
    till = till_open(settings);
    assert_int_equal(charge(&till, "k1", CHARGE).result.status, 200);
    assert_int_equal(gateway_counts(till.gateway).charges, 1);
    assert_int_equal(gateway_counts(till.gateway).repeats, 1);
    till_close(&till);
    folder_remove(folder);
}

static void time_out_does_nothing(void **state)
{
    (void)state;
    struct till till = till_open((struct gateway_settings){.failures.timeout_ppm = FAILURES_PPM});
    struct answer answer = ask(&till, "POST", "/v1/charges", "k1", CHARGE, SHORT_MS);
    assert_int_equal(answer.result.outcome, RETRY);
    assert_true(answer.result.ambiguous);
    assert_int_equal(gateway_counts(till.gateway).charges, 0);
    till_close(&till);
}

static void key_whose_first_request_is_under_way_is_a_conflict(void **state)
{
    (void)state;
    struct till till =
        till_open((struct gateway_settings){.latency_min_ms = 600000, .latency_max_ms = 600000});
    assert_int_equal(ask(&till, "POST", "/v1/charges", "k1", CHARGE, SHORT_MS).result.outcome, RETRY);
    /* That caller has gone, which the gateway may or may not have seen: a new one keeps the key busy. */
    struct answer first = answer_new();
    char url[128];
    snprintf(url, sizeof(url), "http://%s/v1/charges", gateway_address(till.gateway));
    const struct net_http http = {.method = "POST",
                                  .url = url,
                                  .headers = {"Idempotency-Key: k2"},
                                  .body = TEXT(CHARGE),
                                  .timeout_ms = PATIENT_MS};
    struct error error;
    assert_int_equal(net_http(net, &http, on_done, &first, &error), OK);
    while (gateway_counts(till.gateway).charges < 2)
        sched_yield();
    assert_int_equal(ask(&till, "POST", "/v1/charges", "k2", CHARGE, PATIENT_MS).result.status, 409);
    till_close(&till);
    wait_for(&first);
}

static void what_is_no_request_is_refused(void **state)
{
    (void)state;
    struct till till = till_open((struct gateway_settings){0});
    assert_int_equal(charge(&till, NULL, CHARGE).result.status, 400);
    assert_int_equal(charge(&till, "k1", "[]").result.status, 400);
    assert_int_equal(charge(&till, "k1", "{").result.status, 400);
    assert_int_equal(charge(&till, "k1", "{}").result.status, 422);
    assert_int_equal(
        charge(&till, "k1",
               "{\"order_id\":\"o\",\"customer_id\":\"c\",\"amount_minor\":-1,\"currency\":\"EUR\"}")
            .result.status,
        422);
    assert_int_equal(ask(&till, "GET", "/v1/charges", NULL, "", PATIENT_MS).result.status, 405);
    assert_int_equal(ask(&till, "GET", "/nothing", NULL, "", PATIENT_MS).result.status, 404);
    assert_int_equal(gateway_counts(till.gateway).charges, 0);
    till_close(&till);
}

/* ---- mail sink */

struct box {
    struct mail_sink *sink;
    pthread_t thread;
};

static void *run_sink(void *argument)
{
    struct error error;
    assert_int_equal(mail_sink_run(argument, -1, &error), OK);
    return NULL;
}

static struct box box_open(struct mail_sink_settings settings)
{
    struct box box;
    struct error error;
    settings.listen = "127.0.0.1:0";
    settings.keep_max = 1000;
    assert_int_equal(mail_sink_open(&settings, &box.sink, &error), OK);
    pthread_create(&box.thread, NULL, run_sink, box.sink);
    return box;
}

static void box_close(struct box *box)
{
    mail_sink_stop(box->sink);
    pthread_join(box->thread, NULL);
    mail_sink_close(box->sink);
}

static struct net_result send_mail(struct box *box, const char *id, const char *text)
{
    struct answer answer = answer_new();
    struct buffer into = buffer_of(1 << 20);
    struct error error;
    char url[64];
    const struct message message = {
        .from = TEXT("shop@example.org"),
        .to = TEXT("anna@example.com"),
        .subject = TEXT("Your order"),
        .message_id = text_of(id),
        .text = text_of(text),
        .html = TEXT("<p>hello</p>"),
    };
    assert_int_equal(message_write(&message, &into, &error), OK);
    snprintf(url, sizeof(url), "smtp://%s", mail_sink_address(box->sink));
    const struct net_mail mail = {.url = url,
                                  .from = message.from,
                                  .to = message.to,
                                  .message = buffer_text(&into),
                                  .timeout_ms = PATIENT_MS};
    assert_int_equal(net_mail(net, &mail, on_done, &answer, &error), OK);
    wait_for(&answer);
    buffer_free(&into);
    return answer.result;
}

static void mails_are_kept_and_listed_also_over_a_restart(void **state)
{
    (void)state;
    char folder[64], index[4096], mail[4096];
    const struct mail_sink_settings settings = {.directory = folder_new(folder)};
    struct box box = box_open(settings);
    assert_int_equal(send_mail(&box, "<a@example.org>", ".dots\n..\nend\n").outcome, OK);
    box_close(&box);
    box = box_open(settings);
    assert_int_equal(send_mail(&box, "<b@example.org>", "hello").outcome, OK);
    box_close(&box);

    file_read(folder, "index.ndjson", index, sizeof(index));
    char *second = strchr(index, '\n') + 1, name[80];
    assert_non_null(strstr(index, "{\"n\":1,\"message_id\":\"<a@example.org>\",\"to\":\"anna@example.com\","
                                  "\"subject\":\"Your order\","));
    assert_non_null(strstr(second, "{\"n\":2,\"message_id\":\"<b@example.org>\""));
    assert_int_equal(sscanf(strstr(index, "\"file\":\"") + 8, "%79[^\"]", name), 1);
    file_read(folder, name, mail, sizeof(mail));
    assert_non_null(strstr(mail, "\r\n\r\n=2Edots\r\n=2E.\r\nend\r\n\r\n--"));
    assert_string_equal(mail + strlen(mail) - 15, "\r\n--=_weir_--\r\n");
    folder_remove(folder);
}

static void refusals_come_as_asked_for(void **state)
{
    (void)state;
    static const struct {
        int reply;
        enum outcome outcome;
    } rows[] = {{451, RETRY}, {550, REJECT}, {421, OUTAGE}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct box box =
            box_open((struct mail_sink_settings){.refuse_percent = 100, .refuse_reply = rows[i].reply});
        struct net_result result = send_mail(&box, "<a@example.org>", "hello");
        assert_int_equal(result.outcome, rows[i].outcome);
        assert_int_equal(result.status, rows[i].reply);
        assert_int_equal(mail_sink_counts(box.sink).kept, 0);
        box_close(&box);
    }
}

static void dropped_mail_is_kept_and_ambiguous(void **state)
{
    (void)state;
    struct box box = box_open((struct mail_sink_settings){.failures.lost_ppm = FAILURES_PPM});
    struct net_result result = send_mail(&box, "<a@example.org>", "hello");
    assert_int_equal(result.outcome, RETRY);
    assert_true(result.ambiguous);
    assert_int_equal(mail_sink_counts(box.sink).kept, 1);
    assert_int_equal(mail_sink_counts(box.sink).dropped, 1);
    box_close(&box);
}

static struct failures failures_of(const char *list, enum failures_of of)
{
    struct failures failures;
    struct error error;
    if (failures_parse("CHAOS", list, of, &failures, &error) != OK)
        fail_msg("%s: %s", list, error.text);
    return failures;
}

static void lists_of_failures_are_read_or_refused(void **state)
{
    (void)state;
    struct failures read = failures_of(" 5xx=2% ,timeout=0.1%,lost=0.0001%, outage=8s/45s", FAILURES_GATEWAY);
    assert_int_equal(read.refuse_ppm, 20000);
    assert_int_equal(read.timeout_ppm, 1000);
    assert_int_equal(read.lost_ppm, 1);
    assert_int_equal(read.away_us, 8000000);
    assert_int_equal(read.every_us, 45000000);
    read = failures_of("421=100%,4yz=1%", FAILURES_MAIL);
    assert_int_equal(read.closing_ppm, FAILURES_PPM);
    assert_int_equal(read.refuse_ppm, 10000);
    assert_int_equal(failures_of("", FAILURES_MAIL).every_us, 0);
    assert_int_equal(failures_of(NULL, FAILURES_MAIL).every_us, 0);
    static const struct {
        const char *list;
        enum failures_of of;
    } wrong[] = {{"4yz=1%", FAILURES_GATEWAY},    {"5xx=1%", FAILURES_MAIL},
                 {"5xx=1%,", FAILURES_GATEWAY},   {",", FAILURES_GATEWAY},
                 {"5xx", FAILURES_GATEWAY},       {"5xx=1", FAILURES_GATEWAY},
                 {"5xx=101%", FAILURES_GATEWAY},  {"outage=5s", FAILURES_MAIL},
                 {"outage=5s/4s", FAILURES_MAIL}, {"lost=1%,lost=1%", FAILURES_MAIL}};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct error error;
        if (failures_parse("CHAOS", wrong[i].list, wrong[i].of, &read, &error) != REJECT)
            fail_msg("%s is taken", wrong[i].list);
        assert_int_equal(error.exit_code, EXIT_CONFIG);
        assert_non_null(strstr(error.text, wrong[i].of == FAILURES_MAIL ? "4yz=P%" : "5xx=P%"));
    }
}

static void chaos_is_dealt_out_to_handlers_gateway_and_mail(void **state)
{
    (void)state;
    static const struct {
        const char *list, *handlers, *gateway, *mail;
    } rows[] = {
        {NULL, "", "", ""},
        {"", "", "", ""},
        {"lively", CHAOS_LIVELY_HANDLERS, CHAOS_LIVELY_GATEWAY, CHAOS_LIVELY_SMTP},
        {"handlers", CHAOS_LIVELY_HANDLERS, "", ""},
        {"smtp,gateway", "", CHAOS_LIVELY_GATEWAY, CHAOS_LIVELY_SMTP},
        {"handlers,seed=4,smtp-lost=1%", CHAOS_LIVELY_HANDLERS ",seed=4", "", "lost=1%"},
        {"keys=1%:3, gateway-5xx=5%,gateway-outage=1s/9s,smtp-421=2%,poison=1%", "keys=1%:3,poison=1%",
         "5xx=5%,outage=1s/9s", "421=2%"},
    };
    struct chaos_list list;
    struct error error;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (chaos_list_parse(rows[i].list, &list, &error) != OK)
            fail_msg("%s: %s", rows[i].list, error.text);
        assert_string_equal(list.handlers, rows[i].handlers);
        assert_string_equal(list.gateway, rows[i].gateway);
        assert_string_equal(list.mail, rows[i].mail);
    }
    static const char *const wrong[] = {
        "keys",      "gateway-",          "gateway-4yz=1%",   "smtp-5xx=1%",       "on",
        "keys=1%,,", "smtp-421=1%,smtp,", "handlers,keys=2%", "lively,smtp-421=1%"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        if (chaos_list_parse(wrong[i], &list, &error) != REJECT)
            fail_msg("%s is taken", wrong[i]);
        assert_int_equal(error.exit_code, EXIT_CONFIG);
        assert_non_null(strstr(error.text, "CHAOS"));
    }
    char large[2 * CHAOS_LIST_BYTES_MAX];
    memset(large, 'x', sizeof(large) - 1);
    large[sizeof(large) - 1] = '\0';
    assert_int_equal(chaos_list_parse(large, &list, &error), REJECT);
}

static void in_an_outage_connections_are_refused_and_then_taken_again(void **state)
{
    (void)state;
    struct till till =
        till_open((struct gateway_settings){.failures = failures_of("outage=150ms/400ms", FAILURES_GATEWAY)});
    static const enum outcome wanted[] = {OK, OUTAGE, OK, OUTAGE, OK};
    int64_t done = 0, lost = 0;
    int asked = 0;
    for (size_t seen = 0; seen < sizeof(wanted) / sizeof(wanted[0]);) {
        char key[16];
        snprintf(key, sizeof(key), "k%d", asked++);
        struct answer answer = charge(&till, key, CHARGE);
        done += answer.result.outcome == OK;
        lost += answer.result.outcome == RETRY; /* on its way when the outage began */
        seen += answer.result.outcome == wanted[seen];
    }
    assert_in_range(gateway_counts(till.gateway).charges, done, done + lost);
    till_close(&till);
}

static void delayed_answer_comes(void **state)
{
    (void)state;
    struct box box = box_open((struct mail_sink_settings){.delay_ms = 20});
    assert_int_equal(send_mail(&box, "<a@example.org>", "hello").outcome, OK);
    assert_int_equal(send_mail(&box, "<b@example.org>", "hello").outcome, OK);
    box_close(&box);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_key_is_one_charge_also_over_a_restart),
        cmocka_unit_test(half_a_line_of_a_crash_is_taken_away),
        cmocka_unit_test(declined_customers_are_declined),
        cmocka_unit_test(refunds_are_bounded_by_what_was_captured),
        cmocka_unit_test(lost_answer_has_charged_once),
        cmocka_unit_test(time_out_does_nothing),
        cmocka_unit_test(key_whose_first_request_is_under_way_is_a_conflict),
        cmocka_unit_test(what_is_no_request_is_refused),
        cmocka_unit_test(mails_are_kept_and_listed_also_over_a_restart),
        cmocka_unit_test(refusals_come_as_asked_for),
        cmocka_unit_test(dropped_mail_is_kept_and_ambiguous),
        cmocka_unit_test(delayed_answer_comes),
        cmocka_unit_test(lists_of_failures_are_read_or_refused),
        cmocka_unit_test(chaos_is_dealt_out_to_handlers_gateway_and_mail),
        cmocka_unit_test(in_an_outage_connections_are_refused_and_then_taken_again),
    };
    return cmocka_run_group_tests(tests, open_net, close_net);
}
