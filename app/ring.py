"""Ringing ourselves: a specimen, signed now with the hook's own secret, sent over HTTP as the tool would."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import orjson

from app.delivery import Delivery
from app.signatures import Terms
from app.sources import load, specimens


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
    source: str, raw: bytes, headers: Mapping[str, str], secret: str, url: str, query: str = ""
) -> dict[str, str]:
    """The headers to send: those given, with the signature made anew. url: as the tool knows the hook (PUBLIC_URL)."""
    scheme = load()[source].source.signature
    lines = tuple((name.lower().encode(), value.encode("latin-1")) for name, value in headers.items())
    delivery = Delivery(source, source, lines, raw, datetime.now(UTC), query=query.encode())
    fresh = scheme.sign(delivery, Terms([secret], time.time(), url))
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
    source: str, wanted: str, hook: str, secrets: Sequence[str], keys: Sequence[str], address: str
) -> Specimen:
    """secrets: the hook's, of which the first signs, or else the specimen's own; what a tool signs with a private key, ours
    can only sign with the one that was made for the specimens. keys: SECRET_KEY. address: the hook's as the tool knows it.
    Raises Unknown."""
    recorded, scheme = find(source, wanted), load()[source].source.signature
    own = {**specimens(source), **recorded}
    secret = own.get("signing_key") or [*secrets, own["secret"]][0]
    terms = Terms([secret], time.time(), keys=[*keys, own.get("secret_key", "")])
    raw, token, query = scheme.wrap(body_of(recorded), terms), scheme.token(hook, terms), recorded.get("query", "")
    headers = signed(source, raw, recorded["headers"], secret, _with_token(address, token), query)
    return Specimen(recorded["name"], recorded.get("method", "POST"), token, query, headers, raw)


def _with_token(address: str, token: str) -> str:
    return address if not token or address.endswith(f"/{token}") else f"{address}/{token}"


def ring_at(url: str, source: str, wanted: str, environ: Mapping[str, str]) -> httpx.Response:
    """Send it with the secret of HOOKS__<SOURCE>__SECRETS, or else the specimen's own. Raises Unknown, OSError."""
    public_url = environ.get("PUBLIC_URL", "").rstrip("/")
    secrets, keys = (environ.get(name, "").split() for name in (f"HOOKS__{source.upper()}__SECRETS", "SECRET_KEY"))
    address = f"{public_url}/hooks/{source}" if public_url else url
    made = specimen(source, wanted, source, secrets, keys, address)
    try:
        return httpx.request(
            made.method, made.at(url), content=made.raw, headers=made.headers, timeout=10, trust_env=False
        )
    except httpx.HTTPError as error:
        raise OSError(type(error).__name__) from None
