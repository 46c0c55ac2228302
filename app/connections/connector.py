"""Creates, adopts, replaces and deletes the subscriptions of a hook at its tool.

The same steps run after any interruption, and by any process: what exists at the tool with our URL is adopted, what is
missing is created, and what is left over is deleted last. Subscriptions with another URL are never touched, except those
that Doorbell had with its own earlier URL.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime

import orjson

from app.connections.context import CallContext
from app.connections.tokens import TokensUnreadable
from app.connections.tool_api import CredentialsMissing, ToolApi
from app.ledger import keys
from app.ledger.connection_states import ConnectionState, ConnectionStates, Health
from app.ledger.ids import new_token
from app.ledger.locks import LockContended, exclusive
from app.settings.model import Hook
from app.visits.client import ClientError, RateLimited, Unauthorized, VisitsApiError
from app.webhooks.fetching import RecordRequest
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.signatures.scheme import fingerprint
from app.webhooks.subscription import ApiResponse, Refused, Subscription, SubscriptionState, Target

LOCK_WAIT_S = 15.0
#: The most pages of subscriptions to read, and the longest wait after a 429.
MAX_PAGES, MAX_WAIT_S, MAX_ATTEMPTS = 20, 20.0, 4
NO_ACCOUNT = Payload(None, "account")
#: An empty set would mean that the tool does not list the events of its subscriptions.
NO_EVENTS = frozenset(("none",))
#: In these states Doorbell creates subscriptions: the response to a creation may have been lost.
CREATING: tuple[Health, ...] = ("unverified", "disabled", "missing")
#: Shorter credentials, such as the id of a site, are not secret.
MIN_SECRET_CHARS = 8


#: The state of a connection that a process without PUBLIC_URL should check.
PUBLIC_URL_MISSING = "PUBLIC_URL is not set, so Doorbell does not know which subscriptions are its own"


class NotSubscribable(Exception):
    """Doorbell cannot manage the subscriptions, for example because the tool has no API. The message is a sentence."""


#: What a step raises if the tool refuses it, and if it may succeed later. Catch the former first.
REFUSALS = (Refused, ClientError, Unauthorized, Untranslatable, CredentialsMissing, NotSubscribable)
OUTAGES = (VisitsApiError, LockContended)


@dataclass(frozen=True, slots=True)
class Subscribed:
    """What `Connector.ensure_subscriptions` did. The hook now has the adopted and the created subscriptions.

    has_sent_nothing: whether one of them is new, or was disabled.
    """

    adopted: tuple[SubscriptionState, ...]
    created: tuple[SubscriptionState, ...]
    deleted: tuple[SubscriptionState, ...]
    has_sent_nothing: bool = False

    @property
    def subscriptions(self) -> tuple[SubscriptionState, ...]:
        return self.adopted + self.created

    @property
    def secrets(self) -> tuple[str, ...]:
        """The signing secrets that the tool chose."""
        return tuple(dict.fromkeys(each.secret for each in self.subscriptions if each.secret))

    @property
    def expires_at(self) -> datetime | None:
        return min((each.expires_at for each in self.subscriptions if each.expires_at), default=None)


def connection_lock(context: CallContext, hook: str, wait_s: float | None = None) -> AbstractAsyncContextManager[None]:
    """Let only this process work on the connection of a hook. Raises LockContended after wait_s (LOCK_WAIT_S)."""
    name = f"{keys.CONNECTIONS}:{hook}:lock"
    return exclusive(context.ledger, name, LOCK_WAIT_S if wait_s is None else wait_s)


class Connector:
    """The subscriptions of one hook. Run its methods under `connection_lock`.

    They raise Refused, VisitsApiError, CredentialsMissing, NotSubscribable, LockContended, RedisUnavailable.
    """

    def __init__(self, context: CallContext, hook: Hook) -> None:
        self._context, self._hook = context, hook
        self._states = ConnectionStates(context.ledger.redis)
        self._account: Payload | None = None
        self.calls: list[list[object]] = []

    @property
    def _url(self) -> str:
        """The URL of the hook. Without PUBLIC_URL it has no host, and working subscriptions would look outdated."""
        if not self._context.settings.public_url:
            raise NotSubscribable(PUBLIC_URL_MISSING)
        return self._context.settings.hook_url(self._hook)

    @property
    def declaration(self) -> Subscription:
        if not (declaration := self._hook.source.subscription):
            raise NotSubscribable(f"{self._hook.source.definition.title} has no API for subscriptions")
        return declaration

    async def account(self) -> Payload:
        """Return the account of the credentials. Raises Refused if it cannot have webhooks."""
        if self._account is None:
            request = self.declaration.account
            self._account = await self.call(request) if request else NO_ACCOUNT
            self.declaration.check_account(self._account)
        return self._account

    async def own_subscriptions(self) -> list[SubscriptionState]:
        """Return the subscriptions with our URL; without a list at the tool, those that are stored."""
        url = self._url
        if not self.declaration.can_ask:
            state = await self._states.get(self._hook.name)
            return [SubscriptionState(id, state.url) for id in state.subscription_ids if state.url == url]
        return await self._listed(lambda each: same_url(each.url, url))

    async def _listed(self, is_own: Callable[[SubscriptionState], bool]) -> list[SubscriptionState]:
        """Return those of the tool's subscriptions that are ours."""
        assert self.declaration.list
        assert self.declaration.read_list
        own, request = list[SubscriptionState](), self.declaration.list(await self.account())
        for _ in range(MAX_PAGES):
            page = self.declaration.read_list(request, await self.call(request))
            own += filter(is_own, page.subscriptions)
            if page.next is None:
                break
            request = page.next
        return [each for subscription in own if (each := await self._with_events(subscription))]

    async def _with_events(self, subscription: SubscriptionState) -> SubscriptionState | None:
        """Return the subscription with its events, if the tool lists them separately; None if others also use it."""
        if not self.declaration.list_events or not self.declaration.read_events:
            return subscription
        account = await self.account()
        response = await self.call(self.declaration.list_events(subscription.id, account))
        events = self.declaration.read_events(response, account)
        return None if events is None else replace(subscription, events=events or NO_EVENTS)

    async def ensure_subscriptions(
        self,
        *,
        is_secret_new: bool = False,
        newest_secret: bool = False,
        lasts_until: datetime | None = None,
        are_lost: bool = False,
    ) -> Subscribed:
        """Make the subscriptions of the hook what they should be.

        is_secret_new: the secret is younger than the subscriptions that may exist, so that none of them signs with it.
        newest_secret: replace those that sign with an older secret, though it is still accepted.
        lasts_until: subscriptions that expire before this time are renewed, or replaced.
        are_lost: the tool cannot say whether it still has those that are stored, and seems to have lost them: they are
            replaced. It may refuse a second one, so they are deleted first.
        """
        await self.note_new_url()
        existing = await self.own_subscriptions()
        state = await self._states.get(self._hook.name)
        own_ids = state.subscription_ids
        if state.has_new_url or not self.is_secret_accepted(state, newest_secret=newest_secret):
            own_ids, is_secret_new = (), True
        existing = [await self._renew(each, lasts_until) for each in existing]
        usable = [
            each
            for each in existing
            if not are_lost
            and self._is_usable(each, own_ids, state, is_secret_new)
            and not _expires_before(each, lasts_until)
        ]
        usable.sort(key=lambda each: each.id not in own_ids)  # others may have another secret
        matching, missing = match_groups(self.declaration.groups, usable)
        adopted = [await self._activate(each) for each in matching]
        leftover = [each for each in existing if each not in matching]
        deletes_first = bool(missing) and (self.declaration.is_url_unique or are_lost)
        if deletes_first:
            await self.delete(leftover)
        if missing and self.declaration.is_event_unique:
            leftover += await self.delete_outdated()
        created = list[SubscriptionState]()
        for group in missing:
            created.append(await self._create(group))
            await self._remember([*adopted, *created], leftover)
        leftover = [each for each in leftover if each.id not in {new.id for new in created}]
        if not deletes_first:
            await self.delete(leftover)
        leftover += await self.delete_outdated()
        has_sent_nothing = bool(created) or not all(each.is_active for each in matching)
        return Subscribed(tuple(adopted), tuple(created), tuple(leftover), has_sent_nothing)

    async def remove(self) -> list[str]:
        """Delete our subscriptions, and return their ids."""
        await self.note_new_url()
        own = await self.own_subscriptions()
        await self.delete(own)
        return [each.id for each in [*own, *await self.delete_outdated()]]

    # -- after a change of the URL --

    async def note_new_url(self) -> None:
        """If the URL of the hook has changed, note which of our subscriptions have the earlier one."""
        new_url, state = self._url, await self._states.get(self._hook.name)
        if not state.is_managed or not state.url or same_url(state.url, new_url):
            return
        outdated = {**dict(state.outdated), **dict.fromkeys(state.subscription_ids, state.url)}
        current = tuple(id for id, url in outdated.items() if same_url(url, new_url))  # it has changed back
        others = tuple((id, url) for id, url in outdated.items() if id not in current)
        await self._states.save(replace(state, url=new_url, subscription_ids=current, outdated=others))

    async def delete_outdated(self) -> list[SubscriptionState]:
        """Delete our subscriptions with an earlier URL, now that others work. Return those that the tool still had."""
        state = await self._states.get(self._hook.name)
        outdated = {
            id: url for id, url in state.outdated if id not in state.subscription_ids
        }  # an id may have a new URL
        own = [SubscriptionState(id, url) for id, url in outdated.items()]
        if own and self.declaration.can_ask:
            own = await self._listed(lambda each: each.id in outdated and same_url(each.url, outdated[each.id]))
        await self.delete(own)
        if state.outdated:
            await self._states.save(replace(state, outdated=()))
        return own

    def _is_usable(
        self, subscription: SubscriptionState, own_ids: Sequence[str], state: ConnectionState, is_secret_new: bool
    ) -> bool:
        """Whether it can be active, and the hook can verify what it sends."""
        if not subscription.is_active and not self.declaration.reactivate:
            return False
        if self.declaration.secret_from in ("credential", "person") or subscription.secret:
            return True
        if self._has_secret_in_url:
            return True
        if not self._hook.settings.secrets or not self.has_known_secret(subscription, own_ids, state):
            return False
        return subscription.id in own_ids or not is_secret_new

    def has_known_secret(self, subscription: SubscriptionState, own_ids: Sequence[str], state: ConnectionState) -> bool:
        """Whether the hook may have its secret: not that of a subscription that somebody else created with our URL.

        One that Doorbell created is unknown to it if the response was lost. It has our secret, but one that the tool chose
        was lost with the response.
        """
        if not own_ids or subscription.id in own_ids or subscription.secret:
            return True
        if self.declaration.secret_from == "tool":
            return False
        return not self._signs_with_own_secret or state.state in CREATING

    def is_secret_accepted(self, state: ConnectionState, *, newest_secret: bool = False) -> bool:
        """Whether the hook accepts the secret with which its subscriptions sign: it may have been rotated."""
        secrets = self._hook.settings.secrets
        if not state.secret_fingerprint or not self._signs_with_own_secret:
            return True
        return state.secret_fingerprint in self._fingerprints(secrets[:1] if newest_secret else secrets)

    def with_secret(self, state: ConnectionState, subscribed: Subscribed) -> ConnectionState:
        """Note with which secret the subscriptions sign."""
        secret_keys, secrets = self._context.settings.secret_key, self._hook.settings.secrets
        if not self._signs_with_own_secret or not secret_keys or not secrets:
            return state
        signing = secrets[0]
        if not subscribed.created:
            signing = self._fingerprints(secrets).get(state.secret_fingerprint, signing)
        return replace(state, secret_fingerprint=fingerprint(signing, secret_keys))

    def _fingerprints(self, secrets: Sequence[str]) -> dict[str, str]:
        """Return secrets by fingerprint, with every key of SECRET_KEY: it may have been rotated too."""
        secret_keys = self._context.settings.secret_key
        return {fingerprint(secret, [key]): secret for secret in secrets for key in secret_keys}

    @property
    def _signs_with_own_secret(self) -> bool:
        return self.declaration.secret_from == "doorbell" and not self._has_secret_in_url

    @property
    def _has_secret_in_url(self) -> bool:
        return self._hook.source.definition.signature.needs_secret_key

    async def _create(self, events: Sequence[str]) -> SubscriptionState:
        secret = "" if self.declaration.secret_from == "tool" else next(iter(self._hook.settings.secrets), "")
        target = Target(self._url, secret, self._hook.name, new_token())
        request = self.declaration.create(target, await self.account(), events)
        response = await self.call(request)
        if not self.declaration.read_created:
            return await self._find(events)
        created = await self._activate(self.declaration.read_created(response))
        if self.declaration.add_event:
            for event in events:
                await self.call(self.declaration.add_event(created.id, event, await self.account()))
        return created

    async def _find(self, events: Sequence[str]) -> SubscriptionState:
        """Return the new subscription as the tool lists it. Raises Refused if it does not."""
        own = [each for each in await self.own_subscriptions() if each.is_active and each.events >= set(events)]
        if not own:
            title = self._hook.source.definition.title
            raise Refused(f"{title} does not list the subscription to {', '.join(events)} that it accepted.")
        return own[-1]

    async def _activate(self, subscription: SubscriptionState) -> SubscriptionState:
        if subscription.is_active or not self.declaration.reactivate:
            return subscription
        await self.call(self.declaration.reactivate(subscription.id, await self.account()))
        return replace(subscription, is_active=True)

    async def _renew(self, subscription: SubscriptionState, lasts_until: datetime | None) -> SubscriptionState:
        """Prolong a subscription that expires before this time, if the tool can."""
        if not self.declaration.renew or not _expires_before(subscription, lasts_until):
            return subscription
        await self.call(self.declaration.renew(subscription.id, await self.account()))
        return replace(subscription, expires_at=None)

    async def delete(self, subscriptions: Iterable[SubscriptionState]) -> None:
        for each in subscriptions:
            request = self.declaration.delete(each.id, await self.account())
            if request is None:
                continue
            try:
                await self.call(request)
            except ClientError as error:
                if error.status not in (404, 410):  # it is gone
                    raise

    async def _remember(self, own: Sequence[SubscriptionState], leftover: Sequence[SubscriptionState]) -> None:
        """Store the ids after each creation: those that the tool cannot list, or whose secrets the hook has."""
        if self.declaration.can_ask and self.declaration.secret_from == "tool":
            return  # the secret is stored later, and then the id
        state = await self._states.get(self._hook.name)
        ids = tuple(dict.fromkeys(each.id for each in (own if self.declaration.can_ask else [*own, *leftover])))
        await self._states.save(replace(state, subscription_ids=ids, url=self._url))

    async def call(self, request: RecordRequest) -> ApiResponse:
        """Return the response. Wait after a 429; turn a refusal into a sentence."""
        api = ToolApi(self._context, self._hook, self.calls)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                return await api.call(request)
            except RateLimited as limited:
                wait_s = limited.wait_s if limited.wait_s is not None else 2.0 * attempt
                if attempt == MAX_ATTEMPTS or wait_s > MAX_WAIT_S:
                    raise
                await asyncio.sleep(wait_s)
            except (ClientError, Unauthorized) as error:
                error.response_text = self._without_secrets(error.response_text)
                if sentence := self._refusal(error):
                    raise Refused(sentence) from error
                raise
        raise AssertionError("unreachable")

    def _without_secrets(self, text: str) -> str:
        """Hide the parts of a request that a tool repeats: the text is shown, and stored."""
        settings = self._hook.settings
        for secret in filter(None, (*settings.credentials.values(), *settings.secrets)):
            text = text.replace(secret, "•••") if len(secret) >= MIN_SECRET_CHARS else text
        return text

    def _refusal(self, error: ClientError | Unauthorized) -> str | None:
        """Return the sentence for a refused request; None if there is no better one than the tool's own."""
        declaration, response = self._hook.source.subscription, _parse(error.response_text)
        try:
            return declaration.refusal(error.status or 0, response) if declaration else None
        except Untranslatable:
            return None


