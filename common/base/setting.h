/*
 * setting: one value of the table in base/config.h: what its text means, what would be allowed, and how it is
 * shown. For config.c, and for lists that have such values in them; everybody else asks a struct config.
 */
#ifndef BASE_SETTING_H
#define BASE_SETTING_H

#include "base/config.h"

struct setting_value {
    int64_t number; /* int, bytes, rate per hour, ms, bool */
    int64_t list_ms[CONFIG_DURATIONS_MAX];
    size_t list_count;
};

/* False: not a value of this kind or outside its bounds; see setting_allowed(). */
bool setting_parse(const struct setting *setting, struct text text, struct setting_value *ret);
/* What would have been: "a duration (250ms, 10s, 15min, 24h, 14d) from 1s to 10min". */
void setting_allowed(const struct setting *setting, char *into, size_t bytes);
/* The value without what is secret in it. */
void setting_show(const struct setting *setting, struct text value, struct buffer *into);
/* A librdkafka property's value, likewise. */
void setting_show_property(const char *key, const char *value, struct buffer *into);
/* "HOST:PORT": the value's place in a usage line. */
const char *setting_form(const struct setting *setting);
/* KAFKA_GROUP_ID as kafka-group-id (between '-') or kafka.group.id ('.'). Returns into. */
char *setting_name(const char *name, char between, char into[CONFIG_NAME_BYTES_MAX]);

#endif
