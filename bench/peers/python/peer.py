"""The inventory service with confluent-kafka, psycopg 3 and fastavro: see ../README.md for what every peer has to do."""
import io
import json
import os
import signal
import uuid
from datetime import datetime, timedelta, timezone

import psycopg
from confluent_kafka import Consumer, KafkaException, Producer
from fastavro import parse_schema, schemaless_reader, schemaless_writer

ORDER_PLACED, STOCK_RESERVED, STOCK_REJECTED = 101, 501, 601
TTL = timedelta(minutes=15)
HELD, REJECTED = 1, 2


def schema(name):
    with open(f"{os.environ['SCHEMAS']}/{name}.avsc") as file:
        return parse_schema(json.load(file))


PLACED, RESERVED, SHORT = schema("OrderPlaced"), schema("StockReserved"), schema("StockRejected")


def decode(message):
    """(event id, traceparent, order)"""
    value = message.value()
    if value[:5] != b"\0" + ORDER_PLACED.to_bytes(4, "big"):
        raise ValueError("not an OrderPlaced")
    headers = dict(message.headers())
    return uuid.UUID(headers["ce_id"].decode()), headers["traceparent"].decode(), schemaless_reader(io.BytesIO(value[5:]), PLACED)


def encode(number, of, data):
    out = io.BytesIO()
    out.write(b"\0" + number.to_bytes(4, "big"))
    schemaless_writer(out, of, data)
    return out.getvalue()


def decide(arrival, levels, now):
    """All items of an order are reserved, or none: (state, key, event id, type, traceparent, value)"""
    event, trace, order = arrival
    for item in order["items"]:
        available = levels.get(item["sku"], (0, 0))[0]
        if available < item["quantity"]:
            value = encode(STOCK_REJECTED, SHORT, {"order_id": order["order_id"], "sku": item["sku"], "wanted": item["quantity"],
                                                   "available": available, "rejected_at": now})
            return REJECTED, order["order_id"], uuid.uuid5(event, "weir.StockRejected"), "weir.StockRejected", trace, value
    for item in order["items"]:
        available, reserved = levels[item["sku"]]
        levels[item["sku"]] = available - item["quantity"], reserved + item["quantity"]
    value = encode(STOCK_RESERVED, RESERVED, {"order_id": order["order_id"], "reserved_until": now + TTL, "reserved_at": now})
    return HELD, order["order_id"], uuid.uuid5(event, "weir.StockReserved"), "weir.StockReserved", trace, value


