"""How long from the end of the group join to /readyz 200, service by service: min, median, max in ms.

    bench/readiness.py [--build DIR] [--rounds N]

A Kafka node of its own (WEIR_KAFKA_HOME or compose/kafka/fetch) with Weir's topics, one service at a time. The
join has ended when the broker's log says "Assignment received from leader": it then answers SyncGroup. Readiness is
when a GET of /readyz, asked every 2 ms, is first answered 200, by the same machine's clock. What a first member of a
group waits for before that (group.initial.rebalance.delay.ms) is the broker's and not counted.
"""
import argparse
import datetime
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
SERVICES = ("order", "inventory", "payment", "email", "analytics")
JOINED = re.compile(r"^(\S+) INFO +\S+ .*Assignment received from leader .* for group weir-(\w+) for generation")
READY_SECONDS = 60


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def is_ready(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def once(build, folder, service, kafka, environment):
    """Milliseconds from the join's end to readiness."""
    port, path = free_port(), folder / f"{service}.log"
    extra = {"email": ["--smtp-url", "smtp://127.0.0.1:1"], "payment": ["--payment-gateway-url", "http://127.0.0.1:1"]}
    with open(path, "wb") as log:
        process = subprocess.Popen(
            [build / f"services/weir-{service}", "serve", "--kafka-bootstrap-servers", kafka, "--http-listen", f"127.0.0.1:{port}",
             "--database-url", f"sqlite:{folder}/{service}.db", *extra.get(service, [])], stderr=log, stdin=subprocess.DEVNULL, env=environment)
    try:
        until = time.monotonic() + READY_SECONDS
        while not is_ready(port):
            assert process.poll() is None and time.monotonic() < until, path.read_text()[-2000:]
            time.sleep(0.002)
        ready = time.time()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    joined = []
    for line in (folder / "kafka/log/server.log").read_text().splitlines():
        found = JOINED.match(line)
        if found and found[2] == service:
            joined.append(datetime.datetime.fromisoformat(found[1].replace(",", ".")).timestamp())
    joined = [at for at in joined if at < ready]
    assert joined, f"{service} did not join"
    return (ready - joined[-1]) * 1000


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default=ROOT / "build/release", type=pathlib.Path)
    parser.add_argument("--rounds", default=5, type=int)
    given = parser.parse_args()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WEIR_")}
    home = os.environ.get("WEIR_KAFKA_HOME") or subprocess.check_output([ROOT / "compose/kafka/fetch"], text=True).strip()
    node = dict(os.environ, WEIR_KAFKA_HOME=home)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="weir-readiness-"))
    kafka = f"127.0.0.1:{free_port()}"
    build = given.build.resolve()
    subprocess.run([ROOT / "compose/kafka/node", "start", folder / "kafka", kafka.split(":")[1]], check=True, env=node,
                   stdout=subprocess.DEVNULL)
    try:
        subprocess.run([build / "services/weir/weir", "topics", "create", "--kafka-bootstrap-servers", kafka], check=True,
                       env=environment, stdout=subprocess.DEVNULL)
        every = []
        for service in SERVICES:
            took = [once(build, folder, service, kafka, environment) for _ in range(given.rounds)]
            every += took
            print(f"{service:10} {min(took):6.0f} {statistics.median(took):6.0f} {max(took):6.0f}", flush=True)
        print(f"{'all':10} {min(every):6.0f} {statistics.median(every):6.0f} {max(every):6.0f}   load {os.getloadavg()[0]:.1f}")
    finally:
        subprocess.run([ROOT / "compose/kafka/node", "stop", folder / "kafka"], env=node, check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
