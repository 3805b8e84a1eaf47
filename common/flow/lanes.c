#include "flow/lanes.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/metrics.h"
#include "net/net.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

static const struct rows_column calls_columns[] = {
    ROWS_COLUMN(call, id, ROWS_ID),          ROWS_COLUMN(call, lane, ROWS_TEXT),
    ROWS_COLUMN(call, key, ROWS_TEXT),       ROWS_COLUMN(call, payload, ROWS_BYTES),
    ROWS_COLUMN(call, attempts, ROWS_INT),   ROWS_COLUMN(call, due_us, ROWS_INT),
    ROWS_COLUMN(call, state, ROWS_INT),      ROWS_COLUMN(call, traceparent, ROWS_TEXT),
    ROWS_COLUMN(call, created_us, ROWS_INT),
};
const struct rows_table calls_table = {
    .name = "calls",
    .columns = calls_columns,
    .column_count = sizeof(calls_columns) / sizeof(calls_columns[0]),
    .key_count = 1,
    .row_bytes = sizeof(struct call),
    .indexes = {"lane, created_us"},
};

enum { LANES_KEY_BYTES_MAX = 64, CALL_SECONDS = 0, IN_FLIGHT = 1, WAITING = 2 };

static const struct metric_family lane_metrics[] = {
    [CALL_SECONDS] = {"weir_call_seconds", METRIC_HISTOGRAM, "peer,result",
                      "One attempt of a call to the outside.", metric_seconds_bounds},
    [IN_FLIGHT] = {"weir_calls_in_flight", METRIC_GAUGE, "peer", "Calls to the outside that are under way.",
                   NULL},
    [WAITING] = {"weir_calls_waiting", METRIC_GAUGE, "peer", "Calls in memory that wait for their turn.",
                 NULL},
};

enum place_state {
    PLACE_WAITING,  /* in line: by key, then by due time                  */
    PLACE_BEGUN,    /* marked active in the open transaction              */
    PLACE_ACTIVE,   /* sent                                               */
    PLACE_ANSWERED, /* came back, with the loop                           */
    PLACE_SETTLED,  /* gone with the open transaction                     */
};

/* A call in memory. Its payload is read when it begins, and let go when it is sent. */
struct place {
    struct place *previous, *next; /* in the lane's line, in order of creation */
    struct line *line;
    struct id id;
    uint64_t key_hash; /* two keys with one hash only wait for each other */
    int64_t due_us;
    enum place_state state;
    /* the open transaction, for its rollback */
    bool touched;
    bool fresh; /* its row is of this transaction */
    enum place_state before;
    int64_t due_before_us;
};

struct line {
    const struct lane *lane;
    struct lane_limits limits;
    struct place *first, *last; /* every place of the lane, oldest first */
    size_t places;
    size_t active;             /* begun, active or answered */
    int64_t look_at_us;        /* nothing becomes due before; 0: look now */
    bool more;                 /* the table holds calls that have no place */
    int64_t loaded_created_us; /* calls up to here have a place or are gone */
    /* outage: one probe at a time */
    int64_t outage_ms;
    int64_t closed_until_us;
    /* token bucket, in millionths of an attempt */
    int64_t tokens_micro, tokens_rest, tokens_at_us;
    struct metric *seconds[4], *in_flight, *waiting; /* ok, retry, failed, outage */
};

/* What came back; also the carrier of a call while it is sent. */
struct lane_answer {
    struct lane_answer *next;
    struct lanes *lanes;
    struct line *line;
    struct place *place;
    struct arena *arena; /* the call's own copy, until it is answered */
    struct call call;
    struct net_result result;
    char *body;
};

struct lanes {
    struct line line[LANES_MAX];
    size_t count;
    void *state;
    struct net *net;
    void (*wake)(void *owner);
    void *wake_owner;
    struct arena *arena; /* for building a request */
    bool loaded;
    bool stopped;
    int64_t last_created_us;
    struct lane_answer *begun; /* to be sent after commit */
    struct place **touched;    /* by the open transaction */
    size_t touched_count, touched_capacity;
    struct added { /* calls asked for in the open transaction, not yet in line */
        struct line *line;
        struct call call; /* its texts are the work's */
    } * added;
    size_t added_count, added_capacity, added_mark;

    pthread_mutex_t lock;
    struct lane_answer *answered, **answered_end;
    atomic_size_t sent; /* handed to the net, not yet answered */
};

