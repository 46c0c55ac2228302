"""The console in a real browser, with real web and worker processes."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from app.settings.model import hash_password
from tests.support import browser as browsers
from tests.support.browser import NARROW, WIDE, ConsoleBrowser
from tests.support.harness import SECRET, TOKEN, Harness, sign_standard, standard_body, wait_until

pytestmark = [
    pytest.mark.skipif(not browsers.CHROMIUM, reason="Chromium is missing: install it, or set CHROMIUM_PATH"),
]

OPERATOR, VIEWER = "operate", "look"
HASHES = {
    "SECRET_KEY": "key-of-the-browser-tests",
    "CONSOLE_PASSWORD_HASH": hash_password(OPERATOR),
    "CONSOLE_VIEWER_PASSWORD_HASH": hash_password(VIEWER),
}
PATHS = {
    "overview": "/console",
    "failures": "/console/failures",
    "plan": "/console/plan?do=replay&state=parked",
    "deliveries": "/console/deliveries",
    "parked": "/console/deliveries?state=parked",
    "delivery": "/console/deliveries/{delivery}",
    "visits": "/console/visits?when=any",
    "visit": "/console/visits/standard-A-1",
    "failed visit": "/console/visits/standard-B-2",
    "rejections": "/console/rejections",
    "check": "/console/rejections/check?hook=standard",
    "sources": "/console/sources",
    "source": "/console/sources/standard",
    "listen": "/console/sources/standard/listen",
    "connect": "/console/connect",
    "connect with a token": "/console/connect/calendly?hook=nosuchhook",
    "connect by hand": "/console/connect/zoom",
    "first delivery": "/console/hooks/calendly/first-delivery?since=0",
    "hooks": "/console/hooks",
    "hook": "/console/hooks/calendly",
    "catch-up": "/console/hooks/calendly/catch-up",
    "workers": "/console/workers",
    "operations": "/console/operations",
    "operation": "/console/operations/{operation}",
    "tasks": "/console/operations/{operation}/tasks?outcome=failed:contact_unknown",
    "activity": "/console/activity",
    "settings": "/console/settings",
    "retention": "/console/settings/retention",
    "erasure": "/console/settings/erasure",
    "search": "/console/search?q=nobody",
    "hits": "/console/search?q=standard-B-1",
}
OpenConsole = Callable[..., ConsoleBrowser]


@pytest.fixture
def running(harness: Harness) -> Harness:
    harness.env |= HASHES | {
        "CONTACT_FOR_S": "0.5",
        "HOOKS__OTHER__SOURCE": "standard",
        "HOOKS__OTHER__SECRETS": SECRET,
        "HOOKS__CALENDLY__CREDENTIALS__TOKEN": "token-of-the-account",
        "HOOKS__CALENDLY__API_URL": "http://127.0.0.1:9",
    }
    harness.start_web()
    return harness


@pytest.fixture
def open_console(running: Harness, chromium: Any) -> Iterator[OpenConsole]:
    """Open browsers at the console, logged in if a password is given. Fail on console errors and on requests elsewhere."""
    consoles: list[ConsoleBrowser] = []

    def open_console(password: str = "", **options: Any) -> ConsoleBrowser:
        console = ConsoleBrowser(chromium, running.web_server.url, **options)
        consoles.append(console)
        if password:
            console.log_in(password)
        return console

    yield open_console
    errors = [complaint for console in consoles for complaint in console.errors]
    foreign = [url for console in consoles for url in console.foreign_requests]
    for console in consoles:
        console.close()
    assert ([], []) == (errors, foreign)


def create_visit(harness: Harness, id: str, **fields: Any) -> str:
    """Create a visit and return the id of its delivery."""
    contact = {"email": "ada@example.com", "phone": "+15550100001", "first_name": "Ada"}
    response = harness.send("visit.created", id, contact=contact, time_scheduled="2027-03-14T16:00:00Z", **fields)
    return str(response.json()["delivery"])


def create_failure(harness: Harness, id: str) -> str:
    """Create a visit without an address, which is parked, and return the id of its delivery."""
    return str(
        harness.send(
            "visit.created", id, contact={"first_name": "Grace"}, time_scheduled="2027-03-14T16:00:00Z"
        ).json()["delivery"]
    )


def failures(harness: Harness) -> int:
    return harness.doorbell("failures", "--json").stdout.count('"contact_unknown"')


def create_data(console: ConsoleBrowser, harness: Harness) -> dict[str, str]:
    """Create data for every page."""
    delivery = create_visit(harness, "A-1")
    for number in range(30):
        create_failure(harness, f"B-{number}")
    for headers in ({"content-type": "application/json"}, sign_standard(b"another body")):
        assert 401 == harness.post(b"{}", headers).status_code
    wait_until(lambda: harness.visit("standard-A-1") and failures(harness) == 30, 30)
    console.open("/console/plan?do=replay&ids=standard-B-1")
    console.page.click("button.main")
    operation = console.page.url.rpartition("/")[2]
    return {"delivery": delivery, "operation": operation}


# -- first delivery --


def test_the_overview_waits_for_the_first_delivery_and_shows_it(running: Harness, open_console: OpenConsole) -> None:
    running.start_worker()
    console = open_console(OPERATOR)
    assert "Waiting for the first delivery" in console.heading
    console.screenshot("first-visit")

    delivery = create_visit(running, "A-1")

    console.page.wait_for_selector("h1:has-text('Everything works')")
    console.open("/console/deliveries")
    assert console.page.locator(f"table a[href$='{delivery}']").count() == 1


def test_a_test_delivery_can_be_sent_from_the_page_of_its_source(running: Harness, open_console: OpenConsole) -> None:
    running.start_worker()
    console = open_console(OPERATOR)

    console.open("/console/sources/standard")
    console.page.click("form[action$='/test-delivery'] button")

    assert "Doorbell answered 202" in console.page.inner_text("[role=status].note")
    wait_until(running.visits)


def test_the_page_of_a_hook_shows_requests_as_they_arrive(running: Harness, open_console: OpenConsole) -> None:
    console = open_console(OPERATOR)
    console.open("/console/sources/standard")
    console.page.click("text=Listen to this hook >> nth=0")
    assert "Nothing has arrived in the last hour" in console.page.inner_text("#live")

    create_visit(running, "A-1")
    console.page.wait_for_selector("#live >> text=Books standard-A-1 for •••")
    # The web process knows a moment later that an operator listens.
    wait_until(
        lambda: (
            running.post(b"{}", sign_standard(b"another body")) and console.page.locator("text=Rejected (401)").count()
        )
    )

    assert "ada@example.com" not in console.page.content()


# -- failures and operations --


def test_a_failure_is_planned_replayed_and_applied(running: Harness, open_console: OpenConsole) -> None:
    running.start_worker()
    create_failure(running, "B-1")
    wait_until(lambda: failures(running) == 1)
    console = open_console(OPERATOR)
    assert "One failure needs attention: No e-mail address (Standard" in console.heading

    console.page.click("text=Show failures")
    console.page.click("#all")
    assert "1 would fail the same way: No e-mail address" in console.page.inner_text("main")
    console.page.fill("input[name^='contact:']", "cont_KYdl3lftgZXGRbxqoj")
    console.page.click("button.main")

    console.page.wait_for_selector("text=Done: 1 succeeded.")
    assert "Failures" == console.page.inner_text("#nav-failures").strip()  # the number of failures is live too
    visit = wait_until(lambda: running.visit("standard-B-1"))
    assert "cont_KYdl3lftgZXGRbxqoj" == visit["contact_id"]
    console.open("/console/failures")
    assert "Nothing needs attention." in console.page.inner_text("main")
    console.screenshot("no-failure")


def test_an_operation_on_more_than_25_tasks_needs_a_typed_confirmation(
    running: Harness, open_console: OpenConsole
) -> None:
    running.start_worker()
    for number in range(60):
        create_failure(running, f"B-{number}")
    wait_until(lambda: "tasks need an operator: 60" in running.doorbell("doctor").stdout, 40)
    console = open_console(OPERATOR)

    console.open("/console/failures")
    console.page.click("#discard-all")
    console.page.fill("#confirm", "59")
    console.page.click("button.main")
    assert "Type 60 to confirm" in console.page.inner_text("[role=alert]")
    assert "tasks need an operator: 60" in running.doorbell("doctor").stdout
    console.page.fill("#confirm", "60")
    console.page.click("button.main")

    console.page.wait_for_selector("text=Done: 60 discarded.")
    assert 0 == failures(running)


def test_all_deliveries_of_a_hook_can_be_replayed(running: Harness, open_console: OpenConsole) -> None:
    running.start_worker()
    for number in range(28):
        create_visit(running, f"A-{number}")
    running.post(*delivery_of_other_hook(), hook="other")
    wait_until(lambda: len(running.visits()) == 29, 30)
    for visit in running.visits():
        running.http.delete(f"{running.sandbox.url}/api/v1/visits/{visit['id']}", headers=AUTHORIZED)
    assert [] == running.visits()
    console = open_console(OPERATOR)

    console.open("/console/deliveries")
    console.page.select_option("#hook", "standard")
    console.page.select_option("#state", "applied")
    console.page.click("text=Show")
    assert "at most 28 match" in console.page.inner_text(".bulk")
    console.page.keyboard.press("A")
    console.page.wait_for_url("**/plan?**")
    assert "Replay at most 28" in console.heading
    console.page.check("input[name=recheck]")
    console.page.fill("#confirm", "28")
    console.page.click("button.main")

    console.page.wait_for_selector("text=Done:")
    wait_until(lambda: len(running.visits()) == 28, 30)
    assert None is running.visit("standard-B-1")


AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


def delivery_of_other_hook() -> tuple[bytes, dict[str, str]]:
    contact = {"email": "grace@example.com"}
    raw = standard_body("visit.created", "B-1", contact=contact, time_scheduled="2027-03-14T16:00:00Z")
    return raw, sign_standard(raw)


def test_an_account_is_paused_and_resumed(running: Harness, open_console: OpenConsole) -> None:
    running.start_worker()
    console = open_console(OPERATOR)
    console.open("/console/sources")
    console.page.click("button:has-text('Pause')")
    assert "Paused" == console.page.inner_text("td .state.held")
    create_visit(running, "A-1")
    wait_until(lambda: "On hold" in running.doorbell("deliveries").stdout)

    console.open("/console")
    assert "Paused by an operator: 1 change waits for the account main." in console.heading
    console.screenshot("paused")
    console.page.click("text=Resume…")
    console.page.click("button:has-text('Resume')")

    assert "On" == console.page.inner_text("td .state.applied")
    wait_until(lambda: running.visit("standard-A-1"))


def test_a_person_is_erased_after_a_plan(running: Harness, open_console: OpenConsole) -> None:
    running.start_worker()
    create_visit(running, "A-1")
    wait_until(lambda: running.visit("standard-A-1"))
    console = open_console(OPERATOR, java_script_enabled=False)

    console.open("/console/settings")
    console.page.click("text=Erase a person")
    console.page.fill("#person", "+1 (555) 010-0001")
    console.page.click("main button")
    assert "visits" in console.page.inner_text("table")
    console.screenshot("erasure-plan")
    console.page.fill("#confirm", "+1 (555) 010-0001")
    console.page.click("main button")

    assert "Erased" in console.page.inner_text("[role=status]")
    console.screenshot("erased")
    assert "ada@example.com" not in running.doorbell("visit", "standard-A-1", "--show-personal-data").stdout


def test_a_discarded_visit_has_a_summary(running: Harness, open_console: OpenConsole) -> None:
    running.start_worker()
    create_failure(running, "B-1")
    wait_until(lambda: failures(running) == 1)
    console = open_console(OPERATOR)

    console.open("/console/visits/standard-B-1")
    console.page.click("text=Discard…")
    console.page.click("button.main")
    console.page.wait_for_selector("text=Done:")

    console.open("/console/visits/standard-B-1")
    assert "An operator discarded" in console.page.inner_text(".lead")


def test_an_operation_without_a_worker_can_be_cancelled(running: Harness, open_console: OpenConsole) -> None:
    worker = running.start_worker()
    create_failure(running, "B-1")
    wait_until(lambda: failures(running) == 1)
    worker.kill()
    console = open_console(OPERATOR)

    console.open("/console/plan?do=replay&ids=standard-B-1")
    console.page.click("button.main")
    assert "Waiting for a worker" in console.page.inner_text("main")
    console.page.click("text=Cancel")
    running.start_worker()

    console.page.wait_for_selector("text=Cancelled")
    assert 1 == failures(running)


# -- search and lists --


@pytest.mark.parametrize("query", ["A-1", "standard-A-1", "Ada@Example.com", "+1 (555) 010-0001", "555 010 0001"])
def test_the_search_matches_ids_addresses_and_phone_numbers(
    running: Harness, open_console: OpenConsole, query: str
) -> None:
    running.start_worker()
    create_visit(running, "A-1")
    wait_until(lambda: running.visit("standard-A-1"))
    console = open_console(OPERATOR)

    console.page.fill("#q", query)
    console.page.press("#q", "Enter")

    console.page.wait_for_url("**/console/visits/standard-A-1")
    assert "ada@example.com" not in console.page.content()


def test_a_new_delivery_is_offered_and_does_not_shift_the_list(running: Harness, open_console: OpenConsole) -> None:
    create_visit(running, "A-1")
    console = open_console(OPERATOR)
    console.open("/console/deliveries")
    rows = console.page.inner_text("tbody")
    before = console.page.locator("tbody tr").bounding_box()

    create_visit(running, "A-2")

    console.page.wait_for_selector("text=1 new delivery; show")
    assert before == console.page.locator("tbody tr").bounding_box()
    assert rows.count("standard-A-") == console.page.inner_text("tbody").count("standard-A-") == 1
    console.page.click("text=1 new delivery; show")
    assert "standard-A-2" in console.page.inner_text("tbody tr:first-child")


def test_a_new_failure_is_offered_and_does_not_shift_the_list(running: Harness, open_console: OpenConsole) -> None:
    running.start_worker()
    create_failure(running, "B-1")
    wait_until(lambda: failures(running) == 1)
    console = open_console(OPERATOR)
    console.open("/console/failures")
    before = console.page.locator("tbody tr").bounding_box()

    create_failure(running, "B-2")

    console.page.wait_for_selector("text=1 new failure; show")
    assert before == console.page.locator("tbody tr").bounding_box()
    console.page.click("text=1 new failure; show")
    assert 2 == console.page.locator("tbody tr").count()


def test_workers_are_live(running: Harness, open_console: OpenConsole) -> None:
    console = open_console(OPERATOR)
    console.open("/console/workers")
    assert "No worker is running." in console.page.inner_text("main")

    running.start_worker()
    create_visit(running, "A-1")

    console.page.wait_for_selector("table:has-text('Running')")


def test_a_choice_with_the_mouse_filters_a_list_and_with_the_keyboard_waits_for_the_button(
    running: Harness, open_console: OpenConsole
) -> None:
    create_visit(running, "A-1")
    console = open_console(OPERATOR)
    page = console.page
    console.open("/console/deliveries")

    page.focus("#search")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowDown")
    assert ("standard", f"{console.url}/console/deliveries") == (page.input_value("#hook"), page.url)
    page.click("h1")
    page.click("#state")
    page.evaluate("state.value = 'parked'; state.dispatchEvent(new Event('change', { bubbles: true }))")

    page.wait_for_url("**/deliveries?state=parked&hook=standard")
    assert "No delivery matches" in page.inner_text("main")


def test_a_long_reason_leaves_the_other_columns_their_width(running: Harness, open_console: OpenConsole) -> None:
    running.start_worker()
    for number in range(3):
        create_failure(running, f"walk-in-025-{number}")
    wait_until(lambda: failures(running) == 3)
    reason = "untranslatable: " + "an event with several invitees and no limit, " * 5 + "x" * 200
    with redis.Redis.from_url(running.redis_url) as client:
        client.hset("bell:visit:main/standard-walk-in-025-1", "reason", reason)
    console = open_console(OPERATOR)

    console.open("/console/failures")
    console.screenshot("long-reason")

    assert reason == console.page.locator(".clamped", has_text="untranslatable").get_attribute("title")
    rows = [row.bounding_box()["height"] for row in console.page.locator("tbody tr").all()]
    ids = [id.bounding_box()["height"] for id in console.page.locator("tbody .id").all()]
    assert (3, 3) == (len(rows), len(ids))
    assert max(rows) < 90  # two lines
    assert max(ids) < 30  # one line
    assert 0 == console.page.evaluate(
        "(({scrollWidth, clientWidth}) => scrollWidth - clientWidth)(document.querySelector('.table'))"
    )
    show, since = [console.page.locator(f".filters {name}").bounding_box()["y"] for name in ("button", "#since")]
    assert abs(show - since) < 10, "all filters fit in one line"


def test_a_field_is_revealed_in_place(running: Harness, open_console: OpenConsole) -> None:
    delivery = create_visit(running, "A-1")
    console = open_console(OPERATOR)
    console.open(f"/console/deliveries/{delivery}")
    assert "Ada" not in console.page.inner_text("pre")

    console.page.focus("[data-field='data.contact.email']")
    console.page.keyboard.press("Enter")
    console.page.wait_for_selector("span[data-field='data.contact.email']")
    assert "data.contact.email" == console.page.evaluate("document.activeElement.dataset.field")
    console.page.click("[data-field='data.contact.first_name']")
    console.page.wait_for_selector("span[data-field='data.contact.first_name']")

    body = console.page.inner_text("pre")
    assert ["ada@example.com", "Ada"] == re.findall("ada@example.com|Ada", body)
    assert "+15550100001" not in body
    console.screenshot("revealed")
    assert [] == console.violations()


# -- automatic refresh --


def test_the_state_of_a_row_refreshes_in_place(running: Harness, open_console: OpenConsole) -> None:
    create_visit(running, "A-1")
    console = open_console(OPERATOR)
    console.open("/console/deliveries")
    console.page.wait_for_selector("#live-state[data-state=live]")
    assert "Queued" in console.page.inner_text("tbody tr")

    running.start_worker()

    console.page.wait_for_selector("tbody tr .state.applied")
    assert "live" == console.page.inner_text("#live-state")


#: Resolves after two more responses: the first may have been on its way before.
_TWO_REFRESHES = """() => new Promise((resolve) => {
  let responses = 0;
  document.addEventListener("htmx:afterRequest", () => (responses += 1) === 2 && resolve());
  setInterval(() => document.querySelectorAll("[data-live]").forEach((live) => htmx.trigger(live, "live")), 100);
})"""


def press_during_refreshes(console: ConsoleBrowser, selector: str) -> None:
    """Press the mouse on an element, wait until the page has refreshed, and release."""
    console.page.hover(selector)
    console.page.mouse.down()
    console.page.evaluate(_TWO_REFRESHES)
    console.page.mouse.up()


def test_a_click_during_a_refresh_of_the_overview_is_not_lost(running: Harness, open_console: OpenConsole) -> None:
    running.start_worker()
    create_failure(running, "B-1")
    wait_until(lambda: failures(running) == 1)
    console = open_console(OPERATOR)

    press_during_refreshes(console, "#live tbody a >> nth=0")

    console.page.wait_for_url("**/console/failures?*")


def test_a_click_during_a_refresh_of_an_operation_is_not_lost(running: Harness, open_console: OpenConsole) -> None:
    worker = running.start_worker()
    create_failure(running, "B-1")
    wait_until(lambda: failures(running) == 1)
    worker.kill()
    console = open_console(OPERATOR)
    console.open("/console/plan?do=replay&ids=standard-B-1")
    console.page.click("button.main")

    press_during_refreshes(console, "text=Cancel")

    console.page.wait_for_selector("text=Cancelled")


def test_a_second_click_during_a_refresh_is_not_lost(running: Harness, open_console: OpenConsole) -> None:
    """The second press comes before the first click is over for the script, as on a busy computer."""
    console = open_console(OPERATOR)
    console.page.evaluate("""() => {
      window.pressed = document.querySelector("#live");
      for (const name of ["pointerdown", "pointerup", "pointerdown"]) {
        pressed.dispatchEvent(new PointerEvent(name, { bubbles: true }));
      }
    }""")

    console.page.evaluate(_TWO_REFRESHES)

    assert console.page.evaluate("window.pressed.isConnected")


@pytest.mark.parametrize("options", [{"status": 503}, None], ids=["503", "no connection"])
def test_a_page_without_a_stream_polls(running: Harness, open_console: OpenConsole, options: Any) -> None:
    console = open_console(OPERATOR)
    console.page.route("**/console/stream", lambda route: route.fulfill(**options) if options else route.abort())
    console.open("/console/deliveries")
    console.page.wait_for_selector("#live-state[data-state=polling]")

    create_visit(running, "A-1")

    console.page.wait_for_selector("text=1 new delivery; show")


def test_the_refresh_pauses_on_request_and_on_a_hidden_page(running: Harness, open_console: OpenConsole) -> None:
    console = open_console(OPERATOR)
    console.page.wait_for_selector("#live-state[data-state=live]")

    console.page.keyboard.press("p")
    assert "paused" == console.page.inner_text("#live-state")
    console.page.click("#live-state")
    console.page.wait_for_selector("#live-state[data-state=live]")
    console.page.evaluate(_SET_HIDDEN, True)
    assert "paused" == console.page.inner_text("#live-state")
    create_visit(running, "A-1")
    console.page.evaluate(_SET_HIDDEN, False)

    console.page.wait_for_selector("#live-state[data-state=live]")
    console.page.wait_for_selector("dd:has-text('ago'), dd:has-text('just now')")


_SET_HIDDEN = """(hidden) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_the_buttons_for_selected_rows_show_their_number(running: Harness, open_console: OpenConsole) -> None:
    running.start_worker()
    for number in range(3):
        create_failure(running, f"B-{number}")
    wait_until(lambda: failures(running) == 3)
    console = open_console(OPERATOR)
    page = console.page
    console.open("/console/failures")
    replay, discard, checkboxes = page.locator("#replay"), page.locator("#discard"), page.locator("td.select input")

    def button_states() -> list[tuple[str, bool]]:
        return [(button.inner_text(), button.is_enabled()) for button in (replay, discard)]

    assert [("Replay selected…", False), ("Discard selected…", False)] == button_states()
    console.screenshot("no-row-selected")
    checkboxes.nth(0).check()
    checkboxes.nth(2).check()
    assert [("Replay 2 selected…", True), ("Discard 2 selected…", True)] == button_states()
    checkboxes.nth(0).uncheck()
    assert [("Replay 1 selected…", True), ("Discard 1 selected…", True)] == button_states()
    page.check("#select-all")
    assert [("Replay 3 selected…", True), ("Discard 3 selected…", True)] == button_states()
    console.screenshot("all-rows-selected")
    discard.click()
    page.wait_for_url("**/plan?**")
    assert "Discard 3: the plan" in console.heading
    page.go_back()
    page.wait_for_selector("#replay")
    assert checkboxes.evaluate_all("all => all.filter(box => box.checked).length") == (3 if replay.is_enabled() else 0)


