#!/usr/bin/env python3
"""10,000 tasks, as the comparisons of job queues have it: each a mail to a server that takes it at once.

The tasks lie on the topic when weir-email begins; measured is from the first mail that was sent to the last. Then the mail server has
each of them once. What Celery, BullMQ and pika do with the same is in the suite `peers`.
"""
import json
import os
import statistics
import time

import measure
import line as lines
import orders
import programs

SECONDS_MAX = 300


def one(suite, database, number, folder, log):
    name = f"{database.lower()}-{number}"
    url = suite.postgres.create("bench_tasks") if database == "PostgreSQL" else f"sqlite:{folder}/{name}.db"
    sink = lines.StandIn(suite.build, "mail", f"{folder}/{name}", log, "--mail-keep-max", "0")
    service = programs.Service(suite.build, "email", suite.kafka, f"bench-tasks-{os.getpid()}-{name}", url, log, EMAIL_RATE="0",
                               EMAIL_CONCURRENCY=str(suite.concurrency), SMTP_URL=sink.url, EMAIL_FROM="shop@shop.example")
    try:
        page, first, until = service.page(), None, time.monotonic() + SECONDS_MAX
        before = time.monotonic(), 0, measure.cpu_seconds(service.pid)
        while True:
            lines_now = page.lines()
            now, sent, cpu = time.monotonic(), measure.total(lines_now, "weir_emails_total", 'result="ok"'), measure.cpu_seconds(service.pid)
            if sent and first is None:
                first = (now, sent, cpu) if sent < suite.tasks else before  # all of them between two looks: from the one before
            before = now, sent, cpu
            if sent >= suite.tasks:
                break
            if now > until:
                raise measure.Wrong(f"{sent:.0f} of {suite.tasks} mails in {SECONDS_MAX} s")
            time.sleep(0.02)
        memory = measure.memory_mib(service.pid, "VmHWM")
        page.close()
        counted = sent - first[1]
        got = {"database": database, "round": number, "tasks": counted, "seconds": now - first[0], "rate": counted / (now - first[0]),
               "cpu_us_a_task": (cpu - first[2]) * 1e6 / counted, "peak_mib": memory}
    finally:
        service.stop()
        sink.close()
    with open(f"{sink.folder}/index.ndjson") as file:
        ids = [json.loads(line)["message_id"] for line in file]
    if suite.plant("tasks"):
        ids.append(ids[0])
    if len(ids) != suite.tasks or len(set(ids)) != suite.tasks:
        raise measure.Wrong(f"the mail server has {len(ids)} mails, {len(set(ids))} different ones, of {suite.tasks}")
    if database == "PostgreSQL":
        suite.postgres.drop("bench_tasks")
    return got


def run(suite):
    databases = ["SQLite"] + (["PostgreSQL"] if suite.postgres else [])
    got = {database: [] for database in databases}
    with programs.scratch() as (folder, log):
        programs.make_topics(suite.build, suite.kafka)
        orders.fill(suite.kafka, suite.tasks)
        for number in range(suite.rounds):
            for place, database in enumerate(databases):
                suite.progress(number * len(databases) + place, suite.rounds * len(databases), database)
                os.makedirs(f"{folder}/{database.lower()}-{number}")
                got[database].append(one(suite, database, number, folder, log))
    for each in got.values():
        for sample in each:
            suite.sample(**sample)
    suite.table([f"{suite.tasks:,} mails, {suite.concurrency} at once", "a second, min / median / max", "CPU µs a mail", "peak resident MiB"],
                [[f"weir-email, {database}", measure.spread([one["rate"] for one in each]),
                  measure.spread([one["cpu_us_a_task"] for one in each], "{:.0f}"), measure.spread([one["peak_mib"] for one in each], "{:.1f}")]
                 for database, each in got.items()])
    for database, each in got.items():
        suite.figure(f"tasks, {database}", statistics.median(one["rate"] for one in each), "mails/s")


if __name__ == "__main__":
    measure.suite(__doc__, run, full={"tasks": 10000, "concurrency": 64, "rounds": 3}, quick={"tasks": 3000, "rounds": 1},
                  smoke={"tasks": 400, "rounds": 1})
