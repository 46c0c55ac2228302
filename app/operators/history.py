"""The history of a visit in sentences, oldest first: each message of the tool, each attempt, each activity of an operator.

Times in a sentence are in ISO 8601, so that each reader can show them in another zone. No sentence has personal data.
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.ledger.ids import delivery_of, delivery_time_ms, is_assignment
from app.ledger.reasons import REASONS, find_reason, ignored_title
from app.ledger.records import Attempt, Task
from app.ledger.times import MAX_CLOCK_SKEW_MS, iso_timestamp
from app.operators.activity_log import Activity
from app.operators.redaction import response_sentence
from app.visits.change import CONTACT_FIELDS, FIRST_TIME_US
from app.visits.merge import (
    CANCELLING_FACTS,
    DesiredVisit,
    Facts,
    RecordedChange,
    currency,
    desired_visit,
    join_facts,
    merge_changes,
)

#: A history has at most this many messages.
MAX_MESSAGES = 300
#: The results of a run that ended well, see docs/glossary.md.
RESULTS = {
    "created": "created in Review Rover",
    "updated": "updated in Review Rover",
    "cancelled": "cancelled in Review Rover",
    "deleted": "deleted from Review Rover",
    "kept": "nothing was sent: no change is left, and another program created the visit",
    "unchanged": "nothing was sent: Review Rover had these values already",
    "not_created": "nothing was sent: Review Rover has no such visit, and needs none",
}
CONTACT_LABELS = {
    "id": "contact",
    "email": "e-mail address",
    "first_name": "name",
    "last_name": "name",
    "phone": "phone number",
}


#: The beginning of the line about a contact that an operator assigned.
ASSIGNED = "an operator assigned the contact"
#: The beginning of the sentence about a failed attempt.
NOT_APPLIED = "not applied: "


@dataclass(frozen=True, slots=True)
class HistoryLine:
    """One line of the history.

    kind: message, attempt or activity. delivery: of a message. counts: what of the message decides about the visit, such
    as `only the start counts`. superseded_by: the delivery that decides instead. calls: of an attempt. repeated: how
    often an attempt ended in this way, the last time at last_ms. actor, operation: of an activity. visit: set if the
    history is that of a delivery with several visits.
    """

    at_ms: int
    kind: str
    text: str
    delivery: str = ""
    counts: str = ""
    superseded_by: str = ""
    calls: list[str] = field(default_factory=list)
    repeated: int = 1
    last_ms: int = 0
    actor: str = ""
    operation: str = ""
    visit: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are not empty."""
        fields = {
            "at": iso_timestamp(self.at_ms),
            "kind": self.kind,
            "text": self.text,
            "delivery": self.delivery,
            "counts": self.counts,
            "superseded_by": self.superseded_by,
            "calls": self.calls,
            "repeated": self.repeated if self.repeated > 1 else None,
            "last": iso_timestamp(self.last_ms),
            "actor": self.actor,
            "operation": self.operation,
            "visit": self.visit,
        }
        return {name: value for name, value in fields.items() if value}


def visit_history(aliases: Sequence[Task], activities: Iterable[Activity]) -> list[HistoryLine]:
    """Return the history of a visit."""
    attempts = [attempt for alias in aliases for attempt in alias.attempts]
    acts = [activity_line(activity) for activity in activities]
    lines = [
        *_messages(aliases),
        *attempt_lines(attempts, aliases[0].reason, [act.at_ms for act in acts if act.operation]),
        *acts,
    ]
    lines = list(_with_assigners(sorted(lines, key=lambda line: line.at_ms)))
    return lines + pending_lines(aliases[0], lines[-1].at_ms if lines else 0)


def _with_assigners(lines: Iterable[HistoryLine]) -> Iterator[HistoryLine]:
    """Name the operator who assigned a contact: the one who started the replay before it."""
    replay: HistoryLine | None = None
    for line in lines:
        if line.kind == "activity" and line.text == "replayed":
            replay = line
        if replay and line.text.startswith(ASSIGNED):
            text = line.text.removeprefix("an operator ")
            yield replace(line, text=text, actor=replay.actor, operation=replay.operation)
        else:
            yield line


