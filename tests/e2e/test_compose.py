#!/usr/bin/env python3
"""compose/compose.yaml as a user runs it, with other ports and under a project name of its own.

    test_compose.py            one broker: from nothing to the first confirmed order, killed, drained, down and up again
    test_compose.py cluster    three brokers, each lost in turn while orders come in, then all of them down and up again

It needs docker with compose, builds the image, and takes everything away again at the end. Figures (time, size, memory) are printed as
a JSON line. Exit 77: there is no docker. It is no part of a plain tests/run, as it fetches images: WEIR_COMPOSE=1 tests/run -L compose.
"""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "compose"
SERVICES = ["order", "inventory", "payment", "email", "analytics"]
ONCE = {"topics", "kafka-cluster", "weir"}
UP_SECONDS_MAX = 1500
PORTS = ["ORDER_PORT", "INVENTORY_PORT", "PAYMENT_PORT", "EMAIL_PORT", "ANALYTICS_PORT", "KAFKA_PORT", "KAFKA_2_PORT", "KAFKA_3_PORT",
         "POSTGRES_PORT", "REGISTRY_PORT", "MAILPIT_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT", "KAFKA_UI_PORT"]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Here:
    def __init__(self):
        self.ports = dict(zip(PORTS, free_ports(len(PORTS))))
        self.environment = {**os.environ, **{name: str(port) for name, port in self.ports.items()},
                            "COMPOSE_PROJECT_NAME": f"weir-test-{os.getpid()}", "COMPOSE_ANSI": "never", "COMPOSE_PROGRESS": "plain"}

    def compose(self, *arguments, check=True, seconds=300):
        done = subprocess.run(["docker", "compose", *arguments], cwd=COMPOSE, env=self.environment, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=seconds, check=False)
        assert done.returncode == 0 or not check, f"docker compose {' '.join(arguments)}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def up(self, *arguments):
        begun = time.monotonic()
        self.compose(*arguments, seconds=UP_SECONDS_MAX)
        return time.monotonic() - begun

    def containers(self):
        return [json.loads(line) for line in self.compose("ps", "--all", "--format", "json").splitlines()]

    def ask(self, port, path, body=None, method=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports[port]}{path}", method=method,
                                         data=None if body is None else json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def order(self, sku, seconds=120):
        """One that is taken, whatever happens meanwhile; its id."""
        key = os.urandom(8).hex()
        until = time.monotonic() + seconds
        while True:
            try:
                request = urllib.request.Request(
                    f"http://127.0.0.1:{self.ports['ORDER_PORT']}/v1/orders", headers={"Idempotency-Key": key},
                    data=json.dumps({"customer_id": "c1", "email": "c1@shop.example", "currency": "EUR",
                                     "items": [{"sku": sku, "quantity": 1, "unit_price_minor": 1290}]}).encode())
                with urllib.request.urlopen(request, timeout=20) as answer:
                    assert answer.status == 202, answer.status
                    return json.loads(answer.read())["order_id"]
            except (OSError, ConnectionError) as error:
                if isinstance(error, urllib.error.HTTPError) and error.code not in (409, 500, 503):
                    raise
                assert time.monotonic() < until, f"no order is taken: {error}"
                time.sleep(0.2)

    def wait(self, what, condition, seconds=120):
        until = time.monotonic() + seconds
        while True:
            try:
                if condition():
                    return
            except (OSError, ConnectionError) as error:
                if time.monotonic() > until:
                    raise AssertionError(f"{what}: {error}") from error
            assert time.monotonic() < until, f"{what}: not within {seconds} s"
            time.sleep(0.2)

    def confirmed(self, order):
        status, answer = self.ask("ORDER_PORT", f"/v1/orders/{order}")
        return status == 200 and answer["status"] == "confirmed"

    def set_stock(self, sku):
        def put():
            return self.ask("INVENTORY_PORT", f"/v1/stock/{sku}", {"available": 1000000}, "PUT")[0] == 200
        self.wait("stock", put)


