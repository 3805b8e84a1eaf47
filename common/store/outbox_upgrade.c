/* outbox_upgrade: the outbox of the versions before packs, where each row was an event. */
#include "store/backend.h"
#include "store/pack.h"

#include <stdio.h>
#include <stdlib.h>

enum { UPGRADE_ROWS = 200 };

struct upgrade {
    struct arena *arena;
    struct upgrade_row {
        struct outbox_row row;
        struct text headers; /* encoded */
    } rows[UPGRADE_ROWS];
    size_t count;
    bool there, parts, failed;
};

static bool upgrade_column(void *owner, const struct store_row *row)
{
    struct upgrade *upgrade = owner;
    upgrade->there = true;
    upgrade->parts = upgrade->parts || text_is(store_row_text(row, 0), "part");
    return true;
}

static bool upgrade_take(void *owner, const struct store_row *row)
{
    struct upgrade *upgrade = owner;
    struct upgrade_row *place = &upgrade->rows[upgrade->count];
    *place = (struct upgrade_row){
        .row = {.seq = store_row_int(row, 0),
                .partition = (int32_t)store_row_int(row, 1),
                .created_us = store_row_int(row, 2),
                .key_null = store_row_int(row, 3) != 0,
                .value_null = store_row_int(row, 4) != 0,
                .part = (int32_t)store_row_int(row, 5),
                .elsewhere = store_row_int(row, 6) != 0,
                .topic = text_copy(upgrade->arena, store_row_text(row, 7)),
                .key = text_copy(upgrade->arena, store_row_text(row, 8)),
                .value = text_copy(upgrade->arena, store_row_text(row, 9))},
        .headers = text_copy(upgrade->arena, store_row_text(row, 10)),
    };
    upgrade->failed =
        !place->row.topic.at || !place->row.key.at || !place->row.value.at || !place->headers.at;
    upgrade->count += !upgrade->failed;
    return !upgrade->failed && upgrade->count < UPGRADE_ROWS;
}

/* As packs of one, with the rows' own numbers: those of packs go on from there. */
static enum outcome upgrade_write(struct backend *backend, const struct upgrade *upgrade, struct error *error)
{
    enum outcome outcome = OK;
    for (size_t i = 0; i < upgrade->count && outcome == OK; i++) {
        const struct outbox_row *row = &upgrade->rows[i].row;
        struct text body;
        if (!pack_encode(upgrade->arena, row, &upgrade->rows[i].headers, 1, &body))
            return error_retry(error, "memory", "out of memory");
        const struct store_value values[] = {STORE_INT(row->seq), STORE_INT(row->part),
                                             STORE_INT(row->elsewhere), STORE_INT(row->created_us),
                                             STORE_BYTES(body)};
        outcome = backend->ops->query(backend,
                                      "INSERT INTO outbox_pack (seq, part, elsewhere, created_us, events, "
                                      "body) VALUES ($1, $2, $3 <> 0, "
                                      "$4, 1, $5)",
                                      values, 5, NULL, NULL, error);
    }
    return outcome;
}

static enum outcome upgrade_rows(struct backend *backend, struct upgrade *upgrade, struct error *error)
{
    static const char columns[] =
        "SELECT seq, partition, created_us, CASE WHEN key IS NULL THEN 1 ELSE 0 END, "
        "CASE WHEN value IS NULL THEN 1 ELSE 0 END, %s, topic, key, value, headers FROM outbox "
        "WHERE seq > $1 ORDER BY seq LIMIT %d";
    char sql[400];
    int64_t after_seq = 0;
    enum outcome outcome;
    snprintf(sql, sizeof(sql), columns,
             upgrade->parts ? "part, CASE WHEN elsewhere THEN 1 ELSE 0 END" : "0, 0", UPGRADE_ROWS);
    do {
        upgrade->count = 0;
        arena_reset(upgrade->arena);
        outcome = backend->ops->query(backend, sql, &STORE_INT(after_seq), 1, upgrade_take, upgrade, error);
        if (outcome == OK && upgrade->failed)
            outcome = error_retry(error, "memory", "out of memory");
        if (outcome == OK)
            outcome = upgrade_write(backend, upgrade, error);
        if (outcome == OK && upgrade->count)
            after_seq = upgrade->rows[upgrade->count - 1].row.seq;
    } while (outcome == OK && upgrade->count);
    return outcome == OK ? backend->ops->script(backend, "DROP TABLE outbox", error) : outcome;
}

enum outcome outbox_upgrade(struct backend *backend, struct error *error)
{
    enum { UPGRADE_BYTES_MAX = 1 << 30 };
    const struct store_value table = STORE_TEXT(TEXT("outbox"));
    struct upgrade *upgrade = calloc(1, sizeof(*upgrade));
    if (!upgrade)
        return error_retry(error, "memory", "out of memory");
    enum outcome outcome =
        backend->ops->query(backend, backend->ops->columns_sql, &table, 1, upgrade_column, upgrade, error);
    if (outcome == OK && upgrade->there) {
        upgrade->arena = arena_new(UPGRADE_BYTES_MAX);
        if (upgrade->arena)
            outcome = upgrade_rows(backend, upgrade, error);
        else
            outcome = error_retry(error, "memory", "out of memory");
    }
    arena_destroy(upgrade->arena);
    free(upgrade);
    return outcome;
}
