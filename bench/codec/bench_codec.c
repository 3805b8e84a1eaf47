/*
 * bench_codec: ns an event for encode and decode, ours beside avro-c's generic API.
 *
 *     bench_codec [--json]
 *
 * One thread, values in cache: the cost of the code, not of memory. Both codecs take turns in short rounds,
 * so that what else the machine does meets both alike; of each the minimum, the median and the maximum round
 * is given, and the ratio of the medians. Each does what a service does with an event: encode appends to a
 * buffer that is kept, decode gives a value whose fields can be read. avro-c gets its value and writer
 * reused, as its documentation advises.
 */
#include "base/clock.h"
#include "wire/events.h"
#include "wire/schema.h"

#include <assert.h>
#include <avro.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROUNDS = 201, EVENTS = 4000, BYTES_MAX = 4096 };

struct bench {
    const struct event_type *type;
    const void *value;
    const struct codec_plan *plan;
    struct arena *arena;
    struct buffer encoded;
    avro_schema_t schema;
    avro_value_iface_t *iface;
    avro_value_t theirs;
    avro_writer_t writer;
    avro_reader_t reader;
    char space[BYTES_MAX];
};

static void our_encode(struct bench *bench)
{
    struct error error;
    buffer_clear(&bench->encoded);
    if (codec_encode(bench->type->codec, bench->value, &bench->encoded, &error) != OK)
        abort();
}

static void our_decode(struct bench *bench)
{
    struct error error;
    const void *data;
    arena_reset(bench->arena);
    if (codec_decode(bench->plan, buffer_text(&bench->encoded), bench->arena, &data, &error) != OK)
        abort();
}

static void their_encode(struct bench *bench)
{
    avro_writer_reset(bench->writer);
    if (avro_value_write(bench->writer, &bench->theirs))
        abort();
}

static void their_decode(struct bench *bench)
{
    avro_reader_memory_set_source(bench->reader, bench->encoded.at, (int64_t)bench->encoded.length);
    avro_value_reset(&bench->theirs);
    if (avro_value_read(bench->reader, &bench->theirs))
        abort();
}

static double round_ns(struct bench *bench, void (*work)(struct bench *))
{
    int64_t start = clock_monotonic_us();
    for (int i = 0; i < EVENTS; i++)
        work(bench);
    return (double)(clock_monotonic_us() - start) * 1000 / (double)EVENTS;
}

static int by_size(const void *a, const void *b)
{
    const double *left = a, *right = b;
    return (*left > *right) - (*left < *right);
}

static void report(const struct bench *bench, const char *what, double *ours, double *theirs, bool json)
{
    qsort(ours, ROUNDS, sizeof(*ours), by_size);
    qsort(theirs, ROUNDS, sizeof(*theirs), by_size);
    double ratio = theirs[ROUNDS / 2] / ours[ROUNDS / 2];
    if (json)
        printf("{\"bench\":\"codec\",\"event\":\"%s\",\"bytes\":%zu,\"what\":\"%s\",\"weir_ns\":[%.1f,%.1f,%."
               "1f],"
               "\"avro_c_ns\":[%.1f,%.1f,%.1f],\"ratio\":%.2f}\n",
               bench->type->name, bench->encoded.length, what, ours[0], ours[ROUNDS / 2], ours[ROUNDS - 1],
               theirs[0], theirs[ROUNDS / 2], theirs[ROUNDS - 1], ratio);
    else
        printf("%-14s %4zu B  %-7s %7.1f %7.1f %7.1f   %7.1f %7.1f %7.1f   %5.1f\n", bench->type->name,
               bench->encoded.length, what, ours[0], ours[ROUNDS / 2], ours[ROUNDS - 1], theirs[0],
               theirs[ROUNDS / 2], theirs[ROUNDS - 1], ratio);
}

static void measure(struct bench *bench, const char *what, void (*our_work)(struct bench *),
                    void (*their_work)(struct bench *), bool json)
{
    static double ours[ROUNDS], theirs[ROUNDS];
    round_ns(bench, our_work);
    round_ns(bench, their_work);
    for (int i = 0; i < ROUNDS; i++) {
        ours[i] = round_ns(bench, our_work);
        theirs[i] = round_ns(bench, their_work);
    }
    report(bench, what, ours, theirs, json);
}

static void bench_event(const struct event_type *type, const void *value, bool json)
{
    static struct bench bench;
    struct error error;
    const struct schema *schema;
    bench = (struct bench){.type = type, .value = value, .encoded = buffer_of(BYTES_MAX)};
    struct arena *plans = arena_new(SIZE_MAX / 2);
    bench.arena = arena_new(1 << 20);
    struct text text = text_of(type->schemas[type->version - 1]);
    if (!plans || !bench.arena || schema_parse(text, plans, &schema, &error) != OK ||
        codec_plan_new(schema, type->codec, plans, &bench.plan, &error) != OK)
        abort();
    our_encode(&bench);

    if (avro_schema_from_json_length(text.at, text.length, &bench.schema))
        abort();
    bench.iface = avro_generic_class_from_schema(bench.schema);
    if (avro_generic_value_new(bench.iface, &bench.theirs))
        abort();
    bench.writer = avro_writer_memory(bench.space, sizeof(bench.space));
    bench.reader = avro_reader_memory(bench.encoded.at, (int64_t)bench.encoded.length);
    their_decode(&bench);
    their_encode(&bench);
    /* Both write the same, or the comparison means nothing. */
    if (avro_writer_tell(bench.writer) != (int64_t)bench.encoded.length ||
        memcmp(bench.space, bench.encoded.at, bench.encoded.length) != 0)
        abort();

    measure(&bench, "encode", our_encode, their_encode, json);
    measure(&bench, "decode", our_decode, their_decode, json);

    avro_reader_free(bench.reader);
    avro_writer_free(bench.writer);
    avro_value_decref(&bench.theirs);
    avro_value_iface_decref(bench.iface);
    avro_schema_decref(bench.schema);
    buffer_free(&bench.encoded);
    arena_destroy(bench.arena);
    arena_destroy(plans);
}

int main(int argc, char **argv)
{
    bool json = argc == 2 && strcmp(argv[1], "--json") == 0;
    if (argc > 1 && !json) {
        fputs("usage: bench_codec [--json]\n", stderr);
        return EXIT_USAGE;
    }
    struct order_item items[] = {
        {TEXT("SKU-10042"), 2, 1999},
        {TEXT("SKU-777"), 1, 129900},
        {TEXT("GIFT-WRAP-RED"), 3, 250},
    };
    const struct order_placed order = {
        .order_id = TEXT("01937a5e-5c1e-7b60-a1d4-7a0c5b6e9f11"),
        .customer_id = TEXT("customer-20417"),
        .email = TEXT("katharina.lindqvist@example.com"),
        .locale = TEXT("de-AT"),
        .currency = TEXT("EUR"),
        .total_minor = 134648,
        .items = items,
        .items_count = 3,
        .placed_at = 1795262400123456,
    };
    const struct stock_reserved reserved = {
        .order_id = TEXT("01937a5e-5c1e-7b60-a1d4-7a0c5b6e9f11"),
        .reserved_until = 1795263300123456,
        .reserved_at = 1795262400123999,
    };
    if (!json)
        printf("ns an event                     weir: min  median     max    avro-c: min  median     max   "
               "ratio\n");
    bench_event(&order_placed_type, &order, json);
    bench_event(&stock_reserved_type, &reserved, json);
    return 0;
}
