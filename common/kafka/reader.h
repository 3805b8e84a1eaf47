/*
 * reader: reads topics from the outside of any group, for tools (watch, order, dlq). One thread.
 */
#ifndef KAFKA_READER_H
#define KAFKA_READER_H

#include "kafka/consumer.h"

struct reader;
enum reader_from { READER_BEGINNING, READER_END, READER_TIME };

/* Topics that do not exist are left out (ret_missing counts them, may be NULL). until_ends: reader_read()
 * ends at the ends that the topics had now. OUTAGE when no broker answers within timeout_ms; one
 * that answers but does not lead what is asked for (it has just started) is asked again until then. */
MUST_CHECK enum outcome reader_open(const struct client_settings *client, const char *const *topics,
                                    enum reader_from from, int64_t from_ms, bool until_ends, int timeout_ms,
                                    size_t *ret_missing, struct reader **ret, struct error *error);
/* *ret: a record (release by reader_release), or *ret_end where all ends are reached, or neither after
 * timeout_ms. record_headers() works on it. */
MUST_CHECK enum outcome reader_read(struct reader *reader, int timeout_ms, struct record *ret,
                                    bool *ret_record, bool *ret_end, struct error *error);
void reader_release(struct record *record);
void reader_close(struct reader *reader);

#endif
