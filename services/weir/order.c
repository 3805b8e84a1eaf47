/* order: the life of one order, told from all topics: events, retries and dead letters, in the order of their
 * times. */
#include "cli.h"

#include "base/clock.h"
#include "kafka/admin.h"
#include "kafka/reader.h"
#include "wire/origin.h"

#include <stdio.h>
#include <stdlib.h>

enum { ORDER_EVENTS_MAX = 10000, ORDER_TOPICS_MAX = 256, ORDER_TIMEOUT_MS = 15000, ORDER_INDENT = 28 };

static const struct setting order_settings[] = {
    {"JSON", SETTING_BOOL, "false", 0, 0, NULL, "One JSON object a line, as weir watch gives it."},
    SETTINGS_END,
};

/* A station of the order's life, copied out of its record. */
struct station {
    int64_t time_us; /* of the event, else of the record */
    size_t number;   /* as read: keeps the order of a topic where times are equal */
    char *text;      /* malloc */
    int64_t record_us;
    bool event,
        retry; /* on an event topic; a copy of one that is tried again by a service that keeps order */
    char topic[TOPIC_NAME_BYTES_MAX]; /* where it is, or first was */
    int32_t partition;
    int64_t offset;
    int64_t until_us; /* retry: due */
};

struct life {
    struct registry *registry;
    struct arena *arena;
    struct buffer line;
    struct station *stations;
    size_t count;
    bool json;
};

static bool starts_with(const char *name, const char *start)
{
    return strncmp(name, start, strlen(start)) == 0;
}

/* Topics that can hold something of an order: those keyed by it, retry and dead letter topics. */
static enum outcome topics_of(const struct client_settings *client, struct admin_topic **ret_list,
                              const char **ret_names, struct error *error)
{
    struct admin *admin = NULL;
    size_t count, kept = 0;
    enum topic_id id;
    *ret_list = NULL;
    enum outcome outcome = admin_open(client, &admin, error);
    if (outcome == OK)
        outcome = admin_topics(admin, ORDER_TIMEOUT_MS, ret_list, &count, error);
    for (size_t i = 0; outcome == OK && i < count && kept < ORDER_TOPICS_MAX; i++) {
        const char *name = (*ret_list)[i].name;
        const struct topic *topic = topic_find(text_of(name), &id);
        if ((topic && strcmp(topic->key_field, "order_id") == 0) || starts_with(name, "dlq.") ||
            starts_with(name, "retry."))
            ret_names[kept++] = name;
    }
    ret_names[kept] = NULL;
    admin_close(admin);
    return outcome;
}

/* "payment" of "retry.payment.2s" and of "dlq.payment". */
static struct text service_of(struct text topic)
{
    const char *dot = memchr(topic.at, '.', topic.length);
    if (!dot)
        return topic;
    struct text rest = {dot + 1, topic.length - (size_t)(dot + 1 - topic.at)};
    const char *end = memchr(rest.at, '.', rest.length);
    return end ? (struct text){rest.at, (size_t)(end - rest.at)} : rest;
}

static void line_begin(struct life *life)
{
    buffer_print(&life->line, "\n%*s", ORDER_INDENT, "");
}

static void put_time(struct life *life, int64_t time_us)
{
    char time[CLOCK_RFC3339_BYTES_MAX];
    buffer_print(&life->line, "%.23sZ", clock_to_rfc3339(time_us, time));
}

static void put_header(struct life *life, const struct header *headers, size_t count, const char *before,
                       const char *name)
{
    const struct header *header = header_find(headers, count, name);
    if (!header || !header->value.length)
        return;
    buffer_add_string(&life->line, before);
    buffer_add_plain(&life->line, header->value);
}

