/* dlq: dead letters: list them by cause, show them whole, send them back, drop them. */
#include "dlq.h"

#include "base/clock.h"

#include <stdio.h>

/* The first row is a setting like others; the rest are words of this verb. */
static const struct setting dlq_settings[] = {
    {"RETRY_DELAYS", SETTING_DURATIONS, "2s,4s,8s", 0, TOPIC_RETRY_DELAY_MS_MAX, NULL,
     "As the services have them: what is sent back goes to the retry topic of the first."},
    {"SERVICE", SETTING_CHOICE, NULL, 0, 0, "order|inventory|payment|email|analytics",
     "Only this service's."},
    {"TYPE", SETTING_TEXT, NULL, 0, 0, NULL, "Only this event type, OrderPlaced or weir.OrderPlaced."},
    {"CLASS", SETTING_TEXT, NULL, 0, 0, NULL,
     "Only this error class: RETRY (attempts used up), REJECT, CRASH; of Spring and Connect the exception's "
     "class."},
    {"FINGERPRINT", SETTING_TEXT, NULL, 0, 0, NULL, "Only this cause."},
    {"SINCE", SETTING_TEXT, NULL, 0, 0, NULL, "Only from this time on (RFC 3339)."},
    {"UNTIL", SETTING_TEXT, NULL, 0, 0, NULL, "Only before this time (RFC 3339)."},
    {"ID", SETTING_TEXT, NULL, 0, 0, NULL,
     "Only the event with this id (ce_id); one without is TOPIC/PARTITION/OFFSET of where it first was."},
    {"KEY", SETTING_TEXT, NULL, 0, 0, NULL, "Only this key."},
    {"FROM", SETTING_TEXT, NULL, 0, 0, NULL,
     "Read this topic of dead letters instead of Weir's own: by Spring, Kafka Connect or any other that "
     "writes KIP-1191's headers."},
    {"ALL", SETTING_BOOL, "false", 0, 0, NULL,
     "list and show: also what was redriven or dropped; without it, what is open: nobody has done anything "
     "about it, or it came back."},
    {"JSON", SETTING_BOOL, "false", 0, 0, NULL, "One JSON object a line and dead letter."},
    {"DRY_RUN", SETTING_BOOL, "false", 0, 0, NULL, "redrive and drop: only say what would be done."},
    {"YES", SETTING_BOOL, "false", 0, 0, NULL,
     "redrive and drop: do not ask. Without a terminal to ask on nothing is asked anyway."},
    {"RATE", SETTING_RATE, "100/s", 0, 0, NULL, "redrive and drop: at most so many letters, 0 for no limit."},
    {"LIMIT", SETTING_INT, "0", 0, 1000000000, NULL,
     "redrive and drop: at most so many letters in all; 0: all."},
    {"AGAIN", SETTING_BOOL, "false", 0, 0, NULL,
     "redrive and drop: also what was redriven or dropped before. The service lets no delivery take effect "
     "twice."},
    {"REASON", SETTING_TEXT, NULL, 0, 0, NULL, "drop: why; kept with the record."},
    {"BY", SETTING_TEXT, NULL, 0, 0, NULL, "redrive and drop: who; user@host where not given."},
    SETTINGS_END,
};

const char dlq_examples[] =
    "Examples:\n\n"
    "  weir dlq list                                       # what is open, by cause\n"
    "  weir dlq show --service payment --key ID            # headers, and the event decoded\n"
    "  weir dlq redrive --service payment --dry-run        # how many it would be, and of what\n"
    "  weir dlq redrive --service payment --fingerprint F  # back to the service, after a question\n"
    "  weir dlq drop --id ID --reason \"a test order\"      # given up; what waits behind it goes on\n"
    "  weir dlq redrive --from orders.DLT --dry-run        # dead letters of Spring or Kafka Connect\n\n"
    "Ends with 65 where letters cannot be sent and stay, 75 where it was stopped: the same again goes on.\n";

enum outcome dlq_each(const struct dlq *dlq,
                      void (*each)(void *owner, const struct letter *letter, struct arena *arena),
                      void *owner, size_t *ret_given, size_t *ret_passed, struct error *error)
{
    struct letters *letters = NULL;
    size_t topics = 1;
    bool end = false;
    *ret_given = *ret_passed = 0;
    enum outcome outcome = letters_open(&dlq->letters, &letters, error);
    if (outcome == OK)
        outcome = letters_rewind(letters, &topics, error);
    if (outcome == OK && topics == 0)
        fprintf(stderr, "weir dlq: there is no topic dlq.%s; weir topics create makes it\n",
                dlq->filter.service ? dlq->filter.service : "*");
    while (outcome == OK && !end && !cli_unheard()) {
        if (cli_interrupted()) {
            outcome = cli_stopped(error, "all was read");
            break;
        }
        const struct letter *letter;
        outcome = letters_next(letters, &letter, &end, error);
        if (outcome != OK || !letter)
            continue;
        if (letter->state != LETTER_OPEN && !dlq->all) {
            ++*ret_passed;
            continue;
        }
        ++*ret_given;
        each(owner, letter, letters_arena(letters));
    }
    letters_close(letters);
    return outcome;
}