def test_a_plan_without_a_selected_row_is_empty_without_javascript(running: Harness, open_console: OpenConsole) -> None:
    running.start_worker()
    for number in range(2):
        create_failure(running, f"B-{number}")
    wait_until(lambda: failures(running) == 2)
    console = open_console(OPERATOR, java_script_enabled=False)

    for path, button in (("/failures", "#replay"), ("/failures", "#discard"), ("/deliveries", "#replay")):
        console.open(f"/console{path}")
        console.page.click(button)
        assert "Nothing is selected" == console.heading
    console.screenshot("empty-plan")
    console.open("/console/failures")
    console.page.locator("td.select input").first.check()
    console.page.click("#discard")
    assert "Discard 1: the plan" in console.heading


# -- keyboard --


def test_the_keyboard_reaches_all_actions(running: Harness, open_console: OpenConsole) -> None:
    running.start_worker()
    for id in ("B-1", "B-2"):
        create_failure(running, id)
    wait_until(lambda: failures(running) == 2)
    console = open_console()
    console.open("/console/login")
    page, keys = console.page, console.page.keyboard

    page.wait_for_selector("input[name=password]:focus")
    keys.type(OPERATOR)
    keys.press("Enter")
    page.wait_for_url("**/console")
    keys.press("?")
    assert page.is_visible("#help")
    keys.press("Escape")
    keys.press("g")
    keys.press("f")
    page.wait_for_url("**/failures")
    for key in ("j", "j", "k", "x"):
        keys.press(key)
    assert 1 == page.locator("input:checked").count()
    keys.press("R")
    page.wait_for_url("**/plan?**")
    assert "Replay 1" in console.heading
    page.go_back()
    keys.press("j")
    keys.press("o")
    page.wait_for_url("**/console/visits/**")
    keys.press("/")
    keys.type("B-2")
    keys.press("Enter")
    page.wait_for_url("**/console/visits/standard-B-2")


