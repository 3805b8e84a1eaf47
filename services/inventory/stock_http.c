/* stock_http: looking at stock, and setting it by hand. */
#include "inventory/inventory.h"

enum { REASON_CHARACTERS_MAX = 200, SKU_BYTES_MAX = 64 };

static void sku_keys(struct work *work, const struct request *request)
{
    stock_want(work, request->parameters[0]);
}

static void put_stock(struct json_writer *writer, const struct stock_row *stock)
{
    json_object_begin(writer);
    json_member_text(writer, "sku", stock->sku);
    json_member_int(writer, "available", stock->available);
    json_member_int(writer, "reserved", stock->reserved);
    json_object_end(writer);
}

static enum outcome answer_stock(struct work *work, struct answer *answer, const struct stock_row *stock)
{
    struct buffer body = buffer_of(ANSWER_BODY_BYTES_MAX);
    struct json_writer writer = json_writer(&body);
    put_stock(&writer, stock);
    answer_json(work, answer, 200, &body);
    return OK;
}

static enum outcome on_show(struct work *work, const struct request *request, struct answer *answer,
                            struct error *error)
{
    (void)error;
    const struct stock_row *stock = stock_find(work, request->parameters[0]);
    if (stock)
        return answer_stock(work, answer, stock);
    answer_problem(work, answer, 404, "no stock of %.*s was ever set", TEXT_ARG(request->parameters[0]));
    return OK;
}

static enum outcome on_list(struct work *work, const struct request *request, struct answer *answer,
                            struct error *error)
{
    (void)error;
    struct text limit_text = request_query(request, "limit");
    int64_t limit = STOCK_LIST_DEFAULT;
    if (limit_text.length && (!text_to_int64(limit_text, &limit) || limit < 1 || limit > STOCK_LIST_MAX)) {
        struct codec_faults faults = {0};
        codec_fault_add(&faults, "must be a number from 1 to 1000", "limit");
        answer_faults(work, answer, &faults);
        return OK;
    }
    const struct store_value after[] = {STORE_TEXT(request_query(request, "after"))};
    const void *const *rows; /* one more than asked for tells whether there is a next page */
    size_t count = rows_look(work, &stock_table, "sku > $1 ORDER BY sku", after, 1, (size_t)limit + 1, &rows);
    bool more = count > (size_t)limit;
    if (more)
        count = (size_t)limit;

    struct buffer body = buffer_of(ANSWER_BODY_BYTES_MAX);
    struct json_writer writer = json_writer(&body);
    json_object_begin(&writer);
    json_key(&writer, "items");
    json_array_begin(&writer);
    for (size_t i = 0; i < count; i++)
        put_stock(&writer, rows[i]);
    json_array_end(&writer);
    json_key(&writer, "next");
    if (more)
        json_put_text(&writer, ((const struct stock_row *)rows[count - 1])->sku);
    else
        json_put_null(&writer);
    json_object_end(&writer);
    answer_json(work, answer, 200, &body);
    return OK;
}

/* ---- changes by hand */

static void check_sku(const struct request *request, struct codec_faults *faults)
{
    if (!text_is_printable(request->parameters[0], SKU_BYTES_MAX))
        codec_fault_add(faults, "must be 1 to 64 printable ASCII characters", "sku");
}

/* Members other than these two are faults; allowed2 may be NULL. */
static void check_members(const json_t *json, const char *allowed, const char *allowed2,
                          struct codec_faults *faults)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)json, name,
                        value) if (strcmp(name, allowed) != 0 && (!allowed2 || strcmp(name, allowed2) != 0))
        codec_fault_add(faults, "is not known here", "%.64s", name);
}

static void check_int(struct work *work, const json_t *json, const char *name, int64_t min, int64_t max,
                      int64_t *ret, struct codec_faults *faults)
{
    const json_t *value = json_object_get(json, name);
    *ret = json_is_integer(value) ? json_integer_value(value) : 0;
    if (!json_is_integer(value) || *ret < min || *ret > max)
        codec_fault_add(faults,
                        arena_print(work_arena(work), "must be a whole number from %lld to %lld",
                                    (long long)min, (long long)max),
                        "%s", name);
}

static struct stock_row *stock_row(struct work *work, struct text sku)
{
    struct stock_row *stock = stock_find(work, sku);
    return stock ? stock : rows_add(work, &stock_table, &(struct stock_row){.sku = sku});
}

static enum outcome on_set(struct work *work, const struct request *request, struct answer *answer,
                           struct error *error)
{
    (void)error;
    struct codec_faults faults = {0};
    int64_t available;
    check_sku(request, &faults);
    check_members(request->json, "available", NULL, &faults);
    check_int(work, request->json, "available", 0, STOCK_AVAILABLE_MAX, &available, &faults);
    if (faults.count) {
        answer_faults(work, answer, &faults);
        return OK;
    }
    struct stock_row *stock = stock_row(work, request->parameters[0]);
    stock->put_in += available - stock->available;
    stock->available = available;
    stock_changed(work, stock);
    return answer_stock(work, answer, stock);
}

static enum outcome on_adjust(struct work *work, const struct request *request, struct answer *answer,
                              struct error *error)
{
    (void)error;
    struct codec_faults faults = {0};
    int64_t by;
    check_sku(request, &faults);
    check_members(request->json, "by", "reason", &faults);
    check_int(work, request->json, "by", -STOCK_AVAILABLE_MAX, STOCK_AVAILABLE_MAX, &by, &faults);
    const json_t *reason = json_object_get(request->json, "reason");
    if (reason && (!json_is_string(reason) ||
                   text_characters(json_text(request->json, "reason")) > REASON_CHARACTERS_MAX))
        codec_fault_add(&faults, "must be a text of at most 200 characters", "reason");
    if (faults.count) {
        answer_faults(work, answer, &faults);
        return OK;
    }
    const struct stock_row *there = stock_find(work, request->parameters[0]);
    int64_t available = (there ? there->available : 0) + by;
    if (available < 0) {
        answer_problem(work, answer, 409, "%lld are available", (long long)(available - by));
        return OK;
    }
    if (available > STOCK_AVAILABLE_MAX) {
        answer_problem(work, answer, 409, "more than %lld cannot be kept", (long long)STOCK_AVAILABLE_MAX);
        return OK;
    }
    struct stock_row *stock = stock_row(work, request->parameters[0]);
    stock->put_in += available - stock->available;
    stock->available = available;
    stock_changed(work, stock);
    return answer_stock(work, answer, stock);
}

const struct route inventory_routes[] = {
    {.method = "GET", .path = "/v1/stock/{sku}", .kind = ROUTE_READ, .keys = sku_keys, .handle = on_show},
    {.method = "GET", .path = "/v1/stock", .kind = ROUTE_READ, .handle = on_list},
    {.method = "PUT",
     .path = "/v1/stock/{sku}",
     .kind = ROUTE_WRITE,
     .json = true,
     .keys = sku_keys,
     .handle = on_set},
    {.method = "POST",
     .path = "/v1/stock/{sku}/adjust",
     .kind = ROUTE_WRITE,
     .json = true,
     .keys = sku_keys,
     .handle = on_adjust},
    {0},
};
