/* email_http: the mails of one order. */
#include "email/email.h"

static void list_keys(struct work *work, const struct request *request)
{
    rows_want(work, &contacts_table, &(struct contact){.order_id = request->parameters[0]});
    for (int64_t template = 0; template <EMAIL_TEMPLATES; template ++)
        rows_want(work, &mails_table,
                  &(struct mail){.order_id = request->parameters[0], .template = template});
}

static const char *state_name(const struct mail *mail, const struct call *call)
{
    if (mail->state == MAIL_SENT)
        return "sent";
    if (mail->state == MAIL_FAILED)
        return "failed";
    if (call && call->state == CALL_ACTIVE)
        return "active";
    return mail->state == MAIL_RETRYING ? "retrying" : "waiting";
}

static void mail_json(struct json_writer *writer, const struct mail *mail, const struct call *call)
{
    json_object_begin(writer);
    json_member_string(writer, "template", email_template_name((enum email_template)mail->template));
    json_member_string(writer, "state", state_name(mail, call));
    json_member_int(writer, "attempts", call ? call->attempts : mail->attempts);
    if (call && call->state == CALL_WAITING)
        json_member_time(writer, "next_at", call->due_us);
    if (mail->message_id.length)
        json_member_text(writer, "message_id", mail->message_id);
    if (mail->ambiguous)
        json_member_int(writer, "ambiguous", mail->ambiguous);
    if (mail->reason.length)
        json_member_text(writer, "reason", mail->reason);
    json_object_end(writer);
}

static enum outcome list(struct work *work, const struct request *request, struct answer *answer,
                         struct error *error)
{
    const struct text order_id = request->parameters[0];
    (void)error;
    if (!rows_get(work, &contacts_table, &(struct contact){.order_id = order_id})) {
        answer_problem(work, answer, 404, "nothing is known of order %.*s", TEXT_ARG(order_id));
        return OK;
    }
    struct buffer body = buffer_of(ANSWER_BODY_BYTES_MAX);
    struct json_writer writer = json_writer(&body);
    json_array_begin(&writer);
    const struct store_value of_order[] = {STORE_TEXT(order_id)};
    const void *const *mails;
    size_t count = rows_look(work, &mails_table, "order_id = $1 ORDER BY order_id, template", of_order, 1,
                             EMAIL_TEMPLATES, &mails);
    for (size_t i = 0; i < count; i++) {
        const struct mail *mail = mails[i];
        const struct store_value call_id[] = {STORE_ID(&mail->call)};
        const void *const *call;
        bool open = rows_look(work, &calls_table, "id = $1", call_id, 1, 1, &call) > 0;
        mail_json(&writer, mail, open ? call[0] : NULL);
    }
    json_array_end(&writer);
    answer_json(work, answer, 200, &body);
    return OK;
}

const struct route email_routes[] = {
    {.method = "GET", .path = "/v1/emails/{order_id}", .kind = ROUTE_READ, .keys = list_keys, .handle = list},
    {0},
};
