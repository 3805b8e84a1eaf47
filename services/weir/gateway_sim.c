#include "weir/gateway_sim.h"

#include "base/clock.h"
#include "base/digest.h"
#include "base/json.h"
#include "weir/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    KEY_BYTES_MAX = 128,
    ID_BYTES_MAX = 64,
    CURRENCY_BYTES = 3,
    REASON_BYTES_MAX = 64,
    ROUND_BYTES_MAX = 64 << 20
};

enum entry_kind { ENTRY_CHARGE, ENTRY_REFUND };

/* One line of the ledger. */
struct entry {
    struct entry *next_of_key, *next_of_payment; /* in their hash slots */
    int64_t n;
    enum entry_kind kind;
    char key[KEY_BYTES_MAX + 1];
    char payment_id[ID_BYTES_MAX + 1];
    char order_id[ID_BYTES_MAX + 1], customer_id[ID_BYTES_MAX + 1]; /* charges */
    char currency[CURRENCY_BYTES + 1];
    int64_t amount_minor, refunded_minor; /* the latter of a charge */
    bool declined;
    int64_t at_us;
    struct visitor *under_way; /* whose request made it and is not answered yet */
};

struct gateway {
    struct gateway_settings settings;
    struct listener *listener;
    int ledger_fd;
    struct entry **entries; /* by n - 1 */
    size_t count, capacity;
    struct entry **by_key, **by_payment; /* hash tables of slots places, a power of two */
    size_t slots;
    struct buffer lines; /* of the ledger, for this round */
    uint64_t random;
    atomic_llong charges, declines, refunds, repeats, timeouts, lost;
};

/* A connection. */
struct caller {
    struct entry *entry; /* the one that it waits for */
    int status;          /* of the answer that is due */
    char body[512];
};

static uint64_t draw(struct gateway *gateway)
{
    gateway->random ^= gateway->random << 13;
    gateway->random ^= gateway->random >> 7;
    gateway->random ^= gateway->random << 17;
    return gateway->random;
}

static bool happens(struct gateway *gateway, uint32_t ppm)
{
    return draw(gateway) % FAILURES_PPM < ppm;
}

/* ---- ledger */

static struct entry *find_key(const struct gateway *gateway, const char *key)
{
    struct entry *entry =
        gateway->slots ? gateway->by_key[text_hash(text_of(key)) & (gateway->slots - 1)] : NULL;
    while (entry && strcmp(entry->key, key) != 0)
        entry = entry->next_of_key;
    return entry;
}

static struct entry *find_charge(const struct gateway *gateway, const char *payment_id)
{
    struct entry *entry =
        gateway->slots ? gateway->by_payment[text_hash(text_of(payment_id)) & (gateway->slots - 1)] : NULL;
    while (entry && strcmp(entry->payment_id, payment_id) != 0)
        entry = entry->next_of_payment;
    return entry;
}

static void put_in_slots(struct gateway *gateway, struct entry *entry)
{
    struct entry **slot = &gateway->by_key[text_hash(text_of(entry->key)) & (gateway->slots - 1)];
    entry->next_of_key = *slot;
    *slot = entry;
    if (entry->kind != ENTRY_CHARGE)
        return;
    slot = &gateway->by_payment[text_hash(text_of(entry->payment_id)) & (gateway->slots - 1)];
    entry->next_of_payment = *slot;
    *slot = entry;
}

static bool grow(struct gateway *gateway)
{
    if (gateway->count < gateway->capacity)
        return true;
    size_t capacity = gateway->capacity ? gateway->capacity * 2 : 1024;
    if (capacity > GATEWAY_ENTRIES_MAX)
        return false;
    struct entry **entries = realloc(gateway->entries, capacity * sizeof(*entries));
    if (entries)
        gateway->entries = entries;
    struct entry **by_key = calloc(capacity, sizeof(*by_key)),
                 **by_payment = calloc(capacity, sizeof(*by_payment));
    if (!entries || !by_key || !by_payment) {
        free(by_key);
        free(by_payment);
        return false;
    }
    free(gateway->by_key);
    free(gateway->by_payment);
    gateway->by_key = by_key;
    gateway->by_payment = by_payment;
    gateway->capacity = gateway->slots = capacity;
    for (size_t i = 0; i < gateway->count; i++)
        put_in_slots(gateway, gateway->entries[i]);
    return true;
}

