"""Settings from the environment, every problem reported at once, and `.env.example`."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from app.settings.model import HookSettings, Settings
from app.webhooks.registry import load_sources
from app.webhooks.source import InvalidSource, LoadedSource


@dataclass(frozen=True, slots=True)
class Problem:
    """One wrong setting: its name, the rule it breaks, the shape of what was given (never the value), and the fix."""

    name: str
    rule: str
    given_shape: str = ""
    fix: str = ""

    def __str__(self) -> str:
        given = f"; given: {self.given_shape}" if self.given_shape else ""
        return f"{self.name}: {self.rule}{given}." + (f" {self.fix}" if self.fix else "")


class SettingsError(Exception):
    """What the environment says cannot be worked with. `problems` has all of it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def read_environment(
    environ: Mapping[str, str] = os.environ, *, redis_needed: bool = True, token_needed: bool = False
) -> Settings:
    """The settings that the environment describes. Raises SettingsError with every problem.

    An empty variable is an unset one. redis_needed, token_needed: whether the process works with Redis, and whether it
    talks to the Visits API.
    """
    given = {name: value.strip() for name, value in environ.items() if value.strip()}
    raw: dict[str, Any] = {name: given[name.upper()] for name in Settings.model_fields if name.upper() in given}
    raw["hooks"] = _parse_hooks(given)
    problems: list[Problem] = []
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as error:
        problems = [_to_problem(found, given) for found in error.errors()]
        settings = Settings.model_validate(_without_invalid(raw, [found["loc"] for found in error.errors()]))
    told = {problem.name for problem in problems}
    problems += [p for p in _cross_checks(settings, redis_needed, token_needed) if p.name not in told]
    if problems:
        raise SettingsError(problems)
    return settings


def _without_invalid(raw: dict[str, Any], places: list[tuple[int | str, ...]]) -> dict[str, Any]:
    """What remains when the wrong values are taken out, so that the rest can be looked at too."""
    for place in places:
        inside, *steps = raw, *map(str, place)
        while len(steps) > 1 and isinstance(inside.get(steps[0]), dict):
            inside = inside[steps.pop(0)]
        inside.pop(steps[0], None)
    return raw


def _parse_hooks(given: Mapping[str, str]) -> dict[str, Any]:
    """HOOKS__CALENDLY__SECRETS=… as {"calendly": {"secrets": …}}."""
    hooks: dict[str, Any] = {}
    for name, value in given.items():
        prefix, *steps = name.split("__")
        if prefix == "HOOKS" and len(steps) >= 2:
            hook = hooks.setdefault(steps[0].lower(), {})
            if steps[1] == "CREDENTIALS" and len(steps) == 3:
                credentials = hook.setdefault("credentials", {})
                if isinstance(credentials, dict):
                    credentials[steps[2]] = value
            else:
                hook["__".join(steps[1:]).lower()] = value
    return hooks


def _to_problem(found: Any, given: Mapping[str, str]) -> Problem:
    name = "__".join(step for step in found["loc"] if isinstance(step, str)).upper()
    value = given.get(name, "")
    if found["type"] == "extra_forbidden":
        known = ", ".join(field.upper() for field in HookSettings.model_fields)
        return Problem(name, "there is no such setting of a hook", fix=f"There are {known}.")
    rule = found["msg"].replace("Input should be", "must be")
    of_hook = name.startswith("HOOKS__")
    field = (
        HookSettings.model_fields.get(name.split("__")[2].lower())
        if of_hook
        else Settings.model_fields.get(name.lower())
    )
    fix = f"It is {field.description}." if field and field.description else ""
    return Problem(name, rule, describe_shape(value), fix)


def describe_shape(value: str) -> str:
    """What a value looks like, without a letter of it."""
    kind = "digits" if value.isdigit() else "text"
    return f"{kind} of length {len(value)}"


def _cross_checks(settings: Settings, redis_needed: bool, token_needed: bool) -> Iterator[Problem]:
    """What is wrong although each variable by itself is right."""
    if redis_needed and not settings.redis_url:
        yield Problem(
            "REDIS_URL", "is needed", fix="Set it to the address of a Redis 7 or Valkey; `doorbell demo` goes without."
        )
    if token_needed and not settings.tokens:
        yield Problem("VISITS_API_TOKEN", "is needed", fix="Review Rover shows it under Settings, API.")
    if settings.retry_first_s > settings.retry_cap_s:
        yield Problem("RETRY_FIRST_S", "must not be longer than RETRY_CAP_S", fix="Lower the one, or raise the other.")
    if settings.has_console and not settings.secret_key:
        yield Problem("SECRET_KEY", "is needed: it signs the console's sessions", fix="Set it to 32 random characters.")
    for setting, keys in (("SECRET_KEY", settings.secret_key), ("BODY_KEYS", settings.body_keys)):
        if not all(map(_is_strong, keys)):
            rule = f"must have {MIN_KEY_CHARS} characters or more each, {MIN_DISTINCT_CHARS} of them different"
            yield Problem(setting, rule, fix="Use 32 random ones.")
    if bool(settings.console_proxy_header) != bool(settings.console_proxy_secret):
        missing = "CONSOLE_PROXY_SECRET" if settings.console_proxy_header else "CONSOLE_PROXY_HEADER"
        yield Problem(missing, "is needed: a proxy is trusted by both together", fix="Set it, or take the other out.")
    try:
        tools = load_sources()
    except InvalidSource as error:
        yield Problem("app/sources", str(error), fix="Mend that file, or take it out.")
        return
    yield from _check_accounts(settings)
    for name, hook in settings.hooks.items():
        yield from _check_hook(settings, name, hook, tools)


