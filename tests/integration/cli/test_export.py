"""`doorbell export`."""

import csv
import io
import json
from datetime import UTC, datetime

from app.ledger.ids import delivery_key
from app.ledger.ledger import Ledger
from app.ledger.redis import Redis
from tests.support.command_line import ADA, PERSONAL, activity_of, rows
from tests.support.harness import Harness, wait_until
from tests.support.ledger import accept, change, done, parked, start_run
from tests.support.ledger_client import LedgerClient, booked

LISTS = ("deliveries", "visits")


def test_export_writes_csv_or_ndjson(busy: Harness) -> None:
    table = list(csv.DictReader(busy.doorbell("export", "deliveries").stdout.splitlines()))
    assert {"standard-A-1": "applied", "standard-A-2": "parked"} == {row["visits"]: row["state"] for row in table}

    visits = rows(busy, "export", "visits", "--format", "ndjson")
    assert {"standard-A-1": "2026-03-14T16:00:00Z", "standard-A-2": "2026-03-15T16:00:00Z"} == {
        row["visit"]: row["event_date"] for row in visits
    }
    [parked] = csv.DictReader(busy.doorbell("export", "visits", "--state", "parked").stdout.splitlines())
    assert ("standard-A-2", "contact_unknown", "") == (parked["visit"], parked["reason"], parked["email"])
    assert 5 == busy.doorbell("export", "visits", "--hook", "calendly").returncode


def test_an_export_of_visits_has_the_filter_options_of_the_lists(busy: Harness) -> None:
    [delivery] = [row["delivery"] for row in rows(busy, "deliveries", "--visit", "standard-A-1", "--json")]

    def matches(*options: str) -> list[str]:
        return [row["visit"] for row in rows(busy, "export", "visits", *options, "--format", "ndjson")]

    for query in ("A-1", delivery):
        assert ["standard-A-1"] == matches("--search", query), query
    assert ["standard-A-2"] == matches("--visit", "A-2")
    assert ["standard-A-1"] == matches("--search", "A-1", "--state", "done", "--hook", "standard", "--since", "1h")
    for options in (("--state", "parked"), ("--until", "2020-01-01"), ("--visit", "A-2")):
        assert [] == matches("--search", "A-1", *options), options
    assert 5 == busy.doorbell("export", "visits", "--search", "A-3").returncode


async def test_an_export_has_visits_that_are_stored_longer_than_their_deliveries(
    redis: Redis, harness: Harness, ledger: Ledger
) -> None:
    """A future visit, for example. It can be selected by its source and state, no longer by the hook of its deliveries."""
    delivery = (await accept(ledger, change("A", time_scheduled=datetime(2099, 1, 1, tzinfo=UTC)))).delivery_id
    await ledger.complete(await start_run(ledger, "A"), done())
    await redis.command("DEL", delivery_key(delivery))
    await redis.command("ZREM", "bell:deliveries:standard", delivery)

    def matches(*options: str) -> list[str]:
        return [row["visit"] for row in rows(harness, "export", "visits", *options, "--format", "ndjson")]

    assert [["standard-A"]] * 3 == [matches(), matches("--source", "standard"), matches("--state", "done")]
    assert [[]] * 3 == [matches("--source", "square"), matches("--state", "parked"), matches("--hook", "standard")]


async def test_the_state_of_a_visit_with_several_ids_is_that_of_the_visit(
    redis: Redis, harness: Harness, ledger: Ledger
) -> None:
    await accept(ledger, change("A"))
    await accept(ledger, change("B", previous_visit_id="A"))
    await ledger.complete(await start_run(ledger, "A"), parked())

    states = [rows(harness, "export", "visits", "--state", each, "--format", "ndjson") for each in ("done", "parked")]

    assert [[], ["standard-A"]] == [[row["visit"] for row in of_state] for of_state in states]


def test_an_export_with_personal_data_needs_a_confirmation_and_is_recorded(busy: Harness) -> None:
    hidden = [busy.doorbell("export", name, "--format", format) for name in LISTS for format in ("csv", "ndjson")]
    unconfirmed = busy.doorbell("export", "visits", "--show-personal-data")
    revealed = [busy.doorbell("export", name, "--show-personal-data", "--yes", "--format", "ndjson") for name in LISTS]

    assert [] == [word for word in PERSONAL for result in hidden if word in result.stdout + result.stderr]
    assert (2, "") == (unconfirmed.returncode, unconfirmed.stdout)
    assert [] == [word for word in PERSONAL for result in revealed if word not in result.stdout]
    exports = [(b"exported deliveries", b"all deliveries"), (b"exported visits", b"all visits")]
    assert exports == activity_of(busy)


def test_an_export_has_deliveries_without_a_readable_body_too(busy: Harness) -> None:
    assert 0 == busy.doorbell("erase", ADA["email"], "--yes").returncode
    LedgerClient(busy.redis_url, ("a-key-that-is-lost",)).accept(booked("A-3"))

    export = ("export", "deliveries", "--show-personal-data", "--yes", "--format")
    result, table = busy.doorbell(*export, "ndjson"), busy.doorbell(*export, "csv")

    bodies = {json.loads(line)["visits"][0]: json.loads(line)["body"] for line in result.stdout.splitlines()}
    assert {"standard-A-1": False, "standard-A-2": True, "standard-A-3": False} == {
        visit: body is not None for visit, body in bodies.items()
    }
    for each in (result, table):
        assert 6 == each.returncode
        assert "3 deliveries\n" in each.stderr
        assert "1 without a body: The delivery was erased\n" in each.stderr
        assert "1 without a body: The delivery cannot be decrypted\n" in each.stderr
    assert 3 == len(list(csv.DictReader(io.StringIO(table.stdout, newline=""))))
    assert 0 == busy.doorbell("export", "deliveries").returncode


def test_csv_contains_no_formulas(service: Harness) -> None:
    evil = {
        "email": "eve@example.com",
        "first_name": '=HYPERLINK("https://x.example.com","a")',
        "last_name": 'a "b", c\nd',
    }
    service.send(
        "visit.created", "A-1", contact=evil | {"phone": "+15550100001"}, time_scheduled="2026-03-14T16:00:00Z"
    )
    wait_until(lambda: service.visit("standard-A-1"))

    result = service.doorbell("export", "visits", "--show-personal-data", "--yes")

    [row] = csv.DictReader(io.StringIO(result.stdout, newline=""))
    assert "'" + evil["first_name"] == row["first_name"]
    assert ("'+15550100001", evil["last_name"]) == (row["phone"], row["last_name"])
