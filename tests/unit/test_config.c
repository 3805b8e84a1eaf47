#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct setting common[] = {
    {"KAFKA_BOOTSTRAP_SERVERS", SETTING_SERVERS, "localhost:9092", 0, 0, NULL, "Brokers to start from."},
    {"EMAIL_FROM", SETTING_TEXT, "orders@weir.example", 0, 0, NULL, "Who writes."},
    {"GATEWAY_URL", SETTING_URL, "http://localhost:1", 0, 0, NULL, "Who pays."},
    {"DATABASE_URL", SETTING_URL, NULL, 0, 0, "sqlite|postgresql", "Where the rows are."},
    {"WEBHOOK_SECRET", SETTING_SECRET, NULL, 0, 0, NULL, "Signs webhooks."},
    {"EMAIL_CONCURRENCY", SETTING_INT, "8", 1, 1000, NULL, "Calls in flight."},
    {"DRAIN_TIMEOUT", SETTING_DURATION, "10s", 100, 600000, NULL, "Bound of a drain."},
    {"FINISHED_AGE", SETTING_DURATION, "90d", INT64_C(30) * 86400000, INT64_C(3650) * 86400000, "0", "Kept."},
    {"RETRY_DELAYS", SETTING_DURATIONS, "2s,4s,8s", 0, 0, NULL, "Delays of retries."},
    {"QUEUE_BYTES", SETTING_BYTES, "64k", 0, 0, NULL, "Memory for records."},
    {"EMAIL_RATE", SETTING_RATE, "100/min", 0, 0, NULL, "Attempts."},
    {"ACCESS_LOG", SETTING_BOOL, "false", 0, 0, NULL, "Logs each request."},
    {"EMAIL_AMBIGUOUS", SETTING_CHOICE, "resend", 0, 0, "resend|park", "What to do."},
    {"HTTP_LISTEN", SETTING_LISTEN, "127.0.0.1:8080", 0, 0, NULL, "Where to listen."},
    {"WEIR_STATE", SETTING_TEXT, NULL, 0, 0, NULL, "Folder."},
    SETTINGS_END,
};
static const struct setting own[] = {
    {"HTTP_LISTEN", SETTING_LISTEN, "127.0.0.1:8082", 0, 0, NULL, "Where to listen."},
    SETTINGS_END,
};
static const struct setting *const tables[] = {own, NULL, common};
enum { TABLES = 3 };

/* Reads; words end with NULL. "--" alone says nothing. */
static enum outcome read_words(struct config **ret, struct error *error, ...)
{
    char *argv[16];
    int argc = 0;
    va_list words;
    va_start(words, error);
    for (char *word; (word = va_arg(words, char *)) != NULL;)
        argv[argc++] = word;
    va_end(words);
    /* positional words are kept, not copied: all here are literals */
    return config_read(tables, TABLES, argc, argv, ret, error);
}
#define READ(config, error, ...) read_words((config), (error), __VA_ARGS__, (char *)NULL)

static void assert_refused(enum outcome outcome, const struct error *error, int exit_code, const char *part,
                           const char *other_part)
{
    assert_int_equal(outcome, REJECT);
    if (!strstr(error->text, part) || !strstr(error->text, other_part))
        fail_msg("\"%s\" says neither \"%s\" nor \"%s\"", error->text, part, other_part);
    assert_int_equal(error_exit_code(error), exit_code);
}
#define REFUSED(exit_code, part, other_part, ...)                                                            \
    do {                                                                                                     \
        struct config *none = NULL;                                                                          \
        struct error why = {0};                                                                              \
        enum outcome got = READ(&none, &why, __VA_ARGS__);                                                   \
        assert_refused(got, &why, (exit_code), (part), (other_part));                                        \
        assert_null(none);                                                                                   \
    } while (0)

