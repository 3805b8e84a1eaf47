#include "support/peer.h"

#include <arpa/inet.h>
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PEER_CONNECTIONS_MAX = 1024 };

struct connection {
    struct peer *peer;
    int fd, number;
    pthread_t thread;
};

struct peer {
    int listen_fd, port;
    void (*serve)(void *owner, int fd, int number);
    void *owner;
    pthread_t thread;
    pthread_mutex_t lock;
    int count;
    struct connection *connections[PEER_CONNECTIONS_MAX];
};

static int listen_on_loopback(int *ret_port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int failed = fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 128) ||
                 getsockname(fd, (struct sockaddr *)&address, &length);
    assert(!failed);
    *ret_port = ntohs(address.sin_port);
    return fd;
}

static void *serve_one(void *argument)
{
    struct connection *connection = argument;
    connection->peer->serve(connection->peer->owner, connection->fd, connection->number);
    /* Closed by peer_close(): until then the other side sees the end, and the number is not given away again.
     */
    shutdown(connection->fd, SHUT_RDWR);
    return NULL;
}

static void *accept_all(void *argument)
{
    struct peer *peer = argument;
    for (;;) {
        int fd = accept4(peer->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            return NULL;
        pthread_mutex_lock(&peer->lock);
        assert(peer->count < PEER_CONNECTIONS_MAX);
        struct connection *connection = calloc(1, sizeof(*connection));
        assert(connection);
        *connection = (struct connection){.peer = peer, .fd = fd, .number = peer->count};
        peer->connections[peer->count++] = connection;
        int failed = pthread_create(&connection->thread, NULL, serve_one, connection);
        assert(!failed);
        pthread_mutex_unlock(&peer->lock);
    }
}

struct peer *peer_open(void (*serve)(void *owner, int fd, int number), void *owner)
{
    struct peer *peer = calloc(1, sizeof(*peer));
    assert(peer);
    peer->serve = serve;
    peer->owner = owner;
    peer->listen_fd = listen_on_loopback(&peer->port);
    pthread_mutex_init(&peer->lock, NULL);
    int failed = pthread_create(&peer->thread, NULL, accept_all, peer);
    assert(!failed);
    return peer;
}

int peer_port(const struct peer *peer)
{
    return peer->port;
}

int peer_connections(const struct peer *peer)
{
    struct peer *unlocked = (struct peer *)peer;
    pthread_mutex_lock(&unlocked->lock);
    int count = peer->count;
    pthread_mutex_unlock(&unlocked->lock);
    return count;
}

void peer_close(struct peer *peer)
{
    shutdown(peer->listen_fd, SHUT_RDWR);
    pthread_join(peer->thread, NULL);
    close(peer->listen_fd);
    for (int i = 0; i < peer->count; i++)
        shutdown(peer->connections[i]->fd, SHUT_RDWR);
    for (int i = 0; i < peer->count; i++) {
        pthread_join(peer->connections[i]->thread, NULL);
        close(peer->connections[i]->fd);
        free(peer->connections[i]);
    }
    pthread_mutex_destroy(&peer->lock);
    free(peer);
}

int peer_refusing_port(void)
{
    int port;
    close(listen_on_loopback(&port));
    return port;
}

bool peer_say(int fd, const char *text)
{
    size_t left = strlen(text);
    while (left) {
        ssize_t sent = send(fd, text, left, MSG_NOSIGNAL);
        if (sent <= 0)
            return false;
        text += sent;
        left -= (size_t)sent;
    }
    return true;
}

size_t peer_hear(int fd, const char *end, char *into, size_t size)
{
    size_t length = 0;
    while (length + 1 < size) {
        if (recv(fd, into + length, 1, 0) != 1)
            return 0;
        into[++length] = '\0';
        if (length >= strlen(end) && strcmp(into + length - strlen(end), end) == 0)
            break;
    }
    return length;
}

void peer_hang(int fd)
{
    char scratch[4096];
    while (recv(fd, scratch, sizeof(scratch), 0) > 0)
        ;
}
