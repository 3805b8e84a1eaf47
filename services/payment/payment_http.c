/* payment_http: one payment looked up, and the gateway's signed webhook. */
#include "payment/payment.h"

static void show_keys(struct work *work, const struct request *request)
{
    payment_want(work, request->parameters[0], TEXT(""));
}

static enum outcome show(struct work *work, const struct request *request, struct answer *answer,
                         struct error *error)
{
    (void)error;
    const struct payment *payment =
        rows_get(work, &payments_table, &(struct payment){.order_id = request->parameters[0]});
    if (!payment || (!payment->placed && payment->state == PAYMENT_PENDING)) {
        answer_problem(work, answer, 404, "nothing is known of a payment for order %.*s",
                       TEXT_ARG(request->parameters[0]));
        return OK;
    }
    struct buffer body = buffer_of(ANSWER_BODY_BYTES_MAX);
    struct json_writer writer = json_writer(&body);
    json_object_begin(&writer);
    json_member_text(&writer, "order_id", payment->order_id);
    json_member_text(&writer, "payment_id", payment->payment_id);
    json_member_string(&writer, "status", payment_state_name(payment->state));
    json_member_int(&writer, "amount_minor", payment->amount_minor);
    json_member_text(&writer, "currency", payment->currency);
    if (payment->reason.length)
        json_member_text(&writer, "reason", payment->reason);
    json_object_end(&writer);
    answer_json(work, answer, 200, &body);
    return OK;
}

/* ---- the webhook */

static int webhook_admit(const void *state, const struct request *request, const char **ret_detail)
{
    const struct payment_service_state *payment = state;
    if (!payment->webhook_secret) {
        *ret_detail = "no WEBHOOK_SECRET is set: webhooks are not taken";
        return 403;
    }
    if (digest_signature_valid(text_of(payment->webhook_secret), request_header(request, "weir-signature"),
                               request->body, clock_wall_us() / 1000000))
        return 0;
    *ret_detail = "Weir-Signature is missing, wrong or older than 300 s";
    return 401;
}

struct notice {
    struct text type, payment_id, order_id, currency, reason;
    int64_t amount_minor;
};

static struct text notice_text(const struct request *request, const char *name, bool needed,
                               struct codec_faults *faults)
{
    const json_t *member = json_object_get(request->json, name);
    if (!member || json_is_null(member)) {
        if (needed)
            codec_fault_add(faults, "is missing", "%s", name);
    } else if (!json_is_string(member)) {
        codec_fault_add(faults, "must be a text", "%s", name);
    }
    return json_text(request->json, name);
}

/* Some gateways write eur: on the topic it is EUR, as everywhere. */
static struct text in_capitals(struct work *work, struct text currency)
{
    char *at = arena_copy(work_arena(work), currency.at, currency.length);
    for (size_t i = 0; at && i < currency.length; i++)
        at[i] = (char)(at[i] & ~0x20);
    return (struct text){at, at ? currency.length : 0};
}

static struct notice notice_read(struct work *work, const struct request *request,
                                 struct codec_faults *faults)
{
    struct notice notice = {
        .type = notice_text(request, "type", true, faults),
        .payment_id = notice_text(request, "payment_id", true, faults),
        .order_id = notice_text(request, "order_id", true, faults),
        .currency = in_capitals(work, notice_text(request, "currency", true, faults)),
        .reason = notice_text(request, "reason", false, faults),
    };
    const json_t *amount = json_object_get(request->json, "amount_minor");
    if (json_is_integer(amount) && json_integer_value(amount) >= 0)
        notice.amount_minor = json_integer_value(amount);
    else
        codec_fault_add(faults, "must be a whole number from 0", "amount_minor");
    bool failed = text_is(notice.type, "payment.failed");
    if (notice.type.length && !failed && !text_is(notice.type, "payment.captured") &&
        !text_is(notice.type, "payment.refunded"))
        codec_fault_add(faults, "must be payment.captured, payment.failed or payment.refunded", "type");
    if (!text_is_printable(notice.payment_id, 64) && !(failed && !notice.payment_id.length))
        codec_fault_add(faults, "must be 1 to 64 printable ASCII characters", "payment_id");
    if (!event_currency_valid(notice.currency))
        codec_fault_add(faults, "must be three letters (ISO 4217)", "currency");
    return notice;
}

static void webhook_keys(struct work *work, const struct request *request)
{
    struct text order_id = json_text(request->json, "order_id");
    if (id_lower(work_arena(work), &order_id))
        payment_want(work, order_id, json_text(request->json, "payment_id"));
}

/* What is told a second time finds the row so and has no effect: that is the deduplication by type and
 * payment. */
static void notice_take(struct work *work, struct payment *payment, const struct notice *notice)
{
    if (text_is(notice->type, "payment.captured")) {
        const struct capture capture = {
            .payment_id = notice->payment_id,
            .currency = notice->currency,
            .provider = TEXT("webhook"),
            .amount_minor = notice->amount_minor,
            .captured_at = work_now_us(work),
        };
        payment_captured(work, payment, &capture, true);
    } else if (text_is(notice->type, "payment.failed")) {
        payment_failed(work, payment, notice->payment_id,
                       notice->reason.length ? notice->reason : TEXT("declined"), true);
    } else {
        payment_refunded(work, payment, notice->payment_id, notice->amount_minor, notice->currency, true);
    }
}

static enum outcome webhook(struct work *work, const struct request *request, struct answer *answer,
                            struct error *error)
{
    struct codec_faults faults = {0};
    struct notice notice = notice_read(work, request, &faults);
    if (faults.count) {
        answer_faults(work, answer, &faults);
        return OK;
    }
    if (!id_lower(work_arena(work), &notice.order_id))
        return error_retry(error, "memory", "out of memory");
    struct payment *payment = rows_get(work, &payments_table, &(struct payment){.order_id = notice.order_id});
    if (!payment || !payment->placed) {
        answer_problem(work, answer, 404, "there is no order %.*s", TEXT_ARG(notice.order_id));
        return OK;
    }
    /* The row keeps these until the batch is written. */
    notice.payment_id = text_copy(work_arena(work), notice.payment_id);
    notice.reason = text_copy(work_arena(work), payment_clip(notice.reason));
    notice_take(work, payment, &notice);
    *answer = (struct answer){.status = 202, .body = TEXT("{\"status\":\"accepted\"}")};
    return OK;
}

const struct route payment_routes[] = {
    {.method = "GET",
     .path = "/v1/payments/{order_id}",
     .kind = ROUTE_READ,
     .keys = show_keys,
     .handle = show},
    {.method = "POST",
     .path = "/v1/webhooks/payment",
     .kind = ROUTE_WRITE,
     .json = true,
     .admit = webhook_admit,
     .admits_alone = true,
     .keys = webhook_keys,
     .handle = webhook},
    {0},
};
