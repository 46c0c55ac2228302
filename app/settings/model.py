"""Settings, from the environment only: read once at start, and every problem told at once."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, available_timezones

from argon2 import extract_parameters
from argon2.exceptions import InvalidHashError
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError
from redis.asyncio.connection import parse_url

from app.webhooks.registry import load_sources
from app.webhooks.signatures.scheme import VerificationContext
from app.webhooks.source import Auth, LoadedSource


def _rule(sentence: str) -> PydanticCustomError:
    return PydanticCustomError("rule", "{rule}", {"rule": sentence})


def _split_words(value: Any) -> Any:
    return value.split() if isinstance(value, str) else value


def _web_address(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise _rule("must be an address that begins with https:// (or http://)")
    return value.rstrip("/")


def _redis_address(value: str) -> str:
    if not value.startswith(("redis://", "rediss://", "unix://")):
        raise _rule("must be an address that begins with redis://, rediss:// or unix://")
    try:
        parse_url(value)
    except ValueError:
        raise _rule(
            "must be an address; a password's `/`, `@`, `:` and `%` are written as %2F, %40, %3A, %25"
        ) from None
    return value


def _argon2(value: str) -> str:
    try:
        extract_parameters(value)
    except InvalidHashError:
        raise _rule("must be the hash of a password, as `doorbell hash-password` makes it") from None
    return value


def _account_name(value: str) -> str:
    if not re.fullmatch("[a-z0-9][a-z0-9_-]{0,39}", value):
        raise _rule("must be a name of small letters, digits, _ and -, like east")
    return value


def _not_an_example(value: str) -> str:
    if value.lower().replace("-", "").replace("_", "").startswith("changeme"):
        raise _rule("still has the value of the example")
    return value


def _header_name(value: str) -> str:
    if not value.replace("-", "").isalnum() or not value.isascii():
        raise _rule("must be the name of a header, like X-Forwarded-User")
    return value.lower()


def _zone(value: str) -> str:
    if value not in available_timezones():
        raise _rule("must be the name of a time zone, like America/New_York")
    return value


def _split_secrets(value: Any) -> Any:
    """As words; the lines of a PEM file, also those that were written as `\\n`, become one."""
    if isinstance(value, str) and "-----BEGIN" in value:
        value = _PEM.sub(lambda found: "".join(found[1].split()), value.replace("\\n", "\n"))
    return _split_words(value)


_PEM = re.compile("-----BEGIN [A-Z ]+-----([A-Za-z0-9+/=\\s]+)-----END [A-Z ]+-----")

Secret = Annotated[str, AfterValidator(_not_an_example)]
Words = Annotated[tuple[str, ...], BeforeValidator(_split_words)]
Keys = Annotated[tuple[Secret, ...], BeforeValidator(_split_words)]
Secrets = Annotated[tuple[Secret, ...], BeforeValidator(_split_secrets)]
AuthForms = Annotated[tuple[Auth, ...], BeforeValidator(_split_words), Field(min_length=1)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
RedisAddress = Annotated[str, AfterValidator(_redis_address)]
Zone = Annotated[str, AfterValidator(_zone)]
#: Of a password that nobody knows.
_EXAMPLE_HASH = "$argon2id$v=19$m=65536,t=3,p=4$+wCWcNZPvnKLxrHdWsPvjA$TsYYKC/fTSxQmZYdMDyaMz6rp3bMjn5qq+7nKYOvXPk"
#: An account's name is part of the names of its tasks: `visit:<account>/<external_id>`.
AccountName = Annotated[str, AfterValidator(_account_name)]
PasswordHash = Annotated[str, AfterValidator(_argon2)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class HookSettings(BaseModel):
    """A configured hook: `HOOKS__<NAME>__…`. Without a secret it does not exist."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    secrets: Secrets = Field(
        (), repr=False, description="one secret, or several separated by spaces (rotation: all are accepted)"
    )
    source: str = Field("", description="the tool; by default the hook's own name")
    credentials: dict[str, Secret] = Field(
        {}, repr=False, description="what a source needs that fetches records: __API_KEY, __TOKEN, …"
    )
    api_url: WebAddress | None = Field(None, description="where it fetches; by default the tool's own API")
    token_url: WebAddress | None = Field(
        None, description="where expiring tokens are renewed; by default the tool's own address"
    )
    tenants: Words = Field((), description="the tool's accounts that may ring here; others are ignored")
    visits_api_token: Secret | None = Field(
        None, repr=False, description="the token of another Review Rover account for this hook"
    )
    account: AccountName | None = Field(
        None,
        description="the name of the Review Rover account: by default main, or the hook's own name if it has a token of "
        "its own. Hooks that share an account name the same one",
    )
    auth: AuthForms = Field(
        ("signature",),
        description="signature, bearer, or both: what a sender must show. Only the source standard has a choice",
    )
    timezone: Zone | None = Field(None, description="what local times without an offset mean")
    tolerance: Seconds | None = Field(None, description="seconds, where the tool signs a time; by default the source's")

    @property
    def zone(self) -> ZoneInfo | None:
        return ZoneInfo(self.timezone) if self.timezone else None


