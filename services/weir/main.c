/* weir: the one command for people and scripts. */
#include "cli.h"

#include "base/clock.h"
#include "base/log.h"
#include "flow/record_json.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

const struct verb verbs[] = {
    {"up", "[flags]", "run all five services on this machine with the parts they need", up_main},
    {"emit", "[FILE]", "send upstream events: a CloudEvent in JSON a line, from a file or stdin", emit_main},
    {"watch", "[TOPIC...]", "show decoded events as they pass", watch_main},
    {"order", "ID", "tell the life of one order across all topics", order_main},
    {"topics", "[create]", "show declared topics against actual ones, or make what is missing", topics_main},
    {"schemas", "list|check [DIR]|register", "the event schemas", schemas_main},
    {"dlq", "list|show|redrive|drop", "dead letters: by cause, whole, sent back, dropped", dlq_main},
    {"pause", "[SERVICE...]", "services take no records until they are resumed; none named: all", pause_main},
    {"resume", "[SERVICE...]", "they take records again, after a pause or a flood of rejects", pause_main},
    {"traffic", "[flags]", "send orders over HTTP, so many a second, to services that run somewhere else", traffic_main},
    {"bench", "[flags]", "load a running system, open loop, and measure to where each order ends; find its knee", bench_main},
    {"front", "PORT=HOST:PORT...", "take connections for services of which there are several, and hand them on", front_main},
    {"broker", "[flags]", "librdkafka's mock cluster as a process: for a look without Java", broker_main},
    {"mail", "[flags]", "an SMTP server that keeps what it gets", mail_main},
    {"gateway", "[flags]", "a stand-in for a payment gateway", gateway_main},
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
    fwrite(help.at, 1, help.length, stdout);
    buffer_free(&help);
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
    if (config_asked_help(*ret)) {
        verb_help(verb, tables, count);
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

bool cli_colour(void)
{
    const char *none = getenv("NO_COLOR"), *term = getenv("TERM");
    return isatty(STDOUT_FILENO) && !(none && none[0]) && term && strcmp(term, "dumb") != 0;
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
    printf("\nweir COMMAND --help tells its settings. The services are programs of their own: weir-order, "
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

int main(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        help();
        return argc < 2 ? EXIT_USAGE : 0;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "version") == 0) {
        printf("weir %s\n", WEIR_VERSION);
        return 0;
    }
    const struct verb *verb = cli_verb(argv[1]);
    if (!verb) {
        const struct verb *nearest = verbs;
        for (const struct verb *other = verbs; other->name; other++)
            if (text_distance(text_of(argv[1]), text_of(other->name)) <
                text_distance(text_of(argv[1]), text_of(nearest->name)))
                nearest = other;
        fprintf(stderr, "weir: there is no command %s; did you mean %s? weir --help lists them all\n",
                argv[1], nearest->name);
        return EXIT_USAGE;
    }
    return finish(verb, verb->main(argc - 1, argv + 1));
}
