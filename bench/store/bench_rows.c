/*
 * The inventory work through the store: for each event an inbox note, one stock row of 200 changed, one
 * reservation added, one outbox row with 150 bytes and 8 headers; what the batch before sent is deleted.
 * Handlers and Kafka aside.
 *
 * bench_rows FILE|postgresql://… EVENTS BATCH [BEFORE,…]: for each BEFORE (0 where none is given) fills the
 * tables until so many events were handled, in large batches that are not counted, prints "at" and how many
 * that are, and then of EVENTS more the events/s and the CPU µs an event. bench/tables.py runs it, beside the
 * floor where it begins at 0.
 */
#include "store/inbox.h"
#include "store/inventory_work.h"
#include "store/outbox.h"

#include <stdlib.h>

enum { BATCH_BEFORE = 5000 }; /* of what only fills the tables */

static const struct rows_column STOCK_COLUMNS[] = {
    ROWS_COLUMN(stock, sku, ROWS_TEXT),
    ROWS_COLUMN(stock, available, ROWS_INT),
    ROWS_COLUMN(stock, reserved, ROWS_INT),
    ROWS_COLUMN(stock, updated_at, ROWS_INT),
};
static const struct rows_table STOCK = {
    .name = "stock",
    .columns = STOCK_COLUMNS,
    .column_count = 4,
    .key_count = 1,
    .row_bytes = sizeof(struct stock),
    .check = "available >= 0",
};

struct reservation {
    struct text order_id;
    struct text sku;
    int64_t quantity;
    int64_t state;
    int64_t expires_at;
};
static const struct rows_column RESERVATION_COLUMNS[] = {
    ROWS_COLUMN(reservation, order_id, ROWS_TEXT),  ROWS_COLUMN(reservation, sku, ROWS_TEXT),
    ROWS_COLUMN(reservation, quantity, ROWS_INT),   ROWS_COLUMN(reservation, state, ROWS_INT),
    ROWS_COLUMN(reservation, expires_at, ROWS_INT),
};
static const struct rows_table RESERVATIONS = {
    .name = "reservations",
    .columns = RESERVATION_COLUMNS,
    .column_count = 5,
    .key_count = 1,
    .row_bytes = sizeof(struct reservation),
};
static const struct rows_table *const TABLES[] = {&STOCK, &RESERVATIONS};

static struct error error;

static void must(enum outcome outcome)
{
    if (outcome != OK) {
        fprintf(stderr, "bench_rows: %s\n", error.text);
        exit(70);
    }
}

static void handle(struct work *work, const struct arrival *event)
{
    struct stock *stock = rows_get(work, &STOCK, &(struct stock){.sku = sku_name(event->sku)});
    if (!stock)
        return;
    stock->available--;
    stock->reserved++;
    stock->updated_at = event->at_us;
    struct text order_id = {event->order_id, ID_TEXT_BYTES};
    rows_add(work, &RESERVATIONS,
             &(struct reservation){order_id, sku_name(event->sku), 1, 1, event->at_us + 900000000});
    outbox_add(work, &(struct outbox_row){
                         .topic = TEXT("inventory"),
                         .partition = -1,
                         .key = order_id,
                         .value = {event->value, VALUE_BYTES},
                         .headers = event->headers,
                         .header_count = HEADERS,
                         .created_us = event->at_us,
                     });
}

struct bench {
    struct work *work;
    struct arrival *list;
    struct inbox_note *notes;
    int64_t *sent; /* of the batch before */
    size_t sent_count, done;
};

static void one_batch(struct bench *bench, size_t count)
{
    struct work *work = bench->work;
    for (size_t i = 0; i < count; i++)
        arrival_make(&bench->list[i], bench->done + i);
    must(work_begin(work, &error));
    for (size_t i = 0; i < count; i++) {
        bench->notes[i] = (struct inbox_note){.id = bench->list[i].id, .attempt = 1};
        rows_want(work, &STOCK, &(struct stock){.sku = sku_name(bench->list[i].sku)});
    }
    inbox_note(work, bench->notes, count);
    must(work_read(work, &error));
    for (size_t i = 0; i < count; i++) {
        if (bench->notes[i].seen)
            abort();
        work_item_begin(work);
        handle(work, &bench->list[i]);
    }
    outbox_done(work, bench->sent, bench->sent_count);
    must(work_commit(work, &error));
    const struct outbox_row *rows;
    bench->sent_count = outbox_added(work, &rows);
    for (size_t i = 0; i < bench->sent_count; i++)
        bench->sent[i] = rows[i].seq;
    bench->done += count;
}

static void batches(struct bench *bench, size_t until, size_t batch)
{
    while (bench->done < until)
        one_batch(bench, until - bench->done < batch ? until - bench->done : batch);
}

int main(int argc, char **argv)
{
    if (argc != 4 && argc != 5)
        return 64;
    char url[4096];
    snprintf(url, sizeof(url), "%s%s", strstr(argv[1], "://") ? "" : "sqlite:", argv[1]);
    size_t events = strtoul(argv[2], NULL, 10), batch = strtoul(argv[3], NULL, 10);
    size_t room = batch > BATCH_BEFORE ? batch : BATCH_BEFORE;
    struct store *store;
    struct bench bench = {
        .list = malloc(room * sizeof(*bench.list)),
        .notes = malloc(room * sizeof(*bench.notes)),
        .sent = malloc(room * sizeof(*bench.sent)),
    };
    if (!bench.list || !bench.notes || !bench.sent)
        return 70;
    must(store_open(url, "bench", &store, &error));
    must(store_migrate(store, TABLES, 2, NULL, 0, &error));
    must(work_new(store, 64 << 20, &bench.work, &error));
    must(work_begin(bench.work, &error));
    for (size_t i = 0; i < SKUS; i++)
        rows_add(bench.work, &STOCK, &(struct stock){.sku = sku_name(i), .available = STOCK_AT_FIRST});
    must(work_commit(bench.work, &error));

    for (char *mark = argc == 5 ? argv[4] : "0"; mark;
         mark = strchr(mark, ',') ? strchr(mark, ',') + 1 : NULL) {
        batches(&bench, strtoul(mark, NULL, 10), BATCH_BEFORE);
        printf("at %zu\n", bench.done);
        fflush(stdout);
        struct timing timing = timing_begin();
        batches(&bench, bench.done + events, batch);
        timing_print("store", batch, events, timing);
        fflush(stdout);
    }
    free(bench.list);
    free(bench.notes);
    free(bench.sent);
    work_destroy(bench.work);
    store_close(store);
    return 0;
}
