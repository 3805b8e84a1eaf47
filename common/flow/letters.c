#include "flow/letters.h"

#include "base/clock.h"
#include "kafka/reader.h"

#include <stdlib.h>

enum { LETTERS_TOPICS_MAX = 16, LETTERS_POLL_MS = 200, LETTERS_ARENA_BYTES_MAX = 64 << 20 };

/* Prefetched at once, unless who asks says otherwise: what an old librdkafka needs to be fast at 60,000
 * events a second (kafka/client.c) is four times what is worth its memory here. */
static const char *const properties[] = {"queued.min.messages", "20000", "queued.max.messages.kbytes",
                                         "32768", NULL};

struct letters {
    struct letters_settings settings;
    char names[LETTERS_TOPICS_MAX][TOPIC_NAME_BYTES_MAX];
    const char *topics[LETTERS_TOPICS_MAX + 1];
    struct settled *settled;
    struct reader *reader;
    struct arena *arena;
    struct record record; /* in hand where .message is set */
    struct letter letter;
    int64_t heard_us; /* when Kafka last gave something */
};

static void release(struct letters *letters)
{
    if (letters->record.message)
        reader_release(&letters->record);
    letters->record.message = NULL;
    arena_reset(letters->arena);
}

/* As reader_read(), with a bound on how long nothing comes. */
static enum outcome read_one(struct letters *letters, struct reader *reader, bool *ret_record, bool *ret_end,
                             struct error *error)
{
    release(letters);
    enum outcome outcome = reader_read(reader, LETTERS_POLL_MS, &letters->record, ret_record, ret_end, error);
    if (outcome != OK || *ret_record || *ret_end) {
        letters->heard_us = clock_monotonic_us();
        return outcome;
    }
    if (clock_monotonic_us() - letters->heard_us > LETTERS_SILENT_MS * INT64_C(1000))
        return error_outage(error, "kafka", "Kafka has sent nothing for %d s, and there is more to come",
                            LETTERS_SILENT_MS / 1000);
    return OK;
}

static bool topic_number(const struct letters *letters, struct text name, uint16_t *ret)
{
    for (uint16_t i = 0; letters->topics[i]; i++)
        if (text_is(name, letters->topics[i])) {
            *ret = i;
            return true;
        }
    return false;
}

static enum outcome audit_take(struct letters *letters, struct error *error)
{
    const struct record *record = &letters->record;
    enum letter_state action;
    struct audit_entry entry;
    struct error ignored;
    struct text name;
    int32_t partition;
    int64_t offset, at_us = record->timestamp_ms * 1000;
    json_t *json = NULL;
    uint16_t topic;
    if (record->value_null)
        return OK;
    if (!audit_place(record->value, &action, &name, &partition, &offset)) {
        if (audit_read(record->value, &entry, &json, &ignored) != OK)
            return OK; /* somebody else's: not ours to judge */
        name = entry.topic;
        action = entry.action;
        partition = entry.partition;
        offset = entry.offset;
        at_us = entry.at_us;
    }
    enum outcome outcome = OK;
    if (topic_number(letters, name, &topic))
        outcome = settled_add(letters->settled, topic, partition, offset, action, at_us, error);
    json_decref(json);
    return outcome;
}

static enum outcome audit_read_all(struct letters *letters, struct error *error)
{
    static const char *const topics[] = {TOPIC_AUDIT, NULL};
    struct reader *reader = NULL;
    bool end = false, got;
    enum outcome outcome = reader_open(&letters->settings.client, topics, READER_BEGINNING, 0, true,
                                       LETTERS_OPEN_MS, NULL, &reader, error);
    letters->heard_us = clock_monotonic_us();
    while (outcome == OK && !end) {
        if (letters->settings.stopped && letters->settings.stopped(letters->settings.owner))
            outcome = error_retry(error, "stopped", "stopped before all was read");
        else
            outcome = read_one(letters, reader, &got, &end, error);
        if (outcome == OK && got)
            outcome = audit_take(letters, error);
    }
    release(letters);
    reader_close(reader);
    return outcome;
}

