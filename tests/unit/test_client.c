/* client: addresses, networks, and which address counts behind proxies. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "service/client.h"

#include <netinet/in.h>

static void addresses_are_read_in_the_forms_that_proxies_write(void **state)
{
    (void)state;
    static const struct {
        const char *text, *address; /* NULL: none */
    } cases[] = {
        {"192.0.2.1", "192.0.2.1"},
        {" \t192.0.2.1 ", "192.0.2.1"},
        {"192.0.2.1:443", "192.0.2.1"},
        {"2001:db8::1", "2001:db8::1"},
        {"2001:DB8:0:0::1", "2001:db8::1"},
        {"[2001:db8::1]", "2001:db8::1"},
        {"[2001:db8::1]:443", "2001:db8::1"},
        {"::ffff:192.0.2.1", "192.0.2.1"},
        {"[::ffff:192.0.2.1]:80", "192.0.2.1"},
        {"::1", "::1"},
        {"", NULL},
        {" ", NULL},
        {"unknown", NULL},
        {"_hidden", NULL},
        {"192.0.2", NULL},
        {"192.0.2.256", NULL},
        {"192.0.2.1:", NULL},
        {"192.0.2.1:x", NULL},
        {"192.0.2.1:-1", NULL},
        {"192.0.2.1:65536", NULL},
        {"192.0.2.1 192.0.2.2", NULL},
        {"[192.0.2.1]", NULL},
        {"[2001:db8::1", NULL},
        {"[2001:db8::1]443", NULL},
        {"[2001:db8::1]:", NULL},
        {"[]", NULL},
        {"[", NULL},
        {"fe80::1%eth0", NULL},
        {"1:2:3:4:5:6:7:8:9", NULL},
        {"host.example", NULL},
        {"2001:db8::1111:2222:3333:4444:5555:6666:7777:8888:9999", NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct client_address address;
        char text[CLIENT_TEXT_BYTES_MAX];
        bool read = client_address_parse(text_of(cases[i].text), &address);
        if (read != (cases[i].address != NULL))
            fail_msg("\"%s\" was %s", cases[i].text, read ? "read" : "refused");
        if (read)
            assert_string_equal(client_address_print(&address, text), cases[i].address);
    }
}

static void a_connection_has_one_address_in_both_families(void **state)
{
    (void)state;
    char text[CLIENT_TEXT_BYTES_MAX];
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    v4.sin_addr.s_addr = htonl(0xC0000201);
    struct client_address address = client_address_of((const struct sockaddr *)&v4), mapped;
    assert_string_equal(client_address_print(&address, text), "192.0.2.1");
    v6.sin6_addr.s6_addr[10] = v6.sin6_addr.s6_addr[11] = 0xff;
    memcpy(&v6.sin6_addr.s6_addr[12], &v4.sin_addr, 4);
    mapped = client_address_of((const struct sockaddr *)&v6);
    assert_memory_equal(&mapped, &address, sizeof(address));
    address = client_address_of(NULL);
    assert_string_equal(client_address_print(&address, text), "::");
}

static void lists_of_networks_are_read_or_the_bad_part_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *list;
        size_t count;
        const char *bad; /* NULL: none */
    } cases[] = {
        {NULL, 0, NULL},
        {"", 0, NULL},
        {"127.0.0.1", 1, NULL},
        {"10.0.0.0/8, 192.168.0.0/16,::1 ,fd00::/8", 4, NULL},
        {"0.0.0.0/0", 1, NULL},
        {"10.0.0.0/33", 0, "10.0.0.0/33"},
        {"::/129", 0, "::/129"},
        {"127.0.0.1, ,::1", 0, ""},
        {"127.0.0.1,10.0.0.0/", 0, "10.0.0.0/"},
        {"127.0.0.1,10.0.0.0/x", 0, "10.0.0.0/x"},
        {"127.0.0.1:80", 0, "127.0.0.1:80"},
        {"[::1]", 0, "[::1]"},
        {"proxy.example", 0, "proxy.example"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct client_networks networks;
        struct text bad = TEXT("");
        bool read = client_networks_parse(cases[i].list, &networks, &bad);
        assert_int_equal(read, cases[i].bad == NULL);
        if (read)
            assert_int_equal(networks.count, cases[i].count);
        else
            assert_true(text_is(bad, cases[i].bad));
    }
    struct buffer many = buffer_of(4096);
    struct client_networks networks;
    struct text bad;
    for (int i = 0; i < CLIENT_NETWORKS_MAX; i++)
        buffer_print(&many, "%s10.0.0.%d", i ? "," : "", i);
    buffer_add_char(&many, '\0');
    assert_true(client_networks_parse(many.at, &networks, &bad));
    many.length--;
    buffer_add_string(&many, ",10.1.1.1");
    buffer_add_char(&many, '\0');
    assert_false(client_networks_parse(many.at, &networks, &bad));
    assert_true(text_is(bad, "10.1.1.1"));
    buffer_free(&many);
}

