"""The specimens of every source, read for tests."""

import copy
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from app.visits.change import VisitChange
from app.webhooks.delivery import Delivery, Event, parse_body
from app.webhooks.fetching import RecordRequest
from app.webhooks.payload import Payload
from app.webhooks.registry import load_sources, load_specimens
from app.webhooks.signatures.combined import FirstPresent
from app.webhooks.signatures.scheme import Scheme, SignatureError, VerificationContext
from app.webhooks.source import Ignored, LoadedSource

TOOLS = load_sources()


#: No tool's secrets: base64 behind its prefix for those who want that, text for everybody else; and public keys.
OTHER_SECRETS = (
    "whsec_YW5vdGhlciBzZWNyZXQsIG9mIGFub3RoZXIgdG9vbA==",
    "YW5vdGhlciBzZWNyZXQsIG9mIGFub3RoZXIgdG9vbA==",
    "MCowBQYDK2VwAyEAcXWKLy3k/61wq+/RSQxiTphHAiusBVgU5e9UCL9b5OM=",
    "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAoDcCmV/XEGT6AI+kGmEWulmq186aIxQRlnYdX5pfMEz2mw1bYKw0Jo+YoYqVKIcTbus+br9pzL7W"
    "8JLaqaUAneV35mztLFVn39oGt0VWZhkRU4qwyXmYi5nwPCnf7okDAUWVNNk1N0vvAdkrmtmBvS7VRrQeU4iTcB1OF3jDSMmbQQi8GWwlIeKC0WuxUe/Z1asj"
    "eY35a7FFW1oQ0oyg/jUv7IUyuMIzWMt4IROVxEkFJpvJl6+OTpqSGQiRJw217wgb3j/x61NAFWLT7N4VKC5FLWwg14AcV7L2uVnAC07qzyTaP7nPKSQBw17x"
    "FP0gOy4rijHK/a7CxeJt5R8wkQIDAQAB",
)


@dataclass(frozen=True)
class Specimen:
    """A recorded delivery, ready to be verified. told: as it stands in the file."""

    tool: LoadedSource
    file: Mapping[str, Any]
    url: str
    delivery: Delivery
    told: Mapping[str, Any]

    def of(self, name: str) -> str:
        """What the delivery says by itself, or else its file: the secret, how it was signed and so on."""
        return str(self.told.get(name, self.file.get(name, "")))

    @property
    def secret(self) -> str:
        return self.of("secret")

    @property
    def scheme(self) -> Scheme:
        """The one that counts here, of several."""
        scheme = self.tool.definition.signature
        while isinstance(scheme, FirstPresent):
            scheme = scheme.scheme_for(self.delivery)
        return scheme

    @property
    def expect(self) -> Any:
        return self.told["expect"]

    @property
    def is_handshake(self) -> bool:
        """One that comes unsigned."""
        return isinstance(self.expect, dict) and "handshake" in self.expect

    @property
    def is_answered(self) -> bool:
        """A handshake that is signed: it is no event."""
        return not self.is_handshake and isinstance(self.expect, dict) and "answer" in self.expect

    @property
    def another_secret(self) -> str:
        """One that the settings take too."""
        check = self.scheme.secret_problem
        return next(other for other in OTHER_SECRETS if check(other) is None and other != self.secret)

    def context(self, **other: Any) -> VerificationContext:
        now, keys = self.delivery.received_at.timestamp(), [self.of("secret_key")]
        return VerificationContext(**{"secrets": [self.secret], "now": now, "url": self.url, "keys": keys} | other)

    def sender_context(self, **other: Any) -> VerificationContext:
        """With what the tool signs with: the secret, or the private key that only it has."""
        return self.context(secrets=[self.of("signing_key") or self.secret], **other)

    def verify(self, delivery: Delivery | None = None, **other: Any) -> int:
        return self.tool.definition.signature.verify(delivery or self.delivery, self.context(**other))

    def refusal(self, delivery: Delivery | None = None, **other: Any) -> str:
        """Why it is not believed. No sentence about it holds a secret."""
        with pytest.raises(SignatureError) as refused:
            self.verify(delivery, **other)

        context = self.context(**other)
        assert not [secret for secret in context.secrets if secret in str(refused.value)]
        return refused.value.reason

    def changed(self, **other: Any) -> Delivery:
        return replace(self.delivery, **other)

    @cached_property
    def signing_headers(self) -> list[str]:
        """The headers without which it is not believed."""
        names = {name.decode() for name, _ in self.delivery.headers}
        return sorted(name for name in names if self._needs(name))

    def _needs(self, name: str) -> bool:
        try:
            self.verify(self.without(name))
        except SignatureError:
            return True
        return False

    def without(self, *names: str) -> Delivery:
        gone = {name.encode().lower() for name in names}
        return self.changed(headers=tuple(line for line in self.delivery.headers if line[0] not in gone))

    def header(self, name: str) -> bytes:
        [value] = self.delivery.header_values(name)
        return value

    def with_header(self, name: str, value: bytes) -> Delivery:
        headers = tuple((key, value if key == name.encode() else old) for key, old in self.delivery.headers)
        return self.changed(headers=headers)

    @cached_property
    def is_proof_in_body(self) -> bool:
        return self.scheme.coverage == "body" and not self.signing_headers

    @cached_property
    def signed_at(self) -> float | None:
        """The seconds that the tool signed, in a header; None where its scheme has no time."""
        found = [match for name in self.signing_headers if (match := _A_TIME.search(self.header(name)))]
        if not found:
            return None
        written = found[0][0].decode()
        if not written.isdecimal():
            return datetime.fromisoformat(written).timestamp()
        return int(written) if len(written) == 10 else int(written) / 1000

    def event(self) -> Event:
        source, delivery = self.tool.definition, self.delivery
        return Event(
            source=self.tool.name,
            data=parse_body(delivery, source.body_format),
            received_at=delivery.received_at,
            headers={name: value for name in source.stored_headers if (value := delivery.header(name)) is not None},
            zone=ZoneInfo(self.of("timezone")) if self.of("timezone") else None,
        )

    def gets(self) -> list[RecordRequest]:
        return self.tool.fetch(self.event()) if self.tool.fetch else []

    def with_record(self, get: RecordRequest, event: Event | None = None) -> Event:
        """The event with a record, and with what else is fetched for it."""
        records, fetched_at = self.told["records"], datetime.fromisoformat(self.told["fetched_at"])
        record = copy.deepcopy(records[get.key])
        others = get.follow_up(Payload(record, "record")) if record is not None else {}
        beside = {name: copy.deepcopy(records[other.key]) for name, other in others.items()}
        return (event or self.event()).with_record(record, fetched_at, beside, get.path)

    def translate(self) -> list[VisitChange] | Ignored:
        """As the worker does it: once for every record that the event points at."""
        gets = self.gets()
        if not gets:
            return self.tool.translate(self.event())
        said = [self.tool.translate(self.with_record(get)) for get in gets]
        changes = [change for part in said if not isinstance(part, Ignored) for change in part]
        return changes or next(part for part in said if isinstance(part, Ignored))


