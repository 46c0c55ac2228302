"""Filter: the query that console URLs, CLI options and stored operations share."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal
from urllib.parse import urlencode

#: States of a task that have an index in Redis; states of a delivery only.
INDEXED_STATES = ("parked", "waiting", "held", "queued", "running", "discarded")
RESULT_STATES = ("applied", "superseded", "ignored")
#: States of a task; `done` has no index.
TASK_STATES = (*INDEXED_STATES, "done")
#: The states of tasks and deliveries in words for people.
STATE_TITLES = {
    "queued": "Queued",
    "running": "Running",
    "waiting": "Waiting",
    "held": "On hold",
    "parked": "Needs attention",
    "discarded": "Discarded",
    "done": "Up to date",
    "applied": "Applied",
    "superseded": "Outdated",
    "ignored": "Ignored",
    "expired": "Expired",
}

#: Ids of a filter that its description names.
MAX_IDS_IN_WORDS = 5


def state_title(states: str) -> str:
    """Return a state in words, or the states of a delivery with several visits, which are separated by blanks."""
    return ", ".join(STATE_TITLES.get(state, state) for state in states.split())


class _QueryFilter:
    """A filter as the query of a URL, with a period. Each dataclass of it has the fields in its own order."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]
    since: str
    until: str

    def query(self, **changes: str) -> str:
        """Return the query of this filter with changed fields, for the first page unless a cursor is given."""
        fields = asdict(self) | {"cursor": "", **changes}
        return urlencode({name: value for name, value in fields.items() if value}, doseq=True)

    @property
    def is_empty(self) -> bool:
        return not self.query()

    @property
    def since_ms(self) -> float:
        return _parse_ms(self.since, float("-inf"))

    @property
    def until_ms(self) -> float:
        return _parse_ms(self.until, float("inf"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter(_QueryFilter):
    """Matches deliveries and visits by ids, or by all other fields that are not empty.

    reason: a part of it. since, until: arrival, in ISO 8601. visit: external_id or the tool's id. search: an id,
    an e-mail address or a phone number, see `Lists.search`. cursor: the start of a page, `<score>_<name>`. search_token:
    replaces the search in URLs.
    """

    ids: tuple[str, ...] = ()
    state: str = ""
    hook: str = ""
    source: str = ""
    reason: str = ""
    since: str = ""
    until: str = ""
    visit: str = ""
    search: str = ""
    cursor: str = ""
    search_token: str = ""

    @classmethod
    def from_query(cls, params: Mapping[str, str]) -> "Filter":
        """Parse the query of a URL. An unknown state is ignored."""
        names = ("state", "hook", "source", "reason", "since", "search", "cursor")
        fields: dict[str, Any] = {name: params.get(name, "").strip()[:300] for name in names}
        if fields["state"] not in (*INDEXED_STATES, *RESULT_STATES):
            fields["state"] = ""
        return cls(**fields)

    def query(self, **changes: str) -> str:
        """Return the query of a URL, see _QueryFilter."""
        return _QueryFilter.query(self, **{"search": self.search_token or self.search, "search_token": "", **changes})

    def describe(self, count: int | None = None, *, kind: Literal["delivery", "visit"] = "delivery") -> str:
        """Return in words what it matches: `7 failures of the hook east`.

        count: the number of matches, if it is known. kind: of the rows, unless they are tasks. The search is not in it: it
        may be an e-mail address.
        """
        parts = [f"of the {name} {value}" for name, value in self._owners.items() if value]
        if self.reason:
            parts.append(f"with the reason {self.reason}")
        if self.search:
            parts.append("found by a search")
        for name in ("since", "until"):
            if time := getattr(self, name):
                parts.append(f"{name} {time}")
        return " ".join([self._ids_in_words or self._kind_in_words(count, kind), *parts])

    @property
    def _owners(self) -> dict[str, str]:
        return {"hook": self.hook, "source": self.source, "visit": self.visit}

    @property
    def _ids_in_words(self) -> str:
        text, omitted = ", ".join(self.ids[:MAX_IDS_IN_WORDS]), len(self.ids) - MAX_IDS_IN_WORDS
        state = f" in the state {self.state}" if self.ids and self.state else ""
        return text + (f" and {omitted:,} more" if omitted > 0 else "") + state

    def _kind_in_words(self, count: int | None, kind: str) -> str:
        adjective, kind = self.state, "task" if self.state in INDEXED_STATES else kind
        if self.is_by_state and self.state in ("", "parked"):
            adjective, kind = "", "failure"
        kinds = kind if count == 1 else f"{kind}s" if kind != "delivery" else "deliveries"
        return " ".join(filter(None, ["all" if count is None else f"{count:,}", adjective, kinds]))

    @property
    def is_by_state(self) -> bool:
        """Whether it matches tasks of an indexed state. Otherwise it matches deliveries."""
        return self.state in INDEXED_STATES or bool(self.reason)

    @property
    def is_contradictory(self) -> bool:
        """Whether it matches no row of a list: a delivery with a result has no reason."""
        return self.state in RESULT_STATES and bool(self.reason)

    @property
    def is_by_id(self) -> bool:
        """Whether it matches the ids that `Lists.resolve_ids` returns."""
        return bool(self.visit or self.search)

    @property
    def has_exact_count(self) -> bool:
        """Whether `Lists.count` returns the number of matches, not an upper bound."""
        return self.state not in RESULT_STATES and not (self.is_by_state and self.hook)

    def cursor_position(self) -> tuple[float, str]:
        score, _, name = self.cursor.partition("_")
        return (float(score), name) if re.fullmatch(r"\d{1,16}", score) else (float("inf"), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityFilter(_QueryFilter):
    """Matches activities by all fields that are not empty.

    actor, action: a part of it, in any case. id: a visit or delivery that it affected. since, until: in ISO 8601. cursor:
    the id of the last activity of the previous page. after: the id of the newest activity that is known.
    """

    actor: str = ""
    action: str = ""
    id: str = ""
    since: str = ""
    until: str = ""
    cursor: str = ""
    after: str = ""


def _parse_ms(text: str, default: float) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return default
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
