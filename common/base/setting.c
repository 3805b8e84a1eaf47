#include "base/setting.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

struct unit {
    const char *name;
    int64_t factor;
};
static const struct unit duration_units[] = {{"ms", 1},      {"s", 1000},     {"", 1000}, {"min", 60000},
                                             {"h", 3600000}, {"d", 86400000}, {NULL, 0}};
static const struct unit bytes_units[] = {{"", 1},        {"k", 1 << 10}, {"K", 1 << 10},
                                          {"M", 1 << 20}, {"G", 1 << 30}, {NULL, 0}};
static const struct unit rate_units[] = {{"/s", 3600}, {"/min", 60}, {"/h", 1}, {NULL, 0}};

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Digits, for fractions a point and up to three more, and one of the units. */
static bool parse_amount(struct text text, const struct unit *units, bool fractions, int64_t *ret)
{
    size_t i = 0;
    int64_t thousandths = 0, scale = 1000;
    for (; i < text.length && is_digit(text.at[i]); i++)
        if (__builtin_mul_overflow(thousandths, 10, &thousandths) ||
            __builtin_add_overflow(thousandths, (text.at[i] - '0') * scale, &thousandths))
            return false;
    if (i == 0)
        return false;
    if (fractions && i + 1 < text.length && text.at[i] == '.' && is_digit(text.at[i + 1]))
        for (i++; i < text.length && is_digit(text.at[i]); i++) {
            scale /= 10;
            if (scale == 0)
                return false;
            thousandths += (text.at[i] - '0') * scale;
        }
    struct text name = {text.at + i, text.length - i};
    for (const struct unit *unit = units; unit->name; unit++) {
        if (!text_is(name, unit->name))
            continue;
        int64_t product;
        if (__builtin_mul_overflow(thousandths, unit->factor, &product) || product % 1000 != 0)
            return false;
        *ret = product / 1000;
        return true;
    }
    return false;
}

static bool may_be_zero(const struct setting *setting)
{
    return setting->kind == SETTING_DURATION && setting->choices && strcmp(setting->choices, "0") == 0;
}

static bool within(const struct setting *setting, int64_t number)
{
    if (number == 0 && may_be_zero(setting))
        return true;
    if (setting->min == 0 && setting->max == 0)
        return number >= 0;
    return number >= setting->min && number <= setting->max;
}

static bool parse_durations(const struct setting *setting, struct text text, struct setting_value *ret)
{
    ret->list_count = 0;
    while (text.length) {
        const char *comma = memchr(text.at, ',', text.length);
        size_t length = comma ? (size_t)(comma - text.at) : text.length;
        struct text one = {text.at, length};
        while (one.length && one.at[0] == ' ')
            one = (struct text){one.at + 1, one.length - 1};
        while (one.length && one.at[one.length - 1] == ' ')
            one.length--;
        int64_t ms;
        if (ret->list_count == CONFIG_DURATIONS_MAX || !parse_amount(one, duration_units, true, &ms) ||
            !within(setting, ms))
            return false;
        ret->list_ms[ret->list_count++] = ms;
        if (comma && length + 1 == text.length)
            return false; /* nothing behind the last comma */
        length += comma != NULL;
        text = (struct text){text.at + length, text.length - length};
    }
    return true;
}

static bool parse_bool(struct text text, int64_t *ret)
{
    static const char *const yes[] = {"true", "on", "yes", "1"}, *const no[] = {"false", "off", "no", "0"};
    for (size_t i = 0; i < sizeof(yes) / sizeof(yes[0]); i++) {
        *ret = text_equal_nocase(text, text_of(yes[i]));
        if (*ret || text_equal_nocase(text, text_of(no[i])))
            return true;
    }
    return false;
}

static bool is_choice(const char *choices, struct text text)
{
    for (const char *at = choices; at;) {
        size_t length = strcspn(at, "|");
        if (text_equal(text, (struct text){at, length}))
            return true;
        at = at[length] ? at + length + 1 : NULL;
    }
    return false;
}

