#include "kafka_node.h"

#include "base/clock.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CONFIGURATION_BYTES_MAX = 64 << 10, CLUSTER_ID_BYTES = 22, JAVA_WORDS_MAX = 12 };

#define WITHOUT_JAVA "weir up --broker embedded needs neither"

/* compose/kafka's own files, built in, so that one text serves the script and this. */
extern const char kafka_server_properties[];
extern const char kafka_log4j2_properties[];

static enum outcome write_file(const char *path, struct text text, struct error *error)
{
    char part[PATH_MAX];
    snprintf(part, sizeof(part), "%s.new", path);
    FILE *file = fopen(part, "we");
    bool written = file && fwrite(text.at, 1, text.length, file) == text.length;
    if (file && fclose(file) != 0)
        written = false;
    if (!written || rename(part, path) != 0)
        return error_outage(error, "file", "%s: %s", path, strerror(errno));
    return OK;
}

/* The template with what stands between @ filled in. */
static void fill_in(const struct kafka_node *node, struct buffer *into)
{
    for (const char *at = kafka_server_properties; *at;) {
        const char *mark = strchr(at, '@');
        if (!mark) {
            buffer_add_string(into, at);
            return;
        }
        buffer_add(into, at, (size_t)(mark - at));
        const char *end = strchr(mark + 1, '@');
        struct text name = {mark + 1, end ? (size_t)(end - mark - 1) : 0};
        if (text_is(name, "PORT"))
            buffer_print(into, "%d", node->port);
        else if (text_is(name, "CONTROLLER_PORT"))
            buffer_print(into, "%d", node->controller_port);
        else if (text_is(name, "VOTERS"))
            buffer_print(into, "1@127.0.0.1:%d", node->controller_port);
        else if (text_is(name, "DIR"))
            buffer_add_string(into, node->folder);
        else if (text_is(name, "NODE_ID") || text_is(name, "REPLICATION") || text_is(name, "IN_SYNC"))
            buffer_add_char(into, '1');
        else { /* an @ of the text's own */
            buffer_add_char(into, '@');
            at = mark + 1;
            continue;
        }
        at = end + 1;
    }
}

/* Does a file match? The first that does goes into path. */
static bool found(const char *pattern, char path[PATH_MAX])
{
    glob_t list;
    bool any = glob(pattern, 0, NULL, &list) == 0 && list.gl_pathc > 0;
    if (any)
        snprintf(path, PATH_MAX, "%s", list.gl_pathv[list.gl_pathc - 1]); /* sorted: the newest version */
    globfree(&list);
    return any;
}

static enum outcome find_home(const struct kafka_node *node, char home[PATH_MAX], struct error *error)
{
    char pattern[PATH_MAX + 64], jar[PATH_MAX];
    const char *cache = getenv("XDG_CACHE_HOME"), *user = getenv("HOME"), *fetched = getenv("WEIR_KAFKA_HOME");
    const char *given = node->home ? node->home : fetched;
    if (given)
        snprintf(pattern, sizeof(pattern), "%s/libs/kafka_*.jar", given);
    else if (cache && *cache)
        snprintf(pattern, sizeof(pattern), "%s/weir/kafka-*/libs/kafka_*.jar", cache);
    else
        snprintf(pattern, sizeof(pattern), "%s/.cache/weir/kafka-*/libs/kafka_*.jar", user ? user : "");
    if (!found(pattern, jar))
        return error_outage(error, "kafka-home",
                            "no Kafka: nothing matches %s; compose/kafka/fetch fetches it and prints its folder for --kafka-home; "
                            WITHOUT_JAVA, pattern);
    *strstr(jar, "/libs/kafka_") = '\0';
    if (!realpath(jar, home))
        return error_outage(error, "kafka-home", "%s: %s", jar, strerror(errno));
    return OK;
}

static bool is_program(const char *path)
{
    struct stat about;
    return stat(path, &about) == 0 && S_ISREG(about.st_mode) && access(path, X_OK) == 0;
}

static enum outcome find_java(char java[PATH_MAX], struct error *error)
{
    const char *home = getenv("JAVA_HOME"), *path = getenv("PATH");
    if (home && *home) {
        snprintf(java, PATH_MAX, "%s/bin/java", home);
        if (is_program(java))
            return OK;
    }
    while (path && *path) {
        size_t length = strcspn(path, ":");
        snprintf(java, PATH_MAX, "%.*s/java", (int)length, path);
        if (length && is_program(java))
            return OK;
        path += length + (path[length] == ':');
    }
    return error_outage(error, "java", "java is missing: apt-get install default-jre-headless (17 or newer), and compose/kafka/fetch for "
                                       "Kafka itself; " WITHOUT_JAVA);
}

/* Words of a variable such as KAFKA_HEAP_OPTS. */
static void add_words(struct child *child, const char *words)
{
    size_t count = 0;
    while (words && *words && count++ < JAVA_WORDS_MAX) {
        words += strspn(words, " \t\n");
        size_t length = strcspn(words, " \t\n");
        if (length)
            child_argument(child, "%.*s", (int)length, words);
        words += length;
    }
}

