"""The definition of a source: every module of app/sources that declares SOURCE is a source.

A source is a pair of files: `tool.py` with SOURCE, `translate` and, if its events only refer to a record, `fetch`; and
`tool.json` with its specimens. The module's name is the default name of the hook, and the prefix of the settings and of
each `external_id`. No other file registers a source.

    SOURCE       the tool as data: see Source below
    translate    (event) → the changes that the event means, or Ignored; pure. It may raise Untranslatable, which parks the
                 event for an operator; `event.data` raises it if a value does not have the documented type. If some of
                 the changes are certain, it raises PartlyTranslatable with those
    fetch        thin sources: (event) → a RecordRequest for each record that the event refers to; an empty list if the
                 event itself is complete; pure. `translate` is then called once for each record, which is in
                 `event.record`
    people       thin sources whose record lists several people, each with a visit: (event with a record) → the
                 booking's visit id and the ids of the people in the record; no ids if the record is gone; pure.
                 `event.people` then has the ids of all people that any record of the booking has listed: a record does
                 not list people who were removed

A source may also declare SUBSCRIPTION, LISTING and OAUTH: see subscription.py.

See also payload.py (Payload: reading a body), app/visits/change.py (VisitChange), signatures/ (schemes),
handshakes.py, and fetching.py (requests for records).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from app.visits.change import VisitChange
from app.webhooks.delivery import BodyFormat, Event
from app.webhooks.evidence import Evidence
from app.webhooks.fetching import Credentials, RecordRequest, TokenExchange
from app.webhooks.handshakes import SignedHandshake, UnsignedHandshake
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.signatures.combined import FirstPresent
from app.webhooks.signatures.scheme import Scheme
from app.webhooks.subscription import Listing, OAuth, Subscription

#: The authentication of senders, where a source offers a choice (HOOKS__<NAME>__AUTH).
Auth = Literal["signature", "bearer"]
#: Settings that a hook may need in addition to its secrets and credentials.
RequiredSetting = Literal["API_URL", "TOKEN_URL", "TIMEZONE", "TENANTS"]


class Ignored(NamedTuple):
    """A verified event that is irrelevant to visits. reason: the event's name, or a short phrase."""

    reason: str


class PartlyTranslatable(Untranslatable):
    """Some changes are certain and are applied.

    The delivery is parked too, because an operator must decide the others.
    """

    def __init__(self, reason: str, changes: "list[VisitChange]") -> None:
        super().__init__(reason)
        self.changes = changes


#: Whether a tool sends a delivery again after a failure.
Retries = Literal["yes", "no", "unknown"]
#: The tool has no such record, and the event alone does not contain enough. The worker fetches the record again if the
#: event is recent.
RECORD_GONE = Ignored("record_gone")