static bool is_clean(struct text text)
{
    for (size_t i = 0; i < text.length; i++)
        if ((unsigned char)text.at[i] < 0x20 || text.at[i] == 0x7f)
            return false;
    return true;
}

static bool parse_url(const struct setting *setting, struct text text)
{
    const char *colon = text.length ? memchr(text.at, ':', text.length) : NULL;
    if (!colon || !is_clean(text) || memchr(text.at, ' ', text.length))
        return false;
    struct text scheme = {text.at, (size_t)(colon - text.at)};
    if (scheme.length == 0 || scheme.length + 1 == text.length)
        return false;
    for (size_t i = 0; i < scheme.length; i++) {
        char c = scheme.at[i];
        if (!(c >= 'a' && c <= 'z') && (i == 0 || (!is_digit(c) && c != '+' && c != '-' && c != '.')))
            return false;
    }
    return !setting->choices || is_choice(setting->choices, scheme);
}

static bool parse_listen(struct text text)
{
    enum { PORT_MAX = 65535 };
    const char *colon = text.length ? memrchr(text.at, ':', text.length) : NULL;
    if (!colon || colon == text.at || !is_clean(text) || memchr(text.at, ' ', text.length))
        return false;
    struct text host = {text.at, (size_t)(colon - text.at)},
                port = {colon + 1, text.length - host.length - 1};
    int64_t number;
    if (port.length == 0 || !is_digit(port.at[0]) || !text_to_int64(port, &number) || number > PORT_MAX)
        return false;
    bool bracketed = host.length > 2 && host.at[0] == '[' && host.at[host.length - 1] == ']';
    return bracketed || !memchr(host.at, ':', host.length); /* which colon would be the port's? */
}

/* [protocol://]host[:port], with commas between, as librdkafka reads it. */
static bool parse_servers(struct text text)
{
    enum { PORT_MAX = 65535 };
    while (text.at) {
        const char *comma = text.length ? memchr(text.at, ',', text.length) : NULL;
        struct text one = {text.at, comma ? (size_t)(comma - text.at) : text.length};
        text = comma ? (struct text){comma + 1, text.length - one.length - 1} : (struct text){NULL, 0};
        while (one.length && one.at[0] == ' ')
            one = (struct text){one.at + 1, one.length - 1};
        while (one.length && one.at[one.length - 1] == ' ')
            one.length--;
        const char *scheme = memmem(one.at, one.length, "://", 3);
        if (scheme)
            one = (struct text){scheme + 3, (size_t)(one.at + one.length - scheme - 3)};
        if (one.length == 0 || !is_clean(one) || memchr(one.at, ' ', one.length))
            return false;
        const char *bracket = memrchr(one.at, ']', one.length), *colon = memrchr(one.at, ':', one.length);
        if (!colon || (bracket && colon < bracket))
            continue;
        struct text port = {colon + 1, (size_t)(one.at + one.length - colon - 1)};
        int64_t number;
        if (colon == one.at || port.length == 0 || !is_digit(port.at[0]) || !text_to_int64(port, &number) ||
            number == 0 || number > PORT_MAX)
            return false;
    }
    return true;
}

/* A text without a default can be taken away by an empty one. */
static bool may_be_empty(const struct setting *setting)
{
    return !setting->fallback && (setting->kind == SETTING_TEXT || setting->kind == SETTING_URL);
}

