/* What an event brings to the inventory work, for the store's bench and its floor. */
#ifndef BENCH_INVENTORY_WORK_H
#define BENCH_INVENTORY_WORK_H

#include "base/ids.h"
#include "wire/event.h"

#include <stdio.h>
#include <sys/resource.h>
#include <time.h>

enum { SKUS = 200, VALUE_BYTES = 150, HEADERS = 8, BLOB_BYTES_MAX = 1024 };
#define STOCK_AT_FIRST INT64_C(1000000000)

struct stock {
    struct text sku;
    int64_t available;
    int64_t reserved;
    int64_t updated_at;
};

struct arrival {
    struct id id;
    char order_id[ID_TEXT_BYTES];
    size_t sku;
    int64_t at_us;
    char value[VALUE_BYTES];
    struct header headers[HEADERS];
};

static inline struct text sku_name(size_t sku)
{
    static char names[SKUS][8];
    if (!names[sku][0])
        snprintf(names[sku], sizeof(names[sku]), "SKU-%03u", (unsigned)sku % 1000);
    return (struct text){names[sku], 7};
}

/* Ids in time order, as Weir makes them; SKUs by a fixed sequence. */
static inline void arrival_make(struct arrival *event, size_t number)
{
    event->id = id_new();
    (void)id_to_text(id_new(), event->order_id);
    event->sku = (size_t)((number * UINT64_C(2654435761)) >> 8) % SKUS;
    event->at_us = INT64_C(1790000000000000) + (int64_t)number;
    memset(event->value, 'v', sizeof(event->value));
    const struct header headers[HEADERS] = {
        {TEXT("ce_specversion"), TEXT("1.0")},
        {TEXT("ce_id"), {event->order_id, ID_TEXT_BYTES}},
        {TEXT("ce_source"), TEXT("/weir/inventory")},
        {TEXT("ce_type"), TEXT("weir.StockReserved")},
        {TEXT("ce_time"), TEXT("2026-11-21T12:34:56.123456Z")},
        {TEXT("ce_subject"), {event->order_id, ID_TEXT_BYTES}},
        {TEXT("content-type"), TEXT("application/avro")},
        {TEXT("traceparent"), TEXT("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")},
    };
    memcpy(event->headers, headers, sizeof(headers));
}

/* As the outbox keeps them: lengths of a byte each, for these are short. */
static inline size_t headers_join(const struct arrival *event, char *into)
{
    char *at = into;
    for (size_t i = 0; i < HEADERS; i++) {
        *at++ = (char)event->headers[i].name.length;
        memcpy(at, event->headers[i].name.at, event->headers[i].name.length);
        at += event->headers[i].name.length;
        *at++ = (char)(event->headers[i].value.length + 1);
        memcpy(at, event->headers[i].value.at, event->headers[i].value.length);
        at += event->headers[i].value.length;
    }
    return (size_t)(at - into);
}

struct timing {
    double wall, cpu;
};

static inline struct timing timing_now(void)
{
    struct timespec wall;
    struct rusage usage;
    clock_gettime(CLOCK_MONOTONIC, &wall);
    getrusage(RUSAGE_SELF, &usage);
    return (struct timing){
        (double)wall.tv_sec + (double)wall.tv_nsec / 1e9,
        (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
            (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6,
    };
}

static inline struct timing timing_begin(void)
{
    return timing_now();
}

static inline void timing_print(const char *name, size_t batch, size_t events, struct timing from)
{
    struct timing to = timing_now();
    printf("%s %zu %.0f %.3f\n", name, batch, (double)events / (to.wall - from.wall),
           (to.cpu - from.cpu) * 1e6 / (double)events);
}

#endif
