"""OpenTelemetry and Sentry: inactive without their variable, and without personal data otherwise."""

import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from app.telemetry import tracing
from tests.support.harness import Harness, sign_standard, standard_body, wait_until
from tests.support.processes import ROOT

TRACE_ID, SENDER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PERSON = {"id": "cont_KYdl3lftgZXGRbxqoj", "email": "zebediah@example.com", "first_name": "Zebediah"}


class Receiver(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Post)
        self.bodies: list[bytes] = []


class Post(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        length = self.headers.get("content-length")
        body = self.rfile.read(int(length)) if length else b"".join(self._chunks())
        self.server.bodies.append(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        yield receiver
        receiver.shutdown()


def test_neither_library_is_imported_without_its_variable() -> None:
    code = """
import sys
from app.intake.tracing import trace_requests
from app.telemetry import tracing
tracing.configure("web", {"SENTRY_DSN": " "})
async def app(*_): ...
assert trace_requests(app) is app
assert tracing.trace_headers() == {}
with tracing.start_span("visit", "CONSUMER", ""): tracing.record_api_call("GET", "/visits", "2xx", 1)
print([name for name in sys.modules if name.startswith(("sentry_sdk", "opentelemetry"))])
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert "[]" == result.stdout.strip()


def test_a_missing_package_is_logged_and_not_raised(logged: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("sentry_sdk", "opentelemetry", "opentelemetry.exporter"):
        monkeypatch.setitem(sys.modules, package, None)

    tracing.configure("web", {"SENTRY_DSN": "https://k@example.com/1", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1]:9"})

    assert ["SENTRY_DSN", "OTEL_EXPORTER_OTLP_ENDPOINT"] == [
        line["variable"] for line in logged if line["event"] == "exporter_not_installed"
    ]


def test_an_exported_error_has_its_location_and_no_texts() -> None:
    frame = {"filename": "app/intake/endpoint.py", "lineno": 7, "vars": {"raw": "canary"}}
    event = {
        "level": "error",
        "request": {"data": "canary", "headers": {"x": "canary"}},
        "user": {"email": "canary"},
        "breadcrumbs": {"values": [{"message": "canary"}]},
        "extra": {"hook": "calendly", "raw": "canary", "sys.argv": ["canary"]},
        "logentry": {
            "message": "bug in %s\nfuture: KeyError('canary')",
            "formatted": "bug in canary",
            "params": ["canary"],
        },
        "exception": {"values": [{"type": "KeyError", "value": "canary", "stacktrace": {"frames": [frame]}}]},
    }

    sent = tracing.scrubbed(event)

    assert "canary" not in repr(sent)
    assert {"hook": "calendly"} == sent["extra"]
    [error] = sent["exception"]["values"]
    assert ("KeyError", 7) == (error["type"], error["stacktrace"]["frames"][0]["lineno"])


def test_sentry_gets_an_exception_without_personal_data(receiver: Receiver) -> None:
    pytest.importorskip("sentry_sdk", reason="sentry-sdk is not installed")
    code = """
import sys
from app.settings.environment import read_environment
from app.telemetry import logs, tracing
logs.configure(read_environment({}, redis_needed=False))
tracing.configure("web", {"SENTRY_DSN": sys.argv[1]})
def translate(body):
    raise ValueError(f"no visit in {body}")
logs.log.warning("redis_unavailable")
try:
    translate("zebediah@" + "example.com")
except ValueError:
    logs.log.exception("unhandled_exception", hook="calendly", raw="zebediah" + "@")
import sentry_sdk
sentry_sdk.flush(5)
"""
    dsn = f"http://key@127.0.0.1:{receiver.server_port}/1"

    subprocess.run([sys.executable, "-c", code, dsn], cwd=ROOT, capture_output=True, text=True, check=True)

    [body] = [body for body in receiver.bodies if b'"exception"' in body]
    assert b"ValueError" in body
    assert b'"hook":"calendly"' in body.replace(b": ", b":")
    assert b"zebediah" not in body


def test_a_trace_continues_through_both_processes_to_the_visits_api(harness: Harness, receiver: Receiver) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="OpenTelemetry is not installed")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.server_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    harness.start_web(**env)
    harness.start_worker(**env)
    raw = standard_body("visit.created", "A", contact=PERSON, time_scheduled="2026-03-14T16:00:00Z")
    harness.post(raw, sign_standard(raw) | {"traceparent": f"00-{TRACE_ID}-{SENDER}-01"})

    def spans() -> dict[str, tuple[str, str, str]]:
        return {
            span.name: (span.trace_id.hex(), span.parent_span_id.hex(), span.span_id.hex())
            for body in list(receiver.bodies)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        }

    wait_until(lambda: {"POST /hooks/{hook}", "visit", "POST /visits"} <= spans().keys())

    exported = spans()
    assert {TRACE_ID} == {trace for trace, _, _ in exported.values()}
    request, visit, call = exported["POST /hooks/{hook}"], exported["visit"], exported["POST /visits"]
    assert [SENDER, request[2], visit[2]] == [request[1], visit[1], call[1]]
    sent = {entry["traceparent"] for entry in harness.journal() if entry["route"] == "POST /visits"}
    assert {f"00-{TRACE_ID}-{visit[2]}-01"} == sent
    assert not [body for body in receiver.bodies if b"ebediah" in body]
