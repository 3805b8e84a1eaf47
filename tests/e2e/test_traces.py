"""One trace from the POST to the mail, as a collector gets it by OTLP; and what becomes of the line without a collector.

The collector refuses the first requests, and is gone at the end. email and analytics send JSON, the others protobuf.
A first failure of each record of `orders` is forced in inventory (CHAOS), so that the way through a retry topic is in the trace.
"""
import json
import sys
import time

import collector
import shop
import world

WHOLE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SETTINGS = {
    "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=a%20b",
    "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
    "OTEL_BSP_SCHEDULE_DELAY": "100",
    "LOG_FORMAT": "json",
}


class Traces:
    def __init__(self, here, server):
        self.here, self.server = here, server
        self.orders = iter(shop.make_orders(20, 3, declined=0).values())

    def post(self, traceparent=None):
        data = next(self.orders)
        body = {key: data[key] for key in ("order_id", "customer_id", "email", "locale", "currency")}
        body["items"] = [{"sku": "sku-01", "quantity": 1, "unit_price_minor": 700}]
        headers = {"traceparent": traceparent} if traceparent else {}
        status, answer, back = self.here.call("order", "/v1/orders", "POST", json.dumps(body).encode(), headers)
        assert status == 202, (status, answer)
        return data["order_id"], back["traceparent"]

    def wait_confirmed(self, order):
        self.here.wait(f"{order} is confirmed", lambda: self.here.ask("order", f"/v1/orders/{order}")[1]["status"] == "confirmed", 120)

    def eventually(self, trace, check, seconds=120):
        """check(spans of the trace) once it says nothing against them: each service sends its own, when it likes to."""
        until = time.monotonic() + seconds
        while True:
            spans = self.server.trace(trace)
            try:
                return check(spans)
            except AssertionError:
                if time.monotonic() > until:
                    print("\n".join(map(repr, spans)))
                    raise
            time.sleep(0.2)


def named(spans, service, name, **attributes):
    wanted = {key.replace("__", "."): value for key, value in attributes.items()}
    return [span for span in spans if span.service == f"weir-{service}" and span.name == name
            and wanted.items() <= span.attributes.items()]


def type_of(name):
    return {"cloudevents__event_type": "weir." + name}


def whole(spans):
    """All three mails and what follows from them."""
    assert len(named(spans, "email", "smtp send")) == len(named(spans, "analytics", "process emails")) == 3, "a mail is missing"
    assert named(spans, "analytics", "process orders", **type_of("OrderConfirmed")), "the end is missing"


def check_whole(traces):
    """A trace that began at the client, through every service, each span below the one that caused it."""
    order, back = traces.post(f"00-{WHOLE}-{PARENT}-01")
    assert back == f"00-{WHOLE}-{PARENT}-01", back
    traces.wait_confirmed(order)
    traces.eventually(WHOLE, whole_and_right)


def whole_and_right(spans):
    whole(spans)
    by_id = {span.id: span for span in spans}
    assert len(by_id) == len(spans), "two spans have one id"
    for span in spans:
        assert span.parent == PARENT or span.parent in by_id, f"{span} hangs in the air"
        assert span.start <= span.end and span.start > 0, span
        assert span.resource["deployment.environment.name"] == "test" and span.resource["service.instance.id"], span.resource
        assert span.flags & 0xff == 1, span

    def one(service, name, **attributes):
        found = named(spans, service, name, **attributes)
        assert len(found) == 1, f"{service} {name} {attributes}: {found}"
        return found[0]

    def child(span, parent, kind):
        assert span.parent == parent.id and span.kind == kind, f"{span} is not the {kind} child of {parent}"
        return span

    server = one("order", "POST /v1/orders")
    assert (server.kind, server.parent) == ("SERVER", PARENT), server
    assert server.attributes["http.response.status_code"] == 202 and server.attributes["http.route"] == "/v1/orders", server
    placed = child(one("order", "create orders", **type_of("OrderPlaced")), server, "PRODUCER")
    assert placed.attributes["messaging.system"] == "kafka" and placed.attributes["messaging.destination.name"] == "orders", placed
    sent = [span for span in named(spans, "order", "send orders") if span.parent == placed.id]
    assert len(sent) == 1 and sent[0].kind == "CLIENT" and sent[0].attributes["messaging.kafka.offset"] >= 0, sent

    # Its first attempt in inventory fails, and its copy comes by the retry topic: in the same trace.
    failed = child(one("inventory", "process orders", **type_of("OrderPlaced")), placed, "CONSUMER")
    assert failed.failed and failed.attributes["weir.outcome"] == "retry" and failed.attributes["error.type"] == "chaos", failed
    again = child(one("inventory", f"process retry.inventory.{world.RETRY_DELAYS.split(',')[0]}", **type_of("OrderPlaced")), placed, "CONSUMER")
    assert not again.failed and again.attributes["weir.attempt"] == 2, again
    reserved = child(one("inventory", "create inventory", **type_of("StockReserved")), again, "PRODUCER")

    charging = child(one("payment", "process inventory", **type_of("StockReserved")), reserved, "CONSUMER")
    charge = child(one("payment", "POST"), charging, "CLIENT")
    assert charge.attributes["http.response.status_code"] == 200 and charge.attributes["server.address"] == "127.0.0.1", charge
    captured = child(one("payment", "create payments", **type_of("PaymentCaptured")), charge, "PRODUCER")
    confirming = child(one("order", "process payments", **type_of("PaymentCaptured")), captured, "CONSUMER")
    confirmed = child(one("order", "create orders", **type_of("OrderConfirmed")), confirming, "PRODUCER")
    mailing = child(one("email", "process orders", **type_of("OrderConfirmed")), confirmed, "CONSUMER")
    mails = [span for span in named(spans, "email", "smtp send") if span.parent == mailing.id]
    assert len(mails) == 1 and mails[0].kind == "CLIENT" and not mails[0].failed, mails
    mailed = [span for span in named(spans, "email", "create emails") if span.parent == mails[0].id]
    assert len(mailed) == 1, mailed
    read = [span for span in named(spans, "analytics", "process emails") if span.parent == mailed[0].id]
    assert len(read) == 1, read


