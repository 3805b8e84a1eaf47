#include "base/notify.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void notify_tell(const char *state)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    const char *path = getenv("NOTIFY_SOCKET");
    size_t length = path ? strlen(path) : 0;
    if (length < 2 || length >= sizeof(to.sun_path) || (path[0] != '/' && path[0] != '@'))
        return;
    memcpy(to.sun_path, path, length);
    if (path[0] == '@') /* an abstract one */
        to.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return;
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    (void)sendto(fd, state, strnlen(state, NOTIFY_TEXT_BYTES_MAX), MSG_NOSIGNAL, (const void *)&to, bytes);
    close(fd);
}

void notify_status(const char *text)
{
    char state[NOTIFY_TEXT_BYTES_MAX];
    const size_t head = strlen("STATUS=");
    size_t length = (size_t)snprintf(state, sizeof(state), "STATUS=%s", text);
    if (length >= sizeof(state)) {
        length = sizeof(state) - 1;
        /* The byte that did not fit goes on with a character: what is there of it goes too. */
        while (length > head && ((unsigned char)text[length - head] & 0xc0) == 0x80)
            length--;
        state[length] = '\0';
    }
    for (size_t i = 0; i < length; i++)
        if (state[i] == '\n') /* it would begin another variable */
            state[i] = ' ';
    notify_tell(state);
}

int64_t notify_watchdog_ms(void)
{
    const char *allowed = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    if (!allowed || (pid && strtoll(pid, NULL, 10) != getpid()))
        return 0;
    int64_t allowed_us = strtoll(allowed, NULL, 10);
    return allowed_us > 0 ? (allowed_us / 2000 > 0 ? allowed_us / 2000 : 1) : 0;
}
