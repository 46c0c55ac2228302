"""Reads the settings from the environment, reports all problems at once, and renders `.env.example`."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from app.settings.model import HookSettings, OAuthApp, Settings
from app.settings.platform import read_variables
from app.webhooks.registry import load_sources
from app.webhooks.source import InvalidSource, LoadedSource


class Problem(NamedTuple):
    """An invalid setting: its name, the rule that it violates, the shape of its value (never the value), and the fix."""

    name: str
    rule: str
    shape: str = ""
    fix: str = ""

    def __str__(self) -> str:
        shape = f"; given: {self.shape}" if self.shape else ""
        return f"{self.name}: {self.rule}{shape}." + (f" {self.fix}" if self.fix else "")


class SettingsError(Exception):
    """The environment has invalid settings. `problems` has all of them."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def read_environment(
    environ: Mapping[str, str] = os.environ,
    *,
    redis_needed: bool = True,
    token_needed: bool = False,
    sources_needed: bool = False,
) -> Settings:
    """Read and check all settings. Raises SettingsError with every problem.

    An empty variable counts as unset. redis_needed, token_needed: whether the process uses Redis and the Visits API.
    sources_needed: whether to load and check the sources that have no hook, too. Without them a process starts faster.
    """
    variables = read_variables(environ)
    raw: dict[str, Any] = {name: variables[name.upper()] for name in Settings.variables() if name.upper() in variables}
    raw["hooks"], raw["oauth"] = _parse_hooks(variables), _parse_oauth_apps(variables)
    problems: list[Problem] = []
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as validation:
        errors = validation.errors()
        problems = [_to_problem(error, variables) for error in errors]
        settings = Settings.model_validate(_without_invalid(raw, [error["loc"] for error in errors]))
    reported = {problem.name for problem in problems}
    checks = (
        *_same_names(variables),
        *_cross_checks(settings, redis_needed, token_needed),
        *_check_hooks(settings, sources_needed),
    )
    problems += [problem for problem in checks if problem.name not in reported]
    if problems:
        raise SettingsError(problems)
    return settings


def _without_invalid(raw: dict[str, Any], places: list[tuple[int | str, ...]]) -> dict[str, Any]:
    """Remove the invalid values, so that the remaining settings can be checked too."""
    for place in places:
        inside, *steps = raw, *map(str, place)
        while len(steps) > 1 and isinstance(inside.get(steps[0]), dict):
            inside = inside[steps.pop(0)]
        inside.pop(steps[0], None)
    return raw


def _parse_hooks(variables: Mapping[str, str]) -> dict[str, Any]:
    """Convert HOOKS__CALENDLY__SECRETS=… to {"calendly": {"secrets": …}}."""
    hooks: dict[str, Any] = {}
    for name, value in variables.items():
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


