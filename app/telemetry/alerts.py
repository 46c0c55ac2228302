"""Alarms to ALERT_WEBHOOK_URL, in Slack's form: one message when something begins, one when it is over.

Workers look, one of them at a time; a web process looks when no worker lives. What is on, and the counts of the last ten
minutes, stand in `db:alarms`. A message that was not taken is sent again at the next look.
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

from app.ledger.jobs_contract import WORKERS
from app.ledger.ledger import new_id
from app.ledger.redis import Redis, RedisDown
from app.settings.model import Settings
from app.telemetry.health import ALIVE_S, OLD_S, due
from app.telemetry.logs import log
from app.telemetry.rejections import mismatches

LOOK_EVERY_S = 10.0
STATE, LOCK = "db:alarms", "db:alarms:lock"
KEPT_MS = 7 * 86_400_000
POST_S = 5.0
#: Counts are compared over so long, and noted so often.
WINDOW_S, NOTE_EVERY_S = 600.0, 30.0
#: So many wrong signatures since the last genuine delivery, which is longer ago than usual, and somebody has changed a
#: secret. Of what has no signature of the right shape, or comes beside genuine deliveries, strangers are the cause.
FEWEST_BAD = 3
#: A source is silent after three times the longest gap between its last deliveries, which is at least so long. Whoever
#: rang less often than this has no usual gap yet.
GAPS, SILENT, SHORTEST_GAP_S, FEWEST_GAPS = 200, 3, 1_200.0, 10
FULL_SHARE = 0.8


@dataclass(slots=True)
class Seen:
    """Counts at one time."""

    at: float
    parked: int


@dataclass(slots=True)
class State:
    """on: sentences by the name of the alarm."""

    on: dict[str, str] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)

    @classmethod
    def read(cls, stored: bytes | None) -> "State":
        told: dict[str, Any] = orjson.loads(stored or b"{}")
        return cls(told.get("on", {}), [Seen(seen["at"], seen["parked"]) for seen in told.get("seen", [])])


class Watch:
    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis, self._settings = redis, settings

    async def keep_looking(self, *, is_worker: bool) -> None:
        """For ever, if there is anybody to tell."""
        while self._settings.alert_webhook_url:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                if is_worker or not await self._living():
                    await self.look()
            except RedisDown as error:
                log.warning("redis down", reason=str(error))
            except Exception:
                log.exception("bug")

    async def look(self) -> None:
        """Once, unless somebody else just did. Raises RedisDown."""
        # A script: these are written on a full server too, and nobody gives the lock back, so that it is a pace as well.
        if not await self._redis.script("lock", int(LOOK_EVERY_S * 900), LOCK, new_id()):
            return
        before = State.read(await self._redis.command("GET", STATE))
        now = await self._see()
        window = [seen for seen in before.seen if now.at - seen.at < WINDOW_S + NOTE_EVERY_S]
        on = dict([*self._of_counts(window, now), *await self._of_now()])
        if not window or now.at - window[-1].at >= NOTE_EVERY_S:
            window.append(now)
        told = on if await self._tell(before.on, on) else before.on
        await self._redis.commands(("SET", STATE, orjson.dumps(State(told, window)), "PX", KEPT_MS))

    async def _living(self) -> int:
        seconds, _ = await self._redis.command("TIME")  # the beats are by the server's clock
        return int(await self._redis.command("ZCOUNT", WORKERS, (int(seconds) - ALIVE_S) * 1000, "+inf"))

    async def _see(self) -> Seen:
        return Seen(time.time(), await self._redis.command("ZCARD", "db:parked"))

    # -- what may be the matter --

    def _of_counts(self, window: list[Seen], now: Seen) -> Iterator[tuple[str, str]]:
        """What has changed in the last ten minutes."""
        if not window:
            return
        new = now.parked - min(seen.parked for seen in window)
        if new > 0:
            yield "parked", f"{new} more need an operator; now it is {now.parked}."

    async def _of_now(self) -> list[tuple[str, str]]:
        redis, found = self._redis, list[tuple[str, str]]()
        work = await due(redis, self._settings.tokens or {"main": ""})
        if work.oldest_s > OLD_S:
            found.append(("oldest", f"The oldest work that is due has waited for more than {OLD_S:.0f} seconds."))
        if not await self._living():
            found.append(("workers", "No worker is running: deliveries are accepted, but wait."))
        told = dict(
            line.split(":", 1) for line in (await redis.command("INFO", "memory")).decode().splitlines() if ":" in line
        )
        used, most = int(told["used_memory"]), int(told.get("maxmemory", 0))
        if most and used > FULL_SHARE * most:
            found.append(("memory", f"Redis is more than {FULL_SHARE:.0%} full; when it is full, tools get 503."))
        for hook in self._settings.entrances:
            times = await self._times(hook)
            found += filter(None, (self._silent(hook, times), await self._wrongly_signed(hook, times)))
        return found

    async def _times(self, hook: str) -> list[float]:
        """When the last deliveries came, the newest first."""
        flat = await self._redis.command("ZREVRANGE", f"db:deliveries:{hook}", 0, GAPS, "WITHSCORES")
        return [float(score) / 1000 for score in flat[1::2]]

    async def _wrongly_signed(self, hook: str, times: Sequence[float]) -> tuple[str, str] | None:
        gaps = [later - sooner for later, sooner in pairwise(times)]
        now = time.time()
        if not gaps or now - times[0] <= median(gaps):
            return None
        bad = await mismatches(self._redis, hook, 1000 * max(times[0], now - WINDOW_S))
        if len(bad) < FEWEST_BAD:
            return None
        told = f"{hook}: {len(bad)} requests had a wrong signature, and no genuine delivery came meanwhile"
        return f"signatures {hook}", f"{told}. Was its secret changed?"

    def _silent(self, hook: str, times: Sequence[float]) -> tuple[str, str] | None:
        gaps = [later - sooner for later, sooner in pairwise(times)]
        if len(gaps) < FEWEST_GAPS:
            return None
        usual_s = max(SHORTEST_GAP_S, *gaps)
        if time.time() - times[0] < SILENT * usual_s:
            return None
        return f"silent {hook}", f"{hook} has been silent for more than {SILENT} times its usual gap."

    # -- telling --

    async def _tell(self, before: dict[str, str], on: dict[str, str]) -> bool:
        """Whether everything was taken that there was to say."""
        begun = [f":rotating_light: {sentence}" for name, sentence in on.items() if name not in before]
        over = [f":white_check_mark: Over: {sentence}" for name, sentence in before.items() if name not in on]
        if not begun and not over:
            return True
        where = f"\n{self._settings.public_url}/console" if self._settings.public_url else ""
        text = "\n".join(["*Doorbell*", *begun, *over]) + where
        try:
            async with (
                httpx.AsyncClient(timeout=POST_S, trust_env=False) as http,
                asyncio.timeout(POST_S),
                http.stream("POST", str(self._settings.alert_webhook_url), json={"text": text}) as answer,
            ):
                pass  # its status says enough
        except (httpx.HTTPError, TimeoutError) as error:
            # Not the address: it is a secret.
            log.warning("alarm not told", reason=type(error).__name__)
            return False
        if not answer.is_success:
            log.warning("alarm not told", status=answer.status_code)
        return answer.is_success
