#!/usr/bin/env python3
"""How soon each service is ready, what it holds in memory, and what an order costs in CPU, disk and network.

One after another each service is started alone, on SQLite, with Kafka there: from exec to the first answer of /livez and /readyz. Then
all five carry a constant load; what their processes wrote, what crossed the loopback and what the disks hold at the end is divided by
the orders. The broker's answer to a first member (group.initial.rebalance.delay.ms) is a part of being ready. The books must balance.
"""
import http.client
import time

import measure
import line as lines
import programs
import world

READY_SECONDS_MAX = 60
AIM_READY_MS, AIM_MEMORY_MIB = 200, 20
MORE = {"email": {"SMTP_URL": "smtp://127.0.0.1:1"}, "payment": {"PAYMENT_GATEWAY_URL": "http://127.0.0.1:1"}}


def answers(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def start(suite, name, number, folder, log):
    service = programs.Service(suite.build, name, suite.kafka, f"bench-start-{name}-{number}", f"sqlite:{folder}/{name}-{number}.db", log,
                               **MORE.get(name, {}))
    took = {}
    try:
        for what, path in (("live_ms", "/livez"), ("ready_ms", "/readyz")):
            until = time.monotonic() + READY_SECONDS_MAX
            while not answers(service.port, path):
                if time.monotonic() > until or service.process.poll() is not None:
                    raise SystemExit(f"weir-{name} is not ready")
                time.sleep(0.002)
            took[what] = 1000 * (time.monotonic() - service.begun)
        took["idle_mib"] = measure.memory_mib(service.pid)
        took["idle_anonymous_mib"] = measure.memory_mib(service.pid, "RssAnon")
    finally:
        service.stop()
    return {"service": name, "round": number, **took}


def load(suite):
    line, failed = lines.Line(suite.build, suite.kafka, suite.node), True
    try:
        line.prepare()
        pids = {name: int(str(pid).rstrip("+")) for name, pid in line.pids().items()}
        warm = line.bench("http", suite.rate, 1, 0)
        before = {name: measure.written_bytes(pid) for name, pid in pids.items()}
        held = {"kafka": measure.folder_bytes(suite.node + "/data"), "databases": measure.folder_bytes(line.folder)}
        used = {name: measure.cpu_seconds(pid) for name, pid in pids.items()}
        network = measure.loopback_bytes()
        got = line.bench("http", suite.rate, suite.seconds, 0)
        network = measure.loopback_bytes() - network
        counts = got["steps"][0]["orders_all"]
        found = {
            "cpu_us": {name: (measure.cpu_seconds(pid) - used[name]) * 1e6 / counts["decided"] for name, pid in pids.items()},
            "written_bytes": {name: measure.written_bytes(pid) - before[name] for name, pid in pids.items()},
            "kafka_bytes": measure.folder_bytes(suite.node + "/data") - held["kafka"],
            "database_bytes": measure.folder_bytes(line.folder) - held["databases"],
            "network_bytes": network, "orders": counts["decided"], "step": got["steps"][0],
            "memory_mib": {name: measure.memory_mib(line.processes[name].pid) for name in world.SERVICES},
            "own_mib": {name: measure.memory_mib(line.processes[name].pid, "RssAnon") for name in world.SERVICES},
            "peak_mib": {name: measure.memory_mib(line.processes[name].pid, "VmHWM") for name in world.SERVICES},
        }
        line.balance([warm, got], suite.plant("footprint"))
        failed = False
        return found
    finally:
        line.close(failed)


def run(suite):
    programs.make_topics(suite.build, suite.kafka)
    starts = {name: [] for name in world.SERVICES}
    with programs.scratch() as (folder, log):
        for number in range(suite.rounds):
            suite.progress(number, suite.rounds + 3, "starts")
            for name in world.SERVICES:
                starts[name].append(start(suite, name, number, folder, log))
    suite.progress(suite.rounds, suite.rounds + 3, "an order's cost")
    got = load(suite)
    for each in starts.values():
        for one in each:
            suite.sample(what="start", **one)
    suite.sample(what="order", rate=suite.rate, **got)
    suite.table(["service", "exec to /livez, ms: min / median / max", "to /readyz, ms", "resident MiB when ready", "under load", "of it not pages of files", "at most"],
                [[name, measure.spread([one["live_ms"] for one in each]), measure.spread([one["ready_ms"] for one in each]),
                  measure.spread([one["idle_mib"] for one in each], "{:.1f}"), f"{got['memory_mib'][name]:.1f}",
                  f"{got['own_mib'][name]:.1f}", f"{got['peak_mib'][name]:.1f}"]
                 for name, each in starts.items()])
    orders, processes = got["orders"], got["cpu_us"]
    suite.table([f"an order, at {suite.rate:,}/s by HTTP", *processes],
                [["CPU µs", *(f"{value:,.0f}" for value in processes.values())],
                 ["bytes written to disk", *(f"{got['written_bytes'].get(name, 0) / orders:,.0f}" for name in processes)]])
    rows = {"CPU of the five services": (sum(processes[name] for name in world.SERVICES), "µs an order"),
            "CPU of Kafka": (processes["kafka"], "µs an order"),
            "disk, Kafka's log": (got["kafka_bytes"] / orders, "bytes an order"),
            "disk, databases": (got["database_bytes"] / orders, "bytes an order"),
            "written to disks, all": (sum(got["written_bytes"].values()) / orders, "bytes an order"),
            "network, all on loopback": (got["network_bytes"] / orders, "bytes an order")}
    suite.table(["an order", "", ""], [[name, f"{value:,.0f}", unit] for name, (value, unit) in rows.items()])
    for name, (value, unit) in rows.items():
        suite.figure(f"footprint: {name}", value, unit)
    suite.figure("footprint: exec to /readyz, slowest service's median",
                 max(sorted(one["ready_ms"] for one in each)[len(each) // 2] for each in starts.values()), "ms", AIM_READY_MS, "less")
    suite.figure("footprint: memory of a service, at most", max(got["peak_mib"].values()), "MiB", AIM_MEMORY_MIB, "less")


if __name__ == "__main__":
    measure.suite(__doc__, run, full={"rounds": 3, "rate": 200, "seconds": 20}, quick={"rounds": 1, "seconds": 4},
                  smoke={"rounds": 1, "rate": 30, "seconds": 1})
