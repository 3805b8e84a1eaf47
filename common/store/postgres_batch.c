/* postgres_batch: the two flights of a batch. Everything is a set; nothing is asked for twice. */
#include "store/postgres.h"

#include "base/clock.h"

#include <assert.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- keys in order: two instances that lock or add the same rows do so in the same order, and cannot wait
 * for each other */

static int bytes_compare(const void *a, size_t a_length, const void *b, size_t b_length)
{
    size_t length = a_length < b_length ? a_length : b_length;
    int sign = length ? memcmp(a, b, length) : 0;
    return sign ? sign : (a_length > b_length) - (a_length < b_length);
}

static int key_compare(const struct rows_table *table, const void *a, const void *b)
{
    for (size_t i = 0; i < table->key_count; i++) {
        const struct rows_column *column = &table->columns[i];
        const char *x = (const char *)a + column->offset, *y = (const char *)b + column->offset;
        int sign = 0;
        switch (column->type) {
        case ROWS_INT: {
            int64_t m, n;
            memcpy(&m, x, sizeof(m));
            memcpy(&n, y, sizeof(n));
            sign = (m > n) - (m < n);
            break;
        }
        case ROWS_TEXT:
        case ROWS_BYTES: {
            const struct text *m = (const struct text *)(const void *)x,
                              *n = (const struct text *)(const void *)y;
            sign = bytes_compare(m->at, m->length, n->at, n->length);
            break;
        }
        case ROWS_ID:
            sign = memcmp(x, y, sizeof(struct id));
            break;
        }
        if (sign)
            return sign;
    }
    return 0;
}

static int entry_compare(const void *a, const void *b)
{
    const struct rows_entry *x = *(struct rows_entry *const *)a, *y = *(struct rows_entry *const *)b;
    return key_compare(x->table, x->row, y->row);
}

static void entries_sort(struct rows_entry **entries, size_t count)
{
    for (size_t i = 1; i < count; i++)
        if (entry_compare(&entries[i - 1], &entries[i]) > 0) { /* ids of version 7 come sorted */
            qsort(entries, count, sizeof(struct rows_entry *), entry_compare);
            return;
        }
}

/* ---- the first flight: inbox and rows */

static enum outcome take_xid(void *owner, const PGresult *result, struct error *error)
{
    struct postgres *postgres = owner;
    (void)error;
    snprintf(postgres->xid, sizeof(postgres->xid), "%.*s", TEXT_ARG(postgres_text(result, 0, 0)));
    postgres->pid = postgres_int(result, 0, 1);
    return OK;
}

static void add_xid(struct postgres *postgres)
{
    postgres_add(postgres, "SELECT CAST(pg_current_xact_id() AS text), pg_backend_pid()",
                 &(struct postgres_step){.take = take_xid, .owner = postgres, .expected = -1});
}

struct wanting {
    struct backend_wanted *wanted;
    struct rows_entry **sorted;
    struct arena *arena;
};

static enum outcome take_wanted(void *owner, const PGresult *result, struct error *error)
{
    struct wanting *wanting = owner;
    const struct rows_table *table = wanting->wanted->table;
    for (int row = 0; row < PQntuples(result); row++) {
        int64_t place = postgres_int(result, row, 0);
        assert(place >= 1 && place <= (int64_t)wanting->wanted->count);
        struct rows_entry *entry = wanting->sorted[place - 1];
        enum outcome outcome = postgres_columns(result, row, 1, table, table->key_count, table->column_count,
                                                wanting->arena, entry->row, error);
        if (outcome != OK)
            return outcome;
        entry->known = true; /* for wanted->found, below */
    }
    return OK;
}

static int wanted_compare(const void *a, const void *b)
{
    const struct wanting *x = a, *y = b;
    return strcmp(x->wanted->table->name, y->wanted->table->name);
}

