"""`doorbell connect` and `disconnect` for people: what is asked and said, with a fake of the tool."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from app.vendors.api import create_vendors, load_vendor
from tests.support.command_line import rows, run_in_terminal
from tests.support.harness import CALENDLY_SECRET, Harness, serving

TOKEN = load_vendor("calendly").credentials["TOKEN"]
#: A key of tests, and the secret that Zoom would show.
KEY, ZOOM_SECRET = "secret-key-of-the-tests-0123456789", "secret-token-of-zoom"


@pytest.fixture(scope="module")
def vendors() -> Iterator[str]:
    tools = [load_vendor("calendly"), load_vendor("savvycal"), load_vendor("jobber"), load_vendor("gohighlevel")]
    with serving(create_vendors(tools), lifespan="on") as url:
        yield url


@pytest.fixture
def harness(module_harness: Harness, monkeypatch: pytest.MonkeyPatch) -> Harness:
    """Return a service without hooks."""
    module_harness.reset()
    env = {name: value for name, value in module_harness.env.items() if not name.startswith("HOOKS__")}
    env |= {"SECRET_KEY": KEY, "PUBLIC_URL": "https://doorbell.example.com"}
    monkeypatch.setattr(module_harness, "env", env)
    return module_harness


def type_answers(harness: Harness, answers: list[str], *command: str) -> str:
    """Run a command on a terminal, type an answer to each prompt, and return what the terminal shows."""
    return answer_prompts(harness, answers, *command)[0]


def answer_prompts(harness: Harness, answers: list[str], *command: str) -> tuple[str, int]:
    """Do as type_answers does, and also return the exit status."""
    shown, status = run_in_terminal(command, harness.env, answers=answers)
    return " ".join(shown.split()), status


def test_a_person_is_told_which_credential_and_where_it_is(harness: Harness, vendors: str) -> None:
    options = ("--api-url", f"{vendors}/calendly", "--no-wait")

    first = type_answers(harness, [TOKEN], "connect", "calendly", *options)
    again = type_answers(harness, [""], "connect", "calendly", *options)

    assert "Calendly needs credentials. What you enter is not shown, and is stored encrypted." in first
    assert "Personal access token: In Calendly: Integrations, “API and webhooks”." in first
    assert "Calendly (Ada's Salon) is connected as calendly" in first
    assert "TOKEN (Enter keeps the stored one):" in again
    assert "adopted subscription" in again
    assert TOKEN not in first + again


def test_a_token_is_asked_for_before_the_credentials_that_it_replaces(harness: Harness, vendors: str) -> None:
    token = load_vendor("savvycal").credentials["TOKEN"]

    shown = type_answers(harness, [token], "connect", "savvycal", "--api-url", f"{vendors}/savvycal/v1", "--no-wait")

    assert "TOKEN (Enter skips to the next ones):" in shown
    assert "CLIENT_ID" not in shown
    assert "SavvyCal (Ada's Salon) is connected as savvycal" in shown


def test_nothing_is_asked_if_a_setting_is_missing(harness: Harness) -> None:
    del harness.env["SECRET_KEY"], harness.env["PUBLIC_URL"]

    shown = type_answers(harness, [], "connect", "calendly")

    assert "PUBLIC_URL: is required" in shown
    assert "SECRET_KEY: is required" in shown
    assert "TOKEN" not in shown


def test_the_steps_come_before_the_secret_that_a_person_copies(harness: Harness) -> None:
    shown = type_answers(harness, [ZOOM_SECRET], "connect", "zoom", "--no-wait")

    steps, question, stored = (
        shown.index("paste https://doorbell.example.com/hooks/zoom"),
        shown.index("Enter the signing secret as soon as Zoom Scheduler shows it"),
        shown.index("zoom is stored"),
    )
    assert steps < question < stored
    assert ["zoom"] == [row["hook"] for row in rows(harness, "connections", "--json")]


def test_a_pipe_without_the_secret_gets_the_steps_and_status_3(harness: Harness) -> None:
    ended = harness.doorbell("connect", "zoom", "--no-wait")

    assert (3, []) == (ended.returncode, rows(harness, "connections", "--json"))
    assert "paste https://doorbell.example.com/hooks/zoom" in " ".join(ended.stdout.split())
    assert "SECRET: is required" in ended.stderr


def test_a_new_secret_that_a_person_enters_at_the_tool_is_shown_once(harness: Harness) -> None:
    first = harness.doorbell("connect", "youcanbookme", "--no-wait")
    again = harness.doorbell("connect", "youcanbookme", "--no-wait")

    assert "SECRET in the steps is this new secret" in first.stderr
    assert re.match(r"[\w-]{43}\n1\. ", first.stdout)
    assert again.stdout.startswith("1. ")


def test_the_missing_credential_of_a_stored_hook_has_the_name_that_is_asked_for(harness: Harness, vendors: str) -> None:
    ended = harness.doorbell("connect", "calendly", "--api-url", f"{vendors}/calendly", "--no-wait")

    assert (3, "credentials are missing: TOKEN\n") == (ended.returncode, ended.stderr)


def test_disconnect_says_what_is_missed_and_another_answer_changes_nothing(harness: Harness, vendors: str) -> None:
    connect_calendly(harness, vendors)

    typed, status = answer_prompts(harness, ["n"], "disconnect", "calendly")
    piped = harness.doorbell("disconnect", "calendly")

    question = "Calendly will send no more webhooks to calendly. After you connect it again, run"
    assert question in typed
    assert typed.endswith("Disconnect calendly? [y/N]: n nothing was done")
    assert (130, 2) == (status, piped.returncode)
    assert ["calendly"] == [row["hook"] for row in rows(harness, "connections", "--json")]


def test_what_disconnect_cannot_delete_is_named(harness: Harness) -> None:
    harness.env["HOOKS__CALENDLY__SECRETS"] = CALENDLY_SECRET

    ended = harness.doorbell("disconnect", "calendly", "--yes").stderr

    assert "deleted subscriptions: none" in ended
    assert "cannot delete webhooks of this hook at Calendly" in ended
    assert "It is set in the environment" in ended


def connect_calendly(harness: Harness, vendors: str) -> None:
    harness.doorbell(
        "connect", "calendly", "--api-url", f"{vendors}/calendly", "--no-wait", stdin=f"TOKEN={TOKEN}".encode()
    )


def test_visits_of_the_past_need_their_number_typed(harness: Harness, vendors: str) -> None:
    starts_at = (datetime.now(UTC) - timedelta(days=20)).isoformat()
    harness.http.post(f"{vendors}/calendly/_vendor/book", json={"starts_at": starts_at}).raise_for_status()
    connect_calendly(harness, vendors)
    command = ("catch-up", "calendly", "--since", "30d")

    plan = harness.doorbell(*command, "--dry-run")
    piped = harness.doorbell(*command)
    typed = type_answers(harness, ["2"], *command)

    assert (0, "1 with changes that Doorbell lacks") == (plan.returncode, plan.stdout.splitlines()[1].strip())
    assert 2 == piped.returncode
    assert "1 past visit would be created or changed: their customers may be asked for a review." in piped.stderr
    assert typed.endswith("Type 1 to continue: 2 nothing was done")
    assert "0" == harness.doorbell("catch-up", "calendly", "--dry-run").stdout.split()[-1]


def test_a_day_begins_in_the_zone_of_the_computer(harness: Harness, vendors: str) -> None:
    connect_calendly(harness, vendors)

    printed = harness.doorbell_process(
        "catch-up", "calendly", "--since", "2026-01-20", "--dry-run", TZ="America/New_York"
    )

    assert re.match(r"appointments since Jan 20,( 2026,)? 12:00 AM EST", printed.stdout)


@pytest.mark.parametrize("command", [("connections",), ("disconnect", "calendly", "--yes"), ("catch-up", "calendly")])
def test_without_redis_a_command_says_so(harness: Harness, command: tuple[str, ...]) -> None:
    ended = harness.doorbell(*command, REDIS_URL="redis://127.0.0.1:1/0")

    assert (4, "") == (ended.returncode, ended.stdout)
    assert "Redis at 127.0.0.1:1 cannot be reached" in ended.stderr


@pytest.mark.parametrize("public_url", ["https://doorbell.example.com/", "https://doorbell.example.com/path/"])
def test_a_public_url_with_a_path_or_a_slash_makes_one_url(harness: Harness, vendors: str, public_url: str) -> None:
    harness.env["PUBLIC_URL"] = public_url
    for _ in range(2):
        connect_calendly(harness, vendors)

    subscriptions = harness.http.get(f"{vendors}/calendly/_vendor/subscriptions").json()
    url = f"{public_url.rstrip('/')}/hooks/calendly"
    assert [url] == [each["url"] for each in subscriptions if each["url"].startswith(public_url)]


def test_two_hooks_of_one_source_are_two_connections(harness: Harness, vendors: str) -> None:
    options = ("--api-url", f"{vendors}/calendly", "--no-wait")
    for hook in ("calendly", "east"):
        harness.doorbell("connect", "calendly", "--hook", hook, *options, stdin=f"TOKEN={TOKEN}".encode())
    ids = {row["hook"]: row["subscription_id"] for row in rows(harness, "connections", "--json")}

    ended = harness.doorbell("disconnect", "east", "--yes")

    assert ids["calendly"] != ids["east"]
    assert f"east is disconnected; deleted subscriptions: {ids['east']}\n" == ended.stderr
    remaining = {each["id"] for each in harness.http.get(f"{vendors}/calendly/_vendor/subscriptions").json()}
    assert ids["calendly"] in remaining
    assert ids["east"] not in remaining


def test_of_many_subscriptions_a_person_sees_the_first_and_a_program_all(harness: Harness, vendors: str) -> None:
    jobber = load_vendor("jobber")
    values = f"TOKEN={jobber.credentials['TOKEN']}\nSECRET={jobber.secret_on_a_page}\n".encode()
    api_url = f"{vendors}/jobber{jobber.api_path}"

    connected = harness.doorbell("connect", "jobber", "--api-url", api_url, "--no-wait", stdin=values)

    assert 0 == connected.returncode
    assert 8 == connected.stdout.count("created subscription ")
    [row] = rows(harness, "connections", "--json")
    ids = row["subscription_id"].split(", ")
    assert 8 == len(ids)
    shown = harness.doorbell("connections").stdout
    assert f"{ids[0]}, 7 more" in shown
    assert ids[1] not in shown


def test_a_tool_whose_accounts_sign_alike_is_connected_with_the_id_of_the_account(
    harness: Harness, vendors: str
) -> None:
    gohighlevel = load_vendor("gohighlevel")
    lines = {name: f"{name}={value}\n" for name, value in gohighlevel.values_to_enter.items()}
    options = ("connect", "gohighlevel", "--api-url", f"{vendors}/gohighlevel", "--no-wait")

    without = harness.doorbell(*options, stdin=(lines["TOKEN"] + lines["SECRET"]).encode())
    connected = harness.doorbell(*options, stdin="".join(lines.values()).encode())

    assert without.returncode
    assert "TENANTS" in without.stderr
    assert 0 == connected.returncode, connected.stderr
    assert "a worker stores the upcoming appointments" in connected.stderr


def test_the_steps_by_hand_name_what_the_command_asks_for(harness: Harness) -> None:
    connected = harness.doorbell("connect", "cronofy", "--no-wait", stdin=b"SECRET=client-secret-of-cronofy")

    steps = " ".join(connected.stdout.split())
    assert "1. Set SECRET to your application's client secret" in steps
    assert "Doorbell cannot catch up on what Cronofy did not deliver." in steps
    assert "HOOKS__" not in steps
    assert "doorbell connect" not in steps


def test_the_steps_name_the_command_for_a_setting_that_connect_does_not_ask_for(harness: Harness) -> None:
    connected = harness.doorbell("connect", "standard", "--hook", "zapier", "--no-wait")
    steps = " ".join(connected.stdout.split())

    assert "set --auth=bearer" in steps
    assert "--auth is an option of `doorbell hooks change zapier`." in steps
