/* order_http: placing, looking up and cancelling an order. */
#include "order/order.h"

#include "items.h"

void order_http_keys(struct work *work, const struct request *request)
{
    order_want(work, request->parameters[0]);
}

/* ---- POST /v1/orders */

/* As it was asked for; empty where one is to be made here. */
static struct text order_id_asked(const struct request *request)
{
    const struct order_placed *plain = request->plain;
    return plain ? plain->order_id : json_text(request->json, "order_id");
}

void order_http_place_keys(struct work *work, const struct request *request)
{
    struct text order_id = order_id_asked(request);
    if (order_id.length && id_lower(work_arena(work), &order_id))
        order_want(work, order_id);
}

/* The sum that the rules ask for; 0 where an item is so wrong that there is none. */
static int64_t order_total(const struct order_placed *order)
{
    int64_t total = 0, line;
    for (size_t i = 0; i < order->items_count; i++)
        if (__builtin_mul_overflow(order->items[i].unit_price_minor, order->items[i].quantity, &line) ||
            __builtin_add_overflow(total, line, &total))
            return 0;
    return total;
}

/* The body as the event that it asks for, but for total_minor. RETRY when out of memory, REJECT with faults
 * added. */
static enum outcome order_read_json(struct work *work, const json_t *body, struct order_placed **ret,
                                    struct codec_faults *faults, struct error *error)
{
    static const char *const ours[] = {"total_minor", "placed_at"};
    json_t *json = json_copy((json_t *)(uintptr_t)body); /* shallow: members are set, none is changed */
    if (!json)
        return error_retry(error, "memory", "out of memory");
    for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++) {
        if (json_object_get(json, ours[i]))
            codec_fault_add(faults, "is not given, it is worked out here", "%s", ours[i]);
        json_object_set_new(json, ours[i], json_integer(work_now_us(work)));
    }
    if (!json_object_get(json, "order_id")) {
        char id[ID_TEXT_BYTES];
        struct text text = id_to_text(id_new(), id);
        json_object_set_new(json, "order_id", json_stringn(text.at, text.length));
    }
    void *data;
    enum outcome outcome =
        codec_from_json(order_placed_type.codec, json, work_arena(work), &data, faults, error);
    json_decref(json);
    if (outcome == OK)
        *ret = data;
    return outcome;
}

static enum outcome order_read_plain(struct work *work, const struct request *request,
                                     struct order_placed **ret, struct error *error)
{
    char id[ID_TEXT_BYTES];
    struct order_placed *order = order_plain_copy(work_arena(work), request->plain, request->body);
    if (order && !order->order_id.length)
        order->order_id = text_copy(work_arena(work), id_to_text(id_new(), id));
    if (!order || !order->order_id.at)
        return error_retry(error, "memory", "out of memory");
    order->placed_at = work_now_us(work);
    *ret = order;
    return OK;
}

static enum outcome order_read(struct work *work, const struct request *request, struct order_placed **ret,
                               struct codec_faults *faults, struct error *error)
{
    struct order_placed *order;
    enum outcome outcome = request->plain ? order_read_plain(work, request, &order, error)
                                          : order_read_json(work, request->json, &order, faults, error);
    if (outcome != OK)
        return outcome;
    if (!event_lower_id(&order_placed_type, order, work_arena(work)))
        return error_retry(error, "memory", "out of memory");
    order->total_minor = order_total(order);
    if (!order_placed_valid(order, faults) || faults->count)
        return error_reject(error, "order-invalid", "%s: %s", faults->fault[0].path, faults->fault[0].reason);
    *ret = order;
    return OK;
}

/* An id that is heard of but not placed is free, unless that hearsay can only come from an order placed
 * elsewhere. */
static bool order_id_taken(const struct order_row *row)
{
    return row && (row->placed || row->final || row->stock != ORDER_STOCK_NONE);
}

