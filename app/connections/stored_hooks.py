"""The stored hooks: loaded into the settings of a process, followed while it runs, and changed by operators."""

import asyncio
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from app.ledger import keys
from app.ledger.connections import MAX_HOOK_BYTES, MAX_STORED_HOOKS, EncryptedHooks
from app.ledger.redis import Redis, RedisUnavailable
from app.operators.hooks import LoadedHooks, load_stored_hooks
from app.settings.environment import Problem, SettingsError
from app.settings.model import HookSettings, Settings
from app.settings.stored import SECRET_KEY_MISSING, change_hook, encode_hook, hook_problems
from app.telemetry.logs import log
from app.webhooks.registry import source_title

if TYPE_CHECKING:
    from app.operators.actions import Actions
    from app.operators.activity_log import Action

#: How often a process asks for the version, and the shortest time between two discoveries.
FOLLOW_EVERY_S, DISCOVER_EVERY_S = 2.0, 1.0
#: The time that a discovery may take: a request waits for it.
DISCOVER_TIMEOUT_S = 1.0
#: A change is tried again if another process changed the same hook meanwhile.
MAX_TRIES = 5


class StoredHooks:
    """Without SECRET_KEY, no hook is stored, and Redis is not queried. Methods that change a hook need an actor's Actions.

    is_current: whether the last request to Redis was answered. Until then an unknown name may be a stored hook.
    """

    def __init__(self, redis: Redis, settings: Settings, on_change: Callable[[], None] = lambda: None) -> None:
        """on_change: called after the settings changed."""
        self._redis, self._settings, self.on_change = redis, settings, on_change
        self._hooks = EncryptedHooks(redis, settings.secret_key) if settings.secret_key else None
        self._loaded = LoadedHooks()
        self._loading = asyncio.Lock()
        self._discovery: asyncio.Task[None] | None = None
        self._discovered_at = float("-inf")
        self.is_current = self._hooks is None

    # -- reading --

    async def load(self) -> None:
        """Load all stored hooks into the settings. Raises RedisUnavailable."""
        async with self._loading:
            await self._load()

    async def refresh(self) -> bool:
        """Load the stored hooks if they have changed, and return whether they had. Raises RedisUnavailable."""
        if self._hooks is None:
            return False
        async with self._loading:
            has_changed = self._loaded.version is None or await self._hooks.version() != self._loaded.version
            if has_changed:
                await self._load()
            return has_changed

    async def follow(self) -> None:
        """Refresh regularly, forever."""
        while True:
            await self._try_to_refresh()
            await asyncio.sleep(FOLLOW_EVERY_S)

    async def discover(self) -> bool:
        """Refresh because of an unknown name, once per DISCOVER_EVERY_S for all callers. Return `is_current`."""
        if self._hooks and time.monotonic() - self._discovered_at >= DISCOVER_EVERY_S:
            self._discovered_at = time.monotonic()
            self._discovery = asyncio.create_task(self._try_to_refresh())
        if self._discovery:
            await asyncio.shield(self._discovery)
        return self.is_current

    async def _try_to_refresh(self) -> None:
        was_current = self.is_current
        try:
            async with asyncio.timeout(DISCOVER_TIMEOUT_S):
                if await self.refresh():
                    self._log_hooks()
            self.is_current = True
        except (RedisUnavailable, TimeoutError) as error:
            self.is_current = False
            if was_current or self._loaded.version is None:
                log.warning("redis_unavailable", reason=str(error) or "Redis does not answer in time")
        except Exception:
            self.is_current = False
            log.exception("unhandled_exception")

    async def _load(self) -> None:
        if self._hooks is None:
            return
        self._loaded, self.is_current = await load_stored_hooks(self._hooks, self._settings), True
        self.on_change()

    def _log_hooks(self) -> None:
        if self._loaded.encrypted:
            log.info("stored_hooks_loaded", hooks=sorted(self._settings.stored_hooks))
        for name, reason in self._settings.unusable_hooks.items():
            log.warning("stored_hook_unusable", hook=name, reason=reason)

    @property
    def names(self) -> list[str]:
        """The stored hooks, also those that cannot be used."""
        return sorted(self._loaded.encrypted)

    @property
    def used_names(self) -> list[str]:
        return sorted(self._settings.stored_hooks)

    # -- changing --

    async def save(self, name: str, hook: HookSettings, actions: "Actions") -> None:
        """Add a hook, or replace the stored one of this name. Raises SettingsError, RedisUnavailable."""
        await self.load()
        is_new = name not in self._loaded.encrypted
        target = _described(name, hook) if is_new else name
        await self._write(name, lambda: hook, actions, "added hook" if is_new else "changed hook", target)

    async def add(self, name: str, hook: HookSettings, actions: "Actions") -> None:
        """As `save`, but only for a new name."""

        def create() -> HookSettings:
            if name in self._loaded.encrypted:
                raise SettingsError(
                    [Problem("NAME", f"there is a stored hook {name} already", fix="Use another name.")]
                )
            return hook

        await self._write(name, create, actions, "added hook", _described(name, hook))

    async def change(
        self,
        name: str,
        fields: Mapping[str, Any],
        actions: "Actions",
        *,
        credentials: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Change settings and credentials of a stored hook: see change_hook. Raises SettingsError, RedisUnavailable."""
        target = f"{name}: {', '.join(sorted([*fields, *credentials])) or 'new key'}"
        await self._write(
            name, lambda: change_hook(self.get(name), fields, credentials), actions, "changed hook", target
        )

    async def rotate_secret(self, name: str, new: str, actions: "Actions", *, keep_old: bool = True) -> None:
        """Accept another secret. keep_old: accept the old ones too, until the tool uses the new one."""

        def rotate() -> HookSettings:
            hook = self.get(name)
            others = [secret for secret in hook.secrets if secret != new] if keep_old else []
            return change_hook(hook, {"secrets": [new, *others]})

        suffix = "a new one is accepted" if keep_old else "only a new one is accepted"
        await self._write(name, rotate, actions, "rotated secret", f"{name}: {suffix}")

    async def drop_old_secrets(self, name: str, actions: "Actions") -> None:
        """Accept only the newest secret."""
        target = f"{name}: only the newest is accepted"
        await self._write(
            name,
            lambda: change_hook(self.get(name), {"secrets": self.get(name).secrets[:1]}),
            actions,
            "rotated secret",
            target,
        )

    async def remove(self, name: str, actions: "Actions") -> None:
        """Remove a stored hook, also one that cannot be used, and its connection. Raises SettingsError if there is none."""
        from app.ledger.connection_states import remove_connection  # readiness does not need it

        account = self._settings.accounts.get(name, "")
        await self._write(name, None, actions, "removed hook", name)
        if name in self._settings.environment_hooks:
            return  # which is in use, with the token, the connection and the mark of this name
        await self._redis.commands(("DEL", f"{keys.TOKEN}{name}"))
        await remove_connection(self._redis, name)
        if await self._redis.command("GET", f"{keys.MOVE_HOOK}{name}") == b"moved":
            # A hook of this name that is added again is not the one that moved to another cell.
            marks = [
                f"{keys.MOVE_HOOK}{name}",
                *([] if self._settings.hooks_for(account) else [f"{keys.MOVE}{account}"]),
            ]
            await self._redis.commands(*(("DEL", mark) for mark in marks))

    async def _write(
        self,
        name: str,
        change: Callable[[], HookSettings] | None,
        actions: "Actions",
        action: "Action",
        target: str,
    ) -> None:
        """Record the action, and store what `change` returns. change: None to remove the hook."""
        if self._hooks is None:
            raise SettingsError([SECRET_KEY_MISSING])
        for number in range(MAX_TRIES):
            await self.load()
            encoded = self._encode(name, change)
            if number == 0:
                await actions.record(action, target)
            result = await self._hooks.store(name, encoded, self._loaded.encrypted.get(name, b""))
            if result == "full":
                raise SettingsError([Problem("NAME", f"{MAX_STORED_HOOKS} hooks are stored, the most that can be")])
            if result == "stored":
                return await self._reload(name)
        raise RedisUnavailable(f"the hook {name} is being changed by other processes")

    async def _reload(self, name: str) -> None:
        """Load the changed hook. Its former account stays known, because its visits are stored under it."""
        account = self._settings.accounts.get(name)
        await self.load()
        if account and account not in self._settings.all_accounts:
            await self._redis.commands(("SADD", keys.ACCOUNTS, account))

    def _encode(self, name: str, change: Callable[[], HookSettings] | None) -> bytes:
        """Return what to store; empty to remove the hook. Raises SettingsError."""
        if change is None:
            if name not in self._loaded.encrypted:
                raise SettingsError([_no_hook(name)])
            return b""
        hook = change()
        problems = hook_problems(self._settings, name, hook)
        encoded = encode_hook(hook)
        if len(encoded) > MAX_HOOK_BYTES:
            problems.append(Problem("SECRETS", f"the hook is larger than {MAX_HOOK_BYTES} bytes"))
        if problems:
            raise SettingsError(problems)
        return encoded

    def get(self, name: str) -> HookSettings:
        """Return a stored hook, also an invalid one. Raises SettingsError if there is none, or if it is unreadable."""
        if hook := self._loaded.readable.get(name):
            return hook
        if name not in self._loaded.encrypted:
            raise SettingsError([_no_hook(name)])
        fix = "Remove it, and add it again."
        raise SettingsError([Problem("NAME", f"the stored hook {name} cannot be read", fix=fix)])


def _described(name: str, hook: HookSettings) -> str:
    return f"{name} of {source_title(hook.source)}" if hook.source not in ("", name) else name


def _no_hook(name: str) -> Problem:
    return Problem("NAME", f"there is no stored hook {name}")
