#!/usr/bin/env python3
"""The house rules, as a test.

    tidy.py [--build FOLDER]   reads the tree; prints "path:line: rule: what is wrong"; exit 1 if anything is
    tidy.py --self-test        feeds each rule what it must catch and what it must let pass

A rule is a function here and a row in SELF_TEST; a rule without a row there fails the self-test.
"""

import argparse
import fnmatch
import json
import pathlib
import re
import shutil
import subprocess
import sys

import reference

ROOT = pathlib.Path(__file__).resolve().parents[2]
MAP = "common/README.md"

# --- the table of layers -------------------------------------------------------------------------------------------

# A folder includes from these and from itself.
LAYERS = {
    "base": [],
    "net": ["base"],
    "wire": ["base", "net"],
    "kafka": ["base", "net", "wire"],
    "store": ["base", "net", "wire"],
    "flow": ["base", "net", "wire", "kafka", "store"],
    "service": ["base", "net", "wire", "kafka", "store", "flow"],
}
# What a service may use. The flow's one header for them is the contract of handlers.
SERVICE_LAYERS = ["base", "net", "store", "service"]
SERVICE_HEADERS = ["wire/events.h", "wire/event.h", "wire/topic.h", "flow/handler.h", "flow/lanes.h"]
# weir is the tool for people: it looks at topics and dead letters itself, so it is above everything.
TOOL = "weir"

# Foreign headers, and the only folders that may include them.
FOREIGN = [
    (r"librdkafka/", ["kafka"]),
    (r"(sqlite3|libpq-fe|libpq/.*|postgres.*)\.h", ["store"]),
    (r"curl/", ["net"]),
    (r"microhttpd\.h", ["service"]),
    (r"avro(\.h|/)", ["wire"]),
    (r"jansson\.h", ["base/json.h", "base/json.c"]),
    (r"openssl/", ["base/digest.c"]),
    (r"cmocka\.h", []),
]

# --- calls that are not written ------------------------------------------------------------------------------------

FORBIDDEN = {
    "strcpy": "unbounded: snprintf or a struct buffer",
    "strcat": "unbounded: buffer_add_string",
    "strncpy": "may leave no end: snprintf or a struct buffer",
    "stpcpy": "unbounded",
    "sprintf": "unbounded: snprintf or buffer_print",
    "vsprintf": "unbounded: vsnprintf",
    "gets": "unbounded",
    "atoi": "does not tell a wrong number: text_to_int64",
    "atol": "does not tell a wrong number: text_to_int64",
    "atoll": "does not tell a wrong number: text_to_int64",
    "atof": "does not tell a wrong number: strtod",
    "strtok": "keeps state between threads",
    "system": "a shell is not called",
    "popen": "a shell is not called",
    "rand": "base/ids.h has random numbers",
    "srand": "base/ids.h has random numbers",
    "alloca": "no bound on the stack",
    "localtime": "not safe in threads: base/clock.h",
    "gmtime": "not safe in threads: base/clock.h",
}
# Library code says it in its outcome, and leaves ending the process to its owner.
SILENT_FOLDERS = ["net", "wire", "kafka", "store"]
SILENT = re.compile(r"\b(exit|_exit|quick_exit|printf|puts|perror|vprintf|log_\w+)\s*\(|\bfprintf\s*\(\s*std(out|err)\b")
# Programs of the build, though they lie in a library's folder.
BUILD_TOOLS = ["common/wire/eventgen.c"]
# A pause between two looks is a usleep; nothing is looked at as rarely as once a second.
WAITING = re.compile(r"\bsleep\s*\(")

# A test may ask a program of others (promtool) for its opinion, and knows the numbers that it reads.
TESTS_MAY = ["system", "popen", "atoi", "atol", "atoll", "atof"]
CALL = re.compile(r"(?<![\w.>])(" + "|".join(FORBIDDEN) + r")\s*\(")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
TYPEDEF_STRUCT = re.compile(r"^\s*typedef\s+(struct|enum|union)\b")
TYPE_T = re.compile(r"^\s*(typedef\b.*\b\w+_t\s*;|(struct|enum|union)\s+\w+_t\s*\{)")


