#include "service/client.h"

#include <arpa/inet.h>
#include <netinet/in.h>

enum { V4_OFFSET = 12, V4_BITS = 96, ALL_BITS = 128 };

static struct client_address of_v4(const void *four)
{
    struct client_address address = {.bytes = {[10] = 0xff, [11] = 0xff}};
    memcpy(address.bytes + V4_OFFSET, four, 4);
    return address;
}

static bool is_v4(const struct client_address *address)
{
    const struct client_address v4 = of_v4("\0\0\0");
    return memcmp(address->bytes, v4.bytes, V4_OFFSET) == 0;
}

struct client_address client_address_of(const struct sockaddr *address)
{
    struct client_address found = {{0}};
    if (address && address->sa_family == AF_INET) {
        found = of_v4(&((const struct sockaddr_in *)(const void *)address)->sin_addr);
    } else if (address && address->sa_family == AF_INET6) {
        memcpy(found.bytes, &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr,
               sizeof(found.bytes));
    }
    return found;
}

/* The address alone; *ret_v4 is told because a network's bits are counted in its own family. */
static bool plain_parse(struct text text, struct client_address *ret, bool *ret_v4)
{
    char bytes[CLIENT_TEXT_BYTES_MAX];
    struct in_addr v4;
    if (text.length == 0 || text.length >= sizeof(bytes) || memchr(text.at, '\0', text.length))
        return false;
    memcpy(bytes, text.at, text.length);
    bytes[text.length] = '\0';
    *ret_v4 = inet_pton(AF_INET, bytes, &v4) == 1;
    if (*ret_v4)
        *ret = of_v4(&v4);
    return *ret_v4 || inet_pton(AF_INET6, bytes, ret->bytes) == 1;
}

static bool is_number(struct text text, int64_t max, int64_t *ret)
{
    for (size_t i = 0; i < text.length; i++)
        if (text.at[i] < '0' || text.at[i] > '9')
            return false;
    return text.length > 0 && text_to_int64(text, ret) && *ret <= max;
}

/* What is behind the last c, which is taken off with it; false where there is none. */
static bool cut_behind(struct text *text, char c, struct text *ret)
{
    const char *at = text->length ? memrchr(text->at, c, text->length) : NULL;
    if (!at)
        return false;
    *ret = (struct text){at + 1, text->length - (size_t)(at + 1 - text->at)};
    text->length = (size_t)(at - text->at);
    return true;
}

bool client_address_parse(struct text text, struct client_address *ret)
{
    enum { PORT_MAX = 65535 };
    int64_t port;
    bool v4;
    text = text_trim(text);
    struct text whole = text, behind;
    if (text.length && text.at[0] == '[') {
        if (!cut_behind(&text, ']', &behind))
            return false;
        text = (struct text){text.at + 1, text.length - 1};
        bool port_follows = behind.length && behind.at[0] == ':' &&
                            is_number((struct text){behind.at + 1, behind.length - 1}, PORT_MAX, &port);
        return (behind.length == 0 || port_follows) && plain_parse(text, ret, &v4) && !v4;
    }
    if (plain_parse(text, ret, &v4))
        return true;
    text = whole; /* with a port, which only IPv4 bears without brackets */
    return cut_behind(&text, ':', &behind) && is_number(behind, PORT_MAX, &port) &&
           plain_parse(text, ret, &v4) && v4;
}

const char *client_address_print(const struct client_address *address, char into[CLIENT_TEXT_BYTES_MAX])
{
    const char *printed = is_v4(address)
                              ? inet_ntop(AF_INET, address->bytes + V4_OFFSET, into, CLIENT_TEXT_BYTES_MAX)
                              : inet_ntop(AF_INET6, address->bytes, into, CLIENT_TEXT_BYTES_MAX);
    return printed ? printed : "";
}

static bool network_parse(struct text text, struct client_network *ret)
{
    struct text bits_text;
    int64_t bits = ALL_BITS;
    bool v4, has_bits = cut_behind(&text, '/', &bits_text);
    if (!plain_parse(text, &ret->address, &v4))
        return false;
    if (has_bits && !is_number(bits_text, v4 ? ALL_BITS - V4_BITS : ALL_BITS, &bits))
        return false;
    ret->bits = (int)bits + (has_bits && v4 ? V4_BITS : 0);
    return true;
}

bool client_networks_parse(const char *list, struct client_networks *ret, struct text *ret_bad)
{
    ret->count = 0;
    for (const char *at = list ? list : ""; *at;) {
        size_t length = strcspn(at, ",");
        struct text part = text_trim((struct text){at, length});
        at += length + (at[length] == ',');
        if (ret->count == CLIENT_NETWORKS_MAX || !network_parse(part, &ret->of[ret->count])) {
            *ret_bad = part;
            return false;
        }
        ret->count++;
    }
    return true;
}

static bool is_trusted(const struct client_networks *trusted, const struct client_address *address)
{
    for (size_t i = 0; i < trusted->count; i++) {
        const struct client_network *network = &trusted->of[i];
        size_t bytes = (size_t)network->bits / 8;
        unsigned rest = (unsigned)network->bits % 8, mask = 0xffU << (8 - rest) & 0xffU;
        if (memcmp(network->address.bytes, address->bytes, bytes) == 0 &&
            (rest == 0 || ((network->address.bytes[bytes] ^ address->bytes[bytes]) & mask) == 0))
            return true;
    }
    return false;
}

struct client_address client_behind(const struct client_networks *trusted, struct client_address peer,
                                    const struct header *headers, size_t header_count)
{
    struct client_address client = peer;
    /* Several headers are one list, in their order (RFC 9110 5.3). */
    for (size_t i = header_count; i-- > 0 && trusted->count;) {
        struct text rest = headers[i].value, element;
        if (!text_is(headers[i].name, "x-forwarded-for"))
            continue;
        for (bool more = true; more;) {
            more = cut_behind(&rest, ',', &element);
            if (!is_trusted(trusted, &client) || !client_address_parse(more ? element : rest, &peer))
                return client;
            client = peer;
        }
    }
    return client;
}
