/*
 * email: one mail for each thing that a customer should know of an order, once for an order and template.
 *
 * A mail is asked for when its event is handled and goes as soon as the address is known (OrderPlaced may be
 * seen after PaymentCaptured: topics have no order between them). An order that is not valid gets none.
 * Sending is at least once (RFC 1047), with a Message-ID that is the same each time.
 */
#ifndef EMAIL_EMAIL_H
#define EMAIL_EMAIL_H

#include "service/service.h"

enum email_template {
    EMAIL_ORDER_RECEIVED,
    EMAIL_ORDER_CONFIRMED,
    EMAIL_ORDER_REJECTED,
    EMAIL_ORDER_CANCELLED,
    EMAIL_PAYMENT_RECEIPT,
    EMAIL_PAYMENT_REFUND,
    EMAIL_TEMPLATES,
};
const char *email_template_name(enum email_template template);

enum contact_state { CONTACT_UNKNOWN, CONTACT_KNOWN, CONTACT_INVALID };

/* Who is written to about an order, and what about. */
struct contact {
    struct text order_id;
    int64_t state;
    int64_t decided; /* 1: the first decision was seen; later ones make no mail */
    int64_t early;   /* templates asked for before the address was known, a bit each */
    struct text email;
    struct text locale;
    struct text currency;
    int64_t total_minor;
    struct text items; /* items.h */
    int64_t heard_at;  /* first, of the order */
};
extern const struct rows_table contacts_table;

/* Kept in the database: numbers never change meaning. While a mail is not settled its call tells attempts and
 * when. */
enum mail_state { MAIL_WAITING, MAIL_RETRYING, MAIL_SENT, MAIL_FAILED };

struct mail {
    struct text order_id;
    int64_t template;
    int64_t state;
    struct id call;    /* in calls_table; of a mail that waits for its address all zero */
    int64_t attempts;  /* when settled */
    int64_t ambiguous; /* attempts that may have delivered it without our knowing */
    struct text message_id;
    struct text detail;   /* a reason, for the letter */
    int64_t amount_minor; /* for a receipt or refund */
    struct text currency;
    struct text reason; /* why it failed */
    int64_t asked_at;
};
extern const struct rows_table mails_table;

enum { EMAIL_DETAIL_BYTES_MAX = 1000, EMAIL_CURRENCY_BYTES_MAX = 8 };

struct email_state {
    const char *smtp_url;
    const char *from;
    struct text domain; /* of from */
    bool resend;        /* what to do with a mail that may have been sent */
    int64_t wait_us;    /* for the address of an order that others speak of */
    struct prune prune;
    struct metric *ok, *retry, *failed, *outage, *ambiguous;
};

/* ---- email_letters.c: pure */

struct letter {
    enum email_template template;
    struct text order_id, locale, currency, items, detail, amount_currency;
    int64_t total_minor, amount_minor;
};
/* Subject, text and HTML in the arena. REJECT where the items cannot be read or the letter is too large. */
MUST_CHECK enum outcome letter_write(const struct letter *letter, struct arena *arena,
                                     struct text *ret_subject, struct text *ret_text, struct text *ret_html,
                                     struct error *error);
/* 1234 EUR minor units as "12.34 EUR". */
struct text letter_money(struct arena *arena, int64_t minor, struct text currency);

/* ---- email_send.c */
/* It will never be sent: says so, as when all attempts have failed. */
void mail_give_up(struct work *work, struct mail *mail, struct text reason);
/* Starts a mail whose contact is known. */
void mail_send(struct work *work, struct mail *mail, const struct contact *contact);
extern const struct lane smtp_lane;

/* ---- email_http.c */
extern const struct route email_routes[];

#endif