static struct config *read_well(enum outcome outcome, struct config *config, const struct error *error)
{
    if (outcome != OK)
        fail_msg("%s", error->text);
    return config;
}
#define READ_WELL(config, ...)                                                                               \
    do {                                                                                                     \
        struct error why = {0};                                                                              \
        enum outcome got = READ(&(config), &why, __VA_ARGS__);                                               \
        (config) = read_well(got, (config), &why);                                                           \
    } while (0)

/* A file that goes with the test; path is valid until the next. */
static char temporary[] = BINARY_DIR "/test-config-XXXXXX";
static const char *file_of(const char *content)
{
    memcpy(temporary + sizeof(temporary) - 7, "XXXXXX", 6);
    int fd = mkstemp(temporary);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, content, strlen(content)), (ssize_t)strlen(content));
    close(fd);
    return temporary;
}

static int clear_environment(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(common) / sizeof(common[0]) - 1; i++) {
        char name[80];
        unsetenv(common[i].name);
        snprintf(name, sizeof(name), "%s_FILE", common[i].name);
        unsetenv(name);
    }
    unsetenv("WEIR_FAULT");
    unsetenv("WEIR_LOG_LEVEL");
    unsetenv("WEIR_STAET");
    unsetenv("KAFKA_PROPERTIES");
    return 0;
}

static void defaults_stand_where_nobody_said_anything(void **state)
{
    (void)state;
    struct config *config = NULL;
    READ_WELL(config, "--");
    assert_string_equal(config_text(config, "KAFKA_BOOTSTRAP_SERVERS"), "localhost:9092");
    assert_null(config_text(config, "DATABASE_URL"));
    assert_int_equal(config_int(config, "EMAIL_CONCURRENCY"), 8);
    assert_int_equal(config_int(config, "EMAIL_RATE"), 6000);
    assert_int_equal(config_int(config, "QUEUE_BYTES"), 65536);
    assert_int_equal(config_ms(config, "DRAIN_TIMEOUT"), 10000);
    assert_false(config_bool(config, "ACCESS_LOG"));
    int64_t delays[4] = {0};
    assert_int_equal(config_durations_ms(config, "RETRY_DELAYS", delays, 4), 3);
    assert_int_equal(delays[0], 2000);
    assert_int_equal(delays[2], 8000);
    assert_int_equal(config_durations_ms(config, "RETRY_DELAYS", delays, 2), 2);
    assert_false(config_is_set(config, "EMAIL_CONCURRENCY"));
    config_destroy(config);
}

static void earlier_table_hides_a_later_row_of_the_same_name(void **state)
{
    (void)state;
    struct config *config = NULL;
    READ_WELL(config, "--");
    assert_string_equal(config_text(config, "HTTP_LISTEN"), "127.0.0.1:8082");
    config_destroy(config);
}

static void flag_wins_over_environment_over_file(void **state)
{
    (void)state;
    const char *path = file_of("# a comment\n\n; another\n"
                               "email.concurrency = 11\r\n"
                               "  drain.timeout=30s\n"
                               "kafka.bootstrap.servers = file:1\n");
    setenv("DRAIN_TIMEOUT", "20s", 1);
    setenv("KAFKA_BOOTSTRAP_SERVERS", "environment:1", 1);
    struct config *config = NULL;
    READ_WELL(config, "--kafka-bootstrap-servers", "flag:1", "--config", path);
    assert_int_equal(config_int(config, "EMAIL_CONCURRENCY"), 11);
    assert_int_equal(config_ms(config, "DRAIN_TIMEOUT"), 20000);
    assert_string_equal(config_text(config, "KAFKA_BOOTSTRAP_SERVERS"), "flag:1");
    assert_true(config_is_set(config, "EMAIL_CONCURRENCY"));

    struct buffer shown = buffer_of(1 << 16);
    config_show(config, &shown);
    buffer_add_char(&shown, '\0');
    char expected[128];
    snprintf(expected, sizeof(expected), "# file %s:4\n", path);
    assert_non_null(strstr(shown.at, expected));
    assert_non_null(strstr(shown.at, "KAFKA_BOOTSTRAP_SERVERS=flag:1"));
    assert_non_null(strstr(shown.at, "# environment\n"));
    assert_non_null(strstr(shown.at, "DRAIN_TIMEOUT=20s "));
    assert_non_null(strstr(shown.at, "# not set\n"));
    assert_non_null(strstr(shown.at, "# default\n"));
    buffer_free(&shown);
    config_destroy(config);
    unlink(path);
}

