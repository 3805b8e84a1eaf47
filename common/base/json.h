/*
 * json: reading by jansson (the only file that includes it), and a writer that allocates nothing.
 */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include "base/text.h"

#include <jansson.h>

enum { JSON_DEPTH_MAX = 64 };

/*
 * Reads one whole JSON value: duplicate keys, trailing bytes, bytes that are not UTF-8 and nesting
 * past JSON_DEPTH_MAX are REJECT with the reason. *ret is released by json_decref().
 */
MUST_CHECK enum outcome json_read(struct text text, json_t **ret, struct error *error);
/*
 * json_read() for what people and other systems send: a number that no type here holds (more digits than an
 * int64, 1e999) does not end the reading. It stands as the real JSON_NUMBER_TOO_LARGE, so that whoever wants
 * an integer at that place refuses it there, by its name.
 */
#define JSON_NUMBER_TOO_LARGE 1e99
MUST_CHECK enum outcome json_read_request(struct text text, json_t **ret, struct error *error);
/* What json_read() refused is a JSON object all the same (422 over HTTP and not 400): it says a name twice,
 * is nested too deep, or has a text that is none (half of a surrogate pair, a name with a NUL). */
bool json_is_ambiguous(const struct error *error);
/* A member as a slice into the value ({NULL, 0} where it is absent or not a string). */
struct text json_text(const json_t *object, const char *name);

/* Writes into a buffer; commas are put by the writer. Check buffer->failed at the end. */
struct json_writer {
    struct buffer *into;
    bool comma;
};
static inline struct json_writer json_writer(struct buffer *into)
{
    return (struct json_writer){.into = into};
}
void json_object_begin(struct json_writer *writer);
void json_object_end(struct json_writer *writer);
void json_array_begin(struct json_writer *writer);
void json_array_end(struct json_writer *writer);
void json_key(struct json_writer *writer, const char *name);
void json_key_text(struct json_writer *writer, struct text name);
void json_put_text(struct json_writer *writer,
                   struct text value); /* bytes that are not UTF-8 become U+FFFD */
void json_put_int(struct json_writer *writer, int64_t value);
void json_put_double(struct json_writer *writer,
                     double value); /* shortest that reads back the same; nan and inf become null */
void json_put_bool(struct json_writer *writer, bool value);
void json_put_null(struct json_writer *writer);
void json_put_raw(struct json_writer *writer, struct text json); /* a value that is JSON already */
/* jansson has functions of these two names, which make values; to write, the short form is ours. */
#define json_object(writer) json_object_begin(writer)
#define json_array(writer)  json_array_begin(writer)
/* key and value at once */
void json_member_text(struct json_writer *writer, const char *name, struct text value);
void json_member_string(struct json_writer *writer, const char *name, const char *value);
void json_member_int(struct json_writer *writer, const char *name, int64_t value);
void json_member_time(struct json_writer *writer, const char *name, int64_t wall_us); /* RFC 3339 */

#endif
