/*
 * http_route: from the bytes of a request's line and headers to what a handler is given. Pure, any thread;
 * nothing is allocated: decoded text goes into room that the caller gives.
 */
#ifndef SERVICE_HTTP_ROUTE_H
#define SERVICE_HTTP_ROUTE_H

#include "flow/handler.h"

enum { HTTP_ALLOW_BYTES_MAX = 128, IDEMPOTENCY_KEY_BYTES_MAX = 255 };

/* One line of the server's table: a path with {parameters}, and the method that it takes. */
struct path_entry {
    const char *method; /* a GET is also a HEAD */
    const char *path;
    const void *what; /* the caller's */
};

enum path_match {
    PATH_FOUND,
    PATH_UNKNOWN,   /* 404 */
    PATH_METHOD,    /* 405: *ret->allow has the methods that it takes */
    PATH_MALFORMED, /* 400: a bad percent escape, an encoded NUL, not UTF-8, too many query parameters */
};

struct path_found {
    const struct path_entry *entry;
    struct text parameters[REQUEST_PARAMETERS_MAX];
    struct header query[REQUEST_QUERY_MAX];
    size_t query_count;
    char allow[HTTP_ALLOW_BYTES_MAX];
};

/*
 * target: of the request's line, origin form or absolute form, with its query. A literal segment goes before
 * a {parameter}; a parameter is one segment, not empty, in which an encoded slash stays a byte of it. A UUID
 * in an {id} or {…_id} is given in lower case: capitals name the same thing. room: at least target.length
 * bytes, in which the decoded text then lies.
 */
enum path_match path_find(const struct path_entry *entries, size_t count, const char *method,
                          struct text target, char *room, struct path_found *ret);

/* Strictly: two hex digits after each "%", no NUL, UTF-8. plus: "+" is a space (queries). room: at least
 * raw.length bytes. */
bool percent_decode(struct text raw, bool plus, char *room, struct text *ret);

/*
 * The Idempotency-Key header: a structured-field string ("…", with \" and \\) or the same bare; both forms
 * give the same key. 1 to IDEMPOTENCY_KEY_BYTES_MAX printable bytes. room: at least header.length bytes.
 */
bool idempotency_key_parse(struct text header, char *room, struct text *ret);

/* "Application/JSON; charset=utf-8" to "application/json". room: at least header.length bytes. */
struct text media_type(struct text header, char *room);
/* application/json, or any application/…+json. */
bool media_type_is_json(struct text type);

#endif
