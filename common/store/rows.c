#include "store/work.h"

#include "base/clock.h"

#include <assert.h>
#include <stdlib.h>

enum { MAP_SLOTS_MIN = 64, LIST_CAPACITY_MIN = 64 };

/* ---- failure ---- */

void work_fail(struct work *work, const struct error *error)
{
    if (work->failure.outcome == OK)
        work->failure = *error;
}

void work_fail_memory(struct work *work)
{
    struct error error;
    error_set(&error, RETRY, "memory", "out of memory for this batch (%zu bytes of rows taken)",
              arena_used_bytes(work->arena));
    work_fail(work, &error);
}

enum outcome work_failed(const struct work *work, struct error *error)
{
    if (work->failure.outcome != OK && error)
        *error = work->failure;
    return work->failure.outcome;
}

static bool failed(const struct work *work)
{
    return work->failure.outcome != OK;
}

void *work_list_add(struct work *work, struct work_list *list, size_t item_bytes)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : LIST_CAPACITY_MIN;
        void *at = capacity > WORK_LIST_COUNT_MAX ? NULL : realloc(list->at, capacity * item_bytes);
        if (!at) {
            work_fail_memory(work);
            return NULL;
        }
        list->at = at;
        list->capacity = capacity;
    }
    return (char *)list->at + item_bytes * list->count++;
}

/* ---- keys ---- */

static inline int64_t int_at(const void *row, const struct rows_column *column)
{
    int64_t value;
    memcpy(&value, (const char *)row + column->offset, sizeof(value));
    return value;
}

static inline struct text *text_at(const void *row, const struct rows_column *column)
{
    return (struct text *)(void *)((char *)(uintptr_t)row + column->offset);
}

static inline bool is_text(const struct rows_column *column)
{
    return column->type == ROWS_TEXT || column->type == ROWS_BYTES;
}

static inline uint64_t mix(uint64_t hash, uint64_t value)
{
    hash = (hash ^ value) * UINT64_C(0x9fb21c651e98df25);
    return hash ^ (hash >> 32);
}

static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t length)
{
    const unsigned char *at = bytes;
    hash = mix(hash, length);
    uint64_t word;
    for (; length >= sizeof(word); at += sizeof(word), length -= sizeof(word)) {
        memcpy(&word, at, sizeof(word));
        hash = mix(hash, word);
    }
    if (length) {
        word = 0;
        memcpy(&word, at, length);
        hash = mix(hash, word);
    }
    return hash;
}

static uint64_t key_hash(const struct rows_table *table, const void *key)
{
    uint64_t hash = UINT64_C(0x2545f4914f6cdd1d);
    for (size_t i = 0; i < table->key_count; i++) {
        const struct rows_column *column = &table->columns[i];
        if (is_text(column))
            hash = hash_bytes(hash, text_at(key, column)->at, text_at(key, column)->length);
        else if (column->type == ROWS_ID)
            hash = hash_bytes(hash, (const char *)key + column->offset, sizeof(struct id));
        else
            hash = mix(hash, (uint64_t)int_at(key, column));
    }
    return mix(hash, 0);
}

static bool columns_equal(const struct rows_table *table, size_t from, size_t to, const void *a,
                          const void *b)
{
    for (size_t i = from; i < to; i++) {
        const struct rows_column *column = &table->columns[i];
        switch (column->type) {
        case ROWS_INT:
            if (int_at(a, column) != int_at(b, column))
                return false;
            break;
        case ROWS_TEXT:
        case ROWS_BYTES: {
            struct text x = *text_at(a, column), y = *text_at(b, column);
            if (x.length != y.length || (x.at != y.at && !text_equal(x, y)))
                return false;
            break;
        }
        case ROWS_ID:
            if (memcmp((const char *)a + column->offset, (const char *)b + column->offset,
                       sizeof(struct id)) != 0)
                return false;
            break;
        }
    }
    return true;
}

