"""Everything at once on real Kafka, by a schedule that a seed replays; then the dead letters are those that were injected, they are
sent back, and the books (books.py) balance.

    test_mixed_faults.py [--minutes N] [--rate N] [--seed N] [--build DIR]

All the time: handlers of 1 % of the keys fail twice, 0.1 % of the events are poison (CHAOS, common/flow/chaos.h), 2 % of the orders
are sent twice. Now and then, one after the other: a service is killed; a service is stopped for longer than the session time-out and
goes on as if nothing had been; the mail server or the gateway is away; the broker is killed and comes back. --minutes is the whole
run, 4 by default; what is needed at the end (ENDING_SECONDS) is taken off the time of the faults.
"""
import argparse
import collections
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid

import books
import shop
import test_chaos as chaos
import world

ENDING_SECONDS = 100
SETTLE_SECONDS = 240
SESSION_SECONDS = 2.0  # world.MEMBER_PROPERTIES
KEYS_PPM, POISON_PPM = 10000, 1000
DUPLICATES = 0.02
PAUSE_SECONDS = 3.0    # between two faults, on average
FAULTS = (("kill", 5), ("stop", 4), ("mail", 2), ("gateway", 2), ("broker", 1))


def schedule(seed, seconds):
    """[(when, fault, service or None, how long)] from the beginning, each after the end of the one before."""
    chance, when, faults = random.Random(f"schedule/{seed}"), 5.0, []
    names, weights = zip(*FAULTS)
    while when < seconds:
        # The first round has each of them once.
        fault = names[len(faults)] if len(faults) < len(names) else chance.choices(names, weights)[0]
        service = chance.choice(world.SERVICES) if fault in ("kill", "stop") else None
        lasts = {"stop": chance.uniform(1.5, 3) * SESSION_SECONDS, "mail": chance.uniform(2, 8), "gateway": chance.uniform(2, 8)}.get(fault, 0)
        faults.append((round(when, 1), fault, service, round(lasts, 1)))
        when += lasts + chance.uniform(0.5, 1.5) * PAUSE_SECONDS
    return faults


class Feeder(shop.Shop):
    """Orders by Kafka with UUIDs as event ids, so that who is poison can be told from outside; one in ten by HTTP."""

    def place(self, data):
        self.placed[data["order_id"]] = data
        self.send("OrderPlaced", data, str(uuid.uuid5(uuid.NAMESPACE_OID, data["order_id"])))

    ended = False  # nobody wants more: the run has failed elsewhere, and that is what is to be told

    def run(self, orders, seed, per_second):
        try:
            self.feed(orders, seed, per_second)
        except Exception as error:  # pylint: disable=broad-except
            if not self.ended:
                self.failed.append(f"feeding ended: {error!r}")

    def feed(self, orders, seed, per_second):
        chance, begun = random.Random(f"feeder/{seed}"), time.monotonic()
        for number, data in enumerate(orders.values()):
            if self.ended:
                return
            hand_in = self.post_aside if chance.random() < 0.1 else self.place
            for _ in range(2 if chance.random() < DUPLICATES else 1):
                hand_in(data)
            ahead = number / per_second - (time.monotonic() - begun)
            if ahead > 0:
                time.sleep(ahead)
        self.wait_posts()


class Faults:
    def __init__(self, here):
        self.here = here
        self.away = set()
        here.mailbox.verify_request = lambda *_: "mail" not in self.away
        here.gateway.verify_request = lambda *_: "gateway" not in self.away
        self.counts = collections.Counter()

    def run(self, faults):
        begun = time.monotonic()
        for when, fault, service, lasts in faults:
            time.sleep(max(0, when - (time.monotonic() - begun)))
            print(f"{time.monotonic() - begun:6.1f} {fault} {service or ''} {lasts or ''}", flush=True)
            getattr(self, fault)(service, lasts)
            self.counts[fault] += 1
        for service in world.SERVICES:
            assert self.here.running(service), f"{service} ended by itself: {self.here.log_end(service)}"

    def kill(self, service, _):
        self.here.kill(service)
        self.here.start(service)

    def stop(self, service, lasts):
        """It does not know that it was away; Kafka does."""
        process = self.here.processes[service]
        process.send_signal(signal.SIGSTOP)
        time.sleep(lasts)
        process.send_signal(signal.SIGCONT)

    def outage(self, peer, lasts):
        self.away.add(peer)
        time.sleep(lasts)
        self.away.discard(peer)

    def mail(self, _, lasts):
        self.outage("mail", lasts)

    def gateway(self, _, lasts):
        self.outage("gateway", lasts)

    def broker(self, *_):
        self.here.kafka_kill()
        self.here.kafka_start()


