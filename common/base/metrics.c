#include "base/metrics.h"

#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

const double metric_seconds_bounds[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                        0.1,    0.25,    0.5,    1,     2.5,    5,     10,   0};

enum { CACHE_LINE_BYTES = 64 };

/* A line of its own each, so that two threads that count different things do not fight over one. */
struct metric {
    _Alignas(CACHE_LINE_BYTES) _Atomic int64_t count; /* of a counter                                */
    _Atomic double value;                             /* of a gauge; of a histogram the sum           */
    const struct metric_family *family;
    struct metric *next; /* of its family, in the order in which they were made                        */
    char *labels;        /* as they stand between the braces                                           */
    bool dropped;        /* under the registry's lock                                                  */
    size_t bound_count;
    _Atomic uint64_t buckets[]; /* of a histogram: not cumulative, the last one is +Inf                */
};

struct family {
    const struct metric_family *declared;
    struct metric *first, *last;
    struct family *next;
};

struct collector {
    void (*collect)(void *owner);
    void *owner;
};

struct metrics {
    pthread_mutex_t lock;    /* families, series                                        */
    pthread_mutex_t writing; /* collectors, one page at a time; taken before lock       */
    struct family *first, *last;
    size_t series_count;
    struct collector collectors[METRICS_COLLECTORS_MAX];
    size_t collector_count;
};

struct metrics *metrics_new(void)
{
    struct metrics *metrics = calloc(1, sizeof(*metrics));
    if (!metrics)
        return NULL;
    pthread_mutex_init(&metrics->lock, NULL);
    pthread_mutex_init(&metrics->writing, NULL);
    return metrics;
}

void metrics_destroy(struct metrics *metrics)
{
    if (!metrics)
        return;
    for (struct family *family = metrics->first, *next; family; family = next) {
        next = family->next;
        for (struct metric *metric = family->first, *after; metric; metric = after) {
            after = metric->next;
            free(metric->labels);
            free(metric);
        }
        free(family);
    }
    pthread_mutex_destroy(&metrics->lock);
    pthread_mutex_destroy(&metrics->writing);
    free(metrics);
}

static struct family *family_get(struct metrics *metrics, const struct metric_family *declared)
{
    for (struct family *family = metrics->first; family; family = family->next) {
        if (family->declared != declared && strcmp(family->declared->name, declared->name) != 0)
            continue;
        assert(family->declared->kind == declared->kind);
        assert(strcmp(family->declared->labels, declared->labels) == 0);
        return family;
    }
    struct family *family = calloc(1, sizeof(*family));
    if (!family)
        return NULL;
    family->declared = declared;
    if (metrics->last)
        metrics->last->next = family;
    else
        metrics->first = family;
    return metrics->last = family;
}

/* The text format's escapes: backslash and line end, in label values the quote as well. */
static void put_escaped(struct buffer *into, const char *value, bool quoted)
{
    bool utf8 = text_is_utf8(text_of(value));
    for (; *value; value++) {
        if (*value == '\n')
            buffer_add_string(into, "\\n");
        else if (*value == '\\')
            buffer_add_string(into, "\\\\");
        else if (*value == '"' && quoted)
            buffer_add_string(into, "\\\"");
        else if (!utf8 && (unsigned char)*value >= 0x80)
            buffer_add_char(into, '?'); /* one bad value must not cost the whole page */
        else
            buffer_add_char(into, *value);
    }
}

/* "topic,outcome" and the values: topic="orders",outcome="ok". */
static char *labels_render(const char *names, va_list values)
{
    struct buffer into = buffer_of(4096);
    for (const char *name = names; *name;) {
        size_t length = strcspn(name, ",");
        const char *value = va_arg(values, const char *);
        assert(value); /* a value a label */
        if (name != names)
            buffer_add_char(&into, ',');
        buffer_add(&into, name, length);
        buffer_add_string(&into, "=\"");
        put_escaped(&into, value, true);
        buffer_add_char(&into, '"');
        name += length + (name[length] == ',');
    }
    const char *sentinel = va_arg(values, const char *);
    assert(!sentinel);
    buffer_add_char(&into, '\0');
    if (into.failed)
        buffer_free(&into);
    return into.at;
}

