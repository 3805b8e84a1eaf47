/* report: figures by day, week or month, as JSON and CSV. */
#include "analytics/analytics.h"

#include <stdio.h>
#include <stdlib.h>

struct sums {
    int64_t placed, confirmed, rejected, cancelled, customers, emails_sent, emails_failed;
};

struct money {
    char currency[4];
    int64_t captured_minor, refunded_minor;
};

struct row {
    struct period period;
    struct sums sums;
};

struct report {
    const struct report_range *range;
    struct row *rows;
    size_t count;
    size_t at;             /* reading goes by day, so by row */
    char (*currencies)[4]; /* all there are, in order */
    size_t currency_count;
    bool too_many;       /* currencies: money that is left out would be a wrong sum */
    struct money *money; /* of row r and currency c: [r * currency_count + c] */
    int64_t number;      /* of a query that gives one */
};

bool report_range_read(struct text from, struct text to, int64_t rows_max, struct report_range *range,
                       struct codec_faults *faults)
{
    size_t before = faults->count;
    if (!day_parse(from, &range->from_day))
        codec_fault_add(faults, "must be a day, YYYY-MM-DD, from 1970 on", "from");
    if (!day_parse(to, &range->to_day))
        codec_fault_add(faults, "must be a day, YYYY-MM-DD, from 1970 on", "to");
    if (faults->count > before)
        return false;
    if (range->to_day < range->from_day)
        codec_fault_add(faults, "must not be before from", "to");
    else if (period_count(range->kind, range->from_day, range->to_day) > rows_max)
        codec_fault_add(faults,
                        rows_max == REPORT_ROWS_MAX
                            ? "more than 400 rows: ask for a job with POST /v1/reports"
                            : "more than 10000 rows",
                        "to");
    return faults->count == before;
}

/* ---- reading */

/* The row that day is in; rows are asked for by rising days. */
static struct row *row_at(struct report *report, int64_t day)
{
    while (report->at < report->count && report->rows[report->at].period.to < day)
        report->at++;
    return report->at < report->count ? &report->rows[report->at] : NULL;
}

static bool each_day(void *owner, const struct store_row *from)
{
    struct report *report = owner;
    struct row *row = row_at(report, store_row_int(from, 0));
    if (!row)
        return false;
    row->sums.placed += store_row_int(from, 1);
    row->sums.confirmed += store_row_int(from, 2);
    row->sums.rejected += store_row_int(from, 3);
    row->sums.cancelled += store_row_int(from, 4);
    row->sums.customers += store_row_int(from, 5); /* right for one day; read again for longer periods */
    row->sums.emails_sent += store_row_int(from, 6);
    row->sums.emails_failed += store_row_int(from, 7);
    return true;
}

static bool each_currency(void *owner, const struct store_row *from)
{
    struct report *report = owner;
    struct text currency = store_row_text(from, 0);
    report->too_many = report->currency_count == REPORT_CURRENCIES_MAX;
    if (currency.length == 3 && !report->too_many) {
        memcpy(report->currencies[report->currency_count], currency.at, 3);
        report->currency_count++;
    }
    return !report->too_many;
}

static bool each_money(void *owner, const struct store_row *from)
{
    struct report *report = owner;
    struct row *row = row_at(report, store_row_int(from, 0));
    if (!row)
        return false;
    struct text currency = store_row_text(from, 1);
    for (size_t c = 0; c < report->currency_count; c++) {
        if (!text_is(currency, report->currencies[c]))
            continue;
        struct money *money = &report->money[(size_t)(row - report->rows) * report->currency_count + c];
        if (__builtin_add_overflow(money->captured_minor, store_row_int(from, 2), &money->captured_minor))
            money->captured_minor = INT64_MAX;
        if (__builtin_add_overflow(money->refunded_minor, store_row_int(from, 3), &money->refunded_minor))
            money->refunded_minor = INT64_MAX;
    }
    return true;
}

