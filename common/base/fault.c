#include "base/fault.h"

#include "base/error.h"
#include "base/text.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const struct {
    const char *name, *where;
} points[FAULT_COUNT] = {
#define FAULT_POINT(name, what) {#name, what},
#include "base/fault.def"
#undef FAULT_POINT
};

const char *fault_name(enum fault_point point)
{
    assert(point < FAULT_COUNT);
    return points[point].name;
}

const char *fault_where(enum fault_point point)
{
    assert(point < FAULT_COUNT);
    return points[point].where;
}

#ifdef WEIR_FAULTS

enum fault_how { HOW_EXIT, HOW_ABORT, HOW_FAIL };

static pthread_once_t armed_once = PTHREAD_ONCE_INIT;
static enum fault_point armed_point = FAULT_COUNT; /* none */
static enum fault_how armed_how;
static int64_t armed_pass = 1;
static _Atomic int64_t passes;

/* Cuts what stands before the next colon off the front. */
static struct text next_part(struct text *rest)
{
    const char *colon = rest->length ? memchr(rest->at, ':', rest->length) : NULL;
    struct text part = {rest->at, colon ? (size_t)(colon - rest->at) : rest->length};
    size_t step = part.length + (colon != NULL);
    rest->at += step;
    rest->length -= step;
    return part;
}

static bool parse_point(struct text name)
{
    for (size_t i = 0; i < FAULT_COUNT; i++)
        if (text_is(name, points[i].name))
            armed_point = (enum fault_point)i;
    return armed_point != FAULT_COUNT;
}

static bool parse_how(struct text how)
{
    static const char *const names[] = {"exit", "abort", "fail"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (text_is(how, names[i])) {
            armed_how = (enum fault_how)i;
            return true;
        }
    return false;
}

static bool parse(struct text rest)
{
    if (!parse_point(next_part(&rest)))
        return false;
    struct text part = next_part(&rest);
    if (part.length && text_to_int64(part, &armed_pass)) {
        if (armed_pass < 1)
            return false;
        part = next_part(&rest);
    }
    return rest.length == 0 && (part.length == 0 || parse_how(part));
}

static void arm(void)
{
    const char *value = getenv("WEIR_FAULT");
    if (!value || !*value || parse(text_of(value)))
        return;
    dprintf(STDERR_FILENO, "WEIR_FAULT=%s: not name[:n][:exit|abort|fail] with a name of fault.def\n", value);
    _exit(EXIT_CONFIG);
}

/* True where this pass is the one that was armed. */
static bool passed(enum fault_point point)
{
    pthread_once(&armed_once, arm);
    return point == armed_point && atomic_fetch_add(&passes, 1) + 1 == armed_pass;
}

static void die(void)
{
    if (armed_how == HOW_ABORT)
        abort();
    _exit(FAULT_EXIT_CODE);
}

void fault_pass(enum fault_point point)
{
    if (passed(point) && armed_how != HOW_FAIL)
        die();
}

bool fault_fails(enum fault_point point)
{
    if (!passed(point))
        return false;
    if (armed_how != HOW_FAIL)
        die();
    return true;
}

#endif
