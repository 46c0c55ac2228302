"""Changes of payloads are noticed once: a new word, a new field, a field that stops."""

import asyncio
import copy
import json
import time
from typing import Any

import pytest

from app.ledger.ledger import Ledger
from app.ledger.records import DeliveryInfo, NewDelivery
from app.ledger.redis import Redis
from app.operators.actions import Actions, Actor
from app.operators.activity_log import ActivityLog
from app.operators.filter import ActivityFilter
from app.operators.overview import load_overview
from app.settings.environment import read_environment
from app.settings.model import Settings
from app.telemetry import payload_watch
from app.telemetry.alerts import AlertMonitor
from app.telemetry.payload_watch import (
    ALWAYS,
    LEARNING,
    MAX_SAMPLES,
    MISSED,
    PayloadWatch,
    Samples,
    payload_changes,
    undocumented_fields,
)
from app.webhooks.delivery import Delivery
from app.webhooks.registry import load_sources
from jobs.translate_event import run_event
from tests.support.specimens import BY_TOOL, deliveries, events
from tests.support.tool_api import SPECIMENS, ToolWorld

BOOKED = next(each for each in events("calendly") if "books and pays" in each.recorded["name"])


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return read_environment({"REDIS_URL": redis_url, "HOOKS__CALENDLY__SECRETS": "a-signing-key-of-tests"})


@pytest.fixture
def watch(ledger: Ledger, settings: Settings) -> PayloadWatch:
    return PayloadWatch(ledger, settings, Samples())


async def accept(ledger: Ledger, body: Any, source: str = "calendly", is_listed: bool = False) -> str:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    delivery = Delivery(source, source, (), raw, BOOKED.delivery.received_at)
    info = DeliveryInfo(source, source, int(time.time() * 1000))
    dedup_id = str(time.monotonic_ns())
    return (
        await ledger.accept(NewDelivery(delivery, info, [], "main", dedup_id=dedup_id, is_listed=is_listed))
    ).delivery_id