static struct metric *metric_new(const struct metric_family *declared, char *labels)
{
    size_t bounds = 0;
    if (declared->kind == METRIC_HISTOGRAM)
        while (declared->bounds[bounds] > 0)
            bounds++;
    size_t bytes = sizeof(struct metric) + (bounds + 1) * sizeof(_Atomic uint64_t);
    bytes = (bytes + CACHE_LINE_BYTES - 1) / CACHE_LINE_BYTES * CACHE_LINE_BYTES;
    struct metric *metric = aligned_alloc(CACHE_LINE_BYTES, bytes);
    if (!metric)
        return NULL;
    memset(metric, 0, bytes);
    metric->family = declared;
    metric->labels = labels;
    metric->bound_count = bounds;
    return metric;
}

/* Under the lock. Takes labels over, unless it returns NULL. */
static struct metric *series_get(struct metrics *metrics, const struct metric_family *declared, char *labels)
{
    struct family *family = family_get(metrics, declared);
    if (!family)
        return NULL;
    for (struct metric *metric = family->first; metric; metric = metric->next) {
        if (strcmp(metric->labels, labels) != 0)
            continue;
        if (metric->dropped && declared->kind == METRIC_GAUGE)
            atomic_store(&metric->value, 0); /* what it said when it went is not so any more */
        metric->dropped = false;
        free(labels);
        return metric;
    }
    if (metrics->series_count == METRICS_SERIES_MAX)
        return NULL;
    struct metric *metric = metric_new(declared, labels);
    if (!metric)
        return NULL;
    metrics->series_count++;
    if (family->last)
        family->last->next = metric;
    else
        family->first = metric;
    return family->last = metric;
}

struct metric *metrics_get(struct metrics *metrics, const struct metric_family *family, ...)
{
    va_list values;
    va_start(values, family);
    char *labels = labels_render(family->labels, values);
    va_end(values);
    if (!labels)
        return NULL;
    pthread_mutex_lock(&metrics->lock);
    struct metric *metric = series_get(metrics, family, labels);
    pthread_mutex_unlock(&metrics->lock);
    if (!metric)
        free(labels);
    return metric;
}

void metrics_drop(struct metrics *metrics, struct metric *metric)
{
    if (!metric)
        return;
    pthread_mutex_lock(&metrics->lock);
    metric->dropped = true;
    pthread_mutex_unlock(&metrics->lock);
}

static void add_double(_Atomic double *to, double by)
{
    double was = atomic_load_explicit(to, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(to, &was, was + by, memory_order_relaxed,
                                                  memory_order_relaxed))
        ;
}

void metric_add(struct metric *metric, int64_t by)
{
    if (!metric)
        return;
    assert(metric->family->kind != METRIC_HISTOGRAM);
    if (metric->family->kind == METRIC_GAUGE) {
        add_double(&metric->value, (double)by);
        return;
    }
    assert(by >= 0); /* a counter never falls */
    atomic_fetch_add_explicit(&metric->count, by, memory_order_relaxed);
}

void metric_set(struct metric *metric, double value)
{
    if (!metric)
        return;
    assert(metric->family->kind != METRIC_HISTOGRAM);
    if (metric->family->kind == METRIC_GAUGE)
        atomic_store_explicit(&metric->value, value, memory_order_relaxed);
    else
        atomic_store_explicit(&metric->count, (int64_t)value, memory_order_relaxed);
}

void metric_observe(struct metric *metric, double value)
{
    if (!metric)
        return;
    assert(metric->family->kind == METRIC_HISTOGRAM);
    const double *bounds = metric->family->bounds;
    size_t low = 0, high = metric->bound_count; /* the first bound that is not below the value */
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (bounds[middle] < value)
            low = middle + 1;
        else
            high = middle;
    }
    atomic_fetch_add_explicit(&metric->buckets[low], 1, memory_order_relaxed);
    add_double(&metric->value, value);
}

