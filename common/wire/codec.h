/*
 * codec: Avro binary to C structs and back, and the same structs from and to JSON.
 *
 * A codec_type describes a C struct field by field. eventgen makes one for every schemas/<Event>.avsc
 * together with the struct (build/…/events.h); codec_type_new() makes one at run time for any schema
 * (tests, tools). Decoding goes by a plan: how what a writer with its schema wrote becomes the
 * reader's struct (defaults, aliases, promotions, unions, skipped fields: Avro 1.11 "Schema
 * Resolution"). Where writer and reader are the same schema, generated straight-line code is used.
 *
 * Hostile bytes: every length is checked against what is left before anything is taken; depth is
 * bounded by CODEC_DEPTH_MAX, items that cost no bytes by CODEC_EMPTY_ITEMS_MAX, memory by the arena.
 * Text and bytes of a decoded struct point into the record: valid as long as both it and the arena.
 * Nothing is allocated outside the arena. Trailing bytes are REJECT. Any thread; plans and types are
 * read-only once made.
 */
#ifndef WIRE_CODEC_H
#define WIRE_CODEC_H

#include "base/json.h"
#include "base/text.h"

enum { CODEC_DEPTH_MAX = 32, CODEC_EMPTY_ITEMS_MAX = 1024, CODEC_ENCODED_BYTES_MAX = 1 << 20 };

struct schema;     /* wire/schema.h */
struct codec_type; /* opaque here; layout in wire/codec_type.h, for generated code */
struct codec_plan;

/* ---- Avro binary */

/* Appends to into. data: the struct that type describes. Fails only by into->failed, or REJECT where
 * a value cannot be written (an enum out of range, a union branch that does not exist). */
MUST_CHECK enum outcome codec_encode(const struct codec_type *type, const void *data,
                                     struct buffer *into, struct error *error);

/* Resolution of writer to reader, made once a writer schema. REJECT ("schema-incompatible"), with the
 * field and the reason, where Avro says they do not match. Lives in the arena given. */
MUST_CHECK enum outcome codec_plan_new(const struct schema *writer, const struct codec_type *reader,
                                       struct arena *arena, const struct codec_plan **ret,
                                       struct error *error);
/* ret_data: the reader's struct, in the arena. REJECT ("avro-…") on bytes that are not one; RETRY
 * ("memory") past the arena's bound. */
MUST_CHECK enum outcome codec_decode(const struct codec_plan *plan, struct text bytes,
                                     struct arena *arena, const void **ret_data, struct error *error);

/* ---- JSON */

/*
 * Reads plainly written JSON: a record is an object, absent fields take their defaults, a union is
 * the bare value of the branch that fits, timestamp-micros is RFC 3339 or microseconds, bytes are
 * base64. Every fault is named by its path ("items[0].quantity") with a reason, all of them and not
 * just the first, up to CODEC_FAULTS_MAX. Unknown members are faults.
 */
enum { CODEC_FAULTS_MAX = 32, CODEC_FAULT_PATH_BYTES_MAX = 128, CODEC_FAULT_REASON_BYTES_MAX = 96 };
struct codec_faults {
    size_t count;
    struct codec_fault {
        char path[CODEC_FAULT_PATH_BYTES_MAX];
        char reason[CODEC_FAULT_REASON_BYTES_MAX];
    } fault[CODEC_FAULTS_MAX];
};
void codec_fault_add(struct codec_faults *faults, const char *reason, const char *path_format, ...)
    PRINTF_LIKE(3, 4);
/* Text is copied into the arena. REJECT ("json-invalid") with the first fault in error's text. */
MUST_CHECK enum outcome codec_from_json(const struct codec_type *type, const json_t *json,
                                        struct arena *arena, void **ret_data,
                                        struct codec_faults *faults, struct error *error);
/* timestamp-micros as RFC 3339. */
void codec_to_json(const struct codec_type *type, const void *data, struct json_writer *writer);

/* A deep copy whose text lies in the arena. NULL past its bound. */
void *codec_copy(const struct codec_type *type, const void *data, struct arena *arena);

#endif
