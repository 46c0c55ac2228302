"""Answers for operators: what came of a delivery, why a visit is as it is. Plain dicts of what the ledger holds.

Nothing personal but what is to be revealed, by name: `body`, `answers`, and the fields of a contact, `contact.email`.
"""

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from app.ledger import keys
from app.ledger.ids import TaskId, delivery_of
from app.ledger.ledger import Ledger, known_accounts
from app.ledger.records import Attempt, BodyUnavailable, DeliveryInfo, NotFound, Task
from app.ledger.times import iso_timestamp
from app.operators.redaction import REDACTED, redact_text
from app.settings.model import Settings
from app.visits.change import CONTACT_FIELDS, external_id
from app.visits.merge import ONLY_FOR, Fact, Facts, RecordedChange, deciding_origins, desired_visit, merge_changes
from app.webhooks.registry import load_sources

#: Of a visit in a line.
SUMMARY_FIELDS = ("time_scheduled", "time_completed", "event_date", "amount_collected", "date_cancelled")

#: More changes than this are computed with in a thread: deliveries wait for the event loop.
MAX_CHANGES_ON_LOOP = 200

Row = dict[str, Any]
P = ParamSpec("P")
T = TypeVar("T")


class _AllFields:
    def __contains__(self, _: object) -> bool:
        return True


ALL_FIELDS: Container[str] = _AllFields()


def event_name(meta: DeliveryInfo) -> str:
    """What the tool calls the event, where that can name nobody: a word, or what the source declares as the name."""
    tool = load_sources().get(meta.source)
    is_declared = bool(tool and tool.definition.event_name_path)
    return meta.event_name if is_declared or _WORD.fullmatch(meta.event_name) else ""


_WORD = re.compile(r"[A-Za-z][\w.:/-]*", re.ASCII)


def _current_contact_facts(facts: Facts) -> Facts:
    """Without what is known of customers whose visit it is no more."""
    email, found = desired_visit(facts).contact.email or "", Facts()
    for name, fact in facts.items():
        field, owner = _split_owner(name)
        if owner in ("", email):
            found[field] = found[field] | fact if field in found else fact
    return found


def _split_owner(name: str) -> tuple[str, str]:
    """A fact's name, and the address that it is bound to."""
    field, _, owner = name.partition(" of ") if name.startswith("contact.") else name.partition(ONLY_FOR)
    return field, owner


#: So far apart may the clocks of the door and of a worker be.
MAX_CLOCK_SKEW_MS = 1_000


