#include "base/config.h"

#include "base/setting.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

extern char **environ;

enum source { SOURCE_DEFAULT, SOURCE_FILE, SOURCE_ENVIRONMENT, SOURCE_FLAG };
enum { VALUE_SHOWN_BYTES_MAX = 80 };

/* A setting as it stands. */
struct value {
    const struct setting *setting;
    char *text; /* NULL: not set */
    char *from; /* "flag", "environment", "file weir.conf:3"; NULL: the default */
    struct setting_value parsed;
    enum source source;
};

struct property {
    char *key, *value, *from;
};

/* What the command line said, put in force after file and environment. */
struct flag {
    struct value *value;
    const char *text;
    bool is_file; /* --…-file PATH */
};

struct config {
    struct value *values;
    size_t value_count;
    struct property properties[CONFIG_PROPERTIES_MAX];
    size_t property_count;
    const char **positional; /* into argv */
    size_t positional_count;
    const char *file; /* --config */
    bool help, version;
};

static const struct setting properties_setting = {
    .name = "KAFKA_PROPERTIES",
    .kind = SETTING_SECRET,
    .help = "More librdkafka properties, key=value with ; between.",
};
static const struct setting *const own_table[] = {&properties_setting};

/*
 * Environment variables with our prefix that are not settings: the fault to arm, and what the project's own
 * scripts (tests/run, compose/) take and hand to what they start.
 */
static const char *const known_variables[] = {"WEIR_FAULT",      "WEIR_BUILD_DIR", "WEIR_CLANG_DIR",
                                              "WEIR_KAFKA_HOME", "WEIR_PYTHON",    "WEIR_TEST_KAFKA",
                                              "WEIR_TSAN_DIR"};
#define OWN_PREFIX "WEIR_"

