/*
 * hdr: a histogram of durations with three significant digits over its whole range, 1 µs to 1 h, in memory
 * that does not grow: log-linear, as Gil Tene's HdrHistogram with the same bounds, so that slots, percentiles
 * and the text form are the same.
 *
 * A value is kept within one part in a thousand. What is below 0 counts as 0, what is above HDR_US_MAX as
 * HDR_US_MAX (.clamped says how many did). One thread at a time; histograms of several threads are added up
 * with hdr_merge().
 */
#ifndef BASE_HDR_H
#define BASE_HDR_H

#include "base/text.h"

#define HDR_US_MAX INT64_C(3600000000)

enum {
    HDR_DIGITS = 3,
    HDR_SUB_BUCKETS = 2048, /* the least power of two that holds 2 * 10^HDR_DIGITS */
    HDR_HALF = HDR_SUB_BUCKETS / 2,
    HDR_BUCKETS = 22, /* until HDR_SUB_BUCKETS << (HDR_BUCKETS - 1) is past HDR_US_MAX */
    HDR_SLOTS = (HDR_BUCKETS + 1) * HDR_HALF,
};

struct hdr {
    uint64_t total, clamped;
    int64_t min_us, max_us; /* as given; 0 while there are none */
    uint64_t count[HDR_SLOTS];
};

/* 190 kB, zeroed. NULL when out of memory; released by free(). */
struct hdr *hdr_new(void);
void hdr_clear(struct hdr *hdr);
void hdr_add(struct hdr *hdr, int64_t us);
void hdr_merge(struct hdr *into, const struct hdr *from);

/* The slot of a value, and the least and the greatest value that share it. */
size_t hdr_slot(int64_t us);
int64_t hdr_slot_low_us(size_t slot);
int64_t hdr_slot_high_us(size_t slot);

/* The greatest value that is alike for the histogram with the one at or below which so many per cent are;
 * never above .max_us. -1 while there are none. */
int64_t hdr_percentile_us(const struct hdr *hdr, double percent);
double hdr_mean_us(const struct hdr *hdr);                   /* 0 while there are none */
double hdr_deviation_us(const struct hdr *hdr);              /* standard deviation, likewise */
uint64_t hdr_count_above(const struct hdr *hdr, int64_t us); /* in slots that lie wholly above */

/* The percentile distribution as HdrHistogram's outputPercentileDistribution() writes it with five ticks a
 * half distance, values in milliseconds: what its plotter reads. */
void hdr_write_text(const struct hdr *hdr, struct buffer *into);

#endif
