#include "support/process.h"

#include <assert.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum { ENVIRONMENT_MAX = 512, LOOK_MS = 10 };

struct process {
    pid_t pid;
    int pid_fd;
    int output_fd;
    char *output;
    bool ended;
    int exit_code;
};

/* Nothing that a service would take for a setting of its own. */
static bool is_handed_on(const char *variable)
{
    static const char *const prefixes[] = {
        "WEIR_",        "KAFKA_",        "HTTP_LISTEN", "DATABASE_URL", "SCHEMA_REGISTRY_",
        "RETRY_DELAYS", "DRAIN_TIMEOUT", "LOG_"};
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
        if (strncmp(variable, prefixes[i], strlen(prefixes[i])) == 0)
            return false;
    return true;
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

struct process *process_start(const char *const *argv, const char *const *environment)
{
    const char *all[ENVIRONMENT_MAX];
    size_t count = 0;
    for (char **variable = environ; *variable && count < ENVIRONMENT_MAX - 1; variable++)
        if (is_handed_on(*variable))
            all[count++] = *variable;
    for (; environment && *environment; environment++) {
        assert(count < ENVIRONMENT_MAX - 1);
        all[count++] = *environment;
    }
    all[count] = NULL;

    struct process *process = calloc(1, sizeof(*process));
    assert(process);
    process->output_fd = memfd_create("output", MFD_CLOEXEC);
    assert(process->output_fd >= 0);

    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_adddup2(&files, process->output_fd, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&files, process->output_fd, STDERR_FILENO);
    posix_spawnattr_t attributes;
    sigset_t none, all_signals;
    sigemptyset(&none);
    sigfillset(&all_signals);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all_signals);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(&attributes,
                             POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    int failed = posix_spawn(&process->pid, argv[0], &files, &attributes, (char *const *)(uintptr_t)argv,
                             (char *const *)(uintptr_t)all);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
    if (failed)
        fprintf(stderr, "cannot start %s: %s\n", argv[0], strerror(failed));
    assert(!failed);
    process->pid_fd = pidfd_open(process->pid, 0);
    assert(process->pid_fd >= 0);
    return process;
}

pid_t process_pid(const struct process *process)
{
    return process->pid;
}

void process_signal(const struct process *process, int signal)
{
    assert(!process->ended);
    kill(process->pid, signal);
}

/* True when it has ended within wait_ms. */
static bool reap(struct process *process, int wait_ms)
{
    struct pollfd ended = {.fd = process->pid_fd, .events = POLLIN};
    int status;
    if (process->ended)
        return true;
    if (poll(&ended, 1, wait_ms) <= 0 || waitpid(process->pid, &status, WNOHANG) != process->pid)
        return false;
    process->ended = true;
    process->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return true;
}

static void give_up(struct process *process, const char *what)
{
    fprintf(stderr, "process %d: %s; its output:\n%s\n", (int)process->pid, what, process_output(process));
    process_end(process);
    abort();
}

int process_wait(struct process *process)
{
    if (!reap(process, PROCESS_WAIT_MS))
        give_up(process, "did not end");
    return process->exit_code;
}

bool process_runs(struct process *process)
{
    return !reap(process, 0);
}

const char *process_output(struct process *process)
{
    off_t length = lseek(process->output_fd, 0, SEEK_END);
    assert(length >= 0);
    free(process->output);
    process->output = malloc((size_t)length + 1);
    assert(process->output);
    ssize_t got = pread(process->output_fd, process->output, (size_t)length, 0);
    process->output[got > 0 ? got : 0] = '\0';
    return process->output;
}

const char *process_expect(struct process *process, const char *text)
{
    int64_t until = now_ms() + PROCESS_WAIT_MS;
    for (;;) {
        bool ended = reap(process, LOOK_MS);
        const char *found = strstr(process_output(process), text);
        if (found)
            return found;
        if (ended || now_ms() > until) {
            fprintf(stderr, "expected: %s\n", text);
            give_up(process, ended ? "ended without saying it" : "did not say it");
        }
    }
}

int process_expect_number(struct process *process, const char *text)
{
    int64_t until = now_ms() + PROCESS_WAIT_MS;
    for (;;) {
        const char *found = process_expect(process, text);
        if (strchr(found, '\n'))
            return atoi(found + strlen(text));
        if (now_ms() > until)
            give_up(process, "did not end its line");
    }
}

void process_end(struct process *process)
{
    if (!process)
        return;
    if (!reap(process, 0)) {
        kill(process->pid, SIGKILL);
        (void)reap(process, PROCESS_WAIT_MS);
    }
    close(process->pid_fd);
    close(process->output_fd);
    free(process->output);
    free(process);
}
