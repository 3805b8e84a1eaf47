/*
 * The store on PostgreSQL: one schema a service (weir_<service>), one connection; libpq waits in this thread.
 * How it is built: postgres.h.
 */
#include "store/postgres.h"

#include "base/clock.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

/* All rows come in steps, so that a report of any length takes little memory. */
enum { READ_ROWS = 1000, INBOX_ROWS_PER_PAGE = 136 };

/*
 * Text is compared by bytes, as in SQLite and in C. The outbox is emptied as fast as it is filled: it is
 * vacuumed by what was deleted, not by what is in it. The inbox has no index by time (see inbox_prune()).
 */
static const char OWN_TABLES[] =
    "CREATE TABLE IF NOT EXISTS weir (name TEXT COLLATE \"C\" PRIMARY KEY, value TEXT NOT NULL);"
    "CREATE TABLE IF NOT EXISTS inbox (id UUID PRIMARY KEY, attempt BIGINT NOT NULL, at BIGINT NOT NULL)"
    " WITH (autovacuum_vacuum_scale_factor = 0.05);"
    "CREATE SEQUENCE IF NOT EXISTS outbox_seq;"
    "CREATE TABLE IF NOT EXISTS outbox_refused (seq BIGINT PRIMARY KEY, topic TEXT COLLATE \"C\" NOT NULL,"
    " partition BIGINT NOT NULL, key BYTEA, value BYTEA, headers BYTEA NOT NULL, created_us BIGINT NOT NULL,"
    " reason TEXT NOT NULL);"
    "CREATE TABLE IF NOT EXISTS instance (id UUID PRIMARY KEY, beat_us BIGINT NOT NULL) WITH (fillfactor = "
    "50);"
    "CREATE TABLE IF NOT EXISTS part (number BIGINT PRIMARY KEY, owner UUID) WITH (fillfactor = 50);";

/* Said only where it is missing, as ALTER TABLE waits for all that is under way. A pack stays in its page as
 * it is: out of line, and never compressed, is only what is larger than a page. It is vacuumed often, as each
 * row is a page. A part without rows of other instances costs a look at its place in the index. */
static const char OUTBOX_PACKS[] =
    "CREATE TABLE outbox_pack (seq BIGINT PRIMARY KEY DEFAULT nextval('outbox_seq'), part BIGINT NOT NULL,"
    " elsewhere BOOLEAN NOT NULL, created_us BIGINT NOT NULL, events BIGINT NOT NULL, body BYTEA NOT NULL)"
    " WITH (toast_tuple_target = 8160, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = "
    "2000,"
    " autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000);"
    "ALTER TABLE outbox_pack ALTER COLUMN body SET STORAGE EXTERNAL;"
    "CREATE INDEX outbox_pack_elsewhere ON outbox_pack (part, seq) WHERE elsewhere;";

static const struct postgres_step PLAIN = {.expected = -1};

/* ---- rows of a query */

struct postgres_row {
    struct store_row row;
    const PGresult *result;
    int at;
};

static int64_t row_int(const struct store_row *row, size_t column)
{
    const struct postgres_row *at = (const struct postgres_row *)row;
    return postgres_int(at->result, at->at, (int)column);
}

static struct text row_text(const struct store_row *row, size_t column)
{
    const struct postgres_row *at = (const struct postgres_row *)row;
    return postgres_text(at->result, at->at, (int)column);
}

struct reading {
    bool (*each)(void *owner, const struct store_row *row);
    void *owner;
    int got; /* rows of the last step */
    bool stopped;
};

static enum outcome take_rows(void *owner, const PGresult *result, struct error *error)
{
    struct reading *reading = owner;
    (void)error;
    reading->got = PQntuples(result);
    for (int i = 0; i < reading->got && !reading->stopped; i++) {
        struct postgres_row row = {{row_int, row_text}, result, i};
        reading->stopped = !reading->each || !reading->each(reading->owner, &row.row);
    }
    return OK;
}

/* ---- general statements */

const char *postgres_sql_end(struct postgres *postgres)
{
    buffer_add_char(&postgres->sql, '\0');
    return postgres->sql.failed ? NULL : postgres->sql.at;
}

