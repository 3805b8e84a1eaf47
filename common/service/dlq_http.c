#include "service/dlq_http.h"

#include "base/clock.h"
#include "base/log.h"
#include "flow/letter_json.h"
#include "service/dlq_page.h"
#include "service/dlq_query.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
    ANSWER_BYTES_MAX = 32 << 20,
    STACK_BYTES = 512 << 10,
    FINISH_MS = 2000, /* for what is in flight when a job is stopped */
};

enum route_number {
    ROUTE_LIST,
    ROUTE_ONE,
    ROUTE_REDRIVE,
    ROUTE_DROP,
    ROUTE_JOB,
    ROUTE_JOB_STOP,
    ROUTE_COUNT
};
static const struct route routes[] = {
    [ROUTE_LIST] =
        {.method = "GET", .path = "/v1/dlq", .kind = ROUTE_READ, .admit = admin_admit, .admits_alone = true},
    [ROUTE_ONE] = {.method = "GET",
                   .path = "/v1/dlq/{partition}/{offset}",
                   .kind = ROUTE_READ,
                   .admit = admin_admit,
                   .admits_alone = true},
    [ROUTE_REDRIVE] = {.method = "POST",
                       .path = "/v1/dlq/redrive",
                       .kind = ROUTE_READ,
                       .json = true,
                       .admit = admin_admit,
                       .admits_alone = true},
    [ROUTE_DROP] = {.method = "POST",
                    .path = "/v1/dlq/drop",
                    .kind = ROUTE_READ,
                    .json = true,
                    .admit = admin_admit,
                    .admits_alone = true},
    [ROUTE_JOB] = {.method = "GET",
                   .path = "/v1/dlq/jobs/{id}",
                   .kind = ROUTE_READ,
                   .admit = admin_admit,
                   .admits_alone = true},
    [ROUTE_JOB_STOP] = {.method = "POST",
                        .path = "/v1/dlq/jobs/{id}/stop",
                        .kind = ROUTE_READ,
                        .admit = admin_admit,
                        .admits_alone = true},
    [ROUTE_COUNT] = {0},
};

/* A request that waits for the reading thread, or is in its hands. */
struct reading {
    struct exchange *exchange;
    enum route_number route;
    struct dlq_query query;
};

enum job_state { JOB_ACTIVE, JOB_COMPLETED, JOB_STOPPED, JOB_FAILED };
static const char *const job_states[] = {"active", "completed", "stopped", "failed"};

struct job {
    char id[ID_TEXT_BYTES + 1];
    enum job_state state;
    bool drop, stop;
    size_t total; /* as forecast; 0 until it is known */
    struct redrive_done done;
    char reason[ERROR_TEXT_BYTES_MAX];
    int64_t begun_us, ended_us;
};

struct dlq_http {
    struct dlq_http_settings settings;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* something to read, a job to do, an end */
    bool stopping;
    pthread_t reader, worker;
    bool reader_done, worker_done, joined;

    struct reading *readings[DLQ_READS_MAX]; /* the first is in hand */
    size_t reading_count;

    struct job jobs[DLQ_JOBS_KEPT]; /* a ring; the newest is job_next - 1 */
    size_t job_next;
    struct dlq_query *order; /* of the job in hand; NULL: none */
};

/* ---- answers */

static void send_json(struct exchange *exchange, int status, struct buffer *body, struct text location,
                      int retry_after_s)
{
    struct answer answer = {
        .status = status,
        .body = buffer_text(body),
        .location = location,
        .retry_after_s = retry_after_s,
    };
    if (body->failed)
        answer = (struct answer){.status = 500,
                                 .body = TEXT("{\"title\":\"Internal Server Error\",\"status\":500}")};
    http_answer(exchange, &answer);
    buffer_free(body);
}

static void send_problem(struct exchange *exchange, int status, const char *detail,
                         const struct codec_faults *faults)
{
    struct buffer body = buffer_of(PROBLEM_BYTES_MAX);
    problem_write(&body, status, detail, faults);
    send_json(exchange, status, &body, TEXT(""), status == 503);
}

static void send_unavailable(struct exchange *exchange, const char *detail)
{
    send_problem(exchange, 503, detail, NULL);
}

/* ---- the reading thread */

