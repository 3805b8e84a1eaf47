/*
 * order_events: POST /v1/events, the door for upstream systems that speak HTTP. CloudEvents 1.0, binary mode
 * (ce-… headers, the body is the data: JSON, or Avro framed as on Kafka) and structured mode
 * (application/cloudevents+json). What comes in is put onto its topic under the sender's id and source, where
 * every service, this one included, reads it as any other event.
 */
#include "order/order.h"

enum {
    EVENT_BODY_BYTES_MAX = 900000, /* so that the record stays under the broker's 1 MB */
    EVENT_ID_BYTES_MAX = 256,
    EVENT_SOURCE_BYTES_MAX = 1024,
};

int order_events_admit(const void *state, const struct request *request, const char **ret_detail)
{
    const struct order_state *order = state;
    if (!order->events_secret)
        return 0;
    if (digest_signature_valid(text_of(order->events_secret), request_header(request, "weir-signature"),
                               request->body, clock_wall_us() / 1000000))
        return 0;
    *ret_detail = "Weir-Signature is missing, wrong or older than 300 s";
    return 401;
}

/* What a CloudEvent says of itself, in either mode. */
struct envelope {
    struct text id, source, type, specversion, time, traceparent, content_type;
    const json_t *data;
    bool avro; /* in the body */
};

struct reading {
    struct work *work;
    const struct request *request;
    struct answer *answer;
    struct codec_faults faults;
    json_t *json; /* of the body; released by events_take */
};

/* Header values are percent-encoded UTF-8 (CloudEvents HTTP binding 3.1.3.2); a lone % stands for itself. */
static struct text header_value(struct reading *reading, const char *name)
{
    struct text value = request_header(reading->request, name);
    if (!value.length || !memchr(value.at, '%', value.length))
        return value;
    char *at = arena_take(work_arena(reading->work), value.length);
    if (!at)
        return (struct text){NULL, 0};
    size_t length = 0;
    for (size_t i = 0; i < value.length; i++) {
        uint8_t byte;
        if (value.at[i] == '%' && value.length - i > 2 &&
            digest_from_hex((struct text){value.at + i + 1, 2}, &byte, 1)) {
            at[length++] = (char)byte;
            i += 2;
        } else {
            at[length++] = value.at[i];
        }
    }
    return (struct text){at, length};
}

static bool is_json_type(struct text type)
{
    for (size_t i = 0; i < type.length; i++)
        if (type.at[i] == ';') {
            type.length = i;
            break;
        }
    while (type.length && type.at[type.length - 1] == ' ')
        type.length--;
    const struct text suffix = TEXT("+json");
    return text_equal_nocase(type, TEXT("application/json")) ||
           (type.length > suffix.length &&
            text_equal_nocase((struct text){type.at + type.length - suffix.length, suffix.length}, suffix));
}

/* False: answered. */
static bool read_json(struct reading *reading)
{
    struct error error;
    if (json_read_request(reading->request->body, &reading->json, &error) == OK &&
        json_is_object(reading->json))
        return true;
    answer_problem(reading->work, reading->answer, !reading->json && json_is_ambiguous(&error) ? 422 : 400,
                   "%s", reading->json ? "not a JSON object" : error.text);
    return false;
}

static struct text structured_text(struct reading *reading, const char *name)
{
    const json_t *member = json_object_get(reading->json, name);
    if (member && !json_is_string(member) && !json_is_null(member))
        codec_fault_add(&reading->faults, "must be a text", "%s", name);
    return json_text(reading->json, name);
}

static void read_structured(struct reading *reading, struct envelope *envelope)
{
    *envelope = (struct envelope){
        .id = structured_text(reading, "id"),
        .source = structured_text(reading, "source"),
        .type = structured_text(reading, "type"),
        .specversion = structured_text(reading, "specversion"),
        .time = structured_text(reading, "time"),
        .traceparent = structured_text(reading, "traceparent"),
        .content_type = structured_text(reading, "datacontenttype"),
        .data = json_object_get(reading->json, "data"),
    };
    if (envelope->content_type.length && !is_json_type(envelope->content_type))
        codec_fault_add(&reading->faults, "must be JSON in a structured event; Avro goes in binary mode",
                        "datacontenttype");
    if (!json_is_object(envelope->data))
        codec_fault_add(&reading->faults, "must be an object", "data");
}

static void read_binary(struct reading *reading, struct envelope *envelope)
{
    *envelope = (struct envelope){
        .id = header_value(reading, "ce-id"),
        .source = header_value(reading, "ce-source"),
        .type = header_value(reading, "ce-type"),
        .specversion = header_value(reading, "ce-specversion"),
        .time = header_value(reading, "ce-time"),
        .traceparent = header_value(reading, "ce-traceparent"),
        .content_type = reading->request->content_type,
        .data = reading->json,
    };
}

static void check_text(struct reading *reading, struct text text, const char *name, size_t bytes_max)
{
    bool clean = text.length <= bytes_max && text_is_utf8(text);
    for (size_t i = 0; i < text.length && clean; i++)
        clean = (unsigned char)text.at[i] >= 0x20 && text.at[i] != 0x7f;
    if (!clean)
        codec_fault_add(&reading->faults, "is too long or has characters that cannot be in it", "%s", name);
}

