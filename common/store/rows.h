/*
 * rows: tables as C structs, and the unit of work in which a batch reads and changes them.
 *
 * A handler works on rows in memory: rows_get(), change the struct, rows_add(), rows_delete(). Before the
 * handlers run, what the batch will need is named (rows_want) and read in one statement a table; after
 * them, what is new or changed is written in one statement a table. A row that was not named is read
 * when it is asked for: slower, never wrong.
 *
 * Life of a unit of work, all on the loop's thread:
 *
 *     work_begin      BEGIN (SQLite: IMMEDIATE); nothing is sent to PostgreSQL yet
 *       rows_want, inbox_note …
 *     work_read       all that was wanted, in one go; once more where that made something else wanted
 *       for each item: work_item_begin, handler, and where it failed work_item_undo
 *     work_commit     writes, inbox, outbox, COMMIT, in one go
 *
 * Rows, their text and all that handlers take from work_arena() live until the next work_begin().
 * A failed read or a full arena sticks: work_failed() says so, rows_get() gives NULL from then on, and
 * work_commit() refuses. So handlers need not check.
 */
#ifndef STORE_ROWS_H
#define STORE_ROWS_H

#include "base/ids.h"
#include "base/text.h"
#include "store/store.h"

enum rows_type {
    ROWS_INT,   /* int64_t      BIGINT  */
    ROWS_TEXT,  /* struct text  TEXT    */
    ROWS_BYTES, /* struct text  BLOB, BYTEA */
    ROWS_ID,    /* struct id    BLOB, UUID  */
};

struct rows_column {
    const char *name;
    enum rows_type type;
    size_t offset;
};
#define ROWS_COLUMN(row, member, type)                                                                       \
    {                                                                                                        \
#member, (type), offsetof(struct row, member)                                                        \
    }

enum { ROWS_COLUMNS_MAX = 24, ROWS_KEY_COLUMNS_MAX = 4, ROWS_INDEXES_MAX = 4, ROWS_TABLES_MAX = 16 };

/* All columns are NOT NULL: no value is 0 or the empty text. A constant table at file scope. */
struct rows_table {
    const char *name;
    const struct rows_column *columns;
    size_t column_count;
    size_t key_count; /* the first so many columns are the primary key (SQLite: WITHOUT ROWID) */
    size_t row_bytes; /* sizeof the struct */
    const char *indexes[ROWS_INDEXES_MAX]; /* "state, due_at": column lists; "part WHERE open = 1" */
    const char *check;                     /* SQL of a CHECK constraint, or NULL */
    bool busy; /* few rows, changed again and again: PostgreSQL keeps room for that in their pages */
};

struct work;

/* bytes_max: of the arena, a batch's all. */
MUST_CHECK enum outcome work_new(struct store *store, size_t bytes_max, struct work **ret,
                                 struct error *error);
void work_destroy(struct work *work); /* accepts NULL; rolls back */
struct arena *work_arena(struct work *work);
void work_set_owner(struct work *work, void *owner); /* for the flow: what a work belongs to */
void *work_owner(const struct work *work);

MUST_CHECK enum outcome work_begin(struct work *work, struct error *error);
MUST_CHECK enum outcome work_read(struct work *work, struct error *error);
/* Items are numbered from 0 in the order of their beginning. Undo puts back every row that the item touched,
 * takes away those it added, and what it put into outbox and inbox. */
void work_item_begin(struct work *work);
void work_item_undo(struct work *work);
/* Makes the work fail, as a failed read does; the first failure stays. A failure inside an item goes away
 * with its undo. */
void work_fail(struct work *work, const struct error *error);
/* The first failure that stuck, or OK. */
enum outcome work_failed(const struct work *work, struct error *error);
/* Called with what, on the loop's thread, once the work is committed; never where the item is undone or the
 * work rolled back. what lives as long as the work's arena. */
