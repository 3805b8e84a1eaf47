#include "base/json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"

/* Of what is JSON by its grammar, and an object: see json_is_ambiguous(). */
static const char *const of_objects[] = {"json-duplicate", "json-depth", "json-text"};
enum { CAUSE_DUPLICATE, CAUSE_DEPTH, CAUSE_TEXT, CAUSES };

static const char *cause_of(int cause, struct text text)
{
    size_t i = 0;
    while (i < text.length && strchr(" \t\r\n", text.at[i]) && text.at[i])
        i++;
    return i < text.length && text.at[i] == '{' ? of_objects[cause] : "json-syntax";
}

/*
 * Jansson's own bound on nesting is fixed when it is built (2048): what is deeper than ours is turned
 * away before it is parsed, because releasing a deep value recurses as well. *ret_whole: as many brackets are
 * closed as are opened.
 */
static bool too_deep(struct text text, bool *ret_whole)
{
    int depth = 0, depth_max = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.length; i++) {
        char c = text.at[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > depth_max)
                depth_max = depth;
        } else if (c == ']' || c == '}') {
            depth--;
        }
    }
    *ret_whole = depth == 0 && !in_string;
    return depth_max > JSON_DEPTH_MAX;
}

static enum outcome refused_depth(struct text text, bool whole, struct error *error)
{
    return error_reject(error, whole ? cause_of(CAUSE_DEPTH, text) : "json-syntax",
                        "JSON is nested deeper than %d", JSON_DEPTH_MAX);
}

/* Half of a surrogate pair, or a name with a NUL: the grammar lets them pass, and no text is made of them. */
static bool is_of_text(json_error_t *at)
{
    static const char half[] = "invalid Unicode '\\u";
    return json_error_code(at) == json_error_null_byte_in_key ||
           strncmp(at->text, half, sizeof(half) - 1) == 0;
}

static json_t *load(struct text text, json_error_t *at)
{
    return json_loadb(text.length ? text.at : "", text.length,
                      JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, at);
}

static enum outcome refused(json_error_t *at, struct text text, struct error *error)
{
    if (json_error_code(at) == json_error_out_of_memory)
        return error_retry(error, "memory", "out of memory reading JSON of %zu bytes", text.length);
    for (char *c = at->text; *c; c++) /* it quotes what it stumbled over, and an error is one line */
        if ((unsigned char)*c < 0x20)
            *c = ' ';
    if (json_error_code(at) == json_error_duplicate_key)
        return error_reject(error, cause_of(CAUSE_DUPLICATE, text), "line %d, column %d: %s", at->line,
                            at->column, at->text);
    if (is_of_text(at))
        return error_reject(error, cause_of(CAUSE_TEXT, text), "line %d, column %d: %s", at->line, at->column,
                            at->text);
    return error_reject(error, "json-syntax", "not JSON: line %d, column %d: %s", at->line, at->column,
                        at->text);
}

enum outcome json_read(struct text text, json_t **ret, struct error *error)
{
    bool whole;
    if (too_deep(text, &whole))
        return refused_depth(text, whole, error);
    json_error_t at;
    json_t *value = load(text, &at);
    if (!value)
        return refused(&at, text, error);
    *ret = value;
    return OK;
}

/* One number, from its first byte: written over where it is too large, spaces behind. */
static void number_tame(char *number, size_t length)
{
    char *end, last = number[length]; /* the text is followed by a NUL */
    bool real = memchr(number, '.', length) || memchr(number, 'e', length) || memchr(number, 'E', length);
    number[length] = '\0';
    errno = 0;
    bool large = real ? isinf(strtod(number, &end)) : (strtoll(number, &end, 10), errno == ERANGE);
    if (large && *end == '\0') { /* at least five bytes: 1e309 */
        memset(number, ' ', length);
        memcpy(number, "1e99", 4);
    }
    number[length] = last;
}

static void numbers_tame(char *text, size_t length)
{
    bool in_string = false;
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '\\' && in_string) {
            i++;
        } else if (text[i] == '"') {
            in_string = !in_string;
        } else if (!in_string && (text[i] == '-' || (text[i] >= '0' && text[i] <= '9'))) {
            size_t count = strspn(text + i, "+-.0123456789eE");
            number_tame(text + i, count);
            i += count - 1;
        }
    }
}

enum outcome json_read_request(struct text text, json_t **ret, struct error *error)
{
    bool whole;
    if (too_deep(text, &whole))
        return refused_depth(text, whole, error);
    json_error_t at;
    json_t *value = load(text, &at);
    if (!value && json_error_code(&at) == json_error_numeric_overflow) {
        char *copy = malloc(text.length + 1);
        if (!copy)
            return error_retry(error, "memory", "out of memory reading JSON of %zu bytes", text.length);
        memcpy(copy, text.at, text.length);
        copy[text.length] = '\0';
        numbers_tame(copy, text.length);
        value = load((struct text){copy, text.length}, &at);
        free(copy);
    }
    if (!value)
        return refused(&at, text, error);
    *ret = value;
    return OK;
}

bool json_is_ambiguous(const struct error *error)
{
    for (int i = 0; error->cause && i < CAUSES; i++)
        if (strcmp(error->cause, of_objects[i]) == 0)
            return true;
    return false;
}

