#include "child.h"

#include "base/clock.h"
#include "base/json.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STEP_MS = 10, COPY_BYTES = 64 << 10, LAST_WORDS_BYTES = 4096 };

extern char **environ;

void child_argument(struct child *child, const char *format, ...)
{
    va_list arguments;
    assert(child->argc < CHILD_ARGUMENTS_MAX);
    va_start(arguments, format);
    int length = vasprintf(&child->argv[child->argc++], format, arguments);
    va_end(arguments);
    assert(length >= 0);
}

/* "NAME=value" and "NAME" are of the same name. */
static bool same_name(const char *pair, const char *variable)
{
    size_t length = strcspn(pair, "=");
    return strncmp(pair, variable, length) == 0 && variable[length] == '=';
}

char **child_environment(char *const *pairs)
{
    size_t count = 0, kept = 0, pair_count = 0;
    while (environ[count])
        count++;
    while (pairs[pair_count])
        pair_count++;
    char **list = calloc(count + pair_count + 1, sizeof(*list));
    assert(list);
    for (size_t i = 0; i < count; i++) {
        bool replaced = false;
        for (size_t j = 0; j < pair_count && !replaced; j++)
            replaced = same_name(pairs[j], environ[i]);
        if (!replaced)
            list[kept++] = strdup(environ[i]);
    }
    for (size_t j = 0; j < pair_count; j++)
        if (strchr(pairs[j], '='))
            list[kept++] = strdup(pairs[j]);
    return list;
}

/* ---- the log */

static void older_name(const struct child *child, char into[PATH_MAX + 4])
{
    snprintf(into, PATH_MAX + 4, "%s.1", child->log_path);
}

static bool log_is_full(const struct child *child)
{
    struct stat about;
    return stat(child->log_path, &about) == 0 && about.st_size > CHILD_LOG_BYTES_MAX;
}

/* The child holds the file open for appending, so it is copied and cut, not renamed. A line written between
 * the two is lost. */
