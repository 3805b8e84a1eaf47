#include "support/handlers.h"

#include <assert.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORK_BYTES_MAX = 256 << 20, KEPT_BYTES_MAX = 512 << 20 };

static void must(enum outcome outcome, const struct error *error, const char *what)
{
    if (outcome == OK)
        return;
    fprintf(stderr, "handlers: %s: %s: %s\n", what, outcome_name(outcome), error->text);
    abort();
}

static struct handlers *open_at(const struct service *service, void *state, struct handlers *handlers,
                                const char *url)
{
    struct error error;
    handlers->url = url;
    handlers->service = service;
    must(store_open(handlers->url, service->name, &handlers->store, &error), &error, "open");
    size_t count = 0;
    while (service->tables[count])
        count++;
    must(store_migrate(handlers->store, service->tables, count, service->migrations, 0, &error), &error,
         "migrate");
    must(work_new(handlers->store, WORK_BYTES_MAX, &handlers->work, &error), &error, "work");
    handlers->arena = arena_new(KEPT_BYTES_MAX);
    handlers->context = (struct context){
        .service = service->name, .state = state, .scratch = buffer_of(CODEC_ENCODED_BYTES_MAX)};
    must(registry_open(NULL, &handlers->context.registry, &error), &error, "registry");
    work_set_owner(handlers->work, &handlers->context);
    return handlers;
}

struct handlers *handlers_open(const struct service *service, void *state)
{
    struct handlers *handlers = calloc(1, sizeof(*handlers));
    assert(handlers);
    clock_hold((int64_t)HANDLERS_START_S * 1000000);
    scratch_make(&handlers->scratch);
    return open_at(service, state, handlers, handlers->scratch.url);
}

struct handlers *handlers_join(const struct service *service, void *state, const char *url)
{
    struct handlers *handlers = calloc(1, sizeof(*handlers));
    assert(handlers);
    return open_at(service, state, handlers, url);
}

void handlers_close(struct handlers *handlers)
{
    if (!handlers)
        return;
    work_destroy(handlers->work);
    store_close(handlers->store);
    registry_close(handlers->context.registry);
    buffer_free(&handlers->context.scratch);
    arena_destroy(handlers->arena);
    if (handlers->scratch.url[0]) {
        scratch_remove(&handlers->scratch);
        clock_release();
    }
    free(handlers->said);
    free(handlers);
}

void handlers_advance(struct handlers *handlers, int64_t by_us)
{
    clock_advance(by_us);
    handlers->context.now_us = clock_wall_us();
}

int64_t handlers_now_us(void)
{
    return clock_wall_us();
}

static const struct subscription *subscription_of(const struct handlers *handlers,
                                                  const struct event_type *type)
{
    const struct subscription *subscription = handlers->service->subscriptions;
    while (subscription->type && subscription->type != type)
        subscription++;
    return subscription->type ? subscription : NULL;
}

static struct event event_of(const struct handlers *handlers, const struct event_type *type, const void *data)
{
    char name[32];
    snprintf(name, sizeof(name), "item %llu", (unsigned long long)handlers->items);
    return (struct event){
        .type = type,
        .data = data,
        .id = id_from_text(text_of(name)),
        .key = *(const struct text *)(const void *)((const char *)data + type->key_offset),
        .time_us = clock_wall_us(),
        .topic = type->topic,
    };
}

void handlers_begin(struct handlers *handlers)
{
    struct error error;
    must(work_begin(handlers->work, &error), &error, "begin");
    handlers->in_work = true;
    handlers->context.now_us = clock_wall_us();
}

void handlers_want(struct handlers *handlers, const struct event_type *type, const void *data)
{
    const struct subscription *subscription = subscription_of(handlers, type);
    struct event event = event_of(handlers, type, data);
    if (subscription && subscription->keys)
        subscription->keys(handlers->work, &event);
}

void handlers_read(struct handlers *handlers)
{
    struct error error;
    must(work_read(handlers->work, &error), &error, "read");
}

enum outcome handlers_take(struct handlers *handlers, const struct event_type *type, const void *data)
{
    const struct subscription *subscription = subscription_of(handlers, type);
    handlers->items++;
    if (!subscription)
        return OK;
    struct event event = event_of(handlers, type, data);
    struct error error;
    context_enter(&handlers->context, event.id, event.traceparent);
    work_item_begin(handlers->work);
    enum outcome outcome = subscription->handle(handlers->work, &event, &error);
    if (outcome != OK)
        work_item_undo(handlers->work);
    return outcome;
}

