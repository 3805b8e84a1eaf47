"""Dead letters from the outside: listed, shown, sent back, dropped, by `weir dlq` and by HTTP, on real Kafka.

    test_dlq.py [PART…]      parts are the methods of Dlq.PARTS; all by default
"""
import collections
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import uuid

import books
import shop
import world

TOKEN = "admin-of-the-tests"
DELAYS = "200ms,400ms"
FIRST = "200ms"
FOREIGN = ("orders.DLT", "connect-dlq", "clicks")
MANY = 10000


def fields(record):
    return {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers}


class Dlq:
    def __init__(self, here):
        self.here, self.shop = here, shop.Shop(here)
        self.weir = here.tools + "/services/weir/weir"

    # ---- what parts need

    def environment(self, **more):
        return {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": self.here.kafka, "RETRY_DELAYS": DELAYS, **more}

    def run(self, *words, code=0, **more):
        """`weir dlq WORDS`: its stdout."""
        done = subprocess.run([self.weir, "dlq", *words], env=self.environment(**more), stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=180)
        assert done.returncode == code, f"weir dlq {words}: {done.returncode}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
        self.said = done.stderr
        return done.stdout

    def listed(self, *words):
        return [json.loads(line) for line in self.run("list", "--json", *words).splitlines()]

    def redrive(self, *words, code=0, word="redrive"):
        """(forecast, done) of a run without a question."""
        lines = [json.loads(line) for line in self.run(word, "--yes", "--json", *words, code=code).splitlines()]
        assert lines[0]["event"] == "forecast", lines
        return lines[0], lines[1] if len(lines) > 1 else None

    def records(self, *topics):
        return books.read_records(self.here.kafka, topics)

    def order(self):
        return next(iter(shop.make_orders(1, uuid.uuid4().hex, declined=0).values()))

    def bury(self, service, key, value, event_id, fingerprint, count=4, cause="REJECT", more=(), topic=None):
        """A dead letter as the service itself would have written it."""
        headers = [("ce_id", event_id.encode()), ("ce_type", b"weir.OrderPlaced"), ("other", b"kept"),
                   ("__dlq.errors.topic", b"orders"), ("__dlq.errors.partition", b"0"), ("__dlq.errors.offset", b"5"),
                   ("__dlq.errors.group", b"weir-" + service.encode()), ("__dlq.errors.delivery.count", str(count).encode()),
                   ("__dlq.errors.message", b"crafted by a test"), ("weir_error_class", cause.encode()),
                   ("weir_error_fingerprint", fingerprint.encode()), ("weir_attempt", str(count).encode()),
                   ("weir_first_failed_at", b"2026-01-01T00:00:00Z"), *more]
        self.shop.produce(topic or f"dlq.{service}", key, value, headers)

    def placed(self):
        return self.here.ask("analytics", "/v1/figures")[1]["orders"]["placed"]

    def restart(self, service, **more):
        assert self.here.stop(service) == 0
        self.here.start(service, **more)
        self.here.wait_ready(service)

    def wait_dead(self, service, count, *words):
        return self.here.wait(f"{count} open dead letters of {service}",
                              lambda: (lambda found: found if len(found) >= count else None)(
                                  self.listed("--service", service, *words)), 60)

    def call(self, service, path, method="GET", body=None, token=TOKEN):
        return self.here.ask(service, path, method, body, {"Authorization": f"Bearer {token}"} if token else None, 60)

    # ---- parts

    def many_of_one_cause(self):
        """10,000 of one cause are one line with a count; --json is one line each."""
        before = len(self.listed("--service", "payment"))
        for number in range(MANY):
            self.bury("payment", f"many-{number % 100}", b"\x07" + str(number).encode(), f"many-{number}", "feedfeedfeedfeed")
            if number % 1000 == 0:
                self.shop.flush()
        self.shop.flush()
        lines = [line for line in self.run("list", "--service", "payment").splitlines() if "feedfeedfeedfeed" in line]
        assert len(lines) == 1 and int(lines[0].split()[0]) == MANY, lines
        letters = self.listed("--service", "payment", "--fingerprint", "feedfeedfeedfeed")
        assert len(letters) == MANY and len(self.listed("--service", "payment")) == MANY + before
        one = next(letter for letter in letters if letter["id"] == "many-77")
        assert one["state"] == "open" and one["key"] == "many-77" and one["topic"] == "dlq.payment"
        assert one["__dlq.errors.offset"] == "5" and one["weir_error_class"] == "REJECT" and one["error"] and one["raw"]
        assert ["other", "kept"] in one["headers"]
        forecast = json.loads(self.run("redrive", "--dry-run", "--json", "--service", "payment", "--fingerprint",
                                       "feedfeedfeedfeed", "--rate", "100/s"))
        assert forecast["would_send"] == MANY and forecast["duplicates"] == 0 and forecast["seconds"] == 100, forecast
        assert forecast["causes"][0]["count"] == MANY

    def stop_and_resume(self):
        """SIGINT ends a redrive after what is in flight, 75; the same command goes on; each letter is sent once."""
        words = ("redrive", "--yes", "--service", "payment", "--fingerprint", "feedfeedfeedfeed")
        process = subprocess.Popen([self.weir, "dlq", *words, "--rate", "1000/s"], env=self.environment(),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            self.here.wait("the redrive has begun", lambda: self.records("audit"), 60)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 75, (process.returncode, out, err)
        first = int(re.search(r"^(\d+) sent back", out, re.M).group(1))
        assert 0 < first < MANY and "the same command again" in err, (out, err)
        assert len(self.listed("--service", "payment", "--fingerprint", "feedfeedfeedfeed")) == MANY - first
        _, done = self.redrive("--service", "payment", "--fingerprint", "feedfeedfeedfeed", "--rate", "0")
        assert done["sent"] == MANY - first and done["passed"] == first, done
        assert self.listed("--service", "payment", "--fingerprint", "feedfeedfeedfeed") == []
        assert "--all shows 10000" in self.said
        sent = [record for record in self.records(f"retry.payment.{FIRST}") if fields(record)["ce_id"].startswith("many-")]
        ids = collections.Counter(fields(record)["ce_id"] for record in sent)
        assert len(ids) == MANY and set(ids.values()) == {1}
        last = {}
        for record in sent:  # in the order of each key
            number = int(fields(record)["ce_id"].split("-")[1])
            assert number > last.get(record.key, -1), record
            last[record.key] = number
        some = fields(sent[0])
        assert some["weir_attempt"] == "0" and some["weir_redrives"] == "1" and some["other"] == "kept"
        assert some["__dlq.errors.delivery.count"] == "4" and some["__dlq.errors.offset"] == "5"
        assert some["weir_redriven_by"] and re.match(r"\d{4}-\d\d-\d\dT", some["weir_redriven_at"])
        audit = [json.loads(record.value) for record in self.records("audit")]
        places = collections.Counter((entry["topic"], entry["partition"], entry["offset"]) for entry in audit)
        assert len(places) == MANY and set(places.values()) == {1}
        assert len({entry["run"] for entry in audit}) == 2

    def retry_letters(self):
        """What used up its attempts takes effect once when it is sent back, however often it is sent back."""
        self.restart("analytics", CHAOS="keys=100%:1000")
        orders = [self.order() for _ in range(20)]
        for data in orders:
            self.shop.send("OrderPlaced", data)
        self.shop.flush()
        found = self.wait_dead("analytics", len(orders), "--class", "RETRY")
        assert all(letter["weir_attempt"] == "3" and letter["data"]["order_id"] == letter["key"] for letter in found), found[0]
        self.restart("analytics")
        before = self.placed()
        forecast, done = self.redrive("--service", "analytics", "--class", "RETRY", "--rate", "0")
        assert forecast["would_send"] == done["sent"] == len(found), (forecast, done)
        self.here.wait("what was sent back has its effect", lambda: self.placed() == before + len(orders), 60)
        assert self.listed("--service", "analytics", "--class", "RETRY") == []
        forecast, done = self.redrive("--service", "analytics", "--class", "RETRY", "--rate", "0", "--again")
        assert forecast["duplicates"] == forecast["would_send"] == done["sent"] == len(found), forecast
        self.settled("analytics")
        assert self.placed() == before + len(orders)
        assert self.listed("--service", "analytics", "--class", "RETRY") == []

    def settled(self, service):
        def calm():
            lines = self.here.metrics(service)
            return lines and world.total(lines, "kafka_consumergroup_lag") == 0 and world.total(lines, "weir_outbox_rows") == 0
        calm_since = [None]

        def lasting():
            if not calm():
                calm_since[0] = None
                return False
            calm_since[0] = calm_since[0] or time.monotonic()
            return time.monotonic() - calm_since[0] > 2
        self.here.wait(f"{service} is calm", lasting, 60)

    def reject_letters(self):
        """What is still wrong comes back, with the count of its redrives; show dumps what cannot be decoded."""
        event_id = f"junk-{uuid.uuid4()}"
        self.shop.produce("orders", "junk", b"\0" + struct.pack(">i", 999999) + b"not ours",
                          shop.headers_of("OrderPlaced", event_id))
        self.shop.flush()
        self.wait_dead("analytics", 1, "--id", event_id)
        shown = self.run("show", "--service", "analytics", "--id", event_id)
        assert "schema" in shown and "6e 6f 74 20 6f 75 72 73" in shown and "state: open" in shown, shown
        for times in (1, 2):
            _, done = self.redrive("--service", "analytics", "--id", event_id)
            assert done["sent"] == 1
            letter = self.wait_dead("analytics", 1, "--id", event_id)[0]
            assert letter["weir_redrives"] == str(times), letter
            assert letter["__dlq.errors.topic"] == "orders", letter
        shown = self.run("show", "--service", "analytics", "--id", event_id)
        assert "failed again after 2 redrives" in shown, shown
        line = self.run("list", "--service", "analytics", "--id", event_id)
        assert "had been redriven" in line, line
        states = collections.Counter(letter["state"] for letter in self.listed("--service", "analytics", "--id", event_id, "--all"))
        assert states == {"open": 1, "redriven": 2}, states

    def crash_in_between(self):
        """Killed between copy and audit: the next run sends it again, and it takes effect once."""
        self.restart("analytics", CHAOS="keys=100%:1000")
        orders = [self.order() for _ in range(10)]
        for data in orders:
            self.shop.send("OrderPlaced", data)
        self.shop.flush()
        self.wait_dead("analytics", len(orders), "--class", "RETRY")
        self.restart("analytics")
        before = self.placed()
        self.run("redrive", "--yes", "--service", "analytics", "--class", "RETRY", "--rate", "0", code=99,
                 WEIR_FAULT="redrive_after_ack:5")
        left = len(self.listed("--service", "analytics", "--class", "RETRY"))
        assert left >= len(orders) - 4, left
        _, done = self.redrive("--service", "analytics", "--class", "RETRY", "--rate", "0")
        assert done["sent"] == left
        sent = collections.Counter(fields(record)["ce_id"] for record in self.records(f"retry.analytics.{FIRST}")
                                   if record.key.decode() in {data["order_id"] for data in orders}
                                   and "weir_redrives" in fields(record))
        assert len(sent) == len(orders) and max(sent.values()) == 2, sent
        self.here.wait("all take effect", lambda: self.placed() == before + len(orders), 60)
        self.settled("analytics")
        assert self.placed() == before + len(orders)

    def drop(self):
        """A key that waits behind its dead letter goes on when that is dropped; the reason is kept."""
        self.restart("inventory", CHAOS="keys=100%:1000")
        data = self.order()
        self.shop.send("OrderPlaced", data)
        self.shop.flush()
        letter = self.wait_dead("inventory", 1, "--key", data["order_id"])[0]
        self.shop.send("OrderCancelled", {"order_id": data["order_id"], "reason": "test", "cancelled_at": int(time.time() * 1e6)})
        self.shop.flush()
        self.restart("inventory")
        self.settled("inventory")
        held = self.here.metric("inventory", "weir_waiting_keys")
        assert held, "the key does not wait behind its dead letter"
        self.run("drop", "--yes", "--service", "inventory", "--id", letter["id"], code=64)
        assert "--reason" in self.said
        _, done = self.redrive("--service", "inventory", "--id", letter["id"], "--reason", "a test order", "--by", "ann", word="drop")
        assert done["sent"] == 1, done
        self.here.wait("the key goes on", lambda: self.here.metric("inventory", "weir_waiting_keys") == held - 1, 60)
        self.settled("inventory")
        assert self.listed("--service", "inventory", "--id", letter["id"]) == []
        all_of_it = self.listed("--service", "inventory", "--id", letter["id"], "--all")
        assert [one["state"] for one in all_of_it] == ["dropped"], all_of_it
        entry = [one for one in map(lambda record: json.loads(record.value), self.records("audit")) if one["event_id"] == letter["id"]]
        assert len(entry) == 1 and entry[0]["action"] == "drop" and entry[0]["reason"] == "a test order" and entry[0]["by"] == "ann", entry

    def letters_of_others(self):
        """Spring's go to the service whose group they name, Connect's go home; junk is named and left."""
        before, data = self.placed(), self.order()
        value, key = books.encode("OrderPlaced", data), data["order_id"]
        self.shop.produce("orders.DLT", key, value, [
            *shop.headers_of("OrderPlaced", "spring-1"), ("kafka_dlt-original-topic", b"orders"),
            ("kafka_dlt-original-partition", struct.pack(">i", 2)), ("kafka_dlt-original-offset", struct.pack(">q", 77)),
            ("kafka_dlt-original-consumer-group", b"weir-analytics"), ("kafka_dlt-exception-fqcn", b"java.lang.IllegalState"),
            ("kafka_dlt-exception-message", b"went off")])
        self.shop.produce("connect-dlq", "k", b"{}", [
            ("trace", b"1"), ("__connect.errors.topic", b"clicks"), ("__connect.errors.partition", b"0"),
            ("__connect.errors.offset", b"3"), ("__connect.errors.connector.name", b"sink"),
            ("__connect.errors.exception.class.name", b"java.lang.Boom")])
        self.shop.produce("connect-dlq", "k", b"junk", [("trace", b"2")])
        self.shop.flush()
        listed = self.listed("--from", "orders.DLT")
        assert len(listed) == 1 and listed[0]["data"]["order_id"] == key and listed[0]["state"] == "open"
        forecast, done = self.redrive("--from", "orders.DLT")
        assert done["sent"] == 1 and forecast["would_go_home"] == 0, (forecast, done)
        self.here.wait("Spring's takes effect", lambda: self.placed() == before + 1, 60)
        sent = [fields(record) for record in self.records(f"retry.analytics.{FIRST}") if fields(record).get("ce_id") == "spring-1"]
        assert len(sent) == 1 and sent[0]["__dlq.errors.topic"] == "orders" and sent[0]["__dlq.errors.offset"] == "77", sent
        forecast, done = self.redrive("--from", "connect-dlq", code=65)
        assert done["sent"] == 1 and done["unreadable"] == 1 and forecast["would_go_home"] == 1, (forecast, done)
        assert "connect-dlq[" in done["refused_first"], done
        home = self.records("clicks")
        assert len(home) == 1 and home[0].headers == [("trace", b"1")] and home[0].value == b"{}", home
        assert self.redrive("--from", "orders.DLT")[1] is None  # settled: nothing to send

    def usage(self):
        """Exit codes."""
        self.run("drop", "--service", "order", code=64)
        assert "--reason" in self.said
        self.run("redrive", "--service", "order", "--dry-run", "--id", "none")
        self.run("redrive", "--service", "order", "--id", "none")  # no terminal: nobody is asked
        assert "no dead letters" in self.said
        self.run("list", "--id", "none")
        self.run("burn", code=64)
        self.run("list", "--class", "OTHER", code=78)
        self.run("list", "--since", "yesterday", code=78)
        self.run("list", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1", code=69)

    def http(self):
        """The same over HTTP, for who has the token."""
        for path, method in (("/v1/dlq", "GET"), ("/v1/dlq/0/0", "GET"), ("/v1/dlq/jobs/x", "GET"), ("/v1/dlq/redrive", "POST"),
                             ("/v1/dlq/drop", "POST")):
            body = {} if method == "POST" else None
            assert self.call("analytics", path, method, body, token=None)[0] == 401, path
            assert self.call("analytics", path, method, body, token="wrong")[0] == 401, path
        orders = [self.order() for _ in range(25)]
        for number, data in enumerate(orders):
            self.bury("analytics", data["order_id"], books.encode("OrderPlaced", data), f"http-{number}", "beefbeefbeefbeef", cause="RETRY")
        self.shop.flush()
        seen, after = [], ""
        while after is not None:
            status, page = self.call("analytics", f"/v1/dlq?fingerprint=beefbeefbeefbeef&limit=10{after and '&after=' + after}")
            assert status == 200 and len(page["items"]) <= 10, (status, page)
            seen += [(item["partition"], item["offset"]) for item in page["items"]]
            after = page["next"]
        assert len(seen) == 25 and seen == sorted(set(seen)), seen
        status, groups = self.call("analytics", "/v1/dlq?by=fingerprint&class=RETRY")
        assert status == 200 and [g["count"] for g in groups["groups"] if g["fingerprint"] == "beefbeefbeefbeef"] == [25], groups
        status, one = self.call("analytics", "/v1/dlq/%d/%d" % seen[3])
        assert status == 200 and one["state"] == "open" and one["data"]["order_id"] == one["key"], one
        assert self.call("analytics", "/v1/dlq/0/999999999")[0] == 404
        assert self.call("analytics", "/v1/dlq/zero/1")[0] == 404
        status, problem = self.call("analytics", "/v1/dlq?limit=0&colour=red")
        assert status == 422 and set(problem["errors"]) == {"limit", "colour"}, problem
        assert self.call("analytics", "/v1/dlq/drop", "POST", {})[0] == 422
        status, forecast = self.call("analytics", "/v1/dlq/redrive", "POST", {"fingerprint": "beefbeefbeefbeef", "dry_run": True, "rate": 5})
        assert status == 200 and forecast["would_send"] == 25 and forecast["seconds"] == 5, forecast
        before = self.placed()
        body = {"fingerprint": "beefbeefbeefbeef", "rate": "1/min", "by": "console"}
        status, job = self.call("analytics", "/v1/dlq/redrive", "POST", body)
        assert status == 202, job
        first = job["job_id"]
        assert self.call("analytics", "/v1/dlq/redrive", "POST", body)[0] == 409
        self.here.wait("one is sent", lambda: self.call("analytics", f"/v1/dlq/jobs/{first}")[1]["sent"] == 1, 60)
        assert self.call("analytics", f"/v1/dlq/jobs/{first}/stop", "POST")[0] == 202
        self.here.wait("it stops", lambda: self.call("analytics", f"/v1/dlq/jobs/{first}")[1]["state"] == "stopped", 60)
        status, job = self.call("analytics", "/v1/dlq/redrive", "POST", {**body, "rate": 0})
        assert status == 202, job

        def done():
            state = self.call("analytics", "/v1/dlq/jobs/" + job["job_id"])[1]
            return state if state["state"] != "active" else None
        state = self.here.wait("the job ends", done, 60)
        assert state["state"] == "completed" and state["sent"] == 24 and state["passed"] == 1 and state["progress"] == 100, state
        self.here.wait("all take effect", lambda: self.placed() == before + 25, 60)
        assert self.call("analytics", "/v1/dlq?fingerprint=beefbeefbeefbeef")[1]["items"] == []
        assert len(self.call("analytics", "/v1/dlq?fingerprint=beefbeefbeefbeef&state=redriven")[1]["items"]) == 25
        runs = {json.loads(record.value)["run"] for record in self.records("audit") if json.loads(record.value)["by"] == "console"}
        assert runs == {first, job["job_id"]}
        self.restart("analytics", ADMIN_TOKEN="")
        assert self.call("analytics", "/v1/dlq")[0] == 403
        assert self.here.stop("analytics") == 0

    PARTS = ("many_of_one_cause", "stop_and_resume", "retry_letters", "reject_letters", "crash_in_between", "drop",
             "letters_of_others", "usage", "http")


def main():
    def test(here):
        from confluent_kafka.admin import AdminClient, NewTopic
        admin = AdminClient({"bootstrap.servers": here.kafka})
        for topic in admin.create_topics([NewTopic(name, 3, 1) for name in FOREIGN]).values():
            topic.result(30)
        # Also of services that do not run here.
        subprocess.run([here.tools + "/services/weir/weir", "topics", "create", "--retry-delays", DELAYS], check=True, timeout=120,
                       env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": here.kafka}, stdout=subprocess.DEVNULL)
        dlq, begun, failures = Dlq(here), time.monotonic(), []
        for service in ("analytics", "inventory"):
            here.start(service)
        for service in ("analytics", "inventory"):
            here.wait_ready(service)
        for part in sys.argv[1:] or Dlq.PARTS:
            try:
                getattr(dlq, part)()
            except AssertionError as error:
                failures.append(f"{part}: {error}")
            print(f"{part}: {failures[-1] if failures and failures[-1].startswith(part) else 'ok'}, {time.monotonic() - begun:.0f} s", flush=True)
            if failures:
                break  # what comes after would stand on it
        assert not failures, failures
    shop.run(test, settings={"RETRY_DELAYS": DELAYS, "ADMIN_TOKEN": TOKEN})


if __name__ == "__main__":
    main()
