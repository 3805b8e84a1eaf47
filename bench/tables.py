#!/usr/bin/env python3
"""Inbox and outbox by batch, through the store and by bare statements, and what an event costs as the tables grow; both databases.

The inventory work without Kafka (store/inventory_work.h): an inbox note, a stock row of 200, a reservation and an outbox row an event.
By batch the tables are empty at first, and the programs take turns. Growing, one program fills them and stops at each of the sizes to
measure. Each checks what it wrote as it goes, and how many reservations and units there are is counted at the end.
"""
import contextlib
import sqlite3
import statistics
import subprocess

import measure
import programs

FLOORS = {"SQLite": "floor_sqlite", "PostgreSQL": "floor_postgres"}
ROUND_SECONDS_MAX = 1500
AIM_GROWTH = 1.2


@contextlib.contextmanager
def emptied(suite, database, path):
    """An empty database: what the programs call it."""
    try:
        yield suite.postgres.create("bench_tables") if database == "PostgreSQL" else path
    finally:
        if database == "PostgreSQL":
            suite.postgres.drop("bench_tables")
        else:
            programs.remove_sqlite(path)


def server_seconds(suite, database):
    return suite.postgres.cpu_seconds() if database == "PostgreSQL" else 0


def read(line, suite, database, used, **more):
    """A sample of what a program printed about its events."""
    _, _, rate, cpu = line.split()
    server = (server_seconds(suite, database) - used) * 1e6 / more["events"] if database == "PostgreSQL" else None
    return {"database": database, "rate": float(rate), "cpu_us_an_event": float(cpu), "postgres_cpu_us_an_event": server, **more}


def one(suite, database, program, batch, folder):
    events, path = max(200, min(suite.events, batch * suite.commits)), folder + "/bench.db"
    with emptied(suite, database, path) as target:
        used = server_seconds(suite, database)
        said = programs.run([f"{suite.build}/bench/store/{FLOORS[database] if program == 'floor' else 'bench_rows'}", target, str(events),
                             str(batch)], ROUND_SECONDS_MAX)
        sample = read(said.splitlines()[-1], suite, database, used, program=program, batch=batch, before=0, events=events)
        count(suite, database, program, path, events)
    return sample


def grow(suite, database, folder):
    """A sample for each size."""
    events, path, samples = max(200, min(suite.events, suite.batch * suite.commits)), folder + "/bench.db", []
    with emptied(suite, database, path) as target, subprocess.Popen(
            [f"{suite.build}/bench/store/bench_rows", target, str(events), str(suite.batch), ",".join(map(str, suite.sizes))],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as program:
        for size in suite.sizes:
            before = int(program.stdout.readline().removeprefix("at "))
            used = server_seconds(suite, database)
            samples.append(read(program.stdout.readline(), suite, database, used, program="store", batch=suite.batch, before=before,
                                size=size, events=events))
        if program.wait(ROUND_SECONDS_MAX):
            raise SystemExit(f"bench_rows ended with {program.returncode}")
        count(suite, database, "store", path, samples[-1]["before"] + events)
    return samples


def count(suite, database, program, path, events):
    """A reservation for each event, and as many units gone."""
    sql = "SELECT (SELECT count(*) FROM {0}reservations), (SELECT sum(reserved) FROM {0}stock)"
    if database == "PostgreSQL":
        found = suite.postgres.sql(sql.format("floor." if program == "floor" else "weir_bench."), "bench_tables")[0]
    else:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            found = connection.execute(sql.format("")).fetchone()
    if suite.plant("tables") or [int(each) for each in found] != [events, events]:
        raise measure.Wrong(f"{program} on {database}: {found} reservations and units, not {events}")


def cost(sample):
    return sample["cpu_us_an_event"] + (sample["postgres_cpu_us_an_event"] or 0)


def run(suite):
    databases = [name for name in FLOORS if name == "SQLite" or suite.postgres]
    work = [(database, batch) for database in databases for batch in suite.batches]
    got, grown = {}, {}
    with programs.scratch() as (folder, _):
        for number in range(suite.rounds):
            for place, (database, batch) in enumerate(work):
                suite.progress(number * len(work) + place, (suite.rounds + 1) * len(work), f"{database}, batches of {batch}")
                for program in ("floor", "store"):
                    got.setdefault((database, batch, program), []).append(one(suite, database, program, batch, folder))
        for database in databases:
            suite.progress(suite.rounds, suite.rounds + 1, f"{database}, growing")
            grown[database] = grow(suite, database, folder)
    for each in [*got.values(), *grown.values()]:
        for sample in each:
            suite.sample(**sample)

    def row(database, batch):
        floor, store = (got[database, batch, program] for program in ("floor", "store"))
        share = statistics.median(b["rate"] / a["rate"] for a, b in zip(floor, store))
        return [database, f"{batch:,}", *(measure.spread([each["rate"] for each in one]) for one in (floor, store)), f"{share:.2f}",
                *(measure.spread([each["cpu_us_an_event"] for each in one], "{:.1f}") for one in (floor, store)),
                *(measure.spread([each["postgres_cpu_us_an_event"] for each in one], "{:.1f}") for one in (floor, store))]
    suite.table(["database", "batch", "events/s by bare statements", "through the store", "share", "CPU µs an event, bare", "store",
                 "the server's, bare", "store"], [row(*each) for each in work])
    suite.table(["database", "events in the tables before", "events/s through the store", "CPU µs an event", "the server's", "both, of the first"],
                [[database, f"{each['before']:,}", f"{each['rate']:,.0f}", f"{each['cpu_us_an_event']:.1f}",
                  "–" if each["postgres_cpu_us_an_event"] is None else f"{each['postgres_cpu_us_an_event']:.1f}", f"{cost(each) / cost(samples[0]):.2f}"]
                 for database, samples in grown.items() for each in samples])
    for database in databases:
        rates = {program: statistics.median(each["rate"] for each in got[database, suite.batches[-1], program]) for program in ("floor", "store")}
        suite.figure(f"store on {database}, batches of {suite.batches[-1]:,}: share of bare statements", rates["store"] / rates["floor"])
        suite.figure(f"store on {database}: CPU an event at {suite.sizes[-1]:,} events, of that at {suite.sizes[0]:,}",
                     cost(grown[database][-1]) / cost(grown[database][0]), "", AIM_GROWTH, "less")
        suite.picture(database.lower(), "lines", title=f"Inbox, rows and outbox on {database}", x="batch", y="events/s", log_x=True,
                      lines={("bare statements" if program == "floor" else "the store"):
                             [[batch, statistics.median(each["rate"] for each in got[database, batch, program])]
                              for batch in suite.batches] for program in ("floor", "store")})


if __name__ == "__main__":
    measure.suite(__doc__, run,
                  full={"batches": [1, 100, 500, 2000], "sizes": [100000, 1000000, 10000000], "batch": 500, "events": 200000, "commits": 400,
                        "rounds": 3},
                  quick={"batches": [1, 100, 2000], "sizes": [20000, 100000], "events": 40000, "commits": 100, "rounds": 1},
                  smoke={"batches": [100, 500], "sizes": [1000, 4000], "events": 2000, "commits": 10, "rounds": 1})
