#!/usr/bin/env python3
"""weir-inventory alone on a topic that was filled beforehand, beside the bare floor (bench/floor/floor_inventory.c).

    bench/inventory.py --build DIR --kafka HOST:PORT [--events N] [--rounds N] [--results FILE]

Both read the same records of `orders`, in turns, each time with a group of its own and a fresh copy of one database. Measured is
from the first handled event to the last, its answer acknowledged by the broker and deleted from the outbox. HOST:PORT must be a
Kafka of this run's own: its topics are made here.
"""
import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time

import measure
import books
import world

SKUS = 200
BATCH = 1000  # BATCH_COUNT_MAX of the services
STOCK = 10 ** 9
POLL_SECONDS = 0.05
ROUND_SECONDS_MAX = 180
AIM_SHARE, AIM_CPU_US = 0.75, 6


def fill(kafka, events):
    """One item an order, ids in time order: what the floor and the design's figures are about."""
    from confluent_kafka import Producer
    producer = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2_random", "acks": "all", "enable.idempotence": True,
                         "linger.ms": 20, "queue.buffering.max.messages": 1000000})
    chance, base = random.Random(1), int(time.time() * 1000) - events
    failed = []

    def report(error, message):
        if error:
            failed.append(error)
    for number in range(events):
        order, price = measure.uuid7(base + number, chance), chance.randrange(100, 5000)
        data = {"order_id": order, "customer_id": f"c-{chance.randrange(20000)}", "email": f"customer{number}@shop.example",
                "locale": "en", "currency": "EUR", "total_minor": price, "placed_at": (base + number) * 1000,
                "items": [{"sku": f"SKU-{chance.randrange(SKUS):03}", "quantity": 1, "unit_price_minor": price}]}
        headers = [("ce_specversion", "1.0"), ("ce_id", measure.uuid7(base + number, chance)), ("ce_source", "/bench"),
                   ("ce_type", "weir.OrderPlaced"), ("ce_time", "2026-11-21T12:00:00.000000Z"), ("ce_subject", order),
                   ("content-type", "application/avro"),
                   ("traceparent", f"00-{chance.getrandbits(128):032x}-{chance.getrandbits(64):016x}-01")]
        producer.produce("orders", books.encode("OrderPlaced", data), order, headers=headers, on_delivery=report)
        if number % 1000 == 0:
            producer.poll(0)
    if producer.flush(120) or failed:
        raise SystemExit(f"the topic could not be filled: {failed[:1]}")


class Inventory:
    """weir-inventory on a database, in a group of its own."""

    def __init__(self, build, kafka, group, database, log):
        self.port = world.free_port()
        environment = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": kafka, "KAFKA_GROUP_ID": group, "LOG_LEVEL": "warn",
                       "DATABASE_URL": f"sqlite:{database}", "HTTP_LISTEN": f"127.0.0.1:{self.port}"}
        self.process = subprocess.Popen([f"{build}/services/weir-inventory", "serve"], env=environment, stdin=subprocess.DEVNULL,
                                        stdout=log, stderr=log)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        if self.process.wait(30) != 0:
            raise SystemExit(f"weir-inventory ended with {self.process.returncode}")

    def page(self):
        for _ in range(400):
            page = measure.Page(self.port)
            try:
                page.lines()
                return page
            except OSError:
                page.close()
                time.sleep(0.01)
        raise SystemExit("weir-inventory does not answer")


def make_database(build, kafka, folder, log):
    """With stock, before there is any order: what each round begins with."""
    path = folder + "/begin.db"
    inventory = Inventory(build, kafka, "bench-begin", path, log)
    try:
        page = inventory.page()
        for number in range(SKUS):
            page.connection.request("PUT", f"/v1/stock/SKU-{number:03}", json.dumps({"available": STOCK}),
                                    {"Content-Type": "application/json"})
            answer = page.connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise SystemExit(f"PUT /v1/stock: {answer.status}")
        page.close()
    finally:
        inventory.stop()
    return path


