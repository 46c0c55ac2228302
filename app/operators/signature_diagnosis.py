"""Why a signature does not hold, or somebody was not let in.

A diagnosis changes what was given, one thing or two at a time, until the signature holds: then what was changed is what is
wrong. It accepts nothing: what holds only after a change does not hold.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from app.ledger.times import humanize
from app.settings.model import Hook, Settings
from app.webhooks.delivery import Delivery
from app.webhooks.signatures.scheme import Scheme, SignatureError, VerificationContext, fingerprint

Kind = Literal["clock", "secret", "body", "encoding", "url", "header", "unknown"]
ANY_AGE_S = float("inf")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, and what to do."""

    kind: Kind
    summary: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """holds: as it was given, now. secret: which one matched, by its number, and its fingerprint: none where none did.
    refused: what the door says, its reason and its sentence."""

    is_valid: bool
    secret_number: int | None = None
    fingerprint: str | None = None
    rejection: tuple[str, str] = ("", "")
    findings: tuple[Finding, ...] = ()


class _Attempt(NamedTuple):
    """What is verified: a delivery, the secrets and the address."""

    delivery: Delivery
    context: VerificationContext


class _Correction(NamedTuple):
    """Another case, and what would be wrong if it held."""

    finding: Finding
    make: Callable[[_Attempt], _Attempt]


def diagnose(settings: Settings, hook: Hook, delivery: Delivery, now: float) -> Diagnosis:
    scheme, case = hook.source.definition.signature, _Attempt(delivery, settings.verification_context(hook, now))
    refused = _rejection(scheme, case)
    if refused is None:
        return _verify(scheme, case, ())
    found = _verify(scheme, _ignoring_age(case), ())
    if found.secret_number:
        return replace(found, is_valid=False, rejection=refused, findings=(_clock_finding(refused[1]),))
    if refused[0] == "missing":
        sentence = f"{refused[1]}; {_describe_signature_headers(delivery)}"
        return Diagnosis(False, rejection=refused, findings=(Finding("header", sentence),))
    for changes in _corrections(settings, hook, case):
        changed = case
        for change in changes:
            changed = change.make(changed)
        if changed == case:
            continue
        found = _verify(scheme, _ignoring_age(changed), [change.finding for change in changes])
        if found.secret_number:
            still = _rejection(scheme, changed)
            findings = (*([_clock_finding(still[1])] if still else ()), *found.findings)
            # The number of another hook's secret says nothing here.
            secret = found.secret_number if changed.context.secrets == case.context.secrets else None
            return replace(found, is_valid=False, rejection=refused, findings=findings, secret_number=secret)
    return Diagnosis(False, rejection=refused, findings=(_unknown_finding(refused, case),))


def _rejection(scheme: Scheme, case: _Attempt) -> tuple[str, str] | None:
    try:
        scheme.verify(case.delivery, case.context)
    except SignatureError as error:
        return error.reason, str(error)
    except ValueError:  # a secret that is no key of this scheme
        return "mismatch", "the secret is none of the kind that this tool signs with"
    return None


def _verify(scheme: Scheme, case: _Attempt, findings: Sequence[Finding]) -> Diagnosis:
    try:
        slot = scheme.verify(case.delivery, case.context)
    except (SignatureError, ValueError):
        return Diagnosis(False)
    return Diagnosis(
        True, slot + 1, fingerprint(case.context.secrets[slot], case.context.keys), findings=tuple(findings)
    )


def _ignoring_age(case: _Attempt) -> _Attempt:
    return case._replace(context=case.context._replace(tolerance_s=ANY_AGE_S))


def _clock_finding(sentence: str) -> Finding:
    """The time is signed, and the signature holds: only the clocks differ, or it came late."""
    told = _SECONDS.search(sentence)
    seconds = float(told[1]) if told else 0.0
    hours = seconds / 3_600
    if told and told[2] == "ahead":
        why = "our clock is slow, or the sender's is fast"
    else:
        why = "it was held up or sent again on the way, our clock is fast, or the sender's is slow"
    if hours >= 0.9 and abs(hours - round(hours)) * 3_600 <= 300:
        why = "a difference of whole hours looks like a local time that was taken for UTC"
    return Finding("clock", f"the signature is right, and its time is {humanize(seconds)} off ({sentence}): {why}")


