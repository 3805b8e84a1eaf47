#include "flow/lanes_inside.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/metrics.h"

#include <assert.h>
#include <stdlib.h>

static const struct rows_column calls_columns[] = {
    ROWS_COLUMN(call, id, ROWS_ID),          ROWS_COLUMN(call, lane, ROWS_TEXT),
    ROWS_COLUMN(call, key, ROWS_TEXT),       ROWS_COLUMN(call, payload, ROWS_BYTES),
    ROWS_COLUMN(call, attempts, ROWS_INT),   ROWS_COLUMN(call, due_us, ROWS_INT),
    ROWS_COLUMN(call, state, ROWS_INT),      ROWS_COLUMN(call, traceparent, ROWS_TEXT),
    ROWS_COLUMN(call, created_us, ROWS_INT), ROWS_COLUMN(call, part, ROWS_INT),
    ROWS_COLUMN(call, holder, ROWS_ID),      ROWS_COLUMN(call, elsewhere, ROWS_INT),
};
const struct rows_table calls_table = {
    .name = "calls",
    .columns = calls_columns,
    .column_count = sizeof(calls_columns) / sizeof(calls_columns[0]),
    .key_count = 1,
    .row_bytes = sizeof(struct call),
    .indexes = {"lane, created_us", "part WHERE elsewhere = 1"},
};

enum { CALL_SECONDS, IN_FLIGHT, WAITING };

static const struct metric_family lane_metrics[] = {
    [CALL_SECONDS] = {"weir_call_seconds", METRIC_HISTOGRAM, "peer,result",
                      "One attempt of a call to the outside.", metric_seconds_bounds},
    [IN_FLIGHT] = {"weir_calls_in_flight", METRIC_GAUGE, "peer", "Calls to the outside that are under way.",
                   NULL},
    [WAITING] = {"weir_calls_waiting", METRIC_GAUGE, "peer", "Calls in memory that wait for their turn.",
                 NULL},
};

enum outcome lanes_new(const struct lane *const *lanes_table, const struct lane_limits *limits, void *state,
                       struct net *net, struct metrics *metrics, void (*wake)(void *owner), void *wake_owner,
                       struct lanes **ret, struct error *error)
{
    static const char *const results[] = {"ok", "retry", "failed", "outage"};
    struct lanes *lanes = calloc(1, sizeof(*lanes));
    if (!lanes || !(lanes->arena = arena_new(16 << 20))) {
        free(lanes);
        return error_fatal(error, "memory", "lanes: out of memory");
    }
    for (; lanes_table && lanes_table[lanes->count]; lanes->count++) {
        assert(lanes->count < LANES_MAX);
        struct line *line = &lanes->line[lanes->count];
        line->lane = lanes_table[lanes->count];
        line->limits = limits[lanes->count];
        bucket_init(&line->bucket, line->limits.rate_per_hour, clock_wall_us());
        for (size_t i = 0; i < 4; i++)
            line->seconds[i] =
                metrics_get(metrics, &lane_metrics[CALL_SECONDS], line->lane->name, results[i], NULL);
        line->in_flight = metrics_get(metrics, &lane_metrics[IN_FLIGHT], line->lane->name, NULL);
        line->waiting = metrics_get(metrics, &lane_metrics[WAITING], line->lane->name, NULL);
    }
    lanes->state = state;
    lanes->net = net;
    lanes->wake = wake;
    lanes->wake_owner = wake_owner;
    lanes->answered_end = &lanes->answered;
    pthread_mutex_init(&lanes->lock, NULL);
    *ret = lanes;
    return OK;
}

void lanes_trace(struct lanes *lanes, struct spans *spans)
{
    lanes->spans = spans;
}

void lane_answer_drop(struct lane_answer *answer)
{
    arena_destroy(answer->arena);
    free(answer->body);
    free(answer);
}

static void answers_free(struct lane_answer *answer)
{
    while (answer) {
        struct lane_answer *next = answer->next;
        lane_answer_drop(answer);
        answer = next;
    }
}

