/*
 * log_few: lines that may come by the thousand, one a record: of each cause the first LOG_FEW_LINES_MAX a
 * minute are written, and of the rest one line a cause each LOG_FEW_SUM_MS, with their number.
 *
 *     if (log_few_may(few, cause, now_us))
 *         log_warn("dlq", "a record is now a dead letter", …);
 *     log_few_sum(few, now_us);        (now and then, also while nothing comes)
 *
 * A cause is whatever makes two lines the same to a person: a fingerprint, "orders/framing". It is told apart
 * by its hash. LOG_FEW_CAUSES_MAX are known at once; the one that was quiet longest makes room, and where all
 * have something left to say, the new one shares the last one's allowance.
 *
 * Thread: one. Memory is the caller's, times are monotonic.
 */
#ifndef BASE_LOG_FEW_H
#define BASE_LOG_FEW_H

#include "base/log.h"

enum {
    LOG_FEW_LINES_MAX = 5, /* of a cause, in LOG_FEW_WINDOW_MS */
    LOG_FEW_WINDOW_MS = 60000,
    LOG_FEW_SUM_MS = 10000,
    LOG_FEW_CAUSES_MAX = 64,
    LOG_FEW_NAME_BYTES_MAX = 96, /* of a cause as it is told; the rest is cut */
};

struct log_few_cause {
    uint64_t hash;
    int64_t window_us; /* when its minute began */
    int64_t last_us;
    int64_t held_us; /* when the first was left out that no line has told of; 0: none */
    int64_t held;    /* how many */
    int written;     /* in this minute */
    size_t name_bytes;
    char name[LOG_FEW_NAME_BYTES_MAX];
};

struct log_few {
    enum log_level level;
    const char *station, *message; /* of the line with the number: literals */
    size_t count;
    struct log_few_cause causes[LOG_FEW_CAUSES_MAX];
};

void log_few_open(struct log_few *few, enum log_level level, const char *station, const char *message);
/* One more line of this cause: may it be written? */
bool log_few_may(struct log_few *few, struct text cause, int64_t now_us);
/* Writes what is due. */
void log_few_sum(struct log_few *few, int64_t now_us);
/* All that was left out and not told yet: at the end. */
void log_few_close(struct log_few *few, int64_t now_us);

#endif
