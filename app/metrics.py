"""/metrics in Prometheus' text format. The counts live in Redis, so that any process of any machine answers the same."""

import time
from collections.abc import Iterator

from app.ledger import Ledger
from app.settings import Settings

CONTENT_TYPE = "text/plain; version=0.0.4"
STATES = ("queued", "running", "waiting", "parked", "discarded")


async def exposition(ledger: Ledger, settings: Settings) -> str:
    """Raises RedisDown."""
    redis, now_ms = ledger.redis, time.time() * 1000
    sizes = {state: await redis.command("ZCARD", f"db:{state}") for state in STATES}
    held = [await redis.command("ZCARD", f"db:held:{account}") for account in settings.tokens or {"main": ""}]
    oldest = await redis.command("ZRANGE", "db:queued", 0, 0, "WITHSCORES")
    refused = await redis.command("HGETALL", "db:refused")
    age_s = max(0.0, now_ms - float(oldest[1])) / 1000 if oldest else 0.0
    return (
        "\n".join(_lines(sizes | {"held": sum(held)}, age_s, dict(zip(refused[::2], refused[1::2], strict=True))))
        + "\n"
    )


def _lines(sizes: dict[str, int], age_s: float, refused: dict[bytes, bytes]) -> Iterator[str]:
    yield "# TYPE doorbell_queue_jobs gauge"
    for state, size in sizes.items():
        yield f'doorbell_queue_jobs{{state="{state}"}} {size}'
    yield "# TYPE doorbell_queue_oldest_age_seconds gauge"
    yield f'doorbell_queue_oldest_age_seconds{{state="ready"}} {age_s:.3f}'
    yield "# TYPE doorbell_webhook_refused_total counter"
    for field, count in refused.items():
        hook, _, reason = field.decode().rpartition(":")
        yield f'doorbell_webhook_refused_total{{hook="{hook}",reason="{reason}"}} {count.decode()}'
