"""weir bench against the five services: it counts every order once, agrees with the books, and a service that stands still shows in
all orders that were due meanwhile.

    test_bench.py [PART…]      parts: counts, stall; both by default, on one World
"""
import json
import os
import signal
import subprocess
import sys
import time

import books
import shop
import world

RATE = 40
STALL_SECONDS = 2.0
END_SECONDS = 300


class Bench:
    """One weir bench against the World; ends by itself."""
    count = 0

    def __init__(self, here, *more):
        Bench.count += 1
        self.path = f"{here.folder}/bench.{Bench.count}.json"
        self.process = subprocess.Popen(
            [f"{here.build}/services/weir/weir", "bench", "--order-url", f"http://127.0.0.1:{here.ports['order']}", "--inventory-url",
             f"http://127.0.0.1:{here.ports['inventory']}", "--json", self.path, "--settle", "180s", "--hdr",
             f"{here.folder}/bench.{Bench.count}", *more],
            env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": here.kafka}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)

    def end(self):
        """Its JSON."""
        try:
            said, _ = self.process.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("weir bench did not end") from None
        assert self.process.returncode == 0, f"exit {self.process.returncode}:\n{said}"
        print(said)
        with open(self.path) as file:
            return json.load(file)


def on_topic(here):
    """What an independent client finds: ({order: OrderPlaced's data}, {order: its decision}, orders with the mail of a confirmation)."""
    placed, decided, mailed = {}, {}, set()
    for event in books.distinct(books.read_topics(here.kafka, ["orders", "emails"])):
        if event.type == "OrderPlaced":
            placed[event.key] = event.data
        elif event.type in books.FINAL:
            decided.setdefault(event.key, event.type)
        elif event.type == "EmailSent" and event.data["template"] == "order_confirmed":
            mailed.add(event.key)
    return placed, decided, mailed


def check_counts(step, placed, decided, mailed):
    found = step["orders_all"]
    assert found["sent"] == found["offered"] == found["accepted"] == found["placed_seen"] == len(placed), (found, len(placed))
    assert found["decided"] == len(decided), (found, len(decided))
    assert found["confirmed"] == sum(end == "OrderConfirmed" for end in decided.values()), found
    assert found["rejected"] == sum(end == "OrderRejected" for end in decided.values()), found
    assert found["mailed"] + found["mails_missing"] == found["confirmed"] and found["mailed"] <= len(mailed), (found, len(mailed))
    assert found["broken"] == found["lost"] == found["dropped"] == found["refused"] == 0, found
    window = step["orders"]
    for stage, count in (("accepted", "accepted"), ("decided", "decided"), ("confirmed", "confirmed"), ("mailed", "mailed")):
        histogram = step["latency"][stage]
        assert histogram["count"] == window[count] == sum(times for _, times in histogram["buckets"]), (stage, window)
    for number, field in ((1, "sent"), (2, "accepted"), (3, "decided"), (5, "mailed")):
        assert sum(second[number] for second in step["timeline"]) == found[field], (field, step["timeline"])


def counts(here):
    """Through both doors, one after the other."""
    known = (set(), set(), set())
    for through in ("http", "kafka"):
        result = Bench(here, "--through", through, "--rate", str(RATE), "--warmup", "1s", "--duration", "5s", "--pid",
                       f"order={here.processes['order'].pid},all={os.getpid()}+").end()
        found = on_topic(here)
        new = [({key: value for key, value in each.items() if key not in before} if isinstance(each, dict) else each - before)
               for each, before in zip(found, known)]
        check_counts(result["steps"][0], *new)
        known = tuple(set(each) for each in found)
        usage = result["steps"][0]["processes"]
        assert usage["all"]["cpu_us"] >= usage["order"]["cpu_us"] and usage["order"]["rss_bytes"] > 0, usage
        with open(f"{here.folder}/bench.{Bench.count}.1.decided.hgrm") as file:
            assert file.readline().split() == ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]


def accepted_by(here):
    return here.metric("order", "weir_http_requests_total", 'route="POST /v1/orders",status="2xx"') or 0


def stall(here):
    """`order` stands still for two seconds, early in a window that is long enough for the slowest machine to begin it there."""
    accepted = accepted_by(here)
    bench = Bench(here, "--rate", str(RATE), "--arrivals", "constant", "--warmup", "1s", "--duration", "25s")
    here.wait("the load has begun", lambda: accepted_by(here) - accepted > 3 * RATE, 120)
    here.processes["order"].send_signal(signal.SIGSTOP)
    time.sleep(STALL_SECONDS)  # the fault itself
    here.processes["order"].send_signal(signal.SIGCONT)
    step = bench.end()["steps"][0]
    for stage in ("accepted", "decided"):
        late = sum(times for high, times in step["latency"][stage]["buckets"] if high > 1_000_000)
        # Those due in all of the stall but its last second. A generator that waits for answers has one a connection.
        assert late >= 0.9 * RATE * (STALL_SECONDS - 1), (stage, late, step["generator"])
    assert max(second[9] or 0 for second in step["timeline"]) >= 1_000_000, step["timeline"]


PARTS = {"counts": counts, "stall": stall}


def main():
    def test(here):
        here.start_all()
        for part in sys.argv[1:] or PARTS:
            begun = time.monotonic()
            PARTS[part](here)
            print(f"{part}: ok, {time.monotonic() - begun:.0f} s", flush=True)
        placed, _, _ = on_topic(here)
        assert placed
        shop.wait_until_settled(here, len(placed))
        stock = {f"BENCH-{number:05}": 100000000 for number in range(1, 201)}
        customer = shop.Shop(here)
        customer.placed = placed
        wrong = shop.balance(here, customer, stock)
        assert not wrong, wrong
    shop.run(test)


if __name__ == "__main__":
    main()