static uint64_t observed_count(const struct metric *metric)
{
    uint64_t total = 0;
    for (size_t i = 0; i <= metric->bound_count; i++)
        total += atomic_load_explicit(&metric->buckets[i], memory_order_relaxed);
    return total;
}

double metric_value(const struct metric *metric)
{
    if (!metric)
        return 0;
    switch (metric->family->kind) {
    case METRIC_COUNTER:
        return (double)atomic_load_explicit(&metric->count, memory_order_relaxed);
    case METRIC_GAUGE:
        return atomic_load_explicit(&metric->value, memory_order_relaxed);
    case METRIC_HISTOGRAM:
        return (double)observed_count(metric);
    }
    return 0;
}

void metrics_on_collect(struct metrics *metrics, void (*collect)(void *owner), void *owner)
{
    pthread_mutex_lock(&metrics->writing);
    assert(metrics->collector_count < METRICS_COLLECTORS_MAX);
    metrics->collectors[metrics->collector_count++] = (struct collector){collect, owner};
    pthread_mutex_unlock(&metrics->writing);
}

static void put_double(struct buffer *into, double value)
{
    if (isnan(value)) {
        buffer_add_string(into, "NaN");
        return;
    }
    if (isinf(value)) {
        buffer_add_string(into, value > 0 ? "+Inf" : "-Inf");
        return;
    }
    char digits[32];
    for (int precision = 15; precision <= 17; precision += 2) {
        snprintf(digits, sizeof(digits), "%.*g", precision, value);
        if (strtod(digits, NULL) == value)
            break;
    }
    buffer_add_string(into, digits);
}

static void put_head(struct buffer *into, const char *name, const char *kind, const char *help)
{
    buffer_print(into, "# HELP %s ", name);
    put_escaped(into, help, false);
    buffer_print(into, "\n# TYPE %s %s\n", name, kind);
}

/* name{labels} or name; the value is to follow. */
static void put_name(struct buffer *into, const char *name, const char *suffix, const char *labels)
{
    buffer_add_string(into, name);
    buffer_add_string(into, suffix);
    if (*labels) {
        buffer_add_char(into, '{');
        buffer_add_string(into, labels);
        buffer_add_char(into, '}');
    }
    buffer_add_char(into, ' ');
}

static void put_histogram(struct buffer *into, const struct metric *metric)
{
    const char *name = metric->family->name;
    uint64_t total = 0;
    for (size_t i = 0; i <= metric->bound_count; i++) {
        total += atomic_load_explicit(&metric->buckets[i], memory_order_relaxed);
        buffer_print(into, "%s_bucket{%s%sle=\"", name, metric->labels, *metric->labels ? "," : "");
        put_double(into, i < metric->bound_count ? metric->family->bounds[i] : (double)INFINITY);
        buffer_print(into, "\"} %" PRIu64 "\n", total);
    }
    put_name(into, name, "_sum", metric->labels);
    put_double(into, atomic_load_explicit(&metric->value, memory_order_relaxed));
    buffer_add_char(into, '\n');
    put_name(into, name, "_count", metric->labels);
    buffer_print(into, "%" PRIu64 "\n", total);
}

static void put_series(struct buffer *into, const struct metric *metric)
{
    switch (metric->family->kind) {
    case METRIC_COUNTER:
        put_name(into, metric->family->name, "", metric->labels);
        buffer_print(into, "%" PRId64 "\n", atomic_load_explicit(&metric->count, memory_order_relaxed));
        break;
    case METRIC_GAUGE:
        put_name(into, metric->family->name, "", metric->labels);
        put_double(into, atomic_load_explicit(&metric->value, memory_order_relaxed));
        buffer_add_char(into, '\n');
        break;
    case METRIC_HISTOGRAM:
        put_histogram(into, metric);
        break;
    }
}

