"""Runs histories through all of Doorbell.

The web app and three workers run in this process, with a real Redis, the sandbox over HTTP, and a server that simulates
the tools' APIs with their current records.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from random import Random
from time import time
from typing import Any

import httpx
from aiohttp import web

from app.ledger.ids import TaskId
from app.ledger.ledger import Ledger
from app.ledger.redis import Redis, RedisAddress
from app.settings.environment import read_environment
from app.settings.model import Settings
from app.visits.change import external_id
from app.visits.client import http_client
from app.web import create_app
from app.webhooks.delivery import Delivery
from app.webhooks.registry import load_sources, load_specimens
from jobs.apply_visit import run_visit
from jobs.context import Context
from jobs.translate_event import run_event
from tests.histories import SOME_TIME, ToolModel, Visit, Webhook, tools

TOKEN = "visits-token-for-tests"
PUBLIC_URL = "https://doorbell.example.com"
WORKERS = 3
#: How the API may treat a duplicate external_id, which its reference does not document.
POLICIES = ("allow", "conflict", "unprocessable", "upsert")
#: Other undocumented behavior of the API, which should make no difference.
SWITCHES: dict[str, Sequence[Any]] = {
    "event_date_follows": (False, True),
    "contact_can_change": (False, True),
    "created_status": (201, 200, 202, 204),
    "deleted_status": (204, 200, 202),
}
#: Reasons for which a task may wait forever: the tool never sent the data.
MAY_WAIT = ("contact_unknown", "time_unknown", "record_not_found_yet")


#: The specimens of a source, whose secrets the histories use, read once.
specimen_file = cache(load_specimens)


def create_model(source: str, seed: int, ties: bool = False) -> tuple[ToolModel, int]:
    """Return the model of a seed before its first step, and its number of steps."""
    rng = Random(f"{source} {seed}")
    steps = rng.randint(1, 9)
    return tools()[source](rng, f"{source[:3]}{seed}", ties), steps


def histories_settings(redis_url: str, sandbox_url: str, tools_url: str) -> Settings:
    """Return settings with a hook for every source that has a model."""
    env = {
        "REDIS_URL": redis_url,
        "VISITS_API_URL": f"{sandbox_url}/api/v1",
        "VISITS_API_TOKEN": TOKEN,
        "PUBLIC_URL": PUBLIC_URL,
        "SECRET_KEY": "a-key-of-ours-for-tests-of-histories",
    }
    for name in tools():
        hook, tool = f"HOOKS__{name.upper()}", load_sources()[name]
        env[f"{hook}__SECRETS"] = specimen_file(name)["secret"]
        if "TENANTS" in tool.definition.required_settings:
            env[f"{hook}__TENANTS"] = specimen_file(name)["tenants"]
        if "TIMEZONE" in tool.definition.required_settings:
            env[f"{hook}__TIMEZONE"] = specimen_file(name)["timezone"]
        if tool.fetch and tool.definition.credentials:
            env |= {f"{hook}__CREDENTIALS__{credential}": "x" for credential in tool.definition.credentials.names}
            env[f"{hook}__API_URL"] = tools_url
    return read_environment(env)


@dataclass
class History:
    """One history while it runs through Doorbell."""

    source: str
    seed: int
    log: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    delivered: list[Webhook] = field(default_factory=list)
    deliveries: int = 0
    #: The visits before the old webhooks were sent again.
    previous_visits: list[dict[str, Any]] | None = None
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model, self.steps = create_model(self.source, self.seed)
        self.rng = Random(f"{self.source} {self.seed} arrival")
        # If no worker runs before the last webhook, a visit that is cancelled in the end is never created.
        self.workers_run_last = self.rng.random() < 0.25

    @property
    def task_ids(self) -> list[str]:
        ids = [id for visit in self.model.visits for id in visit.ids]
        return [*map(TaskId.event, self.events), *(TaskId.visit("main", external_id(self.source, id)) for id in ids)]

    def __str__(self) -> str:
        command = f"python -m tests.histories --source {self.source} --only {self.seed}"
        return "\n  ".join([f"{command}", *self.log, *(f"! {problem}" for problem in self.problems)])


class World:
    """Doorbell around one Redis and one sandbox, for many histories at once."""

    def __init__(self, redis_url: str, sandbox_url: str) -> None:
        self.redis_url, self.sandbox_url = redis_url, sandbox_url
        self.models: list[ToolModel] = []
        self._running = AsyncExitStack()

    async def __aenter__(self) -> "World":
        self.settings = histories_settings(self.redis_url, self.sandbox_url, await self._serve_tools())
        self.http = http_client()
        self._running.push_async_callback(self.http.aclose)
        self.app = create_app(self.settings)
        await self._running.enter_async_context(self.app.router.lifespan_context(self.app))
        self.workers = [await self._worker() for _ in range(WORKERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.delete(f"{self.sandbox_url}/_sandbox/faults")
        await self._running.aclose()

    async def _worker(self) -> Context:
        redis = Redis(RedisAddress(self.redis_url))
        self._running.push_async_callback(redis.close)
        return Context(self.settings, Ledger(redis, retention_days=30), self.http)

    # -- the tools' own APIs --

    async def _serve_tools(self) -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        self._running.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/v"

    async def _answer(self, request: web.Request) -> web.Response:
        query = await request.json() if request.method == "POST" else None
        keys = [_key(query)] if query else record_keys(request.path, request.query)
        record = next((model.answer(key) for key in keys for model in self.models if model.owns(key)), None)
        return web.json_response(record) if record is not None else web.Response(status=404)

    # -- webhooks --

    async def post_webhook(self, source: str, webhook: Webhook) -> dict[str, Any]:
        """Sign and send a webhook; return the body of the response, which is 200 or 202."""
        hook, signing_key = self.settings.active_hooks[source], specimen_file(source).get("signing_key")
        signature, context = hook.source.definition.signature, self.settings.verification_context(hook, time())
        if signing_key:
            context = context._replace(secrets=[signing_key])
        raw, headers = signature.encode_body(webhook.body, context), _lines(webhook.headers)
        delivery = Delivery(source, source, headers, raw, datetime.now(UTC))
        signed = _lines(signature.sign(delivery, context))  # a salt contains the time, so it is replaced
        headers = tuple(line for line in headers if line[0] not in dict(signed)) + signed
        path = self.settings.hook_url(hook).removeprefix(PUBLIC_URL)
        status, answer = await _asgi(self.app, path, headers, raw)
        assert status in (200, 202), (status, answer)
        return dict(json.loads(answer))

    # -- tasks --

    async def task(self, rng: Random, task: str) -> str:
        """Run a task in a random worker."""
        kind, _, subject = task.partition(":")
        context = rng.choice(self.workers)
        if kind == "event":
            return await run_event(context, subject)
        return await run_visit(context, *subject.split("/", 1))

    async def drain(self, history: History) -> None:
        """Run tasks until none of them can continue. Waiting tasks are due at once."""
        redis, ledger = self.workers[0].ledger.redis, self.workers[0].ledger
        for _ in range(40):
            states = [
                (task, *await redis.command("HMGET", f"bell:{task}", "state", "reason")) for task in history.task_ids
            ]
            busy = [(task, state) for task, state, reason in states if state and not _may_stay(state, reason)]
            if not busy:
                return
            for task, state in busy:
                if state == b"waiting":
                    await redis.command("ZADD", "bell:state:waiting", "XX", 0, task)
                    await ledger.requeue_due(1_000)
            await asyncio.gather(*(self.task(history.rng, task) for task, _ in busy))
            await asyncio.sleep(0)
        history.problems.append(f"these tasks never end: {busy}")

    async def check_tasks(self, history: History) -> None:
        for task in history.task_ids:
            state, reason = await self.workers[0].ledger.redis.command("HMGET", f"bell:{task}", "state", "reason")
            if state and not (state == b"waiting" and reason.decode() in MAY_WAIT):
                history.problems.append(f"{task} is {state.decode()}: {(reason or b'').decode()}")

    # -- a history --

    async def play(self, history: History) -> None:
        """Perform the steps and send their webhooks, shuffled and repeated, with workers at any time between them."""
        model, rng, waiting = history.model, history.rng, list[Webhook]()
        afterwards = rng.random() < 0.4
        if afterwards:
            waiting = [webhook for _ in range(history.steps) for webhook in model.step()]
            {0: waiting.reverse, 1: lambda: rng.shuffle(waiting), 2: lambda: None}[rng.choice((0, 1, 1, 2))]()
            history.steps = 0
        while history.steps or waiting:
            if history.steps and (not waiting or rng.random() < 0.5):
                history.steps -= 1
                waiting += model.step()
            if not waiting or rng.random() < 0.3:
                await self._turn(history, [])
                continue
            at = 0 if rng.random() < 0.4 else rng.randrange(len(waiting))
            arrive = [waiting.pop(at)]
            if history.delivered and rng.random() < 0.25:
                arrive.append(rng.choice(history.delivered))
            await self._turn(history, arrive)
        await self.drain(history)

    async def redeliver(self, history: History) -> None:
        """Send old webhooks again, after their deduplication keys expired."""
        again = list(history.delivered)
        history.rng.shuffle(again)
        if history.model.announces_all:
            again = again[: history.rng.randint(0, len(again))]
        history.log.append("-- long after")
        for webhook in again:
            await self._turn(history, [webhook])
        await self.drain(history)

    async def _turn(self, history: History, arrive: list[Webhook]) -> None:
        """Send webhooks, and perhaps run some workers at the same time or after them."""
        rng = history.rng
        at_once = rng.random() < 0.5
        if not at_once:
            for webhook in arrive:
                await self._deliver(history, webhook)
            arrive = []
        workers: list[str] = []
        if not history.workers_run_last and history.task_ids:
            workers = rng.choices(history.task_ids, k=rng.choice((0, 1, 2, 5)))
            history.log.append(f"   {len(workers)} workers{' meanwhile' if arrive else ''}")
        await asyncio.gather(
            *(self._deliver(history, webhook) for webhook in arrive), *(self.task(rng, task) for task in workers)
        )

    async def _deliver(self, history: History, webhook: Webhook) -> None:
        history.log.append(f"<- {webhook.summary}")
        history.deliveries += 1
        answer = await self.post_webhook(history.source, webhook)
        history.delivered.append(webhook)
        if answer["delivery"] not in history.events:
            history.events.append(answer["delivery"])

    # -- the result --

    async def check(self, histories: Iterable[History]) -> None:
        visits = defaultdict(list)
        for visit in await self._all_visits():
            visits[visit.get("external_id")].append(visit)
        for history in histories:
            await self.check_tasks(history)
            contacts = {address: await self._contacts(address) for address in sorted(history.model.addresses)}
            history.problems += [f"{a} is there {len(c)} times" for a, c in contacts.items() if len(c) > 1]
            email = {contact["id"]: address for address, those in contacts.items() for contact in those}
            actual: list[dict[str, Any]] = []
            for visit in history.model.visits:
                first, *duplicates = [visits.pop(external_id(history.source, id), []) for id in visit.ids]
                actual += first
                history.problems += [f"{extra[0]['external_id']} is there too" for extra in duplicates if extra]
                history.problems += compare(history, visit, first, email)
            if history.previous_visits not in (None, actual):
                history.problems.append(f"old events changed {history.previous_visits} to {actual}")
            history.previous_visits = actual
        for history in histories:
            strange = [
                id for id in visits if str(id).startswith(f"{history.source}-") and history.model.name in str(id)
            ]
            history.problems += [f"{id} is there too" for id in strange]

    async def _all_visits(self) -> list[dict[str, Any]]:
        visits: list[dict[str, Any]] = []
        for page in range(1, 1_000):
            answer = (await self._get("/visits", limit="100", page=str(page))).json()
            visits += answer["visits"]
            if page >= answer["pagination"]["total_pages"]:
                break
        return visits

    async def _contacts(self, address: str) -> list[dict[str, Any]]:
        return list((await self._get("/contacts", email=address)).json()["data"])

    async def _get(self, path: str, **query: str) -> httpx.Response:
        url = f"{self.sandbox_url}/api/v1{path}"
        return await self.http.get(url, params=query, headers={"authorization": f"Bearer {TOKEN}"})

    # -- batches --

    async def batch(self, seeds: Sequence[tuple[str, int]]) -> list[History]:
        """Run histories concurrently. The first seed determines the behavior of the API."""
        switches, redis = behavior(seeds[0][1] // BATCH), self.workers[0].ledger.redis
        await redis.command("FLUSHDB")
        (await self.http.post(f"{self.sandbox_url}/_sandbox/reset")).raise_for_status()
        (await self.http.put(f"{self.sandbox_url}/_sandbox/faults", json=switches)).raise_for_status()
        histories = [History(source, seed, [f"API: {switches}"]) for source, seed in seeds]
        self.models = [history.model for history in histories]
        await _all(self.play, histories)
        await self.check([history for history in histories if history.model.announces_all])
        for pattern in ("bell:dedup:*", "bell:delivery:*"):  # nothing is a repeat any more
            for key in await redis.command("KEYS", pattern):
                await redis.command("DEL", key)
        await _all(self.redeliver, histories)
        await self.check([history for history in histories if not history.problems])
        return histories


#: The number of seeds that share the API's behavior. A seed that runs alone has the behavior of its batch.
BATCH = 16


def behavior(batch: int) -> dict[str, Any]:
    """Return the behavior of the API. Eight batches cover every policy for duplicates, with and without clearing."""
    rng = Random(batch)
    duplicates = {name: rng.choice(choices) for name, choices in SWITCHES.items()}
    return {"empty_clears": batch % 2 == 0, "duplicate_external_id": POLICIES[batch // 2 % 4], **duplicates}


async def _all(step: Callable[[History], Awaitable[None]], histories: Sequence[History]) -> None:
    async def guarded(history: History) -> None:
        try:
            await step(history)
        except Exception as error:
            history.problems.append(f"{type(error).__name__}: {error}")

    await asyncio.gather(*map(guarded, histories))


def compare(history: History, visit: Visit, visits: list[dict[str, Any]], email: dict[str, str]) -> list[str]:
    """Return the differences between the actual and the expected visit."""
    name = external_id(history.source, visit.id)
    needed = visit.can_be_created and not visit.is_off
    if not visits:
        return [f"{name} is missing: {visit.expected_fields()}"] if needed else []
    if len(visits) > 1:
        return [f"{name} is there {len(visits)} times"]
    if not needed and history.workers_run_last and history.model.records_show_cancel:
        return [f"{name} was made, and never should have been"]
    actual, wanted = visits[0], visit.expected_fields()
    if visit.is_gone:
        actual, wanted = ({"date_cancelled": fields.get("date_cancelled")} for fields in (actual, wanted))
    problems = [
        f"{name}: {field} is {actual.get(field)}, and should be {wanted.get(field)}"
        for field in ("time_scheduled", "time_completed", "event_date", "date_cancelled", "amount_collected")
        if actual.get(field) != wanted.get(field) and not (wanted.get(field) == SOME_TIME and actual.get(field))
    ]
    contact_id, who = visits[0]["contact_id"], visit.who
    owner = who and (who.id or who.email)
    belongs_to = contact_id if who and who.id else email.get(contact_id)
    if belongs_to != owner and not (visit.is_gone and belongs_to):
        problems.append(f"{name} is {belongs_to}'s, and should be {owner}'s")
    return problems


def _may_stay(state: bytes, reason: bytes | None) -> bool:
    return state in (b"parked", b"discarded") or (state == b"waiting" and (reason or b"").decode() in MAY_WAIT)


def record_keys(path: str, params: Mapping[str, str]) -> list[str]:
    """Return the possible keys of a record: the end of the path, a parameter, or both together."""
    last_part = path.rpartition("/")[2]
    return [last_part, *params.values(), *(f"{last_part}?{value}" for value in params.values())]


def _key(query: dict[str, Any]) -> str:
    """Return the key in a POST request: a variable in GraphQL, the first parameter in JSON-RPC, else the last field."""
    if "params" in query:
        return str(query["params"][0])
    return str(query["variables"]["id"] if "variables" in query else [*query.values()][-1])


def _lines(headers: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((name.lower().encode(), value.encode()) for name, value in headers.items())


async def _asgi(app: Any, path: str, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> tuple[int, bytes]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": list(headers)}
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])
