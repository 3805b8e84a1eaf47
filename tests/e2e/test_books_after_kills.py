"""Orders go through five services while each in turn is killed with SIGKILL; then the books (books.py) must balance.

    test_books_after_kills.py [--orders N] [--rate N] [--kills N] [--seed N] [--build DIR] [--expect-broken]

Every second round of kills hits a service while another program holds its database: what it has taken from Kafka is then
certainly in hand and not committed. --expect-broken turns the verdict round: for builds that were broken on purpose
(WEIR_MUTANT), which these books must catch.
"""
import argparse
import random
import sys
import threading
import time

import books
import shop
import world

DUPLICATES = 0.02
THROUGH_HTTP = 0.2
LOST_ANSWERS = 0.02
IN_HAND_SECONDS = 1.0  # above the interval at which offsets are committed
SENT_AGAIN = 50        # records of each topic


class Feeder(shop.Shop):
    """Hands orders in: most straight to Kafka, the rest by HTTP until they are accepted; some twice, with one id or one key."""

    def run(self, orders, seed, per_second):
        chance = random.Random(seed + 1)
        begun = time.monotonic()
        self.sent_twice = self.by_http = 0
        for number, data in enumerate(orders.values()):
            times = 2 if chance.random() < DUPLICATES else 1
            self.sent_twice += times - 1
            http = chance.random() < THROUGH_HTTP
            self.by_http += http
            hand_in = self.post_aside if http else self.place
            for _ in range(times):
                hand_in(data)
            ahead = number / per_second - (time.monotonic() - begun)
            if ahead > 0:
                time.sleep(ahead)
        self.wait_posts()


def kill(here, service, in_hand):
    if in_hand:
        with here.locked(service):
            time.sleep(IN_HAND_SECONDS)
            here.kill(service)
    else:
        here.kill(service)
    here.start(service)


def send_again(here, feeder):
    """Events of every topic once more, byte for byte. Each service has to find those that it handles in its inbox."""
    handled = {service: 0 for service in world.SERVICES}
    before = {service: here.metric(service, "weir_duplicates_total") for service in world.SERVICES}
    for topic in books.TOPICS[:-1]:
        for record in books.read_records(here.kafka, [topic])[-SENT_AGAIN:]:
            feeder.produce(topic, record.key, record.value, record.headers)
            for service in world.SERVICES:
                handled[service] += books.decode(record.value)[0] in books.HANDLES[service]
    feeder.flush()
    shop.wait_until_settled(here, len(feeder.placed), 60)
    noticed = {service: here.metric(service, "weir_duplicates_total") - before[service] for service in world.SERVICES}
    return [f"{service} noticed {noticed[service]:.0f} of {handled[service]} duplicates"
            for service in world.SERVICES if noticed[service] < handled[service]]


def run(options):
    orders = shop.make_orders(options.orders, options.seed)
    stock = shop.make_stock(options.orders)
    here = world.World(gateway=world.Gateway(lose=LOST_ANSWERS), build=options.build)
    failed = True
    try:
        here.start_all()
        feeder = Feeder(here)
        feeder.set_stock(stock)
        feeding = threading.Thread(target=feeder.run, args=(orders, options.seed, options.rate))
        begun = time.monotonic()
        feeding.start()
        kills = 0
        while feeding.is_alive() or kills < options.kills:
            time.sleep(options.pause)
            if kills < options.kills:
                kill(here, world.SERVICES[kills % len(world.SERVICES)], kills // len(world.SERVICES) % 2 == options.in_hand_first)
                kills += 1
        feeding.join()
        feeder.flush()
        print(f"{len(orders)} orders in ({feeder.by_http} by HTTP), {feeder.sent_twice} sent twice, {kills} kills, "
              f"{time.monotonic() - begun:.0f} s", flush=True)
        shop.wait_until_settled(here, len(orders), options.patience)
        print(f"settled after {time.monotonic() - begun:.0f} s", flush=True)
        wrong = send_again(here, feeder) + shop.balance(here, feeder, stock)
        failed = bool(wrong)
        return wrong
    finally:
        here.close(failed and not options.expect_broken)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--orders", type=int, default=10000)
    parser.add_argument("--rate", type=float, default=150, help="orders a second")
    parser.add_argument("--kills", type=int, default=15)
    parser.add_argument("--pause", type=float, default=2, help="seconds between two kills")
    parser.add_argument("--in-hand-first", action="store_const", const=0, default=1, help="begin with the locked databases")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--patience", type=float, default=300, help="seconds until all must be settled")
    parser.add_argument("--build")
    parser.add_argument("--expect-broken", action="store_true")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    begun = time.monotonic()
    try:
        wrong = run(options)
    except AssertionError as error:
        sys.exit(f"no verdict: {error}")  # a World that did not come up has caught no mutant
    for sentence in wrong[:20]:
        print("wrong:", sentence)
    print(f"took {time.monotonic() - begun:.0f} s")
    if options.expect_broken:
        print("caught" if wrong else "NOT CAUGHT")
        sys.exit(0 if wrong else 1)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
