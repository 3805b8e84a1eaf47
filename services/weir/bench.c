/* bench: settings, the rates in turn, the search for the knee, and the report. What is measured, and how, is
 * told in bench.h. */
#include "bench.h"
#include "bench_report.h"
#include "cli.h"
#include "shop.h"

#include "base/clock.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/utsname.h>
#include <unistd.h>

enum {
    SETTLING_US = 2000000, /* about so long does a step take to settle: for the estimate of what is left */
    JSON_BYTES_MAX = 256 << 20,
    PATH_BYTES_MAX = 4096,
    LINE_BYTES_MAX = 256,
};
#define KNEE_PRECISION 1.1 /* the knee lies between two rates that are no further apart */

static const struct setting bench_settings[] = {
    {"ORDER_URL", SETTING_URL, "http://127.0.0.1:8080", 0, 0, "http",
     "Where weir-order is, http://host:port."},
    {"INVENTORY_URL", SETTING_URL, "http://127.0.0.1:8082", 0, 0, "http",
     "Where weir-inventory is: it is given stock before."},
    {"API_TOKEN", SETTING_SECRET, NULL, 0, 0, NULL,
     "The services' API_TOKEN, for placing orders and setting stock."},
    {"THROUGH", SETTING_CHOICE, "http", 0, 0, "http|kafka",
     "Orders go by POST /v1/orders, or straight to the topic orders."},
    {"RATE", SETTING_TEXT, "100", 0, 0, NULL,
     "Orders a second; several with commas between are steps, one after the other."},
    {"STEPS", SETTING_TEXT, NULL, 0, 0, NULL,
     "FROM:TO:COUNT, instead of RATE: so many rates, evenly spread."},
    {"KNEE", SETTING_BOOL, "false", 0, 0, NULL,
     "Find the highest rate that is sustained: from RATE on twice as much each time, then halving what is "
     "between."},
    {"ARRIVALS", SETTING_CHOICE, "poisson", 0, 0, "poisson|constant",
     "When orders are due: as by chance, or evenly."},
    {"WARMUP", SETTING_DURATION, "5s", 0, 3600 * 1000, NULL, "Load before the window, which does not count."},
    {"DURATION", SETTING_DURATION, "20s", 1000, 3000 * 1000, NULL,
     "The window: orders that are due in it count."},
    {"SETTLE", SETTING_DURATION, "60s", 1000, 3600 * 1000, NULL,
     "How long after the window an order may be decided; later is broken."},
    {"CONNECTIONS", SETTING_INT, "128", 1, BENCH_CONNECTIONS_MAX, NULL,
     "Kept connections, for orders by HTTP."},
    {"OUTSTANDING_MAX", SETTING_INT, "100000", 1, BENCH_OUTSTANDING_MAX, NULL,
     "Orders sent and not decided; past it none is sent, which is said and makes the step worth nothing."},
    {"SEED", SETTING_INT, "1", 0, INT64_MAX, NULL, "Of the arrivals and of what is ordered."},
    {"GOODS", SETTING_INT, "200", BENCH_ITEMS_MAX, BENCH_GOODS_MAX, NULL,
     "So many SKUs, BENCH-00001 and on, all bought alike."},
    {"STOCK", SETTING_BOOL, "true", 0, 0, NULL, "Give those SKUs stock where they have none."},
    {"MAILS", SETTING_BOOL, "true", 0, 0, NULL,
     "A step is over when the mails of its confirmed orders are sent as well."},
    {"PID", SETTING_TEXT, NULL, 0, 0, NULL,
     "NAME=PID,…: CPU, memory and disk of these processes; PID+: with its descendants; a name given twice is "
     "their sum."},
    {"JSON", SETTING_TEXT, NULL, 0, 0, NULL,
     "File for everything that was measured; its form is in services/weir/bench.h."},
    {"HDR", SETTING_TEXT, NULL, 0, 0, NULL,
     "Prefix of files PREFIX.STEP.STAGE.hgrm, percentile distributions for HdrHistogram's plotter."},
    SETTINGS_END,
};
enum {
    ADDRESSES = 3 /* of these settings, token included, known by their names everywhere: their environment
                     variables count */
};

