"""What arrives at a hook, as it arrives: the verdict about each request, and what an accepted one means.

Accepted deliveries are read from Redis, all other requests from the notes of `telemetry.arrivals`.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from app.ledger import keys
from app.ledger.ids import TaskId, delivery_of, is_listed
from app.ledger.ledger import Ledger
from app.ledger.reasons import find_reason, ignored_title
from app.ledger.records import DeliveryInfo, NotFound, Task
from app.ledger.redis import Redis
from app.ledger.times import iso_timestamp
from app.operators.explain import Explain, Row, event_name, ignored_reason, run_off_loop
from app.operators.feed import POLL_INTERVAL_S, finished_attempts, new_deliveries
from app.operators.history import delivery_history
from app.operators.rejections import find_cause
from app.settings.model import Settings
from app.telemetry.arrivals import LISTEN_S, listen_to, notes_of
from app.visits.merge import RecordedChange
from app.webhooks.signatures.scheme import fingerprint
from app.webhooks.translation import FOREIGN_TENANT

#: The list of the newest requests goes back this far.
MAX_AGE_S = 3_600
#: Events whose record a worker still fetches; older ones are forgotten.
MAX_PENDING = 200


@dataclass(slots=True)
class Arrival:
    """One request to a hook.

    outcome: accepted, ignored, repeat, handshake, foreign_tenant or rejected. verdict: a sentence about the verification.
    visits: what it means for each visit: `meaning` in words, and `fields`. note: why no visit changes, or not yet.
    is_pending: a worker has to fetch its record first. reason, findings, advice: of a rejection.
    """

    at_ms: int
    hook: str
    outcome: str
    verdict: str
    event: str = ""
    delivery: str = ""
    visits: list[Row] = field(default_factory=list)
    note: str = ""
    is_pending: bool = False
    status: int | None = None
    reason: str = ""
    findings: list[str] = field(default_factory=list)
    advice: str = ""

    def to_dict(self) -> Row:
        fields = {name: getattr(self, name) for name in self.__slots__ if name not in ("at_ms", "is_pending")}
        return {
            "at": iso_timestamp(self.at_ms, "milliseconds"),
            **{name: value for name, value in fields.items() if value},
            **({"is_pending": True} if self.is_pending else {}),
        }


class Arrivals:
    """The requests of one hook. Every method may raise RedisUnavailable. explain: redacts personal data."""

    def __init__(self, ledger: Ledger, settings: Settings, hook: str, explain: Explain) -> None:
        self._ledger, self._settings, self._hook, self._explain = ledger, settings, hook, explain

    async def newest(self, limit: int = 30) -> list[Arrival]:
        """Return the newest requests, newest first."""
        since_ms = (time.time() - MAX_AGE_S) * 1000
        ids, notes = await asyncio.gather(
            self._ledger.redis.command(
                "ZREVRANGEBYSCORE", f"{keys.DELIVERIES}{self._hook}", "+inf", since_ms, "LIMIT", 0, limit
            ),
            notes_of(self._ledger.redis, self._hook),
        )
        stored = await asyncio.gather(*(self._of_delivery(id.decode()) for id in ids))
        arrivals = [*filter(None, stored), *map(self._of_note, notes[:limit])]
        return sorted(arrivals, key=lambda arrival: -arrival.at_ms)[:limit]

    async def notes(self) -> list[Arrival]:
        """Return the newest requests that are not stored, such as rejected ones, newest first."""
        return [self._of_note(note) for note in await notes_of(self._ledger.redis, self._hook)]

    async def follow(self, subscriber: Redis) -> AsyncGenerator[Arrival]:
        """Yield each request as it arrives, and again when its record was fetched and translated.

        subscriber: a separate connection, which the subscription blocks.
        """
        arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
        pending, translated = deque[str](maxlen=MAX_PENDING), deque[str](maxlen=MAX_PENDING)
        steps = (
            self._stay_listening(),
            self._follow_deliveries(arrivals, pending, translated),
            self._follow_translations(arrivals, pending, translated, subscriber),
            self._follow_notes(arrivals),
        )
        tasks = [asyncio.create_task(step) for step in steps]
        try:
            while True:
                next_arrival = asyncio.create_task(arrivals.get())
                await asyncio.wait([next_arrival, *tasks], return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    if task.done():
                        next_arrival.cancel()
                        task.result()  # raises: no step ends otherwise
                yield next_arrival.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # -- steps of follow --

    async def _stay_listening(self) -> None:
        while True:
            await listen_to(self._ledger.redis, self._hook)
            await asyncio.sleep(LISTEN_S / 3)

    async def _follow_deliveries(
        self, arrivals: asyncio.Queue[Arrival], pending: deque[str], translated: deque[str]
    ) -> None:
        async for id in new_deliveries(self._ledger, lambda: [self._hook]):
            arrival = await self._of_delivery(id)
            if arrival and arrival.is_pending and id in translated:  # since it was read
                arrival = await self._of_delivery(id)
            if arrival:
                arrivals.put_nowait(arrival)
                if arrival.is_pending:
                    pending.append(id)

    async def _follow_translations(
        self, arrivals: asyncio.Queue[Arrival], pending: deque[str], translated: deque[str], subscriber: Redis
    ) -> None:
        async for task_id, _ in finished_attempts(subscriber):
            if not task_id.is_event:
                continue
            translated.append(task_id.delivery_id)
            if task_id.delivery_id in pending:
                arrival = await self._of_delivery(task_id.delivery_id)
                if arrival and not arrival.is_pending:
                    pending.remove(task_id.delivery_id)
                    arrivals.put_nowait(arrival)

    async def _follow_notes(self, arrivals: asyncio.Queue[Arrival]) -> None:
        known = {_identity(note) for note in await notes_of(self._ledger.redis, self._hook)}
        while True:
            notes = await notes_of(self._ledger.redis, self._hook)
            for note in reversed(notes):
                if _identity(note) not in known:
                    arrivals.put_nowait(self._of_note(note))
            known = set(map(_identity, notes))
            await asyncio.sleep(POLL_INTERVAL_S)

    # -- one request --

    def _of_note(self, note: dict[str, Any]) -> Arrival:
        outcome, number = note["outcome"], note.get("secret_number", 0)
        arrival = Arrival(note["at"], note["hook"], outcome, self._verdict(number), status=note["status"])
        arrival.delivery = note.get("delivery", "")
        if outcome == "rejected":
            cause = find_cause(note["reason"], note.get("detail", ""))
            arrival.reason, arrival.findings, arrival.advice = note["reason"], note.get("findings", []), cause.text
            arrival.verdict = f"rejected: {note.get('detail') or cause.title}"
        elif outcome == "handshake":
            arrival.verdict = "the tool tested the URL, and Doorbell answered"
        elif outcome == "repeat":
            arrival.note = "a repeat of a delivery that arrived before: it changes nothing"
        elif outcome == FOREIGN_TENANT:
            arrival.note = "ignored: the event is from an account that TENANTS does not name"
        return arrival

    async def _of_delivery(self, id: str) -> Arrival | None:
        """Return the request of a stored delivery; None if it has expired."""
        try:
            meta = await self._ledger.load_delivery_info(id)
        except NotFound:
            return None
        arrival = Arrival(
            meta.received_at_ms,
            meta.hook,
            "ignored" if meta.ignored else "accepted",
            "from the tool's list" if is_listed(id) else self._verdict(meta.secret_index + 1),
            event_name(meta),
            id,
        )
        visits, notes = list[TaskId](), list[str]()
        for task_id in meta.task_ids:
            if task_id.is_event:
                event = await self._event(task_id)
                visits += event.targets if event else []
                notes += _event_note(event) if event else []
                arrival.is_pending = bool(event and event.state in ("queued", "running", "waiting"))
            else:
                visits.append(task_id)
        for task_id in dict.fromkeys(visits):
            arrival.visits += await self._meanings(id, task_id)
        arrival.note = "; ".join(notes) or _no_visit(meta, arrival.visits)
        return arrival

    async def _event(self, task_id: TaskId) -> Task | None:
        with suppress(NotFound):
            return await self._ledger.load_task(task_id)
        return None

    async def _meanings(self, id: str, task_id: TaskId) -> list[Row]:
        """Return what the delivery means for a visit; nothing if its changes are no longer stored."""
        try:
            aliases = await self._ledger.load_aliases(task_id)
        except NotFound:
            return []
        changes = [
            (alias, change)
            for alias in aliases
            for change in alias.recorded_changes()
            if delivery_of(change.origin) == id and alias.task_id == task_id
        ]
        if not changes:
            return []
        lines, _ = await run_off_loop(aliases, delivery_history, aliases, id)
        effect = next((line.text for line in lines if line.kind == "message"), "")
        rows = [self._explain.change(change, alias) for alias, change in changes]
        fields = {name: value for row in rows for name, value in row["fields"].items()}
        name = aliases[0].external_id
        subject = f"{name}{_customer(fields)}"
        if "changed nothing" not in effect:
            subject = f"{_verb(_main_action(change for _, change in changes), effect)} {subject}"
        return [{"visit": name, "meaning": f"{subject}: {effect}", "fields": fields}]

    def _verdict(self, secret_number: int) -> str:
        """Say which secret verified a request. It may have been removed from the settings since."""
        hook = self._settings.active_hooks.get(self._hook)
        secrets = hook.settings.secrets if hook else ()
        if not 0 < secret_number <= len(secrets):
            return "verified" if secret_number else "not verified"
        name = f"secret {secret_number} of {len(secrets)}"
        return f"verified with {name} ({fingerprint(secrets[secret_number - 1], self._settings.secret_key)})"


def _identity(note: dict[str, Any]) -> tuple[Any, ...]:
    return note["at"], note["hook"], note["outcome"], note.get("delivery"), note.get("reason")


def _main_action(changes: Iterable[RecordedChange]) -> str:
    actions = {change.action for change in changes}
    return next(action for action in ("create", "cancel", "update") if action in actions)


def _verb(action: str, effect: str) -> str:
    """Return what a message does. A tool may send the whole booking again, as a new one, to move it."""
    return {"create": "books" if effect.startswith("booked") else "changes", "update": "changes", "cancel": "cancels"}[
        action
    ]


def _customer(fields: Row) -> str:
    """Return ` for NAME` in the way that personal data is shown to this operator."""
    names = [fields[key] for key in ("contact.first_name", "contact.last_name") if fields.get(key)]
    values = names or [fields["contact.email"]] if names or fields.get("contact.email") else []
    return f" for {' '.join(dict.fromkeys(values))}" if values else ""


def _event_note(event: Task) -> Sequence[str]:
    if event.state in ("queued", "running", "waiting"):
        wait = f": {find_reason(event.reason).title}" if event.state == "waiting" and event.reason else ""
        return [f"a worker fetches its record{wait}"]
    if event.state == "parked":
        return [f"needs attention: {find_reason(event.reason).title} ({event.reason})"]
    reason = ignored_reason(event)
    return [f"ignored after its record was fetched: {ignored_title(reason)}"] if reason else []


def _no_visit(meta: DeliveryInfo, visits: Sequence[Row]) -> str:
    if meta.ignored:
        return f"ignored: {ignored_title(meta.ignored)}"
    return "" if visits else "its changes are no longer stored"
