#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/span.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#define PARENT "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

static const struct metric_family dropped_family = {"dropped", METRIC_COUNTER, "", "", NULL};
static struct metrics *metrics;
static struct metric *dropped;
static atomic_int wakes;

static void on_wake(void *owner)
{
    (void)owner;
    atomic_fetch_add(&wakes, 1);
}

static struct spans *make(size_t count_max, size_t batch_count, struct span_sampler sampler)
{
    struct spans *spans;
    struct error error;
    metrics = metrics_new();
    dropped = metrics_get(metrics, &dropped_family, NULL);
    atomic_store(&wakes, 0);
    assert_int_equal(spans_new(count_max, batch_count, &sampler, dropped, on_wake, NULL, &spans, &error), OK);
    return spans;
}

static void end(struct spans *spans)
{
    spans_destroy(spans);
    metrics_destroy(metrics);
}

static struct span_context context_of(const char *traceparent)
{
    struct span_context context;
    assert_true(span_context_of(text_of(traceparent), &context));
    return context;
}

static bool give(struct spans *spans, int64_t number)
{
    struct span_context context = context_of(PARENT);
    struct span *span = spans_take(spans, SPAN_INTERNAL, &context, NULL);
    if (!span)
        return false;
    span->start_us = number;
    spans_give(spans, span);
    return true;
}

static void context_is_read_and_written_as_it_came(void **state)
{
    char text[SPAN_TRACEPARENT_BYTES + 1];
    struct span_context context = context_of(PARENT);
    (void)state;
    assert_int_equal(context.trace[0], 0x0a);
    assert_int_equal(context.id[7], 0x31);
    assert_true(span_sampled(&context));
    assert_true(text_is(span_context_print(&context, text), PARENT));
    assert_false(span_context_of(TEXT(""), &context));
}

static void spans_come_out_as_they_went_in(void **state)
{
    struct spans *spans = make(16, 4, (struct span_sampler){.root = SAMPLE_ALWAYS});
    (void)state;
    int64_t next = 1;
    for (int64_t number = 1; number <= 100; number++) {
        assert_true(give(spans, number));
        if (number % 10)
            continue;
        for (const struct span *span; (span = spans_first(spans)); next++) {
            assert_int_equal(span->start_us, next);
            spans_done(spans);
        }
    }
    assert_int_equal(next, 101);
    assert_int_equal(atomic_load(&wakes), 25);
    end(spans);
}

static void full_ring_drops_and_counts(void **state)
{
    struct spans *spans = make(16, 16, (struct span_sampler){.root = SAMPLE_ALWAYS});
    (void)state;
    for (int64_t number = 0; number < 16; number++)
        assert_true(give(spans, number));
    assert_false(give(spans, 16));
    assert_false(give(spans, 17));
    assert_true(metric_value(dropped) == 2);
    assert_non_null(spans_first(spans));
    spans_done(spans);
    assert_true(give(spans, 18));
    assert_false(give(spans, 19));
    assert_int_equal(spans_first(spans)->start_us, 1);
    end(spans);
}

static void what_is_not_sampled_takes_no_place(void **state)
{
    struct spans *spans = make(16, 16, (struct span_sampler){.root = SAMPLE_ALWAYS});
    struct span_context context = context_of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
    (void)state;
    assert_null(spans_take(spans, SPAN_SERVER, &context, NULL));
    assert_true(metric_value(dropped) == 0);
    assert_null(spans_first(spans));
    end(spans);
}

static void parent_decides_where_the_sampler_says_so(void **state)
{
    struct span_context in = context_of(PARENT), out = in, child;
    out.flags = 0;
    struct spans *never = make(16, 1, (struct span_sampler){.root = SAMPLE_NEVER, .parent_based = true});
    (void)state;
    child = in;
    spans_decide(never, &in, &child);
    assert_true(span_sampled(&child));
    spans_decide(never, &out, &child);
    assert_false(span_sampled(&child));
    child = in;
    spans_decide(never, NULL, &child);
    assert_false(span_sampled(&child));
    end(never);
    struct spans *always = make(16, 1, (struct span_sampler){.root = SAMPLE_ALWAYS});
    spans_decide(always, &out, &child);
    assert_true(span_sampled(&child));
    end(always);
}

/* Ids that differ in their last byte only, as those of one millisecond nearly do: the share holds for them
 * too. */
