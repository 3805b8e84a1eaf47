/*
 * Mail over connections that libcurl makes (greeting, EHLO, STARTTLS, AUTH) and that this file then speaks on
 * itself (CURLOPT_CONNECT_ONLY). libcurl's own SMTP upload waits for the answer to the final dot in a way
 * that blocks the whole multi loop, and does not say whether the dot was sent, which is what decides between
 * "again" and "ambiguous". It also hands CR and LF in addresses through; here nothing is written to the
 * socket that was not looked at by net_mail().
 */
#include "net/call.h"

#include "base/clock.h"

#include <assert.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

enum mail_step {
    STEP_CONNECT, /* libcurl's, until finished() */
    STEP_IDLE,
    STEP_RESET, /* RSET sent after a refusal, its answer not yet here */
    STEP_FROM,
    STEP_TO,
    STEP_DATA,
    STEP_MESSAGE, /* the message and the final dot */
};

struct mail_connection {
    struct transfer transfer; /* first */
    struct mail_connection *next;
    struct mail_peer *peer;
    CURL *easy;
    curl_socket_t socket;
    enum mail_step step;
    bool blocked;          /* the last send took less than there was */
    bool dead;             /* to be destroyed by the pump */
    struct net_call *call; /* what it is doing; NULL when idle or resetting */
    int mails;             /* transactions begun */
    bool heard;            /* a reply has come in this transaction */
    int64_t idle_since_us;
    struct text out; /* still to be sent: into command, or the call's body */
    char command[ADDRESS_COMMAND_BYTES_MAX];
    char line[NET_REPLY_LINE_BYTES_MAX];
    size_t line_bytes;
    int reply_lines;
    char error_text[CURL_ERROR_SIZE];
};

/* The connections to one URL and what waits for one. Made at the first mail, kept. */
struct mail_peer {
    struct mail_peer *next;
    struct net *net;
    char *url;
    struct mail_connection *connections;
    int connection_count;
    struct net_call *waiting, **waiting_end;
};

/* ---- ends of a call */

static void finish(struct net_call *call, enum outcome outcome, int status, bool ambiguous, const char *text)
{
    struct net_result result = {.outcome = outcome, .status = status, .ambiguous = ambiguous};
    net_result_say(&result, "%s", text);
    net_finish(call, &result);
}

static bool all_sent(const struct mail_connection *connection)
{
    return connection->step == STEP_MESSAGE && connection->out.length == 0;
}

static void wait_in_line(struct mail_peer *peer, struct net_call *call)
{
    call->next = NULL;
    *peer->waiting_end = call;
    peer->waiting_end = &call->next;
}

/* A kept connection that ends before it has taken anything of this mail says nothing about the mail server:
 * once, another is taken. */
static bool take_another(struct mail_connection *connection)
{
    struct net_call *call = connection->call;
    if (connection->step == STEP_CONNECT || connection->mails < 2 || connection->heard || call->replaced)
        return false;
    connection->call = NULL;
    call->replaced = true;
    wait_in_line(connection->peer, call);
    return true;
}

/*
 * The connection is of no more use. RFC 5321 3.8: to be taken as if it had said 421; after the final dot
 * nobody knows.
 */
static void lose(struct mail_connection *connection, const char *why)
{
    struct net_call *call = connection->call;
    bool unknown = all_sent(connection);
    connection->dead = true;
    if (!call || (!unknown && take_another(connection)))
        return;
    connection->call = NULL;
    finish(call, unknown ? RETRY : OUTAGE, 0, unknown, why);
}

/* ---- speaking */

static void hear(struct mail_connection *connection);

static void flush(struct mail_connection *connection)
{
    connection->blocked = false;
    while (connection->out.length && !connection->dead) {
        size_t sent = 0;
        CURLcode code = curl_easy_send(connection->easy, connection->out.at, connection->out.length, &sent);
        if (code == CURLE_AGAIN) {
            connection->blocked = true;
            return;
        }
        if (code != CURLE_OK) {
            hear(connection); /* it may have said why before it closed: 552 in the middle of a message */
            if (!connection->dead)
                lose(connection, "the mail server closed the connection");
            return;
        }
        connection->out.at += sent;
        connection->out.length -= sent;
    }
}

