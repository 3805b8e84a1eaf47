/* bench_process: what named processes have used so far, from /proc. One thread. */
#ifndef WEIR_BENCH_PROCESS_H
#define WEIR_BENCH_PROCESS_H

#include "base/text.h"
#include "bench.h"

#include <sys/types.h>

enum { BENCH_PROCESS_NAME_BYTES_MAX = 32 };

struct bench_processes {
    size_t count, name_count;
    struct {
        pid_t pid;
        bool family; /* with all that descend from it */
        size_t name;
    } process[BENCH_PROCESSES_MAX];
    char names[BENCH_PROCESSES_MAX][BENCH_PROCESS_NAME_BYTES_MAX];
};

/* Of one name, all its processes together. What has ended counts for nothing. Memory that processes share
 * counts for each. */
struct bench_usage {
    int64_t cpu_us, rss_bytes, read_bytes, written_bytes; /* read and written: from and to disks */
};

/* "order=123,database=456+,order=124"; NULL: none. REJECT with EXIT_CONFIG for what is none, or no process of
 * now. */
MUST_CHECK enum outcome bench_processes_read(const char *text, struct bench_processes *ret,
                                             struct error *error);
void bench_processes_usage(const struct bench_processes *processes,
                           struct bench_usage ret[BENCH_PROCESSES_MAX]);

#endif