static void put_family(struct buffer *into, const struct family *family)
{
    static const char *const kinds[] = {"counter", "gauge", "histogram"};
    bool head = false;
    for (const struct metric *metric = family->first; metric; metric = metric->next) {
        if (metric->dropped)
            continue;
        if (!head)
            put_head(into, family->declared->name, kinds[family->declared->kind], family->declared->help);
        head = true;
        put_series(into, metric);
    }
}

static bool read_proc(const char *path, char *into, size_t bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    size_t length = 0;
    ssize_t got = 0;
    while (length < bytes - 1 && (got = read(fd, into + length, bytes - 1 - length)) > 0)
        length += (size_t)got;
    close(fd);
    into[length] = '\0';
    return length > 0;
}

/* Seconds since 1970 when the machine came up: "btime" of /proc/stat, read once. */
static double boot_time_s(void)
{
    static _Atomic int64_t known;
    int64_t boot = atomic_load(&known);
    if (boot == 0) {
        FILE *file = fopen("/proc/stat", "re");
        char line[512];
        while (file && fgets(line, sizeof(line), file))
            if (sscanf(line, "btime %" SCNd64, &boot) == 1)
                break;
        if (file)
            fclose(file);
        atomic_store(&known, boot);
    }
    return (double)boot;
}

static int open_fd_count(void)
{
    DIR *directory = opendir("/proc/self/fd");
    if (!directory)
        return -1;
    int count = 0;
    for (struct dirent *entry; (entry = readdir(directory));)
        count += entry->d_name[0] != '.';
    closedir(directory);
    return count - 1; /* the directory's own */
}

static void put_process_value(struct buffer *into, const char *name, const char *kind, const char *help,
                              double value)
{
    put_head(into, name, kind, help);
    put_name(into, name, "", "");
    put_double(into, value);
    buffer_add_char(into, '\n');
}

/* The process_* metrics as every Prometheus client library gives them. */
static void put_process(struct buffer *into)
{
    char stat[2048];
    const char *after_name = read_proc("/proc/self/stat", stat, sizeof(stat)) ? strrchr(stat, ')') : NULL;
    unsigned long user, system, bytes;
    unsigned long long start;
    long pages;
    /* fields 3 to 24 of proc(5): state is the first behind the name, which may hold anything */
    if (after_name &&
        sscanf(after_name + 1,
               " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %*d %*d %llu %lu %ld",
               &user, &system, &start, &bytes, &pages) == 5) {
        double ticks = (double)sysconf(_SC_CLK_TCK);
        put_process_value(into, "process_cpu_seconds_total", "counter",
                          "Total user and system CPU time spent in seconds.",
                          (double)(user + system) / ticks);
        put_process_value(into, "process_resident_memory_bytes", "gauge", "Resident memory size in bytes.",
                          (double)pages * (double)sysconf(_SC_PAGESIZE));
        put_process_value(into, "process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.",
                          (double)bytes);
        put_process_value(into, "process_start_time_seconds", "gauge",
                          "Start time of the process since unix epoch in seconds.",
                          boot_time_s() + (double)start / ticks);
    }
    int fds = open_fd_count();
    if (fds >= 0)
        put_process_value(into, "process_open_fds", "gauge", "Number of open file descriptors.", fds);
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        put_process_value(into, "process_max_fds", "gauge", "Maximum number of open file descriptors.",
                          limit.rlim_cur == RLIM_INFINITY ? (double)INFINITY : (double)limit.rlim_cur);
}

void metrics_write(struct metrics *metrics, struct buffer *into)
{
    pthread_mutex_lock(&metrics->writing);
    for (size_t i = 0; i < metrics->collector_count; i++)
        metrics->collectors[i].collect(metrics->collectors[i].owner);

    pthread_mutex_lock(&metrics->lock);
    for (const struct family *family = metrics->first; family; family = family->next)
        put_family(into, family);
    pthread_mutex_unlock(&metrics->lock);
    put_process(into);
    pthread_mutex_unlock(&metrics->writing);
}
