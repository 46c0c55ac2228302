"""Posts alerts to ALERT_WEBHOOK_URL in Slack's format: a message when an alert starts and one when it ends.

One worker at a time checks; a web process checks while no worker runs. `bell:alerts` contains the active alerts and the
failure counts of the last ten minutes. A message that was not delivered is sent again, after longer and longer pauses: the
channel may be slow, and have shown it.
"""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from app.ledger import keys
from app.ledger.connection_states import UNHEALTHY
from app.ledger.ledger import take_turn
from app.ledger.losses import Losses
from app.ledger.reasons import find_reason
from app.ledger.redis import Redis, RedisUnavailable
from app.settings.model import Settings
from app.telemetry.alert_rules import (
    BAD_SIGNATURES,
    DEGRADED_CONNECTION,
    FAILURES,
    FULL_FRACTION,
    LOST_CONNECTION,
    LOST_VISITS,
    MIN_BAD_SIGNATURES,
    NO_PROGRESS,
    NO_WORKER,
    OLD_TASK,
    PAYLOAD_CHANGED,
    REDIS_FULL,
    SILENT_HOOK,
    STOPPED_AFTER_S,
    STOPPED_CALLS,
    WINDOW_S,
)
from app.telemetry.connections import load_connections
from app.telemetry.health import STALE_AFTER_S, WORKER_ALIVE_S, load_backlog, open_circuits
from app.telemetry.logs import log
from app.telemetry.payload_watch import PayloadChange, payload_changes
from app.telemetry.silence import bad_signatures

CHECK_EVERY_S = 10.0
STATE_TTL_MS = 7 * 86_400_000
POST_TIMEOUT_S = 5.0
#: The longest pause after a message that was not delivered.
MAX_PAUSE_S, MAX_DOUBLINGS = 300.0, 5
#: The interval between samples of the counts.
SAMPLE_EVERY_S = 30.0
#: The number of failures whose reasons are read, and of reasons that a message shows.
MAX_REASONS, MAX_LINES = 100, 3


@dataclass(slots=True)
class Sample:
    """Counts at a time, in seconds since 1970."""

    at: float
    parked: int


@dataclass(slots=True)
class AlertState:
    """active: messages by key. The key of an alert about one hook ends in the name of the hook.

    samples: of the last ten minutes; older ones stay while a message cannot be delivered. attempts: how many failed since a
    message was delivered.
    """

    active: dict[str, str] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    attempts: int = 0

    @classmethod
    def decode(cls, stored: bytes | None) -> "AlertState":
        state: dict[str, Any] = orjson.loads(stored or b"{}")
        samples = [Sample(sample["at"], sample["parked"]) for sample in state.get("samples", [])]
        return cls(state.get("active", {}), samples, state.get("attempts", 0))


