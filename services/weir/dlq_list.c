/* dlq_list: dead letters by cause, or one JSON object a letter. */
#include "dlq.h"

#include "flow/letter_json.h"

#include <stdio.h>

enum { LINE_BYTES_MAX = 32 << 20 };

struct list {
    const struct dlq *dlq;
    struct causes causes;
    struct buffer line;
};

static void list_one(void *owner, const struct letter *letter, struct arena *arena)
{
    struct list *list = owner;
    if (!list->dlq->json) {
        causes_add(&list->causes, letter);
        return;
    }
    buffer_clear(&list->line);
    letter_to_json(letter, list->dlq->letters.registry, arena, &list->line);
    buffer_add_char(&list->line, '\n');
    fwrite(list->line.at, 1, list->line.length, stdout);
}

int dlq_list(const struct dlq *dlq)
{
    struct list list = {.dlq = dlq, .line = buffer_of(LINE_BYTES_MAX)};
    struct error error;
    size_t given, passed;
    enum outcome outcome = causes_new(&list.causes, &error);
    if (outcome == OK)
        outcome = dlq_each(dlq, list_one, &list, &given, &passed, &error);
    if (outcome == OK && !cli_unheard()) {
        causes_sort(&list.causes);
        dlq_print_causes(&list.causes, true);
        if (given == 0)
            dlq_say_none(dlq, passed);
    }
    causes_free(&list.causes);
    buffer_free(&list.line);
    return outcome == OK ? 0 : cli_fail(dlq->verb, &error);
}
