#include "books.h"
#include "cli.h"
#include "mails.h"

#include "base/ids.h"
#include "base/json.h"
#include "items.h"
#include "kafka/admin.h"
#include "kafka/reader.h"
#include "store/waiting.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    ARENA_BYTES = 16 << 20,
    POLL_MS = 1000,
    TABLE_MIN = 1 << 12,
    CURRENCIES_MAX = 200,
    GOODS_MAX = 1 << 20,
    SKU_BYTES_MAX = 64,
};

/* As the services number them in their databases. */
enum { ORDER_ACCEPTED = 1, ORDER_RESERVED, ORDER_CONFIRMED, ORDER_REJECTED, ORDER_CANCELLED, ORDER_STATES };
enum { RESERVATION_NONE, RESERVATION_HELD, RESERVATION_TAKEN, RESERVATION_RELEASED, RESERVATION_REJECTED };
enum {
    PAYMENT_PENDING,
    PAYMENT_CHARGING,
    PAYMENT_CAPTURED,
    PAYMENT_FAILED,
    PAYMENT_REFUNDING,
    PAYMENT_REFUNDED,
    PAYMENT_REFUND_FAILED
};
enum { MAIL_STATE_WAITING, MAIL_STATE_RETRYING, MAIL_STATE_SENT, MAIL_STATE_FAILED };

/* What all of them say about one order. */
struct account {
    struct id id;
    uint8_t on_topic, decision; /* `orders`: OrderPlaced was there; the first decision, as an order status */
    uint8_t status, valid;      /* order's database; 0: not placed there */
    uint8_t reservation, payment;
    uint8_t by_gateway;        /* it was captured through the gateway */
    uint8_t in_ledger;         /* the gateway captured this very payment */
    uint8_t dead, lacks;       /* it has a dead letter; and is not what it would be without */
    uint8_t mails, mails_open; /* rows of the mail service, settled or not; a bit a template */
    uint8_t currency;
    int64_t total_minor;
    int64_t amount_minor; /* captured */
    int64_t refunded_minor;
    uint64_t payment_hash;
};

struct money {
    char currency[4];
    int64_t captured, refunded, confirmed, confirmed_orders,
        open;     /* open: captured, of orders without a decision */
    int64_t dead; /* kept more than is due, of orders with dead letters */
    int64_t ledger_captured, ledger_refunded, other_captured; /* other: not by this gateway */
};

struct goods {
    char sku[SKU_BYTES_MAX + 1];
    int64_t available, reserved, put_in, held, shipped;
};

/* Open addressing over an array of structs that begin with what they are known by. */
struct index {
    uint32_t *slots; /* number + 1 */
    size_t slot_count, count, capacity;
};

struct letter {
    uint64_t hash; /* of the Message-ID */
    uint32_t times;
    uint32_t named; /* by rows of the mail service */
};

struct books {
    const struct books_settings *settings;
    struct registry *registry;
    struct arena *arena;
    struct account *accounts;
    struct index account_index;
    struct goods *goods;
    struct index goods_index;
    struct letter *letters;
    struct index letter_index;
    struct money money[CURRENCIES_MAX];
    size_t money_count;

    bool trimmed;      /* the topic no longer has its beginning */
    bool no_topic;     /* Kafka did not answer */
    bool failed;       /* out of memory */
    int64_t unhandled; /* records not yet read by a service, rows not yet relayed, calls not yet answered */
    int64_t by_status[ORDER_STATES];
    int64_t mails_sent, mails_failed, mails_open, mails_missing;
    int64_t dead_letters, dead_orders,
        lacking;       /* lacking: of these, orders on which the parts do not agree */
    int64_t in_motion; /* accounts that differ while something is unhandled */
    int64_t differences;
};

/* ---- small tables */

/* The slot of what equals; or the empty one where it would stand. */
static uint32_t *slot_of(struct index *index, uint64_t hash,
                         bool (*equals)(const void *all, size_t number, const void *key), const void *all,
                         const void *key)
{
    size_t at = hash & (index->slot_count - 1);
    while (index->slots[at] && !equals(all, index->slots[at] - 1, key))
        at = (at + 1) & (index->slot_count - 1);
    return &index->slots[at];
}