const char bench_examples[] =
    "Examples:\n\n"
    "  weir up --sample none &\n"
    "  weir bench --rate 50,100,200 --json result.json        # three rates against what weir up runs\n"
    "  weir bench --knee --rate 100 --pid order=$(pgrep -x weir-order)\n"
    "  weir bench --through kafka --steps 500:2500:5 --arrivals constant --hdr out\n\n"
    "Ends with 1 where an accepted order was never decided, or a sent one never answered; a step whose "
    "generator was the\n"
    "bottleneck is marked as not valid.\n";

struct bench {
    const struct verb *verb;
    const struct config *config;
    struct registry *registry;
    struct bench_setup setup;
    struct bench_processes processes;
    struct client_settings client;
    char (*names)[16];
    struct text *goods;
    double rates[BENCH_STEPS_MAX];
    size_t rate_count;
    bool knee, terminal;
    int step_count;
    double sustained_rate, failed_rate; /* the knee's two sides; 0: none yet */
    int sustained_step;
    int64_t broken, begun_wall_us;
    bool interrupted;
    struct buffer steps; /* their JSON, with commas between */
};

/* ---- settings */

static enum outcome refuse(const char *setting, const char *value, const char *allowed, struct error *error)
{
    error_set(error, REJECT, "setting", "%s: %s is not %s", setting, value, allowed);
    error->exit_code = EXIT_CONFIG;
    return REJECT;
}

static bool is_rate(double rate)
{
    return rate > 0 && rate <= BENCH_RATE_MAX; /* nan is not */
}

static enum outcome read_rates(struct bench *bench, const char *text, struct error *error)
{
    for (const char *at = text;; at++) {
        char *end;
        double rate = strtod(at, &end);
        if (end == at || !is_rate(rate) || (*end && *end != ',') || bench->rate_count == BENCH_STEPS_MAX)
            return refuse("RATE", text, "one or a few orders a second, with commas between", error);
        bench->rates[bench->rate_count++] = rate;
        if (!*end)
            return OK;
        at = end;
    }
}

static enum outcome read_steps(struct bench *bench, const char *text, struct error *error)
{
    double from, to;
    int count, length = 0;
    if (sscanf(text, "%lf:%lf:%d%n", &from, &to, &count, &length) != 3 || text[length] || !is_rate(from) ||
        !is_rate(to) || count < 2 || count > BENCH_STEPS_MAX)
        return refuse("STEPS", text, "FROM:TO:COUNT, as in 100:1000:10", error);
    for (int i = 0; i < count; i++)
        bench->rates[bench->rate_count++] = from + (to - from) * i / (count - 1);
    return OK;
}

static enum outcome read_settings(struct bench *bench, struct error *error)
{
    const struct config *config = bench->config;
    const char *steps = config_text(config, "STEPS");
    struct bench_setup *setup = &bench->setup;
    bench->knee = config_bool(config, "KNEE");
    setup->arrivals =
        strcmp(config_text(config, "ARRIVALS"), "poisson") == 0 ? BENCH_POISSON : BENCH_CONSTANT;
    setup->warmup_us = config_ms(config, "WARMUP") * 1000;
    setup->duration_us = config_ms(config, "DURATION") * 1000;
    setup->settle_us = config_ms(config, "SETTLE") * 1000;
    setup->outstanding_max = config_int(config, "OUTSTANDING_MAX");
    setup->seed = (uint64_t)config_int(config, "SEED");
    setup->mails = config_bool(config, "MAILS");
    setup->goods_count = (size_t)config_int(config, "GOODS");
    setup->cut_short = bench->knee;
    setup->processes = &bench->processes;
    enum outcome outcome =
        steps ? read_steps(bench, steps, error) : read_rates(bench, config_text(config, "RATE"), error);
    if (outcome == OK && bench->knee && bench->rate_count > 1)
        outcome = refuse("KNEE", "true", "for several rates: it finds them itself, from one on", error);
    if (outcome == OK)
        outcome = bench_processes_read(config_text(config, "PID"), &bench->processes, error);
    return outcome;
}

