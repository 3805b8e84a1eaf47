"""Our codec against fastavro: resolution from a writer's schema to a reader's.

    codec.py CODEC_PIPE [PAIRS]

Thousands of random pairs, the same on every run: a random writer's schema and value, and a reader's schema made
from it by the changes that Avro allows (fields added with defaults, removed, reordered, renamed behind an alias;
promotions; unions put around, widened, taken away; symbols added and removed; named types renamed). fastavro
writes the datum; ours and fastavro must read the same value or both refuse it; what ours writes of it fastavro
must read as the same; canonical form and fingerprint must agree. Then cases by hand, for what fastavro has no
say in or does differently.
"""

import base64
import copy
import io
import json
import random
import struct
import subprocess
import sys

try:
    import fastavro
    from fastavro.schema import fingerprint, to_parsing_canonical_form
except ImportError:
    print("skipped: no fastavro in this Python (see WEIR_PYTHON in tests/README.md)")
    sys.exit(77)

PROMOTIONS = {
    "int": ["long", "float", "double"],
    "long": ["float", "double"],
    "float": ["double"],
    "string": ["bytes"],
    "bytes": ["string"],
}
NUMBERS = ["int", "long", "float", "double"]
PRIMITIVES = ["null", "boolean", "bytes", "string"] + NUMBERS
failures = 0


class Pipe:
    def __init__(self, path):
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"codec_pipe died on {json.dumps(request)}")
        return json.loads(line)


def fail(what, **about):
    global failures
    failures += 1
    if failures <= 10:
        print(f"FAILED: {what}")
        for name, value in about.items():
            print(f"    {name}: {value if isinstance(value, str) else json.dumps(value, default=repr)}")


# ---- random schemas, values and changes