/* Copies columns [0, count) with their text. */
static bool columns_copy(struct arena *arena, const struct rows_table *table, size_t count, void *to,
                         const void *from)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        if (is_text(&table->columns[i]))
            bytes += text_at(from, &table->columns[i])->length;
    char *at = bytes ? arena_take(arena, bytes) : NULL;
    if (bytes && !at)
        return false;
    for (size_t i = 0; i < count; i++) {
        const struct rows_column *column = &table->columns[i];
        if (is_text(column)) {
            struct text text = *text_at(from, column);
            if (text.length)
                memcpy(at, text.at, text.length);
            *text_at(to, column) = (struct text){text.length ? at : NULL, text.length};
            at = text.length ? at + text.length : at;
        } else {
            memcpy((char *)to + column->offset, (const char *)from + column->offset,
                   column->type == ROWS_ID ? sizeof(struct id) : sizeof(int64_t));
        }
    }
    return true;
}

/* ---- the identity map of a table ---- */

static struct work_map *map_of(struct work *work, const struct rows_table *table)
{
    for (size_t i = 0; i < work->map_count; i++)
        if (work->maps[i].table == table)
            return &work->maps[i];
    assert(work->map_count < ROWS_TABLES_MAX);
    assert(table->row_bytes <= WORK_ROW_BYTES_MAX && table->column_count <= ROWS_COLUMNS_MAX);
    assert(table->key_count >= 1 && table->key_count <= ROWS_KEY_COLUMNS_MAX &&
           table->key_count <= table->column_count);
    struct work_slot *slots = calloc(MAP_SLOTS_MIN, sizeof(*slots));
    if (!slots) {
        work_fail_memory(work);
        return NULL;
    }
    struct work_map *map = &work->maps[work->map_count++];
    *map = (struct work_map){.table = table, .slots = slots, .slot_mask = MAP_SLOTS_MIN - 1, .generation = 1};
    return map;
}

static struct rows_entry **map_entries(const struct work_map *map)
{
    return map->entries.at;
}

static struct rows_entry *map_find(const struct work_map *map, uint64_t hash, const void *key)
{
    for (size_t i = hash & map->slot_mask; map->slots[i].generation == map->generation;
         i = (i + 1) & map->slot_mask) {
        const struct work_slot *slot = &map->slots[i];
        if (slot->hash == (uint32_t)(hash >> 32) && slot->entry->hash == hash &&
            columns_equal(map->table, 0, map->table->key_count, slot->entry->row, key))
            return slot->entry;
    }
    return NULL;
}

static void map_put(struct work_map *map, struct rows_entry *entry)
{
    size_t i = entry->hash & map->slot_mask;
    while (map->slots[i].generation == map->generation)
        i = (i + 1) & map->slot_mask;
    map->slots[i] = (struct work_slot){map->generation, (uint32_t)(entry->hash >> 32), entry};
}

/* A new entry with its key, neither known nor present. */
static struct rows_entry *map_add(struct work *work, struct work_map *map, uint64_t hash, const void *key)
{
    const struct rows_table *table = map->table;
    if ((map->entries.count + 1) * 2 > map->slot_mask + 1) {
        size_t count = (map->slot_mask + 1) * 2;
        struct work_slot *slots = calloc(count, sizeof(*slots));
        if (!slots) {
            work_fail_memory(work);
            return NULL;
        }
        free(map->slots);
        map->slots = slots;
        map->slot_mask = count - 1;
        map->generation = 1;
        for (size_t i = 0; i < map->entries.count; i++)
            map_put(map, map_entries(map)[i]);
    }
    struct rows_entry *entry = arena_take(work->arena, sizeof(*entry) + table->row_bytes);
    if (entry) {
        *entry = (struct rows_entry){.table = table, .hash = hash};
        memset(entry->row, 0, table->row_bytes);
    }
    if (!entry || !columns_copy(work->arena, table, table->key_count, entry->row, key)) {
        work_fail_memory(work);
        return NULL;
    }
    struct rows_entry **place = work_list_add(work, &map->entries, sizeof(*place));
    if (!place)
        return NULL;
    *place = entry;
    map_put(map, entry);
    return entry;
}

