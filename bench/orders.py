"""orders: what comes from upstream: one item each, ids in time order, which is what the floors and the design's figures are about."""
import random
import time

import measure
import books

SKUS = 200
STOCK = 10 ** 9
FLUSH_SECONDS_MAX = 120
# What a service writes beside the record's own headers when it gives up.
LETTER = [("__dlq.errors.topic", "orders"), ("__dlq.errors.partition", "0"), ("__dlq.errors.offset", "0"),
          ("__dlq.errors.delivery.count", "4"), ("__dlq.errors.message", "the dependency says no"), ("weir_error_class", "RETRY"),
          ("weir_error_fingerprint", "0123456789abcdef"), ("weir_attempt", "4"), ("weir_first_failed_at", "2026-11-21T12:00:00.000000Z")]


def headers_of(kind, key, event_id, chance):
    return [("ce_specversion", "1.0"), ("ce_id", event_id), ("ce_source", "/bench"), ("ce_type", f"weir.{kind}"),
            ("ce_time", "2026-11-21T12:00:00.000000Z"), ("ce_subject", key), ("content-type", "application/avro"),
            ("traceparent", f"00-{chance.getrandbits(128):032x}-{chance.getrandbits(64):016x}-01")]


def order(number, base, chance):
    price = chance.randrange(100, 5000)
    return {"order_id": measure.uuid7(base + number, chance), "customer_id": f"c-{chance.randrange(20000)}",
            "email": f"customer{number}@shop.example", "locale": "en", "currency": "EUR", "total_minor": price,
            "placed_at": (base + number) * 1000,
            "items": [{"sku": f"SKU-{chance.randrange(SKUS):03}", "quantity": 1, "unit_price_minor": price}]}


def fill(kafka, count, topic="orders", rate=0, confirmed=False, letter_of=None, seed=1):
    """So many orders onto the topic, at a rate or at once; returns their ids, in order, once all of them are acknowledged.

    `confirmed`: behind each its OrderConfirmed by the same key. `letter_of`: as dead letters of that service.
    """
    from confluent_kafka import Producer
    producer = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2_random", "acks": "all", "enable.idempotence": True,
                         "linger.ms": 1 if rate else 20, "queue.buffering.max.messages": 1000000, "log_level": 2})
    chance, base, failed, ids = random.Random(seed), int(time.time() * 1000) - (0 if rate else count), [], []
    more = [*LETTER, ("__dlq.errors.group", f"weir-{letter_of}")] if letter_of else []

    def report(error, _):
        if error:
            failed.append(error)

    def send(kind, key, data):
        headers = headers_of(kind, key, measure.uuid7(base + len(ids), chance), chance)
        producer.produce(topic, books.encode(kind, data), key, headers=headers + more, on_delivery=report)
    begun = time.monotonic()
    for number in range(count):
        if rate:
            producer.poll(0)
            time.sleep(max(0.0, begun + number / rate - time.monotonic()))
        elif number % 1000 == 0:
            producer.poll(0)
        data = order(number, base, chance)
        ids.append(data["order_id"])
        send("OrderPlaced", data["order_id"], data)
        if confirmed:
            send("OrderConfirmed", data["order_id"],
                 {"order_id": data["order_id"], "payment_id": f"p-{number}", "confirmed_at": data["placed_at"]})
    if producer.flush(FLUSH_SECONDS_MAX) or failed:
        raise SystemExit(f"{topic} could not be filled: {failed[:1]}")
    return ids


class Tail:
    """What comes onto a topic after this, read once it is there."""

    def __init__(self, kafka, topic):
        from confluent_kafka import Consumer
        self.topic = topic
        self.consumer = Consumer({"bootstrap.servers": kafka, "group.id": "bench-tail", "enable.auto.commit": False, "log_level": 2})
        self.next = self.ends()

    def ends(self):
        from confluent_kafka import TopicPartition
        partitions = self.consumer.list_topics(self.topic, timeout=30).topics[self.topic].partitions
        return {partition: self.consumer.get_watermark_offsets(TopicPartition(self.topic, partition), timeout=30)[1]
                for partition in partitions}

    def read(self, take):
        """take(message) of each that is there now."""
        from confluent_kafka import TopicPartition
        ends = {partition: end for partition, end in self.ends().items() if end > self.next.get(partition, 0)}
        self.consumer.assign([TopicPartition(self.topic, partition, self.next.get(partition, 0)) for partition in ends])
        while ends:
            for message in self.consumer.consume(10000, timeout=30) or [None]:
                if message is None or message.error():
                    raise measure.Wrong(f"`{self.topic}` cannot be read to its end")
                partition = message.partition()
                take(message)
                self.next[partition] = message.offset() + 1
                if message.offset() + 1 >= ends.get(partition, 1 << 62):
                    del ends[partition]
        self.consumer.unassign()

    def close(self):
        self.consumer.close()


def answered_once(tail, ids, kind="StockReserved"):
    """Each order has exactly one answer of that kind on the topic, and nothing else is there."""
    answers, others = {}, 0

    def take(message):
        nonlocal others
        if dict(message.headers() or []).get("ce_type") == f"weir.{kind}".encode():
            key = message.key().decode()
            answers[key] = answers.get(key, 0) + 1
        else:
            others += 1
    tail.read(take)
    missing = [order for order in ids if order not in answers]
    twice = [order for order, count in answers.items() if count > 1]
    if missing or twice or others or len(answers) != len(ids):
        raise measure.Wrong(f"{tail.topic}: of {len(ids)} orders {len(missing)} have no {kind}, {len(twice)} have several; "
                            f"{others} records of other kinds, {len(answers)} keys")
