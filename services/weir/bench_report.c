#include "bench_report.h"

#include <errno.h>
#include <stdio.h>

enum { HDR_TEXT_BYTES_MAX = 1 << 20, PATH_BYTES_MAX = 4096 };

static const char *const stage_names[STAGE_COUNT] = {"accepted", "decided", "confirmed", "mailed"};

/* ---- JSON */

/* A number that may be missing: -1. */
static void member_us(struct json_writer *writer, const char *name, int64_t us)
{
    json_key(writer, name);
    if (us < 0)
        json_put_null(writer);
    else
        json_put_int(writer, us);
}

static void member_double(struct json_writer *writer, const char *name, double value)
{
    json_key(writer, name);
    json_put_double(writer, value);
}

static void member_bool(struct json_writer *writer, const char *name, bool value)
{
    json_key(writer, name);
    json_put_bool(writer, value);
}

/* Empty: none. */
static void member_reason(struct json_writer *writer, const char *name, const char *reason)
{
    json_key(writer, name);
    if (reason[0])
        json_put_text(writer, text_of(reason));
    else
        json_put_null(writer);
}

static double share(int64_t of, int64_t count)
{
    return count > 0 ? (double)of / (double)count : 0;
}

static void put_tally(struct json_writer *writer, const struct bench_tally *tally,
                      const struct bench_step *step)
{
    json_object(writer);
    json_member_int(writer, "offered", tally->offered);
    json_member_int(writer, "sent", tally->sent);
    json_member_int(writer, "dropped", tally->dropped);
    json_member_int(writer, "accepted", tally->accepted);
    json_member_int(writer, "refused", tally->refused);
    json_member_int(writer, "decided", tally->decided);
    json_member_int(writer, "confirmed", tally->confirmed);
    json_member_int(writer, "rejected", tally->rejected);
    json_member_int(writer, "cancelled", tally->cancelled);
    json_member_int(writer, "mailed", tally->mailed);
    json_member_int(writer, "mails_missing", tally->mails_missing);
    json_member_int(writer, "broken", tally->broken);
    json_member_int(writer, "lost", tally->lost);
    json_member_int(writer, "placed_seen", tally->placed_seen);
    if (step) { /* records, which are not told by when they were due */
        json_member_int(writer, "placed_again", step->placed_again);
        json_member_int(writer, "decided_again", step->decided_again);
    }
    json_object_end(writer);
}

static void put_histogram(struct json_writer *writer, const struct hdr *hdr)
{
    bool any = hdr->total > 0;
    json_object(writer);
    json_member_int(writer, "count", (int64_t)hdr->total);
    member_us(writer, "min_us", any ? hdr->min_us : -1);
    member_us(writer, "mean_us", any ? (int64_t)hdr_mean_us(hdr) : -1);
    member_us(writer, "p50_us", hdr_percentile_us(hdr, 50));
    member_us(writer, "p90_us", hdr_percentile_us(hdr, 90));
    member_us(writer, "p99_us", hdr_percentile_us(hdr, 99));
    member_us(writer, "p99_9_us", hdr_percentile_us(hdr, 99.9));
    member_us(writer, "p99_99_us", hdr_percentile_us(hdr, 99.99));
    member_us(writer, "max_us", any ? hdr->max_us : -1);
    json_key(writer, "buckets");
    json_array(writer);
    for (size_t slot = 0; slot < HDR_SLOTS; slot++) {
        if (!hdr->count[slot])
            continue;
        json_array(writer);
        json_put_int(writer, hdr_slot_high_us(slot));
        json_put_int(writer, (int64_t)hdr->count[slot]);
        json_array_end(writer);
    }
    json_array_end(writer);
    json_object_end(writer);
}

static void put_latency(struct json_writer *writer, const struct bench_step *step)
{
    json_key(writer, "latency");
    json_object(writer);
    for (int stage = 0; stage < STAGE_COUNT; stage++) {
        json_key(writer, stage_names[stage]);
        put_histogram(writer, step->latency[stage]);
    }
    json_key(writer, "decided_quarter_p99_us");
    json_array(writer);
    for (int i = 0; i < BENCH_QUARTERS; i++) {
        if (step->quarter_p99_us[i] < 0)
            json_put_null(writer);
        else
            json_put_int(writer, step->quarter_p99_us[i]);
    }
    json_array_end(writer);
    json_object_end(writer);
}