static enum outcome refuse(struct error *error, int exit_code, const char *format, ...) PRINTF_LIKE(3, 4);
static enum outcome refuse(struct error *error, int exit_code, const char *format, ...)
{
    char text[ERROR_TEXT_BYTES_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    error_set(error, REJECT, exit_code == EXIT_USAGE ? "usage" : "config", "%s", text);
    if (error)
        error->exit_code = exit_code;
    return REJECT;
}

static enum outcome no_memory(struct error *error)
{
    return error_fatal(error, "memory", "out of memory reading the settings");
}

static void wipe(char *text)
{
    if (text)
        explicit_bzero(text, strlen(text));
    free(text);
}

void config_destroy(struct config *config)
{
    if (!config)
        return;
    for (size_t i = 0; i < config->value_count; i++) {
        wipe(config->values[i].text);
        free(config->values[i].from);
    }
    for (size_t i = 0; i < config->property_count; i++) {
        free(config->properties[i].key);
        wipe(config->properties[i].value);
        free(config->properties[i].from);
    }
    free(config->values);
    free(config->positional);
    free(config);
}

/* ---- Names ------------------------------------------------------------------------------------- */

static struct value *value_find(const struct config *config, const char *name)
{
    for (size_t i = 0; i < config->value_count; i++)
        if (strcmp(config->values[i].setting->name, name) == 0)
            return &config->values[i];
    return NULL;
}

/* By one of its forms, with '-' or '.' between the words, or '_' and upper case; NAME_FILE as well. */
static struct value *value_named(const struct config *config, struct text name, char between,
                                 bool *ret_is_file)
{
    char form[CONFIG_NAME_BYTES_MAX];
    const struct text ending = between == '-'   ? TEXT("-file")
                               : between == '.' ? TEXT(".file")
                                                : TEXT("_FILE");
    bool may_be_file = name.length > ending.length &&
                       memcmp(name.at + name.length - ending.length, ending.at, ending.length) == 0;
    struct text stem = {name.at, may_be_file ? name.length - ending.length : 0};
    struct value *by_file = NULL;
    for (size_t i = 0; i < config->value_count; i++) {
        const char *own = config->values[i].setting->name;
        struct text known = text_of(between == '_' ? own : setting_name(own, between, form));
        if (text_equal(name, known)) {
            *ret_is_file = false;
            return &config->values[i];
        }
        if (may_be_file && text_equal(stem, known))
            by_file = &config->values[i];
    }
    *ret_is_file = by_file != NULL;
    return by_file;
}

/* The best of several candidates so far. */
struct nearest {
    struct text wanted;
    size_t distance;
    char name[CONFIG_NAME_BYTES_MAX];
};

static void nearest_try(struct nearest *nearest, const char *name)
{
    struct text known = text_of(name);
    bool is_start = nearest->wanted.length >= 3 && known.length > nearest->wanted.length &&
                    memcmp(known.at, nearest->wanted.at, nearest->wanted.length) == 0;
    size_t far = is_start ? 1 : text_distance(nearest->wanted, known);
    if (far >= nearest->distance)
        return;
    nearest->distance = far;
    snprintf(nearest->name, sizeof(nearest->name), "%s", name);
}

/* "" where nothing is near. */
static struct nearest nearest_of(const struct config *config, struct text wanted, char between)
{
    size_t limit = wanted.length / 3 > 2 ? wanted.length / 3 : 2;
    struct nearest nearest = {.wanted = wanted, .distance = limit + 1};
    char form[CONFIG_NAME_BYTES_MAX];
    for (size_t i = 0; i < config->value_count; i++) {
        const char *own = config->values[i].setting->name;
        nearest_try(&nearest, between == '_' ? own : setting_name(own, between, form));
    }
    if (between == '-') {
        static const char *const others[] = {"config", "kafka", "help", "version"};
        for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
            nearest_try(&nearest, others[i]);
    }
    return nearest;
}

/* ---- Values ------------------------------------------------------------------------------------ */

static enum outcome bad_value(const struct setting *setting, struct text text, const char *from,
                              struct error *error)
{
    char allowed[128];
    setting_allowed(setting, allowed, sizeof(allowed));
    struct buffer shown = buffer_of(64 << 10);
    setting_show(setting, text, &shown);
    for (size_t i = 0; i < shown.length; i++)
        if ((unsigned char)shown.at[i] < 0x20 || shown.at[i] == 0x7f)
            shown.at[i] = '?';
    bool cut = shown.length > VALUE_SHOWN_BYTES_MAX;
    enum outcome outcome = refuse(error, EXIT_CONFIG, "%s (%s): \"%.*s%s\" is not %s", setting->name, from,
                                  cut ? VALUE_SHOWN_BYTES_MAX : (int)shown.length, shown.at ? shown.at : "",
                                  cut ? "…" : "", allowed);
    buffer_free(&shown);
    return outcome;
}

/* Those that may be empty are taken away by it (setting.c says which); durations are then none. */
static bool empties(const struct setting *setting)
{
    return setting->kind == SETTING_TEXT || setting->kind == SETTING_URL || setting->kind == SETTING_SECRET;
}

static enum outcome value_put(struct value *value, struct text text, enum source source, const char *from,
                              struct error *error)
{
    struct setting_value parsed;
    if (text.length && memchr(text.at, '\0', text.length))
        return refuse(error, EXIT_CONFIG, "%s (%s): holds a NUL byte", value->setting->name, from);
    bool is_list = value->setting == &properties_setting; /* checked pair by pair later; may hold line ends */
    if (is_list)
        parsed = (struct setting_value){0};
    else if (!setting_parse(value->setting, text, &parsed))
        return bad_value(value->setting, text, from, error);

