/* The schema registry's client against registries that are slow, away, wrong, locked or do not know. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "support/peer.h"
#include "wire/events.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- a registry that says what a test wants */

enum { RULES_MAX = 32, REQUEST_BYTES_MAX = 64 << 10, START_S = 1763726400 };

struct rule {
    const char *request; /* how its first line begins: "GET /schemas/ids/7 " */
    int status;
    const char *body;
    bool hangs;
    bool endless; /* a body past every bound */
};

struct scripted {
    struct peer *peer;
    pthread_mutex_t lock;
    struct rule rules[RULES_MAX];
    int asked[RULES_MAX];
    size_t count;
    int unexpected;
    char authorization[256]; /* of the last request */
    char last_body[REQUEST_BYTES_MAX];
};

static void answer(int fd, const struct rule *rule)
{
    char head[256], *whole = NULL;
    if (rule->endless) {
        static char block[64 << 10];
        memset(block, ' ', sizeof(block) - 1);
        snprintf(head, sizeof(head), "HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n",
                 rule->status ? rule->status : 200, 8 << 20);
        for (bool on = peer_say(fd, head); on; on = peer_say(fd, block))
            ;
        return;
    }
    /* In one piece: two small ones would wait for each other's acknowledgement. */
    assert_true(asprintf(&whole, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\n\r\n%s", rule->status,
                         strlen(rule->body), rule->body) >= 0);
    (void)peer_say(fd, whole);
    free(whole);
}

static bool take_request(struct scripted *scripted, int fd, char *request)
{
    if (!peer_hear(fd, "\r\n\r\n", request, REQUEST_BYTES_MAX))
        return false;
    const char *length = strcasestr(request, "Content-Length: "), *auth = strstr(request, "Authorization: ");
    size_t bytes = length ? (size_t)atoi(length + 16) : 0, got = 0;
    char *body = malloc(bytes + 1);
    assert_non_null(body);
    while (got < bytes) {
        ssize_t more = read(fd, body + got, bytes - got);
        if (more <= 0)
            break;
        got += (size_t)more;
    }
    body[got] = '\0';
    pthread_mutex_lock(&scripted->lock);
    snprintf(scripted->authorization, sizeof(scripted->authorization), "%.*s",
             auth ? (int)strcspn(auth + 15, "\r") : 0, auth ? auth + 15 : "");
    snprintf(scripted->last_body, sizeof(scripted->last_body), "%s", body);
    pthread_mutex_unlock(&scripted->lock);
    free(body);
    return got == bytes;
}

static void serve(void *owner, int fd, int number)
{
    struct scripted *scripted = owner;
    (void)number;
    char *request = malloc(REQUEST_BYTES_MAX);
    assert_non_null(request);
    while (take_request(scripted, fd, request)) {
        struct rule rule = {.status = 500,
                            .body = "{\"error_code\":50001,\"message\":\"not in the script\"}"};
        pthread_mutex_lock(&scripted->lock);
        size_t i = 0;
        while (i < scripted->count &&
               strncmp(request, scripted->rules[i].request, strlen(scripted->rules[i].request)) != 0)
            i++;
        if (i < scripted->count) {
            rule = scripted->rules[i];
            scripted->asked[i]++;
        } else {
            scripted->unexpected++;
        }
        pthread_mutex_unlock(&scripted->lock);
        if (rule.hangs) {
            peer_hang(fd);
            break;
        }
        answer(fd, &rule);
    }
    free(request);
}

static struct scripted *scripted_open(void)
{
    struct scripted *scripted = calloc(1, sizeof(*scripted));
    assert_non_null(scripted);
    pthread_mutex_init(&scripted->lock, NULL);
    scripted->peer = peer_open(serve, scripted);
    return scripted;
}

static void scripted_close(struct scripted *scripted)
{
    peer_close(scripted->peer);
    pthread_mutex_destroy(&scripted->lock);
    free(scripted);
}

static void rules_forget(struct scripted *scripted)
{
    pthread_mutex_lock(&scripted->lock);
    scripted->count = 0;
    pthread_mutex_unlock(&scripted->lock);
}

