/*
 * The loop, top down: dispatch_run() near the end of the file reads as the list of its duties.
 */
#include "flow/loop.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/json.h"
#include "store/outbox.h"

#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    DRAIN_STEP_MS = 10,
    DRAIN_LOOKS_MAX = 3, /* by the last process on a database, for what others left in the outbox */
};

const struct setting flow_settings[] = {
    {"BATCH_COUNT_MAX", SETTING_INT, "2000", 1, 10000, NULL, "Items in one transaction at most."},
    {"INBOX_AGE", SETTING_DURATION, "14d", 60 * 1000, INT64_C(10) * 365 * 86400 * 1000, NULL,
     "How long the ids of handled events are kept; longer than any topic's retention."},
    {"WAITING_MAX", SETTING_INT, "100000", 1, 100000000, NULL,
     "Records that may wait behind failed ones of their keys; past it the partitions wait."},
    {"WAITING_KEYS_MAX", SETTING_INT, "100000", 1, 100000000, NULL,
     "Keys that may wait for a failed record of theirs, with or without others behind it; past it the "
     "partition of the "
     "next record that fails waits."},
    {"DEAD_LETTER_HOLD", SETTING_CHOICE, "used-up", 0, 0, "used-up|all|none",
     "Whether a key waits while a record of it is a dead letter, until that is redriven or dropped: when its "
     "attempts are used up (or it killed the process), also when it can never succeed, or never."},
    {"FLOOD_SHARE", SETTING_INT, "50", 0, 100, NULL,
     "Per cent of the records rejected within FLOOD_WINDOW past which the service stops to take any; 0: no "
     "limit."},
    {"FLOOD_COUNT_MIN", SETTING_INT, "1000", 1, 1000000000, NULL,
     "Rejected records within FLOOD_WINDOW before FLOOD_SHARE counts."},
    {"FLOOD_COUNT", SETTING_INT, "20000", 0, 1000000000, NULL,
     "Rejected records within FLOOD_WINDOW past which the service stops whatever their share; 0: no limit."},
    {"FLOOD_WINDOW", SETTING_DURATION, "1min", 1000, 86400 * 1000, NULL, "What the flood guard looks at."},
    {"CHAOS", SETTING_TEXT, NULL, 0, 0, NULL,
     "Failures on purpose in front of the handlers, for show and for tests: keys=1%:2, poison=0.1%, "
     "outage=5s/1min, slow=1%:200ms, crash=0.01%, seed=7."},
    SETTINGS_END,
};

const struct rows_table *const flow_tables[] = {&calls_table,   &idempotency_table, &held_table,
                                                &waiting_table, &suspects_table,    NULL};

/* ---- waking */

static void wake(void *owner)
{
    struct dispatch *dispatch = owner;
    if (!atomic_exchange(&dispatch->woken, true)) {
        uint64_t one = 1;
        ssize_t written = write(dispatch->wake_fd, &one, sizeof(one));
        (void)written; /* only fails when it is set already */
    }
}

static void wait_for(struct dispatch *dispatch, int64_t wait_ms)
{
    struct pollfd wait = {.fd = dispatch->wake_fd, .events = POLLIN};
    if (poll(&wait, 1, wait_ms > 60000 ? 60000 : (int)wait_ms) > 0) {
        uint64_t count;
        ssize_t got = read(dispatch->wake_fd, &count, sizeof(count));
        (void)got;
    }
    /* Cleared before anything is looked at: what comes after wakes again. */
    atomic_store(&dispatch->woken, false);
}

/* ---- the doors */

static struct item *item_next(struct dispatch *dispatch, enum door door)
{
    struct item *item = &dispatch->items[dispatch->count++];
    item_clear(item, door);
    return item;
}

