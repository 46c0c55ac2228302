"""Diagnosis of invalid signatures.

A diagnosis applies one or two corrections at a time, such as another secret or another spelling of the body. If a correction
makes the signature valid, it is the finding. The delivery remains invalid.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Literal, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from app.ledger.times import humanize
from app.settings.model import Hook, Settings
from app.webhooks.delivery import Delivery
from app.webhooks.signatures.scheme import Scheme, SignatureError, VerificationContext, fingerprint

Kind = Literal["clock", "secret", "body", "encoding", "url", "header", "unknown"]
ANY_AGE_S = float("inf")


@dataclass(frozen=True, slots=True)
class Finding:
    """A cause of the invalid signature. summary: the cause and what to do."""

    kind: Kind
    summary: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The result for one delivery.

    is_valid: whether the signature is valid without corrections. secret_number: the position of the secret that
    matched, from 1. rejection: the reason and the detail that the endpoint answers.
    """

    is_valid: bool
    secret_number: int | None = None
    fingerprint: str | None = None
    rejection: tuple[str, str] = ("", "")
    findings: tuple[Finding, ...] = ()


class _Case(NamedTuple):
    """The arguments of one verification."""

    delivery: Delivery
    context: VerificationContext


class _Correction(NamedTuple):
    """A change of a case. finding: the cause if the signature is valid after it."""

    finding: Finding
    apply: Callable[[_Case], _Case]


def diagnose(settings: Settings, hook: Hook, delivery: Delivery, now: float) -> Diagnosis:
    scheme, case = hook.source.definition.signature, _Case(delivery, settings.verification_context(hook, now))
    rejection = _rejection(scheme, case)
    if rejection is None:
        return _verify(scheme, case, ())
    diagnosis = _verify(scheme, _ignoring_age(case), ())
    if diagnosis.secret_number:
        return replace(diagnosis, is_valid=False, rejection=rejection, findings=(_clock_finding(rejection[1]),))
    if rejection[0] == "missing":
        sentence = f"{rejection[1]}; {_describe_signature_headers(delivery)}"
        return Diagnosis(False, rejection=rejection, findings=(Finding("header", sentence),))
    for corrections in _corrections(settings, hook, case):
        corrected = case
        for correction in corrections:
            corrected = correction.apply(corrected)
        if corrected == case:
            continue
        diagnosis = _verify(scheme, _ignoring_age(corrected), [correction.finding for correction in corrections])
        if diagnosis.secret_number:
            remaining = _rejection(scheme, corrected)
            findings = (*([_clock_finding(remaining[1])] if remaining else ()), *diagnosis.findings)
            # The secret of another hook has no number in this one.
            secret_number = diagnosis.secret_number if corrected.context.secrets == case.context.secrets else None
            return replace(
                diagnosis, is_valid=False, rejection=rejection, findings=findings, secret_number=secret_number
            )
    return Diagnosis(False, rejection=rejection, findings=(_unknown_finding(rejection, case),))


def find_causes(settings: Settings, hook: str, delivery: Delivery) -> list[str]:
    """Return the causes of an invalid signature of a request that just arrived, with what to do."""
    configured = settings.active_hooks.get(hook)
    if configured is None:
        return []
    diagnosis = diagnose(settings, configured, delivery, delivery.received_at.timestamp())
    return [finding.summary for finding in diagnosis.findings]


class InvalidHeaders(ValueError):
    """A line of the headers is not `Name: value`. The message names the line."""


