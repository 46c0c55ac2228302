"""Every source from end to end: its specimens ring at the real door, a server plays the tool's API with their records, the
worker fetches and applies, and the sandbox shows the visit. Nothing here names a tool."""

import contextlib
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from app.intake.endpoint import WebhookEndpoint
from app.ledger.records import DeliveryInfo
from app.ledger.redis import Redis
from app.operators.filter import Filter
from app.operators.replay import PlannedTask, Replay
from app.telemetry.rejections import Rejections
from app.visits.change import VisitChange, encode_change, external_id
from app.webhooks import specimens
from app.webhooks.delivery import Event
from app.webhooks.fetching import RecordRequest
from app.webhooks.payload import Payload
from app.webhooks.source import Ignored
from app.webhooks.translation import parse_event, translate_event
from tests.support.harness import Harness, serving
from tests.support.specimens import BY_TOOL, TOOLS, Specimen
from tests.support.visit_worker import World, open_world

every_source = pytest.mark.parametrize("name", [name for name in TOOLS if BY_TOOL[name]])

Asked = tuple[str, str, str, str]


class Api:
    """A tool's API: what stands at what is asked for. seen: the headers that came."""

    def __init__(self) -> None:
        self.records: dict[Asked, Any] = {}
        self.seen: list[dict[str, str]] = []
        self.token: dict[str, Any] = {}

    async def serve(self, request: Request) -> Response:
        self.seen.append(dict(request.headers))
        body = (await request.body()).decode()
        if request.url.path == "/token":
            return JSONResponse(self.token)
        shown = [(name, value) for name, value in parse_qsl(request.url.query) if not value.endswith("-for-tests")]
        params = json.dumps(sorted(shown))  # without the credentials
        record = self.records.get((request.method, request.url.path, params, _plain(body)))
        return PlainTextResponse("no such record", 404) if record is None else JSONResponse(record)

    def keep(self, specimen: Specimen) -> None:
        """Its records stand from now on, each where the source asks for it."""
        records, posts = specimen.told.get("records", {}), specimen.told.get("posts", {})
        for get in specimen.gets():
            record = records[get.key]
            others = get.follow_up(Payload(record, "record")) if record is not None else {}
            for one in (get, *others.values()):
                self.records[asked(replace(one, json=posts.get(one.key, one.json)))] = records[one.key]


def asked(get: RecordRequest) -> Asked:
    """The request that a RecordRequest means."""
    params = json.dumps(sorted((name, value) for name, value in get.params.items()))
    params = json.dumps([[name, value] for name, value in json.loads(params)])
    if get.query:
        return "POST", "/", params, _plain(json.dumps({"query": get.query, "variables": dict(get.variables)}))
    path = "/" + (get.path if get.endpoint is None else get.endpoint)
    if get.json is not None:
        return "POST", path, params, _plain(json.dumps(get.json))
    if get.form is not None:
        return "POST", path, params, _plain("&".join(f"{n}={v}" for n, v in get.form.items()))
    return "GET", path, params, ""


def _plain(body: str) -> str:
    """A body whatever its spelling: JSON, or a form."""
    try:
        return json.dumps(json.loads(body), sort_keys=True)
    except ValueError:
        return json.dumps(sorted(parse_qsl(body))) if body else ""


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Api, str]]:
    api = Api()
    with serving(Starlette(routes=[Route("/{path:path}", api.serve, methods=["GET", "POST"])])) as url:
        yield api, url


class Doorstep(World):
    """A world with a door, and one tool behind it."""

    def __init__(self, redis: Redis, harness: Harness, api: Api, url: str) -> None:
        super().__init__(redis, harness)
        self.api, self.url = api, url

    def configure_source(self, specimen: Specimen, **more: str) -> None:
        """As whoever connects this tool would; a signed time is never too old, for the specimens are."""
        source, hook = specimen.tool.definition, f"HOOKS__{specimen.tool.name.upper()}"
        credentials = {f"{hook}__CREDENTIALS__{name}": f"{name}-for-tests" for name in source.credential_names}
        if source.token_exchange:
            credentials = {
                f"{hook}__CREDENTIALS__{n}": "x-for-tests" for n in source.missing_credentials({}) if source.credentials
            }
            credentials |= {f"{hook}__CREDENTIALS__{name}": f"{name}-for-tests" for name in source.credentials.names}  # type: ignore[union-attr]
        given = {
            f"{hook}__SECRETS": specimen.secret,
            f"{hook}__TOLERANCE": "9000000000",
            f"{hook}__API_URL": self.url,
            f"{hook}__TIMEZONE": specimen.of("timezone"),
            f"{hook}__TENANTS": specimen.of("tenants"),
            "PUBLIC_URL": specimen.of("public_url") or "https://hooks.example.com",
            "SECRET_KEY": specimen.of("secret_key") or "a key of ours for tests".replace(" ", "-"),
            **credentials,
            **more,
        }
        self.configure(**{name: value for name, value in given.items() if value})

    async def ring(self, specimen: Specimen, **other: Any) -> httpx.Response:
        """As it was recorded, signature and all; other: what is sent instead."""
        door = WebhookEndpoint(self.context.settings, defaultdict(lambda: self.ledger), Rejections(self.redis))
        delivery = specimen.delivery
        token = other.get("token", delivery.token)
        path = f"/hooks/{specimen.tool.name}" + (f"/{token}" if token else "")
        lines = [(name.decode(), value.decode("latin-1")) for name, value in delivery.headers]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://door") as client:
            method, query = other.get("method", delivery.method), delivery.query.decode()
            content = b"" if method in ("GET", "HEAD") else other.get("raw", delivery.body)
            return await client.request(method, path + (query and f"?{query}"), content=content, headers=lines)


