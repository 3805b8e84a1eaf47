"""measure: what the parts of the benchmark have in common: processes looked at from outside, raw results, tables."""
import http.client
import json
import os
import platform
import signal
import statistics
import sys
import time
import uuid

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT + "/tests/e2e")

# What was started is ended as well when the run is told to end.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    """User and system time of all threads of a process."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_mib(pid, field="VmRSS"):
    """Resident now, or at its peak (VmHWM), or of its own (RssAnon, without pages of files such as libraries)."""
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    raise ValueError(field)


def load_average():
    return os.getloadavg()[0]


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


class Results:
    """Raw results: a JSON line each, with time and load, so that a figure can be traced to what it was made of."""

    def __init__(self, path):
        self.path = path

    def add(self, **fields):
        fields = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "load": round(load_average(), 2), **fields}
        if self.path:
            with open(self.path, "a") as file:
                file.write(json.dumps(fields) + "\n")
        return fields


def spread(values, form="{:,.0f}"):
    return " / ".join(form.format(value) for value in (min(values), statistics.median(values), max(values)))


def percentile(values, share):
    """The smallest value that so many of them do not pass. `values` sorted."""
    return values[min(len(values) - 1, int(share * len(values)))]


def uuid7(milliseconds, random):
    """Time-ordered, as Weir makes them; the milliseconds are given, so that a topic can be filled beforehand."""
    return str(uuid.UUID(int=milliseconds << 80 | 7 << 76 | random.getrandbits(12) << 64 | 2 << 62 | random.getrandbits(62)))