class AlertMonitor:
    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis, self._settings = redis, settings

    async def run(self, *, is_worker: bool) -> None:
        """Check forever. Return at once if ALERT_WEBHOOK_URL is not set."""
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
        """Check once, unless another process has just checked. Raises RedisUnavailable."""
        if not await take_turn(self._redis, keys.ALERTS_LOCK, CHECK_EVERY_S * 0.9):
            return
        before = AlertState.decode(await self._redis.command("GET", keys.ALERTS))
        now = await self._sample()
        window = before.samples or [now]
        if not before.attempts:
            window = [sample for sample in window if now.at - sample.at < WINDOW_S + SAMPLE_EVERY_S]
        active = dict([*await self._failure_alert(window, now), *await self._current_alerts()])
        if await self._notify(before.active, active):
            if not window or now.at - window[-1].at >= SAMPLE_EVERY_S:
                window.append(now)
            await self._store(AlertState(active, window))
        else:
            pause_s = min(CHECK_EVERY_S * 2 ** min(before.attempts, MAX_DOUBLINGS), MAX_PAUSE_S)
            await self._store(AlertState(before.active, window, before.attempts + 1))
            await self._redis.commands(("PEXPIRE", keys.ALERTS_LOCK, int(pause_s * 1000)))

    async def _store(self, state: AlertState) -> None:
        await self._redis.commands(("SET", keys.ALERTS, orjson.dumps(state), "PX", STATE_TTL_MS))

    async def _count_live_workers(self) -> int:
        seconds, _ = await self._redis.command("TIME")  # heartbeats have the server's time
        return int(await self._redis.command("ZCOUNT", keys.WORKERS, (int(seconds) - WORKER_ALIVE_S) * 1000, "+inf"))

    async def _sample(self) -> Sample:
        return Sample(time.time(), await self._redis.command("ZCARD", keys.PARKED))

    # -- conditions --

    async def _failure_alert(self, window: list[Sample], now: Sample) -> list[tuple[str, str]]:
        new = now.parked - min((sample.parked for sample in window), default=now.parked)
        if new <= 0:
            return []
        lines = [f"{FAILURES.text(count=new)} Total: {now.parked}.", *await self._newest_reasons(new)]
        return [(FAILURES.key, "\n".join(lines))]

    async def _newest_reasons(self, count: int) -> list[str]:
        """Return a line for each kind of the newest failures, with its fix; the most frequent first."""
        task_ids = await self._redis.command("ZREVRANGE", keys.PARKED, 0, min(count, MAX_REASONS) - 1)
        names = await asyncio.gather(
            *(self._redis.command("HGET", f"{keys.TASK}{task_id.decode()}", "reason") for task_id in task_ids)
        )
        reasons = Counter(find_reason(name.decode()) for name in names if name)
        return [
            " ".join((f"• {reason.title}: {number}.", *reason.actions[:1]))
            for reason, number in reasons.most_common(MAX_LINES)
        ]

    async def _current_alerts(self) -> list[tuple[str, str]]:
        redis, alerts = self._redis, list[tuple[str, str]]()
        backlog = await load_backlog(redis, self._settings.tokens or {"main": ""})
        if backlog.oldest_s > STALE_AFTER_S:
            alerts.append((OLD_TASK.key, OLD_TASK.text()))
        if backlog.is_stalled:  # also if all tasks are held, and no circuit is open or its probe is overdue
            alerts.append((NO_PROGRESS.key, NO_PROGRESS.text()))
        alerts += await self._stopped_calls_alerts()
        if not await self._count_live_workers():
            alerts.append((NO_WORKER.key, NO_WORKER.text()))
        memory = await redis.info("memory")
        used, limit = int(memory["used_memory"]), int(memory.get("maxmemory", 0))
        if limit and used > FULL_FRACTION * limit:
            alerts.append((REDIS_FULL.key, REDIS_FULL.text()))
        if lost := await Losses(redis).lost_visits():
            alerts.append((LOST_VISITS.key, LOST_VISITS.text(count=len(lost))))
        for connection in await load_connections(redis, self._settings):
            if connection.state in UNHEALTHY:
                degraded = SILENT_HOOK if connection.is_silent else DEGRADED_CONNECTION
                kind = LOST_CONNECTION if connection.is_broken else degraded
                message = kind.text(hook=connection.hook, state=connection.state)
                alerts.append((f"{kind.key} {connection.hook}", f"{message} {connection.detail}".strip()))
        for hook in self._settings.active_hooks:
            count = await bad_signatures(redis, hook)
            if count >= MIN_BAD_SIGNATURES:
                alerts.append((f"{BAD_SIGNATURES.key} {hook}", BAD_SIGNATURES.text(hook=hook, count=count)))
        return [*alerts, *await self._payload_alerts()]

    async def _payload_alerts(self) -> list[tuple[str, str]]:
        """Return an alert for the changes of a source that were noticed at once, until they are acknowledged."""
        changes: dict[tuple[str, int], list[PayloadChange]] = {}
        for change in await payload_changes(self._redis, is_open=True):
            changes.setdefault((change.source, change.at), []).append(change)
        alerts = []
        for (source, at), together in changes.items():
            lines = [f"• {change.sentence} (delivery {change.delivery})." for change in together[:MAX_LINES]]
            text = PAYLOAD_CHANGED.text(source=source, count=len(together))
            alerts.append((f"{PAYLOAD_CHANGED.key} {source} {at}", "\n".join([text, *lines])))
        return alerts

    async def _stopped_calls_alerts(self) -> list[tuple[str, str]]:
        now = time.time()
        return [
            (f"{STOPPED_CALLS.key} {circuit.account}", STOPPED_CALLS.text(account=circuit.account))
            for circuit in await open_circuits(self._redis, self._settings)
            if now - datetime.fromisoformat(circuit.since).timestamp() > STOPPED_AFTER_S
        ]

    # -- messages --

    async def _notify(self, before: dict[str, str], active: dict[str, str]) -> bool:
        """Post the alerts that started and ended. Return whether the message was delivered, or none was needed."""
        started = [f":rotating_light: {message}" for key, message in active.items() if key not in before]
        ended = [
            f":white_check_mark: Resolved: {message.splitlines()[0]}"
            for key, message in before.items()
            if key not in active
        ]
        if not started and not ended:
            return True
        link = f"\n{self._settings.public_url}/console" if self._settings.public_url else ""
        return await self._post("\n".join(["*Doorbell*", *started, *ended]) + link)

    async def _post(self, text: str) -> bool:
        # Imported late: most processes post no alert.
        import httpx

        from app.visits.client import tls_context

        try:
            async with (
                httpx.AsyncClient(timeout=POST_TIMEOUT_S, trust_env=False, verify=tls_context()) as http,
                asyncio.timeout(POST_TIMEOUT_S),
                http.stream("POST", str(self._settings.alert_webhook_url), json={"text": text}) as response,
            ):
                pass  # the body is not read
        except (httpx.HTTPError, TimeoutError) as error:
            # The log must not contain the URL: it is a secret.
            log.warning("alert_not_delivered", reason=type(error).__name__)
            return False
        if not response.is_success:
            log.warning("alert_not_delivered", status=response.status_code)
        return response.is_success
