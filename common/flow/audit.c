#include "flow/audit.h"

#include "base/clock.h"

#include <stdlib.h>

static const char *const actions[] = {[LETTER_REDRIVEN] = "redrive", [LETTER_DROPPED] = "drop"};

static void member(struct json_writer *writer, const char *name, struct text value, bool null)
{
    json_key(writer, name);
    if (null)
        json_put_null(writer);
    else
        json_put_text(writer, value);
}

struct text audit_cut(struct text text)
{
    return text_cut(text, AUDIT_TEXT_BYTES_MAX);
}

void audit_write(const struct audit_entry *entry, struct buffer *into)
{
    struct json_writer writer = json_writer(into);
    json_object_begin(&writer);
    json_member_string(&writer, "action", actions[entry->action]);
    member(&writer, "service", entry->service, !entry->service.length);
    json_member_text(&writer, "topic", entry->topic);
    json_member_int(&writer, "partition", entry->partition);
    json_member_int(&writer, "offset", entry->offset);
    json_member_text(&writer, "event_id", audit_cut(entry->event_id));
    member(&writer, "key", audit_cut(entry->key), entry->key_null);
    json_member_text(&writer, "fingerprint", audit_cut(entry->fingerprint));
    member(&writer, "to", entry->to, !entry->to.length);
    member(&writer, "reason", entry->reason, !entry->reason.length);
    json_member_text(&writer, "by", entry->by);
    json_member_time(&writer, "at", entry->at_us);
    json_member_text(&writer, "run", entry->run);
    json_object_end(&writer);
}

enum outcome audit_read(struct text value, struct audit_entry *ret, json_t **ret_json, struct error *error)
{
    json_t *json;
    if (json_read(value, &json, error) != OK)
        return error_reject(error, "audit", "not JSON");
    struct text action = json_text(json, "action");
    const json_t *partition = json_object_get(json, "partition"), *offset = json_object_get(json, "offset");
    *ret = (struct audit_entry){
        .action = text_is(action, actions[LETTER_REDRIVEN])  ? LETTER_REDRIVEN
                  : text_is(action, actions[LETTER_DROPPED]) ? LETTER_DROPPED
                                                             : LETTER_OPEN,
        .service = json_text(json, "service"),
        .topic = json_text(json, "topic"),
        .partition = (int32_t)json_integer_value(partition),
        .offset = json_integer_value(offset),
        .event_id = json_text(json, "event_id"),
        .key = json_text(json, "key"),
        .fingerprint = json_text(json, "fingerprint"),
        .to = json_text(json, "to"),
        .reason = json_text(json, "reason"),
        .by = json_text(json, "by"),
        .run = json_text(json, "run"),
    };
    ret->key_null = !ret->key.at;
    (void)clock_from_rfc3339(json_text(json, "at"), &ret->at_us);
    if (ret->action == LETTER_OPEN || !ret->topic.length || !json_is_integer(partition) ||
        json_integer_value(partition) < 0 || json_integer_value(partition) > INT32_MAX ||
        !json_is_integer(offset) || ret->offset < 0) {
        json_decref(json);
        return error_reject(error, "audit", "no record of a redrive or a drop");
    }
    *ret_json = json;
    return OK;
}

/* ---- the same without a JSON reader: members in the order of audit_write() */

static bool skip(struct text *rest, const char *literal)
{
    size_t length = strlen(literal);
    if (rest->length < length || memcmp(rest->at, literal, length) != 0)
        return false;
    *rest = (struct text){rest->at + length, rest->length - length};
    return true;
}

/* Up to the quote that ends it; none with an escape in it. */
static bool take_string(struct text *rest, struct text *ret)
{
    const char *end = rest->length ? memchr(rest->at, '"', rest->length) : NULL;
    if (!end)
        return false;
    *ret = (struct text){rest->at, (size_t)(end - rest->at)};
    *rest = (struct text){end + 1, rest->length - ret->length - 1};
    return ret->length == 0 || !memchr(ret->at, '\\', ret->length);
}

static bool take_number(struct text *rest, int64_t max, int64_t *ret)
{
    size_t digits = 0;
    while (digits < rest->length && rest->at[digits] >= '0' && rest->at[digits] <= '9')
        digits++;
    if (!text_to_int64((struct text){rest->at, digits}, ret) || *ret > max)
        return false;
    *rest = (struct text){rest->at + digits, rest->length - digits};
    return true;
}

