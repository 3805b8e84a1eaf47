#include "store/postgres.h"

#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

static enum outcome config_error(struct error *error)
{
    if (error)
        error->exit_code = EXIT_CONFIG;
    return FATAL;
}

enum outcome postgres_memory(struct error *error)
{
    return error_retry(error, "memory", "out of memory");
}

/* ---- errors */

/* The first line of a message of libpq. */
static int first_line(const char *message)
{
    return (int)strcspn(message ? message : "", "\n");
}

static enum outcome lost(struct postgres *postgres, const char *why, struct error *error)
{
    enum outcome outcome = error_outage(error, "store-connection", "%s: the connection was lost: %.*s",
                                        postgres->name, first_line(why), why ? why : "");
    postgres_disconnect(postgres);
    return outcome;
}

static bool state_is(const char *state, const char *prefix)
{
    return strncmp(state, prefix, strlen(prefix)) == 0;
}

/* The one place that knows SQLSTATEs. */
static enum outcome classify(const struct postgres *postgres, const char *state, const char *message,
                             const struct postgres_step *step, struct error *error)
{
    const char *name = postgres->name;
    int length = first_line(message);
    const char *what = step && step->what ? step->what : "", *colon = step && step->what ? ": " : "";
    if (step && step->fence && strcmp(state, "22012") == 0) {
        error_set(error, FATAL, "store-fenced",
                  "%s: another instance has taken this one for dead; starting anew is safe", name);
        if (error)
            error->exit_code = EXIT_TRY_AGAIN;
        return FATAL;
    }
    if (state_is(state, "40")) /* two instances wanted the same rows; one was chosen to go first */
        return error_retry(error, "store-deadlock", "%s: %.*s", name, length, message);
    if (strcmp(state, "23505") == 0 && step && step->may_race)
        return error_retry(error, "store-race", "%s: %.*s", name, length, message);
    if (state_is(state, "22") || state_is(state, "23"))
        return error_reject(error, "store-constraint", "%s%s%.*s", what, colon, length, message);
    if (state_is(state, "54"))
        return error_reject(error, "store-too-big", "%s%s%.*s", what, colon, length, message);
    if (strcmp(state, "55P03") == 0)
        return error_outage(error, "store-locked", "%s: locked by another client: %.*s", name, length,
                            message);
    if (strcmp(state, "57014") == 0)
        return error_outage(error, "store-slow", "%s: %.*s", name, length, message);
    if (strcmp(state, "53100") == 0)
        return error_outage(
            error, "store-full",
            "%s: its disk is full; make room on it, nothing is lost and work goes on by itself", name);
    if (strcmp(state, "25006") == 0)
        return error_outage(error, "store-read-only", "%s: cannot be written to (a standby?): %.*s", name,
                            length, message);
    if (state_is(state, "26") || strcmp(state, "42P05") == 0)
        return error_retry(error, "store-pooler", "%s: %.*s", name, length, message);
    if (state_is(state, "28") || state_is(state, "3D") || strcmp(state, "42501") == 0) {
        error_set(error, FATAL, "store-open", "%s: %s%s%.*s; look at DATABASE_URL and the rights of its user",
                  name, what, colon, length, message);
        return config_error(error);
    }
    if (state_is(state, "XX001") || state_is(state, "XX002"))
        return error_fatal(error, "store-damaged", "%s: the database is damaged: %.*s", name, length,
                           message);
    static const char *const away[] = {"08", "53", "55", "57", "58", "25P03", "XX"};
    for (size_t i = 0; i < sizeof(away) / sizeof(*away); i++)
        if (state_is(state, away[i]))
            return error_outage(error, "store-away", "%s: %.*s", name, length, message);
    return error_fatal(error, "store", "%s: %s%s%.*s (%s)", name, what, colon, length, message, state);
}

static enum outcome failed_result(struct postgres *postgres, const PGresult *result,
                                  const struct postgres_step *step, struct error *error)
{
    struct error own;
    error = error ? error : &own;
    const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    if (!state)
        return lost(postgres, PQerrorMessage(postgres->conn), error);
    enum outcome outcome = classify(postgres, state, message ? message : "", step, error);
    if (strcmp(error->cause, "store-pooler") == 0)
        postgres->pooled = true;
    /* A standby may have become one, or stopped being one, behind the same name. */
    if (strcmp(error->cause, "store-read-only") == 0)
        postgres_disconnect(postgres);
    return outcome;
}