bool setting_parse(const struct setting *setting, struct text text, struct setting_value *ret)
{
    struct setting_value value = {0};
    bool valid = false;
    switch (setting->kind) {
    case SETTING_TEXT:
    case SETTING_SECRET:
        valid = text.length ? is_clean(text) : may_be_empty(setting);
        break;
    case SETTING_URL:
        valid = text.length ? parse_url(setting, text) : may_be_empty(setting);
        break;
    case SETTING_INT:
        valid = text_to_int64(text, &value.number) && within(setting, value.number);
        break;
    case SETTING_DURATION:
        valid = parse_amount(text, duration_units, true, &value.number) && within(setting, value.number);
        break;
    case SETTING_DURATIONS:
        valid = parse_durations(setting, text, &value);
        break;
    case SETTING_BYTES:
        valid = parse_amount(text, bytes_units, false, &value.number) && within(setting, value.number);
        break;
    case SETTING_RATE:
        valid = (text_is(text, "0") || parse_amount(text, rate_units, false, &value.number)) &&
                within(setting, value.number);
        break;
    case SETTING_BOOL:
        valid = parse_bool(text, &value.number);
        break;
    case SETTING_CHOICE:
        valid = is_choice(setting->choices, text);
        break;
    case SETTING_LISTEN:
        valid = parse_listen(text);
        break;
    case SETTING_SERVERS:
        valid = text.length && parse_servers(text);
        break;
    }
    if (valid)
        *ret = value;
    return valid;
}

/* The largest unit that says it without a rest. */
static void print_amount(int64_t amount, const struct unit *units, char *into, size_t bytes)
{
    const struct unit *best = NULL;
    for (const struct unit *unit = units; unit->name; unit++)
        if (*unit->name && amount % unit->factor == 0 && amount != 0 &&
            (!best || unit->factor > best->factor))
            best = unit;
    if (best)
        snprintf(into, bytes, "%" PRId64 "%s", amount / best->factor, best->name);
    else
        snprintf(into, bytes, "%" PRId64, amount);
}

static void print_bounds(const struct setting *setting, const struct unit *units, char *into, size_t bytes)
{
    into[0] = '\0';
    if (setting->min == 0 && setting->max == 0)
        return;
    char min[32], max[32];
    print_amount(setting->min, units, min, sizeof(min));
    print_amount(setting->max, units, max, sizeof(max));
    if (setting->max == INT64_MAX)
        snprintf(into, bytes, " from %s", min);
    else
        snprintf(into, bytes, " from %s to %s", min, max);
}

void setting_allowed(const struct setting *setting, char *into, size_t bytes)
{
    static const struct unit no_units[] = {{NULL, 0}};
    char bounds[96];
    switch (setting->kind) {
    case SETTING_TEXT:
    case SETTING_SECRET:
        snprintf(into, bytes, "text without control characters%s",
                 may_be_empty(setting) ? "" : ", not empty");
        break;
    case SETTING_URL:
        if (setting->choices)
            snprintf(into, bytes, "a URL that begins with %s and a colon", setting->choices);
        else
            snprintf(into, bytes, "a URL, scheme:rest");
        break;
    case SETTING_INT:
        print_bounds(setting, no_units, bounds, sizeof(bounds));
        snprintf(into, bytes, "a whole number%s", *bounds ? bounds : " from 0");
        break;
    case SETTING_DURATION:
        print_bounds(setting, duration_units, bounds, sizeof(bounds));
        snprintf(into, bytes, "a duration (250ms, 10s, 15min, 24h, 14d)%s%s", bounds,
                 may_be_zero(setting) ? ", or 0" : "");
        break;
    case SETTING_DURATIONS:
        print_bounds(setting, duration_units, bounds, sizeof(bounds));
        snprintf(into, bytes, "up to %d durations with commas between (2s,4s,8s), each%s",
                 CONFIG_DURATIONS_MAX, *bounds ? bounds : " from 0");
        break;
    case SETTING_BYTES:
        print_bounds(setting, bytes_units, bounds, sizeof(bounds));
        snprintf(into, bytes, "a size (65536, 64k, 16M, 1G)%s", bounds);
        break;
    case SETTING_RATE:
        print_bounds(setting, rate_units, bounds, sizeof(bounds));
        snprintf(into, bytes, "a rate (10/s, 100/min, 1000/h, 0 = no limit)%s", bounds);
        break;
    case SETTING_BOOL:
        snprintf(into, bytes, "true or false (on, off, yes, no, 1, 0)");
        break;
    case SETTING_CHOICE:
        snprintf(into, bytes, "one of %s", setting->choices);
        break;
    case SETTING_LISTEN:
        snprintf(into, bytes, "host:port or [v6]:port, port 0 to 65535");
        break;
    case SETTING_SERVERS:
        snprintf(into, bytes, "host:port, or several with commas between");
        break;
    }
}