async def run_off_loop(visit: Sequence[Task], step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """A computation over all changes of a visit: in a thread, where they are many."""
    if sum(len(member.changes) + len(member.discarded_changes) for member in visit) <= MAX_CHANGES_ON_LOOP:
        return step(*args, **kwargs)
    return await asyncio.to_thread(step, *args, **kwargs)


def merge_visit(family: Sequence[Task], *more: RecordedChange) -> Facts:
    return merge_changes([*(said for member in family for said in member.recorded_changes()), *more])


@dataclass(frozen=True, slots=True)
class MergedVisit:
    """A visit with all of its ids, and what its changes come to.

    deciding: the origins whose facts hold. changes: by id and delivery, the origins with the numbers of their changes.
    discarded: by id and delivery, how many were given up.
    """

    family: list[Task]
    facts: Facts
    deciding_origins: set[str]
    changes: dict[tuple[TaskId, str], list[tuple[str, int]]]
    discarded_counts: Counter[tuple[TaskId, str]]

    @classmethod
    def merge(cls, family: list[Task]) -> "MergedVisit":
        facts, changes = merge_visit(family), defaultdict[tuple[TaskId, str], list[tuple[str, int]]](list)
        for member in family:
            for origin, change in member.changes.items():
                changes[member.task_id, delivery_of(origin)].append((origin, change.number))
        discarded = Counter((one.task_id, delivery_of(origin)) for one in family for origin in one.discarded_changes)
        return cls(family, facts, deciding_origins(facts), dict(changes), discarded)


class VisitCache:
    """What one page asks about visits: each is read and folded once, however many rows and ids speak of it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._merged = ledger, dict[str, MergedVisit]()
        self._lock = asyncio.Lock()

    async def get(self, work: TaskId) -> MergedVisit:
        """By the name of any of its ids. Raises NotFound, RedisUnavailable."""
        async with self._lock:
            if work not in self._merged:
                family = await self._ledger.load_aliases(work)
                folded = await run_off_loop(family, MergedVisit.merge, family)
                self._merged |= {member.task_id: folded for member in family}
            return self._merged[work]


class Explain:
    """Every method may raise NotFound and RedisUnavailable."""

    def __init__(self, ledger: Ledger, settings: Settings, reveal: Container[str] = ()) -> None:
        self._ledger, self._settings, self._reveal = ledger, settings, reveal

    async def delivery_summary(self, id: str) -> Row:
        [row] = await self.delivery_summaries([id], VisitCache(self._ledger))
        return row

    async def delivery_summaries(self, ids: Iterable[str], visits: VisitCache) -> list[Row]:
        return await asyncio.gather(*(self._delivery_summary(id, visits) for id in ids))

    async def _delivery_summary(self, id: str, visits: VisitCache) -> Row:
        try:
            meta = await self._ledger.load_delivery_info(id)
        except NotFound:
            return {"delivery": id, "state": "expired"}
        states = {change["state"] for change in await self._changes(id, meta.task_ids, visits)}
        state = "ignored" if meta.ignored and not states else " ".join(sorted(states)) or "done"
        row = {
            "delivery": id,
            "at": iso_timestamp(meta.received_at_ms),
            "hook": meta.hook,
            "event": event_name(meta),
            "state": state,
        }
        return row | {"visits": [name for work in meta.task_ids for name in await self._external_ids(work)]}

    async def delivery(self, id: str) -> Row:
        """One delivery: what it was, what it changed, and every attempt."""
        try:
            meta, raw = await self._ledger.load_delivery(id)
            body = raw.decode("utf-8", "replace") if "body" in self._reveal else f"{len(raw)} bytes"
        except BodyUnavailable as error:
            meta, body = error.info, str(error)
        changes = await self._changes(id, meta.task_ids, VisitCache(self._ledger))
        return {
            "delivery": id,
            "summary": _delivery_sentence(meta, changes),
            "at": iso_timestamp(meta.received_at_ms),
            "hook": meta.hook,
            "source": meta.source,
            "event": event_name(meta),
            "request_id": meta.request_id or None,
            "matched_secret": meta.secret_index + 1,
            "ignored": meta.ignored or None,
            "body": body,
            "changes": changes,
            "attempts": [self.attempt(attempt) for attempt in await self._attempts_of(meta)],
        }

    async def visit(self, external_id: str) -> list[Row]:
        """One visit by the name of any of its ids; several where accounts share a name."""
        return [await self._visit(work) for work in await self.visit_task_ids(external_id)]

    async def task_ids(self, id: str) -> list[TaskId]:
        """The pieces of work behind the id of a delivery or a visit. Raises NotFound if there is neither."""
        try:
            meta = await self._ledger.load_delivery_info(id)
        except NotFound:
            works = await self.visit_task_ids(id)
        else:
            works = [*meta.task_ids]
            for work in meta.task_ids:
                works += (await self._ledger.load_task(work)).targets if work.is_event else []
        if not works:
            raise NotFound(id)
        return works

    async def is_visit(self, id: str) -> bool:
        """Is it a visit's name, and not a delivery's?"""
        return not await self._ledger.redis.command("EXISTS", f"{keys.DELIVERY}{id}")

    async def visit_task_ids(self, external_id: str) -> list[TaskId]:
        """In every account; also by the tool's own id behind the source's name, where that had to be written otherwise."""
        accounts = await known_accounts(self._ledger.redis, self._settings.all_accounts)
        works = [TaskId.visit(account, name) for account in accounts for name in _possible_names(external_id)]
        found = [work for work in works if await self._ledger.redis.command("EXISTS", f"{keys.TASK}{work}")]
        if not found:
            raise NotFound(external_id)
        return found

    async def visit_summary(self, work: TaskId) -> Row:
        """One visit in a line: what should stand in the API, whose it is, and how it is with it."""
        family = await self._ledger.load_aliases(work)
        root, want = family[0], desired_visit(await run_off_loop(family, merge_visit, family))
        said = want.contact.to_dict()
        return {
            "visit": root.external_id,
            "account": root.account,
            "state": root.state,
            "reason": root.reason or None,
            "since": iso_timestamp(root.pending_since_ms),
            **{name: want.fields.get(name) for name in SUMMARY_FIELDS},
            "contact_id": want.contact.id or (root.remote or {}).get("contact_id"),
            **{
                name: said.get(name) and self._redact(f"contact.{name}", said[name])
                for name in CONTACT_FIELDS
                if name != "id"
            },
        }

    # -- parts --

    async def _external_ids(self, work: TaskId) -> list[str]:
        if work.is_visit:
            return [work.external_id]
        try:
            return [landed.external_id for landed in (await self._ledger.load_task(work)).targets]
        except NotFound:
            return []

    async def _attempts_of(self, meta: DeliveryInfo) -> list[Attempt]:
        """Of its event, and of its visits since it arrived, by the clocks of two machines."""
        found: dict[TaskId, list[Attempt]] = {}
        for work in meta.task_ids:
            with suppress(NotFound):
                member = await self._ledger.load_task(work)
                found[work] = member.attempts
                for one in member.targets if work.is_event else [work]:
                    found |= await self._attempts_since(one, meta.received_at_ms - MAX_CLOCK_SKEW_MS)
        return sorted(
            (attempt for of_work in found.values() for attempt in of_work), key=lambda attempt: attempt.started_at_ms
        )

    async def _attempts_since(self, work: TaskId, at: int) -> dict[TaskId, list[Attempt]]:
        """By each of the visit's ids."""
        try:
            family = await self._ledger.load_aliases(work)
        except NotFound:
            return {}
        return {one.task_id: [attempt for attempt in one.attempts if attempt.started_at_ms >= at] for one in family}

    async def _changes(self, id: str, works: Iterable[TaskId], visits: VisitCache) -> list[Row]:
        """What a delivery meant, and what came of each change."""
        rows: list[Row] = []
        for work in works:
            with suppress(NotFound):
                rows += await (self._changes_of_event if work.is_event else _changes_of_visit)(id, work, visits)
        return rows

    async def _changes_of_event(self, id: str, work: TaskId, visits: VisitCache) -> list[Row]:
        member = await self._ledger.load_task(work)
        is_over = member.state == "done" and member.targets
        rows = [] if is_over else [{"task": "translate", "state": member.state, **_failure_fields(member)}]
        return rows + await self._changes(id, member.targets, visits)

    async def _visit(self, work: TaskId) -> Row:
        family = await self._ledger.load_aliases(work)
        return await run_off_loop(family, self._visit_details, family)

    def _visit_details(self, family: list[Task]) -> Row:
        root, facts = family[0], merge_visit(family)
        return {
            "visit": root.external_id,
            "summary": _visit_sentence(root),
            "account": root.account,
            "state": root.state,
            **_failure_fields(root),
            **({"erased_at": iso_timestamp(root.erased_at_ms)} if root.erased_at_ms else {}),
            "aliases": [member.external_id for member in family[1:]],
            "facts": {name: self._fact(name, fact) for name, fact in sorted(_current_contact_facts(facts).items())},
            "changes": [self._change(facts_of, member) for member in family for facts_of in member.recorded_changes()],
            "remote": root.remote,
            "attempts": [self.attempt(attempt) for member in family for attempt in member.attempts],
        }

    def _fact(self, name: str, fact: Fact) -> Row:
        return {"value": self._redact(name, fact.value), "delivery": delivery_of(fact.origin)}

    def _redact(self, name: str, value: Any) -> Any:
        personal = name.startswith("contact.") and name != "contact.id"
        return REDACTED if personal and name not in self._reveal else value

    def _change(self, change: RecordedChange, task: Task) -> Row:
        return {
            "delivery": delivery_of(change.origin),
            "id": task.external_id,
            "action": change.action,
            "version": change.version,
            "fields": {
                **change.facts,
                **{f"contact.{name}": self._redact(f"contact.{name}", value) for name, value in change.contact.items()},
            },
        }

    def failure(self, member: Task) -> Row:
        is_visit = member.task_id.is_visit
        return {
            "id": member.task_id.display_id,
            "kind": "visit" if is_visit else "event",
            **_failure_fields(member),
            "attempts": len(member.attempts),
            "response": self.attempt(member.attempts[-1])["response"] if member.attempts else None,
        }

    def attempt(self, attempt: Attempt) -> Row:
        calls = [" ".join(map(str, call)) for call in attempt.calls]
        said = attempt.response_text if "answers" in self._reveal else redact_text(attempt.response_text)
        return {
            "at": iso_timestamp(attempt.started_at_ms),
            "took_ms": attempt.took_ms,
            "outcome": attempt.outcome,
            "calls": calls,
            "response": said or None,
        }


async def _changes_of_visit(id: str, work: TaskId, visits: VisitCache) -> list[Row]:
    visit = await visits.get(work)
    root, rows = visit.family[0], list[Row]()
    member = next(one for one in visit.family if one.task_id == work)
    for origin, number in visit.changes.get((work, id), ()):
        if number <= member.applied_count:
            came_of_it: Row = {"state": "applied" if origin in visit.deciding_origins else "superseded"}
        else:
            came_of_it = {"state": root.state, **_failure_fields(root)}
        rows.append({"visit": root.external_id, **came_of_it})
    rows += [{"visit": root.external_id, "state": "discarded"}] * visit.discarded_counts[work, id]
    if not rows and member.compacted_count:
        rows.append({"visit": root.external_id, "state": "superseded"})
    return rows


def _failure_fields(member: Task) -> Row:
    told = {
        "reason": member.reason or None,
        "since": iso_timestamp(member.pending_since_ms),
        "next_attempt": iso_timestamp(member.retry_at_ms),
    }
    return {
        name: value for name, value in (told | {"failed_attempts": member.failed_attempts or None}).items() if value
    }


def _possible_names(given: str) -> set[str]:
    source, _, id = given.partition("-")
    return {given, external_id(source, id)} if source in load_sources() else {given}


def _delivery_sentence(meta: DeliveryInfo, changes: Sequence[Row]) -> str:
    """What came of it, in a sentence."""
    states = Counter(change["state"] for change in changes)
    if not states:
        return f"Genuine, and nothing to do: {meta.ignored}." if meta.ignored else "It changes nothing any more."
    if states["parked"]:
        reason = next(change.get("reason") for change in changes if change["state"] == "parked")
        return f"It needs you: {reason}."
    if waits := [change for change in changes if change["state"] in ("waiting", "held")]:
        return f"Not applied yet: {waits[0].get('reason') or waits[0]['state']}. It is tried again by itself."
    if states["queued"] or states["running"]:
        return "Accepted, and on its way to the Visits API."
    if states["applied"]:
        return "Applied: the Visits API shows what it said."
    if states["superseded"]:
        return "Superseded: something newer decides every field that it spoke of."
    return "Discarded by an operator."


def _visit_sentence(root: Task) -> str:
    match root.state:
        case "parked":
            return f"It needs you: {root.reason}."
        case "waiting" | "held":
            return f"Not there yet: {root.reason or root.state}. It is tried again by itself."
        case "queued" | "running":
            return "On its way to the Visits API."
        case "discarded":
            return "An operator gave up what was not applied."
    if not root.remote:
        return "There is no visit, and there should be none."
    return (
        "The Visits API shows it as cancelled."
        if root.remote.get("date_cancelled")
        else "The Visits API shows what was said."
    )