class Maker:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.names = 0

    def name(self, prefix):
        self.names += 1
        return f"{prefix}{self.names}"

    def schema(self, depth, without=()):
        kinds = PRIMITIVES + ["string", "int", "long"]
        if depth > 0:
            kinds = kinds + ["record", "enum", "fixed", "array", "map", "union"]
        kind = self.random.choice([k for k in kinds if k not in without])
        if kind == "record":
            return self.record(depth)
        if kind == "enum":
            symbols = [f"S{i}" for i in range(self.random.randint(1, 5))]
            return {"type": "enum", "name": self.name("Enum"), "symbols": symbols}
        if kind == "fixed":
            return {"type": "fixed", "name": self.name("Fixed"), "size": self.random.randint(1, 6)}
        if kind == "array":
            return {"type": "array", "items": self.schema(depth - 1, ["null"])}
        if kind == "map":
            return {"type": "map", "values": self.schema(depth - 1)}
        if kind == "union":
            return self.union(depth)
        return kind

    def union(self, depth):
        # At most one number and one of string and bytes: which of two a value may be read as is a matter of
        # taste (ours takes the same type first, fastavro the first that will do). And nothing that fastavro
        # cannot tell apart when it writes.
        groups = [["null"], ["boolean"], NUMBERS, ["string", "bytes", "enum"], ["record", "map"], ["array"]]
        branches = []
        for group in self.random.sample(groups, self.random.randint(1, 4)):
            kind = self.random.choice(group)
            if kind in ("record", "enum", "array", "map"):
                others = set(PRIMITIVES + ["record", "enum", "fixed", "array", "map", "union"]) - {kind}
                branches.append(self.schema(max(depth - 1, 1), others))
            else:
                branches.append(kind)
        return branches

    def record(self, depth):
        fields = [{"name": f"f{i}", "type": self.schema(depth - 1)} for i in range(self.random.randint(1, 5))]
        return {"type": "record", "name": self.name("Record"), "fields": fields}

    def value(self, schema):
        if isinstance(schema, list):
            branch = self.random.choice(schema)
            value = self.value(branch)
            # fastavro is told the branch, or it would choose by the value
            if isinstance(branch, dict) and branch["type"] == "record":
                return (branch["name"], value)
            return value
        kind = schema["type"] if isinstance(schema, dict) else schema
        if kind == "null":
            return None
        if kind == "boolean":
            return self.random.random() < 0.5
        if kind in ("int", "long"):
            bits = self.random.randint(0, 31 if kind == "int" else 63)
            return self.random.randint(-(2**bits), 2**bits - 1)
        if kind == "float":
            return struct.unpack("<f", struct.pack("<f", self.random.uniform(-1e6, 1e6)))[0]
        if kind == "double":
            return self.random.uniform(-1, 1) * 10.0 ** self.random.randint(-300, 300)
        if kind == "bytes":
            # so that it can be promoted to a string
            return "".join(self.random.choice("aé€\U0001d11e\x00") for _ in range(self.random.randint(0, 9))).encode()
        if kind == "string":
            return "".join(self.random.choice('xyzéß€\U0001d11e"\\\n') for _ in range(self.random.randint(0, 20)))
        if kind == "fixed":
            return self.random.randbytes(schema["size"])
        if kind == "enum":
            return self.random.choice(schema["symbols"])
        if kind == "array":
            return [self.value(schema["items"]) for _ in range(self.random.randint(0, 4))]
        if kind == "map":
            return {f"k{i}": self.value(schema["values"]) for i in range(self.random.randint(0, 4))}
        return {field["name"]: self.value(field["type"]) for field in schema["fields"]}

    def default(self, schema):
        """A default in a schema's own JSON; None for types whose defaults fastavro gives back as they stand."""
        if isinstance(schema, list):
            return self.default(schema[0])
        kind = schema["type"] if isinstance(schema, dict) else schema
        if kind in ("bytes", "fixed"):
            raise ValueError(kind)
        if kind == "array":
            return [self.default(schema["items"]) for _ in range(self.random.randint(0, 2))]
        if kind == "map":
            return {f"d{i}": self.default(schema["values"]) for i in range(self.random.randint(0, 2))}
        if kind == "record":
            return {field["name"]: self.default(field["type"]) for field in schema["fields"]}
        if kind == "string":
            return "default é"
        return self.value(schema)

    def change(self, schema):
        """A reader's schema for what was written with this one."""
        roll = self.random.random()
        if isinstance(schema, list):
            branches = [self.change_named(branch) for branch in schema]
            self.random.shuffle(branches)
            if roll < 0.2 and len(branches) > 1:
                branches.pop()
            elif roll < 0.3:
                return branches[0]
            return branches
        if roll < 0.1:
            others = [self.change_named(schema)]
            if schema != "null":
                others.insert(self.random.randint(0, 1), "null")
            return others
        return self.change_named(schema)

    def change_named(self, schema):
        if isinstance(schema, str):
            if schema in PROMOTIONS and self.random.random() < 0.3:
                return self.random.choice(PROMOTIONS[schema])
            return schema
        schema = dict(schema)
        if "name" in schema and self.random.random() < 0.2:
            schema["aliases"] = [schema["name"]]
            schema["name"] = self.name("Renamed")
        if schema["type"] == "array":
            schema["items"] = self.change(schema["items"])
            if schema["items"] == ["null"]:
                schema["items"] = "null"
        elif schema["type"] == "map":
            schema["values"] = self.change(schema["values"])
        elif schema["type"] == "enum":
            self.change_enum(schema)
        elif schema["type"] == "record":
            self.change_record(schema)
        return schema

    def change_enum(self, schema):
        symbols = list(schema["symbols"])
        self.random.shuffle(symbols)
        if self.random.random() < 0.3:
            symbols.append("ADDED")
        if self.random.random() < 0.3 and len(symbols) > 1:
            symbols.pop(0)
            if self.random.random() < 0.7:
                schema["default"] = symbols[0]
        schema["symbols"] = symbols

    def change_record(self, schema):
        fields = []
        for field in schema["fields"]:
            if self.random.random() < 0.15:
                continue
            field = dict(field)
            field["type"] = self.change(field["type"])
            if self.random.random() < 0.2:
                field["aliases"] = ["never", field["name"]]
                field["name"] = self.name("renamed")
            fields.append(field)
        for _ in range(self.random.choice([0, 0, 1, 2])):
            added = {"name": self.name("added"), "type": self.schema(2)}
            try:
                added["default"] = self.default(added["type"])
            except ValueError:
                continue
            fields.append(added)
        self.random.shuffle(fields)
        schema["fields"] = fields