/* From now on; a rule of the same request is replaced. */
static void rule(struct scripted *scripted, struct rule rule)
{
    size_t i = 0;
    pthread_mutex_lock(&scripted->lock);
    while (i < scripted->count && strcmp(scripted->rules[i].request, rule.request) != 0)
        i++;
    assert_true(i < RULES_MAX);
    if (i == scripted->count)
        scripted->asked[i] = 0;
    scripted->rules[i] = rule;
    scripted->count = i < scripted->count ? scripted->count : i + 1;
    pthread_mutex_unlock(&scripted->lock);
}

static int asked(struct scripted *scripted, const char *request)
{
    int count = 0;
    pthread_mutex_lock(&scripted->lock);
    for (size_t i = 0; i < scripted->count; i++)
        if (strcmp(scripted->rules[i].request, request) == 0)
            count = scripted->asked[i];
    pthread_mutex_unlock(&scripted->lock);
    return count;
}

#define MISSING "{\"error_code\":40403,\"message\":\"Schema not found\"}"

/* Knows every schema of ours under 1000 + its number, whatever was asked for it. */
static void knows_ours(struct scripted *scripted)
{
    static char paths[16][128], bodies[16][32];
    for (int i = 0; event_types[i]; i++) {
        char subject[REGISTRY_SUBJECT_BYTES_MAX];
        snprintf(paths[i], sizeof(paths[i]), "POST /subjects/%s ", registry_subject(event_types[i], subject));
        snprintf(bodies[i], sizeof(bodies[i]), "{\"id\":%d}", 1000 + event_types[i]->number);
        rule(scripted, (struct rule){paths[i], 200, bodies[i], false, false});
    }
}

/* ---- a client of it */

struct client {
    struct config *config;
    struct registry *registry;
    char url[512];
    char *arguments[16];
    atomic_int went, came;
};

static void say(void *owner, bool away, const char *text)
{
    struct client *client = owner;
    (void)text;
    atomic_fetch_add(away ? &client->went : &client->came, 1);
}

static const enum topic_id writes_orders[] = {TOPIC_ORDERS, TOPIC_COUNT};

/* more: "--flag", "value", …, NULL */
static enum outcome client_open(struct client *client, bool tool, const enum topic_id *writes,
                                struct error *error, ...)
{
    const struct setting *const tables[] = {registry_settings};
    int count = 0;
    va_list more;
    client->arguments[count++] = (char[]){"--schema-registry-url"};
    client->arguments[count++] = client->url;
    va_start(more, error);
    for (char *next; (next = va_arg(more, char *)) != NULL;)
        client->arguments[count++] = next;
    va_end(more);
    assert_int_equal(config_read(tables, 1, count, client->arguments, &client->config, error), OK);
    const struct registry_use use = {
        .config = client->config, .tool = tool, .writes = writes, .say = say, .owner = client};
    return registry_open(&use, &client->registry, error);
}

static void client_close(struct client *client)
{
    registry_close(client->registry);
    config_destroy(client->config);
}

static void at(struct client *client, const struct scripted *scripted)
{
    *client = (struct client){0};
    snprintf(client->url, sizeof(client->url), "http://127.0.0.1:%d", peer_port(scripted->peer));
}

static struct error error;

/* What the registry's answer makes of it: past the time that a service does not wait for. */
static enum outcome plan(struct client *client, int32_t id, const struct event_type **ret_type)
{
    const struct codec_plan *plan;
    enum outcome outcome;
    *ret_type = NULL;
    while ((outcome = registry_plan(client->registry, id, ret_type, &plan, &error)) == OUTAGE &&
           strstr(error.text, "is being fetched"))
        usleep(1000);
    return outcome;
}

static void until_ready(struct client *client, bool ready, const char *why)
{
    char reason[ERROR_TEXT_BYTES_MAX] = "";
    for (;;) {
        bool is = registry_ready(client->registry, reason, sizeof(reason));
        if (is == ready && (ready || strstr(reason, why)))
            return;
        assert_false(is && !ready);
        usleep(1000);
        if (ready)
            clock_advance(10000); /* what was answered no is asked again */
    }
}

#define BACKED_OFF_US (REGISTRY_BACKOFF_MS_MAX * INT64_C(1000))

static int set_up(void **state)
{
    (void)state;
    clock_hold(START_S * INT64_C(1000000));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    clock_release();
    return 0;
}

/* ---- ids on records */

