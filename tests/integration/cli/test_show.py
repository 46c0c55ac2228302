"""`doorbell show` and `visit`: history, values, what helps, and personal data."""

import json

from tests.support.command_line import ADA, PERSONAL, TIME, activity_of, in_2026, rows
from tests.support.harness import SECRET, Harness, sign_standard, standard_body, wait_until


def test_deliveries_and_visits_are_shown_with_changes_values_and_attempts(busy: Harness) -> None:
    first, second = sorted(rows(busy, "deliveries", "--json"), key=lambda row: row["visits"])

    assert (["standard-A-1"], "applied", "visit.created") == (first["visits"], first["state"], first["event"])
    assert (["standard-A-2"], "parked") == (second["visits"], second["state"])
    [delivery] = rows(busy, "show", first["delivery"], "--json")
    assert [{"visit": "standard-A-1", "state": "applied"}] == delivery["changes"]
    [visit] = rows(busy, "visit", "standard-A-1", "--json")
    assert "Applied: Review Rover has the values of this delivery." == delivery["summary"]
    assert "Review Rover has the newest values that Doorbell received." == visit["summary"]
    assert "2026-03-14T16:00:00Z" == visit["facts"]["time_scheduled"]["value"]
    assert first["delivery"] == visit["facts"]["time_scheduled"]["delivery"]
    calls = ["GET /visits/:id 404", "GET /contacts 200", "POST /contacts 201", "POST /visits 201"]
    assert [calls] == [attempt["calls"] for attempt in visit["attempts"]]
    assert delivery["attempts"] == visit["attempts"]


def test_a_visit_of_an_account_that_was_removed_from_the_settings_is_shown(harness: Harness) -> None:
    east = {f"HOOKS__EAST__{name}": value for name, value in EAST.items()}
    harness.start_web(**east)
    harness.start_worker(**east)
    raw = standard_body("visit.created", "A-1", contact=ADA, time_scheduled=TIME)
    harness.post(raw, sign_standard(raw), hook="east")
    wait_until(lambda: harness.visit("standard-A-1"))

    assert ["standard-A-1"] == [row["visit"] for row in rows(harness, "visits", "--when", "any", "--json")]
    assert ["east"] == [row["account"] for row in rows(harness, "visit", "standard-A-1", "--json")]
    assert "standard-A-1" in [row["id"] for row in rows(harness, "search", "A-1", "--json")]


EAST = {"SOURCE": "standard", "SECRETS": SECRET, "VISITS_API_TOKEN": "token-of-the-east"}


def test_a_visit_and_a_delivery_show_their_history(busy: Harness) -> None:
    busy.doorbell("visit", "standard-A-1", "--show-personal-data")
    [delivery, *_] = rows(busy, "deliveries", "--search", "standard-A-1", "--json")

    visit = busy.doorbell("visit", "standard-A-1", "--utc").stdout.partition("What happened")[2].partition("\n\n")[0]
    shown = busy.doorbell("show", delivery["delivery"], "--utc").stdout

    sentences = ["booked for Mar 14", "created in Review Rover", "(command line): revealed personal data"]
    assert [True] * 3 == [sentence in visit for sentence in sentences]
    assert [True, True, False] == [sentence in shown for sentence in sentences]


def test_personal_data_is_hidden_by_default(busy: Harness) -> None:
    delivery = next(row["delivery"] for row in rows(busy, "deliveries", "--json") if row["visits"] == ["standard-A-1"])
    commands = [["deliveries"], ["deliveries", "--json"], ["show", delivery], ["visit", "standard-A-1"], ["failures"]]

    output = "".join(result.stdout + result.stderr for result in (busy.doorbell(*command) for command in commands))

    assert [] == [word for word in PERSONAL if word in output]


def test_revealed_personal_data_is_recorded_in_the_activity_log(busy: Harness) -> None:
    delivery = next(row["delivery"] for row in rows(busy, "deliveries", "--json") if row["visits"] == ["standard-A-1"])
    shown = [
        busy.doorbell(*command, "--show-personal-data", "--json")
        for command in (["visit", "standard-A-1"], ["show", delivery])
    ]
    unknown = busy.doorbell("show", "d0", "--show-personal-data")

    assert [True, True] == ["ada@example.com" in result.stdout for result in shown]
    [visit] = json.loads("[" + shown[0].stdout + "]")
    assert "ada@example.com" == visit["changes"][0]["fields"]["contact.email"]
    assert 5 == unknown.returncode
    assert [
        (b"revealed visit", b"standard-A-1: everything"),
        (b"revealed delivery", f"{delivery}: everything".encode()),
    ] == activity_of(busy)


