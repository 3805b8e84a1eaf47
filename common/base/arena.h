/*
 * arena: memory with the life of a record or a batch. Nothing in it is freed one by one.
 *
 * One thread at a time. Chunks that were taken are kept across arena_reset(), so that a steady load
 * allocates nothing.
 */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include "base/error.h"

#include <stddef.h>

struct arena;

/* bytes_max bounds everything taken from it between two resets. NULL when out of memory. */
struct arena *arena_new(size_t bytes_max);
void arena_destroy(struct arena *arena); /* accepts NULL */

/* Aligned to 16, not zeroed. NULL past bytes_max or when out of memory: callers return
 * error_retry("memory") or reject, they do not abort. A size of 0 gives a valid pointer. */
void *arena_take(struct arena *arena, size_t bytes);
void *arena_take_zeroed(struct arena *arena, size_t bytes);
void *arena_copy(struct arena *arena, const void *from, size_t bytes);
char *arena_print(struct arena *arena, const char *format, ...) PRINTF_LIKE(2, 3);

/* Forgets all that was taken. Keeps at most ARENA_KEPT_BYTES_MAX of chunks. */
void arena_reset(struct arena *arena);
size_t arena_used_bytes(const struct arena *arena);

/* Gives back all that was taken after the mark (for a record that failed in a batch). */
struct arena_mark {
    void *chunk;
    size_t used;
    size_t total;
};
struct arena_mark arena_mark(const struct arena *arena);
void arena_rewind(struct arena *arena, struct arena_mark mark);

enum { ARENA_CHUNK_BYTES = 64 << 10, ARENA_KEPT_BYTES_MAX = 8 << 20 };

#endif
