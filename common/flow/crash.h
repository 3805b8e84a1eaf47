/*
 * crash: finds the record that kills the process. Before each record is decoded and handled, its place is
 * noted in a small file that is mapped into memory (a few stores, no system call); it survives SIGSEGV,
 * SIGKILL and the OOM killer, not the machine. At the next start the note names the suspect. Suspects are
 * counted in the table `suspects` (flow_tables), tried alone, and after CRASH_ATTEMPTS_MAX crashes refused:
 * the loop makes them dead letters with class CRASH. A record that is settled is no suspect any more.
 *
 * Thread: the loop's.
 */
#ifndef FLOW_CRASH_H
#define FLOW_CRASH_H

#include "kafka/consumer.h"
#include "store/rows.h"

enum {
    CRASH_ATTEMPTS_MAX = 3,
    CRASH_SUSPECTS_MAX = 1000, /* rows; past it the oldest is forgotten */
};

extern const struct rows_table suspects_table;

struct crash;

/*
 * path: of the note, made where there is none; NULL: none is kept (said by the caller). A note that an
 * earlier process left is read; a file that is not ours or cannot be written to is an error: OUTAGE where it
 * may pass (a full disk), FATAL with EXIT_CONFIG where a person must act. In use by another process: FATAL
 * with EXIT_TRY_AGAIN.
 */
MUST_CHECK enum outcome crash_open(const char *path, struct crash **ret, struct error *error);
/* The note then says "nothing in hand". Accepts NULL. */
void crash_close(struct crash *crash);

/* The record that the earlier process died on; false: it died on none. */
struct crash_place {
    char topic[256]; /* as delivered: a main or retry topic */
    int32_t partition;
    int64_t offset;
};
bool crash_found(const struct crash *crash, struct crash_place *ret);

/* In a unit of work of its own at start (before any batch): counts the found one up in suspects, loads them
 * all. *ret_crashes: of the found one, with this crash; 0 for none. Where that work fails:
 * crash_rolled_back(), and the same again, which counts once; after its commit: crash_committed(). */
void crash_load(struct crash *crash, struct work *work, int64_t now_us, int *ret_crashes);

/* Around each record's decoding and handling. Cheap. */
void crash_enter(struct crash *crash, const struct record *record);
void crash_leave(struct crash *crash);

/* Crashes counted against this record: 0 for nearly all, at the cost of a comparison. 1 or more: it goes in
 * a batch of its own. CRASH_ATTEMPTS_MAX or more: it must be refused. */
int crash_count(const struct crash *crash, const struct record *record);
/* In a unit of work, where the item is not undone any more: the record takes effect or is a dead letter with
 * this commit: no suspect any more. Nothing for one that is none. Then one of: */
void crash_settled(struct crash *crash, struct work *work, const struct record *record);
void crash_committed(struct crash *crash);
void crash_rolled_back(struct crash *crash);

#endif
