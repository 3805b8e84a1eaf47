#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/stop.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 * Each test is a child process: what is tested ends it. Child and test tell each other by a pipe how far they
 * are, so that nobody waits for a time. The long time-out stands for never: a test that hangs is ended by
 * ctest.
 */
enum { NEVER_MS = 3600 * 1000 };

struct child {
    pid_t pid;
    int says; /* a byte for each step that it has come to */
};

static int steps = -1;

static void step(void)
{
    if (write(steps, ".", 1) != 1)
        _exit(9);
}

static struct child start(void (*body)(void))
{
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        close(pipes[0]);
        steps = pipes[1];
        body();
        _exit(8);
    }
    close(pipes[1]);
    return (struct child){.pid = pid, .says = pipes[0]};
}

static void wait_for_step(const struct child *child)
{
    char byte;
    assert_int_equal(read(child->says, &byte, 1), 1);
}

static void assert_ends(struct child *child, int code)
{
    int status;
    assert_int_equal(waitpid(child->pid, &status, 0), child->pid);
    close(child->says);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), code);
}

static void hang(void)
{
    for (;;)
        pause();
}

static void open_only(int64_t timeout_ms)
{
    if (stop_open(timeout_ms, NULL) != OK)
        _exit(7);
}

/* From the step on the parent may send its signal. */
static void open_or_die(int64_t timeout_ms)
{
    open_only(timeout_ms);
    step();
}

static void drain_well(void)
{
    open_only(NEVER_MS);
    bool before = stop_asked();
    int64_t whole = stop_drain_left_ms();
    struct pollfd fd = {.fd = stop_fd(), .events = POLLIN};
    bool quiet = poll(&fd, 1, 0) == 0;
    step();
    stop_wait();
    bool readable = poll(&fd, 1, 0) == 1 && poll(&fd, 1, 0) == 1;
    stop_wait(); /* returns again */
    bool right = !before && quiet && readable && stop_asked() && whole == NEVER_MS - 1000 &&
                 stop_drain_left_ms() <= whole && stop_drain_left_ms() > 0 && stop_exit_code() == 0;
    _exit(right ? 42 : 1);
}

/* The process must be gone by its bound, not begin to go. */
static void plan(void)
{
    static const int64_t plans[][2] = {{10000, 9000}, {3000, 2700}, {60000, 59000}, {100, 50}};
    bool right = true;
    for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i++) {
        open_only(plans[i][0]);
        right = right && stop_drain_left_ms() == plans[i][1];
    }
    _exit(right ? 42 : 1);
}

static void work_is_to_end_before_the_bound(void **state)
{
    (void)state;
    struct child child = start(plan);
    assert_ends(&child, 42);
}

static void first_signal_asks_for_a_drain(void **state)
{
    (void)state;
    static const int signals[] = {SIGTERM, SIGINT};
    for (size_t i = 0; i < 2; i++) {
        struct child child = start(drain_well);
        wait_for_step(&child);
        kill(child.pid, signals[i]);
        assert_ends(&child, 42);
    }
}

static void drain_for_ever(void)
{
    open_or_die(NEVER_MS);
    stop_wait();
    step();
    hang();
}

static void second_signal_ends_the_process_at_once_with_143(void **state)
{
    (void)state;
    struct child child = start(drain_for_ever);
    wait_for_step(&child);
    kill(child.pid, SIGTERM);
    wait_for_step(&child);
    kill(child.pid, SIGTERM);
    assert_ends(&child, 143);
}

static void drain_too_long(void)
{
    open_or_die(1);
    stop_wait();
    hang();
}

static void drain_past_its_bound_ends_by_itself_with_0(void **state)
{
    (void)state;
    struct child child = start(drain_too_long);
    wait_for_step(&child);
    kill(child.pid, SIGTERM);
    assert_ends(&child, 0);
}

static void fail_and_hang(void)
{
    open_or_die(1);
    stop_fail(70);
    stop_fail(69);
    hang();
}

static void overdue_drain_of_a_process_that_cannot_go_on_ends_with_its_code(void **state)
{
    (void)state;
    struct child child = start(fail_and_hang);
    assert_ends(&child, 70);
}

static void *ask(void *unused)
{
    stop_ask();
    return unused;
}

static void ask_inside(void)
{
    open_or_die(NEVER_MS);
    pthread_t thread;
    if (pthread_create(&thread, NULL, ask, NULL) != 0)
        _exit(6);
    stop_wait();
    pthread_join(thread, NULL);
    step();
    stop_ask();
    /* the first signal comes while a drain runs already: it asks for what is being done, and no more */
    hang();
}

static void first_signal_does_not_cut_a_drain_that_was_asked_for_inside(void **state)
{
    (void)state;
    struct child child = start(ask_inside);
    wait_for_step(&child);
    wait_for_step(&child);
    kill(child.pid, SIGTERM);
    kill(child.pid, SIGINT);
    assert_ends(&child, 143);
}

static void ignore_pipes(void)
{
    open_or_die(NEVER_MS);
    int pipes[2];
    if (pipe(pipes) != 0)
        _exit(5);
    close(pipes[0]);
    _exit(write(pipes[1], "x", 1) == -1 ? 42 : 1);
}

static void broken_pipe_does_not_end_the_process(void **state)
{
    (void)state;
    struct child child = start(ignore_pipes);
    wait_for_step(&child);
    assert_ends(&child, 42);
}

static void ask_before_open(void)
{
    if (stop_asked())
        _exit(1);
    stop_ask();
    struct pollfd fd = {.fd = stop_fd(), .events = POLLIN};
    if (!stop_asked() || poll(&fd, 1, 0) != 1)
        _exit(2);
    open_or_die(NEVER_MS);
    stop_wait();
    _exit(42);
}

static void drain_asked_for_before_the_signals_are_open_holds(void **state)
{
    (void)state;
    struct child child = start(ask_before_open);
    assert_ends(&child, 42);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(work_is_to_end_before_the_bound),
        cmocka_unit_test(first_signal_asks_for_a_drain),
        cmocka_unit_test(second_signal_ends_the_process_at_once_with_143),
        cmocka_unit_test(drain_past_its_bound_ends_by_itself_with_0),
        cmocka_unit_test(overdue_drain_of_a_process_that_cannot_go_on_ends_with_its_code),
        cmocka_unit_test(first_signal_does_not_cut_a_drain_that_was_asked_for_inside),
        cmocka_unit_test(broken_pipe_does_not_end_the_process),
        cmocka_unit_test(drain_asked_for_before_the_signals_are_open_holds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
