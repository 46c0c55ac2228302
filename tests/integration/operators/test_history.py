"""What a visit's page and a delivery's page tell: what each message did, in the order of arrival."""

import asyncio
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from app.ledger.ids import TaskId
from app.ledger.ledger import Ledger
from app.ledger.records import Attempt, Lease, Outcome
from app.operators.actions import Actions, Actor
from app.operators.contacts import assignment
from app.operators.explain import Explain
from app.operators.history import MAX_MESSAGES, attempt_lines, attempt_sentence
from app.settings.environment import read_environment
from app.visits.change import Contact
from tests.support.cases import each
from tests.support.ledger import accept, attempt, change, start_run, visit_task

SETTINGS = read_environment(
    {"REDIS_URL": "redis://127.0.0.1/0", "HOOKS__STANDARD__SECRETS": "whsec_c2VjcmV0LXNlY3JldC1z"}
)
TWO, THREE, FOUR = (datetime(2031, 3, 14, hour, tzinfo=UTC) for hour in (14, 15, 16))
ADA, GRACE = Contact(email="ada@example.com", first_name="Ada"), Contact(email="grace@example.com", first_name="Ada")


async def history(ledger: Ledger, visit: str = "A") -> list[dict[str, Any]]:
    [details] = await Explain(ledger, SETTINGS).visit(f"standard-{visit}")
    return details["history"]  # type: ignore[no-any-return]


async def texts(ledger: Ledger, visit: str = "A") -> list[str]:
    """Return the sentences, with the hour of each time."""
    return [without_dates(event["text"]) for event in await history(ledger, visit)]


async def messages(ledger: Ledger, visit: str = "A") -> list[str]:
    return [without_dates(event["text"]) for event in await history(ledger, visit) if event["kind"] == "message"]


def without_dates(text: str) -> str:
    return re.sub(r"2031-03-14T(\d\d):00:00Z", r"\1:00", text)


async def run(ledger: Ledger, outcome: str, visit: str = "A", calls: Any = (), **fields: Any) -> None:
    """Run a visit now, in another ms than the deliveries before and after it."""
    await asyncio.sleep(0.002)
    at = int((await ledger.server_time()).timestamp() * 1000)
    ended = Attempt(started_at_ms=at, took_ms=1, outcome=outcome, calls=[*calls])
    values = {"state": "done", **fields}
    await ledger.complete(await start_run(ledger, visit), Outcome(attempt=ended, **values))
    await asyncio.sleep(0.002)


async def test_each_message_says_what_it_did(ledger: Ledger) -> None:
    await accept(ledger, change("A", version=1, contact=ADA, time_scheduled=THREE, amount_collected=Decimal(80)))
    await run(ledger, "created")
    await accept(ledger, change("A", version=3, time_scheduled=TWO))
    await accept(ledger, change("A", version=2, time_scheduled=FOUR))
    await accept(ledger, change("A", version=3, time_scheduled=TWO))
    await run(ledger, "updated")
    await accept(ledger, change("A", version=4, date_cancelled=TWO))
    await run(ledger, "cancelled")

    assert [
        "booked for 15:00, amount 80.00",
        "created in Review Rover",
        "moved to 14:00",
        "an older message, for 16:00, arrived late and changed nothing",
        "a message with the same values changed nothing",
        "updated in Review Rover",
        "cancelled",
        "cancelled in Review Rover",
    ] == await texts(ledger)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"time_completed": FOUR}, "completed at 16:00"),
        ({"no_show": FOUR}, "marked as a no-show"),
        ({"opted_out": True}, "the customer wants no review request"),
        ({"amount_collected": Decimal("9.5")}, "amount changed to 9.50"),
        ({"amount_collected": None}, "the amount was removed"),
        ({"time_scheduled": None}, "the time was removed"),
        ({"contact": GRACE}, "the customer's e-mail address changed"),
        ({"contact": Contact(email="ada@example.com", phone="+15550100001")}, "the customer's phone number was added"),
        ({"time_scheduled": TWO, "amount_collected": Decimal(81)}, "moved to 14:00, amount changed to 81.00"),
    ],
)
async def test_a_change_has_a_sentence_for_each_effect(ledger: Ledger, fields: dict[str, Any], sentence: str) -> None:
    first = {"contact": ADA, "time_scheduled": THREE, "amount_collected": Decimal(80)}
    await accept(ledger, change("A", version=1, **first))
    await accept(ledger, change("A", version=2, **fields))

    assert sentence == (await messages(ledger))[-1]


