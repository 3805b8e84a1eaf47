#include "base/log.h"

#include "base/clock.h"
#include "base/json.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const level_names[] = {"debug", "info", "warn", "error"};
static const char *const level_colours[] = {"\033[2m", "\033[32m", "\033[33m", "\033[31m"};
static const char *const level_priorities[] = {"<7>", "<6>", "<4>", "<3>"};
#define COLOUR_OFF "\033[0m"

static struct {
    const char *service;
    enum log_level level;
    bool text;
    bool colour;
    bool journal; /* stderr is systemd's journal */
} settings = {.service = "weir", .level = LOG_INFO};

/* What a station has said in the second that runs. */
struct station {
    const char *name;
    int64_t second;
    int64_t lines;
    int64_t held_back;
};
static pthread_mutex_t stations_lock = PTHREAD_MUTEX_INITIALIZER;
static struct station stations[LOG_STATIONS_MAX];
static size_t station_count;
static pthread_mutex_t writing_lock = PTHREAD_MUTEX_INITIALIZER;

/* The journal says which stream it gave (systemd.exec(5)); stderr may have been sent elsewhere since. */
static bool is_journal(void)
{
    const char *given = getenv("JOURNAL_STREAM");
    char here[64];
    struct stat stat;
    if (!given || fstat(STDERR_FILENO, &stat) != 0)
        return false;
    snprintf(here, sizeof(here), "%ju:%ju", (uintmax_t)stat.st_dev, (uintmax_t)stat.st_ino);
    return strcmp(given, here) == 0;
}

void log_open(const char *service, enum log_level level, const char *format)
{
    bool terminal = isatty(STDERR_FILENO);
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
    settings.service = service;
    settings.level = level;
    settings.text = format ? strcmp(format, "text") == 0 : terminal;
    settings.journal = is_journal();
    settings.colour = terminal && !(no_color && *no_color) && !(term && strcmp(term, "dumb") == 0);
}

bool log_level_parse(struct text text, enum log_level *ret)
{
    for (size_t i = 0; i < sizeof(level_names) / sizeof(level_names[0]); i++)
        if (text_is(text, level_names[i])) {
            *ret = (enum log_level)i;
            return true;
        }
    return false;
}

/* A line that is built in place: capacity is the bound, so that the buffer never allocates. */
struct line {
    char bytes[LOG_LINE_BYTES_MAX];
    struct buffer buffer;
    struct json_writer json;
    bool truncated;
};
#define LINE_TAIL_JSON ",\"truncated\":true}\n"
#define LINE_TAIL_TEXT " truncated=true\n"
enum { LINE_TAIL_BYTES = sizeof(LINE_TAIL_JSON) - 1 }; /* kept free for either */

static void line_start(struct line *line, enum log_level level)
{
    line->buffer = (struct buffer){
        .at = line->bytes,
        .capacity = sizeof(line->bytes) - LINE_TAIL_BYTES,
        .bytes_max = sizeof(line->bytes) - LINE_TAIL_BYTES,
    };
    if (settings.journal) /* which takes it off, and knows the line's priority by it (sd-daemon(3)) */
        buffer_add_string(&line->buffer, level_priorities[level]);
    line->json = json_writer(&line->buffer);
    line->truncated = false;
}

/* In text: bare where that reads as one word, else as JSON would quote it. */
static void put_word(struct buffer *into, struct text value, bool spaces_too)
{
    bool bare = value.length > 0;
    for (size_t i = 0; bare && i < value.length; i++) {
        unsigned char c = (unsigned char)value.at[i];
        bare = c > 0x20 && c < 0x7f && c != '"' && c != '=' && c != '\\';
        if (spaces_too)
            bare = c >= 0x20 && c < 0x7f;
    }
    if (bare) {
        buffer_add_text(into, value);
        return;
    }
    struct json_writer quoted = json_writer(into);
    json_put_text(&quoted, value);
}

static void put_member(struct line *line, const struct log_field *field)
{
    bool null = field->kind == LOG_FIELD_STRING && !field->text.at;
    if (settings.text) {
        buffer_add_char(&line->buffer, ' ');
        buffer_add_string(&line->buffer, field->name);
        buffer_add_char(&line->buffer, '=');
        if (field->kind == LOG_FIELD_INT) {
            struct json_writer digits = json_writer(&line->buffer);
            json_put_int(&digits, field->number);
        } else if (null) {
            buffer_add_string(&line->buffer, "null");
        } else {
            put_word(&line->buffer, field->text, false);
        }
        return;
    }
    json_key(&line->json, field->name);
    if (field->kind == LOG_FIELD_INT)
        json_put_int(&line->json, field->number);
    else if (null)
        json_put_null(&line->json);
    else
        json_put_text(&line->json, field->text);
}

static struct text cut_to_half(struct text text)
{
    return text_cut(text, text.length / 2);
}

/* Whole where it fits, else as much of the value as does, else not at all. */
static void line_add(struct line *line, struct log_field field)
{
    size_t length = line->buffer.length;
    bool comma = line->json.comma;
    for (;;) {
        put_member(line, &field);
        if (!line->buffer.failed)
            return;
        line->buffer.failed = false;
        line->buffer.length = length;
        line->json.comma = comma;
        line->truncated = true;
        if (field.kind == LOG_FIELD_INT || field.text.length == 0)
            return;
        field.text = cut_to_half(field.text);
    }
}

