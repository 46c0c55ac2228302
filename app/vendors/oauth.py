"""The token endpoint of a tool: the app of a customer exchanges a code, then refresh tokens (RFC 6749)."""

import secrets
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

CLIENT_ID, CLIENT_SECRET = "client-id-of-the-app", "client-secret-of-the-app"
REFRESH_TOKEN = "refresh-token-of-the-account"
LIFETIME_S = 3600


class OAuthTokens:
    """The tokens of one account. Each code and each refresh token works once."""

    def __init__(self) -> None:
        self.codes, self.refresh_tokens, self.access_tokens = set[str](), {REFRESH_TOKEN}, set[str]()

    def is_valid(self, request: Request) -> bool:
        return request.headers.get("authorization", "").removeprefix("Bearer ") in self.access_tokens

    async def issue(self, request: Request) -> Response:
        """Answer a request with the credentials of the app in its form."""
        form = dict(parse_qsl((await request.body()).decode()))
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return JSONResponse({"error": "invalid_client"}, 401)
        grants = {"authorization_code": (self.codes, "code"), "refresh_token": (self.refresh_tokens, "refresh_token")}
        valid, name = grants.get(form.get("grant_type", ""), (set[str](), ""))
        if form.get(name) not in valid:
            return JSONResponse({"error": "invalid_grant"}, 400)
        valid.discard(form[name])
        access_token, refresh_token = secrets.token_hex(16), secrets.token_hex(16)
        self.access_tokens.add(access_token)
        self.refresh_tokens.add(refresh_token)
        return JSONResponse(
            {
                "access_token": access_token,
                "refresh_token": refresh_token,
                "token_type": "bearer",
                "expires_in": LIFETIME_S,
            }
        )

    def expire(self) -> None:
        self.access_tokens.clear()