/* Takes a copy of what is given into the books; a refund counts against its charge. NULL when there is no
 * room. */
static struct entry *enter(struct gateway *gateway, const struct entry *given)
{
    struct entry *entry = grow(gateway) ? malloc(sizeof(*entry)) : NULL;
    if (!entry)
        return NULL;
    *entry = *given;
    entry->n = (int64_t)gateway->count + 1;
    gateway->entries[gateway->count++] = entry;
    put_in_slots(gateway, entry);
    if (entry->kind == ENTRY_REFUND) {
        find_charge(gateway, entry->payment_id)->refunded_minor += entry->amount_minor;
        atomic_fetch_add(&gateway->refunds, 1);
    } else if (entry->declined) {
        atomic_fetch_add(&gateway->declines, 1);
    } else {
        atomic_fetch_add(&gateway->charges, 1);
    }
    return entry;
}

static void write_entry(struct json_writer *writer, const struct entry *entry)
{
    json_object_begin(writer);
    json_member_int(writer, "n", entry->n);
    json_member_string(writer, "kind", entry->kind == ENTRY_CHARGE ? "charge" : "refund");
    json_member_string(writer, "key", entry->key);
    json_member_string(writer, "payment_id", entry->payment_id);
    if (entry->kind == ENTRY_CHARGE) {
        json_member_string(writer, "order_id", entry->order_id);
        json_member_string(writer, "customer_id", entry->customer_id);
    }
    json_member_int(writer, "amount_minor", entry->amount_minor);
    json_member_string(writer, "currency", entry->currency);
    json_member_string(writer, "status",
                       entry->kind == ENTRY_REFUND ? "refunded"
                       : entry->declined           ? "declined"
                                                   : "captured");
    json_member_time(writer, "at", entry->at_us);
    json_object_end(writer);
}

static bool copy_text(char *into, size_t bytes_max, struct text text)
{
    if (!text_is_printable(text, bytes_max))
        return false;
    memcpy(into, text.at, text.length);
    into[text.length] = '\0';
    return true;
}

/* The members that an entry has in common with the request that makes it. False: *ret_field is wrong. */
static bool read_members(const json_t *json, struct entry *entry, const char **ret_field)
{
    const json_t *amount = json_object_get(json, "amount_minor");
    const char *field = NULL;
    if (entry->kind == ENTRY_CHARGE && !copy_text(entry->order_id, ID_BYTES_MAX, json_text(json, "order_id")))
        field = "order_id";
    else if (entry->kind == ENTRY_CHARGE &&
             !copy_text(entry->customer_id, ID_BYTES_MAX, json_text(json, "customer_id")))
        field = "customer_id";
    else if (entry->kind == ENTRY_REFUND &&
             !copy_text(entry->payment_id, ID_BYTES_MAX, json_text(json, "payment_id")))
        field = "payment_id";
    else if (!json_is_integer(amount) || json_integer_value(amount) < 0)
        field = "amount_minor";
    else if (json_text(json, "currency").length != CURRENCY_BYTES ||
             !copy_text(entry->currency, CURRENCY_BYTES, json_text(json, "currency")))
        field = "currency";
    else
        entry->amount_minor = json_integer_value(amount);
    *ret_field = field;
    return field == NULL;
}

static bool read_line(struct gateway *gateway, struct text line)
{
    json_t *json;
    if (json_read(line, &json, NULL) != OK)
        return false;
    struct entry entry = {.kind = text_is(json_text(json, "kind"), "refund") ? ENTRY_REFUND : ENTRY_CHARGE};
    const char *field;
    bool read = copy_text(entry.key, KEY_BYTES_MAX, json_text(json, "key")) &&
                read_members(json, &entry, &field) &&
                copy_text(entry.payment_id, ID_BYTES_MAX, json_text(json, "payment_id")) &&
                clock_from_rfc3339(json_text(json, "at"), &entry.at_us) &&
                (entry.kind == ENTRY_CHARGE || find_charge(gateway, entry.payment_id));
    entry.declined = text_is(json_text(json, "status"), "declined");
    json_decref(json);
    return read && enter(gateway, &entry);
}

