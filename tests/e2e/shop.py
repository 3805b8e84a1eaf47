"""shop: what comes from upstream, through any Kafka client and through HTTP, and when all that follows from it has happened."""
import random
import threading
import time
import urllib.parse
import uuid

import books
import world

DECLINED = 0.05
SKUS = 40
QUIET_SECONDS = 3  # nothing has moved for so long: nothing will, whatever is still missing


def make_orders(count, seed, declined=DECLINED):
    """Orders as a shop would place them: {order_id: data of OrderPlaced}. Some cards are declined."""
    chance = random.Random(f"{seed}/{count}")
    orders = {}
    base = int(time.time() * 1000)
    for number in range(count):
        items = [{"sku": f"sku-{sku:02}", "quantity": chance.randint(1, 3), "unit_price_minor": chance.randint(0, 5000)}
                 for sku in chance.sample(range(SKUS), chance.randint(1, 3))]
        # time-ordered, as UUIDv7 are
        order = str(uuid.UUID(int=((base + number) << 80) | (7 << 76) | (2 << 62) | chance.getrandbits(62)))
        prefix = "declined" if chance.random() < declined else "c"
        orders[order] = {
            "order_id": order, "customer_id": f"{prefix}-{chance.randrange(count // 3 + 1)}",
            "email": f"customer{chance.randrange(count)}@shop.example", "locale": chance.choice(("en", "de", "en-GB")),
            "currency": chance.choice(("EUR", "USD")), "items": items,
            "total_minor": sum(item["quantity"] * item["unit_price_minor"] for item in items),
            "placed_at": (base + number) * 1000,
        }
    return orders


