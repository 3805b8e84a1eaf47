#include "store/postgres.h"

#include <endian.h>

/* ---- out */

static void put32(struct buffer *buffer, int32_t value)
{
    uint32_t wire = htobe32((uint32_t)value);
    buffer_add(buffer, &wire, sizeof(wire));
}

static void parameter_begin(struct postgres_parameters *parameters, Oid type)
{
    if (parameters->count == POSTGRES_PARAMETERS_MAX) {
        parameters->bytes.failed = true;
        return;
    }
    parameters->types[parameters->count] = type;
    parameters->offsets[parameters->count] = parameters->bytes.length;
    parameters->count++;
}

static void parameter_end(struct postgres_parameters *parameters)
{
    int last = parameters->count - 1;
    if (last >= 0)
        parameters->lengths[last] = (int)(parameters->bytes.length - parameters->offsets[last]);
}

void postgres_parameters_clear(struct postgres_parameters *parameters)
{
    buffer_clear(&parameters->bytes);
    parameters->count = 0;
}

void postgres_put_int(struct postgres_parameters *parameters, int64_t value)
{
    uint64_t wire = htobe64((uint64_t)value);
    parameter_begin(parameters, OID_INT8);
    buffer_add(&parameters->bytes, &wire, sizeof(wire));
    parameter_end(parameters);
}

void postgres_put_bytes(struct postgres_parameters *parameters, Oid type, struct text bytes)
{
    parameter_begin(parameters, type);
    buffer_add_text(&parameters->bytes, bytes);
    parameter_end(parameters);
}

void postgres_put_text(struct postgres_parameters *parameters, struct text text)
{
    postgres_put_bytes(parameters, OID_TEXT, text);
}

void postgres_put_values(struct postgres_parameters *parameters, const struct store_value *values,
                         size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (values[i].is_bytes)
            postgres_put_bytes(parameters, 0, values[i].text);
        else if (values[i].is_text)
            postgres_put_text(parameters, values[i].text);
        else
            postgres_put_int(parameters, values[i].number);
    }
}

static int32_t element_type(Oid array_type)
{
    return array_type == OID_INT8_ARRAY    ? OID_INT8
           : array_type == OID_TEXT_ARRAY  ? OID_TEXT
           : array_type == OID_BYTEA_ARRAY ? OID_BYTEA
                                           : OID_UUID;
}

void postgres_array_begin(struct postgres_parameters *parameters, Oid array_type, size_t count)
{
    parameter_begin(parameters, array_type);
    struct buffer *bytes = &parameters->bytes;
    put32(bytes, 1); /* dimensions */
    put32(bytes, 1); /* there may be NULLs */
    put32(bytes, element_type(array_type));
    put32(bytes, (int32_t)count);
    put32(bytes, 1); /* the first index */
}

void postgres_array_end(struct postgres_parameters *parameters)
{
    parameter_end(parameters);
}

void postgres_array_int(struct postgres_parameters *parameters, int64_t value)
{
    struct {
        uint32_t length, high, low;
    } wire = {htobe32(8), htobe32((uint32_t)((uint64_t)value >> 32)), htobe32((uint32_t)value)};
    buffer_add(&parameters->bytes, &wire, sizeof(wire));
}

void postgres_array_bytes(struct postgres_parameters *parameters, const void *bytes, size_t length)
{
    if (length > INT32_MAX) {
        parameters->bytes.failed = true;
        return;
    }
    put32(&parameters->bytes, (int32_t)length);
    buffer_add(&parameters->bytes, bytes, length);
}

void postgres_array_null(struct postgres_parameters *parameters)
{
    put32(&parameters->bytes, -1);
}

/* ASCII without a NUL: all that is known of it without a look at single bytes. */
static bool is_plain(struct text text)
{
    size_t i = 0;
    for (; i + 8 <= text.length; i += 8) {
        uint64_t word;
        memcpy(&word, text.at + i, sizeof(word));
        /* The second term has a high bit where a byte is 0. */
        if ((word | (word - UINT64_C(0x0101010101010101))) & UINT64_C(0x8080808080808080))
            return false;
    }
    for (; i < text.length; i++)
        if ((signed char)text.at[i] <= 0)
            return false;
    return true;
}

/* Bytes of the character that begins here; 0: none does. */
static size_t character_bytes(struct text text, size_t at)
{
    unsigned char first = (unsigned char)text.at[at];
    size_t bytes = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (first == 0 || bytes > text.length - at || !text_is_utf8((struct text){text.at + at, bytes}))
        return 0;
    return bytes;
}

void postgres_array_text(struct postgres_parameters *parameters, struct text text)
{
    struct buffer *bytes = &parameters->bytes;
    if (is_plain(text)) {
        postgres_array_bytes(parameters, text.at, text.length);
        return;
    }
    size_t length_at = bytes->length;
    put32(bytes, 0);
    for (size_t at = 0; at < text.length;) {
        size_t length = character_bytes(text, at);
        if (length)
            buffer_add(bytes, text.at + at, length);
        else
            buffer_add_string(bytes, "\xef\xbf\xbd");
        at += length ? length : 1;
    }
    if (bytes->failed)
        return;
    uint32_t length = htobe32((uint32_t)(bytes->length - length_at - sizeof(length)));
    memcpy(bytes->at + length_at, &length, sizeof(length));
}

