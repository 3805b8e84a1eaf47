"""Several processes of each service on one PostgreSQL: they come and go under load, by SIGTERM, SIGKILL and SIGSTOP; then the books.

    test_many_instances.py [--orders N] [--rate N] [--seed N] [--instances N]

Orders come straight to Kafka and by HTTP at any process of `order`; some are sent twice, some are cancelled at once at another
process; 1 % of the records fail a few times, so that keys are held while their partitions change hands.
"""
import argparse
import os
import random
import signal
import sys
import threading
import time

import shop
import world

DUPLICATES, THROUGH_HTTP, CANCELLED = 0.02, 0.3, 0.05
STALLED_SECONDS = 5  # above the session time-out: its partitions are others' meanwhile
TOOK_FOR_DEAD = 75


class Feeder(shop.Shop):
    def run(self, orders, seed, per_second):
        chance = random.Random(seed + 1)
        begun = time.monotonic()
        self.cancelled = set()
        for number, data in enumerate(orders.values()):
            by_http = chance.random() < THROUGH_HTTP
            for _ in range(2 if chance.random() < DUPLICATES else 1):
                (self.post_aside if by_http else self.place)(data)
            if chance.random() < CANCELLED:
                self.cancelled.add(data["order_id"])
                self.aside(self.cancel, data["order_id"])
            time.sleep(max(0, begun + number / per_second - time.monotonic()))
        self.wait_posts()

    def cancel(self, order, seconds=120):
        """Until it is known there, and then either it is cancelled or it was too late."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            status, answer = self.here.ask("order", f"/v1/orders/{order}/cancel", "POST", {}, timeout=5)
            if status in (200, 202) or (status == 409 and "running" not in str(answer)):
                return
            time.sleep(0.2)
        self.failed.append(f"cancel {order}: {status} {answer}")


class Crew:
    """Processes of each service, by name."""

    def __init__(self, here, seed):
        self.here, self.chance, self.number = here, random.Random(seed), 1
        self.ended = []

    def more(self, service):
        self.number += 1
        name = f"{service}@{self.number}"
        self.here.start(name)
        print(f"  + {name}", flush=True)
        return name

    def gone(self, name, how):
        process = self.here.processes[name]
        process.send_signal(how)
        code = process.wait(60)
        print(f"  - {name} {how.name}", flush=True)
        if how == signal.SIGTERM and code != 0:
            self.ended.append(f"{name} ends with {code} at SIGTERM")

    def any(self, service):
        return self.chance.choice(self.here.instances(service))

    def watch(self):
        """What a supervisor does: one that ended because others took it for dead is started again."""
        for name, process in list(self.here.processes.items()):
            code = process.poll()
            if code == TOOK_FOR_DEAD:
                self.here.start(name)
            elif code not in (None, 0, -signal.SIGKILL):
                self.ended.append(f"{name} ended with {code}: {self.here.log_end(name)}")
                self.here.start(name)


def up_and_down(here, crew, most):
    """From one process to `most` of each in turn and back, with sudden deaths and stalls on the way."""
    for service in world.SERVICES:
        crew.more(service)
    for service in ("inventory", "order", "payment", "email"):
        for _ in range(most - 2 if service == "inventory" else 1):
            crew.more(service)
        time.sleep(2)
        crew.gone(crew.any(service), signal.SIGKILL)
        time.sleep(1)
        stalled = crew.any(service)
        here.processes[stalled].send_signal(signal.SIGSTOP)
        print(f"  | {stalled}", flush=True)
        time.sleep(STALLED_SECONDS)
        here.processes[stalled].send_signal(signal.SIGCONT)
        crew.watch()
    time.sleep(3)
    for service in world.SERVICES:
        while len(here.instances(service)) > 1:
            crew.gone(crew.any(service), signal.SIGTERM)
        crew.watch()


def run(options):
    os.environ["TEST_DATABASE"] = "postgres"
    orders = shop.make_orders(options.orders, options.seed)
    stock = shop.make_stock(options.orders)
    wrong = []

    def test(here):
        here.start_all()
        feeder = Feeder(here)
        feeder.set_stock(stock)
        feeding = threading.Thread(target=feeder.run, args=(orders, options.seed, options.rate))
        begun = time.monotonic()
        feeding.start()
        crew = Crew(here, options.seed)
        up_and_down(here, crew, options.instances)
        feeding.join()
        feeder.flush()
        print(f"{len(orders)} orders in, {time.monotonic() - begun:.0f} s", flush=True)
        for service in world.SERVICES:
            if not here.instances(service):
                here.start(service)
        shop.wait_until_settled(here, len(orders), options.patience)
        print(f"settled after {time.monotonic() - begun:.0f} s", flush=True)
        wrong.extend(crew.ended + feeder.failed + shop.balance(here, feeder, stock))
        for sentence in wrong[:20]:
            print("wrong:", sentence)
        assert not wrong, f"{len(wrong)} wrong"
    shop.run(test, gateway=world.Gateway(lose=0.01), settings={"CHAOS": "keys=1%:2"})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--orders", type=int, default=2500)
    parser.add_argument("--rate", type=float, default=40, help="orders a second")
    parser.add_argument("--instances", type=int, default=6, help="of inventory at the most; of the others three")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--patience", type=float, default=240, help="seconds until all must be settled")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    run(options)


if __name__ == "__main__":
    sys.exit(main())
