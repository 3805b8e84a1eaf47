#include "flow/own.h"

#include <stdlib.h>

void own_free(struct own *own)
{
    free(own->places);
    *own = (struct own){0};
}

uint64_t own_hash(struct text value)
{
    uint64_t hash = text_hash(value);
    return hash ? hash : 1;
}

void own_add(struct own *own, uint64_t hash, struct id id)
{
    if (own->places || (own->places = calloc(OWN_PLACES, sizeof(*own->places))))
        own->places[hash % OWN_PLACES] = (struct own_place){hash, id};
}

bool own_find(const struct own *own, struct text value, struct id *ret_id)
{
    if (!own->places || !value.length)
        return false;
    uint64_t hash = own_hash(value);
    const struct own_place *place = &own->places[hash % OWN_PLACES];
    *ret_id = place->id;
    return place->hash == hash;
}
