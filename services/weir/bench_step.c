#include "bench_step.h"
#include "bench.h"
#include "cli.h"

#include "base/clock.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

enum {
    LEAD_US = 200000, /* between the schedule and its first order */
    SAMPLE_MS = 20,
    SLOW_US = 500000,          /* between two looks at what costs more: memory of processes, progress */
    MAILS_STILL_US = 10000000, /* no mail came for so long: none will */
    INTERRUPTED_US = 5000000,  /* so much of --settle is left then */
    CUT_SECONDS = 3,           /* a step is hopeless with orders of so long not decided */
    RETURN_US = 1000000,       /* after the load no more are outstanding than before the window, within */
    GROWN_US = 100000,         /* p99 of the last quarter over the first's: by a factor, and by so much */
    GROWN_FACTOR = 2,
    SUSTAINED_PERCENT = 97,
    NICE = -10,
};

/* What goes on in a step, by the thread that watches it. */
struct watch {
    struct bench_setup *setup;
    struct bench_step *step;
    struct bench_load load;
    struct bench_order *orders;
    pthread_t thread;
    atomic_bool sent_all; /* the sender has come back */
    int64_t window_begin_us, window_end_us, until_us;
    bool began, ended;
    int64_t slow_us;
    struct bench_usage at_begin[BENCH_PROCESSES_MAX];
};

/* ---- the sender's thread */

/* It uses little and must be on time, on a machine that the load itself keeps busy. Where it is not allowed
 * it is late more often, and that is counted. */
static void hurry(void)
{
    const struct sched_param least = {.sched_priority = sched_get_priority_min(SCHED_RR)};
    prctl(PR_SET_TIMERSLACK, 1);
    if (pthread_setschedparam(pthread_self(), SCHED_RR, &least) != 0)
        (void)setpriority(PRIO_PROCESS, 0, NICE); /* of this thread alone, on Linux */
}

static void *send_all(void *owner)
{
    struct watch *watch = owner;
    struct timespec cpu;
    hurry();
    if (watch->setup->http)
        bench_http_run(watch->setup->http, &watch->load);
    else
        bench_kafka_run(watch->setup->kafka, &watch->load);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
    watch->load.cpu_us = cpu.tv_sec * INT64_C(1000000) + cpu.tv_nsec / 1000;
    atomic_store(&watch->sent_all, true);
    return NULL;
}

/* ---- while it goes on */

static void look_at_processes(struct watch *watch, struct bench_usage used[BENCH_PROCESSES_MAX])
{
    bench_processes_usage(watch->setup->processes, used);
    for (size_t i = 0; i < watch->setup->processes->name_count; i++)
        if (used[i].rss_bytes > watch->step->rss_max_bytes[i])
            watch->step->rss_max_bytes[i] = used[i].rss_bytes;
}

static void end_window(struct watch *watch, int64_t outstanding)
{
    struct bench_usage *used = watch->step->used;
    look_at_processes(watch, used);
    for (size_t i = 0; i < watch->setup->processes->name_count; i++) {
        used[i].cpu_us -= watch->at_begin[i].cpu_us;
        used[i].read_bytes -= watch->at_begin[i].read_bytes;
        used[i].written_bytes -= watch->at_begin[i].written_bytes;
    }
    watch->step->outstanding_end = outstanding;
    watch->ended = true;
}

static void look_now_and_then(struct watch *watch, int64_t now_us, int64_t outstanding)
{
    struct bench_usage used[BENCH_PROCESSES_MAX];
    if (now_us - watch->slow_us < SLOW_US)
        return;
    watch->slow_us = now_us;
    if (watch->began && !watch->ended)
        look_at_processes(watch, used);
    if (watch->setup->progress) {
        struct bench_counts counts = bench_track_counts(watch->setup->track);
        int64_t left_us = watch->window_end_us - now_us;
        watch->setup->progress(watch->setup->progress_owner, &counts, outstanding, left_us > 0 ? left_us : 0);
    }
}

