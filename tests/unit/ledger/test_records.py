"""Deliveries and attempts as they are stored."""

import json

from app.ledger.ids import TaskId
from app.ledger.records import Attempt, DeliveryInfo
from tests.support.cases import each

VISIT = TaskId("visit:main/calendly-1")
FULL = DeliveryInfo(
    hook="calendly-two",
    source="calendly",
    received_at_ms=1_790_000_000_000,
    event_name="invitee.created",
    request_id="7c2d",
    secret_index=1,
    ignored="opted_out",
    headers={"traceparent": "00-1-2-01"},
    task_ids=[VISIT],
    erased_at_ms=1_790_000_000_001,
)
SHORT = DeliveryInfo(hook="calendly", source="calendly", received_at_ms=1_790_000_000_000)


@each("info", [FULL, SHORT])
def test_a_delivery_is_read_as_it_was_stored(info: DeliveryInfo) -> None:
    assert info == DeliveryInfo.decode(info.encode())


def test_a_delivery_of_a_hook_with_the_name_of_its_source_has_the_name_once() -> None:
    assert {"h": "calendly", "a": 1_790_000_000_000} == json.loads(SHORT.encode())


@each(
    "attempt",
    [
        Attempt(1_790_000_000_000, 0, "created", [["POST /visits", 201]]),
        Attempt(1_790_000_000_000, 12, "parked: 422", [["POST /visits", 422]], "invalid"),
        Attempt(1_790_000_000_000, 0, "ignored: ping"),
    ],
)
def test_an_attempt_is_read_as_it_was_stored(attempt: Attempt) -> None:
    assert attempt == Attempt.decode(attempt.encode())
