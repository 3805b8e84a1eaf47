#include "base/stop.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_SECOND_SIGNAL = 128 + SIGTERM };

/* The one thing that is global by nature: a process has one set of signals and one end. */
static pthread_once_t prepared = PTHREAD_ONCE_INIT;
static int asked_fd = -1; /* eventfd, written once and never read: readable for ever */
static int signal_fd = -1;
static bool opened;
static _Atomic int64_t timeout_ms;
static _Atomic int64_t asked_at_ms; /* 0 = not yet */
static atomic_int failed_code;

/* Not base/clock: a test that holds the clock must still be able to end. */
static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 + 1; /* never 0 */
}

static void prepare(void)
{
    asked_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

void stop_ask(void)
{
    pthread_once(&prepared, prepare);
    int64_t unset = 0;
    if (!atomic_compare_exchange_strong(&asked_at_ms, &unset, now_ms()))
        return;
    uint64_t one = 1;
    ssize_t put = write(asked_fd, &one, sizeof(one)); /* the first one cannot fill an eventfd */
    (void)put;
}

void stop_fail(int exit_code)
{
    int unset = 0;
    atomic_compare_exchange_strong(&failed_code, &unset, exit_code);
    stop_ask();
}

int stop_exit_code(void)
{
    return atomic_load(&failed_code);
}

bool stop_asked(void)
{
    return atomic_load_explicit(&asked_at_ms, memory_order_relaxed) != 0;
}

int stop_fd(void)
{
    pthread_once(&prepared, prepare);
    return asked_fd;
}

/*
 * A process takes a moment to be gone, and longer where its disk or the machine is busy: it was seen to take
 * half a second from _exit() to the end, with an fsync under way. So the work has to end that much before.
 */
enum { STOP_MARGIN_MS_MIN = 50, STOP_MARGIN_MS_MAX = 1000 };

static int64_t margin_ms(int64_t whole_ms)
{
    int64_t tenth = whole_ms / 10;
    return tenth < STOP_MARGIN_MS_MIN ? STOP_MARGIN_MS_MIN
                                      : (tenth > STOP_MARGIN_MS_MAX ? STOP_MARGIN_MS_MAX : tenth);
}

int64_t stop_drain_left_ms(void)
{
    int64_t asked = atomic_load(&asked_at_ms), whole = atomic_load(&timeout_ms);
    whole = whole > margin_ms(whole) ? whole - margin_ms(whole) : 0;
    if (asked == 0)
        return whole;
    int64_t left = asked + whole - now_ms();
    return left > 0 ? left : 0;
}

void stop_wait(void)
{
    struct pollfd asked = {.fd = stop_fd(), .events = POLLIN};
    while (poll(&asked, 1, -1) < 0 && errno == EINTR)
        ;
}

/* How many signals came; the reads are of whole signals. */
static int take_signals(void)
{
    struct signalfd_siginfo signals[4];
    ssize_t got = read(signal_fd, signals, sizeof(signals));
    return got > 0 ? (int)((size_t)got / sizeof(signals[0])) : 0;
}

/*
 * Stands beside the work, because the work may hang in a library, in a lock or on a disk: the bound of a
 * drain holds whatever the other threads do. Ends only with the process.
 */
static void *watch(void *unused)
{
    (void)unused;
    int signal_count = 0;
    for (;;) {
        struct pollfd fds[] = {{.fd = signal_fd, .events = POLLIN}, {.fd = asked_fd, .events = POLLIN}};
        bool draining = stop_asked();
        int wait_ms = -1;
        if (draining) {
            int64_t left = stop_drain_left_ms();
            if (left <= 0)
                _exit(stop_exit_code());
            wait_ms = left < INT32_MAX ? (int)left : INT32_MAX;
        }
        /* once draining, the eventfd is readable all the time and has nothing more to say */
        int ready = poll(fds, draining ? 1 : 2, wait_ms);
        if (ready <= 0 || !(fds[0].revents & POLLIN))
            continue;
        signal_count += take_signals();
        if (signal_count > 1)
            _exit(EXIT_SECOND_SIGNAL);
        if (signal_count == 1)
            stop_ask();
    }
    return NULL;
}

static enum outcome start_watching(struct error *error)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_t thread;
    int failed = pthread_create(&thread, &attributes, watch, NULL);
    pthread_attr_destroy(&attributes);
    if (failed)
        return error_fatal(error, "thread", "cannot start the thread for signals: %s", strerror(failed));
    return OK;
}

enum outcome stop_open(int64_t drain_timeout_ms, struct error *error)
{
    atomic_store(&timeout_ms, drain_timeout_ms);
    if (opened)
        return OK;
    pthread_once(&prepared, prepare);
    if (asked_fd < 0)
        return error_fatal(error, "eventfd", "no eventfd: %s", strerror(errno));

    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    int failed = pthread_sigmask(SIG_BLOCK, &signals, NULL);
    if (failed)
        return error_fatal(error, "sigmask", "cannot block signals: %s", strerror(failed));
    signal(SIGPIPE, SIG_IGN);
    signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);
    if (signal_fd < 0)
        return error_fatal(error, "signalfd", "no signalfd: %s", strerror(errno));
    enum outcome outcome = start_watching(error);
    opened = outcome == OK;
    return outcome;
}
