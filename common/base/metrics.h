/*
 * metrics: counters, gauges and histograms in the Prometheus text format 0.0.4.
 *
 * A family is declared once in a table (the same table gives the docs); its series are made at start,
 * so that every series is there from the start, at 0. Making series is for one thread, before the
 * others start, or under the registry's lock for those whose labels are learnt later (partitions).
 * Adding and setting: any thread, lock-free.
 */
#ifndef BASE_METRICS_H
#define BASE_METRICS_H

#include "base/text.h"

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

struct metric_family {
    const char *name;   /* "weir_events_total"               */
    enum metric_kind kind;
    const char *labels; /* "topic,outcome"; "" for none      */
    const char *help;
    const double *bounds; /* histograms: ascending, ended by 0 */
};
extern const double metric_seconds_bounds[]; /* 0.0001 to 10 s */

struct metric; /* one series; lives until metrics_destroy() */
struct metrics;

struct metrics *metrics_new(void);
void metrics_destroy(struct metrics *metrics);
/* The series of these label values, in the order of family->labels; made when new. Any thread (takes
 * a lock: keep the pointer). NULL when out of memory or past METRICS_SERIES_MAX. */
struct metric *metrics_get(struct metrics *metrics, const struct metric_family *family, ...)
    __attribute__((sentinel)); /* const char * values, then NULL */
/* Takes a series out of the page (a partition that was taken away). */
void metrics_drop(struct metrics *metrics, struct metric *metric);
/* All accept NULL. */
void metric_add(struct metric *metric, int64_t by);
void metric_set(struct metric *metric, double value);
void metric_observe(struct metric *metric, double value);
double metric_value(const struct metric *metric);

/* Called before each page is written, to set gauges that are looked up rather than kept. At most
 * METRICS_COLLECTORS_MAX. */
void metrics_on_collect(struct metrics *metrics, void (*collect)(void *owner), void *owner);
/* The whole page, with process_* metrics at its end. */
void metrics_write(struct metrics *metrics, struct buffer *into);

enum { METRICS_SERIES_MAX = 4096, METRICS_COLLECTORS_MAX = 8 };

#endif
