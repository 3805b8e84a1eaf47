#include "support/cluster.h"

#include <fcntl.h>
#include <libpq-fe.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int run(const struct cluster *cluster, const char *verb)
{
    const char *const argv[] = {SOURCE_DIR "/tests/support/postgres",
                                verb,
                                cluster->folder,
                                cluster->settings[0],
                                cluster->settings[1],
                                cluster->settings[2],
                                NULL};
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawnattr_t attributes;
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    pid_t pid;
    int status = -1;
    int failed = posix_spawn(&pid, argv[0], &files, &attributes, (char *const *)(uintptr_t)argv, environ);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
    if (failed || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
        abort();
    return WEXITSTATUS(status);
}

static void must(const struct cluster *cluster, const char *verb)
{
    int code = run(cluster, verb);
    if (code == 0)
        return;
    if (code == 69) {
        run(cluster, "remove");
        _exit(77);
    }
    fprintf(stderr, "cluster: %s ended with %d\n", verb, code);
    abort();
}

void cluster_start(struct cluster *cluster)
{
    const char *parent = getenv("TMPDIR"); /* else where a sync costs nothing */
    if (!parent)
        parent = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(cluster->folder, sizeof(cluster->folder), "%.60s/weir-pg-XXXXXX", parent);
    if (!mkdtemp(cluster->folder)) {
        perror(cluster->folder);
        abort();
    }
    must(cluster, "start");
}

void cluster_remove(struct cluster *cluster)
{
    must(cluster, "remove");
}

void cluster_stop(struct cluster *cluster)
{
    must(cluster, "stop");
}

void cluster_kill(struct cluster *cluster)
{
    must(cluster, "kill");
}

void cluster_go_on(struct cluster *cluster)
{
    must(cluster, "start");
}

static void print_url(const struct cluster *cluster, const char *database, const char *where,
                      char url[CLUSTER_URL_BYTES])
{
    snprintf(url, CLUSTER_URL_BYTES, "postgresql://postgres@/%s?host=%s%s", database, cluster->folder, where);
}

void cluster_make(struct cluster *cluster, char url[CLUSTER_URL_BYTES])
{
    static unsigned made;
    char name[32], sql[64];
    snprintf(name, sizeof(name), "test_%u", ++made);
    snprintf(sql, sizeof(sql), "CREATE DATABASE %s", name);
    print_url(cluster, "postgres", "", url);
    cluster_do(url, sql);
    print_url(cluster, name, "", url);
}

void cluster_pooler(struct cluster *cluster, const char *url, char pooled[CLUSTER_URL_BYTES])
{
    must(cluster, "pooler");
    snprintf(pooled, CLUSTER_URL_BYTES, "%s/pooler&port=6432", url);
}

static PGresult *ask(const char *url, const char *sql)
{
    PGconn *conn = PQconnectdb(url);
    PGresult *result = PQexec(conn, sql);
    ExecStatusType status = PQresultStatus(result);
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) {
        fprintf(stderr, "cluster: %s: %s\n", sql, PQerrorMessage(conn));
        abort();
    }
    PQfinish(conn);
    return result;
}

int64_t cluster_do(const char *url, const char *sql)
{
    PGresult *result = ask(url, sql);
    int64_t number = PQntuples(result) ? strtoll(PQgetvalue(result, 0, 0), NULL, 10) : 0;
    PQclear(result);
    return number;
}

void cluster_ask(const char *url, const char *sql, char *into, size_t size)
{
    PGresult *result = ask(url, sql);
    size_t at = 0;
    into[0] = '\0';
    for (int row = 0; row < PQntuples(result) && at < size; row++)
        at += (size_t)snprintf(into + at, size - at, "%s\n", PQgetvalue(result, row, 0));
    PQclear(result);
}
