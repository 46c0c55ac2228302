"""What an operator means: the words that stand in the console's address, behind a command, and in an operation."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

#: States that have a set of their own; and what else came of a delivery.
INDEXED_STATES = ("parked", "waiting", "held", "queued", "running", "discarded")
RESULT_STATES = ("applied", "superseded", "ignored")
#: Of a visit or an event; `done` has no set.
TASK_STATES = (*INDEXED_STATES, "done")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Deliveries and visits by their ids, or all that every word of it fits.

    reason: its beginning, or any part of it. since, until: when it arrived, in ISO 8601. visit: its id on either side.
    search: whatever one has; only lists know it. cursor: where a page begins, `<score>_<name>`.
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

    @classmethod
    def from_query(cls, params: Mapping[str, str]) -> "Filter":
        """Whatever somebody wrote into an address: what is no state of ours is none."""
        names = ("state", "hook", "source", "reason", "since", "cursor")
        words: dict[str, Any] = {name: params.get(name, "").strip()[:300] for name in names}
        return cls(**words | {"state": words["state"] if words["state"] in (*INDEXED_STATES, *RESULT_STATES) else ""})

    def query(self, **changes: str) -> str:
        """The URL of the same list with these changes, at its first page unless a cursor is given."""
        words = asdict(self) | {"cursor": "", **changes}
        return urlencode({name: value for name, value in words.items() if value}, doseq=True)

    @property
    def summary(self) -> str:
        """In words, for the audit log: without what somebody looked for."""
        words = asdict(self) | {"ids": " ".join(self.ids), "search": "…" if self.search else "", "cursor": ""}
        return ", ".join(f"{name} {word}" for name, word in words.items() if word) or "everything"

    @property
    def is_empty(self) -> bool:
        return not self.query()

    @property
    def is_by_state(self) -> bool:
        """Is it about what stands in a state that is not over? Else about what arrived."""
        return self.state in INDEXED_STATES or bool(self.reason)

    @property
    def since_ms(self) -> float:
        return _parse_ms(self.since, float("-inf"))

    @property
    def until_ms(self) -> float:
        return _parse_ms(self.until, float("inf"))

    def cursor_position(self) -> tuple[float, str]:
        score, _, name = self.cursor.partition("_")
        return (float(score), name) if re.fullmatch(r"\d{1,16}", score) else (float("inf"), "")


def _parse_ms(written: str, otherwise: float) -> float:
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        return otherwise
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
