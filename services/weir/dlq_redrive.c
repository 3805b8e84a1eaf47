/* dlq_redrive: dead letters back to the service that failed on them, or dropped: forecast, question, run. */
#include "dlq.h"

#include "base/clock.h"
#include "flow/letter_json.h"

#include <pwd.h>
#include <stdio.h>
#include <unistd.h>

enum { PROGRESS_LINE_S = 5, LINE_BYTES_MAX = 4 << 20 };

struct redriving {
    const struct dlq *dlq;
    struct redrive_settings settings;
    struct redrive_forecast forecast;
    char by[REDRIVE_BY_BYTES_MAX];
    bool terminal; /* stderr is one */
    int64_t start_us, told_us;
};

static const char *duration(int64_t seconds, char into[32])
{
    if (seconds < 120)
        snprintf(into, 32, "%lld s", (long long)seconds);
    else if (seconds < 7200)
        snprintf(into, 32, "%lld min", (long long)(seconds + 30) / 60);
    else
        snprintf(into, 32, "%lld h %lld min", (long long)seconds / 3600, (long long)seconds % 3600 / 60);
    return into;
}

static const char *who(const char *given, char into[REDRIVE_BY_BYTES_MAX])
{
    char host[64] = "";
    const struct passwd *user = getpwuid(getuid());
    (void)gethostname(host, sizeof(host) - 1);
    if (given)
        snprintf(into, REDRIVE_BY_BYTES_MAX, "%s", given);
    else if (user)
        snprintf(into, REDRIVE_BY_BYTES_MAX, "%s@%s", user->pw_name, host);
    else
        snprintf(into, REDRIVE_BY_BYTES_MAX, "%u@%s", (unsigned)getuid(), host);
    return into;
}

static void json_line(struct redriving *redriving, const struct redrive_done *done)
{
    struct buffer line = buffer_of(LINE_BYTES_MAX);
    struct json_writer writer = json_writer(&line);
    json_object_begin(&writer);
    json_member_string(&writer, "event", done ? "done" : "forecast");
    json_member_string(&writer, "action", redriving->settings.drop ? "drop" : "redrive");
    if (done)
        done_members(done, &writer);
    else
        forecast_members(&redriving->forecast, &writer);
    json_object_end(&writer);
    buffer_add_char(&line, '\n');
    fwrite(line.at, 1, line.length, stdout);
    buffer_free(&line);
    fflush(stdout);
}

static void forecast_print(struct redriving *redriving)
{
    const struct redrive_forecast *forecast = &redriving->forecast;
    const char *verb = redriving->settings.drop ? "dropped" : "sent back";
    char time[32];
    if (redriving->dlq->json) {
        json_line(redriving, NULL);
        return;
    }
    dlq_print_causes(&forecast->causes, true);
    printf("%zu dead letters match: %zu open, %zu redriven before, %zu dropped before\n", forecast->matching,
           forecast->open, forecast->redriven, forecast->dropped);
    printf("%zu would be %s", forecast->sent, verb);
    if (forecast->home)
        printf(", %zu of them to the topic where they first were", forecast->home);
    if (forecast->sent && redriving->settings.rate_per_hour)
        printf(", in about %s", duration(forecast->seconds, time));
    printf("\n");
    if (forecast->duplicates)
        printf("%s%zu of them would be passed as duplicates: this delivery of their event was sent back "
               "before, or "
               "lies there twice\n",
               forecast->duplicates_at_least ? "at least " : "", forecast->duplicates);
    if (forecast->unreadable)
        printf("%zu cannot be sent and stay where they are; the first: %s\n", forecast->unreadable,
               forecast->unreadable_first);
    fflush(stdout);
}

static void on_progress(void *owner, const struct redrive_done *done)
{
    struct redriving *redriving = owner;
    int64_t now_us = clock_monotonic_us();
    if (!redriving->terminal && now_us - redriving->told_us < PROGRESS_LINE_S * INT64_C(1000000))
        return;
    redriving->told_us = now_us;
    double seconds = (double)(now_us - redriving->start_us) / 1e6;
    double rate = seconds > 0 ? (double)done->sent / seconds : 0;
    size_t left = redriving->forecast.sent > done->sent ? redriving->forecast.sent - done->sent : 0;
    char time[32];
    fprintf(stderr, "%sweir dlq: %zu of %zu, %.0f/s, %s left%s", redriving->terminal ? "\r\033[K" : "",
            done->sent, redriving->forecast.sent, rate,
            rate > 0 ? duration((int64_t)((double)left / rate + 0.5), time) : "?",
            redriving->terminal ? "" : "\n");
}