static bool wanted_sort(struct backend_fetch *fetch, struct wanting *wanting)
{
    for (size_t i = 0; i < fetch->wanted_count; i++) {
        struct backend_wanted *wanted = &fetch->wanted[i];
        struct rows_entry **sorted =
            arena_copy(fetch->arena, wanted->entries, wanted->count * sizeof(struct rows_entry *));
        if (!sorted)
            return false;
        entries_sort(sorted, wanted->count);
        wanting[i] = (struct wanting){wanted, sorted, fetch->arena};
    }
    qsort(wanting, fetch->wanted_count, sizeof(*wanting), wanted_compare);
    return true;
}

static enum outcome fetch_send(struct postgres *postgres, struct backend_fetch *fetch,
                               struct postgres_notes *notes, struct wanting *wanting, struct error *error)
{
    struct postgres_parameters *parameters = &postgres->parameters;
    postgres_parameters_clear(parameters);
    if (!postgres->xid[0] || postgres->transaction == TRANSACTION_WANTED)
        add_xid(postgres);
    if (!postgres_notes_add(postgres, notes, fetch->noted_us))
        return postgres_memory(error);
    if (fetch->asked && !postgres_add_any(postgres, fetch->asked->name, &fetch->any))
        return postgres_memory(error);
    for (size_t i = 0; i < fetch->wanted_count; i++) {
        const struct rows_table *table = wanting[i].wanted->table;
        const struct postgres_table *statements = postgres_table_of(postgres, table);
        if (!statements)
            return postgres_memory(error);
        postgres_put_columns(parameters, table, 0, table->key_count, wanting[i].sorted,
                             wanting[i].wanted->count, false);
        postgres_add(postgres, statements->select,
                     &(struct postgres_step){
                         .take = take_wanted, .owner = &wanting[i], .expected = -1, .what = table->name});
    }
    return postgres_land(postgres, POSTGRES_STATEMENT_MS, error);
}

enum outcome postgres_fetch(struct backend *backend, struct backend_fetch *fetch, struct error *error)
{
    struct postgres *postgres = (struct postgres *)backend;
    struct postgres_notes notes;
    struct wanting wanting[ROWS_TABLES_MAX];
    bool tried = false;
    enum outcome outcome;
    assert(fetch->wanted_count <= ROWS_TABLES_MAX);
    if (!postgres_notes_sort(fetch->arena, fetch, &notes) || !wanted_sort(fetch, wanting))
        return postgres_memory(error);
    do
        outcome = fetch_send(postgres, fetch, &notes, wanting, error);
    while (outcome != OK && postgres_again(postgres, &tried));
    if (outcome == OK)
        outcome = postgres_notes_settle(postgres, &notes, error);
    for (size_t i = 0; i < fetch->wanted_count && outcome == OK; i++)
        for (size_t at = 0; at < fetch->wanted[i].count; at++)
            fetch->wanted[i].found[at] = fetch->wanted[i].entries[at]->known;
#ifdef WEIR_MUTANT_INBOX_OFF
    for (size_t i = 0; i < fetch->note_count; i++)
        fetch->notes[i].note->seen = false;
#endif
    return outcome;
}

/* ---- the second flight: writes and COMMIT */

static bool add_table(struct postgres *postgres, const struct backend_table_writes *writes)
{
    const struct rows_table *table = writes->table;
    size_t keys = table->key_count, columns = table->column_count;
    const struct postgres_table *statements = postgres_table_of(postgres, table);
    struct postgres_step step = {.what = table->name};
    if (!statements)
        return false;
    if (writes->delete_count) {
        step.expected = (int64_t)writes->delete_count;
        postgres_put_columns(&postgres->parameters, table, 0, keys, writes->deletes, writes->delete_count,
                             true);
        postgres_add(postgres, statements->delete, &step);
    }
    if (writes->update_count) {
        step.expected = (int64_t)writes->update_count;
        postgres_put_columns(&postgres->parameters, table, 0, columns, writes->updates, writes->update_count,
                             false);
        postgres_add(postgres, statements->update, &step);
    }
    if (writes->insert_count) {
        /* All were looked for and were not there: who is there now came from another instance. */
        step.may_race = true;
        for (size_t i = 0; i < writes->insert_count; i++)
            step.may_race = step.may_race && writes->inserts[i]->known;
        step.expected = (int64_t)writes->insert_count;
        entries_sort(writes->inserts, writes->insert_count);
        postgres_put_columns(&postgres->parameters, table, 0, columns, writes->inserts, writes->insert_count,
                             false);
        postgres_add(postgres, statements->insert, &step);
    }
    return true;
}

