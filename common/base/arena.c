#include "base/arena.h"

#include <assert.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define ARENA_POISONS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_POISONS 1
#endif
#endif
#ifdef ARENA_POISONS
#include <sanitizer/asan_interface.h>
/* A function, because gcc takes the const argument of the other for a read of fresh memory. */
static __attribute__((noinline)) void poison(void *at, size_t bytes)
{
    __asan_poison_memory_region(at, bytes);
}
#define POISON(at, bytes) poison((at), (bytes))
#define UNPOISON(at, bytes) __asan_unpoison_memory_region((at), (bytes))
#else
#define POISON(at, bytes) ((void)(at), (void)(bytes))
#define UNPOISON(at, bytes) ((void)(at), (void)(bytes))
#endif

struct chunk {
    struct chunk *next; /* in order of use; those after arena->current are spare */
    size_t size;
    size_t used;
    _Alignas(16) unsigned char bytes[];
};

struct arena {
    struct chunk *first;
    struct chunk *current;
    size_t total; /* taken since the last reset */
    size_t bytes_max;
};

struct arena *arena_new(size_t bytes_max)
{
    struct arena *arena = calloc(1, sizeof(*arena));
    if (arena)
        arena->bytes_max = bytes_max;
    return arena;
}

static void chunks_free(struct chunk *chunk)
{
    while (chunk) {
        struct chunk *next = chunk->next;
        UNPOISON(chunk->bytes, chunk->size);
        free(chunk);
        chunk = next;
    }
}

void arena_destroy(struct arena *arena)
{
    if (!arena)
        return;
    chunks_free(arena->first);
    free(arena);
}

/* Moves to a chunk with room: the next spare one where it fits, else a new one put before it. */
static struct chunk *chunk_with_room(struct arena *arena, size_t bytes)
{
    struct chunk *spare = arena->current ? arena->current->next : arena->first;
    if (spare && spare->size >= bytes) {
        spare->used = 0;
        return arena->current = spare;
    }
    size_t size = bytes > ARENA_CHUNK_BYTES ? bytes : ARENA_CHUNK_BYTES;
    struct chunk *chunk = malloc(sizeof(*chunk) + size);
    if (!chunk)
        return NULL;
    chunk->size = size;
    chunk->used = 0;
    chunk->next = spare;
    POISON(chunk->bytes, size);
    if (arena->current)
        arena->current->next = chunk;
    else
        arena->first = chunk;
    return arena->current = chunk;
}

void *arena_take(struct arena *arena, size_t bytes)
{
    if (bytes > arena->bytes_max || arena->total > arena->bytes_max - bytes)
        return NULL;
    size_t rounded = (bytes + 15) & ~(size_t)15;
    if (rounded == 0)
        rounded = 16;
    struct chunk *chunk = arena->current;
    if (!chunk || chunk->size - chunk->used < rounded) {
        chunk = chunk_with_room(arena, rounded);
        if (!chunk)
            return NULL;
    }
    void *at = chunk->bytes + chunk->used;
    chunk->used += rounded;
    arena->total += rounded;
    UNPOISON(at, bytes);
    return at;
}

void *arena_take_zeroed(struct arena *arena, size_t bytes)
{
    void *at = arena_take(arena, bytes);
    return at ? memset(at, 0, bytes) : NULL;
}

void *arena_copy(struct arena *arena, const void *from, size_t bytes)
{
    void *at = arena_take(arena, bytes);
    if (at && bytes)
        memcpy(at, from, bytes);
    return at;
}

char *arena_print(struct arena *arena, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *at = length < 0 ? NULL : arena_take(arena, (size_t)length + 1);
    if (!at)
        return NULL;
    va_start(arguments, format);
    vsnprintf(at, (size_t)length + 1, format, arguments);
    va_end(arguments);
    return at;
}

void arena_reset(struct arena *arena)
{
    size_t kept = 0;
    for (struct chunk *chunk = arena->first, *before = NULL; chunk; before = chunk, chunk = chunk->next) {
        kept += chunk->size;
        if (kept > ARENA_KEPT_BYTES_MAX) {
            chunks_free(chunk);
            if (before)
                before->next = NULL;
            else
                arena->first = NULL;
            break;
        }
        chunk->used = 0;
        POISON(chunk->bytes, chunk->size);
    }
    arena->current = NULL;
    arena->total = 0;
}

size_t arena_used_bytes(const struct arena *arena)
{
    return arena->total;
}

struct arena_mark arena_mark(const struct arena *arena)
{
    return (struct arena_mark){
        .chunk = arena->current,
        .used = arena->current ? arena->current->used : 0,
        .total = arena->total,
    };
}

void arena_rewind(struct arena *arena, struct arena_mark mark)
{
    assert(mark.total <= arena->total);
    arena->current = mark.chunk;
    if (arena->current) {
        POISON(arena->current->bytes + mark.used, arena->current->size - mark.used);
        arena->current->used = mark.used;
    }
    arena->total = mark.total;
}