static int64_t burst_micro(const struct lane_limits *limits)
{
    int64_t tenth_of_a_minute = limits->rate_per_hour * 1000000 / 600;
    return tenth_of_a_minute > 1000000 ? tenth_of_a_minute : 1000000;
}

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
        line->tokens_micro = burst_micro(&line->limits);
        line->tokens_at_us = clock_wall_us();
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

static void answer_free(struct lane_answer *answer)
{
    arena_destroy(answer->arena);
    free(answer->body);
    free(answer);
}

static void answers_free(struct lane_answer *answer)
{
    while (answer) {
        struct lane_answer *next = answer->next;
        answer_free(answer);
        answer = next;
    }
}

void lanes_destroy(struct lanes *lanes)
{
    if (!lanes)
        return;
    answers_free(lanes->begun);
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

static struct place *place_add(struct line *line, const struct call *call)
{
    if (line->places >= LANES_PLACES_MAX || line->more) {
        line->more = true;
        return NULL;
    }
    struct place *place = calloc(1, sizeof(*place));
    if (!place) {
        line->more = true;
        return NULL;
    }
    place->line = line;
    place->id = call->id;
    place->key_hash = text_hash(call->key);
    place->due_us = call->due_us;
    place->state = PLACE_WAITING;
    place->previous = line->last;
    if (line->last)
        line->last->next = place;
    else
        line->first = place;
    line->last = place;
    line->places++;
    line->look_at_us = 0;
    line->loaded_created_us = call->created_us;
    return place;
}

static void place_remove(struct place *place)
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
    line->look_at_us = 0;
    free(place);
}

static bool is_active(enum place_state state)
{
    return state == PLACE_BEGUN || state == PLACE_ACTIVE || state == PLACE_ANSWERED;
}

/* The only way from one state to another inside a transaction. False when out of memory: then nothing has
 * changed. */
static bool place_go(struct lanes *lanes, struct place *place, enum place_state state)
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
    place->line->look_at_us = 0;
    place->state = state;
    return true;
}

