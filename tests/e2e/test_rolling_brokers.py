"""Three brokers, replication 3, min.insync.replicas 2: each is restarted in turn, then one is killed, under load.

    test_rolling_brokers.py [--seed N] [--rate N]

The services have their own defaults and are told nothing: producers and consumers recover by themselves, orders go on, none is
lost, and the books balance.
"""
import argparse
import os
import random
import signal
import subprocess
import sys
import threading
import time

import shop
import world

CLUSTER = "cm9sbGluZy1icm9rZXJzLQ"
BROKERS = (1, 2, 3)
PARTITIONS = 3
ORDERS_MAX = 20000     # no run gets so far; it is ended, not used up
UNDECIDED_MAX = 300    # orders under way; a machine that is slower than the rate sets the rate
DEAD_SECONDS = 15      # three times as long as a broker's session
GONE_SECONDS = 180
WAIT = 180


class Cluster(world.World):
    """A World of three brokers. Each is a controller as well, so that the controllers are restarted and lost, too."""

    def folder_of(self, number):
        return f"{self.folder}/kafka-{number}"

    def kafka_start(self):
        ports = set()
        while len(ports) < 2 * len(BROKERS):
            ports.add(world.free_port())
        ports = list(ports)
        self.broker_ports = dict(zip(BROKERS, ports))
        self.controllers = dict(zip(BROKERS, ports[len(BROKERS):]))
        self.kafka = ",".join(f"127.0.0.1:{port}" for port in self.broker_ports.values())
        failed = []

        def start(number):
            try:
                self.broker_start(number)
            except subprocess.SubprocessError as error:
                failed.append(str(error))
        # None is in service before two are.
        starts = [threading.Thread(target=start, args=(number,)) for number in BROKERS]
        for each in starts:
            each.start()
        for each in starts:
            each.join()
        assert not failed, failed

    def broker_start(self, number):
        voters = ",".join(f"{each}@127.0.0.1:{port}" for each, port in self.controllers.items())
        subprocess.run([world.ROOT + "/compose/kafka/node", "start", self.folder_of(number), str(self.broker_ports[number]),
                        str(self.controllers[number]), "--id", str(number), "--voters", voters, "--cluster", CLUSTER],
                       check=True, timeout=240, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       env={**os.environ, "KAFKA_HEAP_OPTS": "-Xms128m -Xmx256m"})

    def broker_end(self, number, how):
        """By SIGTERM it hands over what it leads, which may take its time: no SIGKILL follows, unlike by node's own stop."""
        with open(self.folder_of(number) + "/node.pid") as file:
            pid = int(file.read())
        os.kill(pid, how)

        def gone():
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as line:
                    return b"kafka.Kafka" not in line.read()
            except FileNotFoundError:
                return True
        self.wait(f"broker {number} is gone", gone, GONE_SECONDS)

    def node(self, *words):
        if words[0] == "stop":
            words = ("stop", *(self.folder_of(number) for number in BROKERS if os.path.isdir(self.folder_of(number))))
        super().node(*words)

    def metadata(self):
        from confluent_kafka.admin import AdminClient
        return AdminClient({"bootstrap.servers": self.kafka, "log_level": 2}).list_topics(timeout=30)

    def whole(self):
        """Is every replica of every partition in step, and each partition led? Before that no other broker may be taken away."""
        from confluent_kafka import KafkaException
        try:
            found = self.metadata()
        except KafkaException:  # none answers yet
            return False
        return len(found.brokers) == len(BROKERS) and all(
            partition.leader in BROKERS and len(partition.isrs) == len(BROKERS)
            for topic in found.topics.values() for partition in topic.partitions.values())

    def broker_log_end(self):
        for number in BROKERS:
            try:
                with open(self.folder_of(number) + "/log/server.log", errors="replace") as log:
                    print(f"--- broker {number}, the end of its log\n{log.read()[-2000:]}")
            except OSError:
                pass

    def close(self, failed=False):
        if failed:
            self.broker_log_end()
        super().close(failed)


