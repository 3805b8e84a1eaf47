/* lanes_table: what the table of calls says: which of them get a place, what became of those that other
 * instances have, and what these have written for this one. */
#include "flow/lanes_inside.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- whose parts are whose */

void lanes_share(struct lanes *lanes, const struct instances *instances)
{
    lanes->instances = instances;
}

/* Parts that are owned and lie side by side. last -1: before the first of them. */
struct run {
    int32_t first, last;
};

static bool run_next(const struct lanes *lanes, struct run *run)
{
    if (!lanes_shared(lanes)) {
        bool first = run->last < 0;
        *run = (struct run){0, INT32_MAX};
        return first;
    }
    int32_t part = run->last + 1, count = lanes->instances->part_count;
    while (part < count && !instances_own(lanes->instances, part))
        part++;
    run->first = part;
    while (part < count && instances_own(lanes->instances, part))
        part++;
    run->last = part - 1;
    return run->last >= run->first;
}

static bool owners_changed(const struct lanes *lanes)
{
    const struct instances *instances = lanes->instances;
    if (!lanes_shared(lanes))
        return false;
    /* One that has ended may have left calls behind that were not looked at yet. */
    if (lanes->had_others && instances->others == 0)
        return true;
    if (instances->gained_count && instances->beat_us != lanes->had_beat_us)
        return true;
    for (int32_t part = 0; part < instances->part_count; part++)
        if (lanes->had[part] != instances_own(instances, part))
            return true;
    return false;
}

/* ---- from the table into places */

/* A call that was active when its process died: nobody knows whether it took effect. False when out of
 * memory: it stays where it is. */
static bool come_back(struct lanes *lanes, struct place *place, struct call *row)
{
    struct lane_answer *answer = lane_answer_new(lanes, place->line, place, row);
    if (!answer || !place_go(lanes, place, PLACE_ANSWERED)) {
        if (answer)
            lane_answer_drop(answer);
        return false;
    }
    row->holder = lanes_self(lanes);
    row->elsewhere = 0;
    answer->call.holder = row->holder;
    answer->result.outcome = RETRY;
    answer->result.ambiguous = true;
    snprintf(answer->result.text, sizeof(answer->result.text),
             "the process ended while the call was under way");
    answer->next = lanes->returning;
    lanes->returning = answer;
    return true;
}

/* Rows of before there were parts, or of before there were more of them. False: it is another instance's. */
static bool call_home(const struct lanes *lanes, struct call *row)
{
    if (!lanes_shared(lanes) || lanes->instances->part_count == 0)
        return true;
    row->part = lanes_part(lanes, row->key);
    row->elsewhere = !lanes_owns(lanes, row->part);
    return !row->elsewhere;
}

/* Active at another instance, as it seems. The last one that was asked for is remembered. */
struct holders {
    struct id last;
    bool known, alive;
};

static void foreign_look(struct lanes *lanes, struct place *place, struct call *row, struct holders *holders,
                         struct work *work)
{
    if (!holders->known || !id_equal(holders->last, row->holder))
        *holders = (struct holders){row->holder, true,
                                    !lanes_holds(lanes, row) && work_instance_lives(work, row->holder)};
    /* Its row is locked here, and who is buried commits nothing any more. */
    if (work_failed(work, NULL) == OK && !holders->alive && !come_back(lanes, place, row))
        lanes->reload = true;
}

static bool has_place(const struct line *line, struct id id)
{
    for (const struct place *place = line->last; place; place = place->previous)
        if (id_equal(place->id, id))
            return true;
    return false;
}

/* False: there is no room. */
static bool take_row(struct lanes *lanes, struct line *line, struct call *row, int64_t from_us,
                     struct holders *holders, struct work *work)
{
    if (row->created_us > lanes->last_created_us)
        lanes->last_created_us = row->created_us;
    if (row->state == CALL_PARKED || (row->state == CALL_WAITING && !call_home(lanes, row)))
        return true;
    /* In places still: what this process has under way, and what was made in the microsecond where the last
     * page ended. */
    if ((row->state == CALL_ACTIVE || row->created_us == from_us) && has_place(line, row->id))
        return true;
    struct place *place = place_add(line, row);
    if (!place)
        return false;
    if (row->state == CALL_ACTIVE) {
        place->fresh = true;
        place->state = PLACE_FOREIGN;
        line->foreign++;
        foreign_look(lanes, place, row, holders, work);
        if (!place->touched)
            place->fresh = false;
    }
    return true;
}

void lanes_follow(struct lanes *lanes, struct call *row)
{
    if (row->created_us <= lanes->last_created_us)
        row->created_us = lanes->last_created_us + 1;
    lanes->last_created_us = row->created_us;
}

