#!/usr/bin/env python3
"""What failing costs: the rest of the keys while one in a hundred fails, how late a retry is, and mails through a slow server.

Every round counts what came out against what went in; a figure stands only if nothing is missing.

  throughput   weir-inventory on a topic filled beforehand (two events an order), with and without CHAOS=keys=1%:1, in turns: records/s
               until 98 % of them are handled, so that the waiting of the last failed ones is not in it
  latency      the same at a constant rate: OrderPlaced on its topic to StockReserved on its own (both timestamps are the producers'), of
               keys that never failed; and how long after its due time a retried record's StockReserved is there
  mails        weir-email with EMAIL_CONCURRENCY 1, 8 and 64 at a server that takes 20 ms a mail: mails/s from the first EmailSent to the last
"""
import collections
import os
import shutil
import statistics
import subprocess
import time

import measure
import books
import orders
import programs
import world

CHAOS = "keys=1%:1"
SHARE_HANDLED = 0.98
MAIL_MS = 20
ROUND_SECONDS_MAX = 180
DELAYS_MS = {"retry.inventory.2s": 2000, "retry.inventory.4s": 4000, "retry.inventory.8s": 8000}


def skip(kafka, group, names):
    """What is on these topics already is not this group's: retry topics of earlier rounds, or all that was there before."""
    from confluent_kafka import Consumer, TopicPartition
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": group, "enable.auto.commit": False})
    topics = consumer.list_topics(timeout=30).topics
    ends = [TopicPartition(topic, partition, consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)[1])
            for topic in names for partition in topics[topic].partitions]
    consumer.commit(offsets=ends, asynchronous=False)
    consumer.close()


def throughput(options, log, begin, folder, chaos, number):
    database = f"{folder}/throughput.db"
    shutil.copy(begin, database)
    group = f"bench-failure-{number}-{bool(chaos)}"
    skip(options.kafka, group, DELAYS_MS)
    service = programs.Service(options.build, "inventory", options.kafka, group, f"sqlite:{database}", log, CHAOS=chaos or "seed=1")
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
                raise measure.Wrong(f"{ok:.0f} of {options.events} handled")
            time.sleep(0.02)
        retried, waited, dead = (measure.total(lines, name) for name in ("weir_retry_total", "weir_waited_total", "weir_dlq_total"))
        if ok != options.events or dead or bool(retried) != bool(chaos):
            raise measure.Wrong(f"{ok:.0f} handled, {retried:.0f} retried, {dead:.0f} dead")
        page.close()
        return {"rate": (last[1] - first[1]) / (last[0] - first[0]), "retried": retried, "waited": waited}
    finally:
        service.stop()
        programs.remove_sqlite(database)


def latency(options, log, begin, folder, chaos, number):
    database = f"{folder}/latency.db"
    shutil.copy(begin, database)
    group = f"bench-latency-{number}-{bool(chaos)}"
    skip(options.kafka, group, [*DELAYS_MS, "orders", "payments"])
    service = programs.Service(options.build, "inventory", options.kafka, group, f"sqlite:{database}", log, CHAOS=chaos or "seed=1")
    try:
        page = service.page()
        programs.until_true("weir-inventory has its partitions", lambda: measure.total(page.lines(), "weir_ready"))
        placed_now = set(orders.fill(options.kafka, options.rate * options.seconds, rate=options.rate, seed=f"{number}{chaos}"))
        programs.until_true("what failed is handled", lambda: not measure.total(page.lines(), "weir_waiting_keys")
              and not measure.total(page.lines(), "kafka_consumergroup_lag") and not measure.total(page.lines(), "weir_outbox_rows"))
        page.close()
    finally:
        service.stop()
    placed, reserved, due = {}, {}, {}
    for record in books.read_records(options.kafka, ["orders", "inventory", *DELAYS_MS]):
        key = (record.key or b"").decode()
        if key not in placed_now:
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
    if options.plant("failure") or len(placed) != len(placed_now) or len(reserved) != len(placed_now) or bool(due) != bool(chaos):
        raise measure.Wrong(f"{len(placed)} placed, {len(reserved)} reserved of {len(placed_now)}, {len(due)} retried")
    healthy = sorted(reserved[key] - placed[key] for key in placed_now if key not in due)
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
    service = programs.Service(options.build, "email", options.kafka, f"bench-mail-{number}-{concurrency}", f"sqlite:{database}", log, EMAIL_RATE="0",
                      EMAIL_CONCURRENCY=str(concurrency), SMTP_URL=f"smtp://127.0.0.1:{port}",
                      EMAIL_FROM="shop@shop.example", KAFKA_PROPERTIES="auto.offset.reset=latest")
    try:
        page = service.page()
        programs.until_true("weir-email has its partitions", lambda: measure.total(page.lines(), "weir_ready"))
        time.sleep(2)  # its first fetch stands at the end of the topic
        orders.fill(options.kafka, options.mails, seed=f"{number}{concurrency}")
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