static void ratio_takes_its_share_and_always_the_same(void **state)
{
    struct spans *spans = make(16, 1, (struct span_sampler){.root = SAMPLE_RATIO, .ratio = 0.25});
    struct span_context context = context_of(PARENT);
    int in = 0, count = 1 << 14;
    (void)state;
    for (int i = 0; i < count; i++) {
        context.trace[14] = (uint8_t)(i >> 8);
        context.trace[15] = (uint8_t)i;
        spans_decide(spans, NULL, &context);
        bool first = span_sampled(&context);
        span_id_new(context.id);
        spans_decide(spans, NULL, &context);
        assert_int_equal(first, span_sampled(&context));
        in += first;
    }
    assert_in_range(in, count / 5, count / 3);
    end(spans);
    struct span_sampler all = {.root = SAMPLE_RATIO, .ratio = 1}, none = {.root = SAMPLE_RATIO, .ratio = 0};
    spans = make(16, 1, all);
    spans_decide(spans, NULL, &context);
    assert_true(span_sampled(&context));
    end(spans);
    spans = make(16, 1, none);
    spans_decide(spans, NULL, &context);
    assert_false(span_sampled(&context));
    end(spans);
}

static void text_that_is_too_long_is_cut_between_characters(void **state)
{
    struct spans *spans = make(16, 1, (struct span_sampler){.root = SAMPLE_ALWAYS});
    struct span_context context = context_of(PARENT);
    struct span *span = spans_take(spans, SPAN_CLIENT, &context, &context);
    char longest[SPAN_TEXT_BYTES_MAX + 1];
    (void)state;
    for (size_t i = 0; i + 1 < sizeof(longest); i += 2)
        memcpy(longest + i, "\xc3\xa4", 2); /* ä */
    longest[sizeof(longest) - 1] = 'x';
    span_name(span, "process", (struct text){longest, sizeof(longest)});
    assert_int_equal(span->name_length, SPAN_NAME_BYTES_MAX);
    span_text(span, "a", TEXT("b"));
    span_text(span, "empty", TEXT(""));
    span_text(span, "long", (struct text){longest, sizeof(longest) - 1});
    assert_int_equal(span->attribute_count, 2);
    assert_true(text_is(span_attribute_text(span, &span->attributes[0]), "b"));
    struct text cut = span_attribute_text(span, &span->attributes[1]);
    assert_int_equal(cut.length, SPAN_TEXT_BYTES_MAX - 2);
    assert_true(text_is_utf8(cut));
    span_fail(span, (struct text){longest, sizeof(longest)});
    assert_true(span->failed);
    assert_int_equal(span_status(span).length, 0);
    for (int i = 0; i < 2 * SPAN_ATTRIBUTES_MAX; i++)
        span_int(span, "n", i);
    assert_int_equal(span->attribute_count, SPAN_ATTRIBUTES_MAX);
    spans_give(spans, span);
    end(spans);
}

enum { GIVERS = 3, GIVEN = 20000 };

static void *giver(void *argument)
{
    struct spans *spans = argument;
    for (int64_t number = 1; number <= GIVEN; number++)
        (void)give(spans, number);
    return NULL;
}

static void every_span_of_many_threads_is_read_or_counted(void **state)
{
    struct spans *spans = make(64, 8, (struct span_sampler){.root = SAMPLE_ALWAYS});
    pthread_t threads[GIVERS];
    int64_t read = 0;
    (void)state;
    for (int i = 0; i < GIVERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, giver, spans), 0);
    while (read + (int64_t)metric_value(dropped) < GIVERS * GIVEN) {
        if (!spans_first(spans))
            continue;
        assert_in_range(spans_first(spans)->start_us, 1, GIVEN);
        spans_done(spans);
        read++;
    }
    for (int i = 0; i < GIVERS; i++)
        pthread_join(threads[i], NULL);
    assert_null(spans_first(spans));
    assert_int_equal(read + (int64_t)metric_value(dropped), GIVERS * GIVEN);
    assert_true(read >= 64);
    end(spans);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(context_is_read_and_written_as_it_came),
        cmocka_unit_test(spans_come_out_as_they_went_in),
        cmocka_unit_test(full_ring_drops_and_counts),
        cmocka_unit_test(what_is_not_sampled_takes_no_place),
        cmocka_unit_test(parent_decides_where_the_sampler_says_so),
        cmocka_unit_test(ratio_takes_its_share_and_always_the_same),
        cmocka_unit_test(text_that_is_too_long_is_cut_between_characters),
        cmocka_unit_test(every_span_of_many_threads_is_read_or_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
