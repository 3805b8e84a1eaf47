#!/usr/bin/env python3
"""A schema registry as Confluent's is over HTTP, for tests: in memory, Avro only, no code of the product in it.

    registry.py [--port N] [--user NAME --password WORD] [--certificate PEM --key PEM] [--compatibility LEVEL]

Prints "listening on PORT". Subjects, versions, ids, look-up, compatibility and config, with the error codes of the
original; an id is one schema's whatever its subject.
"""
import argparse
import base64
import http.server
import json
import re
import ssl
import threading

LEVELS = ("NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE")
PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
PROMOTIONS = {"int": ("long", "float", "double"), "long": ("float", "double"), "float": ("double",),
              "string": ("bytes",), "bytes": ("string",)}


class Problem(Exception):
    def __init__(self, status, code, message):
        super().__init__(message)
        self.status, self.code = status, code


# ---- Avro: enough of it to say whether one schema reads another


def resolve(schema, names, space=""):
    """Types by their own description; named ones are noted in `names`."""
    if isinstance(schema, str):
        if schema in PRIMITIVES:
            return {"type": schema}
        full = schema if "." in schema or not space else f"{space}.{schema}"
        if full not in names:
            raise Problem(422, 42201, f"Invalid schema: {full} is not defined")
        return names[full]
    if isinstance(schema, list):
        return {"type": "union", "branches": [resolve(branch, names, space) for branch in schema]}
    if not isinstance(schema, dict) or "type" not in schema:
        raise Problem(422, 42201, "Invalid schema: no type")
    kind = schema["type"]
    if kind in ("record", "enum", "fixed"):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", str(schema.get("name", ""))):
            raise Problem(422, 42201, "Invalid schema: no name")
        space = schema.get("namespace", space)
        full = schema["name"] if "." in schema["name"] or not space else f"{space}.{schema['name']}"
        space = full.rpartition(".")[0]
        out = names[full] = {"type": kind, "name": full, "aliases": schema.get("aliases", []), "size": schema.get("size"),
                             "symbols": schema.get("symbols"), "default": schema.get("default")}
        if kind == "record":
            if not isinstance(schema.get("fields"), list):
                raise Problem(422, 42201, "Invalid schema: a record without fields")
            out["fields"] = [{**field, "schema": resolve(field["type"], names, space)} for field in schema["fields"]]
        return out
    if kind == "array":
        return {"type": "array", "items": resolve(schema["items"], names, space)}
    if kind == "map":
        return {"type": "map", "items": resolve(schema["values"], names, space)}
    return resolve(kind, names, space)


def short(name):
    return name.rpartition(".")[2]


def cannot_read(reader, writer, path=""):
    """Why not, or None."""
    if writer["type"] == "union":
        return next((why for branch in writer["branches"] if (why := cannot_read(reader, branch, path))), None)
    if reader["type"] == "union":
        fits = any(cannot_read(branch, writer, path) is None for branch in reader["branches"])
        return None if fits else f"{path or '/'}: no branch reads {writer['type']}"
    kinds = writer["type"], reader["type"]
    if kinds[0] != kinds[1]:
        return None if kinds[1] in PROMOTIONS.get(kinds[0], ()) else f"{path or '/'}: {kinds[0]} is not read as {kinds[1]}"
    if kinds[0] in ("array", "map"):
        return cannot_read(reader["items"], writer["items"], path + "/items")
    if "name" in reader and short(reader["name"]) != short(writer["name"]) and \
            not {writer["name"], short(writer["name"])} & set(reader["aliases"]):
        return f"{path or '/'}: {writer['name']} is not {reader['name']}"
    if kinds[0] == "fixed" and reader["size"] != writer["size"]:
        return f"{path}: another size"
    if kinds[0] == "enum" and reader["default"] is None and set(writer["symbols"]) - set(reader["symbols"]):
        return f"{path}: symbols {sorted(set(writer['symbols']) - set(reader['symbols']))} are not the reader's"
    if kinds[0] == "record":
        for field in reader["fields"]:
            names = [field["name"], *field.get("aliases", [])]
            written = next((one for name in names for one in writer["fields"] if one["name"] == name), None)
            if written is None:
                if "default" not in field:
                    return f"{path}/{field['name']}: not written, and without a default"
            elif why := cannot_read(field["schema"], written["schema"], f"{path}/{field['name']}"):
                return why
    return None