/* A carrier with a copy of the call of its own. NULL when out of memory. */
static struct lane_answer *carrier_new(struct lanes *lanes, struct line *line, struct place *place,
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

/* A call that was active when the process died: nobody knows whether it took effect. */
static void come_back(struct lanes *lanes, struct line *line, struct place *place, const struct call *call)
{
    struct lane_answer *answer = carrier_new(lanes, line, place, call);
    if (!answer)
        return; /* stays active in the table, taken up at the next start */
    answer->result.outcome = RETRY;
    answer->result.ambiguous = true;
    snprintf(answer->result.text, sizeof(answer->result.text),
             "the process ended while the call was under way");
    place->state = PLACE_ANSWERED;
    line->active++;
    answer_push(lanes, answer);
}

bool lanes_wants_load(const struct lanes *lanes)
{
    if (!lanes->loaded)
        return true;
    for (size_t i = 0; i < lanes->count; i++)
        if (lanes->line[i].more && lanes->line[i].places < LANES_PLACES_MAX / 2)
            return true;
    return false;
}

void lanes_load(struct lanes *lanes, struct work *work, int64_t now_us)
{
    (void)now_us;
    for (size_t i = 0; i < lanes->count; i++) {
        struct line *line = &lanes->line[i];
        if (lanes->loaded && (!line->more || line->places >= LANES_PLACES_MAX / 2))
            continue;
        const struct store_value from[] = {STORE_TEXT(text_of(line->lane->name)),
                                           STORE_INT(line->loaded_created_us)};
        size_t room = LANES_PLACES_MAX - line->places;
        void **rows;
        size_t count =
            rows_find(work, &calls_table, "lane = $1 AND created_us > $2 ORDER BY lane, created_us", from, 2,
                      room, &rows);
        if (work_failed(work, NULL) != OK)
            return;
        line->more = false;
        for (size_t row = 0; row < count; row++) {
            struct call *call = rows[row];
            if (call->created_us > lanes->last_created_us)
                lanes->last_created_us = call->created_us;
            if (call->state == CALL_PARKED)
                continue;
            struct place *place = place_add(line, call);
            if (!place)
                break;
            if (call->state == CALL_ACTIVE && !lanes->loaded)
                come_back(lanes, line, place, call);
        }
        if (count == room)
            line->more = true;
    }
    lanes->loaded = true;
}

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
    /* Strictly ascending: the order of calls is the order of their creation. */
    if (call->created_us <= lanes->last_created_us)
        call->created_us = lanes->last_created_us + 1;
    lanes->last_created_us = call->created_us;
    const struct call *row = rows_add(work, &calls_table, call);
    if (row)
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

/* Up to a tenth later, by the call's own id and attempt: calls that failed together do not come back together. */
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
    if (work_failed(work, error) != OK)
        return OUTAGE;
    if (!row) { /* settled already: its answer came twice */
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
    if (row)
        rows_delete(work, &calls_table, row);
    place_go(lanes, answer->place, PLACE_SETTLED);
}

static void tokens_fill(struct line *line, int64_t now_us)
{
    if (line->limits.rate_per_hour == 0)
        return;
    const int64_t hour_us = INT64_C(3600000000);
    int64_t passed_us = now_us - line->tokens_at_us;
    if (passed_us < 0)
        passed_us = 0; /* the wall clock was set back */
    if (passed_us > hour_us)
        passed_us = hour_us;
    int64_t rate = line->limits.rate_per_hour;
    int64_t burst = burst_micro(&line->limits);
    /* rate × passed ÷ 3600, in parts so that it cannot overflow; what does not divide is kept, however often
     * this is called */
    int64_t rest = rate * (passed_us % 3600) + line->tokens_rest;
    line->tokens_micro += rate * (passed_us / 3600) + rest / 3600;
    line->tokens_rest = rest % 3600;
    line->tokens_at_us = now_us;
    if (line->tokens_micro > burst)
        line->tokens_micro = burst;
}

/*
 * The first place in line that may begin: due, and no earlier call of its key still in line. A filter of bits
 * stands for the keys seen: a wrong hit only makes a call wait for another.
 */
static struct place *next_place(struct line *line, int64_t now_us)
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
        if (behind || place->state != PLACE_WAITING)
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

static int64_t tokens_at(const struct line *line, int64_t now_us)
{
    if (line->limits.rate_per_hour == 0 || line->tokens_micro >= 1000000)
        return now_us;
    return now_us + (1000000 - line->tokens_micro) * 3600 / line->limits.rate_per_hour + 1;
}

bool lanes_due(struct lanes *lanes, int64_t now_us, int64_t *ret_at_us)
{
    *ret_at_us = 0;
    for (size_t i = 0; i < lanes->count && !lanes->stopped; i++) {
        struct line *line = &lanes->line[i];
        if (line->active >= concurrency(line) || !line->first)
            continue;
        tokens_fill(line, now_us);
        int64_t at_us = tokens_at(line, now_us);
        if (at_us < line->closed_until_us)
            at_us = line->closed_until_us;
        if (at_us <= now_us && next_place(line, now_us))
            return true;
        if (at_us < line->look_at_us)
            at_us = line->look_at_us;
        if (at_us != INT64_MAX && (*ret_at_us == 0 || at_us < *ret_at_us))
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
    struct lane_answer *carrier = carrier_new(lanes, line, place, row);
    if (!carrier || !place_go(lanes, place, PLACE_BEGUN)) {
        if (carrier)
            answer_free(carrier);
        return false;
    }
    row->state = CALL_ACTIVE;
    row->attempts++;
    carrier->call.state = row->state;
    carrier->call.attempts = row->attempts;
    carrier->next = lanes->begun;
    lanes->begun = carrier;
    if (line->limits.rate_per_hour)
        line->tokens_micro -= 1000000;
    return true;
}

void lanes_begin(struct lanes *lanes, struct work *work, int64_t now_us)
{
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
        tokens_fill(line, now_us);
        while (line->active < concurrency(line) && now_us >= line->closed_until_us &&
               tokens_at(line, now_us) <= now_us) {
            struct place *place = next_place(line, now_us);
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
    FAULT(lane_before_call);
    enum outcome outcome = carrier->line->lane->request(lanes->state, lanes->arena, &carrier->call, &http,
                                                        &mail, &is_mail, &error);
    if (outcome == OK) {
        atomic_fetch_add(&lanes->sent, 1);
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
    answer_free(answer);
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
    while (begun) {
        struct lane_answer *next = begun->next;
        send(lanes, begun);
        begun = next;
    }
    for (size_t i = 0; i < lanes->count; i++) {
        metric_set(lanes->line[i].in_flight, (double)lanes->line[i].active);
        metric_set(lanes->line[i].waiting, (double)(lanes->line[i].places - lanes->line[i].active));
    }
}

void lanes_rolled_back(struct lanes *lanes)
{
    answers_free(lanes->begun);
    lanes->begun = NULL;
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

size_t lanes_in_flight(const struct lanes *lanes)
{
    return atomic_load(&lanes->sent);
}

void lanes_stop(struct lanes *lanes)
{
    lanes->stopped = true;
}