const char *postgres_print(struct postgres *postgres, const char *format)
{
    buffer_clear(&postgres->sql);
    for (; *format; format++) {
        if (*format == '@')
            buffer_print(&postgres->sql, "\"%s\"", postgres->schema);
        else
            buffer_add_char(&postgres->sql, *format);
    }
    const char *sql = postgres_sql_end(postgres);
    return sql ? sql : "";
}

static enum outcome query_run(struct postgres *postgres, const char *sql,
                              const struct store_value *parameters, size_t parameter_count,
                              struct reading *reading, struct error *error)
{
    struct postgres_parameters *into = &postgres->parameters;
    const struct postgres_step step = {.take = take_rows, .owner = reading, .expected = -1};
    bool within = postgres->transaction == TRANSACTION_DDL;
    if (!within)
        postgres->transaction = TRANSACTION_WANTED;
    postgres_parameters_clear(into);
    if (!postgres->read_only) {
        postgres_put_values(into, parameters, parameter_count);
        postgres_add(postgres, sql, &step);
        if (!within)
            postgres_add(postgres, "COMMIT", &PLAIN);
        enum outcome outcome = postgres_land(postgres, postgres_timeout_ms(postgres), error);
        if (!within && outcome == OK)
            postgres->transaction = TRANSACTION_NONE;
        return outcome;
    }
    char fetch[64];
    snprintf(fetch, sizeof(fetch), "FETCH %d FROM reading", READ_ROWS);
    buffer_clear(&postgres->sql);
    buffer_print(&postgres->sql, "DECLARE reading NO SCROLL CURSOR FOR %s", sql);
    const char *declare = postgres_sql_end(postgres);
    if (!declare)
        return postgres_memory(error);
    postgres_put_values(into, parameters, parameter_count);
    postgres_add(postgres, declare, &PLAIN);
    do {
        postgres_add(postgres, fetch, &step);
        enum outcome outcome = postgres_land(postgres, POSTGRES_READ_MS, error);
        if (outcome != OK)
            return outcome;
    } while (reading->got == READ_ROWS && !reading->stopped);
    postgres_rollback(&postgres->backend);
    return OK;
}

static enum outcome postgres_query(struct backend *backend, const char *sql,
                                   const struct store_value *parameters, size_t parameter_count,
                                   bool (*each)(void *owner, const struct store_row *row), void *owner,
                                   struct error *error)
{
    struct postgres *postgres = (struct postgres *)backend;
    struct reading reading = {.each = each, .owner = owner};
    bool tried = false, within = postgres->transaction == TRANSACTION_DDL;
    enum outcome outcome = within ? OK : postgres_connect(postgres, error);
    if (outcome != OK)
        return outcome;
    do
        outcome = query_run(postgres, sql, parameters, parameter_count, &reading, error);
    while (outcome != OK && postgres_again(postgres, &tried));
    if (outcome != OK && !within)
        postgres_rollback(backend);
    return outcome;
}

static enum outcome postgres_script(struct backend *backend, const char *sql, struct error *error)
{
    struct postgres *postgres = (struct postgres *)backend;
    enum outcome outcome = postgres_run_script(postgres, sql, POSTGRES_DDL_MS, error);
    if (outcome == OK && strcmp(sql, "COMMIT") == 0)
        postgres->transaction = TRANSACTION_NONE;
    return outcome;
}

/* ---- tables */

static enum outcome postgres_begin_ddl(struct backend *backend, struct error *error)
{
    struct postgres *postgres = (struct postgres *)backend;
    enum outcome outcome = postgres_connect(postgres, error);
    if (outcome != OK)
        return outcome;
    buffer_clear(&postgres->sql);
    /* The lock is the transaction's: nothing of it is left in a pooler's connection. */
    buffer_print(&postgres->sql,
                 "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL search_path TO \"%s\"; "
                 "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = %d; "
                 "SELECT pg_advisory_xact_lock(%lld);",
                 postgres->schema, POSTGRES_DDL_LOCK_MS, (long long)text_hash(text_of(postgres->schema)));
    const char *sql = postgres_sql_end(postgres);
    if (!sql)
        return postgres_memory(error);
    postgres->transaction = TRANSACTION_DDL;
    return postgres_run_script(postgres, sql, POSTGRES_DDL_MS, error);
}

