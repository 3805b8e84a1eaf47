/* email: tells customers by e-mail what became of their orders. */
#include "email/email.h"

#include "base/metrics.h"
#include "items.h"

#define COLUMN(member, type) ROWS_COLUMN(contact, member, type)
static const struct rows_column contact_columns[] = {
    COLUMN(order_id, ROWS_TEXT), COLUMN(state, ROWS_INT),       COLUMN(decided, ROWS_INT),
    COLUMN(early, ROWS_INT),     COLUMN(email, ROWS_TEXT),      COLUMN(locale, ROWS_TEXT),
    COLUMN(currency, ROWS_TEXT), COLUMN(total_minor, ROWS_INT), COLUMN(items, ROWS_BYTES),
    COLUMN(heard_at, ROWS_INT),
};
#undef COLUMN
const struct rows_table contacts_table = {
    .name = "contacts",
    .columns = contact_columns,
    .column_count = sizeof(contact_columns) / sizeof(contact_columns[0]),
    .key_count = 1,
    .row_bytes = sizeof(struct contact),
};

#define COLUMN(member, type) ROWS_COLUMN(mail, member, type)
static const struct rows_column mail_columns[] = {
    COLUMN(order_id, ROWS_TEXT),   COLUMN(template, ROWS_INT), COLUMN(state, ROWS_INT),
    COLUMN(call, ROWS_ID),         COLUMN(attempts, ROWS_INT), COLUMN(ambiguous, ROWS_INT),
    COLUMN(message_id, ROWS_TEXT), COLUMN(detail, ROWS_TEXT),  COLUMN(amount_minor, ROWS_INT),
    COLUMN(currency, ROWS_TEXT),   COLUMN(reason, ROWS_TEXT),  COLUMN(asked_at, ROWS_INT),
};
#undef COLUMN
const struct rows_table mails_table = {
    .name = "mails",
    .columns = mail_columns,
    .column_count = sizeof(mail_columns) / sizeof(mail_columns[0]),
    .key_count = 2,
    .row_bytes = sizeof(struct mail),
};
static const struct rows_table *const email_tables[] = {&contacts_table, &mails_table, NULL};
static const struct migration email_migrations[] = {
    {1, "ALTER TABLE contacts ADD COLUMN heard_at INTEGER NOT NULL DEFAULT 0",
     "ALTER TABLE contacts ADD COLUMN heard_at BIGINT NOT NULL DEFAULT 0"},
    {0},
};
static const struct lane *const email_lanes[] = {&smtp_lane, NULL};

const char *email_template_name(enum email_template template)
{
    static const char *const names[EMAIL_TEMPLATES] = {
        [EMAIL_ORDER_RECEIVED] = "order_received",   [EMAIL_ORDER_CONFIRMED] = "order_confirmed",
        [EMAIL_ORDER_REJECTED] = "order_rejected",   [EMAIL_ORDER_CANCELLED] = "order_cancelled",
        [EMAIL_PAYMENT_RECEIPT] = "payment_receipt", [EMAIL_PAYMENT_REFUND] = "payment_refund",
    };
    return names[template];
}

/* ---- what is heard */

static void want(struct work *work, struct text order_id, enum email_template template)
{
    rows_want(work, &contacts_table, &(struct contact){.order_id = order_id});
    rows_want(work, &mails_table, &(struct mail){.order_id = order_id, .template = template});
}

static struct contact *contact_row(struct work *work, struct text order_id)
{
    const struct contact key = {.order_id = order_id, .heard_at = work_now_us(work)};
    struct contact *contact = rows_get(work, &contacts_table, &key);
    return contact ? contact : rows_add(work, &contacts_table, &key);
}

/*
 * Events of upstream systems carry texts of any length and bytes: at most bytes_max of it, never half a
 * character, and no control bytes.
 */
static struct text clean(struct work *work, struct text text, size_t bytes_max)
{
    if (text.length > bytes_max) {
        text.length = bytes_max;
        while (text.length && ((unsigned char)text.at[text.length] & 0xc0) == 0x80)
            text.length--;
    }
    char *at = arena_copy(work_arena(work), text.at, text.length);
    for (size_t i = 0; at && i < text.length; i++)
        if ((unsigned char)at[i] < 0x20 || at[i] == 0x7f)
            at[i] = ' ';
    return (struct text){at, at ? text.length : 0};
}

