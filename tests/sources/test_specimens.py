"""What every source promises, from its specimens alone: nothing here names a tool."""

import copy
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.visits.change import VisitChange, encode_change, is_external_id
from app.visits.merge import Said
from app.webhooks.delivery import Delivery, Event, check_content_type, parse_body
from app.webhooks.fetching import RecordRequest
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.registry import load_sources, load_specimens
from app.webhooks.signatures.combined import Either
from app.webhooks.signatures.scheme import TOOLS_KEY, Scheme, SignatureError, Terms
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
        while isinstance(scheme, Either):
            scheme = scheme.chosen(self.delivery)
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
        check = self.scheme.check_secret
        return next(other for other in OTHER_SECRETS if check(other) is None and other != self.secret)

    def terms(self, **other: Any) -> Terms:
        now, keys = self.delivery.received_at.timestamp(), [self.of("secret_key")]
        return Terms(**{"secrets": [self.secret], "now": now, "url": self.url, "keys": keys} | other)

    def terms_of_the_tool(self, **other: Any) -> Terms:
        """With what the tool signs with: the secret, or the private key that only it has."""
        return self.terms(secrets=[self.of("signing_key") or self.secret], **other)

    def verify(self, delivery: Delivery | None = None, **other: Any) -> int:
        return self.tool.definition.signature.verify(delivery or self.delivery, self.terms(**other))

    def refusal(self, delivery: Delivery | None = None, **other: Any) -> str:
        """Why it is not believed. No sentence about it holds a secret."""
        with pytest.raises(SignatureError) as refused:
            self.verify(delivery, **other)

        terms = self.terms(**other)
        assert not [secret for secret in terms.secrets if secret in str(refused.value)]
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
        return self.scheme.covers == "body" and not self.signing_headers

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
            headers={name: value for name in source.kept_headers if (value := delivery.header(name)) is not None},
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
SPECIMENS = [specimen for name in BY_TOOL for specimen in BY_TOOL[name]]


_A_TIME = re.compile(rb"(?<![0-9])1[0-9]{9}(?:[0-9]{3})?(?![0-9])|20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z")


def signed(name: str) -> list[Specimen]:
    """The specimens of a tool that are signed, or have a token of ours in their address."""
    return [specimen for specimen in BY_TOOL[name] if not specimen.is_handshake]


def covered(name: str) -> list[Specimen]:
    """Those whose whole body is signed."""
    return [specimen for specimen in signed(name) if specimen.scheme.covers == "body"]


def in_headers(name: str) -> list[Specimen]:
    """Those that are signed in headers."""
    return [specimen for specimen in signed(name) if specimen.signing_headers]


def events(name: str) -> list[Specimen]:
    """Those that are more than a handshake."""
    return [specimen for specimen in signed(name) if not specimen.is_answered]


def timed(name: str) -> list[Specimen]:
    """Those whose signature covers a time."""
    return [specimen for specimen in signed(name) if specimen.signed_at is not None]


def unlike(expected: Any, found: Iterable[Specimen], look: Callable[[Specimen], Any]) -> dict[str, Any]:
    """The specimens of which something else is true than expected, and what."""
    seen = {_name(specimen): look(specimen) for specimen in found}
    return {name: actual for name, actual in seen.items() if actual != expected}


def _name(specimen: Specimen) -> str:
    return f"{specimen.tool.name}: {specimen.told['name']}"


every_source = pytest.mark.parametrize("name", TOOLS)
each_tool = pytest.mark.parametrize("name", [name for name in TOOLS if BY_TOOL[name]])
each_event = pytest.mark.parametrize("specimen", [found for name in TOOLS for found in events(name)], ids=_name)
each_handshake = pytest.mark.parametrize("specimen", [found for found in SPECIMENS if found.is_handshake], ids=_name)
each_answered = pytest.mark.parametrize("specimen", [found for found in SPECIMENS if found.is_answered], ids=_name)


def as_told(change: VisitChange) -> dict[str, Any]:
    """A change in the words of the specimens."""
    contact = change.contact.details() if change.contact else {}
    return {
        "action": change.action,
        **({"visit_id": change.visit_id} if change.visit_id else {}),
        **({"named": change.named} if change.named else {}),
        "order": change.order,
        **({"continues": change.continues} if change.continues else {}),
        **({"contact": contact} if contact else {}),
        **change.facts(),
        **({"as_of": change.as_of} if change.as_of else {}),
        **({"is_sighting": True} if change.is_sighting else {}),
        **({"only_for_contact": True} if change.only_for_contact else {}),
        **({"first_contact_stays": True} if change.first_contact_stays else {}),
    }