/* In place of the event's data, which stands where the record first was: what became of it at a service. */
static void tell_copy(struct life *life, struct station *station, const struct record *record,
                      const struct header *headers, size_t count)
{
    struct origin origin;
    struct text service = service_of(record->topic);
    bool dead = record->topic.length > 4 && memcmp(record->topic.at, "dlq.", 4) == 0;
    origin_read(headers, count, &origin);
    buffer_add_plain(&life->line, service);
    if (dead) {
        buffer_print(&life->line, ": a dead letter");
        if (origin.class.length) {
            buffer_add_string(&life->line, ", ");
            buffer_add_plain(&life->line, origin.class);
        }
        if (origin.deliveries)
            buffer_print(&life->line, ", after %d deliver%s", origin.deliveries,
                         origin.deliveries == 1 ? "y" : "ies");
    } else if (origin.drop.length) {
        buffer_print(&life->line, ": dropped");
        put_header(life, headers, count, " by ", HEADER_DROPPED_BY);
    } else if (origin.redrives && origin.attempt == 0) {
        buffer_print(&life->line, ": sent back");
        put_header(life, headers, count, " by ", HEADER_REDRIVEN_BY);
    } else {
        buffer_print(&life->line, ": attempt %d failed, attempt %d", origin.attempt, origin.attempt + 1);
        if (origin.due_us) {
            buffer_add_string(&life->line, " is due ");
            put_time(life, origin.due_us);
        }
        station->retry = true;
    }
    if (origin.topic.length) {
        line_begin(life);
        buffer_add_string(&life->line, "of ");
        buffer_add_plain(&life->line, origin.topic);
        buffer_print(&life->line, "[%d]@%lld", (int)origin.partition, (long long)origin.offset);
        if (origin.redrives)
            buffer_print(&life->line, ", sent back %d time%s", origin.redrives,
                         origin.redrives == 1 ? "" : "s");
    }
    line_begin(life);
    buffer_add_string(&life->line, "reason: ");
    buffer_add_plain(&life->line, origin.drop.length      ? origin.drop
                                  : origin.message.length ? origin.message
                                                          : TEXT("not said"));
    if (origin.first_failed_us && !origin.drop.length) {
        line_begin(life);
        buffer_add_string(&life->line, "first failed ");
        put_time(life, origin.first_failed_us);
        if (dead && origin.fingerprint.length) {
            buffer_add_string(&life->line, ", fingerprint ");
            buffer_add_plain(&life->line, origin.fingerprint);
        }
    }
    if (!station->retry)
        return;
    /* E-mail and analytics do not hold back what comes later (services/email, services/analytics: UNORDERED).
     */
    station->retry = origin.due_us && !text_is(service, "email") && !text_is(service, "analytics");
    snprintf(station->topic, sizeof(station->topic), "%.*s", TEXT_ARG(origin.topic));
    station->partition = origin.partition;
    station->offset = origin.offset;
    station->until_us = origin.due_us;
}

/* What came to the same topic meanwhile waits behind the one that failed. */
static void tell_waits(struct life *life)
{
    for (size_t i = 0; i < life->count; i++) {
        struct station *head = &life->stations[i];
        if (!head->retry)
            continue;
        buffer_clear(&life->line);
        buffer_add_string(&life->line, head->text);
        for (size_t j = 0; j < life->count; j++) {
            const struct station *later = &life->stations[j];
            if (!later->event || strcmp(later->topic, head->topic) != 0 ||
                later->partition != head->partition || later->offset <= head->offset ||
                later->record_us >= head->until_us)
                continue;
            line_begin(life);
            buffer_print(&life->line,
                         "meanwhile %s[%d]@%lld waits, or goes by if nothing is to be done for it",
                         later->topic, (int)later->partition, (long long)later->offset);
        }
        char *text = life->line.failed ? NULL : strndup(life->line.at, life->line.length);
        if (text) {
            free(head->text);
            head->text = text;
        }
    }
}

static int64_t tell(struct life *life, struct station *station, const struct record *record)
{
    char time[CLOCK_RFC3339_BYTES_MAX];
    const struct header *headers = NULL;
    size_t header_count = 0;
    struct text datum;
    int32_t schema_id;
    struct error error;
    const struct event_type *type = NULL;
    const struct codec_plan *plan;
    const void *data = NULL;
    int64_t time_us = record->timestamp_ms * 1000;
    if (record_headers(record, life->arena, &headers, &header_count, &error) != OK)
        header_count = 0;
    const struct header *said = header_find(headers, header_count, HEADER_TIME);
    bool event_topic = topic_find(record->topic, NULL) != NULL;
    if (event_topic && said)
        clock_from_rfc3339(said->value, &time_us);
    clock_to_rfc3339(time_us, time);

    enum outcome outcome =
        record->value_null ? REJECT : frame_read(record->value, &schema_id, &datum, &error);
    if (outcome == OK)
        outcome = registry_plan(life->registry, schema_id, &type, &plan, &error);
    if (outcome == OK)
        outcome = codec_decode(plan, datum, life->arena, &data, &error);
    buffer_print(&life->line, "%.23sZ  %-16s ", time, type ? type->name : "(unreadable)");
    if (!event_topic) {
        tell_copy(life, station, record, headers, header_count);
    } else if (outcome == OK) {
        struct json_writer writer = json_writer(&life->line);
        codec_to_json(type->codec, data, &writer);
    }
    const struct header *source = header_find(headers, header_count, HEADER_SOURCE);
    line_begin(life);
    buffer_print(&life->line, "%.*s[%d]@%lld%s", TEXT_ARG(record->topic), (int)record->partition,
                 (long long)record->offset, source ? " from " : "");
    if (source)
        buffer_add_plain(&life->line, source->value);
    if (event_topic) {
        station->event = true;
        snprintf(station->topic, sizeof(station->topic), "%.*s", TEXT_ARG(record->topic));
        station->partition = record->partition;
        station->offset = record->offset;
    }
    return time_us;
}