def test_shortcuts_are_off_in_text_fields_and_can_be_disabled(running: Harness, open_console: OpenConsole) -> None:
    console = open_console(OPERATOR)
    console.page.keyboard.press("/")
    console.page.keyboard.type("?gd")
    assert ("?gd", False) == (console.page.input_value("#q"), console.page.is_visible("#help"))

    console.open("/console/settings")
    console.page.select_option("#keys", "off")
    console.page.click("text=Save")
    console.page.keyboard.press("?")

    assert not console.page.is_visible("#help")


# -- without JavaScript, without the role --


def test_the_console_works_without_javascript(running: Harness, open_console: OpenConsole) -> None:
    running.start_worker()
    create_failure(running, "B-1")
    wait_until(lambda: failures(running) == 1)
    console = open_console(OPERATOR, java_script_enabled=False)

    console.page.click("text=Show failures")
    console.page.click("#all")
    console.page.fill("input[name^='contact:']", "cont_KYdl3lftgZXGRbxqoj")
    console.page.click("button.main")
    console.page.wait_for_selector("text=Done:")  # the page reloads automatically
    wait_until(lambda: running.visit("standard-B-1"))
    console.open("/console/settings")
    console.page.select_option("#theme", "dark")
    console.page.click("text=Save")
    console.page.fill("#q", "B-1")
    console.page.press("#q", "Enter")

    assert console.heading.startswith("Visit on ")
    assert "standard-B-1" in console.page.inner_text("main dl")
    assert "dark" == console.page.get_attribute("html", "data-theme")
    assert "Grace" not in console.page.inner_text("main")
    console.page.click("[data-field='contact']")
    assert "Grace" in console.page.inner_text("main")
    console.page.click("text=Log out")
    assert console.page.is_visible("#password")


