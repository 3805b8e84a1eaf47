#!/usr/bin/env python3
"""`weir schemas` on the tree's own schemas, on planted changes, and against a registry.

    schemas.py WEIR SCHEMAS

Every .avsc against its history, both ways: this is the check that stops a change which readers or writers of another
version could not live with. Then changes that must be caught, by the name of the field; and a registry (support/registry.py).
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "support"))
import registry  # noqa: E402

WEIR, SCHEMAS = sys.argv[1], pathlib.Path(sys.argv[2])
EVENTS = sorted(path.stem for path in SCHEMAS.glob("*.avsc"))
failures = 0


def weir(*words, **settings):
    """(exit code, stdout, stderr)"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SCHEMA_REGISTRY_")}
    done = subprocess.run([WEIR, "schemas", *map(str, words)], env={**environment, **settings}, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def expect(what, got, code, *texts, absent=()):
    global failures
    said = got[1] + got[2]
    missing = [text for text in texts if text not in said] + [text for text in absent if text in said]
    if got[0] != code or missing:
        failures += 1
        print(f"FAILED {what}: exit {got[0]} instead of {code}; not as wanted: {missing}\n{said}")
    else:
        print(f"ok     {what}")


# ---- changes of one schema: what the second version is, what is said of it both ways and of reading only

FIRST = {"type": "record", "name": "Parcel", "namespace": "weir", "fields": [
    {"name": "order_id", "type": "string"},
    {"name": "weight", "type": "int"},
    {"name": "carrier", "type": "string", "default": "post"},
    {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["PACKED", "SENT"], "default": "PACKED"}},
    {"name": "items", "type": {"type": "array", "items": {"type": "record", "name": "Piece", "fields": [
        {"name": "sku", "type": "string"}, {"name": "count", "type": "int"}]}}},
]}


def changed(**fields):
    """FIRST with fields replaced, added or (None) removed; "items.count" is the field within."""
    out = json.loads(json.dumps(FIRST))
    for path, value in fields.items():
        name, _, inner = path.partition("__")
        owner = out["fields"]
        if inner:
            owner = next(one for one in owner if one["name"] == name)["type"]["items"]["fields"]
            name = inner
        at = next((i for i, one in enumerate(owner) if one["name"] == name), len(owner))
        owner[at:at + 1] = [] if value is None else [{"name": name, **value} if "name" not in value else value]
    return out


BACK, FORTH = "version 2 cannot read what version 1 wrote: ", "version 1 cannot read what version 2 writes: "
CHANGES = [
    ("a field with a default", changed(depot={"type": "string", "default": "A"}), None, None),
    ("a field without one", changed(depot={"type": "string"}), "depot: ", None),
    ("a field gone that had a default", changed(carrier=None), None, None),
    ("a field gone that had none", changed(weight=None), None, "weight: "),
    ("a field within", changed(items__count=None), None, "items: items: count: "),
    ("another type", changed(weight={"type": "string"}), "weight: ", "weight: "),
    ("a promotion", changed(weight={"type": "long"}), None, "weight: "),
    ("a promotion within", changed(items__count={"type": "long"}), None, "items: items: count: "),
    ("a new name with an alias", changed(weight={"name": "grams", "type": "int", "aliases": ["weight"]}), None, "weight: "),
    ("a new name without", changed(weight={"name": "grams", "type": "int"}), "grams: ", "weight: "),
    ("a symbol more, where there is a default", changed(state={"type": {
        "type": "enum", "name": "State", "symbols": ["PACKED", "SENT", "LOST"], "default": "PACKED"}}), None, None),
    ("a symbol less, where there is none", changed(state={"type": {
        "type": "enum", "name": "State", "symbols": ["PACKED"]}}), "state: ", None),
    ("what is no schema", {"type": "record"}, "is no schema", None),
]


def planted():
    with tempfile.TemporaryDirectory(prefix="weir-schemas-") as folder:
        (pathlib.Path(folder) / "history").mkdir()
        (pathlib.Path(folder) / "history" / "Parcel.1.avsc").write_text(json.dumps(FIRST))
        for what, second, back, forth in CHANGES:
            (pathlib.Path(folder) / "Parcel.avsc").write_text(json.dumps(second))
            broken = back == "is no schema"
            back_text = back if broken or not back else BACK + back
            both = [text for text in (back_text, forth and FORTH + forth) if text]
            expect(what, weir("check", folder), 65 if both else 0, *["Parcel: "] * bool(both), *both,
                   absent=[one for one, text in ((BACK, back), (FORTH, forth)) if not text])
            expect(what + ", readers first", weir("check", folder, "--compatibility", "backward"), 65 if back else 0,
                   *filter(None, [back_text]), absent=[FORTH])
        # A change of one of Weir's own.
        own = pathlib.Path(folder) / "own"
        shutil.copytree(SCHEMAS, own)
        (own / "history").mkdir(exist_ok=True)
        schema = json.loads((own / "OrderPlaced.avsc").read_text())
        number = 1 + len(list((own / "history").glob("OrderPlaced.*.avsc")))
        shutil.copy(own / "OrderPlaced.avsc", own / "history" / f"OrderPlaced.{number}.avsc")
        schema["fields"] = [field for field in schema["fields"] if field["name"] != "customer_id"]
        (own / "OrderPlaced.avsc").write_text(json.dumps(schema))
        expect("OrderPlaced without its customer", weir("check", own), 65, "OrderPlaced: ", "customer_id")
        expect("no such folder", weir("check", pathlib.Path(folder) / "none"), 66, "none")


