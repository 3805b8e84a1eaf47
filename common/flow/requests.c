#include "flow/requests.h"

#include "base/clock.h"

#include <stdlib.h>

enum outcome requests_open(struct requests *requests, size_t count_max, struct error *error)
{
    *requests = (struct requests){.capacity = count_max};
    requests->ring = calloc(count_max, sizeof(*requests->ring));
    if (!requests->ring)
        return error_fatal(error, "memory", "requests: out of memory");
    pthread_mutex_init(&requests->lock, NULL);
    return OK;
}

void requests_close(struct requests *requests)
{
    if (!requests->ring)
        return;
    pthread_mutex_destroy(&requests->lock);
    free(requests->ring);
    requests->ring = NULL;
}

bool requests_put(struct requests *requests, void *exchange, const struct request *request, bool *ret_wake)
{
    pthread_mutex_lock(&requests->lock);
    bool taken = !requests->closed && requests->count < requests->capacity;
    *ret_wake = taken && requests->count == 0;
    if (taken) {
        size_t at = (requests->first + requests->count++) % requests->capacity;
        requests->ring[at] = (struct waiting_request){exchange, request, clock_monotonic_us()};
    }
    pthread_mutex_unlock(&requests->lock);
    return taken;
}

size_t requests_take(struct requests *requests, struct waiting_request *ret, size_t count_max)
{
    size_t count = 0;
    pthread_mutex_lock(&requests->lock);
    for (; count < count_max && requests->count; count++) {
        ret[count] = requests->ring[requests->first];
        requests->first = (requests->first + 1) % requests->capacity;
        requests->count--;
    }
    pthread_mutex_unlock(&requests->lock);
    return count;
}

void requests_shut(struct requests *requests)
{
    pthread_mutex_lock(&requests->lock);
    requests->closed = true;
    pthread_mutex_unlock(&requests->lock);
}

struct text request_query(const struct request *request, const char *name)
{
    for (size_t i = 0; i < request->query_count; i++)
        if (text_is(request->query[i].name, name))
            return request->query[i].value;
    return TEXT("");
}

struct text request_header(const struct request *request, const char *name_lower_case)
{
    const struct header *header = header_find(request->headers, request->header_count, name_lower_case);
    return header ? header->value : TEXT("");
}
