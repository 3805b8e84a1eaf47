/*
 * up: all five services on this machine with the parts they need.
 *
 * up_main() reads as the list of duties: take the state folder, start what was not given (Kafka, mail sink,
 * gateway), the topics, the services, the stock; say where to look; put the sample and the load through;
 * watch over all of it; at the end let what was accepted finish, stop the services, do the books, stop the
 * rest. A second Ctrl-C ends at once, and every child with it.
 */
#include "ask.h"
#include "books.h"
#include "child.h"
#include "cli.h"
#include "failures.h"
#include "kafka_node.h"
#include "load.h"
#include "pulse.h"
#include "sample.h"
#include "shop.h"
#include "table.h"
#include "topics.h"

#include "base/clock.h"
#include "base/digest.h"
#include "kafka/admin.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    STEP_MS = 50,
    READY_MS_MAX = 60000, /* of a service, a mail sink, a gateway */
    ASK_MS = 2000,
    EMIT_MS_MAX = 60000,
    STALL_MS_MAX = 120000, /* of --orders: nothing has moved for so long */
    QUIET_ASKS = 2,        /* --orders: idle in so many rows of metrics pages */
    RATE_DEFAULT = 50,     /* of --orders without --load */
    TRIM_MS = 5000,
    MOCK_FETCH_MS = 20,
    SESSION_MS = 10000, /* on one machine nobody is silent for 45 s, Kafka's default, and still alive */
    /* After Ctrl-C, from its moment on: 10 s in all. */
    LOAD_STOP_MS = 1000,
    SETTLE_MS_MAX = 3500,
    SERVICES_MS_MAX = 6500,
    END_MS_MAX = 9500,
    GRACE_MS = 300,     /* for those that stop last, however late it is */
    GIVEN_MAX = 32,     /* settings handed on to a child */
    OWN_PAIRS_MAX = 16, /* of a child */
    PAIRS_MAX = 2 * GIVEN_MAX + 2 + OWN_PAIRS_MAX,
    PROPERTIES_BYTES_MAX = 16384,
    VALUE_BYTES_MAX = PATH_MAX + 64,
};

static const struct setting up_settings[] = {
    {"STATE_DIR", SETTING_TEXT, NULL, 0, 0, NULL,
     "Folder for everything that is kept, Kafka's log included; $XDG_STATE_HOME/weir or ~/.local/state/weir "
     "where not set."},
    {"BROKER", SETTING_CHOICE, "kafka", 0, 0, "kafka|embedded",
     "kafka: a node of its own from Kafka's jars; embedded: librdkafka's mock, without Java, which keeps 5 "
     "MiB a partition and forgets "
     "everything at the end."},
    {"KAFKA_HOME", SETTING_TEXT, NULL, 0, 0, NULL,
     "Apache Kafka, or what compose/kafka/fetch prints: its jars are in KAFKA_HOME/libs."},
    {"LOAD", SETTING_INT, "0", 0, LOAD_RATE_MAX, NULL, "Orders a second over HTTP."},
    {"ORDERS", SETTING_INT, "0", 0, 100000000, NULL,
     "End by itself after so many orders (the sample's among them); exit 0 only if the books balance. 0: "
     "until Ctrl-C."},
    {"SAMPLE", SETTING_TEXT, NULL, 0, 0, NULL,
     "Upstream events for weir emit at the first start on a state folder, with stock.json beside it; none "
     "for none. The project's own "
     "where not set."},
    {"PORT_BASE", SETTING_INT, "0", 0, 65500, NULL,
     "All ports from this one on: order +0, inventory +2, payment +3, email +4, analytics +5, gateway +6, "
     "mail +7, Kafka +8 and +9. "
     "0: 8080 to 8085, 8090, 1025, 9092 and 9093."},
    {"DATABASE_URL", SETTING_URL, NULL, 0, 0, "postgresql|postgres",
     "A database to use instead of SQLite files: postgresql://…, a schema for each service."},
    {"SMTP_URL", SETTING_URL, NULL, 0, 0, "smtp|smtps", "A mail server to use instead of the built-in sink."},
    {"PAYMENT_GATEWAY_URL", SETTING_URL, NULL, 0, 0, "http|https",
     "A payment gateway to use instead of the stand-in."},
    {"API_TOKEN", SETTING_SECRET, NULL, 0, 0, NULL,
     "As of the services: what placing orders, setting stock and all else that changes something wants as "
     "Authorization: Bearer."},
    {"RETRY_DELAYS", SETTING_DURATIONS, "2s,4s,8s", 0, TOPIC_RETRY_DELAY_MS_MAX, NULL,
     "As of the services; one retry topic for each."},
    {"CHAOS", SETTING_TEXT, NULL, 0, 0, NULL,
     "Failures on purpose, to see it heal. --chaos alone is lively, which is handlers,gateway,smtp; each of "
     "these words is a mix of its "
     "own: handlers is keys=1%:2 and poison=0.1%; gateway is gateway-5xx=2%, gateway-lost=0.5% and "
     "gateway-outage=8s/45s; smtp is "
     "smtp-4yz=1%, smtp-421=0.2% and smtp-outage=6s/35s. Or a list of one's own: keys=P%[:N] (handlers fail "
     "for the first N deliveries "
     "of P per cent of the keys), poison=P%, outage=T/U, slow=P%:T, crash=P%, seed=N; gateway-5xx=P%, "
     "gateway-timeout=P%, "
     "gateway-lost=P% (done, the answer lost), gateway-outage=T/U (away for T of every U); smtp-4yz=P%, "
     "smtp-421=P%, smtp-lost=P%, "
     "smtp-outage=T/U."},
    SETTINGS_END,
};
/* Settings that are the services' as well: handed on as they were given here, by whichever form. */
static const char *const handed_on[] = {"SCHEMA_REGISTRY_URL",
                                        "SCHEMA_REGISTRY_USER",
                                        "SCHEMA_REGISTRY_PASSWORD",
                                        "SCHEMA_REGISTRY_CA_LOCATION",
                                        "SCHEMA_REGISTRY_REGISTER",
                                        "SCHEMA_REGISTRY_UNKNOWN_WAIT",
                                        "LOG_LEVEL",
                                        "LOG_FORMAT",
                                        "DATABASE_URL",
                                        "SMTP_URL",
                                        "PAYMENT_GATEWAY_URL",
                                        "RETRY_DELAYS",
                                        "API_TOKEN",
                                        NULL};

