/*
 * The bare floor for PostgreSQL: the statements of bench/store/bench_rows.c, the same rows in the same order,
 * by libpq alone with no library around it: two round trips a batch (begin, inbox, stock rows; all that is
 * written, and the commit), arrays in binary, statements prepared once. What a batch costs here nobody can go
 * below.
 *
 * floor_postgres URL EVENTS BATCH prints events/s and CPU µs an event (the client's), in a schema of its own.
 */
#include "store/inventory_work.h"

#include <endian.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

enum { PARAMETERS_MAX = 6, INT8_ARRAY = 1016, TEXT_ARRAY = 1009, BYTEA_ARRAY = 1001, UUID_ARRAY = 2951 };

static PGconn *conn;

static void give_up(const char *what)
{
    fprintf(stderr, "floor_postgres: %s: %s\n", what, PQerrorMessage(conn));
    exit(70);
}

/* ---- parameters: arrays in binary, in one buffer */

static char *bytes;
static size_t length, room;
static int count;
static Oid types[PARAMETERS_MAX];
static size_t offsets[PARAMETERS_MAX + 1];

static void put(const void *from, size_t size)
{
    if (length + size > room) {
        room = (length + size) * 2;
        bytes = realloc(bytes, room);
        if (!bytes)
            abort();
    }
    memcpy(bytes + length, from, size);
    length += size;
}

static void put32(uint32_t value)
{
    uint32_t wire = htobe32(value);
    put(&wire, sizeof(wire));
}

static void array(Oid type, size_t elements)
{
    uint32_t element = type == INT8_ARRAY ? 20 : type == TEXT_ARRAY ? 25 : type == BYTEA_ARRAY ? 17 : 2950;
    types[count] = type;
    offsets[count++] = length;
    offsets[count] = length;
    put32(1);
    put32(0);
    put32(element);
    put32((uint32_t)elements);
    put32(1);
}

static void element(const void *from, size_t size)
{
    put32((uint32_t)size);
    put(from, size);
    offsets[count] = length;
}

static void number(int64_t value)
{
    uint64_t wire = htobe64((uint64_t)value);
    element(&wire, sizeof(wire));
}

/* ---- statements */

struct statement {
    const char *name, *sql;
    bool prepared;
};

static int sent;

static void send(struct statement *statement)
{
    const char *values[PARAMETERS_MAX];
    int lengths[PARAMETERS_MAX], formats[PARAMETERS_MAX];
    for (int i = 0; i < count; i++) {
        values[i] = bytes + offsets[i];
        lengths[i] = (int)(offsets[i + 1] - offsets[i]);
        formats[i] = 1;
    }
    if (!statement->prepared) {
        if (!PQsendPrepare(conn, statement->name, statement->sql, count, types))
            give_up("prepare");
        statement->prepared = true;
        sent++;
    }
    if (!PQsendQueryPrepared(conn, statement->name, count, values, lengths, formats, 1))
        give_up("send");
    sent++;
    count = 0;
    length = 0;
}

static PGresult *next(void)
{
    for (;;) {
        int left = PQflush(conn);
        if (!PQisBusy(conn))
            return PQgetResult(conn);
        struct pollfd pollfd = {PQsocket(conn), (short)(left > 0 ? POLLIN | POLLOUT : POLLIN), 0};
        poll(&pollfd, 1, -1);
        if (!PQconsumeInput(conn))
            give_up("read");
    }
}

/* Waits for all that was sent; keeps the last result that has rows. */
static PGresult *land(void)
{
    PGresult *rows = NULL;
    if (!PQpipelineSync(conn))
        give_up("sync");
    for (;;) {
        PGresult *result = next();
        ExecStatusType status = PQresultStatus(result);
        if (!result)
            continue;
        if (status == PGRES_PIPELINE_SYNC) {
            PQclear(result);
            sent = 0;
            return rows;
        }
        if (status == PGRES_TUPLES_OK) {
            PQclear(rows);
            rows = result;
            continue;
        }
        if (status != PGRES_COMMAND_OK)
            give_up("statement");
        PQclear(result);
    }
}