static void flag_has_all_its_forms(void **state)
{
    (void)state;
    struct config *config = NULL;
    READ_WELL(config, "--email-concurrency=9", "--access-log", "--drain-timeout", "250ms", "word", "--",
              "--help", "-x");
    assert_int_equal(config_int(config, "EMAIL_CONCURRENCY"), 9);
    assert_int_equal(config_ms(config, "DRAIN_TIMEOUT"), 250);
    assert_true(config_bool(config, "ACCESS_LOG"));
    assert_false(config_asked_help(config));
    assert_int_equal(config_positional_count(config), 3);
    assert_string_equal(config_positional(config, 0), "word");
    assert_string_equal(config_positional(config, 1), "--help");
    assert_string_equal(config_positional(config, 2), "-x");
    config_destroy(config);

    READ_WELL(config, "--access-log", "--no-access-log", "-");
    assert_false(config_bool(config, "ACCESS_LOG"));
    assert_true(config_is_set(config, "ACCESS_LOG"));
    assert_string_equal(config_positional(config, 0), "-");
    config_destroy(config);

    READ_WELL(config, "--access-log=on", "--email-concurrency", "9", "--email-concurrency", "10");
    assert_true(config_bool(config, "ACCESS_LOG"));
    assert_int_equal(config_int(config, "EMAIL_CONCURRENCY"), 10);
    config_destroy(config);
}

static void unknown_flag_is_usage_and_names_the_nearest(void **state)
{
    (void)state;
    REFUSED(EXIT_USAGE, "--kafka-bootstrap-server;", "did you mean --kafka-bootstrap-servers?",
            "--kafka-bootstrap-server", "x");
    REFUSED(EXIT_USAGE, "--email-concurency", "did you mean --email-concurrency?", "--email-concurency=3");
    REFUSED(EXIT_USAGE, "--no-acces-log", "did you mean --access-log?", "--no-acces-log");
    REFUSED(EXIT_USAGE, "--drain", "did you mean --drain-timeout?", "--drain");
    REFUSED(EXIT_USAGE, "unknown flag --zzzzzzzz", "--help", "--zzzzzzzz");
    REFUSED(EXIT_USAGE, "unknown flag -q", "-X", "-q");
    REFUSED(EXIT_USAGE, "unknown flag --no-drain-timeout", "--drain-timeout", "--no-drain-timeout");
}

static void flag_without_its_value_is_usage(void **state)
{
    (void)state;
    REFUSED(EXIT_USAGE, "--drain-timeout needs a value", "", "--drain-timeout");
    REFUSED(EXIT_USAGE, "--drain-timeout needs a value", "", "--drain-timeout", "--access-log");
    REFUSED(EXIT_USAGE, "--config needs a value", "", "--config");
    REFUSED(EXIT_USAGE, "-X needs a value", "", "-X");
}