bool audit_place(struct text value, enum letter_state *ret_action, struct text *ret_topic,
                 int32_t *ret_partition, int64_t *ret_offset)
{
    struct text rest = value, action, ignored;
    int64_t partition;
    if (!skip(&rest, "{\"action\":\"") || !take_string(&rest, &action) || !skip(&rest, ",\"service\":") ||
        !(skip(&rest, "null") || (skip(&rest, "\"") && take_string(&rest, &ignored))) ||
        !skip(&rest, ",\"topic\":\"") || !take_string(&rest, ret_topic) || !ret_topic->length ||
        !skip(&rest, ",\"partition\":") || !take_number(&rest, INT32_MAX, &partition) ||
        !skip(&rest, ",\"offset\":") || !take_number(&rest, INT64_MAX, ret_offset) || !skip(&rest, ","))
        return false;
    *ret_partition = (int32_t)partition;
    *ret_action = text_is(action, actions[LETTER_REDRIVEN])  ? LETTER_REDRIVEN
                  : text_is(action, actions[LETTER_DROPPED]) ? LETTER_DROPPED
                                                             : LETTER_OPEN;
    return *ret_action != LETTER_OPEN;
}

/* ---- what was settled: open addressing, at most three quarters full */

enum { SETTLED_SLOTS_MIN = 1024, SETTLED_TIMES_MAX = 255 };

struct slot {
    int64_t offset;
    int64_t at_us;
    int32_t partition;
    uint16_t topic;
    uint8_t action; /* LETTER_OPEN: the slot is free */
    uint8_t times;
};
_Static_assert(sizeof(struct slot) == AUDIT_SETTLED_BYTES, "the bound is said in bytes");

struct settled {
    struct slot *slots;
    size_t slot_count, count; /* slot_count: a power of two */
};

struct settled *settled_new(void)
{
    struct settled *settled = calloc(1, sizeof(*settled));
    if (!settled)
        return NULL;
    settled->slot_count = SETTLED_SLOTS_MIN;
    settled->slots = calloc(settled->slot_count, sizeof(*settled->slots));
    if (settled->slots)
        return settled;
    free(settled);
    return NULL;
}

void settled_destroy(struct settled *settled)
{
    if (!settled)
        return;
    free(settled->slots);
    free(settled);
}

size_t settled_count(const struct settled *settled)
{
    return settled->count;
}

/* Offsets come one after another: multiplied out, so that they do not lie so. */
static size_t place(const struct settled *settled, uint16_t topic, int32_t partition, int64_t offset)
{
    uint64_t hash = (uint64_t)offset ^ ((uint64_t)(uint32_t)partition << 40) ^ ((uint64_t)topic << 56);
    hash = (hash ^ hash >> 31) * UINT64_C(0x9e3779b97f4a7c15);
    return (size_t)(hash >> 20) & (settled->slot_count - 1);
}

/* The letter's slot, or the free one where it would stand. */
static struct slot *find(const struct settled *settled, uint16_t topic, int32_t partition, int64_t offset)
{
    size_t at = place(settled, topic, partition, offset);
    for (;; at = (at + 1) & (settled->slot_count - 1)) {
        struct slot *slot = &settled->slots[at];
        if (slot->action == LETTER_OPEN ||
            (slot->offset == offset && slot->partition == partition && slot->topic == topic))
            return slot;
    }
}

static bool grow(struct settled *settled)
{
    struct settled larger = {.slot_count = settled->slot_count * 2, .count = settled->count};
    larger.slots = calloc(larger.slot_count, sizeof(*larger.slots));
    if (!larger.slots)
        return false;
    for (size_t i = 0; i < settled->slot_count; i++) {
        const struct slot *slot = &settled->slots[i];
        if (slot->action != LETTER_OPEN)
            *find(&larger, slot->topic, slot->partition, slot->offset) = *slot;
    }
    free(settled->slots);
    *settled = larger;
    return true;
}

enum outcome settled_add(struct settled *settled, uint16_t topic, int32_t partition, int64_t offset,
                         enum letter_state action, int64_t at_us, struct error *error)
{
    struct slot *slot = find(settled, topic, partition, offset);
    if (slot->action == LETTER_OPEN) {
        if (settled->count == AUDIT_SETTLED_MAX)
            return error_retry(error, "audit-full",
                               "more than %d dead letters were redriven or dropped in the audit's %d days: "
                               "take one service at a time",
                               AUDIT_SETTLED_MAX, TOPIC_AUDIT_DAYS);
        if ((settled->count + 1) * 4 > settled->slot_count * 3) {
            if (!grow(settled))
                return error_fatal(error, "memory", "audit: out of memory");
            slot = find(settled, topic, partition, offset);
        }
        *slot = (struct slot){.offset = offset, .partition = partition, .topic = topic};
        settled->count++;
    }
    slot->action = (uint8_t)action;
    slot->at_us = at_us;
    if (slot->times < SETTLED_TIMES_MAX)
        slot->times++;
    return OK;
}

void settled_tell(const struct settled *settled, uint16_t topic, struct letter *letter)
{
    const struct slot *slot = find(settled, topic, letter->record->partition, letter->record->offset);
    letter->state = (enum letter_state)slot->action;
    letter->settled_count = slot->action == LETTER_OPEN ? 0 : slot->times;
    letter->settled_us = slot->action == LETTER_OPEN ? 0 : slot->at_us;
}