# ---- comparing


def same(ours, theirs):
    if isinstance(theirs, bytes):
        return ours == base64.b64encode(theirs).decode()
    if isinstance(theirs, dict):
        return isinstance(ours, dict) and ours.keys() == theirs.keys() and all(same(ours[k], theirs[k]) for k in ours)
    if isinstance(theirs, list):
        return isinstance(ours, list) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(theirs, bool) or theirs is None or isinstance(theirs, str):
        return ours is theirs or (isinstance(theirs, str) and ours == theirs)
    if isinstance(ours, bool) or not isinstance(ours, (int, float)):
        return False
    # fastavro leaves a long that it reads as a float in double precision
    return ours == theirs or (isinstance(theirs, float) and ours == struct.unpack("<f", struct.pack("<f", theirs))[0])


def read(datum, writer, reader):
    return fastavro.schemaless_reader(io.BytesIO(datum), writer, reader)


def check_pair(pipe, seed, counts):
    maker = Maker(seed)
    writer = maker.record(4)
    try:
        value = maker.value(writer)
        reader = maker.change_named(copy.deepcopy(writer))
        into = io.BytesIO()
        fastavro.schemaless_writer(into, fastavro.parse_schema(copy.deepcopy(writer)), value)
    except ValueError as error:
        fail(f"seed {seed}: fastavro does not write it: {error}", writer=writer)
        return
    datum = into.getvalue()
    about = {"seed": seed, "writer": writer, "reader": reader, "datum": base64.b64encode(datum).decode()}
    ours = pipe.ask(writer=json.dumps(writer), reader=json.dumps(reader), datum=base64.b64encode(datum).decode())
    try:
        theirs = read(datum, writer, reader)
    except (fastavro.read.SchemaResolutionError, UnicodeDecodeError) as error:
        counts["refused"] += 1
        if "error" not in ours:
            fail("fastavro refuses what ours reads", error=str(error), ours=ours["value"], **about)
        return
    if "error" in ours:
        # Ours looks at the schemas, fastavro at the value that happens to be there.
        if ours["cause"] == "schema-incompatible":
            counts["incompatible"] += 1
        elif "take no bytes" in ours["error"]:
            counts["costless"] += 1
        else:
            fail("ours refuses what fastavro reads", ours=ours, theirs=theirs, **about)
        return
    counts["read"] += 1
    if not same(ours["value"], theirs):
        fail("another value", ours=ours["value"], theirs=theirs, **about)
        return
    again = read(base64.b64decode(ours["encoded"]), reader, reader)
    if not same(ours["value"], again):
        fail("fastavro reads another value of what ours wrote", ours=ours["value"], theirs=again, **about)
    canonical = to_parsing_canonical_form(fastavro.parse_schema(copy.deepcopy(reader)))
    if ours["canonical"] != canonical:
        fail("another canonical form", ours=ours["canonical"], theirs=canonical, **about)
    if bytes.fromhex(ours["fingerprint"])[::-1].hex() != fingerprint(canonical, "CRC-64-AVRO"):
        fail("another fingerprint", ours=ours["fingerprint"], theirs=fingerprint(canonical, "CRC-64-AVRO"))


# ---- by hand


def record(*fields, **more):
    return {"type": "record", "name": "R", "fields": list(fields), **more}


def field(name, kind, **more):
    return {"name": name, "type": kind, **more}


def check_case(pipe, what, writer, reader, value, expected):
    into = io.BytesIO()
    fastavro.schemaless_writer(into, copy.deepcopy(writer), value)
    datum = base64.b64encode(into.getvalue()).decode()
    ours = pipe.ask(writer=json.dumps(writer), reader=json.dumps(reader), datum=datum)
    got = ours.get("cause", ours.get("value"))
    if got != expected:
        fail(what, got=ours, expected=expected)