static void say(struct mail_connection *connection, enum mail_step step, const char *command,
                const char *address)
{
    connection->step = step;
    int length = snprintf(connection->command, sizeof(connection->command),
                          address ? "%s:<%s>\r\n" : "%s\r\n", command, address);
    assert(length > 0 && (size_t)length < sizeof(connection->command));
    connection->out = (struct text){connection->command, (size_t)length};
    flush(connection);
}

static void begin(struct mail_connection *connection, struct net_call *call)
{
    connection->call = call;
    connection->heard = false;
    connection->mails++;
    say(connection, STEP_FROM, "MAIL FROM", call->from);
}

static void rest(struct mail_connection *connection)
{
    connection->step = STEP_IDLE;
    connection->idle_since_us = clock_monotonic_us();
    if (connection->mails < NET_MAILS_A_CONNECTION_MAX)
        return;
    say(connection, STEP_IDLE, "QUIT", NULL);
    connection->dead = true;
}

/* The mail is refused; the connection may go on. */
static void refuse(struct mail_connection *connection, int status, const char *line)
{
    struct net_call *call = connection->call;
    bool message_over = connection->step == STEP_MESSAGE;
    connection->call = NULL;
    finish(call, status >= 500 ? REJECT : RETRY, status, false, line);
    if (message_over) {
        rest(connection);
    } else {
        connection->idle_since_us = clock_monotonic_us(); /* so long it may take to answer */
        say(connection, STEP_RESET, "RSET", NULL);
    }
}

static void accept_message(struct mail_connection *connection, int status, const char *line)
{
    struct net_call *call = connection->call;
    connection->call = NULL;
    finish(call, OK, status, false, line);
    rest(connection);
}

/* A whole reply, by its last line. */
static void on_reply(struct mail_connection *connection, int status, const char *line)
{
    int class = status / 100;
    if (status == 421 && connection->call && take_another(connection)) {
        connection->dead = true; /* it takes so many on one, or was about to close it */
        return;
    }
    connection->heard = true;
    if (status == 421 || connection->step == STEP_IDLE || (connection->step == STEP_RESET && class != 2)) {
        /* While idle: 421 before closing, as a rule. */
        struct net_call *call = connection->call;
        connection->call = NULL;
        connection->dead = true;
        if (call)
            finish(call, OUTAGE, status, false, line);
        return;
    }
    if (connection->step == STEP_RESET) {
        rest(connection);
        return;
    }
    if (class == 4 || class == 5) {
        /* One that comes while the message is still on its way cannot be told from its end: not kept. */
        bool early = connection->out.length > 0;
        refuse(connection, status, line);
        connection->dead = connection->dead || early;
        return;
    }
    if (class == (connection->step == STEP_DATA ? 3 : 2) && connection->out.length == 0) {
        switch (connection->step) {
        case STEP_FROM:
            say(connection, STEP_TO, "RCPT TO", connection->call->to);
            return;
        case STEP_TO:
            say(connection, STEP_DATA, "DATA", NULL);
            return;
        case STEP_DATA:
            connection->step = STEP_MESSAGE;
            connection->out = buffer_text(&connection->call->body);
            flush(connection);
            return;
        case STEP_MESSAGE:
            accept_message(connection, status, line);
            return;
        case STEP_CONNECT:
        case STEP_IDLE:
        case STEP_RESET:
            break;
        }
    }
    char why[128];
    snprintf(why, sizeof(why), "an answer that is not SMTP's: %.80s", line);
    lose(connection, why);
}

/* Takes a line without its end. Returns false where it is not SMTP. */
static bool on_line(struct mail_connection *connection, char *line, size_t length)
{
    if (length && line[length - 1] == '\r')
        length--;
    line[length] = '\0';
    bool digits = length >= 3;
    for (size_t i = 0; digits && i < 3; i++)
        digits = line[i] >= '0' && line[i] <= '9';
    if (!digits || line[0] < '2' || line[0] > '5' || (length > 3 && line[3] != ' ' && line[3] != '-'))
        return false;
    if (length > 3 && line[3] == '-')
        return ++connection->reply_lines < NET_REPLY_LINES_MAX;
    connection->reply_lines = 0;
    on_reply(connection, (line[0] - '0') * 100 + (line[1] - '0') * 10 + (line[2] - '0'), line);
    return true;
}