def test_a_viewer_sees_no_actions_and_gets_403_for_them(running: Harness, open_console: OpenConsole) -> None:
    running.start_worker()
    create_failure(running, "B-1")
    wait_until(lambda: failures(running) == 1)
    console = open_console(VIEWER)

    buttons = set()
    for path in ("/console/failures", "/console/visits/standard-B-1", "/console/plan?do=replay&ids=standard-B-1"):
        console.open(path)
        buttons |= set(console.page.locator("main button, main a.button.main").all_inner_texts())
    token = console.page.get_attribute("input[name=token]", "value")
    response = console.page.request.post(
        f"{console.url}/console/operations",
        form={"token": token or "", "do": "replay", "ids": "standard-B-1", "expected": "1"},
        headers={"sec-fetch-site": "same-origin"},
    )

    assert buttons <= {"Show", "Search", "Copy", ""}
    assert 403 == response.status
    assert 1 == failures(running)


# -- times --


def test_times_are_in_the_zone_of_the_browser_with_a_switch_to_utc(running: Harness, open_console: OpenConsole) -> None:
    create_visit(running, "A-1")
    console = open_console(OPERATOR, timezone_id="Asia/Kathmandu")
    page = console.page

    def zones() -> set[str]:
        return set(re.findall(r"\d [AP]M (UTC\S*)", page.inner_text("table")))

    console.open("/console/deliveries")
    assert {"UTC+05:45"} == zones()
    page.click("text=show UTC")
    assert {"UTC"} == zones()
    assert page.url.endswith("/console/deliveries")
    page.click("text=show local")
    assert {"UTC+05:45"} == zones()
    page.context.clear_cookies(name="doorbell-zone")  # as behind a proxy, which has no log-in page
    console.open("/console/deliveries")
    page.wait_for_selector("text=show UTC")
    assert {"UTC+05:45"} == zones()


