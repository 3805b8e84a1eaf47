/* tick: what a service does by the clock. Each in a unit of work of its own, so that what it finds by a
 * condition is exact. */
#include "flow/loop.h"

#include "base/clock.h"

static enum outcome tick_try(struct dispatch *dispatch, const struct tick *tick, bool *ret_again,
                             struct error *error)
{
    struct work *work = dispatch->work;
    enum outcome outcome = work_begin(work, error);
    if (outcome != OK)
        return outcome;
    dispatch->context.now_us = clock_wall_us();
    dispatch->trip = false; /* it rejects nothing: what a batch before it could not is told already */
    relay_turn(dispatch->relay, work);
    outcome = work_read(work, error);
    if (outcome == OK) {
        work_item_begin(work);
        lanes_item_begin(dispatch->lanes);
        waiting_item_begin(&dispatch->room);
        context_enter(&dispatch->context, id_new(), TEXT(""));
        *ret_again = false;
        if (tick) {
            outcome = tick->handle(work, ret_again, error);
        } else {
            size_t ids =
                inbox_prune(work, dispatch->context.now_us - dispatch->inbox_age_us, INBOX_PRUNE_MAX);
            size_t keys = idempotency_prune(work, dispatch->context.now_us);
            *ret_again = ids == INBOX_PRUNE_MAX || keys == IDEMPOTENCY_PRUNE_MAX;
        }
        if (outcome == OK)
            outcome = work_failed(work, error);
    }
    if (outcome == OK)
        lanes_begin(dispatch->lanes, work, dispatch->context.now_us);
    if (outcome == OK)
        outcome = work_commit(work, error);
    if (outcome != OK)
        batch_rolled_back(dispatch);
    return outcome;
}

static void tick_run(struct dispatch *dispatch, const struct tick *tick, int64_t interval_ms, int64_t *due_us)
{
    struct error error;
    bool again = false;
    enum outcome outcome = tick_try(dispatch, tick, &again, &error);
    int64_t now_us = clock_monotonic_us();
    *due_us = again ? now_us : now_us + interval_ms * 1000;
    if (outcome == OK) {
        batch_let_go(dispatch, NULL, 0, now_us);
    } else if (outcome == FATAL) {
        give_up(dispatch, &error);
    } else if (store_raced(&error)) {
        log_debug("tick", "another instance was in the way of a tick: it comes again",
                  LOG_STRING("tick", tick ? tick->name : "prune"));
    } else if (outcome == OUTAGE) {
        outage_begin(dispatch, &error);
    } else {
        log_error("tick", "a tick failed and comes again", LOG_STRING("tick", tick ? tick->name : "prune"),
                  LOG_STRING("error", error.text));
    }
}

void ticks_run(struct dispatch *dispatch)
{
    const struct tick *tick = dispatch->settings.ticks;
    route_tell_rest(dispatch, false);
    for (size_t i = 0; tick && tick[i].name; i++)
        if (dispatch->tick_due_us[i] <= clock_monotonic_us() && !dispatch->outage_until_us)
            tick_run(dispatch, &tick[i], tick[i].interval_ms, &dispatch->tick_due_us[i]);
    if (dispatch->prune_due_us <= clock_monotonic_us() && !dispatch->outage_until_us)
        tick_run(dispatch, NULL, PRUNE_INTERVAL_MS, &dispatch->prune_due_us);
}

int64_t ticks_wait_ms(const struct dispatch *dispatch, int64_t now_us)
{
    int64_t due_us = dispatch->prune_due_us;
    const struct tick *tick = dispatch->settings.ticks;
    for (size_t i = 0; tick && tick[i].name; i++)
        if (dispatch->tick_due_us[i] < due_us)
            due_us = dispatch->tick_due_us[i];
    return due_us > now_us ? (due_us - now_us + 999) / 1000 : 0;
}
