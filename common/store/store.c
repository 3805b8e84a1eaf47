#include "store/store.h"

#include "base/clock.h"
#include "store/work.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

enum { DDL_BYTES_MAX = 64 << 10, OWNER_BYTES_MAX = 64 };

/* ---- opening ---- */

/* What follows "sqlite:"; NULL: another kind of database. */
static const char *sqlite_path(const char *url)
{
    static const char sqlite[] = "sqlite:";
    bool is = strncmp(url, sqlite, sizeof(sqlite) - 1) == 0 && url[sizeof(sqlite) - 1];
    return is ? url + sizeof(sqlite) - 1 : NULL;
}

static bool is_postgres(const char *url)
{
    return strncmp(url, "postgresql://", 13) == 0 || strncmp(url, "postgres://", 11) == 0;
}

int64_t store_row_int(const struct store_row *row, size_t column)
{
    return row->get_int(row, column);
}

struct text store_row_text(const struct store_row *row, size_t column)
{
    return row->get_text(row, column);
}

static enum outcome backend_open(const char *url, const char *service, bool read_only, struct backend **ret,
                                 struct error *error)
{
    if (sqlite_path(url))
        return sqlite_open(sqlite_path(url), read_only, ret, error);
    if (is_postgres(url))
        return postgres_open(url, service, read_only, ret, error);
    /* Not repeated: it may hold a password. */
    error_set(error, FATAL, "database-url", "DATABASE_URL: expected sqlite:PATH or postgresql://…");
    if (error)
        error->exit_code = EXIT_CONFIG;
    return FATAL;
}

struct found_text {
    char text[OWNER_BYTES_MAX];
    bool found;
};

static bool keep_text(void *owner, const struct store_row *row)
{
    struct found_text *found = owner;
    struct text text = store_row_text(row, 0);
    snprintf(found->text, sizeof(found->text), "%.*s", TEXT_ARG(text));
    found->found = true;
    return false;
}

/* The owner is noted once and then compared, so that two services cannot mix their rows in one database. */
static enum outcome owner_check(struct backend *backend, const char *service, bool note, struct error *error)
{
    static const char read[] = "SELECT value FROM weir WHERE name = 'service'";
    struct found_text owner = {.found = false};
    enum outcome outcome = backend->ops->query(backend, read, NULL, 0, keep_text, &owner, error);
    if (outcome == OK && !owner.found && note) {
        struct store_value value = STORE_TEXT(text_of(service));
        outcome = backend->ops->query(
            backend, "INSERT INTO weir (name, value) VALUES ('service', $1) ON CONFLICT DO NOTHING", &value,
            1, NULL, NULL, error);
        if (outcome == OK) /* another may have been quicker */
            outcome = backend->ops->query(backend, read, NULL, 0, keep_text, &owner, error);
    }
    if (outcome != OK)
        return outcome;
    if (strcmp(owner.text, service) == 0)
        return OK;
    error_set(error, FATAL, "store-owner",
              "the database belongs to service '%s', not to '%s'; give each service "
              "its own DATABASE_URL",
              owner.text, service);
    if (error)
        error->exit_code = EXIT_CONFIG;
    return FATAL;
}

enum outcome store_open(const char *url, const char *service, struct store **ret, struct error *error)
{
    assert(strlen(service) < OWNER_BYTES_MAX);
    struct store *store = calloc(1, sizeof(*store));
    if (!store)
        return error_retry(error, "memory", "out of memory");
    enum outcome outcome = backend_open(url, service, false, &store->backend, error);
    if (outcome != OK)
        goto out;
    struct backend *backend = store->backend;
    outcome = backend->ops->own_tables(backend, error);
    if (outcome == OK)
        outcome = owner_check(backend, service, true, error);
    int64_t rows = 0, oldest_us = 0;
    if (outcome == OK)
        outcome = backend->ops->start(backend, &rows, &oldest_us, error);
    if (outcome != OK)
        goto out;
    atomic_init(&store->outbox_rows, rows);
    atomic_init(&store->outbox_oldest_us, oldest_us);
    *ret = store;
    return OK;

out:
    store_close(store);
    return outcome;
}