/* Half a line at the end is from a crash: it was not answered, so it is taken away. Any other line must be
 * readable. */
static enum outcome open_ledger(struct gateway *gateway, struct error *error)
{
    const char *directory = gateway->settings.directory;
    char path[1024];
    snprintf(path, sizeof(path), "%s/ledger.ndjson", directory);
    if (mkdir(directory, 0755) != 0 && errno != EEXIST)
        return error_outage(error, "directory", "cannot make %s: %s", directory, strerror(errno));
    gateway->ledger_fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    int copy_fd = gateway->ledger_fd >= 0 ? dup(gateway->ledger_fd) : -1;
    FILE *ledger = copy_fd >= 0 ? fdopen(copy_fd, "r") : NULL;
    if (!ledger) {
        if (copy_fd >= 0)
            close(copy_fd);
        return error_outage(error, "directory", "cannot open %s: %s", path, strerror(errno));
    }
    enum outcome outcome = OK;
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    off_t whole = 0;
    while (outcome == OK && (length = getline(&line, &room, ledger)) > 0 && line[length - 1] == '\n') {
        if (!read_line(gateway, (struct text){line, (size_t)length - 1}))
            outcome = error_fatal(error, "ledger", "%s: line %zu cannot be read", path, gateway->count + 1);
        whole += length;
    }
    free(line);
    fclose(ledger);
    if (outcome == OK && ftruncate(gateway->ledger_fd, whole) != 0)
        outcome = error_outage(error, "directory", "cannot write %s: %s", path, strerror(errno));
    return outcome;
}

static enum outcome on_round(void *owner, struct error *error)
{
    struct gateway *gateway = owner;
    const char *at = gateway->lines.at;
    size_t left = gateway->lines.length;
    if (!left || gateway->ledger_fd < 0) {
        buffer_clear(&gateway->lines);
        return OK;
    }
    bool written = !gateway->lines.failed;
    while (written && left) {
        ssize_t count = write(gateway->ledger_fd, at, left);
        written = count > 0 || (count < 0 && errno == EINTR);
        at += count > 0 ? count : 0;
        left -= count > 0 ? (size_t)count : 0;
    }
    if (!written || fdatasync(gateway->ledger_fd) != 0)
        return error_outage(error, "write", "cannot write %s/ledger.ndjson: %s", gateway->settings.directory,
                            strerror(errno));
    buffer_clear(&gateway->lines);
    return OK;
}

/* ---- answers */

static void say(struct visitor *visitor, int status, struct text body)
{
    static const struct {
        int status;
        const char *reason;
    } reasons[] = {{200, "OK"},
                   {400, "Bad Request"},
                   {402, "Payment Required"},
                   {404, "Not Found"},
                   {405, "Method Not Allowed"},
                   {409, "Conflict"},
                   {411, "Length Required"},
                   {413, "Content Too Large"},
                   {422, "Unprocessable Content"},
                   {503, "Service Unavailable"}};
    const char *reason = "";
    for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
        if (reasons[i].status == status)
            reason = reasons[i].reason;
    bool problem = status >= 400 && status != 402;
    buffer_print(&visitor->out,
                 "HTTP/1.1 %d %s\r\nContent-Type: application/%s\r\nContent-Length: %zu\r\n%s\r\n", status,
                 reason, problem ? "problem+json" : "json", body.length,
                 visitor->close ? "Connection: close\r\n" : "");
    buffer_add_text(&visitor->out, body);
}

static void say_problem(struct visitor *visitor, int status, const char *detail)
{
    struct buffer body = buffer_of(2048);
    struct json_writer writer = json_writer(&body);
    json_object_begin(&writer);
    json_member_string(&writer, "type", "about:blank");
    json_member_int(&writer, "status", status);
    json_member_string(&writer, "detail", detail);
    json_object_end(&writer);
    say(visitor, status, buffer_text(&body));
    buffer_free(&body);
}

