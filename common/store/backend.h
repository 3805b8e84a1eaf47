/*
 * backend: what a database must offer to the store; inside common/store only.
 *
 * A batch is two flights. fetch: begin, inbox, all the rows that were wanted. apply: all that is written, and
 * the commit. Each is handed over whole, as sets, so that PostgreSQL can send it as one pipeline with arrays
 * and wait once; SQLite executes at once. find, count and query are a flight each.
 *
 * A failed call leaves the transaction to rollback(), which the caller makes, also after a failed apply.
 */
#ifndef STORE_BACKEND_H
#define STORE_BACKEND_H

#include "store/inbox.h"
#include "store/instances.h"
#include "store/outbox.h"
#include "store/rows.h"

enum { WORK_ROW_BYTES_MAX = 1024 }; /* of a row's struct */

/* One row in hand. The struct that handlers see follows it, so that a row's pointer leads back here. */
struct rows_entry {
    const struct rows_table *table;
    uint64_t hash; /* of the key */
    void *base;    /* the row as it stands in the database; NULL: none there, or not looked for */
    uint32_t item; /* the last one that has it in its journal */
    bool known;    /* was looked for in the database */
    bool present;  /* stands now, as far as this work goes */
    _Alignas(16) unsigned char row[];
};

/* Key columns are set; where found, the others are put into row, text in the arena, and *found set. */
struct backend_wanted {
    const struct rows_table *table;
    struct rows_entry **entries;
    bool *found;
    size_t count;
};

/* What becomes of rows that are found: locked, waiting for who has them; locked, without those that somebody
 * has; only read. */
enum backend_lock { BACKEND_LOCK_WAIT, BACKEND_LOCK_FREE, BACKEND_LOCK_NONE };

enum { INBOX_ABSENT = -1 };
struct backend_note {
    struct inbox_note *note; /* seen: is set */
    int32_t prior;           /* is set: attempt of the row that was there, or INBOX_ABSENT */
    int32_t left; /* is set: attempt of the row as fetch left it: 0, or prior where it wrote nothing */
    int32_t now;  /* what it stands at for this work: 0 handled, n moved, or as prior */
};

struct backend_fetch {
    struct arena *arena;
    /* At attempt 0 from here on where not seen, but for those by_effect, which need not be written; an id's
     * second place is seen. */
    struct backend_note *notes;
    size_t note_count;
    int64_t noted_us;
    struct backend_wanted *wanted;
    size_t wanted_count;
    const struct rows_table *asked; /* NULL, or: has it any rows? */
    bool any;                       /* is set */
};

struct backend_table_writes {
    const struct rows_table *table;
    struct rows_entry **deletes, **updates, **inserts; /* deletes and updates by the key of base */
    size_t delete_count, update_count, insert_count;
};

struct backend_note_write {
    struct id id;
    int32_t attempt; /* INBOX_ABSENT: delete the row */
};

struct backend_range {
    int64_t first, last;
};

struct backend_refusal {
    int64_t seq;           /* of the event */
    struct outbox_row row; /* as it was read again */
    struct text headers;   /* encoded */
    struct text reason;
};

/* A row of the table: events of one part (store/pack.h). */
struct backend_pack {
    int64_t seq;
    int32_t part;
    bool elsewhere;
    int64_t created_us; /* of the oldest */
    int64_t events;
    struct text body;
};

struct backend_apply {
    struct backend_table_writes *tables;
    size_t table_count;
    struct backend_note_write *notes; /* with or without a row now */
    size_t note_count;
    int64_t noted_us;
    struct backend_pack *packs; /* seq: is set, ascending */
    size_t pack_count;
    int64_t events;                   /* in them */
    const struct backend_range *done; /* of packs; ascending, apart */
    size_t done_count;
    const struct backend_refusal *refused;
    size_t refused_count;
    /* Just before the commit, under all its locks: packs that other instances wrote for parts of this one, at
     * most so many; 0: none. start: a new reading begins. */
    size_t elsewhere_limit;
    void (*elsewhere_start)(void *owner);
    bool (*elsewhere_each)(void *owner, const struct backend_pack *pack);
    void *elsewhere_owner;
    /* Set on OK, where outbox rows were added, done or refused. */
    int64_t outbox_gone;      /* events of the packs that left it */
    int64_t outbox_oldest_us; /* of what is in it now; 0: none; -1: not looked at */
};

/* Of instances_beat(). */
struct backend_beat {
    bool bury; /* those without a beat for INSTANCE_DEAD_MS */
    /* Set on OK. */
    int32_t part_count; /* rows of the table, from 0 on */
    bool owned[INSTANCE_PARTS_MAX];
    int32_t others;
    int64_t outbox_rows, outbox_oldest_us; /* of what is owned: events */
};

struct backend;

/* A row of a query. What an int column of another type holds is converted; NULL is 0 and the empty text. */
struct store_row {
    int64_t (*get_int)(const struct store_row *row, size_t column);
    struct text (*get_text)(const struct store_row *row, size_t column);
};

