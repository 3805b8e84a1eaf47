/* answer: what requests are answered: JSON, and problems (RFC 9457). */
#include "flow/handler.h"

#include <stdarg.h>
#include <stdio.h>

static const char *status_title(int status)
{
    static const struct {
        int status;
        const char *title;
    } titles[] = {
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {406, "Not Acceptable"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {413, "Content Too Large"},
        {415, "Unsupported Media Type"},
        {422, "Unprocessable Content"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {503, "Service Unavailable"},
    };
    for (size_t i = 0; i < sizeof(titles) / sizeof(titles[0]); i++)
        if (titles[i].status == status)
            return titles[i].title;
    return "Error";
}

/* Two rules may find fault with one member: the first one that did is told, as a name stands in an object
 * once. */
static bool told_before(const struct codec_faults *faults, size_t at)
{
    for (size_t i = 0; i < at; i++)
        if (strcmp(faults->fault[i].path, faults->fault[at].path) == 0)
            return true;
    return false;
}

void problem_write(struct buffer *into, int status, const char *detail, const struct codec_faults *faults)
{
    struct json_writer writer = json_writer(into);
    json_object_begin(&writer);
    json_member_string(&writer, "type", "about:blank");
    json_member_string(&writer, "title", status_title(status));
    json_member_int(&writer, "status", status);
    if (detail[0])
        json_member_string(&writer, "detail", detail);
    if (faults) {
        json_key(&writer, "errors");
        json_object_begin(&writer);
        for (size_t i = 0; i < faults->count; i++)
            if (!told_before(faults, i))
                json_member_string(&writer, faults->fault[i].path, faults->fault[i].reason);
        json_object_end(&writer);
    }
    json_object_end(&writer);
}

static void problem(struct work *work, struct answer *answer, int status, const char *detail,
                    const struct codec_faults *faults)
{
    struct buffer buffer = buffer_of(PROBLEM_BYTES_MAX);
    problem_write(&buffer, status, detail, faults);
    answer_json(work, answer, status, &buffer);
    answer->content_type = "application/problem+json";
}

void answer_problem(struct work *work, struct answer *answer, int status, const char *format, ...)
{
    char detail[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(detail, sizeof(detail), format, arguments);
    va_end(arguments);
    problem(work, answer, status, detail, NULL);
}

void answer_faults(struct work *work, struct answer *answer, const struct codec_faults *faults)
{
    problem(work, answer, 422, "the request is not valid", faults);
}

void answer_json(struct work *work, struct answer *answer, int status, struct buffer *buffer)
{
    *answer = (struct answer){
        .status = status, .location = answer->location, .retry_after_s = answer->retry_after_s};
    if (buffer->failed) {
        answer->status = 500;
        answer->body = TEXT(
            "{\"title\":\"Internal Server Error\",\"status\":500,\"detail\":\"the answer is too large\"}");
    } else {
        answer->body = text_copy(work_arena(work), buffer_text(buffer));
    }
    buffer_free(buffer);
}