/* Now, or after the latency. */
static void answer_entry(struct gateway *gateway, struct visitor *visitor, struct entry *entry)
{
    struct caller *caller = visitor->state;
    const struct gateway_settings *settings = &gateway->settings;
    caller->status = entry->declined ? 402 : 200;
    snprintf(caller->body, sizeof(caller->body), "{\"payment_id\":\"%s\",\"status\":\"%s\"%s}",
             entry->payment_id,
             entry->kind == ENTRY_REFUND ? "refunded"
             : entry->declined           ? "declined"
                                         : "captured",
             entry->declined ? ",\"reason\":\"card declined\"" : "");
    int64_t spread_ms = settings->latency_max_ms - settings->latency_min_ms;
    int64_t latency_ms =
        settings->latency_min_ms + (spread_ms > 0 ? (int64_t)(draw(gateway) % (uint64_t)(spread_ms + 1)) : 0);
    if (latency_ms <= 0) {
        say(visitor, caller->status, text_of(caller->body));
        return;
    }
    if (!entry->under_way) {
        entry->under_way = visitor;
        caller->entry = entry;
    }
    visitor->busy = true;
    visitor->due_us = clock_monotonic_us() + latency_ms * 1000;
}

static void let_go(struct visitor *visitor)
{
    struct caller *caller = visitor->state;
    if (caller->entry && caller->entry->under_way == visitor)
        caller->entry->under_way = NULL;
    caller->entry = NULL;
}

static void on_due(void *owner, struct visitor *visitor)
{
    (void)owner;
    struct caller *caller = visitor->state;
    let_go(visitor);
    say(visitor, caller->status, text_of(caller->body));
}

static void on_closed(void *owner, struct visitor *visitor)
{
    (void)owner;
    let_go(visitor);
}

/* ---- requests */

static bool same_request(const struct entry *a, const struct entry *b)
{
    return a->kind == b->kind && a->amount_minor == b->amount_minor &&
           strcmp(a->currency, b->currency) == 0 && strcmp(a->order_id, b->order_id) == 0 &&
           strcmp(a->customer_id, b->customer_id) == 0 &&
           (a->kind == ENTRY_CHARGE || strcmp(a->payment_id, b->payment_id) == 0);
}

static void name_payment(struct entry *entry)
{
    uint8_t digest[DIGEST_BYTES];
    char hex[24];
    digest_sha256(text_of(entry->key), digest);
    digest_to_hex(digest, sizeof(hex) / 2, hex);
    snprintf(entry->payment_id, sizeof(entry->payment_id), "pay_%.24s", hex);
}

/* What stands against a refund; 0 when nothing does. */
static int refund_refused(const struct gateway *gateway, const struct entry *refund, const char **ret_detail)
{
    const struct entry *charge = find_charge(gateway, refund->payment_id);
    if (!charge || charge->declined) {
        *ret_detail = "there is no such payment";
        return 404;
    }
    if (strcmp(charge->currency, refund->currency) != 0 ||
        refund->amount_minor > charge->amount_minor - charge->refunded_minor) {
        *ret_detail = "more than was captured, or in another currency";
        return 422;
    }
    return 0;
}

