"""Requests for records, and the credentials that go with them."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.webhooks.payload import Json


def _nothing(_: Json) -> "Mapping[str, Get]":
    return {}


@dataclass(frozen=True, slots=True)
class Get:
    """A record to fetch, below the source's `api`: the body of a webhook never chooses the host.

    path: built from checked ids only. params: what follows it behind `?`.
    query: GraphQL: what is POSTed to `api` itself instead, with `variables`; the path only names the record.
    json, form: what is POSTed to the path instead, as JSON or as a form. at: where, if the path only names the record
        (JSON-RPC: `""`, the `api` itself).
    then: what else is needed once this record is there, by name; `translate` finds the answers in `event.beside`.
    """

    path: str
    query: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    form: Mapping[str, str] | None = None
    at: str | None = None
    then: "Callable[[Json], Mapping[str, Get]]" = _nothing

    @property
    def name(self) -> str:
        """Under which a specimen has this record: the path, with the params as they read."""
        asked = "&".join(f"{name}={value}" for name, value in self.params.items())
        return f"{self.path}?{asked}" if asked else self.path

    @property
    def call(self) -> str:
        """The request in plans and attempts: the method and the first part of the path. A GraphQL query only reads."""
        posts = self.query is None and (self.json is not None or self.form is not None)
        return f"{'POST' if posts else 'GET'} {self.path.partition('/')[0]}"


class Credentials(Protocol):
    """How a request for a record shows who asks. names: the credentials (settings) that it takes.

    show: given their values, the time, and what is asked for.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    def show(self, given: Mapping[str, str], now: float, get: Get) -> "Shown": ...


@dataclass(frozen=True, slots=True)
class Shown:
    """headers and params that are added to a request. json: what is POSTed instead of the Get's, where that is signed."""

    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Basic:
    """HTTP Basic. Both are names of credentials, not their values."""

    user: str
    password: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.user, self.password)

    def show(self, given: Mapping[str, str], now: float, get: Get) -> Shown:
        pair = f"{given[self.user]}:{given[self.password]}".encode()
        return Shown({"authorization": f"Basic {base64.b64encode(pair).decode()}"})


@dataclass(frozen=True, slots=True)
class Bearer:
    """`Authorization: Bearer …`, or another word before it."""

    token: str = "TOKEN"
    word: str = "Bearer"

    @property
    def names(self) -> tuple[str, ...]:
        return (self.token,)

    def show(self, given: Mapping[str, str], now: float, get: Get) -> Shown:
        return Shown({"authorization": f"{self.word} {given[self.token]}"})


@dataclass(frozen=True, slots=True)
class Keys:
    """Headers and params that each hold one credential: `Keys(headers={"X-API-Key": "API_KEY"})`."""

    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.headers.values(), *self.params.values())))

    def show(self, given: Mapping[str, str], now: float, get: Get) -> Shown:
        return Shown(
            {name: given[credential] for name, credential in self.headers.items()},
            {name: given[credential] for name, credential in self.params.items()},
        )


@dataclass(frozen=True, slots=True)
class Exchange:
    """How the credential TOKEN is got, where it lives for a while only: once for all workers, again before it ends and
    after a 401. A TOKEN that is set is used as it is.

    url: where; HOOKS__<NAME>__TOKEN_URL replaces it. names: the credentials that it takes.
    form, json, headers: what is POSTed there; `{NAME}` in a text stands for that credential.
    at: where the token stands in the answer. lives_s: how long it lives, where the answer has no `expires_in`.
    A `refresh_token` in the answer replaces the credential REFRESH_TOKEN from then on.
    """

    url: str
    names: tuple[str, ...]
    form: Mapping[str, str] | None = None
    json: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    at: tuple[str, ...] = ("access_token",)
    lives_s: float = 3_000


def refreshed(url: str) -> Exchange:
    """OAuth's refresh token: the app's CLIENT_ID and CLIENT_SECRET, and the account's REFRESH_TOKEN."""
    return Exchange(
        url,
        ("CLIENT_ID", "CLIENT_SECRET", "REFRESH_TOKEN"),
        form={
            "grant_type": "refresh_token",
            "client_id": "{CLIENT_ID}",
            "client_secret": "{CLIENT_SECRET}",
            "refresh_token": "{REFRESH_TOKEN}",
        },
    )
