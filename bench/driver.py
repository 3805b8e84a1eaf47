#!/usr/bin/env python3
"""Runs the suites in turn with a Kafka and a PostgreSQL of their own; prints, keeps and draws what they found. bench/run calls it.

Whatever happens to one suite, the results of the others are kept: the file is written anew after each. What a suite found counts only
if it ended with 0, which it does only when its books balance.
"""
import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import measure
import programs

FORM = 1
STOP_SECONDS_MAX = 60
NODE_SECONDS_MAX = 150
TEXT_BYTES_MAX = 200000

# (name, program, whether in a run without names: quick, full; seconds that it takes by size, on two quiet cores; the bound in seconds)
SUITES = {
    "codec": ("codecs.py", True, True, {"smoke": 4, "quick": 4, "full": 12}, 300),
    "limits": ("limits.py", True, True, {"smoke": 5, "quick": 10, "full": 60}, 900),
    "tables": ("tables.py", True, True, {"smoke": 5, "quick": 20, "full": 380}, 3600),
    "inventory": ("inventory.py", True, True, {"smoke": 8, "quick": 20, "full": 96}, 1800),
    "accept": ("accept.py", True, True, {"smoke": 6, "quick": 15, "full": 280}, 1200),
    "saga": ("saga.py", True, True, {"smoke": 12, "quick": 30, "full": 600}, 3600),
    "footprint": ("footprint.py", True, True, {"smoke": 12, "quick": 20, "full": 48}, 1200),
    "tasks": ("tasks.py", True, True, {"smoke": 5, "quick": 10, "full": 40}, 1200),
    "scaling": ("scaling.py", True, True, {"smoke": 8, "quick": 15, "full": 240}, 1800),
    "faults": ("faults.py", True, True, {"smoke": 20, "quick": 40, "full": 150}, 1500),
    "redrive": ("redrive.py", False, True, {"smoke": 5, "quick": 15, "full": 40}, 1800),
    "failure": ("failure.py", False, True, {"smoke": 15, "quick": 40, "full": 325}, 1800),
    "peers": ("peers/run", False, True, {"smoke": 60, "quick": 120, "full": 600}, 3600),
}
PEERS_WORDS = {"smoke": ["--quick", "--only", "weir,floor", "--records", "2000", "--rate", "0"], "quick": ["--quick"], "full": []}
WITHOUT_KAFKA = {"codec", "tables", "peers"}
# faults: it is restarted there. scaling: the members of a group must get their shares at once, so that the broker waits a second for
# more of them; everywhere else that second would be measured as the service's.
KAFKA_OF_ITS_OWN = {"faults", "scaling"}


def say(text):
    print(text, flush=True)


def version(*words):
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
        return (done.stdout + done.stderr).strip().splitlines()[0]
    except (OSError, IndexError, subprocess.SubprocessError):
        return None


def versions():
    found = {"python": sys.version.split()[0], "gcc": version("gcc", "-dumpfullversion"), "java": version("java", "-version"),
             "kafka": os.path.basename(os.environ.get("WEIR_KAFKA_HOME", "")).removeprefix("kafka-")}
    for name in ("librdkafka1", "libsqlite3-0", "libpq5", "libcurl4", "libmicrohttpd12", "libavro23"):
        found[name] = version("dpkg-query", "-W", "-f=${Version}", name)
    servers = sorted(os.listdir("/usr/lib/postgresql"), key=int) if os.path.isdir("/usr/lib/postgresql") else []
    if servers:
        found["postgresql"] = version(f"/usr/lib/postgresql/{servers[-1]}/bin/postgres", "--version")
    return found


class Clock:
    """How long it will still take, by what the suites took so far beside what was planned for them."""

    def __init__(self, names, size):
        self.planned = {name: SUITES[name][3][size] for name in names}
        self.begun = time.monotonic()
        self.done_planned = self.done_taken = 0.0
        self.current, self.current_begun = None, self.begun

    def begin(self, name):
        self.current, self.current_begun = name, time.monotonic()

    def end(self):
        self.done_planned += self.planned.pop(self.current)
        self.done_taken += time.monotonic() - self.current_begun
        self.current = None

    def left(self, share=0.0):
        pace = self.done_taken / self.done_planned if self.done_taken > 20 else 1.0
        taken = time.monotonic() - self.current_begun if self.current else 0
        later = pace * sum(planned for name, planned in self.planned.items() if name != self.current)
        if not self.current:
            return later
        own = taken * (1 / share - 1) if share > 0.15 else max(0.0, pace * self.planned[self.current] - taken)
        return later + own

    def stamp(self, share=0.0):
        def form(seconds):
            return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
        return f"[{form(time.monotonic() - self.begun)}, about {form(self.left(share) + 0.5)} left]"


