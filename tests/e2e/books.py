"""books: what must be true at the end, recomputed from the input, the topics and the databases, without any code of the product.

Every rule is a function of a Books that adds a sentence to `wrong` for each thing that does not hold. test_books.py shows that each
of them finds what it is there for.
"""
import collections
import contextlib
import csv
import io
import glob
import io
import json
import os
import sqlite3
import subprocess
import struct
import time

import fastavro

READ_SECONDS_MAX = 120
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NUMBERS = {name: number for number, name in enumerate((
    "OrderPlaced", "OrderConfirmed", "OrderRejected", "OrderCancelled", "StockReserved", "StockRejected", "StockReleased",
    "StockLevel", "PaymentCaptured", "PaymentFailed", "PaymentRefunded", "EmailSent", "EmailFailed"), 1)}
TOPICS = ("orders", "payments", "inventory", "emails", "stock")
TOPIC_OF = {name: topic for topic, names in {
    "orders": ("OrderPlaced", "OrderConfirmed", "OrderRejected", "OrderCancelled"),
    "inventory": ("StockReserved", "StockRejected", "StockReleased"), "stock": ("StockLevel",),
    "payments": ("PaymentCaptured", "PaymentFailed", "PaymentRefunded"), "emails": ("EmailSent", "EmailFailed"),
}.items() for name in names}
KEY_OF = {topic: "sku" if topic == "stock" else "order_id" for topic in TOPICS}
# Who reads what, and which of it has a handler: a duplicate of that is noticed, and what is wrong with it is a dead letter.
READS = {"order": ("orders", "inventory", "payments"), "inventory": ("orders", "payments"),
         "payment": ("orders", "inventory", "payments"), "email": ("orders", "payments"),
         "analytics": ("orders", "payments", "inventory", "emails")}
ORDER_EVENTS = ("OrderPlaced", "OrderConfirmed", "OrderRejected", "OrderCancelled")
HANDLES = {
    "order": (*ORDER_EVENTS, "StockReserved", "StockRejected", "StockReleased", "PaymentCaptured", "PaymentFailed", "PaymentRefunded"),
    "inventory": (*ORDER_EVENTS, "PaymentCaptured"),
    "payment": (*ORDER_EVENTS, "StockReserved", "StockReleased", "PaymentCaptured", "PaymentFailed", "PaymentRefunded"),
    "email": (*ORDER_EVENTS, "PaymentCaptured", "PaymentRefunded"),
    "analytics": (*ORDER_EVENTS, "StockReserved", "PaymentCaptured", "PaymentRefunded", "EmailSent", "EmailFailed"),
}
FINAL = ("OrderConfirmed", "OrderRejected", "OrderCancelled")


def load_schemas():
    schemas = {}
    for path in glob.glob(ROOT + "/schemas/*.avsc"):
        name = os.path.basename(path)[:-5]
        versions = len(glob.glob(f"{ROOT}/schemas/history/{name}.*.avsc")) + 1
        with open(path) as file:
            schemas[NUMBERS[name] * 100 + versions] = (name, fastavro.parse_schema(json.load(file)))
    return schemas


SCHEMAS = load_schemas()
IDS = {name: (number, schema) for number, (name, schema) in SCHEMAS.items()}

Record = collections.namedtuple("Record", "topic partition offset key value headers timestamp", defaults=(0,))  # in ms
Event = collections.namedtuple("Event", "topic partition offset key type id data headers")


def encode(name, data):
    number, schema = IDS[name]
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, data)
    return b"\0" + struct.pack(">i", number) + out.getvalue()


def decode(value):
    """(type, data); (None, None) for what is no event."""
    if not value or len(value) < 5 or value[0] != 0 or struct.unpack(">i", value[1:5])[0] not in SCHEMAS:
        return None, None
    name, schema = SCHEMAS[struct.unpack(">i", value[1:5])[0]]
    return name, fastavro.schemaless_reader(io.BytesIO(value[5:]), schema)


