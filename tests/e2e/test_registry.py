"""The whole line with a schema registry: it is away and comes back, does not know, is told of other versions.

    test_registry.py SCHEMA_PEER

The registry is tests/support/registry.py, behind a URL that does not answer and a password. The services are started
while it is away. Upstream writes events of other versions of their schemas, with ids that nobody has seen before.
Then a producer and a consumer of a schema are upgraded one after the other, in each order, while events flow.
"""
import io
import json
import os
import struct
import subprocess
import sys
import time
import uuid

import fastavro

import books
import shop
import world

sys.path.insert(0, os.path.join(world.ROOT, "tests", "support"))
import registry  # noqa: E402

FIRST_ID = 1000
NOWHERE = "http://127.0.0.1:1"
YEAR_MS = 365 * 24 * 3600 * 1000
MANY = 150  # events before, between and after the upgrades


def schema_of(name):
    with open(f"{world.ROOT}/schemas/{name}.avsc") as file:
        return json.load(file)


def framed(number, schema, data):
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(json.dumps(schema))), data)
    return struct.pack(">bi", 0, number) + out.getvalue()


def field(schema, name):
    return next(one for one in schema["fields"] if one["name"] == name)


class Line:
    def __init__(self, here, server):
        self.here, self.server, self.shop = here, server, shop.Shop(here)
        self.orders = iter(shop.make_orders(100, 5, declined=0).values())

    def order(self):
        data = next(self.orders)
        return {**data, "items": [{"sku": "sku-01", "quantity": 1, "unit_price_minor": 700}], "total_minor": 700}

    def place(self, data, number, schema, key=None, timestamp=0):
        """As upstream would, in its own version; returns where it went."""
        places = []
        headers = shop.headers_of("OrderPlaced", "up-" + data["order_id"])
        self.shop.producer.produce("orders", framed(number, schema, data), key or data["order_id"], headers=headers,
                                   timestamp=timestamp, on_delivery=lambda error, message: places.append(
                                       (message.topic(), message.partition(), message.offset())))
        self.shop.flush()
        return places[0]

    def status(self, data):
        status, answer = self.here.ask("order", "/v1/orders/" + data["order_id"])
        return answer["status"] if status == 200 else status

    def wait_confirmed(self, *orders):
        for data in orders:
            self.here.wait(f"{data['order_id']} is confirmed, not {self.status(data)}", lambda: self.status(data) == "confirmed", 120)

    def dead(self):
        """{(service, where it was first): message}"""
        topics = ["dlq." + service for service in world.SERVICES]
        return {(one.topic.removeprefix("dlq."), *books.origin(one)): dict(one.headers)["__dlq.errors.message"].decode()
                for one in books.read_records(self.here.kafka, topics)}

    def reason(self, service):
        status, answer = self.here.ask(service, "/readyz")
        return (answer or {}).get("reason", "") if status != 200 else "ready"

    def weir(self, *words):
        done = subprocess.run([self.here.tools + "/services/weir/weir", *words], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=120, env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": self.here.kafka,
                                                           **self.here.settings})
        assert done.returncode == 0, (words, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    # ---- what must hold

    def away_at_start(self):
        """No exit, no readiness, the reason said; and then all goes on by itself."""
        self.server.away = True
        for service in world.SERVICES:
            self.here.start(service)
        for service in ("order", "inventory", "payment", "email"):
            self.here.wait(f"{service} says why it waits: {self.reason(service)}",
                           lambda: "schema registry is away" in self.reason(service), 60)
        self.server.away = False
        for service in world.SERVICES:
            self.here.wait_ready(service)
            assert "the schema registry is away" in self.here.log(service) or service == "analytics"
        self.shop.set_stock({"sku-01": 1000})

    def ids_of_the_registry(self):
        data = self.order()
        self.shop.post(data)
        assert not self.shop.failed, self.shop.failed
        self.wait_confirmed(data)
        for record in books.read_records(self.here.kafka, ("orders", "inventory", "payments")):
            number = struct.unpack(">i", record.value[1:5])[0]
            schema = json.loads(self.server.texts[number])
            assert dict(record.headers)["ce_type"].decode() == f"weir.{schema['name']}", record

    def other_versions(self):
        """Fields added and removed, a promotion, another order: each a version of upstream's own."""
        ours = schema_of("OrderPlaced")
        self.server.levels["orders-weir.OrderPlaced"] = "NONE"
        added, removed, promoted = (json.loads(json.dumps(ours)) for _ in range(3))
        added["fields"].insert(0, {"name": "channel", "type": {"type": "enum", "name": "Channel", "symbols": ["WEB", "SHOP"]}})
        added["fields"].append({"name": "notes", "type": {"type": "map", "values": "string"}})
        removed["fields"] = [one for one in removed["fields"] if one["name"] != "locale"][::-1]
        field(promoted, "total_minor")["type"] = "int"
        cases = [(added, {"channel": "SHOP", "notes": {"a": "b"}}), (removed, {}), (promoted, {})]
        self.versions = [(self.server.register("orders-weir.OrderPlaced", schema), schema) for schema, _ in cases]
        orders = []
        for (number, schema), (_, more) in zip(self.versions, cases):
            orders.append(self.order())
            self.place({**orders[-1], **more}, number, schema)
        self.wait_confirmed(*orders)
        for number, _ in self.versions:
            assert self.server.count(f"GET /schemas/ids/{number}") <= len(world.SERVICES), "one fetch an id and process"

    def outage(self):
        """An id that nobody has seen, and nobody to ask: it waits, with what comes behind it, and is no dead letter."""
        schema = schema_of("OrderPlaced")
        schema["fields"].append({"name": "later", "type": "string"})
        number = self.server.register("orders-weir.OrderPlaced", schema)
        self.server.away = True
        data = self.order()
        self.place({**data, "later": "x"}, number, schema)
        self.here.wait("inventory says that it waits", lambda: "schema registry is away" in self.reason("inventory"), 60)
        assert self.status(data) != "confirmed"
        self.server.away = False
        self.wait_confirmed(data)
        assert not self.dead(), self.dead()

    def unknown(self):
        """An id that the registry does not have is waited for, and is a dead letter then; one that comes in time is none."""
        schema = schema_of("OrderPlaced")
        schema["fields"].append({"name": "late", "type": "string"})
        number = self.server.register("orders-weir.OrderPlaced", schema)
        self.server.hidden.add(number)
        late, behind = self.order(), self.order()
        self.place({**late, "late": "x"}, number, schema)
        self.here.wait("it is asked for", lambda: self.server.count(f"GET /schemas/ids/{number}") > 1, 60)
        self.server.hidden.clear()
        self.wait_confirmed(late)
        assert not self.dead(), self.dead()
        bad = self.place(self.order(), 77777, schema_of("OrderPlaced"))
        readers = [service for service in world.SERVICES]  # all read `orders`
        self.here.wait("it is a dead letter of all that read it", lambda: len(self.dead()) >= len(readers), 120)
        dead = self.dead()
        assert {(service, *bad) for service in readers} == set(dead), dead
        assert all("schema id 77777" in message for message in dead.values()), dead
        self.place(behind, *self.versions[2])
        self.wait_confirmed(behind)

    def foreign(self):
        """An event of somebody else's on our topic is no dead letter."""
        schema = {"type": "record", "name": "OrderWrapped", "namespace": "shop", "fields": [{"name": "order_id", "type": "string"}]}
        number = self.server.register("orders-shop.OrderWrapped", schema)
        before, behind = self.dead(), self.order()
        self.shop.produce("orders", behind["order_id"], framed(number, schema, {"order_id": "x"}), [("ce_id", b"wrapped-1")])
        self.shop.flush()
        self.place(behind, *self.versions[2])
        self.wait_confirmed(behind)
        assert self.dead() == before

    def year_old(self):
        """Dead letters in a version of long ago are read with what the registry has of it."""
        data = self.order()
        before = set(self.dead())
        number, schema = self.versions[1]
        self.place(data, number, schema, key=str(uuid.uuid4()), timestamp=int(time.time() * 1000) - YEAR_MS)
        self.here.wait("its key is not its order id", lambda: len(self.dead()) > len(before), 120)
        shown = [one for one in self.weir("dlq", "show", "--json", "--service", "inventory") if (one.get("data") or {}).get("order_id") == data["order_id"]]
        assert len(shown) == 1 and shown[0]["data"]["locale"] == "en" and shown[0]["data"]["total_minor"] == 700, shown
        watched = [one for one in self.weir("watch", "orders", "--json", "--from", "beginning", "--exit")
                   if (one.get("data") or {}).get("order_id") == data["order_id"]]
        assert len(watched) == 1 and watched[0]["data"]["locale"] == "en", watched

    PARTS = ("away_at_start", "ids_of_the_registry", "other_versions", "outage", "unknown", "foreign", "year_old")


# ---- upgrades, one side after the other

def parcel(**changes):
    first = {
        "order_id": {"name": "order_id", "type": "string"},
        "weight": {"name": "weight", "type": "int"},
        "carrier": {"name": "carrier", "type": "string", "default": "post"},
        "note": {"name": "note", "type": "string", "default": ""},
        "state": {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["PACKED", "SENT"], "default": "PACKED"}},
    }
    return {"type": "record", "name": "Parcel", "namespace": "weir", "fields": [one for one in {**first, **changes}.values() if one]}