/* How many records may be taken now: few while it is not sure that they will be handled. */
static size_t records_wanted(struct dispatch *dispatch, size_t room)
{
    unsigned paused = consumer_paused(dispatch->consumer);
    if (dispatch->fatal || atomic_load(&dispatch->stopping) || (paused & (PAUSE_FLOOD | PAUSE_OPERATOR)))
        return 0;
    bool probing = dispatch->outage_ms || dispatch->flood.state == FLOOD_HALF_OPEN;
    return probing && room ? 1 : room;
}

static void take(struct dispatch *dispatch)
{
    size_t room = dispatch->batch_count_max;
    dispatch->count = 0;

    struct waiting_request requests[64];
    for (size_t got = 1; got && room > dispatch->batch_count_max / 2;) {
        got = requests_take(&dispatch->requests, requests, room < 64 ? room : 64);
        for (size_t i = 0; i < got; i++)
            item_next(dispatch, DOOR_REQUEST)->request = requests[i];
        room -= got;
    }
    struct lane_answer *answers[64];
    for (size_t got = 1; got && room > dispatch->batch_count_max / 4;) {
        got = lanes_take(dispatch->lanes, answers, room < 64 ? room : 64);
        for (size_t i = 0; i < got; i++)
            item_next(dispatch, DOOR_ANSWER)->lane_answer = answers[i];
        room -= got;
    }
    bool backlog = outbox_rows(dispatch->settings.store) >= DISPATCH_OUTBOX_ROWS_MAX;
    if (backlog != !!(consumer_paused(dispatch->consumer) & PAUSE_BACKLOG)) {
        if (backlog)
            consumer_pause(dispatch->consumer, PAUSE_BACKLOG);
        else
            consumer_resume(dispatch->consumer, PAUSE_BACKLOG);
    }
    room = backlog ? 0 : records_wanted(dispatch, room);
    size_t got =
        room ? consumer_take(dispatch->consumer, dispatch->records, room, DISPATCH_BATCH_BYTES_MAX) : 0;
    for (size_t i = 0; i < got; i++) {
        struct item *item = item_next(dispatch, DOOR_RECORD);
        item->record = dispatch->records[i];
        item_suspect(item, crash_count(dispatch->crash, &item->record));
    }
}

/* ---- the loop */

static void earlier(int64_t *wait_ms, int64_t ms)
{
    if (ms < 0)
        ms = 0;
    if (ms < *wait_ms)
        *wait_ms = ms;
}

/* How long nothing will be due. A wake ends the wait before that. */
static int64_t idle_ms(struct dispatch *dispatch)
{
    int64_t now_us = clock_monotonic_us(), wait_ms = 1000, at_us;
    if (dispatch->outage_until_us)
        return dispatch->outage_until_us > now_us ? (dispatch->outage_until_us - now_us) / 1000 + 1 : 0;
    earlier(&wait_ms, ticks_wait_ms(dispatch, now_us));
    earlier(&wait_ms, sharing_wait_ms(dispatch, now_us));
    if (relay_poll_ms(dispatch->relay, now_us) >= 0)
        earlier(&wait_ms, relay_poll_ms(dispatch->relay, now_us));

    int64_t relay_ms = relay_wait_ms(dispatch->relay);
    if (relay_ms == RELAY_SETTLE_MS) { /* counted from when there was first something to settle */
        if (!dispatch->settle_due_us)
            dispatch->settle_due_us = now_us + RELAY_SETTLE_MS * 1000;
        earlier(&wait_ms, (dispatch->settle_due_us - now_us + 999) / 1000);
    } else if (relay_ms >= 0) {
        earlier(&wait_ms, relay_ms);
    }
    int64_t wall_us = clock_wall_us();
    if (lanes_due(dispatch->lanes, wall_us, &at_us) || lanes_wants_load(dispatch->lanes))
        return 0;
    if (at_us)
        earlier(&wait_ms, (at_us - wall_us + 999) / 1000);
    return wait_ms;
}