static void put_processes(struct json_writer *writer, const struct bench_step *step,
                          const struct bench_processes *processes)
{
    json_key(writer, "processes");
    json_object(writer);
    for (size_t i = 0; i < processes->name_count; i++) {
        const struct bench_usage *used = &step->used[i];
        json_key(writer, processes->names[i]);
        json_object(writer);
        json_member_int(writer, "cpu_us", used->cpu_us);
        member_double(writer, "cpu_us_per_order", share(used->cpu_us, step->decided_within));
        json_member_int(writer, "rss_bytes", used->rss_bytes);
        json_member_int(writer, "rss_bytes_max", step->rss_max_bytes[i]);
        json_member_int(writer, "read_bytes", used->read_bytes);
        json_member_int(writer, "written_bytes", used->written_bytes);
        json_object_end(writer);
    }
    json_object_end(writer);
}

static void put_timeline(struct json_writer *writer, const struct bench_step *step)
{
    json_key(writer, "timeline");
    json_array(writer);
    for (size_t i = 0; i < step->timeline_count; i++) {
        const struct bench_second *at = &step->timeline[i];
        const int64_t numbers[] = {(int64_t)i, at->sent,        at->accepted, at->decided, at->confirmed,
                                   at->mailed, at->outstanding, at->p50_us,   at->p99_us,  at->max_us};
        json_array(writer);
        for (size_t k = 0; k < sizeof(numbers) / sizeof(numbers[0]); k++) {
            if (k >= 7 && numbers[k] < 0)
                json_put_null(writer);
            else
                json_put_int(writer, numbers[k]);
        }
        json_array_end(writer);
    }
    json_array_end(writer);
}

static void put_generator(struct json_writer *writer, const struct bench_step *step)
{
    int64_t own_us = hdr_percentile_us(step->behind.own, 99);
    json_key(writer, "generator");
    json_object(writer);
    json_member_int(writer, "behind", (int64_t)step->behind.behind);
    json_member_int(writer, "behind_max_us", step->behind.own->max_us);
    member_us(writer, "behind_p99_us", own_us);
    json_member_int(writer, "waited", (int64_t)step->behind.waited);
    json_member_int(writer, "waited_max_us", step->behind.waited_max_us);
    json_member_int(writer, "resent", (int64_t)step->resent);
    json_member_int(writer, "cpu_us", step->cpu_us);
    member_double(writer, "cpu_us_per_order", share(step->cpu_us, (int64_t)step->behind.sent));
    json_object_end(writer);
}

void bench_report_json(const struct bench_step *step, const struct bench_processes *processes,
                       struct json_writer *writer)
{
    json_object(writer);
    json_member_int(writer, "step", step->number);
    member_double(writer, "rate", step->rate);
    json_member_time(writer, "begun_at", step->begun_wall_us);
    json_member_int(writer, "window_us", step->window_us);
    member_bool(writer, "valid", step->valid);
    member_reason(writer, "invalid_because", step->invalid_because);
    member_bool(writer, "sustained", step->sustained);
    member_reason(writer, "not_sustained_because", step->not_sustained_because);
    json_key(writer, "orders");
    put_tally(writer, &step->window, NULL);
    json_key(writer, "orders_all");
    put_tally(writer, &step->all, step);
    json_key(writer, "rates");
    json_object(writer);
    member_double(writer, "offered", step->offered_rate);
    member_double(writer, "accepted", step->accepted_rate);
    member_double(writer, "decided", step->decided_rate);
    member_double(writer, "confirmed", step->confirmed_rate);
    member_double(writer, "mailed", step->mailed_rate);
    json_object_end(writer);
    json_key(writer, "outstanding");
    json_object(writer);
    json_member_int(writer, "begin", step->outstanding_begin);
    json_member_int(writer, "end", step->outstanding_end);
    json_member_int(writer, "max", step->outstanding_max);
    member_us(writer, "returned_us", step->returned_us);
    json_object_end(writer);
    put_generator(writer, step);
    json_key(writer, "reader");
    json_object(writer);
    json_member_int(writer, "records", step->records);
    json_member_int(writer, "behind_max_us", step->reader_behind_us);
    json_object_end(writer);
    put_latency(writer, step);
    put_processes(writer, step, processes);
    put_timeline(writer, step);
    json_object_end(writer);
}

/* ---- the table */

