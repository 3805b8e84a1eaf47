/* clang-format off */
/*
 * bench: an open-loop load of orders against a system that runs, measured to where each order ends.
 *
 *     weir bench [--through http|kafka] [--rate N[,N…] | --steps A:B:K | --knee] [--arrivals poisson|constant]
 *                [--warmup 5s] [--duration 20s] [--connections N] [--settle 60s] [--seed S] [--goods N]
 *                [--pid NAME=PID[+],…] [--json FILE] [--hdr PREFIX]
 *
 * A step is one rate: warm-up, then the window, at the end of which no more orders leave; then it settles. The
 * intended start of each order is drawn before the step begins, and every time is measured from it, whatever
 * held the order up. An order that finds all connections busy waits, and its clock runs.
 *
 * --json FILE, form 1. Times are microseconds unless their name says otherwise; null where there was nothing to
 * measure.
 *
 *     {"form": 1, "begun_at": RFC 3339, "ended_at": RFC 3339, "interrupted": bool,
 *      "versions": {"weir", "librdkafka"},
 *      "machine": {"cores", "cpu", "kernel", "memory_bytes"},
 *      "settings": {"through", "order_url", "brokers", "arrivals", "seed", "connections", "warmup_ms",
 *                   "duration_ms", "settle_ms", "goods", "outstanding_max", "mails", "knee", "rates": [number…]},
 *      "steps": [step…],
 *      "knee": null | {"rate": orders/s, "step": its number, "failed_rate": lowest not sustained, or null},
 *      "broken": orders of all steps that were accepted and never decided, or sent and never answered,
 *      "exit_code": as of the program}
 *
 *   step:
 *     {"step": from 1, "rate": orders/s as asked for, "begun_at": of the first intended start, "window_us",
 *      "valid": bool, "invalid_because": text | null,     a figure of a step that is not valid says nothing
 *      "sustained": bool, "not_sustained_because": text | null,
 *      "orders": counts of those due in the window, "orders_all": counts with the warm-up's,
 *      "rates": {"offered", "accepted", "decided", "confirmed", "mailed"},
 *                                                         a second, of what happened within the window
 *      "outstanding": {"begin", "end", "max", "returned_us"},
 *                     sent and not decided, at the window's two ends; how long after its end there were no more
 *                     than at its begin (null: never)
 *      "generator": {"behind", "behind_max_us", "behind_p99_us", "waited", "waited_max_us", "resent", "cpu_us",
 *                    "cpu_us_per_order"},
 *      "reader": {"records", "behind_max_us"},            the longest time for which there was always a next one
 *      "latency": {"accepted": histogram, "decided": histogram, "confirmed": histogram, "mailed": histogram,
 *                  "decided_quarter_p99_us": [4 numbers]},
 *                                                         of those due in the window; by quarters of the window
 *      "processes": {NAME: {"cpu_us", "cpu_us_per_order", "rss_bytes", "rss_bytes_max", "read_bytes",
 *                           "written_bytes"}},            within the window; orders are those decided in it
 *      "timeline": [[second, sent, accepted, decided, confirmed, mailed, outstanding, p50_us, p99_us, max_us]…]}
 *                     each second from the step's begin, what happened in it; the last three are from intended
 *                     start to decision, of those decided in it
 *   counts:
 *     {"offered", "sent", "dropped": not sent (the bound on outstanding ones was reached, the step was cut short),
 *      "accepted", "refused": answered anything else, "decided", "confirmed", "rejected", "cancelled",
 *      "mailed": of the confirmed, "mails_missing", "broken": accepted and not decided within --settle,
 *      "lost": sent, and neither accepted nor refused, "placed_seen": OrderPlaced is on the topic,
 *      "placed_again", "decided_again": records beyond the first; in orders_all only}
 *   histogram:
 *     {"count", "min_us", "mean_us", "p50_us", "p90_us", "p99_us", "p99_9_us", "p99_99_us", "max_us",
 *      "buckets": [[highest value that counts here, count]…]}    only those with a count; base/hdr.h
 *
 * "behind": sent more than BENCH_BEHIND_US after the intended start although a connection was free: the
 * generator's own fault. "waited": likewise, because none was. Where more than BENCH_BEHIND_PERCENT_MAX of the
 * orders left later than BENCH_LATE_US by the generator's own fault, the generator was the bottleneck and the
 * step is not valid.
 *
 * A rate is sustained where the step is valid, at least 97 % of what was offered was decided within the window,
 * the p99 of the last quarter is not more than twice that of the first and 100 ms, no more are outstanding a
 * second after the load than before the window, and no order is broken.
 */
/* clang-format on */
#ifndef WEIR_BENCH_H
#define WEIR_BENCH_H

#include "base/text.h"

enum {
    BENCH_CONNECTIONS_MAX = 4096,
    BENCH_RATE_MAX = 200000,
    BENCH_STEPS_MAX = 64,
    BENCH_STEP_ORDERS_MAX = 8 << 20, /* of a step, 32 bytes each */
    BENCH_OUTSTANDING_MAX = 1 << 20, /* what --outstanding-max may be */
    BENCH_GOODS_MAX = 10000,
    BENCH_PROCESSES_MAX = 32,
    BENCH_TIMELINE_MAX = 3600, /* seconds of a step */
    BENCH_BEHIND_US = 1000,
    BENCH_LATE_US = 10000,
    BENCH_BEHIND_PERCENT_MAX = 1,
    BENCH_READER_BEHIND_US = 1000000, /* past it the times are the reader's own, and the step is not valid */
};

#endif
