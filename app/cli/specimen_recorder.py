"""Turns a delivery into a specimen: personal data replaced, records included, ready to be signed."""

import base64
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlencode

from app.cli.specimen_files import CannotComplete, SpecimenEntry, changes_of
from app.webhooks.anonymization import Anonymizer, remaining_values
from app.webhooks.delivery import JWT_PATTERN, Delivery, UnreadableBody, parse_body
from app.webhooks.fetching import RecordRequest
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.registry import load_sources, load_specimens, specimen_body
from app.webhooks.source import Ignored, LoadedSource
from app.webhooks.source_words import constants_of, hosts_of, tokens_of
from app.webhooks.specimens import describe_change

#: Returns the record of a request; None if the tool has no such record.
Find = Callable[[RecordRequest], Awaitable[Any]]
#: The fields of a described change that are ids.
_ID_FIELDS = ("visit_id", "previous_visit_id", "external_id_override")
MAX_EXCEPTIONS = 100


Format = Literal["json", "form", "token"]
CONTENT_TYPES: Mapping[Format, str] = {
    "json": "application/json",
    "form": "application/x-www-form-urlencoded",
    "token": "text/plain",
}


#: The settings that a delivery may override from its file.
SETTINGS = ("secret", "signing_key", "secret_key", "signed_with", "token")


@dataclass(slots=True)
class _Original:
    """A delivery in the format of a specimen, and its parsed body."""

    entry: dict[str, Any]
    body: Any
    format: Format


@dataclass(slots=True)
class RecordedSpecimen:
    """entry: the delivery as a specimen, unsigned and without `expect`. exceptions: texts to look at, see Recorder."""

    entry: dict[str, Any]
    exceptions: list[str] = field(default_factory=list)


