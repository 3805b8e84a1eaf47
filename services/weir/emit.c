/*
 * emit: upstream events in, one structured CloudEvent in JSON a line, out as Avro to the topic of their type,
 * keyed, acks=all.
 *
 * A bad line goes to stderr as "line N: reason" and the good ones still go. At most EMIT_IN_FLIGHT_MAX
 * records are on their way; reading waits for them.
 */
#include "cli.h"

#include "base/clock.h"
#include "kafka/producer.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { EMIT_LINE_BYTES_MAX = 1 << 20, EMIT_IN_FLIGHT_MAX = 10000, EMIT_HEADERS_MAX = 8 };

static const struct setting emit_settings[] = {
    {"EMIT_TIMEOUT", SETTING_DURATION, "60s", 1000, 3600 * 1000, NULL,
     "How long to wait for Kafka's acknowledgements."},
    SETTINGS_END,
};

struct emit {
    struct registry *registry;
    struct producer *producer;
    struct arena *arena;
    struct buffer text, value; /* of the line in hand */
    int64_t timeout_us;
    size_t sent, bad, line;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t acked, refused;
};

static void on_report(void *owner, uint64_t tag, enum outcome outcome, int32_t partition, int64_t offset,
                      const char *reason)
{
    struct emit *emit = owner;
    (void)partition;
    (void)offset;
    pthread_mutex_lock(&emit->lock);
    if (outcome == OK) {
        emit->acked++;
    } else {
        emit->refused++;
        fprintf(stderr, "line %llu: Kafka did not take it: %s\n", (unsigned long long)tag,
                reason ? reason : "unknown");
    }
    pthread_cond_signal(&emit->changed);
    pthread_mutex_unlock(&emit->lock);
}

/* Until at most in_flight_max are on their way. OUTAGE when nothing moves for the time-out; RETRY when it was
 * interrupted and nothing moves any more. */
static enum outcome wait_for_acks(struct emit *emit, size_t in_flight_max, struct error *error)
{
    enum outcome outcome = OK;
    int64_t last_moved_us = clock_monotonic_us();
    pthread_mutex_lock(&emit->lock);
    size_t settled = emit->acked + emit->refused;
    while (emit->sent - (emit->acked + emit->refused) > in_flight_max && outcome == OK) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += 1;
        pthread_cond_timedwait(&emit->changed, &emit->lock, &until);
        if (emit->acked + emit->refused != settled) {
            settled = emit->acked + emit->refused;
            last_moved_us = clock_monotonic_us();
        } else if (cli_interrupted()) {
            outcome = error_retry(error, "stopped", "stopped at line %zu; %zu events were not acknowledged",
                                  emit->line, emit->sent - settled);
        } else if (clock_monotonic_us() - last_moved_us > emit->timeout_us) {
            outcome = error_outage(error, "kafka", "%zu events were not acknowledged", emit->sent - settled);
        }
    }
    pthread_mutex_unlock(&emit->lock);
    return outcome;
}

/* ---- a line */

struct cloudevent {
    const struct event_type *type;
    const void *data;
    struct text id, source, traceparent, key;
    int64_t time_us;
};

/* REJECT with the reason; every text lies in the json or the arena. */
static enum outcome cloudevent_read(struct emit *emit, const json_t *json, struct cloudevent *ret,
                                    struct error *error)
{
    struct codec_faults faults = {0};
    void *data;
    struct text specversion = json_text(json, "specversion"), type = json_text(json, "type"),
                time = json_text(json, "time");
    if (!json_is_object(json))
        return error_reject(error, "json", "not a JSON object");
    if (specversion.length && !text_is(specversion, "1.0"))
        return error_reject(error, "specversion", "specversion must be 1.0");
    if (!type.length)
        return error_reject(error, "type", "type is missing");
    *ret = (struct cloudevent){
        .type = event_type_find(type),
        .id = json_text(json, "id"),
        .source = json_text(json, "source"),
        .traceparent = json_text(json, "traceparent"),
    };
    if (!ret->type)
        return error_reject(error, "type", "%.*s is no event of Weir", TEXT_ARG(type));
    if (!ret->id.length || !ret->source.length)
        return error_reject(error, "envelope", "%s is missing", ret->id.length ? "source" : "id");
    if (time.length && !clock_from_rfc3339(time, &ret->time_us))
        return error_reject(error, "time", "time must be RFC 3339");
    if (!json_is_object(json_object_get(json, "data")))
        return error_reject(error, "data", "data must be an object");
    enum outcome outcome =
        codec_from_json(ret->type->codec, json_object_get(json, "data"), emit->arena, &data, &faults, error);
    if (outcome != OK)
        return outcome;
    if (!event_lower_id(ret->type, data, emit->arena))
        return error_fatal(error, "memory", "out of memory");
    ret->data = data;
    if (!event_valid(ret->type, data, &faults))
        return error_reject(error, "invalid", "%s: %s", faults.fault[0].path, faults.fault[0].reason);
    ret->key = *(const struct text *)(const void *)((const char *)data + ret->type->key_offset);
    return OK;
}