def delivery_history(
    aliases: Sequence[Task], delivery: str, translated_ms: int = 0
) -> tuple[list[HistoryLine], list[Attempt]]:
    """Return the part of a visit's history that is about one delivery, and its attempts.

    translated_ms: when a worker translated the delivery, 0 if intake did.
    """
    attempts = sorted(
        (attempt for alias in aliases for attempt in alias.attempts), key=lambda attempt: attempt.started_at_ms
    )
    own = _attempts_of(delivery, attempts, aliases)
    # A worker may have translated the delivery again, after it was applied.
    first_ms = min([translated_ms, *(attempt.started_at_ms for attempt in own)])
    lines = [
        replace(line, delivery="", at_ms=max(line.at_ms, first_ms))
        for line in _messages(aliases, delivery)
        if line.delivery == delivery
    ]
    if not lines and any(alias.compacted_count for alias in aliases):
        lines.append(
            HistoryLine(delivery_time_ms(delivery), "message", "outdated: newer messages decide all of its fields")
        )
    lines += attempt_lines(own, aliases[0].reason if own and own[-1] is attempts[-1] else "")
    if lines and lines[0].superseded_by:
        newer = lines[0].superseded_by
        at_ms = max(delivery_time_ms(newer), delivery_time_ms(delivery))
        lines.append(HistoryLine(at_ms, "message", "outdated: a newer message decides", superseded_by=newer))
    lines.sort(key=lambda line: line.at_ms)
    if lines and not lines[-1].superseded_by and not any(map(_is_successful, own)):
        lines += pending_lines(aliases[0], lines[-1].at_ms)
    return lines, own


def _attempts_of(delivery: str, attempts: list[Attempt], aliases: Sequence[Task]) -> list[Attempt]:
    """Return the attempts from its arrival to the one that applied it, unless newer messages had arrived before."""
    since = _attempts_since(attempts, delivery_time_ms(delivery))
    successful = next((number for number, attempt in enumerate(since) if _is_successful(attempt)), None)
    if successful is None:
        return since
    at_ms = max(since[successful].started_at_ms, delivery_time_ms(delivery))
    return since[: successful + 1] if _decided_at(aliases, delivery, at_ms) else since[:successful]


def _attempts_since(attempts: list[Attempt], at_ms: int) -> list[Attempt]:
    later = [attempt for attempt in attempts if attempt.started_at_ms >= at_ms]
    return later or [attempt for attempt in attempts if attempt.started_at_ms >= at_ms - MAX_CLOCK_SKEW_MS]


def _decided_at(aliases: Sequence[Task], delivery: str, at_ms: int) -> bool:
    """Return whether the delivery decided a field among all changes that had arrived at this time."""
    arrived = merge_changes(
        change for alias in aliases for change in alias.recorded_changes() if delivery_time_ms(change.origin) <= at_ms
    )
    return any(delivery_of(fact.origin) == delivery for fact in arrived.values())


# -- messages --


@dataclass(frozen=True, slots=True)
class _Message:
    """The changes of one delivery to one visit."""

    delivery: str
    external_id: str
    changes: list[RecordedChange]
    is_discarded: bool


def _messages(aliases: Sequence[Task], only: str = "") -> Iterator[HistoryLine]:
    """Yield the lines of the newest MAX_MESSAGES messages, or of `only` one delivery."""
    messages = _in_order_of_arrival(aliases)
    final = _merge(messages)
    valued = {name for m in messages for change in m.changes for name, value in change.facts.items() if value}
    of_delivery = [number for number, message in enumerate(messages) if message.delivery == only]
    first = of_delivery[0] if of_delivery else max(0, len(messages) - MAX_MESSAGES)
    last = of_delivery[-1] + 1 if of_delivery else len(messages)
    if not only and (count := first + sum(alias.compacted_count for alias in aliases)):
        yield _omitted_messages(count, delivery_time_ms(messages[first].delivery) if messages else 0)
    older = messages[:first]
    facts, names = _merge(older), {aliases[0].external_id, *(message.external_id for message in older)}
    for message in messages[first:last]:
        joined = join_facts(facts, merge_changes(message.changes))
        is_assigned = is_assignment(message.delivery)
        effect = _effect(message, facts, joined, is_first=message is messages[0])
        text = ASSIGNED if is_assigned else effect
        if message.external_id not in names:
            names.add(message.external_id)
            text += f"; the tool renamed the visit to {message.external_id}"
        if message.is_discarded:
            text += "; an operator discarded this"
        else:
            facts = joined
        counts = _counting_fields(message, final, valued)
        yield HistoryLine(
            delivery_time_ms(message.delivery),
            "message",
            text,
            delivery="" if is_assigned else message.delivery,
            counts=counts if len(messages) > 1 else "",
            superseded_by="" if counts or message.is_discarded else _superseding(message, final),
        )


def _omitted_messages(count: int, at_ms: int) -> HistoryLine:
    messages = "1 older message is" if count == 1 else f"{count:,} older messages are"
    return HistoryLine(at_ms, "message", f"{messages} not shown")


def _merge(messages: Iterable[_Message]) -> Facts:
    return merge_changes(change for message in messages if not message.is_discarded for change in message.changes)


