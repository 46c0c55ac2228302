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
from app.webhooks.source import Ignored, InvalidSource, LoadedSource
from tests.support.cases import each

TOOLS = load_sources()


#: Secrets that no specimen uses: base64 with and without a prefix, and public keys.
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
    """A recorded delivery, ready to be verified. recorded: its entry in the file."""

    tool: LoadedSource
    file: Mapping[str, Any]
    url: str
    delivery: Delivery
    recorded: Mapping[str, Any]

    def setting(self, name: str) -> str:
        """Return a value (the secret, the time zone, …) of the delivery, or else of its file."""
        return str(self.recorded.get(name, self.file.get(name, "")))

    @property
    def secret(self) -> str:
        return self.setting("secret")

    @property
    def scheme(self) -> Scheme:
        """The scheme that verifies this delivery."""
        scheme = self.tool.definition.signature
        while isinstance(scheme, FirstPresent):
            scheme = scheme.scheme_for(self.delivery)
        return scheme

    @property
    def expect(self) -> Any:
        return self.recorded["expect"]

    @property
    def is_handshake(self) -> bool:
        """Whether it is an unsigned handshake."""
        return isinstance(self.expect, dict) and "handshake" in self.expect

    @property
    def is_answered(self) -> bool:
        """Whether it is a signed handshake, which is no event."""
        return not self.is_handshake and isinstance(self.expect, dict) and "answer" in self.expect

    @property
    def other_secret(self) -> str:
        """Another secret that is valid in the settings."""
        check = self.scheme.secret_problem
        return next(secret for secret in OTHER_SECRETS if check(secret) is None and secret != self.secret)

    def context(self, **options: Any) -> VerificationContext:
        now, keys = self.delivery.received_at.timestamp(), [self.setting("secret_key")]
        return VerificationContext(**{"secrets": [self.secret], "now": now, "url": self.url, "keys": keys} | options)

    def sender_context(self, **options: Any) -> VerificationContext:
        """Return a context with the key that the tool signs with: the secret, or its private key."""
        return self.context(secrets=[self.setting("signing_key") or self.secret], **options)

    def verify(self, delivery: Delivery | None = None, **options: Any) -> int:
        return self.tool.definition.signature.verify(delivery or self.delivery, self.context(**options))

    @cached_property
    def is_valid(self) -> bool:
        try:
            self.verify()
        except SignatureError:
            return False
        return True

    def rejection(self, delivery: Delivery | None = None, **options: Any) -> str:
        """Return the reason of the rejection, and check that its message contains no secret."""
        with pytest.raises(SignatureError) as error:
            self.verify(delivery, **options)

        context = self.context(**options)
        assert not [secret for secret in context.secrets if secret in str(error.value)]
        return error.value.reason

    def changed(self, **changes: Any) -> Delivery:
        return replace(self.delivery, **changes)

    @cached_property
    def signing_headers(self) -> list[str]:
        """The headers without which the verification fails."""
        names = {name.decode() for name, _ in self.delivery.headers}
        return sorted(name for name in names if self._needs(name))

    def _needs(self, name: str) -> bool:
        try:
            self.verify(self.without(name))
        except SignatureError:
            return True
        return False

    def without(self, *names: str) -> Delivery:
        removed = {name.encode().lower() for name in names}
        return self.changed(headers=tuple(line for line in self.delivery.headers if line[0] not in removed))

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
        """The signed time in seconds, from a header; None where the scheme has no time."""
        matches = [match for name in self.signing_headers if (match := _A_TIME.search(self.header(name)))]
        if not matches:
            return None
        written = matches[0][0].decode()
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
            zone=ZoneInfo(self.setting("timezone")) if self.setting("timezone") else None,
        )

    def record_requests(self) -> list[RecordRequest]:
        return self.tool.fetch(self.event()) if self.tool.fetch else []

    def with_record(self, request: RecordRequest, event: Event | None = None) -> Event:
        """Return the event with a record, and with the records that follow from it."""
        records, fetched_at = self.recorded["records"], datetime.fromisoformat(self.recorded["fetched_at"])
        record = copy.deepcopy(records[request.key])
        follow_ups = request.follow_up(Payload(record, "record")) if record is not None else {}
        related = {name: copy.deepcopy(records[follow_up.key]) for name, follow_up in follow_ups.items()}
        return (event or self.event()).with_record(record, fetched_at, related, request.path)

    def translate(self) -> list[VisitChange] | Ignored:
        """Translate like the worker: once for every record that the event points at."""
        requests = self.record_requests()
        if not requests:
            return self.tool.translate(self.event())
        results = [self.tool.translate(self.with_record(get)) for get in requests]
        changes = [change for part in results if not isinstance(part, Ignored) for change in part]
        return changes or next(part for part in results if isinstance(part, Ignored))


def _read(tool: LoadedSource) -> Iterator[Specimen]:
    file = load_specimens(tool.name)
    for recorded in file["deliveries"]:
        body = recorded["body"]
        raw = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        headers = tuple((name.lower().encode(), value.encode()) for name, value in recorded["headers"].items())
        now, token = datetime.fromisoformat(recorded["now"]), recorded.get("token", file.get("token", ""))
        method, query = recorded.get("method", "POST"), recorded.get("query", "").encode()
        yield Specimen(
            tool,
            file,
            f"{file.get('public_url', '')}/hooks/{tool.name}" + (token and f"/{token}"),
            Delivery(tool.name, tool.name, headers, raw.encode(), now, "", token, method, query),
            recorded,
        )


#: Why the specimens of a tool cannot be read. A separate test reports it.
UNREADABLE: dict[str, str] = {}


def _read_all() -> dict[str, list[Specimen]]:
    """Return the specimens by tool; none if they cannot be read."""
    by_tool: dict[str, list[Specimen]] = {}
    for name, tool in TOOLS.items():
        try:
            by_tool[name] = list(_read(tool))
        except InvalidSource as error:
            by_tool[name], UNREADABLE[name] = [], str(error)
        except (KeyError, TypeError, ValueError) as error:
            by_tool[name], UNREADABLE[name] = [], f"app/sources/{name}.json: a delivery lacks {error}"
    return by_tool


BY_TOOL = _read_all()

_A_TIME = re.compile(rb"(?<![0-9])1[0-9]{9}(?:[0-9]{3})?(?![0-9])|20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z")


def deliveries(name: str) -> list[Specimen]:
    """Return the specimens of a tool that are signed, or have a token in their URL."""
    return [specimen for specimen in BY_TOOL[name] if not specimen.is_handshake]


def signed(name: str) -> list[Specimen]:
    """Return the specimens whose signature is valid: one test reports the others."""
    return [specimen for specimen in deliveries(name) if specimen.is_valid]


def events(name: str) -> list[Specimen]:
    """Return the specimens that are no handshake."""
    return [specimen for specimen in deliveries(name) if not specimen.is_answered]


def mismatches(expected: Any, specimens: Iterable[Specimen], actual_value: Callable[[Specimen], Any]) -> dict[str, Any]:
    """Return the actual values of the specimens whose value is not the expected one."""
    actual_values = {_name(specimen): actual_value(specimen) for specimen in specimens}
    return {name: actual for name, actual in actual_values.items() if actual != expected}


def _name(specimen: Specimen) -> str:
    return f"{specimen.tool.name}: {specimen.recorded['name']}"


each_tool = each("name", [name for name in TOOLS if BY_TOOL[name]])


def _changes(specimen: Specimen) -> list[VisitChange]:
    result = [] if specimen.is_handshake or specimen.is_answered else specimen.translate()
    return [] if isinstance(result, Ignored) else result


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
