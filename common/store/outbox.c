#include "store/outbox.h"

#include "store/header_blob.h"
#include "store/pack.h"
#include "store/work.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- in a unit of work ---- */

void outbox_add(struct work *work, const struct outbox_row *row)
{
    assert(work->open);
    if (work->failure.outcome != OK)
        return;
    struct outbox_row *place = work_list_add(work, &work->added, sizeof(*place));
    if (!place)
        return;
    *place = *row;
    place->seq = 0;
    place->part = 0;
    place->elsewhere = false;
    if (place->created_us == 0)
        place->created_us = work->begun_us;
}

size_t outbox_added(const struct work *work, const struct outbox_row **ret_rows)
{
    *ret_rows = work->added.at;
    return work->added.count;
}

void outbox_done(struct work *work, const int64_t *seqs, size_t count)
{
    assert(work->open);
    for (size_t i = 0; i < count && work->failure.outcome == OK; i++) {
        int64_t *place = work_list_add(work, &work->done, sizeof(*place));
        if (place)
            *place = seqs[i];
    }
}

void outbox_refused(struct work *work, int64_t seq, struct text reason)
{
    assert(work->open);
    if (work->failure.outcome != OK)
        return;
    struct text copy = text_copy(work->arena, reason);
    if (!copy.at) {
        work_fail_memory(work);
        return;
    }
    struct backend_refusal *place = work_list_add(work, &work->refused, sizeof(*place));
    if (place)
        *place = (struct backend_refusal){.seq = seq, .reason = copy};
    if (place)
        outbox_done(work, &seq, 1);
}

/* ---- what is acknowledged ---- */

static int seq_compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void done_sort(struct work *work)
{
    int64_t *seqs = work->done.at;
    for (size_t i = 1; i < work->done.count; i++)
        if (seqs[i - 1] > seqs[i]) {
            qsort(seqs, work->done.count, sizeof(*seqs), seq_compare);
            return;
        }
}

/* By this work, whose list is sorted, or before it. */
static bool is_done(const struct work *work, int64_t seq)
{
    return (work->done.count &&
            bsearch(&seq, work->done.at, work->done.count, sizeof(seq), seq_compare) != NULL) ||
           acks_has(&work->store->acks, seq);
}

/* The next pack of the sorted list, with what was acknowledged of it before. */
struct done_pack {
    int64_t seq;
    uint64_t bits[4];
    bool known; /* in part, before this work */
    bool all;
};

static bool done_next(const struct work *work, size_t *at, struct done_pack *ret)
{
    const int64_t *seqs = work->done.at;
    while (*at < work->done.count && (seqs[*at] < 1 || pack_index_of(seqs[*at]) >= pack_events_of(seqs[*at])))
        ++*at; /* no number of an event */
    if (*at == work->done.count)
        return false;
    int64_t first = seqs[*at];
    *ret = (struct done_pack){.seq = pack_seq_of(first)};
    for (; *at < work->done.count && seqs[*at] >> 8 == first >> 8; ++*at) {
        size_t index = pack_index_of(seqs[*at]);
        if (index < pack_events_of(first))
            ret->bits[index / 64] |= UINT64_C(1) << index % 64;
    }
    const struct acks_pack *before = acks_find(&work->store->acks, ret->seq);
    size_t count = 0;
    ret->known = before;
    for (int i = 0; i < 4; i++) {
        ret->bits[i] |= before ? before->bits[i] : 0;
        count += (size_t)__builtin_popcountll(ret->bits[i]);
    }
    ret->all = count == pack_events_of(first);
    return true;
}

static bool done_prepare(struct work *work, struct backend_apply *apply)
{
    if (work->done.count == 0)
        return true;
    done_sort(work);
    struct backend_range *ranges = arena_take(work->arena, work->done.count * sizeof(*ranges));
    struct done_pack pack;
    size_t at = 0, fresh = 0;
    while (ranges && done_next(work, &at, &pack)) {
        if (!pack.all)
            fresh += !pack.known;
        else if (apply->done_count && pack.seq <= ranges[apply->done_count - 1].last + 1)
            ranges[apply->done_count - 1].last = pack.seq;
        else
            ranges[apply->done_count++] = (struct backend_range){pack.seq, pack.seq};
    }
    apply->done = ranges;
    if (ranges && acks_reserve(&work->store->acks, fresh))
        return true;
    work_fail_memory(work);
    return false;
}

