#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NOON_US = 43200 };
static int true_stderr = -1, caught = -1;
static char written[4 << 20];

/* From here to catch_end() stderr is a file; nothing of the test itself may fail in between. */
static void catch_begin(void)
{
    fflush(stderr);
    true_stderr = dup(STDERR_FILENO);
    caught = memfd_create("log", MFD_CLOEXEC);
    dup2(caught, STDERR_FILENO);
}

static char *catch_end(void)
{
    dup2(true_stderr, STDERR_FILENO);
    close(true_stderr);
    ssize_t length = pread(caught, written, sizeof(written) - 1, 0);
    close(caught);
    assert_true(length >= 0);
    written[length] = '\0';
    return written;
}

static json_t *line_of(char **rest)
{
    char *end = strchr(*rest, '\n');
    assert_non_null(end);
    assert_true(end - *rest < LOG_LINE_BYTES_MAX);
    json_t *value = NULL;
    struct error error = {0};
    if (json_read((struct text){*rest, (size_t)(end - *rest)}, &value, &error) != OK)
        fail_msg("%s", error.text);
    *rest = end + 1;
    return value;
}

static int hold_clock(void **state)
{
    (void)state;
    /* far enough on that no station of an earlier test has anything left of its second */
    clock_hold((int64_t)NOON_US * 1000000 + 123456);
    clock_advance(10 * 1000000);
    clock_hold((int64_t)NOON_US * 1000000 + 123456);
    return 0;
}

static int release_clock(void **state)
{
    (void)state;
    clock_release();
    return 0;
}

static void line_is_one_json_object_with_its_members_in_order(void **state)
{
    (void)state;
    log_open("order", LOG_INFO, "json");
    catch_begin();
    log_info("relay", "caught \"up\"\n", LOG_INT("rows", -7), LOG_TEXT("key", TEXT("a\0b")),
             LOG_STRING("reason", "x"), LOG_STRING("absent", NULL), LOG_TEXT("empty", TEXT("")),
             LOG_TEXT("none", ((struct text){NULL, 0})), LOG_STRING("blank", ""));
    char *log = catch_end();
    assert_string_equal(
        log, "{\"timestamp\":\"1970-01-01T12:00:00.123456Z\",\"level\":\"info\","
             "\"message\":\"caught \\\"up\\\"\\n\",\"service.name\":\"order\",\"station\":\"relay\","
             "\"rows\":-7,\"key\":\"a\\u0000b\",\"reason\":\"x\",\"absent\":null,\"empty\":\"\","
             "\"none\":\"\",\"blank\":\"\"}\n");
    json_decref(line_of(&log));
}

static void text_line_is_for_people_and_stays_one_line(void **state)
{
    (void)state;
    log_open("order", LOG_DEBUG, "text");
    catch_begin();
    log_warn("dlq", "parked a record", LOG_INT("n", 3), LOG_STRING("class", "REJECT"),
             LOG_STRING("why", "a b=\"c\"\n"), LOG_STRING("absent", NULL), LOG_TEXT("empty", TEXT("")));
    log_debug("dispatch", "bad\n\033[31mmessage", LOG_STRING("bytes", "\xff\x1b"));
    char *log = catch_end();
    assert_string_equal(
        log, "12:00:00.123 warn  dlq       parked a record n=3 class=REJECT why=\"a b=\\\"c\\\"\\n\" "
             "absent=null empty=\"\"\n"
             "12:00:00.123 debug dispatch  \"bad\\n\\u001b[31mmessage\" bytes=\"\xef\xbf\xbd\\u001b\"\n");
}

static void levels_below_the_one_that_is_set_are_silent(void **state)
{
    (void)state;
    log_open("order", LOG_WARN, "text");
    catch_begin();
    log_info("relay", "not this", LOG_INT("n", 1));
    log_error("relay", "this", LOG_INT("n", 1));
    char *log = catch_end();
    assert_null(strstr(log, "not this"));
    assert_non_null(strstr(log, "error relay     this n=1\n"));
    enum log_level level;
    assert_true(log_level_parse(TEXT("debug"), &level));
    assert_int_equal(level, LOG_DEBUG);
    assert_true(log_level_parse(TEXT("error"), &level));
    assert_int_equal(level, LOG_ERROR);
    assert_false(log_level_parse(TEXT("INFO"), &level));
    assert_false(log_level_parse(TEXT(""), &level));
}

