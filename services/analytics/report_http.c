/* report_http: short reports, answered at once on the HTTP thread over a connection of their own, so that the
 * loop never waits for them. */
#include "analytics/analytics.h"

/* text/csv is named, and not with a quality of nothing; JSON where both are named is for who names it first.
 */
bool accepts_csv(const struct request *request)
{
    struct text accept = request_header(request, "accept");
    if (!accept.length)
        return false;
    const char *csv = memmem(accept.at, accept.length, "text/csv", 8);
    const char *json = memmem(accept.at, accept.length, "application/json", 16);
    return csv && (!json || csv < json);
}

static void problem(struct answer *answer, struct buffer *body, int status, const char *detail,
                    const struct codec_faults *faults)
{
    buffer_clear(body);
    problem_write(body, status, detail, faults);
    answer->status = status;
    answer->content_type = "application/problem+json";
}

void report_page_fill(void *owner, const struct request *request, struct answer *answer, struct buffer *body)
{
    const struct report_page *page = owner;
    struct report_desk *desk = page->desk;
    struct report_range range = {.kind = page->kind};
    struct codec_faults faults = {0};
    struct error error;
    if (!report_range_read(request_query(request, "from"), request_query(request, "to"), REPORT_ROWS_MAX,
                           &range, &faults)) {
        problem(answer, body, 422, "this range cannot be reported", &faults);
        return;
    }
    bool csv = accepts_csv(request);
    struct buffer *into[REPORT_FORMATS] = {
        [REPORT_JSON] = csv ? NULL : body, [REPORT_CSV] = csv ? body : NULL};
    pthread_mutex_lock(&desk->lock);
    enum outcome outcome = report_write(desk->reader, &range, into, NULL, NULL, &error);
    pthread_mutex_unlock(&desk->lock);
    if (outcome != OK) {
        problem(answer, body, 503, error.text, NULL);
        answer->retry_after_s = 1;
        return;
    }
    answer->status = 200;
    answer->content_type = csv ? "text/csv; charset=utf-8" : "application/json";
}