enum outcome order_http_place(struct work *work, const struct request *request, struct answer *answer,
                              struct error *error)
{
    struct codec_faults faults; /* large, and nearly always empty: not cleared */
    faults.count = 0;
    struct order_placed *order;
    enum outcome outcome = order_read(work, request, &order, &faults, error);
    if (outcome == REJECT) {
        answer_faults(work, answer, &faults);
        return OK;
    }
    if (outcome != OK)
        return outcome;

    struct order_row key = {.order_id = order->order_id}, *row = NULL;
    if (order_id_asked(request).length) /* one made here just now need not be looked for */
        row = rows_get(work, &orders_table, &key);
    if (order_id_taken(row)) {
        answer_problem(work, answer, 409, "order %.*s is there already", TEXT_ARG(order->order_id));
        return OK;
    }
    if (!row)
        row = rows_add(work, &orders_table, &key);
    outcome = order_fill(work, row, order, error);
    if (outcome != OK)
        return outcome;
    work_emit_type(work, &order_placed_type, order, &(struct emit_as){.effected = true});
    order_step(work, row);

    struct buffer body = buffer_of(ANSWER_BODY_BYTES_MAX);
    struct json_writer writer = json_writer(&body);
    json_object_begin(&writer);
    json_member_text(&writer, "order_id", order->order_id);
    json_member_string(&writer, "status", "accepted");
    json_object_end(&writer);
    answer_json(work, answer, 202, &body);
    answer->location = text_of(arena_print(work_arena(work), "/v1/orders/%.*s", TEXT_ARG(order->order_id)));
    return OK;
}

/* ---- GET /v1/orders/{id} */

static void put_step(struct json_writer *writer, enum order_status status, int64_t at, struct text reason)
{
    json_object_begin(writer);
    json_member_string(writer, "status", order_status_name(status));
    json_member_time(writer, "at", at);
    if (reason.length)
        json_member_text(writer, "reason", reason);
    json_object_end(writer);
}

static void put_history(struct json_writer *writer, const struct order_row *row)
{
    const struct text none = {NULL, 0};
    json_key(writer, "history");
    json_array_begin(writer);
    put_step(writer, ORDER_ACCEPTED, row->placed_at, none);
    /* What was set aside only after its end, and is on its way back, was never a step of the order. */
    bool ended_before =
        (row->status == ORDER_REJECTED || row->status == ORDER_CANCELLED) && row->ended_at < row->reserved_at;
    if (row->reserved_at && !ended_before)
        put_step(writer, ORDER_RESERVED, row->reserved_at, none);
    if (row->status >= ORDER_CONFIRMED)
        put_step(writer, (enum order_status)row->status, row->ended_at, row->reason);
    json_array_end(writer);
}

static enum outcome put_items(struct work *work, struct json_writer *writer, const struct order_row *row,
                              struct error *error)
{
    struct order_item *items = NULL;
    size_t count = 0;
    if (row->items.length && !items_unpack(work_arena(work), row->items, &items, &count))
        return error_retry(error, "items", "items of order %.*s cannot be read", TEXT_ARG(row->order_id));
    json_key(writer, "items");
    json_array_begin(writer);
    for (size_t i = 0; i < count; i++) {
        json_object_begin(writer);
        json_member_text(writer, "sku", items[i].sku);
        json_member_int(writer, "quantity", items[i].quantity);
        json_member_int(writer, "unit_price_minor", items[i].unit_price_minor);
        json_object_end(writer);
    }
    json_array_end(writer);
    return OK;
}

/* NULL, with 404 answered, where no caller knows of it. */
static struct order_row *order_known(struct work *work, const struct request *request, struct answer *answer)
{
    const struct order_row key = {.order_id = request->parameters[0]};
    struct order_row *row = rows_get(work, &orders_table, &key);
    if (row && row->placed)
        return row;
    answer_problem(work, answer, 404, "no order %.*s", TEXT_ARG(key.order_id));
    return NULL;
}