void lanes_destroy(struct lanes *lanes)
{
    if (!lanes)
        return;
    answers_free(lanes->begun);
    answers_free(lanes->returning);
    answers_free(lanes->answered);
    free(lanes->touched);
    free(lanes->added);
    for (size_t i = 0; i < lanes->count; i++)
        for (struct place *place = lanes->line[i].first, *next; place; place = next) {
            next = place->next;
            free(place);
        }
    arena_destroy(lanes->arena);
    pthread_mutex_destroy(&lanes->lock);
    free(lanes);
}

struct place *place_insert(struct line *line, const struct call *call)
{
    struct place *place = calloc(1, sizeof(*place));
    if (!place)
        return NULL;
    struct place *before = line->last;
    while (before && before->created_us > call->created_us)
        before = before->previous;
    place->line = line;
    place->id = call->id;
    place->key_hash = text_hash(call->key);
    place->created_us = call->created_us;
    place->part = call->part;
    place->due_us = call->due_us;
    place->state = PLACE_WAITING;
    place->previous = before;
    place->next = before ? before->next : line->first;
    *(before ? &before->next : &line->first) = place;
    *(place->next ? &place->next->previous : &line->last) = place;
    line->places++;
    line->look_at_us = 0;
    if (call->created_us > line->loaded_created_us)
        line->loaded_created_us = call->created_us;
    return place;
}

struct place *place_add(struct line *line, const struct call *call)
{
    struct place *place = line->places >= LANES_PLACES_MAX || line->more ? NULL : place_insert(line, call);
    if (!place)
        line->more = true;
    return place;
}

void place_remove(struct place *place)
{
    struct line *line = place->line;
    if (place->previous)
        place->previous->next = place->next;
    else
        line->first = place->next;
    if (place->next)
        place->next->previous = place->previous;
    else
        line->last = place->previous;
    line->places--;
    line->foreign -= place->state == PLACE_FOREIGN;
    line->look_at_us = 0;
    free(place);
}

static bool is_active(enum place_state state)
{
    return state == PLACE_BEGUN || state == PLACE_ACTIVE || state == PLACE_ANSWERED;
}

bool place_go(struct lanes *lanes, struct place *place, enum place_state state)
{
    if (!place->touched) {
        if (lanes->touched_count == lanes->touched_capacity) {
            size_t capacity = lanes->touched_capacity ? lanes->touched_capacity * 2 : 64;
            struct place **touched = realloc(lanes->touched, capacity * sizeof(*touched));
            if (!touched)
                return false;
            lanes->touched = touched;
            lanes->touched_capacity = capacity;
        }
        lanes->touched[lanes->touched_count++] = place;
        place->touched = true;
        place->before = place->state;
        place->due_before_us = place->due_us;
    }
    place->line->active += is_active(state);
    place->line->active -= is_active(place->state);
    place->line->foreign += state == PLACE_FOREIGN;
    place->line->foreign -= place->state == PLACE_FOREIGN;
    place->line->look_at_us = 0;
    place->state = state;
    return true;
}

struct lane_answer *lane_answer_new(struct lanes *lanes, struct line *line, struct place *place,
                                    const struct call *call)
{
    struct lane_answer *carrier = calloc(1, sizeof(*carrier));
    if (!carrier || !(carrier->arena = arena_new(call->payload.length + call->key.length + 4096))) {
        free(carrier);
        return NULL;
    }
    carrier->lanes = lanes;
    carrier->line = line;
    carrier->place = place;
    carrier->call = *call;
    carrier->call.lane = text_of(line->lane->name);
    carrier->call.key = text_copy(carrier->arena, call->key);
    carrier->call.payload = text_copy(carrier->arena, call->payload);
    carrier->call.traceparent = text_copy(carrier->arena, call->traceparent);
    return carrier;
}

static void answer_push(struct lanes *lanes, struct lane_answer *answer)
{
    answer->next = NULL;
    pthread_mutex_lock(&lanes->lock);
    *lanes->answered_end = answer;
    lanes->answered_end = &answer->next;
    pthread_mutex_unlock(&lanes->lock);
}

/* ---- calls asked for */

static struct line *line_of(struct lanes *lanes, const struct lane *lane)
{
    for (size_t i = 0; i < lanes->count; i++)
        if (lanes->line[i].lane == lane)
            return &lanes->line[i];
    assert(false && "a lane that is not in the service's table");
    return NULL;
}

