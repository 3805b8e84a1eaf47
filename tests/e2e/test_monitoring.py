#!/usr/bin/env python3
"""compose/monitoring at work: Prometheus with its own configuration (only the targets are others) watches services that are under load.

    test_monitoring.py           every target is up, every rule evaluates, all that rules and dashboards ask for is there
    test_monitoring.py services  faults of services and of what they need: each must raise its alerts, by the rules' own times (20 minutes)
    test_monitoring.py brokers   the same with one broker of three lost, then two (10 minutes)

The exporters have the flags of compose.yaml. kafka_exporter is taken from the PATH; without it there is a stand-in with its names. The
disk is looked at where the PATH has node_exporter (Debian: prometheus-node-exporter).

Exit 77: there is no prometheus (Debian's package).
"""
import http.server
import json
import math
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import shop
import test_rolling_brokers as rolling
import world

MONITORING = pathlib.Path(world.ROOT) / "compose/monitoring"
COMPOSE = (MONITORING.parent / "compose.yaml").read_text()
ORDERS_MAX = 20000  # no run gets so far
RATE = 10
TOKEN = {"ADMIN_TOKEN": "monitoring-monitoring-monitoring"}
PORT_OF = {"order": 8080, "inventory": 8082, "payment": 8083, "email": 8084, "analytics": 8085}


class KafkaExporter(http.server.ThreadingHTTPServer):
    """What rules and dashboards take from kafka_exporter, under its names, asked of Kafka by another client."""
    daemon_threads = True

    def __init__(self, port, brokers):
        from confluent_kafka.admin import AdminClient
        self.client = AdminClient({"bootstrap.servers": brokers, "log_level": 2})
        super().__init__(("127.0.0.1", port), KafkaExporterHandler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def page(self):
        found = self.client.list_topics(timeout=4)
        yield f"kafka_brokers {len(found.brokers)}"
        for name, topic in found.topics.items():
            for number, partition in topic.partitions.items():
                under = int(len(partition.isrs) < len(partition.replicas))
                yield f'kafka_topic_partition_under_replicated_partition{{topic="{name}",partition="{number}"}} {under}'


class KafkaExporterHandler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        from confluent_kafka import KafkaException
        try:
            page = "\n".join([*self.server.page(), ""]).encode()
        except KafkaException as error:
            self.send_error(503, str(error))
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)


def flags(service):
    """The command of a service in compose.yaml."""
    block = re.search(rf"^  {service}:\n(?:    .*\n)+", COMPOSE, re.M).group(0)
    return [word.strip().strip('"') for word in re.search(r"^    command: \[(.*)\]$", block, re.M).group(1).split(",")]


