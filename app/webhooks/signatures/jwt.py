"""Verifies and signs bodies that are JSON Web Tokens."""

from dataclasses import dataclass
from typing import Any, Literal

import orjson

from app.webhooks.delivery import JWT_PATTERN, Delivery, decode_base64url
from app.webhooks.signatures.scheme import Scheme, SignatureError, VerificationContext, mismatch

MIN_HS256_BYTES = 32


@dataclass(frozen=True)
class Jwt(Scheme):
    """A body that is a JSON Web Token whose claims are the event (body_format="jwt").

    algorithm: the only accepted algorithm.
    expires: the token must have an expiration time (`exp`).
    tolerance_s: the leeway for `exp`, `iat` and `nbf`.

    An HS256 key has 32 bytes or more: https://www.rfc-editor.org/rfc/rfc7518#section-3.2
    PyJWT does not check the times here: it compares them with the clock instead of `context.now`, and accepts strings
    and booleans.
    """

    algorithm: Literal["RS256", "HS256"]
    expires: bool = True
    tolerance_s: float = 300

    def applies_to(self, delivery: Delivery) -> bool:
        return bool(JWT_PATTERN.fullmatch(delivery.body.strip()))

    def secret_problem(self, secret: str) -> str | None:
        if self.algorithm == "RS256":
            from app.webhooks.signatures.asymmetric import key_problem

            return key_problem("rsa-sha256", secret)
        if len(secret.encode()) < MIN_HS256_BYTES:
            return f"must have {MIN_HS256_BYTES} characters or more"
        from app.webhooks.signatures.json_web_tokens import is_shared_secret

        return None if is_shared_secret(secret) else "must be a shared secret, not a public key or a JSON Web Key"

    def verify(self, delivery: Delivery, context: VerificationContext) -> int:
        token = delivery.body.strip()
        if not token:
            raise SignatureError("the body is empty, so it has no signature", "missing")
        if not JWT_PATTERN.fullmatch(token):
            raise SignatureError("the body is not a JSON Web Token", "malformed")
        from app.webhooks.signatures.json_web_tokens import signed_claims

        for slot, secret in enumerate(context.secrets):
            claims = signed_claims(token, secret, self.algorithm)
            if claims is not None:
                self._check_times(_parse_claims(claims), context)
                return slot
        raise mismatch("the token in the body", len(context.secrets), "key")

    def _check_times(self, claims: dict[str, Any], context: VerificationContext) -> None:
        tolerance_s = self.tolerance_s if context.tolerance_s is None else context.tolerance_s
        times = {name: claims.get(name) for name in ("exp", "iat", "nbf")}
        if times["exp"] is None and self.expires:
            raise SignatureError("the token has no expiration time (`exp`)", "malformed")
        for name, at in times.items():
            if at is None:
                continue
            if isinstance(at, bool) or not isinstance(at, int | float):
                raise SignatureError(f"the token's `{name}` is not a time", "malformed")
            difference_s = context.now - at if name == "exp" else at - context.now
            if not difference_s <= tolerance_s:
                direction = "in the past" if name == "exp" else "ahead of our clock"
                raise SignatureError(f"the token's `{name}` is {difference_s:.0f} s {direction}", "stale")

    def sign(self, delivery: Delivery, context: VerificationContext) -> dict[str, str]:
        return {}

    def encode_body(self, raw: bytes, context: VerificationContext) -> bytes:
        token = raw.strip()
        claims = (
            _parse_claims(decode_base64url(token.split(b".")[1]) or b"")
            if JWT_PATTERN.fullmatch(token)
            else orjson.loads(raw)
        )
        claims = {**claims, "iat": int(context.now), "exp": int(context.now) + 3600}
        from app.webhooks.signatures.json_web_tokens import sign_claims

        return sign_claims(orjson.dumps(claims), context.secrets[0], self.algorithm)


def _parse_claims(raw: bytes) -> dict[str, Any]:
    try:
        claims = orjson.loads(raw)
    except ValueError:
        claims = None
    if not isinstance(claims, dict):
        raise SignatureError("the token's claims are not an object", "malformed")
    return claims
