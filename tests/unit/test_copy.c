/* The copy of a record, for a retry topic or the dead letters, lives as long as its unit of work: it may be
 * sent when the record itself is gone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "flow/copy.h"
#include "store/outbox.h"
#include "support/scratch.h"

#include <string.h>

struct fixture {
    struct scratch scratch;
    struct store *store;
    struct work *work;
    struct error error;
} fixture;

static int setup(void **state)
{
    (void)state;
    scratch_make(&fixture.scratch);
    assert_int_equal(store_open(fixture.scratch.url, "copy", &fixture.store, &fixture.error), OK);
    assert_int_equal(store_migrate(fixture.store, NULL, 0, NULL, 0, &fixture.error), OK);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    work_destroy(fixture.work);
    store_close(fixture.store);
    scratch_remove(&fixture.scratch);
    return 0;
}

static const struct copier copier = {"order", "weir-order"};

static void move(const struct record *home, const struct header *headers, size_t header_count)
{
    struct error why;
    error_set(&why, REJECT, "bad", "never");
    const struct failure failure = {.class = FAILED_REJECT, .error = &why, .attempt = 1, .deliveries = 1};
    copy_move(fixture.work, &copier, "dlq.order", home, headers, header_count, NULL, &failure, 0, 1);
}

static void a_copy_outlives_its_record(void **state)
{
    (void)state;
    char key[] = "key", value[] = "value", name[] = "mine", said[] = "said";
    const struct record home = {.topic = TEXT("orders"), .key = text_of(key), .value = text_of(value)};
    const struct header headers[] = {{text_of(name), text_of(said)}, {TEXT("none"), {NULL, 0}}};
    assert_int_equal(work_new(fixture.store, 1 << 20, &fixture.work, &fixture.error), OK);
    assert_int_equal(work_begin(fixture.work, &fixture.error), OK);
    assert_int_equal(work_read(fixture.work, &fixture.error), OK);
    work_item_begin(fixture.work);
    move(&home, headers, 2);
    assert_int_equal(work_commit(fixture.work, &fixture.error), OK);
    memset(key, '-', sizeof(key)); /* the consumer has it back */
    memset(value, '-', sizeof(value));
    memset(name, '-', sizeof(name));
    memset(said, '-', sizeof(said));

    const struct outbox_row *rows;
    assert_int_equal(outbox_added(fixture.work, &rows), 1);
    assert_true(text_is(rows[0].topic, "dlq.order"));
    assert_true(text_is(rows[0].key, "key"));
    assert_true(text_is(rows[0].value, "value"));
    assert_true(text_is(rows[0].headers[0].name, "mine"));
    assert_true(text_is(rows[0].headers[0].value, "said"));
    assert_null(rows[0].headers[1].value.at);
}

static void a_copy_that_does_not_fit_fails_its_unit_of_work(void **state)
{
    (void)state;
    static char large[100000];
    const struct record home = {.topic = TEXT("orders"), .value = {large, sizeof(large)}};
    assert_int_equal(work_new(fixture.store, sizeof(large), &fixture.work, &fixture.error), OK);
    assert_int_equal(work_begin(fixture.work, &fixture.error), OK);
    assert_int_equal(work_read(fixture.work, &fixture.error), OK);
    move(&home, NULL, 0);
    assert_int_equal(work_commit(fixture.work, &fixture.error), RETRY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_copy_outlives_its_record, setup, teardown),
        cmocka_unit_test_setup_teardown(a_copy_that_does_not_fit_fails_its_unit_of_work, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