/* ---- what is needed */

static enum outcome give_stock(struct bench *bench, struct error *error)
{
    struct ask *ask = NULL;
    if (!config_bool(bench->config, "STOCK"))
        return OK;
    const char *token;
    enum outcome outcome = shop_token(bench->config, &token, error);
    if (outcome == OK)
        outcome = ask_open(&ask, error);
    if (outcome == OK)
        ask_authorize(ask, token);
    for (size_t i = 0; outcome == OK && i < bench->setup.goods_count && !cli_interrupted(); i++)
        outcome = shop_stock(ask, config_text(bench->config, "INVENTORY_URL"), bench->goods[i], error);
    ask_close(ask);
    return outcome;
}

static enum outcome name_goods(struct bench *bench, struct error *error)
{
    size_t count = bench->setup.goods_count;
    bench->names = calloc(count, sizeof(*bench->names));
    bench->goods = calloc(count, sizeof(*bench->goods));
    if (!bench->names || !bench->goods)
        return error_fatal(error, "memory", "out of memory");
    for (size_t i = 0; i < count; i++) {
        int length = snprintf(bench->names[i], sizeof(bench->names[i]), "BENCH-%05zu", i + 1);
        bench->goods[i] = (struct text){bench->names[i], (size_t)length};
    }
    bench->setup.goods = bench->goods;
    return OK;
}

static enum outcome open_sender(struct bench *bench, struct error *error)
{
    char host[SHOP_HOST_BYTES_MAX];
    const char *token;
    int port;
    if (strcmp(config_text(bench->config, "THROUGH"), "kafka") == 0)
        return bench_kafka_open(&bench->client, bench->registry, &bench->setup.kafka, error);
    enum outcome outcome =
        shop_address("ORDER_URL", config_text(bench->config, "ORDER_URL"), host, &port, error);
    if (outcome == OK)
        outcome = shop_token(bench->config, &token, error);
    if (outcome == OK)
        outcome = bench_http_open(host, port, token, (int)config_int(bench->config, "CONNECTIONS"),
                                  &bench->setup.http, error);
    return outcome;
}

static enum outcome open_all(struct bench *bench, struct error *error)
{
    bench->client = cli_client(bench->config);
    bench->setup.run = bench_run_new();
    enum outcome outcome = name_goods(bench, error);
    if (outcome == OK)
        outcome = give_stock(bench, error);
    if (outcome == OK)
        outcome = cli_registry(bench->config, &bench->registry, error);
    if (outcome == OK)
        outcome = open_sender(bench, error); /* before the reader: the registry is then the reader's */
    if (outcome == OK)
        outcome =
            bench_track_open(&bench->client, bench->registry, bench->setup.run, &bench->setup.track, error);
    return outcome;
}

static void close_all(struct bench *bench)
{
    bench_http_close(bench->setup.http);
    bench_kafka_close(bench->setup.kafka);
    bench_track_close(bench->setup.track);
    registry_close(bench->registry);
    buffer_free(&bench->steps);
    free(bench->names);
    free(bench->goods);
}

/* ---- the JSON file */

static void put_first_line_of(struct json_writer *writer, const char *name, const char *path,
                              const char *label)
{
    char line[LINE_BYTES_MAX] = "";
    FILE *file = fopen(path, "re");
    bool found = false;
    while (file && !found && fgets(line, sizeof(line), file))
        found = strncmp(line, label, strlen(label)) == 0;
    if (file)
        fclose(file);
    char *at = found ? strchr(line, ':') : NULL;
    at = at ? at + 1 + strspn(at + 1, " \t") : line + strlen(line);
    at[strcspn(at, "\n")] = '\0';
    json_member_string(writer, name, at);
}

