"""Signs specimens with a hook's secret and sends them over HTTP, as the tool would."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from app.visits.change import VisitChange
from app.webhooks.delivery import Delivery, header_lines
from app.webhooks.fresh_specimens import refresh
from app.webhooks.registry import load_sources, load_specimens, specimen_body
from app.webhooks.signatures.scheme import VerificationContext


class UnknownSpecimen(Exception):
    """The source has no specimen of this name."""


def find_specimen(source: str, name_or_number: str) -> dict[str, Any]:
    """Return a recorded delivery by its number (from 1) or a part of its name. Raise UnknownSpecimen if none matches."""
    recorded: list[dict[str, Any]] = load_specimens(source)["deliveries"]
    if name_or_number.isdecimal() and 1 <= int(name_or_number) <= len(recorded):
        return recorded[int(name_or_number) - 1]
    for delivery in recorded:
        if name_or_number.lower() in delivery["name"].lower():
            return delivery
    raise UnknownSpecimen(f"no specimen of {source} is called {name_or_number}; `doorbell ring {source}` lists them")


def describe_change(change: VisitChange) -> dict[str, Any]:
    """Return a change in the format of `expect` in the specimens."""
    contact = change.contact.to_dict() if change.contact else {}
    optional = ("visit_id", "external_id_override")
    flags = ("observed_at_us", "times_are_observed", "only_for_contact", "first_contact_stays")
    return {
        "action": change.action,
        **{name: value for name in optional if (value := getattr(change, name))},
        "version": change.version,
        **({"previous_visit_id": change.previous_visit_id} if change.previous_visit_id else {}),
        **({"contact": contact} if contact else {}),
        **change.facts(),
        **{name: value for name in flags if (value := getattr(change, name))},
    }


def sign_headers(
    source: str,
    body: bytes,
    headers: Mapping[str, str],
    secrets: Sequence[str],
    url: str,
    query: str = "",
    auth: Sequence[str] = ("signature",),
) -> dict[str, str]:
    """Return the headers with a new signature. url: the hook's URL as the tool knows it (PUBLIC_URL)."""
    scheme = load_sources()[source].definition.with_auth(auth).signature
    delivery = Delivery(source, source, header_lines(headers), body, datetime.now(UTC), query=query.encode())
    signed = scheme.sign(delivery, VerificationContext(secrets, time.time(), url))
    replaced = {name.lower() for name in signed}
    return {name: value for name, value in headers.items() if name.lower() not in replaced} | signed


@dataclass(frozen=True, slots=True)
class Specimen:
    """A recorded delivery as the tool would send it now. token, query: the parts of the URL after the hook's path."""

    name: str
    method: str
    token: str
    query: str
    headers: dict[str, str]
    body: bytes

    def url(self, address: str) -> str:
        """Return the URL to send the specimen to. address: the hook's URL, with or without its token."""
        return _with_token(address, self.token) + (self.query and f"?{self.query}")


def sign_specimen(
    source: str,
    name_or_number: str,
    hook: str,
    secrets: Sequence[str],
    keys: Sequence[str],
    address: str,
    auth: Sequence[str] = ("signature",),
    fresh: str | None = None,
) -> Specimen:
    """Sign a specimen. Raise UnknownSpecimen if none matches.

    secrets: the hook's secrets, of which the first suitable one signs; if there are none, the specimen's secret signs.
        If the tool signs with a private key, only the key of the specimens can sign.
    keys: SECRET_KEY.
    address: the hook's URL as the tool knows it.
    auth: the forms of authentication that the hook accepts.
    fresh: the name from which new ids are made; without it, the ids and dates are the recorded ones.
    """
    recorded = find_specimen(source, name_or_number)
    if fresh:
        recorded = refresh(source, recorded, fresh, datetime.now(UTC))
    scheme = load_sources()[source].definition.with_auth(auth).signature
    defaults = {**load_specimens(source), **recorded}
    secrets = [defaults["signing_key"]] if "signing_key" in defaults else [*secrets] or [defaults["secret"]]
    context = VerificationContext(secrets, time.time(), keys=[*keys, defaults.get("secret_key", "")])
    body = scheme.encode_body(specimen_body(recorded), context)
    token, query = scheme.path_token(hook, context), recorded.get("query", "")
    headers = sign_headers(source, body, recorded["headers"], secrets, _with_token(address, token), query, auth)
    return Specimen(recorded["name"], recorded.get("method", "POST"), token, query, headers, body)


def _with_token(address: str, token: str) -> str:
    return address if not token or address.endswith(f"/{token}") else f"{address}/{token}"


def hook_of(url: str, source: str) -> str:
    """Return the hook in the URL; without one, the hook that is named like its source."""
    name = url.partition("/hooks/")[2].partition("/")[0].partition("?")[0]
    return name or source


def send_specimen(
    url: str, source: str, name_or_number: str, environ: Mapping[str, str], fresh: str | None = None
) -> httpx.Response:
    """Send a specimen, signed with the secret of the hook in the URL, or with its own secret.

    Raise UnknownSpecimen, OSError.
    """
    public_url, hook = environ.get("PUBLIC_URL", "").rstrip("/"), hook_of(url, source)
    prefix = f"HOOKS__{hook.upper()}"
    names = (f"{prefix}__SECRETS", "SECRET_KEY", f"{prefix}__AUTH")
    secrets, keys, auth = (environ.get(name, "").split() for name in names)
    address = f"{public_url}/hooks/{hook}" if public_url else url
    specimen = sign_specimen(source, name_or_number, hook, secrets, keys, address, auth or ("signature",), fresh)
    try:
        return httpx.request(
            specimen.method,
            specimen.url(url),
            content=specimen.body,
            headers=specimen.headers,
            timeout=10,
            trust_env=False,
        )
    except httpx.HTTPError as error:
        raise OSError(type(error).__name__) from None