void store_close(struct store *store)
{
    if (!store)
        return;
    if (store->backend)
        store->backend->ops->close(store->backend);
    acks_free(&store->acks);
    newcomers_free(&store->newcomers);
    free(store);
}

enum outcome store_check(const char *url, const char *service, bool *ret_there, struct error *error)
{
    struct store *store = NULL;
    bool there = true;
    enum outcome outcome = sqlite_path(url)   ? sqlite_look(sqlite_path(url), &there, error)
                           : is_postgres(url) ? postgres_look(url, service, &there, error)
                                              : OK; /* store_open() says what is wrong with it */
    if (outcome == OK && there)
        outcome = store_open(url, service, &store, error);
    if (outcome == OK && there)
        outcome = store_probe(store, error);
    if (outcome == OK)
        *ret_there = there;
    store_close(store);
    return outcome;
}

bool store_raced(const struct error *error)
{
    return error->outcome == RETRY && error->cause && strncmp(error->cause, "store-", 6) == 0;
}

bool store_meanwhile(struct store *store, void (*call)(void *owner), void *owner)
{
    struct backend *backend = store->backend;
    if (backend->ops->meanwhile)
        backend->ops->meanwhile(backend, call, owner);
    return backend->ops->meanwhile;
}

enum outcome store_probe(struct store *store, struct error *error)
{
    return store->backend->ops->probe(store->backend, error);
}

/* ---- migration ---- */

static void table_ddl(const struct backend_ops *ops, const struct rows_table *table, struct buffer *sql)
{
    buffer_print(sql, "CREATE TABLE IF NOT EXISTS %s (", table->name);
    for (size_t i = 0; i < table->column_count; i++)
        buffer_print(sql, "\"%s\" %s NOT NULL, ", table->columns[i].name,
                     ops->type_names[table->columns[i].type]);
    buffer_add_string(sql, "PRIMARY KEY (");
    for (size_t i = 0; i < table->key_count; i++)
        buffer_print(sql, "%s\"%s\"", i ? ", " : "", table->columns[i].name);
    buffer_add_string(sql, ")");
    if (table->check)
        buffer_print(sql, ", CHECK (%s)", table->check);
    buffer_print(sql, ")%s;\n", table->busy ? ops->busy_table_suffix : ops->table_suffix);
}

static void index_ddl(const struct rows_table *table, const char *index, struct buffer *sql)
{
    const char *where = strstr(index, " WHERE ");
    int columns = (int)(where ? (size_t)(where - index) : strlen(index));
    /* Named after its columns and condition: another list is another index. */
    buffer_print(sql, "CREATE INDEX IF NOT EXISTS %s", table->name);
    for (const char *at = index; *at; at++) {
        if (at == index || (isalnum((unsigned char)*at) == 0 && *at != '_'))
            buffer_add_char(sql, '_');
        if (isalnum((unsigned char)*at) || *at == '_')
            buffer_add_char(sql, *at);
    }
    buffer_print(sql, " ON %s (%.*s)%s;\n", table->name, columns, index, where ? where : "");
}

static bool keep_int(void *owner, const struct store_row *row)
{
    *(int64_t *)owner = store_row_int(row, 0);
    return false;
}

/* A table that is there has a row here: written as "table:NAME" with the schema, in its transaction. */
static enum outcome tables_there(struct backend *backend, const struct rows_table *const *tables,
                                 size_t count, int64_t *ret, struct error *error)
{
    *ret = 0;
    enum outcome outcome = OK;
    for (size_t i = 0; i < count && outcome == OK; i++) {
        char name[OWNER_BYTES_MAX + 8];
        snprintf(name, sizeof(name), "table:%s", tables[i]->name);
        struct store_value value = STORE_TEXT(text_of(name));
        int64_t there = 0;
        outcome = backend->ops->query(backend, "SELECT count(*) FROM weir WHERE name = $1", &value, 1,
                                      keep_int, &there, error);
        *ret += there;
    }
    return outcome;
}

