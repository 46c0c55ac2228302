"""A server that plays the APIs of Acuity, Square and Jobber with the records of their specimens."""

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
from app.ledger.records import DeliveryInfo, Task
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

Answerer = Callable[[Request], Response]


class Tool:
    """A tool's API. `records`: what stands at a path (Jobber: at an item's id); `trouble`: what it answers instead."""

    def __init__(self) -> None:
        self.records: dict[str, Any] = {}
        self.trouble: list[Answerer] = []
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.open = threading.Event()

    async def serve(self, request: Request) -> Response:
        body = await request.body()
        self.seen.append((request.method, request.url.path, dict(request.headers), body))
        found = self.answer(request, body)
        await asyncio.to_thread(self.open.wait, 10)
        return found

    def answer(self, request: Request, body: bytes) -> Response:
        if self.trouble:
            return self.trouble.pop(0)(request) if len(self.trouble) > 1 else self.trouble[0](request)
        if request.url.path == "/jobber/graphql":
            path = json.loads(body)["variables"]["id"]
        else:
            path = request.url.path.partition("/v/")[2]
        record = self.records.get(path)
        return PlainTextResponse("no such record", 404) if record is None else JSONResponse(record)

    def reset(self) -> None:
        self.__init__()  # type: ignore[misc]
        self.__dict__.pop("answer", None)  # a test's own
        self.open.set()

    def keep(self, tool: str, delivery: Mapping[str, Any]) -> None:
        """Its records stand from now on."""
        for path, record in delivery.get("records", {}).items():
            if tool == "jobber":
                path = encoded_id(path)
            self.records[path] = record


def encoded_id(path: str) -> str:
    """As Jobber spells the id that a record's path has in the spelling for URLs."""
    id = path.partition("/")[2].replace("-", "+").replace("_", "/")
    return id + "=" * (-len(id) % 4)


class Doorstep(World):
    """A world with a door, and tools behind it."""

    def __init__(self, redis: Redis, harness: Harness, tool: Tool, url: str) -> None:
        super().__init__(redis, harness)
        self.tool, self.url = tool, url
        self.given = {
            **CREDENTIALS,
            "PUBLIC_URL": SPECIMENS["square"]["public_url"],
            **{f"HOOKS__{name.upper()}__SECRETS": SPECIMENS[name]["secret"] for name in TOOLS},
            "HOOKS__ACUITY__API_URL": f"{url}/acuity/v/",
            "HOOKS__SQUARE__API_URL": f"{url}/square/v/",
            "HOOKS__JOBBER__API_URL": f"{url}/jobber/graphql",
        }
        self.set()

    def set(self, answer_s: float = 10, **env: str) -> None:
        super().set(answer_s, **{name: value for name, value in (getattr(self, "given", {}) | env).items() if value})

    async def ring(self, tool: str, delivery: Mapping[str, Any]) -> httpx.Response:
        """The delivery as it was recorded, signature and all."""
        door = WebhookEndpoint(self.context.settings, defaultdict(lambda: self.ledger), Rejections(self.redis))
        raw = delivery["body"]
        content = raw if isinstance(raw, str) else json.dumps(raw, separators=(",", ":"), ensure_ascii=False)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://door") as client:
            return await client.post(f"/hooks/{tool}", content=content.encode(), headers=delivery["headers"])

    async def asked(self, times: int) -> None:
        """Until the tool has been asked so often."""
        await asyncio.to_thread(wait_until, lambda: len(self.tool.seen) >= times)

    async def event(self, answer: httpx.Response) -> Task:
        return await self.ledger.load_task(f"event:{answer.json()['delivery']}")


def says(status: int, text: str = "", **headers: str) -> Answerer:
    return lambda _: PlainTextResponse(text, status, headers)


async def a_minute_ago(world: Doorstep, tool: str, told: Mapping[str, Any]) -> str:
    """A delivery that came before a late record would have had its time; its id."""
    raw, received_at = told["body"], datetime.now(UTC) - timedelta(seconds=61)
    content = raw if isinstance(raw, str) else json.dumps(raw, separators=(",", ":"), ensure_ascii=False)
    wire = tuple((name.lower().encode(), value.encode()) for name, value in told["headers"].items())
    delivery = Delivery(tool, tool, wire, content.encode(), received_at)
    meta = DeliveryInfo(tool, tool, int(received_at.timestamp() * 1000))
    return (await world.ledger.accept(delivery, meta, [], "main", dedup_id=None, event_state="queued")).delivery_id
