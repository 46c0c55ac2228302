"""Connects a tool with a log-in there: the authorization code flow of OAuth (RFC 6749, 4.1) with PKCE (RFC 7636).

An authorization begins in the console, goes to the tool's page, and ends at our redirect URI with a code. Its state is
random and signed. The data of a state, such as the code verifier, is in Redis for ten minutes, encrypted. The first callback
of the session that began it deletes the data, so a state works once. The tokens are stored, and then the tool is connected
as with credentials.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from itsdangerous import BadSignature

from app.connections.connect import Connected, Connections, ConnectRequest, OtherAccount
from app.connections.connector import OUTAGES, REFUSALS, describe
from app.connections.context import CallContext
from app.connections.stored_hooks import StoredHooks
from app.connections.tokens import tokens_of
from app.ledger import keys
from app.ledger.encryption import Keyring, TamperedValue, UnknownKey
from app.operators.actions import Actions
from app.settings.environment import Problem, SettingsError
from app.settings.model import Hook, OAuthApp, Settings
from app.settings.signing import signer
from app.webhooks.registry import load_sources
from app.webhooks.source import LoadedSource
from app.webhooks.subscription import OAuth

#: How long a person may take at the tool.
AUTHORIZATION_TTL_S = 600


class AuthorizationFailed(Exception):
    """Nothing was stored. The message is a sentence for the person who connects the tool. hook: empty if it is unknown."""

    hook = ""


@dataclass(frozen=True, slots=True)
class Authorization:
    """The data of a state. session: a digest of the session that began it. is_new: whether there was no such hook."""

    session: str
    source: str
    hook: str
    is_new: bool
    redirect_uri: str
    verifier: str = field(repr=False)
    secret: str = field(default="", repr=False)
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def request(self) -> ConnectRequest:
        return ConnectRequest(self.source, self.hook, {}, self.secret, self.settings)


class Authorizations:
    """Begins and ends authorizations. session: the identity of the user's session."""

    def __init__(self, context: CallContext, stored: StoredHooks, actions: Actions) -> None:
        self._context, self._settings, self._stored = context, context.settings, stored
        self._connections = Connections(context, stored, actions)
        self._signer = signer(context.settings, "doorbell oauth state")
        self._keyring = Keyring(context.settings.secret_key, "doorbell.oauth")

    async def begin(self, request: ConnectRequest, session: str) -> str:
        """Return the URL of the tool's page. Raises SettingsError if the hook could not be connected."""
        _, oauth, app = self._app(request.source)
        hook = self._connections.check(self._with_app(request))
        verifier, id = secrets.token_urlsafe(48), secrets.token_urlsafe(32)
        redirect_uri = self._settings.redirect_uri(request.source)
        authorization = Authorization(
            self._session_digest(session),
            request.source,
            request.hook,
            request.hook not in self._settings.hooks,
            redirect_uri,
            verifier,
            request.secret,
            request.settings,
        )
        await self._store(id, authorization)
        assert self._signer
        state = self._signer.sign(id).decode()
        return _authorize_url(oauth, app, hook, {"redirect_uri": redirect_uri, "state": state}, verifier)

    async def finish(self, source: str, answer: Mapping[str, str], session: str) -> Connected:
        """Exchange the code in the tool's answer, and connect the tool.

        Raises AuthorizationFailed, and what Connections.connect raises.
        """
        authorization = await self._take(source, answer.get("state", ""), session)
        try:
            return await self._connect(authorization, answer)
        except AuthorizationFailed as failed:
            failed.hook = authorization.hook
            raise

    async def _connect(self, authorization: Authorization, answer: Mapping[str, str]) -> Connected:
        request = self._with_app(authorization.request)
        title = self._app(request.source)[0].definition.title
        if error := answer.get("error"):
            raise AuthorizationFailed(_sentence(error, title))
        if not answer.get("code"):
            raise AuthorizationFailed(f"{title} sent no authorization code. Nothing was stored: connect again.")
        await self._stored.load()
        if authorization.is_new and request.hook in self._settings.hooks:
            raise AuthorizationFailed(
                f"Meanwhile a hook {request.hook} was added. Nothing was stored: use another name."
            )
        tokens = await self._redeem(request, authorization, answer["code"])
        try:
            return await self._connections.connect(_with_tokens(request, tokens))
        except OtherAccount as refused:
            raise AuthorizationFailed(str(refused)) from refused

    # -- the app --

    def _app(self, source: str) -> tuple[LoadedSource, OAuth, OAuthApp]:
        app, tool = self._settings.oauth_apps.get(source), load_sources().get(source)
        if app is None or tool is None or tool.oauth is None:
            prefix = f"OAUTH__{source.upper()}__"
            fix = f"Register an app at the tool, and set {prefix}CLIENT_ID and {prefix}CLIENT_SECRET."
            raise SettingsError(
                [Problem(f"{prefix}CLIENT_ID", "is required to connect this tool with a log-in", fix=fix)]
            )
        return tool, tool.oauth, app

    def _with_app(self, request: ConnectRequest) -> ConnectRequest:
        """Return the request with the secret of the app's webhooks, and without tokens yet."""
        _, oauth, app = self._app(request.source)
        secret = {"hook": request.secret, "app": app.webhook_secret, "client_secret": app.client_secret}[
            oauth.signs_with
        ]
        return ConnectRequest(request.source, request.hook, {}, secret or "", request.settings, {})

    # -- the exchange of the code --

    async def _redeem(self, request: ConnectRequest, authorization: Authorization, code: str) -> Mapping[str, Any]:
        tool, oauth, _ = self._app(request.source)
        title, prefix = tool.definition.title, f"OAUTH__{request.source.upper()}__"
        values = {"CODE": code, "REDIRECT_URI": authorization.redirect_uri, "CODE_VERIFIER": authorization.verifier}
        exchange = oauth.code_exchange(self._settings.token_url(request.source))
        try:
            return await tokens_of(self._context, self._connections.check(request)).redeem(exchange, values)
        except REFUSALS as error:
            raise AuthorizationFailed(
                f"{describe(error, title)}. Nothing was stored. Connect again; if that does not help, compare "
                f"{prefix}CLIENT_ID and {prefix}CLIENT_SECRET with the app at {title}."
            ) from error
        except OUTAGES as error:
            raise AuthorizationFailed(f"{describe(error, title)}. Nothing was stored: connect again.") from error

    # -- the state --

    async def _store(self, id: str, authorization: Authorization) -> None:
        key = f"{keys.OAUTH}{id}"
        encrypted = self._keyring.encrypt(orjson.dumps(authorization), key)
        await self._context.ledger.set_with_ttl(key, encrypted, AUTHORIZATION_TTL_S * 1000)

    async def _take(self, source: str, state: str, session: str) -> Authorization:
        """Return the data of the state, and delete it. A state of another session or source is refused, and kept."""
        refusal = AuthorizationFailed(
            "This answer does not belong to a log-in that this browser began in the last ten minutes, or was already used. "
            "Nothing was stored: connect again."
        )
        try:
            id = self._signer.unsign(state, max_age=AUTHORIZATION_TTL_S).decode() if self._signer else ""
        except BadSignature:
            raise refusal from None
        key = f"{keys.OAUTH}{id}"
        redis = self._context.ledger.redis
        encrypted = await redis.command("GET", key)
        try:
            stored = Authorization(**orjson.loads(self._keyring.decrypt(encrypted or b"", key)))
        except (UnknownKey, TamperedValue, TypeError):
            raise refusal from None
        is_own = hmac.compare_digest(stored.session, self._session_digest(session))
        if not is_own or not hmac.compare_digest(stored.source, source):
            raise refusal
        if not await redis.command("DEL", key):  # another request was faster
            raise refusal
        return stored

    def _session_digest(self, session: str) -> str:
        return hashlib.sha256(f"doorbell oauth session {session}".encode()).hexdigest()


