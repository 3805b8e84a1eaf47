/* report_http: short reports, answered at once on the HTTP thread over a connection of their own, so that the
 * loop never waits for them. */
#include "analytics/analytics.h"

/* ---- Accept (RFC 9110, 12.5.1) */

/* What stands before the mark, without blanks, and both taken off *rest. False when nothing is left. */
static bool part_next(struct text *rest, char mark, struct text *ret)
{
    if (!rest->length)
        return false;
    const char *end = memchr(rest->at, mark, rest->length);
    size_t length = end ? (size_t)(end - rest->at) : rest->length, step = end ? length + 1 : length;
    *ret = text_trim((struct text){rest->at, length});
    *rest = (struct text){rest->at + step, rest->length - step};
    return true;
}

/* 0 to 1000; what is no quality is 1000, as if it was not said. */
static int quality(struct text parameters)
{
    struct text parameter;
    while (part_next(&parameters, ';', &parameter)) {
        if (parameter.length < 3 || (parameter.at[0] | 0x20) != 'q' || parameter.at[1] != '=')
            continue;
        int thousandths = 0, digit_worth = 1000;
        for (size_t i = 2; i < parameter.length; i++) {
            if (parameter.at[i] == '.' && i == 3)
                continue;
            if (parameter.at[i] < '0' || parameter.at[i] > '9')
                return 1000;
            thousandths += (parameter.at[i] - '0') * digit_worth;
            digit_worth /= 10;
        }
        return thousandths < 1000 ? thousandths : 1000;
    }
    return 1000;
}

/* How much a type is wanted: the range that names it most exactly says so. */
struct wanted {
    int exact;   /* 0: not at all; 1: of any type; 2: of any of its kind; 3: by its name */
    int quality; /* thousandths */
    size_t place;
};

static void want_by(struct wanted *wanted, int exact, int range_quality, size_t place)
{
    if (exact > wanted->exact)
        *wanted = (struct wanted){exact, range_quality, place};
}

/* JSON, unless CSV is wanted more, or as much and named before it. */
bool accepts_csv(const struct request *request)
{
    struct text rest = request_header(request, "accept"), range, type;
    struct wanted csv = {0}, json = {0};
    for (size_t place = 0; part_next(&rest, ',', &range); place++) {
        if (!part_next(&range, ';', &type))
            continue;
        int range_quality = quality(range);
        if (text_equal_nocase(type, TEXT("text/csv")))
            want_by(&csv, 3, range_quality, place);
        else if (text_equal_nocase(type, TEXT("text/*")))
            want_by(&csv, 2, range_quality, place);
        else if (text_equal_nocase(type, TEXT("application/json")))
            want_by(&json, 3, range_quality, place);
        else if (text_equal_nocase(type, TEXT("application/*")))
            want_by(&json, 2, range_quality, place);
        else if (text_equal_nocase(type, TEXT("*/*"))) {
            want_by(&csv, 1, range_quality, place);
            want_by(&json, 1, range_quality, place);
        }
    }
    if (csv.quality != json.quality || !csv.quality)
        return csv.quality > json.quality;
    if (csv.exact != json.exact)
        return csv.exact > json.exact;
    return csv.place < json.place;
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
        problem(answer, body, outcome == REJECT ? 422 : 503, error.text, NULL);
        answer->retry_after_s = outcome == REJECT ? 0 : 1;
        return;
    }
    answer->status = 200;
    answer->content_type = csv ? "text/csv; charset=utf-8" : "application/json";
}