static void java_command(const struct kafka_node *node, const char *java, const char *home, struct child *child)
{
    const char *heap = getenv("KAFKA_HEAP_OPTS");
    child_argument(child, "%s", java);
    add_words(child, heap && *heap ? heap : "-Xms256m -Xmx512m");
    /* One collector thread: with two cores, all others of the machine are waiting for them. */
    child_argument(child, "-XX:+UseSerialGC");
    child_argument(child, "-XX:+ExitOnOutOfMemoryError");
    child_argument(child, "-Djava.awt.headless=true");
    child_argument(child, "-Dlog4j2.configurationFile=file:%s/log4j2.properties", node->folder);
    child_argument(child, "-Dweir.kafka.log=%s/log", node->folder);
    add_words(child, getenv("KAFKA_OPTS"));
    child_argument(child, "-cp");
    child_argument(child, "%s/libs/*", home);
}

/* 16 random bytes in base64url, as Kafka writes cluster ids. */
static enum outcome new_cluster_id(char id[CLUSTER_ID_BYTES + 1], struct error *error)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    unsigned char bytes[CLUSTER_ID_BYTES];
    if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
        return error_fatal(error, "random", "no random numbers: %s", strerror(errno));
    for (size_t i = 0; i < CLUSTER_ID_BYTES; i++)
        id[i] = digits[bytes[i] & 63];
    id[0] = digits[bytes[0] & 31];                              /* a first "-" would be read as an option */
    id[CLUSTER_ID_BYTES - 1] = digits[bytes[CLUSTER_ID_BYTES - 1] & 48]; /* 132 bits hold 128: the last four are 0 */
    id[CLUSTER_ID_BYTES] = '\0';
    return OK;
}

static enum outcome format(const struct kafka_node *node, const char *java, const char *home, const struct child *like,
                           struct error *error)
{
    char cluster[CLUSTER_ID_BYTES + 1], words[160];
    char *no_changes[] = {NULL};
    enum outcome outcome = new_cluster_id(cluster, error);
    if (outcome != OK)
        return outcome;
    struct child child = {.name = "kafka format"};
    snprintf(child.log_path, sizeof(child.log_path), "%s", like->log_path);
    child.environment = child_environment(no_changes);
    java_command(node, java, home, &child);
    child_argument(&child, "kafka.tools.StorageTool");
    child_argument(&child, "format");
    child_argument(&child, "--ignore-formatted");
    child_argument(&child, "-t");
    child_argument(&child, "%s", cluster);
    child_argument(&child, "-c");
    child_argument(&child, "%s/server.properties", node->folder);
    outcome = child_start(&child, error);
    if (outcome == OK && (!child_stop(&child, clock_monotonic_us() + KAFKA_NODE_FORMAT_MS_MAX * INT64_C(1000)) || child.status != 0)) {
        child_last_words(&child, words, sizeof(words));
        outcome = error_outage(error, "kafka-format", "Kafka's storage could not be formatted: %s (more in %s)", words, child.log_path);
    }
    child_free(&child);
    return outcome;
}

static enum outcome make_folder(const char *path, struct error *error)
{
    if (mkdir(path, 0755) != 0 && errno != EEXIST)
        return error_outage(error, "folder", "%s: %s", path, strerror(errno));
    return OK;
}

enum outcome kafka_node_prepare(const struct kafka_node *node, struct child *child, struct error *error)
{
    char java[PATH_MAX], home[PATH_MAX], path[PATH_MAX];
    if (strpbrk(node->folder, " \t\n,@"))
        return error_outage(error, "kafka-folder", "%s: Kafka takes no folder with a blank, a comma or an @ in its path", node->folder);
    enum outcome outcome = find_java(java, error);
    if (outcome == OK)
        outcome = find_home(node, home, error);
    if (outcome == OK)
        outcome = make_folder(node->folder, error);
    if (outcome != OK)
        return outcome;
    snprintf(path, sizeof(path), "%s/log", node->folder);
    outcome = make_folder(path, error);
    if (outcome == OK) {
        struct buffer configuration = buffer_of(CONFIGURATION_BYTES_MAX);
        fill_in(node, &configuration);
        snprintf(path, sizeof(path), "%s/server.properties", node->folder);
        if (configuration.failed)
            outcome = error_fatal(error, "memory", "out of memory");
        else
            outcome = write_file(path, buffer_text(&configuration), error);
        buffer_free(&configuration);
    }
    if (outcome == OK) {
        snprintf(path, sizeof(path), "%s/log4j2.properties", node->folder);
        outcome = write_file(path, text_of(kafka_log4j2_properties), error);
    }
    snprintf(path, sizeof(path), "%s/data/meta.properties", node->folder);
    if (outcome == OK && access(path, F_OK) != 0)
        outcome = format(node, java, home, child, error);
    if (outcome != OK)
        return outcome;
    java_command(node, java, home, child);
    child_argument(child, "kafka.Kafka");
    child_argument(child, "%s/server.properties", node->folder);
    return OK;
}