/* Nothing came through a door, but the relay or a lane has something to do: an empty batch serves them. */
static bool housekeeping_due(struct dispatch *dispatch)
{
    int64_t at_us, relay_ms = relay_wait_ms(dispatch->relay);
    if (relay_ms == 0 || relay_poll_ms(dispatch->relay, clock_monotonic_us()) == 0 ||
        lanes_wants_load(dispatch->lanes) || lanes_due(dispatch->lanes, clock_wall_us(), &at_us))
        return true;
    return relay_ms == RELAY_SETTLE_MS && dispatch->settle_due_us &&
           clock_monotonic_us() >= dispatch->settle_due_us;
}

static void gauges(struct dispatch *dispatch)
{
    struct meters *meters = &dispatch->meters;
    int64_t oldest_us = outbox_oldest_us(dispatch->settings.store);
    unsigned paused = consumer_paused(dispatch->consumer);
    metric_set(meters->outbox_rows, (double)outbox_rows(dispatch->settings.store));
    metric_set(meters->outbox_oldest_seconds, oldest_us ? (double)(clock_wall_us() - oldest_us) / 1e6 : 0);
    metric_set(meters->instances, (double)atomic_load(&dispatch->instances_seen));
    metric_set(meters->parts_owned, (double)atomic_load(&dispatch->parts_owned));
    metric_set(meters->waiting_keys, (double)atomic_load(&dispatch->held_keys));
    int64_t held_us = atomic_load(&dispatch->held_since_us);
    metric_set(meters->waiting_oldest_seconds, held_us ? (double)(clock_wall_us() - held_us) / 1e6 : 0);
    metric_set(meters->waiting_records, (double)atomic_load(&dispatch->waiting_records));
    metric_set(meters->paused_outage, (paused & PAUSE_OUTAGE) || atomic_load(&dispatch->schema_waits));
    metric_set(meters->paused_flood, atomic_load(&dispatch->in_flood));
    metric_set(meters->paused_backlog, (paused & PAUSE_BACKLOG) || atomic_load(&dispatch->room_full));
    metric_set(meters->paused_operator, !!(paused & PAUSE_OPERATOR));
}

static void oldest_of(void *owner, const struct consumer_partition *partition)
{
    int64_t *oldest_ms = owner;
    if (partition->oldest_ms && (*oldest_ms == 0 || partition->oldest_ms < *oldest_ms))
        *oldest_ms = partition->oldest_ms;
}

static void collect(void *owner)
{
    struct dispatch *dispatch = owner;
    int64_t oldest_ms = 0;
    gauges(dispatch);
    consumer_each(dispatch->consumer, oldest_of, &oldest_ms);
    int64_t age_us = oldest_ms ? clock_wall_us() - oldest_ms * 1000 : 0;
    metric_set(dispatch->meters.oldest_unhandled_seconds, age_us > 0 ? (double)age_us / 1e6 : 0);
}

/* A record that has killed the process goes in a batch of its own: only it can suffer from itself. */
static void run_taken(struct dispatch *dispatch)
{
    size_t first = 0;
    for (size_t i = 0; i < dispatch->count; i++) {
        if (!dispatch->items[i].crashes)
            continue;
        if (i > first)
            batch_run(dispatch, &dispatch->items[first], i - first);
        batch_run(dispatch, &dispatch->items[i], 1);
        first = i + 1;
    }
    if (first < dispatch->count || dispatch->count == 0)
        batch_run(dispatch, &dispatch->items[first], dispatch->count - first);
}

/* Once, before anything is handled: what the tables hold, and whether the process before this one died on a
 * record. */