static bool is_stopping(void *owner)
{
    struct dlq_http *dlq = owner;
    pthread_mutex_lock(&dlq->lock);
    bool stopping = dlq->stopping;
    pthread_mutex_unlock(&dlq->lock);
    return stopping;
}

/* One of its own: the service's is the loop's. */
static enum outcome registry_of(struct dlq_http *dlq, struct registry **ret, struct error *error)
{
    return registry_open(&(struct registry_use){.config = dlq->settings.client.config, .tool = true}, ret,
                         error);
}

static struct letters_settings letters_of(struct dlq_http *dlq, struct registry *registry,
                                          struct letter_filter *filter)
{
    filter->service = dlq->settings.service;
    return (struct letters_settings){
        .client = dlq->settings.client,
        .registry = registry,
        .filter = filter,
        .stopped = is_stopping,
        .owner = dlq,
    };
}

/* What is gathered of one pass: a page, causes, or one letter. */
struct gathering {
    const struct reading *reading;
    struct registry *registry;
    struct dlq_page page;
    struct causes causes;
    struct buffer line;
    bool enough;
};

static void gather(struct gathering *gathering, const struct letter *letter, struct arena *arena)
{
    const struct dlq_query *query = &gathering->reading->query;
    bool one = gathering->reading->route == ROUTE_ONE;
    if (!one && !query->all_states && letter->state != query->state)
        return;
    const struct record *record = letter->record;
    if (query->by_cause) {
        causes_add(&gathering->causes, letter);
    } else if (dlq_page_wants(&gathering->page, record->partition, record->offset)) {
        buffer_clear(&gathering->line);
        letter_to_json(letter, gathering->registry, arena, &gathering->line);
        dlq_page_add(&gathering->page, record->partition, record->offset, buffer_text(&gathering->line));
    }
    gathering->enough = one;
}

static enum outcome read_all(struct dlq_http *dlq, struct gathering *gathering, struct error *error)
{
    struct letter_filter filter = gathering->reading->query.filter;
    const struct letters_settings settings = letters_of(dlq, gathering->registry, &filter);
    struct letters *letters = NULL;
    bool end = false;
    enum outcome outcome = letters_open(&settings, &letters, error);
    if (outcome == OK)
        outcome = letters_rewind(letters, NULL, error);
    while (outcome == OK && !end && !gathering->enough) {
        const struct letter *letter;
        if (is_stopping(dlq))
            outcome = error_retry(error, "stopped", "this instance is shutting down; try again");
        else
            outcome = letters_next(letters, &letter, &end, error);
        if (outcome == OK && letter)
            gather(gathering, letter, letters_arena(letters));
    }
    letters_close(letters);
    return outcome;
}

static void causes_to_json(const struct causes *causes, struct buffer *into)
{
    struct json_writer writer = json_writer(into);
    json_object_begin(&writer);
    json_key(&writer, "groups");
    json_array_begin(&writer);
    for (size_t i = 0; i < causes->count; i++)
        cause_to_json(&causes->list[i], &writer);
    json_array_end(&writer);
    json_member_int(&writer, "others", (int64_t)causes->others);
    json_object_end(&writer);
}

/* The answer's body, or a problem in its place. */
static enum outcome read_list(struct dlq_http *dlq, const struct reading *reading, struct registry *registry,
                              struct buffer *into, struct error *error)
{
    const struct dlq_query *query = &reading->query;
    struct gathering gathering = {
        .reading = reading, .registry = registry, .line = buffer_of(ANSWER_BYTES_MAX)};
    enum outcome outcome = causes_new(&gathering.causes, error);
    if (outcome == OK)
        outcome = dlq_page_new(&gathering.page, (size_t)query->limit, query->after_partition,
                               query->after_offset, error);
    if (outcome == OK)
        outcome = read_all(dlq, &gathering, error);
    if (outcome == OK && (gathering.page.failed || gathering.line.failed))
        outcome = error_retry(error, "memory", "out of memory");
    if (outcome == OK && query->by_cause) {
        causes_sort(&gathering.causes);
        causes_to_json(&gathering.causes, into);
    } else if (outcome == OK && reading->route == ROUTE_ONE) {
        if (gathering.page.count)
            buffer_add(into, gathering.page.items[0].json, gathering.page.items[0].bytes);
    } else if (outcome == OK) {
        dlq_page_to_json(&gathering.page, into);
    }
    buffer_free(&gathering.line);
    dlq_page_free(&gathering.page);
    causes_free(&gathering.causes);
    return outcome;
}