static void map_clear(struct work_map *map)
{
    map->entries.count = 0;
    map->unread = 0;
    map->deleted = 0;
    if (++map->generation == 0) {
        memset(map->slots, 0, (map->slot_mask + 1) * sizeof(*map->slots));
        map->generation = 1;
    }
}

/* What the database has is in entry->row. */
static bool entry_loaded(struct work *work, struct rows_entry *entry)
{
    entry->known = true;
    entry->base = arena_copy(work->arena, entry->row, entry->table->row_bytes);
    if (!entry->base) {
        work_fail_memory(work);
        return false;
    }
    entry->present = true;
    return true;
}

/* Before a row is given out or changed in an item: as it is, into the journal, once. */
static bool entry_touch(struct work *work, struct rows_entry *entry)
{
    if (entry->item == work->item)
        return true;
    size_t bytes = entry->present ? entry->table->row_bytes : 0;
    struct work_list *list = &work->saved_bytes;
    if (list->capacity - list->count < bytes) {
        size_t capacity = (list->capacity + bytes) * 2;
        void *at = realloc(list->at, capacity);
        if (!at) {
            work_fail_memory(work);
            return false;
        }
        list->at = at;
        list->capacity = capacity;
    }
    struct work_saved *saved = work_list_add(work, &work->saved, sizeof(*saved));
    if (!saved)
        return false;
    *saved = (struct work_saved){entry, list->count, entry->present};
    if (bytes)
        memcpy((char *)list->at + list->count, entry->row, bytes);
    list->count += bytes;
    entry->item = work->item;
    return true;
}

/* Reads one that was not named in time. */
static bool entry_read(struct work *work, struct rows_entry *entry)
{
    bool found = false;
    struct backend_wanted wanted = {entry->table, &entry, &found, 1};
    struct backend_fetch fetch = {.arena = work->arena, .wanted = &wanted, .wanted_count = 1};
    struct error error;
    struct backend *backend = work->store->backend;
    if (backend->ops->fetch(backend, &fetch, &error) != OK) {
        work_fail(work, &error);
        return false;
    }
    entry->known = true;
    return !found || entry_loaded(work, entry);
}

/* ---- the unit of work ---- */

enum outcome work_new(struct store *store, size_t bytes_max, struct work **ret, struct error *error)
{
    struct work *work = calloc(1, sizeof(*work));
    if (!work)
        return error_retry(error, "memory", "out of memory");
    work->store = store;
    work->arena = arena_new(bytes_max);
    work->nowhere = calloc(1, sizeof(struct rows_entry) + WORK_ROW_BYTES_MAX);
    if (!work->arena || !work->nowhere) {
        work_destroy(work);
        return error_retry(error, "memory", "out of memory");
    }
    *ret = work;
    return OK;
}

void work_destroy(struct work *work)
{
    if (!work)
        return;
    if (work->open)
        work_rollback(work);
    for (size_t i = 0; i < work->map_count; i++) {
        free(work->maps[i].slots);
        free(work->maps[i].entries.at);
    }
    struct work_list *lists[] = {&work->after,       &work->saved, &work->saved_bytes,
                                 &work->saved_notes, &work->notes, &work->note_ranges,
                                 &work->added,       &work->done,  &work->refused};
    for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++)
        free(lists[i]->at);
    free(work->nowhere);
    arena_destroy(work->arena);
    free(work);
}

struct arena *work_arena(struct work *work)
{
    return work->arena;
}

void work_set_owner(struct work *work, void *owner)
{
    work->owner = owner;
}

void *work_owner(const struct work *work)
{
    return work->owner;
}

enum outcome work_begin(struct work *work, struct error *error)
{
    assert(!work->open);
    for (size_t i = 0; i < work->map_count; i++)
        map_clear(&work->maps[i]);
    work->saved.count = work->saved_bytes.count = work->saved_notes.count = 0;
    work->notes.count = work->note_ranges.count = 0;
    work->added.count = work->done.count = work->refused.count = 0;
    work->item_added = work->item_done = work->item_refused = work->item_after = 0;
    work->after.count = 0;
    work->item = 0;
    work->read = false;
    work->pruned = false;
    work->failure.outcome = OK;
    work->elsewhere_limit = work->elsewhere_count = 0;
    work->elsewhere_read = work->elsewhere_more = false;
    work->elsewhere = NULL;
    work->asked = NULL;
    work->any = false;
    work->newcomers = false;
    arena_reset(work->arena);
    work->begun_us = clock_wall_us();
    struct backend *backend = work->store->backend;
    enum outcome outcome = backend->ops->begin(backend, error);
    work->open = outcome == OK;
    return outcome;
}

