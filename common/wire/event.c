#include "wire/event.h"

#include "base/digest.h"

const struct event_type *event_type_find(struct text full_name)
{
    for (const struct event_type *const *type = event_types; *type; type++)
        if (text_is(full_name, (*type)->full_name) || text_is(full_name, (*type)->name))
            return *type;
    return NULL;
}

const struct header *header_find(const struct header *headers, size_t count, const char *name)
{
    struct text wanted = text_of(name);
    while (count-- > 0)
        if (text_equal(headers[count].name, wanted))
            return &headers[count];
    return NULL;
}

/* Lower case hex digits up to end. To the end in any case: the digits are random, and a branch on each would
 * be guessed wrong every other time. */
static bool hex(const char *at, const char *end)
{
    unsigned wrong = 0;
    for (; at < end; at++)
        wrong |= ((unsigned)(unsigned char)*at - '0' > 9) & ((unsigned)(unsigned char)*at - 'a' > 5);
    return !wrong;
}

static bool hex_not_zero(const char *at, const char *end)
{
    unsigned any = 0;
    for (const char *digit = at; digit < end; digit++)
        any |= *digit != '0';
    return any && hex(at, end);
}

/* W3C Trace Context: version-trace-parent-flags; later versions may have more behind it. */
enum { AT_TRACE = 3, AT_PARENT = 36, AT_FLAGS = 53 };

bool traceparent_valid(struct text traceparent)
{
    const char *at = traceparent.at;
    if (traceparent.length < HEADER_TRACEPARENT_BYTES || !hex(at, at + 2) || memcmp(at, "ff", 2) == 0)
        return false;
    if (traceparent.length > HEADER_TRACEPARENT_BYTES &&
        (memcmp(at, "00", 2) == 0 || at[HEADER_TRACEPARENT_BYTES] != '-'))
        return false;
    return at[AT_TRACE - 1] == '-' && at[AT_PARENT - 1] == '-' && at[AT_FLAGS - 1] == '-' &&
           hex_not_zero(at + AT_TRACE, at + AT_PARENT - 1) &&
           hex_not_zero(at + AT_PARENT, at + AT_FLAGS - 1) &&
           hex(at + AT_FLAGS, at + HEADER_TRACEPARENT_BYTES);
}

struct text traceparent_next(struct text parent, struct id id, char into[HEADER_TRACEPARENT_BYTES + 1])
{
    /* An event's id is unique already: it names the span, and a new trace. All zeros is no name. */
    id.bytes[15] |= id_equal(id, (struct id){{0}});
    const uint8_t *span = id.bytes + 8;
    uint8_t spare[8];
    static const uint8_t zeros[8];
    if (memcmp(span, zeros, sizeof(zeros)) == 0) {
        memcpy(spare, id.bytes, sizeof(spare));
        span = spare;
    }
    memcpy(into, "00-", 3);
    if (traceparent_valid(parent)) {
        memcpy(into + AT_TRACE, parent.at + AT_TRACE, AT_PARENT - AT_TRACE);
        memcpy(into + AT_FLAGS, parent.at + AT_FLAGS, HEADER_TRACEPARENT_BYTES - AT_FLAGS);
    } else {
        digest_to_hex(id.bytes, sizeof(id.bytes), into + AT_TRACE);
        into[AT_PARENT - 1] = '-';
        memcpy(into + AT_FLAGS, "01", 2);
    }
    digest_to_hex(span, 8, into + AT_PARENT);
    into[AT_FLAGS - 1] = '-';
    into[HEADER_TRACEPARENT_BYTES] = '\0';
    return (struct text){into, HEADER_TRACEPARENT_BYTES};
}