static void line_too_long_is_cut_and_still_json(void **state)
{
    (void)state;
    static char large[3 * LOG_LINE_BYTES_MAX + 1]; /* ends by a NUL */
    for (size_t i = 0; i + 3 < sizeof(large); i += 3)
        memcpy(large + i, "\xe2\x82\xac", 3);
    log_open("order", LOG_INFO, "json");
    for (size_t length = 3500; length < 4500; length += 7) {
        clock_advance(1000000);
        catch_begin();
        log_info("cut", "long", LOG_TEXT("value", ((struct text){large, length})), LOG_INT("after", 1));
        char *log = catch_end();
        json_t *line = line_of(&log);
        assert_string_equal(log, "");
        bool whole = json_text(line, "value").length + 2 >= length && json_object_get(line, "after");
        assert_int_equal(json_is_true(json_object_get(line, "truncated")), !whole);
        json_decref(line);
    }
    struct log_field many[LOG_FIELDS_MAX + 1];
    for (size_t i = 0; i < LOG_FIELDS_MAX + 1; i++)
        many[i] = LOG_TEXT("field", ((struct text){large, 600}));
    catch_begin();
    log_write(LOG_INFO, "cut", "many", many, 1);
    log_write(LOG_INFO, "cut", large, many, 0);
    char *log = catch_end();
    json_decref(line_of(&log));
    json_decref(line_of(&log));
    assert_string_equal(log, "");
    log_open("order", LOG_INFO, "text");
    catch_begin();
    log_write(LOG_INFO, "cut", large, many, LOG_FIELDS_MAX + 1);
    log = catch_end();
    assert_true(strlen(log) <= LOG_LINE_BYTES_MAX);
    assert_non_null(strstr(log, " truncated=true\n"));
}

static size_t lines_with(const char *log, const char *part)
{
    size_t count = 0;
    for (const char *at = log; (at = strstr(at, part)) != NULL; at++)
        count++;
    return count;
}

static void flood_of_one_station_is_counted_and_said_and_others_are_heard(void **state)
{
    (void)state;
    log_open("order", LOG_INFO, "json");
    catch_begin();
    for (int i = 0; i < LOG_LINES_PER_SECOND_MAX + 50; i++)
        log_warn("flood", "again", LOG_INT("i", i));
    log_info("other", "heard", LOG_INT("n", 1));
    clock_advance(1000000);
    log_info("other", "next second", LOG_INT("n", 1));
    log_warn("flood", "again", LOG_INT("i", 1000));
    clock_advance(1000000);
    log_info("other", "quiet", LOG_INT("n", 1));
    char *log = catch_end();
    assert_int_equal(lines_with(log, "\"again\""), LOG_LINES_PER_SECOND_MAX + 1);
    assert_int_equal(lines_with(log, "\"heard\""), 1);
    assert_int_equal(
        lines_with(
            log,
            "\"message\":\"lines held back\",\"service.name\":\"order\",\"station\":\"flood\",\"lines\":50}"),
        1);
    assert_int_equal(lines_with(log, "lines held back"), 1);
}

enum { THREADS = 4 };

static void *chat(void *station)
{
    for (int i = 0; i < LOG_LINES_PER_SECOND_MAX; i++)
        log_info(station, "a line of some length, so that two of them could be torn", LOG_INT("i", i));
    return NULL;
}

