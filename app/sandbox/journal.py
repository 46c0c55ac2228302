"""The calls that the sandbox received, for tests to read."""

import time
from collections import Counter, deque
from datetime import UTC, datetime
from itertools import takewhile
from typing import NamedTuple

from starlette.requests import Request

MAX_ENTRIES = 100_000


class Entry(NamedTuple):
    """A call. Entries are in the order in which the calls were executed.

    response: a status, or "reset", "hang", "truncated", or "gone" (the caller disconnected before the body was read).
    fault: the fault that affected the call. Two calls overlapped if the `at` of one is between the `at` and `at` +
        `took_ms` of the other. `took_ms` of a hanging call does not include hang_s: the entry is written at the commit.
    """

    number: int
    at: str
    took_ms: float
    method: str
    route: str
    id: str | None
    response: int | str
    committed: bool
    fault: str | None
    external_id: str | None
    contact_id: str | None
    request_id: str = ""
    traceparent: str = ""


class Journal:
    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=MAX_ENTRIES)
        self.calls: Counter[str] = Counter()
        self.last_number = 0

    def clear(self) -> None:
        """Remove all entries. Numbers are not reset, so that a reader's `since` stays valid."""
        self._entries.clear()
        self.calls.clear()

    def since(self, number: int) -> list[Entry]:
        return list(takewhile(lambda entry: entry.number > number, reversed(self._entries)))[::-1]

    def write(
        self,
        request: Request,
        route: str,
        received_at: float,
        response: int | str,
        *,
        fault: str | None,
        committed: bool = False,
        external_id: str | None = None,
        contact_id: str | None = None,
    ) -> None:
        self.last_number += 1
        self.calls[route] += 1
        entry = Entry(
            number=self.last_number,
            at=datetime.fromtimestamp(received_at, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            took_ms=round((time.time() - received_at) * 1000, 3),
            method=request.method,
            route=route,
            id=request.path_params.get("id"),
            response=response,
            committed=committed,
            fault=fault,
            external_id=external_id,
            contact_id=contact_id,
            request_id=request.headers.get("x-request-id", ""),
            traceparent=request.headers.get("traceparent", ""),
        )
        self._entries.append(entry)
