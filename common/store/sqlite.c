/*
 * The store on SQLite: WAL, synchronous=FULL, one connection that writes and checkpoints. How it is built:
 * sqlite.h.
 *
 * Only one connection of one process writes or checkpoints, readers of this process never do: SQLite
 * before 3.51.3 can damage a file where two connections do so at the same moment.
 */
#include "store/sqlite.h"

#include "base/clock.h"
#include "store/pack.h"
#include "store/sqlite_log.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    CACHE_KIB = 8192, /* of pages in memory, for the connection that writes */
    READER_CACHE_KIB = 2048,
    QUICK_CHECK_BYTES_MAX = 16 << 20, /* files below it are checked at open */
    LOOKASIDE_BYTES = 256,
    LOOKASIDE_COUNT = 512,
    APPLICATION_ID = 0x57454952,              /* "WEIR", in the file's header */
    PACK_BYTES_MAX = SQLITE_PAGE_BYTES - 160, /* with the row's head it fills a page */
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

/* ---- rows of a query ---- */

struct sqlite_row {
    struct store_row row;
    sqlite3_stmt *statement;
};

static int64_t row_int(const struct store_row *row, size_t column)
{
    return sqlite3_column_int64(((const struct sqlite_row *)row)->statement, (int)column);
}

static struct text row_text(const struct store_row *row, size_t column)
{
    return sqlite_column_bytes(((const struct sqlite_row *)row)->statement, (int)column);
}

/* ---- general statements ---- */

static enum outcome sqlite_script(struct backend *backend, const char *sql, struct error *error)
{
    struct sqlite *sqlite = (struct sqlite *)backend;
    if (sqlite3_exec(sqlite->db, sql, NULL, NULL, NULL) == SQLITE_OK)
        return OK;
    enum outcome outcome = sqlite_failed(sqlite, error);
    if (!sqlite3_get_autocommit(sqlite->db))
        sqlite3_exec(sqlite->db, "ROLLBACK", NULL, NULL, NULL);
    return outcome;
}

static enum outcome sqlite_begin_ddl(struct backend *backend, struct error *error)
{
    return sqlite_script(backend, sqlite_fixed_sql[FIXED_BEGIN], error);
}

static enum outcome sqlite_own_tables(struct backend *backend, struct error *error)
{
    enum outcome outcome = sqlite_begin_ddl(backend, error);
    if (outcome == OK)
        outcome = sqlite_script(backend, OWN_TABLES, error);
    if (outcome == OK)
        outcome = outbox_upgrade(backend, error);
    if (outcome == OK)
        return sqlite_script(backend, sqlite_fixed_sql[FIXED_COMMIT], error);
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
    sqlite3_stmt *statement = NULL;
    enum outcome outcome = sqlite_prepare(sqlite, sql, &statement, error);
    if (outcome == OK && sqlite_bind_values(statement, parameters, parameter_count) != SQLITE_OK)
        outcome = sqlite_failed(sqlite, error);
    if (outcome != OK)
        goto out;
    int code;
    struct sqlite_row row = {{row_int, row_text}, statement};
    while ((code = sqlite3_step(statement)) == SQLITE_ROW)
        if (!each || !each(owner, &row.row))
            break;
    if (code != SQLITE_DONE && code != SQLITE_ROW)
        outcome = sqlite_failed(sqlite, error);

out:
    sqlite3_finalize(statement);
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
    struct sqlite_table *ignored;
    enum outcome outcome = sqlite_table_of(sqlite, table, &ignored, error);
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
        outcome = query_int(sqlite, sqlite_fixed_sql[FIXED_OUTBOX_OLDEST], ret_outbox_oldest_us, error);
    /* Rows below the reserved bound may have been given out, sent and deleted: none of their numbers comes
     * again. */
    refused = pack_seq_of(refused);
    last = last > refused ? last : refused;
    sqlite->outbox_seq_next = reserved > last + 1 ? reserved : last + 1;
    sqlite->outbox_seq_reserved = sqlite->outbox_seq_next;
    return outcome;
}

static enum outcome sqlite_probe(struct backend *backend, struct error *error)
{
    struct sqlite *sqlite = (struct sqlite *)backend;
    assert(sqlite3_get_autocommit(sqlite->db));
    int moved = 0;
    if (sqlite3_file_control(sqlite->db, NULL, SQLITE_FCNTL_HAS_MOVED, &moved) == SQLITE_OK && moved)
        return error_fatal(error, "store-moved", "%s: was moved or deleted while in use", sqlite->path);
    sqlite3_stmt *statement;
    enum outcome outcome = sqlite_fixed(sqlite, FIXED_PROBE, &statement, error);
    if (outcome != OK)
        return outcome;
    char now[CLOCK_RFC3339_BYTES_MAX];
    sqlite_bind_text(statement, 1, text_of(clock_to_rfc3339(clock_wall_us(), now)));
    outcome = sqlite_run(sqlite, statement, error); /* a transaction of its own, synced */
    sqlite3_clear_bindings(statement);
    return outcome;
}

/* ---- rows by a condition, the outbox, the inbox ---- */

