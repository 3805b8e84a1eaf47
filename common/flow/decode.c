#include "flow/decode.h"

#include "base/clock.h"

#include <assert.h>
#include <stdio.h>

enum outcome decode_open(struct decode *decode, const struct subscription *subscriptions,
                         struct registry *registry, struct error *error)
{
    *decode = (struct decode){.registry = registry};
    for (const struct subscription *subscription = subscriptions; subscription && subscription->type;
         subscription++) {
        int number = subscription->type->number;
        assert(number > 0 && number < DECODE_TYPES_MAX);
        if (decode->by_number[number])
            return error_fatal(error, "subscription", "%s is subscribed to twice", subscription->type->name);
        decode->by_number[number] = subscription;
    }
    return OK;
}

struct id decode_origin_id(struct text topic, int32_t partition, int64_t offset)
{
    char origin[TOPIC_NAME_BYTES_MAX + 256];
    int length =
        snprintf(origin, sizeof(origin), "%.*s/%d/%lld", TEXT_ARG(topic), (int)partition, (long long)offset);
    if (length >= (int)sizeof(origin))
        length = sizeof(origin) - 1;
    return id_from_text((struct text){origin, (size_t)length});
}

static void event_from_headers(struct event *event, const struct record *record, const struct header *headers,
                               size_t count)
{
    const struct header *id = header_find(headers, count, HEADER_ID);
    event->id = id && id->value.length ? id_from_text(id->value)
                                       : decode_origin_id(record->topic, record->partition, record->offset);
    const struct header *source = header_find(headers, count, HEADER_SOURCE);
    event->source = source ? source->value : TEXT("");
    const struct header *trace = header_find(headers, count, HEADER_TRACEPARENT);
    event->traceparent = trace && traceparent_valid(trace->value) ? trace->value : TEXT("");
    const struct header *time = header_find(headers, count, HEADER_TIME);
    if (!time || !clock_from_rfc3339(time->value, &event->time_us))
        event->time_us = 1000 * (record->timestamp_ms < RECORD_TIMESTAMP_MS_MAX ? record->timestamp_ms
                                                                                : RECORD_TIMESTAMP_MS_MAX);
}

enum outcome decode_record(const struct decode *decode, const struct record *record,
                           const struct header *headers, size_t header_count, struct arena *arena,
                           struct decoded *ret, struct error *error)
{
    *ret = (struct decoded){0};
    enum topic_id topic = TOPIC_COUNT;
    const struct topic *declared = topic_find(record->topic, &topic);
    const struct event_type *type = NULL;
    const struct codec_plan *plan;
    int32_t schema_id;
    struct text datum;

    if (record->value_null) {
        if (declared && declared->compacted)
            return OK;
        return error_reject(error, "null", "the record has no value");
    }
    enum outcome outcome = frame_read(record->value, &schema_id, &datum, error);
    if (outcome != OK)
        return outcome;
    struct error unsaid, *why = error ? error : &unsaid;
    outcome = registry_plan(decode->registry, schema_id, &type, &plan, why);
    if (outcome == REJECT && strcmp(why->cause, "schema-foreign") == 0)
        return OK; /* what it is can be told: nothing for anybody here */
    const struct subscription *subscription =
        type && type->number < DECODE_TYPES_MAX ? decode->by_number[type->number] : NULL;
    if (type && (!subscription || (declared && type->topic != topic)))
        return OK;
    if (outcome != OK)
        return outcome;

    const struct header *named = header_find(headers, header_count, HEADER_TYPE);
    if (named && !text_is(named->value, type->full_name) && !text_is(named->value, type->name))
        return error_reject(error, "type-contradiction", "ce_type says %.*s, the schema is %s",
                            TEXT_ARG(named->value), type->full_name);

    struct event *event = &ret->event;
    event->type = type;
    event->key = record->key;
    event->topic = type->topic;
    event_from_headers(event, record, headers, header_count);
    if (!arena) {
        ret->subscription = subscription;
        return OK;
    }
    outcome = codec_decode(plan, datum, arena, &event->data, error);
    if (outcome != OK) {
        error_prefix(error, "%s", type->name);
        return outcome;
    }
    if (!event_lower_id(type, event->data, arena))
        return error_retry(error, "memory", "%s: no room for it in this batch", type->name);
    struct text key = *(const struct text *)(const void *)((const char *)event->data + type->key_offset);
    if (record->key_null || !event_same_key(type, record->key, key))
        return error_reject(error, "key-contradiction", "%s: the record's key is not its %s", type->name,
                            topic_get(type->topic)->key_field);

    event->key = key;
    ret->subscription = subscription;
    return OK;
}
