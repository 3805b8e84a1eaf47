/*
 * log: one line an event on stderr, JSON or text. Only flow/, service/ and programs log; library
 * code below them returns errors.
 *
 * JSON: {"timestamp": RFC 3339, "level", "service.name", "station", "message", fields…}. Text is for
 * a terminal. Values are escaped, so that a line stays a line. Any thread; a line is one write(2).
 * Lines past LOG_LINES_PER_SECOND_MAX of one station are counted and said once a second.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "base/text.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum { LOG_LINE_BYTES_MAX = 4096, LOG_FIELDS_MAX = 16, LOG_LINES_PER_SECOND_MAX = 100 };

/* service is kept, not copied. Format: "json", "text" or NULL (text when stderr is a terminal). */
void log_open(const char *service, enum log_level level, const char *format);
bool log_level_parse(struct text text, enum log_level *ret); /* debug, info, warn, error */

struct log_field {
    const char *name; /* NULL: an integer field has name set and text.at NULL */
    struct text text;
    int64_t number;
};
#define LOG_TEXT(name, value) ((struct log_field){(name), (value), 0})
#define LOG_STRING(name, value) ((struct log_field){(name), text_of(value), 0})
#define LOG_INT(name, value) ((struct log_field){(name), {NULL, 0}, (value)})

/* station: the noun of the design that speaks ("dispatch", "relay", "dlq"). */
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