#define MIGRATION_NOTE                                                                                       \
    "INSERT INTO weir (name, value) VALUES ('migration', '%d') ON CONFLICT (name) DO UPDATE SET value = "    \
    "'%d';\n"

static enum outcome applied_read(struct backend *backend, int64_t *ret, struct error *error)
{
    *ret = 0;
    return backend->ops->query(backend, "SELECT CAST(value AS INTEGER) FROM weir WHERE name = 'migration'",
                               NULL, 0, keep_int, ret, error);
}

static enum outcome script_of(struct backend *backend, struct buffer *sql, struct error *error)
{
    buffer_add_char(sql, '\0');
    if (sql->failed)
        return error_fatal(error, "memory", "no room for the statements");
    return backend->ops->script(backend, sql->at, error);
}

/* Of what is there already, whoever made it. Tables come first, so that a migration may fill a new one from
 * an old one. */
static enum outcome tables_make(struct backend *backend, const struct rows_table *const *tables,
                                size_t table_count, const struct migration *migrations,
                                size_t migration_count, struct buffer *sql, struct error *error)
{
    int64_t there = 0, applied = 0;
    enum outcome outcome = tables_there(backend, tables, table_count, &there, error);
    if (outcome == OK)
        outcome = applied_read(backend, &applied, error);
    if (outcome != OK)
        return outcome;
    for (size_t i = 0; i < table_count; i++) {
        table_ddl(backend->ops, tables[i], sql);
        buffer_print(sql, "INSERT INTO weir (name, value) VALUES ('table:%s', '') ON CONFLICT DO NOTHING;\n",
                     tables[i]->name);
    }
    if (there == 0 && applied == 0 && migration_count > 0) {
        int newest = migrations[migration_count - 1].number;
        buffer_print(sql, MIGRATION_NOTE, newest, newest);
    }
    return script_of(backend, sql, error);
}

struct columns_there {
    const struct rows_table *table;
    bool there[ROWS_COLUMNS_MAX];
};

static bool keep_column(void *owner, const struct store_row *row)
{
    struct columns_there *columns = owner;
    struct text name = store_row_text(row, 0);
    for (size_t i = 0; i < columns->table->column_count; i++)
        columns->there[i] = columns->there[i] || text_is(name, columns->table->columns[i].name);
    return true;
}

/*
 * A table of an earlier version gets the columns that this one has added, at no value (0, the empty text),
 * and its indexes. Not of its key: that is a migration's matter. The default stays with the column, so that
 * an instance of the earlier version can go on adding rows.
 */
static enum outcome table_complete(struct backend *backend, const struct rows_table *table,
                                   struct buffer *sql, struct error *error)
{
    const struct backend_ops *ops = backend->ops;
    const struct store_value name = STORE_TEXT(text_of(table->name));
    struct columns_there columns = {.table = table};
    enum outcome outcome = ops->query(backend, ops->columns_sql, &name, 1, keep_column, &columns, error);
    for (size_t i = table->key_count; i < table->column_count && outcome == OK; i++)
        if (!columns.there[i])
            buffer_print(sql, "ALTER TABLE %s ADD COLUMN \"%s\" %s NOT NULL DEFAULT %s;\n", table->name,
                         table->columns[i].name, ops->type_names[table->columns[i].type],
                         ops->type_defaults[table->columns[i].type]);
    for (size_t i = 0; i < ROWS_INDEXES_MAX && table->indexes[i]; i++)
        index_ddl(table, table->indexes[i], sql);
    return outcome;
}

/* After the migrations: what they have added is there, and what they say of it (another default, values made
 * from other columns) counts. */
