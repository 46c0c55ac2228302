"""An OAuth server for fake tools (RFC 6749, 4.1 and 6; RFC 7636): a page that asks for consent, and a token endpoint.

    GET  /calendly/oauth/authorize     the page; its form answers consent or denial
    POST /calendly/oauth/token         exchanges a code or a refresh token, each once
    POST /calendly/_vendor/revoke      the owner of the account removes the app: its tokens end

A code can be used once: a second use revokes the tokens of the first use.
"""

import base64
import hashlib
import html
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote_plus, urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response


@dataclass(slots=True)
class Grant:
    """The consent of an owner. code: empty for a grant that was added without a code."""

    code: str
    redirect_uri: str
    challenge: str
    access_tokens: set[str] = field(default_factory=set)
    refresh_tokens: set[str] = field(default_factory=set)
    is_revoked: bool = False


@dataclass(slots=True)
class OAuthServer:
    """An OAuth server with one registered app.

    client_auth: how the app authenticates. needs_pkce: whether a code challenge is required; otherwise it is optional.
    rotates: whether a refresh token can be used only once. redirect_uris: the registered ones; empty if any is accepted.
    """

    client_auth: str = "body"
    needs_pkce: bool = False
    rotates: bool = True
    scopes: tuple[str, ...] = ()
    expires_in: int = 7_200
    client_id: str = "client-of-the-app"
    client_secret: str = "client-secret-of-the-app"
    webhook_secret: str = ""
    redirect_uris: tuple[str, ...] = ()
    grants: list[Grant] = field(default_factory=list)

    def is_valid(self, access_token: str) -> bool:
        return any(access_token in grant.access_tokens and not grant.is_revoked for grant in self.grants)

    def consent(self) -> str:
        """Add a grant, as if an owner had consented, and return its refresh token."""
        token = f"refresh-{secrets.token_hex(8)}"
        self.grants.append(Grant("", "", "", refresh_tokens={token}))
        return token

    def expire(self) -> None:
        """Expire all access tokens."""
        for grant in self.grants:
            grant.access_tokens.clear()

    def revoke(self) -> None:
        for grant in self.grants:
            grant.is_revoked = True

    # -- the page --

    async def authorize(self, request: Request) -> Response:
        """Show the page. With a wrong client or redirect URI, never redirect."""
        query = request.query_params
        if query.get("client_id") != self.client_id:
            return HTMLResponse("<h1>There is no such app</h1>", 400)
        redirect_uri = query.get("redirect_uri", "")
        if not redirect_uri or (self.redirect_uris and redirect_uri not in self.redirect_uris):
            return HTMLResponse("<h1>The redirect URI is not registered</h1>", 400)
        if problem := self._problem(query):
            return _redirect(redirect_uri, {"error": problem, "state": query.get("state", "")})
        if request.method == "POST":
            return await self._decide(request)
        return HTMLResponse(
            PAGE.format(action=html.escape(str(request.url.query)), scope=html.escape(query.get("scope", "")))
        )

    def _problem(self, query: Mapping[str, str]) -> str:
        if query.get("response_type") != "code":
            return "unsupported_response_type"
        if not set(self.scopes) <= set(query.get("scope", "").split()):
            return "invalid_scope"
        has_challenge = bool(query.get("code_challenge")) and query.get("code_challenge_method") == "S256"
        return "invalid_request" if self.needs_pkce and not has_challenge else ""

    async def _decide(self, request: Request) -> Response:
        query, form = request.query_params, await _form(request)
        state = {"state": query["state"]} if "state" in query else {}
        if form.get("decision") != "allow":
            return _redirect(query["redirect_uri"], {"error": "access_denied", **state})
        grant = Grant(secrets.token_urlsafe(16), query["redirect_uri"], query.get("code_challenge", ""))
        self.grants.append(grant)
        return _redirect(query["redirect_uri"], {"code": grant.code, **state})

    # -- the token endpoint --

    async def token(self, request: Request) -> Response:
        form = await _form(request)
        if self._client(request, form) != (self.client_id, self.client_secret):
            return _error("invalid_client", 401)
        match form.get("grant_type"):
            case "authorization_code":
                return self._redeem(form)
            case "refresh_token":
                return self._refresh(form.get("refresh_token", ""))
        return _error("unsupported_grant_type")

    def _client(self, request: Request, form: Mapping[str, str]) -> tuple[str, str]:
        if self.client_auth == "body":
            return form.get("client_id", ""), form.get("client_secret", "")
        scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
        if scheme != "Basic":
            return "", ""
        user, _, password = base64.b64decode(encoded).decode().partition(":")
        return unquote_plus(user), unquote_plus(password)

    def _redeem(self, form: Mapping[str, str]) -> Response:
        grant = next((grant for grant in self.grants if grant.code and form.get("code") == grant.code), None)
        if grant is None or grant.is_revoked:
            return _error("invalid_grant")
        if grant.access_tokens:  # a code that is used twice counts as stolen
            grant.is_revoked = True
            return _error("invalid_grant")
        if grant.redirect_uri != form.get("redirect_uri") or not _is_verified(grant, form.get("code_verifier", "")):
            return _error("invalid_grant")
        return self._tokens(grant)

    def _refresh(self, refresh_token: str) -> Response:
        grant = next((grant for grant in self.grants if refresh_token in grant.refresh_tokens), None)
        if grant is None or grant.is_revoked:
            return _error("invalid_grant")
        if self.rotates:
            grant.refresh_tokens.clear()
            return self._tokens(grant)
        return self._tokens(grant, refresh_token)

    def _tokens(self, grant: Grant, refresh_token: str = "") -> Response:
        access_token, refresh_token = (
            f"access-{secrets.token_hex(8)}",
            refresh_token or f"refresh-{secrets.token_hex(8)}",
        )
        grant.access_tokens.add(access_token)
        grant.refresh_tokens.add(refresh_token)
        return JSONResponse(
            {
                "access_token": access_token,
                "token_type": "Bearer",
                "expires_in": self.expires_in,
                "refresh_token": refresh_token,
            }
        )


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode()))


def _is_verified(grant: Grant, verifier: str) -> bool:
    """Return whether the verifier belongs to the challenge; True if there is no challenge."""
    digest = hashlib.sha256(verifier.encode()).digest()
    return not grant.challenge or base64.urlsafe_b64encode(digest).decode().rstrip("=") == grant.challenge


def _redirect(uri: str, parameters: Mapping[str, str]) -> Response:
    return RedirectResponse(f"{uri}{'&' if '?' in uri else '?'}{urlencode(parameters)}", 302)


def _error(error: str, status: int = 400) -> Response:
    return JSONResponse({"error": error, "error_description": f"{error}: see RFC 6749"}, status)


PAGE = """<!doctype html><html lang="en"><title>Log in</title><h1>May Doorbell use this account?</h1>
<p>It asks for: {scope}</p>
<form method="post" action="?{action}">
<button name="decision" value="allow">Allow</button> <button name="decision" value="deny">Deny</button></form></html>"""
