#include "table.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>

enum { URL_BYTES = 64, LINE_BYTES_MAX = 8192 };

/* The sum of a metric's series on a page; only those that hold filter, where it is not NULL. */
static double sum_of(struct text page, const char *name, const char *filter)
{
    size_t length = strlen(name);
    double sum = 0;
    for (const char *at = page.at, *end = at + page.length; at && at < end;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t line = (size_t)((stop ? stop : end) - at);
        if (line > length && memcmp(at, name, length) == 0 && (at[length] == '{' || at[length] == ' ')) {
            const char *space = memrchr(at, ' ', line);
            if (space && (!filter || memmem(at, line, filter, strlen(filter))))
                sum += strtod(space + 1, NULL);
        }
        at = stop ? stop + 1 : end;
    }
    return sum;
}

/* What holds it up: the worst first, as an operator would look at it. */
static void take_state(struct table_service *service, struct text page)
{
    static const struct {
        const char *filter, *word;
    } reasons[] = {{"reason=\"flood\"", "flood"},
                   {"reason=\"outage\"", "outage"},
                   {"reason=\"operator\"", "paused"},
                   {"reason=\"backlog\"", "backlog"}};
    service->paused = NULL;
    for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]) && !service->paused; i++)
        if (sum_of(page, "weir_flow_paused", reasons[i].filter) > 0)
            service->paused = reasons[i].word;

    int64_t away = (int64_t)sum_of(page, "weir_call_seconds_count", "result=\"outage\"");
    int64_t answered = (int64_t)sum_of(page, "weir_call_seconds_count", NULL) - away;
    if (answered != service->calls_ok)
        service->peer_away = false;
    else if (away > service->calls_away)
        service->peer_away = true;
    service->calls_ok = answered;
    service->calls_away = away;
}

static const char *state_of(const struct table_service *service)
{
    if (!service->up)
        return "down";
    if (service->paused)
        return service->paused;
    if (service->peer_away)
        return strcmp(service->name, "email") == 0 ? "mail away" : "gateway away";
    return "flows";
}

static void ask_service(struct table_service *service, struct ask *ask)
{
    char url[URL_BYTES];
    struct text page;
    struct error error;
    int status;
    snprintf(url, sizeof(url), "http://127.0.0.1:%d/metrics", service->port);
    service->up =
        ask_http(ask, "GET", url, TEXT(""), TABLE_ASK_MS, &status, &page, &error) == OK && status == 200;
    if (!service->up)
        return;
    int64_t now_us = clock_monotonic_us();
    int64_t handled = (int64_t)sum_of(page, "weir_events_total", "outcome=\"ok\"");
    /* Fewer than before: a new life, whose counters begin at 0. */
    service->handled_ever += handled >= service->handled ? handled - service->handled : handled;
    service->handled = handled;
    service->asked_us = now_us;
    service->duplicates = (int64_t)sum_of(page, "weir_duplicates_total", NULL);
    service->retried = (int64_t)(sum_of(page, "weir_retry_total", NULL) +
                                 sum_of(page, "weir_call_seconds_count", "result=\"retry\""));
    service->dead = (int64_t)sum_of(page, "weir_dlq_total", NULL);
    service->waiting = (int64_t)sum_of(page, "weir_waiting_keys", NULL);
    service->calls =
        (int64_t)(sum_of(page, "weir_calls_in_flight", NULL) + sum_of(page, "weir_calls_waiting", NULL));
    take_state(service, page);
    service->lag = (int64_t)sum_of(page, "kafka_consumergroup_lag", NULL);
    service->outbox_rows = (int64_t)sum_of(page, "weir_outbox_rows", NULL);
}

void table_ask(struct table *table, struct ask *ask)
{
    for (size_t i = 0; i < table->count; i++)
        ask_service(&table->services[i], ask);
}

bool table_idle(const struct table *table)
{
    for (size_t i = 0; i < table->count; i++)
        if (!table->services[i].up || table->services[i].lag != 0 || table->services[i].outbox_rows != 0 ||
            table->services[i].calls != 0)
            return false;
    return true;
}

static void take_rate(struct table_service *service)
{
    double seconds = (double)(service->asked_us - service->drawn_us) / 1e6;
    service->handled_per_second = service->up && service->drawn_us && seconds > 0
                                      ? (double)(service->handled_ever - service->drawn_ever) / seconds
                                      : 0;
    service->drawn_us = service->asked_us;
    service->drawn_ever = service->handled_ever;
}

static const char *milliseconds(int64_t us, char into[32])
{
    if (us < 0)
        snprintf(into, 32, "-");
    else if (us < 100000)
        snprintf(into, 32, "%.1f", (double)us / 1000);
    else
        snprintf(into, 32, "%lld", (long long)(us / 1000));
    return into;
}