def test_show_and_visit_print_one_line_of_json(busy: Harness) -> None:
    [delivery] = [row["delivery"] for row in rows(busy, "deliveries", "--visit", "A-1", "--json")]

    assert [delivery] == [row["delivery"] for row in rows(busy, "show", delivery, "--json")]
    assert ["standard-A-1"] == [row["visit"] for row in rows(busy, "visit", "standard-A-1", "--json")]


def test_visit_shows_the_visit_in_the_api(busy: Harness) -> None:
    url = f"{busy.env['VISITS_API_URL']}/visits/standard-A-1"
    busy.http.put(url, data={"amount_collected": "7.00"}, headers={"authorization": "Bearer t"}).raise_for_status()

    [existing] = rows(busy, "visit", "standard-A-1", "--remote", "--json")
    [missing] = rows(busy, "visit", "standard-A-2", "--remote", "--json")

    assert (None, "7.00") == (existing["remote"].get("amount_collected"), existing["remote_now"]["amount_collected"])
    assert missing["remote_now"] is None
    assert [(b"fetched remote visit", b"standard-A-1"), (b"fetched remote visit", b"standard-A-2")] == activity_of(busy)


def test_show_accepts_every_id_that_failures_lists(service: Harness) -> None:
    raw = b'{"type":"visit.created","data":{}}'
    service.post(raw, sign_standard(raw))
    service.send("visit.created", "A-2", time_scheduled="2026-03-15T16:00:00Z")
    failures = wait_until(lambda: (listed := rows(service, "failures", "--json"))[1:] and listed)

    shown = {row["id"]: service.doorbell("show", row["id"]) for row in failures}

    assert {"standard-A-2"} < shown.keys()
    assert [0, 0] == [result.returncode for result in shown.values()]
    assert [] == [id for id, result in shown.items() if f"    doorbell discard {id} --yes" not in result.stdout]
    assert [] == [id for id, result in shown.items() if f"doorbell show {id}" in result.stdout]  # it is on the screen
    assert "`doorbell show ID` shows the fix" in service.doorbell("failures").stderr


def test_a_visit_that_needs_attention_says_why_and_what_helps(busy: Harness) -> None:
    text = busy.doorbell("visit", "standard-A-2", "--utc").stdout

    assert [
        "✘ standard-A-2  Standard Webhooks",
        "  Needs attention: No e-mail address (contact_unknown).",
        "  The booking came without an e-mail address, so Review Rover cannot tell whose visit this is.",
        "  → Enter the customer's e-mail address or contact id, and replay.",
        "  → Add the address at the tool; the tool then sends the booking again.",
        "  → Discard the failure: no review request will be sent.",
        "    doorbell replay standard-A-2 --contact EMAIL --yes",
        "    doorbell discard standard-A-2 --yes",
    ] == text.splitlines()[:8]
    assert f"{in_2026('Mar 15', '4:00 PM UTC')}, " in text


def test_a_visit_shows_its_changes_and_which_values_count(service: Harness) -> None:
    for number, at in enumerate(("2026-03-02T09:00:00Z", "2026-03-01T09:00:00Z"), 1):
        service.send("visit.updated", "A-1", at, contact=ADA, time_scheduled=f"2026-03-1{number}T16:00:00Z")
    wait_until(lambda: service.visit("standard-A-1"))

    text = service.doorbell("visit", "standard-A-1", "--utc").stdout

    first, second = [line for line in text.splitlines() if "  update  " in line]
    assert f"starts {in_2026('Mar 11', '4:00 PM UTC')}, contact •••" in first
    assert "contact, starts" in first
    assert f"starts {in_2026('Mar 12', '4:00 PM UTC')}, contact •••" in second
    assert "nothing: newer values count" in second
    assert "in Review Rover  visit " in text


def test_a_delivery_quotes_what_the_api_says(busy: Harness) -> None:
    busy.doorbell("replay", "standard-A-2", "--contact", "cont_bogus", "--yes")
    [failure] = wait_until(lambda: [row for row in rows(busy, "failures", "--json") if "422" in row["reason"]])

    shown, listed = busy.doorbell("show", failure["delivery"]).stdout, busy.doorbell("failures").stdout

    assert "contact_id" in failure["detail"]
    assert f"  It says: “{failure['detail']}”\n" in shown
    assert f"The values are rejected: {failure['detail']}" in listed
    assert "    doorbell discard standard-A-2 --yes\n" in shown
