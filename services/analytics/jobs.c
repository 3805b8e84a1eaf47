/*
 * jobs: long reports. A job is a row; the loop hands one at a time to a thread that reads over a connection of its own, and takes its
 * result into the job's rows. What was active when the process ended is begun again: it has no effect but its result.
 */
#include "analytics/analytics.h"

static const struct rows_column job_columns[] = {
    ROWS_COLUMN(job_row, job_id, ROWS_TEXT),  ROWS_COLUMN(job_row, state, ROWS_INT),
    ROWS_COLUMN(job_row, created_at, ROWS_INT), ROWS_COLUMN(job_row, kind, ROWS_TEXT),
    ROWS_COLUMN(job_row, from_day, ROWS_INT), ROWS_COLUMN(job_row, to_day, ROWS_INT),
    ROWS_COLUMN(job_row, progress, ROWS_INT), ROWS_COLUMN(job_row, attempts, ROWS_INT),
    ROWS_COLUMN(job_row, reason, ROWS_TEXT),
};
const struct rows_table jobs_table = {
    .name = "jobs",
    .columns = job_columns,
    .column_count = sizeof(job_columns) / sizeof(job_columns[0]),
    .key_count = 1,
    .row_bytes = sizeof(struct job_row),
    .indexes = {"state, created_at"},
};

static const struct rows_column part_columns[] = {
    ROWS_COLUMN(job_part_row, job_id, ROWS_TEXT),
    ROWS_COLUMN(job_part_row, format, ROWS_INT),
    ROWS_COLUMN(job_part_row, part, ROWS_INT),
    ROWS_COLUMN(job_part_row, bytes, ROWS_BYTES),
};
const struct rows_table job_parts_table = {
    .name = "job_parts",
    .columns = part_columns,
    .column_count = sizeof(part_columns) / sizeof(part_columns[0]),
    .key_count = 3,
    .row_bytes = sizeof(struct job_part_row),
};

enum { JOB_PARTS_MAX = REPORT_BYTES_MAX / JOB_PART_BYTES + 1 };

/* ---- the worker's thread */

static bool on_progress(void *owner, int percent)
{
    struct job_worker *worker = owner;
    pthread_mutex_lock(&worker->lock);
    worker->progress = percent;
    bool go_on = !worker->stop;
    pthread_mutex_unlock(&worker->lock);
    return go_on;
}

static void *worker_run(void *owner)
{
    struct job_worker *worker = owner;
    pthread_mutex_lock(&worker->lock);
    while (!worker->stop) {
        if (worker->state != WORKER_BUSY) {
            pthread_cond_wait(&worker->wake, &worker->lock);
            continue;
        }
        const struct report_range range = worker->range;
        pthread_mutex_unlock(&worker->lock);

        struct error error = {0};
        struct buffer result[REPORT_FORMATS] = {buffer_of(REPORT_BYTES_MAX), buffer_of(REPORT_BYTES_MAX)};
        struct buffer *into[REPORT_FORMATS] = {&result[REPORT_JSON], &result[REPORT_CSV]};
        enum outcome outcome = report_write(worker->reader, &range, into, on_progress, worker, &error);

        pthread_mutex_lock(&worker->lock);
        memcpy(worker->result, result, sizeof(result));
        worker->outcome = outcome;
        worker->error = error;
        worker->state = WORKER_DONE;
    }
    pthread_mutex_unlock(&worker->lock);
    return NULL;
}

enum outcome jobs_start(struct job_worker *worker, const char *database_url, struct error *error)
{
    enum outcome outcome = store_reader_open(database_url, "analytics", &worker->reader, error);
    if (outcome != OK)
        return outcome;
    pthread_mutex_init(&worker->lock, NULL);
    pthread_cond_init(&worker->wake, NULL);
    if (pthread_create(&worker->thread, NULL, worker_run, worker) != 0)
        return error_fatal(error, "thread", "no thread for reports");
    worker->started = true;
    return OK;
}

static void results_free(struct job_worker *worker)
{
    for (int format = 0; format < REPORT_FORMATS; format++)
        buffer_free(&worker->result[format]);
}

void jobs_stop(struct job_worker *worker)
{
    if (worker->started) {
        pthread_mutex_lock(&worker->lock);
        worker->stop = true;
        pthread_cond_signal(&worker->wake);
        pthread_mutex_unlock(&worker->lock);
        pthread_join(worker->thread, NULL);
    }
    results_free(worker);
    store_reader_close(worker->reader);
}

/* ---- the loop's side */

static struct job_row *job_find(struct work *work, struct text job_id)
{
    return rows_get(work, &jobs_table, &(struct job_row){.job_id = job_id});
}

