/*
 * call: what net.c, http_call.c and mail_call.c share. Inside net/ only; all on the net's thread, except
 * net_submit().
 */
#ifndef NET_CALL_H
#define NET_CALL_H

#include "net/net.h"

#include <curl/curl.h>

enum {
    NET_HEADER_BYTES_MAX = 64 << 10,      /* of an answer's headers together                            */
    NET_RETRY_AFTER_MS_MAX = 3600 * 1000, /* a server that asks for more is asked again after this      */
    NET_MAIL_PEERS_MAX = 16,              /* mail servers (URLs) at once                                */
    NET_MAIL_IDLE_MS = 60 * 1000,         /* a mail connection without work is closed after this        */
    NET_MAILS_A_CONNECTION_MAX = 100,     /* then a new one: servers that count answer 421 sooner or later */
    NET_REPLY_LINE_BYTES_MAX = 2048,      /* of an SMTP reply (RFC 5321: 512)                           */
    NET_REPLY_LINES_MAX = 128,            /* of one reply                                               */
    NET_MESSAGE_BYTES_MAX = 10 << 20,
    ADDRESS_COMMAND_BYTES_MAX = 512, /* MAIL FROM:<…> */
    NET_WAIT_MS_MAX = 1000,
};

/* What a curl handle of ours belongs to: CURLOPT_PRIVATE of each points at one. */
struct transfer {
    void (*finished)(struct transfer *transfer, CURLcode code);
};

struct net_call {
    struct net_call *next;
    struct net *net;
    net_done_fn *done;
    void *owner;
    bool is_mail;
    int timeout_ms;
    int64_t begun_us, deadline_us;
    char *url;
    struct buffer
        body; /* what is sent: the HTTP body, or the message with its dots doubled and the last dot */

    /* HTTP */
    struct transfer transfer; /* container_of: see http_call.c */
    CURL *easy;
    struct curl_slist *headers;
    char *method;
    char *ca_file; /* or NULL: the net's */
    struct buffer answer;
    size_t header_bytes;
    bool answer_too_long;
    struct net_call *previous_flying, *next_flying;

    /* mail */
    char *from, *to;
    bool replaced; /* it was on a kept connection that turned out to be dead */
    char error_text[CURL_ERROR_SIZE];
};

struct mail_peer;
struct net {
    CURLM *multi;
    int connections_max;
    const char *ca_file; /* SSL_CERT_FILE, or NULL: libcurl's own */
    char *no_proxy;

    /* the thread's */
    struct net_call *flying; /* HTTP calls under way */
    struct mail_peer *peers;
    struct curl_waitfd *wait;
    size_t wait_capacity;
};

/* A handle with what all of ours have in common. NULL when out of memory. */
CURL *net_easy_new(struct net *net, struct transfer *transfer, const char *url, int timeout_ms,
                   char *error_text);
/* Hands the call to the net's thread. RETRY past NET_CALLS_MAX; the call stays the caller's then. */
MUST_CHECK enum outcome net_submit(struct net *net, struct net_call *call, struct error *error);
/* Tells done() and frees the call. *result lacks the duration. */
void net_finish(struct net_call *call, struct net_result *result);
void net_call_destroy(struct net_call *call); /* accepts NULL */
/* One line for people: bytes that are not printable ASCII or UTF-8 become "?". */
void net_result_say(struct net_result *result, const char *format, ...) PRINTF_LIKE(2, 3);

void http_call_start(struct net *net, struct net_call *call);
void http_calls_close(struct net *net); /* ends those under way as OUTAGE */

void mail_call_start(struct net *net, struct net_call *call);
/* Sends and receives what can be, ends what is over its time. Fills net->wait with *ret_count sockets;
 * returns how long to wait. */
int mail_calls_pump(struct net *net, unsigned int *ret_count);
void mail_calls_close(struct net *net);

#endif
