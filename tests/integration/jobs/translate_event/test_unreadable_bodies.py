"""Bodies that this worker cannot read, such as those of a newer version during a deploy."""

from dataclasses import replace

import pytest

from app.ledger.ids import delivery_key
from app.ledger.ledger import Ledger
from jobs import translate_event
from tests.support.tool_api import BOOKED, ToolWorld

NEW_KEY = "a-new-body-key-of-the-tests"


async def test_an_event_waits_while_a_newer_process_encrypts_with_a_key_that_this_worker_lacks(
    world: ToolWorld,
) -> None:
    old, new = world.ledger, Ledger(world.redis, 30, [NEW_KEY])
    world.ledger = new
    response = await world.receive("acuity", BOOKED)
    world.tool.add_records("acuity", BOOKED)
    world.ledger = old
    await world.run()
    early = await world.load_event(response)
    world.context = replace(world.context, ledger=new)
    await world.advance_time(25)
    await world.run()

    assert early.state == "waiting"
    assert early.reason.startswith("body_key_unknown: its body is encrypted with a key that BODY_KEYS lacks")
    assert "done" == (await world.load_event(response)).state


async def test_an_event_waits_while_a_newer_process_compresses_with_a_dictionary_that_this_worker_lacks(
    world: ToolWorld,
) -> None:
    response = await world.receive("acuity", BOOKED)
    key = delivery_key(response.json()["delivery"])
    head, _, body = (await world.redis.command("GET", key)).partition(b"\n")
    await world.redis.command("SET", key, head + b"\n\x02\xde\xad\xbe\xef" + body[5:])
    await world.run()

    event = await world.load_event(response)
    assert "waiting" == event.state
    assert "newer_version: a newer version of Doorbell compressed its body (dictionary deadbeef)" == event.reason


async def test_an_event_that_is_unreadable_after_a_deploy_needs_an_operator(
    world: ToolWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(translate_event, "DEPLOY_S", 0)
    old = world.ledger
    world.ledger = Ledger(world.redis, 30, [NEW_KEY])
    response = await world.receive("acuity", BOOKED)
    world.ledger = old
    await world.run()

    event = await world.load_event(response)
    assert ("parked", "body_key_unknown") == (event.state, event.reason.partition(":")[0])