/* On a terminal, unless --yes; elsewhere whoever wrote the script has agreed. */
static bool agreed(const struct redriving *redriving)
{
    char answer[16] = "";
    if (config_bool(redriving->dlq->config, "YES") || !isatty(STDIN_FILENO))
        return true;
    fprintf(stderr, "%s %zu dead letters? [y/N] ", redriving->settings.drop ? "Drop" : "Send back",
            redriving->forecast.sent);
    if (!fgets(answer, sizeof(answer), stdin))
        answer[0] = '\0';
    return answer[0] == 'y' || answer[0] == 'Y';
}

static int done_print(struct redriving *redriving, const struct redrive_done *done)
{
    const char *verb = redriving->settings.drop ? "dropped" : "sent back";
    if (redriving->terminal)
        fprintf(stderr, "\r\033[K");
    if (redriving->dlq->json)
        json_line(redriving, done);
    else
        printf("%zu %s (run %s)\n", done->sent, verb, done->run);
    if (done->refused || done->unreadable)
        fprintf(stderr, "weir dlq: %zu could not be %s and stay where they are; the first: %s\n",
                done->refused + done->unreadable, verb, done->refused_first);
    if (done->stopped)
        fprintf(stderr, "weir dlq: stopped; the same command again goes on with what is open\n");
    return done->stopped ? EXIT_TRY_AGAIN : done->refused || done->unreadable ? EXIT_BAD_DATA : 0;
}

static int run(struct redriving *redriving)
{
    struct redrive_done done;
    struct error error;
    redriving->start_us = redriving->told_us = clock_monotonic_us();
    enum outcome outcome = redrive_run(&redriving->settings, &done, &error);
    int exit_code = done_print(redriving, &done);
    return outcome == OK ? exit_code : cli_fail(redriving->dlq->verb, &error);
}

static int usage(const char *text)
{
    fprintf(stderr, "weir dlq: %s\n", text);
    return EXIT_USAGE;
}

int dlq_redrive(const struct dlq *dlq, bool drop)
{
    const struct config *config = dlq->config;
    struct redriving redriving = {.dlq = dlq, .terminal = cli_redraws(STDERR_FILENO)};
    struct error error;
    int64_t delays_ms[CONFIG_DURATIONS_MAX];
    bool dry_run = config_bool(config, "DRY_RUN");
    const char *reason = config_text(config, "REASON");
    if (drop && !reason)
        return usage("drop needs --reason");
    if (drop && strlen(reason) > LETTER_REASON_BYTES_MAX)
        return usage("--reason is too long");
    if (config_durations_ms(config, "RETRY_DELAYS", delays_ms, CONFIG_DURATIONS_MAX) == 0)
        return usage("RETRY_DELAYS is empty: there is no retry topic to send to");
    redriving.settings = (struct redrive_settings){
        .letters = dlq->letters,
        .drop = drop,
        .again = config_bool(config, "AGAIN"),
        .reason = reason,
        .by = who(config_text(config, "BY"), redriving.by),
        .first_delay_ms = delays_ms[0],
        .rate_per_hour = config_int(config, "RATE"),
        .limit = config_int(config, "LIMIT"),
        .progress = on_progress,
        .progress_owner = &redriving,
    };
    if (redrive_foresee(&redriving.settings, &redriving.forecast, &error) != OK)
        return cli_fail(dlq->verb, &error);
    int exit_code = 0;
    forecast_print(&redriving);
    if (redriving.forecast.matching == 0)
        dlq_say_none(dlq, 0);
    else if (redriving.forecast.sent == 0)
        exit_code = redriving.forecast.unreadable ? EXIT_BAD_DATA : 0;
    else if (!dry_run && agreed(&redriving))
        exit_code = run(&redriving);
    else if (!dry_run) {
        fprintf(stderr, "%sweir dlq: nothing was done\n", cli_interrupted() ? "\n" : "");
        exit_code = cli_interrupted() ? EXIT_TRY_AGAIN : 0;
    }
    redrive_forecast_free(&redriving.forecast);
    return exit_code;
}
