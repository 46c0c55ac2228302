"""Ringing ourselves: a specimen, signed now with the hook's own secret, sent over HTTP as the tool would."""

import time
from collections.abc import Mapping
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


def ring_at(url: str, source: str, wanted: str, environ: Mapping[str, str]) -> httpx.Response:
    """Send it with the secret of HOOKS__<SOURCE>__SECRETS, or else the specimen's own. Raises Unknown, OSError."""
    file, recorded = specimens(source), find(source, wanted)
    scheme, public_url = load()[source].source.signature, environ.get("PUBLIC_URL", "").rstrip("/")
    configured = environ.get(f"HOOKS__{source.upper()}__SECRETS", "").split()
    # A tool that signs with a private key keeps it: we have the specimens' own only.
    secret = file.get("signing_key") or [*configured, file["secret"]][0]
    keys = environ.get("SECRET_KEY", "").split() or [file.get("secret_key", "")]
    terms = Terms([secret], time.time(), keys=keys)
    raw = scheme.wrap(body_of(recorded), terms)
    token = scheme.token(source, terms)
    if token and not url.endswith(token):
        url = f"{url}/{token}"
    known_as = f"{public_url}/hooks/{source}{token and '/' + token}" if public_url else url
    method, query = recorded.get("method", "POST"), recorded.get("query", "")
    headers = signed(source, raw, recorded["headers"], secret, known_as, query)
    try:
        return httpx.request(
            method, url + (query and f"?{query}"), content=raw, headers=headers, timeout=10, trust_env=False
        )
    except httpx.HTTPError as error:
        raise OSError(type(error).__name__) from None