def told_changes(name: str) -> list[dict[str, Any]]:
    return [change for found in BY_TOOL[name] if isinstance(found.expect, list) for change in found.expect]


# -- what a source is --


@every_source
def test_every_source_comes_with_its_specimens(name: str) -> None:
    recorded = load_specimens(name)

    signature = TOOLS[name].definition.signature
    needed = {"secret", "signed_with", "deliveries"}
    needed |= {"public_url"} if signature.needs_url else set()
    needed |= {"secret_key"} if signature.needs_key else set()
    missing = needed - recorded.keys()
    assert not missing, f"app/sources/{name}.json lacks {sorted(missing)}, beside its deliveries"
    assert len(recorded["deliveries"]) >= 5, (
        "fewer than five specimens: book, move, cancel, ignore, whatever the tool can say"
    )


@every_source
def test_every_source_says_what_it_is_and_how_to_connect_it(name: str) -> None:
    source = TOOLS[name].definition

    assert source.title.strip()
    assert source.docs.startswith("https://")
    assert source.setup.strip().startswith("1. "), "the setup is a list of steps"
    assert "{url}" in source.setup, "the setup says where {url} is to be pasted"
    assert f"HOOKS__{name.upper()}__SECRETS" in source.setup, "the setup says what the secret is"
    for need in source.required_settings:
        assert f"HOOKS__{name.upper()}__{need}" in source.setup, f"the setup does not say how to set {need}"
    assert "SECRET_KEY" in source.setup or not source.signature.needs_key
    assert "PUBLIC_URL" in source.setup or not source.signature.needs_url


@every_source
def test_the_name_of_a_source_begins_with_a_letter_as_every_external_id_must(name: str) -> None:
    assert re.fullmatch("[a-z][a-z0-9_]{1,30}", name)


@each_tool
def test_the_names_of_specimens_are_told_apart(name: str) -> None:
    names = [specimen.told["name"] for specimen in BY_TOOL[name]]

    assert sorted(set(names)) == sorted(names)


@each_tool
def test_some_specimen_is_ignored_because_tools_ring_about_other_things_too(name: str) -> None:
    ignored = [found for found in BY_TOOL[name] if isinstance(found.expect, dict) and "ignored" in found.expect]

    assert ignored, 'no specimen expects {"ignored": …}: what does the tool ring about that is no visit?'


@each_tool
def test_a_booking_and_its_end_are_about_the_same_visit(name: str) -> None:
    said = told_changes(name)
    ended = {_visit(change) for change in said if _is_over(change)}
    booked = {_visit(change) for change in said if change["action"] != "cancel" and _is_dated(change)}

    assert booked or all("named" in change for change in said), "no specimen books a visit"
    assert ended & booked or not ended, "none of the visits that are cancelled here is one that is booked here"


def _is_dated(change: Mapping[str, Any]) -> bool:
    return bool(change.get("time_scheduled") or change.get("time_completed"))


def _visit(change: Mapping[str, Any]) -> str:
    return str(change.get("visit_id") or change.get("named"))


@each_tool
def test_a_cancel_says_when(name: str) -> None:
    silent = [change for change in told_changes(name) if change["action"] == "cancel" and not _is_over(change)]

    assert [] == silent


def _is_over(change: Mapping[str, Any]) -> bool:
    return bool(change.get("date_cancelled") or change.get("no_show") or change.get("date_left"))


@each_tool
def test_changes_of_one_source_are_ordered_by_times_or_by_versions_and_never_by_both(name: str) -> None:
    a_day_of_1971 = 31_536_000_000_000  # microseconds; no tool counts its versions so far

    orders = [change.order for found in BY_TOOL[name] for change in _changes(found)]

    assert 1 == len({order > a_day_of_1971 for order in orders}), (
        f"orders that are no microseconds: {sorted(orders)[:5]}"
    )


def _changes(specimen: Specimen) -> list[VisitChange]:
    said = [] if specimen.is_handshake or specimen.is_answered else specimen.translate()
    return [] if isinstance(said, Ignored) else said


# -- specimens become what they should --


@each_tool
def test_the_hook_takes_the_content_type(name: str) -> None:
    for specimen in BY_TOOL[name]:
        check_content_type(specimen.delivery, specimen.tool.definition.body_format)


@each_tool
def test_a_delivery_is_believed(name: str) -> None:
    assert {} == unlike(0, signed(name), lambda specimen: specimen.verify())


