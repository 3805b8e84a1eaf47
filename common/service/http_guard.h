/*
 * http_guard: what libmicrohttpd's inactivity time-out does not do: an absolute deadline for each request and
 * each answer, and a close that does not take the answer away from a client who is still sending.
 *
 * A thread of its own looks at all connections every GUARD_STEP_MS. A connection that waits for a request is
 * asked by TCP_INFO whether bytes have come, so that a request's time begins with its first byte and not with
 * its first whole line. A request that is not whole in time is answered 408, straight into the socket (the
 * library has written nothing for it yet), and the connection is shut down.
 *
 * What http.c refuses in the middle of a body goes the same way, but the client is then still sending: the
 * socket is kept open by a duplicate, and what comes is read and thrown away for at most GUARD_LINGER_MS.
 * Closing it with bytes unread would send a reset, and many a client would never look at the answer. At most
 * GUARD_LINGERING_MAX of them; more are closed at once.
 */
#ifndef SERVICE_HTTP_GUARD_H
#define SERVICE_HTTP_GUARD_H

#include "base/metrics.h"

enum { GUARD_STEP_MS = 250, GUARD_LINGER_MS = 2000, GUARD_LINGERING_MAX = 64 };

enum guard_phase {
    GUARD_IDLE,     /* waits for a request: idle_ms          */
    GUARD_READING,  /* a request has begun: request_ms       */
    GUARD_HANDLING, /* whole; ours to answer: no limit here  */
    GUARD_SENDING,  /* the answer goes out: send_ms          */
    GUARD_STREAM,   /* an answer without end: no limit here  */
    GUARD_GONE,     /* shut down; nothing more is done on it */
};

/* One connection; embedded in its owner's struct, all fields the guard's. */
struct guarded {
    int fd;
    enum guard_phase phase;
    int64_t since_us;
    bool counted;   /* bytes is known */
    uint64_t bytes; /* received when it became idle */
    struct guarded *previous, *next;
};

struct guard_settings {
    int idle_ms, request_ms, send_ms;
    struct metric *timed_out; /* counts the 408s; may be NULL */
};

struct guard;
MUST_CHECK enum outcome guard_open(const struct guard_settings *settings, struct guard **ret,
                                   struct error *error);
void guard_close(struct guard *guard); /* no connection may be left; accepts NULL */

/* The rest: any thread. fd stays its owner's, who must not close it before guard_remove(). */
void guard_add(struct guard *guard, struct guarded *guarded, int fd);
void guard_remove(struct guard *guard, struct guarded *guarded);
/* False: it was shut down in the meantime, and nothing may be sent on it. */
MUST_CHECK bool guard_enter(struct guard *guard, struct guarded *guarded, enum guard_phase phase);
/* Answers a request that has been read in part or whole, and of whose answer nothing is sent. retry_after_s
 * 0: none. The owner then closes the connection. */
void guard_refuse(struct guard *guard, struct guarded *guarded, int status, const char *title,
                  const char *detail, int retry_after_s);
size_t guard_count(struct guard *guard);
/* Shuts down all connections and those that come, and waits until they are removed, at most wait_ms. */
void guard_shut(struct guard *guard, int wait_ms);

#endif