def graphql_record(response: Payload | None, name: str, title: str) -> Payload | None:
    """Return the record in a GraphQL response; None if the tool has no such record.

    Raise Untranslatable for other errors: the token may be wrong, a permission may be missing, or the query out of date.

    response: None if the tool answered 404.
    """
    if response is None:
        return None
    record, errors = response.at("data", name), list(response.at("errors"))
    if record:
        return record
    if any("NOT_FOUND" in (error.at("extensions", "code").value, error.at("code").value) for error in errors):
        return None
    if errors or not response.at("data"):
        raise Untranslatable(f"{title} answered without the {name}: check the token, its scopes and the API's version")
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A scheduling tool, as data.

    docs: the vendor's page on its webhooks.
    credential_help: for each credential, its name at the tool and where the tool shows it; the form that connects the
        tool displays both. If TOKEN is listed with other credentials, it is an alternative to them.
    is_common: many offices use the tool, so lists of tools begin with it.
    signature: the scheme; `PathToken()` or `HeaderToken(…)` for tools that sign nothing.
    bearer: the scheme for senders that cannot sign. A hook may accept it instead of the signature, or in addition.
    setup: steps for the person who connects the tool: where to click, what to select, which events the tool does not
        send. `{url}` is the hook's URL, `{hook}` its name.
    evidence: the weakest evidence for the facts in this source; VERIFIED_BY explains the values.
    content_encodings: the encodings that the tool may use: `gzip`. The signature covers the bytes as they are sent.
    event_name_path: the path to the event's name in the body. The name is only displayed, and may be missing. `()` for
        tools that may write personal data there.
    event_name: returns the event's name from a fixed list, if `event_name_path` is `()`.
    repeat_key: returns an id of the event that is the same on every retry; the signature must cover it. Without it, the
        digest of the body identifies the event.
    events_may_collide: two different events can be byte-identical. A repeat is not dropped: its record is fetched
        again, at most once a minute.
    ordered_by_arrival: the events have no time and no version, so the order of arrival orders the changes. No time is
        signed, so repeats must be recognized for longer.
    ids_are_global: whether an id belongs to one visit in all accounts of the tool, or the id of a visit contains the
        account. If not, two hooks of this source in one Review Rover account may have different visits with one id.
    tenant_of: returns the tool's account that the event is from, for tools where one hook may get events of several
        accounts. With the setting TENANTS, events of other accounts are ignored.
    required_settings: the settings that the hook needs.
    stored_headers: the headers that `translate` or `repeat_key` need; they are stored, and are in `event.headers` under
        these names. `?name` is a query parameter, which is authentic only if the signature covers `{url}`.
    handshake: a handshake without a signature. signed_handshake: a handshake that is answered after verification.
    probe_methods: the HTTP methods with which the tool tests a URL; they are answered 200 with an empty body.
    retries: whether the tool sends a delivery again after `unavailable_status`. "no": hardly ever, or never.
    unavailable_status: the status of the response when Doorbell cannot store a delivery: one after which this tool retries,
        if it retries at all.
    sender_timeout_s: how long the tool waits for a response, if that is shorter than the default.
    api_url: the base URL of records; `""`, with API_URL in required_settings, if each customer has a different one.
    credentials: the authentication of requests for records: BasicAuth, BearerAuth, ApiKeyAuth, or a class of the module
        (Credentials).
    optional_credentials: further credentials that `credentials` uses if a hook has them.
    token_exchange: the request for a TOKEN, for tools whose tokens expire.
    api_headers: fixed headers of the requests for records.
    rate_limit_reset_header: the header of a 429 response with the seconds to wait, or with the end of the wait in
        seconds since 1970.
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
    ids_are_global: bool = True
    tenant_of: Callable[[Event], str | None] | None = None
    required_settings: tuple[RequiredSetting, ...] = ()
    stored_headers: tuple[str, ...] = ()
    handshake: UnsignedHandshake | None = None
    signed_handshake: SignedHandshake | None = None
    probe_methods: tuple[str, ...] = ()
    retries: Retries = "unknown"
    unavailable_status: int = 503
    sender_timeout_s: float = 3.0
    api_url: str | None = None
    credentials: Credentials | None = None
    optional_credentials: tuple[str, ...] = ()
    credential_help: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    is_common: bool = False
    token_exchange: TokenExchange | None = None
    api_headers: Mapping[str, str] = field(default_factory=dict)
    rate_limit_reset_header: str | None = None

    def with_auth(self, auth: Sequence[str]) -> "Source":
        """Return this source for a hook that accepts these forms of authentication.

        With both, a delivery with a signature must have a valid signature: its bearer token is not considered.
        """
        if not self.bearer or "bearer" not in auth:
            return self
        return replace(
            self, signature=FirstPresent(self.signature, self.bearer) if "signature" in auth else self.bearer
        )

    @property
    def is_secret_user_chosen(self) -> bool:
        """Whether people make up the secret themselves, instead of copying it from the tool."""
        # The tool does not know the secret of a path token. Senders with bearer tokens are the user's own programs.
        return self.signature.is_secret_user_chosen or self.signature.needs_secret_key or self.bearer is not None

    @property
    def credential_names(self) -> tuple[str, ...]:
        """All credentials that a hook of this source can have."""
        names = (
            *(self.credentials.names if self.credentials else ()),
            *(self.token_exchange.names if self.token_exchange else ()),
            *self.optional_credentials,
        )
        return tuple(dict.fromkeys(names))

    def describe_credential(self, name: str) -> tuple[str, str]:
        """Return the name of a credential for people, and where the tool shows it; empty if that is unknown."""
        return self.credential_help.get(name, (name.replace("_", " ").capitalize(), ""))

    def missing_credentials(self, configured: Mapping[str, str]) -> list[str]:
        """Return the required credentials that are missing.

        TOKEN is not required if other credentials can be exchanged for it.
        """
        required = self.credentials.names if self.credentials else ()
        missing = [name for name in required if name not in configured]
        if self.token_exchange and "TOKEN" in missing:
            optional = {"TOKEN", *self.optional_credentials}
            missing = [name for name in self.credential_names if name not in configured and name not in optional]
        return missing


Translate = Callable[[Event], "list[VisitChange] | Ignored"]
Fetch = Callable[[Event], list[RecordRequest]]
People = Callable[[Event], tuple[str, list[str]]]


class LoadedSource(NamedTuple):
    """A source with its name and its functions, as `load_sources` returns it."""

    name: str
    definition: Source
    translate: Translate
    fetch: Fetch | None
    people: People | None = None
    subscription: Subscription | None = None
    listing: Listing | None = None
    oauth: OAuth | None = None

    def setup_for(self, hook: str, url: str) -> str:
        """Return the setup steps of a hook, with the names of its settings, its name in commands, and its URL."""
        steps = self.definition.setup.strip().replace(f"HOOKS__{self.name.upper()}__", f"HOOKS__{hook.upper()}__")
        if hook != self.name:
            steps = re.sub(rf"`doorbell connect\s+{self.name}\b", f"`doorbell connect {self.name} --hook {hook}", steps)
        return steps.replace("{hook}", hook).replace("{url}", url)


class InvalidSource(Exception):
    """A module of app/sources is not a source. The message names the file and what is missing."""