static void load(struct dispatch *dispatch)
{
    struct error error;
    struct work *work = dispatch->work;
    struct crash_place place;
    int crashes = 0;
    enum outcome outcome = work_begin(work, &error);
    if (outcome == OK)
        outcome = work_read(work, &error);
    if (outcome == OK) {
        waiting_load(&dispatch->room, work, config_int(dispatch->settings.config, "WAITING_MAX"));
        crash_load(dispatch->crash, work, clock_wall_us(), &crashes);
        outcome = work_commit(work, &error);
    }
    if (outcome != OK) {
        batch_rolled_back(dispatch);
        if (outcome == FATAL)
            give_up(dispatch, &error);
        outage_begin(dispatch, &error);
        return;
    }
    crash_committed(dispatch->crash);
    outage_end(dispatch);
    dispatch->loaded = true;
    if (crashes && crash_found(dispatch->crash, &place))
        log_error("crash", "the process died while it handled this record: it is tried alone",
                  LOG_STRING("topic", place.topic), LOG_INT("partition", place.partition),
                  LOG_INT("offset", place.offset), LOG_INT("crashes", crashes),
                  LOG_INT("crashes_max", CRASH_ATTEMPTS_MAX));
}

static void turn(struct dispatch *dispatch)
{
    dispatch->count = 0;
    if (!sharing_beat(dispatch))
        return;
    if (!dispatch->loaded)
        load(dispatch);
    if (!dispatch->loaded)
        return;
    flood_look(dispatch);
    schema_wait_look(dispatch);
    room_full_look(dispatch);
    waiters_count(dispatch);
    if (dispatch->room.draining && !waiters_paused(dispatch))
        batch_run_waiters(dispatch);
    if (dispatch->outage_until_us)
        return;
    take(dispatch);
    if (dispatch->count == 0)
        relay_send(dispatch->relay);
    bool store_away = dispatch->outage_ms && !dispatch->outage_of_handler; /* an empty batch will tell */
    if (dispatch->count || store_away || housekeeping_due(dispatch)) {
        dispatch->settle_due_us = 0;
        run_taken(dispatch);
    }
    atomic_store(&dispatch->held_keys, dispatch->room.keys);
    atomic_store(&dispatch->waiting_records, dispatch->room.records);
    if (!dispatch->outage_until_us && !dispatch->fatal)
        waiters_look(dispatch);
    ticks_run(dispatch);
}

/* While the store is away requests are answered at once; records and answers wait where they are. */
static void refuse_requests(struct dispatch *dispatch)
{
    struct waiting_request requests[64];
    size_t got;
    while ((got = requests_take(&dispatch->requests, requests, 64)) > 0)
        for (size_t i = 0; i < got; i++) {
            struct item item = {.door = DOOR_REQUEST, .request = requests[i]};
            batch_put_back(dispatch, &item, 1);
        }
}

/* All that was begun is finished: nothing in the doors, nothing in flight, nothing to delete. */
static bool drained(struct dispatch *dispatch)
{
    /* In this order: what is reported meanwhile is to be deleted then. */
    return dispatch->count == 0 && lanes_in_flight(dispatch->lanes) == 0 &&
           relay_in_flight(dispatch->relay) == 0 && relay_wait_ms(dispatch->relay) < 0;
}

