"""tasks: the table of tasks: no-op mails through queues, each put in first and then worked on, each done once or there is no figure."""
import os
import shutil
import signal
import subprocess
import time

import measure
import world

NAMES = ("celery", "pika", "bullmq")
ROUND_SECONDS_MAX = 300
FILL_SECONDS_MAX = 300
STALL_SECONDS_MAX = 60
BROKER_SECONDS_MAX = 90
STOP_SECONDS_MAX = 30
RABBITMQ = "/usr/lib/rabbitmq/bin/rabbitmq-server"


class Broken(Exception):
    pass


def port_answers(port):
    import socket
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.settimeout(5)
            return connection
    except OSError:
        return None


class Broker:
    """RabbitMQ or Redis of this run's own, in a folder, on loopback."""

    def __init__(self, kind, folder):
        self.port, self.process, self.epmd = world.free_port(), None, None
        where = f"{folder}/{kind}"
        os.makedirs(where, exist_ok=True)
        environment = dict(os.environ)
        if kind == "redis":
            command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", where, "--appendonly", "yes", "--save", ""]
            self.url = f"redis://127.0.0.1:{self.port}"
        else:
            self.epmd = world.free_port()
            environment |= {"HOME": where, "RABBITMQ_NODENAME": f"peers{os.getpid()}@localhost", "RABBITMQ_NODE_PORT": str(self.port),
                            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1", "RABBITMQ_DIST_PORT": str(world.free_port()),
                            "RABBITMQ_MNESIA_BASE": where + "/data", "RABBITMQ_LOG_BASE": where + "/log",
                            "RABBITMQ_ENABLED_PLUGINS_FILE": where + "/plugins", "RABBITMQ_CONF_ENV_FILE": where + "/none",
                            "ERL_EPMD_PORT": str(self.epmd), "ERL_EPMD_ADDRESS": "127.0.0.1"}
            command = [RABBITMQ if os.path.exists(RABBITMQ) else shutil.which("rabbitmq-server") or "rabbitmq-server"]
            self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"
        self.environment, self.log = environment, where + "/console.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, env=environment, cwd=where, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True)
        until = time.monotonic() + BROKER_SECONDS_MAX
        while not port_answers(self.port):
            if self.process.poll() is not None or time.monotonic() > until:
                with open(self.log, errors="replace") as log:
                    words = " / ".join(log.read()[-1000:].split("\n"))
                self.stop()
                raise Broken(f"{kind} does not start: {words[-400:]}")
            time.sleep(0.1)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        if self.epmd:
            subprocess.run(["epmd", "-port", str(self.epmd), "-kill"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def commands_of(name, command):
    """(fill, work)"""
    if name == "celery":
        python, folder = command
        celery = [python, "-m", "celery", "-A", "mails", "worker", "--concurrency", "2", "--loglevel", "warning", "--without-gossip",
                  "--without-mingle", "--without-heartbeat"]
        return [python, folder + "/mails.py"], celery
    return [*command, "fill"], [*command, "work"]


def one(options, name, command, broker, folder):
    """One round: all tasks in, then all of them done."""
    from runner import Sampler, memory_of_tree
    done = f"{folder}/{name}.done"
    with open(done, "wb"):
        pass
    environment = {**os.environ, "AMQP_URL": broker.url, "REDIS_URL": broker.url, "DONE": done, "TASKS": str(options.tasks),
                   "C_FORCE_ROOT": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    fill, work = commands_of(name, command)
    where = command[-1] if name == "celery" else folder
    log_path = f"{folder}/{name}.log"
    with open(log_path, "wb") as log:
        begun = time.monotonic()
        filled = subprocess.run(fill, env=environment, cwd=where, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=FILL_SECONDS_MAX)
        fill_seconds = time.monotonic() - begun
        if filled.returncode:
            raise Broken(f"the tasks could not be put in: {last_words(log_path)}")
        process = subprocess.Popen(work, env=environment, cwd=where, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    sampler = Sampler({"client": process.pid, "broker": broker.process.pid})
    try:
        until, size, moved = time.monotonic() + ROUND_SECONDS_MAX, -1, time.monotonic()
        while True:
            now = os.path.getsize(done)
            if now != size:
                size, moved = now, time.monotonic()
                with open(done, "rb") as file:
                    count = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
                if count >= options.tasks:
                    break
            if process.poll() is not None or time.monotonic() > until or time.monotonic() - moved > STALL_SECONDS_MAX:
                raise Broken(f"{count} of {options.tasks} tasks were done: {last_words(log_path)}")
            time.sleep(0.1)
        peak = memory_of_tree(process.pid)
        time.sleep(0.3)  # one more than it should would come now
    finally:
        sampler.stop()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    with open(done) as file:
        rows = [line.split() for line in file]
    if sorted(int(number) for number, _ in rows) != list(range(options.tasks)):
        raise Broken("not every task was done once")
    stamps = sorted(float(stamp) for _, stamp in rows)
    used = sampler.used(stamps[0], stamps[-1])
    # pika tells in batches: the first of the first one counts as its begin.
    seconds = max(stamps[-1] - stamps[0], 1e-3)
    return {"tasks": options.tasks, "rate": options.tasks / seconds, "seconds": seconds, "fill_rate": options.tasks / fill_seconds,
            "peak_mib": peak, **{f"{part}_us": each / options.tasks * 1e6 for part, each in used.items()}}


def last_words(path):
    with open(path, errors="replace") as log:
        lines = [line.strip() for line in log.read()[-3000:].splitlines() if line.strip()]
    return " / ".join(lines[-3:])[-400:]


def run(options, commands, folder, results, failed, say, stack):
    names = [name for name in NAMES if name in commands]
    brokers, figures = {}, {}
    for number in range(options.rounds):
        for name in names:
            if name in failed:
                continue
            kind = "redis" if name == "bullmq" else "rabbitmq"
            say(f"tasks {number + 1}/{options.rounds} {name} (load {measure.load_average():.1f})")
            try:
                if kind not in brokers:
                    brokers[kind] = Broker(kind, folder)
                    stack.callback(brokers[kind].stop)
                got = one(options, name, commands[name], brokers[kind], folder)
                figures.setdefault(name, []).append(results.add(part="tasks", program=name, round=number, **got))
                say(f"  {got['rate']:,.0f} tasks/s")
            except (Broken, OSError, subprocess.TimeoutExpired) as why:
                failed[name] = str(why)
                figures.pop(name, None)
                results.add(part="tasks", program=name, round=number, failed=str(why))
                say(f"  FAILED: {why}")
    return figures


def print_table(figures, options):
    if not figures:
        return
    print(f"\n{options.tasks:,} e-mail tasks with a no-op, put in first; min / median / max of {options.rounds}\n")
    print("| | tasks/s done | tasks/s put in | CPU µs a task: worker | broker | peak MiB |\n|---|---|---|---|---|---|")
    for name, got in figures.items():
        print(f"| {name} | " + " | ".join(measure.spread([row[key] for row in got], form) for key, form in (
            ("rate", "{:,.0f}"), ("fill_rate", "{:,.0f}"), ("client_us", "{:.0f}"), ("broker_us", "{:.0f}"), ("peak_mib", "{:.0f}"))) + " |")
