"""world: a real Kafka node, the five services as processes, and stand-ins for what is outside of them.

With TEST_DATABASE=postgres in the environment the services keep their data in a PostgreSQL of the World's own, else in
SQLite files. The stand-ins (a payment gateway, a mail server) are Python's own, so that the books are not checked with code of the
product. Everything is on loopback, on ports that are free, below one temporary folder, and is ended by close().
"""
import contextlib
import http.client
import http.server
import json
import os
import random
import shutil
import signal
import socket
import socketserver
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SERVICES = ("order", "inventory", "payment", "email", "analytics")
SKIPPED = 77
# A member that was killed is missed after two seconds instead of six or 45, so that kills cost little time.
NODE_PROPERTIES = ("group.min.session.timeout.ms=500",)
MEMBER_PROPERTIES = "session.timeout.ms=2000;heartbeat.interval.ms=500"


RETRY_DELAYS = "200ms,400ms,800ms"


def need(name):
    value = os.environ.get(name)
    if not value:
        print(f"{name} is not set (tests/README.md)")
        sys.exit(SKIPPED)
    return value


PORTS = range(12000, 20000)  # below those that the kernel gives to clients: one that tries again and again would take it itself


def free_port():
    """One that nobody listens on, and that stays free while its program is away for a moment."""
    for port in random.SystemRandom().sample(PORTS, 200):
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass
    raise AssertionError(f"no free port among 200 of {PORTS}")


