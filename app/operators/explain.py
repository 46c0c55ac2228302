"""Read models of deliveries, visits and failures, as plain dicts.

Personal data is redacted unless revealed by name: `body`, `responses`, or a field of a contact such as `contact.email`.
"""

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar

from app.ledger import keys
from app.ledger.ids import TaskId, delivery_of, is_listed
from app.ledger.ledger import Ledger, known_accounts
from app.ledger.reasons import find_reason, ignored_title
from app.ledger.records import Attempt, BodyUnavailable, DeliveryInfo, NotFound, Task
from app.ledger.times import iso_timestamp
from app.operators.activity_log import Activity, ActivityLog, ActivityPage
from app.operators.filter import STATE_TITLES, ActivityFilter
from app.operators.history import (
    HistoryLine,
    activity_line,
    attempt_lines,
    attempt_title,
    delivery_history,
    pending_lines,
    visit_history,
)
from app.operators.redaction import REDACTED, redact_text, response_sentence
from app.settings.model import Settings
from app.visits.change import CONTACT_FIELDS, external_id
from app.visits.merge import (
    ONLY_FOR,
    Fact,
    Facts,
    RecordedChange,
    currency,
    deciding_origins,
    desired_visit,
    merge_changes,
)
from app.webhooks.registry import load_sources

SUMMARY_FIELDS = ("time_scheduled", "time_completed", "event_date", "amount_collected", "date_cancelled")

#: The fields of visits and contacts, in words.
FIELD_TITLES = {
    "time_scheduled": "Start",
    "time_completed": "Completed",
    "date_cancelled": "Cancelled",
    "no_show": "No-show",
    "date_left": "Left the booking",
    "opted_out": "Opted out of review requests",
    "amount_collected": "Amount",
    "currency": "Currency",
    "event_date": "Date for Review Rover",
    "completed": "Is completed",
    "created_at": "Created in Review Rover",
    "updated_at": "Last changed in Review Rover",
    "contact.email": "E-mail address",
    "contact.first_name": "First name",
    "contact.last_name": "Last name",
    "contact.phone": "Phone number",
    "contact.id": "Contact id",
    "contact_id": "Contact in Review Rover",
    "id": "Number in Review Rover",
    "external_id": "Id",
}

#: The most important first, if a delivery has several changes to one visit.
FINISHED_STATES = ("applied", "discarded", "superseded")

#: Visits with more changes are merged in a thread, so that the event loop stays responsive.
MAX_CHANGES_ON_LOOP = 200

Row = dict[str, Any]
P = ParamSpec("P")
T = TypeVar("T")


class _AllFields:
    def __contains__(self, _: object) -> bool:
        return True


ALL_FIELDS: Container[str] = _AllFields()


def event_name(meta: DeliveryInfo) -> str:
    """Return the tool's name of the event, or an empty string if the name may contain personal data.

    A name is safe if it is a single word, or if the source declares which field contains it.
    """
    source = load_sources().get(meta.source)
    is_declared = bool(source and source.definition.event_name_path)
    return meta.event_name if is_declared or _WORD.fullmatch(meta.event_name) else ""


_WORD = re.compile(r"[A-Za-z][\w.:/-]*", re.ASCII)


def _current_contact_facts(facts: Facts) -> Facts:
    """Drop the facts that belong to former contacts of the visit."""
    email, current = desired_visit(facts).contact.email or "", Facts()
    for name, fact in facts.items():
        field, owner = _split_owner(name)
        if owner in ("", email):
            current[field] = current[field] | fact if field in current else fact
    return current


def _split_owner(name: str) -> tuple[str, str]:
    """Split the name of a fact into its field and the e-mail address that the fact is bound to."""
    field, _, owner = name.partition(" of ") if name.startswith("contact.") else name.partition(ONLY_FOR)
    return field, owner


def field_title(name: str) -> str:
    return FIELD_TITLES.get(name, name)


async def stored_aliases(ledger: Ledger, task_id: TaskId) -> list[Task]:
    """Return the tasks of all ids of a visit, none if it is not stored."""
    try:
        return await ledger.load_aliases(task_id)
    except NotFound:
        return []


