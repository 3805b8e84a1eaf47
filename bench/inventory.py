#!/usr/bin/env python3
"""weir-inventory alone on a topic that was filled beforehand, on SQLite and on PostgreSQL, beside the bare floor on SQLite.

All read the same records of `orders`, in turns, each time with a group of its own and a fresh copy of one database. Measured is from the
first handled event to the last, its answer acknowledged by the broker and deleted from the outbox. Then the books: each order has one
StockReserved on the topic and one reservation in the database, and the stock says the same.
"""
import contextlib
import os
import shutil
import sqlite3
import statistics

import measure
import orders
import programs

BATCH = 2000  # BATCH_COUNT_MAX of the services
ROUND_SECONDS_MAX = 180
AIM_SHARE, AIM_SECOND_SHARE = 0.9, 0.75


class Counted:
    """The books of one round."""

    def __init__(self, suite, ids):
        self.suite, self.ids = suite, ids

    def sqlite(self, path, outbox):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            self.compare(lambda sql: connection.execute(sql).fetchone()[0], outbox)

    def postgres(self, name):
        self.compare(lambda sql: int(self.suite.postgres.sql(f"SET search_path TO weir_inventory; {sql}", name)[0][0]), "outbox_pack")

    def compare(self, ask, outbox):
        for what, sql, expected in (("reservations", "SELECT count(*) FROM reservations WHERE state = 1", len(self.ids)),
                                    ("rows of the outbox", f"SELECT count(*) FROM {outbox}", 0),
                                    ("units that are reserved", "SELECT sum(reserved) FROM stock", len(self.ids))):
            found = ask(sql)
            if found != expected:
                raise measure.Wrong(f"{found} {what}, not {expected}")


def run_floor(suite, group, database):
    got = programs.run_json([f"{suite.build}/bench/floor/floor_inventory", suite.kafka, group, database, str(suite.events), str(BATCH)],
                            ROUND_SECONDS_MAX)
    return {"events": got["events"], "seconds": got["seconds"], "rate": got["events"] / got["seconds"],
            "cpu_us_an_event": got["cpu_us"] / got["events"], "postgres_cpu_us_an_event": None, "peak_mib": [got["peak_kib"] / 1024]}


def run_weir(suite, group, url, log, postgres=None):
    service = programs.Service(suite.build, "inventory", suite.kafka, group, url, log)
    try:
        return programs.handle_all([service], suite.events, ROUND_SECONDS_MAX, postgres)
    finally:
        service.stop()


def begin(suite, folder, log):
    """Databases with stock and without orders: what each round begins with a copy of."""
    path = folder + "/begin.db"
    urls = [f"sqlite:{path}"] + ([suite.postgres.create("bench_begin")] if suite.postgres else [])
    for url in urls:
        service = programs.Service(suite.build, "inventory", suite.kafka, "bench-begin", url, log)
        try:
            programs.set_stock(service)
        finally:
            service.stop()
    return path


def one(suite, name, number, ids, folder, path, log):
    tail = orders.Tail(suite.kafka, "inventory")
    counted, group = Counted(suite, ids), f"bench-{name}-{os.getpid()}-{number}"
    database = f"{folder}/{name}.db"
    if name == "postgres":
        got = run_weir(suite, group, suite.postgres.create("bench_round", "bench_begin"), log, suite.postgres)
        counted.postgres("bench_round")
    else:
        shutil.copy(path, database)
        got = run_floor(suite, group, database) if name == "floor" else run_weir(suite, group, f"sqlite:{database}", log)
        if suite.plant("inventory") and name == "sqlite":
            with contextlib.closing(sqlite3.connect(database)) as connection:
                connection.execute("DELETE FROM reservations WHERE order_id = (SELECT min(order_id) FROM reservations)")
                connection.commit()
        counted.sqlite(database, "outbox" if name == "floor" else "outbox_pack")
        programs.remove_sqlite(database)
    orders.answered_once(tail, ids)
    tail.close()
    return got


NAMES = {"floor": "bare floor, SQLite", "sqlite": "weir-inventory, SQLite", "postgres": "weir-inventory, PostgreSQL"}


def run(suite):
    names = [name for name in NAMES if name != "postgres" or suite.postgres]
    rounds = {name: [] for name in names}
    with programs.scratch() as (folder, log):
        try:
            programs.make_topics(suite.build, suite.kafka)
            path = begin(suite, folder, log)
            ids = orders.fill(suite.kafka, suite.events)
            for number in range(suite.rounds):
                for name in names:
                    suite.progress(number * len(names) + names.index(name), suite.rounds * len(names), NAMES[name])
                    rounds[name].append(one(suite, name, number, ids, folder, path, log))
        finally:
            if suite.postgres:
                suite.postgres.drop("bench_round")
                suite.postgres.drop("bench_begin")
    for name, each in rounds.items():
        for number, got in enumerate(each):
            suite.sample(program=name, round=number, batch=BATCH, **got)
    suite.table(["", "events/s, min / median / max", "CPU µs an event", "PostgreSQL's", "peak resident MiB"],
                [[NAMES[name], measure.spread([got["rate"] for got in each]),
                  measure.spread([got["cpu_us_an_event"] for got in each], "{:.1f}"),
                  measure.spread([got["postgres_cpu_us_an_event"] for got in each], "{:.1f}"),
                  measure.spread([sum(got["peak_mib"]) for got in each], "{:.1f}")] for name, each in rounds.items()])
    median = {name: statistics.median(got["rate"] for got in each) for name, each in rounds.items()}
    shares = [weir["rate"] / floor["rate"] for weir, floor in zip(rounds["sqlite"], rounds["floor"])]
    print(f"On SQLite {measure.spread(shares, '{:.2f}')} of the floor, pair by pair (aim: {AIM_SHARE}).")
    suite.figure("one service, SQLite", median["sqlite"], "records/s")
    suite.figure("one service, SQLite: share of the floor", statistics.median(shares), aim=AIM_SHARE)
    for name in ("sqlite", "postgres"):
        if name in rounds:
            cpu = statistics.median(got["cpu_us_an_event"] + (got["postgres_cpu_us_an_event"] or 0) for got in rounds[name])
            suite.figure(f"one service, {'SQLite' if name == 'sqlite' else 'PostgreSQL'}: CPU, database included", cpu, "µs a record")
    if "postgres" in rounds:
        suite.figure("one service, PostgreSQL", median["postgres"], "records/s")
    suite.picture("inventory", "bars", title="One service, from topic to topic", unit="events/s",
                  bars=[[NAMES[name], min(got["rate"] for got in each), median[name], max(got["rate"] for got in each)]
                        for name, each in rounds.items()])


if __name__ == "__main__":
    measure.suite(__doc__, run, full={"events": 200000, "rounds": 3}, quick={"events": 40000, "rounds": 1},
                  smoke={"events": 3000, "rounds": 1})