class Watch:
    """Prometheus and the exporters beside a World."""

    def __init__(self, here):
        self.here = here
        self.ports = {name: world.free_port() for name in ("prometheus", "kafka", "machine")}
        self.processes, self.stand_in = {}, None
        self.folder = pathlib.Path(here.folder) / "prometheus"
        self.folder.mkdir()
        self.machine = shutil.which("node_exporter") or shutil.which("prometheus-node-exporter")
        self.start_kafka_exporter()
        if self.machine:
            self.start("machine", self.machine, *(flag.replace("/host", "/") for flag in flags("node-exporter")),
                       f"--web.listen-address=127.0.0.1:{self.ports['machine']}")
        (self.folder / "prometheus.yml").write_text(self.configuration())
        self.start("prometheus", shutil.which("prometheus"), f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/data",
                   f"--web.listen-address=127.0.0.1:{self.ports['prometheus']}")

    def start(self, name, *words):
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def end(self, name):
        self.processes[name].kill()
        self.processes[name].wait()

    def start_kafka_exporter(self):
        program = shutil.which("kafka_exporter")
        if program:
            servers = [f"--kafka.server={server}" for server in self.here.kafka.split(",")]
            own = [flag for flag in flags("kafka-exporter") if not flag.startswith("--kafka.server=")]
            self.start("kafka", program, *servers, *own, f"--web.listen-address=127.0.0.1:{self.ports['kafka']}")
        else:
            self.stand_in = KafkaExporter(self.ports["kafka"], self.here.kafka)

    def stop_kafka_exporter(self):
        if self.stand_in:
            self.stand_in.shutdown()
            self.stand_in.server_close()
            self.stand_in = None
        else:
            self.end("kafka")

    def configuration(self):
        """prometheus.yml as it is; but the services are not found by a DNS, and all is on loopback."""
        text = (MONITORING / "prometheus/prometheus.yml").read_text()

        def target(match):
            service, port = match.group(1), int(match.group(2))
            assert PORT_OF[service] == port, (service, port)
            return f'- {{targets: ["127.0.0.1:{self.here.ports[service]}"], labels: {{__meta_dns_name: {service}}}}}'
        text, found = re.subn(r"- \{names: \[(\w+)\], type: A, port: (\d+), refresh_interval: 5s\}", target, text)
        assert found == len(world.SERVICES), f"{found} services are named in prometheus.yml"
        for old, new in (("dns_sd_configs:", "static_configs:"), ("kafka-exporter:9308", f"127.0.0.1:{self.ports['kafka']}"),
                         ("node-exporter:9100", f"127.0.0.1:{self.ports['machine']}"), ("127.0.0.1:9090", f"127.0.0.1:{self.ports['prometheus']}"),
                         ("- rules/recording.yml", f"- {MONITORING}/prometheus/rules/recording.yml"),
                         ("- rules/alerts.yml", f"- {MONITORING}/prometheus/rules/alerts.yml")):
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        return text

    def ask(self, path, **fields):
        """The data of an answer; None where there is none yet."""
        url = f"http://127.0.0.1:{self.ports['prometheus']}/api/v1/{path}?{urllib.parse.urlencode(fields)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.loads(answer.read())["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it starts
                return None
            raise AssertionError(f"{fields or path}: {error.read().decode()}") from error
        except OSError:
            assert self.processes["prometheus"].poll() is None, self.log("prometheus")
            return None

    def samples(self, query):
        """(labels, value) of each series that there is now."""
        data = self.ask("query", query=query)
        if data and data["resultType"] == "vector":
            return [(each["metric"], float(each["value"][1])) for each in data["result"]]
        return [({}, float(data["result"][1]))] if data else []

    def firing(self):
        """None where there is no answer."""
        data = self.ask("alerts")
        return data and {alert["labels"]["alertname"] for alert in data["alerts"] if alert["state"] == "firing"}

    def log(self, name):
        try:
            return (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]
        except FileNotFoundError:
            return ""

    def close(self, failed):
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        if self.stand_in:
            self.stand_in.shutdown()
        if failed:
            for name in self.ports:
                print(f"--- {name}, the end of its log\n{self.log(name)}")


class Load(threading.Thread):
    """Orders by HTTP, RATE a second, until it is told to end; refusals are part of some tests."""

    def __init__(self, here):
        super().__init__()
        self.here, self.ending, self.accepted = here, threading.Event(), 0
        self.orders = list(shop.make_orders(ORDERS_MAX, 1).values())

    def run(self):
        for data in self.orders:
            if self.ending.wait(1 / RATE):
                return
            body = {key: data[key] for key in ("order_id", "customer_id", "email", "locale", "currency", "items")}
            status, _ = self.here.ask("order", "/v1/orders", "POST", body, {"Idempotency-Key": f'"{data["order_id"]}"'}, timeout=5)
            self.accepted += status == 202

    def end(self):
        self.ending.set()
        self.join()


# ---- what is asked for

def rules():
    """(where, expression) of each rule, as Prometheus has read them: also those that are made of others."""
    for path in sorted((MONITORING / "prometheus/rules").glob("*.yml")):
        for match in re.finditer(r"^ +- (?:alert|record): (\S+)\n +expr: (?:\|\n((?:          .*\n)+)|(.*)\n)", path.read_text(), re.M):
            yield f"{path.name}: {match.group(1)}", match.group(2) or match.group(3)


