/* A histogram as `weir bench --json` writes its buckets: [[highest value that counts here, count], …]. */
#ifndef BENCH_HDR_JSON_H
#define BENCH_HDR_JSON_H

#include "base/hdr.h"

#include <inttypes.h>
#include <stdio.h>

static inline void hdr_print_json(const struct hdr *hdr, FILE *file)
{
    const char *between = "";
    fputs("[", file);
    for (size_t i = 0; i < HDR_SLOTS; i++)
        if (hdr->count[i]) {
            fprintf(file, "%s[%" PRId64 ",%" PRIu64 "]", between, hdr_slot_high_us(i), hdr->count[i]);
            between = ",";
        }
    fputs("]", file);
}

#endif
