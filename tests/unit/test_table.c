/* weir up, off a terminal: what is written to a log. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "weir/table.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define SECOND INT64_C(1000000)

static char written[1 << 16];
static struct table table;
static struct pulse_counts counts;

/* The page of every service. */
enum outcome ask_http(struct ask *ask, const char *method, const char *url, struct text json, int timeout_ms,
                      int *ret_status, struct text *ret_body, struct error *error)
{
    (void)ask, (void)method, (void)url, (void)json, (void)timeout_ms, (void)error;
    *ret_status = 200;
    *ret_body = TEXT("weir_events_total{topic=\"orders\",outcome=\"ok\"} 7\n");
    return OK;
}

static size_t lines_drawn(void)
{
    fflush(stdout);
    int true_stdout = dup(STDOUT_FILENO), caught = memfd_create("out", MFD_CLOEXEC);
    dup2(caught, STDOUT_FILENO);
    table_ask(&table, NULL);
    table_draw(&table, &counts);
    dup2(true_stdout, STDOUT_FILENO);
    ssize_t length = pread(caught, written, sizeof(written) - 1, 0);
    close(true_stdout);
    close(caught);
    assert_true(length >= 0);
    written[length] = '\0';
    size_t count = 0;
    for (const char *at = written; (at = strchr(at, '\n')); at++)
        count++;
    return count;
}

static void off_a_terminal_a_line_is_printed_where_it_says_something_new(void **state)
{
    (void)state;
    int64_t begun_us = clock_wall_us();
    clock_hold(begun_us);
    table = (struct table){
        .services = {{.name = "order", .port = 1}}, .count = 1, .begun_us = clock_monotonic_us()};
    counts = (struct pulse_counts){.placed = 1, .p50_us = -1, .p99_us = -1};
    assert_int_equal(lines_drawn(), 1);
    assert_non_null(strstr(written, "accepted 1"));
    size_t lines = 0;
    for (int i = 0; i < 11; i++) { /* 55 s of nothing */
        clock_advance(5 * SECOND);
        lines += lines_drawn();
    }
    assert_int_equal(lines, 0);
    clock_advance(5 * SECOND);
    assert_int_equal(lines_drawn(), 1); /* it still runs */
    clock_advance(5 * SECOND);
    assert_int_equal(lines_drawn(), 0);
    counts.placed = 2;
    clock_advance(5 * SECOND);
    assert_int_equal(lines_drawn(), 1);
    assert_non_null(strstr(written, "accepted 2"));
    clock_release();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(off_a_terminal_a_line_is_printed_where_it_says_something_new),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
