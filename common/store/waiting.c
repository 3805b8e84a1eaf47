#include "store/waiting.h"

#include "store/header_blob.h"
#include "store/work.h"

#include <assert.h>
#include <string.h>

static const struct rows_column held_columns[] = {
    ROWS_COLUMN(held_key, topic, ROWS_TEXT),   ROWS_COLUMN(held_key, key, ROWS_BYTES),
    ROWS_COLUMN(held_key, state, ROWS_INT),    ROWS_COLUMN(held_key, head, ROWS_ID),
    ROWS_COLUMN(held_key, attempts, ROWS_INT), ROWS_COLUMN(held_key, waiting, ROWS_INT),
    ROWS_COLUMN(held_key, next_seq, ROWS_INT), ROWS_COLUMN(held_key, since_us, ROWS_INT),
    ROWS_COLUMN(held_key, due_us, ROWS_INT),   ROWS_COLUMN(held_key, reason, ROWS_TEXT),
};
const struct rows_table held_table = {
    .name = "held",
    .columns = held_columns,
    .column_count = sizeof(held_columns) / sizeof(held_columns[0]),
    .key_count = 2,
    .row_bytes = sizeof(struct held_key),
    .indexes = {"state, since_us"},
    .check = "state BETWEEN 1 AND 3 AND waiting >= 0",
};

static const struct rows_column waiting_columns[] = {
    ROWS_COLUMN(waiting_record, topic, ROWS_TEXT),     ROWS_COLUMN(waiting_record, key, ROWS_BYTES),
    ROWS_COLUMN(waiting_record, seq, ROWS_INT),        ROWS_COLUMN(waiting_record, partition, ROWS_INT),
    ROWS_COLUMN(waiting_record, offset, ROWS_INT),     ROWS_COLUMN(waiting_record, timestamp_ms, ROWS_INT),
    ROWS_COLUMN(waiting_record, value_null, ROWS_INT), ROWS_COLUMN(waiting_record, value, ROWS_BYTES),
    ROWS_COLUMN(waiting_record, headers, ROWS_BYTES),  ROWS_COLUMN(waiting_record, since_us, ROWS_INT),
};
const struct rows_table waiting_table = {
    .name = "waiting",
    .columns = waiting_columns,
    .column_count = sizeof(waiting_columns) / sizeof(waiting_columns[0]),
    .key_count = 3,
    .row_bytes = sizeof(struct waiting_record),
};

/* ---- what is known without asking ---- */

static uint16_t slot_of(struct text topic, struct text key)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < topic.length; i++)
        hash = (hash ^ (unsigned char)topic.at[i]) * 16777619u;
    for (size_t i = 0; i < key.length; i++)
        hash = (hash ^ (unsigned char)key.at[i]) * 16777619u;
    return (uint16_t)(hash ^ hash >> 16);
}

static void slot_up(struct waiting_room *room, uint16_t slot)
{
    if (room->slots[slot] < UINT8_MAX)
        room->slots[slot]++;
}

static void slot_down(struct waiting_room *room, uint16_t slot)
{
    if (room->slots[slot] < UINT8_MAX)
        room->slots[slot]--;
}

static void pend(struct waiting_room *room, struct text topic, struct text key, bool up)
{
    uint16_t slot = slot_of(topic, key);
    if (up)
        slot_up(room, slot);
    if (room->pending_count < WAITING_PENDING_MAX)
        room->pending[room->pending_count++] = (struct waiting_pending){slot, up};
}

/* What was counted up for a key that is not held after all. */
static void pending_undo(struct waiting_room *room, size_t from)
{
    while (room->pending_count > from) {
        const struct waiting_pending *pending = &room->pending[--room->pending_count];
        if (pending->up)
            slot_down(room, pending->slot);
    }
}