class Recorder:
    """Records deliveries of one source.

    If the translation depends on a replaced text, such as the label of a question, only names, addresses and numbers in it
    are replaced, and an operator has to look at it.
    """

    def __init__(self, tool: LoadedSource, seed: str, timezone: str = "") -> None:
        self._tool, self._seed, self._file = tool, seed, load_specimens(tool.name)
        self._timezone = timezone if timezone != self._file.get("timezone", "") else ""

    async def record(self, delivery: Delivery, headers: Mapping[str, str], name: str, find: Find) -> RecordedSpecimen:
        """Raise CannotComplete, and what `find` raises. headers: those that are stored; `?name` is a query parameter."""
        original = self._read(delivery, headers, name)
        if self._tool.fetch:
            original.entry |= await self._fetch(original.entry, find)
        entry = self._anonymize(original)
        exceptions = list[str]()
        if self._difference(original, entry):
            exceptions = self._needed_texts(original)
            entry = self._anonymize(original, exceptions)
            if problem := self._difference(original, entry):
                raise CannotComplete(f"its translation depends on a value that is replaced: {problem}")
        return RecordedSpecimen(entry, exceptions)

    # -- the original --

    def _read(self, delivery: Delivery, headers: Mapping[str, str], name: str) -> _Original:
        try:
            body = parse_body(delivery, self._tool.definition.body_format).value
        except UnreadableBody as error:
            raise CannotComplete(str(error)) from None
        format = _body_format(delivery.body)
        template = self._template(format)
        # Only the bodies of another format, as tokens, are signed in another way than the file says.
        settings = {name: template[name] for name in SETTINGS if name in template} if format == "token" else {}
        query = {name[1:]: value for name, value in headers.items() if name.startswith("?")}
        at = delivery.received_at.astimezone(UTC).replace(microsecond=0)
        entry = {
            "name": name,
            "now": _iso(at),
            **({"timezone": self._timezone} if self._timezone else {}),
            **({"query": urlencode(query)} if query else {}),
            **settings,
            "headers": {"Content-Type": CONTENT_TYPES[format], **self._headers(headers)},
            "body": _encode(body, format),
        }
        while name := SpecimenEntry(self._tool, self._file, entry).missing_header():
            entry["headers"][name] = f"msg_{self._seed}"
        # The signed time may have a prefix.
        lines = {name.lower(): value for name, value in template.get("headers", {}).items()}
        for name in SpecimenEntry(self._tool, self._file, entry).signed_headers():
            entry["headers"] |= {name: lines[name.lower()]} if name.lower() in lines else {}
        return _Original(entry, body, format)

    def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers that the source needs: no query parameters, no traceparent."""
        needed = set(self._tool.definition.stored_headers)
        return {name: value for name, value in headers.items() if name in needed and not name.startswith("?")}

    def _template(self, format: Format) -> dict[str, Any]:
        """Return a delivery of the file in the same format."""
        deliveries = (each for each in self._file["deliveries"] if "handshake" not in each["expect"])
        same = (each for each in deliveries if _body_format(specimen_body(each)) == format)
        return next(same, {})

    async def _fetch(self, original: dict[str, Any], find: Find) -> dict[str, Any]:
        """Return the records that the event refers to."""
        try:
            requests = self._requests(original)
        except (UnreadableBody, Untranslatable):
            return {}
        if not requests:
            return {}
        records, fetched_at = dict[str, Any](), datetime.now(UTC).replace(microsecond=0)
        for request in requests:
            records[request.key] = record = await find(request)
            for follow_up in _follow_ups(request, record).values():
                records[follow_up.key] = await find(follow_up)
        return {"requests": [request.key for request in requests], "records": records, "fetched_at": _iso(fetched_at)}

    def _requests(self, entry: dict[str, Any]) -> list[RecordRequest]:
        event = SpecimenEntry(self._tool, self._file, entry).event()
        return self._tool.fetch(event) if self._tool.fetch else []

    # -- the replacements --

    def _anonymize(self, original: _Original, exceptions: Iterable[str] = ()) -> dict[str, Any]:
        anonymizer, before = self._anonymizer(original, exceptions), original.entry
        entry = {name: value for name, value in before.items() if name not in ("requests", "records", "fetched_at")}
        entry["body"] = _encode(anonymizer.replace(original.body), original.format)
        entry["headers"] = {
            name: anonymizer.header(value) if name in self._tool.definition.stored_headers else value
            for name, value in before["headers"].items()
        }
        if "query" in before:
            entry["query"] = anonymizer.form(before["query"])
        if "records" in before:
            with suppress(ValueError, Untranslatable):  # other requests have another meaning
                entry |= self._records(before, entry, anonymizer)
            entry["fetched_at"] = before["fetched_at"]
        if values := remaining_values(entry, anonymizer.personal_values):
            raise CannotComplete(f"{len(values)} values of a person would be left")
        return entry

    def _anonymizer(self, original: _Original, exceptions: Iterable[str]) -> Anonymizer:
        source = self._tool.name
        anonymizer = Anonymizer(
            constants=constants_of(source),
            tokens=tokens_of(source) | load_sources().keys(),
            hosts=hosts_of(source),
            seed=self._seed,
            fixed=self._fixed(original),
            exceptions=frozenset(exceptions),
        )
        anonymizer.collect([original.body, original.entry.get("records", {})])
        return anonymizer

    def _fixed(self, original: _Original) -> dict[str, str]:
        """Return the tenant of the file for that of the delivery, and the name of the event, which stays."""
        tenants, tenant_of = str(self._file.get("tenants", "")).split(), self._tool.definition.tenant_of
        try:
            event = SpecimenEntry(self._tool, self._file, dict(original.entry)).event()
            tenant = tenant_of(event) if tenant_of else None
        except (UnreadableBody, Untranslatable):
            tenant = None
        fixed = {tenant: tenants[0]} if tenant and tenants else {}
        name = Payload(original.body).at(*self._tool.definition.event_name_path).value
        return fixed | ({name: name} if isinstance(name, str) else {})

    def _records(self, original: dict[str, Any], entry: dict[str, Any], anonymizer: Anonymizer) -> dict[str, Any]:
        """Return the records under the keys of the requests of the replaced event."""
        records, posts = dict[str, Any](), dict[str, Any]()
        pairs = list(zip(self._requests(original), self._requests(entry), strict=True))
        for old, new in pairs:
            record = original["records"][old.key]
            records[new.key] = anonymizer.replace(record)
            posts |= self._signed_posts(new)
            follow_ups = zip(
                _follow_ups(old, record).values(), _follow_ups(new, records[new.key]).values(), strict=True
            )
            for old_follow_up, new_follow_up in follow_ups:
                records[new_follow_up.key] = anonymizer.replace(original["records"][old_follow_up.key])
        requests = [new.key for _, new in pairs]
        return {"requests": requests, "records": records, **({"posts": posts} if posts else {})}

    def _signed_posts(self, request: RecordRequest) -> dict[str, Any]:
        """Return the body of a POST that contains a signature, as the credentials of the tests make it."""
        credentials = self._tool.definition.credentials
        if request.json is None or credentials is None:
            return {}
        values = {name: f"{name}-for-tests" for name in credentials.names}
        body = credentials.authenticate(values, 0, request).json
        return {} if body is None else {request.key: body}

    # -- the same meaning --

    def _difference(self, original: _Original, entry: dict[str, Any]) -> str:
        before, after = self._meaning(original.entry), self._meaning(entry)
        if before == after:
            return ""
        if isinstance(before, str) or isinstance(after, str) or len(before) != len(after):
            return "another result"
        names = {
            name
            for old, new in zip(before, after, strict=True)
            for name in old.keys() | new.keys()
            if old.get(name) != new.get(name)
        }
        return ", ".join(sorted(names))

    def _meaning(self, entry: dict[str, Any]) -> str | list[dict[str, Any]]:
        """Return what a delivery means, without the values that are replaced: which ids are equal, which fields are set."""
        try:
            translations = SpecimenEntry(self._tool, self._file, dict(entry)).translations()
        except (UnreadableBody, Untranslatable, CannotComplete) as error:
            return f"untranslatable: {error}"
        changes = list(map(describe_change, changes_of(translations)))
        if not changes:
            return next((each.reason for each in translations if isinstance(each, Ignored)), "")
        ids = {id: number for number, id in enumerate(dict.fromkeys(_ids(changes)))}
        return [_without_values(change, ids) for change in changes]

    def _needed_texts(self, original: _Original) -> list[str]:
        """Return the replaced texts on which the translation depends."""
        anonymizer = self._anonymizer(original, ())
        anonymizer.replace([original.body, original.entry.get("records", {})])
        candidates = list(anonymizer.replaced_texts)[:MAX_EXCEPTIONS]
        for text in list(candidates):
            fewer = [other for other in candidates if other != text]
            if not self._difference(original, self._anonymize(original, fewer)):
                candidates = fewer
        return candidates


def _body_format(raw: bytes) -> Format:
    raw = raw.strip()
    return "token" if JWT_PATTERN.fullmatch(raw) else "json" if raw.startswith((b"{", b"[")) else "form"


def _encode(body: Any, format: Format) -> Any:
    """Return a body as a specimen has it: the claims of a token are signed later."""
    if format == "form":
        return urlencode(body)
    if format == "token":
        parts = (json.dumps({"alg": "none"}), json.dumps(body, separators=(",", ":")), "unsigned")
        return ".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts)
    return body


def _follow_ups(request: RecordRequest, record: Any) -> Mapping[str, RecordRequest]:
    return request.follow_up(Payload(record, "record")) if record is not None else {}


def _ids(changes: Iterable[dict[str, Any]]) -> Iterator[str]:
    for change in changes:
        yield from (change[name] for name in _ID_FIELDS if name in change)


def _without_values(change: dict[str, Any], ids: Mapping[str, int]) -> dict[str, Any]:
    contact = {name: bool(value) for name, value in change.get("contact", {}).items()}
    numbers = {name: ids[change[name]] for name in _ID_FIELDS if name in change}
    facts = {name.partition(" of ")[0]: value for name, value in change.items()}
    return {**facts, **numbers, "contact": contact}


def _iso(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def as_json(entry: dict[str, Any]) -> str:
    """Return an entry as it is written in a file of specimens."""
    return json.dumps(entry, indent=2, ensure_ascii=False)
