/* weir, the program, as a person or a script runs it: over the mock cluster, by its exit codes and what it
 * says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/error.h"
#include "support/broker.h"
#include "support/process.h"
#include "support/scratch.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ARGUMENTS_MAX = 24, LOOK_MS = 10, LOOKS_MAX = 6000, FAILURES = 2000, DISCONNECT = -195 };

static const char *const topics[] = {"orders", "audit", "dlq.order", NULL};
static struct broker *broker;
static struct scratch scratch;

static int set_up(void **state)
{
    (void)state;
    scratch_make(&scratch);
    broker = broker_start(1, topics, 1);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    broker_stop(broker);
    scratch_remove(&scratch);
    return 0;
}

static struct process *run(const char *const *words)
{
    char kafka[128];
    const char *argv[ARGUMENTS_MAX] = {WEIR_PROGRAM};
    const char *environment[] = {kafka, NULL};
    for (size_t i = 0; words[i]; i++) {
        assert_in_range(i + 2, 0, ARGUMENTS_MAX - 1);
        argv[i + 1] = words[i];
    }
    snprintf(kafka, sizeof(kafka), "KAFKA_BOOTSTRAP_SERVERS=%s", broker_bootstrap(broker));
    return process_start(argv, environment);
}
#define RUN(...) run((const char *const[]){__VA_ARGS__, NULL})

static void expect(struct process *process, int exit_code, const char *text)
{
    int got = process_wait(process);
    if (got != exit_code || !strstr(process_output(process), text))
        fail_msg("exit %d, not %d with \"%s\": %s", got, exit_code, text, process_output(process));
}

static void expect_end(struct process *process, int exit_code, const char *text)
{
    expect(process, exit_code, text);
    process_end(process);
}

static void expect_without(struct process *process, int exit_code, const char *text, const char *unwanted)
{
    expect(process, exit_code, text);
    if (strstr(process_output(process), unwanted))
        fail_msg("says \"%s\": %s", unwanted, process_output(process));
    process_end(process);
}

/* Its own handler is there: from now on a signal is heard, and does not just end it. */
static void wait_until_it_catches(struct process *process, int signal)
{
    char path[64], line[256];
    snprintf(path, sizeof(path), "/proc/%d/status", (int)process_pid(process));
    for (int i = 0; i < LOOKS_MAX; i++) {
        unsigned long long caught = 0;
        FILE *file = fopen(path, "re");
        assert_non_null(file);
        while (fgets(line, sizeof(line), file))
            (void)sscanf(line, "SigCgt: %llx", &caught);
        fclose(file);
        if (caught >> (signal - 1) & 1)
            return;
        poll(NULL, 0, LOOK_MS);
    }
    fail_msg("it does not catch signal %d: %s", signal, process_output(process));
}

/* ---- tests */

static void version_and_help_are_heard_behind_other_words(void **state)
{
    (void)state;
    /* It would send back all there is otherwise. */
    expect_without(RUN("dlq", "redrive", "--service", "payment", "--version"), 0, "weir " WEIR_VERSION "\n",
                   "dead letters");
    expect_without(RUN("emit", "--version"), 0, "weir " WEIR_VERSION "\n", "sent");
    expect_end(RUN("--version"), 0, "weir " WEIR_VERSION "\n");
    expect_end(RUN("dlq", "list", "--help"), 0, "Usage: weir dlq list|show|redrive|drop\n");
    expect_end(RUN("help", "dlq"), 0, "weir dlq redrive --service payment --dry-run");
    expect_end(RUN("help"), 0, "Usage: weir COMMAND");
}

static void slip_is_told_from_a_word_that_is_like_nothing(void **state)
{
    (void)state;
    expect_end(RUN("tpoics"), EXIT_USAGE, "there is no command tpoics; did you mean topics?");
    expect_without(RUN("xyzzy"), EXIT_USAGE, "there is no command xyzzy;", "did you mean");
    expect_end(RUN("help", "wacth"), EXIT_USAGE, "did you mean watch?");
    expect_end(RUN("dlq", "--servic", "order"), EXIT_USAGE, "did you mean --service?");
}

