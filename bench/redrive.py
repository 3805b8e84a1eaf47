#!/usr/bin/env python3
"""Dead letters sent back by `weir dlq redrive`: letters a second, CPU, memory, beside their number.

The topic is filled beforehand with letters as a service writes them. Measured is the whole command, forecast and audit included, at
no rate limit: two passes over the dead letters, one copy and one audit record each, both acknowledged by the broker. A tenth of them
beside it says whether memory grows with their number. Nobody consumes the copies meanwhile.
"""
import json
import os
import statistics
import subprocess
import time

import measure
import orders


def weir(build, kafka, *words):
    """(stdout, seconds, CPU seconds, peak resident MiB) of one command."""
    begun = time.monotonic()
    process = subprocess.Popen([f"{build}/services/weir/weir", *words], env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": kafka},
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"weir {words} ended with {process.returncode}: {out[-500:]}")
    return out, time.monotonic() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def run(suite):
    weir(suite.build, suite.kafka, "topics", "create")
    rows = []
    # Each size has a service's dead letters of its own; further rounds send the same again (--again).
    for place, (service, letters) in enumerate((("email", suite.letters // 10), ("payment", suite.letters))):
        orders.fill(suite.kafka, letters, f"dlq.{service}", letter_of=service)
        rates, cpus, peaks = [], [], []
        for number in range(suite.rounds):
            suite.progress(place * suite.rounds + number, 2 * suite.rounds, f"{letters:,} letters")
            out, seconds, cpu, peak = weir(suite.build, suite.kafka, "dlq", "redrive", "--yes", "--json", "--rate", "0", "--service",
                                           service, *(["--again"] if number else []))
            done = json.loads(out.splitlines()[-1])
            if suite.plant("redrive") or done["event"] != "done" or done["sent"] != letters:
                raise measure.Wrong(f"not all were sent: {done}")
            rates.append(letters / seconds)
            cpus.append(cpu / letters * 1e6)
            peaks.append(peak)
            suite.sample(letters=letters, seconds=seconds, cpu_seconds=cpu, peak_mib=peak)
        rows.append([f"{letters:,}", measure.spread(rates), measure.spread(cpus), f"{max(peaks):.0f}"])
    suite.table(["letters", "letters/s: min / median / max", "CPU µs a letter", "peak resident MiB"], rows)
    suite.figure("redrive", statistics.median(rates), "letters/s")


if __name__ == "__main__":
    measure.suite(__doc__, run, full={"letters": 100000, "rounds": 3}, quick={"letters": 20000, "rounds": 1},
                  smoke={"letters": 1000, "rounds": 1})
