"""Checks the connections at the tools, repairs them, and catches up on what was missed."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import uniform

from app.connections.catch_up import (
    advice_about,
    can_list,
    default_since,
    failure_of,
    start_automatic,
    store_of,
)
from app.connections.connect import MAX_SECRETS, can_call, healthy_state
from app.connections.connector import (
    Connector,
    NotSubscribable,
    Subscribed,
    connection_lock,
    describe,
    match_groups,
)
from app.connections.context import CallContext
from app.connections.stored_hooks import StoredHooks
from app.connections.tool_api import CredentialsMissing
from app.connections.turns import Turns
from app.ledger.connection_states import UNHEALTHY, ConnectionState, ConnectionStates, Health, remove_connection
from app.ledger.locks import LockContended
from app.ledger.moves import moving_hooks
from app.ledger.records import NotFound
from app.operators.actions import Actions, Actor
from app.settings.model import Hook
from app.telemetry.logs import log
from app.telemetry.silence import delivery_times
from app.visits.client import RateLimited, Unauthorized, VisitsApiError
from app.webhooks.payload import Untranslatable
from app.webhooks.subscription import Refused, SubscriptionState

#: The actor of the workers' actions.
WORKER = Actor("Doorbell", "worker")
#: An expiring subscription is renewed this many checks before its end, and at least this time before it.
RENEW_CHECKS, RENEW_MIN = 4, timedelta(hours=12)
#: The time between two checks varies between these shares of `CONNECTION_CHECK_S`.
JITTER = 0.9, 1.1
#: When a tool did not answer, it is asked again after this time, if the next check is later.
RETRY_S = 60.0
#: If a check is later than this, perhaps all of Doorbell was down meanwhile, and webhooks were missed.
MAX_DELAY = timedelta(minutes=10)
#: What a check found at the tool, by the state that follows. {title}: the tool.
FINDINGS: Mapping[Health, str] = {
    "degraded": "{title} signs with a secret that this hook does not accept",
    "disabled": "{title} disabled a subscription with this URL",
    "missing": "{title} has no active subscription with this URL",
}


class Guard:
    """The step of a worker. Each connection is checked by one of many."""

    def __init__(self, context: CallContext, stored: StoredHooks, actions: Actions | None = None) -> None:
        """actions: of the person who asks for a check; by default the workers'."""
        self._context, self._stored = context, stored
        self._states = ConnectionStates(context.ledger.redis)
        self._actions = actions or Actions(context.ledger, context.settings, WORKER)
        self._turns = Turns()

    async def check_due(self) -> None:
        """Check the connections whose time has come. Raises RedisUnavailable."""
        hooks = [hook for name in self._context.settings.hooks if can_call(hook := self._context.settings.hook(name))]
        if not hooks:
            return
        states = await self._states.all()
        names = [hook.name for hook in hooks]
        moving = await moving_hooks(self._context.ledger.redis, names)
        due = [name for name in names if self._is_due(states.get(name, ConnectionState(name)))]
        await self._turns.run([name for name in due if name not in moving], self._check_alone)

    async def aclose(self) -> None:
        """Cancel what still runs."""
        await self._turns.aclose()

    async def _check_alone(self, name: str) -> None:
        with suppress(LockContended):  # another worker checks it, or a person connects it
            async with connection_lock(self._context, name, wait_s=0):
                await self._stored.refresh()  # it may just have been changed, or disconnected
                settings = self._context.settings
                if name not in settings.hooks or not can_call(hook := settings.hook(name)):
                    return
                if self._is_due(await self._states.get(name)):
                    await self.check(hook)

    def _is_due(self, state: ConnectionState) -> bool:
        """Whether its time has come. A time after the latest possible one means that the server's clock went back."""
        wait_ms = state.next_check_ms - self._now_ms()
        return not 0 < wait_ms <= 1_000 * JITTER[1] * self._context.settings.connection_check_s

    def _now_ms(self) -> int:
        return int(self._context.ledger.redis.now_ms())

    async def check_now(self, name: str) -> ConnectionState:
        """Check a connection because a person asks. Raises NotFound, NotSubscribable, LockContended."""
        settings = self._context.settings
        if name not in settings.hooks:
            raise NotFound(name, "hook")
        hook = settings.hook(name)
        if not can_call(hook):
            raise NotSubscribable(f"Doorbell cannot ask {hook.source.definition.title} about its subscriptions")
        await self._actions.record("checked connection", name)
        async with connection_lock(self._context, name):
            return await self.check(hook)

    async def check(self, hook: Hook) -> ConnectionState:
        """Ask the tool about the connection, repair it if Doorbell made it, and store its state. Run under its lock."""
        before = await self._states.get(hook.name)
        wait_s = self._context.settings.connection_check_s * uniform(*JITTER)
        try:
            after = await self._catch_up(hook, before, await self._examine(hook, before))
        except NotSubscribable as error:  # PUBLIC_URL is not set
            log.warning("connection_check_failed", hook=hook.name, reason=str(error))
            after, wait_s = replace(before, detail=str(error)), min(wait_s, RETRY_S)  # another worker may have it
        except (Unauthorized, Refused, CredentialsMissing) as error:
            before = await self._states.get(hook.name)  # a repair may have begun
            detail = describe(error, hook.source.definition.title)
            is_refused = isinstance(error, Refused)
            if is_refused and not before.is_managed:
                # It was set up by hand, and may work, although Doorbell may not manage its subscriptions.
                after = replace(before, detail=detail)  # its deliveries show whether it works
            else:
                is_unrepaired = is_refused and before.state in FINDINGS
                state: Health = before.state if is_unrepaired else "credentials_expired"
                after = replace(before, state=state, detail=detail, checked_at_ms=self._now_ms())
        except (VisitsApiError, Untranslatable) as error:
            before = await self._states.get(hook.name)
            asked_s = error.wait_s if isinstance(error, RateLimited) else None
            wait_s = min(wait_s, asked_s or RETRY_S)
            detail = describe(error, hook.source.definition.title)
            log.warning("connection_check_failed", hook=hook.name, reason=detail)
            after = replace(before, detail=detail)
        after = replace(after, next_check_ms=self._now_ms() + int(wait_s * 1000))
        await self._stored.refresh()
        if hook.name not in self._context.settings.hooks:  # it was removed meanwhile
            await remove_connection(self._context.ledger.redis, hook.name)
            return after
        await self._states.save(after)
        if after.state != before.state:
            await self._report(before, after)
        return after

    async def _report(self, before: ConnectionState, after: ConnectionState) -> None:
        log.log(
            logging.INFO if after.state == "healthy" else logging.WARNING,
            "connection_state_changed",
            hook=after.hook,
            state=after.state,
            previous_state=before.state,
            reason=after.detail,
        )
        if before.checked_at_ms:
            await self._actions.record("noticed connection state", f"{after.hook}: {after.state}")

    async def _examine(self, hook: Hook, before: ConnectionState) -> ConnectionState:
        connector = Connector(self._context, hook)
        await connector.note_new_url()
        before = await self._states.get(hook.name)
        if not connector.declaration.can_ask:
            await connector.account()  # the credentials, at least
            if before.outdated:
                return await self._repair(hook, connector, before, "missing")
            state: Health = "unverified" if before.state == "credentials_expired" else before.state
            return replace(before, state=state, detail="", checked_at_ms=self._now_ms())
        existing = await connector.own_subscriptions()
        active = [each for each in existing if each.is_active]
        accepted = [each for each in active if self._accepts(hook, connector, before, each)]
        working, missing = match_groups(connector.declaration.groups, accepted)
        if missing:
            sending, _ = match_groups(connector.declaration.groups, active)
            problem: Health = "disabled" if len(active) < len(existing) else "missing"
            return await self._repair(hook, connector, before, "degraded" if len(sending) > len(working) else problem)
        expires_at = min((each.expires_at for each in working if each.expires_at), default=None)
        if expires_at and expires_at < self._renew_before():
            return await self._renew(hook, connector, before)
        await connector.delete_outdated()
        after = self._healthy(hook, connector, before, Subscribed(tuple(working), (), ()))
        failing_since = await self._failing_since(hook, working)
        if failing_since is None:
            return after
        detail = f"{hook.source.definition.title} reports failing deliveries since {failing_since:%Y-%m-%dT%H:%M:%SZ}"
        return replace(after, state="degraded", detail=detail, healthy_at_ms=before.healthy_at_ms)

    def _accepts(
        self, hook: Hook, connector: Connector, before: ConnectionState, subscription: SubscriptionState
    ) -> bool:
        """Whether the hook has the secret of a subscription. If Doorbell did not subscribe, it is often unknown."""
        if subscription.secret:
            return subscription.secret in hook.settings.secrets
        is_ours = not before.has_new_url and connector.is_secret_accepted(before)
        return not before.is_managed or (
            is_ours and connector.has_known_secret(subscription, before.subscription_ids, before)
        )

    async def _failing_since(self, hook: Hook, working: Sequence[SubscriptionState]) -> datetime | None:
        """Return since when deliveries fail; None if one has arrived since."""
        failing_since = min((each.failing_since for each in working if each.failing_since), default=None)
        if failing_since is None:
            return None
        times = await delivery_times(self._context.ledger.redis, hook.name)
        return None if times and times[0] > failing_since.timestamp() else failing_since

    async def _repair(
        self, hook: Hook, connector: Connector, before: ConnectionState, problem: Health
    ) -> ConnectionState:
        """Subscribe again, if Doorbell had subscribed before. Its state is stored first: see `_catch_up`.

        problem: "degraded" if the tool sends what the hook rejects, because it signs with another secret.
        """
        title, is_stored = hook.source.definition.title, self._context.settings.is_stored(hook.name)
        finding = FINDINGS[problem].format(title=title)
        cannot_keep = connector.declaration.secret_from == "tool" and not is_stored
        if not before.is_managed or cannot_keep:
            advice = f"run `doorbell connect {hook.source.name} --hook {hook.name}`"
            if cannot_keep:
                create = {"disabled": "enable it there again, or create one and ", "missing": "create one there, and "}
                advice = f"{create.get(problem, '')}set HOOKS__{hook.name.upper()}__SECRETS to its secret"
            return replace(before, state=problem, detail=f"{finding}: {advice}", checked_at_ms=self._now_ms())
        log.warning("connection_lost", hook=hook.name, state=problem)
        if before.state != problem:
            await self._actions.record("noticed connection state", f"{hook.name}: {problem}")
        current = await self._states.get(hook.name)
        await self._states.save(replace(current, state=problem, detail=finding))
        subscribed = await connector.ensure_subscriptions(lasts_until=self._renew_before())
        await self._keep_secrets(hook, subscribed)
        was = "it signed with another secret" if problem == "degraded" else f"it was {problem}"
        await self._actions.record("repaired connection", f"{hook.name}: {was}")
        at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        after = self._healthy(hook, connector, before, subscribed)
        action = "was subscribed again" if subscribed.created else "its secret was stored"
        return replace(after, detail=f"{was}, and {action} at {at}")

    async def _catch_up(self, hook: Hook, before: ConnectionState, after: ConnectionState) -> ConnectionState:
        """Catch up from the last healthy moment, if the connection was unhealthy, or could not be checked for long.

        An unhealthy state is stored until a check sees it healthy: after an interrupted repair, and after one at the tool.
        """
        stored = await self._states.get(hook.name)
        was_unhealthy = after.state == "healthy" and stored.state in UNHEALTHY
        # From the last answer, not from when the check was due: the first check after a downtime may fail.
        usual = timedelta(seconds=JITTER[1] * self._context.settings.connection_check_s)
        elapsed = timedelta(milliseconds=self._now_ms() - before.checked_at_ms if before.checked_at_ms else 0)
        was_down = after.state not in UNHEALTHY and elapsed > usual + MAX_DELAY
        if not can_list(hook):
            return after
        if not (was_unhealthy or was_down):
            failure = failure_of(await store_of(self._context).get(hook.name))
            return replace(after, detail="; ".join(filter(None, (after.detail, failure))))
        since, cause = await default_since(self._context, hook.name), "repaired" if was_unhealthy else "downtime"
        log.info("catch_up_started", hook=hook.name, cause=cause, since=f"{since:%Y-%m-%dT%H:%M:%SZ}")
        catch_up = await start_automatic(self._context, hook.name, since, self._actions.actor_name, cause)
        advice = advice_about(catch_up)
        if advice:
            await self._actions.record("noticed connection state", f"{hook.name}: {after.state}, but {advice}")
        return replace(after, detail="; ".join(filter(None, (after.detail, advice))))

    async def _renew(self, hook: Hook, connector: Connector, before: ConnectionState) -> ConnectionState:
        subscribed = await connector.ensure_subscriptions(lasts_until=self._renew_before())
        await self._keep_secrets(hook, subscribed)
        await self._actions.record("renewed connection", hook.name)
        return self._healthy(hook, connector, before, subscribed)

    def _healthy(
        self, hook: Hook, connector: Connector, before: ConnectionState, subscribed: Subscribed
    ) -> ConnectionState:
        after = healthy_state(before, subscribed, self._context.settings.hook_url(hook), self._now_ms())
        return connector.with_secret(after, subscribed) if before.is_managed else after

    async def _keep_secrets(self, hook: Hook, subscribed: Subscribed) -> None:
        """Accept the secrets that the tool chose for new subscriptions, beside the old ones."""
        new = [secret for secret in subscribed.secrets if secret not in hook.settings.secrets]
        if new and self._context.settings.is_stored(hook.name):
            secrets = [*new, *hook.settings.secrets]
            await self._stored.change(hook.name, {"secrets": secrets[:MAX_SECRETS]}, self._actions)

    def _renew_before(self) -> datetime:
        early = timedelta(seconds=RENEW_CHECKS * self._context.settings.connection_check_s)
        return datetime.now(UTC) + max(early, RENEW_MIN)
