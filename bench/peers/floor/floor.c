/*
 * The floor under all peers: the same work on the same tables with librdkafka and libpq alone, two round trips a
 * batch in a pipeline, arrays in binary, nothing allocated a record. It aborts at the first surprise, and has no
 * HTTP, no metrics, no retries, no dead letters: what it costs, nobody can go much below with these statements.
 * Settings as for every peer (../README.md).
 */
#include <endian.h>
#include <libpq-fe.h>
#include <librdkafka/rdkafka.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    BATCH_MAX = 10000,
    ITEMS_MAX = 16,
    SKUS_MAX = 4096, /* a power of 2 */
    SKU_MAX = 64,
    ITEMS_TEXT_MAX = ITEMS_MAX * (SKU_MAX + 96),
    VALUE_MAX = 192,
    UUID_TEXT = 36,
    TRACE_TEXT = 55,
    ORDER_PLACED = 101,
    STOCK_RESERVED = 501,
    STOCK_REJECTED = 601,
    PARAMETERS_MAX = 5,
    POLL_MS = 100,
    UUID_OID = 2950,
    TEXT_OID = 25,
    INT8_OID = 20,
    INT2_OID = 21,
    BYTEA_OID = 17,
    JSON_OID = 114,
};
#define TTL_US INT64_C(900000000)
#define POSTGRES_EPOCH_US INT64_C(946684800000000)

struct stock {
    char sku[SKU_MAX + 1];
    int64_t available, reserved;
    size_t batch; /* that read it last */
};

struct item {
    struct stock *stock;
    int64_t quantity, price;
};

struct arrival {
    unsigned char id[16], order[16], answer_id[16];
    char order_text[UUID_TEXT], trace[TRACE_TEXT];
    struct item items[ITEMS_MAX];
    size_t count, value_length;
    bool fresh, held;
    char value[VALUE_MAX];
};

static PGconn *conn;
static rd_kafka_t *consumer, *producer;
static rd_kafka_topic_t *inventory;
static struct stock stocks[SKUS_MAX], *touched[SKUS_MAX];
static struct arrival arrivals[BATCH_MAX];
static size_t touched_count, batch_number, in_flight;
static int64_t sent[BATCH_MAX]; /* outbox rows of the last batch */
static size_t sent_count;
static volatile sig_atomic_t ended;

static void give_up(const char *what, const char *why)
{
    fprintf(stderr, "floor: %s: %s\n", what, why);
    exit(70);
}