/* Room for one more; false when out of memory. Slots are made again by hash_at. */
static bool index_grow(struct index *index, void **all, size_t item_bytes,
                       uint64_t (*hash_at)(const void *all, size_t number))
{
    if (index->count < index->capacity)
        return true;
    size_t capacity = index->capacity ? index->capacity * 2 : TABLE_MIN;
    void *grown = realloc(*all, capacity * item_bytes);
    uint32_t *slots = calloc(capacity * 2, sizeof(*slots));
    if (grown)
        *all = grown;
    if (!grown || !slots) {
        free(slots);
        return false;
    }
    free(index->slots);
    index->slots = slots;
    index->slot_count = capacity * 2;
    index->capacity = capacity;
    for (size_t i = 0; i < index->count; i++) {
        size_t at = hash_at(*all, i) & (index->slot_count - 1);
        while (slots[at])
            at = (at + 1) & (index->slot_count - 1);
        slots[at] = (uint32_t)i + 1;
    }
    return true;
}

static uint64_t id_hash(struct id id)
{
    return text_hash((struct text){(const char *)id.bytes, sizeof(id.bytes)});
}

static uint64_t account_hash(const void *all, size_t number)
{
    return id_hash(((const struct account *)all)[number].id);
}

static bool account_equals(const void *all, size_t number, const void *key)
{
    return id_equal(((const struct account *)all)[number].id, *(const struct id *)key);
}

/* The order's account, made where there is none. Never NULL: out of memory it is one that counts for nothing.
 */
static struct account *account_of(struct books *books, struct text order_id)
{
    static struct account nobody;
    void *all = books->accounts;
    struct id id = id_from_text(order_id);
    if (books->account_index.count >= BOOKS_ORDERS_MAX ||
        !index_grow(&books->account_index, &all, sizeof(struct account), account_hash)) {
        books->accounts = all;
        books->failed = true;
        return &nobody;
    }
    books->accounts = all;
    uint32_t *slot = slot_of(&books->account_index, id_hash(id), account_equals, all, &id);
    if (!*slot) {
        books->accounts[books->account_index.count] = (struct account){.id = id};
        *slot = (uint32_t)++books->account_index.count;
    }
    return &books->accounts[*slot - 1];
}

static uint64_t goods_hash(const void *all, size_t number)
{
    return text_hash(text_of(((const struct goods *)all)[number].sku));
}

static bool goods_equals(const void *all, size_t number, const void *key)
{
    return text_is(*(const struct text *)key, ((const struct goods *)all)[number].sku);
}

static struct goods *goods_of(struct books *books, struct text sku)
{
    static struct goods nothing;
    void *all = books->goods;
    if (sku.length > SKU_BYTES_MAX || books->goods_index.count >= GOODS_MAX ||
        !index_grow(&books->goods_index, &all, sizeof(struct goods), goods_hash)) {
        books->goods = all;
        books->failed = true;
        return &nothing;
    }
    books->goods = all;
    uint32_t *slot = slot_of(&books->goods_index, text_hash(sku), goods_equals, all, &sku);
    if (!*slot) {
        struct goods *goods = &books->goods[books->goods_index.count];
        *goods = (struct goods){.available = 0};
        memcpy(goods->sku, sku.at, sku.length);
        *slot = (uint32_t)++books->goods_index.count;
    }
    return &books->goods[*slot - 1];
}

static uint64_t letter_hash(const void *all, size_t number)
{
    return ((const struct letter *)all)[number].hash;
}

static bool letter_equals(const void *all, size_t number, const void *key)
{
    return ((const struct letter *)all)[number].hash == *(const uint64_t *)key;
}

static struct letter *letter_of(struct books *books, struct text message_id)
{
    static struct letter none;
    void *all = books->letters;
    uint64_t hash = text_hash(message_id);
    if (!index_grow(&books->letter_index, &all, sizeof(struct letter), letter_hash)) {
        books->letters = all;
        books->failed = true;
        return &none;
    }
    books->letters = all;
    uint32_t *slot = slot_of(&books->letter_index, hash, letter_equals, all, &hash);
    if (!*slot) {
        books->letters[books->letter_index.count] = (struct letter){.hash = hash};
        *slot = (uint32_t)++books->letter_index.count;
    }
    return &books->letters[*slot - 1];
}

static uint8_t currency_of(struct books *books, struct text code)
{
    for (size_t i = 0; i < books->money_count; i++)
        if (text_is(code, books->money[i].currency))
            return (uint8_t)i;
    if (books->money_count == CURRENCIES_MAX || code.length > 3) {
        books->failed = true;
        return 0;
    }
    memcpy(books->money[books->money_count].currency, code.at, code.length);
    return (uint8_t)books->money_count++;
}