static int row_compare(const void *a, const void *b)
{
    const struct call *x = *(struct call *const *)a, *y = *(struct call *const *)b;
    if (x->created_us != y->created_us)
        return x->created_us < y->created_us ? -1 : 1;
    return memcmp(x->id.bytes, y->id.bytes, sizeof(x->id.bytes));
}

/* The next page, oldest first: what lies before the end of every run's page. */
static void line_load(struct lanes *lanes, struct line *line, struct work *work)
{
    enum { RUN_ROWS_MIN = 16 };
    struct holders holders = {.known = false};
    int64_t from_us = line->loaded_created_us, until_us = INT64_MAX;
    size_t runs = 0, count = 0;
    for (struct run run = {.last = -1}; run_next(lanes, &run);)
        runs++;
    size_t limit = runs ? (LANES_PLACES_MAX - line->places) / runs + RUN_ROWS_MIN : 0;
    struct call **rows = arena_take(work_arena(work), (runs * limit + 1) * sizeof(*rows));
    if (!rows) {
        struct error error;
        error_set(&error, RETRY, "memory", "lanes: out of memory");
        work_fail(work, &error);
        return;
    }
    for (struct run run = {.last = -1}; run_next(lanes, &run);) {
        const struct store_value which[] = {STORE_TEXT(text_of(line->lane->name)), STORE_INT(from_us),
                                            STORE_INT(run.first), STORE_INT(run.last)};
        void **found;
        size_t found_count = rows_find(work, &calls_table,
                                       "lane = $1 AND created_us >= $2 AND part >= $3 AND part <= $4 "
                                       "ORDER BY lane, created_us",
                                       which, 4, limit, &found);
        if (work_failed(work, NULL) != OK)
            return;
        for (size_t i = 0; i < found_count; i++)
            rows[count++] = found[i];
        if (found_count == limit && rows[count - 1]->created_us < until_us)
            until_us = rows[count - 1]->created_us;
    }
    qsort(rows, count, sizeof(*rows), row_compare);
    line->more = false;
    for (size_t i = 0; i < count && rows[i]->created_us <= until_us && !line->more; i++)
        line->more = !take_row(lanes, line, rows[i], from_us, &holders, work);
    if (!line->more && until_us != INT64_MAX && until_us > line->loaded_created_us)
        line->loaded_created_us = until_us; /* also where none of them needed a place */
    line->more = line->more || until_us != INT64_MAX;
}

static bool wants_page(const struct lanes *lanes)
{
    for (size_t i = 0; i < lanes->count; i++)
        if (lanes->line[i].more && lanes->line[i].places < LANES_PLACES_MAX / 2)
            return true;
    return false;
}

static bool look_due(const struct lanes *lanes)
{
    return lanes_beside_others(lanes) && !lanes->stopped && clock_monotonic_us() >= lanes->look_us;
}

bool lanes_wants_load(const struct lanes *lanes)
{
    if (lanes->count == 0)
        return false;
    return !lanes->loaded || lanes->reload || owners_changed(lanes) || wants_page(lanes) || look_due(lanes);
}

/* All that waits is read anew. What is under way stays, whoever owns its part by now. */
static void start_over(struct lanes *lanes, int64_t now_us)
{
    const struct instances *instances = lanes->instances;
    int64_t share = 0;
    for (int32_t part = 0; part < INSTANCE_PARTS_MAX; part++) {
        lanes->had[part] = lanes_shared(lanes) && instances_own(instances, part);
        share += lanes->had[part];
    }
    lanes->had_others = lanes_beside_others(lanes);
    lanes->had_beat_us = lanes_shared(lanes) ? instances->beat_us : 0;
    for (size_t i = 0; i < lanes->count; i++) {
        struct line *line = &lanes->line[i];
        for (struct place *place = line->first, *next; place; place = next) {
            next = place->next;
            if (place->state == PLACE_WAITING || place->state == PLACE_FOREIGN)
                place_remove(place);
        }
        line->more = true;
        line->loaded_created_us = 0;
        if (!lanes_shared(lanes))
            continue;
        if (!lanes->loaded)
            bucket_spend_burst(&line->bucket);
        bucket_share(&line->bucket, share, instances->part_count > 0 ? instances->part_count : 1, now_us);
    }
}