static int64_t clock_us(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* ---- PostgreSQL: parameters in one buffer, as arrays in binary */

static char *bytes;
static size_t length, room, offsets[PARAMETERS_MAX + 1], elements_at;
static uint32_t elements;
static int count;
static Oid types[PARAMETERS_MAX];

static void put(const void *from, size_t size)
{
    if (length + size > room) {
        room = (length + size) * 2;
        bytes = realloc(bytes, room);
        if (!bytes)
            give_up("memory", "none left");
    }
    memcpy(bytes + length, from, size);
    length += size;
}

static void put32(uint32_t value)
{
    uint32_t wire = htobe32(value);
    put(&wire, sizeof(wire));
}

static void array(Oid element, Oid type)
{
    types[count] = type;
    offsets[count++] = length;
    put32(1);
    put32(0);
    put32(element);
    elements_at = length;
    elements = 0;
    put32(0);
    put32(1);
}

static void element(const void *from, size_t size)
{
    uint32_t wire = htobe32(++elements);
    memcpy(bytes + elements_at, &wire, sizeof(wire));
    put32((uint32_t)size);
    put(from, size);
}

static void number(int64_t value)
{
    uint64_t wire = htobe64((uint64_t)value);
    element(&wire, sizeof(wire));
}

static void send_statement(const char *name, const char *sql, bool *prepared)
{
    const char *values[PARAMETERS_MAX];
    int lengths[PARAMETERS_MAX], formats[PARAMETERS_MAX];
    offsets[count] = length;
    for (int i = 0; i < count; i++) {
        values[i] = bytes + offsets[i];
        lengths[i] = (int)(offsets[i + 1] - offsets[i]);
        formats[i] = 1;
    }
    if (!*prepared && !PQsendPrepare(conn, name, sql, count, types))
        give_up("prepare", PQerrorMessage(conn));
    *prepared = true;
    if (!PQsendQueryPrepared(conn, name, count, values, lengths, formats, 1))
        give_up("send", PQerrorMessage(conn));
    count = 0;
    length = 0;
}
#define SEND(name, sql)                                                                                      \
    do {                                                                                                     \
        static bool prepared;                                                                                \
        send_statement(name, sql, &prepared);                                                                \
    } while (0)

static PGresult *next_result(void)
{
    for (;;) {
        int left = PQflush(conn);
        if (!PQisBusy(conn))
            return PQgetResult(conn);
        struct pollfd pollfd = {PQsocket(conn), (short)(left > 0 ? POLLIN | POLLOUT : POLLIN), 0};
        poll(&pollfd, 1, -1);
        if (!PQconsumeInput(conn))
            give_up("read", PQerrorMessage(conn));
    }
}

/* Waits for all that was sent; the results that have rows, in order. */
static size_t land(PGresult **ret, size_t most)
{
    size_t rows = 0;
    if (!PQpipelineSync(conn))
        give_up("sync", PQerrorMessage(conn));
    for (;;) {
        PGresult *result = next_result();
        if (!result)
            continue;
        ExecStatusType status = PQresultStatus(result);
        if (status == PGRES_TUPLES_OK && rows < most) {
            ret[rows++] = result;
            continue;
        }
        if (status != PGRES_COMMAND_OK && status != PGRES_PIPELINE_SYNC)
            give_up("statement", PQresultErrorMessage(result));
        PQclear(result);
        if (status == PGRES_PIPELINE_SYNC)
            return rows;
    }
}

static int64_t int_at(const PGresult *rows, int row, int column)
{
    uint64_t wire;
    memcpy(&wire, PQgetvalue(rows, row, column), sizeof(wire));
    return (int64_t)be64toh(wire);
}

/* ---- Avro, ids */

static uint64_t varint_take(const unsigned char **at, const unsigned char *end)
{
    uint64_t value = 0;
    for (unsigned shift = 0; *at < end && shift < 64; shift += 7) {
        unsigned char byte = *(*at)++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return value;
    }
    give_up("orders", "a number is cut");
    return 0;
}

static int64_t long_take(const unsigned char **at, const unsigned char *end)
{
    uint64_t value = varint_take(at, end);
    return (int64_t)(value >> 1) ^ -(int64_t)(value & 1);
}

static const unsigned char *text_take(const unsigned char **at, const unsigned char *end, size_t *ret)
{
    int64_t size = long_take(at, end);
    const unsigned char *text = *at;
    if (size < 0 || size > end - *at)
        give_up("orders", "a text is cut");
    *at += size;
    *ret = (size_t)size;
    return text;
}

static char *long_put(char *at, int64_t value)
{
    uint64_t left = ((uint64_t)value << 1) ^ (uint64_t)(value >> 63);
    for (; left >= 0x80; left >>= 7)
        *at++ = (char)(left | 0x80);
    *at++ = (char)left;
    return at;
}

static char *text_put(char *at, const char *text, size_t size)
{
    at = long_put(at, (int64_t)size);
    memcpy(at, text, size);
    return at + size;
}

static int digit(char c)
{
    return c <= '9' ? c - '0' : (c | 32) - 'a' + 10;
}

static void id_read(const char *text, size_t size, unsigned char *ret)
{
    if (size != UUID_TEXT)
        give_up("orders", "an id is no UUID");
    for (size_t i = 0, n = 0; n < 16; i += 2) {
        i += text[i] == '-';
        ret[n++] = (unsigned char)(digit(text[i]) << 4 | digit(text[i + 1]));
    }
}

static void id_write(const unsigned char *id, char *ret)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0, n = 0; n < 16; n++) {
        if (n == 4 || n == 6 || n == 8 || n == 10)
            ret[i++] = '-';
        ret[i++] = digits[id[n] >> 4];
        ret[i++] = digits[id[n] & 15];
    }
}