static int64_t int_at(const PGresult *rows, int row, int column)
{
    uint64_t wire;
    memcpy(&wire, PQgetvalue(rows, row, column), sizeof(wire));
    return (int64_t)be64toh(wire);
}

static void must(const char *sql)
{
    PGresult *result = PQexec(conn, sql);
    if (PQresultStatus(result) != PGRES_COMMAND_OK && PQresultStatus(result) != PGRES_TUPLES_OK)
        give_up("script");
    PQclear(result);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 64;
    size_t events = strtoul(argv[2], NULL, 10), batch = strtoul(argv[3], NULL, 10);
    conn = PQconnectdb(argv[1]);
    if (PQstatus(conn) != CONNECTION_OK)
        give_up("connect");
    must(
        "SET client_min_messages = error; DROP SCHEMA IF EXISTS floor CASCADE; CREATE SCHEMA floor; SET "
        "search_path TO floor;"
        "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off;"
        "SET enable_mergejoin = off; SET jit = off;"
        "CREATE TABLE inbox (id UUID PRIMARY KEY, attempt BIGINT NOT NULL, at BIGINT NOT NULL);"
        "CREATE TABLE stock (sku TEXT COLLATE \"C\" PRIMARY KEY, available BIGINT NOT NULL CHECK (available "
        ">= 0),"
        " reserved BIGINT NOT NULL, updated_at BIGINT NOT NULL) WITH (fillfactor = 90);"
        "CREATE TABLE reservations (order_id TEXT COLLATE \"C\" PRIMARY KEY, sku TEXT COLLATE \"C\" NOT NULL,"
        " quantity BIGINT NOT NULL, state BIGINT NOT NULL, expires_at BIGINT NOT NULL) WITH (fillfactor = "
        "90);"
        "CREATE SEQUENCE outbox_seq;"
        "CREATE TABLE outbox (seq BIGINT PRIMARY KEY DEFAULT nextval('outbox_seq'), topic TEXT NOT NULL,"
        " partition BIGINT NOT NULL, key BYTEA, value BYTEA, headers BYTEA NOT NULL, created_us BIGINT NOT "
        "NULL)");
    for (size_t i = 0; i < SKUS; i++) {
        char sql[128];
        snprintf(sql, sizeof(sql), "INSERT INTO stock VALUES ('%.7s', %lld, 0, 0)", sku_name(i).at,
                 (long long)STOCK_AT_FIRST);
        must(sql);
    }
    if (PQsetnonblocking(conn, 1) || !PQenterPipelineMode(conn))
        give_up("pipeline");
    struct statement begin = {"begin", "BEGIN", false}, commit = {"commit", "COMMIT", false};
    struct statement note = {
        "note",
        "INSERT INTO inbox SELECT v.id, 0, v.at FROM unnest($1, $2) AS v (id, at) ON CONFLICT DO NOTHING",
        false};
    struct statement get = {
        "get",
        "SELECT v.place, t.available, t.reserved FROM unnest($1) WITH ORDINALITY AS v (sku, place) "
        "JOIN stock t ON t.sku = v.sku ORDER BY v.place FOR UPDATE OF t",
        false};
    struct statement put_stock = {
        "put",
        "UPDATE stock t SET available = v.available, reserved = v.reserved, updated_at = "
        "v.updated_at FROM unnest($1, $2, $3, $4) AS v (sku, available, reserved, "
        "updated_at) WHERE t.sku = v.sku",
        false};
    struct statement reserve = {"reserve",
                                "INSERT INTO reservations SELECT * FROM unnest($1, $2, $3, $4, $5)", false};
    struct statement done = {
        "done",
        "DELETE FROM outbox t USING unnest($1, $2) AS v (first, last) WHERE t.seq BETWEEN "
        "v.first AND v.last",
        false};
    struct statement outbox = {
        "outbox",
        "INSERT INTO outbox (topic, partition, key, value, headers, created_us) SELECT * FROM "
        "unnest($1, $2, $3, $4, $5, $6) RETURNING seq",
        false};
    struct stock stock[SKUS];
    bool in_hand[SKUS];
    size_t wanted[SKUS], wanted_count;
    struct arrival *list = malloc(batch * sizeof(*list));
    int64_t first = 0, last = 0;
    struct timing timing = timing_begin();
    for (size_t at = 0, handled; at < events; at += handled) {
        handled = events - at < batch ? events - at : batch;
        for (size_t i = 0; i < handled; i++)
            arrival_make(&list[i], at + i);
        memset(in_hand, 0, sizeof(in_hand));
        for (size_t i = 0; i < handled; i++)
            in_hand[list[i].sku] = true;
        wanted_count = 0;
        for (size_t i = 0; i < SKUS; i++)
            if (in_hand[i])
                wanted[wanted_count++] = i;
        send(&begin);
        array(UUID_ARRAY, handled);
        for (size_t i = 0; i < handled; i++)
            element(list[i].id.bytes, 16);
        array(INT8_ARRAY, handled);
        for (size_t i = 0; i < handled; i++)
            number(list[i].at_us);
        send(&note);
        array(TEXT_ARRAY, wanted_count);
        for (size_t i = 0; i < wanted_count; i++)
            element(sku_name(wanted[i]).at, 7);
        send(&get);
        PGresult *rows = land();
        for (int row = 0; row < PQntuples(rows); row++)
            stock[wanted[int_at(rows, row, 0) - 1]] =
                (struct stock){.available = int_at(rows, row, 1), .reserved = int_at(rows, row, 2)};
        PQclear(rows);
        for (size_t i = 0; i < handled; i++) {
            stock[list[i].sku].available--;
            stock[list[i].sku].reserved++;
            stock[list[i].sku].updated_at = list[i].at_us;
        }
        array(TEXT_ARRAY, wanted_count);
        for (size_t i = 0; i < wanted_count; i++)
            element(sku_name(wanted[i]).at, 7);
        for (int which = 0; which < 3; which++) {
            array(INT8_ARRAY, wanted_count);
            for (size_t i = 0; i < wanted_count; i++)
                number(which == 0   ? stock[wanted[i]].available
                       : which == 1 ? stock[wanted[i]].reserved
                                    : stock[wanted[i]].updated_at);
        }
        send(&put_stock);
        array(TEXT_ARRAY, handled);
        for (size_t i = 0; i < handled; i++)
            element(list[i].order_id, ID_TEXT_BYTES);
        array(TEXT_ARRAY, handled);
        for (size_t i = 0; i < handled; i++)
            element(sku_name(list[i].sku).at, 7);
        for (int which = 0; which < 3; which++) {
            array(INT8_ARRAY, handled);
            for (size_t i = 0; i < handled; i++)
                number(which < 2 ? 1 : list[i].at_us + 900000000);
        }
        send(&reserve);
        if (last) {
            array(INT8_ARRAY, 1);
            number(first);
            array(INT8_ARRAY, 1);
            number(last);
            send(&done);
        }
        array(TEXT_ARRAY, handled);
        for (size_t i = 0; i < handled; i++)
            element("inventory", 9);
        array(INT8_ARRAY, handled);
        for (size_t i = 0; i < handled; i++)
            number(-1);
        array(BYTEA_ARRAY, handled);
        for (size_t i = 0; i < handled; i++)
            element(list[i].order_id, ID_TEXT_BYTES);
        array(BYTEA_ARRAY, handled);
        for (size_t i = 0; i < handled; i++)
            element(list[i].value, VALUE_BYTES);
        array(BYTEA_ARRAY, handled);
        for (size_t i = 0; i < handled; i++) {
            char headers[BLOB_BYTES_MAX];
            size_t joined = headers_join(&list[i], headers);
            element(headers, joined);
        }
        array(INT8_ARRAY, handled);
        for (size_t i = 0; i < handled; i++)
            number(list[i].at_us);
        send(&outbox);
        send(&commit);
        rows = land();
        first = int_at(rows, 0, 0);
        last = int_at(rows, PQntuples(rows) - 1, 0);
        PQclear(rows);
    }
    timing_print("floor", batch, events, timing);
    free(list);
    free(bytes);
    PQfinish(conn);
    return 0;
}