    bool set = text.length > 0 || !empties(value->setting);
    char *copy = set ? strndup(text.length ? text.at : "", text.length) : NULL;
    char *origin = strdup(from);
    if ((set && !copy) || !origin) {
        free(copy);
        free(origin);
        return no_memory(error);
    }
    wipe(value->text);
    free(value->from);
    value->text = copy;
    value->from = origin;
    value->parsed = parsed;
    value->source = source;
    return OK;
}

/* Reads at most bytes_max; more, or what cannot be read, is refused. */
static enum outcome file_read(const char *path, size_t bytes_max, const char *what, struct buffer *into,
                              struct error *error)
{
    *into = buffer_of(bytes_max + 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return refuse(error, EXIT_CONFIG, "%s: cannot open %s: %s", what, path, strerror(errno));
    enum outcome outcome = OK;
    for (;;) {
        char piece[4096];
        ssize_t got = read(fd, piece, sizeof(piece));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            outcome = refuse(error, EXIT_CONFIG, "%s: cannot read %s: %s", what, path, strerror(errno));
        if (got > 0)
            buffer_add(into, piece, (size_t)got);
        explicit_bzero(piece, sizeof(piece));
        if (got <= 0 || into->failed || into->length > bytes_max)
            break;
    }
    close(fd);
    if (outcome == OK && (into->failed || into->length > bytes_max))
        outcome = refuse(error, EXIT_CONFIG, "%s: %s is larger than %zu bytes", what, path, bytes_max);
    return outcome;
}

static void file_forget(struct buffer *content)
{
    if (content->at)
        explicit_bzero(content->at, content->capacity);
    buffer_free(content);
}

/* NAME_FILE: the value is what the file holds. */
static enum outcome value_put_from_file(struct value *value, const char *path, enum source source,
                                        const char *from, struct error *error)
{
    char what[CONFIG_NAME_BYTES_MAX + 8], origin[512];
    snprintf(what, sizeof(what), "%s_FILE", value->setting->name);
    snprintf(origin, sizeof(origin), "%.128s: %.300s", from, path);
    struct buffer content;
    enum outcome outcome = file_read(path, CONFIG_SECRET_BYTES_MAX, what, &content, error);
    if (outcome == OK) {
        struct text text = buffer_text(&content);
        if (text.length && text.at[text.length - 1] == '\n')
            text.length--;
        if (text.length && text.at[text.length - 1] == '\r')
            text.length--;
        outcome = value_put(value, text, source, origin, error);
    }
    file_forget(&content);
    return outcome;
}

static enum outcome property_add(struct config *config, struct text pair, const char *from,
                                 struct error *error)
{
    const char *equals = pair.length ? memchr(pair.at, '=', pair.length) : NULL;
    if (!equals || equals == pair.at) /* not shown: it may be half of a password that was split */
        return refuse(error, EXIT_CONFIG,
                      "%s: property %zu is not key=value, with a key that librdkafka knows", from,
                      config->property_count + 1);
    if (config->property_count == CONFIG_PROPERTIES_MAX)
        return refuse(error, EXIT_CONFIG, "%s: more than %d librdkafka properties", from,
                      CONFIG_PROPERTIES_MAX);
    size_t key_length = (size_t)(equals - pair.at);
    struct property property = {
        .key = strndup(pair.at, key_length),
        .value = strndup(equals + 1, pair.length - key_length - 1),
        .from = strdup(from),
    };
    config->properties[config->property_count++] = property; /* config_destroy() takes what there is */
    return property.key && property.value && property.from ? OK : no_memory(error);
}

static enum outcome properties_split(struct config *config, struct error *error)
{
    const struct value *value = value_find(config, properties_setting.name);
    const char *at = value->text ? value->text : "";
    while (*at) {
        size_t length = strcspn(at, ";\r\n");
        struct text pair = {at, length};
        while (pair.length && pair.at[0] == ' ')
            pair = (struct text){pair.at + 1, pair.length - 1};
        enum outcome outcome = pair.length ? property_add(config, pair, properties_setting.name, error) : OK;
        if (outcome != OK)
            return outcome;
        at += length + (at[length] != '\0');
    }
    return OK;
}

/* ---- The command line -------------------------------------------------------------------------- */

struct command_line {
    struct config *config;
    int argc;
    char **argv;
    int at;
    struct flag *flags;
    size_t flag_count;
    struct text pairs[CONFIG_PROPERTIES_MAX]; /* of -X */
    size_t pair_count;
};

static enum outcome unknown_flag(const struct config *config, struct text name, struct error *error)
{
    struct nearest nearest = nearest_of(config, name, '-');
    bool negated = name.length > 3 && memcmp(name.at, "no-", 3) == 0;
    if (!*nearest.name && negated)
        nearest = nearest_of(config, (struct text){name.at + 3, name.length - 3}, '-');
    int shown = name.length < 64 ? (int)name.length : 64;
    if (*nearest.name)
        return refuse(error, EXIT_USAGE, "unknown flag --%.*s; did you mean --%s? (--help lists all)", shown,
                      name.at, nearest.name);
    return refuse(error, EXIT_USAGE, "unknown flag --%.*s (--help lists all)", shown, name.at);
}

/* The word behind a flag that needs one. */
static enum outcome next_word(struct command_line *line, const char *flag, const char **ret,
                              struct error *error)
{
    if (line->at == line->argc || (line->argv[line->at][0] == '-' && line->argv[line->at][1] == '-'))
        return refuse(error, EXIT_USAGE, "%s needs a value (one that begins with -- as %s=VALUE)", flag,
                      flag);
    *ret = line->argv[line->at++];
    return OK;
}

static enum outcome pair_add(struct command_line *line, const char *pair, struct error *error)
{
    if (line->pair_count == CONFIG_PROPERTIES_MAX)
        return refuse(error, EXIT_CONFIG, "-X: more than %d librdkafka properties", CONFIG_PROPERTIES_MAX);
    line->pairs[line->pair_count++] = text_of(pair);
    return OK;
}

/* --help and others that are no setting. False: none of them. */
static bool take_own_flag(struct command_line *line, struct text name, const char *given, enum outcome *ret,
                          struct error *error)
{
    *ret = OK;
    if (text_is(name, "help") || text_is(name, "version")) {
        *(text_is(name, "help") ? &line->config->help : &line->config->version) = true;
        return true;
    }
    if (text_is(name, "config")) {
        if (!given)
            *ret = next_word(line, "--config", &given, error);
        line->config->file = given;
        return true;
    }
    if (text_is(name, "kafka")) {
        if (!given)
            *ret = next_word(line, "--kafka", &given, error);
        if (*ret == OK)
            *ret = pair_add(line, given, error);
        return true;
    }
    return false;
}

static void flag_add(struct command_line *line, struct value *value, const char *text, bool is_file)
{
    line->flags[line->flag_count++] = (struct flag){.value = value, .text = text, .is_file = is_file};
}

/* --name, --name=value, --name value, --no-name. */
static enum outcome take_flag(struct command_line *line, const char *word, struct error *error)
{
    const char *equals = strchr(word, '=');
    struct text name = {word + 2, equals ? (size_t)(equals - word - 2) : strlen(word + 2)};
    const char *given = equals ? equals + 1 : NULL;
    enum outcome outcome;
    if (take_own_flag(line, name, given, &outcome, error))
        return outcome;

