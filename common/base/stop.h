/*
 * stop: SIGTERM and SIGINT turned into a flag that every thread can wait on.
 *
 * stop_open() blocks the signals (call it before any thread or librdkafka handle exists) and ignores
 * SIGPIPE. The first signal asks for a drain; a second one while draining ends the process at once
 * with 143. A drain that is not over DRAIN_TIMEOUT after the first signal ends by _exit(0): what is
 * not finished is redelivered, nothing is lost by it.
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
bool stop_asked(void);
/* Milliseconds left of the drain; the whole time-out while none is asked for. */
int64_t stop_drain_left_ms(void);
/* Readable (poll(2)) for ever once a drain is asked for. */
int stop_fd(void);

#endif
