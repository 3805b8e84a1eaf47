/*
 * process: a program run by a test, with a deadline on every wait. What it writes on stdout and stderr goes
 * to memory, so it is never held up by a test that does not read. All waits abort the test with the output
 * shown when time is up.
 */
#ifndef SUPPORT_PROCESS_H
#define SUPPORT_PROCESS_H

#include <stdbool.h>
#include <sys/types.h>

enum { PROCESS_WAIT_MS = 60000 };

struct process;

/*
 * argv and environment ("NAME=value" added to this process's) are NULL ended; environment may be NULL.
 * Variables that begin with WEIR_ and names in a service's settings are not handed on: a test means what it
 * says. In a process group of its own, with no signal blocked or ignored.
 */
struct process *process_start(const char *const *argv, const char *const *environment);
pid_t process_pid(const struct process *process);
void process_signal(const struct process *process, int signal);
/* Its exit code, or 128 + the signal that ended it. */
int process_wait(struct process *process);
bool process_runs(struct process *process);
/* All that it has written so far; until the next call. */
const char *process_output(struct process *process);
/* Until it has written this; returns the place of it in the output. */
const char *process_expect(struct process *process, const char *text);
/* The number after this text, once it and a line end after it are written. */
int process_expect_number(struct process *process, const char *text);
void process_end(struct process *process); /* killed where it still runs; accepts NULL */

#endif
