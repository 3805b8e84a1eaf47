/*
 * analytics: what happened, counted in the windows of its own time.
 *
 * Every figure is a sum over facts that are each counted once: an order by its id, a payment by order and
 * payment id, a customer by day. A fact goes into the window of the time that its event names (placed_at,
 * captured_at, …), however late it comes. What needs two facts (a sale: the items of OrderPlaced and the fact
 * of OrderConfirmed; the time between two steps) is counted when the later of the two arrives. So the figures
 * do not depend on the order in which topics are read, and a recount from their beginning gives the same
 * ones.
 */
#ifndef ANALYTICS_ANALYTICS_H
#define ANALYTICS_ANALYTICS_H

#include "service/service.h"

#include <pthread.h>
#include <stdatomic.h>

/* Days since 1970-01-01, UTC. Each table of windows has one more, of all days together. */
enum { DAY_ALL = -1 };
#define DAY_US (INT64_C(86400) * 1000000)

struct fact_row {
    struct text order_id;
    int64_t placed_at; /* microseconds; 0: not known. Of the first event of its kind, here and below */
    int64_t reserved_at;
    int64_t captured_at;
    int64_t confirmed_at;
    int64_t final;        /* enum final: the first decision in the log */
    struct text currency; /* of a valid order */
    struct text items;    /* of a valid order (items.h) until it is decided */
    int64_t heard_at;     /* when the first of it was counted, by our clock */
};
enum final { FINAL_NONE, FINAL_CONFIRMED, FINAL_REJECTED, FINAL_CANCELLED };

struct payment_row {
    struct text order_id;
    struct text payment_id;
    int64_t captured; /* 1: counted */
    int64_t refunded;
    int64_t heard_at;
};

struct day_row {
    int64_t day;
    int64_t placed, reserved, captured; /* orders, by the time of that step */
    int64_t confirmed, rejected, cancelled;
    int64_t customers; /* that placed a valid order */
    int64_t emails_sent, emails_failed;
};

struct money_row {
    int64_t day;
    struct text currency;
    int64_t captured_minor, refunded_minor;
};

struct customer_row {
    int64_t day;
    struct text customer_id;
    int64_t orders;
};

struct sale_row {
    int64_t day; /* of the confirmation */
    struct text sku;
    struct text currency;
    int64_t units, revenue_minor;
};

struct duration_row {
    int64_t step;   /* enum step */
    int64_t bucket; /* duration_bucket() */
    int64_t count;
    int64_t total_us;
};
enum step { STEP_RESERVED, STEP_CAPTURED, STEP_CONFIRMED, STEP_WHOLE, STEP_COUNT };

struct job_row {
    struct text job_id;
    int64_t state; /* enum job_state */
    int64_t created_at;
    struct text kind;
    int64_t from_day, to_day;
    int64_t progress; /* 0 to 100 */
    int64_t attempts; /* begun */
    struct text reason;
    struct id holder; /* the instance that is at it while it is active; zeros: always alone */
};
enum job_state { JOB_WAITING, JOB_ACTIVE, JOB_COMPLETED, JOB_FAILED };

struct job_part_row {
    struct text job_id;
    int64_t format; /* enum report_format */
    int64_t part;
    struct text bytes;
};

extern const struct rows_table facts_table, payments_table, days_table, money_table, customers_table,
    sales_table, durations_table, jobs_table, job_parts_table;

/* ---- facts.c */
extern const struct subscription analytics_subscriptions[];
/* Eight buckets for each doubling of a duration, so that a percentile is right within 7 %. Pure. */
int64_t duration_bucket(int64_t us);
int64_t duration_bucket_middle_us(int64_t bucket);
/* Facts are in the sums: once an order is over they only tell what was counted already. */
enum outcome facts_on_prune(struct work *work, bool *ret_again, struct error *error); /* tick */

/* ---- figures.c */
enum { BEST_SELLERS_MAX = 10, CURRENCIES_MAX = 200, DURATION_BUCKETS_MAX = 512, LIVE_INTERVAL_MS = 1000 };
/* GET /v1/figures and the stream say the same. */
void figures_write(struct work *work, struct buffer *into);
enum outcome figures_show(struct work *work, const struct request *request, struct answer *answer,
                          struct error *error);
enum outcome figures_on_live(struct work *work, bool *ret_again, struct error *error); /* tick */

/* The last figures, for streams. */
struct live {
    pthread_mutex_t lock;
    struct buffer json;         /* under lock; empty until somebody watches */
    _Atomic int64_t watched_us; /* monotonic, when a stream last asked      */
};
void live_next(void *owner, struct buffer *into); /* for http_add_stream(); owner: struct live */