static void on_post(struct gateway *gateway, struct visitor *visitor, enum entry_kind kind, struct text key,
                    struct text body)
{
    struct entry asked = {.kind = kind, .at_us = clock_wall_us()};
    struct error error;
    json_t *json = NULL;
    const char *detail = "Idempotency-Key is missing or longer than 128 bytes";
    if (key.length >= 2 && key.at[0] == '"' && key.at[key.length - 1] == '"')
        key = (struct text){key.at + 1, key.length - 2};
    if (!copy_text(asked.key, KEY_BYTES_MAX, key) || json_read(body, &json, &error) != OK ||
        !json_is_object(json)) {
        if (*asked.key)
            detail = json ? "not a JSON object" : error.text;
        say_problem(visitor, 400, detail);
        json_decref(json);
        return;
    }
    const char *field;
    bool read = read_members(json, &asked, &field);
    json_decref(json);
    if (!read) {
        char text[64];
        snprintf(text, sizeof(text), "%s is missing or wrong", field);
        say_problem(visitor, 422, text);
        return;
    }
    struct entry *entry = find_key(gateway, asked.key);
    if (entry && !same_request(entry, &asked)) {
        say_problem(visitor, 422, "this Idempotency-Key was used with another payload");
        return;
    }
    if (entry && entry->under_way) {
        say_problem(visitor, 409, "the first request with this Idempotency-Key is still under way");
        return;
    }
    if (happens(gateway, gateway->settings.failures.timeout_ppm)) {
        atomic_fetch_add(&gateway->timeouts, 1);
        visitor->busy = true; /* until the caller has enough */
        return;
    }
    if (happens(gateway, gateway->settings.failures.refuse_ppm)) {
        say_problem(visitor, 503, "not now, as asked for");
        return;
    }
    if (entry) {
        atomic_fetch_add(&gateway->repeats, 1);
    } else {
        int refused = kind == ENTRY_REFUND ? refund_refused(gateway, &asked, &detail) : 0;
        if (refused) {
            say_problem(visitor, refused, detail);
            return;
        }
        if (kind == ENTRY_CHARGE) {
            name_payment(&asked);
            asked.declined =
                strncmp(asked.customer_id, "declined-", 9) == 0 ||
                happens(gateway, (uint32_t)gateway->settings.decline_percent * FAILURES_PPM_PER_PERCENT);
        }
        entry = enter(gateway, &asked);
        if (!entry) {
            say_problem(visitor, 503, "the ledger is full");
            return;
        }
        struct json_writer writer = json_writer(&gateway->lines);
        write_entry(&writer, entry);
        buffer_add_char(&gateway->lines, '\n');
    }
    if (happens(gateway, gateway->settings.failures.lost_ppm)) {
        atomic_fetch_add(&gateway->lost, 1);
        visitor->cut = true;
        return;
    }
    answer_entry(gateway, visitor, entry);
}

struct total {
    char currency[CURRENCY_BYTES + 1];
    int64_t charges, captured_minor, refunds, refunded_minor;
};
enum { CURRENCIES_MAX = 64 };

static size_t add_up(const struct gateway *gateway, struct total totals[CURRENCIES_MAX])
{
    size_t count = 0;
    for (size_t i = 0; i < gateway->count; i++) {
        const struct entry *entry = gateway->entries[i];
        if (entry->declined)
            continue;
        size_t at = 0;
        while (at < count && strcmp(totals[at].currency, entry->currency) != 0)
            at++;
        if (at == CURRENCIES_MAX)
            continue;
        if (at == count) {
            totals[count] = (struct total){0};
            memcpy(totals[count++].currency, entry->currency, sizeof(entry->currency));
        }
        struct total *total = &totals[at];
        if (entry->kind == ENTRY_CHARGE) {
            total->charges++;
            total->captured_minor += entry->amount_minor;
        } else {
            total->refunds++;
            total->refunded_minor += entry->amount_minor;
        }
    }
    return count;
}

static int64_t query_number(struct text query, const char *name, int64_t otherwise)
{
    size_t length = strlen(name);
    while (query.length) {
        const char *end = memchr(query.at, '&', query.length);
        size_t bytes = end ? (size_t)(end - query.at) : query.length;
        int64_t value;
        if (bytes > length && memcmp(query.at, name, length) == 0 && query.at[length] == '=' &&
            text_to_int64((struct text){query.at + length + 1, bytes - length - 1}, &value) && value >= 0)
            return value;
        query.at += bytes + (end != NULL);
        query.length -= bytes + (end != NULL);
    }
    return otherwise;
}

static void on_ledger(struct gateway *gateway, struct visitor *visitor, struct text query)
{
    struct total totals[CURRENCIES_MAX];
    size_t total_count = add_up(gateway, totals);
    size_t after = (size_t)query_number(query, "after", 0);
    int64_t limit = query_number(query, "limit", 1000);
    if (limit > GATEWAY_PAGE_MAX)
        limit = GATEWAY_PAGE_MAX;
    struct buffer body = buffer_of(8 << 20);
    struct json_writer writer = json_writer(&body);
    json_object_begin(&writer);
    json_member_int(&writer, "entries_count", (int64_t)gateway->count);
    json_member_int(&writer, "declined", atomic_load(&gateway->declines));
    json_key(&writer, "totals");
    json_array_begin(&writer);
    for (size_t i = 0; i < total_count; i++) {
        json_object_begin(&writer);
        json_member_string(&writer, "currency", totals[i].currency);
        json_member_int(&writer, "charges", totals[i].charges);
        json_member_int(&writer, "captured_minor", totals[i].captured_minor);
        json_member_int(&writer, "refunds", totals[i].refunds);
        json_member_int(&writer, "refunded_minor", totals[i].refunded_minor);
        json_object_end(&writer);
    }
    json_array_end(&writer);
    json_key(&writer, "entries");
    json_array_begin(&writer);
    size_t at = after < gateway->count ? after : gateway->count;
    for (int64_t i = 0; i < limit && at < gateway->count; i++, at++)
        write_entry(&writer, gateway->entries[at]);
    json_array_end(&writer);
    json_key(&writer, "next");
    if (at < gateway->count)
        json_put_int(&writer, (int64_t)at);
    else
        json_put_null(&writer);
    json_object_end(&writer);
    if (body.failed)
        say_problem(visitor, 503, "the page is too large, ask for fewer");
    else
        say(visitor, 200, buffer_text(&body));
    buffer_free(&body);
}

