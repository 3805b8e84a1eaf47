/*
 * message: a whole mail (RFC 5322): text and HTML of one content as multipart/alternative, ready for
 * net_mail().
 *
 * What comes out has CRLF lines of at most 78 bytes (but for long addresses: 270) and nothing but printable
 * ASCII: bodies are quoted-printable, a subject or name beyond ASCII becomes encoded-words (RFC 2047). Header
 * injection is impossible: a control byte in anything that goes into a header is REJECT, and the set of
 * headers is closed. The same input gives the same bytes. Any thread.
 */
#ifndef NET_MESSAGE_H
#define NET_MESSAGE_H

#include "base/text.h"

enum { MESSAGE_HEADER_BYTES_MAX = 900, MESSAGE_BODY_BYTES_MAX = 1 << 20 };

struct message {
    struct text from_name;  /* UTF-8, may be empty */
    struct text from, to;   /* bare addresses      */
    struct text subject;    /* UTF-8, one line     */
    struct text message_id; /* with its <>         */
    int64_t date_us;        /* wall                */
    struct text text, html; /* UTF-8; lines end in LF or CRLF */
};

/* REJECT ("message-header", "message-body") names what is wrong; into->failed is the caller's to look at. */
MUST_CHECK enum outcome message_write(const struct message *message, struct buffer *into,
                                      struct error *error);

#endif