static void bad_value_is_named_with_what_is_allowed(void **state)
{
    (void)state;
    REFUSED(EXIT_CONFIG, "EMAIL_CONCURRENCY (flag): \"0\"", "a whole number from 1 to 1000",
            "--email-concurrency=0");
    REFUSED(EXIT_CONFIG, "\"10 s\"", "a duration (250ms, 10s, 15min, 24h, 14d) from 100ms to 10min",
            "--drain-timeout", "10 s");
    REFUSED(EXIT_CONFIG, "EMAIL_AMBIGUOUS", "one of resend|park", "--email-ambiguous=resent");
    REFUSED(EXIT_CONFIG, "ACCESS_LOG", "true or false", "--access-log=maybe");
    REFUSED(EXIT_CONFIG, "EMAIL_RATE", "a rate (10/s, 100/min, 1000/h", "--email-rate=10");
    REFUSED(EXIT_CONFIG, "QUEUE_BYTES", "a size", "--queue-bytes=64kB");
    REFUSED(EXIT_CONFIG, "RETRY_DELAYS", "durations with commas", "--retry-delays=2s,,4s");
    REFUSED(EXIT_CONFIG, "HTTP_LISTEN", "port 0 to 65535", "--http-listen=:8080");
    REFUSED(EXIT_CONFIG, "DATABASE_URL", "sqlite|postgresql", "--database-url=mysql://x");
    setenv("EMAIL_CONCURRENCY", "many", 1);
    REFUSED(EXIT_CONFIG, "EMAIL_CONCURRENCY (environment): \"many\"", "a whole number", "--");
    /* also where a flag would win over it */
    REFUSED(EXIT_CONFIG, "EMAIL_CONCURRENCY (environment): \"many\"", "a whole number",
            "--email-concurrency=3");
}

static void values_of_each_kind_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *flag, *name;
        int64_t number;
    } cases[] = {
        {"--email-rate=0", "EMAIL_RATE", 0},
        {"--email-rate=5/s", "EMAIL_RATE", 18000},
        {"--email-rate=7/h", "EMAIL_RATE", 7},
        {"--queue-bytes=1M", "QUEUE_BYTES", 1048576},
        {"--queue-bytes=2G", "QUEUE_BYTES", 1LL << 31},
        {"--queue-bytes=12", "QUEUE_BYTES", 12},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct config *config = NULL;
        READ_WELL(config, cases[i].flag);
        assert_int_equal(config_int(config, cases[i].name), cases[i].number);
        config_destroy(config);
    }
    static const struct {
        const char *flag;
        int64_t ms;
    } times[] = {
        {"--drain-timeout=100ms", 100},   {"--drain-timeout=7", 7000},      {"--drain-timeout=1.5s", 1500},
        {"--drain-timeout=2min", 120000}, {"--drain-timeout=0.1h", 360000},
    };
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        struct config *config = NULL;
        READ_WELL(config, times[i].flag);
        assert_int_equal(config_ms(config, "DRAIN_TIMEOUT"), times[i].ms);
        config_destroy(config);
    }
    struct config *kept = NULL;
    READ_WELL(kept, "--finished-age=0");
    assert_int_equal(config_ms(kept, "FINISHED_AGE"), 0);
    config_destroy(kept);
    static const char *const listens[] = {"--http-listen=[::1]:8080", "--http-listen=localhost:0",
                                          "--http-listen=0.0.0.0:65535"};
    for (size_t i = 0; i < sizeof(listens) / sizeof(listens[0]); i++) {
        struct config *config = NULL;
        READ_WELL(config, listens[i]);
        assert_string_equal(config_text(config, "HTTP_LISTEN"), strchr(listens[i], '=') + 1);
        config_destroy(config);
    }
    static const char *const servers[] = {
        "--kafka-bootstrap-servers=a", "--kafka-bootstrap-servers=a:1, b:65535",
        "--kafka-bootstrap-servers=[::1]:9092,[::1]", "--kafka-bootstrap-servers=SASL_SSL://a:9092"};
    for (size_t i = 0; i < sizeof(servers) / sizeof(servers[0]); i++) {
        struct config *config = NULL;
        READ_WELL(config, servers[i]);
        assert_string_equal(config_text(config, "KAFKA_BOOTSTRAP_SERVERS"), strchr(servers[i], '=') + 1);
        config_destroy(config);
    }
    static const char *const bad[] = {
        "--http-listen=::1:80",
        "--http-listen=h:65536",
        "--http-listen=h:-1",
        "--http-listen=h:",
        "--drain-timeout=-1s",
        "--drain-timeout=1.0001s",
        "--drain-timeout=11min",
        "--drain-timeout=",
        "--drain-timeout=99999999999999999999d",
        "--queue-bytes=9999999999999999999G",
        "--email-rate=1/d",
        "--email-concurrency=0x10",
        "--email-concurrency=",
        "--database-url=sqlite:",
        "--retry-delays=1s,",
        "--kafka-bootstrap-servers=",
        "--kafka-bootstrap-servers= ",
        "--kafka-bootstrap-servers=a:9092,",
        "--kafka-bootstrap-servers=a:9092,,b:9092",
        "--kafka-bootstrap-servers=a b:9092",
        "--kafka-bootstrap-servers=a:0",
        "--kafka-bootstrap-servers=a:65536",
        "--kafka-bootstrap-servers=a:",
        "--kafka-bootstrap-servers=:9092",
        "--email-from=",
        "--gateway-url=",
        "--webhook-secret=",
        "--finished-age=29d",
        "--finished-age=3651d",
        "--http-listen=",
        "--email-ambiguous=",
        "--retry-delays=1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        REFUSED(EXIT_CONFIG, "is not", "(flag)", bad[i]);
}

