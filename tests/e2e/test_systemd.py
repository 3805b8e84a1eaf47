"""The Debian package on a machine with a systemd of its own (tests/support/machine): what the units do, as an operator sees it.

    test_systemd.py --deb FILE [--root DIR]

Run by hand, as root: FILE is what compose/packaging/deb printed, built on the release of Debian that runs here. A machine is made
below a temporary folder (debootstrap: a minute, and a mirror of Debian) unless --root has one, which is kept. The machine, Kafka and
all else is in a network of its own. Each part goes on from where the one before ended.
Exit 77: no machine can be booted here.
"""
import argparse
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import shop
import world

MACHINE = world.ROOT + "/tests/support/machine"
UNITS = [f"weir-{service}" for service in world.SERVICES]
PORTS = {"order": 8080, "inventory": 8082, "payment": 8083, "email": 8084, "analytics": 8085}
ORDERS, RATE = 600, 20
NEW_NETWORK = 0x40000000  # CLONE_NEWNET
EXPOSURE_MAX = 1.5        # as systemd-analyze security counts; 10 is a unit without any hardening


class Booted(world.World):
    """A World whose services are units of a machine."""

    def __init__(self, root, deb):
        world.need("WEIR_KAFKA_HOME")
        if ctypes.CDLL(None).unshare(NEW_NETWORK):
            print("no network of its own can be had here")
            sys.exit(world.SKIPPED)
        self.root = root
        self.folder = tempfile.mkdtemp(prefix="weir-e2e-")
        self.gateway, self.mailbox = None, None
        self.ports, self.clients, self.postgres = PORTS, [], None
        self.kafka_port, self.kafka = 9092, "127.0.0.1:9092"
        self.machine = None
        shutil.copy(deb, root + "/srv/weir.deb")

    # ---- the machine

    def boot(self):
        self.machine = subprocess.Popen([MACHINE, "run", self.root], stdin=subprocess.DEVNULL)
        self.wait("the machine is there", lambda: os.path.exists(self.root + ".pid") or self.machine.poll() is not None, 60)
        if self.machine.poll() == 69:  # it has said why
            sys.exit(world.SKIPPED)
        subprocess.run([MACHINE, "up", self.root], check=True, timeout=180)

    def off(self):
        subprocess.run([MACHINE, "off", self.root], check=True, timeout=180)
        self.machine.wait(60)

    def tell(self, command, check=True, seconds=300):
        """What a command on the machine prints."""
        done = subprocess.run([MACHINE, "in", self.root, command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=seconds, check=False)
        assert done.returncode == 0 or not check, f"{command}: {done.returncode}\n{done.stdout[-4000:]}"
        return done.stdout.strip()

    def show(self, unit, name):
        return self.tell(f"systemctl show {unit} --property={name} --value")

    def status(self, unit):
        return self.show(unit, "StatusText")

    def wait_show(self, unit, name, wanted, seconds=180):
        self.wait(f"{name} of {unit} is {wanted}", lambda: self.show(unit, name) == wanted, seconds)

    def write(self, path, text):
        os.makedirs(os.path.dirname(self.root + path), exist_ok=True)
        with open(self.root + path, "w") as file:
            file.write(text)

    def override(self, unit, text):
        """Settings of a unit that make a wait short."""
        self.write(f"/etc/systemd/system/{unit}.service.d/test.conf", text)
        self.tell("systemctl daemon-reload")

    def main_pid(self, unit):
        return int(self.show(unit, "MainPID"))

    def signal(self, unit, name):
        self.tell(f"kill -{name} {self.main_pid(unit)}")

    def install(self):
        return self.tell("apt-get install -y --reinstall -o Dpkg::Use-Pty=0 /srv/weir.deb")

    # ---- what a World is asked by shop and books

    def running(self, service):
        return self.show(f"weir-{service}", "ActiveState") == "active"

    def instances(self, service):
        return [service]

    def database(self, service):
        return f"{self.root}/var/lib/weir/{service}/weir-{service}.db"

    def stop_all(self, timeout=60):
        self.tell("systemctl stop " + " ".join(UNITS), seconds=timeout)
        return {unit: result for unit in UNITS if (result := self.show(unit, "Result")) != "success"}

    def wait_all_ready(self):
        for service in world.SERVICES:
            self.wait_show(f"weir-{service}", "StatusText", "ready")
            assert self.call(service, "/readyz")[0] == 200

    def close(self, failed=False):
        try:
            if failed and self.machine and self.machine.poll() is None:
                print(self.tell("systemctl status --no-pager --lines=5 'weir-*'; journalctl --no-pager -n 60", check=False))
        finally:
            for client in self.clients:
                client()
            if self.machine and self.machine.poll() is None:
                self.machine.terminate()
                self.machine.wait(180)
            if os.path.exists(self.folder + "/kafka"):
                self.node("stop", self.folder + "/kafka")
            shutil.rmtree(self.folder, ignore_errors=True)


# ---- the parts

def the_package_brings_units_and_starts_none(here):
    here.boot()
    here.kafka_start()  # now that loopback is up
    here.gateway, here.mailbox = world.Gateway(lose=0.02), world.Mailbox()
    here.tell("apt-get purge -y weir; rm -rf /var/lib/weir /etc/systemd/system/weir-*.d; systemctl daemon-reload", check=False)  # another run's
    here.install()
    for unit in UNITS:
        assert here.tell(f"systemctl is-enabled {unit}", check=False) == "disabled", unit
        assert here.show(unit, "ActiveState") == "inactive", unit
        exposure = float(here.tell(f"systemd-analyze security --no-pager {unit} | sed -n 's/.*exposure level for .*: \\([0-9.]*\\) .*/\\1/p'"))
        assert exposure <= EXPOSURE_MAX, f"{unit}: {exposure}"
    assert here.tell("stat -c '%U:%G %a' /var/lib/weir") == "weir:weir 750"
    here.write("/etc/weir/weir.env", "\n".join((
        f"KAFKA_BOOTSTRAP_SERVERS=localhost:{here.kafka_port}", f"KAFKA_PROPERTIES={world.MEMBER_PROPERTIES}",
        f"PAYMENT_GATEWAY_URL={here.gateway.url}", f"SMTP_URL={here.mailbox.url}", "EMAIL_RATE=0", "")))


def a_unit_is_active_when_it_serves_and_says_what_it_waits_for(here):
    """There are no topics yet."""
    here.tell("systemctl start weir-order")
    assert here.call("order", "/livez")[0] == 200
    assert here.show("weir-order", "ActiveState") == "active"
    here.wait("the status says why it is not ready", lambda: here.status("weir-order").startswith("not ready: "), 60)
    graves = here.tell("journalctl -u weir-order --no-pager -o cat -p warning _TRANSPORT=stdout")
    assert '"level":"warn"' in graves and '"level":"info"' not in graves and "<4>" not in graves, graves
    here.tell("weir topics create")
    here.tell("systemctl enable --now " + " ".join(UNITS))
    here.wait_all_ready()
    for service in world.SERVICES:
        assert here.tell(f"stat -c '%U:%G %a' /var/lib/weir/{service}") == "weir:weir 750"


class Feeder(shop.Shop):
    def run(self, orders):
        begun = time.monotonic()
        for number, data in enumerate(orders.values()):
            (self.place if number % 2 else self.post_aside)(data)
            ahead = number / RATE - (time.monotonic() - begun)
            if ahead > 0:
                time.sleep(ahead)
        self.wait_posts()


def nothing_is_lost_whatever_systemd_does_meanwhile(here):
    feeder, orders, stock = Feeder(here), shop.make_orders(ORDERS, 1), shop.make_stock(ORDERS)
    feeder.set_stock(stock)
    feeding = threading.Thread(target=feeder.run, args=(orders,))
    feeding.start()
    # One that stands still: the watchdog ends it. Two minutes are the unit's own.
    assert here.show("weir-email", "WatchdogUSec") == "2min"
    here.override("weir-email", "[Service]\nWatchdogSec=4s\n")
    here.tell("systemctl restart weir-email")
    here.signal("weir-email", "STOP")
    here.wait_show("weir-email", "NRestarts", "1")
    assert "Watchdog timeout" in here.tell("journalctl -u weir-email --no-pager -o cat")
    # One that dies is started again.
    for time_of in ("1", "2", "3"):
        here.signal("weir-order", "KILL")
        here.wait_show("weir-order", "NRestarts", time_of)
        here.wait_show("weir-order", "StatusText", "ready")
    # One that is told to stop has done so by itself, within its time.
    here.tell("systemctl stop weir-inventory")
    assert (here.show("weir-inventory", "Result"), here.show("weir-inventory", "ActiveState")) == ("success", "inactive")
    assert '"message":"stopped"' in here.tell("journalctl -u weir-inventory --no-pager -o cat -n 5")
    here.tell("systemctl start weir-inventory")
    # The same package once more, as an upgrade does it: all go on with the new programs, and with the operator's settings.
    before = {unit: here.main_pid(unit) for unit in UNITS}
    here.install()
    for unit in UNITS:
        assert here.main_pid(unit) not in (0, before[unit]), unit
    assert here.gateway.url in here.tell("cat /etc/weir/weir.env")
    # The machine goes down under load and comes up again.
    here.off()
    here.boot()
    feeding.join()
    feeder.flush()
    here.wait_all_ready()
    shop.wait_until_settled(here, len(feeder.placed), 300)
    assert not here.tell("journalctl -u 'weir-*' --no-pager -o cat | grep -iE 'operation not permitted|read-only file system' || true")
    wrong = shop.balance(here, feeder, stock)
    assert not wrong, "\n".join(wrong[:20])
    assert len(feeder.placed) == ORDERS


def wrong_settings_are_not_tried_again(here):
    here.write("/etc/weir/analytics.env", "WAITING_MAX=lots\n")
    here.tell("systemctl start weir-analytics", check=False)
    here.wait_show("weir-analytics", "ActiveState", "failed")
    assert here.show("weir-analytics", "ExecMainStatus") == "78"
    assert here.show("weir-analytics", "NRestarts") == "0"
    assert "WAITING_MAX" in here.tell("journalctl -u weir-analytics --no-pager -o cat -n 5")


def a_database_that_is_away_is_tried_until_it_is_back(here):
    here.override("weir-analytics", "[Service]\nRestartSec=100ms\n")
    here.write("/etc/weir/analytics.env", "DATABASE_URL=postgresql://weir@127.0.0.1:1/weir\n")
    here.tell("systemctl start weir-analytics", check=False)
    here.wait("it was tried more often than systemd's own limit", lambda: int(here.show("weir-analytics", "NRestarts")) > 15)
    os.unlink(here.root + "/etc/weir/analytics.env")
    here.wait_show("weir-analytics", "StatusText", "ready")


def a_purge_ends_what_runs_and_leaves_only_databases(here):
    here.tell("systemctl start " + " ".join(UNITS))
    here.tell("apt-get purge -y -o Dpkg::Use-Pty=0 weir")
    assert here.tell("systemctl list-units --all --no-legend --plain --state=active 'weir-*'") == ""
    assert here.tell("systemctl list-unit-files --no-legend 'weir-*.service'", check=False) == ""
    assert here.tell("pgrep -c weir- || true") in ("0", ""), here.tell("pgrep -a weir-")
    assert here.tell("ls -d /etc/weir 2>/dev/null || true") == ""
    assert here.tell("ls -L /etc/systemd/system/multi-user.target.wants | grep weir || true") == ""
    for service in world.SERVICES:
        assert os.path.getsize(here.database(service)) > 0
    assert here.tell("systemctl is-system-running") == "running"


PARTS = (the_package_brings_units_and_starts_none, a_unit_is_active_when_it_serves_and_says_what_it_waits_for,
         nothing_is_lost_whatever_systemd_does_meanwhile, wrong_settings_are_not_tried_again,
         a_database_that_is_away_is_tried_until_it_is_back, a_purge_ends_what_runs_and_leaves_only_databases)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deb", required=True)
    parser.add_argument("--root")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = None if options.root else tempfile.mkdtemp(prefix="weir-machine-", dir="/var/tmp")
    root = os.path.abspath(options.root or folder + "/root")
    try:
        if not os.path.exists(root + "/lib/systemd/systemd"):
            depends = subprocess.run(["dpkg-deb", "--field", options.deb, "Depends"], check=True, capture_output=True, text=True).stdout
            packages = [each.split("|")[0].split("(")[0].strip() for each in depends.split(",")]
            if subprocess.run([MACHINE, "make", root, *packages, "procps"], check=False).returncode:
                sys.exit(world.SKIPPED)
        here, failed = Booted(root, options.deb), True
        try:
            for part in PARTS:
                begun = time.monotonic()
                part(here)
                print(f"{part.__name__.replace('_', ' ')}: holds ({time.monotonic() - begun:.0f} s)", flush=True)
            failed = False
        finally:
            here.close(failed)
    finally:
        if folder:
            subprocess.run(["rm", "-rf", "--one-file-system", folder], check=False)


if __name__ == "__main__":
    main()
