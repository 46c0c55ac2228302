"""OpenTelemetry and Sentry: where OTEL_EXPORTER_OTLP_ENDPOINT or SENTRY_DSN is set and the extra is installed (`pip
install .[otel]`, `.[sentry]`); otherwise nothing of either is even imported. No body and nobody's name goes there.
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
from app.telemetry.logs import log, strip_exception_text

#: What of a line's fields may go along with an error.
TOLD = frozenset({"hook", "work", "delivery", "external_id", "operation"})

_tracer: Any = None
_propagator: Any = None


def configure(process: str, environ: Mapping[str, str] = os.environ) -> None:
    """process: `web` or `worker`. Fails nothing."""
    for name, begin, extra in (
        ("SENTRY_DSN", _start_sentry, "sentry"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", _start_otel, "otel"),
    ):
        if environ.get(name, "").strip():
            try:
                begin(process, environ)
            except ImportError:
                log.warning("extra_not_installed", variable=name, extra=extra)
            except Exception:
                log.exception("exporter_not_started", variable=name)


# -- errors --


def _start_sentry(process: str, environ: Mapping[str, str]) -> None:
    import sentry_sdk
    from sentry_sdk.integrations.logging import LoggingIntegration

    def tell(_: Any, __: str, fields: EventDict) -> EventDict:
        if "exc_info" in fields:
            sentry_sdk.capture_exception(extras=dict(fields))
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
    structlog.get_config()["processors"].insert(0, tell)  # what others log, the integration sees


def scrubbed(event: dict[str, Any], _: Any = None) -> dict[str, Any]:
    """Where it happened, and nothing that might quote anybody: no request, no variables, no text of an exception."""
    kept = {name: value for name, value in event.items() if name not in ("request", "user", "breadcrumbs")}
    if "extra" in kept:
        kept["extra"] = {name: value for name, value in kept["extra"].items() if name in TOLD}
    if "logentry" in kept:
        kept["logentry"] = {"message": strip_exception_text(kept["logentry"].get("message") or "")}
    for error in kept.get("exception", {}).get("values", ()):
        error["value"] = ""
        for frame in (error.get("stacktrace") or {}).get("frames", ()):
            frame.pop("vars", None)
    return kept


# -- traces --


def _start_otel(process: str, environ: Mapping[str, str]) -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = environ.get("OTEL_SERVICE_NAME") or f"doorbell-{process}"
    export_spans_to(BatchSpanProcessor(OTLPSpanExporter()), name)


def export_spans_to(processor: Any, name: str) -> None:
    """processor: what spans are handed to."""
    global _tracer, _propagator
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    provider = TracerProvider(resource=Resource.create({"service.name": name, "service.version": __version__}))
    provider.add_span_processor(processor)
    _tracer, _propagator = provider.get_tracer("doorbell"), TraceContextTextMapPropagator()


def start_span(name: str, kind: str, traceparent: str, **attributes: str) -> AbstractContextManager[Any]:
    """Inside it things happen under this name, as part of the sender's trace if there is one."""
    return _open_span(name, kind, traceparent, attributes) if _tracer else _NO_SPAN


_NO_SPAN: AbstractContextManager[Any] = nullcontext()


@contextmanager
def _open_span(name: str, kind: str, traceparent: str, attributes: Mapping[str, str]) -> Iterator[Any]:
    from opentelemetry.trace import SpanKind

    parent = _propagator.extract({"traceparent": traceparent})
    with _tracer.start_as_current_span(
        name, parent, SpanKind[kind], attributes, record_exception=False, set_status_on_exception=False
    ) as one:
        yield one


def trace_headers() -> dict[str, str]:
    """What says to others which span a call belongs to."""
    carrier: dict[str, str] = {}
    if _tracer:
        _propagator.inject(carrier)
    return {name: value for name, value in carrier.items() if name == "traceparent"}


def record_api_call(method: str, route: str, status: str, seconds: float) -> None:
    """A call to the Visits API is over."""
    if _tracer:
        from opentelemetry.trace import SpanKind

        now = time.time_ns()
        told = {"http.request.method": method, "url.template": route, "doorbell.status": status}
        one = _tracer.start_span(
            f"{method} {route}", kind=SpanKind.CLIENT, attributes=told, start_time=now - int(seconds * 1e9)
        )
        one.end(now)


def is_enabled() -> bool:
    """Was OpenTelemetry started?"""
    return _tracer is not None
