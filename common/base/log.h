/*
 * log: one line an event on stderr, JSON or text. Only flow/, service/ and programs log; library
 * code below them returns errors.
 *
 * JSON: {"timestamp": RFC 3339, "level", "message", "service.name", "station", trace_id and span_id where a
 * record or request is in hand, fields…}. Text is for a terminal: time (UTC), level, station, message,
 * key=value; coloured on one, unless NO_COLOR is set. Values are escaped, so that a line stays a line; what
 * does not fit LOG_LINE_BYTES_MAX is cut and the line says "truncated". Any thread; a line is one write(2).
 * Where stderr is systemd's journal a line begins with its priority, "<4>", which the journal takes off.
 * Lines of one station past LOG_LINES_PER_SECOND_MAX are counted and said, once a second, with the next line
 * of any station.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "base/text.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum {
    LOG_LINE_BYTES_MAX = 4096, /* PIPE_BUF: a shorter line is never mixed with another one's */
    LOG_FIELDS_MAX = 16,       /* more are left out                                          */
    LOG_STATIONS_MAX = 32,     /* later ones share the last one's allowance                  */
    LOG_LINES_PER_SECOND_MAX = 100,
};

/* Once, before other threads log. service is kept, not copied. Format: "json", "text" or NULL (text when
 * stderr is a terminal). Without it: "weir", info and up, JSON. */
void log_open(const char *service, enum log_level level, const char *format);
bool log_level_parse(struct text text, enum log_level *ret); /* debug, info, warn, error */

struct log_field {
    const char *name;
    enum { LOG_FIELD_TEXT, LOG_FIELD_STRING, LOG_FIELD_INT } kind; /* a STRING may be NULL: null */
    struct text text;
    int64_t number;
};
#define LOG_TEXT(name, value) ((struct log_field){(name), LOG_FIELD_TEXT, (value), 0})
#define LOG_STRING(name, value) ((struct log_field){(name), LOG_FIELD_STRING, text_of(value), 0})
#define LOG_INT(name, value) ((struct log_field){(name), LOG_FIELD_INT, {NULL, 0}, (value)})

/*
 * What this thread has in hand: lines that it writes from now on carry trace_id and span_id of this
 * traceparent (W3C, valid), until it is called with empty text. Copied.
 */
void log_trace(struct text traceparent);

/* station: the noun of the design that speaks ("dispatch", "relay", "dlq"); kept, so a literal. */
void log_write(enum log_level level, const char *station, const char *message,
               const struct log_field *fields, size_t field_count);
#define log_debug(station, message, ...) LOG_AT(LOG_DEBUG, station, message, __VA_ARGS__)
#define log_info(station, message, ...) LOG_AT(LOG_INFO, station, message, __VA_ARGS__)
#define log_warn(station, message, ...) LOG_AT(LOG_WARN, station, message, __VA_ARGS__)
#define log_error(station, message, ...) LOG_AT(LOG_ERROR, station, message, __VA_ARGS__)
/* log_info("relay", "caught up", LOG_INT("rows", n)); at least one field */
#define LOG_AT(level, station, message, ...)                                                       \
    log_write((level), (station), (message), (const struct log_field[]){__VA_ARGS__},              \
              sizeof((const struct log_field[]){__VA_ARGS__}) / sizeof(struct log_field))

#endif
