"""Every source from end to end, through the endpoint, a fake of the tool's API, the worker and the sandbox.

No test here names a tool: each runs over the specimens of every source.
"""

import contextlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest

from app.intake.endpoint import WebhookEndpoint
from app.ledger.records import DeliveryInfo
from app.operators.filter import Filter
from app.operators.replay import PlannedTask, Replay
from app.telemetry.rejections import Rejections
from app.visits.change import VisitChange, encode_change, external_id
from app.webhooks import specimens
from app.webhooks.delivery import Event
from app.webhooks.source import Ignored
from app.webhooks.translation import parse_event, translate_event
from tests.support.cases import each
from tests.support.source_world import SourceWorld
from tests.support.specimens import BY_TOOL, TOOLS, Specimen

SOURCES = [name for name in TOOLS if BY_TOOL[name]]
#: In an empty Redis, sandbox and API of the tool for each source; `each_source`: where the sources do not meet.
every_source = pytest.mark.parametrize("name", SOURCES)
each_source = each("name", SOURCES)


@contextlib.asynccontextmanager
async def emptied(world: SourceWorld) -> AsyncIterator[None]:
    """Empty Redis, the sandbox and the tool's API."""
    await world.redis.command("FLUSHDB")
    world.harness.control("POST", "reset")
    world.api.records.clear()
    yield


def merge_by_visit(changes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge the changes of each visit; later fields replace earlier ones."""
    visits: dict[str, dict[str, Any]] = {}
    for change in sorted(changes, key=lambda change: change.get("version", 0)):
        visit = visits.setdefault(change.get("external_id_override") or change["visit_id"], {})
        is_bound = change.get("only_for_contact") and "contact" in visit
        visit.update({name: value for name, value in change.items() if not (is_bound and name in CONTACT_FIELDS)})
    return list(visits.values())


#: Fields that only identify the person of a change.
CONTACT_FIELDS = ("contact", "only_for_contact")


def creates_visit(change: Mapping[str, Any]) -> bool:
    """Return whether this change alone creates a visit."""
    is_over = any(map(change.get, ("date_cancelled", "no_show", "date_left", "opted_out")))
    has_date = change.get("time_scheduled") or change.get("time_completed")
    has_contact = not change.get("only_for_contact") and change.get("contact", {}).keys() & {"id", "email"}
    return bool(has_date and not is_over and has_contact)


@each_source
async def test_every_specimen_becomes_its_visit(world: SourceWorld, name: str) -> None:
    for specimen in BY_TOOL[name]:
        if specimen.is_handshake or specimen.is_answered:
            continue
        async with emptied(world):
            world.configure_source(specimen)
            world.api.add_records(specimen)

            response = await world.receive(specimen)
            await world.run()

            assert response.status_code in (200, 202), (specimen.recorded["name"], response.text)
            assert await unexpected_reasons(world) == [], specimen.recorded["name"]
            expected = merge_by_visit(specimen.expect if isinstance(specimen.expect, list) else [])
            visits = {visit["external_id"]: visit for visit in world.harness.visits()}
            expected_visits = {external_id_of(name, change): change for change in expected if creates_visit(change)}
            assert expected_visits.keys() == visits.keys(), specimen.recorded["name"]
            for id, change in expected_visits.items():
                for field in ("time_scheduled", "time_completed", "amount_collected"):
                    expected_value = change.get(field)
                    assert is_same_value(expected_value, visits[id].get(field)), (specimen.recorded["name"], field)


def external_id_of(source: str, change: Mapping[str, Any]) -> str:
    return str(
        change.get("external_id_override") or external_id(source, change.get("previous_visit_id") or change["visit_id"])
    )


def is_same_value(expected: Any, actual: Any) -> bool:
    if not expected or not actual:
        return not expected and not actual
    try:
        return datetime.fromisoformat(expected) == datetime.fromisoformat(actual)
    except ValueError:
        return float(expected) == float(actual)


async def unexpected_reasons(world: SourceWorld) -> list[str]:
    """Return the reasons of open tasks, except those that wait for data of another delivery."""
    expected = {"contact_unknown", "time_unknown", "record_not_found_yet"}
    task_ids = [task_id for state in ("parked", "waiting", "held") for task_id in await world.ledger.task_ids(state)]  # type: ignore[arg-type]
    reasons = [(await world.ledger.load_task(task_id)).reason for task_id in task_ids]
    return [reason for reason in reasons if reason not in expected]


@each_source
async def test_every_specimen_is_accepted_when_signed_now(world: SourceWorld, name: str) -> None:
    """The console and `doorbell ring` sign specimens like this, with the hook's secret and its token."""
    for number, specimen in enumerate(BY_TOOL[name], 1):
        world.configure_source(specimen, **{f"HOOKS__{name.upper()}__TOLERANCE": "300"})
        settings, endpoint = (
            world.context.settings,
            WebhookEndpoint(world.context.settings, defaultdict(lambda: world.ledger), Rejections(world.redis)),
        )
        url = f"{settings.public_url}/hooks/{name}"
        signed = specimens.sign_specimen(
            name, str(number), name, settings.hooks[name].secrets, settings.secret_key, url
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint), base_url="http://doorbell") as client:
            response = await client.request(
                signed.method, signed.url(f"/hooks/{name}"), content=signed.body, headers=signed.headers
            )
        assert response.status_code in (200, 202), (signed.name, response.text)


