/* shop: what is needed to sell to services that run somewhere else: where weir-order is, and stock. */
#ifndef WEIR_SHOP_H
#define WEIR_SHOP_H

#include "ask.h"

#include "base/config.h"

enum {
    SHOP_HOST_BYTES_MAX = 256,
    SHOP_URL_BYTES_MAX = 512,
    SHOP_ASK_MS = 5000,
    SHOP_TOKEN_BYTES_MAX = 512,
    SHOP_STOCK = 100000000, /* of each SKU: nobody wants to see "sold out" here */
};

/* http://host:port, a slash at its end or none. REJECT with EXIT_CONFIG, naming the setting. */
MUST_CHECK enum outcome shop_address(const char *setting, const char *url, char host[SHOP_HOST_BYTES_MAX],
                                     int *ret_port, struct error *error);
/* API_TOKEN, or NULL where it is not set. REJECT with EXIT_CONFIG where it cannot stand in a header. */
MUST_CHECK enum outcome shop_token(const struct config *config, const char **ret, struct error *error);
/* SHOP_STOCK units of the SKU where its stock was never set; else it goes on from what is there. */
MUST_CHECK enum outcome shop_stock(struct ask *ask, const char *inventory_url, struct text sku,
                                   struct error *error);

#endif
