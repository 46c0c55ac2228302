"""Verifies and signs bodies that are JSON Web Tokens, with PyJWT."""

from dataclasses import dataclass
from typing import Any, Literal

import orjson
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.api_jws import PyJWS
from jwt.exceptions import InvalidAlgorithmError, InvalidKeyError, InvalidSignatureError, InvalidTokenError

from app.webhooks.delivery import JWT_PATTERN, Delivery, decode_base64url
from app.webhooks.signatures.public_key import key_problem, load_private_key, load_public_key
from app.webhooks.signatures.scheme import Scheme, SignatureError, VerificationContext, mismatch

MIN_HS256_BYTES = 32
_JWS = PyJWS(["RS256", "HS256"], {"enforce_minimum_key_length": True})


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
            return key_problem("rsa-sha256", secret)
        if len(secret.encode()) < MIN_HS256_BYTES:
            return f"must have {MIN_HS256_BYTES} characters or more"
        try:
            _JWS.get_algorithm_by_name("HS256").prepare_key(secret)
        except InvalidKeyError:
            return "must be a shared secret, not a public key or a JSON Web Key"
        return None

    def verify(self, delivery: Delivery, context: VerificationContext) -> int:
        token = delivery.body.strip()
        if not token:
            raise SignatureError("the body is empty, so it has no signature", "missing")
        if not JWT_PATTERN.fullmatch(token):
            raise SignatureError("the body is not a JSON Web Token", "malformed")
        for slot, secret in enumerate(context.secrets):
            claims = self._verify_signature(token, secret)
            if claims is not None:
                self._check_times(_parse_claims(claims), context)
                return slot
        raise mismatch("the token in the body", len(context.secrets), "key")

    def _verify_signature(self, token: bytes, secret: str) -> bytes | None:
        """Return the raw claims; None if this secret did not sign them."""
        key = self._key(secret)
        if key is None:
            return None
        try:
            verified = _JWS.decode_complete(token, key, [self.algorithm])
        except (InvalidSignatureError, InvalidAlgorithmError, InvalidKeyError):
            return None
        except InvalidTokenError:
            raise SignatureError("the body is a JSON Web Token that cannot be decoded", "malformed") from None
        if "crit" in verified["header"]:  # PyJWT knows one such extension, `b64`; no source uses it
            raise SignatureError("the token requires extensions that are not supported (`crit`)", "malformed")
        claims: bytes = verified["payload"]
        return claims

    def _key(self, secret: str) -> RSAPublicKey | str | None:
        if self.algorithm == "HS256":
            return secret
        key = load_public_key(secret)
        return key if isinstance(key, RSAPublicKey) else None

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
            too_late = context.now - at if name == "exp" else at - context.now
            if not too_late <= tolerance_s:
                raise SignatureError(f"the token's `{name}` is {too_late:.0f} s off", "stale")

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
        secret = context.secrets[0]
        key: Any = load_private_key(secret) if self.algorithm == "RS256" else secret
        return _JWS.encode(orjson.dumps(claims), key, self.algorithm).encode()


def _parse_claims(raw: bytes) -> dict[str, Any]:
    try:
        claims = orjson.loads(raw)
    except ValueError:
        claims = None
    if not isinstance(claims, dict):
        raise SignatureError("the token's claims are not an object", "malformed")
    return claims