OLD = parcel()
# Added, removed, renamed by alias, an enum grown: readable both ways; with a promotion it is for readers first.
BOTH_WAYS = dict(depot={"name": "depot", "type": "string", "default": "A"}, carrier=None,
                 note={"name": "remark", "type": "string", "default": "", "aliases": ["note"]},
                 state={"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["PACKED", "SENT", "LOST"], "default": "PACKED"}})
NEW = parcel(**BOTH_WAYS)
READERS_FIRST = parcel(**BOTH_WAYS, weight={"name": "weight", "type": "long"})


class Upgrade:
    def __init__(self, here, server, peer, name, new):
        self.here, self.server, self.peer, self.topic, self.number = here, server, peer, "parcels." + name, 0
        from confluent_kafka.admin import AdminClient, NewTopic
        admin = AdminClient({"bootstrap.servers": here.kafka, "log_level": 2})
        admin.create_topics([NewTopic(self.topic, 1, 1)])[self.topic].result(60)
        here.wait("the broker knows the topic", lambda: any(
            partition.leader >= 0 for partition in admin.list_topics(timeout=30).topics[self.topic].partitions.values()), 60)
        self.files, self.readers, self.old_lines, self.new_lines = {}, [], [], []
        for version, schema in (("old", OLD), ("new", new)):
            self.files[version] = f"{here.folder}/{name}-{version}.avsc"
            # Under a name of its own, so that no other run's versions count.
            with open(self.files[version], "w") as file:
                json.dump({**schema, "name": "Parcel" + name}, file)

    def start(self, verb, version, output, **keywords):
        return subprocess.Popen([self.peer, verb, self.files[version], self.topic], stdout=output, text=True, env={
            **os.environ, **self.here.settings, "KAFKA_BOOTSTRAP_SERVERS": self.here.kafka}, **keywords)

    def write(self, version):
        lines = []
        for _ in range(MANY):
            self.number += 1
            data = {"order_id": str(self.number), "weight": self.number, "state": "SENT"}
            lines.append({**data, "carrier": "van", "note": "n"} if version == "old" else
                         {**data, "depot": "B", "remark": "n", "state": "LOST" if self.number % 2 else "SENT"})
        writer = self.start("write", version, subprocess.DEVNULL, stdin=subprocess.PIPE)
        writer.communicate("".join(json.dumps(line) + "\n" for line in lines), timeout=120)
        assert writer.returncode == 0

    def read(self, version):
        path = f"{self.here.folder}/{self.topic}-{version}.lines"
        with open(path, "w") as output:
            return self.start("read", version, output), path

    def lines(self, reader, count):
        """Once there are so many; `reader` is ended."""
        process, path = reader

        def there():
            assert process.poll() is None, "the reader has ended"
            with open(path) as file:
                return file.read().count("\n") >= count
        self.here.wait(f"{count} lines in {path}", there, 120)
        process.terminate()
        assert process.wait(30) == 0
        with open(path) as file:
            return [json.loads(line) for line in file]


def new_sees(line, number):
    """What an upgraded reader makes of the number-th event."""
    old = number <= MANY
    state = "SENT" if old or number % 2 == 0 else "LOST"
    return line == {"order_id": str(number), "weight": number, "remark": "n", "state": state, "depot": "A" if old else "B"}


def old_sees(line, number):
    """What a reader that was not upgraded makes of it."""
    old = number <= MANY
    state = "SENT" if old or number % 2 == 0 else "PACKED"
    return line == {"order_id": str(number), "weight": number, "carrier": "van" if old else "post", "note": "n" if old else "",
                    "state": state}


def all_are(lines, sees):
    wrong = [(number, line) for number, line in enumerate(lines, 1) if not sees(line, number)]
    assert not wrong, wrong[:3]


def consumer_first(here, server, peer):
    up = Upgrade(here, server, peer, "A", READERS_FIRST)
    reader = up.read("old")
    up.write("old")
    all_are(up.lines(reader, MANY), old_sees)
    reader = up.read("new")
    up.write("new")
    all_are(up.lines(reader, 2 * MANY), new_sees)


def producer_first(here, server, peer):
    up = Upgrade(here, server, peer, "B", NEW)
    reader = up.read("old")
    up.write("old")
    up.write("new")
    all_are(up.lines(reader, 2 * MANY), old_sees)
    all_are(up.lines(up.read("new"), 2 * MANY), new_sees)


def producer_too_early(here, server, peer):
    """What must be readers first is told apart where it is not, and read after the upgrade."""
    up = Upgrade(here, server, peer, "C", READERS_FIRST)
    reader = up.read("old")
    up.write("old")
    up.write("new")
    lines = up.lines(reader, 2 * MANY)
    all_are(lines[:MANY], old_sees)
    assert all(line.get("cause") == "schema-incompatible" and "weight" in line["error"] for line in lines[MANY:]), lines[MANY]
    all_are(up.lines(up.read("new"), 2 * MANY), new_sees)


def main():
    peer = os.path.abspath(sys.argv[1])
    world.need("WEIR_KAFKA_HOME")
    server = registry.Registry(user="weir", password="p@ss", first_id=FIRST_ID)

    def test(here):
        secret = here.folder + "/registry-password"
        with open(secret, "w") as file:
            file.write("p@ss\n")
        here.settings.update({
            "SCHEMA_REGISTRY_URL": f"{NOWHERE},{server.url}", "SCHEMA_REGISTRY_USER": "weir",
            "SCHEMA_REGISTRY_PASSWORD_FILE": secret, "SCHEMA_REGISTRY_REGISTER": "true", "SCHEMA_REGISTRY_UNKNOWN_WAIT": "5s"})
        begun = time.monotonic()
        for upgrade in (consumer_first, producer_first, producer_too_early):
            upgrade(here, server, peer)
            print(f"{upgrade.__name__}: ok, {time.monotonic() - begun:.0f} s", flush=True)
        line = Line(here, server)
        for part in Line.PARTS:
            getattr(line, part)()
            print(f"{part}: ok, {time.monotonic() - begun:.0f} s", flush=True)
        undrained = here.stop_all(60)
        assert not undrained, undrained
    shop.run(test, partitions=2)
    server.close()


if __name__ == "__main__":
    main()