def test_without_javascript_times_are_in_utc_which_is_said(running: Harness, open_console: OpenConsole) -> None:
    create_visit(running, "A-1")
    console = open_console(OPERATOR, timezone_id="Asia/Kathmandu", java_script_enabled=False)

    console.open("/console/deliveries")

    assert "Times in UTC (the local zone needs JavaScript)" in console.page.inner_text(".who")
    assert re.search(r"\d [AP]M UTC", console.page.inner_text("table"))


# -- layout and accessibility --


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_every_page_is_accessible_and_fits_a_phone(
    running: Harness, open_console: OpenConsole, color_scheme: str
) -> None:
    running.start_worker()
    ids = create_data(open_console(OPERATOR), running)
    wide = open_console(OPERATOR, color_scheme=color_scheme, viewport=WIDE)
    narrow = open_console(OPERATOR, color_scheme=color_scheme, viewport=NARROW)
    logged_out = open_console(color_scheme=color_scheme, viewport=NARROW)

    logged_out.open("/console/login")
    problems = {f"login {violation}" for violation in logged_out.violations()}
    logged_out.screenshot(f"login-{color_scheme}-narrow")
    for name, path in PATHS.items():
        for console, width in ((wide, "wide"), (narrow, "narrow")):
            assert 200 == console.open(path.format(**ids)).status, name
            console.page.evaluate("document.querySelectorAll('main details').forEach(details => details.open = true)")
            console.screenshot(f"{name}-{color_scheme}-{width}")
            problems |= {f"{name} {width} {violation}" for violation in console.violations()}
            if console.horizontal_overflow():
                problems.add(f"{name} is {console.horizontal_overflow()} pixels too wide")
            problems |= {f"{name} {width}: {caption} does not fit" for caption in console.wide_tables()}

    assert set() == problems


