"""runner: the rounds of bench/peers/run. Everything about one peer is in PEERS; what is measured, in Sampler and timing()."""
import array
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

import measure
import books
import world
import build
import tasks

ROOT = measure.ROOT
HERE = ROOT + "/bench/peers"
SKUS = 200
STOCK = 10 ** 9
SCARCE, SCARCE_SHARE = "SKU-000", 0.5  # of what is wanted of it: the others are answered by StockRejected
DUPLICATES = 0.02
DUPLICATE_WITHIN = 5000  # records after the first
WARM_BURST = 20000
SAMPLE_SECONDS = 0.05
START_SECONDS_MAX = 60
RUN_SECONDS_MAX = 300
STALL_SECONDS_MAX = 60
STOP_SECONDS_MAX = 30
SETTLE_SECONDS_MAX = 20
TTL_RESERVED, REJECTED = 501, 601  # schema ids of the answers

BATCHED = ("weir", "floor", "franz-go", "spring", "python", "rust", "node")
RECORDS = ("franz-go/record", "spring/record", "python/record", "rust/record", "node/record")
NAMES = BATCHED + RECORDS + tasks.NAMES


STATEMENTS = """SELECT round(total_exec_time::numeric, 1) AS ms, calls, rows, wal_records, wal_bytes, shared_blks_hit, query
FROM pg_stat_statements ORDER BY total_exec_time DESC LIMIT 20"""


class Wrong(Exception):
    """A run that gives no figure, and why."""


class Slow(Wrong):
    """It did not keep up."""


def say(text):
    print(f"peers: {text}", file=sys.stderr, flush=True)


class Results:
    """Raw results: a JSON line each, with time and load, so that a figure can be traced to what it was made of."""

    def __init__(self, path):
        self.path = path

    def add(self, **fields):
        fields = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "load": round(measure.load_average(), 2), **fields}
        with open(self.path, "a") as file:
            file.write(json.dumps(fields) + "\n")
        return fields


# ---- the machine's processes


def tree(pid):
    """The process and all below it."""
    found, left = [], [pid]
    while left:
        each = left.pop()
        found.append(each)
        try:
            for task in os.listdir(f"/proc/{each}/task"):
                with open(f"/proc/{each}/task/{task}/children") as file:
                    left.extend(int(child) for child in file.read().split())
        except OSError:
            pass
    return found


