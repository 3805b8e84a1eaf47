#include "sample.h"

#include "load.h"

#include "base/ids.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    SAMPLE_BYTES_MAX = 64 << 20,
    SAMPLE_IDS_MAX = 100000, /* events that place an order */
    ASK_MS = 2000,
};

static enum outcome cannot(struct error *error, const char *path)
{
    return error_outage(error, "file", "%s: %s", path, strerror(errno));
}

/* ---- which file */

/* None is fine, but where one was given. */
static enum outcome find_file(const struct sample_settings *settings, char file[PATH_MAX],
                              struct error *error)
{
    const char *given = settings->given;
    file[0] = '\0';
    if (given && strcmp(given, "none") == 0)
        return OK;
    if (given) {
        snprintf(file, PATH_MAX, "%s", given);
        if (access(file, R_OK) == 0)
            return OK;
        enum outcome outcome = cannot(error, file);
        error->exit_code = EXIT_NO_INPUT;
        return outcome;
    }
    snprintf(file, PATH_MAX, "%.*s/../share/weir/sample/orders.ndjson", PATH_MAX - 64, settings->programs);
    if (access(file, R_OK) != 0)
        snprintf(file, PATH_MAX, "%s/orders.ndjson", WEIR_SAMPLE_DIR);
    if (access(file, R_OK) != 0)
        file[0] = '\0';
    return OK;
}

static void mark_path(const struct sample_settings *settings, char into[PATH_MAX + 16])
{
    snprintf(into, PATH_MAX + 16, "%s/sample-sent", settings->folder);
}

/* ---- what is in it */

static bool read_whole(const char *path, struct buffer *into)
{
    FILE *file = fopen(path, "re");
    size_t count;
    char bytes[16384];
    while (file && (count = fread(bytes, 1, sizeof(bytes), file)) > 0)
        buffer_add(into, bytes, count);
    if (file)
        fclose(file);
    return file && !into->failed;
}

static int by_text(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct id));
}

/* Distinct orders that the file places. */
static int64_t count_orders(struct text file)
{
    struct id *ids = calloc(SAMPLE_IDS_MAX, sizeof(*ids));
    size_t count = 0, distinct = 0;
    while (ids && file.length && count < SAMPLE_IDS_MAX) {
        const char *stop = memchr(file.at, '\n', file.length);
        size_t length = stop ? (size_t)(stop - file.at) : file.length;
        json_t *json = NULL;
        struct error ignored;
        if (length && json_read((struct text){file.at, length}, &json, &ignored) == OK &&
            text_is(json_text(json, "type"), "weir.OrderPlaced"))
            ids[count++] = id_from_text(json_text(json_object_get(json, "data"), "order_id"));
        json_decref(json);
        file.at += length + (stop ? 1 : 0);
        file.length -= length + (stop ? 1 : 0);
    }
    if (count)
        qsort(ids, count, sizeof(*ids), by_text);
    for (size_t i = 0; i < count; i++)
        distinct += i == 0 || !id_equal(ids[i - 1], ids[i]);
    free(ids);
    return (int64_t)distinct;
}

/* The goods of a tree without a sample. */
static json_t *plain_stock(void)
{
    json_t *list = (json_array)(); /* jansson's; the bare name is our writer's */
    for (int i = 1; i <= 20; i++) {
        char sku[32];
        snprintf(sku, sizeof(sku), "GOODS-%02d", i);
        json_array_append_new(list, json_pack("{s:s, s:i}", "sku", sku, "available", 1000000));
    }
    return list;
}

/* What the load buys is what there is plenty of. */
static void choose_goods(struct sample *sample)
{
    enum { PLENTY = 100000 };
    size_t index;
    json_t *item;
    sample->goods = calloc(LOAD_GOODS_MAX, sizeof(*sample->goods));
    json_array_foreach(sample->stock, index, item)
    {
        struct text sku = json_text(item, "sku");
        if (sample->goods && sample->goods_count < LOAD_GOODS_MAX &&
            json_integer_value(json_object_get(item, "available")) >= PLENTY && text_is_printable(sku, 64) &&
            !memchr(sku.at, '"', sku.length) && !memchr(sku.at, '\\', sku.length))
            sample->goods[sample->goods_count++] = sku;
    }
}

static void read_stock(struct sample *sample, const char *file, struct buffer *text)
{
    char beside[PATH_MAX + 16];
    struct error ignored;
    const char *slash = strrchr(file, '/');
    if (file[0]) {
        snprintf(beside, sizeof(beside), "%.*s/stock.json", (int)(slash ? slash - file : 1),
                 slash ? file : ".");
        if (read_whole(beside, text) && json_read(buffer_text(text), &sample->stock, &ignored) != OK)
            sample->stock = NULL;
    }
    if (!sample->stock || !json_is_array(sample->stock))
        sample->stock = plain_stock();
    choose_goods(sample);
}

enum outcome sample_read(struct sample *sample, const struct sample_settings *settings, struct error *error)
{
    char file[PATH_MAX], mark[PATH_MAX + 16];
    struct buffer text = buffer_of(SAMPLE_BYTES_MAX);
    enum outcome outcome = find_file(settings, file, error);
    if (outcome != OK)
        return outcome;
    read_stock(sample, file, &text);
    mark_path(settings, mark);
    buffer_clear(&text);
    if (file[0] && access(mark, F_OK) != 0 && read_whole(file, &text)) {
        int64_t orders = count_orders(buffer_text(&text));
        /* --orders 50 is fifty, not the sample's three hundred */
        if (!settings->orders_max || orders <= settings->orders_max) {
            snprintf(sample->file, sizeof(sample->file), "%s", file);
            sample->orders = orders;
        }
    }
    buffer_free(&text);
    return OK;
}

/* ---- what becomes of it */

/* As a path segment. */
static void put_segment(struct buffer *into, struct text text)
{
    for (size_t i = 0; i < text.length; i++) {
        unsigned char byte = (unsigned char)text.at[i];
        bool plain = (byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') ||
                     (byte >= 'a' && byte <= 'z') || strchr("-._~", byte);
        if (plain)
            buffer_add_char(into, (char)byte);
        else
            buffer_print(into, "%%%02X", byte);
    }
}

enum outcome sample_stock(struct ask *ask, int port, const json_t *item, struct error *error)
{
    int status;
    struct text answer;
    struct buffer url = buffer_of(1024);
    char body[64];
    buffer_print(&url, "http://127.0.0.1:%d/v1/stock/", port);
    put_segment(&url, json_text(item, "sku"));
    buffer_add_char(&url, '\0');
    enum outcome outcome = ask_http(ask, "GET", url.at, TEXT(""), ASK_MS, &status, &answer, error);
    if (outcome == OK && status == 404) {
        int length = snprintf(body, sizeof(body), "{\"available\":%lld}",
                              (long long)json_integer_value(json_object_get(item, "available")));
        outcome = ask_http(ask, "PUT", url.at, (struct text){body, (size_t)length}, ASK_MS, &status, &answer,
                           error);
    }
    if (outcome == OK && status != 200)
        outcome = error_reject(error, "stock", "inventory answered %d to %s: %.*s", status, url.at,
                               TEXT_ARG(answer));
    buffer_free(&url);
    return outcome;
}

enum outcome sample_sent(const struct sample_settings *settings, struct error *error)
{
    char mark[PATH_MAX + 16];
    mark_path(settings, mark);
    int fd = open(mark, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return cannot(error, mark);
    close(fd);
    return OK;
}

void sample_free(struct sample *sample)
{
    free(sample->goods);
    json_decref(sample->stock);
}
