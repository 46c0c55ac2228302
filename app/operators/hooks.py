"""The hooks with their origin and what they lack, for console and command line. No secret or credential is in it."""

from dataclasses import dataclass
from typing import Literal

from app.settings.model import HookSettings, Settings

Origin = Literal["environment", "stored"]
#: overridden: the environment has a hook of this name. unusable: it cannot be decrypted, or its settings are invalid.
HookState = Literal["active", "inactive", "overridden", "unusable"]


@dataclass(frozen=True, slots=True)
class HookSummary:
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


def list_hooks(settings: Settings) -> list[HookSummary]:
    """Return all hooks by name, also stored ones that are not in use."""
    in_use = [_summary(settings, name, hook) for name, hook in settings.hooks.items()]
    overridden = [
        HookSummary(name, "stored", "overridden", hook.source or name, detail="the hook of the environment is used")
        for name, hook in settings.all_stored_hooks.items()
        if name in settings.environment_hooks
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