static void drain(struct dispatch *dispatch, int64_t (*drain_left_ms)(void))
{
    log_info("drain", "finishing what is in hand", LOG_INT("left_ms", drain_left_ms()));
    relay_send(dispatch->relay);
    requests_shut(&dispatch->requests);
    consumer_stop(dispatch->consumer);
    lanes_stop(dispatch->lanes);
    FAULT(drain_before_close);
    /* A tenth of the time is kept for closing. Nobody has asked for a drain, and its time stands still, where
     * the loop itself cannot go on. */
    int64_t keep_ms = drain_left_ms() / 10,
            until_us = clock_monotonic_us() + (drain_left_ms() - keep_ms) * INT64_C(1000);
    int looks = 0;
    while (drain_left_ms() > keep_ms && clock_monotonic_us() < until_us) {
        if (dispatch->fatal && dispatch->outage_ms > DISPATCH_OUTAGE_MS_MIN)
            break; /* and again: nothing more can be committed */
        if (dispatch->outage_until_us > clock_monotonic_us()) {
            refuse_requests(dispatch);
            wait_for(dispatch, DRAIN_STEP_MS);
            continue;
        }
        if (!sharing_beat(dispatch))
            continue;
        dispatch->settle_due_us = 1; /* at once: there is nothing to wait for any more */
        take(dispatch);
        if (dispatch->count || housekeeping_due(dispatch))
            batch_run(dispatch, dispatch->items, dispatch->count);
        relay_send(dispatch->relay);
        if (drained(dispatch) && !dispatch->outage_ms &&
            (sharing_leave(dispatch) || ++looks == DRAIN_LOOKS_MAX))
            break;
        if (!relay_connected(dispatch->relay) && lanes_in_flight(dispatch->lanes) == 0 &&
            dispatch->count == 0)
            break; /* what is in the outbox is sent at the next start */
        wait_for(dispatch, DRAIN_STEP_MS);
    }
    refuse_requests(dispatch);
    log_info("drain", "done", LOG_INT("outbox_rows", outbox_rows(dispatch->settings.store)),
             LOG_INT("calls_in_flight", (int64_t)lanes_in_flight(dispatch->lanes)));
}

enum outcome dispatch_run(struct dispatch *dispatch, int64_t (*drain_left_ms)(void), struct error *error)
{
    while (!atomic_load(&dispatch->stopping) && !dispatch->fatal) {
        atomic_store(&dispatch->turned_us, clock_monotonic_us());
        if (dispatch->outage_until_us > clock_monotonic_us()) {
            refuse_requests(dispatch);
        } else {
            if (dispatch->outage_until_us)
                outage_probe(dispatch);
            turn(dispatch);
            if (dispatch->count || (dispatch->room.draining && !waiters_paused(dispatch)))
                continue; /* there may be more already: look before waiting */
        }
        relay_send(dispatch->relay);
        wait_for(dispatch, idle_ms(dispatch));
        const char *fatal = consumer_fatal(dispatch->consumer);
        if (fatal) {
            struct error consumer_error;
            error_set(&consumer_error, FATAL, "consumer", "Kafka: %s", fatal);
            if (consumer_denied(dispatch->consumer))
                consumer_error.exit_code = EXIT_CONFIG;
            give_up(dispatch, &consumer_error);
        }
    }
    drain(dispatch, drain_left_ms);
    if (dispatch->fatal) {
        *error = dispatch->fatal_error;
        error->outcome = FATAL;
        return FATAL;
    }
    return OK;
}

int64_t dispatch_turned_us(const struct dispatch *dispatch)
{
    return atomic_load(&dispatch->turned_us);
}

void dispatch_stop(struct dispatch *dispatch)
{
    atomic_store(&dispatch->stopping, true);
    wake(dispatch);
}

bool dispatch_request(struct dispatch *dispatch, void *exchange, const struct request *request)
{
    bool first;
    if (!requests_put(&dispatch->requests, exchange, request, &first))
        return false;
    if (first)
        wake(dispatch);
    return true;
}

bool dispatch_ready(const struct dispatch *dispatch, char *reason, size_t reason_bytes)
{
    char refused[256], why[ERROR_TEXT_BYTES_MAX];
    if (atomic_load(&dispatch->stopping)) {
        snprintf(reason, reason_bytes, "draining");
        return false;
    }
    if (atomic_load(&dispatch->in_outage)) {
        reason_get(dispatch->outage_reason, why);
        snprintf(reason, reason_bytes, "outage: %s", why);
        return false;
    }
    if (atomic_load(&dispatch->schema_waits)) {
        reason_get(dispatch->schema_reason, why);
        snprintf(reason, reason_bytes, "outage: %s", why);
        return false;
    }
    if (atomic_load(&dispatch->in_flood)) {
        reason_get(dispatch->flood_reason, why);
        snprintf(reason, reason_bytes, "flood: %s", why);
        return false;
    }
    if (!consumer_ready(dispatch->consumer)) {
        char trouble[256];
        bool known = consumer_trouble(dispatch->consumer, trouble, sizeof(trouble));
        snprintf(reason, reason_bytes, "Kafka has not given this member its partitions%s%s",
                 known ? ": " : "", known ? trouble : "");
        return false;
    }
    if (relay_refused(dispatch->relay, refused, sizeof(refused))) {
        snprintf(reason, reason_bytes, "Kafka does not take what this service writes: %s", refused);
        return false;
    }
    snprintf(reason, reason_bytes, "ready");
    return true;
}

