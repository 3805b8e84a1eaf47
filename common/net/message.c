#include "net/message.h"

#include "base/digest.h"
#include "net/net.h"

#include <time.h>

enum { LINE_BYTES_MAX = 76, ENCODED_WORD_FRAME_BYTES = 12 /* =?utf-8?B? and ?= */ };

/* Cannot occur in quoted-printable, where "=" is followed by two hex digits or a line's end. */
#define BOUNDARY "=_weir_"

static bool has_control(struct text text)
{
    for (size_t i = 0; i < text.length; i++)
        if ((unsigned char)text.at[i] < 0x20 || text.at[i] == 0x7f)
            return true;
    return false;
}

static bool is_ascii(struct text text)
{
    for (size_t i = 0; i < text.length; i++)
        if ((unsigned char)text.at[i] >= 0x80)
            return false;
    return true;
}

static bool message_id_valid(struct text id)
{
    if (id.length < 5 || id.length > 250 || id.at[0] != '<' || id.at[id.length - 1] != '>')
        return false;
    size_t at_signs = 0;
    for (size_t i = 1; i + 1 < id.length; i++) {
        unsigned char c = (unsigned char)id.at[i];
        if (c <= 0x20 || c >= 0x7f || c == '<' || c == '>')
            return false;
        at_signs += c == '@';
    }
    return at_signs == 1;
}

static enum outcome check(const struct message *message, struct error *error)
{
    const struct {
        const char *name;
        struct text value;
    } lines[] = {{"From name", message->from_name}, {"Subject", message->subject}};
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
        if (has_control(lines[i].value) || !text_is_utf8(lines[i].value) ||
            lines[i].value.length > MESSAGE_HEADER_BYTES_MAX)
            return error_reject(error, "message-header",
                                "%s: a control byte, not UTF-8, or longer than %d bytes", lines[i].name,
                                MESSAGE_HEADER_BYTES_MAX);
    if (!net_address_valid(message->from) || !net_address_valid(message->to))
        return error_reject(error, "message-header", "From or To: not an e-mail address");
    if (!message_id_valid(message->message_id))
        return error_reject(error, "message-header", "Message-ID: not <left@right>");
    if (!text_is_utf8(message->text) || !text_is_utf8(message->html))
        return error_reject(error, "message-body", "a body that is not UTF-8");
    if (message->text.length > MESSAGE_BODY_BYTES_MAX || message->html.length > MESSAGE_BODY_BYTES_MAX)
        return error_reject(error, "message-body", "a body longer than %d bytes", MESSAGE_BODY_BYTES_MAX);
    return OK;
}

/* Bytes of the character that begins here. */
static size_t character_bytes(unsigned char lead)
{
    return lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
}

/* Encoded-words of whole characters, each at most 75 bytes and with its line at most LINE_BYTES_MAX. */
static void add_encoded_words(struct buffer *into, struct text text, size_t column)
{
    for (size_t i = 0; i < text.length;) {
        size_t room = (LINE_BYTES_MAX - column - ENCODED_WORD_FRAME_BYTES) / 4 * 3, bytes = 0;
        while (i + bytes < text.length) {
            size_t next = character_bytes((unsigned char)text.at[i + bytes]);
            if (bytes + next > room)
                break;
            bytes += next;
        }
        buffer_add_string(into, "=?utf-8?B?");
        digest_to_base64(into, text.at + i, bytes);
        buffer_add_string(into, "?=");
        i += bytes;
        if (i < text.length)
            buffer_add_string(into, "\r\n ");
        column = 1;
    }
}

/* Plain where it is short ASCII that does not look encoded, else encoded: so no folding is needed. */
static void add_unstructured(struct buffer *into, const char *name, struct text value)
{
    buffer_print(into, "%s: ", name);
    size_t column = strlen(name) + 2;
    bool plain = value.length == 0 || (is_ascii(value) && column + value.length <= LINE_BYTES_MAX &&
                                       !memmem(value.at, value.length, "=?", 2) && value.at[0] != ' ' &&
                                       value.at[value.length - 1] != ' ');
    if (plain)
        buffer_add_text(into, value);
    else
        add_encoded_words(into, value, column);
    buffer_add_string(into, "\r\n");
}