enum part {
    PART_KAFKA,
    PART_MAIL,
    PART_GATEWAY,
    PART_ORDER,
    PART_INVENTORY,
    PART_PAYMENT,
    PART_EMAIL,
    PART_ANALYTICS,
    PART_COUNT
};
static const struct {
    const char *name;
    int port;   /* without --port-base */
    int offset; /* with it */
} parts[PART_COUNT] = {
    [PART_KAFKA] = {"kafka", 9092, 8},         [PART_MAIL] = {"mail", 1025, 7},
    [PART_GATEWAY] = {"gateway", 8090, 6},     [PART_ORDER] = {"order", 8080, 0},
    [PART_INVENTORY] = {"inventory", 8082, 2}, [PART_PAYMENT] = {"payment", 8083, 3},
    [PART_EMAIL] = {"email", 8084, 4},         [PART_ANALYTICS] = {"analytics", 8085, 5},
};
enum { CONTROLLER_PORT = 9093, CONTROLLER_OFFSET = 9, PORT_BASE_MIN = 1024 };

struct up {
    const struct config *config;
    char state[PATH_MAX];    /* absolute */
    char folder[PATH_MAX];   /* where the parts keep theirs: the state, or state/embedded */
    char programs[PATH_MAX]; /* where this program lies */
    char bootstrap[256];
    int lock_fd;
    int ports[PART_COUNT], controller_port;
    const char *token;    /* API_TOKEN; NULL: none */
    bool own[PART_COUNT]; /* it is ours to run */
    bool embedded;
    struct child children[PART_COUNT];
    struct ask *ask;
    struct pulse *pulse;
    struct load *load;
    struct table table;
    struct chaos_list chaos;
    char admin_token[PATH_MAX + 48]; /* ADMIN_TOKEN_FILE=…, where up made the token; empty: it was given */
    struct sample sample;

    int64_t trimmed_us;
    bool failed; /* something ended that cannot be started again */
};

static struct client_settings client_of(const struct up *up)
{
    struct client_settings client = cli_client(up->config);
    client.bootstrap_servers = up->bootstrap;
    return client;
}

PRINTF_LIKE(2, 3) static void say(struct up *up, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    fflush(stdout);
    table_leave(&up->table);
}

static enum outcome cannot(struct error *error, const char *path)
{
    return error_outage(error, "file", "%s: %s", path, strerror(errno));
}

/* ---- the state folder */

static enum outcome make_folders(char *path, struct error *error)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        int result = mkdir(path, 0755);
        if (result != 0 && errno != EEXIST) {
            enum outcome outcome = cannot(error, path);
            *slash = '/';
            return outcome;
        }
        *slash = '/';
    }
    return mkdir(path, 0755) != 0 && errno != EEXIST ? cannot(error, path) : OK;
}

static enum outcome find_state(struct up *up, struct error *error)
{
    char path[PATH_MAX];
    const char *given = config_text(up->config, "STATE_DIR"), *states = getenv("XDG_STATE_HOME"),
               *home = getenv("HOME");
    if (given)
        snprintf(path, sizeof(path), "%s", given);
    else if (states && *states)
        snprintf(path, sizeof(path), "%s/weir", states);
    else
        snprintf(path, sizeof(path), "%s/.local/state/weir", home ? home : ".");
    enum outcome outcome = make_folders(path, error);
    if (outcome == OK && !realpath(path, up->state))
        outcome = cannot(error, path);
    return outcome;
}

/* The lock goes with the process, however it ends; who has it stands in the file. */
static enum outcome lock_state(struct up *up, struct error *error)
{
    char path[PATH_MAX + 8], owner[32] = "";
    snprintf(path, sizeof(path), "%s/lock", up->state);
    up->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (up->lock_fd < 0)
        return cannot(error, path);
    if (flock(up->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        ssize_t length = pread(up->lock_fd, owner, sizeof(owner) - 1, 0);
        owner[length > 0 ? strcspn(owner, "\n") : 0] = '\0';
        error_set(error, RETRY, "locked",
                  "%s is in use by process %s; stop that weir up, or give another --state-dir", up->state,
                  owner[0] ? owner : "(unknown)");
        return RETRY;
    }
    int length = snprintf(owner, sizeof(owner), "%d\n", (int)getpid());
    if (ftruncate(up->lock_fd, 0) != 0 || pwrite(up->lock_fd, owner, (size_t)length, 0) != length)
        return cannot(error, path);
    return OK;
}

static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *walk)
{
    (void)about, (void)kind, (void)walk;
    return remove(path);
}

/* What the embedded broker's services kept belongs to topics that are gone. */
static enum outcome open_folder(struct up *up, struct error *error)
{
    char path[PATH_MAX + 16];
    snprintf(up->folder, sizeof(up->folder), "%s", up->state);
    if (up->embedded) {
        snprintf(path, sizeof(path), "%s/embedded", up->state);
        snprintf(up->folder, sizeof(up->folder), "%.*s", (int)sizeof(up->folder) - 1, path);
        if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0 && errno != ENOENT)
            return cannot(error, path);
        if (mkdir(path, 0755) != 0)
            return cannot(error, path);
    }
    snprintf(path, sizeof(path), "%s/log", up->folder);
    return mkdir(path, 0755) != 0 && errno != EEXIST ? cannot(error, path) : OK;
}