enum outcome work_read(struct work *work, struct error *error)
{
    assert(work->open);
    bool first = !work->read;
    work->read = true;
    struct backend_wanted wanted[ROWS_TABLES_MAX];
    size_t wanted_count = 0;
    for (size_t i = 0; i < work->map_count && !failed(work); i++) {
        struct work_map *map = &work->maps[i];
        size_t count_max = map->entries.count - map->unread;
        if (count_max == 0)
            continue;
        struct rows_entry **entries = arena_take(work->arena, count_max * sizeof(struct rows_entry *));
        bool *found = arena_take_zeroed(work->arena, count_max * sizeof(bool));
        if (!entries || !found) {
            work_fail_memory(work);
            break;
        }
        size_t count = 0;
        for (size_t at = map->unread; at < map->entries.count; at++)
            if (!map_entries(map)[at]->known && !map_entries(map)[at]->present)
                entries[count++] = map_entries(map)[at];
        map->unread = map->entries.count;
        if (count)
            wanted[wanted_count++] = (struct backend_wanted){map->table, entries, found, count};
    }
    if (failed(work))
        return work_failed(work, error);
    struct backend_fetch fetch = {
        .arena = work->arena,
        .notes = work->notes.at,
        .note_count = first ? work->notes.count : 0,
        .asked = first ? work->asked : NULL,
        .noted_us = work->begun_us,
        .wanted = wanted,
        .wanted_count = wanted_count,
    };
    struct backend *backend = work->store->backend;
    struct error cause;
    if ((wanted_count || fetch.note_count || fetch.asked) &&
        backend->ops->fetch(backend, &fetch, &cause) != OK)
        work_fail(work, &cause);
    work->any = work->any || fetch.any;
    for (size_t i = 0; i < wanted_count && !failed(work); i++)
        for (size_t at = 0; at < wanted[i].count; at++) {
            struct rows_entry *entry = wanted[i].entries[at];
            entry->known = true;
            if (wanted[i].found[at] && !entry_loaded(work, entry))
                break;
        }
    return work_failed(work, error);
}

void work_item_begin(struct work *work)
{
    work->item++;
    work->saved.count = work->saved_bytes.count = work->saved_notes.count = 0;
    work->item_added = work->added.count;
    work->item_after = work->after.count;
    work->item_done = work->done.count;
    work->item_refused = work->refused.count;
}

void work_item_undo(struct work *work)
{
    assert(work->item > 0);
    const struct work_saved *saved = work->saved.at;
    for (size_t i = 0; i < work->saved.count; i++) {
        struct rows_entry *entry = saved[i].entry;
        entry->present = saved[i].present;
        if (entry->present)
            memcpy(entry->row, (const char *)work->saved_bytes.at + saved[i].offset, entry->table->row_bytes);
        entry->item = 0;
    }
    const struct work_saved_note *notes = work->saved_notes.at;
    for (size_t i = work->saved_notes.count; i-- > 0;)
        notes[i].note->now = notes[i].now;
    work->added.count = work->item_added;
    work->after.count = work->item_after;
    work->done.count = work->item_done;
    work->refused.count = work->item_refused;
    /* What the handler does with the item from here on is journalled anew. */
    work->saved.count = work->saved_bytes.count = work->saved_notes.count = 0;
}

enum row_write { ROW_SAME, ROW_INSERT, ROW_UPDATE, ROW_DELETE };

