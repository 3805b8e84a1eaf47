/*
 * otlp_request: spans as one ExportTraceServiceRequest of OTLP 1, in protobuf or in JSON. Inside net/ and for
 * tests. Memory is bounded by OTLP_REQUEST_BYTES_MAX; past it .into.failed says so. Thread: one.
 */
#ifndef NET_OTLP_REQUEST_H
#define NET_OTLP_REQUEST_H

#include "base/json.h"
#include "base/span.h"

enum {
    OTLP_REQUEST_BYTES_MAX = 8 << 20,
    OTLP_SPAN_BYTES_MAX = 16 << 10, /* no span is larger in either form (base/span.h) */
    OTLP_RESOURCE_MAX = 32,
};

struct otlp_resource {
    struct {
        struct text name, value;
    } attributes[OTLP_RESOURCE_MAX];
    size_t count;
    struct text version; /* of who made the spans */
};

struct otlp_request {
    bool as_json;
    struct buffer into; /* buffer_of(OTLP_REQUEST_BYTES_MAX), the caller's to free */
    struct json_writer json;
    size_t resource_spans_at, scope_spans_at; /* where the contents of open messages begin */
    size_t count;
};

/* Empties it and begins a new one. */
void otlp_request_begin(struct otlp_request *request, const struct otlp_resource *resource);
void otlp_request_add(struct otlp_request *request, const struct span *span);
void otlp_request_end(struct otlp_request *request);

#endif
