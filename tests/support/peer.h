/*
 * peer: a server on a loopback port that does what a test says, a thread a connection.
 */
#ifndef SUPPORT_PEER_H
#define SUPPORT_PEER_H

#include <stdbool.h>
#include <stddef.h>

struct peer;

/* serve: one connection; fd is closed after it. number counts connections from 0. */
struct peer *peer_open(void (*serve)(void *owner, int fd, int number), void *owner);
int peer_port(const struct peer *peer);
int peer_connections(const struct peer *peer); /* accepted so far */
void peer_close(struct peer *peer);            /* shuts every connection down and waits for its thread */

/* A port that refuses: bound once, closed again. */
int peer_refusing_port(void);

/* Helpers for serve(). All give up (false, 0) when the other side does or the peer is closed. */
bool peer_say(int fd, const char *text);
/* Up to and with the first end; NUL-ended, at most size - 1 bytes. Returns the length. */
size_t peer_hear(int fd, const char *end, char *into, size_t size);
void peer_hang(int fd); /* until the other side closes, or peer_close() */

#endif
