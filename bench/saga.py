#!/usr/bin/env python3
"""The whole saga: five services on a real Kafka, a gateway and a mail server of their own, all on the cores of this machine.

`weir bench` makes the load, open loop: an order has a moment at which it is due, drawn beforehand, whether or not the line keeps up, and
each time counts from that. It looks for the knee, the highest rate that is sustained; the latencies are those at half of it. Through
HTTP as a shop would, and straight to Kafka as an upstream system; on PostgreSQL also with several processes of each service (a way's
third word: how many; HTTP goes to the first). At the end the books of tests/e2e/books.py must balance over all
orders of all steps.
"""
import measure
import line as lines
import programs
import world

AIM_TRIPS = 5  # p99 at half load, in round trips' p99 through Kafka


def cpu(step):
    return {name: (each["cpu_us_per_order"] or 0) for name, each in step["processes"].items()}


def words_of(way):
    database, through, *instances = way.split("/")
    return database, through, int(instances[0]) if instances else 1


def name_of(way):
    database, through, instances = words_of(way)
    return f"{database}, through {through}" + (f", {instances} instances each" if instances > 1 else "")


def most_mib(line, service, field="VmRSS"):
    """Of the largest of its processes."""
    return max(measure.memory_mib(line.processes[instance].pid, field) for instance in line.instances(service))


def one(suite, way, trip):
    """Knee and half of it; Wrong where the books do not balance."""
    database, through, instances = words_of(way)
    url = suite.postgres.create("bench_saga") if database == "PostgreSQL" else None
    line, failed, runs = lines.Line(suite.build, suite.kafka, suite.node, url), True, []
    try:
        programs.forget_topics(suite.kafka)
        line.prepare()
        line.prepare_more(instances)
        runs.append(line.bench(through, suite.warm_rate, suite.warm_seconds, 0))  # Java compiles what it runs often only after a while
        for service in world.SERVICES:
            line.ask(service, "/readyz")
        runs.append(line.bench(through, suite.rate, suite.seconds, suite.warm, "--knee", "--arrivals", suite.arrivals))
        knee = (runs[-1]["knee"] or {}).get("rate") or suite.rate / 2
        half = max(1, knee / 2)
        runs.append(line.bench(through, f"{half:.0f}", suite.seconds * 2, suite.warm, "--arrivals", suite.arrivals))
        resident = {service: most_mib(line, service) for service in world.SERVICES}
        peak = {service: most_mib(line, service, "VmHWM") for service in world.SERVICES}
        orders = line.balance(runs, suite.plant("saga"))
        failed = False
    finally:
        line.close(failed)
        if url:
            suite.postgres.drop("bench_saga")
    return {"way": way, "database": database, "through": through, "instances": instances, "knee": knee,
            "knee_found": bool(runs[1]["knee"] and runs[1]["knee"]["rate"]), "steps": runs[1]["steps"], "half": runs[2]["steps"][0],
            "orders": orders, "resident_mib": resident, "peak_mib": peak, "trip_p99_ms": trip,
            "bench": {key: runs[2][key] for key in ("versions", "settings")}}


def round_trip(suite):
    """p99 of a round trip through this Kafka, ms."""
    programs.make_topics(suite.build, suite.kafka)
    got = programs.run_json([f"{suite.build}/bench/floor/floor_kafka", "trip", suite.kafka, "stock", str(int(500 * suite.trip_seconds)), "500"], 180)
    return measure.percentiles_ms(measure.Hdr(buckets=got["buckets"]))["p99_ms"]


