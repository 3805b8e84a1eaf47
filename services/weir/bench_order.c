#include "bench_order.h"

#include <stdio.h>

enum {
    RUN_BITS = 42,
    RUN_LOW_BITS = 30, /* of these, behind the variant; the upper 12 stand behind the version */
    QUANTITY_MAX = 3,
    PRICE_MIN = 199,
    PRICE_STEPS = 200,
    PRICE_STEP = 50,
};

/* ---- ids */

uint64_t bench_run_new(void)
{
    struct id id = id_new();
    return text_hash((struct text){(const char *)id.bytes, sizeof(id.bytes)}) >> (64 - RUN_BITS);
}

static void put_bits(uint8_t *at, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
}

static uint64_t get_bits(const uint8_t *at, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value = value << 8 | at[i];
    return value;
}

struct id bench_order_id(uint64_t run, uint32_t number, int64_t wall_us)
{
    struct id id;
    put_bits(id.bytes, (uint64_t)wall_us / 1000, 6);
    put_bits(id.bytes + 6, UINT64_C(7) << 12 | run >> RUN_LOW_BITS, 2);
    put_bits(id.bytes + 8, UINT64_C(2) << RUN_LOW_BITS | (run & ((UINT64_C(1) << RUN_LOW_BITS) - 1)), 4);
    put_bits(id.bytes + 12, number, 4);
    return id;
}

bool bench_order_number(uint64_t run, struct text text, uint32_t *ret_number)
{
    struct id id, same;
    if (!id_parse(text, &id))
        return false;
    same = bench_order_id(run, (uint32_t)get_bits(id.bytes + 12, 4), (int64_t)get_bits(id.bytes, 6) * 1000);
    if (!id_equal(id, same))
        return false;
    *ret_number = (uint32_t)get_bits(id.bytes + 12, 4);
    return true;
}

/* ---- orders */

/* The same SKU costs the same in every order. */
static int64_t price_of(struct text sku)
{
    return PRICE_MIN + (int64_t)(text_hash(sku) % PRICE_STEPS) * PRICE_STEP;
}

static void draw_items(struct bench_cart *cart, struct bench_draft *draft)
{
    size_t count = 1 + bench_random_below(&cart->random, BENCH_ITEMS_MAX);
    size_t first = bench_random_below(&cart->random, (uint32_t)cart->goods_count);
    draft->placed.items = draft->items;
    draft->placed.items_count = count;
    draft->placed.total_minor = 0;
    for (size_t i = 0; i < count; i++) {
        /* Spread evenly, so that the SKUs of an order are distinct without a look at those before. */
        struct text sku =
            cart->goods[(first + i * (cart->goods_count / BENCH_ITEMS_MAX)) % cart->goods_count];
        draft->items[i] = (struct order_item){
            .sku = sku,
            .quantity = 1 + (int32_t)bench_random_below(&cart->random, QUANTITY_MAX),
            .unit_price_minor = price_of(sku),
        };
        draft->placed.total_minor += draft->items[i].quantity * draft->items[i].unit_price_minor;
    }
}

void bench_order_draw(struct bench_cart *cart, uint32_t number, int64_t wall_us, struct bench_draft *ret)
{
    static const struct text locales[] = {TEXT_INIT("en"), TEXT_INIT("de"), TEXT_INIT("en-GB"),
                                          TEXT_INIT("de-AT")};
    static const struct text currencies[] = {TEXT_INIT("EUR"), TEXT_INIT("USD"), TEXT_INIT("EUR"),
                                             TEXT_INIT("GBP")};
    uint32_t customer = bench_random_below(&cart->random, BENCH_CUSTOMERS);
    int customer_length = snprintf(ret->customer, sizeof(ret->customer), "bench-%05u", customer);
    int email_length = snprintf(ret->email, sizeof(ret->email), "customer%05u@shop.example", customer);
    ret->placed = (struct order_placed){
        .order_id = id_to_text(bench_order_id(cart->run, number, wall_us), ret->id),
        .customer_id = {ret->customer, (size_t)customer_length},
        .email = {ret->email, (size_t)email_length},
        .locale = locales[bench_random_below(&cart->random, 4)],
        .currency = currencies[bench_random_below(&cart->random, 4)],
        .placed_at = wall_us,
    };
    draw_items(cart, ret);
}

size_t bench_order_request(const struct bench_draft *draft, const char *host_and_port, const char *token,
                           char into[BENCH_REQUEST_BYTES_MAX])
{
    char body[BENCH_REQUEST_BYTES_MAX];
    const struct order_placed *order = &draft->placed;
    int length =
        snprintf(body, sizeof(body),
                 "{\"order_id\":\"%.*s\",\"customer_id\":\"%.*s\",\"email\":\"%.*s\",\"locale\":\"%.*s\","
                 "\"currency\":\"%.*s\",\"items\":[",
                 TEXT_ARG(order->order_id), TEXT_ARG(order->customer_id), TEXT_ARG(order->email),
                 TEXT_ARG(order->locale), TEXT_ARG(order->currency));
    for (size_t i = 0; i < order->items_count; i++)
        length += snprintf(body + length, sizeof(body) - (size_t)length,
                           "%s{\"sku\":\"%.*s\",\"quantity\":%d,\"unit_price_minor\":%lld}", i ? "," : "",
                           TEXT_ARG(order->items[i].sku), order->items[i].quantity,
                           (long long)order->items[i].unit_price_minor);
    length += snprintf(body + length, sizeof(body) - (size_t)length, "]}");
    int whole = snprintf(
        into, BENCH_REQUEST_BYTES_MAX,
        "POST /v1/orders HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nIdempotency-Key: %.*s\r\n"
        "Content-Length: %d\r\n%s%s%s\r\n%s",
        host_and_port, TEXT_ARG(order->order_id), length, token ? "Authorization: Bearer " : "",
        token ? token : "", token ? "\r\n" : "", body);
    return (size_t)whole;
}
