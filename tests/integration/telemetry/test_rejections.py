"""Rejections are recorded in memory, and written to Redis later."""

from app.ledger.redis import Redis
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