static bool keep_int(void *owner, const struct store_row *row)
{
    *(int64_t *)owner = store_row_int(row, 0);
    return false;
}

/* The schema is made only where it is not there: who may not make one can be given one. */
static enum outcome own_tables_make(struct postgres *postgres, struct error *error)
{
    struct backend *backend = &postgres->backend;
    const struct store_value schema = STORE_TEXT(text_of(postgres->schema));
    int64_t there = 0, packs = 0;
    char create[POSTGRES_NAME_BYTES_MAX + 32];
    enum outcome outcome = postgres_begin_ddl(backend, error);
    if (outcome == OK)
        outcome = postgres_query(backend, "SELECT count(*) FROM pg_catalog.pg_namespace WHERE nspname = $1",
                                 &schema, 1, keep_int, &there, error);
    snprintf(create, sizeof(create), "CREATE SCHEMA \"%s\"", postgres->schema);
    if (outcome == OK && there == 0)
        outcome = postgres_script(backend, create, error);
    if (outcome == OK)
        outcome = postgres_script(backend, OWN_TABLES, error);
    if (outcome == OK)
        outcome =
            postgres_query(backend,
                           "SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON "
                           "n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = 'outbox_pack'",
                           &schema, 1, keep_int, &packs, error);
    if (outcome == OK && packs == 0)
        outcome = postgres_script(backend, OUTBOX_PACKS, error);
    if (outcome == OK)
        outcome = outbox_upgrade(backend, error);
    return outcome == OK ? postgres_script(backend, "COMMIT", error) : outcome;
}

static enum outcome postgres_own_tables(struct backend *backend, struct error *error)
{
    enum outcome outcome = own_tables_make((struct postgres *)backend, error);
    if (outcome != OK) {
        postgres_rollback(backend);
        error_prefix(error, "making the schema");
    }
    return outcome;
}

static const char *postgres_migration(const struct migration *migration)
{
    return migration->postgres;
}

