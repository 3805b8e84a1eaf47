#include "flow/letter_json.h"

#include <stdio.h>

enum { NAME_BYTES_MAX = 128 };

static void member_unless_there(const struct letter *letter, struct json_writer *writer, const char *name,
                                struct text value)
{
    if (value.length && !header_find(letter->headers, letter->header_count, name))
        json_member_text(writer, name, value);
}

static void number_unless_there(const struct letter *letter, struct json_writer *writer, const char *name,
                                int64_t number)
{
    char digits[24];
    snprintf(digits, sizeof(digits), "%lld", (long long)number);
    if (number >= 0)
        member_unless_there(letter, writer, name, text_of(digits));
}

/* What Spring and Connect say in words and bytes of their own, by the names that a redrive would give it. */
static void members_of_others(const struct letter *letter, struct json_writer *writer)
{
    const struct origin *origin = &letter->origin;
    if (origin->kind == ORIGIN_NONE || origin->kind == ORIGIN_WEIR)
        return;
    member_unless_there(letter, writer, HEADER_ERRORS_TOPIC, origin->topic);
    number_unless_there(letter, writer, HEADER_ERRORS_PARTITION, origin->partition);
    number_unless_there(letter, writer, HEADER_ERRORS_OFFSET, origin->offset);
    member_unless_there(letter, writer, HEADER_ERRORS_GROUP, origin->group);
    if (origin->deliveries > 0)
        number_unless_there(letter, writer, HEADER_ERRORS_DELIVERY_COUNT, origin->deliveries);
    member_unless_there(letter, writer, HEADER_ERRORS_MESSAGE, origin->message);
    member_unless_there(letter, writer, HEADER_CLASS, origin->class);
    member_unless_there(letter, writer, HEADER_FINGERPRINT, letter->fingerprint);
}

static void members(void *owner, struct json_writer *writer)
{
    const struct letter *letter = owner;
    for (size_t i = 0; i < letter->header_count; i++) {
        struct text name = letter->headers[i].name;
        char spelt[NAME_BYTES_MAX];
        if (!origin_is_ours(name) || name.length >= sizeof(spelt) || memchr(name.at, '\0', name.length))
            continue;
        memcpy(spelt, name.at, name.length);
        spelt[name.length] = '\0';
        /* The last of a name counts; an object must not say it twice. */
        if (header_find(letter->headers, letter->header_count, spelt) != &letter->headers[i])
            continue;
        json_key_text(writer, name);
        json_put_text(writer, letter->headers[i].value);
    }
    members_of_others(letter, writer);
    if (letter->id.length && !letter_header(letter, HEADER_ID).length)
        json_member_text(writer, "letter_id", letter->id);
    json_member_string(writer, "state", letter_state_name(letter->state));
    if (letter->state == LETTER_OPEN)
        return;
    json_member_time(writer, "settled_at", letter->settled_us);
    json_member_int(writer, "settled_count", letter->settled_count);
}

void letter_to_json(const struct letter *letter, struct registry *registry, struct arena *arena,
                    struct buffer *into)
{
    struct letter copy = *letter;
    record_to_json(registry, letter->record, arena, into, members, &copy);
}

void cause_to_json(const struct cause *cause, struct json_writer *writer)
{
    json_object_begin(writer);
    json_member_int(writer, "count", (int64_t)cause->count);
    json_member_int(writer, "open", (int64_t)cause->open);
    json_member_int(writer, "redriven", (int64_t)cause->redriven);
    json_member_int(writer, "dropped", (int64_t)cause->dropped);
    json_member_int(writer, "again", (int64_t)cause->again);
    json_member_string(writer, "topic", cause->topic);
    json_member_string(writer, "class", cause->class);
    json_member_string(writer, "type", cause->type);
    json_member_string(writer, "fingerprint", cause->fingerprint);
    json_member_time(writer, "first_at", cause->first_us);
    json_member_time(writer, "last_at", cause->last_us);
    json_member_string(writer, "message", cause->message);
    json_object_end(writer);
}

static void member_count(struct json_writer *writer, const char *name, size_t count)
{
    json_member_int(writer, name, (int64_t)count);
}

static void member_bool(struct json_writer *writer, const char *name, bool value)
{
    json_key(writer, name);
    json_put_bool(writer, value);
}

void forecast_members(const struct redrive_forecast *forecast, struct json_writer *writer)
{
    member_count(writer, "matching", forecast->matching);
    member_count(writer, "open", forecast->open);
    member_count(writer, "redriven", forecast->redriven);
    member_count(writer, "dropped", forecast->dropped);
    member_count(writer, "would_send", forecast->sent);
    member_count(writer, "would_go_home", forecast->home);
    member_count(writer, "duplicates", forecast->duplicates);
    member_bool(writer, "duplicates_at_least", forecast->duplicates_at_least);
    member_count(writer, "unreadable", forecast->unreadable);
    if (forecast->unreadable)
        json_member_string(writer, "unreadable_first", forecast->unreadable_first);
    json_member_int(writer, "seconds", forecast->seconds);
    json_key(writer, "causes");
    json_array_begin(writer);
    for (size_t i = 0; i < forecast->causes.count; i++)
        cause_to_json(&forecast->causes.list[i], writer);
    json_array_end(writer);
    if (forecast->causes.others)
        member_count(writer, "of_other_causes", forecast->causes.others);
}

void done_members(const struct redrive_done *done, struct json_writer *writer)
{
    json_member_string(writer, "run", done->run);
    member_count(writer, "sent", done->sent);
    member_count(writer, "passed", done->passed);
    member_count(writer, "unreadable", done->unreadable);
    member_count(writer, "refused", done->refused);
    if (done->refused_first[0])
        json_member_string(writer, "refused_first", done->refused_first);
    member_bool(writer, "stopped", done->stopped);
}
