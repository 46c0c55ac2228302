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
    Said,
    Wanted,
    fold,
    wanted,
)

EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True, database=None)

NINE, TEN, ELEVEN = (datetime(2026, 3, 14, hour, tzinfo=UTC) for hour in (9, 10, 11))


def said(action: Any, order: int, *, origin: str = "", generation: int = 0, **fields: Any) -> Said:
    """A change, by way of the ledger's bytes."""
    change = VisitChange(action=action, visit_id="A-1", order=order, **fields)
    return Said.read(origin or f"{action} at {order}", encode_change(change), generation)


def made_of(*changes: Said) -> Wanted:
    """The visit that these changes mean, in whichever order they came."""
    forwards, backwards = wanted(fold(changes)), wanted(fold(reversed(changes)))
    assert forwards == backwards
    return forwards


@pytest.fixture(autouse=True)
def _alarm() -> Iterator[None]:
    def ended(*_: object) -> None:
        raise TimeoutError("the fold does not come to an end")

    before = signal.signal(signal.SIGALRM, ended)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def paid(order: int, payment: str, amount: str | None) -> Said:
    return said("update", order, payment=payment, amount_collected=None if amount is None else Decimal(amount))


def collected(*changes: Said) -> str | None:
    return made_of(*changes).fields.get("amount_collected")
