/*
 * The store on SQLite: WAL, synchronous=FULL, one connection that writes and checkpoints. There is a prepared
 * statement for each thing that is done to a table, bound by reference and stepped once a row; nothing leaves
 * the process before the commit, so there is nothing to send together.
 *
 * Only one connection of one process writes or checkpoints, readers of this process never do: SQLite
 * before 3.51.3 can damage a file where two connections do so at the same moment.
 */
#include "store/backend.h"
#include "store/pack.h"
#include "store/sqlite_log.h"

#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PAGE_BYTES = 4096,
    CACHE_KIB = 8192, /* of pages in memory, for the connection that writes */
    READER_CACHE_KIB = 2048,
    BUSY_TIMEOUT_MS = 200,            /* nobody else should hold it at all */
    WAL_PASSIVE_BYTES = 8 << 20,      /* the log is copied into the file when it passes this … */
    WAL_TRUNCATE_BYTES = 64 << 20,    /* … and cut when a reader has let it grow past this */
    QUICK_CHECK_BYTES_MAX = 16 << 20, /* files below it are checked at open */
    FIND_STATEMENTS_MAX = 64,         /* kept, the least lately used goes */
    LOOKASIDE_BYTES = 256,
    LOOKASIDE_COUNT = 512,
    APPLICATION_ID = 0x57454952,       /* "WEIR", in the file's header */
    OUTBOX_SEQ_BLOCK = 1 << 20,        /* numbers set aside at a time */
    PACK_BYTES_MAX = PAGE_BYTES - 160, /* with the row's head it fills a page */
};

/* What is done, once a table. */
struct table_statements {
    const struct rows_table *table;
    sqlite3_stmt *get, *insert, *update, *delete;
};

struct find_statement {
    const struct rows_table *table;
    char *condition; /* NULL: the place is free */
    bool counts;
    uint64_t used;
    sqlite3_stmt *statement;
};

enum fixed {
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

static const char *const FIXED[FIXED_COUNT] = {
    [FIXED_BEGIN] = "BEGIN IMMEDIATE",
    [FIXED_COMMIT] = "COMMIT",
    [FIXED_ROLLBACK] = "ROLLBACK",
    [FIXED_INBOX_INSERT] = "INSERT INTO inbox (id, attempt, at) VALUES (?1, 0, ?2) ON CONFLICT DO NOTHING",
    [FIXED_INBOX_SELECT] = "SELECT attempt FROM inbox WHERE id = ?1",
    [FIXED_INBOX_UPDATE] = "UPDATE inbox SET attempt = ?2 WHERE id = ?1",
    [FIXED_INBOX_DELETE] = "DELETE FROM inbox WHERE id = ?1",
    [FIXED_INBOX_WINDOW] =
        "SELECT max(id), count(*) FROM (SELECT id FROM inbox WHERE id > ?1 ORDER BY id LIMIT ?2)",
    [FIXED_INBOX_PRUNE] = "DELETE FROM inbox WHERE id > ?1 AND id <= ?2 AND at < ?3",
    [FIXED_OUTBOX_INSERT] = "INSERT INTO outbox_pack (seq, part, elsewhere, created_us, events, body) "
                            "VALUES (?1, ?2, 0, ?3, ?4, ?5)",
    [FIXED_OUTBOX_DELETE] = "DELETE FROM outbox_pack WHERE seq BETWEEN ?1 AND ?2",
    [FIXED_OUTBOX_OLDEST] = "SELECT created_us FROM outbox_pack ORDER BY seq LIMIT 1",
    [FIXED_OUTBOX_READ] = "SELECT seq, part, created_us, events, body FROM outbox_pack "
                          "WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq LIMIT ?3",
    [FIXED_OUTBOX_EVENTS] = "SELECT coalesce(sum(events), 0) FROM outbox_pack WHERE seq BETWEEN ?1 AND ?2",
    [FIXED_REFUSE] =
        "INSERT INTO outbox_refused (seq, topic, partition, key, value, headers, created_us, reason) "
        "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
    [FIXED_RESERVE] = "INSERT INTO weir (name, value) VALUES ('outbox_seq', ?1) "
                      "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    [FIXED_PROBE] = "INSERT INTO weir (name, value) VALUES ('probe', ?1) "
                    "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
};

static const char OWN_TABLES[] =
    "CREATE TABLE IF NOT EXISTS weir (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS inbox (id BLOB PRIMARY KEY, attempt INTEGER NOT NULL, at INTEGER NOT NULL)"
    " WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS outbox_pack (seq INTEGER PRIMARY KEY, part INTEGER NOT NULL,"
    " elsewhere INTEGER NOT NULL, created_us INTEGER NOT NULL, events INTEGER NOT NULL, body BLOB NOT NULL);"
    "CREATE TABLE IF NOT EXISTS outbox_refused (seq INTEGER PRIMARY KEY, topic TEXT NOT NULL,"
    " partition INTEGER NOT NULL, key BLOB, value BLOB, headers BLOB NOT NULL, created_us INTEGER NOT NULL,"
    " reason TEXT NOT NULL);";

struct sqlite {
    struct backend backend;
    char *path;
    int lock_fd; /* -1: none (readers) */
    sqlite3 *db;
    sqlite3_stmt *fixed[FIXED_COUNT];
    struct table_statements tables[ROWS_TABLES_MAX];
    size_t table_count;
    struct find_statement finds[FIND_STATEMENTS_MAX];
    uint64_t find_uses;
    int wal_pages; /* after the last commit */
    int64_t outbox_seq_next;
    int64_t outbox_seq_reserved; /* all below it may have been given out */
    struct id prune_after;       /* where inbox_prune goes on */
};

struct sqlite_row {
    struct store_row row;
    sqlite3_stmt *statement;
};

static int64_t row_int(const struct store_row *row, size_t column)
{
    return sqlite3_column_int64(((const struct sqlite_row *)row)->statement, (int)column);
}

static struct text column_bytes(sqlite3_stmt *statement, int column)
{
    const void *at = sqlite3_column_blob(statement, column);
    return (struct text){at, (size_t)sqlite3_column_bytes(statement, column)};
}

static struct text row_text(const struct store_row *row, size_t column)
{
    return column_bytes(((const struct sqlite_row *)row)->statement, (int)column);
}

/* ---- errors ---- */

static enum outcome config_error(struct error *error)
{
    if (error)
        error->exit_code = EXIT_CONFIG;
    return FATAL;
}

static enum outcome disk_full(const struct sqlite *sqlite, struct error *error)
{
    return error_outage(error, "store-full",
                        "%s: the disk is full; make room on it, nothing is lost and work goes on by itself",
                        sqlite->path);
}

/* The one place that knows SQLite's codes. */
static enum outcome failed(struct sqlite *sqlite, struct error *error)
{
    int code = sqlite->db ? sqlite3_extended_errcode(sqlite->db) : SQLITE_NOMEM;
    const char *message = sqlite->db ? sqlite3_errmsg(sqlite->db) : "out of memory";
    int system = sqlite->db ? sqlite3_system_errno(sqlite->db) : 0;
    switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
        return error_outage(error, "store-locked",
                            "%s: locked by another process; end the tool that has it open for writing",
                            sqlite->path);
    case SQLITE_FULL:
        return disk_full(sqlite, error);
    case SQLITE_IOERR:
        if (code == SQLITE_IOERR_NOMEM)
            return error_retry(error, "memory", "%s: out of memory", sqlite->path);
        if (system == ENOSPC || system == EDQUOT)
            return disk_full(sqlite, error);
        return error_outage(error, "store-io", "%s: cannot read or write: %s (%s, code %d); look at the disk",
                            sqlite->path, message, system ? strerror(system) : "no system error", code);
    case SQLITE_NOMEM:
        return error_retry(error, "memory", "%s: out of memory", sqlite->path);
    case SQLITE_INTERRUPT:
    case SQLITE_ABORT:
        return error_retry(error, "store-interrupted", "%s: %s", sqlite->path, message);
    case SQLITE_CONSTRAINT:
        return error_reject(error, "store-constraint", "%s", message);
    case SQLITE_TOOBIG:
        return error_reject(error, "store-too-big", "%s", message);
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
        error_set(error, FATAL, "store-read-only",
                  "%s: cannot be written to: %s; look at the permissions of the file "
                  "and its directory",
                  sqlite->path, message);
        return config_error(error);
    case SQLITE_CANTOPEN:
        if (system == EMFILE || system == ENFILE)
            return error_outage(error, "store-open", "%s: too many open files", sqlite->path);
        if (system == ENOSPC || system == EDQUOT)
            return disk_full(sqlite, error);
        error_set(error, FATAL, "store-open", "%s: cannot be opened: %s", sqlite->path,
                  system ? strerror(system) : message);
        return config_error(error);
    case SQLITE_NOTADB:
        error_set(error, FATAL, "store-not-a-database",
                  "%s: is not a database; name another file in DATABASE_URL", sqlite->path);
        return config_error(error);
    case SQLITE_CORRUPT:
        return error_fatal(error, "store-damaged",
                           "%s: the database is damaged: %s; restore it from a backup", sqlite->path,
                           message);
    default:
        return error_fatal(error, "store", "%s: %s (code %d)", sqlite->path, message, code);
    }
}