static enum outcome postgres_probe(struct backend *backend, struct error *error)
{
    char now[CLOCK_RFC3339_BYTES_MAX];
    const struct store_value value = STORE_TEXT(text_of(clock_to_rfc3339(clock_wall_us(), now)));
    return postgres_query(backend,
                          "INSERT INTO weir (name, value) VALUES ('probe', $1) "
                          "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                          &value, 1, NULL, NULL, error);
}

/* ---- a transaction */

static enum outcome postgres_begin(struct backend *backend, struct error *error)
{
    struct postgres *postgres = (struct postgres *)backend;
    bool committed = false;
    enum outcome outcome = postgres->doubt_xid[0] ? postgres_doubt(postgres, &committed, error)
                                                  : postgres_connect(postgres, error);
    postgres->outrun = postgres->outrun || committed; /* for good */
    if (outcome == OK && postgres->outrun) {
        /* What was committed is in no memory of this process; a new one reads it from the tables. */
        error_set(
            error, FATAL, "store-doubt",
            "%s: a batch turned out to be committed after its answer was lost; starting anew takes it up",
            postgres->name);
        if (error)
            error->exit_code = EXIT_TRY_AGAIN;
        return FATAL;
    }
    postgres->transaction = outcome == OK ? TRANSACTION_WANTED : TRANSACTION_NONE;
    postgres->reset_count = 0;
    return outcome;
}

struct finding {
    const struct rows_table *table;
    bool (*each)(void *owner, const void *row);
    void *owner;
};

static enum outcome take_found(void *owner, const PGresult *result, struct error *error)
{
    const struct finding *finding = owner;
    const struct rows_table *table = finding->table;
    _Alignas(16) char row[WORK_ROW_BYTES_MAX];
    memset(row, 0, table->row_bytes);
    for (int i = 0; i < PQntuples(result); i++) {
        enum outcome outcome =
            postgres_columns(result, i, 0, table, 0, table->column_count, NULL, row, error);
        if (outcome != OK)
            return outcome;
        if (!finding->each(finding->owner, row))
            break;
    }
    return OK;
}

/* One statement with its values, again on a new connection where the old one was gone before the transaction.
 */
static enum outcome run_one(struct postgres *postgres, const struct store_value *values, size_t count,
                            const int64_t *limit, const struct postgres_step *step, struct error *error)
{
    const char *sql = postgres_sql_end(postgres);
    bool tried = false;
    enum outcome outcome;
    if (!sql)
        return postgres_memory(error);
    do {
        postgres_parameters_clear(&postgres->parameters);
        postgres_put_values(&postgres->parameters, values, count);
        if (limit)
            postgres_put_int(&postgres->parameters, *limit);
        postgres_add(postgres, sql, step);
        outcome = postgres_land(postgres, POSTGRES_STATEMENT_MS, error);
    } while (outcome != OK && postgres_again(postgres, &tried));
    return outcome;
}

/* Found rows are locked as rows that were wanted are: what a handler changes has not changed since. */
static enum outcome postgres_find(struct backend *backend, const struct rows_table *table,
                                  enum backend_lock lock, const char *condition,
                                  const struct store_value *parameters, size_t parameter_count, size_t limit,
                                  bool (*each)(void *owner, const void *row), void *owner,
                                  struct error *error)
{
    struct postgres *postgres = (struct postgres *)backend;
    struct finding finding = {table, each, owner};
    const struct postgres_step step = {
        .take = take_found, .owner = &finding, .expected = -1, .what = table->name};
    int64_t rows = limit > INT64_MAX ? INT64_MAX : (int64_t)limit;
    buffer_clear(&postgres->sql);
    buffer_add_string(&postgres->sql, "SELECT ");
    postgres_list_columns(&postgres->sql, "", table, 0, table->column_count);
    buffer_print(&postgres->sql, " FROM \"%s\".%s", postgres->schema, table->name);
    if (condition && *condition)
        buffer_print(&postgres->sql, " WHERE %s", condition);
    static const char *const locks[] = {[BACKEND_LOCK_WAIT] = " FOR UPDATE",
                                        [BACKEND_LOCK_FREE] = " FOR UPDATE SKIP LOCKED",
                                        [BACKEND_LOCK_NONE] = ""};
    buffer_print(&postgres->sql, " LIMIT $%zu%s", parameter_count + 1, locks[lock]);
    return run_one(postgres, parameters, parameter_count, &rows, &step, error);
}

static enum outcome take_int(void *owner, const PGresult *result, struct error *error)
{
    (void)error;
    *(int64_t *)owner = PQntuples(result) ? postgres_int(result, 0, 0) : 0;
    return OK;
}

static enum outcome postgres_count(struct backend *backend, const struct rows_table *table,
                                   const char *condition, const struct store_value *parameters,
                                   size_t parameter_count, int64_t *ret, struct error *error)
{
    struct postgres *postgres = (struct postgres *)backend;
    const struct postgres_step step = {.take = take_int, .owner = ret, .expected = -1, .what = table->name};
    buffer_clear(&postgres->sql);
    buffer_print(&postgres->sql, "SELECT count(*) FROM \"%s\".%s", postgres->schema, table->name);
    if (condition && *condition)
        buffer_print(&postgres->sql, " WHERE %s", condition);
    return run_one(postgres, parameters, parameter_count, NULL, &step, error);
}

enum outcome postgres_take_outbox(void *owner, const PGresult *result, struct error *error)
{
    const struct postgres_outbox *reading = owner;
    (void)error;
    if (reading->start)
        reading->start(reading->owner);
    for (int i = 0; i < PQntuples(result); i++) {
        const struct backend_pack pack = {
            .seq = postgres_int(result, i, 0),
            .part = (int32_t)postgres_int(result, i, 1),
            .elsewhere = postgres_int(result, i, 2) != 0,
            .created_us = postgres_int(result, i, 3),
            .events = postgres_int(result, i, 4),
            .body = postgres_text(result, i, 5),
        };
        if (!reading->each(reading->owner, &pack))
            break;
    }
    return OK;
}

/* What this instance left in the table is read on from from_seq. What others wrote may come late, with a
 * lower number, and is looked for again each time: both in one statement, so that what is seen is of one
 * moment. Also while it is alone, as far as it knows. */
static enum outcome postgres_outbox_read(struct backend *backend, bool elsewhere, int64_t from_seq,
                                         size_t limit,
                                         bool (*each)(void *owner, const struct backend_pack *pack),
                                         void *owner, struct error *error)
{
    static const char all[] =
        "SELECT " PACK_COLUMNS " FROM @.outbox_pack WHERE seq >= $1 ORDER BY seq LIMIT $2";
    static const char owned[] =
        "SELECT * FROM ((SELECT " PACK_COLUMNS
        " FROM @.outbox_pack WHERE seq >= $2 AND part = ANY ($1) ORDER BY seq "
        "LIMIT $3) UNION ALL (SELECT o.* FROM unnest($1) AS v (part) CROSS JOIN LATERAL "
        "(SELECT " PACK_COLUMNS " FROM @.outbox_pack t WHERE t.elsewhere AND t.part = v.part AND t.seq < $2 "
        "ORDER BY t.seq LIMIT $3) o "
        "ORDER BY o.seq LIMIT $3)) x ORDER BY seq LIMIT $3";
    struct postgres *postgres = (struct postgres *)backend;
    struct postgres_outbox reading = {NULL, each, owner};
    const struct postgres_step step = {
        .take = postgres_take_outbox, .owner = &reading, .expected = -1, .what = "outbox"};
    int64_t rows = limit > INT64_MAX ? INT64_MAX : (int64_t)limit;
    bool some = postgres->instances, tried = false;
    const char *sql = postgres_print(postgres, !some ? all : elsewhere ? POSTGRES_ELSEWHERE : owned);
    enum outcome outcome;
    if (elsewhere && !postgres->instances)
        return OK;
    do {
        postgres_parameters_clear(&postgres->parameters);
        if (some)
            postgres_put_parts(&postgres->parameters, postgres->instances);
        if (!elsewhere)
            postgres_put_int(&postgres->parameters, from_seq);
        postgres_put_int(&postgres->parameters, rows);
        postgres_add(postgres, sql, &step);
        outcome = postgres_land(postgres, POSTGRES_STATEMENT_MS, error);
    } while (outcome != OK && postgres_again(postgres, &tried));
    return outcome;
}

static enum outcome postgres_outbox_read_one(struct backend *backend, int64_t seq,
                                             bool (*each)(void *owner, const struct backend_pack *pack),
                                             void *owner, struct error *error)
{
    struct postgres *postgres = (struct postgres *)backend;
    struct postgres_outbox reading = {NULL, each, owner};
    const struct postgres_step step = {
        .take = postgres_take_outbox, .owner = &reading, .expected = -1, .what = "outbox"};
    postgres_print(postgres, "SELECT " PACK_COLUMNS " FROM @.outbox_pack WHERE seq = $1");
    return run_one(postgres, &STORE_INT(seq), 1, NULL, &step, error);
}

/* Whose to send is what is added? */
static void postgres_outbox_parts(struct backend *backend, struct outbox_row *rows, size_t count)
{
    const struct instances *instances = ((struct postgres *)backend)->instances;
    for (size_t i = 0; instances && i < count; i++) {
        rows[i].part = instances_part(instances, rows[i].key, rows[i].key_null);
        rows[i].elsewhere = !instances_own(instances, rows[i].part);
    }
}

/* ---- pruning */

static enum outcome take_count(void *owner, const PGresult *result, struct error *error)
{
    (void)error;
    *(int64_t *)owner = strtoll(PQcmdTuples((PGresult *)(uintptr_t)result), NULL, 10);
    return OK;
}

/*
 * The table is walked page by page, a bounded number a call, round and round: it needs no index by time,
 * which every insert would have to keep up. Whole pages become free, and the oldest leaves of the tree of
 * ids, which are ordered by time where they are of version 7.
 */
static enum outcome postgres_inbox_prune(struct backend *backend, int64_t before_us, size_t limit,
                                         size_t *ret_count, struct error *error)
{
    struct postgres *postgres = (struct postgres *)backend;
    int64_t pages = 0, gone = 0;
    int64_t step_pages = (int64_t)(limit * INBOX_PRUNE_WINDOWS / INBOX_ROWS_PER_PAGE) + 1;
    const struct postgres_step size = {.take = take_int, .owner = &pages, .expected = -1, .what = "inbox"};
    const struct postgres_step prune = {.take = take_count, .owner = &gone, .expected = -1, .what = "inbox"};
    bool tried = false;
    char relation[POSTGRES_NAME_BYTES_MAX + 16], from[32], to[32];
    enum outcome outcome;
    snprintf(relation, sizeof(relation), "\"%s\".inbox", postgres->schema);
    snprintf(from, sizeof(from), "(%lld,0)", (long long)postgres->prune_page);
    snprintf(to, sizeof(to), "(%lld,0)", (long long)(postgres->prune_page + step_pages));
    buffer_clear(&postgres->sql);
    buffer_print(
        &postgres->sql,
        "DELETE FROM %s WHERE ctid = ANY (ARRAY(SELECT ctid FROM %s WHERE ctid >= CAST($1 AS tid) AND "
        "ctid < CAST($2 AS tid) AND at < $3 LIMIT $4))",
        relation, relation);
    const char *sql = postgres_sql_end(postgres);
    if (!sql)
        return postgres_memory(error);
    do {
        struct postgres_parameters *parameters = &postgres->parameters;
        postgres_parameters_clear(parameters);
        postgres_put_text(parameters, text_of(relation));
        postgres_add(postgres,
                     "SELECT pg_relation_size(CAST($1 AS regclass)) / current_setting('block_size')::bigint",
                     &size);
        postgres_put_text(parameters, text_of(from));
        postgres_put_text(parameters, text_of(to));
        postgres_put_int(parameters, before_us);
        postgres_put_int(parameters, (int64_t)limit);
        postgres_add(postgres, sql, &prune);
        outcome = postgres_land(postgres, POSTGRES_STATEMENT_MS, error);
    } while (outcome != OK && postgres_again(postgres, &tried));
    if (outcome != OK)
        return outcome;
    if (gone < (int64_t)limit) /* else there is more on these pages */
        postgres->prune_page += step_pages;
    if (postgres->prune_page >= pages)
        postgres->prune_page = 0;
    *ret_count = (size_t)gone;
    return OK;
}

/* ---- opening */

static void postgres_meanwhile(struct backend *backend, void (*call)(void *owner), void *owner)
{
    struct postgres *postgres = (struct postgres *)backend;
    postgres->meanwhile = call;
    postgres->meanwhile_owner = owner;
}

static void postgres_close(struct backend *backend)
{
    struct postgres *postgres = (struct postgres *)backend;
    postgres_rollback(backend);
    postgres_disconnect(postgres);
    for (size_t i = 0; i < postgres->statement_count; i++)
        free(postgres->statements[i].sql);
    for (size_t i = 0; i < postgres->table_count; i++)
        postgres_table_free(&postgres->tables[i]);
    buffer_free(&postgres->sql);
    buffer_free(&postgres->parameters.bytes);
    free(postgres->url);
    free(postgres);
}

static const struct backend_ops POSTGRES_OPS = {
    .close = postgres_close,
    .type_names = {[ROWS_INT] = "BIGINT",
                   [ROWS_TEXT] = "TEXT COLLATE \"C\"",
                   [ROWS_BYTES] = "BYTEA",
                   [ROWS_ID] = "UUID"},
    .type_defaults = {[ROWS_INT] = "0",
                      [ROWS_TEXT] = "''",
                      [ROWS_BYTES] = "''",
                      [ROWS_ID] = "'00000000-0000-0000-0000-000000000000'"},
    .columns_sql = "SELECT CAST(attname AS text) FROM pg_catalog.pg_attribute WHERE attrelid = "
                   "to_regclass($1) AND attnum > 0 AND NOT attisdropped",
    .table_suffix = " WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05)",
    .busy_table_suffix = " WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05)",
    .migration_sql = postgres_migration,
    .shared = true,
    .own_tables = postgres_own_tables,
    .begin_ddl = postgres_begin_ddl,
    .script = postgres_script,
    .query = postgres_query,
    .check_table = postgres_check_table,
    .start = postgres_start,
    .probe = postgres_probe,
    .begin = postgres_begin,
    .fetch = postgres_fetch,
    .find = postgres_find,
    .count = postgres_count,
    .pack_bytes_max = POSTGRES_PACK_BYTES_MAX,
    .outbox_parts = postgres_outbox_parts,
    .outbox_read = postgres_outbox_read,
    .outbox_read_one = postgres_outbox_read_one,
    .inbox_prune = postgres_inbox_prune,
    .apply = postgres_apply,
    .rollback = postgres_rollback,
    .meanwhile = postgres_meanwhile,
    .beat = postgres_beat,
    .leave_empty = postgres_leave_empty,
    .leave = postgres_leave,
};

/* "PostgreSQL db.example:5432/shop", from the URL alone. */
static enum outcome name_it(struct postgres *postgres, struct error *error)
{
    char *message = NULL;
    PQconninfoOption *options = PQconninfoParse(postgres->url, &message);
    if (!options) {
        /* What is wrong with it is told, but not what stands there: it may be the password. */
        char what[80];
        snprintf(what, sizeof(what), "%.*s", (int)strcspn(message ? message : "", ":\"\n"),
                 message ? message : "");
        error_set(error, FATAL, "database-url",
                  "DATABASE_URL: is no valid postgresql:// URL (%s); expected "
                  "postgresql://user:password@host:port/database",
                  what);
        if (error)
            error->exit_code = EXIT_CONFIG;
        PQfreemem(message);
        return FATAL;
    }
    const char *host = "", *port = "", *database = "";
    for (const PQconninfoOption *option = options; option->keyword; option++) {
        const char *value = option->val ? option->val : "";
        if (strcmp(option->keyword, "host") == 0)
            host = value;
        else if (strcmp(option->keyword, "port") == 0)
            port = value;
        else if (strcmp(option->keyword, "dbname") == 0)
            database = value;
    }
    snprintf(postgres->name, sizeof(postgres->name), "PostgreSQL %.60s%s%.8s%s%.40s", host, *port ? ":" : "",
             port, *database ? "/" : "", database);
    PQconninfoFree(options);
    return OK;
}

enum outcome postgres_open(const char *url, const char *service, bool read_only, struct backend **ret,
                           struct error *error)
{
    struct postgres *postgres = calloc(1, sizeof(*postgres));
    if (!postgres)
        return postgres_memory(error);
    postgres->backend.ops = &POSTGRES_OPS;
    postgres->read_only = read_only;
    postgres->sql = buffer_of(POSTGRES_SQL_BYTES_MAX);
    postgres->parameters.bytes = buffer_of(POSTGRES_PARAMETER_BYTES_MAX);
    postgres->url = strdup(url);
    snprintf(postgres->schema, sizeof(postgres->schema), "weir_%s", service);
    enum outcome outcome = postgres->url ? name_it(postgres, error) : postgres_memory(error);
    if (outcome == OK)
        outcome = postgres_connect(postgres, error);
    if (outcome == OK)
        *ret = &postgres->backend;
    else
        postgres_close(&postgres->backend);
    return outcome;
}

/* Anything that is not there yet would be made; may it be? */
enum outcome postgres_look(const char *url, const char *service, bool *ret_there, struct error *error)
{
    struct backend *backend = NULL;
    int64_t there = 0, may = 0;
    enum outcome outcome = postgres_open(url, service, true, &backend, error);
    if (outcome != OK)
        return outcome;
    const struct store_value schema = STORE_TEXT(text_of(((struct postgres *)backend)->schema));
    outcome = postgres_query(backend, "SELECT count(*) FROM pg_catalog.pg_namespace WHERE nspname = $1",
                             &schema, 1, keep_int, &there, error);
    if (outcome == OK && !there)
        outcome = postgres_query(backend, "SELECT has_database_privilege(current_database(), 'CREATE')", NULL,
                                 0, keep_int, &may, error);
    if (outcome == OK && !there && !may) {
        error_set(error, FATAL, "store-open", "%s: there is no schema weir_%s, and its user may not make one",
                  ((struct postgres *)backend)->name, service);
        if (error)
            error->exit_code = EXIT_CONFIG;
        outcome = FATAL;
    }
    if (outcome == OK)
        *ret_there = there > 0;
    postgres_close(backend);
    return outcome;
}