@each_source
async def test_every_stored_specimen_is_retranslated_to_the_same_changes(world: SourceWorld, name: str) -> None:
    """The inputs of a source beside the body (time of arrival, headers) are stored with the delivery."""
    for specimen in BY_TOOL[name]:
        if specimen.is_handshake or specimen.is_answered:
            continue
        world.configure_source(specimen)
        hook = world.context.settings.active_hooks[name]
        delivery = replace(specimen.delivery, received_at=datetime.now(UTC).replace(microsecond=123_456))
        event = parse_event(hook.source, delivery, hook.settings.zone)
        info = DeliveryInfo(name, name, int(delivery.received_at.timestamp() * 1000), headers=dict(event.headers))

        stored = parse_event(hook.source, info.to_delivery(delivery.body), hook.settings.zone)
        again = translate_event(hook.source, stored, hook.settings.tenants)

        assert [*map(encode_change, translate_event(hook.source, event, hook.settings.tenants).changes)] == [
            *map(encode_change, again.changes)
        ]


# -- retranslation: the plan and its execution --


def with_another_time_and_amount(change: VisitChange) -> VisitChange:
    """Return the change as another version of the source might translate it."""
    time_scheduled = change.time_scheduled
    if isinstance(time_scheduled, datetime):
        time_scheduled += timedelta(hours=1)
    amount = change.amount_collected
    return replace(
        change, time_scheduled=time_scheduled, amount_collected=amount + 1 if isinstance(amount, Decimal) else amount
    )


def change_translation(world: SourceWorld, name: str) -> None:
    hook = world.context.settings.active_hooks[name]
    original = hook.source.translate

    def translate(event: Event) -> list[VisitChange] | Ignored:
        meaning = original(event)
        return meaning if isinstance(meaning, Ignored) else [*map(with_another_time_and_amount, meaning)]

    changed = replace(hook, source=hook.source._replace(translate=translate))
    world.context.settings.__dict__["active_hooks"] = {name: changed}


def visit_calls(world: SourceWorld) -> list[tuple[str, str, dict[str, str]]]:
    """Return the calls that changed visits: method, external_id, and the form without the contact."""
    calls = []
    for request in world.transport.requests:
        is_visit = request.url.path.startswith("/api/v1/visits") and str(request.url).startswith(
            world.harness.sandbox.url
        )
        if is_visit and request.method != "GET":
            form = dict(parse_qsl(request.content.decode(), keep_blank_values=True))
            form.pop("contact_id", None)
            external_id = form.pop("external_id", None) or request.url.path.rpartition("/")[2]
            calls.append((request.method, external_id, form))
    return calls


def planned_visit_calls(task: PlannedTask) -> list[tuple[str, str, dict[str, str]]]:
    """Return the planned calls in the same form. A visit with a new contact is deleted and created again."""
    return [
        (call.call.partition(" ")[0], call.visit, {name: value or "" for name, value in call.fields.items()})
        for call in task.calls
        if call.call in ("PUT /visits/:id", "POST /visits", "DELETE /visits/:id")
    ]


@every_source
async def test_a_plan_to_retranslate_lists_the_calls_of_its_execution(world: SourceWorld, name: str) -> None:
    delivered: dict[str, Specimen] = {}
    for specimen in BY_TOOL[name]:
        if not (specimen.is_handshake or specimen.is_answered):
            world.configure_source(specimen)
            world.api.add_records(specimen)
            delivered[(await world.receive(specimen)).json()["delivery"]] = specimen
            await world.run()

    with_same_code = [await retranslate(world, specimen, id) for id, specimen in delivered.items()]
    for id, specimen in delivered.items():
        await retranslate(world, specimen, id, is_changed=True)

    assert with_same_code.count("skipped") >= sum(not each.recorded.get("requests") for each in delivered.values())


