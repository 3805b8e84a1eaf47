/* sqlite_batch: the two calls of a batch, executed at once. */
#include "store/sqlite.h"

#include <stdio.h>

enum {
    WAL_PASSIVE_BYTES = 8 << 20,   /* the log is copied into the file when it passes this … */
    WAL_TRUNCATE_BYTES = 64 << 20, /* … and cut when a reader has let it grow past this */
    OUTBOX_SEQ_BLOCK = 1 << 20,    /* numbers set aside at a time */
};

/* Between transactions, by the connection that writes; nobody waits for a reader. */
static enum outcome checkpoint(struct sqlite *sqlite, struct error *error)
{
    int64_t bytes = (int64_t)sqlite->wal_pages * SQLITE_PAGE_BYTES;
    if (bytes < WAL_PASSIVE_BYTES)
        return OK;
    sqlite3_busy_timeout(sqlite->db, 0);
    int code = sqlite3_wal_checkpoint_v2(
        sqlite->db, NULL, bytes < WAL_TRUNCATE_BYTES ? SQLITE_CHECKPOINT_PASSIVE : SQLITE_CHECKPOINT_TRUNCATE,
        NULL, NULL);
    sqlite->wal_pages = 0; /* until the next commit says how many there are */
    enum outcome outcome =
        code == SQLITE_OK || (code & 0xff) == SQLITE_BUSY ? OK : sqlite_failed(sqlite, error);
    sqlite3_busy_timeout(sqlite->db, SQLITE_BUSY_WAIT_MS);
    return outcome;
}

enum outcome sqlite_begin(struct backend *backend, struct error *error)
{
    struct sqlite *sqlite = (struct sqlite *)backend;
    enum outcome outcome = checkpoint(sqlite, error);
    return outcome == OK ? sqlite_run_fixed(sqlite, FIXED_BEGIN, error) : outcome;
}

void sqlite_rollback(struct backend *backend)
{
    struct sqlite *sqlite = (struct sqlite *)backend;
    /* After some errors SQLite has rolled back by itself. */
    if (sqlite3_get_autocommit(sqlite->db))
        return;
    if (sqlite_run_fixed(sqlite, FIXED_ROLLBACK, NULL) != OK)
        sqlite3_exec(sqlite->db, "ROLLBACK", NULL, NULL, NULL);
}

/* ---- the first call: ids and rows ---- */

static enum outcome fetch_note(struct sqlite *sqlite, sqlite3_stmt *insert, struct backend_note *place,
                               int64_t noted_us, struct error *error)
{
    struct inbox_note *note = place->note;
    sqlite3_bind_blob(insert, 1, note->id.bytes, sizeof(note->id.bytes), SQLITE_STATIC);
    sqlite3_bind_int64(insert, 2, noted_us);
    enum outcome outcome = sqlite_run(sqlite, insert, error);
    if (outcome != OK)
        return outcome;
    place->now = place->left = 0;
    if (sqlite3_changes(sqlite->db) == 1) {
        place->prior = INBOX_ABSENT;
        note->seen = false;
        return OK;
    }
    sqlite3_stmt *select, *update;
    outcome = sqlite_fixed(sqlite, FIXED_INBOX_SELECT, &select, error);
    if (outcome != OK)
        return outcome;
    sqlite3_bind_blob(select, 1, note->id.bytes, sizeof(note->id.bytes), SQLITE_STATIC);
    if (sqlite3_step(select) != SQLITE_ROW)
        outcome = sqlite_failed(sqlite, error);
    else
        place->prior = sqlite3_column_int(select, 0);
    sqlite3_reset(select);
    if (outcome != OK)
        return outcome;
    note->seen = place->prior == 0 || note->attempt <= place->prior;
    if (note->seen)
        return OK;
    outcome = sqlite_fixed(sqlite, FIXED_INBOX_UPDATE, &update, error);
    if (outcome != OK)
        return outcome;
    sqlite3_bind_blob(update, 1, note->id.bytes, sizeof(note->id.bytes), SQLITE_STATIC);
    sqlite3_bind_int(update, 2, 0);
    return sqlite_run(sqlite, update, error);
}

