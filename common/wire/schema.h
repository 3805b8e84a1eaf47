/*
 * schema: one Avro schema, parsed from its JSON text and checked. Read-only once made; any thread.
 */
#ifndef WIRE_SCHEMA_H
#define WIRE_SCHEMA_H

#include "base/text.h"

enum { SCHEMA_TEXT_BYTES_MAX = 256 << 10, SCHEMA_DEPTH_MAX = 32, SCHEMA_FIELDS_MAX = 1024 };

struct schema;

/*
 * Refuses what Avro 1.11 refuses, and, because records are hostile, recursive schemas, arrays of items that
 * cost no bytes, and anything past the bounds. REJECT ("schema-invalid") with place and reason; RETRY
 * ("memory"). The text is kept. Everything lives in the arena.
 */
MUST_CHECK enum outcome schema_parse(struct text json, struct arena *arena, const struct schema **ret,
                                     struct error *error);
struct text schema_text(const struct schema *schema);      /* as it was given: this is what is registered */
struct text schema_full_name(const struct schema *schema); /* "weir.OrderPlaced" */
/* Parsing Canonical Form and its CRC-64-AVRO (golden values in tests/unit/test_schema.c). */
void schema_canonical(const struct schema *schema, struct buffer *into);
uint64_t schema_fingerprint(const struct schema *schema);
/* Can reader read whatever writer may write? REJECT ("schema-incompatible") says which field and why. */
MUST_CHECK enum outcome schema_can_read(const struct schema *reader, const struct schema *writer,
                                        struct error *error);

#endif
