"""Erasure of the personal data of one person, by e-mail address, or by a phone number that leads to one.

    visits of the person      the contact in each change, and quoted responses. A digest replaces the address, so that later
                              events still match the visit and no event creates a second one
    deliveries that mention   the whole body and the headers, even if the body mentions other people: no part of a signed
      the person, or changed  body can be cut out. Changes of other visits are not erased, nor are id, time, hook and tasks
      such a visit            of the delivery. Also the responses that tools gave when its record was fetched
    digests of the address    cached contact ids, and the search index
    records, operations       cached responses of tools; filters of finished operations

The search index contains only the newest finished visits. An erasure therefore scans all keys, and repeats the scan until
nothing matches: a worker may have written personal data during a scan.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import unquote

import orjson

from app.ledger import keys
from app.ledger.batches import batched
from app.ledger.ids import TaskId, delivery_id_of, delivery_of
from app.ledger.ledger import Ledger, known_accounts
from app.ledger.records import BodyUnavailable, DeliveryInfo, NotFound, Task
from app.ledger.values import join_values
from app.operators import search_index
from app.operators.explain import merge_visit, run_off_loop, stored_aliases
from app.operators.operations import Operations
from app.settings.model import Settings
from app.visits.change import ERASED_PREFIX, Contact
from app.visits.merge import CONTACT_KEY, desired_visit
from app.webhooks.delivery import JWT_PATTERN, decode_base64url

#: The effect of an erasure on each part of an ErasureReport.
LABELS = {
    "people": "those with this address, or with an address whose visits have this phone number",
    "visits": "contact and quoted responses erased",
    "deliveries": "body and headers erased",
    "shared": "of these deliveries also mention visits of other people; these visits are not changed",
    "digests": "digests of the address deleted",
    "operations": "filters erased",
    "unfinished": "tasks are not done: they lack the erased data and will need an operator",
}
PHONE_NOTE = "only visits that also have an e-mail address can be found by phone number"
NOT_COVERED = (
    "the contact and its visits in Review Rover: delete the contact there",
    "the tool's own record: delete it there too, or the tool may send it again",
    "backups of Redis, and its append-only file until it is rewritten (BGREWRITEAOF)",
)

#: A thread searches each batch, so that the event loop stays responsive. A timeout can end the scan between batches.
SCAN_BATCH, TASK_BATCH, BODY_BATCH, MAX_BATCH_BYTES = 500, 100, 50, 8_388_608
#: Replaces the reason why a delivery was ignored.
ERASED = "removed"
#: The longest wait for all leases together: longer than the lease of a dead worker.
BUSY_TIMEOUT_S = 40.0
#: The prefix of operations in ErasureReport.busy.
OPERATION = "operation:"
MAX_PASSES = 5


@dataclass(slots=True)
class ErasureReport:
    """The data of a person that an erasure affects.

    people: digests of the addresses. deliveries, operations: ids. digests: Redis keys. shared: deliveries that also mention
    visits of other people. unfinished: tasks that are not done and lack the erased data. unreadable: deliveries that cannot
    be decrypted. busy: tasks and operations that were in use and are not erased. late: tasks and operations that mention the
    person again after the last pass. phones, names: never shown.
    """

    people: set[str] = field(default_factory=set)
    visits: set[TaskId] = field(default_factory=set)
    deliveries: set[str] = field(default_factory=set)
    digests: set[str] = field(default_factory=set)
    operations: set[str] = field(default_factory=set)
    shared: set[str] = field(default_factory=set)
    unfinished: set[str] = field(default_factory=set)
    unreadable: set[str] = field(default_factory=set)
    busy: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)
    phones: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    def add(self, report: "ErasureReport") -> None:
        for attribute in fields(ErasureReport):
            getattr(self, attribute.name).update(getattr(report, attribute.name))

    @property
    def is_empty(self) -> bool:
        return not (self.visits or self.deliveries or self.digests or self.operations)

    @property
    def counts(self) -> dict[str, int]:
        """Return the counts above 0, by the names in LABELS."""
        return {name: count for name in LABELS if (count := len(getattr(self, name)))}

    @property
    def unreadable_note(self) -> str:
        if not self.unreadable:
            return ""
        return f"{len(self.unreadable)} bodies cannot be searched: they are encrypted with keys that BODY_KEYS lacks"

    @property
    def incomplete_notes(self) -> list[str]:
        """Say what is not erased, and why; empty if everything is erased."""
        operations = sorted(id.removeprefix(OPERATION) for id in self.busy if id.startswith(OPERATION))
        tasks = sorted(id for id in self.busy if not id.startswith(OPERATION))
        notes = (
            (tasks, "these tasks run, or their account moves to another cell"),
            (operations, "these operations have not ended"),
            (sorted(id.removeprefix(OPERATION) for id in self.late), "new data of the person arrived meanwhile"),
        )
        return [f"not erased, because {reason}: {', '.join(ids)}" for ids, reason in notes if ids]


OnProgress = Callable[[int], None]
T = TypeVar("T")


async def resolve_emails(ledger: Ledger, settings: Settings, text: str) -> list[str]:
    """Return the e-mail address in `text`, or the addresses of the visits with the phone number in it.

    Addresses are normalized. Raises RedisUnavailable.
    """
    if email := search_index.normalize_email(text):
        return [email]
    if not (number := search_index.normalize_phone(text)):
        return []
    emails = dict[str, None]()
    limit = search_index.MAX_SELECTED
    for task_id in await search_index.lookup(ledger.redis, text, settings.secret_key, limit):
        with suppress(NotFound):
            aliases = await ledger.load_aliases(task_id)
            contact = desired_visit(await run_off_loop(aliases, merge_visit, aliases)).contact
            if search_index.normalize_phone(contact.phone or "") == number and (
                email := search_index.normalize_email(contact.email or "")
            ):
                emails[email] = None
    return list(emails)


def activity_target(erasures: Iterable["Erasure"], report: ErasureReport) -> str:
    """Return the text for the activity log, with digests in place of addresses."""
    names = " ".join(erasure.digest for erasure in erasures)
    return f"{names}: {len(report.visits)} visits, {len(report.deliveries)} deliveries"


async def plan_all(erasures: Iterable["Erasure"]) -> ErasureReport:
    report = ErasureReport()
    for erasure in erasures:
        report.add(await erasure.plan())
    return report


async def erase_all(erasures: Iterable["Erasure"]) -> ErasureReport:
    report = ErasureReport()
    for erasure in erasures:
        report.add(await erasure.execute())
    return report


class Erasure:
    """The erasure of one person. Every method may raise RedisUnavailable."""

    def __init__(
        self,
        ledger: Ledger,
        settings: Settings,
        email: str,
        on_progress: OnProgress = lambda _: None,
        *,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        """email: as search_index.normalize_email() returns it. on_progress: called with the number of keys of each page.

        busy_timeout_s: the longest wait for all leases together.
        """
        self._ledger, self._redis, self._settings, self._on_progress = ledger, ledger.redis, settings, on_progress
        self._email, self._mentions = email, mentions(email)
        self._wait_left_s = busy_timeout_s
        self._operations = Operations(ledger, settings)
        self._body_batch = max(1, min(BODY_BATCH, MAX_BATCH_BYTES // settings.max_body))

    @property
    def digest(self) -> str:
        """The digest that replaces the address in the activity log."""
        return self._contact_keys("main")[0]

    async def plan(self) -> ErasureReport:
        report, own_task_ids, own_deliveries = ErasureReport(), set[str](), set[str]()
        async for aliases in self._iter_visits():
            own_task_ids.update(alias.task_id for alias in aliases)
            own_deliveries.update(
                delivery_of(origin) for alias in aliases for origin in (*alias.changes, *alias.discarded_changes)
            )
            self._inspect_visit(aliases, report)
        async for task_id, values, is_named in self._scan_tasks("event"):
            if is_named:
                report.deliveries.add(task_id.delivery_id)
            if not own_task_ids.isdisjoint(values.get(b"targets", b"").decode().split()):
                own_deliveries.add(task_id.delivery_id)
        async for page in self._scan(f"{keys.DELIVERY}*"):
            for batch in batched(page, self._body_batch):
                await self._inspect_deliveries(batch, own_task_ids, own_deliveries, report)
        async for page in self._scan(f"{keys.OPERATION}*"):
            for key in page:
                id, colon, _ = key.removeprefix(keys.OPERATION).partition(":")
                if not colon and self._mentions(await self._operation_request(id)):
                    report.operations.add(id)
        for key in await self._contact_cache_keys():
            if await self._redis.command("EXISTS", key):
                report.digests.add(key)
        if await search_index.lookup(self._redis, self._email, self._settings.secret_key, 1):
            report.digests.add(keys.INDEX)
        if not report.is_empty:
            report.people.add(self.digest)
        return report

    async def execute(self) -> ErasureReport:
        erased = ErasureReport()
        for _ in range(MAX_PASSES):
            planned = await self.plan()
            erased.add(planned)
            await self._erase(planned, erased)
            if planned.is_empty or erased.busy:
                break
        else:
            remaining = await self.plan()
            erased.late.update(remaining.visits, map(TaskId.event, remaining.deliveries))
            erased.late.update(f"{OPERATION}{id}" for id in remaining.operations)
        incomplete = erased.busy | erased.late
        erased.visits -= incomplete
        erased.deliveries -= {id for id in erased.deliveries if TaskId.event(id) in incomplete}
        erased.operations -= {id for id in erased.operations if f"{OPERATION}{id}" in incomplete}
        return erased

    # -- search --

    async def _operation_request(self, id: str) -> bytes:
        """Return the request of an operation, with its contacts; empty if it has expired."""
        try:
            return orjson.dumps(asdict((await self._operations.get(id)).request))
        except NotFound:
            return b""

    async def _scan(self, pattern: str) -> AsyncIterator[list[str]]:
        cursor = b"0"
        while True:
            cursor, page = await self._redis.command("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_BATCH)
            yield [key.decode() for key in page]
            self._on_progress(SCAN_BATCH)
            if cursor == b"0":
                return

    async def _iter_visits(self) -> AsyncIterator[list[Task]]:
        """Yield the person's visits with all their ids: first those in the search index, then those that a scan matches."""
        task_ids = await search_index.lookup(
            self._redis, self._email, self._settings.secret_key, search_index.MAX_VISITS_PER_KEY
        )
        for task_id in task_ids:
            if aliases := await stored_aliases(self._ledger, task_id):
                yield aliases
        async for task_id, _, is_named in self._scan_tasks("visit"):
            if is_named and (aliases := await stored_aliases(self._ledger, task_id)):
                yield aliases

    async def _scan_tasks(self, kind: str) -> AsyncIterator[tuple[TaskId, dict[bytes, bytes], bool]]:
        """Yield the tasks of a kind with their values, and whether one of these names the person."""

        def read(batch: Sequence[str], stored: Sequence[list[bytes]]) -> list[tuple[TaskId, dict[bytes, bytes], bool]]:
            values = map(join_values, stored)
            return [
                (TaskId(key.removeprefix(keys.TASK)), each, any(map(self._names_person, each.values())))
                for key, each in zip(batch, values, strict=True)
            ]

        async for page in self._scan(f"{keys.TASK}{kind}:*"):
            for batch in batched(page, TASK_BATCH):
                stored = await self._redis.pipeline([("HGETALL", key) for key in batch])
                for task in await asyncio.to_thread(read, batch, stored):
                    yield task

    def _names_person(self, value: bytes) -> bool:
        return self._mentions(value) or any(
            f"{ERASED_PREFIX}{name}".encode() in value for name in self._all_contact_keys
        )

    @cached_property
    def _all_contact_keys(self) -> set[str]:
        return {name for account in self._settings.all_accounts for name in self._contact_keys(account)}

    def _inspect_visit(self, aliases: list[Task], report: ErasureReport) -> None:
        redacted = {alias.task_id for alias in aliases if self._redacted_fields(alias, aliases[0], report)}
        if redacted:
            # The primary id has the state of the visit, and its entries in the search index.
            report.visits |= redacted | {aliases[0].task_id}
            report.unfinished.update(alias.task_id for alias in aliases if alias.state not in ("done", "discarded"))

    async def _inspect_deliveries(
        self, batch: Sequence[str], own_task_ids: set[str], own_deliveries: set[str], report: ErasureReport
    ) -> None:
        records = await self._redis.pipeline([("GET", key) for key in batch])
        for id, meta, is_match in await asyncio.to_thread(self._decode, batch, records):
            if is_match or id in own_deliveries or not own_task_ids.isdisjoint(meta.task_ids):
                report.deliveries.add(id)
                await self._inspect_tasks(id, meta, own_task_ids, report)
            elif is_match is None:
                report.unreadable.add(id)

    def _decode(
        self, batch: Sequence[str], records: Sequence[bytes | None]
    ) -> list[tuple[str, DeliveryInfo, bool | None]]:
        """Return each delivery with whether it mentions the person; None if its body cannot be decrypted.

        Erased deliveries are omitted.
        """
        decoded: list[tuple[str, DeliveryInfo, bool | None]] = []
        for key, record in zip(batch, records, strict=True):
            if record is None:
                continue
            head, _, body = record.partition(b"\n")
            id, is_encrypted = delivery_id_of(key, DeliveryInfo.decode(head).received_at_ms), False
            try:
                meta, raw = self._ledger.decode_delivery(id, record)
            except BodyUnavailable as error:
                meta, raw, is_encrypted = error.info, b"", bool(body)
            if not meta.erased_at_ms:
                is_match = self._mentions(raw) or self._mentions(f"{meta.event_name} {meta.ignored}".encode())
                decoded.append((id, meta, None if is_encrypted and not is_match else is_match))
        return decoded

    async def _inspect_tasks(self, id: str, meta: DeliveryInfo, own_task_ids: set[str], report: ErasureReport) -> None:
        task_ids = set(meta.task_ids)
        if TaskId.event(id) in task_ids and (event := await self._task_or_none(TaskId.event(id))):
            task_ids = set(event.targets)
            if event.state not in ("done", "discarded"):
                report.unfinished.add(event.task_id)
        if task_ids - own_task_ids:
            report.shared.add(id)

    async def _task_or_none(self, task_id: TaskId) -> Task | None:
        try:
            return await self._ledger.load_task(task_id)
        except NotFound:
            return None

    # -- erasure --

    async def _erase(self, planned: ErasureReport, erased: ErasureReport) -> None:
        for task_id in sorted(planned.visits):
            await self._retry_while_busy(task_id, lambda task_id=task_id: self._erase_contact(task_id), erased)  # type: ignore[misc]
        for id in sorted(planned.deliveries):
            await self._retry_while_busy(TaskId.event(id), lambda id=id: self._erase_body(id), erased)  # type: ignore[misc]
        await self._shorten_people(planned.visits)
        for id in sorted(planned.operations):
            await self._erase_filter(id, erased)
        # A visit that is not erased yet must be found again by its phone number.
        await search_index.remove_visits(
            self._redis, sorted(planned.visits - erased.busy), planned.phones, planned.names, self._settings.secret_key
        )
        await search_index.remove_email(self._redis, self._email, self._settings.secret_key)
        async for page in self._scan(f"{keys.RECORD}*"):  # of all people: they expire within ten minutes
            for key in page:
                await self._redis.command("DEL", key)
        await self._redis.pipeline([("DEL", key) for key in await self._contact_cache_keys()])

    async def _retry_while_busy(
        self, task_id: TaskId, step: Callable[[], Awaitable[str]], erased: ErasureReport
    ) -> None:
        """Wait while a worker has the lease, and try again at once if the task changed since it was read."""
        while (result := await step()) != "ok":
            if self._wait_left_s <= 0:
                erased.busy.add(task_id)
                return
            began = time.monotonic()
            await asyncio.sleep(0 if result == "moved" else 0.1)
            self._wait_left_s -= time.monotonic() - began

    async def _erase_contact(self, task_id: TaskId) -> str:
        aliases = await stored_aliases(self._ledger, task_id)
        for alias in aliases:
            if alias.task_id == task_id:
                return await self._ledger.redact(
                    task_id, alias.change_count, b"", self._redacted_fields(alias, aliases[0], ErasureReport())
                )
        return "ok"  # it expired

    async def _shorten_people(self, visits: Iterable[TaskId]) -> None:
        """Let the lists of the people in the visits' bookings expire with the visits.

        Until then they are needed: a tool that deletes a booking does not say whose visits are cancelled.
        """
        retention_ms = self._settings.retention_days * 86_400_000
        for task_id in visits:
            expires_in_ms = await self._redis.command("PTTL", f"{keys.TASK}{task_id}")
            # The visits of a booking are named by it, or by it, a dot and a person.
            for booking in {task_id.external_id, task_id.external_id.rpartition(".")[0]}:
                key = f"{keys.PEOPLE}{task_id.account}/{booking}"
                keep_ms = expires_in_ms if expires_in_ms > 0 else retention_ms
                await self._redis.command("PEXPIRE", key, keep_ms, "LT")

    async def _erase_body(self, id: str) -> str:
        event, record = await self._task_or_none(TaskId.event(id)), await self._erased_record(id)
        if event is None and not record:
            return "ok"  # both have expired
        quoted = _attempts_without_responses(event) if event else {}
        return await self._ledger.redact(TaskId.event(id), event.change_count if event else None, record, quoted)

    async def _erased_record(self, id: str) -> bytes:
        """Return the record of a delivery without personal data; empty if it has expired."""
        try:
            meta = await self._ledger.load_delivery_info(id)
        except NotFound:
            return b""
        now_ms = int((await self._ledger.server_time()).timestamp() * 1000)
        # The name of the event and the reason why it was ignored are the tool's texts, and may name the person.
        erased_info = replace(
            meta,
            headers={},
            event_name="",
            ignored=meta.ignored and ERASED,
            erased_at_ms=meta.erased_at_ms or now_ms,
        )
        return erased_info.encode() + b"\n"

    async def _erase_filter(self, id: str, erased: ErasureReport) -> None:
        # An unfinished operation needs its filter.
        request, state = await self._redis.command("HMGET", f"{keys.OPERATION}{id}", "request", "state")
        if state in (b"queued", b"running"):
            erased.busy.add(f"{OPERATION}{id}")
        elif request:
            redacted = self._redact(orjson.loads(request))
            await self._redis.commands(("HSET", f"{keys.OPERATION}{id}", "request", orjson.dumps(redacted)))

    def _redact(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._redact(value) for name, value in value.items()}
        if isinstance(value, list):
            return [self._redact(value) for value in value]
        return "(removed)" if isinstance(value, str) and self._mentions(value.encode()) else value

    def _redacted_fields(self, task: Task, primary: Task, report: ErasureReport) -> dict[str, bytes]:
        """Return the stored fields of a visit that mention the person, redacted."""
        redacted_fields = _attempts_without_responses(task)
        for prefix, changes in (("change", task.changes), ("discarded", task.discarded_changes)):
            for origin, stored in changes.items():
                change = orjson.loads(stored.body)
                contact = change.get("c", {})
                redacted = self._redacted_contact(contact, task.account, primary)
                if redacted != contact:
                    report.phones.add(contact.get("phone", ""))
                    report.names.add(search_index.full_name(contact.get("first_name"), contact.get("last_name")))
                    redacted_fields[f"{prefix}:{origin}"] = b"%d %b" % (
                        stored.number,
                        orjson.dumps(change | {"c": redacted}),
                    )
        return redacted_fields

    def _redacted_contact(self, contact: dict[str, str], account: str, primary: Task) -> dict[str, str]:
        """Redact a contact that has the person's address or none; a contact with another address is returned unchanged."""
        email = contact.get("email")
        if email and email != self._email:
            return contact
        redacted: dict[str, str] = {name: contact[name] for name in ("id", "email") if name in contact}
        if email:
            contact_keys, remote_key = self._contact_keys(account), (primary.remote or {}).get(CONTACT_KEY)
            redacted["email"] = ERASED_PREFIX + (remote_key if remote_key in contact_keys else contact_keys[0])
        return redacted

    # -- digests --

    def _contact_keys(self, account: str) -> list[str]:
        """Return the digests of the address, one per key of SECRET_KEY."""
        hash_keys = [key.encode() for key in self._settings.secret_key] or [self._settings.contact_hash_key(account)]
        return [str(Contact(email=self._email).cache_key(key)) for key in hash_keys]

    async def _contact_cache_keys(self) -> list[str]:
        accounts = await known_accounts(self._redis, self._settings.all_accounts)
        return [f"{keys.CONTACT}{account}:{name}" for account in accounts for name in self._contact_keys(account)]