struct backend_ops {
    void (*close)(struct backend *backend);
    bool shared;           /* other processes can open it as well: store/instances.h */
    size_t pack_bytes_max; /* what a page has room for */

    /* For DDL: types by enum rows_type, and what follows a table's ")". */
    const char *type_names[4];
    const char *type_defaults[4]; /* no value of a type, as a constant of SQL */
    const char *columns_sql;      /* the names of a table's columns; $1: the table */
    const char *table_suffix;
    const char *busy_table_suffix;
    const char *(*migration_sql)(const struct migration *migration);

    /* The store's own tables, where they are missing. Several instances may come at once. */
    enum outcome (*own_tables)(struct backend *backend, struct error *error);
    /* A transaction that changes tables: one at a time, whatever instances start. script() and query() run in
     * it until the script "COMMIT" or rollback(). */
    enum outcome (*begin_ddl)(struct backend *backend, struct error *error);
    enum outcome (*script)(struct backend *backend, const char *sql, struct error *error);
    enum outcome (*query)(struct backend *backend, const char *sql, const struct store_value *parameters,
                          size_t parameter_count, bool (*each)(void *owner, const struct store_row *row),
                          void *owner, struct error *error);
    /* After migration: are the table's statements possible? */
    enum outcome (*check_table)(struct backend *backend, const struct rows_table *table, struct error *error);
    /* After migration: what later calls need to know, the outbox's state among it. */
    enum outcome (*start)(struct backend *backend, int64_t *ret_outbox_rows, int64_t *ret_outbox_oldest_us,
                          struct error *error);
    enum outcome (*probe)(struct backend *backend, struct error *error);

    enum outcome (*begin)(struct backend *backend, struct error *error);
    enum outcome (*fetch)(struct backend *backend, struct backend_fetch *fetch, struct error *error);
    /* each: a row as struct, its text valid during the call; false stops. */
    enum outcome (*find)(struct backend *backend, const struct rows_table *table, enum backend_lock lock,
                         const char *condition, const struct store_value *parameters, size_t parameter_count,
                         size_t limit, bool (*each)(void *owner, const void *row), void *owner,
                         struct error *error);
    enum outcome (*count)(struct backend *backend, const struct rows_table *table, const char *condition,
                          const struct store_value *parameters, size_t parameter_count, int64_t *ret,
                          struct error *error);
    /* part and elsewhere of rows that are to be written; NULL: one part, and all is its own. */
    void (*outbox_parts)(struct backend *backend, struct outbox_row *rows, size_t count);
    /* Packs of parts that are owned, once the instance has beaten: those from from_seq on, and all that other
     * instances wrote; elsewhere: these alone. In order; each: valid during the call; false stops. */
    enum outcome (*outbox_read)(struct backend *backend, bool elsewhere, int64_t from_seq, size_t limit,
                                bool (*each)(void *owner, const struct backend_pack *pack), void *owner,
                                struct error *error);
    /* One, whoever's; each is not called where it is not there. */
    enum outcome (*outbox_read_one)(struct backend *backend, int64_t seq,
                                    bool (*each)(void *owner, const struct backend_pack *pack), void *owner,
                                    struct error *error);
    enum outcome (*inbox_prune)(struct backend *backend, int64_t before_us, size_t limit, size_t *ret_count,
                                struct error *error);
    enum outcome (*apply)(struct backend *backend, struct backend_apply *apply, struct error *error);
    void (*rollback)(struct backend *backend); /* also where none is open */
    /* store_meanwhile(). NULL: it is never waited for. */
    void (*meanwhile)(struct backend *backend, void (*call)(void *owner), void *owner);
    /* Where it is shared; else NULL. No transaction is open. */
    enum outcome (*beat)(struct backend *backend, const struct instances *instances,
                         struct backend_beat *beat, struct error *error);
    enum outcome (*leave_empty)(struct backend *backend, const struct instances *instances, bool *ret_left,
                                struct error *error);
    void (*leave)(struct backend *backend, const struct instances *instances);
};

/* The first member of a database's own struct. */
struct backend {
    const struct backend_ops *ops;
};

/* outbox_upgrade.c, for own_tables(), within its transaction: rows of the versions before packs are written
 * as packs.
 */
MUST_CHECK enum outcome outbox_upgrade(struct backend *backend, struct error *error);

/* path: without "sqlite:". */
MUST_CHECK enum outcome sqlite_open(const char *path, bool read_only, struct backend **ret,
                                    struct error *error);
/* url: postgresql:// or postgres://. */
MUST_CHECK enum outcome postgres_open(const char *url, const char *service, bool read_only,
                                      struct backend **ret, struct error *error);
/* Whether the service's schema is there; where not, whether it could be made. Makes nothing. */
MUST_CHECK enum outcome postgres_look(const char *url, const char *service, bool *ret_there,
                                      struct error *error);
/* Is there something at path? Where not (or only an empty file): could a database be made there? */
MUST_CHECK enum outcome sqlite_look(const char *path, bool *ret_there, struct error *error);

#endif
