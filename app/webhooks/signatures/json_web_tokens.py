"""JSON Web Tokens, with PyJWT. Imported at the first use, because importing the library takes long."""

from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.api_jws import PyJWS
from jwt.exceptions import InvalidAlgorithmError, InvalidKeyError, InvalidSignatureError, InvalidTokenError

from app.webhooks.signatures.asymmetric import load_private_key, load_public_key
from app.webhooks.signatures.scheme import SignatureError

_JWS = PyJWS(["RS256", "HS256"], {"enforce_minimum_key_length": True})


def is_shared_secret(secret: str) -> bool:
    """Return whether the secret can sign with HS256: a public key or a JSON Web Key cannot."""
    try:
        _JWS.get_algorithm_by_name("HS256").prepare_key(secret)
    except InvalidKeyError:
        return False
    return True


def signed_claims(token: bytes, secret: str, algorithm: str) -> bytes | None:
    """Return the raw claims; None if this secret did not sign them. Raises SignatureError."""
    key: Any = secret
    if algorithm == "RS256" and not isinstance(key := load_public_key(secret), RSAPublicKey):
        return None
    try:
        verified = _JWS.decode_complete(token, key, [algorithm])
    except (InvalidSignatureError, InvalidAlgorithmError, InvalidKeyError):
        return None
    except InvalidTokenError:
        raise SignatureError("the body is a JSON Web Token that cannot be decoded", "malformed") from None
    if "crit" in verified["header"]:  # PyJWT knows one such extension, `b64`; no source uses it
        raise SignatureError("the token requires extensions that are not supported (`crit`)", "malformed")
    claims: bytes = verified["payload"]
    return claims


def sign_claims(claims: bytes, secret: str, algorithm: str) -> bytes:
    key: Any = load_private_key(secret) if algorithm == "RS256" else secret
    return _JWS.encode(claims, key, algorithm).encode()
