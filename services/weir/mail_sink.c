#include "weir/mail_sink.h"

#include "base/clock.h"
#include "base/digest.h"
#include "base/json.h"
#include "weir/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    ADDRESS_BYTES_MAX = 256,
    HEADER_VALUE_BYTES_MAX = 1000,
    PATH_BYTES_MAX = 1024,
    INDEX_LINE_BYTES_MAX = 16 << 10
};

struct mail_sink {
    struct mail_sink_settings settings;
    struct listener *listener;
    int directory_fd, index_fd;
    int64_t next;        /* number of the next message */
    struct buffer lines; /* of the index, for this round */
    bool failed;         /* a message could not be written: round() ends the run */
    struct error error;
    uint64_t random;
    atomic_llong kept, refused, dropped;
};

/* A connection. */
struct session {
    bool greeted, in_data;
    bool has_from;
    int recipient_count;
    char recipients[MAIL_SINK_RECIPIENTS_MAX][ADDRESS_BYTES_MAX];
    size_t scanned; /* of visitor->in, while in data: no end before */
};

static bool happens(struct mail_sink *sink, uint32_t ppm)
{
    sink->random ^= sink->random << 13;
    sink->random ^= sink->random >> 7;
    sink->random ^= sink->random << 17;
    return sink->random % FAILURES_PPM < ppm;
}

static void reply(struct visitor *visitor, const char *text)
{
    buffer_add_string(&visitor->out, text);
    buffer_add_string(&visitor->out, "\r\n");
}

/* ---- keeping */

/* The value of the header, unfolded; empty where it is absent. */
static struct text header_value(struct text message, const char *name, char into[HEADER_VALUE_BYTES_MAX])
{
    size_t name_bytes = strlen(name), length = 0;
    for (size_t i = 0; i < message.length;) {
        const char *end = memchr(message.at + i, '\n', message.length - i);
        size_t line = end ? (size_t)(end - message.at) - i : message.length - i;
        if (line == 0 || message.at[i] == '\r')
            break;
        bool ours =
            line > name_bytes && message.at[i + name_bytes] == ':' &&
            text_equal_nocase((struct text){message.at + i, name_bytes}, (struct text){name, name_bytes});
        bool folded = length && (message.at[i] == ' ' || message.at[i] == '\t');
        if (length && !folded)
            break;
        if (ours || folded) {
            for (size_t j = i + (ours ? name_bytes + 1 : 0); j < i + line && length < HEADER_VALUE_BYTES_MAX;
                 j++) {
                char c = message.at[j];
                if (c != '\r' && (length || (c != ' ' && c != '\t')))
                    into[length++] = c == '\t' ? ' ' : c;
            }
        }
        i += line + 1;
    }
    return (struct text){into, length};
}