void work_after_commit(struct work *work, void (*call)(void *what), void *what);
/* True when something would be written: a batch of nothing but reads needs no commit. */
bool work_changed(const struct work *work);
/* OK: durable. OUTAGE, RETRY: nothing was written (for PostgreSQL also: it was looked up after a lost
 * answer). REJECT: a constraint; nothing was written. Also ends the transaction where nothing changed. */
MUST_CHECK enum outcome work_commit(struct work *work, struct error *error);
void work_rollback(struct work *work);

/* key: a row struct with its key columns set. */
void rows_want(struct work *work, const struct rows_table *table, const void *key);
/*
 * The same of a key that comes with something new, so that a row with it is unlikely to be there, and that
 * gets one from every item that finds none. Where several processes may work on the database it is then taken
 * for not there, without a look, unless it came before (store/newcomers.h). If it is there all the same,
 * work_commit() fails as after a race (store_raced()), and is looked for when the batch is run again. Where
 * rows_want() names it as well before work_read(), it is looked for.
 */
void rows_want_new(struct work *work, const struct rows_table *table, const void *key);
/* The row to read and to change, the same pointer all through the batch; NULL where there is none. Key
 * columns stay as they are. Text put into it lives as long as the work's arena. Each item asks for its rows
 * itself: what it changes through a pointer from an earlier item is not undone. */
void *rows_get(struct work *work, const struct rows_table *table, const void *key);
/* A copy of row, text included, that is written at commit. A row with this key must not be there: where it is
 * in hand already the work fails with REJECT, where it was never looked for, work_commit() does. Never NULL:
 * after a failure the copy goes nowhere. */
void *rows_add(struct work *work, const struct rows_table *table, const void *row);
void rows_delete(struct work *work, const struct rows_table *table, void *row);

/*
 * Rows by a condition, for ticks, lists and starts: "state = $1 AND due_at <= $2 ORDER BY due_at" with
 * parameters in order, at most limit rows, into an array in the arena. What this batch added is not
 * found; of what it changed, the changed row is given (look at the condition again); what it deleted is left
 * out. Every condition must be served by the primary key or an index.
 */
size_t rows_find(struct work *work, const struct rows_table *table, const char *condition,
                 const struct store_value *parameters, size_t parameter_count, size_t limit,
                 void ***ret_rows);
/* The same without rows that another instance has in hand at this moment, and without waiting for it: for
 * what any instance may do, and one does. */
size_t rows_find_free(struct work *work, const struct rows_table *table, const char *condition,
                      const struct store_value *parameters, size_t parameter_count, size_t limit,
                      void ***ret_rows);
/* The same to be read only: no other instance waits for it, and it waits for none. A page or a list; what a
 * handler decides by is got, or found. */
size_t rows_look(struct work *work, const struct rows_table *table, const char *condition,
                 const struct store_value *parameters, size_t parameter_count, size_t limit,
                 const void *const **ret_rows);
#define STORE_INT(value)   ((struct store_value){.number = (value)})
#define STORE_TEXT(value)  ((struct store_value){.is_text = true, .text = (value)})
#define STORE_BYTES(value) ((struct store_value){.is_bytes = true, .text = (value)})
#define STORE_ID(pointer)                                                                                    \
    ((struct store_value){.is_bytes = true, .text = {(const char *)(pointer)->bytes, 16}})
/* count(*) under a condition (NULL: all); what this batch changed is not in it. */
int64_t rows_count(struct work *work, const struct rows_table *table, const char *condition,
                   const struct store_value *parameters, size_t parameter_count);

/* Asked with work_read(), before it, of one table: has it any rows? So that a table that is nearly always
 * empty costs nothing. What is wanted because of the answer is read by another work_read(). */
void rows_ask(struct work *work, const struct rows_table *table);
bool rows_any(const struct work *work);
/* Do other processes work on this database as well, or may they? */
bool rows_shared(const struct work *work);

#endif