def cpu_of_tree(pid):
    """Seconds of the whole tree; those of children that ended are in their parent's cutime."""
    total = 0.0
    for each in tree(pid):
        try:
            with open(f"/proc/{each}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            total += sum(int(field) for field in fields[11:15]) / measure.TICKS
        except OSError:
            pass
    return total


def memory_of_tree(pid, field="VmHWM"):
    total = 0.0
    for each in tree(pid):
        try:
            total += measure.memory_mib(each, field)
        except (OSError, ValueError):
            pass
    return total


class Sampler(threading.Thread):
    """CPU seconds by time of day, so that what was used between two moments can be told afterwards."""

    def __init__(self, pids):
        super().__init__(daemon=True)
        self.pids, self.rows, self.over = pids, [], threading.Event()
        self.start()

    def run(self):
        while True:
            self.rows.append((time.time(), {name: cpu_of_tree(pid) for name, pid in self.pids.items() if pid}))
            if self.over.wait(SAMPLE_SECONDS):
                return

    def stop(self):
        self.over.set()
        self.join()

    def at(self, name, when):
        before = self.rows[0]
        for row in self.rows:
            if row[0] >= when:
                if row is before or name not in before[1]:
                    return row[1][name]
                share = (when - before[0]) / (row[0] - before[0])
                return before[1][name] + share * (row[1][name] - before[1][name])
            before = row
        return before[1][name]

    def used(self, begin, end):
        return {name: self.at(name, end) - self.at(name, begin) for name, pid in self.pids.items() if pid}


# ---- Kafka and PostgreSQL


class Parts:
    """The Kafka and the PostgreSQL of this run."""

    def __init__(self, options, stack, folder):
        self.folder, self.broker_pid, self.postgres_pid = folder, None, None
        if options.bootstrap:
            self.kafka = options.bootstrap
        else:
            say("Kafka starts")
            jars = subprocess.run([ROOT + "/compose/kafka/fetch"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
            node = folder + "/kafka"
            stack.callback(subprocess.run, [ROOT + "/compose/kafka/node", "stop", node], stdout=subprocess.DEVNULL)
            subprocess.run([ROOT + "/compose/kafka/node", "start", node, "0", "--kafka", jars], check=True, stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, env={**os.environ, "KAFKA_HEAP_OPTS": "-Xms512m -Xmx1g"})
            self.kafka = read(node + "/bootstrap")
            self.broker_pid = int(read(node + "/node.pid"))
        if options.postgres:
            self.url = options.postgres.rsplit("/", 1)[0]
        else:
            say("PostgreSQL starts")
            data, port = folder + "/postgres", world.free_port()
            support = ROOT + "/tests/support/postgres"
            stack.callback(subprocess.run, [support, "remove", data], stdout=subprocess.DEVNULL)
            subprocess.run([support, "start", data, "listen_addresses=127.0.0.1", f"port={port}", "shared_buffers=512MB",
                            "max_wal_size=4GB", "checkpoint_timeout=30min", *options.postgres_set], check=True,
                           stdout=subprocess.DEVNULL)
            self.url = f"postgresql://postgres@127.0.0.1:{port}"
            self.postgres_pid = int(read(data + "/data/postmaster.pid").split()[0])
        self.admin = AdminClient({"bootstrap.servers": self.kafka})

    def sql(self, statement, database="postgres", file=None):
        command = ["psql", "-XqtA", "-v", "ON_ERROR_STOP=1", "-d", f"{self.url}/{database}"]
        done = subprocess.run(command + (["-f", file] if file else ["-c", statement]), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=120)
        if done.returncode:
            raise Wrong(f"psql: {done.stderr.strip()[-300:]}")
        return done.stdout.strip()

    def database(self, name, template):
        """A fresh copy, and nothing left to be written of what was before."""
        self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        self.sql("CHECKPOINT")
        return f"{self.url}/{name}"

    def ends(self, consumer, topic):
        partitions = consumer.list_topics(topic, timeout=20).topics[topic].partitions
        return {number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=20, cached=False)[1]
                for number in sorted(partitions)}


def read(path):
    with open(path) as file:
        return file.read().strip()


# ---- the topic


class Topic:
    """`orders` as it was filled: which order lies where."""

    def __init__(self, parts):
        self.parts, self.chance, self.number = parts, random.Random(6), 0
        self.at = {}  # partition: number of the order by offset, from 0
        self.ids, self.scarce = [], set()
        self.failed = []
        self.producer = Producer({"bootstrap.servers": parts.kafka, "partitioner": "murmur2_random", "acks": "all",
                                  "enable.idempotence": True, "linger.ms": 5, "queue.buffering.max.messages": 1000000})

    def _report(self, number):
        def report(error, message):
            if error:
                self.failed.append(error)
                return
            places = self.at.setdefault(message.partition(), array.array("i"))
            while len(places) <= message.offset():
                places.append(-1)
            places[message.offset()] = number
        return report

    def order(self):
        """A fresh one: (number, key, value, headers)."""
        chance, now_ms, price = self.chance, int(time.time() * 1000), self.chance.randrange(100, 5000)
        number, order, sku = len(self.ids), measure.uuid7(int(time.time() * 1000), chance), f"SKU-{chance.randrange(SKUS):03}"
        self.ids.append(order)
        if sku == SCARCE:
            self.scarce.add(number)
        value = books.encode("OrderPlaced", {
            "order_id": order, "customer_id": f"c-{chance.randrange(20000)}", "email": f"customer{number}@shop.example",
            "locale": "en", "currency": "EUR", "total_minor": price, "placed_at": now_ms * 1000,
            "items": [{"sku": sku, "quantity": 1, "unit_price_minor": price}]})
        headers = [("ce_specversion", "1.0"), ("ce_id", measure.uuid7(now_ms, chance)), ("ce_source", "/bench"),
                   ("ce_type", "weir.OrderPlaced"), ("ce_time", "2026-11-21T12:00:00.000000Z"), ("ce_subject", order),
                   ("content-type", "application/avro"),
                   ("traceparent", f"00-{chance.getrandbits(128):032x}-{chance.getrandbits(64):016x}-01")]
        return number, order, value, headers

    def produce(self, order):
        number, key, value, headers = order
        self.producer.produce("orders", value, key, headers=headers, on_delivery=self._report(number))

    def flush(self):
        if self.producer.flush(120) or self.failed:
            raise SystemExit(f"the topic could not be filled: {self.failed[:1]}")

    def fill(self, records):
        duplicates, later = int(records * DUPLICATES), []
        for i in range(records - duplicates):
            order = self.order()
            self.produce(order)
            if len(later) + self.number < duplicates and self.chance.random() < DUPLICATES * 1.2:
                later.append((i + self.chance.randrange(1, DUPLICATE_WITHIN), order))
            if i % 500 == 0:
                self.producer.poll(0)
                for due in [each for each in later if each[0] <= i]:
                    later.remove(due)
                    self.produce(due[1])
                    self.number += 1
        for _, order in later:
            self.produce(order)
            self.number += 1
        while self.number < duplicates:
            self.produce(order)
            self.number += 1
        self.flush()

    def ends(self):
        return {partition: len(places) for partition, places in self.at.items()}

    def span(self, begin):
        """Records and distinct orders from these offsets on."""
        records, distinct = 0, set()
        for partition, places in self.at.items():
            part = places[begin.get(partition, 0):]
            records += len(part)
            distinct.update(part)
        distinct.discard(-1)
        return records, distinct


# ---- a run of one peer


class Peer:
    def __init__(self, parts, options, name, number, folder):
        self.parts, self.name, self.folder = parts, name, folder
        self.base, _, mode = name.partition("/")
        self.group = f"peers-{self.base}-{mode or 'batch'}-{os.getpid()}-{number}"
        self.weir = self.base == "weir"
        self.port = world.free_port() if self.weir else None
        self.database = "peers_run"
        self.log_path = f"{folder}/{self.group}.log"
        url = parts.database(self.database, "peers_weir" if self.weir else "peers_plain")
        self.environment = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": parts.kafka, "KAFKA_GROUP_ID": self.group, "DATABASE_URL": url}
        if self.weir:
            self.environment |= {"LOG_LEVEL": "warn", "HTTP_LISTEN": f"127.0.0.1:{self.port}"}
            self.environment |= dict(each.split("=", 1) for each in options.weir)
        else:
            self.environment |= {"BATCH": str(options.batch), "MODE": mode or "batch", "SCHEMAS": ROOT + "/schemas"}
        self.consumer = Consumer({"bootstrap.servers": parts.kafka, "group.id": self.group, "enable.auto.commit": False,
                                  "auto.offset.reset": "earliest"})
        self.process = self.sampler = None

    def begin_at(self, offsets):
        self.consumer.commit(offsets=[TopicPartition("orders", number, offset) for number, offset in offsets.items()],
                             asynchronous=False)

    def start(self, command):
        self.answers_from = self.parts.ends(self.consumer, "inventory")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            cwd=self.folder, start_new_session=True)
        self.sampler = Sampler({"client": self.process.pid, "postgres": self.parts.postgres_pid, "broker": self.parts.broker_pid})

    def answered(self):
        ends = self.parts.ends(self.consumer, "inventory")
        return sum(ends[number] - begin for number, begin in self.answers_from.items())

    def wait_for(self, answers, seconds):
        until, before, moved = time.monotonic() + seconds, -1, time.monotonic()
        while (have := self.answered()) < answers:
            if have != before:
                before, moved = have, time.monotonic()
            if time.monotonic() - moved > STALL_SECONDS_MAX:
                raise Wrong(f"nothing moves after {have} of {answers} answers: {self.last_words()}")
            if self.process.poll() is not None:
                raise Wrong(f"it ended with {self.process.returncode} after {have} of {answers} answers: {self.last_words()}")
            if time.monotonic() > until:
                raise Slow(f"{have} of {answers} answers in {seconds} s")
            time.sleep(0.1)

    def last_words(self):
        with open(self.log_path, errors="replace") as log:
            lines = [line.strip() for line in log.read()[-4000:].splitlines() if line.strip()]
        return " / ".join(lines[-4:])[-600:]

    def settled(self):
        """Acknowledged answers have left the outbox."""
        table = "weir_inventory.outbox_pack" if self.weir else "outbox"
        until = time.monotonic() + SETTLE_SECONDS_MAX
        while int(self.parts.sql(f"SELECT count(*) FROM {table}", self.database)):
            if time.monotonic() > until:
                raise Wrong("answers stay in the outbox")
            time.sleep(0.1)

    def finish(self):
        """Ends it as an operator would; what it leaves is then looked at."""
        self.sampler.stop()
        self.process.terminate()
        try:
            code = self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise Wrong("it does not end on SIGTERM") from None
        if code not in (0, 143, -signal.SIGTERM):
            raise Wrong(f"it ended with {code}: {self.last_words()}")

    def close(self):
        if self.sampler:
            self.sampler.stop()
        if self.process and self.process.poll() is None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()
        self.consumer.close()

    def answers(self):
        """Of this run: (key, schema id, ce_id, ms of the append)."""
        ends = self.parts.ends(self.consumer, "inventory")
        reader = Consumer({"bootstrap.servers": self.parts.kafka, "group.id": self.group + "-oracle", "enable.auto.commit": False,
                           "isolation.level": "read_committed"})
        found = []
        left = {number for number, end in ends.items() if end > self.answers_from[number]}
        reader.assign([TopicPartition("inventory", number, self.answers_from[number]) for number in left])
        until = time.monotonic() + 120
        try:
            while left and time.monotonic() < until:
                for message in reader.consume(10000, 1):
                    if message.error():
                        continue
                    value = message.value()
                    found.append((message.key().decode(), value[3] << 8 | value[4], dict(message.headers() or [])["ce_id"],
                                  message.timestamp()[1]))
                    if message.offset() + 1 >= ends[message.partition()]:
                        left.discard(message.partition())
        finally:
            reader.close()
        return found

    def check(self, topic, begin, scarce_stock, metrics):
        """The oracle. Returns the answers."""
        records, distinct = topic.span(begin)
        wanted = {topic.ids[number] for number in distinct}
        rejected = max(0, len(distinct & topic.scarce) - scarce_stock)
        held = len(wanted) - rejected
        wrong = []

        def same(what, is_, should):
            if is_ != should:
                wrong.append(f"{what}: {is_}, not {should}")
        answers = self.answers()
        same("answers", len(answers), len(wanted))
        same("orders answered", {key for key, *_ in answers} == wanted, True)
        same("event ids of answers", len({event for _, _, event, _ in answers}), len(answers))
        same("StockReserved", sum(schema == TTL_RESERVED for _, schema, *_ in answers), held)
        same("StockRejected", sum(schema == REJECTED for _, schema, *_ in answers), rejected)
        prefix = "weir_inventory." if self.weir else ""
        outbox = "weir_inventory.outbox_pack" if self.weir else "outbox"
        got = [int(each) for each in self.parts.sql(
            f"SELECT (SELECT count(*) FROM {prefix}reservations WHERE state = 1), (SELECT count(*) FROM {prefix}reservations),"
            f" sum(reserved), sum(available), min(available), (SELECT count(*) FROM {outbox}) FROM {prefix}stock",
            self.database).split("|")]
        same("reservations held", got[0], held)
        same("reservations", got[1], len(wanted))
        same("units reserved", got[2], held)
        same("units in all", got[2] + got[3], (SKUS - 1) * STOCK + scarce_stock)
        same("stock below zero", got[4] < 0, False)
        same("rows in the outbox", got[5], 0)
        if self.weir:
            same("events handled", metrics["ok"], len(wanted))
            same("duplicates seen", metrics["duplicate"], records - len(wanted))
            same("events otherwise", metrics["all"], records)
        else:
            same("rows of the inbox", int(self.parts.sql("SELECT count(*) FROM inbox", self.database)), len(wanted))
        committed = self.consumer.committed([TopicPartition("orders", number) for number in topic.at], timeout=20)
        same("offsets committed", {each.partition: max(each.offset, 0) for each in committed}, topic.ends())
        if wrong:
            raise Wrong("the books are wrong: " + "; ".join(wrong))
        return answers

    def metrics(self):
        if not self.weir:
            return None
        page = measure.Page(self.port)
        lines = page.lines()
        page.close()
        return {"all": measure.total(lines, "weir_events_total", 'topic="orders"'),
                **{outcome: measure.total(lines, "weir_events_total", f'topic="orders",outcome="{outcome}"')
                   for outcome in ("ok", "duplicate")}}


def throughput(parts, options, topic, name, number, command, folder, scarce_stock):
    peer = Peer(parts, options, name, number, folder)
    try:
        begin = {}
        if "/" in name:
            share = options.record_records // len(topic.at)
            begin = {partition: max(0, end - share) for partition, end in topic.filled.items()}
            peer.begin_at(begin)
        records, distinct = topic.span(begin)
        peer.start(command)
        profile = None
        if options.profile and "/" not in name:
            parts.sql("CREATE EXTENSION IF NOT EXISTS pg_stat_statements; SELECT pg_stat_statements_reset()")
            path = os.path.abspath(f"{options.profile}/{peer.base}-{number}.perf")
            profile = subprocess.Popen(["perf", "record", "-a", "-q", "-F", "499", "-g", "-o", path], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        log_begin = parts.sql("SELECT pg_current_wal_lsn()")
        peer.wait_for(len(distinct), RUN_SECONDS_MAX)
        if profile:
            profile.send_signal(signal.SIGINT)
            profile.wait(30)
            with open(path + ".statements", "w") as file:
                file.write(parts.sql(STATEMENTS) + "\n")
        peer.settled()
        log_bytes = int(parts.sql(f"SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '{log_begin}')"))
        metrics = peer.metrics()
        peak, own = memory_of_tree(peer.process.pid), memory_of_tree(peer.process.pid, "RssAnon")
        peer.finish()
        answers = peer.check(topic, begin, scarce_stock, metrics)
        stamps = sorted(stamp for *_, stamp in answers)
        first, middle, last = stamps[0], stamps[len(stamps) // 2], stamps[-1]
        if last <= first or last <= middle:
            raise Wrong("too few records for a figure")

        def rate(since):
            after = sum(stamp > since for stamp in stamps)
            return after / len(stamps) * records / ((last - since) / 1000)
        used = peer.sampler.used(first / 1000, last / 1000)
        share = sum(stamp > first for stamp in stamps) / len(stamps) * records
        return {"records": records, "orders": len(distinct), "rate": rate(first), "rate_warm": rate(middle),
                "seconds": (last - first) / 1000, "log_bytes": log_bytes / records, "peak_mib": peak, "anonymous_mib": own,
                **{f"{part}_us": seconds / share * 1e6 for part, seconds in used.items()}}
    finally:
        peer.close()


def latency(parts, options, topic, name, number, command, folder, scarce_stock):
    """Constant rate, open loop, after a burst that warms it: from when the order was due to when its answer was appended."""
    peer = Peer(parts, options, name, f"{number}-latency", folder)
    record = "/" in name
    rate = min(options.rate, 200) if record else options.rate
    try:
        begin = topic.ends()
        peer.begin_at(begin)
        peer.start(command)
        burst = 1000 if record else min(WARM_BURST, options.records)
        for i in range(burst):
            topic.produce(topic.order())
            if i % 500 == 0:
                topic.producer.poll(0)
        topic.flush()
        peer.wait_for(burst, RUN_SECONDS_MAX)
        time.sleep(0.5)
        due, start = {}, time.time() + 0.1
        for i in range(rate * options.seconds):
            at = start + i / rate
            order = topic.order()
            due[order[1]] = at
            while (left := at - time.time()) > 0:
                topic.latency_producer_poll(min(left, 0.01))
            topic.latency_produce(order)
        topic.latency_flush()
        end = time.time()
        peer.wait_for(burst + len(due), 60)
        peer.settled()
        metrics = peer.metrics()
        peer.finish()
        answers = peer.check(topic, begin, scarce_stock, metrics)
        # An append is told in whole milliseconds: half of one is added.
        waits = sorted(stamp + 0.5 - due[key] * 1000 for key, _, _, stamp in answers if due.get(key, 0) >= start + 1)
        used = peer.sampler.used(start, end)
        return {"rate": rate, "orders": len(waits), "p50_ms": measure.percentile(waits, 0.5), "p99_ms": measure.percentile(waits, 0.99),
                "max_ms": waits[-1], **{f"{part}_us": seconds / len(due) * 1e6 for part, seconds in used.items()}}
    finally:
        peer.close()


class PacedTopic(Topic):
    """With a second producer that sends at once, for the latency runs."""

    def __init__(self, parts):
        super().__init__(parts)
        self.paced = Producer({"bootstrap.servers": parts.kafka, "partitioner": "murmur2_random", "acks": "all",
                               "enable.idempotence": True, "linger.ms": 0})
        self.filled = {}

    def latency_produce(self, order):
        number, key, value, headers = order
        self.paced.produce("orders", value, key, headers=headers, on_delivery=self._report(number))

    def latency_producer_poll(self, seconds):
        self.paced.poll(seconds)

    def latency_flush(self):
        if self.paced.flush(60) or self.failed:
            raise SystemExit(f"orders could not be sent: {self.failed[:1]}")


# ---- beginnings


def templates(parts, options, weir, scarce_stock, folder):
    """Two databases with stock and nothing else, copied for each run."""
    for name in ("peers_plain", "peers_weir", "peers_run"):
        parts.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    parts.sql("CREATE DATABASE peers_plain")
    parts.sql("CREATE DATABASE peers_weir")
    parts.sql("", "peers_plain", HERE + "/schema.sql")
    parts.sql(f"INSERT INTO stock SELECT 'SKU-' || to_char(n, 'FM000'), CASE n WHEN 0 THEN {scarce_stock} ELSE {STOCK} END, 0"
              f" FROM generate_series(0, {SKUS - 1}) n", "peers_plain")
    port = world.free_port()
    environment = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": parts.kafka, "KAFKA_GROUP_ID": f"peers-begin-{os.getpid()}",
                   "DATABASE_URL": parts.url + "/peers_weir", "HTTP_LISTEN": f"127.0.0.1:{port}", "LOG_LEVEL": "warn"}
    with open(folder + "/begin.log", "wb") as log:
        process = subprocess.Popen([weir, "serve"], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        until = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                page = measure.Page(port)
                page.lines()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit("weir-inventory does not start: " + read(folder + "/begin.log")[-600:]) from None
                time.sleep(0.05)
        for n in range(SKUS):
            page.connection.request("PUT", f"/v1/stock/SKU-{n:03}", json.dumps({"available": STOCK if n else scarce_stock}),
                                    {"Content-Type": "application/json"})
            answer = page.connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise SystemExit(f"PUT /v1/stock: {answer.status} {text[:200]}")
        page.close()
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(STOP_SECONDS_MAX)
    if options.weir_sql:
        parts.sql(options.weir_sql, "peers_weir")


def stamp_by_broker(parts):
    """The clock of all answers is the broker's."""
    resource = ConfigResource(ResourceType.TOPIC, "inventory", incremental_configs=[
        ConfigEntry("message.timestamp.type", "LogAppendTime", incremental_operation=AlterConfigOpType.SET)])
    for future in parts.admin.incremental_alter_configs([resource]).values():
        future.result(30)


def run(options, stack):
    names = [name for name in NAMES if not options.only or name in options.only.split(",")]
    folder = tempfile.mkdtemp(prefix="weir-peers-")
    os.chmod(folder, 0o755)
    stack.callback(subprocess.run, ["rm", "-rf", folder])
    os.makedirs(ROOT + "/bench/results", exist_ok=True)
    path = options.json or f"{ROOT}/bench/results/peers-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.jsonl"
    results = Results(path)
    version = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], stdout=subprocess.PIPE, text=True).stdout.strip()
    if options.profile:
        os.makedirs(options.profile, exist_ok=True)

    commands, missing, built = {}, {}, {}
    weir = build.weir(options.build, say)
    for name in names:
        base = name.partition("/")[0]
        if base not in built:
            try:
                built[base] = [weir + "/services/weir-inventory", "serve"] if base == "weir" else build.peer(base, weir, say)
            except build.Missing as why:
                built[base] = None
                missing[base] = str(why)
        if built[base]:
            commands[name] = built[base]
    results.add(part="machine", version=version, batch=options.batch, records=options.records, postgres_set=options.postgres_set,
                weir=options.weir, weir_sql=options.weir_sql, versions=build.versions(commands), missing=missing, **measure.machine())

    failed, slow, figures, waits = {}, {}, {}, {}
    if any(name in BATCHED + RECORDS for name in commands):
        parts = Parts(options, stack, folder)
        inventory_runs(parts, options, commands, weir, results, folder, failed, slow, figures, waits)
    done = tasks.run(options, commands, folder, results, failed, say, stack)
    print_tables(options, figures, waits, done, failed, slow, missing)
    print(f"\nraw results: {os.path.relpath(path, os.getcwd())}")
    return 1 if failed else 0


def inventory_runs(parts, options, commands, weir, results, folder, failed, slow, figures, waits):
    subprocess.run([weir + "/services/weir/weir", "topics", "create"], check=True, timeout=120, stdout=subprocess.DEVNULL,
                   env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": parts.kafka})
    stamp_by_broker(parts)
    # For the short runs as well as for the long ones, some are turned away.
    scarce_stock = max(1, int(min(options.record_records, options.records) / SKUS * SCARCE_SHARE))
    templates(parts, options, weir + "/services/weir-inventory", scarce_stock, folder)  # before there is an order
    topic = PacedTopic(parts)
    say(f"filling the topic: {options.records:,} records")
    topic.fill(options.records)
    topic.filled = topic.ends()
    plan = [(kind, number, name) for kind in ("throughput", "latency") for number in range(options.rounds) for name in commands
            if name in BATCHED + RECORDS and (kind == "throughput" or options.rate)]
    begun = time.monotonic()
    for place, (kind, number, name) in enumerate(plan):
        if name in failed or name in slow:
            continue
        left = f", some {(time.monotonic() - begun) / place * (len(plan) - place) / 60:.0f} min left" if place else ""
        say(f"{kind} {number + 1}/{options.rounds} {name} (load {measure.load_average():.1f}{left})")
        try:
            if kind == "throughput":
                # Latency runs come after all of these: the topic ends where it was filled to.
                got = throughput(parts, options, topic, name, number, commands[name], folder, scarce_stock)
                figures.setdefault(name, []).append(results.add(part="peers", kind=kind, program=name, round=number, **got))
                say(f"  {got['rate']:,.0f} records/s, {got['client_us']:.1f} + {got.get('postgres_us', 0):.1f} µs, "
                    f"{got['peak_mib']:.0f} MiB")
            else:
                got = latency(parts, options, topic, name, number, commands[name], folder, scarce_stock)
                waits.setdefault(name, []).append(results.add(part="peers", kind=kind, program=name, round=number, **got))
                say(f"  p50 {got['p50_ms']:.1f} ms, p99 {got['p99_ms']:.1f} ms")
        except Slow as why:
            if kind == "throughput":
                failed[name] = str(why)
                figures.pop(name, None)
            slow[name] = str(why)
            results.add(part="peers", kind=kind, program=name, round=number, slow=str(why))
            say(f"  too slow: {why}")
        except (Wrong, KafkaException, subprocess.TimeoutExpired) as why:
            failed[name] = str(why)
            figures.pop(name, None)
            waits.pop(name, None)
            results.add(part="peers", kind=kind, program=name, round=number, failed=str(why))
            say(f"  FAILED: {why}")


def print_tables(options, figures, waits, done, failed, slow, missing):
    def cell(rows, key, form):
        return measure.spread([row[key] for row in rows], form) if rows and all(key in row for row in rows) else "–"

    for title, names in (("in batches", BATCHED), ("a record a transaction", RECORDS)):
        rows = [name for name in names if name in figures]
        if not rows:
            continue
        print(f"\nOne service on PostgreSQL, {title}; min / median / max of {options.rounds}\n")
        print("| | records/s | … second half | CPU µs a record: client | PostgreSQL | broker | PostgreSQL's log, bytes a record | peak MiB |\n|---|---|---|---|---|---|---|---|")
        for name in rows:
            got = figures[name]
            print(f"| {name} | {cell(got, 'rate', '{:,.0f}')} | {cell(got, 'rate_warm', '{:,.0f}')} | {cell(got, 'client_us', '{:.1f}')} | "
                  f"{cell(got, 'postgres_us', '{:.1f}')} | {cell(got, 'broker_us', '{:.1f}')} | "
                  f"{cell(got, 'log_bytes', '{:,.0f}')} | {cell(got, 'peak_mib', '{:.0f}')} |")
    rows = [name for name in BATCHED + RECORDS if name in waits]
    if rows:
        print("\nFrom due to answered, at a constant rate\n")
        print("| | orders/s | p50 ms | p99 ms | max ms | CPU µs an order: client | PostgreSQL | broker |\n|---|---|---|---|---|---|---|---|")
        for name in rows:
            got = waits[name]
            print(f"| {name} | {got[0]['rate']} | {cell(got, 'p50_ms', '{:.1f}')} | {cell(got, 'p99_ms', '{:.1f}')} | {cell(got, 'max_ms', '{:.1f}')} | "
                  f"{cell(got, 'client_us', '{:.0f}')} | {cell(got, 'postgres_us', '{:.0f}')} | {cell(got, 'broker_us', '{:.0f}')} |")
    if "weir" in figures and len(figures) > 1:
        print("\nWeir's median over theirs\n\n| beside | records/s | … second half | CPU, client + PostgreSQL | memory |\n|---|---|---|---|---|")

        def middle(name, *keys):
            return statistics.median(sum(row.get(key, 0) for key in keys) for row in figures[name])
        for name in figures:
            if name != "weir":
                print(f"| {name} | " + " | ".join(f"{middle('weir', *keys) / middle(name, *keys):.2f}" for keys in (
                    ("rate",), ("rate_warm",), ("client_us", "postgres_us"), ("peak_mib",))) + " |")
    tasks.print_table(done, options)
    for base, why in missing.items():
        print(f"\nNOT BUILT HERE: {base}: {why}")
    for name, why in slow.items():
        if name not in failed:
            print(f"\nNOT SUSTAINED at the constant rate: {name}: {why}")
    for name, why in failed.items():
        print(f"\nNO FIGURE: {name}: {why}")
