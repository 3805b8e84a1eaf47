#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/digest.h"

static void assert_hex(const uint8_t digest[DIGEST_BYTES], const char *expected)
{
    char hex[2 * DIGEST_BYTES];
    digest_to_hex(digest, DIGEST_BYTES, hex);
    assert_memory_equal(hex, expected, sizeof(hex));
}

static void sha256_gives_the_values_of_fips_180(void **state)
{
    (void)state;
    uint8_t digest[DIGEST_BYTES];
    digest_sha256(TEXT("abc"), digest);
    assert_hex(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    digest_sha256((struct text){NULL, 0}, digest);
    assert_hex(digest, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

static void hmac_gives_the_values_of_rfc_4231(void **state)
{
    (void)state;
    uint8_t digest[DIGEST_BYTES];
    digest_hmac_sha256(TEXT("Jefe"), TEXT("what do ya want for nothing?"), digest);
    assert_hex(digest, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    uint8_t key[131];
    memset(key, 0xaa, sizeof(key));
    digest_hmac_sha256((struct text){(const char *)key, sizeof(key)},
                       TEXT("Test Using Larger Than Block-Size Key - Hash Key First"), digest);
    assert_hex(digest, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    digest_hmac_sha256((struct text){NULL, 0}, (struct text){NULL, 0}, digest);
    assert_hex(digest, "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

static void base64_gives_the_values_of_rfc_4648(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"", ""},
        {"f", "Zg=="},
        {"fo", "Zm8="},
        {"foo", "Zm9v"},
        {"foob", "Zm9vYg=="},
        {"fooba", "Zm9vYmE="},
        {"foobar", "Zm9vYmFy"},
        {"\xff\xfe\xfd", "//79"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct buffer into = buffer_of(64);
        digest_to_base64(&into, cases[i][0], strlen(cases[i][0]));
        assert_true(text_is(buffer_text(&into), cases[i][1]));
        assert_false(into.failed);
        buffer_free(&into);
    }
    struct buffer small = buffer_of(7);
    digest_to_base64(&small, "foobar", 6);
    assert_true(small.failed);
    assert_int_equal(small.length, 0);
    buffer_free(&small);
}

static void hex_is_read_back_in_either_case_and_exactly(void **state)
{
    (void)state;
    uint8_t bytes[2] = {7, 7};
    assert_true(digest_from_hex(TEXT("a0Ff"), bytes, 2));
    assert_int_equal(bytes[0], 0xa0);
    assert_int_equal(bytes[1], 0xff);
    assert_false(digest_from_hex(TEXT("a0f"), bytes, 2));
    assert_false(digest_from_hex(TEXT("a0fff"), bytes, 2));
    assert_false(digest_from_hex(TEXT("a0fg"), bytes, 2));
    assert_false(digest_from_hex(TEXT(" a0f"), bytes, 2));
    assert_true(digest_equal("ab", "ab", 2));
    assert_false(digest_equal("ab", "ac", 2));
}

/* Of Python's hmac.new(b"whsec_test", b'1795264496.{"type":"payment.captured"}', "sha256"). */
#define GOLDEN "0d1affbf889414d9e6a7ccc4edd66b19e61261ce09e181b74aa57d477da6dd25"
#define ZEROS  "0000000000000000000000000000000000000000000000000000000000000000"
enum { SIGNED_AT_S = 1795264496 };

static bool valid(const char *header, int64_t now_s)
{
    return digest_signature_valid(TEXT("whsec_test"), text_of(header),
                                  TEXT("{\"type\":\"payment.captured\"}"), now_s);
}

static void signature_made_elsewhere_is_taken(void **state)
{
    (void)state;
    assert_true(valid("t=1795264496,v1=" GOLDEN, SIGNED_AT_S));
    assert_true(valid("v1=" GOLDEN ",t=1795264496", SIGNED_AT_S));
    assert_true(valid(" t=1795264496 , v0=x, v1=" GOLDEN " ", SIGNED_AT_S));
    /* while a secret is being changed, a sender signs with both */
    assert_true(valid("t=1795264496,v1=" ZEROS ",v1=" GOLDEN, SIGNED_AT_S));
    uint8_t key[100];
    memset(key, 'k', sizeof(key));
    assert_true(digest_signature_valid(
        (struct text){(const char *)key, sizeof(key)},
        TEXT("t=1795264496,v1=5c14150982757c3b50545df999d67f6c265b8bf4e83266815d5b8f7c11301510"),
        (struct text){NULL, 0}, SIGNED_AT_S));
}

static void signature_is_refused_once_it_is_too_old_or_too_new(void **state)
{
    (void)state;
    const char *header = "t=1795264496,v1=" GOLDEN;
    assert_true(valid(header, SIGNED_AT_S + DIGEST_SIGNATURE_AGE_S));
    assert_false(valid(header, SIGNED_AT_S + DIGEST_SIGNATURE_AGE_S + 1));
    assert_true(valid(header, SIGNED_AT_S - DIGEST_SIGNATURE_AGE_S));
    assert_false(valid(header, SIGNED_AT_S - DIGEST_SIGNATURE_AGE_S - 1));
    assert_false(valid("t=-9223372036854775808,v1=" GOLDEN, SIGNED_AT_S));
}

static void signature_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "",
        "t=1795264496",
        "v1=" GOLDEN,
        "t=1795264496,v1=",
        "t=1795264496,v1=" ZEROS,
        "t=1795264497,v1=" GOLDEN,
        "t=01795264496,v1=" GOLDEN,
        "t=1795264496,v0=" GOLDEN,
        "t=1795264496,v1=" GOLDEN "00",
        "t=1795264496,t=1795264496,v1=" GOLDEN,
        "t,v1=" GOLDEN,
        ",,,=,",
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_false(valid(cases[i], SIGNED_AT_S));
    assert_false(digest_signature_valid(TEXT("whsec_other"), TEXT("t=1795264496,v1=" GOLDEN),
                                        TEXT("{\"type\":\"payment.captured\"}"), SIGNED_AT_S));
    assert_false(digest_signature_valid(TEXT("whsec_test"), TEXT("t=1795264496,v1=" GOLDEN),
                                        TEXT("{\"type\":\"payment.captured\"} "), SIGNED_AT_S));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sha256_gives_the_values_of_fips_180),
        cmocka_unit_test(hmac_gives_the_values_of_rfc_4231),
        cmocka_unit_test(base64_gives_the_values_of_rfc_4648),
        cmocka_unit_test(hex_is_read_back_in_either_case_and_exactly),
        cmocka_unit_test(signature_made_elsewhere_is_taken),
        cmocka_unit_test(signature_is_refused_once_it_is_too_old_or_too_new),
        cmocka_unit_test(signature_that_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
