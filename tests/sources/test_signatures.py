"""Signatures of every source, from its specimens."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from app.webhooks.registry import load_specimens
from app.webhooks.signatures.scheme import MIN_GENERATED_SECRET_BYTES
from tests.support.specimens import _A_TIME, TOOLS, Specimen, _is_refused, _name, each_tool, mismatches, signed


def covered(name: str) -> list[Specimen]:
    """Those whose whole body is signed."""
    return [specimen for specimen in signed(name) if specimen.scheme.coverage == "body"]


def in_headers(name: str) -> list[Specimen]:
    """Those that are signed in headers."""
    return [specimen for specimen in signed(name) if specimen.signing_headers]


def timed(name: str) -> list[Specimen]:
    """Those whose signature covers a time."""
    return [specimen for specimen in signed(name) if specimen.signed_at is not None]


@pytest.mark.skipif(not shutil.which("openssl"), reason="a fresh machine may lack the openssl command")
@each_tool
def test_openssl_makes_the_signatures_of_the_specimens(name: str) -> None:
    """By the command that the specimens name; one shell does all of them."""
    found, env, script = signed(name), {"PATH": os.environ["PATH"]}, ""
    for n, specimen in enumerate(found):
        env |= {f"BODY_{n}": specimen.delivery.body.decode(), f"T_{n}": _signed_time(specimen)}
        env |= {f"ID_{n}": _signed_id(specimen)}
        env |= {f"KEY_{n}": specimen.secret, f"SIGNING_KEY_{n}": specimen.setting("signing_key")}
        env |= {
            "PUBLIC_URL": specimen.url.partition("/hooks/")[0],
            "SECRET_KEY": specimen.setting("secret_key"),
            "HOOK": name,
        }
        given = " ".join(f'{each}="${each}_{n}"' for each in ("BODY", "T", "ID", "KEY", "SIGNING_KEY"))
        script += f"export {given}\n{specimen.setting('signed_with')}\necho\n"

    ran = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True)

    digests = [line.rpartition(" ")[2] for line in ran.stdout.splitlines() if line.strip()]
    made = dict(zip(map(_name, found), digests, strict=True))
    assert min(map(len, digests)) >= MIN_GENERATED_SECRET_BYTES
    assert {} == mismatches("", found, lambda specimen: _another(specimen, made[_name(specimen)]))


def _another(specimen: Specimen, digest: str) -> str:
    """What the command made instead of the specimen's signature, and of what beside the body."""
    if _carries(specimen, digest):
        return ""
    given = {"T": _signed_time(specimen), "ID": _signed_id(specimen), "PUBLIC_URL": specimen.setting("public_url")}
    return f"`signed_with` made {digest} of the body and {given}"


def _signed_id(specimen: Specimen) -> str:
    """What is signed in headers beside the time: all that `sign` does not make."""
    made = specimen.tool.definition.signature.sign(specimen.delivery, specimen.sender_context())
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
    return getattr(specimen.tool.definition.signature, "lenient", False)


@each_tool
def test_our_own_signature_is_the_one_that_openssl_made(name: str) -> None:
    def as_signed(specimen: Specimen) -> bool:
        context, signature = (
            specimen.sender_context(now=float(specimen.signed_at or 0)),
            specimen.tool.definition.signature,
        )
        made = signature.sign(specimen.delivery, context)
        if specimen.delivery.token and signature.path_token(name, context) != specimen.delivery.token:
            return False
        there = {header.lower(): specimen.header(header.lower()).decode() for header in made}
        ours = {header.lower(): value for header, value in made.items()}
        return there == ours or (_is_forgiving(specimen) and _plain(there) == _plain(ours))

    assert {} == mismatches(True, signed(name), as_signed)


def _plain(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value.removeprefix("sha256=").lower() for name, value in headers.items()}


@each_tool
def test_what_we_sign_we_believe(name: str) -> None:
    def ours(specimen: Specimen) -> int:
        now, signature = 2_000_000_000.75, specimen.tool.definition.signature
        context = specimen.sender_context(now=now)
        sent = replace(specimen.delivery, body=signature.encode_body(specimen.delivery.body, context))
        made = signature.sign(sent, context)
        lines = tuple((header.lower().encode(), value.encode()) for header, value in made.items())
        bare = replace(specimen, delivery=sent).without(*made)
        return specimen.verify(replace(bare, headers=(*bare.headers, *lines)), now=now)

    assert {} == mismatches(0, signed(name), ours)


