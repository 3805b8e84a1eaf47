#include "flow/letter.h"

#include "base/clock.h"
#include "base/digest.h"

#include <stdio.h>

enum {
    LETTER_HEADERS = 16, /* that a copy may have more than its letter */
    LETTER_MESSAGE_BYTES_MAX = 256,
};

static const char dlq_prefix[] = "dlq.", group_prefix[] = "weir-";

const char *letter_state_name(enum letter_state state)
{
    static const char *const names[] = {"open", "redriven", "dropped"};
    return names[state];
}

struct text letter_header(const struct letter *letter, const char *name)
{
    const struct header *header = header_find(letter->headers, letter->header_count, name);
    return header ? header->value : TEXT("");
}

/* ---- reading */

/* The service whose name stands behind the prefix, or NULL. */
static const char *service_behind(struct text name, const char *prefix)
{
    size_t length = strlen(prefix);
    if (name.length <= length || memcmp(name.at, prefix, length) != 0)
        return NULL;
    for (const char *const *service = topic_services; *service; service++)
        if (text_is((struct text){name.at + length, name.length - length}, *service))
            return *service;
    return NULL;
}

static struct text type_of(const struct letter *letter, struct registry *registry)
{
    struct error error;
    struct text datum;
    int32_t schema_id;
    const struct event_type *type;
    const struct codec_plan *plan;
    const struct record *record = letter->record;
    if (registry && !record->value_null && frame_read(record->value, &schema_id, &datum, &error) == OK &&
        registry_plan(registry, schema_id, &type, &plan, &error) == OK)
        return text_of(type->full_name);
    return letter_header(letter, HEADER_TYPE);
}

/* Those who write no fingerprint name the exception: stable across letters of one cause, as ours is. */
static struct text fingerprint_of(const struct letter *letter, struct arena *arena)
{
    if (letter->origin.fingerprint.length || !letter->origin.class.length)
        return letter->origin.fingerprint;
    uint8_t digest[DIGEST_BYTES];
    char *hex = arena_take(arena, LETTER_FINGERPRINT_BYTES);
    const char *story =
        arena_print(arena, "%.*s/%.*s", TEXT_ARG(letter->origin.group), TEXT_ARG(letter->origin.class));
    if (!hex || !story)
        return TEXT("");
    digest_sha256(text_of(story), digest);
    digest_to_hex(digest, LETTER_FINGERPRINT_BYTES / 2, hex);
    return (struct text){hex, LETTER_FINGERPRINT_BYTES};
}

static struct text id_of(const struct letter *letter, struct arena *arena)
{
    struct text id = letter_header(letter, HEADER_ID);
    const struct origin *origin = &letter->origin;
    if (id.length || origin->kind == ORIGIN_NONE)
        return id;
    return text_of(arena_print(arena, "%.*s/%d/%lld", TEXT_ARG(origin->topic), (int)origin->partition,
                               (long long)origin->offset));
}

void letter_read(const struct record *record, const struct header *headers, size_t header_count,
                 struct registry *registry, struct arena *arena, struct letter *ret)
{
    *ret = (struct letter){.record = record, .headers = headers, .header_count = header_count};
    origin_read(headers, header_count, &ret->origin);
    ret->service = service_behind(record->topic, dlq_prefix);
    ret->foreign = !ret->service;
    if (ret->foreign)
        ret->service = service_behind(ret->origin.group, group_prefix);
    ret->type = type_of(ret, registry);
    ret->id = id_of(ret, arena);
    ret->fingerprint = fingerprint_of(ret, arena);
}

uint64_t letter_delivery(const struct letter *letter)
{
    /* Hashes of hashes: none of the parts can be mistaken for the end of another. */
    const uint64_t parts[] = {text_hash(text_of(letter->service)), text_hash(letter->id),
                              (uint64_t)letter->origin.deliveries};
    return text_hash((struct text){(const char *)parts, sizeof(parts)});
}

/* ---- filter */

bool letter_matches(const struct letter_filter *filter, const struct letter *letter)
{
    const struct record *record = letter->record;
    int64_t time_us = record->timestamp_ms * 1000;
    if (filter->at && (record->partition != filter->partition || record->offset != filter->offset))
        return false;
    if (filter->since_us && time_us < filter->since_us)
        return false;
    if (filter->until_us && time_us >= filter->until_us)
        return false;
    if (filter->service && (!letter->service || strcmp(letter->service, filter->service) != 0))
        return false;
    if (filter->class && !text_is(letter->origin.class, filter->class))
        return false;
#ifndef WEIR_MUTANT_FINGERPRINT_IGNORED
    if (filter->fingerprint && !text_is(letter->fingerprint, filter->fingerprint))
        return false;
#endif
    if (filter->id && !text_is(letter->id, filter->id))
        return false;
    if (filter->key && (record->key_null || !text_is(record->key, filter->key)))
        return false;
    if (filter->type) {
        const struct event_type *type = event_type_find(text_of(filter->type));
        if (!text_is(letter->type, type ? type->full_name : filter->type))
            return false;
    }
    return true;
}

/* ---- the copy */

struct rewriting {
    struct arena *arena;
    struct header *headers;
    size_t count;
    bool failed;
};

static void put(struct rewriting *rewriting, const char *name, struct text value)
{
    rewriting->failed = rewriting->failed || (value.length > 0 && !value.at);
    rewriting->headers[rewriting->count++] = (struct header){text_of(name), value};
}

