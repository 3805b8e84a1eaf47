/*
 * fake_net: a net that the test plays, and a lane that sends by it. Calls are noted as they are sent, and the
 * test answers when it likes.
 *
 * It stands in for net_http() and net_mail() where the linker wraps them (tests/CMakeLists.txt). One at a
 * time in a process; it is used on the thread of the lanes.
 */
#ifndef SUPPORT_FAKE_NET_H
#define SUPPORT_FAKE_NET_H

#include "flow/lanes.h"
#include "net/net.h"

enum { FAKE_NET_MAX = 64 }; /* calls in a test; more end it */

struct fake_net {
    struct fake_net_sent {
        net_done_fn *done;
        void *owner;
        struct net *net; /* what the lanes were given */
        char url[64];
        bool answered;
    } sent[FAKE_NET_MAX]; /* in order */
    size_t sent_count;
    struct fake_net_heard {
        char key[16];
        enum outcome outcome;
        int64_t attempts;
        bool ambiguous, last;
    } heard[FAKE_NET_MAX]; /* by the lane's answer hook, in order */
    size_t heard_count;
};

extern struct fake_net fake_net;

/* The payload is the url; its answer hook says what the result says, but OK of the last RETRY. */
extern const struct lane fake_net_lane;
extern const struct lane *const fake_net_lanes[]; /* that one; NULL ended */

void fake_net_clear(void); /* before each test */
void fake_net_answer(size_t which, enum outcome outcome);
/* All that have no answer yet and were sent by that net. A test ends with it: lanes free what was answered.
 */
void fake_net_answer_rest(const struct net *net, enum outcome outcome);

#endif
