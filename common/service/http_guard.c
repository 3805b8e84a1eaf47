#include "service/http_guard.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { STACK_BYTES = 512 << 10, LINGER_READ_BYTES = 16 << 10, LINGER_READS_MAX = 64 };

struct guard {
    struct guard_settings settings;
    pthread_mutex_t lock;
    struct guarded *first;
    size_t count;
    pthread_cond_t empty; /* count fell to 0 */
    bool shut;            /* no connection is to go on */
    struct lingering {
        int fd;
        int64_t until_us;
    } lingering[GUARD_LINGERING_MAX];
    size_t lingering_count;
    int wake_fd; /* something lingers, or the end */
    bool closing;
    pthread_t thread;
};

static bool bytes_received(int fd, uint64_t *ret)
{
    struct tcp_info info;
    socklen_t length = sizeof(info);
    memset(&info, 0, sizeof(info));
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0)
        return false;
    if (length < offsetof(struct tcp_info, tcpi_bytes_received) + sizeof(info.tcpi_bytes_received))
        return false; /* a kernel before 4.1: idle_ms alone then bounds a line that never ends */
    *ret = info.tcpi_bytes_received;
    return true;
}

static void wake(struct guard *guard)
{
    uint64_t one = 1;
    ssize_t put = write(guard->wake_fd, &one, sizeof(one));
    (void)put;
}

/* Under the lock. */
static void linger(struct guard *guard, int fd)
{
    if (guard->lingering_count == GUARD_LINGERING_MAX)
        return;
    int kept = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (kept < 0)
        return;
    shutdown(kept, SHUT_WR);
    guard->lingering[guard->lingering_count++] =
        (struct lingering){kept, clock_monotonic_us() + INT64_C(1000) * GUARD_LINGER_MS};
    wake(guard);
}

/* Under the lock. The answer is far smaller than an empty send buffer: one send takes it whole, or the client
 * gets none. */
static void answer_raw(struct guarded *guarded, int status, const char *title, const char *detail,
                       int retry_after_s)
{
    char body[256], retry_after[32] = "", whole[768];
    int body_bytes = snprintf(body, sizeof(body),
                              "{\"type\":\"about:blank\",\"title\":\"%s\",\"status\":%d,\"detail\":\"%s\"}",
                              title, status, detail);
    if (retry_after_s)
        snprintf(retry_after, sizeof(retry_after), "Retry-After: %d\r\n", retry_after_s);
    int bytes =
        snprintf(whole, sizeof(whole),
                 "HTTP/1.1 %d %s\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\n%s"
                 "Connection: close\r\n\r\n%s",
                 status, title, body_bytes, retry_after, body);
    ssize_t sent = send(guarded->fd, whole, (size_t)bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)sent;
    guarded->phase = GUARD_GONE;
}

/* Under the lock. */
static void shut(struct guarded *guarded)
{
    shutdown(guarded->fd, SHUT_RDWR);
    guarded->phase = GUARD_GONE;
}

/* Under the lock. */
static void look_at(struct guard *guard, struct guarded *guarded, int64_t now_us)
{
    int64_t passed_ms = (now_us - guarded->since_us) / 1000;
    uint64_t bytes;
    switch (guarded->phase) {
    case GUARD_IDLE:
        if (bytes_received(guarded->fd, &bytes)) {
            if (guarded->counted && bytes != guarded->bytes) {
                guarded->phase = GUARD_READING;
                guarded->since_us = now_us;
                return;
            }
            guarded->bytes = bytes;
            guarded->counted = true;
        }
        if (passed_ms >= guard->settings.idle_ms) {
            shut(guarded);
        }
        return;
    case GUARD_READING:
        if (passed_ms >= guard->settings.request_ms) {
            metric_add(guard->settings.timed_out, 1);
            answer_raw(guarded, 408, "Request Timeout", "the request was not whole in time", 0);
            shutdown(guarded->fd, SHUT_RDWR); /* the library sees the end of input and closes */
        }
        return;
    case GUARD_SENDING:
        if (passed_ms >= guard->settings.send_ms) {
            shut(guarded);
        }
        return;
    case GUARD_HANDLING:
    case GUARD_STREAM:
    case GUARD_GONE:
        return;
    }
}

