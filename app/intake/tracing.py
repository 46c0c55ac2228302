"""A span for every webhook."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.telemetry import tracing


def trace_requests(app: ASGIApp) -> ASGIApp:
    """Wrap the application in a span for every webhook. Without OpenTelemetry, return it as it is."""
    if not tracing.is_enabled():
        return app

    async def traced(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/hooks/"):
            await app(scope, receive, send)
            return
        traceparent = dict(scope["headers"]).get(b"traceparent", b"").decode("latin-1")
        with tracing.start_span(f"{scope['method']} /hooks/{{hook}}", "SERVER", traceparent) as span:

            async def send_and_record_status(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                await send(message)

            own = [(name.encode(), value.encode()) for name, value in tracing.trace_headers().items()]
            headers = [header for header in scope["headers"] if header[0] != b"traceparent"]
            # No extensions of the server: a response must pass through `send_and_record_status`.
            await app({**scope, "headers": [*headers, *own], "extensions": {}}, receive, send_and_record_status)

    return traced