static void keep(struct handlers *handlers, const struct outbox_row *row)
{
    struct error error;
    int32_t schema_id;
    struct text datum;
    const struct event_type *type;
    const struct codec_plan *plan;
    const void *data;
    struct text value = text_copy(handlers->arena, row->value);
    must(frame_read(value, &schema_id, &datum, &error), &error, "frame");
    must(registry_plan(handlers->context.registry, schema_id, &type, &plan, &error), &error, "plan");
    must(codec_decode(plan, datum, handlers->arena, &data, &error), &error, "decode");
    assert(text_is(row->topic, topic_get(type->topic)->name));
    if (handlers->said_count == handlers->said_capacity) {
        handlers->said_capacity = handlers->said_capacity ? handlers->said_capacity * 2 : 256;
        handlers->said = realloc(handlers->said, handlers->said_capacity * sizeof(*handlers->said));
        assert(handlers->said);
    }
    const struct header *id = header_find(row->headers, row->header_count, HEADER_ID);
    const struct header *source = header_find(row->headers, row->header_count, HEADER_SOURCE);
    assert(id && source);
    handlers->said[handlers->said_count++] = (struct said){type, data, text_copy(handlers->arena, id->value),
                                                           text_copy(handlers->arena, source->value)};
}

static void committed(struct handlers *handlers)
{
    handlers->in_work = false;
    const struct outbox_row *rows;
    size_t count = outbox_added(handlers->work, &rows);
    for (size_t i = 0; i < count; i++)
        keep(handlers, &rows[i]);
}

void handlers_commit(struct handlers *handlers)
{
    struct error error;
    must(work_commit(handlers->work, &error), &error, "commit");
    committed(handlers);
}

/* As the loop does: what met a row that was taken for new is done again, once. */
enum outcome handlers_event(struct handlers *handlers, const struct event_type *type, const void *data)
{
    struct error error;
    for (bool again = false;; again = true) {
        handlers_begin(handlers);
        handlers_want(handlers, type, data);
        handlers_read(handlers);
        enum outcome outcome = handlers_take(handlers, type, data),
                     commit = work_commit(handlers->work, &error);
        handlers->in_work = false;
        if (commit != OK && store_raced(&error) && !again)
            continue;
        must(commit, &error, "commit");
        committed(handlers);
        return outcome;
    }
}

static const struct tick *tick_of(const struct handlers *handlers, const char *name)
{
    const struct tick *tick = handlers->service->ticks;
    while (tick->name && strcmp(tick->name, name) != 0)
        tick++;
    assert(tick->name);
    return tick;
}

static enum outcome try_batch(struct handlers *handlers, const struct event_type *const *types,
                              const void *const *data, size_t count, struct error *error)
{
    enum outcome outcome = work_begin(handlers->work, error);
    if (outcome != OK)
        return outcome;
    handlers->context.now_us = clock_wall_us();
    for (size_t i = 0; i < count; i++)
        handlers_want(handlers, types[i], data[i]);
    outcome = work_read(handlers->work, error);
    for (size_t i = 0; i < count && outcome == OK; i++) {
        outcome = handlers_take(handlers, types[i], data[i]);
        if (work_failed(handlers->work, error) != OK)
            outcome = error->outcome;
    }
    if (outcome == OK)
        return work_commit(handlers->work, error);
    work_rollback(handlers->work);
    return outcome;
}

static enum outcome try_tick(struct handlers *handlers, const struct tick *tick, bool *ret_again,
                             struct error *error)
{
    enum outcome outcome = work_begin(handlers->work, error);
    if (outcome != OK)
        return outcome;
    handlers->context.now_us = clock_wall_us();
    outcome = work_read(handlers->work, error);
    context_enter(&handlers->context, id_new(), (struct text){NULL, 0});
    work_item_begin(handlers->work);
    *ret_again = false;
    if (outcome == OK)
        outcome = tick->handle(handlers->work, ret_again, error);
    if (outcome == OK)
        outcome = work_failed(handlers->work, error);
    if (outcome == OK)
        return work_commit(handlers->work, error);
    work_rollback(handlers->work);
    return outcome;
}

/* As the loop does: where another instance was in the way, all of it again. */
static bool try_again(enum outcome outcome, const struct error *error, int *races)
{
    enum { RACES_MAX = 10000 };
    if (outcome == OK)
        return false;
    bool raced = strcmp(error->cause, "store-race") == 0 || strcmp(error->cause, "store-deadlock") == 0;
    if (!raced || ++*races > RACES_MAX)
        must(outcome, error, "beside other instances");
    poll(NULL, 0, id_new().bytes[15] % 8);
    return true;
}

void handlers_batch(struct handlers *handlers, const struct event_type *const *types, const void *const *data,
                    size_t count)
{
    struct error error;
    int races = 0;
    while (try_again(try_batch(handlers, types, data, count, &error), &error, &races)) {
    }
}

void handlers_tick_beside(struct handlers *handlers, const char *name)
{
    enum { IDLE_TIMES = 3 };
    const struct tick *tick = tick_of(handlers, name);
    struct error error;
    int races = 0;
    for (int idle = 0; idle < IDLE_TIMES;) {
        bool again = true;
        if (try_again(try_tick(handlers, tick, &again, &error), &error, &races) || again)
            idle = 0;
        else
            idle++;
    }
}