static enum outcome send(struct emit *emit, const struct cloudevent *event, struct error *error)
{
    char time[CLOCK_RFC3339_BYTES_MAX], trace[HEADER_TRACEPARENT_BYTES + 1];
    int32_t schema_id;
    enum outcome outcome = registry_id(emit->registry, event->type, &schema_id, error);
    if (outcome != OK)
        return outcome;
    buffer_clear(&emit->value);
    frame_write(&emit->value, schema_id);
    outcome = codec_encode(event->type->codec, event->data, &emit->value, error);
    if (outcome != OK)
        return outcome;
    if (emit->value.failed)
        return error_reject(error, "size", "the event is larger than %d bytes", CODEC_ENCODED_BYTES_MAX);
    struct text parent = traceparent_valid(event->traceparent) ? event->traceparent : TEXT("");
    const struct header headers[EMIT_HEADERS_MAX] = {
        {TEXT(HEADER_SPECVERSION), TEXT("1.0")},
        {TEXT(HEADER_ID), event->id},
        {TEXT(HEADER_SOURCE), event->source},
        {TEXT(HEADER_TYPE), text_of(event->type->full_name)},
        {TEXT(HEADER_TIME),
         text_of(clock_to_rfc3339(event->time_us ? event->time_us : clock_wall_us(), time))},
        {TEXT(HEADER_SUBJECT), event->key},
        {TEXT(HEADER_CONTENT_TYPE), TEXT("application/avro")},
        {TEXT(HEADER_TRACEPARENT),
         parent.length ? parent : traceparent_next(parent, id_from_text(event->id), trace)},
    };
    const struct producer_record record = {
        .topic = text_of(topic_get(event->type->topic)->name),
        .partition = -1,
        .key = event->key,
        .value = buffer_text(&emit->value),
        .headers = headers,
        .header_count = EMIT_HEADERS_MAX,
    };
    while ((outcome = producer_send(emit->producer, &record, emit->line, error)) == RETRY) {
        outcome = wait_for_acks(emit, EMIT_IN_FLIGHT_MAX / 2, error);
        if (outcome != OK)
            return outcome;
    }
    if (outcome == OK) {
        pthread_mutex_lock(&emit->lock);
        emit->sent++;
        pthread_mutex_unlock(&emit->lock);
        outcome = wait_for_acks(emit, EMIT_IN_FLIGHT_MAX, error);
    }
    return outcome;
}

static void bad_line(struct emit *emit, const char *reason)
{
    emit->bad++;
    fprintf(stderr, "line %zu: %s\n", emit->line, reason);
}

/* OK also for a bad line. */
static enum outcome line(struct emit *emit, struct text text, struct error *error)
{
    json_t *json = NULL;
    struct cloudevent event;
    while (text.length && strchr(" \t\r\n", text.at[text.length - 1]))
        text.length--;
    if (text.length == 0)
        return OK;
    if (text.length > EMIT_LINE_BYTES_MAX) {
        bad_line(emit, "longer than 1 MiB");
        return OK;
    }
    arena_reset(emit->arena);
    enum outcome outcome = json_read_request(text, &json, error);
    if (outcome == OK)
        outcome = cloudevent_read(emit, json, &event, error);
    if (outcome == OK)
        outcome = send(emit, &event, error);
    json_decref(json);
    if (outcome == REJECT) {
        bad_line(emit, error->text);
        return OK;
    }
    return outcome;
}

