/* emit: what handlers say. An event becomes an outbox row, a call a row of `calls`, both of the item's
 * transaction; what is for people and for metrics waits for its commit. */
#include "flow/context.h"

#include "base/clock.h"
#include "flow/trace.h"
#include "store/instances.h"
#include "store/outbox.h"

#include <stdio.h>

enum { EMIT_HEADERS = 8 };

void context_enter(struct context *context, struct id id, struct text traceparent)
{
    context->id = id;
    context->traceparent = traceparent;
    context->emitted = 0;
    context->repeated = false;
    log_trace(traceparent);
}

void *work_state(struct work *work)
{
    return ((struct context *)work_owner(work))->state;
}

int64_t work_now_us(const struct work *work)
{
    return ((const struct context *)work_owner(work))->now_us;
}

void work_repeated(struct work *work)
{
    ((struct context *)work_owner(work))->repeated = true;
}

struct registry *work_registry(const struct work *work)
{
    return ((const struct context *)work_owner(work))->registry;
}

/* The store's own (store/instances.h); here it is only counted in. */
struct instance_row {
    struct id id;
};
static const struct rows_column instance_columns[] = {ROWS_COLUMN(instance_row, id, ROWS_ID)};
static const struct rows_table instance_table = {.name = "instance",
                                                 .columns = instance_columns,
                                                 .column_count = 1,
                                                 .key_count = 1,
                                                 .row_bytes = sizeof(struct instance_row)};

static const struct instances *instances_of(const struct work *work)
{
    const struct instances *instances = ((const struct context *)work_owner(work))->instances;
    return instances && instances->shared ? instances : NULL;
}

struct id work_instance(const struct work *work)
{
    const struct instances *instances = instances_of(work);
    return instances ? instances->self : (struct id){{0}};
}

bool work_instance_lives(struct work *work, struct id instance)
{
    static const struct id none;
    const struct store_value id[] = {STORE_ID(&instance)};
    return instances_of(work) && !id_equal(instance, none) &&
           rows_count(work, &instance_table, "id = $1", id, 1) > 0;
}

/* The n-th event of a kind that this service makes of one thing has always the same id. */
static struct id emit_id(struct context *context, const struct event_type *type)
{
    size_t place = ((uintptr_t)type / sizeof(*type) + (size_t)context->emitted) % EMIT_NAMES;
    struct emit_name *known = &context->names[place];
    if (known->type != type || known->number != context->emitted) {
        char name[96];
        int length = snprintf(name, sizeof(name), "%s/%s/%d", context->service, type->name, context->emitted);
        *known = (struct emit_name){type, context->emitted, id_name_of((struct text){name, (size_t)length})};
    }
    return id_derive_named(context->id, &known->name);
}

static struct text source_of(struct context *context)
{
    if (!context->source[0])
        snprintf(context->source, sizeof(context->source), "/weir/%s", context->service);
    return text_of(context->source);
}

static struct text arena_text(struct arena *arena, const char *string)
{
    return text_copy(arena, text_of(string));
}

struct emitted {
    struct own *own;
    struct own_mark mark;
    struct id id;
};

static void remember(void *what)
{
    const struct emitted *emitted = what;
    own_add(emitted->own, &emitted->mark, emitted->id);
}

/* Where there is no room it is handled when it comes back. */
static void remember_after_commit(struct work *work, struct own *own, const struct outbox_row *row,
                                  struct text id)
{
    struct emitted *emitted = arena_take(work_arena(work), sizeof(*emitted));
    if (!emitted)
        return;
    *emitted = (struct emitted){own, own_mark_of(row->key, row->value), id_from_text(id)};
    work_after_commit(work, remember, emitted);
}