/* One mail for an order and template, ever. */
static void mail_ask(struct work *work, struct contact *contact, const struct mail *asked)
{
    if (contact->state == CONTACT_INVALID || rows_get(work, &mails_table, asked))
        return;
    struct mail *mail = rows_add(work, &mails_table, asked);
    if (!mail)
        return;
    mail->asked_at = work_now_us(work);
    if (contact->state == CONTACT_KNOWN)
        mail_send(work, mail, contact);
    else
        contact->early |= INT64_C(1) << asked->template;
}

/* What was asked for before the address was known. */
static void mails_early(struct work *work, struct contact *contact)
{
    for (int64_t template = 0; template <EMAIL_TEMPLATES; template ++) {
        if (!(contact->early & INT64_C(1) << template))
            continue;
        struct mail *mail =
            rows_get(work, &mails_table, &(struct mail){.order_id = contact->order_id, .template = template});
        if (mail && contact->state == CONTACT_INVALID)
            rows_delete(work, &mails_table, mail);
        else if (mail)
            mail_send(work, mail, contact);
    }
    contact->early = 0;
}

static void placed_keys(struct work *work, const struct event *event)
{
    want(work, event->key, EMAIL_ORDER_RECEIVED);
}

static enum outcome on_order_placed(struct work *work, const struct event *event, struct error *error)
{
    const struct order_placed *order = event->data;
    struct codec_faults faults; /* not cleared whole: it is large */
    faults.count = 0;
    struct contact *contact = contact_row(work, order->order_id);
    if (!contact || contact->state != CONTACT_UNKNOWN)
        return OK;
    if (order_placed_valid(order, &faults)) {
        contact->state = CONTACT_KNOWN;
        contact->email = order->email;
        contact->locale = order->locale;
        contact->currency = order->currency;
        contact->total_minor = order->total_minor;
        contact->items = items_pack(work_arena(work), order->items, order->items_count);
        if (!contact->items.at)
            return error_retry(error, "memory", "no room for the items in this batch");
    } else {
        contact->state = CONTACT_INVALID;
    }
    mail_ask(work, contact, &(struct mail){.order_id = order->order_id, .template = EMAIL_ORDER_RECEIVED});
    mails_early(work, contact);
    return OK;
}

/* The first decision in the log counts; later ones are passed. */
static enum outcome decided(struct work *work, struct text order_id, enum email_template template,
                            struct text reason)
{
    struct contact *contact = contact_row(work, order_id);
    if (!contact || contact->decided)
        return OK;
    contact->decided = 1;
    mail_ask(work, contact,
             &(struct mail){.order_id = order_id,
                            .template = template,
                            .detail = clean(work, reason, EMAIL_DETAIL_BYTES_MAX)});
    return OK;
}

static void confirmed_keys(struct work *work, const struct event *event)
{
    want(work, event->key, EMAIL_ORDER_CONFIRMED);
}

static enum outcome on_order_confirmed(struct work *work, const struct event *event, struct error *error)
{
    (void)error;
    return decided(work, event->key, EMAIL_ORDER_CONFIRMED, TEXT(""));
}

static void rejected_keys(struct work *work, const struct event *event)
{
    want(work, event->key, EMAIL_ORDER_REJECTED);
}

static enum outcome on_order_rejected(struct work *work, const struct event *event, struct error *error)
{
    (void)error;
    return decided(work, event->key, EMAIL_ORDER_REJECTED,
                   ((const struct order_rejected *)event->data)->reason);
}

static void cancelled_keys(struct work *work, const struct event *event)
{
    want(work, event->key, EMAIL_ORDER_CANCELLED);
}

static enum outcome on_order_cancelled(struct work *work, const struct event *event, struct error *error)
{
    (void)error;
    return decided(work, event->key, EMAIL_ORDER_CANCELLED,
                   ((const struct order_cancelled *)event->data)->reason);
}

static void captured_keys(struct work *work, const struct event *event)
{
    want(work, event->key, EMAIL_PAYMENT_RECEIPT);
}

static enum outcome on_payment_captured(struct work *work, const struct event *event, struct error *error)
{
    const struct payment_captured *captured = event->data;
    struct contact *contact = contact_row(work, event->key);
    (void)error;
    if (contact)
        mail_ask(work, contact,
                 &(struct mail){.order_id = captured->order_id,
                                .template = EMAIL_PAYMENT_RECEIPT,
                                .amount_minor = captured->amount_minor,
                                .currency = clean(work, captured->currency, EMAIL_CURRENCY_BYTES_MAX)});
    return OK;
}

static void refunded_keys(struct work *work, const struct event *event)
{
    want(work, event->key, EMAIL_PAYMENT_REFUND);
}