static void done_committed(struct work *work)
{
    struct acks *acks = &work->store->acks;
    struct done_pack pack;
    size_t at = 0;
    while (done_next(work, &at, &pack))
        if (pack.all)
            acks_remove(acks, pack.seq);
        else
            acks_note(acks, pack.seq, pack.bits);
}

/* ---- reading ---- */

struct reading {
    struct work *work;
    int64_t after_seq;
    size_t limit;
    size_t packs, bytes;
    struct outbox_row *rows;
    size_t count;
    size_t capacity;
    bool more;
};

enum opened { OPENED, OPENED_NO_ROOM, OPENED_DAMAGED };

/* All of a pack; its body is kept, as what the database gave is valid during the call. */
static enum opened pack_open(struct arena *arena, const struct backend_pack *pack, struct outbox_row **ret)
{
    bool damaged = pack->events < 1 || pack->events > PACK_EVENTS_MAX || pack->seq < 1;
    struct text body = damaged ? pack->body : text_copy(arena, pack->body);
    if (damaged)
        return OPENED_DAMAGED;
    if (!body.at)
        return OPENED_NO_ROOM;
    if (!pack_decode(arena, body, (size_t)pack->events, ret, &damaged))
        return damaged ? OPENED_DAMAGED : OPENED_NO_ROOM;
    for (size_t i = 0; i < (size_t)pack->events; i++) {
        (*ret)[i].seq = pack_event_seq(pack->seq, (size_t)pack->events, i);
        (*ret)[i].part = pack->part;
        (*ret)[i].elsewhere = pack->elsewhere;
    }
    return OPENED;
}

static void fail_damaged(struct work *work, int64_t pack_seq)
{
    struct error error;
    error_set(&error, FATAL, "store-damaged", "outbox: the events of row %lld are damaged",
              (long long)pack_seq);
    work_fail(work, &error);
}

static bool reading_room(struct reading *reading, size_t more)
{
    if (reading->capacity - reading->count >= more)
        return true;
    size_t capacity = reading->capacity * 2 + more;
    struct outbox_row *rows = arena_take(reading->work->arena, capacity * sizeof(*rows));
    if (!rows)
        return false;
    if (reading->count)
        memcpy(rows, reading->rows, reading->count * sizeof(*rows));
    reading->rows = rows;
    reading->capacity = capacity;
    return true;
}

/* The first one is read whatever its size. */
static bool too_much(size_t *bytes, const struct backend_pack *pack)
{
    bool first = *bytes == 0;
    *bytes += pack->body.length;
    return !first && *bytes > OUTBOX_READ_BYTES_MAX;
}

static bool reading_pack(void *owner, const struct backend_pack *pack)
{
    struct reading *reading = owner;
    struct work *work = reading->work;
    struct outbox_row *rows;
    if (too_much(&reading->bytes, pack)) {
        reading->more = true;
        return false;
    }
    enum opened opened = pack_open(work->arena, pack, &rows);
    if (opened == OPENED && !reading_room(reading, (size_t)pack->events))
        opened = OPENED_NO_ROOM;
    if (opened != OPENED) {
        if (opened == OPENED_DAMAGED)
            fail_damaged(work, pack->seq);
        else
            work_fail_memory(work);
        return false;
    }
    reading->more = ++reading->packs == OUTBOX_READ_PACKS_MAX;
    for (size_t i = 0; i < (size_t)pack->events; i++) {
        bool passed = pack->seq == pack_seq_of(reading->after_seq) && rows[i].seq <= reading->after_seq;
        if (passed || is_done(work, rows[i].seq))
            continue;
        if (reading->count == reading->limit) {
            reading->more = true;
            return false;
        }
        reading->rows[reading->count++] = rows[i];
    }
    return true;
}

static size_t read_rows(struct work *work, bool elsewhere, int64_t after_seq, size_t limit,
                        const struct outbox_row **ret_rows, bool *ret_more)
{
    assert(work->open);
    *ret_rows = NULL;
    *ret_more = true;
    if (work->failure.outcome != OK)
        return 0;
    struct reading reading = {.work = work, .after_seq = after_seq, .limit = limit};
    struct backend *backend = work->store->backend;
    struct error error;
    bool whole = pack_index_of(after_seq) + 1 >= pack_events_of(after_seq);
    done_sort(work);
    if (backend->ops->outbox_read(backend, elsewhere, pack_seq_of(after_seq) + whole, OUTBOX_READ_PACKS_MAX,
                                  reading_pack, &reading, &error) != OK)
        work_fail(work, &error);
    if (work->failure.outcome != OK)
        return 0;
    *ret_rows = reading.rows;
    *ret_more = reading.more;
    return reading.count;
}