static enum outcome damaged(const struct sqlite *sqlite, const char *what, struct error *error)
{
    return error_fatal(error, "store-damaged", "%s: the database is damaged: %s", sqlite->path, what);
}

/* ---- statements ---- */

static enum outcome prepare(struct sqlite *sqlite, const char *sql, sqlite3_stmt **ret, struct error *error)
{
    if (sqlite3_prepare_v3(sqlite->db, sql, -1, SQLITE_PREPARE_PERSISTENT, ret, NULL) != SQLITE_OK)
        return failed(sqlite, error);
    return OK;
}

static enum outcome fixed(struct sqlite *sqlite, enum fixed which, sqlite3_stmt **ret, struct error *error)
{
    if (!sqlite->fixed[which]) {
        enum outcome outcome = prepare(sqlite, FIXED[which], &sqlite->fixed[which], error);
        if (outcome != OK)
            return outcome;
    }
    *ret = sqlite->fixed[which];
    return OK;
}

/* A statement without rows. The message of a failure is the step's: reset gives the same again. */
static inline enum outcome run(struct sqlite *sqlite, sqlite3_stmt *statement, struct error *error)
{
    int code = sqlite3_step(statement);
    enum outcome outcome = code == SQLITE_DONE || code == SQLITE_ROW ? OK : failed(sqlite, error);
    sqlite3_reset(statement);
    return outcome;
}

static enum outcome run_fixed(struct sqlite *sqlite, enum fixed which, struct error *error)
{
    sqlite3_stmt *statement;
    enum outcome outcome = fixed(sqlite, which, &statement, error);
    return outcome == OK ? run(sqlite, statement, error) : outcome;
}

/* The empty text is not NULL, also where it has no address. Binding by reference cannot fail but for size. */
static inline int bind_blob(sqlite3_stmt *statement, int place, struct text text)
{
    return sqlite3_bind_blob64(statement, place, text.length ? text.at : "", text.length, SQLITE_STATIC);
}

static inline int bind_text(sqlite3_stmt *statement, int place, struct text text)
{
    return sqlite3_bind_text64(statement, place, text.length ? text.at : "", text.length, SQLITE_STATIC,
                               SQLITE_UTF8);
}

static inline int bind_column(sqlite3_stmt *statement, int place, const struct rows_column *column,
                              const void *row)
{
    const char *at = (const char *)row + column->offset;
    switch (column->type) {
    case ROWS_INT: {
        int64_t value;
        memcpy(&value, at, sizeof(value));
        return sqlite3_bind_int64(statement, place, value);
    }
    case ROWS_TEXT:
        return bind_text(statement, place, *(const struct text *)(const void *)at);
    case ROWS_BYTES:
        return bind_blob(statement, place, *(const struct text *)(const void *)at);
    case ROWS_ID:
        return sqlite3_bind_blob(statement, place, at, sizeof(struct id), SQLITE_STATIC);
    }
    return SQLITE_MISUSE;
}

static int bind_columns(sqlite3_stmt *statement, int place, const struct rows_table *table, size_t from,
                        size_t to, const void *row)
{
    int code = SQLITE_OK;
    for (size_t i = from; i < to && code == SQLITE_OK; i++)
        code = bind_column(statement, place++, &table->columns[i], row);
    return code;
}

static int bind_values(sqlite3_stmt *statement, const struct store_value *values, size_t count)
{
    int code = SQLITE_OK;
    for (size_t i = 0; i < count && code == SQLITE_OK; i++) {
        if (values[i].is_bytes)
            code = bind_blob(statement, (int)i + 1, values[i].text);
        else if (values[i].is_text)
            code = bind_text(statement, (int)i + 1, values[i].text);
        else
            code = sqlite3_bind_int64(statement, (int)i + 1, values[i].number);
    }
    return code;
}

/* Into columns [from, to) of row; arena NULL: text by reference, valid until the next step. */
static enum outcome read_columns(struct sqlite *sqlite, sqlite3_stmt *statement,
                                 const struct rows_table *table, size_t from, size_t to, struct arena *arena,
                                 void *row, struct error *error)
{
    for (size_t i = from; i < to; i++) {
        const struct rows_column *column = &table->columns[i];
        char *at = (char *)row + column->offset;
        int place = (int)(i - from);
        switch (column->type) {
        case ROWS_INT: {
            int64_t value = sqlite3_column_int64(statement, place);
            memcpy(at, &value, sizeof(value));
            break;
        }
        case ROWS_TEXT:
        case ROWS_BYTES: {
            struct text text = column_bytes(statement, place);
            if (text.length && arena) {
                text.at = arena_copy(arena, text.at, text.length);
                if (!text.at)
                    return error_retry(error, "memory", "out of memory for this batch");
            }
            *(struct text *)(void *)at = text;
            break;
        }
        case ROWS_ID: {
            struct text text = column_bytes(statement, place);
            if (text.length != sizeof(struct id))
                return damaged(sqlite, "an id is not 16 bytes long", error);
            memcpy(at, text.at, text.length);
            break;
        }
        }
    }
    return OK;
}

static void list_columns(struct buffer *sql, const struct rows_table *table, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        buffer_print(sql, "%s%s", i > from ? ", " : "", table->columns[i].name);
}