def _describe_signature_headers(delivery: Delivery) -> str:
    names = [name.decode("latin-1") for name, _ in delivery.headers]
    alike = [name for name in names if re.search(r"sign|hmac|digest|token|authorization", name)]
    if alike:
        return f"there is {', '.join(dict.fromkeys(alike))}: is it another tool that rings here?"
    return "no header looks like a signature: the tool signs nothing, or something on the way drops it"


def _unknown_finding(refused: tuple[str, str], case: _Attempt) -> Finding:
    prints = ", ".join(fingerprint(secret, case.context.keys) for secret in case.context.secrets)
    if refused[0] == "malformed":
        return Finding("header", f"{refused[1]}: this is not how this tool signs")
    what = "the body was changed in an unknown way, or the secret is another one: set it again"
    return Finding(
        "unknown",
        f"{what}, and compare what `doorbell secrets fingerprint` says of it with the secrets that are set here ({prints})",
    )


# -- what may be wrong --


def _corrections(settings: Settings, hook: Hook, case: _Attempt) -> Iterator[tuple[_Correction, ...]]:
    """One at a time, then two of different kinds."""
    groups = [
        list(_secrets(settings, hook)),
        list(_bodies(case.delivery.body)),
        list(_encodings(case.delivery)),
        list(_urls(case)) if hook.source.definition.signature.needs_url else [],
    ]
    for group in groups:
        yield from ((change,) for change in group)
    for first, second in combinations(groups, 2):
        yield from product(first, second)


def _secrets(settings: Settings, hook: Hook) -> Iterator[_Correction]:
    def signed_with(*secrets: str) -> Callable[[_Attempt], _Attempt]:
        return lambda case: case._replace(context=case.context._replace(secrets=secrets))

    scheme, ours = hook.source.definition.signature, set(hook.settings.secrets)
    for other in settings.active_hooks.values():
        for secret in other.settings.secrets:
            if other.name != hook.name and secret not in ours and scheme.secret_problem(secret) is None:
                whose = f"the secret {fingerprint(secret, settings.secret_key)} of the hook {other.name}"
                told = f"it is signed with {whose}: the wrong address is set in the tool, or the wrong secret here"
                yield _Correction(Finding("secret", told), signed_with(secret))
    for secret in hook.settings.secrets:
        for what, other_secret in _misread_secrets(secret):
            if scheme.secret_problem(other_secret) is None:
                mark = fingerprint(secret, settings.secret_key)
                told = f"the secret {mark} of this hook would fit {what}: set it again as the tool shows it"
                yield _Correction(Finding("secret", told), signed_with(other_secret))


def _misread_secrets(secret: str) -> Iterator[tuple[str, str]]:
    if len(secret) > 2 and secret[0] == secret[-1] and secret[0] in "'\"":
        yield "without its quotes", secret[1:-1]
    if "_" in secret:
        yield "without what stands before its `_`", secret.partition("_")[2]
    yield "with `whsec_` before it", f"whsec_{secret}"
    yield "as base64 of what is set", base64.b64encode(secret.encode()).decode()
    with suppress(ValueError):
        yield "as the text that its base64 stands for", base64.b64decode(secret, validate=True).decode()


def _bodies(raw: bytes) -> Iterator[_Correction]:
    for told, body in _body_variants(raw):
        if body != raw:
            sentence = f"it would hold for the body {told}: a proxy rewrites the body, or it was copied"
            yield _Correction(Finding("body", sentence), lambda case, body=body: _with_body(case, body))  # type: ignore[misc]


def _with_body(case: _Attempt, raw: bytes) -> _Attempt:
    return case._replace(delivery=replace(case.delivery, body=raw))


