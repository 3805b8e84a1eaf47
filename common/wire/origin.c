#include "wire/origin.h"

#include "base/clock.h"

enum { TOPIC_BYTES_MAX = 249 }; /* Kafka's own bound */

/* Numbers as Java writes them into a header. */
enum { BYTES_OF_INT = 4, BYTES_OF_LONG = 8 };

/* How one of those who write dead letters names things. NULL: it does not say. */
static const struct dialect {
    enum origin_kind kind;
    bool binary; /* numbers are big-endian bytes, else decimal text */
    /* Where it was is what stands first: who appends at each hop leaves the oldest in front. */
    bool first;
    const char *topic, *partition, *offset, *group, *deliveries, *class, *message;
    const char *key_class, *key_message; /* where it was the key that could not be read */
} dialects[] = {
    {
        .kind = ORIGIN_WEIR,
        .topic = HEADER_ERRORS_TOPIC,
        .partition = HEADER_ERRORS_PARTITION,
        .offset = HEADER_ERRORS_OFFSET,
        .group = HEADER_ERRORS_GROUP,
        .deliveries = HEADER_ERRORS_DELIVERY_COUNT,
        .class = HEADER_CLASS,
        .message = HEADER_ERRORS_MESSAGE,
    },
    {
        /* DeadLetterPublishingRecoverer alone. */
        .kind = ORIGIN_SPRING,
        .binary = true,
        .first = true,
        .topic = "kafka_dlt-original-topic",
        .partition = "kafka_dlt-original-partition",
        .offset = "kafka_dlt-original-offset",
        .group = "kafka_dlt-original-consumer-group",
        .deliveries = "retry_topic-attempts",
        .class = "kafka_dlt-exception-fqcn",
        .message = "kafka_dlt-exception-message",
        .key_class = "kafka_dlt-key-exception-fqcn",
        .key_message = "kafka_dlt-key-exception-message",
    },
    {
        /* @RetryableTopic: other names for all but the group. */
        .kind = ORIGIN_SPRING,
        .binary = true,
        .first = true,
        .topic = "kafka_original-topic",
        .partition = "kafka_original-partition",
        .offset = "kafka_original-offset",
        .group = "kafka_dlt-original-consumer-group",
        .deliveries = "retry_topic-attempts",
        .class = "kafka_exception-fqcn",
        .message = "kafka_exception-message",
        .key_class = "kafka_key-exception-fqcn",
        .key_message = "kafka_key-exception-message",
    },
    {
        .kind = ORIGIN_CONNECT,
        .topic = "__connect.errors.topic",
        .partition = "__connect.errors.partition",
        .offset = "__connect.errors.offset",
        .group = "__connect.errors.connector.name",
        .class = "__connect.errors.exception.class.name",
        .message = "__connect.errors.exception.message",
    },
};

static struct text find(const struct header *headers, size_t count, const char *name, bool first)
{
    if (!name)
        return (struct text){0};
    struct text wanted = text_of(name);
    for (size_t i = 0; first && i < count; i++)
        if (text_equal(headers[i].name, wanted))
            return headers[i].value;
    const struct header *header = header_find(headers, count, name);
    return header ? header->value : (struct text){0};
}

/* A name that Kafka would take: what stands there may become a topic to send to. */
static bool is_topic(struct text name)
{
    if (name.length == 0 || name.length > TOPIC_BYTES_MAX || text_is(name, ".") || text_is(name, ".."))
        return false;
    for (size_t i = 0; i < name.length; i++) {
        char c = name.at[i];
        bool fine = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
                    c == '_' || c == '-';
        if (!fine)
            return false;
    }
    return true;
}

/* 0 to max; else otherwise. */
static int64_t number(struct text value, size_t binary_bytes, int64_t max, int64_t otherwise)
{
    int64_t number = -1;
    if (binary_bytes) {
        if (value.length != binary_bytes)
            return otherwise;
        uint64_t bits = 0;
        for (size_t i = 0; i < binary_bytes; i++)
            bits = bits << 8 | (uint8_t)value.at[i];
        if (bits > INT64_MAX)
            return otherwise;
        number = (int64_t)bits;
    } else if (!text_to_int64(value, &number)) {
        return otherwise;
    }
    return number >= 0 && number <= max ? number : otherwise;
}

