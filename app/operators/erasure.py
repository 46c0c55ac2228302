"""Forgetting a person, by e-mail address, or by a phone number that leads to one: what we hold of them goes, and what was
decided stays.

    a visit of theirs         the contact in each of its changes; of the address a digest stays, so that the visit is still
                              theirs and no later event makes it anybody else's, or makes a second one. What was quoted
    a delivery that speaks    its body and headers, all of it, also where it speaks of others too: a part cannot be cut out
      of them, or gave such   of what a tool signed. What it meant to others' visits stays. Its id, time, hook and work
      a visit a change        stay, and when it was removed
    digests of the address    where the contact's id was remembered, and by which visits are found
    records, operations       what tools answered in the last seconds; filters of operations that are over

The keyed index knows the newest visits only, and none that is not settled. So everything is walked through, page by page,
and again until a walk finds nothing: what a worker had in its hands meanwhile is found by the next one.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import unquote

import orjson

from app.ledger import keys
from app.ledger.ids import TaskId, delivery_of
from app.ledger.ledger import Ledger, known_accounts
from app.ledger.records import BodyUnavailable, DeliveryInfo, NotFound, Task
from app.operators import search_index
from app.operators.explain import merge_visit, run_off_loop
from app.settings.model import Settings
from app.visits.change import ERASED_PREFIX, Contact
from app.visits.merge import CONTACT_KEY, desired_visit
from app.webhooks.delivery import JWT_PATTERN, decode_base64url

#: What is told of what is found.
LABELS = {
    "people": "are meant: by a number, everybody whose visits have it",
    "visits": "contact and quoted answers removed",
    "deliveries": "body and headers removed",
    "shared": "of these deliveries spoke of others' visits too, which stay as they are",
    "digests": "digests of the address removed",
    "operations": "filters removed",
    "unfinished": "not done yet: they lack what was removed, and will need an operator",
}
PHONE_NOTE = (
    "a number only leads to the e-mail addresses of visits that have it: what has no address is not found by it"
)
NOT_COVERED = (
    "the contact and its visits in Review Rover: delete the contact there",
    "the tool's own record: remove it there too, or the tool may ring with it again",
    "backups of Redis, and its append-only file until it is rewritten (BGREWRITEAOF)",
)

#: Keys to a page; visits to a slice, and bodies, by number and by bytes. A slice is looked through in a thread, so that
#: deliveries do not wait, and between two of them a deadline can end the walk.
SCAN_BATCH, VISIT_BATCH, BODY_BATCH, MAX_BATCH_BYTES = 500, 100, 50, 8_388_608
#: In the place of why a delivery was ignored.
ERASED = "removed"
#: Longer than the lease of a worker that died.
BUSY_TIMEOUT_S = 40.0
MAX_PASSES = 5


@dataclass(slots=True)
class ErasureReport:
    """What speaks of a person. people: digests of addresses. visits: names of work. deliveries, operations: ids. digests:
    keys. shared: deliveries that spoke of others' visits too. open: work that is not done, and lacks what is removed.
    unreadable: deliveries that cannot be looked into. busy: what could not be removed, since somebody had it all the time.
    phones: never told."""

    people: set[str] = field(default_factory=set)
    visits: set[TaskId] = field(default_factory=set)
    deliveries: set[str] = field(default_factory=set)
    digests: set[str] = field(default_factory=set)
    operations: set[str] = field(default_factory=set)
    shared: set[str] = field(default_factory=set)
    unfinished: set[str] = field(default_factory=set)
    unreadable: set[str] = field(default_factory=set)
    busy: set[str] = field(default_factory=set)
    phones: set[str] = field(default_factory=set)

    def add(self, other: "ErasureReport") -> None:
        for one in fields(ErasureReport):
            getattr(self, one.name).update(getattr(other, one.name))

    @property
    def is_empty(self) -> bool:
        return not (self.visits or self.deliveries or self.digests or self.operations)

    @property
    def counts(self) -> dict[str, int]:
        """Of what there is something, as TOLD tells it."""
        return {what: count for what in LABELS if (count := len(getattr(self, what)))}

    @property
    def unreadable_note(self) -> str:
        """What may be there all the same."""
        told = (
            f"{len(self.unreadable)} bodies are encrypted with keys that BODY_KEYS lacks: what they say cannot be seen"
        )
        return told if self.unreadable else ""


OnProgress = Callable[[int], None]
T = TypeVar("T")


async def resolve_emails(ledger: Ledger, settings: Settings, text: str) -> list[str]:
    """The addresses that the text means: an e-mail address, as search_index.email() writes it; for a number, those of the
    visits that it finds. Raises RedisUnavailable."""
    if email := search_index.normalize_email(text):
        return [email]
    found, number = dict[str, None](), search_index.normalize_phone(text)
    for work in (
        await search_index.lookup(ledger.redis, text, settings.secret_key, search_index.MAX_VISITS_PER_KEY)
        if number
        else ()
    ):
        with suppress(NotFound):
            family = await ledger.load_aliases(work)
            contact = desired_visit(await run_off_loop(family, merge_visit, family)).contact
            if search_index.normalize_phone(contact.phone or "") == number and (
                email := search_index.normalize_email(contact.email or "")
            ):
                found[email] = None
    return list(found)


def activity_target(each: Iterable["Erasure"], found: ErasureReport) -> str:
    """For the activity log: digests for addresses."""
    names = " ".join(one.digest for one in each)
    return f"{names}: {len(found.visits)} visits, {len(found.deliveries)} deliveries"


async def plan_all(each: Iterable["Erasure"]) -> ErasureReport:
    found = ErasureReport()
    for one in each:
        found.add(await one.plan())
    return found


async def erase_all(each: Iterable["Erasure"]) -> ErasureReport:
    removed = ErasureReport()
    for one in each:
        removed.add(await one.execute())
    return removed


class Erasure:
    """Of one person. Every method may raise RedisUnavailable."""

    def __init__(
        self, ledger: Ledger, settings: Settings, email: str, on_progress: OnProgress = lambda _: None
    ) -> None:
        """email: as search_index.email() writes it. told: hears of every page how many keys it walked past."""
        self._ledger, self._redis, self._settings, self._on_progress = ledger, ledger.redis, settings, on_progress
        self._email, self._mentions = email, mentions(email)
        self._body_batch = max(1, min(BODY_BATCH, MAX_BATCH_BYTES // settings.max_body))

    @property
    def digest(self) -> str:
        """What stands for the address in the activity log."""
        return self._contact_keys("main")[0]

    async def plan(self) -> ErasureReport:
        """What is to be removed."""
        found, theirs, said_by = ErasureReport(), set[str](), set[str]()
        async for family in self._iter_visits():
            theirs.update(member.task_id for member in family)
            said_by.update(delivery_of(origin) for one in family for origin in (*one.changes, *one.discarded_changes))
            self._inspect_visit(family, found)
        async for page in self._scan(f"{keys.DELIVERY}*"):
            for batch in batched(page, self._body_batch):
                await self._inspect_deliveries(batch, theirs, said_by, found)
        async for page in self._scan(f"{keys.OPERATION}*"):
            for key in page:
                order = (
                    b"" if key.endswith((":lock", ":results")) else await self._redis.command("HGET", key, "request")
                )
                if self._mentions(order or b""):
                    found.operations.add(key.removeprefix(keys.OPERATION))
        for key in await self._digest_keys():
            if await self._redis.command("EXISTS", key):
                found.digests.add(key)
        if not found.is_empty:
            found.people.add(self.digest)
        return found

    async def execute(self) -> ErasureReport:
        """Remove it; what was removed, and what could not be."""
        removed = ErasureReport()
        for _ in range(MAX_PASSES):
            found = await self.plan()
            removed.add(found)
            await self._erase(found, removed)
            if found.is_empty or removed.busy:
                break
        return removed

    # -- looking --

    async def _scan(self, pattern: str) -> AsyncIterator[list[str]]:
        cursor = b"0"
        while True:
            cursor, page = await self._redis.command("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_BATCH)
            yield [key.decode() for key in page]
            self._on_progress(SCAN_BATCH)
            if cursor == b"0":
                return

    async def _iter_visits(self) -> AsyncIterator[list[Task]]:
        """The person's visits, each with all of its ids: those that the index knows, and those that name them."""
        works = await search_index.lookup(
            self._redis, self._email, self._settings.secret_key, search_index.MAX_VISITS_PER_KEY
        )
        for work in works:
            if family := await self._visit_or_empty(work):
                yield family
        async for page in self._scan(f"{keys.TASK}visit:*"):
            for batch in batched(page, VISIT_BATCH):
                kept = await asyncio.gather(*(self._redis.command("HVALS", key) for key in batch))
                for key in await asyncio.to_thread(self._keys_naming_person, batch, kept):
                    if family := await self._visit_or_empty(TaskId(key.removeprefix(keys.TASK))):
                        yield family

    async def _visit_or_empty(self, work: TaskId) -> list[Task]:
        try:
            return await self._ledger.load_aliases(work)
        except NotFound:
            return []

    def _keys_naming_person(self, batch: Sequence[str], kept: Sequence[list[bytes]]) -> list[str]:
        return [key for key, values in zip(batch, kept, strict=True) if any(map(self._names_person, values))]

    def _names_person(self, value: bytes) -> bool:
        return self._mentions(value) or any(
            f"{ERASED_PREFIX}{name}".encode() in value for name in self._all_contact_keys
        )

    @cached_property
    def _all_contact_keys(self) -> set[str]:
        return {name for account in self._settings.all_accounts for name in self._contact_keys(account)}

    def _inspect_visit(self, family: list[Task], found: ErasureReport) -> None:
        for member in family:
            if self._redacted_fields(member, family[0], found):
                found.visits.add(member.task_id)
        if found.visits & {member.task_id for member in family}:
            found.unfinished.update(one.task_id for one in family if one.state not in ("done", "discarded"))

    async def _inspect_deliveries(
        self, batch: Sequence[str], theirs: set[str], said_by: set[str], found: ErasureReport
    ) -> None:
        records = await self._redis.command("MGET", *batch)
        for id, meta, speaks in await asyncio.to_thread(self._decode, batch, records):
            if speaks or id in said_by or not theirs.isdisjoint(meta.task_ids):
                found.deliveries.add(id)
                await self._inspect_tasks(id, meta, theirs, found)
            elif speaks is None:
                found.unreadable.add(id)

    def _decode(
        self, batch: Sequence[str], records: Sequence[bytes | None]
    ) -> list[tuple[str, DeliveryInfo, bool | None]]:
        """Of each delivery whether it speaks of the person; None: it cannot be looked into. What was removed already is left
        out, but for what an older version left."""
        read: list[tuple[str, DeliveryInfo, bool | None]] = []
        for key, record in zip(batch, records, strict=True):
            if record is None:
                continue
            id, is_encrypted = key.removeprefix(keys.DELIVERY), False
            try:
                meta, raw = self._ledger.decode_delivery(id, record)
            except BodyUnavailable as error:
                meta, raw, is_encrypted = error.info, b"", bool(record.partition(b"\n")[2])
            if not meta.erased_at_ms or meta.event_name:
                speaks = self._mentions(raw) or self._mentions(f"{meta.event_name} {meta.ignored}".encode())
                read.append((id, meta, None if is_encrypted and not speaks else speaks))
        return read

    async def _inspect_tasks(self, id: str, meta: DeliveryInfo, theirs: set[str], found: ErasureReport) -> None:
        works = set(meta.task_ids)
        if TaskId.event(id) in works and (event := await self._task_or_none(TaskId.event(id))):
            works = set(event.targets)
            if event.state not in ("done", "discarded"):
                found.unfinished.add(event.task_id)
        if works - theirs:
            found.shared.add(id)

    async def _task_or_none(self, work: TaskId) -> Task | None:
        try:
            return await self._ledger.load_task(work)
        except NotFound:
            return None

    # -- removing --

    async def _erase(self, found: ErasureReport, removed: ErasureReport) -> None:
        for work in sorted(found.visits):
            await self._retry_while_busy(work, lambda work=work: self._erase_contact(work), removed)  # type: ignore[misc]
        for id in sorted(found.deliveries):
            await self._retry_while_busy(TaskId.event(id), lambda id=id: self._erase_body(id), removed)  # type: ignore[misc]
        for id in sorted(found.operations):
            await self._erase_filter(id, removed)
        for phone in filter(None, map(search_index.normalize_phone, found.phones)):
            for key in self._settings.secret_key:
                await self._redis.command("ZREM", search_index.index_key(phone, key), *found.visits, "")
        async for page in self._scan(f"{keys.RECORD}*"):  # of anybody: they would serve for seconds only
            for key in page:
                await self._redis.command("DEL", key)
        if digests := await self._digest_keys():
            await self._redis.command("DEL", *digests)

    async def _retry_while_busy(self, work: TaskId, step: Callable[[], Awaitable[str]], removed: ErasureReport) -> None:
        """What a worker has in its hands is waited for, and what something landed on is read again."""
        until = time.monotonic() + BUSY_TIMEOUT_S
        while (came_of_it := await step()) != "ok":
            if time.monotonic() > until:
                removed.busy.add(work)
                return
            await asyncio.sleep(0 if came_of_it == "moved" else 0.1)

    async def _erase_contact(self, work: TaskId) -> str:
        family = await self._visit_or_empty(work)
        for member in family:
            if member.task_id == work:
                return await self._ledger.redact(
                    work, member.change_count, b"", self._redacted_fields(member, family[0], ErasureReport())
                )
        return "ok"  # it went by itself

    async def _erase_body(self, id: str) -> str:
        event = await self._task_or_none(TaskId.event(id))
        try:
            meta = await self._ledger.load_delivery_info(id)
        except NotFound:
            return "ok"
        removed_at = int((await self._ledger.server_time()).timestamp() * 1000)
        # What the tool calls the event, and why there was nothing to do, may be sentences that name somebody.
        bare = replace(
            meta,
            headers={},
            event_name="",
            ignored=meta.ignored and ERASED,
            erased_at_ms=meta.erased_at_ms or removed_at,
        )
        record = orjson.dumps(bare) + b"\n"
        quoted = _attempts_without_answers(event) if event else {}
        return await self._ledger.redact(TaskId.event(id), event.change_count if event else None, record, quoted)

    async def _erase_filter(self, id: str, removed: ErasureReport) -> None:
        """An open operation still needs its filter."""
        order, state = await self._redis.command("HMGET", f"{keys.OPERATION}{id}", "request", "state")
        if state in (b"queued", b"running"):
            removed.busy.add(f"operation:{id}")
        elif order:
            words = self._redact(orjson.loads(order))
            await self._redis.commands(("HSET", f"{keys.OPERATION}{id}", "request", orjson.dumps(words)))

    def _redact(self, told: Any) -> Any:
        if isinstance(told, dict):
            return {name: self._redact(value) for name, value in told.items()}
        if isinstance(told, list):
            return [self._redact(value) for value in told]
        return "(removed)" if isinstance(told, str) and self._mentions(told.encode()) else told

    def _redacted_fields(self, member: Task, root: Task, found: ErasureReport) -> dict[str, bytes]:
        """The fields of a visit that are to change, without the person."""
        changed = _attempts_without_answers(member)
        for prefix, changes in (("change", member.changes), ("discarded", member.discarded_changes)):
            for origin, kept in changes.items():
                change = orjson.loads(kept.body)
                contact = change.get("c", {})
                left = self._redacted_contact(contact, member.account, root)
                if left != contact:
                    found.phones.add(contact.get("phone", ""))
                    changed[f"{prefix}:{origin}"] = b"%d %b" % (kept.number, orjson.dumps(change | {"c": left}))
        return changed

    def _redacted_contact(self, contact: dict[str, str], account: str, root: Task) -> dict[str, str]:
        """Of somebody else's address nothing is taken. What has no address counts as theirs."""
        email = contact.get("email")
        if email and email != self._email:
            return contact
        left: dict[str, str] = {name: contact[name] for name in ("id", "email") if name in contact}
        if email:
            names, remembered = self._contact_keys(account), (root.remote or {}).get(CONTACT_KEY)
            left["email"] = ERASED_PREFIX + (remembered if remembered in names else names[0])
        return left

    # -- digests --

    def _contact_keys(self, account: str) -> list[str]:
        """What the contact is remembered by, under each key."""
        hash_keys = [key.encode() for key in self._settings.secret_key] or [self._settings.contact_hash_key(account)]
        return [str(Contact(email=self._email).cache_key(key)) for key in hash_keys]

    async def _digest_keys(self) -> list[str]:
        accounts = await known_accounts(self._redis, self._settings.all_accounts)
        contacts = [f"{keys.CONTACT}{account}:{name}" for account in accounts for name in self._contact_keys(account)]
        return [
            *contacts,
            *(search_index.index_key(self._email, key) for key in self._settings.secret_key),
        ]


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _attempts_without_answers(member: Task) -> dict[str, bytes]:
    """The attempts that quote an answer, without it."""
    quoting = {number: attempt for number, attempt in member.attempts_by_number.items() if attempt.response_text}
    return {
        f"attempt:{number}": orjson.dumps(replace(attempt, response_text="")) for number, attempt in quoting.items()
    }


#: A run of backslashes is read once, also where nothing follows it that they could escape: in linear time.
_ESCAPED = re.compile(r"(?<!\\)\\++(?:u([0-9a-f]{4})|[nrtbf/\"])")


def mentions(email: str) -> Callable[[bytes], bool]:
    """Whether a text has the address in it: as JSON, in JSON, as a form, in a token; as a word of its own."""
    word = re.compile(rf"(?<![\w.+%-]){re.escape(email)}(?![\w-]|\.\w)")

    def speaks(raw: bytes) -> bool:
        if JWT_PATTERN.fullmatch(raw.strip()):
            raw = decode_base64url(raw.split(b".")[1]) or raw
        plain = raw.decode("utf-8", "replace").lower()
        for text in (plain, unquote(plain)) if "%" in plain else (plain,):
            if "\\" in text:
                text = _ESCAPED.sub(lambda found: chr(int(found[1], 16)) if found[1] else " ", text).lower()
            if word.search(text):
                return True
        return False

    return speaks
