#include "bench_schedule.h"
#include "bench.h"

#include <math.h>
#include <stdlib.h>

enum { SCHEDULE_MIN = 1024 };

struct bench_random bench_random_of(uint64_t seed, uint64_t stream)
{
    uint64_t mixed = seed + UINT64_C(0x9e3779b97f4a7c15) * (stream + 1); /* splitmix64 */
    mixed = (mixed ^ (mixed >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ (mixed >> 27)) * UINT64_C(0x94d049bb133111eb);
    mixed ^= mixed >> 31;
    return (struct bench_random){.state = mixed ? mixed : 1};
}

uint64_t bench_random_next(struct bench_random *random)
{
    random->state ^= random->state >> 12;
    random->state ^= random->state << 25;
    random->state ^= random->state >> 27;
    return random->state * UINT64_C(2685821657736338717);
}

uint32_t bench_random_below(struct bench_random *random, uint32_t bound)
{
    return (uint32_t)(bench_random_next(random) >> 32) % bound;
}

/* Exponential, mean 1. */
static double draw_gap(struct bench_random *random)
{
    double uniform = (double)(bench_random_next(random) >> 11) * 0x1p-53;
    return -log1p(-uniform);
}

enum outcome bench_schedule_draw(enum bench_arrivals arrivals, double rate, int64_t length_us, uint64_t seed,
                                 int64_t **ret_due_us, size_t *ret_count, struct error *error)
{
    struct bench_random random = bench_random_of(seed, 0);
    int64_t *due_us = NULL;
    size_t count = 0, capacity = 0;
    double gap_us = 1e6 / rate, at_us = arrivals == BENCH_POISSON ? draw_gap(&random) * gap_us : 0;
    while (at_us < (double)length_us) {
        if (count == capacity) {
            capacity = capacity ? capacity * 2 : SCHEDULE_MIN;
            int64_t *grown = realloc(due_us, capacity * sizeof(*grown));
            if (!grown) {
                free(due_us);
                return error_fatal(error, "memory", "out of memory");
            }
            due_us = grown;
        }
        if (count == BENCH_STEP_ORDERS_MAX) {
            free(due_us);
            error_set(error, REJECT, "setting", "more than %d orders in a step: a lower rate, or shorter",
                      BENCH_STEP_ORDERS_MAX);
            error->exit_code = EXIT_CONFIG;
            return REJECT;
        }
        due_us[count++] = (int64_t)at_us;
        /* Of the number, not of the one before: nothing adds up. */
        at_us = arrivals == BENCH_POISSON ? at_us + draw_gap(&random) * gap_us : (double)count * gap_us;
    }
    *ret_due_us = due_us;
    *ret_count = count;
    return OK;
}

void bench_behind_note(struct bench_behind *behind, int64_t due_us, int64_t free_us, int64_t now_us)
{
    int64_t waited_us = free_us > due_us ? free_us - due_us : 0;
    int64_t own_us = now_us - due_us - waited_us;
    behind->sent++;
    behind->behind += own_us > BENCH_BEHIND_US;
    behind->late += own_us > BENCH_LATE_US;
    behind->waited += waited_us > BENCH_BEHIND_US;
    if (waited_us > behind->waited_max_us)
        behind->waited_max_us = waited_us;
    hdr_add(behind->own, own_us);
}

bool bench_behind_bottleneck(const struct bench_behind *behind)
{
    return behind->late * 100 > behind->sent * BENCH_BEHIND_PERCENT_MAX;
}
