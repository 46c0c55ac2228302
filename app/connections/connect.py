"""Connects and disconnects a tool: the hook, its subscriptions at the tool, and the state of the connection."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from secrets import token_urlsafe
from typing import Any

from app.connections.catch_up import advice_about, can_list, default_since, start_automatic, store_of
from app.connections.connector import Connector, Subscribed, connection_lock, describe
from app.connections.context import CallContext, ToolContext
from app.connections.stored_hooks import StoredHooks
from app.connections.tokens import tokens_of
from app.ledger import keys
from app.ledger.connection_states import ConnectionState, ConnectionStates, remove_connection
from app.ledger.ids import is_listed
from app.ledger.ledger import Ledger
from app.ledger.records import NotFound
from app.operators.actions import Actions
from app.operators.setup_steps import is_secret_generated, new_secret
from app.settings.environment import Problem, SettingsError
from app.settings.model import Hook, HookSettings, Settings
from app.settings.stored import SECRET_KEY_MISSING, build_hook, change_hook, hook_problems
from app.telemetry.connections import load_connection
from app.visits.client import ClientError, Unauthorized
from app.webhooks.payload import Payload
from app.webhooks.registry import load_sources
from app.webhooks.source import LoadedSource
from app.webhooks.subscription import Refused, Subscription

FIRST_DELIVERY_POLL_S = 0.5
#: Secrets of replaced subscriptions are still accepted for a while; older ones are not.
MAX_SECRETS = 6
#: How many deliveries are searched for the first webhook: an import may have stored many before it.
MAX_DELIVERIES, DELIVERIES_PER_CALL = 20_000, 1_000
#: The credentials of a hook that an authorization with OAuth replaces.
OAUTH_CREDENTIALS = ("TOKEN", "CLIENT_ID", "CLIENT_SECRET", "REFRESH_TOKEN")


class OtherAccount(Refused):
    """The credentials are those of another account of the tool than that of the hook. Nothing was stored."""


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """What a person enters to connect a tool.

    hook: the name of the hook. secret: the signing secret, if the tool chose it on a page. settings: further settings of the
    hook: account, api_url, timezone, … tokens: from an authorization with OAuth, instead of credentials.
    """

    source: str
    hook: str
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret: str = field(default="", repr=False)
    settings: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Connected:
    """A connected hook.

    subscribed: None if the tool has no API for subscriptions, so that a person does the steps. refusal: why this account
    cannot use that API. new_secret: the secret that this person enters at the tool, if it was just generated.
    is_importing: a worker will store the upcoming appointments. advice: what it does not store of the past; or empty.
    """

    hook: Hook
    url: str
    account_name: str = ""
    account_id: str = ""
    subscribed: Subscribed | None = None
    new_secret: str = field(default="", repr=False)
    is_importing: bool = False
    advice: str = ""
    refusal: str = ""


def check_connectable(settings: Settings, source: str, hook: str) -> None:
    """Raise SettingsError if no tool, or not this one, can be connected as this hook."""
    problems = []
    if source not in load_sources():
        problems.append(Problem("SOURCE", f"there is no source {source}"))
    if not settings.public_url:
        rule = "is required: the tool sends its webhooks there"
        problems.append(Problem("PUBLIC_URL", rule, fix="Set it to the URL of this Doorbell."))
    if hook in settings.hooks and (other := settings.source_for(hook).name) != source:
        problems.append(Problem("NAME", f"the hook {hook} is one of {other}", fix="Use another name."))
    if not settings.secret_key and hook not in settings.environment_hooks:
        problems.append(SECRET_KEY_MISSING)
    if problems:
        raise SettingsError(problems)


class Connections:
    """Connects and disconnects hooks. The methods raise what Connector raises, and SettingsError."""

    def __init__(self, context: CallContext, stored: StoredHooks, actions: Actions) -> None:
        self._context, self._stored, self._actions = context, stored, actions
        self._states = ConnectionStates(context.ledger.redis)

    async def connect(self, request: ConnectRequest) -> Connected:
        """Store the hook, and subscribe at the tool. Safe to run again: what exists is adopted."""
        self.check(request)
        async with connection_lock(self._context, request.hook):
            return await self._connect(request)

    def check(self, request: ConnectRequest) -> Hook:
        """Return the hook as it will be. Raises SettingsError."""
        settings = self._context.settings
        check_connectable(settings, request.source, request.hook)
        return _as_hook(settings, request.hook, self._wanted(request))

    def _wanted(self, request: ConnectRequest) -> HookSettings:
        if request.hook in self._context.settings.environment_hooks:
            return self._environment_hook(request)
        before = self._context.settings.stored_hooks.get(request.hook)
        return _with_request(before, request, load_sources()[request.source])

    async def _connect(self, request: ConnectRequest) -> Connected:
        settings, name, source = self._context.settings, request.hook, load_sources()[request.source]
        is_environment = name in settings.environment_hooks
        before = settings.environment_hooks.get(name) or settings.stored_hooks.get(name)
        wanted = self._wanted(request)
        hook = _as_hook(settings, name, wanted)
        if before is None and name not in self._stored.names:  # which include those that cannot be used
            await remove_connection(self._context.ledger.redis, name)  # of a hook that has left the environment
        url = settings.hook_url(hook)
        if hook.source.definition.token_exchange and not request.tokens:
            await tokens_of(self._context, hook).forget_failures()
        connector = Connector(_with_hook(self._context, name, wanted), _with_access_token(hook, request.tokens))
        account_name, account_id = await self._check_account(connector, request, source)
        await self._store(request, before, wanted, is_environment)
        if not source.subscription:
            connected = Connected(hook, url, account_id=account_id, new_secret=_secret_to_enter(before, request, hook))
            return await self._by_hand(connected, request)
        is_secret_new = before is None or not before.secrets
        try:
            subscribed = await connector.ensure_subscriptions(
                is_secret_new=is_secret_new,
                newest_secret=True,
                are_lost=await self._are_lost(request, source.subscription),
            )
        except (Refused, ClientError, Unauthorized) as error:
            if source.subscription.is_by_hand_if_refused:
                refusal = describe(error, source.definition.title)
                secret = _secret_to_enter(before, request, hook)
                connected = Connected(hook, url, account_name, account_id, refusal=refusal, new_secret=secret)
                return await self._by_hand(connected, request)
            if before is None and not (await self._states.get(name)).subscription_ids:
                await self._stored.remove(name, self._actions)
            raise
        if is_environment and not set(subscribed.secrets) <= set(hook.settings.secrets):
            await connector.delete(subscribed.created)
            raise SettingsError([_secret_in_environment(hook)])
        hook = await self._keep_secrets(hook, wanted, subscribed)
        last_state = await self._states.get(name)
        since = await default_since(self._context, name)
        now_ms = self._context.ledger.redis.now_ms()
        state = connector.with_secret(healthy_state(last_state, subscribed, url, now_ms, account_name), subscribed)
        account_id = account_id or last_state.account_id
        connected = Connected(hook, url, account_name, account_id, subscribed)
        if can_list(hook) and (last_state.state != "healthy" or subscribed.has_sent_nothing):
            # Started before the state is healthy: if this process ends now, the next one starts it.
            await self._states.save(replace(last_state, connected_at_ms=state.connected_at_ms))
            connected = await self._import(connected, since)
        await self._states.save(replace(state, connected_by=self._actions.actor_name, account_id=account_id))
        await self._actions.record("connected tool", f"{name}: {_summary(subscribed)}")
        return connected

    async def _are_lost(self, request: ConnectRequest, declaration: Subscription) -> bool:
        """Whether the tool seems to have lost the subscriptions of the hook: it cannot be asked, and the hook is silent.

        A log-in is for an app that was removed at the tool, perhaps with its subscriptions.
        """
        settings, name = self._context.settings, request.hook
        if declaration.can_ask or name not in settings.hooks:
            return False
        connection = await load_connection(self._context.ledger.redis, settings, name)
        return connection.is_silent or connection.state == "credentials_expired" or request.tokens is not None

    async def _by_hand(self, connected: Connected, request: ConnectRequest) -> Connected:
        """Store the connection of a hook whose webhooks a person sets up, and import the upcoming appointments.

        They are imported once, and after each log-in: the one before it may have ended long ago. The connection is not
        managed: workers do not try to subscribe again.
        """
        hook, now_ms = connected.hook, int(self._context.ledger.redis.now_ms())
        state = await self._states.get(hook.name)
        await self._actions.record("connected tool", f"{hook.name}: by hand")
        # Without a catch-up, the process ended before it started one.
        was_connected = bool(state.connected_at_ms and await store_of(self._context).stored_id(hook.name))
        account_id = connected.account_id or state.account_id
        state = replace(state, detail=connected.refusal, account_id=account_id)
        if not can_list(hook) or (was_connected and request.tokens is None):
            await self._states.save(state)
            return connected
        connected_at_ms = state.connected_at_ms or now_ms
        await self._states.save(replace(state, account_name=connected.account_name, connected_at_ms=connected_at_ms))
        return await self._import(connected, await default_since(self._context, hook.name))

    async def _import(self, connected: Connected, since: datetime) -> Connected:
        """Let a worker store the upcoming appointments, and what was missed since then."""
        actor = self._actions.actor_name
        catch_up = await start_automatic(self._context, connected.hook.name, since, actor, "connected")
        return replace(connected, is_importing=True, advice=advice_about(catch_up))

    async def _check_account(
        self, connector: Connector, request: ConnectRequest, source: LoadedSource
    ) -> tuple[str, str]:
        """Return name and id of the account of the credentials. Raises OtherAccount if the hook has another one."""
        account_name, account = "", Payload(None, "account")
        if source.subscription:
            account = await connector.account()
            account_name = source.subscription.account_name(account)
        elif request.tokens and source.oauth and source.oauth.account:
            account = await connector.call(source.oauth.account)
        account_id, before = (
            source.oauth.account_id(account) if source.oauth else "",
            await self._states.get(request.hook),
        )
        if before.account_id and account_id and account_id != before.account_id:
            raise OtherAccount(_other_account(before, account_name, account_id, source.definition.title))
        return account_name, account_id

    async def _store(
        self, request: ConnectRequest, before: HookSettings | None, wanted: HookSettings, is_environment: bool
    ) -> None:
        if request.tokens:
            hook = _as_hook(self._context.settings, request.hook, wanted)
            await tokens_of(self._context, hook).replace(request.tokens)
        if not is_environment and wanted != before:
            await self._stored.save(request.hook, wanted, self._actions)

    async def _keep_secrets(self, hook: Hook, stored: HookSettings, subscribed: Subscribed) -> Hook:
        """Store the secrets that the tool chose."""
        secrets = subscribed.secrets
        if not secrets or set(secrets) <= set(hook.settings.secrets):
            return hook
        valid = () if all(each.secret for each in subscribed.adopted) else stored.secrets
        wanted = change_hook(stored, {"secrets": list(dict.fromkeys([*secrets, *valid]))})
        await self._stored.save(hook.name, wanted, self._actions)
        return _as_hook(self._context.settings, hook.name, wanted)

    def _environment_hook(self, request: ConnectRequest) -> HookSettings:
        hook = self._context.settings.environment_hooks[request.hook]
        differing = {name for name, value in request.credentials.items() if hook.credentials.get(name) != value}
        differing |= {"credentials"} if request.tokens is not None else set()
        differing |= {name for name, value in request.settings.items() if getattr(hook, name) != value}
        if differing or (request.secret and request.secret not in hook.secrets):
            rule = f"the hook {request.hook} is set in the environment"
            fix = f"Change its variables HOOKS__{request.hook.upper()}__…, or connect another name with --hook."
            raise SettingsError([Problem(", ".join(sorted(differing)) or "SECRET", rule, fix=fix)])
        return hook

    async def disconnect(self, name: str) -> list[str]:
        """Delete our subscriptions at the tool, and the stored hook. Return the ids of the subscriptions.

        A hook of the environment stays. Raises NotFound for an unknown hook.
        """
        settings = self._context.settings
        if name not in settings.hooks:
            raise NotFound(name, "hook")
        async with connection_lock(self._context, name):
            hook, ids = settings.hook(name), list[str]()
            if can_call(hook):
                ids = await Connector(self._context, hook).remove()
            await self._actions.record(
                "disconnected tool",
                f"{name}: {len(ids)} {'subscription' if len(ids) == 1 else 'subscriptions'} deleted",
            )
            await remove_connection(self._context.ledger.redis, name)
            if settings.is_stored(name):
                await self._stored.remove(name, self._actions)
        return ids


def can_call(hook: Hook) -> bool:
    """Whether subscriptions of this hook can be managed: the tool has an API for them, and the hook has its credentials."""
    declaration, configured = hook.source.subscription, hook.settings.credentials
    if declaration and declaration.credentials:
        return set(declaration.credentials) <= configured.keys()
    return declaration is not None and not hook.source.definition.missing_credentials(configured)


def needs_copied_secret(source: LoadedSource) -> bool:
    """Whether a person copies the signing secret from a page of the tool."""
    if source.subscription:
        return source.subscription.secret_from == "person"
    return not is_secret_generated(source)


def _with_request(before: HookSettings | None, request: ConnectRequest, source: LoadedSource) -> HookSettings:
    """Return the hook with the values from the person, and with a secret if neither the tool nor the person chooses one."""
    hook = before or build_hook({} if request.hook == request.source else {"source": request.source})
    hook = change_hook(hook, {**request.settings, **_credentials(hook, request)})
    subscription = source.subscription
    if request.secret:
        # Subscriptions that were made with a token sign with the secret of that time.
        old = [secret for secret in hook.secrets if secret != request.secret] if request.tokens is not None else []
        return change_hook(hook, {"secrets": [request.secret, *old[: MAX_SECRETS - 1]]})
    if subscription and subscription.secret_from == "credential":
        secret = hook.credentials.get(subscription.secret_credential)
        return change_hook(hook, {"secrets": [secret] if secret else []})
    if hook.secrets:
        return hook
    if subscription and (secret := hook.credentials.get(subscription.secret_credential)):
        return change_hook(hook, {"secrets": [secret]})
    if subscription and subscription.secret_from == "tool":
        # A hook without a secret does not exist, and the tool may try its URL before it sends the secret.
        return change_hook(hook, {"secrets": [token_urlsafe(32)]}) if source.definition.handshake else hook
    if generated := new_secret(source.definition):
        return change_hook(hook, {"secrets": [generated]})
    rule = f"is required: {source.definition.title} shows it where its webhooks are set up"
    raise SettingsError([Problem("SECRET", rule, fix=f"See `doorbell sources {source.name}`.")])


def _other_account(state: ConnectionState, name: str, id: str, title: str) -> str:
    """Return the sentences about an account that is not that of the hook. Its id tells accounts of one name apart."""
    other, own = name or id, state.account_name or state.account_id
    if other == own:
        other, own = f"{other} ({id})", f"{own} ({state.account_id})"
    return (
        f"The account {other} of {title} is not that of the hook {state.hook}, which is {own}. Nothing was changed. Connect "
        f"with {own}; or connect the other account as a hook with another name; or, if it replaces the first account, "
        "disconnect this hook first."
    )


def _secret_in_environment(hook: Hook) -> Problem:
    rule = f"{hook.source.definition.title} chooses another secret for a new subscription than this hook has"
    fix = "Remove the variables of this hook, and connect it again: then the secret is stored."
    return Problem(f"HOOKS__{hook.name.upper()}__SECRETS", rule, fix=fix)


def _secret_to_enter(before: HookSettings | None, request: ConnectRequest, hook: Hook) -> str:
    """Return the secret that was just generated; empty if it is in the URL of the hook."""
    if request.secret or (before and before.secrets) or hook.source.definition.signature.needs_secret_key:
        return ""
    return next(iter(hook.settings.secrets), "")


def _credentials(hook: HookSettings, request: ConnectRequest) -> dict[str, Any]:
    """Return the settings of the hook for what authenticates it: tokens, or else credentials."""
    if request.tokens is not None:
        others = {name: value for name, value in hook.credentials.items() if name not in OAUTH_CREDENTIALS}
        return {"uses_oauth": True, "credentials": others}
    uses_oauth = hook.uses_oauth and not request.credentials
    return {"uses_oauth": uses_oauth, "credentials": {**hook.credentials, **request.credentials}}


def _with_access_token(hook: Hook, tokens: Mapping[str, Any] | None) -> Hook:
    """Return the hook with its new access token as a credential, for the calls that connect it."""
    if not tokens:
        return hook
    credentials = {**hook.settings.credentials, "TOKEN": tokens["token"]}
    return replace(hook, settings=hook.settings.model_copy(update={"credentials": credentials}))


def _as_hook(settings: Settings, name: str, wanted: HookSettings) -> Hook:
    """Return the hook as it will be. Raises SettingsError."""
    if name in settings.environment_hooks:
        return settings.hook(name)
    if problems := hook_problems(settings, name, wanted):
        raise SettingsError(problems)
    return settings.with_stored_hooks({**settings.all_stored_hooks, name: wanted}).hook(name)


def _with_hook(context: CallContext, name: str, wanted: HookSettings) -> CallContext:
    """Return the context of calls for a hook that may not be stored yet."""
    settings = context.settings.with_stored_hooks({**context.settings.all_stored_hooks, name: wanted})
    return ToolContext(settings, context.ledger, context.http, context.locks, context.token_exchanges)


def _summary(subscribed: Subscribed) -> str:
    counts = {
        "created": len(subscribed.created),
        "adopted": len(subscribed.adopted),
        "deleted": len(subscribed.deleted),
    }
    return ", ".join(f"{count} {action}" for action, count in counts.items() if count)


def healthy_state(
    before: ConnectionState, subscribed: Subscribed, url: str, now_ms: float, account_name: str = ""
) -> ConnectionState:
    """Return the state of a connection whose subscriptions have just been seen to be active.

    now_ms: by the clock that all processes share. Subscriptions with an earlier URL are deleted.
    """
    now_ms, expires_at = int(now_ms), subscribed.expires_at
    return replace(
        before,
        state="healthy",
        subscription_ids=tuple(each.id for each in subscribed.subscriptions),
        url=url,
        account_name=account_name or before.account_name,
        detail="",
        connected_at_ms=before.connected_at_ms or now_ms,
        checked_at_ms=now_ms,
        healthy_at_ms=now_ms,
        outdated=(),
        expires_at_ms=int(expires_at.timestamp() * 1000) if expires_at else 0,
    )


async def find_first_delivery(ledger: Ledger, hook: str, since_ms: int) -> str:
    """Return the id of the first webhook since since_ms; empty if there is none. Listed appointments are not webhooks."""
    for start in range(0, MAX_DELIVERIES, DELIVERIES_PER_CALL):
        limit = ("LIMIT", start, DELIVERIES_PER_CALL)
        ids = await ledger.redis.command("ZRANGEBYSCORE", f"{keys.DELIVERIES}{hook}", since_ms, "+inf", *limit)
        if webhook := next((id.decode() for id in ids if not is_listed(id.decode())), ""):
            return webhook
        if len(ids) < DELIVERIES_PER_CALL:
            break
    return ""


async def first_delivery(ledger: Ledger, hook: str, since_ms: int, timeout_s: float) -> str:
    """Wait for a webhook that arrives after since_ms, and return its id; empty if none arrives in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        webhook = await find_first_delivery(ledger, hook, since_ms)
        if webhook or time.monotonic() > deadline:
            return webhook
        await asyncio.sleep(FIRST_DELIVERY_POLL_S)
