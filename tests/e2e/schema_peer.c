/*
 * A producer or consumer of one version of a schema, by Weir's registry client and codec: test_registry.py
 * upgrades one after the other while events flow.
 *
 *   schema_peer read SCHEMA TOPIC     a JSON line a record, from the beginning, until SIGTERM: its data, or
 * "error" schema_peer write SCHEMA TOPIC    from stdin, data as JSON a line; ends with it
 *
 * SCHEMA_REGISTRY_…, KAFKA_BOOTSTRAP_SERVERS: as for every program. An outage of the registry is waited for,
 * as the loop does.
 */
#include "kafka/producer.h"
#include "kafka/reader.h"
#include "wire/codec_type.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { LINE_BYTES = 1 << 16, POLL_MS = 100, OPEN_MS = 60000, AGAIN_US = 20000, KEY_BYTES = 64 };

static volatile sig_atomic_t stopped;

static void on_signal(int number)
{
    (void)number;
    stopped = 1;
}

__attribute__((noreturn)) static void die(const struct error *error)
{
    fprintf(stderr, "schema_peer: %s\n", error->text);
    exit(1);
}

static void on_report(void *owner, uint64_t tag, enum outcome outcome, int32_t partition, int64_t offset,
                      const char *reason)
{
    (void)owner, (void)tag, (void)partition, (void)offset;
    if (outcome != OK) {
        fprintf(stderr, "schema_peer: not produced: %s\n", reason ? reason : "?");
        _exit(1);
    }
}

static void show(struct registry *registry, const struct record *record, struct arena *arena)
{
    struct error error;
    int32_t id;
    struct text datum;
    const struct event_type *type = NULL;
    const struct codec_plan *plan;
    const void *data;
    arena_reset(arena);
    enum outcome outcome = frame_read(record->value, &id, &datum, &error);
    while (outcome == OK && (outcome = registry_plan(registry, id, &type, &plan, &error)) == OUTAGE &&
           !stopped) {
        usleep(AGAIN_US);
        outcome = OK;
    }
    if (stopped)
        return;
    if (outcome == OK)
        outcome = codec_decode(plan, datum, arena, &data, &error);
    struct buffer line = buffer_of(LINE_BYTES);
    struct json_writer writer = json_writer(&line);
    if (outcome == OK) {
        codec_to_json(type->codec, data, &writer);
    } else {
        json_object_begin(&writer);
        json_member_string(&writer, "error", error.text);
        json_member_string(&writer, "cause", error.cause);
        json_object_end(&writer);
    }
    printf("%.*s\n", TEXT_ARG(buffer_text(&line)));
    fflush(stdout);
    buffer_free(&line);
}

static enum outcome read_topic(const struct client_settings *client, struct registry *registry,
                               const char *topic, struct arena *arena, struct error *error)
{
    const char *topics[] = {topic, NULL};
    struct reader *reader = NULL;
    enum outcome outcome =
        reader_open(client, topics, READER_BEGINNING, 0, false, OPEN_MS, NULL, &reader, error);
    while (outcome == OK && !stopped) {
        struct record record;
        bool got, end;
        outcome = reader_read(reader, POLL_MS, &record, &got, &end, error);
        if (outcome == OK && got) {
            show(registry, &record, arena);
            reader_release(&record);
        }
    }
    reader_close(reader);
    return outcome;
}

static enum outcome write_line(struct producer *producer, struct registry *registry,
                               const struct event_type *type, const char *topic, const char *line,
                               struct arena *arena, struct error *error)
{
    json_t *json = NULL;
    void *data;
    int32_t id;
    struct buffer value = buffer_of(LINE_BYTES);
    arena_reset(arena);
    enum outcome outcome = json_read(text_of(line), &json, error);
    if (outcome == OK)
        outcome = codec_from_json(type->codec, json, arena, &data, NULL, error);
    while (outcome == OK && (outcome = registry_id(registry, type, &id, error)) == OUTAGE && !stopped) {
        usleep(AGAIN_US);
        outcome = OK;
    }
    if (outcome == OK) {
        frame_write(&value, id);
        outcome = codec_encode(type->codec, data, &value, error);
    }
    const struct producer_record record = {
        .topic = text_of(topic), .partition = 0, .key = TEXT("k"), .value = buffer_text(&value)};
    if (outcome == OK)
        outcome = producer_send(producer, &record, 0, error);
    buffer_free(&value);
    json_decref(json);
    return outcome;
}

static enum outcome write_topic(const struct client_settings *client, struct registry *registry,
                                const struct event_type *type, const char *topic, struct arena *arena,
                                struct error *error)
{
    const struct producer_settings settings = {
        .client = *client, .linger_ms = 1, .queue_records_max = 10000, .queue_kbytes_max = 1 << 14};
    struct producer *producer = NULL;
    char *line = NULL;
    size_t capacity = 0;
    enum outcome outcome = producer_open(&settings, on_report, NULL, &producer, error);
    while (outcome == OK && getline(&line, &capacity, stdin) >= 0)
        outcome = write_line(producer, registry, type, topic, line, arena, error);
    free(line);
    if (outcome == OK && !producer_flush(producer, OPEN_MS))
        outcome = error_outage(error, "kafka", "not all was acknowledged");
    producer_close(producer, POLL_MS);
    return outcome;
}

/* The whole file, in the arena. */
static struct text file_text(const char *path, struct arena *arena)
{
    FILE *file = fopen(path, "re");
    char *text = arena_take_zeroed(arena, LINE_BYTES);
    if (!file || !text || fread(text, 1, LINE_BYTES - 1, file) == 0) {
        fprintf(stderr, "schema_peer: %s cannot be read\n", path);
        exit(1);
    }
    fclose(file);
    return text_of(text);
}

int main(int argc, char **argv)
{
    const struct setting *const tables[] = {kafka_settings, registry_settings};
    struct config *config = NULL;
    struct error error;
    struct arena *arena = arena_new(1 << 24), *kept = arena_new(1 << 24);
    const struct schema *schema;
    if (argc != 4 || !arena || !kept)
        return 64;
    signal(SIGTERM, on_signal);
    struct text text = file_text(argv[2], kept);
    if (schema_parse(text, kept, &schema, &error) != OK ||
        config_read(tables, 2, 0, argv + 4, &config, &error) != OK)
        die(&error);
    const char *name = text_copy(kept, schema_full_name(schema)).at, *schemas[] = {text.at};
    const struct event_type type = {.number = 1,
                                    .name = name,
                                    .full_name = name,
                                    .topic = TOPIC_ORDERS,
                                    .codec = codec_type_new(schema, kept),
                                    .version = 1,
                                    .schemas = schemas};
    const struct event_type *const types[] = {&type, NULL};
    const enum topic_id writes[] = {TOPIC_ORDERS, TOPIC_COUNT};
    bool reads = strcmp(argv[1], "read") == 0;
    struct registry *registry;
    if (registry_open(
            &(struct registry_use){.config = config, .types = types, .writes = reads ? NULL : writes},
            &registry, &error) != OK)
        die(&error);
    const struct client_settings client = {.bootstrap_servers =
                                               config_text(config, "KAFKA_BOOTSTRAP_SERVERS"),
                                           .client_id = "peer",
                                           .config = config};
    enum outcome outcome = reads ? read_topic(&client, registry, argv[3], arena, &error)
                                 : write_topic(&client, registry, &type, argv[3], arena, &error);
    if (outcome != OK)
        die(&error);
    registry_close(registry);
    config_destroy(config);
    arena_destroy(arena);
    arena_destroy(kept);
    return 0;
}