static void empty_retry_delays_are_none(void **state)
{
    (void)state;
    struct config *config = NULL;
    READ_WELL(config, "--retry-delays=");
    int64_t delay;
    assert_int_equal(config_durations_ms(config, "RETRY_DELAYS", &delay, 1), 0);
    assert_true(config_is_set(config, "RETRY_DELAYS"));
    config_destroy(config);
}

static void empty_variable_is_not_set_and_empty_flag_takes_away(void **state)
{
    (void)state;
    setenv("EMAIL_CONCURRENCY", "", 1);
    setenv("DATABASE_URL", "sqlite:x.db", 1);
    struct config *config = NULL;
    READ_WELL(config, "--database-url=");
    assert_int_equal(config_int(config, "EMAIL_CONCURRENCY"), 8);
    assert_false(config_is_set(config, "EMAIL_CONCURRENCY"));
    assert_null(config_text(config, "DATABASE_URL"));
    assert_false(config_is_set(config, "DATABASE_URL"));
    config_destroy(config);
}

static void unknown_line_of_a_file_is_named_with_its_place(void **state)
{
    (void)state;
    const char *path = file_of("email.concurrency = 3\ndrain.timeuot = 3s\n");
    REFUSED(EXIT_CONFIG, ":2: unknown setting \"drain.timeuot\"", "did you mean drain.timeout?", "--config",
            path);
    unlink(path);
    path = file_of("\nEMAIL_CONCURRENCY = 3\n");
    REFUSED(EXIT_CONFIG, ":2: unknown setting", "EMAIL_CONCURRENCY", "--config", path);
    unlink(path);
    path = file_of("just words\n");
    REFUSED(EXIT_CONFIG, ":1: \"just words\"", "name = value", "--config", path);
    unlink(path);
    path = file_of("email.concurrency = -3");
    REFUSED(EXIT_CONFIG, "EMAIL_CONCURRENCY (file", ":1): \"-3\"", "--config", path);
    unlink(path);
    REFUSED(EXIT_CONFIG, "cannot open /nowhere/weir.conf", "--config", "--config=/nowhere/weir.conf");
    REFUSED(EXIT_CONFIG, "cannot read /", "--config", "--config=/");
}

static void value_in_a_file_keeps_what_follows_the_first_equals_sign(void **state)
{
    (void)state;
    const char *path = file_of("webhook.secret =  a=b # c \n");
    struct config *config = NULL;
    READ_WELL(config, "--config", path);
    assert_string_equal(config_text(config, "WEBHOOK_SECRET"), "a=b # c");
    config_destroy(config);
    unlink(path);
}

