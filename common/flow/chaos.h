/*
 * chaos: failures on purpose in front of the handlers, for show and for tests; off unless CHAOS says so.
 *
 * CHAOS is a comma-separated list of what fails, each at most once:
 *
 *   keys=P%[:N]     handlers of P per cent of the keys (by a hash of the key: the same ones every time) say
 *                   RETRY for the first N deliveries (default 2) of each record
 *   poison=P%       P per cent of the event ids are rejected (class REJECT, cause "chaos")
 *   outage=T/U      all handlers say OUTAGE for T out of every U (durations), by wall time
 *   slow=P%:T       handling of P per cent of the records takes T longer (bounded: 10 s)
 *   crash=P%        handling of P per cent of the event ids kills the process (abort)
 *   seed=N          other keys and ids
 *
 * A share is a percentage with up to four fraction digits, a duration as in all settings. Where several meet,
 * an outage comes first, then slow, crash, poison, keys. The same list chooses the same keys and ids in every
 * process. Pure but for slow and crash, which chaos_strike() does.
 */
#ifndef FLOW_CHAOS_H
#define FLOW_CHAOS_H

#include "base/ids.h"
#include "base/text.h"

enum { CHAOS_DELIVERIES_MAX = 1000, CHAOS_SLOW_MS_MAX = 10000 };

struct chaos {
    bool on;
    uint64_t seed;
    uint32_t keys_ppm, poison_ppm, slow_ppm, crash_ppm; /* parts per million */
    int keys_deliveries;
    int64_t outage_us, outage_every_us, slow_us;
};

/* REJECT: text is not a list as above, the error says what is allowed. Empty: off. *ret is set whole. */
MUST_CHECK enum outcome chaos_parse(struct text text, struct chaos *ret, struct error *error);
/* For other lists of the same kind (what the stand-ins of `weir up` do): "0.1%" in parts per million; "T/U",
 * T shorter than U, at most a day. */
bool chaos_parse_share(struct text text, uint32_t *ret_ppm);
bool chaos_parse_window(struct text text, int64_t *ret_away_us, int64_t *ret_every_us);
/* Before a handler: OK, or what happens instead of it. delivery: 1 for the first. */
enum outcome chaos_strike(const struct chaos *chaos, struct text key, struct id id, int delivery,
                          int64_t now_us, struct error *error);

#endif