static void where_key(struct buffer *sql, const struct rows_table *table, size_t first_place)
{
    for (size_t i = 0; i < table->key_count; i++)
        buffer_print(sql, "%s %s = ?%zu", i ? " AND" : " WHERE", table->columns[i].name, first_place + i);
}

static enum outcome prepare_built(struct sqlite *sqlite, struct buffer *sql, sqlite3_stmt **ret,
                                  struct error *error)
{
    buffer_add_char(sql, '\0');
    enum outcome outcome;
    if (sql->failed)
        outcome = error_retry(error, "memory", "out of memory for a statement");
    else
        outcome = prepare(sqlite, sql->at, ret, error);
    buffer_clear(sql);
    return outcome;
}

enum { STATEMENT_BYTES_MAX = 8 << 10 };

static void table_finalize(struct table_statements *table)
{
    sqlite3_finalize(table->get);
    sqlite3_finalize(table->insert);
    sqlite3_finalize(table->update);
    sqlite3_finalize(table->delete);
}

static enum outcome table_of(struct sqlite *sqlite, const struct rows_table *table,
                             struct table_statements **ret, struct error *error)
{
    for (size_t i = 0; i < sqlite->table_count; i++)
        if (sqlite->tables[i].table == table) {
            *ret = &sqlite->tables[i];
            return OK;
        }
    assert(sqlite->table_count < ROWS_TABLES_MAX);
    struct table_statements made = {.table = table};
    struct buffer sql = buffer_of(STATEMENT_BYTES_MAX);
    size_t keys = table->key_count, columns = table->column_count;

    buffer_add_string(&sql, "SELECT ");
    if (keys == columns)
        buffer_add_string(&sql, "1");
    list_columns(&sql, table, keys, columns);
    buffer_print(&sql, " FROM %s", table->name);
    where_key(&sql, table, 1);
    enum outcome outcome = prepare_built(sqlite, &sql, &made.get, error);
    if (outcome != OK)
        goto out;

    buffer_print(&sql, "INSERT INTO %s (", table->name);
    list_columns(&sql, table, 0, columns);
    buffer_add_string(&sql, ") VALUES (");
    for (size_t i = 0; i < columns; i++)
        buffer_print(&sql, "%s?%zu", i ? ", " : "", i + 1);
    buffer_add_string(&sql, ")");
    outcome = prepare_built(sqlite, &sql, &made.insert, error);
    if (outcome != OK)
        goto out;

    if (keys < columns) {
        buffer_print(&sql, "UPDATE %s SET ", table->name);
        for (size_t i = keys; i < columns; i++)
            buffer_print(&sql, "%s%s = ?%zu", i > keys ? ", " : "", table->columns[i].name, i - keys + 1);
        where_key(&sql, table, columns - keys + 1);
        outcome = prepare_built(sqlite, &sql, &made.update, error);
        if (outcome != OK)
            goto out;
    }

    buffer_print(&sql, "DELETE FROM %s", table->name);
    where_key(&sql, table, 1);
    outcome = prepare_built(sqlite, &sql, &made.delete, error);
    if (outcome != OK)
        goto out;
    sqlite->tables[sqlite->table_count] = made;
    *ret = &sqlite->tables[sqlite->table_count++];
    made = (struct table_statements){.table = NULL};

out:
    table_finalize(&made);
    buffer_free(&sql);
    return outcome;
}

/* "$1" of the common subset as "?1" of SQLite, for which "$1" is a name; not within quotes. */
static void add_placeholders(struct buffer *sql, const char *text)
{
    bool quoted = false;
    for (; *text; text++) {
        quoted = quoted != (*text == '\'');
        buffer_add_char(sql, *text == '$' && !quoted && text[1] >= '1' && text[1] <= '9' ? '?' : *text);
    }
}

static enum outcome find_of(struct sqlite *sqlite, const struct rows_table *table, const char *condition,
                            bool counts, size_t parameter_count, sqlite3_stmt **ret, struct error *error)
{
    const char *key = condition ? condition : "";
    struct find_statement *place = &sqlite->finds[0];
    for (size_t i = 0; i < FIND_STATEMENTS_MAX; i++) {
        struct find_statement *find = &sqlite->finds[i];
        if (find->condition && find->table == table && find->counts == counts &&
            strcmp(find->condition, key) == 0) {
            find->used = ++sqlite->find_uses;
            *ret = find->statement;
            return OK;
        }
        if (find->used < place->used)
            place = find;
    }
    struct buffer sql = buffer_of(STATEMENT_BYTES_MAX);
    buffer_add_string(&sql, "SELECT ");
    if (counts)
        buffer_add_string(&sql, "count(*)");
    else
        list_columns(&sql, table, 0, table->column_count);
    buffer_print(&sql, " FROM %s", table->name);
    if (*key) {
        buffer_add_string(&sql, " WHERE ");
        add_placeholders(&sql, key);
    }
    if (!counts)
        buffer_print(&sql, " LIMIT ?%zu", parameter_count + 1);
    sqlite3_stmt *statement = NULL;
    char *copy = strdup(key);
    enum outcome outcome;
    if (copy)
        outcome = prepare_built(sqlite, &sql, &statement, error);
    else
        outcome = error_retry(error, "memory", "out of memory for a statement");
    buffer_free(&sql);
    if (outcome != OK) {
        free(copy);
        return outcome;
    }
    sqlite3_finalize(place->statement);
    free(place->condition);
    *place = (struct find_statement){table, copy, counts, ++sqlite->find_uses, statement};
    *ret = statement;
    return OK;
}

/* ---- general statements ---- */

static enum outcome sqlite_script(struct backend *backend, const char *sql, struct error *error)
{
    struct sqlite *sqlite = (struct sqlite *)backend;
    if (sqlite3_exec(sqlite->db, sql, NULL, NULL, NULL) == SQLITE_OK)
        return OK;
    enum outcome outcome = failed(sqlite, error);
    if (!sqlite3_get_autocommit(sqlite->db))
        sqlite3_exec(sqlite->db, "ROLLBACK", NULL, NULL, NULL);
    return outcome;
}

static enum outcome sqlite_begin_ddl(struct backend *backend, struct error *error)
{
    return sqlite_script(backend, FIXED[FIXED_BEGIN], error);
}

static enum outcome sqlite_own_tables(struct backend *backend, struct error *error)
{
    enum outcome outcome = sqlite_begin_ddl(backend, error);
    if (outcome == OK)
        outcome = sqlite_script(backend, OWN_TABLES, error);
    if (outcome == OK)
        outcome = outbox_upgrade(backend, error);
    if (outcome == OK)
        return sqlite_script(backend, FIXED[FIXED_COMMIT], error);
    sqlite3 *db = ((struct sqlite *)backend)->db;
    if (!sqlite3_get_autocommit(db))
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return outcome;
}

static const char *sqlite_migration(const struct migration *migration)
{
    return migration->sqlite;
}

