/*
 * codec_pipe: our codec for a program in another language. A line of JSON in, a line of JSON out:
 *
 *     {"writer": schema, "reader": schema, "datum": base64}
 *     {"value": as codec_to_json() has it, "encoded": base64 by the reader's schema,
 *      "canonical": the reader's canonical form, "fingerprint": hex}
 *     {"error": text, "cause": word}
 *
 * With "json": value in place of "datum", the value is read from it by the reader's schema.
 */
#include "base/digest.h"
#include "wire/codec_type.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { BYTES_MAX = 64 << 20 };

/* A bytes value read from JSON is base64 decoded: the codec does it, so that nothing here must. */
static enum outcome from_base64(const json_t *json, struct arena *arena, struct text *ret,
                                struct error *error)
{
    const struct schema *schema;
    void *data;
    enum outcome outcome = schema_parse(TEXT("{\"type\":\"bytes\"}"), arena, &schema, error);
    if (outcome == OK)
        outcome = codec_from_json(codec_type_new(schema, arena), json, arena, &data, NULL, error);
    if (outcome == OK)
        *ret = *(struct text *)data;
    return outcome;
}

static enum outcome answer(const json_t *request, struct arena *arena, struct json_writer *writer,
                           struct error *error)
{
    const struct schema *writers, *readers;
    const struct codec_plan *plan;
    const void *data;
    void *from_json;
    struct text datum;
    struct buffer bytes = buffer_of(BYTES_MAX), text = buffer_of(BYTES_MAX);
    enum outcome outcome = schema_parse(json_text(request, "reader"), arena, &readers, error);
    if (outcome != OK)
        goto out;
    const struct codec_type *type = codec_type_new(readers, arena);
    if (json_object_get(request, "json")) {
        outcome = codec_from_json(type, json_object_get(request, "json"), arena, &from_json, NULL, error);
        data = from_json;
    } else {
        outcome = schema_parse(json_text(request, "writer"), arena, &writers, error);
        if (outcome == OK)
            outcome = codec_plan_new(writers, type, arena, &plan, error);
        if (outcome == OK)
            outcome = from_base64(json_object_get(request, "datum"), arena, &datum, error);
        if (outcome == OK)
            outcome = codec_decode(plan, datum, arena, &data, error);
    }
    if (outcome == OK)
        outcome = codec_encode(type, data, &bytes, error);
    if (outcome != OK)
        goto out;
    json_object_begin(writer);
    json_key(writer, "value");
    codec_to_json(type, data, writer);
    digest_to_base64(&text, bytes.length ? bytes.at : "", bytes.length);
    json_member_text(writer, "encoded", buffer_text(&text));
    buffer_clear(&text);
    schema_canonical(readers, &text);
    json_member_text(writer, "canonical", buffer_text(&text));
    buffer_clear(&text);
    buffer_print(&text, "%016" PRIx64, schema_fingerprint(readers));
    json_member_text(writer, "fingerprint", buffer_text(&text));
    json_object_end(writer);
out:
    buffer_free(&bytes);
    buffer_free(&text);
    return outcome;
}

int main(void)
{
    struct arena *arena = arena_new(BYTES_MAX);
    struct buffer out = buffer_of(BYTES_MAX);
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    while ((length = getline(&line, &room, stdin)) > 0) {
        struct error error;
        json_t *request;
        arena_reset(arena);
        buffer_clear(&out);
        struct json_writer writer = json_writer(&out);
        enum outcome outcome = json_read((struct text){line, (size_t)length}, &request, &error);
        if (outcome == OK) {
            outcome = answer(request, arena, &writer, &error);
            json_decref(request);
        }
        if (outcome != OK) {
            buffer_clear(&out);
            writer = json_writer(&out);
            json_object_begin(&writer);
            json_member_string(&writer, "error", error.text);
            json_member_string(&writer, "cause", error.cause ? error.cause : "");
            json_object_end(&writer);
        }
        buffer_add_char(&out, '\n');
        fwrite(out.at, 1, out.length, stdout);
        fflush(stdout);
    }
    free(line);
    buffer_free(&out);
    arena_destroy(arena);
    return 0;
}
