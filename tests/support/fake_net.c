#include "support/fake_net.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

struct fake_net fake_net;

/* In place of the real ones, by the linker's --wrap. */
enum outcome __wrap_net_http(struct net *net, const struct net_http *http, net_done_fn *done, void *owner,
                             struct error *error);
enum outcome __wrap_net_mail(struct net *net, const struct net_mail *mail, net_done_fn *done, void *owner,
                             struct error *error);

enum outcome __wrap_net_http(struct net *net, const struct net_http *http, net_done_fn *done, void *owner,
                             struct error *error)
{
    (void)error;
    assert_true(fake_net.sent_count < FAKE_NET_MAX);
    struct fake_net_sent *sent = &fake_net.sent[fake_net.sent_count++];
    *sent = (struct fake_net_sent){.done = done, .owner = owner, .net = net};
    snprintf(sent->url, sizeof(sent->url), "%s", http->url);
    return OK;
}

enum outcome __wrap_net_mail(struct net *net, const struct net_mail *mail, net_done_fn *done, void *owner,
                             struct error *error)
{
    (void)net;
    (void)mail;
    (void)done;
    (void)owner;
    return error_reject(error, "test", "no mail here");
}

void fake_net_clear(void)
{
    fake_net.sent_count = fake_net.heard_count = 0;
}

void fake_net_answer(size_t which, enum outcome outcome)
{
    assert_true(which < fake_net.sent_count && !fake_net.sent[which].answered);
    struct fake_net_sent *sent = &fake_net.sent[which];
    sent->answered = true;
    sent->done(sent->owner, &(struct net_result){.outcome = outcome, .status = outcome == OK ? 200 : 0});
}

void fake_net_answer_rest(const struct net *net, enum outcome outcome)
{
    for (size_t i = 0; i < fake_net.sent_count; i++)
        if (!fake_net.sent[i].answered && fake_net.sent[i].net == net)
            fake_net_answer(i, outcome);
}

/* ---- the lane */

static enum outcome lane_request(void *state, struct arena *arena, const struct call *call,
                                 struct net_http *ret_http, struct net_mail *ret_mail, bool *ret_is_mail,
                                 struct error *error)
{
    (void)state;
    (void)ret_mail;
    (void)error;
    *ret_is_mail = false;
    ret_http->method = "POST";
    ret_http->url = arena_print(arena, "%.*s", TEXT_ARG(call->payload));
    return OK;
}

static enum outcome lane_answer(struct work *work, const struct call *call, const struct net_result *result,
                                bool last, struct error *error)
{
    (void)work;
    (void)error;
    assert_true(fake_net.heard_count < FAKE_NET_MAX);
    struct fake_net_heard *heard = &fake_net.heard[fake_net.heard_count++];
    *heard = (struct fake_net_heard){
        .outcome = result->outcome, .attempts = call->attempts, .ambiguous = result->ambiguous, .last = last};
    snprintf(heard->key, sizeof(heard->key), "%.*s", TEXT_ARG(call->key));
    return result->outcome == RETRY && last ? OK : result->outcome;
}

const struct lane fake_net_lane = {.name = "test", .request = lane_request, .answer = lane_answer};
const struct lane *const fake_net_lanes[] = {&fake_net_lane, NULL};
