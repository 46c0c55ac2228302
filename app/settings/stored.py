"""Reads stored hooks, and checks them with the rules for those of the environment."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from app.settings.environment import RANDOM_CHARACTERS, Problem, SettingsError, check_accounts, check_hook
from app.settings.model import HookSettings, Settings
from app.webhooks.registry import load_sources

#: The name of a hook is part of paths and keys.
HOOK_NAME = re.compile("[a-z0-9][a-z0-9_-]{0,39}")
SECRET_KEY_MISSING = Problem(
    "SECRET_KEY", "is required: stored hooks are encrypted with it", fix=f"Set it to {RANDOM_CHARACTERS}."
)


def build_hook(fields: Mapping[str, Any]) -> HookSettings:
    """Return a hook with these settings, each in the form of its variable or of its field. Raises SettingsError."""
    try:
        return HookSettings.model_validate(fields)
    except ValidationError as error:
        raise SettingsError(
            list({_to_problem(each).name: _to_problem(each) for each in error.errors()}.values())
        ) from None


def change_hook(
    hook: HookSettings, fields: Mapping[str, Any], credentials: Mapping[str, str] = MappingProxyType({})
) -> HookSettings:
    """Return the hook with other values for these settings and credentials. Raises SettingsError.

    None removes a setting, an empty value a credential.
    """
    all_credentials = {name: value for name, value in (hook.credentials | dict(credentials)).items() if value}
    changed = hook.model_dump(exclude_defaults=True) | {"credentials": all_credentials} | dict(fields)
    return build_hook({name: value for name, value in changed.items() if value is not None})


def _to_problem(error: Any) -> Problem:
    name = str(error["loc"][0])
    field = HookSettings.model_fields.get(name)
    rule = error["msg"].replace("Input should be", "must be") if field else "a hook has no such setting"
    return Problem(name.upper(), rule, fix=f"It is {field.description}." if field and field.description else "")


def hook_problems(settings: Settings, name: str, hook: HookSettings) -> list[Problem]:
    """Return why this stored hook cannot be added, or replace the one of its name."""
    if not HOOK_NAME.fullmatch(name):
        rule = "must have only lowercase letters, digits, _ and -, at most 40, and begin with a letter or a digit"
        return [Problem("NAME", rule)]
    if name in settings.environment_hooks:
        rule = f"the hook {name} is set in the environment"
        return [Problem("NAME", rule, fix=f"Change its variables HOOKS__{name.upper()}__…, or use another name.")]
    others = {other: stored for other, stored in settings.stored_hooks.items() if other != name}
    # The hook is the last one, so that a conflict between two hooks is its problem.
    changed = settings.with_stored_hooks({**others, name: hook})
    problems = [*check_hook(changed, name, hook, load_sources()), *check_accounts(changed)]
    return [_without_prefix(problem, name) for problem in problems]


def _without_prefix(problem: Problem, name: str) -> Problem:
    """Name the settings of a stored hook without `HOOKS__<NAME>__`: it has no variables."""
    prefix = f"HOOKS__{name.upper()}__"
    return Problem(problem.name.removeprefix(prefix), problem.rule, problem.shape, problem.fix.replace(prefix, ""))


def encode_hook(hook: HookSettings) -> bytes:
    return hook.model_dump_json(exclude_defaults=True).encode()


def decode_hook(encoded: bytes) -> HookSettings:
    """Raise ValueError if this version of Doorbell cannot read the hook."""
    try:
        return HookSettings.model_validate_json(encoded)
    except ValidationError as error:
        fields = sorted({str(each["loc"][0]) for each in error.errors() if each["loc"]})
        raise ValueError(f"this version of Doorbell cannot read its {', '.join(fields) or 'settings'}") from None


def set_valid_hooks(settings: Settings, hooks: Mapping[str, HookSettings], unusable: Mapping[str, str]) -> None:
    """Replace the stored hooks by the valid ones of these. unusable: by name, why others cannot be read."""
    valid, reasons = settings.with_stored_hooks({}), dict(unusable)
    for name, hook in sorted(hooks.items()):
        problems = [] if name in settings.environment_hooks else hook_problems(valid, name, hook)
        if problems:
            reasons[name] = " ".join(map(str, problems))
        else:
            valid.set_stored_hooks({**valid.all_stored_hooks, name: hook})
    settings.set_stored_hooks(valid.all_stored_hooks, reasons)
