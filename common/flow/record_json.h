/*
 * record_json: a record as people's tools and pages get it: decoded where that is possible, as base64 with
 * the reason where it is not.
 */
#ifndef FLOW_RECORD_JSON_H
#define FLOW_RECORD_JSON_H

#include "base/json.h"
#include "kafka/consumer.h"

/* {topic, partition, offset, timestamp, key, type, id, headers, data} or {…, error, raw}, without a line end.
 * extra is written before the closing brace, may be NULL. Check into->failed. */
void record_to_json(struct registry *registry, const struct record *record, struct arena *arena,
                    struct buffer *into, void (*extra)(void *owner, struct json_writer *writer), void *owner);

#endif
