/* postgres_instances: the tables `instance` and `part`: store/instances.h says what they are for. */
#include "store/postgres.h"

#include <stdio.h>

#define NOW_US "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

static const struct postgres_step PLAIN = {.expected = -1};

const char POSTGRES_ELSEWHERE[] =
    "SELECT o.* FROM unnest($1) AS v (part) CROSS JOIN LATERAL (SELECT " PACK_COLUMNS
    " FROM @.outbox_pack t WHERE t.elsewhere AND t.part = v.part ORDER BY t.seq LIMIT $2) o ORDER BY o.seq "
    "LIMIT "
    "$2";

static void put_id(struct postgres_parameters *parameters, const struct instances *instances)
{
    postgres_put_bytes(parameters, OID_UUID,
                       (struct text){(const char *)instances->self.bytes, sizeof(struct id)});
}

void postgres_put_parts(struct postgres_parameters *parameters, const struct instances *instances)
{
    size_t count = 0;
    for (int32_t part = 0; part < instances->part_count; part++)
        count += instances_own(instances, part);
    postgres_array_begin(parameters, OID_INT8_ARRAY, count);
    for (int32_t part = 0; part < instances->part_count; part++)
        if (instances_own(instances, part))
            postgres_array_int(parameters, part);
    postgres_array_end(parameters);
}

/* wanted, and with busy also what is not to be let go yet. */
static void put_wanted(struct postgres_parameters *parameters, const struct instances *instances, bool busy)
{
    size_t count = 0;
    for (int32_t part = 0; part < instances->part_count; part++)
        count += instances->wanted[part] || (busy && instances->busy[part]);
    postgres_array_begin(parameters, OID_INT8_ARRAY, count);
    for (int32_t part = 0; part < instances->part_count; part++)
        if (instances->wanted[part] || (busy && instances->busy[part]))
            postgres_array_int(parameters, part);
    postgres_array_end(parameters);
}

/* The lock does not keep beats out: they do not change the key. */
static void fence(struct postgres *postgres, const struct instances *instances)
{
    put_id(&postgres->parameters, instances);
    postgres_add(
        postgres,
        postgres_print(postgres,
                       "SELECT 1 / count(*) FROM (SELECT 1 FROM @.instance WHERE id = $1 FOR KEY SHARE) x"),
        &(struct postgres_step){.expected = -1, .what = "instance", .fence = true});
}

void postgres_fence(struct postgres *postgres)
{
    if (postgres->instances)
        fence(postgres, postgres->instances);
}

static enum outcome take_parts(void *owner, const PGresult *result, struct error *error)
{
    struct backend_beat *beat = owner;
    (void)error;
    beat->part_count = 0;
    memset(beat->owned, 0, sizeof(beat->owned));
    for (int i = 0; i < PQntuples(result); i++) {
        int64_t number = postgres_int(result, i, 0);
        if (number < 0 || number >= INSTANCE_PARTS_MAX)
            continue;
        beat->owned[number] = postgres_int(result, i, 1) != 0;
        if (number >= beat->part_count)
            beat->part_count = (int32_t)number + 1;
    }
    return OK;
}

static enum outcome take_others(void *owner, const PGresult *result, struct error *error)
{
    struct backend_beat *beat = owner;
    (void)error;
    beat->others = (int32_t)postgres_int(result, 0, 0);
    return OK;
}

static enum outcome take_outbox_state(void *owner, const PGresult *result, struct error *error)
{
    struct backend_beat *beat = owner;
    (void)error;
    beat->outbox_rows = postgres_int(result, 0, 0);
    beat->outbox_oldest_us = postgres_int(result, 0, 1);
    return OK;
}

static void add_join(struct postgres *postgres, const struct instances *instances)
{
    struct postgres_parameters *parameters = &postgres->parameters;
    if (instances->joined)
        fence(postgres, instances);
    put_id(parameters, instances);
    postgres_add(
        postgres,
        postgres_print(postgres, instances->joined
                                     ? "UPDATE @.instance SET beat_us = " NOW_US " WHERE id = $1"
                                     : "INSERT INTO @.instance (id, beat_us) VALUES ($1, " NOW_US
                                       ") ON CONFLICT (id) DO UPDATE SET beat_us = excluded.beat_us"),
        &PLAIN);
}