static enum outcome on_payment_refunded(struct work *work, const struct event *event, struct error *error)
{
    const struct payment_refunded *refunded = event->data;
    struct contact *contact = contact_row(work, event->key);
    (void)error;
    if (contact)
        mail_ask(work, contact,
                 &(struct mail){.order_id = refunded->order_id,
                                .template = EMAIL_PAYMENT_REFUND,
                                .amount_minor = refunded->amount_minor,
                                .currency = clean(work, refunded->currency, EMAIL_CURRENCY_BYTES_MAX)});
    return OK;
}

static const struct subscription email_subscriptions[] = {
    {.type = &order_placed_type, .keys = placed_keys, .handle = on_order_placed, .ordering = UNORDERED},
    {.type = &order_confirmed_type,
     .keys = confirmed_keys,
     .handle = on_order_confirmed,
     .ordering = UNORDERED},
    {.type = &order_rejected_type, .keys = rejected_keys, .handle = on_order_rejected, .ordering = UNORDERED},
    {.type = &order_cancelled_type,
     .keys = cancelled_keys,
     .handle = on_order_cancelled,
     .ordering = UNORDERED},
    {.type = &payment_captured_type,
     .keys = captured_keys,
     .handle = on_payment_captured,
     .ordering = UNORDERED},
    {.type = &payment_refunded_type,
     .keys = refunded_keys,
     .handle = on_payment_refunded,
     .ordering = UNORDERED},
    {0},
};

/* ---- the clock */

static struct mail *mail_of(struct work *work, const struct contact *contact, int64_t template)
{
    return rows_get(work, &mails_table, &(struct mail){.order_id = contact->order_id, .template = template});
}

/*
 * An order that others speak of and nobody has placed: a cancellation of what never was, or an OrderPlaced
 * that is a dead letter. Its mails cannot wait for ever. Once it has left the topic it will not come.
 */
static void orphans_give_up(struct work *work, struct contact *contact)
{
    for (int64_t template = 0; template <EMAIL_TEMPLATES; template ++) {
        struct mail *mail = contact->early & INT64_C(1) << template ? mail_of(work, contact, template) : NULL;
        if (mail)
            mail_give_up(work, mail, TEXT("the order was never placed: there is no address"));
    }
    contact->early = 0;
}

static bool contact_over(struct work *work, void *found, int64_t before_us)
{
    const struct email_state *email = work_state(work);
    struct contact *contact = found;
    struct mail *mails[EMAIL_TEMPLATES];
    if (!contact->heard_at) /* of a database from before it was noted */
        contact->heard_at = work_now_us(work);
    if (contact->state == CONTACT_UNKNOWN && contact->early &&
        contact->heard_at < work_now_us(work) - email->wait_us)
        orphans_give_up(work, contact);
    if (contact->heard_at >= before_us || contact->early)
        return false;
    for (int64_t template = 0; template <EMAIL_TEMPLATES; template ++) {
        mails[template] = mail_of(work, contact, template);
        if (mails[template] &&
            (mails[template]->asked_at >= before_us ||
             (mails[template]->state != MAIL_SENT && mails[template]->state != MAIL_FAILED)))
            return false;
    }
    for (int template = 0; template <EMAIL_TEMPLATES; template ++)
        if (mails[template])
            rows_delete(work, &mails_table, mails[template]);
    return true;
}

static enum outcome on_prune(struct work *work, bool *ret_again, struct error *error)
{
    static const struct prune_table contacts = {.table = &contacts_table,
                                                .next = "order_id > $1 ORDER BY order_id",
                                                .over = contact_over,
                                                .always = true};
    struct email_state *email = work_state(work);
    (void)error;
    *ret_again = false;
    (void)prune_step(work, &email->prune, &contacts);
    return OK;
}

static const struct tick email_ticks[] = {
    {"prune", PRUNE_STEP_MS, on_prune},
    {0},
};

/* ---- settings and start */

