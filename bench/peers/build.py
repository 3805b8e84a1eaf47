"""build: makes each peer with its ecosystem's own tools, in build/peers/; what is missing is installed where apt can."""
import hashlib
import os
import shutil
import subprocess

import measure

ROOT = measure.ROOT
HERE = ROOT + "/bench/peers"
OUT = ROOT + "/build/peers"
BUILD_SECONDS_MAX = 1500
APT_SECONDS_MAX = 600
PACKAGES = {"go": "golang-go", "mvn": "maven", "java": "default-jdk-headless", "cargo": "cargo", "node": "nodejs", "npm": "npm", "cc": "gcc",
            "rabbitmq-server": "rabbitmq-server", "redis-server": "redis-server", "psql": "postgresql", "cmake": "cmake"}


class Missing(Exception):
    """It cannot be built here, and why."""


def command(arguments, folder, log, **environment):
    try:
        with open(log, "ab") as file:
            done = subprocess.run(arguments, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=BUILD_SECONDS_MAX,
                                  env={**os.environ, **environment})
    except (OSError, subprocess.TimeoutExpired) as why:
        raise Missing(str(why)) from None
    if done.returncode:
        with open(log, errors="replace") as file:
            lines = [line.strip() for line in file.read()[-4000:].splitlines() if line.strip()]
        raise Missing(f"{' '.join(arguments[:3])} failed: {' / '.join(lines[-3:])[-400:]}; all of it in {log}")


def need(*programs):
    for program in programs:
        if shutil.which(program) or os.path.exists(f"/usr/sbin/{program}"):
            continue
        prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
        for arguments in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "--no-install-recommends", PACKAGES[program]]):
            try:
                # The package's own service is not wanted: peers start what they need themselves.
                subprocess.run([*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", *arguments], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=APT_SECONDS_MAX)
            except (OSError, subprocess.TimeoutExpired):
                pass
        if not shutil.which(program) and not os.path.exists(f"/usr/sbin/{program}"):
            raise Missing(f"there is no {program} (Debian: {PACKAGES[program]})")


def weir(given, say):
    folder = os.path.abspath(given) if given else ROOT + "/build/release"
    if given and os.path.exists(folder + "/services/weir-inventory"):
        return folder
    say("Weir is built")
    os.makedirs(folder, exist_ok=True)
    log = folder + ".peers.log"
    try:
        command(["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_TESTING=OFF"], ROOT, log)
        command(["cmake", "--build", folder, "--target", "weir", "weir-inventory"], ROOT, log)
    except Missing as why:
        raise SystemExit(f"run: {why}") from None
    return folder


def copied(name, *files):
    """The sources in build/peers/NAME: tools that write beside them leave the tree alone."""
    folder = f"{OUT}/{name}"
    os.makedirs(folder, exist_ok=True)
    shutil.copytree(f"{HERE}/{name}", folder, dirs_exist_ok=True)
    for file in files:
        shutil.copy(file, folder)
    return folder


def floor(log):
    need("cc")
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "rdkafka", "libpq"], stdout=subprocess.PIPE, text=True).stdout.split()
    if not flags:
        raise Missing("there is no pkg-config of rdkafka and libpq (Debian: librdkafka-dev libpq-dev)")
    command(["cc", "-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-o", OUT + "/floor-bin", HERE + "/floor/floor.c", *flags], HERE, log)
    return [OUT + "/floor-bin"]


def franz_go(log):
    need("go")
    command(["go", "build", "-o", OUT + "/franz-go-bin", "."], HERE + "/franz-go", log)
    return [OUT + "/franz-go-bin"]


def spring(log):
    need("java", "mvn")
    folder = copied("spring")
    command(["mvn", "-q", "-B", "-DskipTests", f"-Dschemas={ROOT}/schemas", "package"], folder, log)
    return ["java", "-Xmx512m", "-jar", folder + "/target/peer.jar"]


def interpreter(name, log):
    """A virtual environment for what its requirements.txt pins."""
    path = f"{HERE}/{name}/requirements.txt"
    with open(path, "rb") as file:
        folder = f"{OUT}/{name}-{hashlib.sha256(file.read()).hexdigest()[:12]}"
    if not os.path.exists(folder + "/ready"):
        command([os.environ["PEERS_PYTHON"], "-m", "venv", "--clear", folder], HERE, log)
        command([folder + "/bin/pip", "install", "-q", "--only-binary=:all:", "-r", path], HERE, log)
        open(folder + "/ready", "w").close()
    return folder + "/bin/python"


def python(log):
    return [interpreter("python", log), HERE + "/python/peer.py"]


def rust(log):
    need("cargo")
    command(["cargo", "build", "--release", "--target-dir", OUT + "/rust-target"], copied("rust"), log)
    return [OUT + "/rust-target/release/peer"]


def npm(name, log):
    need("node", "npm")
    folder = copied(name)
    command(["npm", "install", "--no-fund", "--no-audit"], folder, log)
    return folder


def node(log):
    return ["node", npm("node", log) + "/peer.js"]


def celery(log):
    need("rabbitmq-server")
    return [interpreter("celery", log), HERE + "/celery"]


def pika(log):
    need("rabbitmq-server")
    return [interpreter("pika", log), HERE + "/pika/peer.py"]


def bullmq(log):
    need("redis-server")
    return ["node", npm("bullmq", log) + "/peer.js"]


BUILDERS = {"floor": floor, "franz-go": franz_go, "spring": spring, "python": python, "rust": rust, "node": node, "celery": celery,
            "pika": pika, "bullmq": bullmq}


def peer(name, folder, say):
    """The command that starts it. Raises Missing."""
    if not os.path.isdir(f"{HERE}/{name}"):
        raise Missing("not written")
    os.makedirs(OUT, exist_ok=True)
    say(f"{name} is built")
    log = f"{OUT}/{name}.log"
    with open(log, "wb"):
        pass
    return BUILDERS[name](log)


def versions(commands):
    """Of the tools; those of the libraries are pinned in the tree."""
    found = {}
    for base in {name.partition("/")[0] for name in commands}:
        arguments = {"franz-go": ["go", "version"], "spring": ["java", "--version"], "rust": ["cargo", "--version"],
                     "node": ["node", "--version"], "bullmq": ["redis-server", "--version"], "floor": ["cc", "--version"]}.get(base)
        if arguments:
            done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            found[base] = done.stdout.splitlines()[0] if done.stdout else "?"
    return found
