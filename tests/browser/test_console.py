"""The console in a real browser, around real processes: what an operator does on the first day, and on a bad one."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.console.passwords import hash_password
from tests.support import browser as browsers
from tests.support.browser import NARROW, WIDE, ConsoleBrowser
from tests.support.harness import SECRET, TOKEN, Harness, sign_standard, standard_body, wait_until

pytestmark = [
    pytest.mark.skipif(not browsers.CHROMIUM, reason="there is no Chromium: install it, or set CHROMIUM_PATH"),
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
    """A browser at the console's door, or, with a password, inside. At the end nothing was foreign and nothing refused."""
    desks: list[ConsoleBrowser] = []

    def open_desk(password: str = "", **how: Any) -> ConsoleBrowser:
        desk = ConsoleBrowser(chromium, running.web_server.url, **how)
        desks.append(desk)
        if password:
            desk.log_in(password)
        return desk

    yield open_desk
    complaints = [complaint for desk in desks for complaint in desk.errors]
    foreign = [url for desk in desks for url in desk.foreign_requests]
    for desk in desks:
        desk.close()
    assert ([], []) == (complaints, foreign)


def book(harness: Harness, id: str, **more: Any) -> str:
    """A visit that is going to stand; its delivery."""
    contact = {"email": "ada@example.com", "phone": "+15550100001", "first_name": "Ada"}
    answer = harness.send("visit.created", id, contact=contact, time_scheduled="2027-03-14T16:00:00Z", **more)
    return str(answer.json()["delivery"])


def walk_in(harness: Harness, id: str) -> str:
    """A visit that nobody can contact: it comes to need an operator."""
    return str(
        harness.send(
            "visit.created", id, contact={"first_name": "Grace"}, time_scheduled="2027-03-14T16:00:00Z"
        ).json()["delivery"]
    )


def failures(harness: Harness) -> int:
    return harness.doorbell("failures", "--json").stdout.count('"contact_unknown"')


def fill(desk: ConsoleBrowser, harness: Harness) -> dict[str, str]:
    """Something on every page."""
    delivery = book(harness, "A-1")
    for number in range(30):
        walk_in(harness, f"B-{number}")
    harness.post(b"{}", {"content-type": "application/json"})
    wait_until(lambda: harness.visit("standard-A-1") and failures(harness) == 30, 30)
    desk.open("/console/plan?do=replay&ids=standard-B-1")
    desk.page.click("button.main")
    operation = desk.page.url.rpartition("/")[2]
    return {"delivery": delivery, "operation": operation}


# -- the first day --