static void check_envelope(struct reading *reading, const struct envelope *envelope, struct emit_as *ret_as)
{
    struct codec_faults *faults = &reading->faults;
    if (!text_is(envelope->specversion, "1.0"))
        codec_fault_add(faults, "must be 1.0", "specversion");
    if (!envelope->source.length)
        codec_fault_add(faults, "is missing", "source");
    check_text(reading, envelope->id, "id", EVENT_ID_BYTES_MAX);
    check_text(reading, envelope->source, "source", EVENT_SOURCE_BYTES_MAX);
    *ret_as = (struct emit_as){.id = envelope->id, .source = envelope->source};
    if (envelope->time.length && !clock_from_rfc3339(envelope->time, &ret_as->time_us))
        codec_fault_add(faults, "must be a time in RFC 3339", "time");
    if (traceparent_valid(envelope->traceparent))
        ret_as->traceparent = envelope->traceparent;
}

static void check_avro_type(struct reading *reading, const struct envelope *envelope,
                            const struct event_type *type)
{
    if (envelope->type.length && event_type_find(envelope->type) != type)
        codec_fault_add(&reading->faults, "contradicts the schema of the body", "type");
}

/* The data of the event. *ret_data stays NULL where there are faults. */
static enum outcome read_data(struct reading *reading, const struct envelope *envelope,
                              const struct event_type **ret_type, const void **ret_data, struct error *error)
{
    struct arena *arena = work_arena(reading->work);
    enum outcome outcome;
    if (!envelope->avro) {
        const struct event_type *type = event_type_find(envelope->type);
        if (!type)
            codec_fault_add(&reading->faults,
                            envelope->type.length ? "is no event of this system" : "is missing", "type");
        if (!type || reading->faults.count)
            return OK;
        void *data;
        outcome = codec_from_json(type->codec, envelope->data, arena, &data, &reading->faults, error);
        if (outcome == OK) {
            *ret_type = type;
            *ret_data = data;
        }
        return outcome == REJECT ? OK : outcome;
    }
    int32_t schema_id;
    struct text datum;
    const struct codec_plan *plan;
    outcome = frame_read(reading->request->body, &schema_id, &datum, error);
    if (outcome == OK)
        outcome = registry_plan(work_registry(reading->work), schema_id, ret_type, &plan, error);
    if (outcome == OK)
        outcome = codec_decode(plan, datum, arena, ret_data, error);
    if (outcome == REJECT) {
        codec_fault_add(&reading->faults, error->text, "data");
        *ret_data = NULL;
        return OK;
    }
    if (outcome == OK)
        check_avro_type(reading, envelope, *ret_type);
    return outcome;
}

/* False: answered. */
static bool read_envelope(struct reading *reading, struct envelope *envelope)
{
    const struct request *request = reading->request;
    if (request->body.length > EVENT_BODY_BYTES_MAX) {
        answer_problem(reading->work, reading->answer, 413, "an event has at most %d bytes",
                       EVENT_BODY_BYTES_MAX);
        return false;
    }
    bool structured = text_is(request->content_type, "application/cloudevents+json");
    bool avro = text_is(request->content_type, "application/avro");
    if (!structured && !avro && !is_json_type(request->content_type)) {
        answer_problem(
            reading->work, reading->answer, 422,
            "Content-Type must be application/cloudevents+json, application/json or application/avro");
        return false;
    }
    if (!avro && !read_json(reading))
        return false;
    if (structured)
        read_structured(reading, envelope);
    else
        read_binary(reading, envelope);
    envelope->avro = avro;
    return true;
}

enum outcome order_events_take(struct work *work, const struct request *request, struct answer *answer,
                               struct error *error)
{
    struct reading reading = {.work = work, .request = request, .answer = answer};
    struct envelope envelope;
    struct emit_as as;
    const struct event_type *type = NULL;
    const void *data = NULL;
    enum outcome outcome = OK;

    if (!read_envelope(&reading, &envelope))
        goto out;
    check_envelope(&reading, &envelope, &as);
    outcome = read_data(&reading, &envelope, &type, &data, error);
    if (outcome != OK)
        goto out;
    if (data && !event_lower_id(type, data, work_arena(work))) {
        outcome = error_retry(error, "memory", "out of memory");
        goto out;
    }
    if (data)
        (void)event_valid(type, data, &reading.faults);
    if (reading.faults.count || !data) {
        answer_faults(work, answer, &reading.faults);
        goto out;
    }
    work_emit_type(work, type, data, &as);

    struct buffer body = buffer_of(ANSWER_BODY_BYTES_MAX);
    struct json_writer writer = json_writer(&body);
    json_object_begin(&writer);
    json_member_string(&writer, "status", "accepted");
    json_object_end(&writer);
    answer_json(work, answer, 202, &body);
out:
    json_decref(reading.json);
    return outcome;
}
