/*
 * digest: SHA-256, HMAC-SHA256, base64 and hex. The only file that includes OpenSSL. Any thread.
 */
#ifndef BASE_DIGEST_H
#define BASE_DIGEST_H

#include "base/text.h"

enum { DIGEST_BYTES = 32 };

void digest_sha256(struct text text, uint8_t ret[DIGEST_BYTES]);
void digest_hmac_sha256(struct text secret, struct text text, uint8_t ret[DIGEST_BYTES]);
/* In constant time for equal lengths. */
bool digest_equal(const void *a, const void *b, size_t bytes);
void digest_to_hex(const void *bytes, size_t count, char *into); /* 2 × count, lower case, no NUL */
bool digest_from_hex(struct text hex, void *into, size_t bytes);  /* exactly bytes of them */
void digest_to_base64(struct buffer *into, const void *bytes, size_t count);

/*
 * Weir-Signature: t=UNIX,v1=HEX[,v1=HEX…], HMAC-SHA256 of "t.body". True when one v1 fits and
 * |now - t| is at most DIGEST_SIGNATURE_AGE_S. Golden vectors in tests/unit/test_digest.c.
 */
enum { DIGEST_SIGNATURE_AGE_S = 300 };
bool digest_signature_valid(struct text secret, struct text header, struct text body, int64_t now_s);

#endif
