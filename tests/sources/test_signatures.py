"""Signatures of every source, from its specimens."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from app.webhooks.registry import load_specimens
from app.webhooks.signatures.scheme import MIN_GENERATED_SECRET_BYTES, SignatureError
from tests.support.specimens import (
    _A_TIME,
    TOOLS,
    Specimen,
    _is_refused,
    _name,
    deliveries,
    each_tool,
    mismatches,
    signed,
)


def covered(name: str) -> list[Specimen]:
    """Return the specimens whose whole body is signed."""
    return [specimen for specimen in signed(name) if specimen.scheme.coverage == "body"]


def in_headers(name: str) -> list[Specimen]:
    """Return the specimens that are signed in headers."""
    return [specimen for specimen in signed(name) if specimen.signing_headers]


def one_of_each_form(name: str) -> list[Specimen]:
    """Return the first specimen of each combination of scheme, signed headers and token."""
    forms = {
        (id(specimen.scheme), *specimen.signing_headers, bool(specimen.delivery.token)): specimen
        for specimen in reversed(signed(name))
    }
    return list(forms.values())


def timed(name: str) -> list[Specimen]:
    """Return the specimens whose signature covers a time."""
    return [specimen for specimen in signed(name) if specimen.signed_at is not None]


@each_tool
def test_a_specimen_has_the_signature_that_its_command_makes_and_its_module_accepts(name: str) -> None:
    """The only test that fails for a wrong signature: the others leave such a specimen out."""
    specimens = deliveries(name)
    digests = _digests(name, specimens) if shutil.which("openssl") else [""] * len(specimens)

    wrong = [
        f"{_name(specimen)}: {problem}"
        for specimen, digest in zip(specimens, digests, strict=True)
        if (problem := _problem(specimen, digest))
    ]

    assert not wrong, "\n".join([*wrong, f"`doorbell specimen sign {name}` corrects signatures"])


def _digests(name: str, specimens: Sequence[Specimen]) -> list[str]:
    """Return what `signed_with` makes of each specimen; one shell runs all commands."""
    env, script = {"PATH": os.environ["PATH"]}, ""
    for n, specimen in enumerate(specimens):
        env |= {f"BODY_{n}": specimen.delivery.body.decode(), f"T_{n}": _signed_time(specimen)}
        env |= {f"ID_{n}": _signed_id(specimen)}
        env |= {f"KEY_{n}": specimen.secret, f"SIGNING_KEY_{n}": specimen.setting("signing_key")}
        env |= {
            "PUBLIC_URL": specimen.url.partition("/hooks/")[0],
            "SECRET_KEY": specimen.setting("secret_key"),
            "HOOK": name,
        }
        variables = " ".join(f'{each}="${each}_{n}"' for each in ("BODY", "T", "ID", "KEY", "SIGNING_KEY"))
        script += f"export {variables}\n{specimen.setting('signed_with')}\necho\n"
    result = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True)
    digests = [line.rpartition(" ")[2] for line in result.stdout.splitlines() if line.strip()]
    assert min(map(len, digests)) >= MIN_GENERATED_SECRET_BYTES
    return digests


def _problem(specimen: Specimen, digest: str) -> str:
    """Return what is wrong with the signature of a specimen, and which one is right; empty if it is right."""
    recorded = "; ".join(f"{name} is {value}" for name, value in _recorded_signature(specimen).items())
    if digest and not _has_digest(specimen, digest):
        return f"{recorded}; signed_with gives {digest} with T={_signed_time(specimen)} ID={_signed_id(specimen)}"
    if not specimen.is_valid:
        return f"{recorded}; the scheme of the module rejects it, and would send {_made_headers(specimen)}"
    return ""


def _made_headers(specimen: Specimen) -> dict[str, str]:
    """Return the headers that the module's scheme makes for this delivery, in lower case."""
    headers = specimen.scheme.sign(specimen.delivery, specimen.sender_context())
    return {name.lower(): value for name, value in headers.items()}


def _recorded_signature(specimen: Specimen) -> dict[str, str]:
    headers = {name.decode(): value.decode() for name, value in specimen.delivery.headers}
    made = {name: headers.get(name, "missing") for name in _made_headers(specimen)}
    return made or {"token": specimen.delivery.token or "missing"}