static enum outcome tables_complete(struct backend *backend, const struct rows_table *const *tables,
                                    size_t table_count, struct buffer *sql, struct error *error)
{
    enum outcome outcome = OK;
    for (size_t i = 0; i < table_count && outcome == OK; i++)
        outcome = table_complete(backend, tables[i], sql, error);
    return outcome == OK && sql->length ? script_of(backend, sql, error) : outcome;
}

static enum outcome migration_apply(struct backend *backend, const struct migration *migration,
                                    struct buffer *sql, struct error *error)
{
    int64_t applied = 0;
    enum outcome outcome = applied_read(backend, &applied, error);
    if (outcome != OK || migration->number <= applied)
        return outcome;
    buffer_print(sql, "%s;\n" MIGRATION_NOTE, backend->ops->migration_sql(migration), migration->number,
                 migration->number);
    return script_of(backend, sql, error);
}

/* Each step in a transaction of its own. */
static enum outcome step_end(struct backend *backend, enum outcome outcome, struct error *error)
{
    if (outcome == OK)
        outcome = backend->ops->script(backend, "COMMIT", error);
    if (outcome != OK)
        backend->ops->rollback(backend);
    return outcome;
}

enum outcome store_migrate(struct store *store, const struct rows_table *const *tables, size_t table_count,
                           const struct migration *migrations, size_t migration_count, struct error *error)
{
    struct backend *backend = store->backend;
    struct buffer sql = buffer_of(DDL_BYTES_MAX);
    enum outcome outcome = backend->ops->begin_ddl(backend, error);
    if (outcome == OK)
        outcome = tables_make(backend, tables, table_count, migrations, migration_count, &sql, error);
    outcome = step_end(backend, outcome, error);
    if (outcome != OK)
        error_prefix(error, "making the tables");
    for (size_t i = 0; i < migration_count && outcome == OK; i++) {
        assert(migrations[i].number > (i ? migrations[i - 1].number : 0));
        buffer_clear(&sql);
        outcome = backend->ops->begin_ddl(backend, error);
        if (outcome == OK)
            outcome = migration_apply(backend, &migrations[i], &sql, error);
        outcome = step_end(backend, outcome, error);
        if (outcome != OK)
            error_prefix(error, "migration %d", migrations[i].number);
    }
    buffer_clear(&sql);
    if (outcome == OK) {
        outcome = backend->ops->begin_ddl(backend, error);
        if (outcome == OK)
            outcome = tables_complete(backend, tables, table_count, &sql, error);
        outcome = step_end(backend, outcome, error);
        if (outcome != OK)
            error_prefix(error, "adding columns and indexes");
    }
    for (size_t i = 0; i < table_count && outcome == OK; i++)
        outcome = backend->ops->check_table(backend, tables[i], error);
    buffer_free(&sql);
    return outcome;
}

/* ---- reading beside ---- */

struct store_reader {
    struct backend *backend;
};

enum outcome store_reader_open(const char *url, const char *service, struct store_reader **ret,
                               struct error *error)
{
    struct store_reader *reader = calloc(1, sizeof(*reader));
    if (!reader)
        return error_retry(error, "memory", "out of memory");
    enum outcome outcome = backend_open(url, service, true, &reader->backend, error);
    if (outcome == OK)
        outcome = owner_check(reader->backend, service, false, error);
    if (outcome != OK) {
        store_reader_close(reader);
        return outcome;
    }
    *ret = reader;
    return OK;
}

void store_reader_close(struct store_reader *reader)
{
    if (!reader)
        return;
    if (reader->backend)
        reader->backend->ops->close(reader->backend);
    free(reader);
}

enum outcome store_read(struct store_reader *reader, const char *sql, const struct store_value *parameters,
                        size_t parameter_count, bool (*each)(void *owner, const struct store_row *row),
                        void *owner, struct error *error)
{
    assert(parameter_count <= STORE_PARAMETERS_MAX);
    return reader->backend->ops->query(reader->backend, sql, parameters, parameter_count, each, owner, error);
}
