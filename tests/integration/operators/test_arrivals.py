"""Requests as they arrive, for an event that refers to a record."""

import asyncio
from contextlib import aclosing

from app.ledger.redis import Redis
from app.operators.arrivals import Arrivals
from app.operators.explain import ALL_FIELDS, Explain
from jobs.translate_event import run_event
from tests.support.tool_api import SPECIMENS, ToolWorld

BOOKING = SPECIMENS["acuity"]["deliveries"][0]


async def test_an_event_whose_record_is_fetched_is_shown_again_with_its_meaning(tool_world: ToolWorld) -> None:
    world, settings = tool_world, tool_world.context.settings
    world.tool.add_records("acuity", BOOKING)
    arrivals = Arrivals(world.ledger, settings, "acuity", Explain(world.ledger, settings, ALL_FIELDS))
    subscriber = Redis(world.redis.address)

    async with asyncio.timeout(10), aclosing(arrivals.follow(subscriber)) as followed:
        first = asyncio.create_task(anext(followed))
        while b"acuity" not in await world.redis.command("ZRANGE", "bell:listening", 0, -1):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # the subscription
        delivery = (await world.receive("acuity", BOOKING)).json()["delivery"]
        pending = await first
        await run_event(world.context, delivery)
        translated = await anext(followed)
    await subscriber.close()

    assert (True, [], "a worker fetches its record") == (
        pending.is_pending,
        pending.visits,
        pending.note,
    )
    [visit] = translated.visits
    assert "books acuity-123456789 for Ada Lovelace: booked for 2026-10-01T15:00:00Z, amount 75.50" == visit["meaning"]
    assert "ada@example.com" == visit["fields"]["contact.email"]
    assert (delivery, delivery, False) == (pending.delivery, translated.delivery, translated.is_pending)