static enum row_write entry_write(const struct rows_entry *entry)
{
    const struct rows_table *table = entry->table;
    if (!entry->present)
        return entry->base ? ROW_DELETE : ROW_SAME;
    if (!entry->base)
        return ROW_INSERT;
    if (memcmp(entry->base, entry->row, table->row_bytes) == 0)
        return ROW_SAME;
    assert(columns_equal(table, 0, table->key_count, entry->base, entry->row)); /* a key never changes */
    return columns_equal(table, table->key_count, table->column_count, entry->base, entry->row) ? ROW_SAME
                                                                                                : ROW_UPDATE;
}

bool work_changed(const struct work *work)
{
    if (work->added.count || work->done.count || work->refused.count || work->pruned || inbox_changed(work))
        return true;
    for (size_t i = 0; i < work->map_count; i++)
        for (size_t at = 0; at < work->maps[i].entries.count; at++)
            if (entry_write(map_entries(&work->maps[i])[at]) != ROW_SAME)
                return true;
    return false;
}

/* Sorts the entries of a map into what is to be done with them. */
static bool map_prepare(struct work *work, struct work_map *map, struct backend_table_writes *writes)
{
    size_t count = map->entries.count;
    /* Each list from an end of its own would do with one array, but three keep their order. */
    struct rows_entry **lists = arena_take(work->arena, 3 * count * sizeof(struct rows_entry *));
    if (!lists) {
        work_fail_memory(work);
        return false;
    }
    *writes = (struct backend_table_writes){
        .table = map->table, .deletes = lists, .updates = lists + count, .inserts = lists + 2 * count};
    for (size_t at = 0; at < count; at++) {
        struct rows_entry *entry = map_entries(map)[at];
        switch (entry_write(entry)) {
        case ROW_DELETE:
            writes->deletes[writes->delete_count++] = entry;
            break;
        case ROW_UPDATE:
            writes->updates[writes->update_count++] = entry;
            break;
        case ROW_INSERT:
            writes->inserts[writes->insert_count++] = entry;
            break;
        case ROW_SAME:
            break;
        }
    }
    return true;
}

void work_after_commit(struct work *work, void (*call)(void *what), void *what)
{
    struct work_after *after = work_list_add(work, &work->after, sizeof(*after));
    if (after)
        *after = (struct work_after){call, what};
}

static void call_after(struct work *work)
{
    const struct work_after *after = work->after.at;
    for (size_t i = 0; i < work->after.count; i++)
        after[i].call(after[i].what);
    work->after.count = 0;
}

enum outcome work_commit(struct work *work, struct error *error)
{
    assert(work->open);
    struct store *store = work->store;
    struct backend *backend = store->backend;
    struct backend_table_writes tables[ROWS_TABLES_MAX];
    struct backend_apply apply = {.tables = tables};
    for (size_t i = 0; i < work->map_count && !failed(work); i++) {
        if (work->maps[i].entries.count == 0)
            continue;
        struct backend_table_writes *writes = &tables[apply.table_count];
        if (map_prepare(work, &work->maps[i], writes) &&
            writes->delete_count + writes->update_count + writes->insert_count > 0)
            apply.table_count++;
    }
    bool ready = !failed(work) && inbox_prepare(work, &apply) && outbox_prepare(work, &apply);
    outbox_elsewhere_prepare(work, &apply);
    bool outbox = apply.pack_count || apply.done_count || apply.refused_count;
    bool inbox = inbox_changed(work);
    if (ready && (apply.table_count || inbox || outbox || work->pruned)) {
        struct error cause;
        if (backend->ops->apply(backend, &apply, &cause) == OK) {
            work->open = false;
            if (work->newcomers)
                newcomers_right(&store->newcomers);
        } else {
            work_fail(work, &cause);
            if (work->newcomers && store_raced(&cause))
                newcomers_wrong(&store->newcomers);
        }
    }
    if (work->open) { /* failed, or nothing to write */
        work_rollback(work);
        enum outcome outcome = work_failed(work, error);
        if (outcome == OK) {
            outbox_committed(work, &apply);
            call_after(work);
        }
        return outcome;
    }
    outbox_committed(work, &apply);
    call_after(work);
    return OK;
}

void work_rollback(struct work *work)
{
    struct backend *backend = work->store->backend;
    backend->ops->rollback(backend);
    work->open = false;
}