def check_file(here):
    """What every container owes, as docker itself understands the file."""
    all_of_it = json.loads(here.compose("--profile", "*", "config", "--format", "json"))
    environment = dict(line.split("=", 1) for line in (COMPOSE / ".env").read_text().splitlines() if "=" in line and line[0] != "#")
    assert int(environment["STOP_GRACE_PERIOD"].rstrip("s")) > int(environment["DRAIN_TIMEOUT"].rstrip("s"))
    wrong = []
    for name, service in all_of_it["services"].items():
        def owe(good, what, name=name):
            if not good:
                wrong.append(f"{name}: {what}")
        tag = service["image"].rpartition(":")[2]
        owe("/" not in tag and tag != "latest", "its image is not pinned")
        owe(service.get("read_only"), "its root can be written to")
        owe(service.get("cap_drop") == ["ALL"], "capabilities")
        owe("no-new-privileges:true" in service.get("security_opt", []), "new privileges")
        # Karapace's image has a user of its own, whose number is nobody's business: looked at when it runs.
        owe(name == "registry" or service.get("user", "0").split(":")[0] not in ("0", "root"), "it runs as root")
        limits = service["deploy"]["resources"]["limits"]
        owe({"cpus", "memory", "pids"} <= set(limits), "it has no limits")
        health = service.get("healthcheck") or {}
        owe(health.get("test") or name in ONCE | {"load"}, "it has no health check")
        # Compose takes one that is disabled for one that is missing: `up --wait` fails on what does not end.
        owe(not health.get("disable") or name in ONCE, "its health check is disabled")
        owe(name in ONCE or service.get("restart") in ("unless-stopped", "on-failure"), "it is not started again")
        for port in service.get("ports", []):
            owe(port.get("host_ip") == "127.0.0.1", "a port is open to the network")
        for key, value in (service.get("environment") or {}).items():
            owe(not ("PASSWORD" in key or "SECRET" in key or "TOKEN" in key) or value.startswith("/run/secrets/"), f"{key} is no file")
    assert not wrong, "\n".join(wrong)
    # The topics that are made are those that the services use: one list of delays for both.
    delays = {service["environment"]["RETRY_DELAYS"] for name, service in all_of_it["services"].items() if name in SERVICES + ["topics"]}
    assert len(delays) == 1, delays


def figures(here, took, first_order):
    size = int(subprocess.run(["docker", "image", "inspect", "--format", "{{.Size}}", "weir:0.1.0"], capture_output=True, text=True, check=True).stdout)
    memory = {}
    for container in here.containers():
        if container["Service"] in SERVICES:
            stats = subprocess.run(["docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", container["Name"]],
                                   capture_output=True, text=True, check=True).stdout
            memory[container["Service"]] = stats.split("/")[0].strip()
    print(json.dumps({"up_s": round(took, 1), "up_to_confirmed_s": round(first_order, 1), "image_mb": round(size / 1e6, 1),
                      "memory": memory, "load": os.getloadavg()[0]}), flush=True)
    assert size < 50e6, f"the image has {size / 1e6:.0f} MB"


def down_and_up(here, orders, *profile):
    """All containers are taken away, the volumes stay: all orders are there again, none is counted twice, and it goes on."""
    def counted():
        status, answer = here.ask("ANALYTICS_PORT", "/v1/figures")
        return status == 200 and answer["orders"]["confirmed"] == len(orders)
    here.wait("analytics has counted them", counted)
    here.compose("--profile", "*", "down")
    assert not here.containers(), here.containers()
    here.up(*profile, "up", "--wait", "--no-build")
    for order in orders:
        here.wait(f"{order} of {len(orders)} is still there", lambda order=order: here.confirmed(order))
    more = here.order("MUG")
    here.wait("one more order", lambda: here.confirmed(more))
    orders.append(more)
    here.wait("analytics has counted this one besides them", counted)


