"""What a source is: every module of app/sources that declares SOURCE is one.

A source is a pair of files: `tool.py` with SOURCE, `translate` and, where its events only point at a record, `fetch`;
and `tool.json`, its specimens. The module's name is the only name: of the hook, the settings and the `external_id`s.
Nothing is registered anywhere else.

    SOURCE       what the tool is, as data: see Source below
    translate    (event) → the changes that it means, or Ignored; pure. It may raise Untranslatable (`event.data` does, where
                 a value is not what the tool promises): then the event is kept, and an operator looks at it. Where some
                 changes are certain all the same, it raises PartlyTranslatable with them
    fetch        thin sources: (event) → a RecordRequest for each record that the event points at, none where it says
                 all by itself;
                 pure. `translate` is then called once for each record, with it in `event.record`
    people       thin sources whose record lists several people, each of them a visit: (event with a record) → the booking's
                 visit id and the ids of the people in the record, none where it is gone; pure. `translate` finds all who
                 were ever listed in `event.people`: a record does not tell who was removed

How to read a body: payload.py (Payload). What a change can say: app/visits/change.py (VisitChange). Schemes of signatures:
signatures/. Handshakes: handshakes.py. Requests for records: fetching.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from app.visits.change import VisitChange
from app.webhooks.delivery import BodyFormat, Event
from app.webhooks.fetching import Credentials, RecordRequest, TokenExchange
from app.webhooks.handshakes import SignedHandshake, UnsignedHandshake
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.signatures.combined import FirstPresent
from app.webhooks.signatures.scheme import Scheme

#: Where our facts come from at their weakest.
Evidence = Literal["vendor", "second-hand", "recalled"]
#: "Verified by …": what each level means to somebody who decides whether to rely on a source.
VERIFIED_BY: Mapping[Evidence, str] = {
    "vendor": "the vendor's documentation",
    "second-hand": "integrators' code and recorded payloads",
    "recalled": "nobody: parts come from memory",
}
#: How a sender proves itself, where a source offers a choice (HOOKS__<NAME>__AUTH).
Auth = Literal["signature", "bearer"]
#: Settings that a hook may need beside its secrets and credentials.
RequiredSetting = Literal["API_URL", "TOKEN_URL", "TIMEZONE", "TENANTS"]


@dataclass(frozen=True, slots=True)
class Ignored:
    """Genuine, and nothing to do with visits. reason: the event's name, or a word like `opted_out`."""

    reason: str


class PartlyTranslatable(Untranslatable):
    """The changes are certain and are applied; the rest of the event needs an operator, so the delivery is parked too."""

    def __init__(self, reason: str, changes: "list[VisitChange]") -> None:
        super().__init__(reason)
        self.changes = changes


#: The record is not there, and the event alone says nothing. Right after the event it is asked for again.
RECORD_GONE = Ignored("record_gone")


