/* postgres_table: what is said to a table, and of which columns. */
#include "store/postgres.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static const struct postgres_step PLAIN = {.expected = -1};

void postgres_list_columns(struct buffer *sql, const char *prefix, const struct rows_table *table,
                           size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        buffer_print(sql, "%s%s\"%s\"", i > from ? ", " : "", prefix, table->columns[i].name);
}

/* "unnest($1, $2)" as rows; arrays are sent with their types. */
static void list_arrays(struct buffer *sql, size_t count)
{
    buffer_add_string(sql, "unnest(");
    for (size_t i = 0; i < count; i++)
        buffer_print(sql, "%s$%zu", i ? ", " : "", i + 1);
    buffer_add_string(sql, ")");
}

/*
 * "t.k = v.k", said so that no plan can be driven from the table's side. A plain equality could be merged by,
 * so the planner would look at the table's rows in the order of an index as well; and where the table was
 * seen empty by VACUUM, that looks cheaper than a probe for each key: the plan, which is kept, would then
 * compare each row with each key. Neither form here can be merged by; only the first can be an array, as
 * further columns with arrays would be filters in some plans.
 */
static void where_keys(struct buffer *sql, const struct rows_table *table)
{
    for (size_t i = 0; i < table->key_count; i++) {
        const char *name = table->columns[i].name;
        if (i == 0)
            buffer_print(sql, "t.\"%s\" = ANY (ARRAY[v.\"%s\"])", name, name);
        else
            buffer_print(sql, " AND t.\"%s\" BETWEEN v.\"%s\" AND v.\"%s\"", name, name, name);
    }
}

static char *built(struct postgres *postgres)
{
    const char *sql = postgres_sql_end(postgres);
    char *copy = sql ? strdup(sql) : NULL;
    buffer_clear(&postgres->sql);
    return copy;
}

static void build(struct postgres *postgres, const struct rows_table *table, struct postgres_table *made)
{
    struct buffer *sql = &postgres->sql;
    const char *schema = postgres->schema;
    size_t keys = table->key_count, columns = table->column_count;

    /* Sorted before it locks; the place in the array comes back with the row. */
    buffer_clear(sql);
    buffer_add_string(sql, "SELECT v.place");
    if (keys < columns)
        buffer_add_string(sql, ", ");
    postgres_list_columns(sql, "t.", table, keys, columns);
    buffer_add_string(sql, " FROM ");
    list_arrays(sql, keys);
    buffer_add_string(sql, " WITH ORDINALITY AS v (");
    postgres_list_columns(sql, "", table, 0, keys);
    buffer_print(sql, ", place) JOIN \"%s\".%s t ON ", schema, table->name);
    where_keys(sql, table);
    buffer_add_string(sql, " ORDER BY v.place FOR UPDATE OF t");
    made->select = built(postgres);

    buffer_print(sql, "INSERT INTO \"%s\".%s (", schema, table->name);
    postgres_list_columns(sql, "", table, 0, columns);
    buffer_add_string(sql, ") SELECT * FROM ");
    list_arrays(sql, columns);
    made->insert = built(postgres);

    buffer_print(sql, "UPDATE \"%s\".%s t SET ", schema, table->name);
    for (size_t i = keys; i < columns; i++)
        buffer_print(sql, "%s\"%s\" = v.\"%s\"", i > keys ? ", " : "", table->columns[i].name,
                     table->columns[i].name);
    buffer_add_string(sql, " FROM ");
    list_arrays(sql, columns);
    buffer_add_string(sql, " AS v (");
    postgres_list_columns(sql, "", table, 0, columns);
    buffer_add_string(sql, ") WHERE ");
    where_keys(sql, table);
    made->update = built(postgres);

    buffer_print(sql, "DELETE FROM \"%s\".%s t USING ", schema, table->name);
    list_arrays(sql, keys);
    buffer_add_string(sql, " AS v (");
    postgres_list_columns(sql, "", table, 0, keys);
    buffer_add_string(sql, ") WHERE ");
    where_keys(sql, table);
    made->delete = built(postgres);
}

void postgres_table_free(struct postgres_table *table)
{
    free(table->select);
    free(table->insert);
    free(table->update);
    free(table->delete);
}

struct postgres_table *postgres_table_of(struct postgres *postgres, const struct rows_table *table)
{
    for (size_t i = 0; i < postgres->table_count; i++)
        if (postgres->tables[i].table == table)
            return &postgres->tables[i];
    assert(postgres->table_count < ROWS_TABLES_MAX);
    struct postgres_table *made = &postgres->tables[postgres->table_count];
    *made = (struct postgres_table){.table = table};
    build(postgres, table, made);
    if (!made->select || !made->insert || !made->update || !made->delete) {
        postgres_table_free(made);
        return NULL;
    }
    postgres->table_count++;
    return made;
}

/* All of a table's statements with no rows: are its columns there, and of the right types? */
enum outcome postgres_check_table(struct backend *backend, const struct rows_table *table,
                                  struct error *error)
{
    struct postgres *postgres = (struct postgres *)backend;
    size_t keys = table->key_count, columns = table->column_count;
    const struct postgres_table *statements = postgres_table_of(postgres, table);
    if (!statements)
        return postgres_memory(error);
    enum outcome outcome = postgres_connect(postgres, error);
    if (outcome != OK)
        return outcome;
    postgres->transaction = TRANSACTION_WANTED;
    postgres_parameters_clear(&postgres->parameters);
    postgres_put_columns(&postgres->parameters, table, 0, keys, NULL, 0, false);
    postgres_add(postgres, statements->select, &PLAIN);
    postgres_put_columns(&postgres->parameters, table, 0, columns, NULL, 0, false);
    postgres_add(postgres, statements->insert, &PLAIN);
    if (keys < columns) {
        postgres_put_columns(&postgres->parameters, table, 0, columns, NULL, 0, false);
        postgres_add(postgres, statements->update, &PLAIN);
    }
    postgres_put_columns(&postgres->parameters, table, 0, keys, NULL, 0, false);
    postgres_add(postgres, statements->delete, &PLAIN);
    outcome = postgres_land(postgres, POSTGRES_STATEMENT_MS, error);
    postgres_rollback(backend);
    if (outcome == FATAL)
        error_prefix(error, "table %s is not as this version needs it (is a migration missing?)",
                     table->name);
    return outcome;
}

static enum outcome take_any(void *owner, const PGresult *result, struct error *error)
{
    (void)error;
    *(bool *)owner = postgres_int(result, 0, 0) > 0;
    return OK;
}

bool postgres_add_any(struct postgres *postgres, const char *table, bool *ret)
{
    buffer_clear(&postgres->sql);
    buffer_print(&postgres->sql, "SELECT count(*) FROM (SELECT 1 FROM \"%s\".%s LIMIT 1) x", postgres->schema,
                 table);
    const char *sql = postgres_sql_end(postgres);
    if (sql)
        postgres_add(postgres, sql,
                     &(struct postgres_step){.take = take_any, .owner = ret, .expected = -1, .what = table});
    return sql;
}