void dispatch_pause(struct dispatch *dispatch)
{
    consumer_pause(dispatch->consumer, PAUSE_OPERATOR);
    log_warn("flow", "paused by an operator: no records are taken", LOG_STRING("reason", "operator"));
}

void dispatch_resume(struct dispatch *dispatch)
{
    if (consumer_paused(dispatch->consumer) & PAUSE_OPERATOR)
        log_info("flow", "resumed by an operator", LOG_STRING("reason", "operator"));
    consumer_resume(dispatch->consumer, PAUSE_OPERATOR);
    atomic_store(&dispatch->resume_asked, true);
    wake(dispatch);
}

void dispatch_status(const struct dispatch *dispatch, struct buffer *into)
{
    static const struct {
        enum consumer_pause reason;
        const char *name;
    } reasons[] = {{PAUSE_OUTAGE, "outage"},
                   {PAUSE_FLOOD, "flood"},
                   {PAUSE_BACKLOG, "backlog"},
                   {PAUSE_OPERATOR, "operator"}};
    struct json_writer writer = json_writer(into);
    unsigned paused = consumer_paused(dispatch->consumer);
    bool flood = atomic_load(&dispatch->in_flood), full = atomic_load(&dispatch->room_full);
    json_object_begin(&writer);
    json_key(&writer, "paused");
    json_array_begin(&writer);
    for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
        if (reasons[i].reason == PAUSE_FLOOD
                ? flood
                : (paused & reasons[i].reason) != 0 || (reasons[i].reason == PAUSE_BACKLOG && full))
            json_put_text(&writer, text_of(reasons[i].name));
    json_array_end(&writer);
    if (flood) {
        char why[ERROR_TEXT_BYTES_MAX];
        reason_get(dispatch->flood_reason, why);
        json_member_string(&writer, "flood", why);
    }
    json_member_int(&writer, "held_keys", atomic_load(&dispatch->held_keys));
    json_member_int(&writer, "waiting", atomic_load(&dispatch->waiting_records));
    json_member_int(&writer, "instances", atomic_load(&dispatch->instances_seen));
    json_member_int(&writer, "parts_owned", atomic_load(&dispatch->parts_owned));
    json_member_int(&writer, "parts_wanted", atomic_load(&dispatch->parts_wanted));
    json_object_end(&writer);
}

bool dispatch_read_old(struct dispatch *dispatch, const char *topic)
{
    int64_t delay_ms;
    size_t step;
    if (dispatch->topic_count == 0 ||
        !topic_retry_delay(text_of(topic), dispatch->settings.service, &delay_ms) ||
        retry_find(&dispatch->retry, text_of(topic), &step))
        return true;
    if (!retry_add_old(&dispatch->retry, topic, delay_ms) || !consumer_add_topic(dispatch->consumer, topic))
        return false;
    log_warn(
        "retry",
        "a retry topic of an earlier RETRY_DELAYS is there: it is read, and may be deleted once it is empty",
        LOG_STRING("topic", topic));
    return true;
}

struct consumer *dispatch_consumer(const struct dispatch *dispatch)
{
    return dispatch->consumer;
}

/* ---- open and close */

