/*
 * The bare floor for inventory: from topic to topic with librdkafka and sqlite3 alone, and no library around
 * them. It does for an OrderPlaced of one item what weir-inventory has to do, with the same tables (those of a
 * copy of weir-inventory's own database), the same statements, the same bound of a batch, the same properties
 * of librdkafka, and StockReserved with the eight headers out. It does not do what a service does beside that:
 * no duplicate, no dead letter, no cancelled order, no rebalance, no clock tick, no HTTP, no metrics; one
 * surprise and it aborts.
 *
 * floor_inventory BOOTSTRAP GROUP DATABASE EVENTS BATCH reads EVENTS records of `orders` and prints
 * {"events", "seconds", "cpu_us", "peak_kib"} of the time from its first commit to the last acknowledgement
 * and its deletion from the outbox; "events" are those of that time.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <librdkafka/rdkafka.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum {
    BATCH_MAX = 10000,
    PARTITIONS_MAX = 64,
    SKUS_MAX = 1024,
    SKU_BYTES_MAX = 16,
    ID_BYTES = 36,
    VALUE_BYTES_MAX = 128,
    HEADERS = 8,
    HEADERS_BYTES_MAX = 512,
    ORDER_PLACED = 101,
    STOCK_RESERVED = 501,
    POLL_MS = 100,
    COMMIT_US = 200000,
    WAL_BYTES = 8 << 20,
    IDLE_SECONDS_MAX = 30,
};
#define TTL_US INT64_C(900000000)
#define GRACE_US INT64_C(1000000)

struct span {
    const char *at;
    size_t length;
};

struct order {
    struct span id, sku, event_id, trace;
    int64_t quantity, price;
};

struct stock {
    char sku[SKU_BYTES_MAX];
    int64_t available, reserved, put_in, changed_at, told_at, due_at;
    size_t in_hand; /* number of the batch that has read it */
};

static sqlite3 *db;
static rd_kafka_t *producer;
static rd_kafka_topic_t *inventory;
static bool *acked; /* by outbox number */
static size_t acked_count;
static struct stock stock[SKUS_MAX];
static int wal_pages;

static void give_up(const char *what, const char *why)
{
    fprintf(stderr, "floor_inventory: %s: %s\n", what, why);
    exit(70);
}

/* ---- the clock */

static int64_t clock_us(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static int64_t cpu_us(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (int64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 + usage.ru_utime.tv_usec +
           usage.ru_stime.tv_usec;
}

/* ---- SQLite */

static void must(int code)
{
    if (code != SQLITE_OK && code != SQLITE_DONE && code != SQLITE_ROW)
        give_up("SQLite", sqlite3_errmsg(db));
}

static sqlite3_stmt *prepared(const char *sql)
{
    sqlite3_stmt *statement;
    must(sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, NULL));
    return statement;
}

static void run(sqlite3_stmt *statement)
{
    must(sqlite3_step(statement));
    must(sqlite3_reset(statement));
}

static void bind_text(sqlite3_stmt *statement, int place, struct span text)
{
    sqlite3_bind_text(statement, place, text.at, (int)text.length, SQLITE_STATIC);
}

static void bind_blob(sqlite3_stmt *statement, int place, const void *at, size_t length)
{
    sqlite3_bind_blob(statement, place, at, (int)length, SQLITE_STATIC);
}

static int wal_grew(void *owner, sqlite3 *of, const char *name, int pages)
{
    (void)owner, (void)of, (void)name;
    wal_pages = pages;
    return SQLITE_OK;
}

static void database_open(const char *path)
{
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    must(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL));
    must(sqlite3_exec(db,
                      "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0;"
                      "PRAGMA cache_size=-8192; PRAGMA foreign_keys=ON;",
                      NULL, NULL, NULL));
    sqlite3_wal_hook(db, wal_grew, NULL);
}

/* ---- Avro, by hand */

static uint64_t zigzag_take(const char **at, const char *end)
{
    uint64_t value = 0;
    for (unsigned shift = 0; *at < end && shift < 64; shift += 7) {
        unsigned char byte = (unsigned char)*(*at)++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return value;
    }
    give_up("orders", "a number is cut");
    return 0;
}

