/*
 * failures: what goes wrong on purpose in the stand-ins, and the list that weir up --chaos is given.
 *
 * A list is NAME=VALUE, comma-separated, each at most once; a share is "0.5%", a window "8s/45s": away for
 * the last 8 seconds of every 45, connections refused.
 *
 *   gateway   5xx=P%      answered with 503, nothing is done
 *             timeout=P%  nothing is done, and never answered
 *             lost=P%     done, then the connection is closed without an answer
 *             outage=T/U
 *   mail      4yz=P%      of the recipients, with 451
 *             421=P%      of the recipients, with 421, and the connection is closed
 *             lost=P%     of the mails: kept, then the connection is closed without an answer
 *             outage=T/U
 */
#ifndef WEIR_FAILURES_H
#define WEIR_FAILURES_H

#include "base/error.h"
#include "base/text.h"

enum failures_of { FAILURES_GATEWAY, FAILURES_MAIL };

struct failures {
    uint32_t refuse_ppm;  /* 5xx, 4yz: parts per million */
    uint32_t closing_ppm; /* 421; mail only */
    uint32_t timeout_ppm; /* gateway only */
    uint32_t lost_ppm;
    int64_t away_us, every_us; /* both 0: never away */
};
enum { FAILURES_PPM = 1000000, FAILURES_PPM_PER_PERCENT = 10000 };

/* NULL or empty: none. REJECT with exit code EXIT_CONFIG: name says which setting, the text what is allowed.
 */
MUST_CHECK enum outcome failures_parse(const char *name, const char *list, enum failures_of of,
                                       struct failures *ret, struct error *error);

/*
 * --chaos: what the handlers do by flow/chaos.h's names, what the stand-ins do by theirs with gateway- or
 * smtp- in front; the words handlers, gateway and smtp alone are the lively mix of each, and "lively" is all
 * three.
 */
enum { CHAOS_LIST_BYTES_MAX = 512 };
#define CHAOS_LIVELY          "lively"
#define CHAOS_LIVELY_HANDLERS "keys=1%:2,poison=0.1%"
#define CHAOS_LIVELY_GATEWAY  "5xx=2%,lost=0.5%,outage=8s/45s"
#define CHAOS_LIVELY_SMTP     "4yz=1%,421=0.2%,outage=6s/35s"
struct chaos_list {
    char handlers[CHAOS_LIST_BYTES_MAX]; /* CHAOS of the services; empty: nothing */
    char gateway[CHAOS_LIST_BYTES_MAX];  /* GATEWAY_CHAOS */
    char mail[CHAOS_LIST_BYTES_MAX];     /* MAIL_CHAOS */
};
/* All three are checked as their readers will. NULL or empty: nothing anywhere. */
MUST_CHECK enum outcome chaos_list_parse(const char *list, struct chaos_list *ret, struct error *error);

#endif
