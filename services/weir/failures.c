#include "weir/failures.h"

#include "flow/chaos.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

static const struct failure {
    enum failures_of of;
    const char *name;
    size_t share; /* offset of the parts per million; 0 for a window: away_us and every_us */
    bool window;
} known[] = {
    {FAILURES_GATEWAY, "5xx", offsetof(struct failures, refuse_ppm), false},
    {FAILURES_GATEWAY, "timeout", offsetof(struct failures, timeout_ppm), false},
    {FAILURES_GATEWAY, "lost", offsetof(struct failures, lost_ppm), false},
    {FAILURES_GATEWAY, "outage", 0, true},
    {FAILURES_MAIL, "4yz", offsetof(struct failures, refuse_ppm), false},
    {FAILURES_MAIL, "421", offsetof(struct failures, closing_ppm), false},
    {FAILURES_MAIL, "lost", offsetof(struct failures, lost_ppm), false},
    {FAILURES_MAIL, "outage", 0, true},
};
enum { KNOWN = sizeof(known) / sizeof(known[0]) };
static const char *const allowed[] = {
    [FAILURES_GATEWAY] = "5xx=P%, timeout=P%, lost=P%, outage=T/U (T out of every longer U)",
    [FAILURES_MAIL] = "4yz=P%, 421=P%, lost=P%, outage=T/U (T out of every longer U)",
};

__attribute__((format(printf, 2, 3))) static enum outcome refused(struct error *error, const char *format,
                                                                  ...)
{
    char text[ERROR_TEXT_BYTES_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    error_set(error, REJECT, "setting", "%s", text);
    if (error)
        error->exit_code = EXIT_CONFIG;
    return REJECT;
}

/* Cuts the first item off *rest, without the blanks around it. False at the end; an empty item is one. */
static bool next_item(struct text *rest, struct text *ret)
{
    if (!rest->at)
        return false;
    const char *comma = rest->length ? memchr(rest->at, ',', rest->length) : NULL;
    struct text item = {rest->at, comma ? (size_t)(comma - rest->at) : rest->length};
    *rest = comma ? (struct text){comma + 1, rest->length - item.length - 1} : (struct text){0};
    while (item.length && item.at[0] == ' ')
        item = (struct text){item.at + 1, item.length - 1};
    while (item.length && item.at[item.length - 1] == ' ')
        item.length--;
    *ret = item;
    return true;
}

enum outcome failures_parse(const char *name, const char *list, enum failures_of of, struct failures *ret,
                            struct error *error)
{
    struct failures failures = {0};
    struct text rest = text_of(list), item;
    unsigned given = 0;
    if (rest.length == 0)
        rest.at = NULL;
    while (next_item(&rest, &item)) {
        const char *equals = item.length ? memchr(item.at, '=', item.length) : NULL;
        struct text word = {item.at, equals ? (size_t)(equals - item.at) : item.length}, value = {0};
        if (equals)
            value = (struct text){equals + 1, item.length - word.length - 1};
        size_t i = 0;
        while (i < KNOWN && !(known[i].of == of && text_is(word, known[i].name)))
            i++;
        bool fine = i < KNOWN && !(given & 1u << i);
        if (fine && known[i].window)
            fine = chaos_parse_window(value, &failures.away_us, &failures.every_us);
        else if (fine)
            fine = chaos_parse_share(value, (uint32_t *)(void *)((char *)&failures + known[i].share));
        if (!fine)
            return refused(error, "%s: \"%.*s\" is not one of %s, each once", name, TEXT_ARG(item),
                           allowed[of]);
        given |= 1u << i;
    }
    *ret = failures;
    return OK;
}

static bool add(char list[CHAOS_LIST_BYTES_MAX], struct text item)
{
    size_t length = strlen(list);
    int written =
        snprintf(list + length, CHAOS_LIST_BYTES_MAX - length, "%s%.*s", length ? "," : "", TEXT_ARG(item));
    return written >= 0 && (size_t)written < CHAOS_LIST_BYTES_MAX - length;
}

enum outcome chaos_list_parse(const char *list, struct chaos_list *ret, struct error *error)
{
    *ret = (struct chaos_list){0};
    const struct {
        const char *word, *prefix, *lively;
        char *into;
    } groups[] = {
        {"gateway", "gateway-", CHAOS_LIVELY_GATEWAY, ret->gateway},
        {"smtp", "smtp-", CHAOS_LIVELY_SMTP, ret->mail},
        {"handlers", "", CHAOS_LIVELY_HANDLERS, ret->handlers}, /* last: what begins with no other's prefix */
    };
    struct text rest = text_of(list), item;
    bool fits = true;
    if (rest.length == 0)
        return OK;
    while (next_item(&rest, &item)) {
        bool lively = text_is(item, CHAOS_LIVELY), taken = false;
        if (item.length == 0)
            return refused(error, "CHAOS: nothing stands between two commas");
        for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]) && !taken; i++) {
            size_t prefix = strlen(groups[i].prefix);
            if (lively || text_is(item, groups[i].word)) {
                fits = add(groups[i].into, text_of(groups[i].lively)) && fits;
                taken = !lively;
            } else if (item.length > prefix && memcmp(item.at, groups[i].prefix, prefix) == 0) {
                fits = add(groups[i].into, (struct text){item.at + prefix, item.length - prefix}) && fits;
                taken = true;
            }
        }
    }
    if (!fits)
        return refused(error, "CHAOS: the list is too long");
    struct chaos chaos;
    struct failures failures;
    if (chaos_parse(text_of(ret->handlers), &chaos, error) != OK) {
        error_prefix(error, "CHAOS");
        error->exit_code = EXIT_CONFIG;
        return REJECT;
    }
    enum outcome outcome = failures_parse("CHAOS gateway-", ret->gateway, FAILURES_GATEWAY, &failures, error);
    return outcome == OK ? failures_parse("CHAOS smtp-", ret->mail, FAILURES_MAIL, &failures, error)
                         : outcome;
}
