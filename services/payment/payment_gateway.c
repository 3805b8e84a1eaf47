/*
 * payment_gateway: charges and refunds over HTTP. A call's payload is what to do, the idempotency key, and
 * the JSON body, a line each; the key is the same however often and by whomever it is asked.
 */
#include "payment/payment.h"

#include "base/json.h"

enum { GATEWAY_BODY_BYTES_MAX = 4096 };

/* The payload's lines; they point into it. */
struct gateway_call {
    struct text path; /* "charges", "refunds" */
    struct text idempotency_key;
    struct text body;
};

static struct text line_next(struct text *rest)
{
    const char *end = rest->length ? memchr(rest->at, '\n', rest->length) : NULL;
    struct text line = {rest->at, end ? (size_t)(end - rest->at) : rest->length};
    *rest = end ? (struct text){end + 1, rest->length - line.length - 1} : (struct text){NULL, 0};
    return line;
}

static struct gateway_call call_read(struct text payload)
{
    struct gateway_call call;
    call.path = line_next(&payload);
    call.idempotency_key = line_next(&payload);
    call.body = payload;
    return call;
}

static void call_ask(struct work *work, struct text order_id, const char *path, struct text idempotency_key,
                     struct buffer *body)
{
    struct arena *arena = work_arena(work);
    const char *payload = body->failed ? NULL
                                       : arena_print(arena, "%s\n%.*s\n%.*s", path, TEXT_ARG(idempotency_key),
                                                     TEXT_ARG(buffer_text(body)));
    const char *name = arena_print(arena, "%.*s", TEXT_ARG(idempotency_key));
    buffer_free(body);
    if (!payload || !name) {
        struct error error;
        error_set(&error, RETRY, "memory", "no room for a call in this batch");
        work_fail(work, &error);
        return;
    }
    work_call(work, &gateway_lane, order_id, text_of(payload), name);
}

void gateway_charge(struct work *work, const struct payment *payment)
{
    struct buffer body = buffer_of(GATEWAY_BODY_BYTES_MAX);
    struct json_writer writer = json_writer(&body);
    json_object_begin(&writer);
    json_member_text(&writer, "order_id", payment->order_id);
    json_member_text(&writer, "customer_id", payment->customer_id);
    json_member_int(&writer, "amount_minor", payment->amount_minor);
    json_member_text(&writer, "currency", payment->currency);
    json_object_end(&writer);
    call_ask(work, payment->order_id, "charges",
             text_of(arena_print(work_arena(work), "charge-%.*s", TEXT_ARG(payment->order_id))), &body);
}

void gateway_refund(struct work *work, const struct refund *refund)
{
    struct buffer body = buffer_of(GATEWAY_BODY_BYTES_MAX);
    struct json_writer writer = json_writer(&body);
    json_object_begin(&writer);
    json_member_text(&writer, "payment_id", refund->payment_id);
    json_member_int(&writer, "amount_minor", refund->amount_minor);
    json_member_text(&writer, "currency", refund->currency);
    json_object_end(&writer);
    call_ask(work, refund->order_id, "refunds",
             text_of(arena_print(work_arena(work), "refund-%.*s", TEXT_ARG(refund->payment_id))), &body);
}

static enum outcome gateway_request(void *state, struct arena *arena, const struct call *call,
                                    struct net_http *ret_http, struct net_mail *ret_mail, bool *ret_is_mail,
                                    struct error *error)
{
    const struct payment_service_state *payment = state;
    struct gateway_call gateway = call_read(call->payload);
    (void)ret_mail;
    *ret_is_mail = false;
    ret_http->method = "POST";
    ret_http->url = arena_print(arena, "%s/v1/%.*s", payment->gateway_url, TEXT_ARG(gateway.path));
    ret_http->headers[0] = "Content-Type: application/json";
    ret_http->headers[1] = arena_print(arena, "Idempotency-Key: %.*s", TEXT_ARG(gateway.idempotency_key));
    ret_http->headers[2] = call->traceparent.length
                               ? arena_print(arena, "traceparent: %.*s", TEXT_ARG(call->traceparent))
                               : NULL;
    ret_http->body = gateway.body;
    if (!ret_http->url || !ret_http->headers[1])
        return error_retry(error, "memory", "out of memory for a request");
    return OK;
}

static void gateway_keys(struct work *work, const struct call *call)
{
    struct gateway_call gateway = call_read(call->payload);
    const struct text prefix = TEXT("refund-");
    bool is_refund = text_is(gateway.path, "refunds") && gateway.idempotency_key.length > prefix.length;
    payment_want(work, call->key,
                 is_refund ? (struct text){gateway.idempotency_key.at + prefix.length,
                                           gateway.idempotency_key.length - prefix.length}
                           : TEXT(""));
}

/* ---- answers */

struct gateway_answer {
    struct text payment_id, status, reason;
};

/* The texts are copied into the work's arena; empty where the body says nothing. */
static struct gateway_answer answer_read(struct work *work, struct text body)
{
    struct gateway_answer answer = {{NULL, 0}, {NULL, 0}, {NULL, 0}};
    struct error error;
    json_t *json = NULL;
    if (json_read(body, &json, &error) != OK)
        return answer;
    if (json_is_object(json)) {
        answer.payment_id = text_copy(work_arena(work), json_text(json, "payment_id"));
        answer.status = text_copy(work_arena(work), json_text(json, "status"));
        answer.reason = text_copy(work_arena(work), json_text(json, "reason"));
    }
    json_decref(json);
    return answer;
}