def parse_headers(hook: Hook, lines: Sequence[bytes]) -> tuple[str, bytes, tuple[tuple[bytes, bytes], ...]]:
    """Return the path token, the query and the headers of a request. Raises InvalidHeaders.

    The token and the query come from a request line (`POST /hooks/… HTTP/1.1`), if the first line is one.
    """
    token, query = "", b""
    headers: list[tuple[bytes, bytes]] = []
    for number, line in enumerate(lines):
        name, colon, value = line.partition(b":")
        words = line.split()
        if number == 0 and b" /" in name and len(words) > 1:
            path, _, query = words[1].partition(b"?")
            token = path.decode("latin-1").partition(f"{hook.path}/")[2]
        elif line.strip() and not colon:
            raise InvalidHeaders(f"line {number + 1} of the headers has no colon: write `Name: value`")
        elif line.strip():
            headers.append((name.strip().lower(), value.strip()))
    return token, query, tuple(headers)


def _rejection(scheme: Scheme, case: _Case) -> tuple[str, str] | None:
    try:
        scheme.verify(case.delivery, case.context)
    except SignatureError as error:
        return error.reason, str(error)
    except ValueError:  # the secret is not a key of this scheme
        return "mismatch", "the secret does not have the format of this tool's secrets"
    return None


def _verify(scheme: Scheme, case: _Case, findings: Sequence[Finding]) -> Diagnosis:
    try:
        slot = scheme.verify(case.delivery, case.context)
    except (SignatureError, ValueError):
        return Diagnosis(False)
    return Diagnosis(
        True, slot + 1, fingerprint(case.context.secrets[slot], case.context.keys), findings=tuple(findings)
    )


def _ignoring_age(case: _Case) -> _Case:
    return case._replace(context=case.context._replace(tolerance_s=ANY_AGE_S))


def _clock_finding(sentence: str) -> Finding:
    """Return the finding for a valid signature with a wrong time. The time is signed, so clock or delay are the cause."""
    match = _SECONDS.search(sentence)
    seconds = float(match[1]) if match else 0.0
    hours = seconds / 3_600
    if match and match[2] == "ahead":
        why = "our clock is slow, or the sender's is fast"
    else:
        why = "the request was delayed or repeated, our clock is fast, or the sender's is slow"
    if hours >= 0.9 and abs(hours - round(hours)) * 3_600 <= 300:
        why = "a difference of whole hours suggests a local time that was used as UTC"
    return Finding("clock", f"the signature is correct, but its time is {humanize(seconds)} off ({sentence}): {why}")


def _describe_signature_headers(delivery: Delivery) -> str:
    names = [name.decode("latin-1") for name, _ in delivery.headers]
    candidates = [name for name in names if re.search(r"sign|hmac|digest|token|authorization", name)]
    if candidates:
        return f"the request has {', '.join(dict.fromkeys(candidates))}: another tool may use this URL"
    return "no header looks like a signature: the tool does not sign, or a proxy removes the header"


def _unknown_finding(rejection: tuple[str, str], case: _Case) -> Finding:
    fingerprints = ", ".join(fingerprint(secret, case.context.keys) for secret in case.context.secrets)
    if rejection[0] == "malformed":
        return Finding("header", f"{rejection[1]}: this is not the signature format of this tool")
    cause = "the body was changed in an unknown way, or the secret is wrong: set it again"
    return Finding(
        "unknown",
        f"{cause}, and compare its `doorbell secrets fingerprint` with the fingerprints of this hook ({fingerprints})",
    )


# -- corrections --


def _corrections(settings: Settings, hook: Hook, case: _Case) -> Iterator[tuple[_Correction, ...]]:
    """Yield single corrections, then pairs of different kinds."""
    groups = [
        list(_secrets(settings, hook)),
        list(_bodies(case.delivery.body)),
        list(_encodings(case.delivery)),
        list(_urls(case)) if hook.source.definition.signature.needs_url else [],
    ]
    for group in groups:
        yield from ((correction,) for correction in group)
    for first, second in combinations(groups, 2):
        yield from product(first, second)


