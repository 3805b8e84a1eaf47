#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void error_set(struct error *error, enum outcome outcome, const char *cause, const char *format, ...)
{
    if (!error)
        return;
    error->outcome = outcome;
    error->exit_code = 0;
    error->cause = cause;

    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof(error->text), format, arguments);
    va_end(arguments);
}

void error_prefix(struct error *error, const char *format, ...)
{
    if (!error)
        return;
    char text[ERROR_TEXT_BYTES_MAX];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof(text) - 2, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof(text) - 3)
        return;
    text[length++] = ':';
    text[length++] = ' ';
    size_t room = sizeof(text) - (size_t)length - 1, kept = strnlen(error->text, room);
    memcpy(text + length, error->text, kept);
    text[(size_t)length + kept] = '\0';
    memcpy(error->text, text, sizeof(text));
}

const char *outcome_name(enum outcome outcome)
{
    switch (outcome) {
    case OK:
        return "ok";
    case RETRY:
        return "retry";
    case OUTAGE:
        return "outage";
    case REJECT:
        return "reject";
    case FATAL:
        return "fatal";
    }
    return "unknown";
}

int error_exit_code(const struct error *error)
{
    if (error->exit_code)
        return error->exit_code;
    switch (error->outcome) {
    case OK:
        return 0;
    case RETRY:
        return EXIT_TRY_AGAIN;
    case OUTAGE:
        return EXIT_UNREACHABLE;
    case REJECT:
        return EXIT_BAD_DATA;
    case FATAL:
        return EXIT_INTERNAL;
    }
    return EXIT_INTERNAL;
}