def _body_variants(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """The same body as other programs write it."""
    yield "without the newline at its end", raw.rstrip(b"\r\n")
    yield "without the space around it", raw.strip()
    yield "with a newline at its end", raw + b"\n"
    yield "with \\n for \\r\\n", raw.replace(b"\r\n", b"\n")
    yield "with \\r\\n for \\n", re.sub(rb"(?<!\r)\n", b"\r\n", raw)
    yield "without the mark (BOM) at its beginning", raw.removeprefix(b"\xef\xbb\xbf")
    try:
        parsed = json.loads(raw)
    except (ValueError, RecursionError):
        return
    spacings: list[tuple[str, tuple[str, str], int | None]] = [
        ("compacted", (",", ":"), None),
        ("with spaces after `,` and `:`", (", ", ": "), None),
        ("laid out by two spaces", (",", ": "), 2),
        ("laid out by four spaces", (",", ": "), 4),
    ]
    for told, separators, indent in spacings:
        for letters, is_ascii in (("", False), (", with \\u… for all that is not ASCII", True)):
            written = json.dumps(parsed, separators=separators, indent=indent, ensure_ascii=is_ascii)
            yield told + letters, written.encode("utf-8", "surrogatepass")
            yield f"{told}{letters}, with `/` as `\\/`", written.replace("/", "\\/").encode("utf-8", "surrogatepass")
    written = json.dumps(parsed, separators=(",", ":"), ensure_ascii=False, sort_keys=True)
    yield "compacted, its names sorted", written.encode("utf-8", "surrogatepass")


#: Digests of SHA-1, SHA-256 and SHA-512, in hexadecimal and in base64.
_HEX = re.compile(rb"(?<![0-9A-Za-z+/_-])(?:[0-9A-Fa-f]{128}|[0-9A-Fa-f]{64}|[0-9A-Fa-f]{40})(?![0-9A-Za-z+/_-])")
_BASE64 = re.compile(rb"(?<![0-9A-Za-z+/_-])(?:[\w+/-]{86}(?:==)?|[\w+/-]{43}=?|[\w+/-]{27}=?)(?![0-9A-Za-z+/_=-])")
_BARE, _NAMED = re.compile(rb"^(?=[0-9A-Fa-f]{64}$)"), re.compile(rb"^sha256=")


def _encodings(delivery: Delivery) -> Iterator[_Correction]:
    """Each header that holds a digest, with that digest written otherwise."""
    writings: list[tuple[str, re.Pattern[bytes], Callable[[bytes], bytes]]] = [
        ("hexadecimal, and the tool writes base64", _HEX, lambda found: base64.b64encode(binascii.unhexlify(found))),
        ("base64, and the tool writes hexadecimal", _BASE64, lambda found: binascii.hexlify(_from_base64(found))),
        ("hexadecimal in capitals", _HEX, bytes.lower),
        ("base64 without its `=`, or for URLs", _BASE64, lambda found: base64.b64encode(_from_base64(found))),
        ("a bare digest, without `sha256=` before it", _BARE, lambda _: b"sha256="),
        ("a digest with `sha256=` before it", _NAMED, lambda _: b""),
    ]
    for number, (name, value) in enumerate(delivery.headers):
        for told, pattern, write in writings:
            written = pattern.sub(lambda found, write=write: write(found[0]), value)  # type: ignore[misc]
            if written != value:
                sentence = f"the signature is right, but {name.decode('latin-1')} holds it as {told}"
                yield _Correction(Finding("encoding", sentence), _with_header(number, written))


def _from_base64(written: bytes) -> bytes:
    """With or without its padding, for URLs or not."""
    plain = written.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    return base64.b64decode(plain + b"=" * (-len(plain) % 4))


def _with_header(number: int, value: bytes) -> Callable[[_Attempt], _Attempt]:
    def rewrite(case: _Attempt) -> _Attempt:
        headers = list(case.delivery.headers)
        headers[number] = headers[number][0], value
        return case._replace(delivery=replace(case.delivery, headers=tuple(headers)))

    return rewrite


def _urls(case: _Attempt) -> Iterator[_Correction]:
    for told, url in _url_variants(case.context.url, case.delivery.header("host") or ""):
        if url != case.context.url:
            sentence = f"the tool signs our address {told}: PUBLIC_URL must be what is set in the tool, to the letter"
            yield _Correction(Finding("url", sentence), _with_url(url))
    sentence = "the tool signs our address without what is behind its `?`, which something on the way adds"
    yield _Correction(Finding("url", sentence), lambda case: case._replace(delivery=replace(case.delivery, query=b"")))


def _with_url(url: str) -> Callable[[_Attempt], _Attempt]:
    return lambda case: case._replace(context=case.context._replace(url=url))


def _url_variants(url: str, host: str) -> Iterator[tuple[str, str]]:
    """How else our address may be written. host: where it was rung, as the sender says."""
    parts = urlsplit(url)
    port = {"http": 80, "https": 443}
    for scheme in ("https", "http"):
        hosts = [("", parts.netloc), (" without its port", parts.hostname or "")]
        hosts += [(f" with the port {port[scheme]}", f"{parts.hostname}:{port[scheme]}")]
        hosts += [(f" at {host}", host)] if re.fullmatch(r"[\w.-]+(:\d+)?", host) else []
        for at, netloc in hosts:
            for end, path in (("", parts.path), (" with a / at its end", parts.path.rstrip("/") + "/")):
                yield f"with {scheme}:{at}{end}", urlunsplit((scheme, netloc, path, parts.query, ""))


# -- refusals, of which only the reason is kept --

#: Reason, by its beginning, to likely cause; {} is how far the signed time was off.
CAUSES = {
    "signature_missing": "The tool signs nothing, or something on the way drops the header.",
    "signature_stale": "The clocks are {} apart, or the request was held up or sent again on the way. Synchronise ours.",
    "signature_mismatch": "Another secret than the tool's is set here (an old one, or another hook's), or the body was "
    "changed on the way. Compare the fingerprints under Sources.",
    "signature_": "The header is not what this tool sends: another sender, or something on the way rewrites it.",
    "no_such_hook": "Somebody rings at an address that is none: a mistyped name, or a hook without a secret.",
    "too_large": "The body is larger than MAX_BODY.",
    "wrong_content_type": "It is no webhook of this tool: check the content type that is set there.",
    "unreadable_body": "The signature holds, but the body cannot be read: check which format is set there.",
    "method_not_allowed": "Somebody opened the address in a browser, or the tool is set to another method than POST.",
    "foreign_tenant": "Another customer of the tool; or TENANTS lacks an account of yours, whose events are then lost.",
    "wrong_content_encoding": "The tool compresses its bodies: turn that off there.",
    "redis_down": "Redis did not answer. The tool sends the delivery again.",
    "redis_full": "Redis is full: take a larger plan, or lower RETENTION_DAYS. The tool sends the delivery again.",
    "redis_read_only": "Redis accepts no writes: it is a replica, cannot save to its disk, or lacks replicas. The tool "
    "sends the delivery again.",
    "too_many_in_flight": "Our own trouble: more at once than can be written. The tool comes back by itself.",
    "too_slow": "The sender did not finish sending.",
    "unfinished": "The sender left before its body was complete.",
}
_SECONDS = re.compile(r"(\d+) s (old|ahead|in the future)?")


def likely_cause(reason: str, detail: str) -> str:
    fitting = [beginning for beginning in CAUSES if reason.startswith(beginning)]
    told = _SECONDS.search(detail)
    apart = humanize(float(told[1])) if told else "too far"
    return CAUSES[max(fitting, key=len)].replace("{}", apart) if fitting else "–"


def with_likely_causes(rejections: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rejections as `rejections.newest` returns them, each with its likely cause."""
    return [{**one, "cause": likely_cause(one["reason"], one["detail"])} for one in rejections]
