#!/usr/bin/env python3
"""weir-inventory as one, two, three processes of one group on one PostgreSQL, by the number of partitions.

The topic is filled beforehand; measured is from when each of them has handled something, to the last answer acknowledged by the broker.
Then the books, over all of them. On two cores this says what several processes cost each other, not how far they reach.
"""
import os
import statistics

import measure
import orders
import programs

SECONDS_MAX = 300
REFUSED = "a second process is refused"


def one(suite, instances, partitions, number, ids, log):
    tail = orders.Tail(suite.kafka, "inventory")
    url = suite.postgres.create("bench_scaling", "bench_scaling_begin")
    group = f"bench-scaling-{os.getpid()}-{instances}-{partitions}-{number}"
    services = []
    try:
        for place in range(instances):
            services.append(programs.Service(suite.build, "inventory", suite.kafka, group, url, log,
                                             **({"CRASH_NOTE": f"{suite.folder}/{group}-{place}.crash"} if place else {})))
        for service in services:
            try:
                service.page().close()
            except SystemExit:
                if instances > 1 and service.process.poll() not in (None, 0):
                    return REFUSED
                raise
        got = programs.handle_all(services, suite.events, SECONDS_MAX, suite.postgres, outbox_empty=lambda: not int(suite.postgres.sql(
            "SELECT count(*) FROM weir_inventory.outbox_pack", "bench_scaling")[0][0]))
    finally:
        for service in services:
            if service.process.poll() is None:
                service.stop()
    # The outbox may hold what a clock wrote meanwhile (how much stock is left), for one that was stopped first.
    found = suite.postgres.sql("SET search_path TO weir_inventory; SELECT (SELECT count(*) FROM reservations WHERE state = 1), "
                               "(SELECT sum(reserved) FROM stock)", "bench_scaling")[0]
    if suite.plant("scaling") or [int(each) for each in found] != [suite.events, suite.events]:
        raise measure.Wrong(f"{found} reservations and units, not {suite.events} each")
    orders.answered_once(tail, ids)
    tail.close()
    return {"instances": instances, "partitions": partitions, "round": number, **got}


def run(suite):
    if not suite.postgres:
        raise SystemExit("it needs a PostgreSQL")
    got, refused = {}, None
    with programs.scratch() as (folder, log):
        suite.folder = folder
        try:
            for place, partitions in enumerate(suite.partitions):
                programs.forget_topics(suite.kafka)
                programs.make_topics(suite.build, suite.kafka, partitions)
                if not place:
                    service = programs.Service(suite.build, "inventory", suite.kafka, "bench-begin",
                                               suite.postgres.create("bench_scaling_begin"), log)
                    try:
                        programs.set_stock(service)
                    finally:
                        service.stop()
                ids = orders.fill(suite.kafka, suite.events)
                for number in range(suite.rounds):
                    for instances in suite.instances:
                        if refused and instances > 1:
                            continue
                        suite.progress(place * suite.rounds + number, len(suite.partitions) * suite.rounds,
                                       f"{instances} of them, {partitions} partitions")
                        found = one(suite, instances, partitions, number, ids, log)
                        if found == REFUSED:
                            refused = found
                        else:
                            got.setdefault((partitions, instances), []).append(found)
        finally:
            suite.postgres.drop("bench_scaling")
            suite.postgres.drop("bench_scaling_begin")
    for each in got.values():
        for sample in each:
            suite.sample(**sample)
    median = {key: statistics.median(one["rate"] for one in each) for key, each in got.items()}
    suite.table(["partitions", "processes", "events/s, min / median / max", "of one", "CPU µs an event", "PostgreSQL's", "smallest and largest share"],
                [[partitions, instances, measure.spread([one["rate"] for one in each]),
                  f"{median[partitions, instances] / median[partitions, suite.instances[0]]:.2f}",
                  measure.spread([one["cpu_us_an_event"] for one in each], "{:.1f}"),
                  measure.spread([one["postgres_cpu_us_an_event"] for one in each], "{:.1f}"),
                  f"{min(min(one['shares']) for one in each):.2f}, {max(max(one['shares']) for one in each):.2f}"]
                 for (partitions, instances), each in got.items()])
    if refused:
        print(refused)
    for (partitions, instances), rate in median.items():
        suite.figure(f"scaling: {instances} processes, {partitions} partitions", rate, "records/s")
    suite.picture("instances", "lines", title="weir-inventory on one PostgreSQL, two cores", x="processes", y="events/s", lines={
        f"{partitions} partitions": [[instances, median[partitions, instances]] for instances in suite.instances if (partitions, instances) in median]
        for partitions in suite.partitions})


if __name__ == "__main__":
    measure.suite(__doc__, run, full={"instances": [1, 2, 3], "partitions": [6, 24], "events": 200000, "rounds": 2},
                  quick={"instances": [1, 2], "partitions": [6], "events": 60000, "rounds": 1},
                  smoke={"instances": [1], "partitions": [6], "events": 3000, "rounds": 1})
