/*
 * http_stream: one path of server-sent events. A thread makes each frame once, for all who listen; who is
 * slow misses frames and gets the newest. At most HTTP_STREAMS_MAX listeners over all paths are for http.c to
 * count.
 */
#ifndef SERVICE_HTTP_STREAM_H
#define SERVICE_HTTP_STREAM_H

#include "base/text.h"

enum {
    STREAM_FRAME_BYTES_MAX = 256 << 10,
    STREAM_QUIET_MS = 15000 /* then a comment, so that a client that has gone is noticed */
};

struct MHD_Connection;
struct MHD_Response;
struct stream;

struct stream *stream_new(const char *path, int interval_ms, void (*next)(void *owner, struct buffer *into),
                          void *owner);
MUST_CHECK enum outcome stream_start(struct stream *stream, struct error *error);
/* A body for this connection that goes on until stream_end(). gone(listener_owner) when the response is
 * destroyed. NULL: out of memory. */
struct MHD_Response *stream_listen(struct stream *stream, struct MHD_Connection *connection,
                                   void (*gone)(void *owner), void *owner);
void stream_end(struct stream *stream);     /* bodies end, the thread ends */
void stream_destroy(struct stream *stream); /* after all listeners are gone */

#endif