def read_records(bootstrap, topics):
    """Every record there is now, by an independent client, in the order of each partition."""
    from confluent_kafka import Consumer, TopicPartition
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "books", "enable.auto.commit": False,
                         "auto.offset.reset": "earliest", "check.crcs": True, "log_level": 2})
    ends, records = {}, []
    try:
        known = consumer.list_topics(timeout=30).topics
        for topic in topics:
            for partition in known[topic].partitions:
                _, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
                if high > 0:
                    ends[(topic, partition)] = high
        consumer.assign([TopicPartition(topic, partition, 0) for topic, partition in ends])
        until = time.monotonic() + READ_SECONDS_MAX
        while ends:
            # It waits for all of the 1,000 or for its time-out.
            messages = consumer.consume(1000, timeout=0.5)
            assert messages or time.monotonic() < until, f"cannot read {sorted(ends)}"
            for message in messages:
                assert not message.error(), message.error()
                place = (message.topic(), message.partition())
                records.append(Record(*place, message.offset(), message.key(), message.value(), message.headers() or [],
                                      message.timestamp()[1]))
                if message.offset() + 1 >= ends.get(place, 0):
                    ends.pop(place, None)
    finally:
        consumer.close()
    return records


def read_topics(bootstrap, topics, junk=()):
    """The events among them; `junk` holds the places (topic, partition, offset) of what a test put there as garbage."""
    events = []
    for record in read_records(bootstrap, topics):
        if record[:3] in junk:
            continue
        try:
            name, data = decode(record.value)
        except Exception as error:  # noqa: BLE001  (whatever fastavro makes of bytes)
            raise AssertionError(f"{record.topic}[{record.partition}]@{record.offset} cannot be read: {error}") from error
        headers = dict(record.headers)
        events.append(Event(*record[:3], (record.key or b"").decode("latin-1"), name, headers.get("ce_id", b"").decode(),
                            data, headers))
    return events


def origin(dead):
    """Where a dead letter says that it first was: (topic, partition, offset)."""
    headers = dict(dead.headers)
    return (headers["__dlq.errors.topic"].decode(), int(headers["__dlq.errors.partition"]), int(headers["__dlq.errors.offset"]))


def distinct(events):
    """The first of each event id: what is relayed again after a crash counts once."""
    seen, first = set(), []
    for event in events:
        if event.id not in seen:
            seen.add(event.id)
            first.append(event)
    return first


