/*
 * The bare floor for SQLite: the statements of bench/store/bench_rows.c, the same rows in the same order, by
 * sqlite3 alone with no library around it. What a batch costs here nobody can go below; how far the store is
 * above it is what it costs.
 *
 * floor_sqlite FILE EVENTS BATCH prints events/s and CPU µs an event.
 */
#include "store/inventory_work.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

static sqlite3 *db;

static void must(int code)
{
    if (code != SQLITE_OK && code != SQLITE_DONE && code != SQLITE_ROW) {
        fprintf(stderr, "floor_sqlite: %s\n", sqlite3_errmsg(db));
        exit(70);
    }
}

static sqlite3_stmt *prepared(const char *sql)
{
    sqlite3_stmt *statement;
    must(sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, NULL));
    return statement;
}

static void run(sqlite3_stmt *statement)
{
    must(sqlite3_step(statement));
    must(sqlite3_reset(statement));
}

static void bind(sqlite3_stmt *statement, int place, struct text text)
{
    sqlite3_bind_text(statement, place, text.at, (int)text.length, SQLITE_STATIC);
}

static int wal_pages;
static int wal_grew(void *owner, sqlite3 *of, const char *name, int pages)
{
    (void)owner, (void)of, (void)name;
    wal_pages = pages;
    return SQLITE_OK;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 64;
    size_t events = strtoul(argv[2], NULL, 10), batch = strtoul(argv[3], NULL, 10);
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    must(sqlite3_open_v2(argv[1], &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                         NULL));
    must(sqlite3_exec(
        db,
        "PRAGMA page_size=4096; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
        "PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=-8192; PRAGMA foreign_keys=ON;"
        "CREATE TABLE inbox (id BLOB PRIMARY KEY, attempt INTEGER NOT NULL, at INTEGER NOT NULL)"
        " WITHOUT ROWID;"
        "CREATE TABLE stock (sku TEXT NOT NULL, available INTEGER NOT NULL, reserved INTEGER NOT NULL,"
        " updated_at INTEGER NOT NULL, PRIMARY KEY (sku), CHECK (available >= 0)) WITHOUT ROWID;"
        "CREATE TABLE reservations (order_id TEXT NOT NULL, sku TEXT NOT NULL, quantity INTEGER NOT NULL,"
        " state INTEGER NOT NULL, expires_at INTEGER NOT NULL, PRIMARY KEY (order_id)) WITHOUT ROWID;"
        "CREATE TABLE outbox (seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL,"
        " key BLOB, value BLOB, headers BLOB NOT NULL, created_us INTEGER NOT NULL);",
        NULL, NULL, NULL));
    sqlite3_wal_hook(db, wal_grew, NULL);
    sqlite3_stmt *begin = prepared("BEGIN IMMEDIATE"), *commit = prepared("COMMIT");
    sqlite3_stmt *note = prepared("INSERT INTO inbox VALUES (?1, 0, ?2) ON CONFLICT DO NOTHING");
    sqlite3_stmt *get = prepared("SELECT available, reserved, updated_at FROM stock WHERE sku = ?1");
    sqlite3_stmt *put =
        prepared("UPDATE stock SET available = ?1, reserved = ?2, updated_at = ?3 WHERE sku = ?4");
    sqlite3_stmt *reserve = prepared("INSERT INTO reservations VALUES (?1, ?2, ?3, ?4, ?5)");
    sqlite3_stmt *outbox = prepared("INSERT INTO outbox VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)");
    sqlite3_stmt *done = prepared("DELETE FROM outbox WHERE seq BETWEEN ?1 AND ?2");

    struct stock stock[SKUS];
    bool in_hand[SKUS];
    sqlite3_stmt *fill = prepared("INSERT INTO stock VALUES (?1, ?2, 0, 0)");
    must(sqlite3_exec(db, "BEGIN", NULL, NULL, NULL));
    for (size_t i = 0; i < SKUS; i++) {
        bind(fill, 1, sku_name(i));
        sqlite3_bind_int64(fill, 2, STOCK_AT_FIRST);
        run(fill);
    }
    must(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL));

    struct arrival *list = malloc(batch * sizeof(*list));
    int64_t seq = 1, written = 0; /* by the batch before */
    struct timing timing = timing_begin();
    for (size_t at = 0, count; at < events; at += count) {
        count = events - at < batch ? events - at : batch;
        for (size_t i = 0; i < count; i++)
            arrival_make(&list[i], at + i);
        if ((int64_t)wal_pages * 4096 >= 8 << 20) {
            must(sqlite3_wal_checkpoint_v2(db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL));
            wal_pages = 0;
        }
        run(begin);
        memset(in_hand, 0, sizeof(in_hand));
        for (size_t i = 0; i < count; i++) {
            sqlite3_bind_blob(note, 1, list[i].id.bytes, 16, SQLITE_STATIC);
            sqlite3_bind_int64(note, 2, list[i].at_us);
            run(note);
            if (sqlite3_changes(db) != 1)
                abort();
        }
        for (size_t i = 0; i < count; i++) {
            if (in_hand[list[i].sku])
                continue;
            bind(get, 1, sku_name(list[i].sku));
            must(sqlite3_step(get));
            stock[list[i].sku] = (struct stock){.available = sqlite3_column_int64(get, 0),
                                                .reserved = sqlite3_column_int64(get, 1)};
            must(sqlite3_reset(get));
            in_hand[list[i].sku] = true;
        }
        for (size_t i = 0; i < count; i++) {
            stock[list[i].sku].available--;
            stock[list[i].sku].reserved++;
            stock[list[i].sku].updated_at = list[i].at_us;
        }
        for (size_t i = 0; i < SKUS; i++)
            if (in_hand[i]) {
                sqlite3_bind_int64(put, 1, stock[i].available);
                sqlite3_bind_int64(put, 2, stock[i].reserved);
                sqlite3_bind_int64(put, 3, stock[i].updated_at);
                bind(put, 4, sku_name(i));
                run(put);
            }
        for (size_t i = 0; i < count; i++) {
            bind(reserve, 1, (struct text){list[i].order_id, ID_TEXT_BYTES});
            bind(reserve, 2, sku_name(list[i].sku));
            sqlite3_bind_int64(reserve, 3, 1);
            sqlite3_bind_int64(reserve, 4, 1);
            sqlite3_bind_int64(reserve, 5, list[i].at_us + 900000000);
            run(reserve);
        }
        if (written) { /* what the batch before wrote was acknowledged by now */
            sqlite3_bind_int64(done, 1, seq - written);
            sqlite3_bind_int64(done, 2, seq - 1);
            run(done);
        }
        for (size_t i = 0; i < count; i++) {
            char headers[BLOB_BYTES_MAX];
            size_t length = headers_join(&list[i], headers);
            sqlite3_bind_int64(outbox, 1, seq++);
            bind(outbox, 2, TEXT("inventory"));
            sqlite3_bind_int(outbox, 3, -1);
            sqlite3_bind_blob(outbox, 4, list[i].order_id, ID_TEXT_BYTES, SQLITE_STATIC);
            sqlite3_bind_blob(outbox, 5, list[i].value, VALUE_BYTES, SQLITE_STATIC);
            sqlite3_bind_blob(outbox, 6, headers, (int)length, SQLITE_STATIC);
            sqlite3_bind_int64(outbox, 7, list[i].at_us);
            run(outbox);
        }
        run(commit);
        written = (int64_t)count;
    }
    timing_print("floor", batch, events, timing);
    free(list);
    return 0; /* the database is left as it is: closing is not measured */
}
