#!/usr/bin/env python3
"""common/reference.md from the tables in the code: topics, events, settings, metrics, fault points.

    reference.py            prints it
    reference.py --write    writes it

tidy.py compares what is in the tree with what the tables say now.
"""

import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = "common/reference.md"

KINDS = {
    "TEXT": "text", "URL": "URL", "SECRET": "secret", "INT": "number", "DURATION": "duration", "DURATIONS": "durations",
    "BYTES": "bytes", "RATE": "rate", "BOOL": "true or false", "CHOICE": "", "LISTEN": "host:port", "SERVERS": "host:port,…",
}
# Whose a table is, by the folder or file that it stands in; the first that fits.
OWNERS = [
    ("common/kafka/", "Whatever talks to Kafka"),
    ("common/store/", "Every service: the database"),
    ("common/flow/", "Every service: the flow"),
    ("common/service/", "Every service"),
    ("common/net/otlp", "Every service: traces"),
    ("common/net/", "Whatever calls out"),
    ("common/wire/", "Whatever reads or writes events"),
    ("common/base/", "Every program"),
    ("services/weir/main.c", "weir, all verbs"),
]
SETTING_FIELDS = ["name", "kind", "fallback", "min", "max", "choices", "help"]
METRIC_FIELDS = ["name", "kind", "labels", "help", "bounds"]


def owner(path):
    for prefix, name in OWNERS:
        if path.startswith(prefix):
            return name
    parts = path.split("/")
    if parts[1] == "weir":
        return f"weir {parts[-1].removesuffix('.c')}"
    return f"weir-{parts[1].removesuffix('.c')}"


def row_at(text, start):
    """The fields of the initialiser whose { is at start, as written: {name: C text} and [C text, …]."""
    depth, field, fields, at = 0, "", [], start
    while at < len(text):
        string = re.compile(r'"(?:\\.|[^"\\])*"').match(text, at)
        if string:
            field += string.group(0)
            at = string.end()
            continue
        character = text[at]
        if character in "({":
            depth += 1
        elif character in ")}":
            depth -= 1
        if depth == 0:
            break
        if character == "," and depth == 1:
            fields.append(field)
            field = ""
        elif not (character == "{" and depth == 1):
            field += character
        at += 1
    fields.append(field)
    named = {}
    plain = []
    for value in (value.strip() for value in fields):
        match = re.match(r"\.(\w+)\s*=\s*(.*)", value, re.DOTALL)
        if match:
            named[match.group(1)] = match.group(2)
        else:
            plain.append(value)
    return named, plain


def string_of(value):
    """What a C string says ("a" "b" as well); None for NULL and for what is no literal."""
    parts = re.findall(r'"((?:\\.|[^"\\])*)"', value or "")
    return "".join(parts).replace('\\"', '"').replace("\\\\", "\\") if parts else None


def rows(text, prefix, names):
    for match in re.finditer(r'\{\s*(?:\.name\s*=\s*)?"', text):
        named, plain = row_at(text, match.start())
        row = {**dict(zip(names, plain)), **named}
        if row.get("kind", "").startswith(prefix):
            yield {**row, "name": string_of(row["name"]), "kind": row["kind"].removeprefix(prefix)}


def cell(text):
    return (text or "").replace("|", "\\|").replace("<", "\\<").replace("\n", " ")


def setting_form(row):
    if row["kind"] == "CHOICE":
        return ", ".join(f"`{choice}`" for choice in (string_of(row.get("choices")) or "").split("|"))
    return KINDS[row["kind"]]


def schema_fields(schema):
    out = []
    for field in schema["fields"]:
        kind = field["type"]
        if isinstance(kind, dict):
            if kind["type"] == "array":
                inside = kind["items"]
                kind = "[ " + schema_fields(inside) + " ]" if isinstance(inside, dict) else f"[ {inside} ]"
            else:
                kind = kind.get("logicalType", kind["type"])
        elif isinstance(kind, list):
            kind = " or ".join(part if isinstance(part, str) else part["type"] for part in kind)
        default = f" (default `{field['default']}`)" if "default" in field else ""
        out.append(f"{field['name']} {kind}{default}")
    return ", ".join(out)


