#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "kafka/admin.h"
#include "support/broker.h"

#include <signal.h>
#include <stdlib.h>

enum { WAIT_MS = 20000 };
static struct broker *broker;

static struct admin *open_admin(void)
{
    struct admin *admin;
    struct error error;
    const struct client_settings client = {.bootstrap_servers = broker_bootstrap(broker)};
    assert_int_equal(admin_open(&client, &admin, &error), OK);
    return admin;
}

static int setup(void **state)
{
    static const char *const topics[] = {"orders", NULL};
    (void)state;
    broker = broker_start(1, topics, 2);
    broker_write(broker, "orders", 1, 0, 7);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    broker_stop(broker);
    return 0;
}

static void topics_are_told_with_their_partitions(void **state)
{
    (void)state;
    struct admin *admin = open_admin();
    struct admin_topic *topics;
    struct error error;
    size_t count;
    assert_int_equal(admin_topics(admin, WAIT_MS, &topics, &count, &error), OK);
    assert_int_equal(count, 1);
    assert_string_equal(topics[0].name, "orders");
    assert_int_equal(topics[0].partitions, 2);
    free(topics);
    admin_close(admin);
}

static void brokers_in_service_are_counted(void **state)
{
    (void)state;
    struct admin *admin = open_admin();
    struct error error;
    int count = 0;
    assert_int_equal(admin_brokers(admin, WAIT_MS, &count, &error), OK);
    assert_int_equal(count, 1);
    admin_close(admin);
}

static void a_group_without_offsets_has_none(void **state)
{
    (void)state;
    struct admin *admin = open_admin();
    struct error error;
    int64_t committed = 0, high = 0;
    assert_int_equal(admin_group_offset(admin, "nobody", "orders", 1, WAIT_MS, &committed, &high, &error),
                     OK);
    assert_int_equal(committed, -1);
    assert_int_equal(high, 7);
    admin_close(admin);
}

/* A broker that has just been started is no coordinator yet. librdkafka (seen in 2.0.2 and in 2.11) then asks
 * the handle's own group to look for another one, and a producer has none: a segmentation fault. */
static void a_coordinator_that_is_none_any_more_is_an_outage(void **state)
{
    (void)state;
    enum { COORDINATOR_LOADING = 14, COORDINATOR_NOT_AVAILABLE = 15, NOT_COORDINATOR = 16 };
    static const int errors[] = {COORDINATOR_LOADING, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR};
    struct admin *admin = open_admin();
    struct error error;
    int64_t committed, high;
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        broker_fail(broker, BROKER_OFFSET_FETCH, errors[i], 1);
        enum outcome outcome =
            admin_group_offset(admin, "nobody", "orders", 1, WAIT_MS, &committed, &high, &error);
        if (outcome != OK)
            assert_int_equal(outcome, OUTAGE);
        assert_int_equal(admin_group_offset(admin, "nobody", "orders", 1, WAIT_MS, &committed, &high, &error),
                         OK);
    }
    admin_close(admin);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(topics_are_told_with_their_partitions),
        cmocka_unit_test(brokers_in_service_are_counted),
        cmocka_unit_test(a_group_without_offsets_has_none),
        cmocka_unit_test(a_coordinator_that_is_none_any_more_is_an_outage),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
