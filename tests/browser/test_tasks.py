"""The tasks for which people open the console, each with the clicks that it may need. A search is a click."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from app.settings.model import hash_password
from tests.support import browser as browsers
from tests.support.browser import ConsoleBrowser
from tests.support.harness import Harness, Server, standard_body, wait_until

pytestmark = pytest.mark.skipif(not browsers.CHROMIUM, reason="Chromium is missing: install it, or set CHROMIUM_PATH")

PASSWORD = "operate the console"
AT = "2027-03-14T{}:00Z"


@pytest.fixture(scope="module")
def office(redis_url: str, sandbox: Server) -> Iterator[Harness]:
    """Run one web and one worker process for all tasks. Each test has its own visits."""
    with Harness(redis_url, sandbox) as harness:
        harness.env |= {
            "SECRET_KEY": "key-of-the-browser-tests",
            "CONSOLE_PASSWORD_HASH": f"ada:{hash_password(PASSWORD)}",
            "CONTACT_FOR_S": "0.2",
        }
        harness.start_web()
        harness.start_worker()
        yield harness


@pytest.fixture(scope="module")
def browser(office: Harness, chromium: Any) -> Iterator[ConsoleBrowser]:
    """Open a browser, logged in as ada."""
    browser = ConsoleBrowser(chromium, office.web_server.url)
    browser.log_in(PASSWORD, "ada")
    yield browser
    browser.close()
    assert ([], []) == (browser.errors, browser.foreign_requests)


@pytest.fixture
def console(browser: ConsoleBrowser) -> ConsoleBrowser:
    """Return the browser with no clicks, at the overview."""
    browser.open("/console")
    browser.clicks = 0
    return browser


def book(
    office: Harness, id: str, email: str = "", at: str = "15:00", event: str = "created", timestamp: str = ""
) -> None:
    contact = {"email": email} if email else {"first_name": "Grace"}
    response = office.send(f"visit.{event}", id, timestamp or None, contact=contact, time_scheduled=AT.format(at))
    assert 202 == response.status_code


def create_failures(office: Harness, *ids: str) -> None:
    """Book visits without an address, and wait until they need attention."""
    for id in ids:
        book(office, id)
    wait_until(lambda: all(f"standard-{id}" in office.doorbell("failures", "--json").stdout for id in ids))


def test_why_is_this_visit_wrong(office: Harness, console: ConsoleBrowser) -> None:
    book(office, "A-0", "lovelace@example.com", at="09:00")
    book(office, "A-1", "lovelace@example.com", at="15:00", timestamp=AT.format("08:00"))
    book(office, "A-1", "lovelace@example.com", at="14:00", event="updated", timestamp=AT.format("08:20"))
    book(
        office, "A-1", "lovelace@example.com", at="15:30", event="updated", timestamp=AT.format("08:10")
    )  # arrives late
    wait_until(lambda: (office.visit("standard-A-1") or {}).get("time_scheduled") == AT.format("14:00"))

    console.search("lovelace@example.com")
    console.click("main a[href$='standard-A-1']")

    history = console.page.locator("ol.timeline").first.inner_text()
    sentences = (
        "Booked for Mar 14, 2027, 3:00 PM UTC",
        "Moved to Mar 14, 2027, 2:00 PM UTC",
        "An older message, for Mar 14, 2027, 3:30 PM UTC, arrived late and changed nothing"
        "; the tool dates it Mar 14, 2027, 8:10 AM UTC",
    )
    assert re.search(".*".join(map(re.escape, sentences)), history, re.DOTALL)
    assert console.clicks <= 2


def test_replay_one_kind_and_see_the_outcome(office: Harness, console: ConsoleBrowser) -> None:
    create_failures(office, "B-1", "B-2", "B-3")

    console.open("/console")
    console.click("tr:has-text('No e-mail address') >> text=Enter addresses…")
    console.click("button.main")

    console.page.wait_for_selector("text=Done: 0 succeeded, 3 failed again.")
    console.click("text=3 × No e-mail address")
    assert all(f"standard-B-{number}" in console.page.inner_text("main") for number in (1, 2, 3))
    assert console.clicks <= 5


def test_why_is_this_hook_rejected(office: Harness, console: ConsoleBrowser) -> None:
    assert 401 == office.post(standard_body("visit.created", "C-1"), {"content-type": "application/json"}).status_code
    wait_until(lambda: "standard" in office.doorbell("rejections", "--json").stdout)

    console.open("/console")
    console.click("nav >> text=Rejections")

    page = console.page.inner_text("main tbody tr")
    assert all(
        text in page for text in ("No signature", "standard", "The tool does not sign, or a proxy removes the header")
    )
    assert console.clicks <= 2


def contact_id(office: Harness, email: str) -> str:
    [contact] = office.get_from_api(f"/contacts?email={email}")["data"]
    return str(contact["id"])


def test_mend_a_missing_address(office: Harness, console: ConsoleBrowser) -> None:
    create_failures(office, "D-1")

    console.open("/console")
    console.click("main a:has-text('No e-mail address')")
    console.click("a[href$='standard-D-1']")
    console.click("text=Enter an e-mail address…")
    console.page.fill("input[name$='standard-D-1']", "hopper@example.com")
    console.click("button.main")

    console.page.wait_for_selector("text=Done: 1 succeeded.")
    visit = office.visit("standard-D-1")
    assert visit
    assert contact_id(office, "hopper@example.com") == visit["contact_id"]
    assert console.clicks <= 4


def test_mend_the_missing_addresses_of_several_people(office: Harness, console: ConsoleBrowser) -> None:
    people = {"D-2": "noether@example.com", "D-3": "curie@example.com"}
    create_failures(office, *people)

    console.open("/console")
    console.click("tr:has-text('No e-mail address') >> text=Enter addresses…")
    for id, email in people.items():
        console.page.fill(f"input[name$='standard-{id}']", email)
    console.click("button.main")

    for id, email in people.items():
        visit = wait_until(lambda id=id: office.visit(f"standard-{id}"))
        assert contact_id(office, email) == visit["contact_id"]
    assert console.clicks <= 4


def test_who_replayed_this_visit(office: Harness, console: ConsoleBrowser) -> None:
    create_failures(office, "E-1")
    office.doorbell("replay", "standard-E-1", "--yes", USER="grace")
    console.open("/console/plan?do=replay&ids=standard-E-1")
    console.page.click("button.main")
    wait_until(lambda: "ada" in office.doorbell("activity", "standard-E-1").stdout)

    console.search("E-1")

    history = console.page.locator("ol.timeline").first.inner_text()
    assert "ada: Replayed" in history
    assert "grace (command line): Replayed" in history
    assert console.clicks <= 2
