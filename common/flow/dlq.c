#include "flow/dlq.h"

#include "base/clock.h"
#include "base/digest.h"
#include "store/outbox.h"
#include "wire/topic.h"

#include <stdio.h>

enum { DLQ_HEADERS = 10 };

/* Ours, and therefore replaced: they tell of this failure, not of one elsewhere. */
static bool is_ours(struct text name)
{
    static const char *const ours[] = {"__dlq.errors.", "weir_"};
    for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++) {
        size_t length = strlen(ours[i]);
        if (name.length >= length && memcmp(name.at, ours[i], length) == 0)
            return true;
    }
    return false;
}

void dlq_fingerprint(const char *service, const char *class, const struct error *error,
                     char into[DLQ_FINGERPRINT_BYTES + 1])
{
    char story[128];
    uint8_t digest[DIGEST_BYTES];
    int length = snprintf(story, sizeof(story), "%s/%s/%s", service, class, error->cause ? error->cause : "");
    digest_sha256((struct text){story, (size_t)length}, digest);
    digest_to_hex(digest, DLQ_FINGERPRINT_BYTES / 2, into);
    into[DLQ_FINGERPRINT_BYTES] = '\0';
}

static struct text print_number(struct arena *arena, int64_t number)
{
    return text_of(arena_print(arena, "%lld", (long long)number));
}

void dlq_move(struct work *work, const char *service, const char *group, const struct record *record,
              const struct header *headers, size_t header_count, const struct dlq_reason *reason)
{
    struct arena *arena = work_arena(work);
    char topic[TOPIC_NAME_BYTES_MAX], fingerprint[DLQ_FINGERPRINT_BYTES + 1],
        first_failed[CLOCK_RFC3339_BYTES_MAX];
    struct header *all = arena_take(arena, (header_count + DLQ_HEADERS) * sizeof(*all));
    if (!all)
        return; /* the arena's failure sticks to the work */

    size_t count = 0;
    for (size_t i = 0; i < header_count; i++)
        if (!is_ours(headers[i].name))
            all[count++] = headers[i];

    struct text message = text_of(reason->error->text);
    if (message.length > DLQ_MESSAGE_BYTES_MAX)
        message.length = DLQ_MESSAGE_BYTES_MAX;
    dlq_fingerprint(service, reason->class, reason->error, fingerprint);
    clock_to_rfc3339(reason->first_failed_us, first_failed);

    all[count++] = (struct header){TEXT("__dlq.errors.topic"), record->topic};
    all[count++] = (struct header){TEXT("__dlq.errors.partition"), print_number(arena, record->partition)};
    all[count++] = (struct header){TEXT("__dlq.errors.offset"), print_number(arena, record->offset)};
    all[count++] = (struct header){TEXT("__dlq.errors.group"), text_of(group)};
    all[count++] = (struct header){TEXT("__dlq.errors.delivery.count"), print_number(arena, reason->attempt)};
    all[count++] = (struct header){TEXT("__dlq.errors.message"), text_copy(arena, message)};
    all[count++] = (struct header){TEXT("weir_error_class"), text_of(reason->class)};
    all[count++] = (struct header){TEXT("weir_error_fingerprint"), text_copy(arena, text_of(fingerprint))};
    all[count++] = (struct header){TEXT("weir_attempt"), print_number(arena, reason->attempt)};
    all[count++] = (struct header){TEXT("weir_first_failed_at"), text_copy(arena, text_of(first_failed))};

    const struct outbox_row row = {
        .topic = text_copy(arena, text_of(topic_dlq(service, topic))),
        .partition = -1,
        .key = record->key,
        .value = record->value,
        .key_null = record->key_null,
        .value_null = record->value_null,
        .headers = all,
        .header_count = count,
        .created_us = reason->first_failed_us,
    };
    outbox_add(work, &row);
}
