#include "answer.h"

#include <stdlib.h>
#include <string.h>

int answer_status(char *bytes, size_t length, size_t bytes_max, bool *ret_close)
{
    bytes[length] = '\0';
    const char *end = strstr(bytes, "\r\n\r\n");
    if (!end)
        return length < bytes_max ? 0 : -1;
    const char *length_at = strcasestr(bytes, "\r\ncontent-length:");
    size_t body_length = length_at && length_at < end ? strtoul(length_at + 17, NULL, 10) : 0;
    size_t whole = (size_t)(end + 4 - bytes) + body_length;
    if (whole > bytes_max || strncmp(bytes, "HTTP/1.1 ", 9) != 0)
        return -1;
    if (length < whole)
        return 0;
    const char *close_at = strcasestr(bytes, "\r\nconnection: close");
    *ret_close = close_at && close_at < end;
    return (int)strtol(bytes + 9, NULL, 10);
}
