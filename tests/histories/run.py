"""A history through all of Doorbell: the door in process, the ledger on a real Redis, three workers, the sandbox over HTTP,
and a server that plays the tools' own APIs with the records of the moment."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from time import time
from typing import Any

import httpx
from aiohttp import web

from app.ledger.ids import TaskId
from app.ledger.ledger import Ledger
from app.ledger.redis import Redis, RedisAddress
from app.main import create_app
from app.settings.environment import read_environment
from app.settings.model import Settings
from app.visits.change import external_id
from app.visits.client import http_client
from app.webhooks.delivery import Delivery
from app.webhooks.registry import load_sources, load_specimens
from jobs.apply_visit import run_visit
from jobs.context import Context
from jobs.translate_event import run_event
from tests.histories import SOME_TIME, Life, Ring, Visit, tools

TOKEN = "visits-token-for-tests"
PUBLIC_URL = "https://doorbell.example.com"
WORKERS = 3
#: What the API does where its reference says nothing and it matters most …
POLICIES = ("allow", "conflict", "unprocessable", "upsert")
#: … and where it should not matter at all.
SWITCHES: dict[str, Sequence[Any]] = {
    "event_date_follows": (False, True),
    "contact_can_change": (False, True),
    "created_status": (201, 200, 202, 204),
    "deleted_status": (204, 200, 202),
}
#: What may be waited for without end: the tool never said it.
MAY_WAIT = ("contact_unknown", "time_unknown", "record_not_found_yet")


def life_of(source: str, seed: int, ties: bool = False) -> tuple[Life, int]:
    """The life that a seed means, before its first step, and how many steps it has."""
    dice = Random(f"{source} {seed}")
    steps = dice.randint(1, 9)
    return tools()[source](dice, f"{source[:3]}{seed}", ties), steps


def settings_for(redis_url: str, sandbox_url: str, tools_url: str) -> Settings:
    """A hook for every source that has a model."""
    env = {
        "REDIS_URL": redis_url,
        "VISITS_API_URL": f"{sandbox_url}/api/v1",
        "VISITS_API_TOKEN": TOKEN,
        "PUBLIC_URL": PUBLIC_URL,
        "SECRET_KEY": "a-key-of-ours-for-tests-of-histories",
    }
    for name in tools():
        hook, tool = f"HOOKS__{name.upper()}", load_sources()[name]
        env[f"{hook}__SECRETS"] = load_specimens(name)["secret"]
        if "TENANTS" in tool.definition.required_settings:
            env[f"{hook}__TENANTS"] = load_specimens(name)["tenants"]
        if "TIMEZONE" in tool.definition.required_settings:
            env[f"{hook}__TIMEZONE"] = load_specimens(name)["timezone"]
        if tool.fetch and tool.definition.credentials:
            env |= {f"{hook}__CREDENTIALS__{credential}": "x" for credential in tool.definition.credentials.names}
            env[f"{hook}__API_URL"] = tools_url
    return read_environment(env)


@dataclass
class History:
    """One life on its way through Doorbell."""

    source: str
    seed: int
    account: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    delivered: list[Ring] = field(default_factory=list)
    deliveries: int = 0
    #: What stood before the old events were rung again.
    stood: list[dict[str, Any]] | None = None
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.life, self.steps = life_of(self.source, self.seed)
        self.dice = Random(f"{self.source} {self.seed} arrival")
        # Nobody looked before all was said: then what was cancelled in the end is never made.
        self.is_looked_at_last = self.dice.random() < 0.25

    @property
    def works(self) -> list[str]:
        ids = [id for visit in self.life.visits for id in visit.ids]
        return [*map(TaskId.event, self.events), *(TaskId.visit("main", external_id(self.source, id)) for id in ids)]

    def __str__(self) -> str:
        command = f"python -m tests.histories --source {self.source} --only {self.seed}"
        return "\n  ".join([f"{command}", *self.account, *(f"! {problem}" for problem in self.problems)])


class World:
    """Doorbell around one Redis and one sandbox, for many histories at once."""

    def __init__(self, redis_url: str, sandbox_url: str) -> None:
        self.redis_url, self.sandbox_url = redis_url, sandbox_url
        self.lives: list[Life] = []
        self._running = AsyncExitStack()

    async def __aenter__(self) -> "World":
        self.settings = settings_for(self.redis_url, self.sandbox_url, await self._serve_tools())
        self.http = http_client()
        self._running.push_async_callback(self.http.aclose)
        self.door = create_app(self.settings)
        await self._running.enter_async_context(self.door.router.lifespan_context(self.door))
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
        """The record as it stands at this moment."""
        asked = await request.json() if request.method == "POST" else None
        keys = [_key(asked)] if asked else named(request.path, request.query)
        found = next((life.answer(key) for key in keys for life in self.lives if life.owns(key)), None)
        return web.json_response(found) if found is not None else web.Response(status=404)

    # -- at the door --

    async def knock(self, source: str, ring: Ring) -> dict[str, Any]:
        """Ring, really signed; the answer, which is 200 or 202."""
        hook, signing_key = self.settings.active_hooks[source], load_specimens(source).get("signing_key")
        signature, context = hook.source.definition.signature, self.settings.verification_context(hook, time())
        if signing_key:
            context = context._replace(secrets=[signing_key])
        raw, headers = signature.encode_body(ring.body, context), _lines(ring.headers)
        delivery = Delivery(source, source, headers, raw, datetime.now(UTC))
        signed = _lines(signature.sign(delivery, context))  # a salt is made anew with its time
        headers = tuple(line for line in headers if line[0] not in dict(signed)) + signed
        path = self.settings.hook_url(hook).removeprefix(PUBLIC_URL)
        status, answer = await _asgi(self.door, path, headers, raw)
        assert status in (200, 202), (status, answer)
        return dict(json.loads(answer))

    # -- at work --

    async def work(self, dice: Random, work: str) -> str:
        """Some worker's turn."""
        kind, _, subject = work.partition(":")
        context = dice.choice(self.workers)
        if kind == "event":
            return await run_event(context, subject)
        return await run_visit(context, *subject.split("/", 1))

    async def drain(self, history: History) -> None:
        """Work until nothing is left that time alone would do; time passes by itself here."""
        redis, ledger = self.workers[0].ledger.redis, self.workers[0].ledger
        for _ in range(40):
            states = [
                (work, *await redis.command("HMGET", f"bell:{work}", "state", "reason")) for work in history.works
            ]
            busy = [(work, state) for work, state, reason in states if state and not _may_stay(state, reason)]
            if not busy:
                return
            for work, state in busy:
                if state == b"waiting":
                    await redis.command("ZADD", "bell:waiting", "XX", 0, work)
                    await ledger.requeue_due(1_000)
            await asyncio.gather(*(self.work(history.dice, work) for work, _ in busy))
            await asyncio.sleep(0)
        history.problems.append(f"no end of work: {busy}")

    async def works_left(self, history: History) -> None:
        for work in history.works:
            state, reason = await self.workers[0].ledger.redis.command("HMGET", f"bell:{work}", "state", "reason")
            if state and not (state == b"waiting" and reason.decode() in MAY_WAIT):
                history.problems.append(f"{work} is {state.decode()}: {(reason or b'').decode()}")

    # -- a history --

    async def live(self, history: History) -> None:
        """It happens, and rings: in any order, also more than once, with workers at any moment between."""
        life, dice, waiting = history.life, history.dice, list[Ring]()
        afterwards = dice.random() < 0.4
        if afterwards:
            waiting = [ring for _ in range(history.steps) for ring in life.step()]
            {0: waiting.reverse, 1: lambda: dice.shuffle(waiting), 2: lambda: None}[dice.choice((0, 1, 1, 2))]()
            history.steps = 0
        while history.steps or waiting:
            if history.steps and (not waiting or dice.random() < 0.5):
                history.steps -= 1
                waiting += life.step()
            if not waiting or dice.random() < 0.3:
                await self._turn(history, [])
                continue
            at = 0 if dice.random() < 0.4 else dice.randrange(len(waiting))
            arrive = [waiting.pop(at)]
            if history.delivered and dice.random() < 0.25:
                arrive.append(dice.choice(history.delivered))
            await self._turn(history, arrive)
        await self.drain(history)

    async def ring_again(self, history: History) -> None:
        """Long after: old events once more, which nobody remembers as repeats."""
        again = list(history.delivered)
        history.dice.shuffle(again)
        if history.life.tells_all:
            again = again[: history.dice.randint(0, len(again))]
        history.account.append("-- long after")
        for ring in again:
            await self._turn(history, [ring])
        await self.drain(history)

    async def _turn(self, history: History, arrive: list[Ring]) -> None:
        """Deliveries, and perhaps some workers at the same time or after them."""
        dice = history.dice
        at_once = dice.random() < 0.5
        if not at_once:
            for ring in arrive:
                await self._deliver(history, ring)
            arrive = []
        workers: list[str] = []
        if not history.is_looked_at_last and history.works:
            workers = dice.choices(history.works, k=dice.choice((0, 1, 2, 5)))
            history.account.append(f"   {len(workers)} workers{' meanwhile' if arrive else ''}")
        await asyncio.gather(
            *(self._deliver(history, ring) for ring in arrive), *(self.work(dice, work) for work in workers)
        )

    async def _deliver(self, history: History, ring: Ring) -> None:
        history.account.append(f"<- {ring.said}")
        history.deliveries += 1
        answer = await self.knock(history.source, ring)
        history.delivered.append(ring)
        if answer["delivery"] not in history.events:
            history.events.append(answer["delivery"])

    # -- what came of it --

    async def check(self, histories: Iterable[History]) -> None:
        found = defaultdict(list)
        for visit in await self._all_visits():
            found[visit.get("external_id")].append(visit)
        for history in histories:
            await self.works_left(history)
            contacts = {address: await self._contacts(address) for address in sorted(history.life.addresses)}
            history.problems += [f"{a} is there {len(c)} times" for a, c in contacts.items() if len(c) > 1]
            email = {contact["id"]: address for address, those in contacts.items() for contact in those}
            stands: list[dict[str, Any]] = []
            for visit in history.life.visits:
                first, *others = [found.pop(external_id(history.source, id), []) for id in visit.ids]
                stands += first
                history.problems += [f"{extra[0]['external_id']} is there too" for extra in others if extra]
                history.problems += compare(history, visit, first, email)
            if history.stood not in (None, stands):
                history.problems.append(f"old events changed {history.stood} to {stands}")
            history.stood = stands
        for history in histories:
            strange = [id for id in found if str(id).startswith(f"{history.source}-") and history.life.name in str(id)]
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

    # -- many at once --

    async def batch(self, seeds: Sequence[tuple[str, int]]) -> list[History]:
        """Histories side by side, on an API that behaves as the first seed says."""
        switches, redis = behaviour(seeds[0][1] // BATCH), self.workers[0].ledger.redis
        await redis.command("FLUSHDB")
        (await self.http.post(f"{self.sandbox_url}/_sandbox/reset")).raise_for_status()
        (await self.http.put(f"{self.sandbox_url}/_sandbox/faults", json=switches)).raise_for_status()
        histories = [History(source, seed, [f"API: {switches}"]) for source, seed in seeds]
        self.lives = [history.life for history in histories]
        await _all(self.live, histories)
        await self.check([history for history in histories if history.life.tells_all])
        for key in await redis.command("KEYS", "bell:dedup:*"):
            await redis.command("DEL", key)
        await _all(self.ring_again, histories)
        await self.check([history for history in histories if not history.problems])
        return histories


#: So many seeds share an API's behaviour, so that one of them alone meets the same.
BATCH = 16


def behaviour(batch: int) -> dict[str, Any]:
    """Every eight batches have met every policy on ids, with and without clearing."""
    dice = Random(batch)
    others = {name: dice.choice(choices) for name, choices in SWITCHES.items()}
    return {"empty_clears": batch % 2 == 0, "duplicate_external_id": POLICIES[batch // 2 % 4], **others}


async def _all(step: Callable[[History], Awaitable[None]], histories: Sequence[History]) -> None:
    async def guarded(history: History) -> None:
        try:
            await step(history)
        except Exception as error:
            history.problems.append(f"{type(error).__name__}: {error}")

    await asyncio.gather(*map(guarded, histories))


def compare(history: History, visit: Visit, found: list[dict[str, Any]], email: dict[str, str]) -> list[str]:
    """What is wrong with what stands; nothing if it is what the life means."""
    name = external_id(history.source, visit.id)
    needed = visit.can_be_made and not visit.is_off
    if not found:
        return [f"{name} is missing: {visit.shown()}"] if needed else []
    if len(found) > 1:
        return [f"{name} is there {len(found)} times"]
    if not needed and history.is_looked_at_last and history.life.records_end:
        return [f"{name} was made, and never should have been"]
    stands, wanted = found[0], visit.shown()
    if visit.is_gone:
        stands, wanted = ({"date_cancelled": one.get("date_cancelled")} for one in (stands, wanted))
    problems = [
        f"{name}: {field} is {stands.get(field)}, and should be {wanted.get(field)}"
        for field in ("time_scheduled", "time_completed", "event_date", "date_cancelled", "amount_collected")
        if stands.get(field) != wanted.get(field) and not (wanted.get(field) == SOME_TIME and stands.get(field))
    ]
    contact_id, who = found[0]["contact_id"], visit.who
    whose = who and (who.id or who.email)
    belongs_to = contact_id if who and who.id else email.get(contact_id)
    if belongs_to != whose and not (visit.is_gone and belongs_to):
        problems.append(f"{name} is {belongs_to}'s, and should be {whose}'s")
    return problems


def _may_stay(state: bytes, reason: bytes | None) -> bool:
    return state in (b"parked", b"discarded") or (state == b"waiting" and (reason or b"").decode() in MAY_WAIT)


def named(path: str, params: Mapping[str, str]) -> list[str]:
    """What a record may be asked for by: the end of the path, a parameter, or both where they need each other."""
    what = path.rpartition("/")[2]
    return [what, *params.values(), *(f"{what}?{value}" for value in params.values())]


def _key(asked: dict[str, Any]) -> str:
    """What is asked for: in GraphQL a variable, in JSON-RPC the first parameter, else the last of what is named."""
    if "params" in asked:
        return str(asked["params"][0])
    return str(asked["variables"]["id"] if "variables" in asked else [*asked.values()][-1])


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