def match_groups(
    groups: Sequence[Sequence[str]], existing: Sequence[SubscriptionState]
) -> tuple[list[SubscriptionState], list[Sequence[str]]]:
    """Return a subscription for each group of events, active ones first, and the groups without one.

    A tool that does not list the events of a subscription sends all of them.
    """
    free, matched, missing = (
        sorted(existing, key=lambda each: not each.is_active),
        list[SubscriptionState](),
        list[Sequence[str]](),
    )
    for group in groups:
        suitable = next((each for each in free if not each.events or each.events >= set(group)), None)
        if suitable is None:
            missing.append(group)
        else:
            free.remove(suitable)
            matched.append(suitable)
    return matched, missing


def _expires_before(subscription: SubscriptionState, time: datetime | None) -> bool:
    return bool(time and subscription.expires_at and subscription.expires_at < time)


def same_url(one: str, other: str) -> bool:
    return one.rstrip("/") == other.rstrip("/")


def _parse(text: str) -> Payload:
    try:
        return Payload(orjson.loads(text))
    except ValueError:
        return Payload(None)


def describe(error: Exception, title: str) -> str:
    """Return the sentence for a failed step. The quoted response of the tool has no personal data of customers."""
    match error:
        case Refused() | NotSubscribable():
            return str(error)
        case CredentialsMissing():
            return f"credentials are missing: {error}"
        case LockContended():
            return "another process works on this connection: try again in a minute"
        case Untranslatable():
            return f"{title} answered in a form that is not documented: {error}"
        case TokensUnreadable():
            return f"{title} cannot be asked: {error.response_text}"
        case Unauthorized():
            status = f" ({error.status})" if error.status else ""
            return f"{title} rejects the credentials{status}: {_quote(error.response_text)}"
        case ClientError():
            return f"{title} refuses the request {error.call} ({error.status or 'not sent'}): {_quote(error.response_text)}"
    return f"{title} cannot be reached: {error}"


#: Where error responses have their message.
MESSAGES = (
    ("message",),
    ("error_description",),
    ("error", "message"),
    ("Error", "Message"),
    ("detail",),
    ("title",),
    ("error",),
)


def _quote(text: str) -> str:
    """Return the message in an error response, else its text."""
    parsed = _parse(text)
    if isinstance(errors := parsed.at("errors").value, list) and errors:  # Square, GraphQL
        parsed = Payload(errors[0])
    for path in MESSAGES:
        if isinstance(value := parsed.at(*path).value, str) and value:
            return value[:300]
    text = " ".join(text.split())[:300]
    return text if text not in ("", "null", "{}", "[]") else "no explanation"
