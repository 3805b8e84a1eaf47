#include "base/hdr.h"

#include <math.h>
#include <stdlib.h>

enum {
    TICKS_A_HALF = 5, /* lines for each halving of what is left to 100 % */
    US_A_MS = 1000,
};

_Static_assert(((int64_t)HDR_SUB_BUCKETS << (HDR_BUCKETS - 1)) > HDR_US_MAX,
               "the last bucket holds the greatest value");
_Static_assert(((int64_t)HDR_SUB_BUCKETS << (HDR_BUCKETS - 2)) <= HDR_US_MAX,
               "there is no bucket without use");

struct hdr *hdr_new(void)
{
    return calloc(1, sizeof(struct hdr));
}

void hdr_clear(struct hdr *hdr)
{
    memset(hdr, 0, sizeof(*hdr));
}

/*
 * The first HDR_SUB_BUCKETS values have a slot each. Each bucket after that covers twice the range of the one
 * before in slots that are twice as wide; its lower half is what the buckets before cover, so that it brings
 * HDR_HALF new slots.
 */
size_t hdr_slot(int64_t us)
{
    uint64_t value = us < 0 ? 0 : us > HDR_US_MAX ? (uint64_t)HDR_US_MAX : (uint64_t)us;
    int bucket = 64 - __builtin_clzll(value | (HDR_SUB_BUCKETS - 1)) - __builtin_ctz(HDR_SUB_BUCKETS);
    return (size_t)bucket * HDR_HALF + (size_t)(value >> bucket);
}

static int slot_bucket(size_t slot)
{
    return slot < HDR_SUB_BUCKETS ? 0 : (int)(slot / HDR_HALF) - 1;
}

int64_t hdr_slot_low_us(size_t slot)
{
    int bucket = slot_bucket(slot);
    return (int64_t)(slot - (size_t)bucket * HDR_HALF) << bucket;
}

int64_t hdr_slot_high_us(size_t slot)
{
    return hdr_slot_low_us(slot) + (INT64_C(1) << slot_bucket(slot)) - 1;
}

void hdr_add(struct hdr *hdr, int64_t us)
{
    if (us < 0 || us > HDR_US_MAX) {
        hdr->clamped++;
        us = us < 0 ? 0 : HDR_US_MAX;
    }
    hdr->min_us = hdr->total == 0 || us < hdr->min_us ? us : hdr->min_us;
    hdr->max_us = us > hdr->max_us ? us : hdr->max_us;
    hdr->total++;
    hdr->count[hdr_slot(us)]++;
}

void hdr_merge(struct hdr *into, const struct hdr *from)
{
    if (from->total == 0)
        return;
    into->min_us = into->total == 0 || from->min_us < into->min_us ? from->min_us : into->min_us;
    into->max_us = from->max_us > into->max_us ? from->max_us : into->max_us;
    into->total += from->total;
    into->clamped += from->clamped;
    for (size_t slot = 0; slot < HDR_SLOTS; slot++)
        into->count[slot] += from->count[slot];
}

int64_t hdr_percentile_us(const struct hdr *hdr, double percent)
{
    if (hdr->total == 0)
        return -1;
    /* 99 % of 200 is 198, and not 199 because 0.99 is a little more in binary. */
    double wanted = nextafter(percent / 100, 0) * (double)hdr->total;
    uint64_t seen = 0, at = (uint64_t)ceil(wanted);
    at = at < 1 ? 1 : at > hdr->total ? hdr->total : at;
    size_t slot = 0;
    for (; slot < HDR_SLOTS - 1; slot++)
        if ((seen += hdr->count[slot]) >= at)
            break;
    int64_t high_us = hdr_slot_high_us(slot);
    return high_us < hdr->max_us ? high_us : hdr->max_us;
}

/* What stands for all values of a slot. */
static double slot_middle_us(size_t slot)
{
    return (double)(hdr_slot_low_us(slot) + ((INT64_C(1) << slot_bucket(slot)) >> 1));
}

double hdr_mean_us(const struct hdr *hdr)
{
    double sum = 0;
    for (size_t slot = 0; slot < HDR_SLOTS; slot++)
        if (hdr->count[slot])
            sum += (double)hdr->count[slot] * slot_middle_us(slot);
    return hdr->total ? sum / (double)hdr->total : 0;
}

double hdr_deviation_us(const struct hdr *hdr)
{
    double mean = hdr_mean_us(hdr), sum = 0;
    for (size_t slot = 0; slot < HDR_SLOTS; slot++)
        if (hdr->count[slot])
            sum += (double)hdr->count[slot] * (slot_middle_us(slot) - mean) * (slot_middle_us(slot) - mean);
    return hdr->total ? sqrt(sum / (double)hdr->total) : 0;
}

uint64_t hdr_count_above(const struct hdr *hdr, int64_t us)
{
    uint64_t above = 0;
    for (size_t slot = hdr_slot(us) + 1; slot < HDR_SLOTS; slot++)
        above += hdr->count[slot];
    return above;
}

/* ---- the text form */

static void write_line(struct buffer *into, int64_t us, double level, uint64_t seen)
{
    buffer_print(into, "%12.3f %2.12f %10llu", (double)us / US_A_MS, level / 100, (unsigned long long)seen);
    if (level < 100)
        buffer_print(into, " %14.2f", 1 / (1 - level / 100));
    buffer_add_char(into, '\n');
}

/* The next level after one: the closer to 100 %, the closer together. */
static double next_level(double level)
{
    double ticks = TICKS_A_HALF * exp2(floor(log2(100 / (100 - level))) + 1);
    return level + 100 / ticks;
}

void hdr_write_text(const struct hdr *hdr, struct buffer *into)
{
    uint64_t seen = 0;
    double level = 0;
    buffer_print(into, "%12s %14s %10s %14s\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    for (size_t slot = 0; slot < HDR_SLOTS && seen < hdr->total; slot++) {
        if (!hdr->count[slot])
            continue;
        seen += hdr->count[slot];
        /* Up to the last slot every level that it reaches is a line; there, the first of them and 100 %. */
        double reached = 100 * (double)seen / (double)hdr->total;
        for (bool more = true; more && level <= reached && level < 100; level = next_level(level)) {
            write_line(into, hdr_slot_high_us(slot), level, seen);
            more = seen < hdr->total;
        }
        if (seen == hdr->total)
            write_line(into, hdr_slot_high_us(slot), 100, seen);
    }
    buffer_print(into, "#[Mean    = %12.3f, StdDeviation   = %12.3f]\n", hdr_mean_us(hdr) / US_A_MS,
                 hdr_deviation_us(hdr) / US_A_MS);
    buffer_print(into, "#[Max     = %12.3f, Total count    = %12llu]\n",
                 hdr->total ? (double)hdr_slot_high_us(hdr_slot(hdr->max_us)) / US_A_MS : 0,
                 (unsigned long long)hdr->total);
    buffer_print(into, "#[Buckets = %12d, SubBuckets     = %12d]\n", HDR_BUCKETS, HDR_SUB_BUCKETS);
}