def rows_of_postgres(url, sql):
    """By PostgreSQL's own client. What looks like a number is one."""
    told = subprocess.run(["psql", "--no-psqlrc", "--quiet", "--tuples-only", "--csv", url, "--command", sql], check=True, timeout=120,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout
    return [tuple(int(each) if each.lstrip("-").isdigit() else each for each in row) for row in csv.reader(io.StringIO(told))]


class Books:
    def __init__(self, placed, stock, events, charges, refunds, mails, databases, figures, dead=()):
        self.placed = placed        # order_id -> data, of every order that was handed in and acknowledged
        self.stock = stock          # sku -> units at the beginning
        self.events = events        # all of the topics
        self.once = distinct(events)
        self.charges, self.refunds, self.mails = charges, refunds, mails
        self.databases = databases  # service -> path, or URL
        self.figures = figures
        self.dead = dead            # records on dead letter topics that are no test's junk
        self.wrong = []
        self.by_order = collections.defaultdict(list)
        for event in self.once:
            self.by_order[event.key].append(event)
        self.final = {}
        for event in self.once:
            if event.topic == "orders" and event.type in FINAL:
                self.final.setdefault(event.key, event)

    def need(self, truth, sentence):
        if not truth and len(self.wrong) < 200:
            self.wrong.append(sentence)

    def rows(self, service, sql):
        if self.databases[service].startswith("postgresql:"):
            return rows_of_postgres(self.databases[service], sql)
        with contextlib.closing(sqlite3.connect(f"file:{self.databases[service]}?mode=ro", uri=True)) as database:
            return database.execute(sql).fetchall()

    def types(self, order, *names):
        return [event for event in self.by_order[order] if event.type in names]

    # ---- the rules

    def every_order_is_placed_and_decided_once(self):
        placed = {event.key for event in self.once if event.type == "OrderPlaced"}
        for order in self.placed:
            self.need(order in placed, f"order {order} was acknowledged and is not in the log")
            self.need(order in self.final, f"order {order} has no end")
        for order in placed:
            self.need(order in self.placed, f"order {order} is in the log and was never handed in")
            own = self.types(order, *FINAL)
            self.need(len(own) <= 1, f"order {order} has {len(own)} decisions: {[e.type for e in own]}")

    def placed_comes_before_the_decision_on_the_topic(self):
        seen = set()
        for event in self.events:
            if event.topic != "orders":
                continue
            if event.type == "OrderPlaced":
                seen.add(event.key)
            self.need(event.key in seen, f"{event.type} of {event.key} stands before its OrderPlaced")

    def an_order_is_reserved_once_or_rejected(self):
        for order in self.placed:
            answers = self.types(order, "StockReserved", "StockRejected")
            self.need(len(answers) == 1, f"order {order} has {len(answers)} answers of the stock")

    def money_is_taken_once_for_what_is_confirmed_and_only_for_that(self):
        taken = collections.Counter(order for order, _, _, _, captured in self.charges if captured)
        asked = collections.Counter(order for order, *_ in self.charges)
        back = {payment for payment, _, _ in self.refunds}
        payment_of = {order: (payment, amount, currency) for order, payment, amount, currency, captured in self.charges if captured}
        for order, count in asked.items():
            self.need(count == 1, f"order {order} was charged {count} times")
        for order, data in self.placed.items():
            final = self.final.get(order)
            captured = self.types(order, "PaymentCaptured")
            self.need(len(captured) == taken[order], f"order {order}: {len(captured)} PaymentCaptured, {taken[order]} charges")
            if final and final.type == "OrderConfirmed":
                self.need(taken[order] == 1, f"order {order} is confirmed and nothing was taken")
                if order in payment_of:
                    payment, amount, currency = payment_of[order]
                    self.need((amount, currency) == (data["total_minor"], data["currency"]), f"order {order}: {amount} {currency} taken")
                    self.need(payment not in back, f"order {order} is confirmed and its money went back")
                    self.need(final.data["payment_id"] == payment, f"order {order} is confirmed with another payment")
            elif taken[order]:
                self.need(payment_of[order][0] in back, f"order {order} is not confirmed and its money was kept")

    def stock_is_conserved(self):
        sold = collections.Counter()
        for order, final in self.final.items():
            if final.type == "OrderConfirmed" and order in self.placed:
                for item in self.placed[order]["items"]:
                    sold[item["sku"]] += item["quantity"]
        for sku, available, reserved in self.rows("inventory", "SELECT sku, available, reserved FROM stock"):
            if sku not in self.stock:
                continue
            self.need(available >= 0 and reserved >= 0, f"{sku}: {available} available, {reserved} reserved")
            self.need(reserved == 0, f"{sku}: {reserved} still reserved though every order has its end")
            self.need(self.stock[sku] == available + reserved + sold[sku],
                      f"{sku}: {self.stock[sku]} at the beginning, {available} available + {reserved} reserved + {sold[sku]} sold")

    def rejected_orders_say_why(self):
        for order, final in self.final.items():
            if final.type != "OrderRejected":
                continue
            short, failed = self.types(order, "StockRejected"), self.types(order, "PaymentFailed")
            gone = self.types(order, "StockReleased")
            self.need(short or failed or gone, f"order {order} was rejected without a cause: {final.data['reason']}")

    def every_mail_was_sent_and_none_that_was_not_due(self):
        due = collections.Counter()
        for order, data in self.placed.items():
            due[(data["email"], order, "order_received")] += 1
            final = self.final.get(order)
            if final:
                template = {"OrderConfirmed": "order_confirmed", "OrderRejected": "order_rejected", "OrderCancelled": "order_cancelled"}
                due[(data["email"], order, template[final.type])] += 1
            if self.types(order, "PaymentCaptured"):
                due[(data["email"], order, "payment_receipt")] += 1
            if self.types(order, "PaymentRefunded"):
                due[(data["email"], order, "payment_refund")] += 1
        sent = {(event.key, event.data["template"]): event.data["message_id"] for event in self.once if event.type == "EmailSent"}
        got = collections.defaultdict(set)
        for address, message_id, _ in self.mails:
            got[message_id].add(address)
        for address, order, template in due:
            message_id = sent.get((order, template))
            self.need(message_id, f"order {order}: {template} was not said to be sent")
            if message_id:
                self.need(got.get(message_id) == {address}, f"order {order}: {template} went to {got.get(message_id)}")
        self.need(len(sent) == len(due), f"{len(sent)} mails said to be sent, {len(due)} due")
        self.need(len(got) == len(due), f"{len(got)} different mails delivered, {len(due)} due")

    def figures_are_those_of_the_topics(self):
        orders = {"placed": len(self.placed), "confirmed": 0, "rejected": 0, "cancelled": 0}
        for order, final in self.final.items():
            orders[{"OrderConfirmed": "confirmed", "OrderRejected": "rejected", "OrderCancelled": "cancelled"}[final.type]] += 1
        captured, refunded = collections.Counter(), collections.Counter()
        for event in self.once:
            if event.type == "PaymentCaptured":
                captured[event.data["currency"]] += event.data["amount_minor"]
            if event.type == "PaymentRefunded":
                refunded[event.data["currency"]] += event.data["amount_minor"]
        revenue = {row["currency"]: (row["captured_minor"], row["refunded_minor"]) for row in self.figures["revenue"]}
        expected = {currency: (captured[currency], refunded[currency]) for currency in captured}
        self.need(self.figures["orders"] == orders, f"figures {self.figures['orders']}, topics {orders}")
        self.need(revenue == expected, f"revenue {revenue}, topics {expected}")
        sent = len([event for event in self.once if event.type == "EmailSent"])
        self.need(self.figures["emails"]["sent"] == sent, f"{self.figures['emails']['sent']} mails in the figures, {sent} in the topics")
        customers = len({data["customer_id"] for data in self.placed.values()})
        self.need(self.figures["customers"] == customers, f"{self.figures['customers']} customers in the figures, {customers} in the input")

    def keys_and_headers_are_whole(self):
        for event in self.events:
            self.need(event.type, f"{event.topic}[{event.partition}]@{event.offset} is no event")
            if event.type is None:
                continue
            key = event.data[KEY_OF[event.topic]]
            self.need(event.key == key, f"{event.topic}[{event.partition}]@{event.offset}: key {event.key}, data {key}")
            self.need(event.headers.get("ce_type") == b"weir." + event.type.encode(), f"{event.topic}@{event.offset}: ce_type")
            self.need(event.id, f"{event.topic}[{event.partition}]@{event.offset} has no id")

    def databases_say_what_the_log_says(self):
        statuses = {"OrderConfirmed": 3, "OrderRejected": 4, "OrderCancelled": 5}
        said = dict(self.rows("order", "SELECT order_id, status FROM orders"))
        for order, final in self.final.items():
            self.need(said.get(order) == statuses[final.type], f"order {order}: {final.type} in the log, status {said.get(order)} kept")
        captured = {order for order, in self.rows("payment", "SELECT order_id FROM payments WHERE state = 2")}
        confirmed = {order for order, final in self.final.items() if final.type == "OrderConfirmed"}
        for order in captured ^ confirmed:
            self.need(False, f"order {order}: payment {'captured' if order in captured else 'not captured'}, "
                             f"order {'confirmed' if order in confirmed else 'not confirmed'}")

    def last_stock_levels_are_those_of_the_database(self):
        level = {event.key: (event.data["available"], event.data["reserved"]) for event in self.events if event.type == "StockLevel"}
        for sku, available, reserved in self.rows("inventory", "SELECT sku, available, reserved FROM stock"):
            self.need(level.get(sku) == (available, reserved), f"{sku}: {level.get(sku)} on the topic, {(available, reserved)} kept")

    def no_event_became_a_dead_letter(self):
        for record in self.dead:
            self.need(False, f"{record.topic}[{record.partition}]@{record.offset}: key {record.key}, "
                             f"{dict(record.headers).get('__dlq.errors.message')}")

    RULES = (
        every_order_is_placed_and_decided_once, placed_comes_before_the_decision_on_the_topic,
        an_order_is_reserved_once_or_rejected, money_is_taken_once_for_what_is_confirmed_and_only_for_that, stock_is_conserved,
        rejected_orders_say_why, every_mail_was_sent_and_none_that_was_not_due, figures_are_those_of_the_topics,
        keys_and_headers_are_whole, databases_say_what_the_log_says, last_stock_levels_are_those_of_the_database,
        no_event_became_a_dead_letter,
    )

    def check(self):
        for rule in self.RULES:
            before = len(self.wrong)
            rule(self)
            state = "holds" if len(self.wrong) == before else f"BROKEN ({len(self.wrong) - before})"
            print(f"  {rule.__name__.replace('_', ' ')}: {state}", flush=True)
        return self.wrong
