/*
 * codec_type: what the opaque codec_type is, for generated code and the codec's own files.
 */
#ifndef WIRE_CODEC_TYPE_H
#define WIRE_CODEC_TYPE_H

#include "wire/codec.h"
#include "wire/codec_bytes.h"
#include "wire/schema_tree.h"

/*
 * Straight-line code for one schema, by eventgen. It only ever says yes or NULL; on NULL the same bytes or
 * value go through the table-driven code, which says what is wrong and where.
 */
typedef const unsigned char *codec_decode_function(const unsigned char *at, const unsigned char *end,
                                                   struct arena *arena, void *ret);
/* At least so many bytes, and at most as many as put_ writes. */
typedef size_t codec_bound_function(const void *data);
typedef unsigned char *codec_encode_function(unsigned char *at, const void *data);

struct codec_type {
    const struct schema *schema;
    codec_decode_function *decode; /* all three, or none for a type made at run time */
    codec_bound_function *bound;
    codec_encode_function *encode;
};

/* A type for any schema; as long as both it and the arena. NULL past the arena's bound. */
const struct codec_type *codec_type_new(const struct schema *schema, struct arena *arena);

#endif
