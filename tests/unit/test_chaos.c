#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "flow/chaos.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct chaos parsed(const char *list)
{
    struct chaos chaos;
    struct error error;
    memset(&chaos, 0x5a, sizeof(chaos));
    if (chaos_parse(text_of(list), &chaos, &error) != OK)
        fail_msg("\"%s\": %s", list, error.text);
    return chaos;
}

static void a_list_says_what_fails(void **state)
{
    (void)state;
    static const struct {
        const char *list;
        struct chaos chaos;
    } examples[] = {
        {"", {.on = false}},
        {"  ", {.on = false}},
        {"keys=1%", {.on = true, .keys_ppm = 10000, .keys_deliveries = 2}},
        {"keys=0.0001%:1000", {.on = true, .keys_ppm = 1, .keys_deliveries = 1000}},
        {"poison=100%", {.on = true, .poison_ppm = 1000000}},
        {"poison=0.10%", {.on = true, .poison_ppm = 1000}},
        {"poison=0%", {.on = false}},
        {"outage=5s/1min", {.on = true, .outage_us = 5000000, .outage_every_us = 60000000}},
        {"slow=2.5%:10s", {.on = true, .slow_ppm = 25000, .slow_us = 10000000}},
        {"slow=3%:1ms", {.on = true, .slow_ppm = 30000, .slow_us = 1000}},
        {"crash=0.01%", {.on = true, .crash_ppm = 100}},
        {"seed=7", {.on = false, .seed = 7}},
        {"seed=7, keys=1%:3 ,poison=0.1%",
         {.on = true, .seed = 7, .keys_ppm = 10000, .keys_deliveries = 3, .poison_ppm = 1000}},
    };
    for (size_t i = 0; i < sizeof(examples) / sizeof(*examples); i++) {
        struct chaos is = parsed(examples[i].list), wanted = examples[i].chaos;
        if (is.on != wanted.on || is.seed != wanted.seed || is.keys_ppm != wanted.keys_ppm ||
            is.keys_deliveries != wanted.keys_deliveries || is.poison_ppm != wanted.poison_ppm ||
            is.slow_ppm != wanted.slow_ppm || is.slow_us != wanted.slow_us ||
            is.crash_ppm != wanted.crash_ppm || is.outage_us != wanted.outage_us ||
            is.outage_every_us != wanted.outage_every_us)
            fail_msg("\"%s\" is read as another", examples[i].list);
    }
}

static void what_is_no_list_is_refused_with_what_is_allowed(void **state)
{
    (void)state;
    static const struct {
        const char *list, *says;
    } examples[] = {
        {"on", "keys, poison, outage, slow, crash, seed"},
        {"handlers=1%", "\"handlers=1%\""},
        {"keys=1%,", "\"\" is nothing"},
        {",keys=1%", "\"\" is nothing"},
        {"keys", "keys=P%"},
        {"keys=", "keys=P%"},
        {"keys=1", "\"keys=1\""},
        {"keys=-1%", "keys=P%"},
        {"keys=101%", "0 to 100"},
        {"keys=100.0001%", "0 to 100"},
        {"keys=99999999999999999999%", "keys=P%"},
        {"keys=1.%", "keys=P%"},
        {"keys=.5%", "keys=P%"},
        {"keys=0.00001%", "keys=P%"},
        {"keys=1%:", "1 to 1000"},
        {"keys=1%:0", "1 to 1000"},
        {"keys=1%:1001", "1 to 1000"},
        {"keys=1%%", "keys=P%"},
        {"poison=1%:2", "poison=P%"},
        {"outage=5s", "outage=T/U"},
        {"outage=/5s", "outage=T/U"},
        {"outage=5s/5s", "outage=T/U"},
        {"outage=0s/5s", "outage=T/U"},
        {"outage=5s/25h", "at most a day"},
        {"slow=1%", "slow=P%:T"},
        {"slow=1%:11s", "10s"},
        {"crash=yes", "crash=P%"},
        {"seed=-1", "seed=N"},
        {"seed=x", "seed=N"},
        {"poison=1%,poison=2%", "poison is given twice"},
    };
    for (size_t i = 0; i < sizeof(examples) / sizeof(*examples); i++) {
        struct chaos chaos;
        struct error error;
        if (chaos_parse(text_of(examples[i].list), &chaos, &error) != REJECT)
            fail_msg("\"%s\" is taken", examples[i].list);
        if (!strstr(error.text, examples[i].says))
            fail_msg("\"%s\": %s", examples[i].list, error.text);
    }
}

static struct id numbered(int number)
{
    return id_from_text((struct text){(const char *)&number, sizeof(number)});
}

static enum outcome strike(const struct chaos *chaos, int key, int id, int delivery, int64_t now_us)
{
    char name[16];
    struct error error = {.text = ""};
    int length = snprintf(name, sizeof(name), "key-%d", key);
    enum outcome outcome =
        chaos_strike(chaos, (struct text){name, (size_t)length}, numbered(id), delivery, now_us, &error);
    if (outcome != OK) {
        assert_int_equal(error.outcome, outcome);
        assert_string_equal(error.cause, "chaos");
        assert_non_null(strstr(error.text, "on purpose"));
    }
    return outcome;
}

static void off_is_off(void **state)
{
    (void)state;
    struct chaos chaos = parsed("seed=3");
    for (int i = 0; i < 1000; i++)
        assert_int_equal(strike(&chaos, i, i, 1, i), OK);
}

enum { TRIES = 100000 };

