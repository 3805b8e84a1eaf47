/* dlq_show: dead letters whole: headers, and the event decoded or its bytes with the reason why not. */
#include "dlq.h"

#include "base/clock.h"
#include "flow/letter_json.h"

#include <stdio.h>

enum { LINE_BYTES_MAX = 32 << 20, HEX_BYTES_MAX = 256, HEX_LINE_BYTES = 16 };

struct show {
    const struct dlq *dlq;
    struct buffer line;
};

static void hex(struct buffer *into, struct text bytes)
{
    size_t count = bytes.length < HEX_BYTES_MAX ? bytes.length : HEX_BYTES_MAX;
    for (size_t at = 0; at < count; at += HEX_LINE_BYTES) {
        buffer_print(into, "    %04zx ", at);
        for (size_t i = at; i < at + HEX_LINE_BYTES; i++) {
            if (i < count)
                buffer_print(into, " %02x", (unsigned char)bytes.at[i]);
            else
                buffer_add_string(into, "   ");
        }
        buffer_add_string(into, "  ");
        for (size_t i = at; i < at + HEX_LINE_BYTES && i < count; i++)
            buffer_add_char(into, bytes.at[i] >= 0x20 && bytes.at[i] < 0x7f ? bytes.at[i] : '.');
        buffer_add_char(into, '\n');
    }
    if (bytes.length > count)
        buffer_print(into, "    … %zu bytes in all\n", bytes.length);
}

static void value_print(struct registry *registry, const struct record *record, struct arena *arena,
                        struct buffer *into)
{
    struct error error;
    struct text datum;
    int32_t schema_id;
    const struct event_type *type;
    const struct codec_plan *plan;
    const void *data;
    enum outcome outcome;
    if (record->value_null)
        outcome = error_reject(&error, "null", "the record has no value");
    else
        outcome = frame_read(record->value, &schema_id, &datum, &error);
    if (outcome == OK)
        outcome = registry_plan(registry, schema_id, &type, &plan, &error);
    if (outcome == OK)
        outcome = codec_decode(plan, datum, arena, &data, &error);
    if (outcome == OK) {
        struct json_writer writer = json_writer(into);
        buffer_add_string(into, "  ");
        codec_to_json(type->codec, data, &writer);
        buffer_add_char(into, '\n');
    } else {
        buffer_print(into, "  cannot be decoded: %s\n", error.text);
        hex(into, record->value);
    }
}

static void state_print(const struct letter *letter, struct buffer *into)
{
    char at[CLOCK_RFC3339_BYTES_MAX];
    if (letter->id.length && !letter_header(letter, HEADER_ID).length) {
        buffer_add_string(into, "  --id ");
        buffer_add_plain(into, letter->id);
        buffer_add_char(into, '\n');
    }
    buffer_print(into, "  state: %s", letter_state_name(letter->state));
    if (letter->state != LETTER_OPEN)
        buffer_print(into, " at %s", clock_to_rfc3339(letter->settled_us, at));
    if (letter->settled_count > 1)
        buffer_print(into, ", the last of %u times", letter->settled_count);
    if (letter->origin.redrives)
        buffer_print(into, "; failed again after %d redrive%s", letter->origin.redrives,
                     letter->origin.redrives == 1 ? "" : "s");
    buffer_add_char(into, '\n');
}

static void show_one(void *owner, const struct letter *letter, struct arena *arena)
{
    struct show *show = owner;
    struct buffer *line = &show->line;
    const struct record *record = letter->record;
    buffer_clear(line);
    if (show->dlq->json) {
        letter_to_json(letter, show->dlq->letters.registry, arena, line);
        buffer_add_char(line, '\n');
        fwrite(line->at, 1, line->length, stdout);
        return;
    }
    buffer_print(line, "%.*s[%d]@%lld  key ", TEXT_ARG(record->topic), (int)record->partition,
                 (long long)record->offset);
    buffer_add_plain(line, record->key_null ? TEXT("(none)") : record->key);
    buffer_add_string(line, "  ");
    buffer_add_plain(line, letter->type);
    for (size_t i = 0; i < letter->header_count; i++) {
        buffer_add_string(line, "\n  ");
        buffer_add_plain(line, letter->headers[i].name);
        buffer_add_string(line, ": ");
        buffer_add_plain(line, letter->headers[i].value);
    }
    buffer_add_char(line, '\n');
    state_print(letter, line);
    value_print(show->dlq->letters.registry, record, arena, line);
    fwrite(line->at, 1, line->length, stdout);
}

int dlq_show(const struct dlq *dlq)
{
    struct show show = {.dlq = dlq, .line = buffer_of(LINE_BYTES_MAX)};
    struct error error;
    size_t given, passed;
    enum outcome outcome = dlq_each(dlq, show_one, &show, &given, &passed, &error);
    if (outcome == OK && given == 0 && !cli_unheard())
        dlq_say_none(dlq, passed);
    buffer_free(&show.line);
    return outcome == OK ? 0 : cli_fail(dlq->verb, &error);
}
