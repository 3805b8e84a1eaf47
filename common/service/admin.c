#include "service/admin.h"

int admin_admit(const void *state, const struct request *request, const char **ret_detail)
{
    const struct bearer_token *token = state;
    if (!token->given) {
        *ret_detail = "this route needs ADMIN_TOKEN to be set";
        return 403;
    }
    switch (bearer_look(token, request)) {
    case BEARER_RIGHT:
        return 0;
    case BEARER_MISSING:
        *ret_detail = "Authorization: Bearer and the ADMIN_TOKEN are wanted";
        return 401;
    case BEARER_WRONG:
        break;
    }
    *ret_detail = "not the ADMIN_TOKEN";
    return 401;
}