static struct redrive_settings redrive_of(struct dlq_http *dlq, struct dlq_query *query,
                                          struct registry *registry, bool drop)
{
    return (struct redrive_settings){
        .letters = letters_of(dlq, registry, &query->filter),
        .drop = drop,
        .again = query->again,
        .reason = query->reason,
        .by = query->by[0] ? query->by : "HTTP",
        .first_delay_ms = dlq->settings.first_delay_ms,
        .rate_per_hour = query->rate_per_hour,
        .limit = query->letters_max,
        .finish_ms = FINISH_MS,
    };
}

static enum outcome read_forecast(struct dlq_http *dlq, struct reading *reading, struct registry *registry,
                                  struct buffer *into, struct error *error)
{
    struct redrive_forecast forecast;
    const struct redrive_settings settings =
        redrive_of(dlq, &reading->query, registry, reading->route == ROUTE_DROP);
    enum outcome outcome = redrive_foresee(&settings, &forecast, error);
    if (outcome != OK)
        return outcome;
    struct json_writer writer = json_writer(into);
    json_object_begin(&writer);
    forecast_members(&forecast, &writer);
    json_object_end(&writer);
    redrive_forecast_free(&forecast);
    return OK;
}

/* Answers, unless the server is being closed meanwhile. */
static void read_one(struct dlq_http *dlq, struct reading *reading)
{
    struct buffer body = buffer_of(ANSWER_BYTES_MAX);
    struct registry *registry = NULL;
    struct error error;
    enum outcome outcome = registry_of(dlq, &registry, &error);
    if (outcome == OK && (reading->route == ROUTE_REDRIVE || reading->route == ROUTE_DROP))
        outcome = read_forecast(dlq, reading, registry, &body, &error);
    else if (outcome == OK)
        outcome = read_list(dlq, reading, registry, &body, &error);
    registry_close(registry);

    /* Taken off under the lock: after dlq_http_close() the exchange is not ours to answer. */
    pthread_mutex_lock(&dlq->lock);
    struct exchange *exchange = reading->exchange;
    reading->exchange = NULL;
    pthread_mutex_unlock(&dlq->lock);
    if (!exchange)
        buffer_free(&body);
    else if (outcome != OK)
        send_unavailable(exchange, error.text);
    else if (body.length == 0 && !body.failed)
        send_problem(exchange, 404, "there is no such dead letter", NULL);
    else
        send_json(exchange, 200, &body, TEXT(""), 0);
}

static void *reader_run(void *owner)
{
    struct dlq_http *dlq = owner;
    pthread_mutex_lock(&dlq->lock);
    while (!dlq->stopping) {
        if (dlq->reading_count == 0) {
            pthread_cond_wait(&dlq->changed, &dlq->lock);
            continue;
        }
        struct reading *reading = dlq->readings[0];
        pthread_mutex_unlock(&dlq->lock);
        read_one(dlq, reading);
        pthread_mutex_lock(&dlq->lock);
        dlq->reading_count--;
        memmove(dlq->readings, dlq->readings + 1, dlq->reading_count * sizeof(dlq->readings[0]));
        free(reading);
    }
    dlq->reader_done = true;
    pthread_cond_broadcast(&dlq->changed);
    pthread_mutex_unlock(&dlq->lock);
    return NULL;
}

static void reading_add(struct dlq_http *dlq, struct exchange *exchange, enum route_number route,
                        const struct dlq_query *query)
{
    struct reading *reading = malloc(sizeof(*reading));
    bool taken = false;
    if (reading) {
        *reading = (struct reading){.exchange = exchange, .route = route};
        dlq_query_copy(query, &reading->query);
        pthread_mutex_lock(&dlq->lock);
        taken = !dlq->stopping && dlq->reading_count < DLQ_READS_MAX;
        if (taken)
            dlq->readings[dlq->reading_count++] = reading;
        pthread_cond_broadcast(&dlq->changed);
        pthread_mutex_unlock(&dlq->lock);
    }
    if (taken)
        return;
    free(reading);
    send_unavailable(exchange, "too many such requests wait already");
}

/* ---- the job's thread */