static enum outcome note(struct life *life, const struct record *record, struct error *error)
{
    if (life->count == ORDER_EVENTS_MAX)
        return error_reject(error, "many", "more than %d records of this order", ORDER_EVENTS_MAX);
    struct station *station = &life->stations[life->count];
    arena_reset(life->arena);
    buffer_clear(&life->line);
    station->time_us = station->record_us = record->timestamp_ms * 1000;
    if (life->json)
        cli_record_json(life->registry, record, life->arena, &life->line, NULL, NULL);
    else
        station->time_us = tell(life, station, record);
    station->number = life->count;
    station->text = strndup(life->line.at ? life->line.at : "", life->line.length);
    if (!station->text)
        return error_fatal(error, "memory", "out of memory");
    life->count++;
    return OK;
}

static int by_time(const void *a, const void *b)
{
    const struct station *x = a, *y = b;
    if (x->time_us != y->time_us)
        return x->time_us < y->time_us ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

static enum outcome run(struct life *life, const struct config *config, const char *id, struct error *error)
{
    const char *names[ORDER_TOPICS_MAX + 1];
    struct client_settings client = cli_client(config);
    struct admin_topic *list = NULL;
    struct reader *reader = NULL;
    bool end = false;
    int64_t heard_us = 0;
    enum outcome outcome = cli_registry(config, &life->registry, error);
    if (outcome == OK)
        outcome = topics_of(&client, &list, names, error);
    if (outcome == OK && names[0])
        outcome =
            reader_open(&client, names, READER_BEGINNING, 0, true, ORDER_TIMEOUT_MS, NULL, &reader, error);
    while (outcome == OK && reader && !end) {
        struct record record;
        bool got = false;
        if (cli_interrupted())
            outcome = cli_stopped(error, "all was read");
        else
            outcome = cli_read_on(reader, CLI_SILENT_MS, &heard_us, &record, &got, &end, error);
        if (outcome == OK && got) {
            if (text_equal_nocase(record.key, text_of(id)))
                outcome = note(life, &record, error);
            reader_release(&record);
        }
    }
    if (!life->json)
        tell_waits(life);
    qsort(life->stations, life->count, sizeof(*life->stations), by_time);
    for (size_t i = 0; i < life->count; i++)
        printf("%s\n", life->stations[i].text);
    reader_close(reader);
    free(list);
    return outcome;
}

int order_main(int argc, char **argv)
{
    const struct verb *verb = cli_verb("order");
    struct life life = {0};
    struct config *config = NULL;
    struct error error;
    int exit_code;
    cli_forget_environment(order_settings);
    if (!cli_read(verb, order_settings, argc, argv, 1, &config, &exit_code))
        return exit_code;
    if (config_positional_count(config) != 1) {
        fprintf(stderr, "weir order: whose life? usage: weir order ID\n");
        config_destroy(config);
        return EXIT_USAGE;
    }
    cli_signals();
    life.json = config_bool(config, "JSON");
    life.arena = arena_new(64 << 20);
    life.line = buffer_of(16 << 20);
    life.stations = calloc(ORDER_EVENTS_MAX, sizeof(*life.stations));
    error_set(&error, FATAL, "memory", "out of memory");
    enum outcome outcome =
        life.arena && life.stations ? run(&life, config, config_positional(config, 0), &error) : FATAL;
    if (outcome != OK)
        exit_code = cli_fail(verb, &error);
    else if (life.count == 0) {
        fprintf(stderr, "weir order: nothing is known of %s\n", config_positional(config, 0));
        exit_code = EXIT_NOTHING_FOUND;
    } else {
        exit_code = 0;
    }
    for (size_t i = 0; i < life.count; i++)
        free(life.stations[i].text);
    free(life.stations);
    registry_close(life.registry);
    arena_destroy(life.arena);
    buffer_free(&life.line);
    config_destroy(config);
    return exit_code;
}
