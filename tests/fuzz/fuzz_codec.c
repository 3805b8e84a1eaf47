/*
 * fuzz_codec: the value of a Kafka record, as it would come from anybody.
 *
 * The frame's schema id chooses what reads the rest: 101 … 1301 the events' own plans, 1 … RESOLUTIONS the
 * pairs of schemas below. What holds for any bytes: no sanitizer has anything to say; memory is at most
 * proportional to the bytes; straight-line and table-driven code agree; and of what we accept as an event:
 * avro-c accepts it, too, with the same values, and what we write again reads back the same.
 */
#include "fuzz.h"
#include "support/avro_value.h"
#include "support/samples.h"
#include "wire/events.h"
#include "wire/schema.h"

enum { BYTES_MAX = 64 << 20, EVENTS_MAX = 64 };

/* Writer, reader: between them every step of a plan. */
static const char *const resolutions[][2] = {
    {"{\"type\":\"record\",\"name\":\"R\",\"fields\":["
     "{\"name\":\"n\",\"type\":\"int\"},{\"name\":\"s\",\"type\":\"string\"},{\"name\":\"b\",\"type\":"
     "\"bytes\"},"
     "{\"name\":\"f\",\"type\":\"float\"},{\"name\":\"e\",\"type\":{\"type\":\"enum\",\"name\":\"E\","
     "\"symbols\":[\"A\",\"B\",\"C\"]}},"
     "{\"name\":\"u\",\"type\":[\"null\",\"int\",\"string\",{\"type\":\"array\",\"items\":\"boolean\"}]}]}",
     "{\"type\":\"record\",\"name\":\"R\",\"fields\":["
     "{\"name\":\"u\",\"type\":[\"double\",\"null\",\"bytes\",{\"type\":\"array\",\"items\":\"boolean\"}]},"
     "{\"name\":\"e\",\"type\":{\"type\":\"enum\",\"name\":\"E\",\"symbols\":[\"C\",\"A\"],\"default\":\"A\"}"
     "},"
     "{\"name\":\"f\",\"type\":\"double\"},{\"name\":\"b\",\"type\":\"string\"},{\"name\":\"s\",\"type\":"
     "\"bytes\"},"
     "{\"name\":\"m\",\"aliases\":[\"n\"],\"type\":[\"null\",\"long\"]},"
     "{\"name\":\"d\",\"type\":{\"type\":\"map\",\"values\":\"long\"},\"default\":{\"x\":1}}]}"},
    /* everything skipped */
    {"{\"type\":\"record\",\"name\":\"R\",\"fields\":["
     "{\"name\":\"a\",\"type\":{\"type\":\"array\",\"items\":{\"type\":\"map\",\"values\":[\"null\","
     "\"string\",\"double\"]}}},"
     "{\"name\":\"x\",\"type\":{\"type\":\"fixed\",\"name\":\"F\",\"size\":3}},"
     "{\"name\":\"r\",\"type\":{\"type\":\"record\",\"name\":\"Q\",\"fields\":[{\"name\":\"o\",\"type\":"
     "\"boolean\"},"
     "{\"name\":\"l\",\"type\":\"long\"},{\"name\":\"f\",\"type\":\"float\"},{\"name\":\"b\",\"type\":"
     "\"bytes\"}]}},"
     "{\"name\":\"e\",\"type\":{\"type\":\"enum\",\"name\":\"E\",\"symbols\":[\"A\",\"B\"]}},"
     "{\"name\":\"keep\",\"type\":\"int\"}]}",
     "{\"type\":\"record\",\"name\":\"R\",\"fields\":[{\"name\":\"keep\",\"type\":\"long\"}]}"},
    /* small items become large ones */
    {"{\"type\":\"array\",\"items\":\"boolean\"}",
     "{\"type\":\"array\",\"items\":[\"boolean\",{\"type\":\"record\",\"name\":\"R\",\"fields\":["
     "{\"name\":\"a\",\"type\":\"string\"},{\"name\":\"b\",\"type\":\"string\"},{\"name\":\"c\",\"type\":"
     "\"string\"}]}]}"},
    {"[\"null\",{\"type\":\"array\",\"items\":{\"type\":\"array\",\"items\":{\"type\":\"array\",\"items\":"
     "\"int\"}}}]",
     "[{\"type\":\"array\",\"items\":{\"type\":\"array\",\"items\":{\"type\":\"array\",\"items\":\"long\"}}},"
     "\"null\"]"},
};
enum { RESOLUTIONS = sizeof(resolutions) / sizeof(resolutions[0]) };

/* At most so much memory a byte: the largest item for the fewest bytes, doubled by lists that grow and again
 * by what they grew from; and the struct itself. */
enum { MEMORY_PER_BYTE_MAX = 4 * 64, MEMORY_FIXED_BYTES_MAX = 4096 };

static struct arena *arena;
static struct registry *registry;
static const struct codec_plan *plans[RESOLUTIONS];
static const struct codec_type *readers[RESOLUTIONS];
static struct oracle {
    const struct event_type *type;
    const struct codec_plan *by_table;
    avro_schema_t schema;
    avro_value_iface_t *iface;
} oracles[EVENTS_MAX];

