#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "net/net.h"

#define A10 "aaaaaaaaaa"
#define A60 A10 A10 A10 A10 A10 A10

static const struct {
    struct text address;
    bool valid;
} addresses[] = {
    {TEXT_INIT("anna@example.org"), true},
    {TEXT_INIT("a@b"), true},
    {TEXT_INIT("anna.b-c_d+tag@mail.example.co.uk"), true},
    {TEXT_INIT("!#$%&'*+-/=?^_`{|}~@example.org"), true},
    {TEXT_INIT("\"anna b\"@example.org"), true},
    {TEXT_INIT("\"a@b\"@example.org"), true},
    {TEXT_INIT("\"a\\\"b\"@example.org"), true},
    {TEXT_INIT("\"\"@example.org"), true},
    {TEXT_INIT("anna@[192.0.2.1]"), true},
    {TEXT_INIT("anna@[IPv6:2001:db8::1]"), true},
    {TEXT_INIT("anna@[ipv6:::1]"), true},
    {TEXT_INIT("anna@xn--bcher-kva.example"), true},
    {TEXT_INIT("anna@3com.example"), true},
    {TEXT_INIT(A60 "aaaa@example.org"), true},
    {TEXT_INIT("anna@" A60 "aaa.org"), true},

    {TEXT_INIT(""), false},
    {TEXT_INIT("anna"), false},
    {TEXT_INIT("@example.org"), false},
    {TEXT_INIT("anna@"), false},
    {TEXT_INIT("a@b@c"), false},
    {TEXT_INIT(".anna@example.org"), false},
    {TEXT_INIT("anna.@example.org"), false},
    {TEXT_INIT("an..na@example.org"), false},
    {TEXT_INIT("an na@example.org"), false},
    {TEXT_INIT(" anna@example.org"), false},
    {TEXT_INIT("anna@example.org "), false},
    {TEXT_INIT("anna@example.org."), false},
    {TEXT_INIT("anna@.example.org"), false},
    {TEXT_INIT("anna@example..org"), false},
    {TEXT_INIT("anna@-example.org"), false},
    {TEXT_INIT("anna@example-.org"), false},
    {TEXT_INIT("anna@exam_ple.org"), false},
    {TEXT_INIT("Anna <anna@example.org>"), false},
    {TEXT_INIT("<anna@example.org>"), false},
    {TEXT_INIT("anna@example.org,bob@example.org"), false},
    {TEXT_INIT("anna@example.org\r\nRCPT TO:<eve@example.org>"), false},
    {TEXT_INIT("anna\r\n@example.org"), false},
    {TEXT_INIT("anna@example.org\n"), false},
    {TEXT_INIT("anna@example.org\0"), false},
    {TEXT_INIT("an\0na@example.org"), false},
    {TEXT_INIT("anna\t@example.org"), false},
    {TEXT_INIT("anna\x7f@example.org"), false},
    {TEXT_INIT("j\xc3\xb6rg@example.org"), false},
    {TEXT_INIT("anna@b\xc3\xbc"
               "cher.example"),
     false},
    {TEXT_INIT("\"anna@example.org"), false},
    {TEXT_INIT("\"anna\\"), false},
    {TEXT_INIT("\"an\r\nna\"@example.org"), false},
    {TEXT_INIT("\"anna\"x@example.org"), false},
    {TEXT_INIT("\""), false},
    {TEXT_INIT("\"\""), false},
    {TEXT_INIT("anna@[192.0.2.256]"), false},
    {TEXT_INIT("anna@[192.0.2.1"), false},
    {TEXT_INIT("anna@[]"), false},
    {TEXT_INIT("anna@[IPv6:]"), false},
    {TEXT_INIT("anna@[IPv6:2001:zz8::1]"), false},
    {TEXT_INIT("anna@[192.0.2.1\0x]"), false},
    {TEXT_INIT(A60 "aaaaa@example.org"), false},
    {TEXT_INIT("anna@" A60 "aaaa.org"), false},
    {TEXT_INIT("anna@" A60 "." A60 "." A60 "." A60 ".aaaaaa"), false},
};

static void table_is_followed(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++)
        if (net_address_valid(addresses[i].address) != addresses[i].valid)
            fail_msg("row %zu: %.*s", i, TEXT_ARG(addresses[i].address));
}

static void longest_address_has_254_bytes(void **state)
{
    (void)state;
    char address[256] = "a@";
    for (size_t i = 2; i < sizeof(address); i++)
        address[i] = i % 60 == 0 ? '.' : 'b';
    assert_true(net_address_valid((struct text){address, 254}));
    assert_false(net_address_valid((struct text){address, 255}));
}

static void no_byte_outside_printable_ascii_ever_passes(void **state)
{
    (void)state;
    static const char *const places[] = {"an?na@example.org", "\"an?na\"@example.org", "anna@exam?ple.org",
                                         "anna@[1.2.3.?]"};
    for (size_t place = 0; place < sizeof(places) / sizeof(places[0]); place++)
        for (int byte = 0; byte < 256; byte++) {
            if (byte >= 0x20 && byte < 0x7f)
                continue;
            char address[64];
            size_t length = strlen(places[place]);
            memcpy(address, places[place], length);
            *(char *)memchr(address, '?', length) = (char)byte;
            assert_false(net_address_valid((struct text){address, length}));
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_is_followed),
        cmocka_unit_test(longest_address_has_254_bytes),
        cmocka_unit_test(no_byte_outside_printable_ascii_ever_passes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