def check_log(traces):
    """The lines about failed attempts name the spans of these."""
    def known(spans):
        lines = [json.loads(line) for line in traces.here.log("inventory").splitlines() if line.startswith("{") and line.endswith("}")]
        told = {(line["trace_id"], line["span_id"]) for line in lines if line.get("station") == "retry" and "trace_id" in line}
        failed = {(span.trace, span.id) for span in spans if span.failed and span.service == "weir-inventory"}
        assert failed and failed <= told, (failed, told)
    traces.eventually(WHOLE, known)


def check_began_here(traces):
    """Without a traceparent the trace begins with the request, and the answer tells which."""
    order, back = traces.post()
    version, trace, span, flags = back.split("-")
    assert (version, flags) == ("00", "01"), back

    def began_here(spans):
        whole(spans)
        server = named(spans, "order", "POST /v1/orders")
        assert [(one.id, one.parent) for one in server] == [(span, "")], server
    traces.eventually(trace, began_here)


def check_not_sampled(traces):
    """What its client does not record is not recorded; nothing of it may come later either, so that what came after it is waited for."""
    trace = "1bf7651916cd43dd8448eb211c80319c"
    order, _ = traces.post(f"00-{trace}-{PARENT}-00")
    traces.wait_confirmed(order)
    check_began_here(traces)
    assert not traces.server.trace(trace), traces.server.trace(trace)


def check_dead_letter(traces):
    """A record that cannot be decoded: its trace ends with the failure, and with the copy that went to the dead letters."""
    trace = "2cf7651916cd43dd8448eb211c80319c"
    upstream = shop.Shop(traces.here)
    headers = shop.headers_of("OrderPlaced", "dead") + [("traceparent", f"00-{trace}-{PARENT}-01".encode())]
    upstream.produce("orders", "no-order", b"\0\0\0\0\x65junk", headers)
    upstream.flush()

    def dead(spans):
        process = named(spans, "email", "process orders")
        assert len(process) == len(named(spans, "email", "send dlq.email")) == 1, spans
        assert process[0].failed and process[0].status and process[0].parent == PARENT, process
        assert process[0].attributes["weir.outcome"] == "reject", process
    traces.eventually(trace, dead)


def exported(here, service):
    return world.total(here.metrics(service), "weir_spans_exported_total")


def test(here):
    server = collector.Collector()
    server.refuse = 3
    here.settings.update(SETTINGS, OTEL_EXPORTER_OTLP_ENDPOINT=server.url + "/")
    for service in world.SERVICES:
        more = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"} if service in ("email", "analytics") else {}
        here.start(service, **more, **({"CHAOS": "keys=100%:1"} if service == "inventory" else {}))
    for service in world.SERVICES:
        here.wait_ready(service)
    traces = Traces(here, server)
    shop.Shop(here).set_stock({"sku-01": 1000})
    check_whole(traces)
    check_log(traces)
    check_began_here(traces)
    check_not_sampled(traces)
    check_dead_letter(traces)
    assert not server.wrong, server.wrong
    assert server.types == {"application/x-protobuf", "application/json"}, server.types
    for service in world.SERVICES:
        assert exported(here, service) > 0, f"{service} has exported nothing"
        assert world.total(here.metrics(service), "weir_spans_dropped_total") == 0, f"{service} has dropped spans"

    # Nobody there any more: the line goes on, says so once, and ends as it should.
    said = lambda: here.log("order").count("the collector does not take traces")
    before = said()
    server.close()
    order, _ = traces.post()
    traces.wait_confirmed(order)
    here.wait("order says that the collector is gone", lambda: said() > before, 120)
    order, _ = traces.post()
    traces.wait_confirmed(order)
    undrained = here.stop_all(60)
    assert not undrained, undrained
    assert said() == before + 1, f"said {said() - before} times"


if __name__ == "__main__":
    shop.run(test)