def test_on_the_first_visit_it_waits_and_what_rings_appears(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    desk = open_desk(OPERATOR)
    assert "Waiting for the first delivery" in desk.heading
    desk.screenshot("first-visit")

    delivery = book(running, "A-1")

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


# -- a bad one --


def test_a_failure_is_planned_replayed_and_applied(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    walk_in(running, "B-1")
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
    desk.screenshot("nothing-needs-you")


def test_more_than_25_at_once_are_typed_and_all_that_match_go(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    for number in range(60):
        walk_in(running, f"B-{number}")
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


def test_all_that_arrived_at_a_hook_can_be_replayed(running: Harness, open_desk: Opens) -> None:
    """The account lost what was made: its visits are made again, and only what the filter means."""
    running.start_worker()
    for number in range(28):
        book(running, f"A-{number}")
    running.post(*other_hooks_delivery(), hook="other")
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


def other_hooks_delivery() -> tuple[bytes, dict[str, str]]:
    contact = {"email": "grace@example.com"}
    raw = standard_body("visit.created", "B-1", contact=contact, time_scheduled="2027-03-14T16:00:00Z")
    return raw, sign_standard(raw)


def test_an_account_is_paused_and_resumed(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    desk = open_desk(OPERATOR)
    desk.open("/console/sources")
    desk.page.click("button:has-text('Pause')")
    assert "paused" == desk.page.inner_text("td .state.held")
    book(running, "A-1")
    wait_until(lambda: "held" in running.doorbell("deliveries").stdout)

    desk.open("/console")
    assert "Paused by an operator: 1 change waits for the account main." in desk.heading
    desk.screenshot("paused")
    desk.page.click("text=Resume…")
    desk.page.click("button:has-text('Resume')")

    assert "open" == desk.page.inner_text("td .state.applied")
    wait_until(lambda: running.visit("standard-A-1"))


def test_a_person_is_forgotten_with_a_plan_first(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    book(running, "A-1")
    wait_until(lambda: running.visit("standard-A-1"))
    desk = open_desk(OPERATOR, java_script_enabled=False)

    desk.open("/console/settings")
    desk.page.click("text=Erase a person…")
    desk.page.fill("#person", "+1 (555) 010-0001")
    desk.page.click("main button")
    assert "visits" in desk.page.inner_text("table")
    desk.screenshot("forget-plan")
    desk.page.fill("#confirm", "+1 (555) 010-0001")
    desk.page.click("main button")

    assert "Erased" in desk.page.inner_text("[role=status]")
    desk.screenshot("forgotten")
    assert "ada@example.com" not in running.doorbell("visit", "standard-A-1", "--show-personal-data").stdout


def test_a_discarded_visit_says_so(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    walk_in(running, "B-1")
    wait_until(lambda: failures(running) == 1)
    desk = open_desk(OPERATOR)

    desk.open("/console/visits/standard-B-1")
    desk.page.click("text=Discard…")
    desk.page.click("button.main")
    desk.page.wait_for_selector("text=Done.")

    desk.open("/console/visits/standard-B-1")
    assert "An operator discarded" in desk.page.inner_text(".lead")


def test_an_operation_that_no_worker_takes_up_can_be_cancelled(running: Harness, open_desk: Opens) -> None:
    worker = running.start_worker()
    walk_in(running, "B-1")
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


# -- finding --


@pytest.mark.parametrize("asked", ["A-1", "standard-A-1", "Ada@Example.com", "+1 (555) 010-0001", "555 010 0001"])
def test_a_visit_is_found_by_whatever_one_has(running: Harness, open_desk: Opens, asked: str) -> None:
    running.start_worker()
    book(running, "A-1")
    wait_until(lambda: running.visit("standard-A-1"))
    desk = open_desk(OPERATOR)

    desk.page.fill("#q", asked)
    desk.page.press("#q", "Enter")

    desk.page.wait_for_url("**/console/visits/standard-A-1")
    assert "ada@example.com" not in desk.page.content()


def test_what_arrives_meanwhile_moves_nothing_and_is_offered(running: Harness, open_desk: Opens) -> None:
    book(running, "A-1")
    desk = open_desk(OPERATOR)
    desk.open("/console/deliveries")
    before = desk.page.inner_text("tbody")

    book(running, "A-2")

    desk.page.wait_for_selector("text=1 new delivery; show")
    assert before.count("standard-A-") == desk.page.inner_text("tbody").count("standard-A-") == 1
    desk.page.click("text=1 new delivery; show")
    assert "standard-A-2" in desk.page.inner_text("tbody tr:first-child")


def test_fields_are_revealed_where_they_stand_one_by_one(running: Harness, open_desk: Opens) -> None:
    delivery = book(running, "A-1")
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


# -- what refreshes itself --


def test_a_row_says_what_has_become_of_it_where_it_stands(running: Harness, open_desk: Opens) -> None:
    book(running, "A-1")
    desk = open_desk(OPERATOR)
    desk.open("/console/deliveries")
    desk.page.wait_for_selector("#live-state[data-state=live]")
    assert "queued" in desk.page.inner_text("tbody tr")

    running.start_worker()

    desk.page.wait_for_selector("tbody tr .state.applied")
    assert "live" == desk.page.inner_text("#live-state")


@pytest.mark.parametrize("how", [{"status": 503}, None], ids=["no place", "no connection"])
def test_without_a_stream_the_page_asks_now_and_then(running: Harness, open_desk: Opens, how: Any) -> None:
    desk = open_desk(OPERATOR)
    desk.page.route("**/console/stream", lambda route: route.fulfill(**how) if how else route.abort())
    desk.open("/console/deliveries")
    desk.page.wait_for_selector("#live-state[data-state=polling]")

    book(running, "A-1")

    desk.page.wait_for_selector("text=1 new delivery; show")


def test_it_pauses_when_asked_to_and_when_nobody_looks(running: Harness, open_desk: Opens) -> None:
    desk = open_desk(OPERATOR)
    desk.page.wait_for_selector("#live-state[data-state=live]")

    desk.page.keyboard.press("p")
    assert "paused" == desk.page.inner_text("#live-state")
    desk.page.click("#live-state")
    desk.page.wait_for_selector("#live-state[data-state=live]")
    desk.page.evaluate(_LOOKED_AT, True)
    assert "paused" == desk.page.inner_text("#live-state")
    book(running, "A-1")
    desk.page.evaluate(_LOOKED_AT, False)

    desk.page.wait_for_selector("#live-state[data-state=live]")
    desk.page.wait_for_selector("dd:has-text('ago'), dd:has-text('just now')")


_LOOKED_AT = """(hidden) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_buttons_for_ticked_rows_wait_for_a_tick_and_count(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    for number in range(3):
        walk_in(running, f"B-{number}")
    wait_until(lambda: failures(running) == 3)
    desk = open_desk(OPERATOR)
    page = desk.page
    desk.open("/console/failures")
    replay, discard, boxes = page.locator("#replay"), page.locator("#discard"), page.locator("td.select input")

    def shown() -> list[tuple[str, bool]]:
        return [(button.inner_text(), button.is_enabled()) for button in (replay, discard)]

    assert [("Replay selected…", False), ("Discard selected…", False)] == shown()
    desk.screenshot("nothing-ticked")
    boxes.nth(0).check()
    boxes.nth(2).check()
    assert [("Replay 2 selected…", True), ("Discard 2 selected…", True)] == shown()
    boxes.nth(0).uncheck()
    assert [("Replay 1 selected…", True), ("Discard 1 selected…", True)] == shown()
    page.check("#select-all")
    assert [("Replay 3 selected…", True), ("Discard 3 selected…", True)] == shown()
    desk.screenshot("all-ticked")
    discard.click()
    page.wait_for_url("**/plan?**")
    assert "Discard 3: the plan" in desk.heading
    page.go_back()
    page.wait_for_selector("#replay")
    assert boxes.evaluate_all("all => all.filter(one => one.checked).length") == (3 if replay.is_enabled() else 0)


def test_without_a_script_a_press_with_nothing_ticked_does_nothing(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    walk_in(running, "B-1")
    wait_until(lambda: failures(running) == 1)
    desk = open_desk(OPERATOR, java_script_enabled=False)

    for path, button in (("/failures", "#replay"), ("/failures", "#discard"), ("/deliveries", "#replay")):
        desk.open(f"/console{path}")
        desk.page.click(button)
        assert "Nothing is selected" == desk.heading
    desk.screenshot("nothing-was-ticked")
    desk.open("/console/failures")
    desk.page.check("td.select input")
    desk.page.click("#discard")
    assert "Discard 1: the plan" in desk.heading


# -- keys, and nothing but keys --


def test_the_keyboard_is_enough(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    for id in ("B-1", "B-2"):
        walk_in(running, id)
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


def test_keys_are_letters_where_somebody_types_and_can_be_switched_off(running: Harness, open_desk: Opens) -> None:
    desk = open_desk(OPERATOR)
    desk.page.keyboard.press("/")
    desk.page.keyboard.type("?gd")
    assert ("?gd", False) == (desk.page.input_value("#q"), desk.page.is_visible("#help"))

    desk.open("/console/settings")
    desk.page.select_option("#keys", "off")
    desk.page.click("text=Save")
    desk.page.keyboard.press("?")

    assert not desk.page.is_visible("#help")


# -- without --


def test_without_javascript_everything_is_there(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    walk_in(running, "B-1")
    wait_until(lambda: failures(running) == 1)
    desk = open_desk(OPERATOR, java_script_enabled=False)

    desk.page.click("text=Show failures")
    desk.page.check("input[name=ids]")
    desk.page.click("#replay")
    desk.page.fill("#contact", "cont_KYdl3lftgZXGRbxqoj")
    desk.page.click("button.main")
    desk.page.wait_for_selector("text=Done.")  # the page asks again by itself
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


def test_a_viewer_sees_no_button_that_acts_and_cannot_act(running: Harness, open_desk: Opens) -> None:
    running.start_worker()
    walk_in(running, "B-1")
    wait_until(lambda: failures(running) == 1)
    desk = open_desk(VIEWER)

    buttons = set()
    for path in ("/console/failures", "/console/visits/standard-B-1", "/console/plan?do=replay&ids=standard-B-1"):
        desk.open(path)
        buttons |= set(desk.page.locator("main button, main a.button.main").all_inner_texts())
    token = desk.page.get_attribute("input[name=token]", "value")
    posted = desk.page.request.post(
        f"{desk.url}/console/operations",
        form={"token": token or "", "do": "replay", "ids": "standard-B-1", "expected": "1"},
        headers={"sec-fetch-site": "same-origin"},
    )

    assert buttons <= {"Show", "Search", ""}
    assert 403 == posted.status
    assert 1 == failures(running)


# -- how it looks --


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_every_page_is_accessible_and_fits_a_phone(running: Harness, open_desk: Opens, colours: str) -> None:
    running.start_worker()
    ids = fill(open_desk(OPERATOR), running)
    wide = open_desk(OPERATOR, color_scheme=colours, viewport=WIDE)
    narrow = open_desk(OPERATOR, color_scheme=colours, viewport=NARROW)
    outside = open_desk(color_scheme=colours, viewport=NARROW)

    outside.open("/console/login")
    troubles = {f"login {found}" for found in outside.violations()}
    outside.screenshot(f"login-{colours}-narrow")
    for name, path in PATHS.items():
        for desk, width in ((wide, "wide"), (narrow, "narrow")):
            assert 200 == desk.open(path.format(**ids)).status, name
            desk.screenshot(f"{name}-{colours}-{width}")
            troubles |= {f"{name} {width} {found}" for found in desk.violations()}
            if desk.horizontal_overflow():
                troubles.add(f"{name} is {desk.horizontal_overflow()} pixels too wide")

    assert set() == troubles


def test_on_a_phone_a_row_can_be_ticked(running: Harness, open_desk: Opens) -> None:
    book(running, "A-1")
    desk = open_desk(OPERATOR, viewport=NARROW)
    desk.open("/console/deliveries")

    box = desk.page.locator("td.select input").bounding_box()

    assert box
    assert (18, 18) == (round(box["width"]), round(box["height"]))


def test_a_page_says_so_when_redis_is_away_and_heals(running: Harness, open_desk: Opens, redis_url: str) -> None:
    desk = open_desk(OPERATOR)
    running.web_server.kill()
    port = running.web_server.port
    with_nowhere = {**running.web_server._env, "REDIS_URL": "redis://127.0.0.1:9/0"}
    running.web_server._env, kept = with_nowhere, running.web_server._env
    running.web_server.start()
    desk.open("/console")
    assert "Redis is unavailable" in desk.heading
    desk.screenshot("redis-down")
    assert not desk.horizontal_overflow()
    assert [] == desk.violations()

    running.web_server.kill()
    running.web_server._env = kept
    running.web_server.start()

    desk.page.wait_for_selector("h1:not(:has-text('Redis'))")
    assert port == running.web_server.port
    assert re.search("Waiting|All is well", desk.heading)
