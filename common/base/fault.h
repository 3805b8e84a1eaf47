/*
 * fault: named points where a test build dies or fails. Nothing at all in a release build.
 *
 * With WEIR_FAULTS=ON at build time, the environment WEIR_FAULT=name[:n][:how] arms one point: at its
 * n-th pass (default 1) the process calls _exit(99) (how = exit, the default), abort() (abort), or
 * fault_fails() returns true (fail). What cannot be read as that
 * ends the process with 78 at the first point passed: a fault that never comes would make a test pass
 * for nothing. The table fault.def names every point once; a test walks it, so that none is forgotten.
 */
#ifndef BASE_FAULT_H
#define BASE_FAULT_H

#include <stdbool.h>

enum fault_point {
#define FAULT_POINT(name, what) FAULT_##name,
#include "base/fault.def"
#undef FAULT_POINT
    FAULT_COUNT
};

enum { FAULT_EXIT_CODE = 99 };

#ifdef WEIR_FAULTS
void fault_pass(enum fault_point point);
bool fault_fails(enum fault_point point);
#define FAULT(name) fault_pass(FAULT_##name)
#define FAULT_FAILS(name) fault_fails(FAULT_##name)
#else
#define FAULT(name) ((void)0)
#define FAULT_FAILS(name) (false)
#endif
const char *fault_name(enum fault_point point);  /* "relay_after_ack" */
const char *fault_where(enum fault_point point); /* what has happened there, in words */

#endif