void handlers_in_processes(struct handlers *handlers, int count,
                           void (*run)(struct handlers *handlers, int instance))
{
    enum { PROCESSES_MAX = 16 };
    pid_t pids[PROCESSES_MAX];
    assert(count <= PROCESSES_MAX);
    for (int i = 0; i < count; i++)
        if ((pids[i] = fork()) == 0) {
            run(handlers_join(handlers->service, handlers->context.state, handlers->url), i);
            _exit(0); /* the parent's connection is not the child's to end */
        }
    for (int i = 0; i < count; i++) {
        int status = -1;
        if (pids[i] < 0 || waitpid(pids[i], &status, 0) != pids[i] || status != 0) {
            fprintf(stderr, "handlers: instance %d ended with %d\n", i, status);
            abort();
        }
    }
}

void handlers_tick(struct handlers *handlers, const char *name)
{
    const struct tick *tick = tick_of(handlers, name);
    for (bool again = true; again;) {
        struct error error;
        handlers_begin(handlers);
        handlers_read(handlers);
        handlers->items++;
        char item[32];
        snprintf(item, sizeof(item), "item %llu", (unsigned long long)handlers->items);
        context_enter(&handlers->context, id_from_text(text_of(item)), (struct text){NULL, 0});
        work_item_begin(handlers->work);
        must(tick->handle(handlers->work, &again, &error), &error, name);
        handlers_commit(handlers);
    }
}

/* ---- calls */

size_t handlers_calls(struct handlers *handlers, const struct lane *lane, void ***ret_calls)
{
    enum { CALLS_MAX = 64 };
    const struct store_value from[] = {STORE_TEXT(text_of(lane->name)), STORE_INT(0)};
    handlers_begin(handlers);
    handlers_read(handlers);
    return rows_find(handlers->work, &calls_table, "lane = $1 AND created_us > $2 ORDER BY lane, created_us",
                     from, 2, CALLS_MAX, ret_calls);
}

enum outcome handlers_answer(struct handlers *handlers, const struct lane *lane, struct call *call,
                             const struct net_result *result, bool last)
{
    struct error error;
    context_enter(&handlers->context, call->id, call->traceparent);
    handlers->context.emitted = (int)handlers->items++; /* each attempt speaks for itself here */
    work_item_begin(handlers->work);
    call->attempts++;
    enum outcome outcome = lane->answer(handlers->work, call, result, last, &error);
    if (outcome == OK)
        rows_delete(handlers->work, &calls_table, call);
    return outcome;
}

/* ---- requests */

static int run_request(struct handlers *handlers, struct request *request, bool own, struct text *ret_body)
{
    struct answer answer = {0};
    struct error error;
    const char *detail = NULL;
    handlers->items++;
    if (request->route->admit) {
        int refused = request->route->admit(handlers->context.state, request, &detail);
        if (refused)
            return refused;
    }
    if (own) {
        handlers_begin(handlers);
        if (request->route->keys)
            request->route->keys(handlers->work, request);
        handlers_read(handlers);
    }
    context_enter(&handlers->context, request->id, request->traceparent);
    work_item_begin(handlers->work);
    enum outcome outcome = request->route->handle(handlers->work, request, &answer, &error);
    if (outcome != OK)
        work_item_undo(handlers->work);
    if (ret_body)
        *ret_body = text_copy(handlers->arena, answer.body);
    int status = outcome == OK ? answer.status : outcome == REJECT ? 422 : 503;
    if (own)
        handlers_commit(handlers);
    return status;
}

static const struct route *route_of(const struct handlers *handlers, const char *method, const char *path)
{
    const struct route *route = handlers->service->routes;
    while (route->path && (strcmp(route->method, method) != 0 || strcmp(route->path, path) != 0))
        route++;
    assert(route->path);
    return route;
}

/* With its body read as the HTTP thread does. */
static int read_and_run(struct handlers *handlers, struct request *request, struct text *ret_body)
{
    struct error error;
    if (request->route->read)
        request->plain = request->route->read(request->body);
    if (request->route->json && !request->plain)
        must(json_read(request->body, &request->json, &error), &error, "body");
    int status = run_request(handlers, request, !handlers->in_work, ret_body);
    json_decref(request->json);
    free(request->plain);
    return status;
}

int handlers_request(struct handlers *handlers, const char *method, const char *path, const char *parameter,
                     const char *body, struct text *ret_body)
{
    struct request request = {.route = route_of(handlers, method, path), .id = id_new()};
    if (parameter)
        request.parameters[0] = text_copy(handlers->arena, text_of(parameter));
    request.body = text_copy(handlers->arena, text_of(body));
    request.content_type = TEXT("application/json");
    return read_and_run(handlers, &request, ret_body);
}

int handlers_post(struct handlers *handlers, const char *path, const char *content_type,
                  const struct header *headers, size_t header_count, struct text body, struct text *ret_body)
{
    struct request request = {
        .route = route_of(handlers, "POST", path),
        .id = id_new(),
        .headers = headers,
        .header_count = header_count,
        .body = text_copy(handlers->arena, body),
        .content_type = text_of(content_type),
    };
    return read_and_run(handlers, &request, ret_body);
}
