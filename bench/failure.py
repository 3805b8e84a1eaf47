#!/usr/bin/env python3
"""What failing costs: the rest of the keys while one in a hundred fails, how late a retry is, and mails through a slow server.

    bench/failure.py --build DIR --kafka HOST:PORT [--events N] [--rate N] [--mails N] [--rounds N] [--results FILE]

HOST:PORT must be a Kafka of this run's own: its topics are made here. Every round counts what came out against what went in; a figure
stands only if nothing is missing.

  throughput   weir-inventory on a topic filled beforehand (two events an order), with and without CHAOS=keys=1%:1, in turns: records/s
               until 98 % of them are handled, so that the waiting of the last failed ones is not in it
  latency      the same at a constant rate: OrderPlaced on its topic to StockReserved on its own (both timestamps are the producers'), of
               keys that never failed; and how long after its due time a retried record's StockReserved is there
  mails        weir-email with EMAIL_CONCURRENCY 1, 8 and 64 at a server that takes 20 ms a mail: mails/s from the first EmailSent to the last
"""
import argparse
import collections
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
import inventory as alone
import world

CHAOS = "keys=1%:1"
SHARE_HANDLED = 0.98
MAIL_MS = 20
ROUND_SECONDS_MAX = 180
DELAYS_MS = {"retry.inventory.2s": 2000, "retry.inventory.4s": 4000, "retry.inventory.8s": 8000}


def produce(kafka, events, chance, rate=0, confirm=True):
    """Orders of one item each, and behind each its confirmation, by the same key; at a rate, or at once."""
    from confluent_kafka import Producer
    producer = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2_random", "acks": "all", "enable.idempotence": True,
                         "linger.ms": 1 if rate else 20, "queue.buffering.max.messages": 1000000})
    failed, orders, begun = [], [], time.monotonic()
    base = int(time.time() * 1000)

    def send(kind, order, data):
        producer.produce("orders", books.encode(kind, data), order,
                         headers=[("ce_id", measure.uuid7(base + len(orders), chance)), ("ce_type", f"weir.{kind}")],
                         on_delivery=lambda error, _: error and failed.append(error))
    while len(orders) * (2 if confirm else 1) < events:
        number = len(orders)
        if rate:
            wait = begun + number / rate - time.monotonic()
            if wait > 0:
                producer.poll(0)
                time.sleep(max(0.0, wait))
        elif number % 1000 == 0:
            producer.poll(0)
        order, price = measure.uuid7(base + number, chance), chance.randrange(100, 5000)
        orders.append(order)
        send("OrderPlaced", order, {
            "order_id": order, "customer_id": f"c-{number % 20000}", "email": f"customer{number}@shop.example", "locale": "en",
            "currency": "EUR", "total_minor": price, "placed_at": (base + number) * 1000,
            "items": [{"sku": f"SKU-{chance.randrange(alone.SKUS):03}", "quantity": 1, "unit_price_minor": price}]})
        if confirm:
            send("OrderConfirmed", order, {"order_id": order, "payment_id": f"p-{number}", "confirmed_at": (base + number) * 1000})
    if producer.flush(120) or failed:
        raise SystemExit(f"the topic could not be filled: {failed[:1]}")
    return orders


class Service:
    def __init__(self, build, name, kafka, group, database, log, **settings):
        self.name, self.port = name, world.free_port()
        environment = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": kafka, "KAFKA_GROUP_ID": group, "LOG_LEVEL": "error",
                       "DATABASE_URL": f"sqlite:{database}", "HTTP_LISTEN": f"127.0.0.1:{self.port}", **settings}
        self.process = subprocess.Popen([f"{build}/services/weir-{name}", "serve"], env=environment, stdin=subprocess.DEVNULL,
                                        stdout=log, stderr=log)

    page = alone.Inventory.page

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        if self.process.wait(60) != 0:
            raise SystemExit(f"weir-{self.name} ended with {self.process.returncode}")


def skip(kafka, group, names):
    """What is on these topics already is not this group's: retry topics of earlier rounds, or all that was there before."""
    from confluent_kafka import Consumer, TopicPartition
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": group, "enable.auto.commit": False})
    topics = consumer.list_topics(timeout=30).topics
    ends = [TopicPartition(topic, partition, consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)[1])
            for topic in names for partition in topics[topic].partitions]
    consumer.commit(offsets=ends, asynchronous=False)
    consumer.close()