def _signed_id(specimen: Specimen) -> str:
    """Return the signed headers other than those that the scheme makes: the id of the delivery, and the like."""
    made = _made_headers(specimen)
    others = [(name.decode(), value.decode()) for name, value in sorted(specimen.delivery.headers)]
    return "".join(value for name, value in others if name not in made and _is_signed(specimen, name))


def _is_signed(specimen: Specimen, header: str) -> bool:
    try:
        return _made_headers(replace(specimen, delivery=specimen.without(header))) != _made_headers(specimen)
    except SignatureError:
        return True


def _signed_time(specimen: Specimen) -> str:
    """Return the recorded time; where the recorded signature has none, the time that the scheme would send."""
    values = [*_recorded_signature(specimen).values(), *_made_headers(specimen).values()]
    times = [match for value in values if (match := re.search(rf"\b(?:{_A_TIME.pattern.decode()})\b", value))]
    return times[0][0] if times else ""


def _has_digest(specimen: Specimen, digest: str) -> bool:
    """Return whether the specimen has this signature, in a header, in the address or in the body."""
    headers = list(_recorded_signature(specimen).values())
    headers += [specimen.delivery.body.decode()] if specimen.is_proof_in_body else []
    return any(digest in header or (_is_lenient(specimen) and digest in header.lower()) for header in headers)


def _is_lenient(specimen: Specimen) -> bool:
    """Return whether the scheme accepts hexadecimal in capitals."""
    return getattr(specimen.tool.definition.signature, "lenient", False)


@each_tool
def test_the_signature_of_a_scheme_equals_the_one_of_openssl(name: str) -> None:
    def signs_equally(specimen: Specimen) -> bool:
        context, signature = (
            specimen.sender_context(now=float(specimen.signed_at or 0)),
            specimen.tool.definition.signature,
        )
        signed_headers = signature.sign(specimen.delivery, context)
        if specimen.delivery.token and signature.path_token(name, context) != specimen.delivery.token:
            return False
        recorded_headers = {header.lower(): specimen.header(header.lower()).decode() for header in signed_headers}
        verify_own_signature = {header.lower(): value for header, value in signed_headers.items()}
        return recorded_headers == verify_own_signature or (
            _is_lenient(specimen) and _plain(recorded_headers) == _plain(verify_own_signature)
        )

    assert {} == mismatches(True, signed(name), signs_equally)


def _plain(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value.removeprefix("sha256=").lower() for name, value in headers.items()}


@each_tool
def test_a_delivery_signed_by_its_scheme_is_verified(name: str) -> None:
    def verify_own_signature(specimen: Specimen) -> int:
        now, signature = 2_000_000_000.75, specimen.tool.definition.signature
        context = specimen.sender_context(now=now)
        sent = replace(specimen.delivery, body=signature.encode_body(specimen.delivery.body, context))
        signed_headers = signature.sign(sent, context)
        lines = tuple((header.lower().encode(), value.encode()) for header, value in signed_headers.items())
        bare = replace(specimen, delivery=sent).without(*signed_headers)
        return specimen.verify(replace(bare, headers=(*bare.headers, *lines)), now=now)

    assert {} == mismatches(0, signed(name), verify_own_signature)


