"""Signatures with SECRET_KEY."""

from itsdangerous import TimestampSigner

from app.settings.model import Settings


def signer(settings: Settings, salt: str) -> TimestampSigner | None:
    """Return a signer; None without SECRET_KEY. The first key signs; itsdangerous expects it last."""
    keys = list(reversed(settings.secret_key))
    return TimestampSigner(keys, salt=salt) if keys else None