static void parts_add(struct work *work, const struct job_row *job, enum report_format format, struct text bytes)
{
    for (int64_t part = 0; bytes.length; part++) {
        size_t length = bytes.length < JOB_PART_BYTES ? bytes.length : JOB_PART_BYTES;
        const struct job_part_row row = {
            .job_id = job->job_id, .format = format, .part = part, .bytes = {bytes.at, length}};
        rows_add(work, &job_parts_table, &row); /* a copy: the worker's buffers go away */
        bytes.at += length;
        bytes.length -= length;
    }
}

static void job_end(struct work *work, const struct job_worker *worker)
{
    struct job_row *job = job_find(work, (struct text){worker->job_id, ID_TEXT_BYTES});
    if (!job || job->state != JOB_ACTIVE)
        return;
    if (worker->outcome == OK) {
        job->state = JOB_COMPLETED;
        job->progress = 100;
        job->reason = (struct text){NULL, 0};
        for (int format = 0; format < REPORT_FORMATS; format++)
            parts_add(work, job, (enum report_format)format, buffer_text(&worker->result[format]));
        return;
    }
    job->reason = text_copy(work_arena(work), text_of(worker->error.text));
    job->state = worker->outcome == REJECT || job->attempts >= JOB_ATTEMPTS_MAX ? JOB_FAILED : JOB_WAITING;
}

/* The oldest that is not done. Active and without a worker: the process ended in the midst of it. */
static void job_begin(struct work *work, struct job_worker *worker)
{
    const struct store_value open[] = {STORE_INT(JOB_ACTIVE)};
    void **rows;
    if (!rows_find(work, &jobs_table, "state <= $1 ORDER BY state DESC, created_at", open, 1, 1, &rows))
        return;
    struct job_row *job = rows[0];
    if (job->attempts >= JOB_ATTEMPTS_MAX) {
        job->state = JOB_FAILED;
        if (!job->reason.length)
            job->reason = TEXT("begun too often and never ended");
        return;
    }
    job->state = JOB_ACTIVE;
    job->attempts++;
    worker->range = (struct report_range){.from_day = job->from_day, .to_day = job->to_day};
    (void)period_kind_parse(job->kind, &worker->range.kind); /* was checked when the job was made */
    memcpy(worker->job_id, job->job_id.at, ID_TEXT_BYTES);
    worker->progress = 0;
    worker->state = WORKER_BUSY;
    pthread_cond_signal(&worker->wake);
}

static void jobs_prune(struct work *work)
{
    for (int64_t state = JOB_COMPLETED; state <= JOB_FAILED; state++) {
        const struct store_value old[] = {STORE_INT(state), STORE_INT(work_now_us(work) - JOB_KEPT_DAYS * DAY_US)};
        void **jobs, **parts;
        if (!rows_find(work, &jobs_table, "state = $1 AND created_at < $2 ORDER BY created_at", old, 2, 1, &jobs))
            continue;
        const struct store_value job_id[] = {STORE_TEXT(((const struct job_row *)jobs[0])->job_id)};
        size_t count = rows_find(work, &job_parts_table, "job_id = $1", job_id, 1, (size_t)REPORT_FORMATS * JOB_PARTS_MAX, &parts);
        for (size_t i = 0; i < count; i++)
            rows_delete(work, &job_parts_table, parts[i]);
        rows_delete(work, &jobs_table, jobs[0]);
    }
}

/*
 * A result is let go only by the tick after the one that wrote it, when the job's row says that it is written: where
 * that transaction failed, it is written again.
 */
enum outcome jobs_on_tick(struct work *work, bool *ret_again, struct error *error)
{
    *ret_again = false;
    struct job_worker *worker = &((struct analytics_state *)work_state(work))->worker;
    pthread_mutex_lock(&worker->lock);
    if (worker->state == WORKER_DONE) {
        const struct job_row *job = job_find(work, (struct text){worker->job_id, ID_TEXT_BYTES});
        if (job && job->state == JOB_ACTIVE) {
            job_end(work, worker);
        } else if (work_failed(work, error) == OK) {
            results_free(worker);
            worker->state = WORKER_IDLE;
        }
    } else if (worker->state == WORKER_BUSY) {
        struct job_row *job = job_find(work, (struct text){worker->job_id, ID_TEXT_BYTES});
        if (job && job->state == JOB_ACTIVE)
            job->progress = worker->progress;
    }
    if (worker->state == WORKER_IDLE) {
        job_begin(work, worker);
        jobs_prune(work);
    }
    pthread_mutex_unlock(&worker->lock);
    return OK;
}

/* ---- HTTP */

void jobs_keys(struct work *work, const struct request *request)
{
    rows_want(work, &jobs_table, &(struct job_row){.job_id = request->parameters[0]});
}

