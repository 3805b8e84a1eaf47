"""measure: what the suites of the benchmark have in common: how they are called, raw results, tables, processes looked at from outside.

A suite is a program of this folder. bench/driver.py starts it with what it needs and reads what it left: samples, pictures and figures
as JSON lines, tables on standard output. A suite prints and adds nothing before its books are checked; it ends with 0 only when they
balance.
"""
import argparse
import bisect
import http.client
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
import uuid

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT + "/tests/e2e")

# What was started is ended as well when the run is told to end.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

SIZES = ("smoke", "quick", "full")
TICKS = os.sysconf("SC_CLK_TCK")


class Wrong(Exception):
    """The books do not balance: no figure of this suite counts."""


# ---- a suite

class Suite:
    """How a suite was called, and where its results go."""

    def __init__(self, chosen, settings):
        self.build, self.kafka, self.node = chosen.build, chosen.kafka, chosen.node
        self.postgres = Postgres(chosen.postgres) if chosen.postgres else None
        self.size, self.planted, self.path = chosen.size, chosen.plant, chosen.results
        self.settings = settings
        self.add("settings", **settings)

    def __getattr__(self, name):
        try:
            return self.__dict__["settings"][name]
        except KeyError:
            raise AttributeError(name) from None

    def add(self, kind, **fields):
        fields = {"kind": kind, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "load": round(load_average(), 2), **fields}
        if self.path:
            with open(self.path, "a") as file:
                file.write(json.dumps(fields) + "\n")
        return fields

    def sample(self, **fields):
        return self.add("sample", **fields)

    def figure(self, name, value, unit="", aim=None, better="more"):
        """One of the few numbers that a reader looks for; `aim` is what it should reach."""
        met = None if aim is None else value >= aim if better == "more" else value <= aim
        return self.add("figure", name=name, value=value, unit=unit, aim=aim, met=met)

    def picture(self, name, form, **data):
        """bench/pictures.py draws it when the run is over; the data stay in the results."""
        self.add("picture", name=name, form=form, data=data)

    def table(self, columns, rows, title=None):
        if title:
            print(f"{title}\n")
        print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
        for row in rows:
            print("| " + " | ".join(str(cell) for cell in row) + " |")
        print(flush=True)

    def progress(self, done, total, what):
        print(f"@progress {done} {total} {what}", file=sys.stderr, flush=True)

    def plant(self, where):
        """True where a run is to be given a wrong result, to see that it is noticed (--plant)."""
        return self.planted == where


def suite(text, run, **sizes):
    """Runs a suite's run(suite) with the settings of its size; any of them can be set by --set name=value."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True, type=os.path.abspath, help="a release build")
    parser.add_argument("--kafka", required=True, help="HOST:PORT of a Kafka of this run's own")
    parser.add_argument("--node", help="that node's folder")
    parser.add_argument("--postgres", help="URL of a PostgreSQL of this run's own (tests/support/postgres)")
    parser.add_argument("--size", choices=SIZES, default="quick")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one of: " + ", ".join(sizes["full"]))
    parser.add_argument("--results")
    parser.add_argument("--plant", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    settings = {**sizes["full"], **sizes.get(chosen.size, {})}
    for pair in chosen.set:
        name, _, value = pair.partition("=")
        if name not in settings:
            parser.error(f"there is no setting {name}")
        settings[name] = value if isinstance(settings[name], str) else json.loads(value)
    try:
        run(Suite(chosen, settings))
    except (Wrong, AssertionError) as error:
        sys.exit(f"{os.path.basename(sys.argv[0])}: {error}")


# ---- numbers

def spread(values, form="{:,.0f}"):
    values = [value for value in values if value is not None]
    if not values:
        return "–"
    return " / ".join(form.format(value) for value in (min(values), statistics.median(values), max(values)))


def percentile(values, share):
    """The smallest value that so many of them do not pass. `values` sorted."""
    return values[min(len(values) - 1, int(share * len(values)))]


class Hdr:
    """A histogram with three digits, as common/base/hdr.c; of values, or of the buckets that a program has written."""

    def __init__(self, values=(), buckets=()):
        self.count = {}
        for value in values:
            high = self.high(int(value))
            self.count[high] = self.count.get(high, 0) + 1
        for high, count in buckets:
            self.count[high] = self.count.get(high, 0) + count
        self.total = sum(self.count.values())

    @staticmethod
    def high(value):
        """The highest of those that share a bucket with it."""
        shift = max(0, value.bit_length() - 11)
        return ((value >> shift) + 1 << shift) - 1

    def percentile(self, share):
        if not self.total:
            return None
        left = max(1, math.ceil(share * self.total))
        for high in sorted(self.count):
            left -= self.count[high]
            if left <= 0:
                return high
        raise AssertionError

    def buckets(self):
        return [[high, self.count[high]] for high in sorted(self.count)]


def percentiles_ms(hdr):
    return {name: None if not hdr.total else hdr.percentile(share) / 1000
            for name, share in (("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99), ("p99_9_ms", 0.999), ("max_ms", 1))}


def at_or_before(times, until):
    """How many of the sorted times are not past it."""
    return bisect.bisect_right(times, until)


def uuid7(milliseconds, random):
    """Time-ordered, as Weir makes them; the milliseconds are given, so that a topic can be filled beforehand."""
    return str(uuid.UUID(int=milliseconds << 80 | 7 << 76 | random.getrandbits(12) << 64 | 2 << 62 | random.getrandbits(62)))


# ---- processes and the machine

def cpu_seconds(pid, children=False):
    """User and system time of all threads of a process, and of those of its children that it has waited for."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return sum(int(field) for field in fields[11:15 if children else 13]) / TICKS


