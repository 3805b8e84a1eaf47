#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/digest.h"
#include "net/otlp_request.h"

#include <stdlib.h>

/* What Python's opentelemetry-proto makes of the two spans below; e2e/traces reads with it what services
 * send. */
static const char golden[] =
    "0a95040a1d0a1b0a0c736572766963652e6e616d65120b0a09776569722d7465737412f3030a0d0a0477656972120531"
    "2e322e3312b8010a100af7651916cd43dd8448eb211c80319c1208b7ad6b7169203331220800f067aa0ba902b72a0e70"
    "726f63657373206f7264657273300539e8032a36fe9c971741d0072a36fe9c97174a1b0a106d6573736167696e672e73"
    "797374656d12070a056b61666b614a1d0a166d6573736167696e672e6b61666b612e6f6666736574120318ac024a1c0a"
    "0d776569722e6e65676174697665120b18ffffffffffffffffff017a0c12086120726561736f6e180285010103000012"
    "a6020a100af7651916cd43dd8448eb211c80319c1208b7ad6b71692033322a13474554202f76312f73746f636b2f7b73"
    "6b757d300239b80b2a36fe9c971741b80b2a36fe9c97174ad8010a0875726c2e7061746812cb010ac801787878787878"
    "787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
    "7878850101010000";

static struct otlp_resource resource;

static int fill_resource(void **state)
{
    (void)state;
    resource.attributes[0].name = TEXT("service.name");
    resource.attributes[0].value = TEXT("weir-test");
    resource.count = 1;
    resource.version = TEXT("1.2.3");
    return 0;
}

static struct span *new_span(const char *traceparent, const char *parent)
{
    struct span *span = calloc(1, sizeof(*span));
    struct span_context context;
    assert_non_null(span);
    assert_true(span_context_of(text_of(traceparent), &span->context));
    if (parent && span_context_of(text_of(parent), &context))
        memcpy(span->parent, context.id, sizeof(span->parent));
    return span;
}

static void add_two(struct otlp_request *request)
{
    struct span *span = new_span("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                                 "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01");
    span->parent_remote = true;
    span->kind = SPAN_CONSUMER;
    span->start_us = INT64_C(1700000000000001);
    span->end_us = INT64_C(1700000000000002);
    span_name(span, "process", TEXT("orders"));
    span_text(span, "messaging.system", TEXT("kafka"));
    span_int(span, "messaging.kafka.offset", 300);
    span_int(span, "weir.negative", -1);
    span_fail(span, TEXT("a reason"));
    otlp_request_add(request, span);
    free(span);

    char path[200];
    memset(path, 'x', sizeof(path));
    span = new_span("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203332-01", NULL);
    span->kind = SPAN_SERVER;
    span->start_us = span->end_us = INT64_C(1700000000000003);
    span_name(span, "GET", TEXT("/v1/stock/{sku}"));
    span_text(span, "url.path", (struct text){path, sizeof(path)});
    otlp_request_add(request, span);
    free(span);
}

static void protobuf_is_what_others_write(void **state)
{
    struct otlp_request request = {.into = buffer_of(OTLP_REQUEST_BYTES_MAX)};
    (void)state;
    for (int round = 0; round < 2; round++) { /* nothing of the first is in the second */
        otlp_request_begin(&request, &resource);
        add_two(&request);
        otlp_request_end(&request);
    }
    assert_false(request.into.failed);
    assert_int_equal(request.count, 2);
    char *hex = malloc(2 * request.into.length + 1);
    assert_non_null(hex);
    digest_to_hex(request.into.at, request.into.length, hex);
    hex[2 * request.into.length] = '\0';
    assert_string_equal(hex, golden);
    free(hex);
    buffer_free(&request.into);
}

static void json_has_ids_in_hex_and_long_numbers_as_text(void **state)
{
    struct otlp_request request = {.as_json = true, .into = buffer_of(OTLP_REQUEST_BYTES_MAX)};
    struct error error;
    json_t *read;
    (void)state;
    otlp_request_begin(&request, &resource);
    add_two(&request);
    otlp_request_end(&request);
    assert_false(request.into.failed);
    assert_int_equal(json_read(buffer_text(&request.into), &read, &error), OK);
    json_t *spans = json_object_get(read, "resourceSpans");
    spans =
        json_object_get(json_array_get(json_object_get(json_array_get(spans, 0), "scopeSpans"), 0), "spans");
    assert_int_equal(json_array_size(spans), 2);
    json_t *span = json_array_get(spans, 0);
    assert_true(text_is(json_text(span, "traceId"), "0af7651916cd43dd8448eb211c80319c"));
    assert_true(text_is(json_text(span, "parentSpanId"), "00f067aa0ba902b7"));
    assert_true(text_is(json_text(span, "startTimeUnixNano"), "1700000000000001000"));
    assert_int_equal(json_integer_value(json_object_get(span, "kind")), SPAN_CONSUMER);
    json_t *offset = json_array_get(json_object_get(span, "attributes"), 1);
    assert_true(text_is(json_text(json_object_get(offset, "value"), "intValue"), "300"));
    assert_null(json_object_get(json_array_get(spans, 1), "parentSpanId"));
    json_decref(read);
    buffer_free(&request.into);
}

static void text_that_is_not_utf8_does_not_spoil_the_rest(void **state)
{
    struct otlp_request request = {.into = buffer_of(OTLP_REQUEST_BYTES_MAX)};
    struct span *span = new_span("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", NULL);
    (void)state;
    span_text(span, "key",
              TEXT("a\xff\xfe"
                   "b"));
    otlp_request_begin(&request, &resource);
    otlp_request_add(&request, span);
    otlp_request_end(&request);
    assert_non_null(memmem(request.into.at, request.into.length, "a??b", 4));
    free(span);
    buffer_free(&request.into);
}

static void request_that_is_too_large_says_so(void **state)
{
    struct otlp_request request = {.into = buffer_of(300)};
    (void)state;
    otlp_request_begin(&request, &resource);
    add_two(&request);
    otlp_request_end(&request);
    assert_true(request.into.failed);
    request.into.bytes_max = OTLP_REQUEST_BYTES_MAX;
    otlp_request_begin(&request, &resource);
    otlp_request_end(&request);
    assert_false(request.into.failed);
    buffer_free(&request.into);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(protobuf_is_what_others_write),
        cmocka_unit_test(json_has_ids_in_hex_and_long_numbers_as_text),
        cmocka_unit_test(text_that_is_not_utf8_does_not_spoil_the_rest),
        cmocka_unit_test(request_that_is_too_large_says_so),
    };
    return cmocka_run_group_tests(tests, fill_resource, NULL);
}