static enum outcome sqlite_find(struct backend *backend, const struct rows_table *table,
                                enum backend_lock lock, const char *condition,
                                const struct store_value *parameters, size_t parameter_count, size_t limit,
                                bool (*each)(void *owner, const void *row), void *owner, struct error *error)
{
    struct sqlite *sqlite = (struct sqlite *)backend;
    sqlite3_stmt *statement;
    (void)lock; /* nobody else is there */
    enum outcome outcome =
        sqlite_find_of(sqlite, table, condition, false, parameter_count, &statement, error);
    if (outcome != OK)
        return outcome;
    _Alignas(16) char row[WORK_ROW_BYTES_MAX];
    memset(row, 0, table->row_bytes);
    int code = sqlite_bind_values(statement, parameters, parameter_count);
    if (code == SQLITE_OK)
        code = sqlite3_bind_int64(statement, (int)parameter_count + 1, (int64_t)limit);
    while (code == SQLITE_OK || code == SQLITE_ROW) {
        code = sqlite3_step(statement);
        if (code != SQLITE_ROW)
            break;
        outcome = sqlite_read_columns(sqlite, statement, table, 0, table->column_count, NULL, row, error);
        if (outcome != OK || !each(owner, row))
            break;
    }
    if (outcome == OK && code != SQLITE_ROW && code != SQLITE_DONE)
        outcome = sqlite_failed(sqlite, error);
    sqlite3_reset(statement);
    return outcome;
}

static enum outcome sqlite_count(struct backend *backend, const struct rows_table *table,
                                 const char *condition, const struct store_value *parameters,
                                 size_t parameter_count, int64_t *ret, struct error *error)
{
    struct sqlite *sqlite = (struct sqlite *)backend;
    sqlite3_stmt *statement;
    enum outcome outcome = sqlite_find_of(sqlite, table, condition, true, parameter_count, &statement, error);
    if (outcome != OK)
        return outcome;
    int code = sqlite_bind_values(statement, parameters, parameter_count);
    if (code == SQLITE_OK)
        code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        *ret = sqlite3_column_int64(statement, 0);
    else
        outcome = sqlite_failed(sqlite, error);
    sqlite3_reset(statement);
    return outcome;
}

static enum outcome packs_read(struct sqlite *sqlite, int64_t first, int64_t last, size_t limit,
                               bool (*each)(void *owner, const struct backend_pack *pack), void *owner,
                               struct error *error)
{
    sqlite3_stmt *statement;
    enum outcome outcome = sqlite_fixed(sqlite, FIXED_OUTBOX_READ, &statement, error);
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
            .body = sqlite_column_bytes(statement, 4),
        };
        if (!each(owner, &pack))
            break;
    }
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        outcome = sqlite_failed(sqlite, error);
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
    enum outcome outcome = sqlite_fixed(sqlite, FIXED_INBOX_WINDOW, &window, error);
    if (outcome == OK)
        outcome = sqlite_fixed(sqlite, FIXED_INBOX_PRUNE, &prune, error);
    size_t count = 0;
    /* A window has no more rows than may yet be deleted. */
    for (int i = 0; i < INBOX_PRUNE_WINDOWS && outcome == OK && count < limit; i++) {
        struct id last;
        sqlite3_bind_blob(window, 1, sqlite->prune_after.bytes, sizeof(last.bytes), SQLITE_STATIC);
        sqlite3_bind_int64(window, 2, (int64_t)(limit - count));
        if (sqlite3_step(window) != SQLITE_ROW)
            outcome = sqlite_failed(sqlite, error);
        size_t looked_at = outcome == OK ? (size_t)sqlite3_column_int64(window, 1) : 0;
        bool at_end = looked_at < limit - count;
        if (looked_at > 0) {
            struct text id = sqlite_column_bytes(window, 0);
            if (id.length == sizeof(last.bytes))
                memcpy(last.bytes, id.at, id.length);
            else
                outcome = sqlite_damaged(sqlite, "an inbox id is not 16 bytes long", error);
        }
        sqlite3_reset(window);
        if (outcome == OK && looked_at > 0) {
            sqlite3_bind_blob(prune, 1, sqlite->prune_after.bytes, sizeof(last.bytes), SQLITE_STATIC);
            sqlite3_bind_blob(prune, 2, last.bytes, sizeof(last.bytes), SQLITE_STATIC);
            sqlite3_bind_int64(prune, 3, before_us);
            outcome = sqlite_run(sqlite, prune, error);
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

/* ---- opening ---- */

static int wal_grew(void *owner, sqlite3 *db, const char *name, int pages)
{
    (void)db;
    (void)name;
    ((struct sqlite *)owner)->wal_pages = pages;
    return SQLITE_OK;
}

static void sqlite_close(struct backend *backend)
{
    struct sqlite *sqlite = (struct sqlite *)backend;
    sqlite_statements_free(sqlite);
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
    return sqlite_config_error(error);
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
        return sqlite_damaged(sqlite, first, error);
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
        snprintf(text, sizeof(text), "PRAGMA page_size = %d", SQLITE_PAGE_BYTES);
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
    enum outcome outcome = sqlite_file_path(path, &sqlite->path, error);
    if (outcome == OK && !read_only)
        outcome = sqlite_file_lock(sqlite, error);
    if (outcome != OK)
        goto out;
    int flags = (read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE) |
                SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    if (sqlite3_open_v2(sqlite->path, &sqlite->db, flags, sqlite_log_vfs()) != SQLITE_OK) {
        outcome = sqlite_failed(sqlite, error);
        goto out;
    }
    sqlite3_busy_timeout(sqlite->db, SQLITE_BUSY_WAIT_MS);
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