static void a_share_of_the_keys_fails_for_some_deliveries(void **state)
{
    (void)state;
    struct chaos chaos = parsed("keys=1%:3");
    int failing = 0;
    for (int key = 0; key < TRIES; key++) {
        bool fails = strike(&chaos, key, 1, 1, 0) == RETRY;
        failing += fails;
        if (key > TRIES / 100 && !fails)
            continue;
        for (int id = 0; id < 3; id++) { /* each of its records, every time */
            for (int delivery = 1; delivery <= 3; delivery++)
                assert_int_equal(strike(&chaos, key, id, delivery, 1), fails ? RETRY : OK);
            assert_int_equal(strike(&chaos, key, id, 4, 1), OK);
        }
    }
    assert_in_range(failing, TRIES / 100 * 8 / 10, TRIES / 100 * 12 / 10);
}

static void a_share_of_the_ids_is_poison_at_any_delivery(void **state)
{
    (void)state;
    struct chaos chaos = parsed("poison=0.5%");
    int poisoned = 0;
    for (int id = 0; id < TRIES; id++) {
        bool bad = strike(&chaos, 1, id, 1, 0) == REJECT;
        poisoned += bad;
        if (bad)
            assert_int_equal(strike(&chaos, 2, id, 9, 5), REJECT);
    }
    assert_in_range(poisoned, TRIES / 200 * 8 / 10, TRIES / 200 * 12 / 10);
}

static void the_seed_chooses_others(void **state)
{
    (void)state;
    struct chaos one = parsed("keys=10%,seed=1"), same = parsed("seed=1,keys=10%"),
                 two = parsed("keys=10%,seed=2");
    int both = 0, chosen = 0;
    for (int key = 0; key < TRIES; key++) {
        enum outcome outcome = strike(&one, key, 0, 1, 0);
        assert_int_equal(strike(&same, key, 0, 1, 0), outcome);
        chosen += outcome == RETRY;
        both += outcome == RETRY && strike(&two, key, 0, 1, 0) == RETRY;
    }
    assert_in_range(both, chosen / 20, chosen / 5); /* about a tenth of a tenth */
}

static void keys_and_ids_are_chosen_apart(void **state)
{
    (void)state;
    /* The same bytes as key and as id: what is poisoned is not therefore what fails. */
    struct chaos keys = parsed("keys=10%"), poison = parsed("poison=10%");
    struct error error;
    int both = 0, chosen = 0;
    for (int i = 0; i < TRIES; i++) {
        struct id id = numbered(i);
        struct text key = {(const char *)id.bytes, sizeof(id.bytes)};
        bool fails = chaos_strike(&keys, key, id, 1, 0, &error) == RETRY;
        chosen += fails;
        both += fails && chaos_strike(&poison, key, id, 1, 0, &error) == REJECT;
    }
    assert_in_range(both, chosen / 20, chosen / 5);
}

static void an_outage_comes_by_the_clock_and_before_all_else(void **state)
{
    (void)state;
    struct chaos chaos = parsed("outage=2s/10s,poison=100%,keys=100%");
    static const struct {
        int64_t at_ms;
        enum outcome outcome;
    } examples[] = {{0, OUTAGE},     {1999, OUTAGE},          {2000, REJECT},
                    {9999, REJECT},  {10000, OUTAGE},         {11999, OUTAGE},
                    {12000, REJECT}, {1763726400000, OUTAGE}, {1763726402000, REJECT}};
    for (size_t i = 0; i < sizeof(examples) / sizeof(*examples); i++)
        assert_int_equal(strike(&chaos, 1, 1, 1, examples[i].at_ms * 1000), examples[i].outcome);
}

static void slow_takes_at_least_its_time(void **state)
{
    (void)state;
    struct chaos chaos = parsed("slow=100%:5ms");
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    assert_int_equal(strike(&chaos, 1, 1, 1, 0), OK);
    clock_gettime(CLOCK_MONOTONIC, &to);
    assert_true((to.tv_sec - from.tv_sec) * 1000000000 + to.tv_nsec - from.tv_nsec >= 5000000);
}

static int ends_by(const char *list, int id)
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct chaos chaos;
        struct error error;
        signal(SIGABRT, SIG_DFL);
        _exit(chaos_parse(text_of(list), &chaos, &error) == OK &&
                      chaos_strike(&chaos, TEXT("key"), numbered(id), 1, 0, &error) == OK
                  ? 0
                  : 1);
    }
    int status;
    while (waitpid(pid, &status, 0) < 0)
        assert_int_equal(errno, EINTR);
    return WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status);
}

static void crash_kills_the_process_for_the_same_ids(void **state)
{
    (void)state;
    assert_int_equal(ends_by("crash=100%", 1), SIGABRT);
    assert_int_equal(ends_by("crash=0%", 1), 0);
    int killed = 0;
    for (int id = 0; id < 20; id++) {
        int end = ends_by("crash=50%", id);
        assert_int_equal(ends_by("crash=50%", id), end);
        killed += end == SIGABRT;
    }
    assert_in_range(killed, 1, 19);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_list_says_what_fails),
        cmocka_unit_test(what_is_no_list_is_refused_with_what_is_allowed),
        cmocka_unit_test(off_is_off),
        cmocka_unit_test(a_share_of_the_keys_fails_for_some_deliveries),
        cmocka_unit_test(a_share_of_the_ids_is_poison_at_any_delivery),
        cmocka_unit_test(the_seed_chooses_others),
        cmocka_unit_test(keys_and_ids_are_chosen_apart),
        cmocka_unit_test(an_outage_comes_by_the_clock_and_before_all_else),
        cmocka_unit_test(slow_takes_at_least_its_time),
        cmocka_unit_test(crash_kills_the_process_for_the_same_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
