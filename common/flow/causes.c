#include "flow/causes.h"

#include <stdio.h>
#include <stdlib.h>

enum outcome causes_new(struct causes *causes, struct error *error)
{
    *causes = (struct causes){.list = calloc(CAUSES_MAX, sizeof(*causes->list))};
    return causes->list ? OK : error_fatal(error, "memory", "causes: out of memory");
}

void causes_free(struct causes *causes)
{
    free(causes->list);
    *causes = (struct causes){0};
}

static struct cause *find_or_add(struct causes *causes, const struct letter *letter)
{
    const uint64_t parts[] = {text_hash(letter->record->topic), text_hash(letter->fingerprint),
                              text_hash(letter->type)};
    uint64_t hash = text_hash((struct text){(const char *)parts, sizeof(parts)});
    for (size_t i = 0; i < causes->count; i++)
        if (causes->list[i].hash == hash)
            return &causes->list[i];
    if (causes->count == CAUSES_MAX)
        return NULL;
    struct cause *cause = &causes->list[causes->count++];
    *cause = (struct cause){.hash = hash, .first_us = INT64_MAX};
    const struct origin *origin = &letter->origin;
    snprintf(cause->topic, sizeof(cause->topic), "%.*s", TEXT_ARG(letter->record->topic));
    snprintf(cause->class, sizeof(cause->class), "%.*s", TEXT_ARG(origin->class));
    snprintf(cause->type, sizeof(cause->type), "%.*s", TEXT_ARG(letter->type));
    snprintf(cause->fingerprint, sizeof(cause->fingerprint), "%.*s", TEXT_ARG(letter->fingerprint));
    snprintf(cause->message, sizeof(cause->message), "%.*s", TEXT_ARG(origin->message));
    return cause;
}

void causes_add(struct causes *causes, const struct letter *letter)
{
    struct cause *cause = find_or_add(causes, letter);
    int64_t time_us = letter->record->timestamp_ms * 1000;
    if (!cause) {
        causes->others++;
        return;
    }
    cause->count++;
    cause->open += letter->state == LETTER_OPEN;
    cause->redriven += letter->state == LETTER_REDRIVEN;
    cause->dropped += letter->state == LETTER_DROPPED;
    cause->again += letter->origin.redrives > 0;
    if (time_us < cause->first_us)
        cause->first_us = time_us;
    if (time_us > cause->last_us)
        cause->last_us = time_us;
}

static int by_count(const void *a, const void *b)
{
    const struct cause *x = a, *y = b;
    return x->count < y->count ? 1 : x->count > y->count ? -1 : strcmp(x->fingerprint, y->fingerprint);
}

void causes_sort(struct causes *causes)
{
    qsort(causes->list, causes->count, sizeof(*causes->list), by_count);
}