def code_only(text):
    """The text with comments and the insides of strings blanked out, line by line as it was."""

    def blank(match):
        found = match.group(0)
        if found[0] == "/":
            return re.sub(r"[^\n]", " ", found)
        return found[0] + re.sub(r"[^\n]", " ", found[1:-1]) + found[-1]

    pattern = r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''
    return re.sub(pattern, blank, text, flags=re.DOTALL)


def lines_of(text):
    return enumerate(text.split("\n"), start=1)


def where(path):
    """("common", "flow") for common/flow/relay.c, ("services", "order"), ("tests", "unit"), ("services", "")."""
    parts = path.split("/")
    return parts[0], parts[1] if len(parts) > 2 else ""


def included(text):
    for number, line in lines_of(text):
        match = INCLUDE.match(line)
        if match:
            yield number, match.group(1), match.group(2)


# --- rules: (path, text) -> (line, what is wrong) ------------------------------------------------------------------


def rule_layers(path, text):
    top, folder = where(path)
    if top not in ("common", "services"):
        return
    for number, mark, header in included(text):
        target = header.split("/")[0] if "/" in header else ""
        if mark != '"':
            continue
        if target in LAYERS:
            if top == "common":
                if target != folder and target not in LAYERS.get(folder, []):
                    yield number, f"{folder} may not include {header}: it may use {', '.join(LAYERS[folder]) or 'nothing'}"
            elif folder != TOOL and target not in SERVICE_LAYERS and header not in SERVICE_HEADERS:
                yield number, f"a service may not include {header}"
        elif top == "common":
            yield number, f"{header}: an include names its folder under common/"
        elif folder and target not in ("", folder):
            yield number, f"{folder} may not include {header}: services know each other by topics only"


def rule_foreign(path, text):
    top, folder = where(path)
    if top not in ("common", "services"):
        return
    place = path.removeprefix("common/") if top == "common" else path
    for number, _, header in included(text):
        for pattern, owners in FOREIGN:
            if re.match(pattern, header) and place not in owners and not (top == "common" and folder in owners):
                yield number, f"{header} is only for {', '.join(owners) or 'tests'}"


def rule_calls(path, text):
    for number, line in lines_of(code_only(text)):
        for match in CALL.finditer(line):
            if match.group(1) in TESTS_MAY and where(path)[0] == "tests":
                continue
            yield number, f"{match.group(1)}(): {FORBIDDEN[match.group(1)]}"


def rule_silent(path, text):
    top, folder = where(path)
    if top != "common" or folder not in SILENT_FOLDERS or path in BUILD_TOOLS:
        return
    for number, line in lines_of(code_only(text)):
        match = SILENT.search(line)
        if match:
            yield number, f"{match.group(0).strip()}…: library code neither prints, logs nor exits"


def rule_waiting(path, text):
    if where(path) not in (("tests", "unit"), ("tests", "flow"), ("tests", "fault")):
        return
    for number, line in lines_of(code_only(text)):
        if WAITING.search(line):
            yield number, "a test waits for a thing, not for a time"


def rule_unfinished(path, text):
    for number, line in lines_of(text):
        if UNFINISHED.search(line):
            yield number, "what is unfinished is an issue, not a comment"


def rule_types(path, text):
    for number, line in lines_of(code_only(text)):
        if TYPEDEF_STRUCT.match(line):
            yield number, "structs and enums keep their keyword: no typedef"
        elif TYPE_T.match(line):
            yield number, "names that end in _t belong to POSIX"


def rule_guard(path, text):
    if not path.endswith(".h") or where(path)[0] not in ("common", "services"):
        return
    parts = path.removesuffix(".h").split("/")
    guard = re.sub(r"\W", "_", "_".join(parts[-2:])).upper() + "_H"
    if f"#ifndef {guard}\n#define {guard}\n" not in text:
        yield 1, f"the guard of this header is {guard}"


