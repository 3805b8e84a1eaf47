"""Kafka with TLS, logins and ACLs, on a real broker: what compose/kafka/README.md says is true.

    test_kafka_security.py [PART…]      parts: ways mistakes acls tools topics; all by default

The certificates are made here, with openssl, for this run. The table of ACLs is read from that page.
"""
import glob
import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid

import books
import shop
import world

PAGE = os.path.join(world.ROOT, "compose", "kafka", "README.md")
EVENT_TOPICS = ("orders", "payments", "inventory", "emails")
LISTENERS = ("SSL", "MUTUAL", "SASL_SSL", "SASL_PLAINTEXT")
PASSWORD = "correct-horse"
KEY_PASSWORD = "battery-staple"
CONFIG = 78
SCRAM_VERSION = (2, 6, 1)
WAIT = 120


def table():
    """{principal: [(operation, resource, name, pattern)]}, one line of the first table of ACLs an operation."""
    acls = {}
    with open(PAGE) as page:
        text = page.read().split("| principal | operation | resource | name | pattern |", 1)[1]
    for line in text.splitlines()[2:]:
        if not line.startswith("|"):
            break
        principal, operations, resource, name, pattern = (cell.strip() for cell in line.strip("|").split("|"))
        for operation in operations.split(", "):
            acls.setdefault(principal, []).append((operation, resource, name, pattern))
    assert set(world.SERVICES) <= set(acls), acls
    return acls


def principal_of(name, without=None):
    """A name for a principal that has all of the table, or all but one."""
    return name.replace(" ", "-") + ("" if without is None else f"-{without}")