static int writes_compare(const void *a, const void *b)
{
    const struct backend_table_writes *x = a, *y = b;
    return strcmp(x->table->name, y->table->name);
}

struct outbox_numbers {
    struct postgres *postgres;
    struct backend_apply *apply;
    int64_t gone;
    int64_t floor;
    int64_t last;
};

static enum outcome take_gone(void *owner, const PGresult *result, struct error *error)
{
    struct outbox_numbers *numbers = owner;
    (void)error;
    for (int i = 0; i < PQntuples(result); i++)
        numbers->gone += postgres_int(result, i, 0);
    return OK;
}

static enum outcome take_numbers(void *owner, const PGresult *result, struct error *error)
{
    struct outbox_numbers *numbers = owner;
    struct backend_apply *apply = numbers->apply;
    if (PQntuples(result) != (int)apply->pack_count)
        return error_fatal(error, "store", "outbox: %d rows were added, not %zu", PQntuples(result),
                           apply->pack_count);
    for (size_t i = 0; i < apply->pack_count; i++) {
        apply->packs[i].seq = postgres_int(result, (int)i, 0);
        if (i > 0 && apply->packs[i].seq <= apply->packs[i - 1].seq)
            return error_fatal(error, "store", "outbox: its numbers are not in the order of its rows");
        numbers->last = apply->packs[i].seq;
    }
    return OK;
}

static enum outcome take_oldest(void *owner, const PGresult *result, struct error *error)
{
    struct outbox_numbers *numbers = owner;
    (void)error;
    /* Beside other instances it may be another's: their beat tells (store/instances.h). */
    bool beside = numbers->postgres->instances && numbers->postgres->instances->others;
    numbers->apply->outbox_oldest_us = beside ? -1 : PQntuples(result) ? postgres_int(result, 0, 1) : 0;
    if (PQntuples(result))
        numbers->floor = postgres_int(result, 0, 0);
    return OK;
}

/* Rows of one key are written under that key's row lock, and get their number here, at the end of the
 * transaction: in the order of their numbers they are in the order of their commits, whichever instance wrote
 * them. */
static void add_added(struct postgres *postgres, const struct backend_apply *apply,
                      struct outbox_numbers *numbers)
{
    struct postgres_parameters *parameters = &postgres->parameters;
    const struct backend_pack *packs = apply->packs;
    size_t count = apply->pack_count;
    for (int which = 0; which < 4; which++) {
        postgres_array_begin(parameters, OID_INT8_ARRAY, count);
        for (size_t i = 0; i < count; i++)
            postgres_array_int(parameters, which == 0   ? packs[i].part
                                           : which == 1 ? packs[i].elsewhere
                                           : which == 2 ? packs[i].created_us
                                                        : packs[i].events);
        postgres_array_end(parameters);
    }
    postgres_array_begin(parameters, OID_BYTEA_ARRAY, count);
    for (size_t i = 0; i < count; i++)
        postgres_array_bytes(parameters, packs[i].body.at, packs[i].body.length);
    postgres_array_end(parameters);
    postgres_add(
        postgres,
        postgres_print(
            postgres,
            "INSERT INTO @.outbox_pack (part, elsewhere, created_us, events, body) "
            "SELECT v.a, v.b <> 0, v.c, v.d, v.e FROM unnest($1, $2, $3, $4, $5) AS v (a, b, c, d, e) "
            "RETURNING seq"),
        &(struct postgres_step){.take = take_numbers, .owner = numbers, .expected = -1, .what = "outbox"});
}

static void put_refused_bytes(struct postgres_parameters *parameters, const struct backend_apply *apply,
                              int which)
{
    postgres_array_begin(parameters, OID_BYTEA_ARRAY, apply->refused_count);
    for (size_t i = 0; i < apply->refused_count; i++) {
        const struct outbox_row *row = &apply->refused[i].row;
        struct text text = which == 0 ? row->key : which == 1 ? row->value : apply->refused[i].headers;
        if ((which == 0 && row->key_null) || (which == 1 && row->value_null))
            postgres_array_null(parameters);
        else
            postgres_array_bytes(parameters, text.at, text.length);
    }
    postgres_array_end(parameters);
}