/* ---- period.c */
enum period_kind { PERIOD_DAILY, PERIOD_WEEKLY, PERIOD_MONTHLY, PERIOD_KINDS };
extern const char *const period_kind_names[PERIOD_KINDS];
bool period_kind_parse(struct text text, enum period_kind *ret);
struct period {
    char name[16]; /* 2026-11-21, 2026-W47 (ISO 8601), 2026-11 */
    int64_t from;  /* days, both included */
    int64_t to;
};
/* The period that day is in, cut to what lies between day and last_day. */
struct period period_at(enum period_kind kind, int64_t day, int64_t last_day);
int64_t period_count(enum period_kind kind, int64_t from_day, int64_t to_day);
bool day_parse(struct text text, int64_t *ret_day); /* YYYY-MM-DD from 1970 on */
enum { DAY_BYTES = 11 };
char *day_print(int64_t day, char into[DAY_BYTES]);

/* ---- report.c */
enum report_format { REPORT_JSON, REPORT_CSV, REPORT_FORMATS };
enum {
    REPORT_ROWS_MAX = 400,
    REPORT_JOB_ROWS_MAX = 10000,
    REPORT_BYTES_MAX = 4 << 20,
    REPORT_CURRENCIES_MAX = 200 /* as many as there are, and some; a report of more is refused */
};
struct report_range {
    enum period_kind kind;
    int64_t from_day, to_day; /* both included */
};
/* Adds a fault for each thing that is wrong. */
bool report_range_read(struct text from, struct text to, int64_t rows_max, struct report_range *range,
                       struct codec_faults *faults);
/*
 * Reads and writes a whole report, in each format whose buffer is given. progress is called with 0 to 100 and
 * gives false to end early (RETRY). REJECT: larger than a buffer.
 */
MUST_CHECK enum outcome report_write(struct store_reader *reader, const struct report_range *range,
                                     struct buffer *into[REPORT_FORMATS],
                                     bool (*progress)(void *owner, int percent), void *owner,
                                     struct error *error);
bool accepts_csv(const struct request *request);

/* Reports answered on the HTTP thread, over a connection of their own. */
struct report_desk {
    pthread_mutex_t lock;
    struct store_reader *reader; /* under lock */
};
struct report_page {
    struct report_desk *desk;
    enum period_kind kind;
};
void report_page_fill(void *owner, const struct request *request, struct answer *answer,
                      struct buffer *body); /* owner: struct report_page */

/* ---- jobs.c */
enum {
    JOBS_OPEN_MAX = 100, /* and one more for each instance that takes one at the same moment */
    JOBS_LOOK_MAX = 64,  /* active ones of other instances that are passed over: there are fewer instances */
    JOB_ATTEMPTS_MAX = 5,
    JOB_PART_BYTES = 256 << 10,
    JOB_PARTS_MAX = REPORT_BYTES_MAX / JOB_PART_BYTES + 1,
    JOB_KEPT_DAYS = 7,
};
/* One report at a time, on a thread of its own; the loop hands it over and takes the result. */
struct job_worker {
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    enum { WORKER_IDLE, WORKER_BUSY, WORKER_DONE } state; /* this and all below under lock */
    bool stop;
    char job_id[ID_TEXT_BYTES];
    struct report_range range;
    int progress;
    enum outcome outcome;
    struct error error;
    struct buffer result[REPORT_FORMATS];
    struct store_reader *reader;
};
MUST_CHECK enum outcome jobs_start(struct job_worker *worker, const char *database_url, struct error *error);
void jobs_stop(struct job_worker *worker);
struct job_row *job_find(struct work *work, struct text job_id);                    /* NULL: none */
enum outcome jobs_on_tick(struct work *work, bool *ret_again, struct error *error); /* tick */

/* ---- jobs_http.c */
enum outcome jobs_add(struct work *work, const struct request *request, struct answer *answer,
                      struct error *error);
enum outcome jobs_show(struct work *work, const struct request *request, struct answer *answer,
                       struct error *error);
enum outcome jobs_result(struct work *work, const struct request *request, struct answer *answer,
                         struct error *error);
void jobs_keys(struct work *work, const struct request *request);

struct analytics_state {
    struct live live;
    struct report_desk desk;
    struct report_page pages[PERIOD_KINDS];
    struct job_worker worker;
    struct prune prune_facts, prune_payments;
};

#endif
