"""Orders go through five services while each in turn is killed with SIGKILL; then the books (books.py) must balance.

    test_books_after_kills.py [--orders N] [--kills N] [--seed N] [--build DIR] [--expect-broken]

--expect-broken turns the verdict round: for builds that were broken on purpose (WEIR_MUTANT), which these books must catch.
"""
import argparse
import random
import sys
import threading
import time
import uuid

import books
import world

DUPLICATES = 0.02
THROUGH_HTTP = 0.2
DECLINED = 0.05
LOST_ANSWERS = 0.02
SKUS = 40


def make_orders(count, seed):
    """Orders as a shop would place them; some SKUs run out, some cards are declined."""
    chance = random.Random(seed)
    orders = {}
    base = int(time.time() * 1000)
    for number in range(count):
        items, skus = [], chance.sample(range(SKUS), chance.randint(1, 3))
        for sku in skus:
            items.append({"sku": f"sku-{sku:02}", "quantity": chance.randint(1, 3), "unit_price_minor": chance.randint(0, 5000)})
        # time-ordered, as UUIDv7 are
        order = str(uuid.UUID(int=((base + number) << 80) | (7 << 76) | (2 << 62) | chance.getrandbits(62)))
        prefix = "declined" if chance.random() < DECLINED else "c"
        orders[order] = {
            "order_id": order, "customer_id": f"{prefix}-{chance.randrange(count // 3 + 1)}",
            "email": f"customer{chance.randrange(count)}@shop.example", "locale": chance.choice(("en", "de", "en-GB")),
            "currency": chance.choice(("EUR", "USD")), "items": items,
            "total_minor": sum(item["quantity"] * item["unit_price_minor"] for item in items),
            "placed_at": (base + number) * 1000,
        }
    return orders


class Feeder:
    """Hands orders in: most straight to Kafka, some sent twice with one id, the rest by HTTP with a key until they are accepted."""

    def __init__(self, here, orders, seed):
        from confluent_kafka import Producer
        self.here, self.orders, self.chance = here, orders, random.Random(seed + 1)
        self.producer = Producer({"bootstrap.servers": here.kafka, "partitioner": "murmur2_random", "acks": "all",
                                  "enable.idempotence": True, "linger.ms": 5})
        self.failed, self.sent_twice, self.by_http = [], [], 0

    def send(self, data, event_id):
        def report(error, message):
            if error:
                self.failed.append(str(error))
        self.producer.produce("orders", books.encode("OrderPlaced", data), data["order_id"], on_delivery=report, headers=[
            ("ce_specversion", b"1.0"), ("ce_id", event_id.encode()), ("ce_type", b"weir.OrderPlaced"),
            ("ce_source", b"/shop/test"), ("content-type", b"application/avro")])
        self.producer.poll(0)

    def post(self, data):
        body = {key: data[key] for key in ("order_id", "customer_id", "email", "locale", "currency", "items")}
        until = time.monotonic() + 120
        while time.monotonic() < until:
            status, answer = self.here.ask("order", "/v1/orders", "POST", body, {"Idempotency-Key": f'"{data["order_id"]}"'}, timeout=5)
            if status == 202:
                self.by_http += 1
                return
            if status not in (0, 409, 503):
                break
            time.sleep(0.1)
        self.failed.append(f"POST /v1/orders: {status} {answer}")

    def run(self, per_second):
        begun = time.monotonic()
        threads = []
        for number, data in enumerate(self.orders.values()):
            if self.chance.random() < THROUGH_HTTP:
                while len([t for t in threads if t.is_alive()]) >= 8:
                    time.sleep(0.005)
                threads = [t for t in threads if t.is_alive()]
                threads.append(threading.Thread(target=self.post, args=(data,)))
                threads[-1].start()
            else:
                event_id = "up-" + data["order_id"]
                self.send(data, event_id)
                if self.chance.random() < DUPLICATES:
                    self.sent_twice.append((data, event_id))
                    self.send(data, event_id)
            ahead = number / per_second - (time.monotonic() - begun)
            if ahead > 0:
                time.sleep(ahead)
        for thread in threads:
            thread.join()
        self.producer.flush(60)


