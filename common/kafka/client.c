#include "kafka/client.h"
#include "base/clock.h"
#include "kafka/handle.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const struct setting kafka_settings[] = {
    {.name = "KAFKA_BOOTSTRAP_SERVERS",
     .kind = SETTING_SERVERS,
     .fallback = "127.0.0.1:9092",
     .help = "Brokers to start from, host:port,host:port."},
    {.name = "KAFKA_GROUP_ID", .kind = SETTING_TEXT, .help = "Consumer group; weir-<service> where not set."},
    {.name = "KAFKA_GROUP_PROTOCOL",
     .kind = SETTING_CHOICE,
     .fallback = "classic",
     .choices = "classic|consumer",
     .help = "Group protocol; consumer (KIP-848) needs librdkafka 2.12 and Kafka 4.0, and is classic on "
             "older libraries."},
    {.name = "KAFKA_LINGER",
     .kind = SETTING_DURATION,
     .fallback = "0ms",
     .max = 1000,
     .help =
         "How long a record may wait for others to share its request, beside the round trip of those before "
         "it."},
    {.name = "KAFKA_FETCH_WAIT",
     .kind = SETTING_DURATION,
     .fallback = "0ms",
     .max = 500,
     .help =
         "How long the broker may gather records before it answers a fetch: latency for less work. 0: not at "
         "all."},
    {.name = "KAFKA_COMPRESSION",
     .kind = SETTING_CHOICE,
     .fallback = "none",
     .choices = "none|lz4|snappy|gzip|zstd",
     .help = "Compression of what is produced."},
    {.name = "KAFKA_SECURITY_PROTOCOL",
     .kind = SETTING_CHOICE,
     .fallback = "plaintext",
     .choices = "plaintext|ssl|sasl_plaintext|sasl_ssl",
     .help = "How to talk to the brokers."},
    {.name = "KAFKA_SASL_MECHANISM", .kind = SETTING_TEXT, .help = "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, …"},
    {.name = "KAFKA_SASL_USERNAME", .kind = SETTING_TEXT, .help = "User for SASL."},
    {.name = "KAFKA_SASL_PASSWORD", .kind = SETTING_SECRET, .help = "Password for SASL."},
    {.name = "KAFKA_SSL_CA",
     .kind = SETTING_TEXT,
     .help = "File with the certificates of the authorities to trust (PEM)."},
    {.name = "KAFKA_SSL_CERTIFICATE",
     .kind = SETTING_TEXT,
     .help = "File with the client's certificate (PEM)."},
    {.name = "KAFKA_SSL_KEY", .kind = SETTING_TEXT, .help = "File with the client's private key (PEM)."},
    {.name = "KAFKA_SSL_KEY_PASSWORD", .kind = SETTING_SECRET, .help = "Password of the private key."},
    SETTINGS_END,
};

/* Settings that are a librdkafka property by another name. */
static const struct {
    const char *setting, *property;
} handed_on[] = {
    {"KAFKA_SECURITY_PROTOCOL", "security.protocol"},
    {"KAFKA_SASL_MECHANISM", "sasl.mechanism"},
    {"KAFKA_SASL_USERNAME", "sasl.username"},
    {"KAFKA_SASL_PASSWORD", "sasl.password"},
    {"KAFKA_SSL_CA", "ssl.ca.location"},
    {"KAFKA_SSL_CERTIFICATE", "ssl.certificate.location"},
    {"KAFKA_SSL_KEY", "ssl.key.location"},
    {"KAFKA_SSL_KEY_PASSWORD", "ssl.key.password"},
};

enum {
    FETCH_GATHERED_BYTES = 256 << 10, /* so much ends the wait of KAFKA_FETCH_WAIT */
    VERSION_COOPERATIVE =
        0x020a0000, /* 2.10.0: an assignment is no longer lost by a commit during a cooperative rebalance */
    VERSION_SCRAM =
        0x02060100, /* 2.6.1: a nonce as Kafka 4 wants it; older ones send it with a part doubled */
    VERSION_KIP848 = 0x020c0000, /* 2.12.0: group.protocol=consumer is generally available */
};