static bool read_range(const json_t *json, struct report_range *range, struct codec_faults *faults)
{
    static const char *const known[] = {"kind", "from", "to"};
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)json, name, value)
    {
        bool found = false;
        for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
            found = found || strcmp(name, known[i]) == 0;
        if (!found)
            codec_fault_add(faults, "is not known here", "%.64s", name);
    }
    if (!period_kind_parse(json_text(json, "kind"), &range->kind)) {
        codec_fault_add(faults, "must be daily, weekly or monthly", "kind");
        range->kind = PERIOD_DAILY;
    }
    (void)report_range_read(json_text(json, "from"), json_text(json, "to"), REPORT_JOB_ROWS_MAX, range, faults);
    return faults->count == 0;
}

enum outcome jobs_add(struct work *work, const struct request *request, struct answer *answer, struct error *error)
{
    (void)error;
    struct codec_faults faults = {0};
    struct report_range range;
    if (!read_range(request->json, &range, &faults)) {
        answer_faults(work, answer, &faults);
        return OK;
    }
    const struct store_value open[] = {STORE_INT(JOB_ACTIVE)};
    if (rows_count(work, &jobs_table, "state <= $1", open, 1) >= JOBS_OPEN_MAX) {
        answer_problem(work, answer, 503, "%d reports are waiting already", JOBS_OPEN_MAX);
        answer->retry_after_s = 10;
        return OK;
    }
    char id[ID_TEXT_BYTES];
    const struct job_row job = {
        .job_id = id_to_text(id_new(), id),
        .state = JOB_WAITING,
        .created_at = work_now_us(work),
        .kind = text_of(period_kind_names[range.kind]),
        .from_day = range.from_day,
        .to_day = range.to_day,
    };
    rows_add(work, &jobs_table, &job);
    struct buffer body = buffer_of(ANSWER_BODY_BYTES_MAX);
    struct json_writer writer = json_writer(&body);
    json_object_begin(&writer);
    json_member_text(&writer, "job_id", job.job_id);
    json_object_end(&writer);
    answer_json(work, answer, 202, &body);
    answer->location = text_of(arena_print(work_arena(work), "/v1/jobs/%.*s", TEXT_ARG(job.job_id)));
    return OK;
}

static const char *state_name(int64_t state)
{
    static const char *const names[] = {
        [JOB_WAITING] = "waiting", [JOB_ACTIVE] = "active", [JOB_COMPLETED] = "completed", [JOB_FAILED] = "failed"};
    return names[state];
}

static struct job_row *job_known(struct work *work, const struct request *request, struct answer *answer)
{
    struct job_row *job = job_find(work, request->parameters[0]);
    if (!job)
        answer_problem(work, answer, 404, "no job %.*s", TEXT_ARG(request->parameters[0]));
    return job;
}

enum outcome jobs_show(struct work *work, const struct request *request, struct answer *answer, struct error *error)
{
    (void)error;
    const struct job_row *job = job_known(work, request, answer);
    if (!job)
        return OK;
    char date[DAY_BYTES];
    struct buffer body = buffer_of(ANSWER_BODY_BYTES_MAX);
    struct json_writer writer = json_writer(&body);
    json_object_begin(&writer);
    json_member_text(&writer, "id", job->job_id);
    json_member_string(&writer, "state", state_name(job->state));
    json_member_int(&writer, "progress", job->progress);
    json_member_int(&writer, "attempts", job->attempts);
    if (job->reason.length)
        json_member_text(&writer, "reason", job->reason);
    json_member_text(&writer, "kind", job->kind);
    json_member_string(&writer, "from", day_print(job->from_day, date));
    json_member_string(&writer, "to", day_print(job->to_day, date));
    json_member_time(&writer, "created_at", job->created_at);
    json_object_end(&writer);
    answer_json(work, answer, 200, &body);
    return OK;
}

enum outcome jobs_result(struct work *work, const struct request *request, struct answer *answer, struct error *error)
{
    const struct job_row *job = job_known(work, request, answer);
    if (!job)
        return OK;
    if (job->state != JOB_COMPLETED) {
        answer_problem(work, answer, 409, "the job is %s, at %lld %%", state_name(job->state), (long long)job->progress);
        return OK;
    }
    bool csv = accepts_csv(request);
    const struct store_value which[] = {STORE_TEXT(job->job_id), STORE_INT(csv ? REPORT_CSV : REPORT_JSON)};
    void **parts;
    size_t count = rows_find(work, &job_parts_table, "job_id = $1 AND format = $2 ORDER BY part", which, 2, JOB_PARTS_MAX,
                             &parts);
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += ((const struct job_part_row *)parts[i])->bytes.length;
    char *at = arena_take(work_arena(work), bytes);
    if (!at)
        return error_retry(error, "memory", "no room for the result in this batch");
    answer->status = 200;
    answer->content_type = csv ? "text/csv; charset=utf-8" : NULL;
    answer->body = (struct text){at, bytes};
    for (size_t i = 0; i < count; i++) {
        struct text part = ((const struct job_part_row *)parts[i])->bytes;
        memcpy(at, part.at, part.length);
        at += part.length;
    }
    return OK;
}