/* The topics of the subscriptions and the retry topics, each once. */
static enum outcome topics_open(struct dispatch *dispatch, struct error *error)
{
    size_t count = 0;
    dispatch->topics = calloc(TOPIC_COUNT + RETRY_DELAYS_MAX + 1, sizeof(*dispatch->topics));
    if (!dispatch->topics)
        return error_fatal(error, "memory", "dispatch: out of memory");
    for (const struct subscription *s = dispatch->settings.subscriptions; s && s->type; s++)
        dispatch->reads[s->type->topic] = true;
    for (int topic = 0; topic < TOPIC_COUNT; topic++)
        if (dispatch->reads[topic])
            dispatch->topics[count++] = topic_get((enum topic_id)topic)->name;
    dispatch->topic_count = count;
    for (size_t i = 0; count && i < dispatch->retry.count; i++) {
        size_t first;
        if (retry_find(&dispatch->retry, text_of(dispatch->retry.topics[i]), &first) && first == i)
            dispatch->topics[count++] = dispatch->retry.topics[i];
    }
    return OK;
}

static enum outcome guards_open(struct dispatch *dispatch, struct error *error)
{
    const struct config *config = dispatch->settings.config;
    const char *hold = config_text(config, "DEAD_LETTER_HOLD"), *chaos = config_text(config, "CHAOS");
    dispatch->hold_used_up = strcmp(hold, "none") != 0;
    dispatch->hold_rejected = strcmp(hold, "all") == 0;
    dispatch->held_keys_max = config_int(config, "WAITING_KEYS_MAX");
    flood_init(&dispatch->flood, &(struct flood_limits){
                                     .window_ms = config_ms(config, "FLOOD_WINDOW"),
                                     .count_min = config_int(config, "FLOOD_COUNT_MIN"),
                                     .share_percent = (int)config_int(config, "FLOOD_SHARE"),
                                     .count_max = config_int(config, "FLOOD_COUNT"),
                                 });
    enum outcome outcome = chaos_parse(text_of(chaos ? chaos : ""), &dispatch->chaos, error);
    if (outcome != OK) {
        error_prefix(error, "CHAOS");
        error->outcome = FATAL;
        error->exit_code = EXIT_CONFIG;
        return FATAL;
    }
    return crash_open(dispatch->settings.crash_note, &dispatch->crash, error);
}

static void send_meanwhile(void *owner)
{
    relay_send(owner);
}

enum outcome dispatch_open(const struct dispatch_settings *settings, struct dispatch **ret,
                           struct error *error)
{
    struct dispatch *dispatch = calloc(1, sizeof(*dispatch));
    if (!dispatch)
        return error_fatal(error, "memory", "dispatch: out of memory");
    dispatch->settings = *settings;
    dispatch->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    dispatch->batch_count_max = (size_t)config_int(settings->config, "BATCH_COUNT_MAX");
    dispatch->inbox_age_us = config_ms(settings->config, "INBOX_AGE") * 1000;
    dispatch->items = calloc(dispatch->batch_count_max, sizeof(*dispatch->items));
    dispatch->records = calloc(dispatch->batch_count_max, sizeof(*dispatch->records));
    dispatch->held = calloc(dispatch->batch_count_max, sizeof(*dispatch->held));
    dispatch->waiters = calloc(WAITERS_MAX, sizeof(*dispatch->waiters));
    dispatch->waiters_max = WAITERS_MAX;
    dispatch->copier = (struct copier){settings->service, settings->group_id};
    retry_init(&dispatch->retry, settings->service, settings->retry_delays_ms, settings->retry_delay_count);
    dispatch->prune_due_us = clock_monotonic_us() + PRUNE_INTERVAL_MS * 1000;
    dispatch->context = (struct context){
        .spans = settings->spans,
        .service = settings->service,
        .state = settings->state,
        .registry = settings->registry,
        .scratch = buffer_of(CODEC_ENCODED_BYTES_MAX),
    };

