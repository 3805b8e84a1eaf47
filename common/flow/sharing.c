/* sharing: several processes of one service on one database. Which parts of the keys are to be this one's
 * follows Kafka's assignment; a part that is not wanted any more is kept until what was sent for it is
 * reported. */
#include "flow/loop.h"

#include "base/clock.h"

enum { SHARING_RELEASE_MS = 2000 }; /* a part that Kafka has taken away is kept so long at most */

static void want(struct dispatch *dispatch)
{
    struct instances *instances = &dispatch->instances;
    bool held[INSTANCE_PARTS_MAX];
    int32_t there = consumer_first(dispatch->consumer, held, INSTANCE_PARTS_MAX);
    if (dispatch->topic_count == 0)
        there = 1; /* no topic is read: whoever comes first */
    if (there > instances->part_count)
        instances->part_count = there;
    for (int32_t part = 0; part < instances->part_count; part++) {
        bool wanted =
            instances->others == 0 || held[part] || (there && part >= there) || dispatch->topic_count == 0;
        /* Wanted again before it was let go: what was written meanwhile was passed over. */
        if (wanted && !instances->wanted[part] && instances->owned[part])
            relay_look_again(dispatch->relay);
        instances->wanted[part] = wanted;
    }
}

/* What is let go: as soon as nothing of it is under way, or after a while. Who has it then sends again what
 * is still in the table, with the same ids. */
static void keep(struct dispatch *dispatch, int64_t now_us)
{
    struct instances *instances = &dispatch->instances;
    bool busy[INSTANCE_PARTS_MAX] = {false};
    bool any = false;
    for (int32_t part = 0; part < instances->part_count; part++) {
        bool going = instances->owned[part] && !instances->wanted[part];
        instances->busy[part] = false;
        any = any || going;
        if (!going)
            dispatch->release_until_us[part] = 0;
        else if (!dispatch->release_until_us[part])
            dispatch->release_until_us[part] = now_us + SHARING_RELEASE_MS * INT64_C(1000);
    }
    if (any)
        relay_parts(dispatch->relay, busy);
    for (int32_t part = 0; any && part < instances->part_count; part++)
        instances->busy[part] = busy[part] && now_us < dispatch->release_until_us[part];
}

bool sharing_beat(struct dispatch *dispatch)
{
    struct instances *instances = &dispatch->instances;
    struct store *store = dispatch->settings.store;
    struct error error;
    int64_t now_us = clock_monotonic_us();
    unsigned rebalances = consumer_rebalances(dispatch->consumer);
    if (instances->shared && rebalances != dispatch->rebalances)
        instances->beat_us = 0;
    if (now_us < instances->beat_us || (instances->part_count && !instances->shared))
        return true;
    relay_send(dispatch->relay); /* what is under way is known before a part is let go */
    int32_t others = instances->others;
    bool joined = instances->joined;
    if (joined) {
        want(dispatch);
        keep(dispatch, now_us);
    }
    enum outcome outcome = instances_beat(store, instances, &error);
    if (outcome == FATAL)
        give_up(dispatch, &error);
    if (outcome != OK) {
        outage_begin(dispatch, &error);
        return false;
    }
    if (!joined && instances->shared)
        instances->beat_us = 0; /* and now with what is wanted */
    dispatch->rebalances = rebalances;
    if (instances->gained_count || (others && !instances->others))
        relay_look_again(dispatch->relay);
    if (others != instances->others)
        log_info("instances", "the number of processes on this database has changed",
                 LOG_INT("others", instances->others), LOG_INT("parts_owned", instances->owned_count),
                 LOG_INT("parts", instances->part_count));
    atomic_store(&dispatch->instances_seen, instances->others + 1);
    atomic_store(&dispatch->parts_owned, instances->owned_count);
    atomic_store(&dispatch->parts_wanted, instances->wanted_count);
    return true;
}

int64_t sharing_wait_ms(const struct dispatch *dispatch, int64_t now_us)
{
    if (!dispatch->instances.shared)
        return INT64_MAX;
    return dispatch->instances.beat_us > now_us ? (dispatch->instances.beat_us - now_us + 999) / 1000 : 0;
}

bool sharing_leave(struct dispatch *dispatch)
{
    struct instances *instances = &dispatch->instances;
    struct error error;
    bool left;
    if (!instances->shared ||
        instances_leave_empty(dispatch->settings.store, instances, &left, &error) != OK || left)
        return true; /* or nobody can tell: the next one to start looks */
    instances->beat_us = 0;
    relay_look_again(dispatch->relay);
    return false;
}
