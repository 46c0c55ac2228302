"""Answers for operators: what came of a delivery, why a visit is as it is. Plain dicts of what the ledger holds.

Nothing personal but what is to be revealed, by name: `body`, `answers`, and the fields of a contact, `contact.email`.
"""

import re
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from app.ledger import Attempt, Gone, Ledger, Member, Meta, NoBody
from app.queue import EVENT, VISIT, visit_work
from app.settings import Settings
from app.sources import load
from app.visits.merge import ONLY_FOR, Fact, Facts, fold, wanted, winners
from app.visits.words import DETAILS, external_id

_ADDRESS = re.compile(r"[^\s\"'<>@]+@[^\s\"'<>@]+")
_NUMBER = re.compile(r"\+?\d[\d\s().-]{6,}\d")
#: A key that names a person or a place, in JSON or in a form, and its value, which a quote may cut off.
_PERSONAL = r"[\w\[\].%-]*(?:name|company|address|street|line\d|city|zip|postal_?code|phone|mobile|email|note)s?\]?"
_IN_JSON = re.compile(rf'("{_PERSONAL}"\s*:\s*)(?:"(?:[^"\\]|\\.)*(?:"|\\?$)|\[[^\]]*(?:\]|$))', re.IGNORECASE)
_IN_FORM = re.compile(rf"((?:^|[&?\s]){_PERSONAL}=)[^&\s]+", re.IGNORECASE)

#: Of a visit in a line.
FIELDS = ("time_scheduled", "time_completed", "event_date", "amount_collected", "date_cancelled")

#: What stands for a value that is not revealed.
HIDDEN = "•••"

Row = dict[str, Any]


class _Everything:
    def __contains__(self, _: object) -> bool:
        return True


EVERYTHING: Container[str] = _Everything()


def redacted(text: str) -> str:
    """Without addresses and telephone numbers, and without what stands under the name of something personal."""
    text = _IN_FORM.sub(r"\1•••", _IN_JSON.sub(r'\1"•••"', text))
    return _NUMBER.sub("•••", _ADDRESS.sub("•••@•••", text))


def moment(ms: int | None) -> str | None:
    """A time of the ledger, as ISO 8601."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if ms else None


def span(seconds: float) -> str:
    """So long, for people."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size * (2 if unit != "min" else 1):
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _counting(facts: Facts) -> Facts:
    """Without what is known of customers whose visit it is no more."""
    email, found = wanted(facts).contact.email or "", Facts()
    for name, fact in facts.items():
        field, owner = _owner(name)
        if owner in ("", email):
            found[field] = found[field] | fact if field in found else fact
    return found


def _owner(name: str) -> tuple[str, str]:
    """A fact's name, and the address that it is bound to."""
    field, _, owner = name.partition(" of ") if name.startswith("contact.") else name.partition(ONLY_FOR)
    return field, owner


#: So far apart may the clocks of the door and of a worker be.
CLOCKS_MS = 1_000


