"""line: the five services on a Kafka that is there, with stand-ins in C for the gateway and the mail server, `weir bench` for the load,
and the books at the end."""
import contextlib
import datetime
import io
import json
import os
import shutil
import subprocess
import tempfile

import measure
import programs
import books
import shop
import world

SKUS = 200
STOCK = 10 ** 9
SETTLE_SECONDS_MAX = 300
DRAIN_SECONDS_MAX = 90
# A member that was killed is missed after six seconds, the least that a broker allows by default, instead of 45.
MEMBER_PROPERTIES = "session.timeout.ms=6000;heartbeat.interval.ms=1000"
# As in the suite tasks. With 8, the default, which is kind to a real mail server, mails fall behind past 250 orders a second.
EMAIL_CONCURRENCY = "64"


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

    def __init__(self, build, kafka, node, database=None, **settings):
        """`database`: the URL of a PostgreSQL; else SQLite."""
        self.build = self.tools = build
        self.kafka, self.node_folder = kafka, node
        self.folder = tempfile.mkdtemp(prefix="weir-bench-")
        self.settings = {"KAFKA_PROPERTIES": MEMBER_PROPERTIES, "RETRY_DELAYS": "2s,4s,8s", "LOG_LEVEL": "warn",
                         "EMAIL_CONCURRENCY": EMAIL_CONCURRENCY, **settings}
        self.processes, self.ports, self.clients = {}, {}, []
        self.log_file = open(self.folder + "/stand-ins.log", "ab")
        self.gateway = self.mailbox = None
        self.postgres = database
        self.step_count = 0

    def stand_in(self):
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

    def prepare(self):
        self.stand_in()
        self.start_all()
        self.stock()

    def prepare_more(self, instances):
        """So many processes of each service, those that run included: all on one PostgreSQL, the partitions shared."""
        more = [f"{service}@{number}" for number in range(2, instances + 1) for service in world.SERVICES]
        for instance in more:
            self.start(instance)
        for instance in more:
            self.wait_ready(instance)

    def stock(self):
        for sku in self.skus():
            status, answer = self.ask("inventory", f"/v1/stock/{sku}", "PUT", {"available": STOCK})
            if status != 200:
                raise AssertionError(f"PUT /v1/stock: {status} {answer}")

    @staticmethod
    def skus():
        return [f"BENCH-{number:05}" for number in range(1, SKUS + 1)]  # as `weir bench` orders them

    def pids(self):
        found = {instance: process.pid for instance, process in self.processes.items()}
        found.update(gateway=self.gateway.process.pid, mail=self.mailbox.process.pid)
        if self.node_folder:
            with open(self.node_folder + "/node.pid") as file:
                found["kafka"] = int(file.read())
        if self.postgres:
            with open(measure.Postgres(self.postgres).folder + "/data/postmaster.pid") as file:
                found["postgres"] = file.readline().strip() + "+"
        return found

    # ---- load

    def bench_words(self, path, through, rate, seconds, warm, more=()):
        pids = ",".join(f"{name.partition('@')[0]}={pid}" for name, pid in self.pids().items())  # of a name given twice the sum is told
        return [f"{self.tools}/services/weir/weir", "bench", "--order-url", f"http://127.0.0.1:{self.ports['order']}", "--inventory-url",
                f"http://127.0.0.1:{self.ports['inventory']}", "--kafka-bootstrap-servers", self.kafka, "--through", through, "--rate",
                str(rate), "--warmup", f"{int(warm * 1000)}ms", "--duration", f"{int(seconds * 1000)}ms", "--no-stock", "--goods",
                str(SKUS), "--settle", f"{SETTLE_SECONDS_MAX // 2}s", "--pid", pids, "--json", path, *more]

    def bench_path(self):
        self.step_count += 1
        return f"{self.folder}/bench-{self.step_count}.json"

    def bench(self, through, rate, seconds, warm, *more, limit=1200):
        """What `weir bench` measured (services/weir/bench.h)."""
        path = self.bench_path()
        done = subprocess.run(self.bench_words(path, through, rate, seconds, warm, more), stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=limit, check=False)
        return self.bench_read(path, done.returncode, done.stderr)

    def bench_read(self, path, code, said):
        try:
            with open(path) as file:
                got = json.load(file)
        except (OSError, ValueError):
            raise AssertionError(f"weir bench ended with {code}: {said[-1000:]}") from None
        if got["broken"] or code not in (0, None):
            raise measure.Wrong(f"weir bench ended with {code}, {got['broken']} accepted orders were never decided: {said[-600:]}")
        return got

    # ---- the books

    def balance(self, runs, planted=False):
        """All that `weir bench` saw accepted is on the topic, and all rules of tests/e2e/books.py hold. Ends the services.

        The number of orders; Wrong where anything is.
        """
        placed = {}
        for record in books.read_records(self.kafka, ["orders"]):
            if dict(record.headers).get("ce_type") == b"weir.OrderPlaced":
                _, data = books.decode(record.value)
                placed.setdefault(data["order_id"], data)
        shop.wait_until_settled(self, len(placed), SETTLE_SECONDS_MAX)
        self.figures = self.ask("analytics", "/v1/figures")[1]
        undrained = self.stop_all(DRAIN_SECONDS_MAX)
        wrong = [f"{service} did not drain: {code}" for service, code in undrained.items()]
        counts = [step["orders_all"] for got in runs for step in got["steps"]]
        accepted, lost = sum(each["accepted"] for each in counts), sum(each["lost"] for each in counts)
        if not accepted <= len(placed) <= accepted + lost:  # a lost one was sent and not answered: it may have come through
            wrong.append(f"{accepted} orders were accepted, {lost} not answered, {len(placed)} are on the topic")
        if planted:
            placed.popitem()

        class Input:
            junk = set()
        Input.placed = placed
        with contextlib.redirect_stdout(io.StringIO()):  # it says each rule that holds
            wrong += shop.account(self, Input, {sku: STOCK for sku in self.skus()}).check()
        if wrong:
            raise measure.Wrong(f"the books of {len(placed)} orders do not balance: {'; '.join(wrong[:10])}")
        return len(placed)

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


def latency(histogram):
    """Of a step's histogram, in ms."""
    return measure.percentiles_ms(measure.Hdr(buckets=histogram["buckets"]))


def wall(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