/* ---- the topic of orders */

static void take_event(struct books *books, const struct event_type *type, const void *data)
{
    struct account *account =
        account_of(books, *(const struct text *)(const void *)((const char *)data + type->key_offset));
    static const uint8_t decisions[] = {[2] = ORDER_CONFIRMED, [3] = ORDER_REJECTED, [4] = ORDER_CANCELLED};
    if (type->number == 1)
        account->on_topic = 1;
    else if (type->number <= 4 && !account->decision)
        account->decision = decisions[type->number];
}

static void take_record(struct books *books, const struct record *record)
{
    struct error ignored; /* dead letters are counted where they are dead */
    struct text datum;
    int32_t schema_id;
    const struct event_type *type = NULL;
    const struct codec_plan *plan;
    const void *data;
    arena_reset(books->arena);
    if (!record->value_null && frame_read(record->value, &schema_id, &datum, &ignored) == OK &&
        registry_plan(books->registry, schema_id, &type, &plan, &ignored) == OK &&
        codec_decode(plan, datum, books->arena, &data, &ignored) == OK && type->topic == TOPIC_ORDERS &&
        !cli_contradicts(record, type, data, books->arena))
        take_event(books, type, data);
}

static enum outcome read_topic(struct books *books, struct error *error)
{
    enum { PARTITIONS_MAX = 1024 };
    static const char *const topics[] = {"orders", NULL};
    bool seen[PARTITIONS_MAX] = {false};
    struct reader *reader = NULL;
    bool end = false;
    int64_t heard_us = 0;
    enum outcome outcome = reader_open(&books->settings->client, topics, READER_BEGINNING, 0, true,
                                       BOOKS_READ_MS, NULL, &reader, error);
    while (outcome == OK && !end) {
        struct record record;
        bool got;
        outcome = cli_read_on(reader, BOOKS_SILENT_MS, &heard_us, &record, &got, &end, error);
        if (outcome != OK || !got)
            continue;
        if (record.partition < PARTITIONS_MAX && !seen[record.partition]) {
            seen[record.partition] = true;
            books->trimmed |= record.offset > 0;
        }
        take_record(books, &record);
        reader_release(&record);
    }
    reader_close(reader);
    return outcome;
}

static void count_unread_of(struct books *books, struct admin *admin, const char *group, const char *topic,
                            bool is_retry)
{
    for (int32_t partition = 0; partition < TOPIC_PARTITIONS && !books->no_topic; partition++) {
        int64_t committed, high;
        struct error error;
        enum outcome outcome =
            admin_group_offset(admin, group, topic, partition, POLL_MS, &committed, &high, &error);
        if (outcome == OUTAGE || (outcome != OK && !is_retry))
            books->no_topic = true; /* not asked again: 60 time-outs would be a minute */
        else if (outcome == OK && high > (committed > 0 ? committed : 0) && (committed >= 0 || is_retry))
            books->unhandled += high - (committed > 0 ? committed : 0);
    }
}

/* Records that a service has yet to read, or to try again. */
static void count_unread(struct books *books)
{
    static const struct {
        const char *service, *group, *topics[4];
    } reads[] = {
        {"order", "weir-order", {"orders", "inventory", "payments"}},
        {"inventory", "weir-inventory", {"orders", "payments"}},
        {"payment", "weir-payment", {"orders", "inventory", "payments"}},
        {"email", "weir-email", {"orders", "payments"}},
    };
    const struct books_settings *settings = books->settings;
    struct admin *admin;
    struct error ignored;
    char retry[TOPIC_NAME_BYTES_MAX];
    if (admin_open(&settings->client, &admin, &ignored) != OK)
        return;
    for (size_t i = 0; i < sizeof(reads) / sizeof(reads[0]); i++) {
        for (size_t j = 0; reads[i].topics[j]; j++)
            count_unread_of(books, admin, reads[i].group, reads[i].topics[j], false);
        for (size_t j = 0; j < settings->retry_delay_count; j++)
            count_unread_of(books, admin, reads[i].group,
                            topic_retry(reads[i].service, settings->retry_delays_ms[j], retry), true);
    }
    admin_close(admin);
}

