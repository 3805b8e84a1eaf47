#!/usr/bin/env python3
"""The sample producers in Python and Java put the sample orders on Kafka, and put the same there.

Key, partition, value and headers are compared record by record, and with what the file says. What Weir makes of them
is the e2e tests' matter. Needs WEIR_TEST_KAFKA; skips (77) without it.
"""

import datetime
import io
import json
import os
import pathlib
import subprocess
import sys
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]
ORDERS = ROOT / "compose/sample/orders.ndjson"
PRODUCERS = {
    "python": [sys.executable, str(ROOT / "compose/upstream/python/send_orders.py")],
    "java": [str(ROOT / "compose/upstream/java/send")],
}
PARTITIONS = 6
SEND_SECONDS_MAX = 240
READ_SECONDS_MAX = 30


def murmur2(key):
    """As Kafka's own (org.apache.kafka.common.utils.Utils), written from its description."""
    mask = 0xFFFFFFFF
    seed, m = 0x9747B28C, 0x5BD1E995
    h = seed ^ len(key)
    whole = len(key) // 4 * 4
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * m & mask
        k ^= k >> 24
        h = (h * m & mask) ^ (k * m & mask)
    rest = key[whole:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h ^= h >> 13
    h = h * m & mask
    return h ^ (h >> 15)


def micros(when):
    if isinstance(when, int):
        return when
    since = datetime.datetime.fromisoformat(when.replace("Z", "+00:00")) - datetime.datetime.fromtimestamp(0, datetime.timezone.utc)
    return since // datetime.timedelta(microseconds=1)


def make_topic(servers, topic):
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": servers})
    for future in admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values():
        future.result(timeout=30)


def read(servers, topic):
    """All records of the topic as they stand now: (partition, key, value, headers)."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": servers, "group.id": topic, "enable.auto.commit": False})
    partitions = [TopicPartition(topic, number, 0) for number in range(PARTITIONS)]
    consumer.assign(partitions)
    count = sum(consumer.get_watermark_offsets(partition, timeout=READ_SECONDS_MAX)[1] for partition in partitions)
    records = []
    deadline = datetime.datetime.now() + datetime.timedelta(seconds=READ_SECONDS_MAX)
    while len(records) < count and datetime.datetime.now() < deadline:
        message = consumer.poll(1)
        if message is not None and message.error() is None:
            records.append((message.partition(), message.key(), message.value(), sorted(message.headers())))
    consumer.close()
    return records


def expect(failures, what, have, want):
    if have != want:
        failures.append(f"{what}: {have!r}, not {want!r}")


def main():
    servers = os.environ.get("WEIR_TEST_KAFKA")
    if not servers:
        print("WEIR_TEST_KAFKA is not set")
        return 77
    import fastavro

    schema = fastavro.parse_schema(json.loads((ROOT / "schemas/OrderPlaced.avsc").read_text(encoding="utf-8")))
    events = [json.loads(line) for line in ORDERS.read_text(encoding="utf-8").splitlines() if line.strip()]
    orders = [event for event in events if event["type"] == "weir.OrderPlaced"]
    failures = []
    sent = {}
    for name, command in PRODUCERS.items():
        topic = f"upstream-{name}-{uuid.uuid4()}"
        make_topic(servers, topic)
        done = subprocess.run(
            [*command, "--bootstrap-servers", servers, "--topic", topic, str(ORDERS)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SEND_SECONDS_MAX, check=False,
        )
        print(f"{name}: {done.stdout.strip()} {done.stderr.strip()}")
        expect(failures, f"{name}: exit status", done.returncode, 0)
        sent[name] = read(servers, topic)
        expect(failures, f"{name}: records", len(sent[name]), len(orders))
    if failures:
        print("\n".join(failures))
        return 1

    by_id = {event["id"]: event for event in orders}
    for name, records in sent.items():
        for partition, key, value, headers in records:
            event = by_id[dict(headers)["ce_id"].decode()]
            order = event["data"]
            what = f"{name}: order {order['order_id']}"
            expect(failures, f"{what}: key", key, order["order_id"].encode())
            expect(failures, f"{what}: partition", partition, (murmur2(key) & 0x7FFFFFFF) % PARTITIONS)
            expect(failures, f"{what}: framing", value[:5], b"\x00\x00\x00\x00\x65")
            rest = io.BytesIO(value[5:])
            decoded = fastavro.schemaless_reader(rest, schema)
            expect(failures, f"{what}: bytes left", rest.read(), b"")
            decoded["placed_at"] = micros(decoded["placed_at"].isoformat())
            expect(failures, f"{what}: value", decoded, {"locale": "en", **order, "placed_at": micros(order["placed_at"])})
            wanted = {f"ce_{field}": event[field] for field in ("specversion", "id", "source", "type", "time", "subject")}
            wanted |= {"content-type": "application/avro"}
            wanted |= {"traceparent": event["traceparent"]} if "traceparent" in event else {}
            expect(failures, f"{what}: headers", headers, sorted((field, text.encode()) for field, text in wanted.items()))
    expect(failures, "Java's records are Python's", sorted(sent["java"]), sorted(sent["python"]))
    print("\n".join(failures[:20]))
    print(f"{len(orders)} orders by each of {len(PRODUCERS)} producers, {len(failures)} differences")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
