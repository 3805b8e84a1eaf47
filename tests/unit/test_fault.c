#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

/* The fault points are compiled into this test whatever the build; the library's own are then not linked. */
#ifndef WEIR_FAULTS
#define WEIR_FAULTS
#endif
#include "base/fault.c" /* NOLINT */

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

static int ended(pid_t child)
{
    int status;
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

/* In a child, because the environment is read once: passes the point so often, then exits with how many
 * times it was told to fail. */
static int run(const char *value, enum fault_point point, int times)
{
    pid_t child = fork();
    if (child == 0) {
        struct rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        signal(SIGABRT, SIG_DFL);
        int quiet = open("/dev/null", O_WRONLY);
        dup2(quiet, STDERR_FILENO);
        if (value)
            setenv("WEIR_FAULT", value, 1);
        else
            unsetenv("WEIR_FAULT");
        int failed = 0;
        for (int i = 0; i < times; i++) {
            FAULT(accept_after_commit); /* another one, which does not count */
            failed += fault_fails(point);
        }
        _exit(failed);
    }
    return ended(child);
}

static void assert_exited(int status, int code)
{
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), code);
}

static void nothing_happens_unless_armed(void **state)
{
    (void)state;
    assert_exited(run(NULL, FAULT_relay_after_ack, 3), 0);
    assert_exited(run("", FAULT_relay_after_ack, 3), 0);
    assert_exited(run("relay_before_send", FAULT_relay_after_ack, 3), 0);
}

static void armed_point_ends_the_process_at_its_nth_pass(void **state)
{
    (void)state;
    assert_exited(run("relay_after_ack", FAULT_relay_after_ack, 1), FAULT_EXIT_CODE);
    assert_exited(run("relay_after_ack:3", FAULT_relay_after_ack, 3), FAULT_EXIT_CODE);
    assert_exited(run("relay_after_ack:4", FAULT_relay_after_ack, 3), 0);
    assert_exited(run("relay_after_ack:2:exit", FAULT_relay_after_ack, 2), FAULT_EXIT_CODE);
}

static void armed_point_can_abort_or_fail_once(void **state)
{
    (void)state;
    int status = run("relay_after_ack:abort", FAULT_relay_after_ack, 1);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_exited(run("relay_after_ack:2:fail", FAULT_relay_after_ack, 5), 1);
    assert_exited(run("relay_after_ack:fail", FAULT_relay_after_ack, 5), 1);
}

static void slip_of_the_pen_is_no_silent_pass(void **state)
{
    (void)state;
    static const char *const cases[] = {"relay_after_acc",          "relay_after_ack:0",
                                        "relay_after_ack:-1",       "relay_after_ack:1:die",
                                        "relay_after_ack:1:exit:2", ":1",
                                        "relay_after_ack:x"};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_exited(run(cases[i], FAULT_relay_after_ack, 1), EXIT_CONFIG);
}

enum { THREADS = 4, STEPS = 1000 };
static atomic_int told;

static void *pass_often(void *unused)
{
    for (int i = 0; i < STEPS; i++)
        if (FAULT_FAILS(dispatch_before_commit))
            atomic_fetch_add(&told, 1);
    return unused;
}

static void only_one_of_many_threads_is_told(void **state)
{
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        pthread_t threads[THREADS];
        setenv("WEIR_FAULT", "dispatch_before_commit:2500:fail", 1);
        for (int i = 0; i < THREADS; i++)
            pthread_create(&threads[i], NULL, pass_often, NULL);
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
        _exit(atomic_load(&told));
    }
    assert_exited(ended(child), 1);
}

static void every_point_has_a_name_and_a_place(void **state)
{
    (void)state;
    for (int i = 0; i < FAULT_COUNT; i++) {
        assert_true(strlen(fault_name((enum fault_point)i)) > 0);
        assert_true(strlen(fault_where((enum fault_point)i)) > 0);
        for (int j = 0; j < i; j++)
            assert_string_not_equal(fault_name((enum fault_point)i), fault_name((enum fault_point)j));
    }
    assert_string_equal(fault_name(FAULT_relay_after_ack), "relay_after_ack");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_happens_unless_armed),
        cmocka_unit_test(armed_point_ends_the_process_at_its_nth_pass),
        cmocka_unit_test(armed_point_can_abort_or_fail_once),
        cmocka_unit_test(slip_of_the_pen_is_no_silent_pass),
        cmocka_unit_test(only_one_of_many_threads_is_told),
        cmocka_unit_test(every_point_has_a_name_and_a_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