/* Of the services that have a part in an order; what analytics could not count is nobody's money. */
static enum outcome read_dead_letters(struct books *books, struct error *error)
{
    static const char *const topics[] = {"dlq.order", "dlq.inventory", "dlq.payment", "dlq.email", NULL};
    struct reader *reader = NULL;
    bool end = false;
    int64_t heard_us = 0;
    enum outcome outcome = reader_open(&books->settings->client, topics, READER_BEGINNING, 0, true,
                                       BOOKS_READ_MS, NULL, &reader, error);
    while (outcome == OK && !end) {
        struct record record;
        bool got;
        outcome = cli_read_on(reader, BOOKS_SILENT_MS, &heard_us, &record, &got, &end, error);
        if (outcome != OK || !got)
            continue;
        books->dead_letters++;
        if (!record.key_null)
            account_of(books, record.key)->dead = 1;
        reader_release(&record);
    }
    reader_close(reader);
    return outcome;
}

/* ---- databases */

typedef bool row_fn(void *owner, const struct store_row *row);

static enum outcome read_rows(struct books *books, const char *url, const char *service, const char *sql,
                              row_fn *each, struct error *error)
{
    struct store_reader *reader = NULL;
    enum outcome outcome = store_reader_open(url, service, &reader, error);
    if (outcome == OK)
        outcome = store_read(reader, sql, NULL, 0, each, books, error);
    if (outcome != OK)
        error_prefix(error, "%s's database", service);
    store_reader_close(reader);
    return outcome;
}

static bool each_pending(void *owner, const struct store_row *row)
{
    ((struct books *)owner)->unhandled += store_row_int(row, 0);
    return true;
}

/* A key that waits for a redrive waits for people; one whose head is tried again is under way. */
static bool each_held(void *owner, const struct store_row *row)
{
    struct books *books = owner;
    if (store_row_int(row, 1) == HELD_DEAD)
        account_of(books, store_row_text(row, 0))->dead = 1;
    else
        books->unhandled += 1 + store_row_int(row, 2);
    return true;
}

static bool each_reservation(void *owner, const struct store_row *row)
{
    struct books *books = owner;
    struct order_item *items;
    size_t count;
    struct account *account = account_of(books, store_row_text(row, 0));
    account->reservation = (uint8_t)store_row_int(row, 1);
    if (account->reservation != RESERVATION_HELD)
        return true;
    arena_reset(books->arena);
    if (!items_unpack(books->arena, store_row_text(row, 2), &items, &count))
        return true;
    for (size_t i = 0; i < count; i++)
        goods_of(books, items[i].sku)->held += items[i].quantity;
    return true;
}

static bool each_stock(void *owner, const struct store_row *row)
{
    struct goods *goods = goods_of(owner, store_row_text(row, 0));
    goods->available = store_row_int(row, 1);
    goods->reserved = store_row_int(row, 2);
    goods->put_in = store_row_int(row, 3);
    return true;
}

/* After the reservations: what is taken is told by inventory, what was in it by the order. */
static bool each_order(void *owner, const struct store_row *row)
{
    struct books *books = owner;
    struct order_item *items;
    size_t count;
    struct account *account = account_of(books, store_row_text(row, 0));
    struct text packed = store_row_text(row, 4);
    account->status = (uint8_t)store_row_int(row, 1);
    account->total_minor = store_row_int(row, 2);
    account->valid = packed.length > 0;
    if (account->valid)
        account->currency = currency_of(books, store_row_text(row, 3));
    if (account->reservation != RESERVATION_TAKEN)
        return true;
    arena_reset(books->arena);
    if (!items_unpack(books->arena, packed, &items, &count))
        return true;
    for (size_t i = 0; i < count; i++)
        goods_of(books, items[i].sku)->shipped += items[i].quantity;
    return true;
}

static bool was_captured(uint8_t state)
{
    return state == PAYMENT_CAPTURED || state == PAYMENT_REFUNDING || state == PAYMENT_REFUNDED ||
           state == PAYMENT_REFUND_FAILED;
}

static bool each_payment(void *owner, const struct store_row *row)
{
    struct books *books = owner;
    struct account *account = account_of(books, store_row_text(row, 0));
    account->payment = (uint8_t)store_row_int(row, 1);
    if (!was_captured(account->payment))
        return true;
    account->amount_minor = store_row_int(row, 2);
    account->by_gateway = text_is(store_row_text(row, 4), "gateway");
    account->payment_hash = text_hash(store_row_text(row, 5));
    uint8_t currency = currency_of(books, store_row_text(row, 3));
    struct money *money = &books->money[currency];
    if (!account->status) /* order knows nothing of it */
        account->currency = currency;
    money->captured += account->amount_minor;
    if (!account->by_gateway)
        money->other_captured += account->amount_minor;
    return true;
}

