"""What every source promises, from its specimens alone: nothing here names a tool."""

import copy
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.delivery import Delivery, Event, check_content_type, parse_body
from app.reading import Json, Untranslatable
from app.signatures import SignatureError, Terms
from app.sources import Ignored, Tool, load, specimens
from app.visits.merge import Said
from app.visits.words import VisitChange, encode_change, external_id

TOOLS = load()
#: No tool's secret: base64 behind its prefix for those who want that, text for everybody else.
ANOTHER_SECRET = "whsec_YW5vdGhlciBzZWNyZXQsIG9mIGFub3RoZXIgdG9vbA=="


@dataclass(frozen=True)
class Specimen:
    """A recorded delivery, ready to be verified. told: as it stands in the file."""

    tool: Tool
    secret: str
    url: str
    signed_with: str
    delivery: Delivery
    told: Mapping[str, Any]

    @property
    def expect(self) -> Any:
        return self.told["expect"]

    @property
    def is_handshake(self) -> bool:
        return isinstance(self.expect, dict) and "handshake" in self.expect

    def terms(self, **other: Any) -> Terms:
        return Terms(
            **{"secrets": [self.secret], "now": self.delivery.received_at.timestamp(), "url": self.url} | other
        )

    def verify(self, delivery: Delivery | None = None, **other: Any) -> int:
        return self.tool.source.signature.verify(delivery or self.delivery, self.terms(**other))

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
        [value] = self.delivery.header_lines(name)
        return value

    def with_header(self, name: str, value: bytes) -> Delivery:
        headers = tuple((key, value if key == name.encode() else old) for key, old in self.delivery.headers)
        return self.changed(headers=headers)

    @cached_property
    def signed_at(self) -> int | None:
        """The seconds that the tool signed; None where its scheme has no time."""
        found = [re.search(rb"\b1[0-9]{9}\b", self.header(name)) for name in self.signing_headers]
        return next((int(match[0]) for match in found if match), None)

    def event(self) -> Event:
        source, delivery = self.tool.source, self.delivery
        return Event(
            source=self.tool.name,
            data=parse_body(delivery, source.form),
            received_at=delivery.received_at,
            headers={name: value for name in source.headers if (value := delivery.header(name)) is not None},
        )

    def paths(self) -> list[str]:
        return [get.path for get in self.tool.fetch(self.event())] if self.tool.fetch else []

    def translate(self) -> list[VisitChange] | Ignored:
        """As the worker does it: once for every record that the event points at."""
        paths = self.paths()
        if not paths:
            return self.tool.translate(self.event())
        fetched_at = datetime.fromisoformat(self.told["fetched_at"])
        records = self.told["records"]
        said = [self.tool.translate(self.event().with_record(records[path], fetched_at)) for path in paths]
        changes = [change for part in said if not isinstance(part, Ignored) for change in part]
        return changes or next(part for part in said if isinstance(part, Ignored))