class Run:
    def __init__(self, chosen):
        self.chosen = chosen
        self.folder = tempfile.mkdtemp(prefix="weir-bench-run-")
        os.chmod(self.folder, 0o755)  # PostgreSQL runs as another user where this is run by root
        self.clock = Clock(chosen.suites, chosen.size)
        self.node_folder = self.postgres = self.child = None
        self.node_number = 0
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        os.makedirs(chosen.into, exist_ok=True)
        self.path = f"{chosen.into}/{stamp}.json"
        self.document = {
            "form": FORM, "begun_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "size": chosen.size,
            # A tree without git, or one that git does not trust here, has no revision to tell.
            "revision": version("git", "-C", measure.ROOT, "describe", "--always", "--dirty", "--abbrev=12") or "unknown",
            "machine": measure.machine(), "versions": versions(), "load_before": os.getloadavg(), "settings": {}, "suites": {},
        }

    # ---- servers

    def node(self, *words):
        subprocess.run([measure.ROOT + "/compose/kafka/node", *words], check=True, timeout=NODE_SECONDS_MAX, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL)

    def kafka_start(self, own):
        self.node_number += 1
        self.node_folder = f"{self.folder}/kafka-{self.node_number}"
        self.node("start", self.node_folder, "0", "--set", "group.min.session.timeout.ms=500", "--set",
                  f"group.initial.rebalance.delay.ms={1000 if own else 0}")

    def kafka_stop(self):
        if self.node_folder:
            folder, self.node_folder = self.node_folder, None
            try:
                self.node("stop", folder)
            except (OSError, subprocess.SubprocessError) as error:
                say(f"Kafka did not stop: {error}")
            shutil.rmtree(folder, ignore_errors=True)

    def kafka(self):
        with open(self.node_folder + "/bootstrap") as file:
            return file.read().strip()

    def kafka_ready(self, own):
        """A node without topics: the one that is there, whose Java is warm, or a new one."""
        if self.node_folder and not own:
            try:
                programs.forget_topics(self.kafka())
                return
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt) or getattr(error, "code", None) in (130, 143):
                    raise
                say(f"a new Kafka, for the one that ran could not be emptied: {error}")
        self.kafka_stop()
        self.kafka_start(own)

    def postgres_start(self):
        settings = ("shared_buffers=256MB", "max_wal_size=4GB", "max_connections=200")
        done = subprocess.run([measure.ROOT + "/tests/support/postgres", "start", self.folder + "/postgres", *settings], timeout=150,
                              capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            say(f"without PostgreSQL: {done.stderr.strip()}")
            self.postgres = None
            return
        self.postgres = done.stdout.strip()
        self.document["settings"]["postgres"] = settings

    def postgres_ready(self):
        """A suite that failed while it was being restarted may have left it down."""
        if self.postgres:
            try:
                measure.Postgres(self.postgres).sql("SELECT 1")
            except (SystemExit, subprocess.SubprocessError):
                say("PostgreSQL is started again")
                self.postgres_start()

    def close(self):
        self.child_stop()
        self.kafka_stop()
        if self.postgres:
            subprocess.run([measure.ROOT + "/tests/support/postgres", "remove", self.folder + "/postgres"], timeout=150, check=False,
                           stdin=subprocess.DEVNULL)
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- a suite

    def child_stop(self):
        """Ends the suite and all that it has started: they are one process group."""
        child, self.child = self.child, None
        if child is None:
            return
        for number, seconds in ((signal.SIGTERM, STOP_SECONDS_MAX), (signal.SIGKILL, 10)):
            try:
                os.killpg(child.pid, number)
            except ProcessLookupError:
                break
            try:
                child.wait(seconds)
            except subprocess.TimeoutExpired:
                continue
            if number == signal.SIGKILL:
                break

    def words(self, name, results):
        program = f"{measure.ROOT}/bench/{SUITES[name][0]}"
        if name == "peers":
            return [sys.executable, program, "--json", results, "--build", self.chosen.build, *PEERS_WORDS[self.chosen.size], *self.chosen.peers_words]
        words = [sys.executable, program, "--build", self.chosen.build, "--size", self.chosen.size, "--results", results,
                 "--kafka", self.kafka() if self.node_folder else "-"]
        if self.node_folder:
            words += ["--node", self.node_folder]
        if self.postgres:
            words += ["--postgres", self.postgres]
        for pair in self.chosen.set:
            where, _, rest = pair.partition(".")
            if where == name:
                words += ["--set", rest]
        return words + (["--plant", self.chosen.plant] if self.chosen.plant else [])

    def listen(self, stream, name, keep):
        for line in stream:
            found = re.match(r"@progress ([\d.]+) ([\d.]+) (.*)", line)
            if found:
                done, total = float(found[1]), float(found[2])
                print(f"{self.clock.stamp(done / total if total else 0)} {name}: {found[3]}", file=sys.stderr, flush=True)
            else:
                keep.append(line)
                sys.stderr.write(line)

    def suite(self, name):
        """True where its figures count."""
        entry = {"status": "failed", "begun_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "load_before": os.getloadavg()}
        self.document["suites"][name] = entry
        results, errors, text = f"{self.folder}/{name}.jsonl", [], ""
        begun, busy = time.monotonic(), measure.cpu_times()
        self.clock.begin(name)
        print(f"{self.clock.stamp()} {name}", file=sys.stderr, flush=True)
        try:
            if name not in WITHOUT_KAFKA:
                self.kafka_ready(name in KAFKA_OF_ITS_OWN)
            self.postgres_ready()
            environment = {key: value for key, value in os.environ.items() if not key.startswith("WEIR_") or key == "WEIR_KAFKA_HOME"}
            if name == "peers":
                environment.update(PEERS_PYTHON=sys.executable)
            begun = time.monotonic()
            self.child = subprocess.Popen(self.words(name, results), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                          stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True, env=environment,
                                          cwd=self.folder)
            listener = threading.Thread(target=self.listen, args=(self.child.stderr, name, errors), daemon=True)
            listener.start()
            timer = threading.Timer(SUITES[name][4], self.late, (self.child,))
            timer.start()
            said = []
            reader = threading.Thread(target=lambda stream: said.extend(stream), args=(self.child.stdout,), daemon=True)
            reader.start()
            try:
                code = self.child.wait()
            finally:
                timer.cancel()
            for thread in (reader, listener):
                thread.join(5)  # what it has left behind may hold the other end
            text = "".join(said)
            entry["status"] = "ok" if code == 0 else "failed"
            entry["exit_code"] = code
        except (OSError, subprocess.SubprocessError, SystemExit) as error:
            if getattr(error, "code", None) in (130, 143):
                raise
            errors.append(f"{error}\n")
        finally:
            self.child_stop()
            self.clock.end()
            after = measure.cpu_times()
            entry.update(seconds=time.monotonic() - begun, load_after=os.getloadavg(), text=text[-TEXT_BYTES_MAX:],
                         errors="".join(errors)[-20000:], cpu_busy_seconds=after[0] - busy[0], cpu_stolen_seconds=after[1] - busy[1])
            self.read(name, entry, results)
        ok = entry["status"] == "ok"
        say(f"\n## {name} ({entry['seconds']:.0f} s, load average {entry['load_before'][0]:.1f} → {entry['load_after'][0]:.1f})\n")
        if ok:
            say(text.strip())
        else:
            say(f"**FAILED**: none of its figures counts. {''.join(errors).strip()[-600:]}")
            if name in KAFKA_OF_ITS_OWN or code_of(entry) != 0:
                self.kafka_stop()  # it may have been left in any state
        if name in KAFKA_OF_ITS_OWN:
            self.kafka_stop()
        return ok

    def late(self, child):
        print(f"not ended within {SUITES[self.clock.current][4]} s" if self.clock.current else "late", file=sys.stderr, flush=True)
        try:
            os.killpg(child.pid, signal.SIGTERM)
        except ProcessLookupError:
            return
        threading.Timer(STOP_SECONDS_MAX, lambda: self.kill(child)).start()

    @staticmethod
    def kill(child):
        if child.poll() is None:
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def read(self, name, entry, results):
        """What it left, into the document; raw samples of a suite that failed are kept too, and marked by its status."""
        lists = {"sample": "samples", "figure": "figures", "picture": "pictures", "settings": "settings"}
        try:
            with open(results) as file:
                if name == "peers":
                    entry["raw"] = peers_read(file.read())
                else:
                    for line in file:
                        got = json.loads(line)
                        entry.setdefault(lists[got.pop("kind")], []).append(got)
        except (OSError, ValueError, KeyError) as error:
            entry["results_error"] = str(error)

    def write(self):
        self.document["written_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with open(self.path + ".new", "w") as file:
            json.dump(self.document, file, indent=1)
        os.replace(self.path + ".new", self.path)

    def all(self):
        document, chosen = self.document, self.chosen
        machine = document["machine"]
        say(f"{document['begun_at']}, {document['revision']}, {chosen.size}: {machine['cpu']}, {machine['cores']} cores, "
            f"{machine['memory_mib'] // 1024} GiB, {machine['system']}, Linux {machine['kernel']}, load average "
            f"{document['load_before'][0]:.1f}")
        say("; ".join(f"{name} {value}" for name, value in document["versions"].items() if value))
        failed = []
        try:
            if set(chosen.suites) - {"codec", "limits", "redrive", "failure", "peers"}:
                self.postgres_start()
            for name in chosen.suites:
                if not self.suite(name):
                    failed.append(name)
                self.write()
        finally:
            self.close()
            shares(document)
            self.write()
        figures(document)
        if document["suites"].get("footprint", {}).get("status") == "ok":
            done = subprocess.run([sys.executable, measure.ROOT + "/bench/cost.py", self.path], capture_output=True, text=True, check=False)
            say(f"\n## Cost\n\n{(done.stdout or done.stderr).strip()}")
        self.draw()
        say(f"\nraw results: {os.path.relpath(self.path, measure.ROOT)}")
        if failed:
            say(f"FAILED: {', '.join(failed)}")
        return 1 if failed else 0

    def draw(self):
        try:
            import pictures
            made = pictures.draw(self.path, self.path.removesuffix(".json"))
            if made:
                say(f"\npictures: {os.path.relpath(os.path.dirname(made[0]), measure.ROOT)}/"
                    f"{{{','.join(sorted({os.path.basename(path).rsplit('.', 1)[0] for path in made}))}}}.{{svg,png}}")
        except Exception as error:  # no picture is worth a run
            say(f"no pictures: {type(error).__name__}: {error}")


def code_of(entry):
    return entry.get("exit_code", -1)


def peers_read(text):
    try:
        return json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]


def shares(document):
    """What a service reaches of what Kafka allows at all: figures of two suites."""
    found = {figure["name"]: figure["value"] for entry in document["suites"].values() if entry["status"] == "ok"
             for figure in entry.get("figures", [])}
    limit = min((found[f"limit: librdkafka, {mode}"] for mode in ("produce", "consume") if f"limit: librdkafka, {mode}" in found), default=None)
    if limit:
        document["shares"] = [{"name": f"one service, {database}: share of what librdkafka alone moves", "unit": "", "aim": None, "met": None,
                               "value": found[f"one service, {database}"] / limit}
                              for database in ("SQLite", "PostgreSQL") if f"one service, {database}" in found]


def figures(document):
    rows = [(name, figure) for name, entry in document["suites"].items() if entry["status"] == "ok" for figure in entry.get("figures", [])]
    rows += [("", figure) for figure in document.get("shares", [])]
    if not rows:
        return
    say("\n## Figures\n\n| figure | | aim | |\n|---|---|---|---|")
    for _, figure in rows:
        value = figure["value"]
        shown = "–" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
        aim = "" if figure["aim"] is None else f"{figure['aim']:g}"
        say(f"| {figure['name']} | {shown} {figure['unit']} | {aim} | {'' if figure['met'] is None else 'met' if figure['met'] else 'missed'} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=", ".join(SUITES))
    parser.add_argument("--build", required=True, type=os.path.abspath)
    parser.add_argument("--size", choices=measure.SIZES, default="full")
    parser.add_argument("--set", action="append", default=[], metavar="SUITE.NAME=VALUE")
    parser.add_argument("--into", default=measure.ROOT + "/bench/results", type=os.path.abspath)
    parser.add_argument("--peers", dest="peers_words", default=[], type=str.split, help="further words for bench/peers/run")
    parser.add_argument("--plant", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    unknown = [name for name in chosen.suites if name not in SUITES]
    if unknown:
        parser.error(f"there is no suite {unknown[0]}; there are {', '.join(SUITES)}")
    if not chosen.suites:
        chosen.suites = [name for name, entry in SUITES.items() if entry[2 if chosen.size == "full" else 1]]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    sys.exit(Run(chosen).all())


if __name__ == "__main__":
    main()
