/* admin: the bearer token of routes that are not for everybody. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "service/admin.h"

static int admit(const char *token, const char *authorization)
{
    const struct header headers[] = {{TEXT("host"), TEXT("weir")},
                                     {TEXT("authorization"), text_of(authorization)}};
    const struct request request = {.headers = headers, .header_count = authorization ? 2 : 1};
    const struct bearer_token door = bearer_token_of(token);
    const char *detail = NULL;
    int status = admin_admit(&door, &request, &detail);
    assert_int_equal(status != 0, detail != NULL);
    return status;
}

static void only_the_whole_token_opens(void **state)
{
    (void)state;
    static const struct {
        const char *token, *authorization;
        int status;
    } cases[] = {
        {"s3cret", "Bearer s3cret", 0},
        {"s3cret", "bearer   s3cret", 0},
        {"s3cret", "BEARER s3cret", 0},
        {"s3cret", NULL, 401},
        {"s3cret", "", 401},
        {"s3cret", "Bearer", 401},
        {"s3cret", "Bearer ", 401},
        {"s3cret", "Bearer s3cre", 401},
        {"s3cret", "Bearer s3cret ", 401},
        {"s3cret", "Bearer s3creT", 401},
        {"s3cret", "Basic s3cret", 401},
        {"s3cret", "s3cret", 401},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(admit(cases[i].token, cases[i].authorization), cases[i].status);
}

static void without_a_token_nobody_is_let_in(void **state)
{
    (void)state;
    assert_int_equal(admit(NULL, "Bearer s3cret"), 403);
    assert_int_equal(admit(NULL, NULL), 403);
    assert_int_equal(admit("", "Bearer "), 403);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_the_whole_token_opens),
        cmocka_unit_test(without_a_token_nobody_is_let_in),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
