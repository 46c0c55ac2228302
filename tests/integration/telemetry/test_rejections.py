"""Rejections are recorded in memory, and written to Redis later."""

import asyncio

from app.ledger.ledger import Ledger
from app.ledger.redis import Redis
from app.operators.feed import new_rejections
from app.telemetry.rejections import Rejections, newest


async def test_the_newest_rejections_that_cannot_be_written_stay_for_the_next_flush(redis: Redis) -> None:
    rejections = Rejections(redis)
    await redis.command("SET", "bell:rejections:standard", "not a list")
    rejections.record("standard", "signature_mismatch", "first")
    await rejections.flush()
    rejections.record("standard", "signature_mismatch", "second")
    await redis.command("DEL", "bell:rejections:standard")

    await rejections.flush()

    assert ["second", "first"] == [note["detail"] for note in await newest(redis, ["standard"])]


async def test_each_rejection_is_followed_when_processes_store_them_in_another_order(
    redis: Redis, ledger: Ledger
) -> None:
    late, early = Rejections(redis), Rejections(redis)
    following = new_rejections(ledger, lambda: ["standard"])
    first = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0.05)
    for _ in range(2):
        late.record("standard", "signature_mismatch", "older")
    await asyncio.sleep(0.01)
    early.record("standard", "signature_mismatch", "newer")

    await early.flush()
    details = [(await first)["detail"]]
    await late.flush()
    details += [(await anext(following))["detail"] for _ in range(2)]

    assert ["newer", "older", "older"] == details
