#include "support/scratch.h"

#include "support/cluster.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct cluster cluster;
static bool on_postgres;

static void cluster_end(void)
{
    cluster_remove(&cluster);
}

void scratch_choose(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "postgres") != 0)
        return;
    on_postgres = true;
    cluster_start(&cluster);
    atexit(cluster_end);
}

struct cluster *scratch_cluster(void)
{
    return on_postgres ? &cluster : NULL;
}

void scratch_make(struct scratch *scratch)
{
    const char *parent = getenv("TMPDIR"); /* else where a sync costs nothing */
    if (!parent)
        parent = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(scratch->folder, sizeof(scratch->folder), "%s/weir-test-XXXXXX", parent);
    if (!mkdtemp(scratch->folder)) {
        perror(scratch->folder);
        abort();
    }
    if (on_postgres) {
        scratch->path[0] = '\0';
        cluster_make(&cluster, scratch->url);
        return;
    }
    snprintf(scratch->path, sizeof(scratch->path), "%s/test.db", scratch->folder);
    snprintf(scratch->url, sizeof(scratch->url), "sqlite:%s", scratch->path);
}

size_t scratch_files(const struct scratch *scratch)
{
    size_t count = 0;
    DIR *folder = opendir(scratch->folder);
    if (!folder)
        abort();
    for (struct dirent *entry; (entry = readdir(folder));)
        count += entry->d_name[0] != '.';
    closedir(folder);
    return count;
}

void scratch_remove(struct scratch *scratch)
{
    DIR *folder = opendir(scratch->folder);
    if (!folder)
        return;
    for (struct dirent *entry; (entry = readdir(folder));) {
        char path[sizeof(scratch->folder) + sizeof(entry->d_name) + 1];
        snprintf(path, sizeof(path), "%s/%s", scratch->folder, entry->d_name);
        if (entry->d_name[0] != '.')
            unlink(path);
    }
    closedir(folder);
    rmdir(scratch->folder);
}
