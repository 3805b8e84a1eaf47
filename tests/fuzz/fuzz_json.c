/*
 * fuzz_json: JSON from HTTP or emit that says it is an order. What is read is written as Avro and as JSON and
 * both read back as the same; what is refused has a reason for every fault.
 */
#include "fuzz.h"
#include "support/samples.h"
#include "wire/events.h"

enum { BYTES_MAX = 64 << 20 };

static void check_avro(const struct order_placed *order, struct arena *arena)
{
    static struct registry *registry;
    struct buffer bytes = buffer_of(CODEC_ENCODED_BYTES_MAX);
    struct error error;
    const struct event_type *type;
    const struct codec_plan *plan;
    const void *again;
    int32_t schema_id;
    HOLDS(registry || registry_open(NULL, &registry, &error) == OK);
    HOLDS(registry_id(registry, &order_placed_type, &schema_id, &error) == OK);
    HOLDS(registry_plan(registry, schema_id, &type, &plan, &error) == OK);
    if (codec_encode(order_placed_type.codec, order, &bytes, &error) == OK) {
        HOLDS(codec_decode(plan, buffer_text(&bytes), arena, &again, &error) == OK);
        HOLDS(samples_same(type->codec->schema, order, again));
    } else {
        HOLDS(text_is(text_of(error.cause), "avro-too-long"));
    }
    buffer_free(&bytes);
}

static void check_json(const struct order_placed *order, struct arena *arena)
{
    struct buffer text = buffer_of(BYTES_MAX);
    struct json_writer writer = json_writer(&text);
    struct error error;
    json_t *json;
    void *again;
    codec_to_json(order_placed_type.codec, order, &writer);
    HOLDS(!text.failed);
    HOLDS(json_read(buffer_text(&text), &json, &error) == OK);
    HOLDS(codec_from_json(order_placed_type.codec, json, arena, &again, NULL, &error) == OK);
    HOLDS(samples_same(order_placed_type.codec->schema, order, again));
    json_decref(json);
    buffer_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct arena *arena;
    struct error error;
    json_t *json;
    if (!arena)
        arena = arena_new(BYTES_MAX);
    HOLDS(arena);
    arena_reset(arena);
    if (json_read((struct text){(const char *)data, size}, &json, &error) != OK)
        return 0;
    void *order;
    struct codec_faults faults;
    faults.count = 0;
    enum outcome outcome = codec_from_json(order_placed_type.codec, json, arena, &order, &faults, &error);
    HOLDS(outcome == OK || outcome == REJECT);
    HOLDS((outcome == OK) == (faults.count == 0));
    for (size_t i = 0; i < faults.count; i++)
        HOLDS(faults.fault[i].reason[0]);
    if (outcome == OK) {
        HOLDS(order_placed_valid(order, &faults) == (faults.count == 0));
        check_avro(order, arena);
        check_json(order, arena);
    }
    json_decref(json);
    return 0;
}