int client_library_version(void)
{
    return rd_kafka_version();
}

/* ---- the log */

/* "[thrd:…]: ssl://host:port/bootstrap: reason (after 3ms in state …)": from the broker on. */
static void trouble_note(struct handle *handle, const char *text)
{
    const char *from = text[0] == '[' ? strstr(text, "]: ") : NULL;
    from = from ? from + 3 : text;
    const char *end = strstr(from, " (after ");
    size_t length = end ? (size_t)(end - from) : strlen(from);
    bool old_scram = strstr(from, "mechanism SCRAM") && rd_kafka_version() < VERSION_SCRAM;
    pthread_mutex_lock(&handle->log_lock);
    snprintf(handle->trouble, sizeof(handle->trouble), "%.*s%s%s", (int)length, from,
             old_scram ? "; SCRAM with Kafka 4 needs librdkafka 2.6.1, this is " : "",
             old_scram ? rd_kafka_version_str() : "");
    pthread_mutex_unlock(&handle->log_lock);
}

bool handle_trouble(struct handle *handle, char *into, size_t into_bytes)
{
    pthread_mutex_lock(&handle->log_lock);
    bool known = handle->trouble[0];
    if (known)
        snprintf(into, into_bytes, "%s", handle->trouble);
    pthread_mutex_unlock(&handle->log_lock);
    return known;
}

void handle_trouble_over(struct handle *handle)
{
    pthread_mutex_lock(&handle->log_lock);
    handle->trouble[0] = '\0';
    pthread_mutex_unlock(&handle->log_lock);
}

static void forward_log(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    struct handle *handle = rd_kafka_opaque(rk);
    if (handle && strcmp(facility, "FAIL") == 0)
        trouble_note(handle, text);
    /* -X pairs go to producers and consumers alike; that each ignores the other's is what is wanted. */
    if (!handle || strcmp(facility, "CONFWARN") == 0 || strcmp(facility, "AUTOCREATE") == 0)
        return; /* AUTOCREATE: the mock cluster does not know that property */
    handle_log(handle, level, facility, "%s", text);
}

void handle_init(struct handle *handle, const struct client_settings *settings)
{
    handle->rk = NULL;
    handle->secured = handle->oauthbearer = false;
    handle->trouble[0] = '\0';
    pthread_mutex_init(&handle->log_lock, NULL);
    handle->log = settings->log;
    handle->log_owner = settings->log_owner;
}

void handle_log(struct handle *handle, int level, const char *facility, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    pthread_mutex_lock(&handle->log_lock);
    if (handle->log)
        handle->log(handle->log_owner, level, facility, text);
    pthread_mutex_unlock(&handle->log_lock);
}

/* ---- the configuration */

static enum outcome set(rd_kafka_conf_t *conf, const char *name, const char *value, struct error *error)
{
    char text[256];
    if (rd_kafka_conf_set(conf, name, value, text, sizeof(text)) == RD_KAFKA_CONF_OK)
        return OK;
    error_set(error, REJECT, "kafka-property", "librdkafka %s: %s", rd_kafka_version_str(), text);
    if (error)
        error->exit_code = EXIT_CONFIG;
    return REJECT;
}

static enum outcome set_pairs(rd_kafka_conf_t *conf, const char *const *pairs, struct error *error)
{
    for (; pairs && pairs[0]; pairs += 2) {
        enum outcome outcome = set(conf, pairs[0], pairs[1], error);
        if (outcome != OK)
            return outcome;
    }
    return OK;
}

struct property {
    const char *name, *value; /* a NULL name ends a table */
};

static enum outcome set_all(rd_kafka_conf_t *conf, const struct property *properties, struct error *error)
{
    for (; properties->name; properties++) {
        enum outcome outcome = set(conf, properties->name, properties->value, error);
        if (outcome != OK)
            return outcome;
    }
    return OK;
}

