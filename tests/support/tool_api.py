"""A fake of the APIs of Acuity, Square and Jobber with the records of their specimens."""

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from app.intake.endpoint import WebhookEndpoint
from app.ledger.records import DeliveryInfo, NewDelivery, Task
from app.ledger.redis import Redis
from app.telemetry.rejections import Rejections
from app.webhooks.delivery import Delivery
from app.webhooks.registry import load_specimens
from tests.support.harness import Harness, wait_until
from tests.support.visit_worker import World

TOOLS = ("acuity", "square", "jobber")

SPECIMENS = {name: load_specimens(name) for name in TOOLS}

ACUITY = {delivery["name"]: delivery for delivery in SPECIMENS["acuity"]["deliveries"]}


BOOKED, MOVED, MOVED_AGAIN, CANCELLED = (
    ACUITY["a client books and pays"],
    ACUITY["it is moved"],
    ACUITY["it is moved again: the same delivery to the byte"],
    ACUITY["it is cancelled, and the record says so"],
)


CREDENTIALS = {
    "HOOKS__ACUITY__CREDENTIALS__USER_ID": "4711",
    "HOOKS__ACUITY__CREDENTIALS__API_KEY": "acuity-api-key",
    "HOOKS__SQUARE__CREDENTIALS__TOKEN": "square-token",
    "HOOKS__JOBBER__CREDENTIALS__TOKEN": "jobber-token",
}

Responder = Callable[[Request], Response]


class ToolApi:
    """A tool's API. `records`: by path, or by item id for Jobber; `overrides`: responses that replace them."""

    def __init__(self) -> None:
        self.records: dict[str, Any] = {}
        self.overrides: list[Responder] = []
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.response_gate = threading.Event()

    async def serve(self, request: Request) -> Response:
        body = await request.body()
        self.requests.append((request.method, request.url.path, dict(request.headers), body))
        response = self.respond(request, body)
        await asyncio.to_thread(self.response_gate.wait, 10)
        return response

    def respond(self, request: Request, body: bytes) -> Response:
        if self.overrides:
            return self.overrides.pop(0)(request) if len(self.overrides) > 1 else self.overrides[0](request)
        if request.url.path == "/jobber/graphql":
            path = json.loads(body)["variables"]["id"]
        else:
            path = request.url.path.partition("/v/")[2]
        record = self.records.get(path)
        return PlainTextResponse("no such record", 404) if record is None else JSONResponse(record)

    def reset(self) -> None:
        self.__init__()  # type: ignore[misc]
        self.__dict__.pop("respond", None)  # a test may have replaced it
        self.response_gate.set()

    def add_records(self, tool: str, delivery: Mapping[str, Any]) -> None:
        """Serve the records of the delivery from now on."""
        for path, record in delivery.get("records", {}).items():
            if tool == "jobber":
                path = encoded_id(path)
            self.records[path] = record


def encoded_id(path: str) -> str:
    """Return the id of a path as Jobber encodes it. The path contains the URL-safe encoding."""
    id = path.partition("/")[2].replace("-", "+").replace("_", "/")
    return id + "=" * (-len(id) % 4)


class ToolWorld(World):
    """A worker with an endpoint and the tools' APIs."""

    def __init__(self, redis: Redis, harness: Harness, tool: ToolApi, url: str) -> None:
        super().__init__(redis, harness)
        self.tool, self.url = tool, url
        self.default_env = {
            **CREDENTIALS,
            "PUBLIC_URL": SPECIMENS["square"]["public_url"],
            **{f"HOOKS__{name.upper()}__SECRETS": SPECIMENS[name]["secret"] for name in TOOLS},
            "HOOKS__ACUITY__API_URL": f"{url}/acuity/v/",
            "HOOKS__SQUARE__API_URL": f"{url}/square/v/",
            "HOOKS__JOBBER__API_URL": f"{url}/jobber/graphql",
        }
        self.configure()

    def configure(self, answer_s: float = 10, **env: str) -> None:
        merged = self.default_env | env
        super().configure(answer_s, **{name: value for name, value in merged.items() if value})

    async def receive(self, tool: str, delivery: Mapping[str, Any]) -> httpx.Response:
        """Send the delivery as it was recorded, with its signature."""
        endpoint = WebhookEndpoint(self.context.settings, defaultdict(lambda: self.ledger), Rejections(self.redis))
        raw = delivery["body"]
        content = raw if isinstance(raw, str) else json.dumps(raw, separators=(",", ":"), ensure_ascii=False)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint), base_url="http://doorbell") as client:
            return await client.post(f"/hooks/{tool}", content=content.encode(), headers=delivery["headers"])

    async def wait_for_requests(self, times: int) -> None:
        """Wait until the tool has received that many requests."""
        await asyncio.to_thread(wait_until, lambda: len(self.tool.requests) >= times)

    async def load_event(self, response: httpx.Response) -> Task:
        return await self.ledger.load_task(f"event:{response.json()['delivery']}")


def respond_with(status: int, text: str = "", **headers: str) -> Responder:
    return lambda _: PlainTextResponse(text, status, headers)


async def accept_a_minute_ago(world: ToolWorld, tool: str, recorded: Mapping[str, Any]) -> str:
    """Accept a delivery as if it had arrived 61 s ago, and return its id. A record may be late by one minute."""
    raw, received_at = recorded["body"], datetime.now(UTC) - timedelta(seconds=61)
    content = raw if isinstance(raw, str) else json.dumps(raw, separators=(",", ":"), ensure_ascii=False)
    wire = tuple((name.lower().encode(), value.encode()) for name, value in recorded["headers"].items())
    delivery = Delivery(tool, tool, wire, content.encode(), received_at)
    meta = DeliveryInfo(tool, tool, int(received_at.timestamp() * 1000))
    return (
        await world.ledger.accept(NewDelivery(delivery, meta, [], "main", dedup_id=None, event_state="queued"))
    ).delivery_id
