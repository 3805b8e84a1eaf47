#include "net/net.h"

#include <arpa/inet.h>

enum { ADDRESS_BYTES_MAX = 254, LOCAL_PART_BYTES_MAX = 64, LABEL_BYTES_MAX = 63 };

static bool is_letter_or_digit(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static bool is_atext(char c)
{
    return is_letter_or_digit(c) || (c && strchr("!#$%&'*+-/=?^_`{|}~", c));
}

/* Atoms with single dots between. */
static bool dot_string_valid(struct text local)
{
    bool after_dot = true;
    for (size_t i = 0; i < local.length; i++) {
        bool dot = local.at[i] == '.';
        if (dot ? after_dot : !is_atext(local.at[i]))
            return false;
        after_dot = dot;
    }
    return !after_dot;
}

/* The length of the quoted string at the beginning, 0 where it is none. */
static size_t quoted_string_length(struct text address)
{
    for (size_t i = 1; i < address.length; i++) {
        char c = address.at[i];
        if (c == '"')
            return i + 1;
        if (c == '\\' && ++i == address.length)
            return 0;
        if (address.at[i] < 0x20 || address.at[i] > 0x7e)
            return 0;
    }
    return 0;
}

static bool domain_valid(struct text domain)
{
    size_t label_bytes = 0;
    for (size_t i = 0; i < domain.length; i++) {
        char c = domain.at[i];
        if (c == '.') {
            if (label_bytes == 0 || domain.at[i - 1] == '-')
                return false;
            label_bytes = 0;
        } else if (is_letter_or_digit(c) || (c == '-' && label_bytes)) {
            if (++label_bytes > LABEL_BYTES_MAX)
                return false;
        } else {
            return false;
        }
    }
    return label_bytes && domain.at[domain.length - 1] != '-';
}

/* [192.0.2.1] or [IPv6:2001:db8::1]; no other tag has been standardised. */
static bool literal_valid(struct text literal)
{
    char inner[64];
    if (literal.length < 3 || literal.length - 2 >= sizeof(inner) || literal.at[literal.length - 1] != ']')
        return false;
    size_t length = literal.length - 2;
    memcpy(inner, literal.at + 1, length);
    inner[length] = '\0';
    struct in6_addr scratch;
    static const struct text tag = TEXT_INIT("IPv6:");
    if (length > tag.length && text_equal_nocase((struct text){inner, tag.length}, tag))
        return strlen(inner) == length && inet_pton(AF_INET6, inner + tag.length, &scratch) == 1;
    return strlen(inner) == length && inet_pton(AF_INET, inner, &scratch) == 1;
}

bool net_address_valid(struct text address)
{
    if (address.length == 0 || address.length > ADDRESS_BYTES_MAX)
        return false;
    size_t local_bytes;
    if (address.at[0] == '"') {
        local_bytes = quoted_string_length(address);
    } else {
        const char *at = memchr(address.at, '@', address.length);
        local_bytes = at ? (size_t)(at - address.at) : 0;
        if (!dot_string_valid((struct text){address.at, local_bytes}))
            return false;
    }
    if (local_bytes == 0 || local_bytes > LOCAL_PART_BYTES_MAX || local_bytes == address.length ||
        address.at[local_bytes] != '@')
        return false;
    struct text domain = {address.at + local_bytes + 1, address.length - local_bytes - 1};
    return domain.length && (domain.at[0] == '[' ? literal_valid(domain) : domain_valid(domain));
}
