#include "support/cutter.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { PAIRS_MAX = 8, BUFFER_BYTES = 64 << 10 };

struct stream {
    int from, to;
    enum cutter_side side;
    bool untyped; /* the client's first message */
    size_t left;  /* of the message that is being passed on */
    unsigned char head[5];
    size_t head_bytes;
};

struct pair {
    bool used;
    struct stream streams[2];
};

struct cutter {
    char folder[160];
    char path[192], server_path[192];
    int listener, wake[2];
    pthread_t thread;
    pthread_mutex_t lock;
    uint64_t at, again, messages[2];
    enum cutter_side side;
    int refuse, refuse_then;
    struct pair pairs[PAIRS_MAX];
};

static struct sockaddr_un address_of(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%.100s", path);
    return address;
}

static void pair_close(struct pair *pair)
{
    close(pair->streams[0].from);
    close(pair->streams[0].to);
    pair->used = false;
}

static void pair_open(struct cutter *cutter, int client)
{
    struct sockaddr_un address = address_of(cutter->server_path);
    int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    pthread_mutex_lock(&cutter->lock);
    bool refused = cutter->refuse > 0;
    cutter->refuse -= refused;
    pthread_mutex_unlock(&cutter->lock);
    struct pair *pair = NULL;
    for (size_t i = 0; i < PAIRS_MAX && !pair; i++)
        pair = cutter->pairs[i].used ? NULL : &cutter->pairs[i];
    if (refused || !pair || connect(server, (struct sockaddr *)&address, sizeof(address)) != 0) {
        close(server);
        close(client);
        return;
    }
    *pair = (struct pair){.used = true,
                          .streams = {{client, server, CUTTER_TO_SERVER, true, 0, {0}, 0},
                                      {server, client, CUTTER_TO_CLIENT, false, 0, {0}, 0}}};
}

/* A message begins: is it the one? */
static bool cuts(struct cutter *cutter, enum cutter_side side)
{
    pthread_mutex_lock(&cutter->lock);
    uint64_t number = ++cutter->messages[side];
    bool cut = cutter->at && cutter->side == side && number == cutter->at;
    if (cut) {
        cutter->at = cutter->again ? number + cutter->again : 0;
        cutter->again = 0;
        cutter->refuse = cutter->refuse_then;
    }
    pthread_mutex_unlock(&cutter->lock);
    return cut;
}

static bool pass(const struct stream *stream, const unsigned char *bytes, size_t count)
{
    while (count) {
        ssize_t sent = send(stream->to, bytes, count, MSG_NOSIGNAL);
        if (sent <= 0)
            return false;
        bytes += sent;
        count -= (size_t)sent;
    }
    return true;
}

/* False: the pair is to be closed. */
static bool stream_move(struct cutter *cutter, struct stream *stream)
{
    static unsigned char buffer[BUFFER_BYTES];
    ssize_t got = recv(stream->from, buffer, sizeof(buffer), 0);
    if (got <= 0)
        return false;
    for (size_t at = 0; at < (size_t)got;) {
        size_t there = (size_t)got - at;
        if (stream->left) {
            size_t count = stream->left < there ? stream->left : there;
            if (!pass(stream, buffer + at, count))
                return false;
            stream->left -= count;
            at += count;
            continue;
        }
        size_t head_bytes = stream->untyped ? 4 : 5;
        stream->head[stream->head_bytes++] = buffer[at++];
        if (stream->head_bytes < head_bytes)
            continue;
        uint32_t length;
        memcpy(&length, stream->head + head_bytes - 4, sizeof(length));
        if (cuts(cutter, stream->side) || !pass(stream, stream->head, head_bytes))
            return false;
        stream->left = ntohl(length) - 4;
        stream->head_bytes = 0;
        stream->untyped = false;
    }
    return true;
}

static void *run(void *owner)
{
    struct cutter *cutter = owner;
    for (;;) {
        struct pollfd fds[2 + 2 * PAIRS_MAX] = {{cutter->wake[0], POLLIN, 0}, {cutter->listener, POLLIN, 0}};
        struct stream *streams[2 * PAIRS_MAX];
        struct pair *pairs[2 * PAIRS_MAX];
        nfds_t count = 0;
        for (size_t i = 0; i < PAIRS_MAX; i++)
            for (size_t j = 0; j < 2 && cutter->pairs[i].used; j++) {
                streams[count] = &cutter->pairs[i].streams[j];
                pairs[count] = &cutter->pairs[i];
                fds[2 + count++] = (struct pollfd){cutter->pairs[i].streams[j].from, POLLIN, 0};
            }
        poll(fds, 2 + count, -1);
        if (fds[0].revents)
            break;
        for (nfds_t i = 0; i < count; i++)
            if (fds[2 + i].revents && pairs[i]->used && !stream_move(cutter, streams[i]))
                pair_close(pairs[i]);
        if (fds[1].revents)
            pair_open(cutter, accept4(cutter->listener, NULL, NULL, SOCK_CLOEXEC));
    }
    for (size_t i = 0; i < PAIRS_MAX; i++)
        if (cutter->pairs[i].used)
            pair_close(&cutter->pairs[i]);
    return NULL;
}

struct cutter *cutter_start(const struct cluster *cluster, const char *url, char through[CLUSTER_URL_BYTES])
{
    struct cutter *cutter = calloc(1, sizeof(*cutter));
    if (!cutter)
        abort();
    snprintf(cutter->folder, sizeof(cutter->folder), "%s.cut", cluster->folder);
    snprintf(cutter->path, sizeof(cutter->path), "%s.cut/.s.PGSQL.5432", cluster->folder);
    snprintf(cutter->server_path, sizeof(cutter->server_path), "%s/.s.PGSQL.5432", cluster->folder);
    snprintf(through, CLUSTER_URL_BYTES, "%s.cut", url);
    struct sockaddr_un address = address_of(cutter->path);
    cutter->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    pthread_mutex_init(&cutter->lock, NULL);
    char command[200];
    snprintf(command, sizeof(command), "mkdir -p %s", cutter->folder);
    if (system(command) != 0 || bind(cutter->listener, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        listen(cutter->listener, 16) != 0 || pipe(cutter->wake) != 0 ||
        pthread_create(&cutter->thread, NULL, run, cutter) != 0) {
        perror(cutter->path);
        abort();
    }
    return cutter;
}

void cutter_end(struct cutter *cutter)
{
    if (write(cutter->wake[1], "", 1) != 1)
        abort();
    pthread_join(cutter->thread, NULL);
    close(cutter->listener);
    close(cutter->wake[0]);
    close(cutter->wake[1]);
    unlink(cutter->path);
    rmdir(cutter->folder);
    free(cutter);
}

void cutter_cut(struct cutter *cutter, enum cutter_side side, uint64_t at, int refuse)
{
    pthread_mutex_lock(&cutter->lock);
    cutter->side = side;
    cutter->at = at;
    cutter->again = 0;
    cutter->refuse = 0;
    cutter->refuse_then = refuse;
    cutter->messages[0] = cutter->messages[1] = 0;
    pthread_mutex_unlock(&cutter->lock);
}

void cutter_cut_again(struct cutter *cutter, uint64_t after)
{
    pthread_mutex_lock(&cutter->lock);
    cutter->again = after;
    pthread_mutex_unlock(&cutter->lock);
}

uint64_t cutter_messages(struct cutter *cutter, enum cutter_side side)
{
    pthread_mutex_lock(&cutter->lock);
    uint64_t messages = cutter->messages[side];
    pthread_mutex_unlock(&cutter->lock);
    return messages;
}
