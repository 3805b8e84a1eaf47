/* weir mail: the mail sink, alone. */
#include "base/log.h"
#include "base/stop.h"
#include "weir/cli.h"
#include "weir/mail_sink.h"

#include <stdio.h>
#include <stdlib.h>

enum { DRAIN_MS = 2000 };

static const struct setting mail_settings[] = {
    {"MAIL_LISTEN", SETTING_LISTEN, "127.0.0.1:1025", 0, 0, NULL, "Where mail is taken; port 0 picks one."},
    {"MAIL_DIR", SETTING_TEXT, "mail", 0, 0, NULL,
     "Folder of the mails, one file each, and of index.ndjson."},
    {"MAIL_SYNC", SETTING_BOOL, "false", 0, 0, NULL, "Sync each mail to disk before it is answered."},
    {"MAIL_KEEP_MAX", SETTING_INT, "100000", 0, 100000000, NULL,
     "Mails kept as files; later ones are only a line of the index."},
    {"MAIL_FAIL_PERCENT", SETTING_INT, "0", 0, 100, NULL, "Recipients refused, with MAIL_REPLY."},
    {"MAIL_REPLY", SETTING_CHOICE, "451", 0, 0, "451|550|421", "How they are refused; 421 also closes."},
    {"MAIL_DROP_PERCENT", SETTING_INT, "0", 0, 100, NULL,
     "Mails kept, but whose connection is closed instead of an answer."},
    {"MAIL_CHAOS", SETTING_TEXT, NULL, 0, 0, NULL,
     "More of these, and outages: 4yz=1%, 421=0.2%, lost=0.1%, outage=6s/35s (connections refused for the "
     "last 6 s "
     "of every 35)."},
    {"MAIL_DELAY", SETTING_DURATION, "0s", 0, 600000, NULL, "Pause before the answer to each mail."},
    SETTINGS_END,
};

int mail_main(int argc, char **argv)
{
    const struct verb *verb = cli_verb("mail");
    struct config *config;
    int exit_code = 0;
    if (!cli_read(verb, mail_settings, argc, argv, 0, &config, &exit_code))
        return exit_code;
    int64_t reply = 0; /* one of the setting's choices: a number */
    text_to_int64(text_of(config_text(config, "MAIL_REPLY")), &reply);
    struct mail_sink_settings settings = {
        .listen = config_text(config, "MAIL_LISTEN"),
        .directory = config_text(config, "MAIL_DIR"),
        .sync = config_bool(config, "MAIL_SYNC"),
        .keep_max = config_int(config, "MAIL_KEEP_MAX"),
        .refuse_percent = (int)config_int(config, "MAIL_FAIL_PERCENT"),
        .refuse_reply = (int)reply,
        .delay_ms = config_ms(config, "MAIL_DELAY"),
    };
    struct mail_sink *sink = NULL;
    struct error error;
    enum outcome outcome = failures_parse("MAIL_CHAOS", config_text(config, "MAIL_CHAOS"), FAILURES_MAIL,
                                          &settings.failures, &error);
    settings.failures.lost_ppm +=
        (uint32_t)config_int(config, "MAIL_DROP_PERCENT") * FAILURES_PPM_PER_PERCENT;
    if (outcome == OK)
        outcome = stop_open(DRAIN_MS, &error);
    if (outcome == OK)
        outcome = mail_sink_open(&settings, &sink, &error);
    if (outcome == OK) {
        printf("smtp://%s\n", mail_sink_address(sink));
        fflush(stdout);
        outcome = mail_sink_run(sink, stop_fd(), &error);
        struct mail_sink_counts counts = mail_sink_counts(sink);
        log_info("mail", "closed", LOG_INT("kept", counts.kept), LOG_INT("refused", counts.refused),
                 LOG_INT("dropped", counts.dropped));
    }
    mail_sink_close(sink);
    config_destroy(config);
    return outcome == OK ? 0 : cli_fail(verb, &error);
}