static void lines_of_threads_are_not_mixed(void **state)
{
    (void)state;
    static char *const stations[THREADS] = {"one", "two", "three", "four"};
    pthread_t threads[THREADS];
    int failed = 0;
    log_open("order", LOG_INFO, "json");
    catch_begin();
    for (int i = 0; i < THREADS; i++)
        failed |= pthread_create(&threads[i], NULL, chat, stations[i]);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    char *log = catch_end();
    assert_int_equal(failed, 0);
    for (int i = 0; i < THREADS * LOG_LINES_PER_SECOND_MAX; i++)
        json_decref(line_of(&log));
    assert_string_equal(log, "");
}

static void colour_is_for_terminals_only(void **state)
{
    (void)state;
    int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    if (terminal < 0 || grantpt(terminal) || unlockpt(terminal))
        skip();
    int side = open(ptsname(terminal), O_RDWR | O_NOCTTY);
    assert_true(side >= 0);
    for (int no_color = 0; no_color < 2; no_color++) {
        if (no_color)
            setenv("NO_COLOR", "1", 1);
        else
            unsetenv("NO_COLOR");
        setenv("TERM", "xterm", 1);
        catch_begin();
        dup2(side, STDERR_FILENO);
        log_open("order", LOG_INFO, NULL);
        log_error("relay", "seen", LOG_INT("n", 1));
        catch_end();
        char line[256];
        ssize_t length = read(terminal, line, sizeof(line) - 1);
        assert_true(length > 0);
        line[length] = '\0';
        assert_non_null(strstr(line, "relay     seen n=1")); /* text, because it is a terminal */
        assert_int_equal(strstr(line, "\033[31merror\033[0m") != NULL, !no_color);
    }
    unsetenv("NO_COLOR");
    close(side);
    close(terminal);
    catch_begin();
    log_open("order", LOG_INFO, NULL);
    log_error("relay", "elsewhere", LOG_INT("n", 1));
    char *log = catch_end();
    json_decref(line_of(&log));
}

static void journal_is_told_the_priority_and_nobody_else(void **state)
{
    (void)state;
    struct stat stat;
    char stream[64];
    catch_begin();
    assert_int_equal(fstat(STDERR_FILENO, &stat), 0);
    snprintf(stream, sizeof(stream), "%ju:%ju", (uintmax_t)stat.st_dev, (uintmax_t)stat.st_ino);
    setenv("JOURNAL_STREAM", stream, 1);
    log_open("order", LOG_DEBUG, "text");
    log_debug("relay", "a", LOG_INT("n", 1));
    log_info("relay", "b", LOG_INT("n", 1));
    log_warn("relay", "c", LOG_INT("n", 1));
    log_error("relay", "d", LOG_INT("n", 1));
    log_open("order", LOG_DEBUG, "json");
    log_error("relay", "e", LOG_INT("n", 1));
    setenv("JOURNAL_STREAM", "8:1", 1); /* stderr was sent elsewhere */
    log_open("order", LOG_DEBUG, "text");
    log_error("relay", "f", LOG_INT("n", 1));
    char *log = catch_end();
    unsetenv("JOURNAL_STREAM");
    assert_string_equal(log, "<7>12:00:00.123 debug relay     a n=1\n"
                             "<6>12:00:00.123 info  relay     b n=1\n"
                             "<4>12:00:00.123 warn  relay     c n=1\n"
                             "<3>12:00:00.123 error relay     d n=1\n"
                             "<3>{\"timestamp\":\"1970-01-01T12:00:00.123456Z\",\"level\":\"error\","
                             "\"message\":\"e\",\"service.name\":\"order\",\"station\":\"relay\",\"n\":1}\n"
                             "12:00:00.123 error relay     f n=1\n");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, hold_clock, release_clock)
    const struct CMUnitTest tests[] = {
        TEST(line_is_one_json_object_with_its_members_in_order),
        TEST(text_line_is_for_people_and_stays_one_line),
        TEST(levels_below_the_one_that_is_set_are_silent),
        TEST(line_too_long_is_cut_and_still_json),
        TEST(flood_of_one_station_is_counted_and_said_and_others_are_heard),
        TEST(lines_of_threads_are_not_mixed),
        TEST(colour_is_for_terminals_only),
        TEST(journal_is_told_the_priority_and_nobody_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
