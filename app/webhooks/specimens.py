"""Ringing ourselves: a specimen, signed now with the hook's own secret, sent over HTTP as the tool would."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import orjson

from app.webhooks.delivery import Delivery
from app.webhooks.registry import load, specimens
from app.webhooks.signatures.scheme import Terms


class Unknown(Exception):
    """No specimen of that name."""


def find(source: str, wanted: str) -> dict[str, Any]:
    """A recorded delivery, by its number from 1 or a part of its name. Raises Unknown."""
    recorded: list[dict[str, Any]] = specimens(source)["deliveries"]
    if wanted.isdecimal() and 1 <= int(wanted) <= len(recorded):
        return recorded[int(wanted) - 1]
    for delivery in recorded:
        if wanted.lower() in delivery["name"].lower():
            return delivery
    raise Unknown(f"no specimen of {source} is called {wanted}; `doorbell ring {source}` lists them")


def body_of(recorded: Mapping[str, Any]) -> bytes:
    """The bytes of a recorded delivery: an object is sent as compact JSON, a text as it is."""
    body = recorded["body"]
    return body.encode() if isinstance(body, str) else orjson.dumps(body)


def signed(
    source: str,
    raw: bytes,
    headers: Mapping[str, str],
    secrets: Sequence[str],
    url: str,
    query: str = "",
    auth: Sequence[str] = ("signature",),
) -> dict[str, str]:
    """The headers to send: those given, with a new signature. url: as the tool knows the hook (PUBLIC_URL)."""
    scheme = load()[source].source.with_auth(auth).signature
    lines = tuple((name.lower().encode(), value.encode("latin-1")) for name, value in headers.items())
    delivery = Delivery(source, source, lines, raw, datetime.now(UTC), query=query.encode())
    fresh = scheme.sign(delivery, Terms(secrets, time.time(), url))
    kept = {name: value for name, value in headers.items() if name.lower() not in {name.lower() for name in fresh}}
    return kept | fresh


@dataclass(frozen=True, slots=True)
class Specimen:
    """A recorded delivery as the tool would send it now. token, query: what follows the hook's address."""

    name: str
    method: str
    token: str
    query: str
    headers: dict[str, str]
    raw: bytes

    def at(self, address: str) -> str:
        """Where it is sent. address: the hook's, with its token or without."""
        return _with_token(address, self.token) + (self.query and f"?{self.query}")


def specimen(
    source: str,
    wanted: str,
    hook: str,
    secrets: Sequence[str],
    keys: Sequence[str],
    address: str,
    auth: Sequence[str] = ("signature",),
) -> Specimen:
    """secrets: the hook's, of which the first that fits signs; else the specimen's own. Where the tool signs with a private
    key, only the key of the specimens can sign. keys: SECRET_KEY. address: the hook's as the tool knows it. auth: what
    the hook accepts. Raises Unknown."""
    recorded, scheme = find(source, wanted), load()[source].source.with_auth(auth).signature
    own = {**specimens(source), **recorded}
    secrets = [own["signing_key"]] if "signing_key" in own else [*secrets] or [own["secret"]]
    terms = Terms(secrets, time.time(), keys=[*keys, own.get("secret_key", "")])
    raw, token, query = scheme.wrap(body_of(recorded), terms), scheme.token(hook, terms), recorded.get("query", "")
    headers = signed(source, raw, recorded["headers"], secrets, _with_token(address, token), query, auth)
    return Specimen(recorded["name"], recorded.get("method", "POST"), token, query, headers, raw)


def _with_token(address: str, token: str) -> str:
    return address if not token or address.endswith(f"/{token}") else f"{address}/{token}"


def ring_at(url: str, source: str, wanted: str, environ: Mapping[str, str]) -> httpx.Response:
    """Send it with the secret of HOOKS__<SOURCE>__SECRETS, or else the specimen's own. Raises Unknown, OSError."""
    public_url = environ.get("PUBLIC_URL", "").rstrip("/")
    prefix = f"HOOKS__{source.upper()}"
    names = (f"{prefix}__SECRETS", "SECRET_KEY", f"{prefix}__AUTH")
    secrets, keys, auth = (environ.get(name, "").split() for name in names)
    address = f"{public_url}/hooks/{source}" if public_url else url
    made = specimen(source, wanted, source, secrets, keys, address, auth or ("signature",))
    try:
        return httpx.request(
            made.method, made.at(url), content=made.raw, headers=made.headers, timeout=10, trust_env=False
        )
    except httpx.HTTPError as error:
        raise OSError(type(error).__name__) from None
