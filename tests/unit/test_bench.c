/* weir bench: the schedule, the account of what left late, and what is ordered. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "weir/bench.h"
#include "weir/bench_order.h"
#include "weir/bench_schedule.h"
#include "wire/event.h"

#include <stdlib.h>

#define SECOND          INT64_C(1000000)
#define COUNT_OF(table) (sizeof(table) / sizeof((table)[0]))

/* ---- the schedule */

static int64_t *draw(enum bench_arrivals arrivals, double rate, int64_t length_us, uint64_t seed,
                     size_t *ret_count)
{
    struct error error;
    int64_t *due_us;
    assert_int_equal(bench_schedule_draw(arrivals, rate, length_us, seed, &due_us, ret_count, &error), OK);
    return due_us;
}

static void one_seed_gives_one_schedule(void **state)
{
    (void)state;
    size_t count, same_count, other_count;
    int64_t *due = draw(BENCH_POISSON, 1000, 5 * SECOND, 7, &count);
    int64_t *same = draw(BENCH_POISSON, 1000, 5 * SECOND, 7, &same_count);
    int64_t *other = draw(BENCH_POISSON, 1000, 5 * SECOND, 8, &other_count);
    assert_int_equal(count, same_count);
    assert_memory_equal(due, same, count * sizeof(*due));
    assert_memory_not_equal(due, other, 100 * sizeof(*due));
    free(due);
    free(same);
    free(other);
}

static void orders_are_due_in_order_and_within_the_step(void **state)
{
    (void)state;
    static const double rates[] = {0.5, 1, 37.5, 1000, 50000};
    for (size_t i = 0; i < COUNT_OF(rates) * 2; i++) {
        size_t count;
        int64_t *due = draw(i % 2 ? BENCH_POISSON : BENCH_CONSTANT, rates[i / 2], 4 * SECOND, 1, &count);
        for (size_t k = 0; k < count; k++)
            assert_true(due[k] >= (k ? due[k - 1] : 0) && due[k] < 4 * SECOND);
        free(due);
    }
}

static void constant_ones_are_evenly_spread_and_nothing_adds_up(void **state)
{
    (void)state;
    size_t count;
    int64_t *due = draw(BENCH_CONSTANT, 300, 1000 * SECOND, 1,
                        &count); /* a gap that is no whole number of microseconds */
    assert_int_equal(count, 300000);
    assert_int_equal(due[0], 0);
    assert_int_equal(due[150000], 500 * SECOND);
    assert_int_equal(due[299999], 1000 * SECOND - 3334);
    free(due);
}

/* The sample is fixed by its seed: so is what is asserted. Mean and variance of the gaps are those of the
 * exponential. */
static void poisson_gaps_have_the_mean_and_the_spread_of_chance(void **state)
{
    (void)state;
    size_t count;
    int64_t *due = draw(BENCH_POISSON, 1000, 100 * SECOND, 3, &count);
    double sum = 0, squares = 0;
    for (size_t i = 1; i < count; i++) {
        double gap = (double)(due[i] - due[i - 1]);
        sum += gap;
        squares += gap * gap;
    }
    double mean = sum / (double)(count - 1), variance = squares / (double)(count - 1) - mean * mean;
    assert_true(count > 99000 && count < 101000);
    assert_true(mean > 990 && mean < 1010);
    assert_true(variance > 0.97 * mean * mean && variance < 1.03 * mean * mean);
    free(due);
}

static void more_orders_than_a_step_holds_are_refused(void **state)
{
    (void)state;
    struct error error;
    int64_t *due;
    size_t count;
    assert_int_equal(
        bench_schedule_draw(BENCH_CONSTANT, BENCH_RATE_MAX, 3000 * SECOND, 1, &due, &count, &error), REJECT);
    assert_int_equal(error.exit_code, EXIT_CONFIG);
}

/* ---- behind */

