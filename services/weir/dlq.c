/* dlq: dead letters of all services: list them by cause, show them whole. */
#include "cli.h"

#include "base/clock.h"
#include "kafka/admin.h"
#include "kafka/reader.h"

#include <stdio.h>
#include <stdlib.h>

enum { DLQ_GROUPS_MAX = 1000, DLQ_TIMEOUT_MS = 15000, DLQ_POLL_MS = 1000, DLQ_HEX_BYTES_MAX = 256 };

static const struct setting dlq_settings[] = {
    {"SERVICE", SETTING_CHOICE, NULL, 0, 0, "order|inventory|payment|email|analytics",
     "Only this service's."},
    {"TYPE", SETTING_TEXT, NULL, 0, 0, NULL, "Only this event type, OrderPlaced or weir.OrderPlaced."},
    {"CLASS", SETTING_CHOICE, NULL, 0, 0, "RETRY|REJECT|CRASH", "Only this error class."},
    {"FINGERPRINT", SETTING_TEXT, NULL, 0, 0, NULL, "Only this cause."},
    {"SINCE", SETTING_TEXT, NULL, 0, 0, NULL, "Only from this time on (RFC 3339)."},
    {"UNTIL", SETTING_TEXT, NULL, 0, 0, NULL, "Only before this time (RFC 3339)."},
    {"ID", SETTING_TEXT, NULL, 0, 0, NULL, "Only the event with this id."},
    {"KEY", SETTING_TEXT, NULL, 0, 0, NULL, "Only this key."},
    {"JSON", SETTING_BOOL, "false", 0, 0, NULL, "One JSON object a line and dead letter."},
    SETTINGS_END,
};

struct filter {
    const char *type, *class, *fingerprint, *id, *key;
    int64_t since_us, until_us; /* 0: none */
};

/* Dead letters of one cause in one service and type. */
struct group {
    char fingerprint[32], class[16], topic[TOPIC_NAME_BYTES_MAX], type[64], message[256];
    int64_t first_us, last_us;
    size_t count;
};

struct dlq {
    struct registry *registry;
    struct arena *arena;
    struct buffer line;
    struct filter filter;
    struct group *groups;
    size_t group_count, matched, ungrouped;
    bool json, show;
};

/* One dead letter, its headers read. */
struct letter {
    const struct record *record;
    const struct header *headers;
    size_t header_count;
    struct text type; /* full name; empty where it cannot be told */
};

static struct text value_of(const struct letter *letter, const char *name)
{
    const struct header *header = header_find(letter->headers, letter->header_count, name);
    return header ? header->value : TEXT("");
}

static bool matches(const struct filter *filter, const struct letter *letter)
{
    int64_t time_us = letter->record->timestamp_ms * 1000;
    if (filter->since_us && time_us < filter->since_us)
        return false;
    if (filter->until_us && time_us >= filter->until_us)
        return false;
    if (filter->class && !text_is(value_of(letter, "weir_error_class"), filter->class))
        return false;
    if (filter->fingerprint && !text_is(value_of(letter, "weir_error_fingerprint"), filter->fingerprint))
        return false;
    if (filter->id && !text_is(value_of(letter, HEADER_ID), filter->id))
        return false;
    if (filter->key && !text_is(letter->record->key, filter->key))
        return false;
    if (filter->type) {
        const struct event_type *type = event_type_find(text_of(filter->type));
        if (!text_is(letter->type, type ? type->full_name : filter->type))
            return false;
    }
    return true;
}

static struct text type_of(struct dlq *dlq, const struct letter *letter)
{
    struct error error;
    struct text datum;
    int32_t schema_id;
    const struct event_type *type;
    const struct codec_plan *plan;
    if (!letter->record->value_null && frame_read(letter->record->value, &schema_id, &datum, &error) == OK &&
        registry_plan(dlq->registry, schema_id, &type, &plan, &error) == OK)
        return text_of(type->full_name);
    return value_of(letter, HEADER_TYPE);
}

/* ---- list */

static void group_add(struct dlq *dlq, const struct letter *letter)
{
    struct group group = {.first_us = letter->record->timestamp_ms * 1000};
    snprintf(group.fingerprint, sizeof(group.fingerprint), "%.*s",
             TEXT_ARG(value_of(letter, "weir_error_fingerprint")));
    snprintf(group.class, sizeof(group.class), "%.*s", TEXT_ARG(value_of(letter, "weir_error_class")));
    snprintf(group.topic, sizeof(group.topic), "%.*s", TEXT_ARG(letter->record->topic));
    snprintf(group.type, sizeof(group.type), "%.*s", TEXT_ARG(letter->type));
    snprintf(group.message, sizeof(group.message), "%.*s",
             TEXT_ARG(value_of(letter, "__dlq.errors.message")));
    for (size_t i = 0; i < dlq->group_count; i++) {
        struct group *known = &dlq->groups[i];
        if (strcmp(known->fingerprint, group.fingerprint) || strcmp(known->topic, group.topic) ||
            strcmp(known->type, group.type))
            continue;
        known->count++;
        if (group.first_us < known->first_us)
            known->first_us = group.first_us;
        if (group.first_us > known->last_us)
            known->last_us = group.first_us;
        return;
    }
    if (dlq->group_count == DLQ_GROUPS_MAX) {
        dlq->ungrouped++;
        return;
    }
    group.count = 1;
    group.last_us = group.first_us;
    dlq->groups[dlq->group_count++] = group;
}