async def retranslate(world: SourceWorld, specimen: Specimen, id: str, is_changed: bool = False) -> str:
    """Compare the calls of the plan and of its execution. is_changed: by another version of the source."""
    world.configure_source(specimen)
    world.api.add_records(specimen)
    if is_changed:
        change_translation(world, specimen.tool.name)
    replay = Replay(world.ledger, world.context.settings, "retranslate")
    [planned] = [planned async for planned in replay.plan(Filter(ids=(id,)))]
    world.clear_calls()
    world.api.request_headers.clear()

    await replay.execute(Filter(ids=(id,)), lambda *_: None)
    await world.run()

    context = (specimen.recorded["name"], is_changed, planned)
    fetched = [get.label for get in specimen.record_requests()] if specimen.recorded.get("requests") else []
    if planned.skip_reason:
        assert ([], []) == (visit_calls(world), world.api.request_headers), context
        return "skipped"
    if fetched:
        calls = [call for call, _ in (await world.ledger.load_task(planned.task_id)).attempts[-1].calls]
        assert fetched == [call.call for call in planned.calls], context
        assert not Counter(fetched) - Counter(calls), context
    else:
        assert sorted(planned_visit_calls(planned), key=str) == sorted(visit_calls(world), key=str), context
    return "executed"


@each_source
async def test_a_repeat_of_every_source_is_answered_200(world: SourceWorld, name: str) -> None:
    specimen = next(item for item in BY_TOOL[name] if isinstance(item.expect, list))
    world.configure_source(specimen)

    first, again = await world.receive(specimen), await world.receive(specimen)

    assert (202, 200) == (first.status_code, again.status_code)
    assert {"delivery": first.json()["delivery"], "repeat": True} == again.json()


@each_source
async def test_an_unsigned_delivery_of_every_source_is_rejected(world: SourceWorld, name: str) -> None:
    specimen = next(item for item in BY_TOOL[name] if isinstance(item.expect, list))
    world.configure_source(specimen)
    overrides = {"raw": b"{}"} if specimen.is_proof_in_body else {}
    unsigned = Specimen(
        specimen.tool, specimen.file, specimen.url, specimen.without(*specimen.signing_headers), specimen.recorded
    )

    response = await world.receive(unsigned, token="", **overrides)

    assert 401 == response.status_code
    assert [] == await world.redis.command("KEYS", "bell:delivery:*")


@each_source
async def test_handshakes_are_answered_and_nothing_is_stored(world: SourceWorld, name: str) -> None:
    for specimen in BY_TOOL[name]:
        if not (specimen.is_handshake or specimen.is_answered):
            continue
        world.configure_source(specimen)

        response = await world.receive(specimen)

        assert (200, specimen.expect.get("answer", "{}")) == (response.status_code, response.text), specimen.recorded[
            "name"
        ]
        if specimen.is_answered:
            unsigned = Specimen(
                specimen.tool,
                specimen.file,
                specimen.url,
                specimen.without(*specimen.signing_headers),
                specimen.recorded,
            )
            assert 401 == (await world.receive(unsigned, token="")).status_code
    assert [] == await world.redis.command("KEYS", "bell:delivery:*")


@every_source
async def test_only_the_probe_methods_of_a_tool_are_answered_200(world: SourceWorld, name: str) -> None:
    specimen = next(item for item in BY_TOOL[name] if isinstance(item.expect, list))
    world.configure_source(specimen)

    for method in ("GET", "HEAD", "PUT", "DELETE"):
        response = await world.receive(specimen, method=method)

        assert (200 if method in specimen.tool.definition.probe_methods else 405) == response.status_code, method


@each_source
async def test_events_of_foreign_tenants_are_ignored_and_not_stored(world: SourceWorld, name: str) -> None:
    if not TOOLS[name].definition.tenant_of:
        return
    specimen = next(item for item in BY_TOOL[name] if isinstance(item.expect, list))
    world.configure_source(specimen, **{f"HOOKS__{name.upper()}__TENANTS": "somebody-else"})

    response = await world.receive(specimen)

    assert (200, "foreign_tenant") == (response.status_code, response.json().get("ignored"))
    assert [] == await world.redis.command("KEYS", "*")


@every_source
async def test_an_exchanged_token_is_sent_with_record_requests(world: SourceWorld, name: str) -> None:
    exchange = TOOLS[name].definition.token_exchange
    if exchange is None or TOOLS[name].fetch is None:
        return
    specimen = next(item for item in BY_TOOL[name] if item.recorded.get("requests") and isinstance(item.expect, list))
    hook = f"HOOKS__{name.upper()}__"
    world.configure_source(specimen, **{f"{hook}CREDENTIALS__TOKEN": "", f"{hook}TOKEN_URL": f"{world.url}/token"})
    world.api.add_records(specimen)
    token: Any = "a-fresh-token"
    for key in reversed(exchange.token_path):
        token = {key: token}
    world.api.token = token

    await world.receive(specimen)
    await world.run()

    token_request, *records = world.api.request_headers
    assert not any("a-fresh-token" in value for value in token_request.values())
    assert records
    assert all(any("a-fresh-token" in value for value in headers.values()) for headers in records)
