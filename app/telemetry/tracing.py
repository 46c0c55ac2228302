"""Exports traces to OpenTelemetry and errors to Sentry, without bodies or names.

Active with OTEL_EXPORTER_OTLP_ENDPOINT or SENTRY_DSN, whose packages are in deploy/telemetry-requirements.txt; otherwise
neither library is imported.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import structlog
from structlog.typing import EventDict

from app import __version__
from app.telemetry.logs import exception_of, log, strip_exception_text

#: The fields of a log line that are exported with an error.
EXPORTED_FIELDS = frozenset({"hook", "task", "delivery", "external_id", "operation"})

_tracer: Any = None
_propagator: Any = None


def configure(process: str, environ: Mapping[str, str] = os.environ) -> None:
    """Start the configured exporters; a failure is logged and never raised. process: `web` or `worker`."""
    for name, start in (("SENTRY_DSN", _start_sentry), ("OTEL_EXPORTER_OTLP_ENDPOINT", _start_otel)):
        if environ.get(name, "").strip():
            try:
                start(process, environ)
            except ImportError:
                log.warning("exporter_not_installed", variable=name, requirements="deploy/telemetry-requirements.txt")
            except Exception:
                log.exception("exporter_not_started", variable=name)


# -- errors --


def _start_sentry(process: str, environ: Mapping[str, str]) -> None:
    import sentry_sdk
    from sentry_sdk.integrations.logging import LoggingIntegration

    def capture(_: Any, __: str, fields: EventDict) -> EventDict:
        if "exc_info" in fields:
            sentry_sdk.capture_exception(exception_of(fields["exc_info"]), extras=dict(fields))
        return fields

    sentry_sdk.init(
        environ["SENTRY_DSN"].strip(),
        release=f"doorbell@{__version__}",
        default_integrations=False,
        integrations=[LoggingIntegration(level=None, event_level=logging.ERROR)],
        send_default_pii=False,
        include_local_variables=False,
        max_request_body_size="never",
        max_breadcrumbs=0,
        before_send=scrubbed,
    )
    sentry_sdk.set_tag("process", process)
    structlog.get_config()["processors"].insert(0, capture)  # LoggingIntegration captures the logs of libraries


def scrubbed(event: Any, _: Any = None) -> Any:
    """Return Sentry's event without personal data: no request, no variables, no text of the exception."""
    clean = {name: value for name, value in event.items() if name not in ("request", "user", "breadcrumbs")}
    if "extra" in clean:
        clean["extra"] = {name: value for name, value in clean["extra"].items() if name in EXPORTED_FIELDS}
    if "logentry" in clean:
        clean["logentry"] = {"message": strip_exception_text(clean["logentry"].get("message") or "")}
    for error in clean.get("exception", {}).get("values", ()):
        error["value"] = ""
        for frame in (error.get("stacktrace") or {}).get("frames", ()):
            frame.pop("vars", None)
    return clean


# -- traces --


def _start_otel(process: str, environ: Mapping[str, str]) -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = environ.get("OTEL_SERVICE_NAME") or f"doorbell-{process}"
    export_spans_to(BatchSpanProcessor(OTLPSpanExporter()), name)


def export_spans_to(processor: Any, name: str) -> None:
    """Start tracing. processor: OpenTelemetry's span processor. name: the service's name."""
    global _tracer, _propagator
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    provider = TracerProvider(resource=Resource.create({"service.name": name, "service.version": __version__}))
    provider.add_span_processor(processor)
    _tracer, _propagator = provider.get_tracer("doorbell"), TraceContextTextMapPropagator()


def start_span(name: str, kind: str, traceparent: str, **attributes: str) -> AbstractContextManager[Any]:
    """Return a context manager for a span, which belongs to the sender's trace if the traceparent is not empty."""
    return _open_span(name, kind, traceparent, attributes) if _tracer else _NO_SPAN


_NO_SPAN: AbstractContextManager[Any] = nullcontext()


@contextmanager
def _open_span(name: str, kind: str, traceparent: str, attributes: Mapping[str, str]) -> Iterator[Any]:
    from opentelemetry.trace import SpanKind

    parent = _propagator.extract({"traceparent": traceparent})
    with _tracer.start_as_current_span(
        name, parent, SpanKind[kind], attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        yield span


def trace_headers() -> dict[str, str]:
    """Return the `traceparent` header of the current span."""
    carrier: dict[str, str] = {}
    if _tracer:
        _propagator.inject(carrier)
    return {name: value for name, value in carrier.items() if name == "traceparent"}


def record_api_call(method: str, route: str, status: str, seconds: float) -> None:
    """Record a finished call to the Visits API as a span."""
    if _tracer:
        from opentelemetry.trace import SpanKind

        now = time.time_ns()
        attributes = {"http.request.method": method, "url.template": route, "doorbell.status": status}
        span = _tracer.start_span(
            f"{method} {route}", kind=SpanKind.CLIENT, attributes=attributes, start_time=now - int(seconds * 1e9)
        )
        span.end(now)


def is_enabled() -> bool:
    return _tracer is not None
