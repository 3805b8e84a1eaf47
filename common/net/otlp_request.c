#include "net/otlp_request.h"

#include "base/digest.h"

#include <stdio.h>

static const char scope_name[] = "weir";

enum { STATUS_ERROR = 2, FLAG_HAS_IS_REMOTE = 0x100, FLAG_IS_REMOTE = 0x200 };

static uint32_t flags_of(const struct span *span)
{
    return (uint32_t)span->context.flags | FLAG_HAS_IS_REMOTE | (span->parent_remote ? FLAG_IS_REMOTE : 0);
}

static bool has_parent(const struct span *span)
{
    static const uint8_t none[SPAN_ID_BYTES];
    return memcmp(span->parent, none, sizeof(none)) != 0;
}

/* ---- protobuf: the few forms of opentelemetry/proto/trace/v1 and its like that are needed */

enum wire { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };
enum { VARINT_BYTES_MAX = 10 };

static size_t varint(uint64_t value, uint8_t into[VARINT_BYTES_MAX])
{
    size_t length = 0;
    for (; value >= 0x80; value >>= 7)
        into[length++] = (uint8_t)(value | 0x80);
    into[length++] = (uint8_t)value;
    return length;
}

static void put_varint(struct buffer *into, uint64_t value)
{
    uint8_t bytes[VARINT_BYTES_MAX];
    buffer_add(into, bytes, varint(value, bytes));
}

static void put_tag(struct buffer *into, unsigned field, enum wire wire)
{
    put_varint(into, field << 3 | wire);
}

static void put_number(struct buffer *into, unsigned field, uint64_t value)
{
    put_tag(into, field, WIRE_VARINT);
    put_varint(into, value);
}

static void put_fixed(struct buffer *into, unsigned field, uint64_t value, enum wire wire)
{
    uint8_t bytes[8];
    size_t length = wire == WIRE_FIXED64 ? 8 : 4;
    put_tag(into, field, wire);
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(value >> 8 * i);
    buffer_add(into, bytes, length);
}

static void put_bytes(struct buffer *into, unsigned field, const void *bytes, size_t count)
{
    put_tag(into, field, WIRE_BYTES);
    put_varint(into, count);
    buffer_add(into, bytes, count);
}

/* Protobuf's strings are UTF-8, and a decoder refuses all of a message for one that is not. */
static void put_string(struct buffer *into, unsigned field, struct text text)
{
    if (text_is_utf8(text)) {
        put_bytes(into, field, text.at, text.length);
        return;
    }
    put_tag(into, field, WIRE_BYTES);
    put_varint(into, text.length);
    for (size_t i = 0; i < text.length; i++)
        buffer_add_char(into, (unsigned char)text.at[i] < 0x80 ? text.at[i] : '?');
}

/* A message inside: its length is put in front of it when it is known. */
static size_t message_begin(struct buffer *into, unsigned field)
{
    put_tag(into, field, WIRE_BYTES);
    return into->length;
}

static void message_end(struct buffer *into, size_t at)
{
    uint8_t bytes[VARINT_BYTES_MAX];
    size_t inside = into->length - at, length = varint(inside, bytes);
    buffer_add(into, bytes, length);
    if (into->failed)
        return;
    memmove(into->at + at + length, into->at + at, inside);
    memcpy(into->at + at, bytes, length);
}

static void put_text_attribute(struct buffer *into, unsigned field, struct text name, struct text value)
{
    size_t pair = message_begin(into, field);
    put_string(into, 1, name);
    size_t any = message_begin(into, 2);
    put_string(into, 1, value);
    message_end(into, any);
    message_end(into, pair);
}

static void put_int_attribute(struct buffer *into, unsigned field, struct text name, int64_t value)
{
    size_t pair = message_begin(into, field);
    put_string(into, 1, name);
    size_t any = message_begin(into, 2);
    put_number(into, 3, (uint64_t)value);
    message_end(into, any);
    message_end(into, pair);
}

static void protobuf_begin(struct otlp_request *request, const struct otlp_resource *resource)
{
    struct buffer *into = &request->into;
    request->resource_spans_at = message_begin(into, 1);
    size_t at = message_begin(into, 1);
    for (size_t i = 0; i < resource->count; i++)
        put_text_attribute(into, 1, resource->attributes[i].name, resource->attributes[i].value);
    message_end(into, at);
    request->scope_spans_at = message_begin(into, 2);
    at = message_begin(into, 1);
    put_string(into, 1, text_of(scope_name));
    put_string(into, 2, resource->version);
    message_end(into, at);
}