static int64_t long_take(const char **at, const char *end)
{
    uint64_t value = zigzag_take(at, end);
    return (int64_t)(value >> 1) ^ -(int64_t)(value & 1);
}

static struct span text_take(const char **at, const char *end)
{
    int64_t length = long_take(at, end);
    if (length < 0 || length > end - *at)
        give_up("orders", "a text is cut");
    struct span text = {*at, (size_t)length};
    *at += length;
    return text;
}

static char *number_put(char *at, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        *at++ = (char)(value | 0x80);
    *at++ = (char)value;
    return at;
}

static char *long_put(char *at, int64_t value)
{
    return number_put(at, ((uint64_t)value << 1) ^ (uint64_t)(value >> 63));
}

static char *bytes_put(char *at, struct span bytes)
{
    memcpy(at, bytes.at, bytes.length);
    return at + bytes.length;
}

static struct span header_of(const rd_kafka_headers_t *headers, const char *name)
{
    const void *at;
    size_t length;
    if (rd_kafka_header_get_last(headers, name, &at, &length) != RD_KAFKA_RESP_ERR_NO_ERROR)
        give_up("orders", "a header is missing");
    return (struct span){at, length};
}

static struct order order_take(const rd_kafka_message_t *message)
{
    struct order order = {0};
    const char *at = message->payload, *end = at + message->len;
    if (message->len < 5 || at[0] != 0 || at[3] != ORDER_PLACED >> 8 || at[4] != (ORDER_PLACED & 0xff))
        give_up("orders", "something else than OrderPlaced");
    at += 5;
    order.id = text_take(&at, end);
    for (int i = 0; i < 4; i++) /* customer_id, email, locale, currency */
        (void)text_take(&at, end);
    (void)long_take(&at, end); /* total_minor */
    if (long_take(&at, end) != 1)
        give_up("orders", "an order of another number of items than one");
    order.sku = text_take(&at, end);
    order.quantity = long_take(&at, end);
    order.price = long_take(&at, end);
    if (long_take(&at, end) != 0) /* the array's end */
        give_up("orders", "an order of more items than one");
    (void)long_take(&at, end); /* placed_at */
    if (at != end || order.id.length != ID_BYTES || message->key_len != ID_BYTES ||
        memcmp(message->key, order.id.at, ID_BYTES) != 0)
        give_up("orders", "the key is not the order id");

    rd_kafka_headers_t *headers;
    if (rd_kafka_message_headers(message, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR)
        give_up("orders", "no headers");
    order.event_id = header_of(headers, "ce_id");
    order.trace = header_of(headers, "traceparent");
    return order;
}

/* ---- ids */

static int digit(char c)
{
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

static void id_read(struct span text, unsigned char *ret)
{
    if (text.length != ID_BYTES)
        give_up("orders", "ce_id is no UUID");
    for (size_t i = 0, n = 0; n < 16; i += 2) {
        i += text.at[i] == '-';
        ret[n++] = (unsigned char)(digit(text.at[i]) << 4 | digit(text.at[i + 1]));
    }
}

/* Always the same from the same, and another one: enough for a floor. */
static void id_answer(const unsigned char *from, char *ret)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0, n = 0; n < 16; n++) {
        unsigned char byte = (unsigned char)(from[n] * 167 + 13);
        if (n == 4 || n == 6 || n == 8 || n == 10)
            ret[i++] = '-';
        ret[i++] = digits[byte >> 4];
        ret[i++] = digits[byte & 15];
    }
}

/* ---- stock: few, found by an open table */

static struct stock *stock_of(struct span sku)
{
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < sku.length; i++)
        hash = (hash ^ (unsigned char)sku.at[i]) * 16777619u;
    for (size_t i = hash % SKUS_MAX;; i = (i + 1) % SKUS_MAX) {
        if (!stock[i].sku[0]) {
            if (sku.length >= SKU_BYTES_MAX)
                give_up("orders", "a SKU is too long");
            memcpy(stock[i].sku, sku.at, sku.length);
        }
        if (strncmp(stock[i].sku, sku.at, sku.length) == 0 && !stock[i].sku[sku.length])
            return &stock[i];
    }
}

