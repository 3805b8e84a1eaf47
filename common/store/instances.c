#include "store/instances.h"

#include "base/clock.h"
#include "store/work.h"
#include "wire/topic.h"

static bool id_none(struct id id)
{
    static const struct id none;
    return id_equal(id, none);
}

int32_t instances_part(const struct instances *instances, struct text key, bool key_null)
{
    if (key_null || instances->part_count <= 1)
        return 0;
    return topic_partition(key, instances->part_count);
}

bool instances_own(const struct instances *instances, int32_t part)
{
    if (!instances->shared)
        return true;
    return part >= 0 && part < instances->part_count && instances->owned[part] && instances->wanted[part];
}

static void alone_for_ever(struct instances *instances)
{
    instances->gained[0] = !instances->owned[0];
    instances->gained_count = instances->gained[0];
    instances->owned[0] = instances->wanted[0] = true;
    instances->part_count = instances->owned_count = instances->wanted_count = 1;
}

static void look(struct instances *instances, const struct backend_beat *beat)
{
    int32_t wanted = 0, owned = 0, gained = 0;
    bool pending = beat->others > 0 && instances->others == 0; /* say at once what is not wanted any more */
    instances->part_rows = beat->part_count;
    if (beat->part_count > instances->part_count)
        instances->part_count = beat->part_count;
    for (int32_t part = 0; part < INSTANCE_PARTS_MAX; part++) {
        bool in = part < instances->part_count, own = in && part < beat->part_count && beat->owned[part];
        if (beat->others == 0)
            instances->wanted[part] = in;
        instances->gained[part] = own && !instances->owned[part];
        instances->owned[part] = own;
        gained += instances->gained[part];
        owned += own;
        wanted += in && instances->wanted[part];
        pending = pending || (in && own != instances->wanted[part]);
    }
    instances->gained_count = gained;
    instances->owned_count = owned;
    instances->wanted_count = wanted;
    instances->others = beat->others;
    instances->beat_us =
        clock_monotonic_us() + (pending ? INSTANCE_TAKE_MS : INSTANCE_BEAT_MS) * INT64_C(1000);
}

enum outcome instances_beat(struct store *store, struct instances *instances, struct error *error)
{
    struct backend *backend = store->backend;
    int64_t now_us = clock_monotonic_us();
    instances->shared = backend->ops->shared;
    instances->gained_count = 0;
    if (!instances->shared) {
        alone_for_ever(instances);
        return OK;
    }
    if (now_us < instances->beat_us)
        return OK;
    if (id_none(instances->self))
        instances->self = id_new();
    if (instances->beaten_us && now_us - instances->beaten_us > INSTANCE_STEADY_MS * INT64_C(1000))
        instances->bury_from_us = now_us + INSTANCE_DEAD_MS * INT64_C(1000);
    struct backend_beat beat = {.bury = now_us >= instances->bury_from_us};
    enum outcome outcome = backend->ops->beat(backend, instances, &beat, error);
    if (outcome != OK)
        return outcome;
    instances->joined = true;
    instances->beaten_us = clock_monotonic_us();
    look(instances, &beat);
    /* What came and went through other hands than its own is counted only here. Of a table that is longer
     * than a beat looks at, memory tells more while it is alone. */
    int64_t counted = atomic_load(&store->outbox_rows);
    bool cut = beat.others == 0 && beat.outbox_rows >= INSTANCE_OUTBOX_MAX && counted > beat.outbox_rows;
    atomic_store(&store->outbox_rows, cut ? counted : beat.outbox_rows);
    atomic_store(&store->outbox_oldest_us, beat.outbox_oldest_us);
    return OK;
}

static void left(struct instances *instances)
{
    instances->joined = false;
    memset(instances->owned, 0, sizeof(instances->owned));
    instances->owned_count = 0;
}

enum outcome instances_leave_empty(struct store *store, struct instances *instances, bool *ret_left,
                                   struct error *error)
{
    struct backend *backend = store->backend;
    bool gone = true;
    enum outcome outcome =
        instances->joined ? backend->ops->leave_empty(backend, instances, &gone, error) : OK;
    if (outcome != OK)
        return outcome;
    *ret_left = gone;
    if (gone)
        left(instances);
    return OK;
}

void instances_leave(struct store *store, struct instances *instances)
{
    struct backend *backend = store->backend;
    if (instances->joined)
        backend->ops->leave(backend, instances);
    left(instances);
}
