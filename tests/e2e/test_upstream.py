"""The sample producers (compose/upstream) against a whole line: what they send is handled as Weir's own.

Both send the same file, so all that the second sends is a duplicate. Java is left out where there is neither a build of it nor mvn.
"""
import collections
import json
import os
import shutil
import subprocess
import sys

import books
import shop
import world

ORDERS = world.ROOT + "/compose/sample/orders.ndjson"
PYTHON = [sys.executable, world.ROOT + "/compose/upstream/python/send_orders.py"]
JAVA = [world.ROOT + "/compose/upstream/java/send"]
SEND_SECONDS_MAX = 200
# compose/sample/README.md; the samples pass over the two cancellations.
PLACED, CONFIRMED, SHORT, DECLINED = 296, 288, 3, 5


def send(command, here):
    done = subprocess.run([*command, "--bootstrap-servers", here.kafka, ORDERS], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=SEND_SECONDS_MAX, check=False)
    print(done.stdout.strip(), done.stderr.strip(), flush=True)
    assert done.returncode == 0, f"{command}: exit {done.returncode}"


def check(here, orders, sent_twice):
    events = books.read_topics(here.kafka, books.TOPICS)
    once = books.distinct(events)
    assert len([event for event in events if event.type == "OrderPlaced"]) > len(orders) * (2 if sent_twice else 1)
    ends = {event.key: event for event in once if event.type in books.FINAL}
    assert set(ends) == set(orders), f"{len(ends)} of {len(orders)} decided"
    found = collections.Counter(event.type for event in ends.values())
    assert found == {"OrderConfirmed": CONFIRMED, "OrderRejected": SHORT + DECLINED}, found
    why = collections.Counter(event.data["reason"].split(":")[0] for event in ends.values() if event.type == "OrderRejected")
    assert why == {"out of stock": SHORT, "payment failed": DECLINED}, why
    assert len(here.gateway.charges) == CONFIRMED + DECLINED, f"{len(here.gateway.charges)} charges"

    places = collections.defaultdict(set)
    for event in events:
        if event.topic != "stock":
            places[event.key].add(event.partition)
    torn = {key: where for key, where in places.items() if len(where) != 1}
    assert not torn, f"keys in several partitions: {list(torn.items())[:3]}"
    traces = {event["data"]["order_id"]: event["traceparent"][3:35] for event in orders.values() if "traceparent" in event}
    for event in once:
        if event.key in traces:
            assert event.headers["traceparent"].decode()[3:35] == traces[event.key], f"{event.type} of {event.key} is in another trace"
    for order in list(ends)[:3]:
        status, answer = here.ask("order", f"/v1/orders/{order}")
        assert status == 200 and answer["status"] in ("confirmed", "rejected"), (status, answer)


def main():
    with open(ORDERS, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file if line.strip()]
    orders = {event["data"]["order_id"]: event for event in lines if event["type"] == "weir.OrderPlaced"}
    assert len(orders) == PLACED
    java = shutil.which("mvn") or os.path.exists(world.ROOT + "/build/upstream-java/built")
    if not java:
        print("neither a build of the Java sample nor mvn: Python only")

    def test(here):
        here.start_all()
        with open(world.ROOT + "/compose/sample/stock.json", encoding="utf-8") as file:
            shop.Shop(here).set_stock({item["sku"]: item["available"] for item in json.load(file)})
        send(JAVA if java else PYTHON, here)
        shop.wait_until_settled(here, PLACED)
        figures = here.ask("analytics", "/v1/figures")[1]
        send(PYTHON, here)
        shop.wait_until_settled(here, PLACED)
        again = here.ask("analytics", "/v1/figures")[1]
        assert {**figures, "as_of": 0} == {**again, "as_of": 0}, "sent again, and counted again"
        check(here, orders, bool(java))
        assert not here.stop_all(60)
        print(f"{len(orders)} orders of {'Java and Python' if java else 'Python'}, decided as the file says")
    shop.run(test)


if __name__ == "__main__":
    main()
