#include "base/clock.h"

#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

/*
 * The hand that tests move. One number stands for both clocks while held: the monotonic clock goes on
 * from where it stood, so that it never goes back; the wall keeps its distance to it.
 */
static atomic_bool clock_held;
static _Atomic int64_t held_monotonic_us;
static _Atomic int64_t held_wall_ahead_us; /* wall minus monotonic while held */
/* What advancing has put onto the true monotonic clock; stays after a release, see clock_release(). */
static _Atomic int64_t monotonic_ahead_us;

enum { US_PER_S = 1000000, S_PER_DAY = 86400 };

static int64_t read_us(clockid_t which)
{
    struct timespec now;
    clock_gettime(which, &now); /* cannot fail for the two that are asked for */
    return (int64_t)now.tv_sec * US_PER_S + now.tv_nsec / 1000;
}

int64_t clock_wall_us(void)
{
    if (atomic_load_explicit(&clock_held, memory_order_acquire))
        return atomic_load(&held_monotonic_us) + atomic_load(&held_wall_ahead_us);
    return read_us(CLOCK_REALTIME);
}

int64_t clock_monotonic_us(void)
{
    if (atomic_load_explicit(&clock_held, memory_order_acquire))
        return atomic_load(&held_monotonic_us);
    return read_us(CLOCK_MONOTONIC) + atomic_load_explicit(&monotonic_ahead_us, memory_order_relaxed);
}

void clock_hold(int64_t wall_us)
{
    int64_t now_us = clock_monotonic_us();
    atomic_store(&held_monotonic_us, now_us);
    atomic_store(&held_wall_ahead_us, wall_us - now_us);
    atomic_store_explicit(&clock_held, true, memory_order_release);
}

void clock_advance(int64_t by_us)
{
    atomic_fetch_add(&held_monotonic_us, by_us);
}

void clock_release(void)
{
    if (!atomic_load(&clock_held))
        return;
    int64_t ahead_us = atomic_load(&held_monotonic_us) - read_us(CLOCK_MONOTONIC);
    if (ahead_us > atomic_load(&monotonic_ahead_us))
        atomic_store(&monotonic_ahead_us, ahead_us);
    atomic_store_explicit(&clock_held, false, memory_order_release);
}

/* Days from 1970-01-01 in the proleptic Gregorian calendar, and back; years are counted from March,
 * so that the leap day is the last one of a year, in eras of 400 years. */
static int64_t days_from_civil(int64_t year, int64_t month, int64_t day)
{
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    int64_t year_of_era = year - era * 400;
    int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    return era * 146097 + day_of_era - 719468;
}

static void civil_from_days(int64_t days, int *ret_year, int *ret_month, int *ret_day)
{
    days += 719468;
    int64_t era = (days >= 0 ? days : days - 146096) / 146097;
    int64_t day_of_era = days - era * 146097;
    int64_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    int64_t month_from_march = (5 * day_of_year + 2) / 153;
    *ret_day = (int)(day_of_year - (153 * month_from_march + 2) / 5 + 1);
    *ret_month = (int)(month_from_march < 10 ? month_from_march + 3 : month_from_march - 9);
    *ret_year = (int)(year_of_era + era * 400 + (*ret_month <= 2));
}

static void put_digits(char *at, int count, int64_t value)
{
    for (int i = count - 1; i >= 0; i--, value /= 10)
        at[i] = (char)('0' + value % 10);
}

char *clock_to_rfc3339(int64_t wall_us, char into[CLOCK_RFC3339_BYTES_MAX])
{
    const int64_t first_us = days_from_civil(1, 1, 1) * S_PER_DAY * US_PER_S;
    const int64_t last_us = days_from_civil(10000, 1, 1) * S_PER_DAY * US_PER_S - 1;
    if (wall_us < first_us)
        wall_us = first_us;
    if (wall_us > last_us)
        wall_us = last_us;

    const int64_t day_us = (int64_t)S_PER_DAY * US_PER_S;
    int64_t days = wall_us / day_us - (wall_us % day_us < 0);
    int64_t in_day_us = wall_us - days * day_us;
    int64_t in_day_s = in_day_us / US_PER_S;
    int year, month, day;
    civil_from_days(days, &year, &month, &day);

    memcpy(into, "0000-00-00T00:00:00.000000Z", 28);
    put_digits(into, 4, year);
    put_digits(into + 5, 2, month);
    put_digits(into + 8, 2, day);
    put_digits(into + 11, 2, in_day_s / 3600);
    put_digits(into + 14, 2, in_day_s / 60 % 60);
    put_digits(into + 17, 2, in_day_s % 60);
    put_digits(into + 20, 6, in_day_us % US_PER_S);
    return into;
}