@pytest.mark.parametrize("has_javascript", [True, False], ids=["JavaScript", "no-JavaScript"])
def test_the_current_page_is_visible_in_the_navigation_of_a_phone(
    running: Harness, open_console: OpenConsole, has_javascript: bool
) -> None:
    running.start_worker()
    create_failure(running, "A-1")  # the navigation shows their number
    wait_until(lambda: failures(running) == 1)
    console = open_console(OPERATOR, viewport=NARROW, java_script_enabled=has_javascript)

    for path in ("", "/deliveries", "/rejections", "/workers", "/operations", "/activity", "/settings/retention"):
        console.open(f"/console{path}")
        tab = console.page.locator(".side nav [aria-current]").bounding_box()
        assert tab
        assert (tab["x"] >= 0, tab["x"] + tab["width"] <= NARROW["width"]) == (True, True), path
        assert 0 == console.horizontal_overflow(), path


def test_the_smallest_screen_shows_everything_without_sideways_scroll(
    running: Harness, open_console: OpenConsole
) -> None:
    running.start_worker()
    create_visit(running, "A-1")
    wait_until(lambda: running.visit("standard-A-1"))
    console = open_console(OPERATOR, viewport={"width": 320, "height": 700})

    for path in ("", "/visits/standard-A-1", "/sources/standard", "/settings"):
        console.open(f"/console{path}")
        console.page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert (0, []) == (console.horizontal_overflow(), console.wide_tables()), path


