/*
 * child: a process of our own: started with its output in a log file, started again with backoff when it dies, stopped with a
 * deadline, and never left behind: the kernel kills it when we are gone, however we went.
 *
 * Only the main thread starts children: the kernel ties their life to the thread that made them.
 */
#ifndef WEIR_CHILD_H
#define WEIR_CHILD_H

#include "base/error.h"

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    CHILD_BACKOFF_MS_MIN = 500,
    CHILD_BACKOFF_MS_MAX = 10000,
    CHILD_STEADY_MS = 30000, /* who lived so long begins with the least backoff again */
    CHILD_LOG_BYTES_MAX = 16 << 20, /* then NAME.log becomes NAME.log.1, at starts and while it runs */
    CHILD_ARGUMENTS_MAX = 32,
};

struct child {
    const char *name;
    char *argv[CHILD_ARGUMENTS_MAX + 1]; /* argv[0]: the program's path; all malloc()ed */
    size_t argc;
    char **environment; /* NULL ended; malloc()ed, as its strings are */
    char log_path[PATH_MAX];
    bool again; /* a death is answered by another start */

    pid_t pid; /* 0: not running */
    int64_t started_us;
    int64_t start_at_us; /* of the next start, 0: none is due */
    int backoff_ms;
    int starts;
    int status; /* of the last death, as of waitpid(2) */
};

/* One argument more, by printf. */
void child_argument(struct child *child, const char *format, ...) PRINTF_LIKE(2, 3);
/* This process's environment, with pairs ("NAME=value", NULL ended) in place of what has their names; "NAME" alone takes away. */
char **child_environment(char *const *pairs);
/* OUTAGE: it could not be started, says why (not there, not to be executed). */
MUST_CHECK enum outcome child_start(struct child *child, struct error *error);
/* Reaps it. True when it has died since the last call; a next start is then set where it is wanted. */
bool child_died(struct child *child);
/* Starts it where a start is due. */
void child_revive(struct child *child);
/* A bounded log, also of who runs for weeks. Now and then. */
void child_trim_log(const struct child *child);
/* "exit 70", "killed by signal 9 (Killed)" */
const char *child_death(const struct child *child, char *into, size_t bytes);
/* The last line of its log that is neither blank nor indented (a stack), for a message: of one in JSON what it
 * says. Empty where there is none. */
void child_last_words(const struct child *child, char *into, size_t bytes);

void child_ask_stop(struct child *child); /* SIGTERM, and no start again */
/* Waits until deadline_us (monotonic), then kills. False when it had to be killed. */
bool child_stop(struct child *child, int64_t deadline_us);
void child_free(struct child *child);

#endif
