#include "service/dlq_page.h"

#include <stdio.h>
#include <stdlib.h>

enum outcome dlq_page_new(struct dlq_page *page, size_t limit, int32_t after_partition, int64_t after_offset,
                          struct error *error)
{
    *page = (struct dlq_page){
        .limit = limit,
        .after_partition = after_partition,
        .after_offset = after_offset,
        /* One more than the limit, while the last one is being found. */
        .items = calloc(limit + 1, sizeof(*page->items)),
    };
    return page->items ? OK : error_fatal(error, "memory", "out of memory");
}

void dlq_page_free(struct dlq_page *page)
{
    for (size_t i = 0; i < page->count; i++)
        free(page->items[i].json);
    free(page->items);
    *page = (struct dlq_page){0};
}

/* <0, 0, >0 */
static int compare(int32_t partition, int64_t offset, int32_t other_partition, int64_t other_offset)
{
    if (partition != other_partition)
        return partition < other_partition ? -1 : 1;
    return offset < other_offset ? -1 : offset > other_offset;
}

static void cut_last(struct dlq_page *page)
{
    struct dlq_page_item *last = &page->items[--page->count];
    page->more = true;
    page->bound_partition = last->partition;
    page->bound_offset = last->offset;
    page->bytes -= last->bytes;
    free(last->json);
}

bool dlq_page_wants(const struct dlq_page *page, int32_t partition, int64_t offset)
{
    if (page->after_partition >= 0 &&
        compare(partition, offset, page->after_partition, page->after_offset) <= 0)
        return false;
    return !page->more || compare(partition, offset, page->bound_partition, page->bound_offset) < 0;
}

void dlq_page_add(struct dlq_page *page, int32_t partition, int64_t offset, struct text json)
{
    if (!dlq_page_wants(page, partition, offset))
        return;
    char *copy = malloc(json.length + 1);
    if (!copy) {
        page->failed = true;
        return;
    }
    memcpy(copy, json.at, json.length);
    size_t at = page->count;
    while (at > 0 &&
           compare(partition, offset, page->items[at - 1].partition, page->items[at - 1].offset) < 0)
        at--;
    memmove(&page->items[at + 1], &page->items[at], (page->count - at) * sizeof(*page->items));
    page->items[at] = (struct dlq_page_item){partition, offset, copy, json.length};
    page->count++;
    page->bytes += json.length;
    while (page->count > page->limit || (page->bytes > DLQ_PAGE_BYTES_MAX && page->count > 1))
        cut_last(page);
}

void dlq_page_to_json(const struct dlq_page *page, struct buffer *into)
{
    struct json_writer writer = json_writer(into);
    json_object_begin(&writer);
    json_key(&writer, "items");
    json_array_begin(&writer);
    for (size_t i = 0; i < page->count; i++)
        json_put_raw(&writer, (struct text){page->items[i].json, page->items[i].bytes});
    json_array_end(&writer);
    json_key(&writer, "next");
    if (page->more && page->count > 0) {
        const struct dlq_page_item *last = &page->items[page->count - 1];
        char next[48];
        snprintf(next, sizeof(next), "%d:%lld", (int)last->partition, (long long)last->offset);
        json_put_text(&writer, text_of(next));
    } else {
        json_put_null(&writer);
    }
    json_object_end(&writer);
}
