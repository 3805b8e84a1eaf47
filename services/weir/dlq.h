/* dlq: what the words of `weir dlq` share. */
#ifndef WEIR_DLQ_H
#define WEIR_DLQ_H

#include "cli.h"

#include "flow/causes.h"
#include "flow/letters.h"

/* What was asked for. */
struct dlq {
    const struct verb *verb;
    const struct config *config;
    struct letter_filter filter;
    struct letters_settings letters; /* .filter is the one above */
    bool json, all;
};

int dlq_list(const struct dlq *dlq);
int dlq_show(const struct dlq *dlq);
int dlq_redrive(const struct dlq *dlq, bool drop);

/* One line a cause, the most frequent first; states says how many of each are settled. */
void dlq_print_causes(const struct causes *causes, bool states);
/* Each letter that matches, in its order; those that are settled only with dlq->all, *ret_passed counts them.
 */
MUST_CHECK enum outcome dlq_each(const struct dlq *dlq,
                                 void (*each)(void *owner, const struct letter *letter, struct arena *arena),
                                 void *owner, size_t *ret_given, size_t *ret_passed, struct error *error);
/* On stderr, where nothing was given. */
void dlq_say_none(const struct dlq *dlq, size_t passed);

#endif
