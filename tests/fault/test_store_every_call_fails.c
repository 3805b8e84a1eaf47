/*
 * A batch that was acknowledged is there, once, whatever fails: each call to the disk in turn, each
 * allocation in turn, the power at each call.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/batches.h"
#include "support/disk.h"
#include "support/scratch.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static struct scratch scratch;
static int64_t *acknowledged; /* batches, shared with a child that loses its power */

static bool work_through(void)
{
    return batches_work_through(scratch.url, acknowledged);
}

static void check_whole(const char *what, uint64_t at)
{
    int64_t count = batches_there(scratch.url);
    if (count != BATCHES)
        print_message("%s %llu: %lld batches\n", what, (unsigned long long)at, (long long)count);
    assert_int_equal(count, BATCHES);
}

static void calls_fail(uint64_t count, bool full)
{
    for (uint64_t at = 1;; at++) {
        scratch_make(&scratch);
        *acknowledged = 0;
        disk_fail(at, count, full);
        bool done = work_through();
        uint64_t calls = disk_calls();
        disk_whole();
        if (!done) { /* gave up while it lasted: goes on now */
            batches_stop();
            assert_true(work_through());
        }
        check_whole("call", at);
        scratch_remove(&scratch);
        if (calls < at) {
            print_message("%llu calls\n", (unsigned long long)calls);
            assert_true(calls > 100);
            return;
        }
    }
}

static void nothing_is_lost_or_doubled_when_any_call_to_the_disk_fails(void **state)
{
    (void)state;
    calls_fail(1, false);
}

static void nothing_is_lost_or_doubled_when_the_disk_is_full_for_a_while(void **state)
{
    (void)state;
    calls_fail(25, true);
}

static void nothing_is_lost_or_doubled_when_any_allocation_fails(void **state)
{
    (void)state;
    for (uint64_t at = 1;; at++) {
        scratch_make(&scratch);
        *acknowledged = 0;
        memory_fail(at);
        bool done = work_through();
        uint64_t calls = memory_calls();
        memory_fail(0);
        assert_true(done);
        check_whole("allocation", at);
        scratch_remove(&scratch);
        if (calls < at) {
            print_message("%llu allocations\n", (unsigned long long)calls);
            assert_true(calls > 100);
            return;
        }
    }
}

/* The process ends without power at that call; gives what was acknowledged and is not there. */
static int64_t lost_at(uint64_t at, uint64_t seed, bool log_syncs_lost, bool *ret_ended)
{
    scratch_make(&scratch);
    *acknowledged = 0;
    pid_t child = fork();
    if (child == 0) {
        disk_lose_power(at, seed, log_syncs_lost);
        _exit(work_through() ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == DISK_EXIT));
    *ret_ended = WEXITSTATUS(status) == 0;
    int64_t lost = *acknowledged - batches_there(scratch.url);
    scratch_remove(&scratch);
    return lost;
}

static void no_acknowledged_batch_is_lost_with_the_power(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 2; seed++) {
        bool ended = false;
        for (uint64_t at = 1; !ended; at++)
            assert_true(lost_at(at, seed ? seed * at * UINT64_C(0x9e3779b97f4a7c15) : 0, false, &ended) <= 0);
    }
}

static void a_log_that_is_not_synced_does_lose_batches(void **state) /* so that the test above can fail */
{
    (void)state;
    bool ended = false;
    int64_t lost = 0;
    for (uint64_t at = 1; !ended; at += 3) {
        int64_t here = lost_at(at, 0, true, &ended);
        lost += here > 0 ? here : 0;
    }
    print_message("%lld acknowledged batches lost\n", (long long)lost);
    assert_true(lost > 0);
}

int main(void)
{
    acknowledged =
        mmap(NULL, sizeof(*acknowledged), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (acknowledged == MAP_FAILED)
        return 1;
    disk_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_lost_or_doubled_when_any_call_to_the_disk_fails),
        cmocka_unit_test(nothing_is_lost_or_doubled_when_the_disk_is_full_for_a_while),
        cmocka_unit_test(nothing_is_lost_or_doubled_when_any_allocation_fails),
        cmocka_unit_test(no_acknowledged_batch_is_lost_with_the_power),
        cmocka_unit_test(a_log_that_is_not_synced_does_lose_batches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
