#include "bench_process.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { FAMILY_MAX = 4096 /* processes of the machine that are looked at */ };

struct stat_of {
    pid_t pid, parent;
    int64_t ticks, child_ticks, pages;
};

static bool read_stat(pid_t pid, struct stat_of *ret)
{
    char path[64], line[1024];
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    size_t length = fread(line, 1, sizeof(line) - 1, file);
    fclose(file);
    line[length] = '\0';
    /* The name may hold anything, brackets too: what follows counts from the last one. */
    const char *at = strrchr(line, ')');
    int parent;
    long long user, kernel, child_user, child_kernel, pages;
    if (!at ||
        sscanf(at + 1,
               " %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lld %lld %lld %lld %*d %*d %*d %*d %*u %*u %lld",
               &parent, &user, &kernel, &child_user, &child_kernel, &pages) != 6)
        return false;
    *ret = (struct stat_of){pid, (pid_t)parent, user + kernel, child_user + child_kernel, pages};
    return true;
}

static void add_io(pid_t pid, struct bench_usage *usage)
{
    char path[64], line[128];
    long long bytes;
    snprintf(path, sizeof(path), "/proc/%d/io", (int)pid);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof(line), file)) {
        if (sscanf(line, "read_bytes: %lld", &bytes) == 1)
            usage->read_bytes += bytes;
        else if (sscanf(line, "write_bytes: %lld", &bytes) == 1)
            usage->written_bytes += bytes;
    }
    if (file)
        fclose(file);
}

static void add_usage(const struct stat_of *stat, bool family, struct bench_usage *usage)
{
    usage->cpu_us +=
        (stat->ticks + (family ? stat->child_ticks : 0)) * (INT64_C(1000000) / sysconf(_SC_CLK_TCK));
    usage->rss_bytes += stat->pages * sysconf(_SC_PAGESIZE);
    add_io(stat->pid, usage);
}

/* All processes of the machine, as far as they can be looked at. */
static size_t read_all(struct stat_of *all)
{
    size_t count = 0;
    DIR *folder = opendir("/proc");
    for (struct dirent *entry; folder && count < FAMILY_MAX && (entry = readdir(folder));) {
        pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
        if (pid > 0 && read_stat(pid, &all[count]))
            count++;
    }
    if (folder)
        closedir(folder);
    return count;
}

/* Descendants of the process, itself among them; by its parents, each of which is looked up. */
static bool descends(const struct stat_of *all, size_t count, const struct stat_of *one, pid_t from)
{
    pid_t pid = one->pid, parent = one->parent;
    for (int depth = 0; pid != from; depth++) {
        size_t i = 0;
        while (i < count && all[i].pid != parent)
            i++;
        if (i == count || depth == 64)
            return false;
        pid = all[i].pid;
        parent = all[i].parent;
    }
    return true;
}

static void add_family(pid_t from, struct bench_usage *usage)
{
    struct stat_of *all = malloc(FAMILY_MAX * sizeof(*all));
    size_t count = all ? read_all(all) : 0;
    for (size_t i = 0; i < count; i++)
        if (descends(all, count, &all[i], from))
            add_usage(&all[i], true, usage);
    free(all);
}

void bench_processes_usage(const struct bench_processes *processes,
                           struct bench_usage ret[BENCH_PROCESSES_MAX])
{
    struct stat_of stat;
    memset(ret, 0, BENCH_PROCESSES_MAX * sizeof(*ret));
    for (size_t i = 0; i < processes->count; i++) {
        struct bench_usage *usage = &ret[processes->process[i].name];
        if (processes->process[i].family)
            add_family(processes->process[i].pid, usage);
        else if (read_stat(processes->process[i].pid, &stat))
            add_usage(&stat, false, usage);
    }
}

static enum outcome refuse(const char *text, const char *why, struct error *error)
{
    error_set(error, REJECT, "setting", "PID: %s: %s (NAME=PID or NAME=PID+, several with commas between)",
              text, why);
    error->exit_code = EXIT_CONFIG;
    return REJECT;
}

static size_t name_of(struct bench_processes *processes, const char *at, size_t length)
{
    for (size_t i = 0; i < processes->name_count; i++)
        if (text_is((struct text){at, length}, processes->names[i]))
            return i;
    memcpy(processes->names[processes->name_count], at, length);
    return processes->name_count++;
}

enum outcome bench_processes_read(const char *text, struct bench_processes *ret, struct error *error)
{
    memset(ret, 0, sizeof(*ret));
    for (const char *at = text; at && *at;) {
        struct stat_of stat;
        size_t name_length = strcspn(at, "=,");
        if (ret->count == BENCH_PROCESSES_MAX)
            return refuse(text, "too many", error);
        if (at[name_length] != '=' || name_length == 0 || name_length >= BENCH_PROCESS_NAME_BYTES_MAX)
            return refuse(text, "a name is missing, or too long", error);
        char *end;
        long pid = strtol(at + name_length + 1, &end, 10);
        bool family = *end == '+';
        end += family;
        if (pid <= 0 || (*end && *end != ','))
            return refuse(text, "not a process id", error);
        if (!read_stat((pid_t)pid, &stat))
            return refuse(text, "there is no such process", error);
        ret->process[ret->count].pid = (pid_t)pid;
        ret->process[ret->count].family = family;
        ret->process[ret->count++].name = name_of(ret, at, name_length);
        at = *end ? end + 1 : end;
    }
    return OK;
}