class Secured(world.World):
    """A World whose broker also listens with TLS and SASL. Without either everybody may do everything, and the World does."""

    def __init__(self, principals=(), **settings):
        self.principals = principals
        super().__init__({"RETRY_DELAYS": "200ms", **settings})

    def openssl(self, *words, text=None):
        subprocess.run(["openssl", *words], check=True, cwd=self.certificates, input=text, text=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, timeout=60)

    def certificate(self, name, host, password=None):
        """name.pem, name.key, and for the broker name.store with both; signed by ca."""
        self.openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={host}")
        with open(f"{self.certificates}/{name}.ext", "w") as file:
            file.write(f"subjectAltName=DNS:{host}\n")
        self.openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
                     "-extfile", f"{name}.ext", "-out", f"{name}.pem")
        with open(f"{self.certificates}/{name}.store", "w") as store:
            for part in ("key", "pem"):
                with open(f"{self.certificates}/{name}.{part}") as file:
                    store.write(file.read())
        if password:
            self.openssl("pkcs8", "-topk8", "-in", f"{name}.key", "-passout", f"pass:{password}", "-out", f"{name}.locked")

    def make_certificates(self):
        self.certificates = self.folder + "/certificates"
        os.mkdir(self.certificates)
        for authority in ("ca", "other"):
            self.openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", f"{authority}.key", "-out",
                         f"{authority}.pem", "-subj", f"/CN=weir test {authority}")
        self.certificate("broker", "localhost")
        self.certificate("elsewhere", "elsewhere.example")
        self.certificate("client", "weir-client", KEY_PASSWORD)

    def kafka_start(self):
        self.make_certificates()
        ports, taken = {}, {self.kafka_port}  # a port that was free once may be given twice
        for name in (*LISTENERS, "ELSEWHERE", "CONTROLLER"):
            while ports.get(name, self.kafka_port) in taken:
                ports[name] = world.free_port()
            taken.add(ports[name])
        controller = ports.pop("CONTROLLER")
        self.at = {name: f"localhost:{port}" for name, port in ports.items()}
        plain = f"PLAINTEXT://127.0.0.1:{self.kafka_port}"
        others = ",".join(f"{name}://localhost:{port}" for name, port in ports.items())
        users = " ".join(f'user_{name}="{PASSWORD}"' for name in ("alice", *self.principals))
        store = "listener.name.{}.ssl.keystore.location=" + self.certificates + "/{}.store"
        properties = [
            f"listeners={plain},CONTROLLER://127.0.0.1:{controller},{others}", f"advertised.listeners={plain},{others}",
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,MUTUAL:SSL,ELSEWHERE:SSL,"
            "SASL_SSL:SASL_SSL,SASL_PLAINTEXT:SASL_PLAINTEXT",
            "ssl.keystore.type=PEM", "ssl.truststore.type=PEM", f"ssl.truststore.location={self.certificates}/ca.pem",
            *(store.format(name, "broker") for name in ("ssl", "mutual", "sasl_ssl")), store.format("elsewhere", "elsewhere"),
            "listener.name.mutual.ssl.client.auth=required",
            "listener.name.sasl_ssl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.sasl_plaintext.sasl.enabled.mechanisms=PLAIN,OAUTHBEARER",
            *(f"listener.name.{name}.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
              for name in ("sasl_ssl", "sasl_plaintext")),
            *(f"listener.name.sasl_ssl.{name}.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;"
              for name in ("scram-sha-256", "scram-sha-512")),
            "listener.name.sasl_plaintext.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer."
            'OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";',
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users=User:ANONYMOUS;User:alice;"
            "User:CN=weir-client", *world.NODE_PROPERTIES,
        ]
        # Everybody that TLS lets in has no name; the listener without anything is the test's own.
        words = [word for each in properties for word in ("--set", each)]
        os.environ.setdefault("KAFKA_HEAP_OPTS", "-Xms128m -Xmx384m")
        self.node("start", self.folder + "/kafka", str(self.kafka_port), str(controller), *words, "--user", f"alice:{PASSWORD}")

    def make_topics(self, partitions):
        self.tool("topics", "create", "--partitions", "1", KAFKA_BOOTSTRAP_SERVERS=self.kafka)

    def tool(self, *words, check=True, text=None, **settings):
        environment = {**os.environ, "RETRY_DELAYS": self.settings["RETRY_DELAYS"], **settings}
        done = subprocess.run([self.tools + "/services/weir/weir", *words], env=environment, capture_output=True, text=True, input=text,
                              timeout=120, cwd=self.folder)
        assert not check or done.returncode == 0, (words, done.returncode, done.stdout, done.stderr)
        return done

    def service_tool(self, service, *words, **settings):
        return subprocess.run([f"{self.build}/services/weir-{service}", *words], env={**os.environ, **settings}, capture_output=True,
                              text=True, timeout=120, cwd=self.folder)

    def file_with(self, text):
        path = f"{self.folder}/secret-{uuid.uuid4()}"
        with open(path, "w") as file:
            file.write(text + "\n")
        return path

    def login(self, principal):
        """Settings of a principal with a password, without TLS."""
        return {"KAFKA_BOOTSTRAP_SERVERS": self.at["SASL_PLAINTEXT"], "KAFKA_SECURITY_PROTOCOL": "sasl_plaintext",
                "KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SASL_USERNAME": principal, "KAFKA_SASL_PASSWORD": PASSWORD}

    def fresh(self, instance, **settings):
        """Starts a process with nothing behind it: a group and a database of its own, so that it reads everything."""
        self.start(instance, DATABASE_URL=f"sqlite:{self.folder}/{instance}.db", KAFKA_GROUP_ID=f"weir-{instance}", **settings)

    def ask_instance(self, instance, path, method, body):
        status, data, _ = self.call_instance(instance, path, method, json.dumps(body).encode())
        return status, data

    def reason(self, instance):
        """What /readyz says, '' while it is ready or does not answer."""
        status, body, _ = self.call_instance(instance, "/readyz")
        return body.decode() if status == 503 else ""

    def end(self, instance):
        self.kill(instance) if self.running(instance) else None


def order_data(seed):
    return next(iter(shop.make_orders(1, f"security/{seed}", declined=0).values()))


# ---- every way in

