"""Failures one at a time on real Kafka, each with what must be true of it.

    test_failures.py [crash | too_large]...

crash      a record that kills the process is tried alone, is a dead letter of class CRASH after the third time, and the rest flows
too_large  of records that a broker refuses together only the one that it refuses alone is set aside
"""
import os
import signal
import subprocess
import sys
import threading
import uuid

import books
import shop
import test_chaos as chaos
import world

SEED = 11
CRASH_PPM = 1
KILLER = "01a00000-0000-7000-8000-00000015319e"  # the first of its kind that seed 11 chooses among a million
CRASHES_MAX = 3
BYTES_MAX = 3000  # of a record set on the topic orders
SMALL = 60


def place(feeder, orders, event_id=None):
    for data in orders:
        feeder.placed[data["order_id"]] = data
        feeder.send("OrderPlaced", data, event_id or str(uuid.uuid4()))
    feeder.flush()


def some_orders(count, seed):
    return list(shop.make_orders(count, seed, declined=0).values())


def stock(feeder):
    feeder.set_stock({f"sku-{number:02}": 100000 for number in range(shop.SKUS)})


def confirmed(here, count):
    here.wait(f"{count} orders are confirmed", lambda: shop.decided(here) == count)


def weir(here, *words):
    environment = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": here.kafka, "RETRY_DELAYS": world.RETRY_DELAYS}
    done = subprocess.run([here.tools + "/services/weir/weir", *words], env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=120, check=False)
    assert done.returncode == 0, (done.returncode, done.stdout[-1000:], done.stderr[-1000:])


def crash(here):
    chaos.SEED = SEED
    assert chaos.chosen("crash", uuid.UUID(KILLER).bytes, CRASH_PPM)
    deadly = {"CHAOS": f"crash={CRASH_PPM / 10000:g}%,seed={SEED}"}
    here.start_all()
    here.kill("inventory")
    here.start("inventory", **deadly)
    here.wait_ready("inventory")
    feeder = shop.Shop(here)
    stock(feeder)
    orders = some_orders(31, SEED)
    place(feeder, orders[:15])
    place(feeder, orders[15:16], KILLER)
    place(feeder, orders[16:])
    for crashes in range(1, CRASHES_MAX + 1):
        here.wait(f"inventory dies for the {crashes}. time", lambda: not here.running("inventory"))
        assert here.processes["inventory"].returncode == -signal.SIGABRT, here.log_end("inventory")
        here.start("inventory", **deadly)
    confirmed(here, len(orders) - 1)
    assert here.running("inventory")
    dead = books.read_records(here.kafka, ["dlq.inventory"])
    assert [(record.key.decode(), dict(record.headers)["weir_error_class"]) for record in dead] == \
        [(orders[15]["order_id"], b"CRASH")], dead
    assert dict(dead[0].headers)["ce_id"] == KILLER.encode()
    assert here.metric("inventory", "weir_dlq_total", 'class="crash"') == 1
    said = [line for line in here.log("inventory").splitlines() if "the process died while it handled this record" in line]
    assert [f'"crashes":{n}' in line for n, line in enumerate(said, 1)] == [True] * CRASHES_MAX, said
    # Mended and sent back, it takes effect.
    assert here.stop("inventory", 60) == 0
    here.start("inventory")
    here.wait_ready("inventory")
    weir(here, "dlq", "redrive", "--service", "inventory", "--class", "CRASH", "--yes")
    confirmed(here, len(orders))


def too_large(here):
    from confluent_kafka.admin import AdminClient, ConfigResource
    here.start_all()
    feeder = shop.Shop(here)
    stock(feeder)
    admin = AdminClient({"bootstrap.servers": here.kafka})
    for done in admin.alter_configs([ConfigResource("topic", "orders", {"max.message.bytes": str(BYTES_MAX)})]).values():
        done.result(60)
    small = some_orders(SMALL, 3)
    large = {**some_orders(1, 4)[0], "items": [{"sku": f"{number:060}", "quantity": 1, "unit_price_minor": 1} for number in range(100)]}
    # With no broker there they gather in the outbox, and go together when it is back.
    here.kafka_kill()
    threads = [threading.Thread(target=feeder.post, args=(data,)) for data in small[:SMALL // 2] + [large] + small[SMALL // 2:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not feeder.failed, feeder.failed[:3]
    here.kafka_start()
    confirmed(here, SMALL)
    here.wait("the large one is set aside", lambda: here.metric("order", "weir_outbox_refused_total") == 1)
    assert here.metric("order", "weir_outbox_rows") in (0, 1)


TESTS = {"crash": crash, "too_large": too_large}


def main():
    for name in sys.argv[1:] or TESTS:
        shop.run(TESTS[name])
        print(f"{name}: holds", flush=True)


if __name__ == "__main__":
    main()