/* Reads exactly count digits at text[*at] and steps over them. */
static bool take_digits(struct text text, size_t *at, int count, int64_t *ret)
{
    int64_t value = 0;
    for (int i = 0; i < count; i++, (*at)++) {
        if (*at >= text.length || text.at[*at] < '0' || text.at[*at] > '9')
            return false;
        value = value * 10 + (text.at[*at] - '0');
    }
    *ret = value;
    return true;
}

static bool take_char(struct text text, size_t *at, char c)
{
    if (*at >= text.length || text.at[*at] != c)
        return false;
    (*at)++;
    return true;
}

static bool take_date(struct text text, size_t *at, int64_t *ret_days)
{
    static const int8_t days_in_month[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int64_t year, month, day;
    if (!take_digits(text, at, 4, &year) || !take_char(text, at, '-') || !take_digits(text, at, 2, &month) ||
        !take_char(text, at, '-') || !take_digits(text, at, 2, &day))
        return false;
    if (year < 1 || month < 1 || month > 12 || day < 1)
        return false;
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    if (day > days_in_month[month - 1] + (month == 2 && leap))
        return false;
    *ret_days = days_from_civil(year, month, day);
    return true;
}

/* ".123456789" as microseconds; nothing there is 0. */
static bool take_fraction(struct text text, size_t *at, int64_t *ret_us)
{
    *ret_us = 0;
    if (!take_char(text, at, '.'))
        return true;
    int count = 0;
    int64_t scale = US_PER_S / 10;
    for (; *at < text.length && text.at[*at] >= '0' && text.at[*at] <= '9'; (*at)++, count++, scale /= 10)
        *ret_us += scale * (text.at[*at] - '0');
    return count >= 1 && count <= 9;
}

static bool take_offset(struct text text, size_t *at, int64_t *ret_s)
{
    *ret_s = 0;
    if (take_char(text, at, 'Z') || take_char(text, at, 'z'))
        return true;
    bool west = take_char(text, at, '-');
    int64_t hours, minutes;
    if ((!west && !take_char(text, at, '+')) || !take_digits(text, at, 2, &hours) ||
        !take_char(text, at, ':') || !take_digits(text, at, 2, &minutes) || hours > 23 || minutes > 59)
        return false;
    *ret_s = (hours * 3600 + minutes * 60) * (west ? -1 : 1);
    return true;
}

bool clock_from_rfc3339(struct text text, int64_t *ret_wall_us)
{
    size_t at = 0;
    int64_t days, hour, minute, second, fraction_us, offset_s;
    if (!take_date(text, &at, &days))
        return false;
    if (!take_char(text, &at, 'T') && !take_char(text, &at, 't') && !take_char(text, &at, ' '))
        return false;
    if (!take_digits(text, &at, 2, &hour) || !take_char(text, &at, ':') ||
        !take_digits(text, &at, 2, &minute) || !take_char(text, &at, ':') ||
        !take_digits(text, &at, 2, &second))
        return false;
    if (!take_fraction(text, &at, &fraction_us) || !take_offset(text, &at, &offset_s) || at != text.length)
        return false;
    if (hour > 23 || minute > 59 || second > 60) /* 60: a leap second, the next minute's first here */
        return false;
    int64_t seconds = days * S_PER_DAY + hour * 3600 + minute * 60 + second - offset_s;
    *ret_wall_us = seconds * US_PER_S + fraction_us;
    return true;
}

bool clock_from_date(struct text text, int64_t *ret_wall_us)
{
    size_t at = 0;
    int64_t days;
    if (!take_date(text, &at, &days) || at != text.length)
        return false;
    *ret_wall_us = days * S_PER_DAY * US_PER_S;
    return true;
}
