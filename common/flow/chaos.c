#include "flow/chaos.h"

#include "base/error.h"
#include "base/setting.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

enum { PPM_PER_PERCENT = 10000, DAY_MS = 86400000 };

/* ---- the list */

bool chaos_parse_share(struct text text, uint32_t *ret_ppm)
{
    uint32_t ppm = 0, unit = PPM_PER_PERCENT;
    size_t i = 0;
    for (; i < text.length && text.at[i] >= '0' && text.at[i] <= '9'; i++) {
        ppm = ppm * 10 + (uint32_t)(text.at[i] - '0') * PPM_PER_PERCENT;
        if (ppm > 100 * PPM_PER_PERCENT)
            return false;
    }
    if (i == 0)
        return false;
    if (i < text.length && text.at[i] == '.') {
        size_t point = i++;
        for (; i < text.length && text.at[i] >= '0' && text.at[i] <= '9'; i++) {
            unit /= 10;
            if (unit == 0)
                return false;
            ppm += (uint32_t)(text.at[i] - '0') * unit;
        }
        if (i == point + 1)
            return false;
    }
    *ret_ppm = ppm;
    return ppm <= 100 * PPM_PER_PERCENT && i + 1 == text.length && text.at[i] == '%';
}

static bool parse_duration(struct text text, int64_t max_ms, int64_t *ret_us)
{
    const struct setting setting = {.name = "", .kind = SETTING_DURATION, .min = 1, .max = max_ms};
    struct setting_value value;
    if (!setting_parse(&setting, text, &value))
        return false;
    *ret_us = value.number * 1000;
    return true;
}

static bool parse_int(struct text text, int64_t min, int64_t max, int64_t *ret)
{
    return text_to_int64(text, ret) && *ret >= min && *ret <= max;
}

/* What stands before the mark; *ret_rest what stands behind it, {NULL, 0} without one. */
static struct text part(struct text text, char mark, struct text *ret_rest)
{
    const char *at = text.length ? memchr(text.at, mark, text.length) : NULL;
    *ret_rest = (struct text){0};
    if (!at)
        return text;
    size_t length = (size_t)(at - text.at);
    *ret_rest = (struct text){at + 1, text.length - length - 1};
    return (struct text){text.at, length};
}

bool chaos_parse_window(struct text text, int64_t *ret_away_us, int64_t *ret_every_us)
{
    struct text rest, away = part(text, '/', &rest);
    return parse_duration(away, DAY_MS, ret_away_us) && parse_duration(rest, DAY_MS, ret_every_us) &&
           *ret_away_us < *ret_every_us;
}

static bool parse_keys(struct text value, struct chaos *chaos)
{
    struct text rest, share = part(value, ':', &rest);
    int64_t deliveries = 2;
    if (rest.at && !parse_int(rest, 1, CHAOS_DELIVERIES_MAX, &deliveries))
        return false;
    chaos->keys_deliveries = (int)deliveries;
    return chaos_parse_share(share, &chaos->keys_ppm);
}

static bool parse_poison(struct text value, struct chaos *chaos)
{
    return chaos_parse_share(value, &chaos->poison_ppm);
}

static bool parse_outage(struct text value, struct chaos *chaos)
{
    return chaos_parse_window(value, &chaos->outage_us, &chaos->outage_every_us);
}

static bool parse_slow(struct text value, struct chaos *chaos)
{
    struct text rest, share = part(value, ':', &rest);
    return chaos_parse_share(share, &chaos->slow_ppm) &&
           parse_duration(rest, CHAOS_SLOW_MS_MAX, &chaos->slow_us);
}

static bool parse_crash(struct text value, struct chaos *chaos)
{
    return chaos_parse_share(value, &chaos->crash_ppm);
}

static bool parse_seed(struct text value, struct chaos *chaos)
{
    int64_t seed;
    if (!parse_int(value, 0, INT64_MAX, &seed))
        return false;
    chaos->seed = (uint64_t)seed;
    return true;
}

