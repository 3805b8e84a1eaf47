/*
 * config: settings. One table row a setting: it gives the flag, the environment variable, the line in
 * a file, the default, the check, the help and the manual.
 *
 * KAFKA_BOOTSTRAP_SERVERS is also --kafka-bootstrap-servers (or --kafka-bootstrap-servers=…) and
 * "kafka.bootstrap.servers = …" in --config FILE. The flag wins, then the environment (or the file
 * named by KAFKA_BOOTSTRAP_SERVERS_FILE, for secrets), then the file, then the default. An empty
 * environment variable is one that is not set; an empty flag or line takes a text or a URL without a default away
 * again. No other setting may be empty: what has a default needs a value, and an empty secret would be a door left open.
 *
 * A file has one setting a line; blank lines and those that begin with # or ; are skipped, a value is what
 * stands behind the first = without the blanks around it. NAME_FILE is "….file = PATH" there and
 * --…-file PATH as a flag; what is read from it loses the line end at its end.
 *
 * Any librdkafka property: -X key=value or --kafka key=value, each as often as needed, or several as
 * KAFKA_PROPERTIES ("key=value;key=value", a line end does as well), which the flags come after and win.
 */
#ifndef BASE_CONFIG_H
#define BASE_CONFIG_H

#include "base/text.h"

enum setting_kind {
    SETTING_TEXT,      /* without control characters                                          */
    SETTING_URL,       /* scheme:rest, scheme one of choices if any; credentials are masked when shown */
    SETTING_SECRET,    /* as text; masked whenever shown                                      */
    SETTING_INT,       /* min to max                                                          */
    SETTING_DURATION,  /* 250ms, 10s, 1.5s, 15min, 24h, 14d (bare number: seconds); kept in ms */
    SETTING_DURATIONS, /* comma-separated durations, at most CONFIG_DURATIONS_MAX; empty = none */
    SETTING_BYTES,     /* 65536, 64k, 16M, 1G (1k = 1024)                                     */
    SETTING_RATE,      /* N/s, N/min, N/h, 0 = no limit; kept as events per hour              */
    SETTING_BOOL,      /* true, false, on, off, yes, no, 1, 0                                 */
    SETTING_CHOICE,    /* one of choices, "a|b|c"                                             */
    SETTING_LISTEN,    /* host:port, [v6]:port, port 0 picks one                              */
    SETTING_SERVERS,   /* host:port,… to connect to; each may bear a protocol and lack its port */
};

struct setting {
    const char *name; /* KAFKA_BOOTSTRAP_SERVERS */
    enum setting_kind kind;
    const char *fallback; /* as a user would write it; NULL = not set */
    int64_t min, max;     /* numbers and durations (ms), inclusive; both 0 = any from 0 */
    const char *choices;  /* SETTING_CHOICE; SETTING_URL: schemes; SETTING_DURATION: "0", which may then be below min */
    const char *help;     /* one sentence */
};
#define SETTINGS_END {0}

struct config;

/*
 * tables: up to CONFIG_TABLES_MAX tables (or NULLs), each ended by SETTINGS_END; kept, not copied, as argv is. Where two
 * have the same name, the earlier table's row counts: a service gives a default of its own that way. A fallback
 * that is not valid is a programmer error (assert). argv: what follows the verb. Stray words are positional, after
 * "--" all are. All outcomes but OK carry exit_code and name the setting, the value (masked) and what is allowed:
 * 64 for flags that do not exist or lack their value, 78 for a bad value anywhere, an unknown line in the file, or an
 * unknown WEIR_ variable. Reading stops at --help, -h or --version: OK, see config_asked_help(), all else is as the defaults say.
 */
MUST_CHECK enum outcome config_read(const struct setting *const *tables, size_t table_count, int argc,
                                    char **argv, struct config **ret, struct error *error);
void config_destroy(struct config *config); /* wipes secrets; accepts NULL */

bool config_asked_help(const struct config *config);    /* --help or -h: config_help() and exit 0 is the caller's  */
bool config_asked_version(const struct config *config); /* --version, likewise                                   */

/* All by exact name; a name that is in no table is a programmer error (assert). */
const char *config_text(const struct config *config, const char *name); /* as written, any kind; NULL where not set */
int64_t config_int(const struct config *config, const char *name);      /* int, bytes, rate; 0 where not set */
int64_t config_ms(const struct config *config, const char *name);
bool config_bool(const struct config *config, const char *name);
bool config_is_set(const struct config *config, const char *name); /* given by anyone, not the default */
/* SETTING_DURATIONS; returns the count, at most max. */
size_t config_durations_ms(const struct config *config, const char *name, int64_t *ret_ms, size_t max);

size_t config_positional_count(const struct config *config);
const char *config_positional(const struct config *config, size_t index);
/* KAFKA_PROPERTIES, then -X and --kafka in the order given: for a key given twice the later one counts. */
size_t config_property_count(const struct config *config);
void config_property(const struct config *config, size_t index, const char **ret_key, const char **ret_value);

/* "NAME=value   # where it comes from", secrets masked: the config verb. */
void config_show(const struct config *config, struct buffer *into);
/* "  --flag FORM", what it means, its default: --help, with what config_read() itself takes at the end. */
void config_help(const struct setting *const *tables, size_t table_count, struct buffer *into);

enum {
    CONFIG_TABLES_MAX = 8,
    CONFIG_NAME_BYTES_MAX = 64,          /* of a setting's name                 */
    CONFIG_FILE_BYTES_MAX = 1 << 20,     /* of --config FILE                    */
    CONFIG_SECRET_BYTES_MAX = 64 << 10,  /* of a file named by NAME_FILE        */
    CONFIG_PROPERTIES_MAX = 64,
    CONFIG_DURATIONS_MAX = 16,
};

#endif