def run(suite):
    ways = [way for way in suite.ways if words_of(way)[0] == "SQLite" or suite.postgres]
    got = []
    trip = round_trip(suite)
    for number in range(suite.rounds):
        for place, way in enumerate(ways):
            suite.progress(number * len(ways) + place, suite.rounds * len(ways), name_of(way))
            got.append(one(suite, way, trip))
    for each in got:
        suite.sample(**each)
    of = {way: [each for each in got if each["way"] == way] for way in ways}
    suite.table(["", "steps: rate asked, confirmed/s, p50, p99 ms from due to confirmed"],
                [[name_of(way), "; ".join(
                    f"{step['rate']:,.0f}: {step['rates']['confirmed']:,.0f}, {lines.latency(step['latency']['confirmed'])['p50_ms'] or 0:,.0f}, "
                    f"{lines.latency(step['latency']['confirmed'])['p99_ms'] or 0:,.0f}{'' if step['sustained'] else ' (not sustained)'}"
                    f"{'' if step['valid'] else ' (not valid)'}" for step in each[0]["steps"])] for way, each in of.items()])
    stages = ("accepted", "confirmed", "mailed")
    suite.table(["", "knee, orders/s: min / median / max", "at half of it", *(f"to {stage}: p50, p99 ms" for stage in stages), "CPU µs an order"],
                [[name_of(way), measure.spread([one["knee"] for one in each]), f"{each[-1]['half']['rate']:,.0f}",
                  *("{p50_ms:.0f}, {p99_ms:.0f}".format(**{name: value or 0 for name, value in lines.latency(each[-1]["half"]["latency"][stage]).items()})
                    for stage in stages), f"{sum(cpu(each[-1]['half']).values()):,.0f}"] for way, each in of.items()])
    names = list(dict.fromkeys(name for each in got for name in each["half"]["processes"]))
    suite.table(["CPU µs an order at half of the knee", *names],
                [[name_of(way), *(f"{cpu(each[-1]['half']).get(name, 0):,.0f}" for name in names)]
                 for way, each in of.items()])
    suite.table(["resident MiB at the end, at most", *world.SERVICES],
                [[name_of(way), *(f"{each[-1]['resident_mib'][name]:.1f}, {each[-1]['peak_mib'][name]:.1f}" for name in world.SERVICES)]
                 for way, each in of.items()])
    print(f"{sum(each['orders'] for each in got):,} orders: the books balance. A round trip through Kafka: p99 {trip:.1f} ms.")
    for way, each in of.items():
        p99 = lines.latency(each[-1]["half"]["latency"]["confirmed"])["p99_ms"]
        suite.figure(f"saga, {name_of(way)}: knee", sorted(one["knee"] for one in each)[len(each) // 2], "orders/s")
        suite.figure(f"saga, {name_of(way)}: p99 at half load", p99, "ms")
        if p99 is not None:
            suite.figure(f"saga, {name_of(way)}: p99 in round trips' p99", p99 / trip, "", AIM_TRIPS, "less")
    suite.figure("memory of a service under load, at most", max(max(each["peak_mib"].values()) for each in got), "MiB", 20, "less")
    curves = {name_of(way): [[step["rate"], lines.latency(step["latency"]["confirmed"])["p99_ms"]]
              for step in sorted(each[-1]["steps"], key=lambda step: step["rate"]) if step["latency"]["confirmed"]["count"]]
              for way, each in of.items()}
    suite.picture("latency-by-load", "lines", title="From due to confirmed, p99, by load", x="orders/s asked for", y="ms", log_y=True, lines=curves)
    suite.picture("latency-at-half", "percentiles", title="From due to confirmed at half of the knee", curves={
        name_of(way): each[-1]["half"]["latency"]["confirmed"]["buckets"] for way, each in of.items()})


if __name__ == "__main__":
    measure.suite(__doc__, run,
                  full={"ways": ["SQLite/http", "SQLite/kafka", "PostgreSQL/http", "PostgreSQL/http/2", "PostgreSQL/http/3"], "rate": 250,
                        "seconds": 6, "warm": 2, "warm_rate": 250, "warm_seconds": 10, "arrivals": "poisson", "rounds": 1, "trip_seconds": 6},
                  quick={"ways": ["SQLite/http"], "rate": 200, "seconds": 2, "warm": 0.5, "warm_rate": 200, "warm_seconds": 3, "trip_seconds": 2},
                  smoke={"ways": ["SQLite/http"], "rate": 20, "seconds": 2, "warm": 0.2, "arrivals": "constant", "warm_rate": 20, "warm_seconds": 1, "trip_seconds": 1})
