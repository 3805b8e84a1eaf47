#!/usr/bin/env python3
"""What Kafka allows at all: librdkafka that produces records of inventory's size and headers, consumes and drops them, and a round trip.

Each record of each round is read again: as many as were produced, or no figure.
"""
import statistics

import measure
import programs

WORK_SECONDS_MAX = 180


def run(suite):
    program, got, trips = f"{suite.build}/bench/floor/floor_kafka", {"produce": [], "consume": []}, []
    programs.make_topics(suite.build, suite.kafka)
    for number in range(suite.rounds):
        suite.progress(number, suite.rounds, "produce, consume, round trips")
        got["produce"].append(programs.run_json([program, "produce", suite.kafka, "inventory", str(suite.events)], WORK_SECONDS_MAX))
        total = sum(each["events"] for each in got["produce"])
        got["consume"].append(programs.run_json([program, "consume", suite.kafka, "inventory", str(total)], WORK_SECONDS_MAX))
        if got["consume"][-1]["events"] != total - 1:
            raise measure.Wrong(f"{got['consume'][-1]} of {total} records were read")
        trips.append(programs.run_json([program, "trip", suite.kafka, "stock", str(int(suite.rate * suite.seconds)), str(suite.rate)],
                                       WORK_SECONDS_MAX))
    for mode, each in got.items():
        for one in each:
            suite.sample(rate=one["events"] / one["seconds"], **one)
    rows = [[mode, measure.spread([one["events"] / one["seconds"] for one in each]),
             measure.spread([one["cpu_us"] / one["events"] for one in each], "{:.2f}")] for mode, each in got.items()]
    suite.table(["librdkafka alone", "records/s, min / median / max", "CPU µs a record"], rows)
    times = [measure.percentiles_ms(measure.Hdr(buckets=one["buckets"])) for one in trips]
    for one, each in zip(trips, times):
        suite.sample(**one, **each)
    suite.table([f"round trip through Kafka at {suite.rate:,}/s", "ms, min / median / max"],
                [[name[:-3].replace("_", "."), measure.spread([each[name] for each in times], "{:.2f}")] for name in times[0]])
    for mode, each in got.items():
        suite.figure(f"limit: librdkafka, {mode}", statistics.median(one["events"] / one["seconds"] for one in each), "records/s")
    suite.figure("limit: round trip through Kafka, p99", statistics.median(each["p99_ms"] for each in times), "ms")
    suite.picture("round-trips", "percentiles", title=f"A round trip through Kafka at {suite.rate:,}/s",
                  curves={"all rounds": measure.Hdr(buckets=[pair for one in trips for pair in one["buckets"]]).buckets()})


if __name__ == "__main__":
    measure.suite(__doc__, run, full={"events": 300000, "rate": 500, "seconds": 10, "rounds": 3},
                  quick={"events": 100000, "seconds": 3, "rounds": 1}, smoke={"events": 5000, "seconds": 1, "rounds": 1})
