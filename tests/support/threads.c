/*
 * threads: C11's threads on POSIX's, in builds with TSan only.
 *
 * librdkafka makes its threads and locks by <threads.h>. TSan knows only the pthread functions: it dies in
 * the first malloc() of a thread that it has not seen made, and would not see what librdkafka's locks order.
 * An executable's functions go before the C library's, also for shared libraries. glibc's mtx_t and cnd_t are
 * pthread's by another name.
 */
#include "support/broker.h"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#endif

const int broker_threads_are_seen; /* broker.c names it, so that this file is linked */

#ifdef UNDER_TSAN
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <threads.h>

_Static_assert(sizeof(mtx_t) >= sizeof(pthread_mutex_t) && sizeof(cnd_t) >= sizeof(pthread_cond_t),
               "glibc's layout");

struct start {
    thrd_start_t function;
    void *argument;
};

static void *run(void *argument)
{
    struct start start = *(struct start *)argument;
    free(argument);
    return (void *)(intptr_t)start.function(start.argument);
}

static int result_of(int err)
{
    return err == 0 ? thrd_success : err == ETIMEDOUT ? thrd_timedout : err == EBUSY ? thrd_busy : thrd_error;
}

int thrd_create(thrd_t *thread, thrd_start_t function, void *argument)
{
    struct start *start = malloc(sizeof(*start));
    if (!start)
        return thrd_nomem;
    *start = (struct start){function, argument};
    int err = pthread_create((pthread_t *)thread, NULL, run, start);
    if (err)
        free(start);
    return result_of(err);
}

int thrd_join(thrd_t thread, int *ret)
{
    void *value = NULL;
    int err = pthread_join((pthread_t)thread, &value);
    if (ret)
        *ret = (int)(intptr_t)value;
    return result_of(err);
}

int thrd_detach(thrd_t thread)
{
    return result_of(pthread_detach((pthread_t)thread));
}

int mtx_init(mtx_t *mutex, int type)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes,
                              type & mtx_recursive ? PTHREAD_MUTEX_RECURSIVE : PTHREAD_MUTEX_NORMAL);
    int err = pthread_mutex_init((pthread_mutex_t *)(void *)mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return result_of(err);
}

void mtx_destroy(mtx_t *mutex)
{
    pthread_mutex_destroy((pthread_mutex_t *)(void *)mutex);
}

int mtx_lock(mtx_t *mutex)
{
    return result_of(pthread_mutex_lock((pthread_mutex_t *)(void *)mutex));
}

int mtx_trylock(mtx_t *mutex)
{
    return result_of(pthread_mutex_trylock((pthread_mutex_t *)(void *)mutex));
}

int mtx_unlock(mtx_t *mutex)
{
    return result_of(pthread_mutex_unlock((pthread_mutex_t *)(void *)mutex));
}

int cnd_init(cnd_t *condition)
{
    return result_of(pthread_cond_init((pthread_cond_t *)(void *)condition, NULL));
}

void cnd_destroy(cnd_t *condition)
{
    pthread_cond_destroy((pthread_cond_t *)(void *)condition);
}

int cnd_wait(cnd_t *condition, mtx_t *mutex)
{
    return result_of(
        pthread_cond_wait((pthread_cond_t *)(void *)condition, (pthread_mutex_t *)(void *)mutex));
}

int cnd_timedwait(cnd_t *condition, mtx_t *mutex, const struct timespec *until)
{
    return result_of(
        pthread_cond_timedwait((pthread_cond_t *)(void *)condition, (pthread_mutex_t *)(void *)mutex, until));
}

int cnd_signal(cnd_t *condition)
{
    return result_of(pthread_cond_signal((pthread_cond_t *)(void *)condition));
}

int cnd_broadcast(cnd_t *condition)
{
    return result_of(pthread_cond_broadcast((pthread_cond_t *)(void *)condition));
}
#endif
