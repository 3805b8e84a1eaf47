#include "store/work.h"

#include <assert.h>
#include <stddef.h>

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
    struct work_map *map = work_has_failed(work) ? NULL : work_map_of(work, table);
    if (!map)
        return;
    uint64_t hash = work_key_hash(table, key);
    struct rows_entry *entry = work_map_find(map, hash, key);
    if (!entry)
        (void)work_map_add(work, map, hash, key);
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
    struct work_map *map = work_has_failed(work) ? NULL : work_map_of(work, table);
    if (!map)
        return;
    uint64_t hash = work_key_hash(table, key);
    if (work_map_find(map, hash, key))
        return;
    struct rows_entry *entry = work_map_add(work, map, hash, key);
    work->newcomers = true;
    if (entry)
        entry->known = newcomers_pass(&store->newcomers, work_table_hash(table, hash));
}

void *rows_get(struct work *work, const struct rows_table *table, const void *key)
{
    assert(work->open);
    struct work_map *map = work_has_failed(work) ? NULL : work_map_of(work, table);
    if (!map)
        return NULL;
    uint64_t hash = work_key_hash(table, key);
    struct rows_entry *entry = work_map_find(map, hash, key);
    if (!entry)
        entry = work_map_add(work, map, hash, key);
    if (!entry || (!entry->known && !entry->present && !work_entry_read(work, entry)))
        return NULL;
    if (!entry->present || !work_entry_touch(work, entry))
        return NULL;
    return entry->row;
}

void *rows_add(struct work *work, const struct rows_table *table, const void *row)
{
    assert(work->open);
    struct work_map *map = work_has_failed(work) ? NULL : work_map_of(work, table);
    if (!map)
        return work->nowhere->row;
    uint64_t hash = work_key_hash(table, row);
    struct rows_entry *entry = work_map_find(map, hash, row);
    if (!entry)
        entry = work_map_add(work, map, hash, row);
    else if (!entry->known && !entry->present && !work_entry_read(work, entry)) /* wanted, and not read yet */
        return work->nowhere->row;
    if (entry && entry->present) {
        struct error error;
        error_set(&error, REJECT, "row-exists", "%s: a row with this key is there already", table->name);
        work_fail(work, &error);
        return work->nowhere->row;
    }
    if (!entry || !work_entry_touch(work, entry))
        return work->nowhere->row;
    if (!work_columns_copy(work->arena, table, table->column_count, entry->row, row)) {
        work_fail_memory(work);
        return work->nowhere->row;
    }
    entry->present = true;
    return entry->row;
}

void rows_delete(struct work *work, const struct rows_table *table, void *row)
{
    assert(work->open);
    if (work_has_failed(work) || !row)
        return;
    struct rows_entry *entry = (struct rows_entry *)(void *)((char *)row - offsetof(struct rows_entry, row));
    assert(entry->table == table);
    if (!entry->present || !work_entry_touch(work, entry))
        return;
    entry->present = false;
    if (entry->base)
        work_map_of(work, table)->deleted++;
}

/* ---- by a condition ---- */

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
    uint64_t hash = work_key_hash(table, row);
    struct rows_entry *entry = work_map_find(map, hash, row);
    if (!entry && !(entry = work_map_add(work, map, hash, row)))
        return false;
    if (!entry->known && !entry->present) {
        if (!work_columns_copy(work->arena, table, table->column_count, entry->row, row)) {
            work_fail_memory(work);
            return false;
        }
        if (!work_entry_loaded(work, entry))
            return false;
    }
    if (!entry->present)
        return true;
    if (!work_entry_touch(work, entry))
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
    struct rows_entry *entry = work_map_find(finding->map, work_key_hash(table, row), row);
    if (entry && (entry->known || entry->present)) {
        if (entry->present)
            finding->rows[finding->count++] = entry->row;
        return finding->count < finding->limit;
    }
    void *copy = arena_take_zeroed(work->arena, table->row_bytes);
    if (!copy || !work_columns_copy(work->arena, table, table->column_count, copy, row)) {
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
    struct work_map *map = work_has_failed(work) ? NULL : work_map_of(work, table);
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
    if (work_has_failed(work))
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
    if (work_has_failed(work))
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
