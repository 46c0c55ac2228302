"""YouCanBook.me: one visit for each person of a booking."""

import json
import re

from app.webhooks.registry import load_sources
from tests.support.shared_bookings import ADA, FIRST, SECOND, Body, BookingWorld


def ycbm(event: str, reference: str = "ABCD-EFGH", start: str = "2026-10-01T15:00:00+0000", **more: str) -> Body:
    end = start.replace(":00:00+", ":30:00+")
    return {
        "event": event,
        "reference": reference,
        "start": start,
        "end": end,
        "email": ADA,
        "first_name": "Ada",
        **more,
    }


async def test_the_payload_of_the_setup_instructions_becomes_a_visit(world: BookingWorld) -> None:
    """The codes are replaced as in the vendor's table (youcanbook.me/feature/mailmerge)."""
    setup = load_sources()["youcanbookme"].definition.setup
    payload = setup[setup.index('{"event": "booked"') : setup.index("}\n3.") + 1]
    codes = {"{REF}": "ABCD", "{START-ISO-8601}": "2026-10-01T15:00:00+0000", "{END-ISO-8601}": "2026-10-01T15:30:00+0000",
             "{EMAIL}": ADA, "{FNAME}": "Ada", "{LNAME}": "Lovelace", "{PHONE}": "+15550100001"}  # fmt: skip
    assert set(codes) == set(re.findall(r"\{[A-Z0-9-]+\}", payload))
    for code, value in codes.items():
        payload = payload.replace(code, value)

    await world.process("youcanbookme", json.loads(payload))

    assert [("ada", FIRST)] == world.review_requests()


async def test_a_move_with_a_new_reference_is_applied_and_parked(world: BookingWorld) -> None:
    await world.process("youcanbookme", ycbm("booked"), ycbm("replaced", "MNOP-QRST", "2026-10-05T09:00:00+0000"))

    assert [("ada", FIRST), ("ada", SECOND)] == world.review_requests()
    assert [
        "a booking was moved, and the event does not name the old one: cancel the visit at the old time by hand"
    ] == (await world.parked())


async def test_a_move_with_the_same_reference_moves_the_visit(world: BookingWorld) -> None:
    moves = [ycbm("booked"), ycbm("rescheduled", start="2026-10-05T09:00:00+0000")]

    assert [("ada", SECOND)] == await world.in_every_order("youcanbookme", moves)
    assert [] == await world.parked()


async def test_an_unreplaced_start_code_is_parked_unless_the_booking_is_cancelled(
    world: BookingWorld,
) -> None:
    await world.process("youcanbookme", ycbm("booked"), ycbm("cancelled", start="{START-ISO}"))
    assert ([], []) == (world.review_requests(), await world.parked())

    await world.process("youcanbookme", ycbm("booked", "MNOP-QRST", "{START-ISO}"))
    assert ["start: expected a time, in ISO 8601 or in milliseconds, found text of length 11"] == await world.parked()


async def test_a_follow_up_with_an_unreplaced_end_code_ends_when_it_arrives(world: BookingWorld) -> None:
    await world.process("youcanbookme", ycbm("booked"), ycbm("completed", end="{END-ISO-8601}"))

    [visit] = world.harness.visits()
    assert (FIRST, visit["event_date"]) == (visit["time_scheduled"], visit["time_completed"])