/* So that `weir pause` works at once, and for nobody else: a token of its own, unless one was given. */
static enum outcome find_admin_token(struct up *up, struct error *error)
{
    enum { TOKEN_BYTES = 16 };
    uint8_t bytes[TOKEN_BYTES];
    char token[2 * TOKEN_BYTES + 1], path[PATH_MAX + 16];
    const char *given = getenv("ADMIN_TOKEN"), *file = getenv("ADMIN_TOKEN_FILE");
    if ((given && *given) || (file && *file))
        return OK;
    snprintf(path, sizeof(path), "%s/admin-token", up->state);
    snprintf(up->admin_token, sizeof(up->admin_token), "ADMIN_TOKEN_FILE=%s", path);
    struct stat about;
    if (stat(path, &about) == 0 && about.st_size == 0)
        unlink(path); /* who made it was killed before it stood there */
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno == EEXIST ? OK : cannot(error, path);
    bool made = getrandom(bytes, sizeof(bytes), 0) == (ssize_t)sizeof(bytes);
    digest_to_hex(bytes, sizeof(bytes), token);
    token[2 * TOKEN_BYTES] = '\n';
    made = made && write(fd, token, sizeof(token)) == (ssize_t)sizeof(token);
    enum outcome outcome = made ? OK : cannot(error, path);
    close(fd);
    if (!made)
        unlink(path);
    return outcome;
}