def _read(tool: LoadedSource) -> Iterator[Specimen]:
    file = load_specimens(tool.name)
    for told in file["deliveries"]:
        body = told["body"]
        raw = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        headers = tuple((name.lower().encode(), value.encode()) for name, value in told["headers"].items())
        now, token = datetime.fromisoformat(told["now"]), told.get("token", file.get("token", ""))
        method, query = told.get("method", "POST"), told.get("query", "").encode()
        yield Specimen(
            tool,
            file,
            f"{file.get('public_url', '')}/hooks/{tool.name}" + (token and f"/{token}"),
            Delivery(tool.name, tool.name, headers, raw.encode(), now, "", token, method, query),
            told,
        )


def _read_all() -> dict[str, list[Specimen]]:
    """By tool. A source without its file has none, and one test that says so."""
    found = {}
    for name, tool in TOOLS.items():
        try:
            found[name] = list(_read(tool))
        except FileNotFoundError:
            found[name] = []
    return found


BY_TOOL = _read_all()

_A_TIME = re.compile(rb"(?<![0-9])1[0-9]{9}(?:[0-9]{3})?(?![0-9])|20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z")


def signed(name: str) -> list[Specimen]:
    """The specimens of a tool that are signed, or have a token of ours in their address."""
    return [specimen for specimen in BY_TOOL[name] if not specimen.is_handshake]


def events(name: str) -> list[Specimen]:
    """Those that are more than a handshake."""
    return [specimen for specimen in signed(name) if not specimen.is_answered]


def unlike(expected: Any, found: Iterable[Specimen], look: Callable[[Specimen], Any]) -> dict[str, Any]:
    """The specimens of which something else is true than expected, and what."""
    seen = {_name(specimen): look(specimen) for specimen in found}
    return {name: actual for name, actual in seen.items() if actual != expected}


def _name(specimen: Specimen) -> str:
    return f"{specimen.tool.name}: {specimen.told['name']}"


each_tool = pytest.mark.parametrize("name", [name for name in TOOLS if BY_TOOL[name]])


def _changes(specimen: Specimen) -> list[VisitChange]:
    said = [] if specimen.is_handshake or specimen.is_answered else specimen.translate()
    return [] if isinstance(said, Ignored) else said


def _is_refused(specimen: Specimen, delivery: Delivery) -> bool:
    try:
        specimen.verify(delivery)
    except SignatureError:
        return True
    return False


def _repeat_key(tool: LoadedSource, event: Event) -> str | None:
    key = tool.definition.repeat_key(event) if tool.definition.repeat_key else None
    assert key is None or (isinstance(key, str) and key)
    return key