@pytest.mark.parametrize(
    ("fields", "undone"), [({"date_cancelled": TWO}, "no longer cancelled"), ({"no_show": TWO}, "no longer a no-show")]
)
async def test_a_cancellation_can_be_undone(ledger: Ledger, fields: dict[str, Any], undone: str) -> None:
    await accept(ledger, change("A", version=1, time_scheduled=THREE))
    await accept(ledger, change("A", version=2, **fields))
    await accept(ledger, change("A", version=3, **dict.fromkeys(fields)))

    assert undone == (await messages(ledger))[-1]


async def test_an_older_message_has_the_date_that_the_tool_gives_it(ledger: Ledger) -> None:
    newer, older = (1_931_256_000_000_000 + seconds * 1_000_000 for seconds in (60, 0))  # 2031-03-14T12:00:00Z
    await accept(ledger, change("A", version=newer, time_scheduled=TWO))
    await accept(ledger, change("A", version=older, time_scheduled=FOUR))

    sentence = "an older message, for 16:00, arrived late and changed nothing; the tool dates it 12:00"
    assert sentence == (await messages(ledger))[-1]


async def test_the_message_that_decides_counts(ledger: Ledger) -> None:
    await accept(ledger, change("A", version=1, time_scheduled=THREE))
    newest = await accept(ledger, change("A", version=3, time_scheduled=TWO))
    await accept(ledger, change("A", version=2, time_scheduled=FOUR))

    first, second, third = [event for event in await history(ledger) if event["kind"] == "message"]

    assert [None, "counts", None] == [event.get("counts") for event in (first, second, third)]
    assert [newest.delivery_id] * 2 == [first["superseded_by"], third["superseded_by"]]


async def test_a_message_may_count_in_part(ledger: Ledger) -> None:
    await accept(ledger, change("A", version=1, contact=ADA, time_scheduled=THREE, amount_collected=Decimal(80)))
    await accept(ledger, change("A", version=2, time_scheduled=TWO))

    assert ["only the amount counts", "counts", None] == [event.get("counts") for event in await history(ledger)]


async def test_a_field_that_never_had_a_value_does_not_count(ledger: Ledger) -> None:
    await accept(ledger, change("A", version=1, time_scheduled=THREE, date_cancelled=None))
    await accept(ledger, change("A", version=2, time_scheduled=TWO))

    assert [None, "counts"] == [event.get("counts") for event in await history(ledger) if event["kind"] == "message"]


async def test_a_booking_without_an_address_says_so_and_why_it_was_not_applied(ledger: Ledger) -> None:
    await accept(ledger, change("A", time_scheduled=THREE))
    await run(ledger, "contact_unknown", calls=[["GET /visits/:id", 404]], state="waiting", reason="contact_unknown")

    assert ["booked for 15:00, without an e-mail address", "not applied: No e-mail address"] == await texts(ledger)


async def test_a_first_message_without_a_time_says_so(ledger: Ledger) -> None:
    await accept(ledger, change("A", contact=ADA))
    await accept(ledger, change("B"))

    assert ["a message without a time"] == await messages(ledger)
    assert ["a message without a time, without an e-mail address"] == await messages(ledger, "B")


async def test_equal_failures_are_told_once_with_their_count(ledger: Ledger) -> None:
    await accept(ledger, change("A", time_scheduled=THREE, contact=ADA))
    for _ in range(3):
        failed = {"state": "waiting", "reason": "POST /visits: 503", "failed_attempts": 1}
        await run(ledger, "http_5xx", calls=[["POST /visits", 503]], **failed)
        await ledger.replay(TaskId(visit_task("A")))

    [_, failure, _] = await history(ledger)

    assert ("not applied: The API does not answer", 3) == (failure["text"], failure["repeated"])
    assert failure["last"] >= failure["at"]