static void put_refused_ints(struct postgres_parameters *parameters, const struct backend_apply *apply,
                             int which)
{
    postgres_array_begin(parameters, OID_INT8_ARRAY, apply->refused_count);
    for (size_t i = 0; i < apply->refused_count; i++) {
        const struct backend_refusal *refusal = &apply->refused[i];
        postgres_array_int(parameters, which == 0   ? refusal->seq
                                       : which == 1 ? refusal->row.partition
                                                    : refusal->row.created_us);
    }
    postgres_array_end(parameters);
}

static void put_refused_texts(struct postgres_parameters *parameters, const struct backend_apply *apply,
                              bool reason)
{
    postgres_array_begin(parameters, OID_TEXT_ARRAY, apply->refused_count);
    for (size_t i = 0; i < apply->refused_count; i++)
        postgres_array_text(parameters, reason ? apply->refused[i].reason : apply->refused[i].row.topic);
    postgres_array_end(parameters);
}

/* One that was refused before a crash may be refused again. */
static void add_refused(struct postgres *postgres, const struct backend_apply *apply)
{
    struct postgres_parameters *parameters = &postgres->parameters;
    for (int which = 0; which < 3; which++)
        put_refused_ints(parameters, apply, which);
    for (int which = 0; which < 3; which++)
        put_refused_bytes(parameters, apply, which);
    put_refused_texts(parameters, apply, false);
    put_refused_texts(parameters, apply, true);
    postgres_add(
        postgres,
        postgres_print(postgres,
                       "INSERT INTO @.outbox_refused (seq, partition, created_us, key, value, headers, "
                       "topic, reason) SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8) "
                       "ON CONFLICT DO NOTHING"),
        &(struct postgres_step){.expected = -1, .what = "outbox_refused"});
}

static void add_outbox(struct postgres *postgres, const struct backend_apply *apply,
                       struct outbox_numbers *numbers)
{
    struct postgres_parameters *parameters = &postgres->parameters;
    const struct postgres_step gone = {.take = take_gone, .owner = numbers, .expected = -1, .what = "outbox"};
    if (apply->done_count) {
        for (int end = 0; end < 2; end++) {
            postgres_array_begin(parameters, OID_INT8_ARRAY, apply->done_count);
            for (size_t i = 0; i < apply->done_count; i++)
                postgres_array_int(parameters, end ? apply->done[i].last : apply->done[i].first);
            postgres_array_end(parameters);
        }
        postgres_add(postgres,
                     postgres_print(postgres,
                                    "DELETE FROM @.outbox_pack t USING unnest($1, $2) AS v (first, last) "
                                    "WHERE t.seq BETWEEN v.first AND v.last RETURNING t.events"),
                     &gone);
    }
    if (apply->refused_count)
        add_refused(postgres, apply);
    if (apply->pack_count)
        add_added(postgres, apply, numbers);
    /* From the last oldest on: what was deleted since may be dead in the index and not yet vacuumed away. */
    postgres_put_int(parameters, postgres->outbox_floor);
    postgres_add(
        postgres,
        postgres_print(postgres,
                       "SELECT seq, created_us FROM @.outbox_pack WHERE seq >= $1 ORDER BY seq LIMIT 1"),
        &(struct postgres_step){.take = take_oldest, .owner = numbers, .expected = -1, .what = "outbox"});
}

/* As late as can be: all locks are held. */
static void add_elsewhere(struct postgres *postgres, struct backend_apply *apply)
{
    struct postgres_outbox reading = {apply->elsewhere_start, apply->elsewhere_each, apply->elsewhere_owner};
    if (!postgres->instances || !apply->elsewhere_limit || !postgres->instances->owned_count)
        return;
    postgres->elsewhere = reading;
    postgres_put_parts(&postgres->parameters, postgres->instances);
    postgres_put_int(&postgres->parameters, (int64_t)apply->elsewhere_limit);
    postgres_add(
        postgres, postgres_print(postgres, POSTGRES_ELSEWHERE),
        &(struct postgres_step){
            .take = postgres_take_outbox, .owner = &postgres->elsewhere, .expected = -1, .what = "outbox"});
}