def test_a_row_of_a_list_has_two_lines_on_a_phone(running: Harness, open_console: OpenConsole) -> None:
    running.start_worker()
    create_visit(running, "A-1")
    create_failure(running, "a-rather-long-id-of-a-tool-" + "x" * 60)
    wait_until(lambda: running.visit("standard-A-1") and failures(running) == 1)
    console = open_console(OPERATOR, viewport=NARROW)

    for path in ("/deliveries", "/failures", "/visits?when=any", "/hooks"):
        console.open(f"/console{path}")
        rows = [row.bounding_box() for row in console.page.locator(".two-line tbody tr").all()]
        assert rows
        assert [] == [row for row in rows if row and row["height"] > 75], path
        links = [link.bounding_box() for link in console.page.locator(".two-line tbody a:visible").all()]
        assert [] == [link for link in links if link and link["x"] + link["width"] > NARROW["width"]], path
        is_cut = """cells => cells.filter(cell => cell.scrollWidth > cell.clientWidth).map(cell => cell.innerText)"""
        cut = console.page.eval_on_selector_all(".two-line tbody td[data-name='State']", is_cut)
        assert [] == cut, path


def test_a_click_on_a_row_opens_it(running: Harness, open_console: OpenConsole) -> None:
    create_visit(running, "A-1")
    for viewport, scripts in ((WIDE, True), (NARROW, True), (NARROW, False)):
        console = open_console(OPERATOR, viewport=viewport, java_script_enabled=scripts)
        console.open("/console/deliveries")
        if scripts:
            console.page.check("tbody input")
            assert console.page.url.endswith("/console/deliveries")
            console.page.click("tbody td[data-name=State]")
        else:
            console.page.click("tbody td[data-name=Event] a")
        console.page.wait_for_url("**/console/deliveries/d*")