def _read(tool: Tool) -> Iterator[Specimen]:
    file = specimens(tool.name)
    for told in file["deliveries"]:
        body = told["body"]
        raw = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        headers = tuple((name.lower().encode(), value.encode()) for name, value in told["headers"].items())
        now = datetime.fromisoformat(told["now"])
        yield Specimen(
            tool,
            file["secret"],
            f"{file.get('public_url', '')}/hooks/{tool.name}",
            file["signed_with"],
            Delivery(tool.name, tool.name, headers, raw.encode(), now),
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


def signed(name: str) -> list[Specimen]:
    """The specimens of a tool that are events, and so are signed."""
    return [specimen for specimen in BY_TOOL[name] if not specimen.is_handshake]


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
each_signed = pytest.mark.parametrize("specimen", [found for name in TOOLS for found in signed(name)], ids=_name)
each_handshake = pytest.mark.parametrize("specimen", [found for found in SPECIMENS if found.is_handshake], ids=_name)


def as_told(change: VisitChange) -> dict[str, Any]:
    """A change in the words of the specimens."""
    contact = change.contact.details() if change.contact else {}
    return {
        "action": change.action,
        "visit_id": change.visit_id,
        "order": change.order,
        **({"continues": change.continues} if change.continues else {}),
        **({"contact": contact} if contact else {}),
        **change.facts(),
        **({"as_of": change.as_of} if change.as_of else {}),
        **({"is_sighting": True} if change.is_sighting else {}),
    }


def told_changes(name: str) -> list[dict[str, Any]]:
    return [change for found in BY_TOOL[name] if isinstance(found.expect, list) for change in found.expect]


# -- what a source is --


@every_source
def test_every_source_comes_with_its_specimens(name: str) -> None:
    recorded = specimens(name)

    assert {"secret", "signed_with", "deliveries"} <= recorded.keys()
    assert len(recorded["deliveries"]) >= 5


@every_source
def test_every_source_says_what_it_is_and_how_to_connect_it(name: str) -> None:
    source = TOOLS[name].source

    assert source.title.strip()
    assert source.docs.startswith("https://")
    assert source.setup.strip().startswith("1. ")
    assert "{url}" in source.setup
    assert f"HOOKS__{name.upper()}__SECRETS" in source.setup


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

    assert ignored


@each_tool
def test_a_booking_and_its_end_are_about_the_same_visit(name: str) -> None:
    said = told_changes(name)
    ended = {change["visit_id"] for change in said if change.get("date_cancelled") or change.get("no_show")}
    booked = {change["visit_id"] for change in said if change["action"] != "cancel" and change.get("time_scheduled")}

    assert booked
    assert ended & booked or not ended


@each_tool
def test_a_cancel_says_when(name: str) -> None:
    silent = [change for change in told_changes(name) if change["action"] == "cancel" and not _is_over(change)]

    assert [] == silent


def _is_over(change: Mapping[str, Any]) -> bool:
    return bool(change.get("date_cancelled") or change.get("no_show"))


@each_tool
def test_changes_of_one_source_are_ordered_by_times_or_by_versions_and_never_by_both(name: str) -> None:
    a_day_of_1971 = 31_536_000_000_000  # microseconds; no tool counts its versions so far

    orders = [change.order for found in BY_TOOL[name] for change in _changes(found)]

    assert 1 == len({order > a_day_of_1971 for order in orders})


def _changes(specimen: Specimen) -> list[VisitChange]:
    said = [] if specimen.is_handshake else specimen.translate()
    return [] if isinstance(said, Ignored) else said


# -- specimens become what they should --


@each_tool
def test_the_hook_takes_the_content_type(name: str) -> None:
    for specimen in BY_TOOL[name]:
        check_content_type(specimen.delivery, specimen.tool.source.form)


@each_tool
def test_a_delivery_is_believed(name: str) -> None:
    assert {} == unlike(0, signed(name), lambda specimen: specimen.verify())


@each_tool
def test_an_event_points_at_its_records(name: str) -> None:
    assert {} == unlike(True, signed(name), lambda specimen: specimen.told.get("gets", []) == specimen.paths())


@each_signed
def test_an_event_becomes_what_it_means(specimen: Specimen) -> None:
    said = specimen.translate()

    if isinstance(said, Ignored):
        assert specimen.expect == {"ignored": said.why}
        return
    for expected, change in zip(specimen.expect, said, strict=True):
        actual = as_told(change)
        assert expected == (actual if "order" in expected else {**actual, "order": None} | expected)
        assert expected.keys() | {"order"} == actual.keys()


@each_tool
def test_to_translate_twice_says_the_same_and_leaves_the_event_as_it_was(name: str) -> None:
    for specimen in signed(name):
        event = specimen.event()
        for path in specimen.paths():
            record = copy.deepcopy(specimen.told["records"][path])
            event = event.with_record(record, datetime.fromisoformat(specimen.told["fetched_at"]))
        before = copy.deepcopy(event)

        first, second = specimen.tool.translate(event), specimen.tool.translate(event)

        assert first == second, specimen
        assert before == event, specimen


@each_tool
def test_a_visit_gets_a_name_that_the_api_takes(name: str) -> None:
    names = {external_id(name, change.visit_id) for specimen in signed(name) for change in _changes(specimen)}

    assert names
    assert [] == [taken for taken in names if not re.fullmatch(r"[a-z][A-Za-z0-9._-]{0,119}", taken)]


@each_tool
def test_a_change_survives_the_ledger(name: str) -> None:
    for change in (change for specimen in signed(name) for change in _changes(specimen)):
        contact = change.contact.details() if change.contact else {}

        read = Said.read("delivery", encode_change(change))

        assert (change.action, change.order) == (read.action, read.order)
        assert (change.facts(), contact) == (read.facts, read.contact)


# -- handshakes --


@each_handshake
def test_a_handshake_is_answered_and_only_while_it_is_unsigned(specimen: Specimen) -> None:
    unsigned = specimen.tool.source.unsigned
    assert unsigned is not None

    answered = unsigned.answer(specimen.delivery)
    one = next(iter(specimen.tool.source.signature.sign(specimen.delivery, specimen.terms())))
    signed = specimen.changed(headers=(*specimen.delivery.headers, (one.lower().encode(), b"not a signature")))

    assert answered is not None
    assert unsigned.answer(signed) is None


@each_tool
def test_a_delivery_stripped_of_its_signature_is_no_handshake(name: str) -> None:
    unsigned = TOOLS[name].source.unsigned
    probes = {specimen.delivery.raw for specimen in BY_TOOL[name] if specimen.is_handshake}

    def is_answered(specimen: Specimen) -> bool:
        stripped = specimen.without(*specimen.signing_headers)
        return unsigned is not None and unsigned.answer(stripped) is not None

    assert {} == unlike(False, [found for found in signed(name) if found.delivery.raw not in probes], is_answered)


# -- signatures --


@pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl here to make them with")
@each_tool
def test_openssl_makes_the_signatures_of_the_specimens(name: str) -> None:
    """By the command that the specimens name; one shell does all of them."""
    found, env, script = signed(name), {"PATH": os.environ["PATH"]}, ""
    for n, specimen in enumerate(found):
        ids = [specimen.header(header).decode() for header in specimen.signing_headers if header.endswith("-id")]
        env |= {f"BODY_{n}": specimen.delivery.raw.decode(), f"T_{n}": str(specimen.signed_at), f"ID_{n}": "".join(ids)}
        env |= {"KEY": specimen.secret, "PUBLIC_URL": specimen.url.partition("/hooks/")[0]}
        script += f'BODY="$BODY_{n}" T="$T_{n}" ID="$ID_{n}"\n{specimen.signed_with}\necho\n'

    ran = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True)

    digests = [line.rpartition(" ")[2] for line in ran.stdout.splitlines() if line.strip()]
    made = dict(zip(map(_name, found), digests, strict=True))
    assert {44, 64} >= {len(digest) for digest in digests}
    assert {} == unlike(True, found, lambda specimen: _carries(specimen, made[_name(specimen)]))


