"""What every service owes, asked of all five at once: duplicates without effect, dead letters, crashes at every fault point, drains.

    test_conformance.py [PART…]      parts: duplicates dead_letters fault_points drain outage database; all by default

The parts follow each other in one World, and the books (books.py) of all of them together must balance at the end.
"""
import collections
import os
import random
import re
import signal
import struct
import sys
import threading
import time
import uuid

import books
import shop
import world

ORDERS = 150
DRAIN_SECONDS = 5
DRAIN_MARGIN = 10  # for a sanitizer's own work at exit, on a busy machine
CRASHED = 99
# Which services pass a fault point, where it is not all of them. And the pass at which they die: not always the first.
PASSED_BY = {"lane_before_call": ("payment", "email"), "lane_after_call": ("payment", "email"),
             "redrive_after_ack": ()}  # test_dlq.py
PASS = collections.defaultdict(lambda: 1, dispatch_before_handle=4, dispatch_before_commit=3, dispatch_after_commit=4,
                               relay_before_send=3, relay_after_ack=3, consumer_before_commit=2, lane_after_call=3)
# Nothing fails by itself: every record does, once, and goes by a retry topic.
WITH = {"retry_after_commit": {"CHAOS": "keys=100%:1"}}


class Conformance:
    def __init__(self, here):
        self.here = here
        self.shop = shop.Shop(here)
        self.shop.posts_max = 100  # those that wait while order is dead must not stop the rest
        self.chance = random.Random(5)
        self.wrong = []
        self.seed = 0
        self.stock = shop.make_stock(ORDERS * 20)
        self.spoiled = {}  # (topic, partition, offset) of a bad record -> what it was

    def need(self, truth, sentence):
        if not truth:
            self.wrong.append(sentence)

    def orders(self, count):
        self.seed += 1
        return list(shop.make_orders(count, self.seed).values())

    def feed(self, count, http=0.2, per_second=None):
        begun = time.monotonic()
        for number, data in enumerate(self.orders(count)):
            if self.chance.random() < http:
                self.shop.post_aside(data)
            else:
                self.shop.place(data)
            if per_second:
                time.sleep(max(0, begun + number / per_second - time.monotonic()))

    def settle(self):
        self.shop.wait_posts()
        self.shop.flush()
        shop.wait_until_settled(self.here, len(self.shop.placed))

    # ---- duplicates

    def effects(self):
        """All that has an effect, as it stands: databases' tables, money, mails, figures, ids on the topics."""
        here = self.here
        figures = here.ask("analytics", "/v1/figures")[1]
        figures.pop("as_of")
        events = books.read_topics(here.kafka, books.TOPICS, self.shop.junk)
        stock, after = [], ""
        while after is not None:
            page = here.ask("inventory", f"/v1/stock?limit=100&after={after}")[1]
            stock += page["items"]
            after = page["next"]
        orders = {order: here.ask("order", f"/v1/orders/{order}")[1] for order in list(self.shop.placed)[:50]}
        return {"figures": figures, "ids": {event.id for event in events}, "stock": stock, "orders": orders,
                "charges": list(here.gateway.charges), "refunds": list(here.gateway.refunds), "mails": sorted(here.mailbox.mails)}

    def duplicates(self):
        """The whole history once more, byte for byte: each service notices each that it handles, and nothing changes."""
        here = self.here
        self.feed(ORDERS)
        self.settle()
        before = self.effects()
        noticed = {service: here.metric(service, "weir_duplicates_total") for service in world.SERVICES}
        sent = collections.Counter()
        for record in books.read_records(here.kafka, books.TOPICS[:-1]):
            self.shop.produce(record.topic, record.key, record.value, record.headers)
            for service in world.SERVICES:
                sent[service] += books.decode(record.value)[0] in books.HANDLES[service]
        self.settle()
        after = self.effects()
        for what in before:
            self.need(before[what] == after[what], f"duplicates changed {what}")
        for service in world.SERVICES:
            found = here.metric(service, "weir_duplicates_total") - noticed[service]
            self.need(found == sent[service], f"{service} noticed {found:.0f} of {sent[service]} duplicates")
        print(f"duplicates: {sum(sent.values())} noticed", flush=True)

    # ---- dead letters

    def sample(self, name):
        """Data of an event of an order that there is not."""
        order, now = str(uuid.uuid4()), int(time.time() * 1e6)
        common = {"order_id": order, "reason": "junk", "payment_id": "pay-junk", "amount_minor": 1, "currency": "EUR",
                  "provider": "junk", "sku": "sku-junk", "wanted": 1, "available": 0, "reserved": 0, "template": "order_received",
                  "message_id": "<junk@shop.example>", "customer_id": "junk", "email": "junk@shop.example", "locale": "en",
                  "total_minor": 1, "items": [{"sku": "sku-junk", "quantity": 1, "unit_price_minor": 1}]}
        fields = [field["name"] for field in books.IDS[name][1]["fields"]]
        return {field: now if field.endswith(("_at", "_until")) else common[field] for field in fields}

    def bad_records(self):
        """(what, topic, key, value, headers, services that owe a dead letter)"""
        for topic in books.TOPICS:
            readers = [service for service in world.SERVICES if topic in books.READS.get(service, ())]
            key = str(uuid.uuid4()).encode()
            headers = shop.headers_of("OrderPlaced", str(uuid.uuid4()))
            many = headers + [(f"h{number}", os.urandom(16)) for number in range(96)] + [("h0", None), ("", b""), ("h1", "ä".encode())]
            disguised = headers + [("__dlq.errors.topic", b"elsewhere"), ("__dlq.errors.offset", b"9"), ("weir_error_class", b"RETRY"),
                                   ("weir_attempt", b"7")]
            unknown = b"\0" + struct.pack(">i", 99999) + b"junk"
            yield "no framing", topic, key, b"\1junk", headers, readers
            yield "empty value", topic, key, b"", headers, readers
            yield "half a frame", topic, key, b"\0\0\0", headers, readers
            yield "unknown schema id", topic, key, unknown, headers, readers
            yield "negative schema id", topic, key, b"\0\xff\xff\xff\xffjunk", headers, readers
            yield "no headers", topic, key, unknown, [], readers
            yield "100 headers", topic, key, unknown, many, readers
            yield "headers of another dead letter", topic, key, unknown, disguised, readers
            yield "a key of bytes", topic, bytes(range(256)), unknown, headers, readers
            yield "large", topic, key, b"\2" * 300000, headers, readers
            if topic != "stock":  # compacted: the broker takes no record without a key, and null deletes
                yield "no key", topic, None, unknown, headers, readers
                yield "null", topic, key, None, headers, readers
        for name, topic in books.TOPIC_OF.items():
            handlers = [service for service in world.SERVICES if name in books.HANDLES[service]]
            data = self.sample(name)
            key, value = data[books.KEY_OF[topic]].encode(), books.encode(name, data)
            headers = shop.headers_of(name, str(uuid.uuid4()))
            other = "OrderConfirmed" if name != "OrderConfirmed" else "EmailSent"
            yield name + " truncated", topic, key, value[:-3], headers, handlers
            yield name + " with trailing bytes", topic, key, value + b"\0", headers, handlers
            yield name + " with ce_type of another", topic, key, value, shop.headers_of(other, str(uuid.uuid4())), handlers
            yield name + " under another key", topic, b"other", value, headers, handlers
            if topic != "stock":
                yield name + " without a key", topic, None, value, headers, handlers

    def send_bad(self, record):
        what, topic, key, value, headers, owed = record

        def on_place(*place):
            self.shop.junk.add(place)
            self.spoiled[place] = (what, key, value, headers, set(owed))
        self.shop.produce(topic, key, value, headers, partition=self.chance.randrange(6), on_place=on_place)

    def dead_letters(self):
        """Good ones before, between and after the bad: these are parked with their reason, those flow."""
        for number, record in enumerate(self.bad_records()):
            if number % 4 == 0:
                self.shop.place(self.orders(1)[0])
            self.send_bad(record)
        self.feed(30)
        self.settle()
        for service in world.SERVICES:
            count = self.here.metric(service, "weir_dlq_total", 'class="reject"')
            owed = sum(service in each[4] for each in self.spoiled.values())
            self.need(count == owed, f"{service} counts {count} dead letters of {owed}")
        self.check_dead_letters(exactly=True)
        print(f"dead letters: {len(self.spoiled)} bad records", flush=True)

    def check_dead_letters(self, exactly):
        """Each bad record on the topics of those that owe it, byte for byte. After crashes once or more often."""
        found = collections.Counter()
        for service in world.SERVICES:
            for record in books.read_records(self.here.kafka, [f"dlq.{service}"]):
                place = books.origin(record)
                if place not in self.spoiled:
                    self.need(False, f"{service}: a good record is a dead letter: {place} {record.headers[-10:]}")
                    continue
                what, key, value, headers, owed = self.spoiled[place]
                here = f"{service}: {place[0]}, {what}"
                found[service, place] += 1
                kept = [header for header in headers if not header[0].startswith(("__dlq.errors.", "weir_"))]
                self.need(service in owed, f"{here}: not owed")
                self.need(record.key == key, f"{here}: key {record.key}")
                self.need(record.value == value, f"{here}: value")
                self.need(record.headers[:len(kept)] == kept, f"{here}: headers {record.headers[:len(kept)]}, not {kept}")
                added = record.headers[len(kept):]
                reason = dict(added)
                self.need(len(added) == len(reason) == 10, f"{here}: added {[name for name, _ in added]}")
                self.need(reason.get("__dlq.errors.group") == b"weir-" + service.encode(), f"{here}: group")
                self.need(reason.get("weir_error_class") == b"REJECT", f"{here}: class")
                self.need(reason.get("__dlq.errors.message"), f"{here}: no message")
                self.need(reason.get("__dlq.errors.delivery.count") == reason.get("weir_attempt") == b"1", f"{here}: attempt")
                self.need(re.fullmatch(rb"[0-9a-f]{8,64}", reason.get("weir_error_fingerprint", b"")), f"{here}: fingerprint")
                self.need(re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", reason.get("weir_first_failed_at", b"")),
                          f"{here}: first failure at {reason.get('weir_first_failed_at')}")
        for place, (what, _, _, _, owed) in self.spoiled.items():
            for service in owed:
                count = found[service, place]
                self.need(count == 1 or (count > 1 and not exactly), f"{service}: {place[0]}, {what}: {count} dead letters")

    # ---- fault points

    def fault_points(self):
        """fault.def is walked: all services are armed with one point after the other and have to die there."""
        with open(world.ROOT + "/common/base/fault.def", encoding="utf-8") as file:
            points = re.findall(r"^FAULT_POINT\((\w+),", file.read(), re.M)
        assert points, "fault.def cannot be read"
        for point in points:
            if PASSED_BY.get(point, world.SERVICES):
                self.crash_at(point, PASSED_BY.get(point, world.SERVICES))
        for service in world.SERVICES:
            if self.here.running(service):
                self.here.kill(service)
        self.here.start_all()
        self.settle()
        self.check_dead_letters(exactly=False)
        print(f"fault points: {len(points)}", flush=True)

    def crash_at(self, point, services):
        here = self.here
        for service in world.SERVICES:
            if here.running(service):
                here.kill(service)
            here.start(service, WEIR_FAULT=f"{point}:{PASS[point]}", **WITH.get(point, {}))
        if point.startswith("drain"):
            for service in services:
                here.wait_ready(service)
                here.processes[service].terminate()
        elif point in ("relay_before_send", "relay_after_ack", "dlq_after_commit"):
            # Dead letters are what every service has to relay; enough of them for the n-th pass.
            for _ in range(6):
                for record in self.bad_records():
                    if record[0] == "unknown schema id":
                        self.send_bad(record)
        self.feed(12)

        def crashed():
            for service in services:
                self.request(service)
            if self.chance.random() < 0.2:
                self.feed(2)
            codes = {service: here.processes[service].poll() for service in services}
            self.shop.producer.poll(0)
            return all(code is not None for code in codes.values())
        try:
            here.wait(point, crashed, 60)
        except AssertionError:
            pass
        for service in services:
            code = here.processes[service].poll()
            self.need(code == CRASHED, f"{service} does not die at {point}, {PASS[point]}: {code}")

    def request(self, service):
        """Something that goes through the loop."""
        path = {"order": "/v1/orders/", "inventory": "/v1/stock/", "payment": "/v1/payments/", "email": "/v1/emails/",
                "analytics": "/v1/jobs/"}[service] + str(uuid.uuid4())
        return self.here.ask(service, path, timeout=2)[0]

    # ---- ends

    def drain(self):
        """SIGTERM in the middle of load: exit 0 in time, and the next start goes on."""
        feeding = threading.Thread(target=self.feed, args=(4 * ORDERS,), kwargs={"per_second": 80})
        feeding.start()
        for service in world.SERVICES:
            code = self.here.stop(service, DRAIN_SECONDS + DRAIN_MARGIN)
            self.need(code == 0, f"{service} ends with {code} under load")
            self.here.start(service)
        for service in world.SERVICES:
            self.here.wait_ready(service)
        feeding.join()
        self.settle()
        print("drained under load", flush=True)

    def twice(self):
        """A second SIGTERM while draining: at once, with 143. A held database is what the first one waits for."""
        for service in world.SERVICES:
            with self.here.locked(service):
                self.here.wait(f"{service} is in an outage", lambda s=service: self.request(s) == 503, 30)
                said = self.here.log(service).count("asked to stop")
                self.here.processes[service].terminate()
                self.here.wait(f"{service} drains", lambda s=service, n=said: self.here.log(s).count("asked to stop") > n, 30)
                status, answer = self.here.ask(service, "/readyz")
                self.need((status, (answer or {}).get("status")) == (503, "draining"),
                          f"{service} says {status} {answer} while it drains")
                self.here.processes[service].terminate()
                code = self.here.processes[service].wait(DRAIN_MARGIN)
            self.need(code == 143, f"{service} ends with {code} at a second SIGTERM")
        self.here.start_all()

    def outage(self):
        """With Kafka that hangs, and with Kafka gone: orders are taken, all drain in time, nothing is lost."""
        self.twice()
        for stop, go_on in ((lambda: self.here.kafka_signal(signal.SIGSTOP), lambda: self.here.kafka_signal(signal.SIGCONT)),
                            (self.here.kafka_kill, self.here.kafka_start)):
            self.feed(40)
            self.shop.wait_posts()
            self.shop.flush()
            stop()
            try:
                for data in self.orders(5):
                    self.shop.post(data, 30)
                undrained = self.here.stop_all(DRAIN_SECONDS + DRAIN_MARGIN)
                self.need(not undrained, f"without Kafka: {undrained}")
            finally:
                go_on()
            self.here.start_all()
        self.settle()
        print("drained without Kafka", flush=True)

    def database(self):
        """PostgreSQL loses its power under load, again and again. A service may end with 75, as its supervisor then does."""
        here = self.here
        if not here.postgres:
            return
        feeding = threading.Thread(target=self.feed, args=(4 * ORDERS,), kwargs={"per_second": 50})
        feeding.start()
        for _ in range(3):
            assert here.cluster("kill").returncode == 0
            for service in world.SERVICES:
                here.wait(f"{service} notices", lambda s=service: not here.running(s) or self.request(s) == 503, 60)
            here.postgres_start()
            for service in world.SERVICES:
                if not here.running(service):
                    code = here.stop(service)
                    self.need(code == 75, f"{service} ends with {code} without its database")
                    here.start(service)
            for service in world.SERVICES:
                here.wait(f"{service} goes on", lambda s=service: not here.running(s) or self.request(s) not in (0, 503), 60)
        feeding.join()
        for service in world.SERVICES:
            if not here.running(service):
                here.start(service)
            here.wait_ready(service)
        self.settle()
        print("the database came back", flush=True)

    def plans(self):
        """No statement of a loop reads a table from end to end, but those that count at the start. Two tables are small for ever: they
        have a row for each process and for each partition, and no other index."""
        for statement, tables in self.here.scans().items():
            large = tables - {"instance", "part"}
            counts = "SELECT count(*)" in statement or "sum(events)" in statement
            self.need(not large or counts, f"{statement} reads all of {', '.join(sorted(large))}")

    PARTS = ("duplicates", "dead_letters", "fault_points", "drain", "outage", "database")


def main():
    parts = sys.argv[1:] or Conformance.PARTS

    def test(here):
        here.start_all()
        all_of_it = Conformance(here)
        all_of_it.shop.set_stock(all_of_it.stock)
        begun = time.monotonic()
        for part in parts:
            getattr(all_of_it, part)()
            print(f"{part}: {len(all_of_it.wrong)} wrong so far, {time.monotonic() - begun:.0f} s", flush=True)
        all_of_it.wrong += shop.balance(here, all_of_it.shop, all_of_it.stock)
        if here.postgres:
            all_of_it.plans()
        for sentence in all_of_it.wrong[:40]:
            print("wrong:", sentence)
        assert not all_of_it.wrong, f"{len(all_of_it.wrong)} wrong"
    shop.run(test, settings={"DRAIN_TIMEOUT": f"{DRAIN_SECONDS}s"})


if __name__ == "__main__":
    main()