def make_stock(orders):
    """Units by SKU. Every fifth runs out when there are about `orders` orders."""
    return {f"sku-{number:02}": orders // 40 if number % 5 == 0 else orders * 3 for number in range(SKUS)}


def headers_of(name, event_id, source="/shop/test"):
    return [("ce_specversion", b"1.0"), ("ce_id", event_id.encode()), ("ce_type", b"weir." + name.encode()),
            ("ce_source", source.encode()), ("content-type", b"application/avro")]


class Shop:
    """Hands in; remembers what was handed in and acknowledged, and what went wrong with it."""

    def __init__(self, here):
        from confluent_kafka import Producer
        self.here = here
        self.producer = Producer({"bootstrap.servers": here.kafka, "partitioner": "murmur2_random", "acks": "all",
                                  "enable.idempotence": True, "linger.ms": 5, "log_level": 2})
        here.clients.append(self.close)
        self.placed = {}     # order_id -> data
        self.failed = []
        self.junk = set()    # (topic, partition, offset) of what is no event of ours, though it may look so
        self.posts, self.posts_max = [], 8

    def close(self):
        if self.producer is not None:
            self.producer.purge()
            self.producer.flush(5)
        self.producer = None  # its threads end with the last reference

    # ---- Kafka

    def produce(self, topic, key, value, headers, partition=-1, on_place=None):
        """on_place(topic, partition, offset) when it is acknowledged."""
        def report(error, message):
            if error:
                self.failed.append(f"{topic}: {error}")
            elif on_place:
                on_place(message.topic(), message.partition(), message.offset())
        self.producer.produce(topic, value, key, partition=partition, headers=headers, on_delivery=report)
        self.producer.poll(0)

    def send(self, name, data, event_id=None, source="/shop/test"):
        """An event of an upstream system, onto its topic."""
        topic = books.TOPIC_OF[name]
        self.produce(topic, data[books.KEY_OF[topic]], books.encode(name, data),
                     headers_of(name, event_id or f"up-{uuid.uuid4()}", source))

    def place(self, data):
        self.placed[data["order_id"]] = data
        self.send("OrderPlaced", data, "up-" + data["order_id"])

    def flush(self):
        left = self.producer.flush(120)
        assert not left and not self.failed, (left, self.failed[:3])

    # ---- HTTP

    def post(self, data, seconds=180):
        """Until it is accepted, as a client with an Idempotency-Key may."""
        body = {key: data[key] for key in ("order_id", "customer_id", "email", "locale", "currency", "items")}
        until = time.monotonic() + seconds
        status, answer = 0, None
        while time.monotonic() < until:
            status, answer = self.here.ask("order", "/v1/orders", "POST", body, {"Idempotency-Key": f'"{data["order_id"]}"'}, timeout=5)
            if status == 202:
                self.placed[data["order_id"]] = data
                return
            if status not in (0, 409, 503):  # 409: the first request with this key is still running
                break
            time.sleep(0.1)
        self.failed.append(f"POST /v1/orders: {status} {answer}")

    def post_aside(self, data):
        """The same while others go on; wait_posts() waits."""
        self.aside(self.post, data)

    def aside(self, call, *arguments):
        while len(self.posts) >= self.posts_max:
            self.posts = [post for post in self.posts if post.is_alive()]
            time.sleep(0.005)
        self.posts.append(threading.Thread(target=call, args=arguments))
        self.posts[-1].start()

    def wait_posts(self):
        for post in self.posts:
            post.join()
        self.posts = []

    def set_stock(self, stock):
        for sku, units in stock.items():
            status, answer = self.here.ask("inventory", "/v1/stock/" + urllib.parse.quote(sku, safe=""), "PUT", {"available": units})
            assert status == 200, f"PUT /v1/stock/{sku}: {status} {answer}"


# ---- the end of it

MOVING = ("kafka_consumergroup_lag", "weir_outbox_rows", "weir_calls_in_flight", "weir_calls_waiting")


def moving(here):
    """What is on its way: lag, rows to relay, calls to answer; "" where nothing is."""
    for service in world.SERVICES:
        pages = [here.metrics_of(name) for name in here.instances(service)]
        known = sum(line.startswith("kafka_consumergroup_lag{") for lines in pages for line in lines)
        assigned = sum(world.total(lines, "weir_partitions_assigned") or 0 for lines in pages)
        if not known or known != assigned:  # a lag that is not known yet is not exported, and is no lag of 0
            return f"{service}: the lags of {known} partitions are known, {assigned:g} are assigned"
        for lines in pages:
            found = [line for line in lines if line.startswith(MOVING) and line.rsplit(" ", 1)[1] != "0"]
            if found:
                return f"{service}: {', '.join(found[:5])}"
    return ""


def decided(here):
    status, figures = here.ask("analytics", "/v1/figures")
    return sum(figures["orders"][end] for end in ("confirmed", "rejected", "cancelled")) if status == 200 else -1


def wait_until_settled(here, count, seconds=180):
    """Until `count` orders have their end and nothing moves; also when nothing moves any more though some have none.

    The lag is looked at twice a second by the services, and one's answer is another's next record: calm has to last.
    """
    calm, left = [None], [""]

    def condition():
        left[0] = moving(here)
        if left[0]:
            calm[0] = None
            return False
        calm[0] = calm[0] or time.monotonic()
        lasted = time.monotonic() - calm[0]
        return lasted > 2 * QUIET_SECONDS or (lasted > QUIET_SECONDS / 2 and decided(here) >= count)
    try:
        here.wait(f"{count} orders have their end and nothing is on its way", condition, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}; at last {decided(here)} orders had, and this moved: {left[0] or 'nothing'}") from None


def account(here, shop, stock):
    """The Books of all that there is; the services must have stopped, so that nothing is in their write-ahead logs."""
    dead = [record for record in books.read_records(here.kafka, [f"dlq.{service}" for service in world.SERVICES])
            if books.origin(record) not in shop.junk]
    return books.Books(shop.placed, stock, books.read_topics(here.kafka, books.TOPICS, shop.junk), here.gateway.charges,
                       here.gateway.refunds, here.mailbox.mails, here.databases(), here.figures, dead)


def balance(here, shop, stock):
    """Ends the services and checks every rule: the list of what is wrong."""
    here.figures = here.ask("analytics", "/v1/figures")[1]
    undrained = here.stop_all(60)
    wrong = [f"{service} did not drain: {code}" for service, code in undrained.items()]
    return wrong + account(here, shop, stock).check()


def run(test, *arguments, **keywords):
    """One World for a test(here); its services' logs when it fails."""
    here = world.World(*arguments, **keywords)
    failed = True
    try:
        test(here)
        failed = False
    finally:
        here.close(failed)
