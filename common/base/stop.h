/*
 * stop: SIGTERM and SIGINT turned into a flag that every thread can wait on.
 *
 * stop_open() blocks the signals (call it before any thread or librdkafka handle exists), ignores
 * SIGPIPE and starts a thread of its own. The first signal asks for a drain; a second one while draining
 * ends the process at once with 143. A drain that is not over when stop_drain_left_ms() is 0 ends by
 * _exit(0), or stop_fail()'s code: what is not finished is redelivered, nothing is lost by it.
 *
 * A child process inherits the blocked signals and the ignored SIGPIPE: whoever starts one resets both,
 * and gives it a process group of its own, or else Ctrl-C and a SIGTERM for it make two signals.
 */
#ifndef BASE_STOP_H
#define BASE_STOP_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

MUST_CHECK enum outcome stop_open(int64_t drain_timeout_ms, struct error *error);
/* Blocks until a signal or stop_ask(). Call from the main thread. */
void stop_wait(void);
void stop_ask(void); /* any thread: a drain for a reason inside */
/* As stop_ask(), because this process cannot go on: the first code given is the one that the process is to
 * exit with. Any thread. */
void stop_fail(int exit_code);
int stop_exit_code(void); /* 0 unless stop_fail() was called */
bool stop_asked(void);
/* Milliseconds left for the drain's work, all of them while none is asked for. It ends a tenth of
 * DRAIN_TIMEOUT (50 ms to 1 s) before its bound: the process has to be gone by then. */
int64_t stop_drain_left_ms(void);
/* Readable (poll(2)) for ever once a drain is asked for. */
int stop_fd(void);

#endif
