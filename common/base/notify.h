/*
 * notify: telling whoever started this process how it is (systemd's sd_notify protocol, Type=notify).
 *
 * Where NOTIFY_SOCKET is not set nothing happens. Nothing here blocks or fails: what cannot be told is not told.
 */
#ifndef BASE_NOTIFY_H
#define BASE_NOTIFY_H

#include <stdint.h>

enum { NOTIFY_TEXT_BYTES_MAX = 256 };

/* "READY=1", "STOPPING=1", "WATCHDOG=1", "STATUS=…"; several with line ends between. Any thread. */
void notify_tell(const char *state);
/* "STATUS=" and this, made one line, and cut between two characters where it does not fit. Any thread. */
void notify_status(const char *text);
/* How often a "WATCHDOG=1" is owed, half of what WATCHDOG_USEC allows; 0: never, or another process owes it. */
int64_t notify_watchdog_ms(void);

#endif