static struct job *job_newest(struct dlq_http *dlq)
{
    return &dlq->jobs[(dlq->job_next + DLQ_JOBS_KEPT - 1) % DLQ_JOBS_KEPT];
}

static bool job_stopped(void *owner)
{
    struct dlq_http *dlq = owner;
    pthread_mutex_lock(&dlq->lock);
    bool stopped = dlq->stopping || job_newest(dlq)->stop;
    pthread_mutex_unlock(&dlq->lock);
    return stopped;
}

static void job_progress(void *owner, const struct redrive_done *done)
{
    struct dlq_http *dlq = owner;
    pthread_mutex_lock(&dlq->lock);
    job_newest(dlq)->done = *done;
    pthread_mutex_unlock(&dlq->lock);
}

static enum outcome job_do(struct dlq_http *dlq, const struct job *job, struct dlq_query *order,
                           struct redrive_done *done, struct error *error)
{
    struct registry *registry = NULL;
    struct redrive_forecast forecast;
    enum outcome outcome = registry_of(dlq, &registry, error);
    if (outcome != OK)
        return outcome;
    struct redrive_settings settings = redrive_of(dlq, order, registry, job->drop);
    settings.letters.stopped = job_stopped;
    settings.progress = job_progress;
    settings.progress_owner = dlq;
    settings.run = job->id;
    outcome = redrive_foresee(&settings, &forecast, error);
    if (outcome == OK) {
        pthread_mutex_lock(&dlq->lock);
        job_newest(dlq)->total = forecast.sent;
        pthread_mutex_unlock(&dlq->lock);
        redrive_forecast_free(&forecast);
        outcome = redrive_run(&settings, done, error);
    }
    registry_close(registry);
    return outcome;
}

static void job_run(struct dlq_http *dlq, struct job *job, struct dlq_query *order)
{
    struct redrive_done done = {0};
    struct error error = {0};
    const char *by = order->by[0] ? order->by : "HTTP";
    log_info("redrive", job->drop ? "dead letters are being dropped" : "dead letters are being sent back",
             LOG_STRING("run", job->id), LOG_STRING("by", by));
    enum outcome outcome = job_do(dlq, job, order, &done, &error);
    bool stopped = done.stopped || (outcome == RETRY && error.cause && strcmp(error.cause, "stopped") == 0);
    if (outcome == OK || stopped)
        log_info("redrive", stopped ? "stopped; what is open can be sent by another run" : "done",
                 LOG_STRING("run", job->id), LOG_STRING("by", by), LOG_INT("sent", (int64_t)done.sent),
                 LOG_INT("left", (int64_t)(done.refused + done.unreadable)));
    else
        log_error("redrive", error.text, LOG_STRING("run", job->id), LOG_STRING("by", by),
                  LOG_INT("sent", (int64_t)done.sent));
    pthread_mutex_lock(&dlq->lock);
    job->done = done;
    job->state = stopped ? JOB_STOPPED : outcome == OK ? JOB_COMPLETED : JOB_FAILED;
    if (job->state == JOB_FAILED)
        snprintf(job->reason, sizeof(job->reason), "%s", error.text);
    job->ended_us = clock_wall_us();
    pthread_mutex_unlock(&dlq->lock);
}

static void *worker_run(void *owner)
{
    struct dlq_http *dlq = owner;
    pthread_mutex_lock(&dlq->lock);
    while (!dlq->stopping) {
        if (!dlq->order) {
            pthread_cond_wait(&dlq->changed, &dlq->lock);
            continue;
        }
        struct job *job = job_newest(dlq);
        struct dlq_query *order = dlq->order;
        pthread_mutex_unlock(&dlq->lock);
        job_run(dlq, job, order);
        pthread_mutex_lock(&dlq->lock);
        dlq->order = NULL;
        free(order);
    }
    free(dlq->order);
    dlq->order = NULL;
    dlq->worker_done = true;
    pthread_cond_broadcast(&dlq->changed);
    pthread_mutex_unlock(&dlq->lock);
    return NULL;
}

