/* watch: decoded events as they pass. */
#include "cli.h"

#include "base/clock.h"
#include "kafka/reader.h"

#include <stdio.h>
#include <stdlib.h>

enum { WATCH_TOPICS_MAX = 128, WATCH_POLL_MS = 200, WATCH_OPEN_MS = 15000 };

static const struct setting watch_settings[] = {
    {"JSON", SETTING_BOOL, "false", 0, 0, NULL, "One JSON object a line."},
    {"FROM", SETTING_TEXT, "end", 0, 0, NULL, "beginning, end, or a time (RFC 3339)."},
    {"KEY", SETTING_TEXT, NULL, 0, 0, NULL, "Only records with this key."},
    {"EXIT", SETTING_BOOL, "false", 0, 0, NULL, "End at the ends that the topics had at start."},
    SETTINGS_END,
};

struct watch {
    const struct verb *verb;
    struct registry *registry;
    struct reader *reader;
    struct arena *arena;
    struct buffer line;
    const char *key;
    bool json;
    bool colour;
};

static enum outcome from_read(const char *text, enum reader_from *ret_from, int64_t *ret_ms,
                              struct error *error)
{
    int64_t wall_us;
    *ret_ms = 0;
    if (strcmp(text, "beginning") == 0)
        *ret_from = READER_BEGINNING;
    else if (strcmp(text, "end") == 0)
        *ret_from = READER_END;
    else if (clock_from_rfc3339(text_of(text), &wall_us)) {
        *ret_from = READER_TIME;
        *ret_ms = wall_us / 1000;
    } else {
        error_set(error, REJECT, "setting",
                  "FROM: %s is neither beginning nor end nor a time like 2026-11-21T09:00:00Z", text);
        error->exit_code = EXIT_CONFIG;
        return REJECT;
    }
    return OK;
}

/* time topic[partition]@offset key Type {data} */
static void line_of(struct watch *watch, const struct record *record)
{
    const char *dim = watch->colour ? "\033[2m" : "", *bold = watch->colour ? "\033[1m" : "",
               *off = watch->colour ? "\033[0m" : "";
    char time[CLOCK_RFC3339_BYTES_MAX];
    struct text datum;
    int32_t schema_id;
    struct error error;
    const struct event_type *type = NULL;
    const struct codec_plan *plan;
    const void *data;
    clock_to_rfc3339(record->timestamp_ms * 1000, time);
    buffer_print(&watch->line, "%s%.23sZ %.*s[%d]@%lld%s ", dim, time, TEXT_ARG(record->topic),
                 (int)record->partition, (long long)record->offset, off);
    buffer_add_plain(&watch->line, record->key);
    buffer_add_char(&watch->line, ' ');
    if (record->value_null) {
        buffer_add_string(&watch->line, "(no value)");
        return;
    }
    enum outcome outcome = frame_read(record->value, &schema_id, &datum, &error);
    if (outcome == OK)
        outcome = registry_plan(watch->registry, schema_id, &type, &plan, &error);
    if (outcome == OK)
        outcome = codec_decode(plan, datum, watch->arena, &data, &error);
    if (outcome != OK) {
        buffer_print(&watch->line, "(cannot be decoded: %s; %zu bytes)", error.text, record->value.length);
        return;
    }
    struct json_writer writer = json_writer(&watch->line);
    buffer_print(&watch->line, "%s%s%s ", bold, type->name, off);
    codec_to_json(type->codec, data, &writer);
}

static void show(struct watch *watch, const struct record *record)
{
    if (watch->key && !text_is(record->key, watch->key))
        return;
    arena_reset(watch->arena);
    buffer_clear(&watch->line);
    if (watch->json)
        cli_record_json(watch->registry, record, watch->arena, &watch->line, NULL, NULL);
    else
        line_of(watch, record);
    buffer_add_char(&watch->line, '\n');
    fwrite(watch->line.at, 1, watch->line.length, stdout);
}

static bool is_among(const char *const *topics, const char *name)
{
    while (*topics && strcmp(*topics, name) != 0)
        topics++;
    return *topics != NULL;
}

/* Partitions are looked up once: what is not there now would never be seen. */
static enum outcome say_missing(const char *const *topics, size_t named, size_t missing, struct error *error)
{
    size_t count = 0;
    while (topics[count])
        count++;
    if (missing < count) {
        fprintf(stderr, "weir watch: %zu of the topics are not there; weir topics create makes Weir's own\n",
                missing);
        return OK;
    }
    if (named == 1)
        error_set(error, REJECT, "topic", "there is no topic %s; weir topics lists Weir's own", topics[0]);
    else
        error_set(error, REJECT, "topic",
                  "none of these topics is there; weir topics create makes Weir's own");
    error->exit_code = EXIT_NOTHING_FOUND;
    return REJECT;
}

static enum outcome run(struct watch *watch, const struct config *config, struct error *error)
{
    const char *topics[WATCH_TOPICS_MAX + 1] = {0};
    size_t count = config_positional_count(config), missing = 0;
    for (size_t i = 0, kept = 0; i < count; i++)
        if (!is_among(topics, config_positional(config, i)))
            topics[kept++] = config_positional(config, i);
    for (int id = 0; count == 0 && id < TOPIC_COUNT; id++)
        topics[id] = topic_get((enum topic_id)id)->name;

    struct client_settings client = cli_client(config);
    enum reader_from from;
    int64_t from_ms;
    enum outcome outcome = from_read(config_text(config, "FROM"), &from, &from_ms, error);
    if (outcome == OK)
        outcome = cli_registry(config, &watch->registry, error);
    if (outcome == OK)
        outcome = reader_open(&client, topics, from, from_ms, config_bool(config, "EXIT"), WATCH_OPEN_MS,
                              &missing, &watch->reader, error);
    if (outcome == OK && missing)
        outcome = say_missing(topics, count, missing, error);
    bool end = false, exits = config_bool(config, "EXIT");
    int64_t heard_us = 0;
    while (outcome == OK && !end && !cli_unheard()) {
        struct record record;
        bool got = false;
        if (cli_interrupted() && exits)
            outcome = cli_stopped(error, "the ends were reached");
        if (cli_interrupted())
            break;
        outcome = exits ? cli_read_on(watch->reader, CLI_SILENT_MS, &heard_us, &record, &got, &end, error)
                        : reader_read(watch->reader, WATCH_POLL_MS, &record, &got, &end, error);
        if (outcome == OK && got) {
            show(watch, &record);
            reader_release(&record);
        } else if (fflush(stdout) != 0) {
            break; /* who reads is gone */
        }
    }
    return outcome;
}

int watch_main(int argc, char **argv)
{
    struct watch watch = {.verb = cli_verb("watch")};
    struct config *config = NULL;
    struct error error;
    int exit_code;
    cli_forget_environment(watch_settings);
    if (!cli_read(watch.verb, watch_settings, argc, argv, WATCH_TOPICS_MAX, &config, &exit_code))
        return exit_code;
    cli_signals();
    watch.arena = arena_new(64 << 20);
    watch.line = buffer_of(16 << 20);
    watch.json = config_bool(config, "JSON");
    watch.key = config_text(config, "KEY");
    watch.colour = cli_colour();
    if (!watch.arena)
        error_set(&error, FATAL, "memory", "out of memory");
    exit_code = !watch.arena || run(&watch, config, &error) != OK ? cli_fail(watch.verb, &error) : 0;
    reader_close(watch.reader);
    registry_close(watch.registry);
    arena_destroy(watch.arena);
    buffer_free(&watch.line);
    config_destroy(config);
    return exit_code;
}