@pytest.fixture
async def world(redis: Redis, module_harness: Harness, served: tuple[Api, str]) -> AsyncIterator[Doorstep]:
    api, url = served
    api.records, api.seen = {}, []
    async with open_world(redis, module_harness):
        world = Doorstep(redis, module_harness, api, url)
        yield world
        await world.transport.aclose()


@contextlib.asynccontextmanager
async def alone(world: Doorstep) -> AsyncIterator[None]:
    """Nothing rang before."""
    await world.redis.command("FLUSHDB")
    world.harness.http.post(f"{world.harness.sandbox.url}/_sandbox/reset")
    world.api.records.clear()
    yield


def by_visit(changes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a delivery says of each visit, where it says several things: the later over the earlier."""
    together: dict[str, dict[str, Any]] = {}
    for change in sorted(changes, key=lambda change: change.get("version", 0)):
        known = together.setdefault(change.get("external_id_override") or change["visit_id"], {})
        is_bound = change.get("only_for_contact") and "contact" in known
        known.update({name: value for name, value in change.items() if not (is_bound and name in BINDING)})
    return list(together.values())


#: What says only whose the rest of a change is.
BINDING = ("contact", "only_for_contact")


def stands(change: Mapping[str, Any]) -> bool:
    """Is a visit to be made of this alone?"""
    is_off = any(map(change.get, ("date_cancelled", "no_show", "date_left", "opted_out")))
    has_date = change.get("time_scheduled") or change.get("time_completed")
    is_somebodys = not change.get("only_for_contact") and change.get("contact", {}).keys() & {"id", "email"}
    return bool(has_date and not is_off and is_somebodys)


@every_source
async def test_every_specimen_becomes_its_visit(world: Doorstep, name: str) -> None:
    for specimen in BY_TOOL[name]:
        if specimen.is_handshake or specimen.is_answered:
            continue
        async with alone(world):
            world.configure_source(specimen)
            world.api.keep(specimen)

            answer = await world.ring(specimen)
            await world.run()

            assert answer.status_code in (200, 202), (specimen.told["name"], answer.text)
            assert await _unforeseen(world) == [], specimen.told["name"]
            expected = by_visit(specimen.expect if isinstance(specimen.expect, list) else [])
            made = {visit["external_id"]: visit for visit in world.harness.visits()}
            wanted = {_name(name, change): change for change in expected if stands(change)}
            assert wanted.keys() == made.keys(), specimen.told["name"]
            for external, change in wanted.items():
                for field in ("time_scheduled", "time_completed", "amount_collected"):
                    said = change.get(field)
                    assert _same(said, made[external].get(field)), (specimen.told["name"], field)


def _name(source: str, change: Mapping[str, Any]) -> str:
    return str(
        change.get("external_id_override") or external_id(source, change.get("previous_visit_id") or change["visit_id"])
    )


def _same(said: Any, stands: Any) -> bool:
    if not said or not stands:
        return not said and not stands
    try:
        return datetime.fromisoformat(said) == datetime.fromisoformat(stands)
    except ValueError:
        return float(said) == float(stands)


async def _unforeseen(world: Doorstep) -> list[str]:
    """What is neither done nor waits for something that no single delivery brings."""
    foreseen = {"contact_unknown", "time_unknown", "record_not_found_yet"}
    works = [work for state in ("parked", "waiting", "held") for work in await world.ledger.task_ids(state)]  # type: ignore[arg-type]
    reasons = [(await world.ledger.load_task(work)).reason for work in works]
    return [reason for reason in reasons if reason not in foreseen]


@every_source
async def test_every_specimen_can_be_rung_anew(world: Doorstep, name: str) -> None:
    """As the console and `doorbell ring` do: signed now, with the hook's own secret, and with its token."""
    for number, found in enumerate(BY_TOOL[name], 1):
        world.configure_source(found, **{f"HOOKS__{name.upper()}__TOLERANCE": "300"})
        settings, door = (
            world.context.settings,
            WebhookEndpoint(world.context.settings, defaultdict(lambda: world.ledger), Rejections(world.redis)),
        )
        address = f"{settings.public_url}/hooks/{name}"
        made = specimens.sign_specimen(
            name, str(number), name, settings.hooks[name].secrets, settings.secret_key, address
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://door") as client:
            answer = await client.request(
                made.method, made.url(f"/hooks/{name}"), content=made.body, headers=made.headers
            )
        assert answer.status_code in (200, 202), (made.name, answer.text)


@every_source
async def test_every_specimen_translated_anew_says_the_same(world: Doorstep, name: str) -> None:
    """Whatever a tool's code reads beside the body (the time of arrival, headers) is kept as it was."""
    for specimen in BY_TOOL[name]:
        if specimen.is_handshake or specimen.is_answered:
            continue
        world.configure_source(specimen)
        hook = world.context.settings.active_hooks[name]
        delivery = replace(specimen.delivery, received_at=datetime.now(UTC).replace(microsecond=123_456))
        event = parse_event(hook.source, delivery, hook.settings.zone)
        kept = DeliveryInfo(name, name, int(delivery.received_at.timestamp() * 1000), headers=dict(event.headers))

        stored = parse_event(hook.source, kept.to_delivery(delivery.body), hook.settings.zone)
        again = translate_event(hook.source, stored, hook.settings.tenants)

        assert [*map(encode_change, translate_event(hook.source, event, hook.settings.tenants).changes)] == [
            *map(encode_change, again.changes)
        ]


# Translated anew: what the plan says, and what is done ----------------------------------------------------------------


def as_today(change: VisitChange) -> VisitChange:
    """What changed code might say instead: another time, and money."""
    later = change.time_scheduled
    if isinstance(later, datetime):
        later += timedelta(hours=1)
    amount = change.amount_collected
    return replace(change, time_scheduled=later, amount_collected=amount + 1 if isinstance(amount, Decimal) else amount)


def change_translation(world: Doorstep, name: str) -> None:
    hook = world.context.settings.active_hooks[name]
    real = hook.source.translate

    def translate(event: Event) -> list[VisitChange] | Ignored:
        meaning = real(event)
        return meaning if isinstance(meaning, Ignored) else [*map(as_today, meaning)]

    changed = replace(hook, source=replace(hook.source, translate=translate))
    world.context.settings.__dict__["active_hooks"] = {name: changed}


def written(world: Doorstep) -> list[tuple[str, str, dict[str, str]]]:
    """The calls that change visits: method, external_id, and what was sent beside the contact."""
    calls = []
    for request in world.transport.requests:
        is_visit = request.url.path.startswith("/api/v1/visits") and str(request.url).startswith(
            world.harness.sandbox.url
        )
        if is_visit and request.method != "GET":
            form = dict(parse_qsl(request.content.decode(), keep_blank_values=True))
            form.pop("contact_id", None)
            named = form.pop("external_id", None) or request.url.path.rpartition("/")[2]
            calls.append((request.method, named, form))
    return calls


def planned(step: PlannedTask) -> list[tuple[str, str, dict[str, str]]]:
    """The same as the plan says it. A visit that gets another contact is deleted and made again."""
    return [
        (call.call.partition(" ")[0], call.visit, {name: value or "" for name, value in call.fields.items()})
        for call in step.calls
        if call.call in ("PUT /visits/:id", "POST /visits", "DELETE /visits/:id")
    ]


@every_source
@pytest.mark.parametrize("is_changed", [False, True], ids=["same code", "changed code"])
async def test_a_plan_to_translate_anew_says_what_is_then_done(world: Doorstep, name: str, is_changed: bool) -> None:
    delivered: list[tuple[Specimen, str]] = []
    for specimen in BY_TOOL[name]:
        if not (specimen.is_handshake or specimen.is_answered):
            world.configure_source(specimen)
            world.api.keep(specimen)
            delivered.append((specimen, (await world.ring(specimen)).json()["delivery"]))
            await world.run()

    skipped = 0
    for specimen, id in {id: (specimen, id) for specimen, id in delivered}.values():
        world.configure_source(specimen)
        world.api.keep(specimen)
        if is_changed:
            change_translation(world, name)
        replay = Replay(world.ledger, world.context.settings, "retranslate")
        [step] = [step async for step in replay.plan(Filter(ids=(id,)))]
        world.clear_calls()
        world.api.seen.clear()

        await replay.execute(Filter(ids=(id,)), lambda *_: None)
        await world.run()

        what = (specimen.told["name"], step)
        fetched = [get.label for get in specimen.gets()] if specimen.told.get("requests") else []
        if step.skip_reason:
            skipped += 1
            assert ([], []) == (written(world), world.api.seen), what
        elif fetched:
            calls = [call for call, _ in (await world.ledger.load_task(step.task_id)).attempts[-1].calls]
            assert fetched == [call.call for call in step.calls], what
            assert not Counter(fetched) - Counter(calls), what
        else:
            assert sorted(planned(step), key=str) == sorted(written(world), key=str), what
    if not is_changed:
        thin = [specimen for specimen, _ in delivered if specimen.told.get("requests")]
        assert skipped >= len(dict.fromkeys(id for _, id in delivered)) - len(thin)


@every_source
async def test_a_repeat_of_a_delivery_is_told_so(world: Doorstep, name: str) -> None:
    specimen = next(found for found in BY_TOOL[name] if isinstance(found.expect, list))
    world.configure_source(specimen)

    first, again = await world.ring(specimen), await world.ring(specimen)

    assert (202, 200) == (first.status_code, again.status_code)
    assert {"delivery": first.json()["delivery"], "repeat": True} == again.json()


@every_source
async def test_a_stranger_is_refused_and_nothing_is_written(world: Doorstep, name: str) -> None:
    specimen = next(found for found in BY_TOOL[name] if isinstance(found.expect, list))
    world.configure_source(specimen)
    bare = {"raw": b"{}"} if specimen.is_proof_in_body else {}
    stranger = Specimen(
        specimen.tool, specimen.file, specimen.url, specimen.without(*specimen.signing_headers), specimen.told
    )

    answer = await world.ring(stranger, token="", **bare)

    assert 401 == answer.status_code
    assert [] == await world.redis.command("KEYS", "bell:delivery:*")


@every_source
async def test_handshakes_are_answered_at_the_door_and_write_nothing(world: Doorstep, name: str) -> None:
    for specimen in BY_TOOL[name]:
        if not (specimen.is_handshake or specimen.is_answered):
            continue
        world.configure_source(specimen)

        answer = await world.ring(specimen)

        assert (200, specimen.expect.get("answer", "{}")) == (answer.status_code, answer.text), specimen.told["name"]
        if specimen.is_answered:
            gone = Specimen(
                specimen.tool, specimen.file, specimen.url, specimen.without(*specimen.signing_headers), specimen.told
            )
            assert 401 == (await world.ring(gone, token="")).status_code
    assert [] == await world.redis.command("KEYS", "bell:delivery:*")


@every_source
async def test_only_the_methods_that_a_tool_probes_with_are_answered(world: Doorstep, name: str) -> None:
    specimen = next(found for found in BY_TOOL[name] if isinstance(found.expect, list))
    world.configure_source(specimen)

    for method in ("GET", "HEAD", "PUT", "DELETE"):
        answer = await world.ring(specimen, method=method)

        assert (200 if method in specimen.tool.definition.probe_methods else 405) == answer.status_code, method


@every_source
async def test_where_events_name_their_tenant_those_of_others_are_not_kept(world: Doorstep, name: str) -> None:
    if not TOOLS[name].definition.tenant_of:
        return
    specimen = next(found for found in BY_TOOL[name] if isinstance(found.expect, list))
    world.configure_source(specimen, **{f"HOOKS__{name.upper()}__TENANTS": "somebody-else"})

    answer = await world.ring(specimen)

    assert (200, "foreign_tenant") == (answer.status_code, answer.json().get("ignored"))
    assert [] == await world.redis.command("KEYS", "*")


@every_source
async def test_a_token_that_expires_is_got_and_shown(world: Doorstep, name: str) -> None:
    exchange = TOOLS[name].definition.token_exchange
    if exchange is None:
        return
    specimen = next(found for found in BY_TOOL[name] if found.told.get("requests") and isinstance(found.expect, list))
    hook = f"HOOKS__{name.upper()}__"
    world.configure_source(specimen, **{f"{hook}CREDENTIALS__TOKEN": "", f"{hook}TOKEN_URL": f"{world.url}/token"})
    world.api.keep(specimen)
    token: Any = "a-fresh-token"
    for step in reversed(exchange.token_path):
        token = {step: token}
    world.api.token = token

    await world.ring(specimen)
    await world.run()

    asked, *records = world.api.seen
    assert not any("a-fresh-token" in value for value in asked.values())
    assert records
    assert all(any("a-fresh-token" in value for value in headers.values()) for headers in records)
