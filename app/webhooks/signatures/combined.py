"""Schemes made of others: one of two, both of two, or an HMAC of some fields of the body."""

import hmac
from dataclasses import dataclass, replace

import orjson

from app.webhooks.delivery import Delivery, UnreadableBody, parse_body
from app.webhooks.payload import Payload
from app.webhooks.signatures.hmac import _UNSENT, _hex
from app.webhooks.signatures.scheme import Cover, Scheme, SignatureError, Terms, _same


@dataclass(frozen=True)
class FieldsHmac(Scheme):
    """HMAC-SHA256, in hexadecimal, over some fields of a JSON body, itself a field of it: nothing else is proven.

    The body has to be parsed for it, so it stands behind a PathToken only (Both). signs: paths into the body, whose texts
    follow one another without anything between them.
    """

    field: str
    signs: tuple[tuple[str, ...], ...]

    @property
    def covers(self) -> Cover:
        return "fields"

    def check_secret(self, secret: str) -> str | None:
        return None if secret else "must not be empty"

    def verify(self, delivery: Delivery, terms: Terms) -> int:
        body = self._body(delivery)
        given = body.at(self.field).value
        if not isinstance(given, str) or not given.strip():
            raise SignatureError(f"the body has no `{self.field}`", "missing")
        message = self._message(body)
        expected = [_hex(hmac.digest(secret.encode(), message, "sha256")) for secret in terms.secrets]
        return _same(given.encode(), expected, f"`{self.field}`")

    def sign(self, delivery: Delivery, terms: Terms) -> dict[str, str]:
        return {}

    def wrap(self, raw: bytes, terms: Terms) -> bytes:
        body = self._body(replace(_UNSENT, body=raw))
        digest = hmac.digest(terms.secrets[0].encode(), self._message(body), "sha256")
        return orjson.dumps({**body.value, self.field: digest.hex()})

    def _body(self, delivery: Delivery) -> Payload:
        try:
            body = parse_body(delivery, "json")
        except UnreadableBody as error:
            raise SignatureError(str(error), "malformed") from None
        if not isinstance(body.value, dict):
            raise SignatureError("the body is not an object", "malformed")
        return body

    def _message(self, body: Payload) -> bytes:
        values = [body.at(*path).value for path in self.signs]
        if not all(isinstance(value, str | int) and not isinstance(value, bool) for value in values):
            raise SignatureError("a signed field is missing", "malformed")
        return "".join(map(str, values)).encode()


@dataclass(frozen=True)
class Either(Scheme):
    """A tool with two schemes: the first counts where the delivery carries it, and then there is no way back to the other.

    Each scheme is given only the secrets that are strong enough for it (`check_secret`), so a sender gains nothing by
    choosing the scheme.
    """

    first: Scheme
    otherwise: Scheme

    def chosen(self, delivery: Delivery) -> Scheme:
        return self.first if self.first.applies(delivery) else self.otherwise

    @property
    def covers(self) -> Cover:
        return _weakest(self.first.covers, self.otherwise.covers)

    @property
    def needs_url(self) -> bool:
        return self.first.needs_url or self.otherwise.needs_url

    @property
    def needs_key(self) -> bool:
        return self.first.needs_key or self.otherwise.needs_key

    def check_secret(self, secret: str) -> str | None:
        return self.first.check_secret(secret) and self.otherwise.check_secret(secret)

    def verify(self, delivery: Delivery, terms: Terms) -> int:
        scheme = self.chosen(delivery)
        slots = [slot for slot, secret in enumerate(terms.secrets) if scheme.check_secret(secret) is None]
        return slots[scheme.verify(delivery, terms._replace(secrets=[terms.secrets[slot] for slot in slots]))]

    def sign(self, delivery: Delivery, terms: Terms) -> dict[str, str]:
        scheme = self.chosen(delivery)
        return scheme.sign(delivery, _fitting(scheme, terms))

    def wrap(self, raw: bytes, terms: Terms) -> bytes:
        scheme = self.chosen(replace(_UNSENT, body=raw))
        return scheme.wrap(raw, _fitting(scheme, terms))

    def token(self, hook: str, terms: Terms) -> str:
        return self.first.token(hook, terms) or self.otherwise.token(hook, terms)


def _fitting(scheme: Scheme, terms: Terms) -> Terms:
    """The secrets that the scheme takes first. A private key, with which only we sign, is none of them and stays."""
    return terms._replace(secrets=sorted(terms.secrets, key=lambda secret: scheme.check_secret(secret) is not None))


@dataclass(frozen=True)
class Both(Scheme):
    """Two proofs, each of them needed; the second is not looked at before the first holds."""

    first: Scheme
    second: Scheme

    @property
    def covers(self) -> Cover:
        return _strongest(self.first.covers, self.second.covers)

    @property
    def needs_url(self) -> bool:
        return self.first.needs_url or self.second.needs_url

    @property
    def needs_key(self) -> bool:
        return self.first.needs_key or self.second.needs_key

    def check_secret(self, secret: str) -> str | None:
        return self.first.check_secret(secret) or self.second.check_secret(secret)

    def verify(self, delivery: Delivery, terms: Terms) -> int:
        self.first.verify(delivery, terms)
        return self.second.verify(delivery, terms)

    def sign(self, delivery: Delivery, terms: Terms) -> dict[str, str]:
        return self.first.sign(delivery, terms) | self.second.sign(delivery, terms)

    def wrap(self, raw: bytes, terms: Terms) -> bytes:
        return self.second.wrap(self.first.wrap(raw, terms), terms)

    def token(self, hook: str, terms: Terms) -> str:
        return self.first.token(hook, terms) or self.second.token(hook, terms)


_COVERS: tuple[Cover, ...] = ("nothing", "fields", "body")


def _weakest(*covers: Cover) -> Cover:
    return min(covers, key=_COVERS.index)


def _strongest(*covers: Cover) -> Cover:
    return max(covers, key=_COVERS.index)