static void put_machine(struct json_writer *writer)
{
    struct utsname name = {0};
    uname(&name);
    json_key(writer, "machine");
    json_object(writer);
    json_member_int(writer, "cores", sysconf(_SC_NPROCESSORS_ONLN));
    put_first_line_of(writer, "cpu", "/proc/cpuinfo", "model name");
    json_member_string(writer, "kernel", name.release);
    json_member_int(writer, "memory_bytes", (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE));
    json_object_end(writer);
}

static void put_settings(struct bench *bench, struct json_writer *writer)
{
    static const char *const texts[][2] = {{"through", "THROUGH"},
                                           {"order_url", "ORDER_URL"},
                                           {"brokers", "KAFKA_BOOTSTRAP_SERVERS"},
                                           {"arrivals", "ARRIVALS"}};
    static const char *const numbers[][2] = {{"seed", "SEED"},
                                             {"connections", "CONNECTIONS"},
                                             {"goods", "GOODS"},
                                             {"outstanding_max", "OUTSTANDING_MAX"}};
    json_key(writer, "settings");
    json_object(writer);
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        json_member_string(writer, texts[i][0], config_text(bench->config, texts[i][1]));
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        json_member_int(writer, numbers[i][0], config_int(bench->config, numbers[i][1]));
    json_member_int(writer, "warmup_ms", bench->setup.warmup_us / 1000);
    json_member_int(writer, "duration_ms", bench->setup.duration_us / 1000);
    json_member_int(writer, "settle_ms", bench->setup.settle_us / 1000);
    json_key(writer, "mails");
    json_put_bool(writer, bench->setup.mails);
    json_key(writer, "knee");
    json_put_bool(writer, bench->knee);
    json_key(writer, "rates");
    json_array(writer);
    for (size_t i = 0; i < bench->rate_count; i++)
        json_put_double(writer, bench->rates[i]);
    json_array_end(writer);
    json_object_end(writer);
}

static void put_knee(const struct bench *bench, struct json_writer *writer)
{
    json_key(writer, "knee");
    if (!bench->knee || bench->sustained_rate <= 0) {
        json_put_null(writer);
        return;
    }
    json_object(writer);
    json_key(writer, "rate");
    json_put_double(writer, bench->sustained_rate);
    json_member_int(writer, "step", bench->sustained_step);
    json_key(writer, "failed_rate");
    if (bench->failed_rate > 0)
        json_put_double(writer, bench->failed_rate);
    else
        json_put_null(writer);
    json_object_end(writer);
}

static int exit_code_of(const struct bench *bench)
{
    return bench->broken ? EXIT_NOTHING_FOUND : bench->interrupted ? EXIT_TRY_AGAIN : 0;
}

static void put_all(struct bench *bench, struct buffer *into)
{
    struct json_writer writer = json_writer(into);
    char library[32];
    unsigned version = (unsigned)client_library_version();
    snprintf(library, sizeof(library), "%u.%u.%u", version >> 24, version >> 16 & 0xff, version >> 8 & 0xff);
    json_object(&writer);
    json_member_int(&writer, "form", 1);
    json_member_time(&writer, "begun_at", bench->begun_wall_us);
    json_member_time(&writer, "ended_at", clock_wall_us());
    json_key(&writer, "interrupted");
    json_put_bool(&writer, bench->interrupted);
    json_key(&writer, "versions");
    json_object(&writer);
    json_member_string(&writer, "weir", WEIR_VERSION);
    json_member_string(&writer, "librdkafka", library);
    json_object_end(&writer);
    put_machine(&writer);
    put_settings(bench, &writer);
    json_key(&writer, "steps");
    json_array(&writer);
    if (bench->steps.length)
        json_put_raw(&writer, buffer_text(&bench->steps));
    json_array_end(&writer);
    put_knee(bench, &writer);
    json_member_int(&writer, "broken", bench->broken);
    json_member_int(&writer, "exit_code", exit_code_of(bench));
    json_object_end(&writer);
    buffer_add_char(into, '\n');
}