static enum outcome take_committed(void *owner, const PGresult *result, struct error *error)
{
    (void)owner;
    if (strcmp(PQcmdStatus((PGresult *)(uintptr_t)result), "COMMIT") != 0)
        return error_retry(error, "store", "the transaction was rolled back: %s",
                           PQcmdStatus((PGresult *)(uintptr_t)result));
    return OK;
}

static void add_commit(struct postgres *postgres)
{
    postgres_add(postgres, "COMMIT", &(struct postgres_step){.take = take_committed, .expected = -1});
}

static enum outcome apply_send(struct postgres *postgres, struct backend_apply *apply,
                               struct outbox_numbers *numbers, struct error *error)
{
    postgres_parameters_clear(&postgres->parameters);
    bool known = postgres->xid[0] && postgres->transaction != TRANSACTION_WANTED;
    if (!known)
        add_xid(postgres);
    postgres_fence(postgres);
    postgres_notes_write(postgres, apply);
    for (size_t i = 0; i < apply->table_count; i++)
        if (!add_table(postgres, &apply->tables[i]))
            return postgres_memory(error);
    if (apply->pack_count || apply->done_count || apply->refused_count)
        add_outbox(postgres, apply, numbers);
    add_elsewhere(postgres, apply);
    /* A commit is only sent when it could be asked for later on: ticks and the like come without a fetch. */
    if (known)
        add_commit(postgres);
    return postgres_land(postgres, POSTGRES_STATEMENT_MS, error);
}

/* ---- a commit without an answer */

static enum outcome take_lost_numbers(void *owner, const PGresult *result, struct error *error)
{
    struct outbox_numbers *numbers = owner;
    if (numbers->apply->pack_count && PQntuples(result) != (int)numbers->apply->pack_count) {
        error_set(error, FATAL, "store-doubt",
                  "a batch was committed and cannot be told apart; starting anew takes it up");
        error->exit_code = EXIT_TRY_AGAIN;
        return FATAL;
    }
    return numbers->apply->pack_count ? take_numbers(owner, result, error) : OK;
}

static enum outcome take_state(void *owner, const PGresult *result, struct error *error)
{
    struct outbox_numbers *numbers = owner;
    (void)error;
    int64_t rows = postgres_int(result, 0, 0);
    numbers->gone = numbers->postgres->outbox_rows + numbers->apply->events - rows;
    return OK;
}

/* It was committed: what its answer would have said. */
static enum outcome committed_read(struct postgres *postgres, const char *xid, struct outbox_numbers *numbers,
                                   struct error *error)
{
    struct postgres_parameters *parameters = &postgres->parameters;
    postgres->transaction = TRANSACTION_WANTED;
    postgres_parameters_clear(parameters);
    postgres_put_int(parameters, postgres->outbox_last);
    postgres_put_text(parameters, text_of(xid));
    postgres_add(
        postgres,
        postgres_print(postgres,
                       "SELECT seq FROM @.outbox_pack WHERE seq > $1 AND xmin = CAST(CAST($2 AS xid8) AS "
                       "xid) ORDER BY seq"),
        &(struct postgres_step){.take = take_lost_numbers, .owner = numbers, .expected = -1});
    postgres_add(
        postgres,
        postgres_print(postgres, "SELECT CAST(coalesce(sum(events), 0) AS bigint) FROM @.outbox_pack"),
        &(struct postgres_step){.take = take_state, .owner = numbers, .expected = -1});
    postgres_put_int(parameters, 0);
    postgres_add(
        postgres,
        postgres_print(postgres,
                       "SELECT seq, created_us FROM @.outbox_pack WHERE seq >= $1 ORDER BY seq LIMIT 1"),
        &(struct postgres_step){.take = take_oldest, .owner = numbers, .expected = -1});
    enum outcome outcome = postgres_land(postgres, POSTGRES_STATEMENT_MS, error);
    postgres_rollback(&postgres->backend);
    return outcome;
}

