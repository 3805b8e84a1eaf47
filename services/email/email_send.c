/*
 * email_send: a mail as a call of the lane `smtp`. The payload is a JSON object with all that the letter
 * needs, so that it can be written again whenever it is sent.
 */
#include "email/email.h"

#include "base/json.h"
#include "base/metrics.h"
#include "net/message.h"

enum { PAYLOAD_BYTES_MAX = 64 << 10 };

/* The same for one order and template, however often it is sent and by whom. */
static struct text message_id(struct work *work, const struct mail *mail)
{
    const struct email_state *email = work_state(work);
    uint8_t digest[DIGEST_BYTES];
    char hex[33] = {0};
    const char *name = email_template_name((enum email_template)mail->template);
    char *story = arena_print(work_arena(work), "%.*s/%s", TEXT_ARG(mail->order_id), name);
    if (!story)
        return TEXT("");
    digest_sha256(text_of(story), digest);
    digest_to_hex(digest, 16, hex);
    return text_of(arena_print(work_arena(work), "<%s@%.*s>", hex, TEXT_ARG(email->domain)));
}

static void payload_write(struct buffer *into, const struct mail *mail, const struct contact *contact)
{
    struct json_writer writer = json_writer(into);
    json_object_begin(&writer);
    json_member_int(&writer, "template", mail->template);
    json_member_text(&writer, "to", contact->email);
    json_member_text(&writer, "locale", contact->locale);
    json_member_text(&writer, "message_id", mail->message_id);
    json_member_int(&writer, "date_us", mail->asked_at);
    json_member_text(&writer, "currency", contact->currency);
    json_member_int(&writer, "total_minor", contact->total_minor);
    json_member_text(&writer, "detail", mail->detail);
    json_member_int(&writer, "amount_minor", mail->amount_minor);
    json_member_text(&writer, "amount_currency", mail->currency);
    json_object_end(&writer);
    /* Items are bytes, not text: they stand behind the object. */
    buffer_add_char(into, '\n');
    buffer_add_text(into, contact->items);
}

void mail_send(struct work *work, struct mail *mail, const struct contact *contact)
{
    struct buffer payload = buffer_of(PAYLOAD_BYTES_MAX);
    const char *name = email_template_name((enum email_template)mail->template);
    mail->message_id = message_id(work, mail);
    payload_write(&payload, mail, contact);
    struct text copy = text_copy(work_arena(work), buffer_text(&payload));
    if (payload.failed || !copy.at || !mail->message_id.length) {
        struct error error;
        error_set(&error, RETRY, "memory", "no room for a mail in this batch");
        work_fail(work, &error);
    } else {
        mail->call = work_call(work, &smtp_lane, mail->order_id, copy, name);
    }
    buffer_free(&payload);
}

static bool payload_split(struct text payload, struct text *ret_json, struct text *ret_items)
{
    const char *end = payload.length ? memchr(payload.at, '\n', payload.length) : NULL;
    if (!end)
        return false;
    *ret_json = (struct text){payload.at, (size_t)(end - payload.at)};
    *ret_items = (struct text){end + 1, payload.length - ret_json->length - 1};
    return true;
}

static int64_t json_number(const json_t *object, const char *name)
{
    return json_integer_value(json_object_get(object, name));
}

static enum outcome mail_write(const struct email_state *email, struct arena *arena, const struct call *call,
                               const json_t *json, struct text items, struct net_mail *ret,
                               struct error *error)
{
    struct letter letter = {
        .template = (enum email_template)json_number(json, "template"),
        .order_id = call->key,
        .locale = json_text(json, "locale"),
        .currency = json_text(json, "currency"),
        .items = items,
        .detail = json_text(json, "detail"),
        .amount_currency = json_text(json, "amount_currency"),
        .total_minor = json_number(json, "total_minor"),
        .amount_minor = json_number(json, "amount_minor"),
    };
    struct message message = {
        .from_name = TEXT("Weir"),
        .from = text_of(email->from),
        .to = text_copy(arena, json_text(json, "to")),
        .message_id = json_text(json, "message_id"),
        .date_us = json_number(json, "date_us"),
    };
    struct buffer whole = buffer_of(4 << 20);
    enum outcome outcome =
        letter_write(&letter, arena, &message.subject, &message.text, &message.html, error);
    if (outcome == OK)
        outcome = message_write(&message, &whole, error);
    if (outcome == OK) {
        ret->url = email->smtp_url;
        ret->from = message.from;
        ret->to = message.to;
        ret->message = text_copy(arena, buffer_text(&whole));
        if (whole.failed || !ret->message.at)
            outcome = error_retry(error, "memory", "out of memory for a mail");
    }
    buffer_free(&whole);
    return outcome;
}