static void what_left_late_is_told_by_whose_fault_it_was(void **state)
{
    (void)state;
    static const struct {
        int64_t due_us, free_us, now_us;
        uint64_t behind, late, waited;
        int64_t own_us, waited_us;
    } rows[] = {
        {1000, 0, 1000, 0, 0, 0, 0, 0},                 /* on time */
        {1000, 0, 2000, 0, 0, 0, 1000, 0},              /* as late as is allowed */
        {1000, 0, 2001, 1, 0, 0, 1001, 0},              /* its own fault */
        {1000, 1000, 11001, 1, 1, 0, 10001, 0},         /* and much */
        {1000, 500000, 500100, 0, 0, 1, 100, 499000},   /* no connection until then */
        {1000, 500000, 520000, 1, 1, 1, 20000, 499000}, /* both */
        {1000, 1900, 1950, 0, 0, 0, 50, 900},           /* neither worth a word */
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct bench_behind behind = {.own = hdr_new()};
        bench_behind_note(&behind, rows[i].due_us, rows[i].free_us, rows[i].now_us);
        assert_int_equal(behind.sent, 1);
        assert_int_equal(behind.behind, rows[i].behind);
        assert_int_equal(behind.late, rows[i].late);
        assert_int_equal(behind.waited, rows[i].waited);
        assert_int_equal(behind.waited_max_us, rows[i].waited_us);
        assert_int_equal(behind.own->max_us, rows[i].own_us);
        free(behind.own);
    }
}

static void a_generator_that_is_late_too_often_is_the_bottleneck(void **state)
{
    (void)state;
    struct bench_behind behind = {.own = hdr_new()};
    assert_false(bench_behind_bottleneck(&behind)); /* of none */
    for (int i = 0; i < 990; i++)
        bench_behind_note(&behind, 0, 0, 10);
    for (int i = 0; i < 10; i++) {
        bench_behind_note(&behind, 0, 0, BENCH_LATE_US + 1);
        assert_false(bench_behind_bottleneck(&behind)); /* one in a hundred, at the end */
    }
    bench_behind_note(&behind, 0, 0, BENCH_LATE_US + 1);
    assert_true(bench_behind_bottleneck(&behind));
    free(behind.own);
}

static void waiting_for_the_server_is_not_the_generators_fault(void **state)
{
    (void)state;
    struct bench_behind behind = {.own = hdr_new()};
    for (int i = 0; i < 100; i++)
        bench_behind_note(&behind, 0, 3 * SECOND, 3 * SECOND + 20);
    assert_int_equal(behind.waited, 100);
    assert_false(bench_behind_bottleneck(&behind));
    free(behind.own);
}

/* ---- what is ordered */

static void an_order_is_known_again_by_its_id(void **state)
{
    (void)state;
    static const uint32_t numbers[] = {0, 1, 255, 256, 1U << 20, UINT32_MAX};
    static const uint64_t runs[] = {0, 1, (UINT64_C(1) << 30) - 1, UINT64_C(1) << 30,
                                    (UINT64_C(1) << 42) - 1};
    for (size_t i = 0; i < COUNT_OF(numbers); i++) {
        for (size_t k = 0; k < COUNT_OF(runs); k++) {
            char text[ID_TEXT_BYTES];
            uint32_t number = 7;
            struct text id = id_to_text(bench_order_id(runs[k], numbers[i], 1763754000123456), text);
            assert_true(id.at[14] == '7' && strchr("89ab", id.at[19])); /* a UUIDv7 */
            assert_true(bench_order_number(runs[k], id, &number));
            assert_int_equal(number, numbers[i]);
            assert_false(bench_order_number(runs[k] ^ 1, id, &number));
            assert_false(bench_order_number(runs[k] ^ UINT64_C(1) << 41, id, &number));
        }
    }
    uint32_t number;
    assert_false(bench_order_number(1, TEXT("order-1"), &number));
}

static void later_orders_have_later_ids(void **state)
{
    (void)state;
    struct id first = bench_order_id(9, 1, 1000000), second = bench_order_id(9, 2, 1000000),
              third = bench_order_id(9, 0, 1001000);
    assert_true(memcmp(first.bytes, second.bytes, sizeof(first.bytes)) < 0);
    assert_true(memcmp(second.bytes, third.bytes, sizeof(first.bytes)) < 0);
}

