/* sqlite_statements: what is prepared, and values into it and out of it. */
#include "store/sqlite.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { STATEMENT_BYTES_MAX = 8 << 10 };

const char *const sqlite_fixed_sql[FIXED_COUNT] = {
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

/* ---- values ---- */

/* The empty text is not NULL, also where it has no address. Binding by reference cannot fail but for size. */
int sqlite_bind_blob(sqlite3_stmt *statement, int place, struct text text)
{
    return sqlite3_bind_blob64(statement, place, text.length ? text.at : "", text.length, SQLITE_STATIC);
}

int sqlite_bind_text(sqlite3_stmt *statement, int place, struct text text)
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
        return sqlite_bind_text(statement, place, *(const struct text *)(const void *)at);
    case ROWS_BYTES:
        return sqlite_bind_blob(statement, place, *(const struct text *)(const void *)at);
    case ROWS_ID:
        return sqlite3_bind_blob(statement, place, at, sizeof(struct id), SQLITE_STATIC);
    }
    return SQLITE_MISUSE;
}

int sqlite_bind_columns(sqlite3_stmt *statement, int place, const struct rows_table *table, size_t from,
                        size_t to, const void *row)
{
    int code = SQLITE_OK;
    for (size_t i = from; i < to && code == SQLITE_OK; i++)
        code = bind_column(statement, place++, &table->columns[i], row);
    return code;
}

int sqlite_bind_values(sqlite3_stmt *statement, const struct store_value *values, size_t count)
{
    int code = SQLITE_OK;
    for (size_t i = 0; i < count && code == SQLITE_OK; i++) {
        if (values[i].is_bytes)
            code = sqlite_bind_blob(statement, (int)i + 1, values[i].text);
        else if (values[i].is_text)
            code = sqlite_bind_text(statement, (int)i + 1, values[i].text);
        else
            code = sqlite3_bind_int64(statement, (int)i + 1, values[i].number);
    }
    return code;
}

struct text sqlite_column_bytes(sqlite3_stmt *statement, int column)
{
    const void *at = sqlite3_column_blob(statement, column);
    return (struct text){at, (size_t)sqlite3_column_bytes(statement, column)};
}

enum outcome sqlite_read_columns(struct sqlite *sqlite, sqlite3_stmt *statement,
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
            struct text text = sqlite_column_bytes(statement, place);
            if (text.length && arena) {
                text.at = arena_copy(arena, text.at, text.length);
                if (!text.at)
                    return error_retry(error, "memory", "out of memory for this batch");
            }
            *(struct text *)(void *)at = text;
            break;
        }
        case ROWS_ID: {
            struct text text = sqlite_column_bytes(statement, place);
            if (text.length != sizeof(struct id))
                return sqlite_damaged(sqlite, "an id is not 16 bytes long", error);
            memcpy(at, text.at, text.length);
            break;
        }
        }
    }
    return OK;
}

/* ---- preparing ---- */

static enum outcome prepare(struct sqlite *sqlite, const char *sql, sqlite3_stmt **ret, struct error *error)
{
    if (sqlite3_prepare_v3(sqlite->db, sql, -1, SQLITE_PREPARE_PERSISTENT, ret, NULL) != SQLITE_OK)
        return sqlite_failed(sqlite, error);
    return OK;
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

/* "$1" of the common subset as "?1" of SQLite, for which "$1" is a name; not within quotes. */
static void add_placeholders(struct buffer *sql, const char *text)
{
    bool quoted = false;
    for (; *text; text++) {
        quoted = quoted != (*text == '\'');
        buffer_add_char(sql, *text == '$' && !quoted && text[1] >= '1' && text[1] <= '9' ? '?' : *text);
    }
}

enum outcome sqlite_prepare(struct sqlite *sqlite, const char *sql, sqlite3_stmt **ret, struct error *error)
{
    struct buffer text = buffer_of(STATEMENT_BYTES_MAX);
    add_placeholders(&text, sql);
    enum outcome outcome = prepare_built(sqlite, &text, ret, error);
    buffer_free(&text);
    return outcome;
}

/* ---- those of the store's own tables ---- */

enum outcome sqlite_fixed(struct sqlite *sqlite, enum sqlite_fixed which, sqlite3_stmt **ret,
                          struct error *error)
{
    if (!sqlite->fixed[which]) {
        enum outcome outcome = prepare(sqlite, sqlite_fixed_sql[which], &sqlite->fixed[which], error);
        if (outcome != OK)
            return outcome;
    }
    *ret = sqlite->fixed[which];
    return OK;
}

/* The message of a failure is the step's: reset gives the same again. */
enum outcome sqlite_run(struct sqlite *sqlite, sqlite3_stmt *statement, struct error *error)
{
    int code = sqlite3_step(statement);
    enum outcome outcome = code == SQLITE_DONE || code == SQLITE_ROW ? OK : sqlite_failed(sqlite, error);
    sqlite3_reset(statement);
    return outcome;
}

enum outcome sqlite_run_fixed(struct sqlite *sqlite, enum sqlite_fixed which, struct error *error)
{
    sqlite3_stmt *statement;
    enum outcome outcome = sqlite_fixed(sqlite, which, &statement, error);
    return outcome == OK ? sqlite_run(sqlite, statement, error) : outcome;
}

/* ---- those of a service's tables ---- */

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

static void table_finalize(struct sqlite_table *table)
{
    sqlite3_finalize(table->get);
    sqlite3_finalize(table->insert);
    sqlite3_finalize(table->update);
    sqlite3_finalize(table->delete);
}

enum outcome sqlite_table_of(struct sqlite *sqlite, const struct rows_table *table, struct sqlite_table **ret,
                             struct error *error)
{
    for (size_t i = 0; i < sqlite->table_count; i++)
        if (sqlite->tables[i].table == table) {
            *ret = &sqlite->tables[i];
            return OK;
        }
    assert(sqlite->table_count < ROWS_TABLES_MAX);
    struct sqlite_table made = {.table = table};
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
    made = (struct sqlite_table){.table = NULL};

out:
    table_finalize(&made);
    buffer_free(&sql);
    return outcome;
}

enum outcome sqlite_find_of(struct sqlite *sqlite, const struct rows_table *table, const char *condition,
                            bool counts, size_t parameter_count, sqlite3_stmt **ret, struct error *error)
{
    const char *key = condition ? condition : "";
    struct sqlite_find *place = &sqlite->finds[0];
    for (size_t i = 0; i < SQLITE_FINDS_MAX; i++) {
        struct sqlite_find *find = &sqlite->finds[i];
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
    *place = (struct sqlite_find){table, copy, counts, ++sqlite->find_uses, statement};
    *ret = statement;
    return OK;
}

void sqlite_statements_free(struct sqlite *sqlite)
{
    for (size_t i = 0; i < FIXED_COUNT; i++)
        sqlite3_finalize(sqlite->fixed[i]);
    for (size_t i = 0; i < sqlite->table_count; i++)
        table_finalize(&sqlite->tables[i]);
    for (size_t i = 0; i < SQLITE_FINDS_MAX; i++) {
        sqlite3_finalize(sqlite->finds[i].statement);
        free(sqlite->finds[i].condition);
    }
}