void waiting_load(struct waiting_room *room, struct work *work, int64_t records_max)
{
    struct store_value draining = STORE_INT(HELD_DRAINING);
    void **rows;
    memset(room, 0, sizeof(*room));
    room->records_max = records_max;
    room->shared = rows_shared(work);
    room->keys = rows_count(work, &held_table, NULL, NULL, 0);
    room->records = rows_count(work, &waiting_table, NULL, NULL, 0);
    room->draining = rows_count(work, &held_table, "state = $1", &draining, 1);
    if (room->shared)
        return;
    if (room->keys > WAITING_LOADED_MAX) {
        memset(room->slots, UINT8_MAX, sizeof(room->slots));
        return;
    }
    size_t count = rows_find(work, &held_table, "state >= 0 ORDER BY state, since_us", NULL, 0,
                             room->keys ? (size_t)room->keys : 1, &rows);
    for (size_t i = 0; i < count; i++) {
        const struct held_key *held = rows[i];
        slot_up(room, slot_of(held->topic, held->key));
    }
}

static bool keep_counts(void *owner, const struct store_row *row)
{
    struct waiting_room *room = owner;
    room->keys = store_row_int(row, 0);
    room->records = store_row_int(row, 1);
    room->draining = store_row_int(row, 2);
    return false;
}

enum outcome waiting_count(struct waiting_room *room, struct store *store, struct error *error)
{
    const struct store_value draining = STORE_INT(HELD_DRAINING);
    if (!room->shared)
        return OK;
    return store->backend->ops->query(
        store->backend,
        "SELECT count(*), coalesce(sum(waiting), 0)::bigint, count(*) FILTER (WHERE state = $1) "
        "FROM held",
        &draining, 1, keep_counts, room, error);
}

void waiting_ask(struct waiting_room *room, struct work *work)
{
    if (!room->shared)
        return;
    room->asking = true;
    rows_ask(work, &held_table);
}

bool waiting_answered(struct waiting_room *room, struct work *work)
{
    if (!room->asking)
        return false;
    room->asking = false;
    room->none = !rows_any(work);
    return !room->none;
}

void waiting_item_begin(struct waiting_room *room)
{
    room->item = room->work;
    room->item_pending = room->pending_count;
}

void waiting_item_undo(struct waiting_room *room)
{
    room->work = room->item;
    pending_undo(room, room->item_pending);
}

/* Another may have counted a key as gone before. */
static int64_t added_up(int64_t count, int64_t delta)
{
    return count + delta > 0 ? count + delta : 0;
}

void waiting_committed(struct waiting_room *room)
{
    room->keys = added_up(room->keys, room->work.keys);
    room->records = added_up(room->records, room->work.records);
    room->draining = added_up(room->draining, room->work.draining);
    room->work = (struct waiting_delta){0};
    for (size_t i = 0; i < room->pending_count; i++)
        if (room->pending[i].up == room->shared) /* shared: it stands for this unit of work only */
            slot_down(room, room->pending[i].slot);
    room->pending_count = 0;
    room->asking = room->none = false;
}

void waiting_rolled_back(struct waiting_room *room)
{
    room->work = (struct waiting_delta){0};
    room->asking = room->none = false;
    pending_undo(room, 0);
}

/* ---- keys ---- */

/* Not held, and not by an earlier item of this work: nothing to ask the table for. */
static bool surely_not(const struct waiting_room *room, struct text topic, struct text key)
{
    return room->slots[slot_of(topic, key)] == 0 && (!room->shared || room->none);
}

void waiting_want(const struct waiting_room *room, struct work *work, struct text topic, struct text key)
{
    const struct held_key held = {.topic = topic, .key = key};
    if (!room->asking && !surely_not(room, topic, key))
        rows_want(work, &held_table, &held);
}

struct held_key *waiting_held(const struct waiting_room *room, struct work *work, struct text topic,
                              struct text key)
{
    const struct held_key held = {.topic = topic, .key = key};
    return surely_not(room, topic, key) ? NULL : rows_get(work, &held_table, &held);
}

static void state_set(struct waiting_room *room, struct held_key *held, enum held_state state)
{
    room->work.draining += (state == HELD_DRAINING) - (held->state == HELD_DRAINING);
    held->state = state;
}

