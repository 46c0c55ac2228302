"""Tokens in forms: the console accepts a form only with the token of its session, from a page of its own."""

from urllib.parse import urlsplit

from starlette.authentication import BaseUser
from starlette.requests import HTTPConnection

from app.settings.model import Settings
from app.settings.signing import signer


class FormTokens:
    def __init__(self, settings: Settings) -> None:
        self._signer = signer(settings, "doorbell console form")

    def token(self, user: BaseUser) -> str:
        return self._signer.get_signature(_signed_text(user)).decode() if self._signer else ""

    def is_own_form(self, request: HTTPConnection, token: str, user: BaseUser) -> bool:
        """Return whether the token belongs to this user and the browser reports this origin for the form."""
        if not self._signer or not self._signer.verify_signature(_signed_text(user).encode(), token.encode()):
            return False
        return _is_same_origin(request)


def _signed_text(user: BaseUser) -> str:
    return user.identity if user.is_authenticated else "nobody"


def _is_same_origin(request: HTTPConnection) -> bool:
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    # Older browsers; newer ones send Sec-Fetch-Site only over https and to localhost.
    origin = request.headers.get("origin") or request.headers.get("referer", "")
    return bool(origin) and urlsplit(origin).netloc == request.headers.get("host")
