#include "service/admin.h"

struct admin_token admin_token_of(const char *text)
{
    struct admin_token token = {.given = text && text[0]};
    if (token.given)
        digest_sha256(text_of(text), token.digest);
    return token;
}

/* What stands behind "Bearer ", whose case does not count (RFC 9110 11.1). */
static bool bearer(struct text header, struct text *ret)
{
    static const struct text scheme = TEXT_INIT("bearer ");
    if (header.length < scheme.length || !text_equal_nocase((struct text){header.at, scheme.length}, scheme))
        return false;
    *ret = (struct text){header.at + scheme.length, header.length - scheme.length};
    while (ret->length && ret->at[0] == ' ')
        *ret = (struct text){ret->at + 1, ret->length - 1};
    return ret->length > 0;
}

int admin_admit(const void *state, const struct request *request, const char **ret_detail)
{
    const struct admin_token *token = state;
    struct text shown;
    uint8_t digest[DIGEST_BYTES];
    if (!token->given) {
        *ret_detail = "this route needs ADMIN_TOKEN to be set";
        return 403;
    }
    if (!bearer(request_header(request, "authorization"), &shown)) {
        *ret_detail = "Authorization: Bearer and the ADMIN_TOKEN are wanted";
        return 401;
    }
    /* Digests are of one length, whatever was sent. */
    digest_sha256(shown, digest);
    if (digest_equal(digest, token->digest, sizeof(digest)))
        return 0;
    *ret_detail = "not the ADMIN_TOKEN";
    return 401;
}
