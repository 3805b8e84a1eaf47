/* postgres_notes: the ids of a batch in the inbox. Which were handled before, and what stands there after it.
 */
#include "store/postgres.h"

#include <stdlib.h>
#include <string.h>

static int note_compare(const void *a, const void *b)
{
    const struct backend_note *x = *(struct backend_note *const *)a, *y = *(struct backend_note *const *)b;
    int sign = memcmp(x->note->id.bytes, y->note->id.bytes, sizeof(x->note->id.bytes));
    return sign ? sign : (x > y) - (x < y);
}

static bool same_id(const struct postgres_notes *notes, size_t i)
{
    return i > 0 && id_equal(notes->sorted[i]->note->id, notes->sorted[i - 1]->note->id);
}

/* By the first of an id's places. */
static bool is_looked(const struct postgres_notes *notes, size_t i)
{
    return notes->sorted[i]->note->by_effect;
}

bool postgres_notes_sort(struct arena *arena, struct backend_fetch *fetch, struct postgres_notes *notes)
{
    *notes = (struct postgres_notes){.count = fetch->note_count, .arena = arena};
    if (!notes->count)
        return true;
    notes->sorted = arena_take(arena, notes->count * sizeof(struct backend_note *));
    if (!notes->sorted)
        return false;
    bool sorted = true;
    for (size_t i = 0; i < notes->count; i++) {
        notes->sorted[i] = &fetch->notes[i];
        sorted = sorted && (i == 0 || note_compare(&notes->sorted[i - 1], &notes->sorted[i]) < 0);
    }
    if (!sorted)
        qsort(notes->sorted, notes->count, sizeof(struct backend_note *), note_compare);
    for (size_t i = 0; i < notes->count; i++) {
        notes->id_count += !same_id(notes, i);
        notes->looked_count += !same_id(notes, i) && is_looked(notes, i);
    }
    return true;
}

/* ---- in the first flight: what was there? */

static void put_ids(struct postgres *postgres, const struct postgres_notes *notes, bool looked)
{
    postgres_array_begin(&postgres->parameters, OID_UUID_ARRAY,
                         looked ? notes->looked_count : notes->id_count - notes->looked_count);
    for (size_t i = 0; i < notes->count; i++)
        if (!same_id(notes, i) && is_looked(notes, i) == looked)
            postgres_array_bytes(&postgres->parameters, notes->sorted[i]->note->id.bytes, sizeof(struct id));
    postgres_array_end(&postgres->parameters);
}

/* Which are new? They come in the order in which they were given; were it another one, all are asked for. */
static enum outcome take_inserted(void *owner, const PGresult *result, struct error *error)
{
    struct postgres_notes *notes = owner;
    int row = 0, rows = PQntuples(result);
    size_t id = 0;
    notes->old_count = 0;
    if ((size_t)rows == notes->id_count - notes->looked_count)
        return OK;
    notes->old = arena_take(notes->arena, notes->id_count * sizeof(*notes->old));
    if (!notes->old)
        return postgres_memory(error);
    for (size_t i = 0; i < notes->count; i++) {
        if (same_id(notes, i))
            continue;
        if (is_looked(notes, i)) {
            id++;
            continue;
        }
        struct text added = row < rows ? postgres_text(result, row, 0) : (struct text){NULL, 0};
        if (added.length == sizeof(struct id) &&
            memcmp(added.at, notes->sorted[i]->note->id.bytes, sizeof(struct id)) == 0)
            row++;
        else
            notes->old[notes->old_count++] = id;
        id++;
    }
    if (row < rows)
        for (notes->old_count = 0; notes->old_count < notes->id_count; notes->old_count++)
            notes->old[notes->old_count] = notes->old_count;
    return OK;
}

static bool priors_want(struct postgres_notes *notes)
{
    if (notes->priors)
        return true;
    notes->priors = arena_take(notes->arena, notes->id_count * sizeof(int32_t));
    for (size_t i = 0; notes->priors && i < notes->id_count; i++)
        notes->priors[i] = INBOX_ABSENT;
    return notes->priors;
}

/* What was moved on, in the order in which the ids were given. */
static enum outcome take_looked(void *owner, const PGresult *result, struct error *error)
{
    struct postgres_notes *notes = owner;
    int64_t place = 0;
    int row = 0, rows = PQntuples(result);
    size_t id = 0;
    if (rows == 0)
        return OK;
    if (!priors_want(notes))
        return postgres_memory(error);
    for (size_t i = 0; i < notes->count && row < rows; i++) {
        if (same_id(notes, i))
            continue;
        if (is_looked(notes, i) && postgres_int(result, row, 0) == ++place)
            notes->priors[id] = (int32_t)postgres_int(result, row++, 1);
        id++;
    }
    return OK;
}

