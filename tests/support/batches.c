#include "support/batches.h"

#include "store/inbox.h"
#include "store/outbox.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

struct effect {
    int64_t batch;
    int64_t times; /* 1: more is a doubled effect */
    struct text ballast;
};
static const struct rows_column EFFECT_COLUMNS[] = {
    ROWS_COLUMN(effect, batch, ROWS_INT),
    ROWS_COLUMN(effect, times, ROWS_INT),
    ROWS_COLUMN(effect, ballast, ROWS_TEXT),
};
static const struct rows_table EFFECTS = {
    .name = "effects",
    .columns = EFFECT_COLUMNS,
    .column_count = 3,
    .key_count = 1,
    .row_bytes = sizeof(struct effect),
    .indexes = {"times"},
};

/* What the clock does: without a note in the inbox. */
struct ticked {
    int64_t batch;
    int64_t seen;
};
static const struct rows_column TICKED_COLUMNS[] = {
    ROWS_COLUMN(ticked, batch, ROWS_INT),
    ROWS_COLUMN(ticked, seen, ROWS_INT),
};
static const struct rows_table TICKED = {
    .name = "ticked",
    .columns = TICKED_COLUMNS,
    .column_count = 2,
    .key_count = 1,
    .row_bytes = sizeof(struct ticked),
};
static const struct rows_table *const TABLES[] = {&EFFECTS, &TICKED};

static struct store *store;
static struct work *work;
static char ballast[6000];

void batches_stop(void)
{
    work_destroy(work);
    store_close(store);
    work = NULL;
    store = NULL;
}

static enum outcome start(const char *url, struct error *error)
{
    memset(ballast, 'b', sizeof(ballast));
    enum outcome outcome = store_open(url, "fault", &store, error);
    if (outcome == OK)
        outcome = store_migrate(store, TABLES, 2, NULL, 0, error);
    if (outcome == OK)
        outcome = work_new(store, 1 << 20, &work, error);
    if (outcome != OK)
        batches_stop();
    return outcome;
}

static enum outcome do_batch(int64_t number, struct error *error)
{
    struct inbox_note note = {.id = {{(uint8_t)number, 1}}, .attempt = 1};
    enum outcome outcome = work_begin(work, error);
    if (outcome != OK)
        return outcome;
    inbox_note(work, &note, 1);
    rows_want(work, &EFFECTS, &(struct effect){.batch = number});
    outcome = work_read(work, error);
    if (outcome != OK) {
        work_rollback(work);
        return outcome;
    }
    if (!note.seen) {
        work_item_begin(work);
        struct effect *effect = rows_get(work, &EFFECTS, &(struct effect){.batch = number});
        if (effect)
            effect->times++;
        else
            rows_add(work, &EFFECTS, &(struct effect){number, 1, {ballast, sizeof(ballast)}});
        outbox_add(work, &(struct outbox_row){.topic = TEXT("t"), .partition = -1, .value = {ballast, 500}});
    }
    outcome = work_commit(work, error);
    if (outcome == OK && !note.seen) {
        const struct outbox_row *rows;
        assert_int_equal(outbox_added(work, &rows), 1);
        assert_true(rows[0].seq > 0);
    }
    return outcome;
}

/* Where the answer is that nothing was written, it is added again without a look, and refused if that was a
 * lie. */
static enum outcome do_tick(int64_t number, bool look, struct error *error)
{
    enum outcome outcome = work_begin(work, error);
    if (outcome != OK)
        return outcome;
    void **rows;
    size_t count = rows_find(work, &EFFECTS, "times >= $1 ORDER BY times",
                             (struct store_value[]){STORE_INT(1)}, 1, 100, &rows);
    if (!look || !rows_get(work, &TICKED, &(struct ticked){.batch = number}))
        rows_add(work, &TICKED, &(struct ticked){number, (int64_t)count});
    return work_commit(work, error);
}

bool batches_work_through(const char *url, int64_t *acknowledged)
{
    struct error error;
    int tries = 0;
    bool begun_anew = false;
    for (int64_t number = 1; number <= BATCHES;) {
        if (++tries > BATCHES_TRIES_MAX)
            return false;
        enum outcome outcome = store ? OK : start(url, &error);
        if (outcome == OK && *acknowledged < number) {
            outcome = do_batch(number, &error);
            if (outcome == OK)
                *acknowledged = number;
        }
        if (outcome == OK)
            outcome = do_tick(number, begun_anew, &error);
        if (outcome == OK)
            number++;
        if (outcome == REJECT)
            print_message("batch %lld: %s\n", (long long)number, error.text);
        assert_int_not_equal(outcome, REJECT);
        begun_anew = outcome == FATAL || (begun_anew && outcome != OK);
        if (outcome == FATAL)
            batches_stop();
    }
    batches_stop();
    return true;
}

int64_t batches_there(const char *url)
{
    struct error error;
    if (start(url, &error) != OK) {
        print_message("not to be opened: %s\n", error.text);
        return -1;
    }
    assert_int_equal(work_begin(work, &error), OK);
    int64_t count = rows_count(work, &EFFECTS, NULL, NULL, 0);
    for (int64_t number = 1; number <= count; number++) {
        const struct effect *effect = rows_get(work, &EFFECTS, &(struct effect){.batch = number});
        assert_non_null(effect);
        assert_int_equal(effect->times, 1);
        assert_true(text_equal(effect->ballast, (struct text){ballast, sizeof(ballast)}));
    }
    const struct outbox_row *rows;
    assert_int_equal(outbox_read(work, 0, 100, &rows, &(bool){false}), count);
    assert_int_equal(outbox_rows(store), count);
    assert_int_equal(work_failed(work, &error), OK);
    work_rollback(work);
    batches_stop();
    return count;
}