def page(texts, schemas):
    """texts: path → source of the files with tables; schemas: event name → parsed .avsc."""
    topics = texts["common/wire/topics.def"]
    out = [
        "# Reference",
        "",
        "Made from the tables in the code by `tests/tidy/reference.py --write`; the tests compare the two.",
        "",
        "## Topics",
        "",
        "| topic | key | partitions | kept |",
        "|---|---|--:|---|",
    ]
    ids = {}
    for match in re.finditer(r'^TOPIC\((\w+), "([^"]+)", "([^"]+)", (\d+), (\d+), (\w+)\)', topics, re.M):
        ids[match.group(1)] = match.group(2)
        kept = "compacted" if match.group(6) == "true" else f"{match.group(5)} days"
        out.append(f"| `{match.group(2)}` | {match.group(3)} | {match.group(4)} | {kept} |")
    services = re.findall(r"^SERVICE\((\w+)\)", topics, re.M)
    out += [
        "",
        f"And for each of {', '.join(services)}: `retry.<service>.<delay>` for every delay of RETRY_DELAYS (7 days, or twice the delay) and",
        "`dlq.<service>` (30 days), 6 partitions each.",
        "",
        "## Events",
        "",
        "The schema id without a registry is 100 × n + version.",
        "",
        "| n | event | topic | fields |",
        "|--:|---|---|---|",
    ]
    for number, name, topic in re.findall(r"^EVENT\((\d+), (\w+), \w+, (\w+)\)", topics, re.M):
        fields = schema_fields(schemas[name]) if name in schemas else ""
        out.append(f"| {number} | {name} | `{ids[topic]}` | {cell(fields)} |")

    settings, metrics = {}, {}
    for path, text in sorted(texts.items()):
        for row in rows(text, "SETTING_", SETTING_FIELDS):
            settings.setdefault(owner(path), {})[row["name"]] = row
        for row in rows(text, "METRIC_", METRIC_FIELDS):
            metrics.setdefault(owner(path), {})[row["name"]] = row
    out += [
        "",
        "## Settings",
        "",
        "`NAME` in the environment, `--name` on the command line, `name = …` in `--config FILE` with dots for underscores; the flag",
        "wins, then the environment, then the file. A secret may be given as a file, `NAME_FILE`. Durations are written",
        "`250ms`, `10s`, `15min`, `24h`, `14d`; rates `10/s`, `100/min`, `6000/h`, `0` for no limit; bytes `64k`, `16M`.",
    ]
    order = [name for _, name in OWNERS]
    rank = lambda name: (order.index(name) if name in order else len(order), name)
    for who in sorted(settings, key=rank):
        out += ["", f"### {who}", "", "| setting | form | default | is |", "|---|---|---|---|"]
        for name, row in sorted(settings[who].items()):
            default = string_of(row.get("fallback"))
            shown = f"`{cell(default)}`" if default else ""
            out.append(f"| `{name}` | {cell(setting_form(row))} | {shown} | {cell(string_of(row.get('help')))} |")
    out += ["", "## Metrics", "", "On `/metrics` of every service, each series from the start."]
    for who in sorted(metrics, key=rank):
        out += ["", f"### {who}", "", "| metric | kind | labels | is |", "|---|---|---|---|"]
        for name, row in sorted(metrics[who].items()):
            labels = ", ".join((string_of(row.get("labels")) or "").split(",")) or ""
            out.append(f"| `{name}` | {row['kind'].lower()} | {labels} | {cell(string_of(row.get('help')))} |")
    out += [
        "",
        "## Fault points",
        "",
        "In builds with `WEIR_FAULTS=ON`, `WEIR_FAULT=name[:n][:exit|abort|fail]` arms one at its n-th pass.",
        "",
        "| point | where it is |",
        "|---|---|",
    ]
    faults = texts["common/base/fault.def"]
    for name, what in re.findall(r'^FAULT_POINT\((\w+),\s*"([^"]*)"\)', faults, re.M):
        out.append(f"| `{name}` | {cell(what)} |")
    return "\n".join(out) + "\n"


def current(names):
    """The page as the tree says it now; names: the files of the project."""
    texts, schemas = {}, {}
    for name in names:
        if name.startswith(("common/", "services/")) and name.endswith((".c", ".def")):
            texts[name] = (ROOT / name).read_text(encoding="utf-8")
        elif re.fullmatch(r"schemas/\w+\.avsc", name):
            schemas[pathlib.Path(name).stem] = json.loads((ROOT / name).read_text(encoding="utf-8"))
    return page(texts, schemas)


def main():
    import tidy  # tidy imports this file as well

    text = current(tidy.tracked())
    if sys.argv[1:] == ["--write"]:
        (ROOT / PAGE).write_text(text, encoding="utf-8")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