/* Also of a second capture, which is then counted as captured here. */
static bool each_refund(void *owner, const struct store_row *row)
{
    struct books *books = owner;
    struct account *account = account_of(books, store_row_text(row, 0));
    int64_t amount_minor = store_row_int(row, 2);
    struct money *money = &books->money[currency_of(books, store_row_text(row, 3))];
    bool second = text_hash(store_row_text(row, 1)) != account->payment_hash;
    if (second)
        money->captured += amount_minor;
    if (store_row_int(row, 4) != PAYMENT_REFUNDED)
        return true;
    money->refunded += amount_minor;
    if (!second)
        account->refunded_minor += amount_minor;
    return true;
}

static bool each_mail(void *owner, const struct store_row *row)
{
    struct books *books = owner;
    struct account *account = account_of(books, store_row_text(row, 0));
    int64_t template = store_row_int(row, 1), state = store_row_int(row, 2);
    struct text message_id = store_row_text(row, 3);
    if (template <0 || template >= MAIL_COUNT)
        return true;
    account->mails |= mail_bit((enum mail) template);
    books->mails_sent += state == MAIL_STATE_SENT;
    books->mails_failed += state == MAIL_STATE_FAILED;
    if (state == MAIL_STATE_WAITING || state == MAIL_STATE_RETRYING) {
        books->mails_open++;
        account->mails_open |= mail_bit((enum mail) template);
    }
    if (!message_id.length)
        return true;
    struct letter *letter = letter_of(books, message_id);
    letter->named++;
    books->mails_missing += state == MAIL_STATE_SENT && letter->times == 0;
    return true;
}

/* ---- files of a JSON object a line */

static enum outcome read_lines(struct books *books, const char *path,
                               void (*each)(struct books *books, const json_t *line), struct error *error)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    FILE *file = path ? fopen(path, "re") : NULL;
    if (!path || (!file && errno == ENOENT))
        return OK;
    if (!file)
        return error_outage(error, "file", "%s: %s", path, strerror(errno));
    while ((length = getline(&line, &capacity, file)) > 0) {
        json_t *json = NULL;
        struct error ignored;
        while (length && (line[length - 1] == '\n' || line[length - 1] == '\r'))
            length--;
        /* A last line that was cut off by a kill was never answered for. */
        if (json_read((struct text){line, (size_t)length}, &json, &ignored) == OK)
            each(books, json);
        json_decref(json);
    }
    free(line);
    fclose(file);
    return OK;
}

static void each_letter(struct books *books, const json_t *line)
{
    letter_of(books, json_text(line, "message_id"))->times++;
}

static void each_entry(struct books *books, const json_t *line)
{
    struct text status = json_text(line, "status");
    int64_t amount_minor = json_integer_value(json_object_get(line, "amount_minor"));
    struct money *money = &books->money[currency_of(books, json_text(line, "currency"))];
    if (text_is(status, "captured")) {
        struct account *account = account_of(books, json_text(line, "order_id"));
        money->ledger_captured += amount_minor;
        if (account->payment_hash == text_hash(json_text(line, "payment_id")))
            account->in_ledger = 1;
    } else if (text_is(status, "refunded")) {
        money->ledger_refunded += amount_minor;
    }
}

/* ---- comparing */

PRINTF_LIKE(2, 3) static void differ(struct books *books, const char *format, ...)
{
    va_list arguments;
    books->differences++;
    if (books->differences > BOOKS_SAID_MAX)
        return;
    printf("  !  ");
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
}

/* While anything is unhandled, an order on which the parts do not agree is one that is under way; one with a
 * dead letter lacks what that would have done. */
PRINTF_LIKE(3, 4)
static void order_differs(struct books *books, struct account *account, const char *format, ...)
{
    char id[ID_TEXT_BYTES], text[160];
    va_list arguments;
    if (account->dead) {
        account->lacks = 1;
        return;
    }
    if (books->unhandled || books->no_topic) {
        books->in_motion++;
        return;
    }
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    differ(books, "order %.*s: %s", TEXT_ARG(id_to_text(account->id, id)), text);
}

static const char *status_name(uint8_t status)
{
    static const char *const names[ORDER_STATES] = {"unknown",   "accepted", "reserved",
                                                    "confirmed", "rejected", "cancelled"};
    return status < ORDER_STATES ? names[status] : "?";
}

