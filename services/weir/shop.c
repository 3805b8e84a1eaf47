#include "shop.h"

#include <stdio.h>
#include <stdlib.h>

enum outcome shop_address(const char *setting, const char *url, char host[SHOP_HOST_BYTES_MAX], int *ret_port,
                          struct error *error)
{
    enum { HTTP_PORT = 80, PORT_MAX = 65535 };
    const char *at = strstr(url, "://") + 3;
    size_t length = strcspn(at, ":/");
    char *end = NULL;
    long port = at[length] == ':' ? strtol(at + length + 1, &end, 10) : HTTP_PORT;
    const char *rest = end ? end : at + length;
    if (length == 0 || length >= SHOP_HOST_BYTES_MAX || port < 1 || port > PORT_MAX ||
        (rest[0] && strcmp(rest, "/") != 0)) {
        error_set(error, REJECT, "setting", "%s: %s is not http://host:port", setting, url);
        error->exit_code = EXIT_CONFIG;
        return REJECT;
    }
    memcpy(host, at, length);
    host[length] = '\0';
    *ret_port = (int)port;
    return OK;
}

enum outcome shop_token(const struct config *config, const char **ret, struct error *error)
{
    *ret = config_text(config, "API_TOKEN");
    bool fits = !*ret || strlen(*ret) < SHOP_TOKEN_BYTES_MAX;
    for (const char *at = *ret; fits && at && *at; at++)
        fits = *at > ' ' && *at <= '~';
    if (fits)
        return OK;
    error_set(error, REJECT, "setting",
              "API_TOKEN: at most %d printable ASCII characters without blanks are allowed",
              SHOP_TOKEN_BYTES_MAX - 1);
    error->exit_code = EXIT_CONFIG;
    return REJECT;
}

enum outcome shop_stock(struct ask *ask, const char *inventory_url, struct text sku, struct error *error)
{
    char url[SHOP_URL_BYTES_MAX], body[64];
    int status;
    struct text answer;
    size_t length = strlen(inventory_url);
    snprintf(url, sizeof(url), "%s%sv1/stock/%.*s", inventory_url,
             inventory_url[length - 1] == '/' ? "" : "/", TEXT_ARG(sku));
    enum outcome outcome = ask_http(ask, "GET", url, TEXT(""), SHOP_ASK_MS, &status, &answer, error);
    if (outcome == OK && status == 404) {
        int bytes = snprintf(body, sizeof(body), "{\"available\":%d}", SHOP_STOCK);
        outcome = ask_http(ask, "PUT", url, (struct text){body, (size_t)bytes}, SHOP_ASK_MS, &status, &answer,
                           error);
    }
    if (outcome == OK && status != 200)
        outcome =
            error_outage(error, "stock", "inventory answered %d to %s: %.*s", status, url, TEXT_ARG(answer));
    return outcome;
}