@each_tool
def test_an_event_points_at_its_records(name: str) -> None:
    def is_as_told(specimen: Specimen) -> bool:
        return specimen.told.get("requests", []) == [get.key for get in specimen.gets()]

    assert {} == unlike(True, events(name), is_as_told)


@each_tool
def test_every_record_of_a_specimen_is_asked_for(name: str) -> None:
    def is_as_told(specimen: Specimen) -> bool:
        asked, records = set(), specimen.told.get("records", {})
        for get in specimen.gets():
            record = records[get.key]
            others = get.follow_up(Payload(record, "record")) if record is not None else {}
            asked |= {get.key, *(other.key for other in others.values())}
        return asked == records.keys()

    assert {} == unlike(True, events(name), is_as_told)


@each_event
def test_an_event_becomes_what_it_means(specimen: Specimen) -> None:
    said = specimen.translate()

    if isinstance(said, Ignored):
        assert specimen.expect == {"ignored": said.reason}
        return
    for expected, change in zip(specimen.expect, said, strict=True):
        actual = as_told(change)
        if "order" not in expected:  # a specimen need not count microseconds
            del actual["order"]
        assert expected == actual


@each_tool
def test_to_translate_twice_says_the_same_and_leaves_the_event_as_it_was(name: str) -> None:
    for specimen in events(name):
        event = specimen.event()
        for get in specimen.gets():
            event = specimen.with_record(get, event)
        before = copy.deepcopy(event)

        first, second = specimen.tool.translate(event), specimen.tool.translate(event)

        assert first == second, specimen
        assert before == event, specimen


@each_tool
def test_a_visit_gets_a_name_that_the_api_takes(name: str) -> None:
    names = {change.external_id(name) for specimen in events(name) for change in _changes(specimen)}

    assert names, "no specimen makes a change"
    assert [] == [taken for taken in names if not re.fullmatch(r"[a-z][A-Za-z0-9._-]{0,119}", taken)]


@each_tool
def test_a_change_survives_the_ledger(name: str) -> None:
    for change in (change for specimen in events(name) for change in _changes(specimen)):
        contact = change.contact.details() if change.contact else {}

        read = Said.read("delivery", encode_change(change))

        assert (change.action, change.order) == (read.action, read.order)
        assert (change.facts(), contact) == (read.facts, read.contact)


# -- handshakes --


@each_handshake
def test_a_handshake_is_answered_and_only_while_it_is_unsigned(specimen: Specimen) -> None:
    unsigned, delivery = specimen.tool.definition.handshake, specimen.delivery
    assert unsigned is not None, "SOURCE has no `unsigned`, but a specimen expects a handshake"

    answered = unsigned.answer(delivery)

    assert answered is not None
    assert specimen.expect.get("answer", "{}") == answered.body.decode()
    if delivery.method == "POST":
        one = next(iter(specimen.tool.definition.signature.sign(delivery, specimen.terms())))
        signed = specimen.changed(headers=(*delivery.headers, (one.lower().encode(), b"not a signature")))
        assert unsigned.answer(signed) is None


@each_handshake
def test_what_is_echoed_to_whoever_asks_is_of_a_harmless_shape(specimen: Specimen) -> None:
    unsigned, delivery = specimen.tool.definition.handshake, specimen.delivery
    assert unsigned

    for harm in (b"%3Cscript%3E", b"a%0D%0AX-A%3A+b", b"v0%3A1790000000%3A%7B%7D", b"", b"%C3%A9", b"a" * 3_000):
        query = re.sub(rb"=[^&]*", b"=" + harm, delivery.query)
        assert query == delivery.query or unsigned.answer(specimen.changed(query=query)) is None


@each_answered
def test_a_signed_handshake_is_answered(specimen: Specimen) -> None:
    challenge = specimen.tool.definition.signed_handshake
    assert challenge is not None, "SOURCE has no `challenge`, but a specimen expects an answer"

    answered = challenge.answer(specimen.event(), specimen.secret)

    assert answered is not None
    assert specimen.expect["answer"] == answered.body.decode()


@each_tool
def test_an_event_is_no_handshake(name: str) -> None:
    challenge = TOOLS[name].definition.signed_handshake

    def is_answered(specimen: Specimen) -> bool:
        return challenge is not None and challenge.answer(specimen.event(), specimen.secret) is not None

    assert {} == unlike(False, events(name), is_answered)


