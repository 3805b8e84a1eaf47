#include "flow/prune.h"

/* A key that is cut is before the row itself, which is then looked at once more; a walk that does not move is
 * ended. */
static bool move(struct prune *prune, const struct prune_table *table, const void *last)
{
    bool moved = false;
    for (size_t i = 0; i < table->table->key_count; i++) {
        const struct text *key =
            (const struct text *)(const void *)((const char *)last + table->table->columns[i].offset);
        size_t length = text_cut(*key, PRUNE_KEY_BYTES_MAX).length;
        moved |= length != prune->lengths[i] || memcmp(key->at, prune->keys[i], length) != 0;
        memcpy(prune->keys[i], key->at, length);
        prune->lengths[i] = length;
    }
    return moved;
}

size_t prune_step(struct work *work, struct prune *prune, const struct prune_table *table)
{
    int64_t now_us = work_now_us(work);
    if ((prune->age_us == 0 && !table->always) || now_us < prune->begin_us)
        return 0;
    int64_t before_us = prune->age_us ? now_us - prune->age_us : INT64_MIN;
    struct store_value after[PRUNE_KEY_COLUMNS_MAX];
    for (size_t i = 0; i < table->table->key_count; i++)
        after[i] = STORE_TEXT(((struct text){prune->keys[i], prune->lengths[i]}));
    void **rows;
    size_t count = rows_find_free(work, table->table, table->next, after, table->table->key_count,
                                  PRUNE_ROWS_MAX, &rows);
    bool moved = count == PRUNE_ROWS_MAX && move(prune, table, rows[count - 1]);
    for (size_t i = 0; i < count; i++)
        if (table->over(work, rows[i], before_us))
            rows_delete(work, table->table, rows[i]);
    if (!moved) {
        memset(prune->lengths, 0, sizeof(prune->lengths));
        prune->begin_us = now_us + PRUNE_PAUSE_US;
    }
    return count;
}