    enum outcome outcome = OK;
    if (dispatch->wake_fd < 0 || !dispatch->items || !dispatch->records || !dispatch->held ||
        !dispatch->waiters)
        outcome = error_fatal(error, "memory", "dispatch: out of memory or descriptors");
    if (outcome == OK)
        outcome = topics_open(dispatch, error);
    if (outcome == OK)
        outcome = guards_open(dispatch, error);
    if (!dispatch->context.spans && !dispatch->chaos.on) /* each record is to be seen, and struck */
        dispatch->context.own = &dispatch->own;
    if (outcome == OK)
        outcome = decode_open(&dispatch->decode, settings->subscriptions, settings->registry, error);
    if (outcome == OK)
        outcome = requests_open(&dispatch->requests, DISPATCH_REQUESTS_MAX, error);
    if (outcome == OK)
        outcome = work_new(settings->store, DISPATCH_BATCH_MEMORY_MAX, &dispatch->work, error);
    if (outcome != OK)
        goto out;
    work_set_owner(dispatch->work, &dispatch->context);
    meters_open(&dispatch->meters, settings->metrics, dispatch->reads);

    outcome = lanes_new(settings->lanes, settings->limits, settings->state, settings->net, settings->metrics,
                        wake, dispatch, &dispatch->lanes, error);
    if (outcome != OK)
        goto out;
    dispatch->context.lanes = dispatch->lanes;
    lanes_trace(dispatch->lanes, settings->spans);
    dispatch->context.instances = &dispatch->instances;
    lanes_share(dispatch->lanes, &dispatch->instances);

    const struct producer_settings producer = {
        .client = settings->client,
        .linger_ms = (int)config_ms(settings->config, "KAFKA_LINGER"),
        .queue_records_max = 100000,
        .queue_kbytes_max = 64 << 10,
    };
    outcome = relay_open(&producer, wake, dispatch, &dispatch->relay, error);
    if (outcome != OK)
        goto out;
    if (store_meanwhile(settings->store, send_meanwhile, dispatch->relay)) {
        outcome = work_new(settings->store, DISPATCH_BATCH_MEMORY_MAX, &dispatch->spare, error);
        if (outcome != OK)
            goto out;
        work_set_owner(dispatch->spare, &dispatch->context);
    }
    relay_trace(dispatch->relay, settings->spans);
    relay_share(dispatch->relay, &dispatch->instances);
    const struct consumer_settings consumer = {
        .client = settings->client,
        .group_id = settings->group_id,
        .topics = dispatch->topics,
        .queue_records_max = 6000,
        .queue_bytes_max = 32 << 20,
        .commit_interval_ms = 200,
        .revoke_wait_ms = 5000,
        .wake = wake,
        .wake_owner = dispatch,
    };
    outcome = consumer_open(&consumer, &dispatch->consumer, error);
    if (outcome != OK)
        goto out;
    metrics_on_collect(settings->metrics, collect, dispatch);
    *ret = dispatch;
    return OK;
out:
    dispatch_close(dispatch, 0);
    return outcome;
}

void dispatch_close(struct dispatch *dispatch, int timeout_ms)
{
    if (!dispatch)
        return;
    route_tell_rest(dispatch, true);
    if (dispatch->consumer)
        consumer_close(dispatch->consumer, timeout_ms / 2);
    store_meanwhile(dispatch->settings.store, NULL, NULL);
    relay_close(dispatch->relay, timeout_ms / 2);
    if (dispatch->instances.joined) /* nothing is sent any more: another takes over at once */
        instances_leave(dispatch->settings.store, &dispatch->instances);
    lanes_destroy(dispatch->lanes);
    work_destroy(dispatch->work);
    work_destroy(dispatch->spare);
    requests_close(&dispatch->requests);
    buffer_free(&dispatch->context.scratch);
    if (dispatch->wake_fd >= 0)
        close(dispatch->wake_fd);
    free(dispatch->topics);
    free(dispatch->items);
    free(dispatch->records);
    free(dispatch->held);
    free(dispatch->waiters);
    crash_close(dispatch->crash);
    own_free(&dispatch->own);
    free(dispatch);
}
