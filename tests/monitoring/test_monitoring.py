#!/usr/bin/env python3
"""The monitoring in compose/monitoring: promtool's own checks, and what promtool cannot see.

Every alert has a case of firing and one of staying silent, a chapter in the runbook that its annotation names, and every
metric and label that rules and dashboards ask for is one that the services (or the two exporters) really have.

Exit 77: there is no promtool (Debian's package prometheus).
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "tests/monitoring"
MONITORING = ROOT / "compose/monitoring"
RULES = MONITORING / "prometheus/rules"
CASES = sorted(HERE.glob("*_test.yml"))

# Of Prometheus itself.
PROMETHEUS = {"up": set(), "ALERTS": {"alertstate", "alertname", "severity"}}
# Of Prometheus: the job, the instance, and the service by which prometheus.yml calls it.
TARGET_LABELS = {"job", "instance", "service", "le"}
WORDS = {
    "and", "or", "unless", "by", "without", "on", "ignoring", "offset", "bool", "sum", "max", "min", "count", "avg", "rate", "increase", "delta", "changes",
    "histogram_quantile", "predict_linear", "max_over_time", "vector", "label_values", "group_left", "group_right",
}
failures = []


def check(good, text):
    if not good:
        failures.append(text)


def exported():
    """Name of each series → its labels, from the tables (common/reference.md is made of them, tidy sees to that)."""
    page = (ROOT / "common/reference.md").read_text()
    names = {}
    for name, kind, labels in re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \| ([\w, ]*) \|", page, re.M):
        found = {label.strip() for label in labels.split(",") if label.strip()}
        for suffix in ("_bucket", "_sum", "_count") if kind == "histogram" else ("",):
            names.setdefault(name + suffix, set()).update(found)
    for name in re.findall(r'"(process_\w+)"', (ROOT / "common/base/metrics.c").read_text()):
        names[name] = set()
    return names


def exporters():
    """The same of the two exporters, at the versions that compose pulls: exporters.txt."""
    environment = (ROOT / "compose/.env").read_text().splitlines()
    names, programs = {}, []
    for line in (HERE / "exporters.txt").read_text().splitlines():
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if len(words) == 2 and "=" in words[1]:
            programs.append(words[0])
            check(words[1] in environment, f"exporters.txt: compose/.env has no {words[1]}: list what the {words[0]} there exports")
        else:
            names[words[0]] = set(words[1:])
    check(programs == ["kafka_exporter", "node_exporter"] and len(names) > 30, "exporters.txt was not understood")
    return names


def blocks(text, word):
    """Name → text of each rule."""
    parts = re.split(rf"^ +- {word}: (\S+)\n", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def expression(block):
    match = re.search(r"^ +expr: (?:\|\n((?:          .*\n)+)|(.*)\n?)", block, re.M)
    return match.group(1) or match.group(2)


def check_expression(where, text, known):
    text = re.sub(r'\$__\w+|\$\w+', "x", text)
    plain = re.sub(r'"[^"]*"', '""', text)
    labels = set()
    for selector in re.findall(r"\{([^}]*)\}", plain):
        labels.update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
    for group in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", plain):
        labels.update(label.strip() for label in group.split(",") if label.strip())
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring)\s*\([^)]*\)", " ", plain)
    names = {name for name in re.findall(r"[a-zA-Z_:][\w:]*", bare) if name not in WORDS and not re.fullmatch(r"\d*[smhd]", name)}
    has = set(TARGET_LABELS)
    for name in sorted(names):
        check(name in known, f"{where}: nobody exports {name}")
        has |= known.get(name, set())
    for label in sorted(labels - has):
        check(False, f"{where}: no series in it has the label {label}")
    check(names, f"{where}: asks for nothing: {text}")


def promtool(*arguments):
    result = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=120)
    check(result.returncode == 0, f"promtool {' '.join(arguments)}:\n{result.stdout}{result.stderr}")


def check_rules(known):
    recording = blocks((RULES / "recording.yml").read_text(), "record")
    alerts = blocks((RULES / "alerts.yml").read_text(), "alert")
    cases = "".join(path.read_text() for path in CASES)
    runbook = (MONITORING / "runbook.md").read_text()
    check(len(alerts) > 10 and len(recording) > 5, "the rules were not found")
    for name, block in recording.items():
        check_expression(f"recording.yml: {name}", expression(block), known)
        check(re.search(rf"expr: \S*\b{name}\b", cases), f"the cases: {name} has no case")
        known[name] = set(re.findall(r"\w+", re.search(r"by \(([^)]*)\)", expression(block)).group(1)))
    for name, block in alerts.items():
        check_expression(f"alerts.yml: {name}", expression(block), known)
        check(re.search(r"severity: (warning|critical)", block), f"alerts.yml: {name} has no severity")
        line = re.search(r'runbook: "runbook\.md#(\w+): [^"]{20,}"', block)
        check(line and line.group(1) == name.lower(), f"alerts.yml: {name} names no chapter of its own in the runbook")
        check(f"\n## {name}\n" in runbook, f"runbook.md has no chapter {name}")
        silent = re.search(rf"alertname: {name}, eval_time: \w+, exp_alerts: \[\]", cases)
        fires = re.search(rf"alertname: {name}\n +eval_time: \w+\n +exp_alerts:\n +- exp_labels", cases)
        check(fires, f"the cases: {name} is never seen to fire")
        check(silent, f"the cases: {name} is never seen to stay silent")
    for chapter in re.findall(r"^## (\w+)$", runbook, re.M):
        check(chapter in alerts, f"runbook.md: there is no alert {chapter}")


def check_dashboards(known):
    boards = sorted((MONITORING / "grafana/dashboards").glob("*.json"))
    source = (MONITORING / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    source_uid = re.search(r"uid: (\w+)", source).group(1)
    uids, asked = set(), 0
    check(boards, "there is no dashboard")
    for path in boards:
        board = json.loads(path.read_text())
        check(board["uid"] not in uids, f"{path.name}: its uid is another's")
        uids.add(board["uid"])
        ids = [panel["id"] for panel in board["panels"]]
        check(len(ids) == len(set(ids)), f"{path.name}: two panels have one id")
        taken = set()
        for panel in board["panels"]:
            place = panel["gridPos"]
            cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
            check(not cells & taken and place["x"] + place["w"] <= 24, f"{path.name}: {panel['title']} lies on another panel")
            taken |= cells
            for target in panel.get("targets", []):
                asked += 1
                check(target["datasource"]["uid"] == source_uid, f"{path.name}: {panel['title']}: datasource")
                check_expression(f"{path.name}: {panel['title']}", target["expr"], known)
        for annotation in board["annotations"]["list"]:
            check(annotation["datasource"]["uid"] == source_uid, f"{path.name}: {annotation['name']}: datasource")
            check_expression(f"{path.name}: {annotation['name']}", annotation["target"]["expr"], known)
        for variable in board["templating"]["list"]:
            check_expression(f"{path.name}: ${variable['name']}", re.sub(r"label_values\((\w+), *\w+\)", r"\1", variable["definition"]), known)
    check(asked > 30, "the dashboards ask for next to nothing")


def main():
    if not shutil.which("promtool"):
        print("there is no promtool: it comes with Debian's package prometheus")
        return 77
    known = {**exporters(), **exported(), **PROMETHEUS}
    check("weir_events_total" in known and "weir_handle_seconds_bucket" in known, "common/reference.md was not understood")
    check_rules(known)
    check_dashboards(known)
    promtool("check", "config", str(MONITORING / "prometheus/prometheus.yml"))
    promtool("test", "rules", *map(str, CASES))
    for failure in failures:
        print(failure)
    return 1 if failures else 0


sys.exit(main())
