/*
 * inbox: the ids of the events that were handled, so that each takes effect once.
 *
 * A row is (id, attempt, at). attempt 0: handled. n > 0: the record's n-th attempt failed and its copy
 * was moved on (to a retry topic or to the dead letters), so that the n-th attempt delivered again is a
 * duplicate, and the copy, which is attempt n + 1, is not.
 *
 * An event whose effect tells by itself that it was there (by_effect: a row by the order's id, say) needs no
 * row of attempt 0: PostgreSQL then only reads here, for what was moved on, and SQLite, where a row is cheap,
 * writes one all the same.
 */
#ifndef STORE_INBOX_H
#define STORE_INBOX_H

#include "store/rows.h"

struct inbox_note {
    struct id id;
    int32_t attempt; /* of the record in hand: 1 on a main topic, weir_attempt on a retry topic */
    bool by_effect;  /* may be not seen although it was handled: who handles it finds out */
    bool seen;       /* after work_read(): handled before, or this attempt was moved on before  */
};

/* Between work_begin() and work_read(). notes live in the work's arena or longer; an id that stands twice in
 * one work is seen at its second place. */
void inbox_note(struct work *work, struct inbox_note *notes, size_t count);
/* The item in hand did not take effect: its attempt was moved on. */
void inbox_moved(struct work *work, const struct inbox_note *note);
/* The item in hand did not take effect and stays where it is (its partition is held): as if never noted. */
void inbox_forget(struct work *work, const struct inbox_note *note);
/* Deletes rows older than before_us, at most limit; returns how many. Ticks call it. It walks the ids in
 * their order, goes on where the last call stopped and looks at no more than INBOX_PRUNE_WINDOWS x limit, so
 * that no index by time has to be kept up: fewer than limit does not mean that none is left. */
enum { INBOX_PRUNE_WINDOWS = 16 };
size_t inbox_prune(struct work *work, int64_t before_us, size_t limit);

#endif