def until(what, condition):
    end = time.monotonic() + ROUND_SECONDS_MAX
    while time.monotonic() < end:
        got = condition()
        if got:
            return got
        time.sleep(0.05)
    raise SystemExit(f"{what}: not within {ROUND_SECONDS_MAX} s")


def throughput(options, log, begin, folder, chaos, number):
    database = f"{folder}/throughput.db"
    shutil.copy(begin, database)
    group = f"bench-failure-{number}-{bool(chaos)}"
    skip(options.kafka, group, DELAYS_MS)
    service = Service(options.build, "inventory", options.kafka, group, database, log, CHAOS=chaos or "seed=1")
    try:
        page = service.page()
        first = last = None
        while True:
            lines = page.lines()
            now, ok = time.monotonic(), measure.total(lines, "weir_events_total", 'outcome="ok"')
            if ok and first is None:
                first = now, ok
            if last is None and ok >= SHARE_HANDLED * options.events:
                last = now, ok
            if ok >= options.events and not measure.total(lines, "weir_outbox_rows") and not measure.total(lines, "weir_waiting_keys"):
                break
            if first and now > first[0] + ROUND_SECONDS_MAX:
                raise SystemExit(f"{ok:.0f} of {options.events} handled")
            time.sleep(0.02)
        retried, waited, dead = (measure.total(lines, name) for name in ("weir_retry_total", "weir_waited_total", "weir_dlq_total"))
        if ok != options.events or dead or bool(retried) != bool(chaos):
            raise SystemExit(f"{ok:.0f} handled, {retried:.0f} retried, {dead:.0f} dead")
        page.close()
        return {"rate": (last[1] - first[1]) / (last[0] - first[0]), "retried": retried, "waited": waited}
    finally:
        service.stop()
        for suffix in ("", "-wal", "-shm", ".lock", ".inhand"):
            if os.path.exists(database + suffix):
                os.unlink(database + suffix)


def latency(options, log, begin, folder, chaos, number):
    database = f"{folder}/latency.db"
    shutil.copy(begin, database)
    group = f"bench-latency-{number}-{bool(chaos)}"
    skip(options.kafka, group, [*DELAYS_MS, "orders", "payments"])
    service = Service(options.build, "inventory", options.kafka, group, database, log, CHAOS=chaos or "seed=1")
    try:
        page = service.page()
        until("weir-inventory has its partitions", lambda: measure.total(page.lines(), "weir_ready"))
        orders = set(produce(options.kafka, options.rate * options.seconds, random.Random(), options.rate, confirm=False))
        until("what failed is handled", lambda: not measure.total(page.lines(), "weir_waiting_keys")
              and not measure.total(page.lines(), "kafka_consumergroup_lag") and not measure.total(page.lines(), "weir_outbox_rows"))
        page.close()
    finally:
        service.stop()
    placed, reserved, due = {}, {}, {}
    for record in books.read_records(options.kafka, ["orders", "inventory", *DELAYS_MS]):
        key = (record.key or b"").decode()
        if key not in orders:
            continue
        if record.topic in DELAYS_MS:
            at = dict(record.headers)["weir_due_at"].decode()
            due[key] = time_ms(at)
            continue
        kind, _ = books.decode(record.value)
        if kind == "OrderPlaced":
            placed[key] = record.timestamp
        elif kind == "StockReserved":
            reserved[key] = record.timestamp
    if len(placed) != len(orders) or len(reserved) != len(orders) or bool(due) != bool(chaos):
        raise SystemExit(f"{len(placed)} placed, {len(reserved)} reserved of {len(orders)}, {len(due)} retried")
    healthy = sorted(reserved[key] - placed[key] for key in orders if key not in due)
    late = sorted(reserved[key] - at for key, at in due.items())
    return {"p50_ms": measure.percentile(healthy, 0.5), "p99_ms": measure.percentile(healthy, 0.99), "retried": len(due),
            "late_p50_ms": measure.percentile(late, 0.5) if late else None,
            "late_p99_ms": measure.percentile(late, 0.99) if late else None}


def time_ms(text):
    import datetime
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000