class Load(threading.Thread):
    """Orders, until it is told to end: four of five by Kafka, the others by HTTP."""

    def __init__(self, here, upstream, seed, rate):
        super().__init__()
        self.here, self.upstream, self.chance, self.rate = here, upstream, random.Random(seed), rate
        self.ending, self.failed, self.sent = threading.Event(), None, 0
        self.orders = list(shop.make_orders(ORDERS_MAX, seed).values())

    def run(self):
        try:
            for data in self.orders:
                if self.sent % self.rate == 0:
                    while self.sent - shop.decided(self.here) > UNDECIDED_MAX and not self.ending.wait(1):
                        pass
                if self.ending.wait(1 / self.rate):
                    return
                if self.chance.random() < 0.2:
                    self.upstream.post_aside(data)
                else:
                    self.upstream.place(data)
                self.sent += 1
        except Exception as failed:  # said by the test's own thread
            self.failed = failed


def test(here, seed, rate):
    chance = random.Random(seed)
    begun = time.monotonic()

    def say(what):
        print(f"{time.monotonic() - begun:4.0f} s: {what}; {shop.decided(here)} orders have their end", flush=True)

    def go_on(what):
        before = shop.decided(here)
        here.wait(f"orders come to their end {what}", lambda: load.failed or shop.decided(here) > before + 2 * rate, WAIT)
        assert load.failed is None, load.failed

    upstream = shop.Shop(here)
    stock = shop.make_stock(ORDERS_MAX // 10)
    here.start_all(KAFKA_PROPERTIES="")
    # Also the topics that the services and the groups have made for themselves.
    own = {f"retry.{service}.{delay}" for service in world.SERVICES for delay in world.RETRY_DELAYS.split(",")}
    here.wait("the services have made their topics", lambda: own <= set(here.metadata().topics), WAIT)
    replicas = {name: {len(partition.replicas) for partition in topic.partitions.values()} for name, topic in here.metadata().topics.items()}
    assert all(counts == {len(BROKERS)} for counts in replicas.values()), replicas
    upstream.set_stock(stock)
    load = Load(here, upstream, seed, rate)
    load.start()
    try:
        go_on("with all brokers")
        for number in chance.sample(BROKERS, len(BROKERS)):
            here.wait("all replicas are in step", here.whole, WAIT)
            here.broker_end(number, signal.SIGTERM)
            say(f"broker {number} has stopped")
            go_on(f"without broker {number}")
            here.broker_start(number)
            here.wait("all replicas are in step again", here.whole, WAIT)
            say(f"broker {number} is back")
        lost = chance.choice(BROKERS)
        here.broker_end(lost, signal.SIGKILL)
        say(f"broker {lost} was killed")
        time.sleep(DEAD_SECONDS)
        go_on(f"with broker {lost} lost")
        here.broker_start(lost)
        here.wait("the lost broker is back in step", here.whole, WAIT)
        say(f"broker {lost} is back")
        go_on("with all brokers again")
    finally:
        load.ending.set()
        load.join()
    assert load.failed is None, load.failed
    upstream.wait_posts()
    upstream.flush()
    for service in world.SERVICES:
        assert here.running(service), f"{service} ended: {here.log_end(service)}"
    shop.wait_until_settled(here, len(upstream.placed), WAIT)
    say("all is done")
    wrong = shop.balance(here, upstream, stock)
    assert not wrong, "\n".join(wrong[:20])
    print(f"{len(upstream.placed)} orders: the books balance", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=int, default=15)
    asked = parser.parse_args()
    print(f"seed {asked.seed}", flush=True)
    here = Cluster(partitions=PARTITIONS)
    failed = True
    try:
        test(here, asked.seed, asked.rate)
        failed = False
    finally:
        here.close(failed)


if __name__ == "__main__":
    sys.exit(main())
