"""Combinations of two schemes, and an HMAC over some fields of the body, which is only used in a combination."""

import hmac
from dataclasses import dataclass, replace

import orjson

from app.webhooks.delivery import Delivery, UnreadableBody, parse_body
from app.webhooks.payload import Payload
from app.webhooks.signatures.hmac import UNSENT, hex_digest
from app.webhooks.signatures.scheme import Coverage, Scheme, SignatureError, VerificationContext, matching_index


@dataclass(frozen=True)
class FieldsHmac(Scheme):
    """HMAC-SHA256 over some fields of a JSON body, in hexadecimal in another field. All other fields are not signed.

    The body must be parsed before it can be verified, so this scheme is only used after a PathToken (AllOf).

    signs: paths into the body; their values are concatenated without a separator.
    """

    field: str
    signs: tuple[tuple[str, ...], ...]

    @property
    def coverage(self) -> Coverage:
        return "fields"

    def secret_problem(self, secret: str) -> str | None:
        return None if secret else "must not be empty"

    def verify(self, delivery: Delivery, context: VerificationContext) -> int:
        body = self._body(delivery)
        signature = body.at(self.field).value
        if not isinstance(signature, str) or not signature.strip():
            raise SignatureError(f"the body has no `{self.field}`", "missing")
        message = self._message(body)
        expected = [hex_digest(hmac.digest(secret.encode(), message, "sha256")) for secret in context.secrets]
        return matching_index(signature.encode(), expected, f"`{self.field}`")

    def sign(self, delivery: Delivery, context: VerificationContext) -> dict[str, str]:
        return {}

    def encode_body(self, raw: bytes, context: VerificationContext) -> bytes:
        body = self._body(replace(UNSENT, body=raw))
        digest = hmac.digest(context.secrets[0].encode(), self._message(body), "sha256")
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
class FirstPresent(Scheme):
    """A tool with two schemes. If the delivery has a signature of the first scheme, the fallback is ignored.

    Each scheme gets only the secrets that are strong enough for it (`secret_problem`), so a sender gains nothing by
    choosing the scheme.
    """

    first: Scheme
    fallback: Scheme

    def scheme_for(self, delivery: Delivery) -> Scheme:
        return self.first if self.first.applies_to(delivery) else self.fallback

    @property
    def coverage(self) -> Coverage:
        return _weakest(self.first.coverage, self.fallback.coverage)

    @property
    def needs_url(self) -> bool:
        return self.first.needs_url or self.fallback.needs_url

    @property
    def needs_secret_key(self) -> bool:
        return self.first.needs_secret_key or self.fallback.needs_secret_key

    def secret_problem(self, secret: str) -> str | None:
        return self.first.secret_problem(secret) and self.fallback.secret_problem(secret)

    def verify(self, delivery: Delivery, context: VerificationContext) -> int:
        scheme = self.scheme_for(delivery)
        slots = [slot for slot, secret in enumerate(context.secrets) if scheme.secret_problem(secret) is None]
        return slots[scheme.verify(delivery, context._replace(secrets=[context.secrets[slot] for slot in slots]))]

    def sign(self, delivery: Delivery, context: VerificationContext) -> dict[str, str]:
        scheme = self.scheme_for(delivery)
        return scheme.sign(delivery, _usable_first(scheme, context))

    def encode_body(self, raw: bytes, context: VerificationContext) -> bytes:
        scheme = self.scheme_for(replace(UNSENT, body=raw))
        return scheme.encode_body(raw, _usable_first(scheme, context))

    def path_token(self, hook: str, context: VerificationContext) -> str:
        return self.first.path_token(hook, context) or self.fallback.path_token(hook, context)


def _usable_first(scheme: Scheme, context: VerificationContext) -> VerificationContext:
    """Return the context with the suitable secrets first.

    A private key for signing counts as unsuitable, but stays in the list.
    """
    return context._replace(
        secrets=sorted(context.secrets, key=lambda secret: scheme.secret_problem(secret) is not None)
    )


@dataclass(frozen=True)
class AllOf(Scheme):
    """Two signatures that must both be valid. The second is verified only if the first is valid."""

    first: Scheme
    second: Scheme

    @property
    def coverage(self) -> Coverage:
        return _strongest(self.first.coverage, self.second.coverage)

    @property
    def needs_url(self) -> bool:
        return self.first.needs_url or self.second.needs_url

    @property
    def needs_secret_key(self) -> bool:
        return self.first.needs_secret_key or self.second.needs_secret_key

    def secret_problem(self, secret: str) -> str | None:
        return self.first.secret_problem(secret) or self.second.secret_problem(secret)

    def verify(self, delivery: Delivery, context: VerificationContext) -> int:
        self.first.verify(delivery, context)
        return self.second.verify(delivery, context)

    def sign(self, delivery: Delivery, context: VerificationContext) -> dict[str, str]:
        return self.first.sign(delivery, context) | self.second.sign(delivery, context)

    def encode_body(self, raw: bytes, context: VerificationContext) -> bytes:
        return self.second.encode_body(self.first.encode_body(raw, context), context)

    def path_token(self, hook: str, context: VerificationContext) -> str:
        return self.first.path_token(hook, context) or self.second.path_token(hook, context)


_COVERAGE_ORDER: tuple[Coverage, ...] = ("nothing", "fields", "body")


def _weakest(*coverages: Coverage) -> Coverage:
    return min(coverages, key=_COVERAGE_ORDER.index)


def _strongest(*coverages: Coverage) -> Coverage:
    return max(coverages, key=_COVERAGE_ORDER.index)