def rule_place(path, text):
    # Built here, so that this file is not its own finding.
    for word in ("/" + "work/", "/home" + "/", "/root" + "/"):
        for number, line in lines_of(text):
            if word in line and not re.search(r"[\w$}~]" + re.escape(word), line):
                yield number, f"{word}: a path of one machine"


RULES = {
    "layers": rule_layers,
    "foreign": rule_foreign,
    "calls": rule_calls,
    "silent": rule_silent,
    "waiting": rule_waiting,
    "unfinished": rule_unfinished,
    "types": rule_types,
    "guard": rule_guard,
    "place": rule_place,
}

# --- rules over the tree as a whole --------------------------------------------------------------------------------


def tree_builds(sources, compiled, fuzzed):
    """Every .c is in the build: a file that nobody compiles is a file that nobody tests. Peers are built by their runner."""
    for path in sources:
        if path in compiled or path.startswith("bench/peers/") or (path.startswith("tests/fuzz/") and not fuzzed):
            continue
        yield path, 1, "no target builds it"


NAMES = {
    "topic": (r'^TOPIC\(\w+, "([^"]+)"', re.M),
    "event": (r"^EVENT\(\d+, (\w+),", re.M),
    "fault point": (r"^FAULT_POINT\((\w+),", re.M),
    "setting": (r'(?:\{\s*|\.name = )"([A-Z][A-Z0-9_]{2,})",\s*(?:\.kind = )?SETTING_', 0),
    "metric": (r'(?:\{\s*|\.name = )"((?:weir|kafka|process)_[a-z0-9_]+)",\s*(?:\.kind = )?METRIC_', 0),
}


def tree_docs(texts, docs):
    """Topics, events, settings, metrics and fault points are tables; each row is named in the docs."""
    known = set(re.findall(r"[A-Za-z_][A-Za-z0-9_]+", docs))
    for path, text in texts.items():
        if where(path)[0] not in ("common", "services"):
            continue
        for kind, (pattern, flags) in NAMES.items():
            for match in re.finditer(pattern, text, flags):
                if match.group(1) not in known:
                    yield path, text.count("\n", 0, match.start()) + 1, f"{kind} {match.group(1)} is in no *.md"


def tree_map(names, page):
    """common/README.md is the code map: the table of a folder names each of its modules, and nothing that is not there."""
    folder, patterns, lines = None, {}, {}
    for number, line in lines_of(page):
        cells = line.split("|")
        if len(cells) > 3 and cells[1].strip() in LAYERS and not cells[2].strip():
            folder = cells[1].strip()
            lines[folder] = number
        elif not line.strip():
            folder = None
        elif folder:
            for name in re.findall(r"`([\w.*]+)`", cells[1]):
                patterns[folder, re.sub(r"\.(h|def)$", "", name)] = number
    modules = {}
    for name in names:
        match = re.fullmatch(r"common/(\w+)/(\w+)\.(c|h|def)", name)
        if match and match.group(1) in LAYERS:
            modules.setdefault(match.group(1), {})[match.group(2)] = name
    for folder, pattern in patterns:
        if not fnmatch.filter(modules.get(folder, {}), pattern):
            yield MAP, patterns[folder, pattern], f"{folder}/{pattern} is not there"
    for folder in modules:
        for module in sorted(modules[folder]):
            if not any(fnmatch.fnmatch(module, pattern) for place, pattern in patterns if place == folder):
                yield MAP, lines.get(folder, 1), f"the table of {folder} does not name {module}"


def tree_reference(page, expected):
    """common/reference.md is made from the tables: the two say the same."""
    have, want = page.split("\n"), expected.split("\n")
    if have != want:
        line = next((i for i, (a, b) in enumerate(zip(have, want), start=1) if a != b), min(len(have), len(want)) + 1)
        yield reference.PAGE, line, "is not what the tables say: run tests/tidy/reference.py --write"