static bool write_whole(int fd, const char *at, size_t length)
{
    while (length) {
        ssize_t written = write(fd, at, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return false;
        at += written;
        length -= (size_t)written;
    }
    return true;
}

static bool write_file(struct mail_sink *sink, const char *name, struct text message)
{
    char temporary[64];
    snprintf(temporary, sizeof(temporary), ".%lld.tmp", (long long)sink->next);
    int fd = openat(sink->directory_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return false;
    bool written = write_whole(fd, message.at, message.length) && (!sink->settings.sync || fsync(fd) == 0);
    written = close(fd) == 0 && written;
    return written && renameat(sink->directory_fd, temporary, sink->directory_fd, name) == 0;
}

static void add_line(struct mail_sink *sink, const struct session *session, struct text message,
                     struct text message_id, const char *name)
{
    char subject[HEADER_VALUE_BYTES_MAX];
    struct json_writer writer = json_writer(&sink->lines);
    json_object_begin(&writer);
    json_member_int(&writer, "n", sink->next);
    json_member_text(&writer, "message_id", message_id);
    json_member_string(&writer, "to", session->recipients[0]);
    json_member_text(&writer, "subject", header_value(message, "Subject", subject));
    json_member_time(&writer, "at", clock_wall_us());
    json_member_int(&writer, "bytes", (int64_t)message.length);
    json_member_string(&writer, "file", name);
    json_object_end(&writer);
    buffer_add_char(&sink->lines, '\n');
}

/* False: sink->error says why. */
static bool keep(struct mail_sink *sink, const struct session *session, struct text message)
{
    char id[HEADER_VALUE_BYTES_MAX], name[80] = "";
    struct text message_id = header_value(message, "Message-ID", id);
    if (sink->directory_fd >= 0) {
        uint8_t digest[DIGEST_BYTES];
        char hex[16];
        digest_sha256(message_id, digest);
        digest_to_hex(digest, sizeof(hex) / 2, hex);
        if (sink->next <= sink->settings.keep_max) {
            snprintf(name, sizeof(name), "%08lld-%.16s.eml", (long long)sink->next, hex);
            if (!write_file(sink, name, message)) {
                error_set(&sink->error, OUTAGE, "write", "cannot write %s/%s: %s", sink->settings.directory,
                          name, strerror(errno));
                sink->failed = true;
                return false;
            }
        }
        add_line(sink, session, message, message_id, name);
    }
    sink->next++;
    atomic_fetch_add(&sink->kept, 1);
    return true;
}

/* ---- SMTP */

static void forget_mail(struct session *session)
{
    session->has_from = false;
    session->recipient_count = 0;
    session->in_data = false;
    session->scanned = 0;
}

static void on_opened(void *owner, struct visitor *visitor)
{
    (void)owner;
    reply(visitor, "220 weir mail sink ESMTP");
}

/* Copies what stands between < and > behind the colon. */
static bool read_path(struct text line, const char *prefix, char into[ADDRESS_BYTES_MAX])
{
    size_t prefix_bytes = strlen(prefix);
    if (line.length < prefix_bytes ||
        !text_equal_nocase((struct text){line.at, prefix_bytes}, (struct text){prefix, prefix_bytes}))
        return false;
    const char *begin = memchr(line.at, '<', line.length);
    const char *end = begin ? memrchr(begin, '>', line.length - (size_t)(begin - line.at)) : NULL;
    if (!end || end - begin - 1 >= ADDRESS_BYTES_MAX)
        return false;
    memcpy(into, begin + 1, (size_t)(end - begin) - 1);
    into[end - begin - 1] = '\0';
    return true;
}

/* 0: taken. */
static int refusal_of(struct mail_sink *sink)
{
    const struct mail_sink_settings *settings = &sink->settings;
    if (happens(sink, (uint32_t)settings->refuse_percent * FAILURES_PPM_PER_PERCENT))
        return settings->refuse_reply;
    if (happens(sink, settings->failures.closing_ppm))
        return 421;
    return happens(sink, settings->failures.refuse_ppm) ? 451 : 0;
}

static void on_recipient(struct mail_sink *sink, struct visitor *visitor, struct session *session,
                         struct text line)
{
    int refusal;
    char address[ADDRESS_BYTES_MAX];
    if (!session->has_from) {
        reply(visitor, "503 5.5.1 MAIL first");
    } else if (!read_path(line, "RCPT TO:", address) || !*address) {
        reply(visitor, "501 5.1.3 RCPT TO:<address>");
    } else if (session->recipient_count == MAIL_SINK_RECIPIENTS_MAX) {
        reply(visitor, "452 4.5.3 too many recipients");
    } else if ((refusal = refusal_of(sink)) != 0) {
        atomic_fetch_add(&sink->refused, 1);
        reply(visitor, refusal == 550   ? "550 5.1.1 no such mailbox, as asked for"
                       : refusal == 421 ? "421 4.3.2 closing, as asked for"
                                        : "451 4.3.0 not now, as asked for");
        visitor->close = refusal == 421;
    } else {
        memcpy(session->recipients[session->recipient_count++], address, sizeof(address));
        reply(visitor, "250 2.1.5 ok");
    }
}

static bool is_command(struct text line, const char *command)
{
    size_t length = strlen(command);
    return line.length >= length &&
           text_equal_nocase((struct text){line.at, length}, (struct text){command, length}) &&
           (line.length == length || line.at[length] == ' ' || line.at[length] == ':');
}

static void on_command(struct mail_sink *sink, struct visitor *visitor, struct session *session,
                       struct text line)
{
    char address[ADDRESS_BYTES_MAX];
    if (is_command(line, "EHLO")) {
        forget_mail(session);
        session->greeted = true;
        buffer_print(
            &visitor->out,
            "250-weir\r\n250-SIZE %d\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 PIPELINING\r\n",
            MAIL_SINK_MESSAGE_BYTES_MAX);
    } else if (is_command(line, "HELO")) {
        forget_mail(session);
        session->greeted = true;
        reply(visitor, "250 weir");
    } else if (is_command(line, "MAIL")) {
        if (!session->greeted || session->has_from) {
            reply(visitor, session->greeted ? "503 5.5.1 one mail at a time" : "503 5.5.1 EHLO first");
        } else if (read_path(line, "MAIL FROM:", address)) {
            session->has_from = true;
            reply(visitor, "250 2.1.0 ok");
        } else {
            reply(visitor, "501 5.1.7 MAIL FROM:<address>");
        }
    } else if (is_command(line, "RCPT")) {
        on_recipient(sink, visitor, session, line);
    } else if (is_command(line, "DATA")) {
        session->in_data = session->recipient_count > 0;
        reply(visitor, session->in_data ? "354 go on, end with a dot" : "503 5.5.1 RCPT first");
    } else if (is_command(line, "RSET")) {
        forget_mail(session);
        reply(visitor, "250 2.0.0 ok");
    } else if (is_command(line, "NOOP")) {
        reply(visitor, "250 2.0.0 ok");
    } else if (is_command(line, "QUIT")) {
        reply(visitor, "221 2.0.0 bye");
        visitor->close = true;
    } else {
        reply(visitor, "500 5.5.2 what?");
    }
}

/* Bytes up to and with the final dot's line, 0 while it has not come. *ret_message_bytes: before the dot. */
static size_t find_end(struct session *session, const struct buffer *in, size_t *ret_message_bytes)
{
    if (in->length >= 3 && memcmp(in->at, ".\r\n", 3) == 0) {
        *ret_message_bytes = 0;
        return 3;
    }
    size_t from = session->scanned > 4 ? session->scanned - 4 : 0;
    const char *found = in->length > from ? memmem(in->at + from, in->length - from, "\r\n.\r\n", 5) : NULL;
    session->scanned = in->length;
    if (!found)
        return 0;
    *ret_message_bytes = (size_t)(found - in->at) + 2;
    return *ret_message_bytes + 3;
}

/* In place: a dot that was doubled at the beginning of a line. Returns the new length. */
static size_t unstuff_dots(char *at, size_t length)
{
    size_t to = 0;
    for (size_t i = 0; i < length; i++) {
        bool line_begin = i == 0 || at[i - 1] == '\n';
        if (line_begin && at[i] == '.' && i + 1 < length && at[i + 1] == '.')
            continue;
        at[to++] = at[i];
    }
    return to;
}

/* Returns false while there is no whole message. */
static bool on_message(struct mail_sink *sink, struct visitor *visitor, struct session *session)
{
    size_t message_bytes = 0, bytes = find_end(session, &visitor->in, &message_bytes);
    if (!bytes)
        return false;
    if (message_bytes > MAIL_SINK_MESSAGE_BYTES_MAX) {
        reply(visitor, "552 5.3.4 too large");
    } else if (!keep(sink, session,
                     (struct text){visitor->in.at, unstuff_dots(visitor->in.at, message_bytes)})) {
        reply(visitor, "451 4.3.1 cannot be kept");
    } else if (happens(sink, sink->settings.failures.lost_ppm)) {
        atomic_fetch_add(&sink->dropped, 1);
        buffer_clear(&visitor->out);
        visitor->cut = true;
    } else if (sink->settings.delay_ms) {
        visitor->due_us = clock_monotonic_us() + sink->settings.delay_ms * 1000;
        visitor->busy = true;
    } else {
        reply(visitor, "250 2.0.0 kept");
    }
    listener_take(visitor, bytes);
    forget_mail(session);
    return true;
}

static void on_due(void *owner, struct visitor *visitor)
{
    (void)owner;
    reply(visitor, "250 2.0.0 kept");
}

static void on_data(void *owner, struct visitor *visitor)
{
    struct mail_sink *sink = owner;
    struct session *session = visitor->state;
    while (!visitor->busy && !visitor->close && !visitor->cut) {
        if (session->in_data) {
            if (!on_message(sink, visitor, session))
                return;
            continue;
        }
        char *end = visitor->in.length ? memchr(visitor->in.at, '\n', visitor->in.length) : NULL;
        if (!end || end - visitor->in.at >= MAIL_SINK_LINE_BYTES_MAX) {
            if (end || visitor->in.length >= MAIL_SINK_LINE_BYTES_MAX) {
                reply(visitor, "500 5.5.2 line too long");
                visitor->close = true;
            }
            return;
        }
        char line[MAIL_SINK_LINE_BYTES_MAX];
        size_t length = (size_t)(end - visitor->in.at);
        memcpy(line, visitor->in.at, length);
        listener_take(visitor, length + 1);
        if (length && line[length - 1] == '\r')
            length--;
        on_command(sink, visitor, session, (struct text){line, length});
    }
}

static enum outcome on_round(void *owner, struct error *error)
{
    struct mail_sink *sink = owner;
    if (sink->failed) {
        *error = sink->error;
        return error->outcome;
    }
    if (sink->lines.length == 0)
        return OK;
    if (sink->lines.failed || !write_whole(sink->index_fd, sink->lines.at, sink->lines.length) ||
        (sink->settings.sync && fdatasync(sink->index_fd) != 0))
        return error_outage(error, "write", "cannot write %s/index.ndjson: %s", sink->settings.directory,
                            strerror(errno));
    buffer_clear(&sink->lines);
    return OK;
}

/* ---- life */

/* Goes on behind what is there; half a line at the end is from a crash and taken away. */
static enum outcome open_index(struct mail_sink *sink, struct error *error)
{
    const char *directory = sink->settings.directory;
    if (mkdir(directory, 0755) != 0 && errno != EEXIST)
        return error_outage(error, "directory", "cannot make %s: %s", directory, strerror(errno));
    sink->directory_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (sink->directory_fd >= 0)
        sink->index_fd =
            openat(sink->directory_fd, "index.ndjson", O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    int copy_fd = sink->index_fd >= 0 ? dup(sink->index_fd) : -1;
    FILE *index = copy_fd >= 0 ? fdopen(copy_fd, "r") : NULL;
    if (!index) {
        if (copy_fd >= 0)
            close(copy_fd);
        return error_outage(error, "directory", "cannot open %s/index.ndjson: %s", directory,
                            strerror(errno));
    }
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    off_t whole = 0;
    while ((length = getline(&line, &room, index)) > 0 && line[length - 1] == '\n') {
        long long n;
        if (sscanf(line, "{\"n\":%lld", &n) == 1 && n >= sink->next)
            sink->next = n + 1;
        whole += length;
    }
    free(line);
    fclose(index);
    if (ftruncate(sink->index_fd, whole) != 0)
        return error_outage(error, "directory", "cannot write %s/index.ndjson: %s", directory,
                            strerror(errno));
    return OK;
}

enum outcome mail_sink_open(const struct mail_sink_settings *settings, struct mail_sink **ret,
                            struct error *error)
{
    struct mail_sink *sink = calloc(1, sizeof(*sink));
    if (!sink)
        return error_retry(error, "memory", "out of memory");
    sink->settings = *settings;
    sink->directory_fd = sink->index_fd = -1;
    sink->next = 1;
    sink->random = (uint64_t)clock_wall_us() | 1;
    sink->lines = buffer_of(MAIL_SINK_CONNECTIONS_MAX * (size_t)INDEX_LINE_BYTES_MAX);
    const struct listener_settings listener = {
        .listen = settings->listen,
        .connections_max = MAIL_SINK_CONNECTIONS_MAX,
        .in_bytes_max = MAIL_SINK_MESSAGE_BYTES_MAX + (64 << 10),
        .state_bytes = sizeof(struct session),
        .away_us = settings->failures.away_us,
        .every_us = settings->failures.every_us,
        .owner = sink,
        .opened = on_opened,
        .data = on_data,
        .due = on_due,
        .round = on_round,
    };
    enum outcome outcome = settings->directory ? open_index(sink, error) : OK;
    if (outcome == OK)
        outcome = listener_open(&listener, &sink->listener, error);
    if (outcome == OK)
        *ret = sink;
    else
        mail_sink_close(sink);
    return outcome;
}

const char *mail_sink_address(const struct mail_sink *sink)
{
    return listener_address(sink->listener);
}

enum outcome mail_sink_run(struct mail_sink *sink, int stop_fd, struct error *error)
{
    return listener_run(sink->listener, stop_fd, error);
}

void mail_sink_stop(struct mail_sink *sink)
{
    listener_stop(sink->listener);
}

struct mail_sink_counts mail_sink_counts(const struct mail_sink *sink)
{
    return (struct mail_sink_counts){
        .kept = atomic_load(&sink->kept),
        .refused = atomic_load(&sink->refused),
        .dropped = atomic_load(&sink->dropped),
    };
}

void mail_sink_close(struct mail_sink *sink)
{
    if (!sink)
        return;
    listener_close(sink->listener);
    buffer_free(&sink->lines);
    if (sink->index_fd >= 0)
        close(sink->index_fd);
    if (sink->directory_fd >= 0)
        close(sink->directory_fd);
    free(sink);
}
