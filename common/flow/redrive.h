/*
 * redrive: sends dead letters back to the service that failed on them, or drops them for good: how many it
 * would be (the forecast), then one after another at a bounded rate, each with its record in the audit.
 *
 * A letter is settled when its copy is durable and its audit record is. In between a crash leaves the letter
 * open: it is sent again by the next run, and the service lets one delivery of an event take effect once
 * (store/inbox.h). So a run can be stopped anywhere and begun again, and takes only what is still open.
 *
 * Order: the copies of one key are sent in the order of its letters, by an idempotent producer with acks=all.
 *
 * For tools and threads of their own: each call waits for Kafka. Prints and logs nothing.
 */
#ifndef FLOW_REDRIVE_H
#define FLOW_REDRIVE_H

#include "flow/causes.h"
#include "flow/letters.h"

enum {
    REDRIVE_IN_FLIGHT_MAX = 2048,          /* copies sent and not yet settled          */
    REDRIVE_IN_FLIGHT_BYTES_MAX = 8 << 20, /* their keys, values and audit records     */
    REDRIVE_ACK_MS = 60000,                /* no acknowledgement for so long: given up */
    REDRIVE_DELIVERIES_MAX = 1500000,      /* looked through for duplicates; 16 MiB    */
    REDRIVE_BY_BYTES_MAX = 128,
};

struct redrive_done;
struct redrive_settings {
    struct letters_settings letters; /* whose; .filter lent; .stopped ends a run after what is in flight */
    bool drop;
    bool again;             /* also what was redriven or dropped before       */
    const char *reason;     /* of a drop: never NULL there                    */
    const char *by;         /* user@host                                      */
    int64_t first_delay_ms; /* of RETRY_DELAYS                                */
    int64_t rate_per_hour;  /* as SETTING_RATE; 0: no limit                   */
    int64_t limit;          /* at most so many letters; 0: all                */
    const char *run;        /* its id; NULL: a new one                        */
    int finish_ms;          /* for what is in flight after a stop; 0: REDRIVE_ACK_MS */
    void (*progress)(void *owner, const struct redrive_done *done); /* now and then; may be NULL */
    void *progress_owner;
};

struct redrive_forecast {
    struct causes causes;           /* of all that match, to be freed by redrive_forecast_free()  */
    size_t matching;                /* in whatever state                                          */
    size_t open, redriven, dropped; /* by state                                                   */
    size_t sent;                    /* would be sent (or dropped) now                             */
    size_t home;                    /* of them to the topic where they first were                 */
    size_t duplicates;              /* of them the service would let pass without an effect       */
    bool duplicates_at_least;       /* there may be more: past REDRIVE_DELIVERIES_MAX             */
    size_t unreadable;              /* cannot be sent: no word of where they came from, or no such topic */
    char unreadable_first[256];     /* one of them, and why                                       */
    int64_t seconds;                /* at the rate                                                */
};
/* RETRY ("stopped") where it was stopped. */
MUST_CHECK enum outcome redrive_foresee(const struct redrive_settings *settings, struct redrive_forecast *ret,
                                        struct error *error);
void redrive_forecast_free(struct redrive_forecast *forecast);

struct redrive_done {
    char run[ID_TEXT_BYTES + 1]; /* in every audit record                            */
    size_t sent;                 /* copies acknowledged and in the audit             */
    size_t passed;               /* not open: redriven or dropped before             */
    size_t unreadable;           /* left where they are                              */
    size_t refused;              /* by Kafka, for what they are (too large): left    */
    char refused_first[256];     /* one that is unreadable or refused, and why       */
    bool stopped;                /* asked to, before all was done                    */
};
/*
 * OK also where it was stopped: see *ret, which is set whatever comes. RETRY: Kafka did not acknowledge any
 * more; what is not settled is open, run it again. FATAL ("topic"), EXIT_CONFIG: there is no topic `audit`.
 */
MUST_CHECK enum outcome redrive_run(const struct redrive_settings *settings, struct redrive_done *ret,
                                    struct error *error);

/* Waiting for a rate. GCRA: a burst of at most a tenth of a second's worth, then evenly. Pure. */
struct pace {
    int64_t interval_us, burst_us, next_us; /* interval 0: no limit */
};
struct pace pace_of(int64_t per_hour, int64_t now_us);
/* 0: go, and it is counted; else how long to wait before asking again. */
int64_t pace_wait_us(struct pace *pace, int64_t now_us);

#endif
