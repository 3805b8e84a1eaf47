#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/metrics.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static const double bounds[] = {0.1, 1, 10, 0};
static const struct metric_family events = {"weir_events_total", METRIC_COUNTER, "topic,outcome",
                                            "Events handled.", NULL};
static const struct metric_family rows = {"weir_outbox_rows", METRIC_GAUGE, "", "Rows, a \\ and\na line.",
                                          NULL};
static const struct metric_family handle = {"weir_handle_seconds", METRIC_HISTOGRAM, "peer", "Time.", bounds};

static char *page_of(struct metrics *metrics, struct buffer *into)
{
    buffer_clear(into);
    metrics_write(metrics, into);
    buffer_add_char(into, '\0');
    assert_false(into->failed);
    return into->at;
}

static void assert_says(const char *page, const char *line)
{
    if (!strstr(page, line))
        fail_msg("not on the page: %s\n%s", line, page);
}

static void series_are_there_from_the_start_at_zero(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_new();
    struct buffer into = buffer_of(1 << 20);
    metrics_get(metrics, &events, "orders", "ok", NULL);
    metrics_get(metrics, &rows, NULL);
    metrics_get(metrics, &handle, "smtp", NULL);
    char *page = page_of(metrics, &into);
    assert_says(page, "# HELP weir_events_total Events handled.\n# TYPE weir_events_total counter\n"
                      "weir_events_total{topic=\"orders\",outcome=\"ok\"} 0\n");
    assert_says(page, "# HELP weir_outbox_rows Rows, a \\\\ and\\na line.\n# TYPE weir_outbox_rows "
                      "gauge\nweir_outbox_rows 0\n");
    assert_says(page,
                "weir_handle_seconds_bucket{peer=\"smtp\",le=\"+Inf\"} 0\n"
                "weir_handle_seconds_sum{peer=\"smtp\"} 0\nweir_handle_seconds_count{peer=\"smtp\"} 0\n");
    buffer_free(&into);
    metrics_destroy(metrics);
}

static void same_labels_are_the_same_series(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_new();
    struct metric *ok = metrics_get(metrics, &events, "orders", "ok", NULL);
    assert_ptr_equal(metrics_get(metrics, &events, "orders", "ok", NULL), ok);
    assert_ptr_not_equal(metrics_get(metrics, &events, "ok", "orders", NULL), ok);
    struct metric_family again = events;
    assert_ptr_equal(metrics_get(metrics, &again, "orders", "ok", NULL), ok);
    metrics_destroy(metrics);
}

static void values_are_added_and_set(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_new();
    struct buffer into = buffer_of(1 << 20);
    struct metric *counter = metrics_get(metrics, &events, "a", "b", NULL),
                  *gauge = metrics_get(metrics, &rows, NULL);
    metric_add(counter, 2);
    metric_add(counter, INT64_C(1) << 53);
    metric_set(gauge, 1.5);
    metric_add(gauge, -2);
    assert_true(metric_value(counter) >= 9e15);
    assert_true(metric_value(gauge) == -0.5);
    char *page = page_of(metrics, &into);
    assert_says(page, "} 9007199254740994\n");
    assert_says(page, "weir_outbox_rows -0.5\n");
    metric_set(gauge, NAN);
    assert_says(page_of(metrics, &into), "weir_outbox_rows NaN\n");
    metric_set(gauge, -INFINITY);
    assert_says(page_of(metrics, &into), "weir_outbox_rows -Inf\n");
    metric_set(gauge, 1.0 / 3);
    assert_says(page_of(metrics, &into), "weir_outbox_rows 0.33333333333333331\n");
    metric_add(NULL, 1);
    metric_set(NULL, 1);
    metric_observe(NULL, 1);
    assert_true(metric_value(NULL) == 0);
    buffer_free(&into);
    metrics_destroy(metrics);
}

static void observations_fall_into_the_bucket_whose_bound_they_do_not_pass(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_new();
    struct buffer into = buffer_of(1 << 20);
    struct metric *metric = metrics_get(metrics, &handle, "gateway", NULL);
    static const double values[] = {0, 0.1, 0.11, 1, 1.5, 10, 11};
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
        metric_observe(metric, values[i]);
    char *page = page_of(metrics, &into);
    assert_says(page, "weir_handle_seconds_bucket{peer=\"gateway\",le=\"0.1\"} 2\n"
                      "weir_handle_seconds_bucket{peer=\"gateway\",le=\"1\"} 4\n"
                      "weir_handle_seconds_bucket{peer=\"gateway\",le=\"10\"} 6\n"
                      "weir_handle_seconds_bucket{peer=\"gateway\",le=\"+Inf\"} 7\n"
                      "weir_handle_seconds_sum{peer=\"gateway\"} 23.71\n"
                      "weir_handle_seconds_count{peer=\"gateway\"} 7\n");
    assert_true(metric_value(metric) == 7);
    buffer_free(&into);
    metrics_destroy(metrics);
}

static void label_values_are_escaped(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_new();
    struct buffer into = buffer_of(1 << 20);
    metrics_get(metrics, &events, "a\"b\\c\nd", "\xff\xc3\xa9", NULL);
    metrics_get(metrics, &events, "\xc3\xa9", "", NULL);
    char *page = page_of(metrics, &into);
    assert_says(page, "{topic=\"a\\\"b\\\\c\\nd\",outcome=\"???\"} 0\n");
    assert_says(page, "{topic=\"\xc3\xa9\",outcome=\"\"} 0\n");
    buffer_free(&into);
    metrics_destroy(metrics);
}

