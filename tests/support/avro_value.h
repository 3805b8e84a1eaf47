/*
 * avro_value: the same value for avro-c, the oracle. Only for bytes that our codec has accepted or written.
 */
#ifndef SUPPORT_AVRO_VALUE_H
#define SUPPORT_AVRO_VALUE_H

#include "wire/codec_type.h"

#include <avro.h>

/* Fills value, which is new or was reset. */
void avro_value_from(const struct schema *schema, const void *data, avro_value_t *value);
bool avro_value_same(const struct schema *schema, const void *data, avro_value_t *value);

#endif
