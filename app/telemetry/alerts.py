"""Alarms to ALERT_WEBHOOK_URL, in Slack's form: one message when something begins, one when it is over.

Workers look, one of them at a time; a web process looks when no worker lives. What is on, and the counts of the last ten
minutes, stand in `bell:alerts`. A message that was not taken is sent again at the next look.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

import httpx
import orjson

from app.ledger import keys
from app.ledger.ledger import take_turn
from app.ledger.redis import Redis, RedisUnavailable
from app.settings.model import Settings
from app.telemetry.health import STALE_AFTER_S, WORKER_ALIVE_S, load_backlog
from app.telemetry.logs import log
from app.telemetry.rejections import mismatch_times

CHECK_EVERY_S = 10.0
STATE_TTL_MS = 7 * 86_400_000
POST_TIMEOUT_S = 5.0
#: The period over which counts are compared, and the interval between samples.
WINDOW_S, SAMPLE_EVERY_S = 600.0, 30.0
#: So many wrong signatures since the last genuine delivery, which is longer ago than usual, and somebody has changed a
#: secret. Of what has no signature of the right shape, or comes beside genuine deliveries, strangers are the cause.
MIN_BAD_SIGNATURES = 3
#: A source is silent after three times the longest gap between its last deliveries, and not before this time. A source
#: with fewer deliveries than this has no usual gap yet.
MAX_GAPS, SILENCE_FACTOR, MIN_GAP_S, MIN_GAPS = 200, 3, 1_200.0, 10
FULL_FRACTION = 0.8


@dataclass(slots=True)
class Sample:
    """Counts at one time."""

    at: float
    parked: int


@dataclass(slots=True)
class AlertState:
    """on: sentences by the name of the alarm."""

    active: dict[str, str] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    @classmethod
    def decode(cls, stored: bytes | None) -> "AlertState":
        told: dict[str, Any] = orjson.loads(stored or b"{}")
        return cls(told.get("active", {}), [Sample(one["at"], one["parked"]) for one in told.get("samples", [])])


class AlertMonitor:
    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis, self._settings = redis, settings

    async def run(self, *, is_worker: bool) -> None:
        """For ever, if there is anybody to tell."""
        while self._settings.alert_webhook_url:
            await asyncio.sleep(CHECK_EVERY_S)
            try:
                if is_worker or not await self._count_live_workers():
                    await self.check()
            except RedisUnavailable as error:
                log.warning("redis_unavailable", reason=str(error))
            except Exception:
                log.exception("unhandled_exception")

    async def check(self) -> None:
        """Once, unless somebody else just did. Raises RedisUnavailable."""
        if not await take_turn(self._redis, keys.ALERTS_LOCK, CHECK_EVERY_S * 0.9):
            return
        before = AlertState.decode(await self._redis.command("GET", keys.ALERTS))
        now = await self._sample()
        window = [seen for seen in before.samples if now.at - seen.at < WINDOW_S + SAMPLE_EVERY_S]
        on = dict([*self._sample_alerts(window, now), *await self._current_alerts()])
        if not window or now.at - window[-1].at >= SAMPLE_EVERY_S:
            window.append(now)
        told = on if await self._notify(before.active, on) else before.active
        await self._redis.commands(("SET", keys.ALERTS, orjson.dumps(AlertState(told, window)), "PX", STATE_TTL_MS))

    async def _count_live_workers(self) -> int:
        seconds, _ = await self._redis.command("TIME")  # the beats are by the server's clock
        return int(await self._redis.command("ZCOUNT", keys.WORKERS, (int(seconds) - WORKER_ALIVE_S) * 1000, "+inf"))

    async def _sample(self) -> Sample:
        return Sample(time.time(), await self._redis.command("ZCARD", keys.PARKED))

    # -- what may be the matter --

    def _sample_alerts(self, window: list[Sample], now: Sample) -> Iterator[tuple[str, str]]:
        """What has changed in the last ten minutes."""
        if not window:
            return
        new = now.parked - min(seen.parked for seen in window)
        if new > 0:
            yield "parked", f"{new} more need an operator; now it is {now.parked}."

    async def _current_alerts(self) -> list[tuple[str, str]]:
        redis, found = self._redis, list[tuple[str, str]]()
        work = await load_backlog(redis, self._settings.tokens or {"main": ""})
        if work.oldest_s > STALE_AFTER_S:
            found.append(
                ("oldest", f"The oldest work that is due has waited for more than {STALE_AFTER_S:.0f} seconds.")
            )
        if not await self._count_live_workers():
            found.append(("workers", "No worker is running: deliveries are accepted, but wait."))
        told = dict(
            line.split(":", 1) for line in (await redis.command("INFO", "memory")).decode().splitlines() if ":" in line
        )
        used, most = int(told["used_memory"]), int(told.get("maxmemory", 0))
        if most and used > FULL_FRACTION * most:
            found.append(("memory", f"Redis is more than {FULL_FRACTION:.0%} full; when it is full, tools get 503."))
        for hook in self._settings.active_hooks:
            times = await self._delivery_times(hook)
            found += filter(None, (self._silence_alert(hook, times), await self._signature_alert(hook, times)))
        return found

    async def _delivery_times(self, hook: str) -> list[float]:
        """When the last deliveries came, the newest first."""
        flat = await self._redis.command("ZREVRANGE", f"{keys.DELIVERIES}{hook}", 0, MAX_GAPS, "WITHSCORES")
        return [float(score) / 1000 for score in flat[1::2]]

    async def _signature_alert(self, hook: str, times: Sequence[float]) -> tuple[str, str] | None:
        gaps = [later - sooner for later, sooner in pairwise(times)]
        now = time.time()
        if not gaps or now - times[0] <= median(gaps):
            return None
        bad = await mismatch_times(self._redis, hook, 1000 * max(times[0], now - WINDOW_S))
        if len(bad) < MIN_BAD_SIGNATURES:
            return None
        told = f"{hook}: {len(bad)} requests had a wrong signature, and no genuine delivery came meanwhile"
        return f"signatures {hook}", f"{told}. Was its secret changed?"

    def _silence_alert(self, hook: str, times: Sequence[float]) -> tuple[str, str] | None:
        gaps = [later - sooner for later, sooner in pairwise(times)]
        if len(gaps) < MIN_GAPS:
            return None
        usual_s = max(MIN_GAP_S, *gaps)
        if time.time() - times[0] < SILENCE_FACTOR * usual_s:
            return None
        return f"silent {hook}", f"{hook} has been silent for more than {SILENCE_FACTOR} times its usual gap."

    # -- telling --

    async def _notify(self, before: dict[str, str], on: dict[str, str]) -> bool:
        """Whether everything was taken that there was to say."""
        begun = [f":rotating_light: {sentence}" for name, sentence in on.items() if name not in before]
        over = [f":white_check_mark: Over: {sentence}" for name, sentence in before.items() if name not in on]
        if not begun and not over:
            return True
        where = f"\n{self._settings.public_url}/console" if self._settings.public_url else ""
        text = "\n".join(["*Doorbell*", *begun, *over]) + where
        try:
            async with (
                httpx.AsyncClient(timeout=POST_TIMEOUT_S, trust_env=False) as http,
                asyncio.timeout(POST_TIMEOUT_S),
                http.stream("POST", str(self._settings.alert_webhook_url), json={"text": text}) as answer,
            ):
                pass  # its status says enough
        except (httpx.HTTPError, TimeoutError) as error:
            # Not the address: it is a secret.
            log.warning("alert_not_delivered", reason=type(error).__name__)
            return False
        if not answer.is_success:
            log.warning("alert_not_delivered", status=answer.status_code)
        return answer.is_success