static void add_looked(struct postgres *postgres, struct postgres_notes *notes)
{
    put_ids(postgres, notes, true);
    postgres_add(
        postgres,
        postgres_print(postgres,
                       "SELECT v.place, i.attempt FROM unnest($1) WITH ORDINALITY AS v (id, place) JOIN "
                       "@.inbox i ON i.id = ANY (ARRAY[v.id]) ORDER BY v.place"),
        &(struct postgres_step){.take = take_looked, .owner = notes, .expected = -1, .what = "inbox"});
}

bool postgres_notes_add(struct postgres *postgres, struct postgres_notes *notes, int64_t noted_us)
{
    notes->old_count = 0;
    notes->priors = NULL;
    if (notes->looked_count) {
        notes->looked = postgres->inbox_used;
        if (notes->looked)
            add_looked(postgres, notes);
        if (!postgres_add_any(postgres, "inbox", &postgres->inbox_used))
            return false;
    }
    if (notes->id_count > notes->looked_count) {
        put_ids(postgres, notes, false);
        postgres_put_int(&postgres->parameters, noted_us);
        postgres_add(
            postgres,
            postgres_print(postgres,
                           "INSERT INTO @.inbox (id, attempt, at) SELECT v.id, 0, $2 FROM unnest($1) "
                           "AS v (id) ON CONFLICT DO NOTHING RETURNING id"),
            &(struct postgres_step){.take = take_inserted, .owner = notes, .expected = -1, .what = "inbox"});
    }
    return true;
}

/* ---- after it: what it has left open */

/* Of a service whose events all tell by their effect the inbox is empty until a record fails: then the ids
 * need not be sent. Where it was empty and is not any more, they are looked for after all. */
static enum outcome looked_after_all(struct postgres *postgres, struct postgres_notes *notes,
                                     struct error *error)
{
    if (notes->looked || !notes->looked_count || !postgres->inbox_used)
        return OK;
    postgres_parameters_clear(&postgres->parameters);
    add_looked(postgres, notes);
    return postgres_land(postgres, POSTGRES_STATEMENT_MS, error);
}

static enum outcome take_priors(void *owner, const PGresult *result, struct error *error)
{
    struct postgres_notes *notes = owner;
    (void)error;
    for (int row = 0; row < PQntuples(result); row++) {
        int64_t place = postgres_int(result, row, 0);
        if (place >= 1 && place <= (int64_t)notes->old_count)
            notes->priors[notes->old[place - 1]] = (int32_t)postgres_int(result, row, 1);
    }
    return OK;
}

static void put_old_ids(struct postgres *postgres, const struct postgres_notes *notes)
{
    size_t id = 0, next = 0;
    postgres_array_begin(&postgres->parameters, OID_UUID_ARRAY, notes->old_count);
    for (size_t i = 0; i < notes->count && next < notes->old_count; i++) {
        if (same_id(notes, i) || id++ != notes->old[next])
            continue;
        next++;
        postgres_array_bytes(&postgres->parameters, notes->sorted[i]->note->id.bytes, sizeof(struct id));
    }
    postgres_array_end(&postgres->parameters);
}

/* Rare, and a flight of its own: some were there before, perhaps committed by another instance after the
 * first statement began, so that only another statement sees them. Those that this transaction has added bear
 * its number. */
static enum outcome ask(struct postgres *postgres, struct postgres_notes *notes, struct error *error)
{
    if (!priors_want(notes))
        return postgres_memory(error);
    postgres_parameters_clear(&postgres->parameters);
    put_old_ids(postgres, notes);
    postgres_add(
        postgres,
        postgres_print(
            postgres,
            "SELECT v.place, i.attempt FROM unnest($1) WITH ORDINALITY AS v (id, place) "
            "JOIN @.inbox i ON i.id = ANY (ARRAY[v.id]) WHERE i.xmin <> CAST(pg_current_xact_id() AS xid) "
            "ORDER BY v.place FOR UPDATE OF i"),
        &(struct postgres_step){.take = take_priors, .owner = notes, .expected = -1, .what = "inbox"});
    return postgres_land(postgres, POSTGRES_STATEMENT_MS, error);
}

