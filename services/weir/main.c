/* weir: the one command for people and scripts. */
#include "cli.h"

#include "base/clock.h"
#include "base/log.h"
#include "flow/record_json.h"
#include "kafka/reader.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { READ_STEP_MS = 200 };

const struct verb verbs[] = {
    {"up", "[flags]", "run all five services on this machine with the parts they need", up_main, NULL},
    {"emit", "[FILE]", "send upstream events: a CloudEvent in JSON a line, from a file or stdin", emit_main,
     NULL},
    {"watch", "[TOPIC...]", "show decoded events as they pass", watch_main, NULL},
    {"order", "ID", "tell the life of one order across all topics", order_main, NULL},
    {"topics", "[create]", "show declared topics against actual ones, or make what is missing", topics_main,
     NULL},
    {"schemas", "list|check [DIR]|register", "the event schemas", schemas_main, NULL},
    {"dlq", "list|show|redrive|drop", "dead letters: by cause, whole, sent back, dropped", dlq_main,
     dlq_examples},
    {"pause", "[SERVICE...]", "services take no records until they are resumed; none named: all", pause_main,
     NULL},
    {"resume", "[SERVICE...]", "they take records again, after a pause or a flood of rejects", pause_main,
     NULL},
    {"traffic", "[flags]", "send orders over HTTP, so many a second, to services that run somewhere else",
     traffic_main, NULL},
    {"bench", "[flags]",
     "load a running system, open loop, and measure to where each order ends; find its knee", bench_main,
     bench_examples},
    {"front", "PORT=HOST:PORT...",
     "take connections for services of which there are several, and hand them on", front_main, NULL},
    {"broker", "[flags]", "librdkafka's mock cluster as a process: for a look without Java", broker_main,
     NULL},
    {"mail", "[flags]", "an SMTP server that keeps what it gets", mail_main, NULL},
    {"gateway", "[flags]", "a stand-in for a payment gateway", gateway_main, NULL},
    {0},
};

static const struct setting common_settings[] = {
    {"LOG_LEVEL", SETTING_CHOICE, "info", 0, 0, "debug|info|warn|error", "Least level that is logged."},
    {"LOG_FORMAT", SETTING_CHOICE, NULL, 0, 0, "json|text", "Form of log lines; text on a terminal."},
    SETTINGS_END,
};

const struct verb *cli_verb(const char *name)
{
    for (const struct verb *verb = verbs; verb->name; verb++)
        if (strcmp(verb->name, name) == 0)
            return verb;
    return NULL;
}

static char servers[256]; /* as set, for the one line when none of them answers */

int cli_fail(const struct verb *verb, const struct error *error)
{
    if (error->outcome == OUTAGE && error->cause && strcmp(error->cause, "kafka") == 0)
        fprintf(stderr, "weir %s: %s; is a broker at %s, and KAFKA_BOOTSTRAP_SERVERS right?\n", verb->name,
                error->text, servers);
    else
        fprintf(stderr, "weir %s: %s\n", verb->name, error->text);
    return error_exit_code(error);
}

static void verb_help(const struct verb *verb, const struct setting *const *tables, size_t table_count)
{
    struct buffer help = buffer_of(1 << 20);
    buffer_print(
        &help,
        "Usage: weir %s %s\n\n%s.\n\nSettings (flag, environment variable or line in --config FILE):\n\n",
        verb->name, verb->usage, verb->about);
    config_help(tables, table_count, &help);
    if (verb->more)
        buffer_print(&help, "\n%s", verb->more);
    fwrite(help.at, 1, help.length, stdout);
    buffer_free(&help);
}

static void version(void)
{
    printf("weir %s\n", WEIR_VERSION);
}

void cli_forget_environment(const struct setting *own)
{
    char file[64];
    for (const struct setting *setting = own; setting->name; setting++) {
        snprintf(file, sizeof(file), "%s_FILE", setting->name);
        unsetenv(setting->name);
        unsetenv(file);
    }
}

bool cli_read(const struct verb *verb, const struct setting *own, int argc, char **argv,
              size_t positional_max, struct config **ret, int *ret_exit)
{
    const struct setting *tables[4];
    size_t count = 0;
    struct error error;
    if (own)
        tables[count++] = own;
    tables[count++] = kafka_settings;
    tables[count++] = registry_settings;
    tables[count++] = common_settings;

    if (config_read(tables, count, argc - 1, argv + 1, ret, &error) != OK) {
        *ret_exit = cli_fail(verb, &error);
        return false;
    }
    if (config_asked_help(*ret) || config_asked_version(*ret)) {
        if (config_asked_help(*ret))
            verb_help(verb, tables, count);
        else
            version();
        config_destroy(*ret);
        *ret_exit = 0;
        return false;
    }
    if (config_positional_count(*ret) > positional_max) {
        fprintf(stderr, "weir %s: one word too many: %s (usage: weir %s %s)\n", verb->name,
                config_positional(*ret, positional_max), verb->name, verb->usage);
        config_destroy(*ret);
        *ret_exit = EXIT_USAGE;
        return false;
    }
    snprintf(servers, sizeof(servers), "%s", config_text(*ret, "KAFKA_BOOTSTRAP_SERVERS"));
    enum log_level level = LOG_INFO;
    log_level_parse(text_of(config_text(*ret, "LOG_LEVEL")), &level);
    log_open("weir", level, config_text(*ret, "LOG_FORMAT"));
    return true;
}

