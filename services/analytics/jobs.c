/*
 * jobs: long reports. A job is a row; the loop hands one at a time to a thread that reads over a connection
 * of its own, and takes its result into the job's rows. What was active when its process ended is begun
 * again, by whichever instance looks first: it has no effect but its result.
 */
#include "analytics/analytics.h"

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

struct job_row *job_find(struct work *work, struct text job_id)
{
    return rows_get(work, &jobs_table, &(struct job_row){.job_id = job_id});
}

static void parts_add(struct work *work, const struct job_row *job, enum report_format format,
                      struct text bytes)
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

/* The worker's; NULL where it is not, or not any more. */
static struct job_row *job_in_hand(struct work *work, const struct job_worker *worker)
{
    struct job_row *job = job_find(work, (struct text){worker->job_id, ID_TEXT_BYTES});
    return job && job->state == JOB_ACTIVE && id_equal(job->holder, work_instance(work)) ? job : NULL;
}

static void job_end(struct work *work, const struct job_worker *worker, struct job_row *job)
{
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

/* The oldest that is not done and nobody is at. Active and without a worker: its process ended in the midst
 * of it. */
static struct job_row *job_open(struct work *work)
{
    const struct store_value open[] = {STORE_INT(JOB_ACTIVE)};
    struct id self = work_instance(work);
    void **rows;
    size_t count = rows_find_free(work, &jobs_table, "state <= $1 ORDER BY state DESC, created_at", open, 1,
                                  JOBS_LOOK_MAX, &rows);
    for (size_t i = 0; i < count; i++) {
        struct job_row *job = rows[i];
        if (job->state == JOB_WAITING || id_equal(job->holder, self) ||
            !work_instance_lives(work, job->holder))
            return work_failed(work, NULL) == OK ? job : NULL;
    }
    return NULL;
}

static void job_begin(struct work *work, struct job_worker *worker)
{
    struct job_row *job = job_open(work);
    if (!job)
        return;
    if (job->attempts >= JOB_ATTEMPTS_MAX) {
        job->state = JOB_FAILED;
        if (!job->reason.length)
            job->reason = TEXT("begun too often and never ended");
        return;
    }
    job->state = JOB_ACTIVE;
    job->holder = work_instance(work);
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
        const struct store_value old[] = {STORE_INT(state),
                                          STORE_INT(work_now_us(work) - JOB_KEPT_DAYS * DAY_US)};
        void **jobs, **parts;
        if (!rows_find_free(work, &jobs_table, "state = $1 AND created_at < $2 ORDER BY created_at", old, 2,
                            1, &jobs))
            continue;
        const struct store_value job_id[] = {STORE_TEXT(((const struct job_row *)jobs[0])->job_id)};
        size_t count = rows_find(work, &job_parts_table, "job_id = $1", job_id, 1,
                                 (size_t)REPORT_FORMATS * JOB_PARTS_MAX, &parts);
        for (size_t i = 0; i < count; i++)
            rows_delete(work, &job_parts_table, parts[i]);
        rows_delete(work, &jobs_table, jobs[0]);
    }
}

/*
 * A result is let go only by the tick after the one that wrote it, when the job's row says that it is
 * written: where that transaction failed, it is written again.
 */
enum outcome jobs_on_tick(struct work *work, bool *ret_again, struct error *error)
{
    *ret_again = false;
    struct job_worker *worker = &((struct analytics_state *)work_state(work))->worker;
    pthread_mutex_lock(&worker->lock);
    if (worker->state == WORKER_DONE) {
        struct job_row *job = job_in_hand(work, worker);
        if (job) {
            job_end(work, worker, job);
        } else if (work_failed(work, error) == OK) {
            results_free(worker);
            worker->state = WORKER_IDLE;
        }
    } else if (worker->state == WORKER_BUSY) {
        struct job_row *job = job_in_hand(work, worker);
        if (job)
            job->progress = worker->progress;
    }
    if (worker->state == WORKER_IDLE) {
        job_begin(work, worker);
        jobs_prune(work);
    }
    pthread_mutex_unlock(&worker->lock);
    return OK;
}