/* One that commits at this moment has its row locked, and is not dead. */
static void add_bury(struct postgres *postgres, const struct instances *instances)
{
    postgres_put_int(&postgres->parameters, INSTANCE_DEAD_MS * INT64_C(1000));
    put_id(&postgres->parameters, instances);
    postgres_add(
        postgres,
        postgres_print(postgres,
                       "DELETE FROM @.instance WHERE id IN (SELECT id FROM @.instance WHERE beat_us < " NOW_US
                       " - $1 AND id <> $2 FOR UPDATE SKIP LOCKED)"),
        &PLAIN);
}

#define ALONE "NOT EXISTS (SELECT 1 FROM @.instance WHERE id <> $1)"

static void add_parts(struct postgres *postgres, const struct instances *instances)
{
    struct postgres_parameters *parameters = &postgres->parameters;
    if (instances->part_count > instances->part_rows) {
        postgres_put_int(parameters, instances->part_count - 1);
        postgres_add(postgres,
                     postgres_print(postgres, "INSERT INTO @.part (number) SELECT generate_series(0, $1) "
                                              "ON CONFLICT DO NOTHING"),
                     &PLAIN);
    }
    put_id(parameters, instances);
    put_wanted(parameters, instances, true);
    postgres_add(postgres,
                 postgres_print(postgres,
                                "UPDATE @.part SET owner = NULL WHERE owner = $1 AND number <> ALL ($2) "
                                "AND NOT " ALONE),
                 &PLAIN);
    put_id(parameters, instances);
    put_wanted(parameters, instances, false);
    postgres_add(
        postgres,
        postgres_print(postgres,
                       "UPDATE @.part p SET owner = $1 WHERE (p.number = ANY ($2) OR " ALONE
                       ") AND (p.owner IS NULL OR NOT EXISTS (SELECT 1 FROM @.instance i WHERE i.id = "
                       "p.owner))"),
        &PLAIN);
}

static void add_state(struct postgres *postgres, const struct instances *instances, struct backend_beat *beat)
{
    struct postgres_parameters *parameters = &postgres->parameters;
    put_id(parameters, instances);
    postgres_add(
        postgres,
        postgres_print(postgres, "SELECT number, coalesce((owner = $1)::int, 0) FROM @.part ORDER BY number"),
        &(struct postgres_step){.take = take_parts, .owner = beat, .expected = -1, .what = "part"});
    put_id(parameters, instances);
    postgres_add(
        postgres, postgres_print(postgres, "SELECT count(*) FROM @.instance WHERE id <> $1"),
        &(struct postgres_step){.take = take_others, .owner = beat, .expected = -1, .what = "instance"});
    put_id(parameters, instances);
    postgres_put_int(parameters, INSTANCE_OUTBOX_MAX);
    postgres_add(
        postgres,
        postgres_print(postgres,
                       "SELECT CAST(coalesce(sum(events), 0) AS bigint), coalesce(min(created_us), 0) FROM "
                       "(SELECT part, created_us, events FROM @.outbox_pack ORDER BY seq LIMIT $2) o WHERE "
                       "part = ANY (ARRAY(SELECT number FROM "
                       "@.part WHERE owner = $1))"),
        &(struct postgres_step){.take = take_outbox_state, .owner = beat, .expected = -1, .what = "outbox"});
}

/* One beat at a time, or leave: each looks at what the one before it has left. */
static void add_turn(struct postgres *postgres)
{
    char name[POSTGRES_NAME_BYTES_MAX + 16];
    snprintf(name, sizeof(name), "%s.instances", postgres->schema);
    postgres_parameters_clear(&postgres->parameters);
    postgres_put_int(&postgres->parameters, (int64_t)text_hash(text_of(name)));
    postgres_add(postgres, "SELECT pg_advisory_xact_lock($1)", &PLAIN);
}

