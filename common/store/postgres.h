/*
 * postgres: the inside of the store on PostgreSQL, for postgres*.c only.
 *
 *   postgres.c             what backend.h asks for, general statements and the tables' making among it
 *   postgres_batch.c       the two flights of a batch
 *   postgres_notes.c       its ids, in the inbox
 *   postgres_table.c       the statements of a table
 *   postgres_instances.c   who else works on this database
 *   postgres_connection.c  connecting, flights, transactions, the classes of errors
 *   postgres_values.c      C values as binary parameters and arrays, and back
 *
 * A flight is statements that are sent together in libpq's pipeline mode and waited for once. A transaction
 * begins with its first flight, and brings with it all that it needs of the session (SET LOCAL, as
 * set_config): nothing is left behind in a connection, so that a pooler in transaction mode may stand
 * between. Statements are prepared by the protocol, under a name made of their text, where the server itself
 * is at the other end; where a pooler is (the process that answers is not the one that the connection names),
 * they are sent with their text each time, as not every pooler's version knows which of its connections has
 * prepared what.
 */
#ifndef STORE_POSTGRES_H
#define STORE_POSTGRES_H

#include "store/backend.h"

#include <libpq-fe.h>

enum {
    POSTGRES_VERSION_MIN = 140000,
    POSTGRES_CONNECT_MS = 5000,
    POSTGRES_STATEMENT_MS =
        30000,                    /* statement_timeout of a batch; SIGKILLed peers do not hold locks longer */
    POSTGRES_LOCK_MS = 5000,      /* lock_timeout of a batch */
    POSTGRES_LEAVE_MS = 2000,     /* what is left of an instance at its end */
    POSTGRES_IDLE_MS = 60000,     /* idle_in_transaction_session_timeout */
    POSTGRES_DDL_LOCK_MS = 60000, /* waiting for another instance that makes tables */
    POSTGRES_DDL_MS = 4 * 3600 * 1000, /* a migration */
    POSTGRES_READ_MS = 600000,         /* a report's query */
    POSTGRES_SLACK_MS = 5000,          /* a flight is given up so long after the server should have */
    POSTGRES_DOUBT_MS = 5000,          /* looking up what became of a commit whose answer was lost */
    POSTGRES_PARAMETERS_MAX = ROWS_COLUMNS_MAX + ROWS_KEY_COLUMNS_MAX + 4,
    POSTGRES_STATEMENTS_MAX = 160, /* kept prepared; others are sent with their text */
    POSTGRES_STEPS_MAX = 256,      /* of a flight */
    POSTGRES_SQL_BYTES_MAX = 16 << 10,
    POSTGRES_PARAMETER_BYTES_MAX = 512 << 20, /* of a statement */
    POSTGRES_NAME_BYTES_MAX = 128,
    POSTGRES_PACK_BYTES_MAX = 7900, /* with the row's head it fills a page of 8 KiB */
};

/* Types as PostgreSQL numbers them, for ever. */
enum {
    OID_BOOL = 16,
    OID_BYTEA = 17,
    OID_INT8 = 20,
    OID_INT2 = 21,
    OID_INT4 = 23,
    OID_TEXT = 25,
    OID_OID = 26,
    OID_NUMERIC = 1700,
    OID_UUID = 2950,
    OID_BYTEA_ARRAY = 1001,
    OID_TEXT_ARRAY = 1009,
    OID_INT8_ARRAY = 1016,
    OID_UUID_ARRAY = 2951
};

/* ---- values: all in binary */

struct postgres_parameters {
    struct buffer bytes;
    int count;
    Oid types[POSTGRES_PARAMETERS_MAX];
    size_t offsets[POSTGRES_PARAMETERS_MAX];
    int lengths[POSTGRES_PARAMETERS_MAX];
};

void postgres_parameters_clear(struct postgres_parameters *parameters);
void postgres_put_int(struct postgres_parameters *parameters, int64_t value);
void postgres_put_text(struct postgres_parameters *parameters, struct text text);
/* type 0: the server finds it by the place that the parameter stands in */
void postgres_put_bytes(struct postgres_parameters *parameters, Oid type, struct text bytes);
void postgres_put_values(struct postgres_parameters *parameters, const struct store_value *values,
                         size_t count);
/*
 * An array: begin, count elements, end. What is no UTF-8, or holds a NUL, cannot be text in PostgreSQL: as a
 * key it is refused by the server (REJECT), in any other column it stands as U+FFFD, as such text is for
 * people (what a mail server said).
 */