static void job_to_json(const struct job *job, struct buffer *into)
{
    struct json_writer writer = json_writer(into);
    json_object_begin(&writer);
    json_member_string(&writer, "id", job->id);
    json_member_string(&writer, "action", job->drop ? "drop" : "redrive");
    json_member_string(&writer, "state", job_states[job->state]);
    json_member_int(&writer, "total", (int64_t)job->total);
    json_member_int(&writer, "progress",
                    job->state == JOB_COMPLETED ? 100
                    : job->total                ? (int64_t)(job->done.sent * 100 / job->total)
                                                : 0);
    json_member_int(&writer, "sent", (int64_t)job->done.sent);
    json_member_int(&writer, "passed", (int64_t)job->done.passed);
    json_member_int(&writer, "unreadable", (int64_t)job->done.unreadable);
    json_member_int(&writer, "refused", (int64_t)job->done.refused);
    if (job->done.refused_first[0])
        json_member_string(&writer, "refused_first", job->done.refused_first);
    if (job->reason[0])
        json_member_string(&writer, "reason", job->reason);
    json_member_time(&writer, "begun_at", job->begun_us);
    if (job->ended_us)
        json_member_time(&writer, "ended_at", job->ended_us);
    json_object_end(&writer);
}

/* By id; under the lock. */
static struct job *job_find(struct dlq_http *dlq, struct text id)
{
    for (size_t i = 0; i < DLQ_JOBS_KEPT; i++)
        if (dlq->jobs[i].id[0] && text_is(id, dlq->jobs[i].id))
            return &dlq->jobs[i];
    return NULL;
}

static void job_begin(struct dlq_http *dlq, struct exchange *exchange, const struct dlq_query *query,
                      struct dlq_query *order, bool drop)
{
    char location[64] = "";
    struct buffer body = buffer_of(PROBLEM_BYTES_MAX);
    dlq_query_copy(query, order);
    pthread_mutex_lock(&dlq->lock);
    bool busy = dlq->order != NULL, stopping = dlq->stopping;
    if (!busy && !stopping) {
        struct job *job = &dlq->jobs[dlq->job_next];
        dlq->job_next = (dlq->job_next + 1) % DLQ_JOBS_KEPT;
        *job = (struct job){.drop = drop, .begun_us = clock_wall_us()};
        (void)id_to_text(id_new(), job->id);
        dlq->order = order;
        snprintf(location, sizeof(location), "/v1/dlq/jobs/%s", job->id);
        struct json_writer writer = json_writer(&body);
        json_object_begin(&writer);
        json_member_string(&writer, "job_id", job->id);
        json_object_end(&writer);
        pthread_cond_broadcast(&dlq->changed);
    }
    pthread_mutex_unlock(&dlq->lock);
    if (!busy && !stopping) {
        send_json(exchange, 202, &body, text_of(location), 0);
        return;
    }
    free(order);
    if (stopping)
        send_unavailable(exchange, "this instance is shutting down; try again");
    else
        send_problem(exchange, 409, "another redrive or drop is running here", NULL);
}

/* ---- routes */

static void on_list(struct dlq_http *dlq, struct exchange *exchange, const struct request *request)
{
    struct dlq_query query;
    struct codec_faults faults = {0};
    dlq_query_of_list(request, &query, &faults);
    if (faults.count)
        send_problem(exchange, 422, "the request is not valid", &faults);
    else
        reading_add(dlq, exchange, ROUTE_LIST, &query);
}

static void on_one(struct dlq_http *dlq, struct exchange *exchange, const struct request *request)
{
    struct dlq_query query = {.limit = 1, .after_partition = -1, .filter.at = true};
    if (dlq_place(request->parameters[0], request->parameters[1], &query.filter.partition,
                  &query.filter.offset))
        reading_add(dlq, exchange, ROUTE_ONE, &query);
    else
        send_problem(exchange, 404, "there is no such dead letter", NULL);
}

static void on_order(struct dlq_http *dlq, struct exchange *exchange, const struct request *request,
                     enum route_number route)
{
    struct dlq_query query;
    struct codec_faults faults = {0};
    struct dlq_query *order;
    dlq_query_of_order(request->json, route == ROUTE_DROP, &query, &faults);
    if (faults.count)
        send_problem(exchange, 422, "the request is not valid", &faults);
    else if (dlq->settings.first_delay_ms < 0)
        send_problem(exchange, 409, "RETRY_DELAYS is empty: there is no retry topic to send to", NULL);
    else if (query.dry_run)
        reading_add(dlq, exchange, route, &query);
    else if ((order = malloc(sizeof(*order))))
        job_begin(dlq, exchange, &query, order, route == ROUTE_DROP);
    else
        send_unavailable(exchange, "out of memory");
}

