/* mails: the mails that an order can lead to, by the names of their templates. */
#ifndef WEIR_MAILS_H
#define WEIR_MAILS_H

#include "base/text.h"

enum mail { MAIL_RECEIVED, MAIL_CONFIRMED, MAIL_REJECTED, MAIL_CANCELLED, MAIL_RECEIPT, MAIL_REFUND, MAIL_COUNT };

static const char *const mail_names[MAIL_COUNT] = {
    "order_received", "order_confirmed", "order_rejected", "order_cancelled", "payment_receipt", "payment_refund",
};

static inline uint8_t mail_bit(enum mail mail)
{
    return (uint8_t)(1U << mail);
}

static inline bool mail_find(struct text name, enum mail *ret)
{
    for (int i = 0; i < MAIL_COUNT; i++)
        if (text_is(name, mail_names[i])) {
            *ret = (enum mail)i;
            return true;
        }
    return false;
}

#endif