static struct text reason_of(struct work *work, const struct gateway_answer *answer,
                             const struct net_result *result)
{
    if (answer->reason.length)
        return payment_clip(answer->reason);
    if (result->status == 402 || result->status / 100 == 2)
        return TEXT("declined");
    return text_of(arena_print(work_arena(work), "the gateway refused it (%d)", result->status));
}

/*
 * A 4xx that says nothing was taken. 409: the first request is still under way. Once an answer was lost only
 * these speak of the charge itself, and not of who asks, how and where.
 */
static bool is_refused(const struct net_result *result, bool doubt)
{
    if (result->outcome != REJECT || result->status / 100 != 4 || result->status == 409)
        return false;
    return !doubt || result->status == 400 || result->status == 402 || result->status == 422;
}

/* What was asked for, from the request: the row may hold what somebody else has captured by now. */
static void amount_asked(struct work *work, struct text body, struct capture *capture)
{
    struct error error;
    json_t *json = NULL;
    if (json_read(body, &json, &error) != OK)
        return;
    capture->amount_minor = json_integer_value(json_object_get(json, "amount_minor"));
    capture->currency = text_copy(work_arena(work), json_text(json, "currency"));
    json_decref(json);
}

static enum outcome charged(struct work *work, struct payment *payment, struct text asked,
                            const struct net_result *result)
{
    struct gateway_answer answer = answer_read(work, result->body);
    bool named = text_is_printable(answer.payment_id, PAYMENT_ID_BYTES_MAX);
    if (result->outcome == OK && text_is(answer.status, "captured") && named) {
        struct capture capture = {
            .payment_id = answer.payment_id,
            .currency = payment->currency,
            .provider = TEXT("gateway"),
            .amount_minor = payment->amount_minor,
            .captured_at = work_now_us(work),
        };
        amount_asked(work, asked, &capture);
        payment->charge = CHARGE_ANSWERED;
        payment_captured(work, payment, &capture, true);
        return OK;
    }
    bool declined = result->outcome == OK && text_is(answer.status, "declined");
    if (declined || is_refused(result, payment->doubt)) {
        payment->charge = CHARGE_ANSWERED;
        payment_failed(work, payment, named ? answer.payment_id : TEXT(""), reason_of(work, &answer, result),
                       true);
        return OK;
    }
    if (result->outcome == OK)
        payment->doubt = 1;
    return RETRY; /* an answer that says nothing: it may have been taken */
}

static enum outcome refunded(struct work *work, struct payment *payment, struct text payment_id,
                             const struct net_result *result)
{
    struct gateway_answer answer = answer_read(work, result->body);
    struct refund *refund = rows_get(
        work, &refunds_table, &(struct refund){.payment_id = payment_id, .order_id = payment->order_id});
    if (!refund)
        return OK;
    if (result->outcome == OK && text_is(answer.status, "refunded")) {
        payment_refunded(work, payment, refund->payment_id, refund->amount_minor, refund->currency, true);
        return OK;
    }
    if (refund->state == PAYMENT_REFUNDED)
        return OK; /* somebody else was faster */
    if (is_refused(result, false)) {
        refund->state = PAYMENT_REFUND_FAILED;
        refund->reason = reason_of(work, &answer, result);
        refund->updated_at = work_now_us(work);
        work_note(work, LOG_ERROR, "the gateway will not give money back: somebody has to look at it",
                  LOG_TEXT("order_id", refund->order_id), LOG_TEXT("payment_id", refund->payment_id),
                  LOG_INT("amount_minor", refund->amount_minor), LOG_TEXT("currency", refund->currency),
                  LOG_TEXT("reason", refund->reason));
        if (text_equal(payment->payment_id, refund->payment_id)) {
            payment->state = PAYMENT_REFUND_FAILED;
            payment->reason = refund->reason;
        }
        return OK;
    }
    return RETRY;
}

/* What is unknown is asked again for ever, at the last of the delays: nothing is given up that may have taken
 * money. */
static enum outcome gateway_answer(struct work *work, const struct call *call,
                                   const struct net_result *result, bool last, struct error *error)
{
    (void)last;
    (void)error;
    if (result->outcome == OUTAGE)
        return OUTAGE;
    if (result->outcome == REJECT && result->status == 0)
        return OUTAGE; /* it could not be sent: a setting is wrong, not the order */
    struct gateway_call gateway = call_read(call->payload);
    struct payment *payment = payment_row(work, call->key);
    if (!payment)
        return OUTAGE; /* the work has failed */
    bool is_charge = text_is(gateway.path, "charges");
    if (result->outcome == RETRY) {
        if (is_charge && result->status != 429)
            payment->doubt = 1;
        return RETRY;
    }
    if (is_charge)
        return charged(work, payment, gateway.body, result);
    const size_t prefix = sizeof("refund-") - 1;
    return refunded(
        work, payment,
        (struct text){gateway.idempotency_key.at + prefix, gateway.idempotency_key.length - prefix}, result);
}

const struct lane gateway_lane = {
    .name = "gateway",
    .request = gateway_request,
    .keys = gateway_keys,
    .answer = gateway_answer,
};