def test_equal_failures_before_and_after_a_replay_are_two_lines() -> None:
    failures = [Attempt(started_at_ms=at, took_ms=1, outcome="contact_unknown") for at in (10, 20, 30, 40)]

    lines = [(line.at_ms, line.repeated, line.last_ms) for line in attempt_lines(failures, operations_ms=[25])]

    assert [(10, 2, 20), (30, 2, 40)] == lines


async def test_acts_of_operators_are_part_of_the_story(ledger: Ledger) -> None:
    await accept(ledger, change("A", time_scheduled=THREE))
    await Actions(ledger, SETTINGS, Actor("Grace", "operator")).reveal_visit("standard-A")
    visit = await ledger.load_task(TaskId(visit_task("A")))
    await ledger.assign_contact(visit.task_id, assignment(ADA, visit))
    await accept(ledger, change("A", version=2, amount_collected=Decimal(80)))
    await ledger.discard(TaskId(visit_task("A")))

    events = await history(ledger)

    assert ["revealed personal data"] == [event["text"] for event in events if event.get("actor") == "Grace"]
    assert "an operator assigned the contact; an operator discarded this" in [event["text"] for event in events]
    assert "amount 80.00; an operator discarded this" in [event["text"] for event in events]


async def test_a_new_id_of_the_tool_is_told(ledger: Ledger) -> None:
    await accept(ledger, change("A", time_scheduled=THREE))
    await accept(ledger, change("B", previous_visit_id="A", time_scheduled=TWO))

    assert "moved to 14:00; the tool renamed the visit to standard-B" == (await messages(ledger))[-1]


async def test_no_sentence_has_personal_data(ledger: Ledger) -> None:
    await accept(ledger, change("A", version=1, contact=ADA, time_scheduled=THREE))
    await accept(ledger, change("A", version=2, contact=GRACE))
    response = '{"detail": "ada@example.com is no address"}'
    outcome = Outcome(
        state="parked",
        attempt=Attempt(1, 1, "parked", [["POST /contacts", 422]], response),
        reason="POST /contacts: 422",
    )
    await ledger.complete(await start_run(ledger, "A"), outcome)

    sentences = str(await history(ledger))

    assert "is no address" in sentences
    assert [] == [word for word in ("ada@example.com", "grace@example.com", "Ada") if word in sentences]


async def test_a_message_without_values_says_so(ledger: Ledger) -> None:
    await accept(ledger, change("A", version=1, time_scheduled=THREE, contact=ADA))
    await accept(ledger, change("A", version=2))

    assert "a message without values changed nothing" == (await messages(ledger))[-1]