/* True when it is over: the client has closed, or its time is up. */
static bool throw_away(const struct lingering *lingering, int64_t now_us)
{
    char bytes[LINGER_READ_BYTES];
    for (int i = 0; i < LINGER_READS_MAX; i++) {
        ssize_t got = recv(lingering->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            return true;
        if (got < 0)
            break;
    }
    return now_us >= lingering->until_us;
}

static void *guard_run(void *owner)
{
    struct guard *guard = owner;
    int64_t step_us = clock_monotonic_us();
    pthread_mutex_lock(&guard->lock);
    while (!guard->closing) {
        struct pollfd fds[GUARD_LINGERING_MAX + 1] = {{.fd = guard->wake_fd, .events = POLLIN}};
        size_t count = guard->lingering_count;
        for (size_t i = 0; i < count; i++)
            fds[i + 1] = (struct pollfd){.fd = guard->lingering[i].fd, .events = POLLIN};
        pthread_mutex_unlock(&guard->lock);
        int ready = poll(fds, count + 1, GUARD_STEP_MS);
        pthread_mutex_lock(&guard->lock);
        uint64_t woken;
        if (ready > 0 && read(guard->wake_fd, &woken, sizeof(woken)) < 0)
            woken = 0;

        int64_t now_us = clock_monotonic_us();
        for (size_t i = guard->lingering_count; i-- > 0;)
            if (throw_away(&guard->lingering[i], now_us)) {
                close(guard->lingering[i].fd);
                guard->lingering[i] = guard->lingering[--guard->lingering_count];
            }
        if (now_us - step_us < INT64_C(1000) * GUARD_STEP_MS)
            continue;
        step_us = now_us;
        for (struct guarded *guarded = guard->first; guarded; guarded = guarded->next)
            look_at(guard, guarded, now_us);
    }
    pthread_mutex_unlock(&guard->lock);
    return NULL;
}

enum outcome guard_open(const struct guard_settings *settings, struct guard **ret, struct error *error)
{
    struct guard *guard = calloc(1, sizeof(*guard));
    if (!guard)
        return error_fatal(error, "memory", "http: out of memory");
    guard->settings = *settings;
    guard->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&guard->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&guard->empty, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int failed = guard->wake_fd < 0 ? errno : pthread_create(&guard->thread, &attributes, guard_run, guard);
    pthread_attr_destroy(&attributes);
    if (failed) {
        if (guard->wake_fd >= 0)
            close(guard->wake_fd);
        pthread_cond_destroy(&guard->empty);
        pthread_mutex_destroy(&guard->lock);
        free(guard);
        return error_fatal(error, "thread", "http: cannot start the thread that watches connections: %s",
                           strerror(failed));
    }
    *ret = guard;
    return OK;
}

void guard_close(struct guard *guard)
{
    if (!guard)
        return;
    pthread_mutex_lock(&guard->lock);
    guard->closing = true;
    wake(guard);
    pthread_mutex_unlock(&guard->lock);
    pthread_join(guard->thread, NULL);
    for (size_t i = 0; i < guard->lingering_count; i++)
        close(guard->lingering[i].fd);
    close(guard->wake_fd);
    pthread_cond_destroy(&guard->empty);
    pthread_mutex_destroy(&guard->lock);
    free(guard);
}

void guard_shut(struct guard *guard, int wait_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += wait_ms % 1000 * 1000000L;
    until.tv_sec += wait_ms / 1000 + until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&guard->lock);
    guard->shut = true;
    for (struct guarded *guarded = guard->first; guarded; guarded = guarded->next)
        shut(guarded);
    while (guard->count && pthread_cond_timedwait(&guard->empty, &guard->lock, &until) == 0)
        ;
    pthread_mutex_unlock(&guard->lock);
}

void guard_add(struct guard *guard, struct guarded *guarded, int fd)
{
    /* Nothing was received when it was made, so that bytes that came before we looked count. */
    *guarded = (struct guarded){.fd = fd, .since_us = clock_monotonic_us(), .counted = true};
    pthread_mutex_lock(&guard->lock);
    guarded->next = guard->first;
    if (guard->first)
        guard->first->previous = guarded;
    guard->first = guarded;
    guard->count++;
    if (guard->shut)
        shut(guarded);
    pthread_mutex_unlock(&guard->lock);
}

void guard_remove(struct guard *guard, struct guarded *guarded)
{
    pthread_mutex_lock(&guard->lock);
    if (guarded->previous)
        guarded->previous->next = guarded->next;
    else
        guard->first = guarded->next;
    if (guarded->next)
        guarded->next->previous = guarded->previous;
    if (--guard->count == 0)
        pthread_cond_broadcast(&guard->empty);
    pthread_mutex_unlock(&guard->lock);
}

bool guard_enter(struct guard *guard, struct guarded *guarded, enum guard_phase phase)
{
    int64_t now_us = clock_monotonic_us();
    pthread_mutex_lock(&guard->lock);
    bool open = guarded->phase != GUARD_GONE;
    if (open) {
        /* The look-out may have seen the request begin before its line was whole. */
        if (phase != GUARD_READING || guarded->phase != GUARD_READING)
            guarded->since_us = now_us;
        guarded->phase = phase;
        guarded->counted = false;
    }
    pthread_mutex_unlock(&guard->lock);
    return open;
}

void guard_refuse(struct guard *guard, struct guarded *guarded, int status, const char *title,
                  const char *detail, int retry_after_s)
{
    pthread_mutex_lock(&guard->lock);
    if (guarded->phase != GUARD_GONE) {
        answer_raw(guarded, status, title, detail, retry_after_s);
        linger(guard, guarded->fd);
    }
    pthread_mutex_unlock(&guard->lock);
}

size_t guard_count(struct guard *guard)
{
    pthread_mutex_lock(&guard->lock);
    size_t count = guard->count;
    pthread_mutex_unlock(&guard->lock);
    return count;
}
