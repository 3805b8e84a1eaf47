/*
 * work: the inside of struct store and struct work, for those that work on it only: work.c (its life),
 * work_map.c (the rows in hand), rows.c (how they are asked for), inbox.c, outbox.c, waiting.c and store.c.
 */
#ifndef STORE_WORK_H
#define STORE_WORK_H

#include "store/acks.h"
#include "store/backend.h"
#include "store/newcomers.h"

#include <stdatomic.h>

struct store {
    struct backend *backend;
    _Atomic int64_t outbox_rows;
    _Atomic int64_t outbox_oldest_us;
    struct acks acks;
    struct newcomers newcomers;
};

/* Of rows, notes and outbox rows in one work, each. */
enum { WORK_LIST_COUNT_MAX = 1 << 20 };

/* Grows by doubling and is kept from batch to batch, so that a steady load allocates nothing. */
struct work_list {
    void *at;
    size_t count;
    size_t capacity;
};

struct work_slot {
    uint32_t generation; /* other than the map's: empty */
    uint32_t hash;
    struct rows_entry *entry;
};

/* The rows in hand of one table, by key and in the order in which they came. */
struct work_map {
    const struct rows_table *table;
    struct work_slot *slots;
    size_t slot_mask;
    uint32_t generation;
    struct work_list entries; /* of struct rows_entry * */
    size_t unread;            /* entries from here on may have been wanted and not read */
    size_t deleted;           /* at most so many are in the database and not present */
};

struct work_saved {
    struct rows_entry *entry;
    size_t offset; /* of the row's bytes in saved_bytes, where it was present */
    bool present;
};

struct work_saved_note {
    struct backend_note *note;
    int32_t now;
};

struct work_after {
    void (*call)(void *what);
    void *what;
};

struct work_notes {
    struct inbox_note *first;
    size_t count;
    size_t index; /* of the first in notes */
};

struct work {
    struct store *store;
    struct arena *arena;
    void *owner;
    bool open;
    bool read;
    struct error failure; /* outcome OK: none */
    int64_t begun_us;

    struct work_map maps[ROWS_TABLES_MAX];
    size_t map_count;

    uint32_t item;                /* 0: before the first */
    struct work_list saved;       /* of struct work_saved */
    struct work_list saved_bytes; /* of char */
    struct work_list saved_notes; /* of struct work_saved_note */
    size_t item_added, item_done, item_refused, item_after;
    struct work_list after; /* of struct work_after */

    struct work_list notes;       /* of struct backend_note */
    struct work_list note_ranges; /* of struct work_notes */
    bool pruned;                  /* rows of the inbox were deleted */

    struct work_list added;   /* of struct outbox_row */
    struct work_list done;    /* of int64_t: events, the refused among them */
    struct work_list refused; /* of struct backend_refusal */
    /* Rows that other instances wrote for this one: as they were read with the commit. */
    size_t elsewhere_limit, elsewhere_count, elsewhere_packs, elsewhere_bytes;
    struct outbox_row *elsewhere;
    bool elsewhere_read, elsewhere_more;
    const struct rows_table *asked;
    bool any;
    bool newcomers; /* rows were wanted that are likely to be new */

    struct rows_entry *nowhere; /* given out by rows_add() after a failure */
};

void work_fail_memory(struct work *work);
static inline bool work_has_failed(const struct work *work)
{
    return work->failure.outcome != OK;
}
/* Room for one more at the end, counted already; NULL: the work has failed. */
void *work_list_add(struct work *work, struct work_list *list, size_t item_bytes);

/* ---- the rows in hand (work_map.c). Where memory is out the work has failed: NULL or false */

/* Made at the first call. */
struct work_map *work_map_of(struct work *work, const struct rows_table *table);
static inline struct rows_entry **work_map_entries(const struct work_map *map)
{
    return map->entries.at;
}
/* key: a row's struct with its key columns set; hash: its work_key_hash(). NULL: not in hand. */
struct rows_entry *work_map_find(const struct work_map *map, uint64_t hash, const void *key);
/* A new entry with its key, neither known nor present. */
struct rows_entry *work_map_add(struct work *work, struct work_map *map, uint64_t hash, const void *key);
void work_map_clear(struct work_map *map);
bool work_map_changed(const struct work_map *map);
/* Sorts the entries of a map into what is to be done with them. */
bool work_map_prepare(struct work *work, struct work_map *map, struct backend_table_writes *writes);
uint64_t work_key_hash(const struct rows_table *table, const void *key);
/* Of the same key in different tables another one. */
uint64_t work_table_hash(const struct rows_table *table, uint64_t key_hash);
/* Copies columns [0, count) with their text. */
bool work_columns_copy(struct arena *arena, const struct rows_table *table, size_t count, void *to,
                       const void *from);
/* What the database has is in entry->row. */
bool work_entry_loaded(struct work *work, struct rows_entry *entry);
/* Before a row is given out or changed in an item: as it is, into the journal, once. */
bool work_entry_touch(struct work *work, struct rows_entry *entry);
/* Reads one that was not named in time. */
bool work_entry_read(struct work *work, struct rows_entry *entry);

/* ---- its commit */

/* For work.c: puts packs, ranges and refusals into apply. */
bool outbox_prepare(struct work *work, struct backend_apply *apply);
/* For work.c, after the commit, or where there was nothing to commit: numbers, and what is acknowledged. */
void outbox_committed(struct work *work, const struct backend_apply *apply);
/* For work.c: what elsewhere_limit asks for. */
void outbox_elsewhere_prepare(struct work *work, struct backend_apply *apply);
/* For work.c: the rows to write whose attempt is not what the fetch left there. */
bool inbox_prepare(struct work *work, struct backend_apply *apply);
bool inbox_changed(const struct work *work);

#endif
