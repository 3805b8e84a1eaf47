/*
 * sqlite: the inside of the store on SQLite, for sqlite*.c only.
 *
 *   sqlite.c             what backend.h asks for: opening, the tables' making and general statements among it
 *   sqlite_batch.c       the two calls of a batch
 *   sqlite_statements.c  prepared statements, C values into them and back
 *   sqlite_error.c       the classes of errors
 *   sqlite_file.c        the file: where it is, and that no other process has it
 *   sqlite_log.c         its log in one write a commit (sqlite_log.h)
 *
 * There is a prepared statement for each thing that is done to a table, bound by reference and stepped once a
 * row; nothing leaves the process before the commit, so there is nothing to send together.
 */
#ifndef STORE_SQLITE_H
#define STORE_SQLITE_H

#include "store/backend.h"

#include <sqlite3.h>

enum {
    SQLITE_PAGE_BYTES = 4096,
    SQLITE_BUSY_WAIT_MS = 200, /* for a lock; nobody else should hold it at all */
    SQLITE_FINDS_MAX = 64,     /* statements kept, the least lately used goes */
};

/* What is done, once a table. */
struct sqlite_table {
    const struct rows_table *table;
    sqlite3_stmt *get, *insert, *update, *delete; /* update: NULL where all columns are key */
};

/* A search or a count by a condition. */
struct sqlite_find {
    const struct rows_table *table;
    char *condition; /* NULL: the place is free */
    bool counts;
    uint64_t used; /* the higher the later */
    sqlite3_stmt *statement;
};

/* What is done to the store's own tables. */
enum sqlite_fixed {
    FIXED_BEGIN,
    FIXED_COMMIT,
    FIXED_ROLLBACK,
    FIXED_INBOX_INSERT,
    FIXED_INBOX_SELECT,
    FIXED_INBOX_UPDATE,
    FIXED_INBOX_DELETE,
    FIXED_INBOX_WINDOW,
    FIXED_INBOX_PRUNE,
    FIXED_OUTBOX_INSERT,
    FIXED_OUTBOX_DELETE,
    FIXED_OUTBOX_OLDEST,
    FIXED_OUTBOX_READ,
    FIXED_OUTBOX_EVENTS,
    FIXED_REFUSE,
    FIXED_RESERVE,
    FIXED_PROBE,
    FIXED_COUNT,
};

struct sqlite {
    struct backend backend;
    char *path;  /* by its real name; NULL: not found yet */
    int lock_fd; /* -1: none (readers) */
    sqlite3 *db; /* NULL: not open yet */
    sqlite3_stmt *fixed[FIXED_COUNT];
    struct sqlite_table tables[ROWS_TABLES_MAX];
    size_t table_count;
    struct sqlite_find finds[SQLITE_FINDS_MAX];
    uint64_t find_uses;
    int wal_pages; /* after the last commit */
    int64_t outbox_seq_next;
    int64_t outbox_seq_reserved; /* all below it may have been given out */
    struct id prune_after;       /* where inbox_prune goes on */
};

/* ---- errors */

/* What SQLite said last on this connection, in its class. The one place that knows its codes. */
enum outcome sqlite_failed(struct sqlite *sqlite, struct error *error);
enum outcome sqlite_disk_full(const struct sqlite *sqlite, struct error *error);
enum outcome sqlite_damaged(const struct sqlite *sqlite, const char *what, struct error *error);
/* FATAL, and only a person can put it right: error, which is set, gets its exit code. */
enum outcome sqlite_config_error(struct error *error);

/* ---- statements: owned by the connection, but for those of sqlite_prepare(); reset after use */

/* In the common subset: "$1" is the first parameter. The caller finalizes it. */
MUST_CHECK enum outcome sqlite_prepare(struct sqlite *sqlite, const char *sql, sqlite3_stmt **ret,
                                       struct error *error);
extern const char *const sqlite_fixed_sql[FIXED_COUNT];
MUST_CHECK enum outcome sqlite_fixed(struct sqlite *sqlite, enum sqlite_fixed which, sqlite3_stmt **ret,
                                     struct error *error);
MUST_CHECK enum outcome sqlite_table_of(struct sqlite *sqlite, const struct rows_table *table,
                                        struct sqlite_table **ret, struct error *error);
/* condition NULL: all rows. A search, not a count, has its limit as the parameter after the condition's. */
MUST_CHECK enum outcome sqlite_find_of(struct sqlite *sqlite, const struct rows_table *table,
                                       const char *condition, bool counts, size_t parameter_count,
                                       sqlite3_stmt **ret, struct error *error);
void sqlite_statements_free(struct sqlite *sqlite);

/* A statement without rows, stepped and reset. */
MUST_CHECK enum outcome sqlite_run(struct sqlite *sqlite, sqlite3_stmt *statement, struct error *error);
MUST_CHECK enum outcome sqlite_run_fixed(struct sqlite *sqlite, enum sqlite_fixed which, struct error *error);

/* Values by reference: they live until the statement is stepped. Return SQLite's code; places are from 1 on.
 */
int sqlite_bind_blob(sqlite3_stmt *statement, int place, struct text text);
int sqlite_bind_text(sqlite3_stmt *statement, int place, struct text text);
/* Columns [from, to) of a row's struct. */
int sqlite_bind_columns(sqlite3_stmt *statement, int place, const struct rows_table *table, size_t from,
                        size_t to, const void *row);
int sqlite_bind_values(sqlite3_stmt *statement, const struct store_value *values, size_t count);
/* Valid until the next step. */
struct text sqlite_column_bytes(sqlite3_stmt *statement, int column);
/* Into columns [from, to) of row; arena NULL: text by reference, valid until the next step. */
MUST_CHECK enum outcome sqlite_read_columns(struct sqlite *sqlite, sqlite3_stmt *statement,
                                            const struct rows_table *table, size_t from, size_t to,
                                            struct arena *arena, void *row, struct error *error);

/* ---- the file */

/* By its real name, so that two ways to it meet at one lock; malloc()ed, NULL where it fails. */
MUST_CHECK enum outcome sqlite_file_path(const char *path, char **ret, struct error *error);
/* Until lock_fd is closed. In use by another process: EXIT_TRY_AGAIN. */
MUST_CHECK enum outcome sqlite_file_lock(struct sqlite *sqlite, struct error *error);

/* ---- a batch (backend.h) */

enum outcome sqlite_begin(struct backend *backend, struct error *error);
enum outcome sqlite_fetch(struct backend *backend, struct backend_fetch *fetch, struct error *error);
enum outcome sqlite_apply(struct backend *backend, struct backend_apply *apply, struct error *error);
void sqlite_rollback(struct backend *backend);

#endif