def panels():
    """(where, expression, labels that its legend names) of each query of the dashboards."""
    for path in sorted((MONITORING / "grafana/dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        for each in board["annotations"]["list"]:
            yield f"{path.name}: {each['name']}", each["target"]["expr"], set(re.findall(r"\{\{(\w+)\}\}", each.get("titleFormat", "")))
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                yield f"{path.name}: {panel['title']}", target["expr"], set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))


def selectors(expression):
    return set(re.findall(r"[a-zA-Z_:][\w:]*\{[^}]*\}", expression))


class Questions:
    """Each must be answered once: {what is missing: the query} is what is left."""

    def __init__(self, watch):
        self.watch = watch
        self.left = {}   # (where, expression) → labels of its legend
        self.series = {}  # (where, selector)
        mine = list(rules()) + [(where, expression) for where, expression, _ in panels()]
        assert len(mine) > 70, f"only {len(mine)} expressions were found"
        for where, expression in mine:
            if self.can("node_filesystem" not in expression):
                self.series.update({(where, selector): None for selector in selectors(expression) if not selector.startswith("ALERTS")})
        for where, expression, legend in panels():
            if self.can("node_filesystem" not in expression):
                self.left[(where, expression)] = legend

    def can(self, without_machine):
        return without_machine or self.watch.machine

    def ask(self):
        for where, selector in list(self.series):
            # any service will do for a dashboard of one
            asked = selector.replace('service="$service"', 'service=~".+"')
            if self.watch.samples(asked):
                del self.series[(where, selector)]
        for (where, expression), legend in list(self.left.items()):
            # what is seen only while something is wrong is there without the comparison
            plain = re.sub(r"\s*> 0$", "", expression)
            for service in world.SERVICES if "$service" in plain else ("",):
                found = [(labels, value) for labels, value in self.watch.samples(plain.replace("$service", service)) if math.isfinite(value)]
                if found:
                    for labels, _ in found:
                        assert legend <= set(labels), f"{where}: its legend names {legend}, its series have {sorted(labels)}"
                    del self.left[(where, expression)]
                    break

    def answered(self):
        self.ask()
        return not self.left and not self.series


def all_is_there(here, watch):
    seen = set()

    def up():
        targets = (watch.ask("targets", state="active") or {"activeTargets": []})["activeTargets"]
        wanted = {target["scrapeUrl"] for target in targets if target["labels"]["job"] != "machine" or watch.machine}
        seen.update(target["scrapeUrl"] for target in targets if target["health"] == "up")
        return len(targets) == len(world.SERVICES) + 3 and wanted <= seen
    here.wait("every target is up", up)

    questions = Questions(watch)
    try:
        here.wait("everything that is asked for is there", questions.answered)
    except AssertionError as error:
        missing = [f"{where}: {what}" for where, what in [*questions.series, *questions.left]]
        raise AssertionError("\n".join([str(error), *missing])) from None

    def evaluated():
        found = [rule for group in (watch.ask("rules") or {"groups": []})["groups"] for rule in group["rules"]]
        wrong = [f"{rule['name']}: {rule.get('lastError')}" for rule in found if rule["health"] == "err"]
        assert not wrong, "\n".join(wrong)
        return len(found) == len(list(rules())) and all(rule["health"] == "ok" for rule in found)
    here.wait("every rule was evaluated", evaluated)
    assert {labels["service"] for labels, _ in watch.samples('up{job="weir"}')} == set(world.SERVICES)


# ---- alerts

def raised(here, watch, begun, what, names, seconds):
    names, seen = set(names), {}

    def condition():
        for name in (watch.firing() or set()) - set(seen):
            seen[name] = time.monotonic()
            print(f"{time.monotonic() - begun:5.0f} s: {name} fires", flush=True)
        return names <= set(seen)
    print(f"{time.monotonic() - begun:5.0f} s: {what}", flush=True)
    here.wait(f"{what}: {names - set(seen)}", condition, seconds)