def memory_mib(pid, field="VmRSS"):
    """Resident now, or at its peak (VmHWM), or of its own (RssAnon, without pages of files such as libraries)."""
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    raise ValueError(field)


def written_bytes(pid):
    """What the process has had written to disks."""
    with open(f"/proc/{pid}/io") as file:
        return int(dict(line.split(": ") for line in file.read().splitlines())["write_bytes"])


def loopback_bytes():
    with open("/proc/net/dev") as file:
        for line in file:
            name, _, counts = line.partition(":")
            if name.strip() == "lo":
                return int(counts.split()[0])
    return 0


def folder_bytes(folder):
    """What its files take on disk."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.stat(f"{parent}/{name}").st_blocks * 512
            except FileNotFoundError:
                pass
    return total


def load_average():
    return os.getloadavg()[0]


def cpu_times():
    """(busy, stolen by the machine below, all) of all cores, in seconds since boot."""
    with open("/proc/stat") as file:
        ticks = [int(word) for word in file.readline().split()[1:]]
    idle, stolen = ticks[3] + ticks[4], ticks[7]
    return (sum(ticks[:8]) - idle - stolen) / TICKS, stolen / TICKS, sum(ticks[:8]) / TICKS


def machine():
    model = "unknown"
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) // 1024
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "") if os.path.exists("/etc/os-release") else ""
    return {"cpu": model, "cores": os.cpu_count(), "memory_mib": memory, "system": system, "kernel": platform.release()}


class Postgres:
    """A server of tests/support/postgres, by its URL. It has a database a round, so that none meets what another has left."""

    def __init__(self, url):
        self.url = url
        self.folder = url.partition("host=")[2].partition("&")[0]

    def database(self, name):
        return self.url.replace("/postgres?", f"/{name}?")

    def sql(self, text, name="postgres"):
        """Rows of text."""
        done = subprocess.run(["psql", "--no-psqlrc", "-qAt", "-v", "ON_ERROR_STOP=1", "-F", "\t", self.database(name), "-c", text],
                              capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise SystemExit(f"psql: {done.stderr.strip()[-500:]}")
        return [line.split("\t") for line in done.stdout.splitlines()]

    def create(self, name, template="template1"):
        self.drop(name)
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.database(name)

    def drop(self, name):
        self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def cpu_seconds(self):
        """Of all that the server has done."""
        with open(self.folder + "/data/postmaster.pid") as file:
            server = int(file.readline())
        used = cpu_seconds(server, children=True)
        with open(f"/proc/{server}/task/{server}/children") as file:
            for child in file.read().split():
                try:
                    used += cpu_seconds(int(child))
                except (FileNotFoundError, ProcessLookupError):
                    pass
        return used


# ---- metrics

class Page:
    """A service's /metrics, over one connection."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def lines(self):
        self.connection.request("GET", "/metrics")
        return self.connection.getresponse().read().decode().splitlines()

    def close(self):
        self.connection.close()


def total(lines, name, labels=""):
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + "{", name + " ")) and labels in line)