def check_cases(pipe):
    a = field("a", "int")
    cases = [
        ("a default of bytes and of fixed is in code points", record(a),
         record(field("b", "bytes", default="\u00ff\u0000"),
                field("x", {"type": "fixed", "name": "F", "size": 2}, default="\u00e9A")),
         {"a": 1}, {"b": "/wA=", "x": "6UE="}),
        ("a field without a default is missing", record(a), record(field("b", "int")), {"a": 1}, "schema-incompatible"),
        ("a default is of the union's first branch", record(a),
         record(field("u", ["string", "null"], default="x")), {"a": 1}, {"u": "x"}),
        ("a default of a record takes its fields' defaults", record(a),
         record(field("r", {"type": "record", "name": "Q", "fields": [field("p", "int"), field("q", "int", default=7)]},
                      default={"p": 1})), {"a": 1}, {"r": {"p": 1, "q": 7}}),
        ("a field's name goes before another's alias", record(a, field("b", "int")),
         record(field("b", "int", aliases=["a"]), field("c", "int", aliases=["a"])), {"a": 1, "b": 2}, {"b": 2, "c": 1}),
        ("the same type goes before a promotion", record(a), record(field("a", ["double", "int"])), {"a": 5}, {"a": 5}),
        ("namespaces aside names match", record(a, namespace="one"), record(a, namespace="two"), {"a": 5}, {"a": 5}),
        ("an alias is in its type's namespace", record(a, namespace="one"),
         {**record(a, namespace="one", aliases=["R"]), "name": "New"}, {"a": 5}, {"a": 5}),
        ("another name is another type", record(a), {**record(a), "name": "New"}, {"a": 5}, "schema-incompatible"),
        ("int is no string", record(a), record(field("a", "string")), {"a": 5}, "schema-incompatible"),
        ("long is no int", record(field("a", "long")), record(a), {"a": 5}, "schema-incompatible"),
        ("milliseconds are no microseconds", record(field("a", {"type": "long", "logicalType": "timestamp-millis"})),
         record(field("a", {"type": "long", "logicalType": "timestamp-micros"})), {"a": 5}, "schema-incompatible"),
        ("a time is RFC 3339", record(field("a", "long")),
         record(field("a", {"type": "long", "logicalType": "timestamp-micros"})), {"a": 1}, {"a": "1970-01-01T00:00:00.000001Z"}),
        ("a symbol that the reader lacks", record(field("e", {"type": "enum", "name": "E", "symbols": ["A", "B"]})),
         record(field("e", {"type": "enum", "name": "E", "symbols": ["A"]})), {"e": "B"}, "avro-symbol"),
        ("a branch that the reader lacks", record(field("u", ["null", "string"])), record(field("u", "string")),
         {"u": None}, "avro-branch"),
        ("bytes that are no string", record(field("b", "bytes")), record(field("b", "string")), {"b": b"\xff"}, "avro-utf8"),
        ("a named type used twice", record(field("x", {"type": "fixed", "name": "F", "size": 1}), field("y", "F")),
         record(field("y", {"type": "fixed", "name": "F", "size": 1}), field("x", "F")),
         {"x": b"x", "y": b"y"}, {"y": "eQ==", "x": "eA=="}),
    ]
    for case in cases:
        check_case(pipe, *case)
    return len(cases)


def main():
    pairs = int(sys.argv[2]) if len(sys.argv) > 2 else 6000
    pipe = Pipe(sys.argv[1])
    counts = {"read": 0, "refused": 0, "incompatible": 0, "costless": 0}
    for seed in range(pairs):
        check_pair(pipe, seed, counts)
    cases = check_cases(pipe)
    pipe.process.stdin.close()
    if pipe.process.wait() != 0:
        fail("codec_pipe did not end well")
    print(f"{pairs} random pairs: {counts}; {cases} cases by hand; {failures} failures")
    if counts["read"] < pairs * 2 // 3:
        fail("too few pairs were read: the test tests little")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
