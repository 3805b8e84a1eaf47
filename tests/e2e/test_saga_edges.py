"""The edges of the saga, over HTTP and over Kafka: races, upstream decisions and payments, expiry, signatures, idempotency, backlog.

    test_saga_edges.py [PART…]      parts are the methods of Edges.PARTS; all by default
"""
import collections
import concurrent.futures
import hashlib
import hmac
import json
import random
import sys
import time
import uuid

import books
import shop
import world

SECRET = "whsec-of-the-tests"
RACES = 60
BACKLOG = 25


def sign(body, at=None, secret=SECRET):
    at = int(time.time()) if at is None else at
    code = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return {"Weir-Signature": f"t={at},v1={code}"}


class Edges:
    def __init__(self, here):
        self.here, self.shop = here, shop.Shop(here)
        self.stock = shop.make_stock(4000)
        self.shop.set_stock(self.stock)
        self.seed = 100

    def order(self, customer="c-1"):
        self.seed += 1
        data = next(iter(shop.make_orders(1, self.seed, declined=0).values()))
        # Only of what is not short.
        data["items"] = [{"sku": f"sku-{self.seed % 4 + 1:02}", "quantity": 1, "unit_price_minor": 700}]
        return {**data, "customer_id": customer, "total_minor": 700}

    def body(self, data):
        return {key: data[key] for key in ("order_id", "customer_id", "email", "locale", "currency", "items")}

    def place(self, customer="c-1"):
        data = self.order(customer)
        self.shop.post(data)
        assert not self.shop.failed, self.shop.failed
        return data["order_id"]

    def status(self, order):
        status, answer = self.here.ask("order", f"/v1/orders/{order}")
        return answer["status"] if status == 200 else status

    def wait_status(self, order, *wanted):
        return self.here.wait(f"{order} is {' or '.join(map(str, wanted))}, not {self.status(order)}",
                              lambda: self.status(order) in wanted and self.status(order), 60)

    def payment(self, order):
        status, answer = self.here.ask("payment", f"/v1/payments/{order}")
        return answer["status"] if status == 200 else status

    def wait_payment(self, order, *wanted):
        self.here.wait(f"the payment of {order} is {wanted}, not {self.payment(order)}", lambda: self.payment(order) in wanted, 60)

    def log(self, *orders):
        """{order: events in the order of each topic}"""
        found = collections.defaultdict(list)
        for event in books.distinct(books.read_topics(self.here.kafka, books.TOPICS)):
            if event.key in orders:
                found[event.key].append(event)
        return found

    def types(self, events, topic="orders"):
        return [event.type for event in events if event.topic == topic]

    def reserved(self):
        items = self.here.ask("inventory", "/v1/stock?limit=100")[1]["items"]
        return sum(item["reserved"] for item in items)

    def charges(self, order):
        return [charge for charge in self.here.gateway.charges if charge[0] == order]

    def restart(self, service, **more):
        assert self.here.stop(service) == 0
        self.here.start(service, **more)
        self.here.wait_ready(service)

    # ---- parts

    def cancel_races(self):
        """Cancelled at any moment by HTTP: 202 and never confirmed, or 409 and never cancelled. The books hold all the same."""
        chance = random.Random(3)

        def race(number):
            order = self.place()
            time.sleep(chance.random() * number / RACES)
            status, answer = self.here.ask("order", f"/v1/orders/{order}/cancel", "POST", {"reason": "changed my mind"})
            if status == 202:
                assert self.here.ask("order", f"/v1/orders/{order}/cancel", "POST")[0] == 202, "a second cancellation"
            assert status in (202, 409), (status, answer)
            return order, status
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = dict(pool.map(race, range(RACES)))
        shop.wait_until_settled(self.here, len(self.shop.placed))
        late = self.place()
        self.wait_status(late, "confirmed")
        assert self.here.ask("order", f"/v1/orders/{late}/cancel", "POST")[0] == 409
        assert self.here.ask("order", f"/v1/orders/{uuid.uuid4()}/cancel", "POST")[0] == 404
        log = self.log(*answers)
        for order, status in answers.items():
            types = self.types(log[order])
            wanted = ["OrderPlaced", "OrderCancelled" if status == 202 else "OrderConfirmed"]
            assert types == wanted, f"{order}, cancellation answered {status}: {types}"
        count = collections.Counter(answers.values())
        print(f"  {count[202]} cancelled, {count[409]} too late")
        shop.wait_until_settled(self.here, len(self.shop.placed))
        assert self.reserved() == 0
        cancelled = [order for order, status in answers.items() if status == 202]
        kept = [order for order in cancelled for charge in self.charges(order)
                if charge[1] not in {payment for payment, *_ in self.here.gateway.refunds}]
        assert not kept, f"money of cancelled orders was kept: {kept}"

    def upstream_cancellation(self):
        """OrderCancelled straight on the topic, while the gateway takes its time: the log's first decision counts."""
        order = self.place("slow-2-a")
        self.here.wait("the gateway is asked", lambda: self.charges(order), 30)
        self.shop.send("OrderCancelled", {"order_id": order, "reason": "by the shop", "cancelled_at": int(time.time() * 1e6)})
        self.shop.flush()
        self.wait_status(order, "cancelled")
        self.wait_payment(order, "refunded")
        shop.wait_until_settled(self.here, len(self.shop.placed))
        events = self.log(order)[order]
        assert self.types(events) == ["OrderPlaced", "OrderCancelled"], self.types(events)
        assert self.types(events, "inventory") == ["StockReserved", "StockReleased"], self.types(events, "inventory")
        assert self.types(events, "payments") == ["PaymentCaptured", "PaymentRefunded"], self.types(events, "payments")
        # Before the order itself is known, and again: no effect but that it counts.
        late = self.order()
        self.shop.placed[late["order_id"]] = late
        cancelled = {"order_id": late["order_id"], "reason": "early", "cancelled_at": int(time.time() * 1e6)}
        for _ in range(2):
            self.shop.send("OrderCancelled", cancelled)
        self.shop.flush()
        self.shop.place(late)
        self.shop.flush()
        self.wait_status(late["order_id"], "cancelled")
        shop.wait_until_settled(self.here, 0)
        assert self.status(late["order_id"]) == "cancelled" and not self.charges(late["order_id"])
        assert self.reserved() == 0

    def expiry(self):
        """Reservations run out before the gateway answers: released, rejected, and the late capture goes back."""
        self.restart("inventory", RESERVATION_TTL="2s")
        order = self.place("slow-6-b")
        self.wait_status(order, "rejected")
        reason = self.here.ask("order", f"/v1/orders/{order}")[1]["history"][-1].get("reason", "")
        assert "expired" in reason, reason
        self.wait_payment(order, "refunded")
        self.restart("inventory")
        shop.wait_until_settled(self.here, 0)
        events = self.log(order)[order]
        assert self.types(events) == ["OrderPlaced", "OrderRejected"], self.types(events)
        assert self.types(events, "inventory") == ["StockReserved", "StockReleased"], self.types(events, "inventory")
        assert self.types(events, "payments") == ["PaymentCaptured", "PaymentRefunded"], self.types(events, "payments")
        assert self.reserved() == 0 and len(self.charges(order)) == 1

    def invalid_orders(self):
        """Decodable, not valid: rejected with the field's name, no dead letter, and nobody else does a thing."""
        faults = {"email": {"email": "nobody"}, "total_minor": {"total_minor": 1}, "currency": {"currency": "EURO"},
                  "items[0].quantity": {"items": [{"sku": "sku-01", "quantity": 0, "unit_price_minor": 700}], "total_minor": 0}}
        orders = {}
        for field, change in faults.items():
            data = {**self.order(), **change}
            orders[data["order_id"]] = field
            self.shop.send("OrderPlaced", data)
        self.shop.flush()
        shop.wait_until_settled(self.here, 0)
        log = self.log(*orders)
        for order, field in orders.items():
            assert [event.type for event in log[order]] == ["OrderPlaced", "OrderRejected"], log[order]
            assert log[order][1].data["reason"] == f"invalid: {field}", log[order][1].data
            assert self.status(order) == "rejected" and not self.charges(order)
        dead = books.read_records(self.here.kafka, [f"dlq.{service}" for service in world.SERVICES])
        assert not dead, dead

    def upstream_payment(self):
        """An upstream system has the money already, or has failed to get it: the gateway is not asked."""
        data, failed = self.order(), self.order()
        now = int(time.time() * 1e6)
        self.shop.send("PaymentCaptured", {"payment_id": "till-1", "order_id": data["order_id"], "amount_minor": data["total_minor"],
                                           "currency": data["currency"], "provider": "till", "captured_at": now})
        self.shop.send("PaymentFailed", {"payment_id": "", "order_id": failed["order_id"], "reason": "no funds", "failed_at": now})
        self.shop.flush()
        self.wait_payment(data["order_id"], "captured")
        self.wait_payment(failed["order_id"], "failed")
        self.shop.place(data)
        self.shop.place(failed)
        self.shop.flush()
        self.wait_status(data["order_id"], "confirmed")
        self.wait_status(failed["order_id"], "rejected")
        assert self.here.ask("order", f"/v1/orders/{data['order_id']}")[1]["payment_id"] == "till-1"
        assert not self.charges(data["order_id"]) and not self.charges(failed["order_id"])

    def hook(self, what, headers=None, **changed):
        body = json.dumps({"type": what, "payment_id": "hook-1", "amount_minor": 700, "currency": "EUR", **changed}).encode()
        return self.here.call("payment", "/v1/webhooks/payment", "POST", body, sign(body) if headers is None else headers)[0]

    def webhook(self):
        order = self.place()
        assert self.hook("payment.captured", order_id=order) == 403, "without a secret"
        self.restart("payment", WEBHOOK_SECRET=SECRET)
        assert self.hook("payment.captured", {}, order_id=order) == 401
        body = json.dumps({"type": "payment.captured", "payment_id": "x", "order_id": order, "amount_minor": 1, "currency": "EUR"}).encode()
        for headers in (sign(body, secret="wrong"), sign(body + b" "), sign(body, at=int(time.time()) - 400),
                        {"Weir-Signature": "t=x,v1="}, {"Weir-Signature": sign(body)["Weir-Signature"][:-2]}):
            assert self.here.call("payment", "/v1/webhooks/payment", "POST", body, headers)[0] == 401, headers
        assert self.here.call("payment", "/v1/webhooks/payment", "POST", b"{", sign(b"{"))[0] == 400
        assert self.hook("payment.captured", order_id=str(uuid.uuid4())) == 404
        assert self.hook("payment.won", order_id=order) == 422
        assert self.hook("payment.captured", order_id=order, amount_minor="7") == 422

        # A capture that nobody asked for is the payment; the stock comes after it.
        assert self.here.stop("inventory") == 0
        order = self.place()
        self.here.wait("payment knows of the order", lambda: self.payment(order) == "pending", 30)
        for _ in range(2):
            assert self.hook("payment.captured", order_id=order) == 202
        assert self.payment(order) == "captured"
        self.here.start("inventory")
        self.wait_status(order, "confirmed")
        assert not self.charges(order)
        # A second one for the same order is given back, once.
        for _ in range(2):
            assert self.hook("payment.captured", order_id=order, payment_id="hook-2") == 202
        self.here.wait("the second capture is refunded", lambda: ("hook-2", 700, "EUR") in self.here.gateway.refunds, 30)
        shop.wait_until_settled(self.here, 0)
        assert [refund[0] for refund in self.here.gateway.refunds].count("hook-2") == 1
        assert self.payment(order) == "captured" and self.status(order) == "confirmed"
        events = [(event.type, event.data["payment_id"]) for event in self.log(order)[order] if event.topic == "payments"]
        assert events == [("PaymentCaptured", "hook-1"), ("PaymentCaptured", "hook-2"), ("PaymentRefunded", "hook-2")], events
        self.restart("payment")

    def idempotency(self):
        def post(key, data, path="/v1/orders"):
            body = json.dumps(self.body(data)).encode()
            status, answer, headers = self.here.call("order", path, "POST", body, {"Idempotency-Key": key})
            return status, answer, headers.get("Location")
        data = self.order()
        key = str(uuid.uuid4())
        self.shop.placed[data["order_id"]] = data
        first = post(f'"{key}"', data)
        assert first[0] == 202 and first[2] == f"/v1/orders/{data['order_id']}", first
        assert post(f'"{key}"', data) == first, "the same key and payload"
        assert post(key, data) == first, "the bare form of the key"
        assert post(key, self.order())[0] == 422, "the same key, another payload"
        assert post(str(uuid.uuid4()), data)[0] == 409, "the order is there already, under another key"
        # 409 is kept as an answer, 422 and 400 are not.
        key, taken = str(uuid.uuid4()), data
        assert post(key, taken)[0] == 409 and post(key, taken)[0] == 409
        key, bad = str(uuid.uuid4()), {**self.order(), "email": "nobody"}
        assert post(key, bad)[0] == 422
        good = self.order()
        self.shop.placed[good["order_id"]] = good
        assert post(key, good)[0] == 202
        self.restart("order")
        assert post(key, good)[0] == 202 and post(key, self.order())[0] == 422, "after a restart"
        self.running_still(post)
        self.wait_status(good["order_id"], "confirmed")

    def running_still(self, post):
        """409 while the first still runs: both have to be in one batch, which a held database makes likely."""
        for _ in range(40):
            blocker, twin, key = self.order(), self.order(), str(uuid.uuid4())
            for data in (blocker, twin):
                self.shop.placed[data["order_id"]] = data
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                with self.here.locked("order"):
                    first = pool.submit(post, str(uuid.uuid4()), blocker)
                    time.sleep(0.05)
                    twins = [pool.submit(post, key, twin) for _ in range(3)]
                    time.sleep(0.05)
                statuses = sorted(each.result()[0] for each in twins)
                assert first.result()[0] in (202, 503)
            for data, status in ((blocker, first.result()[0]), (twin, statuses[0])):
                if status == 503:
                    del self.shop.placed[data["order_id"]]
            if 409 in statuses:
                assert statuses.count(202) == 1, statuses
                return
            assert set(statuses) <= {202, 503}, statuses
        raise AssertionError("the first request was never found running")

    def events(self):
        """POST /v1/events in its three forms, signed."""
        self.restart("order", EVENTS_SECRET=SECRET)

        def post(body, headers, signature=None):
            return self.here.call("order", "/v1/events", "POST", body, {**headers, **(sign(body) if signature is None else signature)})[0]

        def envelope(data):
            return {"specversion": "1.0", "id": f"shop/{data['order_id']}", "source": "/shop/web", "type": "weir.OrderPlaced"}
        sent = []
        for form in ("binary json", "binary avro", "structured"):
            data = self.order()
            plain = {**data, "placed_at": "2026-01-02T03:04:05.000006Z"} if form == "binary json" else data
            binary = {"ce-" + name: value for name, value in envelope(data).items()}
            if form == "structured":
                body, headers = json.dumps({**envelope(data), "data": plain}).encode(), {"Content-Type": "application/cloudevents+json"}
            elif form == "binary json":
                body, headers = json.dumps(plain).encode(), {**binary, "Content-Type": "application/json"}
            else:
                body, headers = books.encode("OrderPlaced", data), {**binary, "Content-Type": "application/avro"}
            assert post(body, headers, {}) == 401, form
            assert post(body, headers, sign(body, at=int(time.time()) - 400)) == 401, form
            for _ in range(2):  # again: the same event
                assert post(body, headers) == 202, form
            assert post(body[:-1], headers) in (400, 422), form
            self.shop.placed[data["order_id"]] = data
            sent.append(data["order_id"])
        for order in sent:
            self.wait_status(order, "confirmed")
            assert len(self.charges(order)) == 1
        for order, events in self.log(*sent).items():
            placed = [event for event in events if event.type == "OrderPlaced"]
            assert [event.id for event in placed] == [f"shop/{order}"], placed
            assert placed[0].headers["ce_source"] == b"/shop/web" and placed[0].headers["ce_subject"] == order.encode()
        self.restart("order")

    def backlog(self):
        """Kafka is gone: orders are accepted up to the bound, then 503; all are relayed, in their order, when it is back."""
        self.restart("order", ORDER_BACKLOG_MAX=str(BACKLOG))
        shop.wait_until_settled(self.here, 0)
        self.here.kafka_kill()
        accepted, refused = [], None
        for _ in range(BACKLOG * 4):
            data = self.order()
            status, _, headers = self.here.call("order", "/v1/orders", "POST", json.dumps(self.body(data)).encode())
            if status == 202:
                accepted.append(data["order_id"])
                self.shop.placed[data["order_id"]] = data
            else:
                assert status == 503 and int(headers["Retry-After"]) > 0, (status, dict(headers))
                refused = data["order_id"]
                break
        assert refused and len(accepted) >= BACKLOG, f"{len(accepted)} accepted, {refused or 'none'} refused"
        assert self.status(accepted[0]) == "accepted" and self.status(refused) == 404
        self.here.kafka_start()
        for order in accepted:
            self.wait_status(order, "confirmed")
        print(f"  {len(accepted)} accepted without Kafka")
        relayed = collections.defaultdict(list)
        for event in books.distinct(books.read_topics(self.here.kafka, ["orders"])):
            if event.type == "OrderPlaced" and event.key in accepted:
                relayed[event.partition].append(accepted.index(event.key))
        assert sorted(number for numbers in relayed.values() for number in numbers) == list(range(len(accepted)))
        assert all(numbers == sorted(numbers) for numbers in relayed.values()), relayed
        self.restart("order")

    PARTS = ("cancel_races", "upstream_cancellation", "expiry", "invalid_orders", "upstream_payment", "webhook",
             "idempotency", "events", "backlog")


def main():
    def test(here):
        here.start_all()
        edges, begun, failures = Edges(here), time.monotonic(), []
        for part in sys.argv[1:] or Edges.PARTS:
            try:
                getattr(edges, part)()
            except AssertionError as error:
                failures.append(f"{part}: {error}")
            print(f"{part}: {failures[-1] if failures and failures[-1].startswith(part) else 'ok'}, {time.monotonic() - begun:.0f} s", flush=True)
            if failures:
                break  # what comes after would stand on it
        if not failures:
            undrained = here.stop_all(60)
            assert not undrained, undrained
        assert not failures, failures
    shop.run(test)


if __name__ == "__main__":
    main()