def _in_order_of_arrival(aliases: Sequence[Task]) -> list[_Message]:
    messages: dict[tuple[int, int, int], _Message] = {}
    for position, alias in enumerate(aliases):
        for is_discarded, stored in ((False, alias.changes), (True, alias.discarded_changes)):
            of_delivery: dict[str, list[RecordedChange]] = defaultdict(list)
            for change in alias.recorded_changes(discarded=is_discarded):
                of_delivery[delivery_of(change.origin)].append(change)
            for delivery, changes in of_delivery.items():
                # Deliveries of the same ms are in the order of their changes.
                order = delivery_time_ms(delivery), min(stored[change.origin].number for change in changes), position
                messages[order] = _Message(delivery, alias.external_id, changes, is_discarded)
    return [messages[order] for order in sorted(messages)]


def _effect(message: _Message, before: Facts, after: Facts, *, is_first: bool) -> str:
    old, new = desired_visit(before), desired_visit(after)
    effects = [
        *_time_effects(old, new),
        *_cancellation_effects(before, after, old, new),
        *_amount_effects(old, new, currency(after)),
    ]
    if is_first and not effects:
        effects = ["a message without a time"]
    effects += _contact_effects(old, new, is_first=is_first)
    return ", ".join(effects) or _without_effect(message, new)


def _time_effects(old: DesiredVisit, new: DesiredVisit) -> Iterator[str]:
    before, now = old.fields.get("time_scheduled"), new.fields.get("time_scheduled")
    if before != now:
        yield f"moved to {now}" if now and before else f"booked for {now}" if now else "the time was removed"
    before, now = old.fields.get("time_completed"), new.fields.get("time_completed")
    if before != now:
        yield f"completed at {now}" if now else "no longer completed"


def _cancellation_effects(before: Facts, after: Facts, old: DesiredVisit, new: DesiredVisit) -> Iterator[str]:
    if new.opted_out != old.opted_out:
        yield "the customer wants no review request" if new.opted_out else "the customer wants review requests again"
    elif new.is_cancelled and not old.is_cancelled:
        yield "marked as a no-show" if _value(after, "no_show") and not _value(before, "no_show") else "cancelled"
    elif old.is_cancelled and not new.is_cancelled:
        yield "no longer a no-show" if _value(before, "no_show") else "no longer cancelled"


def _value(facts: Facts, name: str) -> Any:
    return next((fact.value for key, fact in facts.items() if key.partition(" ")[0] == name and fact.value), None)


def _amount_effects(old: DesiredVisit, new: DesiredVisit, code: str | None) -> Iterator[str]:
    before, now = old.fields.get("amount_collected"), new.fields.get("amount_collected")
    if before == now:
        return
    amount = f"{now} {code}" if code else now
    yield (
        f"amount {amount}" if now and not before else f"amount changed to {amount}" if now else "the amount was removed"
    )


def _contact_effects(old: DesiredVisit, new: DesiredVisit, *, is_first: bool) -> Iterator[str]:
    before, now = old.contact.to_dict(), new.contact.to_dict()
    if is_first:
        if not (now.get("email") or now.get("id")):
            yield "without an e-mail address"
        return
    for label in dict.fromkeys(CONTACT_LABELS.values()):
        names = [name for name in CONTACT_FIELDS if CONTACT_LABELS[name] == label]
        values = [[contact.get(name) or "" for name in names] for contact in (before, now)]
        if values[0] != values[1]:
            change = (
                "changed" if any(values[0]) and any(values[1]) else "was added" if any(values[1]) else "was removed"
            )
            yield f"the customer's {label} {change}"


def _without_effect(message: _Message, new: DesiredVisit) -> str:
    times = [change.facts["time_scheduled"] for change in message.changes if change.facts.get("time_scheduled")]
    current = new.fields.get("time_scheduled")
    if older := next((time for time in times if time != current), None):
        return f"an older message, for {older}, arrived late and changed nothing{_date_of(message)}"
    if not any(change.facts or change.contact for change in message.changes):
        return "a message without values changed nothing"
    if any(_is_outdated(change, new) for change in message.changes):
        return f"an older message arrived late and changed nothing{_date_of(message)}"
    return "a message with the same values changed nothing"


def _date_of(message: _Message) -> str:
    """Return when the tool made the change, if its versions are times."""
    version = max(change.version for change in message.changes)
    return f"; the tool dates it {iso_timestamp(version / 1000)}" if version >= FIRST_TIME_US else ""


def _is_outdated(change: RecordedChange, new: DesiredVisit) -> bool:
    """Return whether the visit has another value in a field of the change."""
    contact = new.contact.to_dict()
    values = [(value, new.fields.get(name)) for name, value in change.facts.items() if name in new.fields]
    values += [(value, contact.get(name)) for name, value in change.contact.items()]
    return any((value or None) != (current or None) for value, current in values)