static void head_json(struct line *line, enum log_level level, const char *station, struct text message)
{
    json_object_begin(&line->json);
    json_member_time(&line->json, "timestamp", clock_wall_us());
    json_member_string(&line->json, "level", level_names[level]);
    line_add(line, LOG_TEXT("message", message));
    line_add(line, LOG_STRING("service.name", settings.service));
    line_add(line, LOG_STRING("station", station));
}

static void head_text(struct line *line, enum log_level level, const char *station, struct text message)
{
    char time[CLOCK_RFC3339_BYTES_MAX];
    clock_to_rfc3339(clock_wall_us(), time);
    time[23] = '\0'; /* milliseconds do for people */
    buffer_print(&line->buffer, "%s %s%-5s%s %-9.64s ", time + 11,
                 settings.colour ? level_colours[level] : "", level_names[level],
                 settings.colour ? COLOUR_OFF : "", station);
    size_t length = line->buffer.length;
    for (;;) {
        put_word(&line->buffer, message, true);
        if (!line->buffer.failed)
            return;
        line->buffer.failed = false;
        line->buffer.length = length;
        line->truncated = true;
        message = cut_to_half(message);
    }
}

static void line_send(struct line *line)
{
    const char *tail = settings.text ? "\n" : "}\n";
    if (line->truncated)
        tail = settings.text ? LINE_TAIL_TEXT : LINE_TAIL_JSON;
    memcpy(line->bytes + line->buffer.length, tail, strlen(tail));
    size_t bytes = line->buffer.length + strlen(tail);
    /* A pipe keeps such a write whole by itself; a plain file that was not opened for appending may not. */
    pthread_mutex_lock(&writing_lock);
    /* A log that cannot be written (disk full, reader gone) has nobody to be told about it. */
    while (write(STDERR_FILENO, line->bytes, bytes) < 0 && errno == EINTR)
        ;
    pthread_mutex_unlock(&writing_lock);
}

enum { AT_TRACE = 3, TRACE_BYTES = 32, AT_SPAN = 36, SPAN_BYTES = 16 };
static _Thread_local char trace[AT_SPAN + SPAN_BYTES];
static _Thread_local bool traced;

void log_trace(struct text traceparent)
{
    traced = traceparent.length >= sizeof(trace);
    if (traced)
        memcpy(trace, traceparent.at, sizeof(trace));
}

static void line_add_trace(struct line *line)
{
    if (!traced)
        return;
    line_add(line, LOG_TEXT("trace_id", ((struct text){trace + AT_TRACE, TRACE_BYTES})));
    line_add(line, LOG_TEXT("span_id", ((struct text){trace + AT_SPAN, SPAN_BYTES})));
}

static void write_line(enum log_level level, const char *station, const char *message,
                       const struct log_field *fields, size_t field_count)
{
    struct line line;
    line_start(&line, level);
    if (settings.text)
        head_text(&line, level, station, text_of(message));
    else
        head_json(&line, level, station, text_of(message));
    if (!settings.text)
        line_add_trace(&line);
    for (size_t i = 0; i < field_count && i < LOG_FIELDS_MAX; i++)
        line_add(&line, fields[i]);
    if (settings.text) /* where people look last */
        line_add_trace(&line);
    if (field_count > LOG_FIELDS_MAX)
        line.truncated = true;
    line_send(&line);
}

/* Under the lock. */
static struct station *station_get(const char *name)
{
    for (size_t i = 0; i < station_count; i++)
        if (strcmp(stations[i].name, name) == 0)
            return &stations[i];
    if (station_count == LOG_STATIONS_MAX)
        return &stations[LOG_STATIONS_MAX - 1];
    stations[station_count].name = name;
    return &stations[station_count++];
}

/* Takes out one station whose second is over and that held lines back; false when there is none. */
static bool take_held_back(int64_t second, struct station *ret)
{
    bool found = false;
    pthread_mutex_lock(&stations_lock);
    for (size_t i = 0; i < station_count && !found; i++) {
        if (stations[i].second == second || stations[i].held_back == 0)
            continue;
        *ret = stations[i];
        stations[i].held_back = 0;
        found = true;
    }
    pthread_mutex_unlock(&stations_lock);
    return found;
}

static bool may_say(const char *name, int64_t second)
{
    pthread_mutex_lock(&stations_lock);
    struct station *station = station_get(name);
    if (station->second != second) {
        station->second = second;
        station->lines = 0;
    }
    bool may = station->lines < LOG_LINES_PER_SECOND_MAX;
    if (may)
        station->lines++;
    else
        station->held_back++;
    pthread_mutex_unlock(&stations_lock);
    return may;
}

void log_write(enum log_level level, const char *station, const char *message, const struct log_field *fields,
               size_t field_count)
{
    if (level < settings.level)
        return;
    int64_t second = clock_monotonic_us() / 1000000;
    struct station quiet = {0};
    while (take_held_back(second, &quiet))
        write_line(LOG_WARN, quiet.name, "lines held back",
                   (const struct log_field[]){LOG_INT("lines", quiet.held_back)}, 1);
    if (may_say(station, second))
        write_line(level, station, message, fields, field_count);
}