static void check_mails(struct books *books, struct account *account)
{
    static const uint8_t of_status[ORDER_STATES] = {[ORDER_CONFIRMED] = 1U << MAIL_CONFIRMED,
                                                    [ORDER_REJECTED] = 1U << MAIL_REJECTED,
                                                    [ORDER_CANCELLED] = 1U << MAIL_CANCELLED};
    if (!account->valid)
        return;
    uint8_t wanted = (uint8_t)(mail_bit(MAIL_RECEIVED) | of_status[account->decision]);
    if (was_captured(account->payment))
        wanted |= mail_bit(MAIL_RECEIPT);
    if (account->refunded_minor)
        wanted |= mail_bit(MAIL_REFUND);
    for (int mail = 0; mail < MAIL_COUNT; mail++)
        if (wanted & ~account->mails & mail_bit((enum mail)mail))
            order_differs(books, account, "no mail %s was made", mail_names[mail]);
}

/* Of an order with a decision; one without is under way. */
static void check_ended(struct books *books, struct account *account)
{
    bool confirmed = account->status == ORDER_CONFIRMED;
    int64_t kept_minor = was_captured(account->payment) ? account->amount_minor - account->refunded_minor : 0;
    if (account->decision && account->decision != account->status)
        order_differs(books, account, "%s on the topic, %s in order's database",
                      status_name(account->decision), status_name(account->status));
    if (!account->decision && !books->trimmed)
        order_differs(books, account, "%s in order's database, nothing on the topic",
                      status_name(account->status));
    if (account->payment == PAYMENT_CHARGING || account->payment == PAYMENT_REFUNDING) {
        books->in_motion++;
        return;
    }
    if (account->dead)
        books->money[account->currency].dead += kept_minor - (confirmed ? account->total_minor : 0);
    if (kept_minor != (confirmed ? account->total_minor : 0))
        order_differs(books, account, "%s, %lld minor units to be kept, %lld are",
                      status_name(account->status), (long long)(confirmed ? account->total_minor : 0),
                      (long long)kept_minor);
    if (account->reservation == RESERVATION_HELD)
        order_differs(books, account, "%s, its stock is still reserved", status_name(account->status));
    if (confirmed && account->reservation != RESERVATION_TAKEN)
        order_differs(books, account, "confirmed, its stock was not taken");
    if (!confirmed && account->reservation == RESERVATION_TAKEN)
        order_differs(books, account, "%s, its stock was taken", status_name(account->status));
}

static void check_order(struct books *books, struct account *account)
{
    struct money *money = &books->money[account->currency];
    if (account->status == 0 || account->status >= ORDER_STATES) {
        if (account->on_topic)
            order_differs(books, account, "placed on the topic, not in order's database");
        if (account->dead && was_captured(account->payment))
            money->dead += account->amount_minor - account->refunded_minor;
        return;
    }
    books->by_status[account->status]++;
    if (!account->on_topic && !books->trimmed)
        order_differs(books, account, "in order's database, OrderPlaced is not on the topic");
    if (account->status == ORDER_CONFIRMED) {
        money->confirmed += account->total_minor;
        money->confirmed_orders++;
    } else if (account->status < ORDER_CONFIRMED && was_captured(account->payment)) {
        money->open += account->amount_minor;
    }
    if (account->status >= ORDER_CONFIRMED)
        check_ended(books, account);
    check_mails(books, account);
    if (books->settings->ledger && account->by_gateway && was_captured(account->payment) &&
        !account->in_ledger)
        order_differs(books, account, "captured, but not in the gateway's ledger");
}

static void check_orders(struct books *books)
{
    for (size_t i = 0; i < books->account_index.count; i++) {
        struct account *account = &books->accounts[i];
        check_order(books, account);
        books->dead_orders += account->dead;
        books->lacking += account->lacks;
    }
}

/* ---- saying */

/* 1234567 as 1,234,567. At most four in one line. */
static const char *number(int64_t value)
{
    static char texts[8][32];
    static unsigned at;
    char digits[24];
    char *into = texts[at++ % 8];
    int length = snprintf(digits, sizeof(digits), "%lld", value < 0 ? -(long long)value : (long long)value),
        out = 0;
    if (value < 0)
        into[out++] = '-';
    for (int i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0)
            into[out++] = ',';
        into[out++] = digits[i];
    }
    into[out] = '\0';
    return into;
}

