/*
 * The inventory work through the store: for each event an inbox note, one stock row of 200 changed, one
 * reservation added, one outbox row with 150 bytes and 8 headers; what the batch before sent is deleted.
 * Handlers and Kafka aside.
 *
 * bench_rows FILE|postgresql://… EVENTS BATCH [BEFORE] prints events/s and CPU µs an event; BEFORE: so many
 * events are in the tables already, handled in large batches that are not counted. bench/tables.py runs it
 * beside the floor.
 */
#include "store/inbox.h"
#include "store/inventory_work.h"
#include "store/outbox.h"

#include <stdlib.h>

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

int main(int argc, char **argv)
{
    if (argc != 4 && argc != 5)
        return 64;
    char url[4096];
    snprintf(url, sizeof(url), "%s%s", strstr(argv[1], "://") ? "" : "sqlite:", argv[1]);
    size_t events = strtoul(argv[2], NULL, 10), batch = strtoul(argv[3], NULL, 10);
    size_t before = argc == 5 ? strtoul(argv[4], NULL, 10) : 0;
    struct store *store;
    struct work *work;
    must(store_open(url, "bench", &store, &error));
    must(store_migrate(store, TABLES, 2, NULL, 0, &error));
    must(work_new(store, 64 << 20, &work, &error));
    must(work_begin(work, &error));
    for (size_t i = 0; i < SKUS; i++)
        rows_add(work, &STOCK, &(struct stock){.sku = sku_name(i), .available = STOCK_AT_FIRST});
    must(work_commit(work, &error));

    size_t room = batch > BATCH_BEFORE ? batch : BATCH_BEFORE;
    struct arrival *list = malloc(room * sizeof(*list));
    struct inbox_note *notes = malloc(room * sizeof(*notes));
    int64_t *sent = malloc(room * sizeof(*sent));
    size_t sent_count = 0;
    struct timing timing = timing_begin();
    for (size_t at = 0, count; at < before + events; at += count) {
        if (at == before)
            timing = timing_begin();
        count = batch_count(at, before, events, batch);
        for (size_t i = 0; i < count; i++)
            arrival_make(&list[i], at + i);
        must(work_begin(work, &error));
        for (size_t i = 0; i < count; i++) {
            notes[i] = (struct inbox_note){.id = list[i].id, .attempt = 1};
            rows_want(work, &STOCK, &(struct stock){.sku = sku_name(list[i].sku)});
        }
        inbox_note(work, notes, count);
        must(work_read(work, &error));
        for (size_t i = 0; i < count; i++) {
            if (notes[i].seen)
                abort();
            work_item_begin(work);
            handle(work, &list[i]);
        }
        outbox_done(work, sent, sent_count);
        must(work_commit(work, &error));
        const struct outbox_row *rows;
        sent_count = outbox_added(work, &rows);
        for (size_t i = 0; i < sent_count; i++)
            sent[i] = rows[i].seq;
    }
    timing_print("store", batch, events, timing);
    free(list);
    free(notes);
    free(sent);
    work_destroy(work);
    store_close(store);
    return 0;
}
