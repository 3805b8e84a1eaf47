/* sqlite_file: where the database is, and that no other process has it. */
#include "store/sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum outcome sqlite_file_path(const char *path, char **ret, struct error *error)
{
    *ret = realpath(path, NULL);
    if (*ret)
        return OK;
    char *copy = strdup(path), *base_copy = strdup(path), *directory = NULL;
    enum outcome outcome = OK;
    if (!copy || !base_copy) {
        outcome = error_retry(error, "memory", "out of memory");
        goto out;
    }
    directory = errno == ENOENT ? realpath(dirname(copy), NULL) : NULL;
    if (!directory) {
        error_set(error, FATAL, "store-open",
                  "%s: the database cannot be opened: %s; make the directory or "
                  "name another in DATABASE_URL",
                  path, strerror(errno));
        outcome = sqlite_config_error(error);
        goto out;
    }
    if (asprintf(ret, "%s/%s", strcmp(directory, "/") ? directory : "", basename(base_copy)) < 0) {
        *ret = NULL;
        outcome = error_retry(error, "memory", "out of memory");
    }

out:
    free(copy);
    free(base_copy);
    free(directory);
    return outcome;
}

enum outcome sqlite_look(const char *path, bool *ret_there, struct error *error)
{
    struct stat about;
    char *real = NULL;
    enum outcome outcome = sqlite_file_path(path, &real, error);
    if (outcome != OK)
        return outcome;
    bool there = stat(real, &about) == 0 && about.st_size > 0;
    if (!there && access(real, F_OK) == 0) {
        if (access(real, R_OK | W_OK) != 0) {
            error_set(error, FATAL, "store-open", "%s: cannot be opened: %s", real, strerror(errno));
            outcome = sqlite_config_error(error);
        }
    } else if (!there) {
        char *name = strrchr(real, '/');
        name[name == real] = '\0'; /* its folder */
        if (access(real, W_OK | X_OK) != 0) {
            error_set(error, FATAL, "store-open", "%s: no file can be made in %s: %s", path, real,
                      strerror(errno));
            outcome = sqlite_config_error(error);
        }
    }
    if (outcome == OK)
        *ret_there = there;
    free(real);
    return outcome;
}

/* A file of its own: SQLite's locks are lost when another descriptor of the same file is closed in this
 * process. It is never deleted, so that all who come agree on it. */
enum outcome sqlite_file_lock(struct sqlite *sqlite, struct error *error)
{
    char name[PATH_MAX];
    if ((size_t)snprintf(name, sizeof(name), "%s.lock", sqlite->path) >= sizeof(name)) {
        error_set(error, FATAL, "store-open", "DATABASE_URL: the path is too long");
        return sqlite_config_error(error);
    }
    sqlite->lock_fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (sqlite->lock_fd < 0) {
        if (errno == ENOSPC || errno == EDQUOT)
            return sqlite_disk_full(sqlite, error);
        if (errno == EMFILE || errno == ENFILE)
            return error_outage(error, "store-open", "%s: too many open files", name);
        error_set(error, FATAL, "store-open", "%s: cannot be opened for writing: %s", name, strerror(errno));
        return sqlite_config_error(error);
    }
    char pid[24] = "";
    if (flock(sqlite->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK)
            return error_fatal(error, "store-open", "%s: cannot be locked: %s", name, strerror(errno));
        ssize_t length = pread(sqlite->lock_fd, pid, sizeof(pid) - 1, 0);
        int64_t number;
        bool known = length > 0 && text_to_int64((struct text){pid, (size_t)length}, &number);
        error_set(error, FATAL, "store-in-use", "%s: in use by process %s; only one at a time can have it",
                  sqlite->path, known ? pid : "(unknown)");
        if (error)
            error->exit_code = EXIT_TRY_AGAIN;
        return FATAL;
    }
    int length = snprintf(pid, sizeof(pid), "%ld", (long)getpid());
    /* The number is for people; the lock holds without it, also on a full disk. */
    bool noted =
        ftruncate(sqlite->lock_fd, 0) == 0 && pwrite(sqlite->lock_fd, pid, (size_t)length, 0) == length;
    (void)noted;
    return OK;
}