/* The next line into emit->text, at most one byte more of it than a line may have. False: there is none. */
static bool line_read(struct emit *emit, FILE *file)
{
    int byte;
    buffer_clear(&emit->text);
    while ((byte = getc_unlocked(file)) != EOF && byte != '\n')
        if (emit->text.length <= EMIT_LINE_BYTES_MAX)
            buffer_add_char(&emit->text, (char)byte);
    return byte == '\n' || (emit->text.length > 0 && !ferror(file));
}

static enum outcome lines(struct emit *emit, FILE *file, struct error *error)
{
    enum outcome outcome = OK;
    while (outcome == OK && !cli_interrupted() && line_read(emit, file)) {
        emit->line++;
        outcome = line(emit, buffer_text(&emit->text), error);
    }
    if (outcome == OK && cli_interrupted() && !feof(file))
        outcome = error_retry(error, "stopped", "stopped behind line %zu", emit->line);
    else if (outcome == OK && ferror(file))
        outcome = error_reject(error, "read", "cannot be read from line %zu on: %s", emit->line + 1,
                               strerror(errno));
    if (outcome == REJECT)
        error->exit_code = EXIT_NO_INPUT; /* lines that are bad are counted, and no error */
    return outcome;
}

static enum outcome run(struct emit *emit, const struct config *config, FILE *file, struct error *error)
{
    struct client_settings client = cli_client(config);
    const struct producer_settings settings = {
        .client = client,
        .linger_ms = 5,
        .queue_records_max = EMIT_IN_FLIGHT_MAX * 2,
        .queue_kbytes_max = 256 << 10,
    };
    emit->arena = arena_new(64 << 20);
    emit->value = buffer_of(CODEC_ENCODED_BYTES_MAX);
    emit->text = buffer_of(EMIT_LINE_BYTES_MAX + 1);
    emit->timeout_us = config_ms(config, "EMIT_TIMEOUT") * 1000;
    if (!emit->arena)
        return error_fatal(error, "memory", "out of memory");
    enum outcome outcome = cli_registry(config, &emit->registry, error);
    if (outcome == OK)
        outcome = producer_open(&settings, on_report, emit, &emit->producer, error);
    if (outcome != OK)
        return outcome;
    outcome = lines(emit, file, error);
    if (outcome == OK)
        return wait_for_acks(emit, 0, error);
    struct error later;
    if (outcome != OUTAGE) /* what was sent before is on its way */
        (void)!wait_for_acks(emit, 0, &later);
    return outcome;
}

int emit_main(int argc, char **argv)
{
    const struct verb *verb = cli_verb("emit");
    struct emit emit = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct config *config = NULL;
    struct error error;
    FILE *file = stdin;
    int exit_code;

    if (!cli_read(verb, emit_settings, argc, argv, 1, &config, &exit_code))
        return exit_code;
    cli_signals();
    const char *path = config_positional_count(config) ? config_positional(config, 0) : "-";
    if (strcmp(path, "-") != 0 && !(file = fopen(path, "re"))) {
        fprintf(stderr, "weir emit: %s: %s\n", path, strerror(errno));
        config_destroy(config);
        return EXIT_NO_INPUT;
    }
    enum outcome outcome = run(&emit, config, file, &error);
    exit_code = outcome != OK ? cli_fail(verb, &error) : emit.bad || emit.refused ? EXIT_BAD_DATA : 0;
    fprintf(stderr, "weir emit: %zu sent, %zu acknowledged, %zu bad\n", emit.sent, emit.acked,
            emit.bad + emit.refused);

    if (emit.producer)
        producer_close(emit.producer, 1000);
    registry_close(emit.registry);
    arena_destroy(emit.arena);
    buffer_free(&emit.value);
    buffer_free(&emit.text);
    if (file != stdin)
        fclose(file);
    config_destroy(config);
    return exit_code;
}
