"""When a hook is silent: no webhook has arrived for longer than is usual for it. `silence_limit_s` is the rule."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from app.ledger import keys
from app.ledger.ids import is_listed
from app.ledger.ledger import long_gaps
from app.ledger.redis import Redis
from app.ledger.times import humanize
from app.settings.model import Settings
from app.telemetry.alert_rules import WINDOW_S
from app.telemetry.rejections import mismatch_times

HOUR_S, DAY_S = 3_600.0, 86_400.0
#: The number of gaps between recent deliveries to read, and the number without which nothing is usual.
MAX_GAPS, MIN_GAPS = 200, 10
#: The history of a hook with more deliveries than that. It has several weekends.
HISTORY_S = 28 * DAY_S
#: After this history, a gap is usual only if there was a second one of this length.
RECURRING_AFTER_S = 14 * DAY_S
#: How much longer than its longest usual gap a silence is, if that gap is shorter than a day, and if it is not.
FACTOR, LONG_FACTOR = 3.0, 1.5
#: The most deliveries to read at once and in total, in search of webhooks: an import may have stored many.
PAGE, MAX_READ = MAX_GAPS + 1, 50 * (MAX_GAPS + 1)


@dataclass(frozen=True, slots=True)
class Silence:
    """silent_s: the time since the last webhook. usual_s: the longest usual gap; None if there were too few to know."""

    silent_s: float
    usual_s: float | None

    def __str__(self) -> str:
        usual = (
            f"its longest usual gap is {humanize(self.usual_s)}"
            if self.usual_s is not None
            else "too few arrived before to know what is usual"
        )
        return f"nothing has arrived for {humanize(self.silent_s)}; {usual}"


def usual_gap_s(gaps: Sequence[float], history_s: float) -> float | None:
    """Return the longest usual gap between the deliveries of a hook; None if there are too few to know.

    gaps: all of them, or at least the long ones. history_s: the time from the first delivery to the last. An outage, or a
    holiday, is not usual. A weekend is: in two weeks there are two.
    """
    if len(gaps) < MIN_GAPS:
        return max(gaps) if gaps and max(gaps) >= DAY_S else None
    return sorted(gaps)[-2 if history_s >= RECURRING_AFTER_S else -1]


def silence_limit_s(usual_s: float | None) -> float:
    """Return after how long without a delivery a hook is silent. usual_s: its longest usual gap.

    Gaps vary, so this is three times the longest one; an hour at the earliest, and a day at the latest. If gaps of a day or
    more are usual, because a business is closed on Sundays or has few appointments, it is one and a half times the
    longest one: a normal weekend must not alert, and three times would alert too late.
    """
    if usual_s is None:
        return DAY_S
    if usual_s >= DAY_S:
        return LONG_FACTOR * usual_s
    return min(DAY_S, max(HOUR_S, FACTOR * usual_s))


async def find_silence(redis: Redis, hook: str, times: Sequence[float]) -> Silence | None:
    """Return the silence of a hook; None if it is not silent. times: as `delivery_times` returns them."""
    if not times or (silent_s := time.time() - times[0]) < HOUR_S:
        return None
    gaps, oldest = [later - earlier for later, earlier in pairwise(times)], times[-1]
    if len(times) > MAX_GAPS and times[0] - oldest < HISTORY_S:
        shortest = max(HOUR_S, silent_s) / FACTOR  # a shorter one does not matter
        oldest, older = await long_gaps(redis, hook, oldest, times[0] - HISTORY_S, shortest)
        gaps += older
    usual_s = usual_gap_s(gaps, times[0] - oldest)
    return Silence(silent_s, usual_s) if silent_s >= silence_limit_s(usual_s) else None


async def bad_signatures(redis: Redis, hook: str) -> int:
    """Return how many requests of the last WINDOW_S had a wrong signature since the last webhook; 0 if that is not overdue.

    Scanners send wrong signatures while webhooks arrive, and to hooks that have never received any.
    """
    times, now = await delivery_times(redis, hook), time.time()
    gaps = [later - earlier for later, earlier in pairwise(times)]
    if not gaps or now - times[0] <= median(gaps):
        return 0
    return len(await mismatch_times(redis, hook, 1000 * max(times[0], now - WINDOW_S)))


async def delivery_times(redis: Redis, hook: str) -> list[float]:
    """Return the times of the last webhooks in seconds since 1970, newest first. Raises RedisUnavailable.

    Doorbell's own deliveries, from a tool's list, say nothing about its webhooks.
    """
    times = list[float]()
    for start in range(0, MAX_READ, PAGE):
        flat = await redis.command("ZREVRANGE", f"{keys.DELIVERIES}{hook}", start, start + PAGE - 1, "WITHSCORES")
        pairs = zip(flat[::2], flat[1::2], strict=True)
        times += [float(score) / 1000 for id, score in pairs if not is_listed(id.decode())]
        if len(times) > MAX_GAPS or len(flat) < 2 * PAGE:
            break
    return times[: MAX_GAPS + 1]


async def last_delivery_times(redis: Redis, settings: Settings) -> dict[str, float | None]:
    """Return the time of each hook's last delivery, in ms."""
    hooks = list(settings.active_hooks)
    times = await asyncio.gather(*(delivery_times(redis, hook) for hook in hooks))
    return {hook: newest[0] * 1000 if newest else None for hook, newest in zip(hooks, times, strict=True)}