def _carries(specimen: Specimen, digest: str) -> bool:
    headers = [specimen.header(name).decode() for name in specimen.signing_headers]
    return any(digest in header or (_is_forgiving(specimen) and digest in header.lower()) for header in headers)


def _is_forgiving(specimen: Specimen) -> bool:
    """Does the scheme say that it takes hexadecimal in capitals, which is the same number?"""
    return getattr(specimen.tool.source.signature, "forgiving", False)


@each_tool
def test_our_own_signature_is_the_one_that_openssl_made(name: str) -> None:
    def as_signed(specimen: Specimen) -> bool:
        now = float(specimen.signed_at or 0)
        made = specimen.tool.source.signature.sign(specimen.delivery, specimen.terms(now=now))
        there = {header.lower(): specimen.header(header.lower()).decode() for header in made}
        ours = {header.lower(): value for header, value in made.items()}
        return there == ours or (_is_forgiving(specimen) and _plain(there) == _plain(ours))

    assert {} == unlike(True, signed(name), as_signed)


def _plain(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value.removeprefix("sha256=").lower() for name, value in headers.items()}


@each_tool
def test_what_we_sign_we_believe(name: str) -> None:
    def ours(specimen: Specimen) -> int:
        terms, signature = specimen.terms(now=2_000_000_000.75), specimen.tool.source.signature
        made = signature.sign(specimen.delivery, terms)
        lines = tuple((header.lower().encode(), value.encode()) for header, value in made.items())
        bare = specimen.without(*made)
        return signature.verify(replace(bare, headers=(*bare.headers, *lines)), terms)

    assert {} == unlike(0, signed(name), ours)