# ---- what must be true

def what_was_injected(events):
    """{service: places} of the poison among the events. An event that was sent twice is dead at its first place."""
    must = {service: set() for service in world.SERVICES}
    for service, topics in books.READS.items():
        seen = set()
        for event in sorted(events, key=lambda event: (event.topic, event.partition, event.offset)):
            if event.topic not in topics or event.type not in books.HANDLES[service] or event.id in seen:
                continue
            seen.add(event.id)
            if chaos.chosen("poison", uuid.UUID(event.id).bytes, POISON_PPM):
                must[service].add((event.topic, event.partition, event.offset))
    return must


def dead_letters(here):
    """{service: {place: class}}: a crash before an acknowledgement was noted sends a copy again, the same."""
    wrong, dead = [], {service: {} for service in world.SERVICES}
    originals = {record[:3]: record for record in books.read_records(here.kafka, books.TOPICS)}
    for service in world.SERVICES:
        for record in books.read_records(here.kafka, [f"dlq.{service}"]):
            place, why = books.origin(record), dict(record.headers)["weir_error_class"].decode()
            first = originals.get(place)
            if first is None or (first.key, first.value) != (record.key, record.value):
                wrong.append(f"dlq.{service}: the dead letter of {place} is not what stands there")
            elif record.headers[:len(first.headers)] != first.headers:
                wrong.append(f"dlq.{service}: the headers of {place} are not as they came")
            if dead[service].setdefault(place, why) != why:
                wrong.append(f"dlq.{service}: {place} is dead as {dead[service][place]} and as {why}")
    return dead, wrong


def compare(here):
    must = what_was_injected(books.read_topics(here.kafka, books.TOPICS))
    dead, wrong = dead_letters(here)
    for service in world.SERVICES:
        found = dead[service]
        wrong += [f"{service}: {place} is poison and no dead letter" for place in must[service] - found.keys()]
        wrong += [f"{service}: {place} is a dead letter ({found[place]}) and was not injected" for place in found.keys() - must[service]]
        wrong += [f"{service}: {place} is dead as {found[place]}" for place in found.keys() & must[service] if found[place] != "REJECT"]
    print(f"{sum(map(len, dead.values()))} dead letters of {sum(map(len, must.values()))} injected", flush=True)
    return wrong


def histories(here, feeder):
    """What the order service saw of each order, in the order in which it saw it."""
    wrong = []
    rank = {"accepted": 0, "reserved": 1, "confirmed": 2, "rejected": 2, "cancelled": 2}
    for order in feeder.placed:
        status, answer = here.ask("order", f"/v1/orders/{order}")
        seen = [step["status"] for step in answer["history"]] if status == 200 else []
        ranks = [rank.get(step, -1) for step in seen]
        if not seen or seen[0] != "accepted" or ranks != sorted(set(ranks)):
            wrong.append(f"order {order}: {status}, seen {seen}")
    return wrong


def derived(parent, name):
    """The id of an event that follows from another (common/base/ids.c)."""
    message = parent.bytes + hashlib.sha256(name.encode()).digest()
    data = bytearray(parent.bytes[:6] + hashlib.sha256(message).digest()[:10])
    data[6], data[8] = data[6] & 0x0F | 0x80, data[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(data)))


def answers_in_order(events, injected):
    """What a service says to two events of one topic and key comes in their order. Poison is exempt: nothing waits behind it."""
    wrong, pairs = [], 0
    place, causes = {}, collections.defaultdict(dict)
    for event in sorted(events, key=lambda event: (event.topic, event.partition, event.offset)):
        place.setdefault(event.id, (event.topic, event.partition, event.offset))
        causes[event.topic, event.key].setdefault(event.id, event)
    for service in chaos.ORDERED:
        for (topic, key), ones in causes.items():
            last = {}  # by topic: the answer to the event before
            for event in ones.values():
                if topic not in books.READS[service] or event.type not in books.HANDLES[service] or event[:3] in injected:
                    continue
                names = [f"{service}/{name}/{number}" for name in books.TOPIC_OF for number in range(2)]
                said = [place[each] for each in (derived(uuid.UUID(event.id), name) for name in names) if each in place]
                for where in said:
                    before = last.get(where[0])
                    pairs += before is not None
                    if before is not None and before > where:
                        wrong.append(f"{service}: {key} on {topic}: the answer to {event.type} at {where} is before that to an earlier event")
                last.update({where[0]: max(each for each in said if each[0] == where[0]) for where in said})
    print(f"{pairs} pairs of answers in order" if not wrong else f"{len(wrong)} of {pairs} pairs of answers out of order", flush=True)
    return wrong + ([] if pairs else ["no two answers to compare"])