void lanes_add(struct lanes *lanes, struct work *work, const struct lane *lane, struct call *call)
{
    if (rows_get(work, &calls_table, call))
        return; /* asked for before */
    if (lanes->added_count == lanes->added_capacity) {
        size_t capacity = lanes->added_capacity ? lanes->added_capacity * 2 : 64;
        struct added *added = realloc(lanes->added, capacity * sizeof(*added));
        if (!added) {
            struct error error;
            error_set(&error, RETRY, "memory", "lanes: out of memory");
            work_fail(work, &error);
            return;
        }
        lanes->added = added;
        lanes->added_capacity = capacity;
    }
    lanes_follow(lanes, call);
    call->part = lanes_part(lanes, call->key);
    call->elsewhere = !lanes_owns(lanes, call->part);
    const struct call *row = rows_add(work, &calls_table, call);
    if (row && !row->elsewhere)
        lanes->added[lanes->added_count++] = (struct added){line_of(lanes, lane), *row};
}

void lanes_item_begin(struct lanes *lanes)
{
    lanes->added_mark = lanes->added_count;
}

void lanes_item_undo(struct lanes *lanes)
{
    lanes->added_count = lanes->added_mark;
}

size_t lanes_take(struct lanes *lanes, struct lane_answer **ret, size_t count_max)
{
    size_t count = 0;
    pthread_mutex_lock(&lanes->lock);
    while (count < count_max && lanes->answered) {
        ret[count] = lanes->answered;
        lanes->answered = lanes->answered->next;
        count++;
    }
    if (!lanes->answered)
        lanes->answered_end = &lanes->answered;
    pthread_mutex_unlock(&lanes->lock);
    return count;
}

void lanes_return(struct lanes *lanes, struct lane_answer *answer)
{
    answer_push(lanes, answer);
}

const struct call *lane_answer_call(const struct lane_answer *answer)
{
    return &answer->call;
}

void lane_answer_keys(const struct lane_answer *answer, struct work *work)
{
    rows_want(work, &calls_table, &answer->call);
    if (answer->line->lane->keys)
        answer->line->lane->keys(work, &answer->call);
}

/* The wall is put back where it was wrong: what was to wait for a while does not wait for that as well. */
static void follow_clock(struct line *line, int64_t now_us)
{
    int64_t back_us = line->seen_us - now_us;
    line->seen_us = now_us;
    if (back_us <= 0)
        return;
    line->look_at_us = 0;
    line->closed_until_us -= back_us;
    for (struct place *place = line->first; place; place = place->next) {
        place->due_us -= back_us;
        place->due_before_us -= back_us;
    }
}

/* Up to a tenth later, by the call's own id and attempt: calls that failed together do not come back
 * together. */
static int64_t jitter_us(const struct call *call, int64_t delay_ms)
{
    uint8_t part = (uint8_t)(call->id.bytes[15] + 97 * call->attempts);
    return delay_ms * 1000 * part / 2560;
}

/* After the hook has spoken: what becomes of the row, and when the lane goes on. */
static bool settle(struct lanes *lanes, struct lane_answer *answer, struct work *work, struct call *row,
                   enum outcome outcome, int64_t now_us)
{
    struct line *line = answer->line;
    struct place *place = answer->place;
    if (outcome == OK || outcome == REJECT) {
        rows_delete(work, &calls_table, row);
        return place_go(lanes, place, PLACE_SETTLED);
    }
    row->state = CALL_WAITING;
    row->holder = (struct id){{0}};
    if (outcome == RETRY) {
        const struct lane_limits *limits = &line->limits;
        size_t step = row->attempts > 0 ? (size_t)row->attempts - 1 : 0;
        int64_t delay_ms = limits->delay_count == 0     ? 1000
                           : step < limits->delay_count ? limits->delays_ms[step]
                                                        : limits->delays_ms[limits->delay_count - 1];
        if (answer->result.retry_after_ms > delay_ms)
            delay_ms = answer->result.retry_after_ms;
        row->due_us = now_us + delay_ms * 1000 + jitter_us(row, delay_ms);
    } else {
        row->attempts--; /* an outage counts for nothing */
        row->due_us = now_us + line->outage_ms * 1000;
    }
    row->elsewhere = !lanes_owns(lanes, row->part);
    if (row->elsewhere) /* its part has gone to another instance meanwhile */
        return place_go(lanes, place, PLACE_SETTLED);
    if (!place_go(lanes, place, PLACE_WAITING))
        return false;
    place->due_us = row->due_us;
    return true;
}

