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

/* As wide as on a terminal: colours and movements take no column, a character of UTF-8 takes one. */
static size_t columns_of_widest_line(const char *text)
{
    size_t columns = 0, widest = 0;
    for (; *text; text++) {
        if (*text == '\033') {
            while (*text && !strchr("mKAhl", *text))
                text++;
            continue;
        }
        columns = *text == '\n' ? 0 : columns + (((unsigned char)*text & 0xc0) != 0x80);
        widest = columns > widest ? columns : widest;
    }
    return widest;
}

/* A line that wraps is two, and the next table would be drawn one too low, each second. */
static void on_a_terminal_no_line_is_wider_than_80_columns(void **state)
{
    (void)state;
    table = (struct table){.services = {{.name = "inventory", .port = 1}, {.name = "analytics", .port = 2}},
                           .count = 2,
                           .terminal = true};
    counts = (struct pulse_counts){.placed = 1234567,
                                   .confirmed = 1234567,
                                   .rejected = 123456,
                                   .cancelled = 12345,
                                   .open = 123456,
                                   .stuck = 1234,
                                   .mails_sent = 12345678,
                                   .mails_failed = 12345,
                                   .p50_us = 1234567,
                                   .p99_us = 12345678};
    size_t lines = lines_drawn();
    assert_in_range(columns_of_widest_line(written), 40, 80);
    assert_int_equal(table.lines_drawn, lines);
    assert_non_null(strstr(written, "1234567"));
    assert_non_null(strstr(written, "12345678"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(off_a_terminal_a_line_is_printed_where_it_says_something_new),
        cmocka_unit_test(on_a_terminal_no_line_is_wider_than_80_columns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