/* StockRejected as somebody else writes it: a field more, one as int that is ours as int too, no docs. */
#define OTHERS_STOCK_REJECTED                                                                                \
    "{\"schema\":\"{\\\"type\\\":\\\"record\\\",\\\"name\\\":\\\"StockRejected\\\",\\\"namespace\\\":"       \
    "\\\"weir\\\",\\\"fields\\\":[{\\\"name\\\":\\\"warehouse\\\",\\\"type\\\":\\\"string\\\"},"             \
    "{\\\"name\\\":\\\"order_id\\\",\\\"type\\\":\\\"string\\\"},{\\\"name\\\":\\\"sku\\\","                 \
    "\\\"type\\\":\\\"string\\\"},{\\\"name\\\":\\\"wanted\\\",\\\"type\\\":\\\"int\\\"},"                   \
    "{\\\"name\\\":\\\"available\\\",\\\"type\\\":\\\"int\\\"},{\\\"name\\\":\\\"rejected_at\\\","           \
    "\\\"type\\\":{\\\"type\\\":\\\"long\\\",\\\"logicalType\\\":\\\"timestamp-micros\\\"}}]}\"}"

static void id_is_fetched_once_and_resolves_to_our_struct(void **state)
{
    (void)state;
    struct scripted *scripted = scripted_open();
    struct client client;
    at(&client, scripted);
    rule(scripted, (struct rule){"GET /schemas/ids/7 ", 200, OTHERS_STOCK_REJECTED, false, false});
    assert_int_equal(client_open(&client, true, NULL, &error, NULL), OK);
    const struct event_type *type;
    const struct codec_plan *plan;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(registry_plan(client.registry, 7, &type, &plan, &error), OK);
        assert_ptr_equal(type, &stock_rejected_type);
    }
    assert_int_equal(asked(scripted, "GET /schemas/ids/7 "), 1);
    struct arena *arena = arena_new(1 << 20);
    const void *data;
    assert_int_equal(codec_decode(plan, TEXT("\4w1\4id\2s\x06\2\0"), arena, &data, &error), OK);
    const struct stock_rejected *rejected = data;
    assert_true(text_is(rejected->order_id, "id"));
    assert_int_equal(rejected->wanted, 3);
    arena_destroy(arena);
    client_close(&client);
    scripted_close(scripted);
}

static void one_fetch_is_in_flight_an_id_and_nobody_waits_long(void **state)
{
    (void)state;
    struct scripted *scripted = scripted_open();
    struct client client;
    at(&client, scripted);
    rule(scripted, (struct rule){.request = "GET /schemas/ids/7 ", .hangs = true});
    assert_int_equal(client_open(&client, false, NULL, &error, NULL), OK);
    const struct event_type *type;
    const struct codec_plan *unused;
    for (int i = 0; i < 1000; i++)
        assert_int_equal(registry_plan(client.registry, 7, &type, &unused, &error), OUTAGE);
    while (asked(scripted, "GET /schemas/ids/7 ") == 0)
        usleep(1000);
    assert_int_equal(asked(scripted, "GET /schemas/ids/7 "), 1);
    client_close(&client);
    scripted_close(scripted);
}

static void ids_in_flight_are_bounded(void **state)
{
    (void)state;
    struct scripted *scripted = scripted_open();
    struct client client;
    at(&client, scripted);
    rule(scripted, (struct rule){.request = "GET /schemas/ids/", .hangs = true});
    assert_int_equal(client_open(&client, false, NULL, &error, NULL), OK);
    const struct event_type *type;
    const struct codec_plan *unused;
    for (int32_t id = 1; id <= REGISTRY_FETCHES_MAX; id++)
        assert_int_equal(registry_plan(client.registry, id, &type, &unused, &error), OUTAGE);
    assert_null(strstr(error.text, "are being fetched already"));
    assert_int_equal(registry_plan(client.registry, 1000, &type, &unused, &error), OUTAGE);
    assert_non_null(strstr(error.text, "are being fetched already"));
    client_close(&client);
    scripted_close(scripted);
}