/* One probe at a time from the first OUTAGE until an answer of any other kind. */
static void note_outage(struct line *line, enum outcome outcome, int64_t now_us)
{
    if (outcome != OUTAGE) {
        line->outage_ms = 0;
        line->closed_until_us = 0;
        return;
    }
    if (now_us < line->closed_until_us)
        return; /* one of those that were under way when it began */
    line->outage_ms = line->outage_ms ? line->outage_ms * 2 : LANES_OUTAGE_MS_MIN;
    if (line->outage_ms > LANES_OUTAGE_MS_MAX)
        line->outage_ms = LANES_OUTAGE_MS_MAX;
    line->closed_until_us = now_us + line->outage_ms * 1000;
}

enum outcome lane_answer_handle(struct lanes *lanes, struct lane_answer *answer, struct work *work,
                                int64_t now_us, struct error *error)
{
    struct line *line = answer->line;
    struct call *row = rows_get(work, &calls_table, &answer->call);
    follow_clock(line, now_us);
    if (work_failed(work, error) != OK)
        return OUTAGE;
    if (!row || !lanes_holds(lanes, row)) { /* settled already, or taken over: the answer is nobody's */
        place_go(lanes, answer->place, PLACE_SETTLED);
        return OK;
    }
    if (!answer->result.ambiguous || answer->result.status)
        note_outage(line, answer->result.outcome, now_us);
    bool last = (size_t)row->attempts > line->limits.delay_count;
    enum outcome outcome = line->lane->answer(work, row, &answer->result, last, error);
    if (work_failed(work, error) != OK)
        return OUTAGE;
    if (outcome == FATAL)
        return FATAL;
    if (outcome == REJECT) {
        log_error("lane", "a call is given up", LOG_STRING("lane", line->lane->name),
                  LOG_TEXT("key", row->key), LOG_STRING("error", error->text));
        work_item_undo(work);
        row = rows_get(work, &calls_table, &answer->call);
        if (!row)
            return error_outage(error, "store", "lanes: a call is gone from the table");
    }
    if (outcome == OUTAGE)
        note_outage(line, OUTAGE, now_us);
    if (!settle(lanes, answer, work, row, outcome, now_us))
        return error_outage(error, "memory", "lanes: out of memory");
    return OK;
}

void lane_answer_give_up(struct lanes *lanes, struct lane_answer *answer, struct work *work,
                         const struct error *why)
{
    struct call *row = rows_get(work, &calls_table, &answer->call);
    log_error("lane", "a call is given up: what its answer does cannot be stored",
              LOG_STRING("lane", answer->line->lane->name), LOG_TEXT("key", answer->call.key),
              LOG_STRING("error", why->text));
    if (row && lanes_holds(lanes, row))
        rows_delete(work, &calls_table, row);
    place_go(lanes, answer->place, PLACE_SETTLED);
}

/*
 * The first place in line that may begin: due, and no earlier call of its key still in line. A filter of bits
 * stands for the keys seen: a wrong hit only makes a call wait for another.
 */
static struct place *next_place(const struct lanes *lanes, struct line *line, int64_t now_us)
{
    enum { KEYS = 1 << 16 };
    static _Thread_local uint8_t seen[KEYS / 8];
    if (now_us < line->look_at_us)
        return NULL;
    memset(seen, 0, sizeof(seen));
    int64_t look_at_us = INT64_MAX;
    for (struct place *place = line->first; place; place = place->next) {
        size_t bit = (size_t)(place->key_hash % KEYS);
        bool behind = seen[bit / 8] & (1u << (bit % 8));
        if (place->state == PLACE_SETTLED)
            continue;
        seen[bit / 8] |= (uint8_t)(1u << (bit % 8));
        if (behind || place->state != PLACE_WAITING || !lanes_owns(lanes, place->part))
            continue;
        if (place->due_us <= now_us)
            return place;
        if (place->due_us < look_at_us)
            look_at_us = place->due_us;
    }
    line->look_at_us = look_at_us;
    return NULL;
}

/* How many may be under way now. */
static size_t concurrency(const struct line *line)
{
    return line->outage_ms ? 1 : (size_t)line->limits.concurrency;
}

