#include "wire/event.h"

enum outcome frame_read(struct text value, int32_t *ret_schema_id, struct text *ret_datum,
                        struct error *error)
{
    if (value.length < FRAME_BYTES)
        return error_reject(error, "framing", "a value of %zu bytes has no schema id", value.length);
    const unsigned char *at = (const unsigned char *)value.at;
    /* Confluent's words, which people search for. */
    if (at[0] != 0)
        return error_reject(error, "framing", "Unknown magic byte! 0x%02x where 0x00 should be", at[0]);
    uint32_t id = (uint32_t)at[1] << 24 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 8 | at[4];
    if (id > INT32_MAX)
        return error_reject(error, "framing", "schema id %u is not one", id);
    *ret_schema_id = (int32_t)id;
    *ret_datum = (struct text){value.at + FRAME_BYTES, value.length - FRAME_BYTES};
    return OK;
}

void frame_write(struct buffer *into, int32_t schema_id)
{
    uint32_t id = (uint32_t)schema_id;
    const unsigned char bytes[FRAME_BYTES] = {
        0, (unsigned char)(id >> 24), (unsigned char)(id >> 16), (unsigned char)(id >> 8), (unsigned char)id,
    };
    buffer_add(into, bytes, sizeof(bytes));
}
