/*
 * causes: dead letters by what they died of: 10,000 of one cause are one line with a count. Pure.
 */
#ifndef FLOW_CAUSES_H
#define FLOW_CAUSES_H

#include "flow/letter.h"

enum { CAUSES_MAX = 1000 /* later ones are counted together, in .others */ };

/* What is longer than its place here is cut. */
struct cause {
    char topic[128], class[128], type[64], fingerprint[32];
    char message[256]; /* of the first one */
    int64_t first_us, last_us;
    size_t count, open, redriven, dropped;
    size_t again; /* that had been sent back before they failed once more */
    uint64_t hash;
};
struct causes {
    struct cause *list; /* by .count, the largest first, after causes_sort() */
    size_t count;
    size_t others;
};
/* FATAL when out of memory: about 1 MB. */
MUST_CHECK enum outcome causes_new(struct causes *causes, struct error *error);
void causes_free(struct causes *causes);
void causes_add(struct causes *causes, const struct letter *letter);
void causes_sort(struct causes *causes);

#endif
