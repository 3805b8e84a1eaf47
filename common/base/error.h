/*
 * error: the one idiom for what can fail.
 *
 * Everything that can fail returns an enum outcome and takes a struct error * last. A handler's
 * outcome is also its routing, see flow/dispatch.h. The module nearest the outside world decides
 * the class, once; above it nobody reads errno, librdkafka or SQLite codes.
 *
 *     outcome = store_open(..., error);
 *     if (outcome != OK)
 *         return outcome;            (or: goto out, where something long-lived must be closed)
 *
 * Out-parameters are named ret_x and are set only on OK. Programmer errors are not outcomes: assert,
 * which stays on in every build.
 */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(format_at, first) __attribute__((format(printf, format_at, first)))

enum outcome {
    OK = 0, /* done                                                           */
    RETRY,  /* this record or call may succeed later                          */
    OUTAGE, /* a dependency is down: nothing is wrong with the record, pause  */
    REJECT, /* this record or call can never succeed                          */
    FATAL,  /* this process cannot go on: drain, exit non-zero                */
};

enum { ERROR_TEXT_BYTES_MAX = 256 };

/* On the stack of whoever can do something about it; never allocates. */
struct error {
    enum outcome outcome;
    int exit_code;          /* sysexits code for a command line; 0 = derive from the outcome     */
    const char *cause;      /* short stable word for fingerprints ("schema-unknown"); static, or NULL */
    char text[ERROR_TEXT_BYTES_MAX]; /* one line, for people; cut where too long                 */
};

/* Sets all of *error; error may be NULL. */
void error_set(struct error *error, enum outcome outcome, const char *cause, const char *format, ...)
    PRINTF_LIKE(4, 5);
/* Puts "prefix: " in front of the text that is there. */
void error_prefix(struct error *error, const char *format, ...) PRINTF_LIKE(2, 3);
const char *outcome_name(enum outcome outcome); /* "ok", "retry", "outage", "reject", "fatal" */

/*
 * return error_reject(error, "order-invalid", "order %s: ...", id);
 * Macros, so that an analyser sees a value that is not OK.
 */
#define error_retry(error, cause, ...) (error_set((error), RETRY, (cause), __VA_ARGS__), RETRY)
#define error_outage(error, cause, ...) (error_set((error), OUTAGE, (cause), __VA_ARGS__), OUTAGE)
#define error_reject(error, cause, ...) (error_set((error), REJECT, (cause), __VA_ARGS__), REJECT)
#define error_fatal(error, cause, ...) (error_set((error), FATAL, (cause), __VA_ARGS__), FATAL)

/* Exit codes of every program (sysexits.h's numbers). */
enum {
    EXIT_NOTHING_FOUND = 1,
    EXIT_USAGE = 64,
    EXIT_BAD_DATA = 65,
    EXIT_NO_INPUT = 66,
    EXIT_UNREACHABLE = 69,
    EXIT_INTERNAL = 70,
    EXIT_TRY_AGAIN = 75,
    EXIT_CONFIG = 78,
};
/* error->exit_code where set, else by outcome: RETRY 75, OUTAGE 69, REJECT 65, FATAL 70. */
int error_exit_code(const struct error *error);

#endif