def _secrets(settings: Settings, hook: Hook) -> Iterator[_Correction]:
    def signed_with(*secrets: str) -> Callable[[_Case], _Case]:
        return lambda case: case._replace(context=case.context._replace(secrets=secrets))

    scheme, own_secrets = hook.source.definition.signature, set(hook.settings.secrets)
    for other_hook in settings.active_hooks.values():
        for secret in other_hook.settings.secrets:
            if other_hook.name != hook.name and secret not in own_secrets and scheme.secret_problem(secret) is None:
                owner = f"the secret {fingerprint(secret, settings.secret_key)} of the hook {other_hook.name}"
                summary = f"signed with {owner}: the tool has the wrong URL, or this hook the wrong secret"
                yield _Correction(Finding("secret", summary), signed_with(secret))
    for secret in hook.settings.secrets:
        for variant, other_secret in _misread_secrets(secret):
            if scheme.secret_problem(other_secret) is None:
                own_fingerprint = fingerprint(secret, settings.secret_key)
                summary = f"the secret {own_fingerprint} of this hook matches {variant}: copy it again from the tool"
                yield _Correction(Finding("secret", summary), signed_with(other_secret))


def _misread_secrets(secret: str) -> Iterator[tuple[str, str]]:
    if len(secret) > 2 and secret[0] == secret[-1] and secret[0] in "'\"":
        yield "without its quotes", secret[1:-1]
    if "_" in secret:
        yield "without the prefix up to its `_`", secret.partition("_")[2]
    yield "with the prefix `whsec_`", f"whsec_{secret}"
    yield "when base64-encoded", base64.b64encode(secret.encode()).decode()
    with suppress(ValueError):
        yield "when base64-decoded", base64.b64decode(secret, validate=True).decode()


def _bodies(raw: bytes) -> Iterator[_Correction]:
    for description, body in _body_variants(raw):
        if body != raw:
            summary = f"the signature matches the body {description}: a proxy rewrites the body, or copying changed it"
            yield _Correction(Finding("body", summary), lambda case, body=body: _with_body(case, body))  # type: ignore[misc]


def _with_body(case: _Case, raw: bytes) -> _Case:
    return case._replace(delivery=replace(case.delivery, body=raw))