static void draw_on_terminal(struct table *table, const struct pulse_counts *counts)
{
    const char *bold = table->colour ? "\033[1m" : "";
    const char *red = table->colour ? "\033[31m" : "", *yellow = table->colour ? "\033[33m" : "",
               *off = table->colour ? "\033[0m" : "";
    char p50[32], p99[32];
    /* No line may wrap: the next table goes up by lines, whatever the width. All that counts is left of
     * column 80. */
    printf("\033[?7l");
    if (table->lines_drawn)
        printf("\033[%dA", table->lines_drawn);
    printf("\033[K\n\033[K%s%-10s %9s %8s %10s %8s %8s %6s  %s%s\n", bold, "service", "handled/s", "lag",
           "duplicates", "retries", "waiting", "dead", "state", off);
    for (size_t i = 0; i < table->count; i++) {
        const struct table_service *service = &table->services[i];
        const char *state = state_of(service), *state_colour = strcmp(state, "flows") == 0 ? "" : red;
        printf("\033[K%-10s %9.0f %8lld %10lld %8lld %s%8lld%s %s%6lld%s  %s%s%s\n", service->name,
               service->up ? service->handled_per_second : 0, (long long)service->lag,
               (long long)service->duplicates, (long long)service->retried, service->waiting ? yellow : "",
               (long long)service->waiting, off, service->dead ? red : "", (long long)service->dead, off,
               state_colour, state, off);
    }
    printf("\033[K\n\033[K%sorders%s     accepted %lld   under way %lld", bold, off,
           (long long)counts->placed, (long long)counts->open);
    if (counts->stuck)
        printf("   %sof which with dead letters %lld%s", red, (long long)counts->stuck, off);
    printf("\n\033[K           confirmed %lld   rejected %lld   cancelled %lld\n",
           (long long)counts->confirmed, (long long)counts->rejected, (long long)counts->cancelled);
    printf("\033[K%se-mails%s    delivered %lld   failed %lld\n", bold, off, (long long)counts->mails_sent,
           (long long)counts->mails_failed);
    printf("\033[K%stime%s       from accepted to confirmed: p50 %s ms   p99 %s ms\n\033[?7h", bold, off,
           milliseconds(counts->p50_us, p50), milliseconds(counts->p99_us, p99));
    enum { LINES_BESIDE = 7 }; /* beside those of the services */
    table->lines_drawn = (int)table->count + LINES_BESIDE;
}

static void write_line(const struct table *table, const struct pulse_counts *counts, struct buffer *into)
{
    char p50[32], p99[32];
    char stuck[48] = "";
    if (counts->stuck)
        snprintf(stuck, sizeof(stuck), " (%lld with dead letters)", (long long)counts->stuck);
    buffer_print(into,
                 "orders: accepted %lld confirmed %lld rejected %lld cancelled %lld under way %lld%s  "
                 "e-mails %lld  p50 %s ms p99 %s ms |",
                 (long long)counts->placed, (long long)counts->confirmed, (long long)counts->rejected,
                 (long long)counts->cancelled, (long long)counts->open, stuck, (long long)counts->mails_sent,
                 milliseconds(counts->p50_us, p50), milliseconds(counts->p99_us, p99));
    for (size_t i = 0; i < table->count; i++) {
        const struct table_service *service = &table->services[i];
        const char *state = state_of(service), *comma = i + 1 < table->count ? "," : "";
        if (!service->up)
            buffer_print(into, " %s down%s", service->name, comma);
        else
            buffer_print(
                into, " %s %.0f/s lag %lld dup %lld retry %lld wait %lld dead %lld%s%s%s", service->name,
                service->handled_per_second, (long long)service->lag, (long long)service->duplicates,
                (long long)service->retried, (long long)service->waiting, (long long)service->dead,
                strcmp(state, "flows") == 0 ? "" : " ", strcmp(state, "flows") == 0 ? "" : state, comma);
    }
}

static void print_line(struct table *table, const struct pulse_counts *counts)
{
    struct buffer line = buffer_of(LINE_BYTES_MAX);
    int64_t now_us = clock_monotonic_us();
    write_line(table, counts, &line);
    uint64_t hash = text_hash(buffer_text(&line));
    if (!table->line_us || hash != table->line_hash ||
        now_us - table->line_us >= TABLE_BEAT_MS * INT64_C(1000)) {
        printf("%5llds  %.*s\n", (long long)((now_us - table->begun_us) / 1000000),
               TEXT_ARG(buffer_text(&line)));
        table->line_hash = hash;
        table->line_us = now_us;
    }
    buffer_free(&line);
}

void table_draw(struct table *table, const struct pulse_counts *counts)
{
    for (size_t i = 0; i < table->count; i++)
        take_rate(&table->services[i]);
    if (table->terminal)
        draw_on_terminal(table, counts);
    else
        print_line(table, counts);
    fflush(stdout);
}

void table_leave(struct table *table)
{
    table->lines_drawn = 0;
}
