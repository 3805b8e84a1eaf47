#include "base/log_few.h"

void log_few_open(struct log_few *few, enum log_level level, const char *station, const char *message)
{
    few->level = level;
    few->station = station;
    few->message = message;
    few->count = 0;
}

static void sum(struct log_few *few, struct log_few_cause *cause, int64_t now_us)
{
    const struct log_field fields[] = {
        LOG_TEXT("cause", ((struct text){cause->name, cause->name_bytes})),
        LOG_INT("left_out", cause->held),
        LOG_INT("in_ms", (now_us - cause->held_us) / 1000),
    };
    log_write(few->level, few->station, few->message, fields, sizeof(fields) / sizeof(fields[0]));
    cause->held = cause->held_us = 0;
}

static struct log_few_cause *cause_make(struct log_few *few, uint64_t hash, struct text name, int64_t now_us)
{
    struct log_few_cause *cause = NULL;
    if (few->count < LOG_FEW_CAUSES_MAX)
        cause = &few->causes[few->count++];
    for (size_t i = 0; i < few->count && few->count == LOG_FEW_CAUSES_MAX; i++)
        if (!few->causes[i].held && (!cause || few->causes[i].last_us < cause->last_us))
            cause = &few->causes[i];
    if (!cause)
        return &few->causes[LOG_FEW_CAUSES_MAX - 1];
    *cause = (struct log_few_cause){.hash = hash, .window_us = now_us};
    cause->name_bytes = name.length < sizeof(cause->name) ? name.length : sizeof(cause->name);
    while (cause->name_bytes < name.length && cause->name_bytes &&
           ((unsigned char)name.at[cause->name_bytes] & 0xc0) == 0x80)
        cause->name_bytes--; /* no half a character */
    if (cause->name_bytes)
        memcpy(cause->name, name.at, cause->name_bytes);
    return cause;
}

static struct log_few_cause *cause_of(struct log_few *few, struct text name, int64_t now_us)
{
    uint64_t hash = text_hash(name);
    for (size_t i = 0; i < few->count; i++)
        if (few->causes[i].hash == hash)
            return &few->causes[i];
    return cause_make(few, hash, name, now_us);
}

bool log_few_may(struct log_few *few, struct text name, int64_t now_us)
{
    struct log_few_cause *cause = cause_of(few, name, now_us);
    cause->last_us = now_us;
    if (now_us - cause->window_us >= INT64_C(1000) * LOG_FEW_WINDOW_MS) {
        cause->window_us = now_us;
        cause->written = 0;
    }
    if (cause->written < LOG_FEW_LINES_MAX) {
        cause->written++;
        return true;
    }
    if (cause->held++ == 0)
        cause->held_us = now_us;
    return false;
}

void log_few_sum(struct log_few *few, int64_t now_us)
{
    for (size_t i = 0; i < few->count; i++)
        if (few->causes[i].held && now_us - few->causes[i].held_us >= INT64_C(1000) * LOG_FEW_SUM_MS)
            sum(few, &few->causes[i], now_us);
}

void log_few_close(struct log_few *few, int64_t now_us)
{
    for (size_t i = 0; i < few->count; i++)
        if (few->causes[i].held)
            sum(few, &few->causes[i], now_us);
}