@each_tool
def test_a_delivery_stripped_of_its_signature_is_no_handshake(name: str) -> None:
    unsigned = TOOLS[name].definition.handshake
    probes = {specimen.delivery.body for specimen in BY_TOOL[name] if specimen.is_handshake}

    def is_answered(specimen: Specimen) -> bool:
        stripped = replace(specimen.without(*specimen.signing_headers), token="")
        return unsigned is not None and unsigned.answer(stripped) is not None

    assert {} == unlike(False, [found for found in signed(name) if found.delivery.body not in probes], is_answered)


# -- signatures --


@pytest.mark.skipif(not shutil.which("openssl"), reason="a fresh machine may lack the openssl command")
@each_tool
def test_openssl_makes_the_signatures_of_the_specimens(name: str) -> None:
    """By the command that the specimens name; one shell does all of them."""
    found, env, script = signed(name), {"PATH": os.environ["PATH"]}, ""
    for n, specimen in enumerate(found):
        env |= {f"BODY_{n}": specimen.delivery.body.decode(), f"T_{n}": _signed_time(specimen)}
        env |= {f"ID_{n}": _signed_id(specimen)}
        env |= {f"KEY_{n}": specimen.secret, f"SIGNING_KEY_{n}": specimen.of("signing_key")}
        env |= {
            "PUBLIC_URL": specimen.url.partition("/hooks/")[0],
            "SECRET_KEY": specimen.of("secret_key"),
            "HOOK": name,
        }
        given = " ".join(f'{each}="${each}_{n}"' for each in ("BODY", "T", "ID", "KEY", "SIGNING_KEY"))
        script += f"export {given}\n{specimen.of('signed_with')}\necho\n"

    ran = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True)

    digests = [line.rpartition(" ")[2] for line in ran.stdout.splitlines() if line.strip()]
    made = dict(zip(map(_name, found), digests, strict=True))
    assert min(map(len, digests)) >= TOOLS_KEY
    assert {} == unlike("", found, lambda specimen: _another(specimen, made[_name(specimen)]))


def _another(specimen: Specimen, digest: str) -> str:
    """What the command made instead of the specimen's signature, and of what beside the body."""
    if _carries(specimen, digest):
        return ""
    given = {"T": _signed_time(specimen), "ID": _signed_id(specimen), "PUBLIC_URL": specimen.of("public_url")}
    return f"`signed_with` made {digest} of the body and {given}"


def _signed_id(specimen: Specimen) -> str:
    """What is signed in headers beside the time: all that `sign` does not make."""
    made = specimen.tool.definition.signature.sign(specimen.delivery, specimen.terms_of_the_tool())
    others = set(specimen.signing_headers) - {header.lower() for header in made}
    return "".join(specimen.header(header).decode() for header in sorted(others))


def _signed_time(specimen: Specimen) -> str:
    """As it is written."""
    found = [match for name in specimen.signing_headers if (match := _A_TIME.search(specimen.header(name)))]
    return found[0][0].decode() if found else ""


def _carries(specimen: Specimen, digest: str) -> bool:
    """The signature, where the specimen has it: in a header, in the address or in the body."""
    headers = [specimen.header(name).decode() for name in specimen.signing_headers]
    headers += [specimen.delivery.token] if specimen.delivery.token else []
    headers += [] if headers else [specimen.delivery.body.decode()]
    return any(digest in header or (_is_forgiving(specimen) and digest in header.lower()) for header in headers)


def _is_forgiving(specimen: Specimen) -> bool:
    """Does the scheme say that it takes hexadecimal in capitals, which is the same number?"""
    return getattr(specimen.tool.definition.signature, "forgiving", False)


@each_tool
def test_our_own_signature_is_the_one_that_openssl_made(name: str) -> None:
    def as_signed(specimen: Specimen) -> bool:
        terms, signature = (
            specimen.terms_of_the_tool(now=float(specimen.signed_at or 0)),
            specimen.tool.definition.signature,
        )
        made = signature.sign(specimen.delivery, terms)
        if specimen.delivery.token and signature.token(name, terms) != specimen.delivery.token:
            return False
        there = {header.lower(): specimen.header(header.lower()).decode() for header in made}
        ours = {header.lower(): value for header, value in made.items()}
        return there == ours or (_is_forgiving(specimen) and _plain(there) == _plain(ours))

    assert {} == unlike(True, signed(name), as_signed)


def _plain(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value.removeprefix("sha256=").lower() for name, value in headers.items()}