/* The whole file anew after each step: what is there is whole, whatever ends the run. */
static enum outcome write_json(struct bench *bench, struct error *error)
{
    const char *path = config_text(bench->config, "JSON");
    char draft[PATH_BYTES_MAX];
    if (!path)
        return OK;
    struct buffer json = buffer_of(JSON_BYTES_MAX);
    put_all(bench, &json);
    snprintf(draft, sizeof(draft), "%s.part", path);
    FILE *file = json.failed ? NULL : fopen(draft, "we");
    bool written = file && fwrite(json.at, 1, json.length, file) == json.length;
    if (file && fclose(file) != 0)
        written = false;
    buffer_free(&json);
    if (written && rename(draft, path) == 0)
        return OK;
    return error_outage(error, "file", "%s cannot be written: %s", path,
                        json.failed ? "too large" : strerror(errno));
}

/* ---- steps */

static void on_progress(void *owner, const struct bench_counts *counts, int64_t outstanding, int64_t left_us)
{
    const struct bench *bench = owner;
    if (bench->terminal)
        fprintf(
            stderr,
            "\r\033[?7l  %lld s left, sent %lld, accepted %lld, decided %lld, mailed %lld, outstanding %lld"
            "\033[K\033[?7h",
            (long long)left_us / 1000000, (long long)counts->sent, (long long)counts->accepted,
            (long long)counts->decided, (long long)counts->mailed, (long long)outstanding);
}

/* Steps that are still to come, this one among them; 0: not known yet. */
static size_t steps_left(const struct bench *bench)
{
    if (!bench->knee)
        return bench->rate_count - (size_t)bench->step_count;
    if (bench->sustained_rate <= 0 || bench->failed_rate <= 0)
        return 0;
    double halvings = log2(log(bench->failed_rate / bench->sustained_rate) / log(KNEE_PRECISION));
    return halvings > 1 ? (size_t)ceil(halvings) : 1;
}

static void announce(const struct bench *bench, double rate)
{
    int64_t step_us = bench->setup.warmup_us + bench->setup.duration_us + SETTLING_US;
    size_t left = steps_left(bench);
    if (left)
        fprintf(stderr, "weir bench: step %d, %.6g orders/s; about %lld s left\n", bench->step_count + 1,
                rate, (long long)left * step_us / 1000000);
    else
        fprintf(stderr, "weir bench: step %d, %.6g orders/s, about %lld s; how many follow depends on it\n",
                bench->step_count + 1, rate, (long long)step_us / 1000000);
}

static enum outcome report(struct bench *bench, const struct bench_step *step, struct error *error)
{
    const char *prefix = config_text(bench->config, "HDR");
    if (bench->steps.length)
        buffer_add_char(&bench->steps, ',');
    struct json_writer writer = json_writer(&bench->steps);
    bench_report_json(step, &bench->processes, &writer);
    bench_report_rows(step, &bench->processes);
    enum outcome outcome = prefix ? bench_report_hdr(step, prefix, error) : OK;
    return outcome == OK ? write_json(bench, error) : outcome;
}

static enum outcome run_step(struct bench *bench, double rate, bool *ret_sustained, struct error *error)
{
    struct bench_step *step = NULL;
    announce(bench, rate);
    enum outcome outcome = bench_step_run(&bench->setup, ++bench->step_count, rate, &step, error);
    if (bench->terminal)
        fputs("\r\033[K", stderr);
    if (outcome != OK)
        return outcome;
    if (!step->interrupted) /* else they were not given their time */
        bench->broken += step->all.broken + step->all.lost;
    bench->interrupted |= step->interrupted;
    *ret_sustained = step->sustained;
    if (bench->knee && step->sustained && rate > bench->sustained_rate) {
        bench->sustained_rate = rate;
        bench->sustained_step = step->number;
    } else if (bench->knee && !step->sustained && !step->interrupted) {
        bench->failed_rate = rate;
    }
    outcome = report(bench, step, error);
    bench_step_free(step);
    return outcome;
}