static void protobuf_add(struct buffer *into, const struct span *span)
{
    size_t at = message_begin(into, 2);
    put_bytes(into, 1, span->context.trace, sizeof(span->context.trace));
    put_bytes(into, 2, span->context.id, sizeof(span->context.id));
    if (has_parent(span))
        put_bytes(into, 4, span->parent, sizeof(span->parent));
    put_string(into, 5, (struct text){span->name, span->name_length});
    put_number(into, 6, span->kind);
    put_fixed(into, 7, (uint64_t)span->start_us * 1000, WIRE_FIXED64);
    put_fixed(into, 8, (uint64_t)span->end_us * 1000, WIRE_FIXED64);
    for (size_t i = 0; i < span->attribute_count; i++) {
        const struct span_attribute *attribute = &span->attributes[i];
        struct text name = text_of(attribute->name);
        if (attribute->is_text)
            put_text_attribute(into, 9, name, span_attribute_text(span, attribute));
        else
            put_int_attribute(into, 9, name, attribute->number);
    }
    if (span->failed) {
        size_t status = message_begin(into, 15);
        if (span->status_length)
            put_string(into, 2, span_status(span));
        put_number(into, 3, STATUS_ERROR);
        message_end(into, status);
    }
    put_fixed(into, 16, flags_of(span), WIRE_FIXED32);
    message_end(into, at);
}

/* ---- JSON: protobuf's mapping, but ids in hex and enums as numbers, as OTLP says */

static void json_text_attribute(struct json_writer *json, struct text name, struct text value)
{
    json_object(json);
    json_member_text(json, "key", name);
    json_key(json, "value");
    json_object(json);
    json_member_text(json, "stringValue", value);
    json_object_end(json);
    json_object_end(json);
}

/* 64 bits are text: a JSON number may be a double. */
static void json_number(struct json_writer *json, const char *name, int64_t value)
{
    char digits[24];
    snprintf(digits, sizeof(digits), "%lld", (long long)value);
    json_member_string(json, name, digits);
}

static void json_id(struct json_writer *json, const char *name, const uint8_t *bytes, size_t count)
{
    char hex[2 * SPAN_TRACE_BYTES];
    digest_to_hex(bytes, count, hex);
    json_member_text(json, name, (struct text){hex, 2 * count});
}

static void json_begin(struct otlp_request *request, const struct otlp_resource *resource)
{
    struct json_writer *json = &request->json;
    *json = json_writer(&request->into);
    json_object(json);
    json_key(json, "resourceSpans");
    json_array(json);
    json_object(json);
    json_key(json, "resource");
    json_object(json);
    json_key(json, "attributes");
    json_array(json);
    for (size_t i = 0; i < resource->count; i++)
        json_text_attribute(json, resource->attributes[i].name, resource->attributes[i].value);
    json_array_end(json);
    json_object_end(json);
    json_key(json, "scopeSpans");
    json_array(json);
    json_object(json);
    json_key(json, "scope");
    json_object(json);
    json_member_string(json, "name", scope_name);
    json_member_text(json, "version", resource->version);
    json_object_end(json);
    json_key(json, "spans");
    json_array(json);
}

static void json_add(struct json_writer *json, const struct span *span)
{
    json_object(json);
    json_id(json, "traceId", span->context.trace, sizeof(span->context.trace));
    json_id(json, "spanId", span->context.id, sizeof(span->context.id));
    if (has_parent(span))
        json_id(json, "parentSpanId", span->parent, sizeof(span->parent));
    json_member_int(json, "flags", flags_of(span));
    json_member_text(json, "name", (struct text){span->name, span->name_length});
    json_member_int(json, "kind", span->kind);
    json_number(json, "startTimeUnixNano", span->start_us * 1000);
    json_number(json, "endTimeUnixNano", span->end_us * 1000);
    json_key(json, "attributes");
    json_array(json);
    for (size_t i = 0; i < span->attribute_count; i++) {
        const struct span_attribute *attribute = &span->attributes[i];
        if (attribute->is_text) {
            json_text_attribute(json, text_of(attribute->name), span_attribute_text(span, attribute));
            continue;
        }
        json_object(json);
        json_member_string(json, "key", attribute->name);
        json_key(json, "value");
        json_object(json);
        json_number(json, "intValue", attribute->number);
        json_object_end(json);
        json_object_end(json);
    }
    json_array_end(json);
    json_key(json, "status");
    json_object(json);
    if (span->failed) {
        json_member_text(json, "message", span_status(span));
        json_member_int(json, "code", STATUS_ERROR);
    }
    json_object_end(json);
    json_object_end(json);
}

/* ---- either */

void otlp_request_begin(struct otlp_request *request, const struct otlp_resource *resource)
{
    buffer_clear(&request->into);
    request->into.failed = false;
    request->count = 0;
    if (request->as_json)
        json_begin(request, resource);
    else
        protobuf_begin(request, resource);
}

void otlp_request_add(struct otlp_request *request, const struct span *span)
{
    request->count++;
    if (request->as_json)
        json_add(&request->json, span);
    else
        protobuf_add(&request->into, span);
}

void otlp_request_end(struct otlp_request *request)
{
    if (!request->as_json) {
        message_end(&request->into, request->scope_spans_at);
        message_end(&request->into, request->resource_spans_at);
        return;
    }
    for (int open = 0; open < 2; open++) { /* spans and scopeSpans, then resourceSpans */
        json_array_end(&request->json);
        json_object_end(&request->json);
    }
    json_array_end(&request->json);
    json_object_end(&request->json);
}
