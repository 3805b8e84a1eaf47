"""programs: services as processes with a database each, and how long they take for what lies on their topics."""
import contextlib
import json
import os
import subprocess
import tempfile
import time

import measure
import orders
import world

POLL_SECONDS = 0.05
ANSWER_SECONDS_MAX = 60


def run(words, seconds=600, **more):
    """Standard output of a program that has to end with 0."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL, check=False, **more)
    if done.returncode:
        raise SystemExit(f"{os.path.basename(words[0])} ended with {done.returncode}: {done.stderr.strip()[-1000:]}")
    return done.stdout


def run_json(words, seconds=600, **more):
    return json.loads(run(words, seconds, **more))


@contextlib.contextmanager
def scratch():
    """A folder that goes afterwards, and in it the programs' log, whose end is printed when something fails."""
    with tempfile.TemporaryDirectory(prefix="weir-bench-") as folder, open(folder + "/log", "ab") as log:
        try:
            yield folder, log
        except BaseException:
            with open(folder + "/log", errors="replace") as said:
                print(said.read()[-3000:])
            raise


def make_topics(build, kafka, partitions=6):
    run([f"{build}/services/weir/weir", "topics", "create", "--partitions", str(partitions)], 120,
        env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": kafka})


class Service:
    """A service in a group of its own."""

    def __init__(self, build, name, kafka, group, database, log, **settings):
        self.name, self.port = name, world.free_port()
        environment = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": kafka, "KAFKA_GROUP_ID": group, "LOG_LEVEL": "error",
                       "DATABASE_URL": database, "HTTP_LISTEN": f"127.0.0.1:{self.port}", **settings}
        self.begun = time.monotonic()
        self.process = subprocess.Popen([f"{build}/services/weir-{name}", "serve"], env=environment, stdin=subprocess.DEVNULL,
                                        stdout=log, stderr=log)

    @property
    def pid(self):
        return self.process.pid

    def page(self):
        until = time.monotonic() + ANSWER_SECONDS_MAX
        while time.monotonic() < until and self.process.poll() is None:
            page = measure.Page(self.port)
            try:
                page.lines()
                return page
            except OSError:
                page.close()
                time.sleep(0.005)
        raise SystemExit(f"weir-{self.name} does not answer")

    def ready(self):
        """Waits until it has its partitions."""
        page = self.page()
        until_true(f"weir-{self.name} is ready", lambda: measure.total(page.lines(), "weir_ready"))
        page.close()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            code = self.process.wait(90)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            code = "a kill"
        if code != 0:
            raise SystemExit(f"weir-{self.name} ended with {code}")


def until_true(what, condition, seconds=180):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        got = condition()
        if got:
            return got
        time.sleep(POLL_SECONDS)
    raise SystemExit(f"{what}: not within {seconds} s")


def set_stock(service):
    """Of all SKUs, more than is ever ordered."""
    page = service.page()
    for number in range(orders.SKUS):
        page.connection.request("PUT", f"/v1/stock/SKU-{number:03}", json.dumps({"available": orders.STOCK}),
                                {"Content-Type": "application/json"})
        answer = page.connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"PUT /v1/stock: {answer.status}")
    page.close()


def remove_sqlite(path):
    for suffix in ("", "-wal", "-shm", ".lock", ".inhand"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + suffix)


def handle_all(services, events, seconds, postgres=None, settled=False, outbox_empty=lambda: True):
    """From the first handled event to the last, its answer acknowledged by the broker and deleted from the outbox.

    Several services share the events, and it counts from when each has handled one. `settled`: also until no key is held. `outbox_empty`
    asks the database, where a process may have written what another one, whose metrics do not know of it yet, is to send.
    """
    pages = [service.page() for service in services]

    def look():
        lines = [page.lines() for page in pages]
        return {
            "at": time.monotonic(), "cpu": sum(measure.cpu_seconds(service.pid) for service in services),
            "postgres": postgres.cpu_seconds() if postgres else 0,
            "handled": [measure.total(each, "weir_events_total", 'outcome="ok"') for each in lines],
            "all": sum(measure.total(each, "weir_events_total") for each in lines),
            "left": sum(measure.total(each, "weir_outbox_rows") for each in lines) +
            (sum(measure.total(each, "weir_waiting_keys") for each in lines) if settled else 0),
        }
    before = look()
    first, idle_mib, begun = None, [measure.memory_mib(service.pid) for service in services], time.monotonic()
    while True:
        now = look()
        handled = sum(now["handled"])
        if first is None and all(now["handled"]):
            first = now if handled < events else before  # all of it between two looks: from the one before
        before = before if handled else now
        if handled >= events and not now["left"] and outbox_empty():
            break
        if now["at"] > begun + seconds:
            raise measure.Wrong(f"{handled:.0f} of {events} events were handled in {seconds} s")
        time.sleep(POLL_SECONDS)
    if handled != events:
        raise measure.Wrong(f"{handled:.0f} events were handled, not {events}")
    for page in pages:
        page.close()
    first = first or before
    counted, took = handled - sum(first["handled"]), now["at"] - first["at"]
    if counted <= 0 or took <= 0:
        raise SystemExit("all was handled before it could be looked at: more events are needed")
    return {"events": counted, "seconds": took, "rate": counted / took, "cpu_us_an_event": (now["cpu"] - first["cpu"]) * 1e6 / counted,
            "postgres_cpu_us_an_event": (now["postgres"] - first["postgres"]) * 1e6 / counted if postgres else None,
            "shares": [each / handled for each in now["handled"]], "idle_mib": idle_mib,
            "rss_mib": [measure.memory_mib(service.pid) for service in services],
            "peak_mib": [measure.memory_mib(service.pid, "VmHWM") for service in services],
            "anonymous_mib": [measure.memory_mib(service.pid, "RssAnon") for service in services]}


# ---- a Kafka as if it were new, but warm

def forget_topics(kafka):
    """Deletes all topics and groups, so that nothing is slower, or has more to read, for what was there before."""
    from confluent_kafka.admin import AdminClient
    admin = AdminClient({"bootstrap.servers": kafka, "log_level": 2})

    def topics():
        return [name for name in admin.list_topics(timeout=30).topics if not name.startswith("__")]

    def empty_groups():
        listed = admin.list_consumer_groups(request_timeout=30).result(60)
        return [group.group_id for group in listed.valid if group.state.name in ("EMPTY", "DEAD")]
    names = topics()
    if names:
        for deleted in admin.delete_topics(names, operation_timeout=60).values():
            deleted.result(90)
        until_true("the topics are gone", lambda: not topics(), 60)
    groups = empty_groups()
    if groups:
        for deleted in admin.delete_consumer_groups(groups, request_timeout=30).values():
            try:
                deleted.result(60)
            except Exception:  # gone already: its topics were
                pass