static const struct kind {
    const char *name;
    bool (*parse)(struct text value, struct chaos *chaos);
    const char *allowed;
} kinds[] = {
    {"keys", parse_keys, "keys=P% or keys=P%:N, N deliveries from 1 to 1000"},
    {"poison", parse_poison, "poison=P%"},
    {"outage", parse_outage, "outage=T/U, a duration out of every longer one, at most a day"},
    {"slow", parse_slow, "slow=P%:T, T at most 10s"},
    {"crash", parse_crash, "crash=P%"},
    {"seed", parse_seed, "seed=N"},
};
enum { KINDS = sizeof(kinds) / sizeof(*kinds) };

static struct text trim(struct text text)
{
    while (text.length && text.at[0] == ' ')
        text = (struct text){text.at + 1, text.length - 1};
    while (text.length && text.at[text.length - 1] == ' ')
        text.length--;
    return text;
}

enum outcome chaos_parse(struct text text, struct chaos *ret, struct error *error)
{
    struct chaos chaos = {0};
    unsigned given = 0;
    struct text rest = trim(text);
    if (rest.length == 0) {
        *ret = chaos;
        return OK;
    }
    for (bool more = true; more;) {
        struct text value, item = trim(part(rest, ',', &rest)), name = part(item, '=', &value);
        more = rest.at != NULL;
        size_t i = 0;
        while (i < KINDS && !text_is(name, kinds[i].name))
            i++;
        if (i == KINDS)
            return error_reject(error, "chaos",
                                "\"%.*s\" is nothing that can fail: keys, poison, outage, slow, crash, seed",
                                TEXT_ARG(item));
        if (given & 1u << i)
            return error_reject(error, "chaos", "%s is given twice", kinds[i].name);
        given |= 1u << i;
        if (!kinds[i].parse(value, &chaos))
            return error_reject(error, "chaos", "\"%.*s\" is not %s (P from 0 to 100)", TEXT_ARG(item),
                                kinds[i].allowed);
    }
    chaos.on =
        chaos.keys_ppm || chaos.poison_ppm || chaos.slow_ppm || chaos.crash_ppm || chaos.outage_every_us;
    *ret = chaos;
    return OK;
}

/* ---- what it does */

/* The finaliser of splitmix64: every bit of the result hangs on every bit that goes in. */
static uint64_t mix(uint64_t bits)
{
    bits = (bits ^ bits >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    bits = (bits ^ bits >> 27) * UINT64_C(0x94d049bb133111eb);
    return bits ^ bits >> 31;
}

/* By what: one that is chosen for one thing is not therefore chosen for another. */
enum choice { CHOICE_KEYS = 1, CHOICE_POISON, CHOICE_SLOW, CHOICE_CRASH };

static bool chosen(const struct chaos *chaos, enum choice choice, struct text what, uint32_t ppm)
{
    if (ppm == 0)
        return false;
    uint64_t salt = mix(chaos->seed * 8 + (uint64_t)choice);
    return mix(text_hash(what) ^ salt) % 1000000 < ppm;
}

static void sleep_us(int64_t us)
{
    struct timespec left = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}

enum outcome chaos_strike(const struct chaos *chaos, struct text key, struct id id, int delivery,
                          int64_t now_us, struct error *error)
{
    if (!chaos->on)
        return OK;
    struct text bytes = {(const char *)id.bytes, sizeof(id.bytes)};
    if (chaos->outage_every_us && now_us % chaos->outage_every_us < chaos->outage_us)
        return error_outage(error, "chaos", "on purpose: an outage (CHAOS outage)");
    if (chosen(chaos, CHOICE_SLOW, bytes, chaos->slow_ppm))
        sleep_us(chaos->slow_us);
    if (chosen(chaos, CHOICE_CRASH, bytes, chaos->crash_ppm))
        abort();
    if (chosen(chaos, CHOICE_POISON, bytes, chaos->poison_ppm))
        return error_reject(error, "chaos", "on purpose: a poisoned event (CHAOS poison)");
    if (delivery <= chaos->keys_deliveries && chosen(chaos, CHOICE_KEYS, key, chaos->keys_ppm))
        return error_retry(error, "chaos",
                           "on purpose: a failing key, delivery %d of %d that fail (CHAOS keys)", delivery,
                           chaos->keys_deliveries);
    return OK;
}
