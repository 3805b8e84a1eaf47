#!/usr/bin/env python3
"""ns an event to encode and decode, beside avro-c's generic API, by the same program in turns (bench/codec/bench_codec.c).

It ends with an error where the two do not write the same bytes.
"""
import json

import measure
import programs


def run(suite):
    lines = {}
    for number in range(suite.rounds):
        suite.progress(number, suite.rounds, "bench_codec")
        for line in programs.run([f"{suite.build}/bench/codec/bench_codec", "--json"], 300).splitlines():
            got = json.loads(line)
            got.pop("bench", None)
            suite.sample(round=number, **got)
            lines.setdefault((got["event"], got["bytes"], got["what"]), []).append(got)

    def over(each, name):
        return " / ".join(f"{pick(values):.0f}" for pick, values in zip(
            (min, lambda medians: sorted(medians)[len(medians) // 2], max), zip(*(got[name] for got in each))))
    suite.table(["event", "", "weir ns, min / median / max", "avro-c ns", "times faster"],
                [[f"{event}, {size} B", what, over(each, "weir_ns"), over(each, "avro_c_ns"), measure.spread([got["ratio"] for got in each], "{:.1f}")]
                 for (event, size, what), each in lines.items()])
    for (event, _, what), each in lines.items():
        suite.figure(f"codec: {event}, {what}, beside avro-c", sorted(got["ratio"] for got in each)[len(each) // 2], "times", aim=5)


if __name__ == "__main__":
    measure.suite(__doc__, run, full={"rounds": 3}, quick={"rounds": 1}, smoke={"rounds": 1})
