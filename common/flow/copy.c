#include "flow/copy.h"

#include "base/clock.h"
#include "base/digest.h"
#include "store/outbox.h"

#include <stdio.h>

enum { COPY_HEADERS_MAX = 14 };

const char *const failure_class_names[FAILURE_CLASSES] = {"RETRY", "REJECT", "CRASH"};

void copy_fingerprint(const char *service, enum failure_class class, const struct error *error,
                      char into[FINGERPRINT_BYTES + 1])
{
    char story[128];
    uint8_t digest[DIGEST_BYTES];
    int length = snprintf(story, sizeof(story), "%s/%s/%s", service, failure_class_names[class],
                          error->cause ? error->cause : "");
    digest_sha256((struct text){story, (size_t)length}, digest);
    digest_to_hex(digest, FINGERPRINT_BYTES / 2, into);
    into[FINGERPRINT_BYTES] = '\0';
}

struct list {
    struct arena *arena;
    struct header *at;
    size_t count;
    bool failed;
};

/* The row is sent when the record itself may be gone. No value stays none. */
static struct text keep(struct list *list, struct text text)
{
    struct text copy = text.at ? text_copy(list->arena, text) : text;
    list->failed = list->failed || (text.at && !copy.at);
    return copy;
}

static void put(struct list *list, const char *name, struct text value)
{
    list->at[list->count++] = (struct header){text_of(name), value};
}

static void put_copy(struct list *list, const char *name, struct text value)
{
    put(list, name, keep(list, value));
}

static void put_number(struct list *list, const char *name, int64_t number)
{
    char digits[24];
    int length = snprintf(digits, sizeof(digits), "%lld", (long long)number);
    put_copy(list, name, (struct text){digits, (size_t)length});
}

static void put_time(struct list *list, const char *name, int64_t time_us)
{
    char text[CLOCK_RFC3339_BYTES_MAX];
    put_copy(list, name, text_of(clock_to_rfc3339(time_us, text)));
}

static void fail_memory(struct work *work)
{
    struct error error;
    error_set(&error, RETRY, "memory", "a copy of a record: no room for it in this batch");
    work_fail(work, &error);
}

/* How people sent it back stays with it, so that a record that fails again says how often. */
static bool is_redrive(struct text name)
{
    return text_is(name, HEADER_REDRIVES) || text_is(name, HEADER_REDRIVEN_AT) ||
           text_is(name, HEADER_REDRIVEN_BY);
}

void copy_move(struct work *work, const struct copier *copier, const char *topic, const struct record *home,
               const struct header *headers, size_t header_count, const struct origin *origin,
               const struct failure *failure, int64_t due_us, int64_t now_us)
{
    struct arena *arena = work_arena(work);
    struct list list = {arena, arena_take(arena, (header_count + COPY_HEADERS_MAX) * sizeof(*list.at)), 0,
                        false};
    char fingerprint[FINGERPRINT_BYTES + 1];
    if (!list.at) {
        fail_memory(work);
        return;
    }
    for (size_t i = 0; i < header_count; i++)
        if (!origin_is_ours(headers[i].name) || (origin && is_redrive(headers[i].name)))
            list.at[list.count++] =
                (struct header){keep(&list, headers[i].name), keep(&list, headers[i].value)};

    struct text message = text_of(failure->error->text);
    if (message.length > COPY_MESSAGE_BYTES_MAX)
        message.length = COPY_MESSAGE_BYTES_MAX;
    copy_fingerprint(copier->service, failure->class, failure->error, fingerprint);

    put_copy(&list, HEADER_ERRORS_TOPIC, home->topic);
    if (home->partition >= 0)
        put_number(&list, HEADER_ERRORS_PARTITION, home->partition);
    if (home->offset >= 0)
        put_number(&list, HEADER_ERRORS_OFFSET, home->offset);
    put(&list, HEADER_ERRORS_GROUP, text_of(copier->group));
    put_number(&list, HEADER_ERRORS_DELIVERY_COUNT, failure->deliveries);
    put_copy(&list, HEADER_ERRORS_MESSAGE, message);
    put(&list, HEADER_CLASS, text_of(failure_class_names[failure->class]));
    put_copy(&list, HEADER_FINGERPRINT, text_of(fingerprint));
    put_number(&list, HEADER_ATTEMPT, failure->attempt);
    put_time(&list, HEADER_FIRST_FAILED_AT, failure->first_failed_us);
    if (due_us)
        put_time(&list, HEADER_DUE_AT, due_us);

    const struct outbox_row row = {
        .topic = keep(&list, text_of(topic)),
        .partition = -1,
        .key = keep(&list, home->key),
        .value = keep(&list, home->value),
        .key_null = home->key_null,
        .value_null = home->value_null,
        .headers = list.at,
        .header_count = list.count,
        .created_us = now_us,
    };
    if (list.failed)
        fail_memory(work);
    outbox_add(work, &row);
}