/* ---- rows ---- */

void rows_ask(struct work *work, const struct rows_table *table)
{
    assert(work->open && !work->read);
    work->asked = table;
}

bool rows_any(const struct work *work)
{
    return work->any;
}

bool rows_shared(const struct work *work)
{
    return work->store->backend->ops->shared;
}

void rows_want(struct work *work, const struct rows_table *table, const void *key)
{
    assert(work->open);
    struct work_map *map = failed(work) ? NULL : map_of(work, table);
    if (!map)
        return;
    uint64_t hash = key_hash(table, key);
    struct rows_entry *entry = map_find(map, hash, key);
    if (!entry)
        (void)map_add(work, map, hash, key);
    else if (!work->read && !entry->present) /* rows_want_new() guessed: who asks here may only look */
        entry->known = false;
}

void rows_want_new(struct work *work, const struct rows_table *table, const void *key)
{
    assert(work->open);
    struct store *store = work->store;
    if (!store->backend->ops->shared) { /* a look is cheap, and an insert that meets a row is no race */
        rows_want(work, table, key);
        return;
    }
    struct work_map *map = failed(work) ? NULL : map_of(work, table);
    if (!map)
        return;
    uint64_t hash = key_hash(table, key);
    if (map_find(map, hash, key))
        return;
    struct rows_entry *entry = map_add(work, map, hash, key);
    work->newcomers = true;
    if (entry)
        entry->known = newcomers_pass(&store->newcomers, mix(hash, (uintptr_t)table));
}

void *rows_get(struct work *work, const struct rows_table *table, const void *key)
{
    assert(work->open);
    struct work_map *map = failed(work) ? NULL : map_of(work, table);
    if (!map)
        return NULL;
    uint64_t hash = key_hash(table, key);
    struct rows_entry *entry = map_find(map, hash, key);
    if (!entry)
        entry = map_add(work, map, hash, key);
    if (!entry || (!entry->known && !entry->present && !entry_read(work, entry)))
        return NULL;
    if (!entry->present || !entry_touch(work, entry))
        return NULL;
    return entry->row;
}

void *rows_add(struct work *work, const struct rows_table *table, const void *row)
{
    assert(work->open);
    struct work_map *map = failed(work) ? NULL : map_of(work, table);
    if (!map)
        return work->nowhere->row;
    uint64_t hash = key_hash(table, row);
    struct rows_entry *entry = map_find(map, hash, row);
    if (!entry)
        entry = map_add(work, map, hash, row);
    else if (!entry->known && !entry->present && !entry_read(work, entry)) /* wanted, and not read yet */
        return work->nowhere->row;
    if (entry && entry->present) {
        struct error error;
        error_set(&error, REJECT, "row-exists", "%s: a row with this key is there already", table->name);
        work_fail(work, &error);
        return work->nowhere->row;
    }
    if (!entry || !entry_touch(work, entry))
        return work->nowhere->row;
    if (!columns_copy(work->arena, table, table->column_count, entry->row, row)) {
        work_fail_memory(work);
        return work->nowhere->row;
    }
    entry->present = true;
    return entry->row;
}

void rows_delete(struct work *work, const struct rows_table *table, void *row)
{
    assert(work->open);
    if (failed(work) || !row)
        return;
    struct rows_entry *entry = (struct rows_entry *)(void *)((char *)row - offsetof(struct rows_entry, row));
    assert(entry->table == table);
    if (!entry->present || !entry_touch(work, entry))
        return;
    entry->present = false;
    if (entry->base)
        map_of(work, table)->deleted++;
}

struct finding {
    struct work *work;
    struct work_map *map;
    void **rows;
    size_t count;
    size_t limit;
};