enum outcome letters_open(const struct letters_settings *settings, struct letters **ret, struct error *error)
{
    struct letters *letters = calloc(1, sizeof(*letters));
    if (!letters)
        return error_fatal(error, "memory", "letters: out of memory");
    letters->settings = *settings;
    if (!settings->client.properties)
        letters->settings.client.properties = properties;
    letters->arena = arena_new(LETTERS_ARENA_BYTES_MAX);
    letters->settled = settled_new();
    enum outcome outcome = OK;
    if (!letters->arena || !letters->settled) {
        outcome = error_fatal(error, "memory", "letters: out of memory");
        goto out;
    }
    size_t count = 0;
    const char *only = settings->filter->service;
    for (const char *const *service = topic_services; !settings->topic && *service; service++)
        if ((!only || strcmp(only, *service) == 0) && count < LETTERS_TOPICS_MAX) {
            letters->topics[count] = topic_dlq(*service, letters->names[count]);
            count++;
        }
    if (settings->topic)
        letters->topics[0] = settings->topic;
    outcome = audit_read_all(letters, error);
out:
    if (outcome == OK)
        *ret = letters;
    else
        letters_close(letters);
    return outcome;
}

void letters_close(struct letters *letters)
{
    if (!letters)
        return;
    if (letters->arena)
        release(letters);
    reader_close(letters->reader);
    settled_destroy(letters->settled);
    arena_destroy(letters->arena);
    free(letters);
}

enum outcome letters_rewind(struct letters *letters, size_t *ret_topics, struct error *error)
{
    const struct letter_filter *filter = letters->settings.filter;
    size_t missing = 0, count = 0;
    release(letters);
    reader_close(letters->reader);
    letters->reader = NULL;
    letters->heard_us = clock_monotonic_us();
    while (letters->topics[count])
        count++;
    enum outcome outcome = reader_open(
        &letters->settings.client, letters->topics, filter->since_us ? READER_TIME : READER_BEGINNING,
        filter->since_us / 1000, true, LETTERS_OPEN_MS, &missing, &letters->reader, error);
    if (outcome == OK && missing && letters->settings.topic) {
        error_set(error, REJECT, "topic", "there is no topic %s", letters->settings.topic);
        if (error)
            error->exit_code = EXIT_NO_INPUT;
        return REJECT;
    }
    if (outcome == OK && ret_topics)
        *ret_topics = count - missing;
    return outcome;
}

enum outcome letters_next(struct letters *letters, const struct letter **ret, bool *ret_end,
                          struct error *error)
{
    int64_t until_us = clock_monotonic_us() + LETTERS_POLL_MS * INT64_C(1000);
    *ret = NULL;
    *ret_end = false;
    do {
        const struct header *headers;
        size_t header_count = 0;
        uint16_t topic = 0;
        struct error ignored;
        bool got;
        enum outcome outcome = read_one(letters, letters->reader, &got, ret_end, error);
        if (outcome != OK || !got)
            return outcome;
        if (record_headers(&letters->record, letters->arena, &headers, &header_count, &ignored) != OK &&
            header_count == 0)
            headers = NULL; /* past the arena: a letter without headers, which nobody can send back */
        letter_read(&letters->record, headers, header_count, letters->settings.registry, letters->arena,
                    &letters->letter);
        if (!letter_matches(letters->settings.filter, &letters->letter))
            continue; /* but not for ever: whoever asks may want to stop */
        (void)topic_number(letters, letters->record.topic, &topic);
        settled_tell(letters->settled, topic, &letters->letter);
        *ret = &letters->letter;
        return OK;
    } while (clock_monotonic_us() < until_us);
    return OK;
}

struct arena *letters_arena(struct letters *letters)
{
    return letters->arena;
}
