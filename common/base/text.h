/*
 * text: a slice of bytes with its length, as fields of events and rows hold it, and a bounded
 * buffer to build one in.
 *
 * A slice owns nothing: it is valid as long as what it points into (a record until its batch is
 * done, an arena until its reset). It need not be NUL-terminated and may hold any bytes.
 */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include "base/arena.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct text {
    const char *at; /* never read when length is 0; may then be NULL */
    size_t length;
};

#define TEXT(literal) ((struct text){("" literal ""), sizeof(literal) - 1})
#define TEXT_INIT(literal)                                                                                   \
    {                                                                                                        \
        ("" literal ""), sizeof(literal) - 1                                                                 \
    } /* for static tables */
/* printf("%.*s", TEXT_ARG(text)) */
#define TEXT_ARG(text) (int)(text).length, (text).length ? (text).at : ""

static inline struct text text_of(const char *string)
{
    return (struct text){string, string ? strlen(string) : 0};
}
static inline bool text_equal(struct text a, struct text b)
{
    return a.length == b.length && (a.length == 0 || memcmp(a.at, b.at, a.length) == 0);
}
static inline bool text_is(struct text a, const char *string)
{
    return text_equal(a, text_of(string));
}
/* <0, 0, >0 by bytes, then by length. */
int text_compare(struct text a, struct text b);
/* A copy in the arena, with a NUL after it that is not counted; {NULL, 0} past the arena's bound. */
struct text text_copy(struct arena *arena, struct text text);
/* Without spaces and tabs at both ends. */
struct text text_trim(struct text text);
/* FNV-1a, for hash tables inside the process; not for anything that is stored. */
uint64_t text_hash(struct text text);
/* The whole of text as a decimal int64. */
bool text_to_int64(struct text text, int64_t *ret);
/* Every byte from 0x20 to 0x7e, length within [1, length_max]. */
bool text_is_printable(struct text text, size_t length_max);
bool text_is_utf8(struct text text);
/* Its beginning, of at most bytes_max bytes, and not through a character of UTF-8. */
struct text text_cut(struct text text, size_t bytes_max);
size_t text_characters(struct text text);             /* of UTF-8 */
bool text_equal_nocase(struct text a, struct text b); /* ASCII */
/* How many bytes must be put in, taken out or changed to make one of the other; SIZE_MAX past
 * TEXT_DISTANCE_BYTES_MAX. For "did you mean". */
enum { TEXT_DISTANCE_BYTES_MAX = 128 };
size_t text_distance(struct text a, struct text b);

/*
 * buffer: bytes being built. Past bytes_max, or when out of memory, it stays as it is, says so in
 * .failed, and every later write does nothing: write all, check once.
 */
struct buffer {
    char *at;
    size_t length;
    size_t capacity;
    size_t bytes_max;
    bool failed;
};

static inline struct buffer buffer_of(size_t bytes_max)
{
    return (struct buffer){.bytes_max = bytes_max};
}
void buffer_free(struct buffer *buffer);  /* to empty; bytes_max stays */
void buffer_clear(struct buffer *buffer); /* to empty, memory kept     */
char *buffer_room(struct buffer *buffer,
                  size_t bytes); /* at least so many bytes of room at the end, or NULL */
void buffer_add(struct buffer *buffer, const void *bytes, size_t count);
void buffer_add_text(struct buffer *buffer, struct text text);
void buffer_add_string(struct buffer *buffer, const char *string);
void buffer_add_char(struct buffer *buffer, char c);
void buffer_print(struct buffer *buffer, const char *format, ...) PRINTF_LIKE(2, 3);
/* For a terminal: what could steer one (control characters, C1 included, and all that is not UTF-8) stands as
 * \xNN. */
void buffer_add_plain(struct buffer *buffer, struct text text);
static inline struct text buffer_text(const struct buffer *buffer)
{
    return (struct text){buffer->at, buffer->length};
}

#endif