static void hear(struct mail_connection *connection)
{
    while (!connection->dead) {
        size_t received = 0, room = sizeof(connection->line) - 1 - connection->line_bytes;
        CURLcode code =
            curl_easy_recv(connection->easy, connection->line + connection->line_bytes, room, &received);
        if (code == CURLE_AGAIN)
            return;
        if (code != CURLE_OK || received == 0) {
            lose(connection, "the mail server closed the connection");
            return;
        }
        connection->line_bytes += received;
        char *end;
        while (!connection->dead && (end = memchr(connection->line, '\n', connection->line_bytes))) {
            char line[NET_REPLY_LINE_BYTES_MAX];
            size_t length = (size_t)(end - connection->line);
            memcpy(line, connection->line, length);
            connection->line_bytes -= length + 1;
            memmove(connection->line, end + 1, connection->line_bytes);
            if (!on_line(connection, line, length))
                lose(connection, "the mail server's answer is not SMTP");
        }
        if (connection->line_bytes == sizeof(connection->line) - 1)
            lose(connection, "the mail server's answer has a line without end");
    }
}

/* ---- connections */

static void on_connected(struct transfer *transfer, CURLcode code)
{
    struct mail_connection *connection = (struct mail_connection *)transfer;
    struct net_call *call = connection->call;
    if (code == CURLE_OK &&
        (curl_easy_getinfo(connection->easy, CURLINFO_ACTIVESOCKET, &connection->socket) != CURLE_OK ||
         connection->socket == CURL_SOCKET_BAD))
        code = CURLE_COULDNT_CONNECT;
    if (code == CURLE_OK) {
        begin(connection, call);
        return;
    }
    long status = 0;
    curl_easy_getinfo(connection->easy, CURLINFO_RESPONSE_CODE, &status);
    connection->dead = true;
    connection->call = NULL;
    /* A URL that is none is a setting, not the mail: an outage as well. */
    finish(call, OUTAGE, (int)status, false,
           connection->error_text[0] ? connection->error_text : curl_easy_strerror(code));
}

static void connect_for(struct mail_peer *peer, struct net_call *call)
{
    struct net *net = peer->net;
    int64_t left_ms = (call->deadline_us - clock_monotonic_us()) / 1000;
    struct mail_connection *connection = calloc(1, sizeof(*connection));
    if (connection) {
        connection->transfer.finished = on_connected;
        connection->peer = peer;
        connection->step = STEP_CONNECT;
        connection->socket = CURL_SOCKET_BAD;
        connection->call = call;
        connection->easy = net_easy_new(net, &connection->transfer, call->url, left_ms > 0 ? (int)left_ms : 1,
                                        connection->error_text);
    }
    if (!connection || !connection->easy) {
        free(connection);
        finish(call, RETRY, 0, false, "out of memory");
        return;
    }
    curl_easy_setopt(connection->easy, CURLOPT_CONNECTTIMEOUT_MS, (long)(call->timeout_ms / 3 + 1));
    curl_easy_setopt(connection->easy, CURLOPT_PROTOCOLS_STR, "smtp,smtps");
    curl_easy_setopt(connection->easy, CURLOPT_USE_SSL, (long)CURLUSESSL_TRY);
    curl_easy_setopt(connection->easy, CURLOPT_CONNECT_ONLY, 1L);
    if (curl_multi_add_handle(net->multi, connection->easy) != CURLM_OK) {
        curl_easy_cleanup(connection->easy);
        free(connection);
        finish(call, RETRY, 0, false, "out of memory");
        return;
    }
    connection->next = peer->connections;
    peer->connections = connection;
    peer->connection_count++;
}

static void connection_destroy(struct mail_connection *connection)
{
    curl_multi_remove_handle(connection->peer->net->multi, connection->easy); /* closes the socket as well */
    curl_easy_cleanup(connection->easy);
    free(connection);
}

static void bury_dead(struct mail_peer *peer)
{
    for (struct mail_connection **at = &peer->connections; *at;) {
        struct mail_connection *connection = *at;
        if (!connection->dead) {
            at = &connection->next;
            continue;
        }
        *at = connection->next;
        peer->connection_count--;
        connection_destroy(connection);
    }
}

