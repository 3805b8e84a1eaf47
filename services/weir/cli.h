/*
 * cli: what the verbs of `weir` share. A verb is one file with one main; it is given what follows its name.
 *
 * Data goes to stdout, everything else to stderr. Exit codes: base/error.h.
 */
#ifndef WEIR_CLI_H
#define WEIR_CLI_H

#include "base/config.h"
#include "kafka/client.h"
#include "wire/event.h"

enum { CLI_SILENT_MS = 30000 };

struct verb {
    const char *name;                   /* "emit" */
    const char *usage;                  /* "[FILE]" */
    const char *about;                  /* one line */
    int (*main)(int argc, char **argv); /* argv[0] is the verb */
    const char *more;                   /* behind the settings in its help, whole lines; NULL: nothing */
};
extern const struct verb verbs[]; /* main.c; .name == NULL at the end */

extern const char bench_examples[], dlq_examples[];

int up_main(int argc, char **argv);
int emit_main(int argc, char **argv);
int watch_main(int argc, char **argv);
int order_main(int argc, char **argv);
int topics_main(int argc, char **argv);
int schemas_main(int argc, char **argv);
int dlq_main(int argc, char **argv);
int pause_main(int argc, char **argv); /* pause and resume: argv[0] says which */
int traffic_main(int argc, char **argv);
int bench_main(int argc, char **argv);
int front_main(int argc, char **argv);
int broker_main(int argc, char **argv);
int mail_main(int argc, char **argv);
int gateway_main(int argc, char **argv);

/*
 * For verbs whose settings are words like --key and --from: flags and lines of a file only. In an environment
 * such names are somebody else's. Before cli_read(), on the main thread, before any other.
 */
void cli_forget_environment(const struct setting *own);
/*
 * Reads settings (the verb's own table, may be NULL, and those that every verb has: KAFKA_BOOTSTRAP_SERVERS,
 * SCHEMA_REGISTRY_URL, LOG_LEVEL, LOG_FORMAT, …). Prints what --help or --version asks for and ends with 0;
 * on a bad setting prints the one line and ends with its code: then *ret_exit is set and false is returned.
 * positional_max: more words are exit 64.
 */
MUST_CHECK bool cli_read(const struct verb *verb, const struct setting *own, int argc, char **argv,
                         size_t positional_max, struct config **ret, int *ret_exit);
const struct verb *cli_verb(const char *name);
/* "weir emit: text" on stderr; returns the exit code of the error. */
int cli_fail(const struct verb *verb, const struct error *error);
/* Settings for Kafka handles of a tool: librdkafka's own log is shown only from LOG_LEVEL=debug on. */
struct client_settings cli_client(const struct config *config);
/* As SCHEMA_REGISTRY_… say; waits for its answers. */
MUST_CHECK enum outcome cli_registry(const struct config *config, struct registry **ret, struct error *error);
/* Stdout is a terminal that takes colour: a TTY, no NO_COLOR, TERM not dumb. */
bool cli_colour(void);
/* It is one where what was printed can be drawn over: a TTY, TERM not dumb. */
bool cli_redraws(int fd);
/* True from the first SIGINT or SIGTERM on (a second one ends the process). cli_signals() once, before
 * threads. */
void cli_signals(void);
bool cli_interrupted(void);
/* RETRY, exit 75: what was read or sent until then is not all of it, and must not pass for it. */
enum outcome cli_stopped(struct error *error, const char *before);
/* Nobody takes what is printed any more: a pipe that was closed (head), a disk that is full. */
bool cli_unheard(void);
/* As reader_read(), for who reads to the ends: waits a little, and is OUTAGE once Kafka has been silent for
 * silent_ms with more to come. *heard_us: 0 before the first call. */
struct reader;
struct record;
MUST_CHECK enum outcome cli_read_on(struct reader *reader, int silent_ms, int64_t *heard_us,
                                    struct record *ret, bool *ret_record, bool *ret_end, struct error *error);

/* The record decodes, and is a dead letter all the same: its ce_type or its key says something else. */
bool cli_contradicts(const struct record *record, const struct event_type *type, const void *data,
                     struct arena *arena);

/* One record as the JSON object of `weir watch --json`, without a line end. extra is written before the
 * closing brace, may be NULL. */
void cli_record_json(struct registry *registry, const struct record *record, struct arena *arena,
                     struct buffer *into, void (*extra)(void *owner, struct json_writer *writer),
                     void *owner);

#endif