/* A transaction of its own has ended; what went wrong with it is an outage. */
static enum outcome ended(struct postgres *postgres, enum outcome outcome, struct error *error)
{
    if (outcome == OK)
        postgres->transaction = TRANSACTION_NONE;
    else
        postgres_rollback(&postgres->backend);
    if (outcome == RETRY || outcome == REJECT) {
        error->outcome = OUTAGE;
        outcome = OUTAGE;
    }
    return outcome;
}

enum outcome postgres_beat(struct backend *backend, const struct instances *instances,
                           struct backend_beat *beat, struct error *error)
{
    struct postgres *postgres = (struct postgres *)backend;
    enum outcome outcome = postgres_connect(postgres, error);
    bool tried = false;
    if (outcome != OK)
        return outcome;
    postgres->transaction = TRANSACTION_WANTED;
    do {
        add_turn(postgres);
        add_join(postgres, instances);
        if (beat->bury)
            add_bury(postgres, instances);
        add_parts(postgres, instances);
        add_state(postgres, instances, beat);
        postgres_add(postgres, "COMMIT", &PLAIN);
        outcome = postgres_land(postgres, POSTGRES_STATEMENT_MS, error);
    } while (outcome != OK && postgres_again(postgres, &tried));
    outcome = ended(postgres, outcome, error);
    if (outcome == OK)
        postgres->instances = instances;
    return outcome;
}

static enum outcome take_left(void *owner, const PGresult *result, struct error *error)
{
    (void)error;
    *(bool *)owner = postgres_int(result, 0, 0) == 0;
    return OK;
}

enum outcome postgres_leave_empty(struct backend *backend, const struct instances *instances, bool *ret_left,
                                  struct error *error)
{
    struct postgres *postgres = (struct postgres *)backend;
    if (!postgres->conn || PQstatus(postgres->conn) != CONNECTION_OK)
        return error_outage(error, "store-connection", "%s: not connected", postgres->name);
    postgres->transaction = TRANSACTION_WANTED;
    add_turn(postgres);
    put_id(&postgres->parameters, instances);
    postgres_add(postgres,
                 postgres_print(postgres, "DELETE FROM @.instance WHERE id = $1 AND NOT (" ALONE
                                          " AND EXISTS (SELECT 1 FROM @.outbox_pack))"),
                 &PLAIN);
    put_id(&postgres->parameters, instances);
    postgres_add(
        postgres, postgres_print(postgres, "SELECT count(*) FROM @.instance WHERE id = $1"),
        &(struct postgres_step){.take = take_left, .owner = ret_left, .expected = -1, .what = "instance"});
    postgres_add(postgres, "COMMIT", &PLAIN);
    enum outcome outcome = ended(postgres, postgres_land(postgres, POSTGRES_LEAVE_MS, error), error);
    if (outcome == OK && *ret_left)
        postgres->instances = NULL;
    return outcome;
}

void postgres_leave(struct backend *backend, const struct instances *instances)
{
    struct postgres *postgres = (struct postgres *)backend;
    struct error ignored;
    postgres->instances = NULL;
    if (!postgres->conn || PQstatus(postgres->conn) != CONNECTION_OK)
        return; /* it will be found dead */
    postgres_rollback(backend);
    if (!postgres->conn)
        return;
    postgres->transaction = TRANSACTION_WANTED;
    postgres_parameters_clear(&postgres->parameters);
    put_id(&postgres->parameters, instances);
    postgres_add(postgres, postgres_print(postgres, "DELETE FROM @.instance WHERE id = $1"), &PLAIN);
    postgres_add(postgres, "COMMIT", &PLAIN);
    if (postgres_land(postgres, POSTGRES_LEAVE_MS, &ignored) == OK)
        postgres->transaction = TRANSACTION_NONE;
    else
        postgres_rollback(backend);
}
