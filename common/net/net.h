/*
 * net: calls to the outside by HTTP and SMTP, on one libcurl multi loop with a thread of its own.
 *
 * Connections are kept and used again. Nothing here retries. The answer comes to done() on the net's thread,
 * exactly once for each call that was taken, also when the net is closed (as OUTAGE).
 */
#ifndef NET_NET_H
#define NET_NET_H

#include "base/text.h"

enum { NET_ANSWER_BYTES_MAX = 1 << 20, NET_CALLS_MAX = 1024, NET_HEADERS_MAX = 16 };

struct net;

/* connections_max: to one host; calls past it wait inside, at most NET_CALLS_MAX in all. */
MUST_CHECK enum outcome net_open(int connections_max, struct net **ret, struct error *error);
void net_close(struct net *net); /* ends calls in flight as OUTAGE; accepts NULL */

struct net_result {
    /*
     * HTTP: OK for 2xx; REJECT for 4xx (but 408, 425, 429: RETRY); RETRY for 5xx, a time-out after the
     * request was sent, a connection lost in the middle; OUTAGE where no connection came about (refused,
     * unknown host, TLS, time-out of connecting). SMTP: OK for 250 after the data; RETRY for 4yz; REJECT for
     * 5yz; OUTAGE for 421, no connection, no greeting, and for a connection lost before the final dot (RFC
     * 5321 3.8); RETRY, ambiguous, for one lost or silent after it.
     */
    enum outcome outcome;
    int status;       /* HTTP status, SMTP reply code, 0 without */
    struct text body; /* HTTP; valid during done() */
    bool ambiguous;   /* it may have taken effect: the answer was lost after all was sent */
    bool too_long;    /* HTTP: the answer is past NET_ANSWER_BYTES_MAX, and would be again */
    int64_t duration_us;
    int64_t retry_after_ms; /* of a 429 or 503, 0 without */
    char text[256]; /* one line for people: the reason, or the server's words (control bytes replaced) */
};
typedef void net_done_fn(void *owner, const struct net_result *result);

struct net_http {
    const char *method; /* "POST" */
    const char *url;
    const char *headers[NET_HEADERS_MAX]; /* "Name: value", NULL ended; no CR or LF (asserted) */
    struct text body;
    int timeout_ms;      /* of the whole call; connecting takes at most a third of it */
    const char *ca_file; /* PEM, of the authorities that this server is trusted by; NULL: as for all calls */
};
/* Copies all. Any thread. RETRY ("net-full") past NET_CALLS_MAX: not taken. */
MUST_CHECK enum outcome net_http(struct net *net, const struct net_http *http, net_done_fn *done, void *owner,
                                 struct error *error);

struct net_mail {
    const char *url;      /* smtp://[user:password@]host:port, smtps:// */
    struct text from, to; /* bare addresses; REJECT ("address") unless net_address_valid() */
    struct text message;  /* whole, CRLF lines (see message.h) */
    int timeout_ms;
};
MUST_CHECK enum outcome net_mail(struct net *net, const struct net_mail *mail, net_done_fn *done, void *owner,
                                 struct error *error);

/* Connects (with TLS, a greeting and a login where the URL asks for them) and does nothing more: for `check`.
 * Blocks. OUTAGE says why. */
MUST_CHECK enum outcome net_reach(const char *url, int timeout_ms, struct error *error);

/* RFC 5321 Mailbox, at most 254 bytes, no control bytes; dot-string or quoted local part, domain or address
 * literal. */
bool net_address_valid(struct text address);
size_t net_calls(const struct net *net); /* in flight and waiting inside; any thread */

#endif