static struct mail_connection *idle_connection(struct mail_peer *peer)
{
    for (struct mail_connection *connection = peer->connections; connection; connection = connection->next) {
        if (connection->step != STEP_IDLE || connection->dead)
            continue;
        hear(connection); /* what has been closed meanwhile is seen here */
        if (!connection->dead)
            return connection;
    }
    return NULL;
}

static struct net_call *take_waiting(struct mail_peer *peer)
{
    struct net_call *call = peer->waiting;
    peer->waiting = call->next;
    if (!peer->waiting)
        peer->waiting_end = &peer->waiting;
    call->next = NULL;
    return call;
}

static void give_work(struct mail_peer *peer)
{
    while (peer->waiting) {
        struct mail_connection *connection = idle_connection(peer);
        if (connection)
            begin(connection, take_waiting(peer));
        else if (peer->connection_count < peer->net->connections_max)
            connect_for(peer, take_waiting(peer));
        else
            return;
    }
}

static struct mail_peer *peer_of(struct net *net, const char *url)
{
    int count = 0;
    for (struct mail_peer *peer = net->peers; peer; peer = peer->next, count++)
        if (strcmp(peer->url, url) == 0)
            return peer;
    if (count == NET_MAIL_PEERS_MAX)
        return NULL;
    struct mail_peer *peer = calloc(1, sizeof(*peer));
    if (!peer || !(peer->url = strdup(url))) {
        free(peer);
        return NULL;
    }
    peer->net = net;
    peer->waiting_end = &peer->waiting;
    peer->next = net->peers;
    net->peers = peer;
    return peer;
}

void mail_call_start(struct net *net, struct net_call *call)
{
    struct mail_peer *peer = peer_of(net, call->url);
    if (!peer)
        finish(call, RETRY, 0, false, "more mail servers at once than can be kept");
    else
        wait_in_line(peer, call);
}

/* ---- the pump */

/* Ends what is over its time; returns when to look again. */
static int64_t watch_time(struct mail_peer *peer, int64_t now_us)
{
    int64_t next_us = INT64_MAX;
    for (struct net_call **at = &peer->waiting; *at;) {
        struct net_call *call = *at;
        if (now_us < call->deadline_us) {
            next_us = call->deadline_us < next_us ? call->deadline_us : next_us;
            at = &call->next;
            continue;
        }
        *at = call->next;
        if (!*at)
            peer->waiting_end = at;
        finish(call, OUTAGE, 0, false, "no connection to the mail server became free in time");
    }
    for (struct mail_connection *connection = peer->connections; connection; connection = connection->next) {
        if (connection->dead || connection->step == STEP_CONNECT)
            continue; /* libcurl watches over connecting */
        int64_t until_us = connection->call ? connection->call->deadline_us
                                            : connection->idle_since_us + NET_MAIL_IDLE_MS * INT64_C(1000);
        if (now_us < until_us) {
            next_us = until_us < next_us ? until_us : next_us;
        } else if (connection->call) {
            connection->heard = true; /* slow, not dead: no other connection is tried */
            lose(connection, "the mail server did not answer in time");
        } else {
            if (connection->step == STEP_IDLE)
                say(connection, STEP_IDLE, "QUIT", NULL);
            connection->dead = true;
        }
    }
    return next_us;
}

static bool add_wait(struct net *net, unsigned int *count, const struct mail_connection *connection)
{
    if (*count == net->wait_capacity) {
        size_t capacity = net->wait_capacity ? net->wait_capacity * 2 : 16;
        struct curl_waitfd *wait = realloc(net->wait, capacity * sizeof(*wait));
        if (!wait)
            return false; /* looked at again after NET_WAIT_MS_MAX */
        net->wait = wait;
        net->wait_capacity = capacity;
    }
    net->wait[(*count)++] = (struct curl_waitfd){
        .fd = connection->socket,
        .events = (short)(CURL_WAIT_POLLIN | (connection->blocked ? CURL_WAIT_POLLOUT : 0)),
    };
    return true;
}