/* ---- HTTP/1.1, as much as is needed */

struct head {
    struct text method, path, query;
    struct text key;
    int64_t content_length;
    bool close, chunked;
};

static struct text trim(struct text text)
{
    while (text.length && (*text.at == ' ' || *text.at == '\t'))
        text.at++, text.length--;
    while (text.length && (text.at[text.length - 1] == ' ' || text.at[text.length - 1] == '\t'))
        text.length--;
    return text;
}

static bool read_first_line(struct text line, struct head *head)
{
    const char *first = memchr(line.at, ' ', line.length);
    const char *second = first ? memchr(first + 1, ' ', line.length - (size_t)(first - line.at) - 1) : NULL;
    if (!second || line.length - (size_t)(second - line.at) < 9 || memcmp(second + 1, "HTTP/1.", 7) != 0)
        return false;
    head->method = (struct text){line.at, (size_t)(first - line.at)};
    head->path = (struct text){first + 1, (size_t)(second - first) - 1};
    head->close = second[8] == '0';
    const char *mark = memchr(head->path.at, '?', head->path.length);
    if (mark) {
        head->query = (struct text){mark + 1, head->path.length - (size_t)(mark - head->path.at) - 1};
        head->path.length = (size_t)(mark - head->path.at);
    }
    return head->path.length > 0 && head->path.at[0] == '/';
}

static bool read_head(struct text text, struct head *head)
{
    bool first = true;
    while (text.length) {
        const char *end = memmem(text.at, text.length, "\r\n", 2);
        if (!end)
            return false;
        struct text line = {text.at, (size_t)(end - text.at)};
        text.at += line.length + 2;
        text.length -= line.length + 2;
        if (first) {
            if (!read_first_line(line, head))
                return false;
            first = false;
            continue;
        }
        const char *colon = line.length ? memchr(line.at, ':', line.length) : NULL;
        if (!colon)
            return false;
        struct text name = {line.at, (size_t)(colon - line.at)};
        struct text value = trim((struct text){colon + 1, line.length - name.length - 1});
        if (text_equal_nocase(name, TEXT("content-length"))) {
            if (!text_to_int64(value, &head->content_length) || head->content_length < 0)
                return false;
        } else if (text_equal_nocase(name, TEXT("transfer-encoding"))) {
            head->chunked = true;
        } else if (text_equal_nocase(name, TEXT("connection"))) {
            head->close = head->close || text_equal_nocase(value, TEXT("close"));
        } else if (text_equal_nocase(name, TEXT("idempotency-key"))) {
            head->key = value;
        }
    }
    return !first;
}

static void on_request(struct gateway *gateway, struct visitor *visitor, const struct head *head,
                       struct text body)
{
    bool post = text_is(head->method, "POST"), get = text_is(head->method, "GET");
    bool charges = text_is(head->path, "/v1/charges"), refunds = text_is(head->path, "/v1/refunds");
    bool ledger = text_is(head->path, "/v1/ledger"), alive = text_is(head->path, "/livez");
    if (post && (charges || refunds))
        on_post(gateway, visitor, charges ? ENTRY_CHARGE : ENTRY_REFUND, head->key, body);
    else if (get && ledger)
        on_ledger(gateway, visitor, head->query);
    else if (get && alive)
        say(visitor, 200, TEXT("{\"status\":\"ok\"}"));
    else
        say_problem(visitor, charges || refunds || ledger ? 405 : 404,
                    "POST /v1/charges, POST /v1/refunds, GET /v1/ledger");
}