static void add_mailbox(struct buffer *into, const char *name, struct text display, struct text address)
{
    buffer_print(into, "%s: ", name);
    if (display.length == 0) {
        buffer_print(into, "%.*s\r\n", TEXT_ARG(address));
        return;
    }
    bool atoms = display.length <= 40;
    for (size_t i = 0; atoms && i < display.length; i++) {
        char c = display.at[i];
        atoms = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                (c == ' ' && i > 0 && i + 1 < display.length);
    }
    if (atoms)
        buffer_add_text(into, display);
    else
        add_encoded_words(into, display, strlen(name) + 2);
    buffer_print(into, "\r\n <%.*s>\r\n", TEXT_ARG(address));
}

/* Names of our own: strftime's are the locale's. */
static void add_date(struct buffer *into, int64_t date_us)
{
    static const char days[][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char months[][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                     "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    int64_t s = date_us / 1000000;
    if (s < 0)
        s = 0;
    if (s > INT64_C(253402300799)) /* the end of year 9999 */
        s = INT64_C(253402300799);
    time_t time = (time_t)s;
    struct tm tm;
    gmtime_r(&time, &tm);
    buffer_print(into, "Date: %s, %d %s %d %02d:%02d:%02d +0000\r\n", days[tm.tm_wday], tm.tm_mday,
                 months[tm.tm_mon], tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
}

/* RFC 2045 6.7. Blanks at the end of a line are encoded, "." at its beginning as well (for the sake of
 * careless relays). */
static void add_quoted_printable(struct buffer *into, struct text text)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t column = 0;
    for (size_t i = 0; i < text.length; i++) {
        unsigned char c = (unsigned char)text.at[i];
        bool line_end = c == '\n' || (c == '\r' && i + 1 < text.length && text.at[i + 1] == '\n');
        if (line_end) {
            i += c == '\r';
            buffer_add_string(into, "\r\n");
            column = 0;
            continue;
        }
        bool before_end = i + 1 == text.length || text.at[i + 1] == '\n' || text.at[i + 1] == '\r';
        bool plain = ((c > 0x20 && c < 0x7f && c != '=') || ((c == ' ' || c == '\t') && !before_end)) &&
                     !(c == '.' && column == 0);
        size_t width = plain ? 1 : 3;
        if (column + width > LINE_BYTES_MAX - 1) {
            buffer_add_string(into, "=\r\n");
            column = 0;
        }
        if (plain && !(c == '.' && column == 0)) {
            buffer_add_char(into, (char)c);
            column++;
        } else {
            const char encoded[] = {'=', hex[c >> 4], hex[c & 15]};
            buffer_add(into, encoded, sizeof(encoded));
            column += 3;
        }
    }
    if (column)
        buffer_add_string(into, "\r\n");
}

static void add_part(struct buffer *into, const char *type, struct text text)
{
    buffer_print(into,
                 "--" BOUNDARY "\r\nContent-Type: %s; charset=utf-8\r\n"
                 "Content-Transfer-Encoding: quoted-printable\r\n\r\n",
                 type);
    add_quoted_printable(into, text);
    buffer_add_string(into, "\r\n");
}

enum outcome message_write(const struct message *message, struct buffer *into, struct error *error)
{
    enum outcome outcome = check(message, error);
    if (outcome != OK)
        return outcome;
    add_date(into, message->date_us);
    add_mailbox(into, "From", message->from_name, message->from);
    add_mailbox(into, "To", (struct text){NULL, 0}, message->to);
    add_unstructured(into, "Subject", message->subject);
    buffer_print(into, "Message-ID: %.*s\r\n", TEXT_ARG(message->message_id));
    buffer_add_string(into, "Auto-Submitted: auto-generated\r\n"
                            "MIME-Version: 1.0\r\n"
                            "Content-Type: multipart/alternative; boundary=\"" BOUNDARY "\"\r\n"
                            "\r\n");
    add_part(into, "text/plain", message->text);
    add_part(into, "text/html", message->html);
    buffer_add_string(into, "--" BOUNDARY "--\r\n");
    return OK;
}
