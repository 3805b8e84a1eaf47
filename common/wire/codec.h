/*
 * codec: Avro binary to C structs and back, and the same structs from and to JSON.
 *
 * A codec_type describes a C struct field by field. eventgen makes one for every schemas/<Event>.avsc
 * together with the struct (build/…/wire/events.h); codec_type_new() makes one at run time for any schema
 * (tests, tools). Decoding goes by a plan: how what a writer with its schema wrote becomes the
 * reader's struct (defaults, aliases, promotions, unions, skipped fields: Avro 1.11 "Schema
 * Resolution"). Where writer and reader are the same schema, generated straight-line code is used.
 *
 * Hostile bytes: every length and count is checked against what is left before anything is taken; an
 * array's items cost at least a byte each and schemas nest at most SCHEMA_DEPTH_MAX deep, which
 * schema_parse() sees to; a datum is at most CODEC_ENCODED_BYTES_MAX; memory is the arena's, and what a
 * datum takes of it is at most proportional to its bytes. Strings must be UTF-8. Text and bytes of a decoded
 * struct point into the record or, from defaults, into the plan: valid as long as these and the arena.
 * Nothing is allocated outside the arena. Trailing bytes are REJECT. Any thread; plans and types are
 * read-only once made.
 */
#ifndef WIRE_CODEC_H
#define WIRE_CODEC_H

#include "base/json.h"
#include "base/text.h"

enum { CODEC_ENCODED_BYTES_MAX = 1 << 20 };

struct schema;     /* wire/schema.h */
struct codec_type; /* opaque here; layout in wire/codec_type.h, for generated code */
struct codec_plan;

/* ---- Avro binary */

/* Appends to into. data: the struct that type describes. REJECT ("avro-value") where a value cannot be
 * written (an enum or a union's branch out of range, a string that is not UTF-8, a fixed of another length),
 * REJECT ("avro-too-long") where it does not fit, and then into->failed may be set. Not OK: into is as long
 * as before. */
MUST_CHECK enum outcome codec_encode(const struct codec_type *type, const void *data, struct buffer *into,
                                     struct error *error);

/* Resolution of writer to reader, made once a writer schema. REJECT ("schema-incompatible"), with the
 * field and the reason, where Avro says they do not match. Lives in the arena given. */
MUST_CHECK enum outcome codec_plan_new(const struct schema *writer, const struct codec_type *reader,
                                       struct arena *arena, const struct codec_plan **ret,
                                       struct error *error);
/* ret_data: the reader's struct, in the arena. REJECT ("avro-truncated", "avro-invalid", "avro-utf8",
 * "avro-symbol", "avro-branch", "avro-trailing", "avro-too-long") with the field on bytes that are not one;
 * RETRY ("memory") past the arena's bound. Not OK: the arena is as it was. */
MUST_CHECK enum outcome codec_decode(const struct codec_plan *plan, struct text bytes, struct arena *arena,
                                     const void **ret_data, struct error *error);

/* ---- JSON */

/*
 * Reads plainly written JSON: a record is an object, absent fields take their defaults, a union is
 * the bare value of the branch that fits, timestamp-micros is RFC 3339 or microseconds, bytes are
 * base64. Every fault is named by its path ("items[0].quantity") with a reason, all of them and not
 * just the first, up to CODEC_FAULTS_MAX. Unknown members are faults. What codec_to_json() wrote reads
 * back as the same value, except where two branches of a union look alike in JSON (the first that fits is
 * taken) and for nan and inf, which JSON does not have.
 */
enum { CODEC_FAULTS_MAX = 32, CODEC_FAULT_PATH_BYTES_MAX = 128, CODEC_FAULT_REASON_BYTES_MAX = 96 };
struct codec_faults {
    size_t count; /* set to 0 by whoever makes one: faults are added */
    struct codec_fault {
        char path[CODEC_FAULT_PATH_BYTES_MAX];
        char reason[CODEC_FAULT_REASON_BYTES_MAX];
    } fault[CODEC_FAULTS_MAX];
};
void codec_fault_add(struct codec_faults *faults, const char *reason, const char *path_format, ...)
    PRINTF_LIKE(3, 4);
/* Text is copied into the arena. REJECT ("json-invalid") with the first fault in error's text. faults may
 * be NULL. */
MUST_CHECK enum outcome codec_from_json(const struct codec_type *type, const json_t *json,
                                        struct arena *arena, void **ret_data, struct codec_faults *faults,
                                        struct error *error);
/* timestamp-micros as RFC 3339 (as a number outside the years 0001 to 9999). Floats by their shortest double.
 */
void codec_to_json(const struct codec_type *type, const void *data, struct json_writer *writer);

/* A deep copy whose text lies in the arena. NULL past its bound. */
void *codec_copy(const struct codec_type *type, const void *data, struct arena *arena);

#endif