static enum outcome sqlite_query(struct backend *backend, const char *sql,
                                 const struct store_value *parameters, size_t parameter_count,
                                 bool (*each)(void *owner, const struct store_row *row), void *owner,
                                 struct error *error)
{
    struct sqlite *sqlite = (struct sqlite *)backend;
    struct buffer text = buffer_of(STATEMENT_BYTES_MAX);
    sqlite3_stmt *statement = NULL;
    add_placeholders(&text, sql);
    enum outcome outcome = prepare_built(sqlite, &text, &statement, error);
    if (outcome == OK && bind_values(statement, parameters, parameter_count) != SQLITE_OK)
        outcome = failed(sqlite, error);
    if (outcome != OK)
        goto out;
    int code;
    struct sqlite_row row = {{row_int, row_text}, statement};
    while ((code = sqlite3_step(statement)) == SQLITE_ROW)
        if (!each || !each(owner, &row.row))
            break;
    if (code != SQLITE_DONE && code != SQLITE_ROW)
        outcome = failed(sqlite, error);

out:
    sqlite3_finalize(statement);
    buffer_free(&text);
    return outcome;
}

static bool keep_int(void *owner, const struct store_row *row)
{
    *(int64_t *)owner = store_row_int(row, 0);
    return false;
}

static enum outcome query_int(struct sqlite *sqlite, const char *sql, int64_t *ret, struct error *error)
{
    *ret = 0;
    return sqlite_query(&sqlite->backend, sql, NULL, 0, keep_int, ret, error);
}

/* A pragma that says something else than it was told is not there: this file system or this SQLite will not
 * do. */
static enum outcome pragma(struct sqlite *sqlite, const char *set, const char *get, int64_t expected,
                           struct error *error)
{
    int64_t ignored, value = 0;
    enum outcome outcome = query_int(sqlite, set, &ignored, error);
    if (outcome == OK)
        outcome = query_int(sqlite, get, &value, error);
    if (outcome == OK && value != expected)
        outcome = error_fatal(error, "store-pragma", "%s: %s gives %lld, not %lld", sqlite->path, get,
                              (long long)value, (long long)expected);
    return outcome;
}

static enum outcome sqlite_check_table(struct backend *backend, const struct rows_table *table,
                                       struct error *error)
{
    struct sqlite *sqlite = (struct sqlite *)backend;
    struct table_statements *ignored;
    enum outcome outcome = table_of(sqlite, table, &ignored, error);
    if (outcome == FATAL)
        error_prefix(error, "table %s is not as this version needs it (is a migration missing?)",
                     table->name);
    return outcome;
}

static enum outcome sqlite_start(struct backend *backend, int64_t *ret_outbox_rows,
                                 int64_t *ret_outbox_oldest_us, struct error *error)
{
    struct sqlite *sqlite = (struct sqlite *)backend;
    int64_t reserved = 0, last = 0, refused = 0;
    enum outcome outcome = query_int(
        sqlite, "SELECT CAST(value AS INTEGER) FROM weir WHERE name = 'outbox_seq'", &reserved, error);
    if (outcome == OK)
        outcome = query_int(sqlite, "SELECT coalesce(max(seq), 0) FROM outbox_pack", &last, error);
    if (outcome == OK)
        outcome = query_int(sqlite, "SELECT coalesce(max(seq), 0) FROM outbox_refused", &refused, error);
    if (outcome == OK)
        outcome =
            query_int(sqlite, "SELECT coalesce(sum(events), 0) FROM outbox_pack", ret_outbox_rows, error);
    if (outcome == OK)
        outcome = query_int(sqlite, FIXED[FIXED_OUTBOX_OLDEST], ret_outbox_oldest_us, error);
    /* Rows below the reserved bound may have been given out, sent and deleted: none of their numbers comes
     * again. */
    refused = pack_seq_of(refused);
    last = last > refused ? last : refused;
    sqlite->outbox_seq_next = reserved > last + 1 ? reserved : last + 1;
    sqlite->outbox_seq_reserved = sqlite->outbox_seq_next;
    return outcome;
}

/* ---- a batch ---- */

/* Between transactions, by the connection that writes; nobody waits for a reader. */
static enum outcome checkpoint(struct sqlite *sqlite, struct error *error)
{
    int64_t bytes = (int64_t)sqlite->wal_pages * PAGE_BYTES;
    if (bytes < WAL_PASSIVE_BYTES)
        return OK;
    sqlite3_busy_timeout(sqlite->db, 0);
    int code = sqlite3_wal_checkpoint_v2(
        sqlite->db, NULL, bytes < WAL_TRUNCATE_BYTES ? SQLITE_CHECKPOINT_PASSIVE : SQLITE_CHECKPOINT_TRUNCATE,
        NULL, NULL);
    sqlite->wal_pages = 0; /* until the next commit says how many there are */
    enum outcome outcome = code == SQLITE_OK || (code & 0xff) == SQLITE_BUSY ? OK : failed(sqlite, error);
    sqlite3_busy_timeout(sqlite->db, BUSY_TIMEOUT_MS);
    return outcome;
}

static int wal_grew(void *owner, sqlite3 *db, const char *name, int pages)
{
    (void)db;
    (void)name;
    ((struct sqlite *)owner)->wal_pages = pages;
    return SQLITE_OK;
}

static enum outcome sqlite_begin(struct backend *backend, struct error *error)
{
    struct sqlite *sqlite = (struct sqlite *)backend;
    enum outcome outcome = checkpoint(sqlite, error);
    return outcome == OK ? run_fixed(sqlite, FIXED_BEGIN, error) : outcome;
}

static void sqlite_rollback(struct backend *backend)
{
    struct sqlite *sqlite = (struct sqlite *)backend;
    /* After some errors SQLite has rolled back by itself. */
    if (sqlite3_get_autocommit(sqlite->db))
        return;
    if (run_fixed(sqlite, FIXED_ROLLBACK, NULL) != OK)
        sqlite3_exec(sqlite->db, "ROLLBACK", NULL, NULL, NULL);
}

static enum outcome fetch_note(struct sqlite *sqlite, sqlite3_stmt *insert, struct backend_note *place,
                               int64_t noted_us, struct error *error)
{
    struct inbox_note *note = place->note;
    sqlite3_bind_blob(insert, 1, note->id.bytes, sizeof(note->id.bytes), SQLITE_STATIC);
    sqlite3_bind_int64(insert, 2, noted_us);
    enum outcome outcome = run(sqlite, insert, error);
    if (outcome != OK)
        return outcome;
    place->now = place->left = 0;
    if (sqlite3_changes(sqlite->db) == 1) {
        place->prior = INBOX_ABSENT;
        note->seen = false;
        return OK;
    }
    sqlite3_stmt *select, *update;
    outcome = fixed(sqlite, FIXED_INBOX_SELECT, &select, error);
    if (outcome != OK)
        return outcome;
    sqlite3_bind_blob(select, 1, note->id.bytes, sizeof(note->id.bytes), SQLITE_STATIC);
    if (sqlite3_step(select) != SQLITE_ROW)
        outcome = failed(sqlite, error);
    else
        place->prior = sqlite3_column_int(select, 0);
    sqlite3_reset(select);
    if (outcome != OK)
        return outcome;
    note->seen = place->prior == 0 || note->attempt <= place->prior;
    if (note->seen)
        return OK;
    outcome = fixed(sqlite, FIXED_INBOX_UPDATE, &update, error);
    if (outcome != OK)
        return outcome;
    sqlite3_bind_blob(update, 1, note->id.bytes, sizeof(note->id.bytes), SQLITE_STATIC);
    sqlite3_bind_int(update, 2, 0);
    return run(sqlite, update, error);
}

