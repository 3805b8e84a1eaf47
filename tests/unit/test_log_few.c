#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/log_few.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define SECOND INT64_C(1000000)

static char written[1 << 20];
static struct log_few few;

/* What closing or summing writes on stderr. */
static const char *said(void (*say)(struct log_few *, int64_t), int64_t now_us)
{
    fflush(stderr);
    int true_stderr = dup(STDERR_FILENO), caught = memfd_create("log", MFD_CLOEXEC);
    dup2(caught, STDERR_FILENO);
    say(&few, now_us);
    dup2(true_stderr, STDERR_FILENO);
    ssize_t length = pread(caught, written, sizeof(written) - 1, 0);
    close(true_stderr);
    close(caught);
    assert_true(length >= 0);
    written[length] = '\0';
    return written;
}

static size_t lines(const char *text)
{
    size_t count = 0;
    while ((text = strchr(text, '\n')))
        count++, text++;
    return count;
}

static int may(const char *cause, int count, int64_t now_us)
{
    int allowed = 0;
    for (int i = 0; i < count; i++)
        allowed += log_few_may(&few, text_of(cause), now_us);
    return allowed;
}

static int setup(void **state)
{
    (void)state;
    log_open("test", LOG_INFO, "json");
    log_few_open(&few, LOG_WARN, "dlq", "more of the same");
    return 0;
}

static void first_few_of_each_cause_are_written_and_the_rest_is_counted(void **state)
{
    (void)state;
    assert_int_equal(may("orders/framing", 10000, SECOND), LOG_FEW_LINES_MAX);
    assert_int_equal(may("payments/framing", 3, SECOND), 3);
    assert_int_equal(lines(said(log_few_sum, 2 * SECOND)), 0); /* not yet */
    assert_int_equal(lines(said(log_few_sum, 11 * SECOND)), 1);
    assert_non_null(strstr(written, "\"message\":\"more of the same\""));
    assert_non_null(strstr(written, "\"cause\":\"orders/framing\""));
    assert_non_null(strstr(written, "\"left_out\":9995"));
    assert_non_null(strstr(written, "\"in_ms\":10000"));
    assert_int_equal(lines(said(log_few_sum, 30 * SECOND)), 0); /* told once */
}

static void a_new_minute_has_a_few_again(void **state)
{
    (void)state;
    assert_int_equal(may("c", 100, SECOND), LOG_FEW_LINES_MAX);
    assert_int_equal(may("c", 100, 60 * SECOND), 0);
    assert_int_equal(may("c", 100, 61 * SECOND), LOG_FEW_LINES_MAX);
    assert_int_equal(lines(said(log_few_close, 61 * SECOND)), 1);
    assert_non_null(strstr(written, "\"left_out\":290"));
    assert_int_equal(lines(said(log_few_close, 61 * SECOND)), 0);
}

static void more_causes_than_there_is_room_for_lose_no_count(void **state)
{
    (void)state;
    char name[32];
    int64_t allowed = 0;
    for (int i = 0; i < 10 * LOG_FEW_CAUSES_MAX; i++) {
        snprintf(name, sizeof(name), "cause %d", i);
        allowed += may(name, 2 * LOG_FEW_LINES_MAX, SECOND + i);
    }
    assert_true(allowed <= LOG_FEW_CAUSES_MAX * LOG_FEW_LINES_MAX);
    const char *rest = said(log_few_close, 20 * SECOND);
    assert_true(lines(rest) <= LOG_FEW_CAUSES_MAX);
    int64_t left_out = 0;
    while ((rest = strstr(rest, "\"left_out\":")))
        left_out += atoi(rest += strlen("\"left_out\":"));
    assert_int_equal(allowed + left_out, 10 * LOG_FEW_CAUSES_MAX * 2 * LOG_FEW_LINES_MAX);
}

static void a_quiet_cause_makes_room(void **state)
{
    (void)state;
    char name[32];
    for (int i = 0; i < LOG_FEW_CAUSES_MAX; i++) {
        snprintf(name, sizeof(name), "cause %d", i);
        assert_int_equal(may(name, 1, SECOND + i), 1);
    }
    assert_int_equal(may("new", 2 * LOG_FEW_LINES_MAX, 2 * SECOND), LOG_FEW_LINES_MAX);
    assert_int_equal(may("cause 63", LOG_FEW_LINES_MAX, 2 * SECOND), LOG_FEW_LINES_MAX - 1); /* still known */
    assert_int_equal(may("cause 0", 1, 2 * SECOND), 1);
}

static void a_long_cause_is_cut_between_characters(void **state)
{
    (void)state;
    char name[3 * LOG_FEW_NAME_BYTES_MAX + 1] = "x";
    for (size_t at = 1; at + 2 < sizeof(name); at += 2)
        memcpy(name + at, "\xc3\xa9", 3);
    assert_int_equal(may(name, 2 * LOG_FEW_LINES_MAX, SECOND), LOG_FEW_LINES_MAX);
    assert_true(text_is_utf8(text_of(said(log_few_close, 2 * SECOND))));
    assert_int_equal(may("", 1, SECOND), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(first_few_of_each_cause_are_written_and_the_rest_is_counted, setup),
        cmocka_unit_test_setup(a_new_minute_has_a_few_again, setup),
        cmocka_unit_test_setup(more_causes_than_there_is_room_for_lose_no_count, setup),
        cmocka_unit_test_setup(a_quiet_cause_makes_room, setup),
        cmocka_unit_test_setup(a_long_cause_is_cut_between_characters, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