async def accept_many(ledger: Ledger, watch: PayloadWatch, count: int, body: Any) -> None:
    """Accept deliveries, with a look of the watch at each batch of its sample."""
    for number in range(count):
        await accept(ledger, body)
        if number % (MAX_SAMPLES // 2) == 0:
            await step(watch)
    await step(watch)


async def step(watch: PayloadWatch) -> None:
    await asyncio.sleep(0.002)  # the next delivery has another time
    await watch.step()


def booked(**payload: Any) -> Any:
    body = json.loads(BOOKED.delivery.body)
    return {**body, "payload": {**body["payload"], **payload}}


async def sentences(redis: Redis) -> list[str]:
    return [change.sentence for change in await payload_changes(redis)]


async def test_a_new_status_is_noticed_once_with_its_delivery(
    ledger: Ledger, watch: PayloadWatch, logged: list[Any]
) -> None:
    id = await accept(ledger, booked(status="tentative"))
    await step(watch)
    await accept(ledger, booked(status="tentative"))
    await step(watch)

    [change] = await payload_changes(ledger.redis)
    assert ("calendly", "invitee.created", "tentative", id) == (
        change.source,
        change.kind,
        change.word,
        change.delivery,
    )
    assert "`payload.status` has the new word `tentative`" == change.sentence
    [line] = [line for line in logged if line["event"] == "payload_changed"]
    assert ("payload.status", "tentative", id) == (line["path"], line["word"], line["delivery"])


async def test_an_appointment_in_a_list_of_the_tool_is_no_payload(ledger: Ledger, watch: PayloadWatch) -> None:
    await accept(ledger, booked(status="tentative"), is_listed=True)
    await step(watch)

    assert [] == await payload_changes(ledger.redis)


async def test_a_new_field_is_noticed_after_the_first_deliveries(ledger: Ledger, watch: PayloadWatch) -> None:
    await accept_many(ledger, watch, LEARNING, booked(undocumented={"since": "always"}))
    assert [] == await sentences(ledger.redis)
    assert {"payload.undocumented", "payload.undocumented.since"} == set(
        await undocumented_fields(ledger.redis, "calendly")
    )

    await accept(ledger, booked(loyalty={"level": "gold", "points": 5}))
    await step(watch)

    assert ["the new field `payload.loyalty` came"] == await sentences(ledger.redis)


async def test_a_field_that_always_came_and_stops_is_noticed(ledger: Ledger, watch: PayloadWatch) -> None:
    await accept_many(ledger, watch, ALWAYS, booked())
    body = booked()
    del body["payload"]["scheduled_event"]

    for _ in range(MISSED - 1):
        await accept(ledger, body)
    await step(watch)
    assert [] == await sentences(ledger.redis)
    last = await accept(ledger, body)
    await step(watch)

    [change] = await payload_changes(ledger.redis)
    assert ("the field `payload.scheduled_event`, which always came, stopped", last) == (
        change.sentence,
        change.delivery,
    )


async def test_a_field_that_comes_sometimes_is_no_change(ledger: Ledger, watch: PayloadWatch) -> None:
    body = booked()
    del body["payload"]["payment"]
    for _ in range(ALWAYS):
        await accept_many(ledger, watch, 1, booked())
        await accept_many(ledger, watch, 1, body)

    assert [] == await sentences(ledger.redis)


@pytest.mark.parametrize("source", load_sources())
async def test_a_first_deployment_says_nothing_about_documented_payloads(
    ledger: Ledger, settings: Settings, source: str
) -> None:
    hook = f"HOOKS__{source.upper()}__"
    tool = BY_TOOL[source][0]
    env = {
        "REDIS_URL": str(settings.redis_url),
        "SECRET_KEY": "secret-key-of-the-tests-0123456789",
        "PUBLIC_URL": "https://hooks.example.com",
        f"{hook}SECRETS": tool.secret,
        f"{hook}API_URL": "http://127.0.0.1:9",
        f"{hook}TOKEN_URL": "http://127.0.0.1:9" if load_sources()[source].definition.token_exchange else "",
        f"{hook}TIMEZONE": tool.setting("timezone"),
        f"{hook}TENANTS": tool.setting("tenants"),
    }
    settings = read_environment({name: value for name, value in env.items() if value})
    samples = Samples()
    watch = PayloadWatch(ledger, settings, samples)
    for specimen in deliveries(source):
        await accept(ledger, specimen.delivery.body, source)
        for record in specimen.recorded.get("records", {}).values():
            samples.add_record(source, "GET record", record, "d1")
        await step(watch)

    assert [] == await sentences(ledger.redis)
    stored = ""
    for key in await ledger.redis.command("KEYS", "bell:payload*"):
        stored += str(await ledger.redis.command("HGETALL", key))
    personal = {
        value
        for specimen in events(source)
        if isinstance(specimen.expect, list)
        for change in specimen.expect
        for name, value in change.get("contact", {}).items()
        if name != "id" and value
    }
    assert [] == [value for value in personal if f'"{value}"' in stored or f".{value}" in stored]


async def test_one_look_reads_a_bounded_number_of_deliveries(
    ledger: Ledger, watch: PayloadWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    original = ledger.load_delivery
    monkeypatch.setattr(ledger, "load_delivery", lambda id: loaded.append(id) or original(id))
    for _ in range(3 * MAX_SAMPLES):
        await accept(ledger, booked())

    await step(watch)
    await step(watch)

    assert MAX_SAMPLES == len(loaded)


async def test_what_is_stored_of_a_source_is_bounded(
    ledger: Ledger, watch: PayloadWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload_watch, "MAX_LEARNED", 40)
    for number in range(5):
        await accept(ledger, booked(**{f"field_{letter}_{chr(97 + number)}": 1 for letter in "abcdefghijkl"}))
        await step(watch)

    assert 36 == len(await undocumented_fields(ledger.redis, "calendly"))
    [key] = await ledger.redis.command("KEYS", "bell:payload:calendly:*")
    assert 0 < await ledger.redis.command("TTL", key) <= payload_watch.STATE_TTL_S


async def test_an_object_whose_names_are_values_is_no_list_of_new_fields(ledger: Ledger, watch: PayloadWatch) -> None:
    await accept_many(ledger, watch, LEARNING, booked())
    names = [f"{first}{second}" for first in "abcdefghij" for second in "klmnopqrst"]
    for start in range(0, 100, 10):
        await accept(ledger, booked(byroom=dict.fromkeys(names[start : start + 10], 1)))
        await step(watch)

    assert {"the new field `payload.byroom` came", "new fields in `payload.byroom` came"} == set(
        await sentences(ledger.redis)
    )
    assert len(await undocumented_fields(ledger.redis, "calendly")) < 50


async def test_a_new_event_is_noticed(ledger: Ledger, watch: PayloadWatch) -> None:
    await accept(ledger, {**booked(), "event": "invitee.moved"})
    await step(watch)

    assert ["`event` has the new word `invitee.moved`"] == await sentences(ledger.redis)


async def test_records_of_thin_events_are_watched_too(tool_world: ToolWorld) -> None:
    recorded = copy.deepcopy(SPECIMENS["square"]["deliveries"])
    recorded = next(each for each in recorded if each.get("records"))
    tool_world.tool.add_records("square", recorded)
    response = await tool_world.receive("square", recorded)
    await run_event(tool_world.context, response.json()["delivery"])

    [sample, *_] = tool_world.context.payload_samples.take()

    assert ("square", response.json()["delivery"]) == (sample.source, sample.delivery)
    assert sample.shape.paths


async def test_the_watch_begins_again_when_the_module_changes(
    ledger: Ledger, watch: PayloadWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accept(ledger, booked(status="tentative"))
    await step(watch)

    monkeypatch.setattr(payload_watch, "source_version", lambda _: "another")

    assert [] == await sentences(ledger.redis)
    assert [] == await undocumented_fields(ledger.redis, "calendly")


async def test_an_operator_acknowledges_and_the_alert_ends(
    ledger: Ledger, watch: PayloadWatch, settings: Settings
) -> None:
    await accept(ledger, booked(status="tentative"))
    await step(watch)
    alerts = AlertMonitor(ledger.redis, settings)
    before = dict(await alerts._current_alerts())
    overview = await load_overview(ledger, settings)

    count = await Actions(ledger, settings, Actor("ada", "operator")).acknowledge_payload_changes("calendly")

    assert 1 == count
    [text] = [text for key, text in before.items() if key.startswith("payload calendly ")]
    assert "calendly changed its payloads. Unacknowledged changes: 1." in text
    assert "`payload.status` has the new word `tentative` (delivery d" in text
    assert not [key for key, _ in await alerts._current_alerts() if key.startswith("payload")]
    [problem] = [each for each in overview.problems() if each.kind == "payload"]
    assert "Calendly changed its payloads: payload.status has the new word tentative." == problem.sentence
    assert not [each for each in (await load_overview(ledger, settings)).problems() if each.kind == "payload"]
    [change] = await payload_changes(ledger.redis)
    assert "ada" == change.acknowledged_by
    page = await ActivityLog(ledger).newest(ActivityFilter())
    assert [("acknowledged payload changes", "calendly: 1")] == [(row.action, row.target) for row in page.rows]
    assert 0 == await Actions(ledger, settings, Actor("ada", "operator")).acknowledge_payload_changes("calendly")
