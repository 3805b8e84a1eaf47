/*
 * client: who a request is from: the address at the other end of its connection or, where that is a proxy
 * that is trusted, the one that it names. Pure, any thread.
 */
#ifndef SERVICE_CLIENT_H
#define SERVICE_CLIENT_H

#include "wire/event.h"

#include <sys/socket.h>

enum { CLIENT_TEXT_BYTES_MAX = 48, CLIENT_NETWORKS_MAX = 64 };

/* IPv4 as ::ffff:a.b.c.d, by whichever family it came; all zeros: not known. */
struct client_address {
    uint8_t bytes[16];
};
struct client_address client_address_of(const struct sockaddr *address); /* may be NULL */
/* "192.0.2.1", "192.0.2.1:443", "2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:443", with blanks around.
 * False: nothing of that kind. */
bool client_address_parse(struct text text, struct client_address *ret);
/* The address without a port; returns into. */
const char *client_address_print(const struct client_address *address, char into[CLIENT_TEXT_BYTES_MAX]);

struct client_networks {
    struct client_network {
        struct client_address address;
        int bits; /* of 128 */
    } of[CLIENT_NETWORKS_MAX];
    size_t count;
};
/* Addresses and networks ("10.0.0.0/8") with commas between; NULL or empty: none. False: *ret_bad is the part
 * that is neither, or one too many. */
bool client_networks_parse(const char *list, struct client_networks *ret, struct text *ret_bad);

/*
 * The client behind peer. X-Forwarded-For is believed only from trusted addresses, from its end on: each
 * trusted one vouches for the address before it, and the first one that is not trusted is the client, so
 * that what a client writes into the header itself counts for nothing. Where an element cannot be read the
 * last proxy that could is the client; where all are trusted, the first address of all.
 */
struct client_address client_behind(const struct client_networks *trusted, struct client_address peer,
                                    const struct header *headers, size_t header_count);

#endif