static void topic_that_is_named_twice_is_read_once(void **state)
{
    (void)state;
    broker_write(broker, "orders", 0, 0, 1);
    struct process *process = RUN("watch", "orders", "orders", "--from", "beginning", "--exit");
    expect(process, 0, "orders[0]@0");
    assert_null(strstr(strstr(process_output(process), "orders[0]@0") + 1, "orders[0]@0"));
    process_end(process);
}

static void topic_that_is_not_there_is_not_waited_for(void **state)
{
    (void)state;
    expect_end(RUN("watch", "ordres"), EXIT_NOTHING_FOUND, "there is no topic ordres");
    expect_end(RUN("dlq", "list", "--from", "orders.DTL"), EXIT_NO_INPUT, "there is no topic orders.DTL");
    expect_end(RUN("dlq", "redrive", "--from", "orders.DTL"), EXIT_NO_INPUT, "there is no topic orders.DTL");
}

static void filter_that_takes_nothing_says_so(void **state)
{
    (void)state;
    expect_end(RUN("dlq", "list", "--key", "k"), 0, "no dead letters that match");
    expect_end(RUN("dlq", "list", "--type", "OrderPlcaed"), 0, "OrderPlcaed is no event of Weir's");
    expect_without(RUN("dlq", "list"), 0, "no dead letters", "match");
}

/* What was not read to its end must not pass for all there is. */
static void reading_that_is_stopped_is_no_answer(void **state)
{
    (void)state;
    static const char *const commands[][6] = {
        {"order", "0199a0a0-0000-7000-8000-000000000000"},
        {"dlq", "list", "--json"},
        {"dlq", "show"},
        {"watch", "orders", "--from", "beginning", "--exit"},
    };
    broker_write(broker, "orders", 0, 0, 1);
    broker_write(broker, "dlq.order", 0, 0, 1);
    broker_fail(broker, BROKER_FETCH, DISCONNECT, FAILURES);
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        struct process *process = run(commands[i]);
        wait_until_it_catches(process, SIGINT);
        process_signal(process, SIGINT);
        expect_without(process, EXIT_TRY_AGAIN, "stopped before", "nothing is known");
    }
    broker_heal(broker, BROKER_FETCH);
}

static void emit_that_is_stopped_says_up_to_where(void **state)
{
    (void)state;
    char path[256];
    snprintf(path, sizeof(path), "%s/events", scratch.folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    int fifo = open(path, O_RDWR | O_CLOEXEC); /* so that neither side waits for the other */
    assert_true(fifo >= 0);
    struct process *process = RUN("emit", path);
    assert_int_equal(write(fifo, "\nnothing\n", 9), 9);
    process_expect(process, "line 2: ");
    process_signal(process, SIGINT);
    expect_end(process, EXIT_TRY_AGAIN, "stopped behind line 2");
    close(fifo);
}

static void line_without_an_end_takes_no_more_memory_than_one_may(void **state)
{
    (void)state;
    enum { PIECE = 1 << 16, PIECES = 40 };
    static char piece[PIECE];
    char path[256];
    memset(piece, 'x', sizeof(piece));
    snprintf(path, sizeof(path), "%s/long", scratch.folder);
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    for (int i = 0; i < PIECES; i++)
        assert_int_equal(fwrite(piece, 1, sizeof(piece), file), sizeof(piece));
    fputs("\nnot json", file);
    assert_int_equal(fclose(file), 0);
    struct process *process = RUN("emit", path);
    expect(process, EXIT_BAD_DATA, "line 1: longer than 1 MiB");
    expect_end(process, EXIT_BAD_DATA, "line 2: ");
}

static void write_script(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(path, 0755), 0);
}