static void say_orders(const struct books *books)
{
    int64_t open = books->by_status[ORDER_ACCEPTED] + books->by_status[ORDER_RESERVED], placed = open;
    for (int i = ORDER_CONFIRMED; i < ORDER_STATES; i++)
        placed += books->by_status[i];
    printf("  orders  %s placed = %s confirmed + %s rejected + %s cancelled + %s under way\n", number(placed),
           number(books->by_status[ORDER_CONFIRMED]), number(books->by_status[ORDER_REJECTED]),
           number(books->by_status[ORDER_CANCELLED]), number(open));
    if (open)
        printf("          what is under way goes on at the next start\n");
    if (books->dead_letters)
        printf("          %s dead letters of %s orders (weir dlq list); %s of these lack what they would "
               "have done\n",
               number(books->dead_letters), number(books->dead_orders), number(books->lacking));
    if (books->unhandled)
        printf("          %s events and calls are left for the next start\n", number(books->unhandled));
}

static void say_stock(struct books *books)
{
    int64_t put_in = 0, available = 0, reserved = 0, shipped = 0;
    for (size_t i = 0; i < books->goods_index.count; i++) {
        const struct goods *goods = &books->goods[i];
        put_in += goods->put_in;
        available += goods->available;
        reserved += goods->reserved;
        shipped += goods->shipped;
    }
    printf("  stock   %s units put in = %s available + %s reserved + %s shipped, of %s SKUs\n",
           number(put_in), number(available), number(reserved), number(shipped),
           number((int64_t)books->goods_index.count));
    for (size_t i = 0; i < books->goods_index.count; i++) {
        const struct goods *goods = &books->goods[i];
        if (goods->put_in != goods->available + goods->reserved + goods->shipped)
            differ(books, "SKU %s: %lld put in, but %lld available + %lld reserved + %lld shipped",
                   goods->sku, (long long)goods->put_in, (long long)goods->available,
                   (long long)goods->reserved, (long long)goods->shipped);
        if (goods->reserved != goods->held)
            differ(books, "SKU %s: %lld reserved, but orders hold %lld", goods->sku,
                   (long long)goods->reserved, (long long)goods->held);
    }
}

static void say_money(struct books *books)
{
    for (size_t i = 0; i < books->money_count; i++) {
        const struct money *money = &books->money[i];
        printf("  %-7s %s %s captured - %s refunded = %s of %s confirmed orders%s%s", i ? "" : "money",
               money->currency, number(money->captured), number(money->refunded),
               number(money->captured - money->refunded), number(money->confirmed_orders),
               money->open ? " and of open ones " : "", money->open ? number(money->open) : "");
        printf("%s%s (minor units)\n", money->dead ? ", and that dead letters would have moved " : "",
               money->dead ? number(money->dead) : "");
        bool moving = books->unhandled || books->in_motion || books->no_topic;
        if (money->captured - money->refunded != money->confirmed + money->open + money->dead && !moving)
            differ(books, "%s: %lld kept, %lld are due for confirmed orders", money->currency,
                   (long long)(money->captured - money->refunded),
                   (long long)(money->confirmed + money->open + money->dead));
        if (books->settings->ledger && money->ledger_captured != money->captured - money->other_captured &&
            !moving)
            differ(books, "%s: the gateway's ledger has %lld captured, payment has %lld", money->currency,
                   (long long)money->ledger_captured, (long long)(money->captured - money->other_captured));
        if (books->settings->ledger && money->ledger_refunded != money->refunded && !moving)
            differ(books, "%s: the gateway's ledger has %lld refunded, payment has %lld", money->currency,
                   (long long)money->ledger_refunded, (long long)money->refunded);
    }
}

static void say_mails(struct books *books)
{
    int64_t distinct = 0, again = 0, strangers = 0;
    for (size_t i = 0; i < books->letter_index.count; i++) {
        const struct letter *letter = &books->letters[i];
        distinct += letter->times > 0;
        again += letter->times > 1 ? letter->times - 1 : 0;
        strangers += letter->times > 0 && letter->named == 0;
    }
    printf("  mails   %s sent, %s failed, %s under way", number(books->mails_sent),
           number(books->mails_failed), number(books->mails_open));
    if (!books->settings->mail_index) {
        printf(" (to a mail server that is not ours to look into)\n");
        return;
    }
    printf("; the mail sink has %s, and %s delivered more than once\n", number(distinct), number(again));
    if (books->mails_missing)
        differ(books, "%lld mails are said to be sent and are not in the mail sink",
               (long long)books->mails_missing);
    if (strangers)
        differ(books, "%lld mails in the mail sink that email knows nothing of", (long long)strangers);
}

