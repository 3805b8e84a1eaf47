#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "net/message.h"

#include <stdlib.h>

static const struct message plain = {
    .from_name = TEXT_INIT("Weir Shop"),
    .from = TEXT_INIT("shop@example.org"),
    .to = TEXT_INIT("anna@example.com"),
    .subject = TEXT_INIT("Your order"),
    .message_id = TEXT_INIT("<abc.order_received@example.org>"),
    .date_us = INT64_C(1795264496000000),
    .text = TEXT_INIT("Thank you.\n.\nBye = \n"),
    .html = TEXT_INIT("<p>Thank you.</p>\n"),
};

static char *written(const struct message *message)
{
    struct buffer into = buffer_of(8 << 20);
    struct error error;
    assert_int_equal(message_write(message, &into, &error), OK);
    buffer_add_char(&into, '\0');
    assert_false(into.failed);
    return into.at;
}

static void whole_message_is_as_expected(void **state)
{
    (void)state;
    char *message = written(&plain);
    assert_string_equal(message, "Date: Sat, 21 Nov 2026 12:34:56 +0000\r\n"
                                 "From: Weir Shop\r\n <shop@example.org>\r\n"
                                 "To: anna@example.com\r\n"
                                 "Subject: Your order\r\n"
                                 "Message-ID: <abc.order_received@example.org>\r\n"
                                 "Auto-Submitted: auto-generated\r\n"
                                 "MIME-Version: 1.0\r\n"
                                 "Content-Type: multipart/alternative; boundary=\"=_weir_\"\r\n"
                                 "\r\n"
                                 "--=_weir_\r\n"
                                 "Content-Type: text/plain; charset=utf-8\r\n"
                                 "Content-Transfer-Encoding: quoted-printable\r\n"
                                 "\r\n"
                                 "Thank you.\r\n=2E\r\nBye =3D=20\r\n"
                                 "\r\n"
                                 "--=_weir_\r\n"
                                 "Content-Type: text/html; charset=utf-8\r\n"
                                 "Content-Transfer-Encoding: quoted-printable\r\n"
                                 "\r\n"
                                 "<p>Thank you.</p>\r\n"
                                 "\r\n"
                                 "--=_weir_--\r\n");
    free(message);
}

static void subject_beyond_ascii_becomes_encoded_words(void **state)
{
    (void)state;
    struct message message = plain;
    message.subject = TEXT("Ihre Bestellung ist best\xc3\xa4tigt");
    char *text = written(&message);
    assert_non_null(strstr(text, "\r\nSubject: =?utf-8?B?SWhyZSBCZXN0ZWxsdW5nIGlzdCBiZXN0w6R0aWd0?=\r\n"));
    free(text);
}

static void subject_that_looks_encoded_is_encoded(void **state)
{
    (void)state;
    struct message message = plain;
    message.subject = TEXT("=?utf-8?B?SGk=?=");
    char *text = written(&message);
    assert_non_null(strstr(text, "\r\nSubject: =?utf-8?B?PT91dGYtOD9CP1NHaz0/PQ==?=\r\n"));
    free(text);
}

/* Lines of at most 78 bytes, CRLF and nothing else that is a control byte, encoded-words of at most 75. */
static void assert_wire_form(const char *text)
{
    size_t column = 0;
    for (const char *at = text; *at; at++) {
        unsigned char c = (unsigned char)*at;
        if (c == '\r') {
            assert_int_equal(at[1], '\n');
            column = 0;
            at++;
            continue;
        }
        assert_in_range(c, 0x20, 0x7e);
        assert_true(++column <= 78);
    }
    for (const char *word = strstr(text, "=?utf-8?B?"); word; word = strstr(word + 1, "=?utf-8?B?")) {
        const char *end = strstr(word + 10, "?=");
        assert_non_null(end);
        assert_true(end + 2 - word <= 75);
    }
}