size_t outbox_read(struct work *work, int64_t after_seq, size_t limit, const struct outbox_row **ret_rows,
                   bool *ret_more)
{
    return read_rows(work, false, after_seq, limit, ret_rows, ret_more);
}

size_t outbox_read_elsewhere(struct work *work, size_t limit, const struct outbox_row **ret_rows,
                             bool *ret_more)
{
    return read_rows(work, true, 0, limit, ret_rows, ret_more);
}

/* ---- what is refused ---- */

struct refusing {
    struct work *work;
    struct backend_refusal *refusal;
    bool found;
};

static bool refusing_pack(void *owner, const struct backend_pack *pack)
{
    struct refusing *refusing = owner;
    struct backend_refusal *refusal = refusing->refusal;
    struct work *work = refusing->work;
    struct outbox_row *rows;
    enum opened opened = pack_open(work->arena, pack, &rows);
    size_t index = pack_index_of(refusal->seq);
    if (opened == OPENED_DAMAGED) {
        fail_damaged(work, pack->seq);
        return false;
    }
    if (opened == OPENED && index < (size_t)pack->events) {
        refusal->row = rows[index];
        refusing->found = true;
    }
    if (opened != OPENED ||
        (refusing->found && !header_blob_encode(work->arena, refusal->row.headers, refusal->row.header_count,
                                                &refusal->headers)))
        work_fail_memory(work);
    return false;
}

/* Each is written as a row of its own; rare, and read again for it. */
static bool refused_prepare(struct work *work, struct backend_apply *apply)
{
    struct backend *backend = work->store->backend;
    struct backend_refusal *refused = work->refused.at;
    struct error error;
    apply->refused = refused;
    for (size_t i = 0; i < work->refused.count && work->failure.outcome == OK; i++) {
        struct refusing refusing = {work, &refused[i], false};
        if (backend->ops->outbox_read_one(backend, pack_seq_of(refused[i].seq), refusing_pack, &refusing,
                                          &error) != OK)
            work_fail(work, &error);
        if (refusing.found)
            refused[apply->refused_count++] = refused[i];
    }
    return work->failure.outcome == OK;
}

/* ---- what is added ---- */

/* Packs are of one part each: the rows by part, each part's as they were added. */
static bool added_sort(struct work *work, struct outbox_row *rows, size_t count)
{
    size_t places[INSTANCE_PARTS_MAX + 1] = {0};
    bool sorted = true;
    for (size_t i = 0; i < count; i++) {
        assert(rows[i].part >= 0 && rows[i].part < INSTANCE_PARTS_MAX);
        places[rows[i].part + 1]++;
        sorted = sorted && (i == 0 || rows[i - 1].part <= rows[i].part);
    }
    if (sorted)
        return true;
    struct outbox_row *copy = arena_copy(work->arena, rows, count * sizeof(*rows));
    if (!copy) {
        work_fail_memory(work);
        return false;
    }
    for (size_t part = 1; part < INSTANCE_PARTS_MAX; part++)
        places[part] += places[part - 1];
    for (size_t i = 0; i < count; i++)
        rows[places[copy[i].part]++] = copy[i];
    return true;
}

static bool added_pack(struct work *work, struct backend_apply *apply, const struct outbox_row *rows,
                       size_t count)
{
    struct backend *backend = work->store->backend;
    struct text *headers = arena_take(work->arena, count * sizeof(*headers));
    apply->packs = arena_take(work->arena, count * sizeof(*apply->packs));
    bool room = headers && apply->packs;
    for (size_t i = 0; room && i < count; i++)
        room = header_blob_encode(work->arena, rows[i].headers, rows[i].header_count, &headers[i]);
    for (size_t at = 0; room && at < count;) {
        struct backend_pack *pack = &apply->packs[apply->pack_count++];
        size_t events = pack_count(&rows[at], &headers[at], count - at, backend->ops->pack_bytes_max);
        *pack = (struct backend_pack){
            .part = rows[at].part,
            .elsewhere = rows[at].elsewhere,
            .created_us = rows[at].created_us,
            .events = (int64_t)events,
        };
        for (size_t i = at; i < at + events; i++)
            if (rows[i].created_us < pack->created_us)
                pack->created_us = rows[i].created_us;
        room = pack_encode(work->arena, &rows[at], &headers[at], events, &pack->body);
        at += events;
    }
    apply->events = (int64_t)count;
    if (!room)
        work_fail_memory(work);
    return room;
}