static struct stock *stock_of(const unsigned char *sku, size_t size)
{
    uint32_t hash = 2166136261u;
    if (size == 0 || size > SKU_MAX)
        give_up("orders", "no SKU");
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ sku[i]) * 16777619u;
    for (size_t i = hash % SKUS_MAX;; i = (i + 1) % SKUS_MAX) {
        if (!stocks[i].sku[0])
            memcpy(stocks[i].sku, sku, size);
        if (strncmp(stocks[i].sku, (const char *)sku, size) == 0 && !stocks[i].sku[size])
            return &stocks[i];
    }
}

static const char *header_of(const rd_kafka_headers_t *headers, const char *name, size_t *ret)
{
    const void *at;
    if (rd_kafka_header_get_last(headers, name, &at, ret))
        give_up("orders", "a header is missing");
    return at;
}

static void arrival_take(struct arrival *arrival, const rd_kafka_message_t *message)
{
    const unsigned char *at = message->payload, *end = at + message->len, *text;
    rd_kafka_headers_t *headers;
    size_t size;
    if (message->err || message->len < 5 || at[0] != 0 || at[3] != ORDER_PLACED >> 8 ||
        at[4] != (ORDER_PLACED & 0xff) || rd_kafka_message_headers(message, &headers))
        give_up("orders", "no OrderPlaced");
    const char *id = header_of(headers, "ce_id", &size);
    id_read(id, size, arrival->id);
    const char *trace = header_of(headers, "traceparent", &size);
    memcpy(arrival->trace, trace, size < TRACE_TEXT ? size : TRACE_TEXT);
    at += 5;
    text = text_take(&at, end, &size);
    id_read((const char *)text, size, arrival->order);
    memcpy(arrival->order_text, text, UUID_TEXT);
    for (int i = 0; i < 4; i++) /* customer_id, email, locale, currency */
        (void)text_take(&at, end, &size);
    (void)long_take(&at, end); /* total_minor */
    arrival->count = 0;
    for (int64_t block; (block = long_take(&at, end)) != 0;)
        for (; block > 0; block--) {
            if (arrival->count == ITEMS_MAX)
                give_up("orders", "too many items");
            struct item *item = &arrival->items[arrival->count++];
            text = text_take(&at, end, &size);
            item->stock = stock_of(text, size);
            item->quantity = long_take(&at, end);
            item->price = long_take(&at, end);
            if (item->stock->batch != batch_number) {
                *item->stock = (struct stock){.batch = batch_number};
                memcpy(item->stock->sku, text, size);
                touched[touched_count++] = item->stock;
            }
        }
    (void)long_take(&at, end); /* placed_at */
    if (at != end)
        give_up("orders", "trailing bytes");
    arrival->fresh = false;
    for (size_t i = 0; i < 16; i++) /* the same from the same, and another: enough for a floor */
        arrival->answer_id[i] = (unsigned char)(arrival->id[i] * 167 + 13);
}

/* ---- one batch */

static void decide(struct arrival *arrival, int64_t now_us)
{
    const struct item *missing = NULL;
    for (size_t i = 0; i < arrival->count && !missing; i++)
        if (arrival->items[i].stock->available < arrival->items[i].quantity)
            missing = &arrival->items[i];
    arrival->held = !missing;
    for (size_t i = 0; i < arrival->count && !missing; i++) {
        arrival->items[i].stock->available -= arrival->items[i].quantity;
        arrival->items[i].stock->reserved += arrival->items[i].quantity;
    }
    int schema = missing ? STOCK_REJECTED : STOCK_RESERVED;
    const char frame[5] = {0, 0, 0, (char)(schema >> 8), (char)(schema & 0xff)};
    memcpy(arrival->value, frame, sizeof(frame));
    char *at = text_put(arrival->value + sizeof(frame), arrival->order_text, UUID_TEXT);
    if (missing) {
        at = text_put(at, missing->stock->sku, strlen(missing->stock->sku));
        at = long_put(long_put(at, missing->quantity), missing->stock->available);
    } else {
        at = long_put(at, now_us + TTL_US);
    }
    arrival->value_length = (size_t)(long_put(at, now_us) - arrival->value);
}

