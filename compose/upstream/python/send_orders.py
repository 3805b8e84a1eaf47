#!/usr/bin/env python3
"""Sends orders to Weir from Python: confluent-kafka and fastavro, nothing of Weir's own.

    send_orders.py [--bootstrap-servers HOST:PORT] [--topic orders] [FILE]

Reads one structured CloudEvent a line (compose/sample/orders.ndjson; stdin without FILE), sends every
weir.OrderPlaced and passes over the rest. Exits 0 only when the broker has acknowledged all of them.
"""

import argparse
import datetime
import io
import json
import os
import pathlib
import struct
import sys

import fastavro
from confluent_kafka import KafkaException, Producer

SCHEMA_FILE = pathlib.Path(__file__).resolve().parents[3] / "schemas" / "OrderPlaced.avsc"
# Without a registry an id is 100 × the event's number + its version: OrderPlaced is 1, this is version 1.
SCHEMA_ID = 101
FLUSH_SECONDS_MAX = 60


def micros(when):
    """RFC 3339 text or microseconds since 1970, as they come in JSON, to what Avro's timestamp-micros holds."""
    if isinstance(when, int):
        return when
    parsed = datetime.datetime.fromisoformat(when.replace("Z", "+00:00"))
    return (parsed - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)) // datetime.timedelta(microseconds=1)


def encode(schema, order):
    """Confluent framing: a zero byte, the schema's id, then plain Avro binary."""
    value = io.BytesIO()
    value.write(struct.pack(">bI", 0, SCHEMA_ID))
    fastavro.schemaless_writer(value, schema, {**order, "placed_at": micros(order["placed_at"])})
    return value.getvalue()


def headers(event):
    """CloudEvents in binary mode. ce_id is what Weir deduplicates by: send the same one again after a doubt."""
    names = {"specversion", "id", "source", "type", "time", "subject"}
    pairs = [(f"ce_{name}", event[name]) for name in sorted(names & event.keys())]
    pairs.append(("content-type", "application/avro"))
    if "traceparent" in event:
        pairs.append(("traceparent", event["traceparent"]))
    return [(name, value.encode()) for name, value in pairs]


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--bootstrap-servers", default=os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092"))
    arguments.add_argument("--topic", default="orders")
    arguments.add_argument("file", nargs="?", type=argparse.FileType(encoding="utf-8"), default=sys.stdin)
    chosen = arguments.parse_args()

    schema = fastavro.parse_schema(json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))
    producer = Producer(
        {
            "bootstrap.servers": chosen.bootstrap_servers,
            "acks": "all",
            "enable.idempotence": True,
            # librdkafka's own default puts a key elsewhere than Java does, and an order's events would be torn apart.
            "partitioner": "murmur2_random",
            "message.timeout.ms": FLUSH_SECONDS_MAX * 1000,
        }
    )
    failures = []
    sent = 0

    def on_delivery(error, message):
        if error is not None:
            failures.append(f"{message.key().decode()}: {error}")

    for line in chosen.file:
        if not line.strip():
            continue
        event = json.loads(line)
        if event["type"] != "weir.OrderPlaced":
            continue
        order = event["data"]
        record = dict(
            key=order["order_id"].encode(),
            value=encode(schema, order),
            headers=headers(event),
            on_delivery=on_delivery,
        )
        while True:
            try:
                producer.produce(chosen.topic, **record)
                break
            except BufferError:  # the local queue is full: let the broker take some of it
                producer.poll(1)
        sent += 1
        producer.poll(0)
    left = producer.flush(FLUSH_SECONDS_MAX)

    for failure in failures[:10]:
        print(failure, file=sys.stderr)
    print(f"{sent - len(failures) - left} orders sent, {len(failures) + left} failed")
    return 1 if failures or left else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KafkaException as failure:
        sys.exit(f"send_orders: {failure}")