static bool offered(const char *name, const char *value)
{
    char text[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    bool result = rd_kafka_conf_set(conf, name, value, text, sizeof(text)) == RD_KAFKA_CONF_OK;
    rd_kafka_conf_destroy(conf);
    return result;
}

static const struct property common_properties[] = {
    /* Nagle is on by default up to 2.10: a small request behind another waits for an acknowledgement. */
    {"socket.nagle.disable", "true"},
    /* A peer that vanished without a word is noticed by the kernel also where nothing is sent. */
    {"socket.keepalive.enable", "true"},
    /* The default lets the wait for a broker that is back grow to 10 s. */
    {"reconnect.backoff.ms", "100"},
    {"reconnect.backoff.max.ms", "2000"},
    /* Topics are declared; a typing error must not make one (the producer's default would). */
    {"allow.auto.create.topics", "false"},
    /* Idle connections closed by the broker are ordinary. */
    {"log.connection.close", "false"},
    /* Is a broker there? librdkafka says so nowhere else than in its statistics. */
    {"statistics.interval.ms", "1000"},
    /* A copy on a retry topic or the DLQ has more headers than the original, which may be as large as a
     * broker takes by default (1 MiB): it is the broker that refuses, by the topic's own bound. */
    {"message.max.bytes", "2097152"},
    {NULL, NULL},
};

static const struct property producer_properties[] = {
    {"enable.idempotence", "true"},
    {"acks", "all"},
    /* Java's: CRC32, librdkafka's default, would put one key of two upstreams into two partitions. */
    {"partitioner", "murmur2_random"},
    /* Never: a record given up after a time would be overtaken by the next of its key. Who waits too long is
     * told by the age of the outbox, not by a hole in the topic. */
    {"message.timeout.ms", "0"},
    /* A record set is refused as a whole where it is above a topic's bound: keep well below the usual 1 MiB.
     */
    {"batch.size", "524288"},
    {"delivery.report.only.error", "false"},
    {NULL, NULL},
};

static const struct property consumer_properties[] = {
    /* Offsets are committed by hand, after the database has the effect. */
    {"enable.auto.commit", "false"},
    {"enable.auto.offset.store", "false"},
    {"isolation.level", "read_committed"},
    /* Off by default; a flipped bit would be decoded. */
    {"check.crcs", "true"},
    /* A group without offsets (new, or expired after a week without members) begins at the beginning: what
     * was handled is known by the inbox. The default, largest, would skip silently. */
    {"auto.offset.reset", "earliest"},
    /* How long the broker may keep an idle fetch: this is no latency, a record ends the wait. */
    {"fetch.wait.max.ms", "500"},
    {"fetch.error.backoff.ms", "200"},
    /* A topic that was made after the subscription, or just before it so that the broker did not know it yet,
     * is found when the metadata are asked for again: by default after five minutes, in which nothing that is
     * retried would come back. */
    {"topic.metadata.refresh.interval.ms", "10000"},
    {NULL, NULL},
};

/*
 * A full prefetch queue makes the fetcher sleep for a whole second on old versions. A consumer wakes it
 * (handle_wake_fetchers()); a reader does not, and gets at most what its queue holds a second. Newer versions
 * have the sleep as a property: 10 ms run at full speed (0 would cost four times the CPU). One fetch may
 * bring some megabytes for each partition unless told otherwise, of records that cost 700 bytes each beside
 * their own: a bound for the queue is none without a bound for the fetch.
 */
static enum outcome set_prefetch(rd_kafka_conf_t *conf, struct handle *handle, enum handle_kind kind,
                                 struct error *error)
{
    static const struct property not_woken[] = {
        {"queued.min.messages", "100000"},
        {"queued.max.messages.kbytes", "32768"},
        {NULL, NULL},
    };
    static const struct property small[] = {
        {"queued.min.messages", "10000"},
        {"queued.max.messages.kbytes", "16384"},
        {"fetch.max.bytes", "2097152"}, /* no less than message.max.bytes */
        {NULL, NULL},
    };
    handle->fetchers_sleep = !offered("fetch.queue.backoff.ms", "10");
    if (handle->fetchers_sleep)
        return set_all(conf, kind == HANDLE_CONSUMER ? small : not_woken, error);
    enum outcome outcome = set_all(conf, small, error);
    return outcome == OK ? set(conf, "fetch.queue.backoff.ms", "10", error) : outcome;
}

/*
 * New credentials wake every thread that talks to a broker, the same ones again change nothing but that, and
 * nothing else that the library offers on a consumer wakes them without throwing away what was fetched.
 */
void handle_wake_fetchers(struct handle *handle)
{
    char username[HANDLE_CREDENTIAL_BYTES_MAX] = "", password[HANDLE_CREDENTIAL_BYTES_MAX] = "";
    size_t username_bytes = sizeof(username), password_bytes = sizeof(password);
    const rd_kafka_conf_t *conf = rd_kafka_conf(handle->rk);
    rd_kafka_conf_get(conf, "sasl.username", username, &username_bytes);
    rd_kafka_conf_get(conf, "sasl.password", password, &password_bytes);
    if (username_bytes <= sizeof(username) && password_bytes <= sizeof(password)) {
        rd_kafka_error_t *failed = rd_kafka_sasl_set_credentials(handle->rk, username, password);
        if (failed)
            rd_kafka_error_destroy(failed);
    }
    explicit_bzero(password, sizeof(password));
}

/* A fetch is answered with the first record that comes, and each is a request, an answer and two wake-ups
 * here and at the broker. Who is in no hurry lets it gather more. */
static enum outcome set_fetch_wait(rd_kafka_conf_t *conf, const struct config *config, struct error *error)
{
    int64_t wait_ms = config ? config_ms(config, "KAFKA_FETCH_WAIT") : 0;
    if (wait_ms == 0)
        return OK;
    char wait[24], bytes[24];
    snprintf(wait, sizeof(wait), "%lld", (long long)wait_ms);
    snprintf(bytes, sizeof(bytes), "%d", FETCH_GATHERED_BYTES);
    enum outcome outcome = set(conf, "fetch.wait.max.ms", wait, error);
    return outcome == OK ? set(conf, "fetch.min.bytes", bytes, error) : outcome;
}

static enum outcome set_group_protocol(rd_kafka_conf_t *conf, struct handle *handle,
                                       const struct config *config, struct error *error)
{
    if (config && strcmp(config_text(config, "KAFKA_GROUP_PROTOCOL"), "consumer") == 0) {
        /* It refuses session.timeout.ms and an assignment strategy beside it: those are the broker's now. */
        if (rd_kafka_version() >= VERSION_KIP848 && offered("group.protocol", "consumer"))
            return set(conf, "group.protocol", "consumer", error);
        handle_log(handle, 4, "CONFIG",
                   "KAFKA_GROUP_PROTOCOL=consumer needs librdkafka 2.12, this is %s: classic is used",
                   rd_kafka_version_str());
    }
    enum outcome outcome = set(conf, "session.timeout.ms", "45000", error);
    if (outcome != OK)
        return outcome;
    /* Cooperative on an old library loses its assignment, spins or hangs on close (issues 4059, 2933). And
     * alone: librdkafka refuses a list with both kinds. */
    return set(conf, "partition.assignment.strategy",
               rd_kafka_version() >= VERSION_COOPERATIVE ? "cooperative-sticky" : "range", error);
}

/* What the promises stand on is not for sale: a passed-through property must not change it. */
static enum outcome check_promises(const rd_kafka_conf_t *conf, enum handle_kind kind, struct error *error)
{
    static const struct {
        bool producer;
        const char *name, *value, *alias;
    } must[] = {
        {true, "enable.idempotence", "true", NULL},
        {true, "acks", "-1", "all"},
        {true, "message.timeout.ms", "0", NULL},
        {false, "enable.auto.commit", "false", NULL},
        {false, "enable.auto.offset.store", "false", NULL},
    };
    for (size_t i = 0; i < sizeof(must) / sizeof(must[0]); i++) {
        if (must[i].producer != (kind == HANDLE_PRODUCER || kind == HANDLE_ADMIN))
            continue;
        char value[64];
        size_t bytes = sizeof(value);
        if (rd_kafka_conf_get(conf, must[i].name, value, &bytes) != RD_KAFKA_CONF_OK)
            continue;
        if (strcmp(value, must[i].value) == 0 || (must[i].alias && strcmp(value, must[i].alias) == 0))
            continue;
        error_set(error, REJECT, "kafka-property",
                  "librdkafka property %s must stay %s: what Weir promises rests on it", must[i].name,
                  must[i].alias ? must[i].alias : must[i].value);
        if (error)
            error->exit_code = EXIT_CONFIG;
        return REJECT;
    }
    return OK;
}

static bool mechanism_is(const rd_kafka_conf_t *conf, const char *prefix)
{
    char mechanism[32];
    size_t bytes = sizeof(mechanism);
    return rd_kafka_conf_get(conf, "sasl.mechanism", mechanism, &bytes) == RD_KAFKA_CONF_OK &&
           strncmp(mechanism, prefix, strlen(prefix)) == 0;
}

enum outcome handle_conf(struct handle *handle, const struct client_settings *settings, enum handle_kind kind,
                         const char *const *more, rd_kafka_conf_t **ret, struct error *error)
{
    const struct config *config = settings->config;
    bool producer = kind == HANDLE_PRODUCER || kind == HANDLE_ADMIN;
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    enum outcome outcome = set_all(conf, common_properties, error);
    if (outcome != OK)
        goto out;
    if ((outcome = set_all(conf, producer ? producer_properties : consumer_properties, error)) != OK)
        goto out;
    if (!producer && (outcome = set_prefetch(conf, handle, kind, error)) != OK)
        goto out;
    if (kind == HANDLE_CONSUMER && (outcome = set_fetch_wait(conf, config, error)) != OK)
        goto out;
    if (kind == HANDLE_CONSUMER && (outcome = set_group_protocol(conf, handle, config, error)) != OK)
        goto out;
    const char *servers = settings->bootstrap_servers;
    if (!servers)
        servers = config ? config_text(config, "KAFKA_BOOTSTRAP_SERVERS") : "127.0.0.1:9092";
    if ((outcome = set(conf, "bootstrap.servers", servers, error)) != OK)
        goto out;
    if ((outcome = set(conf, "client.id", settings->client_id ? settings->client_id : "weir", error)) != OK)
        goto out;
    if (config && producer &&
        (outcome = set(conf, "compression.codec", config_text(config, "KAFKA_COMPRESSION"), error)) != OK)
        goto out;
    for (size_t i = 0; config && i < sizeof(handed_on) / sizeof(handed_on[0]); i++) {
        const char *value = config_text(config, handed_on[i].setting);
        if (value && (outcome = set(conf, handed_on[i].property, value, error)) != OK) {
            error_prefix(error, "%s", handed_on[i].setting);
            goto out;
        }
    }
    if ((outcome = set_pairs(conf, more, error)) != OK)
        goto out;
    /* The user's own, last. */
    if ((outcome = set_pairs(conf, settings->properties, error)) != OK)
        goto out;
    for (size_t i = 0; config && i < config_property_count(config); i++) {
        const char *name, *value;
        config_property(config, i, &name, &value);
        if ((outcome = set(conf, name, value, error)) != OK) {
            error_prefix(error, "-X %s", name); /* not its value: a password's name may be misspelt */
            goto out;
        }
    }
    if ((outcome = check_promises(conf, kind, error)) != OK)
        goto out;
    char protocol[32];
    size_t protocol_bytes = sizeof(protocol);
    handle->secured =
        rd_kafka_conf_get(conf, "security.protocol", protocol, &protocol_bytes) == RD_KAFKA_CONF_OK &&
        strcmp(protocol, "plaintext") != 0;
    if (mechanism_is(conf, "SCRAM") && rd_kafka_version() < VERSION_SCRAM)
        handle_log(handle, 4, "SCRAM",
                   "SCRAM with Kafka 4 needs librdkafka 2.6.1, this is %s: such brokers refuse it whatever "
                   "the password",
                   rd_kafka_version_str());
    if ((handle->oauthbearer = mechanism_is(conf, "OAUTHBEARER")))
        rd_kafka_conf_enable_sasl_queue(conf, 1);
    rd_kafka_conf_set_opaque(conf, handle);
    rd_kafka_conf_set_log_cb(conf, forward_log);
    *ret = conf;
    conf = NULL;
out:
    if (conf)
        rd_kafka_conf_destroy(conf);
    return outcome;
}

enum outcome handle_open(struct handle *handle, enum handle_kind kind, rd_kafka_conf_t *conf,
                         struct error *error)
{
    char text[256];
    bool producer = kind == HANDLE_PRODUCER || kind == HANDLE_ADMIN;
    rd_kafka_t *rk = rd_kafka_new(producer ? RD_KAFKA_PRODUCER : RD_KAFKA_CONSUMER, conf, text, sizeof(text));
    if (rk) {
        handle->rk = rk;
        /* Else a token is made when somebody polls the handle, and whoever waits for an answer does not. */
        rd_kafka_error_t *failed = handle->oauthbearer ? rd_kafka_sasl_background_callbacks_enable(rk) : NULL;
        if (failed) {
            handle_log(handle, 3, "CONFIG", "OAUTHBEARER: %s", rd_kafka_error_string(failed));
            rd_kafka_error_destroy(failed);
        }
        return OK;
    }
    rd_kafka_resp_err_t err = rd_kafka_last_error();
    rd_kafka_conf_destroy(conf); /* kept by rd_kafka_new() only where it succeeds */
    if (err == RD_KAFKA_RESP_ERR__INVALID_ARG) {
        error_set(error, REJECT, "kafka-property", "librdkafka: %s", text);
        if (error)
            error->exit_code = EXIT_CONFIG;
        return REJECT;
    }
    return error_fatal(error, "kafka-client", "librdkafka: %s", text);
}

/* ---- destruction with a bound */

struct destruction {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done, abandoned;
    rd_kafka_t *rk;
    struct handle *handle;
    void (*release)(void *owner);
    void *owner;
};

static void destruction_free(struct destruction *destruction)
{
    pthread_mutex_destroy(&destruction->lock);
    pthread_cond_destroy(&destruction->changed);
    free(destruction);
}

static void *destroy_run(void *argument)
{
    struct destruction *destruction = argument;
    rd_kafka_destroy_flags(destruction->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    pthread_mutex_destroy(&destruction->handle->log_lock);
    destruction->release(destruction->owner);
    pthread_mutex_lock(&destruction->lock);
    destruction->done = true;
    bool abandoned = destruction->abandoned;
    pthread_cond_signal(&destruction->changed);
    pthread_mutex_unlock(&destruction->lock);
    if (abandoned)
        destruction_free(destruction);
    return NULL;
}

void handle_destroy(struct handle *handle, int timeout_ms, void (*release)(void *owner), void *owner)
{
    pthread_mutex_lock(&handle->log_lock);
    handle->log = NULL;
    pthread_mutex_unlock(&handle->log_lock);

    struct destruction *destruction = calloc(1, sizeof(*destruction));
    if (!destruction)
        return; /* no memory for the way out: leaving it all behind is all that is bounded */
    destruction->rk = handle->rk;
    destruction->handle = handle;
    destruction->release = release;
    destruction->owner = owner;
    pthread_mutex_init(&destruction->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&destruction->changed, &attributes);
    pthread_condattr_destroy(&attributes);

    pthread_t thread;
    if (pthread_create(&thread, NULL, destroy_run, destruction) != 0) {
        destruction_free(destruction);
        return;
    }
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (timeout_ms % 1000) * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    pthread_mutex_lock(&destruction->lock);
    while (!destruction->done &&
           pthread_cond_timedwait(&destruction->changed, &destruction->lock, &until) != ETIMEDOUT)
        continue;
    bool done = destruction->done;
    destruction->abandoned = !done;
    pthread_mutex_unlock(&destruction->lock);
    if (done) {
        pthread_join(thread, NULL);
        destruction_free(destruction);
    } else {
        pthread_detach(thread);
    }
}

/* ---- errors */

enum { UNRELEASED_INSTANCE_ID = 111 }; /* a second static member under KIP-848; 2.0.2 has no name for it */

enum outcome handle_outcome(rd_kafka_resp_err_t err)
{
    if ((int)err == UNRELEASED_INSTANCE_ID)
        return FATAL;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wswitch-enum" /* there are two hundred, and newer libraries have more */
    switch (err) {
    case RD_KAFKA_RESP_ERR_NO_ERROR:
        return OK;
    case RD_KAFKA_RESP_ERR__QUEUE_FULL:
        return RETRY;
    /* What is in the record, and stays in it. Not INVALID_MSG (Kafka's CORRUPT_MESSAGE): bytes that were
     * damaged on their way, or on the broker's disk, and go through when they are sent again. */
    case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
    case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
    case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
    case RD_KAFKA_RESP_ERR_INVALID_RECORD:
    case RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP:
    /* What was asked for, and never will be. */
    case RD_KAFKA_RESP_ERR__INVALID_ARG:
    case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
    case RD_KAFKA_RESP_ERR_INVALID_PARTITIONS:
    case RD_KAFKA_RESP_ERR_INVALID_REPLICATION_FACTOR:
    case RD_KAFKA_RESP_ERR_INVALID_REPLICA_ASSIGNMENT:
    case RD_KAFKA_RESP_ERR_INVALID_CONFIG:
    case RD_KAFKA_RESP_ERR_INVALID_REQUEST:
    case RD_KAFKA_RESP_ERR_POLICY_VIOLATION:
    case RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION:
    case RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE:
    case RD_KAFKA_RESP_ERR_INVALID_GROUP_ID:
        return REJECT;
    /* Only a person can help, or a new handle. */
    case RD_KAFKA_RESP_ERR__FATAL:
    case RD_KAFKA_RESP_ERR__FENCED:
    case RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID:
    case RD_KAFKA_RESP_ERR_INCONSISTENT_GROUP_PROTOCOL:
    case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM:
    case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
    case RD_KAFKA_RESP_ERR__AUTHENTICATION:
    case RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE:
    case RD_KAFKA_RESP_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT:
        return FATAL;
    /* Brokers that are away, elect, start, or do not know a topic yet (a starting one says so of all: P08).
     */
    default:
        return OUTAGE;
    }
#pragma GCC diagnostic pop
}

enum outcome handle_error(struct error *error, rd_kafka_resp_err_t err, const char *prefix,
                          const char *reason)
{
    enum outcome outcome = handle_outcome(err);
    if (outcome != OK)
        error_set(error, outcome, "kafka", "%s: %s (%s)", prefix, reason ? reason : rd_kafka_err2str(err),
                  rd_kafka_err2name(err));
    return outcome;
}

bool handle_denied(rd_kafka_resp_err_t err)
{
    return err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED ||
           err == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED ||
           err == RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED ||
           err == RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED;
}

void handle_denial(rd_kafka_resp_err_t err, const char *operation, const char *resource, const char *name,
                   char *into, size_t into_bytes)
{
    snprintf(into, into_bytes, "not allowed: it needs the ACL %s on %s %s (%s)", operation, resource, name,
             rd_kafka_err2name(err));
}

rd_kafka_resp_err_t handle_metadata(struct handle *handle, const char *const *names, int timeout_ms,
                                    const struct rd_kafka_metadata **ret)
{
    size_t count = 0;
    if (!handle->secured)
        return rd_kafka_metadata(handle->rk, 1, NULL, ret, timeout_ms);
    while (names[count])
        count++;
    rd_kafka_topic_t **topics = calloc(count + 1, sizeof(rd_kafka_topic_t *));
    if (!topics)
        return RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE;
    /* "Those that this handle knows of": it knows of what it has a topic handle for. */
    for (size_t i = 0; i < count; i++)
        topics[i] = rd_kafka_topic_new(handle->rk, names[i], NULL);
    rd_kafka_resp_err_t err = rd_kafka_metadata(handle->rk, 0, NULL, ret, timeout_ms);
    for (size_t i = 0; i < count; i++)
        if (topics[i])
            rd_kafka_topic_destroy(topics[i]);
    free(topics);
    return err;
}

bool handle_statistics_up(const char *json, size_t bytes)
{
    static const char up[] = "\"state\":\"UP\""; /* only brokers' states are in capitals */
    return memmem(json, bytes, up, sizeof(up) - 1) != NULL;
}