async def test_a_history_has_the_newest_messages(ledger: Ledger) -> None:
    count = MAX_MESSAGES + 20
    first = await accept(ledger, change("A", version=1, time_scheduled=THREE, contact=ADA))
    for version in range(2, count + 1):
        await accept(ledger, change("A", version=version, time_scheduled=(TWO, THREE)[version % 2]))

    history = await messages(ledger)

    assert "20 older messages are not shown" == history[0]
    assert ["moved to 15:00", "moved to 14:00"] * (MAX_MESSAGES // 2) == history[1:]
    assert "booked for 15:00" in await sentences(ledger, first.delivery_id)


# -- a delivery --


async def sentences(ledger: Ledger, delivery: str) -> list[str]:
    return [without_dates(event["text"]) for event in (await Explain(ledger, SETTINGS).delivery(delivery))["history"]]


async def test_a_delivery_tells_what_became_of_it_and_not_of_its_visit(ledger: Ledger) -> None:
    first = await accept(ledger, change("A", version=1, time_scheduled=THREE, contact=ADA))
    await run(ledger, "created")
    second = await accept(ledger, change("A", version=3, time_scheduled=TWO))
    late = await accept(ledger, change("A", version=2, time_scheduled=FOUR))
    await run(ledger, "updated")

    received = "received at /hooks/standard; the signature is valid"
    assert [
        received,
        "booked for 15:00",
        "created in Review Rover",
        "outdated: a newer message decides",
    ] == await sentences(ledger, first.delivery_id)
    assert [received, "moved to 14:00", "updated in Review Rover"] == await sentences(ledger, second.delivery_id)
    details = await Explain(ledger, SETTINGS).delivery(late.delivery_id)
    assert [
        received,
        "an older message, for 16:00, arrived late and changed nothing",
        "outdated: a newer message decides",
    ] == [without_dates(event["text"]) for event in details["history"]]
    assert [] == details["attempts"]
    assert second.delivery_id == details["history"][-1]["superseded_by"]


async def test_a_worker_fetches_the_record_before_the_message_has_an_effect(ledger: Ledger) -> None:
    delivery = await accept(ledger, event_state="queued")
    lease = await ledger.lease(TaskId.event(delivery.delivery_id))
    assert isinstance(lease, Lease)
    now = int((await ledger.server_time()).timestamp() * 1000)
    booking = change("A", version=1, time_scheduled=THREE, contact=ADA)
    await ledger.record_changes(lease, "standard", "main", [booking], Attempt(now, 1, "translated"))
    await run(ledger, "created")

    assert [
        "received at /hooks/standard; the signature is valid",
        "the record was fetched, and the event translated",
        "booked for 15:00",
        "created in Review Rover",
    ] == await sentences(ledger, delivery.delivery_id)


async def test_a_delivery_of_several_visits_names_the_visit_of_each_sentence(ledger: Ledger) -> None:
    delivery = await accept(ledger, change("A", time_scheduled=TWO), change("B", time_scheduled=THREE))

    events = (await Explain(ledger, SETTINGS).delivery(delivery.delivery_id))["history"]

    assert {("standard-A", "booked for 14:00"), ("standard-B", "booked for 15:00")} <= {
        (event.get("visit"), without_dates(event["text"]).partition(",")[0]) for event in events
    }


async def test_a_delivery_whose_values_were_removed_says_that_newer_ones_decide(ledger: Ledger) -> None:
    first = await accept(ledger, change("A", version=1, time_scheduled=THREE))
    await accept(ledger, change("A", version=2, time_scheduled=TWO))
    lease = await start_run(ledger, "A")
    await ledger.compact(lease, lease.primary, [f"{first.delivery_id}.0"])

    assert "outdated: newer messages decide all of its fields" in await sentences(ledger, first.delivery_id)
    assert "1 older message is not shown" in await messages(ledger)


async def test_a_delivery_that_is_parked_when_it_arrives_waits_for_no_worker(ledger: Ledger) -> None:
    delivery = await accept(ledger, event_state="parked", reason="untranslatable: type")

    assert (
        "needs attention since it arrived: The event cannot be understood"
        == (await sentences(ledger, delivery.delivery_id))[-1]
    )


async def test_a_delivery_that_is_queued_or_on_hold_says_so(ledger: Ledger) -> None:
    delivery = await accept(ledger, change("A", time_scheduled=TWO))
    queued = await sentences(ledger, delivery.delivery_id), await texts(ledger)
    await ledger.pause("main")
    await ledger.lease(TaskId(visit_task("A")), "main")
    held = await sentences(ledger, delivery.delivery_id), await texts(ledger)

    newest = [[lines[-1] for lines in pair] for pair in (queued, held)]
    assert [["waits for a worker"] * 2, ["on hold: The account is paused"] * 2] == newest


@each(
    ("outcome", "sentence"),
    [
        (attempt("translated"), "the record was fetched, and the event translated"),
        (attempt("ignored: record_gone"), "the event was ignored: the tool has deleted the record"),
        (attempt("ignored: estimate"), "the event was ignored: it changes no visit (estimate)"),
        (attempt("not_created"), "nothing was sent: Review Rover has no such visit, and needs none"),
        (attempt("parked: time_unknown"), "not applied: No time"),
        (attempt("parked: untranslatable: payload.uri"), "not applied: The event cannot be understood"),
        (attempt("parked"), "not applied: an operator is needed"),
        (Attempt(1, 1, "parked", [["POST /visits", 422]]), "not applied: The values are rejected"),
        (Attempt(1, 1, "timeout", [["POST /visits", "timeout"]]), "not applied: The API does not answer"),
        (Attempt(1, 1, "parked", [["GET /visits/:id", 404]]), "not applied: an operator is needed"),
    ],
)
def test_an_attempt_says_what_it_did(outcome: Attempt, sentence: str) -> None:
    assert sentence == attempt_sentence(outcome)
