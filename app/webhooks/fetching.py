"""Requests for records, and their authentication."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from app.webhooks.payload import Payload


def _no_follow_up(_: Payload) -> "Mapping[str, RecordRequest]":
    return {}


@dataclass(frozen=True, slots=True)
class RecordRequest:
    """The request for a record, relative to the source's `api_url`: the body of a webhook never chooses the host.

    path: built from checked ids only. A path that begins with / or ../ leaves the path of `api_url`, but not its host.
    params: the query string.
    query: a GraphQL query, POSTed to `api_url` with `variables`; then `path` only identifies the record.
    json, form: the body of a POST to the path, instead of a GET.
    method: another method, such as DELETE.
    headers: further headers; they replace headers of the same name in the source's `api_headers`.
    endpoint: the path of the POST, if `path` only identifies the record (`""` for JSON-RPC: `api_url` itself).
    api: a second API of the tool, instead of the one at `api_url`; a constant of the module.
    follow_up: returns the requests for related records, by name, after this record was fetched. `translate` finds those
        records in `event.related`.
    """

    path: str
    query: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    form: Mapping[str, str] | None = None
    endpoint: str | None = None
    method: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    api: "Api | None" = None
    follow_up: "Callable[[Payload], Mapping[str, RecordRequest]]" = _no_follow_up

    @property
    def key(self) -> str:
        """The key of this record in a specimen: the path with the parameters, not URL-encoded."""
        params = "&".join(f"{name}={value}" for name, value in self.params.items())
        return f"{self.path}?{params}" if params else self.path

    @property
    def label(self) -> str:
        """The request as plans and attempts show it: the method and the first part of the path.

        A GraphQL query counts as GET.
        """
        posts = self.query is None and (self.json is not None or self.form is not None)
        return f"{self.method or ('POST' if posts else 'GET')} {self.path.lstrip('./').partition('/')[0]}"


class Credentials(Protocol):
    """Authenticates requests for records. `names` are the credentials (settings) that it needs."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def authenticate(self, credentials: Mapping[str, str], now: float, request: RecordRequest) -> "RequestAuth": ...


class RequestAuth(NamedTuple):
    """Headers and parameters to add to a request. json: replaces the body, for tools that require a signature in it."""

    headers: Mapping[str, str] = MappingProxyType({})
    params: Mapping[str, str] = MappingProxyType({})
    json: Mapping[str, Any] | None = None


class Api(NamedTuple):
    """A second API of a tool, with its own host and credentials. HOOKS__<NAME>__API_URL replaces its URL, too.

    Lists use the first API.
    """

    url: str
    credentials: Credentials


class BasicAuth(NamedTuple):
    """HTTP Basic. `user` and `password` are names of credentials, not values."""

    user: str
    password: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.user, self.password)

    def authenticate(self, credentials: Mapping[str, str], now: float, request: RecordRequest) -> RequestAuth:
        pair = f"{credentials[self.user]}:{credentials[self.password]}".encode()
        return RequestAuth({"authorization": f"Basic {base64.b64encode(pair).decode()}"})


class BearerAuth(NamedTuple):
    """`Authorization: Bearer …`, or another `scheme`. `token` is the name of the credential, not its value."""

    token: str = "TOKEN"
    scheme: str = "Bearer"

    @property
    def names(self) -> tuple[str, ...]:
        return (self.token,)

    def authenticate(self, credentials: Mapping[str, str], now: float, request: RecordRequest) -> RequestAuth:
        return RequestAuth({"authorization": f"{self.scheme} {credentials[self.token]}"})


class ApiKeyAuth(NamedTuple):
    """Headers and parameters with one credential each: `ApiKeyAuth(headers={"X-API-Key": "API_KEY"})`."""

    headers: Mapping[str, str] = MappingProxyType({})
    params: Mapping[str, str] = MappingProxyType({})

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
    """The request for a TOKEN that expires.

    One worker sends it for all workers, before the token expires and after a 401.

    A TOKEN in the settings is used unchanged. A `refresh_token` in the response replaces the credential REFRESH_TOKEN.

    url: the token endpoint, or its path below `api_url`; HOOKS__<NAME>__TOKEN_URL replaces it.
    names: the credentials that the request needs.
    form, json, headers: the POST request; `{NAME}` in a string is replaced by that credential.
    is_basic_auth: whether CLIENT_ID and CLIENT_SECRET are sent with HTTP Basic (RFC 6749, 2.3.1).
    token_path: the path to the token in the response.
    default_ttl_s: the lifetime of a token if the response has no `expires_in`.
    """

    url: str
    names: tuple[str, ...]
    form: Mapping[str, str] | None = None
    json: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_basic_auth: bool = False
    token_path: tuple[str, ...] = ("access_token",)
    default_ttl_s: float = 3_000


def iso_milliseconds(time: datetime) -> str:
    """Format a time in UTC with milliseconds and `Z`, as the parameters of many APIs have it."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def refresh_token_exchange(url: str) -> TokenExchange:
    """Return OAuth's exchange of a refresh token, with the app's CLIENT_ID and CLIENT_SECRET."""
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
