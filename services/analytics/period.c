/* period: days, ISO weeks and months, as numbers of days since 1970-01-01. */
#include "analytics/analytics.h"

#include <stdio.h>

const char *const period_kind_names[PERIOD_KINDS] = {"daily", "weekly", "monthly"};

bool period_kind_parse(struct text text, enum period_kind *ret)
{
    for (int i = 0; i < PERIOD_KINDS; i++)
        if (text_is(text, period_kind_names[i])) {
            *ret = (enum period_kind)i;
            return true;
        }
    return false;
}

bool day_parse(struct text text, int64_t *ret_day)
{
    int64_t us;
    if (!clock_from_date(text, &us) || us < 0)
        return false;
    *ret_day = us / DAY_US;
    return true;
}

char *day_print(int64_t day, char into[DAY_BYTES])
{
    char time[CLOCK_RFC3339_BYTES_MAX];
    memcpy(into, clock_to_rfc3339(day * DAY_US, time), DAY_BYTES - 1);
    into[DAY_BYTES - 1] = '\0';
    return into;
}

/* The year's first day. */
static int64_t year_start(const char *date)
{
    char first[DAY_BYTES] = "0000-01-01";
    memcpy(first, date, 4);
    int64_t day = 0;
    (void)day_parse(text_of(first), &day); /* a printed date is one */
    return day;
}

/* A week belongs to the year that its Thursday is in (ISO 8601). 1970-01-01 was a Thursday. */
static int64_t weekday(int64_t day)
{
    return (day + 3) % 7; /* Monday: 0 */
}

static int64_t week_name(int64_t day, char *into, size_t bytes)
{
    char date[DAY_BYTES];
    int64_t monday = day - weekday(day), thursday = monday + 3;
    day_print(thursday, date);
    snprintf(into, bytes, "%.4s-W%02d", date, (int)((thursday - year_start(date)) / 7 + 1));
    return monday + 6;
}

static int64_t month_name(int64_t day, char *into, size_t bytes)
{
    char date[DAY_BYTES], other[DAY_BYTES];
    day_print(day, date);
    snprintf(into, bytes, "%.7s", date);
    int64_t last = day + 31 - ((date[8] - '0') * 10 + date[9] - '0'); /* the 31st, or past the end */
    while (memcmp(day_print(last, other), date, 7) != 0)
        last--;
    return last;
}

struct period period_at(enum period_kind kind, int64_t day, int64_t last_day)
{
    struct period period = {.from = day, .to = day};
    switch (kind) {
    case PERIOD_WEEKLY:
        period.to = week_name(day, period.name, sizeof(period.name));
        break;
    case PERIOD_MONTHLY:
        period.to = month_name(day, period.name, sizeof(period.name));
        break;
    case PERIOD_DAILY:
    case PERIOD_KINDS:
        day_print(day, period.name);
        break;
    }
    if (period.to > last_day)
        period.to = last_day;
    return period;
}

int64_t period_count(enum period_kind kind, int64_t from_day, int64_t to_day)
{
    int64_t count = 0;
    if (kind == PERIOD_DAILY)
        return to_day - from_day + 1;
    if (kind == PERIOD_WEEKLY)
        return (to_day - weekday(to_day) - (from_day - weekday(from_day))) / 7 + 1;
    for (int64_t day = from_day; day <= to_day; day = period_at(kind, day, to_day).to + 1)
        count++;
    return count;
}