def _attempts_without_responses(task: Task) -> dict[str, bytes]:
    """Return the attempts that quote a response, without the response."""
    quoting = {number: attempt for number, attempt in task.attempts_by_number.items() if attempt.response_text}
    return {f"attempt:{number}": replace(attempt, response_text="").encode() for number, attempt in quoting.items()}


#: Possessive: long runs of backslashes match in linear time.
_ESCAPED = re.compile(r"(?<!\\)\\++(?:u([0-9a-f]{4})|[nrtbf/\"])")


def mentions(email: str) -> Callable[[bytes], bool]:
    """Return a test for the address as a word in a text, which may be plain, escaped JSON, a form or a JWT."""
    word = re.compile(rf"(?<![\w.+%-]){re.escape(email)}(?![\w-]|\.\w)")

    def is_mentioned(raw: bytes) -> bool:
        if JWT_PATTERN.fullmatch(raw.strip()):
            raw = decode_base64url(raw.split(b".")[1]) or raw
        decoded = raw.decode("utf-8", "replace").lower()
        for text in (decoded, unquote(decoded).lower()) if "%" in decoded else (decoded,):
            if "\\" in text:
                text = _ESCAPED.sub(lambda match: chr(int(match[1], 16)) if match[1] else " ", text).lower()
            if word.search(text):
                return True
        return False

    return is_mentioned