bool lanes_due(struct lanes *lanes, int64_t now_us, int64_t *ret_at_us)
{
    *ret_at_us = 0;
    for (size_t i = 0; i < lanes->count && !lanes->stopped; i++) {
        struct line *line = &lanes->line[i];
        follow_clock(line, now_us);
        if (line->active >= concurrency(line) || !line->first)
            continue;
        bucket_fill(&line->bucket, now_us);
        int64_t at_us = bucket_when_us(&line->bucket, now_us);
        if (at_us < line->closed_until_us)
            at_us = line->closed_until_us;
        if (at_us <= now_us && next_place(lanes, line, now_us))
            return true;
        if (at_us < line->look_at_us)
            at_us = line->look_at_us;
        if (at_us != INT64_MAX && (*ret_at_us == 0 || at_us < *ret_at_us))
            *ret_at_us = at_us;
    }
    if (lanes->count && lanes_beside_others(lanes) && !lanes->stopped) {
        int64_t wait_us = lanes->look_us - clock_monotonic_us();
        int64_t at_us = now_us + (wait_us > 0 ? wait_us : 0);
        if (*ret_at_us == 0 || at_us < *ret_at_us)
            *ret_at_us = at_us;
    }
    return false;
}

static bool begin_one(struct lanes *lanes, struct line *line, struct place *place, struct work *work)
{
    const struct call key = {.id = place->id};
    struct call *row = rows_get(work, &calls_table, &key);
    if (work_failed(work, NULL) != OK)
        return false;
    if (!row)
        return place_go(lanes, place, PLACE_SETTLED);
    if (row->state == CALL_ACTIVE && lanes_shared(lanes))
        return place_go(lanes, place, PLACE_FOREIGN);
    struct lane_answer *carrier = lane_answer_new(lanes, line, place, row);
    if (!carrier || !place_go(lanes, place, PLACE_BEGUN)) {
        if (carrier)
            lane_answer_drop(carrier);
        return false;
    }
    row->state = CALL_ACTIVE;
    row->holder = lanes_self(lanes);
    row->attempts++;
    carrier->call.state = row->state;
    carrier->call.holder = row->holder;
    carrier->call.attempts = row->attempts;
    carrier->next = lanes->begun;
    lanes->begun = carrier;
    bucket_take(&line->bucket);
    return true;
}

void lanes_begin(struct lanes *lanes, struct work *work, int64_t now_us)
{
    lanes_look_elsewhere(lanes, work, now_us);
    for (size_t i = 0; i < lanes->added_count; i++) {
        struct place *place = place_add(lanes->added[i].line, &lanes->added[i].call);
        if (!place)
            continue; /* it waits in the table */
        place->fresh = true;
        if (!place_go(lanes, place, PLACE_WAITING)) {
            place_remove(place);
            lanes->added[i].line->more = true;
        }
    }
    lanes->added_count = lanes->added_mark = 0;

    for (size_t i = 0; i < lanes->count && !lanes->stopped; i++) {
        struct line *line = &lanes->line[i];
        follow_clock(line, now_us);
        bucket_fill(&line->bucket, now_us);
        while (line->active < concurrency(line) && now_us >= line->closed_until_us &&
               bucket_when_us(&line->bucket, now_us) <= now_us) {
            struct place *place = next_place(lanes, line, now_us);
            if (!place || !begin_one(lanes, line, place, work))
                break;
        }
    }
}

static void on_done(void *owner, const struct net_result *result)
{
    struct lane_answer *answer = owner;
    struct lanes *lanes = answer->lanes;
    FAULT(lane_after_call);
    answer->result = *result;
    if (lanes->spans)
        trace_call_done(lanes->spans, &answer->trace, &answer->call, result);
    answer->body = result->body.length ? malloc(result->body.length) : NULL;
    if (answer->body)
        memcpy(answer->body, result->body.at, result->body.length);
    answer->result.body = (struct text){answer->body, answer->body ? result->body.length : 0};
    answer_push(lanes, answer);
    atomic_fetch_sub(&lanes->sent, 1);
    lanes->wake(lanes->wake_owner);
}