void postgres_array_begin(struct postgres_parameters *parameters, Oid array_type, size_t count);
void postgres_array_int(struct postgres_parameters *parameters, int64_t value);
void postgres_array_bytes(struct postgres_parameters *parameters, const void *bytes, size_t length);
void postgres_array_text(struct postgres_parameters *parameters, struct text text);
void postgres_array_null(struct postgres_parameters *parameters);
void postgres_array_end(struct postgres_parameters *parameters);
/* Columns [from, to) of rows, of their base or of the row as it stands, an array each. */
void postgres_put_columns(struct postgres_parameters *parameters, const struct rows_table *table, size_t from,
                          size_t to, struct rows_entry *const *entries, size_t count, bool base);
const char *postgres_type_name(enum rows_type type); /* for casts: "bigint" */

int64_t postgres_int(const PGresult *result, int row, int column);
struct text postgres_text(const PGresult *result, int row, int column); /* valid as long as result */
/* Into columns [from, to) of a row's struct; arena NULL: text by reference. */
MUST_CHECK enum outcome postgres_columns(const PGresult *result, int row, int first_column,
                                         const struct rows_table *table, size_t from, size_t to,
                                         struct arena *arena, void *into, struct error *error);

/* ---- connection */

struct postgres_statement {
    uint64_t hash;
    char name[24];
    char *sql;
    bool prepared; /* on this connection */
};

/* The result of a step that went well. */
struct postgres_step {
    struct postgres_statement *prepares;
    enum outcome (*take)(void *owner, const PGresult *result, struct error *error); /* may be NULL */
    void *owner;
    int64_t expected; /* rows that it must touch, or -1 */
    const char *what; /* for messages: a table */
    bool may_race;    /* a key that is there already was put there by another instance since: RETRY */
    bool fence;       /* divides by zero where this instance was taken for dead */
};

/* Packs of the outbox, as they come. */
struct postgres_outbox {
    void (*start)(void *owner); /* may be NULL */
    bool (*each)(void *owner, const struct backend_pack *pack);
    void *owner;
};

enum postgres_transaction {
    TRANSACTION_NONE,
    TRANSACTION_WANTED, /* begins with the next flight */
    TRANSACTION_SENT,
    TRANSACTION_OPEN,
    TRANSACTION_DDL,
};

/* What is said to a table. */
struct postgres_table {
    const struct rows_table *table;
    char *select, *insert, *update, *delete; /* SQL */
};

struct postgres {
    struct backend backend;
    char *url;
    char schema[POSTGRES_NAME_BYTES_MAX];
    char name[POSTGRES_NAME_BYTES_MAX]; /* for messages, without a password */
    bool read_only;
    bool was_open; /* what only a person can put right is an outage from here on */
    bool pooled;   /* nothing may be prepared */
    PGconn *conn;  /* NULL: none */

    enum postgres_transaction transaction;
    struct postgres_step steps[POSTGRES_STEPS_MAX];
    size_t step_count;
    bool sent_failed; /* libpq would not take a statement of this flight */

    /* Of the open transaction, where a fetch has asked for it; "": unknown. */
    char xid[24];
    int64_t pid;
    /* A commit whose answer was lost, and of which nothing is known yet. */
    char doubt_xid[24];
    int64_t doubt_pid;
    bool outrun; /* it turned out to be committed, and its batch was given up */

    struct postgres_statement statements[POSTGRES_STATEMENTS_MAX];
    size_t statement_count;
    struct postgres_table tables[ROWS_TABLES_MAX];
    size_t table_count;
    struct buffer sql;
    struct postgres_parameters parameters;

    struct id
        *resets; /* ids of the inbox whose earlier attempt was moved, and that are handled now; arena's */
    size_t reset_count;
    int64_t outbox_rows;  /* events, whoever's */
    int64_t outbox_floor; /* no pack below it is there */
    bool inbox_used;      /* had a row when it was last looked at */
    int64_t outbox_last;  /* the highest number of a pack seen */
    int64_t prune_page;
    void (*meanwhile)(void *owner); /* store_meanwhile(); NULL: nothing */
    void *meanwhile_owner;
    struct postgres_outbox elsewhere;
    const struct instances
        *instances; /* lent, from the first beat until it leaves; NULL: alone, and not asked */
};

MUST_CHECK enum outcome postgres_connect(struct postgres *postgres, struct error *error);
void postgres_disconnect(struct postgres *postgres);
enum outcome postgres_memory(struct error *error);

/*
 * A flight: steps are added, then it lands. postgres->parameters hold the values of the step that is added;
 * they are sent (or in libpq's buffer) when it returns. The first step of a transaction brings its beginning.
 * take() gets each result as it comes. The first failure is what is returned, the rest is then skipped.
 */
