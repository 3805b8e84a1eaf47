"""The checker is checked: services that were broken on purpose must be caught by test_books_after_kills.py, unbroken ones must pass.

    mutants.py [NAME…]      of: none, INBOX_OFF, OFFSETS_EARLY; all by default

Builds the services (Release, no sanitizers) into a folder beside WEIR_BUILD_DIR, with its name and -mutants, one after the other: a mutant
is a define for two libraries, so that all but the first are built in seconds.
"""
import os
import shutil
import subprocess
import sys

import world

HERE = os.path.dirname(os.path.abspath(__file__))
MUTANTS = ("none", "INBOX_OFF", "OFFSETS_EARLY")
BUILD_SECONDS_MAX = 600
RUN_SECONDS_MAX = 240
# Ten kills, the first five of them with the database held: all records of that second are in hand.
RUN = ("--orders", "600", "--rate", "60", "--kills", "10", "--pause", "0.3", "--in-hand-first", "--patience", "90")


def build(folder, mutant):
    launcher = ["-DCMAKE_C_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
    define = "" if mutant == "none" else mutant
    for command in (["cmake", "-S", world.ROOT, "-B", folder, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_TESTING=OFF",
                     f"-DWEIR_MUTANT={define}", *launcher],
                    ["cmake", "--build", folder, "-j", str(os.cpu_count()), "--target", *(f"weir-{name}" for name in world.SERVICES)]):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILD_SECONDS_MAX, check=False)
        if done.returncode:
            print(done.stdout[-3000:], done.stderr[-3000:])
            sys.exit(f"{mutant}: cannot be built")


def main():
    folder = os.path.abspath(world.need("WEIR_BUILD_DIR")) + "-mutants"
    world.need("WEIR_KAFKA_HOME")
    failures = []
    for mutant in sys.argv[1:] or MUTANTS:
        build(folder, mutant)
        broken = [] if mutant == "none" else ["--expect-broken"]
        done = subprocess.run([sys.executable, HERE + "/test_books_after_kills.py", "--build", folder, *RUN, *broken],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=RUN_SECONDS_MAX, check=False)
        print(f"== {mutant}: exit {done.returncode}\n{done.stdout}{done.stderr}", flush=True)
        if done.returncode:
            failures.append(f"{mutant}: " + ("the unbroken build does not pass" if mutant == "none" else "not caught"))
    sys.exit("\n".join(failures) if failures else 0)


if __name__ == "__main__":
    main()
