/*
 * client_rate: a token bucket for each client that has been seen lately: rate requests a second, burst at
 * once. Any thread.
 *
 * At most max clients are known; past it the one that was seen longest ago is forgotten, and begins anew
 * with a full bucket. An IPv6 client is its network of 64 bits, because whoever has one such address has all
 * of them.
 */
#ifndef SERVICE_CLIENT_RATE_H
#define SERVICE_CLIENT_RATE_H

#include "service/client.h"

enum { CLIENT_RATE_CLIENTS_MAX = 65536, CLIENT_RATE_MAX = 1000000 };

struct client_rate;

/* rate and burst: 1 to CLIENT_RATE_MAX. About 60 bytes for each of max clients. */
MUST_CHECK enum outcome client_rate_open(int64_t rate, int64_t burst, size_t max, struct client_rate **ret,
                                         struct error *error);
void client_rate_close(struct client_rate *rate); /* accepts NULL */
/* One request, at clock_monotonic_us(). 0: it may come in; else the seconds, at least 1, after which one
 * may. */
int client_rate_take(struct client_rate *rate, const struct client_address *address, int64_t now_us);

#endif