static void client_log(void *owner, int level, const char *facility, const char *text)
{
    (void)owner;
    (void)level;
    log_debug("kafka", text, LOG_STRING("facility", facility));
}

struct client_settings cli_client(const struct config *config)
{
    return (struct client_settings){
        .bootstrap_servers = config_text(config, "KAFKA_BOOTSTRAP_SERVERS"),
        .client_id = "weir",
        .config = config,
        .log = client_log,
    };
}

enum outcome cli_registry(const struct config *config, struct registry **ret, struct error *error)
{
    return registry_open(&(struct registry_use){.config = config, .tool = true}, ret, error);
}

bool cli_redraws(int fd)
{
    const char *term = getenv("TERM");
    return isatty(fd) && term && *term && strcmp(term, "dumb") != 0;
}

bool cli_colour(void)
{
    const char *none = getenv("NO_COLOR");
    return cli_redraws(STDOUT_FILENO) && !(none && none[0]);
}

static volatile sig_atomic_t interrupted;

static void on_signal(int signal_number)
{
    if (interrupted)
        _exit(128 + signal_number);
    interrupted = 1;
}

void cli_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

bool cli_interrupted(void)
{
    return interrupted;
}

enum outcome cli_stopped(struct error *error, const char *before)
{
    return error_retry(error, "stopped", "stopped before %s", before);
}

bool cli_unheard(void)
{
    return ferror(stdout) != 0;
}

enum outcome cli_read_on(struct reader *reader, int silent_ms, int64_t *heard_us, struct record *ret,
                         bool *ret_record, bool *ret_end, struct error *error)
{
    enum outcome outcome = reader_read(reader, READ_STEP_MS, ret, ret_record, ret_end, error);
    int64_t now_us = clock_monotonic_us();
    if (outcome != OK || *ret_record || *ret_end || *heard_us == 0)
        *heard_us = now_us;
    else if (now_us - *heard_us > silent_ms * INT64_C(1000))
        return error_outage(error, "kafka", "Kafka has sent nothing for %d s, and there is more to come",
                            silent_ms / 1000);
    return outcome;
}

bool cli_contradicts(const struct record *record, const struct event_type *type, const void *data,
                     struct arena *arena)
{
    const struct header *headers;
    size_t count = 0;
    struct error ignored;
    struct text key = *(const struct text *)(const void *)((const char *)data + type->key_offset);
    if (record->key_null || !event_same_key(type, record->key, key) ||
        record_headers(record, arena, &headers, &count, &ignored) != OK)
        return true;
    const struct header *named = header_find(headers, count, HEADER_TYPE);
    return named && !text_is(named->value, type->full_name) && !text_is(named->value, type->name);
}

void cli_record_json(struct registry *registry, const struct record *record, struct arena *arena,
                     struct buffer *into, void (*extra)(void *owner, struct json_writer *writer), void *owner)
{
    record_to_json(registry, record, arena, into, extra, owner);
}

/* ---- main */

static void help(void)
{
    printf("weir: an order pipeline on Apache Kafka\n\nUsage: weir COMMAND [arguments]\n\n");
    for (const struct verb *verb = verbs; verb->name; verb++)
        printf("  %-8s %-22s %s\n", verb->name, verb->usage, verb->about);
    printf("\nweir help COMMAND tells its settings. The services are programs of their own: weir-order, "
           "weir-inventory,\n"
           "weir-payment, weir-email, weir-analytics.\n");
}

/* What was not written must not pass for done; a reader that has gone away (head) is no error. */
static int finish(const struct verb *verb, int exit_code)
{
    struct stat output;
    bool failed = fflush(stdout) != 0;
    if ((!failed && !ferror(stdout)) || exit_code)
        return exit_code;
    if (fstat(STDOUT_FILENO, &output) == 0 && (S_ISFIFO(output.st_mode) || S_ISSOCK(output.st_mode)))
        return exit_code;
    fprintf(stderr, "weir %s: the output could not be written; is the disk full?\n", verb->name);
    return EXIT_INTERNAL;
}

/* A word that is like nothing here is nobody's slip. */
static int unknown(const char *word)
{
    const struct verb *nearest = NULL;
    size_t distance = strlen(word) / 3 + 2;
    for (const struct verb *verb = verbs; verb->name; verb++) {
        size_t far = text_distance(text_of(word), text_of(verb->name));
        if (far >= distance)
            continue;
        distance = far;
        nearest = verb;
    }
    fprintf(stderr, "weir: there is no command %.64s%s%s%s weir --help lists them all\n", word,
            nearest ? "; did you mean " : ";", nearest ? nearest->name : "", nearest ? "?" : "");
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "help";
    bool asks = strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
    if (asks && argc < 3) {
        help();
        return argc < 2 ? EXIT_USAGE : 0;
    }
    if (strcmp(word, "--version") == 0 || strcmp(word, "version") == 0) {
        version();
        return 0;
    }
    const struct verb *verb = cli_verb(asks ? argv[2] : word);
    if (!verb)
        return unknown(asks ? argv[2] : word);
    char *about[] = {(char *)(uintptr_t)verb->name, (char[]){"--help"}, NULL};
    return finish(verb, asks ? verb->main(2, about) : verb->main(argc - 1, argv + 1));
}