static enum outcome find_programs(struct up *up, struct error *error)
{
    char path[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", up->programs, sizeof(up->programs) - 1);
    if (length < 0)
        return cannot(error, "/proc/self/exe");
    up->programs[length] = '\0';
    *strrchr(up->programs, '/') = '\0';
    snprintf(path, sizeof(path), "%.*s/weir-order", PATH_MAX - 16, up->programs);
    if (access(path, X_OK) == 0)
        return OK;
    /* a build tree: build/services/weir/weir and build/services/weir-order */
    *strrchr(up->programs, '/') = '\0';
    snprintf(path, sizeof(path), "%.*s/weir-order", PATH_MAX - 16, up->programs);
    return access(path, X_OK) == 0 ? OK : cannot(error, path);
}

/* ---- ports */

static bool port_is_free(int port)
{
    const int on = 1;
    const struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    bool free_now = bind(fd, (const void *)&at, sizeof(at)) == 0 && listen(fd, 1) == 0;
    close(fd);
    return free_now;
}

static enum outcome check_port(const char *name, int port, struct error *error)
{
    return port_is_free(port)
               ? OK
               : error_outage(error, "port",
                              "port %d, for %s, is taken by another program; with --port-base N all ports "
                              "are from N to N+9",
                              port, name);
}

static enum outcome choose_ports(struct up *up, struct error *error)
{
    int base = (int)config_int(up->config, "PORT_BASE");
    if (base && base < PORT_BASE_MIN) {
        error_set(error, REJECT, "setting", "PORT_BASE: %d is below %d", base, PORT_BASE_MIN);
        error->exit_code = EXIT_CONFIG;
        return REJECT;
    }
    up->controller_port = base ? base + CONTROLLER_OFFSET : CONTROLLER_PORT;
    enum outcome outcome = OK;
    for (int i = 0; i < PART_COUNT && outcome == OK; i++) {
        up->ports[i] = base ? base + parts[i].offset : parts[i].port;
        if (up->own[i] && !(i == PART_KAFKA && up->embedded))
            outcome = check_port(parts[i].name, up->ports[i], error);
    }
    if (outcome == OK && up->own[PART_KAFKA] && !up->embedded)
        outcome = check_port("Kafka's controller", up->controller_port, error);
    return outcome;
}

/* ---- children */

/* What a child's environment says in place of this process's: pairs, "NAME" alone takes away. */
struct pairs {
    char *list[PAIRS_MAX + 1]; /* NULL ended */
    size_t count;
    char *given[GIVEN_MAX]; /* malloc()ed */
    char files[GIVEN_MAX][CONFIG_NAME_BYTES_MAX + 8];
    size_t given_count;
};

/* A setting as it was given here, by whichever form: NAME=value, and no NAME_FILE beside it. */
static void pairs_hand_on(struct pairs *pairs, const struct config *config, const char *name)
{
    assert(pairs->given_count < GIVEN_MAX);
    if (!config_is_set(config, name) ||
        asprintf(&pairs->given[pairs->given_count], "%s=%s", name, config_text(config, name)) < 0)
        return;
    char *file = pairs->files[pairs->given_count];
    snprintf(file, sizeof(pairs->files[0]), "%s_FILE", name);
    pairs->list[pairs->count++] = file;
    pairs->list[pairs->count++] = pairs->given[pairs->given_count++];
}

/* KAFKA_PROPERTIES of a child: what up knows better than the defaults, then what was given, which counts. */
static void properties_of(const struct up *up, enum part part, char into[PROPERTIES_BYTES_MAX])
{
    size_t length =
        (size_t)snprintf(into, PROPERTIES_BYTES_MAX, "KAFKA_PROPERTIES=session.timeout.ms=%d\n", SESSION_MS);
    /* The mock wakes no fetch that waits: what comes meanwhile is seen at its end. */
    if (up->embedded)
        length += (size_t)snprintf(into + length, PROPERTIES_BYTES_MAX - length, "fetch.wait.max.ms=%d\n",
                                   MOCK_FETCH_MS);
    /* A static member: one that was killed has its partitions again as soon as it is back. The mock knows
     * none. */
    if (part >= PART_ORDER && part < PART_COUNT && !up->embedded)
        length +=
            (size_t)snprintf(into + length, PROPERTIES_BYTES_MAX - length, "group.instance.id=up-%08x-%s\n",
                             (unsigned)text_hash(text_of(up->state)), parts[part].name);
    for (size_t i = 0; i < config_property_count(up->config) && length < PROPERTIES_BYTES_MAX; i++) {
        const char *key, *value;
        config_property(up->config, i, &key, &value);
        length += (size_t)snprintf(into + length, PROPERTIES_BYTES_MAX - length, "%s=%s\n", key, value);
    }
}

/* What every child gets, then its own pairs (NULL ended). */
static char **environment_of(const struct up *up, enum part part, const char *const *own)
{
    struct pairs pairs = {.count = 0};
    char properties[PROPERTIES_BYTES_MAX];
    for (const struct setting *setting = kafka_settings; setting->name; setting++)
        if (strcmp(setting->name, "KAFKA_GROUP_ID") != 0)
            pairs_hand_on(&pairs, up->config, setting->name);
    for (const char *const *name = handed_on; *name; name++)
        pairs_hand_on(&pairs, up->config, *name);
    properties_of(up, part, properties);
    pairs.list[pairs.count++] = properties;
    pairs.list[pairs.count++] = (char[]){"KAFKA_GROUP_ID"}; /* five services are five groups */
    for (; *own && pairs.count < PAIRS_MAX; own++)
        pairs.list[pairs.count++] = (char *)(uintptr_t)*own;
    char **list = child_environment(pairs.list);
    for (size_t i = 0; i < pairs.given_count; i++)
        free(pairs.given[i]);
    return list;
}

static struct child *child_of(struct up *up, enum part part, const char *const *pairs)
{
    struct child *child = &up->children[part];
    child->name = parts[part].name;
    child->again = true;
    child->environment = environment_of(up, part, pairs);
    snprintf(child->log_path, sizeof(child->log_path), "%.*s/log/%s.log", PATH_MAX - 32, up->folder,
             parts[part].name);
    return child;
}

/* A verb of this same program. */
static void verb_of(struct child *child, const char *verb)
{
    char program[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", program, sizeof(program) - 1); /* by its name: ps shows it */
    program[length > 0 ? length : 0] = '\0';
    child_argument(child, "%s", length > 0 ? program : "/proc/self/exe");
    child_argument(child, "%s", verb);
}

/* While something is waited for: interrupted, or a child has died. */
static enum outcome still_well(struct up *up, struct error *error)
{
    char death[64], words[150];
    if (cli_interrupted())
        return error_retry(error, "interrupted", "interrupted");
    for (int i = 0; i < PART_COUNT; i++) {
        struct child *child = &up->children[i];
        if (!child_died(child))
            continue;
        child_last_words(child, words, sizeof(words));
        return error_outage(error, "child", "%s did not start (%s): %s; more in %s", child->name,
                            child_death(child, death, sizeof(death)), words, child->log_path);
    }
    return OK;
}

static enum outcome wait_step(struct up *up, int64_t deadline_us, const char *what, const char *log_path,
                              struct error *error)
{
    poll(NULL, 0, STEP_MS);
    enum outcome outcome = still_well(up, error);
    if (outcome == OK && clock_monotonic_us() > deadline_us)
        outcome = error_outage(error, "start", "%s was not ready in time; see %s", what, log_path);
    return outcome;
}

/* ---- Kafka */

static enum outcome start_embedded(struct up *up, struct error *error)
{
    char file[PATH_MAX + 16], line[256] = "";
    snprintf(file, sizeof(file), "%s/bootstrap", up->folder);
    const char *none[] = {NULL};
    struct child *child = child_of(up, PART_KAFKA, none);
    child->again = false; /* it would come back empty */
    verb_of(child, "broker");
    child_argument(child, "--bootstrap-file");
    child_argument(child, "%s", file);
    int64_t deadline_us = clock_monotonic_us() + READY_MS_MAX * INT64_C(1000);
    enum outcome outcome = child_start(child, error);
    while (outcome == OK && access(file, R_OK) != 0)
        outcome = wait_step(up, deadline_us, "the embedded broker", child->log_path, error);
    if (outcome != OK)
        return outcome;
    FILE *from = fopen(file, "re");
    if (!from || !fgets(line, sizeof(line), from))
        outcome = cannot(error, file);
    if (from)
        fclose(from);
    snprintf(up->bootstrap, sizeof(up->bootstrap), "%.*s", (int)strcspn(line, "\n"), line);
    return outcome;
}

static enum outcome start_node(struct up *up, struct error *error)
{
    char folder[PATH_MAX + 8];
    snprintf(folder, sizeof(folder), "%s/kafka", up->folder);
    const char *none[] = {NULL};
    struct child *child = child_of(up, PART_KAFKA, none);
    const struct kafka_node node = {
        .home = config_text(up->config, "KAFKA_HOME"),
        .folder = folder,
        .port = up->ports[PART_KAFKA],
        .controller_port = up->controller_port,
    };
    snprintf(up->bootstrap, sizeof(up->bootstrap), "127.0.0.1:%d", node.port);
    enum outcome outcome = kafka_node_prepare(&node, child, error);
    return outcome == OK ? child_start(child, error) : outcome;
}

/* A port that is open is not yet a broker that answers. */
static enum outcome wait_for_kafka(struct up *up, struct error *error)
{
    struct admin *admin = NULL;
    const struct client_settings client = client_of(up);
    int64_t deadline_us = clock_monotonic_us() + KAFKA_NODE_START_MS_MAX * INT64_C(1000);
    enum outcome outcome = admin_open(&client, &admin, error);
    if (outcome != OK)
        return outcome;
    for (;;) {
        struct admin_topic *topics = NULL;
        size_t count;
        struct error last;
        enum outcome answered = admin_topics(admin, ASK_MS, &topics, &count, &last);
        free(topics);
        if (answered == OK)
            break;
        outcome = wait_step(up, deadline_us, "Kafka", up->children[PART_KAFKA].log_path, error);
        if (outcome == OK && !up->own[PART_KAFKA]) {
            *error = last; /* somebody else's: to be there is their business, to say so at once is ours */
            error_prefix(error, "Kafka at %s cannot be reached", up->bootstrap);
            outcome = answered;
        }
        if (outcome != OK)
            break;
    }
    admin_close(admin);
    return outcome;
}

static enum outcome start_kafka(struct up *up, struct error *error)
{
    enum outcome outcome = OK;
    if (!up->own[PART_KAFKA])
        snprintf(up->bootstrap, sizeof(up->bootstrap), "%s",
                 config_text(up->config, "KAFKA_BOOTSTRAP_SERVERS"));
    else if (up->embedded)
        outcome = start_embedded(up, error);
    else
        outcome = start_node(up, error);
    return outcome == OK ? wait_for_kafka(up, error) : outcome;
}

static enum outcome make_topics(struct up *up, struct error *error)
{
    size_t made;
    const struct client_settings client = client_of(up);
    struct topics_wanted wanted = {.partitions = TOPIC_PARTITIONS};
    wanted.delay_count =
        config_durations_ms(up->config, "RETRY_DELAYS", wanted.delays_ms, CONFIG_DURATIONS_MAX);
    return topics_make(&client, &wanted, &made, error);
}

/* ---- mail, gateway, services */

static enum outcome start_mail_and_gateway(struct up *up, struct error *error)
{
    static const struct {
        enum part part;
        const char *verb, *listen, *folder;
    } starts[] = {
        {PART_MAIL, "mail", "--mail-listen", "--mail-dir"},
        {PART_GATEWAY, "gateway", "--gateway-listen", "--gateway-dir"},
    };
    enum outcome outcome = OK;
    for (size_t i = 0; outcome == OK && i < sizeof(starts) / sizeof(starts[0]); i++) {
        enum part part = starts[i].part;
        if (!up->own[part])
            continue;
        const char *none[] = {NULL};
        struct child *child = child_of(up, part, none);
        verb_of(child, starts[i].verb);
        child_argument(child, "%s", starts[i].listen);
        child_argument(child, "127.0.0.1:%d", up->ports[part]);
        child_argument(child, "%s", starts[i].folder);
        child_argument(child, "%s/%s", up->folder, parts[part].name);
        const char *chaos = part == PART_MAIL ? up->chaos.mail : up->chaos.gateway;
        if (*chaos) {
            child_argument(child, "%s", part == PART_MAIL ? "--mail-chaos" : "--gateway-chaos");
            child_argument(child, "%s", chaos);
        }
        outcome = child_start(child, error);
        int64_t deadline_us = clock_monotonic_us() + READY_MS_MAX * INT64_C(1000);
        while (outcome == OK && port_is_free(up->ports[part]))
            outcome = wait_step(up, deadline_us, parts[part].name, child->log_path, error);
    }
    return outcome;
}

static const char *database_of(const struct up *up, enum part part, char into[VALUE_BYTES_MAX])
{
    const char *given = config_text(up->config, "DATABASE_URL");
    if (given)
        snprintf(into, VALUE_BYTES_MAX, "%s", given);
    else
        snprintf(into, VALUE_BYTES_MAX, "sqlite:%s/%s.db", up->folder, parts[part].name);
    return into;
}

static enum outcome start_service(struct up *up, enum part part, struct error *error)
{
    char kafka[512], listen_at[64], database[VALUE_BYTES_MAX], pair[VALUE_BYTES_MAX + 16], smtp[64],
        gateway[64], drain[32];
    char chaos[CHAOS_LIST_BYTES_MAX + 8];
    const char *pairs[OWN_PAIRS_MAX + 1] = {0};
    size_t count = 0;
    snprintf(kafka, sizeof(kafka), "KAFKA_BOOTSTRAP_SERVERS=%s", up->bootstrap);
    snprintf(listen_at, sizeof(listen_at), "HTTP_LISTEN=127.0.0.1:%d", up->ports[part]);
    snprintf(pair, sizeof(pair), "DATABASE_URL=%s", database_of(up, part, database));
    snprintf(smtp, sizeof(smtp), "SMTP_URL=smtp://127.0.0.1:%d", up->ports[PART_MAIL]);
    snprintf(gateway, sizeof(gateway), "PAYMENT_GATEWAY_URL=http://127.0.0.1:%d", up->ports[PART_GATEWAY]);
    snprintf(drain, sizeof(drain), "DRAIN_TIMEOUT=%dms", SERVICES_MS_MAX - SETTLE_MS_MAX - 500);
    pairs[count++] = kafka;
    pairs[count++] = listen_at;
    pairs[count++] = "HTTP_LISTEN_FILE";
    pairs[count++] = pair;
    if (up->own[PART_MAIL]) {
        pairs[count++] = smtp;
        if (!getenv("EMAIL_RATE"))
            pairs[count++] = "EMAIL_RATE=0"; /* nobody is flooded */
    }
    if (up->own[PART_GATEWAY])
        pairs[count++] = gateway;
    if (!getenv("DRAIN_TIMEOUT"))
        pairs[count++] = drain;
    snprintf(chaos, sizeof(chaos), "CHAOS=%s", up->chaos.handlers);
    pairs[count++] = "CHAOS_FILE";
    pairs[count++] = chaos; /* also where it is empty: the one in the environment is ours, and was read */
    if (up->admin_token[0])
        pairs[count++] = up->admin_token;
    struct child *child = child_of(up, part, pairs);
    child_argument(child, "%s/weir-%s", up->programs, parts[part].name);
    child_argument(child, "serve");
    return child_start(child, error);
}

static enum outcome start_services(struct up *up, struct error *error)
{
    enum outcome outcome = OK;
    for (enum part part = PART_ORDER; part < PART_COUNT && outcome == OK; part++) {
        up->table.services[up->table.count++] =
            (struct table_service){.name = parts[part].name, .port = up->ports[part]};
        outcome = start_service(up, part, error);
    }
    int64_t deadline_us = clock_monotonic_us() + READY_MS_MAX * INT64_C(1000);
    for (enum part part = PART_ORDER; part < PART_COUNT && outcome == OK; part++) {
        char url[64];
        snprintf(url, sizeof(url), "http://127.0.0.1:%d/readyz", up->ports[part]);
        while (outcome == OK) {
            int status = 0;
            struct text body;
            struct error ignored;
            if (ask_http(up->ask, "GET", url, TEXT(""), ASK_MS, &status, &body, &ignored) == OK &&
                status == 200)
                break;
            outcome = wait_step(up, deadline_us, parts[part].name, up->children[part].log_path, error);
        }
    }
    return outcome;
}

/* ---- stock and sample */

static struct sample_settings sample_of(const struct up *up)
{
    return (struct sample_settings){
        .given = config_text(up->config, "SAMPLE"),
        .programs = up->programs,
        .folder = up->folder,
        .orders_max = config_int(up->config, "ORDERS"),
    };
}

static enum outcome read_sample(struct up *up, struct error *error)
{
    const struct sample_settings settings = sample_of(up);
    return sample_read(&up->sample, &settings, error);
}

static enum outcome set_stock(struct up *up, struct error *error)
{
    size_t index;
    json_t *item;
    json_array_foreach(up->sample.stock, index, item)
    {
        enum outcome outcome = sample_stock(up->ask, up->ports[PART_INVENTORY], item, error);
        if (outcome == OK)
            outcome = still_well(up, error);
        if (outcome != OK)
            return outcome;
    }
    return OK;
}

/* The same code as for everybody: weir emit. */
static enum outcome send_sample(struct up *up, struct error *error)
{
    char kafka[512], words[160];
    const struct sample_settings settings = sample_of(up);
    if (!up->sample.file[0])
        return OK;
    snprintf(kafka, sizeof(kafka), "KAFKA_BOOTSTRAP_SERVERS=%s", up->bootstrap);
    const char *pairs[] = {kafka, NULL};
    struct child child = {.name = "emit"};
    snprintf(child.log_path, sizeof(child.log_path), "%.*s/log/emit.log", PATH_MAX - 32, up->folder);
    child.environment = environment_of(up, PART_COUNT, pairs);
    verb_of(&child, "emit");
    child_argument(&child, "%s", up->sample.file);
    enum outcome outcome = child_start(&child, error);
    int64_t until_us = clock_monotonic_us() + EMIT_MS_MAX * INT64_C(1000);
    bool ended = false;
    while (outcome == OK && !(ended = child_died(&child)) && clock_monotonic_us() < until_us &&
           !cli_interrupted())
        poll(NULL, 0, STEP_MS);
    if (outcome == OK && !ended)
        child_stop(&child, 0);
    if (outcome == OK && cli_interrupted()) { /* the next start sends the same events, which count once */
        outcome = error_retry(error, "interrupted", "interrupted");
    } else if (outcome == OK && (!ended || child.status != 0)) {
        child_last_words(&child, words, sizeof(words));
        outcome = error_outage(error, "sample", "weir emit %s: %s", up->sample.file, words);
    }
    if (outcome == OK)
        outcome = sample_sent(&settings, error);
    child_free(&child);
    return outcome;
}

static enum outcome start_load(struct up *up, struct error *error)
{
    int64_t rate = config_int(up->config, "LOAD"), orders = config_int(up->config, "ORDERS");
    int64_t count_max = orders ? orders - up->sample.orders : 0;
    if (orders && !rate)
        rate = RATE_DEFAULT;
    if (!rate || (orders && count_max <= 0))
        return OK;
    const struct load_settings settings = {
        .port = up->ports[PART_ORDER],
        .token = up->token,
        .rate = rate,
        .count_max = count_max,
        .goods = up->sample.goods,
        .goods_count = up->sample.goods_count,
    };
    return load_start(&settings, &up->load, error);
}

/* ---- watching */

static void welcome(struct up *up)
{
    say(up, "\nWeir is up. Ctrl-C drains it and prints the books.\n");
    say(up,
        "  order       http://127.0.0.1:%d/v1/orders      (POST orders here; /openapi.json on each service)",
        up->ports[PART_ORDER]);
    say(up, "  inventory   http://127.0.0.1:%d/v1/stock", up->ports[PART_INVENTORY]);
    say(up, "  payment     http://127.0.0.1:%d/v1/payments/{order_id}", up->ports[PART_PAYMENT]);
    say(up, "  email       http://127.0.0.1:%d/v1/emails/{order_id}", up->ports[PART_EMAIL]);
    say(up, "  analytics   http://127.0.0.1:%d/                (live page; /v1/figures)",
        up->ports[PART_ANALYTICS]);
    say(up, "  kafka       %s%s", up->bootstrap,
        up->embedded ? "   (librdkafka's mock: 5 MiB a partition, forgets everything at the end)" : "");
    if (up->own[PART_MAIL])
        say(up, "  mails       %s/mail", up->folder);
    say(up, "  logs        %s/log", up->folder);
    if (up->admin_token[0])
        say(up, "  token       %s   (weir pause and weir resume --admin-token-file)",
            strchr(up->admin_token, '=') + 1);
    if (up->chaos.handlers[0])
        say(up, "  chaos       handlers: %s", up->chaos.handlers);
    if (up->chaos.gateway[0])
        say(up, "  chaos       gateway: %s%s", up->chaos.gateway,
            up->own[PART_GATEWAY] ? "" : "   (not this one: it is not ours)");
    if (up->chaos.mail[0])
        say(up, "  chaos       smtp: %s%s", up->chaos.mail,
            up->own[PART_MAIL] ? "" : "   (not this one: it is not ours)");
}

/* A command that can be copied, with an id that is there. Once. */
static void suggest(struct up *up, const struct pulse_counts *counts)
{
    char program[PATH_MAX];
    if (!counts->sample_id[0])
        return;
    ssize_t length = readlink("/proc/self/exe", program, sizeof(program) - 1);
    program[length > 0 ? length : 0] = '\0';
    bool standard = strcmp(up->bootstrap, "127.0.0.1:9092") == 0;
    say(up, "  try next    %s order %s%s%s%s\n", program, standard ? "" : "--kafka-bootstrap-servers ",
        standard ? "" : up->bootstrap, standard ? "" : " ", counts->sample_id);
}

static void supervise(struct up *up)
{
    char death[64];
    for (int i = 0; i < PART_COUNT; i++) {
        struct child *child = &up->children[i];
        if (child_died(child)) {
            if (child->again) {
                say(up, "%s died (%s); it is started again in %.1f s (log: %s)", child->name,
                    child_death(child, death, sizeof(death)), child->backoff_ms / 1000.0, child->log_path);
            } else {
                char words[200];
                child_last_words(child, words, sizeof(words));
                say(up, "%s died (%s) and cannot be started again: %s", child->name,
                    child_death(child, death, sizeof(death)), words);
                up->failed = true;
            }
        }
        bool due = child->start_at_us != 0;
        child_revive(child);
        if (due && child->pid)
            say(up, "%s runs again (process %d)", child->name, (int)child->pid);
    }
    int64_t now_us = clock_monotonic_us();
    if (now_us - up->trimmed_us > TRIM_MS * INT64_C(1000)) {
        up->trimmed_us = now_us;
        for (int i = 0; i < PART_COUNT; i++)
            child_trim_log(&up->children[i]);
    }
}

/* Of --orders: all N were placed and have reached their end. */
static bool all_done(const struct up *up, const struct pulse_counts *counts, int *quiet)
{
    int64_t orders = config_int(up->config, "ORDERS");
    int64_t refused = up->load ? load_counts(up->load).refused : 0;
    bool done = orders && counts->placed + refused >= orders && counts->open == counts->stuck &&
                (!up->load || load_done(up->load)) && table_idle(&up->table);
    *quiet = done ? *quiet + 1 : 0;
    return *quiet >= QUIET_ASKS;
}

/* Until Ctrl-C, the end of --orders, or something that cannot be mended. */
static void watch(struct up *up)
{
    int64_t asked_us = 0, drawn_us = 0, moved_us = clock_monotonic_us(), records = -1;
    int quiet = 0;
    bool suggested = false;
    while (!cli_interrupted() && !up->failed) {
        struct pulse_counts counts;
        int64_t now_us = clock_monotonic_us();
        supervise(up);
        if (now_us - asked_us >= TABLE_DRAW_MS * INT64_C(1000) && !cli_interrupted()) {
            asked_us = now_us;
            table_ask(&up->table, up->ask);
            pulse_counts(up->pulse, &counts);
            if (counts.records != records || !config_int(up->config, "ORDERS"))
                moved_us = now_us;
            records = counts.records;
            if (!suggested && counts.sample_id[0]) {
                suggest(up, &counts);
                suggested = true;
            }
            bool done = all_done(up, &counts, &quiet);
            if (up->table.terminal || done || now_us - drawn_us >= TABLE_LINE_MS * INT64_C(1000)) {
                drawn_us = now_us;
                table_draw(&up->table, &counts);
            }
            if (done)
                return;
        }
        if (now_us - moved_us > STALL_MS_MAX * INT64_C(1000)) {
            say(up, "nothing has moved for %d s: ending without the rest of the orders", STALL_MS_MAX / 1000);
            up->failed = true;
        }
        poll(NULL, 0, STEP_MS);
    }
}

/* ---- the end */

static void stop_part(struct up *up, enum part part, int64_t deadline_us)
{
    struct child *child = &up->children[part];
    if (child->pid && !child_stop(child, deadline_us))
        say(up, "%s did not end in time and was killed", child->name);
}

/* What was accepted goes on to its end, if that is near. */
static void settle(struct up *up, int64_t begun_us)
{
    struct pulse_counts counts;
    bool said = false;
    if (up->load)
        load_stop(up->load, LOAD_STOP_MS);
    for (;;) {
        pulse_counts(up->pulse, &counts);
        if (counts.open == counts.stuck) {
            table_ask(&up->table, up->ask);
            if (table_idle(&up->table))
                break;
        }
        if (clock_monotonic_us() - begun_us > SETTLE_MS_MAX * INT64_C(1000))
            break;
        if (!said && counts.open > counts.stuck)
            say(up, "draining: %lld orders under way", (long long)(counts.open - counts.stuck));
        said = true;
        supervise(up);
        poll(NULL, 0, STEP_MS);
    }
}

static bool do_books(struct up *up)
{
    char order[VALUE_BYTES_MAX], inventory[VALUE_BYTES_MAX], payment[VALUE_BYTES_MAX], email[VALUE_BYTES_MAX];
    char ledger[PATH_MAX + 32], mail_index[PATH_MAX + 32];
    struct error error;
    bool balanced = false;
    snprintf(ledger, sizeof(ledger), "%s/gateway/ledger.ndjson", up->folder);
    snprintf(mail_index, sizeof(mail_index), "%s/mail/index.ndjson", up->folder);
    int64_t delays_ms[CONFIG_DURATIONS_MAX];
    bool idle = table_idle(
        &up->table); /* as last seen, before they were stopped: nothing was on its way, retries included */
    const struct books_settings settings = {
        .client = client_of(up),
        .order_url = database_of(up, PART_ORDER, order),
        .inventory_url = database_of(up, PART_INVENTORY, inventory),
        .payment_url = database_of(up, PART_PAYMENT, payment),
        .email_url = database_of(up, PART_EMAIL, email),
        .retry_delays_ms = delays_ms,
        .retry_delay_count =
            idle ? 0 : config_durations_ms(up->config, "RETRY_DELAYS", delays_ms, CONFIG_DURATIONS_MAX),
        .ledger = up->own[PART_GATEWAY] ? ledger : NULL,
        .mail_index = up->own[PART_MAIL] ? mail_index : NULL,
    };
    if (books_print(&settings, &balanced, &error) != OK) {
        say(up, "The books cannot be done: %s", error.text);
        return false;
    }
    return balanced;
}

/* Within END_MS_MAX of its beginning. True when the books balance. */
static bool wind_down(struct up *up)
{
    int64_t begun_us = clock_monotonic_us();
    if (cli_interrupted())
        say(up, "\nStopping; Ctrl-C once more ends at once.");
    settle(up, begun_us);
    for (int i = PART_ORDER; i < PART_COUNT; i++)
        child_ask_stop(&up->children[i]);
    for (int i = PART_ORDER; i < PART_COUNT; i++)
        stop_part(up, (enum part)i, begun_us + SERVICES_MS_MAX * INT64_C(1000));
    bool balanced = do_books(up);
    pulse_close(up->pulse);
    up->pulse = NULL;
    return balanced;
}

static void stop_all(struct up *up, int64_t begun_us)
{
    int64_t deadline_us = begun_us + END_MS_MAX * INT64_C(1000),
            least_us = clock_monotonic_us() + GRACE_MS * INT64_C(1000);
    if (deadline_us < least_us)
        deadline_us = least_us;
    for (int i = PART_COUNT - 1; i >= 0; i--)
        child_ask_stop(&up->children[i]);
    for (int i = PART_COUNT - 1; i >= 0; i--)
        stop_part(up, (enum part)i, deadline_us);
}

static void up_free(struct up *up)
{
    if (up->load) {
        load_stop(up->load, 0);
        load_free(up->load);
    }
    pulse_close(up->pulse);
    ask_close(up->ask);
    for (int i = 0; i < PART_COUNT; i++)
        child_free(&up->children[i]);
    sample_free(&up->sample);
    if (up->lock_fd >= 0)
        close(up->lock_fd);
}

static enum outcome start(struct up *up, struct error *error)
{
    const struct {
        const char *say;
        enum outcome (*duty)(struct up *up, struct error *error);
    } duties[] = {
        {NULL, find_state},
        {NULL, lock_state},
        {NULL, open_folder},
        {NULL, find_admin_token},
        {NULL, find_programs},
        {NULL, choose_ports},
        {NULL, read_sample},
        {up->own[PART_KAFKA] ? up->embedded ? "starting the embedded broker" : "starting Kafka"
                             : "looking for Kafka",
         start_kafka},
        {"making the topics", make_topics},
        {"starting the services", start_mail_and_gateway},
        {NULL, start_services},
        {"setting the stock", set_stock},
    };
    enum outcome outcome = shop_token(up->config, &up->token, error);
    if (outcome == OK)
        outcome = ask_open(&up->ask, error);
    if (outcome == OK)
        ask_authorize(up->ask, up->token);
    for (size_t i = 0; outcome == OK && i < sizeof(duties) / sizeof(duties[0]); i++) {
        if (duties[i].say)
            say(up, "weir up: %s", duties[i].say);
        outcome = duties[i].duty(up, error);
    }
    const struct client_settings client = client_of(up);
    if (outcome == OK)
        outcome = pulse_open(&client, &up->pulse, error);
    return outcome;
}

/* --chaos without a list is the lively one: said so to those who read the settings. */
static void name_lively(int argc, char **argv)
{
    static char lively[] = "--chaos=" CHAOS_LIVELY;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--chaos") == 0 && (i + 1 == argc || argv[i + 1][0] == '-'))
            argv[i] = lively;
}

int up_main(int argc, char **argv)
{
    const struct verb *verb = cli_verb("up");
    struct up *up = calloc(1, sizeof(*up));
    struct config *config = NULL;
    struct error error;
    int exit_code;
    name_lively(argc, argv);
    if (!up || !cli_read(verb, up_settings, argc, argv, 0, &config, &exit_code)) {
        free(up);
        return up ? exit_code : EXIT_INTERNAL;
    }
    if (chaos_list_parse(config_text(config, "CHAOS"), &up->chaos, &error) != OK) {
        exit_code = cli_fail(verb, &error);
        free(up);
        config_destroy(config);
        return exit_code;
    }
    cli_signals();
    up->config = config;
    up->lock_fd = -1;
    up->embedded = strcmp(config_text(config, "BROKER"), "embedded") == 0;
    for (int i = 0; i < PART_COUNT; i++)
        up->own[i] = true;
    up->own[PART_KAFKA] = up->embedded || !config_is_set(config, "KAFKA_BOOTSTRAP_SERVERS");
    up->own[PART_MAIL] = !config_is_set(config, "SMTP_URL");
    up->own[PART_GATEWAY] = !config_is_set(config, "PAYMENT_GATEWAY_URL");
    up->table.terminal = cli_redraws(STDOUT_FILENO);
    up->table.colour = cli_colour();
    up->table.begun_us = clock_monotonic_us();

    enum outcome outcome = start(up, &error);
    if (outcome == OK)
        outcome = send_sample(up, &error);
    if (outcome == OK)
        outcome = start_load(up, &error);
    int64_t end_us = clock_monotonic_us();
    if (outcome == OK) {
        welcome(up);
        watch(up);
        end_us = clock_monotonic_us();
        exit_code = wind_down(up) && !up->failed ? 0 : EXIT_INTERNAL;
    } else if (cli_interrupted()) {
        say(up, "\nStopped before all was there.");
        exit_code = config_int(config, "ORDERS") ? EXIT_TRY_AGAIN : 0;
    } else {
        exit_code = cli_fail(verb, &error);
    }
    stop_all(up, end_us);
    up_free(up);
    free(up);
    config_destroy(config);
    return exit_code;
}
