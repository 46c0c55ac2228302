"""A worker with an endpoint, for every source: a fake of the tool's API serves the records of a specimen."""

import json
from collections import defaultdict
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from app.intake.endpoint import WebhookEndpoint
from app.ledger.redis import Redis
from app.telemetry.rejections import Rejections
from app.webhooks.fetching import RecordRequest
from app.webhooks.payload import Payload
from tests.support.harness import Harness
from tests.support.specimens import Specimen
from tests.support.visit_worker import World

RequestKey = tuple[str, str, str, str]


class RecordApi:
    """A tool's API that serves `records` and stores the headers of its requests."""

    def __init__(self) -> None:
        self.records: dict[RequestKey, Any] = {}
        self.request_headers: list[dict[str, str]] = []
        self.token: dict[str, Any] = {}

    async def serve(self, request: Request) -> Response:
        self.request_headers.append(dict(request.headers))
        body = (await request.body()).decode()
        if request.url.path == "/token":
            return JSONResponse(self.token)
        public_params = [
            (name, value) for name, value in parse_qsl(request.url.query) if not value.endswith("-for-tests")
        ]
        params = json.dumps(sorted(public_params))  # without the credentials
        record = self.records.get((request.method, request.url.path, params, _normalized(body)))
        return PlainTextResponse("no such record", 404) if record is None else JSONResponse(record)

    def add_records(self, specimen: Specimen) -> None:
        """Serve the records of the specimen, each for the request that the source will send."""
        records, bodies = specimen.recorded.get("records", {}), specimen.recorded.get("posts", {})
        for record_request in specimen.record_requests():
            record = records[record_request.key]
            follow_ups = record_request.follow_up(Payload(record, "record")) if record is not None else {}
            for request in (record_request, *follow_ups.values()):
                key = request_key(replace(request, json=bodies.get(request.key, request.json)))
                self.records[key] = records[request.key]


def request_key(request: RecordRequest) -> RequestKey:
    """Return method, path, parameters and body of the HTTP request."""
    params = json.dumps(sorted(request.params.items()))
    if request.query:
        body = json.dumps({"query": request.query, "variables": dict(request.variables)})
        return "POST", "/", params, _normalized(body)
    path = "/" + (request.path if request.endpoint is None else request.endpoint)
    if request.json is not None:
        return "POST", path, params, _normalized(json.dumps(request.json))
    if request.form is not None:
        return "POST", path, params, _normalized("&".join(f"{n}={v}" for n, v in request.form.items()))
    return "GET", path, params, ""


def _normalized(body: str) -> str:
    """Return one spelling for equal bodies, JSON or a form."""
    try:
        return json.dumps(json.loads(body), sort_keys=True)
    except ValueError:
        return json.dumps(sorted(parse_qsl(body))) if body else ""


class SourceWorld(World):
    """A worker with an endpoint, and the API of one tool."""

    def __init__(self, redis: Redis, harness: Harness, api: RecordApi, url: str) -> None:
        super().__init__(redis, harness)
        self.api, self.url = api, url

    def configure_source(self, specimen: Specimen, **env_overrides: str) -> None:
        """Configure the hook of the specimen's tool. The tolerance accepts the old signed times of specimens."""
        source, hook = specimen.tool.definition, f"HOOKS__{specimen.tool.name.upper()}"
        credentials = {f"{hook}__CREDENTIALS__{name}": f"{name}-for-tests" for name in source.credential_names}
        if source.token_exchange:
            credentials = {
                f"{hook}__CREDENTIALS__{n}": "x-for-tests" for n in source.missing_credentials({}) if source.credentials
            }
            credentials |= {f"{hook}__CREDENTIALS__{name}": f"{name}-for-tests" for name in source.credentials.names}  # type: ignore[union-attr]
        env = {
            f"{hook}__SECRETS": specimen.secret,
            f"{hook}__TOLERANCE": "9000000000",
            f"{hook}__API_URL": self.url,
            f"{hook}__TIMEZONE": specimen.setting("timezone"),
            f"{hook}__TENANTS": specimen.setting("tenants"),
            "PUBLIC_URL": specimen.setting("public_url") or "https://hooks.example.com",
            "SECRET_KEY": specimen.setting("secret_key") or "a-key-of-ours-for-tests",
            **credentials,
            **env_overrides,
        }
        self.configure(**{name: value for name, value in env.items() if value})

    async def receive(self, specimen: Specimen, **overrides: Any) -> httpx.Response:
        """Send the specimen as it was recorded, with its signature. overrides: token, method or raw body."""
        endpoint = WebhookEndpoint(self.context.settings, defaultdict(lambda: self.ledger), Rejections(self.redis))
        delivery = specimen.delivery
        token = overrides.get("token", delivery.token)
        path = f"/hooks/{specimen.tool.name}" + (f"/{token}" if token else "")
        lines = [(name.decode(), value.decode("latin-1")) for name, value in delivery.headers]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint), base_url="http://doorbell") as client:
            method, query = overrides.get("method", delivery.method), delivery.query.decode()
            content = b"" if method in ("GET", "HEAD") else overrides.get("raw", delivery.body)
            return await client.request(method, path + (query and f"?{query}"), content=content, headers=lines)