/* Orders that are due and not decided, those that found no connection among them. */
static bool is_hopeless(const struct watch *watch, int64_t now_us)
{
    struct bench_counts counts = bench_track_counts(watch->setup->track);
    double due = watch->step->rate * (double)(now_us - watch->load.begun_us) / 1e6;
    if (due > (double)watch->load.count)
        due = (double)watch->load.count;
    return due - (double)(counts.decided + counts.refused + counts.dropped) >
           watch->step->rate * CUT_SECONDS + 100;
}

static bool is_settled(struct watch *watch, int64_t now_us, int64_t outstanding)
{
    struct bench_counts counts = bench_track_counts(watch->setup->track);
    if (!atomic_load(&watch->sent_all) || outstanding > 0)
        return false;
    int64_t still_us =
        now_us - (counts.last_mail_us > watch->window_end_us ? counts.last_mail_us : watch->window_end_us);
    return !watch->setup->mails || counts.mailed >= counts.confirmed || still_us > MAILS_STILL_US;
}

static void interrupt(struct watch *watch, int64_t now_us)
{
    watch->step->interrupted = true;
    atomic_store(&watch->load.cut, true);
    if (watch->until_us > now_us + INTERRUPTED_US)
        watch->until_us = now_us + INTERRUPTED_US;
    atomic_store(&watch->load.give_up_us, watch->until_us);
}

/* One look. False: it is over. */
static bool look(struct watch *watch)
{
    struct bench_step *step = watch->step;
    int64_t outstanding = bench_track_outstanding(watch->setup->track), now_us = clock_monotonic_us();
    if (!watch->began && now_us >= watch->window_begin_us) {
        look_at_processes(watch, watch->at_begin);
        step->outstanding_begin = outstanding;
        watch->began = true;
    }
    if (!watch->ended && now_us >= watch->window_end_us)
        end_window(watch, outstanding);
    if (outstanding > step->outstanding_max)
        step->outstanding_max = outstanding;
    if (watch->ended && step->returned_us < 0 && outstanding <= step->outstanding_begin)
        step->returned_us = now_us - watch->window_end_us;
    look_now_and_then(watch, now_us, outstanding);
    if (watch->setup->cut_short && !atomic_load(&watch->load.cut) && is_hopeless(watch, now_us)) {
        atomic_store(&watch->load.cut, true);
        snprintf(step->not_sustained_because, sizeof(step->not_sustained_because),
                 "orders of %d s and more were not decided: cut short", CUT_SECONDS);
    }
    if (cli_interrupted() && !step->interrupted)
        interrupt(watch, now_us);
    bool over = is_settled(watch, now_us, outstanding) && (watch->ended || atomic_load(&watch->load.cut));
    return !over && now_us < watch->until_us;
}

/* ---- what came of it */

static uint32_t get(const _Atomic uint32_t *at)
{
    return atomic_load_explicit(at, memory_order_relaxed);
}

static void count_order(struct bench_tally *tally, const struct bench_order *order)
{
    bool sent = get(&order->sent_us), accepted = get(&order->accepted_us), decided = get(&order->decided_us);
    uint8_t decision = atomic_load_explicit(&order->decision, memory_order_relaxed);
    bool refused = atomic_load_explicit(&order->refused, memory_order_relaxed),
         mailed = get(&order->mailed_us);
    tally->offered++;
    tally->sent += sent;
    tally->dropped += !sent;
    tally->accepted += accepted;
    tally->refused += refused;
    tally->decided += decided;
    tally->confirmed += decision == BENCH_CONFIRMED;
    tally->rejected += decision == BENCH_REJECTED;
    tally->cancelled += decision == BENCH_CANCELLED;
    tally->mailed += mailed;
    tally->mails_missing += decision == BENCH_CONFIRMED && !mailed;
    tally->broken += accepted && !decided;
    tally->lost += sent && !accepted && !refused;
    tally->placed_seen += atomic_load_explicit(&order->placed_seen, memory_order_relaxed);
}