static enum outcome fetch_rows(struct sqlite *sqlite, struct arena *arena, struct backend_wanted *wanted,
                               struct error *error)
{
    const struct rows_table *table = wanted->table;
    struct table_statements *statements;
    enum outcome outcome = table_of(sqlite, table, &statements, error);
    for (size_t i = 0; i < wanted->count && outcome == OK; i++) {
        struct rows_entry *entry = wanted->entries[i];
        int code = bind_columns(statements->get, 1, table, 0, table->key_count, entry->row);
        if (code == SQLITE_OK)
            code = sqlite3_step(statements->get);
        wanted->found[i] = code == SQLITE_ROW;
        if (code == SQLITE_ROW)
            outcome = read_columns(sqlite, statements->get, table, table->key_count, table->column_count,
                                   arena, entry->row, error);
        else if (code != SQLITE_DONE)
            outcome = failed(sqlite, error);
        sqlite3_reset(statements->get);
    }
    return outcome;
}

static enum outcome sqlite_fetch(struct backend *backend, struct backend_fetch *fetch, struct error *error)
{
    struct sqlite *sqlite = (struct sqlite *)backend;
    sqlite3_stmt *insert;
    enum outcome outcome = fixed(sqlite, FIXED_INBOX_INSERT, &insert, error);
    for (size_t i = 0; i < fetch->note_count && outcome == OK; i++) {
        outcome = fetch_note(sqlite, insert, &fetch->notes[i], fetch->noted_us, error);
#ifdef WEIR_MUTANT_INBOX_OFF
        fetch->notes[i].note->seen = false;
#endif
    }
    for (size_t i = 0; i < fetch->wanted_count && outcome == OK; i++)
        outcome = fetch_rows(sqlite, fetch->arena, &fetch->wanted[i], error);
    return outcome;
}

static enum outcome sqlite_find(struct backend *backend, const struct rows_table *table,
                                enum backend_lock lock, const char *condition,
                                const struct store_value *parameters, size_t parameter_count, size_t limit,
                                bool (*each)(void *owner, const void *row), void *owner, struct error *error)
{
    struct sqlite *sqlite = (struct sqlite *)backend;
    sqlite3_stmt *statement;
    (void)lock; /* nobody else is there */
    enum outcome outcome = find_of(sqlite, table, condition, false, parameter_count, &statement, error);
    if (outcome != OK)
        return outcome;
    _Alignas(16) char row[WORK_ROW_BYTES_MAX];
    memset(row, 0, table->row_bytes);
    int code = bind_values(statement, parameters, parameter_count);
    if (code == SQLITE_OK)
        code = sqlite3_bind_int64(statement, (int)parameter_count + 1, (int64_t)limit);
    while (code == SQLITE_OK || code == SQLITE_ROW) {
        code = sqlite3_step(statement);
        if (code != SQLITE_ROW)
            break;
        outcome = read_columns(sqlite, statement, table, 0, table->column_count, NULL, row, error);
        if (outcome != OK || !each(owner, row))
            break;
    }
    if (outcome == OK && code != SQLITE_ROW && code != SQLITE_DONE)
        outcome = failed(sqlite, error);
    sqlite3_reset(statement);
    return outcome;
}

static enum outcome sqlite_count(struct backend *backend, const struct rows_table *table,
                                 const char *condition, const struct store_value *parameters,
                                 size_t parameter_count, int64_t *ret, struct error *error)
{
    struct sqlite *sqlite = (struct sqlite *)backend;
    sqlite3_stmt *statement;
    enum outcome outcome = find_of(sqlite, table, condition, true, parameter_count, &statement, error);
    if (outcome != OK)
        return outcome;
    int code = bind_values(statement, parameters, parameter_count);
    if (code == SQLITE_OK)
        code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        *ret = sqlite3_column_int64(statement, 0);
    else
        outcome = failed(sqlite, error);
    sqlite3_reset(statement);
    return outcome;
}

static enum outcome packs_read(struct sqlite *sqlite, int64_t first, int64_t last, size_t limit,
                               bool (*each)(void *owner, const struct backend_pack *pack), void *owner,
                               struct error *error)
{
    sqlite3_stmt *statement;
    enum outcome outcome = fixed(sqlite, FIXED_OUTBOX_READ, &statement, error);
    if (outcome != OK)
        return outcome;
    sqlite3_bind_int64(statement, 1, first);
    sqlite3_bind_int64(statement, 2, last);
    sqlite3_bind_int64(statement, 3, (int64_t)limit);
    int code;
    while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
        const struct backend_pack pack = {
            .seq = sqlite3_column_int64(statement, 0),
            .part = sqlite3_column_int(statement, 1),
            .created_us = sqlite3_column_int64(statement, 2),
            .events = sqlite3_column_int64(statement, 3),
            .body = column_bytes(statement, 4),
        };
        if (!each(owner, &pack))
            break;
    }
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        outcome = failed(sqlite, error);
    sqlite3_reset(statement);
    return outcome;
}

static enum outcome sqlite_outbox_read(struct backend *backend, bool elsewhere, int64_t from_seq,
                                       size_t limit,
                                       bool (*each)(void *owner, const struct backend_pack *pack),
                                       void *owner, struct error *error)
{
    if (elsewhere)
        return OK; /* nobody else is there */
    return packs_read((struct sqlite *)backend, from_seq, INT64_MAX, limit, each, owner, error);
}

static enum outcome sqlite_outbox_read_one(struct backend *backend, int64_t seq,
                                           bool (*each)(void *owner, const struct backend_pack *pack),
                                           void *owner, struct error *error)
{
    return packs_read((struct sqlite *)backend, seq, seq, 1, each, owner, error);
}

static enum outcome sqlite_inbox_prune(struct backend *backend, int64_t before_us, size_t limit,
                                       size_t *ret_count, struct error *error)
{
    struct sqlite *sqlite = (struct sqlite *)backend;
    sqlite3_stmt *window, *prune;
    enum outcome outcome = fixed(sqlite, FIXED_INBOX_WINDOW, &window, error);
    if (outcome == OK)
        outcome = fixed(sqlite, FIXED_INBOX_PRUNE, &prune, error);
    size_t count = 0;
    /* A window has no more rows than may yet be deleted. */
    for (int i = 0; i < INBOX_PRUNE_WINDOWS && outcome == OK && count < limit; i++) {
        struct id last;
        sqlite3_bind_blob(window, 1, sqlite->prune_after.bytes, sizeof(last.bytes), SQLITE_STATIC);
        sqlite3_bind_int64(window, 2, (int64_t)(limit - count));
        if (sqlite3_step(window) != SQLITE_ROW)
            outcome = failed(sqlite, error);
        size_t looked_at = outcome == OK ? (size_t)sqlite3_column_int64(window, 1) : 0;
        bool at_end = looked_at < limit - count;
        if (looked_at > 0) {
            struct text id = column_bytes(window, 0);
            if (id.length == sizeof(last.bytes))
                memcpy(last.bytes, id.at, id.length);
            else
                outcome = damaged(sqlite, "an inbox id is not 16 bytes long", error);
        }
        sqlite3_reset(window);
        if (outcome == OK && looked_at > 0) {
            sqlite3_bind_blob(prune, 1, sqlite->prune_after.bytes, sizeof(last.bytes), SQLITE_STATIC);
            sqlite3_bind_blob(prune, 2, last.bytes, sizeof(last.bytes), SQLITE_STATIC);
            sqlite3_bind_int64(prune, 3, before_us);
            outcome = run(sqlite, prune, error);
            if (outcome == OK)
                count += (size_t)sqlite3_changes(sqlite->db);
            sqlite->prune_after = last;
        }
        if (at_end) {
            sqlite->prune_after = (struct id){{0}};
            break;
        }
    }
    *ret_count = count;
    return outcome;
}

