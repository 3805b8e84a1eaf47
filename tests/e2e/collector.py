"""collector: an OpenTelemetry collector's door for traces, as OTLP over HTTP, that keeps what it is given.

Read with the messages that OpenTelemetry publishes, not with code of the product. It may be away (503 for a while, or
nobody on its port), and says how often it was asked.
"""
import gzip
import http.server
import threading

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

Kind = trace_pb2.Span.SpanKind
TRACES = "/v1/traces"


class Span:
    def __init__(self, resource, span):
        value = lambda any_value: getattr(any_value, any_value.WhichOneof("value"))
        self.resource = {pair.key: value(pair.value) for pair in resource.attributes}
        self.service = self.resource["service.name"]
        self.trace, self.id, self.parent = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
        self.name, self.kind, self.flags = span.name, Kind.Name(span.kind).removeprefix("SPAN_KIND_"), span.flags
        self.start, self.end = span.start_time_unix_nano, span.end_time_unix_nano
        self.failed, self.status = span.status.code == trace_pb2.Status.STATUS_CODE_ERROR, span.status.message
        self.attributes = {pair.key: value(pair.value) for pair in span.attributes}

    def __repr__(self):
        return f"{self.service}: {self.kind} {self.name} {self.id} of {self.parent or 'none'} {self.attributes}"


class Collector(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port=0):
        self.lock = threading.Lock()
        self.spans, self.wrong, self.types = [], [], set()
        self.asked, self.refuse = 0, 0  # so many requests are answered with 503
        self.gone = False  # connections that are kept are not answered any more
        super().__init__(("127.0.0.1", port), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        pass

    def trace(self, trace):
        with self.lock:
            return [span for span in self.spans if span.trace == trace]

    def close(self):
        self.gone = True
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server, kind = self.server, self.headers.get("Content-Type")
        if server.gone:
            self.close_connection = True
            return
        with server.lock:
            server.asked += 1
            refused = server.refuse > 0
            server.refuse -= refused
            if not refused:
                try:
                    self.take(kind, body)
                except Exception as error:  # whatever it is, it is the sender's
                    server.wrong.append(f"{kind}: {error!r}")
        self.send_response(503 if refused else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def take(self, kind, body):
        assert self.path == TRACES, self.path
        assert self.headers.get("X-Tenant") == "a b", self.headers.get("X-Tenant")
        request = trace_service_pb2.ExportTraceServiceRequest()
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if kind == "application/x-protobuf":
            request.ParseFromString(body)
        else:
            assert kind == "application/json", kind
            read_json(body, request)
        self.server.types.add(kind)
        for resource_spans in request.resource_spans:
            for scope_spans in resource_spans.scope_spans:
                assert scope_spans.scope.name == "weir" and scope_spans.scope.version
                self.server.spans += [Span(resource_spans.resource, span) for span in scope_spans.spans]


def read_json(body, request):
    """Protobuf's mapping, but that OTLP writes ids in hex and not in base64."""
    import base64
    import json
    message = json.loads(body)
    for resource_spans in message["resourceSpans"]:
        for scope_spans in resource_spans["scopeSpans"]:
            for span in scope_spans["spans"]:
                for name in ("traceId", "spanId", "parentSpanId"):
                    if name in span:
                        span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    json_format.ParseDict(message, request)
