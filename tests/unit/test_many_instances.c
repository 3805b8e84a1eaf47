/*
 * Several instances of a service on one PostgreSQL, each a process: they want the same rows at the same
 * moment, and what they count together is exact.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "analytics/analytics.h"
#include "flow/idempotency.h"
#include "store/instances.h"
#include "support/handlers.h"
#include "support/rivals.h"

extern const struct service analytics_service;

/* ---- analytics */

static void same_windows_made_and_changed_by_many_at_once_have_the_right_sums(void **state)
{
    (void)state;
    static struct analytics_state analytics;
    struct handlers *handlers = handlers_open(&analytics_service, &analytics);
    handlers_in_processes(handlers, RIVALS_INSTANCES, rivals_place);
    assert_int_equal(rivals_number(handlers, "SELECT placed FROM weir_analytics.days WHERE day = -1"),
                     RIVALS_INSTANCES * RIVALS_ORDERS);
    assert_int_equal(rivals_number(handlers, "SELECT customers FROM weir_analytics.days WHERE day = -1"), 7);
    assert_int_equal(rivals_number(handlers, "SELECT count(*) FROM weir_analytics.days"), 2);
    handlers_close(handlers);
}

/* ---- the loop's own */

static enum outcome answer_once(struct handlers *handlers, const struct request *request, int status,
                                bool *ret_answered, struct answer *ret, struct error *error)
{
    *ret = (struct answer){.status = status, .body = TEXT("{}")};
    *ret_answered = idempotency_answered(handlers->work, request, ret);
    if (!*ret_answered)
        idempotency_keep(handlers->work, request, ret);
    return work_commit(handlers->work, error);
}

static void a_key_used_at_two_instances_at_once_has_one_effect_and_one_answer(void **state)
{
    (void)state;
    static struct analytics_state analytics;
    static const struct rows_table *const tables[] = {&idempotency_table};
    struct handlers *first = handlers_open(&analytics_service, &analytics);
    struct handlers *second = handlers_join(&analytics_service, &analytics, first->url);
    const struct route route = {.method = "POST", .path = "/v1/reports"};
    const struct request request = {
        .route = &route, .body = TEXT("{}"), .idempotency_key = TEXT("k"), .id = id_new()};
    struct handlers *both[] = {first, second};
    struct answer answer;
    struct error error;
    bool answered;
    assert_int_equal(store_migrate(first->store, tables, 1, NULL, 0, &error), OK);
    for (int i = 0; i < 2; i++) { /* neither sees the other's */
        handlers_begin(both[i]);
        idempotency_keys(both[i]->work, &request);
        handlers_read(both[i]);
    }
    assert_int_equal(answer_once(first, &request, 202, &answered, &answer, &error), OK);
    assert_false(answered);
    assert_int_equal(answer_once(second, &request, 200, &answered, &answer, &error), RETRY);
    assert_string_equal(error.cause, "store-race");
    handlers_begin(second); /* and again */
    idempotency_keys(second->work, &request);
    handlers_read(second);
    assert_int_equal(answer_once(second, &request, 200, &answered, &answer, &error), OK);
    assert_true(answered);
    assert_int_equal(answer.status, 202);
    second->in_work = first->in_work = false;
    handlers_close(second);
    handlers_close(first);
}

static void a_report_is_worked_on_by_one_instance_while_that_lives(void **state)
{
    (void)state;
    static struct analytics_state one_state, two_state;
    pthread_mutex_init(&one_state.worker.lock, NULL);
    pthread_cond_init(&one_state.worker.wake, NULL);
    pthread_mutex_init(&two_state.worker.lock, NULL);
    pthread_cond_init(&two_state.worker.wake, NULL);
    struct handlers *one = handlers_open(&analytics_service, &one_state);
    struct handlers *two = handlers_join(&analytics_service, &two_state, one->url);
    struct instances one_instances = {.part_count = 1}, two_instances = {.part_count = 1};
    struct error error;
    assert_int_equal(instances_beat(one->store, &one_instances, &error), OK);
    assert_int_equal(instances_beat(two->store, &two_instances, &error), OK);
    one->context.instances = &one_instances;
    two->context.instances = &two_instances;
    assert_int_equal(handlers_request(one, "POST", "/v1/reports", NULL,
                                      "{\"kind\":\"daily\",\"from\":\"2025-11-01\",\"to\":\"2025-11-02\"}",
                                      NULL),
                     202);
    handlers_tick(one, "jobs"); /* nobody works: its worker has no thread here */
    assert_int_equal(one_state.worker.state, WORKER_BUSY);
    handlers_tick(two, "jobs");
    assert_int_equal(two_state.worker.state, WORKER_IDLE);
    instances_leave(one->store, &one_instances);
    handlers_tick(two, "jobs");
    assert_int_equal(two_state.worker.state, WORKER_BUSY);
    assert_int_equal(rivals_number(one, "SELECT attempts FROM weir_analytics.jobs"), 2);
    instances_leave(two->store, &two_instances);
    handlers_close(two);
    handlers_close(one);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_windows_made_and_changed_by_many_at_once_have_the_right_sums),
        cmocka_unit_test(a_key_used_at_two_instances_at_once_has_one_effect_and_one_answer),
        cmocka_unit_test(a_report_is_worked_on_by_one_instance_while_that_lives),
    };
    char *on_postgres[] = {"", "postgres", NULL};
    scratch_choose(2, on_postgres);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