static void schemas_known_are_bounded(void **state)
{
    (void)state;
    struct scripted *scripted = scripted_open();
    struct client client;
    at(&client, scripted);
    rule(scripted, (struct rule){"GET /schemas/ids/", 200, OTHERS_STOCK_REJECTED, false, false});
    assert_int_equal(client_open(&client, true, NULL, &error, NULL), OK);
    const struct event_type *type;
    for (int32_t id = 0; id < REGISTRY_IDS_MAX; id++)
        assert_int_equal(plan(&client, id * 37, &type), OK);
    assert_int_equal(asked(scripted, "GET /schemas/ids/"), REGISTRY_IDS_MAX);
    for (int32_t id = 0; id < REGISTRY_IDS_MAX; id++)
        assert_int_equal(plan(&client, id * 37, &type), OK);
    assert_int_equal(asked(scripted, "GET /schemas/ids/"), REGISTRY_IDS_MAX);
    assert_int_equal(plan(&client, 1, &type), FATAL);
    client_close(&client);
    scripted_close(scripted);
}

static void unknown_id_waits_and_is_rejected_then(void **state)
{
    (void)state;
    struct scripted *scripted = scripted_open();
    struct client client;
    at(&client, scripted);
    rule(scripted, (struct rule){"GET /schemas/ids/", 404, MISSING, false, false});
    assert_int_equal(client_open(&client, false, NULL, &error, "--schema-registry-unknown-wait", "10s", NULL),
                     OK);
    const struct event_type *type;
    assert_int_equal(plan(&client, 7, &type), OUTAGE);
    assert_non_null(strstr(error.text, "does not have it"));
    /* Not asked again before it is due. */
    assert_int_equal(plan(&client, 7, &type), OUTAGE);
    assert_int_equal(asked(scripted, "GET /schemas/ids/"), 1);
    clock_advance(5000000);
    assert_int_equal(plan(&client, 7, &type), OUTAGE);
    assert_int_equal(asked(scripted, "GET /schemas/ids/"), 2);
    clock_advance(5000000);
    assert_int_equal(plan(&client, 7, &type), REJECT);
    assert_string_equal(error.cause, "schema-unknown");
    assert_int_equal(asked(scripted, "GET /schemas/ids/"), 3);
    /* The next wrong id finds no patience left, and the first is not asked for again for a while. */
    assert_int_equal(plan(&client, 8, &type), REJECT);
    assert_int_equal(plan(&client, 7, &type), REJECT);
    assert_int_equal(asked(scripted, "GET /schemas/ids/"), 4);
    /* It may have been registered meanwhile. */
    rule(scripted, (struct rule){"GET /schemas/ids/", 200, OTHERS_STOCK_REJECTED, false, false});
    clock_advance(REGISTRY_REFUSED_MS * INT64_C(1000));
    assert_int_equal(plan(&client, 7, &type), OK);
    client_close(&client);
    scripted_close(scripted);
}

static void unknown_id_that_appears_in_time_is_no_dead_letter(void **state)
{
    (void)state;
    struct scripted *scripted = scripted_open();
    struct client client;
    at(&client, scripted);
    rule(scripted, (struct rule){"GET /schemas/ids/7 ", 404, MISSING, false, false});
    assert_int_equal(client_open(&client, false, NULL, &error, NULL), OK);
    const struct event_type *type;
    assert_int_equal(plan(&client, 7, &type), OUTAGE);
    rule(scripted, (struct rule){"GET /schemas/ids/7 ", 200, OTHERS_STOCK_REJECTED, false, false});
    clock_advance(1000000);
    assert_int_equal(plan(&client, 7, &type), OK);
    client_close(&client);
    scripted_close(scripted);
}