static enum outcome fetch_rows(struct sqlite *sqlite, struct arena *arena, struct backend_wanted *wanted,
                               struct error *error)
{
    const struct rows_table *table = wanted->table;
    struct sqlite_table *statements;
    enum outcome outcome = sqlite_table_of(sqlite, table, &statements, error);
    for (size_t i = 0; i < wanted->count && outcome == OK; i++) {
        struct rows_entry *entry = wanted->entries[i];
        int code = sqlite_bind_columns(statements->get, 1, table, 0, table->key_count, entry->row);
        if (code == SQLITE_OK)
            code = sqlite3_step(statements->get);
        wanted->found[i] = code == SQLITE_ROW;
        if (code == SQLITE_ROW)
            outcome = sqlite_read_columns(sqlite, statements->get, table, table->key_count,
                                          table->column_count, arena, entry->row, error);
        else if (code != SQLITE_DONE)
            outcome = sqlite_failed(sqlite, error);
        sqlite3_reset(statements->get);
    }
    return outcome;
}

enum outcome sqlite_fetch(struct backend *backend, struct backend_fetch *fetch, struct error *error)
{
    struct sqlite *sqlite = (struct sqlite *)backend;
    sqlite3_stmt *insert;
    enum outcome outcome = sqlite_fixed(sqlite, FIXED_INBOX_INSERT, &insert, error);
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

/* ---- the second call: writes and COMMIT ---- */

static enum outcome apply_table(struct sqlite *sqlite, const struct backend_table_writes *writes,
                                struct error *error)
{
    const struct rows_table *table = writes->table;
    size_t keys = table->key_count, columns = table->column_count;
    struct sqlite_table *statements;
    enum outcome outcome = sqlite_table_of(sqlite, table, &statements, error);
    for (size_t i = 0; i < writes->delete_count && outcome == OK; i++) {
        int code = sqlite_bind_columns(statements->delete, 1, table, 0, keys, writes->deletes[i]->base);
        outcome =
            code == SQLITE_OK ? sqlite_run(sqlite, statements->delete, error) : sqlite_failed(sqlite, error);
    }
    for (size_t i = 0; i < writes->update_count && outcome == OK; i++) {
        const struct rows_entry *entry = writes->updates[i];
        int code = sqlite_bind_columns(statements->update, 1, table, keys, columns, entry->row);
        if (code == SQLITE_OK)
            code = sqlite_bind_columns(statements->update, (int)(columns - keys) + 1, table, 0, keys,
                                       entry->base);
        outcome =
            code == SQLITE_OK ? sqlite_run(sqlite, statements->update, error) : sqlite_failed(sqlite, error);
    }
    for (size_t i = 0; i < writes->insert_count && outcome == OK; i++) {
        int code = sqlite_bind_columns(statements->insert, 1, table, 0, columns, writes->inserts[i]->row);
        outcome =
            code == SQLITE_OK ? sqlite_run(sqlite, statements->insert, error) : sqlite_failed(sqlite, error);
    }
    return outcome;
}

static enum outcome apply_notes(struct sqlite *sqlite, const struct backend_apply *apply, struct error *error)
{
    enum outcome outcome = OK;
    for (size_t i = 0; i < apply->note_count && outcome == OK; i++) {
        const struct backend_note_write *write = &apply->notes[i];
        sqlite3_stmt *statement;
        outcome =
            sqlite_fixed(sqlite, write->attempt == INBOX_ABSENT ? FIXED_INBOX_DELETE : FIXED_INBOX_UPDATE,
                         &statement, error);
        if (outcome != OK)
            break;
        sqlite3_bind_blob(statement, 1, write->id.bytes, sizeof(write->id.bytes), SQLITE_STATIC);
        if (write->attempt != INBOX_ABSENT)
            sqlite3_bind_int(statement, 2, write->attempt);
        outcome = sqlite_run(sqlite, statement, error);
    }
    return outcome;
}

/* Numbers are set aside in blocks, in a transaction that uses the first of them, so that none comes twice,
 * also when the table was emptied and the process began anew. */
static enum outcome outbox_reserve(struct sqlite *sqlite, int64_t upto, struct error *error)
{
    sqlite3_stmt *statement;
    enum outcome outcome = sqlite_fixed(sqlite, FIXED_RESERVE, &statement, error);
    if (outcome != OK)
        return outcome;
    char number[24];
    int length = snprintf(number, sizeof(number), "%lld", (long long)upto);
    sqlite_bind_text(statement, 1, (struct text){number, (size_t)length});
    outcome = sqlite_run(sqlite, statement, error);
    sqlite3_clear_bindings(statement);
    return outcome;
}

static enum outcome apply_added(struct sqlite *sqlite, struct backend_apply *apply, struct error *error)
{
    sqlite3_stmt *statement;
    enum outcome outcome = sqlite_fixed(sqlite, FIXED_OUTBOX_INSERT, &statement, error);
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
            code = sqlite_bind_blob(statement, 5, pack->body);
        outcome = code == SQLITE_OK ? sqlite_run(sqlite, statement, error) : sqlite_failed(sqlite, error);
    }
    return outcome;
}