static void foreign_variables_are_ignored_and_unknown_own_ones_are_not(void **state)
{
    (void)state;
    setenv("KAFKA_SOMETHING", "x", 1);
    setenv("WEIR_FAULT", "relay_after_ack", 1);
    setenv("WEIR_STATE", "folder", 1);
    struct config *config = NULL;
    READ_WELL(config, "--");
    assert_string_equal(config_text(config, "WEIR_STATE"), "folder");
    config_destroy(config);
    unsetenv("KAFKA_SOMETHING");

    setenv("WEIR_STAET", "x", 1);
    REFUSED(EXIT_CONFIG, "WEIR_STAET", "did you mean WEIR_STATE?", "--");
    unsetenv("WEIR_STAET");
    setenv("WEIR_DRAIN_TIMEOUT", "x", 1);
    REFUSED(EXIT_CONFIG, "WEIR_DRAIN_TIMEOUT", "did you mean DRAIN_TIMEOUT?", "--");
    unsetenv("WEIR_DRAIN_TIMEOUT");
    setenv("WEIR_QQQQQQQ", "x", 1);
    REFUSED(EXIT_CONFIG, "WEIR_QQQQQQQ", "must be known", "--");
    unsetenv("WEIR_QQQQQQQ");
}

static void secret_is_read_from_its_file_and_never_shown(void **state)
{
    (void)state;
    const char *path = file_of("hunter2\n");
    setenv("WEBHOOK_SECRET_FILE", path, 1);
    struct config *config = NULL;
    READ_WELL(config, "--database-url=postgresql://weir:hunter3@db:5432/x?sslmode=off&password=hunter4&a=b");
    assert_string_equal(config_text(config, "WEBHOOK_SECRET"), "hunter2");
    struct buffer shown = buffer_of(1 << 16);
    config_show(config, &shown);
    buffer_add_char(&shown, '\0');
    assert_null(strstr(shown.at, "hunter"));
    assert_non_null(strstr(shown.at, "WEBHOOK_SECRET=****"));
    assert_non_null(strstr(shown.at, path));
    assert_non_null(
        strstr(shown.at, "DATABASE_URL=postgresql://weir:****@db:5432/x?sslmode=off&password=****&a=b"));
    buffer_free(&shown);
    config_destroy(config);

    setenv("WEBHOOK_SECRET", "x", 1);
    REFUSED(EXIT_CONFIG, "WEBHOOK_SECRET and WEBHOOK_SECRET_FILE", "both", "--");
    unsetenv("WEBHOOK_SECRET");
    unsetenv("WEBHOOK_SECRET_FILE");
    READ_WELL(config, "--webhook-secret-file", path);
    assert_string_equal(config_text(config, "WEBHOOK_SECRET"), "hunter2");
    config_destroy(config);
    unlink(path);
    REFUSED(EXIT_CONFIG, "WEBHOOK_SECRET_FILE: cannot open", path, "--webhook-secret-file", path);
}

static void bad_secret_is_not_told_in_the_error(void **state)
{
    (void)state;
    struct config *config = NULL;
    struct error error = {0};
    static const char *const flags[] = {"--database-url=mysql://weir:hunter2@db/x",
                                        "--database-url=weir:hunter2@db", "--webhook-secret=hunter2\n",
                                        "-Xhunter2"};
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        assert_int_equal(READ(&config, &error, flags[i]), REJECT);
        assert_int_equal(error.exit_code, EXIT_CONFIG);
        assert_null(strstr(error.text, "hunter2"));
    }
}