static void stock_read(sqlite3_stmt *get, struct stock *of)
{
    bind_text(get, 1, (struct span){of->sku, strlen(of->sku)});
    if (sqlite3_step(get) != SQLITE_ROW)
        give_up("stock", "an unknown SKU");
    of->available = sqlite3_column_int64(get, 0);
    of->reserved = sqlite3_column_int64(get, 1);
    of->put_in = sqlite3_column_int64(get, 2);
    of->changed_at = sqlite3_column_int64(get, 3);
    of->told_at = sqlite3_column_int64(get, 4);
    of->due_at = sqlite3_column_int64(get, 5);
    must(sqlite3_reset(get));
}

static void stock_write(sqlite3_stmt *put, const struct stock *of)
{
    sqlite3_bind_int64(put, 1, of->available);
    sqlite3_bind_int64(put, 2, of->reserved);
    sqlite3_bind_int64(put, 3, of->put_in);
    sqlite3_bind_int64(put, 4, of->changed_at);
    sqlite3_bind_int64(put, 5, of->told_at);
    sqlite3_bind_int64(put, 6, of->due_at);
    bind_text(put, 7, (struct span){of->sku, strlen(of->sku)});
    run(put);
}

/* ---- Kafka */

static void on_report(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
    (void)rk, (void)opaque;
    if (message->err)
        give_up("produce", rd_kafka_err2str(message->err));
    acked[(size_t)(uintptr_t)message->_private] = true;
    acked_count++;
}

