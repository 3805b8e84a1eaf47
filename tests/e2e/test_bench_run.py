"""The benchmark's suites at their smallest: each gives figures, and a wrong result gives none.

    test_bench_run.py

No figure is looked at but for being there: a machine that tests is no machine to measure on. The suites with faults and dead letters, and
the peers, are left out: they take minutes.
"""
import json
import os
import subprocess
import sys
import tempfile

import world

SUITES = ("codec", "limits", "tables", "inventory", "scaling", "accept", "saga", "tasks")
SECONDS_MAX = 1500


def run(folder, *words):
    """(exit code, the document that it wrote, what it printed); how far it is it says on standard error."""
    done = subprocess.run([sys.executable, world.ROOT + "/bench/driver.py", "--build", os.path.abspath(world.need("WEIR_BUILD_DIR")), "--size",
                           "smoke", "--into", folder, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          text=True, errors="replace", timeout=SECONDS_MAX, check=False)
    names = [name for name in os.listdir(folder) if name.endswith(".json")]
    assert len(names) == 1, f"{names}\n{done.stdout[-4000:]}"
    with open(f"{folder}/{names[0]}") as file:
        return done.returncode, json.load(file), done.stdout


def every_suite_gives_figures():
    with tempfile.TemporaryDirectory(prefix="weir-e2e-bench-") as folder:
        code, document, said = run(folder, *SUITES)
    for name in SUITES:
        entry = document["suites"][name]
        assert entry["status"] == "ok", f"{name}: {entry['errors'][-2000:]}{entry['text'][-2000:]}"
        assert entry["samples"] and entry["figures"] and "|" in entry["text"], f"{name} gave nothing"
        assert all(figure["value"] is not None for figure in entry["figures"]), f"{name}: {entry['figures']}"
    assert code == 0, said[-3000:]
    for key in ("revision", "machine", "versions", "load_before"):
        assert document[key], key


def a_wrong_result_gives_no_figure_and_loses_no_other():
    """A reservation is taken out of the database before the books are checked."""
    with tempfile.TemporaryDirectory(prefix="weir-e2e-bench-") as folder:
        code, document, said = run(folder, "--plant", "inventory", "inventory", "codec")
    wrong, right = document["suites"]["inventory"], document["suites"]["codec"]
    assert code == 1, said[-3000:]
    assert wrong["status"] == "failed" and not wrong.get("figures") and not wrong.get("samples"), wrong
    assert "reservations, not" in wrong["errors"], wrong["errors"][-2000:]
    assert right["status"] == "ok" and right["figures"], right


if __name__ == "__main__":
    world.need("WEIR_KAFKA_HOME")
    for test in (every_suite_gives_figures, a_wrong_result_gives_no_figure_and_loses_no_other):
        test()
        print(f"{test.__name__.replace('_', ' ')}: holds", flush=True)