static bool each_number(void *owner, const struct store_row *from)
{
    ((struct report *)owner)->number = store_row_int(from, 0);
    return true;
}

static enum outcome read_money(struct store_reader *reader, struct report *report,
                               const struct store_value range[2], struct error *error)
{
    enum outcome outcome = store_read(
        reader, "SELECT DISTINCT currency FROM money WHERE day >= $1 AND day <= $2 ORDER BY currency", range,
        2, each_currency, report, error);
    if (outcome != OK || !report->currency_count)
        return outcome;
    if (report->too_many)
        return error_reject(error, "report-currencies", "more than %d currencies: ask for fewer days",
                            REPORT_CURRENCIES_MAX);
    report->money = calloc(report->count * report->currency_count, sizeof(*report->money));
    if (!report->money)
        return error_retry(error, "memory", "no memory for a report of %zu rows", report->count);
    report->at = 0;
    return store_read(
        reader,
        "SELECT day, currency, captured_minor, refunded_minor FROM money WHERE day >= $1 AND day <= $2 "
        "ORDER BY day",
        range, 2, each_money, report, error);
}

/* Who ordered on several days of a period is one customer of it. */
static enum outcome read_customers(struct store_reader *reader, struct report *report,
                                   bool (*progress)(void *owner, int percent), void *owner,
                                   struct error *error)
{
    for (size_t i = 0; i < report->count && report->range->kind != PERIOD_DAILY; i++) {
        struct row *row = &report->rows[i];
        if (progress && !progress(owner, (int)(20 + i * 70 / report->count)))
            return error_retry(error, "stop", "stopped");
        if (!row->sums.customers || row->period.from == row->period.to)
            continue;
        const struct store_value period[] = {STORE_INT(row->period.from), STORE_INT(row->period.to)};
        enum outcome outcome = store_read(
            reader, "SELECT count(DISTINCT customer_id) FROM customers WHERE day >= $1 AND day <= $2", period,
            2, each_number, report, error);
        if (outcome != OK)
            return outcome;
        row->sums.customers = report->number;
    }
    return OK;
}

static enum outcome report_read(struct store_reader *reader, struct report *report,
                                bool (*progress)(void *owner, int percent), void *owner, struct error *error)
{
    const struct report_range *range = report->range;
    report->count = (size_t)period_count(range->kind, range->from_day, range->to_day);
    report->rows = calloc(report->count, sizeof(*report->rows));
    report->currencies = calloc(REPORT_CURRENCIES_MAX, sizeof(*report->currencies));
    if (!report->rows || !report->currencies)
        return error_retry(error, "memory", "no memory for a report of %zu rows", report->count);
    int64_t day = range->from_day;
    for (size_t i = 0; i < report->count; i++) {
        report->rows[i].period = period_at(range->kind, day, range->to_day);
        day = report->rows[i].period.to + 1;
    }
    const struct store_value days[] = {STORE_INT(range->from_day), STORE_INT(range->to_day)};
    enum outcome outcome =
        store_read(reader,
                   "SELECT day, placed, confirmed, rejected, cancelled, customers, emails_sent, "
                   "emails_failed FROM days WHERE day >= $1 AND day <= $2 ORDER BY day",
                   days, 2, each_day, report, error);
    if (outcome == OK)
        outcome = read_money(reader, report, days, error);
    if (outcome == OK)
        outcome = read_customers(reader, report, progress, owner, error);
    return outcome;
}

/* ---- writing */