static const char *kind_of(const struct arrival *arrival)
{
    return arrival->held ? "weir.StockReserved" : "weir.StockRejected";
}

static void answer_send(const struct arrival *arrival, const char *time_text)
{
    char id[UUID_TEXT];
    id_write(arrival->answer_id, id);
    rd_kafka_headers_t *headers = rd_kafka_headers_new(8);
    rd_kafka_header_add(headers, "ce_specversion", -1, "1.0", -1);
    rd_kafka_header_add(headers, "ce_id", -1, id, UUID_TEXT);
    rd_kafka_header_add(headers, "ce_source", -1, "/weir/inventory", -1);
    rd_kafka_header_add(headers, "ce_type", -1, kind_of(arrival), -1);
    rd_kafka_header_add(headers, "ce_time", -1, time_text, -1);
    rd_kafka_header_add(headers, "ce_subject", -1, arrival->order_text, UUID_TEXT);
    rd_kafka_header_add(headers, "content-type", -1, "application/avro", -1);
    rd_kafka_header_add(headers, "traceparent", -1, arrival->trace, TRACE_TEXT);
    while (rd_kafka_producev(producer, RD_KAFKA_VTYPE_RKT, inventory, RD_KAFKA_VTYPE_KEY,
                             (const void *)arrival->order_text, (size_t)UUID_TEXT, RD_KAFKA_VTYPE_VALUE,
                             (const void *)arrival->value, arrival->value_length, RD_KAFKA_VTYPE_MSGFLAGS,
                             (int)RD_KAFKA_MSG_F_COPY, RD_KAFKA_VTYPE_HEADERS, headers,
                             RD_KAFKA_VTYPE_END) == RD_KAFKA_RESP_ERR__QUEUE_FULL)
        rd_kafka_poll(producer, POLL_MS);
    in_flight++;
}

/* What is acknowledged leaves the outbox, with the next batch or when none comes. */
static void forget(void)
{
    while (in_flight > 0)
        rd_kafka_poll(producer, POLL_MS);
    if (sent_count == 0)
        return;
    array(INT8_OID, 1016);
    for (size_t i = 0; i < sent_count; i++)
        number(sent[i]);
    SEND("done", "DELETE FROM outbox WHERE seq = ANY($1)");
    sent_count = 0;
}

