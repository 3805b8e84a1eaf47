/*
 * store: a service's own database. SQLite (one file, one process) or PostgreSQL (one schema, any
 * number of instances: store/instances.h) behind this header; handlers never see which.
 *
 * Outcomes: OUTAGE where the database cannot be reached, is locked by another or its disk is full;
 * REJECT where the data break a constraint; FATAL where the file is not ours or is damaged.
 * Thread: the one that opened it, except where said.
 */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include "base/text.h"

struct rows_table;
struct store;

/*
 * What a service changes in its tables after they were first made, beyond columns that begin at no value:
 * these are added by themselves (store_migrate). Applied once, in order, each in a
 * transaction with its number; what is applied already is skipped. The descriptions are always the newest
 * state: on a database where none of the service's tables stood before, the migrations are noted, not run.
 */
struct migration {
    int number;         /* from 1, ascending */
    const char *sqlite; /* statements, ";" between */
    const char *postgres;
};

/*
 * url: "sqlite:PATH" or "postgresql://…". service: names the PostgreSQL schema, and the owner noted
 * in the file, so that another service's file is refused. SQLite: WAL, synchronous=FULL,
 * foreign_keys, one connection that writes and checkpoints, all read back; a second process on the
 * file is refused ("in use by process N", FATAL with exit code 75) by a lock on PATH.lock kept for the life
 * of the store. PostgreSQL (14 or newer): all in the schema weir_<service>, made where it is missing; TLS,
 * time-outs, several hosts as libpq's URL says them; a batch has a statement_timeout of 30 s and a
 * lock_timeout of 5 s, and asks nothing of a session beyond its transaction, so that pgbouncer in transaction
 * mode may stand between. What only a person can put right (no such directory or database, no permission,
 * wrong password, not a database, another service's) is FATAL with exit code 78.
 */
MUST_CHECK enum outcome store_open(const char *url, const char *service, struct store **ret,
                                   struct error *error);
void store_close(struct store *store); /* accepts NULL; checkpoints */

/* Would store_open() succeed, and could it be written to? With the same outcomes. Makes no file: where there
 * is none, *ret_there is false and one could be made. For `check`. */
MUST_CHECK enum outcome store_check(const char *url, const char *service, bool *ret_there,
                                    struct error *error);

/* Makes the tables that are missing (the store's own: inbox, outbox, …, and those given) from their
 * descriptions, applies migrations, then adds the columns that are still missing, at no value (0, the empty
 * text), and the indexes. Safe where several instances start at once. */
MUST_CHECK enum outcome store_migrate(struct store *store, const struct rows_table *const *tables,
                                      size_t table_count, const struct migration *migrations,
                                      size_t migration_count, struct error *error);

/* Was another instance in the way (a deadlock, a row that both added)? Nobody's fault: the same again succeeds. */
bool store_raced(const struct error *error);

/* Can it be written to? Commits a row of the store's own. Not within a unit of work. For `check` and after an
 * outage. */
MUST_CHECK enum outcome store_probe(struct store *store, struct error *error);

/* Of a database that is waited for: call is called in each wait, once all that was asked is on its way, on
 * the thread that waits. It must not touch the store. NULL: nothing any more. False: this one is never waited
 * for (SQLite), and call is not called. */
bool store_meanwhile(struct store *store, void (*call)(void *owner), void *owner);

/*
 * A second, read-only connection for long reports on a thread of their own; sees what was committed
 * when its query began. Queries are plain SELECTs in the common subset of both databases, parameters
 * $1, $2, … in order. each: one row; its columns by index; return false to stop.
 */
struct store_reader;
struct store_row; /* valid during the call */
enum { STORE_PARAMETERS_MAX = 16 };
struct store_value {
    bool is_text;  /* else, where is_bytes is not set, number counts */
    bool is_bytes; /* text.at and length; for columns of ROWS_BYTES and ROWS_ID */
    int64_t number;
    struct text text;
};
MUST_CHECK enum outcome store_reader_open(const char *url, const char *service, struct store_reader **ret,
                                          struct error *error);
void store_reader_close(struct store_reader *reader);
MUST_CHECK enum outcome store_read(struct store_reader *reader, const char *sql,
                                   const struct store_value *parameters, size_t parameter_count,
                                   bool (*each)(void *owner, const struct store_row *row), void *owner,
                                   struct error *error);
int64_t store_row_int(const struct store_row *row, size_t column);
struct text store_row_text(const struct store_row *row, size_t column); /* text and bytes */

#endif