static int by_count(const void *a, const void *b)
{
    const struct group *x = a, *y = b;
    return x->count < y->count ? 1 : x->count > y->count ? -1 : 0;
}

static void groups_print(struct dlq *dlq)
{
    char first[CLOCK_RFC3339_BYTES_MAX], last[CLOCK_RFC3339_BYTES_MAX];
    qsort(dlq->groups, dlq->group_count, sizeof(*dlq->groups), by_count);
    for (size_t i = 0; i < dlq->group_count; i++) {
        const struct group *group = &dlq->groups[i];
        buffer_clear(&dlq->line);
        buffer_print(&dlq->line, "%7zu  %-14s %-7s %-22s %s  %.19sZ to %.19sZ  %s", group->count,
                     group->topic, group->class, group->type[0] ? group->type : "(unreadable)",
                     group->fingerprint, clock_to_rfc3339(group->first_us, first),
                     clock_to_rfc3339(group->last_us, last), group->message);
        struct text line = buffer_text(&dlq->line);
        struct buffer plain = buffer_of(4 * line.length);
        buffer_add_plain(&plain, line); /* the headers are anybody's */
        printf("%.*s\n", (int)plain.length, plain.at ? plain.at : "");
        buffer_free(&plain);
    }
    if (dlq->ungrouped)
        printf("%7zu  of more than %d causes\n", dlq->ungrouped, DLQ_GROUPS_MAX);
}

/* ---- show */

static void story_members(void *owner, struct json_writer *writer)
{
    const struct letter *letter = owner;
    for (size_t i = 0; i < letter->header_count; i++) {
        struct text name = letter->headers[i].name;
        bool ours = (name.length > 13 && memcmp(name.at, "__dlq.errors.", 13) == 0) ||
                    (name.length > 5 && memcmp(name.at, "weir_", 5) == 0);
        /* The last of a name counts; an object must not say it twice. */
        char spelt[128];
        snprintf(spelt, sizeof(spelt), "%.*s", TEXT_ARG(name));
        if (!ours || header_find(letter->headers, letter->header_count, spelt) != &letter->headers[i])
            continue;
        json_key_text(writer, name);
        json_put_text(writer, letter->headers[i].value);
    }
}

static void hex(struct buffer *into, struct text bytes)
{
    size_t count = bytes.length < DLQ_HEX_BYTES_MAX ? bytes.length : DLQ_HEX_BYTES_MAX;
    for (size_t at = 0; at < count; at += 16) {
        buffer_print(into, "    %04zx ", at);
        for (size_t i = at; i < at + 16; i++) {
            if (i < count)
                buffer_print(into, " %02x", (unsigned char)bytes.at[i]);
            else
                buffer_add_string(into, "   ");
        }
        buffer_add_string(into, "  ");
        for (size_t i = at; i < at + 16 && i < count; i++)
            buffer_add_char(into, bytes.at[i] >= 0x20 && bytes.at[i] < 0x7f ? bytes.at[i] : '.');
        buffer_add_char(into, '\n');
    }
    if (bytes.length > count)
        buffer_print(into, "    … %zu bytes in all\n", bytes.length);
}

static void show(struct dlq *dlq, const struct letter *letter)
{
    const struct record *record = letter->record;
    struct error error;
    struct text datum;
    int32_t schema_id;
    const struct event_type *type;
    const struct codec_plan *plan;
    const void *data;
    buffer_print(&dlq->line, "%.*s[%d]@%lld  key ", TEXT_ARG(record->topic), (int)record->partition,
                 (long long)record->offset);
    buffer_add_plain(&dlq->line, record->key_null ? TEXT("(none)") : record->key);
    buffer_add_string(&dlq->line, "  ");
    buffer_add_plain(&dlq->line, letter->type);
    for (size_t i = 0; i < letter->header_count; i++) {
        buffer_add_string(&dlq->line, "\n  ");
        buffer_add_plain(&dlq->line, letter->headers[i].name);
        buffer_add_string(&dlq->line, ": ");
        buffer_add_plain(&dlq->line, letter->headers[i].value);
    }
    buffer_add_char(&dlq->line, '\n');
    enum outcome outcome;
    if (record->value_null)
        outcome = error_reject(&error, "null", "the record has no value");
    else
        outcome = frame_read(record->value, &schema_id, &datum, &error);
    if (outcome == OK)
        outcome = registry_plan(dlq->registry, schema_id, &type, &plan, &error);
    if (outcome == OK)
        outcome = codec_decode(plan, datum, dlq->arena, &data, &error);
    if (outcome == OK) {
        struct json_writer writer = json_writer(&dlq->line);
        buffer_add_string(&dlq->line, "  ");
        codec_to_json(type->codec, data, &writer);
        buffer_add_char(&dlq->line, '\n');
    } else {
        buffer_print(&dlq->line, "  cannot be decoded: %s\n", error.text);
        hex(&dlq->line, record->value);
    }
}