static void put_number(struct rewriting *rewriting, const char *name, int64_t number)
{
    const char *text = arena_print(rewriting->arena, "%lld", (long long)number);
    rewriting->failed = rewriting->failed || !text;
    put(rewriting, name, text_of(text));
}

/* What every copy to a retry topic replaces. */
static bool is_replaced(struct text name, bool drop)
{
    static const char *const always[] = {HEADER_ATTEMPT,    HEADER_DUE_AT,     HEADER_DROP,
                                         HEADER_DROPPED_AT, HEADER_DROPPED_BY, NULL};
    static const char *const by_redrive[] = {HEADER_REDRIVES, HEADER_REDRIVEN_AT, HEADER_REDRIVEN_BY, NULL};
    for (const char *const *one = always; *one; one++)
        if (text_is(name, *one))
            return true;
    for (const char *const *one = by_redrive; !drop && *one; one++)
        if (text_is(name, *one))
            return true;
    return false;
}

static void put_origin(struct rewriting *rewriting, const struct origin *origin)
{
    struct text message = origin->message;
    if (message.length > LETTER_MESSAGE_BYTES_MAX)
        message.length = LETTER_MESSAGE_BYTES_MAX;
    put(rewriting, HEADER_ERRORS_TOPIC, origin->topic);
    if (origin->partition >= 0)
        put_number(rewriting, HEADER_ERRORS_PARTITION, origin->partition);
    if (origin->offset >= 0)
        put_number(rewriting, HEADER_ERRORS_OFFSET, origin->offset);
    put(rewriting, HEADER_ERRORS_GROUP, origin->group);
    /* It was tried once at least, or it would be no dead letter. */
    put_number(rewriting, HEADER_ERRORS_DELIVERY_COUNT, origin->deliveries > 0 ? origin->deliveries : 1);
    put(rewriting, HEADER_ERRORS_MESSAGE, message);
}

static void rewrite_for_retry(struct rewriting *rewriting, const struct letter *letter,
                              const struct letter_order *order)
{
    bool made = letter->origin.kind != ORIGIN_WEIR; /* __dlq.errors.* */
    for (size_t i = 0; i < letter->header_count; i++) {
        struct text name = letter->headers[i].name;
        if (!is_replaced(name, order->drop) && !(made && origin_is_ours(name)))
            rewriting->headers[rewriting->count++] = letter->headers[i];
    }
    if (made)
        put_origin(rewriting, &letter->origin);

    char now[CLOCK_RFC3339_BYTES_MAX];
    struct text at = text_copy(rewriting->arena, text_of(clock_to_rfc3339(order->now_us, now)));
    rewriting->failed = rewriting->failed || !at.at;
    put(rewriting, HEADER_ATTEMPT, TEXT("0"));
    put(rewriting, HEADER_DUE_AT, at);
    if (order->drop) {
        put(rewriting, HEADER_DROP, text_of(order->reason));
        put(rewriting, HEADER_DROPPED_AT, at);
        put(rewriting, HEADER_DROPPED_BY, text_of(order->by));
    } else {
        put_number(rewriting, HEADER_REDRIVES, (int64_t)letter->origin.redrives + 1);
        put(rewriting, HEADER_REDRIVEN_AT, at);
        put(rewriting, HEADER_REDRIVEN_BY, text_of(order->by));
    }
}

static void rewrite_for_home(struct rewriting *rewriting, const struct letter *letter)
{
    for (size_t i = 0; i < letter->header_count; i++)
        if (!origin_is_ours(letter->headers[i].name) && !origin_is_foreign(letter->headers[i].name))
            rewriting->headers[rewriting->count++] = letter->headers[i];
}

enum outcome letter_copy(const struct letter *letter, const struct letter_order *order, struct arena *arena,
                         struct producer_record *ret, bool *ret_send, struct error *error)
{
    const struct record *record = letter->record;
    struct rewriting rewriting = {.arena = arena};
    if (letter->origin.kind == ORIGIN_NONE)
        return error_reject(error, "origin", "its headers do not say where it came from");
    if (!letter->service && text_equal(letter->origin.topic, record->topic))
        return error_reject(error, "origin", "its headers name the topic on which it lies");

    rewriting.headers = arena_take(arena, (letter->header_count + LETTER_HEADERS) * sizeof(struct header));
    if (!rewriting.headers)
        return error_reject(error, "memory", "no room for a copy of its headers");
    struct text topic = letter->origin.topic;
    if (letter->service) {
        char name[TOPIC_NAME_BYTES_MAX];
        topic = text_copy(arena, text_of(topic_retry(letter->service, order->first_delay_ms, name)));
#ifdef WEIR_MUTANT_REDRIVE_TO_SOURCE
        topic = letter->origin.topic;
#endif
        rewrite_for_retry(&rewriting, letter, order);
    } else {
        rewrite_for_home(&rewriting, letter);
    }
    if (rewriting.failed || !topic.at)
        return error_reject(error, "memory", "no room for a copy of its headers");
    *ret = (struct producer_record){
        .topic = topic,
        .partition = -1,
        .key = record->key,
        .value = record->value,
        .key_null = record->key_null,
        .value_null = record->value_null,
        .headers = rewriting.headers,
        .header_count = rewriting.count,
    };
    *ret_send = letter->service || !order->drop;
    return OK;
}
