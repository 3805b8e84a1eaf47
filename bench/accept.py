#!/usr/bin/env python3
"""POST /v1/orders: how many orders weir-order accepts, each durable before it is answered, beside the HTTP library with no work behind it.

Both are asked by the same program over the same number of connections, in turns: first as fast as they answer, then at half of what
weir-order reached, where the times count from when a request was due. Every order that was answered 202 must then be in the database
and, once, on the topic.
"""
import contextlib
import os
import sqlite3
import statistics
import subprocess
import time

import measure
import orders
import programs

SETTLE_SECONDS_MAX = 180
AIM_SHARE = 0.5


def load(suite, port, rate=0):
    got = programs.run_json([f"{suite.build}/bench/floor/http_load", str(port), str(suite.connections), str(suite.seconds), str(rate)],
                            suite.seconds + 120)
    if got["other"] or got["accepted"] != got["sent"]:
        raise measure.Wrong(f"{got['sent']} orders were sent, {got['accepted']} accepted, {got['other']} answered otherwise")
    return got


def measured(suite, port, pids, rate=0):
    before, begun = [measure.cpu_seconds(pid) for pid in pids], time.monotonic()
    got = load(suite, port, rate)
    used = sum(measure.cpu_seconds(pid) for pid in pids) - sum(before)
    return {"rate_asked": rate, "rate": got["accepted"] / got["seconds"], "accepted": got["accepted"],
            "cpu_us_a_request": used * 1e6 / got["accepted"], "client_cpu_us_a_request": got["cpu_us"] / got["accepted"],
            "took": time.monotonic() - begun, "buckets": got["buckets"], **measure.percentiles_ms(measure.Hdr(buckets=got["buckets"]))}


@contextlib.contextmanager
def floor(suite):
    process = subprocess.Popen([f"{suite.build}/bench/floor/floor_http"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield int(process.stdout.readline()), process.pid
    finally:
        process.stdin.close()
        process.wait(20)


def weir(suite, database, number, rates, folder, log):
    """weir-order on a new database: a sample for each rate; then the books."""
    programs.forget_topics(suite.kafka)  # it reads `orders`, too
    programs.make_topics(suite.build, suite.kafka)
    path, tail = f"{folder}/order.db", orders.Tail(suite.kafka, "orders")
    url = suite.postgres.create("bench_order") if database == "PostgreSQL" else f"sqlite:{path}"
    service = programs.Service(suite.build, "order", suite.kafka, f"bench-accept-{os.getpid()}-{database}-{number}", url, log)
    found = []
    try:
        service.ready()
        for rate in rates:
            got = measured(suite, service.port, [service.pid], rate(found) if callable(rate) else rate)
            page = service.page()
            begun = time.monotonic()
            programs.until_true("the outbox is empty", lambda: not measure.total(page.lines(), "weir_outbox_rows"), SETTLE_SECONDS_MAX)
            page.close()
            found.append({**got, "relayed_after_seconds": time.monotonic() - begun, "rss_mib": measure.memory_mib(service.pid)})
    finally:
        service.stop()
    accepted = sum(each["accepted"] for each in found)
    if database == "PostgreSQL":
        kept = int(suite.postgres.sql("SELECT count(*) FROM weir_order.orders", "bench_order")[0][0])
        suite.postgres.drop("bench_order")
    else:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            kept = connection.execute("SELECT count(*) FROM orders").fetchone()[0]
        programs.remove_sqlite(path)
    keys, records = set(), 0

    def take(message):
        nonlocal records
        records += 1
        keys.add(message.key())
    tail.read(take)
    tail.close()
    if suite.plant("accept"):
        kept -= 1
    if not accepted == kept == len(keys) == records:
        raise measure.Wrong(f"{accepted} orders were accepted, {kept} are in the database, {len(keys)} on the topic in {records} records")
    return found


def run(suite):
    databases = ["SQLite"] + (["PostgreSQL"] if suite.postgres else [])
    got = {"library": [], **{database: [] for database in databases}}
    with programs.scratch() as (folder, log):
        for number in range(suite.rounds):
            for place, name in enumerate(got):
                suite.progress(number * len(got) + place, suite.rounds * len(got), name)
                if name == "library":
                    with floor(suite) as (port, pid):
                        got[name].append([measured(suite, port, [pid])])
                        continue
                half = (lambda found: int(found[0]["rate"] / 2))
                got[name].append(weir(suite, name, number, [0, half], folder, log))
    for name, each in got.items():
        for number, samples in enumerate(each):
            for sample in samples:
                suite.sample(program=name, round=number, **sample)
    first = {name: [samples[0] for samples in each] for name, each in got.items()}
    suite.table(["", f"accepted/s over {suite.connections} connections, min / median / max", "CPU µs a request", "p50 ms", "p99 ms"],
                [["the HTTP library, no work" if name == "library" else f"weir-order, {name}", measure.spread([one["rate"] for one in each]),
                  measure.spread([one["cpu_us_a_request"] for one in each], "{:.1f}"),
                  measure.spread([one["p50_ms"] for one in each], "{:.2f}"), measure.spread([one["p99_ms"] for one in each], "{:.2f}")]
                 for name, each in first.items()])
    suite.table(["at half of that, open loop", "orders/s", "p50 ms", "p99 ms", "p99.9 ms"],
                [[f"weir-order, {name}", measure.spread([one[1]["rate_asked"] for one in got[name]]),
                  *(measure.spread([one[1][each] for one in got[name]], "{:.2f}") for each in ("p50_ms", "p99_ms", "p99_9_ms"))]
                 for name in databases])
    library = statistics.median(one["rate"] for one in first["library"])
    for name in databases:
        rate = statistics.median(one["rate"] for one in first[name])
        suite.figure(f"HTTP accept, {name}", rate, "orders/s")
        suite.figure(f"HTTP accept, {name}: share of the library's", rate / library, aim=AIM_SHARE)
    suite.picture("accept", "percentiles", title="POST /v1/orders at half of what it accepts", curves={
        f"weir-order, {name}": measure.Hdr(buckets=[pair for one in got[name] for pair in one[1]["buckets"]]).buckets() for name in databases})


if __name__ == "__main__":
    measure.suite(__doc__, run, full={"seconds": 5, "connections": 128, "rounds": 3}, quick={"seconds": 1.5, "rounds": 1},
                  smoke={"seconds": 0.5, "connections": 16, "rounds": 1})
