"""The console in a real browser, with real web and worker processes."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.console.passwords import hash_password
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
    "visit": "/console/visits/standard-A-1",
    "rejections": "/console/rejections",
    "sources": "/console/sources",
    "source": "/console/sources/standard",
    "workers": "/console/workers",
    "operations": "/console/operations",
    "operation": "/console/operations/{operation}",
    "activity": "/console/activity",
    "settings": "/console/settings",
    "erasure": "/console/erasure",
    "search": "/console/search?q=nobody",
}
Opens = Callable[..., ConsoleBrowser]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browsers.chromium() as browser:
        yield browser


@pytest.fixture
def running(harness: Harness) -> Harness:
    harness.env |= HASHES | {
        "CONTACT_FOR_S": "0.5",
        "HOOKS__OTHER__SOURCE": "standard",
        "HOOKS__OTHER__SECRETS": SECRET,
    }
    harness.start_web()
    return harness


@pytest.fixture
def open_desk(running: Harness, chromium: Any) -> Iterator[Opens]:
    """Open browsers at the console, logged in if a password is given. Fail on console errors and on requests elsewhere."""
    desks: list[ConsoleBrowser] = []

    def open_desk(password: str = "", **options: Any) -> ConsoleBrowser:
        desk = ConsoleBrowser(chromium, running.web_server.url, **options)
        desks.append(desk)
        if password:
            desk.log_in(password)
        return desk

    yield open_desk
    errors = [complaint for desk in desks for complaint in desk.errors]
    foreign = [url for desk in desks for url in desk.foreign_requests]
    for desk in desks:
        desk.close()
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


def create_data(desk: ConsoleBrowser, harness: Harness) -> dict[str, str]:
    """Create data for every page."""
    delivery = create_visit(harness, "A-1")
    for number in range(30):
        create_failure(harness, f"B-{number}")
    harness.post(b"{}", {"content-type": "application/json"})
    wait_until(lambda: harness.visit("standard-A-1") and failures(harness) == 30, 30)
    desk.open("/console/plan?do=replay&ids=standard-B-1")
    desk.page.click("button.main")
    operation = desk.page.url.rpartition("/")[2]
    return {"delivery": delivery, "operation": operation}


# -- first delivery --


def test_the_overview_waits_for_the_first_delivery_and_shows_it(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    desk = open_desk(OPERATOR)
    assert "Waiting for the first delivery" in desk.heading
    desk.screenshot("first-visit")

    delivery = create_visit(running, "A-1")

    desk.page.wait_for_selector("h1:has-text('All is well')")
    desk.open("/console/deliveries")
    assert delivery in desk.page.inner_text("table")


def test_a_test_delivery_can_be_sent_from_the_page_of_its_source(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    desk = open_desk(OPERATOR)

    desk.open("/console/sources/standard")
    desk.page.click("form[action$='/test-delivery'] button")

    assert "Doorbell answered 202" in desk.page.inner_text("[role=status].note")
    wait_until(running.visits)


# -- failures and operations --


def test_a_failure_is_planned_replayed_and_applied(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    create_failure(running, "B-1")
    wait_until(lambda: failures(running) == 1)
    desk = open_desk(OPERATOR)
    assert "One failure needs you: contact_unknown, from Standard" in desk.heading

    desk.page.click("text=Show failures")
    desk.page.check("input[name=ids]")
    desk.page.click("#replay")
    assert "wait: contact_unknown" in desk.page.inner_text("main")
    desk.page.fill("#contact", "cont_KYdl3lftgZXGRbxqoj")
    desk.page.click("button.main")

    desk.page.wait_for_selector("text=Done.")
    visit = wait_until(lambda: running.visit("standard-B-1"))
    assert "cont_KYdl3lftgZXGRbxqoj" == visit["contact_id"]
    desk.open("/console/failures")
    assert "Nothing needs attention." in desk.page.inner_text("main")
    desk.screenshot("no-failure")


def test_an_operation_on_more_than_25_tasks_needs_a_typed_confirmation(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    for number in range(60):
        create_failure(running, f"B-{number}")
    wait_until(lambda: "60" in running.doorbell("doctor").stdout.partition("need an operator")[0][-4:], 40)
    desk = open_desk(OPERATOR)

    desk.open("/console/failures")
    desk.page.click("#all")
    desk.page.fill("#contact", "cont_KYdl3lftgZXGRbxqoj")
    desk.page.fill("#confirm", "59")
    desk.page.click("button.main")
    assert "Type 60 to confirm" in desk.page.inner_text("[role=alert]")
    assert [] == running.visits()
    desk.page.fill("#confirm", "60")
    desk.page.click("button.main")

    desk.page.wait_for_selector("text=Done.")
    wait_until(lambda: len(running.visits()) == 60, 30)


def test_all_deliveries_of_a_hook_can_be_replayed(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    for number in range(28):
        create_visit(running, f"A-{number}")
    running.post(*delivery_of_other_hook(), hook="other")
    wait_until(lambda: len(running.visits()) == 29, 30)
    for visit in running.visits():
        running.http.delete(f"{running.sandbox.url}/api/v1/visits/{visit['id']}", headers=AUTHORIZED)
    assert [] == running.visits()
    desk = open_desk(OPERATOR)

    desk.open("/console/deliveries")
    desk.page.select_option("#hook", "standard")
    desk.page.select_option("#state", "applied")
    desk.page.click("text=Show")
    assert "at most 28 match" in desk.page.inner_text(".bulk")
    desk.page.keyboard.press("A")
    desk.page.wait_for_url("**/plan?**")
    assert "Replay at most 28" in desk.heading
    desk.page.select_option("#recheck", "1")
    desk.page.fill("#confirm", "28")
    desk.page.click("button.main")

    desk.page.wait_for_selector("text=Done.")
    wait_until(lambda: len(running.visits()) == 28, 30)
    assert None is running.visit("standard-B-1")


AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


def delivery_of_other_hook() -> tuple[bytes, dict[str, str]]:
    contact = {"email": "grace@example.com"}
    raw = standard_body("visit.created", "B-1", contact=contact, time_scheduled="2027-03-14T16:00:00Z")
    return raw, sign_standard(raw)


def test_an_account_is_paused_and_resumed(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    desk = open_desk(OPERATOR)
    desk.open("/console/sources")
    desk.page.click("button:has-text('Pause')")
    assert "paused" == desk.page.inner_text("td .state.held")
    create_visit(running, "A-1")
    wait_until(lambda: "held" in running.doorbell("deliveries").stdout)

    desk.open("/console")
    assert "Paused by an operator: 1 change waits for the account main." in desk.heading
    desk.screenshot("paused")
    desk.page.click("text=Resume…")
    desk.page.click("button:has-text('Resume')")

    assert "open" == desk.page.inner_text("td .state.applied")
    wait_until(lambda: running.visit("standard-A-1"))


def test_a_person_is_erased_after_a_plan(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    create_visit(running, "A-1")
    wait_until(lambda: running.visit("standard-A-1"))
    desk = open_desk(OPERATOR, java_script_enabled=False)

    desk.open("/console/settings")
    desk.page.click("text=Erase a person…")
    desk.page.fill("#person", "+1 (555) 010-0001")
    desk.page.click("main button")
    assert "visits" in desk.page.inner_text("table")
    desk.screenshot("erasure-plan")
    desk.page.fill("#confirm", "+1 (555) 010-0001")
    desk.page.click("main button")

    assert "Erased" in desk.page.inner_text("[role=status]")
    desk.screenshot("erased")
    assert "ada@example.com" not in running.doorbell("visit", "standard-A-1", "--show-personal-data").stdout


def test_a_discarded_visit_has_a_summary(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    create_failure(running, "B-1")
    wait_until(lambda: failures(running) == 1)
    desk = open_desk(OPERATOR)

    desk.open("/console/visits/standard-B-1")
    desk.page.click("text=Discard…")
    desk.page.click("button.main")
    desk.page.wait_for_selector("text=Done.")

    desk.open("/console/visits/standard-B-1")
    assert "An operator discarded" in desk.page.inner_text(".lead")


def test_an_operation_without_a_worker_can_be_cancelled(running: Harness, open_desk: Opens) -> None:
    worker = running.start_worker()
    create_failure(running, "B-1")
    wait_until(lambda: failures(running) == 1)
    worker.kill()
    desk = open_desk(OPERATOR)

    desk.open("/console/plan?do=replay&ids=standard-B-1")
    desk.page.click("button.main")
    assert "Waiting for a worker" in desk.page.inner_text("main")
    desk.page.click("text=Cancel")
    running.start_worker()

    desk.page.wait_for_selector("text=Cancelled")
    assert 1 == failures(running)


# -- search and lists --


@pytest.mark.parametrize("query", ["A-1", "standard-A-1", "Ada@Example.com", "+1 (555) 010-0001", "555 010 0001"])
def test_the_search_matches_ids_addresses_and_phone_numbers(running: Harness, open_desk: Opens, query: str) -> None:
    running.start_worker()
    create_visit(running, "A-1")
    wait_until(lambda: running.visit("standard-A-1"))
    desk = open_desk(OPERATOR)

    desk.page.fill("#q", query)
    desk.page.press("#q", "Enter")

    desk.page.wait_for_url("**/console/visits/standard-A-1")
    assert "ada@example.com" not in desk.page.content()


def test_a_new_delivery_is_offered_and_does_not_shift_the_list(running: Harness, open_desk: Opens) -> None:
    create_visit(running, "A-1")
    desk = open_desk(OPERATOR)
    desk.open("/console/deliveries")
    rows = desk.page.inner_text("tbody")

    create_visit(running, "A-2")

    desk.page.wait_for_selector("text=1 new delivery; show")
    assert rows.count("standard-A-") == desk.page.inner_text("tbody").count("standard-A-") == 1
    desk.page.click("text=1 new delivery; show")
    assert "standard-A-2" in desk.page.inner_text("tbody tr:first-child")


def test_a_field_is_revealed_in_place(running: Harness, open_desk: Opens) -> None:
    delivery = create_visit(running, "A-1")
    desk = open_desk(OPERATOR)
    desk.open(f"/console/deliveries/{delivery}")
    assert "Ada" not in desk.page.inner_text("pre")

    desk.page.focus("[data-field='data.contact.email']")
    desk.page.keyboard.press("Enter")
    desk.page.wait_for_selector("span[data-field='data.contact.email']")
    assert "data.contact.email" == desk.page.evaluate("document.activeElement.dataset.field")
    desk.page.click("[data-field='data.contact.first_name']")
    desk.page.wait_for_selector("span[data-field='data.contact.first_name']")

    body = desk.page.inner_text("pre")
    assert ["ada@example.com", "Ada"] == re.findall("ada@example.com|Ada", body)
    assert "+15550100001" not in body
    desk.screenshot("revealed")
    assert [] == desk.violations()


# -- automatic refresh --


def test_the_state_of_a_row_refreshes_in_place(running: Harness, open_desk: Opens) -> None:
    create_visit(running, "A-1")
    desk = open_desk(OPERATOR)
    desk.open("/console/deliveries")
    desk.page.wait_for_selector("#live-state[data-state=live]")
    assert "queued" in desk.page.inner_text("tbody tr")

    running.start_worker()

    desk.page.wait_for_selector("tbody tr .state.applied")
    assert "live" == desk.page.inner_text("#live-state")


@pytest.mark.parametrize("options", [{"status": 503}, None], ids=["503", "no connection"])
def test_a_page_without_a_stream_polls(running: Harness, open_desk: Opens, options: Any) -> None:
    desk = open_desk(OPERATOR)
    desk.page.route("**/console/stream", lambda route: route.fulfill(**options) if options else route.abort())
    desk.open("/console/deliveries")
    desk.page.wait_for_selector("#live-state[data-state=polling]")

    create_visit(running, "A-1")

    desk.page.wait_for_selector("text=1 new delivery; show")


def test_the_refresh_pauses_on_request_and_on_a_hidden_page(running: Harness, open_desk: Opens) -> None:
    desk = open_desk(OPERATOR)
    desk.page.wait_for_selector("#live-state[data-state=live]")

    desk.page.keyboard.press("p")
    assert "paused" == desk.page.inner_text("#live-state")
    desk.page.click("#live-state")
    desk.page.wait_for_selector("#live-state[data-state=live]")
    desk.page.evaluate(_SET_HIDDEN, True)
    assert "paused" == desk.page.inner_text("#live-state")
    create_visit(running, "A-1")
    desk.page.evaluate(_SET_HIDDEN, False)

    desk.page.wait_for_selector("#live-state[data-state=live]")
    desk.page.wait_for_selector("dd:has-text('ago'), dd:has-text('just now')")


_SET_HIDDEN = """(hidden) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_the_buttons_for_selected_rows_show_their_number(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    for number in range(3):
        create_failure(running, f"B-{number}")
    wait_until(lambda: failures(running) == 3)
    desk = open_desk(OPERATOR)
    page = desk.page
    desk.open("/console/failures")
    replay, discard, checkboxes = page.locator("#replay"), page.locator("#discard"), page.locator("td.select input")

    def button_states() -> list[tuple[str, bool]]:
        return [(button.inner_text(), button.is_enabled()) for button in (replay, discard)]

    assert [("Replay selected…", False), ("Discard selected…", False)] == button_states()
    desk.screenshot("no-row-selected")
    checkboxes.nth(0).check()
    checkboxes.nth(2).check()
    assert [("Replay 2 selected…", True), ("Discard 2 selected…", True)] == button_states()
    checkboxes.nth(0).uncheck()
    assert [("Replay 1 selected…", True), ("Discard 1 selected…", True)] == button_states()
    page.check("#select-all")
    assert [("Replay 3 selected…", True), ("Discard 3 selected…", True)] == button_states()
    desk.screenshot("all-rows-selected")
    discard.click()
    page.wait_for_url("**/plan?**")
    assert "Discard 3: the plan" in desk.heading
    page.go_back()
    page.wait_for_selector("#replay")
    assert checkboxes.evaluate_all("all => all.filter(box => box.checked).length") == (3 if replay.is_enabled() else 0)


def test_a_plan_without_a_selected_row_is_empty_without_javascript(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    create_failure(running, "B-1")
    wait_until(lambda: failures(running) == 1)
    desk = open_desk(OPERATOR, java_script_enabled=False)

    for path, button in (("/failures", "#replay"), ("/failures", "#discard"), ("/deliveries", "#replay")):
        desk.open(f"/console{path}")
        desk.page.click(button)
        assert "Nothing is selected" == desk.heading
    desk.screenshot("empty-plan")
    desk.open("/console/failures")
    desk.page.check("td.select input")
    desk.page.click("#discard")
    assert "Discard 1: the plan" in desk.heading


# -- keyboard --


def test_the_keyboard_reaches_all_actions(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    for id in ("B-1", "B-2"):
        create_failure(running, id)
    wait_until(lambda: failures(running) == 2)
    desk = open_desk()
    desk.open("/console/login")
    page, keys = desk.page, desk.page.keyboard

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
    assert "Replay 1" in desk.heading
    page.go_back()
    keys.press("j")
    keys.press("o")
    page.wait_for_url("**/console/visits/**")
    keys.press("/")
    keys.type("B-2")
    keys.press("Enter")
    page.wait_for_url("**/console/visits/standard-B-2")


def test_shortcuts_are_off_in_text_fields_and_can_be_disabled(running: Harness, open_desk: Opens) -> None:
    desk = open_desk(OPERATOR)
    desk.page.keyboard.press("/")
    desk.page.keyboard.type("?gd")
    assert ("?gd", False) == (desk.page.input_value("#q"), desk.page.is_visible("#help"))

    desk.open("/console/settings")
    desk.page.select_option("#keys", "off")
    desk.page.click("text=Save")
    desk.page.keyboard.press("?")

    assert not desk.page.is_visible("#help")


# -- without JavaScript, without the role --


def test_the_console_works_without_javascript(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    create_failure(running, "B-1")
    wait_until(lambda: failures(running) == 1)
    desk = open_desk(OPERATOR, java_script_enabled=False)

    desk.page.click("text=Show failures")
    desk.page.check("input[name=ids]")
    desk.page.click("#replay")
    desk.page.fill("#contact", "cont_KYdl3lftgZXGRbxqoj")
    desk.page.click("button.main")
    desk.page.wait_for_selector("text=Done.")  # the page reloads automatically
    wait_until(lambda: running.visit("standard-B-1"))
    desk.open("/console/settings")
    desk.page.select_option("#theme", "dark")
    desk.page.click("text=Save")
    desk.page.fill("#q", "B-1")
    desk.page.press("#q", "Enter")

    assert "standard-B-1" == desk.heading
    assert "dark" == desk.page.get_attribute("html", "data-theme")
    assert "Grace" not in desk.page.inner_text("main")
    desk.page.click("[data-field='contact.first_name']")
    assert "Grace" in desk.page.inner_text("main")
    desk.page.click("text=Log out")
    assert desk.page.is_visible("#password")


def test_a_viewer_sees_no_actions_and_gets_403_for_them(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    create_failure(running, "B-1")
    wait_until(lambda: failures(running) == 1)
    desk = open_desk(VIEWER)

    buttons = set()
    for path in ("/console/failures", "/console/visits/standard-B-1", "/console/plan?do=replay&ids=standard-B-1"):
        desk.open(path)
        buttons |= set(desk.page.locator("main button, main a.button.main").all_inner_texts())
    token = desk.page.get_attribute("input[name=token]", "value")
    response = desk.page.request.post(
        f"{desk.url}/console/operations",
        form={"token": token or "", "do": "replay", "ids": "standard-B-1", "expected": "1"},
        headers={"sec-fetch-site": "same-origin"},
    )

    assert buttons <= {"Show", "Search", ""}
    assert 403 == response.status
    assert 1 == failures(running)


# -- layout and accessibility --


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_every_page_is_accessible_and_fits_a_phone(running: Harness, open_desk: Opens, color_scheme: str) -> None:
    running.start_worker()
    ids = create_data(open_desk(OPERATOR), running)
    wide = open_desk(OPERATOR, color_scheme=color_scheme, viewport=WIDE)
    narrow = open_desk(OPERATOR, color_scheme=color_scheme, viewport=NARROW)
    logged_out = open_desk(color_scheme=color_scheme, viewport=NARROW)

    logged_out.open("/console/login")
    problems = {f"login {violation}" for violation in logged_out.violations()}
    logged_out.screenshot(f"login-{color_scheme}-narrow")
    for name, path in PATHS.items():
        for desk, width in ((wide, "wide"), (narrow, "narrow")):
            assert 200 == desk.open(path.format(**ids)).status, name
            desk.screenshot(f"{name}-{color_scheme}-{width}")
            problems |= {f"{name} {width} {violation}" for violation in desk.violations()}
            if desk.horizontal_overflow():
                problems.add(f"{name} is {desk.horizontal_overflow()} pixels too wide")

    assert set() == problems


def test_the_checkbox_of_a_row_has_its_full_size_on_a_phone(running: Harness, open_desk: Opens) -> None:
    create_visit(running, "A-1")
    desk = open_desk(OPERATOR, viewport=NARROW)
    desk.open("/console/deliveries")

    checkbox = desk.page.locator("td.select input").bounding_box()

    assert checkbox
    assert (18, 18) == (round(checkbox["width"]), round(checkbox["height"]))


def test_a_page_shows_that_redis_is_unavailable_and_recovers(
    running: Harness, open_desk: Opens, redis_url: str
) -> None:
    desk = open_desk(OPERATOR)
    running.web_server.kill()
    port = running.web_server.port
    without_redis = {**running.web_server._env, "REDIS_URL": "redis://127.0.0.1:9/0"}
    running.web_server._env, original = without_redis, running.web_server._env
    running.web_server.start()
    desk.open("/console")
    assert "Redis is unavailable" in desk.heading
    desk.screenshot("redis-down")
    assert not desk.horizontal_overflow()
    assert [] == desk.violations()

    running.web_server.kill()
    running.web_server._env = original
    running.web_server.start()

    desk.page.wait_for_selector("h1:not(:has-text('Redis'))")
    assert port == running.web_server.port
    assert re.search("Waiting|All is well", desk.heading)
