#include "flow/own.h"

#include <stdlib.h>

void own_free(struct own *own)
{
    free(own->places);
    *own = (struct own){0};
}

struct own_mark own_mark_of(struct text key, struct text value)
{
    uint64_t hash = text_hash(value);
    return (struct own_mark){.key = id_from_text(key), .hash = hash ? hash : 1, .length = value.length};
}

void own_add(struct own *own, const struct own_mark *mark, struct id id)
{
    if (own->places || (own->places = calloc(OWN_PLACES, sizeof(*own->places))))
        own->places[mark->hash % OWN_PLACES] = (struct own_place){*mark, id};
}

bool own_find(const struct own *own, struct text key, struct text value, struct id *ret_id)
{
    if (!own->places || !value.length)
        return false;
    struct own_mark mark = own_mark_of(key, value);
    const struct own_place *place = &own->places[mark.hash % OWN_PLACES];
    *ret_id = place->id;
    return place->mark.hash == mark.hash && place->mark.length == mark.length &&
           id_equal(place->mark.key, mark.key);
}