async def run_off_loop(visit: Sequence[Task], step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `step`, in a thread if the visit has many changes."""
    if sum(len(alias.changes) + len(alias.discarded_changes) for alias in visit) <= MAX_CHANGES_ON_LOOP:
        return step(*args, **kwargs)
    return await asyncio.to_thread(step, *args, **kwargs)


def merge_visit(aliases: Sequence[Task], *assignments: RecordedChange) -> Facts:
    return merge_changes([*(change for alias in aliases for change in alias.recorded_changes()), *assignments])


@dataclass(frozen=True, slots=True)
class MergedVisit:
    """A visit with all of its ids, and its merged changes.

    aliases: primary first. deciding_origins: the origins whose values won. changes: by task and delivery, the origins with
    the numbers of their changes. discarded_counts: by task and delivery.
    """

    aliases: list[Task]
    facts: Facts
    deciding_origins: set[str]
    changes: dict[tuple[TaskId, str], list[tuple[str, int]]]
    discarded_counts: Counter[tuple[TaskId, str]]

    @classmethod
    def merge(cls, aliases: list[Task]) -> "MergedVisit":
        facts, changes = merge_visit(aliases), defaultdict[tuple[TaskId, str], list[tuple[str, int]]](list)
        for alias in aliases:
            for origin, change in alias.changes.items():
                changes[alias.task_id, delivery_of(origin)].append((origin, change.number))
        discarded = Counter(
            (alias.task_id, delivery_of(origin)) for alias in aliases for origin in alias.discarded_changes
        )
        return cls(aliases, facts, deciding_origins(facts), dict(changes), discarded)


class VisitCache:
    """Cache of the merged visits of one page: each visit is read and merged once."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._merged = ledger, dict[str, MergedVisit]()
        self._lock = asyncio.Lock()

    async def get(self, task_id: TaskId) -> MergedVisit:
        """Return the visit that has this id among its ids. Raises NotFound, RedisUnavailable."""
        async with self._lock:
            if task_id not in self._merged:
                aliases = await self._ledger.load_aliases(task_id)
                merged = await run_off_loop(aliases, MergedVisit.merge, aliases)
                self._merged |= {alias.task_id: merged for alias in aliases}
            return self._merged[task_id]


class Explain:
    """Builds the read models. Every method may raise NotFound and RedisUnavailable."""

    def __init__(self, ledger: Ledger, settings: Settings, reveal: Container[str] = ()) -> None:
        self._ledger, self._settings, self._reveal = ledger, settings, reveal
        self._activity_log = ActivityLog(ledger)

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
        changes = await self._changes(id, meta.task_ids, visits)
        states = {change["state"] for change in changes}
        reason = next((change["reason"] for change in changes if change.get("reason")), "")
        state = "ignored" if meta.ignored and not states else " ".join(sorted(states)) or "done"
        row = {
            "delivery": id,
            "at": iso_timestamp(meta.received_at_ms),
            "hook": meta.hook,
            "event": event_name(meta),
            "state": state,
            **({"reason": reason} if reason else {}),
        }
        names = [
            await _primary_id(target, visits) for task_id in meta.task_ids for target in await self._visits(task_id)
        ]
        return row | {"visits": list(dict.fromkeys(names))}

    async def delivery(self, id: str) -> Row:
        """Return one delivery with its changes and attempts."""
        try:
            meta, raw = await self._ledger.load_delivery(id)
            size = len(raw)
            body = raw.decode("utf-8", "replace") if "body" in self._reveal else f"{size} bytes"
        except BodyUnavailable as error:
            meta, body, size = error.info, str(error), None
        changes = await self._changes(id, meta.task_ids, VisitCache(self._ledger))
        activities = await self._activity_log.of_tasks(TaskId.event(id))
        history, attempts = await self._history(id, meta, activities)
        return {
            "delivery": id,
            "summary": _delivery_sentence(meta, changes),
            "at": iso_timestamp(meta.received_at_ms),
            "hook": meta.hook,
            "source": meta.source,
            "event": event_name(meta),
            "request_id": meta.request_id or None,
            "matched_secret": None if is_listed(id) else meta.secret_index + 1,
            "ignored": meta.ignored or None,
            "body": body,
            "size": size,
            "headers": sorted(meta.headers),
            "changes": changes,
            "history": [line.to_dict() for line in history],
            "attempts": [self.attempt(attempt) for attempt in attempts],
            "activities": _activity_rows(activities),
        }

    async def visit(self, external_id: str) -> list[Row]:
        """Return the visit with this id; several if several accounts have one."""
        return [await self._visit(task_id) for task_id in await self.visit_task_ids(external_id)]

    async def task_ids(self, id: str) -> list[TaskId]:
        """Return the tasks of a delivery or a visit. Raises NotFound if there is neither."""
        try:
            meta = await self._ledger.load_delivery_info(id)
        except NotFound:
            task_ids = await self.visit_task_ids(id)
        else:
            task_ids = [*meta.task_ids]
            for task_id in meta.task_ids:
                task_ids += (await self._ledger.load_task(task_id)).targets if task_id.is_event else []
        if not task_ids:
            raise NotFound(id)
        return task_ids

    async def is_visit(self, id: str) -> bool:
        """Return False if the id belongs to a delivery."""
        return await self._ledger.load_delivery_infos([id]) == [None]

    async def visit_task_ids(self, external_id: str) -> list[TaskId]:
        """Return the tasks of this visit in every account.

        external_id: may also be `{source}-` and the tool's own id, in the tool's spelling.
        """
        possible = await self._possible_visits(external_id)
        replies = await self._ledger.redis.pipeline([("EXISTS", f"{keys.TASK}{task_id}") for task_id in possible])
        existing = [task_id for task_id, exists in zip(possible, replies, strict=True) if exists]
        if not existing:
            raise NotFound(external_id)
        return existing

    async def _possible_visits(self, external_id: str) -> list[TaskId]:
        accounts = await known_accounts(self._ledger.redis, self._settings.all_accounts)
        return [TaskId.visit(account, name) for account in accounts for name in _spellings(external_id)]

    async def visit_summary(self, task_id: TaskId) -> Row:
        """Return the merged fields, the contact and the state of one visit, for a row of a list."""
        aliases = await self._ledger.load_aliases(task_id)
        primary, desired = aliases[0], desired_visit(await run_off_loop(aliases, merge_visit, aliases))
        contact = desired.contact.to_dict()
        return {
            "visit": primary.external_id,
            "account": primary.account,
            "state": primary.state,
            "reason": primary.reason or None,
            "since": iso_timestamp(primary.pending_since_ms),
            **{name: desired.fields.get(name) for name in SUMMARY_FIELDS},
            "contact_id": desired.contact.id or (primary.remote or {}).get("contact_id"),
            **{
                name: contact.get(name) and self._redact(f"contact.{name}", contact[name])
                for name in CONTACT_FIELDS
                if name != "id"
            },
        }

    async def find_activities(self, filter: ActivityFilter, limit: int = 50) -> ActivityPage:
        """Return the activities that match, newest first."""
        task_ids = await self._possible_task_ids(filter.id) if filter.id else None
        return await self._activity_log.newest(filter, limit, task_ids)

    async def _possible_task_ids(self, id: str) -> list[TaskId]:
        """Return the tasks that the id of a delivery or visit can mean, with all ids of the visit. Some may not exist."""
        task_ids = await self._possible_visits(id)
        for task_id in [*task_ids]:
            with suppress(NotFound):
                task_ids += [alias.task_id for alias in await self._ledger.load_aliases(task_id)]
        return list(dict.fromkeys([TaskId.event(id), *task_ids]))

    # -- parts --

    async def _visits(self, task_id: TaskId) -> list[TaskId]:
        """Return the visits of a task: itself, or those that its event changed."""
        if task_id.is_visit:
            return [task_id]
        try:
            return list((await self._ledger.load_task(task_id)).targets)
        except NotFound:
            return []

    async def _history(
        self, id: str, meta: DeliveryInfo, activities: Iterable[Activity]
    ) -> tuple[list[HistoryLine], list[Attempt]]:
        """Return what happened to a delivery, and its attempts: those of its event, and those that applied it."""
        lines, attempts = list[HistoryLine](), list[Attempt]()
        visits: dict[TaskId, list[Task]] = {}
        translated_ms = 0
        for task_id in meta.task_ids:
            with suppress(NotFound):
                task = await self._ledger.load_task(task_id)
                if task_id.is_event:
                    attempts += task.attempts
                    translated_ms = max((attempt.started_at_ms for attempt in task.attempts), default=0)
                    lines += attempt_lines(task.attempts, task.reason)
                    lines += pending_lines(task)
                for target in task.targets if task_id.is_event else [task_id]:
                    aliases = await self._ledger.load_aliases(target)
                    visits[aliases[0].task_id] = aliases
        for aliases in visits.values():
            of_visit, own = await run_off_loop(aliases, delivery_history, aliases, id, translated_ms)
            name = aliases[0].external_id if len(visits) > 1 else ""
            lines += [replace(line, visit=name) for line in of_visit]
            attempts += own
        lines += map(activity_line, activities)
        received = f"received at /hooks/{meta.hook}; the signature is valid"
        origin = "listed by Doorbell in a catch-up" if is_listed(id) else received
        return (
            [
                HistoryLine(meta.received_at_ms, "message", origin),
                *sorted(lines, key=lambda line: line.at_ms),
            ],
            sorted(attempts, key=lambda attempt: attempt.started_at_ms),
        )

    async def _changes(self, id: str, task_ids: Iterable[TaskId], visits: VisitCache) -> list[Row]:
        """Return the changes of a delivery with the state of each."""
        rows: list[Row] = []
        for task_id in task_ids:
            with suppress(NotFound):
                rows += await (self._changes_of_event if task_id.is_event else _changes_of_visit)(id, task_id, visits)
        return _one_row_per_visit(rows)

    async def _changes_of_event(self, id: str, task_id: TaskId, visits: VisitCache) -> list[Row]:
        event = await self._ledger.load_task(task_id)
        if event.state == "done" and event.targets:
            return await self._changes(id, event.targets, visits)
        ignored = ignored_reason(event) if event.state == "done" else ""
        row = {"state": "ignored", "ignored": ignored} if ignored else {"state": event.state, **_failure_fields(event)}
        return [{"task": "translate", **row}, *await self._changes(id, event.targets, visits)]

    async def _visit(self, task_id: TaskId) -> Row:
        aliases = await self._ledger.load_aliases(task_id)
        details = await run_off_loop(aliases, self._visit_details, aliases)
        activities = await self._activity_log.of_tasks(*(alias.task_id for alias in aliases))
        history = await run_off_loop(aliases, visit_history, aliases, activities)
        return details | {
            "history": [line.to_dict() for line in history],
            "activities": _activity_rows(activities),
        }

    def _visit_details(self, aliases: list[Task]) -> Row:
        primary, facts = aliases[0], merge_visit(aliases)
        return {
            "visit": primary.external_id,
            "summary": _visit_sentence(primary),
            "desired": desired_visit(facts).fields,
            "account": primary.account,
            "state": primary.state,
            **_failure_fields(primary),
            **({"erased_at": iso_timestamp(primary.erased_at_ms)} if primary.erased_at_ms else {}),
            "aliases": [alias.external_id for alias in aliases[1:]],
            **({"currency": code} if (code := currency(facts)) else {}),
            "facts": {name: self._fact(name, fact) for name, fact in sorted(_current_contact_facts(facts).items())},
            "changes": [self.change(change, alias) for alias in aliases for change in alias.recorded_changes()],
            "discarded_changes": [
                self.change(change, alias) for alias in aliases for change in alias.recorded_changes(discarded=True)
            ],
            "remote": primary.remote,
            "attempts": [self.attempt(attempt) for alias in aliases for attempt in alias.attempts],
        }

    def _fact(self, name: str, fact: Fact) -> Row:
        return {"value": self._redact(name, fact.value), "delivery": delivery_of(fact.origin)}

    def _redact(self, name: str, value: Any) -> Any:
        # An empty value is no secret: hidden, it would look like one that is there.
        personal = name.startswith("contact.") and name != "contact.id" and value not in (None, "")
        return REDACTED if personal and name not in self._reveal else value

    def change(self, change: RecordedChange, task: Task) -> Row:
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

    def failure(self, task: Task) -> Row:
        is_visit = task.task_id.is_visit
        return {
            "id": task.task_id.display_id,
            "kind": "visit" if is_visit else "event",
            **_failure_fields(task),
            "attempts": len(task.attempts),
            "response": self.attempt(task.attempts[-1])["response"] if task.attempts else None,
        }

    def attempt(self, attempt: Attempt) -> Row:
        calls = [" ".join(map(str, call)) for call in attempt.calls]
        response = attempt.response_text if "responses" in self._reveal else redact_text(attempt.response_text)
        return {
            "at": iso_timestamp(attempt.started_at_ms),
            "took_ms": attempt.took_ms,
            "outcome": attempt.outcome,
            "text": attempt_title(attempt),
            "calls": calls,
            "response": response or None,
        }


async def _primary_id(task_id: TaskId, visits: VisitCache) -> str:
    """Return the id under which people see the visit."""
    try:
        return (await visits.get(task_id)).aliases[0].external_id
    except NotFound:
        return task_id.external_id


async def _changes_of_visit(id: str, task_id: TaskId, visits: VisitCache) -> list[Row]:
    visit = await visits.get(task_id)
    primary, rows = visit.aliases[0], list[Row]()
    alias = next(alias for alias in visit.aliases if alias.task_id == task_id)
    names = {"visit": primary.external_id} | ({"alias": alias.external_id} if alias is not primary else {})
    for origin, number in visit.changes.get((task_id, id), ()):
        if number <= alias.applied_count:
            result: Row = {"state": "applied" if origin in visit.deciding_origins else "superseded"}
        else:
            result = {"state": primary.state, **_failure_fields(primary)}
        rows.append({**names, **result})
    rows += [{**names, "state": "discarded"}] * visit.discarded_counts[task_id, id]
    if not rows and alias.compacted_count:
        rows.append({**names, "state": "superseded"})
    return rows


def _one_row_per_visit(rows: Iterable[Row]) -> list[Row]:
    """Merge the rows of changes to the same visit, which may have several ids. The most important state remains."""
    merged: dict[str, Row] = {}
    for row in rows:
        name = row.get("visit", "")
        if name not in merged or _importance(row) > _importance(merged[name]):
            merged[name] = row
    return list(merged.values())


def _importance(row: Row) -> int:
    """Rank a state: unfinished, applied, discarded, superseded."""
    return -FINISHED_STATES.index(row["state"]) if row["state"] in FINISHED_STATES else 1


def _failure_fields(task: Task) -> Row:
    fields = {
        "reason": task.reason or None,
        # Only the failed call that is the reason has a response that explains it.
        "detail": response_sentence(task.attempts[-1].response_text) if ": " in task.reason and task.attempts else None,
        "since": iso_timestamp(task.pending_since_ms),
        "next_attempt": iso_timestamp(task.retry_at_ms),
        "failed_attempts": task.failed_attempts,
    }
    return {name: value for name, value in fields.items() if value}


def ignored_reason(event: Task) -> str:
    """Return why an event was ignored when a worker translated it; empty if it was not."""
    outcome = event.attempts[-1].outcome if event.attempts else ""
    return outcome.removeprefix(IGNORED) if outcome.startswith(IGNORED) else ""


#: Begins the outcome of an attempt that ignored the event; the reason follows.
IGNORED = "ignored: "


def _activity_rows(activities: Iterable[Activity]) -> list[Row]:
    names = ("at", "actor", "action", "effect", "operation")
    return [{name: value for name in names if (value := getattr(activity, name))} for activity in activities]


def _spellings(name: str) -> set[str]:
    """Return the external_ids that `name` can mean: itself, or a source and the tool's own id."""
    source, _, id = name.partition("-")
    return {name, external_id(source, id)} if source in load_sources() else {name}


def _delivery_sentence(meta: DeliveryInfo, changes: Sequence[Row]) -> str:
    states = Counter(change["state"] for change in changes)
    if not states:
        if meta.ignored:
            return f"Ignored: {ignored_title(meta.ignored)}."
        return "All changes of this delivery have expired."
    if states["parked"]:
        return _needs_attention(next(change.get("reason") for change in changes if change["state"] == "parked"))
    if waits := [change for change in changes if change["state"] in ("waiting", "held")]:
        return f"Not applied yet: {_wait_sentences(waits[0].get('reason'), waits[0]['state'])}"
    if states["queued"] or states["running"]:
        return "Accepted, not applied yet."
    if states["applied"]:
        return "Applied: Review Rover has the values of this delivery."
    if states["superseded"]:
        return "Outdated: newer messages decide all fields of this delivery."
    if states["ignored"]:
        return f"Ignored: {ignored_title(next(change['ignored'] for change in changes if 'ignored' in change))}."
    if states["done"]:
        return "It changes no visit."
    return "Discarded by an operator."


def _needs_attention(reason: str | None) -> str:
    return f"Needs attention: {find_reason(reason).title} ({reason})." if reason else "Needs attention."


def _wait_sentences(reason: str | None, state: str) -> str:
    title = find_reason(reason).title if reason else STATE_TITLES[state]
    is_paused = reason == "account_paused"
    return f"{title}. {'An operator must resume it' if is_paused else 'Doorbell retries automatically'}."


def _visit_sentence(primary: Task) -> str:
    match primary.state:
        case "parked":
            return _needs_attention(primary.reason)
        case "waiting" | "held":
            return f"Not up to date: {_wait_sentences(primary.reason, primary.state)}"
        case "queued" | "running":
            return "The newest changes are not applied yet."
        case "discarded":
            return "An operator discarded the changes that were not applied."
    if not primary.remote:
        return "Review Rover has no such visit, as expected."
    if primary.remote.get("date_cancelled"):
        return "The visit is cancelled in Review Rover."
    return "Review Rover has the newest values that Doorbell received."
