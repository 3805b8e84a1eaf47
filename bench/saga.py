#!/usr/bin/env python3
"""The whole saga: five services on a real Kafka, SQLite, a gateway and a mail server of their own, all on the cores of this machine.

    bench/saga.py --build DIR --kafka HOST:PORT [--node DIR] [--through kafka,http] [--rates N,N…] [--seconds N] [--results FILE]

Load is open-loop: an order has a moment at which it is due, whether or not the line keeps up, and what comes late is late. A rate is
sustained where, at the end of the load, no more orders are undecided than half a second's worth; the knee is the highest such rate.
The latencies are measured at half of it. An order is confirmed when the broker has appended OrderConfirmed to its log (the topic
`orders` stamps what it appends). At the end the books of tests/e2e/books.py must balance over all orders of all steps: no figure
without that. HOST:PORT must be a Kafka of this run's own; --node is its folder, so that its CPU can be told.
"""
import argparse
import json
import os
import random
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import measure
import books
import shop
import world

SKUS = 200
STOCK = 10 ** 9
CUSTOMERS = 20000
CONNECTIONS = 64
TICK_SECONDS = 0.002
UNDECIDED_SECONDS = 0.5  # orders of so long may be on their way when the load ends
ANSWER_SECONDS_MAX = 30
SETTLE_SECONDS_MAX = 300
WARM_ORDERS = 2000  # Java compiles what it runs often only after a while
WARM_SECONDS = 10


