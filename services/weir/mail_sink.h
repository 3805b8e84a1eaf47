/*
 * mail_sink: an SMTP server that delivers nothing and keeps everything, for `weir mail`, `weir up` and tests.
 *
 * Every message is a file DIRECTORY/<n>-<hash of its Message-ID>.eml, there whole or not at all, and a line
 * in DIRECTORY/index.ndjson:
 * {"n", "message_id", "to", "subject", "at", "bytes", "file"}, written before the answer. A directory that
 * was used before is gone on with.
 */
#ifndef WEIR_MAIL_SINK_H
#define WEIR_MAIL_SINK_H

#include "weir/failures.h"

enum {
    MAIL_SINK_CONNECTIONS_MAX = 256,
    MAIL_SINK_MESSAGE_BYTES_MAX = 10 << 20,
    MAIL_SINK_LINE_BYTES_MAX = 2048,
    MAIL_SINK_RECIPIENTS_MAX = 100,
};

struct mail_sink_settings {
    const char *listen;    /* host:port, port 0 picks one */
    const char *directory; /* made where missing; NULL: nothing is kept, only counted */
    bool sync;             /* fsync before the answer */
    int64_t keep_max;      /* files; past it only the line is written (file: "") */
    int refuse_percent;    /* of the recipients, with refuse_reply */
    int refuse_reply;      /* 451, 550 or 421 (closes) */
    struct failures failures;
    int64_t delay_ms; /* before each answer to a message */
};

struct mail_sink_counts {
    int64_t kept, refused, dropped; /* a dropped one is among the kept, its answer is lost */
};

struct mail_sink;
MUST_CHECK enum outcome mail_sink_open(const struct mail_sink_settings *settings, struct mail_sink **ret,
                                       struct error *error);
const char *mail_sink_address(const struct mail_sink *sink); /* "127.0.0.1:1025" */
/* Until mail_sink_stop() or until stop_fd (-1: none) is readable. OUTAGE where a message cannot be written:
 * it was not accepted. */
MUST_CHECK enum outcome mail_sink_run(struct mail_sink *sink, int stop_fd, struct error *error);
void mail_sink_stop(struct mail_sink *sink);                            /* any thread */
struct mail_sink_counts mail_sink_counts(const struct mail_sink *sink); /* any thread */
void mail_sink_close(struct mail_sink *sink);                           /* accepts NULL */

#endif
