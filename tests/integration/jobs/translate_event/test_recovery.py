"""Bugs in a source, and workers that die."""

import asyncio
import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from starlette.responses import Response

from app.ledger.locks import KeyedLocks
from tests.support.tool_api import BOOKED, MOVED, ToolWorld


async def test_a_bug_in_a_source_parks_the_event_and_quotes_nothing(world: ToolWorld, logged: list[Any]) -> None:
    def broken(_: object) -> Any:
        raise ValueError("invalid literal: 'ada@example.com'")

    response = await world.receive("acuity", BOOKED)
    world.tool.add_records("acuity", BOOKED)
    hook = world.context.settings.active_hooks["acuity"]
    world.context.settings.active_hooks["acuity"] = replace(hook, source=hook.source._replace(translate=broken))

    await world.run()

    event = await world.load_event(response)
    assert ("parked", "internal_error") == (event.state, event.reason)
    [bug] = [line for line in logged if line["event"] == "unhandled_exception"]
    assert bug["error"].startswith("ValueError at test_recovery.py:")
    assert "ada@" not in json.dumps(logged, default=str)


@pytest.mark.parametrize("charset", ["base64", "idna", "no-such-charset"])
async def test_an_error_in_any_charset_is_a_server_error(world: ToolWorld, charset: str) -> None:
    headers = {"content-type": f"text/plain; charset={charset}"}
    world.tool.overrides = [lambda _: Response(b"\xff\xfebroken", 500, headers=headers)]

    response = await world.receive("acuity", BOOKED)
    await world.run()

    event = await world.load_event(response)
    assert ("waiting", "GET appointments: 500") == (event.state, event.reason)


async def test_the_event_of_a_dead_worker_is_fetched_by_another(world: ToolWorld) -> None:
    world.tool.add_records("acuity", BOOKED)
    world.tool.response_gate.clear()
    response = await world.receive("acuity", BOOKED)
    fetching = asyncio.create_task(world.run_task(f"event:{response.json()['delivery']}"))
    await world.wait_for_requests(1)
    fetching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await fetching
    world.tool.response_gate.set()

    immediately = await world.run()
    await world.advance_time(60)
    await world.run()

    assert [] == immediately
    assert ["acuity-123456789"] == [visit["external_id"] for visit in world.harness.visits()]


async def test_a_run_that_lost_its_lease_stores_no_changes(world: ToolWorld) -> None:
    world.tool.add_records("acuity", BOOKED)
    world.tool.response_gate.clear()
    response = await world.receive("acuity", BOOKED)
    fetching = asyncio.create_task(world.run_task(f"event:{response.json()['delivery']}"))
    await world.wait_for_requests(1)
    await world.advance_time(60)
    world.tool.add_records("acuity", MOVED)
    world.context = replace(world.context, locks=KeyedLocks())  # another worker
    second = asyncio.create_task(world.run())
    await world.wait_for_requests(2)
    world.tool.response_gate.set()

    await asyncio.gather(fetching, second)
    await world.run()

    assert ["2026-10-02T16:00:00Z"] == [visit["time_scheduled"] for visit in world.harness.visits()]
    assert 1 == len((await world.load_event(response)).attempts)
