#!/usr/bin/env python3
"""Inbox and outbox by batch and by size of the tables, on both databases, through the store and by bare statements.

The inventory work without Kafka (store/inventory_work.h): an inbox note, a stock row of 200, a reservation and an outbox row an event.
The tables hold so many events already when the clock starts; programs take turns. Each checks what it wrote as it goes.
"""
import os
import statistics
import tempfile

import measure
import programs

FLOORS = {"SQLite": "floor_sqlite", "PostgreSQL": "floor_postgres"}
ROUND_SECONDS_MAX = 1500


def one(suite, database, program, events, batch, before, folder):
    words = [f"{suite.build}/bench/store/{FLOORS[database] if program == 'floor' else 'bench_rows'}"]
    path = folder + "/bench.db"
    target = suite.postgres.create("bench_tables") if database == "PostgreSQL" else path
    used = suite.postgres.cpu_seconds() if database == "PostgreSQL" else 0
    try:
        _, _, rate, cpu = programs.run([*words, target, str(events), str(batch), str(before)], ROUND_SECONDS_MAX).split()
        server = (suite.postgres.cpu_seconds() - used) * 1e6 / (events + before) if database == "PostgreSQL" else None
        count(suite, database, program, path, events + before)
    finally:
        if database == "PostgreSQL":
            suite.postgres.drop("bench_tables")
        else:
            programs.remove_sqlite(path)
    return {"database": database, "program": program, "batch": batch, "before": before, "events": events, "rate": float(rate),
            "cpu_us_an_event": float(cpu), "postgres_cpu_us_an_event": server}


def count(suite, database, program, path, events):
    """A reservation for each event, and as many units gone."""
    sql = "SELECT (SELECT count(*) FROM {0}reservations), (SELECT sum(reserved) FROM {0}stock)"
    if database == "PostgreSQL":
        found = suite.postgres.sql(sql.format("floor." if program == "floor" else "weir_bench."), "bench_tables")[0]
    else:
        import contextlib
        import sqlite3
        with contextlib.closing(sqlite3.connect(path)) as connection:
            found = connection.execute(sql.format("")).fetchone()
    if suite.plant("tables") or [int(each) for each in found] != [events, events]:
        raise measure.Wrong(f"{program} on {database}: {found} reservations and units, not {events}")


def run(suite):
    databases = [name for name in FLOORS if name == "SQLite" or suite.postgres]
    work = [(database, batch, suite.befores[0]) for database in databases for batch in suite.batches]
    work += [(database, suite.batch, before) for before in suite.befores[1:] + ([suite.largest] if suite.largest else [])
             for database in databases]
    got = {}
    with tempfile.TemporaryDirectory(prefix="weir-bench-") as folder:
        for number in range(suite.rounds):
            for place, (database, batch, before) in enumerate(work):
                if number and before > suite.befores[0]:
                    continue  # filling takes longer than measuring
                suite.progress(number * len(work) + place, suite.rounds * len(work), f"{database}, batches of {batch}, {before:,} before")
                events = max(200, min(suite.events, batch * suite.commits))
                for program in ("floor", "store"):
                    got.setdefault((database, batch, before, program), []).append(
                        one(suite, database, program, events, batch, before, folder))
    for each in got.values():
        for sample in each:
            suite.sample(**sample)

    def row(database, batch, before):
        floor, store = (got[database, batch, before, program] for program in ("floor", "store"))
        share = statistics.median(b["rate"] / a["rate"] for a, b in zip(floor, store))
        return [database, f"{batch:,}", f"{before:,}", *(measure.spread([each["rate"] for each in one]) for one in (floor, store)), f"{share:.2f}",
                *(measure.spread([each["cpu_us_an_event"] for each in one], "{:.1f}") for one in (floor, store)),
                measure.spread([each["postgres_cpu_us_an_event"] for each in store], "{:.1f}")]
    suite.table(["database", "batch", "events in the tables before", "events/s by bare statements", "through the store", "share",
                 "CPU µs an event, bare", "store", "the server's (store)"], [row(*each) for each in work])
    for database in databases:
        one_row = {program: statistics.median(each["rate"] for each in got[database, suite.batches[-1], suite.befores[0], program])
                   for program in ("floor", "store")}
        suite.figure(f"store on {database}, batches of {suite.batches[-1]:,}: share of bare statements",
                     one_row["store"] / one_row["floor"])
        suite.picture(database.lower(), "lines", title=f"Inbox, rows and outbox on {database}", x="batch", y="events/s", log_x=True,
                      lines={("bare statements" if program == "floor" else "the store"):
                             [[batch, statistics.median(each["rate"] for each in got[database, batch, suite.befores[0], program])]
                              for batch in suite.batches] for program in ("floor", "store")})


if __name__ == "__main__":
    measure.suite(__doc__, run,
                  full={"batches": [1, 100, 500, 2000], "befores": [0, 100000, 1000000], "batch": 500, "largest": 0, "events": 200000,
                        "commits": 400, "rounds": 3},
                  quick={"batches": [1, 100, 2000], "befores": [0, 100000], "events": 40000, "commits": 100, "rounds": 1},
                  smoke={"batches": [100, 500], "befores": [0, 2000], "events": 2000, "commits": 10, "rounds": 1})