void postgres_add(struct postgres *postgres, const char *sql, const struct postgres_step *step);
MUST_CHECK enum outcome postgres_land(struct postgres *postgres, int timeout_ms, struct error *error);
/* After a failure: was it the connection, gone since the last transaction, so that this one has not begun and
 * all of it can be said again? Then a new one is made. */
bool postgres_again(struct postgres *postgres, bool *tried);
/* Statements without parameters, ";" between. */
MUST_CHECK enum outcome postgres_run_script(struct postgres *postgres, const char *sql, int timeout_ms,
                                            struct error *error);
void postgres_rollback(struct backend *backend);
/* The end of postgres->sql as a string; NULL when out of memory. */
const char *postgres_sql_end(struct postgres *postgres);
/* Text of a statement into postgres->sql; @ stands for the schema. "" when out of memory. */
const char *postgres_print(struct postgres *postgres, const char *format);
int postgres_timeout_ms(const struct postgres *postgres);

/* What became of the commit in doubt? OK: *ret_committed is known. */
MUST_CHECK enum outcome postgres_doubt(struct postgres *postgres, bool *ret_committed, struct error *error);

/* ---- the statements of a table */

/* Made at the first call, kept until the end. NULL: out of memory. */
struct postgres_table *postgres_table_of(struct postgres *postgres, const struct rows_table *table);
void postgres_table_free(struct postgres_table *table);
enum outcome postgres_check_table(struct backend *backend, const struct rows_table *table,
                                  struct error *error);
/* "a", "b": columns [from, to), each with the prefix before it ("t."). */
void postgres_list_columns(struct buffer *sql, const char *prefix, const struct rows_table *table,
                           size_t from, size_t to);
/* A step of the flight: has the table any rows? *ret is set when it lands. False: out of memory. */
bool postgres_add_any(struct postgres *postgres, const char *table, bool *ret);

/* ---- the ids of a batch, by id, each once; for one fetch */

struct postgres_notes {
    struct backend_note **sorted; /* by id, then by place */
    size_t count;
    size_t id_count;
    struct arena *arena;
    size_t looked_count; /* of the ids, those that are only looked for */
    bool looked;         /* … and were, in the first flight */
    size_t *old;         /* places among the ids of those that were not added: they were there before */
    size_t old_count;
    int32_t *priors; /* of each id, where not all are new */
};

/* Lent: arena and fetch live longer. False: out of memory, as below. */
bool postgres_notes_sort(struct arena *arena, struct backend_fetch *fetch, struct postgres_notes *notes);
/* Steps of the first flight; said again where it is sent again. */
bool postgres_notes_add(struct postgres *postgres, struct postgres_notes *notes, int64_t noted_us);
/* After it: every note of the fetch is set; a flight more where some of the ids were there before. */
MUST_CHECK enum outcome postgres_notes_settle(struct postgres *postgres, struct postgres_notes *notes,
                                              struct error *error);
/* Steps of the second flight: what settling left to it (postgres->resets), and what the work made of it. */
void postgres_notes_write(struct postgres *postgres, const struct backend_apply *apply);

/* ---- batch */

enum outcome postgres_fetch(struct backend *backend, struct backend_fetch *fetch, struct error *error);
enum outcome postgres_apply(struct backend *backend, struct backend_apply *apply, struct error *error);

/* ---- instances */

enum outcome postgres_beat(struct backend *backend, const struct instances *instances,
                           struct backend_beat *beat, struct error *error);
enum outcome postgres_leave_empty(struct backend *backend, const struct instances *instances, bool *ret_left,
                                  struct error *error);
void postgres_leave(struct backend *backend, const struct instances *instances);
/* Raises an error where this instance's row is gone; else its row stays until the transaction's end. */
void postgres_fence(struct postgres *postgres);
/* The parts that are its to send: an array. */
void postgres_put_parts(struct postgres_parameters *parameters, const struct instances *instances);
enum outcome postgres_take_outbox(void *owner, const PGresult *result, struct error *error);
/* $1: parts; $2: how many. Each part by its own place in the index. */
extern const char POSTGRES_ELSEWHERE[];
#define PACK_COLUMNS "seq, part, elsewhere, created_us, events, body"

/* Rows in the outbox, and its oldest, as they stand in the database. */
enum outcome postgres_start(struct backend *backend, int64_t *ret_outbox_rows, int64_t *ret_outbox_oldest_us,
                            struct error *error);

#endif
