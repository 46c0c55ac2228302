"""A span for every webhook that arrives."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.intake.http_protocol import BUFFERED_CYCLE
from app.telemetry import tracing


def trace_requests(app: ASGIApp) -> ASGIApp:
    """The application, with a span for every webhook; without OpenTelemetry the application itself."""
    if not tracing.is_enabled():
        return app

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/hooks/"):
            await app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"traceparent", b"").decode("latin-1")
        with tracing.start_span(f"{scope['method']} /hooks/{{hook}}", "SERVER", given) as one:

            async def note_status(message: Message) -> None:
                if message["type"] == "http.response.start":
                    one.set_attribute("http.response.status_code", message["status"])
                await send(message)

            own = [(name.encode(), value.encode()) for name, value in tracing.trace_headers().items()]
            others = [header for header in scope["headers"] if header[0] != b"traceparent"]
            await app({**scope, "headers": [*others, *own], BUFFERED_CYCLE: None}, receive, note_status)

    return endpoint