class StandIn:
    """`weir gateway` or `weir mail`: in C, and what it did is read from its file at the end."""

    def __init__(self, build, verb, folder, log, *flags):
        self.folder = f"{folder}/{verb}"
        self.process = subprocess.Popen([f"{build}/services/weir/weir", verb, f"--{verb}-listen", "127.0.0.1:0", f"--{verb}-dir",
                                         self.folder, *flags], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            raise SystemExit(f"weir {verb} did not start")

    def entries(self, name):
        with open(f"{self.folder}/{name}") as file:
            return [json.loads(line) for line in file]

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(10)


class Gateway(StandIn):
    @property
    def charges(self):
        return [(entry["order_id"], entry["payment_id"], entry["amount_minor"], entry["currency"], entry["status"] == "captured")
                for entry in self.entries("ledger.ndjson") if entry["kind"] == "charge"]

    @property
    def refunds(self):
        return [(entry["payment_id"], entry["amount_minor"], entry["currency"])
                for entry in self.entries("ledger.ndjson") if entry["kind"] == "refund"]


class Mailbox(StandIn):
    @property
    def mails(self):
        return [(entry["to"] if isinstance(entry["to"], str) else entry["to"][0], entry["message_id"], entry["subject"])
                for entry in self.entries("index.ndjson")]


class Line(world.World):
    """The five services as world.World runs them, with a Kafka that is there and stand-ins in C."""

    def __init__(self, build, kafka, node):
        self.build = self.tools = build
        self.kafka, self.node_folder = kafka, node
        self.folder = tempfile.mkdtemp(prefix="weir-bench-")
        self.settings = {"KAFKA_PROPERTIES": "session.timeout.ms=45000", "RETRY_DELAYS": "2s,4s,8s", "LOG_LEVEL": "warn"}
        self.processes, self.ports, self.clients = {}, {}, []
        self.log_file = open(self.folder + "/stand-ins.log", "ab")
        self.gateway = self.mailbox = self.postgres = None

    def prepare(self):
        self.gateway = Gateway(self.build, "gateway", self.folder, self.log_file)
        self.mailbox = Mailbox(self.build, "mail", self.folder, self.log_file, "--mail-keep-max", "0")
        self.make_topics(6)
        # The broker's clock, not a producer's: an order is confirmed when that is in the log.
        from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
        entry = ConfigEntry("message.timestamp.type", "LogAppendTime", incremental_operation=AlterConfigOpType.SET)
        admin = AdminClient({"bootstrap.servers": self.kafka})
        for change in admin.incremental_alter_configs([ConfigResource(ResourceType.TOPIC, "orders",
                                                                      incremental_configs=[entry])]).values():
            change.result(30)
        self.start_all()

    def pids(self):
        found = {service: process.pid for service, process in self.processes.items()}
        found.update(gateway=self.gateway.process.pid, mail=self.mailbox.process.pid, load=os.getpid())
        if self.node_folder:
            with open(self.node_folder + "/node.pid") as file:
                found["kafka"] = int(file.read())
        return found

    def cpu(self):
        return {name: measure.cpu_seconds(pid) for name, pid in self.pids().items()}

    def close(self, failed=False):
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        for stand_in in (self.gateway, self.mailbox):
            if stand_in:
                stand_in.close()
        self.log_file.close()
        if failed:
            for service in self.processes:
                print(f"--- {service}, the end of its log\n{self.log_end(service)}")
        shutil.rmtree(self.folder, ignore_errors=True)


# ---- orders

class Orders:
    """Orders to come, ready to be sent: nothing is computed while the clock runs."""

    def __init__(self):
        self.chance = random.Random(1)
        self.placed = {}
        self.junk = set()
        self.failed = []

    def make(self, count, seconds):
        base = int(time.time() * 1000)
        made = []
        for number in range(count):
            order = measure.uuid7(base + int(number * seconds * 1000 / max(count, 1)), self.chance)
            items = [{"sku": f"SKU-{sku:03}", "quantity": self.chance.randint(1, 3), "unit_price_minor": 100 + sku}
                     for sku in self.chance.sample(range(SKUS), self.chance.randint(1, 3))]
            customer = self.chance.randrange(CUSTOMERS)
            data = {"order_id": order, "customer_id": f"c-{customer}", "email": f"customer{customer}@shop.example",
                    "locale": self.chance.choice(("en", "de")), "currency": self.chance.choice(("EUR", "USD")), "items": items,
                    "total_minor": sum(item["quantity"] * item["unit_price_minor"] for item in items),
                    "placed_at": base * 1000}
            self.placed[order] = data
            made.append(data)
        return made


class ThroughKafka:
    """Straight to the topic, as any Kafka client of an upstream system."""

    def __init__(self, line, orders):
        from confluent_kafka import Producer
        self.orders = orders
        self.producer = Producer({"bootstrap.servers": line.kafka, "partitioner": "murmur2_random", "acks": "all",
                                  "enable.idempotence": True, "linger.ms": 1, "socket.nagle.disable": True})
        self.producer.list_topics(timeout=30)

    def ready(self, data):
        order = data["order_id"]
        return order, books.encode("OrderPlaced", data), shop.headers_of("OrderPlaced", "up-" + order, "/bench")

    def run(self, made, seconds):
        """({order: due}, {order: accepted}), in seconds of the wall clock."""
        ready = [self.ready(data) for data in made]
        due, accepted = {}, {}
        count, sent = len(ready), 0
        begun = time.time()
        while sent < count:
            until = min(count, int((time.time() - begun) * count / seconds) + 1)
            while sent < until:
                order, value, headers = ready[sent]
                due[order] = begun + sent * seconds / count

                def report(error, message, order=order):
                    if error:
                        self.orders.failed.append(str(error))
                    accepted[order] = time.time()
                self.producer.produce("orders", value, order, headers=headers, on_delivery=report)
                sent += 1
            self.producer.poll(TICK_SECONDS)
        if self.producer.flush(ANSWER_SECONDS_MAX) or self.orders.failed:
            raise AssertionError(f"the load could not be handed to Kafka: {self.orders.failed[:1]}")
        return due, accepted


class ThroughHttp:
    """POST /v1/orders over kept connections; an order that finds all of them busy waits, and its clock runs."""

    def __init__(self, line, orders):
        self.port, self.orders = line.ports["order"], orders
        self.selector = selectors.DefaultSelector()
        self.free, self.busy = [], {}

    def connect(self):
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.selector.register(connection, selectors.EVENT_READ)
        return connection

    def disconnect(self, connection):
        self.selector.unregister(connection)
        connection.close()

    def send(self, connection, order, request):
        self.busy[connection] = order, request, b""
        connection.sendall(request)

    def ready(self, data):
        body = json.dumps({key: data[key] for key in ("order_id", "customer_id", "email", "locale", "currency", "items")}).encode()
        return data["order_id"], (f"POST /v1/orders HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Type: application/json\r\n"
                                  f"Idempotency-Key: {data['order_id']}\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body

    def answers(self, seconds, accepted):
        for key, _ in self.selector.select(max(0, seconds)):
            connection = key.fileobj
            order, request, got = self.busy[connection]
            more = connection.recv(65536)
            if not more:  # the server had closed it before the request came: again, the key makes that safe
                del self.busy[connection]
                self.disconnect(connection)
                self.send(self.connect(), order, request)
                continue
            got += more
            head, end, body = got.partition(b"\r\n\r\n")
            length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if not end or not length or len(body) < int(length[0].split(b":")[1]):
                self.busy[connection] = order, request, got
                continue
            if got.split(b" ", 2)[1] != b"202":
                raise AssertionError(got.decode(errors="replace")[:400])
            accepted[order] = time.time()
            del self.busy[connection]
            self.free.append(connection)

    def run(self, made, seconds):
        ready = [self.ready(data) for data in made]
        due, accepted = {}, {}
        count, sent = len(ready), 0
        self.free = [self.connect() for _ in range(CONNECTIONS)]
        begun = time.time()
        while len(accepted) < count:
            now = time.time()
            while sent < count and self.free and begun + sent * seconds / count <= now:
                order, request = ready[sent]
                due[order] = begun + sent * seconds / count
                self.send(self.free.pop(), order, request)
                sent += 1
            left = begun + sent * seconds / count - time.time() if sent < count and self.free else TICK_SECONDS
            self.answers(left, accepted)
            if now - begun > seconds + ANSWER_SECONDS_MAX:
                raise AssertionError(f"{count - len(accepted)} orders were not accepted in time")
        for connection in self.free:
            self.disconnect(connection)
        return due, accepted


THROUGH = {"kafka": ThroughKafka, "http": ThroughHttp}


# ---- what came of them

class Confirmations:
    """Reads `orders` on from where it was left."""

    def __init__(self, kafka):
        from confluent_kafka import Consumer
        self.consumer = Consumer({"bootstrap.servers": kafka, "group.id": "bench-saga", "enable.auto.commit": False, "log_level": 2})
        self.next = {}

    def read(self):
        """{order: when the broker appended OrderConfirmed}, of what is new."""
        from confluent_kafka import TopicPartition
        found, ends = {}, {}
        for partition in self.consumer.list_topics("orders", timeout=30).topics["orders"].partitions:
            _, high = self.consumer.get_watermark_offsets(TopicPartition("orders", partition), timeout=30)
            if high > self.next.get(partition, 0):
                ends[partition] = high
        self.consumer.assign([TopicPartition("orders", partition, self.next.get(partition, 0)) for partition in ends])
        while ends:
            for message in self.consumer.consume(2000, timeout=30) or [None]:
                if message is None or message.error():
                    raise AssertionError("`orders` cannot be read")
                if dict(message.headers() or []).get("ce_type") == b"weir.OrderConfirmed":
                    found[message.key().decode()] = message.timestamp()[1] / 1000
                self.next[message.partition()] = message.offset() + 1
                if message.offset() + 1 >= ends.get(message.partition(), 1 << 62):
                    del ends[message.partition()]
        self.consumer.unassign()
        return found

    def close(self):
        self.consumer.close()


def wait_settled(line, orders):
    shop.wait_until_settled(line, len(orders.placed), SETTLE_SECONDS_MAX)


def step(line, through, orders, confirmations, rate, seconds):
    made = orders.make(int(rate * seconds), seconds)
    load, cpu, begun = measure.load_average(), line.cpu(), time.time()
    due, accepted = through.run(made, seconds)
    ended = time.time()
    used = {name: cpu_now - cpu[name] for name, cpu_now in line.cpu().items()}
    memory = {name: measure.memory_mib(pid) for name, pid in line.pids().items() if name in world.SERVICES}
    mails = line.metric("email", "weir_emails_total", 'result="ok"') or 0
    wait_settled(line, orders)
    confirmed = confirmations.read()
    missing = [order for order in due if order not in confirmed]
    if missing:
        raise AssertionError(f"{len(missing)} orders of {len(due)} were not confirmed, such as {missing[0]}")
    first = min(due.values())
    undecided = sum(1 for order in due if confirmed[order] > ended)
    last = max(confirmed.values())
    late = sorted(confirmed[order] - due[order] for order in due)
    after = sorted(confirmed[order] - accepted[order] for order in due)
    return {
        "rate": rate, "seconds": seconds, "orders": len(due), "load_before": round(load, 2), "sent_in": ended - begun,
        "accepted_per_second": len(due) / (max(accepted.values()) - first), "confirmed_per_second": len(due) / (last - first),
        "undecided": undecided, "sustained": undecided <= rate * UNDECIDED_SECONDS and ended - begun < seconds * 1.05 + 0.2,
        "due_ms": [1000 * measure.percentile(late, share) for share in (0.5, 0.99, 1)],
        "accepted_ms": [1000 * measure.percentile(after, share) for share in (0.5, 0.99, 1)],
        "cpu_share": {name: value / (ended - begun) for name, value in used.items()},
        "cpu_us_an_order": {name: value * 1e6 / len(due) for name, value in used.items()},
        "rss_mib": memory, "mails_sent_total": mails, "mails_due_total": 3 * len(orders.placed),
    }


def say(through, got):
    print(f"| {through} | {got['rate']} | {got['confirmed_per_second']:,.0f} | {'yes' if got['sustained'] else 'no'} | "
          f"{got['due_ms'][0]:,.0f} / {got['due_ms'][1]:,.0f} | {got['accepted_ms'][0]:,.0f} / {got['accepted_ms'][1]:,.0f} | "
          f"{got['mails_due_total'] - got['mails_sent_total']:,.0f} | {sum(got['cpu_share'].values()):.2f} | {got['load_before']} |",
          flush=True)


def run(options, results):
    line = Line(options.build, options.kafka, options.node)
    orders, failed, halves = Orders(), True, {}
    try:
        line.prepare()
        idle = {service: measure.memory_mib(line.processes[service].pid) for service in world.SERVICES}
        for number in range(SKUS):
            status, answer = line.ask("inventory", f"/v1/stock/SKU-{number:03}", "PUT", {"available": STOCK})
            if status != 200:
                raise AssertionError(f"PUT /v1/stock: {status} {answer}")
        confirmations = Confirmations(options.kafka)
        print("| through | rate | confirmed/s | sustained | due → confirmed ms p50 / p99 | accepted → confirmed ms p50 / p99 | "
              "mails behind at the end | cores in use | load before |\n|---|---|---|---|---|---|---|---|---|", flush=True)
        for name in options.through:
            through = THROUGH[name](line, orders)
            through.run(orders.make(WARM_ORDERS, WARM_SECONDS), WARM_SECONDS)
            wait_settled(line, orders)
            confirmations.read()
            knee = 0
            for rate in options.rates:
                got = step(line, through, orders, confirmations, rate, options.seconds)
                say(name, results.add(part="saga", through=name, step="ramp", **got))
                if not got["sustained"]:
                    break
                knee = rate
            if knee:
                got = step(line, through, orders, confirmations, knee // 2, options.seconds * 2)
                say(name + ", half", results.add(part="saga", through=name, step="half", knee=knee, **got))
                halves[name] = knee, got
        confirmations.close()
        line.figures = line.ask("analytics", "/v1/figures")[1]
        full = {service: measure.memory_mib(line.processes[service].pid) for service in world.SERVICES}
        peak = {service: measure.memory_mib(line.processes[service].pid, "VmHWM") for service in world.SERVICES}
        undrained = line.stop_all(60)
        wrong = [f"{service} did not drain: {code}" for service, code in undrained.items()]
        print("\nthe books:", flush=True)
        stock = {f"SKU-{number:03}": STOCK for number in range(SKUS)}
        wrong += shop.account(line, orders, stock).check()
        failed = bool(wrong)
        results.add(part="saga", step="books", orders=len(orders.placed), balanced=not wrong, idle_mib=idle, end_mib=full, peak_mib=peak)
    finally:
        line.close(failed)
    if wrong:
        for sentence in wrong[:20]:
            print("wrong:", sentence)
        raise SystemExit("the books do not balance: none of these figures counts")
    print(f"\n{len(orders.placed):,} orders, {3 * len(orders.placed):,} mails: the books balance\n")
    for name, (knee, got) in halves.items():
        print(f"through {name}: {knee:,} orders/s sustained; at {knee // 2:,}: p50 {got['accepted_ms'][0]:.0f} ms, "
              f"p99 {got['accepted_ms'][1]:.0f} ms from accepted to confirmed")
    measured = [got for _, got in halves.values()]
    print("\n| service | CPU µs an order, at half of the knee | resident MiB: ready | at half of the knee | at the end | at most |\n"
          "|---|---|---|---|---|---|")
    for service in world.SERVICES:
        each = [f"{got['cpu_us_an_order'][service]:,.0f}" for got in measured]
        resident = [f"{got['rss_mib'][service]:.1f}" for got in measured]
        print(f"| {service} | {' / '.join(each)} | {idle[service]:.1f} | {' / '.join(resident)} | {full[service]:.1f} | {peak[service]:.1f} |")
    for other in ("kafka", "gateway", "mail", "load"):
        each = [f"{got['cpu_us_an_order'][other]:,.0f}" for got in measured if other in got["cpu_us_an_order"]]
        if each:
            print(f"| ({other}) | {' / '.join(each)} | | | | |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True, type=os.path.abspath)
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--node")
    parser.add_argument("--through", default="kafka,http", type=lambda text: text.split(","))
    parser.add_argument("--rates", default="250,500,1000,1500,2000,3000,4000", type=lambda text: [int(rate) for rate in text.split(",")])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--results")
    options = parser.parse_args()
    try:
        run(options, measure.Results(options.results))
    except AssertionError as error:
        sys.exit(f"saga: {error}")


if __name__ == "__main__":
    main()
