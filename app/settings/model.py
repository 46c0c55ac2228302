"""The settings: read from the environment once, at start; only the stored hooks change while a process runs."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from app.webhooks.registry import load_sources
from app.webhooks.signatures.scheme import VerificationContext
from app.webhooks.source import Auth, LoadedSource


def _rule(sentence: str) -> PydanticCustomError:
    return PydanticCustomError("rule", "{rule}", {"rule": sentence})


def _split_words(value: Any) -> Any:
    return value.split() if isinstance(value, str) else value


def _web_address(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise _rule("must be a URL that begins with https:// (or http://)")
    try:
        is_complete = _is_host(urlsplit(value).netloc.rpartition("@")[2])
    except ValueError:
        is_complete = False
    if not is_complete or not value.isprintable() or " " in value:
        raise _rule("must be a URL with a host, a port that is a number, and no blanks")
    return value.rstrip("/")


def _is_host(text: str) -> bool:
    """Return whether this is the name or the address of a host, with or without a port."""
    try:
        place = urlsplit(f"//{text}")
        return bool((place.hostname or "").encode("idna")) and place.port != 0
    except ValueError:  # also of `port`; UnicodeError is a ValueError
        return False


_SENTINEL_URL = re.compile(
    r"rediss?\+sentinel://(?:[^@/]*@)?(?P<hosts>[^@/,]+(?:,[^@/,]+)*)/[^/?]+(?:/[0-9]*)?(?:\?.*)?"
)


def redis_url(value: str) -> str:
    """Return the URL. Raises ValueError with a rule if it is not one of Redis."""
    if value.startswith(("redis+sentinel://", "rediss+sentinel://")):
        match = _SENTINEL_URL.fullmatch(value)
        if not match or not all(map(_is_host, match["hosts"].split(","))):
            raise _rule("must name the Sentinels and the primary, like redis+sentinel://host1,host2,host3/mymaster/0")
        return value
    if not value.startswith(("redis://", "rediss://", "unix://")):
        raise _rule("must be a URL that begins with redis://, rediss://, unix:// or redis+sentinel://")
    try:
        url = urlsplit(value)
    except ValueError:
        raise _rule(_NOT_ENCODED) from None
    if url.scheme == "unix":
        if not url.path:
            raise _rule("must have the path of a socket, like unix:///run/redis.sock")
        return value
    host = url.netloc.rpartition("@")[2]
    # What follows an unencoded `/`, `?` or `#` of a password is not part of `netloc`.
    if (host.strip(":") and not _is_host(host)) or "@" in f"{url.path}{url.query}{url.fragment}":
        raise _rule(_NOT_ENCODED)
    return value


_NOT_ENCODED = (
    "must be a URL of a host; encode `/`, `?`, `#`, `@`, `:` and `%` in a password as %2F, %3F, %23, %40, %3A, %25"
)


def hash_password(password: str) -> str:
    """Return the hash in the form for the environment, without `$`."""
    from argon2 import PasswordHasher

    return portable_hash(PasswordHasher().hash(password))


def portable_hash(argon2_hash: str) -> str:
    """Return the hash with dots for its `$`, which compose and shells would expand."""
    return argon2_hash.removeprefix("$").replace("$", ".")


def _password_hashes(value: str) -> str:
    """Accept one hash, or several with the names of their users, in both forms. Return the form with `$`."""
    if ":" not in value:
        return _argon2(value)
    entries = [entry.rpartition(":") for entry in value.split()]
    if not all(USER_NAME.fullmatch(name) for name, _, _ in entries):
        raise _rule("must be one hash, or several with names like ada:HASH, separated by spaces")
    if len({name.casefold() for name, _, _ in entries}) < len(entries):
        raise _rule("has two hashes with the same name")
    return " ".join(f"{name}:{_argon2(password_hash)}" for name, _, password_hash in entries)


USER_NAME = re.compile(r"[\w.@+-]{1,80}")


def _argon2(value: str) -> str:
    """Accept both forms of a hash, and return the one with `$`."""
    from argon2 import extract_parameters
    from argon2.exceptions import InvalidHashError

    argon2_hash = value if value.startswith("$") else "$" + value.replace(".", "$")
    try:
        extract_parameters(argon2_hash)
    except InvalidHashError:
        # What compose or a shell leaves of `$argon2id$v=19$m=65536,t=3,p=4$…`.
        if re.match(r"=\d+=\d+,t=\d", value):
            raise _rule("was a hash whose `$` were expanded; use the form of `doorbell hash-password`") from None
        raise _rule("must be the hash of a password, from `doorbell hash-password`") from None
    return argon2_hash


def _plain_name(value: str) -> str:
    if not re.fullmatch("[a-z0-9][a-z0-9_-]{0,39}", value):
        raise _rule("must be a name of lowercase letters, digits, _ and -, like east")
    return value


def _not_an_example(value: str) -> str:
    if value.lower().replace("-", "").replace("_", "").startswith("changeme"):
        raise _rule("still has the value of the example")
    return value


def _header_value(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise _rule(
            "must be one line of ASCII characters: copy it again, without quotation marks or invisible characters"
        )
    return value


def _header_name(value: str) -> str:
    if not value.replace("-", "").isalnum() or not value.isascii():
        raise _rule("must be the name of a header, like X-Forwarded-User")
    return value.lower()


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
        raise _rule("must be the name of a time zone, like America/New_York") from None
    return value


def _split_secrets(value: Any) -> Any:
    r"""Split at spaces. The lines of a PEM file, even if separated by a literal `\n`, are joined first."""
    if isinstance(value, str) and "-----BEGIN" in value:
        value = _PEM.sub(lambda pem: "".join(pem[1].split()), value.replace("\\n", "\n"))
    return _split_words(value)


_PEM = re.compile("-----BEGIN [A-Z ]+-----([A-Za-z0-9+/=\\s]+)-----END [A-Z ]+-----")


def _split_cells(value: Any) -> Any:
    """Read `east=redis://…,west=redis://…`, separated by commas or spaces. Sentinels have commas between them too."""
    if not isinstance(value, str):
        return value
    pairs = [pair.partition("=") for pair in re.split(r"[,\s]+(?=[^=,/\s]+=)", value.strip())]
    if not all(equals and url for _, equals, url in pairs) or len({name for name, _, _ in pairs}) < len(pairs):
        raise _rule("must be names with URLs, like east=redis://host1:6379/0,west=redis://host2:6379/0")
    return {_plain_name(name): redis_url(url) for name, _, url in pairs}


Secret = Annotated[str, AfterValidator(_not_an_example)]
#: A secret that is sent as (a part of) a header.
Token = Annotated[Secret, AfterValidator(_header_value)]
Words = Annotated[tuple[str, ...], BeforeValidator(_split_words)]
Keys = Annotated[tuple[Secret, ...], BeforeValidator(_split_words)]
Secrets = Annotated[tuple[Secret, ...], BeforeValidator(_split_secrets)]
AuthForms = Annotated[tuple[Auth, ...], BeforeValidator(_split_words), Field(min_length=1)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
RedisAddress = Annotated[str, AfterValidator(redis_url)]
Zone = Annotated[str, AfterValidator(_zone)]
#: The hash of a random password that nobody knows.
_EXAMPLE_HASH = "argon2id.v=19.m=65536,t=3,p=4.+wCWcNZPvnKLxrHdWsPvjA.TsYYKC/fTSxQmZYdMDyaMz6rp3bMjn5qq+7nKYOvXPk"
#: The name of an account is part of the ids of its tasks: `visit:<account>/<external_id>`.
AccountName = Annotated[str, AfterValidator(_plain_name)]
CellName = Annotated[str, AfterValidator(_plain_name)]
Cells = Annotated[dict[str, str], BeforeValidator(_split_cells)]
PasswordHashes = Annotated[str, AfterValidator(_password_hashes)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
#: The four calls that create a visit for a new contact must fit into one run (RUN_TIMEOUT_S in jobs/context.py).
CallsPerSecond = Annotated[float, Field(ge=0.2, allow_inf_nan=False)]


Role = Literal["operator", "viewer"]


class ConsoleUser(NamedTuple):
    """A user with a password. name: empty for a password without a name, which several people may share."""

    name: str
    role: Role
    password_hash: str

    @property
    def display_name(self) -> str:
        return self.name or self.role


class HookSettings(BaseModel):
    """A configured hook: `HOOKS__<NAME>__…`. Without a secret it is not active."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    secrets: Secrets = Field(
        (), repr=False, description="one secret, or several separated by spaces (rotation: all are accepted)"
    )
    source: str = Field("", description="the tool; by default the hook's own name")
    credentials: dict[str, Secret] = Field(
        {}, repr=False, description="credentials for the API of the tool: __API_KEY, __TOKEN, …"
    )
    api_url: WebAddress | None = Field(None, description="the URL of the tool's API; by default the tool's own")
    token_url: WebAddress | None = Field(
        None, description="the URL that renews expiring tokens; by default the tool's own"
    )
    tenants: Words = Field(
        (), description="the tool's accounts whose webhooks are accepted; by default all. Events of others are ignored"
    )
    visits_api_token: Token | None = Field(
        None, repr=False, description="the token of another Review Rover account for this hook"
    )
    account: AccountName | None = Field(
        None,
        description="the name of the Review Rover account: by default main, or the hook's name if it has its own token. "
        "Hooks that share an account have the same name here",
    )
    auth: AuthForms = Field(
        ("signature",),
        description="signature, bearer, or both: how a sender authenticates. Only the source standard has a choice",
    )
    timezone: Zone | None = Field(None, description="the time zone of local times without an offset")
    reconcile: Literal["daily", "never"] | None = Field(
        None,
        description="daily or never: whether missed changes are looked for each day; by default the source's choice",
    )
    uses_oauth: bool = Field(
        False, description="whether the hook was connected with OAuth: its tokens are stored apart"
    )
    tolerance: Seconds | None = Field(
        None, description="seconds: the maximum age of a signed time; by default the source's"
    )

    @property
    def zone(self) -> ZoneInfo | None:
        return ZoneInfo(self.timezone) if self.timezone else None

    @classmethod
    def variables(cls) -> dict[str, FieldInfo]:
        """Return the settings that the environment may have: all but those of stored hooks only."""
        return {name: field for name, field in cls.model_fields.items() if name != "uses_oauth"}

    def credential_variable(self, name: str, credential: str) -> str:
        """Return the variable of a credential of the hook with this name: one of the app, if it was connected with OAuth."""
        source = (self.source or name).upper()
        prefix = f"OAUTH__{source}" if self.uses_oauth else f"HOOKS__{name.upper()}__CREDENTIALS"
        return f"{prefix}__{credential}"