def over(here, watch, begun, names, seconds):
    def condition():
        firing = watch.firing()
        return firing is not None and not firing & set(names)
    here.wait(f"over: {names}", condition, seconds)
    print(f"{time.monotonic() - begun:5.0f} s: over: {', '.join(names)}", flush=True)


def service_alerts(here, watch):
    begun = time.monotonic()
    all_is_there(here, watch)

    def email(verb):
        subprocess.run([here.tools + "/services/weir/weir", verb, "--url", f"http://127.0.0.1:{here.ports['email']}"], check=True,
                       env={**os.environ, **TOKEN}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60)

    # No event, though it says that it is one: rejected by all who read the topic.
    feeder = shop.Shop(here)
    feeder.produce("orders", b"none", b"no event", shop.headers_of("OrderPlaced", "none"))
    feeder.flush()
    raised(here, watch, begun, "a record that is no event", ["WeirDeadLetters"], 180)

    here.kill("analytics")
    here.kill("payment")
    here.start("payment", PAYMENT_GATEWAY_URL=f"http://127.0.0.1:{world.free_port()}")
    email("pause")
    watch.stop_kafka_exporter()
    with here.locked("inventory"):
        raised(here, watch, begun, "inventory's database is held", ["WeirOutage", "WeirNotReady"], 900)
    raised(here, watch, begun, "analytics is dead, the gateway and kafka_exporter are away, email is paused",
           ["WeirDown", "WeirPeerAway", "WeirLagStandsStill", "WeirLagOld", "WeirCallsFail", "WeirServiceAbsent", "KafkaUnwatched"], 1500)
    here.kill("payment")
    for service in ("payment", "analytics"):
        here.start(service)
    email("resume")
    watch.start_kafka_exporter()
    over(here, watch, begun, ["WeirDown", "WeirOutage", "WeirNotReady", "WeirPeerAway", "WeirLagStandsStill", "WeirLagOld", "WeirCallsFail",
                              "WeirServiceAbsent", "KafkaUnwatched"], 1200)


def broker_alerts(here, watch):
    begun = time.monotonic()
    all_is_there(here, watch)
    here.broker_end(3, signal.SIGKILL)
    raised(here, watch, begun, "one broker of three is lost", ["UnderReplicatedPartition", "KafkaBrokerMissing"], 600)
    here.broker_end(2, signal.SIGKILL)
    raised(here, watch, begun, "two of three", ["WeirOutboxOld", "WeirNotReady"], 600)
    both = [threading.Thread(target=here.broker_start, args=(number,)) for number in (2, 3)]  # neither is in service before both are
    for each in both:
        each.start()
    for each in both:
        each.join()
    here.wait("all replicas are in step", here.whole, 300)
    over(here, watch, begun, ["UnderReplicatedPartition", "KafkaBrokerMissing", "WeirOutboxOld", "WeirNotReady"], 600)


SCENARIOS = {"services": service_alerts, "brokers": broker_alerts}


def main():
    if not shutil.which("prometheus"):
        print("there is no prometheus (Debian's package)")
        return world.SKIPPED
    scenario = SCENARIOS[sys.argv[1]] if sys.argv[1:] else all_is_there
    cluster = scenario is broker_alerts
    here = rolling.Cluster(partitions=rolling.PARTITIONS) if cluster else world.World(TOKEN)
    watch, load, failed = None, Load(here), True
    try:
        # As they are delivered, where a broker is lost: it is not to be noticed sooner than by a user.
        here.start_all(**({"KAFKA_PROPERTIES": ""} if cluster else {}))
        shop.Shop(here).set_stock(shop.make_stock(ORDERS_MAX))
        load.start()
        watch = Watch(here)
        scenario(here, watch)
        failed = False
    finally:
        if load.is_alive():
            load.end()
        if watch:
            watch.close(failed)
        here.close(failed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