def _counting_fields(message: _Message, final: Facts, valued: Container[str]) -> str:
    """Return `counts` if the message decides all of its fields, else those that it decides: `amount counts`.

    valued: the fields that have a value in some message. "Not cancelled" decides nothing if nobody ever cancelled.
    """
    own = {_field_word(name) for change in message.changes for name in change.facts if name in valued}
    decided = {_field_word(name) for name, fact in final.items() if delivery_of(fact.origin) == message.delivery}
    counting = sorted(own & decided - {""})
    if not counting:
        return ""
    return (
        "counts"
        if own - {""} <= decided
        else f"only the {' and the '.join(counting)} {'count' if counting[1:] else 'counts'}"
    )


def _field_word(name: str) -> str:
    field = name.partition(" ")[0]
    return {"time_scheduled": "start", "time_completed": "completion", "amount_collected": "amount"}.get(
        field, "cancellation" if field in (*CANCELLING_FACTS, "opted_out") else ""
    )


def _superseding(message: _Message, final: Facts) -> str:
    """Return the newest delivery that decides a field of the message; empty if the message has no such field."""
    own = {name for change in message.changes for name in change.facts}
    deciding = (delivery_of(fact.origin) for name, fact in final.items() if name in own)
    return max((delivery for delivery in deciding if delivery != message.delivery), default="")


# -- attempts and activities --


def attempt_lines(
    attempts: Iterable[Attempt], reason: str = "", operations_ms: Sequence[int] = ()
) -> Iterator[HistoryLine]:
    """Yield one line for consecutive attempts that failed in the same way.

    reason: of the task, if it is not done. operations_ms: the times of replays and discards, which begin a new line.
    """
    ordered = sorted(attempts, key=lambda attempt: attempt.started_at_ms)
    last: HistoryLine | None = None
    for attempt in ordered:
        text = attempt_sentence(attempt, reason if attempt is ordered[-1] else "")
        line = HistoryLine(attempt.started_at_ms, "attempt", text, calls=_calls(attempt))
        is_equal = last is not None and last.text == line.text and not _is_successful(attempt)
        if last and is_equal and not any(last.at_ms < at_ms <= line.at_ms for at_ms in operations_ms):
            last = replace(last, repeated=last.repeated + 1, last_ms=line.at_ms, calls=line.calls)
            continue
        if last:
            yield last
        last = line
    if last:
        yield last


def pending_lines(task: Task, since_ms: int = 0) -> list[HistoryLine]:
    """Return what a task waits for, if no attempt shows it. since_ms: it is later than this."""
    title = find_reason(task.reason).title if task.reason else ""
    texts = {
        "queued": "waits for a worker",
        "running": "a worker applies it now",
        "held": f"on hold: {title}" if title else "on hold",
        "parked": "" if task.attempts else f"needs attention since it arrived: {title}",
    }
    text = texts.get(task.state, "")
    return [HistoryLine(max(task.pending_since_ms or 0, since_ms), "attempt", text)] if text else []


def _is_successful(attempt: Attempt) -> bool:
    return attempt.outcome in RESULTS


def attempt_sentence(attempt: Attempt, reason: str = "") -> str:
    """Return what an attempt did, or why it failed and what the API says."""
    title, detail = attempt_title(attempt, reason), response_sentence(attempt.response_text)
    return f"{title} ({detail})" if detail and title.startswith(NOT_APPLIED) else title


def attempt_title(attempt: Attempt, reason: str = "") -> str:
    """Return what an attempt did, or why it failed. reason: of its task, if the attempt is the newest one."""
    if attempt.outcome in RESULTS:
        return RESULTS[attempt.outcome]
    name, _, details = attempt.outcome.partition(": ")
    if name == "translated":
        return "the record was fetched, and the event translated"
    if name == "ignored":
        return f"the event was ignored: {ignored_title(details)}"
    reason = reason or _reason_of(attempt)
    return NOT_APPLIED + (find_reason(reason).title if reason else "an operator is needed")


def _reason_of(attempt: Attempt) -> str:
    """Return the reason of an attempt that failed: a key of REASONS, or the failed call; empty if it is not stored."""
    outcome, _, reason = attempt.outcome.partition(": ")
    if outcome == "parked" and reason:
        return reason
    if attempt.outcome in REASONS or not attempt.calls:
        return attempt.outcome if attempt.outcome in REASONS else ""
    call, status = map(str, attempt.calls[-1][:2])
    return (
        f"{call}: {status}"
        if not status.startswith(("2", "3")) and (call, status) != ("GET /visits/:id", "404")
        else ""
    )


def _calls(attempt: Attempt) -> list[str]:
    return [" ".join(map(str, call)) for call in attempt.calls]


def activity_line(activity: Activity) -> HistoryLine:
    return HistoryLine(
        int(activity.id.partition("-")[0]),
        "activity",
        activity.effect,
        actor=activity.actor,
        operation=activity.operation,
    )
