#include "service/bearer.h"

#include <assert.h>

struct bearer_token bearer_token_of(const char *text)
{
    struct bearer_token token = {.given = text && text[0]};
    if (token.given)
        digest_sha256(text_of(text), token.digest);
    return token;
}

/* What stands behind "Bearer ", whose case does not count (RFC 9110 11.1). */
static bool credentials(struct text header, struct text *ret)
{
    static const struct text scheme = TEXT_INIT("bearer ");
    if (header.length < scheme.length || !text_equal_nocase((struct text){header.at, scheme.length}, scheme))
        return false;
    *ret = (struct text){header.at + scheme.length, header.length - scheme.length};
    while (ret->length && ret->at[0] == ' ')
        *ret = (struct text){ret->at + 1, ret->length - 1};
    return ret->length > 0;
}

enum bearer_shown bearer_look(const struct bearer_token *token, const struct request *request)
{
    struct text shown;
    uint8_t digest[DIGEST_BYTES];
    assert(token->given);
    if (!credentials(request_header(request, "authorization"), &shown))
        return BEARER_MISSING;
    /* Digests are of one length, whatever was sent. */
    digest_sha256(shown, digest);
    return digest_equal(digest, token->digest, sizeof(digest)) ? BEARER_RIGHT : BEARER_WRONG;
}
