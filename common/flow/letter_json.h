/*
 * letter_json: dead letters, their causes, a forecast and what came of it, as `weir dlq … --json` and the
 * routes of /v1/dlq show them.
 */
#ifndef FLOW_LETTER_JSON_H
#define FLOW_LETTER_JSON_H

#include "flow/record_json.h"
#include "flow/redrive.h"

/* The members of record_to_json(), then each __dlq.errors.* and weir_* header as a member of its own (of
 * letters of Spring and Connect: made of what they say), letter_id (what a filter knows it by) where there is
 * no ce_id, then state ("open", "redriven", "dropped") and, where it is not open, settled_at and
 * settled_count. */
void letter_to_json(const struct letter *letter, struct registry *registry, struct arena *arena,
                    struct buffer *into);
/* {count, open, redriven, dropped, again, topic, class, type, fingerprint, first_at, last_at, message} */
void cause_to_json(const struct cause *cause, struct json_writer *writer);
/* The members of an object that the caller has begun and ends. */
void forecast_members(const struct redrive_forecast *forecast, struct json_writer *writer);
void done_members(const struct redrive_done *done, struct json_writer *writer);

#endif