# ---- a registry

def certificate(folder):
    """(certificate, key) signed by itself; None where there is no openssl."""
    made = str(folder / "certificate.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
               "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-out", made[0], "-keyout", made[1]]
    if not shutil.which("openssl"):
        return None
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return made


def against_a_registry():
    server = registry.Registry(first_id=40)
    url = {"SCHEMA_REGISTRY_URL": server.url}
    expect("nothing is there", weir("list", **url), 0, "orders-weir.OrderPlaced", "schemas/OrderPlaced.avsc")
    first = [json.loads(line) for line in weir("list", "--json", **url)[1].splitlines()]
    assert all(one["id"] is None and one["version"] is None for one in first), first
    expect("register", weir("register", **url), 0, "orders-weir.OrderPlaced", "schemas/EmailFailed.avsc")
    assert server.levels == {}, "compatibility is set only when asked"
    expect("register again", weir("register", "--set-compatibility", **url), 0)
    assert set(server.levels.values()) == {"BACKWARD_TRANSITIVE"} and len(server.levels) == len(EVENTS), server.levels
    assert len(server.ids) == len(list(SCHEMAS.glob("**/*.avsc"))), "one id a schema, however often it is registered"
    listed = [json.loads(line) for line in weir("list", "--json", **url)[1].splitlines()]
    assert sorted(one["id"] for one in listed) == sorted(server.ids), listed
    assert all(set(one) == {"id", "subject", "version", "file"} and one["file"] for one in listed), listed
    expect("check", weir("check", **url), 0)
    # Somebody registers what we cannot read, or who cannot read us.
    server.levels["orders-weir.OrderRejected"] = "NONE"
    theirs = json.loads((SCHEMAS / "OrderRejected.avsc").read_text())
    theirs["fields"] = [{**field, "type": "bytes"} if field["name"] == "order_id" else field for field in theirs["fields"]
                        if field["name"] != "reason"]
    server.register("orders-weir.OrderRejected", theirs)
    expect("another's version", weir("check", **url), 65, "OrderRejected: ours cannot read what the registry's version 2 wrote: reason: ")
    expect("it is in the list", weir("list", **url), 0, "(not in this build)")
    expect("and nothing is registered over it", weir("register", **url), 65, "OrderRejected: ")
    server.away = True
    expect("away", weir("list", **url), 69, "the schema registry is away")
    server.close()
    expect("gone", weir("check", **url), 69, "the schema registry is away")
    expect("register without a registry", weir("register"), 78, "SCHEMA_REGISTRY_URL is not set")

    locked, spare = registry.Registry(user="anna", password="p@ss,:"), registry.Registry()
    port = locked.server_address[1]
    expect("no password", weir("list", SCHEMA_REGISTRY_URL=locked.url), 69, "Unauthorized")
    expect("in the URL", weir("list", SCHEMA_REGISTRY_URL=f"http://anna:p%40ss%2C%3A@127.0.0.1:{port}"), 0)
    with tempfile.TemporaryDirectory(prefix="weir-schemas-") as folder:
        secret = pathlib.Path(folder) / "secret"
        secret.write_text("p@ss,:\n")
        user = {"SCHEMA_REGISTRY_USER": "anna", "SCHEMA_REGISTRY_PASSWORD_FILE": str(secret)}
        expect("in a file", weir("list", SCHEMA_REGISTRY_URL=locked.url, **user), 0)
        expect("the next URL", weir("list", SCHEMA_REGISTRY_URL=f"http://127.0.0.1:1,{spare.url}"), 0)
        made = certificate(pathlib.Path(folder))
        if made:
            safe = registry.Registry(certificate=made[0], key=made[1])
            expect("TLS that nobody vouches for", weir("list", SCHEMA_REGISTRY_URL=safe.url), 69, "certificate")
            expect("TLS", weir("list", SCHEMA_REGISTRY_URL=safe.url, SCHEMA_REGISTRY_CA_LOCATION=made[0]), 0)
            safe.close()
    locked.close()
    spare.close()


expect("every .avsc against its history", weir("check", SCHEMAS), 0, *(f"{event}: version " for event in EVENTS))
planted()
against_a_registry()
print(f"{failures} failed")
sys.exit(1 if failures else 0)