static void properties_come_in_order_with_the_variable_first(void **state)
{
    (void)state;
    setenv("KAFKA_PROPERTIES", "linger.ms=1; sasl.password=hunter2;", 1);
    struct config *config = NULL;
    READ_WELL(config, "-X", "linger.ms=5", "--kafka", "a=b=c", "-Xd=", "--kafka=e=f");
    static const char *const expected[][2] = {{"linger.ms", "1"}, {"sasl.password", "hunter2"},
                                              {"linger.ms", "5"}, {"a", "b=c"},
                                              {"d", ""},          {"e", "f"}};
    assert_int_equal(config_property_count(config), 6);
    for (size_t i = 0; i < 6; i++) {
        const char *key, *value;
        config_property(config, i, &key, &value);
        assert_string_equal(key, expected[i][0]);
        assert_string_equal(value, expected[i][1]);
    }
    struct buffer shown = buffer_of(1 << 16);
    config_show(config, &shown);
    buffer_add_char(&shown, '\0');
    assert_null(strstr(shown.at, "hunter2"));
    assert_non_null(strstr(shown.at, "-X sasl.password=****"));
    assert_non_null(strstr(shown.at, "-X a=b=c"));
    buffer_free(&shown);
    config_destroy(config);
    unsetenv("KAFKA_PROPERTIES");
    REFUSED(EXIT_CONFIG, "-X", "key=value", "-X", "linger");
}

static void help_and_version_are_left_to_the_caller(void **state)
{
    (void)state;
    setenv("EMAIL_CONCURRENCY", "many", 1); /* help must come also where the settings are bad */
    struct config *config = NULL;
    READ_WELL(config, "--help", "--zzz");
    assert_true(config_asked_help(config));
    assert_false(config_asked_version(config));
    config_destroy(config);
    READ_WELL(config, "--drain-timeout=3s", "-h");
    assert_true(config_asked_help(config));
    config_destroy(config);
    READ_WELL(config, "--version");
    assert_true(config_asked_version(config));
    config_destroy(config);
}

static void help_names_every_flag_once_with_its_default(void **state)
{
    (void)state;
    struct buffer help = buffer_of(1 << 16);
    config_help(tables, TABLES, &help);
    buffer_add_char(&help, '\0');
    assert_non_null(strstr(
        help.at,
        "  --kafka-bootstrap-servers HOST:PORT,…\n      Brokers to start from. Default: localhost:9092.\n"));
    assert_non_null(strstr(help.at, "  --[no-]access-log\n"));
    assert_non_null(strstr(help.at, "Default: 127.0.0.1:8082."));
    assert_null(strstr(help.at, "Default: 127.0.0.1:8080."));
    assert_non_null(strstr(help.at, "A whole number from 1 to 1000."));
    const char *first = strstr(help.at, "--http-listen");
    assert_non_null(first);
    assert_null(strstr(first + 1, "--http-listen"));
    buffer_free(&help);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, clear_environment, clear_environment)
    const struct CMUnitTest tests[] = {
        TEST(defaults_stand_where_nobody_said_anything),
        TEST(earlier_table_hides_a_later_row_of_the_same_name),
        TEST(flag_wins_over_environment_over_file),
        TEST(flag_has_all_its_forms),
        TEST(unknown_flag_is_usage_and_names_the_nearest),
        TEST(flag_without_its_value_is_usage),
        TEST(bad_value_is_named_with_what_is_allowed),
        TEST(values_of_each_kind_are_read),
        TEST(empty_retry_delays_are_none),
        TEST(empty_variable_is_not_set_and_empty_flag_takes_away),
        TEST(unknown_line_of_a_file_is_named_with_its_place),
        TEST(value_in_a_file_keeps_what_follows_the_first_equals_sign),
        TEST(foreign_variables_are_ignored_and_unknown_own_ones_are_not),
        TEST(secret_is_read_from_its_file_and_never_shown),
        TEST(bad_secret_is_not_told_in_the_error),
        TEST(properties_come_in_order_with_the_variable_first),
        TEST(help_and_version_are_left_to_the_caller),
        TEST(help_names_every_flag_once_with_its_default),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