static bool added_prepare(struct work *work, struct backend_apply *apply)
{
    struct backend *backend = work->store->backend;
    struct outbox_row *rows = work->added.at;
    size_t count = work->added.count;
#ifdef WEIR_MUTANT_RETRY_WITHOUT_OUTBOX
    /* Copies for retry topics are sent from memory, and stand nowhere. */
    count = 0;
    for (size_t i = 0; i < work->added.count; i++)
        if (rows[i].topic.length < 6 || memcmp(rows[i].topic.at, "retry.", 6) != 0) {
            struct outbox_row row = rows[count];
            rows[count++] = rows[i];
            rows[i] = row;
        }
#endif
    if (count == 0)
        return true;
    if (backend->ops->outbox_parts)
        backend->ops->outbox_parts(backend, rows, count);
    return added_sort(work, rows, count) && added_pack(work, apply, rows, count);
}

bool outbox_prepare(struct work *work, struct backend_apply *apply)
{
    return done_prepare(work, apply) && refused_prepare(work, apply) && added_prepare(work, apply);
}

void outbox_committed(struct work *work, const struct backend_apply *apply)
{
    struct store *store = work->store;
    struct outbox_row *row = work->added.at;
    int64_t own = 0;
    done_committed(work);
    if (!apply->pack_count && !apply->done_count && !apply->refused_count)
        return;
    for (size_t i = 0; i < apply->pack_count; i++) {
        const struct backend_pack *pack = &apply->packs[i];
        own += pack->elsewhere ? 0 : pack->events;
        for (size_t at = 0; at < (size_t)pack->events; at++)
            row++->seq = pack_event_seq(pack->seq, (size_t)pack->events, at);
    }
    int64_t rows = atomic_load(&store->outbox_rows) + own - apply->outbox_gone;
    atomic_store(&store->outbox_rows, rows > 0 ? rows : 0);
    if (apply->outbox_oldest_us >= 0)
        atomic_store(&store->outbox_oldest_us, apply->outbox_oldest_us);
}

/* ---- with the commit ---- */

void outbox_want_elsewhere(struct work *work, size_t limit)
{
    assert(work->open);
    work->elsewhere_limit = limit;
}

bool outbox_elsewhere(const struct work *work, const struct outbox_row **ret_rows, size_t *ret_count,
                      bool *ret_more)
{
    *ret_rows = work->elsewhere;
    *ret_count = work->elsewhere_count;
    *ret_more = work->elsewhere_more;
    return work->elsewhere_read;
}

static void elsewhere_start(void *owner)
{
    struct work *work = owner;
    work->elsewhere_read = true;
    work->elsewhere_more = false;
    work->elsewhere_count = work->elsewhere_packs = work->elsewhere_bytes = 0;
}

/* The commit is on its way: what cannot be taken now is left where it is, and read again. */
static bool elsewhere_pack(void *owner, const struct backend_pack *pack)
{
    struct work *work = owner;
    struct outbox_row *rows;
    if (!work->elsewhere)
        work->elsewhere = arena_take(work->arena, work->elsewhere_limit * sizeof(*work->elsewhere));
    work->elsewhere_more = true;
    if (!work->elsewhere || too_much(&work->elsewhere_bytes, pack) ||
        pack_open(work->arena, pack, &rows) != OPENED)
        return false;
    for (size_t i = 0; i < (size_t)pack->events; i++) {
        if (is_done(work, rows[i].seq))
            continue;
        if (work->elsewhere_count == work->elsewhere_limit)
            return false;
        work->elsewhere[work->elsewhere_count++] = rows[i];
    }
    work->elsewhere_more = ++work->elsewhere_packs == OUTBOX_READ_PACKS_MAX;
    return true;
}

void outbox_elsewhere_prepare(struct work *work, struct backend_apply *apply)
{
    apply->elsewhere_limit = work->elsewhere_limit ? OUTBOX_READ_PACKS_MAX : 0;
    apply->elsewhere_start = elsewhere_start;
    apply->elsewhere_each = elsewhere_pack;
    apply->elsewhere_owner = work;
}

int64_t outbox_rows(const struct store *store)
{
    return atomic_load(&store->outbox_rows);
}

int64_t outbox_oldest_us(const struct store *store)
{
    return atomic_load(&store->outbox_oldest_us);
}
