"""The fast tests are checked: a library that was broken on purpose (-DWEIR_MUTANT=NAME) must be caught by the test named here, and the
unbroken one must pass them all.

    mutants.py [--build FOLDER] [NAME…]      all by default

Builds into FOLDER (default: beside WEIR_BUILD_DIR, with its name and -mutants-fast), one after the other: a mutant is a define for three
libraries, so that all but the first are built in seconds. e2e/mutants.py does the same for whole runs on real Kafka.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD_SECONDS_MAX = 900
RUN_SECONDS_MAX = 300
MODEL = ("test_waiting_room_model", "order_per_key_is_kept_and_nothing_is_lost_whatever_happens")
# What is broken: by which program, and which test of it, that is seen.
MUTANTS = {
    "none": (),
    "INBOX_OFF": (MODEL, ("test_inbox", "an_id_is_seen_after_its_commit_and_not_after_a_rollback")),
    "RETRY_WITHOUT_OUTBOX": (MODEL,),
    "ROOM_SKIPPED": (MODEL,),
    "OUTAGE_SPENDS_ATTEMPT": (MODEL,),
    "REDRIVE_TO_SOURCE": (MODEL, ("test_letter", "redriven_copy_begins_its_attempts_anew_and_keeps_all_else")),
    "FINGERPRINT_IGNORED": (("test_letter", "filter_takes_what_fits_all_that_is_set"),),
}
PROGRAMS = sorted({program for caught_by in MUTANTS.values() for program, _ in caught_by})


def build(folder, mutant):
    launcher = ["-DCMAKE_C_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
    define = "" if mutant == "none" else mutant
    for command in (["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", f"-DWEIR_MUTANT={define}", *launcher],
                    ["cmake", "--build", folder, "-j", str(os.cpu_count()), "--target", *PROGRAMS]):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILD_SECONDS_MAX, check=False)
        if done.returncode:
            print(done.stdout[-3000:], done.stderr[-3000:])
            sys.exit(f"{mutant}: cannot be built")


def run(folder, program):
    """What failed, as cmocka names it, and what was said."""
    path = next((os.path.join(at, program) for at, _, files in os.walk(folder) if program in files), None)
    if not path:
        sys.exit(f"{program}: was not built")
    environment = {**os.environ, "WAITING_ROOM_HISTORIES": "5000"}
    done = subprocess.run([path], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=RUN_SECONDS_MAX, env=environment, check=False)
    said = done.stdout + done.stderr
    failed = set(re.findall(r"^\[  FAILED  \] (\w+)", said, re.MULTILINE))
    if done.returncode and not failed:
        failed = {f"exit {done.returncode}"}
    return failed, said


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build")
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    build_dir = arguments.build or os.environ.get("WEIR_BUILD_DIR", "")
    if not build_dir:
        print("WEIR_BUILD_DIR is not set: skipped")
        sys.exit(77)
    folder = os.path.abspath(build_dir) + ("" if arguments.build else "-mutants-fast")
    problems = []
    for mutant in arguments.names or MUTANTS:
        build(folder, mutant)
        if mutant == "none":
            for program in PROGRAMS:
                failed, said = run(folder, program)
                print(f"none: {program}: {'fails' if failed else 'passes'}", flush=True)
                if failed:
                    problems.append(f"none: {program} fails without a mutant\n{said[-2000:]}")
        for program, test in MUTANTS[mutant]:
            failed, said = run(folder, program)
            if test in failed:
                seen = re.findall(r"^seed .*$", said, re.MULTILINE)
                print(f"{mutant}: caught by {program}, {test}" + (f" ({seen[0]})" if seen else ""), flush=True)
            else:
                problems.append(f"{mutant}: not caught by {program}, {test} (failed: {', '.join(sorted(failed)) or 'nothing'})")
    sys.exit("\n".join(problems) if problems else 0)


if __name__ == "__main__":
    main()