static bool found_row(void *owner, const void *row)
{
    struct finding *finding = owner;
    struct work *work = finding->work;
    struct work_map *map = finding->map;
    const struct rows_table *table = map->table;
    uint64_t hash = key_hash(table, row);
    struct rows_entry *entry = map_find(map, hash, row);
    if (!entry && !(entry = map_add(work, map, hash, row)))
        return false;
    if (!entry->known && !entry->present) {
        if (!columns_copy(work->arena, table, table->column_count, entry->row, row)) {
            work_fail_memory(work);
            return false;
        }
        if (!entry_loaded(work, entry))
            return false;
    }
    if (!entry->present)
        return true;
    if (!entry_touch(work, entry))
        return false;
    finding->rows[finding->count++] = entry->row;
    return finding->count < finding->limit;
}

/* A row of this batch as it stands, of any other a copy that leads nowhere. */
static bool looked_row(void *owner, const void *row)
{
    struct finding *finding = owner;
    struct work *work = finding->work;
    const struct rows_table *table = finding->map->table;
    struct rows_entry *entry = map_find(finding->map, key_hash(table, row), row);
    if (entry && (entry->known || entry->present)) {
        if (entry->present)
            finding->rows[finding->count++] = entry->row;
        return finding->count < finding->limit;
    }
    void *copy = arena_take_zeroed(work->arena, table->row_bytes);
    if (!copy || !columns_copy(work->arena, table, table->column_count, copy, row)) {
        work_fail_memory(work);
        return false;
    }
    finding->rows[finding->count++] = copy;
    return finding->count < finding->limit;
}

static size_t find(struct work *work, const struct rows_table *table, enum backend_lock lock,
                   const char *condition, const struct store_value *parameters, size_t parameter_count,
                   size_t limit, void ***ret_rows)
{
    assert(work->open && parameter_count <= STORE_PARAMETERS_MAX);
    *ret_rows = NULL;
    struct work_map *map = failed(work) ? NULL : map_of(work, table);
    if (!map || limit == 0)
        return 0;
    if (limit > WORK_LIST_COUNT_MAX)
        limit = WORK_LIST_COUNT_MAX;
    /* The array is taken whole: limits are what a caller can handle in a batch. */
    void **rows = arena_take(work->arena, limit * sizeof(*rows));
    if (!rows) {
        work_fail_memory(work);
        return 0;
    }
    struct finding finding = {work, map, rows, 0, limit};
    struct backend *backend = work->store->backend;
    struct error error;
    /* What this batch deleted still stands there and is left out here: so many more are asked for. */
    if (backend->ops->find(backend, table, lock, condition, parameters, parameter_count, limit + map->deleted,
                           lock == BACKEND_LOCK_NONE ? looked_row : found_row, &finding, &error) != OK)
        work_fail(work, &error);
    if (failed(work))
        return 0;
    *ret_rows = rows;
    return finding.count;
}

size_t rows_find(struct work *work, const struct rows_table *table, const char *condition,
                 const struct store_value *parameters, size_t parameter_count, size_t limit, void ***ret_rows)
{
    return find(work, table, BACKEND_LOCK_WAIT, condition, parameters, parameter_count, limit, ret_rows);
}

size_t rows_find_free(struct work *work, const struct rows_table *table, const char *condition,
                      const struct store_value *parameters, size_t parameter_count, size_t limit,
                      void ***ret_rows)
{
    return find(work, table, BACKEND_LOCK_FREE, condition, parameters, parameter_count, limit, ret_rows);
}

size_t rows_look(struct work *work, const struct rows_table *table, const char *condition,
                 const struct store_value *parameters, size_t parameter_count, size_t limit,
                 const void *const **ret_rows)
{
    void **rows;
    size_t count = find(work, table, BACKEND_LOCK_NONE, condition, parameters, parameter_count, limit, &rows);
    *ret_rows = (const void *const *)rows;
    return count;
}

int64_t rows_count(struct work *work, const struct rows_table *table, const char *condition,
                   const struct store_value *parameters, size_t parameter_count)
{
    assert(work->open && parameter_count <= STORE_PARAMETERS_MAX);
    if (failed(work))
        return 0;
    int64_t count = 0;
    struct backend *backend = work->store->backend;
    struct error error;
    if (backend->ops->count(backend, table, condition, parameters, parameter_count, &count, &error) != OK) {
        work_fail(work, &error);
        return 0;
    }
    return count;
}