static void answer_at_once(struct lane_answer *carrier, enum outcome outcome, const char *text)
{
    const struct net_result result = {.outcome = outcome};
    carrier->result = result;
    snprintf(carrier->result.text, sizeof(carrier->result.text), "%s", text);
    answer_push(carrier->lanes, carrier);
}

static void send(struct lanes *lanes, struct lane_answer *carrier)
{
    struct net_http http = {.timeout_ms = carrier->line->limits.timeout_ms};
    struct net_mail mail = {.timeout_ms = carrier->line->limits.timeout_ms};
    bool is_mail = false;
    struct error error;
    arena_reset(lanes->arena);
    if (lanes->spans)
        trace_call_begin(&carrier->trace, &carrier->call, carrier->arena);
    FAULT(lane_before_call);
    enum outcome outcome = carrier->line->lane->request(lanes->state, lanes->arena, &carrier->call, &http,
                                                        &mail, &is_mail, &error);
    if (outcome == OK) {
        atomic_fetch_add(&lanes->sent, 1);
        trace_call_sent(&carrier->trace, is_mail, is_mail ? mail.url : http.url);
        outcome = is_mail ? net_mail(lanes->net, &mail, on_done, carrier, &error)
                          : net_http(lanes->net, &http, on_done, carrier, &error);
        if (outcome == OK)
            return;
        atomic_fetch_sub(&lanes->sent, 1);
    }
    answer_at_once(carrier, outcome, error.text);
}

static void observe(struct lane_answer *answer)
{
    int index = answer->result.outcome == OK       ? 0
                : answer->result.outcome == RETRY  ? 1
                : answer->result.outcome == OUTAGE ? 3
                                                   : 2;
    metric_observe(answer->line->seconds[index], (double)answer->result.duration_us / 1e6);
}

void lane_answer_free(struct lane_answer *answer)
{
    observe(answer);
    lane_answer_drop(answer);
}

void lanes_committed(struct lanes *lanes)
{
    struct lane_answer *begun = lanes->begun;
    lanes->begun = NULL;
    for (size_t i = 0; i < lanes->touched_count; i++) {
        struct place *place = lanes->touched[i];
        place->touched = place->fresh = false;
        if (place->state == PLACE_BEGUN)
            place->state = PLACE_ACTIVE;
        else if (place->state == PLACE_SETTLED)
            place_remove(place);
    }
    lanes->touched_count = 0;
    lanes->loading = false;
    struct lane_answer *returning = NULL;
    while (lanes->returning) { /* the oldest first */
        struct lane_answer *next = lanes->returning->next;
        lanes->returning->next = returning;
        returning = lanes->returning;
        lanes->returning = next;
    }
    if (returning)
        lanes->wake(lanes->wake_owner);
    while (returning) {
        struct lane_answer *next = returning->next;
        answer_push(lanes, returning);
        returning = next;
    }
    while (begun) {
        struct lane_answer *next = begun->next;
        send(lanes, begun);
        begun = next;
    }
    for (size_t i = 0; i < lanes->count; i++) {
        metric_set(lanes->line[i].in_flight, (double)lanes->line[i].active);
        metric_set(lanes->line[i].waiting,
                   (double)(lanes->line[i].places - lanes->line[i].active - lanes->line[i].foreign));
    }
}

void lanes_rolled_back(struct lanes *lanes)
{
    answers_free(lanes->begun);
    answers_free(lanes->returning);
    lanes->begun = lanes->returning = NULL;
    lanes->reload = lanes->reload || lanes->loading;
    lanes->loading = lanes->looking = false;
    for (size_t i = 0; i < lanes->touched_count; i++) {
        struct place *place = lanes->touched[i];
        place_go(lanes, place, place->before);
        place->due_us = place->due_before_us;
        place->touched = false;
        if (place->fresh)
            place_remove(place);
    }
    lanes->touched_count = 0;
    lanes->added_count = lanes->added_mark = 0;
}

size_t lanes_in_flight(struct lanes *lanes)
{
    size_t count = atomic_load(&lanes->sent); /* first: an answer is there before it is no longer counted */
    pthread_mutex_lock(&lanes->lock);
    for (const struct lane_answer *answer = lanes->answered; answer; answer = answer->next)
        count++;
    pthread_mutex_unlock(&lanes->lock);
    return count;
}

void lanes_stop(struct lanes *lanes)
{
    lanes->stopped = true;
}