class Settings(BaseModel):
    """Everything that the environment can say."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    redis_url: RedisAddress | None = Field(
        None,
        repr=False,
        description="redis://, rediss:// or unix://. Only `demo` and the tests go without",
        examples=["redis://127.0.0.1:6379/0"],
    )
    redis_tls_verify: Literal["required", "none"] = Field(
        "required", description="required or none: none for Heroku, whose certificates are self-signed"
    )
    visits_api_url: WebAddress = Field("https://dashboard.reviewrover.co/api/v1", description="where visits go")
    visits_api_token: Secret | None = Field(None, repr=False, description="Review Rover's token")
    visits_api_rate: Seconds | None = Field(
        None,
        description="the most calls per second over all workers; unset: no limit but the API's own 429",
        examples=["10"],
    )
    hooks: dict[str, HookSettings] = Field({}, description="the active_hooks")
    retry_first_s: Seconds = Field(
        5, description="seconds: the longest wait before the second try; it doubles from there"
    )
    retry_cap_s: Seconds = Field(3_600, description="seconds: the longest wait of all")
    retry_for_s: Seconds = Field(
        259_200, description="seconds: after so much trouble a change is parked for an operator"
    )
    contact_for_s: Seconds = Field(86_400, description="seconds: how long a visit without an e-mail waits for one")
    public_url: WebAddress | None = Field(
        None, description="our own address, for tools that sign it (Square)", examples=["https://doorbell.example.com"]
    )
    secret_key: Keys = Field(
        (),
        repr=False,
        description="key(s) of our own signatures, newest first; 32 random characters or more each",
    )
    max_body: int = Field(262_144, ge=1_024, le=16_777_216, description="bytes: the largest body that is read")
    retention_days: int = Field(
        30, ge=9, le=3_650, description="days that deliveries are kept, and visits after their task is done"
    )
    body_keys: Keys = Field(
        (),
        repr=False,
        description="key(s) under which bodies are encrypted, newest first; 32 random characters or more each; unset: they "
        "are only compressed",
    )
    ack: Literal["write", "fsync"] = Field("write", description="write or fsync: what must have happened before 202")
    log_format: Literal["json", "console"] = Field("json", description="json or console")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")
    metrics_token: Secret | None = Field(
        None, repr=False, description="the bearer token that opens /metrics; unset: it is closed"
    )
    alert_webhook_url: WebAddress | None = Field(
        None,
        repr=False,
        description="where alarms are posted, as to a Slack channel: when one begins, and when it is over",
        examples=["https://hooks.example.com/services/T0/B0/x"],
    )
    console_password_hash: PasswordHash | None = Field(
        None,
        repr=False,
        description="an operator's password for /console, as `doorbell hash-password` writes it",
        examples=[_EXAMPLE_HASH],
    )
    console_viewer_password_hash: PasswordHash | None = Field(
        None, repr=False, description="the same for who may look and not act", examples=[_EXAMPLE_HASH]
    )
    console_proxy_header: HeaderName | None = Field(
        None, description="the header in which a trusted proxy names its user", examples=["X-Forwarded-User"]
    )
    console_proxy_secret: Secret | None = Field(
        None,
        repr=False,
        min_length=16,
        description="what that proxy shows in X-Doorbell-Proxy-Secret, so that nobody else is believed; 16 characters or "
        "more",
    )
    console_proxy_operators: Words = Field(
        (), description="which of its users are operators; everybody else is a viewer", examples=["ada@example.com"]
    )

    trusted_proxies: int | None = Field(
        None,
        ge=0,
        le=10,
        description="how many routers in front of us add to X-Forwarded-For (Heroku: 1; a CDN before it: 2; nobody: 0); "
        "unset: 1 where requests come from a private address, else 0",
        examples=["1"],
    )

    @property
    def has_console(self) -> bool:
        """Closed unless somebody can get in."""
        return bool(self.console_password_hash or self.console_viewer_password_hash or self.console_proxy_header)

    @cached_property
    def active_hooks(self) -> dict[str, "Hook"]:
        """The hooks that exist: those with a secret."""
        accounts = self.accounts
        return {
            name: Hook(name, hook, self.source_for(name), accounts[name])
            for name, hook in self.hooks.items()
            if hook.secrets
        }

    def source_for(self, name: str) -> LoadedSource:
        """The source of a hook, with the form of authentication that the hook accepts."""
        hook = self.hooks[name]
        source = load_sources()[hook.source or name]
        return replace(source, definition=source.definition.with_auth(hook.auth))

    def verification_context(self, hook: "Hook", now: float) -> VerificationContext:
        """What the hook brings to the verification of a delivery."""
        configured = hook.settings
        return VerificationContext(configured.secrets, now, self.hook_url(hook), configured.tolerance, self.secret_key)

    def hook_url(self, hook: "Hook") -> str:
        """The hook's address as the tool should have it; only its path without PUBLIC_URL."""
        context = VerificationContext(hook.settings.secrets, 0, keys=self.secret_key)
        token = hook.source.definition.signature.path_token(hook.name, context)
        return f"{self.public_url or ''}{hook.path}" + (f"/{token}" if token else "")

    @cached_property
    def accounts(self) -> dict[str, str]:
        """Hook to Visits account: the one that it names, else its own name if it has a token of its own, else `main`."""
        return {name: hook.account or self._default_account(name, hook) for name, hook in sorted(self.hooks.items())}

    def _default_account(self, name: str, hook: HookSettings) -> str:
        if hook.visits_api_token in (None, self.visits_api_token):
            return "main"
        return "hook.main" if name == "main" else name  # nobody can choose a name with a dot

    @cached_property
    def all_accounts(self) -> list[str]:
        return sorted({"main", *self.accounts.values()})

    @cached_property
    def tokens(self) -> dict[str, str]:
        """Visits account to token."""
        given = [(self.accounts[name], hook.visits_api_token) for name, hook in self.hooks.items()]
        return {account: token for account, token in [*given, ("main", self.visits_api_token)] if token}

    def hooks_for(self, account: str) -> list[str]:
        """The hooks whose visits go there."""
        return [name for name, of in self.accounts.items() if of == account]

    def describe(self) -> Iterator[dict[str, str]]:
        """Every setting by its name, with its value and what it means; of what is secret only whether it is set."""
        for name, known in type(self).model_fields.items():
            value = getattr(self, name)
            if name == "hooks":
                yield {"name": "HOOKS__…", "value": ", ".join(self.hooks) or "none", "meaning": known.description or ""}
                continue
            if not known.repr:
                value = "set" if value else None
            told = " ".join(value) if isinstance(value, tuple) else "" if value is None else str(value)
            yield {"name": name.upper(), "value": told or "not set", "meaning": known.description or ""}

    def contact_hash_key(self, account: str) -> bytes:
        """Of the digests under which e-mail addresses are remembered."""
        return (self.secret_key[0] if self.secret_key else self.tokens.get(account, "")).encode()


@dataclass(frozen=True)
class Hook:
    """A hook that exists, with the tool that rings there and the Visits account that its visits go to."""

    name: str
    settings: HookSettings
    source: LoadedSource
    account: str

    @property
    def path(self) -> str:
        return f"/hooks/{self.name}"