@each_tool
def test_a_changed_body_is_rejected(name: str) -> None:
    def reasons(specimen: Specimen) -> set[str]:
        raw = specimen.delivery.body
        places = range(0, len(raw), max(1, len(raw) // 50))
        flipped = [raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :] for place in places]
        altered_values = [raw[:-1], raw[1:], raw + raw, b"\xef\xbb\xbf" + raw]
        if not specimen.is_proof_in_body:
            altered_values += [b"", raw + b" ", raw + b"\n", b" " + raw]
        specimens = {specimen.rejection(specimen.changed(body=altered)) for altered in [*flipped, *altered_values]}
        return specimens - {"malformed", "missing"} if specimen.is_proof_in_body else specimens

    assert {} == mismatches({"mismatch"}, covered(name), reasons)


@each_tool
def test_an_equal_body_in_other_bytes_is_rejected(name: str) -> None:
    def reason(specimen: Specimen) -> str:
        body = specimen.recorded["body"]
        altered = body.replace("=", "%3D", 1).replace(":", ": ", 1) if isinstance(body, str) else json.dumps(body)
        return specimen.rejection(specimen.changed(body=altered.encode()))

    assert {} == mismatches(
        "mismatch", [specimen for specimen in covered(name) if not specimen.is_proof_in_body], reason
    )


@each_tool
def test_a_flipped_bit_in_a_signature_or_signed_header_is_rejected(name: str) -> None:
    def accepted(specimen: Specimen) -> list[bytes]:
        altered_values = [
            (header, value[:place] + bytes([value[place] ^ 1 << bit]) + value[place + 1 :])
            for header in specimen.signing_headers
            for value in [specimen.header(header)]
            for place in range(len(value))
            for bit in range(8)
        ]
        accepted_values = [
            altered
            for header, altered in altered_values
            if not _is_refused(specimen, specimen.with_header(header, altered))
        ]
        if specimen.is_proof_in_body:
            raw = specimen.delivery.body
            altered_values = [("", flipped) for flipped in _flipped(raw)]
            accepted_values = [
                altered for _, altered in altered_values if not _is_refused(specimen, specimen.changed(body=altered))
            ]
        elif token := specimen.delivery.token.encode():
            altered_values += [("", flipped) for flipped in _flipped(token)]
            tokens = [flipped.decode("latin-1") for flipped in _flipped(token)]
            accepted_values += [t.encode() for t in tokens if not _is_refused(specimen, specimen.changed(token=t))]
        same = [specimen.header(header).lower() for header in specimen.signing_headers] if _is_lenient(specimen) else []
        assert altered_values
        return [
            altered
            for altered in accepted_values
            if altered.lower() not in same and not _is_prefix_in_other_case(specimen, altered)
        ]

    assert {} == mismatches([], one_of_each_form(name), accepted)


def _is_prefix_in_other_case(specimen: Specimen, value: bytes) -> bool:
    """Return whether only the case of the prefix differs, as in `bearer`."""
    prefix = getattr(specimen.scheme, "prefix", "") if specimen.scheme.coverage == "nothing" else ""
    token = specimen.secret.encode()
    return bool(prefix) and value.removesuffix(token).lower() == prefix.lower().encode() and value.endswith(token)


def _flipped(raw: bytes) -> Iterator[bytes]:
    """Yield copies with one flipped bit, for some of the bits."""
    for place in range(0, len(raw), max(1, len(raw) // 60)):
        for bit in range(8):
            yield raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :]


@each_tool
def test_a_delivery_without_its_signature_is_rejected(name: str) -> None:
    def reasons(specimen: Specimen) -> set[str]:
        signed_headers = specimen.tool.definition.signature.sign(specimen.delivery, specimen.sender_context())
        assert {header.lower() for header in signed_headers} <= set(specimen.signing_headers)
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
def test_an_empty_signature_counts_as_missing(name: str) -> None:
    def reasons(specimen: Specimen) -> set[str]:
        blanks = [specimen.with_header(header, blank) for header in specimen.signing_headers for blank in (b"", b"  ")]
        return {specimen.rejection(delivery) for delivery in blanks}

    assert {} == mismatches({"missing"}, in_headers(name), reasons)


@each_tool
def test_a_signature_header_that_is_sent_twice_is_rejected(name: str) -> None:
    def reasons(specimen: Specimen) -> set[str]:
        specimens = set()
        for header in specimen.signing_headers:
            same, altered = (header.encode(), specimen.header(header)), (header.encode(), b"something else")
            for more in ((same,), (altered,), (same, altered)):
                specimens.add(specimen.rejection(specimen.changed(headers=(*specimen.delivery.headers, *more))))
                specimens.add(specimen.rejection(specimen.changed(headers=(*more, *specimen.delivery.headers))))
        return specimens

    assert {} == mismatches({"malformed"}, in_headers(name), reasons)


@each_tool
def test_another_secret_is_rejected(name: str) -> None:
    def reasons(specimen: Specimen) -> set[str]:
        check, secret = specimen.scheme.secret_problem, specimen.secret
        wrong = [specimen.other_secret, secret[:-1], secret[:-6] + secret[-6:].swapcase()]
        wrong = [
            accepted_times for accepted_times in wrong if accepted_times != secret and check(accepted_times) is None
        ]
        specimens = {
            specimen.rejection(secrets=secrets)
            for secrets in [*([accepted_times] for accepted_times in wrong), wrong, []]
        }
        if specimen.delivery.token:
            specimens |= {specimen.rejection(keys=keys) for keys in ([], ["another key of ours"])}
        return specimens

    assert {} == mismatches({"mismatch"}, signed(name), reasons)


@each_tool
def test_verify_returns_the_position_of_the_secret_while_secrets_rotate(name: str) -> None:
    def slots(specimen: Specimen) -> list[int]:
        old, new = specimen.secret, specimen.other_secret
        return [specimen.verify(secrets=secrets) for secrets in ([old], [old, new], [new, old], [new, new, old])]

    assert {} == mismatches([0, 0, 1, 2], signed(name), slots)


@each_tool
def test_the_secret_of_the_specimens_is_valid_in_the_settings(name: str) -> None:
    signature = TOOLS[name].definition.signature

    assert signature.secret_problem(load_specimens(name)["secret"]) is None
    assert signature.secret_problem("") is not None


@each_tool
def test_a_signed_time_may_differ_by_minutes_but_not_by_more_than_the_tolerance(
    name: str,
) -> None:
    def outcomes(specimen: Specimen) -> list[Any]:
        at, max_difference_s = specimen.signed_at or 0, max(600.0, getattr(specimen.scheme, "tolerance_s", 0.0))
        assert max_difference_s <= 4 * 86_400
        accepted_times = [specimen.verify(now=float(at + difference_s)) for difference_s in (0, 120, -120)]
        rejected_times = [
            at + max_difference_s + 1,
            at - max_difference_s - 1,
            at + 4e8,
            0.0,
            float("nan"),
            float("inf"),
            float("-inf"),
        ]
        return [*accepted_times, {specimen.rejection(now=now) for now in rejected_times}]

    assert {} == mismatches([0, 0, 0, {"stale"}], timed(name), outcomes)


@each_tool
def test_the_tolerance_of_a_hook_is_exact_in_both_directions(name: str) -> None:
    def outcomes(specimen: Specimen) -> list[Any]:
        at = specimen.signed_at or 0
        accepted_times = [
            specimen.verify(now=float(at + difference_s), tolerance_s=7.0) for difference_s in (6.99, -6.99)
        ]
        rejected_times = [specimen.rejection(now=at + difference_s, tolerance_s=7.0) for difference_s in (7.1, -7.1)]
        return [*accepted_times, *rejected_times, specimen.verify(now=at + 86_400.0, tolerance_s=86_400.0)]

    assert {} == mismatches([0, 0, "stale", "stale", 0], timed(name), outcomes)


@each_tool
def test_a_forged_old_delivery_is_a_mismatch_and_not_stale(name: str) -> None:
    def reason(specimen: Specimen) -> str:
        return specimen.rejection(specimen.changed(body=b"{}"), now=5e9)

    assert {} == mismatches(
        "mismatch", [specimen for specimen in timed(name) if specimen.scheme.coverage == "body"], reason
    )


@each_tool
def test_a_delivery_without_a_signed_time_is_verified_at_any_time(name: str) -> None:
    def slots(specimen: Specimen) -> list[int]:
        return [specimen.verify(now=0.0), specimen.verify(now=9e9), specimen.verify(now=9e9, tolerance_s=1.0)]

    untimed = [specimen for specimen in signed(name) if specimen.signed_at is None and not specimen.is_proof_in_body]
    assert {} == mismatches([0, 0, 0], untimed, slots)


@each_tool
def test_the_signed_address_is_the_configured_one_and_irrelevant_for_other_sources(name: str) -> None:
    needs_url = TOOLS[name].definition.signature.needs_url

    def outcome(specimen: Specimen) -> Any:
        altered_values = [specimen.url + "/", specimen.url.upper(), ""]
        return {specimen.rejection(url=url) if needs_url else specimen.verify(url=url) for url in altered_values}

    assert {} == mismatches({"mismatch"} if needs_url else {0}, signed(name), outcome)