def graphql_record(answer: Payload | None, name: str, title: str) -> Payload | None:
    """What a query asked for; None where the tool says that it has no such record. answer: None where it said so by its
    status.

    An answer with errors is no such word: the token may be wrong, a permission missing or the query out of date.
    """
    if answer is None:
        return None
    found, errors = answer.at("data", name), list(answer.at("errors"))
    if found:
        return found
    if any("NOT_FOUND" in (error.at("extensions", "code").value, error.at("code").value) for error in errors):
        return None
    if errors or not answer.at("data"):
        raise Untranslatable(f"{title} answered without the {name}: check the token, its scopes and the API's version")
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A scheduling tool, as data.

    docs: the vendor's page on its webhooks.
    signature: the scheme; `PathToken()` or `HeaderToken(…)` for tools that sign nothing.
    bearer: the scheme for senders that cannot sign, which a hook may choose instead of the signature, or beside it.
    setup: steps for the person who connects the tool: where to click, what to tick, what it cannot tell. `{url}` is
        the hook's address.
    evidence: where our facts come from at their weakest; VERIFIED_BY says what the words mean.
    body_format: what the body is.
    content_encodings: how the tool may compress its bodies: `gzip`. The signature covers the bytes as they are sent.
    event_name_path: the path to the event's name in the body; it is for people only, and may lead nowhere. What is
        there is shown:
        `()` for tools that may write personal data into it.
    event_name: the event's name, made of words of our own, where `event_name_path` is `()`.
    repeat_key: what names an event, the same on every retry; None (the default): the digest of the body. It must be
        covered by the signature.
    events_may_collide: two different events can be the same to the byte, so a repeat is fetched again instead of
        forgotten, once a minute at the most.
    ordered_by_arrival: neither a time nor a version orders the changes, and none is signed, so a repeat must be known for
        longer.
    tenant_of: the tool's account that the event is from, where one hook could hear of several: with the setting TENANTS,
        those of all others are ignored.
    required_settings: settings without which the hook cannot work.
    kept_headers: the headers that `translate` or `repeat_key` need; they are kept, and stand in `event.headers`
        spelled as here.
        `?name` is a parameter of the address, which is proven only where the signature covers `{url}`.
    handshake: one that comes without a signature. signed_handshake: one that is answered once the signature holds.
    probe_methods: methods by which the tool tries an address: answered 200 with nothing.
    unavailable_status: the status of our own trouble that this tool tries again after.
    sender_timeout_s: the tool's patience, where it is shorter than ours.
    api_url: where records are fetched; `""`, with API_URL among the required settings, where each customer has an
    address of their own.
    credentials: how a request shows who asks: BasicAuth, BearerAuth, ApiKeyAuth, or a class of the module's own
    (Credentials).
    token_exchange: how the credential TOKEN is got, where tokens expire.
    api_headers: fixed headers of those requests.
    rate_limit_reset_header: the header in which the tool says, beside 429, how many seconds to wait (or until when,
    since 1970).
    """

    title: str
    docs: str
    signature: Scheme
    setup: str
    evidence: Evidence
    bearer: Scheme | None = None
    body_format: BodyFormat = "json"
    content_encodings: tuple[Literal["gzip"], ...] = ()
    event_name_path: tuple[str, ...] = ("type",)
    event_name: Callable[[Event], str] | None = None
    repeat_key: Callable[[Event], str | None] | None = None
    events_may_collide: bool = False
    ordered_by_arrival: bool = False
    tenant_of: Callable[[Event], str | None] | None = None
    required_settings: tuple[RequiredSetting, ...] = ()
    kept_headers: tuple[str, ...] = ()
    handshake: UnsignedHandshake | None = None
    signed_handshake: SignedHandshake | None = None
    probe_methods: tuple[str, ...] = ()
    unavailable_status: int = 503
    sender_timeout_s: float = 3.0
    api_url: str | None = None
    credentials: Credentials | None = None
    token_exchange: TokenExchange | None = None
    api_headers: Mapping[str, str] = field(default_factory=dict)
    rate_limit_reset_header: str | None = None

    def with_auth(self, auth: Sequence[str]) -> "Source":
        """This source for a hook that accepts these forms of authentication. With both, a delivery that carries a
        signature must have the right one: it is never accepted by its bearer token."""
        if not self.bearer or "bearer" not in auth:
            return self
        return replace(
            self, signature=FirstPresent(self.signature, self.bearer) if "signature" in auth else self.bearer
        )

    @property
    def credential_names(self) -> tuple[str, ...]:
        """Every credential that a hook of this tool may have."""
        names = (
            *(self.credentials.names if self.credentials else ()),
            *(self.token_exchange.names if self.token_exchange else ()),
        )
        return tuple(dict.fromkeys(names))

    def missing_credentials(self, given: Mapping[str, str]) -> list[str]:
        """The credentials that are needed and not given: TOKEN is not, where it can be exchanged for the others."""
        required = self.credentials.names if self.credentials else ()
        missing = [name for name in required if name not in given]
        if self.token_exchange and "TOKEN" in missing:
            missing = [name for name in self.credential_names if name not in given and name != "TOKEN"]
        return missing


Translate = Callable[[Event], "list[VisitChange] | Ignored"]
Fetch = Callable[[Event], list[RecordRequest]]
People = Callable[[Event], tuple[str, list[str]]]


@dataclass(frozen=True, slots=True)
class LoadedSource:
    """A source with its name and its functions, as `load_sources` finds it."""

    name: str
    definition: Source
    translate: Translate
    fetch: Fetch | None
    people: People | None = None


class InvalidSource(Exception):
    """A module in this folder is not a source. It names the file and what is missing."""