/* The answer to COMMIT was lost with the connection. For a while it is looked up here; where the server stays
 * away, the next begin() looks it up. */
static enum outcome commit_lookup(struct postgres *postgres, struct outbox_numbers *numbers,
                                  struct error *error)
{
    int64_t until_us = clock_monotonic_us() + POSTGRES_DOUBT_MS * INT64_C(1000);
    char xid[sizeof(postgres->xid)];
    memcpy(xid, postgres->xid, sizeof(xid));
    memcpy(postgres->doubt_xid, xid, sizeof(xid));
    postgres->doubt_pid = postgres->pid;
    postgres->transaction = TRANSACTION_NONE;
    for (int wait_ms = 20;; wait_ms = wait_ms < 320 ? wait_ms * 2 : wait_ms) {
        bool committed = false;
        struct error why;
        enum outcome outcome = postgres_doubt(postgres, &committed, &why);
        if (outcome == OK && committed) {
            outcome = committed_read(postgres, xid, numbers, error);
            postgres->outrun = postgres->outrun || outcome != OK; /* begin() says so */
            return outcome;
        }
        if (outcome == OK)
            return OUTAGE; /* error says how the connection went; nothing was written */
        if (outcome == FATAL) {
            if (error)
                *error = why;
            return FATAL;
        }
        if (clock_monotonic_us() > until_us)
            return OUTAGE;
        poll(NULL, 0, wait_ms);
    }
}

enum outcome postgres_apply(struct backend *backend, struct backend_apply *apply, struct error *error)
{
    struct postgres *postgres = (struct postgres *)backend;
    struct outbox_numbers numbers = {
        .postgres = postgres, .apply = apply, .floor = postgres->outbox_floor, .last = postgres->outbox_last};
    bool known = postgres->xid[0] && postgres->transaction != TRANSACTION_WANTED, tried = false;
    qsort(apply->tables, apply->table_count, sizeof(*apply->tables), writes_compare);
    enum outcome outcome;
    do
        outcome = apply_send(postgres, apply, &numbers, error);
    while (outcome != OK && !known && postgres_again(postgres, &tried));
    if (outcome == OK && !known) {
        add_commit(postgres);
        outcome = postgres_land(postgres, POSTGRES_STATEMENT_MS, error);
        known = true;
    }
    if (outcome != OK && known && !postgres->conn)
        outcome = commit_lookup(postgres, &numbers, error);
    if (outcome != OK)
        return outcome;
    postgres->transaction = TRANSACTION_NONE;
    postgres->xid[0] = '\0';
    postgres->outbox_floor = numbers.floor;
    postgres->outbox_last = numbers.last;
    apply->outbox_gone = numbers.gone;
    postgres->outbox_rows += apply->events - numbers.gone;
    return OK;
}

/* ---- at the start */

static bool keep_state(void *owner, const struct store_row *row)
{
    int64_t *numbers = owner;
    for (size_t i = 0; i < 4; i++)
        numbers[i] = store_row_int(row, i);
    return false;
}

enum outcome postgres_start(struct backend *backend, int64_t *ret_outbox_rows, int64_t *ret_outbox_oldest_us,
                            struct error *error)
{
    struct postgres *postgres = (struct postgres *)backend;
    int64_t numbers[4] = {0};
    enum outcome outcome = backend->ops->query(
        backend,
        "SELECT CAST(coalesce((SELECT sum(events) FROM outbox_pack), 0) AS bigint), "
        "coalesce((SELECT min(seq) FROM outbox_pack), 0), coalesce((SELECT max(seq) FROM outbox_pack), 0), "
        "coalesce((SELECT created_us FROM outbox_pack ORDER BY seq LIMIT 1), 0)",
        NULL, 0, keep_state, numbers, error);
    if (outcome != OK)
        return outcome;
    postgres->outbox_rows = numbers[0];
    postgres->outbox_floor = numbers[1];
    postgres->outbox_last = numbers[2];
    *ret_outbox_rows = numbers[0];
    *ret_outbox_oldest_us = numbers[3];
    return OK;
}