static int64_t time_us(const struct header *headers, size_t count, const char *name)
{
    int64_t wall_us;
    return clock_from_rfc3339(find(headers, count, name, false), &wall_us) ? wall_us : 0;
}

void origin_read(const struct header *headers, size_t count, struct origin *ret)
{
    *ret = (struct origin){.partition = -1, .offset = -1};
    const struct dialect *dialect = dialects, *end = dialects + sizeof(dialects) / sizeof(*dialects);
    for (; dialect < end; dialect++)
        if (is_topic(find(headers, count, dialect->topic, dialect->first)))
            break;
    if (dialect == end)
        return;

    ret->kind = dialect->kind;
    ret->topic = find(headers, count, dialect->topic, dialect->first);
    ret->partition = (int32_t)number(find(headers, count, dialect->partition, dialect->first),
                                     dialect->binary ? BYTES_OF_INT : 0, INT32_MAX, -1);
    ret->offset = number(find(headers, count, dialect->offset, dialect->first),
                         dialect->binary ? BYTES_OF_LONG : 0, INT64_MAX, -1);
    ret->group = find(headers, count, dialect->group, dialect->first);
    ret->deliveries = (int)number(find(headers, count, dialect->deliveries, false),
                                  dialect->binary ? BYTES_OF_INT : 0, ORIGIN_COUNT_MAX, 0);
    ret->class = find(headers, count, dialect->class, false);
    if (!ret->class.length)
        ret->class = find(headers, count, dialect->key_class, false);
    ret->message = find(headers, count, dialect->message, false);
    if (!ret->message.length)
        ret->message = find(headers, count, dialect->key_message, false);
    if (dialect->kind != ORIGIN_WEIR)
        return;

    ret->attempt = (int)number(find(headers, count, HEADER_ATTEMPT, false), 0, ORIGIN_COUNT_MAX, 0);
    ret->redrives = (int)number(find(headers, count, HEADER_REDRIVES, false), 0, ORIGIN_COUNT_MAX, 0);
    ret->first_failed_us = time_us(headers, count, HEADER_FIRST_FAILED_AT);
    ret->due_us = time_us(headers, count, HEADER_DUE_AT);
    ret->fingerprint = find(headers, count, HEADER_FINGERPRINT, false);
    ret->drop = find(headers, count, HEADER_DROP, false);
}

static bool begins_with_one_of(struct text name, const char *const *prefixes)
{
    for (; *prefixes; prefixes++) {
        size_t length = strlen(*prefixes);
        if (name.length >= length && memcmp(name.at, *prefixes, length) == 0)
            return true;
    }
    return false;
}

bool origin_is_ours(struct text name)
{
    static const char *const ours[] = {"__dlq.errors.", "weir_", NULL};
    return begins_with_one_of(name, ours);
}

bool origin_headers_fit(const struct header *headers, size_t count)
{
    size_t ours = 0, ours_bytes = 0, bytes = 0;
    for (size_t i = 0; i < count; i++) {
        size_t length = headers[i].name.length + headers[i].value.length;
        bool mine = origin_is_ours(headers[i].name);
        ours += mine;
        *(mine ? &ours_bytes : &bytes) += length;
    }
    return count - ours <= HEADERS_COUNT_MAX && bytes <= HEADERS_BYTES_MAX && ours <= ORIGIN_HEADERS_MAX &&
           ours_bytes <= ORIGIN_HEADERS_BYTES_MAX;
}

bool origin_is_foreign(struct text name)
{
    static const char *const foreign[] = {
        "kafka_dlt-",
        "kafka_original-",
        "kafka_exception-",
        "kafka_key-exception-",
        "retry_topic-",
        "__connect.errors.",
        NULL,
    };
    return begins_with_one_of(name, foreign);
}