static enum outcome apply_table(struct sqlite *sqlite, const struct backend_table_writes *writes,
                                struct error *error)
{
    const struct rows_table *table = writes->table;
    size_t keys = table->key_count, columns = table->column_count;
    struct table_statements *statements;
    enum outcome outcome = table_of(sqlite, table, &statements, error);
    for (size_t i = 0; i < writes->delete_count && outcome == OK; i++) {
        int code = bind_columns(statements->delete, 1, table, 0, keys, writes->deletes[i]->base);
        outcome = code == SQLITE_OK ? run(sqlite, statements->delete, error) : failed(sqlite, error);
    }
    for (size_t i = 0; i < writes->update_count && outcome == OK; i++) {
        const struct rows_entry *entry = writes->updates[i];
        int code = bind_columns(statements->update, 1, table, keys, columns, entry->row);
        if (code == SQLITE_OK)
            code = bind_columns(statements->update, (int)(columns - keys) + 1, table, 0, keys, entry->base);
        outcome = code == SQLITE_OK ? run(sqlite, statements->update, error) : failed(sqlite, error);
    }
    for (size_t i = 0; i < writes->insert_count && outcome == OK; i++) {
        int code = bind_columns(statements->insert, 1, table, 0, columns, writes->inserts[i]->row);
        outcome = code == SQLITE_OK ? run(sqlite, statements->insert, error) : failed(sqlite, error);
    }
    return outcome;
}

static enum outcome apply_notes(struct sqlite *sqlite, const struct backend_apply *apply, struct error *error)
{
    enum outcome outcome = OK;
    for (size_t i = 0; i < apply->note_count && outcome == OK; i++) {
        const struct backend_note_write *write = &apply->notes[i];
        sqlite3_stmt *statement;
        outcome = fixed(sqlite, write->attempt == INBOX_ABSENT ? FIXED_INBOX_DELETE : FIXED_INBOX_UPDATE,
                        &statement, error);
        if (outcome != OK)
            break;
        sqlite3_bind_blob(statement, 1, write->id.bytes, sizeof(write->id.bytes), SQLITE_STATIC);
        if (write->attempt != INBOX_ABSENT)
            sqlite3_bind_int(statement, 2, write->attempt);
        outcome = run(sqlite, statement, error);
    }
    return outcome;
}

/* Numbers are set aside in blocks, in a transaction that uses the first of them, so that none comes twice,
 * also when the table was emptied and the process began anew. */
static enum outcome outbox_reserve(struct sqlite *sqlite, int64_t upto, struct error *error)
{
    sqlite3_stmt *statement;
    enum outcome outcome = fixed(sqlite, FIXED_RESERVE, &statement, error);
    if (outcome != OK)
        return outcome;
    char number[24];
    int length = snprintf(number, sizeof(number), "%lld", (long long)upto);
    bind_text(statement, 1, (struct text){number, (size_t)length});
    outcome = run(sqlite, statement, error);
    sqlite3_clear_bindings(statement);
    return outcome;
}

static enum outcome apply_added(struct sqlite *sqlite, struct backend_apply *apply, struct error *error)
{
    sqlite3_stmt *statement;
    enum outcome outcome = fixed(sqlite, FIXED_OUTBOX_INSERT, &statement, error);
    for (size_t i = 0; i < apply->pack_count && outcome == OK; i++) {
        struct backend_pack *pack = &apply->packs[i];
        pack->seq = sqlite->outbox_seq_next + (int64_t)i;
        int code = sqlite3_bind_int64(statement, 1, pack->seq);
        if (code == SQLITE_OK)
            code = sqlite3_bind_int(statement, 2, pack->part);
        if (code == SQLITE_OK)
            code = sqlite3_bind_int64(statement, 3, pack->created_us);
        if (code == SQLITE_OK)
            code = sqlite3_bind_int64(statement, 4, pack->events);
        if (code == SQLITE_OK)
            code = bind_blob(statement, 5, pack->body);
        outcome = code == SQLITE_OK ? run(sqlite, statement, error) : failed(sqlite, error);
    }
    return outcome;
}

static enum outcome outbox_delete(struct sqlite *sqlite, int64_t first, int64_t last,
                                  struct backend_apply *apply, struct error *error)
{
    sqlite3_stmt *events, *statement;
    enum outcome outcome = fixed(sqlite, FIXED_OUTBOX_EVENTS, &events, error);
    if (outcome == OK)
        outcome = fixed(sqlite, FIXED_OUTBOX_DELETE, &statement, error);
    if (outcome != OK)
        return outcome;
    sqlite3_bind_int64(events, 1, first);
    sqlite3_bind_int64(events, 2, last);
    if (sqlite3_step(events) == SQLITE_ROW)
        apply->outbox_gone += sqlite3_column_int64(events, 0);
    else
        outcome = failed(sqlite, error);
    sqlite3_reset(events);
    if (outcome != OK)
        return outcome;
    sqlite3_bind_int64(statement, 1, first);
    sqlite3_bind_int64(statement, 2, last);
    return run(sqlite, statement, error);
}

static enum outcome apply_refused(struct sqlite *sqlite, struct backend_apply *apply, struct error *error)
{
    enum outcome outcome = OK;
    for (size_t i = 0; i < apply->refused_count && outcome == OK; i++) {
        const struct backend_refusal *refusal = &apply->refused[i];
        sqlite3_stmt *statement;
        outcome = fixed(sqlite, FIXED_REFUSE, &statement, error);
        if (outcome != OK)
            break;
        const struct outbox_row *row = &refusal->row;
        int code = sqlite3_bind_int64(statement, 1, refusal->seq);
        if (code == SQLITE_OK)
            code = bind_text(statement, 2, row->topic);
        if (code == SQLITE_OK)
            code = sqlite3_bind_int(statement, 3, row->partition);
        if (code == SQLITE_OK)
            code = row->key_null ? sqlite3_bind_null(statement, 4) : bind_blob(statement, 4, row->key);
        if (code == SQLITE_OK)
            code = row->value_null ? sqlite3_bind_null(statement, 5) : bind_blob(statement, 5, row->value);
        if (code == SQLITE_OK)
            code = bind_blob(statement, 6, refusal->headers);
        if (code == SQLITE_OK)
            code = sqlite3_bind_int64(statement, 7, row->created_us);
        if (code == SQLITE_OK)
            code = bind_text(statement, 8, refusal->reason);
        outcome = code == SQLITE_OK ? run(sqlite, statement, error) : failed(sqlite, error);
    }
    return outcome;
}

static enum outcome outbox_oldest(struct sqlite *sqlite, int64_t *ret, struct error *error)
{
    sqlite3_stmt *statement;
    enum outcome outcome = fixed(sqlite, FIXED_OUTBOX_OLDEST, &statement, error);
    if (outcome != OK)
        return outcome;
    int code = sqlite3_step(statement);
    *ret = code == SQLITE_ROW ? sqlite3_column_int64(statement, 0) : 0;
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        outcome = failed(sqlite, error);
    sqlite3_reset(statement);
    return outcome;
}

