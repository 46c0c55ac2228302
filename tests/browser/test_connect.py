"""An office manager connects a tool with the console alone, and disconnects it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.demo.valkey import free_port
from app.settings.model import hash_password
from app.vendors.api import create_vendors, load_vendor
from tests.support import browser as browsers
from tests.support.browser import NARROW, ConsoleBrowser
from tests.support.harness import Harness, Server, serving, wait_until

pytestmark = pytest.mark.skipif(not browsers.CHROMIUM, reason="Chromium is missing: install it, or set CHROMIUM_PATH")

PASSWORD = "operate the console"


class Office:
    """Web, worker and a fake Calendly. No hook is configured."""

    def __init__(self, harness: Harness, vendors_url: str) -> None:
        self.harness, self.api_url = harness, f"{vendors_url}/calendly"

    def book(self, days: int, email: str) -> None:
        starts_at = (datetime.now(UTC) + timedelta(days=days)).isoformat()
        json = {"starts_at": starts_at, "email": email}
        self.harness.http.post(f"{self.api_url}/_vendor/book", json=json).raise_for_status()

    def subscriptions(self) -> list[Any]:
        return list(self.harness.http.get(f"{self.api_url}/_vendor/subscriptions").json())


@pytest.fixture(scope="module")
def office(redis_url: str, sandbox: Server) -> Iterator[Office]:
    port = free_port()
    vendors = create_vendors([load_vendor("calendly")])
    with Harness(redis_url, sandbox) as harness, serving(vendors, lifespan="on") as url:
        for name in ("HOOKS__STANDARD__SECRETS", "HOOKS__CALENDLY__SECRETS"):
            del harness.env[name]
        harness.env |= {
            "SECRET_KEY": "a-key-of-32-characters-for-tests-0",
            "PUBLIC_URL": f"http://127.0.0.1:{port}",
            "CONSOLE_PASSWORD_HASH": f"ada:{hash_password(PASSWORD)}",
        }
        harness.start_web(port)
        harness.start_worker()
        yield Office(harness, url)


def enter(console: ConsoleBrowser, office: Office, token: str) -> None:
    """Type the token, and the address of the fake, which a person does not need."""
    console.page.fill("#credential-TOKEN", token)
    console.page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    console.page.fill("#api-url", office.api_url)


def test_calendly_is_connected_with_four_clicks_and_disconnected(office: Office, chromium: Any) -> None:
    for days, email in ((3, "soon@example.com"), (5, "later@example.com"), (-20, "past@example.com")):
        office.book(days, email)
    console = ConsoleBrowser(chromium, office.harness.web_server.url)
    console.log_in(PASSWORD, "ada")

    console.click("main a:has-text('Connect a tool')")
    console.click("main a:has-text('Calendly')")
    enter(console, office, "a token that is mistyped")
    console.click("main button.main")
    assert "Calendly rejects the credentials (401)" in console.page.inner_text("[role=alert]")
    assert "" == console.page.input_value("#credential-TOKEN")
    enter(console, office, "token-of-the-account")
    console.click("main button.main")

    console.page.wait_for_selector("text=Waiting for the first webhook")
    assert "Ada's Salon" in console.page.inner_text("main")
    assert [] == console.violations()
    console.page.wait_for_selector("text=2 appointments listed, 2 of them new or changed")
    office.book(7, "new@example.com")
    console.page.wait_for_selector("text=and its signature is valid")
    assert "Calendly is connected, and works" == console.heading
    assert 4 == console.clicks
    wait_until(lambda: 3 == len(office.harness.visits()))  # none of the past

    console.click("text=Show the hook")
    console.page.fill("#confirm-disconnect", "calendly")
    console.click("button:has-text('Disconnect')")
    assert "calendly is disconnected" in console.page.inner_text("main")
    assert [] == office.subscriptions()
    assert ([], []) == (console.errors, console.foreign_requests)
    console.close()


def test_the_past_is_caught_up_without_javascript(office: Office, chromium: Any) -> None:
    console = ConsoleBrowser(chromium, office.harness.web_server.url, java_script_enabled=False, viewport=NARROW)
    console.log_in(PASSWORD, "ada")
    console.open("/console/connect/calendly")
    console.page.fill("#credential-TOKEN", "token-of-the-account")
    console.page.click("summary:has-text('More')")
    console.page.fill("#api-url", office.api_url)
    console.page.click("main button.main")
    console.page.wait_for_selector("h1:has-text('Calendly is connected')")
    assert "Check again</a>" in console.page.content()

    console.open("/console/hooks/calendly/catch-up")
    console.page.fill("#since", f"{datetime.now(UTC) - timedelta(days=40):%Y-%m-%d}")
    console.page.click("text=Count first")
    console.page.wait_for_selector("text=1 past visit would be created or changed")
    assert 0 == console.horizontal_overflow()
    console.page.fill("#confirm", "1")
    console.page.click("button:has-text('Store the changes')")
    console.page.wait_for_selector("text=The last time")

    wait_until(lambda: 4 == len(office.harness.visits()))
    console.close()
