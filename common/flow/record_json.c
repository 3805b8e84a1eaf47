#include "flow/record_json.h"

#include "base/digest.h"

enum { RAW_BYTES_MAX = 4 << 20, DATA_BYTES_MAX = 8 << 20 };

static void data_json(struct registry *registry, const struct record *record, struct arena *arena,
                      struct json_writer *writer, const struct event_type **ret_type)
{
    struct error error;
    struct text datum;
    int32_t schema_id;
    const struct codec_plan *plan;
    const void *data;
    *ret_type = NULL;
    if (record->value_null) {
        json_key(writer, "data");
        json_put_null(writer);
        return;
    }
    enum outcome outcome = frame_read(record->value, &schema_id, &datum, &error);
    if (outcome == OK)
        outcome = registry_plan(registry, schema_id, ret_type, &plan, &error);
    if (outcome == OK)
        outcome = codec_decode(plan, datum, arena, &data, &error);
    if (outcome == OK) {
        json_key(writer, "data");
        codec_to_json((*ret_type)->codec, data, writer);
        return;
    }
    struct buffer raw = buffer_of(RAW_BYTES_MAX);
    digest_to_base64(&raw, record->value.at, record->value.length);
    json_member_string(writer, "error", error.text);
    json_member_text(writer, "raw", buffer_text(&raw));
    buffer_free(&raw);
}

void record_to_json(struct registry *registry, const struct record *record, struct arena *arena,
                    struct buffer *into, void (*extra)(void *owner, struct json_writer *writer), void *owner)
{
    struct json_writer writer = json_writer(into);
    struct buffer data = buffer_of(DATA_BYTES_MAX);
    struct json_writer data_writer = json_writer(&data);
    const struct header *headers = NULL;
    const struct event_type *type;
    size_t header_count = 0;
    struct error error;
    if (record_headers(record, arena, &headers, &header_count, &error) != OK && header_count == 0)
        headers = NULL; /* of a record that has too many all are given */
    /* Decoded first: the type stands before the data in the object. */
    json_object_begin(&data_writer);
    data_json(registry, record, arena, &data_writer, &type);
    const struct header *named = header_find(headers, header_count, HEADER_TYPE);
    const struct header *id = header_find(headers, header_count, HEADER_ID);

    json_object_begin(&writer);
    json_member_text(&writer, "topic", record->topic);
    json_member_int(&writer, "partition", record->partition);
    json_member_int(&writer, "offset", record->offset);
    json_member_int(&writer, "timestamp", record->timestamp_ms);
    json_key(&writer, "key");
    if (record->key_null)
        json_put_null(&writer);
    else
        json_put_text(&writer, record->key);
    json_key(&writer, "type");
    if (type)
        json_put_text(&writer, text_of(type->full_name));
    else if (named)
        json_put_text(&writer, named->value);
    else
        json_put_null(&writer);
    json_key(&writer, "id");
    if (id)
        json_put_text(&writer, id->value);
    else
        json_put_null(&writer);
    json_key(&writer, "headers");
    json_array_begin(&writer);
    for (size_t i = 0; i < header_count; i++) {
        json_array_begin(&writer);
        json_put_text(&writer, headers[i].name);
        if (headers[i].value.at)
            json_put_text(&writer, headers[i].value);
        else
            json_put_null(&writer);
        json_array_end(&writer);
    }
    json_array_end(&writer);
    /* The members of data_writer's open object: everything after its brace. */
    buffer_add_char(into, ',');
    buffer_add_text(into, (struct text){data.at + 1, data.length - 1});
    if (extra)
        extra(owner, &writer);
    json_object_end(&writer);
    buffer_free(&data);
}