@each_tool
def test_a_changed_body_is_refused(name: str) -> None:
    def reasons(specimen: Specimen) -> set[str]:
        raw = specimen.delivery.raw
        places = range(0, len(raw), max(1, len(raw) // 50))
        flipped = [raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :] for place in places]
        others = [b"", raw[:-1], raw[1:], raw + b" ", raw + b"\n", b" " + raw, raw + raw, b"\xef\xbb\xbf" + raw]
        return {specimen.refusal(specimen.changed(raw=other)) for other in [*flipped, *others]}

    assert {} == unlike({"mismatch"}, signed(name), reasons)


@each_tool
def test_a_body_that_says_the_same_in_other_bytes_is_refused(name: str) -> None:
    def reason(specimen: Specimen) -> str:
        body = specimen.told["body"]
        other = body.replace("=", "%3D", 1).replace(":", ": ", 1) if isinstance(body, str) else json.dumps(body)
        return specimen.refusal(specimen.changed(raw=other.encode()))

    assert {} == unlike("mismatch", signed(name), reason)


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
        same = (
            [specimen.header(header).lower() for header in specimen.signing_headers] if _is_forgiving(specimen) else []
        )
        assert others
        return [other for other in wrongly if other.lower() not in same]

    assert {} == unlike([], signed(name), believed)


def _is_refused(specimen: Specimen, delivery: Delivery) -> bool:
    try:
        specimen.verify(delivery)
    except SignatureError:
        return True
    return False


@each_tool
def test_without_its_signature_a_delivery_is_refused(name: str) -> None:
    def reasons(specimen: Specimen) -> set[str]:
        made = specimen.tool.source.signature.sign(specimen.delivery, specimen.terms())
        assert {header.lower() for header in made} <= set(specimen.signing_headers)
        bare = [specimen.without(header) for header in specimen.signing_headers]
        return {specimen.refusal(delivery) for delivery in [*bare, specimen.changed(headers=())]}

    assert {} == unlike({"missing"}, signed(name), reasons)


@each_tool
def test_an_empty_signature_is_a_missing_one(name: str) -> None:
    def reasons(specimen: Specimen) -> set[str]:
        blanks = [specimen.with_header(header, blank) for header in specimen.signing_headers for blank in (b"", b"  ")]
        return {specimen.refusal(delivery) for delivery in blanks}

    assert {} == unlike({"missing"}, signed(name), reasons)


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

    assert {} == unlike({"malformed"}, signed(name), reasons)


@each_tool
def test_another_secret_is_refused(name: str) -> None:
    def reasons(specimen: Specimen) -> set[str]:
        check, secret = specimen.tool.source.signature.check_secret, specimen.secret
        wrong = [ANOTHER_SECRET, secret[:-1], secret[:-6] + secret[-6:].swapcase()]
        wrong = [near for near in wrong if near != secret and check(near) is None]
        return {specimen.refusal(secrets=secrets) for secrets in [*([near] for near in wrong), wrong, []]}

    assert {} == unlike({"mismatch"}, signed(name), reasons)


@each_tool
def test_while_secrets_rotate_each_is_accepted_and_the_answer_tells_which(name: str) -> None:
    def slots(specimen: Specimen) -> list[int]:
        old, new = specimen.secret, ANOTHER_SECRET
        return [specimen.verify(secrets=secrets) for secrets in ([old], [old, new], [new, old], [new, new, old])]

    assert {} == unlike([0, 0, 1, 2], signed(name), slots)


@each_tool
def test_the_secret_of_the_specimens_is_one_that_the_settings_take(name: str) -> None:
    signature = TOOLS[name].source.signature

    assert signature.check_secret(specimens(name)["secret"]) is None
    assert signature.check_secret("") is not None


@each_tool
def test_where_a_time_is_signed_it_may_be_minutes_from_ours_but_not_ten(name: str) -> None:
    def outcomes(specimen: Specimen) -> list[Any]:
        at = specimen.signed_at or 0
        near = [specimen.verify(now=float(at + apart)) for apart in (0, 120, -120)]
        far = [at + 601.0, at - 601.0, at + 4e8, 0.0, float("nan"), float("inf"), float("-inf")]
        return [*near, {specimen.refusal(now=now) for now in far}]

    assert {} == unlike([0, 0, 0, {"stale"}], timed(name), outcomes)


@each_tool
def test_a_hook_has_its_own_tolerance_to_the_second_and_in_both_directions(name: str) -> None:
    def outcomes(specimen: Specimen) -> list[Any]:
        at = specimen.signed_at or 0
        near = [specimen.verify(now=float(at + apart), tolerance_s=7.0) for apart in (7, -7)]
        far = [specimen.refusal(now=at + apart, tolerance_s=7.0) for apart in (7.1, -7.1)]
        return [*near, *far, specimen.verify(now=at + 86_400.0, tolerance_s=86_400.0)]

    assert {} == unlike([0, 0, "stale", "stale", 0], timed(name), outcomes)


@each_tool
def test_a_forged_old_delivery_learns_that_it_is_forged_and_nothing_of_our_clock(name: str) -> None:
    def reason(specimen: Specimen) -> str:
        return specimen.refusal(specimen.changed(raw=b"{}"), now=5e9)

    assert {} == unlike("mismatch", timed(name), reason)


@each_tool
def test_where_no_time_is_signed_a_delivery_is_believed_at_any_time(name: str) -> None:
    def slots(specimen: Specimen) -> list[int]:
        return [specimen.verify(now=0.0), specimen.verify(now=9e9), specimen.verify(now=9e9, tolerance_s=1.0)]

    assert {} == unlike([0, 0, 0], [found for found in signed(name) if found not in timed(name)], slots)


@each_tool
def test_the_signed_address_is_the_one_that_we_were_told_and_elsewhere_it_is_no_matter(name: str) -> None:
    needs_url = TOOLS[name].source.signature.needs_url

    def outcome(specimen: Specimen) -> Any:
        others = [specimen.url + "/", specimen.url.upper(), ""]
        return {specimen.refusal(url=url) if needs_url else specimen.verify(url=url) for url in others}

    assert {} == unlike({"mismatch"} if needs_url else {0}, signed(name), outcome)


# -- repeats --


@each_tool
def test_a_retry_has_the_repeat_key_of_the_first_try(name: str) -> None:
    for specimen in signed(name):
        event = specimen.event()
        later = replace(event, received_at=event.received_at + timedelta(hours=3))

        first, again = _repeat_key(specimen.tool, event), _repeat_key(specimen.tool, later)

        assert first == again, specimen


def _repeat_key(tool: Tool, event: Event) -> str | None:
    key = tool.source.repeat_key(event) if tool.source.repeat_key else None
    assert key is None or (isinstance(key, str) and key)
    return key


@each_tool
def test_different_events_have_different_repeat_keys(name: str) -> None:
    bodies: dict[str, set[bytes]] = {}
    for specimen in signed(name):
        key = _repeat_key(specimen.tool, specimen.event())
        bodies.setdefault(key or repr(specimen.delivery.raw), set()).add(specimen.delivery.raw)

    assert {} == {key: found for key, found in bodies.items() if len(found) > 1}


@each_tool
def test_a_header_that_nobody_signed_does_not_rename_an_event(name: str) -> None:
    """Else whoever recorded one delivery rings it again and again, or takes the name of one that is still to come."""

    def renamed(specimen: Specimen) -> list[str]:
        found = []
        for header in (header for header in specimen.tool.source.headers if not specimen.delivery.header_lines(header)):
            headers = ((header.encode(), b"the name of another event"), *specimen.delivery.headers)
            other = replace(specimen, delivery=specimen.changed(headers=headers))
            if not _is_refused(specimen, other.delivery):
                found += [header] * (
                    _repeat_key(other.tool, other.event()) != _repeat_key(other.tool, specimen.event())
                )
        return found

    assert {} == unlike([], signed(name), renamed)


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
    for specimen in signed(name):
        event, paths = specimen.event(), specimen.paths()
        both = [event.data.value, specimen.told["records"][paths[0]] if paths else None]
        odd_values = (..., *ODD_VALUES, *{change.visit_id for change in _changes(specimen)})
        kind = event.data.at(*tool.source.event).value
        for place in _places(both):
            if not place or looked[place, kind] or looked[place] == 3:
                continue
            looked.update([place, (place, kind)])
            for odd in odd_values:
                body, record = (_put(part, place[1:], odd) if n == place[0] else part for n, part in enumerate(both))
                _understand(tool, replace(event, data=Json(body)), record)


def _understand(tool: Tool, event: Event, record: Any) -> None:
    """As the door and the worker do it: a record is only there where the event points at one."""
    said = [_complaint(_repeat_key, tool, event), _complaint(_gets, tool, event)]
    if _points(tool, event):
        event = event.with_record(record, FETCHED_AT)
    said.append(_complaint(_meaning, tool, event))

    assert not any(len(sentence) > 200 or PEOPLE.search(sentence) for sentence in said), said


def _points(tool: Tool, event: Event) -> bool:
    try:
        return bool(tool.fetch and tool.fetch(event))
    except Untranslatable:
        return False


@st.composite
def strange_events(draw: Any, name: str) -> tuple[Event, Any]:
    """An event of a specimen and its record, with anything at all in some places of them."""
    specimen = draw(st.sampled_from(signed(name)))
    event, paths = specimen.event(), specimen.paths()
    both = [event.data.value, specimen.told["records"][paths[0]] if paths else None]
    places = [place for place in _places(both) if place]
    values = [_at(both, place) for place in places]
    for _ in range(draw(st.integers(1, 4))):
        both = _put(both, draw(st.sampled_from(places)), draw(ANY_JSON | st.sampled_from(values) | st.just(...)))
    body, record, *_ = [*both, None, None]
    return replace(event, data=Json(body)), record


@each_tool
def test_whatever_a_body_holds_it_is_understood_ignored_or_untranslatable(name: str) -> None:
    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(strange_events(name))
    def holds(strange: tuple[Event, Any]) -> None:
        before = copy.deepcopy(strange)

        _understand(TOOLS[name], *strange)

        assert before == strange

    holds()


def _complaint(read: Callable[[Tool, Event], Any], tool: Tool, event: Event) -> str:
    try:
        read(tool, event)
    except Untranslatable as error:
        return str(error)
    return ""


def _gets(tool: Tool, event: Event) -> None:
    """A body never chooses what else is asked for."""
    for get in tool.fetch(event) if tool.fetch else []:
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*/[A-Za-z0-9_.~=+-]+", get.path)
        assert ".." not in get.path
        assert all(isinstance(value, str) for value in get.variables.values())


def _meaning(tool: Tool, event: Event) -> None:
    said = tool.translate(event)

    if isinstance(said, Ignored):
        assert isinstance(said.why, str)
        assert said.why
        return
    assert said
    for change in said:
        assert change.visit_id == change.visit_id.strip() != ""
        assert change.continues != change.visit_id
        assert re.fullmatch(r"[a-z][A-Za-z0-9._-]{0,119}", external_id(tool.name, change.visit_id))
        assert type(change.order) is int
        Said.read("delivery", encode_change(change))