static void dropped_series_leaves_the_page_until_it_is_asked_for_again(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_new();
    struct buffer into = buffer_of(1 << 20);
    struct metric *gauge = metrics_get(metrics, &rows, NULL);
    metric_set(gauge, 5);
    metrics_drop(metrics, gauge);
    metrics_drop(metrics, NULL);
    assert_null(strstr(page_of(metrics, &into), "weir_outbox_rows"));
    metric_set(gauge, 6); /* a pointer that was kept does no harm */
    assert_ptr_equal(metrics_get(metrics, &rows, NULL), gauge);
    assert_says(page_of(metrics, &into), "\nweir_outbox_rows 0\n");
    buffer_free(&into);
    metrics_destroy(metrics);
}

static void number_of_series_is_bounded(void **state)
{
    (void)state;
    static const struct metric_family lag = {"lag", METRIC_GAUGE, "partition", "Lag.", NULL};
    struct metrics *metrics = metrics_new();
    char label[16];
    for (int i = 0; i < METRICS_SERIES_MAX; i++) {
        snprintf(label, sizeof(label), "%d", i);
        assert_non_null(metrics_get(metrics, &lag, label, NULL));
    }
    assert_null(metrics_get(metrics, &lag, "one more", NULL));
    assert_non_null(metrics_get(metrics, &lag, "7", NULL));
    metrics_destroy(metrics);
}

struct lookup {
    struct metrics *metrics;
    int times;
};

static void look_up(void *owner)
{
    struct lookup *lookup = owner;
    lookup->times++;
    metric_set(metrics_get(lookup->metrics, &rows, NULL), lookup->times);
}

static void collectors_are_called_before_each_page(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_new();
    struct buffer into = buffer_of(1 << 20);
    struct lookup lookup = {.metrics = metrics};
    metrics_on_collect(metrics, look_up, &lookup);
    assert_says(page_of(metrics, &into), "\nweir_outbox_rows 1\n");
    assert_says(page_of(metrics, &into), "\nweir_outbox_rows 2\n");
    buffer_free(&into);
    metrics_destroy(metrics);
}

enum { THREADS = 4, STEPS = 20000 };

static void *count(void *metrics)
{
    struct metric *counter = metrics_get(metrics, &events, "a", "b", NULL);
    struct metric *histogram = metrics_get(metrics, &handle, "smtp", NULL);
    struct metric *gauge = metrics_get(metrics, &rows, NULL);
    for (int i = 0; i < STEPS; i++) {
        metric_add(counter, 1);
        metric_add(gauge, 1);
        metric_observe(histogram, 0.5);
    }
    return NULL;
}

static void no_count_of_any_thread_is_lost(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_new();
    struct buffer into = buffer_of(1 << 20);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count, metrics), 0);
    for (int i = 0; i < 20; i++)
        page_of(metrics, &into);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    char *page = page_of(metrics, &into);
    assert_says(page, "weir_events_total{topic=\"a\",outcome=\"b\"} 80000\n");
    assert_says(page, "weir_outbox_rows 80000\n");
    assert_says(page, "weir_handle_seconds_sum{peer=\"smtp\"} 40000\n");
    assert_says(page, "weir_handle_seconds_count{peer=\"smtp\"} 80000\n");
    buffer_free(&into);
    metrics_destroy(metrics);
}

static void process_metrics_are_at_the_end(void **state)
{
    (void)state;
    static const char *const names[] = {"process_cpu_seconds_total",
                                        "process_resident_memory_bytes",
                                        "process_virtual_memory_bytes",
                                        "process_start_time_seconds",
                                        "process_open_fds",
                                        "process_max_fds"};
    struct metrics *metrics = metrics_new();
    struct buffer into = buffer_of(1 << 20);
    char *page = page_of(metrics, &into);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char line[64];
        snprintf(line, sizeof(line), "\n%s ", names[i]);
        assert_says(page, line);
        if (i > 0) /* CPU may still be 0 */
            assert_true(strtod(strstr(page, line) + strlen(line), NULL) > 0);
    }
    buffer_free(&into);
    metrics_destroy(metrics);
}

/* The checker of Prometheus itself, where it is installed. */
static void page_passes_promtool(void **state)
{
    (void)state;
    if (system("command -v promtool >/dev/null") != 0)
        skip();
    struct metrics *metrics = metrics_new();
    struct buffer into = buffer_of(1 << 20);
    metrics_get(metrics, &events, "a\"b\\c\nd", "ok", NULL);
    metrics_get(metrics, &rows, NULL);
    metric_observe(metrics_get(metrics, &handle, "smtp", NULL), 3);
    static const struct metric_family unused = {"weir_unused_total", METRIC_COUNTER, "", "Dropped.", NULL};
    metrics_drop(metrics, metrics_get(metrics, &unused, NULL));
    metrics_write(metrics, &into);
    FILE *promtool = popen("promtool check metrics", "w");
    assert_non_null(promtool);
    assert_int_equal(fwrite(into.at, 1, into.length, promtool), into.length);
    assert_int_equal(pclose(promtool), 0);
    buffer_free(&into);
    metrics_destroy(metrics);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(series_are_there_from_the_start_at_zero),
        cmocka_unit_test(same_labels_are_the_same_series),
        cmocka_unit_test(values_are_added_and_set),
        cmocka_unit_test(observations_fall_into_the_bucket_whose_bound_they_do_not_pass),
        cmocka_unit_test(label_values_are_escaped),
        cmocka_unit_test(dropped_series_leaves_the_page_until_it_is_asked_for_again),
        cmocka_unit_test(number_of_series_is_bounded),
        cmocka_unit_test(collectors_are_called_before_each_page),
        cmocka_unit_test(no_count_of_any_thread_is_lost),
        cmocka_unit_test(process_metrics_are_at_the_end),
        cmocka_unit_test(page_passes_promtool),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
