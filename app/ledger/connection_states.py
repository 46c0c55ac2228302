"""The state of every connection: what Doorbell last saw at the tool of a hook."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import orjson

from app.ledger import keys
from app.ledger.catch_ups import remove_catch_ups
from app.ledger.redis import Redis

#: MEANINGS explains them.
Health = Literal["healthy", "unverified", "degraded", "disabled", "missing", "credentials_expired"]
HEALTH: tuple[Health, ...] = get_args(Health)
#: The tool sends nothing, or soon will not, until somebody acts.
BROKEN: tuple[Health, ...] = ("disabled", "missing", "credentials_expired")
UNHEALTHY: tuple[Health, ...] = ("degraded", *BROKEN)


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """A connection. Times are in ms since 1970; 0 for never.

    subscription_ids: the tool's ids of our subscriptions. url: the URL that they call. account_name: the tool's account.
    account_id: its id, if an account may log in. detail: a sentence. connected_by: who connected it; empty if it was only
    checked. checked_at_ms: when the tool last answered.
    healthy_at_ms: when it was last healthy. next_check_ms: when a worker checks it next. expires_at_ms: when a
    subscription ends unless it is renewed. secret_fingerprint: of the secret with which subscriptions sign that Doorbell
    created with one of its own; empty if that is unknown. outdated: ids and URLs of our subscriptions with an earlier URL,
    which are deleted when those with the present one work.
    """

    hook: str
    state: Health = "unverified"
    subscription_ids: tuple[str, ...] = ()
    url: str = ""
    account_name: str = ""
    account_id: str = ""
    detail: str = ""
    connected_by: str = ""
    connected_at_ms: int = 0
    checked_at_ms: int = 0
    healthy_at_ms: int = 0
    next_check_ms: int = 0
    expires_at_ms: int = 0
    secret_fingerprint: str = ""
    outdated: tuple[tuple[str, str], ...] = ()

    @property
    def is_managed(self) -> bool:
        """Whether Doorbell created or adopted its subscriptions, so that it may create them again."""
        return bool(self.connected_by)

    @property
    def has_new_url(self) -> bool:
        """Whether all subscriptions of Doorbell have an earlier URL: it did not create the one with the present URL."""
        return bool(self.outdated) and not self.subscription_ids


class ConnectionStates:
    """Reads and writes them. Every method may raise RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def all(self) -> dict[str, ConnectionState]:
        flat = await self._redis.command("HGETALL", keys.CONNECTIONS)
        return {hook.decode(): _decode(hook, value) for hook, value in zip(flat[::2], flat[1::2], strict=True)}

    async def get(self, hook: str) -> ConnectionState:
        """Return the state; the default one if the hook has none."""
        value = await self._redis.command("HGET", keys.CONNECTIONS, hook)
        return _decode(hook.encode(), value) if value else ConnectionState(hook)

    async def save(self, state: ConnectionState) -> None:
        await self._redis.command("HSET", keys.CONNECTIONS, state.hook, orjson.dumps(asdict(state)))


async def remove_connection(redis: Redis, hook: str) -> None:
    """Remove the state of a connection and its catch-ups: a hook that gets this name later has another past."""
    await redis.command("HDEL", keys.CONNECTIONS, hook)
    await remove_catch_ups(redis, hook)


def _decode(hook: bytes, value: bytes) -> ConnectionState:
    """Fields that a newer version has added are ignored."""
    stored: Mapping[str, Any] = orjson.loads(value)
    known = {field.name: stored[field.name] for field in fields(ConnectionState) if field.name in stored}
    ids, outdated = tuple(known.get("subscription_ids", ())), tuple(map(tuple, known.get("outdated", ())))
    return ConnectionState(**{**known, "hook": hook.decode(), "subscription_ids": ids, "outdated": outdated})


#: What each state means, for the pages: `make docs`.
MEANINGS: Mapping[Health, str] = {
    "healthy": "the tool says that the subscription is active; or deliveries arrive within their usual gap",
    "unverified": "no delivery has arrived yet, and the tool was not asked",
    "degraded": "the tool reports failing deliveries, or signs with another secret; or none arrives for longer than usual",
    "disabled": "the tool disabled the subscription, and sends nothing",
    "missing": "the tool has no subscription with our URL",
    "credentials_expired": "the tool rejects the credentials, or what Doorbell asks with them",
}
#: What an unhealthy state means at a tool, and the fix. {title}: the tool. {hook}: the hook.
PROBLEMS: Mapping[Health, tuple[str, str]] = {
    "degraded": (
        "{title} reports failing deliveries, signs with another secret, or has sent nothing for longer than usual",
        "Check that PUBLIC_URL reaches this Doorbell, and see `doorbell rejections --hook {hook}`. If nothing arrives, run "
        "`doorbell connect {source} --hook {hook}`.",
    ),
    "disabled": (
        "{title} no longer sends webhooks: it disabled the subscription",
        "Run `doorbell connect {source} --hook {hook}`, then `doorbell catch-up {hook}`.",
    ),
    "missing": (
        "{title} sends no webhooks: it has no subscription with our URL",
        "Run `doorbell connect {source} --hook {hook}`, then `doorbell catch-up {hook}`.",
    ),
    "credentials_expired": (
        "{title} rejects the credentials, or what Doorbell asks with them",
        "Connect it again with new ones: `doorbell connect {source} --hook {hook}`.",
    ),
}


def describe_problem(state: Health, hook: str, source: str, title: str) -> tuple[str, str]:
    """Return what an unhealthy state means, and the fix."""
    words = {"hook": hook, "source": source, "title": title}
    meaning, fix = PROBLEMS[state]
    return meaning.format(**words), fix.format(**words)