void dlq_say_none(const struct dlq *dlq, size_t passed)
{
    const struct letter_filter *filter = &dlq->filter;
    bool filtered = filter->service || filter->type || filter->class || filter->fingerprint || filter->id ||
                    filter->key || filter->since_us || filter->until_us;
    const char *topic = dlq->letters.topic;
    if (passed)
        fprintf(stderr, "weir dlq: no dead letters that are open; --all shows %zu redriven or dropped\n",
                passed);
    else
        fprintf(stderr, "weir dlq: no dead letters%s%s%s\n", topic ? " on " : "", topic ? topic : "",
                filtered ? " that match" : "");
    if (!passed && !topic && filter->type && !event_type_find(text_of(filter->type)))
        fprintf(stderr, "weir dlq: %s is no event of Weir's: weir schemas list has their names\n",
                filter->type);
}

void dlq_print_causes(const struct causes *causes, bool states)
{
    char first[CLOCK_RFC3339_BYTES_MAX], last[CLOCK_RFC3339_BYTES_MAX];
    struct buffer line = buffer_of(1 << 16), plain = buffer_of(1 << 18);
    for (size_t i = 0; i < causes->count; i++) {
        const struct cause *cause = &causes->list[i];
        buffer_clear(&line);
        buffer_clear(&plain);
        buffer_print(&line, "%7zu  %-14s %-7s %-22s %s  %.19sZ to %.19sZ  ", cause->count, cause->topic,
                     cause->class, cause->type[0] ? cause->type : "(unreadable)", cause->fingerprint,
                     clock_to_rfc3339(cause->first_us, first), clock_to_rfc3339(cause->last_us, last));
        if (states && cause->open < cause->count)
            buffer_print(&line, "(%zu open, %zu redriven, %zu dropped) ", cause->open, cause->redriven,
                         cause->dropped);
        if (cause->again)
            buffer_print(&line, "(%zu had been redriven) ", cause->again);
        buffer_add_string(&line, cause->message);
        buffer_add_plain(&plain, buffer_text(&line)); /* the headers are anybody's */
        printf("%.*s\n", TEXT_ARG(buffer_text(&plain)));
    }
    if (causes->others)
        printf("%7zu  of more than %d causes\n", causes->others, CAUSES_MAX);
    buffer_free(&line);
    buffer_free(&plain);
}

static bool time_of(const struct config *config, const char *name, int64_t *ret_us)
{
    const char *text = config_text(config, name);
    if (!text || clock_from_rfc3339(text_of(text), ret_us))
        return true;
    fprintf(stderr, "weir dlq: %s: %s is no time like 2026-11-21T09:00:00Z\n", name, text);
    return false;
}

/* Weir's own are three; a word that is none of them would find nothing and not say why. */
static bool class_is_one(const struct dlq *dlq)
{
    const char *class = dlq->filter.class;
    if (!class || dlq->letters.topic || strcmp(class, "RETRY") == 0 || strcmp(class, "REJECT") == 0 ||
        strcmp(class, "CRASH") == 0)
        return true;
    fprintf(stderr, "weir dlq: CLASS: %s is not one of RETRY, REJECT, CRASH\n", class);
    return false;
}

static bool stopped(void *owner)
{
    (void)owner;
    return cli_interrupted();
}

int dlq_main(int argc, char **argv)
{
    struct dlq dlq = {.verb = cli_verb("dlq")};
    struct config *config = NULL;
    struct error error;
    int exit_code;
    cli_forget_environment(dlq_settings + 1);
    if (!cli_read(dlq.verb, dlq_settings, argc, argv, 1, &config, &exit_code))
        return exit_code;
    cli_signals();
    const char *word = config_positional_count(config) ? config_positional(config, 0) : "list";
    dlq.config = config;
    dlq.json = config_bool(config, "JSON");
    dlq.all = config_bool(config, "ALL");
    dlq.filter = (struct letter_filter){
        .service = config_text(config, "SERVICE"),
        .type = config_text(config, "TYPE"),
        .class = config_text(config, "CLASS"),
        .fingerprint = config_text(config, "FINGERPRINT"),
        .id = config_text(config, "ID"),
        .key = config_text(config, "KEY"),
    };
    dlq.letters = (struct letters_settings){
        .client = cli_client(config),
        .topic = config_text(config, "FROM"),
        .filter = &dlq.filter,
        .stopped = stopped,
    };
    bool list = strcmp(word, "list") == 0, show = strcmp(word, "show") == 0,
         redrive = strcmp(word, "redrive") == 0, drop = strcmp(word, "drop") == 0;
    if (!list && !show && !redrive && !drop) {
        fprintf(stderr, "weir dlq: there is no %s; list, show, redrive and drop there are\n", word);
        exit_code = EXIT_USAGE;
    } else if (!class_is_one(&dlq) || !time_of(config, "SINCE", &dlq.filter.since_us) ||
               !time_of(config, "UNTIL", &dlq.filter.until_us)) {
        exit_code = EXIT_CONFIG;
    } else if (cli_registry(config, &dlq.letters.registry, &error) != OK) {
        exit_code = cli_fail(dlq.verb, &error);
    } else {
        exit_code = list ? dlq_list(&dlq) : show ? dlq_show(&dlq) : dlq_redrive(&dlq, drop);
    }
    registry_close(dlq.letters.registry);
    config_destroy(config);
    return exit_code;
}
