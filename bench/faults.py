#!/usr/bin/env python3
"""The saga while things happen: services are killed, the broker and the database restart, and one key in a hundred fails.

A constant load goes straight to Kafka, open loop, whatever the line does. For each fault: how low the rate of confirmed orders fell, and
how long after it began no more orders were on their way than before. A supervisor starts what ends, as systemd would. All on one
PostgreSQL. At the end nothing is lost and the books balance.
"""
import os
import shutil
import signal
import statistics
import subprocess
import threading
import time

import measure
import line as lines
import programs
import world

CHAOS = "keys=1%:1"
BASELINE_SLACK = 1.5
NODE_SECONDS_MAX = 150


class Supervisor:
    """Starts again what has ended by itself, and notes it."""

    def __init__(self, line):
        self.line, self.restarts, self.stopping = line, [], threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self):
        while not self.stopping.wait(0.1):
            for service in world.SERVICES:
                code = self.line.processes[service].poll()
                if code is not None:
                    self.restarts.append((time.time(), service, code))
                    self.line.start(service)

    def close(self):
        self.stopping.set()
        self.thread.join()


def restart_kafka(suite):
    with open(suite.node + "/bootstrap") as file:
        port = file.read().strip().rpartition(":")[2]
    node = measure.ROOT + "/compose/kafka/node"
    for words in (["stop", suite.node], ["start", suite.node, port, "--set", "group.min.session.timeout.ms=500", "--set",
                                                               "group.initial.rebalance.delay.ms=1000"]):
        subprocess.run([node, *words], check=True, timeout=NODE_SECONDS_MAX, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def restart_postgres(suite):
    cluster = measure.ROOT + "/tests/support/postgres"
    folder = suite.postgres.folder
    for words in (["stop", folder], ["start", folder, "shared_buffers=256MB", "max_wal_size=4GB", "max_connections=200"]):
        subprocess.run([cluster, *words], check=True, timeout=NODE_SECONDS_MAX, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def kill(line, service):
    os.kill(line.processes[service].pid, signal.SIGKILL)


FAULTS = {"kill inventory": lambda suite, line: kill(line, "inventory"), "kill order": lambda suite, line: kill(line, "order"),
          "kill payment": lambda suite, line: kill(line, "payment"), "restart Kafka": lambda suite, line: restart_kafka(suite),
          "restart PostgreSQL": lambda suite, line: restart_postgres(suite)}


def strike(suite, line, begun, said):
    """Each fault when its moment has come: [name, began, ended], in seconds from begun."""
    done = []
    for name, at in suite.faults:
        time.sleep(max(0.0, begun + at - time.time()))
        suite.progress(at, suite.seconds, name)
        began = time.time()
        try:
            FAULTS[name](suite, line)
        except (OSError, subprocess.SubprocessError) as error:
            said.append(f"{name}: {error}")
        done.append([name, began, time.time()])
    return done


def load(suite, line):
    """(what `weir bench` measured, faults by wall clock)."""
    path = line.bench_path()
    words = line.bench_words(path, "kafka", suite.rate, suite.seconds, 0, ["--arrivals", "constant"])
    words[words.index("--pid"):words.index("--pid") + 2] = []  # the processes change
    with open(line.folder + "/bench.log", "w+") as log:
        begun, said = time.time(), []
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            done = strike(suite, line, begun + 1, said)
            process.wait(suite.seconds + 2 * lines.SETTLE_SECONDS_MAX)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        log.seek(0)
        got = line.bench_read(path, process.returncode, log.read())
    if said:
        raise SystemExit("; ".join(said))
    return got, done


def looked_at(suite, step, done):
    """For each fault its dip and the time to recover, out of the timeline."""
    zero = lines.wall(step["begun_at"])
    seconds = step["timeline"]  # [second, sent, accepted, decided, confirmed, mailed, outstanding, p50, p99, max]
    faults = [[name, began - zero, ended - zero] for name, began, ended in done]
    calm = [row for row in seconds if 1 <= row[0] < faults[0][1] - 0.5] or seconds[:1]
    usual, usual_outstanding = statistics.median(row[4] for row in calm), max(row[6] for row in calm)
    bound, found = BASELINE_SLACK * usual_outstanding + 0.02 * suite.rate, []
    for number, (name, began, ended) in enumerate(faults):
        until = faults[number + 1][1] if number + 1 < len(faults) else seconds[-1][0] + 1
        during = [row for row in seconds if began - 1 < row[0] < until]
        within = [row for row in during if row[0] < suite.seconds]
        over = [row[0] for row in during if row[6] > bound]
        back = 0.0 if not over else None if over[-1] == during[-1][0] else max(0.0, over[-1] + 1 - began)
        found.append({"fault": name, "began": began, "took_seconds": ended - began, "usual_per_second": usual,
                      "least_per_second": min((row[4] for row in within), default=None), "most_outstanding": max(row[6] for row in during),
                      "recovered_after_seconds": back, "worst_ms": max((row[9] or 0) for row in during) / 1000})
    return faults, found, usual


def run(suite):
    if not suite.postgres or not suite.node:
        raise SystemExit("it needs a PostgreSQL and the folder of the Kafka node")
    line = lines.Line(suite.build, suite.kafka, suite.node, suite.postgres.create("bench_faults"), CHAOS=CHAOS)
    failed, supervisor = True, None
    try:
        line.prepare()
        warm = line.bench("kafka", suite.rate, suite.warm_seconds, 0)
        supervisor = Supervisor(line)
        got, done = load(suite, line)
        supervisor.close()
        for service in world.SERVICES:
            line.wait_ready(service)
        chaos = {service: line.metric(service, "weir_retry_total") or 0 for service in world.SERVICES}
        orders = line.balance([warm, got], suite.plant("faults"))
        failed = False
    finally:
        if supervisor:
            supervisor.stopping.set()
            supervisor.thread.join()
        line.close(failed)
    step = got["steps"][0]
    faults, found, usual = looked_at(suite, step, done)
    suite.sample(step=step, faults=found, restarts=[[at - lines.wall(step["begun_at"]), service, code] for at, service, code in supervisor.restarts],
                 retried=chaos, orders=orders)
    suite.table(["fault", "at, s", "it took, s", "confirmed/s before", "least within a second", "most on their way", "recovered after, s", "slowest order, s"],
                [[each["fault"], f"{each['began']:.0f}", f"{each['took_seconds']:.1f}", f"{usual:,.0f}", f"{each['least_per_second'] or 0:,.0f}",
                  f"{each['most_outstanding']:,.0f}", "not before the next" if each["recovered_after_seconds"] is None else
                  f"{each['recovered_after_seconds']:.0f}", f"{each['worst_ms'] / 1000:.1f}"] for each in found])
    print(f"{orders:,} orders at {suite.rate:,}/s, 1 % of the keys failing once ({sum(chaos.values()):,.0f} retries since the last starts): none is lost, "
          "the books balance.")
    for each in found:
        suite.figure(f"faults: {each['fault']}: recovered after", each["recovered_after_seconds"], "s")
    suite.picture("timeline", "timeline", title=f"{suite.rate:,} orders a second while things happen", y="orders", faults=[
        [began, ended, name] for name, began, ended in faults], lines={
            "sent in the second": [[row[0], row[1]] for row in step["timeline"]],
            "confirmed in the second": [[row[0], row[4]] for row in step["timeline"]],
            "on their way": [[row[0], row[6]] for row in step["timeline"]]})


if __name__ == "__main__":
    measure.suite(__doc__, run,
                  full={"rate": 150, "seconds": 100, "warm_seconds": 5, "faults": [
                      ["kill inventory", 12], ["kill order", 30], ["restart Kafka", 48], ["restart PostgreSQL", 75]]},
                  quick={"rate": 100, "seconds": 24, "warm_seconds": 2, "faults": [["kill inventory", 4], ["restart PostgreSQL", 14]]},
                  smoke={"rate": 20, "seconds": 6, "warm_seconds": 1, "faults": [["kill payment", 2], ["restart PostgreSQL", 3]]})