static rd_kafka_t *client(rd_kafka_type_t type, const char *bootstrap, const char *const *properties)
{
    static const char *const common[] = {"socket.nagle.disable", "true", "allow.auto.create.topics", "false",
                                         "log.connection.close", "false", NULL};
    char text[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    if (rd_kafka_conf_set(conf, "bootstrap.servers", bootstrap, text, sizeof(text)) != RD_KAFKA_CONF_OK)
        give_up("librdkafka", text);
    const char *const *lists[] = {common, properties};
    for (int list = 0; list < 2; list++)
        for (const char *const *pair = lists[list]; *pair; pair += 2)
            if (rd_kafka_conf_set(conf, pair[0], pair[1], text, sizeof(text)) != RD_KAFKA_CONF_OK)
                give_up("librdkafka", text);
    if (type == RD_KAFKA_PRODUCER)
        rd_kafka_conf_set_dr_msg_cb(conf, on_report);
    rd_kafka_t *rk = rd_kafka_new(type, conf, text, sizeof(text));
    if (!rk)
        give_up("librdkafka", text);
    return rk;
}

static rd_kafka_t *consumer_open(const char *bootstrap, const char *group)
{
    /* The prefetch queue as common/kafka/client.c sets it, for the same reason. */
    rd_kafka_conf_t *probe = rd_kafka_conf_new();
    char text[256];
    bool newer = rd_kafka_conf_set(probe, "fetch.queue.backoff.ms", "10", text, sizeof(text)) == RD_KAFKA_CONF_OK;
    rd_kafka_conf_destroy(probe);
    const char *const properties[] = {
        "group.id", group, "enable.auto.commit", "false", "enable.auto.offset.store", "false",
        "isolation.level", "read_committed", "check.crcs", "true", "auto.offset.reset", "earliest",
        "partition.assignment.strategy", "range",
        "queued.min.messages", newer ? "10000" : "1000000",
        "queued.max.messages.kbytes", newer ? "16384" : "65536",
        newer ? "fetch.queue.backoff.ms" : NULL, "10", NULL,
    };
    rd_kafka_t *consumer = client(RD_KAFKA_CONSUMER, bootstrap, properties);
    rd_kafka_poll_set_consumer(consumer);
    rd_kafka_topic_partition_list_t *topics = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(topics, "orders", RD_KAFKA_PARTITION_UA);
    if (rd_kafka_subscribe(consumer, topics))
        give_up("librdkafka", "cannot subscribe");
    rd_kafka_topic_partition_list_destroy(topics);
    return consumer;
}

static void producer_open(const char *bootstrap)
{
    static const char *const properties[] = {
        "enable.idempotence", "true", "acks", "all", "partitioner", "murmur2_random", "linger.ms", "1",
        "batch.size", "524288", "queue.buffering.max.messages", "100000", NULL,
    };
    producer = client(RD_KAFKA_PRODUCER, bootstrap, properties);
    inventory = rd_kafka_topic_new(producer, "inventory", NULL);
    if (!inventory)
        give_up("librdkafka", "no topic");
    const struct rd_kafka_metadata *metadata;
    if (rd_kafka_metadata(producer, 0, inventory, &metadata, 10000))
        give_up("librdkafka", "no metadata");
    rd_kafka_metadata_destroy(metadata);
}

static void commit_offsets(rd_kafka_t *consumer, const int64_t *next)
{
    rd_kafka_topic_partition_list_t *offsets = rd_kafka_topic_partition_list_new(PARTITIONS_MAX);
    for (int i = 0; i < PARTITIONS_MAX; i++)
        if (next[i])
            rd_kafka_topic_partition_list_add(offsets, "orders", i)->offset = next[i];
    if (offsets->cnt && rd_kafka_commit(consumer, offsets, 1))
        give_up("librdkafka", "cannot commit");
    rd_kafka_topic_partition_list_destroy(offsets);
}

/* ---- what goes out */

struct answer {
    char id[ID_BYTES], trace[64], time[40];
    struct span names[HEADERS], values[HEADERS];
    char value[VALUE_BYTES_MAX], blob[HEADERS_BYTES_MAX];
    size_t value_length, blob_length;
};

static struct span literal(const char *text)
{
    return (struct span){text, strlen(text)};
}

static void answer_make(struct answer *answer, const struct order *order, const unsigned char *event_id, int64_t now_us,
                        const char *time)
{
    static const char *const names[HEADERS] = {"ce_specversion", "ce_id", "ce_source", "ce_type",
                                               "ce_time", "ce_subject", "content-type", "traceparent"};
    id_answer(event_id, answer->id);
    memcpy(answer->trace, order->trace.at, order->trace.length < 55 ? order->trace.length : 55);
    memcpy(answer->trace + 36, answer->id, 8); /* another span of the same trace */
    const struct span values[HEADERS] = {
        literal("1.0"),     {answer->id, ID_BYTES}, literal("/weir/inventory"),  literal("weir.StockReserved"),
        literal(time),      order->id,              literal("application/avro"), {answer->trace, 55},
    };
    char *at = answer->blob;
    for (size_t i = 0; i < HEADERS; i++) {
        answer->names[i] = literal(names[i]);
        answer->values[i] = values[i];
        at = bytes_put(number_put(at, answer->names[i].length), answer->names[i]);
        at = bytes_put(number_put(at, values[i].length + 1), values[i]);
    }
    answer->blob_length = (size_t)(at - answer->blob);

    at = answer->value;
    const char frame[5] = {0, 0, 0, STOCK_RESERVED >> 8, (char)(STOCK_RESERVED & 0xff)};
    at = bytes_put(at, (struct span){frame, sizeof(frame)});
    at = bytes_put(long_put(at, ID_BYTES), order->id);
    at = long_put(long_put(at, now_us + TTL_US), now_us);
    answer->value_length = (size_t)(at - answer->value);
}

static void answer_send(const struct answer *answer, const struct order *order, size_t seq)
{
    rd_kafka_headers_t *headers = rd_kafka_headers_new(HEADERS);
    for (size_t i = 0; i < HEADERS; i++)
        rd_kafka_header_add(headers, answer->names[i].at, (ssize_t)answer->names[i].length, answer->values[i].at,
                            (ssize_t)answer->values[i].length);
    while (rd_kafka_producev(producer, RD_KAFKA_VTYPE_RKT, inventory, RD_KAFKA_VTYPE_KEY, (const void *)order->id.at,
                             (size_t)ID_BYTES, RD_KAFKA_VTYPE_VALUE, (const void *)answer->value,
                             (size_t)answer->value_length, RD_KAFKA_VTYPE_MSGFLAGS, (int)RD_KAFKA_MSG_F_COPY,
                             RD_KAFKA_VTYPE_HEADERS, headers, RD_KAFKA_VTYPE_OPAQUE, (void *)(uintptr_t)seq,
                             RD_KAFKA_VTYPE_END) ==
           RD_KAFKA_RESP_ERR__QUEUE_FULL)
        rd_kafka_poll(producer, POLL_MS);
}

/* ---- a batch */

struct statements {
    sqlite3_stmt *begin, *commit, *note, *get, *put, *reserve, *outbox, *done;
};

static size_t deleted = 1; /* outbox numbers below it are gone */
static size_t next_seq = 1;

/* The contiguous part of what was acknowledged. */
static void delete_done(sqlite3_stmt *done)
{
    size_t end = deleted;
    while (end < next_seq && acked[end])
        end++;
    if (end == deleted)
        return;
    sqlite3_bind_int64(done, 1, (int64_t)deleted);
    sqlite3_bind_int64(done, 2, (int64_t)end - 1);
    run(done);
    deleted = end;
}

static void handle(const struct statements *sql, rd_kafka_message_t **messages, size_t count, size_t number)
{
    static struct order orders[BATCH_MAX];
    static struct answer answers[BATCH_MAX];
    static unsigned char ids[BATCH_MAX][16];
    static struct stock *touched[SKUS_MAX];
    size_t touched_count = 0;
    int64_t now_us = clock_us(CLOCK_REALTIME);
    time_t seconds = (time_t)(now_us / 1000000);
    struct tm date;
    char time[40];
    size_t length = strftime(time, sizeof(time), "%Y-%m-%dT%H:%M:%S", gmtime_r(&seconds, &date));
    snprintf(time + length, sizeof(time) - length, ".%06dZ", (int)(now_us % 1000000));

    if ((int64_t)wal_pages * 4096 >= WAL_BYTES) {
        must(sqlite3_wal_checkpoint_v2(db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL));
        wal_pages = 0;
    }
    run(sql->begin);
    for (size_t i = 0; i < count; i++) {
        orders[i] = order_take(messages[i]);
        id_read(orders[i].event_id, ids[i]);
        bind_blob(sql->note, 1, ids[i], 16);
        sqlite3_bind_int64(sql->note, 2, now_us);
        run(sql->note);
        if (sqlite3_changes(db) != 1)
            give_up("orders", "a duplicate");
    }
    for (size_t i = 0; i < count; i++) {
        struct stock *of = stock_of(orders[i].sku);
        if (of->in_hand != number) {
            stock_read(sql->get, of);
            of->in_hand = number;
            touched[touched_count++] = of;
        }
        if (of->available < orders[i].quantity)
            give_up("stock", "short");
        of->available -= orders[i].quantity;
        of->reserved += orders[i].quantity;
        of->changed_at = now_us;
    }
    for (size_t i = 0; i < touched_count; i++)
        stock_write(sql->put, touched[i]);
    for (size_t i = 0; i < count; i++) {
        char items[64], *at = number_put(items, 1);
        at = bytes_put(number_put(at, orders[i].sku.length), orders[i].sku);
        at = number_put(number_put(at, (uint64_t)orders[i].quantity), (uint64_t)orders[i].price);
        bind_text(sql->reserve, 1, orders[i].id);
        bind_blob(sql->reserve, 2, items, (size_t)(at - items));
        sqlite3_bind_int64(sql->reserve, 3, now_us + TTL_US);
        sqlite3_bind_int64(sql->reserve, 4, now_us + TTL_US + GRACE_US);
        sqlite3_bind_int64(sql->reserve, 5, now_us);
        run(sql->reserve);
    }
    delete_done(sql->done);
    for (size_t i = 0; i < count; i++) {
        answer_make(&answers[i], &orders[i], ids[i], now_us, time);
        sqlite3_bind_int64(sql->outbox, 1, (int64_t)(next_seq + i));
        bind_blob(sql->outbox, 2, orders[i].id.at, ID_BYTES);
        bind_blob(sql->outbox, 3, answers[i].value, answers[i].value_length);
        bind_blob(sql->outbox, 4, answers[i].blob, answers[i].blob_length);
        sqlite3_bind_int64(sql->outbox, 5, now_us);
        run(sql->outbox);
    }
    run(sql->commit);
    for (size_t i = 0; i < count; i++)
        answer_send(&answers[i], &orders[i], next_seq++);
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fputs("usage: floor_inventory BOOTSTRAP GROUP DATABASE EVENTS BATCH\n", stderr);
        return 64;
    }
    size_t events = strtoul(argv[4], NULL, 10), batch = strtoul(argv[5], NULL, 10);
    if (events == 0 || batch == 0 || batch > BATCH_MAX)
        give_up("EVENTS, BATCH", "out of bounds");
    acked = calloc(events + 1, sizeof(*acked));
    if (!acked)
        give_up("memory", "none left");
    database_open(argv[3]);
    /* A row an event; the store's own has packs (common/store/pack.h). */
    must(sqlite3_exec(db,
                      "DROP TABLE IF EXISTS outbox; CREATE TABLE outbox (seq INTEGER PRIMARY KEY, topic TEXT NOT NULL,"
                      " partition INTEGER NOT NULL, key BLOB, value BLOB, headers BLOB NOT NULL, created_us INTEGER NOT NULL)",
                      NULL, NULL, NULL));
    const struct statements sql = {
        .begin = prepared("BEGIN IMMEDIATE"),
        .commit = prepared("COMMIT"),
        .note = prepared("INSERT INTO inbox (id, attempt, at) VALUES (?1, 0, ?2) ON CONFLICT DO NOTHING"),
        .get = prepared("SELECT available, reserved, put_in, changed_at, told_at, due_at FROM stock WHERE sku = ?1"),
        .put = prepared("UPDATE stock SET available = ?1, reserved = ?2, put_in = ?3, changed_at = ?4, told_at = ?5,"
                        " due_at = ?6 WHERE sku = ?7"),
        .reserve = prepared("INSERT INTO reservations (order_id, state, final, paid, items, reserved_until, expires_at,"
                            " heard_at) VALUES (?1, 1, 0, 0, ?2, ?3, ?4, ?5)"),
        .outbox = prepared("INSERT INTO outbox (seq, topic, partition, key, value, headers, created_us)"
                           " VALUES (?1, 'inventory', -1, ?2, ?3, ?4, ?5)"),
        .done = prepared("DELETE FROM outbox WHERE seq BETWEEN ?1 AND ?2"),
    };
    producer_open(argv[1]);
    rd_kafka_t *consumer = consumer_open(argv[1], argv[2]);

    static rd_kafka_message_t *messages[BATCH_MAX];
    static int64_t offsets[PARTITIONS_MAX];
    int64_t begun_us = 0, begun_cpu_us = 0, commit_due_us = 0, idle_since_us = clock_us(CLOCK_MONOTONIC);
    size_t handled = 0, first = 0;
    for (size_t number = 1; handled < events;) {
        size_t count = 0;
        while (count < batch) {
            rd_kafka_message_t *message = rd_kafka_consumer_poll(consumer, count ? 0 : POLL_MS);
            if (!message)
                break;
            if (message->err || message->partition >= PARTITIONS_MAX)
                give_up("consume", rd_kafka_message_errstr(message));
            messages[count++] = message;
        }
        rd_kafka_poll(producer, 0);
        int64_t now_us = clock_us(CLOCK_MONOTONIC);
        if (count == 0) {
            if (now_us - idle_since_us > (int64_t)IDLE_SECONDS_MAX * 1000000)
                give_up("orders", "nothing comes any more");
            continue;
        }
        idle_since_us = now_us;
        if (count > events - handled)
            give_up("orders", "more records than were announced");
        handle(&sql, messages, count, number++);
        for (size_t i = 0; i < count; i++) {
            offsets[messages[i]->partition] = messages[i]->offset + 1;
            rd_kafka_message_destroy(messages[i]);
        }
        handled += count;
        if (!begun_us) {
            begun_us = clock_us(CLOCK_MONOTONIC);
            begun_cpu_us = cpu_us();
            first = handled;
        }
        if (now_us >= commit_due_us) {
            commit_offsets(consumer, offsets);
            commit_due_us = now_us + COMMIT_US;
        }
    }
    while (acked_count < events)
        rd_kafka_poll(producer, POLL_MS);
    run(sql.begin);
    delete_done(sql.done);
    run(sql.commit);
    commit_offsets(consumer, offsets);
    int64_t seconds_us = clock_us(CLOCK_MONOTONIC) - begun_us, used_us = cpu_us() - begun_cpu_us;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"events\":%zu,\"seconds\":%.6f,\"cpu_us\":%" PRId64 ",\"peak_kib\":%ld}\n", handled - first,
           (double)seconds_us / 1e6, used_us, usage.ru_maxrss);
    fflush(stdout);
    rd_kafka_consumer_close(consumer);
    _Exit(0); /* nothing is measured any more, and nothing is in flight */
}
