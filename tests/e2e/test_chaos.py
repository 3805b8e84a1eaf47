"""weir up --chaos: everything fails in every way there is a name for, and heals.

    test_chaos.py --weir PROGRAM [--orders N] [--rate N]

One run with failures ends by itself with balanced books. Then, without them and on what it left: the dead letters are those that
were injected, recomputed here from the ids of all events; they are sent back, and no order lacks anything any more.
"""
import argparse
import collections
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import uuid

import books
from test_up import READY_SECONDS, Up, free_base

SEED = 11
POISON_PPM, CRASH_PPM, KEYS_PPM = 10000, 200, 30000
CHAOS = (f"keys={KEYS_PPM / 10000:g}%:2,poison={POISON_PPM / 10000:g}%,crash={CRASH_PPM / 10000:g}%,outage=1s/11s,slow=0.5%:20ms,"
         f"seed={SEED},gateway-5xx=3%,gateway-timeout=0.2%,gateway-lost=1%,gateway-outage=3s/13s,"
         "smtp-4yz=1%,smtp-421=0.5%,smtp-lost=0.5%,smtp-outage=3s/14s")
ORDERED = ("order", "inventory", "payment")  # what fails there holds back what comes later of its key
END_SECONDS = 420     # a service that is killed again and again is started ever later, up to every 10 s
SETTLE_SECONDS = 90
MASK = (1 << 64) - 1
CHOICES = {"keys": 1, "poison": 2, "slow": 3, "crash": 4}  # common/flow/chaos.c


# ---- who is chosen: written again from common/flow/chaos.h and chaos.c

def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value ^ value >> 32


def mix(bits):
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & MASK
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & MASK
    return bits ^ bits >> 31


def chosen(choice, data, ppm):
    return mix(fnv(data) ^ mix(SEED * 8 + CHOICES[choice])) % 1000000 < ppm


def injected(events):
    """{service: {place: class}} of all that must be a dead letter, and the places of what may wait behind a crash."""
    must, may = collections.defaultdict(dict), collections.defaultdict(set)
    for service, topics in books.READS.items():
        seen, dead_keys = set(), set()
        for event in sorted(events, key=lambda event: (event.topic, event.partition, event.offset)):
            if event.topic not in topics or event.type not in books.HANDLES[service] or event.id in seen:
                continue
            seen.add(event.id)
            place, key = (event.topic, event.partition, event.offset), (event.topic, event.key)
            data = uuid.UUID(event.id).bytes
            if key in dead_keys:
                may[service].add(place)
            elif chosen("crash", data, CRASH_PPM):
                must[service][place] = "CRASH"
                if service in ORDERED:
                    dead_keys.add(key)
            elif chosen("poison", data, POISON_PPM):
                must[service][place] = "REJECT"
    return must, may


def found(bootstrap):
    """{service: {place: class}} of the dead letters. A crash before a copy's acknowledgement was noted sends it again: twice the same is one."""
    dead = collections.defaultdict(dict)
    for service in books.READS:
        for record in books.read_records(bootstrap, [f"dlq.{service}"]):
            place = books.origin(record)
            why = dict(record.headers)["weir_error_class"].decode()
            assert dead[service].setdefault(place, why) == why, f"{place} is in dlq.{service} as {dead[service][place]} and as {why}"
    return dead


# ---- the parts

def fails_in_every_way_and_ends_with_balanced_books(weir, folder, orders, rate):
    up = Up(weir, folder, "--chaos", CHAOS, "--orders", str(orders), "--load", str(rate), "--sample", "none")
    assert up.end(END_SECONDS) == 0, up.text()
    text = up.text()
    assert "They balance." in text, text
    assert re.search(r"chaos +gateway: 5xx=3%", text) and re.search(r"chaos +smtp: 4yz=1%", text), text
    for sign in (r"retry [1-9]", r"wait [1-9]", r"dead [1-9]", r" (outage|gateway away|mail away)[,\n]"):
        assert re.search(sign, text), f"the table never showed {sign}:\n{text}"
    last = [line for line in text.splitlines() if " orders: accepted " in line][-1]
    assert not re.search(r" (outage|flood|backlog|paused|gateway away|mail away|down)(,|$)", last), f"not healed: {last}"


def dead_letters_are_what_was_injected(bootstrap):
    events = books.read_topics(bootstrap, books.TOPICS)
    must, may = injected(events)
    dead = found(bootstrap)
    counts = collections.Counter()
    for service in books.READS:
        wrong = {place: (must[service].get(place), dead[service].get(place))
                 for place in must[service].keys() | dead[service].keys()
                 if must[service].get(place) != dead[service].get(place) and place not in may[service]}
        assert not wrong, f"{service}: (injected, found) {wrong}"
        counts.update(dead[service].values())
    assert counts["REJECT"] > 0 and counts["RETRY"] == 0, counts
    print(f"{counts['REJECT']} rejected and {counts['CRASH']} crashed dead letters of {len(events)} events, all of them injected")
    return sum(counts.values())


def sent_back_they_heal_every_order(weir, up, bootstrap, orders, dead):
    said = subprocess.run([weir, "dlq", "redrive", "--yes", "--json", "--rate", "0", "--kafka-bootstrap-servers", bootstrap],
                          capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)
    assert said.returncode == 0, said
    forecast, done = (json.loads(line) for line in said.stdout.splitlines())
    until = time.monotonic() + SETTLE_SECONDS
    while True:
        figures = up.ask("analytics", "/v1/figures")["orders"]
        if figures["placed"] == orders == figures["confirmed"] + figures["rejected"] + figures["cancelled"]:
            break
        assert time.monotonic() < until, f"{dead} dead letters sent back ({forecast}, {done}), and still {figures}:\n{up.text()}"
        time.sleep(0.2)
    assert len([line for line in subprocess.run([weir, "dlq", "list", "--kafka-bootstrap-servers", bootstrap], capture_output=True,
                                                text=True, timeout=60, check=True).stdout.splitlines() if "CRASH" in line]) == 0
    up.process.terminate()
    assert up.end(60) == 0, up.text()
    assert "They balance." in up.text() and re.search(r" 0 under way\n", up.text()), up.text()
    assert re.search(r" dead letters of \d+ orders .*; 0 of these lack", up.text()), up.text()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--weir", required=True)
    parser.add_argument("--orders", type=int, default=400)
    parser.add_argument("--rate", type=int, default=30)
    options = parser.parse_args()
    if not os.environ.get("WEIR_KAFKA_HOME"):
        print("WEIR_KAFKA_HOME is not set (tests/README.md)")
        sys.exit(77)
    scratch = tempfile.mkdtemp(prefix="weir-chaos.")
    folder = os.path.join(scratch, "state")
    up = None
    try:
        fails_in_every_way_and_ends_with_balanced_books(options.weir, folder, options.orders, options.rate)
        base = free_base()
        bootstrap = f"127.0.0.1:{base + 8}"
        up = Up(options.weir, folder, "--sample", "none", base=base)
        up.wait_for("Weir is up", READY_SECONDS)
        dead = dead_letters_are_what_was_injected(bootstrap)
        sent_back_they_heal_every_order(options.weir, up, bootstrap, options.orders, dead)
    finally:
        if up and up.process.poll() is None:
            up.process.kill()  # its children go with it
            up.process.wait()
        shutil.rmtree(scratch, ignore_errors=True)
    print("ok")


if __name__ == "__main__":
    main()