static void the_last_address_that_is_not_trusted_is_the_client(void **state)
{
    (void)state;
    static const struct {
        const char *trusted, *peer, *first, *second, *client; /* the two headers, NULL: none */
    } cases[] = {
        /* nobody is trusted: what stands there is the client's own say */
        {NULL, "192.0.2.9", "198.51.100.7", NULL, "192.0.2.9"},
        {"10.0.0.0/8", "192.0.2.9", "198.51.100.7", NULL, "192.0.2.9"},
        {"10.0.0.0/8", "11.0.0.1", "198.51.100.7", NULL, "11.0.0.1"},
        /* one proxy */
        {"10.0.0.0/8", "10.1.2.3", "198.51.100.7", NULL, "198.51.100.7"},
        {"10.0.0.0/8", "10.1.2.3", "198.51.100.7:5050", NULL, "198.51.100.7"},
        {"10.0.0.0/8", "10.1.2.3", "2001:db8::7", NULL, "2001:db8::7"},
        {"10.1.2.3", "10.1.2.3", "198.51.100.7", NULL, "198.51.100.7"},
        {"10.1.2.3", "10.1.2.4", "198.51.100.7", NULL, "10.1.2.4"},
        {"10.0.0.0/9", "10.128.0.1", "198.51.100.7", NULL, "10.128.0.1"},
        {"10.0.0.0/9", "10.127.0.1", "198.51.100.7", NULL, "198.51.100.7"},
        {"fd00::/8", "fd12::1", "198.51.100.7", NULL, "198.51.100.7"},
        {"::/0", "192.0.2.9", "198.51.100.7", NULL, "198.51.100.7"},
        {"0.0.0.0/0", "fd12::1", "198.51.100.7", NULL, "fd12::1"},
        /* no header, an empty one */
        {"10.0.0.0/8", "10.1.2.3", NULL, NULL, "10.1.2.3"},
        {"10.0.0.0/8", "10.1.2.3", "", NULL, "10.1.2.3"},
        /* what the client wrote itself stands to the left */
        {"10.0.0.0/8", "10.1.2.3", "203.0.113.5, 198.51.100.7", NULL, "198.51.100.7"},
        {"10.0.0.0/8", "10.1.2.3", "10.9.9.9, 198.51.100.7", NULL, "198.51.100.7"},
        /* two proxies, in one header or in two */
        {"10.0.0.0/8", "10.1.2.3", "198.51.100.7, 10.4.5.6", NULL, "198.51.100.7"},
        {"10.0.0.0/8", "10.1.2.3", "198.51.100.7", "10.4.5.6", "198.51.100.7"},
        {"10.0.0.0/8", "10.1.2.3", "203.0.113.5", "198.51.100.7", "198.51.100.7"},
        {"10.0.0.0/8,192.0.2.1", "10.1.2.3", "198.51.100.7,192.0.2.1", NULL, "198.51.100.7"},
        /* all are trusted: the one that is furthest away */
        {"10.0.0.0/8", "10.1.2.3", "10.7.7.7, 10.4.5.6", NULL, "10.7.7.7"},
        /* what cannot be read ends it */
        {"10.0.0.0/8", "10.1.2.3", "198.51.100.7, unknown", NULL, "10.1.2.3"},
        {"10.0.0.0/8", "10.1.2.3", "198.51.100.7, x, 10.4.5.6", NULL, "10.4.5.6"},
        {"10.0.0.0/8", "10.1.2.3", "198.51.100.7,", NULL, "10.1.2.3"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct client_networks trusted;
        struct client_address peer;
        struct text bad;
        char text[CLIENT_TEXT_BYTES_MAX];
        struct header headers[4] = {{TEXT("host"), TEXT("weir")}};
        size_t count = 1;
        if (cases[i].first)
            headers[count++] = (struct header){TEXT("x-forwarded-for"), text_of(cases[i].first)};
        headers[count++] = (struct header){TEXT("forwarded"), TEXT("for=203.0.113.99")};
        if (cases[i].second)
            headers[count++] = (struct header){TEXT("x-forwarded-for"), text_of(cases[i].second)};
        assert_true(client_networks_parse(cases[i].trusted, &trusted, &bad));
        assert_true(client_address_parse(text_of(cases[i].peer), &peer));
        const struct client_address client = client_behind(&trusted, peer, headers, count);
        if (strcmp(client_address_print(&client, text), cases[i].client) != 0)
            fail_msg("case %zu: %s instead of %s", i, text, cases[i].client);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_are_read_in_the_forms_that_proxies_write),
        cmocka_unit_test(a_connection_has_one_address_in_both_families),
        cmocka_unit_test(lists_of_networks_are_read_or_the_bad_part_is_named),
        cmocka_unit_test(the_last_address_that_is_not_trusted_is_the_client),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