static enum outcome sqlite_apply(struct backend *backend, struct backend_apply *apply, struct error *error)
{
    struct sqlite *sqlite = (struct sqlite *)backend;
    int64_t next = sqlite->outbox_seq_next + (int64_t)apply->pack_count,
            reserved = sqlite->outbox_seq_reserved;
    enum outcome outcome = OK;
    for (size_t i = 0; i < apply->table_count && outcome == OK; i++)
        outcome = apply_table(sqlite, &apply->tables[i], error);
    if (outcome == OK)
        outcome = apply_notes(sqlite, apply, error);
    if (outcome == OK && next > reserved) {
        reserved = next + OUTBOX_SEQ_BLOCK;
        outcome = outbox_reserve(sqlite, reserved, error);
    }
    apply->outbox_gone = 0;
    for (size_t i = 0; i < apply->done_count && outcome == OK; i++)
        outcome = outbox_delete(sqlite, apply->done[i].first, apply->done[i].last, apply, error);
    if (outcome == OK)
        outcome = apply_refused(sqlite, apply, error);
    if (outcome == OK && apply->pack_count)
        outcome = apply_added(sqlite, apply, error);
    if (outcome == OK && (apply->pack_count || apply->done_count || apply->refused_count))
        outcome = outbox_oldest(sqlite, &apply->outbox_oldest_us, error);
    if (outcome == OK)
        outcome = run_fixed(sqlite, FIXED_COMMIT, error);
    if (outcome != OK)
        return outcome;
    sqlite->outbox_seq_next = next;
    sqlite->outbox_seq_reserved = reserved;
    return OK;
}

static enum outcome sqlite_probe(struct backend *backend, struct error *error)
{
    struct sqlite *sqlite = (struct sqlite *)backend;
    assert(sqlite3_get_autocommit(sqlite->db));
    int moved = 0;
    if (sqlite3_file_control(sqlite->db, NULL, SQLITE_FCNTL_HAS_MOVED, &moved) == SQLITE_OK && moved)
        return error_fatal(error, "store-moved", "%s: was moved or deleted while in use", sqlite->path);
    sqlite3_stmt *statement;
    enum outcome outcome = fixed(sqlite, FIXED_PROBE, &statement, error);
    if (outcome != OK)
        return outcome;
    char now[CLOCK_RFC3339_BYTES_MAX];
    bind_text(statement, 1, text_of(clock_to_rfc3339(clock_wall_us(), now)));
    outcome = run(sqlite, statement, error); /* a transaction of its own, synced */
    sqlite3_clear_bindings(statement);
    return outcome;
}

/* ---- opening ---- */

/* The file by its real name, so that two ways to it meet at one lock. */
static enum outcome real_path(const char *path, char **ret, struct error *error)
{
    *ret = realpath(path, NULL);
    if (*ret)
        return OK;
    char *copy = strdup(path), *base_copy = strdup(path), *directory = NULL;
    enum outcome outcome = OK;
    if (!copy || !base_copy) {
        outcome = error_retry(error, "memory", "out of memory");
        goto out;
    }
    directory = errno == ENOENT ? realpath(dirname(copy), NULL) : NULL;
    if (!directory) {
        error_set(error, FATAL, "store-open",
                  "%s: the database cannot be opened: %s; make the directory or "
                  "name another in DATABASE_URL",
                  path, strerror(errno));
        outcome = config_error(error);
        goto out;
    }
    if (asprintf(ret, "%s/%s", strcmp(directory, "/") ? directory : "", basename(base_copy)) < 0) {
        *ret = NULL;
        outcome = error_retry(error, "memory", "out of memory");
    }

out:
    free(copy);
    free(base_copy);
    free(directory);
    return outcome;
}

enum outcome sqlite_look(const char *path, bool *ret_there, struct error *error)
{
    struct stat about;
    char *real = NULL;
    enum outcome outcome = real_path(path, &real, error);
    if (outcome != OK)
        return outcome;
    bool there = stat(real, &about) == 0 && about.st_size > 0;
    if (!there && access(real, F_OK) == 0) {
        if (access(real, R_OK | W_OK) != 0) {
            error_set(error, FATAL, "store-open", "%s: cannot be opened: %s", real, strerror(errno));
            outcome = config_error(error);
        }
    } else if (!there) {
        char *name = strrchr(real, '/');
        name[name == real] = '\0'; /* its folder */
        if (access(real, W_OK | X_OK) != 0) {
            error_set(error, FATAL, "store-open", "%s: no file can be made in %s: %s", path, real,
                      strerror(errno));
            outcome = config_error(error);
        }
    }
    if (outcome == OK)
        *ret_there = there;
    free(real);
    return outcome;
}

/* A file of its own: SQLite's locks are lost when another descriptor of the same file is closed in this
 * process. It is never deleted, so that all who come agree on it. */
static enum outcome lock_take(struct sqlite *sqlite, struct error *error)
{
    char name[PATH_MAX];
    if ((size_t)snprintf(name, sizeof(name), "%s.lock", sqlite->path) >= sizeof(name)) {
        error_set(error, FATAL, "store-open", "DATABASE_URL: the path is too long");
        return config_error(error);
    }
    sqlite->lock_fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (sqlite->lock_fd < 0) {
        if (errno == ENOSPC || errno == EDQUOT)
            return disk_full(sqlite, error);
        if (errno == EMFILE || errno == ENFILE)
            return error_outage(error, "store-open", "%s: too many open files", name);
        error_set(error, FATAL, "store-open", "%s: cannot be opened for writing: %s", name, strerror(errno));
        return config_error(error);
    }
    char pid[24] = "";
    if (flock(sqlite->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK)
            return error_fatal(error, "store-open", "%s: cannot be locked: %s", name, strerror(errno));
        ssize_t length = pread(sqlite->lock_fd, pid, sizeof(pid) - 1, 0);
        int64_t number;
        bool known = length > 0 && text_to_int64((struct text){pid, (size_t)length}, &number);
        error_set(error, FATAL, "store-in-use", "%s: in use by process %s; only one at a time can have it",
                  sqlite->path, known ? pid : "(unknown)");
        if (error)
            error->exit_code = EXIT_TRY_AGAIN;
        return FATAL;
    }
    int length = snprintf(pid, sizeof(pid), "%ld", (long)getpid());
    /* The number is for people; the lock holds without it, also on a full disk. */
    bool noted =
        ftruncate(sqlite->lock_fd, 0) == 0 && pwrite(sqlite->lock_fd, pid, (size_t)length, 0) == length;
    (void)noted;
    return OK;
}

static void sqlite_close(struct backend *backend)
{
    struct sqlite *sqlite = (struct sqlite *)backend;
    for (size_t i = 0; i < FIXED_COUNT; i++)
        sqlite3_finalize(sqlite->fixed[i]);
    for (size_t i = 0; i < sqlite->table_count; i++)
        table_finalize(&sqlite->tables[i]);
    for (size_t i = 0; i < FIND_STATEMENTS_MAX; i++) {
        sqlite3_finalize(sqlite->finds[i].statement);
        free(sqlite->finds[i].condition);
    }
    if (sqlite->db) {
        int code = sqlite3_close(sqlite->db); /* of the last connection: checkpoints and deletes the log */
        assert(code == SQLITE_OK);
    }
    if (sqlite->lock_fd >= 0)
        close(sqlite->lock_fd);
    free(sqlite->path);
    free(sqlite);
}