enum outcome order_http_show(struct work *work, const struct request *request, struct answer *answer,
                             struct error *error)
{
    const struct order_row *row = order_known(work, request, answer);
    if (!row)
        return OK;
    struct buffer body = buffer_of(ANSWER_BODY_BYTES_MAX);
    struct json_writer writer = json_writer(&body);
    json_object_begin(&writer);
    json_member_text(&writer, "order_id", row->order_id);
    json_member_string(&writer, "status", order_status_name(row->status));
    if (row->items.length) { /* nothing of an order that is not valid is kept */
        json_member_text(&writer, "customer_id", row->customer_id);
        json_member_text(&writer, "email", row->email);
        json_member_text(&writer, "locale", row->locale);
        json_member_text(&writer, "currency", row->currency);
        json_member_int(&writer, "total_minor", row->total_minor);
        enum outcome outcome = put_items(work, &writer, row, error);
        if (outcome != OK) {
            buffer_free(&body);
            return outcome;
        }
    }
    if (row->payment_id.length)
        json_member_text(&writer, "payment_id", row->payment_id);
    if (row->reserved_until)
        json_member_time(&writer, "reserved_until", row->reserved_until);
    put_history(&writer, row);
    json_object_end(&writer);
    answer_json(work, answer, 200, &body);
    return OK;
}

/* ---- POST /v1/orders/{id}/cancel */

/* A body is optional. False: answered. */
static bool read_reason(struct work *work, const struct request *request, struct answer *answer,
                        struct text *ret)
{
    *ret = (struct text){NULL, 0};
    if (!request->body.length)
        return true;
    struct error error;
    json_t *json = NULL;
    if (json_read_request(request->body, &json, &error) != OK || !json_is_object(json)) {
        answer_problem(work, answer, !json && json_is_ambiguous(&error) ? 422 : 400, "%s",
                       json ? "not a JSON object" : error.text);
        json_decref(json);
        return false;
    }
    struct codec_faults faults = {0};
    const char *name;
    json_t *value;
    json_object_foreach(json, name, value)
    {
        if (strcmp(name, "reason") != 0)
            codec_fault_add(&faults, "is not known here", "%.64s", name);
        else if (!json_is_string(value) ||
                 text_characters(json_text(json, "reason")) > ORDER_REASON_CHARACTERS_MAX)
            codec_fault_add(&faults, "must be a text of at most 200 characters", "reason");
        else
            *ret = text_copy(work_arena(work), json_text(json, "reason"));
    }
    json_decref(json);
    if (faults.count)
        answer_faults(work, answer, &faults);
    return faults.count == 0;
}

enum outcome order_http_cancel(struct work *work, const struct request *request, struct answer *answer,
                               struct error *error)
{
    (void)error;
    struct text reason;
    if (!read_reason(work, request, answer, &reason))
        return OK;
    struct order_row *row = order_known(work, request, answer);
    if (!row)
        return OK;
    if (row->status == ORDER_CONFIRMED || row->status == ORDER_REJECTED) {
        answer_problem(work, answer, 409, "order %.*s is %s already", TEXT_ARG(row->order_id),
                       order_status_name(row->status));
        return OK;
    }
    if (row->status != ORDER_CANCELLED) {
        const struct order_cancelled event = {
            .order_id = row->order_id, .reason = reason, .cancelled_at = work_now_us(work)};
        work_emit(work, &event);
        row->decided = ORDER_CANCELLED;
        row->reason = reason;
        row->ended_at = event.cancelled_at;
        order_step(work, row);
    }
    struct buffer body = buffer_of(ANSWER_BODY_BYTES_MAX);
    struct json_writer writer = json_writer(&body);
    json_object_begin(&writer);
    json_member_text(&writer, "order_id", row->order_id);
    json_member_string(&writer, "status", "cancelled");
    json_object_end(&writer);
    answer_json(work, answer, 202, &body);
    return OK;
}
