/* outage: nothing is wrong with the records, something they need is away. Paused, said once, tried again with
 * backoff. */
#include "flow/loop.h"

#include "base/clock.h"

#include <stdio.h>

void give_up(struct dispatch *dispatch, const struct error *error)
{
    if (dispatch->fatal)
        return;
    dispatch->fatal = true;
    dispatch->fatal_error = *error;
    log_error("dispatch", "cannot go on: draining", LOG_STRING("error", error->text));
}

/* The store, or what a handler needs, is away: nothing is taken for a while. Said once, not once a try. */
void outage_begin(struct dispatch *dispatch, const struct error *error)
{
    if (!dispatch->outage_ms) {
        log_error("dispatch", "outage: paused until it is over; nothing is lost",
                  LOG_STRING("error", error->text));
        snprintf(dispatch->outage_reason, sizeof(dispatch->outage_reason), "%s", error->text);
        atomic_store(&dispatch->in_outage, true);
        consumer_pause(dispatch->consumer, PAUSE_OUTAGE);
    }
    dispatch->outage_ms = dispatch->outage_ms ? dispatch->outage_ms * 2 : DISPATCH_OUTAGE_MS_MIN;
    if (dispatch->outage_ms > DISPATCH_OUTAGE_MS_MAX)
        dispatch->outage_ms = DISPATCH_OUTAGE_MS_MAX;
    dispatch->outage_until_us = clock_monotonic_us() + dispatch->outage_ms * 1000;
}

void outage_end(struct dispatch *dispatch)
{
    if (!dispatch->outage_ms)
        return;
    dispatch->outage_ms = 0;
    dispatch->outage_until_us = 0;
    atomic_store(&dispatch->in_outage, false);
    consumer_resume(dispatch->consumer, PAUSE_OUTAGE);
    log_info("dispatch", "outage is over", LOG_STRING("was", dispatch->outage_reason));
}
