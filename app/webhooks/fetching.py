"""Requests for records, and the credentials that go with them."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.webhooks.payload import Payload


def _no_follow_up(_: Payload) -> "Mapping[str, RecordRequest]":
    return {}


@dataclass(frozen=True, slots=True)
class RecordRequest:
    """A record to fetch, below the source's `api`: the body of a webhook never chooses the host.

    path: built from checked ids only. params: what follows it behind `?`.
    query: GraphQL: what is POSTed to `api` itself instead, with `variables`; the path only names the record.
    json, form: what is POSTed to the path instead. endpoint: where, if the path only names the record
        (JSON-RPC: `""`, the `api` itself).
    follow_up: what else is needed once this record is there, by name; `translate` finds the answers in `event.related`.
    """

    path: str
    query: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    form: Mapping[str, str] | None = None
    endpoint: str | None = None
    follow_up: "Callable[[Payload], Mapping[str, RecordRequest]]" = _no_follow_up

    @property
    def key(self) -> str:
        """Under which a specimen has this record: the path, with the params as they read."""
        params = "&".join(f"{name}={value}" for name, value in self.params.items())
        return f"{self.path}?{params}" if params else self.path

    @property
    def label(self) -> str:
        """The request in plans and attempts: the method and the first part of the path. A GraphQL query only reads."""
        posts = self.query is None and (self.json is not None or self.form is not None)
        return f"{'POST' if posts else 'GET'} {self.path.partition('/')[0]}"


class Credentials(Protocol):
    """How a request for a record shows who asks. names: the credentials (settings) that it takes.

    authenticate: given their values, the time, and what is asked for.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    def authenticate(self, credentials: Mapping[str, str], now: float, request: RecordRequest) -> "RequestAuth": ...


@dataclass(frozen=True, slots=True)
class RequestAuth:
    """headers and params that are added to a request. json: what is POSTed instead, where that is signed."""

    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class BasicAuth:
    """HTTP Basic. Both are names of credentials, not their values."""

    user: str
    password: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.user, self.password)

    def authenticate(self, credentials: Mapping[str, str], now: float, request: RecordRequest) -> RequestAuth:
        pair = f"{credentials[self.user]}:{credentials[self.password]}".encode()
        return RequestAuth({"authorization": f"Basic {base64.b64encode(pair).decode()}"})


@dataclass(frozen=True, slots=True)
class BearerAuth:
    """`Authorization: Bearer …`, or another word before it."""

    token: str = "TOKEN"
    scheme: str = "Bearer"

    @property
    def names(self) -> tuple[str, ...]:
        return (self.token,)

    def authenticate(self, credentials: Mapping[str, str], now: float, request: RecordRequest) -> RequestAuth:
        return RequestAuth({"authorization": f"{self.scheme} {credentials[self.token]}"})


@dataclass(frozen=True, slots=True)
class ApiKeyAuth:
    """Headers and params that each hold one credential: `Keys(headers={"X-API-Key": "API_KEY"})`."""

    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.headers.values(), *self.params.values())))

    def authenticate(self, credentials: Mapping[str, str], now: float, request: RecordRequest) -> RequestAuth:
        return RequestAuth(
            {name: credentials[credential] for name, credential in self.headers.items()},
            {name: credentials[credential] for name, credential in self.params.items()},
        )


@dataclass(frozen=True, slots=True)
class TokenExchange:
    """How the credential TOKEN is got, where it lives for a while only: once for all workers, again before it ends and
    after a 401. A TOKEN that is set is used as it is.

    url: where; HOOKS__<NAME>__TOKEN_URL replaces it. names: the credentials that it takes.
    form, json, headers: what is POSTed there; `{NAME}` in a text stands for that credential.
    token_path: where the token stands in the answer. default_ttl_s: how long it lives, where the answer has no `expires_in`.
    A `refresh_token` in the answer replaces the credential REFRESH_TOKEN from then on.
    """

    url: str
    names: tuple[str, ...]
    form: Mapping[str, str] | None = None
    json: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    token_path: tuple[str, ...] = ("access_token",)
    default_ttl_s: float = 3_000


def refresh_token_exchange(url: str) -> TokenExchange:
    """OAuth's refresh token: the app's CLIENT_ID and CLIENT_SECRET, and the account's REFRESH_TOKEN."""
    return TokenExchange(
        url,
        ("CLIENT_ID", "CLIENT_SECRET", "REFRESH_TOKEN"),
        form={
            "grant_type": "refresh_token",
            "client_id": "{CLIENT_ID}",
            "client_secret": "{CLIENT_SECRET}",
            "refresh_token": "{REFRESH_TOKEN}",
        },
    )