    bool is_file;
    struct value *value = value_named(line->config, name, '-', &is_file);
    if (!value && !given && name.length > 3 && memcmp(name.at, "no-", 3) == 0) {
        struct text positive = {name.at + 3, name.length - 3};
        value = value_named(line->config, positive, '-', &is_file);
        if (value && (is_file || value->setting->kind != SETTING_BOOL))
            value = NULL;
        given = "false";
    }
    if (!value)
        return unknown_flag(line->config, name, error);
    if (!given && !is_file && value->setting->kind == SETTING_BOOL)
        given = "true";
    if (!given) {
        char flag[CONFIG_NAME_BYTES_MAX + 8];
        snprintf(flag, sizeof(flag), "--%.*s", (int)name.length, name.at);
        outcome = next_word(line, flag, &given, error);
        if (outcome != OK)
            return outcome;
    }
    flag_add(line, value, given, is_file);
    return OK;
}

static enum outcome take_word(struct command_line *line, struct error *error)
{
    const char *word = line->argv[line->at++];
    struct config *config = line->config;
    if (strcmp(word, "--") == 0) {
        while (line->at < line->argc)
            config->positional[config->positional_count++] = line->argv[line->at++];
        return OK;
    }
    if (word[0] == '-' && word[1] == '-')
        return take_flag(line, word, error);
    if (strcmp(word, "-h") == 0) {
        config->help = true;
        return OK;
    }
    if (word[0] == '-' && word[1] == 'X') {
        const char *pair = word + 2;
        enum outcome outcome = *pair ? OK : next_word(line, "-X", &pair, error);
        return outcome == OK ? pair_add(line, pair, error) : outcome;
    }
    if (word[0] == '-' && word[1] != '\0')
        return refuse(error, EXIT_USAGE,
                      "unknown flag %.64s; the short ones are -h and -X key=value (--help lists all)", word);
    config->positional[config->positional_count++] = word; /* "-" is one: stdin */
    return OK;
}

static enum outcome command_line_read(struct command_line *line, struct error *error)
{
    enum outcome outcome = OK;
    while (outcome == OK && line->at < line->argc && !line->config->help && !line->config->version)
        outcome = take_word(line, error);
    return outcome;
}

static enum outcome command_line_apply(struct command_line *line, struct error *error)
{
    for (size_t i = 0; i < line->flag_count; i++) {
        const struct flag *flag = &line->flags[i];
        enum outcome outcome = flag->is_file
                                   ? value_put_from_file(flag->value, flag->text, SOURCE_FLAG, "flag", error)
                                   : value_put(flag->value, text_of(flag->text), SOURCE_FLAG, "flag", error);
        if (outcome != OK)
            return outcome;
    }
    return OK;
}

static enum outcome command_line_properties(struct command_line *line, struct error *error)
{
    enum outcome outcome = properties_split(line->config, error);
    for (size_t i = 0; outcome == OK && i < line->pair_count; i++)
        outcome = property_add(line->config, line->pairs[i], "-X", error);
    return outcome;
}

/* ---- The environment --------------------------------------------------------------------------- */

static enum outcome environment_value(struct value *value, struct error *error)
{
    const char *name = value->setting->name;
    char file_name[CONFIG_NAME_BYTES_MAX + 8];
    snprintf(file_name, sizeof(file_name), "%s_FILE", name);
    const char *text = getenv(name), *path = getenv(file_name);
    bool has_text = text && *text, has_path = path && *path;
    if (has_text && has_path)
        return refuse(error, EXIT_CONFIG, "%s and %s are both set in the environment: leave one", name,
                      file_name);
    if (has_text)
        return value_put(value, text_of(text), SOURCE_ENVIRONMENT, "environment", error);
    if (has_path)
        return value_put_from_file(value, path, SOURCE_ENVIRONMENT, file_name, error);
    return OK;
}

static enum outcome unknown_variable(const struct config *config, struct text name, struct error *error)
{
    int shown = name.length < 64 ? (int)name.length : 64;
    bool is_file;
    struct text bare = {name.at + strlen(OWN_PREFIX), name.length - strlen(OWN_PREFIX)};
    struct value *meant = value_named(config, bare, '_', &is_file);
    struct nearest nearest = nearest_of(config, name, '_');
    if (meant || *nearest.name)
        return refuse(error, EXIT_CONFIG, "unknown environment variable %.*s; did you mean %s%s?", shown,
                      name.at, meant ? meant->setting->name : nearest.name, meant && is_file ? "_FILE" : "");
    return refuse(error, EXIT_CONFIG,
                  "unknown environment variable %.*s: those that begin with " OWN_PREFIX " must be known",
                  shown, name.at);
}

static bool variable_known(const struct config *config, struct text name)
{
    for (size_t i = 0; i < sizeof(known_variables) / sizeof(known_variables[0]); i++)
        if (text_is(name, known_variables[i]))
            return true;
    bool is_file;
    return value_named(config, name, '_', &is_file) != NULL;
}

static enum outcome environment_read(struct config *config, struct error *error)
{
    for (size_t i = 0; i < config->value_count; i++) {
        enum outcome outcome = environment_value(&config->values[i], error);
        if (outcome != OK)
            return outcome;
    }
    for (char **at = environ; at && *at; at++) {
        struct text name = {*at, strcspn(*at, "=")};
        if (strncmp(*at, OWN_PREFIX, strlen(OWN_PREFIX)) == 0 && !variable_known(config, name))
            return unknown_variable(config, name, error);
    }
    return OK;
}

/* ---- The file ---------------------------------------------------------------------------------- */

static struct text trim(struct text text)
{
    while (text.length && strchr(" \t\r", text.at[0]))
        text = (struct text){text.at + 1, text.length - 1};
    while (text.length && strchr(" \t\r", text.at[text.length - 1]))
        text.length--;
    return text;
}

static enum outcome file_line(struct config *config, struct text line, int number, struct error *error)
{
    line = trim(line);
    if (line.length == 0 || line.at[0] == '#' || line.at[0] == ';')
        return OK;
    char from[512];
    snprintf(from, sizeof(from), "file %.400s:%d", config->file, number);
    const char *equals = memchr(line.at, '=', line.length);
    struct text name = trim((struct text){line.at, equals ? (size_t)(equals - line.at) : line.length});
    int shown = name.length < 64 ? (int)name.length : 64;
    if (!equals)
        return refuse(error, EXIT_CONFIG, "%s:%d: \"%.*s\" is not name = value", config->file, number, shown,
                      name.at);

