#include "base/ids.h"

#include "base/arena.h"
#include "base/clock.h"
#include "base/digest.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sys/random.h>
#include <unistd.h>

/*
 * Version 7 (RFC 9562): 48 bits of milliseconds, 4 of version, 12 + 62 bits of a counter that starts
 * at random each millisecond and grows by a random step (method 2 of its section 6.2). A clock that
 * goes back keeps the last millisecond. Random bytes are read many at a time: one system call an id
 * would cost more than the rest.
 */
static pthread_mutex_t id_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t last_ms;
static uint64_t last_high; /* 12 bits */
static uint64_t last_low;  /* 62 bits */
static uint8_t random_bytes[1024];
static size_t random_left;
static bool fork_watched;

enum { HIGH_MAX = 0xfff };
static const uint64_t low_max = (UINT64_C(1) << 62) - 1;

/* A child must not hand out what its parent hands out as well. */
static void forget_random(void)
{
    explicit_bzero(random_bytes, sizeof(random_bytes));
    random_left = 0;
    last_high = HIGH_MAX; /* forces a new millisecond */
    last_low = low_max;
}

static void before_fork(void)
{
    pthread_mutex_lock(&id_lock);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&id_lock);
}

static void after_fork_in_child(void)
{
    forget_random();
    pthread_mutex_unlock(&id_lock);
}

static uint64_t random_u64(void)
{
    uint64_t value;
    if (random_left < sizeof(value)) {
        for (size_t filled = 0; filled < sizeof(random_bytes);) {
            ssize_t got = getrandom(random_bytes + filled, sizeof(random_bytes) - filled, 0);
            assert(got > 0 || errno == EINTR); /* no id may be made from bytes that are not random */
            filled += got > 0 ? (size_t)got : 0;
        }
        random_left = sizeof(random_bytes);
    }
    random_left -= sizeof(value);
    memcpy(&value, random_bytes + random_left, sizeof(value));
    return value;
}

static void put_big_endian(uint8_t *at, int bytes, uint64_t value)
{
    for (int i = bytes - 1; i >= 0; i--, value >>= 8)
        at[i] = (uint8_t)value;
}

struct id id_new(void)
{
    int64_t wall_us = clock_wall_us();
    uint64_t now_ms = wall_us > 0 ? (uint64_t)wall_us / 1000 : 0;

    pthread_mutex_lock(&id_lock);
    if (!fork_watched) {
        fork_watched = true;
        pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    }
    if (now_ms <= last_ms) {
        last_low += (random_u64() & 0xffffffff) + 1;
        if (last_low > low_max) {
            last_low &= low_max;
            if (++last_high > HIGH_MAX)
                now_ms = last_ms + 1; /* borrowed from the time to come */
        }
    }
    if (now_ms > last_ms) {
        last_ms = now_ms;
        last_high = random_u64() & (HIGH_MAX >> 1); /* top bit free: room to grow */
        last_low = random_u64() & low_max;
    }
    struct id id;
    put_big_endian(id.bytes, 6, last_ms);
    put_big_endian(id.bytes + 6, 2, 0x7000 | last_high);
    put_big_endian(id.bytes + 8, 8, UINT64_C(1) << 63 | last_low);
    pthread_mutex_unlock(&id_lock);
    return id;
}

/* Version 8, variant 10: bits of our own choice. */
static void mark_custom(struct id *id)
{
    id->bytes[6] = (uint8_t)(0x80 | (id->bytes[6] & 0x0f));
    id->bytes[8] = (uint8_t)(0x80 | (id->bytes[8] & 0x3f));
}

_Static_assert(sizeof(struct id_name) == DIGEST_BYTES, "a name's digest is one of SHA-256");

struct id_name id_name_of(struct text name)
{
    struct id_name hashed;
    digest_sha256(name, hashed.digest);
    return hashed;
}

struct id id_derive(struct id parent, struct text name)
{
    struct id_name hashed = id_name_of(name);
    return id_derive_named(parent, &hashed);
}

struct id id_derive_named(struct id parent, const struct id_name *name)
{
    /* The name's own hash first, so that any length of name makes a message of one length. */
    uint8_t message[sizeof(parent.bytes) + DIGEST_BYTES], hash[DIGEST_BYTES];
    memcpy(message, parent.bytes, sizeof(parent.bytes));
    memcpy(message + sizeof(parent.bytes), name->digest, DIGEST_BYTES);
    digest_sha256((struct text){(const char *)message, sizeof(message)}, hash);

    struct id id;
    memcpy(id.bytes, parent.bytes, 6);
    memcpy(id.bytes + 6, hash, sizeof(id.bytes) - 6);
    mark_custom(&id);
    return id;
}

struct id id_from_text(struct text text)
{
    struct id id;
    if (id_parse(text, &id))
        return id;
    uint8_t hash[DIGEST_BYTES];
    digest_sha256(text, hash);
    memcpy(id.bytes, hash, sizeof(id.bytes));
    mark_custom(&id);
    return id;
}

/* Where the digits of byte i stand in the text form. */
static const uint8_t digits_at[16] = {0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34};

bool id_parse(struct text text, struct id *ret)
{
    if (text.length != ID_TEXT_BYTES || text.at[8] != '-' || text.at[13] != '-' || text.at[18] != '-' ||
        text.at[23] != '-')
        return false;
    struct id id;
    for (size_t i = 0; i < sizeof(id.bytes); i++)
        if (!digest_from_hex((struct text){text.at + digits_at[i], 2}, &id.bytes[i], 1))
            return false;
    *ret = id;
    return true;
}

bool id_lower(struct arena *arena, struct text *text)
{
    struct id id;
    bool capitals = false;
    for (size_t i = 0; i < text->length && text->length == ID_TEXT_BYTES; i++)
        capitals |= text->at[i] >= 'A' && text->at[i] <= 'F';
    if (!capitals || !id_parse(*text, &id))
        return true;
    char *into = arena_take(arena, ID_TEXT_BYTES);
    if (!into)
        return false;
    *text = id_to_text(id, into);
    return true;
}

struct text id_to_text(struct id id, char into[ID_TEXT_BYTES])
{
    into[8] = into[13] = into[18] = into[23] = '-';
    for (size_t i = 0; i < sizeof(id.bytes); i++)
        digest_to_hex(&id.bytes[i], 1, into + digits_at[i]);
    return (struct text){into, ID_TEXT_BYTES};
}