def ways(here):
    secret, certificates = here.file_with(PASSWORD), here.certificates
    tls = {"KAFKA_SSL_CA": certificates + "/ca.pem"}
    login = {"KAFKA_SASL_USERNAME": "alice", "KAFKA_SASL_PASSWORD_FILE": secret}
    token = "enable.sasl.oauthbearer.unsecure.jwt=true\nsasl.oauthbearer.config=principal=alice lifeSeconds=60"
    return {
        "tls": {"KAFKA_BOOTSTRAP_SERVERS": here.at["SSL"], "KAFKA_SECURITY_PROTOCOL": "ssl", **tls},
        "tls with a client certificate": {
            "KAFKA_BOOTSTRAP_SERVERS": here.at["MUTUAL"], "KAFKA_SECURITY_PROTOCOL": "ssl", **tls,
            "KAFKA_SSL_CERTIFICATE": certificates + "/client.pem", "KAFKA_SSL_KEY": certificates + "/client.locked",
            "KAFKA_SSL_KEY_PASSWORD_FILE": here.file_with(KEY_PASSWORD)},
        **{mechanism: {"KAFKA_BOOTSTRAP_SERVERS": here.at["SASL_SSL"], "KAFKA_SECURITY_PROTOCOL": "sasl_ssl", **tls,
                       "KAFKA_SASL_MECHANISM": mechanism, **login} for mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")},
        "OAUTHBEARER": {"KAFKA_BOOTSTRAP_SERVERS": here.at["SASL_PLAINTEXT"], "KAFKA_SECURITY_PROTOCOL": "sasl_plaintext",
                        "KAFKA_SASL_MECHANISM": "OAUTHBEARER", "KAFKA_PROPERTIES_FILE": here.file_with(token)},
    }


def library_of(here):
    """(version of librdkafka that the services load, {} or the settings to load the one that is in the tests' Python)."""
    import confluent_kafka
    here.start("email", KAFKA_BOOTSTRAP_SERVERS=here.kafka)
    version = json.loads(here.wait("/version answers", lambda: here.call_instance("email", "/version")[1]))["librdkafka"]
    here.end("email")
    if tuple(map(int, version.split("."))) >= SCRAM_VERSION:
        return version, {}
    newer = glob.glob(os.path.join(os.path.dirname(confluent_kafka.__file__) + ".libs", "librdkafka*"))
    assert newer and confluent_kafka.libversion()[1] >= 0x02060100
    folder = here.folder + "/newer"
    os.mkdir(folder)
    os.symlink(newer[0], folder + "/librdkafka.so.1")
    return version, {"LD_LIBRARY_PATH": folder}


def test_ways(here):
    """An order goes in by HTTP and out onto its topic, and one that upstream wrote comes in, by each way."""
    found = ways(here)
    # What SCRAM sends is refused by Kafka 4 from an old librdkafka (Debian 12's): that is said, and a newer one gets in.
    version, newer = library_of(here)
    if newer:
        settings = found["SCRAM-SHA-512"]
        here.fresh("order@old", **settings)
        here.wait("an old library is said to be one", lambda: f"this is {version}" in here.reason("order@old"), WAIT)
        here.end("order@old")
        for way in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            found[way].update(newer)
    for number, (way, settings) in enumerate(found.items()):
        # KAFKA_PROPERTIES is the World's own otherwise, and would go before the file.
        settings = {"KAFKA_PROPERTIES": "" if "KAFKA_PROPERTIES_FILE" in settings else world.MEMBER_PROPERTIES, **settings}
        here.fresh(f"order@{number}", **settings)
        here.ways = getattr(here, "ways", {})
        here.ways[f"order@{number}"] = (way, settings)
    for number, (instance, (way, settings)) in enumerate(here.ways.items()):
        here.wait_ready(instance)
        data = order_data(number)
        body = {key: data[key] for key in ("order_id", "customer_id", "email", "currency", "items")}
        status, answer = here.ask_instance(instance, "/v1/orders", "POST", body)
        assert status == 202, (way, status, answer)
        here.wait(f"{way}: the order is on its topic", lambda d=data: d["order_id"] in placed(here), WAIT)
        checked = here.service_tool("order", "check", **settings, DATABASE_URL=f"sqlite:{here.folder}/check.db", HTTP_LISTEN="127.0.0.1:0")
        assert checked.returncode == 0 and "ok   kafka" in checked.stdout, (way, checked.stdout, checked.stderr)
        listed = here.tool("dlq", "list", **settings)
        shown = here.service_tool("order", "config", **settings).stdout
        seen = here.log(instance) + listed.stdout + listed.stderr + checked.stdout + checked.stderr + shown
        assert PASSWORD not in seen and KEY_PASSWORD not in seen, f"{way}: a password is shown"
        print(f"{way}: works")
    # Each has read what the others wrote: consuming works as well.
    for instance, (way, _) in here.ways.items():
        here.wait(f"{way}: it has read all orders",
                  lambda i=instance: (world.total(here.metrics_of(i), "weir_events_total", 'topic="orders"') or 0) >= len(found), WAIT)
        here.end(instance)


def placed(here):
    return {(record.key or b"").decode(errors="replace") for record in books.read_records(here.kafka, ["orders"])}


# ---- mistakes

def test_mistakes(here):
    tls = {"KAFKA_SECURITY_PROTOCOL": "ssl", "KAFKA_SSL_CA": here.certificates + "/ca.pem"}
    login = {"KAFKA_SECURITY_PROTOCOL": "sasl_ssl", "KAFKA_SSL_CA": here.certificates + "/ca.pem", "KAFKA_SASL_USERNAME": "alice",
             "KAFKA_BOOTSTRAP_SERVERS": here.at["SASL_SSL"], "KAFKA_SASL_PASSWORD": "wrong-" + PASSWORD}
    # what is wrong -> settings, and a word that /readyz, check and the tool must say
    wrong = {
        "another authority": ({**tls, "KAFKA_BOOTSTRAP_SERVERS": here.at["SSL"], "KAFKA_SSL_CA": here.certificates + "/other.pem"},
                              r"certificate verify failed"),
        "another host": ({**tls, "KAFKA_BOOTSTRAP_SERVERS": here.at["ELSEWHERE"]}, r"certificate verify failed|hostname mismatch"),
        "no client certificate": ({**tls, "KAFKA_BOOTSTRAP_SERVERS": here.at["MUTUAL"]}, r"certificate required|bad certificate|Disconnected"),
        "a wrong password, PLAIN": ({**login, "KAFKA_SASL_MECHANISM": "PLAIN"}, r"[Aa]uthentication failed"),
        "a wrong password, SCRAM": ({**login, "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512"}, r"[Aa]uthentication failed"),
        "a mechanism that is not on": ({**login, "KAFKA_SASL_MECHANISM": "OAUTHBEARER", "KAFKA_PROPERTIES":
                                        "enable.sasl.oauthbearer.unsecure.jwt=true;sasl.oauthbearer.config=principal=alice"},
                                       r"OAUTHBEARER"),
    }
    for number, settings in enumerate(settings for settings, _ in wrong.values()):
        here.fresh(f"email@{number}", **settings)
    for number, (what, (settings, words)) in enumerate(wrong.items()):
        instance = f"email@{number}"
        here.wait(f"{what}: /readyz says why: {here.reason(instance)}", lambda i=instance, w=words: re.search(w, here.reason(i)), WAIT)
        assert re.search(words, here.log(instance)), (what, here.log_end(instance))
        checked = here.service_tool("email", "check", **settings, DATABASE_URL=f"sqlite:{here.folder}/check.db", HTTP_LISTEN="127.0.0.1:0",
                                    SMTP_URL=here.mailbox.url)
        assert checked.returncode == 69 and re.search(words, checked.stdout), (what, checked.returncode, checked.stdout, checked.stderr)
        assert here.stop(instance) == 0 and PASSWORD not in here.log(instance) + checked.stdout + checked.stderr, what
        print(f"{what}: said")
    settings, words = wrong["a wrong password, PLAIN"]
    listed = here.tool("topics", check=False, **settings)
    assert listed.returncode == 69 and re.search(words, listed.stderr) and PASSWORD not in listed.stderr, (listed.returncode, listed.stderr)
    # What no retry can mend ends it.
    for what, settings, words in (
            ("no such file", {**tls, "KAFKA_BOOTSTRAP_SERVERS": here.at["SSL"], "KAFKA_SSL_CA": "/nowhere/ca.pem"}, "ssl.ca.location"),
            ("a misspelt property", {"KAFKA_PROPERTIES": f"sasl.pasword={PASSWORD}"}, "sasl.pasword")):
        done = here.service_tool("email", "serve", **settings, DATABASE_URL=f"sqlite:{here.folder}/check.db", HTTP_LISTEN="127.0.0.1:0",
                                 SMTP_URL=here.mailbox.url)
        assert done.returncode == CONFIG and words in done.stderr and PASSWORD not in done.stderr, (what, done.returncode, done.stderr)
        print(f"{what}: ends with {done.returncode}")


# ---- ACLs

def give(here, lacks):
    """ACLs to all principals: lacks maps a principal to (name of the table, index of the line that it does not get or None, group)."""
    from confluent_kafka.admin import (AclBinding, AclOperation, AclPermissionType, AdminClient, ResourcePatternType, ResourceType)
    kinds = {"topic": ResourceType.TOPIC, "group": ResourceType.GROUP}
    patterns = {"literal": ResourcePatternType.LITERAL, "prefix": ResourcePatternType.PREFIXED}
    acls, bindings = table(), []
    for principal, (name, without, group) in lacks.items():
        for index, (operation, resource, on, pattern) in enumerate(acls[name]):
            if index != without:
                bindings.append(AclBinding(kinds[resource], group if resource == "group" else on, patterns[pattern], f"User:{principal}", "*",
                                           AclOperation[operation.upper()], AclPermissionType.ALLOW))
    admin = AdminClient({"bootstrap.servers": here.kafka})
    for future in admin.create_acls(bindings).values():
        future.result(60)


def feed(here, name):
    """What makes each service write to all of its topics: an order that nobody has seen, its stock, and junk."""
    upstream = shop.Shop(here)
    data = order_data(name)
    upstream.place(data)
    upstream.send("StockReserved", {"order_id": data["order_id"], "reserved_until": data["placed_at"] + 900_000_000,
                                    "reserved_at": data["placed_at"]})
    for topic in EVENT_TOPICS:
        upstream.produce(topic, "junk", b"no event at all", [])
    upstream.flush()
    upstream.close()


def provoke(here, service, instance):
    """Its own events, where it writes only when it is asked to. False while it does not answer."""
    if service == "order":
        data = order_data(instance)
        body = {key: data[key] for key in ("customer_id", "email", "currency", "items")}
        return here.ask_instance(instance, "/v1/orders", "POST", body)[0] == 202
    if service == "inventory":
        return here.ask_instance(instance, "/v1/stock/sku-00", "PUT", {"available": 9})[0] == 200
    return True


def named(operation, resource, on):
    return rf"needs the ACL {operation} on {resource} {re.escape(on)}"


def lacks_one(here, service, instance, acl, wrong):
    """Watches a process that lacks an ACL until it has said so, the way that the page says."""
    operation, resource, on, _ = acl
    on = f"weir-{instance}" if resource == "group" else on
    words, asked, until = named(operation, resource, on), False, time.monotonic() + WAIT
    while time.monotonic() < until:
        if not here.running(instance):
            code, log = here.processes[instance].returncode, here.log(instance)
            if code != CONFIG or not re.search(words, log) or operation != "Read":
                wrong.append(f"{instance} without {acl}: ended with {code}: {log[-1500:]}")
            return
        asked = asked or provoke(here, service, instance)
        if re.search(words, here.reason(instance)):
            if operation == "Read":
                wrong.append(f"{instance} without {acl}: goes on")
            elif not re.search(words, here.log(instance)):
                wrong.append(f"{instance} without {acl}: not in the log")
            return
        time.sleep(0.2)
    wrong.append(f"{instance} without {acl}: nothing was said: {here.reason(instance)} {here.log(instance)[-1500:]}")


def test_acls(here):
    acls = table()
    cases = [(service, without) for without in range(max(len(acls[service]) for service in world.SERVICES))
             for service in world.SERVICES if without < len(acls[service])]
    give(here, {**{principal_of(service): (service, None, f"weir-{service}") for service in world.SERVICES},
                **{principal_of(service, without): (service, without, f"weir-{service}@{without}") for service, without in cases}})
    # All of them, and no more: every record fails once and goes by a retry topic, junk becomes dead letters, an order is confirmed.
    feed(here, "all")
    for service in world.SERVICES:
        here.start(service, **here.login(principal_of(service)), TOPICS_CREATE="false", CHAOS="keys=100%:1")
    for service in world.SERVICES:
        here.wait_ready(service)
    data = order_data("confirmed")
    here.ask("inventory", f"/v1/stock/{data['items'][0]['sku']}", "PUT", {"available": 100})
    for item in data["items"]:
        assert here.ask("inventory", f"/v1/stock/{item['sku']}", "PUT", {"available": 100})[0] == 200
    body = {key: data[key] for key in ("order_id", "customer_id", "email", "currency", "items")}
    assert here.ask("order", "/v1/orders", "POST", body)[0] == 202
    here.wait("the order is confirmed", lambda: here.ask("order", f"/v1/orders/{data['order_id']}")[1].get("status") == "confirmed", WAIT)
    here.wait("its mails are sent", lambda: len([to for to, _, _ in here.mailbox.mails if to == data["email"]]) >= 3, WAIT)
    here.wait("junk is a dead letter of every service",
              lambda: all((here.metric(service, "weir_dlq_total") or 0) >= 1 for service in world.SERVICES), WAIT)
    here.wait("nothing waits to be written", lambda: all(here.metric(service, "weir_outbox_rows") == 0 for service in world.SERVICES), WAIT)
    for service in world.SERVICES:
        assert (here.metric(service, "weir_retry_total") or 0) >= 1, service
        assert here.stop(service) == 0, (service, here.log_end(service))
        assert "needs the ACL" not in here.log(service), here.log(service)[-2000:]
    print("all services work with the least set")
    # And without any one of them.
    wrong = []
    for without in range(max(len(acls[service]) for service in world.SERVICES)):
        round_ = [(service, f"{service}@{without}") for service in world.SERVICES if without < len(acls[service])]
        feed(here, without)
        for service, instance in round_:
            here.fresh(instance, **here.login(principal_of(service, without)), TOPICS_CREATE="false", CHAOS="keys=100%:1")
        watchers = [threading.Thread(target=lacks_one, args=(here, service, instance, acls[service][without], wrong))
                    for service, instance in round_]
        for watcher in watchers:
            watcher.start()
        for watcher in watchers:
            watcher.join()
        for _, instance in round_:
            here.end(instance)
    assert not wrong, "\n".join(wrong)
    print(f"{len(cases)} processes without one ACL each: all say which")


# ---- the tools

TOOLS = {
    "weir dlq list": (["dlq", "list", "--service", "order"], None),
    "weir dlq redrive": (["dlq", "redrive", "--service", "order", "--yes"], None),
    "weir topics": (["topics"], None),
    "weir topics create": (["topics", "create"], None),
    "weir watch": (["watch", "orders", "--from", "beginning", "--exit"], None),
    "weir emit": (["emit"], "event"),
}


def event_line():
    data = order_data("emit")
    return json.dumps({"specversion": "1.0", "id": str(uuid.uuid4()), "source": "/test", "type": "weir.OrderPlaced", "data": data}) + "\n"


def test_tools(here):
    acls = table()
    assert set(acls) == set(TOOLS) | set(world.SERVICES), "the page's table and this test know the same tools"
    feed(here, "tools")
    here.start("order", KAFKA_BOOTSTRAP_SERVERS=here.kafka)
    here.wait_ready("order")
    here.wait("order has a dead letter", lambda: (here.metric("order", "weir_dlq_total") or 0) >= 1, WAIT)
    here.wait("it is written", lambda: here.metric("order", "weir_outbox_rows") == 0, WAIT)
    # So that there is something on the topic audit, and something to send back.
    here.tool("dlq", "drop", "--service", "order", "--yes", "--reason", "test", KAFKA_BOOTSTRAP_SERVERS=here.kafka)
    feed(here, "tools again")
    here.wait("order has more dead letters", lambda: (here.metric("order", "weir_dlq_total") or 0) >= 2 * len(EVENT_TOPICS[:3]), WAIT)
    here.wait("they are written", lambda: here.metric("order", "weir_outbox_rows") == 0, WAIT)
    give(here, {principal_of(tool, without): (tool, without, "") for tool in TOOLS for without in (None, *range(len(acls[tool])))})
    from confluent_kafka.admin import AdminClient
    admin = AdminClient({"bootstrap.servers": here.kafka})
    for tool, (words, text) in TOOLS.items():
        if tool == "weir topics create":
            for future in admin.delete_topics(["orders"]).values():
                future.result(60)
            here.wait("there is no topic orders", lambda: "orders" not in admin.list_topics(timeout=30).topics, WAIT)
        for without in (*range(len(acls[tool])), None):
            done = here.tool(*words, check=False, text=event_line() if text else None, **here.login(principal_of(tool, without)))
            said = done.stdout + done.stderr
            if without is None:
                assert "needs the ACL" not in said.replace("needs the ACL Describe on it", "").replace("needs the ACL Create", "") or \
                       tool.startswith("weir topics"), (tool, said)
                assert done.returncode in ((0,) if not tool.startswith("weir topics") else (0, 1, CONFIG)), (tool, done.returncode, said)
                continue
            operation, resource, on, _ = acls[tool][without]
            if tool == "weir topics":
                assert re.search(rf"^{on} .*needs the ACL {operation} on it", said, re.M), (tool, without, said)
            else:
                assert done.returncode != 0 and re.search(named(operation, resource, on), said), (tool, acls[tool][without], done.returncode, said)
        print(f"{tool}: says what it lacks")
    here.end("order")


# ---- topics

def test_topics(here):
    """Each finding about topics, in the log of a service that starts and by `weir topics`."""
    from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
    admin = AdminClient({"bootstrap.servers": here.kafka})
    changes = {
        "orders": ("retention.ms", "3600000", "retention.ms is 3600000"),
        "payments": ("cleanup.policy", "compact", "cleanup.policy is compact"),
        "inventory": ("min.insync.replicas", "2", "nothing can be written to it"),
        "dlq.payment": ("max.message.bytes", "1000", "max.message.bytes is 1000"),
        "retry.payment.200ms": ("retention.ms", "-1", "take effect twice"),
    }
    for topic, (name, value, _) in changes.items():
        resource = ConfigResource(ResourceType.TOPIC, topic,
                                  incremental_configs=[ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)])
        for future in admin.incremental_alter_configs([resource]).values():
            future.result(60)
    here.start("payment", KAFKA_BOOTSTRAP_SERVERS=here.kafka)
    here.wait_ready("payment")
    for topic, (name, _, words) in changes.items():
        def said(topic=topic, words=words):
            return [line for line in here.log("payment").splitlines() if words in line and f'"{topic}"' in line]
        line = here.wait(f"payment warns of {topic}: {words}", said, WAIT)[0]
        assert '"do"' in line and ("--add-config" in line or "INBOX_AGE" in line), line
    listed = here.tool("topics", check=False, KAFKA_BOOTSTRAP_SERVERS=here.kafka).stdout
    for topic, (_, _, words) in changes.items():
        assert words in listed or topic.startswith("retry."), (topic, listed)
    assert "1 of 6 declared partitions" in listed, listed
    assert here.stop("payment") == 0
    for future in admin.delete_topics(["inventory", "dlq.payment"]).values():
        future.result(60)
    here.start("payment", KAFKA_BOOTSTRAP_SERVERS=here.kafka)
    here.wait("a missing topic is said", lambda: '"topic":"inventory","do":"weir topics create"' in here.log("payment"), WAIT)
    here.wait("its own is made", lambda: "dlq.payment" in admin.list_topics(timeout=30).topics, WAIT)
    here.end("payment")
    print("topics are looked at")


PARTS = {"ways": test_ways, "mistakes": test_mistakes, "acls": test_acls, "tools": test_tools, "topics": test_topics}


def main():
    wanted = sys.argv[1:] or list(PARTS)
    world.need("WEIR_BUILD_DIR")
    acls = table()
    principals = [principal_of(name, without) for name, lines in acls.items() for without in (None, *range(len(lines)))]

    def run(here):
        for part in wanted:
            begun = time.monotonic()
            PARTS[part](here)
            print(f"{part}: {time.monotonic() - begun:.0f} s", flush=True)

    here = Secured(principals)
    failed = True
    try:
        run(here)
        failed = False
    finally:
        here.close(failed)


if __name__ == "__main__":
    main()