    bool is_file;
    struct value *value = value_named(config, name, '.', &is_file);
    if (!value) {
        struct nearest nearest = nearest_of(config, name, '.');
        return refuse(error, EXIT_CONFIG, "%s:%d: unknown setting \"%.*s\"%s%s%s", config->file, number,
                      shown, name.at, *nearest.name ? "; did you mean " : " (--help lists all)", nearest.name,
                      *nearest.name ? "?" : "");
    }
    struct text text = trim((struct text){equals + 1, (size_t)(line.at + line.length - equals - 1)});
    if (!is_file)
        return value_put(value, text, SOURCE_FILE, from, error);
    char path[4096];
    snprintf(path, sizeof(path), "%.*s", TEXT_ARG(text));
    return value_put_from_file(value, path, SOURCE_FILE, from, error);
}

static enum outcome file_apply(struct config *config, struct error *error)
{
    if (!config->file)
        return OK;
    struct buffer content;
    enum outcome outcome = file_read(config->file, CONFIG_FILE_BYTES_MAX, "--config", &content, error);
    struct text rest = buffer_text(&content);
    for (int number = 1; outcome == OK && rest.length; number++) {
        const char *end = memchr(rest.at, '\n', rest.length);
        size_t length = end ? (size_t)(end - rest.at) : rest.length;
        outcome = file_line(config, (struct text){rest.at, length}, number, error);
        length += end != NULL;
        rest = (struct text){rest.at + length, rest.length - length};
    }
    file_forget(&content);
    return outcome;
}

/* ---- All together ------------------------------------------------------------------------------ */

static size_t settings_count(const struct setting *const *tables, size_t table_count)
{
    size_t count = sizeof(own_table) / sizeof(own_table[0]);
    for (size_t i = 0; i < table_count; i++)
        for (const struct setting *setting = tables[i]; setting && setting->name; setting++)
            count++;
    return count;
}

static enum outcome value_add(struct config *config, const struct setting *setting, struct error *error)
{
    if (value_find(config, setting->name))
        return OK; /* an earlier table has said it */
    assert(strlen(setting->name) < CONFIG_NAME_BYTES_MAX);
    struct value *value = &config->values[config->value_count++];
    value->setting = setting;
    if (!setting->fallback)
        return OK;
    bool valid = setting_parse(setting, text_of(setting->fallback), &value->parsed);
    assert(valid);
    value->text = strdup(setting->fallback);
    return value->text ? OK : no_memory(error);
}

static enum outcome values_make(struct config *config, const struct setting *const *tables,
                                size_t table_count, struct error *error)
{
    assert(table_count <= CONFIG_TABLES_MAX);
    config->values = calloc(settings_count(tables, table_count), sizeof(*config->values));
    if (!config->values)
        return no_memory(error);
    enum outcome outcome = OK;
    for (size_t i = 0; i < table_count; i++)
        for (const struct setting *setting = tables[i]; outcome == OK && setting && setting->name; setting++)
            outcome = value_add(config, setting, error);
    for (size_t i = 0; outcome == OK && i < sizeof(own_table) / sizeof(own_table[0]); i++)
        outcome = value_add(config, own_table[i], error);
    return outcome;
}

enum outcome config_read(const struct setting *const *tables, size_t table_count, int argc, char **argv,
                         struct config **ret, struct error *error)
{
    enum outcome outcome = OK;
    struct command_line line = {.argc = argc, .argv = argv};
    struct config *config = calloc(1, sizeof(*config));
    line.config = config;
    line.flags = calloc((size_t)argc + 1, sizeof(*line.flags));
    if (config)
        config->positional = calloc((size_t)argc + 1, sizeof(*config->positional));
    if (!config || !line.flags || !config->positional) {
        outcome = no_memory(error);
        goto out;
    }
    outcome = values_make(config, tables, table_count, error);
    if (outcome == OK)
        outcome = command_line_read(&line, error);
    if (outcome != OK || config->help || config->version)
        goto out;
    outcome = file_apply(config, error);
    if (outcome == OK)
        outcome = environment_read(config, error);
    if (outcome == OK)
        outcome = command_line_apply(&line, error);
    if (outcome == OK)
        outcome = command_line_properties(&line, error);
out:
    free(line.flags);
    if (outcome == OK)
        *ret = config;
    else
        config_destroy(config);
    return outcome;
}

/* ---- Asking ------------------------------------------------------------------------------------ */

static const struct value *value_of(const struct config *config, const char *name)
{
    const struct value *value = value_find(config, name);
    assert(value); /* in no table */
    return value;
}

bool config_asked_help(const struct config *config)
{
    return config->help;
}

bool config_asked_version(const struct config *config)
{
    return config->version;
}

const char *config_text(const struct config *config, const char *name)
{
    return value_of(config, name)->text;
}

int64_t config_int(const struct config *config, const char *name)
{
    const struct value *value = value_of(config, name);
    enum setting_kind kind = value->setting->kind;
    assert(kind == SETTING_INT || kind == SETTING_BYTES || kind == SETTING_RATE);
    return value->parsed.number;
}

int64_t config_ms(const struct config *config, const char *name)
{
    const struct value *value = value_of(config, name);
    assert(value->setting->kind == SETTING_DURATION);
    return value->parsed.number;
}

bool config_bool(const struct config *config, const char *name)
{
    const struct value *value = value_of(config, name);
    assert(value->setting->kind == SETTING_BOOL);
    return value->parsed.number != 0;
}

bool config_is_set(const struct config *config, const char *name)
{
    const struct value *value = value_of(config, name);
    return value->source != SOURCE_DEFAULT && value->text != NULL;
}

size_t config_durations_ms(const struct config *config, const char *name, int64_t *ret_ms, size_t max)
{
    const struct value *value = value_of(config, name);
    assert(value->setting->kind == SETTING_DURATIONS);
    size_t count = value->parsed.list_count < max ? value->parsed.list_count : max;
    for (size_t i = 0; i < count; i++)
        ret_ms[i] = value->parsed.list_ms[i];
    return count;
}

size_t config_positional_count(const struct config *config)
{
    return config->positional_count;
}

const char *config_positional(const struct config *config, size_t index)
{
    assert(index < config->positional_count);
    return config->positional[index];
}

size_t config_property_count(const struct config *config)
{
    return config->property_count;
}

void config_property(const struct config *config, size_t index, const char **ret_key, const char **ret_value)
{
    assert(index < config->property_count);
    *ret_key = config->properties[index].key;
    *ret_value = config->properties[index].value;
}

/* ---- Showing ----------------------------------------------------------------------------------- */

static void put_origin(struct buffer *into, size_t line_start, const char *origin)
{
    enum { COLUMN = 48 };
    size_t width = into->length - line_start;
    buffer_print(into, "%*s# %s\n", width < COLUMN ? (int)(COLUMN - width) : 3, "", origin);
}

void config_show(const struct config *config, struct buffer *into)
{
    for (size_t i = 0; i < config->value_count; i++) {
        const struct value *value = &config->values[i];
        if (value->setting == &properties_setting)
            continue; /* shown pair by pair */
        size_t start = into->length;
        buffer_print(into, "%s=", value->setting->name);
        if (value->text)
            setting_show(value->setting, text_of(value->text), into);
        put_origin(into, start, value->from ? value->from : value->text ? "default" : "not set");
    }
    for (size_t i = 0; i < config->property_count; i++) {
        const struct property *property = &config->properties[i];
        size_t start = into->length;
        buffer_print(into, "-X %s=", property->key);
        setting_show_property(property->key, property->value, into);
        put_origin(into, start, property->from);
    }
}

/* Words of text, broken before column 96, each line behind six blanks. */
static void put_wrapped(struct buffer *into, const char *text)
{
    enum { INDENT = 6, COLUMN_MAX = 96 };
    size_t column = 0;
    while (*text) {
        size_t length = strcspn(text, " ");
        if (column == 0 || column + 1 + length > COLUMN_MAX) {
            buffer_print(into, "%s%*s", column ? "\n" : "", INDENT, "");
            column = INDENT;
        } else {
            buffer_add_char(into, ' ');
            column++;
        }
        buffer_add(into, text, length);
        column += length;
        text += length;
        while (*text == ' ')
            text++;
    }
    buffer_add_char(into, '\n');
}

static void put_setting_help(const struct setting *setting, struct buffer *into)
{
    char name[CONFIG_NAME_BYTES_MAX], allowed[128];
    const char *form = setting_form(setting);
    buffer_print(into, "  --%s%s%s%s\n", setting->kind == SETTING_BOOL ? "[no-]" : "",
                 setting_name(setting->name, '-', name), *form ? " " : "", form);
    struct buffer words = buffer_of(4096);
    buffer_add_string(&words, setting->help ? setting->help : "");
    bool bounded = setting->min != 0 || setting->max != 0;
    if (bounded) {
        setting_allowed(setting, allowed, sizeof(allowed));
        buffer_print(&words, " %c%s.", allowed[0] - ('a' - 'A'), allowed + 1);
    }
    if (setting->fallback) {
        buffer_add_string(&words, " Default: ");
        setting_show(setting, text_of(setting->fallback), &words);
        buffer_add_char(&words, '.');
    }
    buffer_add_char(&words, '\0');
    put_wrapped(into, words.failed ? "" : words.at);
    buffer_free(&words);
}

static bool said_before(const struct setting *const *tables, size_t table, const struct setting *setting)
{
    for (size_t i = 0; i < table; i++)
        for (const struct setting *other = tables[i]; other && other->name; other++)
            if (strcmp(other->name, setting->name) == 0)
                return true;
    return false;
}

void config_help(const struct setting *const *tables, size_t table_count, struct buffer *into)
{
    for (size_t i = 0; i < table_count; i++)
        for (const struct setting *setting = tables[i]; setting && setting->name; setting++)
            if (!said_before(tables, i, setting))
                put_setting_help(setting, into);
    buffer_add_string(
        into,
        "  --config FILE\n"
        "      Settings from a file, a line each: kafka.group.id = …\n"
        "  -X KEY=VALUE, --kafka KEY=VALUE\n"
        "      Any librdkafka property, as often as needed; also KAFKA_PROPERTIES (KEY=VALUE;KEY=VALUE).\n"
        "  -h, --help; --version\n"
        "      This text; the version.\n"
        "\n"
        "Each setting is also an environment variable (--kafka-group-id is KAFKA_GROUP_ID) and a line of "
        "the\n"
        "file (kafka.group.id = …). The flag wins, then the environment, the file, the default. A secret "
        "can\n"
        "stand in a file: DATABASE_URL_FILE, --database-url-file PATH, database.url.file = PATH.\n");
}