def _body_variants(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield equivalent bodies, as other programs serialize them."""
    yield "without the trailing newline", raw.rstrip(b"\r\n")
    yield "without surrounding whitespace", raw.strip()
    yield "with a trailing newline", raw + b"\n"
    yield "with \\n for \\r\\n", raw.replace(b"\r\n", b"\n")
    yield "with \\r\\n for \\n", re.sub(rb"(?<!\r)\n", b"\r\n", raw)
    yield "without the byte order mark (BOM)", raw.removeprefix(b"\xef\xbb\xbf")
    try:
        parsed = json.loads(raw)
    except (ValueError, RecursionError):
        return
    spacings: list[tuple[str, tuple[str, str], int | None]] = [
        ("compacted", (",", ":"), None),
        ("with spaces after `,` and `:`", (", ", ": "), None),
        ("indented by two spaces", (",", ": "), 2),
        ("indented by four spaces", (",", ": "), 4),
    ]
    for description, separators, indent in spacings:
        for suffix, is_ascii in (("", False), (", with \\u… for non-ASCII characters", True)):
            encoded = json.dumps(parsed, separators=separators, indent=indent, ensure_ascii=is_ascii)
            yield description + suffix, encoded.encode("utf-8", "surrogatepass")
            yield (
                f"{description}{suffix}, with `/` as `\\/`",
                encoded.replace("/", "\\/").encode("utf-8", "surrogatepass"),
            )
    encoded = json.dumps(parsed, separators=(",", ":"), ensure_ascii=False, sort_keys=True)
    yield "compacted, with sorted keys", encoded.encode("utf-8", "surrogatepass")


#: Digests of SHA-1, SHA-256 and SHA-512, in hexadecimal and in base64.
_HEX = re.compile(rb"(?<![0-9A-Za-z+/_-])(?:[0-9A-Fa-f]{128}|[0-9A-Fa-f]{64}|[0-9A-Fa-f]{40})(?![0-9A-Za-z+/_-])")
_BASE64 = re.compile(rb"(?<![0-9A-Za-z+/_-])(?:[\w+/-]{86}(?:==)?|[\w+/-]{43}=?|[\w+/-]{27}=?)(?![0-9A-Za-z+/_=-])")
_BARE, _NAMED = re.compile(rb"^(?=[0-9A-Fa-f]{64}$)"), re.compile(rb"^sha256=")


def _encodings(delivery: Delivery) -> Iterator[_Correction]:
    """Yield each header that contains a digest, with the digest in another encoding."""
    variants: list[tuple[str, re.Pattern[bytes], Callable[[bytes], bytes]]] = [
        ("hexadecimal, but the tool uses base64", _HEX, lambda match: base64.b64encode(binascii.unhexlify(match))),
        ("base64, but the tool uses hexadecimal", _BASE64, lambda match: binascii.hexlify(_from_base64(match))),
        ("upper-case hexadecimal", _HEX, bytes.lower),
        ("base64 without padding, or URL-safe base64", _BASE64, lambda match: base64.b64encode(_from_base64(match))),
        ("a digest without the prefix `sha256=`", _BARE, lambda _: b"sha256="),
        ("a digest with the prefix `sha256=`", _NAMED, lambda _: b""),
    ]
    for number, (name, value) in enumerate(delivery.headers):
        for description, pattern, convert in variants:
            encoded = pattern.sub(lambda match, convert=convert: convert(match[0]), value)  # type: ignore[misc]
            if encoded != value:
                summary = f"the signature is correct, but {name.decode('latin-1')} has it as {description}"
                yield _Correction(Finding("encoding", summary), _with_header(number, encoded))


def _from_base64(text: bytes) -> bytes:
    """Decode standard or URL-safe base64, with or without padding."""
    standard = text.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    return base64.b64decode(standard + b"=" * (-len(standard) % 4))


def _with_header(number: int, value: bytes) -> Callable[[_Case], _Case]:
    def rewrite(case: _Case) -> _Case:
        headers = list(case.delivery.headers)
        headers[number] = headers[number][0], value
        return case._replace(delivery=replace(case.delivery, headers=tuple(headers)))

    return rewrite


def _urls(case: _Case) -> Iterator[_Correction]:
    for description, url in _url_variants(case.context.url, case.delivery.header("host") or ""):
        if url != case.context.url:
            summary = f"the tool signs the URL {description}: PUBLIC_URL must equal the URL in the tool exactly"
            yield _Correction(Finding("url", summary), _with_url(url))
    summary = "the tool signs the URL without the query, which a proxy adds"
    yield _Correction(Finding("url", summary), lambda case: case._replace(delivery=replace(case.delivery, query=b"")))


def _with_url(url: str) -> Callable[[_Case], _Case]:
    return lambda case: case._replace(context=case.context._replace(url=url))


def _url_variants(url: str, host: str) -> Iterator[tuple[str, str]]:
    """Yield other spellings of the hook's URL. host: the Host header of the request."""
    parts = urlsplit(url)
    port = {"http": 80, "https": 443}
    for scheme in ("https", "http"):
        hosts = [("", parts.netloc), (" without its port", parts.hostname or "")]
        hosts += [(f" with the port {port[scheme]}", f"{parts.hostname}:{port[scheme]}")]
        hosts += [(f" at {host}", host)] if re.fullmatch(r"[\w.-]+(:\d+)?", host) else []
        for host_suffix, netloc in hosts:
            for path_suffix, path in (("", parts.path), (" with a trailing /", parts.path.rstrip("/") + "/")):
                yield f"with {scheme}:{host_suffix}{path_suffix}", urlunsplit((scheme, netloc, path, parts.query, ""))


_SECONDS = re.compile(r"(\d+) s (old|ahead|in the future)?")
