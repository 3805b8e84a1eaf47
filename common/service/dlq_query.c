#include "service/dlq_query.h"

#include "base/clock.h"
#include "base/setting.h"

#include <stdio.h>

/* One named value of the request, text in either form. */
struct value {
    struct text name;
    struct text text;
    const json_t *json; /* NULL in a query */
};

static void defaults(struct dlq_query *query)
{
    *query = (struct dlq_query){
        .limit = DLQ_LIMIT_DEFAULT,
        .after_partition = -1,
        .rate_per_hour = DLQ_RATE_DEFAULT * INT64_C(3600),
    };
}

bool dlq_place(struct text partition, struct text offset, int32_t *ret_partition, int64_t *ret_offset)
{
    int64_t number;
    if (!text_to_int64(partition, &number) || number < 0 || number > INT32_MAX ||
        !text_to_int64(offset, ret_offset) || *ret_offset < 0)
        return false;
    *ret_partition = (int32_t)number;
    return true;
}

void dlq_query_copy(const struct dlq_query *query, struct dlq_query *ret)
{
    *ret = *query;
    struct letter_filter *filter = &ret->filter;
#define MOVED(member) filter->member = filter->member ? ret->texts.member : NULL
    MOVED(type);
    MOVED(class);
    MOVED(fingerprint);
    MOVED(id);
    MOVED(key);
#undef MOVED
}

/* A filter's text; it is compared only, so that any bytes but NUL will do. */
static const char *take_text(const struct value *value, char *into, size_t bytes, struct codec_faults *faults)
{
    if (value->json && !json_is_string(value->json))
        codec_fault_add(faults, "must be a string", "%.*s", TEXT_ARG(value->name));
    else if (value->text.length >= bytes || memchr(value->text.at, '\0', value->text.length))
        codec_fault_add(faults, "is too long", "%.*s", TEXT_ARG(value->name));
    else
        snprintf(into, bytes, "%.*s", TEXT_ARG(value->text));
    return into;
}

static int64_t take_time(const struct value *value, struct codec_faults *faults)
{
    int64_t wall_us = 0;
    if (!clock_from_rfc3339(value->text, &wall_us))
        codec_fault_add(faults, "must be a time like 2026-11-21T09:00:00Z", "%.*s", TEXT_ARG(value->name));
    return wall_us;
}

static int64_t take_number(const struct value *value, int64_t min, int64_t max, struct codec_faults *faults)
{
    int64_t number = 0;
    char reason[CODEC_FAULT_REASON_BYTES_MAX];
    bool is_number = value->json ? json_is_integer(value->json) : text_to_int64(value->text, &number);
    if (value->json && is_number)
        number = json_integer_value(value->json);
    if (is_number && number >= min && number <= max)
        return number;
    snprintf(reason, sizeof(reason), "must be a whole number from %lld to %lld", (long long)min,
             (long long)max);
    codec_fault_add(faults, reason, "%.*s", TEXT_ARG(value->name));
    return min;
}

static bool take_bool(const struct value *value, struct codec_faults *faults)
{
    if (json_is_boolean(value->json))
        return json_is_true(value->json);
    codec_fault_add(faults, "must be true or false", "%.*s", TEXT_ARG(value->name));
    return false;
}

/* False: not one of the filter's names. */
static bool take_filter(const struct value *value, struct dlq_query *query, struct codec_faults *faults)
{
    struct letter_filter *filter = &query->filter;
#define TEXT_OF(member) take_text(value, query->texts.member, sizeof(query->texts.member), faults)
    if (text_is(value->name, "class"))
        filter->class = TEXT_OF(class);
    else if (text_is(value->name, "fingerprint"))
        filter->fingerprint = TEXT_OF(fingerprint);
    else if (text_is(value->name, "type"))
        filter->type = TEXT_OF(type);
    else if (text_is(value->name, "key"))
        filter->key = TEXT_OF(key);
    else if (text_is(value->name, "id"))
        filter->id = TEXT_OF(id);
    else if (text_is(value->name, "since"))
        filter->since_us = take_time(value, faults);
    else if (text_is(value->name, "until"))
        filter->until_us = take_time(value, faults);
    else
        return false;
#undef TEXT_OF
    return true;
}

/* ---- lists */