/* libpq tells a refused connection in words only, and puts the SQLSTATE in front of them where it is to be
 * verbose: "FATAL:  28P01: password …". */
static enum outcome refused(struct postgres *postgres, const char *message, struct error *error)
{
    char state[6] = "", line[ERROR_TEXT_BYTES_MAX];
    struct error own;
    error = error ? error : &own;
    for (const char *at = message; (at = strchr(at, ':')); at++) {
        size_t blanks = strspn(at + 1, " ");
        const char *code = at + 1 + blanks;
        if (blanks && strspn(code, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5 && code[5] == ':' &&
            strcspn(code, "0123456789") < 5) { /* FATAL has no digit */
            memcpy(state, code, 5);
            break;
        }
    }
    snprintf(line, sizeof(line), "%.*s", first_line(message), message);
    enum outcome outcome;
    if (state[0]) {
        outcome = classify(postgres, state, line, NULL, error);
    } else if (state_is(line, "invalid ") || state_is(line, "missing ")) {
        error_set(error, FATAL, "database-url", "DATABASE_URL: %s", line);
        outcome = config_error(error);
    } else {
        outcome = error_outage(error, "store-connection", "%s: cannot be reached: %s", postgres->name, line);
    }
    if (outcome == FATAL && postgres->was_open) {
        error->outcome = OUTAGE;
        error->exit_code = 0;
        outcome = OUTAGE;
    }
    return outcome;
}

/* ---- connecting */

static void ignore_notice(void *owner, const PGresult *result)
{
    (void)owner;
    (void)result;
}

void postgres_disconnect(struct postgres *postgres)
{
    PQfinish(postgres->conn);
    postgres->conn = NULL;
    for (size_t i = 0; i < postgres->statement_count; i++)
        postgres->statements[i].prepared = false;
}

static bool wait_socket(const PGconn *conn, short events, int64_t deadline_us)
{
    for (;;) {
        int64_t left_us = deadline_us - clock_monotonic_us();
        struct pollfd pollfd = {.fd = PQsocket(conn), .events = events};
        int ready = left_us <= 0 ? 0 : poll(&pollfd, 1, (int)((left_us + 999) / 1000));
        if (ready > 0)
            return true;
        if (ready == 0 || errno != EINTR)
            return false;
    }
}

static void meanwhile(const struct postgres *postgres)
{
    if (postgres->meanwhile)
        postgres->meanwhile(postgres->meanwhile_owner);
}

static enum outcome take_pid(void *owner, const PGresult *result, struct error *error)
{
    (void)error;
    *(int64_t *)owner = postgres_int(result, 0, 0);
    return OK;
}

/* What lies between the two? */
static enum outcome look_at_session(struct postgres *postgres, struct error *error)
{
    int64_t pid = 0;
    if (PQserverVersion(postgres->conn) < POSTGRES_VERSION_MIN) {
        error_set(error, FATAL, "store-version", "%s: its version is %d; at least %d is needed",
                  postgres->name, PQserverVersion(postgres->conn) / 10000, POSTGRES_VERSION_MIN / 10000);
        return config_error(error);
    }
    enum postgres_transaction transaction = postgres->transaction;
    bool pooled = postgres->pooled;
    postgres->transaction = TRANSACTION_NONE;
    postgres->pooled = true;
    postgres_parameters_clear(&postgres->parameters);
    postgres_add(postgres, "SELECT pg_backend_pid()",
                 &(struct postgres_step){.take = take_pid, .owner = &pid, .expected = -1});
    enum outcome outcome = postgres_land(postgres, POSTGRES_CONNECT_MS, error);
    postgres->transaction = transaction;
    postgres->pooled = pooled || pid != PQbackendPID(postgres->conn);
    return outcome;
}

enum outcome postgres_connect(struct postgres *postgres, struct error *error)
{
    if (postgres->conn && PQstatus(postgres->conn) == CONNECTION_OK)
        return OK;
    postgres_disconnect(postgres);
    char application[POSTGRES_NAME_BYTES_MAX + sizeof("_reader")];
    snprintf(application, sizeof(application), "%s%s", postgres->schema,
             postgres->read_only ? "_reader" : "");
    /* What the URL says counts, where it comes later. */
    const char *const keywords[] = {"fallback_application_name",
                                    "keepalives_idle",
                                    "keepalives_interval",
                                    "keepalives_count",
                                    "tcp_user_timeout",
                                    "gssencmode",
                                    "dbname",
                                    "client_encoding",
                                    NULL};
    const char *const values[] = {application, "10",          "5",    "3", "20000",
                                  "disable",   postgres->url, "UTF8", NULL};
    meanwhile(postgres); /* looking up a name waits inside libpq */
    int64_t deadline_us = clock_monotonic_us() + POSTGRES_CONNECT_MS * INT64_C(1000);
    postgres->conn = PQconnectStartParams(keywords, values, 1);
    if (!postgres->conn)
        return postgres_memory(error);
    PQsetErrorVerbosity(postgres->conn, PQERRORS_VERBOSE);
    PQsetNoticeReceiver(postgres->conn, ignore_notice, NULL);
    PostgresPollingStatusType status = PGRES_POLLING_WRITING;
    enum outcome outcome = OK;
    if (PQstatus(postgres->conn) == CONNECTION_BAD)
        status = PGRES_POLLING_FAILED;
    while (status != PGRES_POLLING_OK && status != PGRES_POLLING_FAILED) {
        if (!wait_socket(postgres->conn, status == PGRES_POLLING_READING ? POLLIN : POLLOUT, deadline_us)) {
            outcome = error_outage(error, "store-connection", "%s: does not answer", postgres->name);
            goto out;
        }
        status = PQconnectPoll(postgres->conn);
    }
    if (status != PGRES_POLLING_OK) {
        outcome = refused(postgres, PQerrorMessage(postgres->conn), error);
        goto out;
    }
    PQsetErrorVerbosity(postgres->conn, PQERRORS_DEFAULT);
    if (PQsetnonblocking(postgres->conn, 1) != 0 || !PQenterPipelineMode(postgres->conn)) {
        outcome = postgres_memory(error);
        goto out;
    }
    outcome = look_at_session(postgres, error);
    if (outcome == OK) {
        postgres->was_open = true;
        return OK;
    }

out:
    postgres_disconnect(postgres);
    return outcome;
}

/* ---- statements */

static uint64_t statement_hash(const char *sql, const struct postgres_parameters *parameters)
{
    uint64_t hash = text_hash(text_of(sql));
    for (int i = 0; i < parameters->count; i++)
        hash = (hash ^ parameters->types[i]) * UINT64_C(0x100000001b3);
    return hash;
}

/*
 * The name is made of text and types, so that whatever lies between (a pooler that does not show itself, two
 * services on one server connection), a name can only stand for the same statement.
 */
static struct postgres_statement *statement_of(struct postgres *postgres, const char *sql)
{
    uint64_t hash = statement_hash(sql, &postgres->parameters);
    for (size_t i = 0; i < postgres->statement_count; i++)
        if (postgres->statements[i].hash == hash && strcmp(postgres->statements[i].sql, sql) == 0)
            return &postgres->statements[i];
    char *copy = postgres->statement_count < POSTGRES_STATEMENTS_MAX ? strdup(sql) : NULL;
    if (!copy)
        return NULL;
    struct postgres_statement *statement = &postgres->statements[postgres->statement_count++];
    *statement = (struct postgres_statement){.hash = hash, .sql = copy};
    snprintf(statement->name, sizeof(statement->name), "weir_%016llx", (unsigned long long)hash);
    return statement;
}

static const char *begin_of(const struct postgres *postgres)
{
    return postgres->read_only ? "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
                               : "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
}

/*
 * What a transaction needs of the session, until its end. A batch's plans are made without its values and
 * without what is only right for small tables, so that a table that was empty when its plan was made is read
 * by its index also when it has grown since. Durability is not less than the server's usual, nor than "on".
 */
#define SETTINGS_ALL                                                                                         \
    "set_config('search_path', $1, true), set_config('statement_timeout', $2, true), "                       \
    "set_config('lock_timeout', $3, true), set_config('idle_in_transaction_session_timeout', $4, true), "    \
    "set_config('jit', 'off', true)"
static const char SETTINGS_READ[] = "SELECT " SETTINGS_ALL;
static const char SETTINGS_WRITE[] =
    "SELECT " SETTINGS_ALL ", set_config('plan_cache_mode', 'force_generic_plan', true), "
    "set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true), "
    "set_config('enable_mergejoin', 'off', true), "
    "CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', "
    "true) END";

static void put_number(struct postgres_parameters *parameters, int64_t value)
{
    char text[24];
    int length = snprintf(text, sizeof(text), "%lld", (long long)value);
    postgres_put_text(parameters, (struct text){text, (size_t)length});
}

int postgres_timeout_ms(const struct postgres *postgres)
{
    return postgres->transaction == TRANSACTION_DDL ? POSTGRES_DDL_MS
           : postgres->read_only                    ? POSTGRES_READ_MS
                                                    : POSTGRES_STATEMENT_MS;
}

/* ---- flights */

static void send_step(struct postgres *postgres, const char *sql,
                      const struct postgres_parameters *parameters, const struct postgres_step *step)
{
    const char *values[POSTGRES_PARAMETERS_MAX];
    int formats[POSTGRES_PARAMETERS_MAX];
    if (postgres->sent_failed || !postgres->conn)
        return;
    if (parameters->bytes.failed || postgres->step_count + 2 > POSTGRES_STEPS_MAX) {
        postgres->sent_failed = true;
        return;
    }
    for (int i = 0; i < parameters->count; i++) {
        values[i] = parameters->bytes.at ? parameters->bytes.at + parameters->offsets[i] : "";
        formats[i] = 1;
    }
    struct postgres_statement *statement = postgres->pooled ? NULL : statement_of(postgres, sql);
    bool sent;
    if (!statement) {
        sent = PQsendQueryParams(postgres->conn, sql, parameters->count, parameters->types, values,
                                 parameters->lengths, formats, 1);
    } else {
        bool preparing = statement->prepared;
        for (size_t i = 0; i < postgres->step_count && !preparing; i++)
            preparing = postgres->steps[i].prepares == statement;
        sent = preparing ||
               PQsendPrepare(postgres->conn, statement->name, sql, parameters->count, parameters->types);
        if (!preparing && sent)
            postgres->steps[postgres->step_count++] =
                (struct postgres_step){.prepares = statement, .expected = -1, .what = step->what};
        sent = sent && PQsendQueryPrepared(postgres->conn, statement->name, parameters->count, values,
                                           parameters->lengths, formats, 1);
    }
    if (sent)
        postgres->steps[postgres->step_count++] = *step;
    else
        postgres->sent_failed = true;
}

static enum outcome take_begun(void *owner, const PGresult *result, struct error *error)
{
    struct postgres *postgres = owner;
    (void)result;
    (void)error;
    postgres->transaction = TRANSACTION_OPEN;
    return OK;
}

static void send_begin(struct postgres *postgres)
{
    const struct postgres_step plain = {.expected = -1},
                               begun = {.take = take_begun, .owner = postgres, .expected = -1};
    struct postgres_parameters parameters = {.bytes = buffer_of(POSTGRES_SQL_BYTES_MAX)};
    postgres->transaction = TRANSACTION_SENT;
    postgres->xid[0] = '\0';
    send_step(postgres, begin_of(postgres), &parameters, &plain);
    char path[POSTGRES_NAME_BYTES_MAX + 2];
    snprintf(path, sizeof(path), "\"%s\"", postgres->schema);
    postgres_put_text(&parameters, text_of(path));
    put_number(&parameters, postgres->read_only ? POSTGRES_READ_MS : POSTGRES_STATEMENT_MS);
    put_number(&parameters, POSTGRES_LOCK_MS);
    put_number(&parameters, POSTGRES_IDLE_MS);
    send_step(postgres, postgres->read_only ? SETTINGS_READ : SETTINGS_WRITE, &parameters, &begun);
    buffer_free(&parameters.bytes);
}

void postgres_add(struct postgres *postgres, const char *sql, const struct postgres_step *step)
{
    if (postgres->transaction == TRANSACTION_WANTED)
        send_begin(postgres);
    send_step(postgres, sql, &postgres->parameters, step);
    postgres_parameters_clear(&postgres->parameters);
}

/* NULL: the connection is gone, or the time is up. */
static bool next_result(struct postgres *postgres, int64_t deadline_us, PGresult **ret, struct error *error)
{
    PGconn *conn = postgres->conn;
    for (;;) {
        int left = PQflush(conn);
        if (left < 0 && PQisBusy(conn)) { /* what the server said last may be there to be read */
            if (!PQconsumeInput(conn) || PQisBusy(conn)) {
                (void)lost(postgres, PQerrorMessage(conn), error);
                return false;
            }
        }
        if (!PQisBusy(conn))
            break;
        if (left == 0)
            meanwhile(postgres);
        if (!wait_socket(conn, left > 0 ? POLLIN | POLLOUT : POLLIN, deadline_us)) {
            (void)lost(postgres, "no answer in time", error);
            return false;
        }
        if (!PQconsumeInput(conn) && PQisBusy(conn)) {
            (void)lost(postgres, PQerrorMessage(conn), error);
            return false;
        }
    }
    *ret = PQgetResult(conn);
    return true;
}

static enum outcome step_ended(struct postgres *postgres, const struct postgres_step *step,
                               const PGresult *result, struct error *error)
{
    ExecStatusType status = PQresultStatus(result);
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
        return failed_result(postgres, result, step, error);
    if (step->prepares) {
        step->prepares->prepared = true;
        return OK;
    }
    if (step->expected >= 0) {
        char *tuples = PQcmdTuples((PGresult *)(uintptr_t)result);
        if (strtoll(tuples, NULL, 10) != step->expected)
            return error_retry(error, "store-race", "%s: %s: %s rows were there to be changed, not %lld",
                               postgres->name, step->what, tuples, (long long)step->expected);
    }
    return step->take ? step->take(step->owner, result, error) : OK;
}

enum outcome postgres_land(struct postgres *postgres, int timeout_ms, struct error *error)
{
    int64_t deadline_us = clock_monotonic_us() + (timeout_ms + POSTGRES_SLACK_MS) * INT64_C(1000);
    size_t count = postgres->step_count;
    bool sent_failed = postgres->sent_failed;
    postgres->step_count = 0;
    postgres->sent_failed = false;
    if (!postgres->conn)
        return error_outage(error, "store-connection", "%s: not connected", postgres->name);
    if (PQstatus(postgres->conn) == CONNECTION_BAD ||
        (sent_failed && PQstatus(postgres->conn) == CONNECTION_OK)) {
        bool bad = PQstatus(postgres->conn) == CONNECTION_BAD;
        enum outcome outcome = lost(postgres, PQerrorMessage(postgres->conn), error);
        return bad ? outcome : postgres_memory(error);
    }
    if (!PQpipelineSync(postgres->conn))
        return lost(postgres, PQerrorMessage(postgres->conn), error);
    enum outcome outcome = OK;
    struct error ignored;
    /* A result and the NULL behind it for each step, then one for the end. */
    for (size_t i = 0; i <= count;) {
        PGresult *result = NULL;
        if (!next_result(postgres, deadline_us, &result, outcome == OK ? error : &ignored))
            return outcome == OK ? OUTAGE : outcome;
        if (!result) {
            if (PQstatus(postgres->conn) == CONNECTION_BAD) {
                enum outcome end =
                    lost(postgres, PQerrorMessage(postgres->conn), outcome == OK ? error : &ignored);
                return outcome == OK ? end : outcome;
            }
            i++;
            continue;
        }
        ExecStatusType status = PQresultStatus(result);
        if (status == PGRES_PIPELINE_SYNC) {
            PQclear(result);
            break;
        }
        if (outcome == OK && i < count && status != PGRES_PIPELINE_ABORTED) {
            outcome = step_ended(postgres, &postgres->steps[i], result, error);
        }
        PQclear(result);
        if (!postgres->conn)
            return outcome;
    }
    return outcome;
}

bool postgres_again(struct postgres *postgres, bool *tried)
{
    if (*tried || postgres->transaction != TRANSACTION_SENT)
        return false;
    *tried = true;
    struct error ignored;
    if (postgres->conn)
        postgres_rollback(&postgres->backend);
    if (postgres_connect(postgres, &ignored) != OK)
        return false;
    postgres->transaction = TRANSACTION_WANTED;
    return true;
}

enum outcome postgres_run_script(struct postgres *postgres, const char *sql, int timeout_ms,
                                 struct error *error)
{
    int64_t deadline_us = clock_monotonic_us() + (timeout_ms + POSTGRES_SLACK_MS) * INT64_C(1000);
    if (!postgres->conn)
        return error_outage(error, "store-connection", "%s: not connected", postgres->name);
    if (!PQexitPipelineMode(postgres->conn) || !PQsendQuery(postgres->conn, sql))
        return lost(postgres, PQerrorMessage(postgres->conn), error);
    const struct postgres_step step = {.expected = -1};
    enum outcome outcome = OK;
    struct error ignored;
    for (;;) {
        PGresult *result = NULL;
        if (!next_result(postgres, deadline_us, &result, outcome == OK ? error : &ignored))
            return outcome == OK ? OUTAGE : outcome;
        if (!result)
            break;
        if (outcome == OK && PQresultStatus(result) != PGRES_EMPTY_QUERY)
            outcome = step_ended(postgres, &step, result, error);
        PQclear(result);
        if (!postgres->conn)
            return outcome;
    }
    if (!PQenterPipelineMode(postgres->conn))
        return lost(postgres, PQerrorMessage(postgres->conn), outcome == OK ? error : &ignored);
    return outcome;
}

void postgres_rollback(struct backend *backend)
{
    struct postgres *postgres = (struct postgres *)backend;
    bool open = postgres->transaction == TRANSACTION_OPEN || postgres->transaction == TRANSACTION_SENT ||
                postgres->transaction == TRANSACTION_DDL;
    struct error ignored;
    if (open && postgres->conn) {
        postgres->transaction = TRANSACTION_NONE;
        postgres_parameters_clear(&postgres->parameters);
        const struct postgres_step step = {.expected = -1};
        postgres_add(postgres, "ROLLBACK", &step);
        if (postgres_land(postgres, POSTGRES_STATEMENT_MS, &ignored) != OK)
            postgres_disconnect(postgres);
    }
    postgres->transaction = TRANSACTION_NONE;
    postgres->xid[0] = '\0';
}

/* ---- a commit whose answer was lost */

struct fate {
    char text[24];
};

static enum outcome take_fate(void *owner, const PGresult *result, struct error *error)
{
    struct fate *fate = owner;
    (void)error;
    snprintf(fate->text, sizeof(fate->text), "%.*s", TEXT_ARG(postgres_text(result, 0, 0)));
    return OK;
}

enum outcome postgres_doubt(struct postgres *postgres, bool *ret_committed, struct error *error)
{
    enum outcome outcome = postgres_connect(postgres, error);
    struct fate fate = {""};
    if (outcome != OK)
        return outcome;
    /* The old session may still hold the transaction: it never got the COMMIT, and does not know that nobody
     * is there any more. It is ended by its number and its transaction together, so that it can be no other.
     */
    struct text xid = text_of(postgres->doubt_xid);
    const struct postgres_step end = {.expected = -1};
    const struct postgres_step ask = {.take = take_fate, .owner = &fate, .expected = -1};
    postgres_parameters_clear(&postgres->parameters);
    postgres_put_int(&postgres->parameters, postgres->doubt_pid);
    postgres_put_text(&postgres->parameters, xid);
    postgres_add(postgres,
                 "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_xid = "
                 "CAST(CAST($2 AS xid8) AS xid)",
                 &end);
    postgres_put_text(&postgres->parameters, xid);
    postgres_add(postgres, "SELECT coalesce(pg_xact_status(CAST($1 AS xid8)), 'unknown')", &ask);
    outcome = postgres_land(postgres, POSTGRES_CONNECT_MS, error);
    if (outcome == REJECT) { /* a number of the future: another server took over, which never got the batch */
        snprintf(fate.text, sizeof(fate.text), "aborted");
        outcome = OK;
    }
    if (outcome != OK)
        return outcome == FATAL ? FATAL : OUTAGE;
    if (strcmp(fate.text, "in progress") == 0)
        return error_outage(error, "store-doubt", "%s: a commit is still under way", postgres->name);
    if (strcmp(fate.text, "committed") != 0 && strcmp(fate.text, "aborted") != 0) {
        error_set(error, FATAL, "store-doubt",
                  "%s: cannot say whether a batch was committed; starting anew is safe", postgres->name);
        if (error)
            error->exit_code = EXIT_TRY_AGAIN;
        return FATAL;
    }
    *ret_committed = strcmp(fate.text, "committed") == 0;
    postgres->doubt_xid[0] = '\0';
    return OK;
}