static void refuse(struct visitor *visitor, int status, const char *detail)
{
    visitor->close = true;
    say_problem(visitor, status, detail);
}

static void on_data(void *owner, struct visitor *visitor)
{
    struct gateway *gateway = owner;
    while (!visitor->busy && !visitor->close && !visitor->cut && visitor->in.length) {
        const char *blank = memmem(visitor->in.at, visitor->in.length, "\r\n\r\n", 4);
        if (!blank) {
            if (visitor->in.length > GATEWAY_HEADER_BYTES_MAX)
                refuse(visitor, 400, "headers are too long");
            return;
        }
        size_t head_bytes = (size_t)(blank - visitor->in.at) + 4;
        struct head head = {0};
        if (!read_head((struct text){visitor->in.at, head_bytes - 2}, &head)) {
            refuse(visitor, 400, "not HTTP/1.1");
            return;
        }
        if (head.chunked || head.content_length > GATEWAY_BODY_BYTES_MAX) {
            refuse(visitor, head.chunked ? 411 : 413, "a body with Content-Length, at most 64 KiB");
            return;
        }
        size_t body_bytes = (size_t)head.content_length;
        if (visitor->in.length - head_bytes < body_bytes)
            return;
        visitor->close = head.close;
        on_request(gateway, visitor, &head, (struct text){visitor->in.at + head_bytes, body_bytes});
        listener_take(visitor, head_bytes + body_bytes);
    }
}

/* ---- life */

enum outcome gateway_open(const struct gateway_settings *settings, struct gateway **ret, struct error *error)
{
    struct gateway *gateway = calloc(1, sizeof(*gateway));
    if (!gateway)
        return error_retry(error, "memory", "out of memory");
    gateway->settings = *settings;
    gateway->ledger_fd = -1;
    gateway->random = (uint64_t)clock_wall_us() | 1;
    gateway->lines = buffer_of(ROUND_BYTES_MAX);
    const struct listener_settings listener = {
        .listen = settings->listen,
        .connections_max = GATEWAY_CONNECTIONS_MAX,
        .in_bytes_max = GATEWAY_HEADER_BYTES_MAX * 2 + GATEWAY_BODY_BYTES_MAX,
        .state_bytes = sizeof(struct caller),
        .away_us = settings->failures.away_us,
        .every_us = settings->failures.every_us,
        .owner = gateway,
        .data = on_data,
        .due = on_due,
        .closed = on_closed,
        .round = on_round,
    };
    enum outcome outcome = settings->directory ? open_ledger(gateway, error) : OK;
    if (outcome == OK)
        outcome = listener_open(&listener, &gateway->listener, error);
    if (outcome == OK)
        *ret = gateway;
    else
        gateway_close(gateway);
    return outcome;
}

const char *gateway_address(const struct gateway *gateway)
{
    return listener_address(gateway->listener);
}

enum outcome gateway_run(struct gateway *gateway, int stop_fd, struct error *error)
{
    return listener_run(gateway->listener, stop_fd, error);
}

void gateway_stop(struct gateway *gateway)
{
    listener_stop(gateway->listener);
}

struct gateway_counts gateway_counts(const struct gateway *gateway)
{
    return (struct gateway_counts){
        .charges = atomic_load(&gateway->charges),
        .declines = atomic_load(&gateway->declines),
        .refunds = atomic_load(&gateway->refunds),
        .repeats = atomic_load(&gateway->repeats),
        .timeouts = atomic_load(&gateway->timeouts),
        .lost = atomic_load(&gateway->lost),
    };
}

void gateway_close(struct gateway *gateway)
{
    if (!gateway)
        return;
    listener_close(gateway->listener);
    for (size_t i = 0; i < gateway->count; i++)
        free(gateway->entries[i]);
    free(gateway->entries);
    free(gateway->by_key);
    free(gateway->by_payment);
    buffer_free(&gateway->lines);
    if (gateway->ledger_fd >= 0)
        close(gateway->ledger_fd);
    free(gateway);
}