static void what_is_ordered_is_valid_and_the_same_for_one_seed(void **state)
{
    (void)state;
    static const struct text goods[] = {TEXT_INIT("A"), TEXT_INIT("B"), TEXT_INIT("C"), TEXT_INIT("D"),
                                        TEXT_INIT("E")};
    for (size_t goods_count = BENCH_ITEMS_MAX; goods_count <= COUNT_OF(goods); goods_count++) {
        struct bench_cart cart = {bench_random_of(5, 1), 3, goods, goods_count}, again = cart;
        for (uint32_t i = 0; i < 500; i++) {
            struct bench_draft draft, same;
            char request[BENCH_REQUEST_BYTES_MAX], other[BENCH_REQUEST_BYTES_MAX];
            struct codec_faults faults = {0};
            bench_order_draw(&cart, i, 1763754000000000 + i, &draft);
            bench_order_draw(&again, i, 1763754000000000 + i, &same);
            assert_true(order_placed_valid(&draft.placed, &faults)); /* distinct SKUs, the right sum */
            size_t length = bench_order_request(&draft, "shop.example:8080", NULL, request);
            assert_int_equal(length, bench_order_request(&same, "shop.example:8080", NULL, other));
            assert_memory_equal(request, other, length);
        }
    }
}

/* What stands behind the head is the JSON object that POST /v1/orders takes, as long as it says. */
static void a_request_is_what_the_service_reads(void **state)
{
    (void)state;
    static const struct text goods[] = {TEXT_INIT("A"), TEXT_INIT("B"), TEXT_INIT("C")};
    struct bench_cart cart = {bench_random_of(5, 1), 3, goods, 3};
    struct bench_draft draft;
    char request[BENCH_REQUEST_BYTES_MAX];
    struct error error;
    json_t *json;
    bench_order_draw(&cart, 12, 1763754000000000, &draft);
    size_t length = bench_order_request(&draft, "shop.example:8080", NULL, request);
    assert_int_equal(strlen(request), length);
    const char *body = strstr(request, "\r\n\r\n") + 4, *said = strstr(request, "Content-Length: ");
    assert_int_equal(strtol(said + 16, NULL, 10), strlen(body));
    assert_non_null(strstr(request, "Host: shop.example:8080\r\n"));
    assert_null(strstr(request, "Authorization"));
    char with_token[BENCH_REQUEST_BYTES_MAX];
    assert_int_equal(bench_order_request(&draft, "shop.example:8080", "s3cret", with_token),
                     length + strlen("Authorization: Bearer s3cret\r\n"));
    assert_non_null(strstr(with_token, "\r\nAuthorization: Bearer s3cret\r\n\r\n{"));
    assert_int_equal(json_read(text_of(body), &json, &error), OK);
    assert_true(text_equal(json_text(json, "order_id"), draft.placed.order_id));
    assert_int_equal(json_array_size(json_object_get(json, "items")), draft.placed.items_count);
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_seed_gives_one_schedule),
        cmocka_unit_test(orders_are_due_in_order_and_within_the_step),
        cmocka_unit_test(constant_ones_are_evenly_spread_and_nothing_adds_up),
        cmocka_unit_test(poisson_gaps_have_the_mean_and_the_spread_of_chance),
        cmocka_unit_test(more_orders_than_a_step_holds_are_refused),
        cmocka_unit_test(what_left_late_is_told_by_whose_fault_it_was),
        cmocka_unit_test(a_generator_that_is_late_too_often_is_the_bottleneck),
        cmocka_unit_test(waiting_for_the_server_is_not_the_generators_fault),
        cmocka_unit_test(an_order_is_known_again_by_its_id),
        cmocka_unit_test(later_orders_have_later_ids),
        cmocka_unit_test(what_is_ordered_is_valid_and_the_same_for_one_seed),
        cmocka_unit_test(a_request_is_what_the_service_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