class Peer:
    def __init__(self):
        bootstrap = {"bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"]}
        self.db = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, prepare_threshold=0)
        self.producer = Producer({**bootstrap, "acks": "all", "enable.idempotence": True, "partitioner": "murmur2_random",
                                  "linger.ms": 1, "batch.size": 524288})
        self.consumer = Consumer({**bootstrap, "group.id": os.environ["KAFKA_GROUP_ID"], "auto.offset.reset": "earliest",
                                  "isolation.level": "read_committed", "enable.auto.offset.store": False,
                                  "auto.commit.interval.ms": 200, "fetch.wait.max.ms": 100})
        self.consumer.subscribe(["orders"])
        self.sent, self.in_flight, self.ended = [], 0, False

    def on_delivery(self, error, _):
        if error:
            raise KafkaException(error)
        self.in_flight -= 1

    def produce(self, key, event, kind, trace, value):
        headers = [("ce_specversion", b"1.0"), ("ce_id", str(event)), ("ce_source", b"/weir/inventory"), ("ce_type", kind),
                   ("ce_time", datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")), ("ce_subject", key),
                   ("content-type", b"application/avro"), ("traceparent", trace)]
        while True:
            try:
                self.producer.produce("inventory", value, key, headers=headers, on_delivery=self.on_delivery)
                break
            except BufferError:
                self.producer.poll(0.1)
        self.in_flight += 1

    def settle(self):
        """What is in the outbox was acknowledged."""
        while self.in_flight:
            self.producer.poll(0.1)
        sent, self.sent = self.sent, []
        return sent

    def forget(self):
        if sent := self.settle():
            self.db.execute("DELETE FROM outbox WHERE seq = ANY(%s)", [sent])

    def resume(self):
        """What a crash has left in the outbox."""
        for seq, *answer in self.db.execute("SELECT seq, key, event_id, type, traceparent, value FROM outbox ORDER BY seq"):
            self.produce(*answer)
            self.sent.append(seq)
        self.forget()

    def batch(self, messages):
        """One transaction for all, in two round trips."""
        arrivals = [decode(message) for message in messages]
        skus = {item["sku"] for _, _, order in arrivals for item in order["items"]}
        with self.db.pipeline() as pipeline, self.db.transaction():
            inbox = self.db.execute("INSERT INTO inbox (id) SELECT unnest(%s::uuid[]) ON CONFLICT DO NOTHING RETURNING id",
                                    [[event for event, _, _ in arrivals]], binary=True)
            stock = self.db.execute("SELECT sku, available, reserved FROM stock WHERE sku = ANY(%s) ORDER BY sku FOR UPDATE",
                                    [list(skus)], binary=True)
            pipeline.sync()
            fresh = {event for event, in inbox}
            levels = {sku: (available, reserved) for sku, available, reserved in stock}
            now, answers, items = datetime.now(timezone.utc), [], []
            for arrival in arrivals:
                if arrival[0] in fresh:
                    fresh.remove(arrival[0])
                    answers.append(decide(arrival, levels, now))
                    items.append(json.dumps(arrival[2]["items"]))
            self.db.execute("UPDATE stock s SET available = v.available, reserved = v.reserved FROM unnest(%s::text[], %s::bigint[],"
                            " %s::bigint[]) AS v (sku, available, reserved) WHERE s.sku = v.sku",
                            [list(levels), [each[0] for each in levels.values()], [each[1] for each in levels.values()]])
            if answers:
                states, keys, events, kinds, traces, values = map(list, zip(*answers))
                self.db.execute("INSERT INTO reservations SELECT *, %s::timestamptz FROM unnest(%s::uuid[], %s::smallint[], %s::json[])",
                                [now + TTL, keys, states, items])
            if sent := self.settle():
                self.db.execute("DELETE FROM outbox WHERE seq = ANY(%s::bigint[])", [sent])
            if answers:
                outbox = self.db.execute("INSERT INTO outbox (key, event_id, type, traceparent, value) SELECT * FROM unnest(%s::text[],"
                                         " %s::uuid[], %s::text[], %s::text[], %s::bytea[]) RETURNING seq",
                                         [keys, events, kinds, traces, values], binary=True)
        for _, *answer in answers:
            self.produce(*answer)
        if answers:
            self.sent = [seq for seq, in outbox]

    def one(self, message):
        """A record as tutorials handle it: a transaction of its own, a statement at a time, no outbox."""
        event, trace, order = arrival = decode(message)
        with self.db.transaction():
            if not self.db.execute("INSERT INTO inbox (id) VALUES (%s) ON CONFLICT DO NOTHING", [event]).rowcount:
                return
            levels = {}
            for item in order["items"]:
                row = self.db.execute("SELECT available, reserved FROM stock WHERE sku = %s FOR UPDATE", [item["sku"]]).fetchone()
                if row:
                    levels[item["sku"]] = row
            now = datetime.now(timezone.utc)
            state, *answer = decide(arrival, levels, now)
            if state == HELD:
                for sku, level in levels.items():
                    self.db.execute("UPDATE stock SET available = %s, reserved = %s WHERE sku = %s", [*level, sku])
            self.db.execute("INSERT INTO reservations VALUES (%s, %s, %s, %s)",
                            [order["order_id"], state, json.dumps(order["items"]), now + TTL])
        self.produce(*answer)
        self.producer.poll(0)

    def end(self, *_):
        self.ended = True

    def run(self):
        signal.signal(signal.SIGTERM, self.end)
        self.resume()
        record, count = os.environ["MODE"] == "record", int(os.environ["BATCH"])
        while not self.ended:
            # One waits for a record; more are taken only as far as they are there.
            messages = self.consumer.consume(1, 0.1)
            if messages and not record:
                messages += self.consumer.consume(count - 1, 0)
            for message in messages:
                if message.error():
                    raise KafkaException(message.error())
            if record and messages:
                self.one(messages[0])
            elif messages:
                self.batch(messages)
            else:
                self.forget()
            for message in {message.partition(): message for message in messages}.values():
                self.consumer.store_offsets(message)
        self.forget()
        self.consumer.close()


if __name__ == "__main__":
    Peer().run()