static void outage_is_never_the_records_fault(void **state)
{
    (void)state;
    static const struct rule away[] = {
        {"GET /schemas/ids/7 ", 500, "{\"error_code\":50001,\"message\":\"store\"}", false, false},
        {"GET /schemas/ids/7 ", 503, "", false, false},
        {"GET /schemas/ids/7 ", 429, "{\"error_code\":42901,\"message\":\"slow down\"}", false, false},
        {"GET /schemas/ids/7 ", 401, "{\"error_code\":40101,\"message\":\"who?\"}", false, false},
        {"GET /schemas/ids/7 ", 403, "<html>no</html>", false, false},
        {"GET /schemas/ids/7 ", 404, "<html>nothing here</html>", false, false},
        {"GET /schemas/ids/7 ", 404, "{\"detail\":\"Not Found\"}", false, false},
        {"GET /schemas/ids/7 ", 200, "<html>Welcome! Please log in.</html>", false, false},
        {"GET /schemas/ids/7 ", 200, "{\"status\":\"UP\"}", false, false},
        {"GET /schemas/ids/7 ", 200, "[]", false, false},
        {"GET /schemas/ids/7 ", 301, "", false, false},
        {"GET /schemas/ids/7 ", 502, NULL, false, true},
    };
    struct scripted *scripted = scripted_open();
    struct client client;
    at(&client, scripted);
    assert_int_equal(client_open(&client, false, NULL, &error, "--schema-registry-unknown-wait", "0s", NULL),
                     OK);
    const struct event_type *type;
    for (size_t i = 0; i < sizeof(away) / sizeof(away[0]); i++) {
        rule(scripted, away[i]);
        clock_advance(BACKED_OFF_US);
        assert_int_equal(plan(&client, 7, &type), OUTAGE);
        assert_non_null(strstr(error.text, "is away"));
    }
    assert_int_equal(atomic_load(&client.went), 1);
    assert_int_equal(atomic_load(&client.came), 0);
    rule(scripted, (struct rule){"GET /schemas/ids/7 ", 200, OTHERS_STOCK_REJECTED, false, false});
    clock_advance(BACKED_OFF_US);
    assert_int_equal(plan(&client, 7, &type), OK);
    assert_int_equal(atomic_load(&client.came), 1);
    client_close(&client);
    scripted_close(scripted);
}

#define OF(text) "{\"schema\":\"" text "\"}"

static void what_can_never_be_read_is_rejected_and_asked_for_once(void **state)
{
    (void)state;
    static const struct {
        const char *body, *cause;
        const struct event_type *type;
    } rows[] = {
        {OF("{\\\"type\\\":\\\"record\\\",\\\"name\\\":\\\"shop.Returned\\\",\\\"fields\\\":[]}"),
         "schema-foreign", NULL},
        {OF("\\\"string\\\""), "schema-foreign", NULL},
        {OF("{\\\"type\\\":\\\"record\\\",\\\"name\\\":\\\"weir.StockRejected\\\",\\\"fields\\\":[]}"),
         "schema-incompatible", &stock_rejected_type},
        {OF("{\\\"type\\\":\\\"rec"), "schema-invalid", NULL},
        {"{\"schemaType\":\"PROTOBUF\",\"schema\":\"syntax\"}", "schema-language", NULL},
        {"{\"schema\":\"\\\"X\\\"\",\"references\":[{\"name\":\"X\",\"subject\":\"X\",\"version\":1}]}",
         "schema-references", NULL},
        {"{\"schema\":7}", "schema-invalid", NULL},
    };
    struct scripted *scripted = scripted_open();
    struct client client;
    at(&client, scripted);
    assert_int_equal(client_open(&client, false, NULL, &error, NULL), OK);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char request[64];
        const struct event_type *type;
        snprintf(request, sizeof(request), "GET /schemas/ids/%zu ", 70 + i);
        rule(scripted, (struct rule){request, 200, rows[i].body, false, false});
        for (int again = 0; again < 2; again++) {
            assert_int_equal(plan(&client, 70 + (int32_t)i, &type), REJECT);
            assert_string_equal(error.cause, rows[i].cause);
            assert_ptr_equal(type, rows[i].type);
        }
        clock_advance(REGISTRY_REFUSED_MS * INT64_C(2000));
        assert_int_equal(plan(&client, 70 + (int32_t)i, &type), REJECT);
        assert_int_equal(asked(scripted, request), 1);
        rules_forget(scripted);
    }
    client_close(&client);
    scripted_close(scripted);
}

static void answer_past_its_bound_holds_nothing_up(void **state)
{
    (void)state;
    struct scripted *scripted = scripted_open();
    struct client client;
    at(&client, scripted);
    rule(scripted, (struct rule){.request = "GET /schemas/ids/7 ", .endless = true});
    assert_int_equal(client_open(&client, true, NULL, &error, NULL), OK);
    const struct event_type *type;
    assert_int_equal(plan(&client, 7, &type), REJECT);
    assert_string_equal(error.cause, "schema-unknown");
    client_close(&client);
    scripted_close(scripted);
}

/* ---- several URLs, and who is asking */