def _parse_oauth_apps(variables: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Convert OAUTH__CALENDLY__CLIENT_ID=… to {"calendly": {"client_id": …}}."""
    apps: dict[str, dict[str, str]] = {}
    for name, value in variables.items():
        prefix, *steps = name.split("__", 2)
        if prefix == "OAUTH" and len(steps) == 2:
            apps.setdefault(steps[0].lower(), {})[steps[1].lower()] = value
    return apps


def _same_names(variables: Mapping[str, str]) -> Iterator[Problem]:
    """Yield the settings of hooks and apps that are set twice: upper and lower case make no difference in their names."""
    names = Counter(name.upper() for name in variables if name.startswith(("HOOKS__", "OAUTH__")))
    for name, count in names.items():
        if count > 1:
            given = ", ".join(sorted(each for each in variables if each.upper() == name))
            yield Problem(name, f"is set twice: {given}", fix="Remove one.")


def _to_problem(error: Any, variables: Mapping[str, str]) -> Problem:
    name = "__".join(step for step in error["loc"] if isinstance(step, str)).upper()
    value = variables.get(name, "")
    if error["type"] == "extra_forbidden" and name.startswith("OAUTH__"):
        fields = ", ".join(field.upper() for field in OAuthApp.model_fields)
        return Problem(name, "an app has no such setting", fix=f"The settings of an app are {fields}.")
    if error["type"] == "extra_forbidden":
        return Problem(name, "a hook has no such setting", fix=_fix_hook_setting(name))
    rule = error["msg"].replace("Input should be", "must be")
    prefix, *steps = name.split("__")
    models = {"HOOKS": HookSettings.model_fields, "OAUTH": OAuthApp.model_fields}
    field = models[prefix].get(steps[1].lower()) if prefix in models else Settings.variables().get(name.lower())
    fix = f"It is {field.description}." if field and field.description else ""
    return Problem(name, rule, describe_shape(value), fix)


def _fix_hook_setting(name: str) -> str:
    fields = [field.upper() for field in HookSettings.variables()]
    prefix, _, field = name.rpartition("__")
    if similar := _closest(field, fields):
        return f"Did you mean {prefix}__{similar}?"
    return f"The settings of a hook are {', '.join(fields)}."


def _closest(name: str, names: Iterable[str]) -> str:
    """Return the name that was probably meant, or an empty string."""
    return _closest_of(name, tuple(names))


@cache  # because each page of the settings asks about every variable, and an answer takes 0.1 ms
def _closest_of(name: str, names: tuple[str, ...]) -> str:
    from difflib import get_close_matches  # few processes meet a misspelled name

    return next(iter(get_close_matches(name, names, 1, SIMILARITY)), "")


#: RETRY_FRIST_S is RETRY_FIRST_S; REDIS_TLS_URL, which Heroku sets, is not REDIS_URL.
SIMILARITY = 0.85
#: Other programs rarely have variables that begin so.
OWN_PREFIXES = ("HOOKS_", "HOOK__", "OAUTH__", "VISITS_API_", "RETRY_", "CONSOLE_")


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[Problem]:
    """Return the variables that look like a setting and are none. They are ignored, so they are no SettingsError.

    The names of settings have capital letters; only the names of hooks and apps in them may have others.
    """
    settings = [name.upper() for name in Settings.variables()]
    unset = [setting for setting in settings if not environ.get(setting)]
    unknown = []
    for name in sorted(name for name, value in environ.items() if value.strip() and name not in settings):
        similar = _closest(name.upper(), unset) if len(name) > 5 else ""
        if name.startswith(("HOOKS__", "OAUTH__")) and name.count("__") > 1:
            continue  # checked by the model of a hook, or of an app
        if similar or name.upper().startswith(OWN_PREFIXES):
            fix = f"Did you mean {similar}?" if similar else _describe_names(name.upper(), settings)
            unknown.append(Problem(name, "Doorbell has no such setting, and ignores it", fix=fix))
    return unknown


def _describe_names(name: str, settings: Iterable[str]) -> str:
    if name.startswith("HOOK"):
        return "The names of a hook's settings are HOOKS__<NAME>__SECRETS and so on, with two underscores each."
    if name.startswith("OAUTH"):
        return "The names of an app's settings are OAUTH__<SOURCE>__CLIENT_ID and so on, with two underscores each."
    prefix = next(prefix for prefix in OWN_PREFIXES if name.startswith(prefix))
    return f"The settings are {', '.join(setting for setting in settings if setting.startswith(prefix))}."


def describe_shape(value: str) -> str:
    """Describe a value without quoting it."""
    kind = "digits" if value.isdigit() else "text"
    return f"{kind} of length {len(value)}"


def _cross_checks(settings: Settings, redis_needed: bool, token_needed: bool) -> Iterator[Problem]:
    """Yield the problems of settings that are valid one by one, but not together."""
    if redis_needed and not settings.redis_url:
        fix = "Set it to the URL of Redis 7 or Valkey; `doorbell demo` needs none."
        if Path(".env").exists():
            fix += " Doorbell does not read .env; a shell does with `set -a; . ./.env; set +a`."
        yield Problem("REDIS_URL", "is required", fix=fix)
    if token_needed and not settings.tokens:
        yield Problem("VISITS_API_TOKEN", "is required", fix="Review Rover shows it under Settings, API.")
    if settings.retry_first_s > settings.retry_cap_s:
        yield Problem(
            "RETRY_FIRST_S", "must not be longer than RETRY_CAP_S", fix="Decrease it, or increase RETRY_CAP_S."
        )
    if settings.has_console and not settings.secret_key:
        yield Problem(
            "SECRET_KEY", "is required: it signs the console's sessions", fix=f"Set it to {RANDOM_CHARACTERS}."
        )
    names = [user.name.casefold() for user in settings.console_users if user.name]
    if len(set(names)) < len(names):
        yield Problem(
            "CONSOLE_VIEWER_PASSWORD_HASH", "names a user who is an operator too", fix="Remove one of the two hashes."
        )
    for setting, keys in (("SECRET_KEY", settings.secret_key), ("BODY_KEYS", settings.body_keys)):
        if not all(map(_is_strong, keys)):
            rule = f"must have {MIN_KEY_CHARS} characters or more each, {MIN_DISTINCT_CHARS} of them different"
            yield Problem(setting, rule, fix=f"Use {RANDOM_CHARACTERS}.")
    if bool(settings.console_proxy_header) != bool(settings.console_proxy_secret):
        missing = "CONSOLE_PROXY_SECRET" if settings.console_proxy_header else "CONSOLE_PROXY_HEADER"
        yield Problem(missing, "is required: a proxy needs both settings", fix="Set it, or remove the other setting.")
    yield from check_accounts(settings)


def _check_hooks(settings: Settings, sources_needed: bool) -> Iterator[Problem]:
    tools = load_sources()
    names = {hook.source or name for name, hook in settings.hooks.items()} | settings.oauth_apps.keys()
    try:
        tools.load(tools if sources_needed else names & tools.keys())
    except InvalidSource as error:
        yield Problem("app/sources", str(error), fix="Fix or remove that file.")
        return
    for name, hook in settings.hooks.items():
        yield from check_hook(settings, name, hook, tools)
        if hook.uses_oauth and name in settings.environment_hooks:
            fix = "Remove it, and connect the hook in the console under another name."
            yield Problem(f"HOOKS__{name.upper()}__USES_OAUTH", "is a setting of stored hooks only", fix=fix)
    for name, app in settings.oauth_apps.items():
        yield from _check_app(settings, name, app, tools)


def _check_app(settings: Settings, name: str, app: OAuthApp, tools: Mapping[str, LoadedSource]) -> Iterator[Problem]:
    prefix, tool = f"OAUTH__{name.upper()}", tools.get(name)
    if tool is None or tool.oauth is None:
        names = ", ".join(source for source in tools if tools[source].oauth)
        yield Problem(f"{prefix}__CLIENT_ID", f"{name} is no source with OAuth", fix=f"Those are {names}.")
        return
    title = tool.definition.title
    needed = ["client_id", "client_secret", *(["webhook_secret"] if tool.oauth.signs_with == "app" else [])]
    for field in needed:
        if not getattr(app, field):
            fix = f"It is {OAuthApp.model_fields[field].description}."
            yield Problem(f"{prefix}__{field.upper()}", f"is required for an app of {title}", fix=fix)
    if app.webhook_secret and tool.oauth.signs_with != "app":
        yield Problem(f"{prefix}__WEBHOOK_SECRET", f"apps of {title} have no such secret", fix="Remove it.")
    elif app.webhook_secret and (problem := tool.definition.signature.secret_problem(app.webhook_secret)):
        yield Problem(f"{prefix}__WEBHOOK_SECRET", f"the secret {problem}", describe_shape(app.webhook_secret))
    if not settings.secret_key:
        yield Problem("SECRET_KEY", "is required: tokens are encrypted with it", fix=f"Set it to {RANDOM_CHARACTERS}.")
    if not settings.public_url:
        rule = "is required: tools redirect to its path /console/connect/… after a log-in with OAuth"
        yield Problem("PUBLIC_URL", rule, fix="Set it to the URL of this Doorbell.")


def check_accounts(settings: Settings) -> Iterator[Problem]:
    """Yield a problem if an account has two tokens, or if a token has two accounts.

    An account has one circuit and one rate limit, and both apply to a token.
    """
    tokens = {"main": settings.visits_api_token} if settings.visits_api_token else {}
    accounts = {token: account for account, token in tokens.items()}
    for name, hook in settings.hooks.items():
        account, token = settings.accounts[name], hook.visits_api_token
        if token is None:
            continue
        setting = f"HOOKS__{name.upper()}__ACCOUNT"
        if tokens.setdefault(account, token) != token:
            yield Problem(setting, f"the account {account} already has another token", fix="Give it one token.")
        elif accounts.setdefault(token, account) != account:
            fix = f"Set it to {accounts[token]}, or set the same account for every hook with this token."
            yield Problem(setting, f"its token is the token of the account {accounts[token]}", fix=fix)


def check_hook(
    settings: Settings, name: str, hook: HookSettings, tools: Mapping[str, LoadedSource]
) -> Iterator[Problem]:
    prefix = f"HOOKS__{name.upper()}"
    source = settings.source_for(name) if (hook.source or name) in tools else None
    if not name.replace("_", "").replace("-", "").isalnum() or not name.isascii() or len(name) > 40:
        yield Problem(
            f"{prefix}__SECRETS", "the name of a hook may have only letters, digits and _", fix="Rename the hook."
        )
    if source is None:
        yield _unknown_source(prefix, name, hook, tools)
        return
    if "bearer" in hook.auth and not source.definition.bearer:
        rule = f"{source.definition.title} does not support bearer tokens"
        yield Problem(f"{prefix}__AUTH", rule, fix="Remove it, or use the source standard.")
    for number, secret in enumerate(hook.secrets, 1):
        problem = source.definition.signature.secret_problem(secret)
        if problem:
            fix = _SENDER_CANNOT_SIGN if source.definition.bearer else f"Copy it again from {source.definition.title}."
            yield Problem(
                f"{prefix}__SECRETS", f"secret {number} of {len(hook.secrets)} {problem}", describe_shape(secret), fix
            )
    if hook.secrets and source.definition.signature.needs_url and not settings.public_url:
        rule = f"is required, because {source.definition.title} signs the URL that it calls"
        yield Problem("PUBLIC_URL", rule, fix=f"Set it to the part of the URL before /hooks/{name}.")
    if hook.secrets:
        yield from _check_required_settings(settings, prefix, hook, source)
    credential_names = source.definition.credential_names
    for credential in hook.credentials:
        if credential not in credential_names:
            fix = (
                f"Its credentials are {', '.join(credential_names)}."
                if credential_names
                else "It needs no credentials."
            )
            yield Problem(
                f"{prefix}__CREDENTIALS__{credential}", f"{source.definition.title} has no such credential", fix=fix
            )


def _unknown_source(prefix: str, name: str, hook: HookSettings, tools: Iterable[str]) -> Problem:
    """Name the variable that was set, which is rarely SOURCE: by default the hook has the name of its source."""
    if hook.source:
        return Problem(
            f"{prefix}__SOURCE", "must be a source", describe_shape(hook.source), f"Sources: {', '.join(tools)}."
        )
    variables = [f"{prefix}__{field.upper()}" for field in HookSettings.model_fields if field in hook.model_fields_set]
    variable = next(iter(variables), f"{prefix}__SOURCE")
    fix = f"Set {prefix}__SOURCE to one of {', '.join(tools)}."
    if similar := _closest(name, tools):
        fix = f"Did you mean {variable.replace(prefix, f'HOOKS__{similar.upper()}')}? Else set {prefix}__SOURCE to a source."
    return Problem(variable, f"there is no source {name}", fix=fix)


_SENDER_CANNOT_SIGN = (
    "`doorbell secrets generate standard` generates one. For a sender that cannot sign, set AUTH=bearer."
)


def _check_required_settings(
    settings: Settings, prefix: str, hook: HookSettings, tool: LoadedSource
) -> Iterator[Problem]:
    """Yield the missing and unsupported settings of an active hook."""
    source, keys = tool.definition, settings.secret_key
    if source.signature.needs_secret_key and not keys:
        rule = (
            f"is required, because {source.title} signs nothing: the URL of its hook has a token made with SECRET_KEY"
        )
        yield Problem("SECRET_KEY", rule, fix=f"Set it to {RANDOM_CHARACTERS}.")
    if "REFRESH_TOKEN" in hook.credentials and not keys:
        yield Problem("SECRET_KEY", "is required: renewed tokens are encrypted with it")
    for setting in source.required_settings:
        if not getattr(hook, setting.lower()):
            fix = f"It is {HookSettings.model_fields[setting.lower()].description}."
            yield Problem(f"{prefix}__{setting}", f"is required for {source.title}", fix=fix)
    if hook.tenants and not source.tenant_of:
        yield Problem(f"{prefix}__TENANTS", f"{source.title} does not send the account of an event", fix="Remove it.")


def _is_strong(key: str) -> bool:
    return len(key) >= MIN_KEY_CHARS and len(set(key)) >= MIN_DISTINCT_CHARS


#: Weaker keys could be guessed and are rejected. `doctor` warns below RECOMMENDED_KEY_CHARS.
MIN_KEY_CHARS, MIN_DISTINCT_CHARS, RECOMMENDED_KEY_CHARS = 16, 8, 32
RANDOM_CHARACTERS = f"{RECOMMENDED_KEY_CHARS} random characters or more, such as the output of `openssl rand -hex 32`"


#: Variables that platforms and libraries define: meaning and example.
COMMON_VARIABLES = {
    "PORT": ("the port of web; platforms set it", "8000"),
    "WEB_CONCURRENCY": ("the number of web processes on a machine, which share the port", "1"),
    "SENTRY_DSN": (
        "where unexpected exceptions are sent; needs the packages of deploy/telemetry-requirements.txt",
        "https://public-key@sentry.example.com/1",
    ),
    "OTEL_EXPORTER_OTLP_ENDPOINT": (
        "where traces are sent; needs the packages of deploy/telemetry-requirements.txt",
        "http://127.0.0.1:4318",
    ),
    "OTEL_SERVICE_NAME": ("the name of a process in traces; unset: doorbell-web and doorbell-worker", "doorbell"),
}


def env_example() -> str:
    """Return the text of `.env.example`: every setting with its meaning and default."""
    lines = ["# Every setting, commented out, with its default or an example."]
    for name, field in Settings.variables().items():
        default = field.examples[0] if field.examples else field.default or ""
        lines += ["", f"# {field.description}", f"#{name.upper()}={default}"]
    for name, (meaning, example) in COMMON_VARIABLES.items():
        lines += ["", f"# {meaning}", f"#{name}={example}"]
    lines += ["", "# One hook per tool that sends webhooks. Choose its <NAME>, for example CALENDLY.", ""]
    for name, field in HookSettings.variables().items():
        suffix = "__<FIELD>" if name == "credentials" else ""
        lines += [f"# {field.description}", f"#HOOKS__<NAME>__{name.upper()}{suffix}="]
    lines += [
        "",
        "# One app per tool whose accounts are connected with a log-in, such as CALENDLY: docs/connections.md.",
        "",
    ]
    for name, field in OAuthApp.model_fields.items():
        lines += [f"# {field.description}", f"#OAUTH__<SOURCE>__{name.upper()}="]
    return "\n".join(lines) + "\n"
