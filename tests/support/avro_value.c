#include "support/avro_value.h"

#include <assert.h>

/* avro-c counts a string's NUL as part of it. */
static void set_string(avro_value_t *value, struct text text)
{
    char *copy = malloc(text.length + 1);
    assert(copy);
    if (text.length)
        memcpy(copy, text.at, text.length);
    copy[text.length] = '\0';
    assert(avro_value_set_string_len(value, copy, text.length + 1) == 0);
    free(copy);
}

static void list_from(const struct schema *schema, const struct schema_list *list, avro_value_t *value)
{
    const char *entry = list->at;
    for (size_t i = 0; i < list->count; i++, entry += schema->entry_size) {
        avro_value_t item;
        if (schema->kind == SCHEMA_ARRAY) {
            assert(avro_value_append(value, &item, NULL) == 0);
        } else {
            struct text key = *(const struct text *)(const void *)entry;
            char name[256];
            assert(key.length < sizeof(name));
            memcpy(name, key.at, key.length);
            name[key.length] = '\0';
            assert(avro_value_add(value, name, &item, NULL, NULL) == 0);
        }
        avro_value_from(schema->items, entry + schema->value_offset, &item);
    }
}

void avro_value_from(const struct schema *schema, const void *data, avro_value_t *value)
{
    struct text text;
    avro_value_t part;
    int failed = 0;
    switch (schema->kind) {
    case SCHEMA_NULL:
        failed = avro_value_set_null(value);
        break;
    case SCHEMA_BOOLEAN:
        failed = avro_value_set_boolean(value, *(const bool *)data);
        break;
    case SCHEMA_INT:
        failed = avro_value_set_int(value, *(const int32_t *)data);
        break;
    case SCHEMA_LONG:
        failed = avro_value_set_long(value, *(const int64_t *)data);
        break;
    case SCHEMA_FLOAT:
        failed = avro_value_set_float(value, *(const float *)data);
        break;
    case SCHEMA_DOUBLE:
        failed = avro_value_set_double(value, *(const double *)data);
        break;
    case SCHEMA_BYTES:
    case SCHEMA_FIXED:
        text = *(const struct text *)data;
        /* avro-c takes what it copies as not const. */
        void *bytes = text.length ? (void *)(uintptr_t)text.at : (void *)(uintptr_t) "";
        failed = schema->kind == SCHEMA_BYTES ? avro_value_set_bytes(value, bytes, text.length)
                                              : avro_value_set_fixed(value, bytes, text.length);
        break;
    case SCHEMA_STRING:
        set_string(value, *(const struct text *)data);
        break;
    case SCHEMA_ENUM:
        failed = avro_value_set_enum(value, *(const int32_t *)data);
        break;
    case SCHEMA_RECORD:
        for (size_t i = 0; i < schema->count; i++) {
            assert(avro_value_get_by_index(value, i, &part, NULL) == 0);
            avro_value_from(schema->fields[i].schema, (const char *)data + schema->fields[i].offset, &part);
        }
        break;
    case SCHEMA_ARRAY:
    case SCHEMA_MAP:
        list_from(schema, data, value);
        break;
    case SCHEMA_UNION: {
        int32_t branch = schema_union_branch(schema, data);
        assert(avro_value_set_branch(value, branch, &part) == 0);
        avro_value_from(schema->branches[branch], (const char *)data + schema->value_offset, &part);
        break;
    }
    case SCHEMA_KIND_COUNT:
        break;
    }
    assert(failed == 0);
}

static bool same_text(const struct schema *schema, struct text text, avro_value_t *value)
{
    const void *at = NULL;
    const char *string = NULL;
    size_t length = 0;
    int failed;
    if (schema->kind == SCHEMA_STRING) {
        failed = avro_value_get_string(value, &string, &length);
        at = string;
        length--;
    } else if (schema->kind == SCHEMA_BYTES) {
        failed = avro_value_get_bytes(value, &at, &length);
    } else {
        failed = avro_value_get_fixed(value, &at, &length);
    }
    return !failed && text_equal(text, (struct text){at, length});
}

static bool same_list(const struct schema *schema, const struct schema_list *list, avro_value_t *value)
{
    size_t count;
    const char *entry = list->at;
    if (avro_value_get_size(value, &count) || count != list->count)
        return false;
    for (size_t i = 0; i < count; i++, entry += schema->entry_size) {
        avro_value_t item;
        const char *key;
        if (avro_value_get_by_index(value, i, &item, &key))
            return false;
        if (schema->kind == SCHEMA_MAP && !text_is(*(const struct text *)(const void *)entry, key))
            return false;
        if (!avro_value_same(schema->items, entry + schema->value_offset, &item))
            return false;
    }
    return true;
}

bool avro_value_same(const struct schema *schema, const void *data, avro_value_t *value)
{
    avro_value_t part;
    int number;
    int32_t narrow;
    int64_t wide;
    float single;
    double twice;
    switch (schema->kind) {
    case SCHEMA_NULL:
        return avro_value_get_null(value) == 0;
    case SCHEMA_BOOLEAN:
        return avro_value_get_boolean(value, &number) == 0 && (number != 0) == *(const bool *)data;
    case SCHEMA_INT:
        return avro_value_get_int(value, &narrow) == 0 && narrow == *(const int32_t *)data;
    case SCHEMA_LONG:
        return avro_value_get_long(value, &wide) == 0 && wide == *(const int64_t *)data;
    case SCHEMA_FLOAT:
        return avro_value_get_float(value, &single) == 0 && memcmp(&single, data, sizeof(single)) == 0;
    case SCHEMA_DOUBLE:
        return avro_value_get_double(value, &twice) == 0 && memcmp(&twice, data, sizeof(twice)) == 0;
    case SCHEMA_BYTES:
    case SCHEMA_STRING:
    case SCHEMA_FIXED:
        return same_text(schema, *(const struct text *)data, value);
    case SCHEMA_ENUM:
        return avro_value_get_enum(value, &number) == 0 && number == *(const int32_t *)data;
    case SCHEMA_RECORD:
        for (size_t i = 0; i < schema->count; i++)
            if (avro_value_get_by_index(value, i, &part, NULL) ||
                !avro_value_same(schema->fields[i].schema, (const char *)data + schema->fields[i].offset,
                                 &part))
                return false;
        return true;
    case SCHEMA_ARRAY:
    case SCHEMA_MAP:
        return same_list(schema, data, value);
    case SCHEMA_UNION:
        if (avro_value_get_discriminant(value, &number) || number != schema_union_branch(schema, data) ||
            avro_value_get_current_branch(value, &part))
            return false;
        return avro_value_same(schema->branches[number], (const char *)data + schema->value_offset, &part);
    case SCHEMA_KIND_COUNT:
        break;
    }
    return false;
}
