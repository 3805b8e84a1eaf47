#include "service/http_stream.h"

#include "base/clock.h"
#include "service/http.h"

#include <microhttpd.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

enum { STACK_BYTES = 512 << 10, BLOCK_BYTES = 16 << 10 };

/* What all listeners are sent; counted under the stream's lock. */
struct frame {
    size_t references;
    size_t length;
    char bytes[];
};

struct listener {
    struct stream *stream;
    struct MHD_Connection *connection;
    struct frame *current; /* going out */
    size_t at;
    struct frame *pending; /* the newest after it */
    bool suspended;
    void (*gone)(void *owner);
    void *owner;
    struct listener *previous, *next;
};

struct stream {
    const char *path;
    int interval_ms;
    void (*next)(void *owner, struct buffer *into);
    void *owner;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* the first listener, the end */
    struct listener *first;
    struct frame *latest;
    bool hurry; /* somebody listens and there is no frame yet */
    bool ended;
    bool started;
    pthread_t thread;
};

static void frame_release(struct frame *frame)
{
    if (frame && --frame->references == 0)
        free(frame);
}

static struct frame *frame_new(struct text bytes)
{
    struct frame *frame = malloc(sizeof(*frame) + bytes.length);
    if (!frame)
        return NULL;
    frame->references = 1;
    frame->length = bytes.length;
    memcpy(frame->bytes, bytes.at, bytes.length);
    return frame;
}

/* Gives a frame to all who listen. Those that were waiting are woken outside the lock: they cannot go away
 * before that. */
static void broadcast(struct stream *stream, struct frame *frame)
{
    struct MHD_Connection *woken[HTTP_STREAMS_MAX];
    size_t count = 0;
    pthread_mutex_lock(&stream->lock);
    for (struct listener *listener = stream->first; listener; listener = listener->next) {
        if (frame) {
            frame_release(listener->pending);
            listener->pending = frame;
            frame->references++;
        }
        if (listener->suspended && count < HTTP_STREAMS_MAX) {
            listener->suspended = false;
            woken[count++] = listener->connection;
        }
    }
    if (frame) {
        frame_release(stream->latest);
        stream->latest = frame;
    }
    pthread_mutex_unlock(&stream->lock);
    for (size_t i = 0; i < count; i++)
        MHD_resume_connection(woken[i]);
}

/* Until the interval is over; sooner when somebody waits for the first frame. False: the end. */
static bool wait_for_turn(struct stream *stream)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += stream->interval_ms / 1000;
    until.tv_nsec += stream->interval_ms % 1000 * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    pthread_mutex_lock(&stream->lock);
    int late = 0;
    while (!stream->ended && !stream->hurry && (late == 0 || !stream->first))
        late = stream->first ? pthread_cond_timedwait(&stream->changed, &stream->lock, &until)
                             : pthread_cond_wait(&stream->changed, &stream->lock);
    stream->hurry = false;
    bool go_on = !stream->ended;
    pthread_mutex_unlock(&stream->lock);
    return go_on;
}

static void *stream_run(void *owner)
{
    struct stream *stream = owner;
    struct buffer buffer = buffer_of(STREAM_FRAME_BYTES_MAX);
    int64_t spoken_us = clock_monotonic_us();
    while (wait_for_turn(stream)) {
        buffer_clear(&buffer);
        stream->next(stream->owner, &buffer);
        if (buffer.failed ||
            (buffer.length == 0 && clock_monotonic_us() - spoken_us < STREAM_QUIET_MS * INT64_C(1000)))
            continue;
        spoken_us = clock_monotonic_us();
        struct frame *frame = frame_new(buffer.length ? buffer_text(&buffer) : TEXT(":\n\n"));
        if (frame)
            broadcast(stream, frame);
    }
    buffer_free(&buffer);
    return NULL;
}

/* On an HTTP thread: what goes out next, or nothing, and then the connection sleeps until there is something.
 */
static ssize_t listener_read(void *owner, uint64_t position, char *into, size_t room)
{
    struct listener *listener = owner;
    struct stream *stream = listener->stream;
    ssize_t given = 0;
    (void)position;
    pthread_mutex_lock(&stream->lock);
    if (!listener->current) {
        listener->current = listener->pending;
        listener->pending = NULL;
        listener->at = 0;
    }
    if (listener->current) {
        struct frame *frame = listener->current;
        size_t length = frame->length - listener->at < room ? frame->length - listener->at : room;
        memcpy(into, frame->bytes + listener->at, length);
        listener->at += length;
        given = (ssize_t)length;
        if (listener->at == frame->length) {
            frame_release(frame);
            listener->current = NULL;
        }
    } else if (stream->ended) {
        given = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        listener->suspended = true;
        MHD_suspend_connection(listener->connection);
    }
    pthread_mutex_unlock(&stream->lock);
    return given;
}

static void listener_free(void *owner)
{
    struct listener *listener = owner;
    struct stream *stream = listener->stream;
    pthread_mutex_lock(&stream->lock);
    if (listener->previous)
        listener->previous->next = listener->next;
    else
        stream->first = listener->next;
    if (listener->next)
        listener->next->previous = listener->previous;
    frame_release(listener->current);
    frame_release(listener->pending);
    pthread_mutex_unlock(&stream->lock);
    listener->gone(listener->owner);
    free(listener);
}

struct MHD_Response *stream_listen(struct stream *stream, struct MHD_Connection *connection,
                                   void (*gone)(void *owner), void *owner)
{
    struct listener *listener = calloc(1, sizeof(*listener));
    if (!listener)
        return NULL;
    *listener = (struct listener){.stream = stream, .connection = connection, .gone = gone, .owner = owner};
    struct MHD_Response *response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES,
                                                                      listener_read, listener, listener_free);
    if (!response) {
        free(listener);
        return NULL;
    }
    pthread_mutex_lock(&stream->lock);
    listener->next = stream->first;
    if (stream->first)
        stream->first->previous = listener;
    else
        stream->hurry = true; /* what is kept may be old: nothing is made while nobody listens */
    if (listener->next && stream->latest) {
        listener->pending = stream->latest;
        stream->latest->references++;
    }
    stream->first = listener;
    pthread_cond_signal(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    return response;
}

struct stream *stream_new(const char *path, int interval_ms, void (*next)(void *owner, struct buffer *into),
                          void *owner)
{
    struct stream *stream = calloc(1, sizeof(*stream));
    if (!stream)
        return NULL;
    *stream = (struct stream){.path = path, .interval_ms = interval_ms, .next = next, .owner = owner};
    pthread_mutex_init(&stream->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&stream->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return stream;
}

enum outcome stream_start(struct stream *stream, struct error *error)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int failed = pthread_create(&stream->thread, &attributes, stream_run, stream);
    pthread_attr_destroy(&attributes);
    if (failed)
        return error_fatal(error, "thread", "http: cannot start the thread of %s: %s", stream->path,
                           strerror(failed));
    stream->started = true;
    return OK;
}

void stream_end(struct stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    stream->ended = true;
    pthread_cond_signal(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    if (stream->started)
        pthread_join(stream->thread, NULL);
    stream->started = false;
    broadcast(stream, NULL);
}

void stream_destroy(struct stream *stream)
{
    if (!stream)
        return;
    frame_release(stream->latest);
    pthread_cond_destroy(&stream->changed);
    pthread_mutex_destroy(&stream->lock);
    free(stream);
}