/* Microseconds since the step's begin at which it happened; -1: it did not. */
static int64_t when(const struct bench_order *order, const _Atomic uint32_t *field)
{
    uint32_t us = get(field);
    return us ? order->due_us + us - 1 : -1;
}

struct within {
    int64_t accepted, decided, confirmed, mailed;
};

static void count_within(const struct watch *watch, const struct bench_order *order, struct within *within)
{
    int64_t from_us = watch->setup->warmup_us, to_us = from_us + watch->setup->duration_us;
#define WITHIN(field) (when(order, &order->field) >= from_us && when(order, &order->field) < to_us)
    bool confirmed = atomic_load_explicit(&order->decision, memory_order_relaxed) == BENCH_CONFIRMED;
    within->accepted += WITHIN(accepted_us);
    within->decided += WITHIN(decided_us);
    within->confirmed += confirmed && WITHIN(decided_us);
    within->mailed += WITHIN(mailed_us);
#undef WITHIN
}

static void add_latency(struct bench_step *step, const struct bench_order *order, struct hdr *quarter)
{
    bool confirmed = atomic_load_explicit(&order->decision, memory_order_relaxed) == BENCH_CONFIRMED;
    uint32_t accepted = get(&order->accepted_us), decided = get(&order->decided_us),
             mailed = get(&order->mailed_us);
    if (accepted)
        hdr_add(step->latency[STAGE_ACCEPTED], accepted - 1);
    if (mailed)
        hdr_add(step->latency[STAGE_MAILED], mailed - 1);
    if (!decided)
        return;
    hdr_add(step->latency[STAGE_DECIDED], decided - 1);
    hdr_add(quarter, decided - 1);
    if (confirmed)
        hdr_add(step->latency[STAGE_CONFIRMED], decided - 1);
}

/* Orders are in the order of their due times, and so are the quarters. */
static enum outcome compute_latency(struct watch *watch, struct error *error)
{
    struct bench_step *step = watch->step;
    int64_t from_us = watch->setup->warmup_us, length_us = watch->setup->duration_us;
    struct within within = {0};
    struct hdr *quarter = hdr_new();
    if (!quarter)
        return error_fatal(error, "memory", "out of memory");
    int at = 0;
    for (size_t i = 0; i < watch->load.count; i++) {
        const struct bench_order *order = &watch->orders[i];
        count_order(&step->all, order);
        count_within(watch, order, &within);
        if (order->due_us < from_us)
            continue;
        count_order(&step->window, order);
        int now = (int)((order->due_us - from_us) * BENCH_QUARTERS / length_us);
        for (; at < now; at++) {
            step->quarter_p99_us[at] = hdr_percentile_us(quarter, 99);
            hdr_clear(quarter);
        }
        add_latency(step, order, quarter);
    }
    for (; at < BENCH_QUARTERS; at++) {
        step->quarter_p99_us[at] = hdr_percentile_us(quarter, 99);
        hdr_clear(quarter);
    }
    double seconds = (double)length_us / 1e6;
    step->offered_rate = (double)step->window.offered / seconds;
    step->accepted_rate = (double)within.accepted / seconds;
    step->decided_rate = (double)within.decided / seconds;
    step->confirmed_rate = (double)within.confirmed / seconds;
    step->mailed_rate = (double)within.mailed / seconds;
    step->decided_within = within.decided;
    free(quarter);
    return OK;
}

static void count_in(struct bench_step *step, int64_t at_us, int64_t *first_count)
{
    size_t second = at_us < 0 ? SIZE_MAX : (size_t)(at_us / 1000000);
    if (second < step->timeline_count)
        *(int64_t *)((char *)first_count + second * sizeof(struct bench_second)) += 1;
}