static enum outcome read_all(struct books *books, struct error *error)
{
    const struct books_settings *settings = books->settings;
    const struct {
        const char *url, *service, *sql;
        row_fn *each;
    } queries[] = {
        {settings->order_url, "order", "SELECT coalesce(sum(events), 0) FROM outbox_pack", each_pending},
        {settings->inventory_url, "inventory", "SELECT coalesce(sum(events), 0) FROM outbox_pack",
         each_pending},
        {settings->payment_url, "payment", "SELECT coalesce(sum(events), 0) FROM outbox_pack", each_pending},
        {settings->email_url, "email", "SELECT coalesce(sum(events), 0) FROM outbox_pack", each_pending},
        {settings->payment_url, "payment", "SELECT count(*) FROM calls", each_pending},
        {settings->email_url, "email", "SELECT count(*) FROM calls", each_pending},
        {settings->order_url, "order", "SELECT key, state, waiting FROM held", each_held},
        {settings->inventory_url, "inventory", "SELECT key, state, waiting FROM held", each_held},
        {settings->payment_url, "payment", "SELECT key, state, waiting FROM held", each_held},
        {settings->email_url, "email", "SELECT key, state, waiting FROM held", each_held},
        {settings->inventory_url, "inventory", "SELECT order_id, state, items FROM reservations",
         each_reservation},
        {settings->inventory_url, "inventory", "SELECT sku, available, reserved, put_in FROM stock",
         each_stock},
        {settings->order_url, "order",
         "SELECT order_id, status, total_minor, currency, items FROM orders WHERE placed = 1", each_order},
        {settings->payment_url, "payment",
         "SELECT order_id, state, amount_minor, currency, provider, payment_id FROM payments", each_payment},
        {settings->payment_url, "payment",
         "SELECT order_id, payment_id, amount_minor, currency, state FROM refunds", each_refund},
        {settings->email_url, "email", "SELECT order_id, template, state, message_id FROM mails", each_mail},
    };
    enum outcome outcome = cli_registry(settings->client.config, &books->registry, error);
    if (outcome == OK && (read_topic(books, error) != OK || read_dead_letters(books, error) != OK))
        books->no_topic = true; /* what the databases say is worth knowing all the same */
    if (outcome == OK)
        outcome = read_lines(books, settings->mail_index, each_letter,
                             error); /* before the rows, which name the letters */
    for (size_t i = 0; outcome == OK && i < sizeof(queries) / sizeof(queries[0]); i++)
        outcome =
            read_rows(books, queries[i].url, queries[i].service, queries[i].sql, queries[i].each, error);
    if (outcome == OK)
        outcome = read_lines(books, settings->ledger, each_entry,
                             error); /* after the payments, which it is compared with */
    if (outcome == OK && books->failed)
        outcome = error_fatal(error, "memory", "more than there is memory for");
    if (outcome == OK && !books->no_topic)
        count_unread(books);
    return outcome;
}

enum outcome books_print(const struct books_settings *settings, bool *ret_balanced, struct error *error)
{
    struct books *books = calloc(1, sizeof(*books));
    if (!books)
        return error_fatal(error, "memory", "out of memory");
    books->settings = settings;
    books->arena = arena_new(ARENA_BYTES);
    enum outcome outcome;
    if (books->arena)
        outcome = read_all(books, error);
    else
        outcome = error_fatal(error, "memory", "out of memory");
    if (outcome == OK) {
        printf("\nThe books\n");
        check_orders(books);
        say_orders(books);
        say_stock(books);
        say_money(books);
        say_mails(books);
        if (books->differences > BOOKS_SAID_MAX)
            printf("  !  and %s more\n", number(books->differences - BOOKS_SAID_MAX));
        if (books->no_topic)
            printf("  Kafka did not answer: the topics were not compared, and what the databases do not "
                   "agree on is taken as under way.\n");
        if (books->trimmed)
            printf("  The topic no longer has its beginning: orders that are older were compared in the "
                   "databases only.\n");
        if (books->differences)
            printf("  They do not balance: %s differences.\n", number(books->differences));
        else
            printf(books->no_topic ? "  What could be compared balances.\n" : "  They balance.\n");
        fflush(stdout);
        *ret_balanced = books->differences == 0;
    }
    registry_close(books->registry);
    arena_destroy(books->arena);
    free(books->accounts);
    free(books->account_index.slots);
    free(books->goods);
    free(books->goods_index.slots);
    free(books->letters);
    free(books->letter_index.slots);
    free(books);
    return outcome;
}