def one_broker(here):
    begun = time.monotonic()
    took = here.up("up", "--wait", "--no-build")
    here.set_stock("MUG")
    first = here.order("MUG")
    here.wait("the first order", lambda: here.confirmed(first))
    figures(here, took, time.monotonic() - begun)
    for container in here.containers():
        user = subprocess.run(["docker", "inspect", "--format", "{{.Config.User}}", container["Name"]], capture_output=True, text=True, check=True).stdout
        assert user.strip().split(":")[0] not in ("", "0", "root"), f"{container['Name']} runs as root"
        good = container["ExitCode"] == 0 and container["State"] == "exited" if container["Service"] in ONCE else container["Health"] == "healthy"
        assert good, container
    here.wait("its mails", lambda: sum(first in mail["Subject"] for mail in here.ask("MAILPIT_PORT", "/api/v1/messages")[1]["messages"]) >= 3)
    subjects = here.ask("REGISTRY_PORT", "/subjects")[1]
    assert "orders-weir.OrderPlaced" in subjects, subjects
    said = here.compose("exec", "-T", "order", "weir-order", "check")
    assert "FAIL" not in said and "weir-order serves" in said, said
    said = here.compose("run", "--rm", "-T", "weir", "order", first)
    assert "OrderConfirmed" in said, said

    ids = {container["Service"]: container["Name"] for container in here.containers()}
    orders = [first]
    for name in SERVICES:
        orders += [here.order("MUG") for _ in range(5)]
        subprocess.run(["docker", "kill", "--signal", "KILL", ids[name]], check=True, capture_output=True)
        here.up("up", "--wait", "--no-build")
        orders += [here.order("MUG") for _ in range(5)]
        for order in orders:
            here.wait(f"{order}, {name} killed", lambda order=order: here.confirmed(order))

    here.compose("stop", *SERVICES)
    for container in here.containers():
        if container["Service"] in SERVICES:
            assert container["ExitCode"] == 0, f"{container['Name']} did not drain: {container['ExitCode']}"
    here.up("up", "--wait", "--no-build")
    down_and_up(here, orders)


def three_brokers(here):
    here.up("--profile", "cluster", "up", "--wait", "--no-build")
    here.set_stock("MUG")
    told = here.compose("exec", "-T", "kafka-2", "/opt/kafka/bin/kafka-topics.sh", "--bootstrap-server", "kafka-2:9092", "--describe",
                        "--topic", "orders")
    assert "ReplicationFactor: 3" in told, told
    orders, stopping = [], threading.Event()

    def shop():
        while not stopping.is_set():
            orders.append(here.order("MUG", 300))
            stopping.wait(0.2)

    shopper = threading.Thread(target=shop)
    shopper.start()
    try:
        for broker in ("kafka", "kafka-2", "kafka-3"):
            here.compose("kill", "--signal", "KILL", broker)
            before = len(orders)
            here.wait(f"ten more orders without {broker}", lambda before=before: len(orders) >= before + 10)
            some = orders[-1]
            here.wait(f"an order goes through without {broker}", lambda some=some: here.confirmed(some))
            here.up("--profile", "cluster", "up", "--wait", "--no-build")

            def in_sync():
                told = here.compose("exec", "-T", "kafka-2", "/opt/kafka/bin/kafka-topics.sh", "--bootstrap-server", "brokers:9092",
                                    "--describe", "--under-replicated-partitions", check=False)
                return not told.strip()
            here.wait(f"{broker} has caught up", in_sync, 240)
    finally:
        stopping.set()
        shopper.join()
    for order in orders:
        here.wait(f"{order} of {len(orders)}", lambda order=order: here.confirmed(order))
    print(f"{len(orders)} orders, each broker lost once: all confirmed", flush=True)
    down_and_up(here, orders, "--profile", "cluster")
    print("down and up again: all there", flush=True)


def main():
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0:
        print("there is no docker compose")
        return 77
    here = Here()
    scenario = three_brokers if sys.argv[1:] == ["cluster"] else one_broker
    check_file(here)
    here.up("build", "--quiet", "topics")
    try:
        scenario(here)
    except BaseException:
        print(here.compose("ps", "--all", check=False))
        print(here.compose("logs", "--no-color", "--tail", "30", check=False))
        raise
    finally:
        here.compose("--profile", "*", "down", "--volumes", "--timeout", "5", check=False)
    return 0


sys.exit(main())