def begin(options, folder, log):
    path = folder + "/begin.db"
    service = programs.Service(options.build, "inventory", options.kafka, "bench-begin", f"sqlite:{path}", log)
    try:
        programs.set_stock(service)
    finally:
        service.stop()
    return path


def run(options):
    got = collections.defaultdict(list)
    work = [(what, variant) for what, variants in (("throughput", ("", CHAOS)), ("latency", ("", CHAOS)), ("mails", (1, 8, 64)))
            for _ in range(options.rounds) for variant in variants]
    with programs.scratch() as (folder, log):
        programs.make_topics(options.build, options.kafka)
        path = begin(options, folder, log)
        orders.fill(options.kafka, options.events // 2, confirmed=True)
        for place, (what, variant) in enumerate(work):
            options.progress(place, len(work), f"{what}, {variant or 'nothing fails'}")
            number = len(got[what, variant])
            if what == "mails":
                found = mails(options, log, folder, variant, number)
            else:
                found = (throughput if what == "throughput" else latency)(options, log, path, folder, variant, number)
            got[what, variant].append({"what": what, "variant": variant, "round": number, **found})
    for each in got.values():
        for sample in each:
            options.sample(**sample)

    def column(what, variant, name, form="{:,.0f}"):
        return measure.spread([one[name] for one in got[what, variant]], form)

    def ratio(what, name):
        return statistics.median(one[name] for one in got[what, CHAOS]) / statistics.median(one[name] for one in got[what, ""])
    options.table(["weir-inventory: min / median / max", "no key fails", "1 % of the keys fail once", "ratio", "aim"], [
        ["records/s until 98 % are handled", column("throughput", "", "rate"), column("throughput", CHAOS, "rate"),
         f"{ratio('throughput', 'rate'):.2f}", "0.9"],
        *([f"{name[:3]} of healthy keys at {options.rate} orders/s, ms", column("latency", "", name), column("latency", CHAOS, name),
           f"{ratio('latency', name):.2f}", aim] for name, aim in (("p50_ms", ""), ("p99_ms", "1.2"))),
        ["a retry's StockReserved after its due time, p50, ms", "", column("latency", CHAOS, "late_p50_ms"), "", ""],
        ["… p99, ms", "", column("latency", CHAOS, "late_p99_ms"), "", ""]])
    options.table([f"mails/s, a server that takes {MAIL_MS} ms a mail: concurrency", "1", "8", "64"],
                  [["", *(column("mails", concurrency, "rate") for concurrency in (1, 8, 64))]])
    options.figure("failing keys: throughput, of that without", ratio("throughput", "rate"), "", 0.9)
    options.figure("failing keys: p99 of healthy keys, of that without", ratio("latency", "p99_ms"), "", 1.2, "less")


if __name__ == "__main__":
    measure.suite(__doc__, run, full={"events": 200000, "rate": 500, "seconds": 10, "mails": 1000, "rounds": 3},
                  quick={"events": 40000, "rate": 500, "seconds": 4, "mails": 200, "rounds": 1},
                  smoke={"events": 2000, "rate": 100, "seconds": 2, "mails": 80, "rounds": 1})