static const struct setting email_settings[] = {
    /* A mail is not awaited by the millisecond; a batch of it is cheaper. */
    {"KAFKA_FETCH_WAIT", SETTING_DURATION, "20ms", 0, 500, NULL,
     "How long the broker may gather records before it answers a fetch: latency for less work. 0: not at "
     "all."},
    {"SMTP_URL", SETTING_URL, NULL, 0, 0, "smtp|smtps",
     "The mail server, smtp://[user:password@]host:port, smtps:// for TLS from the start."},
    {"EMAIL_FROM", SETTING_TEXT, "orders@weir.example", 0, 0, NULL, "Address that mails are from."},
    {"EMAIL_RATE", SETTING_RATE, "100/min", 0, 0, NULL,
     "Attempts begun at most, N/s, N/min or N/h; 0: no limit."},
    {"EMAIL_CONCURRENCY", SETTING_INT, "8", 1, LANES_CONCURRENCY_MAX, NULL, "Mails on their way at once."},
    {"EMAIL_TIMEOUT", SETTING_DURATION, "30s", 100, 600 * 1000, NULL, "One attempt."},
    {"EMAIL_AMBIGUOUS", SETTING_CHOICE, "resend", 0, 0, "resend|park",
     "A mail that may have been sent: send it again, with the same Message-ID, or leave it as failed."},
    {"EMAIL_WAIT_MAX", SETTING_DURATION, "7d", 60 * 1000, INT64_C(365) * 86400 * 1000, NULL,
     "How long a mail waits for its order's OrderPlaced, which has the address; then it has failed."},
    SETTINGS_END,
};

static const struct metric_family email_metrics[] = {
    {"weir_emails_total", METRIC_COUNTER, "result", "Attempts to send a mail, by what came of them.", NULL},
    {"weir_emails_ambiguous_total", METRIC_COUNTER, "",
     "Attempts that may have delivered the mail without our knowing.", NULL},
    {0},
};

static enum outcome settings_check(const struct config *config, struct error *error)
{
    const char *from = config_text(config, "EMAIL_FROM");
    if (config_text(config, "SMTP_URL") && strchr(from, '@') && net_address_valid(text_of(from)))
        return OK;
    if (config_text(config, "SMTP_URL"))
        error_set(error, FATAL, "setting", "EMAIL_FROM: %s is no mail address", from);
    else
        error_set(error, FATAL, "setting", "SMTP_URL is not set; weir mail is a mail server to try with");
    error->exit_code = EXIT_CONFIG;
    return FATAL;
}

static enum outcome email_start(void *state, const struct service_start *start, struct error *error)
{
    struct email_state *email = state;
    if (settings_check(start->config, error) != OK)
        return FATAL;
    email->smtp_url = config_text(start->config, "SMTP_URL");
    email->from = config_text(start->config, "EMAIL_FROM");
    email->resend = strcmp(config_text(start->config, "EMAIL_AMBIGUOUS"), "resend") == 0;
    email->wait_us = config_ms(start->config, "EMAIL_WAIT_MAX") * 1000;
    email->prune.age_us = config_ms(start->config, "FINISHED_AGE") * 1000;
    email->domain = text_of(strrchr(email->from, '@') + 1);
    email->ok = metrics_get(start->metrics, &email_metrics[0], "ok", NULL);
    email->retry = metrics_get(start->metrics, &email_metrics[0], "retry", NULL);
    email->failed = metrics_get(start->metrics, &email_metrics[0], "failed", NULL);
    email->outage = metrics_get(start->metrics, &email_metrics[0], "outage", NULL);
    email->ambiguous = metrics_get(start->metrics, &email_metrics[1], NULL);
    start->limits[0].concurrency = (int)config_int(start->config, "EMAIL_CONCURRENCY");
    start->limits[0].timeout_ms = (int)config_ms(start->config, "EMAIL_TIMEOUT");
    start->limits[0].rate_per_hour = config_int(start->config, "EMAIL_RATE");
    return OK;
}

static enum outcome email_check(const struct config *config,
                                void (*say)(const char *part, enum outcome outcome, const char *text),
                                struct error *error)
{
    enum { PATIENCE_MS = 5000 };
    (void)error;
    struct error why;
    enum outcome outcome = settings_check(config, &why);
    if (outcome == OK)
        outcome = net_reach(config_text(config, "SMTP_URL"), PATIENCE_MS, &why);
    say("smtp", outcome, outcome == OK ? "answers" : why.text);
    return OK;
}

static const enum topic_id email_writes[] = {TOPIC_EMAILS, TOPIC_COUNT};

extern const char email_openapi[];

const struct service email_service = {
    .name = "email",
    .about = "tells customers by e-mail what became of their orders",
    .http_port = 8084,
    .settings = email_settings,
    .subscriptions = email_subscriptions,
    .routes = email_routes,
    .ticks = email_ticks,
    .lanes = email_lanes,
    .tables = email_tables,
    .migrations = email_migrations,
    .writes = email_writes,
    .metrics = email_metrics,
    .state_bytes = sizeof(struct email_state),
    .start = email_start,
    .check = email_check,
    .openapi = email_openapi,
};
