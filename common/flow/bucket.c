#include "flow/bucket.h"

enum { ATTEMPT = 1000000 };
__extension__ typedef __int128 wide;

static int64_t burst_micro(const struct bucket *bucket)
{
    wide tenth_of_a_minute = (wide)bucket->rate_per_hour * ATTEMPT / 600;
    wide burst = tenth_of_a_minute * (wide)bucket->share / (wide)bucket->parts;
    return burst > ATTEMPT ? (int64_t)burst : ATTEMPT;
}

void bucket_init(struct bucket *bucket, int64_t rate_per_hour, int64_t now_us)
{
    *bucket = (struct bucket){.rate_per_hour = rate_per_hour, .share = 1, .parts = 1, .at_us = now_us};
    bucket->micro = burst_micro(bucket);
}

void bucket_fill(struct bucket *bucket, int64_t now_us)
{
    const int64_t hour_us = INT64_C(3600000000);
    int64_t passed_us = now_us - bucket->at_us;
    if (bucket->rate_per_hour == 0)
        return;
    if (passed_us < 0)
        passed_us = 0;
    if (passed_us > hour_us)
        passed_us = hour_us;
    wide gain = (wide)bucket->rate_per_hour * (wide)bucket->share * (wide)passed_us + (wide)bucket->rest;
    wide divisor = (wide)bucket->parts * 3600;
    int64_t burst = burst_micro(bucket), room = bucket->micro < burst ? burst - bucket->micro : 0;
    bucket->micro += gain / divisor < (wide)room ? (int64_t)(gain / divisor) : room;
    bucket->rest = (int64_t)(gain % divisor);
    bucket->at_us = now_us;
}

void bucket_share(struct bucket *bucket, int64_t share, int64_t parts, int64_t now_us)
{
    if (share == bucket->share && parts == bucket->parts)
        return;
    bucket_fill(bucket, now_us);
    bucket->share = share;
    bucket->parts = parts;
    bucket->rest = 0;
    if (bucket->micro > burst_micro(bucket))
        bucket->micro = burst_micro(bucket);
}

void bucket_spend_burst(struct bucket *bucket)
{
    if (bucket->micro > ATTEMPT)
        bucket->micro = ATTEMPT;
}

int64_t bucket_when_us(const struct bucket *bucket, int64_t now_us)
{
    if (bucket->rate_per_hour == 0 || bucket->micro >= ATTEMPT)
        return now_us;
    if (bucket->share == 0)
        return INT64_MAX;
    wide wait_us = (wide)(ATTEMPT - bucket->micro) * 3600 * (wide)bucket->parts /
                   ((wide)bucket->rate_per_hour * (wide)bucket->share);
    return now_us + (int64_t)wait_us + 1;
}

void bucket_take(struct bucket *bucket)
{
    if (bucket->rate_per_hour)
        bucket->micro -= ATTEMPT;
}