class OAuthApp(BaseModel):
    """An app that is registered at a tool: it connects accounts with OAuth."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    client_id: Secret | None = Field(None, description="the id of the app that is registered at the tool")
    client_secret: Secret | None = Field(None, repr=False, description="the secret of this app")
    webhook_secret: Secret | None = Field(
        None,
        repr=False,
        description="the secret that signs the webhooks of this app (Calendly, Housecall Pro)",
    )
    authorize_url: WebAddress | None = Field(
        None, description="the page of the tool that asks for consent; by default the tool's own"
    )
    token_url: WebAddress | None = Field(None, description="the tool's token endpoint; by default the tool's own")

    @property
    def credentials(self) -> dict[str, str]:
        """The app's credentials, as credentials of a hook."""
        pairs = {"CLIENT_ID": self.client_id, "CLIENT_SECRET": self.client_secret}
        return {name: value for name, value in pairs.items() if value}


class Settings(BaseModel):
    """All settings."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    redis_url: RedisAddress | None = Field(
        None,
        repr=False,
        description="the URL of Redis: redis://, rediss://, unix://, or redis+sentinel://HOST1,HOST2,HOST3/NAME/0. Only "
        "`demo` and the tests need none",
        examples=["redis://127.0.0.1:6379/0"],
    )
    redis_tls_verify: Literal["required", "none"] = Field(
        "required", description="required or none: none for Heroku, whose certificates are self-signed"
    )
    visits_api_url: WebAddress = Field(
        "https://dashboard.reviewrover.co/api/v1", description="the URL of Review Rover's Visits API"
    )
    visits_api_token: Token | None = Field(None, repr=False, description="Review Rover's token")
    visits_api_rate: CallsPerSecond | None = Field(
        None,
        description="the maximum number of calls per second and account, by all workers, 0.2 at least; unset: no limit but "
        "the API's 429",
        examples=["10"],
    )
    environment_hooks: dict[str, HookSettings] = Field({}, alias="hooks", description="the configured hooks")
    oauth_apps: dict[str, OAuthApp] = Field(
        {}, alias="oauth", repr=False, description="the apps that connect tools with OAuth"
    )
    retry_first_s: Seconds = Field(
        5, description="seconds: the longest delay before the second attempt; later delays double"
    )
    retry_cap_s: Seconds = Field(3_600, description="seconds: the longest delay between attempts")
    retry_for_s: Seconds = Field(
        259_200, description="seconds: a task whose attempts have failed for this long needs an operator"
    )
    contact_for_s: Seconds = Field(
        86_400, description="seconds: how long a visit without an e-mail address or a time waits for one"
    )
    connection_check_s: Seconds = Field(
        900, description="seconds: how often a worker asks each tool about its connection"
    )
    public_url: WebAddress | None = Field(
        None,
        description="Doorbell's own URL, the same for web and worker, for connections, setup steps, links in alerts, and "
        "tools that sign it (Square); unset: the platform's, on Fly, Heroku with dyno metadata, and for web on Render and "
        "Railway",
        examples=["https://doorbell.example.com"],
    )
    secret_key: Keys = Field(
        (),
        repr=False,
        description="key(s) for sessions, digests and stored tokens, newest first; 32 random characters or more each",
    )
    max_body: int = Field(262_144, ge=1_024, le=16_777_216, description="bytes: the largest body that is accepted")
    retention_days: int = Field(
        30, ge=9, le=3_650, description="days that deliveries are stored, and visits after their task is done"
    )
    body_keys: Keys = Field(
        (),
        repr=False,
        description="key(s) that encrypt bodies, newest first; 32 random characters or more each; unset: bodies are only "
        "compressed",
    )
    ack: Literal["write", "fsync", "replica"] = Field(
        "write",
        description="write, fsync or replica: whether 202 waits until the delivery is on disk, or also on that of a replica",
    )
    fast_path: Literal["on", "off"] = Field(
        "on", description="on or off: whether web takes the deliveries that arrive together through each step together"
    )
    log_format: Literal["json", "console"] = Field("json", description="json or console")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")
    metrics_token: Token | None = Field(
        None, repr=False, description="the bearer token for /metrics; unset: /metrics is closed"
    )
    alert_webhook_url: WebAddress | None = Field(
        None,
        repr=False,
        description="a Slack webhook for alerts: a message when an alert starts and when it ends",
        examples=["https://hooks.example.com/services/T0/B0/x"],
    )
    console_password_hash: PasswordHashes | None = Field(
        None,
        repr=False,
        description="the hash of the operators' password for /console, from `doorbell hash-password`; or one per user, "
        "with names: ada:HASH ben:HASH",
        examples=[_EXAMPLE_HASH],
    )
    console_viewer_password_hash: PasswordHashes | None = Field(
        None, repr=False, description="the same for viewers, who cannot change anything", examples=[_EXAMPLE_HASH]
    )
    console_proxy_header: HeaderName | None = Field(
        None, description="the header in which a trusted proxy sends the user's name", examples=["X-Forwarded-User"]
    )
    console_proxy_secret: Token | None = Field(
        None,
        repr=False,
        min_length=16,
        description="the value that this proxy sends in X-Doorbell-Proxy-Secret; without it, the header is ignored; 16 "
        "characters or more",
    )
    console_proxy_operators: Words = Field(
        (), description="the proxy's users who are operators; all others are viewers", examples=["ada@example.com"]
    )

    trusted_proxies: int | None = Field(
        None,
        ge=0,
        le=10,
        description="the number of proxies in front of Doorbell that add to X-Forwarded-For (Heroku: 1; with a CDN: 2; "
        "none: 0); unset: 1 for requests from a private address, else 0",
        examples=["1"],
    )

    cell: CellName | None = Field(
        None,
        description="the name of this cell, if there are several: a label of all metrics",
        examples=["east"],
    )
    cells: Cells = Field(
        {},
        repr=False,
        description="all cells with the URLs of their Redis, for `doorbell overview --cells` and `doorbell move`",
        examples=["east=redis://127.0.0.1:6379/0,west=redis://127.0.0.1:6380/0"],
    )

    _stored_hooks: Mapping[str, HookSettings] = PrivateAttr(default_factory=dict)
    _unusable_hooks: Mapping[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def variables(cls) -> dict[str, FieldInfo]:
        """Return the settings that are one variable each: all but the hooks and the apps."""
        return {
            name: field for name, field in cls.model_fields.items() if name not in ("environment_hooks", "oauth_apps")
        }

    @cached_property
    def hooks(self) -> dict[str, HookSettings]:
        """Return the hooks of the environment and the stored ones. Those of the environment are first, and win."""
        all_hooks = {**self.environment_hooks, **self.stored_hooks}
        return {name: self._with_app(name, hook) for name, hook in all_hooks.items()}

    def _with_app(self, name: str, hook: HookSettings) -> HookSettings:
        """Return the hook with the credentials of its app, if it was connected with OAuth."""
        app = self.oauth_apps.get(hook.source or name) if hook.uses_oauth else None
        return hook.model_copy(update={"credentials": {**hook.credentials, **app.credentials}}) if app else hook

    @property
    def all_stored_hooks(self) -> Mapping[str, HookSettings]:
        """The valid stored hooks, also those whose name the environment has."""
        return self._stored_hooks

    @property
    def stored_hooks(self) -> dict[str, HookSettings]:
        """The stored hooks in use: those whose name the environment does not have."""
        return {name: hook for name, hook in self._stored_hooks.items() if name not in self.environment_hooks}

    @property
    def unusable_hooks(self) -> dict[str, str]:
        """By name, why a stored hook cannot be used."""
        return {name: reason for name, reason in self._unusable_hooks.items() if name not in self.environment_hooks}

    @property
    def overridden_hooks(self) -> dict[str, HookSettings | None]:
        """The stored hooks whose name the environment has; None for those that cannot be used."""
        stored = {**dict.fromkeys(self._unusable_hooks), **self._stored_hooks}
        return {name: hook for name, hook in stored.items() if name in self.environment_hooks}

    def is_stored(self, name: str) -> bool:
        return name in self._stored_hooks and name not in self.environment_hooks

    def set_stored_hooks(
        self, hooks: Mapping[str, HookSettings], unusable: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Replace the stored hooks. unusable: by name, why a stored hook cannot be used."""
        self._stored_hooks, self._unusable_hooks = dict(hooks), dict(unusable)
        for name in ("hooks", "active_hooks", "accounts", "all_accounts", "tokens"):
            self.__dict__.pop(name, None)

    def with_stored_hooks(self, hooks: Mapping[str, HookSettings]) -> "Settings":
        copy = self.model_copy()
        copy.set_stored_hooks(hooks)
        return copy

    @property
    def has_console(self) -> bool:
        """Whether a password or a proxy is configured; otherwise the console does not exist."""
        return bool(self.console_password_hash or self.console_viewer_password_hash or self.console_proxy_header)

    @cached_property
    def console_users(self) -> list["ConsoleUser"]:
        """Return the users with a password."""
        by_role: dict[Role, str | None] = {
            "operator": self.console_password_hash,
            "viewer": self.console_viewer_password_hash,
        }
        entries = [
            (role, entry.rpartition(":")) for role, hashes in by_role.items() for entry in (hashes or "").split()
        ]
        return [ConsoleUser(name, role, password_hash) for role, (name, _, password_hash) in entries]

    @cached_property
    def active_hooks(self) -> dict[str, "Hook"]:
        """Return the hooks that have a secret."""
        accounts = self.accounts
        return {name: self._build(name, hook, accounts[name]) for name, hook in self.hooks.items() if hook.secrets}

    def hook(self, name: str) -> "Hook":
        """Return a hook, also one without a secret: its tool may have yet to choose it."""
        return self._build(name, self.hooks[name], self.accounts[name])

    def _build(self, name: str, settings: HookSettings, account: str) -> "Hook":
        source = self.source_for(name)
        url = self._hook_url(name, settings, source)
        context = VerificationContext(settings.secrets, 0, url, settings.tolerance, self.secret_key)
        return Hook(name, settings, source, account, context)

    def source_for(self, name: str) -> LoadedSource:
        """Return the source of a hook, with the form of authentication that it accepts, and the exchange of its tokens."""
        hook = self.hooks[name]
        source = load_sources()[hook.source or name]
        definition = source.definition.with_auth(hook.auth)
        if hook.uses_oauth and source.oauth:
            definition = replace(definition, token_exchange=source.oauth.refresh_exchange(self.token_url(source.name)))
        return source._replace(definition=definition)

    def redirect_uri(self, source: str) -> str:
        """Return where a tool sends the browser after a log-in, as it is registered there."""
        return f"{self.public_url or ''}/console/connect/{source}/callback"

    def token_url(self, source: str) -> str:
        """Return the token endpoint of an app, if it is not the tool's own."""
        app = self.oauth_apps.get(source)
        return app.token_url or "" if app else ""

    def missing_credentials(self, name: str) -> list[str]:
        """Return the credentials without which the records of a hook cannot be fetched, as `setting_name`."""
        source, hook = self.source_for(name), self.hooks[name]
        is_needed = source.fetch or hook.uses_oauth
        missing = source.definition.missing_credentials(hook.credentials) if is_needed else []
        if hook.uses_oauth:
            return [hook.credential_variable(name, credential) for credential in missing]
        return [self.setting_name(name, f"CREDENTIALS__{credential}") for credential in missing]

    def setting_name(self, hook: str, setting: str) -> str:
        """Return the variable of a hook's setting; a stored hook has none, so only the name of its setting."""
        return setting.removeprefix("CREDENTIALS__") if self.is_stored(hook) else f"HOOKS__{hook.upper()}__{setting}"

    def verification_context(self, hook: "Hook", now: float) -> VerificationContext:
        """Return the hook's settings that verify a delivery. now: seconds since 1970."""
        return hook.context._replace(now=now)

    def hook_url(self, hook: "Hook") -> str:
        """Return the URL to configure at the tool; only its path without PUBLIC_URL."""
        return hook.context.url

    def _hook_url(self, name: str, settings: HookSettings, source: LoadedSource) -> str:
        context = VerificationContext(settings.secrets, 0, keys=self.secret_key)
        token = source.definition.signature.path_token(name, context)
        return f"{self.public_url or ''}{hook_path(name)}" + (f"/{token}" if token else "")

    @cached_property
    def accounts(self) -> dict[str, str]:
        """Return the account of each hook: ACCOUNT if set, else the hook's name if it has its own token, else `main`."""
        return {name: hook.account or self._default_account(name, hook) for name, hook in sorted(self.hooks.items())}

    def _default_account(self, name: str, hook: HookSettings) -> str:
        if hook.visits_api_token in (None, self.visits_api_token):
            return "main"
        return "hook.main" if name == "main" else name  # cannot be configured: a name has no dot

    @cached_property
    def all_accounts(self) -> list[str]:
        return sorted({"main", *self.accounts.values()})

    @cached_property
    def tokens(self) -> dict[str, str]:
        """Return the Visits API token of each account."""
        pairs = [(self.accounts[name], hook.visits_api_token) for name, hook in self.hooks.items()]
        return {account: token for account, token in [*pairs, ("main", self.visits_api_token)] if token}

    def hooks_for(self, account: str) -> list[str]:
        return [name for name, hook_account in self.accounts.items() if hook_account == account]

    def describe(self) -> Iterator[dict[str, str]]:
        """Yield every setting with its value and meaning; for a secret, only whether it is set."""
        for name, setting in type(self).model_fields.items():
            value = getattr(self, name)
            if name == "environment_hooks":
                yield {
                    "name": "HOOKS__…",
                    "value": ", ".join(self.hooks) or "none",
                    "meaning": setting.description or "",
                }
                continue
            if name == "oauth_apps":
                apps = ", ".join(self.oauth_apps) or "none"
                yield {"name": "OAUTH__…", "value": apps, "meaning": setting.description or ""}
                continue
            if not setting.repr:
                value = "set" if value else None
            text = " ".join(value) if isinstance(value, tuple) else "" if value is None else str(value)
            yield {"name": name.upper(), "value": text or "not set", "meaning": setting.description or ""}

    def contact_hash_key(self, account: str) -> bytes:
        """Return the key of the digests under which contacts are cached."""
        return (self.secret_key[0] if self.secret_key else self.tokens.get(account, "")).encode()


@dataclass(frozen=True)
class Hook:
    """A hook, with its source and the account of its visits. context: what verifies a delivery, but for the time."""

    name: str
    settings: HookSettings
    source: LoadedSource
    account: str
    context: VerificationContext = field(repr=False)

    @property
    def path(self) -> str:
        return hook_path(self.name)


def hook_path(name: str) -> str:
    return f"/hooks/{name}"