# --- reading the tree ----------------------------------------------------------------------------------------------


def tracked():
    """Every file of the project: what git knows and what it would be told next; without git, what is there."""
    ask = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = shutil.which("git") and subprocess.run(ask, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed and listed.returncode == 0:
        return [name for name in listed.stdout.split("\n") if name and (ROOT / name).is_file()]
    found = (path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file())
    return [name for name in found if not name.startswith((".git/", "build", ".cache/"))]


def compiled_in(build):
    entries = json.loads((build / "compile_commands.json").read_text(encoding="utf-8"))
    found = set()
    for entry in entries:
        path = pathlib.Path(entry["directory"], entry["file"]).resolve()
        if path.is_relative_to(ROOT):
            found.add(path.relative_to(ROOT).as_posix())
    return found


def check(build):
    findings = []
    texts = {}
    docs = []
    names = tracked()
    for name in names:
        if name.endswith((".c", ".h", ".def")):
            texts[name] = (ROOT / name).read_text(encoding="utf-8")
        elif name.endswith(".md") and not name.startswith("tests/"):
            docs.append((ROOT / name).read_text(encoding="utf-8"))
    for name, text in sorted(texts.items()):
        for rule, function in RULES.items():
            findings += [(name, line, rule, what) for line, what in function(name, text)]
    for name in names:
        if name not in texts and name.endswith((".md", ".cmake", ".txt", ".json", ".sh", ".py", ".avsc", ".yaml", ".yml")):
            text = (ROOT / name).read_text(encoding="utf-8")
            findings += [(name, line, "place", what) for line, what in rule_place(name, text)]
    if build:
        compiled = compiled_in(build)
        fuzzed = any(name.startswith("tests/fuzz/") for name in compiled)
        sources = sorted(name for name in texts if name.endswith(".c"))
        findings += [(path, line, "builds", what) for path, line, what in tree_builds(sources, compiled, fuzzed)]
    findings += [(path, line, "docs", what) for path, line, what in tree_docs(texts, "\n".join(docs))]
    findings += [(path, line, "map", what) for path, line, what in tree_map(names, (ROOT / MAP).read_text(encoding="utf-8"))]
    page = ROOT / reference.PAGE
    have = page.read_text(encoding="utf-8") if page.is_file() else ""
    findings += [(path, line, "reference", what) for path, line, what in tree_reference(have, reference.current(names))]
    for path, line, rule, what in findings:
        print(f"{path}:{line}: {rule}: {what}")
    print(f"{len(texts)} files read, {len(findings)} findings")
    return 1 if findings else 0


# --- the rules' own test -------------------------------------------------------------------------------------------

# (rule, path, text, the lines that must be found)
SELF_TEST = [
    ("layers", "common/base/x.c", '#include "wire/topic.h"\n', [1]),
    ("layers", "common/kafka/x.c", '#include "base/text.h"\n#include "store/store.h"\n', [2]),
    ("layers", "common/store/x.c", '#include "kafka/client.h"\n', [1]),
    ("layers", "common/flow/x.c", '#include "kafka/client.h"\n#include "store/store.h"\n#include <stdio.h>\n', []),
    ("layers", "common/flow/x.c", '  #  include "service/http.h"\n', [1]),
    ("layers", "common/flow/x.c", '#include "relay.h"\n', [1]),
    ("layers", "services/order/order.c", '#include "kafka/producer.h"\n', [1]),
    ("layers", "services/order/order.c", '#include "flow/dispatch.h"\n', [1]),
    ("layers", "services/order/order.c", '#include "flow/handler.h"\n#include "order/order.h"\n#include "items.h"\n', []),
    ("layers", "services/order/order.c", '#include "email/email.h"\n', [1]),
    ("layers", "services/weir/watch.c", '#include "kafka/reader.h"\n', []),
    ("layers", "services/weir/watch.c", '#include "order/order.h"\n', [1]),
    ("layers", "tests/unit/test_x.c", '#include "kafka/client.h"\n', []),
    ("foreign", "common/flow/x.c", "#include <librdkafka/rdkafka.h>\n", [1]),
    ("foreign", "common/kafka/x.c", "#include <librdkafka/rdkafka.h>\n", []),
    ("foreign", "services/weir/broker.c", "#include <librdkafka/rdkafka_mock.h>\n", [1]),
    ("foreign", "services/kafka/x.c", "#include <librdkafka/rdkafka.h>\n", [1]),
    ("foreign", "common/flow/x.c", "#include <sqlite3.h>\n", [1]),
    ("foreign", "common/wire/x.c", "#include <jansson.h>\n", [1]),
    ("foreign", "common/base/json.h", "#include <jansson.h>\n", []),
    ("foreign", "common/base/x.c", "#include <openssl/hmac.h>\n", [1]),
    ("foreign", "common/wire/x.c", "#include <avro.h>\n", []),
    ("foreign", "common/service/x.c", "#include <curl/curl.h>\n", [1]),
    ("foreign", "services/order/x.c", "#include <cmocka.h>\n", [1]),
    ("calls", "common/base/x.c", "int f(void) {\n    return atoi(text);\n}\n", [2]),
    ("calls", "common/base/x.c", "strcpy(a, b); sprintf(a, b);\n", [1, 1]),
    ("calls", "common/base/x.c", '/* strcpy(a, b) */ say("system(x)"); // rand()\n', []),
    ("calls", "common/base/x.c", "file_system(x); work->rand(x); snprintf(a, 1, b); strtok_r(a, b, c);\n", []),
    ("calls", "common/base/x.c", "/* a\n * strcpy( */\nx = rand ();\n", [3]),
    ("calls", "services/weir/up.c", "system(x);\n", [1]),
    ("calls", "tests/unit/test_x.c", "popen(x);\n", []),
    ("silent", "common/store/x.c", 'fprintf(stderr, "x");\n', [1]),
    ("silent", "common/net/x.c", "log_warn(x);\n", [1]),
    ("silent", "common/kafka/x.c", "if (bad)\n    exit(1);\n", [2]),
    ("silent", "common/kafka/x.c", "snprintf(a, 1, b); fprintf(file, b); dialog_open(x);\n", []),
    ("silent", "common/flow/x.c", "log_warn(x);\n", []),
    ("silent", "common/wire/eventgen.c", "printf(x);\n", []),
    ("waiting", "tests/unit/test_x.c", "sleep(1);\n", [1]),
    ("waiting", "tests/flow/test_x.c", "while (!done(x))\n    usleep(1000);\n", []),
    ("unfinished", "common/base/x.c", "/* TO" + "DO: later */\n", [1]),
    ("unfinished", "common/base/x.c", "/* all done */\n", []),
    ("types", "common/base/x.h", "typedef struct text text;\n", [1]),
    ("types", "common/base/x.h", "struct text_t {\n", [1]),
    ("types", "common/base/x.h", "typedef int64_t micros_t;\n", [1]),
    ("types", "common/base/x.h", "typedef enum outcome handle(struct work *work);\n", [1]),
    ("types", "common/base/x.h", "size_t x;\nstruct text t;\nstruct json_t;\nint64_t y;\n", []),
    ("guard", "common/base/x.h", "#ifndef X_H\n#define X_H\n#endif\n", [1]),
    ("guard", "common/base/x.h", "/* x */\n#ifndef BASE_X_H\n#define BASE_X_H\n#endif\n", []),
    ("guard", "services/items.h", "#ifndef SERVICES_ITEMS_H\n#define SERVICES_ITEMS_H\n#endif\n", []),
    ("place", "README.md", "see /" + "work/main\n", [1]),
    ("place", "README.md", "in ~/work/ or $HOME/work/ or a/work/b\n", []),
]


def self_test():
    failures = []
    for number, (rule, path, text, expected) in enumerate(SELF_TEST, start=1):
        found = [line for line, _ in RULES[rule](path, text)]
        if found != expected:
            failures.append(f"row {number}: {rule} found lines {found} in {path}, not {expected}: {text!r}")
    for rule in RULES:
        outcomes = {bool(expected) for name, _, _, expected in SELF_TEST if name == rule}
        if outcomes != {True, False}:
            failures.append(f"{rule}: needs a row that it finds and one that it lets pass")

    built = list(tree_builds(["common/a.c", "common/b.c", "tests/fuzz/f.c"], {"common/a.c"}, False))
    if built != [("common/b.c", 1, "no target builds it")]:
        failures.append(f"builds: {built}")
    table = 'x\nTOPIC(ORDERS, "orders", "order_id", 6, 7, false)\n'
    settings = 'struct setting s[] = {\n    {"HTTP_LISTEN", SETTING_LISTEN, "x"},\n    {.name = "SMTP_URL", .kind = SETTING_URL},\n};\n'
    metrics = '{"weir_dlq_total", METRIC_COUNTER, "class", "x"}'
    texts = {"common/wire/topics.def": table, "common/x.c": settings, "common/y.c": metrics, "tests/z.c": settings}
    if list(tree_docs(texts, "orders `HTTP_LISTEN` SMTP_URL weir_dlq_total{class}")):
        failures.append("docs: what is named was found missing")
    missing = [(path, line) for path, line, _ in tree_docs(texts, "orderss HTTP_LISTEN_X weir_dlq_total_x")]
    if missing != [("common/wire/topics.def", 2), ("common/x.c", 2), ("common/x.c", 3), ("common/y.c", 1)]:
        failures.append(f"docs: {missing}")

    table += 'SERVICE(order)\nEVENT(1, OrderPlaced, order_placed, ORDERS)\n'
    tables = {**texts, "common/wire/topics.def": table, "common/base/fault.def": 'FAULT_POINT(here, "in | between")\n'}
    del tables["tests/z.c"]
    schemas = {"OrderPlaced": {"fields": [{"name": "locale", "type": "string", "default": "en"}]}}
    page = reference.page(tables, schemas)
    for row in (
        "| `orders` | order_id | 6 | 7 days |", "| 1 | OrderPlaced | `orders` | locale string (default `en`) |",
        "| `HTTP_LISTEN` | host:port | `x` |  |", "| `weir_dlq_total` | counter | class | x |",
        "| `here` | in \\| between |",
    ):
        if row not in page.split("\n"):
            failures.append(f"reference: no line {row}")
    if list(tree_reference(page, page)) or [line for _, line, _ in tree_reference(page, "#\n" + page)] != [1]:
        failures.append("reference: the comparison")

    page = "| base | |\n|---|---|\n| `text`, `topics.def` | `none` |\n| `json*` | x |\n\n| flow | |\n| `gone` | x |\n"
    names = ["common/base/text.c", "common/base/text.h", "common/base/topics.def", "common/base/json_more.c", "common/base/x.cmake"]
    if list(tree_map(names, page)) != [(MAP, 7, "flow/gone is not there")]:
        failures.append("map: what is named was found missing, or what is gone was not found")
    if list(tree_map(["common/base/json.c", "common/flow/gone.h", "common/flow/lanes.c"], page)) != [
        (MAP, 3, "base/text is not there"), (MAP, 3, "base/topics is not there"), (MAP, 6, "the table of flow does not name lanes"),
    ]:
        failures.append("map: a module that is not named")

    for failure in failures:
        print(failure)
    print(f"{len(SELF_TEST) + 7} checks of the rules, {len(failures)} failed")
    return 1 if failures else 0


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--build", type=pathlib.Path)
    arguments.add_argument("--self-test", action="store_true")
    chosen = arguments.parse_args()
    return self_test() if chosen.self_test else check(chosen.build)


if __name__ == "__main__":
    sys.exit(main())
