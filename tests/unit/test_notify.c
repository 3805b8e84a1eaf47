#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/notify.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int listener(const char *name)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    size_t length = strlen(name);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    memcpy(at.sun_path, name, length);
    if (name[0] == '@')
        at.sun_path[0] = '\0';
    assert_true(fd >= 0);
    assert_int_equal(
        bind(fd, (const void *)&at, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)), 0);
    return fd;
}

static void expect_said(int fd, const char *text)
{
    char bytes[512] = "";
    ssize_t got = recv(fd, bytes, sizeof(bytes) - 1, 0);
    if (!text) {
        assert_int_equal(got, -1);
        return;
    }
    assert_int_equal(got, (ssize_t)strlen(text));
    assert_string_equal(bytes, text);
}

static void state_goes_to_the_socket_that_was_named(void **state)
{
    (void)state;
    char folder[] = "/tmp/weir-notify-XXXXXX", path[64], abstract[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/s", folder);
    snprintf(abstract, sizeof(abstract), "@weir-notify-%d", (int)getpid());
    int file = listener(path), hidden = listener(abstract);

    setenv("NOTIFY_SOCKET", path, 1);
    notify_tell("READY=1");
    expect_said(file, "READY=1");
    setenv("NOTIFY_SOCKET", abstract, 1);
    notify_tell("STOPPING=1");
    expect_said(hidden, "STOPPING=1");
    expect_said(file, NULL);

    close(file);
    close(hidden);
    unlink(path);
    rmdir(folder);
}

static void status_is_one_line_and_cut_between_characters(void **state)
{
    (void)state;
    char name[64], text[2 * NOTIFY_TEXT_BYTES_MAX], expected[NOTIFY_TEXT_BYTES_MAX];
    snprintf(name, sizeof(name), "@weir-status-%d", (int)getpid());
    int fd = listener(name);
    setenv("NOTIFY_SOCKET", name, 1);
    notify_status("not ready: no\nWATCHDOG=1");
    expect_said(fd, "STATUS=not ready: no WATCHDOG=1");
    for (size_t lead = 0; lead < 3; lead++) { /* then characters of three bytes, past the end */
        size_t length = lead, fits = (sizeof(expected) - 1 - strlen("STATUS=") - lead) / 3 * 3;
        memset(text, 'a', lead);
        for (; length + 4 < sizeof(text); length += 3)
            memcpy(text + length, "\xe2\x82\xac", 4);
        notify_status(text);
        snprintf(expected, sizeof(expected), "STATUS=%.*s", (int)(lead + fits), text);
        expect_said(fd, expected);
    }
    unsetenv("NOTIFY_SOCKET");
    close(fd);
}

static void nobody_to_tell_is_no_trouble(void **state)
{
    (void)state;
    char long_path[300];
    memset(long_path, 'a', sizeof(long_path) - 1);
    long_path[0] = '/';
    long_path[sizeof(long_path) - 1] = '\0';
    const char *const paths[] = {"", "/", "relative", "/no/such/socket", long_path};
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        setenv("NOTIFY_SOCKET", paths[i], 1);
        notify_tell("READY=1");
    }
    unsetenv("NOTIFY_SOCKET");
    notify_tell("READY=1");
}

static void watchdog_is_owed_twice_as_often_as_it_is_looked_for(void **state)
{
    (void)state;
    char pid[32];
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
    assert_int_equal(notify_watchdog_ms(), 0);
    setenv("WATCHDOG_USEC", "120000000", 1);
    assert_int_equal(notify_watchdog_ms(), 60000);
    setenv("WATCHDOG_USEC", "1", 1);
    assert_int_equal(notify_watchdog_ms(), 1);
    setenv("WATCHDOG_USEC", "120000000", 1);
    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    setenv("WATCHDOG_PID", pid, 1);
    assert_int_equal(notify_watchdog_ms(), 60000);
    setenv("WATCHDOG_PID", "1", 1);
    assert_int_equal(notify_watchdog_ms(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(state_goes_to_the_socket_that_was_named),
        cmocka_unit_test(status_is_one_line_and_cut_between_characters),
        cmocka_unit_test(nobody_to_tell_is_no_trouble),
        cmocka_unit_test(watchdog_is_owed_twice_as_often_as_it_is_looked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