static void next_url_is_asked_where_one_does_not_answer(void **state)
{
    (void)state;
    struct scripted *sick = scripted_open(), *well = scripted_open();
    struct client client = {0};
    snprintf(client.url, sizeof(client.url), "http://127.0.0.1:%d,http://127.0.0.1:%d/,http://127.0.0.1:%d",
             peer_refusing_port(), peer_port(sick->peer), peer_port(well->peer));
    rule(sick, (struct rule){"GET /schemas/ids/", 503, "", false, false});
    rule(well, (struct rule){"GET /schemas/ids/", 200, OTHERS_STOCK_REJECTED, false, false});
    assert_int_equal(client_open(&client, true, NULL, &error, NULL), OK);
    const struct event_type *type;
    assert_int_equal(plan(&client, 7, &type), OK);
    /* The one that answered is the first to be asked from now on. */
    assert_int_equal(plan(&client, 8, &type), OK);
    assert_int_equal(asked(sick, "GET /schemas/ids/"), 1);
    assert_int_equal(asked(well, "GET /schemas/ids/"), 2);
    assert_int_equal(atomic_load(&client.went), 0);
    client_close(&client);
    scripted_close(sick);
    scripted_close(well);
}

static void unknown_id_is_asked_of_the_others_as_well(void **state)
{
    (void)state;
    struct scripted *late = scripted_open(), *early = scripted_open();
    struct client client = {0};
    snprintf(client.url, sizeof(client.url), "http://127.0.0.1:%d,http://127.0.0.1:%d", peer_port(late->peer),
             peer_port(early->peer));
    rule(late, (struct rule){"GET /schemas/ids/", 404, MISSING, false, false});
    rule(early, (struct rule){"GET /schemas/ids/", 200, OTHERS_STOCK_REJECTED, false, false});
    assert_int_equal(client_open(&client, false, NULL, &error, NULL), OK);
    const struct event_type *type;
    assert_int_equal(plan(&client, 7, &type), OUTAGE);
    clock_advance(1000000);
    assert_int_equal(plan(&client, 7, &type), OK);
    client_close(&client);
    scripted_close(late);
    scripted_close(early);
}

static void is_asked_as(struct scripted *scripted, struct client *client, const char *authorization)
{
    const struct event_type *type;
    rule(scripted, (struct rule){"GET /schemas/ids/", 200, OTHERS_STOCK_REJECTED, false, false});
    assert_int_equal(plan(client, 7, &type), OK);
    assert_string_equal(scripted->authorization, authorization);
    client_close(client);
}

static void password_comes_from_the_url_or_the_settings(void **state)
{
    (void)state;
    struct scripted *scripted = scripted_open();
    int port = peer_port(scripted->peer);
    struct client client = {0};
    snprintf(client.url, sizeof(client.url), "http://anna:p%%40ss%%2C%%3A@127.0.0.1:%d", port);
    assert_int_equal(client_open(&client, true, NULL, &error, NULL), OK);
    is_asked_as(scripted, &client, "Basic YW5uYTpwQHNzLDo="); /* anna:p@ss,: */

    char file[] = "/tmp/weir-registry-XXXXXX";
    int fd = mkstemp(file);
    assert_true(fd >= 0 && write(fd, "secret\n", 7) == 7);
    close(fd);
    at(&client, scripted);
    assert_int_equal(client_open(&client, true, NULL, &error, "--schema-registry-user", "bob",
                                 "--schema-registry-password-file", file, NULL),
                     OK);
    is_asked_as(scripted, &client, "Basic Ym9iOnNlY3JldA=="); /* bob:secret */
    unlink(file);

    at(&client, scripted);
    assert_int_equal(client_open(&client, true, NULL, &error, NULL), OK);
    is_asked_as(scripted, &client, "");
    scripted_close(scripted);
}

static void password_is_in_no_message(void **state)
{
    (void)state;
    struct client client = {0};
    const struct event_type *type;
    snprintf(client.url, sizeof(client.url), "http://anna:geheim@127.0.0.1:%d", peer_refusing_port());
    assert_int_equal(client_open(&client, true, NULL, &error, NULL), OK);
    assert_int_equal(plan(&client, 7, &type), OUTAGE);
    assert_non_null(strstr(error.text, "http://127.0.0.1:"));
    assert_null(strstr(error.text, "geheim"));
    assert_null(strstr(error.text, "anna"));
    client_close(&client);
}

