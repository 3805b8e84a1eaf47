/* sqlite_error: what SQLite says, as an outcome and in words for people. */
#include "store/sqlite.h"

#include <errno.h>
#include <string.h>

enum outcome sqlite_config_error(struct error *error)
{
    if (error)
        error->exit_code = EXIT_CONFIG;
    return FATAL;
}

enum outcome sqlite_disk_full(const struct sqlite *sqlite, struct error *error)
{
    return error_outage(error, "store-full",
                        "%s: the disk is full; make room on it, nothing is lost and work goes on by itself",
                        sqlite->path);
}

enum outcome sqlite_failed(struct sqlite *sqlite, struct error *error)
{
    int code = sqlite->db ? sqlite3_extended_errcode(sqlite->db) : SQLITE_NOMEM;
    const char *message = sqlite->db ? sqlite3_errmsg(sqlite->db) : "out of memory";
    int system = sqlite->db ? sqlite3_system_errno(sqlite->db) : 0;
    switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
        return error_outage(error, "store-locked",
                            "%s: locked by another process; end the tool that has it open for writing",
                            sqlite->path);
    case SQLITE_FULL:
        return sqlite_disk_full(sqlite, error);
    case SQLITE_IOERR:
        if (code == SQLITE_IOERR_NOMEM)
            return error_retry(error, "memory", "%s: out of memory", sqlite->path);
        if (system == ENOSPC || system == EDQUOT)
            return sqlite_disk_full(sqlite, error);
        return error_outage(error, "store-io", "%s: cannot read or write: %s (%s, code %d); look at the disk",
                            sqlite->path, message, system ? strerror(system) : "no system error", code);
    case SQLITE_NOMEM:
        return error_retry(error, "memory", "%s: out of memory", sqlite->path);
    case SQLITE_INTERRUPT:
    case SQLITE_ABORT:
        return error_retry(error, "store-interrupted", "%s: %s", sqlite->path, message);
    case SQLITE_CONSTRAINT:
        return error_reject(error, "store-constraint", "%s", message);
    case SQLITE_TOOBIG:
        return error_reject(error, "store-too-big", "%s", message);
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
        error_set(error, FATAL, "store-read-only",
                  "%s: cannot be written to: %s; look at the permissions of the file "
                  "and its directory",
                  sqlite->path, message);
        return sqlite_config_error(error);
    case SQLITE_CANTOPEN:
        if (system == EMFILE || system == ENFILE)
            return error_outage(error, "store-open", "%s: too many open files", sqlite->path);
        if (system == ENOSPC || system == EDQUOT)
            return sqlite_disk_full(sqlite, error);
        error_set(error, FATAL, "store-open", "%s: cannot be opened: %s", sqlite->path,
                  system ? strerror(system) : message);
        return sqlite_config_error(error);
    case SQLITE_NOTADB:
        error_set(error, FATAL, "store-not-a-database",
                  "%s: is not a database; name another file in DATABASE_URL", sqlite->path);
        return sqlite_config_error(error);
    case SQLITE_CORRUPT:
        return error_fatal(error, "store-damaged",
                           "%s: the database is damaged: %s; restore it from a backup", sqlite->path,
                           message);
    default:
        return error_fatal(error, "store", "%s: %s (code %d)", sqlite->path, message, code);
    }
}

enum outcome sqlite_damaged(const struct sqlite *sqlite, const char *what, struct error *error)
{
    return error_fatal(error, "store-damaged", "%s: the database is damaged: %s", sqlite->path, what);
}
