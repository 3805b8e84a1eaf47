/* jobs_http: asking for a long report, looking how far it is, fetching it. */
#include "analytics/analytics.h"

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
    (void)report_range_read(json_text(json, "from"), json_text(json, "to"), REPORT_JOB_ROWS_MAX, range,
                            faults);
    return faults->count == 0;
}

enum outcome jobs_add(struct work *work, const struct request *request, struct answer *answer,
                      struct error *error)
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
    static const char *const names[] = {[JOB_WAITING] = "waiting",
                                        [JOB_ACTIVE] = "active",
                                        [JOB_COMPLETED] = "completed",
                                        [JOB_FAILED] = "failed"};
    return names[state];
}

static struct job_row *job_known(struct work *work, const struct request *request, struct answer *answer)
{
    struct job_row *job = job_find(work, request->parameters[0]);
    if (!job)
        answer_problem(work, answer, 404, "no job %.*s", TEXT_ARG(request->parameters[0]));
    return job;
}

enum outcome jobs_show(struct work *work, const struct request *request, struct answer *answer,
                       struct error *error)
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

enum outcome jobs_result(struct work *work, const struct request *request, struct answer *answer,
                         struct error *error)
{
    const struct job_row *job = job_known(work, request, answer);
    if (!job)
        return OK;
    if (job->state != JOB_COMPLETED) {
        answer_problem(work, answer, 409, "the job is %s, at %lld %%", state_name(job->state),
                       (long long)job->progress);
        return OK;
    }
    bool csv = accepts_csv(request);
    const struct store_value which[] = {STORE_TEXT(job->job_id), STORE_INT(csv ? REPORT_CSV : REPORT_JSON)};
    const void *const *parts;
    size_t count = rows_look(work, &job_parts_table, "job_id = $1 AND format = $2 ORDER BY part", which, 2,
                             JOB_PARTS_MAX, &parts);
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