def nobody_waits(here):
    """No key is held, nothing waits, in any service."""
    wrong = []
    for service in world.SERVICES:
        for table in ("held", "waiting"):
            count = books.Books({}, {}, [], [], [], [], here.databases(), {}, []).rows(service, f"SELECT count(*) FROM {table}")[0][0]
            if count:
                wrong.append(f"{service}: {count} rows in {table}")
    return wrong


def send_back(here):
    environment = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": here.kafka, "RETRY_DELAYS": world.RETRY_DELAYS}
    done = subprocess.run([here.tools + "/services/weir/weir", "dlq", "redrive", "--yes", "--json", "--rate", "0"], env=environment,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, (done.returncode, done.stdout[-1000:], done.stderr[-1000:])
    print("sent back:", json.loads(done.stdout.splitlines()[-1]), flush=True)


def run(options):
    seconds = max(30, options.minutes * 60 - ENDING_SECONDS)
    faults = schedule(options.seed, seconds)
    orders = shop.make_orders(int(seconds * options.rate), options.seed)
    stock = shop.make_stock(len(orders))
    chaos.SEED = options.seed
    feeder = feeding = None
    here = world.World(build=options.build, settings={
        "CHAOS": f"keys={KEYS_PPM / 10000:g}%:2,poison={POISON_PPM / 10000:g}%,seed={options.seed}"})
    failed = True
    try:
        here.start_all()
        feeder, troubles, begun = Feeder(here), Faults(here), time.monotonic()
        feeder.set_stock(stock)
        feeding = threading.Thread(target=feeder.run, args=(orders, options.seed, options.rate))
        feeding.start()
        troubles.run(faults)
        feeding.join()
        feeder.flush()
        print(f"{len(orders)} orders in, {dict(troubles.counts)}, {time.monotonic() - begun:.0f} s", flush=True)
        shop.wait_until_settled(here, len(orders), SETTLE_SECONDS)
        waited = sum(here.log(service).count('"a record waits') for service in world.SERVICES)
        retried = sum(here.log(service).count('"a record failed and is tried again later"') for service in world.SERVICES)
        print(f"settled after {time.monotonic() - begun:.0f} s; {retried} tried again, {waited} waited", flush=True)
        wrong = compare(here) + ([] if retried else ["nothing was ever tried again"])
        undrained = here.stop_all(60)
        wrong += [f"{service} did not drain: {code}" for service, code in undrained.items()]
        del here.settings["CHAOS"]
        here.start_all()
        send_back(here)
        shop.wait_until_settled(here, len(orders), SETTLE_SECONDS)
        print(f"healed after {time.monotonic() - begun:.0f} s", flush=True)
        wrong += histories(here, feeder)
        events = books.read_topics(here.kafka, books.TOPICS)
        injected = set().union(*what_was_injected(events).values())
        wrong += answers_in_order(events, injected)
        here.figures = here.ask("analytics", "/v1/figures")[1]
        undrained = here.stop_all(60)
        wrong += [f"{service} did not drain: {code}" for service, code in undrained.items()] + nobody_waits(here)
        book = shop.account(here, feeder, stock)
        book.dead = [record for record in book.dead if books.origin(record) not in injected]
        wrong += book.check()
        failed = bool(wrong)
        return wrong
    except BaseException as error:
        print(f"failed: {error!r}", flush=True)
        raise
    finally:
        if feeding and feeding.is_alive():
            feeder.ended = True
            feeding.join(200)
        here.close(failed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--rate", type=float, default=40, help="orders a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--build")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    wrong = run(options)
    for sentence in wrong[:40]:
        print("wrong:", sentence)
    if wrong:
        sys.exit(f"{len(wrong)} wrong; again with --seed {options.seed} --minutes {options.minutes:g}")


if __name__ == "__main__":
    main()
