/* work_map: the rows in hand of one table. Each key is one struct, whoever asks for it. */
#include "store/work.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS_MIN = 64 };

/* ---- columns and keys ---- */

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

uint64_t work_key_hash(const struct rows_table *table, const void *key)
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

uint64_t work_table_hash(const struct rows_table *table, uint64_t key_hash)
{
    return mix(key_hash, (uintptr_t)table);
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

bool work_columns_copy(struct arena *arena, const struct rows_table *table, size_t count, void *to,
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

/* ---- the map ---- */

struct work_map *work_map_of(struct work *work, const struct rows_table *table)
{
    for (size_t i = 0; i < work->map_count; i++)
        if (work->maps[i].table == table)
            return &work->maps[i];
    assert(work->map_count < ROWS_TABLES_MAX);
    assert(table->row_bytes <= WORK_ROW_BYTES_MAX && table->column_count <= ROWS_COLUMNS_MAX);
    assert(table->key_count >= 1 && table->key_count <= ROWS_KEY_COLUMNS_MAX &&
           table->key_count <= table->column_count);
    struct work_slot *slots = calloc(SLOTS_MIN, sizeof(*slots));
    if (!slots) {
        work_fail_memory(work);
        return NULL;
    }
    struct work_map *map = &work->maps[work->map_count++];
    *map = (struct work_map){.table = table, .slots = slots, .slot_mask = SLOTS_MIN - 1, .generation = 1};
    return map;
}

struct rows_entry *work_map_find(const struct work_map *map, uint64_t hash, const void *key)
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

struct rows_entry *work_map_add(struct work *work, struct work_map *map, uint64_t hash, const void *key)
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
            map_put(map, work_map_entries(map)[i]);
    }
    struct rows_entry *entry = arena_take(work->arena, sizeof(*entry) + table->row_bytes);
    if (entry) {
        *entry = (struct rows_entry){.table = table, .hash = hash};
        memset(entry->row, 0, table->row_bytes);
    }
    if (!entry || !work_columns_copy(work->arena, table, table->key_count, entry->row, key)) {
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

void work_map_clear(struct work_map *map)
{
    map->entries.count = 0;
    map->unread = 0;
    map->deleted = 0;
    if (++map->generation == 0) {
        memset(map->slots, 0, (map->slot_mask + 1) * sizeof(*map->slots));
        map->generation = 1;
    }
}

/* ---- an entry: from the database, into the journal ---- */

bool work_entry_loaded(struct work *work, struct rows_entry *entry)
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

bool work_entry_touch(struct work *work, struct rows_entry *entry)
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

bool work_entry_read(struct work *work, struct rows_entry *entry)
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
    return !found || work_entry_loaded(work, entry);
}

/* ---- what is to be written ---- */

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

bool work_map_changed(const struct work_map *map)
{
    for (size_t at = 0; at < map->entries.count; at++)
        if (entry_write(work_map_entries(map)[at]) != ROW_SAME)
            return true;
    return false;
}

bool work_map_prepare(struct work *work, struct work_map *map, struct backend_table_writes *writes)
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
        struct rows_entry *entry = work_map_entries(map)[at];
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