/* To three digits, so that what is tried can be said. */
static double rounded(double rate)
{
    double unit = pow(10, floor(log10(rate)) - 2);
    return round(rate / unit) * unit;
}

/* The rate to try next; 0: the knee is found, or cannot be. */
static double next_rate(const struct bench *bench)
{
    double low = bench->sustained_rate, high = bench->failed_rate;
    if (bench->step_count == BENCH_STEPS_MAX)
        return 0;
    if (low <= 0 && high <= 0)
        return bench->rates[0];
    if (high <= 0)
        return low * 2 <= BENCH_RATE_MAX ? rounded(low * 2) : 0;
    if (low <= 0)
        return high >= 2 ? rounded(high / 2) : 0;
    return high / low > KNEE_PRECISION ? rounded(sqrt(low * high)) : 0;
}

static enum outcome find_knee(struct bench *bench, struct error *error)
{
    enum outcome outcome = OK;
    bool ignored;
    double rate;
    while (outcome == OK && !bench->interrupted && (rate = next_rate(bench)) > 0)
        outcome = run_step(bench, rate, &ignored, error);
    if (outcome != OK || bench->interrupted)
        return outcome;
    if (bench->sustained_rate > 0)
        printf("\nknee: %.6g orders/s are sustained%s", bench->sustained_rate,
               bench->failed_rate > 0 ? "" : ", and no rate was not\n");
    else
        printf("\nknee: no rate was sustained\n");
    if (bench->sustained_rate > 0 && bench->failed_rate > 0)
        printf(", %.6g are not\n", bench->failed_rate);
    return OK;
}

static enum outcome run_rates(struct bench *bench, struct error *error)
{
    enum outcome outcome = OK;
    bool ignored;
    for (size_t i = 0; outcome == OK && i < bench->rate_count && !bench->interrupted; i++)
        outcome = run_step(bench, bench->rates[i], &ignored, error);
    return outcome;
}

static enum outcome run(struct bench *bench, struct error *error)
{
    enum outcome outcome = read_settings(bench, error);
    if (outcome == OK)
        outcome = open_all(bench, error);
    if (outcome == OK)
        outcome = write_json(bench, error); /* a path that cannot be written is known before the first step */
    if (outcome != OK || cli_interrupted())
        return outcome;
    bench_report_head();
    outcome = bench->knee ? find_knee(bench, error) : run_rates(bench, error);
    return outcome == OK ? write_json(bench, error) : outcome;
}

int bench_main(int argc, char **argv)
{
    struct bench bench = {
        .verb = cli_verb("bench"), .begun_wall_us = clock_wall_us(), .steps = buffer_of(JSON_BYTES_MAX)};
    struct config *config = NULL;
    struct error error;
    int exit_code;
    cli_forget_environment(bench_settings + ADDRESSES);
    if (!cli_read(bench.verb, bench_settings, argc, argv, 0, &config, &exit_code))
        return exit_code;
    cli_signals();
    bench.config = config;
    bench.terminal = cli_redraws(STDERR_FILENO);
    bench.setup.progress = on_progress;
    bench.setup.progress_owner = &bench;
    enum outcome outcome = run(&bench, &error);
    exit_code = outcome == OK ? exit_code_of(&bench) : cli_fail(bench.verb, &error);
    if (bench.broken)
        fprintf(stderr,
                "weir bench: %lld orders were accepted and never decided, or sent and never answered\n",
                (long long)bench.broken);
    close_all(&bench);
    config_destroy(config);
    return exit_code;
}