void work_emit_type(struct work *work, const struct event_type *type, const void *data,
                    const struct emit_as *as)
{
    struct context *context = work_owner(work);
    struct arena *arena = work_arena(work);
    struct error error;
    int32_t schema_id;
    struct id id = emit_id(context, type);
    context->emitted++;

    if (registry_id(context->registry, type, &schema_id, &error) != OK) {
        work_fail(work, &error);
        return;
    }
    buffer_clear(&context->scratch);
    frame_write(&context->scratch, schema_id);
    if (codec_encode(type->codec, data, &context->scratch, &error) != OK) {
        work_fail(work, &error);
        return;
    }

    char id_bytes[ID_TEXT_BYTES], time_bytes[CLOCK_RFC3339_BYTES_MAX],
        trace_bytes[HEADER_TRACEPARENT_BYTES + 1];
    struct text key = *(const struct text *)(const void *)((const char *)data + type->key_offset);
    struct text id_text = as && as->id.length ? as->id : id_to_text(id, id_bytes);
    struct text source = as && as->source.length ? as->source : source_of(context);
    struct text trace = as && as->traceparent.length ? as->traceparent : trace_next(context, id, trace_bytes);
    clock_to_rfc3339(as && as->time_us ? as->time_us : context->now_us, time_bytes);

    struct header *headers = arena_take(arena, EMIT_HEADERS * sizeof(*headers));
    struct text value = text_copy(arena, buffer_text(&context->scratch));
    struct text key_copy = text_copy(arena, key);
    if (!headers || !value.at || context->scratch.failed) {
        error_set(&error, RETRY, "memory", "%s: no room for it in this batch", type->name);
        work_fail(work, &error);
        return;
    }
    headers[0] = (struct header){TEXT(HEADER_SPECVERSION), TEXT("1.0")};
    headers[1] = (struct header){TEXT(HEADER_ID), text_copy(arena, id_text)};
    headers[2] = (struct header){TEXT(HEADER_SOURCE), text_copy(arena, source)};
    headers[3] = (struct header){TEXT(HEADER_TYPE), text_of(type->full_name)};
    headers[4] = (struct header){TEXT(HEADER_TIME), arena_text(arena, time_bytes)};
    headers[5] = (struct header){TEXT(HEADER_SUBJECT), key_copy};
    headers[6] = (struct header){TEXT(HEADER_CONTENT_TYPE), TEXT("application/avro")};
    headers[7] = (struct header){TEXT(HEADER_TRACEPARENT), text_copy(arena, trace)};

    const struct outbox_row row = {
        .topic = text_of(topic_get(type->topic)->name),
        .partition = -1,
        .key = key_copy,
        .value = value,
        .headers = headers,
        .header_count = EMIT_HEADERS,
        .created_us = context->now_us,
    };
    outbox_add(work, &row);
    if (context->own && as && as->effected)
        remember_after_commit(work, context->own, &row, id_text);
    if (context->spans && !(as && as->traceparent.length))
        trace_created(work, &row, type, headers[1].value, headers[7].value);
}

struct id work_call(struct work *work, const struct lane *lane, struct text key, struct text payload,
                    const char *name)
{
    struct context *context = work_owner(work);
    struct arena *arena = work_arena(work);
    char derived[128];
    int length = snprintf(derived, sizeof(derived), "%s/call/%s/%s", context->service, lane->name, name);
    if (length >= (int)sizeof(derived))
        length = sizeof(derived) - 1;
    char trace_bytes[HEADER_TRACEPARENT_BYTES + 1];
    struct id id = id_derive(context->id, (struct text){derived, (size_t)length});
    /* Where there are traces each attempt is a span of its own, and this is what they have in common. */
    struct text trace = context->spans && context->traceparent.length ? context->traceparent
                                                                      : trace_next(context, id, trace_bytes);
    struct call call = {
        .id = id,
        .lane = text_of(lane->name),
        .key = key,
        .payload = payload,
        .due_us = context->now_us,
        .state = CALL_WAITING,
        .traceparent = text_copy(arena, trace),
        .created_us = context->now_us,
    };
    lanes_add(context->lanes, work, lane, &call);
    return id;
}

/* ---- after the commit */

struct counted {
    struct metric *metric;
    int64_t by;
};

struct noted {
    const char *station, *message;
    struct text traceparent;
    enum log_level level;
    size_t field_count;
    struct log_field fields[];
};

static void count(void *what)
{
    const struct counted *counted = what;
    metric_add(counted->metric, counted->by);
}

static void note(void *what)
{
    const struct noted *noted = what;
    log_trace(noted->traceparent);
    log_write(noted->level, noted->station, noted->message, noted->fields, noted->field_count);
    log_trace(TEXT(""));
}

static void fail_memory(struct work *work)
{
    struct error error;
    error_set(&error, RETRY, "memory", "the batch is too large for its memory");
    work_fail(work, &error);
}

void work_count(struct work *work, struct metric *metric, int64_t by)
{
    struct counted *counted = arena_take(work_arena(work), sizeof(*counted));
    if (!counted) {
        fail_memory(work);
        return;
    }
    *counted = (struct counted){metric, by};
    work_after_commit(work, count, counted);
}

void work_note_fields(struct work *work, enum log_level level, const char *message,
                      const struct log_field *fields, size_t field_count)
{
    const struct context *context = work_owner(work);
    struct noted *noted = arena_take(work_arena(work), sizeof(*noted) + field_count * sizeof(*fields));
    if (!noted) {
        fail_memory(work);
        return;
    }
    *noted = (struct noted){
        .station = context->service, .message = message, .level = level, .field_count = field_count};
    noted->traceparent = text_copy(work_arena(work), context->traceparent);
    memcpy(noted->fields, fields, field_count * sizeof(*fields));
    work_after_commit(work, note, noted);
}
