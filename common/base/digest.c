#include "base/digest.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <pthread.h>

/* Fetched once: EVP_sha256() would look the algorithm up by name at each use, which costs more than a short
 * hash. */
static pthread_once_t sha256_once = PTHREAD_ONCE_INIT;
static EVP_MD *sha256;

static void sha256_fetch(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
}

void digest_sha256(struct text text, uint8_t ret[DIGEST_BYTES])
{
    pthread_once(&sha256_once, sha256_fetch);
    /* Fails only when out of memory or when the library has no SHA-256: neither can be gone on from. */
    int done = sha256 && EVP_Digest(text.length ? text.at : "", text.length, ret, NULL, sha256, NULL);
    assert(done == 1);
}

void digest_hmac_sha256(struct text secret, struct text text, uint8_t ret[DIGEST_BYTES])
{
    assert(secret.length <= INT_MAX);
    const unsigned char *done =
        HMAC(EVP_sha256(), secret.length ? secret.at : "", (int)secret.length,
             (const unsigned char *)(text.length ? text.at : ""), text.length, ret, NULL);
    assert(done);
}

bool digest_equal(const void *a, const void *b, size_t bytes)
{
    return bytes == 0 || CRYPTO_memcmp(a, b, bytes) == 0;
}

void digest_to_hex(const void *bytes, size_t count, char *into)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *at = bytes;
    for (size_t i = 0; i < count; i++) {
        into[2 * i] = digits[at[i] >> 4];
        into[2 * i + 1] = digits[at[i] & 15];
    }
}

/* Digits of an id are random: a processor guesses every other branch on them wrong. Value + 1; 0: no digit.
 */
static const uint8_t hex_values[256] = {
    ['0'] = 1,  ['1'] = 2,  ['2'] = 3,  ['3'] = 4,  ['4'] = 5,  ['5'] = 6,  ['6'] = 7,  ['7'] = 8,
    ['8'] = 9,  ['9'] = 10, ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16,
    ['A'] = 11, ['B'] = 12, ['C'] = 13, ['D'] = 14, ['E'] = 15, ['F'] = 16,
};

bool digest_from_hex(struct text hex, void *into, size_t bytes)
{
    if (hex.length != bytes * 2)
        return false;
    uint8_t *at = into;
    for (size_t i = 0; i < bytes; i++) {
        int high = hex_values[(uint8_t)hex.at[2 * i]], low = hex_values[(uint8_t)hex.at[2 * i + 1]];
        if (high == 0 || low == 0)
            return false;
        at[i] = (uint8_t)((high - 1) << 4 | (low - 1));
    }
    return true;
}

void digest_to_base64(struct buffer *into, const void *bytes, size_t count)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *at = bytes;
    char *out = count == 0 ? NULL : buffer_room(into, (count + 2) / 3 * 4);
    if (!out)
        return;
    size_t length = 0;
    for (size_t i = 0; i < count; i += 3) {
        size_t left = count - i;
        uint32_t three = (uint32_t)at[i] << 16;
        three |= left > 1 ? (uint32_t)at[i + 1] << 8 : 0;
        three |= left > 2 ? (uint32_t)at[i + 2] : 0;
        out[length++] = digits[three >> 18];
        out[length++] = digits[three >> 12 & 63];
        out[length++] = left > 1 ? digits[three >> 6 & 63] : '=';
        out[length++] = left > 2 ? digits[three & 63] : '=';
    }
    into->length += length;
}

/* Cuts the next "name=value" off the header's front. */
static bool next_pair(struct text *rest, struct text *ret_name, struct text *ret_value)
{
    if (rest->length == 0)
        return false;
    const char *comma = memchr(rest->at, ',', rest->length);
    size_t length = comma ? (size_t)(comma - rest->at) : rest->length;
    struct text pair = text_trim((struct text){rest->at, length});
    size_t step = comma ? length + 1 : length;
    rest->at += step;
    rest->length -= step;

    const char *equals = pair.length ? memchr(pair.at, '=', pair.length) : NULL;
    size_t name_length = equals ? (size_t)(equals - pair.at) : pair.length;
    *ret_name = (struct text){pair.at, name_length};
    *ret_value = equals ? (struct text){equals + 1, pair.length - name_length - 1} : (struct text){NULL, 0};
    return true;
}

static void hmac_two(struct text secret, struct text a, struct text b, uint8_t ret[DIGEST_BYTES])
{
    /* "t.body" without a copy of the body: HMAC written out, H(K^opad, H(K^ipad, t . body)). */
    enum { BLOCK_BYTES = 64 };
    uint8_t key[BLOCK_BYTES] = {0}, pad[BLOCK_BYTES], inner[DIGEST_BYTES];
    if (secret.length > BLOCK_BYTES)
        digest_sha256(secret, key);
    else if (secret.length)
        memcpy(key, secret.at, secret.length);

    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool done = context != NULL;
    for (size_t i = 0; i < BLOCK_BYTES; i++)
        pad[i] = key[i] ^ 0x36;
    done = done && EVP_DigestInit_ex(context, EVP_sha256(), NULL) &&
           EVP_DigestUpdate(context, pad, BLOCK_BYTES) &&
           (a.length == 0 || EVP_DigestUpdate(context, a.at, a.length)) &&
           EVP_DigestUpdate(context, ".", 1) &&
           (b.length == 0 || EVP_DigestUpdate(context, b.at, b.length)) &&
           EVP_DigestFinal_ex(context, inner, NULL);
    for (size_t i = 0; i < BLOCK_BYTES; i++)
        pad[i] = key[i] ^ 0x5c;
    done = done && EVP_DigestInit_ex(context, EVP_sha256(), NULL) &&
           EVP_DigestUpdate(context, pad, BLOCK_BYTES) && EVP_DigestUpdate(context, inner, DIGEST_BYTES) &&
           EVP_DigestFinal_ex(context, ret, NULL);
    EVP_MD_CTX_free(context);
    OPENSSL_cleanse(key, sizeof(key));
    OPENSSL_cleanse(pad, sizeof(pad));
    assert(done);
}

bool digest_signature_valid(struct text secret, struct text header, struct text body, int64_t now_s)
{
    struct text rest = header, name, value, time = {NULL, 0};
    while (next_pair(&rest, &name, &value)) {
        if (!text_is(name, "t"))
            continue;
        if (time.at)
            return false; /* two times: which one was signed is not ours to choose */
        time = value;
    }
    int64_t time_s, age_s;
    if (!text_to_int64(time, &time_s) || __builtin_sub_overflow(now_s, time_s, &age_s) ||
        age_s > DIGEST_SIGNATURE_AGE_S || age_s < -DIGEST_SIGNATURE_AGE_S)
        return false;

    uint8_t wanted[DIGEST_BYTES], given[DIGEST_BYTES];
    hmac_two(secret, time, body, wanted);
    bool valid = false;
    for (rest = header; next_pair(&rest, &name, &value);)
        if (text_is(name, "v1") && digest_from_hex(value, given, sizeof(given)))
            valid |= digest_equal(wanted, given, sizeof(given));
    return valid;
}