static void what_is_no_url_is_a_setting_to_be_put_right(void **state)
{
    (void)state;
    static const char *const urls[] = {
        "http://",
        "http:///x",
        "http://a,,http://b",
        "http://a,b",
        "http://a?x",
        "http://1,http://2,http://3,http://4,http://5,http://6,http://7,http://8,http://9"};
    for (size_t i = 0; i < sizeof(urls) / sizeof(urls[0]); i++) {
        struct client client = {0};
        snprintf(client.url, sizeof(client.url), "%s", urls[i]);
        assert_int_equal(client_open(&client, true, NULL, &error, NULL), FATAL);
        assert_non_null(strstr(error.text, "SCHEMA_REGISTRY_URL"));
        assert_int_equal(error_exit_code(&error), EXIT_CONFIG);
        config_destroy(client.config);
    }
}

/* ---- ids that are written */

static void own_ids_are_looked_up_at_start_and_need_no_fetch(void **state)
{
    (void)state;
    struct scripted *scripted = scripted_open();
    struct client client;
    at(&client, scripted);
    knows_ours(scripted);
    assert_int_equal(client_open(&client, false, writes_orders, &error, NULL), OK);
    until_ready(&client, true, NULL);
    int32_t id;
    const struct event_type *type;
    assert_int_equal(registry_id(client.registry, &order_placed_type, &id, &error), OK);
    assert_int_equal(id, 1001);
    assert_int_equal(plan(&client, 1001, &type), OK);
    assert_ptr_equal(type, &order_placed_type);
    assert_int_equal(scripted->unexpected, 0);
    client_close(&client);
    scripted_close(scripted);
}

static void registry_away_at_start_is_waited_for(void **state)
{
    (void)state;
    struct scripted *scripted = scripted_open();
    struct client client;
    int32_t id;
    at(&client, scripted);
    rule(scripted, (struct rule){"POST /subjects/", 503, "", false, false});
    assert_int_equal(client_open(&client, false, writes_orders, &error, NULL), OK);
    until_ready(&client, false, "is away");
    assert_int_equal(registry_id(client.registry, &order_placed_type, &id, &error), OUTAGE);
    assert_int_equal(atomic_load(&client.went), 1);
    rules_forget(scripted);
    knows_ours(scripted);
    clock_advance(BACKED_OFF_US);
    until_ready(&client, true, NULL);
    assert_int_equal(registry_id(client.registry, &order_placed_type, &id, &error), OK);
    client_close(&client);
    scripted_close(scripted);
}

static void schema_that_is_not_registered_says_what_to_do(void **state)
{
    (void)state;
    struct scripted *scripted = scripted_open();
    struct client client;
    int32_t id;
    at(&client, scripted);
    rule(scripted, (struct rule){"POST /subjects/", 404, "{\"error_code\":40401,\"message\":\"no subject\"}",
                                 false, false});
    assert_int_equal(client_open(&client, false, writes_orders, &error, NULL), OK);
    until_ready(&client, false, "orders-weir.OrderPlaced: `weir schemas register`");
    client_close(&client);
    /* What is not written is not waited for, until it is. */
    at(&client, scripted);
    assert_int_equal(client_open(&client, false, NULL, &error, NULL), OK);
    until_ready(&client, true, NULL);
    while (registry_id(client.registry, &email_sent_type, &id, &error) != OUTAGE ||
           !strstr(error.text, "emails-weir.EmailSent"))
        usleep(1000);
    until_ready(&client, false, "emails-weir.EmailSent");
    client_close(&client);
    scripted_close(scripted);
}