class Explain:
    """Every method may raise Gone and RedisDown."""

    def __init__(self, ledger: Ledger, settings: Settings, reveal: Container[str] = ()) -> None:
        self._ledger, self._settings, self._reveal = ledger, settings, reveal

    async def row(self, id: str) -> Row:
        try:
            meta = await self._ledger.meta(id)
        except Gone:
            return {"delivery": id, "state": "expired"}
        states = {change["state"] for change in await self._changes(id, meta.work)}
        state = "ignored" if meta.ignored and not states else " ".join(sorted(states)) or "settled"
        row = {"delivery": id, "at": moment(meta.at), "hook": meta.hook, "event": meta.name, "state": state}
        return row | {"visits": [name for work in meta.work for name in await self._visits_of(work)]}

    async def delivery(self, id: str) -> Row:
        """One delivery: what it was, what it changed, and every attempt."""
        try:
            meta, raw = await self._ledger.delivery(id)
            body = raw.decode("utf-8", "replace") if "body" in self._reveal else f"{len(raw)} bytes"
        except NoBody as error:
            meta, body = error.meta, str(error)
        changes = await self._changes(id, meta.work)
        return {
            "delivery": id,
            "sentence": _told_of_delivery(meta, changes),
            "at": moment(meta.at),
            "hook": meta.hook,
            "source": meta.source,
            "event": meta.name,
            "request_id": meta.request_id or None,
            "matched_secret": meta.slot + 1,
            "ignored": meta.ignored or None,
            "body": body,
            "changes": changes,
            "attempts": [self.attempt(attempt) for attempt in await self._attempts_of(meta)],
        }

    async def visit(self, external_id: str) -> list[Row]:
        """One visit by the name of any of its ids; several where accounts share a name."""
        return [await self._visit(work) for work in await self.works_of_visit(external_id)]

    async def works(self, id: str) -> list[str]:
        """The pieces of work behind the id of a delivery or a visit. Raises Gone if there is neither."""
        try:
            meta = await self._ledger.meta(id)
        except Gone:
            works = await self.works_of_visit(id)
        else:
            works = [*meta.work]
            for work in meta.work:
                works += (await self._ledger.member(work)).landed if work.startswith(EVENT) else []
        if not works:
            raise Gone(id)
        return works

    async def is_visit(self, id: str) -> bool:
        """Is it a visit's name, and not a delivery's?"""
        return not await self._ledger.redis.command("EXISTS", f"db:delivery:{id}")

    async def works_of_visit(self, external_id: str) -> list[str]:
        """In every account; also by the tool's own id behind the source's name, where that had to be written otherwise."""
        works = [visit_work(account, name) for account in self._settings.every_account for name in _names(external_id)]
        found = [work for work in works if await self._ledger.redis.command("EXISTS", f"db:{work}")]
        if not found:
            raise Gone(external_id)
        return found

    async def visit_row(self, work: str) -> Row:
        """One visit in a line: what should stand in the API, whose it is, and how it is with it."""
        root, *later = await self._ledger.family(work)
        want = wanted(fold(said for member in (root, *later) for said in member.said()))
        said = want.contact.details()
        return {
            "visit": root.external_id,
            "account": root.account,
            "state": root.state,
            "reason": root.reason or None,
            "since": moment(root.since),
            **{name: want.fields.get(name) for name in FIELDS},
            "contact_id": want.contact.id or (root.api or {}).get("contact_id"),
            **{name: said.get(name) and self._shown(f"contact.{name}", said[name]) for name in DETAILS if name != "id"},
        }

    # -- parts --

    async def _visits_of(self, work: str) -> list[str]:
        if work.startswith(VISIT):
            return [work.partition("/")[2]]
        try:
            return [landed.partition("/")[2] for landed in (await self._ledger.member(work)).landed]
        except Gone:
            return []

    async def _attempts_of(self, meta: Meta) -> list[Attempt]:
        """Of its event, and of its visits since it arrived, by the clocks of two machines."""
        found: dict[str, list[Attempt]] = {}
        for work in meta.work:
            with suppress(Gone):
                member = await self._ledger.member(work)
                found[work] = member.attempts
                for one in member.landed if work.startswith(EVENT) else [work]:
                    found |= await self._attempts_since(one, meta.at - CLOCKS_MS)
        return sorted((attempt for of_work in found.values() for attempt in of_work), key=lambda attempt: attempt.at)

    async def _attempts_since(self, work: str, at: int) -> dict[str, list[Attempt]]:
        """By each of the visit's ids."""
        try:
            family = await self._ledger.family(work)
        except Gone:
            return {}
        return {one.work: [attempt for attempt in one.attempts if attempt.at >= at] for one in family}

    async def _changes(self, id: str, works: Iterable[str]) -> list[Row]:
        """What a delivery meant, and what came of each change."""
        rows: list[Row] = []
        for work in works:
            try:
                member = await self._ledger.member(work)
            except Gone:
                continue
            if work.startswith(EVENT):
                if member.state != "settled" or not member.landed:
                    rows.append({"work": "translate", "state": member.state, **self._trouble(member)})
                rows += await self._changes(id, member.landed)
            else:
                rows += await self._changes_of_visit(id, work, member)
        return rows

    async def _changes_of_visit(self, id: str, work: str, member: Member) -> list[Row]:
        family = await self._ledger.family(work)
        deciding = winners(fold(said for one in family for said in one.said()))
        root = family[0]
        rows = []
        for origin, change in member.changes.items():
            if origin.rpartition(".")[0] == id:
                if int(change.partition(b" ")[0]) <= member.done:
                    came_of_it = {"state": "applied" if origin in deciding else "superseded"}
                else:
                    came_of_it = {"state": root.state, **self._trouble(root)}
                rows.append({"visit": root.external_id, **came_of_it})
        for origin in member.discarded:
            if origin.rpartition(".")[0] == id:
                rows.append({"visit": root.external_id, "state": "discarded"})
        if not rows and member.dropped:
            rows.append({"visit": root.external_id, "state": "superseded"})
        return rows

    async def _visit(self, work: str) -> Row:
        family = await self._ledger.family(work)
        root = family[0]
        facts = fold(said for member in family for said in member.said())
        return {
            "visit": root.external_id,
            "sentence": _told_of_visit(root),
            "account": root.account,
            "state": root.state,
            **self._trouble(root),
            **({"person_removed": moment(root.forgot)} if root.forgot else {}),
            "later_ids": [member.external_id for member in family[1:]],
            "facts": {name: self._fact(name, fact) for name, fact in sorted(_counting(facts).items())},
            "changes": [self._change(facts_of, member) for member in family for facts_of in member.said()],
            "api": root.api,
            "attempts": [self.attempt(attempt) for member in family for attempt in member.attempts],
        }

    def _fact(self, name: str, fact: Fact) -> Row:
        return {"value": self._shown(name, fact.value), "said_by": fact.origin.rpartition(".")[0]}

    def _shown(self, name: str, value: Any) -> Any:
        personal = name.startswith("contact.") and name != "contact.id"
        return HIDDEN if personal and name not in self._reveal else value

    def _change(self, said: Any, member: Member) -> Row:
        return {
            "delivery": said.origin.rpartition(".")[0],
            "id": member.external_id,
            "action": said.action,
            "order": said.order,
            "says": {
                **said.facts,
                **{f"contact.{name}": self._shown(f"contact.{name}", value) for name, value in said.contact.items()},
            },
        }

    def failure(self, member: Member) -> Row:
        is_visit = member.work.startswith(VISIT)
        return {
            "id": member.external_id if is_visit else member.work.partition(":")[2],
            "kind": "visit" if is_visit else "event",
            **self._trouble(member),
            "attempts": len(member.attempts),
            "answered": self.attempt(member.attempts[-1])["answered"] if member.attempts else None,
        }

    def _trouble(self, member: Member) -> Row:
        told = {"reason": member.reason or None, "since": moment(member.since), "next_try": moment(member.due)}
        return {name: value for name, value in (told | {"tries": member.tries or None}).items() if value}

    def attempt(self, attempt: Attempt) -> Row:
        calls = [" ".join(map(str, call)) for call in attempt.calls]
        said = attempt.said if "answers" in self._reveal else redacted(attempt.said)
        return {
            "at": moment(attempt.at),
            "took_ms": attempt.took_ms,
            "outcome": attempt.outcome,
            "calls": calls,
            "answered": said or None,
        }


def _names(given: str) -> set[str]:
    source, _, id = given.partition("-")
    return {given, external_id(source, id)} if source in load() else {given}


def _told_of_delivery(meta: Meta, changes: Sequence[Row]) -> str:
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


def _told_of_visit(root: Member) -> str:
    match root.state:
        case "parked":
            return f"It needs you: {root.reason}."
        case "waiting" | "held":
            return f"Not there yet: {root.reason or root.state}. It is tried again by itself."
        case "queued" | "running":
            return "On its way to the Visits API."
        case "discarded":
            return "An operator gave up what was not applied."
    if not root.api:
        return "There is no visit, and there should be none."
    return (
        "The Visits API shows it as cancelled."
        if root.api.get("date_cancelled")
        else "The Visits API shows what was said."
    )