@each_tool
def test_a_changed_body_is_refused(name: str) -> None:
    def reasons(specimen: Specimen) -> set[str]:
        raw = specimen.delivery.body
        places = range(0, len(raw), max(1, len(raw) // 50))
        flipped = [raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :] for place in places]
        others = [raw[:-1], raw[1:], raw + raw, b"\xef\xbb\xbf" + raw]
        if not specimen.is_proof_in_body:
            others += [b"", raw + b" ", raw + b"\n", b" " + raw]
        found = {specimen.rejection(specimen.changed(body=other)) for other in [*flipped, *others]}
        return found - {"malformed", "missing"} if specimen.is_proof_in_body else found

    assert {} == mismatches({"mismatch"}, covered(name), reasons)


@each_tool
def test_a_body_that_says_the_same_in_other_bytes_is_refused(name: str) -> None:
    def reason(specimen: Specimen) -> str:
        body = specimen.recorded["body"]
        other = body.replace("=", "%3D", 1).replace(":", ": ", 1) if isinstance(body, str) else json.dumps(body)
        return specimen.rejection(specimen.changed(body=other.encode()))

    assert {} == mismatches("mismatch", [found for found in covered(name) if not found.is_proof_in_body], reason)


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

    assert {} == mismatches([], signed(name), believed)


def _is_spelt_otherwise(specimen: Specimen, value: bytes) -> bool:
    """`bearer` is `Bearer`; the token behind it is what it is."""
    prefix = getattr(specimen.scheme, "prefix", "") if specimen.scheme.coverage == "nothing" else ""
    token = specimen.secret.encode()
    return bool(prefix) and value.removesuffix(token).lower() == prefix.lower().encode() and value.endswith(token)


def _flipped(raw: bytes) -> Iterator[bytes]:
    """With one bit changed; of many, some."""
    for place in range(0, len(raw), max(1, len(raw) // 60)):
        for bit in range(8):
            yield raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :]


@each_tool
def test_without_its_signature_a_delivery_is_refused(name: str) -> None:
    def reasons(specimen: Specimen) -> set[str]:
        made = specimen.tool.definition.signature.sign(specimen.delivery, specimen.sender_context())
        assert {header.lower() for header in made} <= set(specimen.signing_headers)
        bare = [specimen.without(header) for header in specimen.signing_headers]
        bare += [specimen.changed(headers=())] if bare else []
        bare += [specimen.changed(token="")] if specimen.delivery.token else []
        bare += (
            [specimen.changed(body=b"")]
            if specimen.is_proof_in_body and not specimen.tool.definition.signature.needs_secret_key
            else []
        )
        return {specimen.rejection(delivery) for delivery in bare} or {"missing"}

    assert {} == mismatches({"missing"}, signed(name), reasons)


@each_tool
def test_an_empty_signature_is_a_missing_one(name: str) -> None:
    def reasons(specimen: Specimen) -> set[str]:
        blanks = [specimen.with_header(header, blank) for header in specimen.signing_headers for blank in (b"", b"  ")]
        return {specimen.rejection(delivery) for delivery in blanks}

    assert {} == mismatches({"missing"}, in_headers(name), reasons)


@each_tool
def test_of_a_header_that_was_sent_twice_no_line_is_believed(name: str) -> None:
    def reasons(specimen: Specimen) -> set[str]:
        found = set()
        for header in specimen.signing_headers:
            same, other = (header.encode(), specimen.header(header)), (header.encode(), b"something else")
            for more in ((same,), (other,), (same, other)):
                found.add(specimen.rejection(specimen.changed(headers=(*specimen.delivery.headers, *more))))
                found.add(specimen.rejection(specimen.changed(headers=(*more, *specimen.delivery.headers))))
        return found

    assert {} == mismatches({"malformed"}, in_headers(name), reasons)


@each_tool
def test_another_secret_is_refused(name: str) -> None:
    def reasons(specimen: Specimen) -> set[str]:
        check, secret = specimen.scheme.secret_problem, specimen.secret
        wrong = [specimen.other_secret, secret[:-1], secret[:-6] + secret[-6:].swapcase()]
        wrong = [near for near in wrong if near != secret and check(near) is None]
        found = {specimen.rejection(secrets=secrets) for secrets in [*([near] for near in wrong), wrong, []]}
        if specimen.delivery.token:
            found |= {specimen.rejection(keys=keys) for keys in ([], ["another key of ours"])}
        return found

    assert {} == mismatches({"mismatch"}, signed(name), reasons)


@each_tool
def test_while_secrets_rotate_each_is_accepted_and_the_answer_tells_which(name: str) -> None:
    def slots(specimen: Specimen) -> list[int]:
        old, new = specimen.secret, specimen.other_secret
        return [specimen.verify(secrets=secrets) for secrets in ([old], [old, new], [new, old], [new, new, old])]

    assert {} == mismatches([0, 0, 1, 2], signed(name), slots)


@each_tool
def test_the_secret_of_the_specimens_is_one_that_the_settings_take(name: str) -> None:
    signature = TOOLS[name].definition.signature

    assert signature.secret_problem(load_specimens(name)["secret"]) is None
    assert signature.secret_problem("") is not None


@each_tool
def test_where_a_time_is_signed_it_may_be_minutes_from_ours_but_not_more_than_ten_or_than_a_tool_tries_again(
    name: str,
) -> None:
    def outcomes(specimen: Specimen) -> list[Any]:
        at, most = specimen.signed_at or 0, max(600.0, getattr(specimen.scheme, "tolerance_s", 0.0))
        assert most <= 4 * 86_400
        near = [specimen.verify(now=float(at + apart)) for apart in (0, 120, -120)]
        far = [at + most + 1, at - most - 1, at + 4e8, 0.0, float("nan"), float("inf"), float("-inf")]
        return [*near, {specimen.rejection(now=now) for now in far}]

    assert {} == mismatches([0, 0, 0, {"stale"}], timed(name), outcomes)


@each_tool
def test_a_hook_has_its_own_tolerance_to_the_second_and_in_both_directions(name: str) -> None:
    def outcomes(specimen: Specimen) -> list[Any]:
        at = specimen.signed_at or 0
        near = [specimen.verify(now=float(at + apart), tolerance_s=7.0) for apart in (6.99, -6.99)]
        far = [specimen.rejection(now=at + apart, tolerance_s=7.0) for apart in (7.1, -7.1)]
        return [*near, *far, specimen.verify(now=at + 86_400.0, tolerance_s=86_400.0)]

    assert {} == mismatches([0, 0, "stale", "stale", 0], timed(name), outcomes)


@each_tool
def test_a_forged_old_delivery_learns_that_it_is_forged_and_nothing_of_our_clock(name: str) -> None:
    def reason(specimen: Specimen) -> str:
        return specimen.rejection(specimen.changed(body=b"{}"), now=5e9)

    assert {} == mismatches("mismatch", [found for found in timed(name) if found.scheme.coverage == "body"], reason)


@each_tool
def test_where_no_time_is_signed_a_delivery_is_believed_at_any_time(name: str) -> None:
    def slots(specimen: Specimen) -> list[int]:
        return [specimen.verify(now=0.0), specimen.verify(now=9e9), specimen.verify(now=9e9, tolerance_s=1.0)]

    untimed = [found for found in signed(name) if found.signed_at is None and not found.is_proof_in_body]
    assert {} == mismatches([0, 0, 0], untimed, slots)


@each_tool
def test_the_signed_address_is_the_one_that_we_were_told_and_elsewhere_it_is_no_matter(name: str) -> None:
    needs_url = TOOLS[name].definition.signature.needs_url

    def outcome(specimen: Specimen) -> Any:
        others = [specimen.url + "/", specimen.url.upper(), ""]
        return {specimen.rejection(url=url) if needs_url else specimen.verify(url=url) for url in others}

    assert {} == mismatches({"mismatch"} if needs_url else {0}, signed(name), outcome)