static void take_state(const struct value *value, struct dlq_query *query, struct codec_faults *faults)
{
    query->all_states = text_is(value->text, "all");
    for (enum letter_state state = LETTER_OPEN; state <= LETTER_DROPPED; state++)
        if (text_is(value->text, letter_state_name(state))) {
            query->state = state;
            return;
        }
    if (!query->all_states)
        codec_fault_add(faults, "must be open, redriven, dropped or all", "state");
}

/* As it was given in "next": 3:17. */
static void take_after(const struct value *value, struct dlq_query *query, struct codec_faults *faults)
{
    const char *colon = value->text.length ? memchr(value->text.at, ':', value->text.length) : NULL;
    size_t length = colon ? (size_t)(colon - value->text.at) : 0;
    if (!colon || !dlq_place((struct text){value->text.at, length},
                             (struct text){colon + 1, value->text.length - length - 1},
                             &query->after_partition, &query->after_offset))
        codec_fault_add(faults, "must be what next said", "after");
}

void dlq_query_of_list(const struct request *request, struct dlq_query *ret, struct codec_faults *faults)
{
    defaults(ret);
    for (size_t i = 0; i < request->query_count; i++) {
        const struct value value = {.name = request->query[i].name, .text = request->query[i].value};
        if (!value.text.length || take_filter(&value, ret, faults))
            continue;
        if (text_is(value.name, "state"))
            take_state(&value, ret, faults);
        else if (text_is(value.name, "limit"))
            ret->limit = take_number(&value, 1, DLQ_LIMIT_MAX, faults);
        else if (text_is(value.name, "after"))
            take_after(&value, ret, faults);
        else if (!text_is(value.name, "by"))
            codec_fault_add(faults, "is not known here", "%.*s", TEXT_ARG(value.name));
        else if (!(ret->by_cause = text_is(value.text, "fingerprint")))
            codec_fault_add(faults, "must be fingerprint", "by");
    }
}

/* ---- orders */

static void take_rate(const struct value *value, struct dlq_query *query, struct codec_faults *faults)
{
    static const struct setting rate = {.name = "rate", .kind = SETTING_RATE};
    enum { PER_SECOND_MAX = 1000000 };
    struct setting_value parsed = {0};
    if (json_is_integer(value->json) && json_integer_value(value->json) >= 0 &&
        json_integer_value(value->json) <= PER_SECOND_MAX)
        query->rate_per_hour = json_integer_value(value->json) * 3600;
    else if (json_is_string(value->json) && setting_parse(&rate, value->text, &parsed))
        query->rate_per_hour = parsed.number;
    else
        codec_fault_add(faults, "must be letters a second, or a rate like 100/min; 0 is no limit", "rate");
}

/* What becomes a header: one line that can be read. */
static void take_line(const struct value *value, char *into, size_t bytes, struct codec_faults *faults)
{
    bool plain = json_is_string(value->json) && text_is_utf8(value->text);
    for (size_t i = 0; plain && i < value->text.length; i++)
        plain = (unsigned char)value->text.at[i] >= 0x20 && value->text.at[i] != 0x7f;
    if (!plain)
        codec_fault_add(faults, "must be a line of text", "%.*s", TEXT_ARG(value->name));
    else
        (void)take_text(value, into, bytes, faults);
}

void dlq_query_of_order(const json_t *body, bool drop, struct dlq_query *ret, struct codec_faults *faults)
{
    const char *name;
    json_t *member;
    defaults(ret);
    json_object_foreach((json_t *)(uintptr_t)body, name, member)
    {
        const struct value value = {text_of(name), json_text(body, name), member};
        if (take_filter(&value, ret, faults))
            continue;
        if (strcmp(name, "rate") == 0)
            take_rate(&value, ret, faults);
        else if (strcmp(name, "limit") == 0)
            ret->letters_max = take_number(&value, 0, INT32_MAX, faults);
        else if (strcmp(name, "again") == 0)
            ret->again = take_bool(&value, faults);
        else if (strcmp(name, "dry_run") == 0)
            ret->dry_run = take_bool(&value, faults);
        else if (strcmp(name, "by") == 0)
            take_line(&value, ret->by, sizeof(ret->by), faults);
        else if (drop && strcmp(name, "reason") == 0)
            take_line(&value, ret->reason, sizeof(ret->reason), faults);
        else
            codec_fault_add(faults, "is not known here", "%s", name);
    }
    if (drop && !ret->reason[0])
        codec_fault_add(faults, "is wanted", "reason");
}
