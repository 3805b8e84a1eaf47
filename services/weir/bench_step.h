/*
 * bench_step: one rate, from its first order to the last answer, and what it came to. What its numbers mean:
 * bench.h.
 */
#ifndef WEIR_BENCH_STEP_H
#define WEIR_BENCH_STEP_H

#include "bench_load.h"
#include "bench_process.h"

enum { BENCH_QUARTERS = 4, BENCH_REASON_BYTES_MAX = 160 };
enum bench_stage { STAGE_ACCEPTED, STAGE_DECIDED, STAGE_CONFIRMED, STAGE_MAILED, STAGE_COUNT };

/* What all steps of a run share. */
struct bench_setup {
    struct bench_track *track;
    struct bench_http *http; /* one of the two is NULL */
    struct bench_kafka *kafka;
    uint64_t run, seed;
    uint32_t next_number; /* of the next order; every step counts on */
    const struct text *goods;
    size_t goods_count;
    enum bench_arrivals arrivals;
    int64_t warmup_us, duration_us, settle_us, outstanding_max;
    bool mails;     /* are waited for */
    bool cut_short; /* a step that is hopeless ends early */
    const struct bench_processes *processes;
    /* About twice a second while the step goes on; left_us: of its load. May be NULL. */
    void (*progress)(void *owner, const struct bench_counts *counts, int64_t outstanding, int64_t left_us);
    void *progress_owner;
};

struct bench_tally {
    int64_t offered, sent, dropped, accepted, refused, decided, confirmed, rejected, cancelled, mailed,
        mails_missing, broken, lost, placed_seen;
};

struct bench_second {
    int64_t sent, accepted, decided, confirmed, mailed, outstanding, p50_us, p99_us,
        max_us; /* -1: none were decided */
};

struct bench_step {
    int number;
    double rate;
    int64_t begun_wall_us, window_us;
    bool valid, sustained, interrupted;
    char invalid_because[BENCH_REASON_BYTES_MAX], not_sustained_because[BENCH_REASON_BYTES_MAX];
    struct bench_tally window, all;
    int64_t placed_again, decided_again;
    double offered_rate, accepted_rate, decided_rate, confirmed_rate, mailed_rate;
    int64_t decided_within;                                                   /* the window */
    int64_t outstanding_begin, outstanding_end, outstanding_max, returned_us; /* returned: -1 never */
    struct bench_behind behind;
    int64_t cpu_us; /* the generator's thread */
    uint64_t resent;
    int64_t records, reader_behind_us;
    struct hdr *latency[STAGE_COUNT];
    int64_t quarter_p99_us[BENCH_QUARTERS];
    struct bench_usage used[BENCH_PROCESSES_MAX]; /* within the window; rss: at its end */
    int64_t rss_max_bytes[BENCH_PROCESSES_MAX];
    struct bench_second *timeline;
    size_t timeline_count;
};

/* OK also for a step that was interrupted or came to nothing good; then it says so. REJECT for a rate that is
 * too high for its length, OUTAGE where Kafka's producer or reader fails for good. */
MUST_CHECK enum outcome bench_step_run(struct bench_setup *setup, int number, double rate,
                                       struct bench_step **ret, struct error *error);
void bench_step_free(struct bench_step *step); /* accepts NULL */

#endif