#define MASK "****"

/*
 * scheme://user:MASK@host and ?password=MASK. The last @ ends the credentials, wherever it stands: a password
 * that was not percent-encoded may hold a slash, and to mask too much is the better error. For the same
 * reason what has no :// is masked as well: it may be a URL with a slip of the pen in it.
 */
static void show_url(struct text url, struct buffer *into)
{
    struct text rest = url;
    const char *start = memmem(rest.at, rest.length, "://", 3);
    start = start ? start + 3 : rest.at;
    const char *at = memrchr(start, '@', (size_t)(rest.at + rest.length - start));
    const char *colon = at ? memchr(start, ':', (size_t)(at - start)) : NULL;
    if (colon) {
        buffer_add(into, url.at, (size_t)(colon - url.at) + 1);
        buffer_add_string(into, MASK);
        rest = (struct text){at, (size_t)(url.at + url.length - at)};
    }
    char query[4096]; /* a copy with an end, to look through */
    size_t length = rest.length < sizeof(query) ? rest.length : sizeof(query) - 1;
    memcpy(query, rest.at, length);
    query[length] = '\0';
    const char *from = query;
    for (const char *found; (found = strcasestr(from, "password=")) != NULL;) {
        const char *value = found + strlen("password=");
        buffer_add(into, from, (size_t)(value - from));
        buffer_add_string(into, MASK);
        from = value + strcspn(value, "&");
    }
    buffer_add_string(into, from);
    explicit_bzero(query, sizeof(query));
}

void setting_show(const struct setting *setting, struct text value, struct buffer *into)
{
    if (value.length == 0)
        return;
    if (setting->kind == SETTING_SECRET)
        buffer_add_string(into, MASK);
    else if (setting->kind == SETTING_URL)
        show_url(value, into);
    else
        buffer_add_text(into, value);
}

void setting_show_property(const char *key, const char *value, struct buffer *into)
{
    static const char *const secret[] = {"password",           "secret",   "key.pem", "token",
                                         "oauthbearer.config", "sasl.jaas"};
    for (size_t i = 0; i < sizeof(secret) / sizeof(secret[0]); i++)
        if (strcasestr(key, secret[i])) {
            buffer_add_string(into, MASK);
            return;
        }
    buffer_add_string(into, value);
}

const char *setting_form(const struct setting *setting)
{
    switch (setting->kind) {
    case SETTING_TEXT:
    case SETTING_SECRET:
        return "TEXT";
    case SETTING_URL:
        return "URL";
    case SETTING_INT:
        return "N";
    case SETTING_DURATION:
        return "TIME";
    case SETTING_DURATIONS:
        return "TIME,…";
    case SETTING_BYTES:
        return "SIZE";
    case SETTING_RATE:
        return "RATE";
    case SETTING_BOOL:
        return "";
    case SETTING_CHOICE:
        return setting->choices;
    case SETTING_LISTEN:
        return "HOST:PORT";
    case SETTING_SERVERS:
        return "HOST:PORT,…";
    }
    return "";
}

char *setting_name(const char *name, char between, char into[CONFIG_NAME_BYTES_MAX])
{
    size_t length = strlen(name);
    assert(length < CONFIG_NAME_BYTES_MAX);
    for (size_t i = 0; i <= length; i++) {
        char c = name[i];
        into[i] = c == '_' ? between : c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
    }
    return into;
}
