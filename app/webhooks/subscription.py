"""What a source declares about its tool's API in addition to SOURCE: SUBSCRIPTION, LISTING and OAUTH.

Data and pure functions.

    SUBSCRIPTION   how to create subscriptions, and how the tool describes them
    LISTING        how to list appointments, to find the changes that no webhook reported
    OAUTH          the tool's authorization page, for connecting an account with a log-in

Requests are built from checked ids only, and are sent to the source's `api_url` with its `credentials`: a response
never chooses a host. A response is read as ApiResponse, a Payload: a value of an unexpected type raises Untranslatable,
which counts as an error of the tool.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from app.webhooks.evidence import Evidence
from app.webhooks.fetching import RecordRequest, TokenExchange
from app.webhooks.payload import Payload, Untranslatable

#: Where the signing secret comes from: Doorbell chooses it, the tool returns it in a response, it is one of the
#: credentials, or a person copies it from a page of the tool.
SecretFrom = Literal["doorbell", "tool", "credential", "person"]


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Refused(Exception):
    """The tool refuses a request. The message is a sentence for the person who connects the tool."""


class ApiResponse(Payload):
    """The JSON of a response, with its headers, because some tools send the cursor in a header.

    headers: with names in lower case. requested_at: when the request was sent; the response is not older.
    """

    __slots__ = ("headers", "requested_at")

    def __init__(self, value: Any, headers: Mapping[str, str] | None = None, requested_at: datetime = EPOCH) -> None:
        super().__init__(value, "response")
        self.headers, self.requested_at = headers or {}, requested_at


class Target(NamedTuple):
    """The hook to which a subscription sends.

    secret: empty if the tool chooses it. token: a random text for each subscription, for tools whose names must be
        unique.
    """

    url: str
    secret: str
    hook: str
    token: str = ""


@dataclass(frozen=True, slots=True)
class SubscriptionState:
    """A subscription as the tool describes it.

    events: empty if the tool does not list them. is_active: False if the tool no longer sends to it. failing_since:
    when the tool began to report failing deliveries. expires_at: when it ends unless it is renewed. secret: the signing
    secret, if the tool chose it and this response has it.
    """

    id: str
    url: str
    events: frozenset[str] = frozenset()
    is_active: bool = True
    failing_since: datetime | None = None
    expires_at: datetime | None = None
    secret: str = field(default="", repr=False)


class SubscriptionPage(NamedTuple):
    """A page of subscriptions. next: the request for the next page."""

    subscriptions: Sequence[SubscriptionState]
    next: RecordRequest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """The subscriptions of a tool. The argument `account` of these functions is the response to the request `account`.

    docs: the vendor's page. evidence: the weakest evidence for the facts in this declaration.
    groups: the events to subscribe to, with one tuple for each subscription: a single tuple if one subscription can
        have all events.
    account: a request that succeeds only with working credentials, and describes the account.
    account_name: returns the account's name, for people, from that response.
    check_account: raises Refused if the account cannot have webhooks, because its plan or the token's rights do not
        include them.
    create: (target, account, events of a group) → the request that creates a subscription.
    read_created: (response) → the new subscription; None if the response does not describe it: then Doorbell finds it
        in the list.
    list: (account) → the request for all subscriptions of the account; None if the tool cannot list them: then Doorbell
        knows only the ids that it stored. read_list: (request, response) → a page of them.
    list_events: (id, account) → the request for the events of a subscription, for tools where a separate request adds
        each event to a subscription. read_events: (response, account) → its active events; None if others use the
        subscription, too.
    add_event: (id, event, account) → the request that adds an event.
    delete: (id, account) → the request that deletes a subscription; None if the id of this one is unknown.
    reactivate: (id, account) → the request that activates a disabled subscription, if the tool can do that. The URL and
        the secret stay the same.
    renew: (id, account) → the request that extends a subscription; without it, an expiring subscription is replaced.
    credentials: the credentials that these requests need, if that is not every credential of the source.
    secret_from: where the signing secret comes from. secret_credential: for "credential", the name of the credential
        that is the secret; for "person", a credential that is the secret if the hook has it.
    is_by_hand_if_refused: only some accounts may use the API. If the tool refuses to create a subscription, a person
        does the steps of `setup`.
    is_url_unique: the tool refuses two subscriptions with one URL, so an old one is deleted before its replacement is
        created.
    is_event_unique: the tool refuses two subscriptions to one event, whatever their URLs, so one with an earlier URL is
        deleted first.
    refusal: (status, response) → a sentence for a refused request, such as "Webhooks need a paid plan"; None if the
        tool's own sentence is good enough.
    """

    docs: str
    evidence: Evidence
    groups: tuple[tuple[str, ...], ...]
    create: Callable[[Target, Payload, Sequence[str]], RecordRequest]
    delete: Callable[[str, Payload], RecordRequest | None]
    read_created: Callable[[Payload], SubscriptionState] | None = None
    list: Callable[[Payload], RecordRequest] | None = None
    read_list: Callable[[RecordRequest, ApiResponse], SubscriptionPage] | None = None
    list_events: Callable[[str, Payload], RecordRequest] | None = None
    read_events: Callable[[ApiResponse, Payload], frozenset[str] | None] | None = None
    add_event: Callable[[str, str, Payload], RecordRequest] | None = None
    account: RecordRequest | None = None
    account_name: Callable[[Payload], str] = lambda account: ""
    check_account: Callable[[Payload], None] = lambda account: None
    reactivate: Callable[[str, Payload], RecordRequest] | None = None
    renew: Callable[[str, Payload], RecordRequest] | None = None
    credentials: tuple[str, ...] = ()
    secret_from: SecretFrom = "doorbell"
    secret_credential: str = ""
    is_url_unique: bool = False
    is_event_unique: bool = False
    is_by_hand_if_refused: bool = False
    refusal: Callable[[int, Payload], str | None] = lambda status, response: None

    @property
    def can_ask(self) -> bool:
        """Whether the tool can be asked about the state of its subscriptions."""
        return self.list is not None

    @property
    def events(self) -> tuple[str, ...]:
        return tuple(event for group in self.groups for event in group)


class Window(NamedTuple):
    """The appointments to list: those that start between `since` and `until`.

    changed_since: also list appointments that changed since then, if the tool can list them. tenants: the accounts of
        the tool that the hook accepts, for tools whose credentials do not show the account.
    """

    since: datetime
    until: datetime
    changed_since: datetime | None = None
    tenants: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ListedRecord:
    """A listed appointment, as the event that `translate` reads.

    body: the body of an event about this appointment in its present state, as the tool would send it. record, related:
        as in Event, if events of this tool only refer to records. path: the path of the request that would fetch the
        record. requested_at: when the first of several requests for the appointment began; None if the request for its
        page was the only one. problem: why the appointment cannot be read.
    """

    id: str
    body: Mapping[str, Any]
    record: Any = None
    related: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""
    requested_at: datetime | None = None
    problem: str = ""


def read_records(items: Iterable[Payload], read: Callable[[Payload], Iterable[ListedRecord]]) -> list[ListedRecord]:
    """Read the items of a page.

    An item that cannot be read becomes a record with a problem; the others are still read.
    """
    records = list[ListedRecord]()
    for item in items:
        try:
            records += list(read(item))
        except Untranslatable as error:
            records.append(ListedRecord("", item.value if isinstance(item.value, dict) else {}, problem=str(error)))
    return records


@dataclass(frozen=True, slots=True)
class ListRequest:
    """A request of a list.

    context: what `read_page` needs from an earlier response, as JSON; it is not sent. can_be_missing: a 404 is read as
        an empty response.
    """

    request: RecordRequest
    context: Mapping[str, Any] = field(default_factory=dict)
    can_be_missing: bool = False


class ListedPage(NamedTuple):
    """The content of a response.

    requests: the requests for the next page, and for related lists, such as the invitees of each record.
    """

    records: Sequence[ListedRecord]
    requests: Sequence[ListRequest] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The list of a tool's appointments, cancelled ones included.

    docs, evidence: as in Subscription.
    start: (window, account) → the first requests; more than one if, for example, cancelled appointments have a separate
        list. account: the response to the request `account` of the Subscription.
    check: (visit ids, account) → the requests that find which of these upcoming visits the tool no longer has, if it does
        not list cancelled appointments.
    read_page: (request, response) → the records, and the next requests. See `read_records`.
    lists_changed: whether the tool can list appointments by the time of their last change, whatever their start.
    look_back: if the tool cannot list changes: how long before `since` the listed period begins, because earlier
        appointments may have changed.
    records: what the list contains, for people.
    is_daily: whether a daily reconciliation is on by default, because the tool hardly retries, drops events, or lists what
        no event reports.
    calls_per_s: the maximum number of calls per second.
    """

    docs: str
    evidence: Evidence
    start: Callable[[Window, Payload], Iterable[ListRequest]]
    read_page: Callable[[ListRequest, ApiResponse], ListedPage]
    check: Callable[[Sequence[str], Payload], Iterable[ListRequest]] | None = None
    lists_changed: bool = False
    look_back: timedelta = timedelta(0)
    records: str = "appointments"
    is_daily: bool = False
    calls_per_s: float = 2.0

    @property
    def imported(self) -> str:
        """What is stored when the tool is connected, for people."""
        return "the upcoming appointments" if self.records == "appointments" else f"missed {self.records}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuth:
    """The authorization code flow of a tool (RFC 6749, 4.1). The app's credentials are in the environment.

    docs, evidence: as in Subscription.
    authorize_url: the page where the owner of the account consents. token_url: the endpoint that exchanges codes and
        refresh tokens.
    scopes: the requested scopes. uses_pkce: whether the tool supports RFC 7636. is_basic_auth: whether the app
    authenticates with HTTP Basic; otherwise it does so in the form. signs_with: the secret that signs the webhooks of
    the app's subscriptions: that of the hook, one of the app, or the app's client secret. extra: further parameters of
    the authorization request; `{API_ORIGIN}` is replaced by scheme and host of the hook's API_URL.
    account_id: the id of the account that logged in, from the response to the request `account` of the Subscription;
        without a Subscription, of this declaration. Empty if it is unknown.
    """

    docs: str
    evidence: Evidence
    authorize_url: str
    token_url: str
    scopes: tuple[str, ...] = ()
    uses_pkce: bool = True
    is_basic_auth: bool = False
    signs_with: Literal["hook", "app", "client_secret"] = "hook"
    extra: Mapping[str, str] = field(default_factory=dict)
    account: RecordRequest | None = None
    account_id: Callable[[Payload], str] = lambda account: ""

    def refresh_exchange(self, token_url: str = "") -> TokenExchange:
        """Return the exchange of a stored refresh token. token_url: replaces the declared one."""
        return self._exchange(token_url, {"grant_type": "refresh_token", "refresh_token": "{REFRESH_TOKEN}"})

    def code_exchange(self, token_url: str = "") -> TokenExchange:
        """Return the exchange of an authorization code."""
        form = {"grant_type": "authorization_code", "code": "{CODE}", "redirect_uri": "{REDIRECT_URI}"}
        return self._exchange(token_url, {**form, "code_verifier": "{CODE_VERIFIER}"} if self.uses_pkce else form)

    def _exchange(self, token_url: str, form: Mapping[str, str]) -> TokenExchange:
        client = {} if self.is_basic_auth else {"client_id": "{CLIENT_ID}", "client_secret": "{CLIENT_SECRET}"}
        names = ("CLIENT_ID", "CLIENT_SECRET")
        return TokenExchange(
            token_url or self.token_url, names, form={**client, **form}, is_basic_auth=self.is_basic_auth
        )