# ---- the registry


class Registry(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port=0, user=None, password=None, certificate=None, key=None, compatibility="BACKWARD", first_id=1):
        self.lock = threading.Lock()
        self.ids = {}       # id -> canonical text
        self.subjects = {}  # subject -> [id or None (deleted), …], version n at n - 1
        self.texts = {}     # id -> the text as it was first given
        self.levels = {}    # subject -> level
        self.level = compatibility
        self.asked = []     # "METHOD path", in order
        self.first_id = first_id
        self.away = False   # 503 to all
        self.hidden = set() # ids that are said to be unknown
        self.authorization = None
        if user is not None:
            self.authorization = "Basic " + base64.b64encode(f"{user}:{password or ''}".encode()).decode()
        super().__init__(("127.0.0.1", port), Handler)
        self.scheme = "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            self.socket = context.wrap_socket(self.socket, server_side=True)
            self.scheme = "https"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    def close(self):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass

    # what tests do directly

    def register(self, subject, schema):
        """The id; `schema` as text or as an object."""
        with self.lock:
            return self.add(subject, schema if isinstance(schema, str) else json.dumps(schema))

    def count(self, beginning):
        return sum(1 for one in self.asked if one.startswith(beginning))

    # under the lock

    @staticmethod
    def parsed(text):
        try:
            given = json.loads(text)
        except (TypeError, ValueError):
            raise Problem(422, 42201, "Invalid schema: no JSON") from None
        return json.dumps(given, sort_keys=True, separators=(",", ":")), resolve(given, {})

    def versions(self, subject):
        found = [(n + 1, one) for n, one in enumerate(self.subjects.get(subject, [])) if one is not None]
        if not found:
            raise Problem(404, 40401, f"Subject '{subject}' not found.")
        return found

    def incompatible(self, subject, text, only=None):
        """Why this schema may not be the next one of its subject; None if it may."""
        level = self.levels.get(subject, self.level)
        new = self.parsed(text)[1]
        earlier = [one for one in self.subjects.get(subject, []) if one is not None]
        if only is not None:
            earlier = [only]
        elif not level.endswith("TRANSITIVE"):
            earlier = earlier[-1:]
        for one in earlier:
            old = self.parsed(self.texts[one])[1]
            if level.startswith(("BACKWARD", "FULL")) and (why := cannot_read(new, old)):
                return "the new schema does not read the old one: " + why
            if level.startswith(("FORWARD", "FULL")) and (why := cannot_read(old, new)):
                return "the old schema does not read the new one: " + why
        return None

    def add(self, subject, text):
        canonical = self.parsed(text)[0]
        known = self.subjects.setdefault(subject, [])
        for one in known:
            if one is not None and self.ids[one] == canonical:
                return one
        if why := self.incompatible(subject, text):
            raise Problem(409, 409, f"Schema being registered is incompatible with an earlier schema for subject \"{subject}\": {why}")
        number = next((one for one, other in self.ids.items() if other == canonical), None)
        if number is None:
            number = self.first_id + len(self.ids)
            self.ids[number], self.texts[number] = canonical, text
        known.append(number)
        return number

    def version(self, subject, wanted):
        found = dict(self.versions(subject))
        if wanted == "latest":
            return max(found), found[max(found)]
        if not re.fullmatch(r"[1-9][0-9]*", wanted):
            raise Problem(422, 42202, f"The specified version '{wanted}' is not a valid version id.")
        if int(wanted) not in found:
            raise Problem(404, 40402, f"Version {wanted} not found.")
        return int(wanted), found[int(wanted)]

    def answer(self, method, path, body):
        if path == "/" and method == "GET":
            return {}
        if path == "/subjects" and method == "GET":
            return sorted(name for name, known in self.subjects.items() if any(one is not None for one in known))
        if path == "/config":
            if method == "PUT":
                self.level = self.level_of(body)
                return {"compatibility": self.level}
            return {"compatibilityLevel": self.level}
        if match := re.fullmatch(r"/config/([^/]+)", path):
            if method == "PUT":
                self.levels[match[1]] = self.level_of(body)
                return {"compatibility": self.levels[match[1]]}
            if match[1] not in self.levels:
                raise Problem(404, 40408, f"Subject '{match[1]}' does not have subject-level compatibility configured")
            return {"compatibilityLevel": self.levels[match[1]]}
        if match := re.fullmatch(r"/schemas/ids/([^/]+)(/versions)?", path):
            if not match[1].isdigit() or int(match[1]) not in self.ids or int(match[1]) in self.hidden:
                raise Problem(404, 40403, "Schema not found")
            number = int(match[1])
            if match[2]:
                return [{"subject": name, "version": n + 1} for name, known in self.subjects.items()
                        for n, one in enumerate(known) if one == number]
            return {"schema": self.texts[number]}
        if match := re.fullmatch(r"/subjects/([^/]+)/versions", path):
            if method == "GET":
                return [n for n, _ in self.versions(match[1])]
            return {"id": self.add(match[1], self.schema_of(body))}
        if match := re.fullmatch(r"/subjects/([^/]+)/versions/([^/]+)(/schema)?", path):
            number, one = self.version(match[1], match[2])
            if method == "DELETE":
                self.subjects[match[1]][number - 1] = None
                return number
            if match[3]:
                return json.loads(self.texts[one])
            return {"subject": match[1], "id": one, "version": number, "schema": self.texts[one]}
        if match := re.fullmatch(r"/subjects/([^/]+)", path):
            known = self.versions(match[1])
            if method == "DELETE":
                self.subjects[match[1]] = [None] * len(self.subjects[match[1]])
                return [n for n, _ in known]
            canonical = self.parsed(self.schema_of(body))[0]
            for number, one in known:
                if self.ids[one] == canonical:
                    return {"subject": match[1], "id": one, "version": number, "schema": self.texts[one]}
            raise Problem(404, 40403, "Schema not found")
        if match := re.fullmatch(r"/compatibility/subjects/([^/]+)/versions/([^/]+)", path):
            only = self.version(match[1], match[2])[1]
            why = self.incompatible(match[1], self.schema_of(body), only)
            return {"is_compatible": why is None, "messages": [why] if why else []}
        raise Problem(404, 404, "HTTP 404 Not Found")

    @staticmethod
    def schema_of(body):
        if body.get("schemaType", "AVRO") != "AVRO" or not isinstance(body.get("schema"), str):
            raise Problem(422, 42201, "Invalid schema: Avro as text is wanted")
        return body["schema"]

    @staticmethod
    def level_of(body):
        if body.get("compatibility") not in LEVELS:
            raise Problem(422, 42203, "Invalid compatibility level.")
        return body["compatibility"]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def say(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def handle_any(self):
        server = self.server
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0].rstrip("/") or "/"
        with server.lock:
            server.asked.append(f"{self.command} {path}")
            try:
                if server.away:
                    raise Problem(503, 50003, "away")
                if server.authorization and self.headers.get("Authorization") != server.authorization:
                    raise Problem(401, 40101, "Unauthorized")
                body = json.loads(data) if data else {}
                status, answer = 200, server.answer(self.command, path, body if isinstance(body, dict) else {})
            except Problem as problem:
                status, answer = problem.status, {"error_code": problem.code, "message": str(problem)}
            except ValueError:
                status, answer = 400, {"error_code": 400, "message": "no JSON"}
        self.say(status, answer)

    do_GET = do_POST = do_PUT = do_DELETE = handle_any


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--user")
    parser.add_argument("--password")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    parser.add_argument("--compatibility", default="BACKWARD", choices=LEVELS)
    arguments = parser.parse_args()
    registry = Registry(**vars(arguments))
    print(f"listening on {registry.server_address[1]}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
