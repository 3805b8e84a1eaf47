/*
 * flood: a bad deploy or an incompatible schema must not pour a topic into the dead letters. Counts what is
 * handled and what is rejected in a sliding window; past the limit nothing more may be rejected: consuming is
 * paused (reason "flood"), and goes on by half-open probing or by `weir resume`.
 *
 *   CLOSED     counting. Opens past share (where count_min rejects are in the window) or past count_max.
 *   OPEN       nothing is taken; after the probe delay: HALF_OPEN.
 *   HALF_OPEN  PROBE_REJECTS_MAX reject(s) may pass; one more: OPEN again, the delay doubled, up to its
 *              maximum. PROBE_OK_COUNT handled records with no further reject: CLOSED, with an empty window.
 *
 * Pure: time comes in, by one clock that is not negative and does not go back. Thread: the loop's.
 */
#ifndef FLOW_FLOOD_H
#define FLOW_FLOOD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FLOOD_BUCKETS = 60, /* of the window; what is older is forgotten bucket by bucket */
    FLOOD_PROBE_MS_MIN = 10000,
    FLOOD_PROBE_MS_MAX = 600000,
    FLOOD_PROBE_REJECTS_MAX = 1,
    FLOOD_PROBE_OK_COUNT = 100,
};

enum flood_state { FLOOD_CLOSED, FLOOD_OPEN, FLOOD_HALF_OPEN };

struct flood_limits {
    int64_t window_ms; /* at least FLOOD_BUCKETS */
    int64_t count_min; /* rejects in the window before the share counts */
    int share_percent; /* of what was handled; 0: never by share */
    int64_t count_max; /* rejects in the window whatever the share; 0: never by count */
};

struct flood {
    struct flood_limits limits;
    enum flood_state state;
    struct flood_bucket {
        int64_t slot; /* now_us / bucket width */
        int64_t handled, rejected;
    } buckets[FLOOD_BUCKETS];
    int64_t probe_ms;
    int64_t probe_at_us;
    int64_t probe_ok, probe_rejected;
};

void flood_init(struct flood *flood, const struct flood_limits *limits);
/* May one more record be rejected now, in a batch (counted after its commit) of which so many were handled
 * and rejected before it? False: it must stay where it is, and flood_trip() is due. Does not count. Without
 * what the batch has so far, one of nothing but rejects would pass whole. */
bool flood_allows(const struct flood *flood, size_t handled, size_t rejected, int64_t now_us);
/* After a commit: so many took effect (or were passed), so many became dead letters. */
void flood_count(struct flood *flood, size_t handled, size_t rejected, int64_t now_us);
/* Opens (or opens again) and sets when to probe; where it is open already, nothing changes. */
void flood_trip(struct flood *flood, int64_t now_us);
/* OPEN and its delay is over: HALF_OPEN now. True when the state changed. */
bool flood_probe(struct flood *flood, int64_t now_us);
/* An operator says that it is mended: CLOSED, with an empty window. */
void flood_resume(struct flood *flood);
/* What is in the window, for the log. */
void flood_window(const struct flood *flood, int64_t now_us, int64_t *ret_handled, int64_t *ret_rejected);

#endif
