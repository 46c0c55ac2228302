"""Loads the stored hooks, and lists all hooks with their origin and what they lack, without secrets and credentials."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from app.ledger.connections import EncryptedHooks, HookUnreadable
from app.settings.model import HookSettings, Settings
from app.settings.stored import decode_hook, set_valid_hooks

Origin = Literal["environment", "stored"]
#: overridden: the environment has a hook of this name. unusable: it cannot be decrypted, or its settings are invalid.
HookState = Literal["active", "inactive", "overridden", "unusable"]


class HookSummary(NamedTuple):
    """missing: what it needs to receive webhooks, or to fetch records. detail: why it is not in use, as a sentence."""

    name: str
    origin: Origin
    state: HookState
    source: str = ""
    account: str = ""
    secrets: int = 0
    credentials: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    detail: str = ""

    @property
    def is_in_use(self) -> bool:
        """Whether it is the hook of its name in the settings: at most one is."""
        return self.state in ("active", "inactive")


class LoadedHooks(NamedTuple):
    """The stored hooks as they are in Redis, and those of them that can be read, which may be invalid."""

    version: str | None = None
    encrypted: Mapping[str, bytes] = MappingProxyType({})
    readable: Mapping[str, HookSettings] = MappingProxyType({})


async def load_stored_hooks(hooks: EncryptedHooks, settings: Settings) -> LoadedHooks:
    """Load the stored hooks into the settings. Raises RedisUnavailable."""
    table = await hooks.load()
    readable: dict[str, HookSettings] = {}
    unusable: dict[str, str] = {}
    for name, encrypted in table.hooks.items():
        try:
            readable[name] = decode_hook(hooks.decrypt(name, encrypted))
        except (HookUnreadable, ValueError) as error:
            unusable[name] = str(error)
    set_valid_hooks(settings, readable, unusable)
    return LoadedHooks(table.version, table.hooks, readable)


def list_hooks(settings: Settings) -> list[HookSummary]:
    """Return all hooks by name, also stored ones that are not in use."""
    in_use = [_summary(settings, name, hook) for name, hook in settings.hooks.items()]
    overridden = [
        HookSummary(
            name,
            "stored",
            "overridden",
            (hook.source or name) if hook else "",
            detail="the hook of the environment is used"
            if hook
            else "it cannot be read; the hook of the environment is used",
        )
        for name, hook in settings.overridden_hooks.items()
    ]
    unusable = [
        HookSummary(name, "stored", "unusable", detail=reason) for name, reason in settings.unusable_hooks.items()
    ]
    return sorted([*in_use, *overridden, *unusable], key=lambda hook: (hook.name, hook.origin))


def _summary(settings: Settings, name: str, hook: HookSettings) -> HookSummary:
    secret = () if hook.secrets else (settings.setting_name(name, "SECRETS"),)
    return HookSummary(
        name,
        "stored" if settings.is_stored(name) else "environment",
        "active" if hook.secrets else "inactive",
        hook.source or name,
        settings.accounts[name],
        len(hook.secrets),
        tuple(sorted(hook.credentials)),
        (*secret, *settings.missing_credentials(name)),
    )
