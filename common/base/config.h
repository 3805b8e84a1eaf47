/*
 * config: settings. One table row a setting: it gives the flag, the environment variable, the line in
 * a file, the default, the check, the help and the manual.
 *
 * KAFKA_BOOTSTRAP_SERVERS is also --kafka-bootstrap-servers (or --kafka-bootstrap-servers=…) and
 * "kafka.bootstrap.servers = …" in --config FILE. The flag wins, then the environment (or the file
 * named by KAFKA_BOOTSTRAP_SERVERS_FILE, for secrets), then the file, then the default.
 */
#ifndef BASE_CONFIG_H
#define BASE_CONFIG_H

#include "base/text.h"

enum setting_kind {
    SETTING_TEXT,
    SETTING_URL,      /* as text; credentials are masked when shown                        */
    SETTING_SECRET,   /* as text; masked, never in argv's help, NAME_FILE is read           */
    SETTING_INT,      /* min to max                                                         */
    SETTING_DURATION, /* 250ms, 10s, 15min, 24h, 14d (bare number: seconds); kept in ms     */
    SETTING_DURATIONS,/* comma-separated durations                                          */
    SETTING_BYTES,    /* 64k, 16M                                                           */
    SETTING_RATE,     /* N/s, N/min, N/h, 0 = no limit; kept as events per hour             */
    SETTING_BOOL,     /* true, false, on, off, yes, no, 1, 0                                */
    SETTING_CHOICE,   /* one of choices, "a|b|c"                                            */
    SETTING_LISTEN,   /* host:port, [v6]:port, port 0 picks one                             */
};

struct setting {
    const char *name; /* KAFKA_BOOTSTRAP_SERVERS */
    enum setting_kind kind;
    const char *fallback; /* as a user would write it; NULL = not set */
    int64_t min, max;     /* numbers and durations (ms), inclusive; both 0 = any from 0 */
    const char *choices;  /* SETTING_CHOICE */
    const char *help;     /* one sentence */
};
#define SETTINGS_END {0}

struct config;

/*
 * tables: up to CONFIG_TABLES_MAX tables, each ended by SETTINGS_END; kept, not copied. argv: what follows the
 * verb; -X key=value (any librdkafka property) is collected. Stray words are positional, after "--"
 * all are. Errors name the setting, the value and what is allowed: exit 64 for flags that do not
 * exist, 78 for a bad value anywhere, an unknown line in the file, or an unknown WEIR_ variable.
 */
MUST_CHECK enum outcome config_read(const struct setting *const *tables, size_t table_count, int argc,
                                    char **argv, struct config **ret, struct error *error);
void config_destroy(struct config *config); /* wipes secrets; accepts NULL */

/* All by exact name; a name that is in no table is a programmer error (assert). */
const char *config_text(const struct config *config, const char *name); /* NULL where not set */
int64_t config_int(const struct config *config, const char *name);      /* int, bytes, rate */
int64_t config_ms(const struct config *config, const char *name);
bool config_bool(const struct config *config, const char *name);
bool config_is_set(const struct config *config, const char *name); /* given by anyone, not the default */
/* SETTING_DURATIONS; returns the count, at most max. */
size_t config_durations_ms(const struct config *config, const char *name, int64_t *ret_ms, size_t max);

size_t config_positional_count(const struct config *config);
const char *config_positional(const struct config *config, size_t index);
/* -X pairs and --kafka key=value, in the order given. */
size_t config_property_count(const struct config *config);
void config_property(const struct config *config, size_t index, const char **ret_key, const char **ret_value);

/* "NAME=value   # where it comes from", secrets masked: the config verb. */
void config_show(const struct config *config, struct buffer *into);
/* One paragraph a setting: --help. */
void config_help(const struct setting *const *tables, size_t table_count, struct buffer *into);

enum { CONFIG_TABLES_MAX = 8, CONFIG_FILE_BYTES_MAX = 1 << 20, CONFIG_PROPERTIES_MAX = 64 };

#endif
