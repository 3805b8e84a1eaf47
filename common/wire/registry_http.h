/*
 * registry_http: questions to a schema registry, over one or more URLs. Inside wire/ only.
 *
 * A question goes to the URL that answered last, and to the next where one does not answer as a registry
 * does. Nothing is repeated beyond that. The answer comes to answered() exactly once, on the net's thread,
 * also when it is closed.
 */
#ifndef WIRE_REGISTRY_HTTP_H
#define WIRE_REGISTRY_HTTP_H

#include "wire/registry.h"

struct registry_http;

struct registry_answer {
    enum registry_answer_kind {
        REGISTRY_ANSWERED, /* 2xx and JSON, with what was asked for              */
        REGISTRY_MISSING,  /* the registry says that there is no such thing      */
        REGISTRY_REFUSED,  /* it says no otherwise: 409, 422, 2xx and too long   */
        REGISTRY_AWAY,     /* none of the URLs answers as a registry             */
    } kind;
    int code;                           /* of the registry (40403), else HTTP's; 0 without        */
    json_t *json;                       /* ANSWERED: taken by answered(), which releases it       */
    char text[REGISTRY_TEXT_BYTES_MAX]; /* why not; without passwords       */
};
typedef void registry_answered_fn(void *owner, struct registry_answer *answer);

struct registry_question {
    const char *method;
    const char *path; /* "/schemas/ids/1" */
    struct text body; /* JSON, or empty */
    int turn;         /* begins so many URLs after the one that answered last */
    /* A literal: the member without which a 2xx is no registry's answer. NULL: any JSON is one. */
    const char *member;
};

MUST_CHECK enum outcome registry_http_open(const struct registry_use *use, struct registry_http **ret,
                                           struct error *error);
void registry_http_close(struct registry_http *http); /* ends what is asked as AWAY; accepts NULL */
/* Copies all. Any thread. Where it cannot be asked at all answered() is called before this returns. */
void registry_http_ask(struct registry_http *http, const struct registry_question *question,
                       registry_answered_fn *answered, void *owner);

#endif