static enum outcome outbox_delete(struct sqlite *sqlite, int64_t first, int64_t last,
                                  struct backend_apply *apply, struct error *error)
{
    sqlite3_stmt *events, *statement;
    enum outcome outcome = sqlite_fixed(sqlite, FIXED_OUTBOX_EVENTS, &events, error);
    if (outcome == OK)
        outcome = sqlite_fixed(sqlite, FIXED_OUTBOX_DELETE, &statement, error);
    if (outcome != OK)
        return outcome;
    sqlite3_bind_int64(events, 1, first);
    sqlite3_bind_int64(events, 2, last);
    if (sqlite3_step(events) == SQLITE_ROW)
        apply->outbox_gone += sqlite3_column_int64(events, 0);
    else
        outcome = sqlite_failed(sqlite, error);
    sqlite3_reset(events);
    if (outcome != OK)
        return outcome;
    sqlite3_bind_int64(statement, 1, first);
    sqlite3_bind_int64(statement, 2, last);
    return sqlite_run(sqlite, statement, error);
}

static enum outcome apply_refused(struct sqlite *sqlite, struct backend_apply *apply, struct error *error)
{
    enum outcome outcome = OK;
    for (size_t i = 0; i < apply->refused_count && outcome == OK; i++) {
        const struct backend_refusal *refusal = &apply->refused[i];
        sqlite3_stmt *statement;
        outcome = sqlite_fixed(sqlite, FIXED_REFUSE, &statement, error);
        if (outcome != OK)
            break;
        const struct outbox_row *row = &refusal->row;
        int code = sqlite3_bind_int64(statement, 1, refusal->seq);
        if (code == SQLITE_OK)
            code = sqlite_bind_text(statement, 2, row->topic);
        if (code == SQLITE_OK)
            code = sqlite3_bind_int(statement, 3, row->partition);
        if (code == SQLITE_OK)
            code = row->key_null ? sqlite3_bind_null(statement, 4) : sqlite_bind_blob(statement, 4, row->key);
        if (code == SQLITE_OK)
            code = row->value_null ? sqlite3_bind_null(statement, 5)
                                   : sqlite_bind_blob(statement, 5, row->value);
        if (code == SQLITE_OK)
            code = sqlite_bind_blob(statement, 6, refusal->headers);
        if (code == SQLITE_OK)
            code = sqlite3_bind_int64(statement, 7, row->created_us);
        if (code == SQLITE_OK)
            code = sqlite_bind_text(statement, 8, refusal->reason);
        outcome = code == SQLITE_OK ? sqlite_run(sqlite, statement, error) : sqlite_failed(sqlite, error);
    }
    return outcome;
}

static enum outcome outbox_oldest(struct sqlite *sqlite, int64_t *ret, struct error *error)
{
    sqlite3_stmt *statement;
    enum outcome outcome = sqlite_fixed(sqlite, FIXED_OUTBOX_OLDEST, &statement, error);
    if (outcome != OK)
        return outcome;
    int code = sqlite3_step(statement);
    *ret = code == SQLITE_ROW ? sqlite3_column_int64(statement, 0) : 0;
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        outcome = sqlite_failed(sqlite, error);
    sqlite3_reset(statement);
    return outcome;
}

enum outcome sqlite_apply(struct backend *backend, struct backend_apply *apply, struct error *error)
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
        outcome = sqlite_run_fixed(sqlite, FIXED_COMMIT, error);
    if (outcome != OK)
        return outcome;
    sqlite->outbox_seq_next = next;
    sqlite->outbox_seq_reserved = reserved;
    return OK;
}