static size_t timeline_length(const struct watch *watch)
{
    int64_t last_us = 0;
    for (size_t i = 0; i < watch->load.count; i++) {
        const struct bench_order *order = &watch->orders[i];
        const _Atomic uint32_t *const fields[] = {&order->sent_us, &order->accepted_us, &order->decided_us,
                                                  &order->mailed_us};
        for (size_t k = 0; k < 4; k++)
            if (when(order, fields[k]) > last_us)
                last_us = when(order, fields[k]);
    }
    size_t seconds = (size_t)(last_us / 1000000) + 1;
    return seconds < BENCH_TIMELINE_MAX ? seconds : BENCH_TIMELINE_MAX;
}

/* Orders by the second in which they were decided: starts[s] to starts[s + 1] of the result. NULL: out of
 * memory. */
static uint32_t *sort_by_decision(const struct watch *watch, size_t *starts)
{
    const struct bench_step *step = watch->step;
    uint32_t *sorted = malloc((watch->load.count + 1) * sizeof(*sorted));
    size_t at = 0;
    for (size_t second = 0; second < step->timeline_count; second++) {
        starts[second] = at;
        at += (size_t)step->timeline[second].decided;
    }
    starts[step->timeline_count] = at;
    size_t *next = malloc((step->timeline_count + 1) * sizeof(*next));
    if (sorted && next) {
        memcpy(next, starts, (step->timeline_count + 1) * sizeof(*next));
        for (size_t i = 0; i < watch->load.count; i++) {
            int64_t at_us = when(&watch->orders[i], &watch->orders[i].decided_us);
            if (at_us >= 0 && (size_t)(at_us / 1000000) < step->timeline_count)
                sorted[next[at_us / 1000000]++] = (uint32_t)i;
        }
    } else {
        free(sorted);
        sorted = NULL;
    }
    free(next);
    return sorted;
}

static void count_seconds(struct watch *watch)
{
    struct bench_step *step = watch->step;
    struct bench_second *first = step->timeline;
    int64_t outstanding = 0;
    for (size_t i = 0; i < watch->load.count; i++) {
        const struct bench_order *order = &watch->orders[i];
        bool confirmed = atomic_load_explicit(&order->decision, memory_order_relaxed) == BENCH_CONFIRMED;
        count_in(step, when(order, &order->sent_us), &first->sent);
        count_in(step, when(order, &order->accepted_us), &first->accepted);
        count_in(step, when(order, &order->decided_us), &first->decided);
        count_in(step, confirmed ? when(order, &order->decided_us) : -1, &first->confirmed);
        count_in(step, when(order, &order->mailed_us), &first->mailed);
        /* When a refusal came is not kept: it is as if it had come at once. */
        if (atomic_load_explicit(&order->refused, memory_order_relaxed) && when(order, &order->sent_us) >= 0)
            count_in(step, when(order, &order->sent_us), &first->outstanding);
    }
    for (size_t second = 0; second < step->timeline_count; second++) {
        struct bench_second *at = &step->timeline[second];
        outstanding += at->sent - at->decided - at->outstanding;
        at->outstanding = outstanding;
    }
}

static enum outcome compute_timeline(struct watch *watch, struct error *error)
{
    struct bench_step *step = watch->step;
    step->timeline_count = timeline_length(watch);
    step->timeline = calloc(step->timeline_count, sizeof(*step->timeline));
    size_t *starts = calloc(step->timeline_count + 1, sizeof(*starts));
    struct hdr *hdr = hdr_new();
    uint32_t *sorted = NULL;
    if (step->timeline && starts && hdr) {
        count_seconds(watch);
        sorted = sort_by_decision(watch, starts);
    }
    for (size_t second = 0; sorted && second < step->timeline_count; second++) {
        hdr_clear(hdr);
        for (size_t i = starts[second]; i < starts[second + 1]; i++)
            hdr_add(hdr, get(&watch->orders[sorted[i]].decided_us) - 1);
        step->timeline[second].p50_us = hdr_percentile_us(hdr, 50);
        step->timeline[second].p99_us = hdr_percentile_us(hdr, 99);
        step->timeline[second].max_us = hdr_percentile_us(hdr, 100);
    }
    bool done = sorted != NULL;
    free(sorted);
    free(starts);
    free(hdr);
    return done ? OK : error_fatal(error, "memory", "out of memory");
}

