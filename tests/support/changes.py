"""Changes for tests of the merge."""

import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import settings

from app.visits.change import (
    VisitChange,
    encode_change,
)
from app.visits.merge import (
    DesiredVisit,
    RecordedChange,
    desired_visit,
    merge_changes,
)

EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True, database=None)

NINE, TEN, ELEVEN = (datetime(2026, 3, 14, hour, tzinfo=UTC) for hour in (9, 10, 11))


def recorded(action: Any, version: int, *, origin: str = "", alias_depth: int = 0, **fields: Any) -> RecordedChange:
    """Return a change after a round trip through the ledger's encoding."""
    change = VisitChange(action=action, visit_id="A-1", version=version, **fields)
    return RecordedChange.decode(origin or f"{action} at {version}", encode_change(change), alias_depth)


def desired_of(*changes: RecordedChange) -> DesiredVisit:
    """Return the desired visit, and check that the reverse order gives the same one."""
    forwards, backwards = desired_visit(merge_changes(changes)), desired_visit(merge_changes(reversed(changes)))
    assert forwards == backwards
    return forwards


@pytest.fixture(autouse=True)
def _alarm() -> Iterator[None]:
    def fail(*_: object) -> None:
        raise TimeoutError("merge_changes does not end")

    original = signal.signal(signal.SIGALRM, fail)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, original)


def paid(order: int, payment: str, amount: str | None) -> RecordedChange:
    return recorded("update", order, payment_id=payment, amount_collected=None if amount is None else Decimal(amount))


def collected(*changes: RecordedChange) -> str | None:
    return desired_of(*changes).fields.get("amount_collected")