def mails(options, log, folder, concurrency, number):
    port = world.free_port()
    sink = subprocess.Popen([f"{options.build}/services/weir/weir", "mail", "--mail-listen", f"127.0.0.1:{port}", "--mail-dir",
                             f"{folder}/mails-{number}-{concurrency}", "--mail-keep-max", "0", "--mail-delay", f"{MAIL_MS}ms"],
                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    database = f"{folder}/email-{number}-{concurrency}.db"
    service = Service(options.build, "email", options.kafka, f"bench-mail-{number}-{concurrency}", database, log, EMAIL_RATE="0",
                      EMAIL_CONCURRENCY=str(concurrency), SMTP_URL=f"smtp://127.0.0.1:{port}",
                      EMAIL_FROM="shop@shop.example", KAFKA_PROPERTIES="auto.offset.reset=latest")
    try:
        page = service.page()
        until("weir-email has its partitions", lambda: measure.total(page.lines(), "weir_ready"))
        time.sleep(2)  # its first fetch stands at the end of the topic
        produce(options.kafka, options.mails, random.Random(), 0, confirm=False)
        first = None
        while True:
            lines = page.lines()
            now, sent = time.monotonic(), measure.total(lines, "weir_emails_total", 'result="ok"')
            if sent and first is None:
                first = now, sent
            if sent >= options.mails:
                break
            if first and now > first[0] + ROUND_SECONDS_MAX:
                raise SystemExit(f"{sent:.0f} of {options.mails} mails sent")
            time.sleep(0.02)
        page.close()
        return {"rate": (sent - first[1]) / (now - first[0])}
    finally:
        service.stop()
        sink.terminate()
        sink.wait(20)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True, type=os.path.abspath)
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--events", type=int, default=200000)
    parser.add_argument("--rate", type=int, default=1000, help="orders a second for the latencies")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--mails", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results")
    options = parser.parse_args()
    results = measure.Results(options.results)
    folder = tempfile.mkdtemp(prefix="weir-bench-")
    got = collections.defaultdict(list)
    failed = True
    try:
        with open(folder + "/log", "ab") as log:
            subprocess.run([f"{options.build}/services/weir/weir", "topics", "create"], check=True, timeout=120, stdout=log,
                           env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": options.kafka})
            begin = alone.make_database(options.build, options.kafka, folder, log)
            produce(options.kafka, options.events, random.Random(1))
            for number in range(options.rounds):
                for chaos in ("", CHAOS):
                    got["throughput", chaos].append(results.add(part="failure", what="throughput", chaos=chaos, round=number,
                                                                **throughput(options, log, begin, folder, chaos, number)))
            for number in range(options.rounds):
                for chaos in ("", CHAOS):
                    got["latency", chaos].append(results.add(part="failure", what="latency", chaos=chaos, round=number,
                                                             **latency(options, log, begin, folder, chaos, number)))
            for number in range(options.rounds):
                for concurrency in (1, 8, 64):
                    got["mails", concurrency].append(results.add(part="failure", what="mails", concurrency=concurrency, round=number,
                                                                 **mails(options, log, folder, concurrency, number)))
        failed = False
    finally:
        if failed and os.path.exists(folder + "/log"):
            with open(folder + "/log", errors="replace") as log:
                print(log.read()[-3000:])
        shutil.rmtree(folder, ignore_errors=True)

    def column(what, variant, name, form="{:,.0f}"):
        return measure.spread([one[name] for one in got[what, variant]], form)

    def ratio(what, name):
        return statistics.median(one[name] for one in got[what, CHAOS]) / statistics.median(one[name] for one in got[what, ""])
    print("min / median / max\n\n| weir-inventory | no key fails | 1 % of the keys fail once | ratio | aim |\n|---|---|---|---|---|")
    print(f"| records/s until 98 % are handled | {column('throughput', '', 'rate')} | {column('throughput', CHAOS, 'rate')} | "
          f"{ratio('throughput', 'rate'):.2f} | 0.9 |")
    for name, aim in (("p50_ms", ""), ("p99_ms", "1.2")):
        print(f"| {name[:3]} of healthy keys at {options.rate} orders/s, ms | {column('latency', '', name)} | {column('latency', CHAOS, name)} | "
              f"{ratio('latency', name):.2f} | {aim} |")
    print(f"| a retry's StockReserved after its due time, p50, ms | | {column('latency', CHAOS, 'late_p50_ms')} | | |")
    print(f"| … p99, ms | | {column('latency', CHAOS, 'late_p99_ms')} | | |")
    print(f"\n| mails/s, a server that takes {MAIL_MS} ms a mail | concurrency 1 | 8 | 64 |\n|---|---|---|---|")
    print("| | " + " | ".join(column("mails", concurrency, "rate") for concurrency in (1, 8, 64)) + " |")


if __name__ == "__main__":
    main()