static void handle(rd_kafka_message_t **messages, size_t n)
{
    PGresult *rows[2];
    batch_number++;
    touched_count = 0;
    for (size_t i = 0; i < n; i++)
        arrival_take(&arrivals[i], messages[i]);

    SEND("begin", "BEGIN");
    array(UUID_OID, 2951);
    for (size_t i = 0; i < n; i++)
        element(arrivals[i].id, 16);
    SEND("note", "INSERT INTO inbox (id) SELECT unnest($1) ON CONFLICT DO NOTHING RETURNING id");
    array(TEXT_OID, 1009);
    for (size_t i = 0; i < touched_count; i++)
        element(touched[i]->sku, strlen(touched[i]->sku));
    SEND("get", "SELECT sku, available, reserved FROM stock WHERE sku = ANY($1) ORDER BY sku FOR UPDATE");
    if (land(rows, 2) != 2)
        give_up("statement", "no rows");
    size_t at = 0;
    for (int row = 0; row < PQntuples(rows[0]); row++) { /* in the order of the batch */
        while (memcmp(arrivals[at].id, PQgetvalue(rows[0], row, 0), 16) != 0)
            at++;
        arrivals[at++].fresh = true;
    }
    for (int row = 0; row < PQntuples(rows[1]); row++) {
        struct stock *of = stock_of((unsigned char *)PQgetvalue(rows[1], row, 0), (size_t)PQgetlength(rows[1], row, 0));
        of->available = int_at(rows[1], row, 1);
        of->reserved = int_at(rows[1], row, 2);
    }
    PQclear(rows[0]);
    PQclear(rows[1]);

    int64_t now_us = clock_us(CLOCK_REALTIME);
    for (size_t i = 0; i < n; i++)
        if (arrivals[i].fresh)
            decide(&arrivals[i], now_us);
    array(TEXT_OID, 1009);
    for (size_t i = 0; i < touched_count; i++)
        element(touched[i]->sku, strlen(touched[i]->sku));
    array(INT8_OID, 1016);
    for (size_t i = 0; i < touched_count; i++)
        number(touched[i]->available);
    array(INT8_OID, 1016);
    for (size_t i = 0; i < touched_count; i++)
        number(touched[i]->reserved);
    SEND("put", "UPDATE stock s SET available = v.available, reserved = v.reserved FROM unnest($1, $2, $3) AS v (sku, "
                "available, reserved) WHERE s.sku = v.sku");
    array(UUID_OID, 2951);
    for (size_t i = 0; i < n; i++)
        if (arrivals[i].fresh)
            element(arrivals[i].order, 16);
    array(INT2_OID, 1005);
    for (size_t i = 0; i < n; i++)
        if (arrivals[i].fresh)
            element(arrivals[i].held ? "\0\1" : "\0\2", 2);
    array(JSON_OID, 199);
    for (size_t i = 0; i < n; i++) {
        char text[ITEMS_TEXT_MAX];
        size_t size = 0;
        for (size_t j = 0; j < arrivals[i].count; j++)
            size += (size_t)snprintf(text + size, sizeof(text) - size,
                                     "%c{\"sku\":\"%s\",\"quantity\":%lld,\"unit_price_minor\":%lld}", j ? ',' : '[',
                                     arrivals[i].items[j].stock->sku, (long long)arrivals[i].items[j].quantity,
                                     (long long)arrivals[i].items[j].price);
        text[size++] = ']';
        if (arrivals[i].fresh)
            element(text, size);
    }
    types[count] = 1184; /* timestamptz */
    offsets[count++] = length;
    uint64_t until = htobe64((uint64_t)(now_us + TTL_US - POSTGRES_EPOCH_US));
    put(&until, sizeof(until));
    SEND("reserve", "INSERT INTO reservations SELECT *, $4 FROM unnest($1, $2, $3)");
    forget();
    array(TEXT_OID, 1009);
    for (size_t i = 0; i < n; i++)
        if (arrivals[i].fresh)
            element(arrivals[i].order_text, UUID_TEXT);
    array(UUID_OID, 2951);
    for (size_t i = 0; i < n; i++)
        if (arrivals[i].fresh)
            element(arrivals[i].answer_id, 16);
    array(TEXT_OID, 1009);
    for (size_t i = 0; i < n; i++)
        if (arrivals[i].fresh)
            element(kind_of(&arrivals[i]), 18);
    array(TEXT_OID, 1009);
    for (size_t i = 0; i < n; i++)
        if (arrivals[i].fresh)
            element(arrivals[i].trace, TRACE_TEXT);
    array(BYTEA_OID, 1001);
    for (size_t i = 0; i < n; i++)
        if (arrivals[i].fresh)
            element(arrivals[i].value, arrivals[i].value_length);
    SEND("outbox", "INSERT INTO outbox (key, event_id, type, traceparent, value) SELECT * FROM unnest($1, $2, $3, $4, "
                   "$5) RETURNING seq");
    SEND("commit", "COMMIT");
    if (land(rows, 1) != 1)
        give_up("statement", "no rows");
    for (int row = 0; row < PQntuples(rows[0]); row++)
        sent[sent_count++] = int_at(rows[0], row, 0);
    PQclear(rows[0]);

    char time_text[40];
    time_t seconds = (time_t)(now_us / 1000000);
    struct tm date;
    size_t size = strftime(time_text, sizeof(time_text), "%Y-%m-%dT%H:%M:%S", gmtime_r(&seconds, &date));
    snprintf(time_text + size, sizeof(time_text) - size, ".%06dZ", (int)(now_us % 1000000));
    for (size_t i = 0; i < n; i++)
        if (arrivals[i].fresh)
            answer_send(&arrivals[i], time_text);
}

/* ---- Kafka */

static void on_report(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
    (void)rk, (void)opaque;
    if (message->err)
        give_up("produce", rd_kafka_err2str(message->err));
    in_flight--;
}

