#include "service/client_rate.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/random.h>

enum { REQUEST = 1000000 /* in millionths, of which rate come in a microsecond */, SEED_BYTES = 16 };

struct seen {
    struct client_address address;
    int64_t micro, at_us;  /* filled up to then */
    uint32_t same_hash;    /* the next of its chain   */
    uint32_t newer, older; /* by when they were seen */
};

/* Places are numbered from 1, so that 0 is none; place 0 is the ring's head: newer is the oldest, older the
 * newest. */
struct client_rate {
    int64_t rate, burst_micro;
    pthread_mutex_t lock;
    uint8_t seed[SEED_BYTES]; /* nobody can choose addresses of one chain */
    size_t max, count, chain_count;
    struct seen *seen;
    uint32_t *chains;
};

enum outcome client_rate_open(int64_t rate, int64_t burst, size_t max, struct client_rate **ret,
                              struct error *error)
{
    assert(rate > 0 && rate <= CLIENT_RATE_MAX && burst > 0 && burst <= CLIENT_RATE_MAX && max > 0 &&
           max <= CLIENT_RATE_CLIENTS_MAX);
    struct client_rate *made = calloc(1, sizeof(*made));
    if (!made)
        return error_fatal(error, "memory", "http: out of memory");
    *made = (struct client_rate){
        .rate = rate,
        .burst_micro = burst * REQUEST,
        .max = max,
        .chain_count = 2 * max,
        .seen = calloc(max + 1, sizeof(*made->seen)),
        .chains = calloc(2 * max, sizeof(*made->chains)),
    };
    pthread_mutex_init(&made->lock, NULL);
    if (!made->seen || !made->chains) {
        client_rate_close(made);
        return error_fatal(error, "memory", "http: out of memory");
    }
    if (getrandom(made->seed, sizeof(made->seed), 0) != (ssize_t)sizeof(made->seed)) {
        client_rate_close(made);
        return error_fatal(error, "random", "http: the system gives no random bytes");
    }
    *ret = made;
    return OK;
}

void client_rate_close(struct client_rate *rate)
{
    if (!rate)
        return;
    pthread_mutex_destroy(&rate->lock);
    free(rate->seen);
    free(rate->chains);
    free(rate);
}

static uint32_t *chain_of(struct client_rate *rate, const struct client_address *address)
{
    char bytes[SEED_BYTES + sizeof(address->bytes)];
    memcpy(bytes, rate->seed, SEED_BYTES);
    memcpy(bytes + SEED_BYTES, address->bytes, sizeof(address->bytes));
    return &rate->chains[text_hash((struct text){bytes, sizeof(bytes)}) % rate->chain_count];
}

static void ring_remove(struct client_rate *rate, uint32_t place)
{
    struct seen *seen = &rate->seen[place];
    rate->seen[seen->newer].older = seen->older;
    rate->seen[seen->older].newer = seen->newer;
}

static void ring_add(struct client_rate *rate, uint32_t place)
{
    struct seen *seen = &rate->seen[place], *head = &rate->seen[0];
    seen->newer = 0;
    seen->older = head->older;
    rate->seen[head->older].newer = place;
    head->older = place;
}

/* A place for one more: the next that was never used, else that of whoever was seen longest ago. */
static uint32_t place_take(struct client_rate *rate)
{
    if (rate->count < rate->max)
        return (uint32_t)++rate->count;
    uint32_t oldest = rate->seen[0].newer;
    uint32_t *link = chain_of(rate, &rate->seen[oldest].address);
    while (*link != oldest)
        link = &rate->seen[*link].same_hash;
    *link = rate->seen[oldest].same_hash;
    ring_remove(rate, oldest);
    return oldest;
}

/* Its place, as the one that was seen last. */
static struct seen *find(struct client_rate *rate, const struct client_address *address, int64_t now_us)
{
    uint32_t *chain = chain_of(rate, address), place = *chain;
    while (place && memcmp(&rate->seen[place].address, address, sizeof(*address)) != 0)
        place = rate->seen[place].same_hash;
    if (place) {
        ring_remove(rate, place);
    } else {
        place = place_take(rate);
        rate->seen[place] = (struct seen){
            .address = *address, .micro = rate->burst_micro, .at_us = now_us, .same_hash = *chain};
        *chain = place;
    }
    ring_add(rate, place);
    return &rate->seen[place];
}

int client_rate_take(struct client_rate *rate, const struct client_address *address, int64_t now_us)
{
    static const struct client_address v4 = {.bytes = {[10] = 0xff, [11] = 0xff}};
    struct client_address client = *address;
    int wait_s = 0;
    if (memcmp(client.bytes, v4.bytes, 12) != 0)
        memset(client.bytes + 8, 0, 8);
    pthread_mutex_lock(&rate->lock);
    struct seen *seen = find(rate, &client, now_us);
    int64_t passed_us = now_us > seen->at_us ? now_us - seen->at_us : 0;
    int64_t room = rate->burst_micro - seen->micro;
    seen->micro += passed_us > room / rate->rate ? room : passed_us * rate->rate;
    if (passed_us > 0) /* two threads may come in the other order than they looked at the clock */
        seen->at_us = now_us;
    if (seen->micro >= REQUEST) {
        seen->micro -= REQUEST;
    } else {
        int64_t per_second = rate->rate * REQUEST;
        wait_s = (int)((REQUEST - seen->micro + per_second - 1) / per_second);
    }
    pthread_mutex_unlock(&rate->lock);
    return wait_s;
}
