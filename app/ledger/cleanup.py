"""Removes expired members from lists that have no expiry of their own."""

from datetime import UTC, datetime, timedelta

from app.ledger import keys
from app.ledger.keys import OPERATIONS_KEY, OPERATIONS_TTL_S
from app.ledger.ledger import Ledger

#: For all workers together.
TRIM_INTERVAL_S = 3_600


async def trim_deliveries(ledger: Ledger, limit: int = 1_000) -> int:
    """Remove expired deliveries from the lists of all hooks, also of removed hooks. Return how many.

    Also removes expired visits from the lists of days. One worker does it once an hour, `limit` members per script. Raises
    RedisUnavailable.
    """
    trimmed_total = 0
    [is_first] = await ledger.redis.commands(("SET", keys.CLEANUP, 1, "NX", "EX", TRIM_INTERVAL_S))
    if not is_first:
        return 0
    while await ledger.trim(OPERATIONS_KEY, OPERATIONS_TTL_S * 1_000, limit) >= limit:
        pass
    for hook in await ledger.hook_names():
        trimmed = limit
        while trimmed >= limit:
            trimmed = await ledger.trim(f"{keys.DELIVERIES}{hook}", limit=limit)
            trimmed_total += trimmed
    await _trim_visit_days(ledger)
    return trimmed_total


#: The date of a visit that is later than this is probably wrong. Such a visit expires long before its day.
MAX_DAYS_AHEAD = 2 * 366


async def _trim_visit_days(ledger: Ledger) -> None:
    """Remove expired visits from the lists of days that are past, or too far ahead."""
    now = datetime.now(UTC)
    first, last = (now - ledger.retention).date(), (now + timedelta(MAX_DAYS_AHEAD)).date()
    for day in await ledger.visit_days():
        if not first.isoformat() <= day <= last.isoformat():
            await ledger.trim_visit_day(day)