static void prepare_events(struct arena *kept)
{
    struct error error;
    HOLDS(registry_open(NULL, &registry, &error) == OK);
    for (int i = 0; event_types[i]; i++) {
        struct oracle *oracle = &oracles[i];
        struct text text = text_of(event_types[i]->schemas[event_types[i]->version - 1]);
        const struct schema *schema;
        oracle->type = event_types[i];
        HOLDS(schema_parse(text, kept, &schema, &error) == OK);
        HOLDS(codec_plan_new(schema, codec_type_new(schema, kept), kept, &oracle->by_table, &error) == OK);
        HOLDS(avro_schema_from_json_length(text.at, text.length, &oracle->schema) == 0);
        oracle->iface = avro_generic_class_from_schema(oracle->schema);
        HOLDS(oracle->iface);
    }
}

static void prepare(void)
{
    static struct arena *kept;
    struct error error;
    kept = arena_new(BYTES_MAX);
    arena = arena_new(BYTES_MAX);
    HOLDS(kept && arena);
    prepare_events(kept);
    for (size_t i = 0; i < RESOLUTIONS; i++) {
        const struct schema *writer, *reader;
        HOLDS(schema_parse(text_of(resolutions[i][0]), kept, &writer, &error) == OK);
        HOLDS(schema_parse(text_of(resolutions[i][1]), kept, &reader, &error) == OK);
        readers[i] = codec_type_new(reader, kept);
        HOLDS(codec_plan_new(writer, readers[i], kept, &plans[i], &error) == OK);
    }
}

static enum outcome decode_bounded(const struct codec_plan *plan, struct text datum, const void **ret_data)
{
    struct error error;
    size_t before = arena_used_bytes(arena);
    enum outcome outcome = codec_decode(plan, datum, arena, ret_data, &error);
    HOLDS(outcome == OK || outcome == REJECT);
    HOLDS(outcome == OK || (error.outcome == REJECT && error.cause && error.text[0]));
    HOLDS(arena_used_bytes(arena) - before <= datum.length * MEMORY_PER_BYTE_MAX + MEMORY_FIXED_BYTES_MAX);
    return outcome;
}

/* What we write of it reads back the same. */
static void check_again(const struct codec_type *type, const struct codec_plan *plan, const void *data)
{
    struct buffer bytes = buffer_of(CODEC_ENCODED_BYTES_MAX);
    struct error error;
    const void *again;
    HOLDS(codec_encode(type, data, &bytes, &error) == OK);
    if (plan) {
        HOLDS(codec_decode(plan, buffer_text(&bytes), arena, &again, &error) == OK);
        HOLDS(samples_same(type->schema, data, again));
    }
    struct buffer json = buffer_of(16 << 20);
    struct json_writer writer = json_writer(&json);
    codec_to_json(type, data, &writer);
    HOLDS(!json.failed);
    buffer_free(&json);
    buffer_free(&bytes);
}

/* A value of its own each time: what avro-c keeps lies unaligned, where the leak checker does not look. */
static void check_with_avro(const struct oracle *oracle, const void *data, struct text datum)
{
    avro_value_t value;
    avro_reader_t reader = avro_reader_memory(datum.at, (int64_t)datum.length);
    HOLDS(avro_generic_value_new(oracle->iface, &value) == 0);
    HOLDS(avro_value_read(reader, &value) == 0);
    HOLDS(avro_value_same(oracle->type->codec->schema, data, &value));
    avro_value_decref(&value);
    avro_reader_free(reader);
}

static void check_event(const struct event_type *type, const struct codec_plan *plan, struct text datum)
{
    struct oracle *oracle = oracles;
    while (oracle->type != type)
        oracle++;
    const void *data, *by_table;
    enum outcome outcome = decode_bounded(plan, datum, &data);
    HOLDS(outcome == decode_bounded(oracle->by_table, datum, &by_table));
    if (outcome != OK)
        return;
    HOLDS(samples_same(type->codec->schema, data, by_table));
    check_with_avro(oracle, data, datum);
    check_again(type->codec, plan, data);
    if (type == &order_placed_type) {
        struct codec_faults faults;
        faults.count = 0;
        HOLDS(order_placed_valid(data, &faults) == (faults.count == 0));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool prepared;
    if (!prepared)
        prepare();
    prepared = true;
    struct text datum;
    struct error error;
    int32_t schema_id;
    arena_reset(arena);
    if (frame_read((struct text){(const char *)data, size}, &schema_id, &datum, &error) != OK)
        return 0;
    const struct event_type *type;
    const struct codec_plan *plan;
    if (schema_id >= 1 && schema_id <= RESOLUTIONS) {
        const void *value;
        if (decode_bounded(plans[schema_id - 1], datum, &value) == OK)
            check_again(readers[schema_id - 1], NULL, value);
    } else if (registry_plan(registry, schema_id, &type, &plan, &error) == OK) {
        check_event(type, plan, datum);
    }
    return 0;
}