static rd_kafka_t *client(rd_kafka_type_t type, const char *const *properties)
{
    char text[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    for (const char *const *pair = properties; *pair; pair += 2)
        if (rd_kafka_conf_set(conf, pair[0], pair[1], text, sizeof(text)) != RD_KAFKA_CONF_OK)
            give_up("librdkafka", text);
    if (type == RD_KAFKA_PRODUCER)
        rd_kafka_conf_set_dr_msg_cb(conf, on_report);
    rd_kafka_t *rk = rd_kafka_new(type, conf, text, sizeof(text));
    if (!rk)
        give_up("librdkafka", text);
    return rk;
}

static const char *setting(const char *name)
{
    const char *value = getenv(name);
    if (!value)
        give_up(name, "is not set");
    return value;
}

static void on_signal(int number)
{
    (void)number;
    ended = 1;
}

int main(void)
{
    size_t batch = strtoul(setting("BATCH"), NULL, 10);
    const char *bootstrap = setting("KAFKA_BOOTSTRAP_SERVERS");
    if (batch == 0 || batch > BATCH_MAX)
        give_up("BATCH", "out of bounds");
    signal(SIGTERM, on_signal);
    conn = PQconnectdb(setting("DATABASE_URL"));
    if (PQstatus(conn) != CONNECTION_OK)
        give_up("connect", PQerrorMessage(conn));
    if (PQsetnonblocking(conn, 1) || !PQenterPipelineMode(conn))
        give_up("pipeline", PQerrorMessage(conn));
    producer = client(RD_KAFKA_PRODUCER,
                      (const char *const[]){"bootstrap.servers", bootstrap, "enable.idempotence", "true", "acks", "all",
                                            "partitioner", "murmur2_random", "linger.ms", "1", "batch.size", "524288",
                                            "socket.nagle.disable", "true", NULL});
    inventory = rd_kafka_topic_new(producer, "inventory", NULL);
    consumer = client(RD_KAFKA_CONSUMER,
                      (const char *const[]){"bootstrap.servers", bootstrap, "group.id", setting("KAFKA_GROUP_ID"),
                                            "enable.auto.commit", "true", "auto.commit.interval.ms", "200",
                                            "enable.auto.offset.store", "false", "auto.offset.reset", "earliest",
                                            "isolation.level", "read_committed", "fetch.wait.max.ms", "100",
                                            "socket.nagle.disable", "true", NULL});
    rd_kafka_poll_set_consumer(consumer);
    rd_kafka_topic_partition_list_t *topics = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(topics, "orders", RD_KAFKA_PARTITION_UA);
    if (rd_kafka_subscribe(consumer, topics))
        give_up("librdkafka", "cannot subscribe");
    rd_kafka_topic_partition_list_destroy(topics);

    static rd_kafka_message_t *messages[BATCH_MAX];
    while (!ended) {
        size_t n = 0;
        for (rd_kafka_message_t *message;
             n < batch && (message = rd_kafka_consumer_poll(consumer, n ? 0 : POLL_MS)) != NULL;)
            messages[n++] = message;
        rd_kafka_poll(producer, 0);
        if (n > 0) {
            handle(messages, n);
        } else if (sent_count > 0) {
            forget();
            land(NULL, 0);
        }
        rd_kafka_topic_partition_list_t *next = rd_kafka_topic_partition_list_new(8);
        for (size_t i = 0; i < n; i++) {
            rd_kafka_topic_partition_t *place = rd_kafka_topic_partition_list_find(next, "orders", messages[i]->partition);
            if (!place)
                place = rd_kafka_topic_partition_list_add(next, "orders", messages[i]->partition);
            place->offset = messages[i]->offset + 1;
            rd_kafka_message_destroy(messages[i]);
        }
        if (n > 0 && rd_kafka_offsets_store(consumer, next))
            give_up("librdkafka", "cannot store offsets");
        rd_kafka_topic_partition_list_destroy(next);
    }
    forget();
    land(NULL, 0);
    rd_kafka_consumer_close(consumer); /* commits */
    _Exit(0);                          /* nothing is in flight */
}