static void json_row(struct json_writer *writer, const struct report *report, size_t at)
{
    const struct row *row = &report->rows[at];
    char date[DAY_BYTES];
    json_object_begin(writer);
    json_member_string(writer, "period", row->period.name);
    json_member_string(writer, "from", day_print(row->period.from, date));
    json_member_string(writer, "to", day_print(row->period.to, date));
    json_key(writer, "orders");
    json_object_begin(writer);
    json_member_int(writer, "placed", row->sums.placed);
    json_member_int(writer, "confirmed", row->sums.confirmed);
    json_member_int(writer, "rejected", row->sums.rejected);
    json_member_int(writer, "cancelled", row->sums.cancelled);
    json_object_end(writer);
    json_key(writer, "revenue");
    json_array_begin(writer);
    for (size_t c = 0; c < report->currency_count; c++) {
        const struct money *money = &report->money[at * report->currency_count + c];
        if (!money->captured_minor && !money->refunded_minor)
            continue;
        json_object_begin(writer);
        json_member_string(writer, "currency", report->currencies[c]);
        json_member_int(writer, "captured_minor", money->captured_minor);
        json_member_int(writer, "refunded_minor", money->refunded_minor);
        json_object_end(writer);
    }
    json_array_end(writer);
    json_member_int(writer, "customers", row->sums.customers);
    json_key(writer, "emails");
    json_object_begin(writer);
    json_member_int(writer, "sent", row->sums.emails_sent);
    json_member_int(writer, "failed", row->sums.emails_failed);
    json_object_end(writer);
    json_object_end(writer);
}

static void json_report(const struct report *report, struct buffer *into)
{
    char date[DAY_BYTES];
    struct json_writer writer = json_writer(into);
    json_object_begin(&writer);
    json_member_string(&writer, "kind", period_kind_names[report->range->kind]);
    json_member_string(&writer, "from", day_print(report->range->from_day, date));
    json_member_string(&writer, "to", day_print(report->range->to_day, date));
    json_key(&writer, "rows");
    json_array_begin(&writer);
    for (size_t i = 0; i < report->count; i++)
        json_row(&writer, report, i);
    json_array_end(&writer);
    json_object_end(&writer);
}

/* A line a period; two columns for each currency there is, so that every column can be summed. Nothing needs
 * quotes. */
static void csv_report(const struct report *report, struct buffer *into)
{
    buffer_add_string(
        into, "period,from,to,placed,confirmed,rejected,cancelled,customers,emails_sent,emails_failed");
    for (size_t c = 0; c < report->currency_count; c++)
        buffer_print(into, ",captured_minor_%s,refunded_minor_%s", report->currencies[c],
                     report->currencies[c]);
    buffer_add_string(into, "\r\n");
    for (size_t i = 0; i < report->count; i++) {
        const struct row *row = &report->rows[i];
        const struct sums *sums = &row->sums;
        char from[DAY_BYTES], to[DAY_BYTES];
        buffer_print(into, "%s,%s,%s,%lld,%lld,%lld,%lld,%lld,%lld,%lld", row->period.name,
                     day_print(row->period.from, from), day_print(row->period.to, to),
                     (long long)sums->placed, (long long)sums->confirmed, (long long)sums->rejected,
                     (long long)sums->cancelled, (long long)sums->customers, (long long)sums->emails_sent,
                     (long long)sums->emails_failed);
        for (size_t c = 0; c < report->currency_count; c++) {
            const struct money *money = &report->money[i * report->currency_count + c];
            buffer_print(into, ",%lld,%lld", (long long)money->captured_minor,
                         (long long)money->refunded_minor);
        }
        buffer_add_string(into, "\r\n");
    }
}

enum outcome report_write(struct store_reader *reader, const struct report_range *range,
                          struct buffer *into[REPORT_FORMATS], bool (*progress)(void *owner, int percent),
                          void *owner, struct error *error)
{
    static void (*const write[REPORT_FORMATS])(const struct report *, struct buffer *) = {json_report,
                                                                                          csv_report};
    struct report report = {.range = range};
    enum outcome outcome = report_read(reader, &report, progress, owner, error);
    for (int format = 0; format < REPORT_FORMATS && outcome == OK; format++) {
        if (!into[format])
            continue;
        write[format](&report, into[format]);
        if (into[format]->failed)
            outcome =
                error_reject(error, "report-size", "the report has more than %zu bytes: ask for fewer days",
                             into[format]->bytes_max);
    }
    free(report.rows);
    free(report.currencies);
    free(report.money);
    return outcome;
}