def run_weir(options, group, database, log):
    inventory = Inventory(options.build, options.kafka, group, database, log)
    pid = inventory.process.pid
    try:
        page = inventory.page()
        first = None
        idle_mib = measure.memory_mib(pid)
        until = time.monotonic() + ROUND_SECONDS_MAX
        while time.monotonic() < until:
            lines = page.lines()
            now, cpu = time.monotonic(), measure.cpu_seconds(pid)
            handled = measure.total(lines, "weir_events_total", 'outcome="ok"')
            if handled and first is None:
                first = handled, now, cpu
            if handled >= options.events and not measure.total(lines, "weir_outbox_rows"):
                break
            time.sleep(POLL_SECONDS)
        else:
            raise SystemExit(f"weir-inventory handled {handled:.0f} of {options.events}")
        others = measure.total(lines, "weir_events_total") - handled
        if others or handled != options.events:
            raise SystemExit(f"weir-inventory handled {handled:.0f} and {others:.0f} otherwise")
        page.close()
        return {"events": handled - first[0], "seconds": now - first[1], "cpu_us": (cpu - first[2]) * 1e6,
                "peak_kib": measure.memory_mib(pid, "VmHWM") * 1024, "idle_mib": idle_mib,
                "rss_mib": measure.memory_mib(pid), "anonymous_mib": measure.memory_mib(pid, "RssAnon")}
    finally:
        inventory.stop()


def run_floor(options, group, database, log):
    line = subprocess.run([f"{options.build}/bench/floor/floor_inventory", options.kafka, group, database, str(options.events),
                           str(BATCH)], check=True, stdout=subprocess.PIPE, stderr=log, timeout=ROUND_SECONDS_MAX)
    return json.loads(line.stdout)


def check(database, events):
    """Nothing was left out: no figure without that."""
    import sqlite3
    with contextlib.closing(sqlite3.connect(database)) as connection:
        for table, condition, expected in (("reservations", "state = 1", events), ("inbox", "attempt = 0", events), ("outbox", "1", 0)):
            count = connection.execute(f"SELECT count(*) FROM {table} WHERE {condition}").fetchone()[0]
            if count < expected if table == "inbox" else count != expected:
                raise SystemExit(f"{database}: {count} rows of {table}, not {expected}")
        taken = connection.execute("SELECT sum(reserved) FROM stock").fetchone()[0]
        if taken != events:
            raise SystemExit(f"{database}: {taken} units are reserved, not {events}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True, type=os.path.abspath)
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--events", type=int, default=200000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results")
    options = parser.parse_args()
    results = measure.Results(options.results)
    folder = tempfile.mkdtemp(prefix="weir-bench-")
    log_path = folder + "/log"
    rounds = {"floor": [], "weir": []}
    failed = True
    try:
        with open(log_path, "ab") as log:
            subprocess.run([f"{options.build}/services/weir/weir", "topics", "create"], check=True, timeout=120, stdout=log,
                           env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": options.kafka})
            begin = make_database(options.build, options.kafka, folder, log)
            fill(options.kafka, options.events)
            for number in range(options.rounds):
                for name, run in (("floor", run_floor), ("weir", run_weir)):
                    database = f"{folder}/{name}.db"
                    shutil.copy(begin, database)
                    got = run(options, f"bench-{name}-{os.getpid()}-{number}", database, log)
                    check(database, options.events)
                    got = {"rate": got["events"] / got["seconds"], "cpu_us_an_event": got["cpu_us"] / got["events"], **got}
                    rounds[name].append(results.add(part="inventory", program=name, round=number, batch=BATCH, **got))
                    for suffix in ("", "-wal", "-shm", ".lock"):
                        with contextlib.suppress(FileNotFoundError):
                            os.unlink(database + suffix)
        failed = False
    finally:
        if failed and os.path.exists(log_path):
            with open(log_path, errors="replace") as log:
                print(log.read()[-3000:])
        shutil.rmtree(folder, ignore_errors=True)

    print("| | events/s, min / median / max | CPU µs an event | peak RSS MiB |\n|---|---|---|---|")
    for name, title in (("floor", "bare floor"), ("weir", "weir-inventory")):
        print(f"| {title} | {measure.spread([got['rate'] for got in rounds[name]])} | "
              f"{measure.spread([got['cpu_us_an_event'] for got in rounds[name]], '{:.2f}')} | "
              f"{measure.spread([got['peak_kib'] / 1024 for got in rounds[name]], '{:.1f}')} |")
    median = {name: statistics.median(got["rate"] for got in rounds[name]) for name in rounds}
    print(f"\nweir-inventory runs at {median['weir'] / median['floor']:.2f} of the floor (aim: {AIM_SHARE}), "
          f"aim of CPU: below {AIM_CPU_US} µs an event; resident: "
          f"{measure.spread([got['idle_mib'] for got in rounds['weir']], '{:.1f}')} MiB at start, "
          f"{measure.spread([got['rss_mib'] for got in rounds['weir']], '{:.1f}')} MiB at the end, of which "
          f"{measure.spread([got['anonymous_mib'] for got in rounds['weir']], '{:.1f}')} its own")


if __name__ == "__main__":
    main()