class Gateway(http.server.ThreadingHTTPServer):
    """Keeps a ledger by idempotency key. Loses some answers after having charged, which is the worst that a gateway does.

    Declines every customer whose id begins with `decline_prefix`; answers `slow-N-…` after N seconds.
    """
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, lose=0.0, decline_prefix="declined-"):
        self.lock = threading.Lock()
        self.answers = {}  # idempotency key -> (payload, status, body)
        self.charges = []  # (order_id, payment_id, amount, currency, captured)
        self.refunds = []  # (payment_id, amount, currency)
        self.lose, self.decline_prefix = lose, decline_prefix
        self.random = random.Random(7)
        super().__init__(("127.0.0.1", 0), GatewayHandler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        pass  # a client that was killed in the middle


class GatewayHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_POST(self):
        payload = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = self.headers["Idempotency-Key"]
        with self.server.lock:
            known = self.server.answers.get(key)
            if known is None:
                known = self.answer(payload)
                self.server.answers[key] = known
            lost = self.server.random.random() < self.server.lose
        customer = json.loads(payload).get("customer_id", "")
        if customer.startswith("slow-"):
            time.sleep(float(customer.split("-")[1]))
        if known[0] != payload:
            status, body = 422, {"reason": "another request with this key"}
        else:
            status, body = known[1:]
        if lost:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def answer(self, payload):
        asked = json.loads(payload)
        if self.path.endswith("/v1/charges"):
            captured = not asked["customer_id"].startswith(self.server.decline_prefix)
            payment = f"pay-{len(self.server.charges)}"
            self.server.charges.append((asked["order_id"], payment, asked["amount_minor"], asked["currency"], captured))
            if not captured:
                return payload, 402, {"payment_id": payment, "status": "declined", "reason": "card declined"}
            return payload, 200, {"payment_id": payment, "status": "captured"}
        self.server.refunds.append((asked["payment_id"], asked["amount_minor"], asked["currency"]))
        return payload, 200, {"payment_id": asked["payment_id"], "status": "refunded"}


class Mailbox(socketserver.ThreadingTCPServer):
    """An SMTP server that keeps (recipient, Message-ID, subject) of each mail that it has answered 250 for."""
    daemon_threads = True
    request_queue_size = 256
    allow_reuse_address = True

    def __init__(self):
        self.lock = threading.Lock()
        self.mails = []
        super().__init__(("127.0.0.1", 0), MailboxHandler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"smtp://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        pass


class MailboxHandler(socketserver.StreamRequestHandler):
    def say(self, line):
        self.wfile.write(line.encode() + b"\r\n")

    def handle(self):
        self.say("220 mailbox")
        to = []
        while True:
            line = self.rfile.readline()
            if not line:
                return
            verb = line.split()[0].upper() if line.split() else b""
            if verb in (b"EHLO", b"HELO"):
                self.say("250 mailbox")
            elif verb == b"RCPT":
                to.append(line.decode("latin-1").split("<", 1)[1].split(">", 1)[0])
                self.say("250 ok")
            elif verb == b"DATA":
                self.say("354 go on")
                self.take(to)
                to = []
            elif verb == b"QUIT":
                self.say("221 bye")
                return
            else:
                self.say("250 ok")

    def take(self, to):
        headers, line, last = {}, b"", ""
        inside = True
        while True:
            line = self.rfile.readline()
            if not line:
                return
            if line == b".\r\n":
                break
            if line == b"\r\n":
                inside = False
            if inside:
                if line[:1] in b" \t":
                    headers[last] += line.decode("latin-1").strip()
                else:
                    last, _, value = line.decode("latin-1").partition(":")
                    last = last.lower()
                    headers[last] = value.strip()
        with self.server.lock:
            for address in to:
                self.server.mails.append((address, headers.get("message-id"), headers.get("subject")))
        self.say("250 taken")


class World:
    def __init__(self, settings=None, gateway=None, partitions=6, build=None):
        """`build` holds the services; what else is needed is taken from WEIR_BUILD_DIR."""
        self.tools = os.path.abspath(need("WEIR_BUILD_DIR"))
        self.build = os.path.abspath(build or self.tools)
        need("WEIR_KAFKA_HOME")
        self.folder = tempfile.mkdtemp(prefix="weir-e2e-")
        self.settings = settings or {}
        self.gateway = gateway or Gateway()
        self.mailbox = Mailbox()
        self.processes, self.ports = {}, {}
        self.postgres = self.postgres_start() if os.environ.get("TEST_DATABASE") == "postgres" else None
        self.clients = []  # what close() calls before Kafka goes, so that no client complains of it
        self.kafka_port = free_port()
        self.kafka = f"127.0.0.1:{self.kafka_port}"
        self.kafka_start()
        self.make_topics(partitions)

    # ---- Kafka

    def node(self, *words):
        subprocess.run([ROOT + "/compose/kafka/node", *words], check=True, timeout=180, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL)

    def kafka_start(self):
        properties = [word for each in NODE_PROPERTIES for word in ("--set", each)]
        self.node("start", self.folder + "/kafka", str(self.kafka_port), *properties)

    def kafka_signal(self, number):
        with open(self.folder + "/kafka/node.pid") as file:
            os.kill(int(file.read()), number)

    def kafka_kill(self):
        self.kafka_signal(signal.SIGKILL)
        self.node("stop", self.folder + "/kafka")  # waits until it is gone

    def make_topics(self, partitions):
        """Without the retry topics of RETRY_DELAYS: each service makes its own."""
        subprocess.run([self.tools + "/services/weir/weir", "topics", "create", "--partitions", str(partitions)], check=True,
                       timeout=120, stdout=subprocess.DEVNULL,
                       env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": self.kafka})

    # ---- PostgreSQL

    def cluster(self, *words):
        return subprocess.run([ROOT + "/tests/support/postgres", words[0], self.folder + "/postgres", *words[1:]], timeout=120,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def postgres_start(self):
        """Its URL. It says the plan of each statement in its log."""
        os.chmod(self.folder, 0o755)  # it runs as another user where the test is run by root
        started = self.cluster("start", "shared_preload_libraries=auto_explain", "auto_explain.log_min_duration=0", "log_line_prefix=%a:")
        if started.returncode == 69:  # there is none here
            print(started.stderr)
            sys.exit(SKIPPED)
        assert started.returncode == 0, started.stderr
        return started.stdout.strip()

    def scans(self):
        """Statements of the loops that read a whole table, by the plans in the log: {statement: tables}."""
        found, statement, loops = {}, "", tuple(f"weir_{service}:" for service in SERVICES)
        with open(self.folder + "/postgres/server.log", errors="replace") as log:
            for line in log:
                if " plan:" in line:
                    ours = line.startswith(loops)
                elif "Query Text: " in line:
                    statement = line.split("Query Text: ", 1)[1].strip()
                elif "Seq Scan on " in line and ours:
                    found.setdefault(statement, set()).add(line.split("Seq Scan on ", 1)[1].split()[0])
        return found

    # ---- the services

    def start(self, instance, **more):
        """`instance` is a service, or one more process of it: "order", "order@2". `more` are settings of this start only."""
        service = instance.partition("@")[0]
        self.ports.setdefault(instance, free_port())
        environment = {
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka,
            "KAFKA_PROPERTIES": MEMBER_PROPERTIES,
            "DATABASE_URL": self.postgres or f"sqlite:{self.database(service)}",
            "HTTP_LISTEN": f"127.0.0.1:{self.ports[instance]}",
            "PAYMENT_GATEWAY_URL": self.gateway.url,
            "SMTP_URL": self.mailbox.url,
            "EMAIL_RATE": "0",
            "RETRY_DELAYS": RETRY_DELAYS,
            **({"CRASH_NOTE": f"{self.folder}/{instance}.crash"} if "@" in instance else {}),
            **self.settings,
            **more,
        }
        with open(f"{self.folder}/{instance}.log", "ab") as log:
            self.processes[instance] = subprocess.Popen([f"{self.build}/services/weir-{service}", "serve"], env=environment,
                                                       stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder)

    def start_all(self, **more):
        for service in SERVICES:
            self.start(service, **more)
        for service in SERVICES:
            self.wait_ready(service)

    def database(self, service):
        return f"{self.folder}/{service}.db"

    def databases(self):
        if self.postgres:
            return {service: f"{self.postgres}&options=-csearch_path%3Dweir_{service}" for service in SERVICES}
        return {service: self.database(service) for service in SERVICES}

    @contextlib.contextmanager
    def locked(self, service):
        """Another program holds the service's database: nothing can be committed until it lets go."""
        if self.postgres:
            with self.locked_tables(service):
                yield
            return
        with contextlib.closing(sqlite3.connect(self.database(service), timeout=30, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                other.execute("ROLLBACK")

    @contextlib.contextmanager
    def locked_tables(self, service):
        with subprocess.Popen(["psql", "--no-psqlrc", "-qAt", self.postgres], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True) as other:
            other.stdin.write(f"""BEGIN; DO $$ DECLARE each text; BEGIN
                FOR each IN SELECT tablename FROM pg_tables WHERE schemaname = 'weir_{service}' ORDER BY 1 LOOP
                EXECUTE 'LOCK TABLE weir_{service}.' || each || ' IN EXCLUSIVE MODE'; END LOOP; END $$; SELECT 'held';\n""")
            other.stdin.flush()
            assert other.stdout.readline() == "held\n"
            try:
                yield
            finally:
                other.stdin.close()
                other.wait(30)

    def running(self, service):
        return self.processes[service].poll() is None

    def kill(self, service):
        self.processes[service].send_signal(signal.SIGKILL)
        self.processes[service].wait()

    def stop(self, service, timeout=30):
        process = self.processes[service]
        if process.poll() is None:
            process.terminate()
        return process.wait(timeout)

    def instances(self, service):
        """Names of the processes of a service that run."""
        return [name for name in list(self.processes) if name.partition("@")[0] == service and self.running(name)]

    def stop_all(self, timeout=30):
        """All are told before any is waited for. {instance: exit code} of those that did not end with 0."""
        told = [name for name in self.processes if self.running(name) or not self.instances(name.partition("@")[0])]
        for name in told:
            if self.running(name):
                self.processes[name].terminate()
        codes = {name: self.processes[name].wait(timeout) for name in told}
        return {name: code for name, code in codes.items() if code != 0}

    def call(self, service, path, method="GET", body=None, headers=None, timeout=20):
        """(status, body, headers) with bodies as bytes; status 0 where no answer came. Of a service with several processes, any."""
        return self.call_instance(random.choice(self.instances(service) or [service]), path, method, body, headers, timeout)

    def call_instance(self, name, path, method="GET", body=None, headers=None, timeout=20):
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports[name]}{path}", method=method, data=body,
                                         headers={"Content-Type": "application/json", **(headers or {})})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read(), error.headers
        except (OSError, http.client.HTTPException):
            return 0, b"", {}

    def ask(self, service, path, method="GET", body=None, headers=None, timeout=20):
        """(status, JSON or None), with JSON in."""
        status, data, _ = self.call(service, path, method, None if body is None else json.dumps(body).encode(), headers, timeout)
        try:
            return status, json.loads(data) if data else None
        except ValueError:
            return status, None

    def wait(self, what, condition, seconds=180):
        until = time.monotonic() + seconds
        while True:
            found = condition()
            if found:
                return found
            if time.monotonic() > until:
                raise AssertionError(f"not within {seconds} s: {what}")
            time.sleep(0.1)

    def wait_ready(self, service):
        def ready():
            if not self.running(service):
                raise AssertionError(f"{service} ended with {self.processes[service].returncode}: {self.log_end(service)}")
            return self.call_instance(service, "/readyz")[0] == 200
        self.wait(f"{service} is ready", ready, 90)

    def log(self, service):
        with open(f"{self.folder}/{service}.log", "rb") as log:
            return log.read().decode(errors="replace")

    def log_end(self, service):
        return self.log(service)[-1000:]

    def metrics(self, service):
        """The page's lines; none where no answer came."""
        status, page, _ = self.call(service, "/metrics")
        return page.decode().splitlines() if status == 200 else []

    def metrics_of(self, instance):
        status, page, _ = self.call_instance(instance, "/metrics")
        return page.decode().splitlines() if status == 200 else []

    def metric(self, service, name, labels=""):
        """The sum of the series of a family whose labels hold this text; None where there is none."""
        return total(self.metrics(service), name, labels)

    def close(self, failed=False):
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        self.gateway.shutdown()
        self.mailbox.shutdown()
        try:
            for client in self.clients:
                client()
            self.node("stop", self.folder + "/kafka")
        finally:
            if self.postgres:
                self.cluster("kill")
            if failed:
                for service in self.processes:
                    print(f"--- {service}, the end of its log\n{self.log_end(service)}")
            shutil.rmtree(self.folder, ignore_errors=True)


def total(lines, name, labels=""):
    found = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + "{", name + " ")) and labels in line]
    return sum(found) if found else None