static void lines_stay_short_whatever_is_written(void **state)
{
    (void)state;
    static char long_text[20000], long_subject[900];
    for (size_t unit = 1; unit <= 4; unit++) {
        static const char *const characters[] = {"", "x", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x93\xa6"};
        for (size_t i = 0; i + unit <= sizeof(long_text); i += unit)
            memcpy(long_text + i, characters[unit], unit);
        memcpy(long_subject, long_text, sizeof(long_subject));
        struct message message = plain;
        message.from_name = (struct text){long_subject, sizeof(long_subject) / unit * unit};
        message.subject = message.from_name;
        message.text = message.html = (struct text){long_text, sizeof(long_text) / unit * unit};
        char *text = written(&message);
        assert_wire_form(text);
        free(text);
    }
    static char dots[500], blanks[500];
    memset(dots, '.', sizeof(dots));
    memset(blanks, ' ', sizeof(blanks));
    struct message message = plain;
    message.text = (struct text){dots, sizeof(dots)};
    message.html = (struct text){blanks, sizeof(blanks)};
    message.subject = (struct text){blanks, sizeof(blanks)};
    char *text = written(&message);
    assert_wire_form(text);
    free(text);
}

static void bare_line_ends_and_control_bytes_in_bodies_are_encoded(void **state)
{
    (void)state;
    struct message message = plain;
    message.text = TEXT("a\rb\r\nc\x01\x7f\n\r");
    char *text = written(&message);
    assert_non_null(strstr(text, "\r\n\r\na=0Db\r\nc=01=7F\r\n=0D\r\n"));
    assert_wire_form(text);
    free(text);
}

static void assert_refused(struct message message)
{
    struct buffer into = buffer_of(1 << 20);
    struct error error;
    assert_int_equal(message_write(&message, &into, &error), REJECT);
    assert_int_equal(into.length, 0);
    buffer_free(&into);
}

static void control_bytes_in_headers_are_refused(void **state)
{
    (void)state;
    for (int byte = 0; byte < 0x80; byte++) {
        if (byte >= 0x20 && byte != 0x7f)
            continue;
        char value[32] = "evil?Bcc: eve@example.org", id[32] = "<a?b@example.org>",
             address[32] = "an?na@example.org";
        *strchr(value, '?') = *strchr(id, '?') = *strchr(address, '?') = (char)byte;
        struct message message = plain;
        message.subject = (struct text){value, 25};
        assert_refused(message);
        message = plain;
        message.from_name = (struct text){value, 25};
        assert_refused(message);
        message = plain;
        message.message_id = (struct text){id, 17};
        assert_refused(message);
        message = plain;
        message.to = (struct text){address, 17};
        assert_refused(message);
        message = plain;
        message.from = (struct text){address, 17};
        assert_refused(message);
    }
}

static void what_is_not_utf8_or_not_an_id_is_refused(void **state)
{
    (void)state;
    struct message message = plain;
    message.subject = TEXT("\xff\xfe");
    assert_refused(message);
    message = plain;
    message.html = TEXT("\xc3");
    assert_refused(message);
    static const char *const ids[] = {"", "a@b", "<ab>", "<a@b@c>", "<a b@c>", "<a@b", "<a<@b>", "<a@b>>"};
    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
        message = plain;
        message.message_id = text_of(ids[i]);
        assert_refused(message);
    }
}

static void same_input_gives_the_same_bytes(void **state)
{
    (void)state;
    char *one = written(&plain), *other = written(&plain);
    assert_string_equal(one, other);
    free(one);
    free(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_message_is_as_expected),
        cmocka_unit_test(subject_beyond_ascii_becomes_encoded_words),
        cmocka_unit_test(subject_that_looks_encoded_is_encoded),
        cmocka_unit_test(lines_stay_short_whatever_is_written),
        cmocka_unit_test(bare_line_ends_and_control_bytes_in_bodies_are_encoded),
        cmocka_unit_test(control_bytes_in_headers_are_refused),
        cmocka_unit_test(what_is_not_utf8_or_not_an_id_is_refused),
        cmocka_unit_test(same_input_gives_the_same_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