#define BECAUSE(into, ...) snprintf((into), sizeof(into), __VA_ARGS__)

static void judge_valid(struct bench_step *step)
{
    if (step->interrupted)
        BECAUSE(step->invalid_because, "interrupted");
    else if (bench_behind_bottleneck(&step->behind))
        BECAUSE(step->invalid_because,
                "the generator was the bottleneck: %llu of %llu orders left more than %d ms late",
                (unsigned long long)step->behind.late, (unsigned long long)step->behind.sent,
                BENCH_LATE_US / 1000);
    else if (step->reader_behind_us > BENCH_READER_BEHIND_US)
        BECAUSE(step->invalid_because, "the reader of the topics was up to %lld ms behind",
                (long long)step->reader_behind_us / 1000);
    else if (step->window.dropped && !step->not_sustained_because[0])
        BECAUSE(step->invalid_because, "%lld orders were not sent: too many were outstanding",
                (long long)step->window.dropped);
    step->valid = !step->invalid_because[0];
}

static void judge_sustained(struct bench_step *step)
{
    int64_t first_us = step->quarter_p99_us[0], last_us = step->quarter_p99_us[BENCH_QUARTERS - 1];
    if (step->not_sustained_because[0])
        return; /* cut short */
    if (!step->valid)
        BECAUSE(step->not_sustained_because, "the step is not valid");
    else if (step->decided_rate * 100 < step->offered_rate * SUSTAINED_PERCENT)
        BECAUSE(step->not_sustained_because, "%.1f of %.1f orders/s were decided", step->decided_rate,
                step->offered_rate);
    else if (last_us > first_us * GROWN_FACTOR && last_us - first_us > GROWN_US)
        BECAUSE(step->not_sustained_because, "p99 grew from %lld to %lld ms within the window",
                (long long)first_us / 1000, (long long)last_us / 1000);
    else if (step->returned_us < 0 || step->returned_us > RETURN_US)
        BECAUSE(step->not_sustained_because,
                "%lld were outstanding at its end, and not %lld again within %d ms",
                (long long)step->outstanding_end, (long long)step->outstanding_begin, RETURN_US / 1000);
    else if (step->all.broken)
        BECAUSE(step->not_sustained_because, "%lld orders were never decided", (long long)step->all.broken);
    step->sustained = !step->not_sustained_because[0];
}

static enum outcome compute(struct watch *watch, struct error *error)
{
    struct bench_step *step = watch->step;
    struct bench_counts counts = bench_track_counts(watch->setup->track);
    step->placed_again = counts.placed_again;
    step->decided_again = counts.decided_again;
    step->records = counts.records;
    step->reader_behind_us = bench_track_behind_max_us(watch->setup->track);
    step->behind = watch->load.behind;
    step->resent = watch->load.resent;
    step->cpu_us = watch->load.cpu_us;
    enum outcome outcome = compute_latency(watch, error);
    if (outcome == OK)
        outcome = compute_timeline(watch, error);
    if (!watch->setup->mails)
        step->window.mails_missing = step->all.mails_missing = 0; /* nobody waited for them */
    judge_valid(step);
    judge_sustained(step);
    return outcome;
}

/* ---- a step */

static enum outcome step_new(const struct bench_setup *setup, int number, double rate,
                             struct bench_step **ret, struct error *error)
{
    struct bench_step *step = calloc(1, sizeof(*step));
    bool whole = step && (step->behind.own = hdr_new());
    for (int stage = 0; whole && stage < STAGE_COUNT; stage++)
        whole = (step->latency[stage] = hdr_new()) != NULL;
    if (!whole) {
        bench_step_free(step);
        return error_fatal(error, "memory", "out of memory");
    }
    step->number = number;
    step->rate = rate;
    step->window_us = setup->duration_us;
    step->returned_us = -1;
    *ret = step;
    return OK;
}

