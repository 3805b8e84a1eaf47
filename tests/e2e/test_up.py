"""weir up, as a user runs it: ends by itself with balanced books, is refused twice, comes back after SIGKILL, drains on Ctrl-C.

    test_up.py --weir PROGRAM

Every run has a Kafka of its own, started by weir up from WEIR_KAFKA_HOME.
"""
import argparse
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

READY_SECONDS = 180
END_SECONDS = 240
DRAIN_SECONDS = 10
SERVICES = {"order": 0, "inventory": 2, "payment": 3, "email": 4, "analytics": 5}


def free_base():
    """Ten ports in a row that nobody listens on, below the range that the kernel hands out."""
    for _ in range(100):
        base = random.randrange(20000, 32000, 10)
        held = []
        try:
            for port in range(base, base + 10):
                held.append(socket.socket())
                held[-1].bind(("127.0.0.1", port))
            return base
        except OSError:
            continue
        finally:
            for one in held:
                one.close()
    raise AssertionError("no ten free ports in a row")


class Up:
    """One weir up; what it prints is in self.text()."""
    count = 0

    def __init__(self, weir, folder, *more, base=None):
        self.weir, self.folder = weir, folder
        self.base = base or free_base()
        Up.count += 1
        self.path = f"{folder}.{Up.count}.out"
        environment = {name: value for name, value in os.environ.items() if name not in ("KAFKA_BOOTSTRAP_SERVERS", "DATABASE_URL")}
        with open(self.path, "wb") as out:
            self.process = subprocess.Popen(
                [weir, "up", "--state-dir", folder, "--port-base", str(self.base), "--kafka-home", os.environ["WEIR_KAFKA_HOME"], *more],
                stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment)

    def text(self):
        with open(self.path, encoding="utf-8") as file:
            return file.read()

    def wait_for(self, pattern, seconds):
        until = time.monotonic() + seconds
        while not re.search(pattern, self.text()):
            assert self.process.poll() is None, f"weir up ended with {self.process.returncode}:\n{self.text()}"
            assert time.monotonic() < until, f"no {pattern} within {seconds} s:\n{self.text()}"
            time.sleep(0.1)

    def end(self, seconds):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"weir up did not end within {seconds} s:\n{self.text()}") from None

    def ask(self, service, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.base + SERVICES[service]}{path}", timeout=10) as answer:
            return json.load(answer)

    def children(self):
        pids = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False).stdout.split()
        found = {}
        for pid in pids:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                found[int(pid)] = file.read().replace(b"\0", b" ").decode()
        return found


def ends_by_itself_and_the_books_balance(weir, folder):
    up = Up(weir, folder, "--orders", "50")
    assert up.end(END_SECONDS) == 0, up.text()
    assert re.search(r"orders +50 placed = \d+ confirmed \+ \d+ rejected \+ 0 cancelled \+ 0 under way", up.text()), up.text()
    assert "They balance." in up.text(), up.text()


def second_one_on_the_folder_is_refused(weir, folder):
    up = Up(weir, folder)
    up.wait_for("starting Kafka", READY_SECONDS)
    second = subprocess.run([weir, "up", "--state-dir", folder, "--port-base", str(free_base())],
                            capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 75, second
    assert f"in use by process {up.process.pid}" in second.stderr, second
    return up


def goes_on_from_what_is_there(up):
    """On the folder of fifty orders: they are still known, the sample comes now, and a killed service comes back."""
    up.wait_for("Weir is up", READY_SECONDS)
    assert up.ask("analytics", "/v1/figures")["orders"]["placed"] >= 50
    victim = next(pid for pid, line in up.children().items() if "weir-payment" in line)
    os.kill(victim, signal.SIGKILL)
    up.wait_for(r"payment died \(killed by signal 9", 30)
    up.wait_for("payment runs again", 30)
    up.wait_for(r"accepted 296 .* under way 0 ", END_SECONDS)


def tools_tell_what_is_there(weir, up):
    """The order that `weir up` suggests, its events, and what is not there."""
    servers, order = re.search(r"weir order --kafka-bootstrap-servers (\S+) (\S+)", up.text()).groups()

    def tool(*arguments, text=None):
        # Words that are flags of these verbs, and somebody else's in an environment.
        foreign = {**os.environ, "KEY": "nobody's", "JSON": "perhaps", "FROM": "home", "TYPE": "x", "ID": "debian", "EXIT": "?"}
        return subprocess.run([weir, *arguments, "--kafka-bootstrap-servers", servers], input=text, capture_output=True, text=True,
                              timeout=60, check=False, env=foreign)

    life = tool("order", order)
    assert life.returncode == 0 and "OrderPlaced" in life.stdout and "OrderConfirmed" in life.stdout, life
    lines = [json.loads(line) for line in tool("order", order, "--json").stdout.splitlines()]
    assert {line["key"] for line in lines} == {order} and lines[0]["type"] == "weir.OrderPlaced", lines
    assert tool("order", "0199a0a0-0000-7000-8000-000000000000").returncode == 1
    assert tool("dlq", "list").returncode == 0
    assert tool("topics", "create").returncode == 0
    bad = tool("emit", text="\nnot json\n")
    assert bad.returncode == 65 and bad.stderr.startswith("line 2: "), bad


def ctrl_c_drains(up):
    children = up.children()
    began = time.monotonic()
    up.process.send_signal(signal.SIGINT)
    assert up.end(DRAIN_SECONDS + 20) == 0, up.text()
    seconds = time.monotonic() - began
    assert re.search(r"orders +346 placed = .* 0 under way", up.text()), up.text()
    assert "They balance." in up.text(), up.text()
    left = [pid for pid in children if os.path.exists(f"/proc/{pid}")]
    assert not left, f"left behind: {[children[pid] for pid in left]}"
    print(f"drained in {seconds:.1f} s")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--weir", required=True)
    arguments = parser.parse_args()
    if not os.environ.get("WEIR_KAFKA_HOME"):
        print("WEIR_KAFKA_HOME is not set (tests/README.md)")
        sys.exit(77)
    scratch = tempfile.mkdtemp(prefix="weir-up.")
    folder = os.path.join(scratch, "state")
    up = None
    try:
        ends_by_itself_and_the_books_balance(arguments.weir, folder)
        up = second_one_on_the_folder_is_refused(arguments.weir, folder)
        goes_on_from_what_is_there(up)
        tools_tell_what_is_there(arguments.weir, up)
        ctrl_c_drains(up)
    finally:
        if up and up.process.poll() is None:
            up.process.kill()  # its children go with it
            up.process.wait()
        shutil.rmtree(scratch, ignore_errors=True)
    print("ok")


if __name__ == "__main__":
    main()