static void schemas_are_registered_only_when_that_is_set(void **state)
{
    (void)state;
    struct scripted *scripted = scripted_open();
    struct client client;
    int32_t id;
    at(&client, scripted);
    rule(scripted,
         (struct rule){"POST /subjects/orders-weir.OrderPlaced/versions ", 200, "{\"id\":5}", false, false});
    rule(scripted, (struct rule){"POST /subjects/orders-weir.OrderConfirmed/versions ", 200, "{\"id\":6}",
                                 false, false});
    rule(scripted, (struct rule){"POST /subjects/orders-weir.OrderRejected/versions ", 200, "{\"id\":7}",
                                 false, false});
    rule(scripted,
         (struct rule){"POST /subjects/orders-weir.OrderCancelled/versions ", 409,
                       "{\"error_code\":409,\"message\":\"Incompatible: reason is missing\"}", false, false});
    assert_int_equal(
        client_open(&client, false, writes_orders, &error, "--schema-registry-register", "true", NULL), OK);
    until_ready(&client, false, "Incompatible: reason is missing");
    assert_int_equal(registry_id(client.registry, &order_rejected_type, &id, &error), OK);
    assert_int_equal(id, 7);
    rule(scripted, (struct rule){"POST /subjects/orders-weir.OrderCancelled/versions ", 200, "{\"id\":8}",
                                 false, false});
    clock_advance(BACKED_OFF_US);
    until_ready(&client, true, NULL);
    assert_int_equal(scripted->unexpected, 0);
    json_t *json = NULL;
    assert_int_equal(json_read(text_of(scripted->last_body), &json, &error), OK);
    assert_true(
        text_is(json_text(json, "schema"), order_cancelled_type.schemas[order_cancelled_type.version - 1]));
    json_decref(json);
    client_close(&client);
    scripted_close(scripted);
}

static void closing_ends_what_is_under_way(void **state)
{
    (void)state;
    struct scripted *scripted = scripted_open();
    struct client client;
    at(&client, scripted);
    rule(scripted, (struct rule){.request = "POST ", .hangs = true});
    assert_int_equal(client_open(&client, false, writes_orders, &error, NULL), OK);
    while (asked(scripted, "POST ") == 0)
        usleep(1000);
    client_close(&client);
    scripted_close(scripted);
}

/* ---- tools */

static void tool_has_the_registrys_answer_or_its_no(void **state)
{
    (void)state;
    struct scripted *scripted = scripted_open();
    struct client client;
    json_t *json = NULL;
    int code = 0;
    at(&client, scripted);
    rule(scripted, (struct rule){"GET /subjects ", 200, "[\"a\"]", false, false});
    rule(scripted,
         (struct rule){"GET /config/a ", 404, "{\"error_code\":40408,\"message\":\"none\"}", false, false});
    rule(scripted,
         (struct rule){"PUT /config/a ", 422, "{\"error_code\":42203,\"message\":\"what?\"}", false, false});
    assert_int_equal(client_open(&client, true, NULL, &error, NULL), OK);
    assert_int_equal(registry_call(client.registry, "GET", "/subjects", TEXT(""), &json, NULL, &error), OK);
    assert_int_equal(json_array_size(json), 1);
    json_decref(json);
    assert_int_equal(registry_call(client.registry, "GET", "/config/a", TEXT(""), &json, &code, &error),
                     REJECT);
    assert_int_equal(code, 40408);
    assert_int_equal(registry_call(client.registry, "PUT", "/config/a", TEXT("{}"), &json, &code, &error),
                     REJECT);
    assert_int_equal(code, 42203);
    assert_string_equal(scripted->last_body, "{}");
    assert_int_equal(registry_call(client.registry, "GET", "/else", TEXT(""), &json, &code, &error), OUTAGE);
    client_close(&client);
    scripted_close(scripted);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(id_is_fetched_once_and_resolves_to_our_struct),
        TEST(one_fetch_is_in_flight_an_id_and_nobody_waits_long),
        TEST(ids_in_flight_are_bounded),
        TEST(schemas_known_are_bounded),
        TEST(unknown_id_waits_and_is_rejected_then),
        TEST(unknown_id_that_appears_in_time_is_no_dead_letter),
        TEST(outage_is_never_the_records_fault),
        TEST(what_can_never_be_read_is_rejected_and_asked_for_once),
        TEST(answer_past_its_bound_holds_nothing_up),
        TEST(next_url_is_asked_where_one_does_not_answer),
        TEST(unknown_id_is_asked_of_the_others_as_well),
        TEST(password_comes_from_the_url_or_the_settings),
        TEST(password_is_in_no_message),
        TEST(what_is_no_url_is_a_setting_to_be_put_right),
        TEST(own_ids_are_looked_up_at_start_and_need_no_fetch),
        TEST(registry_away_at_start_is_waited_for),
        TEST(schema_that_is_not_registered_says_what_to_do),
        TEST(schemas_are_registered_only_when_that_is_set),
        TEST(closing_ends_what_is_under_way),
        TEST(tool_has_the_registrys_answer_or_its_no),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