void child_trim_log(const struct child *child)
{
    char older[PATH_MAX + 4];
    static char bytes[COPY_BYTES];
    if (!child->pid || !log_is_full(child))
        return;
    older_name(child, older);
    int from = open(child->log_path, O_RDWR | O_CLOEXEC);
    int to = open(older, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    ssize_t count = 0;
    while (from >= 0 && to >= 0 && (count = read(from, bytes, sizeof(bytes))) > 0)
        if (write(to, bytes, (size_t)count) != count)
            break;
    if (from >= 0 && ftruncate(from, 0) != 0)
        unlink(child->log_path); /* its lines go nowhere, the disk does not fill */
    if (from >= 0)
        close(from);
    if (to >= 0)
        close(to);
}

/* What a line tells people: of one in JSON its message. */
static void tell_line(const char *line, char *into, size_t bytes)
{
    json_t *json = NULL;
    struct error ignored;
    snprintf(into, bytes, "%s", line);
    if (line[0] != '{' || json_read(text_of(line), &json, &ignored) != OK)
        return;
    struct text message = json_text(json, "message"), error = json_text(json, "error");
    if (message.length)
        snprintf(into, bytes, "%.*s%s%.*s", TEXT_ARG(message), error.length ? ": " : "", TEXT_ARG(error));
    json_decref(json);
}

void child_last_words(const struct child *child, char *into, size_t bytes)
{
    char text[LAST_WORDS_BYTES + 1];
    into[0] = '\0';
    int fd = open(child->log_path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    off_t size = lseek(fd, 0, SEEK_END);
    off_t from = size > LAST_WORDS_BYTES ? size - LAST_WORDS_BYTES : 0;
    ssize_t length = pread(fd, text, LAST_WORDS_BYTES, from);
    close(fd);
    const char *line = NULL;
    while (length > 0) {
        text[length] = '\0';
        const char *before = memrchr(text, '\n', (size_t)length);
        line = before ? before + 1 : text;
        if (*line && !strchr(" \t\n", *line)) /* else blank, or one of the calls below Java's exception */
            break;
        length = before ? before - text : 0;
    }
    if (length > 0)
        tell_line(line, into, bytes);
}

/* ---- life */

/* After fork(), in a process that has threads: nothing here may allocate or lock. */
static void become(const struct child *child, int log, int null, pid_t parent, int report)
{
    sigset_t none;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(127); /* it died before the line above */
    setpgid(0, 0);  /* Ctrl-C on the terminal is for the parent */
    signal(SIGPIPE, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    dup2(null, STDIN_FILENO);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    close_range(STDERR_FILENO + 1, ~0U,
                CLOSE_RANGE_CLOEXEC); /* what libraries hold open is not the child's */
    execvpe(child->argv[0], child->argv, child->environment);
    int number = errno;
    ssize_t written = write(report, &number, sizeof(number));
    _exit(written < 0 ? 126 : 127);
}

enum outcome child_start(struct child *child, struct error *error)
{
    char older[PATH_MAX + 4];
    int report[2] = {-1, -1}, number = 0;
    if (log_is_full(child)) {
        older_name(child, older);
        rename(child->log_path, older);
    }
    int log = open(child->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (log < 0)
        return error_outage(error, "log", "%s: %s", child->log_path, strerror(errno));
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null < 0 || pipe2(report, O_CLOEXEC) != 0) {
        number = errno;
    } else {
        pid_t parent = getpid();
        child->argv[child->argc] = NULL;
        child->start_at_us = 0;
        pid_t pid = fork();
        if (pid == 0)
            become(child, log, null, parent, report[1]);
        close(report[1]);
        if (pid < 0)
            number = errno;
        else if (read(report[0], &number, sizeof(number)) == (ssize_t)sizeof(number))
            waitpid(pid, NULL, 0);
        else
            child->pid = pid;
        close(report[0]);
    }
    if (null >= 0)
        close(null);
    close(log);
    if (!child->pid)
        return error_outage(error, "start", "%s cannot be started: %s", child->argv[0], strerror(number));
    child->started_us = clock_monotonic_us();
    child->starts++;
    return OK;
}

static void set_next_start(struct child *child)
{
    int64_t now_us = clock_monotonic_us();
    if (now_us - child->started_us > CHILD_STEADY_MS * INT64_C(1000) || child->backoff_ms == 0)
        child->backoff_ms = CHILD_BACKOFF_MS_MIN;
    else if (child->backoff_ms < CHILD_BACKOFF_MS_MAX)
        child->backoff_ms =
            child->backoff_ms * 2 > CHILD_BACKOFF_MS_MAX ? CHILD_BACKOFF_MS_MAX : child->backoff_ms * 2;
    child->start_at_us = now_us + child->backoff_ms * INT64_C(1000);
}

bool child_died(struct child *child)
{
    int status;
    if (!child->pid || waitpid(child->pid, &status, WNOHANG) != child->pid)
        return false;
    child->pid = 0;
    child->status = status;
    if (child->again)
        set_next_start(child);
    return true;
}

void child_revive(struct child *child)
{
    struct error error;
    if (child->pid || !child->start_at_us || clock_monotonic_us() < child->start_at_us)
        return;
    if (child_start(child, &error) != OK)
        set_next_start(child);
}

const char *child_death(const struct child *child, char *into, size_t bytes)
{
    if (WIFSIGNALED(child->status))
        snprintf(into, bytes, "killed by signal %d (%s)", WTERMSIG(child->status),
                 strsignal(WTERMSIG(child->status)));
    else
        snprintf(into, bytes, "exit %d", WEXITSTATUS(child->status));
    return into;
}

void child_ask_stop(struct child *child)
{
    child->again = false;
    child->start_at_us = 0;
    if (child->pid)
        kill(child->pid, SIGTERM);
}

bool child_stop(struct child *child, int64_t deadline_us)
{
    bool killed = false;
    child->again = false;
    while (child->pid && !child_died(child)) {
        if (clock_monotonic_us() >= deadline_us && !killed) {
            kill(child->pid, SIGKILL);
            killed = true;
        }
        poll(NULL, 0, STEP_MS);
    }
    return !killed;
}

void child_free(struct child *child)
{
    for (size_t i = 0; i < child->argc; i++)
        free(child->argv[i]);
    child->argc = 0;
    for (char **at = child->environment; at && *at; at++)
        free(*at);
    free(child->environment);
    child->environment = NULL;
}