def test_the_checkbox_of_a_row_has_its_full_size_on_a_phone(running: Harness, open_console: OpenConsole) -> None:
    create_visit(running, "A-1")
    console = open_console(OPERATOR, viewport=NARROW)
    console.open("/console/deliveries")

    checkbox = console.page.locator("td.select input").bounding_box()

    assert checkbox
    assert (18, 18) == (round(checkbox["width"]), round(checkbox["height"]))


def test_a_page_shows_that_redis_is_unavailable_and_recovers(
    running: Harness, open_console: OpenConsole, redis_url: str
) -> None:
    console = open_console(OPERATOR)
    running.web_server.kill()
    port = running.web_server.port
    without_redis = {**running.web_server._env, "REDIS_URL": "redis://127.0.0.1:9/0"}
    running.web_server._env, original = without_redis, running.web_server._env
    running.web_server.start()
    console.open("/console")
    assert "Redis is unavailable" in console.heading
    console.screenshot("redis-down")
    assert not console.horizontal_overflow()
    assert [] == console.violations()

    running.web_server.kill()
    console.page.wait_for_event("requestfailed")  # a page that reloads now must not be lost
    running.web_server._env = original
    running.web_server.start()

    console.page.wait_for_selector("h1:not(:has-text('Redis'))")
    assert port == running.web_server.port
    assert re.search("Waiting|Everything works", console.heading)
    # The overview may have tried to refresh while the server was away, or while it answered 503.
    expected = re.compile("htmx:|Response Status Error Code 503 from /console,")
    console.errors = [error for error in console.errors if not expected.match(error)]