static const void *value_at(const struct rows_entry *entry, const struct rows_column *column, bool base)
{
    return (const char *)(base ? entry->base : entry->row) + column->offset;
}

static void put_column(struct postgres_parameters *parameters, const struct rows_column *column, bool key,
                       struct rows_entry *const *entries, size_t count, bool base)
{
    static const Oid types[] = {[ROWS_INT] = OID_INT8_ARRAY,
                                [ROWS_TEXT] = OID_TEXT_ARRAY,
                                [ROWS_BYTES] = OID_BYTEA_ARRAY,
                                [ROWS_ID] = OID_UUID_ARRAY};
    postgres_array_begin(parameters, types[column->type], count);
    switch (column->type) {
    case ROWS_INT:
        for (size_t i = 0; i < count; i++) {
            int64_t value;
            memcpy(&value, value_at(entries[i], column, base), sizeof(value));
            postgres_array_int(parameters, value);
        }
        break;
    case ROWS_TEXT:
    case ROWS_BYTES:
        for (size_t i = 0; i < count; i++) {
            struct text text = *(const struct text *)value_at(entries[i], column, base);
            if (column->type == ROWS_TEXT && !key)
                postgres_array_text(parameters, text);
            else
                postgres_array_bytes(parameters, text.at, text.length);
        }
        break;
    case ROWS_ID:
        for (size_t i = 0; i < count; i++)
            postgres_array_bytes(parameters, value_at(entries[i], column, base), sizeof(struct id));
        break;
    }
    postgres_array_end(parameters);
}

void postgres_put_columns(struct postgres_parameters *parameters, const struct rows_table *table, size_t from,
                          size_t to, struct rows_entry *const *entries, size_t count, bool base)
{
    for (size_t i = from; i < to; i++)
        put_column(parameters, &table->columns[i], i < table->key_count, entries, count, base);
}

const char *postgres_type_name(enum rows_type type)
{
    static const char *const names[] = {
        [ROWS_INT] = "bigint", [ROWS_TEXT] = "text", [ROWS_BYTES] = "bytea", [ROWS_ID] = "uuid"};
    return names[type];
}

/* ---- in */

static int64_t big_endian(const unsigned char *at, int bytes)
{
    int64_t value = bytes && at[0] & 0x80 ? -1 : 0;
    for (int i = 0; i < bytes; i++)
        value = (int64_t)((uint64_t)value << 8 | at[i]);
    return value;
}

/* Digits in base 10,000; what is behind the point is left out, past the bounds of an int64 it is the bound.
 */
static int64_t numeric(const unsigned char *at, int bytes)
{
    if (bytes < 8)
        return 0;
    int64_t digits = big_endian(at, 2), weight = big_endian(at + 2, 2), value = 0;
    bool negative = at[4] == 0x40;
    for (int64_t i = 0; i <= weight; i++) {
        int64_t digit = i < digits && 10 + 2 * i <= bytes ? big_endian(at + 8 + 2 * i, 2) : 0;
        if (__builtin_mul_overflow(value, 10000, &value) || __builtin_add_overflow(value, digit, &value))
            return negative ? INT64_MIN : INT64_MAX;
    }
    return negative ? -value : value;
}

int64_t postgres_int(const PGresult *result, int row, int column)
{
    const unsigned char *at = (const unsigned char *)PQgetvalue(result, row, column);
    int bytes = PQgetlength(result, row, column);
    int64_t value = 0;
    switch (PQftype(result, column)) {
    case OID_BOOL:
        return bytes == 1 && at[0];
    case OID_INT2:
    case OID_INT4:
    case OID_INT8:
    case OID_OID:
        return bytes <= 8 ? big_endian(at, bytes) : 0;
    case OID_NUMERIC:
        return numeric(at, bytes);
    case OID_TEXT:
        return text_to_int64((struct text){(const char *)at, (size_t)bytes}, &value) ? value : 0;
    default:
        return 0;
    }
}

struct text postgres_text(const PGresult *result, int row, int column)
{
    return (struct text){PQgetvalue(result, row, column), (size_t)PQgetlength(result, row, column)};
}

enum outcome postgres_columns(const PGresult *result, int row, int first_column,
                              const struct rows_table *table, size_t from, size_t to, struct arena *arena,
                              void *into, struct error *error)
{
    for (size_t i = from; i < to; i++) {
        const struct rows_column *column = &table->columns[i];
        char *at = (char *)into + column->offset;
        int place = first_column + (int)(i - from);
        switch (column->type) {
        case ROWS_INT: {
            int64_t value = postgres_int(result, row, place);
            memcpy(at, &value, sizeof(value));
            break;
        }
        case ROWS_TEXT:
        case ROWS_BYTES: {
            struct text text = postgres_text(result, row, place);
            if (text.length && arena) {
                text.at = arena_copy(arena, text.at, text.length);
                if (!text.at)
                    return error_retry(error, "memory", "out of memory for this batch");
            }
            *(struct text *)(void *)at = text;
            break;
        }
        case ROWS_ID: {
            struct text id = postgres_text(result, row, place);
            if (id.length != sizeof(struct id))
                return error_fatal(error, "store-damaged", "%s.%s: an id is not 16 bytes long", table->name,
                                   column->name);
            memcpy(at, id.at, id.length);
            break;
        }
        }
    }
    return OK;
}