int mail_calls_pump(struct net *net, unsigned int *ret_count)
{
    int64_t next_us = INT64_MAX;
    *ret_count = 0;
    for (struct mail_peer *peer = net->peers; peer; peer = peer->next) {
        for (struct mail_connection *connection = peer->connections; connection;
             connection = connection->next) {
            if (connection->dead || connection->step == STEP_CONNECT)
                continue;
            flush(connection);
            hear(connection);
        }
        int64_t peer_us = watch_time(peer, clock_monotonic_us());
        next_us = peer_us < next_us ? peer_us : next_us;
        bury_dead(peer);
        give_work(peer);
        /* give_work() may have found dead ones among the idle; their places are free now. */
        bury_dead(peer);
        if (peer->waiting && peer->connection_count < net->connections_max)
            next_us = 0;
        for (struct mail_connection *connection = peer->connections; connection;
             connection = connection->next)
            if (connection->step != STEP_CONNECT && !add_wait(net, ret_count, connection))
                break;
    }
    int64_t wait_ms = next_us == INT64_MAX ? NET_WAIT_MS_MAX : (next_us - clock_monotonic_us() + 999) / 1000;
    return wait_ms < 0 ? 0 : wait_ms > NET_WAIT_MS_MAX ? NET_WAIT_MS_MAX : (int)wait_ms;
}

void mail_calls_close(struct net *net)
{
    while (net->peers) {
        struct mail_peer *peer = net->peers;
        while (peer->waiting)
            finish(take_waiting(peer), OUTAGE, 0, false, "closing");
        while (peer->connections) {
            struct mail_connection *connection = peer->connections;
            peer->connections = connection->next;
            if (connection->step == STEP_IDLE)
                say(connection, STEP_IDLE, "QUIT", NULL);
            if (connection->step == STEP_CONNECT)
                curl_easy_setopt(connection->easy, CURLOPT_QUICK_EXIT, 1L);
            if (connection->call)
                finish(connection->call, OUTAGE, 0, all_sent(connection), "closing");
            connection_destroy(connection);
        }
        net->peers = peer->next;
        free(peer->url);
        free(peer);
    }
}

/* ---- taking a mail */

/* Lines end in CRLF and in nothing else: a bare CR or LF is how a second message is smuggled in. */
static bool lines_valid(struct text message)
{
    if (message.length < 2 || memcmp(message.at + message.length - 2, "\r\n", 2) != 0)
        return false;
    for (size_t i = 0; i < message.length; i++) {
        char c = message.at[i];
        if (c == '\0' || (c == '\n' && (i == 0 || message.at[i - 1] != '\r')) ||
            (c == '\r' && message.at[i + 1] != '\n'))
            return false;
    }
    return true;
}

/* As it goes over the wire: dots at the beginning of lines doubled, the final one added. */
static void stuff_dots(struct buffer *into, struct text message)
{
    size_t from = 0;
    for (size_t i = 0; i < message.length; i++)
        if (message.at[i] == '.' && (i == 0 || message.at[i - 1] == '\n')) {
            buffer_add(into, message.at + from, i - from);
            buffer_add_char(into, '.');
            from = i;
        }
    buffer_add(into, message.at + from, message.length - from);
    buffer_add(into, ".\r\n", 3);
}

enum outcome net_mail(struct net *net, const struct net_mail *mail, net_done_fn *done, void *owner,
                      struct error *error)
{
    assert(mail->url && done);
    if (!net_address_valid(mail->from) || !net_address_valid(mail->to))
        return error_reject(error, "address", "not an e-mail address: %.*s",
                            TEXT_ARG(net_address_valid(mail->from) ? mail->to : mail->from));
    if (mail->message.length > NET_MESSAGE_BYTES_MAX || !lines_valid(mail->message))
        return error_reject(error, "message",
                            "a mail of %zu bytes is too large, or has lines that do not end in CRLF",
                            mail->message.length);
    struct net_call *call = calloc(1, sizeof(*call));
    if (call) {
        call->is_mail = true;
        call->done = done;
        call->owner = owner;
        call->timeout_ms = mail->timeout_ms > 0 ? mail->timeout_ms : 1;
        call->url = strdup(mail->url);
        call->from = strndup(mail->from.at, mail->from.length);
        call->to = strndup(mail->to.at, mail->to.length);
        call->body = buffer_of(mail->message.length * 2 + 8);
        stuff_dots(&call->body, mail->message);
    }
    if (!call || !call->url || !call->from || !call->to || call->body.failed) {
        net_call_destroy(call);
        return error_retry(error, "memory", "out of memory");
    }
    enum outcome outcome = net_submit(net, call, error);
    if (outcome != OK)
        net_call_destroy(call);
    return outcome;
}