void waiting_hold(struct waiting_room *room, struct work *work, struct held_key *held, struct text topic,
                  struct text key, struct id head, enum held_state state, int64_t attempts, int64_t due_us,
                  struct text reason, int64_t now_us)
{
    struct arena *arena = work->arena;
    assert(state != HELD_DRAINING);
    if (!held) {
        const struct held_key row = {
            .topic = topic,
            .key = key,
            .state = state,
            .head = head,
            .attempts = attempts,
            .since_us = now_us,
            .due_us = due_us,
            .reason = reason,
        };
        /* Looked for once more, where it was taken for granted that there is none. */
        if (room->shared && rows_get(work, &held_table, &row)) {
            struct error error;
            error_set(&error, RETRY, "store-race", "another instance holds this key since a moment ago");
            work_fail(work, &error);
            return;
        }
        rows_add(work, &held_table, &row);
        pend(room, topic, key, true);
        room->work.keys++;
        return;
    }
    state_set(room, held, state);
    held->head = head;
    held->attempts = attempts;
    held->due_us = due_us;
    held->reason = text_copy(arena, reason);
}

static void let_go(struct waiting_room *room, struct work *work, struct held_key *held)
{
    state_set(room, held, HELD_RETRYING); /* for the count of those that drain */
    pend(room, held->topic, held->key, false);
    rows_delete(work, &held_table, held);
    room->work.keys--;
}

void waiting_release(struct waiting_room *room, struct work *work, struct held_key *held)
{
    if (held->waiting > 0)
        state_set(room, held, HELD_DRAINING);
    else
        let_go(room, work, held);
}

/* ---- records behind a head ---- */

bool waiting_add(struct waiting_room *room, struct work *work, struct held_key *held,
                 const struct waiting_record *record, const struct header *headers, size_t header_count)
{
    struct waiting_record row = *record;
    if (room->records + room->work.records >= room->records_max)
        return false;
    if (!header_blob_encode(work->arena, headers, header_count, &row.headers)) {
        work_fail_memory(work);
        return true; /* the work has failed: whatever is said does not stand */
    }
    row.seq = held->next_seq++;
    held->waiting++;
    rows_add(work, &waiting_table, &row);
    room->work.records++;
    return true;
}

void waiting_taken(struct waiting_room *room, struct work *work, struct held_key *held,
                   struct waiting_record *record)
{
    rows_delete(work, &waiting_table, record);
    room->work.records--;
    held->waiting--;
    if (held->waiting == 0 && held->state == HELD_DRAINING)
        let_go(room, work, held);
}

int64_t waiting_oldest_us(struct work *work)
{
    int64_t oldest_us = 0;
    for (int64_t state = HELD_RETRYING; state <= HELD_DRAINING;
         state++) { /* a step into the index for each */
        struct store_value value = STORE_INT(state);
        void **rows;
        if (rows_find_free(work, &held_table, "state = $1 ORDER BY state, since_us", &value, 1, 1, &rows) ==
            0)
            continue;
        int64_t since_us = ((const struct held_key *)rows[0])->since_us;
        if (oldest_us == 0 || since_us < oldest_us)
            oldest_us = since_us;
    }
    return oldest_us;
}

size_t waiting_draining(struct work *work, size_t limit, struct held_key ***ret)
{
    struct store_value draining = STORE_INT(HELD_DRAINING);
    void **rows;
    size_t count =
        rows_find_free(work, &held_table, "state = $1 ORDER BY state, since_us", &draining, 1, limit, &rows);
    *ret = (struct held_key **)rows;
    return count;
}

size_t waiting_next(struct work *work, struct text topic, struct text key, size_t limit,
                    struct waiting_record ***ret)
{
    const struct store_value parameters[] = {STORE_TEXT(topic), STORE_BYTES(key)};
    void **rows;
    size_t count = rows_find(work, &waiting_table, "topic = $1 AND key = $2 ORDER BY topic, key, seq",
                             parameters, 2, limit, &rows);
    *ret = (struct waiting_record **)rows;
    return count;
}
