#include "bench_load.h"

static void drop_next(struct bench_load *load)
{
    bench_track_dropped(load->track, load->next++);
}

bool bench_load_due(struct bench_load *load, int64_t now_us)
{
    bool cut = atomic_load(&load->cut);
    while (load->next < load->count && (cut || load->begun_us + load->orders[load->next].due_us <= now_us)) {
        if (!cut && bench_track_outstanding(load->track) < load->outstanding_max)
            return true;
        drop_next(load);
    }
    return false;
}

size_t bench_load_take(struct bench_load *load, int64_t free_us, int64_t now_us, struct bench_draft *ret)
{
    size_t index = load->next++;
    int64_t due_us = load->orders[index].due_us;
    bench_order_draw(&load->cart, load->first + (uint32_t)index, load->begun_wall_us + due_us, ret);
    bench_behind_note(&load->behind, load->begun_us + due_us, free_us, now_us);
    bench_track_sent(load->track, index, now_us);
    return index;
}

int64_t bench_load_wait_us(const struct bench_load *load, int64_t now_us)
{
    if (load->next == load->count)
        return -1;
    int64_t wait_us = load->begun_us + load->orders[load->next].due_us - now_us;
    return wait_us > 0 ? wait_us : 0;
}

bool bench_load_over(const struct bench_load *load, int64_t now_us)
{
    return load->next == load->count || now_us > atomic_load(&load->give_up_us);
}
