"""/metrics in Prometheus' text format. The counts live in Redis, so that any process of any machine answers the same."""

from collections.abc import Iterator

from app.alarms import Due, due
from app.ledger import Ledger
from app.settings import Settings

CONTENT_TYPE = "text/plain; version=0.0.4"
#: What dashboards of queues call it.
LABELS = {"queued": "ready"}
STATES = ("queued", "running", "waiting", "parked", "discarded")


async def exposition(ledger: Ledger, settings: Settings) -> str:
    """Raises RedisDown."""
    redis = ledger.redis
    sizes = {state: await redis.command("ZCARD", f"db:{state}") for state in STATES}
    held = [await redis.command("ZCARD", f"db:held:{account}") for account in settings.tokens or {"main": ""}]
    refused = await redis.command("HGETALL", "db:refused")
    work = await due(redis, settings.tokens)
    lines = _lines(sizes | {"held": sum(held)}, work, dict(zip(refused[::2], refused[1::2], strict=True)))
    return "\n".join(lines) + "\n"


def _lines(sizes: dict[str, int], work: Due, refused: dict[bytes, bytes]) -> Iterator[str]:
    yield "# TYPE doorbell_queue_jobs gauge"
    for state, size in sizes.items():
        yield f'doorbell_queue_jobs{{state="{state}"}} {size}'
    yield "# TYPE doorbell_queue_oldest_age_seconds gauge"
    for state, age_s in work.ages_s.items():
        yield f'doorbell_queue_oldest_age_seconds{{state="{LABELS.get(state, state)}"}} {age_s:.3f}'
    yield "# TYPE doorbell_queue_no_progress_seconds gauge"
    yield f"doorbell_queue_no_progress_seconds {work.no_progress_s:.3f}"
    yield "# TYPE doorbell_webhook_refused_total counter"
    for field, count in refused.items():
        hook, _, reason = field.decode().rpartition(":")
        yield f'doorbell_webhook_refused_total{{hook="{hook}",reason="{reason}"}} {count.decode()}'