/* Every note by what was there, in the order of their places; of what was moved and is handled now, the row
 * is set anew by the second flight. */
static bool settle(struct postgres *postgres, const struct postgres_notes *notes)
{
    size_t id = 0;
    int32_t attempt = INBOX_ABSENT;
    for (size_t i = 0; i < notes->count; i++) {
        struct backend_note *place = notes->sorted[i];
        struct inbox_note *note = place->note;
        if (!same_id(notes, i))
            attempt = notes->priors ? notes->priors[id++] : INBOX_ABSENT;
        bool looked = note->by_effect;
        place->prior = attempt;
        place->now = place->left = looked ? attempt : 0;
        note->seen = attempt == 0 || (attempt != INBOX_ABSENT && note->attempt <= attempt);
        if (note->seen)
            continue;
        if (attempt != INBOX_ABSENT && !looked) {
            if (!postgres->resets || postgres->reset_count == 0)
                postgres->resets = arena_take(notes->arena, notes->id_count * sizeof(struct id));
            if (!postgres->resets)
                return false;
            postgres->resets[postgres->reset_count++] = note->id;
        }
        attempt = 0;
    }
    return true;
}

enum outcome postgres_notes_settle(struct postgres *postgres, struct postgres_notes *notes,
                                   struct error *error)
{
    enum outcome outcome = looked_after_all(postgres, notes, error);
    if (outcome == OK && notes->old_count)
        outcome = ask(postgres, notes, error);
    if (outcome == OK && !settle(postgres, notes))
        outcome = postgres_memory(error);
    return outcome;
}

/* ---- in the second flight: what is there now */

static void add_ids(struct postgres *postgres, const char *format, const struct id *ids, size_t count)
{
    postgres_array_begin(&postgres->parameters, OID_UUID_ARRAY, count);
    for (size_t i = 0; i < count; i++)
        postgres_array_bytes(&postgres->parameters, ids[i].bytes, sizeof(struct id));
    postgres_array_end(&postgres->parameters);
    postgres_add(postgres, postgres_print(postgres, format),
                 &(struct postgres_step){.expected = -1, .what = "inbox"});
}

void postgres_notes_write(struct postgres *postgres, const struct backend_apply *apply)
{
    struct postgres_parameters *parameters = &postgres->parameters;
    if (postgres->reset_count)
        add_ids(postgres, "UPDATE @.inbox SET attempt = 0 WHERE id = ANY ($1)", postgres->resets,
                postgres->reset_count);
    size_t set = 0, absent = 0;
    for (size_t i = 0; i < apply->note_count; i++)
        *(apply->notes[i].attempt == INBOX_ABSENT ? &absent : &set) += 1;
    if (set) {
        postgres_array_begin(parameters, OID_UUID_ARRAY, set);
        for (size_t i = 0; i < apply->note_count; i++)
            if (apply->notes[i].attempt != INBOX_ABSENT)
                postgres_array_bytes(parameters, apply->notes[i].id.bytes, sizeof(struct id));
        postgres_array_end(parameters);
        postgres_array_begin(parameters, OID_INT8_ARRAY, set);
        for (size_t i = 0; i < apply->note_count; i++)
            if (apply->notes[i].attempt != INBOX_ABSENT)
                postgres_array_int(parameters, apply->notes[i].attempt);
        postgres_array_end(parameters);
        postgres_put_int(parameters, apply->noted_us);
        postgres_add(postgres,
                     postgres_print(
                         postgres, "INSERT INTO @.inbox AS t (id, attempt, at) SELECT v.id, v.attempt, $3 "
                                   "FROM unnest($1, $2) AS v (id, attempt) ORDER BY v.id ON CONFLICT (id) DO "
                                   "UPDATE SET attempt = excluded.attempt"),
                     &(struct postgres_step){.expected = -1, .what = "inbox"});
    }
    if (absent) {
        postgres_array_begin(parameters, OID_UUID_ARRAY, absent);
        for (size_t i = 0; i < apply->note_count; i++)
            if (apply->notes[i].attempt == INBOX_ABSENT)
                postgres_array_bytes(parameters, apply->notes[i].id.bytes, sizeof(struct id));
        postgres_array_end(parameters);
        postgres_add(postgres, postgres_print(postgres, "DELETE FROM @.inbox WHERE id = ANY ($1)"),
                     &(struct postgres_step){.expected = -1, .what = "inbox"});
    }
}