def settled(here, count):
    """Every order has its end, nothing is on its way any more."""
    status, figures = here.ask("analytics", "/v1/figures")
    if status != 200 or sum(figures["orders"][end] for end in ("confirmed", "rejected", "cancelled")) < count:
        return False
    for service in world.SERVICES:
        for name in ("kafka_consumergroup_lag", "weir_outbox_rows"):
            if here.metric(service, name) != 0:
                return False
        for name in ("weir_calls_in_flight", "weir_calls_waiting"):
            if here.metric(service, name) not in (0, None):
                return False
    return True


def wait_until_settled(here, count, seconds):
    calm = [0]

    def condition():
        calm[0] = calm[0] + 1 if settled(here, count) else 0
        return calm[0] >= 10
    here.wait(f"{count} orders have their end and nothing is on its way", condition, seconds)


def duplicates_are_noticed(here, feeder):
    """What is sent again now has to be found in each service's inbox: the metric says so."""
    again = [(data, "up-" + order) for order, data in list(feeder.orders.items())[:400]]
    known = {order for order in feeder.orders}
    sent = [(data, event_id) for data, event_id in feeder.sent_twice if data["order_id"] in known][:50] or again[:50]
    before = {service: here.metric(service, "weir_duplicates_total") for service in world.SERVICES}
    for data, event_id in sent:
        feeder.send(data, event_id)
    feeder.producer.flush(60)
    for service in world.SERVICES:
        here.wait(f"{service} notices {len(sent)} duplicates",
                  lambda s=service: (here.metric(s, "weir_duplicates_total") or 0) >= before[s] + len(sent), 60)


def run(options):
    orders = make_orders(options.orders, options.seed)
    stock = {f"sku-{number:02}": options.orders // 4 if number % 5 == 0 else options.orders for number in range(SKUS)}
    here = world.World(gateway=world.Gateway(lose=LOST_ANSWERS), build=options.build)
    failed = True
    try:
        here.start_all()
        for sku, units in stock.items():
            assert here.ask("inventory", f"/v1/stock/{sku}", "PUT", {"available": units})[0] == 200
        feeder = Feeder(here, orders, options.seed)
        feeding = threading.Thread(target=feeder.run, args=(options.rate,))
        begun = time.monotonic()
        feeding.start()
        kills = 0
        while feeding.is_alive() or kills < options.kills:
            time.sleep(1.5)
            service = world.SERVICES[kills % len(world.SERVICES)]
            here.kill(service)
            time.sleep(0.2)
            here.start(service)
            kills += 1
            if kills >= options.kills and not feeding.is_alive():
                break
        feeding.join()
        assert not feeder.failed, feeder.failed[:3]
        print(f"{len(orders)} orders in ({feeder.by_http} by HTTP), {len(feeder.sent_twice)} sent twice, {kills} kills, "
              f"{time.monotonic() - begun:.0f} s", flush=True)
        wait_until_settled(here, len(orders), options.patience)
        print(f"settled after {time.monotonic() - begun:.0f} s", flush=True)
        duplicates_are_noticed(here, feeder)
        wait_until_settled(here, len(orders), 60)
        figures = here.ask("analytics", "/v1/figures")[1]
        for service in world.SERVICES:
            assert here.stop(service) == 0, f"{service} did not drain: {here.processes[service].returncode}"
        events = books.read_topics(here.kafka, books.TOPICS)
        account = books.Books(orders, stock, events, here.gateway.charges, here.gateway.refunds, here.mailbox.mails,
                              {service: f"{here.folder}/{service}.db" for service in world.SERVICES}, figures)
        wrong = account.check()
        failed = bool(wrong)
        return wrong
    finally:
        here.close(failed and not options.expect_broken)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--orders", type=int, default=10000)
    parser.add_argument("--rate", type=float, default=300)
    parser.add_argument("--kills", type=int, default=15)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--patience", type=float, default=300, help="seconds until all must be settled")
    parser.add_argument("--build")
    parser.add_argument("--expect-broken", action="store_true")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    try:
        wrong = run(options)
    except AssertionError as error:
        wrong = [str(error)]
    for sentence in wrong[:20]:
        print("wrong:", sentence)
    if options.expect_broken:
        print("the books caught it" if wrong else "NOT CAUGHT")
        sys.exit(0 if wrong else 1)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