static enum outcome smtp_request(void *state, struct arena *arena, const struct call *call,
                                 struct net_http *ret_http, struct net_mail *ret_mail, bool *ret_is_mail,
                                 struct error *error)
{
    struct text json_bytes, items;
    json_t *json = NULL;
    (void)ret_http;
    *ret_is_mail = true;
    if (!payload_split(call->payload, &json_bytes, &items))
        return error_reject(error, "payload", "the mail's payload cannot be read");
    enum outcome outcome = json_read(json_bytes, &json, error);
    if (outcome == OK)
        outcome = mail_write(state, arena, call, json, items, ret_mail, error);
    json_decref(json);
    return outcome;
}

static bool mail_of(const struct call *call, struct mail *ret_key)
{
    struct text json_bytes, items;
    struct error error;
    json_t *json = NULL;
    if (!payload_split(call->payload, &json_bytes, &items) || json_read(json_bytes, &json, &error) != OK)
        return false;
    *ret_key = (struct mail){.order_id = call->key, .template = json_number(json, "template")};
    json_decref(json);
    return true;
}

static void smtp_keys(struct work *work, const struct call *call)
{
    struct mail key;
    if (mail_of(call, &key))
        rows_want(work, &mails_table, &key);
}

static struct text template_name(const struct mail *mail)
{
    return text_of(email_template_name((enum email_template)mail->template));
}

void mail_give_up(struct work *work, struct mail *mail, struct text reason)
{
    mail->state = MAIL_FAILED;
    mail->reason = text_copy(work_arena(work), reason);
    mail->call = (struct id){{0}};
    const struct email_failed event = {.order_id = mail->order_id,
                                       .template = template_name(mail),
                                       .reason = mail->reason,
                                       .failed_at = work_now_us(work)};
    work_emit(work, &event);
}

static void settle(struct work *work, struct mail *mail, const struct call *call, bool sent,
                   struct text reason)
{
    mail->attempts = call->attempts;
    if (!sent) {
        mail_give_up(work, mail, reason);
        return;
    }
    mail->state = MAIL_SENT;
    mail->reason = TEXT("");
    mail->call = (struct id){{0}};
    const struct email_sent event = {.order_id = mail->order_id,
                                     .template = template_name(mail),
                                     .message_id = mail->message_id,
                                     .sent_at = work_now_us(work)};
    work_emit(work, &event);
}

static enum outcome smtp_answer(struct work *work, const struct call *call, const struct net_result *result,
                                bool last, struct error *error)
{
    const struct email_state *email = work_state(work);
    struct mail key;
    struct mail *mail = mail_of(call, &key) ? rows_get(work, &mails_table, &key) : NULL;
    (void)error;
    if (!mail || mail->state == MAIL_SENT || mail->state == MAIL_FAILED)
        return OK;
    if (result->ambiguous) {
        work_count(work, email->ambiguous, 1);
        mail->ambiguous++;
    }
    switch (result->outcome) {
    case OK:
        work_count(work, email->ok, 1);
        settle(work, mail, call, true, TEXT(""));
        return OK;
    case OUTAGE:
        work_count(work, email->outage, 1);
        mail->state = MAIL_WAITING;
        return OUTAGE;
    case RETRY:
        if (!last && (!result->ambiguous || email->resend)) {
            work_count(work, email->retry, 1);
            mail->state = MAIL_RETRYING;
            mail->reason = text_copy(work_arena(work), text_of(result->text));
            return RETRY;
        }
        break;
    case REJECT:
    case FATAL:
        break;
    }
    work_count(work, email->failed, 1);
    const char *reason =
        result->ambiguous ? arena_print(work_arena(work), "ambiguous: %s", result->text) : result->text;
    settle(work, mail, call, false, text_of(reason));
    return OK;
}

const struct lane smtp_lane = {
    .name = "smtp",
    .request = smtp_request,
    .keys = smtp_keys,
    .answer = smtp_answer,
};