static void on_job(struct dlq_http *dlq, struct exchange *exchange, struct text id, bool stop)
{
    struct buffer body = buffer_of(PROBLEM_BYTES_MAX);
    pthread_mutex_lock(&dlq->lock);
    struct job *job = job_find(dlq, id);
    if (job) {
        job->stop = job->stop || stop;
        job_to_json(job, &body);
    }
    pthread_mutex_unlock(&dlq->lock);
    if (job)
        send_json(exchange, stop ? 202 : 200, &body, TEXT(""), 0);
    else
        send_problem(exchange, 404, "no such job since this instance started", NULL);
}

bool dlq_http_answers(struct dlq_http *dlq, struct exchange *exchange, const struct request *request)
{
    const struct route *route = request->route;
    if (route < routes || route >= &routes[ROUTE_COUNT])
        return false;
    switch ((enum route_number)(route - routes)) {
    case ROUTE_LIST:
        on_list(dlq, exchange, request);
        break;
    case ROUTE_ONE:
        on_one(dlq, exchange, request);
        break;
    case ROUTE_REDRIVE:
    case ROUTE_DROP:
        on_order(dlq, exchange, request, (enum route_number)(route - routes));
        break;
    case ROUTE_JOB:
    case ROUTE_JOB_STOP:
        on_job(dlq, exchange, request->parameters[0], route == &routes[ROUTE_JOB_STOP]);
        break;
    case ROUTE_COUNT:
        return false;
    }
    return true;
}

/* ---- beginning and end */

static bool thread_start(pthread_t *thread, void *(*run)(void *), struct dlq_http *dlq)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int failed = pthread_create(thread, &attributes, run, dlq);
    pthread_attr_destroy(&attributes);
    return failed == 0;
}

enum outcome dlq_http_open(const struct dlq_http_settings *settings, struct server *server,
                           struct dlq_http **ret, struct error *error)
{
    struct dlq_http *dlq = calloc(1, sizeof(*dlq));
    if (!dlq)
        return error_fatal(error, "memory", "out of memory");
    dlq->settings = *settings;
    pthread_mutex_init(&dlq->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&dlq->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    if (!thread_start(&dlq->reader, reader_run, dlq)) {
        free(dlq);
        return error_fatal(error, "thread", "cannot start a thread");
    }
    if (!thread_start(&dlq->worker, worker_run, dlq)) {
        dlq_http_stop(dlq);
        pthread_join(dlq->reader, NULL);
        free(dlq);
        return error_fatal(error, "thread", "cannot start a thread");
    }
    http_add_routes(server, routes, &dlq->settings.token);
    *ret = dlq;
    return OK;
}

void dlq_http_stop(struct dlq_http *dlq)
{
    pthread_mutex_lock(&dlq->lock);
    dlq->stopping = true;
    pthread_cond_broadcast(&dlq->changed);
    pthread_mutex_unlock(&dlq->lock);
}

void dlq_http_close(struct dlq_http *dlq, int timeout_ms)
{
    if (!dlq)
        return;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += timeout_ms % 1000 * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    dlq_http_stop(dlq);
    pthread_mutex_lock(&dlq->lock);
    while (!(dlq->reader_done && dlq->worker_done) &&
           pthread_cond_timedwait(&dlq->changed, &dlq->lock, &until) == 0)
        ;
    bool done = dlq->reader_done && dlq->worker_done;
    /* Those that wait, and one that a thread which hangs has in hand, are the server's to answer. */
    for (size_t i = 0; i < dlq->reading_count; i++)
        dlq->readings[i]->exchange = NULL;
    pthread_mutex_unlock(&dlq->lock);
    if (!done) {
        pthread_detach(dlq->reader);
        pthread_detach(dlq->worker);
        return;
    }
    pthread_join(dlq->reader, NULL);
    pthread_join(dlq->worker, NULL);
    dlq->joined = true;
}

void dlq_http_free(struct dlq_http *dlq)
{
    if (!dlq || !dlq->joined)
        return;
    for (size_t i = 0; i < dlq->reading_count; i++)
        free(dlq->readings[i]);
    pthread_cond_destroy(&dlq->changed);
    pthread_mutex_destroy(&dlq->lock);
    free(dlq);
}
