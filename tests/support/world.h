/*
 * world: a service on librdkafka's mock cluster: it counts orders by customer and fails as it is told. For
 * tests of the flow. Its database is SQLite's, or what scratch_choose() has chosen.
 *
 * Customers: "shaky…" says RETRY while state.fail_times lasts, "bad…" REJECT, "breaks" breaks a constraint,
 * "away" OUTAGE while state.away is set; "slow…" are counted after state.slow_ms, "stuck…" when state.stuck
 * is no longer set (or after WAIT_MS_MAX), all others at once. Asked for "own…" or "told…" by a request, the
 * service counts it and emits an OrderPlaced as well, which for "own…" has had its effect with that.
 */
#ifndef SUPPORT_WORLD_H
#define SUPPORT_WORLD_H

#include "flow/dispatch.h"
#include "kafka/producer.h"
#include "support/broker.h"

#include <pthread.h>
#include <stdatomic.h>

enum { WAIT_MS_MAX = 60000, PARTITIONS = 3, WORLD_DELAY_1_MS = 50, WORLD_DELAY_2_MS = 100 };
enum { WORLD_HEADERS_MAX = 96 };
#define WORLD_RETRY_1 "retry.order.50ms"
#define WORLD_RETRY_2 "retry.order.100ms"

struct state {
    atomic_int fail_times; /* "shaky" customers fail so often */
    atomic_int handled;
    atomic_int slow_ms; /* "slow…" take so long */
    atomic_bool stuck;  /* "stuck…" wait, and the loop with them */
    atomic_bool away;   /* "away…" say OUTAGE */
    atomic_bool mended; /* "bad…" are no longer rejected */
};

struct world {
    struct broker *broker;
    char folder[64];
    char url[256];
    struct state state;
    struct config *config;
    struct metrics *metrics;
    struct registry *registry;
    struct store *store;
    struct dispatch *dispatch;
    pthread_t thread;
    struct error error;
    enum outcome outcome;
    struct producer *producer;
    atomic_int acked;
    int sent;
};

struct asked {
    struct request request;
    atomic_int status;
    char body[512];
};

struct seen {
    int64_t orders;
    char seen[256];
};

struct found {
    size_t count;
    struct {
        char name[64], value[256];
    } headers[WORLD_HEADERS_MAX];
    size_t header_count;
    char key[128];
    char value[256];
    size_t value_bytes;
};

void world_start(struct world *world);
void world_stop(struct world *world);
int world_setup(void **state);
int world_teardown(void **state);
void world_produce(struct world *world, struct text topic, int32_t partition, struct text key,
                   struct text value, const struct header *headers, size_t header_count);
/* An OrderPlaced of customer under a key of its own; mark tells it apart in the row's seen. All in partition
 * 0, so that order is told by it. */
void world_place(struct world *world, const char *event_id, const char *customer, const char *mark);
/* The same with a key, a topic and more headers of the test's choice. */
void world_place_on(struct world *world, struct text topic, const char *event_id, struct text order_id,
                    const char *customer, const char *mark, const struct header *more, size_t more_count);
struct seen world_look(struct world *world, const char *customer);
void world_wait_for_orders(struct world *world, const char *customer, int64_t orders);
struct found world_read(struct world *world, const char *topic, size_t count);
/* The same, of this type (ce_type) only; NULL: of all. */
struct found world_read_of(struct world *world, const char *topic, const char *type, size_t count);
const char *found_header(const struct found *found, const char *name);
void world_ask(struct world *world, struct asked *asked, const char *customer, const char *key);
int asked_wait(struct asked *asked);

#endif
