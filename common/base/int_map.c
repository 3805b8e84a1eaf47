#include "base/int_map.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { PLACES_MIN = 256 };

/* Numbers come one after another: multiplied out, so that they do not lie so. */
static size_t home_of(const struct int_map *map, int64_t key)
{
    return (size_t)((uint64_t)key * UINT64_C(0x9e3779b97f4a7c15) >> 20) & map->mask;
}

/* Its place, or the empty one where it would be. */
static size_t place_of(const struct int_map *map, int64_t key)
{
    size_t at = home_of(map, key);
    while (map->keys[at] && map->keys[at] != key)
        at = (at + 1) & map->mask;
    return at;
}

static void *value_at(const struct int_map *map, size_t at)
{
    return map->values + at * map->value_bytes;
}

void int_map_free(struct int_map *map)
{
    free(map->keys);
    *map = (struct int_map){0};
}

bool int_map_reserve(struct int_map *map, size_t value_bytes, size_t more)
{
    size_t places = map->keys ? map->mask + 1 : PLACES_MIN;
    assert(!map->keys || map->value_bytes == value_bytes);
    while (places < (map->count + more) * 2)
        places *= 2;
    if (map->keys && places == map->mask + 1)
        return true;
    struct int_map grown = {.value_bytes = value_bytes, .mask = places - 1};
    grown.keys = calloc(places, sizeof(*grown.keys) + value_bytes);
    if (!grown.keys)
        return false;
    grown.values = (unsigned char *)(grown.keys + places);
    int64_t key;
    void *value;
    for (size_t at = 0; int_map_next(map, &at, &key, &value);)
        memcpy(int_map_put(&grown, key), value, value_bytes);
    free(map->keys);
    *map = grown;
    return true;
}

void *int_map_put(struct int_map *map, int64_t key)
{
    assert(key > 0 && map->keys);
    size_t at = place_of(map, key);
    if (!map->keys[at]) {
        map->count++;
        assert(map->count * 2 <= map->mask + 1);
        map->keys[at] = key;
        memset(value_at(map, at), 0, map->value_bytes);
    }
    return value_at(map, at);
}

void *int_map_find(const struct int_map *map, int64_t key)
{
    if (map->count == 0)
        return NULL;
    size_t at = place_of(map, key);
    return map->keys[at] ? value_at(map, at) : NULL;
}

void int_map_remove(struct int_map *map, int64_t key)
{
    size_t gap = map->count ? place_of(map, key) : 0;
    if (!map->count || !map->keys[gap])
        return;
    /* Who stands behind moves up where the gap would hide it. */
    for (size_t at = (gap + 1) & map->mask; map->keys[at]; at = (at + 1) & map->mask) {
        size_t home = home_of(map, map->keys[at]);
        if (((at - home) & map->mask) < ((at - gap) & map->mask))
            continue;
        map->keys[gap] = map->keys[at];
        memcpy(value_at(map, gap), value_at(map, at), map->value_bytes);
        gap = at;
    }
    map->keys[gap] = 0;
    map->count--;
}

void int_map_clear(struct int_map *map)
{
    if (map->keys)
        memset(map->keys, 0, (map->mask + 1) * sizeof(*map->keys));
    map->count = 0;
}

bool int_map_next(const struct int_map *map, size_t *at, int64_t *ret_key, void **ret_value)
{
    while (map->keys && *at <= map->mask) {
        size_t place = (*at)++;
        if (!map->keys[place])
            continue;
        *ret_key = map->keys[place];
        *ret_value = value_at(map, place);
        return true;
    }
    return false;
}