def _check_accounts(settings: Settings) -> Iterator[Problem]:
    """One account has one token, and one token has one account: an account has one circuit and one rate limit."""
    tokens = {"main": settings.visits_api_token} if settings.visits_api_token else {}
    accounts = {token: account for account, token in tokens.items()}
    for name, hook in settings.hooks.items():
        account, token = settings.accounts[name], hook.visits_api_token
        if token is None:
            continue
        setting = f"HOOKS__{name.upper()}__ACCOUNT"
        if tokens.setdefault(account, token) != token:
            yield Problem(setting, f"the account {account} has another token already", fix="Give it one token.")
        elif accounts.setdefault(token, account) != account:
            fix = f"Set it to {accounts[token]}, or set the same name at every hook with this token."
            yield Problem(setting, f"its token is the one of the account {accounts[token]}", fix=fix)


def _check_hook(
    settings: Settings, name: str, hook: HookSettings, tools: Mapping[str, LoadedSource]
) -> Iterator[Problem]:
    prefix = f"HOOKS__{name.upper()}"
    source = settings.source_for(name) if (hook.source or name) in tools else None
    if not name.replace("_", "").replace("-", "").isalnum() or not name.isascii() or len(name) > 40:
        yield Problem(f"{prefix}__SECRETS", "the name of a hook has letters, digits and _ only", fix="Rename it.")
    if source is None:
        sources = ", ".join(tools)
        yield Problem(
            f"{prefix}__SOURCE", "must be one of the sources", describe_shape(hook.source), f"There are {sources}."
        )
        return
    if "bearer" in hook.auth and not source.definition.bearer:
        why = f"{source.definition.title} takes no bearer token"
        yield Problem(f"{prefix}__AUTH", why, fix="Take it out, or use the source standard.")
    for number, secret in enumerate(hook.secrets, 1):
        rule = source.definition.signature.secret_problem(secret)
        if rule:
            fix = _SENDER_CANNOT_SIGN if source.definition.bearer else f"Copy it again from {source.definition.title}."
            yield Problem(
                f"{prefix}__SECRETS", f"secret {number} of {len(hook.secrets)} {rule}", describe_shape(secret), fix
            )
    if hook.secrets and source.definition.signature.needs_url and not settings.public_url:
        why = f"is needed, because {source.definition.title} signs the address that it calls"
        yield Problem("PUBLIC_URL", why, fix=f"Set it to the part of the address before {f'/hooks/{name}'}.")
    if hook.secrets:
        yield from _check_required_settings(settings, prefix, hook, source)
    known = source.definition.credential_names
    for credential in hook.credentials:
        if credential not in known:
            fix = f"It takes {', '.join(known)}." if known else "It takes none."
            yield Problem(
                f"{prefix}__CREDENTIALS__{credential}", f"{source.definition.title} has no such credential", fix=fix
            )


_SENDER_CANNOT_SIGN = "`doorbell secrets generate standard` makes one. For a sender that cannot sign, set AUTH=bearer."


def _check_required_settings(
    settings: Settings, prefix: str, hook: HookSettings, tool: LoadedSource
) -> Iterator[Problem]:
    """What a hook that exists needs too."""
    source, keys = tool.definition, settings.secret_key
    if source.signature.needs_secret_key and not keys:
        why = f"is needed, because {source.title} signs nothing and gets an address with a token of ours"
        yield Problem("SECRET_KEY", why, fix="Set it to 32 random characters or more.")
    if "REFRESH_TOKEN" in hook.credentials and not keys:
        yield Problem("SECRET_KEY", "is needed: renewed tokens are encrypted with it")
    for need in source.required_settings:
        if not getattr(hook, need.lower()):
            fix = f"It is {HookSettings.model_fields[need.lower()].description}."
            yield Problem(f"{prefix}__{need}", f"is needed for {source.title}", fix=fix)
    if hook.tenants and not source.tenant_of:
        yield Problem(f"{prefix}__TENANTS", f"{source.title} does not say which account rings", fix="Take it out.")


def _is_strong(key: str) -> bool:
    return len(key) >= MIN_KEY_CHARS and len(set(key)) >= MIN_DISTINCT_CHARS


#: What is made under a weaker key could be guessed. 32 random characters are asked for everywhere; doctor warns below.
MIN_KEY_CHARS, MIN_DISTINCT_CHARS, RECOMMENDED_KEY_CHARS = 16, 8, 32


def env_example() -> str:
    """`.env.example`: every setting with its meaning and default."""
    lines = ["# Every setting. What is commented out has the default that is shown, or none."]
    for name, field in Settings.model_fields.items():
        if name != "hooks":
            default = field.examples[0] if field.examples else field.default or ""
            lines += ["", f"# {field.description}", f"#{name.upper()}={default}"]
    lines += ["", "# A hook for every tool that rings. <NAME> is yours to choose, for example CALENDLY.", ""]
    for name, field in HookSettings.model_fields.items():
        suffix = "__<FIELD>" if name == "credentials" else ""
        lines += [f"# {field.description}", f"#HOOKS__<NAME>__{name.upper()}{suffix}="]
    return "\n".join(lines) + "\n"