@each_tool
def test_what_we_sign_we_believe(name: str) -> None:
    def ours(specimen: Specimen) -> int:
        now, signature = 2_000_000_000.75, specimen.tool.definition.signature
        terms = specimen.terms_of_the_tool(now=now)
        sent = replace(specimen.delivery, body=signature.wrap(specimen.delivery.body, terms))
        made = signature.sign(sent, terms)
        lines = tuple((header.lower().encode(), value.encode()) for header, value in made.items())
        bare = replace(specimen, delivery=sent).without(*made)
        return specimen.verify(replace(bare, headers=(*bare.headers, *lines)), now=now)

    assert {} == unlike(0, signed(name), ours)


@each_tool
def test_a_changed_body_is_refused(name: str) -> None:
    def reasons(specimen: Specimen) -> set[str]:
        raw = specimen.delivery.body
        places = range(0, len(raw), max(1, len(raw) // 50))
        flipped = [raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :] for place in places]
        others = [raw[:-1], raw[1:], raw + raw, b"\xef\xbb\xbf" + raw]
        if not specimen.is_proof_in_body:
            others += [b"", raw + b" ", raw + b"\n", b" " + raw]
        found = {specimen.refusal(specimen.changed(body=other)) for other in [*flipped, *others]}
        return found - {"malformed", "missing"} if specimen.is_proof_in_body else found

    assert {} == unlike({"mismatch"}, covered(name), reasons)


@each_tool
def test_a_body_that_says_the_same_in_other_bytes_is_refused(name: str) -> None:
    def reason(specimen: Specimen) -> str:
        body = specimen.told["body"]
        other = body.replace("=", "%3D", 1).replace(":", ": ", 1) if isinstance(body, str) else json.dumps(body)
        return specimen.refusal(specimen.changed(body=other.encode()))

    assert {} == unlike("mismatch", [found for found in covered(name) if not found.is_proof_in_body], reason)


@each_tool
def test_no_bit_of_a_signature_or_of_what_it_covers_can_be_changed(name: str) -> None:
    def believed(specimen: Specimen) -> list[bytes]:
        others = [
            (header, value[:place] + bytes([value[place] ^ 1 << bit]) + value[place + 1 :])
            for header in specimen.signing_headers
            for value in [specimen.header(header)]
            for place in range(len(value))
            for bit in range(8)
        ]
        wrongly = [other for header, other in others if not _is_refused(specimen, specimen.with_header(header, other))]
        if specimen.is_proof_in_body:
            raw = specimen.delivery.body
            others = [("", flipped) for flipped in _flipped(raw)]
            wrongly = [other for _, other in others if not _is_refused(specimen, specimen.changed(body=other))]
        elif token := specimen.delivery.token.encode():
            others += [("", flipped) for flipped in _flipped(token)]
            tokens = [flipped.decode("latin-1") for flipped in _flipped(token)]
            wrongly += [t.encode() for t in tokens if not _is_refused(specimen, specimen.changed(token=t))]
        same = (
            [specimen.header(header).lower() for header in specimen.signing_headers] if _is_forgiving(specimen) else []
        )
        assert others
        return [other for other in wrongly if other.lower() not in same and not _is_spelt_otherwise(specimen, other)]

    assert {} == unlike([], signed(name), believed)


def _is_spelt_otherwise(specimen: Specimen, value: bytes) -> bool:
    """`bearer` is `Bearer`; the token behind it is what it is."""
    prefix = getattr(specimen.scheme, "prefix", "") if specimen.scheme.covers == "nothing" else ""
    token = specimen.secret.encode()
    return bool(prefix) and value.removesuffix(token).lower() == prefix.lower().encode() and value.endswith(token)


def _flipped(raw: bytes) -> Iterator[bytes]:
    """With one bit changed; of many, some."""
    for place in range(0, len(raw), max(1, len(raw) // 60)):
        for bit in range(8):
            yield raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :]


def _is_refused(specimen: Specimen, delivery: Delivery) -> bool:
    try:
        specimen.verify(delivery)
    except SignatureError:
        return True
    return False


@each_tool
def test_without_its_signature_a_delivery_is_refused(name: str) -> None:
    def reasons(specimen: Specimen) -> set[str]:
        made = specimen.tool.definition.signature.sign(specimen.delivery, specimen.terms_of_the_tool())
        assert {header.lower() for header in made} <= set(specimen.signing_headers)
        bare = [specimen.without(header) for header in specimen.signing_headers]
        bare += [specimen.changed(headers=())] if bare else []
        bare += [specimen.changed(token="")] if specimen.delivery.token else []
        bare += (
            [specimen.changed(body=b"")]
            if specimen.is_proof_in_body and not specimen.tool.definition.signature.needs_key
            else []
        )
        return {specimen.refusal(delivery) for delivery in bare} or {"missing"}

    assert {} == unlike({"missing"}, signed(name), reasons)


@each_tool
def test_an_empty_signature_is_a_missing_one(name: str) -> None:
    def reasons(specimen: Specimen) -> set[str]:
        blanks = [specimen.with_header(header, blank) for header in specimen.signing_headers for blank in (b"", b"  ")]
        return {specimen.refusal(delivery) for delivery in blanks}

    assert {} == unlike({"missing"}, in_headers(name), reasons)


@each_tool
def test_of_a_header_that_was_sent_twice_no_line_is_believed(name: str) -> None:
    def reasons(specimen: Specimen) -> set[str]:
        found = set()
        for header in specimen.signing_headers:
            same, other = (header.encode(), specimen.header(header)), (header.encode(), b"something else")
            for more in ((same,), (other,), (same, other)):
                found.add(specimen.refusal(specimen.changed(headers=(*specimen.delivery.headers, *more))))
                found.add(specimen.refusal(specimen.changed(headers=(*more, *specimen.delivery.headers))))
        return found

    assert {} == unlike({"malformed"}, in_headers(name), reasons)


@each_tool
def test_another_secret_is_refused(name: str) -> None:
    def reasons(specimen: Specimen) -> set[str]:
        check, secret = specimen.scheme.check_secret, specimen.secret
        wrong = [specimen.another_secret, secret[:-1], secret[:-6] + secret[-6:].swapcase()]
        wrong = [near for near in wrong if near != secret and check(near) is None]
        found = {specimen.refusal(secrets=secrets) for secrets in [*([near] for near in wrong), wrong, []]}
        if specimen.delivery.token:
            found |= {specimen.refusal(keys=keys) for keys in ([], ["another key of ours"])}
        return found

    assert {} == unlike({"mismatch"}, signed(name), reasons)


@each_tool
def test_while_secrets_rotate_each_is_accepted_and_the_answer_tells_which(name: str) -> None:
    def slots(specimen: Specimen) -> list[int]:
        old, new = specimen.secret, specimen.another_secret
        return [specimen.verify(secrets=secrets) for secrets in ([old], [old, new], [new, old], [new, new, old])]

    assert {} == unlike([0, 0, 1, 2], signed(name), slots)


@each_tool
def test_the_secret_of_the_specimens_is_one_that_the_settings_take(name: str) -> None:
    signature = TOOLS[name].definition.signature

    assert signature.check_secret(load_specimens(name)["secret"]) is None
    assert signature.check_secret("") is not None


@each_tool
def test_where_a_time_is_signed_it_may_be_minutes_from_ours_but_not_more_than_ten_or_than_a_tool_tries_again(
    name: str,
) -> None:
    def outcomes(specimen: Specimen) -> list[Any]:
        at, most = specimen.signed_at or 0, max(600.0, getattr(specimen.scheme, "tolerance_s", 0.0))
        assert most <= 4 * 86_400
        near = [specimen.verify(now=float(at + apart)) for apart in (0, 120, -120)]
        far = [at + most + 1, at - most - 1, at + 4e8, 0.0, float("nan"), float("inf"), float("-inf")]
        return [*near, {specimen.refusal(now=now) for now in far}]

    assert {} == unlike([0, 0, 0, {"stale"}], timed(name), outcomes)


@each_tool
def test_a_hook_has_its_own_tolerance_to_the_second_and_in_both_directions(name: str) -> None:
    def outcomes(specimen: Specimen) -> list[Any]:
        at = specimen.signed_at or 0
        near = [specimen.verify(now=float(at + apart), tolerance_s=7.0) for apart in (6.99, -6.99)]
        far = [specimen.refusal(now=at + apart, tolerance_s=7.0) for apart in (7.1, -7.1)]
        return [*near, *far, specimen.verify(now=at + 86_400.0, tolerance_s=86_400.0)]

    assert {} == unlike([0, 0, "stale", "stale", 0], timed(name), outcomes)


@each_tool
def test_a_forged_old_delivery_learns_that_it_is_forged_and_nothing_of_our_clock(name: str) -> None:
    def reason(specimen: Specimen) -> str:
        return specimen.refusal(specimen.changed(body=b"{}"), now=5e9)

    assert {} == unlike("mismatch", [found for found in timed(name) if found.scheme.covers == "body"], reason)


@each_tool
def test_where_no_time_is_signed_a_delivery_is_believed_at_any_time(name: str) -> None:
    def slots(specimen: Specimen) -> list[int]:
        return [specimen.verify(now=0.0), specimen.verify(now=9e9), specimen.verify(now=9e9, tolerance_s=1.0)]

    untimed = [found for found in signed(name) if found.signed_at is None and not found.is_proof_in_body]
    assert {} == unlike([0, 0, 0], untimed, slots)


@each_tool
def test_the_signed_address_is_the_one_that_we_were_told_and_elsewhere_it_is_no_matter(name: str) -> None:
    needs_url = TOOLS[name].definition.signature.needs_url

    def outcome(specimen: Specimen) -> Any:
        others = [specimen.url + "/", specimen.url.upper(), ""]
        return {specimen.refusal(url=url) if needs_url else specimen.verify(url=url) for url in others}

    assert {} == unlike({"mismatch"} if needs_url else {0}, signed(name), outcome)


# -- repeats --


@each_tool
def test_a_retry_has_the_repeat_key_of_the_first_try(name: str) -> None:
    for specimen in events(name):
        event = specimen.event()
        later = replace(event, received_at=event.received_at + timedelta(hours=3))

        first, again = _repeat_key(specimen.tool, event), _repeat_key(specimen.tool, later)

        assert first == again, specimen


def _repeat_key(tool: LoadedSource, event: Event) -> str | None:
    key = tool.definition.repeat_key(event) if tool.definition.repeat_key else None
    assert key is None or (isinstance(key, str) and key)
    return key


@each_tool
def test_different_events_have_different_repeat_keys(name: str) -> None:
    bodies: dict[str, set[bytes]] = {}
    for specimen in events(name):
        key = _repeat_key(specimen.tool, specimen.event())
        bodies.setdefault(key or repr(specimen.delivery.body), set()).add(specimen.delivery.body)

    assert {} == {key: found for key, found in bodies.items() if len(found) > 1}


@each_tool
def test_a_header_that_nobody_signed_does_not_rename_an_event(name: str) -> None:
    """Else whoever recorded one delivery rings it again and again, or takes the name of one that is still to come."""

    def renamed(specimen: Specimen) -> list[str]:
        found = []
        for header in (
            header for header in specimen.tool.definition.kept_headers if not specimen.delivery.header_values(header)
        ):
            headers = ((header.encode(), b"the name of another event"), *specimen.delivery.headers)
            other = replace(specimen, delivery=specimen.changed(headers=headers))
            if not _is_refused(specimen, other.delivery):
                found += [header] * (
                    _repeat_key(other.tool, other.event()) != _repeat_key(other.tool, specimen.event())
                )
        return found

    assert {} == unlike([], events(name), renamed)


# -- whatever a tool may send --

ODD_TEXTS = (
    "", " ", "\0", "a" * 400, "0", "-1", "007", "١٢٣", "NaN", "1e999999999", "../../v1/users", "a/b?c=d#e", "..",
    "https://evil.example/invitees/ü", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-03-14T16:00:00",
    "1773509525000", '{"data":{"webHookEvent":[]}}', "ada@example.com", "😀\u202e",
)  # fmt: skip
ODD_NUMBERS = (0, -1, 2**64 - 1, -(2**63), 1e308, 0.1)
ODD_SHAPES = ([], {}, [None], [{}], [1, "a"], {"x": {"x": 1}})
#: What orjson can hand over: whole numbers of 64 bits, finite fractions, text without halves of characters.
ODD_VALUES = (None, True, False, *ODD_TEXTS, *ODD_NUMBERS, *ODD_SHAPES)
ANY_JSON = st.recursive(
    st.sampled_from(ODD_VALUES),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.sampled_from(("id", "x", "")), inside, max_size=3),
    max_leaves=5,
)
#: Whoever reads our complaints about a specimen must not learn whose it is.
PEOPLE = re.compile("ada|lovelace|example|5550|zo[eë]", re.IGNORECASE)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inside in items:
        yield from _places(inside, (*path, key))


def _put(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    """A copy with another value at that place, if the place is still there; `...` takes it away."""
    if not path:
        return None if other is ... else other
    step, rest = path[0], path[1:]
    steps = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    if step not in steps:
        return value
    copied = value.copy()
    if other is ... and not rest:
        del copied[step]
    else:
        copied[step] = _put(value[step], rest, other)
    return copied


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


FETCHED_AT = datetime(2026, 10, 1, tzinfo=UTC)


@each_tool
def test_one_strange_value_anywhere_is_understood_ignored_or_untranslatable(name: str) -> None:
    """Every place of a body and of a record, in up to three kinds of events that have it, with every odd value."""
    tool, looked = TOOLS[name], Counter[tuple[Any, ...]]()
    for specimen in events(name):
        event, both = specimen.event(), _both(specimen)
        odd_values = (..., *ODD_VALUES, *{change.visit_id for change in _changes(specimen)})
        kind = (
            tool.definition.event_name(event)
            if tool.definition.event_name
            else event.data.at(*tool.definition.event_name_path).value
        )
        for place in _places(both):
            if not place or looked[place, kind] or looked[place] == 3:
                continue
            looked.update([place, (place, kind)])
            for odd in odd_values:
                body, *fetched = (_put(part, place[1:], odd) if n == place[0] else part for n, part in enumerate(both))
                _understand(tool, replace(event, data=Payload(body)), fetched)


def _both(specimen: Specimen) -> list[Any]:
    """The body, the first record that it points at, and what is beside that."""
    gets = specimen.gets()
    event = specimen.with_record(gets[0]) if gets else specimen.event()
    beside = {name: found.value for name, found in event.related.items()}
    return [event.data.value, event.record.value if event.record else None, beside]


def _understand(tool: LoadedSource, event: Event, fetched: Sequence[Any]) -> None:
    """As the door and the worker do it: a record is only there where the event points at one."""
    said = [_complaint(_repeat_key, tool, event), _complaint(_tenant, tool, event)]
    gets: list[RecordRequest] = []
    if tool.fetch:
        said.append(_complaint(lambda *_: gets.extend(tool.fetch(event)), tool, event))
        _safe(gets)
    if gets:
        record, beside = fetched[0], fetched[1] if isinstance(fetched[1], dict) else {}
        if record:
            said.append(_complaint(lambda *_: _safe(gets[0].follow_up(Payload(record)).values()), tool, event))
        event = event.with_record(record, FETCHED_AT, beside, gets[0].path)
    said.append(_complaint(_meaning, tool, event))

    assert not any(len(sentence) > 200 or PEOPLE.search(sentence) for sentence in said), said


@st.composite
def strange_events(draw: Any, name: str) -> tuple[Event, Any]:
    """An event of a specimen and its record, with anything at all in some places of them."""
    specimen = draw(st.sampled_from(events(name)))
    event, both = specimen.event(), _both(specimen)
    places = [place for place in _places(both) if place]
    values = [_at(both, place) for place in places]
    for _ in range(draw(st.integers(1, 4))):
        both = _put(both, draw(st.sampled_from(places)), draw(ANY_JSON | st.sampled_from(values) | st.just(...)))
    body, record, beside, *_ = [*both, None, None, None]
    return replace(event, data=Payload(body)), (record, beside)


@each_tool
def test_whatever_a_body_holds_it_is_understood_ignored_or_untranslatable(name: str) -> None:
    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(strange_events(name))
    def holds(strange: tuple[Event, Any]) -> None:
        before = copy.deepcopy(strange)

        _understand(TOOLS[name], *strange)

        assert before == strange

    holds()


def _complaint(read: Callable[[LoadedSource, Event], Any], tool: LoadedSource, event: Event) -> str:
    try:
        read(tool, event)
    except Untranslatable as error:
        return str(error)
    return ""


def _tenant(tool: LoadedSource, event: Event) -> None:
    if tool.definition.tenant_of:
        assert isinstance(tool.definition.tenant_of(event), str | None)


def _safe(gets: Iterable[RecordRequest]) -> None:
    """A body never chooses what else is asked for."""
    for get in gets:
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*(/[A-Za-z0-9_.~=+-]+)*", get.path), (
            "an id in a path was not checked"
        )
        assert ".." not in get.path
        assert all(isinstance(value, str) for value in [*get.variables.values(), *get.params.values()])
        assert not any("evil" in value or len(value) > 300 for value in get.params.values()), "an id was not checked"


def _meaning(tool: LoadedSource, event: Event) -> None:
    said = tool.translate(event)

    if isinstance(said, Ignored):
        assert isinstance(said.reason, str)
        assert said.reason
        return
    assert said
    for change in said:
        assert change.visit_id == change.visit_id.strip()
        assert bool(change.visit_id) != bool(change.named), "a change names one visit, by `visit_id` or by `named`"
        assert change.named is None or is_external_id(change.named)
        assert re.fullmatch(r"[a-z][A-Za-z0-9._-]{0,119}", change.external_id(tool.name))
        assert type(change.order) is int
        Said.read("delivery", encode_change(change))