struct text json_text(const json_t *object, const char *name)
{
    const json_t *member = json_object_get(object, name);
    if (!json_is_string(member))
        return (struct text){NULL, 0};
    return (struct text){json_string_value(member), json_string_length(member)};
}

static void separate(struct json_writer *writer)
{
    if (writer->comma)
        buffer_add_char(writer->into, ',');
    writer->comma = true;
}

static void open_with(struct json_writer *writer, char c)
{
    separate(writer);
    buffer_add_char(writer->into, c);
    writer->comma = false;
}

static void close_with(struct json_writer *writer, char c)
{
    buffer_add_char(writer->into, c);
    writer->comma = true;
}

void json_object_begin(struct json_writer *writer)
{
    open_with(writer, '{');
}

void json_object_end(struct json_writer *writer)
{
    close_with(writer, '}');
}

void json_array_begin(struct json_writer *writer)
{
    open_with(writer, '[');
}

void json_array_end(struct json_writer *writer)
{
    close_with(writer, ']');
}

/* Bytes of the UTF-8 character at the start, 0 where there is none. */
static size_t character_bytes(struct text text)
{
    unsigned char lead = (unsigned char)text.at[0];
    size_t bytes = lead < 0x80 ? 1 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    return bytes <= text.length && text_is_utf8((struct text){text.at, bytes}) ? bytes : 0;
}

static void put_escaped_char(struct buffer *into, unsigned char c)
{
    static const char digits[] = "0123456789abcdef";
    char sequence[6] = {'\\', 'u', '0', '0', digits[c >> 4], digits[c & 15]};
    switch (c) {
    case '"':
    case '\\':
        sequence[1] = (char)c;
        break;
    case '\n':
        sequence[1] = 'n';
        break;
    case '\r':
        sequence[1] = 'r';
        break;
    case '\t':
        sequence[1] = 't';
        break;
    default:
        buffer_add(into, sequence, 6);
        return;
    }
    buffer_add(into, sequence, 2);
}

static void put_string(struct buffer *into, struct text value)
{
    buffer_add_char(into, '"');
    size_t plain = 0; /* what has passed since, and goes out in one piece */
    for (size_t i = 0; i < value.length;) {
        unsigned char c = (unsigned char)value.at[i];
        size_t bytes = 1;
        if (c >= 0x80)
            bytes = character_bytes((struct text){value.at + i, value.length - i});
        else if (c < 0x20 || c == '"' || c == '\\' || c == 0x7f)
            bytes = 0;
        if (bytes) {
            i += bytes;
            continue;
        }
        buffer_add(into, value.at + plain, i - plain);
        if (c >= 0x80)
            buffer_add_string(into, "\xef\xbf\xbd"); /* U+FFFD */
        else
            put_escaped_char(into, c);
        plain = ++i;
    }
    if (value.length > plain)
        buffer_add(into, value.at + plain, value.length - plain);
    buffer_add_char(into, '"');
}

void json_key_text(struct json_writer *writer, struct text name)
{
    separate(writer);
    put_string(writer->into, name);
    buffer_add_char(writer->into, ':');
    writer->comma = false;
}

void json_key(struct json_writer *writer, const char *name)
{
    json_key_text(writer, text_of(name));
}

void json_put_text(struct json_writer *writer, struct text value)
{
    separate(writer);
    put_string(writer->into, value);
}

void json_put_int(struct json_writer *writer, int64_t value)
{
    separate(writer);
    char digits[20], *end = digits + sizeof(digits), *at = end;
    uint64_t left = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    do
        *--at = (char)('0' + left % 10);
    while (left /= 10);
    if (value < 0)
        *--at = '-';
    buffer_add(writer->into, at, (size_t)(end - at));
}

void json_put_double(struct json_writer *writer, double value)
{
    if (!isfinite(value)) {
        json_put_null(writer);
        return;
    }
    char digits[32];
    for (int precision = 15; precision <= 17; precision++) {
        snprintf(digits, sizeof(digits), "%.*g", precision, value);
        if (strtod(digits, NULL) == value) /* NOLINT: exactly equal is the point */
            break;
    }
    separate(writer);
    buffer_add_string(writer->into, digits);
}

void json_put_bool(struct json_writer *writer, bool value)
{
    separate(writer);
    buffer_add_string(writer->into, value ? "true" : "false");
}

void json_put_null(struct json_writer *writer)
{
    separate(writer);
    buffer_add_string(writer->into, "null");
}

void json_put_raw(struct json_writer *writer, struct text json)
{
    separate(writer);
    buffer_add_text(writer->into, json);
}

void json_member_text(struct json_writer *writer, const char *name, struct text value)
{
    json_key(writer, name);
    json_put_text(writer, value);
}

void json_member_string(struct json_writer *writer, const char *name, const char *value)
{
    json_key(writer, name);
    if (value)
        json_put_text(writer, text_of(value));
    else
        json_put_null(writer);
}

void json_member_int(struct json_writer *writer, const char *name, int64_t value)
{
    json_key(writer, name);
    json_put_int(writer, value);
}

void json_member_time(struct json_writer *writer, const char *name, int64_t wall_us)
{
    char time[CLOCK_RFC3339_BYTES_MAX];
    json_member_string(writer, name, clock_to_rfc3339(wall_us, time));
}