/* ---- reading */

static void take(struct dlq *dlq, const struct record *record)
{
    struct letter letter = {.record = record};
    struct error error;
    arena_reset(dlq->arena);
    if (record_headers(record, dlq->arena, &letter.headers, &letter.header_count, &error) != OK)
        letter.header_count = 0;
    letter.type = type_of(dlq, &letter);
    if (!matches(&dlq->filter, &letter))
        return;
    dlq->matched++;
    buffer_clear(&dlq->line);
    if (dlq->json) {
        cli_record_json(dlq->registry, record, dlq->arena, &dlq->line, story_members, &letter);
        buffer_add_char(&dlq->line, '\n');
    } else if (dlq->show) {
        show(dlq, &letter);
    } else {
        group_add(dlq, &letter);
    }
    fwrite(dlq->line.at, 1, dlq->line.length, stdout);
}

static enum outcome run(struct dlq *dlq, const struct config *config, struct error *error)
{
    char names[8][TOPIC_NAME_BYTES_MAX];
    const char *topics[9] = {0};
    const char *service = config_text(config, "SERVICE");
    struct client_settings client = cli_client(config);
    struct reader *reader = NULL;
    bool end = false;
    size_t count = 0;
    for (const char *const *name = topic_services; *name && count < 8; name++)
        if (!service || strcmp(service, *name) == 0) {
            topics[count] = topic_dlq(*name, names[count]);
            count++;
        }
    enum outcome outcome = registry_open(config_text(config, "SCHEMA_REGISTRY_URL"), &dlq->registry, error);
    if (outcome == OK)
        outcome =
            reader_open(&client, topics, READER_BEGINNING, 0, true, DLQ_TIMEOUT_MS, NULL, &reader, error);
    while (outcome == OK && !end && !cli_interrupted()) {
        struct record record;
        bool got;
        outcome = reader_read(reader, DLQ_POLL_MS, &record, &got, &end, error);
        if (outcome == OK && got) {
            take(dlq, &record);
            reader_release(&record);
        }
    }
    reader_close(reader);
    if (outcome == OK && !dlq->json && !dlq->show)
        groups_print(dlq);
    if (outcome == OK && dlq->matched == 0)
        fprintf(stderr, "weir dlq: no dead letters\n");
    return outcome;
}

static bool time_of(const struct config *config, const char *name, int64_t *ret_us)
{
    const char *text = config_text(config, name);
    if (!text || clock_from_rfc3339(text_of(text), ret_us))
        return true;
    fprintf(stderr, "weir dlq: %s: %s is no time like 2026-11-21T09:00:00Z\n", name, text);
    return false;
}

int dlq_main(int argc, char **argv)
{
    const struct verb *verb = cli_verb("dlq");
    struct dlq dlq = {0};
    struct config *config = NULL;
    struct error error;
    int exit_code;
    cli_forget_environment(dlq_settings);
    if (!cli_read(verb, dlq_settings, argc, argv, 1, &config, &exit_code))
        return exit_code;
    const char *word = config_positional_count(config) ? config_positional(config, 0) : "list";
    dlq.filter = (struct filter){
        .type = config_text(config, "TYPE"),
        .class = config_text(config, "CLASS"),
        .fingerprint = config_text(config, "FINGERPRINT"),
        .id = config_text(config, "ID"),
        .key = config_text(config, "KEY"),
    };
    dlq.json = config_bool(config, "JSON");
    dlq.show = strcmp(word, "show") == 0;
    dlq.arena = arena_new(64 << 20);
    dlq.line = buffer_of(16 << 20);
    dlq.groups = calloc(DLQ_GROUPS_MAX, sizeof(*dlq.groups));
    error_set(&error, FATAL, "memory", "out of memory");
    if (!dlq.show && strcmp(word, "list") != 0) {
        fprintf(stderr, "weir dlq: there is no %s in this version; weir dlq list, weir dlq show\n", word);
        exit_code = EXIT_USAGE;
    } else if (!time_of(config, "SINCE", &dlq.filter.since_us) ||
               !time_of(config, "UNTIL", &dlq.filter.until_us)) {
        exit_code = EXIT_CONFIG;
    } else if (!dlq.arena || !dlq.groups || run(&dlq, config, &error) != OK) {
        exit_code = cli_fail(verb, &error);
    } else {
        exit_code = 0;
    }
    free(dlq.groups);
    registry_close(dlq.registry);
    arena_destroy(dlq.arena);
    buffer_free(&dlq.line);
    config_destroy(config);
    return exit_code;
}