void lanes_load(struct lanes *lanes, struct work *work, int64_t now_us)
{
    bool anew = !lanes->loaded || lanes->reload || owners_changed(lanes);
    if (anew)
        start_over(lanes, now_us);
    lanes->had_others = lanes->had_others || lanes_beside_others(lanes);
    if (wants_page(lanes)) {
        lanes->loading = true;
        lanes->reload = false;
        for (size_t i = 0; i < lanes->count && work_failed(work, NULL) == OK; i++)
            if (lanes->line[i].more && lanes->line[i].places < LANES_PLACES_MAX / 2)
                line_load(lanes, &lanes->line[i], work);
    }
    lanes->loaded = true;
    if (!look_due(lanes))
        return;
    lanes->looking = true;
    size_t left = LANES_POLL_ROWS_MAX;
    for (size_t i = 0; i < lanes->count; i++)
        for (struct place *place = lanes->line[i].first; place && left && lanes->line[i].foreign;
             place = place->next)
            if (place->state == PLACE_FOREIGN) {
                rows_want(work, &calls_table, &(struct call){.id = place->id});
                left--;
            }
}

/* ---- what other instances do */

/* What became of the calls that other instances have under way. */
static void foreign_look_all(struct lanes *lanes, struct line *line, struct work *work)
{
    struct holders holders = {.known = false};
    size_t left = LANES_POLL_ROWS_MAX;
    for (struct place *place = line->first; place && left && line->foreign; place = place->next) {
        if (place->state != PLACE_FOREIGN)
            continue;
        left--;
        struct call *row = rows_get(work, &calls_table, &(struct call){.id = place->id});
        if (work_failed(work, NULL) != OK)
            return;
        if (!row || !lanes_owns(lanes, row->part)) {
            (void)place_go(lanes, place, PLACE_SETTLED);
        } else if (row->state != CALL_ACTIVE) {
            if (!place_go(lanes, place, PLACE_WAITING))
                return;
            place->due_us = row->due_us;
            row->elsewhere = 0;
        } else {
            foreign_look(lanes, place, row, &holders, work);
        }
    }
}

static struct line *line_named(struct lanes *lanes, struct text name)
{
    for (size_t i = 0; i < lanes->count; i++)
        if (text_is(name, lanes->line[i].lane->name))
            return &lanes->line[i];
    return NULL; /* of another version */
}

/*
 * What other instances have written for this one goes in line, behind what is there. Rows of a key are
 * written under locks that the handlers of its events share, and this look is made before each call of this
 * instance's own goes in line: so what is found only now was committed later, whatever the other's clock
 * says.
 */
static void elsewhere_take(struct lanes *lanes, struct call *row)
{
    struct line *line = line_named(lanes, row->lane);
    /* Looked at already, by this same transaction; or no room: it is found again. */
    if (!line || !row->elsewhere || row->state != CALL_WAITING ||
        line->places >= LANES_PLACES_MAX + LANES_POLL_ROWS_MAX || !call_home(lanes, row))
        return;
    lanes_follow(lanes, row);
    if (line->more)
        return; /* a later page has it */
    struct place *place = place_insert(line, row);
    if (place)
        place->fresh = true;
    if (!place || !place_go(lanes, place, PLACE_WAITING)) {
        if (place)
            place_remove(place);
        row->elsewhere = 1;
    }
}

static void elsewhere_look(struct lanes *lanes, struct work *work)
{
    size_t left = LANES_POLL_ROWS_MAX;
    lanes->look_us = clock_monotonic_us() + LANES_POLL_MS * INT64_C(1000);
    for (struct run run = {.last = -1}; left && run_next(lanes, &run);) {
        const struct store_value which[] = {STORE_INT(run.first), STORE_INT(run.last)};
        void **rows;
        size_t count =
            rows_find_free(work, &calls_table, "part >= $1 AND part <= $2 AND elsewhere = 1 ORDER BY part",
                           which, 2, left, &rows);
        qsort(rows, count, sizeof(*rows), row_compare);
        for (size_t i = 0; i < count; i++)
            elsewhere_take(lanes, rows[i]);
        left -= count;
    }
}

void lanes_look_elsewhere(struct lanes *lanes, struct work *work, int64_t now_us)
{
    int64_t at_us;
    for (size_t i = 0; i < lanes->count && lanes->looking; i++)
        foreign_look_all(lanes, &lanes->line[i], work);
    if (!lanes_beside_others(lanes) ||
        !(lanes->looking || lanes->added_count || lanes_due(lanes, now_us, &at_us)))
        return;
    lanes->looking = false;
    elsewhere_look(lanes, work);
    for (size_t i = 0; i < lanes->added_count; i++) {
        struct call *call = &lanes->added[i].call, *row = rows_get(work, &calls_table, call);
        if (row) {
            lanes_follow(lanes, row);
            call->created_us = row->created_us;
        }
    }
}
