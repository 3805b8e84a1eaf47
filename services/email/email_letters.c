/*
 * email_letters: what the mails say. A template is a text file and an HTML file for each locale
 * (templates/<locale>/), built in. The text's first line is "Subject: …". {{name}} is replaced; in HTML the
 * value is escaped. {{items}} is a line (text) or a row (HTML) for each item.
 */
#include "email/email.h"

#include "items.h"

enum { LETTER_BYTES_MAX = 256 << 10 };

#define TEMPLATES(locale)                                                                                    \
    extern const char email_##locale##_order_received_txt[], email_##locale##_order_received_html[],         \
        email_##locale##_order_confirmed_txt[], email_##locale##_order_confirmed_html[],                     \
        email_##locale##_order_rejected_txt[], email_##locale##_order_rejected_html[],                       \
        email_##locale##_order_cancelled_txt[], email_##locale##_order_cancelled_html[],                     \
        email_##locale##_payment_receipt_txt[], email_##locale##_payment_receipt_html[],                     \
        email_##locale##_payment_refund_txt[], email_##locale##_payment_refund_html[];                       \
    static const char *const templates_##locale[EMAIL_TEMPLATES][2] = {                                      \
        [EMAIL_ORDER_RECEIVED] = {email_##locale##_order_received_txt,                                       \
                                  email_##locale##_order_received_html},                                     \
        [EMAIL_ORDER_CONFIRMED] = {email_##locale##_order_confirmed_txt,                                     \
                                   email_##locale##_order_confirmed_html},                                   \
        [EMAIL_ORDER_REJECTED] = {email_##locale##_order_rejected_txt,                                       \
                                  email_##locale##_order_rejected_html},                                     \
        [EMAIL_ORDER_CANCELLED] = {email_##locale##_order_cancelled_txt,                                     \
                                   email_##locale##_order_cancelled_html},                                   \
        [EMAIL_PAYMENT_RECEIPT] = {email_##locale##_payment_receipt_txt,                                     \
                                   email_##locale##_payment_receipt_html},                                   \
        [EMAIL_PAYMENT_REFUND] = {email_##locale##_payment_refund_txt,                                       \
                                  email_##locale##_payment_refund_html},                                     \
    };
TEMPLATES(en)
TEMPLATES(de)

/* By the language alone: de-AT is German. */
static const char *const *template_of(struct text locale, enum email_template template)
{
    bool german = locale.length >= 2 && text_equal_nocase((struct text){locale.at, 2}, TEXT("de")) &&
                  (locale.length == 2 || locale.at[2] == '-');
    return german ? templates_de[template] : templates_en[template];
}

/* Digits after the point: ISO 4217, where it is not two. */
static int currency_digits(struct text currency)
{
    static const char none[][4] = {"BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG",
                                   "RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF"};
    static const char three[][4] = {"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"};
    static const char four[][4] = {"CLF", "UYW"};
    for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++)
        if (text_equal_nocase(currency, text_of(none[i])))
            return 0;
    for (size_t i = 0; i < sizeof(three) / sizeof(three[0]); i++)
        if (text_equal_nocase(currency, text_of(three[i])))
            return 3;
    for (size_t i = 0; i < sizeof(four) / sizeof(four[0]); i++)
        if (text_equal_nocase(currency, text_of(four[i])))
            return 4;
    return 2;
}

struct text letter_money(struct arena *arena, int64_t minor, struct text currency)
{
    static const uint64_t units[] = {1, 10, 100, 1000, 10000};
    int digits = currency_digits(currency);
    uint64_t unit = units[digits];
    const char *sign = minor < 0 ? "-" : "";
    /* Unsigned, so that the lowest number has an absolute value too. */
    uint64_t absolute = minor < 0 ? 0 - (uint64_t)minor : (uint64_t)minor;
    unsigned long long whole = absolute / unit, part = absolute % unit;
    if (digits == 0)
        return text_of(arena_print(arena, "%s%llu %.*s", sign, whole, TEXT_ARG(currency)));
    return text_of(arena_print(arena, "%s%llu.%0*llu %.*s", sign, whole, digits, part, TEXT_ARG(currency)));
}

static void add_escaped(struct buffer *into, struct text text)
{
    for (size_t i = 0; i < text.length; i++) {
        switch (text.at[i]) {
        case '&':
            buffer_add_string(into, "&amp;");
            break;
        case '<':
            buffer_add_string(into, "&lt;");
            break;
        case '>':
            buffer_add_string(into, "&gt;");
            break;
        case '"':
            buffer_add_string(into, "&quot;");
            break;
        case '\'':
            buffer_add_string(into, "&#39;");
            break;
        default:
            buffer_add_char(into, text.at[i]);
        }
    }
}

static void add_items(struct buffer *into, struct arena *arena, const struct letter *letter,
                      const struct order_item *items, size_t count, bool html)
{
    for (size_t i = 0; i < count; i++) {
        struct text price = letter_money(arena, items[i].unit_price_minor, letter->currency);
        if (html) {
            buffer_print(into, "<tr><td>%d&nbsp;&times;</td><td>", (int)items[i].quantity);
            add_escaped(into, items[i].sku);
            buffer_print(into, "</td><td align=\"right\">%.*s</td></tr>\n", TEXT_ARG(price));
        } else {
            buffer_print(into, "  %d x %.*s  %.*s\n", (int)items[i].quantity, TEXT_ARG(items[i].sku),
                         TEXT_ARG(price));
        }
    }
}

static struct text value_of(const struct letter *letter, struct arena *arena, struct text name)
{
    if (text_is(name, "order_id"))
        return letter->order_id;
    if (text_is(name, "total"))
        return letter_money(arena, letter->total_minor, letter->currency);
    if (text_is(name, "amount"))
        return letter_money(arena, letter->amount_minor, letter->amount_currency);
    if (text_is(name, "reason"))
        return letter->detail.length ? letter->detail : TEXT("-");
    return TEXT("");
}

static enum outcome render(const struct letter *letter, struct arena *arena, const char *template, bool html,
                           struct text *ret, struct error *error)
{
    struct buffer into = buffer_of(LETTER_BYTES_MAX);
    struct order_item *items = NULL;
    size_t count = 0;
    if (letter->items.length && !items_unpack(arena, letter->items, &items, &count))
        return error_reject(error, "items", "the order's items cannot be read");
    for (const char *at = template, *open; at; at = open) {
        open = strstr(at, "{{");
        buffer_add(&into, at, open ? (size_t)(open - at) : strlen(at));
        const char *close = open ? strstr(open, "}}") : NULL;
        if (!close)
            break;
        struct text name = {open + 2, (size_t)(close - open) - 2};
        if (text_is(name, "items"))
            add_items(&into, arena, letter, items, count, html);
        else if (html)
            add_escaped(&into, value_of(letter, arena, name));
        else
            buffer_add_text(&into, value_of(letter, arena, name));
        open = close + 2;
    }
    *ret = text_copy(arena, buffer_text(&into));
    bool failed = into.failed || !ret->at;
    buffer_free(&into);
    return failed ? error_reject(error, "letter-size", "the letter is larger than %d bytes", LETTER_BYTES_MAX)
                  : OK;
}

enum outcome letter_write(const struct letter *letter, struct arena *arena, struct text *ret_subject,
                          struct text *ret_text, struct text *ret_html, struct error *error)
{
    const size_t subject_at = sizeof("Subject: ") - 1;
    if ((unsigned)letter->template >= EMAIL_TEMPLATES)
        return error_reject(error, "template", "there is no template %d", (int)letter->template);
    const char *const *template = template_of(letter->locale, letter->template);
    enum outcome outcome = render(letter, arena, template[0], false, ret_text, error);
    if (outcome == OK)
        outcome = render(letter, arena, template[1], true, ret_html, error);
    if (outcome != OK)
        return outcome;
    const char *end = memchr(ret_text->at, '\n', ret_text->length);
    size_t line = end ? (size_t)(end - ret_text->at) : ret_text->length;
    *ret_subject = (struct text){ret_text->at + subject_at, line > subject_at ? line - subject_at : 0};
    /* The text begins behind the empty line under the subject. */
    size_t skip = line + 2 < ret_text->length ? line + 2 : ret_text->length;
    *ret_text = (struct text){ret_text->at + skip, ret_text->length - skip};
    return OK;
}
