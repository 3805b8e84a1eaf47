#include "service/http_route.h"

#include <stdio.h>

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool percent_decode(struct text raw, bool plus, char *room, struct text *ret)
{
    size_t length = 0;
    for (size_t i = 0; i < raw.length; i++) {
        char c = raw.at[i];
        if (c == '%') {
            int high = i + 2 < raw.length ? hex_digit(raw.at[i + 1]) : -1;
            int low = i + 2 < raw.length ? hex_digit(raw.at[i + 2]) : -1;
            if (high < 0 || low < 0 || high + low == 0)
                return false;
            c = (char)(high << 4 | low);
            i += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        room[length++] = c;
    }
    *ret = (struct text){room, length};
    return text_is_utf8(*ret);
}

/* The text up to the next mark, which both are taken off *rest; false when nothing is left. */
static bool cut(struct text *rest, char mark, struct text *ret)
{
    if (!rest->at)
        return false;
    const char *end = rest->length ? memchr(rest->at, mark, rest->length) : NULL;
    if (!end) {
        *ret = *rest;
        *rest = (struct text){NULL, 0};
        return true;
    }
    *ret = (struct text){rest->at, (size_t)(end - rest->at)};
    *rest = (struct text){end + 1, rest->length - ret->length - 1};
    return true;
}

static bool is_parameter(struct text segment)
{
    return segment.length > 2 && segment.at[0] == '{' && segment.at[segment.length - 1] == '}';
}

enum { SEGMENTS_MAX = 16 };

/* How well a path fits: 0 not at all; each segment adds two bits, literal over parameter, the first ones
 * weighing most. */
static uint64_t fit(const char *path, const struct text *segments, size_t count, struct text *parameters)
{
    struct text rest = text_of(path + 1), want;
    uint64_t score = 1;
    size_t at = 0, parameter_count = 0;
    for (; cut(&rest, '/', &want); at++) {
        if (at == count)
            return 0;
        if (!is_parameter(want)) {
            if (!text_equal(want, segments[at]))
                return 0;
            score = score << 2 | 2;
        } else {
            if (segments[at].length == 0 || parameter_count == REQUEST_PARAMETERS_MAX)
                return 0;
            parameters[parameter_count++] = segments[at];
            score = score << 2 | 1;
        }
    }
    return at == count ? score : 0;
}

static bool takes(const struct path_entry *entry, const char *method)
{
    return strcmp(entry->method, method) == 0 ||
           (strcmp(method, "HEAD") == 0 && strcmp(entry->method, "GET") == 0);
}

static void allow(char into[HTTP_ALLOW_BYTES_MAX], const char *method)
{
    size_t length = strlen(into);
    if (strstr(into, method))
        return;
    bool get = strcmp(method, "GET") == 0;
    snprintf(into + length, HTTP_ALLOW_BYTES_MAX - length, "%s%s%s", length ? ", " : "", method,
             get ? ", HEAD" : "");
}

static bool query_parse(struct text raw, char *room, struct path_found *found)
{
    struct text pair;
    while (cut(&raw, '&', &pair)) {
        struct text rest = pair, name = {NULL, 0}, value = {NULL, 0};
        if (pair.length == 0)
            continue;
        if (found->query_count == REQUEST_QUERY_MAX)
            return false;
        struct header *into = &found->query[found->query_count];
        (void)cut(&rest, '=', &name);
        value = rest.at ? rest : TEXT("");
        if (!percent_decode(name, true, room, &into->name))
            return false;
        room += name.length;
        if (!percent_decode(value, true, room, &into->value))
            return false;
        room += value.length;
        found->query_count++;
    }
    return true;
}

/* "http://host:port/path" to "/path": a server must take the form that proxies are sent. */
static struct text origin_form(struct text target)
{
    static const struct text schemes[] = {TEXT_INIT("http://"), TEXT_INIT("https://")};
    for (size_t i = 0; i < 2; i++) {
        size_t length = schemes[i].length;
        if (target.length < length || !text_equal_nocase((struct text){target.at, length}, schemes[i]))
            continue;
        struct text rest = {target.at + length, target.length - length};
        for (size_t at = 0; at < rest.length; at++)
            if (rest.at[at] == '/')
                return (struct text){rest.at + at, rest.length - at};
        return TEXT("/");
    }
    return target;
}

/* A parameter that is an id by its name: what is no UUID stays as it is, and a SKU that looks like one too.
 */
static void lower_ids(const char *path, struct text *parameters)
{
    struct text rest = text_of(path + 1), segment;
    while (cut(&rest, '/', &segment)) {
        if (!is_parameter(segment))
            continue;
        struct text *parameter = parameters++, name = {segment.at + 1, segment.length - 2};
        struct id id;
        bool names_id = name.length >= 2 && memcmp(name.at + name.length - 2, "id", 2) == 0 &&
                        (name.length == 2 || name.at[name.length - 3] == '_');
        if (names_id && id_parse(*parameter, &id)) /* the text lies in the caller's room */
            *parameter = id_to_text(id, (char *)(uintptr_t)parameter->at);
    }
}

enum path_match path_find(const struct path_entry *entries, size_t count, const char *method,
                          struct text target, char *room, struct path_found *ret)
{
    *ret = (struct path_found){0};
    target = origin_form(target);
    if (target.length == 0 || target.at[0] != '/')
        return PATH_UNKNOWN;
    struct text rest = {target.at + 1, target.length - 1}, path, raw, segments[SEGMENTS_MAX];
    (void)cut(&rest, '?', &path);
    struct text query = rest;

    size_t segment_count = 0;
    while (cut(&path, '/', &raw)) {
        if (segment_count == SEGMENTS_MAX)
            return PATH_UNKNOWN;
        if (!percent_decode(raw, false, room, &segments[segment_count++]))
            return PATH_MALFORMED;
        room += raw.length;
    }

    uint64_t best = 0;
    bool known = false;
    for (size_t i = 0; i < count; i++) {
        struct text parameters[REQUEST_PARAMETERS_MAX] = {{0}};
        uint64_t score = fit(entries[i].path, segments, segment_count, parameters);
        if (score == 0)
            continue;
        known = true;
        if (!takes(&entries[i], method)) {
            allow(ret->allow, entries[i].method);
        } else if (score > best) {
            best = score;
            ret->entry = &entries[i];
            memcpy(ret->parameters, parameters, sizeof(parameters));
        }
    }
    if (!known)
        return PATH_UNKNOWN;
    if (!ret->entry)
        return PATH_METHOD;
    lower_ids(ret->entry->path, ret->parameters);
    return query_parse(query, room, ret) ? PATH_FOUND : PATH_MALFORMED;
}

bool idempotency_key_parse(struct text header, char *room, struct text *ret)
{
    struct text raw = text_trim(header);
    bool quoted = raw.length >= 2 && raw.at[0] == '"' && raw.at[raw.length - 1] == '"';
    size_t length = 0;
    if (quoted)
        raw = (struct text){raw.at + 1, raw.length - 2};
    for (size_t i = 0; i < raw.length; i++) {
        char c = raw.at[i];
        if (c < (quoted ? ' ' : '!') || c > '~')
            return false;
        if (quoted && c == '\\') {
            if (++i == raw.length || (raw.at[i] != '"' && raw.at[i] != '\\'))
                return false;
            c = raw.at[i];
        } else if (c == '"') {
            return false;
        }
        room[length++] = c;
    }
    *ret = (struct text){room, length};
    return length > 0 && length <= IDEMPOTENCY_KEY_BYTES_MAX;
}

struct text media_type(struct text header, char *room)
{
    struct text rest = header, type = {NULL, 0};
    (void)cut(&rest, ';', &type);
    type = text_trim(type);
    for (size_t i = 0; i < type.length; i++)
        room[i] = (char)(type.at[i] >= 'A' && type.at[i] <= 'Z' ? type.at[i] + 32 : type.at[i]);
    return (struct text){room, type.length};
}

bool media_type_is_json(struct text type)
{
    static const struct text prefix = TEXT_INIT("application/"), suffix = TEXT_INIT("+json");
    if (text_is(type, "application/json"))
        return true;
    return type.length > prefix.length + suffix.length && memcmp(type.at, prefix.at, prefix.length) == 0 &&
           memcmp(type.at + type.length - suffix.length, suffix.at, suffix.length) == 0;
}