/* A Java that dies as Java does, and what a run that was killed has left. */
static void kafka_that_does_not_start_says_why(void **state)
{
    (void)state;
    enum { BASES = 20, BASE_FIRST = 20000, BASE_STEP = 500 };
    char path[320], home[256], folder[256], java_home[320], base[16];
    struct stat token;
    unsetenv("JAVA_HOME"); /* somebody's own would be found first */
    snprintf(home, sizeof(home), "%s/home", scratch.folder);
    snprintf(folder, sizeof(folder), "%s/state", scratch.folder);
    snprintf(java_home, sizeof(java_home), "JAVA_HOME=%s", home);
    assert_int_equal(mkdir(home, 0755), 0);
    assert_int_equal(mkdir(folder, 0755), 0);
    snprintf(path, sizeof(path), "%s/libs", home);
    assert_int_equal(mkdir(path, 0755), 0);
    snprintf(path, sizeof(path), "%s/bin", home);
    assert_int_equal(mkdir(path, 0755), 0);
    snprintf(path, sizeof(path), "%s/libs/kafka_2.13-0.jar", home);
    write_script(path, "");
    snprintf(path, sizeof(path), "%s/bin/java", home);
    write_script(path, "#!/bin/sh\nprintf 'java.lang.RuntimeException: it went off\\n\\tat "
                       "kafka.Kafka.main(Kafka.scala)\\n\\n'\nexit 1\n");
    snprintf(path, sizeof(path), "%s/admin-token", folder);
    write_script(path, "");
    for (int i = 0; i < BASES; i++) {
        snprintf(base, sizeof(base), "%d", BASE_FIRST + i * BASE_STEP);
        const char *const argv[] = {WEIR_PROGRAM, "up",          "--kafka-home", home, "--state-dir",
                                    folder,       "--port-base", base,           NULL};
        struct process *process = process_start(argv, (const char *const[]){java_home, NULL});
        int exit_code = process_wait(process);
        bool taken = strstr(process_output(process), "is taken by another program") != NULL;
        if (!taken && !strstr(process_output(process), "java.lang.RuntimeException: it went off"))
            fail_msg("%s", process_output(process));
        process_end(process);
        assert_int_equal(exit_code, EXIT_UNREACHABLE);
        if (!taken)
            break;
    }
    assert_int_equal(stat(path, &token), 0);
    assert_true(token.st_size > 0);
}

/* ---- what the package brings along */

static struct process *shell(const char *script)
{
    return process_start((const char *const[]){"/bin/bash", "-c", script, NULL}, NULL);
}

static void completion_knows_words_and_flags_and_what_they_may_be(void **state)
{
    (void)state;
    static const struct {
        const char *words, *wanted;
    } cases[] = {
        {"weir dl", "dlq "},
        {"weir dlq re", "redrive "},
        {"weir topics ''", "create "},
        {"weir dlq list --js", "--json "},
        {"weir dlq list --service pay", "payment "},
        {"weir pause inv", "inventory "},
        {"weir help sche", "schemas "},
        {"weir-order che", "check "},
        {"weir-order --log-l", "--log-level "},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char script[1024];
        snprintf(script, sizeof(script),
                 "PATH=%s:%s/..:$PATH; . %s/compose/packaging/completion/weir; COMP_WORDS=(%s); "
                 "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _weir; printf '%%s ' \"${COMPREPLY[@]}\"",
                 WEIR_PROGRAMS, WEIR_PROGRAMS, SOURCE_DIR, cases[i].words);
        struct process *process = shell(script);
        expect(process, 0, "");
        if (strcmp(process_output(process), cases[i].wanted) != 0)
            fail_msg("%s: \"%s\", not \"%s\"", cases[i].words, process_output(process), cases[i].wanted);
        process_end(process);
    }
}

static void man_page_says_what_help_says(void **state)
{
    (void)state;
    char script[1024];
    snprintf(script, sizeof(script),
             "cmake -DPROGRAMS=%s -DOUTPUT=%s -DVERSION=1 -P %s/compose/packaging/man.cmake && cat %s/weir.1",
             WEIR_PROGRAM, scratch.folder, SOURCE_DIR, scratch.folder);
    struct process *process = shell(script);
    expect(process, 0, "KEY=VALUE;KEY=VALUE");
    expect_without(process, 0, ".SH weir dlq", "semicolon");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(version_and_help_are_heard_behind_other_words),
        TEST(slip_is_told_from_a_word_that_is_like_nothing),
        TEST(topic_that_is_named_twice_is_read_once),
        TEST(topic_that_is_not_there_is_not_waited_for),
        TEST(filter_that_takes_nothing_says_so),
        TEST(reading_that_is_stopped_is_no_answer),
        TEST(emit_that_is_stopped_says_up_to_where),
        TEST(line_without_an_end_takes_no_more_memory_than_one_may),
        TEST(kafka_that_does_not_start_says_why),
        TEST(completion_knows_words_and_flags_and_what_they_may_be),
        TEST(man_page_says_what_help_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