def can_authorize(settings: Settings, source: str) -> bool:
    """Whether accounts of this tool can be connected with a log-in: an app is configured."""
    return source in settings.oauth_apps and load_sources()[source].oauth is not None


def _authorize_url(oauth: OAuth, app: OAuthApp, hook: Hook, answer: Mapping[str, str], verifier: str) -> str:
    origin = "/".join((hook.settings.api_url or "").split("/")[:3])
    parameters = {
        "response_type": "code",
        "client_id": app.client_id or "",
        **answer,
        **({"scope": " ".join(oauth.scopes)} if oauth.scopes else {}),
        **({"code_challenge": _challenge(verifier), "code_challenge_method": "S256"} if oauth.uses_pkce else {}),
        **{name: value.replace("{API_ORIGIN}", origin) for name, value in oauth.extra.items()},
    }
    url = app.authorize_url or oauth.authorize_url
    return f"{url}{'&' if '?' in url else '?'}{urlencode(parameters, quote_via=quote)}"


def _challenge(verifier: str) -> str:
    """Return the code challenge of RFC 7636, S256."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def _with_tokens(request: ConnectRequest, tokens: Mapping[str, Any]) -> ConnectRequest:
    return ConnectRequest(request.source, request.hook, {}, request.secret, request.settings, tokens)


#: What a tool may answer instead of a code (RFC 6749, 4.1.2.1); other words are not shown.
ERRORS = {
    "access_denied": "Access was denied at {title}",
    "invalid_request": "{title} does not accept the request of this app (invalid_request)",
    "unauthorized_client": "{title} does not let this app connect accounts (unauthorized_client)",
    "unsupported_response_type": "{title} does not let this app connect accounts (unsupported_response_type)",
    "invalid_scope": "{title} does not give this app the rights that Doorbell needs (invalid_scope)",
    "server_error": "{title} reports an internal error (server_error)",
    "temporarily_unavailable": "{title} is temporarily unavailable (temporarily_unavailable)",
}


def _sentence(error: str, title: str) -> str:
    return ERRORS.get(error, "{title} did not connect the account").format(title=title) + ". Nothing was stored."