static const struct backend_ops SQLITE_OPS = {
    .close = sqlite_close,
    .type_names = {[ROWS_INT] = "INTEGER", [ROWS_TEXT] = "TEXT", [ROWS_BYTES] = "BLOB", [ROWS_ID] = "BLOB"},
    .type_defaults = {[ROWS_INT] = "0",
                      [ROWS_TEXT] = "''",
                      [ROWS_BYTES] = "x''",
                      [ROWS_ID] = "x'00000000000000000000000000000000'"},
    .columns_sql = "SELECT name FROM pragma_table_info($1)",
    .table_suffix = " WITHOUT ROWID",
    .busy_table_suffix = " WITHOUT ROWID",
    .migration_sql = sqlite_migration,
    .own_tables = sqlite_own_tables,
    .begin_ddl = sqlite_begin_ddl,
    .script = sqlite_script,
    .query = sqlite_query,
    .check_table = sqlite_check_table,
    .start = sqlite_start,
    .probe = sqlite_probe,
    .begin = sqlite_begin,
    .fetch = sqlite_fetch,
    .find = sqlite_find,
    .count = sqlite_count,
    .pack_bytes_max = PACK_BYTES_MAX,
    .outbox_read = sqlite_outbox_read,
    .outbox_read_one = sqlite_outbox_read_one,
    .inbox_prune = sqlite_inbox_prune,
    .apply = sqlite_apply,
    .rollback = sqlite_rollback,
};

/* Statistics on memory are a mutex an allocation; a program that has configured SQLite itself keeps its ways.
 */
static void configure_once(void)
{
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
}

/* Ours, or new and empty? Asked before anything is written to it. */
static enum outcome identity_check(struct sqlite *sqlite, bool read_only, struct error *error)
{
    int64_t objects = 0, application = 0;
    enum outcome outcome = query_int(sqlite, "SELECT count(*) FROM sqlite_schema", &objects, error);
    if (outcome == OK)
        outcome = query_int(sqlite, "PRAGMA application_id", &application, error);
    if (outcome != OK || application == APPLICATION_ID)
        return outcome;
    if (objects == 0 && application == 0 && !read_only)
        return OK;
    error_set(error, FATAL, "store-foreign",
              "%s: is a database of another program; name another file in "
              "DATABASE_URL",
              sqlite->path);
    return config_error(error);
}

static bool first_word(void *owner, const struct store_row *row)
{
    struct text text = store_row_text(row, 0);
    snprintf(owner, ERROR_TEXT_BYTES_MAX / 2, "%.*s", TEXT_ARG(text));
    return false;
}

static enum outcome quick_check(struct sqlite *sqlite, struct error *error)
{
    struct stat about;
    if (stat(sqlite->path, &about) != 0 || about.st_size > QUICK_CHECK_BYTES_MAX)
        return OK;
    char first[ERROR_TEXT_BYTES_MAX / 2] = "";
    enum outcome outcome =
        sqlite_query(&sqlite->backend, "PRAGMA quick_check(1)", NULL, 0, first_word, first, error);
    if (outcome == OK && strcmp(first, "ok") != 0)
        return damaged(sqlite, first, error);
    return outcome;
}

static enum outcome writer_prepare(struct sqlite *sqlite, struct error *error)
{
    char text[64];
    enum outcome outcome = sqlite_script(&sqlite->backend, "PRAGMA locking_mode = NORMAL", error);
    int64_t objects = 0;
    if (outcome == OK)
        outcome = query_int(sqlite, "SELECT count(*) FROM sqlite_schema", &objects, error);
    if (outcome == OK && objects == 0) { /* only before the first write */
        snprintf(text, sizeof(text), "PRAGMA page_size = %d", PAGE_BYTES);
        outcome = sqlite_script(&sqlite->backend, text, error);
    }
    char mode[ERROR_TEXT_BYTES_MAX / 2] = "";
    if (outcome == OK)
        outcome =
            sqlite_query(&sqlite->backend, "PRAGMA journal_mode = WAL", NULL, 0, first_word, mode, error);
    if (outcome == OK && strcmp(mode, "wal") != 0)
        outcome = error_fatal(error, "store-pragma",
                              "%s: journal_mode is '%s', not 'wal'; is it on a network file "
                              "system?",
                              sqlite->path, mode);
    if (outcome == OK)
        outcome = pragma(sqlite, "PRAGMA synchronous = FULL", "PRAGMA synchronous", 2, error);
    if (outcome == OK)
        outcome = pragma(sqlite, "PRAGMA foreign_keys = ON", "PRAGMA foreign_keys", 1, error);
    if (outcome == OK)
        outcome = pragma(sqlite, "PRAGMA wal_autocheckpoint = 0", "PRAGMA wal_autocheckpoint", 0, error);
    if (outcome == OK && objects == 0) {
        snprintf(text, sizeof(text), "PRAGMA application_id = %d", APPLICATION_ID);
        outcome = pragma(sqlite, text, "PRAGMA application_id", APPLICATION_ID, error);
    }
    if (outcome == OK)
        outcome = quick_check(sqlite, error);
    if (outcome == OK)
        sqlite3_wal_hook(sqlite->db, wal_grew, sqlite);
    return outcome;
}

enum outcome sqlite_open(const char *path, bool read_only, struct backend **ret, struct error *error)
{
    static pthread_once_t configured = PTHREAD_ONCE_INIT;
    pthread_once(&configured, configure_once);
    struct sqlite *sqlite = calloc(1, sizeof(*sqlite));
    if (!sqlite)
        return error_retry(error, "memory", "out of memory");
    sqlite->backend.ops = &SQLITE_OPS;
    sqlite->lock_fd = -1;
    enum outcome outcome = real_path(path, &sqlite->path, error);
    if (outcome == OK && !read_only)
        outcome = lock_take(sqlite, error);
    if (outcome != OK)
        goto out;
    int flags = (read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE) |
                SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    if (sqlite3_open_v2(sqlite->path, &sqlite->db, flags, sqlite_log_vfs()) != SQLITE_OK) {
        outcome = failed(sqlite, error);
        goto out;
    }
    sqlite3_busy_timeout(sqlite->db, BUSY_TIMEOUT_MS);
    sqlite3_db_config(sqlite->db, SQLITE_DBCONFIG_LOOKASIDE, NULL, LOOKASIDE_BYTES, LOOKASIDE_COUNT);
    sqlite3_db_config(sqlite->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    if (read_only)
        sqlite3_db_config(sqlite->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    outcome = identity_check(sqlite, read_only, error);
    char text[128];
    snprintf(text, sizeof(text),
             "PRAGMA cache_size = -%d; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF",
             read_only ? READER_CACHE_KIB : CACHE_KIB);
    if (outcome == OK)
        outcome = sqlite_script(&sqlite->backend, text, error);
    if (outcome == OK && !read_only)
        outcome = writer_prepare(sqlite, error);
    if (outcome == OK) {
        *ret = &sqlite->backend;
        return OK;
    }

out:
    sqlite_close(&sqlite->backend);
    return outcome;
}