void bench_report_head(void)
{
    printf("%10s %10s %10s  %-9s %9s %9s %9s %9s %9s  %s\n", "orders/s", "accepted", "confirmed", "ms to",
           "p50", "p90", "p99", "p99.9", "max", "outstanding");
    fflush(stdout);
}

static void put_row(const struct bench_step *step, enum bench_stage stage)
{
    static const double percents[] = {50, 90, 99, 99.9, 100};
    const struct hdr *hdr = step->latency[stage];
    if (stage == STAGE_ACCEPTED)
        printf("%10.6g %10.1f %10.1f  ", step->rate, step->accepted_rate, step->confirmed_rate);
    else
        printf("%32s  ", "");
    printf("%-9s", stage_names[stage]);
    for (size_t i = 0; i < sizeof(percents) / sizeof(percents[0]); i++) {
        if (hdr->total)
            printf(" %9.1f", (double)hdr_percentile_us(hdr, percents[i]) / 1000);
        else
            printf(" %9s", "-");
    }
    if (stage == STAGE_ACCEPTED)
        printf("  %lld to %lld, most %lld", (long long)step->outstanding_begin,
               (long long)step->outstanding_end, (long long)step->outstanding_max);
    putchar('\n');
}

/* What a reader of the table must know about it, where there is anything. */
static void put_remarks(const struct bench_step *step)
{
    const struct bench_tally *all = &step->all;
    if (!step->valid)
        printf("%12s NOT VALID: %s\n", "", step->invalid_because);
    else if (!step->sustained)
        printf("%12s not sustained: %s\n", "", step->not_sustained_because);
    if ((all->broken || all->lost) && !step->interrupted)
        printf("%12s BROKEN: %lld accepted and never decided, %lld sent and never answered\n", "",
               (long long)all->broken, (long long)all->lost);
    if (all->refused || all->rejected || all->cancelled || all->dropped || all->mails_missing)
        printf("%12s %lld refused, %lld rejected, %lld cancelled, %lld not sent, %lld mails missing\n", "",
               (long long)all->refused, (long long)all->rejected, (long long)all->cancelled,
               (long long)all->dropped, (long long)all->mails_missing);
    if (step->behind.behind || step->behind.waited || step->resent)
        printf("%12s the generator was behind %llu times, by %.1f ms at most; %llu orders waited for a "
               "connection, %.1f ms at most; "
               "%llu sent again\n",
               "", (unsigned long long)step->behind.behind, (double)step->behind.own->max_us / 1000,
               (unsigned long long)step->behind.waited, (double)step->behind.waited_max_us / 1000,
               (unsigned long long)step->resent);
}

void bench_report_rows(const struct bench_step *step, const struct bench_processes *processes)
{
    put_row(step, STAGE_ACCEPTED);
    put_row(step, STAGE_DECIDED);
    if (step->latency[STAGE_MAILED]->total)
        put_row(step, STAGE_MAILED);
    for (size_t i = 0; i < processes->name_count; i++)
        printf("%*s%s %.2f s", i ? 2 : 17, i ? ", " : "CPU: ", processes->names[i],
               (double)step->used[i].cpu_us / 1e6);
    printf("%sgenerator %.1f us an order\n", processes->name_count ? ", " : "            CPU: ",
           share(step->cpu_us, (int64_t)step->behind.sent));
    put_remarks(step);
    fflush(stdout);
}

/* ---- histograms */

enum outcome bench_report_hdr(const struct bench_step *step, const char *prefix, struct error *error)
{
    enum outcome outcome = OK;
    char path[PATH_BYTES_MAX];
    struct buffer text = buffer_of(HDR_TEXT_BYTES_MAX);
    for (int stage = 0; outcome == OK && stage < STAGE_COUNT; stage++) {
        if (!step->latency[stage]->total)
            continue;
        buffer_clear(&text);
        hdr_write_text(step->latency[stage], &text);
        snprintf(path, sizeof(path), "%s.%d.%s.hgrm", prefix, step->number, stage_names[stage]);
        FILE *file = fopen(path, "we");
        bool written = file && !text.failed && fwrite(text.at, 1, text.length, file) == text.length;
        if (file && fclose(file) != 0)
            written = false;
        if (!written)
            outcome = error_outage(error, "file", "%s cannot be written: %s", path, strerror(errno));
    }
    buffer_free(&text);
    return outcome;
}
