/*
 * listener: what the stand-ins (mail sink, gateway) have in common: a TCP server for many connections on one
 * thread, by poll(2).
 *
 * Everything is called on the thread of listener_run(). What is written into visitor->out goes out after
 * owner's round(), so that one fdatasync covers all that came in together.
 */
#ifndef WEIR_LISTENER_H
#define WEIR_LISTENER_H

#include "base/text.h"

enum { LISTENER_OUT_BYTES_MAX = 16 << 20, LISTENER_IDLE_MS = 5 * 60 * 1000 };

struct listener;

/* One connection. */
struct visitor {
    struct buffer in;  /* what has come and was not yet taken: listener_take()          */
    struct buffer out; /* what is to be sent                                            */
    int64_t due_us;    /* when due() is to be called (monotonic), 0: not                */
    bool busy;         /* data() is not called until due() has cleared it               */
    bool close;        /* once out is sent                                              */
    bool cut;          /* at once, whatever is in out                                   */
    void *state;       /* state_bytes, zeroed                                           */
};

struct listener_settings {
    const char *listen;  /* host:port, port 0 picks one */
    int connections_max; /* more wait in the listen queue */
    size_t in_bytes_max; /* a visitor that fills it without data() taking any is cut */
    size_t state_bytes;
    int64_t away_us, every_us; /* away for the last away_us of every every_us since listener_run():
                                * connections are cut and refused; 0: never */
    void *owner;
    void (*opened)(void *owner, struct visitor *visitor); /* may be NULL */
    void (*data)(void *owner, struct visitor *visitor);   /* takes what is whole */
    void (*due)(void *owner, struct visitor *visitor);    /* may be NULL; due_us is 0 again */
    void (*closed)(void *owner, struct visitor *visitor); /* may be NULL */
    enum outcome (*round)(
        void *owner,
        struct error *error); /* may be NULL; what is not OK ends listener_run() before anything is sent */
};

MUST_CHECK enum outcome listener_open(const struct listener_settings *settings, struct listener **ret,
                                      struct error *error);
/* "127.0.0.1:1025", as it is in fact. */
const char *listener_address(const struct listener *listener);
/* Until listener_stop(), or until stop_fd (-1: none) is readable. */
MUST_CHECK enum outcome listener_run(struct listener *listener, int stop_fd, struct error *error);
void listener_stop(struct listener *listener);  /* any thread */
void listener_close(struct listener *listener); /* accepts NULL; after listener_run() */

/* Takes bytes from the front of visitor->in. */
void listener_take(struct visitor *visitor, size_t bytes);

#endif