void bench_step_free(struct bench_step *step)
{
    if (!step)
        return;
    for (int stage = 0; stage < STAGE_COUNT; stage++)
        free(step->latency[stage]);
    free(step->behind.own);
    free(step->timeline);
    free(step);
}

static enum outcome draw_orders(struct watch *watch, struct error *error)
{
    const struct bench_setup *setup = watch->setup;
    uint64_t seed = setup->seed + (uint64_t)watch->step->number;
    int64_t *due_us = NULL;
    enum outcome outcome =
        bench_schedule_draw(setup->arrivals, watch->step->rate, setup->warmup_us + setup->duration_us, seed,
                            &due_us, &watch->load.count, error);
    if (outcome != OK)
        return outcome;
    watch->orders = calloc(watch->load.count + 1, sizeof(*watch->orders));
    for (size_t i = 0; watch->orders && i < watch->load.count; i++)
        watch->orders[i].due_us = due_us[i];
    free(due_us);
    return watch->orders ? OK : error_fatal(error, "memory", "out of memory");
}

static enum outcome start_sender(struct watch *watch, struct error *error)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failure = pthread_create(&watch->thread, NULL, send_all, watch);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failure ? error_fatal(error, "thread", "a thread cannot be started") : OK;
}

/* Kafka's clients end for good only where nothing can be done: no figure then. */
static enum outcome check_clients(const struct bench_setup *setup, struct error *error)
{
    const struct error *failed = bench_track_failed(setup->track);
    if (!failed && setup->kafka)
        failed = bench_kafka_failed(setup->kafka);
    if (failed)
        *error = *failed;
    return failed ? failed->outcome : OK;
}

static void begin(struct watch *watch)
{
    struct bench_setup *setup = watch->setup;
    int64_t begun_us = clock_monotonic_us() + LEAD_US;
    watch->window_begin_us = begun_us + setup->warmup_us;
    watch->window_end_us = watch->window_begin_us + setup->duration_us;
    watch->until_us = watch->window_end_us + setup->settle_us;
    watch->step->begun_wall_us = clock_wall_us() + LEAD_US;
    watch->load.track = setup->track;
    watch->load.orders = watch->orders;
    watch->load.first = setup->next_number;
    watch->load.begun_us = begun_us;
    watch->load.begun_wall_us = watch->step->begun_wall_us;
    watch->load.outstanding_max = setup->outstanding_max;
    watch->load.give_up_us = watch->until_us;
    watch->load.behind.own = watch->step->behind.own;
    watch->load.cart = (struct bench_cart){
        .random = bench_random_of(setup->seed + (uint64_t)watch->step->number, 1),
        .run = setup->run,
        .goods = setup->goods,
        .goods_count = setup->goods_count,
    };
    setup->next_number += (uint32_t)watch->load.count;
    bench_track_begin(setup->track, watch->orders, watch->load.count, watch->load.first, begun_us);
}

enum outcome bench_step_run(struct bench_setup *setup, int number, double rate, struct bench_step **ret,
                            struct error *error)
{
    struct watch watch = {.setup = setup};
    enum outcome outcome = step_new(setup, number, rate, &watch.step, error);
    if (outcome == OK)
        outcome = draw_orders(&watch, error);
    if (outcome == OK) {
        begin(&watch);
        outcome = start_sender(&watch, error);
        if (outcome == OK) {
            while (outcome == OK && look(&watch)) {
                outcome = check_clients(setup, error);
                poll(NULL, 0, SAMPLE_MS); /* a signal ends it early */
            }
            if (watch.began && !watch.ended)
                end_window(&watch, bench_track_outstanding(setup->track)); /* cut short */
            atomic_store(&watch.load.give_up_us, 0);
            pthread_join(watch.thread, NULL);
        }
        bench_track_end(setup->track);
    }
    if (outcome == OK)
        outcome = compute(&watch, error);
    free(watch.orders);
    if (outcome == OK)
        *ret = watch.step;
    else
        bench_step_free(watch.step);
    return outcome;
}
